//! From bytes to headers: all code that reads the headers of a packet.
//!
//! It has no side effects and asks nothing of its surroundings but a [`Frame`], so the same code runs in the kernel over a hook's
//! context, and in tests and fuzz targets over a slice. Every length is checked against every other, so that whoever writes to the packet
//! later can't meet a header that is not there.

mod ipv4;
mod ipv6;
mod link;
mod quote;
mod transport;

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

pub use self::{
    link::{ETHERNET_ADDRESSES, ETHERNET_HEADER, Link, MAX_LINK_HEADER, VLAN_TAG, ether_type},
    quote::{ICMP_HEADER, Quote, is_error_v4, is_error_v6},
    transport::{Packet, TCP_CHECKSUM, UDP_CHECKSUM},
};
use crate::{Address, verdict::PassReason};

/// The bytes of a frame, as far as they can be read.
pub trait Frame {
    /// The `T` at `offset` bytes into the frame, which is even where `T` asks for it; `None` where the frame, or what can be read of it
    /// directly, ends before it does.
    fn view<T: Plain>(&self, offset: usize) -> Option<&T>;

    /// Whether the frame has at least `length` bytes, readable directly or not.
    fn reaches(&self, length: usize) -> bool;

    /// The number itself, of which the compiler forgets what it knew. In the kernel it would otherwise leave out masks that it finds
    /// needless and that the verifier needs.
    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        number
    }
}

/// Upper bound of all offsets into a frame at which a header or a field may begin: a mask, so that the kernel's verifier understands it.
pub const MAX_OFFSET: usize = 0x3fff;

/// Bytes on the wire: every bit pattern is a value.
///
/// # Safety
///
/// The type has an alignment of two at most and no invalid values.
pub unsafe trait Plain: Copy {}

/// Bytes at an even offset of a frame, where all headers are. Frames begin at even addresses, and a compiler that knows so reads two bytes
/// at a time instead of one.
#[derive(Clone, Copy)]
#[repr(C, align(2))]
pub struct Even<T>(pub T);

// SAFETY: as the bytes that it holds; the alignment is two.
unsafe impl<T: Plain> Plain for Even<T> {}

// SAFETY: bytes.
unsafe impl<const N: usize> Plain for [u8; N] {}
// SAFETY: bytes.
unsafe impl<const N: usize, const M: usize> Plain for [[u8; N]; M] {}
// SAFETY: made of bytes alone.
unsafe impl Plain for Ipv4Hdr {}
// SAFETY: made of bytes alone.
unsafe impl Plain for Ipv6Hdr {}
// SAFETY: made of bytes and of bit fields over bytes.
unsafe impl Plain for TcpHdr {}
// SAFETY: made of bytes alone.
unsafe impl Plain for UdpHdr {}

const _: () = assert!(align_of::<Ipv4Hdr>() == 1 && align_of::<Ipv6Hdr>() == 1);
const _: () = assert!(align_of::<TcpHdr>() == 1 && align_of::<UdpHdr>() == 1);

/// A frame that begins at an odd address, or an odd offset, has nothing that wants an even one.
impl Frame for [u8] {
    fn view<T: Plain>(&self, offset: usize) -> Option<&T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        let pointer = bytes.as_ptr().cast::<T>();
        // SAFETY: of this length, aligned, and `Plain` promises that any bytes will do.
        pointer.is_aligned().then(|| unsafe { &*pointer })
    }

    fn reaches(&self, length: usize) -> bool {
        length <= self.len()
    }
}

/// An IP family, by its address type.
pub trait Ip: Address {
    /// The EtherType of its packets (IANA, "IEEE 802 Numbers").
    const ETHER_TYPE: u16;
    /// The [`crate::flow::protocol`] number of its control messages.
    const ICMP: u8;

    /// Reads and checks the IP header at `l3`, and what extends it. Of a packet that an ICMP error quotes, only the beginning must be
    /// there.
    ///
    /// # Errors
    ///
    /// Why the packet is none that can be translated.
    fn network<F: Frame + ?Sized>(frame: &F, l3: usize, extent: Extent) -> Result<Network<Self>, PassReason>;

    /// Whether an ICMP message of this type is an error, which quotes the packet that it is about, and is meant for its sender.
    fn is_icmp_error(kind: u8) -> bool;
}

/// How much of a packet must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Its headers: an ICMP error quotes it.
    Quoted,
}

/// What an IP header says. All offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the L4 header begins, or, in a later fragment, its piece of the payload.
    pub l4: usize,
    /// Where the identification stands: 2 bytes over IPv4; 4 over IPv6, or 0 in a packet without a fragment header.
    pub id_at: usize,
    /// Identification, in the machine's byte order; 0 over IPv6 without a fragment header.
    pub id: u32,
    /// Length of the whole packet in bytes, as the header says it.
    pub length: u16,
    /// Bytes of the packet from `l4` on.
    pub payload: u16,
    /// Where this fragment's piece belongs, in bytes.
    pub fragment_offset: u16,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// [`crate::flow::protocol`] number. Not meaningful in a later fragment over IPv6.
    pub protocol: u8,
    /// Time to live, hop limit.
    pub ttl: u8,
}

impl<A> Network<A> {
    /// Whether this is a fragment. A fragment that is the whole packet (RFC 6946) is none.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// Whether this is a fragment other than the first one: it has no L4 header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment_offset != 0
    }
}

#[cfg(test)]
mod tests;
