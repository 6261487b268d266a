//! Backends and how to reach them.

use crate::{
    address::{V4, V6},
    byte_order::Be16,
};

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// Where a frame goes: out of which interface, with which Ethernet addresses and VLAN tags, and how large the packet in it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHop {
    /// Index of the outgoing interface; 0 while unknown.
    pub ifindex: u32,
    /// Ethernet address of the neighbour.
    pub destination: MacAddress,
    /// Ethernet address of this host on the interface.
    pub source: MacAddress,
    /// VLAN tags of the frame.
    pub tags: Tags,
    /// Largest IP packet that the way takes, in bytes; 0 while unknown.
    pub mtu: u16,
    padding: u16,
}

const _: () = assert!(size_of::<NextHop>() == 24);

impl NextHop {
    /// Not known: ask the kernel's routing table.
    pub const UNKNOWN: Self = Self::new(0, [0; 6], [0; 6], Tags::NONE, 0);

    /// The way out of an interface.
    #[inline(always)]
    pub const fn new(ifindex: u32, destination: MacAddress, source: MacAddress, tags: Tags, mtu: u16) -> Self {
        Self {
            ifindex,
            destination,
            source,
            tags,
            mtu,
            padding: 0,
        }
    }

    /// Whether it can be used.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.ifindex != 0
    }

    /// Whether both lead to the same neighbour, whatever is known of the packet size.
    #[inline(always)]
    pub fn leads_as(&self, other: &Self) -> bool {
        self.ifindex == other.ifindex
            && self.destination == other.destination
            && self.source == other.source
            && self.tags == other.tags
    }
}

/// The VLAN tags of a frame: none, one (IEEE 802.1Q), or two (802.1ad, "QinQ").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tags {
    /// The first tag on the wire.
    pub outer: Tag,
    /// The second one.
    pub inner: Tag,
}

/// One VLAN tag, without its priority bits; zero stands for no tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tag(pub u16);

impl Tag {
    /// No tag.
    pub const NONE: Self = Self(0);
    /// VLAN identifier bits (IEEE 802.1Q, section 9.6).
    pub const VLAN: u16 = 0x0fff;
    const PRESENT: u16 = 0x8000;
    const SERVICE: u16 = 0x4000;

    /// A customer tag, EtherType 0x8100. Only the identifier's 12 bits count.
    #[inline(always)]
    pub const fn customer(vlan: u16) -> Self {
        Self(vlan & Self::VLAN | Self::PRESENT)
    }

    /// A service tag, EtherType 0x88a8.
    #[inline(always)]
    pub const fn service(vlan: u16) -> Self {
        Self(vlan & Self::VLAN | Self::PRESENT | Self::SERVICE)
    }

    /// Whether there is a tag.
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether it is a service tag.
    #[inline(always)]
    pub const fn is_service(self) -> bool {
        self.0 & Self::SERVICE != 0
    }

    /// The VLAN identifier.
    #[inline(always)]
    pub const fn vlan(self) -> u16 {
        self.0 & Self::VLAN
    }
}

impl Tags {
    /// An untagged frame.
    pub const NONE: Self = Self {
        outer: Tag::NONE,
        inner: Tag::NONE,
    };

    /// Number of tags.
    #[inline(always)]
    pub const fn count(self) -> usize {
        self.outer.is_present() as usize + self.inner.is_present() as usize
    }
}

/// One backend of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Backend<A> {
    /// Address of the server.
    pub address: A,
    /// Source address for translated sources while no `snat` pool is configured: this host's own on the way to the backend.
    pub source: A,
    /// Way to the server, kept fresh by the agent; the program asks the routing table while it is unknown.
    pub next_hop: NextHop,
    /// The service it belongs to.
    pub service: u32,
    /// [`Backend::ALIVE`].
    pub flags: u32,
    /// Port of the server; 0: the port that the client dialled.
    pub port: Be16,
    /// Prefix length of the network that this host shares with the server; 0 when the server is behind a router.
    pub on_link: u8,
    /// Always 0.
    pub padding: u8,
}

const _: () = assert!(size_of::<Backend<V4>>() == 44);
const _: () = assert!(size_of::<Backend<V6>>() == 68);

impl<A> Backend<A> {
    /// The backend is in the configuration and not declared down, or all of its service are and take traffic anyway. UDP flows of a
    /// backend without this flag choose again, and so does a SYN that is still unanswered.
    pub const ALIVE: u32 = 1;
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` without gaps, every bit pattern is a value.
unsafe impl aya::Pod for Backend<V4> {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for Backend<V6> {}
