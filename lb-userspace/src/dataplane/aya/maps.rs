//! Handles of the maps, and what an earlier agent left in them.

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray},
};
use lb_common::{
    address::{V4, V6},
    counters::Traffic,
    interface::Interface,
    maps,
    role::Roles,
    service::Service,
    settings::Settings,
};

use super::{family::FamilyMaps, load::LoadError};
use crate::dataplane::{BackendEntry, BackendId, Family, ListenerEntry, ServiceId};

/// Handles of the maps.
pub(super) struct Maps {
    pub(super) v4: FamilyMaps<V4>,
    pub(super) v6: FamilyMaps<V6>,
    pub(super) services: Array<MapData, Service>,
    pub(super) slots: ArrayOfMaps<MapData, Array<MapData, u32>>,
    pub(super) interfaces: HashMap<MapData, u32, Interface>,
    pub(super) settings: Array<MapData, Settings>,
    pub(super) half_open: Array<MapData, u64>,
    pub(super) verdicts: PerCpuArray<MapData, u64>,
    pub(super) service_traffic: PerCpuArray<MapData, Traffic>,
    pub(super) backend_traffic: PerCpuArray<MapData, Traffic>,
}

/// What the agent has written into its maps.
#[derive(Default)]
pub(super) struct Written {
    pub(super) listeners: BTreeMap<ListenerEntry, ServiceId>,
    pub(super) services: BTreeMap<ServiceId, Service>,
    pub(super) slots: BTreeMap<ServiceId, Vec<BackendId>>,
    pub(super) backends: BTreeMap<BackendId, BackendEntry>,
    pub(super) snat: BTreeMap<Family, Vec<IpAddr>>,
    pub(super) roles: BTreeMap<IpAddr, Roles>,
    pub(super) interfaces: BTreeMap<u32, Interface>,
}

/// Takes the handle of one map out of the loaded object.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError> {
    let map = ebpf
        .take_map(name)
        .ok_or(MapError::InvalidName { name: name.to_owned() });
    map.and_then(T::try_from)
        .map_err(|source| LoadError::Map { name, source })
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            v4: FamilyMaps::take(ebpf)?,
            v6: FamilyMaps::take(ebpf)?,
            services: take(ebpf, maps::SERVICES)?,
            slots: take(ebpf, maps::SLOTS)?,
            interfaces: take(ebpf, maps::INTERFACES)?,
            settings: take(ebpf, maps::SETTINGS)?,
            half_open: take(ebpf, maps::HALF_OPEN)?,
            verdicts: take(ebpf, maps::VERDICTS)?,
            service_traffic: take(ebpf, maps::SERVICE_TRAFFIC)?,
            backend_traffic: take(ebpf, maps::BACKEND_TRAFFIC)?,
        })
    }

    /// Reads back what an earlier agent wrote. Slots are read when they are asked for.
    pub(super) fn read_written(&self) -> Result<Written, LoadError> {
        let error = |name| move |source| LoadError::Map { name, source };
        let settings = self.settings.get(&0, 0).map_err(error(maps::SETTINGS))?;
        let mut written = Written::default();
        self.v4
            .read_written(Family::V4, settings.snat_addresses_v4, &mut written)?;
        self.v6
            .read_written(Family::V6, settings.snat_addresses_v6, &mut written)?;
        for id in 1..self.services.len() {
            let service = self.services.get(&id, 0).map_err(error(maps::SERVICES))?;
            if service.defined != 0 {
                written.services.insert(ServiceId(id), service);
            }
        }
        for entry in &self.interfaces {
            let (ifindex, interface) = entry.map_err(error(maps::INTERFACES))?;
            written.interfaces.insert(ifindex, interface);
        }
        Ok(written)
    }
}
