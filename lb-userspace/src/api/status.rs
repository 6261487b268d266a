//! The agent's state as others see it. Field names are stable: scripts hold on to them.

use serde::{Deserialize, Serialize};

/// Everything `xlb status` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent itself.
    pub agent: Agent,
    /// The interfaces that the packet path is attached to.
    pub interfaces: Vec<Interface>,
    /// The connection table.
    pub connections: Connections,
    /// The services, in the order of the configuration.
    pub services: Vec<Service>,
    /// Packets by verdict and reason, since the data plane was loaded; those that never happened are left out.
    pub verdicts: Vec<Verdict>,
}

/// The agent itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Version of xlb.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The configuration file.
    pub config: String,
    /// Whether it found a data plane forwarding and took it over.
    pub adopted: bool,
    /// Result of the latest reload; `null` before the first.
    pub last_reload: Option<Reload>,
    /// Why the data plane is not what the configuration asks for; `null` when it is.
    pub problem: Option<String>,
    /// What an operator should act upon though traffic flows.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Result of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Seconds since 1970-01-01.
    pub at: u64,
    /// Why it was refused; `null` when it took effect.
    pub error: Option<String>,
}

/// An interface that the packet path is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// `native` or `generic`.
    pub xdp_mode: crate::model::XdpMode,
}

/// The connection tables of both IP families together, as of the latest sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Confirmed by both sides.
    pub established: u64,
    /// Not yet confirmed by both sides.
    pub half_open: u64,
    /// Closed or reset, kept for late packets.
    pub closing: u64,
    /// Established connections that are configured to fit, of each IP family.
    pub max: u32,
    /// Half-open connections that are allowed.
    pub half_open_max: u32,
}

/// A service with its backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What clients dial, as `tcp 203.0.113.10:80`, `udp [2001:db8::10]:8000-8099` or `tcp 203.0.113.10:*`.
    pub listeners: Vec<String>,
    /// `nat`, `full_nat` or `dsr`.
    pub forwarding: String,
    /// How a new connection is given a backend.
    pub scheduler: String,
    /// Live connections.
    pub connections: u64,
    /// Traffic since the data plane was loaded.
    pub traffic: Traffic,
    /// Its backends, in the order of the configuration.
    pub backends: Vec<Backend>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Where it listens, as the configuration writes it: without a port when it has the one that the client dialled.
    pub address: String,
    /// Its share of new connections relative to the others.
    pub weight: u16,
    /// `enabled`, or `drain` at weight 0.
    pub state: String,
    /// `up`, `down`, `pending` before its first result, or `unchecked`.
    pub health: String,
    /// Seconds since 1970-01-01 when this health was reached; `null` when it is not checked.
    pub health_since: Option<u64>,
    /// Why the latest failed probe failed.
    pub last_failure: Option<String>,
    /// Why packets can't reach it; `null` when the way to it is known.
    pub unreachable: Option<String>,
    /// Whether new connections go to it.
    pub takes_connections: bool,
    /// Live connections.
    pub connections: u64,
    /// Traffic since it was added to the data plane.
    pub traffic: Traffic,
}

/// Traffic counters, only ever growing. Bytes are those of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections created.
    pub connections: u64,
    /// Packets from clients.
    pub forward_packets: u64,
    /// Bytes from clients.
    pub forward_bytes: u64,
    /// Packets from backends.
    pub reply_packets: u64,
    /// Bytes from backends.
    pub reply_bytes: u64,
}

impl From<lb_common::counters::Traffic> for Traffic {
    fn from(traffic: lb_common::counters::Traffic) -> Self {
        Self {
            connections: traffic.connections,
            forward_packets: traffic.forward_packets,
            forward_bytes: traffic.forward_bytes,
            reply_packets: traffic.reply_packets,
            reply_bytes: traffic.reply_bytes,
        }
    }
}

/// Packets that ended the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `forward`, `pass` or `drop`.
    pub verdict: String,
    /// The reason's label.
    pub reason: String,
    /// The reason in a sentence.
    pub description: String,
    /// How many.
    pub packets: u64,
}
