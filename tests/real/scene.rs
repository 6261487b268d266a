//! A laboratory around real programs, and the account of what its kernels and the program saw.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use lb_tests::{
    cell,
    counters::Counters,
    gateway::Gateway,
    names::{Family, TO_BACKENDS, TO_CLIENTS},
    namespace::Namespace,
    offloads::{self, Offloads},
    topology::{Lab, LabOptions},
};
use serde_json::Value;

pub(crate) use lb_tests::cell::{Cell, MATRIX_MIXED as MATRIX};

/// Errors that no packet of a test may cause, in any namespace: damaged packets, and fragments.
const ERRORS: [&str; 14] = [
    "TcpInCsumErrors",
    "UdpInCsumErrors",
    "IcmpInCsumErrors",
    "IpExtInCsumErrors",
    "IpInHdrErrors",
    "IpExtInTruncatedPkts",
    "IpReasmReqds",
    "IpFragCreates",
    "Udp6InCsumErrors",
    "Icmp6InCsumErrors",
    "Ip6InHdrErrors",
    "Ip6InTruncatedPkts",
    "Ip6ReasmReqds",
    "Ip6FragCreates",
];

/// What the program may have decided in a test: everything was forwarded, but for what was never meant to be.
const EXPECTED_REASONS: [&str; 8] = [
    "forward",
    "reply",
    // An ICMP error about a datagram that was still under way when its run had ended.
    "icmp_error",
    // ARP.
    "not_ip",
    // What ARP is in IPv6, and reports of multicast groups.
    "not_tcp_or_udp",
    "not_unicast",
    // Answers to the agent's health checks.
    "no_listener",
    // In generic mode: taken up again, and then forwarded, at the tc hook.
    "left_to_tc",
];

/// Bulk transfers of two tests at once would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A laboratory with a running agent and `servers` in the backends' namespaces. Fields are dropped in order.
pub(crate) struct Scene<S> {
    cell: Cell,
    pub(crate) gateway: Gateway,
    pub(crate) servers: S,
    pub(crate) lab: Lab,
    counters: Vec<Counters>,
    offloads: Vec<Offloads>,
    _turn: MutexGuard<'static, ()>,
}

impl<S> Scene<S> {
    /// Starts a laboratory, the servers, and an agent with one service, TCP and UDP, and waits until all its backends are up.
    pub(crate) fn start(cell: Cell, service: &Service, servers: impl FnOnce(&Lab) -> Result<S>) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::with(LabOptions {
            ipv6: cell.family == Family::V6,
            ..LabOptions::default()
        });
        let lab = lab.expect("a laboratory");
        let (counters, offloads) = (counters(&lab), all_offloads(&lab));
        let servers = servers(&lab).expect("servers in the backends' namespaces");
        let gateway = Gateway::start(&lab, &configuration(cell, service)).expect("an agent");
        gateway
            .wait_backends_up(service.backends.len())
            .with_context(|| cell.to_string())
            .expect("backends that are up");
        Self {
            cell,
            gateway,
            servers,
            lab,
            counters,
            offloads,
            _turn: turn,
        }
    }

    /// States that no namespace saw a damaged packet, that the program forwarded everything it should, and that the devices were left
    /// as they are by default.
    pub(crate) fn assert_nothing_went_wrong(&self) {
        let cell = self.cell;
        for ((namespace, before), after) in self.lab.namespaces().zip(&self.counters).zip(counters(&self.lab)) {
            for name in ERRORS {
                assert!(after.get(name).is_some(), "this kernel does not count {name}");
            }
            let changes = after.since(before);
            let errors: Vec<_> = changes.iter().filter(|(name, _)| ERRORS.contains(name)).collect();
            assert!(errors.is_empty(), "{cell}: {errors:?} in {}", namespace.name());
        }
        let verdicts = self.verdicts();
        let unexpected: Vec<_> = verdicts
            .keys()
            .filter(|reason| !EXPECTED_REASONS.contains(&reason.as_str()))
            .collect();
        assert!(unexpected.is_empty(), "{cell}: {verdicts:?}");
        self.assert_unfinished_checksums_took_their_way(&verdicts);
        assert_eq!(
            all_offloads(&self.lab),
            self.offloads,
            "{cell}: offloads, and as they were before"
        );
    }

    /// States that both attach modes met what they are made for: in generic mode the packets of sockets come unfinished and take their
    /// way through tc, all but a few that the kernel sends without a socket (resets, answers in `TIME_WAIT`); in native mode none do.
    fn assert_unfinished_checksums_took_their_way(&self, verdicts: &BTreeMap<String, u64>) {
        let count = |reason: &str| verdicts.get(reason).copied().unwrap_or(0);
        let mut expected = 0;
        if self.cell.clients == "generic" {
            expected += count("forward");
        }
        if self.cell.backends == "generic" {
            expected += count("reply") + count("no_listener");
        }
        let as_expected = (expected * 9 / 10..=expected).contains(&count("left_to_tc"));
        assert!(
            as_expected,
            "{}: about {expected} should be left to tc: {verdicts:?}",
            self.cell
        );
    }

    /// How many packets the program decided upon, by reason.
    pub(crate) fn verdicts(&self) -> BTreeMap<String, u64> {
        let status = self.gateway.status().expect("a status");
        let verdicts = status["verdicts"].as_array().expect("verdicts");
        let entry = |verdict: &Value| Some((verdict["reason"].as_str()?.to_owned(), verdict["packets"].as_u64()?));
        verdicts.iter().filter_map(entry).collect()
    }

    /// How much a counter has grown since the start, over all namespaces.
    pub(crate) fn growth(&self, counter: &str) -> i64 {
        let changes = self
            .counters
            .iter()
            .zip(counters(&self.lab))
            .map(|(before, after)| after.since(before));
        changes.filter_map(|changes| changes.get(counter)).sum()
    }

    /// Average length of the IP packets that were forwarded, in bytes: from the clients, and from the backends.
    pub(crate) fn average_lengths(&self) -> (u64, u64) {
        let status = self.gateway.status().expect("a status");
        let traffic = &status["services"][0]["traffic"];
        let count = |name: &str| traffic[name].as_u64().expect("a counter");
        (
            count("forward_bytes") / count("forward_packets").max(1),
            count("reply_bytes") / count("reply_packets").max(1),
        )
    }
}

/// The service of a scene.
pub(crate) struct Service {
    /// Port of the listener.
    pub(crate) port: u16,
    /// The backends.
    pub(crate) backends: Vec<SocketAddr>,
    /// The health check, as YAML.
    pub(crate) health_check: &'static str,
}

fn configuration(cell: Cell, service: &Service) -> String {
    let backends: Vec<String> = service
        .backends
        .iter()
        .map(|backend| format!("\"{backend}\""))
        .collect();
    let service = cell::Service {
        name: "real",
        port: service.port,
        health_check: service.health_check,
        backends: &backends,
    };
    cell::configuration(cell, &service)
}

fn counters(lab: &Lab) -> Vec<Counters> {
    lab.namespaces()
        .map(|namespace| Counters::of(namespace).expect("counters"))
        .collect()
}

/// The offloads of the senders, which must be on for the tests to mean anything, and of the gateway.
fn all_offloads(lab: &Lab) -> Vec<Offloads> {
    let of = |namespace: &Namespace, device: &str| offloads::of(namespace, device).expect("offloads");
    let senders: Vec<_> = lab
        .clients
        .iter()
        .chain(&lab.backends)
        .map(|sender| of(sender, "eth0"))
        .collect();
    for offloads in &senders {
        assert!(offloads.values().all(|on| *on), "a sender's offloads: {offloads:?}");
    }
    let gateway = [TO_CLIENTS, TO_BACKENDS].map(|device| of(&lab.gateway, device));
    senders.into_iter().chain(gateway).collect()
}
