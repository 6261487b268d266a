//! The configuration that the traffic of these tests meets: every forwarding mode, in both families.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
};

use lb_common::{
    backend::{NextHop, Tag, Tags},
    flow::protocol,
    interface::Interface,
    role::Roles,
    service::{Forwarding, Scheduler, Service as Record},
    settings::{PortRange, Settings},
};
use lb_tests::{
    model::{Backend, Config, Service},
    names::{BACKEND_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS, GATEWAY_TO_CLIENTS_V6, SNAT},
};
use xlb::{
    dataplane::{self, BackendEntry, BackendId, Dataplane as _, ServiceId},
    model::{Listener, Ports, Protocol},
};

use crate::fixture::{Fixture, IFINDEX, settings};

/// Translates the destination.
pub(super) const NAT_PORT: u16 = 80;
/// Translates the destination, for clients in the backends' own network.
pub(super) const ONE_ARM_PORT: u16 = 81;
/// Shares its backends with [`NAT_PORT`].
pub(super) const SHARED_PORT: u16 = 82;
/// Has no backend.
pub(super) const EMPTY_PORT: u16 = 83;
/// Translates source and destination.
pub(super) const FULL_NAT_PORT: u16 = 443;
/// As [`FULL_NAT_PORT`].
pub(super) const FULL_NAT_PORTS: RangeInclusive<u16> = 5000..=5999;
/// Nobody listens here.
pub(super) const CLOSED_PORT: u16 = 9999;

/// Largest packet on the way to the second backend of a service.
const NARROW: u16 = 1400;

/// The configuration for a run with this number: some have less room, or know less.
pub(super) fn config(number: u64) -> Config {
    let range = |first, last| PortRange { first, last };
    // Few enough for all of them to be taken, and for the program to try all of them.
    let (snat_ports, host_ports) = if number % 8 == 5 {
        (range(20_000, 20_005), range(20_002, 20_003))
    } else {
        (settings().snat_ports, range(32_768, 60_999))
    };
    let mut config = Config {
        settings: Settings {
            half_open_max: if number % 4 == 3 { 15 } else { 1_000_000 },
            snat_addresses_v4: 2,
            // Any number but 0.
            port_prefixes: 1,
            snat_ports,
            host_ports,
            ..settings()
        },
        snat: vec![SNAT.into(), Ipv4Addr::new(192, 0, 2, 11).into()],
        listeners: Vec::new(),
        services: BTreeMap::new(),
        backends: BTreeMap::new(),
        roles: BTreeMap::new(),
        interfaces: BTreeMap::new(),
    };
    if number.is_multiple_of(2) {
        let interface = Interface {
            target: IFINDEX,
            mtu: 1500,
            v4: GATEWAY_TO_CLIENTS.into(),
            v6: GATEWAY_TO_CLIENTS_V6.into(),
            ..Interface::default()
        };
        config.interfaces.insert(IFINDEX, interface);
    }
    for (family, first_id) in [(Family::V4, 1), (Family::V6, 11)] {
        add_family(&mut config, family, first_id);
    }
    config
}

fn add_family(config: &mut Config, family: Family, first_id: u32) {
    let (vip, direct_vip) = (family.vip(), family.vip_2());
    let one = |port: u16| port..=port;
    let services = [
        (vip, vec![one(NAT_PORT)], Scheduler::RoundRobin, Forwarding::Nat),
        (
            vip,
            vec![one(FULL_NAT_PORT), FULL_NAT_PORTS],
            Scheduler::SourceHash,
            Forwarding::FullNat,
        ),
        (direct_vip, vec![0..=u16::MAX], Scheduler::Maglev, Forwarding::Dsr),
        (vip, vec![one(ONE_ARM_PORT)], Scheduler::RoundRobin, Forwarding::Nat),
        (vip, vec![one(SHARED_PORT)], Scheduler::Maglev, Forwarding::Nat),
        (vip, vec![one(EMPTY_PORT)], Scheduler::RoundRobin, Forwarding::Nat),
    ];
    for (id, (address, ports, scheduler, forwarding)) in (first_id..).zip(services) {
        for protocol in [protocol::TCP, protocol::UDP] {
            let listeners = ports.iter().map(|ports| (address, ports.clone(), protocol, id));
            config.listeners.extend(listeners);
        }
        let mut slots = Vec::new();
        if ports[0] != one(EMPTY_PORT) {
            for number in 1..=3 {
                let backend_id = 10 * id + u32::from(number);
                let backend = backend(family, id, number, ports[0] == one(ONE_ARM_PORT), forwarding);
                config.backends.insert(backend_id, backend);
                slots.push(backend_id);
            }
        }
        let service = Service {
            scheduler,
            forwarding,
            slots,
        };
        config.services.insert(id, service);
    }
    let roles = [
        (vip, Roles::VIP | Roles::ANSWER_ECHO),
        (direct_vip, Roles::VIP | Roles::REFUSE_ECHO),
        (family.snat(), Roles::SNAT),
    ];
    let backends = (1..=3).map(|number| (family.backend(number), Roles::BACKEND));
    let roles = roles.into_iter().chain(backends);
    config
        .roles
        .extend(roles.map(|(address, roles)| (address, Roles(roles))));
}

fn backend(family: Family, service: u32, number: u8, one_arm: bool, forwarding: Forwarding) -> Backend {
    let (tags, mtu) = match number {
        1 => (Tags::NONE, 1500),
        2 => (
            Tags {
                outer: Tag::customer(7),
                inner: Tag::NONE,
            },
            NARROW,
        ),
        _ => (
            Tags {
                outer: Tag::service(8),
                inner: Tag::customer(9),
            },
            0,
        ),
    };
    Backend {
        service,
        address: SocketAddr::from((
            family.backend(number),
            if forwarding == Forwarding::Nat { 8080 } else { 0 },
        )),
        alive: true,
        next_hop: NextHop::new(IFINDEX, BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC, tags, mtu),
        source: match forwarding {
            Forwarding::Nat if !one_arm => family.unspecified(),
            _ => family.gateway_to_backends(),
        },
        on_link: if one_arm { family.prefix_length() } else { 0 },
    }
}

/// Writes what every configuration has into the maps.
pub(super) fn write_services(config: &Config, fixture: &mut Fixture) {
    let dataplane = &mut fixture.dataplane;
    for (family, wanted) in [
        (dataplane::Family::V4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
        (dataplane::Family::V6, IpAddr::is_ipv6),
    ] {
        let pool: Vec<IpAddr> = config.snat.iter().copied().filter(wanted).collect();
        dataplane.set_snat_addresses(family, &pool).expect("the pool");
    }
    for (id, service) in &config.services {
        let id = ServiceId(*id);
        let record = Record::new(service.scheduler, service.forwarding);
        dataplane.set_service(id, record).expect("a service");
        let slots: Vec<BackendId> = service.slots.iter().copied().map(BackendId).collect();
        dataplane.set_slots(id, &slots).expect("slots");
    }
    for (address, roles) in &config.roles {
        dataplane.set_roles(*address, *roles).expect("roles");
    }
    for (address, ports, protocol, service) in &config.listeners {
        let listener = Listener {
            address: *address,
            ports: Ports {
                first: (*ports.start()).max(1),
                last: *ports.end(),
            },
            protocol: protocol_of(*protocol),
        };
        fixture.listen(listener, ServiceId(*service));
    }
}

/// Writes what differs between the configurations, and what may have changed since. Services are not written again: the kernel waits for
/// every packet on its way when slots are replaced.
pub(super) fn write_conditions(config: &Config, fixture: &mut Fixture) {
    let dataplane = &mut fixture.dataplane;
    dataplane.set_settings(config.settings).expect("the settings");
    dataplane.remove_interface(IFINDEX).expect("no interface");
    for (ifindex, interface) in &config.interfaces {
        dataplane.set_interface(*ifindex, *interface).expect("an interface");
    }
    for (id, backend) in &config.backends {
        write_backend(*id, backend, fixture);
    }
}

/// Writes a backend into its map.
pub(super) fn write_backend(id: u32, backend: &Backend, fixture: &mut Fixture) {
    let entry = BackendEntry {
        service: ServiceId(backend.service),
        address: backend.address,
        alive: backend.alive,
        next_hop: backend.next_hop,
        source: backend.source,
        on_link: backend.on_link,
    };
    fixture.dataplane.set_backend(BackendId(id), &entry).expect("a backend");
}

/// TCP or UDP, as the agent has it.
pub(super) const fn protocol_of(number: u8) -> Protocol {
    match number {
        protocol::TCP => Protocol::Tcp,
        _ => Protocol::Udp,
    }
}
