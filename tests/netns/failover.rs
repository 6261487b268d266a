//! Backends that die, come back, or were never there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_tests::{
    traffic::{
        Protocol,
        client::SteadyRequests,
        long_flows::{LongFlows, Problem},
        report::Report,
    },
    wait::until_true,
};

use crate::scene::{MATRIX, PATIENCE, Scene, all_backends, configuration, patient};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Interval x fall + timeout of the test service, with the interval's jitter of a tenth.
const DETECTION: Duration = Duration::from_millis(300 * 11 / 10 * 2 + 200);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_secs(3);

#[test]
fn killed_backend_is_taken_out_in_time_and_used_again_when_it_is_back() {
    for cell in [MATRIX[0], MATRIX[3]] {
        let mut scene = Scene::start(cell);
        let traffic =
            BOTH.map(|protocol| SteadyRequests::start(&patient(scene.client(protocol)), Duration::from_millis(10)));

        scene.backends[1].kill9().expect("backend 2 dies");
        let killed = Instant::now();
        scene.wait_until_up(2);
        let noticed = Instant::now();
        let took = noticed - killed;
        assert!(took < DETECTION + SLACK, "{cell}: taken out after {took:?}");
        for protocol in BOTH {
            let shares = scene.answered(protocol, 100);
            assert!(!shares.contains_key(&2), "{cell}, {protocol:?}: {shares:?}");
        }

        scene.backends[1].launch().expect("backend 2 comes back");
        scene.wait_until_up(3);
        for protocol in BOTH {
            until_true("backend 2 is used again", PATIENCE, || {
                scene.answered(protocol, 30).contains_key(&2)
            })
            .expect("backend 2 is used again");
        }
        for (protocol, traffic) in BOTH.into_iter().zip(traffic) {
            let report = traffic.stop().expect("a client");
            let after = report.since(noticed);
            assert!(after.exchanges.len() > 20, "{cell}, {protocol:?}: {after}");
            assert_eq!(after.failures(), BTreeMap::new(), "{cell}, {protocol:?}");
            assert_ne!(
                failed_before(&report, noticed),
                0,
                "{cell}, {protocol:?}: the kill was felt, or this test shows nothing"
            );
        }
    }
}

fn failed_before(report: &Report, time: Instant) -> usize {
    let early = report.exchanges.iter().filter(|exchange| exchange.started < time);
    early.filter(|exchange| exchange.outcome.is_err()).count()
}

#[test]
fn backend_gets_no_traffic_before_its_first_passed_check() {
    let scene = Scene::start_with(&configuration(MATRIX[0], &all_backends()), |backends| {
        backends[2].set_healthy(false).expect("backend 3 runs");
    });
    scene.wait_until_up(2);
    for protocol in BOTH {
        let shares = scene.answered(protocol, 100);
        assert_eq!(shares.keys().copied().collect::<Vec<_>>(), [1, 2], "{protocol:?}");
    }
    let backends = scene.gateway.backends().expect("backends");
    assert_eq!(backends[2]["traffic"]["connections"], 0, "{}", backends[2]);
    scene.backends[2].set_healthy(true).expect("backend 3 runs");
    scene.wait_until_up(3);
    until_true("backend 3 is used", PATIENCE, || {
        scene.answered(Protocol::Tcp, 30).contains_key(&3)
    })
    .expect("backend 3 is used");
}

#[test]
fn new_connections_go_to_all_or_none_while_all_backends_are_down_as_configured() {
    let forward_to_all = configuration(MATRIX[0], &all_backends()) + "    when_all_down: forward_to_all\n";
    let scene = Scene::start_with(&forward_to_all, |_| {});
    scene.wait_until_up(3);
    for backend in &scene.backends {
        backend.set_healthy(false).expect("a backend runs");
    }
    scene.wait_for_health("down", 3);
    until_true("all are used", PATIENCE, || {
        scene.answered(Protocol::Tcp, 60).len() == 3
    })
    .expect("all are used");

    scene.reload_accepted(&(configuration(MATRIX[0], &all_backends()) + "    when_all_down: drop\n"));
    let mut client = scene.client(Protocol::Udp);
    client.timeout = Duration::from_millis(300);
    let before = scene.counted("no_backend");
    let report = client.requests(20, 20).expect("a client");
    assert_eq!(report.answers().count(), 0, "{report}");
    assert_eq!(scene.counted("no_backend") - before, 20);
}

#[test]
fn udp_flow_of_one_socket_moves_when_its_backend_dies_and_others_stay() {
    let mut scene = Scene::start(MATRIX[2]);
    let mut client = scene.client(Protocol::Udp);
    client.timeout = Duration::from_millis(300);
    let flows = LongFlows::start(&client, 12).expect("flows");
    let taken = |number: usize| {
        let backends = scene.gateway.backends().expect("backends");
        backends[number - 1]["traffic"]["connections"]
            .as_u64()
            .expect("a count")
    };
    let on_dead = taken(1);
    assert_ne!(on_dead, 0, "flows of backend 1");
    assert_eq!(on_dead + taken(2) + taken(3), 12);
    scene.backends[0].kill9().expect("backend 1 dies");
    scene.wait_until_up(2);
    // Each of its flows becomes a new connection elsewhere.
    until_true("the flows of backend 1 are elsewhere", PATIENCE, || {
        taken(2) + taken(3) == 12
    })
    .expect("they move");

    let report = flows.stop().expect("flows");
    assert!(!report.by_backend().contains_key(&1), "{report}");
    assert_eq!(report.by_backend().values().sum::<usize>(), 12, "{report}");
    let mut moved = 0;
    for flow in &report.flows {
        for (_, problem) in &flow.problems {
            match problem {
                Problem::Moved { from, .. } => {
                    assert_eq!(*from, 1, "only flows of the dead backend move: {report}");
                    moved += 1;
                }
                Problem::Gap(_) | Problem::Lost(_) | Problem::Broken(_) => {}
            }
        }
    }
    assert_eq!(moved, on_dead, "{report}");
}
