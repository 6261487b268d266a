//! Options of IPv4 and extension headers of IPv6: the ports are behind them, wherever that is.

use std::ops::Range;

use lb_common::maps::programs;
use lb_tests::{
    diff::assert_packet_eq,
    names::Family,
    packet::{Extension, Packet},
};

use crate::{
    exchange::{self, Exchange},
    fixture::Fixture,
};

/// IPv4 options of this many 32-bit words: no operation (RFC 791, section 3.1), record route, loose source route, router alert (RFC 2113).
fn options(words: usize) -> [Vec<u8>; 4] {
    let length = 4 * words;
    let filled = |start: &[u8], filler: u8| {
        let mut options = start.to_vec();
        options.resize(length, filler);
        options
    };
    let route = |kind| filled(&[kind, u8::try_from(length).expect("40 at most"), 4], 0);
    [filled(&[], 1), route(0x07), route(0x83), filled(&[0x94, 0x04, 0, 0], 1)]
}

/// Where the extension headers stand in a frame without tags.
fn chain(extensions: &[Extension]) -> Range<usize> {
    let plain = Packet::udp().over(Family::V6);
    54..54 + plain.clone().extensions(extensions).build().len() - plain.build().len()
}

/// A packet with this chain, through both directions. The builder writes the destination into routing headers, and nobody else may.
#[track_caller]
fn check_chain(fixture: &mut Fixture, exchange: Exchange, packet: &Packet, extensions: &[Extension]) {
    let packet = packet.clone().extensions(extensions).payload(b"data");
    let untouched = chain(extensions);
    let mut run = |arriving: Packet, leaving: Packet| {
        let (arriving, mut leaving) = (arriving.build(), leaving.build());
        leaving[untouched.clone()].copy_from_slice(&arriving[untouched.clone()]);
        assert_packet_eq(&fixture.forwarded(&arriving), &leaving);
    };
    run(
        exchange.request(packet.clone()),
        exchange.request_leaving(packet.clone()),
    );
    run(exchange.reply(packet.clone()), exchange.reply_leaving(packet.clone()));
}

/// Headers of every kind and of different lengths that may be followed.
const FOLLOWED: [Extension; 8] = [
    Extension::HopByHop(0),
    Extension::Destination(1),
    Extension::Routing {
        kind: 0,
        segments_left: 0,
    },
    // Of a packet that is none (RFC 6946).
    Extension::Fragment {
        offset: 0,
        more: false,
        id: 0x0102_0304,
    },
    Extension::Destination(0),
    Extension::HopByHop(2),
    Extension::Routing {
        kind: 4,
        segments_left: 0,
    },
    Extension::Destination(3),
];

fn each_of_ipv6(mut test: impl FnMut(&mut Fixture, Exchange)) {
    exchange::each(|fixture, exchange| {
        if exchange.family == Family::V6 {
            test(fixture, exchange);
        }
    });
}

#[test]
fn ipv4_options_of_every_length_stay_and_ports_are_found_behind_them() {
    exchange::each(|fixture, exchange| {
        if exchange.family == Family::V6 {
            return;
        }
        for words in 1..=10 {
            for options in options(words) {
                for packet in [Packet::tcp(), Packet::udp()] {
                    exchange.check(fixture, &packet.ip_options(&options).payload(b"data"));
                }
            }
        }
        fixture.expect_counts(&[("forward", 80), ("reply", 80)]);
    });
}

#[test]
fn chains_of_up_to_eight_extension_headers_stay_and_ports_are_found_behind_them() {
    each_of_ipv6(|fixture, exchange| {
        let mut packets = 0;
        for start in 0..FOLLOWED.len() {
            for depth in 1..=8 {
                let extensions: Vec<Extension> = FOLLOWED.into_iter().cycle().skip(start).take(depth).collect();
                for packet in [Packet::tcp(), Packet::udp()] {
                    check_chain(fixture, exchange, &packet, &extensions);
                    packets += 1;
                }
            }
        }
        check_chain(fixture, exchange, &Packet::tcp(), &[Extension::Destination(100)]);
        fixture.expect_counts(&[("forward", packets + 1), ("reply", packets + 1)]);
    });
}

#[test]
fn chains_of_more_extension_headers_are_passed() {
    each_of_ipv6(|fixture, exchange| {
        for depth in [9, 10, 20, 100] {
            let extensions: Vec<Extension> = FOLLOWED.into_iter().cycle().take(depth).collect();
            for packet in [Packet::tcp(), Packet::udp()] {
                let packet = packet.extensions(&extensions);
                fixture.passed(&exchange.request(packet.clone()).build(), "extension_headers");
                fixture.passed(&exchange.reply(packet).build(), "extension_headers");
            }
        }
    });
}

/// Its checksum is that of another destination (RFC 8200, section 8.1).
#[test]
fn packet_on_its_source_route_is_passed() {
    each_of_ipv6(|fixture, exchange| {
        for kind in [0, 2, 4] {
            let routing = Extension::Routing { kind, segments_left: 1 };
            for chain in [&[routing][..], &[Extension::HopByHop(0), routing]] {
                let packet = Packet::tcp().extensions(chain);
                fixture.passed(&exchange.request(packet).build(), "extension_headers");
            }
        }
    });
}

#[test]
fn headers_that_hide_or_protect_what_follows_are_passed() {
    const ENCAPSULATING_SECURITY_PAYLOAD: u8 = 50;
    const EXPERIMENT: u8 = 253;
    each_of_ipv6(|fixture, exchange| {
        let last = [
            Extension::Authentication,
            Extension::Other(ENCAPSULATING_SECURITY_PAYLOAD),
            Extension::Mobility,
            Extension::Other(EXPERIMENT),
            Extension::NoNextHeader,
        ];
        for last in last {
            for before in 0..8 {
                let mut extensions = FOLLOWED[..before].to_vec();
                extensions.push(last);
                let packet = Packet::udp().extensions(&extensions);
                fixture.passed(&exchange.request(packet.clone()).build(), "not_tcp_or_udp");
                fixture.passed(&exchange.reply(packet).build(), "not_tcp_or_udp");
            }
        }
    });
}

#[test]
fn chains_that_run_past_the_end_are_passed() {
    each_of_ipv6(|fixture, exchange| {
        let extensions = [
            Extension::HopByHop(0),
            Extension::Destination(1),
            Extension::Destination(0),
        ];
        let packet = exchange.request(Packet::udp().extensions(&extensions).payload(b"data"));
        let frame = packet.build();
        // A header that claims to be longer than the packet, or so long that the datagram would begin at its end or right before.
        for start in [54, 54 + 8, 54 + 24] {
            let left = (frame.len() - start) / 8;
            for units in [left - 1, left, left + 1, 255] {
                let mut frame = frame.clone();
                frame[start + 1] = u8::try_from(units).expect("a length");
                fixture.passed(&frame, "malformed");
            }
        }
        // The packet ends within its chain, the frame does not.
        for length in 0..chain(&extensions).len() + 8 {
            let length = u16::try_from(length).expect("a length");
            fixture.passed(&packet.clone().claim_total_length(length).build(), "malformed");
        }
        for length in 54..frame.len() {
            fixture.passed(&frame[..length], "malformed");
        }
    });
}

#[test]
fn unfinished_checksums_behind_options_and_extension_headers_are_finished() {
    let mut fixture = Fixture::with_exchanges();
    fixture.use_program(programs::NATIVE_VIRTUAL);
    for exchange in Exchange::all() {
        exchange.open(&mut fixture);
        for depth in 1..=8 {
            for packet in [Packet::tcp(), Packet::udp()] {
                let packet = packet
                    .ip_options(&vec![1; 4 * depth])
                    .extensions(&[Extension::Destination(2); 8][..depth])
                    .payload(&[0xe5; 77]);
                let unfinished = exchange.request(packet.clone()).partial_checksum();
                let out = fixture.forwarded(&unfinished.build());
                assert_packet_eq(&out, &exchange.request_leaving(packet).build());
            }
        }
    }
}
