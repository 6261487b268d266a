//! The maps that hold addresses, once for each IP family: one code for both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use lb_common::{
    Address,
    address::{V4, V6},
    backend::{Backend, NextHop},
    byte_order::Be16,
    connection::{Connection, Direction, Seen},
    flow::{FlowKey, protocol},
    maps,
    port_prefix::PortPrefix,
    role::Roles,
    service::ListenerKey,
};

use super::{
    load::LoadError,
    maps::{Written, take},
};
use crate::{
    dataplane::{BackendEntry, BackendId, ConnectionEntry, Family, ListenerEntry, ServiceId, Tuple},
    model::Protocol,
};

/// An address as the maps have it.
pub(super) trait MapAddress: Address + Pod + Default + Into<Self::Ip> + From<Self::Ip> {
    /// An address as the agent has it.
    type Ip: Into<IpAddr>;

    /// The names of the maps of this family.
    const NAMES: Names;

    /// `None` for one of the other family.
    fn of(address: IpAddr) -> Option<Self>;

    /// The agent's form of it.
    fn ip(self) -> IpAddr {
        let ip: Self::Ip = self.into();
        ip.into()
    }
}

/// Names of the maps of one family.
pub(super) struct Names {
    pub(super) listeners: &'static str,
    pub(super) port_ranges: &'static str,
    pub(super) backends: &'static str,
    pub(super) connections: &'static str,
    pub(super) snat: &'static str,
    pub(super) addresses: &'static str,
}

impl MapAddress for V4 {
    type Ip = Ipv4Addr;

    const NAMES: Names = Names {
        listeners: maps::LISTENERS_V4,
        port_ranges: maps::PORT_RANGES_V4,
        backends: maps::BACKENDS_V4,
        connections: maps::CONNECTIONS_V4,
        snat: maps::SNAT_V4,
        addresses: maps::ADDRESSES_V4,
    };

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.into()),
            IpAddr::V6(_) => None,
        }
    }
}

impl MapAddress for V6 {
    type Ip = Ipv6Addr;

    const NAMES: Names = Names {
        listeners: maps::LISTENERS_V6,
        port_ranges: maps::PORT_RANGES_V6,
        backends: maps::BACKENDS_V6,
        connections: maps::CONNECTIONS_V6,
        snat: maps::SNAT_V6,
        addresses: maps::ADDRESSES_V6,
    };

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.into()),
        }
    }
}

/// Handles of the maps of one family.
pub(super) struct FamilyMaps<A: MapAddress>
where
    Backend<A>: Pod,
{
    listeners: HashMap<MapData, ListenerKey<A>, u32>,
    port_ranges: LpmTrie<MapData, PortPrefix<A>, u32>,
    backends: Array<MapData, Backend<A>>,
    connections: HashMap<MapData, FlowKey<A>, Connection<A>>,
    snat: Array<MapData, A>,
    addresses: HashMap<MapData, A, Roles>,
}

impl<A: MapAddress> FamilyMaps<A>
where
    ListenerKey<A>: Pod,
    PortPrefix<A>: Pod,
    Backend<A>: Pod,
    FlowKey<A>: Pod,
    Connection<A>: Pod,
{
    /// Takes the handles out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            listeners: take(ebpf, A::NAMES.listeners)?,
            port_ranges: take(ebpf, A::NAMES.port_ranges)?,
            backends: take(ebpf, A::NAMES.backends)?,
            connections: take(ebpf, A::NAMES.connections)?,
            snat: take(ebpf, A::NAMES.snat)?,
            addresses: take(ebpf, A::NAMES.addresses)?,
        })
    }

    /// Reads back what an earlier agent wrote; `snat_addresses` of the pool are in use.
    pub(super) fn read_written(
        &self,
        family: Family,
        snat_addresses: u32,
        written: &mut Written,
    ) -> Result<(), LoadError> {
        let error = |name| move |source| LoadError::Map { name, source };
        let names = A::NAMES;
        written
            .listeners
            .extend(self.listeners().map_err(error(names.listeners))?);
        written.backends.extend(self.backends().map_err(error(names.backends))?);
        written.roles.extend(self.roles().map_err(error(names.addresses))?);
        let snat = self.snat_addresses(snat_addresses).map_err(error(names.snat))?;
        written.snat.insert(family, snat);
        Ok(())
    }

    /// Every listener entry, of both maps.
    fn listeners(&self) -> Result<Vec<(ListenerEntry, ServiceId)>, MapError> {
        let single = self.listeners.iter().map(|entry| {
            entry.map(|(key, service)| {
                let protocol = protocol_of(key.protocol)?;
                let entry = ListenerEntry::single(key.address.ip(), protocol, key.port.to_native());
                Some((entry, ServiceId(service)))
            })
        });
        let ranges = self
            .port_ranges
            .iter()
            .map(|entry| entry.map(|(key, service)| Some((range_of(&key)?, ServiceId(service)))));
        single.chain(ranges).filter_map(Result::transpose).collect()
    }

    pub(super) fn set_listener(&mut self, address: A, entry: &ListenerEntry, service: u32) -> Result<(), MapError> {
        if entry.is_range() {
            self.port_ranges.insert(&range_key(address, entry), service, 0)
        } else {
            self.listeners.insert(listener_key(address, entry), service, 0)
        }
    }

    pub(super) fn remove_listener(&mut self, address: A, entry: &ListenerEntry) -> Result<(), MapError> {
        absent_is_removed(if entry.is_range() {
            self.port_ranges.remove(&range_key(address, entry))
        } else {
            self.listeners.remove(&listener_key(address, entry))
        })
    }

    /// Every backend.
    fn backends(&self) -> Result<Vec<(BackendId, BackendEntry)>, MapError> {
        let mut backends = Vec::new();
        for id in 1..self.backends.len() {
            let backend = self.backends.get(&id, 0)?;
            if backend.service != 0 {
                backends.push((BackendId(id), entry_of(&backend)));
            }
        }
        Ok(backends)
    }

    pub(super) fn set_backend(&mut self, address: A, id: BackendId, entry: &BackendEntry) -> Result<(), MapError> {
        let backend = Backend {
            address,
            // Of the other family only while it is unknown, and then unspecified.
            source: A::of(entry.source).unwrap_or_default(),
            next_hop: entry.next_hop,
            service: entry.service.0,
            flags: if entry.alive { Backend::<A>::ALIVE } else { 0 },
            port: Be16::new(entry.address.port()),
            on_link: entry.on_link,
            padding: 0,
        };
        self.backends.set(id.0, backend, 0)
    }

    pub(super) fn clear_backend(&mut self, id: BackendId) -> Result<(), MapError> {
        let cleared = Backend {
            address: A::default(),
            source: A::default(),
            next_hop: NextHop::UNKNOWN,
            service: 0,
            flags: 0,
            port: Be16::default(),
            on_link: 0,
            padding: 0,
        };
        self.backends.set(id.0, cleared, 0)
    }

    /// The first `count` addresses of the `snat` pool.
    fn snat_addresses(&self, count: u32) -> Result<Vec<IpAddr>, MapError> {
        let count = count.min(self.snat.len());
        (0..count).map(|index| Ok(self.snat.get(&index, 0)?.ip())).collect()
    }

    pub(super) fn set_snat_address(&mut self, index: u32, address: A) -> Result<(), MapError> {
        self.snat.set(index, address, 0)
    }

    /// Every address with a role.
    fn roles(&self) -> Result<Vec<(IpAddr, Roles)>, MapError> {
        let roles = self.addresses.iter();
        roles
            .map(|entry| entry.map(|(address, roles)| (address.ip(), roles)))
            .collect()
    }

    pub(super) fn set_roles(&mut self, address: A, roles: Roles) -> Result<(), MapError> {
        self.addresses.insert(address, roles, 0)
    }

    pub(super) fn remove_roles(&mut self, address: A) -> Result<(), MapError> {
        absent_is_removed(self.addresses.remove(&address))
    }

    pub(super) fn for_each_connection(&self, visit: &mut dyn FnMut(ConnectionEntry)) -> Result<(), MapError> {
        for entry in &self.connections {
            match entry {
                Ok((key, connection)) => {
                    if let Some(connection) = connection_of(&key, &connection) {
                        visit(connection);
                    }
                }
                // Removed between finding its key and reading it.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One connection entry.
    pub(super) fn connection(&self, key: &FlowKey<A>) -> Result<Option<ConnectionEntry>, MapError> {
        match self.connections.get(key, 0) {
            Ok(connection) => Ok(connection_of(key, &connection)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn remove_connection(&mut self, key: &FlowKey<A>) -> Result<(), MapError> {
        absent_is_removed(self.connections.remove(key))
    }
}

/// The key of a tuple; `None` if one of its addresses is of the other family.
pub(super) fn flow_key<A: MapAddress>(tuple: &Tuple) -> Option<FlowKey<A>> {
    let end = |end: SocketAddr| Some((A::of(end.ip())?, Be16::new(end.port())));
    Some(FlowKey::new(
        end(tuple.source)?,
        end(tuple.destination)?,
        tuple.protocol.number(),
    ))
}

fn tuple_of<A: MapAddress>(key: &FlowKey<A>) -> Option<Tuple> {
    Some(Tuple {
        protocol: protocol_of(key.protocol)?,
        source: socket(key.source, key.source_port),
        destination: socket(key.destination, key.destination_port),
    })
}

/// `None` for an entry that no version of the program writes.
fn connection_of<A: MapAddress>(key: &FlowKey<A>, connection: &Connection<A>) -> Option<ConnectionEntry> {
    Some(ConnectionEntry {
        key: tuple_of(key)?,
        twin: tuple_of(&connection.twin)?,
        direction: Direction::from_number(connection.direction)?,
        seen: Seen(connection.seen),
        last_seen: connection.last_seen,
        service: ServiceId(connection.service),
        backend: BackendId(connection.backend),
    })
}

fn entry_of<A: MapAddress>(backend: &Backend<A>) -> BackendEntry {
    BackendEntry {
        service: ServiceId(backend.service),
        address: socket(backend.address, backend.port),
        alive: backend.flags & Backend::<A>::ALIVE != 0,
        next_hop: backend.next_hop,
        source: backend.source.ip(),
        on_link: backend.on_link,
    }
}

const fn listener_key<A>(address: A, entry: &ListenerEntry) -> ListenerKey<A> {
    ListenerKey::new(address, Be16::new(entry.port), entry.protocol.number())
}

fn range_key<A: MapAddress>(address: A, entry: &ListenerEntry) -> Key<PortPrefix<A>>
where
    PortPrefix<A>: Pod,
{
    let prefix = PortPrefix::new(address, entry.protocol.number(), Be16::new(entry.port));
    Key::new(PortPrefix::<A>::bits(u32::from(entry.bits)), prefix)
}

fn range_of<A: MapAddress>(key: &Key<PortPrefix<A>>) -> Option<ListenerEntry>
where
    PortPrefix<A>: Pod,
{
    let prefix = key.data();
    let bits = key.prefix_len().checked_sub(PortPrefix::<A>::bits(0))?;
    Some(ListenerEntry {
        address: prefix.address.ip(),
        protocol: protocol_of(prefix.protocol())?,
        port: prefix.port.to_native(),
        bits: u8::try_from(bits).ok()?,
    })
}

fn socket<A: MapAddress>(address: A, port: Be16) -> SocketAddr {
    SocketAddr::new(address.ip(), port.to_native())
}

const fn protocol_of(number: u8) -> Option<Protocol> {
    match number {
        protocol::TCP => Some(Protocol::Tcp),
        protocol::UDP => Some(Protocol::Udp),
        _ => None,
    }
}

/// What is not there is as good as removed.
pub(super) fn absent_is_removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
