//! The configuration as the agent works with it: valid by construction.
//!
//! [`crate::config`] makes these values and checks what no type can express (no overlapping listeners, no backend that is a VIP, and
//! so on). Everything behind it takes them as given. Nothing here knows of YAML or of maps.

pub mod store;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

pub use lb_common::service::{Forwarding, Scheduler};

/// One configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Where XDP attaches, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// Path of the Unix socket that commands talk to.
    pub socket: PathBuf,
    /// The connection table.
    pub connections: Connections,
    /// Source addresses and ports for `full_nat`.
    pub snat: Snat,
    /// The services, in the order of the file; names are unique.
    pub services: Vec<Service>,
}

/// An interface that XDP attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, as `ip link` prints it.
    pub name: String,
    /// How to attach.
    pub mode: XdpMode,
}

/// How XDP attaches to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// Native, or generic with a warning where the driver has no XDP.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// After the driver, in the kernel's receive path.
    Generic,
}

/// Capacity and timeouts of the connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Established connections.
    pub max: u32,
    /// Half-open connections.
    pub half_open_max: u32,
    /// How long an idle connection is kept.
    pub timeouts: Timeouts,
}

/// How long an idle connection is kept, by phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP before the handshake is complete.
    pub tcp_half_open: Duration,
    /// TCP with data flowing. RFC 5382, REQ-5: at least 2 h 4 min.
    pub tcp_established: Duration,
    /// TCP after FINs of both sides or an RST. RFC 5382, REQ-5: at least 4 min.
    pub tcp_closing: Duration,
    /// UDP. RFC 4787, REQ-5: at least 2 min, 5 min recommended.
    pub udp: Duration,
}

/// Source addresses and ports for translated sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snat {
    /// The pool, of both IP families, none of them a VIP; a family without any uses the egress interface's own address.
    pub addresses: Vec<IpAddr>,
    /// The ports to take from.
    pub ports: RangeInclusive<u16>,
}

/// A named set of listeners, with the backends that serve them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique name.
    pub name: Arc<str>,
    /// What clients dial: at least one, all of one IP family. No two of a configuration have VIP, protocol and a port in common.
    pub listeners: Vec<Listener>,
    /// How packets reach the backends.
    pub forwarding: Forwarding,
    /// How a new connection is given a backend.
    pub scheduler: Scheduler,
    /// How backends are probed; `None`: they always count as healthy.
    pub health_check: Option<HealthCheck>,
    /// What happens to new connections while every backend is down.
    pub when_all_down: WhenAllDown,
    /// Who answers echo requests (ping) to the VIPs. Services that share a VIP agree.
    pub echo: Echo,
    /// The backends; addresses are unique within the service, of the listeners' IP family, and no VIPs.
    pub backends: Vec<Backend>,
}

/// VIP, ports and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener {
    /// The VIP.
    pub address: IpAddr,
    /// The ports that clients dial.
    pub ports: Ports,
    /// Protocol.
    pub protocol: Protocol,
}

/// One port, or a range of them: `first..=last`, the first not above the last and not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl Ports {
    /// Every port, written `*`.
    pub const ANY: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    /// One port.
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// The port, if it is one.
    pub const fn as_single(self) -> Option<u16> {
        if self.first == self.last {
            Some(self.first)
        } else {
            None
        }
    }

    /// The prefixes that cover them, each as its first port and the number of bits that count, as the maps of port ranges have them.
    ///
    /// Any port includes port 0, which nobody dials: that makes one prefix of 16.
    pub fn prefixes(self) -> impl Iterator<Item = (u16, u32)> {
        let first = if self == Self::ANY { 0 } else { self.first };
        lb_common::port_prefix::prefixes(first, self.last)
    }

    /// Whether both have a port in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_single() {
            Some(port) => write!(f, "{port}"),
            None if *self == Self::ANY => f.write_str("*"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::flow::protocol::TCP,
            Self::Udp => lb_common::flow::protocol::UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{} {address}:{}", self.protocol, self.ports),
            IpAddr::V6(address) => write!(f, "{} [{address}]:{}", self.protocol, self.ports),
        }
    }
}

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens. Port 0 is the port that the client dialled: always where a listener has a range, and possible with
    /// [`Forwarding::Dsr`], which rewrites nothing; any other port is then that of all listeners.
    pub address: SocketAddr,
    /// Its share of new connections relative to the others; 0 drains it.
    pub weight: u16,
}

/// What happens to new connections while every backend is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenAllDown {
    /// They go to all backends: if all probes fail at once, the probes are the likelier culprit.
    #[default]
    ForwardToAll,
    /// They are dropped and counted.
    Drop,
}

/// Who answers echo requests (ping) to a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Echo {
    /// The kernel if it owns the address, else xlb.
    #[default]
    Auto,
    /// xlb.
    On,
    /// Nobody: they are dropped and counted.
    Off,
}

impl fmt::Display for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// How the backends of a service are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is done.
    pub probe: Probe,
    /// The port to probe; `None`: the backend's own, which no backend of the service lacks then.
    pub port: Option<u16>,
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// After which a probe has failed.
    pub timeout: Duration,
    /// Consecutive successes after which a backend is up.
    pub rise: u32,
    /// Consecutive failures after which it is down.
    pub fall: u32,
}

/// What one probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Opens a connection.
    Tcp,
    /// Sends `GET path` and looks at the status.
    Http {
        /// The path, starting with a slash.
        path: String,
        /// Statuses that count as success.
        expect: RangeInclusive<u16>,
    },
}
