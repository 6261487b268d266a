//! `services`, and `defaults` for them.

use std::{net::SocketAddr, sync::Arc};

use super::{
    super::{
        address::{self, Endpoint, Ports},
        error::Invalid,
        file,
        path::Path,
        report::Report,
        shape::{List, OneOrMany, Scalar},
        values::{self, Parsed},
    },
    Placed,
    backend::{self, Families},
    health_check, not_yet,
};
use crate::model::{Backend, Forwarding, HealthCheck, Listener, Probe, Protocol, Scheduler, Service, WhenAllDown};

/// Keys that a service may take from `defaults`. What a service writes replaces the default's value whole.
#[derive(Clone, Default)]
pub(super) struct Options {
    protocols: Option<Vec<Protocol>>,
    forwarding: Option<Forwarding>,
    scheduler: Option<Scheduler>,
    /// `Some(None)`: switched off.
    health_check: Option<Option<HealthCheck>>,
    when_all_down: Option<WhenAllDown>,
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
    /// Without the places.
    pub(super) fn into_service(self) -> Service {
        Service {
            name: self.name.unwrap_or_default(),
            listeners: self.listeners.into_iter().map(|listener| listener.value).collect(),
            forwarding: self.options.forwarding.unwrap_or(Forwarding::Nat),
            scheduler: self.options.scheduler.unwrap_or(Scheduler::Maglev),
            health_check: self.options.health_check.unwrap_or_default(),
            when_all_down: self.options.when_all_down.unwrap_or_default(),
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
    let health_check = settle_health_check(report, &at.key("health_check"), health_check, &protocols);

    let (listeners, families) = read_listeners(report, &at.key("listen"), service.listen.as_ref(), &protocols);
    let backends = backend::read_all(report, &at.key("backends"), service.backends.as_ref(), families);
    Draft {
        at: at.clone(),
        name,
        listeners,
        backends,
        options: Options {
            protocols: None,
            forwarding: own.forwarding.or(defaults.forwarding),
            scheduler: own.scheduler.or(defaults.scheduler),
            health_check: Some(health_check),
            when_all_down: own.when_all_down.or(defaults.when_all_down),
        },
    }
}

fn read_options(report: &mut Report<'_>, at: &Path, service: &file::Service) -> Options {
    not_yet::refuse(report, at, service);
    let forwarding = [
        ("nat", Some(Forwarding::Nat)),
        ("full_nat", Some(Forwarding::FullNat)),
        ("dsr", None),
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
        Some(Some(check)) if udp_only && check.port.is_none() => {
            let kind = if check.probe == Probe::Tcp { "tcp" } else { "http" };
            let message = format!("the {kind} check asks the backend's port, which serves udp");
            report.warn(at, Invalid::new(message, "add the `port` to check, or `type: none`"));
            Some(check)
        }
        Some(check) => check,
    }
}

/// The listeners, and the families of all that is written, supported or not.
fn read_listeners(
    report: &mut Report<'_>,
    at: &Path,
    listen: Option<&OneOrMany>,
    protocols: &[Protocol],
) -> (Vec<Placed<Listener>>, Families) {
    let mut listeners = Vec::new();
    let mut families = Families::default();
    let mut read = |report: &mut Report<'_>, at: &Path, value: &Scalar| {
        let Some(endpoint) = report.read(at, Some(value), address::endpoint) else {
            return;
        };
        families.ipv4 |= endpoint.ip.is_ipv4();
        families.ipv6 |= endpoint.ip.is_ipv6();
        let Some(address) = report.read(at, Some(value), |value| listener_address(value, &endpoint)) else {
            return;
        };
        for protocol in protocols.iter().copied() {
            listeners.push(Placed {
                value: Listener { address, protocol },
                at: at.clone(),
            });
        }
    };
    match listen {
        Some(OneOrMany::One(value)) => read(report, at, value),
        Some(OneOrMany::Many(List(list))) if list.is_empty() => {
            report.error(
                at,
                Invalid::new("the list is empty", "expected address:port, like 203.0.113.10:80"),
            );
        }
        Some(OneOrMany::Many(list)) => report.each(at, list, read),
        None => report.missing(at, "what the service listens on", "listen: 203.0.113.10:80"),
    }
    (listeners, families)
}

fn listener_address(value: &Scalar, Endpoint { ip, ports }: &Endpoint) -> Parsed<SocketAddr> {
    let ip = address::unicast(*ip).and_then(address::supported_family)?;
    match ports {
        Ports::One(port) => Ok(SocketAddr::new(ip, *port)),
        Ports::Unspecified => Err(Invalid::new(
            format!("{value} has no port"),
            format!("add the port, like {ip}:80"),
        )),
        Ports::Range(_) | Ports::Any => Err(Invalid::new(
            format!("{value}: several ports in one are not supported yet"),
            format!("list each port, like [{ip}:80, {ip}:443]"),
        )),
    }
}
