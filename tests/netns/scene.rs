//! A laboratory with backends and an agent, as most tests want it.

use std::{fmt, net::SocketAddr};

use lb_tests::{
    gateway::Gateway,
    names::{BACKEND_1, BACKEND_2, BACKEND_3, VIP},
    topology::Lab,
    traffic::{Protocol, backend::Backend, client::Client},
};

/// The listener of the test service.
pub const SERVICE: (std::net::Ipv4Addr, u16) = (VIP, 80);

/// One cell of the test matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// `nat` or `full_nat`.
    pub forwarding: &'static str,
    /// `native` or `generic`.
    pub mode: &'static str,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.forwarding, self.mode)
    }
}

/// Both forwarding modes in both attach modes.
pub const MATRIX: [Cell; 4] = [
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
pub struct Scene {
    pub gateway: Gateway,
    pub backends: Vec<Backend>,
    pub lab: Lab,
}

/// A configuration with one service on [`SERVICE`] for these backends.
pub fn configuration(cell: Cell, backends: &[SocketAddr]) -> String {
    let backends: Vec<String> = backends.iter().map(|backend| format!("\"{backend}\"")).collect();
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
pub fn all_backends() -> Vec<SocketAddr> {
    [BACKEND_1, BACKEND_2, BACKEND_3]
        .map(|address| SocketAddr::from((address, 8080)))
        .to_vec()
}

impl Scene {
    /// Three backends that are up behind one service.
    pub fn start(cell: Cell) -> Self {
        let lab = Lab::start().expect("a laboratory");
        let backends = Backend::start_all(&lab.backends).expect("three backends");
        let gateway = Gateway::start(&lab, &configuration(cell, &all_backends())).expect("an agent");
        let mut scene = Self { gateway, backends, lab };
        scene.wait_until_up(3);
        scene
    }

    /// Waits until this many backends take connections.
    #[track_caller]
    pub fn wait_until_up(&mut self, count: usize) {
        self.gateway
            .wait_backends_up(count)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.gateway.log()));
    }

    /// The first client, asking the service.
    pub fn client(&self, protocol: Protocol) -> Client {
        Client::new(&self.lab.clients[0], protocol, SERVICE)
    }
}
