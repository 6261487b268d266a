//! [`Dataplane`] on the kernel's maps.
//!
//! Listeners, services, slots and backends are written by the agent alone, so what was written is remembered and reading costs no
//! system call; they are read back from the kernel once, when the maps are opened. Connections and counters belong to the program
//! and are read from the kernel each time.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    path::Path,
};

use aya::{
    Ebpf, Pod,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use lb_common::{
    address::V4,
    backend::Backend,
    byte_order::Be16,
    connection::{Connection, Direction, Seen},
    counters::Traffic,
    flow::{FlowKey, protocol},
    limits::{MAX_REASONS, MAX_SNAT_ADDRESSES},
    maps,
    service::{ListenerKey, Service},
    settings::Settings,
};

use super::{
    attach::{self, AttachError, Attached, Device},
    load::{self, LoadError, Options},
};
use crate::{
    dataplane::{
        BackendEntry, BackendId, ConnectionEntry, Dataplane, DataplaneError, Result, ServiceId, Tuple,
        pins::{Pins, PinsError},
    },
    model::{Listener, Protocol, XdpMode},
};

/// Inner arrays of one map may differ in size (`BPF_F_INNER_MAP`, kernel 5.10); the program's template has the same flag.
const INNER_MAP: u32 = 0x1000;

/// The maps and programs in the kernel.
pub struct AyaDataplane {
    pins: Pins,
    ebpf: Ebpf,
    adopted: bool,
    maps: Maps,
    written: Written,
}

/// Handles of the maps.
struct Maps {
    listeners: HashMap<MapData, ListenerKey<V4>, u32>,
    services: Array<MapData, Service>,
    slots: ArrayOfMaps<MapData, Array<MapData, u32>>,
    backends: Array<MapData, Backend<V4>>,
    connections: HashMap<MapData, FlowKey<V4>, Connection<V4>>,
    snat: Array<MapData, V4>,
    settings: Array<MapData, Settings>,
    half_open: Array<MapData, u64>,
    verdicts: PerCpuArray<MapData, u64>,
    service_traffic: PerCpuArray<MapData, Traffic>,
    backend_traffic: PerCpuArray<MapData, Traffic>,
}

/// What the agent has written into its maps.
#[derive(Default)]
struct Written {
    listeners: BTreeMap<Listener, ServiceId>,
    services: BTreeMap<ServiceId, Service>,
    slots: BTreeMap<ServiceId, Vec<BackendId>>,
    backends: BTreeMap<BackendId, BackendEntry>,
    snat: Vec<IpAddr>,
}

impl AyaDataplane {
    /// Loads the maps, adopting those that are pinned after checking them.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub fn open(pins: Pins, options: Options) -> std::result::Result<Self, LoadError> {
        let (mut ebpf, adopted) = load::load(&pins, options)?;
        let maps = Maps::take(&mut ebpf)?;
        let written = if adopted {
            maps.read_written()?
        } else {
            Written::default()
        };
        Ok(Self {
            pins,
            ebpf,
            adopted,
            maps,
            written,
        })
    }

    /// Whether the maps were there before.
    pub const fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// The loaded object, for tests that run its programs.
    pub const fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Attaches the packet path to an interface, or replaces the programs that are there.
    ///
    /// # Errors
    ///
    /// See [`AttachError`].
    pub fn attach(&mut self, device: &Device, mode: XdpMode) -> std::result::Result<Attached, AttachError> {
        attach::attach(&mut self.ebpf, &self.pins, device, mode)
    }

    /// Takes the packet path off an interface; `device` is `None` when the interface is gone.
    ///
    /// # Errors
    ///
    /// See [`AttachError`].
    pub fn detach(&self, ifindex: u32, device: Option<&Device>) -> std::result::Result<(), AttachError> {
        attach::detach(&self.pins, ifindex, device)
    }

    /// Indices of the interfaces that have a link of ours.
    ///
    /// # Errors
    ///
    /// When the pin directory can't be read.
    pub fn attached(&self) -> std::result::Result<Vec<u32>, PinsError> {
        self.pins.links()
    }
}

/// Removes everything that is pinned in a directory: links, then maps, then the directory. `devices` are the interfaces that still
/// exist.
///
/// # Errors
///
/// See [`AttachError`].
pub fn remove_all(pins: Pins, devices: &[Device]) -> std::result::Result<Vec<u32>, AttachError> {
    let links = pins.links()?;
    for ifindex in &links {
        attach::detach(
            &pins,
            *ifindex,
            devices.iter().find(|device| device.ifindex == *ifindex),
        )?;
    }
    for name in maps::ALL {
        pins.remove(&pins.map(name))?;
    }
    pins.remove_slots()?;
    pins.remove_directory()?;
    Ok(links)
}

impl Maps {
    fn take(ebpf: &mut Ebpf) -> std::result::Result<Self, LoadError> {
        fn take<T: TryFrom<Map, Error = MapError>>(
            ebpf: &mut Ebpf,
            name: &'static str,
        ) -> std::result::Result<T, LoadError> {
            let map = ebpf
                .take_map(name)
                .ok_or(MapError::InvalidName { name: name.to_owned() });
            map.and_then(T::try_from)
                .map_err(|source| LoadError::Map { name, source })
        }
        Ok(Self {
            listeners: take(ebpf, maps::LISTENERS_V4)?,
            services: take(ebpf, maps::SERVICES)?,
            slots: take(ebpf, maps::SLOTS)?,
            backends: take(ebpf, maps::BACKENDS_V4)?,
            connections: take(ebpf, maps::CONNECTIONS_V4)?,
            snat: take(ebpf, maps::SNAT_V4)?,
            settings: take(ebpf, maps::SETTINGS)?,
            half_open: take(ebpf, maps::HALF_OPEN)?,
            verdicts: take(ebpf, maps::VERDICTS)?,
            service_traffic: take(ebpf, maps::SERVICE_TRAFFIC)?,
            backend_traffic: take(ebpf, maps::BACKEND_TRAFFIC)?,
        })
    }

    /// Reads back what an earlier agent wrote. Slots are read when they are asked for.
    fn read_written(&self) -> std::result::Result<Written, LoadError> {
        let error = |name| move |source| LoadError::Map { name, source };
        let mut written = Written::default();
        for entry in &self.listeners {
            let (key, service) = entry.map_err(error(maps::LISTENERS_V4))?;
            written
                .listeners
                .extend(listener_of(&key).map(|listener| (listener, ServiceId(service))));
        }
        for id in 1..self.services.len() {
            let service = self.services.get(&id, 0).map_err(error(maps::SERVICES))?;
            if service.defined != 0 {
                written.services.insert(ServiceId(id), service);
            }
        }
        for id in 1..self.backends.len() {
            let backend = self.backends.get(&id, 0).map_err(error(maps::BACKENDS_V4))?;
            if backend.service != 0 {
                written.backends.insert(BackendId(id), entry_of(&backend));
            }
        }
        let settings = self.settings.get(&0, 0).map_err(error(maps::SETTINGS))?;
        for index in 0..settings.snat_addresses.min(MAX_SNAT_ADDRESSES) {
            let address = self.snat.get(&index, 0).map_err(error(maps::SNAT_V4))?;
            written.snat.push(IpAddr::V4(address.into()));
        }
        Ok(written)
    }
}

fn failed<E>(operation: impl Into<String>) -> impl FnOnce(E) -> DataplaneError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let operation = operation.into();
    move |source| DataplaneError {
        operation,
        source: source.into(),
    }
}

/// What is not there is as good as removed.
fn absent_is_removed(result: std::result::Result<(), MapError>) -> std::result::Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// The map's form of an address. IPv6 is refused by the configuration.
fn v4(address: IpAddr, operation: &str) -> Result<V4> {
    match address {
        IpAddr::V4(address) => Ok(address.into()),
        IpAddr::V6(address) => Err(failed(operation)(format!(
            "{address} is an IPv6 address, which is not supported yet"
        ))),
    }
}

fn socket(address: V4, port: Be16) -> SocketAddr {
    SocketAddrV4::new(address.into(), port.to_native()).into()
}

const fn protocol_of(number: u8) -> Option<Protocol> {
    match number {
        protocol::TCP => Some(Protocol::Tcp),
        protocol::UDP => Some(Protocol::Udp),
        _ => None,
    }
}

fn listener_of(key: &ListenerKey<V4>) -> Option<Listener> {
    Some(Listener {
        address: socket(key.address, key.port),
        protocol: protocol_of(key.protocol)?,
    })
}

fn listener_key(listener: Listener, operation: &str) -> Result<ListenerKey<V4>> {
    let address = v4(listener.address.ip(), operation)?;
    Ok(ListenerKey::new(
        address,
        Be16::new(listener.address.port()),
        listener.protocol.number(),
    ))
}

fn entry_of(backend: &Backend<V4>) -> BackendEntry {
    BackendEntry {
        service: ServiceId(backend.service),
        address: socket(backend.address, backend.port),
        alive: backend.flags & Backend::<V4>::ALIVE != 0,
        next_hop: backend.next_hop,
        mtu: backend.mtu,
        source: IpAddr::V4(backend.source.into()),
    }
}

fn tuple_of(key: &FlowKey<V4>) -> Option<Tuple> {
    Some(Tuple {
        protocol: protocol_of(key.protocol)?,
        source: socket(key.source, key.source_port),
        destination: socket(key.destination, key.destination_port),
    })
}

fn flow_key(tuple: &Tuple, operation: &str) -> Result<FlowKey<V4>> {
    Ok(FlowKey::new(
        (v4(tuple.source.ip(), operation)?, Be16::new(tuple.source.port())),
        (
            v4(tuple.destination.ip(), operation)?,
            Be16::new(tuple.destination.port()),
        ),
        tuple.protocol.number(),
    ))
}

fn connection_of(key: &FlowKey<V4>, connection: &Connection<V4>) -> Option<ConnectionEntry> {
    Some(ConnectionEntry {
        key: tuple_of(key)?,
        twin: tuple_of(&connection.twin)?,
        direction: if connection.direction == Direction::Forward as u32 {
            Direction::Forward
        } else {
            Direction::Reply
        },
        seen: Seen(connection.seen),
        last_seen: connection.last_seen,
        service: ServiceId(connection.service),
        backend: BackendId(connection.backend),
    })
}

/// A counter summed over CPUs.
fn sum<T: Pod + Default + std::ops::AddAssign>(
    map: &PerCpuArray<MapData, T>,
    index: u32,
    operation: &'static str,
) -> Result<T> {
    let mut sum = T::default();
    for value in map.get(&index, 0).map_err(failed(operation))?.iter() {
        sum += *value;
    }
    Ok(sum)
}

/// A pinned slot table.
fn open_slots(pin: &Path) -> std::result::Result<Array<MapData, u32>, MapError> {
    Array::try_from(Map::Array(MapData::from_pin(pin)?))
}

/// Sets a counter to zero on every CPU.
fn clear(map: &mut PerCpuArray<MapData, Traffic>, index: u32, operation: &'static str) -> Result<()> {
    let cpus = nr_cpus().map_err(|(_, error)| failed(operation)(error))?;
    let zeros = PerCpuValues::try_from(vec![Traffic::default(); cpus]).map_err(failed(operation))?;
    map.set(index, zeros, 0).map_err(failed(operation))
}

impl Dataplane for AyaDataplane {
    fn listeners(&self) -> Result<Vec<(Listener, ServiceId)>> {
        Ok(self
            .written
            .listeners
            .iter()
            .map(|(listener, id)| (*listener, *id))
            .collect())
    }

    fn set_listener(&mut self, listener: Listener, service: ServiceId) -> Result<()> {
        let operation = format!("set listener {listener}");
        let key = listener_key(listener, &operation)?;
        self.maps
            .listeners
            .insert(key, service.0, 0)
            .map_err(failed(operation))?;
        self.written.listeners.insert(listener, service);
        Ok(())
    }

    fn remove_listener(&mut self, listener: Listener) -> Result<()> {
        let operation = format!("remove listener {listener}");
        let key = listener_key(listener, &operation)?;
        absent_is_removed(self.maps.listeners.remove(&key)).map_err(failed(operation))?;
        self.written.listeners.remove(&listener);
        Ok(())
    }

    fn services(&self) -> Result<Vec<(ServiceId, Service)>> {
        Ok(self
            .written
            .services
            .iter()
            .map(|(id, service)| (*id, *service))
            .collect())
    }

    fn set_service(&mut self, id: ServiceId, service: Service) -> Result<()> {
        self.maps
            .services
            .set(id.0, service, 0)
            .map_err(failed(format!("set service {}", id.0)))?;
        self.written.services.insert(id, service);
        Ok(())
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<()> {
        self.set_slots(id, &[])?;
        let cleared = Service::CLEARED;
        self.maps
            .services
            .set(id.0, cleared, 0)
            .map_err(failed(format!("remove service {}", id.0)))?;
        self.pins
            .remove(&self.pins.slots(id.0))
            .map_err(failed(format!("remove the slots of service {}", id.0)))?;
        self.written.services.remove(&id);
        self.written.slots.remove(&id);
        Ok(())
    }

    fn slots(&self, id: ServiceId) -> Result<Vec<BackendId>> {
        if let Some(slots) = self.written.slots.get(&id) {
            return Ok(slots.clone());
        }
        let operation = format!("read the slots of service {}", id.0);
        if self.pins.coming_slots(id.0).exists() {
            // An agent died while it was replacing them: whether it had is not known, so they must be written.
            return Ok(Vec::new());
        }
        // By the pin, since opening an inner map by its id takes more privileges than the agent needs otherwise.
        let pin = self.pins.slots(id.0);
        if !pin.exists() {
            return Ok(Vec::new());
        }
        let inner = open_slots(&pin).map_err(failed(operation.clone()))?;
        let count = inner.get(&0, 0).map_err(failed(operation.clone()))?;
        (1..=count)
            .map(|slot| Ok(BackendId(inner.get(&slot, 0).map_err(failed(operation.clone()))?)))
            .collect()
    }

    fn set_slots(&mut self, id: ServiceId, slots: &[BackendId]) -> Result<()> {
        let operation = format!("set the slots of service {}", id.0);
        let count = u32::try_from(slots.len()).map_err(failed(operation.clone()))?;
        let mut table = Array::<MapData, u32>::create(count + 1, INNER_MAP).map_err(failed(operation.clone()))?;
        table.set(0, count, 0).map_err(failed(operation.clone()))?;
        for (slot, backend) in (1..).zip(slots) {
            table.set(slot, backend.0, 0).map_err(failed(operation.clone()))?;
        }
        let coming = self.pins.coming_slots(id.0);
        self.pins.remove(&coming).map_err(failed(operation.clone()))?;
        table.pin(&coming).map_err(failed(operation.clone()))?;
        let table = open_slots(&coming).map_err(failed(operation.clone()))?;
        self.maps
            .slots
            .set(id.0, &table, 0)
            .map_err(failed(operation.clone()))?;
        self.pins
            .rename(&coming, &self.pins.slots(id.0))
            .map_err(failed(operation))?;
        self.written.slots.insert(id, slots.to_vec());
        Ok(())
    }

    fn backends(&self) -> Result<Vec<(BackendId, BackendEntry)>> {
        Ok(self.written.backends.iter().map(|(id, entry)| (*id, *entry)).collect())
    }

    fn set_backend(&mut self, id: BackendId, entry: &BackendEntry) -> Result<()> {
        let operation = format!("set backend {} ({})", id.0, entry.address);
        let backend = Backend {
            address: v4(entry.address.ip(), &operation)?,
            source: v4(entry.source, &operation)?,
            next_hop: entry.next_hop,
            service: entry.service.0,
            flags: if entry.alive { Backend::<V4>::ALIVE } else { 0 },
            mtu: entry.mtu,
            port: Be16::new(entry.address.port()),
        };
        self.maps.backends.set(id.0, backend, 0).map_err(failed(operation))?;
        self.written.backends.insert(id, *entry);
        Ok(())
    }

    fn remove_backend(&mut self, id: BackendId) -> Result<()> {
        let cleared = Backend {
            address: V4::default(),
            source: V4::default(),
            next_hop: lb_common::backend::NextHop::UNKNOWN,
            service: 0,
            flags: 0,
            mtu: 0,
            port: Be16::default(),
        };
        self.maps
            .backends
            .set(id.0, cleared, 0)
            .map_err(failed(format!("remove backend {}", id.0)))?;
        // The id may be given to another one.
        clear(&mut self.maps.backend_traffic, id.0, "clear the traffic of a backend")?;
        self.written.backends.remove(&id);
        Ok(())
    }

    fn snat_addresses(&self) -> Result<Vec<IpAddr>> {
        Ok(self.written.snat.clone())
    }

    fn set_snat_addresses(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let operation = "set the snat addresses";
        for (index, address) in (0..MAX_SNAT_ADDRESSES).zip(addresses) {
            let address = v4(*address, operation)?;
            self.maps.snat.set(index, address, 0).map_err(failed(operation))?;
        }
        addresses.clone_into(&mut self.written.snat);
        Ok(())
    }

    fn settings(&self) -> Result<Option<Settings>> {
        let settings = self.maps.settings.get(&0, 0).map_err(failed("read the settings"))?;
        Ok((settings.layout != 0).then_some(settings))
    }

    fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.maps
            .settings
            .set(0, settings, 0)
            .map_err(failed("set the settings"))
    }

    fn for_each_connection(&self, visit: &mut dyn FnMut(ConnectionEntry)) -> Result<()> {
        for entry in &self.maps.connections {
            match entry {
                Ok((key, connection)) => {
                    if let Some(connection) = connection_of(&key, &connection) {
                        visit(connection);
                    }
                }
                // Removed between finding its key and reading it.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed("read the connections")(error)),
            }
        }
        Ok(())
    }

    fn connection(&self, key: &Tuple) -> Result<Option<ConnectionEntry>> {
        let operation = "read a connection";
        let key = flow_key(key, operation)?;
        match self.maps.connections.get(&key, 0) {
            Ok(connection) => Ok(connection_of(&key, &connection)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed(operation)(error)),
        }
    }

    fn remove_connection(&mut self, key: &Tuple) -> Result<()> {
        let operation = "remove a connection";
        let key = flow_key(key, operation)?;
        absent_is_removed(self.maps.connections.remove(&key)).map_err(failed(operation))
    }

    fn set_half_open(&mut self, count: u32) -> Result<()> {
        self.maps
            .half_open
            .set(0, u64::from(count), 0)
            .map_err(failed("correct the count of half-open connections"))
    }

    fn verdicts(&self) -> Result<Vec<u64>> {
        (0..MAX_REASONS)
            .map(|reason| sum(&self.maps.verdicts, reason, "read the verdict counters"))
            .collect()
    }

    fn service_traffic(&self, id: ServiceId) -> Result<Traffic> {
        sum(&self.maps.service_traffic, id.0, "read the traffic of a service")
    }

    fn backend_traffic(&self, id: BackendId) -> Result<Traffic> {
        sum(&self.maps.backend_traffic, id.0, "read the traffic of a backend")
    }
}
