//! `services`, and `defaults` for them.

use std::sync::Arc;

use super::{
    super::{error::Invalid, file, path::Path, report::Report, shape::OneOrMany, values},
    Placed, backend, health_check, listener, not_yet,
};
use crate::model::{
    Backend, Echo, Forwarding, HealthCheck, Listener, Probe, Protocol, Scheduler, Service, WhenAllDown,
};

/// Keys that a service may take from `defaults`. What a service writes replaces the default's value whole.
#[derive(Clone, Default)]
pub(super) struct Options {
    protocols: Option<Vec<Protocol>>,
    forwarding: Option<Forwarding>,
    scheduler: Option<Scheduler>,
    /// `Some(None)`: switched off.
    health_check: Option<Option<HealthCheck>>,
    when_all_down: Option<WhenAllDown>,
    echo: Option<Echo>,
}

/// A service with the places of what can clash with other services.
pub(super) struct Draft {
    pub(super) at: Path,
    pub(super) name: Option<Arc<str>>,
    pub(super) listeners: Vec<Placed<Listener>>,
    pub(super) backends: Vec<Placed<Backend>>,
    options: Options,
}

impl Draft {
    /// Who answers echo requests to its VIPs.
    pub(super) fn echo(&self) -> Echo {
        self.options.echo.unwrap_or_default()
    }

    /// Without the places.
    pub(super) fn into_service(self) -> Service {
        let echo = self.echo();
        Service {
            name: self.name.unwrap_or_default(),
            listeners: self.listeners.into_iter().map(|listener| listener.value).collect(),
            forwarding: self.options.forwarding.unwrap_or(Forwarding::Nat),
            scheduler: self.options.scheduler.unwrap_or(Scheduler::Maglev),
            health_check: self.options.health_check.unwrap_or_default(),
            when_all_down: self.options.when_all_down.unwrap_or_default(),
            echo,
            backends: self.backends.into_iter().map(|backend| backend.value).collect(),
        }
    }
}

/// Reads the mapping `defaults`.
pub(super) fn read_defaults(report: &mut Report<'_>, at: &Path, defaults: &file::Service) -> Options {
    let own = [
        ("name", defaults.name.is_some()),
        ("listen", defaults.listen.is_some()),
        ("backends", defaults.backends.is_some()),
    ];
    for (key, _) in own.into_iter().filter(|(_, present)| *present) {
        let invalid = Invalid::new("cannot be a default", "write it in each service");
        report.error_at_key(&at.key(key), invalid);
    }
    read_options(report, at, defaults)
}

/// Reads one element of `services`.
pub(super) fn read(report: &mut Report<'_>, at: &Path, service: &file::Service, defaults: Option<&Options>) -> Draft {
    let name_at = at.key("name");
    if service.name.is_none() {
        report.missing(&name_at, "the service's name", "name: web");
    }
    let name = report.read(&name_at, service.name.as_ref(), |name| {
        values::name(name).map(Arc::from)
    });

    let own = read_options(report, at, service);
    let defaults = defaults.cloned().unwrap_or_default();
    let protocols = own
        .protocols
        .or(defaults.protocols)
        .unwrap_or_else(|| vec![Protocol::Tcp]);
    let health_check = own.health_check.or(defaults.health_check);
    let check_at = at.key("health_check");
    let health_check = settle_health_check(report, &check_at, health_check, &protocols);
    let forwarding = own.forwarding.or(defaults.forwarding).unwrap_or(Forwarding::Nat);

    let listeners = listener::read_all(report, &at.key("listen"), service.listen.as_ref(), &protocols);
    let expected = backend::Expected::by(&listeners, forwarding);
    let backends = backend::read_all(report, &at.key("backends"), service.backends.as_ref(), expected);
    if let Some(check) = &health_check {
        check_probed_port(report, &check_at, check, &protocols, &backends);
    }
    Draft {
        at: at.clone(),
        name,
        listeners: listeners.placed,
        backends,
        options: Options {
            protocols: None,
            forwarding: Some(forwarding),
            scheduler: own.scheduler.or(defaults.scheduler),
            health_check: Some(health_check),
            when_all_down: own.when_all_down.or(defaults.when_all_down),
            echo: own.echo.or(defaults.echo),
        },
    }
}

fn read_options(report: &mut Report<'_>, at: &Path, service: &file::Service) -> Options {
    not_yet::refuse(report, at, service);
    let forwarding = [
        ("nat", Some(Forwarding::Nat)),
        ("full_nat", Some(Forwarding::FullNat)),
        ("dsr", Some(Forwarding::Dsr)),
    ];
    let schedulers = [
        ("round_robin", Some(Scheduler::RoundRobin)),
        ("random", Some(Scheduler::Random)),
        ("source_hash", Some(Scheduler::SourceHash)),
        ("maglev", Some(Scheduler::Maglev)),
        ("least_connections", None),
        ("least_latency", None),
    ];
    let when_all_down = [
        ("forward_to_all", Some(WhenAllDown::ForwardToAll)),
        ("drop", Some(WhenAllDown::Drop)),
        ("reject", None),
    ];
    let echo = [
        ("auto", Some(Echo::Auto)),
        ("on", Some(Echo::On)),
        ("off", Some(Echo::Off)),
    ];
    let check = service.health_check.as_ref();
    Options {
        protocols: read_protocols(report, &at.key("protocol"), service.protocol.as_ref()),
        forwarding: report.read(
            &at.key("forwarding"),
            service.forwarding.as_ref(),
            values::word(&forwarding),
        ),
        scheduler: report.read(
            &at.key("scheduler"),
            service.scheduler.as_ref(),
            values::word(&schedulers),
        ),
        health_check: check.map(|check| health_check::read(report, &at.key("health_check"), check)),
        when_all_down: report.read(
            &at.key("when_all_down"),
            service.when_all_down.as_ref(),
            values::word(&when_all_down),
        ),
        echo: report.read(&at.key("echo"), service.echo.as_ref(), values::word(&echo)),
    }
}

fn read_protocols(report: &mut Report<'_>, at: &Path, written: Option<&OneOrMany>) -> Option<Vec<Protocol>> {
    let words = [("tcp", Some(Protocol::Tcp)), ("udp", Some(Protocol::Udp))];
    let word = values::word(&words);
    let list = match written? {
        OneOrMany::One(value) => return report.read(at, Some(value), word).map(|protocol| vec![protocol]),
        OneOrMany::Many(list) => list,
    };
    if list.0.is_empty() {
        report.error(at, Invalid::new("the list is empty", "expected tcp, udp or [tcp, udp]"));
    }
    let mut protocols = Vec::new();
    report.each(at, list, |report, at, value| {
        let once = |value: &_| match word(value)? {
            protocol if protocols.contains(&protocol) => Err(Invalid::new(
                format!("{protocol} is listed twice"),
                "list each protocol once",
            )),
            protocol => Ok(protocol),
        };
        protocols.extend(report.read(at, Some(value), once));
    });
    // Where something is wrong, the one that is usual keeps the rest of the checks going.
    Some(protocols).filter(|protocols| !protocols.is_empty())
}

/// The check that is used, given the one that is written. A UDP port that answers no TCP connection is no sign of a dead
/// backend, so a service of UDP alone has a check only if one is written.
fn settle_health_check(
    report: &mut Report<'_>,
    at: &Path,
    written: Option<Option<HealthCheck>>,
    protocols: &[Protocol],
) -> Option<HealthCheck> {
    let udp_only = !protocols.contains(&Protocol::Tcp);
    match written {
        None if udp_only => {
            let message = "a service of udp alone has no check by default: its backends always count as healthy";
            let remedy = "add a check of a tcp port, like `health_check: {type: tcp, port: 8081}`, or `{type: none}`";
            report.warn(at, Invalid::new(message, remedy));
            None
        }
        None => Some(health_check::default()),
        Some(check) => check,
    }
}

/// Checks that there is something to probe behind the backend's own port, where the check at `at` names no other.
fn check_probed_port(
    report: &mut Report<'_>,
    at: &Path,
    check: &HealthCheck,
    protocols: &[Protocol],
    backends: &[Placed<Backend>],
) {
    if check.port.is_some() {
        return;
    }
    if backends.iter().any(|backend| backend.value.address.port() == 0) {
        let message = "the port to probe is missing: the backends keep the client's and have none of their own";
        let remedy = "add it, like `health_check: {port: 8081}`, or switch checks off with `{type: none}`";
        report.error(&at.key("port"), Invalid::new(message, remedy));
    } else if !protocols.contains(&Protocol::Tcp) {
        let kind = if check.probe == Probe::Tcp { "tcp" } else { "http" };
        let message = format!("the {kind} check asks the backend's port, which serves udp");
        report.warn(at, Invalid::new(message, "add the `port` to check, or `type: none`"));
    }
}
