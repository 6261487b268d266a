//! What is not forwarded: passed to the kernel or dropped, under the right reason, leaving nothing behind.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::{
    service::{Forwarding, Scheduler},
    settings::Settings,
};
use lb_tests::{
    names::{BACKEND_1, CLIENT, CLIENT_ROUTER_MAC, VIP, VIP_2},
    packet::{Packet, TcpFlags},
    program::Action,
};
use xlb::dataplane::{Dataplane as _, ServiceId};

use crate::fixture::{Fixture, PORT, XDP_PROGRAMS, from_backend, from_client, settings, syn, syn_from};

#[test]
fn packet_for_no_listener_is_passed() {
    for program in XDP_PROGRAMS {
        let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
        fixture.use_program(program);
        fixture.passed(&syn().to(VIP, 81).build(), "no_listener");
        fixture.passed(&syn().to(VIP_2, PORT).build(), "no_listener");
        fixture.passed(&from_client(Packet::udp().to(VIP, 53)).build(), "no_listener");
        assert!(fixture.connections().is_empty());
    }
}

#[test]
fn backends_own_traffic_is_passed() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.forwarded(&syn().build());
    // Same backend and client, but no connection of theirs through us.
    let stray = from_backend(Packet::tcp().to(CLIENT, 40_001), BACKEND_1);
    fixture.passed(&stray.build(), "no_listener");
}

#[test]
fn tcp_without_connection_is_passed_unless_it_is_a_syn() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    for flags in [
        TcpFlags::NONE,
        TcpFlags::ACK,
        TcpFlags::RST,
        TcpFlags::FIN | TcpFlags::ACK,
        TcpFlags::SYN | TcpFlags::ACK,
        TcpFlags::SYN | TcpFlags::FIN,
        TcpFlags::SYN | TcpFlags::RST,
        TcpFlags::FIN | TcpFlags::PSH | TcpFlags::URG,
    ] {
        fixture.passed(&syn().flags(flags).build(), "no_connection");
    }
    assert!(fixture.connections().is_empty());
}

#[test]
fn ecn_setup_syn_opens_a_connection() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.forwarded(&syn().flags(TcpFlags::SYN | TcpFlags::ECE | TcpFlags::CWR).build());
    assert_eq!(fixture.connections().len(), 2);
}

#[test]
fn source_that_cannot_be_answered_is_passed() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    for source in [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 5),
        VIP,
    ] {
        fixture.passed(&syn_from(source, 40_000).build(), "invalid_source");
    }
    assert!(fixture.connections().is_empty());
}

#[test]
fn service_without_slots_drops_new_connections() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.forwarded(&syn().build());
    fixture.dataplane.set_slots(ServiceId(1), &[]).expect("slots");
    fixture.counts();
    fixture.dropped(&syn_from(CLIENT, 40_001).build(), "no_backend");
    fixture.forwarded(&syn().flags(TcpFlags::ACK).build());
    assert_eq!(fixture.connections().len(), 2, "the connection that was there lives on");
}

#[test]
fn service_whose_slots_were_never_set_drops() {
    let mut fixture = Fixture::new();
    fixture.add_service(
        ServiceId(1),
        VIP,
        Scheduler::RoundRobin,
        Forwarding::Nat,
        &[] as &[IpAddr],
    );
    fixture.dropped(&syn().build(), "no_backend");
}

#[test]
fn slot_of_a_backend_that_is_gone_drops() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture
        .dataplane
        .remove_backend(xlb::dataplane::BackendId(10))
        .expect("removed");
    fixture.dropped(&syn().build(), "no_backend");
}

#[test]
fn full_table_refuses_new_connections_and_keeps_the_old() {
    let mut fixture = Fixture::with_capacity(16);
    fixture.add_service(ServiceId(1), VIP, Scheduler::RoundRobin, Forwarding::Nat, &[BACKEND_1]);
    let mut opened = Vec::new();
    for port in 40_000..40_100 {
        if fixture.run(&syn_from(CLIENT, port).build()).action == Action::Redirect {
            opened.push(port);
        }
    }
    // The kernel's table holds some spare elements per CPU beyond its size.
    assert!((16..40).contains(&opened.len()), "{} connections fitted", opened.len());
    let refused = 100 - opened.len() as u64;
    fixture.expect_counts(&[("forward", opened.len() as u64), ("table_full", refused)]);
    assert_eq!(
        fixture.connections().len(),
        2 * opened.len(),
        "a refused connection leaves nothing"
    );
    for port in opened {
        fixture.forwarded(&syn_from(CLIENT, port).flags(TcpFlags::ACK).build());
    }

    // Room for one entry is not room for a connection: the half that fitted is taken back.
    let freed = fixture.connections()[0].key;
    fixture.remove(&freed);
    let before = fixture.connections();
    fixture.dropped(&syn_from(CLIENT, 50_000).build(), "table_full");
    assert_eq!(fixture.connections(), before);
}

#[test]
fn half_open_limit_refuses_and_confirmed_connections_make_room() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture
        .dataplane
        .set_settings(Settings {
            half_open_max: 3,
            ..settings()
        })
        .expect("settings");
    for port in 1..=3 {
        fixture.forwarded(&syn_from(CLIENT, port).build());
    }
    fixture.counts();
    fixture.dropped(&syn_from(CLIENT, 4).build(), "half_open_full");
    // The first one's handshake completes.
    let answer = Packet::tcp().to(CLIENT, 1).flags(TcpFlags::SYN | TcpFlags::ACK);
    fixture.forwarded(&from_backend(answer, BACKEND_1).build());
    fixture.dropped(&syn_from(CLIENT, 4).build(), "half_open_full");
    fixture.forwarded(&syn_from(CLIENT, 1).flags(TcpFlags::ACK).build());
    fixture.forwarded(&syn_from(CLIENT, 4).build());
    fixture.counts();
    fixture.dropped(&syn_from(CLIENT, 5).build(), "half_open_full");
}

#[test]
fn unknown_next_hop_without_route_is_dropped() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    let (id, mut entry) = fixture.dataplane.backends().expect("backends")[0];
    entry.next_hop = lb_common::backend::NextHop::UNKNOWN;
    fixture.dataplane.set_backend(id, &entry).expect("a backend");
    let outcome = fixture.run(&syn().build());
    assert_eq!(outcome.action, Action::Drop);
    let counts = fixture.counts();
    assert!(
        counts.keys().all(|reason| ["no_route", "no_neighbor"].contains(reason)) && counts.len() == 1,
        "{counts:?}"
    );
}

#[test]
fn count_of_half_open_connections_below_zero_refuses_nobody() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.forwarded(&syn().build());
    // The agent corrects the count by what it saw before this connection came; then the handshake completes.
    fixture.dataplane.set_half_open(0).expect("the count");
    let answer = Packet::tcp().to(CLIENT, 40_000).flags(TcpFlags::SYN | TcpFlags::ACK);
    fixture.forwarded(&from_backend(answer, BACKEND_1).build());
    fixture.forwarded(&syn().flags(TcpFlags::ACK).build());
    fixture.forwarded(&syn_from(CLIENT, 40_001).build());
}

#[test]
fn frame_to_a_group_is_passed() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    for group in [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        fixture.passed(&syn().ethernet(CLIENT_ROUTER_MAC, group).build(), "not_unicast");
    }
    assert!(fixture.connections().is_empty());
}

#[test]
fn full_nat_without_an_address_of_its_own_is_dropped() {
    let mut fixture = Fixture::with_service(Forwarding::FullNat, &[BACKEND_1]);
    let (id, mut entry) = fixture.dataplane.backends().expect("backends")[0];
    entry.source = Ipv4Addr::UNSPECIFIED.into();
    fixture.dataplane.set_backend(id, &entry).expect("a backend");
    fixture.dropped(&syn().build(), "no_route");
    assert!(fixture.connections().is_empty());
}
