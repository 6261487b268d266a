//! The kernel's own balancer beside xlb: clients must not be able to tell them apart.
//!
//! IPVS with masquerading does what `forwarding: nat` does. Each conversation of [`crate::conversation`] is held through one and then
//! through the other, in equal laboratories; what client and server saw must be equal, byte by byte and error by error.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    gateway::Gateway,
    names,
    topology::Lab,
    traffic::{Protocol, backend::Backend, client::Client},
};

use crate::conversation::{Conversation, Outcome, PATIENCE, SCRIPTS};

/// The laboratory's addresses of one internet protocol. All else here is the same for each.
#[derive(Clone, Copy)]
struct Family {
    vip: IpAddr,
    backends: [IpAddr; 3],
}

const FAMILIES: [Family; 1] = [Family {
    vip: IpAddr::V4(names::VIP),
    backends: [
        IpAddr::V4(names::BACKEND_1),
        IpAddr::V4(names::BACKEND_2),
        IpAddr::V4(names::BACKEND_3),
    ],
}];

/// A port that clients see, and the backends' port behind it.
const SERVICE: (u16, u16) = (80, 8080);

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Balancer {
    Ipvs,
    /// xlb with this `xdp_mode`.
    Xlb(&'static str),
}

/// A balancer at work. The agent goes before the laboratory.
struct Scene {
    _agent: Option<Gateway>,
    lab: Lab,
}

impl Scene {
    fn start(balancer: Balancer, family: Family, backends: usize) -> Result<Self> {
        let lab = Lab::start()?;
        let backends = &family.backends[..backends];
        let agent = match balancer {
            Balancer::Ipvs => {
                ipvs(&lab, family.vip, backends)?;
                None
            }
            Balancer::Xlb(mode) => {
                let agent = Gateway::start(&lab, &configuration(mode, family.vip, backends))?;
                agent.wait_backends_up(backends.len())?;
                Some(agent)
            }
        };
        Ok(Self { _agent: agent, lab })
    }
}

/// Sets IPVS up in the gateway: round robin and masquerading, which are xlb's `round_robin` and `nat`.
fn ipvs(lab: &Lab, vip: IpAddr, backends: &[IpAddr]) -> Result<()> {
    let (port, backend_port) = SERVICE;
    let service = SocketAddr::new(vip, port).to_string();
    for protocol in ["-t", "-u"] {
        ipvsadm(lab, &["-A", protocol, &service, "-s", "rr"])?;
        for backend in backends {
            let backend = SocketAddr::new(*backend, backend_port).to_string();
            ipvsadm(lab, &["-a", protocol, &service, "-r", &backend, "-m"])?;
        }
    }
    Ok(())
}

fn ipvsadm(lab: &Lab, arguments: &[&str]) -> Result<()> {
    let output = lab.gateway.command("ipvsadm").args(arguments).output();
    let output = output.context("cannot run ipvsadm; `cargo xtask test kernels` brings it into its guests")?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ipvsadm {}: {message}", arguments.join(" "));
    Ok(())
}

fn configuration(mode: &str, vip: IpAddr, backends: &[IpAddr]) -> String {
    let (port, backend_port) = SERVICE;
    let backends: Vec<String> = backends
        .iter()
        .map(|backend| format!("\"{}\"", SocketAddr::new(*backend, backend_port)))
        .collect();
    format!(
        "interfaces:
  - {{name: clients, xdp_mode: {mode}}}
  - {{name: backends, xdp_mode: {mode}}}
services:
  - name: web
    listen: \"{}\"
    protocol: [tcp, udp]
    forwarding: nat
    scheduler: round_robin
    health_check: {{type: none}}
    backends: [{}]
",
        SocketAddr::new(vip, port),
        backends.join(", ")
    )
}

/// All conversations through a balancer with one backend, so that it is known whom the client talks to.
fn conversations(balancer: Balancer, family: Family) -> Vec<(&'static str, Outcome)> {
    let scene = Scene::start(balancer, family, 1).expect("a balancer");
    let (port, backend_port) = SERVICE;
    let between = Conversation {
        client: &scene.lab.clients[0],
        server: &scene.lab.backends[0],
        to: SocketAddr::new(family.vip, port),
        at: SocketAddr::new(family.backends[0], backend_port),
    };
    SCRIPTS
        .iter()
        .map(|script| (script.name, between.hold(script).expect(script.name)))
        .collect()
}

#[test]
fn conversations_are_the_same_as_through_ipvs() {
    for family in FAMILIES {
        let expected = conversations(Balancer::Ipvs, family);
        for mode in ["native", "generic"] {
            let actual = conversations(Balancer::Xlb(mode), family);
            for ((name, actual), (_, expected)) in actual.iter().zip(&expected) {
                assert_eq!(actual, expected, "{name}, {mode}: left through xlb, right through IPVS");
            }
        }
    }
}

/// What clients can see of the choice of backends.
#[derive(Debug, PartialEq, Eq)]
struct Spread {
    answered_by: BTreeSet<u32>,
    /// The clients' addresses, as the backends see them.
    clients: BTreeSet<IpAddr>,
    failures: BTreeMap<String, usize>,
}

/// Over TCP and over UDP.
fn spread(balancer: Balancer, family: Family) -> [Spread; 2] {
    let scene = Scene::start(balancer, family, 3).expect("a balancer");
    let _backends = Backend::start_all(&scene.lab.backends).expect("backends");
    [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        let to = SocketAddr::new(family.vip, SERVICE.0);
        let client = Client {
            timeout: PATIENCE,
            ..Client::new(&scene.lab.clients[0], protocol, to)
        };
        let report = client.requests(60, 4).expect("a client");
        Spread {
            answered_by: report.by_backend().into_keys().collect(),
            clients: report.clients_seen(),
            failures: report.failures(),
        }
    })
}

#[test]
fn requests_are_spread_as_by_ipvs() {
    for family in FAMILIES {
        let expected = spread(Balancer::Ipvs, family);
        let balances = expected.iter().all(|spread| spread.answered_by.len() == 3);
        assert!(balances, "IPVS: {expected:?}");
        assert_eq!(spread(Balancer::Xlb("native"), family), expected);
    }
}
