//! Capacities of the data plane, each with its unit, its reason and what it costs.
//!
//! Memory is for preallocated maps, per host, in use from the start.

/// Services. Service ids run from 1; id 0 means "unset", so that a zeroed map entry never points at anything.
///
/// Array of 8 bytes, array of map references of 8 bytes, per-CPU counters of 40 bytes: 256 KiB and 640 KiB per CPU.
pub const MAX_SERVICES: u32 = 16_384;

/// Listeners over all services.
///
/// Hash map of 8-byte keys: about 4 MiB.
pub const MAX_LISTENERS: u32 = 65_536;

/// Backends over all services; the same server in two services counts twice. Ids run from 1; id 0 means "unset".
///
/// Array of 36 bytes, per-CPU counters of 40 bytes: 2.3 MiB and 2.5 MiB per CPU.
pub const MAX_BACKENDS: u32 = 65_536;

/// Slots of one service's scheduler table: a prime, as Maglev wants it (Maglev paper, section 3.4), which leaves a disruption well
/// below 1 % up to several hundred backends.
///
/// 4 bytes a slot: 256 KiB for a service that uses all of them; the agent picks a smaller prime for few backends.
pub const MAX_SLOTS: u32 = 65_537;

/// Source addresses for `full_nat`.
pub const MAX_SNAT_ADDRESSES: u32 = 64;

/// Random ports tried for a new `full_nat` connection when the client's own is taken, before the packet is dropped and counted.
///
/// With nine ports of ten taken for one (source address, backend) pair, 16 tries fail for 18 % of new connections; with half of
/// them taken for 0.002 %. More tries would cost verifier instructions and time under exhaustion.
pub const SNAT_PORT_TRIES: u32 = 16;

/// Established connections when the configuration does not say: see `connections.max`.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 262_144;

/// Half-open connections when the configuration does not say: see `connections.half_open_max`.
pub const DEFAULT_MAX_HALF_OPEN: u32 = 65_536;

/// An entry's time stamp is written at most this often, in nanoseconds: a busy connection would otherwise bounce a cache line
/// between CPUs with every packet. Timeouts are therefore exact to a second.
pub const TOUCH_INTERVAL_NS: u64 = 1_000_000_000;

/// Slots of the verdict counters. Reasons are append-only numbers below it.
pub const MAX_REASONS: u32 = 64;

/// Largest value of `connections.max` and of `connections.half_open_max`.
///
/// Two entries of about 128 bytes a connection: 4 GiB, more than a gateway has to spare by accident.
pub const MAX_CONNECTIONS: u32 = 16_777_216;
