//! Counting. Every counter is this CPU's own, so plain additions are enough.

use lb_common::{connection::Direction, counters::Traffic, verdict::ForwardReason};

use crate::{maps, route::Route};

/// Counts one packet, or one event, under the number of its reason.
#[inline(always)]
pub(crate) fn count(reason: u32) {
    if let Some(counter) = maps::VERDICTS.get_ptr_mut(reason) {
        // SAFETY: a valid map value of this CPU, which nothing interrupts.
        unsafe { *counter += 1 };
    }
}

/// Counts a forwarded packet of this many bytes.
#[inline(always)]
pub(crate) fn account<A>(route: &Route<A>, length: u16) {
    count(match route.direction {
        Direction::Forward | Direction::Direct => ForwardReason::Forward as u32,
        Direction::Reply => ForwardReason::Reply as u32,
    });
    let bytes = u64::from(length);
    add(maps::SERVICE_TRAFFIC.get_ptr_mut(route.service), route.direction, bytes);
    add(maps::BACKEND_TRAFFIC.get_ptr_mut(route.backend), route.direction, bytes);
}

/// Counts a new connection.
#[inline(always)]
pub(crate) fn account_connection(service: u32, backend: u32) {
    let traffic = [
        maps::SERVICE_TRAFFIC.get_ptr_mut(service),
        maps::BACKEND_TRAFFIC.get_ptr_mut(backend),
    ];
    for traffic in traffic.into_iter().flatten() {
        // SAFETY: a valid map value of this CPU, which nothing interrupts.
        unsafe { (*traffic).connections += 1 };
    }
}

#[inline(always)]
fn add(traffic: Option<*mut Traffic>, direction: Direction, bytes: u64) {
    let Some(traffic) = traffic else { return };
    // SAFETY: a valid map value of this CPU, which nothing interrupts.
    let traffic = unsafe { &mut *traffic };
    match direction {
        Direction::Forward | Direction::Direct => {
            traffic.forward_packets += 1;
            traffic.forward_bytes += bytes;
        }
        Direction::Reply => {
            traffic.reply_packets += 1;
            traffic.reply_bytes += bytes;
        }
    }
}
