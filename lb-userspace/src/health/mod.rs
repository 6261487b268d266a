//! Health checks: probes the backends and tells the store what came of it.
//!
//! One task probes one backend of one service. Starts are spread and intervals jittered, so that neither the probes of one agent
//! nor those of several agree on a moment.

#![forbid(unsafe_code)]

pub mod http;
pub mod tcp;
pub mod threshold;

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tracing::{error, info, warn};

use self::threshold::Status;
use crate::{
    describe::backend_address,
    model::{
        HealthCheck, Model, Probe, WhenAllDown,
        store::{Store, Transition},
    },
};

/// Probes under way at the same time, over all services: each one holds a socket.
const MAX_PROBES: usize = 256;

/// The first probe comes at most this long after the start, also with a long interval: a new backend waits for it.
const FIRST_PROBE_WITHIN: Duration = Duration::from_secs(1);

/// Bound on intervals, so that no configured value overflows the clock.
const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);

/// An interval is longer or shorter by this share, at random.
const JITTER: f64 = 0.1;

/// Why a probe failed, in words that an operator can act upon.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The connection could not be made, or broke.
    #[error("{}", describe(.0))]
    Io(#[from] io::Error),
    /// No result in time.
    #[error("timed out after {0:?}")]
    Timeout(Duration),
    /// Something answered, but not as a web server does.
    #[error("no valid HTTP response: {0}")]
    Http(String),
    /// A status outside the expected range.
    #[error("status {status}, expected {}..={}", expected.start(), expected.end())]
    Status {
        /// The status received.
        status: u16,
        /// The statuses that count as success.
        expected: RangeInclusive<u16>,
    },
}

/// `connection refused` instead of `Connection refused (os error 111)`, where the kind says it all.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        kind @ (io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::TimedOut) => kind.to_string(),
        _ => error.to_string(),
    }
}

/// Probes what the store's configuration says, and follows it. Runs until it is dropped, and all probes with it.
pub async fn run(store: Arc<Store>) {
    let mut changes = store.subscribe();
    let mut checks = Checks::new(Arc::clone(&store));
    let mut current: Option<Arc<Model>> = None;
    loop {
        let model = Arc::clone(changes.borrow_and_update().model());
        // Most changes are of health.
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &model)) {
            checks.follow(&model);
            current = Some(model);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The checks under way, by service and backend.
struct Checks {
    store: Arc<Store>,
    permits: Arc<Semaphore>,
    running: HashMap<(Arc<str>, SocketAddr), Running>,
}

/// A check under way, ended when this is dropped.
struct Running {
    check: HealthCheck,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            permits: Arc::new(Semaphore::new(MAX_PROBES)),
            running: HashMap::new(),
        }
    }

    /// Starts what is new or changed, ends what is gone, leaves the rest alone; returns how many were started.
    fn follow(&mut self, model: &Model) -> usize {
        let mut started = 0;
        let mut wanted = HashSet::new();
        for service in &model.services {
            let Some(check) = &service.health_check else { continue };
            for backend in &service.backends {
                let key = (Arc::clone(&service.name), backend.address);
                wanted.insert(key.clone());
                if self.running.get(&key).is_some_and(|running| running.check == *check) {
                    continue;
                }
                let task = Task {
                    service: Arc::clone(&service.name),
                    backend: backend.address,
                    check: check.clone(),
                    store: Arc::clone(&self.store),
                    permits: Arc::clone(&self.permits),
                };
                let running = Running {
                    check: check.clone(),
                    task: tokio::spawn(task.run()),
                };
                self.running.insert(key, running);
                started += 1;
            }
        }
        self.running.retain(|key, _| wanted.contains(key));
        started
    }
}

/// The check of one backend.
struct Task {
    service: Arc<str>,
    backend: SocketAddr,
    check: HealthCheck,
    store: Arc<Store>,
    permits: Arc<Semaphore>,
}

impl Task {
    async fn run(self) {
        let interval = self.check.interval.min(LONGEST_INTERVAL);
        let mut next = Instant::now() + interval.min(FIRST_PROBE_WITHIN).mul_f64(rand::random());
        loop {
            sleep_until(next).await;
            let Ok(permit) = self.permits.acquire().await else {
                return;
            };
            let started = Instant::now();
            let outcome = probe(self.backend, &self.check).await;
            drop(permit);
            self.record(outcome);
            // From start to start. A probe that took longer than the interval is followed by the next one at once.
            next = started + interval.mul_f64(rand::random_range(1.0 - JITTER..=1.0 + JITTER));
        }
    }

    fn record(&self, outcome: Result<(), ProbeError>) {
        let outcome = outcome.map_err(|error| error.to_string());
        let reason = outcome.as_ref().err().cloned();
        let transition = self.store.record(&self.service, self.backend, &self.check, outcome);
        if let Some(transition) = transition {
            self.log(transition, &reason.unwrap_or_default());
        }
    }

    fn log(&self, transition: Transition, reason: &str) {
        let service = &*self.service;
        let backend = backend_address(self.backend);
        match transition.to {
            Status::Up => info!(service, backend, "backend is up"),
            Status::Down => warn!(service, backend, reason, "backend is down"),
            Status::Pending => {}
        }
        match transition.all_down {
            Some(WhenAllDown::ForwardToAll) => {
                error!(service, "all backends are down, new connections go to all of them");
            }
            Some(WhenAllDown::Drop) => error!(service, "all backends are down, new connections are dropped"),
            None => {}
        }
    }
}

/// Probes a backend once.
///
/// # Errors
/// When the probe fails, or has no result within the timeout of `check`.
pub async fn probe(backend: SocketAddr, check: &HealthCheck) -> Result<(), ProbeError> {
    let target = SocketAddr::new(backend.ip(), check.port.unwrap_or_else(|| backend.port()));
    let result = match &check.probe {
        Probe::Tcp => timeout(check.timeout, tcp::probe(target)).await,
        Probe::Http { path, expect } => timeout(check.timeout, http::probe(target, path, expect)).await,
    };
    result.unwrap_or(Err(ProbeError::Timeout(check.timeout)))
}

#[cfg(test)]
mod tests;
