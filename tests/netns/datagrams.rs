//! Datagrams of ordinary sockets that are longer than a frame: both ways they come in fragments.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
};

use lb_tests::{
    cell::{self, Service},
    names::Family,
};

use crate::{
    scene::{Cell, MATRIX_BOTH_FAMILIES, SERVICE, Scene, lab_with},
    sockets::{PORT, content, udp},
};

/// Bytes of a datagram: three fragments in frames of 1500 bytes.
const LENGTH: usize = 4096;

/// Three backends without health checks.
fn start(cell: Cell) -> Scene {
    let backends = [1, 2, 3].map(|number| format!("\"{}\"", SocketAddr::new(cell.family.backend(number), PORT)));
    let service = Service {
        name: "datagrams",
        port: SERVICE.1,
        health_check: "{type: none}",
        backends: &backends,
    };
    let lab = lab_with(cell.family);
    let scene = Scene::without_backends(lab, cell.family, &cell::configuration(cell, &service));
    scene.wait_until_up(3);
    scene
}

/// Answers datagrams on a thread with the same bytes, but for the first one, which is the backend's number. An empty one ends it.
fn echo(socket: &UdpSocket, number: u8) {
    let mut buffer = [0; 2 * LENGTH];
    socket.set_read_timeout(None).expect("a socket");
    while let Ok((length @ 1.., client)) = socket.recv_from(&mut buffer) {
        buffer[0] = number;
        socket.send_to(&buffer[..length], client).expect("a socket");
    }
}

/// Calls `work` while every backend [`echo`]es.
fn with_echo(scene: &Scene, family: Family, work: impl FnOnce()) {
    let sockets: Vec<_> = scene
        .lab
        .backends
        .iter()
        .map(|backend| udp(backend, family.unspecified(), PORT))
        .collect();
    thread::scope(|scope| {
        for (socket, number) in sockets.iter().zip(1..) {
            scope.spawn(move || echo(socket, number));
        }
        // Ends the threads after a panic as well, since the scope waits for them.
        let _ends = EndsEchoes(scene, family);
        work();
    });
}

struct EndsEchoes<'a>(&'a Scene, Family);

impl Drop for EndsEchoes<'_> {
    fn drop(&mut self) {
        for (backend, number) in self.0.lab.backends.iter().zip(1..) {
            let ended = udp(backend, self.1.unspecified(), 0).send_to(&[], (self.1.backend(number), PORT));
            assert!(ended.is_ok(), "{ended:?}");
        }
    }
}

/// The backend whose answer to these bytes this is.
#[track_caller]
fn backend_of(answer: &[u8], question: &[u8], what: &str) -> u8 {
    assert_eq!(answer.len(), question.len(), "{what}");
    assert!(answer[1..] == question[1..], "{what}: other bytes came back");
    answer[0]
}

#[test]
fn datagrams_of_two_clients_are_echoed_whole_by_one_backend_each() {
    const COUNT: usize = 300;
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = start(cell);
        with_echo(&scene, cell.family, || {
            let clients: Vec<_> = scene
                .lab
                .clients
                .iter()
                .map(|client| udp(client, cell.family.unspecified(), 0))
                .collect();
            let mut backends = [None; 2];
            let stream = content(COUNT + LENGTH);
            for round in 0..COUNT {
                // No two datagrams alike.
                let question = &stream[round..round + LENGTH];
                for (socket, known) in clients.iter().zip(&mut backends) {
                    let what = format!("{cell}, datagram {round}");
                    socket.send_to(question, scene.service).expect("a socket");
                    let mut answer = [0; 2 * LENGTH];
                    let (length, from) = socket
                        .recv_from(&mut answer)
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!(from, scene.service, "{what}");
                    let backend = backend_of(&answer[..length], question, &what);
                    assert_eq!(*known.get_or_insert(backend), backend, "{what}");
                }
            }
            assert_ne!(backends[0], backends[1], "{cell}: round robin");
        });
        for reason in ["fragment", "fragment_conflict", "fragment_lost"] {
            assert_eq!(scene.counted(reason), 0, "{cell}: {reason}");
        }
    }
}
