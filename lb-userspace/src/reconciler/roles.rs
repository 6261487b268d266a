//! What each address is to the balancer.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::role::Roles;

use super::{Desired, actual::Actual};
use crate::{
    dataplane::{BackendEntry, BackendId, Family},
    model::Echo,
    netlink::Host,
};

/// Bits that say who answers echo requests.
const ECHO: u32 = Roles::ANSWER_ECHO | Roles::REFUSE_ECHO;

/// The roles that every address should have. `backends` are all that the maps should know, removed ones among them: their
/// connections live on.
pub(super) fn wanted_roles(
    desired: &Desired,
    backends: &BTreeMap<BackendId, BackendEntry>,
    actual: &Actual,
) -> BTreeMap<IpAddr, Roles> {
    let mut wanted = BTreeMap::new();
    let mut add = |address: IpAddr, roles: u32| wanted.entry(address).or_insert(Roles(0)).0 |= roles;
    for service in &desired.services {
        for listener in &service.listeners {
            let echo = echo(service.echo, listener.address, desired, actual);
            add(listener.address, Roles::VIP | echo);
        }
    }
    for address in desired.snat_addresses.values().flatten() {
        add(*address, Roles::SNAT);
    }
    for backend in backends.values() {
        add(backend.address.ip(), Roles::BACKEND);
        let pool = desired.snat_addresses.get(&Family::of(backend.source));
        if !backend.source.is_unspecified() && pool.is_none_or(Vec::is_empty) {
            add(backend.source, Roles::SNAT);
        }
    }
    wanted
}

fn echo(policy: Echo, vip: IpAddr, desired: &Desired, actual: &Actual) -> u32 {
    let is_kernels = |host: &Host| host.addresses.contains(&vip);
    match (policy, &desired.host) {
        (Echo::Off, _) => Roles::REFUSE_ECHO,
        (Echo::Auto, Some(host)) if is_kernels(host) => 0,
        // Not known yet who owns it: as it was.
        (Echo::Auto, None) => actual.roles.get(&vip).map_or(0, |roles| roles.0 & Roles::ANSWER_ECHO),
        (Echo::On | Echo::Auto, _) => Roles::ANSWER_ECHO,
    }
}

/// An address on its way from the roles it has to those it should have: it loses none yet, but for who answers its echo requests.
pub(super) const fn in_between(actual: Roles, wanted: Roles) -> Roles {
    if wanted.any(Roles::VIP) {
        Roles(actual.0 & !ECHO | wanted.0)
    } else {
        Roles(actual.0 | wanted.0)
    }
}
