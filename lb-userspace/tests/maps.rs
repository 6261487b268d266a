//! What is written into the kernel's maps is what a later agent reads back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::IpAddr, path::PathBuf};

use lb_common::{
    LAYOUT_VERSION,
    address::{V4, V6},
    backend::{NextHop, Tag, Tags},
    interface::Interface,
    role::Roles,
    service::{Forwarding, Scheduler, Service},
    settings::{PortRange, Settings},
};
use nix::unistd::{geteuid, getpid};
use xlb::{
    dataplane::{
        BackendEntry, BackendId, Dataplane, Family, ListenerEntry, ServiceId,
        aya::{AyaDataplane, Options, remove_all},
        fake::FakeDataplane,
        pins::Pins,
    },
    model::{Listener, Ports, Protocol},
};

const OPTIONS: Options = Options {
    max_connections: 1_000,
    max_half_open: 100,
};

/// A pin directory of its own, removed with the test.
struct Directory(PathBuf);

impl Directory {
    /// `None` where the test can't run.
    fn new(test: &str) -> Option<Self> {
        if !geteuid().is_root() {
            println!("skipped: maps need root");
            return None;
        }
        Some(Self(PathBuf::from(format!("/sys/fs/bpf/xlb-maps-{}-{test}", getpid()))))
    }

    fn open(&self) -> AyaDataplane {
        AyaDataplane::open(Pins::create(&self.0).unwrap(), OPTIONS).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Ok(Some(pins)) = Pins::open(&self.0) {
            let _nobody_to_tell = remove_all(pins, &[]);
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn listener(address: &str, protocol: Protocol, first: u16, last: u16) -> Listener {
    Listener {
        address: ip(address),
        ports: Ports { first, last },
        protocol,
    }
}

fn backend(service: u32, address: &str, source: &str) -> BackendEntry {
    let tags = Tags {
        outer: Tag::service(100),
        inner: Tag::customer(200),
    };
    BackendEntry {
        service: ServiceId(service),
        address: address.parse().unwrap(),
        alive: true,
        next_hop: NextHop::new(7, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], tags, 1400),
        source: ip(source),
        on_link: 24,
    }
}

/// One of everything, of both families.
fn fill(dataplane: &mut dyn Dataplane) {
    let listeners = [
        (listener("203.0.113.10", Protocol::Tcp, 80, 80), 1),
        (listener("203.0.113.10", Protocol::Udp, 8000, 8100), 1),
        (listener("203.0.113.11", Protocol::Tcp, 1, 65_535), 1),
        (listener("2001:db8::10", Protocol::Tcp, 443, 443), 2),
        (listener("2001:db8::10", Protocol::Udp, 1, 65_534), 2),
        (listener("2001:db8::11", Protocol::Udp, 1, 65_535), 2),
    ];
    for (listener, service) in listeners {
        for entry in ListenerEntry::of(&listener) {
            dataplane.set_listener(entry, ServiceId(service)).unwrap();
        }
    }
    for (id, forwarding) in [(1, Forwarding::Nat), (2, Forwarding::Dsr)] {
        let service = Service::new(Scheduler::Maglev, forwarding);
        dataplane.set_service(ServiceId(id), service).unwrap();
        dataplane.set_slots(ServiceId(id), &[BackendId(id)]).unwrap();
    }
    let v4 = backend(1, "10.0.0.11:0", "10.0.0.1");
    let v6 = backend(2, "[2001:db8:a::11]:8443", "2001:db8:a::1");
    dataplane.set_backend(BackendId(1), &v4).unwrap();
    dataplane.set_backend(BackendId(2), &v6).unwrap();
    for (family, addresses) in [
        (Family::V4, vec![ip("192.0.2.10"), ip("192.0.2.11")]),
        (Family::V6, vec![ip("2001:db8::20")]),
    ] {
        dataplane.set_snat_addresses(family, &addresses).unwrap();
    }
    dataplane.set_roles(ip("203.0.113.10"), Roles(Roles::VIP)).unwrap();
    dataplane
        .set_roles(ip("2001:db8:a::11"), Roles(Roles::BACKEND))
        .unwrap();
    let interface = Interface {
        target: 7,
        tags: v4.next_hop.tags,
        mtu: 1400,
        padding: 0,
        v4: V4::from(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        v6: V6::from(std::net::Ipv6Addr::LOCALHOST),
    };
    dataplane.set_interface(9, interface).unwrap();
    dataplane.set_settings(settings()).unwrap();
}

fn settings() -> Settings {
    Settings {
        layout: LAYOUT_VERSION,
        half_open_max: 100,
        snat_addresses_v4: 2,
        snat_addresses_v6: 1,
        port_prefixes: 32,
        host_ports: PortRange::EMPTY,
        ..Settings::default()
    }
}

/// Everything that an agent reads, in a fixed order.
fn read(dataplane: &dyn Dataplane) -> String {
    let mut copy = FakeDataplane::new();
    for (entry, service) in dataplane.listeners().unwrap() {
        copy.set_listener(entry, service).unwrap();
    }
    for (id, service) in dataplane.services().unwrap() {
        copy.set_service(id, service).unwrap();
        copy.set_slots(id, &dataplane.slots(id).unwrap()).unwrap();
    }
    for (id, backend) in dataplane.backends().unwrap() {
        copy.set_backend(id, &backend).unwrap();
    }
    for family in Family::ALL {
        copy.set_snat_addresses(family, &dataplane.snat_addresses(family).unwrap())
            .unwrap();
    }
    for (address, roles) in dataplane.roles().unwrap() {
        copy.set_roles(address, roles).unwrap();
    }
    for (ifindex, interface) in dataplane.interfaces().unwrap() {
        copy.set_interface(ifindex, interface).unwrap();
    }
    if let Some(settings) = dataplane.settings().unwrap() {
        copy.set_settings(settings).unwrap();
    }
    copy.dump()
}

#[test]
fn adopted_maps_say_what_was_written() {
    let Some(directory) = Directory::new("adopted") else {
        return;
    };
    let mut expected = FakeDataplane::new();
    fill(&mut expected);
    let mut first = directory.open();
    assert!(!first.is_adopted());
    fill(&mut first);
    assert_eq!(read(&first), expected.dump(), "as remembered");
    drop(first);
    let second = directory.open();
    assert!(second.is_adopted());
    assert_eq!(read(&second), expected.dump(), "as read back");
}

#[test]
fn removed_entries_are_gone_for_a_later_agent() {
    let Some(directory) = Directory::new("removed") else {
        return;
    };
    let mut first = directory.open();
    fill(&mut first);
    for (entry, _) in first.listeners().unwrap() {
        first.remove_listener(entry).unwrap();
        first.remove_listener(entry).unwrap();
    }
    for id in [1, 2] {
        first.remove_service(ServiceId(id)).unwrap();
        first.remove_backend(BackendId(id)).unwrap();
    }
    for (address, _) in first.roles().unwrap() {
        first.remove_roles(address).unwrap();
    }
    first.remove_interface(9).unwrap();
    first
        .set_settings(Settings {
            layout: LAYOUT_VERSION,
            ..Settings::default()
        })
        .unwrap();
    let empty = read(&first);
    assert_eq!(empty.lines().count(), 1 + 2, "settings and pools only: {empty}");
    drop(first);
    let left = read(&directory.open());
    assert_eq!(left.lines().count(), 1, "settings only: {left}");
}

#[test]
fn an_id_given_to_the_other_family_has_one_record() {
    let Some(directory) = Directory::new("family") else {
        return;
    };
    let mut first = directory.open();
    first.set_settings(settings()).unwrap();
    let v6 = backend(1, "[2001:db8:a::11]:8443", "2001:db8:a::1");
    let v4 = backend(1, "10.0.0.11:8080", "10.0.0.1");
    first.set_backend(BackendId(1), &v6).unwrap();
    first.set_backend(BackendId(1), &v4).unwrap();
    drop(first);
    assert_eq!(directory.open().backends().unwrap(), [(BackendId(1), v4)]);
}
