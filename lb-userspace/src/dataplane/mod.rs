//! The seam between the agent and the kernel.
//!
//! [`Dataplane`] is what the reconciler writes to. `aya` is the real one; `fake` keeps everything in memory and `faulty` fails on
//! demand, so that every path of the reconciler runs in ordinary tests. The trait is about single map entries on purpose: order
//! and idempotence are the reconciler's business, and its tests must see them.

pub mod aya;
pub mod fake;
pub mod faulty;
mod listener;
pub mod pins;

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    backend::NextHop,
    connection::{Direction, Seen},
    counters::Traffic,
    interface::Interface,
    role::Roles,
    service::Service,
    settings::Settings,
};

pub use self::listener::ListenerEntry;
use crate::model::Protocol;

/// An IP family. Maps that hold addresses exist once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Number of a service in the maps, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct ServiceId(pub u32);

/// Number of a backend in the maps, from 1. One server in two services is two backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct BackendId(pub u32);

/// One backend as the maps have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// The service it belongs to.
    pub service: ServiceId,
    /// Where it listens; port 0: the port that the client dialled.
    pub address: SocketAddr,
    /// In the configuration and not declared down, or used though it is; see [`lb_common::backend::Backend::ALIVE`].
    pub alive: bool,
    /// Way to the server. Its packet size may be known before the rest of it is.
    pub next_hop: NextHop,
    /// This host's own address on the way to the server; unspecified (`0.0.0.0`) while unknown.
    pub source: IpAddr,
    /// Prefix length of the network that this host shares with the server; 0 when it is behind a router, or not known.
    pub on_link: u8,
}

/// One tracked connection direction as the maps have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEntry {
    /// The tuple it matches.
    pub key: Tuple,
    /// The tuple of the entry for the opposite direction; of [`Direction::Direct`], which has none, its own reversed.
    pub twin: Tuple,
    /// Which direction this entry is for.
    pub direction: Direction,
    /// What this direction has sent.
    pub seen: Seen,
    /// When it last saw a packet, in nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub last_seen: u64,
    /// The service.
    pub service: ServiceId,
    /// The backend.
    pub backend: BackendId,
}

/// Both ends of a flow, as a packet has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Protocol.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
}

/// A map operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {source}")]
pub struct DataplaneError {
    /// What was attempted, with its subject: `set slots of service 3`.
    pub operation: String,
    /// What the kernel said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Result of a map operation.
pub type Result<T> = std::result::Result<T, DataplaneError>;

/// Reading and writing the maps, one entry at a time. Removing what is not there is success.
pub trait Dataplane: Send {
    /// Every listener entry and its service.
    fn listeners(&self) -> Result<Vec<(ListenerEntry, ServiceId)>>;
    /// Points the packets of a listener entry at a service.
    fn set_listener(&mut self, listener: ListenerEntry, service: ServiceId) -> Result<()>;
    /// Removes a listener entry: its packets are those of a larger block around it, else the kernel's.
    fn remove_listener(&mut self, listener: ListenerEntry) -> Result<()>;

    /// Every service that has a record.
    fn services(&self) -> Result<Vec<(ServiceId, Service)>>;
    /// Writes the record of a service.
    fn set_service(&mut self, id: ServiceId, service: Service) -> Result<()>;
    /// Clears record and slots of a service.
    fn remove_service(&mut self, id: ServiceId) -> Result<()>;

    /// The slots of a service, empty when it has none.
    fn slots(&self, id: ServiceId) -> Result<Vec<BackendId>>;
    /// Replaces all slots of a service in one step: a packet sees the old ones or the new ones.
    fn set_slots(&mut self, id: ServiceId, slots: &[BackendId]) -> Result<()>;

    /// Every backend.
    fn backends(&self) -> Result<Vec<(BackendId, BackendEntry)>>;
    /// Writes one backend.
    fn set_backend(&mut self, id: BackendId, backend: &BackendEntry) -> Result<()>;
    /// Clears one backend.
    fn remove_backend(&mut self, id: BackendId) -> Result<()>;

    /// The `snat` pool of a family, in its order.
    fn snat_addresses(&self, family: Family) -> Result<Vec<IpAddr>>;
    /// Replaces the `snat` pool of a family; addresses of the other are an error. How many of them are used is in the settings.
    fn set_snat_addresses(&mut self, family: Family, addresses: &[IpAddr]) -> Result<()>;

    /// Every address with a role.
    fn roles(&self) -> Result<Vec<(IpAddr, Roles)>>;
    /// Writes the roles of an address.
    fn set_roles(&mut self, address: IpAddr, roles: Roles) -> Result<()>;
    /// Takes all roles from an address.
    fn remove_roles(&mut self, address: IpAddr) -> Result<()>;

    /// Every interface that the program knows, by its index.
    fn interfaces(&self) -> Result<Vec<(u32, Interface)>>;
    /// Tells the program of an interface.
    fn set_interface(&mut self, ifindex: u32, interface: Interface) -> Result<()>;
    /// Removes an interface.
    fn remove_interface(&mut self, ifindex: u32) -> Result<()>;

    /// What the whole program obeys; `None` before the first write.
    fn settings(&self) -> Result<Option<Settings>>;
    /// Writes the settings.
    fn set_settings(&mut self, settings: Settings) -> Result<()>;

    /// Calls `visit` for every connection entry. Entries that come or go meanwhile may or may not be visited.
    fn for_each_connection(&self, visit: &mut dyn FnMut(ConnectionEntry)) -> Result<()>;
    /// One connection entry; `None` when there is none with this key.
    fn connection(&self, key: &Tuple) -> Result<Option<ConnectionEntry>>;
    /// Removes one connection entry.
    fn remove_connection(&mut self, key: &Tuple) -> Result<()>;
    /// Corrects the program's count of half-open connections.
    fn set_half_open(&mut self, count: u32) -> Result<()>;

    /// Packets per outcome, summed over CPUs, indexed as in [`lb_common::verdict::outcomes`].
    fn verdicts(&self) -> Result<Vec<u64>>;
    /// Traffic of a service, summed over CPUs.
    fn service_traffic(&self, id: ServiceId) -> Result<Traffic>;
    /// Traffic of a backend, summed over CPUs.
    fn backend_traffic(&self, id: BackendId) -> Result<Traffic>;
}
