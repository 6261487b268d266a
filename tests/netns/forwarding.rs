//! Connections through the VIP.

use lb_tests::traffic::Protocol;

use crate::scene::{MATRIX_BOTH_FAMILIES, Scene};

#[test]
fn tcp_and_udp_are_spread_over_all_backends() {
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = Scene::start(cell);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let report = scene.client(protocol).requests(300, 10).expect("requests");
            assert_eq!(
                report.failures(),
                Default::default(),
                "{cell}, {protocol:?}: {}\n{}",
                scene.status()["verdicts"],
                scene.gateway.log()
            );
            let shares = report.by_backend();
            // A UDP port that the client's kernel gives out again goes where it went before, so the shares are not exact.
            let even = shares.len() == 3 && shares.values().all(|share| (80..=120).contains(share));
            assert!(even, "{cell}, {protocol:?}: {shares:?}");
            let seen = report.clients_seen();
            let keeps_client = seen.contains(&cell.family.client(1));
            assert_eq!(
                keeps_client,
                cell.forwarding == "nat",
                "{cell}, {protocol:?}: backends saw {seen:?}"
            );
        }
    }
}
