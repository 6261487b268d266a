//! Who has which number in the maps.
//!
//! Ids are not stored anywhere else: they are read back from the maps, so that a restart, a rename or a new order in the file moves
//! nothing. An id is free when no entry of the maps has it. A backend that leaves the configuration keeps its entry, and thereby
//! its id, until no connection names it any more: see [`super::release`].

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::limits::{
    MAX_ADDRESSES, MAX_BACKENDS, MAX_LISTENERS, MAX_PORT_PREFIXES, MAX_SERVICES, MAX_SNAT_ADDRESSES,
};

use super::{Desired, DesiredService, actual::Actual, listeners::nested};
use crate::dataplane::{BackendId, DataplaneError, Family, Result, ServiceId};

/// The ids of everything desired.
#[derive(Debug)]
pub(super) struct Ids {
    /// In the order of the desired services.
    pub(super) services: Vec<ServiceId>,
    /// In the order of the desired services and of their backends.
    pub(super) backends: Vec<Vec<BackendId>>,
}

/// More is wanted than a map holds.
#[derive(Debug, thiserror::Error)]
#[error("{wanted} {what} are configured, at most {limit} fit: configure fewer")]
struct TooMany {
    what: &'static str,
    wanted: usize,
    limit: u32,
}

/// No id is left, though what is configured would fit.
#[derive(Debug, thiserror::Error)]
#[error("all {limit} ids are taken, by removed {what} with live connections too: try again when those have ended")]
struct NoneFree {
    what: &'static str,
    limit: u32,
}

impl Ids {
    /// The ids that the desired state has already, and free ones for what is new.
    ///
    /// # Errors
    /// When more is desired than fits into the maps. Nothing was written then.
    pub(super) fn assign(desired: &Desired, actual: &Actual) -> Result<Self> {
        check_capacities(desired)?;
        let services = assign_services(desired, actual)?;
        let known = actual.backend_ids();
        let mut free = (1..MAX_BACKENDS)
            .map(BackendId)
            .filter(|id| !actual.backends.contains_key(id));
        let mut backend_id = |service: &DesiredService, id: ServiceId, address: SocketAddr| {
            if let Some(known) = known.get(&(id, address)) {
                return Ok(*known);
            }
            free.next().ok_or_else(|| DataplaneError {
                operation: format!("give backend {address} of service {} an id", service.name),
                source: Box::new(NoneFree {
                    what: "backends",
                    limit: MAX_BACKENDS - 1,
                }),
            })
        };
        let backends = desired
            .services
            .iter()
            .zip(&services)
            .map(|(service, id)| {
                let addresses = service.backends.iter().map(|backend| backend.address);
                addresses.map(|address| backend_id(service, *id, address)).collect()
            })
            .collect::<Result<_>>()?;
        Ok(Self { services, backends })
    }
}

/// The ids of desired backends that the maps have already. Unlike [`Ids::assign`] it can't fail for lack of free ones.
pub(super) fn existing_backends(desired: &Desired, actual: &Actual) -> HashSet<BackendId> {
    let known = actual.backend_ids();
    let services = desired.services.iter().zip(existing_services(desired, actual));
    services
        .filter_map(|(service, id)| Some((service, id?)))
        .flat_map(|(service, id)| service.backends.iter().map(move |backend| (id, backend.address)))
        .filter_map(|key| known.get(&key).copied())
        .collect()
}

/// The id that each service has already: that of one of its listeners, else that of a service nobody claims which has one of its
/// backends, else some of its ports (so that a new VIP, another range, or an attempt that failed half-way, is no new service).
fn existing_services(desired: &Desired, actual: &Actual) -> Vec<Option<ServiceId>> {
    let mut claimed: HashSet<ServiceId> = HashSet::new();
    let mut ids: Vec<Option<ServiceId>> = desired
        .services
        .iter()
        .map(|service| {
            let mut known = service
                .listeners
                .iter()
                .filter_map(|listener| actual.listeners.get(listener));
            known.find(|id| claimed.insert(**id)).copied()
        })
        .collect();

    let mut by_backend: HashMap<SocketAddr, BTreeSet<ServiceId>> = HashMap::new();
    for entry in actual.backends.values() {
        by_backend.entry(entry.address).or_default().insert(entry.service);
    }
    for (service, id) in desired.services.iter().zip(&mut ids).filter(|(_, id)| id.is_none()) {
        let mut sharing = service
            .backends
            .iter()
            .filter_map(|backend| by_backend.get(&backend.address))
            .flatten();
        *id = sharing.find(|id| claimed.insert(**id)).copied();
    }

    for (service, id) in desired.services.iter().zip(&mut ids).filter(|(_, id)| id.is_none()) {
        let mut known = service
            .listeners
            .iter()
            .flat_map(|listener| nested(&actual.listeners, *listener));
        *id = known.find(|(_, id)| claimed.insert(**id)).map(|(_, id)| *id);
    }
    ids
}

/// The id of each service: the one it has, else the lowest that no listener and no backend names.
fn assign_services(desired: &Desired, actual: &Actual) -> Result<Vec<ServiceId>> {
    let existing = existing_services(desired, actual);
    let taken: HashSet<ServiceId> = (actual.listeners.values().copied())
        .chain(actual.backends.values().map(|entry| entry.service))
        .collect();
    let mut free = (1..MAX_SERVICES).map(ServiceId).filter(|id| !taken.contains(id));
    desired
        .services
        .iter()
        .zip(existing)
        .map(|(service, id)| {
            id.or_else(|| free.next()).ok_or_else(|| DataplaneError {
                operation: format!("give service {} an id", service.name),
                source: Box::new(NoneFree {
                    what: "services",
                    limit: MAX_SERVICES - 1,
                }),
            })
        })
        .collect()
}

fn check_capacities(desired: &Desired) -> Result<()> {
    let backends = desired.services.iter().map(|service| service.backends.len()).sum();
    // Id 0 means unset.
    check_capacity("services", desired.services.len(), MAX_SERVICES - 1)?;
    check_capacity("backends", backends, MAX_BACKENDS - 1)?;
    for family in Family::ALL {
        let pool = desired.snat_addresses.get(&family).map_or(0, Vec::len);
        check_capacity("snat addresses of one IP family", pool, MAX_SNAT_ADDRESSES)?;
        let entries = || {
            let all = desired.services.iter().flat_map(|service| &service.listeners);
            all.filter(|entry| Family::of(entry.address) == family)
        };
        let ranges = entries().filter(|entry| entry.is_range()).count();
        check_capacity("blocks of ports (30 at most for a range)", ranges, MAX_PORT_PREFIXES)?;
        check_capacity("listeners", entries().count() - ranges, MAX_LISTENERS)?;
        let backends = desired.services.iter().flat_map(|service| &service.backends);
        let addresses: HashSet<IpAddr> = (entries().map(|entry| entry.address))
            .chain(backends.map(|backend| backend.address.ip()))
            .filter(|address| Family::of(*address) == family)
            .collect();
        check_capacity("addresses", addresses.len(), MAX_ADDRESSES)?;
    }
    Ok(())
}

fn check_capacity(what: &'static str, wanted: usize, limit: u32) -> Result<()> {
    if wanted <= limit as usize {
        return Ok(());
    }
    Err(DataplaneError {
        operation: "put the configuration in force".to_owned(),
        source: Box::new(TooMany { what, wanted, limit }),
    })
}
