//! The connection table: what it refuses, and what it forgets.

use std::time::Duration;

use aya::maps::{HashMap, MapData};
use lb_common::{address::V4, connection::Connection, flow::FlowKey, maps};
use lb_tests::{
    traffic::{
        Protocol,
        long_flows::{LongFlows, Problem},
    },
    wait::until_true,
};

use crate::scene::{MATRIX, PATIENCE, Scene, all_backends, configuration, patient};

/// The shortest timeouts there are, so that a test sees their end.
const SHORT: &str = "connections:
  half_open_max: 20
  timeouts: {tcp_half_open: 1s, tcp_closing: 1s, udp: 1s}
";

/// Entries of the connection table, read past the agent.
fn entries(scene: &Scene) -> usize {
    let pinned = MapData::from_pin(scene.gateway.pins().join(maps::CONNECTIONS_V4)).expect("the pinned table");
    let table: HashMap<_, FlowKey<V4>, Connection<V4>> =
        HashMap::try_from(aya::maps::Map::HashMap(pinned)).expect("a hash map");
    table.keys().count()
}

/// Connections by phase, as the status shows them: half-open, established, closing.
fn connections(scene: &Scene) -> [u64; 3] {
    let status = scene.status();
    ["half_open", "established", "closing"].map(|phase| status["connections"][phase].as_u64().expect("a number"))
}

#[test]
fn half_open_connections_are_limited_and_make_room_again() {
    let scene = Scene::start_with(&(configuration(MATRIX[0], &all_backends()) + SHORT), |_| {});
    scene.wait_until_up(3);
    let long = LongFlows::start(&patient(scene.client(Protocol::Tcp)), 10).expect("long connections");
    // The backends' answers to the clients are lost, while those to the health checks are not.
    for backend in &scene.lab.backends {
        backend.ip("route add blackhole 10.1.0.0/25").expect("a route");
        backend.ip("route add 10.1.0.11/32 via 10.4.0.1").expect("a route");
    }
    let mut client = scene.client(Protocol::Tcp);
    client.namespace = scene.lab.clients[1].clone();
    client.timeout = Duration::from_millis(500);
    let before = scene.counted("half_open_full");
    let report = client.requests(60, 60).expect("a client");
    assert_eq!(report.answers().count(), 0, "{report}");
    // A sweep meanwhile finds the first ones over only after their timeout, which is longer than the clients waited.
    let refused = scene.counted("half_open_full") - before;
    assert_eq!(refused, 40, "of 60 that nobody answers 20 are let through");

    for backend in &scene.lab.backends {
        backend.ip("route delete blackhole 10.1.0.0/25").expect("a route");
    }
    until_true("room for new connections", PATIENCE, || {
        let report = client.requests(15, 5).expect("a client");
        report.failures().is_empty()
    })
    .expect("room for new connections");
    let long = long.stop().expect("long connections");
    let hurt = long
        .problems()
        .filter(|(_, problem)| !matches!(problem, Problem::Gap(_)));
    assert_eq!(hurt.count(), 0, "established ones never felt it: {long}");
}

#[test]
fn table_returns_to_empty_when_connections_end() {
    let scene = Scene::start_with(&(configuration(MATRIX[2], &all_backends()) + SHORT), |_| {});
    scene.wait_until_up(3);
    let long = LongFlows::start(&patient(scene.client(Protocol::Tcp)), 3).expect("long connections");
    scene.answered(Protocol::Tcp, 50);
    scene.answered(Protocol::Udp, 50);
    assert!(entries(&scene) > 2 * 53, "{} entries", entries(&scene));

    until_true("only the long connections are left", PATIENCE, || {
        entries(&scene) == 2 * 3
    })
    .unwrap_or_else(|error| {
        panic!("{error}: {} entries, {:?}", entries(&scene), connections(&scene));
    });
    until_true("the status follows", PATIENCE, || connections(&scene) == [0, 3, 0]).expect("the status follows");
    let long = long.stop().expect("long connections");
    assert_eq!(long.broken(), 0, "{long}");

    until_true("an empty table", PATIENCE, || entries(&scene) == 0).unwrap_or_else(|error| {
        panic!("{error}: {} entries, {:?}", entries(&scene), connections(&scene));
    });
    until_true("the status follows", PATIENCE, || connections(&scene) == [0, 0, 0]).expect("the status follows");
}
