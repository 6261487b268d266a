//! Links that are narrower than the sender's: it learns of them through xlb, whoever says so.

use std::net::{IpAddr, SocketAddr, TcpStream};

use lb_tests::{
    diff::{checksums_valid, endpoints},
    layers::{self, ICMP, ICMPV6, IpPacket},
    names::{Family, TO_BACKENDS, TO_CLIENTS},
    namespace::Namespace,
    offloads,
    raw_socket::RawSocket,
    wait::until_true,
};

use crate::{
    scene::{Cell, MATRIX_BOTH_FAMILIES, PATIENCE, Scene, configuration_without_checks, lab_with},
    sockets::{connection, transfer},
};

/// What the narrow link takes: as little as IPv6 allows.
const NARROW: u32 = 1280;
/// Bytes of a transfer: thousands of packets.
const LENGTH: usize = 5_000_000;

/// Which link is narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// The one behind the router that the data leaves xlb for.
    BehindRouter,
    /// The gateway's own.
    OfGateway,
}

/// Where the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

fn start(cell: Cell, way: Way, link: Link) -> Scene {
    let lab = lab_with(cell.family);
    match (link, way) {
        (Link::BehindRouter, Way::Up) => lab.narrow_backend_link(1, NARROW).expect("a backend"),
        (Link::BehindRouter, Way::Down) => lab.narrow_client_link(1, NARROW).expect("a client"),
        (Link::OfGateway, Way::Up) => narrow_gateway(&lab.gateway, TO_BACKENDS, &lab.backend_router),
        (Link::OfGateway, Way::Down) => narrow_gateway(&lab.gateway, TO_CLIENTS, &lab.client_router),
    }
    // As on a real wire: what reaches a sender has finished checksums, the one within a quote too.
    for (router, device) in [(&lab.client_router, "client1"), (&lab.backend_router, "backend1")] {
        offloads::switch_off(router, device).expect("a device");
    }
    let scene = Scene::without_backends(lab, cell.family, &configuration_without_checks(cell));
    scene.wait_until_up(1);
    scene
}

fn narrow_gateway(gateway: &Namespace, device: &str, router: &Namespace) {
    for (namespace, device) in [(gateway, device), (router, "uplink")] {
        namespace
            .ip(&format!("link set {device} mtu {NARROW}"))
            .expect("a device");
    }
}

/// The sender of the data, whom it believes to talk to, and its own address there.
fn sender<'a>(scene: &'a Scene, cell: Cell, way: Way, client: &TcpStream, server: &TcpStream) -> Sender<'a> {
    let (namespace, stream) = match way {
        Way::Up => (&scene.lab.clients[0], client),
        Way::Down => (&scene.lab.backends[0], server),
    };
    Sender {
        family: cell.family,
        namespace,
        from: stream.local_addr().expect("a socket"),
        to: stream.peer_addr().expect("a connection"),
    }
}

struct Sender<'a> {
    family: Family,
    namespace: &'a Namespace,
    from: SocketAddr,
    to: SocketAddr,
}

impl Sender<'_> {
    /// Waits for the message that a packet of this connection was too big, as the sender sees it: about its own packet to the address
    /// that it knows.
    fn is_told(&self, socket: &RawSocket) -> IpAddr {
        let error = socket
            .receive(PATIENCE, |frame| is_too_big(frame, self.family))
            .expect("a message");
        assert_eq!(checksums_valid(&error), Ok(()));
        let packet = ip_packet(&error).expect("a packet");
        assert_eq!(packet.destination, self.from.ip());
        let mtu = u16::from_be_bytes([packet.segment[6], packet.segment[7]]);
        assert_eq!(u32::from(mtu), NARROW);
        let link_layer = &error[..14];
        let quoted = [link_layer, &packet.segment[8..]].concat();
        assert_eq!(endpoints(&quoted), Some((self.from, self.to)), "what is quoted");
        packet.source
    }

    /// Whether its kernel has remembered the smaller MTU.
    fn knows(&self) -> bool {
        let route = self.namespace.ip(&format!("route get {}", self.to.ip()));
        route.is_ok_and(|route| route.contains(&format!("mtu {NARROW}")))
    }
}

fn ip_packet(frame: &[u8]) -> Option<IpPacket<'_>> {
    let (_, at) = layers::network(frame)?;
    IpPacket::read(&frame[at..]).ok()
}

/// "Fragmentation needed" (RFC 792) or "packet too big" (RFC 4443).
fn is_too_big(frame: &[u8], family: Family) -> bool {
    ip_packet(frame).is_some_and(|packet| {
        let message = packet.segment.first_chunk();
        match family {
            Family::V4 => packet.protocol == ICMP && message == Some(&[3, 4]),
            Family::V6 => packet.protocol == ICMPV6 && message == Some(&[2, 0]),
        }
    })
}

fn transfer_gets_through(cell: Cell, way: Way, link: Link) {
    let what = format!("{cell}, {way:?}, {link:?}");
    eprintln!("{what}");
    let scene = start(cell, way, link);
    let (client, server) = connection(&scene);
    let sender = sender(&scene, cell, way, &client, &server);
    let socket = RawSocket::open(sender.namespace, "eth0").expect("a device");
    match way {
        Way::Up => transfer(&client, &server, LENGTH),
        Way::Down => transfer(&server, &client, LENGTH),
    }
    let told_by = sender.is_told(&socket);
    let refused = scene.counted("too_big");
    match link {
        Link::OfGateway => {
            assert!(refused > 0, "{what}");
            let gateway = match way {
                Way::Up => cell.family.gateway_to_clients(),
                Way::Down => cell.family.gateway_to_backends(),
            };
            assert_eq!(told_by, gateway, "{what}");
        }
        Link::BehindRouter => {
            assert_eq!(refused, 0, "{what}");
            assert!(scene.counted("icmp_error") > 0, "{what}");
        }
    }
    until_true("the smaller mtu is remembered", PATIENCE, || sender.knows()).expect(&what);
}

#[test]
fn upload_finds_the_narrow_link_of_a_backend() {
    for cell in MATRIX_BOTH_FAMILIES {
        transfer_gets_through(cell, Way::Up, Link::BehindRouter);
    }
}

#[test]
fn download_finds_the_narrow_link_of_a_client() {
    for cell in MATRIX_BOTH_FAMILIES {
        transfer_gets_through(cell, Way::Down, Link::BehindRouter);
    }
}

#[test]
fn upload_is_told_of_the_narrow_link_of_the_gateway_itself() {
    for cell in MATRIX_BOTH_FAMILIES {
        transfer_gets_through(cell, Way::Up, Link::OfGateway);
    }
}

#[test]
fn download_is_told_of_the_narrow_link_of_the_gateway_itself() {
    for cell in MATRIX_BOTH_FAMILIES {
        transfer_gets_through(cell, Way::Down, Link::OfGateway);
    }
}
