//! Packets for tests, made without any code of the product.
//!
//! ```
//! use lb_tests::{names::{CLIENT, Family, VIP}, packet::{Packet, Tag, TcpFlags}};
//!
//! let frame = Packet::tcp().from(CLIENT, 40_000).to(VIP, 80).flags(TcpFlags::SYN).ttl(64).build();
//! assert_eq!(frame.len(), 14 + 20 + 20);
//! let frame = Packet::tcp().over(Family::V6).tags(&[Tag::customer(7)]).build();
//! assert_eq!(frame.len(), 14 + 4 + 40 + 20);
//! ```
//!
//! Headers are laid out by `etherparse` as far as it can say them, checksums are computed in full by [`crate::checksum`]. Every value
//! has a default, so a test names only what it is about. The family follows from the addresses; what a family has no place for has
//! no effect on it.

mod fragments;
mod icmp;
mod ip;
mod tag;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, ops::BitOr};

use etherparse::{Ethernet2Header, IpDscp, IpEcn, IpFragOffset, Ipv4Options, Ipv6FlowLabel, TcpHeader, UdpHeader};

pub use self::{
    fragments::{fragment_of, fragments, fragments_for_mtu},
    icmp::{IcmpError, quote},
    ip::Extension,
    tag::Tag,
};
use self::{icmp::Icmp, ip::Ip};
use crate::{
    checksum::Sum,
    names::{self, Family, Mac},
};

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LENGTH: usize = Ethernet2Header::LEN;

/// The flags of a TCP header, in the order of its last flag byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No flag: a "null" segment.
    pub const NONE: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for TcpFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What stands in the checksum field of TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransportChecksum {
    /// The right one.
    Valid,
    /// Neither the right one nor, for UDP, the zero that means "none".
    Bad,
    /// The sum over the pseudo header alone.
    Partial,
    /// Zero: no checksum (UDP).
    Absent,
}

/// Values that contradict the packet they stand in.
#[derive(Clone, Copy, Debug, Default)]
struct Overrides {
    version: Option<u8>,
    ihl: Option<u8>,
    total_length: Option<u16>,
    protocol: Option<u8>,
    data_offset: Option<u8>,
    udp_length: Option<u16>,
}

/// The header above IP.
#[derive(Clone, Debug)]
enum Transport {
    Tcp(Box<TcpHeader>),
    Udp { source_port: u16, destination_port: u16 },
    Icmp(Icmp),
}

/// A packet in the making: Ethernet, IPv4 or IPv6, and TCP, UDP, ICMP or ICMPv6.
#[derive(Clone, Debug)]
pub struct Packet {
    source_mac: Mac,
    destination_mac: Mac,
    tags: Vec<Tag>,
    ip: Ip,
    transport: Transport,
    payload: Vec<u8>,
    trailer: Vec<u8>,
    transport_checksum: TransportChecksum,
    bad_ip_checksum: bool,
    overrides: Overrides,
}

impl Packet {
    /// An ACK from the first client to port 80 of the VIP, on its way from the client router to the gateway.
    pub fn tcp() -> Self {
        let mut header = TcpHeader::new(40_000, 80, 1_000, 64_240);
        header.ack = true;
        Self::new(Transport::Tcp(Box::new(header)))
    }

    /// A datagram from the first client to port 80 of the VIP, on its way from the client router to the gateway.
    pub fn udp() -> Self {
        Self::new(Transport::Udp {
            source_port: 40_000,
            destination_port: 80,
        })
    }

    /// An echo request from the first client to the VIP; the payload is its data. In IPv6 it is one of ICMPv6.
    pub fn echo_request(identifier: u16, sequence: u16) -> Self {
        Self::new(Transport::Icmp(Icmp::echo(false, identifier, sequence)))
    }

    /// An echo reply; as [`Packet::echo_request`].
    pub fn echo_reply(identifier: u16, sequence: u16) -> Self {
        Self::new(Transport::Icmp(Icmp::echo(true, identifier, sequence)))
    }

    /// An ICMP or ICMPv6 error about a packet of which this part is [quoted](quote). It is of the quoted packet's family, and goes to
    /// its sender; name who sends it by [`Packet::source`].
    pub fn icmp_error(error: IcmpError, quoted: &[u8]) -> Self {
        let packet = Self::new(Transport::Icmp(Icmp::error(error))).payload(quoted);
        match icmp::sender(quoted) {
            Some(sender) => packet.destination(sender),
            None => packet,
        }
    }

    fn new(transport: Transport) -> Self {
        Self {
            source_mac: names::CLIENT_ROUTER_MAC,
            destination_mac: names::GATEWAY_TO_CLIENTS_MAC,
            tags: Vec::new(),
            ip: Ip::new(Family::V4),
            transport,
            payload: Vec::new(),
            trailer: Vec::new(),
            transport_checksum: TransportChecksum::Valid,
            bad_ip_checksum: false,
            overrides: Overrides::default(),
        }
    }

    /// From the first client to the VIP, in this family.
    #[must_use]
    pub fn over(self, family: Family) -> Self {
        self.source(family.client(1)).destination(family.vip())
    }

    /// MAC addresses of sender and receiver.
    #[must_use]
    pub const fn ethernet(mut self, source: Mac, destination: Mac) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// VLAN tags, the outer one first.
    #[must_use]
    pub fn tags(mut self, tags: &[Tag]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// Source address and port. An address of the other family makes it a packet of that family, to its VIP unless
    /// [`Packet::to`] says otherwise. The port has no effect on ICMP.
    #[must_use]
    pub fn from(mut self, address: impl Into<IpAddr>, port: u16) -> Self {
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.source_port = port,
            Transport::Udp { source_port, .. } => *source_port = port,
            Transport::Icmp(_) => {}
        }
        self.source(address)
    }

    /// Destination address and port. An address of the other family makes it a packet of that family, from its first client unless
    /// [`Packet::from`] says otherwise. The port has no effect on ICMP.
    #[must_use]
    pub fn to(mut self, address: impl Into<IpAddr>, port: u16) -> Self {
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.destination_port = port,
            Transport::Udp { destination_port, .. } => *destination_port = port,
            Transport::Icmp(_) => {}
        }
        self.destination(address)
    }

    /// Source address alone; as [`Packet::from`].
    #[must_use]
    pub fn source(mut self, address: impl Into<IpAddr>) -> Self {
        self.ip.set_source(address.into());
        self
    }

    /// Destination address alone; as [`Packet::to`].
    #[must_use]
    pub fn destination(mut self, address: impl Into<IpAddr>) -> Self {
        self.ip.set_destination(address.into());
        self
    }

    /// Time to live, in IPv6 the hop limit; 63 when not given.
    #[must_use]
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ip.ttl = ttl;
        self
    }

    /// The six bits of the differentiated services code point; others are cut off.
    #[must_use]
    pub fn dscp(mut self, dscp: u8) -> Self {
        self.ip.dscp = IpDscp::try_new(dscp & 0x3f).unwrap_or_default();
        self
    }

    /// The two bits of explicit congestion notification; others are cut off.
    #[must_use]
    pub fn ecn(mut self, ecn: u8) -> Self {
        self.ip.ecn = IpEcn::try_new(ecn & 0x03).unwrap_or_default();
        self
    }

    /// IP identification; in IPv6 only a fragment has one.
    #[must_use]
    pub const fn id(mut self, id: u16) -> Self {
        self.ip.id = id;
        self
    }

    /// Whether routers may not fragment it (IPv4); set when not given.
    #[must_use]
    pub const fn dont_fragment(mut self, dont: bool) -> Self {
        self.ip.dont_fragment = dont;
        self
    }

    /// Makes it claim to be a fragment, at `offset` units of 8 bytes (13 bits), with more to come or not. In IPv6 the fragment header
    /// stands behind all other extensions. [`fragments`] makes real ones.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.ip.dont_fragment = false;
        self.ip.fragment = Some((IpFragOffset::try_new(offset & 0x1fff).unwrap_or_default(), more));
        self
    }

    /// The flow label of IPv6, 20 bits; others are cut off.
    #[must_use]
    pub fn flow_label(mut self, label: u32) -> Self {
        self.ip.flow_label = Ipv6FlowLabel::try_new(label & 0xf_ffff).unwrap_or_default();
        self
    }

    /// Extension headers of IPv6, in this order.
    #[must_use]
    pub fn extensions(mut self, extensions: &[Extension]) -> Self {
        self.ip.extensions = extensions.to_vec();
        self
    }

    /// IPv4 options, padded with end-of-list to a multiple of four; what exceeds 40 bytes is cut off.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip.options = Ipv4Options::try_from(padded_options(options).as_slice()).unwrap_or_default();
        self
    }

    /// TCP flags. No effect on UDP, as with everything TCP.
    #[must_use]
    pub fn flags(self, flags: TcpFlags) -> Self {
        self.tcp_header(|tcp| {
            tcp.fin = flags.contains(TcpFlags::FIN);
            tcp.syn = flags.contains(TcpFlags::SYN);
            tcp.rst = flags.contains(TcpFlags::RST);
            tcp.psh = flags.contains(TcpFlags::PSH);
            tcp.ack = flags.contains(TcpFlags::ACK);
            tcp.urg = flags.contains(TcpFlags::URG);
            tcp.ece = flags.contains(TcpFlags::ECE);
            tcp.cwr = flags.contains(TcpFlags::CWR);
        })
    }

    /// TCP sequence number.
    #[must_use]
    pub fn sequence(self, number: u32) -> Self {
        self.tcp_header(|tcp| tcp.sequence_number = number)
    }

    /// TCP acknowledgment number.
    #[must_use]
    pub fn acknowledgment(self, number: u32) -> Self {
        self.tcp_header(|tcp| tcp.acknowledgment_number = number)
    }

    /// TCP window.
    #[must_use]
    pub fn window(self, window: u16) -> Self {
        self.tcp_header(|tcp| tcp.window_size = window)
    }

    /// TCP urgent pointer. The flag is separate.
    #[must_use]
    pub fn urgent(self, pointer: u16) -> Self {
        self.tcp_header(|tcp| tcp.urgent_pointer = pointer)
    }

    /// TCP options, padded with end-of-list to a multiple of four; what exceeds 40 bytes is cut off.
    #[must_use]
    pub fn tcp_options(self, options: &[u8]) -> Self {
        let options = padded_options(options);
        self.tcp_header(|tcp| {
            // Cut to size above, which is all that can be wrong with them.
            let _ = tcp.set_options_raw(&options);
        })
    }

    fn tcp_header(mut self, change: impl FnOnce(&mut TcpHeader)) -> Self {
        if let Transport::Tcp(tcp) = &mut self.transport {
            change(tcp);
        }
        self
    }

    /// Adds a structure of RFC 4884 to an ICMP error, holding these objects, and pads the quote as it demands. No effect on
    /// messages that can't have one.
    #[must_use]
    pub fn icmp_extension(mut self, objects: &[u8]) -> Self {
        if let Transport::Icmp(icmp) = &mut self.transport {
            icmp.extend(objects);
        }
        self
    }

    /// What TCP, UDP or ICMP carries.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Bytes behind the IP packet, such as the padding of a short frame.
    #[must_use]
    pub fn trailer(mut self, trailer: &[u8]) -> Self {
        self.trailer = trailer.to_vec();
        self
    }

    /// Zero in the checksum field: for UDP over IPv4 "no checksum" (RFC 768), over IPv6 that of tunnels only (RFC 6935), for others most
    /// likely a wrong one.
    #[must_use]
    pub const fn without_checksum(mut self) -> Self {
        self.transport_checksum = TransportChecksum::Absent;
        self
    }

    /// A checksum that the sender's network card was to finish (`CHECKSUM_PARTIAL`).
    ///
    /// The field then holds the folded one's complement sum over the pseudo header alone, *not* complemented: the card sums up
    /// from the start of the TCP or UDP header to the end, this field included, and stores the complement (RFC 1071, section 1,
    /// for the sum; the kernel's `~tcp_v4_check(len, saddr, daddr, 0)` leaves the same). Length and protocol are part of it, ports
    /// and payload are not.
    #[must_use]
    pub const fn partial_checksum(mut self) -> Self {
        self.transport_checksum = TransportChecksum::Partial;
        self
    }

    /// A TCP, UDP or ICMP checksum that is wrong.
    #[must_use]
    pub const fn bad_checksum(mut self) -> Self {
        self.transport_checksum = TransportChecksum::Bad;
        self
    }

    /// An IPv4 header checksum that is wrong.
    #[must_use]
    pub const fn bad_ip_checksum(mut self) -> Self {
        self.bad_ip_checksum = true;
        self
    }

    /// Claims this IP version (4 bits).
    #[must_use]
    pub const fn claim_version(mut self, version: u8) -> Self {
        self.overrides.version = Some(version);
        self
    }

    /// Claims this IPv4 header length in 32-bit words (4 bits), whatever it is. Checksums are computed over what is there, so
    /// that the field alone is wrong; so for all `claim_` methods.
    #[must_use]
    pub const fn claim_ihl(mut self, ihl: u8) -> Self {
        self.overrides.ihl = Some(ihl);
        self
    }

    /// Claims this IPv4 total length, or IPv6 payload length, in bytes.
    #[must_use]
    pub const fn claim_total_length(mut self, length: u16) -> Self {
        self.overrides.total_length = Some(length);
        self
    }

    /// Claims another protocol above IP, in IPv6 behind the extensions. The checksum is then that of the claimed one.
    #[must_use]
    pub const fn claim_protocol(mut self, protocol: u8) -> Self {
        self.overrides.protocol = Some(protocol);
        self
    }

    /// Claims this TCP header length in 32-bit words (4 bits).
    #[must_use]
    pub const fn claim_data_offset(mut self, words: u8) -> Self {
        self.overrides.data_offset = Some(words);
        self
    }

    /// Claims this UDP length in bytes, in the header alone.
    #[must_use]
    pub const fn claim_udp_length(mut self, length: u16) -> Self {
        self.overrides.udp_length = Some(length);
        self
    }

    /// The frame. A payload beyond the 64 KiB of an IP packet is a mistake of the test: lengths then wrap.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        frame.extend(self.tags.iter().flat_map(|tag| tag.bytes()));
        frame.extend(match self.ip.family() {
            Family::V4 => [0x08, 0x00],
            Family::V6 => [0x86, 0xdd],
        });
        let segment = self.segment();
        let header = self
            .ip
            .header(self.protocol(), segment.len(), &self.overrides, self.bad_ip_checksum);
        frame.extend(header);
        frame.extend(segment);
        frame.extend(&self.trailer);
        frame
    }

    fn protocol(&self) -> u8 {
        let own = match (&self.transport, self.ip.family()) {
            (Transport::Tcp(_), _) => 6,
            (Transport::Udp { .. }, _) => 17,
            (Transport::Icmp(_), Family::V4) => 1,
            (Transport::Icmp(_), Family::V6) => 58,
        };
        self.overrides.protocol.unwrap_or(own)
    }

    /// Header above IP, and payload.
    fn segment(&self) -> Vec<u8> {
        let (mut bytes, checksum_at) = match &self.transport {
            Transport::Tcp(tcp) => (self.tcp_segment(tcp), 16),
            Transport::Udp {
                source_port,
                destination_port,
            } => (self.udp_datagram(*source_port, *destination_port), 6),
            Transport::Icmp(icmp) => (icmp.message(self.ip.family(), &self.payload), 2),
        };
        let pseudo_header = match (&self.transport, self.ip.family()) {
            // RFC 792: ICMP over IPv4 is the one that sums itself alone.
            (Transport::Icmp(_), Family::V4) => Sum::default(),
            _ => Sum::default().plus_pseudo_header(
                self.ip.source,
                self.ip.destination,
                self.protocol(),
                wrapped(bytes.len()).into(),
            ),
        };
        let is_udp = matches!(self.transport, Transport::Udp { .. });
        let valid = match pseudo_header.plus(&bytes).checksum() {
            0 if is_udp => 0xffff, // RFC 768: zero is taken, it means "none"
            checksum => checksum,
        };
        let checksum = match self.transport_checksum {
            TransportChecksum::Valid => valid,
            TransportChecksum::Bad => match valid ^ 0x5555 {
                0 => 0x5554,
                wrong => wrong,
            },
            TransportChecksum::Partial => pseudo_header.folded(),
            TransportChecksum::Absent => 0,
        };
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn tcp_segment(&self, tcp: &TcpHeader) -> Vec<u8> {
        let mut bytes = tcp.to_bytes().to_vec();
        if let Some(words) = self.overrides.data_offset {
            bytes[12] = words << 4 | bytes[12] & 0x0f;
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn udp_datagram(&self, source_port: u16, destination_port: u16) -> Vec<u8> {
        let header = UdpHeader {
            source_port,
            destination_port,
            length: self
                .overrides
                .udp_length
                .unwrap_or_else(|| wrapped(UdpHeader::LEN + self.payload.len())),
            checksum: 0,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(&self.payload);
        bytes
    }
}

fn padded_options(options: &[u8]) -> Vec<u8> {
    let mut padded = options[..options.len().min(40)].to_vec();
    padded.resize(padded.len().next_multiple_of(4), 0);
    padded
}

#[expect(clippy::cast_possible_truncation, reason = "documented at `Packet::build`")]
const fn wrapped(length: usize) -> u16 {
    length as u16
}
