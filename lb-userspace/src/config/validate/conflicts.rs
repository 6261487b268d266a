//! What no service can know by itself: names and listeners that are taken, addresses in two roles, who
//! answers for a VIP, capacities.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use lb_common::limits;

use super::{
    super::{address::Family, error::Invalid, path::Path, report::Report},
    Placed,
    service::Draft,
};
use crate::model::Listener;

/// Checks all services against each other, and the pool of source addresses against them.
pub(super) fn check(report: &mut Report<'_>, services: &[Draft], snat: &[Placed<IpAddr>]) {
    check_names(report, services);
    check_listeners(report, services);
    check_echo(report, services);
    let vips = vips(services);
    for backend in services.iter().flat_map(|service| &service.backends) {
        if let Some(vip_at) = vips.get(&backend.value.address.ip()) {
            let vip = backend.value.address.ip();
            let message = format!("{vip} is a VIP, of {vip_at}; a backend that is a VIP would be a loop");
            report.error(&backend.at, Invalid::new(message, "expected the address of a server"));
        }
    }
    for Placed { value: ip, at } in snat {
        if let Some(vip_at) = vips.get(ip) {
            let message = format!("{ip} is a VIP, of {vip_at}");
            report.error(
                at,
                Invalid::new(message, "expected an address that no service listens on"),
            );
        }
    }
    check_capacities(report, services, snat);
}

fn check_names(report: &mut Report<'_>, services: &[Draft]) {
    let mut lines = HashMap::new();
    for service in services {
        let Some(name) = &service.name else { continue };
        let at = service.at.key("name");
        if let Some(line) = lines.insert(name, report.line(&at)) {
            let message = format!("{name:?} is the name of the service in line {line} already");
            report.error(&at, Invalid::new(message, "give each service its own name"));
        }
    }
}

/// A listener with its number in the file.
#[derive(Clone, Copy)]
struct Numbered<'a> {
    number: usize,
    listener: &'a Placed<Listener>,
}

/// Refuses listeners with ports in common. Of two the later one in the file is wrong.
fn check_listeners(report: &mut Report<'_>, services: &[Draft]) {
    let listeners = services.iter().flat_map(|service| &service.listeners);
    let mut sorted: Vec<_> = listeners
        .enumerate()
        .map(|(number, listener)| Numbered { number, listener })
        .collect();
    let group = |numbered: &Numbered<'_>| {
        let Listener { address, protocol, .. } = numbered.listener.value;
        (address, protocol)
    };
    let ports = |numbered: &Numbered<'_>| numbered.listener.value.ports;
    sorted.sort_by_key(|next| (group(next), ports(next).first, next.number));

    // The one of this group that reaches furthest of those before: what begins before its end overlaps it.
    let mut furthest: Option<Numbered<'_>> = None;
    for next in sorted {
        let before = furthest.filter(|before| group(before) == group(&next));
        if let Some(before) = before.filter(|before| ports(before).overlaps(ports(&next))) {
            let (earlier, later) = match before.number < next.number {
                true => (before, next),
                false => (next, before),
            };
            report_overlap(report, later.listener, earlier.listener);
        }
        furthest = before
            .filter(|before| ports(before).last >= ports(&next).last)
            .or(Some(next));
    }
}

fn report_overlap(report: &mut Report<'_>, listener: &Placed<Listener>, other: &Placed<Listener>) {
    let line = report.line(&other.at);
    let message = if listener.value == other.value {
        format!("{} is taken by {} in line {line}", listener.value, other.at)
    } else {
        let (listener, taken) = (listener.value, other.value);
        format!("{listener} overlaps {taken} of {} in line {line}", other.at)
    };
    let remedy = "give it another address, other ports or another protocol, or remove one of the two";
    report.error(&listener.at, Invalid::new(message, remedy));
}

/// An echo request names no port, so it is the VIP that is answered or not, for all services that have it.
fn check_echo(report: &mut Report<'_>, services: &[Draft]) {
    let mut first_of: HashMap<IpAddr, &Draft> = HashMap::new();
    for service in services {
        for vip in service.listeners.iter().map(|listener| listener.value.address) {
            let first = *first_of.entry(vip).or_insert(service);
            let (echo, other) = (service.echo(), first.echo());
            if echo != other {
                let message = format!(
                    "echo is {echo} here and {other} in {} in line {}, and both listen on {vip}",
                    show_service(first),
                    report.line(&first.at)
                );
                let remedy = "write the same `echo` in all services that share a VIP";
                report.error(&service.at.key("echo"), Invalid::new(message, remedy));
            }
        }
    }
}

/// A service by its place and name.
fn show_service(service: &Draft) -> String {
    match &service.name {
        Some(name) => format!("{} ({name:?})", service.at),
        None => service.at.to_string(),
    }
}

/// Each VIP with the place of its first listener.
fn vips(services: &[Draft]) -> HashMap<IpAddr, &Path> {
    let mut vips = HashMap::new();
    for listener in services.iter().flat_map(|service| &service.listeners) {
        vips.entry(listener.value.address).or_insert(&listener.at);
    }
    vips
}

fn check_capacities(report: &mut Report<'_>, services: &[Draft], snat: &[Placed<IpAddr>]) {
    let at = Path::root().key("services");
    let backends = services.iter().map(|service| service.backends.len()).sum();
    // Ids run from 1 in arrays that begin at 0.
    check_capacity(report, &at, services.len(), limits::MAX_SERVICES - 1, "services");
    check_capacity(report, &at, backends, limits::MAX_BACKENDS - 1, "backends");
    for family in Family::ALL {
        check_family_capacities(report, &at, services, snat, family);
    }
}

/// Checks what the program has a map of its own for in each family.
fn check_family_capacities(
    report: &mut Report<'_>,
    at: &Path,
    services: &[Draft],
    snat: &[Placed<IpAddr>],
    family: Family,
) {
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
    let listeners = services.iter().flat_map(|service| &service.listeners);
    let ports = listeners.filter(|listener| of_family(&listener.value.address));
    let (single, ranges): (Vec<_>, Vec<_>) = ports
        .map(|listener| listener.value.ports)
        .partition(|ports| ports.as_single().is_some());
    let what = format!("{family} listeners with one port");
    check_capacity(report, at, single.len(), limits::MAX_LISTENERS, &what);
    let prefixes = ranges.iter().map(|ports| ports.prefixes().count()).sum();
    let what = format!("port prefixes of {family} listeners (a range has up to 30, `*` has one)");
    check_capacity(report, at, prefixes, limits::MAX_PORT_PREFIXES, &what);

    let vips = services.iter().flat_map(|service| &service.listeners);
    let backends = services.iter().flat_map(|service| &service.backends);
    let addresses: HashSet<IpAddr> = vips
        .map(|listener| listener.value.address)
        .chain(backends.map(|backend| backend.value.address.ip()))
        .chain(snat.iter().map(|address| address.value))
        .filter(of_family)
        .collect();
    let what = format!("{family} addresses of VIPs, backends and the `snat` pool");
    check_capacity(report, at, addresses.len(), limits::MAX_ADDRESSES, &what);
}

/// Reports more than `max` of something.
pub(super) fn check_capacity(report: &mut Report<'_>, at: &Path, count: usize, max: u32, what: &str) {
    if count > usize::try_from(max).unwrap_or(usize::MAX) {
        let message = format!("{count} {what} are more than there is room for");
        report.error(
            at,
            Invalid::new(message, format!("expected at most {max} {what} in all")),
        );
    }
}
