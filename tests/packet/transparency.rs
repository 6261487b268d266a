//! Bytes that are not addresses, ports, MACs, TTL or checksums are never changed.

use lb_common::service::Forwarding;
use lb_tests::{
    diff::{assert_packet_eq, differing_fields},
    names::{BACKEND_1, CLIENT, VIP},
    packet::{Packet, TcpFlags},
};

use crate::fixture::{Fixture, PORT, XDP_PROGRAMS, from_backend, from_client, syn, to_backend, to_client};

/// Runs a client's packet and compares all of it with what must leave.
#[track_caller]
fn check(fixture: &mut Fixture, packet: Packet) {
    let out = fixture.forwarded(&packet.build());
    assert_packet_eq(&out, &to_backend(packet, BACKEND_1, 62));
}

#[test]
fn every_header_length_is_translated_at_its_own_offset() {
    for program in XDP_PROGRAMS {
        let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
        fixture.use_program(program);
        for words in 0..=10 {
            // No-operation options (RFC 791, section 3.1).
            let options = vec![1; 4 * words];
            check(&mut fixture, syn().ip_options(&options));
            check(
                &mut fixture,
                from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT)).ip_options(&options),
            );
        }
        // Record route with room for two addresses, router alert.
        for option in [&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[148, 4, 0, 0]] {
            check(&mut fixture, syn().ip_options(option));
        }
    }
}

#[test]
fn reply_with_options_is_translated() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.forwarded(&syn().build());
    let reply = Packet::tcp().to(CLIENT, 40_000).ip_options(&[1; 40]).payload(b"x");
    let out = fixture.forwarded(&from_backend(reply.clone(), BACKEND_1).build());
    assert_packet_eq(&out, &to_client(reply, 62));
}

#[test]
fn traffic_class_congestion_marks_and_identification_stay() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    for (dscp, ecn, id, dont_fragment) in [(46, 0, 0, true), (0, 3, 0xffff, false), (63, 1, 0x8000, true)] {
        check(
            &mut fixture,
            syn().dscp(dscp).ecn(ecn).id(id).dont_fragment(dont_fragment),
        );
    }
}

#[test]
fn unusual_tcp_fields_stay() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    check(&mut fixture, syn().payload(b"data on a SYN"));
    check(
        &mut fixture,
        syn().flags(TcpFlags::ACK | TcpFlags::URG).urgent(0xbeef).window(1),
    );
    // A maximum segment size option that is a byte short, then padding.
    check(&mut fixture, syn().flags(TcpFlags::ACK).tcp_options(&[2, 3, 5, 0]));
    check(
        &mut fixture,
        syn()
            .flags(TcpFlags::ACK)
            .tcp_options(&[1; 40])
            .sequence(u32::MAX)
            .acknowledgment(0),
    );
}

#[test]
fn ethernet_padding_and_trailer_stay() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    for trailer in [&[0; 6][..], &[0xff; 20], b"a trailer of odd length"] {
        check(&mut fixture, syn().trailer(trailer));
        let datagram = from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT))
            .payload(b"odd")
            .trailer(trailer);
        check(&mut fixture, datagram);
    }
}

#[test]
fn datagram_shorter_than_its_packet_stays_as_it_is() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    let datagram = from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT))
        .payload(&[9; 20])
        .without_checksum();
    check(&mut fixture, datagram.claim_udp_length(18));
}

#[test]
fn forwarding_changes_addresses_ports_ttl_and_checksums_alone() {
    let mut fixture = Fixture::with_service(Forwarding::FullNat, &[BACKEND_1]);
    let packet = syn()
        .dscp(10)
        .ip_options(&[1; 8])
        .tcp_options(&[1; 4])
        .payload(b"payload")
        .trailer(b"trailer");
    let before = packet.build();
    let after = fixture.forwarded(&before);
    let expected = [
        "eth destination",
        "eth source",
        "ttl",
        "ip checksum",
        "source",
        "destination",
        "destination port",
        "l4 checksum",
    ];
    assert_eq!(differing_fields(&after, &before), expected);
}
