//! A laboratory with backends and an agent, as most tests want it.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use lb_tests::{
    gateway::Gateway,
    names::{BACKEND_1, BACKEND_2, BACKEND_3, VIP},
    topology::Lab,
    traffic::{Protocol, backend::Backend, client::Client},
    wait::{until, until_true},
};

/// How long a condition is waited for before a test gives up. No test takes this long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The listener of the test service.
pub(crate) const SERVICE: (std::net::Ipv4Addr, u16) = (VIP, 80);

/// One cell of the test matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// `nat` or `full_nat`.
    pub(crate) forwarding: &'static str,
    /// `native` or `generic`.
    pub(crate) mode: &'static str,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.forwarding, self.mode)
    }
}

/// Both forwarding modes in both attach modes.
pub(crate) const MATRIX: [Cell; 4] = [
    Cell {
        forwarding: "nat",
        mode: "native",
    },
    Cell {
        forwarding: "nat",
        mode: "generic",
    },
    Cell {
        forwarding: "full_nat",
        mode: "native",
    },
    Cell {
        forwarding: "full_nat",
        mode: "generic",
    },
];

/// A running scene. Fields are dropped in order: the agent and its data plane, the backends, the namespaces.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    pub(crate) backends: Vec<Backend>,
    pub(crate) lab: Lab,
}

/// A configuration with one service on [`SERVICE`] for these backends. It ends within the service: what is appended with four
/// spaces in front is a key of it, without any a key of the file.
pub(crate) fn configuration(cell: Cell, backends: &[SocketAddr]) -> String {
    let entries: Vec<String> = backends.iter().map(|backend| format!("\"{backend}\"")).collect();
    configuration_of(cell, &entries)
}

/// As [`configuration`], with backends written as in the file.
pub(crate) fn configuration_of(cell: Cell, backends: &[String]) -> String {
    let Cell { forwarding, mode } = cell;
    format!(
        "interfaces:
  - {{name: clients, xdp_mode: {mode}}}
  - {{name: backends, xdp_mode: {mode}}}
services:
  - name: web
    listen: {}:{}
    protocol: [tcp, udp]
    forwarding: {forwarding}
    scheduler: round_robin
    health_check: {{type: http, port: 8081, path: /healthz, interval: 300ms, timeout: 200ms, rise: 2, fall: 2}}
    backends: [{}]
",
        SERVICE.0,
        SERVICE.1,
        backends.join(", ")
    )
}

/// The three backends of the laboratory.
pub(crate) fn all_backends() -> Vec<SocketAddr> {
    [BACKEND_1, BACKEND_2, BACKEND_3]
        .map(|address| SocketAddr::from((address, 8080)))
        .to_vec()
}

impl Scene {
    /// Three backends that are up behind one service.
    pub(crate) fn start(cell: Cell) -> Self {
        let scene = Self::start_with(&configuration(cell, &all_backends()), |_| {});
        scene.wait_until_up(3);
        scene
    }

    /// Three running backends, changed by `prepare`, and an agent with this configuration.
    pub(crate) fn start_with(configuration: &str, prepare: impl FnOnce(&mut [Backend])) -> Self {
        let lab = Lab::start().expect("a laboratory");
        let mut backends = Backend::start_all(&lab.backends).expect("three backends");
        prepare(&mut backends);
        let gateway = Gateway::start(&lab, configuration).expect("an agent");
        Self { gateway, backends, lab }
    }

    /// Waits until this many backends take connections.
    #[track_caller]
    pub(crate) fn wait_until_up(&self, count: usize) {
        self.gateway.wait_backends_up(count).expect("backends that are up");
    }

    /// Waits until this many backends have this health.
    #[track_caller]
    pub(crate) fn wait_for_health(&self, health: &str, count: usize) {
        until(&format!("{count} backends {health}"), PATIENCE, || {
            let backends = self.gateway.backends()?;
            let matching = backends.iter().filter(|backend| backend["health"] == health).count();
            Ok((matching == count).then_some(()))
        })
        .expect("backends of this health");
    }

    /// Replaces the configuration, has the agent read it and waits for the outcome: the reason if it was refused.
    #[track_caller]
    pub(crate) fn reload(&self, configuration: &str) -> Option<String> {
        let outcomes = |log: String| log.matches("reloaded config=").count() + log.matches("reload refused").count();
        let before = outcomes(self.gateway.log());
        self.gateway.configure(configuration).expect("a file");
        self.gateway.reload().expect("a running agent");
        until_true("outcome of the reload", PATIENCE, || {
            outcomes(self.gateway.log()) > before
        })
        .expect("a reload");
        let reload = &self.status()["agent"]["last_reload"];
        assert!(reload.is_object(), "the status shows the reload");
        reload["error"].as_str().map(str::to_owned)
    }

    /// Replaces the configuration by one that must be accepted.
    #[track_caller]
    pub(crate) fn reload_accepted(&self, configuration: &str) {
        assert_eq!(self.reload(configuration), None, "the reload is accepted");
    }

    /// What `xlb status --json` prints.
    #[track_caller]
    pub(crate) fn status(&self) -> serde_json::Value {
        self.gateway.status().expect("a status")
    }

    /// Packets counted under a reason.
    #[track_caller]
    pub(crate) fn counted(&self, reason: &str) -> u64 {
        let status = self.status();
        let verdicts = status["verdicts"].as_array().expect("a list of verdicts");
        let matching = verdicts.iter().filter(|verdict| verdict["reason"] == reason);
        matching.filter_map(|verdict| verdict["packets"].as_u64()).sum()
    }

    /// The first client, asking the service.
    pub(crate) fn client(&self, protocol: Protocol) -> Client {
        Client::new(&self.lab.clients[0], protocol, SERVICE)
    }

    /// Makes requests that must all be answered; returns the number of answers by backend.
    #[track_caller]
    pub(crate) fn answered(&self, protocol: Protocol, requests: usize) -> BTreeMap<u32, usize> {
        let report = patient(self.client(protocol)).requests(requests, 10).expect("a client");
        assert_eq!(report.failures(), BTreeMap::new(), "{protocol:?}: {report}");
        report.by_backend()
    }
}

/// A client that waits so long that only a packet which is lost for good, or a connection refused, is a failure.
pub(crate) fn patient(client: Client) -> Client {
    Client {
        timeout: Duration::from_secs(5),
        ..client
    }
}
