//! Translated sources: where `nat` can't do without, and the pool of addresses and ports that they are taken from (RFC 4787, REQ-2 and
//! REQ-3; RFC 6056).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    service::{Forwarding, Scheduler},
    settings::{PortRange, Settings},
};
use lb_tests::{
    diff::{assert_packet_eq, endpoints},
    names::{CLIENT_ROUTER_MAC, Family, GATEWAY_TO_CLIENTS_MAC},
    packet::{IcmpError, Packet, TcpFlags, quote},
    program::Action,
};
use xlb::dataplane::{BackendEntry, BackendId, Dataplane as _, ServiceId, Tuple};

use crate::fixture::{
    Fixture, PORT, XDP_PROGRAMS, backend_entry, from_backend, from_client, settings, syn, syn_from, to_backend,
};

/// A SYN from this port of the first client.
fn syn_of(family: Family, port: u16) -> Packet {
    syn().over(family).from(family.client(1), port)
}

/// A SYN of the client with this number, of any that there may be.
fn syn_of_client(family: Family, number: u8, port: u16) -> Packet {
    syn_from(family.client(number), port).to(family.vip(), PORT)
}

/// As the gateway sends a reply on to the client that hides behind a translated source.
fn to_client(reply: Packet, vip: IpAddr, client: SocketAddr) -> Vec<u8> {
    reply
        .from(vip, PORT)
        .to(client.ip(), client.port())
        .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
        .ttl(62)
        .build()
}

/// Runs a new connection that must get the translated source with its own port, though the service is `nat`, and its reply.
#[track_caller]
fn check_rescued(fixture: &mut Fixture, family: Family, vip: IpAddr, client: SocketAddr) {
    fixture.counts();
    let syn = syn_from(client.ip(), client.port()).to(vip, PORT);
    let out = fixture.forwarded(&syn.build());
    let translated = syn.from(family.snat(), client.port());
    assert_packet_eq(&out, &to_backend(translated, family.backend(1), 62));
    fixture.expect_counts(&[("forward", 1), ("source_translated", 1)]);

    let reply = Packet::tcp().flags(TcpFlags::SYN | TcpFlags::ACK);
    let arriving = from_backend(reply.clone().to(family.snat(), client.port()), family.backend(1));
    assert_packet_eq(&fixture.forwarded(&arriving.build()), &to_client(reply, vip, client));
    fixture.expect_counts(&[("reply", 1)]);
}

/// Changes the only backend.
fn change_backend(fixture: &mut Fixture, change: impl FnOnce(&mut BackendEntry)) {
    let (id, mut entry) = fixture.dataplane.backends().expect("backends")[0];
    change(&mut entry);
    fixture.dataplane.set_backend(id, &entry).expect("a backend");
}

fn set_ports(fixture: &mut Fixture, first: u16, last: u16) {
    fixture
        .dataplane
        .set_settings(Settings {
            snat_ports: PortRange { first, last },
            ..settings()
        })
        .expect("settings");
}

/// The source that a first packet leaves with; `None` if it is dropped.
#[track_caller]
fn source_of(fixture: &mut Fixture, packet: &Packet) -> Option<SocketAddr> {
    let outcome = fixture.run(&packet.build());
    if outcome.action == Action::Redirect {
        return Some(endpoints(&outcome.frame).expect("a TCP or UDP packet").0);
    }
    assert_eq!(outcome.action, Action::Drop);
    None
}

/// The backend is its own client (hairpin): without translation it would talk to itself.
#[test]
fn backend_that_is_its_own_client_gets_a_translated_source() {
    for family in Family::ALL {
        for program in XDP_PROGRAMS {
            let mut fixture = Fixture::of_family(family, Forwarding::Nat);
            fixture.use_program(program);
            check_rescued(&mut fixture, family, family.vip(), (family.backend(1), 40_000).into());
        }
    }
}

/// RFC 5508, REQ-7.
#[test]
fn error_about_a_hairpin_packet_reaches_its_sender() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        let backend = family.backend(1);
        let syn = syn_from(backend, 40_000).to(family.vip(), PORT);
        let forwarded = fixture.forwarded(&syn.build());
        fixture.counts();
        let error = |quoted: &[u8]| Packet::icmp_error(IcmpError::PortUnreachable, quoted);
        let arriving = from_backend(error(&quote(&forwarded, 20)), backend);
        let out = fixture.forwarded(&arriving.build());
        let expected = error(&quote(&syn.ttl(62).build(), 20))
            .source(family.vip())
            .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
            .ttl(62);
        assert_packet_eq(&out, &expected.build());
        fixture.expect_counts(&[("icmp_error", 1)]);
    }
}

/// A client in the backend's network gets its answers past us (one-arm), if it is not translated.
#[test]
fn client_in_the_network_of_its_backend_gets_a_translated_source() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        change_backend(&mut fixture, |backend| backend.on_link = family.prefix_length());
        check_rescued(&mut fixture, family, family.vip(), (family.backend(200), 40_000).into());
        fixture.counts();
        let out = fixture.forwarded(&syn_of(family, 40_000).build());
        assert_packet_eq(&out, &to_backend(syn_of(family, 40_000), family.backend(1), 62));
        fixture.expect_counts(&[("forward", 1)]);
    }
}

#[test]
fn client_beside_a_backend_that_is_behind_a_router_keeps_its_address() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        let syn = syn_from(family.backend(200), 40_000).to(family.vip(), PORT);
        let out = fixture.forwarded(&syn.build());
        assert_packet_eq(&out, &to_backend(syn, family.backend(1), 62));
        fixture.expect_counts(&[("forward", 1)]);
    }
}

#[test]
fn network_of_a_backend_is_told_by_its_whole_prefix_and_no_more() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        let lengths: &[u8] = match family {
            Family::V4 => &[1, 7, 8, 9, 16, 23, 24, 31, 32],
            Family::V6 => &[1, 31, 32, 33, 63, 64, 65, 127, 128],
        };
        for length in lengths {
            change_backend(&mut fixture, |backend| backend.on_link = *length);
            let last = *length - 1;
            assert!(
                !is_rescued(&mut fixture, family, last),
                "/{length} is longer than what is shared"
            );
            if *length < family.host_prefix_length() {
                assert!(is_rescued(&mut fixture, family, *length), "/{length} is shared");
            }
        }
    }
}

/// Whether a client whose address differs from the first backend's in this bit, from the left, gets a translated source.
#[track_caller]
fn is_rescued(fixture: &mut Fixture, family: Family, bit: u8) -> bool {
    let client: IpAddr = match family.backend(1) {
        IpAddr::V4(address) => Ipv4Addr::from(address.to_bits() ^ 1 << (31 - bit)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(address.to_bits() ^ 1 << (127 - bit)).into(),
    };
    for entry in fixture.connections() {
        fixture.remove(&entry.key);
    }
    fixture.counts();
    fixture.forwarded(&syn_from(client, 40_000).to(family.vip(), PORT).build());
    let counts = fixture.counts();
    assert_eq!(counts.get("forward"), Some(&1), "{counts:?}");
    counts.contains_key("source_translated")
}

/// One backend behind two VIPs: it could not tell two connections of one client's port apart, so the second gets a translated source.
#[test]
fn one_backend_behind_two_vips_keeps_their_clients_apart() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        let second = ServiceId(2);
        fixture.add_service(
            second,
            family.vip_2(),
            Scheduler::RoundRobin,
            Forwarding::Nat,
            &[family.backend(1)],
        );
        let first = syn_of(family, 40_000);
        assert_packet_eq(
            &fixture.forwarded(&first.build()),
            &to_backend(first, family.backend(1), 62),
        );
        check_rescued(&mut fixture, family, family.vip_2(), (family.client(1), 40_000).into());
        // The first one's replies still are the first one's.
        let reply = Packet::tcp().to(family.client(1), 40_000);
        let out = fixture.forwarded(&from_backend(reply.clone(), family.backend(1)).build());
        assert_packet_eq(&out, &to_client(reply, family.vip(), (family.client(1), 40_000).into()));
        // Another port is no matter.
        let other = syn_of(family, 40_001).to(family.vip_2(), PORT);
        fixture.counts();
        assert_packet_eq(
            &fixture.forwarded(&other.build()),
            &to_backend(other, family.backend(1), 62),
        );
        fixture.expect_counts(&[("forward", 1)]);
    }
}

#[test]
fn second_connection_is_refused_where_there_is_no_address_to_translate_to() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        let second = ServiceId(2);
        let backend = BackendEntry {
            source: family.unspecified(),
            ..backend_entry(second, family.backend(1))
        };
        fixture.add_service(
            second,
            family.vip_2(),
            Scheduler::RoundRobin,
            Forwarding::Nat,
            &[family.backend(1)],
        );
        fixture
            .dataplane
            .set_backend(BackendId(20), &backend)
            .expect("a backend");
        fixture.forwarded(&syn_of(family, 40_000).build());
        let before = fixture.connections();
        fixture.dropped(&syn_of(family, 40_000).to(family.vip_2(), PORT).build(), "tuple_taken");
        assert_eq!(fixture.connections(), before);
    }
}

#[test]
fn full_nat_takes_no_port_of_the_host_and_none_outside_the_pool() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::FullNat);
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
        for port in [30_000, 31_000, 31_999] {
            let source = source_of(&mut fixture, &syn_of(family, port));
            assert_eq!(source, Some((family.snat(), port).into()), "a port of the pool is kept");
        }
        for port in (40_000..40_200).chain([32_000, 29_999, 61_000]) {
            let source = source_of(&mut fixture, &syn_of(family, port)).expect("there is a free port");
            assert!(
                (30_000..32_000).contains(&source.port()),
                "client port {port} became {source}"
            );
        }
    }
}

#[test]
fn client_always_gets_the_same_address_of_the_pool() {
    for (family, maps) in [
        (Family::V4, xlb::dataplane::Family::V4),
        (Family::V6, xlb::dataplane::Family::V6),
    ] {
        let mut fixture = Fixture::of_family(family, Forwarding::FullNat);
        // No host has these: they are clients that never call.
        let pool: Vec<IpAddr> = (201..=204).map(|number| family.client(number)).collect();
        fixture.dataplane.set_snat_addresses(maps, &pool).expect("the pool");
        fixture
            .dataplane
            .set_settings(Settings {
                snat_addresses_v4: 4,
                snat_addresses_v6: 4,
                ..settings()
            })
            .expect("settings");
        let mut used = BTreeSet::new();
        for client in 1..=40 {
            let sources: BTreeSet<IpAddr> = (50_000..50_005)
                .filter_map(|port| source_of(&mut fixture, &syn_of_client(family, client, port)))
                .map(|source| source.ip())
                .collect();
            assert_eq!(sources.len(), 1, "client {client} got {sources:?}");
            used.extend(sources);
        }
        assert_eq!(used, BTreeSet::from_iter(pool), "all addresses of the pool are used");
    }
}

/// A pool of 64 ports, which is what is tried for one connection at the end: used up to the last, and refused beyond. No two
/// connections leave with one tuple, nothing is left of those refused, and what ends makes room.
#[test]
fn pool_of_64_ports_serves_64_connections_to_a_backend() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::FullNat);
        set_ports(&mut fixture, 20_000, 20_063);
        let mut connections = BTreeMap::new();
        for port in 40_000..40_064 {
            let source = source_of(&mut fixture, &syn_of(family, port)).expect("there is a free port");
            assert_eq!(source.ip(), family.snat());
            let taken = connections.insert(source.port(), port);
            assert_eq!(taken, None, "{source} was given twice");
        }
        let ports: Vec<u16> = connections.keys().copied().collect();
        assert_eq!(ports, (20_000..20_064).collect::<Vec<_>>());
        fixture.expect_counts(&[("forward", 64)]);

        let before = fixture.connections();
        for port in 50_000..50_100 {
            fixture.dropped(&syn_of(family, port).build(), "ports_exhausted");
        }
        assert_eq!(fixture.connections(), before, "nothing is left of the refused ones");
        assert_eq!(before.len(), 2 * 64);

        // Every tuple that a reply can have leads to one client.
        for (port, client) in &connections {
            let reply = Packet::tcp();
            let arriving = from_backend(reply.clone().to(family.snat(), *port), family.backend(1));
            let out = fixture.forwarded(&arriving.build());
            assert_packet_eq(
                &out,
                &to_client(reply, family.vip(), (family.client(1), *client).into()),
            );
        }

        for client in [40_000, 40_031, 40_063] {
            let freed = end_connection(&mut fixture, family, client);
            let source = source_of(&mut fixture, &syn_of_client(family, 2, client)).expect("there is a free port");
            assert_eq!(source.port(), freed, "the only free port");
        }
        fixture.counts();
        fixture.dropped(&syn_of(family, 40_000).build(), "ports_exhausted");
    }
}

/// Removes the connection of this port of the first client; returns the port that it had been given.
fn end_connection(fixture: &mut Fixture, family: Family, client_port: u16) -> u16 {
    let client: SocketAddr = (family.client(1), client_port).into();
    let entries = fixture.connections();
    let forward = entries.iter().find(|entry| entry.key.source == client);
    let forward = forward.expect("the connection is there");
    let reply: Tuple = forward.twin;
    fixture.remove(&forward.key);
    fixture.remove(&reply);
    reply.destination.port()
}

/// Ports are those of one backend and protocol: another has all of them for itself.
#[test]
fn each_backend_and_protocol_has_the_whole_pool() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::FullNat);
        set_ports(&mut fixture, 20_000, 20_003);
        let second = ServiceId(2);
        fixture.add_service(
            second,
            family.vip_2(),
            Scheduler::RoundRobin,
            Forwarding::FullNat,
            &[family.backend(2)],
        );
        for packet in [
            syn_of(family, 1),
            syn_of(family, 1).to(family.vip_2(), PORT),
            from_client(Packet::udp().over(family)),
        ] {
            let ports: BTreeSet<u16> = (40_000..40_004)
                .filter_map(|port| source_of(&mut fixture, &packet.clone().from(family.client(1), port)))
                .map(|source| source.port())
                .collect();
            assert_eq!(ports, (20_000..=20_003).collect());
            fixture.counts();
            fixture.dropped(&packet.from(family.client(1), 40_004).build(), "ports_exhausted");
        }
    }
}

/// Who sees some ports must not guess the next (RFC 6056, section 3). Over 1,600 draws from 16,000 ports: each sixteenth of the pool
/// gets its share, by a chi-square test that an even draw fails once in a million runs, and neighbours hardly follow each other.
#[test]
fn ports_are_given_in_no_order() {
    const DRAWS: u16 = 1_600;
    const BUCKETS: u16 = 16;
    let mut fixture = Fixture::of_family(Family::V4, Forwarding::FullNat);
    set_ports(&mut fixture, 20_000, 35_999);
    let ports: Vec<u16> = (40_000..40_000 + DRAWS)
        .map(|port| source_of(&mut fixture, &syn_of(Family::V4, port)).expect("there is a free port"))
        .map(|source| source.port())
        .collect();

    let mut shares = [0_u32; BUCKETS as usize];
    for port in &ports {
        shares[usize::from((port - 20_000) / (16_000 / BUCKETS))] += 1;
    }
    let expected = f64::from(DRAWS / BUCKETS);
    let chi_square: f64 = shares
        .iter()
        .map(|share| (f64::from(*share) - expected).powi(2) / expected)
        .sum();
    // 15 degrees of freedom: 56.5 is exceeded with a probability of 1e-6.
    assert!(chi_square < 56.5, "{chi_square}: {shares:?}");

    // Of 1,599 steps 16 are expected to be this short, with a standard deviation of 4.
    let short = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 80).count();
    assert!(short < 60, "{short} of the steps are short");
    let rising = ports.windows(2).filter(|pair| pair[0] < pair[1]).count();
    // 800 are expected, with a standard deviation of 12.
    assert!((700..900).contains(&rising), "{rising} of the steps rise");
}
