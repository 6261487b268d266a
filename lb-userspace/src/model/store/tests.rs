use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::*;
use crate::model::{Connections, Echo, Forwarding, Listener, Ports, Probe, Protocol, Scheduler, Snat, Timeouts};

const ALL_PORTS: RangeInclusive<u16> = 1024..=65_535;

fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        port: None,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    }
}

/// A service on port 80 of the VIP, checked, whose backends listen on these ports and have these weights.
fn service(name: &str, backends: &[(u16, u16)]) -> Service {
    Service {
        name: name.into(),
        listeners: vec![Listener {
            address: [203, 0, 113, 10].into(),
            ports: Ports::single(80),
            protocol: Protocol::Tcp,
        }],
        forwarding: Forwarding::Nat,
        scheduler: Scheduler::RoundRobin,
        health_check: Some(check()),
        when_all_down: WhenAllDown::ForwardToAll,
        echo: Echo::Auto,
        backends: backends
            .iter()
            .map(|(port, weight)| Backend {
                address: backend(*port),
                weight: *weight,
            })
            .collect(),
    }
}

fn backend(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn model(services: Vec<Service>) -> Arc<Model> {
    let second = Duration::from_secs(1);
    Arc::new(Model {
        interfaces: Vec::new(),
        socket: PathBuf::from("xlb.sock"),
        connections: Connections {
            max: 1,
            half_open_max: 1,
            timeouts: Timeouts {
                tcp_half_open: second,
                tcp_established: second,
                tcp_closing: second,
                udp: second,
            },
        },
        snat: Snat {
            addresses: Vec::new(),
            ports: ALL_PORTS,
        },
        services,
    })
}

/// Records `results` (`+` or `-`) for the backend on `port` of the service `web`; the last transition.
fn record(store: &Store, port: u16, results: &str) -> Option<Transition> {
    let outcome = |result| match result {
        '+' => Ok(()),
        _ => Err("connection refused".to_owned()),
    };
    results.chars().fold(None, |_, result| {
        store.record("web", backend(port), &check(), outcome(result))
    })
}

fn ready(store: &Store) -> Vec<bool> {
    let state = store.state();
    state.ready(&state.model().services[0])
}

#[test]
fn backend_takes_connections_after_its_first_success() {
    let store = Store::new(model(vec![service("web", &[(1, 1), (2, 1)])]));
    assert_eq!(ready(&store), [false, false]);
    assert_eq!(
        record(&store, 2, "+"),
        Some(Transition {
            to: Status::Up,
            all_down: None
        })
    );
    assert_eq!(ready(&store), [false, true]);
}

#[test]
fn without_a_check_everybody_with_a_weight_takes_connections() {
    let mut web = service("web", &[(1, 1), (2, 0)]);
    web.health_check = None;
    assert_eq!(ready(&Store::new(model(vec![web]))), [true, false]);
}

#[test]
fn last_failure_is_kept_and_counts_are_of_consecutive_results() {
    let store = Store::new(model(vec![service("web", &[(1, 1)])]));
    record(&store, 1, "+--");
    let health = store.state().health("web", backend(1)).cloned().unwrap();
    assert_eq!(health.tally.status(), Status::Up);
    assert_eq!((health.tally.successes(), health.tally.failures()), (0, 2));
    assert_eq!(health.last_failure.as_deref(), Some("connection refused"));
}

#[test]
fn when_the_last_one_goes_down_the_policy_decides() {
    for (policy, expected) in [
        (WhenAllDown::ForwardToAll, [true, true, false]),
        (WhenAllDown::Drop, [false; 3]),
    ] {
        let mut web = service("web", &[(1, 1), (2, 1), (3, 0)]);
        web.when_all_down = policy;
        let store = Store::new(model(vec![web]));
        assert_eq!(record(&store, 1, "+---").unwrap().all_down, None);
        assert_eq!(ready(&store), [false; 3], "the second one is pending, not down");
        assert_eq!(record(&store, 2, "---").unwrap().all_down, Some(policy));
        assert_eq!(ready(&store), expected, "{policy:?}");
        record(&store, 2, "++");
        assert_eq!(ready(&store), [false, true, false], "{policy:?}, one recovered");
    }
}

#[test]
fn a_reload_keeps_the_health_of_those_that_stay() {
    let store = Store::new(model(vec![service("web", &[(1, 1), (2, 1)])]));
    record(&store, 1, "+--");
    record(&store, 2, "---");
    let before = [1, 2].map(|port| store.state().health("web", backend(port)).cloned());
    store.replace_model(model(vec![service("web", &[(3, 1), (2, 5), (1, 1)])]));
    let after = [1, 2].map(|port| store.state().health("web", backend(port)).cloned());
    assert_eq!(before, after);
    assert_eq!(ready(&store), [false, false, true]);
    // The two failures before the reload count.
    assert_eq!(record(&store, 1, "-").unwrap().to, Status::Down);
}

#[test]
fn a_backend_that_comes_back_is_new() {
    let store = Store::new(model(vec![service("web", &[(1, 1), (2, 1)])]));
    record(&store, 1, "+");
    store.replace_model(model(vec![service("web", &[(2, 1)])]));
    assert_eq!(record(&store, 1, "+"), None, "nobody asks for it");
    store.replace_model(model(vec![service("web", &[(1, 1), (2, 1)])]));
    assert_eq!(ready(&store), [false, false]);
}

#[test]
fn a_renamed_service_keeps_the_health_of_its_backends() {
    let store = Store::new(model(vec![service("web", &[(1, 1)])]));
    record(&store, 1, "+");
    store.replace_model(model(vec![service("shop", &[(1, 1)])]));
    assert_eq!(ready(&store), [true]);
}

#[test]
fn a_check_that_is_added_does_not_interrupt_traffic() {
    let mut unchecked = service("web", &[(1, 1)]);
    unchecked.health_check = None;
    let store = Store::new(model(vec![unchecked.clone()]));
    store.replace_model(model(vec![service("web", &[(1, 1), (2, 1)])]));
    assert_eq!(ready(&store), [true, false]);
    record(&store, 1, "---");
    assert_eq!(ready(&store), [false, false]);
    store.replace_model(model(vec![unchecked]));
    assert_eq!(ready(&store), [true], "without a check it counts as healthy");
}

#[test]
fn adopted_health_counts_until_there_is_a_result() {
    let store = Store::new(model(vec![service("web", &[(1, 1), (2, 1), (3, 1)])]));
    record(&store, 2, "-");
    store.adopt("web", backend(1), Status::Up);
    store.adopt("web", backend(2), Status::Up);
    store.adopt("web", backend(3), Status::Down);
    assert_eq!(
        ready(&store),
        [true, false, false],
        "a result outweighs what an earlier agent thought"
    );
    record(&store, 3, "+");
    assert_eq!(
        ready(&store),
        [true, false, false],
        "it was down, so one success is not enough"
    );
}

#[test]
fn only_changes_of_status_and_configuration_notify() {
    let store = Store::new(model(vec![service("web", &[(1, 1)])]));
    let mut changes = store.subscribe();
    let mut changed = || {
        let changed = changes.has_changed().unwrap();
        changes.mark_unchanged();
        changed
    };
    assert!(!changed());
    record(&store, 1, "+");
    assert!(changed());
    record(&store, 1, "++-");
    assert!(!changed());
    store.replace_model(model(vec![service("web", &[(1, 2)])]));
    assert!(changed());
}
