//! Sockets that a test holds itself, of clients and of servers. They stay in the namespace that they were opened in, so one thread can
//! play both ends. Every operation on them ends within [`PATIENCE`].

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::Context as _;
use lb_tests::{names::Family, namespace::Namespace, wait::until};

use crate::scene::{PATIENCE, Scene};

/// Port of the servers.
pub(crate) const PORT: u16 = 8080;

/// A TCP server's socket.
pub(crate) fn listen(namespace: &Namespace, address: IpAddr, port: u16) -> TcpListener {
    let listener = namespace.run(|| TcpListener::bind((address, port)));
    let listener = listener.expect("a namespace").expect("a free port");
    // So that waiting for a connection can end.
    listener.set_nonblocking(true).expect("a socket");
    listener
}

/// A UDP socket; port 0 lets the kernel choose one.
pub(crate) fn udp(namespace: &Namespace, address: IpAddr, port: u16) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((address, port)));
    let socket = socket.expect("a namespace").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

/// A new TCP connection.
#[track_caller]
pub(crate) fn connect(namespace: &Namespace, to: SocketAddr) -> TcpStream {
    let stream = namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE));
    let stream = stream.expect("a namespace").with_context(|| to.to_string());
    with_limits(stream.expect("a server"))
}

/// The next connection of a server.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = until("a connection", PATIENCE, || Ok(Some(listener.accept()?))).expect("a connection");
    stream.set_nonblocking(false).expect("a socket");
    with_limits(stream)
}

fn with_limits(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Both ends of a connection through the service, from the first client to the first backend: the client's, the server's.
pub(crate) fn connection(scene: &Scene) -> (TcpStream, TcpStream) {
    let any = Family::of(scene.service.ip()).unspecified();
    let server = listen(&scene.lab.backends[0], any, PORT);
    let client = connect(&scene.lab.clients[0], scene.service);
    (client, accept(&server))
}

/// Sends this many bytes, no two stretches of them alike, and states that they arrive. Closes the sending side.
#[track_caller]
pub(crate) fn transfer(mut from: &TcpStream, mut to: &TcpStream, length: usize) {
    let sent = content(length);
    let mut received = Vec::with_capacity(length);
    thread::scope(|scope| {
        scope.spawn(|| {
            from.write_all(&sent).expect("a peer that reads");
            from.shutdown(std::net::Shutdown::Write).expect("an open socket");
        });
        to.read_to_end(&mut received).expect("all that was sent");
    });
    assert!(
        received == sent,
        "{} of {length} bytes arrived, or others",
        received.len()
    );
}

/// Bytes of which every aligned four are different.
pub(crate) fn content(length: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b1).to_be_bytes())
        .take(length)
        .collect()
}
