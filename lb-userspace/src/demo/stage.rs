//! What the demo plays on: a laboratory, three backends, an agent.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    counters::Counters,
    gateway::Gateway,
    leftovers::Instance,
    names,
    topology::Lab,
    traffic::{
        Protocol,
        backend::{self, Backend, ServeCommand},
        client::Client,
        report::Report,
    },
    wait::until,
};
use tokio::runtime::{self, Runtime};

use super::{Options, interrupt::Interrupt};
use crate::api::{self, status::Status};

/// The subcommand of this binary that serves as a backend.
pub(crate) const BACKEND_COMMAND: &str = "demo-backend";

/// What clients dial.
pub(super) const SERVICE: (Ipv4Addr, u16) = (names::VIP, 80);

/// The health check of the demo: often enough that nobody waits for it.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_millis(400);
pub(super) const RISE: u32 = 2;
pub(super) const FALL: u32 = 2;

/// Requests of a client at the same time.
const CONCURRENCY: usize = 16;
/// How long to wait for what takes a second or two.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that runs. Fields are dropped in order: the agent and its data plane, the backends, the namespaces.
pub(super) struct Stage {
    pub(super) gateway: Gateway,
    pub(super) backends: Vec<Backend>,
    pub(super) lab: Lab,
    interrupt: Interrupt,
    runtime: Runtime,
}

/// Within this time a dead backend is taken out: the contract of a health check.
pub(super) fn bound() -> Duration {
    INTERVAL * FALL + TIMEOUT
}

/// The bound as a calculation.
pub(super) fn bound_in_words() -> String {
    format!(
        "interval x fall + timeout = {INTERVAL:?} x {FALL} + {TIMEOUT:?} = {:?}",
        bound()
    )
}

impl Stage {
    /// Starts backends and agent in a laboratory.
    pub(super) fn start(lab: Lab, options: Options, interrupt: &Interrupt) -> Result<Self> {
        let binary = env::current_exe().context("cannot find the path of this program")?;
        let command = ServeCommand {
            program: binary.clone(),
            subcommand: BACKEND_COMMAND,
        };
        let backends = (1..)
            .zip(&lab.backends)
            .map(|(id, namespace)| Backend::start_with(namespace, id, command.clone()))
            .collect::<Result<Vec<_>>>()?;
        let gateway = Gateway::start_binary(&lab, binary, &configuration(options, backends.len()))?;
        Ok(Self {
            gateway,
            backends,
            lab,
            interrupt: interrupt.clone(),
            runtime: runtime::Builder::new_current_thread().enable_all().build()?,
        })
    }

    /// The name of the laboratory.
    pub(super) const fn instance(&self) -> Instance {
        self.lab.instance()
    }

    /// Asks the agent.
    pub(super) fn status(&self) -> Result<Status> {
        Ok(self.runtime.block_on(api::client::status(&self.gateway.socket()))?)
    }

    /// Waits until exactly these backends, by number, take connections.
    pub(super) fn wait_taking_connections(&self, wanted: &[u32]) -> Result<()> {
        let what = format!("backends {wanted:?}, and no others, to take connections");
        until(&what, PATIENCE, || {
            if self.interrupt.is_set() {
                return Ok(Some(()));
            }
            let status = self.status()?;
            let backends = status.services.iter().flat_map(|service| &service.backends);
            let taking: Vec<u32> = (1..)
                .zip(backends)
                .filter(|(_, backend)| backend.takes_connections)
                .map(|(number, _)| number)
                .collect();
            ensure!(taking == wanted, "{taking:?} do");
            Ok(Some(()))
        })
        .inspect_err(|_| eprint!("log of the agent:\n{}", self.gateway.log()))?;
        self.interrupt.check()
    }

    /// What `xlb status` prints.
    pub(super) fn printed_status(&self) -> Result<String> {
        let mut command = self.gateway.command(["status", "--socket"]);
        let output = command.arg(self.gateway.socket()).output()?;
        ensure!(
            output.status.success(),
            "xlb status: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A client of the service.
    pub(super) fn client(&self, protocol: Protocol) -> Client {
        Client::new(&self.lab.clients[0], protocol, SERVICE)
    }

    /// Makes at least `count` requests, spread over all clients, one client after the other.
    pub(super) fn requests(&self, protocol: Protocol, count: usize) -> Result<Report> {
        let mut sum = Report::default();
        let each = count.div_ceil(self.lab.clients.len());
        for namespace in &self.lab.clients {
            self.interrupt.check()?;
            let report = Client::new(namespace, protocol, SERVICE).requests(each, CONCURRENCY)?;
            sum.exchanges.extend(report.exchanges);
        }
        Ok(sum)
    }

    /// Packets with a wrong checksum that the kernels of the laboratory have noticed.
    pub(super) fn checksum_errors(&self) -> Result<i64> {
        let count = |namespace| Ok(Counters::of(namespace)?.checksum_errors());
        self.lab.namespaces().map(count).sum()
    }
}

/// The agent's file.
fn configuration(options: Options, backends: usize) -> String {
    let Options { forwarding, mode, .. } = options;
    let backends: Vec<String> = (1..)
        .take(backends)
        .map(|number| SocketAddr::from((names::backend(number), backend::PORT)).to_string())
        .collect();
    format!(
        "interfaces:
  - {{name: {}, xdp_mode: {mode}}}
  - {{name: {}, xdp_mode: {mode}}}
services:
  - name: web
    listen: {}:{}
    protocol: [tcp, udp]
    forwarding: {forwarding}
    scheduler: round_robin
    health_check:
      type: http
      port: {}
      path: /healthz
      interval: {INTERVAL:?}
      timeout: {TIMEOUT:?}
      rise: {RISE}
      fall: {FALL}
    backends: [{}]
",
        names::TO_CLIENTS,
        names::TO_BACKENDS,
        SERVICE.0,
        SERVICE.1,
        backend::HEALTH_PORT,
        backends
            .iter()
            .map(|backend| format!("{backend:?}"))
            .collect::<Vec<_>>()
            .join(", ")
    )
}
