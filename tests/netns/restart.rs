//! The agent dies, stops, and comes back, while 200 connections live on and new ones are made all the time.

use std::{collections::BTreeMap, path::Path, time::Duration};

use aya::programs::links::{FdLink, PinnedLink};
use lb_tests::{
    gateway::Gateway,
    names::{TO_BACKENDS, TO_CLIENTS},
    traffic::{
        Protocol,
        client::SteadyRequests,
        long_flows::{LongFlows, Problem},
    },
    wait::until_true,
};

use crate::scene::{Cell, MATRIX, PATIENCE, SERVICE, Scene, all_backends, configuration, patient};

/// Connections that live through the whole test.
const LONG: usize = 200;

/// The kernel's ids of the XDP link of an interface and of the program in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    link: u32,
    program: u32,
}

/// The pinned links, by file name.
fn links(pins: &Path) -> BTreeMap<String, Link> {
    let entries = std::fs::read_dir(pins).expect("a pin directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    names
        .filter(|name| name.starts_with("xdp-"))
        .map(|name| {
            let pin = PinnedLink::from_pin(pins.join(&name)).expect("a link");
            let info = FdLink::from(pin).info().expect("its description");
            let link = Link {
                link: info.id(),
                program: info.program_id(),
            };
            (name, link)
        })
        .collect()
}

/// How often the gateway's interfaces lost or found their carrier.
fn carrier_changes(scene: &Scene) -> Vec<u64> {
    let read = |interface: &str| {
        let text = scene.lab.gateway.ip(&format!("-s -s -j link show dev {interface}"));
        let links: serde_json::Value = serde_json::from_str(&text.expect("an interface")).expect("JSON of ip");
        links[0]["stats64"]["tx"]["carrier_changes"]
            .as_u64()
            .expect("a count of carrier changes")
    };
    [TO_CLIENTS, TO_BACKENDS].map(read).to_vec()
}

/// Whether the running agent took over what it found.
fn has_adopted(scene: &Scene) -> bool {
    scene.status()["agent"]["adopted"] == true
}

/// New connections, TCP and UDP, work and reach exactly these backends.
#[track_caller]
fn assert_served_by(scene: &Scene, backends: &[u32]) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let shares = scene.answered(protocol, 100);
        assert_eq!(shares.keys().copied().collect::<Vec<_>>(), backends, "{protocol:?}");
    }
}

/// Whatever happened to the agent between two looks: each interface has the link it had, with another program in it.
#[track_caller]
fn assert_replaced_in_place(before: &BTreeMap<String, Link>, after: &BTreeMap<String, Link>) {
    let ids = |links: &BTreeMap<String, Link>| -> Vec<(String, u32)> {
        links.iter().map(|(name, link)| (name.clone(), link.link)).collect()
    };
    assert_eq!(ids(after), ids(before), "the links are the same");
    for (name, link) in after {
        assert_ne!(
            link.program, before[name].program,
            "{name}: the new agent's program is in it"
        );
    }
}

fn agent_comes_and_goes_unnoticed(cell: Cell) {
    let mut scene = Scene::start(cell);
    let long = LongFlows::start(&patient(scene.client(Protocol::Tcp)), LONG).expect("long connections");
    let steady = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        let client = patient(lb_tests::traffic::client::Client::new(
            &scene.lab.clients[1],
            protocol,
            SERVICE,
        ));
        SteadyRequests::start(&client, Duration::from_millis(20))
    });
    let carrier = carrier_changes(&scene);
    let before = links(scene.gateway.pins());
    assert_eq!(before.len(), 2, "{before:?}");

    scene.gateway.kill9().expect("the agent dies");
    assert_eq!(links(scene.gateway.pins()), before, "nobody but the agent died");
    assert_served_by(&scene, &[1, 2, 3]);

    scene.gateway.launch().expect("an agent");
    assert!(has_adopted(&scene), "after kill -9");
    let again = links(scene.gateway.pins());
    assert_replaced_in_place(&before, &again);
    // At once: the new agent knows from the maps who is up.
    assert_served_by(&scene, &[1, 2, 3]);
    scene.wait_until_up(3);

    let status = scene.gateway.terminate().expect("the agent ends");
    assert!(status.success(), "{status}");
    says_that_it_goes_on_forwarding(&scene.gateway);
    assert_served_by(&scene, &[1, 2, 3]);

    // Meanwhile somebody has taken backend 3 out of the file.
    let changed = configuration(cell, &all_backends()[..2]);
    scene.gateway.configure(&changed).expect("a file");
    scene.gateway.launch().expect("an agent");
    assert!(has_adopted(&scene), "after SIGTERM");
    assert_replaced_in_place(&again, &links(scene.gateway.pins()));
    scene.wait_until_up(2);
    assert_served_by(&scene, &[1, 2]);
    assert_eq!(carrier_changes(&scene), carrier, "carrier changes");

    let long = long.stop().expect("long connections");
    let hurt = long
        .problems()
        .filter(|(_, problem)| !matches!(problem, Problem::Gap(_)));
    assert_eq!(hurt.count(), 0, "{cell}: {long}");
    assert_eq!(long.by_backend().values().sum::<usize>(), LONG, "{cell}: {long}");
    assert!(
        long.by_backend().contains_key(&3),
        "{cell}: those of the removed backend live on: {long}"
    );
    for requests in steady {
        // However fast the agent came and went, there must have been requests enough to notice.
        until_true("20 requests", PATIENCE, || requests.so_far().exchanges.len() >= 20).expect("requests");
        let report = requests.stop().expect("requests");
        assert_eq!(report.failures(), BTreeMap::new(), "{cell}: {report}");
        assert!(report.exchanges.len() >= 20, "{cell}: {report}");
    }
}

#[track_caller]
fn says_that_it_goes_on_forwarding(gateway: &Gateway) {
    let log = gateway.log();
    let last = log.lines().last().expect("a log");
    assert!(
        last.contains("the data plane goes on forwarding") && last.contains("xlb detach"),
        "the last word of the agent: {last}"
    );
}

#[test]
fn agent_comes_and_goes_unnoticed_with_nat() {
    agent_comes_and_goes_unnoticed(MATRIX[0]);
}

#[test]
fn agent_comes_and_goes_unnoticed_with_full_nat() {
    agent_comes_and_goes_unnoticed(MATRIX[2]);
}

#[test]
fn agent_comes_and_goes_unnoticed_in_generic_mode() {
    agent_comes_and_goes_unnoticed(MATRIX[1]);
}

#[test]
fn backend_that_died_with_the_agent_is_found_out_by_the_next_one() {
    let mut scene = Scene::start(MATRIX[0]);
    scene.gateway.kill9().expect("the agent dies");
    scene.backends[0].kill9().expect("backend 1 dies");
    scene.gateway.launch().expect("an agent");
    scene.wait_until_up(2);
    until_true("backend 1 is left alone", PATIENCE, || {
        let report = scene.client(Protocol::Tcp).requests(30, 10).expect("a client");
        report.failures().is_empty() && !report.by_backend().contains_key(&1)
    })
    .expect("backend 1 is left alone");
}
