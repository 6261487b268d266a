use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
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

#[test]
fn partial_checksum_over_ipv6_is_the_pseudo_header_alone() {
    let frame = Packet::udp()
        .over(Family::V6)
        .payload(b"data")
        .partial_checksum()
        .build();
    let expected = Sum::default()
        .plus(&frame[14 + 8..14 + 40])
        .plus(&[0, 12, 0, 17])
        .folded();
    assert_eq!(frame[14 + 40 + 6..][..2], expected.to_be_bytes());
}

#[test]
fn address_of_a_family_makes_a_packet_of_it() {
    let [v4, v6] = Family::ALL.map(|family| Packet::tcp().over(family));
    assert_eq!(v4.build(), Packet::tcp().build());
    assert_eq!(v6.build(), Packet::tcp().to(names::VIP_V6, 80).build());
    assert_eq!(v6.build(), Packet::tcp().from(names::CLIENT_V6, 40_000).build());
    assert_eq!(v6.source(names::CLIENT).build(), Packet::tcp().build());
}

#[test]
fn tags_stand_before_the_ethernet_type() {
    let tags = [Tag::service(0x123).priority(5), Tag::customer(0xfff).drop_eligible()];
    let (plain, tagged) = (Packet::udp().build(), Packet::udp().tags(&tags).build());
    assert_eq!(tagged[12..20], [0x88, 0xa8, 0xa1, 0x23, 0x81, 0x00, 0x1f, 0xff]);
    assert_eq!([&tagged[..12], &tagged[20..]].concat(), plain);
}

#[test]
fn extension_headers_name_each_other_and_are_read_to_the_end_by_etherparse() {
    let fragment = Extension::Fragment {
        offset: 0,
        more: false,
        id: 9,
    };
    let routing = Extension::Routing {
        kind: 4,
        segments_left: 1,
    };
    for units in [0, 1, 31, 32, 33, 100, 255] {
        let chain = [
            Extension::HopByHop(units),
            Extension::Destination(0),
            routing,
            fragment,
            Extension::Authentication,
            Extension::Destination(units),
        ];
        let frame = Packet::udp()
            .over(Family::V6)
            .extensions(&chain)
            .payload(b"data")
            .build();
        let (ip, rest) = Ipv6Header::from_slice(&frame[14..]).unwrap();
        assert_eq!(usize::from(ip.payload_length), rest.len());
        let (protocol, rest) = Ipv6Header::skip_all_header_extensions_in_slice(rest, ip.next_header).unwrap();
        assert_eq!((protocol, rest.len()), (IpNumber::UDP, 8 + 4), "{units}");
        assert_eq!(checksums_valid(&frame), Ok(()), "{units}");
    }
    let frame = Packet::udp()
        .over(Family::V6)
        .extensions(&[Extension::NoNextHeader])
        .build();
    assert_eq!((frame[14 + 6], frame.len()), (59, 14 + 40 + 8));
}

proptest! {
    /// `etherparse` computes checksums with code of its own.
    #[test]
    fn checksums_agree_with_those_of_etherparse(
        addresses: (u32, u32), ports: (u16, u16), payload: Vec<u8>, options in prop::collection::vec(1_u8.., 0..=40)
    ) {
        let addresses = (Ipv4Addr::from(addresses.0), Ipv4Addr::from(addresses.1));
        let packet = |packet: Packet| {
            packet.from(addresses.0, ports.0).to(addresses.1, ports.1).payload(&payload).ip_options(&options)
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

    #[test]
    fn ipv6_headers_and_checksums_agree_with_those_of_etherparse(
        addresses: (u128, u128), ports: (u16, u16), payload: Vec<u8>, dscp in 0_u8..64, ecn in 0_u8..4, ttl: u8,
        label in 0_u32..0x10_0000
    ) {
        let addresses = (Ipv6Addr::from(addresses.0), Ipv6Addr::from(addresses.1));
        let packet = |packet: Packet| {
            let packet = packet.from(addresses.0, ports.0).to(addresses.1, ports.1).payload(&payload);
            packet.dscp(dscp).ecn(ecn).ttl(ttl).flow_label(label)
        };
        let frame = packet(Packet::tcp()).build();
        let (ip, segment) = Ipv6Header::from_slice(&frame[14..]).unwrap();
        let (tcp, _) = TcpHeader::from_slice(segment).unwrap();
        prop_assert_eq!((ip.source_addr(), ip.destination_addr()), addresses);
        prop_assert_eq!((ip.dscp().value(), ip.ecn().value(), ip.hop_limit), (dscp, ecn, ttl));
        prop_assert_eq!((ip.flow_label.value(), usize::from(ip.payload_length)), (label, segment.len()));
        prop_assert_eq!((tcp.source_port, tcp.destination_port), ports);
        prop_assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(&ip, &payload).unwrap());
        prop_assert_eq!(checksums_valid(&frame), Ok(()));

        let frame = packet(Packet::udp()).build();
        let (ip, segment) = Ipv6Header::from_slice(&frame[14..]).unwrap();
        let (udp, _) = UdpHeader::from_slice(segment).unwrap();
        prop_assert_eq!(udp.checksum, udp.calc_checksum_ipv6(&ip, &payload).unwrap());
        prop_assert_eq!(checksums_valid(&frame), Ok(()));
    }
}
