//! Two CPUs that meet the same first packets at the same time.
//!
//! Each thread runs frames through the program on its own CPU, in step with the other, so that lookups and inserts of the two
//! interleave in every possible way. Afterwards the table is audited: it must look as if one packet had come after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    hint,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::Xdp;
use lb_common::{connection::Direction, maps::programs, service::Forwarding};
use lb_tests::{
    diff::endpoints,
    names::{BACKEND_1, BACKEND_2, BACKEND_3, CLIENT, CLIENT_2, VIP},
    packet::Packet,
    program::{self, Action, RunOptions},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use xlb::dataplane::{BackendId, ConnectionEntry, Dataplane as _, ServiceId, Tuple};

use crate::fixture::{Fixture, PORT, from_client, syn_from};

/// Flows, each raced once.
const FLOWS: u16 = 4_000;
/// The first flow's client port.
const FIRST_PORT: u16 = 10_000;
/// How long to wait for the other CPU before going on without it: the machine may have but one for us for a while.
const IN_STEP: Duration = Duration::from_millis(50);

/// What one CPU saw of a flow: where its packet went and with which source, if it was forwarded.
type Sent = Option<(SocketAddr, SocketAddr)>;

/// Runs frames on two CPUs at once, the first ones together, then the second ones ...; returns what each CPU sent.
fn race(fixture: &mut Fixture, frames: [&[Vec<u8>]; 2]) -> [Vec<Sent>; 2] {
    fixture.load();
    let program: &Xdp = program::xdp(fixture.dataplane.ebpf_mut(), programs::NATIVE).expect("the program");
    let steps = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let run_all = |own: usize, cpu: usize| -> Vec<Sent> {
        let mut set = CpuSet::new();
        set.set(cpu).expect("a cpu");
        sched_setaffinity(Pid::from_raw(0), &set).expect("a thread on its cpu");
        let run = |(number, frame): (usize, &Vec<u8>)| {
            steps[own].store(number + 1, Ordering::SeqCst);
            let begun = Instant::now();
            while steps[1 - own].load(Ordering::SeqCst) <= number && begun.elapsed() < IN_STEP {
                hint::spin_loop();
            }
            let outcome = program::run(program, frame, RunOptions::default()).expect("the frame runs");
            (outcome.action == Action::Redirect).then(|| endpoints(&outcome.frame).expect("a packet"))
        };
        frames[own].iter().enumerate().map(run).collect()
    };
    let cpus = two_cpus();
    thread::scope(|scope| {
        let threads = [0, 1].map(|own| scope.spawn(move || run_all(own, cpus[own])));
        threads.map(|thread| thread.join().expect("a thread"))
    })
}

/// Two CPUs that this process may run on.
fn two_cpus() -> [usize; 2] {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the affinity of this process");
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    [(); 2].map(|()| cpus.next().expect("a race needs two cpus"))
}

/// Every entry has its twin, and each names the other; flows are as many as they should be.
#[track_caller]
fn audit(fixture: &Fixture, flows: usize) -> BTreeMap<Tuple, BackendId> {
    let entries: BTreeMap<Tuple, ConnectionEntry> = fixture
        .connections()
        .into_iter()
        .map(|entry| (entry.key, entry))
        .collect();
    for entry in entries.values() {
        let twin = entries.get(&entry.twin);
        assert!(twin.is_some(), "without its twin: {entry:?}");
        let twin = twin.expect("its twin");
        assert_eq!(twin.twin, entry.key, "the twin is another one's: {entry:?} {twin:?}");
        assert_ne!(twin.direction, entry.direction, "{entry:?} {twin:?}");
        assert_eq!(twin.backend, entry.backend, "{entry:?} {twin:?}");
    }
    let forward: Vec<&ConnectionEntry> = entries
        .values()
        .filter(|entry| entry.direction == Direction::Forward)
        .collect();
    assert_eq!(forward.len(), flows);
    assert_eq!(entries.len(), 2 * flows);
    let reply_tuples: BTreeSet<Tuple> = forward.iter().map(|entry| entry.twin).collect();
    assert_eq!(reply_tuples.len(), flows, "no two flows share a reply tuple");
    forward.iter().map(|entry| (entry.key, entry.backend)).collect()
}

/// Both CPUs sent every flow to the same backend, from the same source, and the table says so too.
#[track_caller]
fn assert_agreed(fixture: &Fixture, sent: &[Vec<Sent>; 2]) {
    let table = audit(fixture, sent[0].len());
    let address_of = |id: BackendId| IpAddr::from([BACKEND_1, BACKEND_2, BACKEND_3][id.0 as usize - 10]);
    for ((port, one), other) in (FIRST_PORT..).zip(&sent[0]).zip(&sent[1]) {
        assert!(one.is_some(), "port {port}: forwarded");
        let (source, backend) = one.expect("a packet");
        assert_eq!(Some((source, backend)), *other, "port {port}: both CPUs agree");
        let entry = table.iter().find(|(key, _)| key.source == (CLIENT, port).into());
        assert_eq!(entry.map(|(_, id)| address_of(*id)), Some(backend.ip()), "port {port}");
    }
}

fn tcp_frames(client: Ipv4Addr) -> Vec<Vec<u8>> {
    (0..FLOWS)
        .map(|flow| syn_from(client, FIRST_PORT + flow).build())
        .collect()
}

fn udp_frames() -> Vec<Vec<u8>> {
    let frame = |flow| {
        from_client(
            Packet::udp()
                .from(CLIENT, FIRST_PORT + flow)
                .to(VIP, PORT)
                .payload(b"q"),
        )
        .build()
    };
    (0..FLOWS).map(frame).collect()
}

fn first_packets_agree(forwarding: Forwarding) {
    for frames in [tcp_frames(CLIENT), udp_frames()] {
        // Round robin: two CPUs that both choose for one flow choose differently.
        let mut fixture = Fixture::with_service(forwarding, &[BACKEND_1, BACKEND_2, BACKEND_3]);
        let sent = race(&mut fixture, [&frames, &frames]);
        assert_agreed(&fixture, &sent);
        let made = |id| {
            fixture
                .dataplane
                .backend_traffic(BackendId(id))
                .expect("a counter")
                .connections
        };
        assert_eq!(
            (10..13).map(made).sum::<u64>(),
            u64::from(FLOWS),
            "each flow is one connection"
        );
        let service = fixture.dataplane.service_traffic(ServiceId(1)).expect("a counter");
        assert_eq!(service.connections, u64::from(FLOWS));
    }
}

#[test]
fn first_packets_on_two_cpus_make_one_connection_with_nat() {
    first_packets_agree(Forwarding::Nat);
}

#[test]
fn first_packets_on_two_cpus_make_one_connection_with_full_nat() {
    first_packets_agree(Forwarding::FullNat);
}

#[test]
fn two_clients_on_two_cpus_never_share_a_source_port() {
    // Both clients want the same port at the same backend: one of them is given another.
    let mut fixture = Fixture::with_service(Forwarding::FullNat, &[BACKEND_1]);
    let clients = [CLIENT, CLIENT_2].map(tcp_frames);
    let sent = race(&mut fixture, [&clients[0], &clients[1]]);
    audit(&fixture, 2 * usize::from(FLOWS));
    let sources: BTreeSet<SocketAddr> = sent.iter().flatten().flatten().map(|(source, _)| *source).collect();
    assert_eq!(
        sources.len(),
        2 * usize::from(FLOWS),
        "no two flows look the same to the backend"
    );
}

#[test]
fn udp_flows_leave_a_dead_backend_for_one_other() {
    for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
        let mut fixture = Fixture::with_service(forwarding, &[BACKEND_1, BACKEND_2, BACKEND_3]);
        let frames = udp_frames();
        for frame in &frames {
            fixture.forwarded(frame);
        }
        fixture.set_backend(BackendId(10), ServiceId(1), BACKEND_1, false);
        fixture
            .dataplane
            .set_slots(ServiceId(1), &[BackendId(11), BackendId(12)])
            .expect("slots");
        fixture.counts();
        let mut sent = race(&mut fixture, [&frames, &frames]);
        // A packet that comes while the other CPU removes the old entries is lost, and counted.
        let lost = fixture.counts().get("vanished").copied().unwrap_or(0);
        let (one, other) = sent.split_at_mut(1);
        let mut missing = 0;
        for (one, other) in one[0].iter_mut().zip(&mut other[0]) {
            missing += u64::from(one.is_none()) + u64::from(other.is_none());
            // One that read the old entry in its last instant goes where the flow went before, as if it had come earlier.
            let to_new = |sent: &(SocketAddr, SocketAddr)| sent.1.ip() != BACKEND_1;
            let agreed = one.filter(to_new).or(other.filter(to_new));
            *one = one.filter(to_new).or(agreed);
            *other = other.filter(to_new).or(agreed);
        }
        assert_eq!(missing, lost, "{forwarding:?}");
        assert_agreed(&fixture, &sent);
    }
}
