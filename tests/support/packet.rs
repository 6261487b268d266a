//! Packets for tests, made without any code of the product.
//!
//! ```
//! use lb_tests::{names::{CLIENT, VIP}, packet::{Packet, TcpFlags}};
//!
//! let frame = Packet::tcp().from(CLIENT, 40_000).to(VIP, 80).flags(TcpFlags::SYN).ttl(64).build();
//! assert_eq!(frame.len(), 14 + 20 + 20);
//! ```
//!
//! Headers are laid out by `etherparse`, checksums are computed in full by [`crate::checksum`]. Every value has a default, so a
//! test names only what it is about.

use std::{net::Ipv4Addr, ops::BitOr};

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, TcpHeader, UdpHeader,
};

use crate::{
    checksum::Sum,
    names::{self, Mac},
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
}

/// A packet in the making: Ethernet, IPv4, TCP or UDP.
#[derive(Clone, Debug)]
pub struct Packet {
    ethernet: Ethernet2Header,
    ip: Ipv4Header,
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
        Self::new(IpNumber::TCP, Transport::Tcp(Box::new(header)))
    }

    /// A datagram from the first client to port 80 of the VIP, on its way from the client router to the gateway.
    pub fn udp() -> Self {
        Self::new(
            IpNumber::UDP,
            Transport::Udp {
                source_port: 40_000,
                destination_port: 80,
            },
        )
    }

    fn new(protocol: IpNumber, transport: Transport) -> Self {
        Self {
            ethernet: Ethernet2Header {
                source: names::CLIENT_ROUTER_MAC,
                destination: names::GATEWAY_TO_CLIENTS_MAC,
                ether_type: EtherType::IPV4,
            },
            ip: Ipv4Header {
                identification: 0x1234,
                dont_fragment: true,
                time_to_live: 63,
                protocol,
                source: names::CLIENT.octets(),
                destination: names::VIP.octets(),
                ..Ipv4Header::default()
            },
            transport,
            payload: Vec::new(),
            trailer: Vec::new(),
            transport_checksum: TransportChecksum::Valid,
            bad_ip_checksum: false,
            overrides: Overrides::default(),
        }
    }

    /// MAC addresses of sender and receiver.
    #[must_use]
    pub const fn ethernet(mut self, source: Mac, destination: Mac) -> Self {
        self.ethernet.source = source;
        self.ethernet.destination = destination;
        self
    }

    /// Source address and port.
    #[must_use]
    pub fn from(mut self, address: Ipv4Addr, port: u16) -> Self {
        self.ip.source = address.octets();
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.source_port = port,
            Transport::Udp { source_port, .. } => *source_port = port,
        }
        self
    }

    /// Destination address and port.
    #[must_use]
    pub fn to(mut self, address: Ipv4Addr, port: u16) -> Self {
        self.ip.destination = address.octets();
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.destination_port = port,
            Transport::Udp { destination_port, .. } => *destination_port = port,
        }
        self
    }

    /// Time to live; 63 when not given.
    #[must_use]
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ip.time_to_live = ttl;
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

    /// IP identification.
    #[must_use]
    pub const fn id(mut self, id: u16) -> Self {
        self.ip.identification = id;
        self
    }

    /// Whether routers may not fragment it; set when not given.
    #[must_use]
    pub const fn dont_fragment(mut self, dont: bool) -> Self {
        self.ip.dont_fragment = dont;
        self
    }

    /// Makes it claim to be a fragment, at `offset` units of 8 bytes (13 bits), with more to come or not.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.ip.dont_fragment = false;
        self.ip.fragment_offset = IpFragOffset::try_new(offset & 0x1fff).unwrap_or_default();
        self.ip.more_fragments = more;
        self
    }

    /// IP options, padded with end-of-list to a multiple of four; what exceeds 40 bytes is cut off.
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

    /// What TCP or UDP carries.
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

    /// Zero in the checksum field: for UDP "no checksum" (RFC 768), for TCP most likely a wrong one.
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

    /// A TCP or UDP checksum that is wrong.
    #[must_use]
    pub const fn bad_checksum(mut self) -> Self {
        self.transport_checksum = TransportChecksum::Bad;
        self
    }

    /// An IP header checksum that is wrong.
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

    /// Claims this IP header length in 32-bit words (4 bits), whatever it is. Checksums are computed over what is there, so
    /// that the field alone is wrong; so for all `claim_` methods.
    #[must_use]
    pub const fn claim_ihl(mut self, ihl: u8) -> Self {
        self.overrides.ihl = Some(ihl);
        self
    }

    /// Claims this IP total length in bytes.
    #[must_use]
    pub const fn claim_total_length(mut self, length: u16) -> Self {
        self.overrides.total_length = Some(length);
        self
    }

    /// Claims another protocol above IP. The TCP or UDP checksum is then that of the claimed one.
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
        let segment = self.segment();
        let mut frame = self.ethernet.to_bytes().to_vec();
        frame.extend(self.ip_header(segment.len()));
        frame.extend(segment);
        frame.extend(&self.trailer);
        frame
    }

    fn ip_header(&self, segment_length: usize) -> Vec<u8> {
        let mut ip = self.ip.clone();
        ip.total_len = self
            .overrides
            .total_length
            .unwrap_or_else(|| wrapped(ip.header_len() + segment_length));
        ip.protocol = IpNumber(self.protocol());
        ip.header_checksum = 0;
        let mut bytes = ip.to_bytes().to_vec();
        if let Some(version) = self.overrides.version {
            bytes[0] = version << 4 | bytes[0] & 0x0f;
        }
        if let Some(ihl) = self.overrides.ihl {
            bytes[0] = bytes[0] & 0xf0 | ihl & 0x0f;
        }
        let mut checksum = Sum::default().plus(&bytes).checksum();
        if self.bad_ip_checksum {
            checksum ^= 0x5555;
        }
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn protocol(&self) -> u8 {
        self.overrides.protocol.unwrap_or(self.ip.protocol.0)
    }

    /// Header above IP, and payload.
    fn segment(&self) -> Vec<u8> {
        let (mut bytes, checksum_at) = match &self.transport {
            Transport::Tcp(tcp) => (self.tcp_segment(tcp), 16),
            Transport::Udp {
                source_port,
                destination_port,
            } => (self.udp_datagram(*source_port, *destination_port), 6),
        };
        let pseudo_header = Sum::default().plus_pseudo_header(
            self.ip.source.into(),
            self.ip.destination.into(),
            self.protocol(),
            wrapped(bytes.len()),
        );
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diff::checksums_valid;

    #[test]
    fn bad_checksums_are_never_valid_and_never_zero() {
        // One payload word runs through all values, so the right checksum does as well.
        for word in 0..=u16::MAX {
            let frame = Packet::udp().payload(&word.to_be_bytes()).bad_checksum().build();
            assert!(checksums_valid(&frame).is_err(), "payload {word:#06x}");
            assert_ne!(frame[40..42], [0, 0], "payload {word:#06x}");
        }
        assert!(checksums_valid(&Packet::tcp().bad_ip_checksum().build()).is_err());
    }

    #[test]
    fn computed_udp_checksum_of_zero_is_sent_as_ffff() {
        let zero = (0..=u16::MAX)
            .map(|word| Packet::udp().payload(&word.to_be_bytes()).build())
            .filter(|frame| frame[40..42] == [0xff, 0xff]);
        assert_eq!(zero.count(), 1, "exactly one word makes the sum 0xffff");
    }

    #[test]
    fn finishing_a_partial_checksum_gives_the_right_one() {
        for packet in [
            Packet::tcp().payload(b"odd"),
            Packet::udp().payload(b"even"),
            Packet::tcp(),
        ] {
            let mut frame = packet.clone().partial_checksum().build();
            let at = if frame[23] == 17 { 40 } else { 50 };
            let finished = Sum::default().plus(&frame[34..]).checksum();
            frame[at..at + 2].copy_from_slice(&finished.to_be_bytes());
            assert_eq!(frame, packet.build());
        }
    }

    proptest! {
        /// `etherparse` computes checksums with code of its own.
        #[test]
        fn checksums_agree_with_those_of_etherparse(
            addresses: (u32, u32), ports: (u16, u16), payload: Vec<u8>, options in prop::collection::vec(1_u8.., 0..=40)
        ) {
            let packet = |packet: Packet| {
                packet.from(addresses.0.into(), ports.0).to(addresses.1.into(), ports.1).payload(&payload).ip_options(&options)
            };
            let frame = packet(Packet::tcp().tcp_options(&options)).build();
            let (ip, segment) = Ipv4Header::from_slice(&frame[14..]).unwrap();
            let (tcp, _) = TcpHeader::from_slice(segment).unwrap();
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            prop_assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, &payload).unwrap());
            prop_assert_eq!(checksums_valid(&frame), Ok(()));

            let frame = packet(Packet::udp()).build();
            let (ip, segment) = Ipv4Header::from_slice(&frame[14..]).unwrap();
            let (udp, _) = UdpHeader::from_slice(segment).unwrap();
            prop_assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, &payload).unwrap());
            prop_assert_eq!(checksums_valid(&frame), Ok(()));
        }
    }
}
