//! The shape of a configuration file: every key of the schema, nothing said yet about its values.
//!
//! All is optional here, and scalars are of any kind: [`super::validate`] tells what is missing or wrong, all at once. Keys that no
//! one reads yet are here too, so that they are known and refused by name.

use serde::Deserialize;

use super::shape::{Entry, List, OneOrMany, Scalar};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of keys, like `services:`")]
pub(super) struct File {
    pub(super) interfaces: Option<List<Entry<Interface>>>,
    pub(super) api: Option<Api>,
    pub(super) connections: Option<Connections>,
    pub(super) snat: Option<Snat>,
    pub(super) defaults: Option<Service>,
    pub(super) services: Option<List<Service>>,
}

/// `interfaces[]`, long form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an interface")]
pub(super) struct Interface {
    pub(super) name: Option<Scalar>,
    pub(super) xdp_mode: Option<Scalar>,
}

/// `api`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with `socket`")]
pub(super) struct Api {
    pub(super) socket: Option<Scalar>,
    pub(super) listen: Option<Scalar>,
}

/// `connections`.
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a mapping with `max`, `half_open_max` or `timeouts`"
)]
pub(super) struct Connections {
    pub(super) max: Option<Scalar>,
    pub(super) half_open_max: Option<Scalar>,
    pub(super) timeouts: Option<Timeouts>,
}

/// `connections.timeouts`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of timeouts, like `udp: 300s`")]
pub(super) struct Timeouts {
    pub(super) tcp_half_open: Option<Scalar>,
    pub(super) tcp_established: Option<Scalar>,
    pub(super) tcp_closing: Option<Scalar>,
    pub(super) udp: Option<Scalar>,
    pub(super) icmp: Option<Scalar>,
}

/// `snat`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with `addresses` or `ports`")]
pub(super) struct Snat {
    pub(super) addresses: Option<List<Scalar>>,
    pub(super) ports: Option<Scalar>,
}

/// `services[]`, and `defaults`, which takes all keys but `name`, `listen` and `backends`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with the keys of a service")]
pub(super) struct Service {
    pub(super) name: Option<Scalar>,
    pub(super) listen: Option<OneOrMany>,
    pub(super) protocol: Option<OneOrMany>,
    pub(super) forwarding: Option<Scalar>,
    pub(super) scheduler: Option<Scalar>,
    pub(super) persistence: Option<Entry<Persistence>>,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) panic_threshold: Option<Scalar>,
    pub(super) when_all_down: Option<Scalar>,
    pub(super) on_down: Option<Scalar>,
    pub(super) prefer_zone: Option<Scalar>,
    pub(super) echo: Option<Scalar>,
    pub(super) drain_timeout: Option<Scalar>,
    pub(super) slow_start: Option<Scalar>,
    pub(super) limits: Option<Limits>,
    pub(super) allow: Option<List<Scalar>>,
    pub(super) deny: Option<List<Scalar>>,
    pub(super) backends: Option<List<Entry<Backend>>>,
}

/// `persistence`, long form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a duration or a mapping with `timeout`")]
pub(super) struct Persistence {
    pub(super) timeout: Option<Scalar>,
    pub(super) ipv4_prefix: Option<Scalar>,
    pub(super) ipv6_prefix: Option<Scalar>,
}

/// `health_check`.
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a mapping with the keys of a health check, like `type: tcp`"
)]
pub(super) struct HealthCheck {
    #[serde(rename = "type")]
    pub(super) kind: Option<Scalar>,
    pub(super) port: Option<Scalar>,
    pub(super) path: Option<Scalar>,
    pub(super) expect: Option<Scalar>,
    pub(super) interval: Option<Scalar>,
    pub(super) timeout: Option<Scalar>,
    pub(super) rise: Option<Scalar>,
    pub(super) fall: Option<Scalar>,
    pub(super) through_vip: Option<Scalar>,
}

/// `outlier_detection`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with the keys of outlier detection")]
pub(super) struct OutlierDetection {
    pub(super) consecutive_failures: Option<Scalar>,
    pub(super) ejection: Option<Scalar>,
    pub(super) max_ejected: Option<Scalar>,
}

/// `limits`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of limits")]
pub(super) struct Limits {
    pub(super) mode: Option<Scalar>,
    pub(super) new_connections_per_client: Option<Scalar>,
    pub(super) connections_per_client: Option<Scalar>,
}

/// `backends[]`, long form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a backend")]
pub(super) struct Backend {
    pub(super) address: Option<Scalar>,
    pub(super) name: Option<Scalar>,
    pub(super) weight: Option<Scalar>,
    pub(super) zone: Option<Scalar>,
    pub(super) backup: Option<Scalar>,
    pub(super) state: Option<Scalar>,
    pub(super) max_connections: Option<Scalar>,
}
