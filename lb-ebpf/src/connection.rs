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

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_coarse_ns,
};
use lb_common::{
    backend::Backend,
    connection::{Connection, Direction, Phase, Seen, phase},
    flow::{FlowKey, protocol},
    limits::TOUCH_INTERVAL_NS,
    verdict::{DropReason, Event, Verdict},
};

use crate::{atomic, family::Family, maps, nat::ReplyKeys, parse::Packet, route::Route, stats};

/// Follows the connection that a packet belongs to; `None` when there is none, or none that is worth keeping for this packet.
#[inline(always)]
pub(crate) fn follow<F: Family>(packet: &Packet<F>) -> Result<Option<Route<F>>, Verdict> {
    let Some(entry) = F::connections().get_ptr_mut(packet.key) else {
        return Ok(None);
    };
    // SAFETY: a valid map value. Other CPUs change single fields of it, never its identity, while it exists.
    let known = unsafe { *entry };
    let route = route_of(&known);
    if route.direction == Direction::Forward {
        match judge(packet, &known) {
            Fitness::Fit => {}
            Fitness::Closed => restart::<F>(entry, &known),
            Fitness::Stranded => return end(packet, entry),
        }
    }
    remember(packet, entry, &known);
    Ok(Some(route))
}

/// Ends a connection that is stranded for this packet, unless another CPU is about to, or has done so: then the packet follows what
/// that one made. It is lost when it comes between the other's mark and its removal.
#[inline(always)]
fn end<F: Family>(packet: &Packet<F>, entry: *mut Connection<F>) -> Result<Option<Route<F>>, Verdict> {
    // SAFETY: a valid map value.
    let before = Seen(unsafe { atomic::fetch_or(&raw mut (*entry).seen, Seen::ENDED) });
    let marked = !before.any(Seen::ENDED);
    let unmark = || {
        if marked {
            // SAFETY: a valid map value.
            unsafe { atomic::fetch_and(&raw mut (*entry).seen, !Seen::ENDED) };
        }
    };
    let Some(current) = F::connections().get_ptr_mut(packet.key) else {
        // Removed since, and its memory handed out: what was marked is another connection.
        unmark();
        return Ok(None);
    };
    // SAFETY: a valid map value.
    let known = unsafe { *current };
    let stranded = matches!(judge(packet, &known), Fitness::Stranded);
    if stranded && marked && current == entry {
        remove::<F>(&packet.key, &known);
        return Ok(None);
    }
    unmark();
    if stranded {
        return Err(DropReason::Vanished.into());
    }
    Ok(Some(route_of(&known)))
}

/// The way of a packet that matched `entry`.
#[inline(always)]
fn route_of<F: Family>(entry: &Connection<F>) -> Route<F> {
    let mut route = Route {
        to: entry.twin.reversed(),
        next_hop: entry.client,
        mtu: 0,
        direction: Direction::Reply,
        service: entry.service,
        backend: entry.backend,
    };
    if entry.direction == Direction::Forward as u32 {
        route.direction = Direction::Forward;
        route.next_hop = lb_common::backend::NextHop::UNKNOWN;
        if let Some(backend) = backend_of::<F>(entry) {
            route.next_hop = backend.next_hop;
            route.mtu = backend.mtu;
        }
    }
    route
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
    if let Some(twin) = F::connections().get_ptr_mut(known.twin) {
        // SAFETY: as above.
        unsafe { (*twin).seen = 0 };
    }
    half_open_add(1);
    stats::account_connection(known.service, known.backend);
}

/// The phase of the connection of `entry`. A missing twin counts as silent.
#[inline(always)]
fn phase_of<F: Family>(entry: &Connection<F>) -> Phase {
    let own = Seen(entry.seen);
    let twin = F::connections().get_ptr(entry.twin);
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
    let _gone_already = F::connections().remove(key);
    let _gone_already = F::connections().remove(entry.twin);
}

/// Notes in the table what a packet of a known connection says: flags not seen before, that it is alive, where its sender is now.
///
/// The common packet writes nothing.
#[inline(always)]
fn remember<F: Family>(packet: &Packet<F>, entry: *mut Connection<F>, known: &Connection<F>) {
    let news = packet.seen.0 & !known.seen;
    if news != 0 {
        let before = phase_of(known);
        // SAFETY: a valid map value.
        let seen = unsafe { atomic::fetch_or(&raw mut (*entry).seen, news) };
        let after = phase_of(&Connection {
            seen: known.seen | news,
            ..*known
        });
        // Another packet of this direction may have brought the same news on another CPU.
        let first = seen & news != news;
        if first && before == Phase::HalfOpen && after != Phase::HalfOpen {
            // Both directions leaving the phase at the same instant on two CPUs may both count it, or neither. The agent corrects the
            // number with every sweep.
            half_open_add(u64::MAX);
        }
    }

    let now = coarse_now();
    if now.wrapping_sub(known.last_seen) >= TOUCH_INTERVAL_NS {
        // SAFETY: a valid map value; an aligned word.
        unsafe { (*entry).last_seen = now };
        tend_twin::<F>(packet, known, now);
    }

    if known.direction == Direction::Forward as u32 && known.client != packet.sender {
        // SAFETY: a valid map value. A reply that reads the address half written is lost, once.
        unsafe { (*entry).client = packet.sender };
        if let Some(twin) = F::connections().get_ptr_mut(known.twin) {
            // SAFETY: as above.
            unsafe { (*twin).client = packet.sender };
        }
    }
}

/// Looks after the other entry of a connection, once a second: makes it anew if it is gone, so that one lost half never costs the
/// connection, and corrects the way back to the client, should two CPUs have written different ones.
#[inline(always)]
fn tend_twin<F: Family>(packet: &Packet<F>, known: &Connection<F>, now: u64) {
    let forward = known.direction == Direction::Forward as u32;
    if let Some(twin) = F::connections().get_ptr_mut(known.twin) {
        if forward {
            // SAFETY: a valid map value. A reply that reads the address half written is lost, once.
            unsafe { (*twin).client = packet.sender };
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
    if F::connections()
        .insert(known.twin, twin, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        stats::count(Event::PairRepaired as u32);
    }
}

/// Creates the connection of a client's first packet to a backend, or joins the one that another CPU is creating.
///
/// `keys` yields the reply tuples that would do, in order of preference.
#[inline(always)]
pub(crate) fn create<F: Family>(
    packet: &Packet<F>,
    service: u32,
    id: u32,
    backend: &Backend<F>,
    mut keys: ReplyKeys<F>,
) -> Result<Route<F>, Verdict> {
    let now = coarse_now();
    let reply = Connection {
        twin: packet.key,
        last_seen: now,
        client: packet.sender,
        seen: 0,
        service,
        backend: id,
        direction: Direction::Reply as u32,
    };
    let Claim { key: reply_key, own } = claim_reply(&reply, &mut keys)?;
    let forward = Connection {
        twin: reply_key,
        seen: packet.seen.0,
        direction: Direction::Forward as u32,
        ..reply
    };
    match F::connections().insert(packet.key, forward, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            half_open_add(1);
            stats::account_connection(service, id);
            Ok(Route {
                to: reply_key.reversed(),
                next_hop: backend.next_hop,
                mtu: backend.mtu,
                direction: Direction::Forward,
                service,
                backend: id,
            })
        }
        Err(EEXIST) => join_winner(packet, &reply_key, own),
        Err(_full) => {
            take_back::<F>(&reply_key, own);
            Err(DropReason::TableFull.into())
        }
    }
}

/// Error numbers of `bpf_map_update_elem`, as the kernel returns them.
const EEXIST: i32 = -17;

/// A reply entry that stands for a new connection.
struct Claim<F> {
    key: FlowKey<F>,
    /// Whether it was inserted here; else it was there.
    own: bool,
}

/// Inserts the reply entry under the first free key.
#[inline(always)]
fn claim_reply<F: Family>(reply: &Connection<F>, keys: &mut ReplyKeys<F>) -> Result<Claim<F>, Verdict> {
    let mut refusal = DropReason::PortsExhausted;
    for _ in 0..ReplyKeys::<F>::TRIES {
        let Some(key) = keys.next() else { break };
        match F::connections().insert(key, reply, u64::from(BPF_NOEXIST)) {
            Ok(()) => return Ok(Claim { key, own: true }),
            Err(EEXIST) => {
                let holder = F::connections().get_ptr(key);
                // SAFETY: a valid map value; the twin's key never changes while the entry exists.
                if holder.is_some_and(|holder| unsafe { (*holder).twin } == reply.twin) {
                    // This very connection: another CPU is creating it, which wrote the same, or its forward entry was lost, and
                    // then what the old one had seen is over.
                    let _as_good = F::connections().insert(key, reply, u64::from(BPF_ANY));
                    return Ok(Claim { key, own: false });
                }
                refusal = keys.refusal();
            }
            Err(_full) => return Err(DropReason::TableFull.into()),
        }
    }
    Err(refusal.into())
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
fn join_winner<F: Family>(packet: &Packet<F>, reply: &FlowKey<F>, own: bool) -> Result<Route<F>, Verdict> {
    let Some(winner) = F::connections().get_ptr(packet.key) else {
        take_back::<F>(reply, own);
        return Err(DropReason::Vanished.into());
    };
    // SAFETY: a valid map value.
    let winner = unsafe { *winner };
    if winner.twin != *reply {
        take_back::<F>(reply, own);
    }
    Ok(route_of(&winner))
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

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE` (kernel 5.11): exact to a timer tick, and much cheaper than the exact clock.
#[inline(always)]
fn coarse_now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}
