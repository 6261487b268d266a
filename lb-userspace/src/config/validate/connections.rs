//! `connections`: capacity and timeouts of the connection table.

use std::time::Duration;

use lb_common::limits;

use super::super::{
    error::Invalid,
    file,
    path::Path,
    report::Report,
    shape::Scalar,
    values::{self, show_duration},
};
use crate::model::{Connections, Timeouts};

/// Entries are stamped once a second ([`limits::TOUCH_INTERVAL_NS`]): with less, a busy connection would expire between two packets.
const SHORTEST: Duration = Duration::from_nanos(limits::TOUCH_INTERVAL_NS);

/// A year. The program counts in nanoseconds of 64 bits, which last for centuries.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

const TCP_HALF_OPEN: Duration = Duration::from_secs(30);
const TCP_ESTABLISHED: Duration = Duration::from_secs(7440);
const TCP_CLOSING: Duration = Duration::from_secs(240);
const UDP: Duration = Duration::from_secs(300);
/// RFC 4787, REQ-5.
const UDP_MINIMUM: Duration = Duration::from_secs(120);

/// Reads the mapping `connections`.
pub(super) fn read(report: &mut Report<'_>, at: &Path, connections: Option<&file::Connections>) -> Connections {
    let nothing = file::Connections::default();
    let connections = connections.unwrap_or(&nothing);
    let count = values::count(1..=limits::MAX_CONNECTIONS);
    let max = report.read(&at.key("max"), connections.max.as_ref(), &count);
    let half_open_max = report.read(&at.key("half_open_max"), connections.half_open_max.as_ref(), &count);
    Connections {
        max: max.unwrap_or(limits::DEFAULT_MAX_CONNECTIONS),
        half_open_max: half_open_max.unwrap_or(limits::DEFAULT_MAX_HALF_OPEN),
        timeouts: read_timeouts(report, &at.key("timeouts"), connections.timeouts.as_ref()),
    }
}

fn read_timeouts(report: &mut Report<'_>, at: &Path, timeouts: Option<&file::Timeouts>) -> Timeouts {
    let nothing = file::Timeouts::default();
    let timeouts = timeouts.unwrap_or(&nothing);
    let any = values::duration(SHORTEST..=LONGEST);
    let icmp_at = at.key("icmp");
    if report.read(&icmp_at, timeouts.icmp.as_ref(), &any).is_some() {
        let message = "has no effect: echo requests (ping) are answered, not balanced, so no connection waits for them";
        report.warn(&icmp_at, Invalid::new(message, "remove the key"));
    }

    let mut read = |key: &'static str, value: Option<&Scalar>, default, minimum, rfc: &str| {
        let at = at.key(key);
        let timeout = report.read(&at, value, &any).unwrap_or(default);
        if timeout < minimum {
            let message = format!("{} is less than {rfc} asks for", show_duration(timeout));
            let remedy = format!("idle connections may break; use at least {}s", minimum.as_secs());
            report.warn(&at, Invalid::new(message, remedy));
        }
        timeout
    };
    Timeouts {
        tcp_half_open: read(
            "tcp_half_open",
            timeouts.tcp_half_open.as_ref(),
            TCP_HALF_OPEN,
            SHORTEST,
            "",
        ),
        tcp_established: read(
            "tcp_established",
            timeouts.tcp_established.as_ref(),
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
            "RFC 5382",
        ),
        tcp_closing: read(
            "tcp_closing",
            timeouts.tcp_closing.as_ref(),
            TCP_CLOSING,
            TCP_CLOSING,
            "RFC 5382",
        ),
        udp: read("udp", timeouts.udp.as_ref(), UDP, UDP_MINIMUM, "RFC 4787"),
    }
}
