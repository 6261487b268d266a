//! The agent: puts the parts together, starts them in order, and obeys signals.
//!
//! Order of a start: everything that can be refused is refused before anything is attached; maps are filled before the first packet
//! meets the program. A start that fails leaves what it found: a data plane that was forwarding goes on doing so.

#![forbid(unsafe_code)]

mod attachments;
mod control;
mod fragments;
mod host;
mod report;
mod warnings;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use self::{fragments::Reinjections, warnings::Exhaustion};
use crate::{
    api::{
        server::Socket,
        status::{Interface, Reload},
    },
    config::{self, Loaded},
    dataplane::{
        aya::{AyaDataplane, Device, Options, remove_all},
        pins::{Pins, PinsLock},
    },
    describe::describe,
    expiry::Sweep,
    health,
    model::{Model, XdpMode, store::Store},
    netlink::{self, Network},
    reconciler::{self, Report},
};

/// Pause before routes and neighbours are followed again after netlink failed.
const NETLINK_PAUSE: Duration = Duration::from_secs(1);

/// How long a start waits for what netlink says of this host. It says so at once, if it does at all.
const NETLINK_PATIENCE: Duration = Duration::from_secs(2);

/// What the parts of a running agent share.
struct Shared {
    config: PathBuf,
    started: Instant,
    adopted: bool,
    store: Arc<Store>,
    /// The addresses whose ways must be known.
    targets: watch::Sender<BTreeSet<IpAddr>>,
    network: watch::Receiver<Network>,
    /// Notified when the maps should be reconciled though nothing that is watched has changed.
    released: Notify,
    dataplane: Mutex<AyaDataplane>,
    reinjections: Mutex<Reinjections>,
    observed: Mutex<Observed>,
    /// Two agents on the same maps would undo each other's work.
    _pins_lock: PinsLock,
}

/// What the parts last saw, for `xlb status`.
#[derive(Default)]
struct Observed {
    report: Report,
    sweep: Sweep,
    interfaces: Vec<Interface>,
    /// What was asked for when `interfaces` came to be.
    devices: Vec<(Device, XdpMode)>,
    last_reload: Option<Reload>,
    problem: Option<String>,
    exhaustion: Exhaustion,
    /// Backends of `dsr` services that the log told of as being behind a router.
    behind_routers: BTreeSet<(Arc<str>, SocketAddr)>,
}

/// Locks a mutex whose content is valid at every moment, so that a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the agent until a signal ends it.
///
/// # Errors
///
/// Why it can't start, or can't go on.
pub async fn run(config: &Path, pins: &Path) -> Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut interrupts = signal(SignalKind::interrupt())?;

    let (shared, socket) = start(config, pins).await?;
    let mut parts = JoinSet::new();
    parts.spawn(control::keep_reconciled(Arc::clone(&shared)));
    parts.spawn(control::sweep_regularly(Arc::clone(&shared)));
    parts.spawn(health::run(Arc::clone(&shared.store)));
    parts.spawn(report::serve(socket, Arc::clone(&shared)));
    info!("ready");

    let outcome = loop {
        tokio::select! {
            _ = hangups.recv() => reload(&shared).await,
            _ = terminations.recv() => break Ok(()),
            _ = interrupts.recv() => break Ok(()),
            // None of them ends by itself. Half an agent that seems to run would be worse than none.
            _ = parts.join_next() => break Err(anyhow!("a part of the agent ended, see the log; start it anew")),
        }
    };
    // Waits until each has dropped what it holds, the socket's file among it.
    parts.shutdown().await;
    let interfaces: Vec<String> = lock(&shared.observed)
        .interfaces
        .iter()
        .map(|interface| interface.name.clone())
        .collect();
    info!(
        interfaces = interfaces.join(","),
        "agent stops; the data plane goes on forwarding without it, without health checks. `xlb detach` removes it"
    );
    outcome
}

/// Does everything up to the first packet.
async fn start(config: &Path, directory: &Path) -> Result<(Arc<Shared>, Socket)> {
    let Loaded { model, warnings } = config::load(config)?;
    log_warnings(config, &warnings);
    host::warn_of_shared_ports(&model).await;
    let devices = host::devices(&model).await?;
    let socket = Socket::bind(&model.socket).await?;

    let pins = Pins::create(directory)?;
    let pins_lock = pins.lock()?;
    let options = Options {
        max_connections: model.connections.max,
        max_half_open: model.connections.half_open_max,
    };
    let mut dataplane = match AyaDataplane::open(pins.clone(), options) {
        Ok(dataplane) => dataplane,
        Err(error) => {
            if pins.is_new() {
                remove_what_was_made(pins, &[]);
            }
            return Err(error.into());
        }
    };
    let adopted = dataplane.is_adopted();
    let (held, notes) = dataplane.take_fragments()?;
    info!(version = env!("CARGO_PKG_VERSION"), pins = %directory.display(), adopted, "data plane loaded");

    let model = Arc::new(model);
    let store = Arc::new(Store::new(Arc::clone(&model)));
    for (service, backend, status) in reconciler::adoptable(&dataplane, &model)? {
        store.adopt(&service, backend, status);
    }
    let targets = watch::Sender::new(host::targets(&model, &Report::default()));
    let network = watch::Sender::new(Network::default());
    let shared = Arc::new(Shared {
        config: config.to_owned(),
        started: Instant::now(),
        adopted,
        store,
        targets,
        network: network.subscribe(),
        released: Notify::new(),
        dataplane: Mutex::new(dataplane),
        reinjections: Mutex::default(),
        observed: Mutex::default(),
        _pins_lock: pins_lock,
    });
    tokio::spawn(follow_network(shared.targets.subscribe(), network));
    tokio::spawn(fragments::run(held, notes, Arc::clone(&shared)));
    wait_for_network(&shared).await;

    if let Err(error) = put_in_force(&shared, &devices).await {
        if !adopted {
            // Nothing was forwarding before, so nothing is lost; a half-attached data plane would be worse than none.
            let devices: Vec<_> = devices.iter().map(|(device, _)| device.clone()).collect();
            remove_what_was_made(pins, &devices);
        }
        return Err(error);
    }
    Ok((shared, socket))
}

/// Fills the maps and attaches to the interfaces, at a start.
async fn put_in_force(shared: &Arc<Shared>, devices: &[(Device, XdpMode)]) -> Result<()> {
    if shared.adopted {
        // As with a reload: what can be refused comes before what changes the traffic.
        attachments::extend(shared, devices)?;
        control::reconcile(shared).await?;
    } else {
        control::reconcile(shared).await?;
        attachments::extend(shared, devices)?;
    }
    attachments::prune(shared, devices).await
}

/// Takes back a start that failed.
fn remove_what_was_made(pins: Pins, devices: &[Device]) {
    if let Err(error) = remove_all(pins, devices) {
        warn!(%error, "cannot remove what this start made; `xlb detach` does");
    }
}

/// Waits until interfaces and ways are known, so that the first packet already finds them in the maps. Without, the program does
/// what it can: it asks the routing table.
async fn wait_for_network(shared: &Shared) {
    let mut network = shared.network.clone();
    let known = network.wait_for(|network| network.host.is_some());
    if timeout(NETLINK_PATIENCE, known).await.is_err() {
        warn!("nothing is known of this host's interfaces and routes yet, starting without");
    }
}

/// Keeps the ways to the backends, and this host's interfaces, known from here on.
async fn follow_network(targets: watch::Receiver<BTreeSet<IpAddr>>, network: watch::Sender<Network>) {
    while let Err(error) = netlink::run(targets.clone(), network.clone()).await {
        error!(%error, "routes and neighbours are not followed, trying again");
        sleep(NETLINK_PAUSE).await;
    }
}

/// Reads the file again. A file with an error changes nothing.
async fn reload(shared: &Arc<Shared>) {
    let error = try_reload(shared).await.err().map(|error| describe(&error));
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    // Before the log: who has read there that it is done may ask for the status.
    lock(&shared.observed).last_reload = Some(Reload {
        at,
        error: error.clone(),
    });
    let Some(error) = error else {
        info!(config = %shared.config.display(), "reloaded");
        return;
    };
    error!("reload refused, nothing has changed:");
    for line in error.lines() {
        error!("{line}");
    }
}

/// What can be refused comes first, and is taken back if something later fails.
async fn try_reload(shared: &Arc<Shared>) -> Result<()> {
    let Loaded { model, warnings } = config::load(&shared.config)?;
    log_warnings(&shared.config, &warnings);
    host::warn_of_shared_ports(&model).await;
    let devices = host::devices(&model).await?;
    let former = lock(&shared.observed).devices.clone();
    let before = shared.store.state().clone();
    attachments::extend(shared, &devices)?;
    warn_of_fixed(before.model(), &model);
    shared.store.replace_model(Arc::new(model));
    if let Err(error) = control::reconcile(shared).await {
        shared.store.restore(before);
        control::reconcile(shared)
            .await
            .context("nor can what was before be put in force")?;
        attachments::extend(shared, &former)?;
        attachments::prune(shared, &former).await?;
        return Err(error);
    }
    attachments::prune(shared, &devices).await
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
