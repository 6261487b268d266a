//! The demo from beginning to end, and what must hold in each act.

use std::{
    collections::BTreeSet,
    fmt::Display,
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_tests::{
    names,
    topology::Lab,
    traffic::{
        Protocol, backend,
        client::SteadyRequests,
        long_flows::{FlowsReport, LongFlows, Problem},
        report::Report,
    },
    wait::until_true,
};

use super::{
    Forwarding, Options,
    interrupt::Interrupt,
    screen::Screen,
    stage::{self, SERVICE, Stage},
    summary::{Outage, Recovery, Requests, Summary},
};

/// Requests of each protocol while all is well.
const REQUESTS: usize = 1_000;
/// Requests of each protocol after each change, beside the steady ones.
const REQUESTS_AFTER: usize = 300;
/// From one steady request of a protocol to the next.
const PAUSE: Duration = Duration::from_millis(5);
/// Steady requests of each protocol before anything happens.
const REQUESTS_BEFORE: usize = 50;
/// Connections that stay open while the backend dies.
const OPEN_CONNECTIONS: usize = 30;
/// The backend that dies.
const VICTIM: u32 = 2;

/// A demo under way.
pub(super) struct Play<'a> {
    pub(super) options: Options,
    pub(super) interrupt: Interrupt,
    pub(super) screen: &'a mut Screen,
    pub(super) summary: &'a mut Summary,
}

impl Play<'_> {
    /// All acts. What they made is removed when this returns.
    pub(super) fn play(&mut self) -> Result<()> {
        let mut stage = self.set_up()?;
        self.balance(&stage)?;
        self.kill(&mut stage)?;
        self.bring_back(&mut stage)?;
        let errors = stage.checksum_errors()?;
        self.summary.checksum_errors = Some(errors);
        self.claim(
            errors == 0,
            format_args!("packets with a wrong checksum seen by any kernel here: {errors}"),
        )
    }

    fn set_up(&mut self) -> Result<Stage> {
        self.screen.heading(&format!(
            "Set-up: forwarding {}, XDP {}",
            self.options.forwarding, self.options.mode
        ))?;
        let started = Instant::now();
        let lab = Lab::start()?;
        self.summary.laboratory = Some(lab.instance());
        self.summary.backends = lab.backends.len();
        self.interrupt.check()?;
        let stage = Stage::start(lab, self.options, &self.interrupt)?;
        self.screen.text(topology(&stage))?;
        self.claim(
            true,
            format_args!(
                "{} network namespaces and an agent, in {}",
                stage.lab.namespaces().count(),
                seconds(started.elapsed())
            ),
        )?;

        let started = Instant::now();
        let all: Vec<u32> = stage.backends.iter().map(backend::Backend::id).collect();
        stage.wait_taking_connections(&all)?;
        self.claim(
            true,
            format_args!(
                "{} backends take connections after {}: their first {} checks passed",
                all.len(),
                seconds(started.elapsed()),
                stage::RISE
            ),
        )?;
        Ok(stage)
    }

    fn balance(&mut self, stage: &Stage) -> Result<()> {
        self.screen
            .heading("Traffic through the VIP, by ordinary sockets with offloads at their defaults")?;
        let tcp = stage.requests(Protocol::Tcp, REQUESTS)?;
        self.served(&tcp, "TCP connections", &[1, 2, 3])?;
        self.summary.tcp = Some(Requests::from(&tcp));
        let udp = stage.requests(Protocol::Udp, REQUESTS)?;
        self.served(&udp, "UDP exchanges", &[1, 2, 3])?;
        self.summary.udp = Some(Requests::from(&udp));

        let seen: BTreeSet<IpAddr> = tcp.clients_seen().union(&udp.clients_seen()).copied().collect();
        let (whose, expected) = match self.options.forwarding {
            Forwarding::Nat => ("the clients' own addresses", vec![names::CLIENT, names::CLIENT_2]),
            Forwarding::FullNat => ("an address of the gateway", vec![names::GATEWAY_TO_BACKENDS]),
        };
        let is_expected = seen == expected.into_iter().map(IpAddr::from).collect();
        let seen: Vec<String> = seen.iter().map(ToString::to_string).collect();
        self.claim(is_expected, format_args!("backends see {whose}: {}", seen.join(", ")))
    }

    fn kill(&mut self, stage: &mut Stage) -> Result<()> {
        self.screen.heading(&format!("Backend {VICTIM} dies"))?;
        let open = LongFlows::start(&stage.client(Protocol::Tcp), OPEN_CONNECTIONS)?;
        let steady = Steady::start(stage);
        steady.wait_for(REQUESTS_BEFORE)?;
        self.interrupt.check()?;

        let killed = Instant::now();
        victim(stage)?.kill9()?;
        self.screen.note(format_args!(
            "kill -9 of its process, with {OPEN_CONNECTIONS} connections open and {} new requests a second",
            2 * Duration::from_secs(1).as_millis() / PAUSE.as_millis()
        ))?;
        let others: Vec<u32> = self.others();
        stage.wait_taking_connections(&others)?;
        let taken_out = killed.elapsed();
        let bound = stage::bound();
        self.claim(
            taken_out <= bound,
            format_args!(
                "taken out after {}; allowed: {}",
                milliseconds(taken_out),
                stage::bound_in_words()
            ),
        )?;
        self.screen.quote(&stage.printed_status()?)?;

        // What began before the end of the time that is allowed may fail.
        thread::sleep(bound.saturating_sub(killed.elapsed()));
        let mut after = stage.requests(Protocol::Tcp, REQUESTS_AFTER)?;
        after
            .exchanges
            .extend(stage.requests(Protocol::Udp, REQUESTS_AFTER)?.exchanges);
        let (steady, open) = (steady.stop()?, open.stop()?);
        self.interrupt.check()?;
        after.exchanges.extend(steady.since(killed + bound).exchanges);

        let last_failure = last_failure(&steady, killed, bound);
        let failed = Requests::from(&steady).failed - Requests::from(&steady.since(killed + bound)).failed;
        self.screen.note(format_args!(
            "{failed} requests to it failed{}",
            last_failure.map_or_else(String::new, |last| format!(
                ", the last of them begun {} after the kill",
                milliseconds(last)
            ))
        ))?;
        self.served(&after, "requests after the allowed time", &others)?;
        let (kept, broken) = bystanders(&open);
        self.claim(
            kept > 0 && broken == 0,
            format_args!("{kept} open connections to the other backends went on, {broken} broke"),
        )?;
        self.summary.outage = Some(Outage {
            backend: VICTIM,
            bound_milliseconds: bound.as_millis(),
            taken_out_milliseconds: taken_out.as_millis(),
            failed_within_bound: failed,
            last_failure_milliseconds: last_failure.map(|last| last.as_millis()),
            after: Requests::from(&after),
            open_connections: kept + broken,
            broken_connections: broken,
        });
        Ok(())
    }

    fn bring_back(&mut self, stage: &mut Stage) -> Result<()> {
        self.screen.heading(&format!("Backend {VICTIM} comes back"))?;
        let steady = Steady::start(stage);
        victim(stage)?.launch()?;
        let launched = Instant::now();
        stage.wait_taking_connections(&[1, 2, 3])?;
        let back = launched.elapsed();
        self.claim(
            true,
            format_args!(
                "takes connections {} after its start: {} checks passed",
                milliseconds(back),
                stage::RISE
            ),
        )?;
        let mut report = stage.requests(Protocol::Tcp, REQUESTS_AFTER)?;
        report
            .exchanges
            .extend(stage.requests(Protocol::Udp, REQUESTS_AFTER)?.exchanges);
        let steady = steady.stop()?;
        self.interrupt.check()?;
        self.served(&report, "requests to all backends again", &[1, 2, 3])?;
        let failed = Requests::from(&steady).failed;
        self.claim(
            failed == 0,
            format_args!(
                "{} requests made while it came back, {failed} failed",
                steady.exchanges.len()
            ),
        )?;
        report.exchanges.extend(steady.exchanges);
        self.summary.recovery = Some(Recovery {
            milliseconds: back.as_millis(),
            requests: Requests::from(&report),
        });
        Ok(())
    }

    /// The last act: looks for what is left of the laboratory, once it is removed.
    pub(super) fn look_for_traces(&mut self) -> Result<()> {
        let Some(instance) = self.summary.laboratory else {
            self.summary.cleaned_up = true;
            return Ok(());
        };
        let traces = instance.traces();
        self.summary.cleaned_up = traces.is_empty();
        let listed: Vec<String> = traces.iter().map(|path| path.display().to_string()).collect();
        if !listed.is_empty() {
            self.summary
                .failures
                .push(format!("left behind: {}", listed.join(", ")));
        }
        self.screen.heading("Clean-up")?;
        self.screen.claim(
            traces.is_empty(),
            if traces.is_empty() {
                "namespaces, processes, pins and files are gone".to_owned()
            } else {
                format!("left behind: {}", listed.join(", "))
            },
        )?;
        Ok(())
    }

    /// Shows who answered, and claims that all requests were answered, by all of these backends evenly and by no others.
    fn served(&mut self, report: &Report, what: &str, by: &[u32]) -> Result<()> {
        let requests = Requests::from(report);
        self.claim(
            requests.failed == 0,
            format_args!("{} {what}, {} failed", requests.total, requests.failed),
        )?;
        for (reason, times) in report.failures() {
            self.screen.note(format_args!("{times} x {reason}"))?;
        }
        self.screen.distribution(&requests.by_backend, self.summary.backends)?;
        if is_even(&requests, by) {
            return Ok(());
        }
        self.claim(
            false,
            format_args!("backends {by:?} should have had equal shares of them"),
        )
    }

    /// Shows whether something holds that must, and remembers it if it does not.
    fn claim(&mut self, holds: bool, claim: impl Display) -> Result<()> {
        self.screen.claim(holds, &claim)?;
        if !holds {
            self.summary.failures.push(claim.to_string());
        }
        Ok(())
    }

    /// The backends that live on.
    fn others(&self) -> Vec<u32> {
        (1..)
            .take(self.summary.backends)
            .filter(|number| *number != VICTIM)
            .collect()
    }
}

/// New requests of both protocols all the time.
struct Steady([SteadyRequests; 2]);

impl Steady {
    fn start(stage: &Stage) -> Self {
        Self([Protocol::Tcp, Protocol::Udp].map(|protocol| SteadyRequests::start(&stage.client(protocol), PAUSE)))
    }

    /// Waits until this many requests of each protocol have ended.
    fn wait_for(&self, count: usize) -> Result<()> {
        until_true("steady traffic", Duration::from_secs(10), || {
            self.0.iter().all(|steady| steady.so_far().exchanges.len() >= count)
        })
    }

    fn stop(self) -> Result<Report> {
        let mut sum = Report::default();
        for steady in self.0 {
            sum.exchanges.extend(steady.stop()?.exchanges);
        }
        Ok(sum)
    }
}

fn victim(stage: &mut Stage) -> Result<&mut backend::Backend> {
    stage
        .backends
        .iter_mut()
        .find(|backend| backend.id() == VICTIM)
        .context("the laboratory has too few backends")
}

/// Whether these backends have had about equal shares, and no other any. Not exactly equal: a UDP port that a client's kernel gives
/// out a second time leads where it led before.
fn is_even(requests: &Requests, by: &[u32]) -> bool {
    let answered = requests.total - requests.failed;
    requests.by_backend.keys().eq(by)
        && requests
            .by_backend
            .values()
            .all(|share| (answered * 8..=answered * 12).contains(&(share * by.len() * 10)))
}

/// Counts connections to other backends than the dead one: those that went on, and those that broke.
fn bystanders(open: &FlowsReport) -> (usize, usize) {
    let others = open.flows.iter().filter(|flow| flow.backend != Some(VICTIM));
    let (broken, kept): (Vec<_>, Vec<_>) = others.partition(|flow| {
        let is_end = |problem: &Problem| matches!(problem, Problem::Broken(_));
        flow.problems.iter().any(|(_, problem)| is_end(problem))
    });
    (kept.len(), broken.len())
}

/// How long after the kill the last request began that failed, of those begun within the bound.
fn last_failure(report: &Report, killed: Instant, bound: Duration) -> Option<Duration> {
    let failed = report.exchanges.iter().filter(|exchange| exchange.outcome.is_err());
    let begun = failed.map(|exchange| exchange.started.saturating_duration_since(killed));
    begun.filter(|begun| *begun < bound).max()
}

/// Who is where, and how to look at it.
fn topology(stage: &Stage) -> String {
    let instance = stage.instance();
    let namespaces: Vec<&str> = stage
        .lab
        .namespaces()
        .filter_map(|namespace| namespace.name().strip_prefix(&instance.namespace_name("")))
        .collect();
    let (vip, port) = SERVICE;
    let gateway = format!("VIP {vip}:{port}");
    format!(
        "
  client 1  {:<10} --+                                                +-- backend 1  {}
                         +-- router -- {:^22} -- router --+-- backend 2  {}
  client 2  {:<10} --+             {:^22}             +-- backend 3  {}

  Each of them is a network namespace; nothing else of this machine is touched. To look inside meanwhile:
    nsenter --net={}
    xlb status --socket {}
  Namespaces of {instance}: {}
",
        names::CLIENT.to_string(),
        names::BACKEND_1,
        "gateway with xlb",
        names::BACKEND_2,
        names::CLIENT_2.to_string(),
        gateway,
        names::BACKEND_3,
        Path::new("/run/netns")
            .join(instance.namespace_name("gateway"))
            .display(),
        stage.gateway.socket().display(),
        namespaces.join(" ")
    )
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
