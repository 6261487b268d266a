//! A laboratory with backends and an agent, as most tests want it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lb_tests::{
    cell::{self, Service},
    gateway::Gateway,
    names::{Family, VIP},
    topology::{Lab, LabOptions},
    traffic::{Protocol, backend::Backend, client::Client},
    wait::{until, until_true},
};

pub(crate) use lb_tests::cell::{Cell, MATRIX, MATRIX_BOTH_FAMILIES};

/// How long a condition is waited for before a test gives up. No test takes this long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The listener of the test service over IPv4.
pub(crate) const SERVICE: (std::net::Ipv4Addr, u16) = (VIP, 80);

/// A running scene. Fields are dropped in order: the agent and its data plane, the backends, the namespaces.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    pub(crate) backends: Vec<Backend>,
    /// Where clients find the service.
    pub(crate) service: SocketAddr,
    pub(crate) lab: Lab,
}

/// A configuration with one service on port 80 of the VIP for these backends. It ends within the service, as
/// [`cell::configuration`] says.
pub(crate) fn configuration(cell: Cell, backends: &[SocketAddr]) -> String {
    let entries: Vec<String> = backends.iter().map(|backend| format!("\"{backend}\"")).collect();
    configuration_of(cell, &entries)
}

/// As [`configuration`], with backends written as in the file.
pub(crate) fn configuration_of(cell: Cell, backends: &[String]) -> String {
    let service = Service {
        name: "web",
        port: SERVICE.1,
        health_check: "{type: http, port: 8081, path: /healthz, interval: 300ms, timeout: 200ms, rise: 2, fall: 2}",
        backends,
    };
    cell::configuration(cell, &service)
}

/// The three backends of the laboratory, by their IPv4 addresses.
pub(crate) fn all_backends() -> Vec<SocketAddr> {
    backends_of(Family::V4)
}

/// The listener of the test service.
pub(crate) const fn service_of(family: Family) -> SocketAddr {
    SocketAddr::new(family.vip(), SERVICE.1)
}

/// A configuration with one service on port 80 of the VIP for port 8080 of the first backend, without health checks.
pub(crate) fn configuration_without_checks(cell: Cell) -> String {
    let backends = [format!("\"{}\"", SocketAddr::new(cell.family.backend(1), 8080))];
    let service = Service {
        name: "web",
        port: SERVICE.1,
        health_check: "{type: none}",
        backends: &backends,
    };
    cell::configuration(cell, &service)
}

/// A laboratory with three backends that has this family; IPv4 is always there.
pub(crate) fn lab_with(family: Family) -> Lab {
    let options = LabOptions {
        ipv6: family == Family::V6,
        ..LabOptions::default()
    };
    Lab::with(options).expect("a laboratory")
}

/// The three backends of the laboratory.
pub(crate) fn backends_of(family: Family) -> Vec<SocketAddr> {
    (1..=3)
        .map(|number| SocketAddr::new(family.backend(number), 8080))
        .collect()
}

impl Scene {
    /// Three backends that are up behind one service.
    pub(crate) fn start(cell: Cell) -> Self {
        let configuration = configuration(cell, &backends_of(cell.family));
        let scene = Self::start_over(cell.family, &configuration, |_| {});
        scene.wait_until_up(3);
        scene
    }

    /// Three running backends, changed by `prepare`, and an agent with this configuration, of IPv4 alone.
    pub(crate) fn start_with(configuration: &str, prepare: impl FnOnce(&mut [Backend])) -> Self {
        Self::start_over(Family::V4, configuration, prepare)
    }

    /// As [`Scene::start_with`], in a laboratory that has this family.
    fn start_over(family: Family, configuration: &str, prepare: impl FnOnce(&mut [Backend])) -> Self {
        let lab = lab_with(family);
        let mut backends = Backend::start_all(&lab.backends).expect("three backends");
        prepare(&mut backends);
        let without = Self::without_backends(lab, family, configuration);
        Self { backends, ..without }
    }

    /// An agent with this configuration in a given laboratory. The test brings its own servers: ordinary sockets of [`crate::sockets`].
    pub(crate) fn without_backends(lab: Lab, family: Family, configuration: &str) -> Self {
        let gateway = Gateway::start(&lab, configuration).expect("an agent");
        Self {
            gateway,
            backends: Vec::new(),
            service: service_of(family),
            lab,
        }
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
        Client::new(&self.lab.clients[0], protocol, self.service)
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
