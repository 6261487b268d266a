//! Forward and reply in both forwarding modes, byte for byte.

use lb_common::service::Forwarding;
use lb_tests::{
    diff::{assert_packet_eq, endpoints},
    names::{BACKEND_1, BACKEND_2, CLIENT, CLIENT_2, SNAT, VIP},
    packet::{Packet, TcpFlags},
};
use xlb::dataplane::{Dataplane as _, ServiceId};

use crate::fixture::{Fixture, PORT, XDP_PROGRAMS, from_backend, from_client, syn, syn_from, to_backend, to_client};

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
