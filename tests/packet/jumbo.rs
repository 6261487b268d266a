//! Jumbo frames: longer than one buffer, of which a program reads the first one alone.

use lb_common::maps::programs;
use lb_tests::{
    diff::assert_packet_eq,
    names::{CLIENT_ROUTER_MAC, Family, GATEWAY_TO_CLIENTS_MAC},
    packet::{Extension, IcmpError, Packet, quote},
    program::Action,
};
use xlb::dataplane::Dataplane as _;

use crate::{
    exchange::{self, Exchange},
    fixture::Fixture,
};

/// Where the first buffer ends that the kernel puts a test frame into: a page without its headroom and what the kernel keeps at its end.
const FIRST_BUFFER: usize = 4096 - 256 - 320;

/// Bytes of TCP or UDP that the program sums up at most to finish a checksum.
const LONGEST_SUM: usize = 20 * 512;

/// Lets the way to every backend take IP packets of this length; 0: it is not known.
fn set_mtu(fixture: &mut Fixture, mtu: u16) {
    for (id, mut entry) in fixture.dataplane.backends().expect("the backends") {
        entry.next_hop.mtu = mtu;
        fixture.dataplane.set_backend(id, &entry).expect("a backend");
    }
}

/// Bytes of an IP header without options or extensions.
const fn ip_header(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Payload that makes a segment or a datagram of `segment` bytes, odd ones included.
fn packets_of(segment: usize) -> [Packet; 2] {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().map(|byte| byte ^ 0xa7).take(segment).collect();
    [Packet::tcp().payload(&bytes[20..]), Packet::udp().payload(&bytes[8..])]
}

#[test]
fn jumbo_frames_are_translated_whole() {
    exchange::each(|fixture, exchange| {
        set_mtu(fixture, 9_000);
        let header = ip_header(exchange.family);
        for packet in packets_of(9_000 - header).into_iter().chain(packets_of(8_999 - header)) {
            exchange.check(fixture, &packet);
            exchange.check(fixture, &packet.trailer(b"trailer"));
        }
        // The first buffer ends shortly before, at, and behind the end of the frame.
        for length in FIRST_BUFFER - 2..=FIRST_BUFFER + 2 {
            for packet in packets_of(length - 14 - header) {
                exchange.check(fixture, &packet);
            }
        }
        fixture.expect_counts(&[("forward", 18), ("reply", 18)]);
    });
}

#[test]
fn frames_of_more_than_a_jumbo_frame_are_translated_where_the_way_takes_them() {
    exchange::each(|fixture, exchange| {
        set_mtu(fixture, 0);
        for packet in packets_of(20_001).into_iter().chain(packets_of(60_000)) {
            exchange.check(fixture, &packet);
        }
        fixture.expect_counts(&[("forward", 4), ("reply", 4)]);
    });
}

#[test]
fn unfinished_checksums_of_jumbo_frames_are_finished() {
    let mut fixture = Fixture::with_exchanges();
    fixture.use_program(programs::NATIVE_VIRTUAL);
    set_mtu(&mut fixture, 0);
    for exchange in Exchange::all() {
        exchange.open(&mut fixture);
        let boundary = FIRST_BUFFER - 14 - ip_header(exchange.family);
        let lengths = (boundary - 4..boundary + 4)
            .chain(8_940..8_980)
            .chain([LONGEST_SUM - 1, LONGEST_SUM]);
        for packet in lengths.flat_map(packets_of) {
            let out = fixture.forwarded(&exchange.request(packet.clone()).partial_checksum().build());
            assert_packet_eq(&out, &exchange.request_leaving(packet.clone()).build());
            let out = fixture.forwarded(&exchange.reply(packet.clone()).partial_checksum().build());
            assert_packet_eq(&out, &exchange.reply_leaving(packet).build());
        }
    }
}

/// Longer ones come of sockets that leave cutting them up to a network card (GSO), which native mode does not have.
#[test]
fn unfinished_checksum_over_more_than_a_jumbo_frame_is_refused() {
    let mut fixture = Fixture::with_exchanges();
    set_mtu(&mut fixture, 0);
    for exchange in Exchange::all() {
        fixture.use_program(programs::NATIVE_VIRTUAL);
        exchange.open(&mut fixture);
        fixture.counts();
        for packet in [LONGEST_SUM + 1, 16_384, 60_000].into_iter().flat_map(packets_of) {
            let unfinished = packet.partial_checksum();
            fixture.dropped(&exchange.request(unfinished.clone()).build(), "too_big");
            fixture.dropped(&exchange.reply(unfinished).build(), "too_big");
        }
        fixture.use_program(programs::GENERIC);
        for packet in packets_of(60_000) {
            fixture.passed(&exchange.request(packet.partial_checksum()).build(), "left_to_tc");
        }
    }
}

#[test]
fn sender_of_a_jumbo_frame_that_is_too_big_is_told() {
    exchange::each(|fixture, exchange| {
        set_mtu(fixture, 9_000);
        let header = ip_header(exchange.family);
        for packet in [9_001 - header, 16_384, 60_000].into_iter().flat_map(packets_of) {
            let frame = exchange.request(packet).build();
            let outcome = fixture.run(&frame);
            assert_eq!(outcome.action, Action::Redirect);
            assert_packet_eq(&outcome.frame, &too_big(exchange, &frame));
            fixture.expect_counts(&[("too_big", 1), ("icmp_sent", 1)]);
        }
    });
}

/// What the client is told: what fits is 9,000 bytes, and as much of its packet as the error has room for.
fn too_big(exchange: Exchange, frame: &[u8]) -> Vec<u8> {
    // RFC 1812, section 4.3.2.3; RFC 4443, section 2.4 (c).
    let longest = match exchange.family {
        Family::V4 => 576,
        Family::V6 => 1280,
    };
    let room = longest - 2 * ip_header(exchange.family) - 8;
    let error = Packet::icmp_error(IcmpError::TooBig { mtu: 9_000 }, &quote(frame, room))
        .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
        .source(exchange.vip())
        .ttl(64);
    match exchange.family {
        // Internetwork control (RFC 1812, section 4.3.2.5).
        Family::V4 => error.id(0).dscp(48).build(),
        Family::V6 => error.build(),
    }
}

#[test]
fn jumbo_frame_that_is_cut_short_is_passed() {
    exchange::each(|fixture, exchange| {
        set_mtu(fixture, 9_000);
        for packet in packets_of(8_000) {
            let frame = exchange.request(packet).build();
            for length in [100, FIRST_BUFFER - 1, FIRST_BUFFER, FIRST_BUFFER + 1, frame.len() - 1] {
                fixture.passed(&frame[..length], "malformed");
            }
        }
    });
}

#[test]
fn packet_whose_ports_are_beyond_the_first_buffer_is_passed() {
    exchange::each(|fixture, exchange| {
        if exchange.family == Family::V4 {
            return;
        }
        set_mtu(fixture, 9_000);
        let packet = Packet::udp()
            .extensions(&[Extension::Destination(255); 2])
            .payload(&[7; 1_000]);
        fixture.passed(&exchange.request(packet).build(), "malformed");
    });
}
