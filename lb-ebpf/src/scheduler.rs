//! Choosing a backend: an index into the service's slot table, which the agent has built to honour the weights.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use lb_common::{
    backend::Backend,
    flow::FlowKey,
    scheduler::{flow_hash, source_hash},
    service::{Scheduler, Service},
    settings::Settings,
};

use crate::{atomic, family::Family, maps};

/// The backend for a new connection, with its id; `None` while the service has none.
///
/// Number of slots and slots come from one inner map, which the agent replaces as a whole: a packet sees the old set or the new.
#[inline(always)]
pub(crate) fn choose<F: Family>(
    key: &FlowKey<F>,
    id: u32,
    service: &Service,
    settings: &Settings,
) -> Option<(u32, &'static Backend<F>)> {
    let slots = maps::SLOTS.get(id)?;
    let count = *slots.get(0)?;
    if count == 0 {
        return None;
    }
    let number = if service.scheduler == Scheduler::RoundRobin as u8 {
        next_turn(id)
    } else if service.scheduler == Scheduler::Random as u8 {
        // SAFETY: takes nothing, returns a number.
        unsafe { bpf_get_prandom_u32() }
    } else if service.scheduler == Scheduler::SourceHash as u8 {
        source_hash(key.source, settings.hash_seed)
    } else {
        flow_hash(key, settings.hash_seed)
    };
    let backend_id = *slots.get(1 + number % count)?;
    let backend = F::backends().get(backend_id)?;
    // Id 0 and records that were cleared belong to no service.
    (backend_id != 0 && backend.service == id).then_some((backend_id, backend))
}

/// The service's round-robin cursor, moved on by one. One cursor for all CPUs: the shares are exact.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "wraps around, and only the remainder counts"
)]
fn next_turn(id: u32) -> u32 {
    // SAFETY: a valid map value.
    maps::CURSORS
        .get_ptr_mut(id)
        .map_or(0, |cursor| unsafe { atomic::fetch_add(cursor, 1) } as u32)
}
