//! Bulk TCP and UDP by iperf3. How fast it goes is printed, not judged: the figures are those of the machine.

use anyhow::{Context as _, Result};
use lb_tests::{offloads, topology::Lab};

use crate::{
    iperf3::{self, Run},
    scene::{Cell, MATRIX, Scene, Service},
};

/// A scene with one backend, since control connection and data must meet the same server.
fn start(cell: Cell, prepare: impl FnOnce(&Lab) -> Result<()>) -> Scene<()> {
    let service = Service {
        port: iperf3::PORT,
        backends: vec![(cell.family.backend(1), iperf3::PORT).into()],
        // A probe would take the server's only place for a control connection.
        health_check: "{type: none}",
    };
    Scene::start(cell, &service, prepare)
}

/// States that TCP and UDP get through in both directions, and prints how fast.
fn assert_traffic_flows_both_ways(cell: Cell, scene: &Scene<()>) {
    for run in [Run::TcpUp, Run::TcpDown, Run::UdpUp, Run::UdpDown] {
        assert_traffic_flows(cell, scene, run);
    }
    scene.assert_nothing_went_wrong();
}

/// States that this run gets through, and prints how fast.
fn assert_traffic_flows(cell: Cell, scene: &Scene<()>, run: Run) {
    let too_late = || scene.growth("UdpRcvbufErrors") + scene.growth("Udp6RcvbufErrors");
    let before = too_late();
    let measured = iperf3::measure(&scene.lab, cell.family, run);
    let measured = measured
        .with_context(|| format!("{cell}, {run:?}"))
        .expect("a run of iperf3");
    println!("{cell}, {run:?}: {measured}");

    assert!(measured.bytes > 0, "{cell}, {run:?}: {measured}");
    // Queues overflow where one machine plays all parts, but that is rare.
    let segments = measured.bytes / 1448;
    assert!(measured.retransmits <= segments / 50, "{cell}, {run:?}: {measured}");
    // Not lost on the way: datagrams that arrived while the receiving process had no time for them.
    let lost = measured.lost.saturating_sub((too_late() - before).unsigned_abs());
    assert!(
        lost <= measured.datagrams / 100,
        "{cell}, {run:?}: {lost} of {measured}"
    );
}

#[test]
fn fragmented_datagrams_flow_both_ways() {
    for cell in MATRIX {
        let scene = start(cell, |_| Ok(()));
        for run in [Run::FragmentsUp, Run::FragmentsDown] {
            assert_traffic_flows(cell, &scene, run);
        }
        for counter in ["UdpInCsumErrors", "Udp6InCsumErrors", "TcpInCsumErrors"] {
            assert_eq!(scene.growth(counter), 0, "{cell}: {counter}");
        }
        let verdicts = scene.verdicts();
        for reason in ["fragment", "fragment_conflict", "fragment_lost", "vanished"] {
            assert_eq!(verdicts.get(reason), None, "{cell}: {verdicts:?}");
        }
    }
}

#[test]
fn bulk_traffic_flows_both_ways() {
    for cell in MATRIX {
        let scene = start(cell, |_| Ok(()));
        assert_traffic_flows_both_ways(cell, &scene);
        // Packets that are longer than any frame came and went uncut, or did not come at all.
        let (forward, reply) = scene.average_lengths();
        println!("{cell}: average packet of {forward} B up, {reply} B down");
        assert_eq!(
            forward > 1500,
            cell.clients == "generic",
            "{cell}: {forward} B from clients"
        );
        assert_eq!(
            reply > 1500,
            cell.backends == "generic",
            "{cell}: {reply} B from backends"
        );
    }
}

/// Between namespaces nobody need ever finish a checksum, and then nobody notices that it was wrong. Here it has to be done, as by any
/// network card on a real wire, just before the packets reach the hosts.
#[test]
fn receivers_find_every_checksum_right_behind_cards_without_offloads() {
    // In native mode it is done by the program already.
    let leaves_some_unfinished = |cell: &Cell| [cell.clients, cell.backends].contains(&"generic");
    for cell in MATRIX.into_iter().filter(leaves_some_unfinished) {
        let scene = start(cell, |lab| {
            offloads::switch_off(&lab.client_router, "client1")?;
            offloads::switch_off(&lab.backend_router, "backend1")
        });
        assert_traffic_flows_both_ways(cell, &scene);
    }
}
