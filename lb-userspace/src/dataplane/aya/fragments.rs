//! What the program and the agent tell each other of fragments.

use std::{io, net::IpAddr};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError, RingBuf},
};
use lb_common::{
    address::{V4, V6},
    byte_order::Be16,
    flow::FlowKey,
    fragment::{FragmentKey, FragmentNote, Side},
    limits::FRAGMENT_LIFETIME_NS,
    maps,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{family::MapAddress, load::LoadError, maps::take};

/// What all fragments of a packet share as they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketId {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same IP family.
    pub destination: IpAddr,
    /// Identification.
    pub id: u32,
    /// Protocol of the IPv4 header; 0 over IPv6, where it does not tell packets apart.
    pub protocol: u8,
}

/// The buffer of fragments that wait for the first one of their packet.
pub struct HeldFragments(RingBuf<MapData>);

/// What first fragments decided.
pub struct FragmentNotes {
    v4: HashMap<MapData, FragmentKey<V4>, FragmentNote<V4>>,
    v6: HashMap<MapData, FragmentKey<V6>, FragmentNote<V6>>,
}

/// Takes both out of the loaded object.
pub(super) fn take_fragments(ebpf: &mut Ebpf) -> Result<(HeldFragments, FragmentNotes), LoadError> {
    let notes = FragmentNotes {
        v4: take(ebpf, maps::FRAGMENTS_V4)?,
        v6: take(ebpf, maps::FRAGMENTS_V6)?,
    };
    Ok((HeldFragments(take(ebpf, maps::HELD)?), notes))
}

impl HeldFragments {
    /// Listens to the program. Must be called inside the asynchronous runtime.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to watch the buffer.
    pub fn listen(self) -> io::Result<HeldStream> {
        // SAFETY: the ring buffer owns its file descriptor and never exchanges it; it is not given away before the result is dropped.
        let stream = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        Ok(HeldStream(stream?))
    }
}

/// Fragments that wait for the first one of their packet, as they come.
pub struct HeldStream(AsyncFd<RingBuf<MapData>>);

impl HeldStream {
    /// The next fragment: index of the interface it came in on, and its frame. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// When the buffer can't be watched any more.
    pub async fn next(&mut self) -> io::Result<(u32, Vec<u8>)> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            while let Some(record) = ready.get_inner_mut().next() {
                // A record that is cut short is none.
                if let Some(held) = parse(&record) {
                    return Ok(held);
                }
            }
            ready.clear_ready();
        }
    }
}

/// Of a [`lb_common::fragment::HeldFragment`].
fn parse(record: &[u8]) -> Option<(u32, Vec<u8>)> {
    let (ifindex, rest) = record.split_first_chunk()?;
    let (length, frame) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    Some((u32::from_ne_bytes(*ifindex), frame.get(..length)?.to_vec()))
}

impl FragmentNotes {
    /// Whether a first fragment has left a note that still holds. `now` in nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn holds(&self, packet: &PacketId, now: u64) -> Result<bool, MapError> {
        let since = match packet.source {
            IpAddr::V4(_) => since(&self.v4, packet),
            IpAddr::V6(_) => since(&self.v6, packet),
        }?;
        Ok(since.is_some_and(|since| now.saturating_sub(since) < FRAGMENT_LIFETIME_NS))
    }

    /// Leaves a note that the fragments of a packet go to the kernel.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn let_pass(&mut self, packet: &PacketId, now: u64) -> Result<(), MapError> {
        match packet.source {
            IpAddr::V4(_) => let_pass(&mut self.v4, packet, now),
            IpAddr::V6(_) => let_pass(&mut self.v6, packet, now),
        }
    }
}

type Notes<A> = HashMap<MapData, FragmentKey<A>, FragmentNote<A>>;

/// `None` when the addresses are of different families, which no packet has.
fn key<A: MapAddress>(packet: &PacketId) -> Option<FragmentKey<A>> {
    let (source, destination) = (A::of(packet.source)?, A::of(packet.destination)?);
    Some(FragmentKey::new(
        source,
        destination,
        packet.id,
        packet.protocol,
        Side::Arriving,
    ))
}

fn since<A: MapAddress>(notes: &Notes<A>, packet: &PacketId) -> Result<Option<u64>, MapError>
where
    FragmentKey<A>: Pod,
    FragmentNote<A>: Pod,
{
    let Some(key) = key(packet) else { return Ok(None) };
    match notes.get(&key, 0) {
        Ok(note) => Ok(Some(note.since)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn let_pass<A: MapAddress>(notes: &mut Notes<A>, packet: &PacketId, now: u64) -> Result<(), MapError>
where
    FragmentKey<A>: Pod,
    FragmentNote<A>: Pod,
{
    let Some(key) = key::<A>(packet) else { return Ok(()) };
    let no_port = Be16::default();
    let note = FragmentNote {
        tuple: FlowKey::new((key.source, no_port), (key.destination, no_port), key.protocol),
        since: now,
        id: key.id,
        flags: FragmentNote::<A>::PASS,
    };
    notes.insert(key, note, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_as_much_of_a_frame_as_they_say() {
        let record = |length: u32, frame: &[u8]| {
            let mut record = [7_u32.to_ne_bytes(), length.to_ne_bytes()].concat();
            record.extend_from_slice(frame);
            record
        };
        assert_eq!(parse(&record(3, &[1, 2, 3, 0, 0])), Some((7, vec![1, 2, 3])));
        assert_eq!(parse(&record(6, &[1, 2, 3, 0, 0])), None, "longer than the record");
        assert_eq!(parse(&[0; 7]), None);
    }
}
