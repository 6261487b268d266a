//! Backends and how to reach them.

use crate::{address::V4, byte_order::Be16};

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// Where a frame goes: out of which interface, with which Ethernet addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHop {
    /// Index of the outgoing interface; 0 while unknown.
    pub ifindex: u32,
    /// Ethernet address of the neighbour.
    pub destination: MacAddress,
    /// Ethernet address of this host on the interface.
    pub source: MacAddress,
}

const _: () = assert!(size_of::<NextHop>() == 16);

impl NextHop {
    /// Not known: ask the kernel's routing table.
    pub const UNKNOWN: Self = Self {
        ifindex: 0,
        destination: [0; 6],
        source: [0; 6],
    };

    /// Whether it can be used.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.ifindex != 0
    }
}

/// One backend of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Backend<A> {
    /// Address of the server.
    pub address: A,
    /// Source address for `full_nat` while no `snat` pool is configured: this host's own on the way to the backend.
    pub source: A,
    /// Way to the server, kept fresh by the agent; the program asks the routing table while it is unknown.
    pub next_hop: NextHop,
    /// The service it belongs to.
    pub service: u32,
    /// [`Backend::ALIVE`].
    pub flags: u32,
    /// Largest IP packet that the way to the server takes, in bytes; 0 while unknown.
    pub mtu: u16,
    /// Port of the server.
    pub port: Be16,
}

const _: () = assert!(size_of::<Backend<V4>>() == 36);

impl<A> Backend<A> {
    /// The backend is in the configuration and not declared down, or all of its service are and take traffic anyway. UDP flows of a
    /// backend without this flag choose again, and so does a SYN that is still unanswered.
    pub const ALIVE: u32 = 1;
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` without gaps (36 = 4 + 4 + 16 + 4 + 4 + 2 + 2), every bit pattern is a value.
unsafe impl aya::Pod for Backend<V4> {}
