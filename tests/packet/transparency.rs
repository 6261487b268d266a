//! Bytes that are not addresses, ports, MACs, TTL or checksums are never changed.

use lb_tests::{
    diff::differing_fields,
    names::Family,
    packet::{Extension, Packet, Tag, TcpFlags},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{exchange, tags};

/// Random bytes, as many as the range says.
fn bytes(random: &mut StdRng, length: std::ops::RangeInclusive<usize>) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(length)];
    random.fill(&mut bytes[..]);
    bytes
}

/// A packet in which every field that has no part in a translation is random.
fn random_packet(random: &mut StdRng) -> Packet {
    let extensions = [
        Extension::HopByHop(1),
        Extension::Destination(0),
        Extension::Fragment {
            offset: 0,
            more: false,
            id: random.random(),
        },
        Extension::Destination(3),
    ];
    let packet = if random.random() {
        // What an end host would refuse is none of our business either.
        let options = bytes(random, 0..=40);
        Packet::tcp()
            .flags(TcpFlags(random.random()))
            .sequence(random.random())
            .acknowledgment(random.random())
            .window(random.random())
            .urgent(random.random())
            .tcp_options(&options)
    } else {
        Packet::udp()
    };
    let (first, last) = (random.random_range(0..=4), random.random_range(0..=4));
    let (options, payload, trailer) = (bytes(random, 0..=40), bytes(random, 0..=400), bytes(random, 0..=60));
    packet
        .dscp(random.random())
        .ecn(random.random())
        .flow_label(random.random())
        .id(random.random())
        .dont_fragment(random.random())
        .ip_options(&options)
        .extensions(extensions.get(first..last).unwrap_or_default())
        .payload(&payload)
        .trailer(&trailer)
}

/// Requests and replies of every exchange, within every kind of tags: all of a packet is compared with what must leave.
#[test]
fn random_packets_leave_with_every_other_byte_as_it_came() {
    let mut random = StdRng::seed_from_u64(0xa8);
    exchange::each(|fixture, exchange| {
        for stack in tags::stacks() {
            tags::set_way(fixture, &stack);
            for _ in 0..200 {
                let with_priority = |tag: &Tag| tag.priority(random.random());
                let stack: Vec<Tag> = stack.iter().map(with_priority).collect();
                let packet = random_packet(&mut random).tags(&stack);
                exchange.check(fixture, &packet);
            }
        }
        tags::set_way(fixture, &[]);
        fixture.expect_counts(&[("forward", 1_200), ("reply", 1_200)]);
    });
}

#[test]
fn data_on_a_first_segment_stays() {
    exchange::each(|fixture, exchange| {
        let exchange = exchange.at_port(exchange.port + 1);
        exchange.open(fixture);
        for flags in [TcpFlags::SYN, TcpFlags::SYN | TcpFlags::ACK] {
            // Fast open (RFC 7413), with its cookie.
            let segment = Packet::tcp()
                .flags(flags)
                .tcp_options(&[34, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
            exchange.check(fixture, &segment.payload(b"data on a SYN"));
        }
    });
}

#[test]
fn unusual_tcp_fields_stay() {
    exchange::each(|fixture, exchange| {
        let segment = Packet::tcp().flags(TcpFlags::ACK);
        let urgent = segment.clone().flags(TcpFlags::ACK | TcpFlags::URG).urgent(0xbeef);
        exchange.check(fixture, &urgent.window(1));
        // A maximum segment size option that is a byte short, then padding.
        exchange.check(fixture, &segment.clone().tcp_options(&[2, 3, 5, 0]));
        let full = segment.tcp_options(&[1; 40]);
        exchange.check(fixture, &full.sequence(u32::MAX).acknowledgment(0));
    });
}

#[test]
fn ethernet_padding_and_trailer_stay() {
    exchange::each(|fixture, exchange| {
        for trailer in [&[0; 6][..], &[0xff; 20], b"a trailer of odd length"] {
            for packet in [Packet::tcp(), Packet::udp().payload(b"odd")] {
                exchange.check(fixture, &packet.trailer(trailer));
            }
        }
    });
}

#[test]
fn datagram_shorter_than_its_packet_stays_as_it_is() {
    exchange::each(|fixture, exchange| {
        let datagram = Packet::udp().payload(&[9; 20]).without_checksum();
        exchange.check(fixture, &datagram.claim_udp_length(18));
    });
}

#[test]
fn forwarding_changes_addresses_ports_ttl_and_checksums_alone() {
    exchange::each(|fixture, exchange| {
        let packet = Packet::tcp()
            .dscp(10)
            .flow_label(7)
            .ip_options(&[1; 8])
            .extensions(&[Extension::HopByHop(0)])
            .tcp_options(&[1; 4])
            .payload(b"payload")
            .trailer(b"trailer");
        let before = exchange.request(packet).build();
        let after = fixture.forwarded(&before);
        let mut expected = vec!["eth destination", "eth source", "ttl"];
        if exchange.family == Family::V4 {
            expected.push("ip checksum");
        }
        if exchange.hides_client() {
            expected.push("source");
        }
        expected.extend(["destination", "destination port", "l4 checksum"]);
        assert_eq!(differing_fields(&after, &before), expected);
    });
}
