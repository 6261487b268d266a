//! What came out, for scripts: the object that `--json` prints. Field names are stable.

use std::{collections::BTreeMap, time::Duration};

use lb_tests::{leftovers::Instance, traffic::report::Report};
use serde::Serialize;

use super::Options;

/// All of it. Parts are `null` when the demo ended before they were known.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Whether everything was as it must be.
    pub(super) success: bool,
    /// `nat` or `full_nat`.
    forwarding: String,
    /// `native` or `generic`.
    xdp_mode: String,
    /// What the names of the laboratory's namespaces, pins and files start with.
    #[serde(serialize_with = "as_text")]
    pub(super) laboratory: Option<Instance>,
    /// Number of backends.
    pub(super) backends: usize,
    /// Connections while all was well.
    pub(super) tcp: Option<Requests>,
    /// Datagram exchanges while all was well.
    pub(super) udp: Option<Requests>,
    /// A backend's death.
    pub(super) outage: Option<Outage>,
    /// Its return.
    pub(super) recovery: Option<Recovery>,
    /// TCP and UDP packets with a wrong checksum that any of the kernels noticed.
    pub(super) checksum_errors: Option<i64>,
    /// Whether nothing of the demo is left on the machine.
    pub(super) cleaned_up: bool,
    /// How long it took.
    pub(super) seconds: f64,
    /// What was not as it must be.
    pub(super) failures: Vec<String>,
}

/// A number of requests.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Requests {
    /// How many.
    pub(super) total: usize,
    /// Those that had no answer.
    pub(super) failed: usize,
    /// Answers by number of the backend.
    pub(super) by_backend: BTreeMap<u32, usize>,
}

/// A backend's death.
#[derive(Debug, Serialize)]
pub(super) struct Outage {
    /// Number of the backend.
    pub(super) backend: u32,
    /// Within this time a dead backend must be taken out: interval x fall + timeout.
    pub(super) bound_milliseconds: u128,
    /// When it was.
    pub(super) taken_out_milliseconds: u128,
    /// Requests that failed within the bound, TCP and UDP.
    pub(super) failed_within_bound: usize,
    /// When the last of them had begun; `null` if none failed.
    pub(super) last_failure_milliseconds: Option<u128>,
    /// Connections and exchanges after that, until the end of the demo.
    pub(super) after: Requests,
    /// TCP connections to other backends that were open all the time.
    pub(super) open_connections: usize,
    /// Those among them that broke.
    pub(super) broken_connections: usize,
}

/// A backend's return.
#[derive(Debug, Serialize)]
pub(super) struct Recovery {
    /// From its start until it took connections.
    pub(super) milliseconds: u128,
    /// Connections and exchanges from then on.
    pub(super) requests: Requests,
}

impl Summary {
    pub(super) fn new(options: Options) -> Self {
        Self {
            success: false,
            forwarding: options.forwarding.to_string(),
            xdp_mode: options.mode.to_string(),
            laboratory: None,
            backends: 0,
            tcp: None,
            udp: None,
            outage: None,
            recovery: None,
            checksum_errors: None,
            cleaned_up: false,
            seconds: Duration::ZERO.as_secs_f64(),
            failures: Vec::new(),
        }
    }
}

impl From<&Report> for Requests {
    fn from(report: &Report) -> Self {
        Self {
            total: report.exchanges.len(),
            failed: report.failures().values().sum(),
            by_backend: report.by_backend(),
        }
    }
}

fn as_text<S: serde::Serializer>(instance: &Option<Instance>, serializer: S) -> Result<S::Ok, S::Error> {
    instance.map(|instance| instance.to_string()).serialize(serializer)
}
