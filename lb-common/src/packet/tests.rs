//! Headers written out byte by byte, with every length one too short and just long enough.

mod properties;

use super::*;
use crate::{
    address::{V4, V6},
    backend::{NextHop, Tag, Tags},
    byte_order::{Be16, Be32},
    connection::Seen,
    flow::{FlowKey, protocol},
    limits::MAX_EXTENSION_HEADERS,
};

const RECEIVER: [u8; 6] = [0x02, 0, 0, 0, 0x02, 0x02];
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0x02, 0x01];
const IFINDEX: u32 = 3;

/// An Ethernet frame of this kind. Allocated, it begins at an even address.
fn frame(ether_type: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&RECEIVER[..], &SENDER, &ether_type, packet].concat()
}

/// 10.1.0.11 to 203.0.113.10, time to live 63, identification 0x1234, not to be fragmented; 4 bytes of payload, all headers right
/// but for the checksum, which is nobody's business here.
const IPV4: [u8; 24] = [
    0x45, 0, 0, 24, 0x12, 0x34, 0x40, 0, 63, 6, 0xab, 0xcd, 10, 1, 0, 11, 203, 0, 113, 10, 1, 2, 3, 4,
];

/// From 2001:db8::1 to 2001:db8::2, hop limit 63; 8 bytes of payload of this protocol.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], next, 63];
    for last in [1, 2] {
        bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    bytes.extend(payload);
    bytes
}

fn network_v4(packet: &[u8]) -> Result<Network<V4>, PassReason> {
    V4::network(&frame([0x08, 0], packet)[..], 14, Extent::Whole)
}

fn network_v6(packet: &[u8]) -> Result<Network<V6>, PassReason> {
    V6::network(&frame([0x86, 0xdd], packet)[..], 14, Extent::Whole)
}

/// A copy with one byte changed.
fn with(bytes: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = byte;
    bytes
}

mod link_header {
    use super::*;

    fn tags(outer: Tag, inner: Tag) -> Tags {
        Tags { outer, inner }
    }

    #[test]
    fn addresses_and_kind_are_those_of_the_frame() {
        let link = Link::read(&frame([0x08, 0], &[])[..]).unwrap();
        assert_eq!((link.destination, link.source), (RECEIVER, SENDER));
        assert_eq!((link.l3, link.ether_type, link.tags), (14, 0x0800, Tags::NONE));
    }

    #[test]
    fn tags_are_read_without_their_priority() {
        // Priority 7, drop eligible, VLAN 5.
        let one = Link::read(&frame([0x81, 0], &[0xf0, 5, 0x86, 0xdd])[..]).unwrap();
        assert_eq!((one.l3, one.ether_type), (18, 0x86dd));
        assert_eq!(one.tags, tags(Tag::customer(5), Tag::NONE));

        let two = Link::read(&frame([0x88, 0xa8], &[0x0f, 0xff, 0x81, 0, 0, 0, 0x08, 0])[..]).unwrap();
        assert_eq!((two.l3, two.ether_type), (22, 0x0800));
        assert_eq!(two.tags, tags(Tag::service(4095), Tag::customer(0)));
    }

    #[test]
    fn third_tag_is_what_the_frame_holds() {
        let frame = frame([0x88, 0xa8], &[0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 0x08, 0]);
        let link = Link::read(&frame[..]).unwrap();
        assert_eq!((link.l3, link.ether_type), (22, 0x8100));
    }

    #[test]
    fn frame_that_ends_within_is_malformed() {
        let tagged = frame([0x88, 0xa8], &[0, 1, 0x81, 0, 0, 2, 0x08, 0]);
        for length in 0..tagged.len() {
            assert_eq!(
                Link::read(&tagged[..length]),
                Err(PassReason::Malformed),
                "{length} bytes"
            );
        }
        assert!(Link::read(&tagged[..]).is_ok());
    }

    #[test]
    fn frame_to_a_group_is_none_of_ours() {
        for first in [0x01, 0x33, 0xff] {
            let frame = with(&frame([0x08, 0], &[]), 0, first);
            assert_eq!(Link::read(&frame[..]), Err(PassReason::NotUnicast));
        }
    }
}

mod ipv4_header {
    use super::*;

    #[test]
    fn fields_are_where_rfc_791_draws_them() {
        let expected = Network {
            source: V4::from_wire([10, 1, 0, 11]),
            destination: V4::from_wire([203, 0, 113, 10]),
            l3: 14,
            l4: 34,
            id_at: 18,
            id: 0x1234,
            length: 24,
            payload: 4,
            fragment_offset: 0,
            more_fragments: false,
            protocol: protocol::TCP,
            ttl: 63,
        };
        assert_eq!(network_v4(&IPV4), Ok(expected));
    }

    #[test]
    fn options_are_no_payload() {
        let packet = with(&IPV4, 0, 0x46);
        let network = network_v4(&packet).unwrap();
        assert_eq!((network.l4, network.payload), (38, 0));
    }

    #[test]
    fn contradictions_are_malformed() {
        let wrong = [
            ("version 5", with(&IPV4, 0, 0x55)),
            ("header of 16 bytes", with(&IPV4, 0, 0x44)),
            ("header longer than the packet", with(&IPV4, 0, 0x47)),
            ("packet shorter than a header", with(&IPV4, 3, 19)),
            ("packet longer than the frame", with(&IPV4, 3, 25)),
            ("19 bytes", IPV4[..19].to_vec()),
            ("no byte", Vec::new()),
        ];
        for (what, packet) in wrong {
            assert_eq!(network_v4(&packet), Err(PassReason::Malformed), "{what}");
        }
        assert!(
            network_v4(&with(&IPV4, 3, 20)).is_ok(),
            "a packet may be a header alone"
        );
    }

    #[test]
    fn quoted_packet_may_be_cut_behind_its_header() {
        let frame = frame([0x08, 0], &with(&IPV4, 2, 0x05));
        assert_eq!(V4::network(&frame[..], 14, Extent::Whole), Err(PassReason::Malformed));
        let quoted = V4::network(&frame[..], 14, Extent::Quoted).unwrap();
        assert_eq!(quoted.length, 0x0518);
    }

    #[test]
    fn fragments_are_told_by_offset_and_flag() {
        let at = |high, low| network_v4(&with(&with(&IPV4, 6, high), 7, low)).unwrap();
        let first = at(0x20, 0);
        assert!(first.is_fragment() && !first.is_later_fragment() && first.more_fragments);
        let last = at(0, 185);
        assert!(last.is_fragment() && last.is_later_fragment() && !last.more_fragments);
        assert_eq!((last.fragment_offset, at(0x3f, 0xff).fragment_offset), (1480, 65_528));
        // "Don't fragment", and the bit that is reserved.
        assert!(!at(0xc0, 0).is_fragment());
    }
}

mod ipv6_header {
    use super::*;

    const UDP: u8 = protocol::UDP;
    /// Padding of the shortest extension header.
    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

    /// Extension headers of 8 bytes, of these kinds, and then UDP without payload.
    fn chain(kinds: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        for next in kinds.iter().skip(1).chain([&UDP]) {
            payload.extend([&[*next, 0][..], &PADDING].concat());
        }
        payload.extend([0, 7, 0, 80, 0, 8, 0, 0]);
        ipv6(kinds[0], &payload)
    }

    #[test]
    fn fields_are_where_rfc_8200_draws_them() {
        let network = network_v6(&ipv6(UDP, &[0; 8])).unwrap();
        assert_eq!(network.source.words().map(Be32::to_native), [0x2001_0db8, 0, 0, 1]);
        assert_eq!(network.destination.words()[3].to_native(), 2);
        assert_eq!(
            (network.l3, network.l4, network.length, network.payload),
            (14, 54, 48, 8)
        );
        assert_eq!((network.protocol, network.ttl), (UDP, 63));
        assert_eq!((network.id_at, network.id, network.is_fragment()), (0, 0, false));
    }

    #[test]
    fn contradictions_are_malformed() {
        let packet = ipv6(UDP, &[0; 8]);
        let wrong = [
            ("version 4", with(&packet, 0, 0x40)),
            ("no payload, or a jumbogram", ipv6(UDP, &[])),
            ("payload longer than the frame", with(&packet, 5, 9)),
            ("more than 65535 bytes", with(&with(&packet, 4, 0xff), 5, 0xd8)),
            ("39 bytes", packet[..39].to_vec()),
        ];
        for (what, packet) in wrong {
            assert_eq!(network_v6(&packet), Err(PassReason::Malformed), "{what}");
        }
        assert!(
            network_v6(&with(&packet, 5, 7)).is_ok(),
            "bytes behind the packet are padding"
        );
    }

    #[test]
    fn longest_packet_is_read() {
        // 65,535 bytes with the header, and not one more.
        let quoted = |low| {
            let packet = with(&with(&ipv6(UDP, &[0; 8]), 4, 0xff), 5, low);
            V6::network(&frame([0x86, 0xdd], &packet)[..], 14, Extent::Quoted).map(|network| network.length)
        };
        assert_eq!(quoted(0xd7), Ok(65_535));
        assert_eq!(quoted(0xd8), Err(PassReason::Malformed));
    }

    #[test]
    fn extension_headers_are_followed_to_the_protocol() {
        for kinds in [&[0][..], &[60], &[0, 60, 43], &[0; MAX_EXTENSION_HEADERS]] {
            let mut packet = chain(kinds);
            // A routing header at its end has no segment left.
            for at in (0..kinds.len()).map(|index| 40 + 8 * index) {
                packet[at + 3] = 0;
            }
            let network = network_v6(&packet).unwrap();
            assert_eq!((network.protocol, network.l4), (UDP, 54 + 8 * kinds.len()), "{kinds:?}");
            assert_eq!(network.payload, 8);
        }
    }

    #[test]
    fn what_can_not_be_translated_past_is_left_alone() {
        let wrong = [
            ("too many", chain(&[0; MAX_EXTENSION_HEADERS + 1])),
            ("a segment left", chain(&[43])),
        ];
        for (what, packet) in wrong {
            assert_eq!(network_v6(&packet), Err(PassReason::ExtensionHeaders), "{what}");
        }
    }

    #[test]
    fn chain_is_followed_as_far_as_packets_are_written_to() {
        /// Seven headers of the greatest length, and one of this many units of 8 bytes.
        fn long(units: u8) -> Vec<u8> {
            let mut payload = Vec::new();
            for (next, length) in [(60, 255); 7].into_iter().chain([(UDP, units - 1)]) {
                payload.extend([next, length]);
                payload.resize(payload.len() + 6 + 8 * usize::from(length), 0);
            }
            payload.extend([0; 8]);
            ipv6(60, &payload)
        }
        // 14 + 40 + 7 * 2048 + 217 * 8, the last multiple below 0x3fff - 256.
        assert_eq!(network_v6(&long(217)).map(|network| network.l4), Ok(16_126));
        assert_eq!(network_v6(&long(218)), Err(PassReason::ExtensionHeaders));
    }

    #[test]
    fn headers_of_other_kinds_end_the_chain() {
        // ESP, AH, "no next header", mobility.
        for kind in [50, 51, 59, 135] {
            assert_eq!(network_v6(&chain(&[0, kind])).unwrap().protocol, kind);
        }
    }

    #[test]
    fn extension_header_must_lie_within_packet_and_frame() {
        let packet = chain(&[60]);
        // Two units of 8 bytes fill the payload; three are more than it has.
        assert_eq!(network_v6(&with(&packet, 41, 1)).unwrap().payload, 0);
        assert_eq!(network_v6(&with(&packet, 41, 2)), Err(PassReason::Malformed));
        // Payload of the header's first seven bytes.
        assert_eq!(
            network_v6(&ipv6(60, &[UDP, 0, 1, 3, 0, 0, 0])),
            Err(PassReason::Malformed)
        );
    }

    #[test]
    fn fragment_header_says_whose_piece_it_is_and_where_it_belongs() {
        let piece = |high, low| {
            let header = [UDP, 0, high, low, 0xde, 0xad, 0xbe, 0xef];
            network_v6(&ipv6(44, &[&header[..], &[0; 8]].concat())).unwrap()
        };
        let first = piece(0, 1);
        assert!(first.is_fragment() && !first.is_later_fragment() && first.more_fragments);
        assert_eq!((first.id, first.id_at, first.l4), (0xdead_beef, 58, 62));
        let last = piece(0x05, 0xa8);
        assert!(last.is_later_fragment() && !last.more_fragments);
        assert_eq!(last.fragment_offset, 1448);
        assert!(
            !piece(0, 0).is_fragment(),
            "a fragment that is the whole packet (RFC 6946) is none"
        );
    }

    #[test]
    fn content_of_a_later_fragment_is_no_header() {
        // It names destination options, which stand in the first fragment.
        let header = [60, 0, 0, 8, 0, 0, 0, 1];
        let network = network_v6(&ipv6(44, &[&header[..], &[0xff; 8]].concat())).unwrap();
        assert_eq!((network.l4, network.payload), (62, 8));
    }
}

mod l4_header {
    use super::*;

    /// Port 40000 to port 80, SYN; checksum 0xabcd.
    const TCP: [u8; 20] = [
        0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0xab, 0xcd, 0, 0,
    ];
    /// Port 40000 to port 80, without payload; checksum 0xabcd.
    const UDP: [u8; 8] = [0x9c, 0x40, 0, 80, 0, 8, 0xab, 0xcd];

    /// A frame with an IPv4 packet that holds `payload`, of which `fragment` says whether more is to come.
    fn ipv4(protocol: u8, fragment: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = IPV4[..20].to_vec();
        packet[3] = 20 + u8::try_from(payload.len()).unwrap();
        packet[6] = fragment;
        packet[9] = protocol;
        packet.extend(payload);
        frame([0x08, 0], &packet)
    }

    fn read(frame: &[u8]) -> Result<Packet<V4>, PassReason> {
        let link = Link::read(frame)?;
        let network = V4::network(frame, link.l3, Extent::Whole)?;
        Packet::read(frame, IFINDEX, &link, &network)
    }

    const MORE: u8 = 0x20;

    #[test]
    fn tcp_fields_are_where_rfc_9293_draws_them() {
        let packet = read(&ipv4(6, 0, &[&TCP[..], b"data"].concat())).unwrap();
        let end = |address, port| (V4::from_wire(address), Be16::new(port));
        let key = FlowKey::new(end([10, 1, 0, 11], 40_000), end([203, 0, 113, 10], 80), protocol::TCP);
        assert_eq!(packet.key, key);
        assert_eq!(packet.seen, Seen(Seen::SYN));
        assert_eq!(
            (packet.l3, packet.l4, packet.length, packet.l4_length),
            (14, 34, 44, 24)
        );
        assert_eq!(packet.l4_checksum.to_ne_bytes(), [0xab, 0xcd]);
        assert_eq!((packet.partial, packet.more_fragments, packet.ttl), (false, false, 63));
    }

    #[test]
    fn sender_is_reached_with_the_addresses_swapped() {
        let packet = read(&ipv4(17, 0, &UDP)).unwrap();
        assert_eq!(packet.sender, NextHop::new(IFINDEX, SENDER, RECEIVER, Tags::NONE, 0));
        assert_eq!(packet.seen, Seen::UDP);
    }

    #[test]
    fn tcp_header_must_be_long_enough_and_lie_within_the_packet() {
        let offset = |words: u8| with(&TCP, 12, words << 4);
        assert_eq!(read(&ipv4(6, 0, &offset(4))), Err(PassReason::Malformed));
        assert_eq!(read(&ipv4(6, 0, &offset(6))), Err(PassReason::Malformed));
        assert!(read(&ipv4(6, 0, &[offset(6), vec![0; 4]].concat())).is_ok());
        for length in 0..20 {
            assert_eq!(
                read(&ipv4(6, 0, &TCP[..length])),
                Err(PassReason::Malformed),
                "{length} bytes"
            );
        }
        // The rest of the header is in the next fragment (RFC 1858).
        assert_eq!(read(&ipv4(6, MORE, &offset(6))), Err(PassReason::Malformed));
        // Padding of the frame is no header.
        let padded = [ipv4(6, 0, &TCP[..19]), vec![0; 6]].concat();
        assert_eq!(read(&padded), Err(PassReason::Malformed));
    }

    #[test]
    fn udp_length_is_that_of_the_header_at_least_and_of_the_packet_at_most() {
        let says = |length: u8| [&with(&UDP, 5, length)[..], b"data"].concat();
        for (length, covered) in [(7, None), (8, Some(8)), (11, Some(11)), (12, Some(12)), (13, None)] {
            let packet = read(&ipv4(17, 0, &says(length)));
            assert_eq!(packet.ok().map(|packet| packet.l4_length), covered, "length {length}");
        }
        // The first fragment says how long the whole of it is.
        assert_eq!(read(&ipv4(17, MORE, &says(200))).unwrap().l4_length, 200);
        for length in 0..8 {
            assert_eq!(
                read(&ipv4(17, 0, &UDP[..length])),
                Err(PassReason::Malformed),
                "{length} bytes"
            );
            assert_eq!(
                read(&ipv4(17, MORE, &UDP[..length])),
                Err(PassReason::Malformed),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn other_protocols_are_none_of_ours() {
        for protocol in [0, 1, 47, 58, 132] {
            assert_eq!(read(&ipv4(protocol, 0, &TCP)), Err(PassReason::NotTcpOrUdp));
        }
    }

    #[test]
    fn sum_over_the_pseudo_header_is_an_unfinished_checksum() {
        // 0a01 + 000b + cb00 + 710a + 0011 + 0008 = 1462f, folded 4630.
        let unfinished = with(&with(&UDP, 6, 0x46), 7, 0x30);
        assert!(read(&ipv4(17, 0, &unfinished)).unwrap().partial);
        assert!(!read(&ipv4(17, 0, &with(&unfinished, 7, 0x2f))).unwrap().partial);
        assert!(
            !read(&ipv4(17, MORE, &unfinished)).unwrap().partial,
            "who cuts a packet has finished it"
        );
    }
}

mod quoted_packet {
    use super::*;

    /// A frame with an ICMP error, port unreachable, that quotes [`IPV4`]'s header and this much of `l4`.
    fn error(protocol: u8, l4: &[u8]) -> Vec<u8> {
        let length = 20 + 8 + 20 + u8::try_from(l4.len()).unwrap();
        let mut packet = IPV4[..20].to_vec();
        (packet[3], packet[9]) = (length, protocol::ICMP);
        packet.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        packet.extend(with(&with(&IPV4[..20], 9, protocol), 2, 1));
        packet.extend(l4);
        frame([0x08, 0], &packet)
    }

    fn read(frame: &[u8]) -> Result<Quote<V4>, PassReason> {
        let network = V4::network(frame, 14, Extent::Whole)?;
        Quote::read(frame, &network)
    }

    /// Port 80 to port 7, a length, a checksum; then what TCP has instead of the latter.
    const L4: [u8; 18] = [0, 80, 0, 7, 0, 9, 0xab, 0xcd, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0xbe, 0xef];

    #[test]
    fn tuple_is_that_of_the_quoted_packet() {
        let quote = read(&error(17, &L4[..8])).unwrap();
        assert_eq!(quote.key.source, V4::from_wire([10, 1, 0, 11]));
        assert_eq!(quote.key.destination, V4::from_wire([203, 0, 113, 10]));
        assert_eq!(
            (
                quote.key.source_port.to_native(),
                quote.key.destination_port.to_native()
            ),
            (80, 7)
        );
        assert_eq!((quote.l3, quote.l4), (42, 62));
        assert_eq!((quote.checksum_at, quote.checksum.to_ne_bytes()), (68, [0xab, 0xcd]));
    }

    #[test]
    fn eight_bytes_behind_the_header_must_be_quoted() {
        for protocol in [protocol::TCP, protocol::UDP] {
            assert_eq!(read(&error(protocol, &L4[..7])), Err(PassReason::Malformed));
            assert!(read(&error(protocol, &L4[..8])).is_ok());
        }
        // Bytes behind the packet are not quoted.
        let padded = [error(17, &L4[..7]), vec![0; 8]].concat();
        assert_eq!(read(&padded), Err(PassReason::Malformed));
    }

    #[test]
    fn tcp_checksum_is_read_where_it_is_quoted_whole() {
        assert_eq!(read(&error(6, &L4[..17])).unwrap().checksum_at, 0);
        let padded = [error(6, &L4[..17]), vec![0; 8]].concat();
        assert_eq!(read(&padded).unwrap().checksum_at, 0);
        let quote = read(&error(6, &L4)).unwrap();
        assert_eq!((quote.checksum_at, quote.checksum.to_ne_bytes()), (78, [0xbe, 0xef]));
    }

    #[test]
    fn what_can_not_be_about_a_connection_is_unrelated() {
        for protocol in [1, 47, 58] {
            assert_eq!(read(&error(protocol, &L4)), Err(PassReason::IcmpUnrelated));
        }
        // A later fragment: offset 8.
        let later = with(&error(17, &L4), 42 + 7, 1);
        assert_eq!(read(&later), Err(PassReason::IcmpUnrelated));
    }

    #[test]
    fn damaged_quotes_are_malformed() {
        assert_eq!(read(&with(&error(17, &L4), 42, 0x55)), Err(PassReason::Malformed));
        assert_eq!(read(&with(&error(17, &L4), 42, 0x44)), Err(PassReason::Malformed));
        // Of 24 bytes, which leaves 4 of UDP.
        assert_eq!(read(&with(&error(17, &L4[..8]), 42, 0x46)), Err(PassReason::Malformed));
    }

    #[test]
    fn ipv6_quote_may_have_extension_headers() {
        let quoted = ipv6(60, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &L4[..8]].concat());
        let packet = ipv6(58, &[&[1, 4, 0, 0, 0, 0, 0, 0][..], &quoted].concat());
        let frame = frame([0x86, 0xdd], &packet);
        let network = V6::network(&frame[..], 14, Extent::Whole).unwrap();
        let quote = Quote::read(&frame[..], &network).unwrap();
        assert_eq!((quote.l3, quote.l4, quote.checksum_at), (62, 110, 116));
        assert_eq!(quote.key.destination.words()[3].to_native(), 2);
    }

    #[test]
    fn errors_are_told_from_other_messages() {
        let kinds = |is_error: fn(u8) -> bool| (0..=255).filter(|kind| is_error(*kind)).collect::<Vec<u8>>();
        assert_eq!(kinds(V4::is_icmp_error), [3, 11, 12]);
        assert_eq!(kinds(V6::is_icmp_error), [1, 2, 3, 4]);
    }
}
