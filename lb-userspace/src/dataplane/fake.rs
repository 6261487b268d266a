//! A data plane in memory, for tests: it keeps what it is told, writes down every change, and prints itself as text.

#![forbid(unsafe_code)]

mod shown;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    net::IpAddr,
};

use lb_common::{
    counters::Traffic, interface::Interface, limits::MAX_REASONS, role::Roles, service::Service, settings::Settings,
};

use self::shown::Shown;
use super::{BackendEntry, BackendId, ConnectionEntry, Dataplane, Family, ListenerEntry, Result, ServiceId, Tuple};

/// All maps of the data plane, in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeDataplane {
    listeners: BTreeMap<ListenerEntry, ServiceId>,
    services: BTreeMap<ServiceId, Service>,
    slots: BTreeMap<ServiceId, Vec<BackendId>>,
    backends: BTreeMap<BackendId, BackendEntry>,
    snat_addresses: BTreeMap<Family, Vec<IpAddr>>,
    roles: BTreeMap<IpAddr, Roles>,
    interfaces: BTreeMap<u32, Interface>,
    settings: Option<Settings>,
    connections: BTreeMap<Tuple, ConnectionEntry>,
    arrivals: Vec<ConnectionEntry>,
    half_open: u32,
    verdicts: BTreeMap<usize, u64>,
    service_traffic: HashMap<ServiceId, Traffic>,
    backend_traffic: HashMap<BackendId, Traffic>,
    log: Vec<String>,
}

impl FakeDataplane {
    /// An empty data plane.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every change since the last call, one line each, in the order in which they were made.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Puts a connection entry into the table, as the program would.
    pub fn insert_connection(&mut self, entry: ConnectionEntry) {
        self.connections.insert(entry.key, entry);
    }

    /// Puts connection entries into the table once the next entry is removed: the program does not wait for a sweep.
    pub fn insert_after_removal(&mut self, entries: impl IntoIterator<Item = ConnectionEntry>) {
        self.arrivals.extend(entries);
    }

    /// Every connection entry, in order of its key.
    pub fn connections(&self) -> impl Iterator<Item = &ConnectionEntry> {
        self.connections.values()
    }

    /// The count of half-open connections as last corrected.
    pub const fn half_open(&self) -> u32 {
        self.half_open
    }

    /// Sets the packets counted for the outcome with this index.
    pub fn set_verdict(&mut self, index: usize, packets: u64) {
        self.verdicts.insert(index, packets);
    }

    /// Sets what was counted for a service.
    pub fn set_service_traffic(&mut self, id: ServiceId, traffic: Traffic) {
        self.service_traffic.insert(id, traffic);
    }

    /// Sets what was counted for a backend.
    pub fn set_backend_traffic(&mut self, id: BackendId, traffic: Traffic) {
        self.backend_traffic.insert(id, traffic);
    }

    /// Everything in it but the counters and the log as text, one line for each entry, sorted.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for line in self.lines() {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(settings) = &self.settings {
            lines.push(format!("settings {}", Shown(settings)));
        }
        for addresses in self.snat_addresses.values().filter(|addresses| !addresses.is_empty()) {
            lines.push(format!("snat {}", Shown(&addresses[..])));
        }
        lines.extend(
            self.interfaces
                .iter()
                .map(|(ifindex, interface)| format!("interface {ifindex} {}", Shown(interface))),
        );
        lines.extend(
            self.roles
                .iter()
                .map(|(address, roles)| format!("address {address} {}", Shown(roles))),
        );
        lines.extend(
            self.listeners
                .iter()
                .map(|(listener, service)| format!("listener {listener} -> service {}", service.0)),
        );
        for (id, service) in &self.services {
            let slots = self.slots.get(id).map_or(&[][..], Vec::as_slice);
            lines.push(format!("service {} {} slots {}", id.0, Shown(service), Shown(slots)));
        }
        // Slots of a service without a record are a defect that a dump must show.
        for (id, slots) in &self.slots {
            if !self.services.contains_key(id) && !slots.is_empty() {
                lines.push(format!("service {} undefined slots {}", id.0, Shown(&slots[..])));
            }
        }
        lines.extend(
            self.backends
                .iter()
                .map(|(id, backend)| format!("backend {} {}", id.0, Shown(backend))),
        );
        lines.extend(self.connections.values().map(|entry| Shown(entry).to_string()));
        lines
    }

    fn note(&mut self, line: String) {
        self.log.push(line);
    }
}

impl Dataplane for FakeDataplane {
    fn listeners(&self) -> Result<Vec<(ListenerEntry, ServiceId)>> {
        Ok(self.listeners.iter().map(|(listener, id)| (*listener, *id)).collect())
    }

    fn set_listener(&mut self, listener: ListenerEntry, service: ServiceId) -> Result<()> {
        self.note(format!("set listener {listener} -> service {}", service.0));
        self.listeners.insert(listener, service);
        Ok(())
    }

    fn remove_listener(&mut self, listener: ListenerEntry) -> Result<()> {
        self.note(format!("remove listener {listener}"));
        self.listeners.remove(&listener);
        Ok(())
    }

    fn services(&self) -> Result<Vec<(ServiceId, Service)>> {
        Ok(self.services.iter().map(|(id, service)| (*id, *service)).collect())
    }

    fn set_service(&mut self, id: ServiceId, service: Service) -> Result<()> {
        self.note(format!("set service {} {}", id.0, Shown(&service)));
        self.services.insert(id, service);
        Ok(())
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<()> {
        self.note(format!("remove service {}", id.0));
        self.services.remove(&id);
        self.slots.remove(&id);
        Ok(())
    }

    fn slots(&self, id: ServiceId) -> Result<Vec<BackendId>> {
        Ok(self.slots.get(&id).cloned().unwrap_or_default())
    }

    fn set_slots(&mut self, id: ServiceId, slots: &[BackendId]) -> Result<()> {
        self.note(format!("set slots of service {}: {}", id.0, Shown(slots)));
        self.slots.insert(id, slots.to_vec());
        Ok(())
    }

    fn backends(&self) -> Result<Vec<(BackendId, BackendEntry)>> {
        Ok(self.backends.iter().map(|(id, backend)| (*id, *backend)).collect())
    }

    fn set_backend(&mut self, id: BackendId, backend: &BackendEntry) -> Result<()> {
        self.note(format!("set backend {} {}", id.0, Shown(backend)));
        self.backends.insert(id, *backend);
        Ok(())
    }

    fn remove_backend(&mut self, id: BackendId) -> Result<()> {
        self.note(format!("remove backend {}", id.0));
        self.backends.remove(&id);
        Ok(())
    }

    fn snat_addresses(&self, family: Family) -> Result<Vec<IpAddr>> {
        Ok(self.snat_addresses.get(&family).cloned().unwrap_or_default())
    }

    fn set_snat_addresses(&mut self, family: Family, addresses: &[IpAddr]) -> Result<()> {
        self.note(format!("set {} snat {}", Shown(&family), Shown(addresses)));
        self.snat_addresses.insert(family, addresses.to_vec());
        Ok(())
    }

    fn roles(&self) -> Result<Vec<(IpAddr, Roles)>> {
        Ok(self.roles.iter().map(|(address, roles)| (*address, *roles)).collect())
    }

    fn set_roles(&mut self, address: IpAddr, roles: Roles) -> Result<()> {
        self.note(format!("set address {address} {}", Shown(&roles)));
        self.roles.insert(address, roles);
        Ok(())
    }

    fn remove_roles(&mut self, address: IpAddr) -> Result<()> {
        self.note(format!("remove address {address}"));
        self.roles.remove(&address);
        Ok(())
    }

    fn interfaces(&self) -> Result<Vec<(u32, Interface)>> {
        Ok(self
            .interfaces
            .iter()
            .map(|(ifindex, interface)| (*ifindex, *interface))
            .collect())
    }

    fn set_interface(&mut self, ifindex: u32, interface: Interface) -> Result<()> {
        self.note(format!("set interface {ifindex} {}", Shown(&interface)));
        self.interfaces.insert(ifindex, interface);
        Ok(())
    }

    fn remove_interface(&mut self, ifindex: u32) -> Result<()> {
        self.note(format!("remove interface {ifindex}"));
        self.interfaces.remove(&ifindex);
        Ok(())
    }

    fn settings(&self) -> Result<Option<Settings>> {
        Ok(self.settings)
    }

    fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.note(format!("set settings {}", Shown(&settings)));
        self.settings = Some(settings);
        Ok(())
    }

    fn for_each_connection(&self, visit: &mut dyn FnMut(ConnectionEntry)) -> Result<()> {
        self.connections.values().copied().for_each(visit);
        Ok(())
    }

    fn connection(&self, key: &Tuple) -> Result<Option<ConnectionEntry>> {
        Ok(self.connections.get(key).copied())
    }

    fn remove_connection(&mut self, key: &Tuple) -> Result<()> {
        self.note(format!("remove connection {}", Shown(key)));
        self.connections.remove(key);
        for entry in std::mem::take(&mut self.arrivals) {
            self.insert_connection(entry);
        }
        Ok(())
    }

    fn set_half_open(&mut self, count: u32) -> Result<()> {
        self.note(format!("set half-open {count}"));
        self.half_open = count;
        Ok(())
    }

    fn verdicts(&self) -> Result<Vec<u64>> {
        Ok((0..MAX_REASONS as usize)
            .map(|index| self.verdicts.get(&index).copied().unwrap_or_default())
            .collect())
    }

    fn service_traffic(&self, id: ServiceId) -> Result<Traffic> {
        Ok(self.service_traffic.get(&id).copied().unwrap_or_default())
    }

    fn backend_traffic(&self, id: BackendId) -> Result<Traffic> {
        Ok(self.backend_traffic.get(&id).copied().unwrap_or_default())
    }
}
