//! ICMP errors about tracked flows: translated, sent on to whom they concern, without any effect on the flow (RFC 5508, REQ-3 to REQ-6;
//! RFC 4787, REQ-12; RFC 5382, REQ-9 and REQ-10).

use std::{net::IpAddr, time::Duration};

use lb_common::{limits::TOUCH_INTERVAL_NS, service::Forwarding};
use lb_tests::{
    diff::{assert_packet_eq, checksums_valid},
    names::{BACKEND_ROUTER_MAC, CLIENT_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS_MAC, Mac},
    packet::{Extension, IcmpError, Packet, TcpFlags, quote},
    program::Action,
    wait,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use xlb::{dataplane::Dataplane as _, model::Protocol};

use crate::{
    fixture::{Fixture, XDP_PROGRAMS},
    flow::{Flow, Way, for_each_flow},
};

/// An error about a packet of a flow, made by a router behind us.
#[derive(Clone, Copy)]
struct Report<'a> {
    flow: Flow,
    /// Where the packet went.
    way: Way,
    error: IcmpError,
    /// What the packet looked like.
    about: &'a dyn Fn(Packet) -> Packet,
    /// How many bytes of it behind its IP header are quoted.
    quoted: usize,
    /// Objects of RFC 4884, if any.
    extension: &'a [u8],
}

impl<'a> Report<'a> {
    /// That a packet was too long, with all of it.
    fn new(flow: Flow, way: Way) -> Self {
        Self {
            flow,
            way,
            error: IcmpError::TooBig { mtu: 1400 },
            about: &|packet| packet,
            quoted: usize::MAX,
            extension: &[],
        }
    }

    fn about(mut self, about: &'a dyn Fn(Packet) -> Packet) -> Self {
        self.about = about;
        self
    }

    /// As it comes to the gateway: about the packet that left, from a router that met it.
    fn before(&self) -> Packet {
        let (router, [source, destination]) = match self.way {
            Way::ToBackend => (self.flow.family.backend_router(), BACKEND_SIDE),
            Way::ToClient => (self.flow.family.client_router(), CLIENT_SIDE),
        };
        self.quoting(self.flow.after(self.way))
            .source(router)
            .ethernet(source, destination)
    }

    /// As the gateway sends it on: about the packet that came, from whom its sender talks to. A router between us and the client has
    /// nothing that must be hidden.
    fn after(&self) -> Packet {
        let family = self.flow.family;
        let (source, [gateway, router]) = match (self.way, self.flow.forwarding) {
            (Way::ToBackend, _) => (family.vip(), reversed(CLIENT_SIDE)),
            (Way::ToClient, Forwarding::FullNat) => (family.snat(), reversed(BACKEND_SIDE)),
            (Way::ToClient, _) => (family.client_router(), reversed(BACKEND_SIDE)),
        };
        self.quoting(self.flow.before(self.way))
            .source(source)
            .ethernet(gateway, router)
            .ttl(62)
    }

    fn quoting(&self, packet: Packet) -> Packet {
        let quoted = quote(&(self.about)(packet).build(), self.quoted);
        let error = Packet::icmp_error(self.error, &quoted);
        if self.extension.is_empty() {
            error
        } else {
            error.icmp_extension(self.extension)
        }
    }

    /// Runs the error, and compares all of it with what must leave.
    #[track_caller]
    fn check(&self, fixture: &mut Fixture) {
        fixture.counts();
        let out = fixture.forwarded(&self.before().build());
        assert_packet_eq(&out, &self.after().build());
        fixture.expect_counts(&[("icmp_error", 1)]);
    }

    /// As [`check`](Self::check); and all checksums are right, those of the quoted packet, too.
    #[track_caller]
    fn check_with_checksums(&self, fixture: &mut Fixture) {
        self.check(fixture);
        assert_eq!(checksums_valid(&self.after().build()), Ok(()));
    }
}

/// Ethernet addresses of a frame that comes from the clients' side.
const CLIENT_SIDE: [Mac; 2] = [CLIENT_ROUTER_MAC, GATEWAY_TO_CLIENTS_MAC];
/// Ethernet addresses of a frame that comes from the backends' side.
const BACKEND_SIDE: [Mac; 2] = [BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC];

const fn reversed([source, destination]: [Mac; 2]) -> [Mac; 2] {
    [destination, source]
}

/// As [`for_each_flow`], with errors about packets in both directions.
fn for_each_report(mut test: impl FnMut(&mut Fixture, Report<'static>)) {
    for_each_flow(|fixture, flow| {
        for way in Way::BOTH {
            test(fixture, Report::new(flow, way));
        }
    });
}

#[test]
fn error_reaches_the_sender_of_the_packet_it_is_about() {
    for_each_report(|fixture, report| {
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            report.check_with_checksums(fixture);
        }
    });
}

#[test]
fn every_length_of_a_quote_is_translated() {
    for_each_report(|fixture, report| {
        let report = report.about(&|packet| packet.payload(b"data of odd length!"));
        for quoted in 8..=39 {
            // Where half of the checksum is quoted, that half means nothing.
            if report.flow.protocol == Protocol::Udp || quoted != 17 {
                Report { quoted, ..report }.check_with_checksums(fixture);
            }
        }
        for payload in [500, 501, 1201] {
            let about = |packet: Packet| packet.payload(&vec![0xa5; payload]);
            report.about(&about).check_with_checksums(fixture);
        }
    });
}

#[test]
fn type_code_and_what_follows_pass_through() {
    for_each_report(|fixture, report| {
        let messages: &[(u8, u8)] = match report.flow.family {
            // Destination unreachable, time exceeded, parameter problem.
            Family::V4 => &[(3, 15), (11, 1), (12, 2)],
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            Family::V6 => &[(1, 8), (2, 0), (3, 1), (4, 10)],
        };
        for (kind, last_code) in messages {
            for code in (0..=*last_code).chain([0xff]) {
                let rest = [0, 0, 0x05, 0x14];
                let error = IcmpError::Other {
                    kind: *kind,
                    code,
                    rest,
                };
                Report { error, ..report }.check_with_checksums(fixture);
            }
        }
    });
}

#[test]
fn other_messages_about_a_flow_are_left_to_the_kernel() {
    for_each_report(|fixture, report| {
        let messages: &[u8] = match report.flow.family {
            // Source quench, redirect, router advertisement, timestamp.
            Family::V4 => &[4, 5, 9, 13, 255],
            // Reserved numbers, router and neighbour discovery, redirect.
            Family::V6 => &[0, 5, 127, 133, 134, 135, 136, 137, 255],
        };
        for kind in messages {
            let error = IcmpError::Other {
                kind: *kind,
                code: 0,
                rest: [0; 4],
            };
            let frame = Report { error, ..report }.before().build();
            fixture.passed(&frame, "not_tcp_or_udp");
        }
    });
}

#[test]
fn extension_behind_the_quote_stays_as_it_is() {
    // One MPLS label (RFC 4950, section 3).
    const LABEL: [u8; 8] = [0, 8, 1, 1, 0x12, 0x34, 0x51, 0x3f];
    for_each_report(|fixture, report| {
        for error in [IcmpError::HostUnreachable, IcmpError::TimeExceeded] {
            for quoted in [8, 20, 64] {
                let report = Report {
                    error,
                    quoted,
                    extension: &LABEL,
                    ..report
                };
                report
                    .about(&|packet| packet.payload(&[7; 300]))
                    .check_with_checksums(fixture);
            }
        }
    });
}

#[test]
fn quoted_header_with_options_or_extensions_is_translated() {
    for_each_report(|fixture, report| {
        for words in [1, 2, 9, 10] {
            let options = vec![1; 4 * words];
            let about = |packet: Packet| packet.ip_options(&options).payload(b"odd");
            report.about(&about).check_with_checksums(fixture);
        }
        for extensions in [
            &[Extension::HopByHop(0)][..],
            &[Extension::Destination(3)],
            &[
                Extension::HopByHop(1),
                Extension::Destination(0),
                Extension::Destination(2),
            ],
        ] {
            let about = |packet: Packet| packet.extensions(extensions).payload(b"odd");
            report.about(&about).check_with_checksums(fixture);
            Report { quoted: 8, ..report }
                .about(&about)
                .check_with_checksums(fixture);
        }
    });
}

#[test]
fn error_with_options_or_extensions_of_its_own_is_translated() {
    for_each_report(|fixture, report| {
        let dressed = |error: Packet| error.ip_options(&[1; 12]).extensions(&[Extension::Destination(0)]);
        fixture.counts();
        let out = fixture.forwarded(&dressed(report.before()).build());
        assert_packet_eq(&out, &dressed(report.after()).build());
        fixture.expect_counts(&[("icmp_error", 1)]);
    });
}

#[test]
fn error_about_a_first_fragment_is_translated() {
    for_each_report(|fixture, report| {
        let report = Report {
            error: IcmpError::ReassemblyTimeExceeded,
            ..report
        };
        report
            .about(&|packet| packet.payload(&[7; 64]).fragment(0, true))
            .check_with_checksums(fixture);
    });
}

#[test]
fn quoted_datagram_without_checksum_gets_none() {
    for_each_report(|fixture, report| {
        if report.flow.protocol == Protocol::Udp {
            report
                .about(&|packet| packet.payload(b"odd").without_checksum())
                .check(fixture);
        }
    });
}

/// One checksum in 65,536 comes out as zero, which UDP writes as 0xffff (RFC 768).
#[test]
fn quoted_datagram_checksum_never_becomes_none() {
    for_each_report(|fixture, report| {
        if report.flow.protocol == Protocol::Tcp {
            return;
        }
        // With a payload of zero the checksum is what a payload must add to make it zero.
        let zero = udp_checksum(&report.flow.before(report.way).payload(&[0, 0]).build());
        for word in [zero.wrapping_sub(1), zero, zero.wrapping_add(1)] {
            let about = |packet: Packet| packet.payload(&word.to_be_bytes());
            report.about(&about).check_with_checksums(fixture);
        }
        let about = |packet: Packet| packet.payload(&zero.to_be_bytes());
        assert_eq!(udp_checksum(&report.about(&about).after().build()), 0xffff);
    });
}

/// The checksum of the UDP datagram with two bytes of payload that ends a frame.
fn udp_checksum(frame: &[u8]) -> u16 {
    let end = frame.len();
    u16::from_be_bytes([frame[end - 4], frame[end - 3]])
}

#[test]
fn error_with_a_wrong_checksum_is_dropped() {
    for_each_report(|fixture, report| {
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            fixture.dropped(&report.before().bad_checksum().build(), "icmp_checksum");
        }
    });
}

#[test]
fn error_about_a_header_with_a_wrong_checksum_is_dropped() {
    for_each_report(|fixture, report| {
        // IPv6 has no header checksum.
        if report.flow.family == Family::V4 {
            let damaged = report.about(&|packet| packet.bad_ip_checksum());
            fixture.dropped(&damaged.before().build(), "icmp_checksum");
            let damaged = report.about(&|packet| packet.ip_options(&[1; 40]).bad_ip_checksum());
            fixture.dropped(&damaged.before().build(), "icmp_checksum");
        }
    });
}

/// RFC 5508, REQ-3 (c): most of what it covers is missing, as a rule.
#[test]
fn wrong_checksum_of_the_quoted_segment_stays_wrong() {
    for_each_report(|fixture, report| {
        let damaged = report.about(&|packet| packet.payload(b"data").bad_checksum());
        let out = fixture.forwarded(&damaged.before().build());
        let protocol = match report.flow.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let complaint = checksums_valid(&out).expect_err("a wrong checksum");
        assert!(
            complaint.starts_with(&format!("quoted {protocol} checksum")),
            "{complaint}"
        );
        assert_eq!(out.len(), damaged.before().build().len());
    });
}

#[test]
fn error_about_no_flow_of_ours_is_passed() {
    for_each_report(|fixture, report| {
        let Report { flow, way, .. } = report;
        let before = |about: &dyn Fn(Packet) -> Packet| report.about(about).before();
        // Another port, another host, another protocol.
        for other in [
            before(&|packet| packet.from(flow.family.client(2), 1)),
            before(&|packet| packet.to(flow.family.client(2), 1)),
            before(&|packet| packet.claim_protocol(132)),
            before(&|packet| packet.claim_protocol(47)),
            // A later fragment has no ports.
            before(&|packet| packet.payload(&[7; 64]).fragment(1, false)),
            // Not to the sender of what is quoted.
            report.before().destination(flow.family.gateway_to_clients()),
        ] {
            fixture.passed(&other.build(), "icmp_unrelated");
        }
        // About a packet before it was translated: whoever met that on its way to us tells its sender without us.
        let stray = Packet::icmp_error(report.error, &quote(&flow.before(way).build(), 8));
        let stray = stray.source(flow.family.client_router());
        fixture.passed(&stray.build(), "icmp_unrelated");
    });
}

#[test]
fn error_about_the_other_protocol_is_passed() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        let [tcp, udp] = Flow::both(family, Forwarding::Nat, 40_000);
        tcp.open(&mut fixture);
        for way in Way::BOTH {
            fixture.passed(&Report::new(udp, way).before().build(), "icmp_unrelated");
        }
    }
}

#[test]
fn quote_too_short_to_name_a_flow_is_passed() {
    for_each_report(|fixture, report| {
        let whole = quote(&report.flow.after(report.way).build(), 8);
        for length in 0..whole.len() {
            let error = report.before().payload(&whole[..length]);
            fixture.passed(&error.build(), "malformed");
        }
        report.check(fixture);
    });
}

#[test]
fn error_cut_at_any_byte_is_passed() {
    for_each_report(|fixture, report| {
        let frame = report.before().build();
        for length in 14..frame.len() {
            fixture.passed(&frame[..length], "malformed");
        }
    });
}

/// No error about an error (RFC 1122, section 3.2.2).
#[test]
fn error_whose_time_to_live_ends_is_dropped_without_another() {
    for_each_report(|fixture, report| {
        for ttl in [0, 1] {
            fixture.dropped(&report.before().ttl(ttl).build(), "ttl_expired");
        }
        for ttl in [2, 255] {
            let out = fixture.forwarded(&report.before().ttl(ttl).build());
            assert_packet_eq(&out, &report.after().ttl(ttl - 1).build());
        }
    });
}

#[test]
fn error_larger_than_the_way_to_the_backend_is_dropped_without_another() {
    for_each_flow(|fixture, flow| {
        let report = Report::new(flow, Way::ToClient);
        let overhead = report.before().build().len() - 14;
        let fits = |packet: Packet| packet.payload(&vec![7; 1500 - overhead]);
        report.about(&fits).check(fixture);
        let too_big = |packet: Packet| packet.payload(&vec![7; 1501 - overhead]);
        fixture.dropped(&report.about(&too_big).before().build(), "too_big");
    });
}

/// RFC 4787, REQ-12 (a): routers on the way are many, and nobody knows their addresses.
#[test]
fn error_from_any_address_is_translated() {
    for_each_report(|fixture, report| {
        let family = report.flow.family;
        let ends: [IpAddr; 3] = [family.client(1), family.backend(1), family.client(200)];
        for source in ends {
            let out = fixture.forwarded(&report.before().source(source).build());
            let hidden = report.way == Way::ToBackend || report.flow.forwarding == Forwarding::FullNat;
            let expected = if hidden {
                report.after()
            } else {
                report.after().source(source)
            };
            assert_packet_eq(&out, &expected.build());
        }
    });
}

#[test]
fn errors_neither_refresh_nor_end_nor_change_a_connection() {
    for_each_flow(|fixture, flow| {
        let before = fixture.connections();
        let traffic = fixture.dataplane.service_traffic(flow.service()).expect("counters");
        // A packet of the flow would now be noted.
        let newest = before.iter().map(|entry| entry.last_seen).max().expect("an entry");
        wait::until_true("the time stamps are old", Duration::from_secs(10), || {
            monotonic_ns() > newest + TOUCH_INTERVAL_NS
        })
        .expect("the clock goes on");
        for way in Way::BOTH {
            for error in [
                IcmpError::HostUnreachable,
                IcmpError::PortUnreachable,
                IcmpError::Prohibited,
                IcmpError::TimeExceeded,
            ] {
                // Flags that would end the connection, if they were those of a packet.
                let about = |packet: Packet| packet.flags(TcpFlags::RST | TcpFlags::FIN);
                Report {
                    error,
                    ..Report::new(flow, way)
                }
                .about(&about)
                .check(fixture);
            }
        }
        assert_eq!(fixture.connections(), before);
        assert_eq!(
            fixture.dataplane.service_traffic(flow.service()).expect("counters"),
            traffic
        );
        for way in Way::BOTH {
            let out = fixture.forwarded(&flow.before(way).build());
            assert_packet_eq(&out, &flow.after(way).ttl(62).build());
        }
        assert_ne!(fixture.connections(), before, "a packet refreshes");
    });
}

/// Nanoseconds of the clock that entries are stamped with.
fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).expect("the clock");
    u64::try_from(Duration::from(now).as_nanos()).expect("a time since boot")
}

/// Random bytes in errors: whatever happens is one counted verdict; what is not forwarded is unmodified; what is forwarded goes to the
/// sender of the flow's packets, with a right checksum, and is changed only where an address, a port or a checksum stands.
#[test]
fn mutated_errors_never_escape_the_rules() {
    let mut random = StdRng::seed_from_u64(0xb3);
    let mut forwarded = 0;
    for_each_report(|fixture, report| {
        let report = report.about(&|packet| packet.payload(&[7; 24]));
        let frame = report.before().build();
        let quoted = quote(&report.flow.after(report.way).payload(&[7; 24]).build(), usize::MAX);
        for _ in 0..1_000 {
            // Under a right checksum: the quote is looked at.
            let mut quote = quoted.clone();
            scatter(&mut random, &mut quote);
            quote.truncate(random.random_range(0..=quote.len()));
            forwarded += judge_mutated(fixture, &report, &report.before().payload(&quote).build());
            let mut frame = frame.clone();
            scatter(&mut random, &mut frame[12..]);
            forwarded += judge_mutated(fixture, &report, &frame);
        }
    });
    assert!(forwarded > 1_000, "{forwarded} were forwarded, too few to say anything");
}

/// Overwrites a few bytes.
fn scatter(random: &mut StdRng, bytes: &mut [u8]) {
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
    }
}

/// Runs a mutated error; returns how many were forwarded.
#[track_caller]
fn judge_mutated(fixture: &mut Fixture, report: &Report<'_>, frame: &[u8]) -> u32 {
    fixture.counts();
    let outcome = fixture.run(frame);
    let counts = fixture.counts();
    assert_eq!(counts.values().sum::<u64>(), 1, "one verdict a packet: {counts:?}");
    if outcome.action != Action::Redirect {
        assert_eq!(outcome.frame, frame, "unmodified unless forwarded");
        return 0;
    }
    assert_eq!(counts.get("icmp_error"), Some(&1), "{counts:?} for {frame:02x?}");
    assert_eq!(outcome.frame.len(), frame.len());
    let sender = report.after().build();
    let destination = match report.flow.family {
        Family::V4 => 30..34,
        Family::V6 => 38..54,
    };
    assert_eq!(outcome.frame[destination.clone()], sender[destination], "{frame:02x?}");
    for at in (0..frame.len()).filter(|at| outcome.frame[*at] != frame[*at]) {
        assert!(
            may_change(report.flow.family, frame, at),
            "byte {at} changed: {frame:02x?} became {:02x?}",
            outcome.frame
        );
    }
    if let Err(complaint) = checksums_valid(&outcome.frame) {
        // What was wrong with the quoted segment stays so, and so does what comes out as an extension.
        let wrong = complaint.starts_with("icmp checksum") || complaint.starts_with("icmpv6 checksum");
        assert!(!wrong, "{complaint}: {frame:02x?}");
    }
    1
}

/// Whether the byte at this offset of an error may be changed.
fn may_change(family: Family, frame: &[u8], at: usize) -> bool {
    let words = |at: usize| 4 * usize::from(frame[at] & 0x0f);
    let (message, quoted_header) = match family {
        Family::V4 => (14 + words(14), words(14 + words(14) + 8)),
        Family::V6 => (54, 40),
    };
    let quote = message + 8;
    let segment = quote + quoted_header;
    let address_or_ttl = |header: usize, at: usize| match family {
        Family::V4 => at == header + 8 || (header + 10..header + 20).contains(&at),
        Family::V6 => at == header + 7 || (header + 8..header + 40).contains(&at),
    };
    at < 12
        || address_or_ttl(14, at)
        || (message + 2..message + 4).contains(&at)
        || address_or_ttl(quote, at)
        || (segment..segment + 4).contains(&at)
        || (segment + 6..segment + 8).contains(&at)
        || (segment + 16..segment + 18).contains(&at)
}
