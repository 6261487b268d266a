//! Scripts for a client and a server with ordinary sockets, and what each of them sees.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use lb_tests::namespace::Namespace;
use socket2::SockRef;

/// How long a socket waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// More than any buffer between client and server holds at once.
const BULK: usize = 1 << 20;

/// Two ends that hold conversations, and the balancer's address between them.
pub(crate) struct Conversation<'a> {
    /// Where the client is.
    pub(crate) client: &'a Namespace,
    /// Where the server is.
    pub(crate) server: &'a Namespace,
    /// Whom the client addresses.
    pub(crate) to: SocketAddr,
    /// Where the server listens.
    pub(crate) at: SocketAddr,
}

/// What both ends do.
pub(crate) struct Script {
    /// A name for messages.
    pub(crate) name: &'static str,
    server: Server,
    client: fn(SocketAddr) -> io::Result<Vec<Event>>,
}

/// What a server does with the first who comes.
enum Server {
    Tcp(fn(TcpStream) -> io::Result<Vec<Event>>),
    Udp(fn(UdpSocket) -> io::Result<Vec<Event>>),
    /// Nobody listens.
    Absent,
}

/// What an end sees.
#[derive(Clone, PartialEq, Eq)]
enum Event {
    /// Bytes, up to where the end has waited for.
    Received(Vec<u8>),
    /// The address of the other end.
    Peer(IpAddr),
    /// The other end says that no more will come.
    EndOfStream,
    /// The operating system says no.
    Refused(io::ErrorKind),
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Received(bytes) => {
                let start = String::from_utf8_lossy(&bytes[..bytes.len().min(24)]);
                write!(f, "Received({} bytes: {start:?}...)", bytes.len())
            }
            Self::Peer(address) => write!(f, "Peer({address})"),
            Self::EndOfStream => write!(f, "EndOfStream"),
            Self::Refused(kind) => write!(f, "Refused({kind})"),
        }
    }
}

/// What both ends have seen, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    client: Vec<Event>,
    server: Vec<Event>,
}

impl Conversation<'_> {
    /// Holds one.
    ///
    /// # Errors
    ///
    /// When an end meets what its script does not foresee: a timeout, most likely.
    pub(crate) fn hold(&self, script: &Script) -> Result<Outcome> {
        let (to, at) = (self.to, self.at);
        // The socket is open before the client begins.
        let server = match script.server {
            Server::Tcp(serve) => {
                let listener = self.server.run(|| TcpListener::bind(at))??;
                Some(self.server.spawn(move || serve(accept(&listener)?)))
            }
            Server::Udp(serve) => {
                let socket = self.server.run(|| UdpSocket::bind(at))??;
                socket.set_read_timeout(Some(PATIENCE))?;
                Some(self.server.spawn(move || serve(socket)))
            }
            Server::Absent => None,
        };
        let client = self.client.run(|| (script.client)(to))?;
        let server = server.map(|thread| thread.join().expect("a server that does not panic"));
        Ok(Outcome {
            client: client?,
            server: server.transpose()?.transpose()?.unwrap_or_default(),
        })
    }
}

/// The conversations. Each begins with closed sockets and ends with them.
pub(crate) const SCRIPTS: [Script; 9] = [
    Script {
        name: "a megabyte is echoed after the client has closed its half",
        server: Server::Tcp(|mut stream| {
            let peer = Event::Peer(stream.peer_addr()?.ip());
            let request = read_all(&mut stream)?;
            stream.write_all(&request)?;
            Ok(vec![peer, Event::Received(request), Event::EndOfStream])
        }),
        client: |to| {
            let mut stream = connect(to)?;
            stream.write_all(&bulk())?;
            stream.shutdown(Shutdown::Write)?;
            Ok(vec![Event::Received(read_all(&mut stream)?), Event::EndOfStream])
        },
    },
    Script {
        name: "the server talks first and closes its half",
        server: Server::Tcp(|mut stream| {
            stream.write_all(&bulk())?;
            stream.shutdown(Shutdown::Write)?;
            Ok(vec![Event::Received(read_all(&mut stream)?), Event::EndOfStream])
        }),
        client: |to| {
            let mut stream = connect(to)?;
            let answer = read_all(&mut stream)?;
            stream.write_all(b"goodbye")?;
            Ok(vec![Event::Received(answer), Event::EndOfStream])
        },
    },
    Script {
        name: "lines go back and forth",
        server: Server::Tcp(|mut stream| {
            let mut seen = Vec::new();
            for _ in 0..20 {
                let line = read_exactly(&mut stream, 8)?;
                stream.write_all(&line)?;
                seen.push(Event::Received(line));
            }
            Ok(seen)
        }),
        client: |to| {
            let mut stream = connect(to)?;
            let mut seen = Vec::new();
            for number in 0..20 {
                stream.write_all(format!("line{number:03}\n").as_bytes())?;
                seen.push(Event::Received(read_exactly(&mut stream, 8)?));
            }
            Ok(seen)
        },
    },
    Script {
        name: "the server resets",
        server: Server::Tcp(|mut stream| {
            let request = read_exactly(&mut stream, 5)?;
            reset(stream)?;
            Ok(vec![Event::Received(request)])
        }),
        client: |to| {
            let mut stream = connect(to)?;
            stream.write_all(b"hello")?;
            Ok(vec![refusal(read_all(&mut stream))?])
        },
    },
    Script {
        name: "the client resets",
        server: Server::Tcp(|mut stream| {
            let request = read_exactly(&mut stream, 5)?;
            stream.write_all(b"world")?;
            Ok(vec![Event::Received(request), refusal(read_all(&mut stream))?])
        }),
        client: |to| {
            let mut stream = connect(to)?;
            stream.write_all(b"hello")?;
            let answer = read_exactly(&mut stream, 5)?;
            reset(stream)?;
            Ok(vec![Event::Received(answer)])
        },
    },
    Script {
        name: "nobody listens on the backend",
        server: Server::Absent,
        client: |to| Ok(vec![refusal(connect(to))?]),
    },
    Script {
        name: "nobody listens on another port of the VIP",
        server: Server::Absent,
        client: |to| Ok(vec![refusal(connect(SocketAddr::new(to.ip(), to.port() + 1)))?]),
    },
    Script {
        name: "datagrams of all sizes are echoed",
        server: Server::Udp(|socket| {
            let mut seen = Vec::new();
            for _ in DATAGRAMS {
                let mut buffer = [0; 2048];
                let (length, from) = socket.recv_from(&mut buffer)?;
                socket.send_to(&buffer[..length], from)?;
                seen.extend([Event::Peer(from.ip()), Event::Received(buffer[..length].to_vec())]);
            }
            Ok(seen)
        }),
        client: |to| {
            let socket = udp(to)?;
            let mut seen = Vec::new();
            for size in DATAGRAMS {
                socket.send(&bulk()[..size])?;
                seen.push(Event::Received(receive(&socket)?));
            }
            Ok(seen)
        },
    },
    Script {
        name: "the server answers one datagram with three",
        server: Server::Udp(|socket| {
            let mut buffer = [0; 2048];
            let (length, from) = socket.recv_from(&mut buffer)?;
            for part in ["one", "two", "three"] {
                socket.send_to(part.as_bytes(), from)?;
            }
            Ok(vec![Event::Received(buffer[..length].to_vec())])
        }),
        client: |to| {
            let socket = udp(to)?;
            socket.send(b"count")?;
            (0..3).map(|_| Ok(Event::Received(receive(&socket)?))).collect()
        },
    },
];

/// Sizes of datagrams: none, odd, even, and the largest that an Ethernet frame holds with any header of IP before it.
const DATAGRAMS: [usize; 5] = [0, 1, 512, 1399, 1452];

/// Bytes of which no two stretches are equal.
fn bulk() -> Vec<u8> {
    (0_u32..)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_be_bytes())
        .take(BULK)
        .collect()
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    patient(&stream)?;
    Ok(stream)
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    // On Linux the receive timeout of a listener holds for `accept`.
    SockRef::from(listener).set_read_timeout(Some(PATIENCE))?;
    let (stream, _) = listener.accept()?;
    patient(&stream)?;
    Ok(stream)
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_exactly(stream: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Closes a connection with a reset, as a program that crashes does.
fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// The error that must come; that nothing came in time is none.
fn refusal<T>(result: io::Result<T>) -> io::Result<Event> {
    match result {
        Ok(_) => Err(io::Error::other("no error where there must be one")),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Err(error),
        Err(error) => Ok(Event::Refused(error.kind())),
    }
}
