use std::net::SocketAddr;

use lb_common::{
    backend::NextHop,
    service::{Forwarding, Scheduler, Service},
};

use super::*;
use crate::dataplane::{BackendEntry, fake::FakeDataplane, faulty::FaultyDataplane};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 100_000 * SECOND;
const SERVICE: ServiceId = ServiceId(1);
const BACKEND: BackendId = BackendId(1);

const SYN: u32 = Seen::SYN;
const SYN_ACK: u32 = Seen::SYN | Seen::ACK;
const FIN: u32 = Seen::SYN | Seen::ACK | Seen::FIN;

const TIMEOUTS: Timeouts = Timeouts {
    tcp_half_open: Duration::from_secs(30),
    tcp_established: Duration::from_secs(7440),
    tcp_closing: Duration::from_secs(240),
    udp: Duration::from_secs(300),
};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Both entries of a connection from this client port: flags seen and seconds idle, forward and reply.
fn pair(protocol: Protocol, port: u16, forward: (u32, u64), reply: (u32, u64)) -> [ConnectionEntry; 2] {
    let client = SocketAddr::from(([198, 51, 100, 7], port));
    let key = Tuple {
        protocol,
        source: client,
        destination: address("203.0.113.10:80"),
    };
    let twin = Tuple {
        protocol,
        source: address("10.0.0.11:8080"),
        destination: client,
    };
    let entry = |key, twin, direction, (seen, idle): (u32, u64)| ConnectionEntry {
        key,
        twin,
        direction,
        seen: Seen(seen),
        last_seen: NOW - idle * SECOND,
        service: SERVICE,
        backend: BACKEND,
    };
    [
        entry(key, twin, Direction::Forward, forward),
        entry(twin, key, Direction::Reply, reply),
    ]
}

fn table(entries: impl IntoIterator<Item = ConnectionEntry>) -> FakeDataplane {
    let mut dataplane = FakeDataplane::new();
    for entry in entries {
        dataplane.insert_connection(entry);
    }
    dataplane
}

fn run(dataplane: &mut FakeDataplane) -> Sweep {
    sweep(dataplane, &TIMEOUTS, NOW).unwrap()
}

/// Whether a pair outlives a sweep.
fn survives(entries: [ConnectionEntry; 2]) -> bool {
    let mut dataplane = table(entries);
    let sweep = run(&mut dataplane);
    let left = dataplane.connections().count();
    let expected = if left == 0 { (1, 0, 0) } else { (0, 1, 2) };
    assert_eq!(
        (sweep.expired, sweep.live.len(), left),
        expected,
        "expired, live, and entries left"
    );
    left == 2
}

#[test]
fn each_phase_has_its_timeout() {
    // One second more than the timeout, since a time stamp may be that old.
    for (name, protocol, forward, reply, limit) in [
        ("half-open", Protocol::Tcp, SYN, 0, 31),
        ("unacknowledged", Protocol::Tcp, SYN, SYN_ACK, 31),
        ("established", Protocol::Tcp, SYN_ACK, SYN_ACK, 7441),
        ("half-closed", Protocol::Tcp, FIN, SYN_ACK, 7441),
        ("closed", Protocol::Tcp, FIN, FIN, 241),
        ("reset", Protocol::Tcp, SYN_ACK, SYN_ACK | Seen::RST, 241),
        ("unanswered", Protocol::Udp, Seen::ACK, 0, 301),
        ("answered", Protocol::Udp, Seen::ACK, Seen::ACK, 301),
    ] {
        let after = |idle| survives(pair(protocol, 1, (forward, idle), (reply, idle)));
        assert!(after(limit - 1), "{protocol} {name} is kept for {} s", limit - 1);
        assert!(!after(limit), "{protocol} {name} is over after {limit} s");
    }
}

/// The same with a source that the backend sees instead of the client's.
fn translated([mut forward, mut reply]: [ConnectionEntry; 2]) -> [ConnectionEntry; 2] {
    let source = address("192.0.2.10:50000");
    forward.twin.destination = source;
    reply.key.destination = source;
    [forward, reply]
}

#[test]
fn source_of_a_translated_connection_is_held_before_another_client_gets_it() {
    // The timeout once more, 120 s at most, and a second since a time stamp may be that old.
    for (protocol, forward, reply, timeout, hold) in [
        (Protocol::Tcp, SYN, 0, 30, 30),
        (Protocol::Tcp, SYN_ACK, SYN_ACK, 7440, 120),
        (Protocol::Tcp, FIN, FIN, 240, 120),
        (Protocol::Udp, Seen::ACK, Seen::ACK, 300, 120),
    ] {
        let sweep_after = |idle| {
            let mut dataplane = table(translated(pair(protocol, 1, (forward, idle), (reply, idle))));
            let sweep = run(&mut dataplane);
            (sweep.live.len(), dataplane.connections().count())
        };
        assert_eq!(sweep_after(timeout), (1, 2), "{protocol} is live");
        assert_eq!(sweep_after(timeout + 1), (0, 2), "{protocol} is over, and held");
        assert_eq!(sweep_after(timeout + hold), (0, 2), "{protocol} is still held");
        assert_eq!(sweep_after(timeout + hold + 1), (0, 0), "{protocol} is removed");
    }
}

#[test]
fn direct_connections_have_one_entry_and_are_judged_by_the_client() {
    for (protocol, seen, limit) in [
        (Protocol::Tcp, SYN, 31),
        (Protocol::Tcp, SYN_ACK, 7441),
        (Protocol::Tcp, FIN, 241),
        (Protocol::Udp, Seen::ACK, 301),
    ] {
        let left = |idle| {
            let [mut entry, _] = pair(protocol, 1, (seen, idle), (0, 0));
            entry.direction = Direction::Direct;
            entry.twin = Tuple {
                source: entry.key.destination,
                destination: entry.key.source,
                ..entry.key
            };
            let mut dataplane = table([entry]);
            let sweep = run(&mut dataplane);
            let left = dataplane.connections().count();
            assert_eq!((sweep.live.len(), sweep.expired), (left, 1 - left));
            left
        };
        assert_eq!(left(limit - 1), 1, "{protocol} {seen:#x}");
        assert_eq!(left(limit), 0, "{protocol} {seen:#x}");
    }
}

#[test]
fn the_later_packet_of_either_direction_counts() {
    assert!(survives(pair(Protocol::Udp, 1, (Seen::ACK, 5000), (Seen::ACK, 10))));
    assert!(survives(pair(Protocol::Udp, 1, (Seen::ACK, 10), (Seen::ACK, 5000))));
}

#[test]
fn forward_entry_is_removed_before_its_reply() {
    let mut dataplane = table(pair(Protocol::Tcp, 4000, (SYN, 60), (0, 60)));
    run(&mut dataplane);
    assert_eq!(
        dataplane.take_log(),
        [
            "set half-open 0",
            "remove connection tcp 198.51.100.7:4000 > 203.0.113.10:80",
            "remove connection tcp 10.0.0.11:8080 > 198.51.100.7:4000",
        ]
    );
}

#[test]
fn an_entry_without_a_twin_is_judged_alone_and_given_time() {
    let short = Timeouts {
        tcp_half_open: Duration::from_secs(1),
        ..TIMEOUTS
    };
    for lone in [0, 1] {
        let left = |idle| {
            let mut dataplane = table([pair(Protocol::Tcp, 1, (SYN_ACK, idle), (SYN_ACK, idle))[lone]]);
            sweep(&mut dataplane, &short, NOW).unwrap();
            dataplane.connections().count()
        };
        assert_eq!(left(5), 1, "entry {lone} may be half of a connection being made");
        assert_eq!(left(6), 0, "entry {lone} is not");
    }
}

#[test]
fn what_is_left_is_counted_by_phase_and_the_half_open_count_corrected() {
    let mut entries = Vec::new();
    entries.extend(pair(Protocol::Tcp, 1, (SYN, 1), (0, 1)));
    entries.extend(pair(Protocol::Tcp, 2, (SYN_ACK, 1), (SYN_ACK, 1)));
    entries.extend(pair(Protocol::Udp, 2, (Seen::ACK, 1), (Seen::ACK, 1)));
    entries.extend(pair(Protocol::Tcp, 3, (FIN, 1), (FIN, 1)));
    entries.extend(pair(Protocol::Tcp, 4, (SYN, 100), (0, 100)));
    let mut dataplane = table(entries);
    let sweep = run(&mut dataplane);
    let live = Live {
        half_open: 1,
        established: 2,
        closing: 1,
    };
    assert_eq!(sweep.live, HashMap::from([((SERVICE, BACKEND), live)]));
    assert_eq!(sweep.expired, 1);
    assert_eq!(dataplane.half_open(), 1);
}

#[test]
fn backends_in_slots_or_named_by_a_connection_are_referenced() {
    let mut dataplane = table(pair(Protocol::Tcp, 1, (SYN_ACK, 1), (SYN_ACK, 1)));
    let entry = BackendEntry {
        service: SERVICE,
        address: address("10.0.0.11:8080"),
        alive: true,
        next_hop: NextHop::UNKNOWN,
        source: [0, 0, 0, 0].into(),
        on_link: 0,
    };
    for id in 1..=3 {
        dataplane.set_backend(BackendId(id), &entry).unwrap();
    }
    dataplane
        .set_service(SERVICE, Service::new(Scheduler::Random, Forwarding::Nat))
        .unwrap();
    dataplane.set_slots(SERVICE, &[BackendId(2)]).unwrap();
    assert_eq!(run(&mut dataplane).unreferenced, HashSet::from([BackendId(3)]));
}

#[test]
fn ipv6_connections_are_joined_too() {
    let [mut forward, mut reply] = pair(Protocol::Tcp, 1, (SYN_ACK, 1), (SYN_ACK, 1));
    forward.key.source = address("[2001:db8::7]:4000");
    forward.key.destination = address("[2001:db8::10]:80");
    forward.twin.source = address("[2001:db8::11]:8080");
    forward.twin.destination = forward.key.source;
    reply.key = forward.twin;
    reply.twin = forward.key;
    let sweep = run(&mut table([forward, reply]));
    assert_eq!(sweep.live[&(SERVICE, BACKEND)].established, 1);
}

/// A table that changes between the judgement and the removal.
#[test]
fn a_connection_that_changes_during_the_sweep_is_kept() {
    let [forward, reply] = pair(Protocol::Tcp, 1, (SYN, 60), (0, 60));
    let [_, awake] = pair(Protocol::Tcp, 1, (SYN, 60), (SYN_ACK, 0));
    let [_, flagged] = pair(Protocol::Tcp, 1, (SYN, 60), (SYN_ACK, 60));
    let pair = [forward, reply];
    let cases: [(&[_], &[_], usize); 7] = [
        (&pair, &pair, 1),
        (&pair, &[forward, awake], 0),
        (&pair, &[forward, flagged], 0),
        (&pair, &[forward], 0),
        (&pair, &[reply], 0),
        (&[forward], &pair, 0),
        (&[reply], &pair, 0),
    ];
    for (index, (before, after, removed)) in cases.into_iter().enumerate() {
        let mut judged = Table::default();
        before.iter().for_each(|entry| judged.add(entry));
        judged.keep_only_removable(&TIMEOUTS, NOW);
        assert_eq!(judged.connections.len(), 1);
        let mut dataplane = table(after.iter().copied());
        assert_eq!(
            remove_expired(&mut dataplane, &judged).unwrap(),
            removed,
            "case {index}"
        );
        let left = if removed == 0 { after.len() } else { 0 };
        assert_eq!(dataplane.connections().count(), left, "case {index}");
    }
}

#[test]
fn a_tuple_that_begins_anew_before_its_removal_keeps_its_new_connection() {
    let expired = |port| pair(Protocol::Tcp, port, (FIN, 300), (FIN, 300));
    let anew = pair(Protocol::Tcp, 2, (SYN, 0), (0, 0));
    let mut elsewhere = anew;
    elsewhere[0].twin.source = address("10.0.0.12:8080");
    elsewhere[1].key.source = address("10.0.0.12:8080");
    // The third case: the client's first packet found the old reply entry and took it over.
    let adopted = [anew[0], expired(2)[1]];
    for (name, new) in [
        ("same backend", anew),
        ("another backend", elsewhere),
        ("old reply entry", adopted),
    ] {
        let mut dataplane = table([expired(1), expired(2)].concat());
        dataplane.insert_after_removal(new);
        assert_eq!(run(&mut dataplane).expired, 1, "{name}");
        let left: Vec<_> = dataplane.connections().collect();
        for entry in &new {
            assert!(
                left.contains(&entry),
                "{name}: {entry:?} is left alone, not only {left:?}"
            );
        }
    }
}

#[test]
fn a_reply_entry_of_an_earlier_backend_says_nothing_of_the_connection() {
    let [forward, reply] = pair(Protocol::Tcp, 1, (SYN_ACK, 100), (SYN_ACK, 100));
    let orphan = |idle| {
        let mut orphan = pair(Protocol::Tcp, 1, (0, 0), (0, idle))[1];
        // Behind the true reply entry in the order of the table.
        orphan.key.source = address("10.0.0.12:8080");
        orphan.backend = BackendId(2);
        orphan
    };
    let mut dataplane = table([forward, reply, orphan(1000)]);
    let sweep = run(&mut dataplane);
    assert_eq!(sweep.live[&(SERVICE, BACKEND)].established, 1);
    assert_eq!(sweep.expired, 1);
    let left: Vec<_> = dataplane.connections().copied().collect();
    assert_eq!(left, [reply, forward], "only the orphan went");

    let mut dataplane = table([forward, reply, orphan(1)]);
    assert_eq!(run(&mut dataplane).live[&(SERVICE, BackendId(2))].half_open, 1);
    assert_eq!(dataplane.connections().count(), 3, "a young orphan has its own time");
}

#[test]
fn a_failed_removal_does_not_keep_the_others() {
    // Writes: half-open count, forward and reply entry of the first connection, of the second.
    for (n, left) in [(1, 0), (2, 2), (3, 1), (4, 2), (5, 1)] {
        let dataplane = table(
            [1, 2]
                .map(|port| pair(Protocol::Tcp, port, (FIN, 300), (FIN, 300)))
                .concat(),
        );
        let mut faulty = FaultyDataplane::failing_nth(dataplane, n);
        let error = sweep(&mut faulty, &TIMEOUTS, NOW).unwrap_err();
        assert!(
            error.to_string().ends_with(&format!("write {n} fails as planned")),
            "{error}"
        );
        assert_eq!(faulty.inner().connections().count(), left, "after write {n} failed");
    }
}

#[test]
fn a_failed_removal_is_made_up_for_by_the_next_sweep() {
    // Writes: half-open count, forward entry, reply entry.
    for n in 1..=3 {
        let dataplane = table(pair(Protocol::Tcp, 1, (FIN, 300), (FIN, 300)));
        let mut faulty = FaultyDataplane::failing_nth(dataplane, n);
        assert!(sweep(&mut faulty, &TIMEOUTS, NOW).is_err());
        assert!(sweep(&mut faulty, &TIMEOUTS, NOW).is_ok());
        assert_eq!(faulty.inner().connections().count(), 0, "after write {n} failed");
    }
}

#[test]
fn clock_moves_forward_with_the_kernels_monotonic_one() {
    let coarse = now().unwrap();
    let fine = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    assert!(coarse > 0);
    assert!(
        u128::from(coarse) <= fine.as_nanos(),
        "the coarse clock lags behind the fine one"
    );
}
