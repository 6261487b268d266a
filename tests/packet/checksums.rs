//! Checksums against a full recomputation by the laboratory's own code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::maps::programs;
use lb_tests::{
    checksum::Sum,
    diff::{assert_packet_eq, checksums_valid},
    layers::{IpPacket, TCP, UDP},
    names::Family,
    packet::{ETHERNET_LENGTH, Extension, Packet, TcpFlags},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    exchange::{self, Exchange},
    fixture::Fixture,
};

/// Programs in which no finished checksum is taken for an unfinished one and left to another.
const NATIVE_PROGRAMS: [&str; 2] = [programs::NATIVE, programs::NATIVE_VIRTUAL];

/// Where the TCP or UDP checksum of a frame without tags stands.
fn checksum_at(frame: &[u8]) -> usize {
    let packet = IpPacket::read(&frame[ETHERNET_LENGTH..]).expect("an IP packet");
    ETHERNET_LENGTH + packet.header.len() + if packet.protocol == TCP { 16 } else { 6 }
}

/// The TCP or UDP checksum of a frame without tags.
fn checksum(frame: &[u8]) -> u16 {
    let at = checksum_at(frame);
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// By how much the checksum of a frame is wrong, in one's complement.
fn error(frame: &[u8], right: &[u8]) -> u32 {
    (u32::from(checksum(frame)) + 0xffff - u32::from(checksum(right))) % 0xffff
}

/// Whether a datagram says that it has no checksum (RFC 768).
fn has_none(frame: &[u8]) -> bool {
    let packet = IpPacket::read(&frame[ETHERNET_LENGTH..]).expect("an IP packet");
    packet.protocol == UDP && checksum(frame) == 0
}

/// A connection's first packet, of random shape.
fn random_packet(random: &mut StdRng) -> Packet {
    let mut payload = vec![0; random.random_range(0..120)];
    random.fill(&mut payload[..]);
    let packet = if random.random() {
        Packet::tcp()
            .flags(TcpFlags::SYN)
            .sequence(random.random())
            .acknowledgment(random.random())
            .window(random.random())
            .urgent(random.random())
    } else {
        Packet::udp()
    };
    let options = vec![1; 4 * random.random_range(0..=10)];
    let extensions = [Extension::HopByHop(1), Extension::Destination(0)];
    packet
        .dscp(random.random_range(0..64))
        .ecn(random.random_range(0..4))
        .id(random.random())
        .dont_fragment(random.random())
        .flow_label(random.random())
        .ip_options(&options)
        .extensions(&extensions[..random.random_range(0..=2)])
        .payload(&payload)
}

fn random_client(random: &mut StdRng, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from([198, random.random(), random.random(), random.random()]).into(),
        Family::V6 => Ipv6Addr::from((0x2001 << 112) | random.random::<u128>() >> 16).into(),
    }
}

/// What stands in the checksum field of a random packet.
fn random_checksum(random: &mut StdRng) -> fn(Packet) -> Packet {
    match random.random_range(0..8) {
        0 => Packet::without_checksum,
        1 => Packet::bad_checksum,
        _ => |packet| packet,
    }
}

/// Runs a packet whose checksum field holds what `field` says. It must leave as `leaving`, with a checksum that is wrong by as much as it
/// was; "none" stays "none".
#[track_caller]
fn check(fixture: &mut Fixture, arriving: &Packet, leaving: &Packet, field: fn(Packet) -> Packet) {
    let (frame, right) = (field(arriving.clone()).build(), arriving.build());
    let out = fixture.forwarded(&frame);
    let mut leaving = leaving.build();
    let at = checksum_at(&leaving);
    if has_none(&frame) {
        leaving[at..at + 2].fill(0);
    } else if frame != right {
        assert_eq!(error(&out, &leaving), error(&frame, &right), "{arriving:?}");
        leaving[at..at + 2].copy_from_slice(&out[at..at + 2]);
    }
    assert_packet_eq(&out, &leaving);
}

/// 200,000 random packets, half of each family, requests and replies in both ways of forwarding: all leave as the builder makes them,
/// which sums up everything anew.
#[test]
fn random_packets_leave_with_the_checksums_of_a_full_recomputation() {
    const PACKETS: u16 = 25_000;
    let mut random = StdRng::seed_from_u64(0x1624);
    for program in NATIVE_PROGRAMS {
        let mut fixture = Fixture::with_exchanges();
        fixture.use_program(program);
        for number in 0..PACKETS {
            for family in Family::ALL {
                let exchange = Exchange::all()
                    .filter(|exchange| exchange.family == family)
                    .nth(usize::from(number % 2))
                    .expect("two ways of forwarding")
                    .at_port(2_000 + number);
                let client = random_client(&mut random, family);
                let peer = if exchange.hides_client() {
                    exchange.peer()
                } else {
                    client
                };
                let (packet, field) = (random_packet(&mut random), random_checksum(&mut random));
                let ttl = random.random_range(2..=255);
                check(
                    &mut fixture,
                    &exchange.request(packet.clone()).source(client).ttl(ttl),
                    &exchange.request_leaving(packet.clone()).source(peer).ttl(ttl - 1),
                    field,
                );
                check(
                    &mut fixture,
                    &exchange.reply(packet.clone()).destination(peer).ttl(ttl),
                    &exchange.reply_leaving(packet).destination(client).ttl(ttl - 1),
                    field,
                );
            }
        }
        let packets = 2 * u64::from(PACKETS);
        fixture.expect_counts(&[("forward", packets), ("reply", packets)]);
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    exchange::each(|fixture, exchange| {
        let packet = Packet::udp().payload(b"abc").without_checksum();
        exchange.check(fixture, &packet);
        let out = fixture.forwarded(&exchange.request(packet).build());
        assert!(has_none(&out));
    });
}

/// A payload of two bytes, chosen so that the computed checksum is 0, which must leave as 0xffff (RFC 768).
#[test]
fn computed_zero_of_udp_leaves_as_all_ones() {
    exchange::each(|fixture, exchange| {
        let packet = |payload: u16| Packet::udp().payload(&payload.to_be_bytes());
        let zero = packet(checksum(&exchange.request_leaving(packet(0)).build()));
        let out = fixture.forwarded(&exchange.request(zero.clone()).build());
        assert_eq!(checksum(&out), 0xffff);
        assert_packet_eq(&out, &exchange.request_leaving(zero).build());

        let zero = packet(checksum(&exchange.reply_leaving(packet(0)).build()));
        let out = fixture.forwarded(&exchange.reply(zero.clone()).build());
        assert_eq!(checksum(&out), 0xffff);
        assert_packet_eq(&out, &exchange.reply_leaving(zero).build());
    });
}

#[test]
fn wrong_checksums_stay_wrong_by_as_much() {
    exchange::each(|fixture, exchange| {
        for packet in [Packet::tcp(), Packet::udp()] {
            let packet = packet.payload(b"abc");
            check(
                fixture,
                &exchange.request(packet.clone()),
                &exchange.request_leaving(packet.clone()),
                Packet::bad_checksum,
            );
            check(
                fixture,
                &exchange.reply(packet.clone()),
                &exchange.reply_leaving(packet.clone()),
                Packet::bad_checksum,
            );
            if exchange.family == Family::V4 {
                let out = fixture.forwarded(&exchange.request(packet).bad_ip_checksum().build());
                let error = checksums_valid(&out).expect_err("a bad IP checksum was repaired");
                assert!(error.contains("ip checksum"), "{error}");
            }
        }
    });
}

/// Every payload length around the sizes in which the program sums.
#[test]
fn unfinished_checksums_are_finished_in_native_mode_on_virtual_interfaces() {
    let mut fixture = Fixture::with_exchanges();
    fixture.use_program(programs::NATIVE_VIRTUAL);
    let bytes: Vec<u8> = (0..=u8::MAX)
        .cycle()
        .map(|byte| byte.wrapping_mul(7))
        .take(1_440)
        .collect();
    for exchange in Exchange::all() {
        exchange.open(&mut fixture);
        for length in (0..600).chain(1_400..=1_440) {
            for packet in [Packet::tcp(), Packet::udp()] {
                let packet = packet.payload(&bytes[..length]);
                let out = fixture.forwarded(&exchange.request(packet.clone()).partial_checksum().build());
                assert_packet_eq(&out, &exchange.request_leaving(packet).build());
            }
        }
    }
}

#[test]
fn unfinished_checksum_of_a_reply_is_finished() {
    let mut fixture = Fixture::with_exchanges();
    fixture.use_program(programs::NATIVE_VIRTUAL);
    for exchange in Exchange::all() {
        exchange.open(&mut fixture);
        let reply = Packet::tcp()
            .ip_options(&[1; 40])
            .tcp_options(&[1; 40])
            .payload(&[5; 77]);
        let out = fixture.forwarded(&exchange.reply(reply.clone()).partial_checksum().build());
        assert_packet_eq(&out, &exchange.reply_leaving(reply).build());
    }
}

#[test]
fn unfinished_checksum_is_left_to_tc_in_generic_mode() {
    let mut fixture = Fixture::with_exchanges();
    fixture.use_program(programs::GENERIC);
    for exchange in Exchange::all() {
        for packet in [Packet::tcp().flags(TcpFlags::SYN), Packet::udp()] {
            let packet = packet.partial_checksum();
            fixture.passed(&exchange.request(packet.clone()).build(), "left_to_tc");
            fixture.passed(&exchange.reply(packet).build(), "left_to_tc");
        }
    }
    assert!(fixture.connections().is_empty());
}

/// On hardware a checksum is never unfinished: one that looks so is updated like any other.
#[test]
fn checksum_that_looks_unfinished_is_updated_in_native_mode_on_hardware() {
    let mut fixture = Fixture::with_exchanges();
    for exchange in Exchange::all() {
        exchange.open(&mut fixture);
        // A payload that makes the finished checksum equal to the sum over the pseudo header.
        let segment = |payload: u16| Packet::tcp().payload(&payload.to_be_bytes());
        let finished = checksum(&exchange.request(segment(0)).build());
        let unfinished = checksum(&exchange.request(segment(0)).partial_checksum().build());
        let difference = Sum::default()
            .plus(&finished.to_be_bytes())
            .plus(&(!unfinished).to_be_bytes());
        let ambiguous = segment(difference.folded());
        let frame = exchange.request(ambiguous.clone()).build();
        assert_eq!(checksum(&frame), unfinished);
        for program in NATIVE_PROGRAMS {
            fixture.use_program(program);
            assert_packet_eq(
                &fixture.forwarded(&frame),
                &exchange.request_leaving(ambiguous.clone()).build(),
            );
        }
    }
}
