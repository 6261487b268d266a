//! The interfaces of this host, as far as the program must know them.

use crate::{
    address::{V4, V6},
    backend::Tags,
};

/// One interface, by its index. Every interface that a route may name is in the map, attached or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Index of the interface out of which its frames leave: its own, or that of the device below a VLAN device.
    pub target: u32,
    /// VLAN tags that its frames carry on `target`: a VLAN device's own.
    pub tags: Tags,
    /// Largest IP packet that it sends, in bytes.
    pub mtu: u16,
    /// Always 0.
    pub padding: u16,
    /// The host's IPv4 address on it, which ICMP errors come from; unspecified when it has none: then they come from the VIP.
    pub v4: V4,
    /// The host's global IPv6 address on it; unspecified when it has none.
    pub v6: V6,
}

const _: () = assert!(size_of::<Interface>() == 32);

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` without gaps, every bit pattern is a value.
unsafe impl aya::Pod for Interface {}
