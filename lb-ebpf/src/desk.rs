//! What the stages know of the packet at hand, in memory of this CPU.
//!
//! The stack of a program, of all subprograms that are entered, is 512 bytes; the headers of one IPv6 packet and the candidates for its
//! translation are more. And what comes from memory is unknown to the verifier, so that packets with tags and without, with extension
//! headers and without, are one path to it from here on.
//!
//! One packet at a time has the desk: the kernel runs the programs with bottom halves off, so that the next packet of this CPU waits. A test
//! run is no exception where it uses live frames; a plain one, from a process, may be interrupted by a packet, and belongs on maps of its own.

use lb_common::packet::{Ip, Link, Network, Packet, Quote};

use crate::{maps, nat::ReplyKeys, route::Route};

/// The packet at hand, filled stage by stage. A field that no stage has filled yet holds what it had for an earlier packet.
#[repr(C)]
pub(crate) struct Desk<F> {
    pub(crate) link: Link,
    pub(crate) network: Network<F>,
    pub(crate) packet: Packet<F>,
    pub(crate) keys: ReplyKeys<F>,
    pub(crate) route: Route<F>,
    pub(crate) quote: Quote<F>,
}

/// Bytes of a desk for the larger family.
const SIZE: usize = 520;

/// Room for a desk of either family.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Room([u8; SIZE]);

/// The desk of this CPU. There is one: who asks twice has it twice.
#[inline(always)]
pub(crate) fn desk<F: Ip>() -> Option<&'static mut Desk<F>> {
    const { assert!(size_of::<Desk<F>>() <= SIZE && align_of::<Desk<F>>() <= 8) };
    // SAFETY: valid, aligned memory of this CPU. The fields are numbers and arrays of them, but for booleans and enums, which each
    // packet writes before it reads them.
    maps::DESK
        .get_ptr_mut(0)
        .map(|room| unsafe { &mut *room.cast::<Desk<F>>() })
}
