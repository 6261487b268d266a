//! What the maps should say.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{
    LAYOUT_VERSION,
    service::{Forwarding, Service as Record},
    settings::{PortRange, Settings},
};

use crate::{
    dataplane::{Family, ListenerEntry},
    health::threshold::Status,
    model::{Echo, Scheduler, Service, store::State},
    netlink::{Host, Network, Resolved},
};

/// Everything that the maps should say, but for the ids.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The services, in the order of the configuration.
    pub services: Vec<DesiredService>,
    /// The way to each address that was looked up. The maps keep what they have for an address that is missing here.
    pub ways: HashMap<IpAddr, Resolved>,
    /// Interfaces and addresses of this host; the maps keep what they have while it is not known.
    pub host: Option<Host>,
    /// The pool for translated sources, of each family.
    pub snat_addresses: BTreeMap<Family, Vec<IpAddr>>,
    /// What the whole program obeys.
    pub settings: Settings,
}

/// One service.
#[derive(Clone, Debug)]
pub struct DesiredService {
    /// Its name, for messages and reports.
    pub name: Arc<str>,
    /// What clients dial.
    pub listeners: Vec<ListenerEntry>,
    /// How packets reach its backends.
    pub forwarding: Forwarding,
    /// Who answers echo requests to its VIPs.
    pub echo: Echo,
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
    /// What follows from configuration and health (`state`), and from what is known of the network.
    ///
    /// `host_ports` are the ports that translated sources must leave to this host's own sockets.
    pub fn new(state: &State, network: &Network, host_ports: PortRange) -> Self {
        let model = state.model();
        let services: Vec<DesiredService> = model
            .services
            .iter()
            .map(|service| DesiredService::new(state, service))
            .collect();
        let pool = |family| {
            let addresses = model.snat.addresses.iter().copied();
            addresses.filter(|address| Family::of(*address) == family).collect()
        };
        let snat_addresses: BTreeMap<Family, Vec<IpAddr>> =
            Family::ALL.map(|family| (family, pool(family))).into_iter().collect();
        let port_prefixes = services
            .iter()
            .flat_map(|service| &service.listeners)
            .filter(|entry| entry.is_range())
            .count();
        Self {
            ways: network.ways.iter().map(|(ip, way)| (*ip, way.resolved)).collect(),
            host: network.host.clone(),
            settings: Settings {
                layout: LAYOUT_VERSION,
                hash_seed: 0,
                half_open_max: model.connections.half_open_max,
                snat_addresses_v4: count(snat_addresses[&Family::V4].len()),
                snat_addresses_v6: count(snat_addresses[&Family::V6].len()),
                port_prefixes: count(port_prefixes),
                snat_ports: PortRange {
                    first: *model.snat.ports.start(),
                    last: *model.snat.ports.end(),
                },
                host_ports,
            },
            snat_addresses,
            services,
        }
    }
}

/// A number of entries as the settings have it; more than that fit nowhere.
fn count(entries: usize) -> u32 {
    u32::try_from(entries).unwrap_or(u32::MAX)
}

impl DesiredService {
    /// Whether its backends must be reached without a router, because packets keep the VIP as their destination.
    pub(super) fn is_direct(&self) -> bool {
        self.forwarding == Forwarding::Dsr
    }

    fn new(state: &State, service: &Service) -> Self {
        let backends = service.backends.iter().zip(state.ready(service));
        let forced = state.is_forced(service);
        Self {
            name: Arc::clone(&service.name),
            listeners: service.listeners.iter().flat_map(ListenerEntry::of).collect(),
            forwarding: service.forwarding,
            echo: service.echo,
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
