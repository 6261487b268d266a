//! The server of a backend: one thread, until its process ends.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
};

use super::{Answer, client::block_on};

/// Connections that may wait to be accepted; more than any test opens at once.
const BACKLOG: u32 = 4096;

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
    /// Port of the health endpoint: HTTP, status 200, or 503 between SIGUSR1 and SIGUSR2.
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
        let (tcp, http) = (listen(self.tcp)?, listen(self.http)?);
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, self.udp)).await?;
        let healthy = Arc::new(AtomicBool::new(true));
        let mut gets_sick = signal(SignalKind::user_defined1())?;
        let mut gets_well = signal(SignalKind::user_defined2())?;
        ready();

        let id = self.id;
        tokio::spawn(answer_datagrams(udp, id));
        loop {
            tokio::select! {
                _ = gets_sick.recv() => healthy.store(false, Ordering::Relaxed),
                _ = gets_well.recv() => healthy.store(true, Ordering::Relaxed),
                connection = tcp.accept() => {
                    let (stream, client) = connection?;
                    tokio::spawn(answer_lines(stream, client, id));
                }
                connection = http.accept() => {
                    let (stream, _) = connection?;
                    tokio::spawn(answer_http(stream, healthy.load(Ordering::Relaxed)));
                }
            }
        }
    }
}

fn say_ready() {
    println!("ready");
    // Whoever waits for the line is gone if this fails; the server need not care.
    let _ = io::stdout().flush();
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // A backend that was killed comes back on its port at once.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    socket.listen(BACKLOG)
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
