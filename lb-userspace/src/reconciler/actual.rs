//! What the maps say.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use lb_common::{interface::Interface, role::Roles, service::Service as Record, settings::Settings};

use crate::dataplane::{BackendEntry, BackendId, Dataplane, Family, ListenerEntry, Result, ServiceId};

/// Everything in the maps but slots, connections and counters.
#[derive(Clone, Debug)]
pub(super) struct Actual {
    pub(super) listeners: BTreeMap<ListenerEntry, ServiceId>,
    pub(super) services: BTreeMap<ServiceId, Record>,
    pub(super) backends: BTreeMap<BackendId, BackendEntry>,
    pub(super) snat_addresses: BTreeMap<Family, Vec<IpAddr>>,
    pub(super) roles: BTreeMap<IpAddr, Roles>,
    pub(super) interfaces: BTreeMap<u32, Interface>,
    pub(super) settings: Option<Settings>,
}

impl Actual {
    pub(super) fn read(dataplane: &dyn Dataplane) -> Result<Self> {
        Ok(Self {
            listeners: dataplane.listeners()?.into_iter().collect(),
            services: dataplane.services()?.into_iter().collect(),
            backends: dataplane.backends()?.into_iter().collect(),
            snat_addresses: Family::ALL
                .into_iter()
                .map(|family| Ok((family, dataplane.snat_addresses(family)?)))
                .collect::<Result<_>>()?,
            roles: dataplane.roles()?.into_iter().collect(),
            interfaces: dataplane.interfaces()?.into_iter().collect(),
            settings: dataplane.settings()?,
        })
    }

    /// The id of each backend, by service and address. Should there be two, the lower one counts.
    pub(super) fn backend_ids(&self) -> HashMap<(ServiceId, SocketAddr), BackendId> {
        let mut ids = HashMap::with_capacity(self.backends.len());
        for (id, entry) in &self.backends {
            ids.entry((entry.service, entry.address)).or_insert(*id);
        }
        ids
    }
}
