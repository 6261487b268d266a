//! Links that take longer packets than Ethernet's 1500 bytes. From about 3500 on, a packet in native mode lies in several pieces of memory.

use std::net::UdpSocket;

use anyhow::Context as _;
use lb_tests::{
    counters::Counters,
    names::Family,
    namespace::Namespace,
    offloads,
    packet::Packet,
    raw_socket::RawSocket,
    topology::{Lab, LabOptions},
    wait::until_true,
};

use crate::{
    scene::{Cell, MATRIX_BOTH_FAMILIES, PATIENCE, Scene, configuration_without_checks},
    sockets::{PORT, connection, content, transfer, udp},
};

/// Around what one page of memory holds, and both ends of the range.
const MTUS: [u16; 4] = [1500, 3500, 3600, 9000];

fn start(cell: Cell, mtu: u16) -> Scene {
    let options = LabOptions {
        ipv6: cell.family == Family::V6,
        mtu,
        ..LabOptions::default()
    };
    let lab = Lab::with(options).expect("a laboratory");
    // As on a real wire: receivers verify every checksum.
    for (router, device) in [(&lab.client_router, "client1"), (&lab.backend_router, "backend1")] {
        offloads::switch_off(router, device).expect("a device");
    }
    let scene = Scene::without_backends(lab, cell.family, &configuration_without_checks(cell));
    scene.wait_until_up(1);
    scene
}

/// What a UDP datagram holds that fills a packet.
fn room(family: Family, mtu: u16) -> usize {
    let headers = match family {
        Family::V4 => 20 + 8,
        Family::V6 => 40 + 8,
    };
    usize::from(mtu) - headers
}

/// States that packets as long as the links take pass in one piece both ways, with right checksums, by TCP and UDP.
fn longest_packets_pass(cell: Cell, scene: &Scene, mtu: u16) {
    let what = format!("{cell}, mtu {mtu}");
    let hosts = [&scene.lab.clients[0], &scene.lab.backends[0]];
    let counters = || hosts.map(|host| Counters::of(host).expect("counters"));
    let (before, refused) = (counters(), scene.counted("too_big"));

    let server = udp(hosts[1], cell.family.unspecified(), PORT);
    let client = udp(hosts[0], cell.family.unspecified(), 0);
    client.connect(scene.service).expect("a socket");
    let sent = content(room(cell.family, mtu));
    for _ in 0..20 {
        client.send(&sent).expect("a socket");
        let mut buffer = [0; 10_000];
        let (length, peer) = server
            .recv_from(&mut buffer)
            .with_context(|| format!("{what}, up"))
            .expect("a datagram");
        assert!(buffer[..length] == sent, "{what}, up: {length} bytes");
        server.send_to(&sent, peer).expect("a socket");
        assert_arrives(&client, &sent, &what);
    }
    drop(server);

    for upwards in [true, false] {
        let (client, server) = connection(scene);
        let (from, to) = if upwards {
            (&client, &server)
        } else {
            (&server, &client)
        };
        transfer(from, to, 2_000_000);
    }

    for (before, after) in before.iter().zip(counters()) {
        let changes = after.since(before);
        assert_eq!(changes.checksum_errors(), 0, "{what}: {changes:?}");
        for counter in ["IpFragCreates", "Ip6FragCreates"] {
            assert_eq!(changes.get(counter), None, "{what}: {changes:?}");
        }
    }
    assert_eq!(scene.counted("too_big"), refused, "{what}");
}

fn assert_arrives(socket: &UdpSocket, expected: &[u8], what: &str) {
    let mut buffer = [0; 10_000];
    let length = socket
        .recv(&mut buffer)
        .with_context(|| format!("{what}, down"))
        .expect("a datagram");
    assert!(buffer[..length] == *expected, "{what}, down: {length} bytes");
}

#[test]
fn longest_packets_of_wide_links_pass_in_one_piece() {
    let nat = |cell: &Cell| cell.forwarding == "nat";
    for cell in MATRIX_BOTH_FAMILIES.into_iter().filter(nat) {
        for mtu in MTUS {
            longest_packets_pass(cell, &start(cell, mtu), mtu);
        }
    }
}

#[test]
fn links_may_become_wider_while_xlb_is_attached() {
    let nat = |cell: &Cell| cell.forwarding == "nat";
    for cell in MATRIX_BOTH_FAMILIES.into_iter().filter(nat) {
        let scene = start(cell, 1500);
        for namespace in scene.lab.namespaces() {
            widen(namespace, 9000);
        }
        wait_until_known(cell, &scene);
        longest_packets_pass(cell, &scene, 9000);
    }
}

/// Gives every device this MTU, ends of the routers' bridges before the bridges.
fn widen(namespace: &Namespace, mtu: u16) {
    let links = namespace.ip("-brief link").expect("links");
    let names = links.lines().filter_map(|line| line.split([' ', '@']).next());
    let (bridges, others): (Vec<_>, Vec<_>) = names.filter(|name| *name != "lo").partition(|name| *name == "lan");
    for device in others.into_iter().chain(bridges) {
        namespace.ip(&format!("link set {device} mtu {mtu}")).expect("a device");
    }
}

/// Waits until xlb has noticed. Single frames ask for it: a socket would remember the answer "too big" for minutes.
fn wait_until_known(cell: Cell, scene: &Scene) {
    let (client, router) = (&scene.lab.clients[0], &scene.lab.client_router);
    let server = udp(&scene.lab.backends[0], cell.family.unspecified(), PORT);
    server.set_nonblocking(true).expect("a socket");
    let wire = RawSocket::open(client, "eth0").expect("a device");
    let datagram = Packet::udp()
        .from(cell.family.client(1), 4000)
        .to(scene.service.ip(), scene.service.port());
    let macs = (
        client.mac("eth0").expect("an address"),
        router.mac("lan").expect("an address"),
    );
    let frame = datagram.ethernet(macs.0, macs.1).payload(&content(8000)).build();
    until_true("a long packet that passes", PATIENCE, || {
        wire.send(&frame).expect("a device that is up");
        server.recv_from(&mut [0; 10_000]).is_ok()
    })
    .with_context(|| format!("{cell}: {}", scene.status()["verdicts"]))
    .expect("xlb learns of it");
}
