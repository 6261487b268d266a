//! From bytes to a [`Packet`]: the only stage that reads headers.
//!
//! Every length is checked against every other, so that later stages can't meet a header that is not there.

use lb_common::{
    backend::NextHop,
    byte_order::Be16,
    checksum::{is_partial, pseudo_header},
    connection::Seen,
    flow::{FlowKey, protocol},
    verdict::{PassReason, Verdict},
};
use network_types::{eth::EthHdr, tcp::TcpHdr, udp::UdpHdr};

use crate::{checksum::UDP_FIELD, context::Context, family::Family};

/// Ethernet, the longest IPv4 header, and a TCP header without options: what must be readable of a packet.
pub(crate) const MAX_HEADERS: u32 = 14 + 60 + 20;
const _: () = assert!(MAX_HEADERS as usize == EthHdr::LEN + 60 + TcpHdr::LEN);

/// EtherType of IPv4 (IANA, "IEEE 802 Numbers").
const ETHERTYPE_IPV4: u16 = 0x0800;

/// A TCP or UDP packet, as far as the stages must know it.
pub(crate) struct Packet<A> {
    /// The tuple it came with.
    pub(crate) key: FlowKey<A>,
    /// The way back to its sender: the interface it came in on, Ethernet addresses swapped.
    pub(crate) sender: NextHop,
    /// What its flags say.
    pub(crate) seen: Seen,
    /// Where the L4 header begins, in bytes from the start of the frame.
    pub(crate) l4: usize,
    /// Length of the IP packet in bytes.
    pub(crate) length: u16,
    /// Length of L4 header and payload in bytes, as far as the checksum covers them.
    pub(crate) l4_length: u16,
    /// Memory image of the L4 checksum field.
    pub(crate) l4_checksum: u16,
    /// Whether the L4 checksum looks unfinished.
    pub(crate) partial: bool,
    /// Time to live, hop limit.
    pub(crate) ttl: u8,
}

/// What the two L4 headers have in common.
struct TransportHeader {
    source_port: Be16,
    destination_port: Be16,
    checksum: u16,
    length: u16,
    seen: Seen,
}

/// Reads the headers of a packet.
#[inline(always)]
pub(crate) fn parse<F: Family, C: Context>(ctx: &C) -> Result<Packet<F>, Verdict> {
    let ethernet: *const EthHdr = ctx.at(0).ok_or(PassReason::Malformed)?;
    // SAFETY: `at` checked the bounds, and a frame starts at an even address.
    let ethernet = unsafe { &*ethernet };
    if u16::from_be(ethernet.ether_type) != ETHERTYPE_IPV4 {
        return Err(PassReason::NotIp.into());
    }
    /// The bit that tells groups from single stations (IEEE 802.3, section 3.2.3).
    const GROUP: u8 = 0x01;
    if ethernet.dst_addr[0] & GROUP != 0 {
        return Err(PassReason::NotUnicast.into());
    }
    let sender = NextHop {
        ifindex: ctx.ifindex(),
        destination: ethernet.src_addr,
        source: ethernet.dst_addr,
    };

    let network = F::parse(ctx)?;
    #[expect(clippy::cast_possible_truncation, reason = "at most 74 - 14 bytes of header")]
    let payload = network.length - (network.l4 - EthHdr::LEN) as u16;
    let transport = if network.protocol == protocol::TCP {
        tcp(ctx, network.l4, payload)?
    } else {
        udp(ctx, network.l4, payload)?
    };

    let key = FlowKey::new(
        (network.source, transport.source_port),
        (network.destination, transport.destination_port),
        network.protocol,
    );
    let partial = is_partial(transport.checksum, pseudo_header(&key, transport.length));
    ctx.accept(partial)?;
    Ok(Packet {
        key,
        sender,
        seen: transport.seen,
        l4: network.l4,
        length: network.length,
        l4_length: transport.length,
        l4_checksum: transport.checksum,
        partial,
        ttl: network.ttl,
    })
}

#[inline(always)]
fn tcp<C: Context>(ctx: &C, l4: usize, payload: u16) -> Result<TransportHeader, Verdict> {
    let header: *const TcpHdr = ctx.at(l4).ok_or(PassReason::Malformed)?;
    /// Data offset and flags within the header (RFC 9293, section 3.1).
    const OFFSET_AND_FLAGS: usize = 12;
    // SAFETY: within the header, whose bounds `at` checked; bytes have no alignment.
    let [offset, flags] = unsafe { *header.cast::<[u8; 2]>().byte_add(OFFSET_AND_FLAGS) };
    let header_length = u16::from(offset >> 4) * 4;
    if usize::from(header_length) < TcpHdr::LEN || header_length > payload {
        return Err(PassReason::Malformed.into());
    }
    // SAFETY: `at` checked the bounds; the fields that are read are bytes, without alignment.
    let (source, destination, checksum) = unsafe { ((*header).source, (*header).dest, (*header).check) };
    Ok(TransportHeader {
        source_port: Be16::from_wire(source),
        destination_port: Be16::from_wire(destination),
        checksum: u16::from_ne_bytes(checksum),
        length: payload,
        seen: Seen::from_tcp_flags(flags),
    })
}

#[inline(always)]
fn udp<C: Context>(ctx: &C, l4: usize, payload: u16) -> Result<TransportHeader, Verdict> {
    const _: () = assert!(UDP_FIELD + 2 == UdpHdr::LEN);
    let header: *const UdpHdr = ctx.at(l4).ok_or(PassReason::Malformed)?;
    // SAFETY: `at` checked the bounds; the type is bytes, without alignment.
    let header = unsafe { &*header };
    // A datagram may be shorter than the payload of its packet.
    let length = u16::from_be_bytes(header.len);
    if usize::from(length) < UdpHdr::LEN || length > payload {
        return Err(PassReason::Malformed.into());
    }
    Ok(TransportHeader {
        source_port: Be16::from_wire(header.src),
        destination_port: Be16::from_wire(header.dst),
        checksum: u16::from_ne_bytes(header.check),
        length,
        seen: Seen::UDP,
    })
}
