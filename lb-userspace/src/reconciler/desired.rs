//! What the maps should say.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{
    LAYOUT_VERSION,
    service::Service as Record,
    settings::{PortRange, Settings},
};

use crate::{
    health::threshold::Status,
    model::{Listener, Scheduler, Service, store::State},
    netlink::{Resolved, Ways},
};

/// Everything that the maps should say, but for the ids.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The services, in the order of the configuration.
    pub services: Vec<DesiredService>,
    /// The way to each address that was looked up. The maps keep what they have for an address that is missing here.
    pub ways: HashMap<IpAddr, Resolved>,
    /// The pool for `full_nat`.
    pub snat_addresses: Vec<IpAddr>,
    /// What the whole program obeys.
    pub settings: Settings,
}

/// One service.
#[derive(Clone, Debug)]
pub struct DesiredService {
    /// Its name, for messages and reports.
    pub name: Arc<str>,
    /// What clients dial.
    pub listeners: Vec<Listener>,
    /// How the agent fills its slots.
    pub scheduler: Scheduler,
    /// What the program must know of it.
    pub record: Record,
    /// Its backends; addresses are unique.
    pub backends: Vec<DesiredBackend>,
}

/// One backend of a service.
#[derive(Clone, Copy, Debug)]
pub struct DesiredBackend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of new connections.
    pub weight: u32,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it may keep those that could still go elsewhere: it is not known to be down, or nowhere else is better, since all
    /// are down and used anyway.
    pub alive: bool,
}

impl Desired {
    /// What follows from configuration and health (`state`), and from the ways that are known.
    ///
    /// `host_ports` are the ports that `full_nat` must leave to this host's own sockets.
    pub fn new(state: &State, ways: &Ways, host_ports: PortRange) -> Self {
        let model = state.model();
        let addresses = model.snat.addresses.clone();
        Self {
            services: model
                .services
                .iter()
                .map(|service| DesiredService::new(state, service))
                .collect(),
            ways: ways.iter().map(|(ip, way)| (*ip, way.resolved)).collect(),
            settings: Settings {
                layout: LAYOUT_VERSION,
                hash_seed: 0,
                half_open_max: model.connections.half_open_max,
                snat_addresses: u32::try_from(addresses.len()).unwrap_or(u32::MAX),
                snat_ports: PortRange {
                    first: *model.snat.ports.start(),
                    last: *model.snat.ports.end(),
                },
                host_ports,
            },
            snat_addresses: addresses,
        }
    }
}

impl DesiredService {
    fn new(state: &State, service: &Service) -> Self {
        let backends = service.backends.iter().zip(state.ready(service));
        let forced = state.is_forced(service);
        Self {
            name: Arc::clone(&service.name),
            listeners: service.listeners.clone(),
            scheduler: service.scheduler,
            record: Record::new(service.scheduler, service.forwarding),
            backends: backends
                .map(|(backend, ready)| DesiredBackend {
                    address: backend.address,
                    weight: u32::from(backend.weight),
                    ready,
                    alive: forced || state.status(service, backend) != Status::Down,
                })
                .collect(),
        }
    }
}
