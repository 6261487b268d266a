//! `health_check`: how backends are probed.

use std::{ops::RangeInclusive, time::Duration};

use super::super::{
    error::Invalid,
    file,
    path::Path,
    report::Report,
    shape::Scalar,
    values::{self, Parsed, show_duration},
};
use crate::model::{HealthCheck, Probe};

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);
const RISE: u32 = 2;
const FALL: u32 = 3;
const EXPECT: RangeInclusive<u16> = 200..=399;

/// More often than this is an attack, less often than hourly no check.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// Probes that differ in kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    None,
}

/// The check of a service for which the file has none: TCP on the backend's port.
pub(super) const fn default() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        port: None,
        interval: INTERVAL,
        timeout: TIMEOUT,
        rise: RISE,
        fall: FALL,
    }
}

/// Reads the mapping `health_check`. `None` when it switches checks off.
pub(super) fn read(report: &mut Report<'_>, at: &Path, check: &file::HealthCheck) -> Option<HealthCheck> {
    let kinds = [
        ("tcp", Some(Kind::Tcp)),
        ("http", Some(Kind::Http)),
        ("none", Some(Kind::None)),
        ("https", None),
        ("udp", None),
        ("dns", None),
        ("grpc", None),
        ("exec", None),
    ];
    let kind = report.read(&at.key("type"), check.kind.as_ref(), values::word(&kinds));
    if let (None, Some(_)) = (kind, &check.kind) {
        // Which of the other keys make sense depends on the type.
        return Some(default());
    }
    let kind = kind.unwrap_or(Kind::Tcp);
    refuse_meaningless(report, at, check, kind);
    read_through_vip(report, &at.key("through_vip"), check.through_vip.as_ref());

    let port = report.read(&at.key("port"), check.port.as_ref(), values::count(1..=u16::MAX));
    let path = report.read(&at.key("path"), check.path.as_ref(), http_path);
    let expect = report.read(&at.key("expect"), check.expect.as_ref(), values::range(100..=599));
    let (interval, timeout) = read_times(report, at, check);
    let mut threshold = |key: &'static str, value: Option<&Scalar>, default| {
        let threshold = report.read(&at.key(key), value, values::count(1..=1000));
        threshold.unwrap_or(default)
    };
    let rise = threshold("rise", check.rise.as_ref(), RISE);
    let fall = threshold("fall", check.fall.as_ref(), FALL);
    let probe = match kind {
        Kind::None => return None,
        Kind::Tcp => Probe::Tcp,
        Kind::Http => Probe::Http {
            path: path.unwrap_or_else(|| "/".to_owned()),
            expect: expect.unwrap_or(EXPECT),
        },
    };
    Some(HealthCheck {
        probe,
        port,
        interval,
        timeout,
        rise,
        fall,
    })
}

/// Interval and timeout. When only the interval is given, and is below the default timeout, the timeout follows it.
fn read_times(report: &mut Report<'_>, at: &Path, check: &file::HealthCheck) -> (Duration, Duration) {
    let interval = report.read(
        &at.key("interval"),
        check.interval.as_ref(),
        values::duration(INTERVALS),
    );
    let interval = interval.unwrap_or(INTERVAL);
    let within_interval = |value: &Scalar| {
        let timeout = values::duration(INTERVALS)(value)?;
        if timeout <= interval {
            return Ok(timeout);
        }
        let interval = show_duration(interval);
        Err(Invalid::new(
            format!("{value} is longer than the interval, {interval}"),
            format!("expected at most {interval}, or a longer interval"),
        ))
    };
    let timeout = report.read(&at.key("timeout"), check.timeout.as_ref(), within_interval);
    (interval, timeout.unwrap_or(TIMEOUT.min(interval)))
}

/// Refuses keys that have no effect on a check of this kind.
fn refuse_meaningless(report: &mut Report<'_>, at: &Path, check: &file::HealthCheck, kind: Kind) {
    let of_http = [("path", &check.path), ("expect", &check.expect)];
    let of_any = [
        ("port", &check.port),
        ("interval", &check.interval),
        ("timeout", &check.timeout),
        ("rise", &check.rise),
        ("fall", &check.fall),
        ("through_vip", &check.through_vip),
    ];
    let mut refuse = |keys: &[(&'static str, &Option<Scalar>)], message: &str, remedy: &str| {
        for (key, _) in keys.iter().filter(|(_, value)| value.is_some()) {
            report.error_at_key(&at.key(*key), Invalid::new(message, remedy));
        }
    };
    if kind != Kind::Http {
        refuse(
            &of_http,
            "belongs to checks of type http only",
            "remove the key or write `type: http`",
        );
    }
    if kind == Kind::None {
        refuse(
            &of_any,
            "has no effect with type none",
            "remove the key or write another type",
        );
    }
}

fn read_through_vip(report: &mut Report<'_>, at: &Path, value: Option<&Scalar>) {
    if report.read(at, value, values::boolean) == Some(true) {
        report.error(at, Invalid::new("true is not supported yet", "expected false"));
    }
}

fn http_path(value: &Scalar) -> Parsed<String> {
    const MAX: usize = 2048;
    let path = values::text(value)?;
    if path.starts_with('/') && path.len() <= MAX && path.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(path.to_owned());
    }
    Err(Invalid::new(
        format!("{value} cannot be the path of a request"),
        format!("expected `/` and at most {MAX} printable ASCII characters without spaces, like /healthz"),
    ))
}
