//! The server of a backend: one thread, until its process ends.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
};

use super::{Answer, client::block_on};
use crate::names::Family;

/// Connections that may wait to be accepted; more than any test opens at once.
const BACKLOG: i32 = 4096;

/// What to serve; also the options of a command that does.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Server {
    /// What it answers as.
    #[arg(long)]
    pub id: u32,
    /// TCP port of the line protocol.
    #[arg(long)]
    pub tcp: u16,
    /// UDP port of the line protocol.
    #[arg(long)]
    pub udp: u16,
    /// Address of the line protocol, for a host with several; all addresses of both families if not given.
    #[arg(long)]
    pub at: Option<IpAddr>,
    /// Port of the health endpoint, at all addresses: HTTP, status 200, or 503 between SIGUSR1 and SIGUSR2.
    #[arg(long)]
    pub http: u16,
}

impl Server {
    /// Serves until the process is ended. Says `ready` on stdout when all ports are open: [`super::backend::Backend`] waits for it.
    ///
    /// # Errors
    ///
    /// When a port is taken.
    pub fn serve(self) -> Result<()> {
        block_on(self.run(say_ready))?.with_context(|| format!("backend {}", self.id))
    }

    /// Opens all sockets, calls `ready`, and serves forever.
    ///
    /// # Errors
    ///
    /// When a port is taken.
    pub async fn run(self, ready: impl FnOnce()) -> io::Result<()> {
        let id = self.id;
        let healthy = Arc::new(AtomicBool::new(true));
        for address in every_address(None) {
            let healthy = Arc::clone(&healthy);
            let serve = move |stream, _| answer_http(stream, healthy.load(Ordering::Relaxed));
            tokio::spawn(accept(listen(address, self.http)?, serve));
        }
        for address in every_address(self.at) {
            let serve = move |stream, client| answer_lines(stream, client, id);
            tokio::spawn(accept(listen(address, self.tcp)?, serve));
            tokio::spawn(answer_datagrams(open_udp(address, self.udp)?, id));
        }
        let mut gets_sick = signal(SignalKind::user_defined1())?;
        let mut gets_well = signal(SignalKind::user_defined2())?;
        ready();

        loop {
            tokio::select! {
                _ = gets_sick.recv() => healthy.store(false, Ordering::Relaxed),
                _ = gets_well.recv() => healthy.store(true, Ordering::Relaxed),
            }
        }
    }
}

fn say_ready() {
    println!("ready");
    // Whoever waits for the line is gone if this fails; the server need not care.
    let _ = io::stdout().flush();
}

/// The given address, or "any" of each family that this kernel has.
fn every_address(at: Option<IpAddr>) -> Vec<IpAddr> {
    let is_there = |family: &Family| *family == Family::V4 || Socket::new(Domain::IPV6, Type::DGRAM, None).is_ok();
    match at {
        Some(address) => vec![address],
        None => Family::ALL
            .into_iter()
            .filter(is_there)
            .map(Family::unspecified)
            .collect(),
    }
}

/// A bound socket of the address's family alone, ready for tokio.
fn open(kind: Type, protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // A backend that was killed comes back on its port at once.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = open(Type::STREAM, Protocol::TCP, SocketAddr::new(address, port))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn open_udp(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    UdpSocket::from_std(open(Type::DGRAM, Protocol::UDP, SocketAddr::new(address, port))?.into())
}

/// Serves every connection on a task of its own.
async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        let (stream, client) = listener.accept().await?;
        tokio::spawn(serve(stream, client));
    }
}

async fn answer_lines(stream: TcpStream, client: SocketAddr, backend: u32) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(answer) = answer(&line, client, backend) {
            writing.write_all(answer.as_bytes()).await?;
        }
    }
    Ok(())
}

async fn answer_datagrams(socket: UdpSocket, backend: u32) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        // The error of an earlier datagram (its client is gone) must not end the server.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let line = String::from_utf8_lossy(&buffer[..length]);
        if let Some(answer) = answer(&line, client, backend) {
            let _ = socket.send_to(answer.as_bytes(), client).await;
        }
    }
}

fn answer(line: &str, client: SocketAddr, backend: u32) -> Option<String> {
    let sequence = line.trim().parse().ok()?;
    let answer = Answer {
        backend,
        sequence,
        client,
    };
    Some(format!("{answer}\n"))
}

async fn answer_http(mut stream: TcpStream, healthy: bool) -> io::Result<()> {
    let (reading, mut writing) = stream.split();
    read_request(reading).await?;
    let (status, body) = if healthy {
        ("200 OK", "ok\n")
    } else {
        ("503 Service Unavailable", "ill\n")
    };
    let length = body.len();
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    writing.write_all(response.as_bytes()).await?;
    writing.shutdown().await
}

/// Reads up to the empty line, so that closing does not reset a connection with unread data.
async fn read_request(reading: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut lines = BufReader::new(reading).lines();
    while let Some(line) = lines.next_line().await? {
        if line.is_empty() {
            break;
        }
    }
    Ok(())
}
