//! Clients in the backends' own network, and backends that are clients: their answers would not come back through the gateway by
//! themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_tests::{
    cell::{self, Service},
    names::Family,
    namespace::Namespace,
    topology::{Lab, LabOptions, Wiring},
    traffic::{
        Protocol,
        backend::{Backend, PORT},
        client::Client,
    },
};

use crate::scene::{Cell, MATRIX_BOTH_FAMILIES, SERVICE, Scene, patient};

/// One backend, in the network that the gateway has an address in.
fn start(cell: Cell) -> Scene {
    let options = LabOptions {
        ipv6: cell.family == Family::V6,
        wiring: Wiring::OnLink,
        ..LabOptions::default()
    };
    let lab = Lab::with(options).expect("a laboratory");
    let backend = format!("\"{}\"", SocketAddr::new(cell.family.backend(1), PORT));
    let service = Service {
        name: "web",
        port: SERVICE.1,
        health_check: "{type: tcp, interval: 300ms, timeout: 200ms, rise: 1}",
        backends: &[backend],
    };
    let servers = vec![Backend::start(&lab.backends[0], 1).expect("a backend")];
    let scene = Scene::without_backends(lab, cell.family, &cell::configuration(cell, &service));
    scene.wait_until_up(1);
    Scene {
        backends: servers,
        ..scene
    }
}

#[test]
fn backend_and_its_neighbour_reach_the_vip_by_a_translated_source() {
    const REQUESTS: usize = 50;
    let nat = |cell: &Cell| cell.forwarding == "nat";
    for cell in MATRIX_BOTH_FAMILIES.into_iter().filter(nat) {
        let scene = start(cell);
        let requests = |from: &Namespace, protocol| {
            let client = patient(Client::new(from, protocol, scene.service));
            let report = client.requests(REQUESTS, 10).expect("a client");
            assert_eq!(
                report.by_backend(),
                BTreeMap::from([(1, REQUESTS)]),
                "{cell}, {protocol:?} from {}: {report}\n{:?}",
                from.name(),
                scene.status()["verdicts"]
            );
            report.clients_seen()
        };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let before = scene.counted("source_translated");
            let far = requests(&scene.lab.clients[0], protocol);
            assert_eq!(far, BTreeSet::from([cell.family.client(1)]), "{cell}, {protocol:?}");
            assert_eq!(
                scene.counted("source_translated"),
                before,
                "{cell}, {protocol:?}: not needed"
            );

            // The second one is no backend.
            for host in &scene.lab.backends[..2] {
                let seen = requests(host, protocol);
                let gateway = cell.family.gateway_on_lan();
                assert_eq!(
                    seen,
                    BTreeSet::from([gateway]),
                    "{cell}, {protocol:?} from {}",
                    host.name()
                );
            }
            assert!(scene.counted("source_translated") > before, "{cell}, {protocol:?}");
        }
    }
}
