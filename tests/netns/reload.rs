//! Another configuration while traffic goes on.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_tests::{
    raw_program::RawProgram,
    traffic::{
        Protocol,
        client::{Client, SteadyRequests},
        long_flows::{LongFlows, Problem},
    },
    wait::until_true,
};

use crate::scene::{Cell, MATRIX, PATIENCE, SERVICE, Scene, all_backends, configuration, configuration_of, patient};

/// New connections all the time, from the second client.
fn steady(scene: &Scene) -> [SteadyRequests; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        let client = Client::new(&scene.lab.clients[1], protocol, SERVICE);
        SteadyRequests::start(&patient(client), Duration::from_millis(10))
    })
}

#[track_caller]
fn assert_none_failed(steady: [SteadyRequests; 2]) {
    for requests in steady {
        let report = requests.stop().expect("requests");
        assert_eq!(report.failures(), BTreeMap::new(), "{report}");
        assert!(report.exchanges.len() >= 10, "{report}");
    }
}

/// The configuration with these weights for the backends.
fn weighted(cell: Cell, weights: [u16; 3]) -> String {
    let entry = |(address, weight): (&SocketAddr, u16)| format!("{{address: \"{address}\", weight: {weight}}}");
    let entries: Vec<String> = all_backends().iter().zip(weights).map(entry).collect();
    configuration_of(cell, &entries)
}

/// Waits until new connections go to the backends in these shares of 60.
#[track_caller]
fn wait_for_shares(scene: &Scene, expected: &[(u32, usize)]) {
    let expected: BTreeMap<u32, usize> = expected.iter().copied().collect();
    let mut last = BTreeMap::new();
    let reached = until_true("shares by weight", PATIENCE, || {
        // A quiet moment for the scheduler's turn: its cursor is shared with the other client.
        last = scene.answered(Protocol::Tcp, 60);
        let near = |(backend, share): (&u32, &usize)| last.get(backend).is_some_and(|seen| seen.abs_diff(*share) <= 8);
        last.len() == expected.len() && expected.iter().all(near)
    });
    assert!(reached.is_ok(), "{last:?} instead of {expected:?}");
}

fn backends_are_added_removed_and_reweighted(cell: Cell) {
    let scene = Scene::start(cell);
    let long = LongFlows::start(&patient(scene.client(Protocol::Tcp)), 30).expect("long connections");
    let traffic = steady(&scene);

    scene.reload_accepted(&configuration(cell, &all_backends()[..2]));
    wait_for_shares(&scene, &[(1, 30), (2, 30)]);
    scene.reload_accepted(&weighted(cell, [1, 2, 3]));
    scene.wait_until_up(3);
    wait_for_shares(&scene, &[(1, 10), (2, 20), (3, 30)]);
    scene.reload_accepted(&weighted(cell, [1, 0, 1]));
    wait_for_shares(&scene, &[(1, 30), (3, 30)]);
    scene.reload_accepted(&configuration(cell, &all_backends()[2..]));
    wait_for_shares(&scene, &[(3, 60)]);

    assert_none_failed(traffic);
    let long = long.stop().expect("long connections");
    let hurt = long
        .problems()
        .filter(|(_, problem)| !matches!(problem, Problem::Gap(_)));
    assert_eq!(hurt.count(), 0, "{cell}: {long}");
    assert_eq!(
        long.by_backend(),
        [(1, 10), (2, 10), (3, 10)].into(),
        "{cell}: connections of removed backends live on"
    );
}

#[test]
fn backends_are_added_removed_and_reweighted_under_traffic_with_nat() {
    backends_are_added_removed_and_reweighted(MATRIX[0]);
}

#[test]
fn backends_are_added_removed_and_reweighted_under_traffic_with_full_nat() {
    backends_are_added_removed_and_reweighted(MATRIX[2]);
}

#[test]
fn twenty_reloads_in_a_row_fail_no_request() {
    let scene = Scene::start(MATRIX[0]);
    let traffic = steady(&scene);
    for round in 0..20_u16 {
        // Weights, scheduler and forwarding change as well, so that every reload has something to write.
        let cell = MATRIX[if round % 4 < 2 { 0 } else { 2 }];
        let scheduler = ["round_robin", "maglev", "random"][usize::from(round % 3)];
        scene.reload_accepted(&weighted(cell, [1 + round % 3, 1, 2]).replace("round_robin", scheduler));
    }
    scene.wait_until_up(3);
    assert_none_failed(traffic);
}

#[test]
fn refused_configuration_changes_nothing_and_the_status_says_why() {
    let scene = Scene::start(MATRIX[0]);
    let good = configuration(MATRIX[0], &all_backends());
    let before = scene.status();
    for (broken, reason) in [
        ("services: [".to_owned(), "xlb.yaml:"),
        (good.replace("round_robin", "rund_robin"), "services[0].scheduler"),
        (
            good.replace("name: clients", "name: nowhere"),
            "interface nowhere does not exist",
        ),
    ] {
        let refusal = scene.reload(&broken).expect("a refusal");
        assert!(refusal.contains(reason), "{refusal}");
        let after = scene.status();
        assert_eq!(after["interfaces"], before["interfaces"]);
        let names = |status: &serde_json::Value| -> Vec<String> {
            let backends = status["services"][0]["backends"].as_array().expect("backends").clone();
            backends
                .iter()
                .map(|backend| format!("{} {} {}", backend["address"], backend["health"], backend["weight"]))
                .collect()
        };
        assert_eq!(names(&after), names(&before));
        assert_eq!(scene.answered(Protocol::Tcp, 30).len(), 3);
        let text = scene
            .gateway
            .command(["status", "--socket"])
            .arg(scene.gateway.socket())
            .output();
        let text = String::from_utf8(text.expect("xlb status").stdout).expect("text");
        assert!(text.contains("RELOAD REFUSED") && text.contains(reason), "{text}");
    }
    scene.reload_accepted(&good);
}

/// What `ip` and `tc` say of an interface of the gateway: the mode of its XDP program, and whether `xlb_tc` stands behind it.
fn attached(scene: &Scene, interface: &str) -> (Option<&'static str>, bool) {
    let link = scene
        .lab
        .gateway
        .ip(&format!("link show dev {interface}"))
        .expect("an interface");
    let mode = if link.contains("xdpgeneric") {
        Some("generic")
    } else {
        link.contains(" xdp ").then_some("native")
    };
    // The companion is a tcx program (Linux 6.6), or else a filter.
    let name = interface.to_owned();
    let tcx = scene
        .lab
        .gateway
        .run(move || SchedClassifier::query_tcx(&name, TcAttachType::Ingress));
    let tcx = tcx
        .expect("a namespace")
        .map(|(_, programs)| programs)
        .unwrap_or_default();
    let filters = scene
        .lab
        .gateway
        .command("tc")
        .args(["filter", "show", "dev", interface, "ingress"])
        .output();
    let filters = String::from_utf8_lossy(&filters.expect("tc").stdout).into_owned();
    let companion = tcx.iter().any(|program| program.name_as_str() == Some("xlb_tc")) || filters.contains("xlb_tc");
    (mode, companion)
}

#[test]
fn mode_of_an_interface_changes_both_ways_and_leaves_nothing_behind() {
    let scene = Scene::start(MATRIX[0]);
    for (cell, expected) in [
        (MATRIX[1], (Some("generic"), true)),
        (MATRIX[0], (Some("native"), false)),
    ] {
        scene.reload_accepted(&configuration(cell, &all_backends()));
        for interface in ["clients", "backends"] {
            assert_eq!(attached(&scene, interface), expected, "{cell}, {interface}");
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(scene.answered(protocol, 60).len(), 3, "{cell}");
        }
    }
}

/// Gives the gateway one more interface.
fn add_interface(scene: &Scene) -> u32 {
    let gateway = &scene.lab.gateway;
    gateway
        .ip("link add extra type veth peer name extra-peer")
        .expect("a pair of interfaces");
    gateway.ip("link set extra up").expect("an interface");
    gateway.interface_index("extra").expect("an index")
}

fn with_extra(mode: &str) -> String {
    configuration(MATRIX[0], &all_backends()).replace(
        "services:\n",
        &format!("  - {{name: extra, xdp_mode: {mode}}}\nservices:\n"),
    )
}

#[test]
fn interfaces_are_added_and_removed() {
    let scene = Scene::start(MATRIX[0]);
    let traffic = steady(&scene);
    let index = add_interface(&scene);
    let pin = |mode: &str| scene.gateway.pins().join(format!("xdp-{mode}-{index}"));
    for (mode, expected) in [
        ("native", (Some("native"), false)),
        ("generic", (Some("generic"), true)),
    ] {
        scene.reload_accepted(&with_extra(mode));
        assert_eq!(attached(&scene, "extra"), expected);
        assert!(Path::exists(&pin(mode)));
        scene.reload_accepted(&configuration(MATRIX[0], &all_backends()));
        assert_eq!(attached(&scene, "extra"), (None, false));
        assert!(!Path::exists(&pin(mode)));
    }
    // One that vanished is forgotten as soon as the file no longer names it.
    scene.reload_accepted(&with_extra("native"));
    scene.lab.gateway.ip("link delete extra").expect("the interface goes");
    scene.reload_accepted(&configuration(MATRIX[0], &all_backends()));
    assert!(!Path::exists(&pin("native")));
    // Another one takes its name.
    add_interface(&scene);
    scene.reload_accepted(&with_extra("native"));
    assert_eq!(attached(&scene, "extra"), (Some("native"), false));
    assert_none_failed(traffic);
}

#[test]
fn reload_that_meets_a_foreign_program_is_refused_and_taken_back() {
    let scene = Scene::start(MATRIX[0]);
    let traffic = steady(&scene);
    let index = add_interface(&scene);
    let foreign = RawProgram::pass().expect("a program");
    let _link = scene
        .lab
        .gateway
        .run(|| foreign.attach(index))
        .expect("a namespace")
        .expect("a link");
    let before = scene.status()["interfaces"].clone();
    for mode in ["auto", "native", "generic"] {
        // One that is new, and would be attached first, goes free again; the others would change their mode, and the service a
        // backend.
        let configuration = with_extra(mode)
            .replace(
                "  - {name: extra,",
                "  - {name: extra-peer, xdp_mode: generic}\n  - {name: extra,",
            )
            .replace("name: clients, xdp_mode: native", "name: clients, xdp_mode: generic")
            .replace(", \"10.4.0.13:8080\"", "");
        let refusal = scene.reload(&configuration).expect("a refusal");
        assert!(
            refusal.contains("extra already has an XDP program that is not xlb's"),
            "{refusal}"
        );
        assert_eq!(scene.status()["interfaces"], before);
        for interface in ["clients", "backends", "extra"] {
            assert_eq!(attached(&scene, interface), (Some("native"), false), "{interface}");
        }
        assert_eq!(attached(&scene, "extra-peer"), (None, false));
        assert_eq!(scene.answered(Protocol::Tcp, 60).len(), 3, "backend 3 is still in");
    }
    assert_none_failed(traffic);
}
