//! One cell of the test matrix, and the configuration of `xlb` for it.

use std::{fmt, net::SocketAddr};

use crate::names::{Family, TO_BACKENDS, TO_CLIENTS};

/// One cell of the test matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// `nat` or `full_nat`.
    pub forwarding: &'static str,
    /// Of clients, VIP and backends.
    pub family: Family,
    /// Attach mode towards the clients: `native` or `generic`.
    pub clients: &'static str,
    /// Attach mode towards the backends.
    pub backends: &'static str,
}

impl Cell {
    const fn new(forwarding: &'static str, family: Family, mode: &'static str) -> Self {
        Self {
            forwarding,
            family,
            clients: mode,
            backends: mode,
        }
    }

    /// The same with another attach mode towards the backends than towards the clients.
    const fn towards_backends(mut self, mode: &'static str) -> Self {
        self.backends = mode;
        self
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} x {}", self.forwarding, self.family, self.clients)?;
        if self.backends != self.clients {
            write!(f, "/{}", self.backends)?;
        }
        Ok(())
    }
}

/// Both forwarding modes in both attach modes, over IPv4.
pub const MATRIX: [Cell; 4] = [
    Cell::new("nat", Family::V4, "native"),
    Cell::new("nat", Family::V4, "generic"),
    Cell::new("full_nat", Family::V4, "native"),
    Cell::new("full_nat", Family::V4, "generic"),
];

/// Both forwarding modes in both attach modes, over both families.
pub const MATRIX_BOTH_FAMILIES: [Cell; 8] = [
    MATRIX[0],
    MATRIX[1],
    MATRIX[2],
    MATRIX[3],
    Cell::new("nat", Family::V6, "native"),
    Cell::new("nat", Family::V6, "generic"),
    Cell::new("full_nat", Family::V6, "native"),
    Cell::new("full_nat", Family::V6, "generic"),
];

/// As [`MATRIX_BOTH_FAMILIES`], and with each attach mode on either side.
pub const MATRIX_MIXED: [Cell; 12] = [
    MATRIX[0],
    MATRIX[1],
    MATRIX[2],
    MATRIX[3],
    MATRIX[0].towards_backends("generic"),
    MATRIX[3].towards_backends("native"),
    MATRIX_BOTH_FAMILIES[4],
    MATRIX_BOTH_FAMILIES[5],
    MATRIX_BOTH_FAMILIES[6],
    MATRIX_BOTH_FAMILIES[7],
    MATRIX_BOTH_FAMILIES[4].towards_backends("generic"),
    MATRIX_BOTH_FAMILIES[7].towards_backends("native"),
];

/// The one service of a configuration, TCP and UDP.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    /// Its name.
    pub name: &'a str,
    /// Port of the listener, on the VIP.
    pub port: u16,
    /// The health check, as YAML.
    pub health_check: &'a str,
    /// The backends, as YAML each.
    pub backends: &'a [String],
}

/// A configuration with one service. It ends within the service: what is appended with four spaces in front is a key of it, without
/// any a key of the file.
pub fn configuration(cell: Cell, service: &Service<'_>) -> String {
    let Cell { clients, backends, .. } = cell;
    format!(
        "interfaces:
  - {{name: {TO_CLIENTS}, xdp_mode: {clients}}}
  - {{name: {TO_BACKENDS}, xdp_mode: {backends}}}
services:
  - name: {}
    listen: \"{}\"
    protocol: [tcp, udp]
    forwarding: {}
    scheduler: round_robin
    health_check: {}
    backends: [{}]
",
        service.name,
        SocketAddr::new(cell.family.vip(), service.port),
        cell.forwarding,
        service.health_check,
        service.backends.join(", ")
    )
}
