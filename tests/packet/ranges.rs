//! Listeners with ranges of ports, and backends that get the port the client dialled.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    service::{Forwarding, Scheduler},
    settings::Settings,
};
use lb_tests::{
    diff::{assert_packet_eq, endpoints},
    names::{BACKEND_ROUTER_MAC, CLIENT_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS_MAC},
    packet::{IcmpError, Packet, quote},
};
use xlb::{
    dataplane::{Dataplane as _, ServiceId},
    model::{Listener, Ports, Protocol},
};

use crate::fixture::{BACKEND_PORT, Fixture, PORT, XDP_PROGRAMS, backend_entry, from_client, settings, syn};

const RANGE: Ports = Ports {
    first: 5_000,
    last: 6_023,
};

/// Two services on the VIP: the first on [`RANGE`] and [`PORT`], with the first backend, the second with the second backend.
fn fixture(family: Family) -> Fixture {
    let mut fixture = Fixture::of_family(family, Forwarding::Nat);
    fixture.add_service(
        ServiceId(2),
        family.vip_2(),
        Scheduler::RoundRobin,
        Forwarding::Nat,
        &[family.backend(2)],
    );
    use_ranges(&mut fixture, true);
    listen(&mut fixture, family.vip(), RANGE, ServiceId(1));
    fixture
}

/// Lets the program look for ranges, or not. What counts is whether the number of prefixes is zero.
fn use_ranges(fixture: &mut Fixture, used: bool) {
    fixture
        .dataplane
        .set_settings(Settings {
            port_prefixes: u32::from(used),
            ..settings()
        })
        .expect("settings");
}

/// TCP alone.
fn listen(fixture: &mut Fixture, address: IpAddr, ports: Ports, service: ServiceId) {
    let listener = Listener {
        address,
        ports,
        protocol: Protocol::Tcp,
    };
    fixture.listen(listener, service);
}

/// A SYN to this port of the VIP, from a client's port that no other has.
fn syn_to(family: Family, port: u16) -> Packet {
    syn().over(family).from(family.client(1), port).to(family.vip(), port)
}

/// Where a SYN to this port leaves to.
#[track_caller]
fn chosen(fixture: &mut Fixture, family: Family, port: u16) -> SocketAddr {
    fixture.counts();
    let out = fixture.forwarded(&syn_to(family, port).build());
    fixture.expect_counts(&[("forward", 1)]);
    endpoints(&out).expect("a TCP packet").1
}

#[test]
fn every_port_of_a_range_is_listened_on_and_none_beside_it() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        let backend = SocketAddr::from((family.backend(1), BACKEND_PORT));
        for port in RANGE.first..=RANGE.last {
            assert_eq!(chosen(&mut fixture, family, port), backend, "port {port}");
        }
        for port in [1, 4_999, 6_024, 0, 65_535, 5_000 ^ 0x8000] {
            fixture.passed(&syn_to(family, port).build(), "no_listener");
        }
        assert_eq!(fixture.connections().len(), 2 * 1_024);
    }
}

#[test]
fn range_is_one_of_its_address_and_protocol() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        fixture.passed(&syn_to(family, 5_000).to(family.vip_2(), 5_000).build(), "no_listener");
        let datagram = from_client(Packet::udp().over(family).to(family.vip(), 5_000));
        fixture.passed(&datagram.build(), "no_listener");
    }
}

#[test]
fn packets_of_a_range_are_translated_both_ways() {
    for family in Family::ALL {
        for program in XDP_PROGRAMS {
            let mut fixture = fixture(family);
            fixture.use_program(program);
            for port in [RANGE.first, 5_555, RANGE.last] {
                check_both_ways(&mut fixture, family, port, BACKEND_PORT);
            }
        }
    }
}

/// Runs a connection of the first client, from and to `port`, to the first backend at `backend_port`, and its reply.
#[track_caller]
fn check_both_ways(fixture: &mut Fixture, family: Family, port: u16, backend_port: u16) {
    let syn = syn_to(family, port);
    let expected = syn
        .clone()
        .to(family.backend(1), backend_port)
        .ethernet(GATEWAY_TO_BACKENDS_MAC, BACKEND_ROUTER_MAC)
        .ttl(62);
    assert_packet_eq(&fixture.forwarded(&syn.build()), &expected.build());
    let reply = Packet::tcp().to(family.client(1), port).payload(b"answer");
    let arriving = reply
        .clone()
        .from(family.backend(1), backend_port)
        .ethernet(BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC);
    let expected = reply
        .from(family.vip(), port)
        .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
        .ttl(62);
    assert_packet_eq(&fixture.forwarded(&arriving.build()), &expected.build());
}

#[test]
fn single_port_within_a_range_is_its_own_services() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        listen(&mut fixture, family.vip(), Ports::single(5_500), ServiceId(2));
        assert_eq!(chosen(&mut fixture, family, 5_500).ip(), family.backend(2));
        for port in [5_499, 5_501] {
            assert_eq!(chosen(&mut fixture, family, port).ip(), family.backend(1));
        }
    }
}

#[test]
fn any_port_is_listened_on_and_narrower_listeners_win() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        listen(&mut fixture, family.vip(), Ports::ANY, ServiceId(2));
        for port in [1, 79, 81, 4_999, 6_024, 65_535] {
            assert_eq!(
                chosen(&mut fixture, family, port).ip(),
                family.backend(2),
                "port {port}"
            );
        }
        for port in [PORT, RANGE.first, 5_777, RANGE.last] {
            assert_eq!(
                chosen(&mut fixture, family, port).ip(),
                family.backend(1),
                "port {port}"
            );
        }
    }
}

#[test]
fn listener_that_is_gone_uncovers_the_wider_one() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        listen(&mut fixture, family.vip(), Ports::single(5_500), ServiceId(2));
        let single = xlb::dataplane::ListenerEntry::single(family.vip(), Protocol::Tcp, 5_500);
        fixture.dataplane.remove_listener(single).expect("removed");
        assert_eq!(chosen(&mut fixture, family, 5_500).ip(), family.backend(1));
    }
}

#[test]
fn ranges_are_not_looked_for_while_there_are_none() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        use_ranges(&mut fixture, false);
        fixture.passed(&syn_to(family, 5_000).build(), "no_listener");
        assert_eq!(chosen(&mut fixture, family, PORT).ip(), family.backend(1));
        use_ranges(&mut fixture, true);
        assert_eq!(chosen(&mut fixture, family, 5_000).ip(), family.backend(1));
    }
}

/// A fixture whose first backend is at the port that the client dials.
fn with_port_of_the_client(family: Family, forwarding: Forwarding) -> Fixture {
    let mut fixture = Fixture::of_family(family, forwarding);
    let mut entry = backend_entry(ServiceId(1), family.backend(1));
    entry.address.set_port(0);
    let (id, _) = fixture.dataplane.backends().expect("backends")[0];
    fixture.dataplane.set_backend(id, &entry).expect("a backend");
    use_ranges(&mut fixture, true);
    listen(&mut fixture, family.vip(), Ports::ANY, ServiceId(1));
    fixture
}

#[test]
fn backend_without_a_port_gets_the_one_that_was_dialled() {
    for family in Family::ALL {
        for program in XDP_PROGRAMS {
            let mut fixture = with_port_of_the_client(family, Forwarding::Nat);
            fixture.use_program(program);
            for port in [1, PORT, 5_000, 65_535] {
                check_both_ways(&mut fixture, family, port, port);
            }
        }
    }
}

/// The client's ports differ in what they dial alone, so the port that the backend sees as its own must tell them apart.
#[test]
fn one_source_port_reaches_many_ports_of_a_backend() {
    for family in Family::ALL {
        for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
            let mut fixture = with_port_of_the_client(family, forwarding);
            for port in 7_000..7_010 {
                let syn = syn_to(family, port).from(family.client(1), 40_000);
                let out = fixture.forwarded(&syn.build());
                let (source, destination) = endpoints(&out).expect("a TCP packet");
                assert_eq!(source.port(), 40_000, "its own port is free for another backend port");
                assert_eq!(destination, (family.backend(1), port).into());
            }
            assert_eq!(fixture.counts(), [("forward", 10)].into());
        }
    }
}

#[test]
fn error_about_a_packet_of_a_range_shows_the_port_that_was_dialled() {
    for family in Family::ALL {
        let mut fixture = fixture(family);
        let syn = syn_to(family, 5_123);
        let forwarded = fixture.forwarded(&syn.build());
        let error = |quoted: &[u8]| Packet::icmp_error(IcmpError::PortUnreachable, quoted);
        let arriving = error(&quote(&forwarded, 8))
            .source(family.backend(1))
            .ethernet(BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC);
        let expected = error(&quote(&syn.ttl(62).build(), 8))
            .source(family.vip())
            .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
            .ttl(62);
        assert_packet_eq(&fixture.forwarded(&arriving.build()), &expected.build());
    }
}
