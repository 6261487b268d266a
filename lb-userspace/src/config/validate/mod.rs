//! From the file's shape to the model: every value is read, every rule checked, everything that is wrong reported.
//!
//! Each function reads one mapping of the file. A value that is wrong is reported and replaced by its default, so that the rest is
//! checked too; the resulting model is then never used.

mod backend;
mod conflicts;
mod connections;
mod health_check;
mod listener;
mod not_yet;
mod service;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use lb_common::limits;

use self::service::Draft;
use super::{
    address::{self, Family},
    error::Invalid,
    file::{Api, File, Interface, Snat},
    path::Path,
    report::Report,
    shape::{Entry, List, Scalar},
    values::{self, Parsed},
};
use crate::model::{self, Model, XdpMode};

/// Where commands reach the agent when the file does not say.
const DEFAULT_SOCKET: &str = "/run/xlb/xlb.sock";

/// Ports for translated sources when the file does not say: all that need no privilege.
const DEFAULT_SNAT_PORTS: RangeInclusive<u16> = 1024..=65_535;

/// A value, and where the file has it.
struct Placed<T> {
    value: T,
    at: Path,
}

/// Checks `file`. The model is to be used only if `report` has no errors afterwards.
pub(super) fn validate(file: &File, report: &mut Report<'_>) -> Model {
    let root = Path::root();
    let interfaces = read_interfaces(report, &root.key("interfaces"), file.interfaces.as_ref());
    let socket = read_api(report, &root.key("api"), file.api.as_ref());
    let connections = connections::read(report, &root.key("connections"), file.connections.as_ref());
    let (snat_addresses, snat_ports) = read_snat(report, &root.key("snat"), file.snat.as_ref());

    let at = root.key("defaults");
    let defaults = file.defaults.as_ref();
    let defaults = defaults.map(|defaults| service::read_defaults(report, &at, defaults));
    let at = root.key("services");
    let mut drafts: Vec<Draft> = Vec::new();
    let services = file.services.as_ref();
    if services.is_none_or(|services| services.0.is_empty()) {
        let remedy = "add a service under `services:`";
        report.warn(
            &at,
            Invalid::new("there are no services: nothing will be balanced", remedy),
        );
    }
    if let Some(services) = services {
        report.each(&at, services, |report, at, service| {
            drafts.push(service::read(report, at, service, defaults.as_ref()));
        });
    }
    conflicts::check(report, &drafts, &snat_addresses);

    Model {
        interfaces,
        socket,
        connections,
        snat: model::Snat {
            addresses: snat_addresses.into_iter().map(|address| address.value).collect(),
            ports: snat_ports,
        },
        services: drafts.into_iter().map(Draft::into_service).collect(),
    }
}

fn read_interfaces(report: &mut Report<'_>, at: &Path, list: Option<&List<Entry<Interface>>>) -> Vec<model::Interface> {
    let Some(list) = list.filter(|list| !list.0.is_empty()) else {
        report.missing(at, "an interface to attach to", "interfaces: [eth0]");
        return Vec::new();
    };
    let mut interfaces = Vec::new();
    let mut seen = HashMap::new();
    report.each(at, list, |report, at, entry| {
        let Some(Placed { value: interface, at }) = read_interface(report, at, entry) else {
            return;
        };
        if let Some(line) = seen.insert(interface.name.clone(), report.line(&at)) {
            let message = format!("{} is listed in line {line} already", interface.name);
            report.error(&at, Invalid::new(message, "list each interface once"));
        }
        interfaces.push(interface);
    });
    interfaces
}

/// With the place of its name.
fn read_interface(report: &mut Report<'_>, at: &Path, entry: &Entry<Interface>) -> Option<Placed<model::Interface>> {
    let (name_at, name, mode) = match entry {
        Entry::Short(name) => (at.clone(), Some(name), None),
        Entry::Long(interface) => {
            let name_at = at.key("name");
            if interface.name.is_none() {
                report.missing(&name_at, "the interface's name", "name: eth0");
            }
            (name_at, interface.name.as_ref(), interface.xdp_mode.as_ref())
        }
    };
    let modes = [
        ("auto", Some(XdpMode::Auto)),
        ("native", Some(XdpMode::Native)),
        ("generic", Some(XdpMode::Generic)),
    ];
    let mode = report.read(&at.key("xdp_mode"), mode, values::word(&modes));
    let name = report.read(&name_at, name, |name| values::interface_name(name).map(str::to_owned))?;
    Some(Placed {
        value: model::Interface {
            name,
            mode: mode.unwrap_or_default(),
        },
        at: name_at,
    })
}

fn read_api(report: &mut Report<'_>, at: &Path, api: Option<&Api>) -> PathBuf {
    let socket = api.and_then(|api| {
        report.refuse(&at.key("listen"), api.listen.as_ref(), listen_address);
        report.read(&at.key("socket"), api.socket.as_ref(), socket_path)
    });
    socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
}

fn socket_path(value: &Scalar) -> Parsed<PathBuf> {
    /// Room in `sockaddr_un`, less the terminating zero.
    const MAX: usize = 107;
    let path = values::text(value)?;
    if path.starts_with('/') && !path.ends_with('/') && path.len() <= MAX && !path.contains('\0') {
        return Ok(PathBuf::from(path));
    }
    Err(Invalid::new(
        format!("{value} cannot be the path of a socket"),
        format!("expected an absolute path of at most {MAX} bytes, like {DEFAULT_SOCKET}"),
    ))
}

fn listen_address(value: &Scalar) -> Parsed<SocketAddr> {
    let address = match value {
        Scalar::Text(text) => text.parse().ok(),
        _ => None,
    };
    address.ok_or_else(|| {
        Invalid::new(
            format!("{value} is not address:port"),
            "expected address:port, like 127.0.0.1:9870",
        )
    })
}

/// The pool of source addresses, with their places, and its ports.
fn read_snat(report: &mut Report<'_>, at: &Path, snat: Option<&Snat>) -> (Vec<Placed<IpAddr>>, RangeInclusive<u16>) {
    let Some(snat) = snat else {
        return (Vec::new(), DEFAULT_SNAT_PORTS);
    };
    let addresses_at = at.key("addresses");
    let addresses = snat
        .addresses
        .as_ref()
        .map(|list| read_snat_addresses(report, &addresses_at, list))
        .unwrap_or_default();
    let ports = report.read(&at.key("ports"), snat.ports.as_ref(), values::range(1..=u16::MAX));
    (addresses, ports.unwrap_or(DEFAULT_SNAT_PORTS))
}

fn read_snat_addresses(report: &mut Report<'_>, at: &Path, list: &List<Scalar>) -> Vec<Placed<IpAddr>> {
    let mut addresses = Vec::new();
    let mut seen = HashSet::new();
    report.each(at, list, |report, at, value| {
        let parse = |value: &_| address::ip(value).and_then(address::unicast);
        let Some(ip) = report.read(at, Some(value), parse) else {
            return;
        };
        if !seen.insert(ip) {
            let invalid = Invalid::new(format!("{ip} is listed twice"), "list each address once");
            report.error(at, invalid);
        }
        addresses.push(Placed {
            value: ip,
            at: at.clone(),
        });
    });
    for family in Family::ALL {
        let count = (addresses.iter())
            .filter(|address| Family::of(address.value) == family)
            .count();
        let what = format!("{family} source addresses");
        conflicts::check_capacity(report, at, count, limits::MAX_SNAT_ADDRESSES, &what);
    }
    addresses
}
