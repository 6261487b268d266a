//! Which backend a new connection gets.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use lb_common::service::{Forwarding, Scheduler, Service};
use lb_tests::{
    diff::endpoints,
    names::{BACKEND_1, BACKEND_2, BACKEND_3, CLIENT, VIP},
};
use xlb::{
    dataplane::{BackendId, Dataplane as _, ServiceId},
    scheduler::{Candidate, slots},
};

use crate::fixture::{Fixture, syn_from};

const SERVICE: ServiceId = ServiceId(1);

/// Which backend the first packet of a client's port reaches.
#[track_caller]
fn chosen(fixture: &mut Fixture, client: Ipv4Addr, port: u16) -> Ipv4Addr {
    let out = fixture.forwarded(&syn_from(client, port).build());
    let SocketAddr::V4(backend) = endpoints(&out).expect("a TCP packet").1 else {
        unreachable!("an IPv4 packet stays one");
    };
    *backend.ip()
}

/// A service with a slot table of the agent's own making.
fn service(scheduler: Scheduler, weights: &[(Ipv4Addr, u32)]) -> Fixture {
    let mut fixture = Fixture::new();
    let addresses: Vec<Ipv4Addr> = weights.iter().map(|(address, _)| *address).collect();
    let ids = fixture.add_service(SERVICE, VIP, scheduler, Forwarding::Nat, &addresses);
    let candidates: Vec<Candidate> = ids
        .iter()
        .zip(weights)
        .map(|(id, (address, weight))| Candidate {
            id: *id,
            address: (*address, 8080).into(),
            weight: *weight,
            ready: true,
        })
        .collect();
    let slots = slots(scheduler, &candidates);
    fixture.dataplane.set_slots(SERVICE, &slots).expect("slots");
    fixture
}

/// How many of `flows` new connections, each of another client and port, reach which backend.
fn shares(fixture: &mut Fixture, flows: u32) -> BTreeMap<Ipv4Addr, u32> {
    let mut shares = BTreeMap::new();
    for flow in 0..flows {
        let client = Ipv4Addr::from(0xc633_0000 + flow);
        let port = u16::try_from(1024 + flow % 40_000).expect("a port");
        *shares.entry(chosen(fixture, client, port)).or_insert(0) += 1;
    }
    shares
}

#[test]
fn round_robin_is_exact_over_a_cycle() {
    let mut fixture = service(Scheduler::RoundRobin, &[(BACKEND_1, 1), (BACKEND_2, 2), (BACKEND_3, 5)]);
    assert_eq!(
        shares(&mut fixture, 800),
        BTreeMap::from([(BACKEND_1, 100), (BACKEND_2, 200), (BACKEND_3, 500)])
    );
}

#[test]
fn weights_hold_within_three_percent_for_the_other_schedulers() {
    const FLOWS: u32 = 20_000;
    for scheduler in [Scheduler::Random, Scheduler::SourceHash, Scheduler::Maglev] {
        let mut fixture = service(scheduler, &[(BACKEND_1, 1), (BACKEND_2, 2), (BACKEND_3, 5)]);
        let shares = shares(&mut fixture, FLOWS);
        for (backend, weight) in [(BACKEND_1, 1), (BACKEND_2, 2), (BACKEND_3, 5)] {
            let share = f64::from(shares[&backend]) / f64::from(FLOWS);
            let expected = f64::from(weight) / 8.0;
            assert!(
                (share - expected).abs() < 0.03,
                "{scheduler:?}: {backend} got {share:.3}, expected {expected:.3}"
            );
        }
    }
}

#[test]
fn source_hash_sends_a_client_to_one_backend() {
    let mut fixture = service(Scheduler::SourceHash, &[(BACKEND_1, 1), (BACKEND_2, 1), (BACKEND_3, 1)]);
    for client in 1..50 {
        let client = Ipv4Addr::new(198, 51, 100, client);
        let first = chosen(&mut fixture, client, 1000);
        for port in 1001..1020 {
            assert_eq!(chosen(&mut fixture, client, port), first, "{client}");
        }
    }
}

#[test]
fn maglev_gives_a_tuple_the_same_backend_again_without_its_entry() {
    let mut fixture = service(Scheduler::Maglev, &[(BACKEND_1, 1), (BACKEND_2, 1), (BACKEND_3, 1)]);
    let before: Vec<Ipv4Addr> = (0..200).map(|port| chosen(&mut fixture, CLIENT, 2000 + port)).collect();
    for entry in fixture.connections() {
        fixture.remove(&entry.key);
    }
    let after: Vec<Ipv4Addr> = (0..200).map(|port| chosen(&mut fixture, CLIENT, 2000 + port)).collect();
    assert_eq!(before, after);
    assert!(before.contains(&BACKEND_1) && before.contains(&BACKEND_2) && before.contains(&BACKEND_3));
}

#[test]
fn maglev_moves_few_tuples_when_one_of_ten_backends_goes() {
    let backends: Vec<(Ipv4Addr, u32)> = (1..=10).map(|host| (Ipv4Addr::new(10, 4, 0, host), 1)).collect();
    let mut all = service(Scheduler::Maglev, &backends);
    let mut fewer = service(Scheduler::Maglev, &backends[..9]);
    const FLOWS: u32 = 5_000;
    let mut moved = 0;
    for flow in 0..FLOWS {
        let client = Ipv4Addr::from(0xc633_0000 + flow);
        let before = chosen(&mut all, client, 4000);
        let after = chosen(&mut fewer, client, 4000);
        moved += u32::from(before != after);
    }
    let limit = f64::from(FLOWS) * (0.1 + 0.02);
    assert!(
        f64::from(moved) <= limit,
        "{moved} of {FLOWS} tuples moved, at most {limit} may"
    );
}

#[test]
fn connections_stay_where_they_are_when_the_slots_change() {
    let mut fixture = service(Scheduler::RoundRobin, &[(BACKEND_1, 1), (BACKEND_2, 1)]);
    let before: Vec<Ipv4Addr> = (0..20).map(|port| chosen(&mut fixture, CLIENT, 2000 + port)).collect();
    fixture.dataplane.set_slots(SERVICE, &[BackendId(10)]).expect("slots");
    let after: Vec<Ipv4Addr> = (0..20).map(|port| chosen(&mut fixture, CLIENT, 2000 + port)).collect();
    assert_eq!(before, after, "a known connection never asks the scheduler");
    assert!(
        (0..20).all(|port| chosen(&mut fixture, CLIENT, 3000 + port) == BACKEND_1),
        "new ones see the new slots"
    );
}

#[test]
fn scheduler_can_be_changed_while_connections_live() {
    let mut fixture = service(Scheduler::RoundRobin, &[(BACKEND_1, 1), (BACKEND_2, 1)]);
    let first = chosen(&mut fixture, CLIENT, 2000);
    fixture
        .dataplane
        .set_service(SERVICE, Service::new(Scheduler::Random, Forwarding::Nat))
        .expect("a service");
    assert_eq!(chosen(&mut fixture, CLIENT, 2000), first);
    let shares = shares(&mut fixture, 200);
    assert_eq!(shares.len(), 2, "{shares:?}");
}
