//! A model of the data plane in plain Rust: what the program must do with every frame, for a test that holds the program against it.
//!
//! It reads headers with the product's own parser and decides with its pure functions (hashes, phases), which have tests of their own.
//! Everything else is written a second time, as plainly as can be: tables are those of the standard library, and a packet is written by
//! putting bytes where they belong.
//!
//! Time stands still: whoever uses the model starts anew before anything in the program gets old ([`Model::restart`]). Nor does the model know
//! the kernel's routing table, so every backend must have a known next hop. Where the rules leave the program a choice, the model
//! takes over what the program chose, if it is an allowed one ([`Choices`]).

mod arrival;
mod connections;
mod flow;
mod fragments;
mod icmp;
mod refusal;
mod write;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use lb_common::{
    backend::NextHop,
    connection::Direction,
    counters::Traffic,
    interface::Interface,
    role::Roles,
    service::{Forwarding, Scheduler},
    settings::Settings,
    verdict::{DropReason, ForwardReason, PassReason, Refusal},
};

use self::{
    arrival::{Arrival, Content},
    fragments::{Note, NoteKey},
};
pub use self::{
    connections::{Entry, Route},
    flow::Flow,
};

/// Which of the programs is modelled; they differ in what they do with an unfinished L4 checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes it for a finished one.
    Native,
    /// Finishes it.
    NativeVirtual,
    /// Leaves the packet to the tc hook.
    Generic,
}

/// A service, with the backend ids of its slots.
#[derive(Clone, Debug)]
pub struct Service {
    /// How a slot is chosen. Not [`Scheduler::Random`].
    pub scheduler: Scheduler,
    /// How packets reach the backends.
    pub forwarding: Forwarding,
    /// Backend ids.
    pub slots: Vec<u32>,
}

/// A backend.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Id of its service.
    pub service: u32,
    /// Where it listens; port 0: the port that the client dialled.
    pub address: SocketAddr,
    /// Whether new and unanswered flows may go there.
    pub alive: bool,
    /// The way to it. Must be known.
    pub next_hop: NextHop,
    /// This host's address on the way to it.
    pub source: IpAddr,
    /// Prefix length of the network that this host shares with it; 0 for none.
    pub on_link: u8,
}

/// What an agent would write into the maps.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the whole program obeys.
    pub settings: Settings,
    /// The `snat` pools of both families. The settings say how many of each are used.
    pub snat: Vec<IpAddr>,
    /// What is listened on: address, ports, protocol; and the service's id. A single port goes before a range.
    pub listeners: Vec<(IpAddr, RangeInclusive<u16>, u8, u32)>,
    /// Services by id.
    pub services: BTreeMap<u32, Service>,
    /// Backends by id.
    pub backends: BTreeMap<u32, Backend>,
    /// Roles of addresses.
    pub roles: BTreeMap<IpAddr, Roles>,
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
}

/// What the program chose where the rules leave it a choice.
pub trait Choices {
    /// The source port that it gave to the new connection of a client's packet with this tuple.
    fn source_port(&self, client: &Flow) -> Option<u16>;
    /// The frame that it sent.
    fn frame(&self) -> &[u8];
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is left to the kernel.
    Pass,
    /// It is dropped.
    Drop,
    /// It, or an answer to it, is sent.
    Send,
}

/// What the program must do with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What becomes of it.
    pub action: Action,
    /// The frame as it leaves; of one that is not sent, as it came.
    pub frame: Vec<u8>,
    /// Labels of all that is counted: the verdict's reason, and events.
    pub counted: Vec<&'static str>,
    /// What the agent is given to keep, of a fragment that came too early.
    pub held: Option<Vec<u8>>,
}

/// Why a packet is not forwarded.
#[derive(Clone, Copy, Debug)]
enum End {
    Pass(PassReason),
    Drop(DropReason),
    /// Dropped, and its sender is told.
    Refuse(Refusal),
}

impl From<PassReason> for End {
    fn from(reason: PassReason) -> Self {
        Self::Pass(reason)
    }
}

impl From<DropReason> for End {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// A frame to be sent.
struct Sent {
    reason: ForwardReason,
    frame: Vec<u8>,
}

/// The data plane: what the agent has written, and what packets have changed since.
#[derive(Clone, Debug)]
pub struct Model {
    kind: Kind,
    /// What the agent has written. May be changed at any time, as by an agent.
    pub config: Config,
    connections: BTreeMap<Flow, Entry>,
    notes: BTreeMap<NoteKey, Note>,
    cursors: BTreeMap<u32, u32>,
    half_open: i64,
    service_traffic: BTreeMap<u32, Traffic>,
    /// Events beside the verdict of the packet at hand.
    events: Vec<&'static str>,
}

impl Model {
    /// A data plane without connections.
    pub const fn new(kind: Kind, config: Config) -> Self {
        Self {
            kind,
            config,
            connections: BTreeMap::new(),
            notes: BTreeMap::new(),
            cursors: BTreeMap::new(),
            half_open: 0,
            service_traffic: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Forgets all that packets have changed.
    pub fn restart(&mut self, config: Config) {
        *self = Self::new(self.kind, config);
    }

    /// Every connection entry.
    pub const fn connections(&self) -> &BTreeMap<Flow, Entry> {
        &self.connections
    }

    /// Connections that are half-open.
    pub const fn half_open(&self) -> i64 {
        self.half_open
    }

    /// What was counted for a service.
    pub fn service_traffic(&self, id: u32) -> Traffic {
        self.service_traffic.get(&id).copied().unwrap_or_default()
    }

    /// Decides on a frame that comes in on an interface.
    pub fn process(&mut self, frame: &[u8], ifindex: u32, choices: &dyn Choices) -> Answer {
        self.events.clear();
        let unsent = |action, reason| Answer {
            action,
            frame: frame.to_vec(),
            counted: vec![reason],
            held: None,
        };
        let arrival = match Arrival::read(frame, ifindex) {
            Ok(arrival) => arrival,
            Err(reason) => return unsent(Action::Pass, reason.label()),
        };
        let mut answer = match self.judge(&arrival, choices) {
            Ok(sent) => Answer {
                action: Action::Send,
                frame: sent.frame,
                ..unsent(Action::Send, sent.reason.label())
            },
            Err(End::Pass(reason)) => unsent(Action::Pass, reason.label()),
            Err(End::Drop(reason)) => Answer {
                held: (reason == DropReason::FragmentHeld).then(|| arrival.packet_in_frame().to_vec()),
                ..unsent(Action::Drop, reason.label())
            },
            Err(End::Refuse(refusal)) => match self.refuse(&arrival, refusal) {
                Some(frame) => Answer {
                    frame,
                    ..unsent(Action::Send, refusal.reason().label())
                },
                None => unsent(Action::Drop, refusal.reason().label()),
            },
        };
        answer.counted.append(&mut self.events);
        answer
    }

    fn judge(&mut self, arrival: &Arrival<'_>, choices: &dyn Choices) -> Result<Sent, End> {
        match arrival.content()? {
            Content::LaterFragment => self.follow_note(arrival),
            Content::Icmp => self.icmp(arrival),
            Content::Segment(segment) => {
                if self.kind == Kind::Generic && segment.partial {
                    return Err(PassReason::LeftToTc.into());
                }
                let route = self.route(arrival, &segment, choices)?;
                self.check_way(arrival, &route)?;
                let id = if arrival.ip.more_fragments {
                    self.leave_note(arrival, &segment.flow, &route, choices)?
                } else {
                    arrival.ip.id
                };
                let frame = write::segment(arrival, &segment, &route, id, self.kind);
                Ok(self.account(arrival, &route, frame))
            }
        }
    }

    /// Whether a packet can go its way.
    fn check_way(&self, arrival: &Arrival<'_>, route: &Route) -> Result<(), End> {
        if arrival.ip.ttl <= 1 && route.direction != Direction::Direct {
            return Err(End::Refuse(Refusal::TTL_EXPIRED));
        }
        let mtu = route.next_hop.mtu;
        if mtu != 0 && arrival.ip.length > mtu {
            return Err(End::Refuse(Refusal::too_big(mtu)));
        }
        Ok(())
    }

    /// Counts a packet that is sent on its route.
    fn account(&mut self, arrival: &Arrival<'_>, route: &Route, frame: Vec<u8>) -> Sent {
        let traffic = self.service_traffic.entry(route.service).or_default();
        let bytes = u64::from(arrival.ip.length);
        let reason = if route.direction == Direction::Reply {
            traffic.reply_packets += 1;
            traffic.reply_bytes += bytes;
            ForwardReason::Reply
        } else {
            traffic.forward_packets += 1;
            traffic.forward_bytes += bytes;
            ForwardReason::Forward
        };
        Sent { reason, frame }
    }
}
