//! Map values as the log and the dump show them.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{
    backend::{MacAddress, NextHop, Tags},
    connection::Direction,
    interface::Interface,
    role::Roles,
    service::{Forwarding, Scheduler, Service},
    settings::{PortRange, Settings},
};

use crate::dataplane::{BackendEntry, BackendId, ConnectionEntry, Family, Tuple};

/// Slot tables up to this length are printed slot by slot, longer ones as the number of slots of each backend.
const SLOTS_IN_FULL: usize = 24;

/// A map value as a line of the log and of the dump shows it.
pub(super) struct Shown<'a, T: ?Sized>(pub(super) &'a T);

impl Display for Shown<'_, Settings> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            layout,
            hash_seed,
            half_open_max,
            snat_addresses_v4,
            snat_addresses_v6,
            port_prefixes,
            snat_ports,
            host_ports,
        } = self.0;
        write!(
            f,
            "layout={layout} hash_seed={hash_seed} half_open_max={half_open_max} \
             snat_addresses={snat_addresses_v4}+{snat_addresses_v6} port_prefixes={port_prefixes} snat_ports={} \
             host_ports={}",
            Shown(snat_ports),
            Shown(host_ports)
        )
    }
}

impl Display for Shown<'_, PortRange> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0 => f.write_str("none"),
            _ => write!(f, "{}-{}", self.0.first, self.0.last),
        }
    }
}

impl Display for Shown<'_, [IpAddr]> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&if addresses.is_empty() {
            "none".to_owned()
        } else {
            addresses.join(" ")
        })
    }
}

impl Display for Shown<'_, Family> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

impl Display for Shown<'_, Roles> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = [
            (Roles::VIP, "vip"),
            (Roles::BACKEND, "backend"),
            (Roles::SNAT, "snat"),
            (Roles::ANSWER_ECHO, "answer_echo"),
            (Roles::REFUSE_ECHO, "refuse_echo"),
        ]
        .into_iter()
        .filter_map(|(role, name)| self.0.any(role).then_some(name))
        .collect();
        f.write_str(&names.join(" "))
    }
}

impl Display for Shown<'_, Interface> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interface {
            target,
            tags,
            mtu,
            padding: _,
            v4,
            v6,
        } = self.0;
        write!(f, "out of {target}{} mtu {mtu}", Shown(tags))?;
        for address in [IpAddr::V4(Ipv4Addr::from(*v4)), IpAddr::V6(Ipv6Addr::from(*v6))] {
            if !address.is_unspecified() {
                write!(f, " {address}")?;
            }
        }
        Ok(())
    }
}

impl Display for Shown<'_, Tags> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for tag in [self.0.outer, self.0.inner] {
            if tag.is_present() {
                let kind = if tag.is_service() { "service " } else { "" };
                write!(f, " {kind}tag {}", tag.vlan())?;
            }
        }
        Ok(())
    }
}

impl Display for Shown<'_, Service> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Service {
            scheduler, forwarding, ..
        } = *self.0;
        let scheduler = [
            (Scheduler::RoundRobin, "round_robin"),
            (Scheduler::Random, "random"),
            (Scheduler::SourceHash, "source_hash"),
            (Scheduler::Maglev, "maglev"),
        ]
        .into_iter()
        .find_map(|(known, name)| (known as u8 == scheduler).then_some(name));
        let forwarding = [
            (Forwarding::Nat, "nat"),
            (Forwarding::FullNat, "full_nat"),
            (Forwarding::Dsr, "dsr"),
        ]
        .into_iter()
        .find_map(|(known, name)| (known as u8 == forwarding).then_some(name));
        write!(
            f,
            "{} {}",
            scheduler.unwrap_or("scheduler?"),
            forwarding.unwrap_or("forwarding?")
        )
    }
}

impl Display for Shown<'_, [BackendId]> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        if self.0.len() <= SLOTS_IN_FULL {
            let ids: Vec<String> = self.0.iter().map(|id| id.0.to_string()).collect();
            return f.write_str(&ids.join(" "));
        }
        let mut counts: BTreeMap<BackendId, usize> = BTreeMap::new();
        for id in self.0 {
            *counts.entry(*id).or_default() += 1;
        }
        write!(f, "{} in all", self.0.len())?;
        for (id, count) in counts {
            write!(f, ", {count} of {}", id.0)?;
        }
        Ok(())
    }
}

impl Display for Shown<'_, BackendEntry> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BackendEntry {
            service,
            address,
            alive,
            next_hop,
            source,
            on_link,
        } = self.0;
        let alive = if *alive { "alive" } else { "dead" };
        write!(f, "service {} {address} {alive} {}", service.0, Shown(next_hop))?;
        if !source.is_unspecified() {
            write!(f, " source {source}")?;
        }
        if *on_link != 0 {
            write!(f, " on-link /{on_link}")?;
        }
        Ok(())
    }
}

impl Display for Shown<'_, NextHop> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NextHop {
            ifindex,
            destination,
            source,
            tags,
            mtu,
            ..
        } = self.0;
        if self.0.is_known() {
            write!(
                f,
                "via {ifindex}{} {} from {}",
                Shown(tags),
                Shown(destination),
                Shown(source)
            )?;
        } else {
            f.write_str("unresolved")?;
        }
        if *mtu != 0 {
            write!(f, " mtu {mtu}")?;
        }
        Ok(())
    }
}

impl Display for Shown<'_, MacAddress> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&bytes.join(":"))
    }
}

impl Display for Shown<'_, Tuple> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.0.protocol, self.0.source, self.0.destination)
    }
}

impl Display for Shown<'_, ConnectionEntry> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.0.direction {
            Direction::Forward => "forward",
            Direction::Reply => "reply",
            Direction::Direct => "direct",
        };
        write!(
            f,
            "connection {} {direction} service {} backend {}",
            Shown(&self.0.key),
            self.0.service.0,
            self.0.backend.0
        )
    }
}
