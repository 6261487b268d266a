//! `listen`: what clients dial.

use std::net::IpAddr;

use super::{
    super::{
        address::{self, Endpoint, Family, Ports, show_endpoint},
        error::Invalid,
        path::Path,
        report::Report,
        shape::{List, OneOrMany, Scalar},
        values::Parsed,
    },
    Placed,
};
use crate::model::{self, Listener, Protocol};

/// The listeners of a service, and what they ask of its backends.
pub(super) struct Listeners {
    pub(super) placed: Vec<Placed<Listener>>,
    /// The IP family that they share; `None` when they share none.
    pub(super) family: Option<Family>,
    pub(super) dialled: Dialled,
}

/// Ports that clients dial, over all listeners of a service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialled {
    /// A listener is missing or wrong.
    Unknown,
    /// The same one with all listeners.
    One(u16),
    /// Single ones that differ.
    Several,
    /// A listener has a range of ports.
    Range,
}

/// Reads the value or list `listen` of a service with these protocols.
pub(super) fn read_all(
    report: &mut Report<'_>,
    at: &Path,
    listen: Option<&OneOrMany>,
    protocols: &[Protocol],
) -> Listeners {
    let mut written: Vec<Option<Placed<(IpAddr, model::Ports)>>> = Vec::new();
    let mut read = |report: &mut Report<'_>, at: &Path, value: &Scalar| {
        let address = report.read(at, Some(value), listener_address);
        written.push(address.map(|value| Placed { value, at: at.clone() }));
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
    let dialled = dialled(&written);
    let addresses: Vec<_> = written.into_iter().flatten().collect();
    Listeners {
        family: shared_family(report, &addresses),
        dialled,
        placed: addresses
            .iter()
            .flat_map(|address| protocols.iter().map(|protocol| listener(address, *protocol)))
            .collect(),
    }
}

fn listener(address: &Placed<(IpAddr, model::Ports)>, protocol: Protocol) -> Placed<Listener> {
    let (ip, ports) = address.value;
    Placed {
        value: Listener {
            address: ip,
            ports,
            protocol,
        },
        at: address.at.clone(),
    }
}

fn listener_address(value: &Scalar) -> Parsed<(IpAddr, model::Ports)> {
    let Endpoint { ip, ports } = address::endpoint(value)?;
    let ip = address::vip(ip)?;
    let ports = match ports {
        Ports::One(port) => model::Ports::single(port),
        Ports::Range(range) => model::Ports {
            first: *range.start(),
            last: *range.end(),
        },
        Ports::Any => model::Ports::ANY,
        Ports::Unspecified => {
            let (one, any) = (show_endpoint(ip, 80), show_endpoint(ip, '*'));
            return Err(Invalid::new(
                format!("{value} has no port"),
                format!("add the port, like {one}, or `*` for any port, like {any}"),
            ));
        }
    };
    Ok((ip, ports))
}

/// What the listeners have in common; `None` among them is one that is wrong.
fn dialled(written: &[Option<Placed<(IpAddr, model::Ports)>>]) -> Dialled {
    let ports = written.iter().map(|address| match address {
        Some(address) => address.value.1.as_single().map_or(Dialled::Range, Dialled::One),
        None => Dialled::Unknown,
    });
    ports
        .reduce(|all, next| match (all, next) {
            (Dialled::Unknown, _) | (_, Dialled::Unknown) => Dialled::Unknown,
            (Dialled::Range, _) | (_, Dialled::Range) => Dialled::Range,
            _ if all == next => all,
            _ => Dialled::Several,
        })
        .unwrap_or(Dialled::Unknown)
}

/// The family of all listeners. One of another family than the first is reported.
fn shared_family(report: &mut Report<'_>, addresses: &[Placed<(IpAddr, model::Ports)>]) -> Option<Family> {
    let (first, others) = addresses.split_first()?;
    let family = Family::of(first.value.0);
    let mut shared = true;
    for Placed { value: (ip, _), at } in others {
        let other = Family::of(*ip);
        if other != family {
            shared = false;
            let message = format!(
                "{ip} is an {other} address and {} in line {} an {family} one",
                first.at,
                report.line(&first.at)
            );
            report.error(
                at,
                Invalid::new(message, "make a service of its own for each address family"),
            );
        }
    }
    shared.then_some(family)
}
