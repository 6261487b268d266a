//! The agent: puts the parts together, starts them in order, and obeys signals.
//!
//! Order of a start: everything that can be refused is refused before anything is attached; maps are filled before the first packet
//! meets the program. A start that fails leaves what it found: a data plane that was forwarding goes on doing so.

#![forbid(unsafe_code)]

mod attachments;
mod control;
mod host;
mod report;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, warn};

use crate::{
    api::{
        server::Socket,
        status::{Interface, Reload},
    },
    config::{self, ConfigError, Loaded},
    dataplane::{
        aya::{AyaDataplane, Options, remove_all},
        pins::Pins,
    },
    describe::describe,
    expiry::Sweep,
    health,
    model::{Model, store::Store},
    netlink::{self, Ways},
    reconciler::{self, Report},
};

/// What the parts of a running agent share.
struct Shared {
    config: PathBuf,
    started: Instant,
    adopted: bool,
    store: Arc<Store>,
    /// The addresses whose ways must be known.
    targets: watch::Sender<BTreeSet<IpAddr>>,
    ways: watch::Receiver<Ways>,
    dataplane: Mutex<AyaDataplane>,
    observed: Mutex<Observed>,
}

/// What the parts last saw, for `xlb status`.
#[derive(Default)]
struct Observed {
    report: Report,
    sweep: Sweep,
    interfaces: Vec<Interface>,
    last_reload: Option<Reload>,
    problem: Option<String>,
}

/// Locks a mutex whose content is valid at every moment, so that a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the agent until a signal ends it.
///
/// # Errors
///
/// Why it can't start.
pub async fn run(config: &Path, pins: &Path) -> Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut interrupts = signal(SignalKind::interrupt())?;

    let shared = start(config, pins).await?;
    let socket = Socket::bind(&shared.store.state().model().socket.clone()).await?;
    let tasks = [
        tokio::spawn(control::keep_reconciled(Arc::clone(&shared))),
        tokio::spawn(control::sweep_regularly(Arc::clone(&shared))),
        tokio::spawn(health::run(Arc::clone(&shared.store))),
        tokio::spawn(report::serve(socket, Arc::clone(&shared))),
    ];
    info!("ready");

    loop {
        tokio::select! {
            _ = hangups.recv() => reload(&shared).await,
            _ = terminations.recv() => break,
            _ = interrupts.recv() => break,
        }
    }
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        // Waiting lets each drop what it holds, the socket's file among it.
        let _cancelled = task.await;
    }
    let interfaces: Vec<String> = lock(&shared.observed)
        .interfaces
        .iter()
        .map(|interface| interface.name.clone())
        .collect();
    info!(
        interfaces = interfaces.join(","),
        "agent stops; the data plane goes on forwarding without it, without health checks. `xlb detach` removes it"
    );
    Ok(())
}

/// Does everything up to the first packet.
async fn start(config: &Path, directory: &Path) -> Result<Arc<Shared>> {
    let Loaded { model, warnings } = config::load(config)?;
    log_warnings(config, &warnings);
    let devices = host::devices(&model).await?;
    Socket::check_free(&model.socket).await?;

    let pins = Pins::create(directory)?;
    let options = Options {
        max_connections: model.connections.max,
        max_half_open: model.connections.half_open_max,
    };
    let dataplane = AyaDataplane::open(pins.clone(), options)?;
    let adopted = dataplane.is_adopted();
    info!(version = env!("CARGO_PKG_VERSION"), pins = %directory.display(), adopted, "data plane loaded");

    let model = Arc::new(model);
    let store = Arc::new(Store::new(Arc::clone(&model)));
    for (service, backend, status) in reconciler::adoptable(&dataplane, &model)? {
        store.adopt(&service, backend, status);
    }
    let targets = watch::Sender::new(host::targets(&model, &Report::default()));
    let ways = watch::Sender::new(Ways::default());
    let shared = Arc::new(Shared {
        config: config.to_owned(),
        started: Instant::now(),
        adopted,
        store,
        targets,
        ways: ways.subscribe(),
        dataplane: Mutex::new(dataplane),
        observed: Mutex::default(),
    });
    follow_ways(&shared, ways);

    let outcome = async {
        control::reconcile(&shared).await?;
        attachments::apply(&shared, &devices)
    };
    if let Err(error) = outcome.await {
        if !adopted {
            // Nothing was forwarding before, so nothing is lost; a half-attached data plane would be worse than none.
            let devices: Vec<_> = devices.iter().map(|(device, _)| device.clone()).collect();
            if let Err(error) = remove_all(pins, &devices) {
                warn!(%error, "cannot remove what this start made; `xlb detach` does");
            }
        }
        return Err(error);
    }
    Ok(shared)
}

/// Keeps the ways to the backends known from here on.
fn follow_ways(shared: &Shared, ways: watch::Sender<Ways>) {
    let targets = shared.targets.subscribe();
    tokio::spawn(async move {
        if let Err(error) = netlink::run(targets, ways).await {
            error!(%error, "routes and neighbours are not followed any more; start the agent anew");
        }
    });
}

/// Reads the file again. A file with an error changes nothing.
async fn reload(shared: &Arc<Shared>) {
    let result = try_reload(shared).await;
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let error = match result {
        Ok(()) => {
            info!(config = %shared.config.display(), "reloaded");
            None
        }
        Err(error) => {
            error!("reload refused, nothing has changed:");
            for line in describe(&error).lines() {
                error!("{line}");
            }
            Some(describe(&error))
        }
    };
    lock(&shared.observed).last_reload = Some(Reload { at, error });
}

async fn try_reload(shared: &Arc<Shared>) -> Result<()> {
    let Loaded { model, warnings } = config::load(&shared.config)?;
    log_warnings(&shared.config, &warnings);
    let devices = host::devices(&model).await?;
    warn_of_fixed(&shared.store.state().model().clone(), &model);
    let model = Arc::new(model);
    shared.store.replace_model(Arc::clone(&model));
    control::reconcile(shared).await?;
    attachments::apply(shared, &devices)
}

/// Says which changes wait for a restart.
fn warn_of_fixed(before: &Model, after: &Model) {
    if before.socket != after.socket {
        warn!("api.socket changes when the agent is started anew");
    }
    if before.connections.max != after.connections.max {
        warn!(
            "connections.max changes with `xlb detach` and a new start: a table with connections in it can't be resized"
        );
    }
}

fn log_warnings(config: &Path, warnings: &[config::Diagnostic]) {
    let file = config.display().to_string();
    for warning in warnings {
        warn!("{}", warning.render(&file));
    }
}

/// Whether an error is about the configuration file, and its text complete in itself.
pub fn is_config_error(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ConfigError>().is_some()
}
