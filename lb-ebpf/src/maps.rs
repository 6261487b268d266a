//! Every map of the program. Names, limits and layouts are `lb-common`'s; the agent sets the size of the connection tables when it
//! loads the program.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use lb_common::{
    address::{V4, V6},
    backend::Backend,
    connection::Connection,
    counters::{Budget, Traffic},
    flow::FlowKey,
    fragment::{FragmentKey, FragmentNote, HeldFragment},
    interface::Interface,
    limits::{
        DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_HALF_OPEN, HELD_BYTES, MAX_ADDRESSES, MAX_BACKENDS,
        MAX_FRAGMENTED_PACKETS, MAX_INTERFACES, MAX_LISTENERS, MAX_PORT_PREFIXES, MAX_REASONS, MAX_SERVICES, MAX_SLOTS,
        MAX_SNAT_ADDRESSES,
    },
    port_prefix::PortPrefix,
    role::Roles,
    service::{ListenerKey, Service},
    settings::Settings,
};

use crate::{desk::Room, scratch::Scratch};

/// Inner arrays of one map may differ in size (`BPF_F_INNER_MAP`, kernel 5.10).
const INNER_MAP: usize = 0x1000;
/// For maps that the agent alone writes, mostly empty: memory as it is needed.
const AS_NEEDED: usize = BPF_F_NO_PREALLOC as usize;

/// The number of slots, then the slots.
pub(crate) type SlotTable = Array<u32, { MAX_SLOTS as usize + 1 }, INNER_MAP>;

// Maps that hold addresses, by family.
pub(crate) type Listeners<A> = HashMap<ListenerKey<A>, u32, { MAX_LISTENERS as usize }>;
pub(crate) type PortRanges<A> = LpmTrie<PortPrefix<A>, u32, { MAX_PORT_PREFIXES as usize }>;
pub(crate) type Backends<A> = Array<Backend<A>, { MAX_BACKENDS as usize }>;
pub(crate) type Connections<A> =
    HashMap<FlowKey<A>, Connection<A>, { 2 * (DEFAULT_MAX_CONNECTIONS + DEFAULT_MAX_HALF_OPEN) as usize }>;
pub(crate) type SnatAddresses<A> = Array<A, { MAX_SNAT_ADDRESSES as usize }>;
pub(crate) type Addresses<A> = HashMap<A, Roles, { MAX_ADDRESSES as usize }, AS_NEEDED>;
pub(crate) type Fragments<A> = LruHashMap<FragmentKey<A>, FragmentNote<A>, { MAX_FRAGMENTED_PACKETS as usize }>;

#[btf_map]
pub(crate) static LISTENERS_V4: Listeners<V4> = Listeners::new();

#[btf_map]
pub(crate) static LISTENERS_V6: Listeners<V6> = Listeners::new();

#[btf_map]
pub(crate) static PORT_RANGES_V4: PortRanges<V4> = PortRanges::new();

#[btf_map]
pub(crate) static PORT_RANGES_V6: PortRanges<V6> = PortRanges::new();

#[btf_map]
pub(crate) static SERVICES: Array<Service, { MAX_SERVICES as usize }> = Array::new();

#[btf_map]
pub(crate) static SLOTS: ArrayOfMaps<SlotTable, { MAX_SERVICES as usize }> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static CURSORS: Array<u64, { MAX_SERVICES as usize }> = Array::new();

#[btf_map]
pub(crate) static BACKENDS_V4: Backends<V4> = Backends::new();

#[btf_map]
pub(crate) static BACKENDS_V6: Backends<V6> = Backends::new();

#[btf_map]
pub(crate) static CONNECTIONS_V4: Connections<V4> = Connections::new();

#[btf_map]
pub(crate) static CONNECTIONS_V6: Connections<V6> = Connections::new();

#[btf_map]
pub(crate) static SNAT_V4: SnatAddresses<V4> = SnatAddresses::new();

#[btf_map]
pub(crate) static SNAT_V6: SnatAddresses<V6> = SnatAddresses::new();

#[btf_map]
pub(crate) static ADDRESSES_V4: Addresses<V4> = Addresses::new();

#[btf_map]
pub(crate) static ADDRESSES_V6: Addresses<V6> = Addresses::new();

#[btf_map]
pub(crate) static INTERFACES: HashMap<u32, Interface, { MAX_INTERFACES as usize }, AS_NEEDED> = HashMap::new();

#[btf_map]
pub(crate) static FRAGMENTS_V4: Fragments<V4> = Fragments::new();

#[btf_map]
pub(crate) static FRAGMENTS_V6: Fragments<V6> = Fragments::new();

#[btf_map]
pub(crate) static HELD: RingBuf<HeldFragment, { HELD_BYTES as usize }> = RingBuf::new();

#[btf_map]
pub(crate) static ICMP_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

/// See [`crate::desk`]. Holds nothing between packets, and is not pinned.
#[btf_map]
pub(crate) static DESK: PerCpuArray<Room, 1> = PerCpuArray::new();

/// See [`crate::scratch`]. Holds nothing between packets, and is not pinned.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

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
