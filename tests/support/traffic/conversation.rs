//! A client's side of the protocol over one socket.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{Answer, Protocol};
use crate::names::Family;

/// An open socket to a server.
pub(super) enum Conversation {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Conversation {
    /// Opens a socket with a source port that the kernel chooses.
    pub(super) async fn open(protocol: Protocol, to: SocketAddr, limit: Duration) -> Result<Self, String> {
        let open = async {
            match protocol {
                Protocol::Tcp => {
                    let stream = TcpStream::connect(to).await?;
                    stream.set_nodelay(true)?;
                    Ok(Self::Tcp(BufReader::new(stream)))
                }
                Protocol::Udp => {
                    let socket = UdpSocket::bind((Family::of(to.ip()).unspecified(), 0)).await?;
                    socket.connect(to).await?;
                    Ok(Self::Udp(socket))
                }
            }
        };
        within(limit, open).await.map_err(|reason| format!("connect: {reason}"))
    }

    /// Sends a number and waits for its answer. Late answers to earlier numbers are passed over.
    pub(super) async fn ask(&mut self, sequence: u64, limit: Duration) -> Result<Answer, String> {
        let exchange = async {
            self.send(sequence).await?;
            loop {
                let answer: Answer = self.receive().await?.parse().map_err(io::Error::other)?;
                if answer.sequence >= sequence {
                    return Ok(answer);
                }
            }
        };
        let answer = within(limit, exchange).await?;
        if answer.sequence == sequence {
            Ok(answer)
        } else {
            Err(format!("asked with {sequence}, got the answer to {}", answer.sequence))
        }
    }

    async fn send(&mut self, sequence: u64) -> io::Result<()> {
        let line = format!("{sequence}\n");
        match self {
            Self::Tcp(stream) => stream.write_all(line.as_bytes()).await,
            Self::Udp(socket) => socket.send(line.as_bytes()).await.map(|_| ()),
        }
    }

    async fn receive(&mut self) -> io::Result<String> {
        match self {
            Self::Tcp(stream) => {
                let mut line = String::new();
                match stream.read_line(&mut line).await? {
                    0 => Err(io::Error::other("closed by the server")),
                    _ => Ok(line),
                }
            }
            Self::Udp(socket) => {
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).await?;
                Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            }
        }
    }
}

/// An operation with a time limit, its error in words that do not depend on the operation.
async fn within<T>(limit: Duration, operation: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    match timeout(limit, operation).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match error.kind() {
            // Without the operating system's number, so that equal failures count as equal.
            io::ErrorKind::Other => error.to_string(),
            kind => kind.to_string(),
        }),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}
