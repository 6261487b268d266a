//! What ways are made of, and how: pure, so that it is tested without a kernel.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use lb_common::{
    address::{V4, V6},
    backend::{MacAddress, NextHop, Tags},
    interface::Interface,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteVia},
};
use rtnetlink::packet_core::NetlinkPayload;

use super::{
    Host, Resolved, Unresolved, Way, Ways,
    link::{Exit, Link, exit},
    own::{OwnAddress, primary},
    unspecified,
};

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NeighbourKey {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    state: NeighbourState,
    mac: Option<MacAddress>,
}

impl Neighbour {
    /// `None` for what is no neighbour of an IP address: bridge entries, proxies.
    pub(super) fn from_message(message: &NeighbourMessage) -> Option<(NeighbourKey, Self)> {
        if message.header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        let key = NeighbourKey {
            ifindex: message.header.ifindex,
            address: address?,
        };
        let state = message.header.state;
        Some((key, Self { state, mac }))
    }

    /// Its Ethernet address, unless nobody answered for it.
    const fn usable(&self) -> Option<MacAddress> {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        match self.state {
            Reachable | Stale | Delay | Probe | Permanent | Noarp => self.mac,
            _ => None,
        }
    }
}

/// A route, looked up for one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Whom the packets are handed to: the gateway, or the target itself.
    neighbour: NeighbourKey,
    /// The source address that the kernel would choose.
    source: Option<IpAddr>,
    /// Bound on packets set on the route.
    mtu: Option<u32>,
    /// Prefix length of the network that the target is reached in without a gateway; 0 with one.
    on_link: u8,
}

impl Route {
    /// `None` when it leads nowhere.
    pub(super) fn from_message(message: &RouteMessage, target: IpAddr) -> Option<Self> {
        let (mut ifindex, mut gateway, mut source, mut mtu) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                // An IPv6 gateway of an IPv4 route.
                RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(Self {
            neighbour: NeighbourKey {
                ifindex: ifindex?,
                address: gateway.unwrap_or(target),
            },
            // A source of the link alone is none for packets that may have come from further away.
            source: source.filter(|source| !is_link_local(*source)),
            mtu,
            // Of the target alone, until the network is known.
            on_link: if gateway.is_none() { bits(target) } else { 0 },
        })
    }

    /// Whether packets reach the target without a gateway.
    pub(super) const fn is_on_link(&self) -> bool {
        self.on_link != 0
    }

    /// Tells the network of a target that is reached without a gateway: the prefix length of the matching route.
    pub(super) const fn set_network(&mut self, prefix: u8) {
        // A default route without a gateway makes everything on-link, but no network.
        if self.is_on_link() && prefix != 0 {
            self.on_link = prefix;
        }
    }
}

/// Bits of an address.
pub(super) const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// What a notification calls for, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// It concerns nothing that is used.
    Nothing,
    /// The ways are to be put together again.
    Neighbours,
    /// The routes are to be looked up again.
    Routes,
    /// Notifications were lost: read everything again.
    Everything,
}

/// Routes, links, neighbours and own addresses.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) routes: HashMap<IpAddr, Result<Route, Unresolved>>,
    pub(super) links: HashMap<u32, Link>,
    /// In the kernel's order.
    pub(super) own: Vec<OwnAddress>,
    pub(super) neighbours: HashMap<NeighbourKey, Neighbour>,
}

impl Table {
    /// Takes over what a notification says.
    pub(super) fn apply(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) -> Change {
        let message = match payload {
            NetlinkPayload::InnerMessage(message) => message,
            NetlinkPayload::Overrun(_) => return Change::Everything,
            _ => return Change::Nothing,
        };
        match message {
            RouteNetlinkMessage::NewNeighbour(message) => match Neighbour::from_message(&message) {
                Some((key, neighbour)) => self.change_neighbour(key, Some(neighbour)),
                None => Change::Nothing,
            },
            RouteNetlinkMessage::DelNeighbour(message) => match Neighbour::from_message(&message) {
                Some((key, _)) => self.change_neighbour(key, None),
                None => Change::Nothing,
            },
            // What a bridge says of its ports: less than the port itself does.
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
                if message.header.interface_family == AddressFamily::Bridge =>
            {
                Change::Nothing
            }
            // A link that goes down takes its IPv4 routes with it, without a notification for each.
            RouteNetlinkMessage::NewLink(message) => {
                let (ifindex, link) = Link::from_message(&message);
                self.links.insert(ifindex, link);
                Change::Routes
            }
            RouteNetlinkMessage::DelLink(message) => {
                self.links.remove(&message.header.index);
                Change::Routes
            }
            RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_)
            | RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => Change::Routes,
            _ => Change::Nothing,
        }
    }

    fn change_neighbour(&mut self, key: NeighbourKey, neighbour: Option<Neighbour>) -> Change {
        let before = match neighbour {
            Some(neighbour) => self.neighbours.insert(key, neighbour),
            None => self.neighbours.remove(&key),
        };
        // A busy network tells of every step of every neighbour.
        if before != neighbour && self.used_neighbours().contains(&key) {
            Change::Neighbours
        } else {
            Change::Nothing
        }
    }

    /// The way to each target.
    pub(super) fn ways(&self) -> Ways {
        self.routes
            .iter()
            .map(|(target, route)| {
                let way = match route {
                    Ok(route) => self.way(*target, route),
                    Err(reason) => Way::none(*target, reason.clone()),
                };
                (*target, way)
            })
            .collect()
    }

    fn way(&self, target: IpAddr, route: &Route) -> Way {
        let Some(link) = self.links.get(&route.neighbour.ifindex) else {
            // A route over a link that is not in the table was looked up while the link went.
            return Way::none(target, Unresolved::NoRoute(route.neighbour.address));
        };
        let mtu = route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        let next_hop = self.next_hop(route.neighbour, link, mtu);
        let unresolved = NextHop::new(0, [0; 6], [0; 6], Tags::NONE, mtu);
        let own = || {
            primary(&self.own, route.neighbour.ifindex, |own| {
                own.is_ipv4() == target.is_ipv4()
            })
        };
        Way {
            resolved: Resolved {
                next_hop: *next_hop.as_ref().unwrap_or(&unresolved),
                source: route.source.or_else(own).unwrap_or_else(|| unspecified(target)),
                on_link: route.on_link,
            },
            problem: next_hop.err(),
        }
    }

    /// What the program must know of this host.
    pub(super) fn host(&self) -> Host {
        let ethernet = self.links.iter().filter(|(_, link)| link.mac.is_some());
        Host {
            interfaces: ethernet
                .map(|(ifindex, link)| (*ifindex, self.interface(*ifindex, link)))
                .collect(),
            addresses: self.own.iter().map(|own| own.address).collect(),
        }
    }

    fn interface(&self, ifindex: u32, link: &Link) -> Interface {
        let Exit { ifindex: target, tags } = exit(&self.links, ifindex);
        let mut interface = Interface {
            target,
            tags,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            ..Interface::default()
        };
        if let Some(IpAddr::V4(address)) = primary(&self.own, ifindex, IpAddr::is_ipv4) {
            interface.v4 = V4::from(address);
        }
        if let Some(IpAddr::V6(address)) = primary(&self.own, ifindex, IpAddr::is_ipv6) {
            interface.v6 = V6::from(address);
        }
        interface
    }

    fn next_hop(&self, key: NeighbourKey, link: &Link, mtu: u16) -> Result<NextHop, Unresolved> {
        let source = link.mac.ok_or_else(|| Unresolved::NotEthernet(link.name.clone()))?;
        let neighbour = self.neighbours.get(&key);
        let destination = neighbour
            .and_then(Neighbour::usable)
            .ok_or_else(|| Unresolved::NoNeighbour {
                neighbour: key.address,
                interface: link.name.clone(),
            })?;
        let Exit { ifindex, tags } = exit(&self.links, key.ifindex);
        Ok(NextHop::new(ifindex, destination, source, tags, mtu))
    }

    fn used_neighbours(&self) -> HashSet<NeighbourKey> {
        let routes = self.routes.values().flatten();
        routes
            .map(|route| route.neighbour)
            .filter(|key| self.links.get(&key.ifindex).is_some_and(|link| link.mac.is_some()))
            .collect()
    }

    /// Neighbours on a way whose Ethernet address is not known.
    pub(super) fn missing_neighbours(&self) -> Vec<NeighbourKey> {
        self.used_neighbours_where(|neighbour| neighbour.and_then(Neighbour::usable).is_none())
    }

    /// Neighbours on a way that nobody has heard of for a while.
    pub(super) fn stale_neighbours(&self) -> Vec<NeighbourKey> {
        self.used_neighbours_where(|neighbour| {
            neighbour.is_some_and(|neighbour| neighbour.state == NeighbourState::Stale)
        })
    }

    fn used_neighbours_where(&self, condition: impl Fn(Option<&Neighbour>) -> bool) -> Vec<NeighbourKey> {
        let used = self.used_neighbours().into_iter();
        used.filter(|key| condition(self.neighbours.get(key))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use lb_common::backend::Tag;

    use super::*;
    use crate::netlink::link::Vlan;

    const OWN: MacAddress = [2, 0, 0, 0, 0, 1];
    const PEER: MacAddress = [2, 0, 0, 0, 0, 2];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn neighbour(state: NeighbourState) -> Neighbour {
        Neighbour { state, mac: Some(PEER) }
    }

    fn own(ifindex: u32, address: &str) -> OwnAddress {
        OwnAddress {
            ifindex,
            address: address.parse().unwrap(),
            is_global: true,
            is_second_choice: false,
        }
    }

    /// A table with a way to 192.0.2.9 over gateway 10.0.0.2, whose neighbour is in this state.
    fn table(state: NeighbourState) -> Table {
        let gateway = NeighbourKey {
            ifindex: 3,
            address: address("10.0.0.2"),
        };
        let route = Route {
            neighbour: gateway,
            source: Some(address("10.0.0.1")),
            mtu: None,
            on_link: 0,
        };
        let link = Link {
            name: "eth1".to_owned(),
            mac: Some(OWN),
            mtu: 1500,
            vlan: None,
        };
        Table {
            routes: HashMap::from([(address("192.0.2.9"), Ok(route))]),
            links: HashMap::from([(3, link)]),
            own: vec![own(3, "10.0.0.5")],
            neighbours: HashMap::from([(gateway, neighbour(state))]),
        }
    }

    fn way(table: &Table) -> Way {
        table.ways().remove(&address("192.0.2.9")).unwrap()
    }

    #[test]
    fn way_is_made_of_route_link_and_neighbour() {
        assert_eq!(
            way(&table(NeighbourState::Reachable)),
            Way {
                resolved: Resolved {
                    next_hop: NextHop::new(3, PEER, OWN, Tags::NONE, 1500),
                    source: address("10.0.0.1"),
                    on_link: 0,
                },
                problem: None,
            }
        );
    }

    #[test]
    fn source_and_mtu_are_known_as_long_as_there_is_a_route() {
        let mut tunnel = table(NeighbourState::Reachable);
        tunnel.links.get_mut(&3).unwrap().mac = None;
        for table in [table(NeighbourState::Failed), tunnel] {
            let way = way(&table);
            assert!(way.problem.is_some());
            assert_eq!(
                way.resolved,
                Resolved {
                    next_hop: NextHop::new(0, [0; 6], [0; 6], Tags::NONE, 1500),
                    source: address("10.0.0.1"),
                    on_link: 0,
                }
            );
        }
        let mut gone = table(NeighbourState::Reachable);
        gone.links.clear();
        assert_eq!(way(&gone).resolved, Resolved::unknown(address("192.0.2.9")));
    }

    #[test]
    fn neighbours_are_used_while_they_may_be_there_and_asked_for_otherwise() {
        use NeighbourState::{Delay, Failed, Incomplete, Permanent, Probe, Reachable, Stale};
        for state in [Reachable, Stale, Delay, Probe, Permanent] {
            assert_eq!(way(&table(state)).problem, None, "{state:?}");
            assert_eq!(table(state).missing_neighbours(), [], "{state:?}");
        }
        for state in [Failed, Incomplete, NeighbourState::None] {
            let problem = way(&table(state)).problem.unwrap();
            assert_eq!(
                problem.to_string(),
                "neighbour 10.0.0.2 on eth1 does not answer, check that it is up and in the same network"
            );
            assert_eq!(table(state).missing_neighbours().len(), 1, "{state:?}");
        }
        assert_eq!(table(Stale).stale_neighbours().len(), 1);
        assert_eq!(table(Reachable).stale_neighbours(), []);
    }

    #[test]
    fn smaller_of_the_mtus_of_route_and_link_counts() {
        for (on_route, expected) in [(None, 1500), (Some(1280), 1280), (Some(9000), 1500)] {
            let mut table = table(NeighbourState::Reachable);
            for route in table.routes.values_mut().flatten() {
                route.mtu = on_route;
            }
            assert_eq!(way(&table).resolved.next_hop.mtu, expected);
        }
        let mut jumbo = table(NeighbourState::Reachable);
        jumbo.links.get_mut(&3).unwrap().mtu = 65_536;
        assert_eq!(way(&jumbo).resolved.next_hop.mtu, u16::MAX);
    }

    #[test]
    fn way_over_a_vlan_device_leaves_below_it_with_its_tag() {
        let mut table = table(NeighbourState::Reachable);
        table.links.get_mut(&3).unwrap().vlan = Some(Vlan {
            lower: 2,
            tag: Tag::customer(100),
        });
        let lower = Link {
            name: "eth0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 9]),
            mtu: 9000,
            vlan: None,
        };
        table.links.insert(2, lower);
        let tags = Tags {
            outer: Tag::customer(100),
            inner: Tag::NONE,
        };
        assert_eq!(way(&table).resolved.next_hop, NextHop::new(2, PEER, OWN, tags, 1500));
        let interface = table.host().interfaces[&3];
        assert_eq!((interface.target, interface.tags, interface.mtu), (2, tags, 1500));
    }

    #[test]
    fn without_a_preferred_source_the_interfaces_own_address_is_used() {
        let mut table = table(NeighbourState::Reachable);
        table.own = vec![own(4, "10.0.0.4"), own(3, "2001:db8::3"), own(3, "10.0.0.3")];
        for route in table.routes.values_mut().flatten() {
            route.source = None;
        }
        assert_eq!(way(&table).resolved.source, address("10.0.0.3"));
        table.own.pop();
        assert_eq!(way(&table).resolved.source, address("0.0.0.0"));
    }

    #[test]
    fn every_ethernet_interface_is_told_of_with_its_addresses() {
        let mut table = table(NeighbourState::Reachable);
        table.own = vec![own(3, "10.0.0.5"), own(3, "2001:db8::5"), own(1, "203.0.113.10")];
        let loopback = Link {
            name: "lo".to_owned(),
            mac: None,
            mtu: 65_536,
            vlan: None,
        };
        table.links.insert(1, loopback);
        let host = table.host();
        let expected = Interface {
            target: 3,
            mtu: 1500,
            v4: V4::from(Ipv4Addr::new(10, 0, 0, 5)),
            v6: V6::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5)),
            ..Interface::default()
        };
        assert_eq!(host.interfaces.into_iter().collect::<Vec<_>>(), [(3, expected)]);
        assert!(host.addresses.contains(&address("203.0.113.10")), "whatever it is on");
    }

    #[test]
    fn network_of_a_route_counts_only_without_a_gateway() {
        let route = |on_link| Route {
            neighbour: NeighbourKey {
                ifindex: 3,
                address: address("10.0.0.2"),
            },
            source: None,
            mtu: None,
            on_link,
        };
        for (before, prefix, after) in [(32, 24, 24), (32, 0, 32), (0, 24, 0)] {
            let mut route = route(before);
            route.set_network(prefix);
            assert_eq!(route.on_link, after);
        }
    }

    #[test]
    fn tunnels_are_refused_with_a_reason_and_nobody_is_asked_for() {
        let mut table = table(NeighbourState::Failed);
        table.links.get_mut(&3).unwrap().mac = None;
        assert_eq!(way(&table).problem, Some(Unresolved::NotEthernet("eth1".to_owned())));
        assert_eq!(table.missing_neighbours(), []);
    }

    #[test]
    fn only_neighbours_in_use_call_for_new_ways() {
        let mut table = table(NeighbourState::Reachable);
        let used = *table.neighbours.keys().next().unwrap();
        let other = NeighbourKey {
            address: address("10.0.0.77"),
            ..used
        };
        let stale = Some(neighbour(NeighbourState::Stale));
        assert_eq!(table.change_neighbour(other, stale), Change::Nothing);
        assert_eq!(table.change_neighbour(used, stale), Change::Neighbours);
        assert_eq!(table.change_neighbour(used, stale), Change::Nothing, "nothing new");
        assert_eq!(table.change_neighbour(used, None), Change::Neighbours);
        assert!(way(&table).problem.is_some());
    }
}
