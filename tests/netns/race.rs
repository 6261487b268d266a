//! The same flow on two CPUs at once, over real interfaces. `tests/packet/race.rs` shows the same on the program alone, with an audit
//! of the table.

use std::collections::BTreeSet;

use lb_tests::traffic::race::{Race, race_first_packets};

use crate::scene::{MATRIX_BOTH_FAMILIES, Scene};

#[test]
fn first_packets_of_a_flow_on_two_cpus_reach_one_backend() {
    // In generic mode each CPU runs the program for what it sends; in native mode the queue that both packets hash to decides.
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = Scene::start(cell);
        let before = connections(&scene);
        let ports = 20_000..=20_299;
        let races = race_first_packets(&scene.lab.clients[0], cell.family.client(1), ports, scene.service);
        let races = races.expect("two cpus");
        for race in &races {
            let backends: BTreeSet<u32> = race.answers.iter().map(|answer| answer.backend).collect();
            assert_eq!(backends.len(), 1, "{cell}: one backend for one flow: {race:?}");
            assert_eq!(race.answers.len(), 2, "{cell}: neither packet is lost: {race:?}");
            let clients: BTreeSet<_> = race.answers.iter().map(|answer| answer.client).collect();
            assert_eq!(clients.len(), 1, "{cell}: one translation for one flow: {race:?}");
        }
        assert_eq!(
            connections(&scene) - before,
            races.len() as u64,
            "{cell}: each flow is counted as one connection, by its backend"
        );
        assert_eq!(scene.counted("vanished"), 0, "{cell}");
        skip_unless_overlapped(&races);
    }
}

/// Connections made, over all backends.
fn connections(scene: &Scene) -> u64 {
    let backends = scene.gateway.backends().expect("backends");
    backends
        .iter()
        .filter_map(|backend| backend["traffic"]["connections"].as_u64())
        .sum()
}

/// As the kernel's own test of clashing conntrack entries does: without an overlap nothing was shown.
fn skip_unless_overlapped(races: &[Race]) {
    let overlapped = races.iter().filter(|race| race.overlapped).count();
    if overlapped == 0 {
        eprintln!(
            "skipped: the two senders never overlapped in {} flows; is this a busy machine?",
            races.len()
        );
    }
}
