//! Forward and reply in both forwarding modes, byte for byte.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::{
    service::{Forwarding, Scheduler},
    settings::{PortRange, Settings},
};
use lb_tests::{
    diff::{assert_packet_eq, checksums_valid, endpoints},
    names::{BACKEND_1, BACKEND_2, CLIENT, CLIENT_2, SNAT, VIP, VIP_2},
    packet::{Packet, TcpFlags},
};
use xlb::dataplane::{Dataplane as _, ServiceId};

use crate::fixture::{
    Fixture, PORT, XDP_PROGRAMS, from_backend, from_client, settings, syn, syn_from, to_backend, to_client,
};

#[test]
fn syn_to_vip_is_dnated_to_backend() {
    for program in XDP_PROGRAMS {
        let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
        fixture.use_program(program);
        let out = fixture.forwarded(&syn().build());
        assert_packet_eq(&out, &to_backend(syn(), BACKEND_1, 62));
        fixture.expect_counts(&[("forward", 1)]);
    }
}

#[test]
fn reply_restores_vip_source() {
    for program in XDP_PROGRAMS {
        let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
        fixture.use_program(program);
        fixture.forwarded(&syn().build());
        let reply = Packet::tcp()
            .to(CLIENT, 40_000)
            .flags(TcpFlags::SYN | TcpFlags::ACK)
            .ttl(64);
        let out = fixture.forwarded(&from_backend(reply.clone(), BACKEND_1).build());
        assert_packet_eq(&out, &to_client(reply, 63));
        fixture.expect_counts(&[("forward", 1), ("reply", 1)]);
    }
}

#[test]
fn established_packets_keep_their_backend_in_both_directions() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1, BACKEND_2]);
    fixture.forwarded(&syn().build());
    for round in 0..10 {
        let data = from_client(Packet::tcp().from(CLIENT, 40_000).to(VIP, PORT).payload(&[round; 100]));
        assert_packet_eq(&fixture.forwarded(&data.build()), &to_backend(data, BACKEND_1, 62));
        let answer = Packet::tcp().to(CLIENT, 40_000).payload(&[round; 1400]);
        let out = fixture.forwarded(&from_backend(answer.clone(), BACKEND_1).build());
        assert_packet_eq(&out, &to_client(answer, 62));
    }
    assert_eq!(fixture.connections().len(), 2, "one connection is two entries");
}

#[test]
fn udp_exchange_is_translated_both_ways() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    let query = from_client(Packet::udp().from(CLIENT, 5353).to(VIP, PORT).payload(b"question"));
    assert_packet_eq(&fixture.forwarded(&query.build()), &to_backend(query, BACKEND_1, 62));
    let answer = Packet::udp().to(CLIENT, 5353).payload(b"an answer of odd length");
    let out = fixture.forwarded(&from_backend(answer.clone(), BACKEND_1).build());
    assert_packet_eq(&out, &to_client(answer, 62));
}

#[test]
fn full_nat_keeps_the_clients_port_while_it_is_free() {
    let mut fixture = Fixture::with_service(Forwarding::FullNat, &[BACKEND_1]);
    let out = fixture.forwarded(&syn().build());
    assert_packet_eq(&out, &to_backend(syn().from(SNAT, 40_000), BACKEND_1, 62));
    let reply = Packet::tcp().flags(TcpFlags::SYN | TcpFlags::ACK).ttl(64);
    let out = fixture.forwarded(&from_backend(reply.clone().to(SNAT, 40_000), BACKEND_1).build());
    assert_packet_eq(&out, &to_client(reply.to(CLIENT, 40_000), 63));
}

#[test]
fn full_nat_gives_a_second_client_another_port() {
    let mut fixture = Fixture::with_service(Forwarding::FullNat, &[BACKEND_1]);
    fixture.forwarded(&syn_from(CLIENT, 40_000).build());
    let out = fixture.forwarded(&syn_from(CLIENT_2, 40_000).build());
    let (source, _) = endpoints(&out).expect("a TCP packet");
    assert_eq!(source.ip(), SNAT);
    assert_ne!(source.port(), 40_000, "the port is taken by the first client");
    assert_packet_eq(&out, &to_backend(syn().from(SNAT, source.port()), BACKEND_1, 62));

    let reply = Packet::tcp().flags(TcpFlags::SYN | TcpFlags::ACK);
    let out = fixture.forwarded(&from_backend(reply.clone().to(SNAT, source.port()), BACKEND_1).build());
    assert_packet_eq(&out, &to_client(reply.to(CLIENT_2, 40_000), 62));
}

#[test]
fn full_nat_takes_no_port_of_the_host_and_none_outside_the_pool() {
    let mut fixture = Fixture::with_service(Forwarding::FullNat, &[BACKEND_1]);
    fixture
        .dataplane
        .set_settings(Settings {
            snat_ports: PortRange {
                first: 30_000,
                last: 39_999,
            },
            host_ports: PortRange {
                first: 32_000,
                last: 60_999,
            },
            ..settings()
        })
        .expect("settings");
    for client_port in [40_000, 32_000, 29_999, 61_000] {
        let out = fixture.forwarded(&syn_from(CLIENT, client_port).build());
        let port = endpoints(&out).expect("a TCP packet").0.port();
        assert!(
            (30_000..32_000).contains(&port),
            "client port {client_port} became {port}"
        );
    }
    let out = fixture.forwarded(&syn_from(CLIENT, 31_000).build());
    assert_eq!(
        endpoints(&out).expect("a TCP packet").0.port(),
        31_000,
        "a client's port within the pool is kept"
    );
}

#[test]
fn a_client_always_gets_the_same_address_of_the_pool() {
    let mut fixture = Fixture::with_service(Forwarding::FullNat, &[BACKEND_1]);
    let pool: Vec<IpAddr> = (1..=4).map(|host| IpAddr::from([192, 0, 2, host])).collect();
    fixture
        .dataplane
        .set_snat_addresses(xlb::dataplane::Family::V4, &pool)
        .expect("the pool");
    fixture
        .dataplane
        .set_settings(Settings {
            snat_addresses_v4: 4,
            ..settings()
        })
        .expect("settings");
    let mut used = std::collections::BTreeSet::new();
    for client in 1..=40 {
        let client = Ipv4Addr::new(198, 51, 100, client);
        let sources: Vec<IpAddr> = (0..5)
            .map(|port| {
                let out = fixture.forwarded(&syn_from(client, 50_000 + port).build());
                endpoints(&out).expect("a TCP packet").0.ip()
            })
            .collect();
        assert!(
            sources.iter().all(|source| *source == sources[0]),
            "{client} got {sources:?}"
        );
        used.insert(sources[0]);
    }
    assert_eq!(used.len(), 4, "all addresses of the pool are used");
}

#[test]
fn port_pool_is_used_up_to_the_last_and_then_refuses() {
    let mut fixture = Fixture::with_service(Forwarding::FullNat, &[BACKEND_1]);
    let range = PortRange {
        first: 2000,
        last: 2003,
    };
    fixture
        .dataplane
        .set_settings(Settings {
            snat_ports: range,
            ..settings()
        })
        .expect("settings");
    let mut ports = std::collections::BTreeSet::new();
    let mut refused = 0;
    for client in 0..200_u8 {
        let outcome = fixture.run(&syn_from(Ipv4Addr::new(198, 51, 100, client), 40_000).build());
        match endpoints(&outcome.frame) {
            Some((source, _)) if source.ip() == SNAT => assert!(ports.insert(source.port()), "a port was given twice"),
            _ => refused += 1,
        }
    }
    assert_eq!(ports.into_iter().collect::<Vec<_>>(), [2000, 2001, 2002, 2003]);
    fixture.expect_counts(&[("forward", 4), ("ports_exhausted", refused)]);
    assert_eq!(fixture.connections().len(), 8, "nothing is left of the refused ones");
}

#[test]
fn one_backend_behind_two_vips_keeps_their_clients_apart() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.add_service(
        ServiceId(2),
        VIP_2,
        Scheduler::RoundRobin,
        Forwarding::Nat,
        &[BACKEND_1],
    );
    fixture.forwarded(&syn_from(CLIENT, 40_000).build());
    fixture.counts();
    // The reply could not be told from the first connection's.
    fixture.dropped(&syn_from(CLIENT, 40_000).to(VIP_2, PORT).build(), "tuple_taken");
    let out = fixture.forwarded(&syn_from(CLIENT, 40_001).to(VIP_2, PORT).build());
    assert_packet_eq(&out, &to_backend(syn_from(CLIENT, 40_001), BACKEND_1, 62));
    let reply = Packet::tcp().to(CLIENT, 40_001).flags(TcpFlags::SYN | TcpFlags::ACK);
    let out = fixture.forwarded(&from_backend(reply, BACKEND_1).build());
    assert_eq!(endpoints(&out).expect("a TCP packet").0.ip(), VIP_2);
    checksums_valid(&out).expect("valid checksums");
}

#[test]
fn reply_goes_to_where_the_client_was_last_seen() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.forwarded(&syn().build());
    let other_router = [0x02, 0, 0, 0, 0x99, 0x01];
    let gateway = lb_tests::names::GATEWAY_TO_CLIENTS_MAC;
    let data = Packet::tcp()
        .from(CLIENT, 40_000)
        .to(VIP, PORT)
        .ethernet(other_router, gateway);
    fixture.forwarded(&data.build());
    let reply = Packet::tcp().to(CLIENT, 40_000);
    let out = fixture.forwarded(&from_backend(reply.clone(), BACKEND_1).build());
    assert_packet_eq(
        &out,
        &reply.from(VIP, PORT).ethernet(gateway, other_router).ttl(62).build(),
    );
}

#[test]
fn traffic_is_counted_for_service_and_backend() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    fixture.forwarded(&syn().build());
    let reply = Packet::tcp().to(CLIENT, 40_000).payload(&[0; 60]);
    fixture.forwarded(&from_backend(reply, BACKEND_1).build());
    let expected = lb_common::counters::Traffic {
        connections: 1,
        forward_packets: 1,
        forward_bytes: 40,
        reply_packets: 1,
        reply_bytes: 100,
    };
    assert_eq!(
        fixture.dataplane.service_traffic(ServiceId(1)).expect("counters"),
        expected
    );
    let backend = xlb::dataplane::BackendId(10);
    assert_eq!(fixture.dataplane.backend_traffic(backend).expect("counters"), expected);
}
