//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and errors that quote the packet they are about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{checksum::Sum, layers, names::Family};

/// What an ICMP error says. Where the families have different numbers for it, the packet's family decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Host or, in IPv6, address unreachable: 3/1, 1/3.
    HostUnreachable,
    /// Nobody listens on the port: 3/3, 1/4.
    PortUnreachable,
    /// Forbidden by a filter: 3/13, 1/1.
    Prohibited,
    /// Fragmentation needed or, in IPv6, packet too big: 3/4, 2/0. IPv4 has room for 16 bits.
    TooBig {
        /// What fits on the next link, in bytes.
        mtu: u32,
    },
    /// Time to live or hop limit ran out: 11/0, 3/0.
    TimeExceeded,
    /// Fragments did not all come in time: 11/1, 3/1.
    ReassemblyTimeExceeded,
    /// A field of the header is wrong: 12/0, 4/0. IPv4 has room for 8 bits.
    ParameterProblem {
        /// Offset of the field in the quoted packet.
        pointer: u32,
    },
    /// Any other, for example source quench (4) or redirect (5).
    Other {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
    },
}

impl IcmpError {
    /// Type, code and the four bytes behind the checksum.
    const fn header(self, family: Family) -> (u8, u8, [u8; 4]) {
        match family {
            Family::V4 => self.icmp_header(),
            Family::V6 => self.icmpv6_header(),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "documented at the variants")]
    const fn icmp_header(self) -> (u8, u8, [u8; 4]) {
        match self {
            Self::HostUnreachable => (3, 1, [0; 4]),
            Self::PortUnreachable => (3, 3, [0; 4]),
            Self::Prohibited => (3, 13, [0; 4]),
            Self::TooBig { mtu } => (3, 4, (mtu & 0xffff).to_be_bytes()),
            Self::TimeExceeded => (11, 0, [0; 4]),
            Self::ReassemblyTimeExceeded => (11, 1, [0; 4]),
            Self::ParameterProblem { pointer } => (12, 0, [pointer as u8, 0, 0, 0]),
            Self::Other { kind, code, rest } => (kind, code, rest),
        }
    }

    const fn icmpv6_header(self) -> (u8, u8, [u8; 4]) {
        match self {
            Self::HostUnreachable => (1, 3, [0; 4]),
            Self::PortUnreachable => (1, 4, [0; 4]),
            Self::Prohibited => (1, 1, [0; 4]),
            Self::TooBig { mtu } => (2, 0, mtu.to_be_bytes()),
            Self::TimeExceeded => (3, 0, [0; 4]),
            Self::ReassemblyTimeExceeded => (3, 1, [0; 4]),
            Self::ParameterProblem { pointer } => (4, 0, pointer.to_be_bytes()),
            Self::Other { kind, code, rest } => (kind, code, rest),
        }
    }
}

/// Bytes that a quote before a structure of RFC 4884 has at least, by padding (section 3).
const SHORTEST_EXTENDED_QUOTE: usize = 128;

/// A message without what it carries.
#[derive(Clone, Debug)]
pub(super) struct Icmp {
    kind: Kind,
    /// The objects of RFC 4884.
    extension: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Echo {
        reply: bool,
        identifier: u16,
        sequence: u16,
    },
    Error(IcmpError),
}

impl Icmp {
    pub(super) const fn echo(reply: bool, identifier: u16, sequence: u16) -> Self {
        Self {
            kind: Kind::Echo {
                reply,
                identifier,
                sequence,
            },
            extension: None,
        }
    }

    pub(super) const fn error(error: IcmpError) -> Self {
        Self {
            kind: Kind::Error(error),
            extension: None,
        }
    }

    /// Adds objects of RFC 4884 to an error.
    pub(super) fn extend(&mut self, objects: &[u8]) {
        if matches!(self.kind, Kind::Error(_)) {
            self.extension = Some(objects.to_vec());
        }
    }

    /// The message around data or quote, with a checksum of zero.
    pub(super) fn message(&self, family: Family, body: &[u8]) -> Vec<u8> {
        let (kind, code, mut rest) = self.header(family);
        let mut body = body.to_vec();
        if let (Some(objects), Some((length_at, unit))) = (&self.extension, layers::quote_length_field(family, kind)) {
            body.resize(body.len().max(SHORTEST_EXTENDED_QUOTE).next_multiple_of(unit), 0);
            rest[length_at] = u8::try_from(body.len() / unit).unwrap_or(u8::MAX);
            body.extend(extension_structure(objects));
        }
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        message.extend(body);
        message
    }

    const fn header(&self, family: Family) -> (u8, u8, [u8; 4]) {
        match self.kind {
            Kind::Error(error) => error.header(family),
            Kind::Echo {
                reply,
                identifier,
                sequence,
            } => {
                let kind = match (family, reply) {
                    (Family::V4, false) => 8,
                    (Family::V4, true) => 0,
                    (Family::V6, false) => 128,
                    (Family::V6, true) => 129,
                };
                let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
                (kind, 0, [a, b, c, d])
            }
        }
    }
}

/// Version 2, and a checksum over all of it (RFC 4884, section 7).
fn extension_structure(objects: &[u8]) -> Vec<u8> {
    let mut structure = vec![0x20, 0, 0, 0];
    structure.extend(objects);
    let checksum = Sum::default().plus(&structure).checksum();
    structure[2..4].copy_from_slice(&checksum.to_be_bytes());
    structure
}

/// What an error quotes of a frame: its IP header with all options and extension headers, and up to this many bytes behind it. Routers
/// quote 8 bytes at least (RFC 792), in IPv6 as much as fits (RFC 4443); `usize::MAX` quotes all. Of a frame without an IP packet
/// nothing is quoted.
pub fn quote(frame: &[u8], transport_bytes: usize) -> Vec<u8> {
    let Some((_, at)) = layers::network(frame) else {
        return Vec::new();
    };
    let bytes = &frame[at..];
    let Ok(packet) = layers::IpPacket::read(bytes) else {
        return Vec::new();
    };
    let segment = &packet.segment[..packet.segment.len().min(transport_bytes)];
    [packet.header, segment].concat()
}

/// Who sent the quoted packet; `None` if not enough of it is there.
pub(super) fn sender(quoted: &[u8]) -> Option<IpAddr> {
    match quoted.first()? >> 4 {
        4 => quoted
            .get(12..16)?
            .first_chunk()
            .map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).into()),
        6 => quoted
            .get(8..24)?
            .first_chunk()
            .map(|octets: &[u8; 16]| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, Ipv6Header, icmpv4, icmpv6};

    use super::*;
    use crate::{diff::checksums_valid, packet::Packet};

    /// A datagram that an error may be about.
    fn datagram(family: Family) -> Vec<u8> {
        Packet::udp().over(family).payload(&[7; 300]).build()
    }

    #[test]
    fn quote_ends_behind_the_bytes_asked_for() {
        for (family, header) in [(Family::V4, 20), (Family::V6, 40)] {
            let frame = datagram(family);
            for bytes in [0, 4, 8, 308] {
                assert_eq!(quote(&frame, bytes), frame[14..14 + header + bytes]);
            }
            assert_eq!(quote(&frame, usize::MAX), frame[14..]);
        }
    }

    #[test]
    fn ipv4_messages_are_what_etherparse_reads_them_as() {
        let quoted = quote(&datagram(Family::V4), 8);
        let unreachable = |header| Icmpv4Type::DestinationUnreachable(header);
        let cases = [
            (
                IcmpError::HostUnreachable,
                unreachable(icmpv4::DestUnreachableHeader::Host),
            ),
            (
                IcmpError::PortUnreachable,
                unreachable(icmpv4::DestUnreachableHeader::Port),
            ),
            (
                IcmpError::Prohibited,
                unreachable(icmpv4::DestUnreachableHeader::FilterProhibited),
            ),
            (
                IcmpError::TooBig { mtu: 1280 },
                unreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1280 }),
            ),
            (
                IcmpError::TimeExceeded,
                Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
            ),
            (
                IcmpError::ReassemblyTimeExceeded,
                Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::FragmentReassemblyTimeExceeded),
            ),
            (
                IcmpError::ParameterProblem { pointer: 20 },
                Icmpv4Type::ParameterProblem(icmpv4::ParameterProblemHeader::PointerIndicatesError(20)),
            ),
        ];
        for (error, expected) in cases {
            let frame = Packet::icmp_error(error, &quoted).build();
            let (header, body) = Icmpv4Header::from_slice(&frame[34..]).unwrap();
            assert_eq!((&header.icmp_type, body), (&expected, &quoted[..]));
            assert_eq!(header.checksum, header.icmp_type.calc_checksum(body));
            assert_eq!(checksums_valid(&frame), Ok(()));
        }
    }

    #[test]
    fn ipv6_messages_are_what_etherparse_reads_them_as() {
        let quoted = quote(&datagram(Family::V6), 8);
        let cases = [
            (
                IcmpError::HostUnreachable,
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address),
            ),
            (
                IcmpError::PortUnreachable,
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
            ),
            (
                IcmpError::Prohibited,
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Prohibited),
            ),
            (IcmpError::TooBig { mtu: 1280 }, Icmpv6Type::PacketTooBig { mtu: 1280 }),
            (
                IcmpError::TimeExceeded,
                Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
            ),
            (
                IcmpError::ReassemblyTimeExceeded,
                Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::FragmentReassemblyTimeExceeded),
            ),
            (
                IcmpError::ParameterProblem { pointer: 40 },
                Icmpv6Type::ParameterProblem(icmpv6::ParameterProblemHeader {
                    code: icmpv6::ParameterProblemCode::ErroneousHeaderField,
                    pointer: 40,
                }),
            ),
        ];
        for (error, expected) in cases {
            let frame = Packet::icmp_error(error, &quoted).build();
            let (ip, message) = Ipv6Header::from_slice(&frame[14..]).unwrap();
            let (header, body) = Icmpv6Header::from_slice(message).unwrap();
            assert_eq!((&header.icmp_type, body), (&expected, &quoted[..]));
            let checksum = header.icmp_type.calc_checksum(ip.source, ip.destination, body);
            assert_eq!(header.checksum, checksum.unwrap());
            assert_eq!(checksums_valid(&frame), Ok(()));
        }
    }

    #[test]
    fn echo_has_the_numbers_of_its_family() {
        let types = |family| {
            [Packet::echo_request(1, 2), Packet::echo_reply(1, 2)].map(|packet| {
                let frame = packet.over(family).payload(b"odd").build();
                assert_eq!(checksums_valid(&frame), Ok(()));
                let message = frame.len() - 8 - 3;
                assert_eq!(frame[message + 4..message + 8], [0, 1, 0, 2]);
                frame[message]
            })
        };
        assert_eq!(types(Family::V4), [8, 0]);
        assert_eq!(types(Family::V6), [128, 129]);
    }

    #[test]
    fn error_goes_to_the_sender_of_what_it_quotes() {
        for family in Family::ALL {
            let (client, backend) = (family.client(2), family.backend(1));
            let frame = Packet::tcp().from(client, 7).to(backend, 8080).build();
            let error = Packet::icmp_error(IcmpError::PortUnreachable, &quote(&frame, 8));
            let expected = error.clone().source(family.vip()).destination(client);
            assert_eq!(error.source(family.vip()).build(), expected.build());
        }
    }

    #[test]
    fn extension_follows_a_quote_of_128_bytes_and_is_counted() {
        for (family, message, length_at, count) in [(Family::V4, 34, 5, 32), (Family::V6, 54, 4, 16)] {
            let frame = datagram(family);
            let error = Packet::icmp_error(IcmpError::TimeExceeded, &quote(&frame, 8))
                .icmp_extension(&[0, 8, 1, 1, 1, 2, 3, 4]);
            let built = error.build();
            assert_eq!(built[message + length_at], count);
            assert_eq!(built.len(), message + 8 + 128 + 4 + 8);
            assert_eq!(checksums_valid(&built), Ok(()));
            let mut damaged = built.clone();
            let last = damaged.len() - 1;
            damaged[last] ^= 1;
            assert!(checksums_valid(&damaged).is_err());
        }
    }
}
