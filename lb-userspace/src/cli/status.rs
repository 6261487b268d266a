//! `xlb status`.

use std::{
    fmt::Write as _,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::api::{
    client,
    status::{Backend, Service, Status},
};

pub(super) fn run(socket: &Path, json: bool) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(client::status(socket))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", render(&status, SystemTime::now()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The state as text.
fn render(status: &Status, now: SystemTime) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _infallible = write_status(&mut text, status, now);
    text
}

fn write_status(text: &mut String, status: &Status, now: SystemTime) -> std::fmt::Result {
    let agent = &status.agent;
    writeln!(
        text,
        "xlb {}, pid {}, up {}, {}",
        agent.version,
        agent.pid,
        duration(agent.uptime_seconds),
        agent.config
    )?;
    if let Some(reload) = &agent.last_reload {
        let ago = duration(seconds_since(reload.at, now));
        match &reload.error {
            None => writeln!(text, "reloaded {ago} ago")?,
            Some(error) => writeln!(text, "RELOAD REFUSED {ago} ago: {error}")?,
        }
    }
    if let Some(problem) = &agent.problem {
        writeln!(text, "PROBLEM: {problem}")?;
    }
    for warning in &agent.warnings {
        writeln!(text, "WARNING: {warning}")?;
    }
    for interface in &status.interfaces {
        let mode = match interface.xdp_mode {
            crate::model::XdpMode::Generic => "generic",
            _ => "native",
        };
        writeln!(text, "interface {} ({}): XDP {mode}", interface.name, interface.ifindex)?;
    }
    let connections = &status.connections;
    writeln!(
        text,
        "connections: {} established of {}, {} half-open of {}, {} closing",
        connections.established, connections.max, connections.half_open, connections.half_open_max, connections.closing
    )?;
    for service in &status.services {
        write_service(text, service, now)?;
    }
    write_verdicts(text, status)
}

fn write_service(text: &mut String, service: &Service, now: SystemTime) -> std::fmt::Result {
    writeln!(
        text,
        "\n{}  {}  {} {}",
        service.name,
        service.listeners.join(", "),
        service.forwarding,
        service.scheduler
    )?;
    let mut table = table([
        "BACKEND",
        "WEIGHT",
        "STATE",
        "HEALTH",
        "FOR",
        "CONNECTIONS",
        "TOTAL",
        "IN",
        "OUT",
        "",
    ]);
    for column in [1, 5, 6, 7, 8] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for backend in &service.backends {
        table.add_row([
            backend.address.clone(),
            backend.weight.to_string(),
            backend.state.clone(),
            backend.health.clone(),
            backend
                .health_since
                .map_or_else(|| "-".to_owned(), |since| duration(seconds_since(since, now))),
            backend.connections.to_string(),
            backend.traffic.connections.to_string(),
            bytes(backend.traffic.forward_bytes),
            bytes(backend.traffic.reply_bytes),
            remark(backend),
        ]);
    }
    writeln!(text, "{table}")
}

/// What an operator should know of a backend beyond its numbers.
fn remark(backend: &Backend) -> String {
    if let Some(unreachable) = &backend.unreachable {
        return unreachable.clone();
    }
    match &backend.last_failure {
        Some(failure) if backend.health != "up" => failure.clone(),
        _ if backend.takes_connections && backend.health == "down" => "all are down: used anyway".to_owned(),
        _ => String::new(),
    }
}

fn write_verdicts(text: &mut String, status: &Status) -> std::fmt::Result {
    let mut table = table(["VERDICT", "REASON", "PACKETS", ""]);
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for verdict in &status.verdicts {
        table.add_row([
            verdict.verdict.clone(),
            verdict.reason.clone(),
            verdict.packets.to_string(),
            verdict.description.clone(),
        ]);
    }
    writeln!(text, "\n{table}")
}

/// A table without lines, as long as its content: it may be piped.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}

fn seconds_since(at: u64, now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH + Duration::from_secs(at))
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// A duration in its two largest units.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A number of bytes to three digits, in powers of 1000.
fn bytes(bytes: u64) -> String {
    let mut scaled = bytes;
    let mut rest = 0;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if scaled < 1000 {
            return match (unit, scaled) {
                ("B", _) | (_, 100..) => format!("{scaled} {unit}"),
                _ => format!("{scaled}.{} {unit}", rest / 100),
            };
        }
        rest = scaled % 1000;
        scaled /= 1000;
    }
    format!("{scaled} PB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        assert_eq!(duration(0), "0s");
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(61), "1m01s");
        assert_eq!(duration(3_661), "1h01m");
        assert_eq!(duration(90_000), "1d01h");
    }

    #[test]
    fn bytes_show_three_digits_at_most() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(1_990), "1.9 kB");
        assert_eq!(bytes(123_456_789), "123 MB");
        assert_eq!(bytes(u64::MAX), "18446 PB");
    }
}
