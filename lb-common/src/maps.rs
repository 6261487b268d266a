//! Names of the maps: in the object file, in `bpftool map`, and as file names under the pin directory.
//!
//! The kernel keeps 15 characters of a name. Maps that hold addresses exist once per family.

/// Listener with a single port to service id, IPv4. Written by the agent.
pub const LISTENERS_V4: &str = "LISTENERS_V4";
/// Listener with a single port to service id, IPv6. Written by the agent.
pub const LISTENERS_V6: &str = "LISTENERS_V6";
/// [`crate::port_prefix::PortPrefix`] to service id, IPv4. Written by the agent.
pub const PORT_RANGES_V4: &str = "PORT_RANGES_V4";
/// [`crate::port_prefix::PortPrefix`] to service id, IPv6. Written by the agent.
pub const PORT_RANGES_V6: &str = "PORT_RANGES_V6";
/// Service id to [`crate::service::Service`]. Written by the agent.
pub const SERVICES: &str = "SERVICES";
/// Service id to its scheduler table: an inner array whose element 0 is the number of slots and whose other elements are backend
/// ids. Written by the agent, a whole table at a time.
pub const SLOTS: &str = "SLOTS";
/// Service id to the round-robin cursor. Written by the program.
pub const CURSORS: &str = "CURSORS";
/// Backend id to [`crate::backend::Backend`], IPv4. Written by the agent.
pub const BACKENDS_V4: &str = "BACKENDS_V4";
/// Backend id to [`crate::backend::Backend`], IPv6. Written by the agent. An id is used in one of the two maps.
pub const BACKENDS_V6: &str = "BACKENDS_V6";
/// Connection entries, IPv4. Created by the program, expired by the agent.
pub const CONNECTIONS_V4: &str = "CONNECTIONS_V4";
/// Connection entries, IPv6. Created by the program, expired by the agent.
pub const CONNECTIONS_V6: &str = "CONNECTIONS_V6";
/// Source addresses for translated sources, IPv4. Written by the agent.
pub const SNAT_V4: &str = "SNAT_V4";
/// Source addresses for translated sources, IPv6. Written by the agent.
pub const SNAT_V6: &str = "SNAT_V6";
/// Address to [`crate::role::Roles`], IPv4. Written by the agent.
pub const ADDRESSES_V4: &str = "ADDRESSES_V4";
/// Address to [`crate::role::Roles`], IPv6. Written by the agent.
pub const ADDRESSES_V6: &str = "ADDRESSES_V6";
/// Index to [`crate::interface::Interface`]. Written by the agent.
pub const INTERFACES: &str = "INTERFACES";
/// [`crate::fragment::FragmentKey`] to [`crate::fragment::FragmentNote`], IPv4. Written by the program; the least recently used make room.
pub const FRAGMENTS_V4: &str = "FRAGMENTS_V4";
/// [`crate::fragment::FragmentKey`] to [`crate::fragment::FragmentNote`], IPv6. Written by the program; the least recently used make room.
pub const FRAGMENTS_V6: &str = "FRAGMENTS_V6";
/// Ring buffer of [`crate::fragment::HeldFragment`]. Written by the program, read by the agent.
pub const HELD: &str = "HELD";
/// One [`crate::counters::Budget`] per CPU: ICMP errors of the program's own. Written by the program.
pub const ICMP_BUDGET: &str = "ICMP_BUDGET";
/// One [`crate::settings::Settings`]. Written by the agent.
pub const SETTINGS: &str = "SETTINGS";
/// One number: half-open connections now. Counted by the program, corrected by the agent.
pub const HALF_OPEN: &str = "HALF_OPEN";
/// Reason to packets, per CPU. Written by the program.
pub const VERDICTS: &str = "VERDICTS";
/// Service id to [`crate::counters::Traffic`], per CPU. Written by the program.
pub const SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
/// Backend id to [`crate::counters::Traffic`], per CPU. Written by the program.
pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";

/// Every map of the program, in the order in which they are pinned and checked.
pub const ALL: [&str; 25] = [
    LISTENERS_V4,
    LISTENERS_V6,
    PORT_RANGES_V4,
    PORT_RANGES_V6,
    SERVICES,
    SLOTS,
    CURSORS,
    BACKENDS_V4,
    BACKENDS_V6,
    CONNECTIONS_V4,
    CONNECTIONS_V6,
    SNAT_V4,
    SNAT_V6,
    ADDRESSES_V4,
    ADDRESSES_V6,
    INTERFACES,
    FRAGMENTS_V4,
    FRAGMENTS_V6,
    HELD,
    ICMP_BUDGET,
    SETTINGS,
    HALF_OPEN,
    VERDICTS,
    SERVICE_TRAFFIC,
    BACKEND_TRAFFIC,
];

/// Names of the programs in the object file, one per kind of attachment. They are one packet path compiled four times.
pub mod programs {
    /// Native XDP on an interface whose driver hands over finished checksums.
    pub const NATIVE: &str = "xlb_native";
    /// Native XDP on a virtual interface, where a checksum may be unfinished and is finished here.
    pub const NATIVE_VIRTUAL: &str = "xlb_native_virt";
    /// Generic XDP. What looks unfinished is left to [`TC`], where the kernel knows what it is.
    pub const GENERIC: &str = "xlb_generic";
    /// Companion of [`GENERIC`] at tc ingress of the same interface.
    pub const TC: &str = "xlb_tc";
    /// Leaves every packet to the kernel. Attached nowhere: the agent puts fragments back into interfaces in generic mode by it.
    pub const PASS: &str = "xlb_pass";
}
