//! ICMP and ICMPv6 as clients see them: errors about their packets, answers to their pings, the hops on the way.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use anyhow::Context as _;
use lb_tests::{
    diff::{checksums_valid, endpoints},
    layers::{self, ICMP, ICMPV6, IpPacket, TCP},
    names::Family,
    packet::{Packet, TcpFlags},
    raw_socket::RawSocket,
    topology::{Lab, LabOptions},
    wait::until_true,
};

use crate::{
    scene::{Cell, MATRIX_BOTH_FAMILIES, PATIENCE, Scene, configuration_without_checks, lab_with},
    sockets::{PORT, listen, udp},
};

/// How long nothing must come before a test believes that nothing will.
const SILENCE: Duration = Duration::from_millis(300);

fn start(cell: Cell, lab: Lab, more: &str) -> Scene {
    let scene = Scene::without_backends(lab, cell.family, &(configuration_without_checks(cell) + more));
    scene.wait_until_up(1);
    scene
}

/// What a connected socket is told when it sends.
fn told(socket: &UdpSocket) -> io::Result<usize> {
    socket.send(b"anybody there?")?;
    socket.recv(&mut [0; 64])
}

#[test]
fn socket_is_told_that_its_backend_serves_no_more() {
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = start(cell, lab_with(cell.family), "");
        let server = udp(&scene.lab.backends[0], cell.family.unspecified(), PORT);
        let client = udp(&scene.lab.clients[0], cell.family.unspecified(), 0);
        client.connect(scene.service).expect("a socket");
        client.send(b"question").expect("a socket");
        let (_, peer) = server.recv_from(&mut [0; 64]).expect("a datagram");
        server.send_to(b"answer", peer).expect("a socket");
        assert_eq!(client.recv(&mut [0; 64]).expect("a datagram"), 6, "{cell}");

        drop(server);
        // A process that another test starts at this moment holds the socket a little longer, so one datagram may not do.
        client.set_read_timeout(Some(SILENCE)).expect("a socket");
        until_true("a refusal", PATIENCE, || {
            told(&client).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        })
        .unwrap_or_else(|error| panic!("{cell}: {error}; {}", scene.status()["verdicts"]));
        assert!(scene.counted("icmp_error") > 0, "{cell}");
    }
}

/// The first client's device, for single frames to the VIP.
struct Wire {
    family: Family,
    socket: RawSocket,
    client: lb_tests::names::Mac,
    router: lb_tests::names::Mac,
}

impl Wire {
    fn of(scene: &Scene, family: Family) -> Self {
        let lab = &scene.lab;
        Self {
            family,
            socket: RawSocket::open(&lab.clients[0], "eth0").expect("a device"),
            client: lab.clients[0].mac("eth0").expect("an address"),
            router: lab.client_router.mac("lan").expect("an address"),
        }
    }

    fn send(&self, packet: Packet) {
        let frame = packet.ethernet(self.client, self.router).build();
        self.socket.send(&frame).expect("a device that is up");
    }

    /// Sends a ping to the VIP.
    fn ping(&self, identifier: u16) {
        self.send(
            Packet::echo_request(identifier, 1)
                .over(self.family)
                .ttl(64)
                .payload(b"odd number of bytes"),
        );
    }

    /// Its answer, if one comes in time.
    fn answer(&self, identifier: u16, limit: Duration) -> Option<Vec<u8>> {
        let protocol = if self.family == Family::V4 { ICMP } else { ICMPV6 };
        let kind = if self.family == Family::V4 { 0 } else { 129 };
        let is_answer = |frame: &[u8]| {
            ip_packet(frame).is_some_and(|packet| {
                packet.protocol == protocol
                    && packet.segment[0] == kind
                    && packet.segment[4..6] == identifier.to_be_bytes()
            })
        };
        self.socket.receive(limit, is_answer).ok()
    }
}

fn ip_packet(frame: &[u8]) -> Option<IpPacket<'_>> {
    let (_, at) = layers::network(frame)?;
    IpPacket::read(&frame[at..]).ok()
}

/// One laboratory for each, since the roles of its addresses differ.
fn lab_of(cell: Cell, gateway_owns_vip: bool) -> Lab {
    let options = LabOptions {
        ipv6: cell.family == Family::V6,
        gateway_owns_vip,
        ..LabOptions::default()
    };
    Lab::with(options).expect("a laboratory")
}

#[test]
fn ping_to_the_vip_is_answered_by_the_kernel_that_owns_it_and_else_by_xlb() {
    for cell in MATRIX_BOTH_FAMILIES {
        for owned in [true, false] {
            let scene = start(cell, lab_of(cell, owned), "");
            let wire = Wire::of(&scene, cell.family);
            wire.ping(7);
            let answer = wire
                .answer(7, PATIENCE)
                .unwrap_or_else(|| panic!("{cell}, owned {owned}: no answer"));
            assert_eq!(checksums_valid(&answer), Ok(()), "{cell}");
            let packet = ip_packet(&answer).expect("a packet");
            assert_eq!(packet.source, cell.family.vip());
            assert_eq!(packet.segment[8..], *b"odd number of bytes");
            assert_eq!(scene.counted("echo"), u64::from(!owned), "{cell}, owned {owned}");
        }
    }
}

#[test]
fn ping_to_the_vip_is_not_answered_when_that_is_switched_off() {
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = start(cell, lab_of(cell, true), "    echo: off\n");
        let wire = Wire::of(&scene, cell.family);
        wire.ping(7);
        let answer = wire.answer(7, SILENCE);
        assert_eq!(answer, None, "{cell}");
        assert_eq!(scene.counted("echo_refused"), 1, "{cell}");
    }
}

/// As `traceroute -T` does it: SYNs to the VIP whose time to live ends after so many hops.
#[test]
fn hops_to_the_vip_are_routers_the_gateway_and_the_vip() {
    for cell in MATRIX_BOTH_FAMILIES {
        let family = cell.family;
        let scene = start(cell, lab_with(family), "");
        let _server = listen(&scene.lab.backends[0], family.unspecified(), PORT);
        let wire = Wire::of(&scene, family);
        let hops: Vec<IpAddr> = (1..=5).map(|ttl| hop(&wire, scene.service.port(), ttl)).collect();
        let [first, second, rest @ ..] = &hops[..] else {
            unreachable!("five hops");
        };
        assert_eq!(*first, family.client_lan_router(), "{cell}: {hops:?}");
        assert_eq!(*second, family.gateway_to_clients(), "{cell}: {hops:?}");
        assert_eq!(
            rest,
            [family.vip(); 3],
            "{cell}: nothing behind the gateway is seen: {hops:?}"
        );
        assert_eq!(scene.counted("ttl_expired"), 1, "{cell}");
    }
}

/// Who answers a SYN with this time to live: with an error that quotes it, or as the VIP.
fn hop(wire: &Wire, port: u16, ttl: u8) -> IpAddr {
    let (client, vip) = (wire.family.client(1), wire.family.vip());
    let source = 30_000 + u16::from(ttl);
    let syn = Packet::tcp()
        .from(client, source)
        .to(vip, port)
        .flags(TcpFlags::SYN)
        .ttl(ttl);
    wire.send(syn);
    let (us, service) = ((client, source).into(), (vip, port).into());
    let concerns_it = |frame: &[u8]| {
        let Some(packet) = ip_packet(frame) else { return false };
        match packet.protocol {
            TCP => endpoints(frame) == Some((service, us)),
            ICMP | ICMPV6 if packet.segment.len() > 8 => {
                endpoints(&[&frame[..14], &packet.segment[8..]].concat()) == Some((us, service))
            }
            _ => false,
        }
    };
    let answer = wire.socket.receive(PATIENCE, concerns_it);
    let answer = answer.with_context(|| format!("ttl {ttl}")).expect("an answer");
    ip_packet(&answer).expect("a packet").source
}
