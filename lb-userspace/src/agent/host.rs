//! What the agent must know of the host it runs on.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    net::IpAddr,
};

use anyhow::{Context as _, Result, bail};
use lb_common::settings::PortRange;
use tracing::warn;

use crate::{
    dataplane::{Family, aya::Device},
    interfaces,
    model::{Model, Snat, XdpMode},
    reconciler::Report,
};

/// The configured interfaces, each with the mode it shall have.
pub(super) async fn devices(model: &Model) -> Result<Vec<(Device, XdpMode)>> {
    let present = interfaces::list().await.context("cannot list the interfaces")?;
    model
        .interfaces
        .iter()
        .map(
            |interface| match present.iter().find(|device| device.name == interface.name) {
                Some(device) => Ok((device.clone(), interface.mode)),
                None => {
                    let names: Vec<&str> = present.iter().map(|device| device.name.as_str()).collect();
                    bail!(
                        "interface {} does not exist; there are: {}",
                        interface.name,
                        names.join(", ")
                    )
                }
            },
        )
        .collect()
}

/// The addresses whose ways must be known: those of all backends, and of removed ones that still have connections.
pub(super) fn targets(model: &Model, report: &Report) -> BTreeSet<IpAddr> {
    let configured = model
        .services
        .iter()
        .flat_map(|service| &service.backends)
        .map(|backend| backend.address.ip());
    let retired = report.retired.iter().map(|(_, address)| address.ip());
    configured.chain(retired).collect()
}

/// The ports that translated sources must leave alone: those that this host's own sockets take by themselves, of either IP family, if
/// the two share an address. None where nothing else would be left.
pub(super) async fn ports_of_own_sockets(model: &Model) -> PortRange {
    let own = local_port_range();
    if lies_within(&model.snat, own) || !shares_addresses(model).await {
        return PortRange::EMPTY;
    }
    own
}

/// Says so when translated sources have no ports but those of this host's own sockets.
pub(super) async fn warn_of_shared_ports(model: &Model) {
    let own = local_port_range();
    if lies_within(&model.snat, own) && shares_addresses(model).await {
        warn!(
            first = own.first,
            last = own.last,
            "snat.ports lies within the ports of this host's own sockets (net.ipv4.ip_local_port_range, also those over IPv6): a \
             connection of this host may be taken for a client's"
        );
    }
}

const fn lies_within(snat: &Snat, own: PortRange) -> bool {
    own.first <= *snat.ports.start() && *snat.ports.end() <= own.last
}

/// Whether translated sources have addresses of this host. A pool of addresses that no interface has is all theirs.
async fn shares_addresses(model: &Model) -> bool {
    if uses_own_addresses(model) {
        return true;
    }
    match interfaces::addresses().await {
        Ok(own) => model.snat.addresses.iter().any(|address| own.contains(address)),
        Err(error) => {
            warn!(%error, "cannot list this host's addresses; leaving its port range alone to be safe");
            true
        }
    }
}

/// Whether there is an IP family whose pool is empty, so that its translated sources have the egress interface's own address.
fn uses_own_addresses(model: &Model) -> bool {
    let pools: HashSet<Family> = model.snat.addresses.iter().copied().map(Family::of).collect();
    let listeners = model.services.iter().flat_map(|service| &service.listeners);
    listeners
        .map(|listener| Family::of(listener.address))
        .any(|family| !pools.contains(&family))
}

/// The ports that the kernel gives to sockets that ask for none.
fn local_port_range() -> PortRange {
    /// The kernel's default, for a host whose `/proc` is not readable.
    const DEFAULT: PortRange = PortRange {
        first: 32_768,
        last: 60_999,
    };
    let read = || -> Option<PortRange> {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut numbers = text.split_whitespace();
        Some(PortRange {
            first: numbers.next()?.parse().ok()?,
            last: numbers.next()?.parse().ok()?,
        })
    };
    read().unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str) -> Model {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        crate::config::load(file.path()).unwrap().model
    }

    #[test]
    fn a_family_without_a_pool_uses_this_hosts_addresses() {
        let service = "interfaces: [eth0]\nservices: [{name: a, listen: '203.0.113.1:80', protocol: tcp, backends: ['10.0.0.1:80']}]\n";
        assert!(uses_own_addresses(&model(service)));
        assert!(!uses_own_addresses(&model(&format!(
            "{service}snat: {{addresses: [192.0.2.1]}}\n"
        ))));
    }
}
