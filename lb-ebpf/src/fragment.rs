//! Fragments. The first one of a packet names ports, is judged like any packet, and leaves a note; the others follow the note.
//!
//! A fragment that comes before the first one of its packet waits with the agent, which shows it to the program again once the note is
//! there (RFC 4787, REQ-14). What is written here never reassembles: a fragment leaves as it came, with other addresses.
//!
//! No fragment changes what was decided: a second first fragment must agree with the note or is dropped, and so is one that would
//! overwrite the header by which the packet was judged (RFC 1858; RFC 3128).

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_get_prandom_u32,
};
use lb_common::{
    checksum::TupleDelta,
    flow::{FlowKey, protocol},
    fragment::{FragmentKey, FragmentNote, HeldFragment, MAX_HELD_LENGTH, Side},
    limits::FRAGMENT_LIFETIME_NS,
    packet::{Link, Network},
    role::Roles,
    verdict::{DropReason, PassReason, Verdict},
};
use network_types::tcp::TcpHdr;

use crate::{
    clock, connection,
    context::{Context, forget},
    desk::Desk,
    family::Family,
    link, maps,
    outcome::Outcome,
    role,
    route::Route,
    stats, transmit,
};

/// Identifications tried when the packet's own is in use between the addresses that it leaves with.
const ID_TRIES: u32 = 8;

/// What the fragments of a packet look up.
#[inline(always)]
fn arriving<F: Family>(network: &Network<F>) -> FragmentKey<F> {
    FragmentKey::new(
        network.source,
        network.destination,
        network.id,
        F::fragment_protocol(network.protocol),
        Side::Arriving,
    )
}

/// What no other packet may leave with.
#[inline(always)]
fn leaving<F: Family>(to: &FlowKey<F>, id: u32) -> FragmentKey<F> {
    FragmentKey::new(
        to.source,
        to.destination,
        id,
        F::fragment_protocol(to.protocol),
        Side::Leaving,
    )
}

/// Whether a note still binds.
#[inline(always)]
const fn binds<F: Family>(note: &FragmentNote<F>, now: u64) -> bool {
    note.flags & FragmentNote::<F>::COMPLETE == 0 && now.wrapping_sub(note.since) < FRAGMENT_LIFETIME_NS
}

/// The note under a key, as it is now.
#[inline(always)]
fn note<F: Family>(key: &FragmentKey<F>) -> Option<FragmentNote<F>> {
    // SAFETY: a valid map value, copied at once.
    F::fragments().get_ptr(key).map(|note| unsafe { *note })
}

/// Lets a first fragment leave its note: the others take the way of the connection with the tuple `tuple`. Changes the fragment's
/// identification where another packet has it.
#[inline(always)]
pub(crate) fn leave_note<F: Family, C: Context>(
    ctx: C,
    network: &Network<F>,
    tuple: &FlowKey<F>,
    route: &Route<F>,
) -> Result<(), Verdict> {
    let now = clock::now();
    let key = arriving(network);
    let id = match note(&key) {
        Some(note) if binds(&note, now) => {
            if note.tuple != *tuple || note.flags & FragmentNote::<F>::PASS != 0 {
                return Err(DropReason::FragmentConflict.into());
            }
            note.id
        }
        _ => {
            let mut note = FragmentNote {
                tuple: *tuple,
                since: now,
                id: network.id,
                flags: 0,
            };
            note.id = claim(&route.to, &note)?;
            F::fragments()
                .insert(key, note, u64::from(BPF_ANY))
                .map_err(|_full| DropReason::TableFull)?;
            note.id
        }
    };
    if id == network.id {
        return Ok(());
    }
    F::rewrite_id(ctx, network, id)
}

/// Finds an identification that no other packet between these addresses has: the packet's own if it can be.
#[inline(always)]
fn claim<F: Family>(to: &FlowKey<F>, note: &FragmentNote<F>) -> Result<u32, Verdict> {
    let mut id = note.id;
    for _ in 0..ID_TRIES {
        let key = leaving(to, id);
        if F::fragments().insert(key, note, u64::from(BPF_NOEXIST)).is_ok() {
            return Ok(id);
        }
        let free = self::note(&key).is_none_or(|holder| !binds(&holder, note.since) || holder.tuple == note.tuple);
        if free && F::fragments().insert(key, note, u64::from(BPF_ANY)).is_ok() {
            return Ok(id);
        }
        // SAFETY: takes nothing, returns a number.
        id = unsafe { bpf_get_prandom_u32() } & F::ID_MASK;
    }
    Err(DropReason::FragmentConflict.into())
}

/// The way of a later fragment.
#[inline(never)]
pub(crate) fn follow<F: Family, C: Context>(ctx: C, desk: &Desk<F>) -> Outcome {
    Outcome::from(forward(ctx, &desk.link, &desk.network))
}

#[inline(always)]
fn forward<F: Family, C: Context>(ctx: C, link: &Link, network: &Network<F>) -> Result<u32, Verdict> {
    let key = arriving(network);
    let now = clock::now();
    let note = match note(&key) {
        // The last fragment may overtake others of its packet.
        Some(note) if now.wrapping_sub(note.since) < FRAGMENT_LIFETIME_NS => note,
        _ => return Err(hold(ctx, network)),
    };
    if note.flags & FragmentNote::<F>::PASS != 0 {
        return Err(PassReason::Fragment.into());
    }
    if note.tuple.protocol == protocol::TCP && usize::from(network.fragment_offset) < TcpHdr::LEN {
        return Err(DropReason::FragmentConflict.into());
    }
    let entry = connection::find::<F>(&note.tuple).ok_or(DropReason::Vanished)?;
    let route = connection::route_of(entry);
    let direct = route.direction == lb_common::connection::Direction::Direct;
    // Nobody is told about a later fragment (RFC 1122, section 3.2.2; RFC 4443, section 3.3).
    if network.ttl <= 1 && !direct {
        return Err(DropReason::TtlExpired.into());
    }
    let next_hop = if route.next_hop.is_known() {
        route.next_hop
    } else {
        transmit::look_up(ctx, &route.to, u32::from(network.length))?
    };
    if next_hop.mtu != 0 && network.length > next_hop.mtu {
        return Err(DropReason::TooBig.into());
    }
    if !network.more_fragments {
        mark_complete(&key);
        mark_complete(&leaving(&route.to, note.id));
    }

    let from = FlowKey::new(
        (network.source, note.tuple.source_port),
        (network.destination, note.tuple.destination_port),
        note.tuple.protocol,
    );
    if note.id != network.id {
        F::rewrite_id(ctx, network, note.id)?;
    }
    let l3 = link::write::<F, C>(ctx, network.l3, link.tags, &next_hop)?;
    if !direct {
        let delta = TupleDelta::between(&from, &route.to);
        F::rewrite(ctx, l3, &route.to, &delta, network.ttl - 1)?;
    }
    stats::account(&route, network.length);
    Ok(ctx.redirect(next_hop.ifindex))
}

/// Notes that the last fragment of a packet was seen.
#[inline(always)]
fn mark_complete<F: Family>(key: &FragmentKey<F>) {
    if let Some(note) = F::fragments().get_ptr_mut(key) {
        // SAFETY: a valid map value; an aligned word.
        unsafe { (*note).flags |= FragmentNote::<F>::COMPLETE };
    }
}

/// Gives a fragment that came too early to the agent, if it may be ours.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "2048 at most")]
fn hold<F: Family, C: Context>(ctx: C, network: &Network<F>) -> Verdict {
    let to_us = role::of(network.destination).any(Roles::VIP | Roles::SNAT);
    if !to_us && !role::of(network.source).any(Roles::BACKEND) {
        return PassReason::Fragment.into();
    }
    let length = network.l3 + usize::from(network.length);
    if length > MAX_HELD_LENGTH {
        return DropReason::FragmentLost.into();
    }
    let Some(mut held) = maps::HELD.reserve(0) else {
        return DropReason::FragmentLost.into();
    };
    let record: *mut HeldFragment = held.as_mut_ptr();
    // At least 1 and at most `MAX_HELD_LENGTH`, in the one form that the verifier understands.
    let length = (forget(length - 1) & (MAX_HELD_LENGTH - 1)) + 1;
    // SAFETY: the buffer has room for `MAX_HELD_LENGTH` bytes; the first two fields are set here.
    let loaded = unsafe {
        (*record).ifindex = ctx.ifindex();
        (*record).length = length as u32;
        ctx.load(0, (&raw mut (*record).frame).cast(), length as u32)
    };
    if loaded.is_err() {
        held.discard(0);
        return DropReason::FragmentLost.into();
    }
    held.submit(0);
    DropReason::FragmentHeld.into()
}
