//! Keys of a service that are known and not built yet: refused, never ignored. A key leaves this file when it is built.

use std::{ops::RangeInclusive, time::Duration};

use super::super::{
    address,
    error::Invalid,
    file::Service,
    path::Path,
    report::Report,
    shape::{Entry, List, Scalar},
    values,
};

/// What any of these durations may be.
const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(365 * 24 * 3600);

/// Refuses what `service` (or `defaults`) has of them.
pub(super) fn refuse(report: &mut Report<'_>, at: &Path, service: &Service) {
    report.refuse(
        &at.key("drain_timeout"),
        service.drain_timeout.as_ref(),
        values::duration(DURATIONS),
    );
    report.refuse(
        &at.key("slow_start"),
        service.slow_start.as_ref(),
        values::duration(DURATIONS),
    );
    report.refuse(&at.key("prefer_zone"), service.prefer_zone.as_ref(), |zone| {
        values::name(zone).map(drop)
    });
    refuse_prefixes(report, &at.key("allow"), service.allow.as_ref());
    refuse_prefixes(report, &at.key("deny"), service.deny.as_ref());
    refuse_persistence(report, &at.key("persistence"), service);
    refuse_outlier_detection(report, &at.key("outlier_detection"), service);
    refuse_limits(report, &at.key("limits"), service);
    accept_only_now(report, at, service);
}

/// Keys of which one value says what happens anyway.
fn accept_only_now(report: &mut Report<'_>, at: &Path, service: &Service) {
    let on_down = [("keep", Some(())), ("reset", None)];
    report.read(&at.key("on_down"), service.on_down.as_ref(), values::word(&on_down));
    report.read(
        &at.key("panic_threshold"),
        service.panic_threshold.as_ref(),
        |value| match values::percentage(value)? {
            0 => Ok(()),
            share => Err(Invalid::new(format!("{share}% is not supported yet"), "expected 0%")),
        },
    );
}

fn refuse_prefixes(report: &mut Report<'_>, at: &Path, list: Option<&List<Scalar>>) {
    let Some(list) = list else { return };
    report.not_supported(at, "remove the key");
    report.each(at, list, |report, at, prefix| {
        report.read(at, Some(prefix), address::prefix);
    });
}

fn refuse_persistence(report: &mut Report<'_>, at: &Path, service: &Service) {
    match &service.persistence {
        None => {}
        Some(Entry::Short(timeout)) => report.refuse(at, Some(timeout), values::duration(DURATIONS)),
        Some(Entry::Long(persistence)) => {
            report.not_supported(at, "remove the key");
            let timeout = at.key("timeout");
            if persistence.timeout.is_none() {
                report.missing(&timeout, "the timeout of persistence", "timeout: 5m");
            }
            report.read(&timeout, persistence.timeout.as_ref(), values::duration(DURATIONS));
            report.read(
                &at.key("ipv4_prefix"),
                persistence.ipv4_prefix.as_ref(),
                values::count(0_u8..=32),
            );
            report.read(
                &at.key("ipv6_prefix"),
                persistence.ipv6_prefix.as_ref(),
                values::count(0_u8..=128),
            );
        }
    }
}

fn refuse_outlier_detection(report: &mut Report<'_>, at: &Path, service: &Service) {
    let Some(detection) = &service.outlier_detection else {
        return;
    };
    report.not_supported(at, "remove the key");
    let failures = detection.consecutive_failures.as_ref();
    report.read(&at.key("consecutive_failures"), failures, values::count(1_u32..=1000));
    report.read(
        &at.key("ejection"),
        detection.ejection.as_ref(),
        values::duration(DURATIONS),
    );
    report.read(
        &at.key("max_ejected"),
        detection.max_ejected.as_ref(),
        values::percentage,
    );
}

fn refuse_limits(report: &mut Report<'_>, at: &Path, service: &Service) {
    let Some(limits) = &service.limits else { return };
    report.not_supported(at, "remove the key");
    let modes = [("enforce", Some(())), ("observe", Some(()))];
    report.read(&at.key("mode"), limits.mode.as_ref(), values::word(&modes));
    let new = limits.new_connections_per_client.as_ref();
    report.read(&at.key("new_connections_per_client"), new, values::rate);
    let concurrent = limits.connections_per_client.as_ref();
    report.read(
        &at.key("connections_per_client"),
        concurrent,
        values::count(1..=u32::MAX),
    );
}
