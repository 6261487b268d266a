//! What the agent must know of the host it runs on.

use std::{collections::BTreeSet, fs, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use lb_common::settings::PortRange;
use tracing::warn;

use crate::{
    dataplane::aya::Device,
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

/// The ports that `full_nat` must leave alone: those that this host's own sockets take by themselves, if the two share an address.
/// None where nothing else would be left.
pub(super) async fn ports_of_own_sockets(snat: &Snat) -> PortRange {
    let own = local_port_range();
    if lies_within(snat, own) || !shares_addresses(snat).await {
        return PortRange::EMPTY;
    }
    own
}

/// Says so when `full_nat` has no ports but those of this host's own sockets.
pub(super) async fn warn_of_shared_ports(snat: &Snat) {
    let own = local_port_range();
    if lies_within(snat, own) && shares_addresses(snat).await {
        warn!(
            first = own.first,
            last = own.last,
            "snat.ports lies within the ports of this host's own sockets (net.ipv4.ip_local_port_range): a connection of this \
             host may be taken for a client's"
        );
    }
}

const fn lies_within(snat: &Snat, own: PortRange) -> bool {
    own.first <= *snat.ports.start() && *snat.ports.end() <= own.last
}

/// Whether `full_nat` uses addresses of this host. A pool of addresses that no interface has is all `full_nat`'s.
async fn shares_addresses(snat: &Snat) -> bool {
    if snat.addresses.is_empty() {
        return true;
    }
    match interfaces::addresses().await {
        Ok(own) => snat.addresses.iter().any(|address| own.contains(address)),
        Err(error) => {
            warn!(%error, "cannot list this host's addresses; leaving its port range alone to be safe");
            true
        }
    }
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
