//! `backends`: the servers of a service.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{
        address::{self, Endpoint, Ports},
        error::Invalid,
        file,
        path::Path,
        report::Report,
        shape::{Entry, List, Scalar},
        values::{self, Parsed},
    },
    Placed,
};
use crate::model::Backend;

/// Address families of a service's listeners.
#[derive(Clone, Copy, Default)]
pub(super) struct Families {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

impl Families {
    /// Whether every listener can be served by a backend of this address. So it is where no listener is known.
    const fn fit(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(_) => !self.ipv6,
            IpAddr::V6(_) => !self.ipv4,
        }
    }
}

/// Reads the list `backends` of a service with listeners of these families.
pub(super) fn read_all(
    report: &mut Report<'_>,
    at: &Path,
    list: Option<&List<Entry<file::Backend>>>,
    families: Families,
) -> Vec<Placed<Backend>> {
    let Some(list) = list else {
        report.missing(at, "the list of backends", "backends: [10.0.0.11:8080]");
        return Vec::new();
    };
    let mut backends: Vec<Placed<Backend>> = Vec::new();
    let mut seen = HashMap::new();
    report.each(at, list, |report, at, entry| {
        let Some(backend) = read(report, at, entry, families) else {
            return;
        };
        if let Some(line) = seen.insert(backend.value.address, report.line(&backend.at)) {
            let message = format!("{} is listed in line {line} already", backend.value.address);
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
    families: Families,
) -> Option<Placed<Backend>> {
    let parse = |value: &Scalar| backend_address(value, families);
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

fn backend_address(value: &Scalar, families: Families) -> Parsed<SocketAddr> {
    let Endpoint { ip, ports } = address::endpoint(value)?;
    let ip = address::unicast(ip)?;
    if !families.fit(ip) {
        let (this, other) = if ip.is_ipv4() {
            ("IPv4", "IPv6")
        } else {
            ("IPv6", "IPv4")
        };
        return Err(Invalid::new(
            format!("{ip} is an {this} address and the service has an {other} listener"),
            "make a service of its own for each address family",
        ));
    }
    let ip = address::supported_family(ip)?;
    match ports {
        Ports::One(port) => Ok(SocketAddr::new(ip, port)),
        Ports::Unspecified => Err(Invalid::new(
            format!("{value} has no port"),
            format!("add the port, like {ip}:8080; to keep the client's port is not supported yet"),
        )),
        Ports::Range(_) | Ports::Any => Err(Invalid::new(
            format!("{value} is more than one port"),
            format!("expected one port, like {ip}:8080"),
        )),
    }
}

fn refuse_not_yet(report: &mut Report<'_>, at: &Path, backend: &file::Backend) {
    if report
        .read(&at.key("name"), backend.name.as_ref(), address::host_name)
        .is_some()
    {
        report.not_supported(&at.key("name"), "write `address:` with an IPv4 address and port");
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
