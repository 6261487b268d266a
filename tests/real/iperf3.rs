//! iperf3: the server, and what a client measures.

use std::{fmt, path::PathBuf};

use anyhow::{Context as _, Result};
use lb_tests::{names::Family, namespace::Namespace, topology::Lab};
use serde_json::Value;

use crate::server::{Server, client};

/// Port of control connection, TCP and UDP data alike.
pub(crate) const PORT: u16 = 5201;

/// What to send, and whether the client (up) or the server (down) sends it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    TcpUp,
    TcpDown,
    UdpUp,
    UdpDown,
    /// UDP datagrams of 4096 bytes, which come in fragments.
    FragmentsUp,
    FragmentsDown,
}

impl Run {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::TcpUp => &[],
            Self::TcpDown => &["--reverse"],
            // Datagrams of the default length: as long as a TCP segment, so none is cut.
            Self::UdpUp => &["--udp", "--bitrate", "200M"],
            Self::UdpDown => &["--udp", "--bitrate", "200M", "--reverse"],
            Self::FragmentsUp => &["--udp", "--bitrate", "100M", "--length", "4096"],
            Self::FragmentsDown => &["--udp", "--bitrate", "100M", "--length", "4096", "--reverse"],
        }
    }
}

/// What one run measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement {
    /// Bytes of payload that arrived.
    pub(crate) bytes: u64,
    /// Bits of payload that arrived per second.
    bits_per_second: f64,
    /// TCP: segments that were sent again. 0 for UDP.
    pub(crate) retransmits: u64,
    /// UDP: datagrams that did not arrive. 0 for TCP.
    pub(crate) lost: u64,
    /// UDP: datagrams that were sent. 0 for TCP.
    pub(crate) datagrams: u64,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} Mbit/s, ", self.bits_per_second / 1e6)?;
        if self.datagrams == 0 {
            write!(f, "{} retransmits", self.retransmits)
        } else {
            write!(f, "{} of {} datagrams lost", self.lost, self.datagrams)
        }
    }
}

/// Runs a server in the first backend's namespace, and the first client against the VIP for a second.
///
/// # Errors
///
/// What iperf3 says, or that it printed something unknown.
pub(crate) fn measure(lab: &Lab, family: Family, run: Run) -> Result<Measurement> {
    // A new one each time: a server needs a moment after a run before it takes the next.
    let _server = serve(&lab.backends[0], lab.instance().directory()?.join("iperf3.log"))?;
    let mut command = lab.clients[0].command("iperf3");
    command.args(["--client", &family.vip().to_string(), "--port", &PORT.to_string()]);
    command.args(["--time", "1", "--connect-timeout", "3000", "--json"]);
    let text = client(command.args(run.arguments()))?;
    let report: Value = serde_json::from_str(&text).with_context(|| format!("iperf3 --json printed {text}"))?;
    measurement(&report["end"]).with_context(|| format!("iperf3 --json printed {text}"))
}

/// Starts a server that is ready when this returns.
fn serve(namespace: &Namespace, log: PathBuf) -> Result<Server> {
    let port = PORT.to_string();
    let arguments = ["--server", "--one-off", "--port", &port, "--forceflush"];
    let mut server = Server::start(namespace, "iperf3", &arguments, log)?;
    server.wait_for("Server listening")?;
    Ok(server)
}

fn measurement(end: &Value) -> Option<Measurement> {
    // What arrived. `sum` exists for UDP only, and tells what did not.
    let received = &end["sum_received"];
    Some(Measurement {
        bytes: received["bytes"].as_u64()?,
        bits_per_second: received["bits_per_second"].as_f64()?,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        lost: end["sum"]["lost_packets"].as_u64().unwrap_or(0),
        datagrams: end["sum"]["packets"].as_u64().unwrap_or(0),
    })
}
