//! Traffic with ordinary sockets: [`backend`]s that say who they are, and [`client`]s that keep account of the answers.
//!
//! The protocol is a line each way, over TCP and in UDP datagrams alike: a client sends a [`SEQUENCE`] number, the backend answers
//! with its id, that number and the address it saw the client at.
//!
//! [`SEQUENCE`]: Answer::sequence

pub mod backend;
pub mod client;
mod conversation;
pub mod long_flows;
pub mod race;
pub mod report;
pub mod server;

use std::{fmt, net::SocketAddr, str::FromStr};

/// What a backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Id of the backend.
    pub backend: u32,
    /// The number that was asked with.
    pub sequence: u64,
    /// The client as the backend saw it.
    pub client: SocketAddr,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.backend, self.sequence, self.client)
    }
}

impl FromStr for Answer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let mut answer = || {
            Some(Self {
                backend: words.next()?.parse().ok()?,
                sequence: words.next()?.parse().ok()?,
                client: words.next()?.parse().ok()?,
            })
        };
        answer().ok_or_else(|| format!("answer makes no sense: {text:?}"))
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}
