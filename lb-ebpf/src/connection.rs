//! The connection table: following what is known, creating what is new.
//!
//! Two entries a connection, see [`lb_common::connection`]. All access to the table is in this file.
//!
//! # Races
//!
//! Two CPUs may meet the first packets of one tuple at the same time. The reply entry is claimed first, then the forward entry; both
//! with `BPF_NOEXIST`, so that exactly one CPU wins each. Who loses the forward entry takes back its own reply entry and follows the
//! winner: a connection is never split over two backends. Who ends a connection marks it first ([`Seen::ENDED`]), so that only one
//! CPU does: a second one would remove what the first has made. Entries are updated in place without a lock: bits are set
//! atomically, the time stamp is one word, and a torn learned address costs one packet.
//!
//! The kernel hands out the memory of a removed entry at once: a packet that reads an entry in the very instant in which another CPU
//! removes it may see parts of what takes its place.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use lb_common::{
    backend::{Backend, NextHop},
    connection::{Connection, Direction, Phase, Seen, phase, phase_of_direct},
    flow::{FlowKey, protocol},
    limits::TOUCH_INTERVAL_NS,
    packet::Packet,
    verdict::{DropReason, Event, Verdict},
};

use crate::{atomic, clock, family::Family, maps, nat::ReplyKeys, route::Route, scratch, stats, transmit};

/// Follows the connection that a packet belongs to. `false` when there is none, or none that is worth keeping for this packet.
#[inline(always)]
pub(crate) fn follow<F: Family>(packet: &Packet<F>, route: &mut Route<F>) -> Result<bool, Verdict> {
    let Some(entry) = F::connections().get_ptr_mut(&packet.key) else {
        return Ok(false);
    };
    // SAFETY: a valid map value. Other CPUs change single fields of it, never its identity, while it exists.
    let known = unsafe { &*entry };
    *route = route_of(known);
    if known.direction != Direction::Reply as u32 {
        match judge(packet, known) {
            Fitness::Fit => {}
            Fitness::Closed => restart::<F>(entry, known),
            Fitness::Stranded => return end(packet, entry, route),
        }
    }
    remember(packet, entry, known);
    Ok(true)
}

/// Ends a connection that is stranded for this packet, unless another CPU is about to, or has done so: then the packet follows what
/// that one made. It is lost when it comes between the other's mark and its removal.
#[inline(always)]
fn end<F: Family>(packet: &Packet<F>, entry: *mut Connection<F>, route: &mut Route<F>) -> Result<bool, Verdict> {
    // SAFETY: a valid map value.
    let before = Seen(unsafe { atomic::fetch_or(&raw mut (*entry).seen, Seen::ENDED) });
    let marked = !before.any(Seen::ENDED);
    let unmark = || {
        if marked {
            // SAFETY: a valid map value.
            unsafe { atomic::fetch_and(&raw mut (*entry).seen, !Seen::ENDED) };
        }
    };
    let Some(current) = F::connections().get_ptr_mut(&packet.key) else {
        // Removed since, and its memory handed out: what was marked is another connection.
        unmark();
        return Ok(false);
    };
    // SAFETY: a valid map value.
    let known = unsafe { &*current };
    let stranded = matches!(judge(packet, known), Fitness::Stranded);
    if stranded && marked && current == entry {
        remove::<F>(&packet.key, known);
        return Ok(false);
    }
    unmark();
    if stranded {
        return Err(DropReason::Vanished.into());
    }
    *route = route_of(known);
    Ok(true)
}

/// The way of a packet that matched `entry`.
#[inline(always)]
pub(crate) fn route_of<F: Family>(entry: &Connection<F>) -> Route<F> {
    Route {
        to: entry.twin.reversed(),
        next_hop: next_hop_of(entry),
        direction: if entry.direction == Direction::Reply as u32 {
            Direction::Reply
        } else if entry.direction == Direction::Direct as u32 {
            Direction::Direct
        } else {
            Direction::Forward
        },
        service: entry.service,
        backend: entry.backend,
    }
}

/// Where a packet that matched `entry` is sent, if that is known.
#[inline(always)]
pub(crate) fn next_hop_of<F: Family>(entry: &Connection<F>) -> NextHop {
    let mut next_hop = entry.client;
    if entry.direction != Direction::Reply as u32 {
        match backend_of::<F>(entry) {
            Some(backend) => next_hop = backend.next_hop,
            // Unknown, and nothing else of it is looked at.
            None => next_hop.ifindex = 0,
        }
    }
    next_hop
}

/// The entry for packets with this tuple, as it is now.
#[inline(always)]
pub(crate) fn find<F: Family>(key: &FlowKey<F>) -> Option<&'static Connection<F>> {
    // SAFETY: a valid map value, of which other CPUs change single fields. The kernel keeps it alive for the run of the program.
    F::connections().get_ptr(key).map(|entry| unsafe { &*entry })
}

/// The backend of an entry, unless its record is gone.
#[inline(always)]
fn backend_of<F: Family>(entry: &Connection<F>) -> Option<&'static Backend<F>> {
    let backend = F::backends().get(entry.backend)?;
    (backend.service == entry.service).then_some(backend)
}

/// What a connection is worth for a client's packet.
enum Fitness {
    /// The packet belongs to it.
    Fit,
    /// It is over, and the packet starts anew with the same backend.
    Closed,
    /// It leads to a dead backend that never answered, or, for UDP, may never answer again: another one must be chosen.
    Stranded,
}

/// Judges a connection for a client's packet.
///
/// A client may use its port again as soon as a connection is closed (RFC 9293, section 3.6.1). A UDP flow leaves a dead backend at
/// once: there is no handshake that would tell the client.
#[inline(always)]
fn judge<F: Family>(packet: &Packet<F>, entry: &Connection<F>) -> Fitness {
    let alive = || backend_of::<F>(entry).is_some_and(|backend| backend.flags & Backend::<F>::ALIVE != 0);
    if packet.key.protocol == protocol::UDP {
        return if alive() { Fitness::Fit } else { Fitness::Stranded };
    }
    if !packet.seen.is_initial_syn() {
        return Fitness::Fit;
    }
    match phase_of(entry) {
        // The server answers with a challenge (RFC 5961, section 4).
        Phase::Established => Fitness::Fit,
        Phase::HalfOpen if alive() => Fitness::Fit,
        Phase::Closing if alive() => Fitness::Closed,
        Phase::HalfOpen | Phase::Closing => Fitness::Stranded,
    }
}

/// Lets a closed connection start anew, in place: what both directions have sent is forgotten.
///
/// An RST that closed it may have been forged. Then the server's challenge goes back to its client, and the next packets of both
/// make the connection established again.
#[inline(always)]
fn restart<F: Family>(entry: *mut Connection<F>, known: &Connection<F>) {
    // SAFETY: a valid map value; an aligned word.
    unsafe { (*entry).seen = Seen::SYN };
    if let Some(twin) = F::connections().get_ptr_mut(&known.twin) {
        // SAFETY: as above.
        unsafe { (*twin).seen = 0 };
    }
    half_open_add(1);
    stats::account_connection(known.service, known.backend);
}

/// The phase of the connection of `entry`. A missing twin counts as silent.
#[inline(always)]
fn phase_of<F: Family>(entry: &Connection<F>) -> Phase {
    phase_with(entry, Seen(entry.seen))
}

/// The phase of the connection of `entry`, had its direction sent `own`.
#[inline(always)]
fn phase_with<F: Family>(entry: &Connection<F>, own: Seen) -> Phase {
    if entry.direction == Direction::Direct as u32 {
        return phase_of_direct(own);
    }
    let twin = F::connections().get_ptr(&entry.twin);
    // SAFETY: a valid map value; `seen` is one word.
    let twin = Seen(twin.map_or(0, |twin| unsafe { (*twin).seen }));
    if entry.direction == Direction::Forward as u32 {
        phase(own, twin)
    } else {
        phase(twin, own)
    }
}

/// Removes both entries of a connection.
#[inline(always)]
fn remove<F: Family>(key: &FlowKey<F>, entry: &Connection<F>) {
    if phase_of(entry) == Phase::HalfOpen {
        half_open_add(u64::MAX);
    }
    // The memory of an entry may be handed out as soon as it is removed.
    let twin = entry.twin;
    let _gone_already = F::connections().remove(key);
    let _gone_already = F::connections().remove(&twin);
}

/// Notes in the table what a packet of a known connection says: flags not seen before, that it is alive, where its sender is now.
///
/// The common packet writes nothing.
#[inline(always)]
fn remember<F: Family>(packet: &Packet<F>, entry: *mut Connection<F>, known: &Connection<F>) {
    let news = packet.seen.0 & !known.seen;
    if news != 0 {
        let own = known.seen;
        let before = phase_with(known, Seen(own));
        // SAFETY: a valid map value.
        let seen = unsafe { atomic::fetch_or(&raw mut (*entry).seen, news) };
        let after = phase_with(known, Seen(own | news));
        // Another packet of this direction may have brought the same news on another CPU.
        let first = seen & news != news;
        if first && before == Phase::HalfOpen && after != Phase::HalfOpen {
            // Both directions leaving the phase at the same instant on two CPUs may both count it, or neither. The agent corrects the
            // number with every sweep.
            half_open_add(u64::MAX);
        }
    }

    let now = clock::now();
    if now.wrapping_sub(known.last_seen) >= TOUCH_INTERVAL_NS {
        // SAFETY: a valid map value; an aligned word.
        unsafe { (*entry).last_seen = now };
        tend_twin::<F>(packet, known, now);
    }

    if known.direction == Direction::Forward as u32 && !known.client.leads_as(&packet.sender) {
        let client = way_back(packet);
        // SAFETY: a valid map value. A reply that reads the address half written is lost, once.
        unsafe { (*entry).client = client };
        if let Some(twin) = F::connections().get_ptr_mut(&known.twin) {
            // SAFETY: as above.
            unsafe { (*twin).client = client };
        }
    }
}

/// The way back to the sender of a packet, with what it takes.
#[inline(always)]
fn way_back<F: Family>(packet: &Packet<F>) -> NextHop {
    let mut way = packet.sender;
    way.mtu = transmit::mtu_of(way.ifindex);
    way
}

/// Looks after the other entry of a connection, once a second: makes it anew if it is gone, so that one lost half never costs the
/// connection, and corrects the way back to the client, should two CPUs have written different ones.
#[inline(always)]
fn tend_twin<F: Family>(packet: &Packet<F>, known: &Connection<F>, now: u64) {
    if known.direction == Direction::Direct as u32 {
        return;
    }
    let forward = known.direction == Direction::Forward as u32;
    if let Some(twin) = F::connections().get_ptr_mut(&known.twin) {
        if forward {
            // SAFETY: a valid map value. A reply that reads the address half written is lost, once.
            unsafe { (*twin).client = way_back(packet) };
        }
        return;
    }
    let direction = if forward { Direction::Reply } else { Direction::Forward };
    let twin = Connection {
        twin: packet.key,
        last_seen: now,
        // What it had sent is forgotten; a packet of this direction proves that it was there.
        seen: Seen::ACK,
        direction: direction as u32,
        ..*known
    };
    let inserted = scratch::put(twin).map(|twin| insert_new(&known.twin, twin));
    if inserted == Some(Ok(())) {
        stats::count(Event::PairRepaired as u32);
    }
}

/// Adds an entry to the table.
#[inline(always)]
fn insert_new<F: Family>(key: &FlowKey<F>, entry: &Connection<F>) -> Result<(), i32> {
    F::connections().insert(key, entry, u64::from(BPF_NOEXIST))
}

/// Whose a connection is.
pub(crate) struct Owner {
    /// Service id.
    pub(crate) service: u32,
    /// Backend id.
    pub(crate) backend: u32,
}

/// Creates the connection of a client's first packet to a backend, or joins the one that another CPU is creating.
///
/// `keys` yields the reply tuples that would do, in order of preference.
#[inline(always)]
pub(crate) fn create<F: Family>(
    packet: &Packet<F>,
    owner: &Owner,
    backend: &Backend<F>,
    keys: &mut ReplyKeys<F>,
    route: &mut Route<F>,
) -> Result<(), Verdict> {
    let entry = Connection {
        twin: packet.key,
        last_seen: clock::now(),
        client: way_back(packet),
        seen: 0,
        service: owner.service,
        backend: owner.backend,
        direction: Direction::Reply as u32,
    };
    let entry = scratch::put(entry).ok_or(DropReason::Vanished)?;
    let own = claim_reply(entry, keys)?;
    let reply_key = keys.current();
    entry.twin = *reply_key;
    entry.seen = packet.seen.0;
    entry.direction = Direction::Forward as u32;
    match insert_new(&packet.key, entry) {
        Ok(()) => {
            half_open_add(1);
            stats::account_connection(owner.service, owner.backend);
            if keys.is_rescued() {
                stats::count(Event::SourceTranslated as u32);
            }
            *route = Route {
                to: reply_key.reversed(),
                next_hop: backend.next_hop,
                direction: Direction::Forward,
                service: owner.service,
                backend: owner.backend,
            };
            Ok(())
        }
        Err(EEXIST) => join_winner(packet, reply_key, own, route),
        Err(_full) => {
            take_back::<F>(reply_key, own);
            Err(DropReason::TableFull.into())
        }
    }
}

/// As [`create`], for a connection whose replies do not pass here: one entry, nothing translated.
#[inline(always)]
pub(crate) fn create_direct<F: Family>(
    packet: &Packet<F>,
    owner: &Owner,
    backend: &Backend<F>,
    route: &mut Route<F>,
) -> Result<(), Verdict> {
    let entry = Connection {
        twin: packet.key.reversed(),
        last_seen: clock::now(),
        client: packet.sender,
        seen: packet.seen.0,
        service: owner.service,
        backend: owner.backend,
        direction: Direction::Direct as u32,
    };
    let entry = scratch::put(entry).ok_or(DropReason::Vanished)?;
    match insert_new(&packet.key, entry) {
        Ok(()) => {
            if packet.key.protocol == protocol::TCP {
                half_open_add(1);
            }
            stats::account_connection(owner.service, owner.backend);
            *route = Route {
                to: packet.key,
                next_hop: backend.next_hop,
                direction: Direction::Direct,
                service: owner.service,
                backend: owner.backend,
            };
            Ok(())
        }
        Err(EEXIST) => join_winner(packet, &packet.key, false, route),
        Err(_full) => Err(DropReason::TableFull.into()),
    }
}

/// Error numbers of `bpf_map_update_elem`, as the kernel returns them.
const EEXIST: i32 = -17;

/// Inserts the reply entry under the first free key, which is then the current one of `keys`. Returns whether it was inserted here; else
/// it was there.
#[inline(always)]
fn claim_reply<F: Family>(reply: &Connection<F>, keys: &mut ReplyKeys<F>) -> Result<bool, Verdict> {
    for _ in 0..ReplyKeys::<F>::TRIES {
        if !keys.advance() {
            break;
        }
        match insert_new(keys.current(), reply) {
            Ok(()) => return Ok(true),
            Err(EEXIST) => {
                let holder = find(keys.current());
                // The twin's key never changes while the entry exists.
                if holder.is_some_and(|holder| holder.twin == reply.twin) {
                    // This very connection: another CPU is creating it, which wrote the same, or its forward entry was lost, and
                    // then what the old one had seen is over.
                    let _as_good = F::connections().insert(keys.current(), reply, u64::from(BPF_ANY));
                    return Ok(false);
                }
            }
            Err(_full) => return Err(DropReason::TableFull.into()),
        }
    }
    Err(keys.refusal().into())
}

/// Removes a reply entry again, unless it was there before.
#[inline(always)]
fn take_back<F: Family>(key: &FlowKey<F>, own: bool) {
    if own {
        let _gone_already = F::connections().remove(key);
    }
}

/// Follows the connection that another CPU made for the same tuple, and takes back our own reply entry where it is another one.
#[inline(always)]
fn join_winner<F: Family>(
    packet: &Packet<F>,
    reply: &FlowKey<F>,
    own: bool,
    route: &mut Route<F>,
) -> Result<(), Verdict> {
    let Some(winner) = find(&packet.key) else {
        take_back::<F>(reply, own);
        return Err(DropReason::Vanished.into());
    };
    if winner.twin != *reply {
        take_back::<F>(reply, own);
    }
    *route = route_of(winner);
    Ok(())
}

/// Half-open connections now.
///
/// May be below zero for a moment: the agent corrects the number with what it counted a moment ago, and connections that came
/// meanwhile are not in that.
#[inline(always)]
pub(crate) fn half_open() -> i64 {
    // SAFETY: a valid map value; an aligned word.
    let count = maps::HALF_OPEN
        .get_ptr_mut(0)
        .map_or(0, |count| unsafe { count.read_volatile() });
    count.cast_signed()
}

/// Adds to the number of half-open connections; `u64::MAX` takes one away.
#[inline(always)]
fn half_open_add(summand: u64) {
    if let Some(count) = maps::HALF_OPEN.get_ptr_mut(0) {
        // SAFETY: a valid map value.
        unsafe { atomic::fetch_add(count, summand) };
    }
}
