//! Other ways to connect gateway and backends, without xlb.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::Result;
use lb_tests::{
    names::Family,
    namespace::Namespace,
    topology::{Lab, LabOptions, Wiring},
    traffic::{
        Protocol,
        backend::{Backend, PORT},
        client::Client,
    },
};

fn lab(wiring: Wiring) -> Result<Lab> {
    Lab::with(LabOptions {
        ipv6: true,
        wiring,
        ..LabOptions::default()
    })
}

/// The hop towards a destination, as the namespace's kernel would route it.
fn next_hop(namespace: &Namespace, destination: std::net::IpAddr) -> Result<String> {
    let route = namespace.ip(&format!("route get {destination}"))?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "via").skip(1);
    Ok(words.next().unwrap_or("on-link").to_owned())
}

#[test]
fn clients_and_backends_reach_each_other_however_they_are_wired() -> Result<()> {
    for wiring in [Wiring::OnLink, Wiring::DirectReturn] {
        let lab = lab(wiring)?;
        let _backends = Backend::start_all(&lab.backends)?;
        for family in Family::ALL {
            // From the clients' network, from the gateway, and from a neighbour of the backend.
            let gateway = family.gateway_on_lan();
            for (from, seen) in [
                (&lab.clients[0], family.client(1)),
                (&lab.gateway, gateway),
                (&lab.backends[2], family.backend(3)),
            ] {
                let client = Client::new(from, Protocol::Tcp, (family.backend(1), PORT));
                let report = client.requests(10, 10)?;
                assert_eq!(report.by_backend(), BTreeMap::from([(1, 10)]), "{wiring:?}: {report}");
                assert_eq!(report.clients_seen(), BTreeSet::from([seen]));
            }
            let way_back = match wiring {
                Wiring::OnLink => gateway,
                _ => family.backend_lan_router(),
            };
            assert_eq!(next_hop(&lab.backends[0], family.client(1))?, way_back.to_string());
            assert_eq!(next_hop(&lab.gateway, family.backend(1))?, "on-link");
        }
    }
    Ok(())
}

/// What `dsr` is to do, done by a route of the gateway: it hands packets for the VIP to a backend unchanged.
#[test]
fn backend_with_the_vip_answers_the_client_directly() -> Result<()> {
    let lab = Lab::with(LabOptions {
        ipv6: true,
        wiring: Wiring::DirectReturn,
        gateway_owns_vip: false,
        ..LabOptions::default()
    })?;
    for family in Family::ALL {
        let vip = SocketAddr::new(family.vip(), 80);
        lab.give_to_backends(vip.ip())?;
        lab.gateway
            .ip(&format!("route add {} via {}", vip.ip(), family.backend(2)))?;
        let _backends = [
            Backend::start(&lab.backends[0], 1)?,
            Backend::start_at(&lab.backends[1], 2, vip)?,
        ];
        let sent = |device: &str| packets_received(&lab.gateway, device);
        let before = sent("backends")?;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let report = Client::new(&lab.clients[0], protocol, vip).requests(100, 10)?;
            assert_eq!(report.by_backend(), BTreeMap::from([(2, 100)]), "{report}");
        }
        let returned = sent("backends")? - before;
        assert!(returned < 50, "{returned} packets came back through the gateway");
        lab.gateway.ip(&format!("route del {}", vip.ip()))?;
    }
    Ok(())
}

fn packets_received(namespace: &Namespace, device: &str) -> Result<u64> {
    let text = namespace.ip(&format!("-json -statistics link show dev {device}"))?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    Ok(links[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or(0))
}

#[test]
fn vip_on_a_loopback_is_not_announced() -> Result<()> {
    let lab = lab(Wiring::DirectReturn)?;
    // Were it on their network, a neighbour would ask for it.
    for family in Family::ALL {
        lab.give_to_backends(family.vip_2())?;
        lab.backend_router
            .ip(&format!("route add {} dev lan", family.vip_2()))?;
        let asked = Client::new(&lab.backend_router, Protocol::Tcp, (family.vip_2(), PORT)).requests(1, 1)?;
        assert_eq!(asked.failures().len(), 1, "{asked}");
        let neighbors = lab.backend_router.ip(&format!("neigh show to {}", family.vip_2()))?;
        assert!(!neighbors.contains("lladdr"), "{neighbors}");
    }
    Ok(())
}
