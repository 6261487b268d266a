//! Makes the maps say what the configuration, the health and the ways ask for: desired minus actual, in an order in which no packet
//! ever meets a half-written service.
//!
//! Every call starts from what the maps say, so an attempt that failed, an agent that died and an agent that was upgraded are all
//! the same case: the next call writes what still differs.
//!
//! The order, and what it guarantees at every moment in between:
//! 1. Interfaces, and roles of addresses, are written before anything that makes packets need them.
//! 2. Listeners that nobody wants go next: their packets belong to the kernel from here on, whatever happens to the service.
//! 3. Backends are written before slots that name them: no slot names a backend that is not set.
//! 4. Record and slots of a service are written before a listener that points at it. Port ranges are counted in the settings when
//!    the first one is there, and until the last one is gone.
//! 5. Services that nobody wants, and the marks of dead and removed backends, come last: nothing new leads there any more. So do
//!    roles and interfaces that are gone.

#![forbid(unsafe_code)]

mod actual;
mod desired;
mod ids;
mod listeners;
mod roles;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{backend::NextHop, role::Roles, settings::Settings};

pub use self::desired::{Desired, DesiredBackend, DesiredService};
use self::{
    actual::Actual,
    ids::Ids,
    listeners::nested,
    roles::{in_between, wanted_roles},
};
use crate::{
    dataplane::{BackendEntry, BackendId, Dataplane, Family, ListenerEntry, Result, ServiceId},
    health::threshold::Status,
    model::Model,
    netlink::Resolved,
    scheduler::{self, Candidate},
};

/// What a reconciliation did, and who has which id now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Map entries written or removed.
    pub writes: usize,
    /// The services, in the order of the configuration.
    pub services: Vec<ServiceIds>,
    /// Backends that left the configuration and may still have connections. Their ways should stay fresh.
    pub retired: Vec<(BackendId, SocketAddr)>,
}

/// The ids of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceIds {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub id: ServiceId,
    /// The ids of its backends, in the order of the configuration.
    pub backends: Vec<(SocketAddr, BackendId)>,
}

/// Makes the maps say what is desired. Writes only what differs.
///
/// # Errors
/// The first operation that failed, or more being desired than fits. Another call continues from there.
pub fn reconcile(dataplane: &mut dyn Dataplane, desired: &Desired) -> Result<Report> {
    let actual = Actual::read(dataplane)?;
    let ids = Ids::assign(desired, &actual)?;
    let wanted_backends = wanted_backends(desired, &ids, &actual);
    let report = report(desired, &ids, &actual, &wanted_backends);
    let mut reconciliation = Reconciliation {
        wanted_roles: wanted_roles(desired, &wanted_backends, &actual),
        wanted_listeners: wanted_listeners(desired, &ids),
        wanted_backends,
        stale: BTreeMap::new(),
        dataplane,
        desired,
        actual,
        ids,
        writes: 0,
    };
    reconciliation.write_all()?;
    Ok(Report {
        writes: reconciliation.writes,
        ..report
    })
}

/// Clears the entries of removed backends that no connection names, which makes their ids free; returns how many.
///
/// `unreferenced` is the result of a sweep over the connections (see [`crate::expiry`]) that began after the last
/// [`reconcile`]: an older one doesn't know of connections that a backend got since.
///
/// # Errors
/// The first operation that failed. What was not released yet is so by a later call.
pub fn release(dataplane: &mut dyn Dataplane, desired: &Desired, unreferenced: &HashSet<BackendId>) -> Result<usize> {
    let actual = Actual::read(dataplane)?;
    let kept = ids::existing_backends(desired, &actual);
    let mut released = 0;
    for id in actual.backends.into_keys() {
        if unreferenced.contains(&id) && !kept.contains(&id) {
            dataplane.remove_backend(id)?;
            released += 1;
        }
    }
    Ok(released)
}

/// The backends of `model` whose health can be told from the maps: a starting agent should
/// [adopt](crate::model::store::Store::adopt) it. Those that get new connections are up, those marked dead are down.
///
/// While all are down and used anyway, the maps show all as up: they start so, nothing moves, and those that still fail go down
/// again after `fall` failures, one by one, until all are down once more.
///
/// # Errors
/// When the maps can't be read.
pub fn adoptable(dataplane: &dyn Dataplane, model: &Model) -> Result<Vec<(Arc<str>, SocketAddr, Status)>> {
    let actual = Actual::read(dataplane)?;
    let known = actual.backend_ids();
    let mut adoptable = Vec::new();
    for service in &model.services {
        let mut ids: BTreeSet<ServiceId> = BTreeSet::new();
        for entry in service.listeners.iter().flat_map(ListenerEntry::of) {
            ids.extend(actual.listeners.get(&entry));
            ids.extend(nested(&actual.listeners, entry).map(|(_, id)| *id));
        }
        for id in ids {
            let slots: HashSet<BackendId> = dataplane.slots(id)?.into_iter().collect();
            let status = |address| {
                let backend = known.get(&(id, address))?;
                let alive = actual.backends.get(backend)?.alive;
                match (alive, slots.contains(backend)) {
                    (false, _) => Some(Status::Down),
                    (true, true) => Some(Status::Up),
                    (true, false) => None,
                }
            };
            let addresses = service.backends.iter().map(|backend| backend.address);
            adoptable
                .extend(addresses.filter_map(|address| Some((Arc::clone(&service.name), address, status(address)?))));
        }
    }
    Ok(adoptable)
}

/// Every backend entry that the maps should have: those desired, and the removed ones, marked dead, that connections may name.
fn wanted_backends(desired: &Desired, ids: &Ids, actual: &Actual) -> BTreeMap<BackendId, BackendEntry> {
    let mut wanted: BTreeMap<BackendId, BackendEntry> = actual
        .backends
        .iter()
        .map(|(id, entry)| (*id, BackendEntry { alive: false, ..*entry }))
        .collect();
    for ((service, service_id), backend_ids) in desired.services.iter().zip(&ids.services).zip(&ids.backends) {
        for (backend, id) in service.backends.iter().zip(backend_ids) {
            let unknown = Resolved::unknown(backend.address.ip());
            let entry = wanted.entry(*id).or_insert(BackendEntry {
                service: *service_id,
                address: backend.address,
                alive: false,
                next_hop: unknown.next_hop,
                source: unknown.source,
                on_link: unknown.on_link,
            });
            entry.alive = backend.alive;
        }
    }
    for entry in wanted.values_mut() {
        if let Some(way) = desired.ways.get(&entry.address.ip()) {
            entry.next_hop = way.next_hop;
            entry.source = way.source;
            entry.on_link = way.on_link;
        }
    }
    for (_, backend_ids) in (desired.services.iter().zip(&ids.backends)).filter(|(service, _)| service.is_direct()) {
        for id in backend_ids {
            if let Some(entry) = wanted.get_mut(id).filter(|entry| entry.on_link == 0) {
                // A router would not know whom a packet to the VIP is meant for.
                entry.next_hop = NextHop::UNKNOWN;
            }
        }
    }
    wanted
}

/// Every listener entry that the maps should have.
fn wanted_listeners(desired: &Desired, ids: &Ids) -> BTreeMap<ListenerEntry, ServiceId> {
    let services = desired.services.iter().zip(&ids.services);
    services
        .flat_map(|(service, id)| service.listeners.iter().map(|entry| (*entry, *id)))
        .collect()
}

fn report(desired: &Desired, ids: &Ids, actual: &Actual, wanted: &BTreeMap<BackendId, BackendEntry>) -> Report {
    let kept: HashSet<BackendId> = ids.backends.iter().flatten().copied().collect();
    let services = desired.services.iter().zip(&ids.services).zip(&ids.backends);
    Report {
        writes: 0,
        services: services
            .map(|((service, id), backend_ids)| ServiceIds {
                name: Arc::clone(&service.name),
                id: *id,
                backends: service
                    .backends
                    .iter()
                    .map(|backend| backend.address)
                    .zip(backend_ids.iter().copied())
                    .collect(),
            })
            .collect(),
        retired: actual
            .backends
            .keys()
            .filter(|id| !kept.contains(id))
            .filter_map(|id| Some((*id, wanted.get(id)?.address)))
            .collect(),
    }
}

/// One reconciliation under way. `actual` is what the maps said at its start, but for the parts that later steps look at again:
/// those are kept up to date.
struct Reconciliation<'a> {
    dataplane: &'a mut dyn Dataplane,
    desired: &'a Desired,
    actual: Actual,
    ids: Ids,
    wanted_listeners: BTreeMap<ListenerEntry, ServiceId>,
    wanted_backends: BTreeMap<BackendId, BackendEntry>,
    wanted_roles: BTreeMap<IpAddr, Roles>,
    /// Listener entries that go when those that take over their ports are there.
    stale: BTreeMap<ListenerEntry, ServiceId>,
    writes: usize,
}

impl Reconciliation<'_> {
    fn write_all(&mut self) -> Result<()> {
        self.write_pools_and_settings()?;
        self.write_interfaces()?;
        self.add_roles()?;
        self.remove_unwanted_listeners()?;
        self.write_backends(|entry| entry.alive)?;
        self.write_services()?;
        self.remove_unwanted_services()?;
        self.write_backends(|_| true)?;
        // Only the count of port ranges may still differ.
        self.set_settings(self.desired.settings)?;
        self.remove_roles()?;
        self.remove_interfaces()
    }

    /// Writes pools and settings so that the program never counts more addresses than there are, and no port ranges before there
    /// are some.
    fn write_pools_and_settings(&mut self) -> Result<()> {
        let (growing, shrinking): (Vec<_>, Vec<_>) = self
            .desired
            .snat_addresses
            .iter()
            .filter(|(family, addresses)| self.actual.snat_addresses.get(*family) != Some(*addresses))
            .partition(|(family, addresses)| {
                let before = self.actual.snat_addresses.get(*family).map_or(0, Vec::len);
                addresses.len() >= before
            });
        let port_prefixes = self.actual.settings.map_or(0, |settings| settings.port_prefixes);
        self.write_pools(&growing)?;
        self.set_settings(Settings {
            port_prefixes,
            ..self.desired.settings
        })?;
        self.write_pools(&shrinking)
    }

    fn write_pools(&mut self, pools: &[(&Family, &Vec<IpAddr>)]) -> Result<()> {
        for (family, addresses) in pools {
            self.dataplane.set_snat_addresses(**family, addresses)?;
            self.writes += 1;
        }
        Ok(())
    }

    fn set_settings(&mut self, settings: Settings) -> Result<()> {
        if self.actual.settings != Some(settings) {
            self.dataplane.set_settings(settings)?;
            self.actual.settings = Some(settings);
            self.writes += 1;
        }
        Ok(())
    }

    fn write_interfaces(&mut self) -> Result<()> {
        let wanted = self.desired.host.iter().flat_map(|host| &host.interfaces);
        for (ifindex, interface) in wanted {
            if self.actual.interfaces.get(ifindex) != Some(interface) {
                self.dataplane.set_interface(*ifindex, *interface)?;
                self.writes += 1;
            }
        }
        Ok(())
    }

    fn remove_interfaces(&mut self) -> Result<()> {
        let Some(host) = &self.desired.host else {
            return Ok(());
        };
        let known = self.actual.interfaces.keys();
        for ifindex in known.filter(|ifindex| !host.interfaces.contains_key(ifindex)) {
            self.dataplane.remove_interface(*ifindex)?;
            self.writes += 1;
        }
        Ok(())
    }

    /// Gives addresses the roles that they don't have yet.
    fn add_roles(&mut self) -> Result<()> {
        for (address, wanted) in &self.wanted_roles {
            let actual = self.actual.roles.get(address).copied();
            let roles = in_between(actual.unwrap_or_default(), *wanted);
            if actual != Some(roles) {
                self.dataplane.set_roles(*address, roles)?;
                self.actual.roles.insert(*address, roles);
                self.writes += 1;
            }
        }
        Ok(())
    }

    /// Takes the roles that they should not have any more.
    fn remove_roles(&mut self) -> Result<()> {
        for (address, actual) in &self.actual.roles {
            match self.wanted_roles.get(address) {
                Some(wanted) if wanted == actual => continue,
                Some(wanted) => self.dataplane.set_roles(*address, *wanted)?,
                None => self.dataplane.remove_roles(*address)?,
            }
            self.writes += 1;
        }
        Ok(())
    }

    /// Whether the slots of a service are about to name backends that they don't name now.
    fn gains_backends(&self, id: ServiceId) -> Result<bool> {
        let Some(index) = self.ids.services.iter().position(|known| *known == id) else {
            return Ok(false);
        };
        let now: HashSet<BackendId> = self.dataplane.slots(id)?.into_iter().collect();
        let next = self.wanted_slots(index);
        Ok(next.iter().any(|id| !now.contains(id)))
    }

    /// Writes those of the wanted entries that differ, if they are new or `now` says so.
    fn write_backends(&mut self, now: impl Fn(&BackendEntry) -> bool) -> Result<()> {
        for (id, entry) in &self.wanted_backends {
            let current = self.actual.backends.get(id);
            if current != Some(entry) && (current.is_none() || now(entry)) {
                self.dataplane.set_backend(*id, entry)?;
                self.actual.backends.insert(*id, *entry);
                self.writes += 1;
            }
        }
        Ok(())
    }

    /// Writes record, slots, then listeners of each service. Services that no listener points at yet go first, so that a listener
    /// which moves to one has left its old service before that one changes.
    fn write_services(&mut self) -> Result<()> {
        let used: HashSet<ServiceId> = self.actual.listeners.values().copied().collect();
        let mut order: Vec<usize> = (0..self.desired.services.len()).collect();
        order.sort_by_key(|index| used.contains(&self.ids.services[*index]));
        for index in order {
            self.write_service(index)?;
        }
        Ok(())
    }

    fn write_service(&mut self, index: usize) -> Result<()> {
        let desired = self.desired;
        let service = &desired.services[index];
        let id = self.ids.services[index];
        if self.actual.services.get(&id) != Some(&service.record) {
            self.dataplane.set_service(id, service.record)?;
            self.writes += 1;
        }
        let slots = self.wanted_slots(index);
        if self.dataplane.slots(id)? != slots {
            self.dataplane.set_slots(id, &slots)?;
            self.writes += 1;
        }
        self.write_listeners(&service.listeners, id)
    }

    /// The slots that a service should have.
    fn wanted_slots(&self, index: usize) -> Vec<BackendId> {
        let service = &self.desired.services[index];
        let candidates: Vec<Candidate> = service
            .backends
            .iter()
            .zip(&self.ids.backends[index])
            .map(|(backend, id)| Candidate {
                id: *id,
                address: backend.address,
                weight: backend.weight,
                ready: backend.ready && (!service.is_direct() || self.is_on_link(*id)),
            })
            .collect();
        scheduler::slots(service.scheduler, &candidates)
    }

    /// Whether a backend can be reached without a router.
    fn is_on_link(&self, id: BackendId) -> bool {
        self.wanted_backends.get(&id).is_some_and(|entry| entry.on_link != 0)
    }

    fn remove_unwanted_services(&mut self) -> Result<()> {
        let wanted: HashSet<ServiceId> = self.ids.services.iter().copied().collect();
        for id in self.actual.services.keys().filter(|id| !wanted.contains(id)) {
            self.dataplane.remove_service(*id)?;
            self.writes += 1;
        }
        Ok(())
    }
}
