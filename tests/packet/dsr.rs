//! `dsr`: the backend has the VIP itself and answers the client without us, so a packet is changed in its Ethernet addresses alone.

use lb_common::{
    connection::{Direction, Seen},
    service::{Forwarding, Scheduler},
};
use lb_tests::{
    diff::{assert_packet_eq, differing_fields},
    names::{CLIENT_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS_MAC, Mac},
    packet::{Extension, IcmpError, Packet, TcpFlags, fragments, quote},
};
use xlb::{
    dataplane::{BackendEntry, BackendId, Dataplane as _, ServiceId},
    model::Protocol,
};

use crate::fixture::{BACKEND_PORT, Fixture, PORT, XDP_PROGRAMS, backend_entry, from_client, syn};

/// The Ethernet address of the backend with this number, on the network that the gateway shares with it.
const fn mac(number: u8) -> Mac {
    [0x02, 0, 0, 0, 0x04, 0x10 + number]
}

/// A service with two backends on the gateway's own network, the first of which gets the first connection.
fn fixture(family: Family) -> Fixture {
    let mut fixture = Fixture::new();
    let backends = [family.backend(1), family.backend(2)];
    let ids = fixture.add_service(
        ServiceId(1),
        family.vip(),
        Scheduler::RoundRobin,
        Forwarding::Dsr,
        &backends,
    );
    for (number, id) in (1..).zip(ids) {
        let mut entry: BackendEntry = backend_entry(ServiceId(1), family.backend(number));
        entry.next_hop.destination = mac(number);
        fixture.dataplane.set_backend(id, &entry).expect("a backend");
    }
    fixture
}

fn datagram(family: Family) -> Packet {
    from_client(Packet::udp().over(family)).payload(b"question")
}

/// Runs a client's packet, and compares: as it came, but to this backend.
#[track_caller]
fn check(fixture: &mut Fixture, packet: &Packet, backend: u8) {
    fixture.counts();
    let out = fixture.forwarded(&packet.build());
    let expected = packet.clone().ethernet(GATEWAY_TO_BACKENDS_MAC, mac(backend));
    assert_packet_eq(&out, &expected.build());
    fixture.expect_counts(&[("forward", 1)]);
}

#[test]
fn ethernet_addresses_alone_change() {
    for family in Family::ALL {
        for program in XDP_PROGRAMS {
            let mut fixture = fixture(family);
            fixture.use_program(program);
            check(&mut fixture, &syn().over(family), 1);
            check(&mut fixture, &datagram(family), 2);
        }
        let mut fixture = fixture(family);
        let before = syn().over(family).build();
        let after = fixture.forwarded(&before);
        assert_eq!(differing_fields(&after, &before), ["eth destination", "eth source"]);
        assert_eq!(after[12..], before[12..]);
    }
}

#[test]
fn unusual_packets_stay_as_they_are() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        let syn = syn().over(family);
        let ack = syn.clone().flags(TcpFlags::ACK);
        check(&mut fixture, &syn, 1);
        for packet in [
            ack.clone().ip_options(&[1; 40]).tcp_options(&[1; 40]),
            ack.clone()
                .extensions(&[Extension::HopByHop(0), Extension::Destination(3)]),
            ack.clone().dscp(46).ecn(3).id(0).payload(b"odd").trailer(&[0xee; 9]),
            // Checksums are the backend's.
            ack.clone().bad_checksum(),
            ack.clone().bad_ip_checksum(),
        ] {
            check(&mut fixture, &packet, 1);
        }
        check(&mut fixture, &datagram(family), 2);
        check(&mut fixture, &datagram(family).without_checksum(), 2);
    }
}

/// A bridge lowers no time to live: the backend is on the same link as we are.
#[test]
fn time_to_live_stays_and_may_be_the_last() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        for ttl in [1, 0, 2, 255] {
            check(&mut fixture, &syn().over(family).ttl(ttl), 1);
        }
    }
}

#[test]
fn flow_keeps_its_backend() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        let syn = syn().over(family);
        check(&mut fixture, &syn, 1);
        check(&mut fixture, &datagram(family), 2);
        check(&mut fixture, &syn.clone().from(family.client(2), 40_000), 1);
        for _ in 0..3 {
            check(&mut fixture, &syn.clone().flags(TcpFlags::ACK).payload(&[7; 100]), 1);
            check(&mut fixture, &datagram(family), 2);
        }
    }
}

#[test]
fn retransmitted_syn_leaves_a_dead_backend() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        let syn = syn().over(family);
        check(&mut fixture, &syn, 1);
        let (id, entry) = fixture.dataplane.backends().expect("backends")[0];
        assert_eq!(id, BackendId(10));
        let dead = BackendEntry { alive: false, ..entry };
        fixture.dataplane.set_backend(id, &dead).expect("a backend");
        check(&mut fixture, &syn, 2);
        assert_eq!(fixture.connections().len(), 1);
    }
}

/// Replies do not pass here, so an entry for them would never be used.
#[test]
fn connection_is_one_entry() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        check(&mut fixture, &syn().over(family), 1);
        check(&mut fixture, &datagram(family), 2);
        let entries = fixture.connections();
        assert_eq!(entries.len(), 2, "{entries:?}");
        for (protocol, seen, backend) in [(Protocol::Tcp, Seen::SYN, 10), (Protocol::Udp, Seen::UDP.0, 11)] {
            let entry = entries
                .iter()
                .find(|entry| entry.key.protocol == protocol)
                .expect("an entry of each protocol");
            assert_eq!(entry.direction, Direction::Direct);
            assert_eq!(entry.key.source, (family.client(1), 40_000).into());
            assert_eq!(entry.key.destination, (family.vip(), PORT).into());
            assert_eq!(
                (entry.twin.source, entry.twin.destination),
                (entry.key.destination, entry.key.source)
            );
            assert_eq!(entry.seen, Seen(seen));
            assert_eq!((entry.service, entry.backend), (ServiceId(1), BackendId(backend)));
        }
    }
}

#[test]
fn stray_reply_is_left_to_the_kernel() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        check(&mut fixture, &syn().over(family), 1);
        for (source, port) in [(family.vip(), PORT), (family.backend(1), BACKEND_PORT)] {
            let reply = Packet::tcp()
                .from(source, port)
                .to(family.client(1), 40_000)
                .ethernet(mac(1), GATEWAY_TO_BACKENDS_MAC);
            fixture.passed(&reply.build(), "no_listener");
        }
    }
}

#[test]
fn closed_connection_starts_anew_with_its_backend() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        let syn = syn().over(family);
        check(&mut fixture, &syn, 1);
        check(&mut fixture, &syn.clone().flags(TcpFlags::ACK), 1);
        check(&mut fixture, &syn.clone().flags(TcpFlags::FIN | TcpFlags::ACK), 1);
        check(&mut fixture, &syn, 1);
        let entries = fixture.connections();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].seen, Seen(Seen::SYN), "what was sent before is forgotten");
    }
}

#[test]
fn fragments_follow_the_first_one_unchanged() {
    for family in Family::ALL {
        for program in XDP_PROGRAMS {
            let mut fixture = fixture(family);
            fixture.use_program(program);
            let packet = from_client(Packet::udp().over(family))
                .dont_fragment(false)
                .payload(&[7; 100]);
            for fragment in fragments(&packet.build(), &[40, 80], 0x77) {
                fixture.counts();
                let out = fixture.forwarded(&fragment);
                let mut expected = fragment.clone();
                expected[..6].copy_from_slice(&mac(1));
                expected[6..12].copy_from_slice(&GATEWAY_TO_BACKENDS_MAC);
                assert_packet_eq(&out, &expected);
                fixture.expect_counts(&[("forward", 1)]);
            }
        }
    }
}

/// The backend answers with the VIP's address, so errors about its answers come to the VIP, which leads here.
#[test]
fn error_about_an_answer_reaches_the_backend_unchanged() {
    for family in Family::ALL {
        for program in XDP_PROGRAMS {
            let mut fixture = fixture(family);
            fixture.use_program(program);
            check(&mut fixture, &syn().over(family), 1);
            let answer = Packet::tcp()
                .from(family.vip(), PORT)
                .to(family.client(1), 40_000)
                .payload(&[7; 64]);
            let error = Packet::icmp_error(IcmpError::TooBig { mtu: 1280 }, &quote(&answer.build(), 20))
                .source(family.client_router())
                .ethernet(CLIENT_ROUTER_MAC, GATEWAY_TO_CLIENTS_MAC);
            fixture.counts();
            let out = fixture.forwarded(&error.build());
            let expected = error.ethernet(GATEWAY_TO_BACKENDS_MAC, mac(1));
            assert_packet_eq(&out, &expected.build());
            fixture.expect_counts(&[("icmp_error", 1)]);
        }
    }
}

#[test]
fn packet_larger_than_the_way_takes_is_refused() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        let syn = syn().over(family);
        check(&mut fixture, &syn, 1);
        let ack = syn.flags(TcpFlags::ACK);
        let headers = ack.build().len() - 14;
        check(&mut fixture, &ack.clone().payload(&vec![7; 1500 - headers]), 1);
        fixture.counts();
        fixture.forwarded(&ack.payload(&vec![7; 1501 - headers]).build());
        fixture.expect_counts(&[("too_big", 1), ("icmp_sent", 1)]);
    }
}
