//! What ways are made of, and how: pure, so that it is tested without a kernel.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use lb_common::backend::{MacAddress, NextHop};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteVia},
};
use rtnetlink::packet_core::NetlinkPayload;

use super::{Resolved, Unresolved, Way, Ways};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    name: String,
    /// `None` when it does not carry Ethernet frames.
    mac: Option<MacAddress>,
    mtu: u32,
}

impl Link {
    pub(super) fn from_message(message: &LinkMessage) -> (u32, Self) {
        let mut link = Self {
            name: String::new(),
            mac: None,
            mtu: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(address) if message.header.link_layer_type == LinkLayerType::Ether => {
                    link.mac = address.as_slice().try_into().ok();
                }
                _ => {}
            }
        }
        (message.header.index, link)
    }
}

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
    source: IpAddr,
    /// Bound on packets set on the route.
    mtu: Option<u32>,
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
            source: source?,
            mtu,
        })
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

/// Routes, links and neighbours.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) routes: HashMap<IpAddr, Result<Route, Unresolved>>,
    pub(super) links: HashMap<u32, Link>,
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
        let next_hop = self.next_hop(route.neighbour, link);
        Way {
            resolved: Resolved {
                next_hop: *next_hop.as_ref().unwrap_or(&NextHop::UNKNOWN),
                mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
                source: route.source,
            },
            problem: next_hop.err(),
        }
    }

    fn next_hop(&self, key: NeighbourKey, link: &Link) -> Result<NextHop, Unresolved> {
        let source = link.mac.ok_or_else(|| Unresolved::NotEthernet(link.name.clone()))?;
        let neighbour = self.neighbours.get(&key);
        let destination = neighbour
            .and_then(Neighbour::usable)
            .ok_or_else(|| Unresolved::NoNeighbour {
                neighbour: key.address,
                interface: link.name.clone(),
            })?;
        Ok(NextHop {
            ifindex: key.ifindex,
            destination,
            source,
        })
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
    use super::*;

    const OWN: MacAddress = [2, 0, 0, 0, 0, 1];
    const PEER: MacAddress = [2, 0, 0, 0, 0, 2];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn neighbour(state: NeighbourState) -> Neighbour {
        Neighbour { state, mac: Some(PEER) }
    }

    /// A table with a way to 192.0.2.9 over gateway 10.0.0.2, whose neighbour is in this state.
    fn table(state: NeighbourState) -> Table {
        let gateway = NeighbourKey {
            ifindex: 3,
            address: address("10.0.0.2"),
        };
        let route = Route {
            neighbour: gateway,
            source: address("10.0.0.1"),
            mtu: None,
        };
        let link = Link {
            name: "eth1".to_owned(),
            mac: Some(OWN),
            mtu: 1500,
        };
        Table {
            routes: HashMap::from([(address("192.0.2.9"), Ok(route))]),
            links: HashMap::from([(3, link)]),
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
                    next_hop: NextHop {
                        ifindex: 3,
                        destination: PEER,
                        source: OWN,
                    },
                    mtu: 1500,
                    source: address("10.0.0.1"),
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
                    next_hop: NextHop::UNKNOWN,
                    mtu: 1500,
                    source: address("10.0.0.1"),
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
            assert_eq!(way(&table).resolved.mtu, expected);
        }
        let mut jumbo = table(NeighbourState::Reachable);
        jumbo.links.get_mut(&3).unwrap().mtu = 65_536;
        assert_eq!(way(&jumbo).resolved.mtu, u16::MAX);
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
