//! Fragments: which packet one belongs to, and what its first fragment decided.
//!
//! Only the first fragment of a packet names ports. It leaves a note, and the others follow it.

use crate::{
    address::{V4, V6},
    flow::FlowKey,
};

/// What all fragments of one packet share (RFC 791, section 3.2; RFC 8200, section 4.5), on one side of the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Identification: 16 bits over IPv4, 32 over IPv6, in the machine's byte order.
    pub id: u32,
    /// [`crate::flow::protocol`] number.
    pub protocol: u8,
    /// A [`Side`] number.
    pub side: u8,
    padding: u16,
}

const _: () = assert!(size_of::<FragmentKey<V4>>() == 16);
const _: () = assert!(size_of::<FragmentKey<V6>>() == 40);

/// On which side of the balancer a packet has the addresses of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// As it comes in: the fragments that follow look this up.
    Arriving = 0,
    /// As it leaves: while this is taken, no other packet may leave with the same identification, or the receiver would mix them up
    /// (RFC 6864, section 5.2).
    Leaving = 1,
}

impl<A> FragmentKey<A> {
    /// The fragments between these addresses with this identification.
    #[inline(always)]
    pub const fn new(source: A, destination: A, id: u32, protocol: u8, side: Side) -> Self {
        Self {
            source,
            destination,
            id,
            protocol,
            side: side as u8,
            padding: 0,
        }
    }
}

/// What the first fragment of a packet decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentNote<A> {
    /// The tuple that the packet came with: the key of its connection.
    pub tuple: FlowKey<A>,
    /// When the first fragment came: nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub since: u64,
    /// The identification that the packet leaves with.
    pub id: u32,
    /// [`FragmentNote::PASS`], [`FragmentNote::COMPLETE`].
    pub flags: u32,
}

const _: () = assert!(size_of::<FragmentNote<V4>>() == 32);
const _: () = assert!(size_of::<FragmentNote<V6>>() == 56);

impl<A> FragmentNote<A> {
    /// The packet is not ours: its fragments go to the kernel.
    pub const PASS: u32 = 1 << 0;
    /// The last fragment has been seen: the identification may be used again at once.
    pub const COMPLETE: u32 = 1 << 1;
}

/// Most bytes of a fragment that is kept until the first one of its packet comes.
pub const MAX_HELD_LENGTH: usize = 2048;

/// A fragment that came before the first one of its packet, as the program hands it to the agent.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HeldFragment {
    /// Index of the interface it came in on.
    pub ifindex: u32,
    /// Number of bytes of `frame` that count.
    pub length: u32,
    /// The frame, from its Ethernet header on.
    pub frame: [u8; MAX_HELD_LENGTH],
}

macro_rules! pod {
    ($($type:ty),+) => {
        $(#[cfg(feature = "user")]
        // SAFETY: `#[repr(C)]`, padding is a field, every bit pattern is a value.
        unsafe impl aya::Pod for $type {})+
    };
}

pod!(
    FragmentKey<V4>,
    FragmentKey<V6>,
    FragmentNote<V4>,
    FragmentNote<V6>,
    HeldFragment
);
