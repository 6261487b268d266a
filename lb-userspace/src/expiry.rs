//! The end of idle connections: one sweep over the connection table.
//!
//! The program creates entries and never removes an idle one; it knows one direction at a time, while how long a connection may be
//! idle depends on both. A sweep joins the two, removes what is over, and counts what is left.
//!
//! It visits the table twice: first to judge, then, if anything is over, to collect the keys of just that. What it keeps in mind
//! for each connection is 40 bytes, about 90 MiB for a million of them in a hash map. The program does not wait meanwhile: a
//! connection is removed only if both its entries, read once more at that moment, still are what was judged.

#![forbid(unsafe_code)]

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    io,
    time::Duration,
};

use lb_common::{
    connection::{Direction, Phase, Seen, phase, phase_of_direct},
    limits::TOUCH_INTERVAL_NS,
};
use nix::time::{ClockId, clock_gettime};

use crate::{
    dataplane::{BackendId, ConnectionEntry, Dataplane, Result, ServiceId, Tuple},
    model::{Protocol, Timeouts},
};

/// An entry without a twin is kept at least this long: its twin may be on the way into the table.
const LONE_ENTRY: Duration = Duration::from_secs(5);

/// A connection with a translated source that is over holds on to its address and port for this long, or for its timeout if that is
/// less: another client must not get both towards the same backend at once (RFC 6888, REQ-8).
const HOLD_DOWN: Duration = Duration::from_secs(120);

/// What a sweep found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Connections that were over and are removed.
    pub expired: usize,
    /// Connections that are not over, by service and backend.
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
/// The first map operation that failed. A removal that fails does not keep the others; the next sweep does what was left undone.
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
    let corrected = dataplane.set_half_open(u32::try_from(half_open).unwrap_or(u32::MAX));

    table.keep_only_removable(timeouts, now);
    let expired = remove_expired(dataplane, &table);
    corrected?;
    Ok(Sweep {
        expired: expired?,
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

/// Removes the connections of `table`, all of them over, except those that changed since they were judged; how many it removed.
fn remove_expired(dataplane: &mut dyn Dataplane, table: &Table) -> Result<usize> {
    if table.connections.is_empty() {
        return Ok(0);
    }
    let mut expired: Vec<(Keys, Connection)> = Vec::new();
    dataplane.for_each_connection(&mut |entry| {
        let keys = Keys::of(&entry);
        if let Some(judged) = table.connections.get(&table.identities.of(&keys)) {
            // Once for each connection: at its forward entry, if it has one.
            if entry.direction != Direction::Reply || judged.forward.is_none() {
                expired.push((keys, *judged));
            }
        }
    })?;
    let mut removed = 0;
    let mut failure = None;
    for (keys, judged) in &expired {
        match remove_unchanged(dataplane, keys, judged) {
            Ok(true) => removed += 1,
            Ok(false) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(removed), Err)
}

/// Removes a connection if its entries still are what was judged; whether it did. A packet may have woken it up, or its client may
/// have used the tuple for a new one, perhaps with another backend.
///
/// The forward entry goes first: a client's packet that comes in between finds no connection and starts one, instead of repairing
/// half of one. What is left of the race are the microseconds between reading and removing.
fn remove_unchanged(dataplane: &mut dyn Dataplane, keys: &Keys, judged: &Connection) -> Result<bool> {
    let mut current: Option<Connection> = None;
    for key in [&keys.forward, &keys.reply] {
        // An entry with another twin is half of another connection.
        if let Some(entry) = dataplane.connection(key)?.filter(|entry| Keys::of(entry) == *keys) {
            current.get_or_insert_with(|| Connection::of(&entry)).add(&entry);
        }
    }
    if current != Some(*judged) {
        return Ok(false);
    }
    if judged.forward.is_some() {
        dataplane.remove_connection(&keys.forward)?;
    }
    if judged.reply.is_some() {
        dataplane.remove_connection(&keys.reply)?;
    }
    Ok(true)
}

/// What is remembered of both entries of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    last_seen: u64,
    service: ServiceId,
    backend: BackendId,
    protocol: Protocol,
    kind: Kind,
    /// `None` while the entry for this direction was not met.
    forward: Option<Flags>,
    reply: Option<Flags>,
}

/// What sets connections apart when they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Two entries, the client's address is kept.
    Plain,
    /// Two entries, the backend sees another source.
    Translated,
    /// One entry: the backend answers past this host.
    Direct,
}

impl Kind {
    fn of(entry: &ConnectionEntry) -> Self {
        let keys = Keys::of(entry);
        match entry.direction {
            Direction::Direct => Self::Direct,
            Direction::Forward | Direction::Reply if keys.reply.destination != keys.forward.source => Self::Translated,
            Direction::Forward | Direction::Reply => Self::Plain,
        }
    }
}

/// [`Seen`] bits, of which there are five, in a byte.
type Flags = u8;

const _: () = assert!(size_of::<(Identity, Connection)>() == 40);

impl Connection {
    /// Of the connection of `entry`, before any entry was met.
    fn of(entry: &ConnectionEntry) -> Self {
        Self {
            last_seen: 0,
            service: entry.service,
            backend: entry.backend,
            protocol: entry.key.protocol,
            kind: Kind::of(entry),
            forward: None,
            reply: None,
        }
    }

    fn add(&mut self, entry: &ConnectionEntry) {
        self.last_seen = self.last_seen.max(entry.last_seen);
        #[expect(clippy::cast_possible_truncation, reason = "only the five lowest bits are defined")]
        let flags = Some(entry.seen.0 as Flags);
        match entry.direction {
            Direction::Forward | Direction::Direct => self.forward = flags,
            Direction::Reply => self.reply = flags,
        }
    }

    fn phase(&self) -> Phase {
        let seen = |flags: Option<Flags>| Seen(flags.map_or(0, u32::from));
        match self.kind {
            Kind::Plain | Kind::Translated => phase(seen(self.forward), seen(self.reply)),
            Kind::Direct => phase_of_direct(seen(self.forward)),
        }
    }

    /// Whether it has every entry that it should have.
    const fn is_whole(&self) -> bool {
        self.forward.is_some() && (self.reply.is_some() || matches!(self.kind, Kind::Direct))
    }

    /// How long it may be idle.
    fn timeout(&self, timeouts: &Timeouts) -> Duration {
        let timeout = match (self.protocol, self.phase()) {
            (Protocol::Udp, _) => timeouts.udp,
            (Protocol::Tcp, Phase::HalfOpen) => timeouts.tcp_half_open,
            (Protocol::Tcp, Phase::Established) => timeouts.tcp_established,
            (Protocol::Tcp, Phase::Closing) => timeouts.tcp_closing,
        };
        if self.is_whole() {
            timeout
        } else {
            timeout.max(LONE_ENTRY)
        }
    }

    /// Whether it is over.
    fn is_expired(&self, timeouts: &Timeouts, now: u64) -> bool {
        self.is_idle_for(self.timeout(timeouts), now)
    }

    /// Whether it is over and nobody must be kept from its address and port any more.
    fn is_removable(&self, timeouts: &Timeouts, now: u64) -> bool {
        let timeout = self.timeout(timeouts);
        let hold_down = match self.kind {
            Kind::Translated => timeout.min(HOLD_DOWN),
            Kind::Plain | Kind::Direct => Duration::ZERO,
        };
        self.is_idle_for(timeout.saturating_add(hold_down), now)
    }

    /// Whether no packet of it came for so long.
    fn is_idle_for(&self, time: Duration, now: u64) -> bool {
        // The time stamp may be older than the last packet by this much; a timeout is never cut short. A stamp from the future is
        // that of a packet which came after `now` was taken.
        let idle = now.saturating_sub(self.last_seen).saturating_sub(TOUCH_INTERVAL_NS);
        u128::from(idle) >= time.as_nanos()
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
        self.connections
            .entry(self.identities.of(&Keys::of(entry)))
            .or_insert_with(|| Connection::of(entry))
            .add(entry);
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

    fn keep_only_removable(&mut self, timeouts: &Timeouts, now: u64) {
        self.connections
            .retain(|_, connection| connection.is_removable(timeouts, now));
        self.connections.shrink_to_fit();
    }
}

/// The keys of both entries of a connection, of which a direct one has the first alone. Entries that don't name each other, such as the reply entry of an earlier backend that
/// was left behind, are no pair and have different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Keys {
    forward: Tuple,
    reply: Tuple,
}

impl Keys {
    const fn of(entry: &ConnectionEntry) -> Self {
        let (forward, reply) = match entry.direction {
            Direction::Forward | Direction::Direct => (entry.key, entry.twin),
            Direction::Reply => (entry.twin, entry.key),
        };
        Self { forward, reply }
    }
}

/// [`Keys`] in 128 bits.
type Identity = (u64, u64);

/// Makes identities by hashing. The hashes are seeded anew for each sweep, so that nobody can prepare two connections that collide;
/// by chance two of a million do once in 10^26 sweeps.
#[derive(Default)]
struct Identities([RandomState; 2]);

impl Identities {
    fn of(&self, keys: &Keys) -> Identity {
        let [first, second] = &self.0;
        (first.hash_one(keys), second.hash_one(keys))
    }
}

#[cfg(test)]
mod tests;
