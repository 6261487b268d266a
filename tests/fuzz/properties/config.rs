//! A configuration file of any content: it is refused with places and remedies, or makes a model that holds what models promise.

use std::{collections::HashSet, net::IpAddr};

use xlb::{
    config::{self, Diagnostic},
    model::{Forwarding, Listener, Model, Service},
};

/// `data`: the content of a file.
pub(crate) fn check(data: &[u8]) {
    match config::parse("x.yaml", data) {
        Ok(loaded) => {
            check_places(data, &loaded.warnings);
            check_model(&loaded.model);
            assert_eq!(config::parse("x.yaml", data), Ok(loaded), "read again");
        }
        Err(error) => {
            assert!(!error.errors.is_empty(), "refused without a reason");
            check_places(data, &error.errors);
            check_places(data, &error.warnings);
        }
    }
}

/// Every diagnostic can be printed, and names a place in the file and a remedy.
fn check_places(data: &[u8], diagnostics: &[Diagnostic]) {
    let text = String::from_utf8_lossy(data).replace("\r\n", "\n");
    let lines = text.split(['\n', '\r']).count();
    for diagnostic in diagnostics {
        let text = diagnostic.render("x.yaml").to_string();
        assert!((1..=lines).contains(&diagnostic.line), "no such line: {text}");
        assert!(diagnostic.column >= 1, "no column: {text}");
        assert!(
            !diagnostic.message.is_empty() && !diagnostic.remedy.is_empty(),
            "{text}"
        );
    }
}

/// What everything behind the configuration takes as given.
fn check_model(model: &Model) {
    assert!(!model.interfaces.is_empty());
    let names: HashSet<_> = model.services.iter().map(|service| &service.name).collect();
    assert_eq!(names.len(), model.services.len(), "two services of one name");
    let vips: HashSet<IpAddr> = (model.services.iter())
        .flat_map(|service| &service.listeners)
        .map(|listener| listener.address)
        .collect();
    assert!(model.snat.addresses.iter().all(|address| !vips.contains(address)));
    assert!(!model.snat.ports.is_empty() && *model.snat.ports.start() > 0);
    for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        assert!(model.snat.addresses.iter().filter(|address| family(address)).count() <= 64);
    }
    for service in &model.services {
        check_service(service, &vips);
    }
    check_listeners(model);
}

fn check_service(service: &Service, vips: &HashSet<IpAddr>) {
    let first = service.listeners.first().expect("a service without listeners");
    let same_family = |ip: IpAddr| ip.is_ipv4() == first.address.is_ipv4();
    let single = service
        .listeners
        .iter()
        .all(|listener| listener.ports.as_single().is_some());
    assert!(service.listeners.iter().all(|listener| same_family(listener.address)));
    for backend in &service.backends {
        assert!(same_family(backend.address.ip()), "{backend:?}");
        assert!(!vips.contains(&backend.address.ip()), "{backend:?} is a VIP");
        let port = backend.address.port();
        match service.forwarding {
            Forwarding::Dsr => assert!(
                port == 0
                    || service
                        .listeners
                        .iter()
                        .all(|listener| listener.ports.as_single() == Some(port)),
                "{backend:?} of dsr"
            ),
            Forwarding::Nat | Forwarding::FullNat => assert_eq!(port != 0, single, "{backend:?}"),
        }
        let probed = service.health_check.as_ref().map(|check| check.port.unwrap_or(port));
        assert_ne!(probed, Some(0), "nothing to probe at {backend:?}");
    }
    let addresses: HashSet<_> = service.backends.iter().map(|backend| backend.address).collect();
    assert_eq!(addresses.len(), service.backends.len(), "a backend twice");
}

/// No two listeners have a port in common, and services that share a VIP agree who answers echo requests to it.
fn check_listeners(model: &Model) {
    let mut seen: Vec<(&Service, Listener)> = Vec::new();
    for service in &model.services {
        for listener in &service.listeners {
            let ports = listener.ports.first..=listener.ports.last;
            assert!(!ports.is_empty() && *ports.start() > 0, "{listener}");
            for (other_service, other) in &seen {
                if listener.address == other.address {
                    assert_eq!(service.echo, other_service.echo, "{listener} and {other}");
                }
                let apart = listener.address != other.address
                    || listener.protocol != other.protocol
                    || listener.ports.last < other.ports.first
                    || other.ports.last < listener.ports.first;
                assert!(apart, "{listener} and {other} overlap");
            }
            seen.push((service, *listener));
        }
    }
}
