//! Checksums against a full recomputation by the laboratory's own code.

use std::net::Ipv4Addr;

use lb_common::{maps::programs, service::Forwarding};
use lb_tests::{
    diff::{assert_packet_eq, checksums_valid},
    names::{BACKEND_1, CLIENT, VIP},
    packet::{Packet, TcpFlags},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::fixture::{Fixture, PORT, from_backend, from_client, syn, syn_from, to_backend, to_client};

/// Offset of the TCP checksum in a frame without IP options.
const TCP_CHECKSUM: usize = 14 + 20 + 16;
/// Offset of the UDP checksum in a frame without IP options.
const UDP_CHECKSUM: usize = 14 + 20 + 6;

/// A packet of random shape from a client.
fn random_packet(random: &mut StdRng, port: u16) -> Packet {
    let mut payload = vec![0; random.random_range(0..120)];
    random.fill(&mut payload[..]);
    let client = Ipv4Addr::from([198, random.random(), random.random(), random.random()]);
    let packet = if random.random() {
        let flags = TcpFlags::SYN;
        Packet::tcp()
            .flags(flags)
            .sequence(random.random())
            .acknowledgment(random.random())
            .window(random.random())
    } else {
        Packet::udp()
    };
    let options = vec![1; 4 * random.random_range(0..=10)];
    from_client(packet)
        .from(client, port)
        .to(VIP, PORT)
        .ttl(random.random_range(2..=255))
        .dscp(random.random_range(0..64))
        .id(random.random())
        .ip_options(&options)
        .payload(&payload)
}

/// 200,000 random packets, forward and reply, in both modes: every checksum equals a full recomputation.
#[test]
fn random_packets_leave_with_the_checksums_of_a_full_recomputation() {
    const PACKETS: u32 = 200_000;
    const PER_TABLE: u32 = 25_000;
    let mut random = StdRng::seed_from_u64(0x1624);
    let modes = [Forwarding::Nat, Forwarding::FullNat];
    let kinds = [programs::NATIVE, programs::NATIVE_VIRTUAL];
    for round in 0..PACKETS / 2 / PER_TABLE {
        let mut fixture = Fixture::with_service(modes[round as usize % 2], &[BACKEND_1]);
        fixture.use_program(kinds[round as usize / 2 % 2]);
        for number in 0..PER_TABLE {
            let port = u16::try_from(2_000 + number).expect("a port");
            let packet = random_packet(&mut random, port);
            let out = fixture.forwarded(&packet.build());
            if let Err(reason) = checksums_valid(&out) {
                panic!("packet {number} of round {round}: {reason}\n{packet:?}");
            }
            let (source, _) = lb_tests::diff::endpoints(&out).expect("a TCP or UDP packet");
            // The same shape as a reply: only the addresses differ.
            let reply = from_backend(packet, BACKEND_1).to(source.ip(), source.port());
            let out = fixture.forwarded(&reply.build());
            if let Err(reason) = checksums_valid(&out) {
                panic!("reply {number} of round {round}: {reason}\n{reply:?}");
            }
        }
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    for program in [programs::NATIVE, programs::NATIVE_VIRTUAL] {
        let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
        fixture.use_program(program);
        let query = from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT))
            .payload(b"abc")
            .without_checksum();
        let out = fixture.forwarded(&query.build());
        assert_eq!(out[UDP_CHECKSUM..][..2], [0, 0]);
        assert_packet_eq(&out, &to_backend(query, BACKEND_1, 62));
        let answer = Packet::udp().to(CLIENT, 7).payload(b"abcd").without_checksum();
        let out = fixture.forwarded(&from_backend(answer.clone(), BACKEND_1).build());
        assert_packet_eq(&out, &to_client(answer, 62));
    }
}

/// All payloads of two bytes: one of them makes the computed checksum 0, which must leave as 0xffff (RFC 768).
#[test]
fn computed_zero_of_udp_leaves_as_all_ones() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    let query = |payload: u16| from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT)).payload(&payload.to_be_bytes());
    let zero = (0..=u16::MAX)
        .find(|payload| {
            let leaving = to_backend(query(*payload), BACKEND_1, 62);
            leaving[UDP_CHECKSUM..][..2] == [0xff, 0xff]
        })
        .expect("one payload of 65,536 has this checksum");
    let out = fixture.forwarded(&query(zero).build());
    assert_eq!(out[UDP_CHECKSUM..][..2], [0xff, 0xff]);
    assert_packet_eq(&out, &to_backend(query(zero), BACKEND_1, 62));
}

#[test]
fn wrong_checksums_stay_wrong() {
    for program in [programs::NATIVE, programs::NATIVE_VIRTUAL, programs::GENERIC] {
        let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
        fixture.use_program(program);
        let out = fixture.forwarded(&syn().bad_checksum().payload(b"abc").build());
        assert!(checksums_valid(&out).is_err(), "a bad TCP checksum was repaired");
        let datagram = from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT))
            .payload(b"abc")
            .bad_checksum();
        let out = fixture.forwarded(&datagram.build());
        assert!(checksums_valid(&out).is_err(), "a bad UDP checksum was repaired");
        let out = fixture.forwarded(&syn_from(CLIENT, 40_009).bad_ip_checksum().build());
        assert!(checksums_valid(&out).is_err(), "a bad IP checksum was repaired");
    }
}

/// Every payload length around the sizes in which the program sums.
#[test]
fn unfinished_checksums_are_finished_in_native_mode_on_virtual_interfaces() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.use_program(programs::NATIVE_VIRTUAL);
    let lengths = (0..600).chain(1400..=1460);
    for length in lengths {
        let payload: Vec<u8> = (0..=u8::MAX)
            .cycle()
            .map(|byte| byte.wrapping_mul(7))
            .take(length)
            .collect();
        let segment = syn().payload(&payload);
        let out = fixture.forwarded(&segment.clone().partial_checksum().build());
        assert_packet_eq(&out, &to_backend(segment, BACKEND_1, 62));

        let datagram = from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT)).payload(&payload);
        let out = fixture.forwarded(&datagram.clone().partial_checksum().build());
        assert_packet_eq(&out, &to_backend(datagram, BACKEND_1, 62));
    }
}

#[test]
fn unfinished_checksum_of_a_reply_with_options_is_finished() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.use_program(programs::NATIVE_VIRTUAL);
    fixture.forwarded(&syn().build());
    let reply = Packet::tcp()
        .to(CLIENT, 40_000)
        .ip_options(&[1; 40])
        .tcp_options(&[1; 40])
        .payload(&[5; 77]);
    let out = fixture.forwarded(&from_backend(reply.clone(), BACKEND_1).partial_checksum().build());
    assert_packet_eq(&out, &to_client(reply, 62));
}

#[test]
fn unfinished_checksum_is_left_to_tc_in_generic_mode() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.use_program(programs::GENERIC);
    fixture.passed(&syn().partial_checksum().build(), "left_to_tc");
    assert!(fixture.connections().is_empty());
}

/// On hardware a checksum is never unfinished: one that looks so is updated like any other.
#[test]
fn checksum_that_looks_unfinished_is_updated_in_native_mode_on_hardware() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    // A finished checksum equal to its pseudo-header sum: found by trying payloads.
    let segment = |payload: u16| syn().payload(&payload.to_be_bytes());
    let ambiguous = (0..=u16::MAX)
        .map(segment)
        .find(|segment| {
            segment.build()[TCP_CHECKSUM..][..2] == segment.clone().partial_checksum().build()[TCP_CHECKSUM..][..2]
        })
        .expect("one payload of 65,536 has this checksum");
    for program in [programs::NATIVE, programs::NATIVE_VIRTUAL] {
        fixture.use_program(program);
        let out = fixture.forwarded(&ambiguous.build());
        assert_packet_eq(&out, &to_backend(ambiguous.clone(), BACKEND_1, 62));
    }
}
