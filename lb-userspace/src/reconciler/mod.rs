//! Makes the maps say what the configuration, the health and the ways ask for: desired minus actual, in an order in which no packet
//! ever meets a half-written service.
//!
//! Every call starts from what the maps say, so an attempt that failed, an agent that died and an agent that was upgraded are all
//! the same case: the next call writes what still differs.
//!
//! The order, and what it guarantees at every moment in between:
//! 1. Listeners that nobody wants go first: their packets belong to the kernel from here on, whatever happens to the service.
//! 2. Backends are written before slots that name them: no slot names a backend that is not set.
//! 3. Record and slots of a service are written before a listener that points at it.
//! 4. Services that nobody wants, and the marks of dead and removed backends, come last: nothing new leads there any more.

#![forbid(unsafe_code)]

mod actual;
mod desired;
mod ids;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

pub use self::desired::{Desired, DesiredBackend, DesiredService};
use self::{actual::Actual, ids::Ids};
use crate::{
    dataplane::{BackendEntry, BackendId, Dataplane, Result, ServiceId},
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
    let wanted = wanted_backends(desired, &ids, &actual);
    let report = report(desired, &ids, &actual, &wanted);
    let mut reconciliation = Reconciliation {
        dataplane,
        desired,
        actual,
        ids,
        writes: 0,
    };
    reconciliation.write_settings()?;
    reconciliation.remove_unwanted_listeners()?;
    reconciliation.write_backends(&wanted, |entry| entry.alive)?;
    reconciliation.write_services()?;
    reconciliation.remove_unwanted_services()?;
    reconciliation.write_backends(&wanted, |_| true)?;
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
        let ids: BTreeSet<ServiceId> = service
            .listeners
            .iter()
            .filter_map(|listener| actual.listeners.get(listener).copied())
            .collect();
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
                mtu: unknown.mtu,
                source: unknown.source,
            });
            entry.alive = backend.alive;
        }
    }
    for entry in wanted.values_mut() {
        if let Some(way) = desired.ways.get(&entry.address.ip()) {
            entry.next_hop = way.next_hop;
            entry.mtu = way.mtu;
            entry.source = way.source;
        }
    }
    wanted
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
    writes: usize,
}

impl Reconciliation<'_> {
    /// Writes pool and settings so that the program never counts more addresses than there are.
    fn write_settings(&mut self) -> Result<()> {
        let settings = self.desired.settings;
        let addresses = &self.desired.snat_addresses;
        let pool_differs = self.actual.snat_addresses != *addresses;
        let settings_differ = self.actual.settings != Some(settings);
        let shrinks = addresses.len() < self.actual.snat_addresses.len();
        if pool_differs && !shrinks {
            self.dataplane.set_snat_addresses(addresses)?;
            self.writes += 1;
        }
        if settings_differ {
            self.dataplane.set_settings(settings)?;
            self.writes += 1;
        }
        if pool_differs && shrinks {
            self.dataplane.set_snat_addresses(addresses)?;
            self.writes += 1;
        }
        Ok(())
    }

    /// Removes listeners that nobody wants, and those that would lead to another service's backends while services exchange them.
    fn remove_unwanted_listeners(&mut self) -> Result<()> {
        let mut wanted = HashMap::new();
        for (service, id) in self.desired.services.iter().zip(&self.ids.services) {
            wanted.extend(service.listeners.iter().map(|listener| (*listener, *id)));
        }
        let used: HashSet<ServiceId> = (self.actual.listeners.iter())
            .filter(|(listener, _)| wanted.contains_key(*listener))
            .map(|(_, id)| *id)
            .collect();
        let mut gone = Vec::new();
        for (listener, current) in &self.actual.listeners {
            let stays = match wanted.get(listener) {
                None => false,
                // A service without listeners is made first, so that this one moves before anything happens to the one it has.
                Some(target) => target == current || !used.contains(target) || !self.gains_backends(*current)?,
            };
            if !stays {
                gone.push(*listener);
            }
        }
        for listener in gone {
            self.dataplane.remove_listener(listener)?;
            self.actual.listeners.remove(&listener);
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
        let next = slots(&self.desired.services[index], &self.ids.backends[index]);
        Ok(next.iter().any(|id| !now.contains(id)))
    }

    /// Writes those of the wanted entries that differ, if they are new or `now` says so.
    fn write_backends(
        &mut self,
        wanted: &BTreeMap<BackendId, BackendEntry>,
        now: impl Fn(&BackendEntry) -> bool,
    ) -> Result<()> {
        for (id, entry) in wanted {
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
        let service = &self.desired.services[index];
        let id = self.ids.services[index];
        if self.actual.services.get(&id) != Some(&service.record) {
            self.dataplane.set_service(id, service.record)?;
            self.writes += 1;
        }
        let slots = slots(service, &self.ids.backends[index]);
        if self.dataplane.slots(id)? != slots {
            self.dataplane.set_slots(id, &slots)?;
            self.writes += 1;
        }
        for listener in &service.listeners {
            if self.actual.listeners.get(listener) != Some(&id) {
                self.dataplane.set_listener(*listener, id)?;
                self.writes += 1;
            }
        }
        Ok(())
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

fn slots(service: &DesiredService, ids: &[BackendId]) -> Vec<BackendId> {
    let candidates: Vec<Candidate> = service
        .backends
        .iter()
        .zip(ids)
        .map(|(backend, id)| Candidate {
            id: *id,
            address: backend.address,
            weight: backend.weight,
            ready: backend.ready,
        })
        .collect();
    scheduler::slots(service.scheduler, &candidates)
}
