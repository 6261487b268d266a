//! Capacities of the data plane, each with its unit, its reason and what it costs.
//!
//! Memory is for preallocated maps, per host, in use from the start.

/// Services. Service ids run from 1; id 0 means "unset", so that a zeroed map entry never points at anything.
///
/// Array of 8 bytes, array of map references of 8 bytes, per-CPU counters of 40 bytes: 256 KiB and 640 KiB per CPU.
pub const MAX_SERVICES: u32 = 16_384;

/// Listeners with a single port over all services, per IP family.
///
/// Hash maps of 8-byte and 20-byte keys: about 4 MiB and 5 MiB.
pub const MAX_LISTENERS: u32 = 65_536;

/// Prefixes that listeners with a range of ports are made of, over all services, per IP family. A range takes 30 at most, any port takes
/// one.
///
/// Allocated as they are written: about 64 bytes each.
pub const MAX_PORT_PREFIXES: u32 = 65_536;

/// Addresses with a role: VIPs, backends, and those of the `snat` pool, per IP family.
///
/// Allocated as they are written: about 64 bytes each.
pub const MAX_ADDRESSES: u32 = 131_072;

/// Interfaces of the host.
///
/// Allocated as they are written: about 96 bytes each.
pub const MAX_INTERFACES: u32 = 16_384;

/// Backends over all services; the same server in two services counts twice. Ids run from 1; id 0 means "unset".
///
/// Arrays of 44 bytes for IPv4 and 68 for IPv6, per-CPU counters of 40 bytes: 7 MiB and 2.5 MiB per CPU.
pub const MAX_BACKENDS: u32 = 65_536;

/// Slots of one service's scheduler table: a prime, as Maglev wants it (Maglev paper, section 3.4), which leaves a disruption well
/// below 1 % up to several hundred backends.
///
/// 4 bytes a slot: 256 KiB for a service that uses all of them; the agent picks a smaller prime for few backends.
pub const MAX_SLOTS: u32 = 65_537;

/// Source addresses for translated sources, per IP family.
pub const MAX_SNAT_ADDRESSES: u32 = 64;

/// Random ports tried for a translated source when the client's own is taken; then follow [`SNAT_PORT_WALK`] adjacent ones.
///
/// With half of the ports taken for one (source address, backend) pair, 8 tries fail for 0.4 % of new connections, with nine of ten
/// taken for 43 %.
pub const SNAT_PORT_TRIES: u32 = 8;

/// Adjacent ports tried after the random ones, from a random one on (RFC 6056, section 3.3.1): as many as a small pool has, so that
/// such a pool is used up wholly. More would cost verifier instructions, and time under exhaustion.
pub const SNAT_PORT_WALK: u32 = 64;

/// Packets whose fragments are on their way, per IP family.
///
/// LRU hash maps of 48 and 96 bytes with their overhead of 64: 7 MiB and 10 MiB. At 100,000 fragmented packets a second a note is
/// there for 300 ms; fragments of one packet come within a few.
pub const MAX_FRAGMENTED_PACKETS: u32 = 65_536;

/// How long a first fragment binds those that follow it, in nanoseconds, unless the last one came. A sender that goes through all
/// 65,536 identifications of IPv4 faster than that has lost more than this balancer can mend (RFC 4963).
pub const FRAGMENT_LIFETIME_NS: u64 = 2_000_000_000;

/// Bytes of the buffer in which fragments wait that came before the first one of their packet: a power of two and a multiple of
/// the page size.
pub const HELD_BYTES: u32 = 1 << 20;

/// ICMP errors of the program's own per second and CPU (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 (f)): what Linux sends at
/// most (`icmp_msgs_per_sec`).
pub const ICMP_ERRORS_PER_SECOND: u32 = 1000;

/// IPv6 extension headers that are followed to find the ports of a packet.
pub const MAX_EXTENSION_HEADERS: usize = 8;

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
