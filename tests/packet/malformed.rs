//! Packets that are cut short or contradict themselves: passed unmodified or forwarded right, never more.

use std::{net::IpAddr, ops::Range};

use lb_tests::{
    layers::{IpPacket, TCP},
    names::Family,
    packet::{ETHERNET_LENGTH, Extension, Packet, Tag, TcpFlags},
    program::{Action, Outcome},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    exchange::{self, Exchange},
    fixture::{Fixture, PORT, XDP_PROGRAMS},
};

/// Ethernet header; the kernel runs no shorter frame.
const SHORTEST: usize = 14;

/// Well-formed packets of different shapes, without tags.
fn shapes() -> Vec<Packet> {
    let (syn, datagram) = (Packet::tcp().flags(TcpFlags::SYN), Packet::udp());
    let extensions = [
        Extension::HopByHop(0),
        Extension::Destination(1),
        Extension::Fragment {
            offset: 0,
            more: false,
            id: 7,
        },
    ];
    vec![
        syn.clone(),
        syn.clone().flags(TcpFlags::ACK),
        syn.clone().payload(b"data"),
        syn.clone().ip_options(&[1; 40]).extensions(&extensions),
        syn.clone().tcp_options(&[1; 40]),
        syn.ip_options(&[1; 8]).tcp_options(&[1; 12]).payload(&[7; 200]),
        datagram.clone(),
        datagram.clone().payload(b"data"),
        datagram
            .clone()
            .ip_options(&[1; 4])
            .extensions(&extensions[..1])
            .payload(&[7; 100]),
        datagram.without_checksum(),
    ]
}

/// Requests of all shapes, and replies of two.
fn base_packets(exchange: Exchange) -> Vec<Packet> {
    let replies = [Packet::tcp(), Packet::udp().payload(b"answer")].map(|packet| exchange.reply(packet));
    let requests = shapes().into_iter().map(|packet| exchange.request(packet));
    requests.chain(replies).collect()
}

#[test]
fn frame_cut_at_any_byte_is_passed() {
    let tags = [Tag::service(1), Tag::customer(2)];
    let mut fixture = Fixture::with_exchanges();
    for program in XDP_PROGRAMS {
        fixture.use_program(program);
        for packet in Exchange::all().flat_map(base_packets) {
            for count in 0..=2 {
                let frame = packet.clone().tags(&tags[..count]).build();
                for length in SHORTEST..frame.len() {
                    let outcome = fixture.run(&frame[..length]);
                    assert_eq!(outcome.action, Action::Pass, "{length} bytes of {packet:?}");
                    assert_eq!(outcome.frame, frame[..length]);
                }
                fixture.expect_counts(&[("malformed", (frame.len() - SHORTEST) as u64)]);
            }
        }
    }
    assert!(fixture.connections().is_empty());
}

#[test]
fn contradicting_lengths_are_passed() {
    exchange::each(|fixture, exchange| {
        let before = fixture.connections();
        let new = exchange.at_port(exchange.port + 1);
        let segment = || new.request(Packet::tcp().flags(TcpFlags::SYN));
        let datagram = || new.request(Packet::udp().payload(b"data"));
        let mut passed = |packet: Packet| fixture.passed(&packet.build(), "malformed");
        for version in (0..16).filter(|version| *version != if exchange.family == Family::V4 { 4 } else { 6 }) {
            passed(segment().claim_version(version));
        }
        if exchange.family == Family::V4 {
            for ihl in 0..5 {
                passed(segment().claim_ihl(ihl));
                passed(datagram().claim_ihl(ihl));
            }
        }
        // The length field counts the header over IPv4 alone. Shorter than all headers; longer than the frame.
        let header = if exchange.family == Family::V4 { 20 } else { 0 };
        for length in (0..header + 20).chain([header + 21, 1500, 65_535]) {
            passed(segment().claim_total_length(length));
        }
        for length in (0..header + 12).chain([header + 13, 65_535]) {
            passed(datagram().claim_total_length(length));
        }
        for words in 0..5 {
            passed(segment().claim_data_offset(words));
        }
        // A TCP header that ends behind the packet.
        for words in 6..16 {
            passed(segment().claim_data_offset(words));
            passed(segment().trailer(&[0; 40]).claim_data_offset(words));
        }
        for length in (0..8).chain([13, 65_535]) {
            passed(datagram().claim_udp_length(length));
        }
        assert_eq!(fixture.connections(), before);
    });
}

#[test]
fn source_that_cannot_be_answered_is_passed() {
    exchange::each(|fixture, exchange| {
        let before = fixture.connections();
        let sources: &[&str] = match exchange.family {
            Family::V4 => &["0.0.0.0", "0.0.0.1", "127.0.0.1", "224.0.0.5", "255.255.255.255"],
            Family::V6 => &["::", "::1", "ff02::1", "fe80::1"],
        };
        let sources = sources.iter().map(|source| source.parse().expect("an address"));
        // The last one: it would talk to itself.
        let sources: Vec<IpAddr> = sources.chain([exchange.vip()]).collect();
        for source in sources {
            for port in [40_000, PORT] {
                for packet in [Packet::tcp().flags(TcpFlags::SYN), Packet::udp()] {
                    let packet = exchange.request(packet).from(source, port);
                    fixture.passed(&packet.build(), "invalid_source");
                }
            }
        }
        assert_eq!(fixture.connections(), before);
    });
}

#[test]
fn segments_with_flags_that_open_nothing_are_passed() {
    exchange::each(|fixture, exchange| {
        let new = exchange.at_port(exchange.port + 1);
        for flags in 0..=u8::MAX {
            let opens = flags & 0x17 == 0x02;
            if !opens {
                let segment = Packet::tcp().flags(TcpFlags(flags));
                fixture.passed(&new.request(segment).build(), "no_connection");
            }
        }
        let unknown = new.request(Packet::tcp().flags(TcpFlags::SYN)).to(new.vip(), PORT + 1);
        fixture.passed(&unknown.build(), "no_listener");
    });
}

#[test]
fn fragments_of_packets_that_are_not_ours_are_passed() {
    exchange::each(|fixture, exchange| {
        let before = fixture.connections();
        let new = exchange.at_port(exchange.port + 1);
        let segment = |flags| new.request(Packet::tcp().flags(flags).payload(b"12345678"));
        for (offset, more) in [(185, true), (185, false), (8191, true)] {
            fixture.passed(&segment(TcpFlags::SYN).fragment(offset, more).build(), "fragment");
        }
        let unknown = segment(TcpFlags::SYN).to(new.vip(), PORT + 1);
        fixture.passed(&unknown.fragment(0, true).build(), "no_listener");
        fixture.passed(&segment(TcpFlags::ACK).fragment(0, true).build(), "no_connection");
        // Neither has left a note.
        fixture.passed(&segment(TcpFlags::ACK).fragment(185, false).build(), "fragment");
        assert_eq!(fixture.connections(), before);
    });
}

#[test]
fn other_protocols_are_passed() {
    exchange::each(|fixture, exchange| {
        // Over IPv6 0 and 44 are extension headers. ICMP of either family has a type that nobody knows here.
        let protocols: &[u8] = match exchange.family {
            Family::V4 => &[0, 1, 2, 4, 41, 44, 47, 50, 58, 132, 255],
            Family::V6 => &[1, 2, 4, 41, 47, 50, 58, 59, 132, 255],
        };
        for protocol in protocols {
            let packet = exchange.request(Packet::tcp()).claim_protocol(*protocol);
            fixture.passed(&packet.build(), "not_tcp_or_udp");
        }
        let frame = exchange.request(Packet::tcp()).build();
        let with_type = |ethertype: u16| {
            let mut frame = frame.clone();
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            frame
        };
        for ethertype in [0x0806, 0x88cc, 0x9100, 0x0800_u16.swap_bytes(), 0x86dd_u16.swap_bytes()] {
            fixture.passed(&with_type(ethertype), "not_ip");
        }
        // An IP header is no tag: what would be the type behind it is a length.
        for ethertype in [0x8100, 0x88a8] {
            fixture.passed(&with_type(ethertype), "not_ip");
        }
        let other_family = if exchange.family == Family::V4 { 0x86dd } else { 0x0800 };
        fixture.passed(&with_type(other_family), "malformed");
    });
}

/// Random bytes over well-formed packets: whatever happens is a counted verdict, a passed packet is unmodified, and no byte appears
/// that was not there.
#[test]
fn mutated_packets_never_escape_the_rules() {
    let mut random = StdRng::seed_from_u64(0xa3);
    let bases: Vec<Vec<u8>> = Exchange::all()
        .filter(|exchange| !exchange.hides_client())
        .flat_map(base_packets)
        .map(|packet| packet.build())
        .collect();
    let mut fixture = Fixture::with_exchanges();
    for program in XDP_PROGRAMS {
        fixture.use_program(program);
        for _ in 0..30_000 {
            let mut frame = bases[random.random_range(0..bases.len())].clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(12..frame.len());
                frame[at] = random.random();
            }
            if random.random() {
                frame.truncate(random.random_range(SHORTEST..=frame.len()));
            }
            let outcome = fixture.run(&frame);
            let mut counts = fixture.counts();
            let told = counts.remove("icmp_sent").is_some();
            for event in ["pair_repaired", "source_translated"] {
                counts.remove(event);
            }
            assert_eq!(counts.values().sum::<u64>(), 1, "one verdict a packet: {frame:02x?}");
            match outcome.action {
                Action::Pass | Action::Drop => assert_eq!(outcome.frame, frame, "unmodified unless forwarded"),
                Action::Redirect if told => expect_quoted(&outcome, &frame),
                Action::Redirect => expect_translated(&outcome, &frame),
                other => panic!("{other:?} for {frame:02x?}"),
            }
        }
    }
}

/// An error quotes what it is about, byte for byte.
fn expect_quoted(outcome: &Outcome, frame: &[u8]) {
    let headers = if frame[12] == 0x08 { 20 + 8 } else { 40 + 8 };
    let quoted = &outcome.frame[ETHERNET_LENGTH + headers..];
    assert!(frame[ETHERNET_LENGTH..].starts_with(quoted), "{frame:02x?}");
}

/// Nothing but addresses, ports, time to live and checksums differs.
fn expect_translated(outcome: &Outcome, frame: &[u8]) {
    assert_eq!(outcome.frame.len(), frame.len());
    let allowed = translated(frame);
    for at in (0..frame.len()).filter(|at| outcome.frame[*at] != frame[*at]) {
        assert!(
            allowed.iter().any(|range| range.contains(&at)),
            "byte {at} changed: {frame:02x?} became {:02x?}",
            outcome.frame
        );
    }
}

/// Bytes of a frame without tags that a translation may change.
fn translated(frame: &[u8]) -> Vec<Range<usize>> {
    let packet = IpPacket::read(&frame[ETHERNET_LENGTH..]).expect("only IP is forwarded");
    let l4 = ETHERNET_LENGTH + packet.header.len();
    let checksum = l4 + if packet.protocol == TCP { 16 } else { 6 };
    let mut allowed = vec![0..12, l4..l4 + 4, checksum..checksum + 2];
    allowed.extend(match packet.family {
        Family::V4 => vec![22..23, 24..26, 26..34],
        Family::V6 => vec![21..22, 22..54],
    });
    allowed
}
