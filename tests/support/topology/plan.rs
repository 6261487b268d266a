//! What to build, as lines for `ip`: pure text, run by [`super::Lab`].

use std::net::IpAddr;

use super::{LabOptions, Wiring};
use crate::{
    leftovers::Instance,
    names::{self, Family},
};

/// Receive and transmit queues of every device, so that packets of one flow can be on two CPUs.
const QUEUES: u32 = 2;
/// Index of the first device; those below are for what a namespace has by itself.
const FIRST_INDEX: u32 = 100;

/// What to build, as lines for `ip`.
pub(super) struct Plan {
    pub(super) instance: Instance,
    pub(super) options: LabOptions,
}

impl Plan {
    /// Namespaces, devices, bridges: what one `ip` process can make from outside.
    pub(super) fn devices(&self) -> Vec<String> {
        let roles =
            |role: &str, count: u8| -> Vec<String> { (1..=count).map(|number| format!("{role}{number}")).collect() };
        let (clients, backends) = (
            roles("client", self.options.clients),
            roles("backend", self.options.backends),
        );
        let routers = ["clientrouter", "gateway", "backendrouter"].map(str::to_owned);
        let all = clients.iter().chain(&routers).chain(&backends);

        let mut lines: Vec<String> = all.map(|role| format!("netns add {}", self.name(role))).collect();
        let mut indices = (FIRST_INDEX..).step_by(2);
        let mut link = |one, other| lines.extend(indices.next().map(|index| self.veth(index, one, other)));
        for client in &clients {
            link((client, "eth0", None), ("clientrouter", client, None));
        }
        for backend in &backends {
            link((backend, "eth0", None), ("backendrouter", backend, None));
        }
        link(
            ("clientrouter", "uplink", Some(names::CLIENT_ROUTER_MAC)),
            ("gateway", names::TO_CLIENTS, Some(names::GATEWAY_TO_CLIENTS_MAC)),
        );
        link(
            ("backendrouter", "uplink", Some(names::BACKEND_ROUTER_MAC)),
            ("gateway", names::TO_BACKENDS, Some(names::GATEWAY_TO_BACKENDS_MAC)),
        );
        if self.options.wiring == Wiring::DirectReturn {
            link(("clientrouter", "direct", None), ("backendrouter", "direct", None));
        }
        lines
    }

    fn name(&self, role: &str) -> String {
        self.instance.namespace_name(role)
    }

    /// A pair of devices, each given by role, name and MAC address, with two indices that no other device of the laboratory has.
    ///
    /// The indices are given because the kernel would number from 2 in each namespace. It takes two ends with equal indices for
    /// one device of its own kind, and then waits up to a second before it lets packets through.
    fn veth(
        &self,
        indices: u32,
        one: (&str, &str, Option<names::Mac>),
        other: (&str, &str, Option<names::Mac>),
    ) -> String {
        let end = |index: u32, (role, device, mac): (&str, &str, Option<names::Mac>)| {
            let address = mac.map_or_else(String::new, |mac| format!("address {}", names::mac_text(mac)));
            let (namespace, mtu) = (self.name(role), self.options.mtu);
            format!(
                "{device} index {index} netns {namespace} {address} mtu {mtu} numrxqueues {QUEUES} numtxqueues {QUEUES}"
            )
        };
        format!(
            "link add {} type veth peer name {}",
            end(indices, one),
            end(indices + 1, other)
        )
    }

    /// Addresses and routes of a client.
    pub(super) fn client(&self, number: u8) -> Vec<String> {
        self.host(|family| family.client(number), Family::client_lan_router)
    }

    /// Addresses and routes of a backend.
    pub(super) fn backend(&self, number: u8) -> Vec<String> {
        self.host(
            |family| family.backend(number),
            match self.options.wiring {
                Wiring::Routed | Wiring::DirectReturn => Family::backend_lan_router,
                Wiring::OnLink => Family::gateway_on_lan,
            },
        )
    }

    fn host(&self, address: impl Fn(Family) -> IpAddr, router: impl Fn(Family) -> IpAddr) -> Vec<String> {
        let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
        for family in self.families() {
            lines.push(address_line(address(family), "eth0"));
            lines.push(route_line("default", router(family)));
        }
        lines
    }

    pub(super) fn client_router(&self) -> Vec<String> {
        let mut lines = lan("client", self.options.clients, &[]);
        lines.push("link set uplink up".to_owned());
        for family in self.families() {
            lines.extend([
                address_line(family.client_lan_router(), "lan"),
                address_line(family.client_router(), "uplink"),
                route_line(family.vip_network(), family.gateway_to_clients()),
                route_line("default", family.gateway_to_clients()),
            ]);
        }
        if self.options.wiring == Wiring::DirectReturn {
            lines.push("link set direct up".to_owned());
            for family in self.families() {
                lines.push(address_line(family.client_router_direct(), "direct"));
                lines.push(route_line(family.backend_network(), family.backend_router_direct()));
            }
        }
        lines
    }

    pub(super) fn gateway(&self) -> Vec<String> {
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link set {} up", names::TO_CLIENTS),
            format!("link set {} up", names::TO_BACKENDS),
        ];
        for family in self.families() {
            lines.push(address_line(family.gateway_to_clients(), names::TO_CLIENTS));
            lines.push(route_line(family.client_network(), family.client_router()));
            if self.options.wiring == Wiring::Routed {
                lines.push(address_line(family.gateway_to_backends(), names::TO_BACKENDS));
                lines.push(route_line(family.backend_network(), family.backend_router()));
            } else {
                lines.push(address_line(family.gateway_on_lan(), names::TO_BACKENDS));
            }
            if self.options.gateway_owns_vip {
                lines.push(own_address_line(family.vip()));
            }
        }
        lines
    }

    pub(super) fn backend_router(&self) -> Vec<String> {
        let wiring = self.options.wiring;
        let more_ports: &[&str] = if wiring == Wiring::Routed { &[] } else { &["uplink"] };
        let mut lines = lan("backend", self.options.backends, more_ports);
        lines.push("link set uplink up".to_owned());
        for family in self.families() {
            lines.push(address_line(family.backend_lan_router(), "lan"));
            if wiring == Wiring::Routed {
                lines.push(address_line(family.backend_router(), "uplink"));
                lines.push(route_line("default", family.gateway_to_backends()));
            } else {
                lines.push(route_line("default", family.gateway_on_lan()));
            }
        }
        if wiring == Wiring::DirectReturn {
            lines.push("link set direct up".to_owned());
            for family in self.families() {
                lines.push(address_line(family.backend_router_direct(), "direct"));
                lines.push(route_line(family.client_network(), family.client_router_direct()));
            }
        }
        lines
    }

    fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let with_ipv6 = self.options.ipv6;
        Family::ALL
            .into_iter()
            .filter(move |family| *family == Family::V4 || with_ipv6)
    }
}

/// An address on a device.
fn address_line(address: IpAddr, device: &str) -> String {
    line_of(address, Family::of(address).prefix_length(), device)
}

/// An address that a host has for itself, on its loopback.
pub(super) fn own_address_line(address: IpAddr) -> String {
    line_of(address, Family::of(address).host_prefix_length(), "lo")
}

/// The address is usable at once: without duplicate address detection.
fn line_of(address: IpAddr, prefix_length: u8, device: &str) -> String {
    let unchecked = if address.is_ipv6() { " nodad" } else { "" };
    format!("address add {address}/{prefix_length} dev {device}{unchecked}")
}

fn route_line(network: &str, via: IpAddr) -> String {
    format!("route add {network} via {via}")
}

/// A bridge over the devices that lead to a router's hosts, and over others, so that they share one network. It floods multicast
/// instead of listening in on who wants it.
fn lan(role: &str, hosts: u8, more_ports: &[&str]) -> Vec<String> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add lan type bridge mcast_snooping 0".to_owned(),
    ];
    let hosts = (1..=hosts).map(|number| format!("{role}{number}"));
    for port in hosts.chain(more_ports.iter().map(|port| (*port).to_owned())) {
        lines.push(format!("link set {port} master lan"));
        lines.push(format!("link set {port} up"));
    }
    lines.push("link set lan up".to_owned());
    lines
}
