//! What no service can know by itself: names and listeners that are taken, addresses in two roles, capacities.

use std::{
    collections::{HashMap, hash_map},
    net::IpAddr,
};

use lb_common::limits;

use super::{
    super::{error::Invalid, path::Path, report::Report},
    Placed,
    service::Draft,
};

/// Checks all services against each other, and the pool of source addresses against them.
pub(super) fn check(report: &mut Report<'_>, services: &[Draft], snat: &[Placed<IpAddr>]) {
    check_names(report, services);
    check_listeners(report, services);
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
    check_capacities(report, services);
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

fn check_listeners(report: &mut Report<'_>, services: &[Draft]) {
    let mut taken: HashMap<_, &Path> = HashMap::new();
    for Placed { value: listener, at } in services.iter().flat_map(|service| &service.listeners) {
        match taken.entry(*listener) {
            hash_map::Entry::Vacant(free) => {
                free.insert(at);
            }
            hash_map::Entry::Occupied(other) => {
                let other = other.get();
                let message = format!("{listener} is taken by {other} in line {}", report.line(other));
                let remedy = "give it another address, port or protocol, or remove one of the two";
                report.error(at, Invalid::new(message, remedy));
            }
        }
    }
}

/// Each VIP with the place of its first listener.
fn vips(services: &[Draft]) -> HashMap<IpAddr, &Path> {
    let mut vips = HashMap::new();
    for listener in services.iter().flat_map(|service| &service.listeners) {
        vips.entry(listener.value.address.ip()).or_insert(&listener.at);
    }
    vips
}

fn check_capacities(report: &mut Report<'_>, services: &[Draft]) {
    let at = Path::root().key("services");
    let listeners = services.iter().map(|service| service.listeners.len()).sum();
    let backends = services.iter().map(|service| service.backends.len()).sum();
    // Ids run from 1 in arrays that begin at 0.
    check_capacity(report, &at, services.len(), limits::MAX_SERVICES - 1, "services");
    check_capacity(report, &at, listeners, limits::MAX_LISTENERS, "listeners");
    check_capacity(report, &at, backends, limits::MAX_BACKENDS - 1, "backends");
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
