//! Every map of the program. Names, limits and layouts are `lb-common`'s; the agent sets the size of the connection table when it
//! loads the program.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    address::V4,
    backend::Backend,
    connection::Connection,
    counters::Traffic,
    flow::FlowKey,
    limits::{
        DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_HALF_OPEN, MAX_BACKENDS, MAX_LISTENERS, MAX_REASONS, MAX_SERVICES,
        MAX_SLOTS, MAX_SNAT_ADDRESSES,
    },
    service::{ListenerKey, Service},
    settings::Settings,
};

/// Inner arrays of one map may differ in size (`BPF_F_INNER_MAP`, kernel 5.10).
const INNER_MAP: usize = 0x1000;

/// The number of slots, then the slots.
pub(crate) type SlotTable = Array<u32, { MAX_SLOTS as usize + 1 }, INNER_MAP>;

#[btf_map]
pub(crate) static LISTENERS_V4: HashMap<ListenerKey<V4>, u32, { MAX_LISTENERS as usize }> = HashMap::new();

#[btf_map]
pub(crate) static SERVICES: Array<Service, { MAX_SERVICES as usize }> = Array::new();

#[btf_map]
pub(crate) static SLOTS: ArrayOfMaps<SlotTable, { MAX_SERVICES as usize }> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static CURSORS: Array<u64, { MAX_SERVICES as usize }> = Array::new();

#[btf_map]
pub(crate) static BACKENDS_V4: Array<Backend<V4>, { MAX_BACKENDS as usize }> = Array::new();

#[btf_map]
pub(crate) static CONNECTIONS_V4: HashMap<
    FlowKey<V4>,
    Connection<V4>,
    { 2 * (DEFAULT_MAX_CONNECTIONS + DEFAULT_MAX_HALF_OPEN) as usize },
> = HashMap::new();

#[btf_map]
pub(crate) static SNAT_V4: Array<V4, { MAX_SNAT_ADDRESSES as usize }> = Array::new();

#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub(crate) static HALF_OPEN: Array<u64, 1> = Array::new();

#[btf_map]
pub(crate) static VERDICTS: PerCpuArray<u64, { MAX_REASONS as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static SERVICE_TRAFFIC: PerCpuArray<Traffic, { MAX_SERVICES as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static BACKEND_TRAFFIC: PerCpuArray<Traffic, { MAX_BACKENDS as usize }> = PerCpuArray::new();
