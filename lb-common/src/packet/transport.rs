//! The headers of TCP (RFC 9293, section 3.1) and UDP (RFC 768).

use network_types::{tcp::TcpHdr, udp::UdpHdr};

use super::{Even, Frame, Link, Network};
use crate::{
    Address,
    backend::NextHop,
    byte_order::Be16,
    checksum::{is_partial, pseudo_header},
    connection::Seen,
    flow::{FlowKey, protocol},
    verdict::PassReason,
};

/// Offset of the checksum within the TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum within the UDP header.
pub const UDP_CHECKSUM: usize = 6;

/// A TCP or UDP packet, or the first fragment of one, as far as the stages must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A> {
    /// The tuple it came with.
    pub key: FlowKey<A>,
    /// The way back to its sender: the interface it came in on, Ethernet addresses swapped. How large a packet the way takes is not
    /// said.
    pub sender: NextHop,
    /// What its flags say.
    pub seen: Seen,
    /// Where the IP header begins, in bytes from the start of the frame.
    pub l3: usize,
    /// Where the L4 header begins, in bytes from the start of the frame.
    pub l4: usize,
    /// Length of the IP packet in bytes.
    pub length: u16,
    /// Length of L4 header and payload in bytes, as far as the checksum covers them; of a first fragment, what TCP or UDP say.
    pub l4_length: u16,
    /// Memory image of the L4 checksum field.
    pub l4_checksum: u16,
    /// Whether the L4 checksum looks unfinished.
    pub partial: bool,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// Time to live, hop limit.
    pub ttl: u8,
}

/// What the two L4 headers have in common.
struct Transport {
    source_port: Be16,
    destination_port: Be16,
    checksum: u16,
    length: u16,
    seen: Seen,
}

impl<A: Address> Packet<A> {
    /// Reads the L4 header of a packet that came in on the interface `ifindex`. It must not be a later fragment.
    ///
    /// # Errors
    ///
    /// Why the packet is none that can be translated.
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(
        frame: &F,
        ifindex: u32,
        link: &Link,
        network: &Network<A>,
    ) -> Result<Self, PassReason> {
        let transport = if network.protocol == protocol::TCP {
            tcp(frame, network)?
        } else if network.protocol == protocol::UDP {
            udp(frame, network)?
        } else {
            return Err(PassReason::NotTcpOrUdp);
        };
        let key = FlowKey::new(
            (network.source, transport.source_port),
            (network.destination, transport.destination_port),
            network.protocol,
        );
        // Whoever cuts a packet into fragments finishes its checksum first.
        let partial = !network.more_fragments && is_partial(transport.checksum, pseudo_header(&key, transport.length));
        Ok(Self {
            key,
            sender: NextHop::new(ifindex, link.source, link.destination, link.tags, 0),
            seen: transport.seen,
            l3: network.l3,
            l4: network.l4,
            length: network.length,
            l4_length: transport.length,
            l4_checksum: transport.checksum,
            partial,
            more_fragments: network.more_fragments,
            ttl: network.ttl,
        })
    }
}

#[inline(always)]
fn tcp<A, F: Frame + ?Sized>(frame: &F, network: &Network<A>) -> Result<Transport, PassReason> {
    /// Data offset and flags within the header.
    const OFFSET_AND_FLAGS: usize = 12;
    let Even(header): &Even<[u8; TcpHdr::LEN]> = frame.view(network.l4).ok_or(PassReason::Malformed)?;
    let header_length = u16::from(header[OFFSET_AND_FLAGS] >> 4) * 4;
    // Of a first fragment, too: one that ends within its header hides what it is (RFC 1858, section 3).
    if usize::from(header_length) < TcpHdr::LEN || header_length > network.payload {
        return Err(PassReason::Malformed);
    }
    Ok(Transport {
        source_port: Be16::from_wire([header[0], header[1]]),
        destination_port: Be16::from_wire([header[2], header[3]]),
        checksum: u16::from_ne_bytes([header[TCP_CHECKSUM], header[TCP_CHECKSUM + 1]]),
        length: network.payload,
        seen: Seen::from_tcp_flags(header[OFFSET_AND_FLAGS + 1]),
    })
}

#[inline(always)]
fn udp<A, F: Frame + ?Sized>(frame: &F, network: &Network<A>) -> Result<Transport, PassReason> {
    let Even(header): &Even<UdpHdr> = frame.view(network.l4).ok_or(PassReason::Malformed)?;
    // A datagram may be shorter than the payload of its packet. In a first fragment it says how long the whole of it is.
    let length = u16::from_be_bytes(header.len);
    let too_long = length > network.payload && !network.more_fragments;
    if usize::from(length) < UdpHdr::LEN || usize::from(network.payload) < UdpHdr::LEN || too_long {
        return Err(PassReason::Malformed);
    }
    Ok(Transport {
        source_port: Be16::from_wire(header.src),
        destination_port: Be16::from_wire(header.dst),
        checksum: u16::from_ne_bytes(header.check),
        length,
        seen: Seen::UDP,
    })
}
