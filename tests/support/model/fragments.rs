//! Fragments: the first one leaves notes, later ones follow them.

use std::net::IpAddr;

use lb_common::{
    connection::Direction,
    flow::protocol,
    fragment::MAX_HELD_LENGTH,
    role::Roles,
    verdict::{DropReason, PassReason},
};

use super::{Choices, End, Model, Sent, arrival::Arrival, connections::Route, flow::Flow, write};

/// What all fragments of a packet share, on one side of the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NoteKey {
    source: IpAddr,
    destination: IpAddr,
    /// 0 over IPv6, where it does not tell packets apart.
    protocol: u8,
    id: u32,
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    /// As they come: later fragments look this up.
    Arriving,
    /// As they leave: taken for others.
    Leaving,
}

/// What a first fragment decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    /// The tuple of its packet.
    tuple: Flow,
    /// The identification that it leaves with.
    id: u32,
    /// Whether the last fragment was seen.
    complete: bool,
}

/// Least bytes of TCP that a first fragment must have alone (RFC 1858).
const TCP_HEADER: u16 = 20;

impl Model {
    /// Notes the decision about a first fragment; returns the identification that it leaves with.
    pub(super) fn leave_note(
        &mut self,
        arrival: &Arrival<'_>,
        tuple: &Flow,
        route: &Route,
        choices: &dyn Choices,
    ) -> Result<u32, End> {
        let key = arriving(arrival);
        if let Some(note) = self.notes.get(&key).filter(|note| !note.complete) {
            return if note.tuple == *tuple {
                Ok(note.id)
            } else {
                Err(DropReason::FragmentConflict.into())
            };
        }
        let leaves_free = |id: &u32| {
            let holder = self.notes.get(&leaving(route, *id));
            holder.is_none_or(|holder| holder.complete || holder.tuple == *tuple)
        };
        let chosen = || {
            let sent = Arrival::read(choices.frame(), arrival.ifindex).ok()?;
            Some(sent.ip.id).filter(leaves_free)
        };
        let id = Some(arrival.ip.id)
            .filter(leaves_free)
            .or_else(chosen)
            .or_else(|| (0..=u32::from(u16::MAX)).find(leaves_free))
            .ok_or(DropReason::FragmentConflict)?;
        let note = Note {
            tuple: *tuple,
            id,
            complete: false,
        };
        self.notes.insert(leaving(route, id), note);
        self.notes.insert(key, note);
        Ok(id)
    }

    /// The way of a later fragment.
    pub(super) fn follow_note(&mut self, arrival: &Arrival<'_>) -> Result<Sent, End> {
        let Some(note) = self.notes.get(&arriving(arrival)).copied() else {
            return Err(self.without_note(arrival));
        };
        if note.tuple.protocol == protocol::TCP && arrival.ip.fragment_offset < TCP_HEADER {
            return Err(DropReason::FragmentConflict.into());
        }
        let entry = self.connections.get(&note.tuple).ok_or(DropReason::Vanished)?;
        let route = self.route_of(entry);
        // Nobody is told of a later fragment.
        self.check_way(arrival, &route).map_err(|end| match end {
            End::Refuse(refusal) => refusal.reason().into(),
            other => other,
        })?;
        if !arrival.ip.more_fragments {
            for key in [arriving(arrival), leaving(&route, note.id)] {
                if let Some(note) = self.notes.get_mut(&key) {
                    note.complete = true;
                }
            }
        }
        let mut packet = arrival.frame[arrival.ip.l3..].to_vec();
        write::identification(arrival, &mut packet, note.id);
        if route.direction != Direction::Direct {
            let (source, destination) = (route.to.source.ip(), route.to.destination.ip());
            write::ip(&mut packet, source, destination, arrival.ip.ttl - 1);
        }
        let frame = write::frame(arrival, &route.next_hop, &packet);
        Ok(self.account(arrival, &route, frame))
    }

    /// What becomes of a later fragment before the first one of its packet has come.
    fn without_note(&self, arrival: &Arrival<'_>) -> End {
        let roles = |address: &IpAddr| self.config.roles.get(address).copied().unwrap_or_default();
        let ours = roles(&arrival.ip.destination).any(Roles::VIP | Roles::SNAT)
            || roles(&arrival.ip.source).any(Roles::BACKEND);
        if !ours {
            PassReason::Fragment.into()
        } else if arrival.packet_in_frame().len() > MAX_HELD_LENGTH {
            DropReason::FragmentLost.into()
        } else {
            DropReason::FragmentHeld.into()
        }
    }
}

const fn arriving(arrival: &Arrival<'_>) -> NoteKey {
    let ip = &arrival.ip;
    NoteKey {
        source: ip.source,
        destination: ip.destination,
        protocol: if arrival.is_v4() { ip.protocol } else { 0 },
        id: ip.id,
        side: Side::Arriving,
    }
}

const fn leaving(route: &Route, id: u32) -> NoteKey {
    let to = &route.to;
    NoteKey {
        source: to.source.ip(),
        destination: to.destination.ip(),
        protocol: if to.source.is_ipv4() { to.protocol } else { 0 },
        id,
        side: Side::Leaving,
    }
}
