//! The end of idle connections: one sweep over the connection table.
//!
//! The program creates entries and never removes an idle one; it knows one direction at a time, while how long a connection may be
//! idle depends on both. A sweep joins the two, removes what is over, and counts what is left.
//!
//! It visits the table twice: first to judge, then, if anything is over, to collect the keys of just that and to see whether a
//! packet came meanwhile. What it keeps in mind for each connection is 40 bytes, about 90 MiB for a million of them in a hash map.

#![forbid(unsafe_code)]

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    io,
    net::IpAddr,
    time::Duration,
};

use lb_common::{
    connection::{Direction, Phase, Seen, phase},
    limits::TOUCH_INTERVAL_NS,
};
use nix::time::{ClockId, clock_gettime};

use crate::{
    dataplane::{BackendId, ConnectionEntry, Dataplane, Result, ServiceId, Tuple},
    model::{Protocol, Timeouts},
};

/// An entry without a twin is kept at least this long: its twin may be on the way into the table.
const LONE_ENTRY: Duration = Duration::from_secs(5);

/// What a sweep found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Connections that were over and are removed.
    pub expired: usize,
    /// Connections that are left, by service and backend.
    pub live: HashMap<(ServiceId, BackendId), Live>,
    /// Backends that new connections could not reach when the sweep began, and that no entry named: the ids that
    /// [`release`](crate::reconciler::release) may make free.
    pub unreferenced: HashSet<BackendId>,
}

/// Connections by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Live {
    /// Not confirmed by both sides yet.
    pub half_open: u64,
    /// Confirmed by both sides.
    pub established: u64,
    /// Ended by both sides, or reset by one.
    pub closing: u64,
}

/// The time that the program stamps entries with: nanoseconds of `CLOCK_MONOTONIC_COARSE`.
///
/// # Errors
/// When the kernel lacks this clock.
pub fn now() -> io::Result<u64> {
    let elapsed = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?);
    Ok(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}

/// Sweeps once. `now` is the time as of [`now`], taken before the call.
///
/// # Errors
/// The first map operation that failed. The next sweep does what was left undone.
pub fn sweep(dataplane: &mut dyn Dataplane, timeouts: &Timeouts, now: u64) -> Result<Sweep> {
    let mut unreferenced = unreachable_backends(dataplane)?;
    let mut table = Table::default();
    dataplane.for_each_connection(&mut |entry| {
        unreferenced.remove(&entry.backend);
        table.add(&entry);
    })?;

    let live = table.count_live(timeouts, now);
    let half_open: u64 = live.values().map(|live| live.half_open).sum();
    // Connections that came or went during the sweep are not in it. The next one corrects that.
    dataplane.set_half_open(u32::try_from(half_open).unwrap_or(u32::MAX))?;

    table.keep_only_expired(timeouts, now);
    let expired = remove_expired(dataplane, table)?;
    Ok(Sweep {
        expired,
        live,
        unreferenced,
    })
}

/// Backends that stand in no slot: nothing new can lead there, since a swap of slots waits for packets under way.
fn unreachable_backends(dataplane: &dyn Dataplane) -> Result<HashSet<BackendId>> {
    let mut ids: HashSet<BackendId> = dataplane.backends()?.into_iter().map(|(id, _)| id).collect();
    for (service, _) in dataplane.services()? {
        for id in dataplane.slots(service)? {
            ids.remove(&id);
        }
    }
    Ok(ids)
}

/// Removes the connections of `table`, all of them expired, except those that a packet woke up since they were judged. Forward
/// entries go first: a client's packet that comes in between finds no connection and starts one, instead of repairing half of one.
///
/// A packet that comes between the second visit and the removal is the one case in which a connection ends although it was used:
/// after a full timeout of silence, in a window of milliseconds.
fn remove_expired(dataplane: &mut dyn Dataplane, mut table: Table) -> Result<usize> {
    if table.connections.is_empty() {
        return Ok(0);
    }
    let mut entries: Vec<(Identity, Direction, Tuple)> = Vec::new();
    let mut awake: HashSet<Identity> = HashSet::new();
    dataplane.for_each_connection(&mut |entry| {
        let identity = table.identities.of(&entry);
        if let Some(connection) = table.connections.get(&identity) {
            if entry.last_seen > connection.last_seen {
                awake.insert(identity);
            }
            entries.push((identity, entry.direction, entry.key));
        }
    })?;
    table.connections.retain(|identity, _| !awake.contains(identity));
    entries.retain(|(identity, _, _)| table.connections.contains_key(identity));
    for direction in [Direction::Forward, Direction::Reply] {
        for (_, _, key) in entries.iter().filter(|(_, entry, _)| *entry == direction) {
            dataplane.remove_connection(key)?;
        }
    }
    Ok(table.connections.len())
}

/// What is remembered of both entries of a connection.
#[derive(Clone, Copy, Debug)]
struct Connection {
    last_seen: u64,
    service: ServiceId,
    backend: BackendId,
    protocol: Protocol,
    /// `None` while the entry for this direction was not met.
    forward: Option<Flags>,
    reply: Option<Flags>,
}

/// [`Seen`] bits, of which there are five, in a byte.
type Flags = u8;

const _: () = assert!(size_of::<(Identity, Connection)>() == 40);

impl Connection {
    fn phase(&self) -> Phase {
        let seen = |flags: Option<Flags>| Seen(flags.map_or(0, u32::from));
        phase(seen(self.forward), seen(self.reply))
    }

    fn is_expired(&self, timeouts: &Timeouts, now: u64) -> bool {
        let mut timeout = match (self.protocol, self.phase()) {
            (Protocol::Udp, _) => timeouts.udp,
            (Protocol::Tcp, Phase::HalfOpen) => timeouts.tcp_half_open,
            (Protocol::Tcp, Phase::Established) => timeouts.tcp_established,
            (Protocol::Tcp, Phase::Closing) => timeouts.tcp_closing,
        };
        if self.forward.is_none() || self.reply.is_none() {
            timeout = timeout.max(LONE_ENTRY);
        }
        // The time stamp may be older than the last packet by this much; a timeout is never cut short. A stamp from the future is
        // that of a packet which came after `now` was taken.
        let idle = now.saturating_sub(self.last_seen).saturating_sub(TOUCH_INTERVAL_NS);
        u128::from(idle) >= timeout.as_nanos()
    }
}

/// Connections by identity.
#[derive(Default)]
struct Table {
    connections: HashMap<Identity, Connection>,
    identities: Identities,
}

impl Table {
    /// Joins an entry with its twin.
    fn add(&mut self, entry: &ConnectionEntry) {
        let connection = self
            .connections
            .entry(self.identities.of(entry))
            .or_insert_with(|| Connection {
                last_seen: 0,
                service: entry.service,
                backend: entry.backend,
                protocol: entry.key.protocol,
                forward: None,
                reply: None,
            });
        connection.last_seen = connection.last_seen.max(entry.last_seen);
        #[expect(clippy::cast_possible_truncation, reason = "only the five lowest bits are defined")]
        let flags = Some(entry.seen.0 as Flags);
        match entry.direction {
            Direction::Forward => connection.forward = flags,
            Direction::Reply => connection.reply = flags,
        }
    }

    fn count_live(&self, timeouts: &Timeouts, now: u64) -> HashMap<(ServiceId, BackendId), Live> {
        let mut counts: HashMap<_, Live> = HashMap::new();
        for connection in self.connections.values() {
            if !connection.is_expired(timeouts, now) {
                let live = counts.entry((connection.service, connection.backend)).or_default();
                match connection.phase() {
                    Phase::HalfOpen => live.half_open += 1,
                    Phase::Established => live.established += 1,
                    Phase::Closing => live.closing += 1,
                }
            }
        }
        counts
    }

    fn keep_only_expired(&mut self, timeouts: &Timeouts, now: u64) {
        self.connections
            .retain(|_, connection| connection.is_expired(timeouts, now));
        self.connections.shrink_to_fit();
    }
}

/// What both entries of a connection have in common and no other connection has: the tuple of the client's packets, in 128 bits.
type Identity = (u64, u64);

/// Makes identities: of IPv4 tuples by packing them, of IPv6 tuples, which don't fit, by hashing them twice. The hashes are seeded
/// anew for each sweep, so that nobody can prepare two tuples that collide.
#[derive(Default)]
struct Identities {
    hashers: [RandomState; 2],
}

impl Identities {
    /// Set in an identity that is a hash, and never in a packed one, which has 104 bits.
    const HASHED: u64 = 1 << 63;

    fn of(&self, entry: &ConnectionEntry) -> Identity {
        let tuple = match entry.direction {
            Direction::Forward => &entry.key,
            Direction::Reply => &entry.twin,
        };
        match (tuple.source.ip(), tuple.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let addresses = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                let ports = u64::from(tuple.source.port()) << 16 | u64::from(tuple.destination.port());
                (ports << 8 | u64::from(tuple.protocol.number()), addresses)
            }
            _ => {
                let [first, second] = &self.hashers;
                (first.hash_one(tuple) | Self::HASHED, second.hash_one(tuple))
            }
        }
    }
}

#[cfg(test)]
mod tests;
