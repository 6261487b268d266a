//! The agent's state for the control socket.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use lb_common::{
    service::{Forwarding, Scheduler},
    verdict::{self, Event},
};
use tracing::error;

use super::{Observed, Shared, lock, warnings};
use crate::{
    api::{
        server::{Socket, Source},
        status::{Agent, Backend, Connections, Service, Status, Verdict},
    },
    dataplane::{BackendId, Dataplane as _, DataplaneError, aya::AyaDataplane},
    describe::backend_address,
    expiry::Live,
    health::threshold,
    model::{self, store::State},
    netlink::{Way, Ways},
    reconciler::ServiceIds,
};

/// Serves the control socket until the agent stops.
pub(super) async fn serve(socket: Socket, shared: Arc<Shared>) {
    if let Err(error) = socket.serve(shared).await {
        error!(%error, "the control socket is closed; commands can't reach this agent any more");
    }
}

impl Source for Shared {
    fn status(&self) -> Result<Status, String> {
        status(self).map_err(|error| error.to_string())
    }
}

fn status(shared: &Shared) -> Result<Status, DataplaneError> {
    let state = shared.store.state().clone();
    let ways = shared.network.borrow().ways.clone();
    let dataplane = lock(&shared.dataplane);
    let observed = lock(&shared.observed);
    let services = state.model().services.iter();
    Ok(Status {
        agent: agent(shared, &observed),
        interfaces: observed.interfaces.clone(),
        connections: connections(&observed, state.model()),
        services: services
            .map(|known| service(known, &state, &ways, &observed, &dataplane))
            .collect::<Result<_, _>>()?,
        verdicts: verdicts(&dataplane)?,
    })
}

fn agent(shared: &Shared, observed: &Observed) -> Agent {
    Agent {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: shared.started.elapsed().as_secs(),
        config: shared.config.display().to_string(),
        adopted: shared.adopted,
        last_reload: observed.last_reload.clone(),
        problem: observed.problem.clone(),
        warnings: observed.exhaustion.text().map(str::to_owned).into_iter().collect(),
    }
}

fn connections(observed: &Observed, model: &model::Model) -> Connections {
    let sum = |count: fn(&Live) -> u64| observed.sweep.live.values().map(count).sum();
    Connections {
        established: sum(|live| live.established),
        half_open: sum(|live| live.half_open),
        closing: sum(|live| live.closing),
        max: model.connections.max,
        half_open_max: model.connections.half_open_max,
    }
}

fn service(
    service: &model::Service,
    state: &State,
    ways: &Ways,
    observed: &Observed,
    dataplane: &AyaDataplane,
) -> Result<Service, DataplaneError> {
    let ids = observed.report.services.iter().find(|ids| ids.name == service.name);
    // What is in force, which may be a moment behind what is known.
    let slots: HashSet<BackendId> = match ids {
        Some(ids) => dataplane.slots(ids.id)?.into_iter().collect(),
        None => HashSet::new(),
    };
    let backends = service
        .backends
        .iter()
        .map(|known| {
            let id = ids.and_then(|ids| backend_id(ids, known.address));
            let takes_connections = id.is_some_and(|id| slots.contains(&id));
            backend(known, service, state, ways, observed, dataplane, id, takes_connections)
        })
        .collect::<Result<Vec<_>, DataplaneError>>()?;
    let traffic = match ids {
        Some(ids) => dataplane.service_traffic(ids.id)?.into(),
        None => crate::api::status::Traffic::default(),
    };
    Ok(Service {
        name: service.name.to_string(),
        listeners: service.listeners.iter().map(ToString::to_string).collect(),
        forwarding: match service.forwarding {
            Forwarding::Nat => "nat",
            Forwarding::FullNat => "full_nat",
            Forwarding::Dsr => "dsr",
        }
        .to_owned(),
        scheduler: match service.scheduler {
            Scheduler::RoundRobin => "round_robin",
            Scheduler::Random => "random",
            Scheduler::SourceHash => "source_hash",
            Scheduler::Maglev => "maglev",
        }
        .to_owned(),
        connections: backends.iter().map(|backend| backend.connections).sum(),
        traffic,
        backends,
    })
}

fn backend_id(ids: &ServiceIds, address: SocketAddr) -> Option<BackendId> {
    ids.backends
        .iter()
        .find(|(known, _)| *known == address)
        .map(|(_, id)| *id)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the sources of one row, gathered by the only caller"
)]
fn backend(
    backend: &model::Backend,
    service: &model::Service,
    state: &State,
    ways: &Ways,
    observed: &Observed,
    dataplane: &AyaDataplane,
    id: Option<BackendId>,
    takes_connections: bool,
) -> Result<Backend, DataplaneError> {
    let health = state.health(&service.name, backend.address);
    let live = observed
        .sweep
        .live
        .iter()
        .filter(|((_, live), _)| Some(*live) == id)
        .map(|(_, live)| live);
    Ok(Backend {
        address: backend_address(backend.address),
        weight: backend.weight,
        state: if backend.weight == 0 { "drain" } else { "enabled" }.to_owned(),
        health: match health.map(|health| health.tally.status()) {
            None => "unchecked",
            Some(threshold::Status::Pending) => "pending",
            Some(threshold::Status::Up) => "up",
            Some(threshold::Status::Down) => "down",
        }
        .to_owned(),
        health_since: health.map(|health| seconds(health.since)),
        last_failure: health.and_then(|health| health.last_failure.as_deref().map(str::to_owned)),
        unreachable: ways
            .get(&backend.address.ip())
            .and_then(|way| unreachable(service, way)),
        takes_connections,
        connections: live.map(|live| live.half_open + live.established).sum(),
        traffic: match id {
            Some(id) => dataplane.backend_traffic(id)?.into(),
            None => crate::api::status::Traffic::default(),
        },
    })
}

/// Why packets can't reach a backend of this service, if so.
fn unreachable(service: &model::Service, way: &Way) -> Option<String> {
    match &way.problem {
        None if warnings::is_behind_a_router(service, &way.resolved) => Some(warnings::BEHIND_A_ROUTER.to_owned()),
        problem => problem.as_ref().map(ToString::to_string),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Packets by outcome, and events; those that never happened are left out.
fn verdicts(dataplane: &AyaDataplane) -> Result<Vec<Verdict>, DataplaneError> {
    let counts = dataplane.verdicts()?;
    let outcomes = verdict::outcomes()
        .map(|outcome| (outcome.index, outcome.verdict, outcome.reason, outcome.description))
        .chain(
            Event::ALL
                .iter()
                .map(|event| (*event as u32, "event", event.label(), event.description())),
        );
    Ok(outcomes
        .filter_map(|(index, verdict, reason, description)| {
            let packets = *counts.get(usize::try_from(index).ok()?)?;
            (packets > 0).then(|| Verdict {
                verdict: verdict.to_owned(),
                reason: reason.to_owned(),
                description: description.trim().to_owned(),
                packets,
            })
        })
        .collect())
}
