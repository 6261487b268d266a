//! `dsr`: backends that own the VIP and answer the client past the gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_tests::{
    cell::{self, Service},
    names::Family,
    topology::{Lab, LabOptions, Wiring},
    traffic::{Protocol, backend::Backend, client::Client, long_flows::LongFlows},
};

use crate::scene::{Cell, MATRIX_BOTH_FAMILIES, Scene, patient, service_of};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// `dsr` over both families, in both attach modes.
fn cells() -> impl Iterator<Item = Cell> {
    let nat = MATRIX_BOTH_FAMILIES.into_iter().filter(|cell| cell.forwarding == "nat");
    nat.map(|cell| Cell {
        forwarding: "dsr",
        ..cell
    })
}

/// Three backends with the VIP on their loopbacks, which listen there alone.
fn start(cell: Cell) -> Scene {
    let family = cell.family;
    let options = LabOptions {
        ipv6: family == Family::V6,
        wiring: Wiring::DirectReturn,
        ..LabOptions::default()
    };
    let lab = Lab::with(options).expect("a laboratory");
    lab.give_to_backends(family.vip()).expect("a vip on every loopback");
    let service = service_of(family);
    let at_vip = |(namespace, id)| Backend::start_at(namespace, id, service).expect("a backend");
    let servers = lab.backends.iter().zip(1..).map(at_vip).collect();
    let backends = [1, 2, 3].map(|number| format!("\"{}\"", SocketAddr::new(family.backend(number), service.port())));
    let service = Service {
        name: "web",
        port: service.port(),
        health_check: "{type: http, port: 8081, path: /healthz, interval: 300ms, timeout: 200ms, rise: 2, fall: 2}",
        backends: &backends,
    };
    let scene = Scene::without_backends(lab, family, &cell::configuration(cell, &service));
    scene.wait_until_up(3);
    Scene {
        backends: servers,
        ..scene
    }
}

#[test]
fn answers_come_from_the_vip_past_the_gateway() {
    for cell in cells() {
        let scene = start(cell);
        for protocol in BOTH {
            let report = patient(scene.client(protocol)).requests(150, 10).expect("a client");
            assert_eq!(report.failures(), BTreeMap::new(), "{cell}, {protocol:?}: {report}");
            assert_eq!(report.by_backend().len(), 3, "{cell}, {protocol:?}: {report}");
            assert_eq!(
                report.clients_seen(),
                BTreeSet::from([cell.family.client(1)]),
                "{cell}, {protocol:?}"
            );
        }
        let verdicts = scene.status()["verdicts"].clone();
        assert!(scene.counted("forward") >= 300, "{cell}: {verdicts}");
        assert_eq!(scene.counted("reply"), 0, "{cell}: {verdicts}");
    }
}

#[test]
fn connections_outlive_the_agent() {
    for cell in cells() {
        let mut scene = start(cell);
        let long = LongFlows::start(&patient(scene.client(Protocol::Tcp)), 30).expect("long connections");
        scene.gateway.kill9().expect("a running agent");
        let second = Client::new(&scene.lab.clients[1], Protocol::Tcp, scene.service);
        for protocol in BOTH {
            let client = patient(Client {
                protocol,
                ..second.clone()
            });
            let report = client.requests(60, 10).expect("a client");
            assert_eq!(
                report.failures(),
                BTreeMap::new(),
                "{cell}, {protocol:?}: without an agent"
            );
        }
        scene.gateway.launch().expect("an agent that takes over");
        assert_eq!(scene.status()["agent"]["adopted"], true, "{cell}");
        scene.wait_until_up(3);
        scene.answered(Protocol::Tcp, 60);
        let report = long.stop().expect("long connections");
        assert_eq!(report.broken(), 0, "{cell}: {report}");
        assert_eq!(report.by_backend().values().sum::<usize>(), 30, "{cell}: {report}");
    }
}

#[test]
fn backend_whose_health_check_fails_is_taken_out() {
    for cell in cells() {
        let scene = start(cell);
        scene.backends[1].set_healthy(false).expect("backend 2 runs");
        scene.wait_until_up(2);
        for protocol in BOTH {
            let shares = scene.answered(protocol, 60);
            assert_eq!(shares.into_keys().collect::<Vec<_>>(), [1, 3], "{cell}, {protocol:?}");
        }
    }
}
