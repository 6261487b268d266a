//! Listeners of many ports, and translated sources that share few.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use lb_tests::{
    names::{TO_BACKENDS, TO_CLIENTS},
    wait::until_true,
};

use crate::{
    scene::{Cell, MATRIX_BOTH_FAMILIES, PATIENCE, Scene, configuration_without_checks, lab_with},
    sockets::{PORT, accept, connect, listen, transfer, udp},
};

/// A service with a range of ports at the VIP, and one with any port at the other VIP, both for one backend.
fn many_ports(cell: Cell) -> String {
    let Cell {
        forwarding,
        family,
        clients,
        backends,
    } = cell;
    let listeners = [
        // Brackets for IPv6.
        SocketAddr::new(family.vip(), 8000).to_string() + "-8009",
        SocketAddr::new(family.vip_2(), 0).to_string().replace(":0", ":*"),
    ];
    let service = |(name, listener): (&str, &String)| {
        format!(
            "  - {{name: {name}, listen: \"{listener}\", protocol: [tcp, udp], forwarding: {forwarding}, \
             health_check: {{type: none}}, backends: [\"{}\"]}}\n",
            family.backend(1)
        )
    };
    format!(
        "interfaces:
  - {{name: {TO_CLIENTS}, xdp_mode: {clients}}}
  - {{name: {TO_BACKENDS}, xdp_mode: {backends}}}
services:
{}{}",
        service(("range", &listeners[0])),
        service(("any", &listeners[1]))
    )
}

/// States that TCP and UDP to this address reach the same port of the backend, and that answers come back from it.
fn reaches_its_port(scene: &Scene, to: SocketAddr) {
    let (client, backend) = (&scene.lab.clients[0], &scene.lab.backends[0]);
    let any = lb_tests::names::Family::of(to.ip()).unspecified();
    let listener = listen(backend, any, to.port());
    let stream = connect(client, to);
    let accepted = accept(&listener);
    transfer(&stream, &accepted, 100_000);
    transfer(&accepted, &stream, 100_000);

    let server = udp(backend, any, to.port());
    let socket = udp(client, any, 0);
    socket.connect(to).expect("a socket");
    socket.send(b"question").expect("a socket");
    let (length, peer) = server.recv_from(&mut [0; 64]).expect("a datagram");
    server.send_to(&vec![7; length + 1], peer).expect("a socket");
    assert_eq!(socket.recv(&mut [0; 64]).expect("a datagram"), length + 1, "{to}");
}

#[test]
fn listeners_of_many_ports_reach_the_same_port_of_the_backend() {
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = Scene::without_backends(lab_with(cell.family), cell.family, &many_ports(cell));
        scene.wait_until_up(2);
        for port in [8000, 8004, 8009] {
            reaches_its_port(&scene, (cell.family.vip(), port).into());
        }
        for port in [22, 8080, 65_535] {
            reaches_its_port(&scene, (cell.family.vip_2(), port).into());
        }
        // Beside the range: not ours, and the gateway's kernel owns the address.
        for port in [7999, 8010] {
            let refused = try_connect(&scene, (cell.family.vip(), port).into(), PATIENCE);
            let error = refused.expect_err("no listener");
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionRefused,
                "{cell}, port {port}: {error}"
            );
        }
    }
}

fn try_connect(scene: &Scene, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let attempt = scene.lab.clients[0].run(|| TcpStream::connect_timeout(&to, limit));
    attempt.expect("a namespace")
}

#[test]
fn exhausted_source_ports_refuse_new_connections_until_some_are_free() {
    const POOL: usize = 64;
    let full_nat = |cell: &Cell| cell.forwarding == "full_nat";
    for cell in MATRIX_BOTH_FAMILIES.into_iter().filter(full_nat) {
        let pool = format!(
            "snat: {{addresses: [\"{}\"], ports: 40000-40063}}\nconnections: {{timeouts: {{tcp_closing: 1s, tcp_half_open: 1s}}}}\n",
            cell.family.snat()
        );
        let configuration = configuration_without_checks(cell) + &pool;
        let scene = Scene::without_backends(lab_with(cell.family), cell.family, &configuration);
        scene.wait_until_up(1);
        let listener = listen(&scene.lab.backends[0], cell.family.unspecified(), PORT);
        let pairs: Vec<_> = (0..POOL)
            .map(|_| (connect(&scene.lab.clients[0], scene.service), accept(&listener)))
            .collect();
        for (_, server) in &pairs {
            let peer = server.peer_addr().expect("a connection");
            assert_eq!(peer.ip(), cell.family.snat(), "{cell}");
            assert!((40_000..=40_063).contains(&peer.port()), "{cell}: {peer}");
        }

        let refused = try_connect(&scene, scene.service, Duration::from_millis(500));
        assert!(refused.is_err(), "{cell}: a connection more than there are ports");
        assert_ne!(scene.counted("ports_exhausted"), 0, "{cell}");
        until_true("a warning", PATIENCE, || {
            scene.gateway.log().contains("no source port was free")
        })
        .unwrap_or_else(|error| panic!("{cell}: {error}"));

        drop(pairs);
        // Its SYN is sent again and again, until there is a port for it.
        let client = connect(&scene.lab.clients[0], scene.service);
        let server = accept(&listener);
        transfer(&client, &server, 1000);
    }
}
