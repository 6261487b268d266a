//! `backends`: the servers of a service.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{
        address::{self, Endpoint, Family, Ports, show_endpoint},
        error::Invalid,
        file,
        path::Path,
        report::Report,
        shape::{Entry, List, Scalar},
        values::{self, Parsed},
    },
    Placed,
    listener::{Dialled, Listeners},
};
use crate::model::{Backend, Forwarding};

/// What a service asks of the addresses of its backends.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    family: Option<Family>,
    port: Port,
}

/// What a service asks of the ports of its backends.
#[derive(Clone, Copy)]
enum Port {
    /// Nothing is known of the listeners: anything may be right.
    Unknown,
    /// One port: it replaces the one that the client dialled.
    Named,
    /// None: there is a range of ports to dial, and the backend has them all.
    Kept,
    /// None, or the only one that can be dialled: packets are not rewritten.
    Untouched(Option<u16>),
}

impl Expected {
    /// By a service with these listeners.
    pub(super) const fn by(listeners: &Listeners, forwarding: Forwarding) -> Self {
        let port = match (listeners.dialled, forwarding) {
            (Dialled::Unknown, _) => Port::Unknown,
            (Dialled::Range, _) => Port::Kept,
            (Dialled::One(port), Forwarding::Dsr) => Port::Untouched(Some(port)),
            (Dialled::Several, Forwarding::Dsr) => Port::Untouched(None),
            (Dialled::One(_) | Dialled::Several, Forwarding::Nat | Forwarding::FullNat) => Port::Named,
        };
        let family = listeners.family;
        Self { family, port }
    }
}

/// Reads the list `backends` of a service.
pub(super) fn read_all(
    report: &mut Report<'_>,
    at: &Path,
    list: Option<&List<Entry<file::Backend>>>,
    expected: Expected,
) -> Vec<Placed<Backend>> {
    let Some(list) = list else {
        report.missing(at, "the list of backends", "backends: [10.0.0.11:8080]");
        return Vec::new();
    };
    let mut backends: Vec<Placed<Backend>> = Vec::new();
    let mut seen = HashMap::new();
    report.each(at, list, |report, at, entry| {
        let Some(backend) = read(report, at, entry, expected) else {
            return;
        };
        if let Some(line) = seen.insert(backend.value.address, report.line(&backend.at)) {
            let message = format!("{} is listed in line {line} already", show(backend.value.address));
            let remedy = "list each backend once, with a greater `weight` for a greater share";
            report.error(&backend.at, Invalid::new(message, remedy));
        }
        backends.push(backend);
    });
    warn(report, at, list.0.len(), &backends);
    backends
}

fn warn(report: &mut Report<'_>, at: &Path, written: usize, backends: &[Placed<Backend>]) {
    match written {
        0 => report.warn(
            at,
            Invalid::new("there are no backends: connections are refused", "add one"),
        ),
        1 => report.warn(
            at,
            Invalid::new(
                "there is one backend only: nothing takes over when it fails",
                "add another",
            ),
        ),
        _ => {}
    }
    if !backends.is_empty() && backends.iter().all(|backend| backend.value.weight == 0) {
        let message = "all weights are 0: no backend takes new connections";
        report.warn(at, Invalid::new(message, "give at least one backend a weight"));
    }
}

/// One backend, with the place of its address.
fn read(
    report: &mut Report<'_>,
    at: &Path,
    entry: &Entry<file::Backend>,
    expected: Expected,
) -> Option<Placed<Backend>> {
    let parse = |value: &Scalar| backend_address(value, expected);
    let backend = match entry {
        Entry::Short(value) => {
            let address = report.read(at, Some(value), parse)?;
            return Some(Placed {
                value: Backend { address, weight: 1 },
                at: at.clone(),
            });
        }
        Entry::Long(backend) => backend,
    };
    refuse_not_yet(report, at, backend);
    let weight = report.read(&at.key("weight"), backend.weight.as_ref(), values::count(0..=u16::MAX));
    let address_at = at.key("address");
    match (&backend.address, &backend.name) {
        (None, None) => report.missing(&address_at, "the backend's address", "address: 10.0.0.11:8080"),
        (Some(_), Some(_)) => {
            let invalid = Invalid::new("a backend has an address or a DNS name, not both", "remove `name`");
            report.error_at_key(&at.key("name"), invalid);
        }
        _ => {}
    }
    let address = report.read(&address_at, backend.address.as_ref(), parse)?;
    Some(Placed {
        value: Backend {
            address,
            weight: weight.unwrap_or(1),
        },
        at: address_at,
    })
}

/// A backend's address as the file would have it: without a port where it has none.
fn show(address: SocketAddr) -> String {
    match address.port() {
        0 => address.ip().to_string(),
        _ => address.to_string(),
    }
}

fn backend_address(value: &Scalar, expected: Expected) -> Parsed<SocketAddr> {
    let Endpoint { ip, ports } = address::endpoint(value)?;
    let ip = address::unicast(ip)?;
    let family = Family::of(ip);
    if let Some(other) = expected.family.filter(|expected| *expected != family) {
        return Err(Invalid::new(
            format!("{ip} is an {family} address and the service has an {other} listener"),
            "make a service of its own for each address family",
        ));
    }
    let port = match ports {
        Ports::One(port) => Some(port),
        Ports::Unspecified => None,
        Ports::Range(_) | Ports::Any => {
            return Err(Invalid::new(
                format!("{value} is more than one port"),
                format!(
                    "expected one port, like {}, or none where a range is listened on: {ip}",
                    show_endpoint(ip, 8080)
                ),
            ));
        }
    };
    backend_port(value, ip, port, expected.port).map(|port| SocketAddr::new(ip, port))
}

/// The port of a backend in the model, 0 being the one that the client dialled.
fn backend_port(value: &Scalar, ip: IpAddr, written: Option<u16>, expected: Port) -> Parsed<u16> {
    match (expected, written) {
        (Port::Unknown, _) => Ok(written.unwrap_or(0)),
        (Port::Named, Some(port)) => Ok(port),
        (Port::Named, None) => Err(Invalid::new(
            format!("{value} has no port"),
            format!("add the port, like {}", show_endpoint(ip, 8080)),
        )),
        (Port::Kept, None) => Ok(0),
        (Port::Kept, Some(_)) => Err(Invalid::new(
            format!(
                "{value} has a port, and the service listens on a range: backends keep the port that the client dialled"
            ),
            format!("expected the address alone: {ip}"),
        )),
        (Port::Untouched(dialled), None) => Ok(dialled.unwrap_or(0)),
        (Port::Untouched(Some(dialled)), Some(port)) if port == dialled => Ok(port),
        (Port::Untouched(_), Some(port)) => Err(Invalid::new(
            format!(
                "port {port} is not what clients dial: with forwarding dsr packets are not rewritten, and arrive at the \
                 port of the listener"
            ),
            format!("expected the address alone, {ip}, and a server that listens on the listener's ports"),
        )),
    }
}

fn refuse_not_yet(report: &mut Report<'_>, at: &Path, backend: &file::Backend) {
    if report
        .read(&at.key("name"), backend.name.as_ref(), address::host_name)
        .is_some()
    {
        report.not_supported(&at.key("name"), "write `address:` with an IP address and port");
    }
    report.refuse(&at.key("zone"), backend.zone.as_ref(), |zone| {
        values::name(zone).map(drop)
    });
    report.refuse(
        &at.key("max_connections"),
        backend.max_connections.as_ref(),
        values::count(1..=u32::MAX),
    );
    let backup_at = at.key("backup");
    if report.read(&backup_at, backend.backup.as_ref(), values::boolean) == Some(true) {
        report.error(&backup_at, Invalid::new("true is not supported yet", "expected false"));
    }
    let states = [("enabled", Some(())), ("drain", None), ("disabled", None)];
    report.read(&at.key("state"), backend.state.as_ref(), |value| {
        values::word(&states)(value).map_err(|Invalid { message, remedy }| {
            Invalid::new(message, format!("{remedy}; `weight: 0` drains a backend"))
        })
    });
}
