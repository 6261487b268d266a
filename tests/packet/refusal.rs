//! Packets that can't go on: time to live over, or too big. Their senders are told what a router would tell them (RFC 792; RFC 1812,
//! sections 4.3.2 and 5.3.1; RFC 4443, section 2.4), and nobody else is.

use std::net::IpAddr;

use lb_common::{
    backend::{NextHop, Tags},
    interface::Interface,
    limits::ICMP_ERRORS_PER_SECOND,
    service::Forwarding,
};
use lb_tests::{
    diff::{assert_packet_eq, checksums_valid},
    names::{Family, Mac},
    packet::{IcmpError, Packet, Tag, TcpFlags, quote},
    program::Action,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use xlb::{dataplane::Dataplane as _, model::Protocol};

use crate::{
    fixture::{Fixture, IFINDEX, XDP_PROGRAMS, syn, syn_from},
    flow::{Flow, Way, for_each_flow, for_each_new_flow},
};

/// Class selector 6 "internetwork control", which errors have over IPv4 (RFC 1812, section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 48;

/// What a router sends about a frame: back to where that came from, with as much of it as fits (RFC 1812, section 4.3.2.3; RFC 4443,
/// section 2.4 (c)).
fn error_about(frame: &[u8], family: Family, error: IcmpError, source: IpAddr) -> Packet {
    let room = match family {
        Family::V4 => 576 - 20 - 8,
        Family::V6 => 1280 - 40 - 8,
    };
    let mut quoted = quote(frame, usize::MAX);
    quoted.truncate(room);
    let [to, from]: [Mac; 2] = [0, 6].map(|at| *frame[at..].first_chunk().expect("an Ethernet address"));
    let error = Packet::icmp_error(error, &quoted).source(source);
    let error = match family {
        Family::V4 => error.dscp(INTERNETWORK_CONTROL).id(0),
        Family::V6 => error,
    };
    error.ttl(64).ethernet(to, from)
}

/// Runs a frame that must be refused under this reason; returns the error that is sent.
#[track_caller]
fn refused(fixture: &mut Fixture, frame: &[u8], reason: &'static str) -> Vec<u8> {
    fixture.counts();
    let out = fixture.forwarded(frame);
    fixture.expect_counts(&[(reason, 1), ("icmp_sent", 1)]);
    out
}

/// Runs a frame whose time to live is over, and compares the error that comes back from `source`.
#[track_caller]
fn check_expired(fixture: &mut Fixture, flow: Flow, packet: &Packet, source: IpAddr) {
    let frame = packet.build();
    let out = refused(fixture, &frame, "ttl_expired");
    let expected = error_about(&frame, flow.family, IcmpError::TimeExceeded, source);
    assert_packet_eq(&out, &expected.build());
}

/// As [`check_expired`], for a packet that is larger than `mtu`.
#[track_caller]
fn check_too_big(fixture: &mut Fixture, flow: Flow, packet: &Packet, mtu: u32, source: IpAddr) {
    let frame = packet.build();
    let out = refused(fixture, &frame, "too_big");
    let expected = error_about(&frame, flow.family, IcmpError::TooBig { mtu }, source);
    assert_packet_eq(&out, &expected.build());
}

/// To whom a packet is sent as it comes to the gateway: where errors come from while this host's own address is not known.
const fn destination(flow: Flow, way: Way) -> IpAddr {
    match way {
        Way::ToBackend => flow.family.vip(),
        Way::ToClient => flow.source(),
    }
}

/// An interface as it is: with an MTU, and with or without addresses.
fn interface(mtu: u16, with_addresses: bool) -> Interface {
    let mut interface = Interface {
        target: IFINDEX,
        mtu,
        ..Interface::default()
    };
    if with_addresses {
        if let IpAddr::V4(address) = Family::V4.gateway_to_clients() {
            interface.v4 = address.into();
        }
        if let IpAddr::V6(address) = Family::V6.gateway_to_clients() {
            interface.v6 = address.into();
        }
    }
    interface
}

/// The length of the IP packet in an untagged frame without a trailer.
fn packet_length(packet: &Packet) -> usize {
    packet.build().len() - 14
}

/// A packet of exactly this length.
fn of_length(packet: &Packet, length: usize) -> Packet {
    packet.clone().payload(&vec![0x5a; length - packet_length(packet)])
}

#[test]
fn time_to_live_is_lowered_once() {
    for_each_flow(|fixture, flow| {
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            for way in Way::BOTH {
                for ttl in [255, 64, 2] {
                    let out = fixture.forwarded(&flow.before(way).ttl(ttl).build());
                    assert_packet_eq(&out, &flow.after(way).ttl(ttl - 1).build());
                }
            }
        }
    });
}

#[test]
fn sender_is_told_that_the_time_to_live_is_over() {
    for_each_flow(|fixture, flow| {
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            for way in Way::BOTH {
                for ttl in [0, 1] {
                    let packet = flow.before(way).ttl(ttl).payload(b"data of odd length!");
                    check_expired(fixture, flow, &packet, destination(flow, way));
                }
            }
        }
    });
}

#[test]
fn packet_whose_time_to_live_is_over_opens_nothing() {
    for_each_new_flow(|fixture, flow| {
        let before = fixture.connections();
        for ttl in [0, 1] {
            let packet = flow.before(Way::ToBackend).flags(TcpFlags::SYN).ttl(ttl);
            check_expired(fixture, flow, &packet, flow.family.vip());
        }
        assert_eq!(fixture.connections(), before);
    });
}

#[test]
fn sender_is_told_what_fits() {
    for_each_new_flow(|fixture, flow| {
        // What the client's way takes is known when its connection is opened.
        fixture
            .dataplane
            .set_interface(IFINDEX, interface(1400, false))
            .expect("an interface");
        flow.open(fixture);
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            for (way, mtu) in [(Way::ToBackend, 1500), (Way::ToClient, 1400)] {
                let fits = of_length(&flow.before(way), mtu);
                let out = fixture.forwarded(&fits.build());
                assert_packet_eq(&out, &of_length(&flow.after(way), mtu).ttl(62).build());
                for length in [mtu + 1, mtu + 2, 2000] {
                    let packet = of_length(&flow.before(way), length);
                    let mtu = u32::try_from(mtu).expect("an MTU");
                    check_too_big(fixture, flow, &packet, mtu, destination(flow, way));
                }
            }
        }
    });
}

#[test]
fn error_comes_from_the_address_of_the_interface() {
    for_each_flow(|fixture, flow| {
        fixture
            .dataplane
            .set_interface(IFINDEX, interface(0, true))
            .expect("an interface");
        let source = flow.family.gateway_to_clients();
        for way in Way::BOTH {
            check_expired(fixture, flow, &flow.before(way).ttl(1), source);
        }
        let too_big = of_length(&flow.before(Way::ToBackend), 1501);
        check_too_big(fixture, flow, &too_big, 1500, source);
    });
}

#[test]
fn error_quotes_as_much_as_it_has_room_for() {
    for_each_flow(|fixture, flow| {
        let room = match flow.family {
            Family::V4 => 548,
            Family::V6 => 1232,
        };
        let packet = flow.before(Way::ToBackend).ttl(1);
        let shortest = packet_length(&packet);
        for length in [shortest, shortest + 1, room - 1, room, room + 1, room + 2, 1499, 1500] {
            check_expired(fixture, flow, &of_length(&packet, length), flow.family.vip());
        }
        let out = refused(fixture, &of_length(&packet, 1500).build(), "ttl_expired");
        let longest = match flow.family {
            Family::V4 => 576,
            Family::V6 => 1280,
        };
        assert_eq!(out.len(), 14 + longest);
    });
}

#[test]
fn quoted_packet_is_as_it_came() {
    for_each_flow(|fixture, flow| {
        let packet = flow
            .before(Way::ToBackend)
            .ttl(1)
            .dscp(46)
            .ecn(3)
            .id(0xabcd)
            .flow_label(0x12345)
            .ip_options(&[1; 12])
            .tcp_options(&[1; 8])
            .payload(b"data");
        check_expired(fixture, flow, &packet, flow.family.vip());
        check_expired(fixture, flow, &packet.clone().bad_checksum(), flow.family.vip());
        let out = refused(fixture, &packet.build(), "ttl_expired");
        assert_eq!(checksums_valid(&out), Ok(()));
    });
}

#[test]
fn padding_of_the_frame_is_not_quoted() {
    for_each_flow(|fixture, flow| {
        let packet = flow.before(Way::ToBackend).ttl(1);
        for trailer in [1, 6, 20, 300] {
            check_expired(
                fixture,
                flow,
                &packet.clone().trailer(&vec![0xee; trailer]),
                flow.family.vip(),
            );
        }
    });
}

#[test]
fn error_leaves_with_the_tags_that_the_packet_came_with() {
    for_each_flow(|fixture, flow| {
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            for tags in [
                &[Tag::customer(7)][..],
                &[Tag::service(4094)],
                &[Tag::service(7), Tag::customer(8)],
            ] {
                let frame = flow.before(Way::ToBackend).ttl(1).tags(tags).build();
                let out = refused(fixture, &frame, "ttl_expired");
                let expected = error_about(&frame, flow.family, IcmpError::TimeExceeded, flow.family.vip());
                assert_packet_eq(&out, &expected.tags(tags).build());
            }
        }
    });
}

/// The priority of a packet is not that of an error about it.
#[test]
fn error_has_the_lowest_priority_of_its_tag() {
    for_each_flow(|fixture, flow| {
        let frame = flow
            .before(Way::ToBackend)
            .ttl(1)
            .tags(&[Tag::customer(7).priority(5)])
            .build();
        let out = refused(fixture, &frame, "ttl_expired");
        let expected = error_about(&frame, flow.family, IcmpError::TimeExceeded, flow.family.vip());
        assert_packet_eq(&out, &expected.tags(&[Tag::customer(7)]).build());
    });
}

#[test]
fn sender_that_cannot_be_answered_is_told_nothing() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        let sources: [&str; 4] = match family {
            Family::V4 => ["0.0.0.0", "127.0.0.1", "224.0.0.5", "255.255.255.255"],
            Family::V6 => ["::", "::1", "ff02::1", "ff0e::5"],
        };
        let sources = sources.map(|source| source.parse::<IpAddr>().expect("an address"));
        for source in sources.into_iter().chain([family.vip()]) {
            let packet = syn_from(source, 40_000).to(family.vip(), 80);
            fixture.passed(&packet.ttl(1).build(), "invalid_source");
        }
        assert!(fixture.connections().is_empty());
    }
}

#[test]
fn packet_of_no_connection_and_no_listener_is_the_kernels_whatever_its_time_to_live() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        fixture.passed(&syn().over(family).to(family.vip(), 81).ttl(1).build(), "no_listener");
        fixture.passed(&syn().over(family).flags(TcpFlags::ACK).ttl(1).build(), "no_connection");
    }
}

#[test]
fn sender_of_a_first_datagram_is_told_what_fits() {
    for_each_new_flow(|fixture, flow| {
        if flow.protocol == Protocol::Udp {
            let packet = of_length(&flow.before(Way::ToBackend), 1501);
            check_too_big(fixture, flow, &packet, 1500, flow.family.vip());
        }
    });
}

#[test]
fn packet_of_any_size_goes_where_nothing_is_known_of_the_size() {
    for_each_flow(|fixture, flow| {
        let (id, mut entry) = *fixture
            .dataplane
            .backends()
            .expect("backends")
            .iter()
            .find(|(_, entry)| entry.address.ip() == flow.family.backend(1))
            .expect("a backend");
        let known = entry.next_hop;
        entry.next_hop = NextHop::new(known.ifindex, known.destination, known.source, Tags::NONE, 0);
        fixture.dataplane.set_backend(id, &entry).expect("a backend");
        let out = fixture.forwarded(&of_length(&flow.before(Way::ToBackend), 2000).build());
        assert_packet_eq(&out, &of_length(&flow.after(Way::ToBackend), 2000).ttl(62).build());
        entry.next_hop = known;
        fixture.dataplane.set_backend(id, &entry).expect("a backend");
    });
}

/// The budget is one of each CPU, so the test stays on one.
#[test]
fn errors_beyond_the_rate_are_not_sent() {
    const PACKETS: u64 = 5_000;
    stay_on_one_cpu();
    let mut fixture = Fixture::of_family(Family::V4, Forwarding::Nat);
    let frame = syn().ttl(1).build();
    let first = second_of_the_program();
    let (mut sent, mut dropped) = (0, 0);
    for _ in 0..PACKETS {
        match fixture.run(&frame).action {
            Action::Redirect => sent += 1,
            Action::Drop => dropped += 1,
            other => panic!("{other:?}"),
        }
    }
    let seconds = second_of_the_program() - first + 1;
    let limit = u64::from(ICMP_ERRORS_PER_SECOND) * seconds;
    assert!(sent <= limit, "{sent} errors within {seconds} seconds");
    assert!(sent >= PACKETS.min(u64::from(ICMP_ERRORS_PER_SECOND)), "{sent} errors");
    assert_eq!(sent + dropped, PACKETS);
    fixture.expect_counts(&[("ttl_expired", PACKETS), ("icmp_sent", sent)]);
    assert!(fixture.connections().is_empty());
}

/// Binds the calling thread to a CPU that it may run on.
fn stay_on_one_cpu() {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).expect("the CPUs");
    let cpu = (0..CpuSet::count())
        .find(|cpu| allowed.is_set(*cpu) == Ok(true))
        .expect("a CPU");
    let mut one = CpuSet::new();
    one.set(cpu).expect("a CPU");
    sched_setaffinity(this_thread, &one).expect("the thread is bound");
}

/// The second that it is on the clock that the budget goes by.
fn second_of_the_program() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("the clock");
    u64::try_from(now.tv_sec()).expect("a time since boot")
}
