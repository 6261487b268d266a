//! What the agent knows: the configuration in force and the health of every backend that is checked.
//!
//! Everything that learns something writes it here, everything that acts waits for a change here; no two of them know each other.

#![forbid(unsafe_code)]

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::SystemTime};

use tokio::sync::watch;

use super::{Backend, HealthCheck, Model, Service, WhenAllDown};
use crate::health::threshold::{Status, Tally};

/// Health of one backend of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Status and results in a row.
    pub tally: Tally,
    /// When the status was reached.
    pub since: SystemTime,
    /// Why the latest failed probe failed; `None` while none did.
    pub last_failure: Option<Arc<str>>,
}

impl Health {
    fn starting_as(tally: Tally) -> Self {
        Self {
            tally,
            since: SystemTime::now(),
            last_failure: None,
        }
    }
}

/// A status that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The new status.
    pub to: Status,
    /// Set when this left the service without any backend that takes connections: what happens to new ones now.
    pub all_down: Option<WhenAllDown>,
}

/// Configuration and health at one moment.
#[derive(Clone, Debug)]
pub struct State {
    model: Arc<Model>,
    health: HashMap<Arc<str>, HashMap<SocketAddr, Health>>,
}

impl State {
    /// The configuration in force.
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Health of a backend; `None` when it is not checked, or not known.
    pub fn health(&self, service: &str, backend: SocketAddr) -> Option<&Health> {
        self.health.get(service)?.get(&backend)
    }

    /// Status of a backend; one that is not checked is up.
    pub fn status(&self, service: &Service, backend: &Backend) -> Status {
        self.health(&service.name, backend.address)
            .map_or(Status::Up, |health| health.tally.status())
    }

    /// Whether every backend with a weight is down, so that [`WhenAllDown`] decides. One that is pending may still come up.
    pub fn all_down(&self, service: &Service) -> bool {
        let mut statuses = service
            .backends
            .iter()
            .filter(|backend| backend.weight > 0)
            .map(|backend| self.status(service, backend))
            .peekable();
        statuses.peek().is_some() && statuses.all(|status| status == Status::Down)
    }

    /// Whether a service goes on with all its backends because all of them are down.
    pub fn is_forced(&self, service: &Service) -> bool {
        service.when_all_down == WhenAllDown::ForwardToAll && self.all_down(service)
    }

    /// For each backend of a service, in its order: whether it takes new connections.
    pub fn ready(&self, service: &Service) -> Vec<bool> {
        let forced = self.is_forced(service);
        service
            .backends
            .iter()
            .map(|backend| backend.weight > 0 && (forced || self.status(service, backend) == Status::Up))
            .collect()
    }

    /// The state with `model` in force, after `before`.
    fn next(model: Arc<Model>, before: Option<&Self>) -> Self {
        let health = model
            .services
            .iter()
            .filter(|service| service.health_check.is_some())
            .map(|service| (Arc::clone(&service.name), initial_health(service, before)))
            .collect();
        Self { model, health }
    }

    /// The service of the current model that `next` continues: the one of the same name, else one that it shares a listener with,
    /// since a rename is no reason to interrupt traffic.
    fn predecessor(&self, next: &Service) -> Option<&Service> {
        let services = &self.model.services;
        let shares_listener = |service: &&Service| {
            service
                .listeners
                .iter()
                .any(|listener| next.listeners.contains(listener))
        };
        services
            .iter()
            .find(|service| service.name == next.name)
            .or_else(|| services.iter().find(shares_listener))
    }

    fn record(
        &mut self,
        service: &str,
        backend: SocketAddr,
        check: &HealthCheck,
        outcome: Result<(), String>,
    ) -> Option<Transition> {
        let health = self.health.get_mut(service)?.get_mut(&backend)?;
        let passed = outcome.is_ok();
        if let Err(reason) = outcome {
            health.last_failure = Some(reason.into());
        }
        let to = health.tally.record(passed, check.rise, check.fall)?;
        health.since = SystemTime::now();
        let service = self.model.services.iter().find(|known| *known.name == *service)?;
        let all_down = (to == Status::Down && self.all_down(service)).then_some(service.when_all_down);
        Some(Transition { to, all_down })
    }
}

/// Health of the backends of a service that comes into force: as it was for those that stay, pending for new ones.
fn initial_health(service: &Service, before: Option<&State>) -> HashMap<SocketAddr, Health> {
    let old = before.and_then(|before| Some((before, before.predecessor(service)?)));
    let health = |backend: &Backend| {
        let address = backend.address;
        match old {
            Some((before, old)) if old.backends.iter().any(|old| old.address == address) => before
                .health(&old.name, address)
                .cloned()
                // Without a check so far, it takes connections: the first check must not interrupt them.
                .unwrap_or_else(|| Health::starting_as(Tally::starting_as(Status::Up))),
            _ => Health::starting_as(Tally::default()),
        }
    };
    service
        .backends
        .iter()
        .map(|backend| (backend.address, health(backend)))
        .collect()
}

/// Holds the [`State`] and tells who waits for it.
#[derive(Debug)]
pub struct Store {
    state: watch::Sender<State>,
}

impl Store {
    /// A store with this configuration; every backend that is checked is pending.
    pub fn new(model: Arc<Model>) -> Self {
        Self {
            state: watch::Sender::new(State::next(model, None)),
        }
    }

    /// The state now. It can't change while the result is held: read and let go, never hold it over an `await`.
    pub fn state(&self) -> watch::Ref<'_, State> {
        self.state.borrow()
    }

    /// Notified when configuration or a status changes; not by results that change no status.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Puts another configuration in force. Health of the backends that stay is kept, with its counts.
    pub fn replace_model(&self, model: Arc<Model>) {
        self.state.send_modify(|state| *state = State::next(model, Some(state)));
    }

    /// Puts back what was in force before, with the health of that time.
    pub fn restore(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Lets a backend that has no result yet start with the health that the data plane shows (see
    /// [`adoptable`](crate::reconciler::adoptable)): the agent's restart is no reason to interrupt traffic.
    pub fn adopt(&self, service: &str, backend: SocketAddr, status: Status) {
        self.state.send_if_modified(|state| {
            let health = state
                .health
                .get_mut(service)
                .and_then(|health| health.get_mut(&backend));
            match health {
                Some(health) if health.tally == Tally::default() => {
                    *health = Health::starting_as(Tally::starting_as(status));
                    true
                }
                _ => false,
            }
        });
    }

    /// Counts the result of a probe by the thresholds of `check`; the transition if the status changed. A result for a backend that
    /// is no longer checked is ignored.
    pub fn record(
        &self,
        service: &str,
        backend: SocketAddr,
        check: &HealthCheck,
        outcome: Result<(), String>,
    ) -> Option<Transition> {
        let mut transition = None;
        self.state.send_if_modified(|state| {
            transition = state.record(service, backend, check, outcome);
            transition.is_some()
        });
        transition
    }
}

#[cfg(test)]
mod tests;
