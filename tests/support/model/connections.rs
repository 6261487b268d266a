//! Connections: two entries, or one for `dsr`, each under the tuple of the packets that it matches.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    backend::NextHop,
    connection::{Direction, Phase, Seen, phase, phase_of_direct},
    flow::protocol,
    service::{Forwarding, Scheduler},
    verdict::{DropReason, Event, PassReason, Refusal},
};

use super::{
    Backend, Choices, End, Model, Service,
    arrival::{Arrival, Segment},
    flow::{Flow, is_valid_source, shares_prefix, source_hash},
};

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Tuple of the other direction's packets.
    pub twin: Flow,
    /// The way back to the client.
    pub client: NextHop,
    /// What this direction has sent.
    pub seen: Seen,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// Which direction it is for.
    pub direction: Direction,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The tuple that it leaves with.
    pub to: Flow,
    /// Who gets it.
    pub next_hop: NextHop,
    /// Which way it goes.
    pub direction: Direction,
    /// Service id.
    pub service: u32,
}

impl Model {
    /// The route of a TCP or UDP packet: that of its connection, or of a new one.
    pub(super) fn route(
        &mut self,
        arrival: &Arrival<'_>,
        segment: &Segment,
        choices: &dyn Choices,
    ) -> Result<Route, End> {
        match self.follow(arrival, segment) {
            Some(route) => Ok(route),
            None => self.admit(arrival, segment, choices),
        }
    }

    fn follow(&mut self, arrival: &Arrival<'_>, segment: &Segment) -> Option<Route> {
        let entry = *self.connections.get(&segment.flow)?;
        if entry.direction != Direction::Reply {
            let alive = self.config.backends[&entry.backend].alive;
            let unanswered = match segment.flow.protocol {
                protocol::UDP => true,
                _ => segment.seen.is_initial_syn() && self.phase(&segment.flow) != Phase::Established,
            };
            if unanswered && !alive {
                self.end(&segment.flow);
                return None;
            }
            let closed = segment.flow.protocol == protocol::TCP
                && segment.seen.is_initial_syn()
                && self.phase(&segment.flow) == Phase::Closing;
            if closed {
                self.start_anew(&segment.flow);
            }
        }
        let route = self.route_of(&entry);
        self.remember(arrival, segment);
        Some(route)
    }

    /// The route of packets that match an entry.
    pub(super) fn route_of(&self, entry: &Entry) -> Route {
        Route {
            to: entry.twin.reversed(),
            next_hop: match entry.direction {
                Direction::Reply => entry.client,
                Direction::Forward | Direction::Direct => self.config.backends[&entry.backend].next_hop,
            },
            direction: entry.direction,
            service: entry.service,
        }
    }

    /// The phase of a connection that is there.
    fn phase(&self, flow: &Flow) -> Phase {
        let entry = &self.connections[flow];
        let twin = self.connections.get(&entry.twin).map_or(Seen(0), |twin| twin.seen);
        match entry.direction {
            Direction::Forward => phase(entry.seen, twin),
            Direction::Reply => phase(twin, entry.seen),
            Direction::Direct => phase_of_direct(entry.seen),
        }
    }

    fn end(&mut self, flow: &Flow) {
        if self.phase(flow) == Phase::HalfOpen {
            self.half_open -= 1;
        }
        if let Some(entry) = self.connections.remove(flow)
            && entry.direction != Direction::Direct
        {
            self.connections.remove(&entry.twin);
        }
    }

    /// Lets a closed connection start anew: what both directions have sent is forgotten.
    fn start_anew(&mut self, flow: &Flow) {
        let Some(entry) = self.connections.get_mut(flow) else {
            return;
        };
        entry.seen = Seen(Seen::SYN);
        let (twin, service) = (entry.twin, entry.service);
        if let Some(twin) = self.connections.get_mut(&twin) {
            twin.seen = Seen(0);
        }
        self.count_connection(service);
    }

    fn count_connection(&mut self, service: u32) {
        self.half_open += 1;
        self.service_traffic.entry(service).or_default().connections += 1;
    }

    /// Notes what a packet says, and where its sender is if it is a client.
    fn remember(&mut self, arrival: &Arrival<'_>, segment: &Segment) {
        let before = self.phase(&segment.flow);
        let client = arrival.way_back(self.mtu_of(arrival.ifindex));
        let Some(entry) = self.connections.get_mut(&segment.flow) else {
            return;
        };
        entry.seen.0 |= segment.seen.0;
        let moved = entry.direction == Direction::Forward && !entry.client.leads_as(&client);
        if moved {
            entry.client = client;
            let twin = entry.twin;
            if let Some(twin) = self.connections.get_mut(&twin) {
                twin.client = client;
            }
        }
        if before == Phase::HalfOpen && self.phase(&segment.flow) != Phase::HalfOpen {
            self.half_open -= 1;
        }
    }

    fn mtu_of(&self, ifindex: u32) -> u16 {
        self.config
            .interfaces
            .get(&ifindex)
            .map_or(0, |interface| interface.mtu)
    }

    fn admit(&mut self, arrival: &Arrival<'_>, segment: &Segment, choices: &dyn Choices) -> Result<Route, End> {
        let flow = &segment.flow;
        let id = self.listener(flow).ok_or(PassReason::NoListener)?;
        if flow.protocol == protocol::TCP && !segment.seen.is_initial_syn() {
            return Err(PassReason::NoConnection.into());
        }
        if !is_valid_source(flow.source.ip()) || flow.source.ip() == flow.destination.ip() {
            return Err(PassReason::InvalidSource.into());
        }
        let service = self.config.services.get(&id).ok_or(DropReason::NoBackend)?.clone();
        if arrival.ip.ttl <= 1 && service.forwarding != Forwarding::Dsr {
            return Err(End::Refuse(Refusal::TTL_EXPIRED));
        }
        if self.half_open >= i64::from(self.config.settings.half_open_max) {
            return Err(DropReason::HalfOpenFull.into());
        }
        let backend = self.choose(flow, id, &service).ok_or(DropReason::NoBackend)?;
        if service.forwarding == Forwarding::Dsr {
            return Ok(self.create_direct(arrival, segment, id, backend));
        }
        let reply = self.reply_flow(flow, backend, &service, choices)?;
        Ok(self.create(arrival, segment, id, backend, reply))
    }

    fn listener(&self, flow: &Flow) -> Option<u32> {
        let port = flow.destination.port();
        let listening = self.config.listeners.iter().filter(|(address, ports, protocol, _)| {
            *address == flow.destination.ip() && *protocol == flow.protocol && ports.contains(&port)
        });
        listening
            .min_by_key(|(_, ports, ..)| ports.end() - ports.start())
            .map(|(.., id)| *id)
    }

    /// The id of the backend for a new connection.
    fn choose(&mut self, flow: &Flow, id: u32, service: &Service) -> Option<u32> {
        let count = u32::try_from(service.slots.len()).ok().filter(|count| *count != 0)?;
        let seed = self.config.settings.hash_seed;
        let number = match service.scheduler {
            Scheduler::RoundRobin => {
                let cursor = self.cursors.entry(id).or_default();
                *cursor += 1;
                *cursor - 1
            }
            Scheduler::SourceHash => source_hash(flow.source.ip(), seed),
            Scheduler::Maglev => flow.hash(seed),
            Scheduler::Random => unreachable!("documented at `Service::scheduler`"),
        };
        service.slots.get(usize::try_from(number % count).ok()?).copied()
    }

    fn create_direct(&mut self, arrival: &Arrival<'_>, segment: &Segment, service: u32, backend: u32) -> Route {
        let entry = Entry {
            twin: segment.flow.reversed(),
            client: arrival.way_back(0),
            seen: segment.seen,
            service,
            backend,
            direction: Direction::Direct,
        };
        self.connections.insert(segment.flow, entry);
        self.count_connection(service);
        if segment.flow.protocol == protocol::UDP {
            // Nobody will see an answer.
            self.half_open -= 1;
        }
        self.route_of(&entry)
    }

    fn create(&mut self, arrival: &Arrival<'_>, segment: &Segment, service: u32, backend: u32, reply: Flow) -> Route {
        let entry = Entry {
            twin: reply,
            client: arrival.way_back(self.mtu_of(arrival.ifindex)),
            seen: segment.seen,
            service,
            backend,
            direction: Direction::Forward,
        };
        let answers = Entry {
            twin: segment.flow,
            seen: Seen(0),
            direction: Direction::Reply,
            ..entry
        };
        self.connections.insert(segment.flow, entry);
        self.connections.insert(reply, answers);
        self.count_connection(service);
        self.route_of(&entry)
    }

    /// The tuple that the replies of a new connection will have.
    fn reply_flow(
        &mut self,
        client: &Flow,
        backend: u32,
        service: &Service,
        choices: &dyn Choices,
    ) -> Result<Flow, End> {
        let backend = self.config.backends[&backend];
        let mut server = backend.address;
        if server.port() == 0 {
            server.set_port(client.destination.port());
        }
        let to = |destination: SocketAddr| Flow {
            source: server,
            destination,
            protocol: client.protocol,
        };
        let as_it_is = to(client.source);
        let nat = service.forwarding == Forwarding::Nat;
        let bypassed =
            client.source.ip() == server.ip() || shares_prefix(client.source.ip(), server.ip(), backend.on_link);
        let must_translate = !nat || bypassed;
        if !must_translate && self.is_free(&as_it_is, client) {
            return Ok(as_it_is);
        }

        let source = self.translated_source(client, &backend);
        let mut ports = 0..=u16::MAX;
        if !is_valid_source(source) || !ports.clone().any(|port| self.may_use(port)) {
            return Err(if must_translate {
                DropReason::NoRoute.into()
            } else {
                DropReason::TupleTaken.into()
            });
        }
        let usable = |port: &u16| self.may_use(*port) && self.is_free(&to((source, *port).into()), client);
        let own = Some(client.source.port()).filter(usable);
        let port = own
            .or_else(|| choices.source_port(client).filter(usable))
            .or_else(|| ports.find(usable))
            .ok_or(DropReason::PortsExhausted)?;
        if nat && source != client.source.ip() {
            self.events.push(Event::SourceTranslated.label());
        }
        Ok(to((source, port).into()))
    }

    /// Whether replies with this tuple may be those of the client's packet.
    fn is_free(&self, reply: &Flow, client: &Flow) -> bool {
        self.connections.get(reply).is_none_or(|holder| holder.twin == *client)
    }

    const fn may_use(&self, port: u16) -> bool {
        let settings = &self.config.settings;
        settings.snat_ports.contains(port) && !settings.host_ports.contains(port)
    }

    /// The address that a backend sees instead of the client's.
    fn translated_source(&self, client: &Flow, backend: &Backend) -> IpAddr {
        let settings = &self.config.settings;
        let (family, used) = match client.source {
            SocketAddr::V4(_) => (IpAddr::is_ipv4 as fn(&IpAddr) -> bool, settings.snat_addresses_v4),
            SocketAddr::V6(_) => (IpAddr::is_ipv6 as fn(&IpAddr) -> bool, settings.snat_addresses_v6),
        };
        if used == 0 {
            return backend.source;
        }
        let index = source_hash(client.source.ip(), settings.hash_seed) % used;
        let mut pool = self.config.snat.iter().copied().filter(family);
        usize::try_from(index)
            .ok()
            .and_then(|index| pool.nth(index))
            .unwrap_or(backend.source)
    }
}
