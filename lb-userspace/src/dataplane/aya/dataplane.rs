//! [`Dataplane`] on the kernel's maps.
//!
//! What only the agent writes is remembered, so that reading it costs no system call; it is read back from the kernel once, when the
//! maps are opened. Connections and counters belong to the program and are read from the kernel each time.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use lb_common::{
    counters::Traffic, flow::FlowKey, interface::Interface, limits::MAX_REASONS, maps as names, role::Roles,
    service::Service, settings::Settings,
};

use super::{
    attach::{self, AttachError, Attached, Device},
    family::{MapAddress, absent_is_removed, flow_key},
    fragments::{FragmentNotes, HeldFragments, take_fragments},
    load::{self, LoadError, Options},
    maps::{Maps, Written},
    reinject::Reinjection,
};
use crate::{
    dataplane::{
        BackendEntry, BackendId, ConnectionEntry, Dataplane, DataplaneError, Family, ListenerEntry, Result, ServiceId,
        Tuple,
        pins::{Pins, PinsError},
    },
    model::XdpMode,
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

    /// Takes what the program and the agent tell each other of fragments, which is done past everything else. It can be taken once.
    ///
    /// # Errors
    ///
    /// When it is taken already.
    pub fn take_fragments(&mut self) -> std::result::Result<(HeldFragments, FragmentNotes), LoadError> {
        take_fragments(&mut self.ebpf)
    }

    /// How frames are put back into an interface that the packet path is attached to in this mode.
    ///
    /// # Errors
    ///
    /// See [`AttachError`].
    pub fn reinjection(&mut self, device: &Device, mode: XdpMode) -> std::result::Result<Reinjection, AttachError> {
        attach::reinjection(&mut self.ebpf, device, mode)
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
    for name in names::ALL {
        pins.remove(&pins.map(name))?;
    }
    pins.remove_slots()?;
    pins.remove_directory()?;
    Ok(links)
}

impl AyaDataplane {
    /// Clears the record of a backend in the maps of both families.
    fn clear_backend(&mut self, id: BackendId) -> std::result::Result<(), MapError> {
        self.maps.v4.clear_backend(id)?;
        self.maps.v6.clear_backend(id)
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

/// The key of a tuple, whose addresses must be of one family.
fn key_of<A: MapAddress>(tuple: &Tuple, operation: &str) -> Result<FlowKey<A>> {
    flow_key(tuple).ok_or_else(|| failed(operation)("its addresses are of different IP families"))
}

fn copied<K: Copy, V: Copy>(map: &BTreeMap<K, V>) -> Vec<(K, V)> {
    map.iter().map(|(key, value)| (*key, *value)).collect()
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
    fn listeners(&self) -> Result<Vec<(ListenerEntry, ServiceId)>> {
        Ok(copied(&self.written.listeners))
    }

    fn set_listener(&mut self, listener: ListenerEntry, service: ServiceId) -> Result<()> {
        match listener.address {
            IpAddr::V4(vip) => self.maps.v4.set_listener(vip.into(), &listener, service.0),
            IpAddr::V6(vip) => self.maps.v6.set_listener(vip.into(), &listener, service.0),
        }
        .map_err(failed(format!("set listener {listener}")))?;
        self.written.listeners.insert(listener, service);
        Ok(())
    }

    fn remove_listener(&mut self, listener: ListenerEntry) -> Result<()> {
        match listener.address {
            IpAddr::V4(vip) => self.maps.v4.remove_listener(vip.into(), &listener),
            IpAddr::V6(vip) => self.maps.v6.remove_listener(vip.into(), &listener),
        }
        .map_err(failed(format!("remove listener {listener}")))?;
        self.written.listeners.remove(&listener);
        Ok(())
    }

    fn services(&self) -> Result<Vec<(ServiceId, Service)>> {
        Ok(copied(&self.written.services))
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
        Ok(copied(&self.written.backends))
    }

    fn set_backend(&mut self, id: BackendId, entry: &BackendEntry) -> Result<()> {
        let operation = format!("set backend {} ({})", id.0, entry.address);
        let family = Family::of(entry.address.ip());
        let before = self.written.backends.get(&id);
        if before.is_some_and(|before| Family::of(before.address.ip()) != family) {
            self.clear_backend(id).map_err(failed(operation.clone()))?;
        }
        match entry.address.ip() {
            IpAddr::V4(address) => self.maps.v4.set_backend(address.into(), id, entry),
            IpAddr::V6(address) => self.maps.v6.set_backend(address.into(), id, entry),
        }
        .map_err(failed(operation))?;
        self.written.backends.insert(id, *entry);
        Ok(())
    }

    fn remove_backend(&mut self, id: BackendId) -> Result<()> {
        self.clear_backend(id)
            .map_err(failed(format!("remove backend {}", id.0)))?;
        // The id may be given to another one.
        clear(&mut self.maps.backend_traffic, id.0, "clear the traffic of a backend")?;
        self.written.backends.remove(&id);
        Ok(())
    }

    fn snat_addresses(&self, family: Family) -> Result<Vec<IpAddr>> {
        Ok(self.written.snat.get(&family).cloned().unwrap_or_default())
    }

    fn set_snat_addresses(&mut self, family: Family, addresses: &[IpAddr]) -> Result<()> {
        for (index, address) in (0..).zip(addresses) {
            let operation = format!("set snat address {address}");
            if Family::of(*address) != family {
                return Err(failed(operation)("it is of the other IP family"));
            }
            match *address {
                IpAddr::V4(address) => self.maps.v4.set_snat_address(index, address.into()),
                IpAddr::V6(address) => self.maps.v6.set_snat_address(index, address.into()),
            }
            .map_err(failed(operation))?;
        }
        self.written.snat.insert(family, addresses.to_vec());
        Ok(())
    }

    fn roles(&self) -> Result<Vec<(IpAddr, Roles)>> {
        Ok(copied(&self.written.roles))
    }

    fn set_roles(&mut self, address: IpAddr, roles: Roles) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.maps.v4.set_roles(address.into(), roles),
            IpAddr::V6(address) => self.maps.v6.set_roles(address.into(), roles),
        }
        .map_err(failed(format!("set the roles of {address}")))?;
        self.written.roles.insert(address, roles);
        Ok(())
    }

    fn remove_roles(&mut self, address: IpAddr) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.maps.v4.remove_roles(address.into()),
            IpAddr::V6(address) => self.maps.v6.remove_roles(address.into()),
        }
        .map_err(failed(format!("remove the roles of {address}")))?;
        self.written.roles.remove(&address);
        Ok(())
    }

    fn interfaces(&self) -> Result<Vec<(u32, Interface)>> {
        Ok(copied(&self.written.interfaces))
    }

    fn set_interface(&mut self, ifindex: u32, interface: Interface) -> Result<()> {
        let set = self.maps.interfaces.insert(ifindex, interface, 0);
        set.map_err(failed(format!("set interface {ifindex}")))?;
        self.written.interfaces.insert(ifindex, interface);
        Ok(())
    }

    fn remove_interface(&mut self, ifindex: u32) -> Result<()> {
        let removed = absent_is_removed(self.maps.interfaces.remove(&ifindex));
        removed.map_err(failed(format!("remove interface {ifindex}")))?;
        self.written.interfaces.remove(&ifindex);
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
        let error = "read the connections";
        self.maps.v4.for_each_connection(visit).map_err(failed(error))?;
        self.maps.v6.for_each_connection(visit).map_err(failed(error))
    }

    fn connection(&self, key: &Tuple) -> Result<Option<ConnectionEntry>> {
        let operation = "read a connection";
        match key.source.ip() {
            IpAddr::V4(_) => self.maps.v4.connection(&key_of(key, operation)?),
            IpAddr::V6(_) => self.maps.v6.connection(&key_of(key, operation)?),
        }
        .map_err(failed(operation))
    }

    fn remove_connection(&mut self, key: &Tuple) -> Result<()> {
        let operation = "remove a connection";
        match key.source.ip() {
            IpAddr::V4(_) => self.maps.v4.remove_connection(&key_of(key, operation)?),
            IpAddr::V6(_) => self.maps.v6.remove_connection(&key_of(key, operation)?),
        }
        .map_err(failed(operation))
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
