//! Random traffic: connections in every state of their lives, what surrounds them, and damaged frames.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{connection::Direction, flow::protocol};
use lb_tests::{
    model::{Entry, Flow, Model},
    names::{BACKEND_ROUTER_MAC, CLIENT_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS_MAC},
    packet::{Extension, IcmpError, Packet, Tag, TcpFlags, fragments, fragments_for_mtu, quote},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    mutation::mutate,
    world::{CLOSED_PORT, EMPTY_PORT, FULL_NAT_PORT, FULL_NAT_PORTS, NAT_PORT, ONE_ARM_PORT, SHARED_PORT},
};

/// Frames that are remembered, to be sent again and to be spliced into others.
const REMEMBERED: usize = 64;

/// Share of frames that are damaged.
const DAMAGED: f64 = 0.4;

/// What happens next.
pub(super) enum Step {
    /// A frame comes in.
    Frame(Vec<u8>),
    /// The backend with this id dies or returns.
    Health(u32, bool),
}

/// A source of steps. The same seed gives the same steps again, but for ports of the program's choice.
pub(super) struct Traffic {
    random: StdRng,
    /// Fragments that follow the one that was sent.
    queue: VecDeque<Vec<u8>>,
    earlier: VecDeque<Vec<u8>>,
    next_id: u32,
}

impl Traffic {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            queue: VecDeque::new(),
            earlier: VecDeque::new(),
            next_id: 1000,
        }
    }

    /// The next step, given what is known of the connections.
    pub(super) fn next(&mut self, model: &Model) -> Step {
        if self.random.random_bool(0.01) {
            let backends: Vec<u32> = model.config.backends.keys().copied().collect();
            let id = *self.one_of(&backends);
            return Step::Health(id, !model.config.backends[&id].alive);
        }
        let frame = match self.queue.pop_front() {
            Some(frame) => frame,
            None => self.fresh(model),
        };
        self.earlier.push_back(frame.clone());
        if self.earlier.len() > REMEMBERED {
            self.earlier.pop_front();
        }
        if self.random.random_bool(DAMAGED) {
            let other = self.repeated();
            return Step::Frame(mutate(&mut self.random, frame, &other));
        }
        Step::Frame(frame)
    }

    fn fresh(&mut self, model: &Model) -> Vec<u8> {
        match self.random.random_range(0..100) {
            0..24 => self.opening().build(),
            24..62 => self.known(model).build(),
            62..72 => self.fragmented(model),
            72..88 => self.icmp_error(model),
            88..92 => self.echo().build(),
            92..95 => self.stray().build(),
            _ => self.repeated(),
        }
    }

    fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.random.random_range(0..choices.len())]
    }

    fn often(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn family(&mut self) -> Family {
        *self.one_of(&Family::ALL)
    }

    fn repeated(&mut self) -> Vec<u8> {
        match self.earlier.len() {
            0 => vec![0; 14],
            count => self.earlier[self.random.random_range(0..count)].clone(),
        }
    }

    /// A client's address: of the clients' network mostly, at times of the backends' or none that may be answered.
    fn client(&mut self, family: Family) -> IpAddr {
        let number = self.random.random_range(1..=4);
        match self.random.random_range(0..20) {
            0..15 => family.client(number),
            15..18 => family.backend(number),
            18 => family.vip(),
            _ => match family {
                Family::V4 => *self.one_of(&[
                    Ipv4Addr::UNSPECIFIED.into(),
                    Ipv4Addr::LOCALHOST.into(),
                    Ipv4Addr::BROADCAST.into(),
                ]),
                Family::V6 => *self.one_of(&[
                    Ipv6Addr::LOCALHOST.into(),
                    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
                    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
                ]),
            },
        }
    }

    /// A client's packet to some listener, or to none.
    fn opening(&mut self) -> Packet {
        let family = self.family();
        let client = self.client(family);
        // Below the ports for translated sources, among them, and among those of the host.
        let first = *self.one_of(&[1000, 20_000, 40_000]);
        let port = first + self.random.random_range(0..6);
        let range = self.random.random_range(FULL_NAT_PORTS);
        let (vip, direct) = (family.vip(), family.vip_2());
        let (address, listener) = *self.one_of(&[
            (vip, NAT_PORT),
            (vip, NAT_PORT),
            (vip, SHARED_PORT),
            (vip, ONE_ARM_PORT),
            (vip, FULL_NAT_PORT),
            (vip, range),
            (direct, NAT_PORT),
            (direct, range),
            (vip, EMPTY_PORT),
            (vip, CLOSED_PORT),
        ]);
        let packet = if self.often(0.6) {
            let flags = *self.one_of(&[TcpFlags::SYN, TcpFlags::SYN, TcpFlags::SYN, TcpFlags::ACK]);
            Packet::tcp().flags(flags)
        } else {
            Packet::udp()
        };
        let packet = packet.from(client, port).to(address, listener);
        self.varied(packet)
    }

    /// The tuple of packets that belong to some connection, and that with which they leave.
    fn tuple(&mut self, model: &Model) -> Option<(Flow, Flow, Direction)> {
        // By the client's tuple: that of the replies may have a port of the program's choice, which is another one in every run.
        let clients = |(_, entry): &(&Flow, &Entry)| entry.direction != Direction::Reply;
        let count = model.connections().iter().filter(clients).count();
        if count == 0 {
            return None;
        }
        let chosen = self.random.random_range(0..count);
        let (flow, entry) = model.connections().iter().filter(clients).nth(chosen)?;
        if entry.direction == Direction::Forward && self.often(0.5) {
            return Some((entry.twin, flow.reversed(), Direction::Reply));
        }
        Some((*flow, entry.twin.reversed(), entry.direction))
    }

    /// A packet of some connection, of any kind.
    fn known(&mut self, model: &Model) -> Packet {
        let Some((flow, _, direction)) = self.tuple(model) else {
            return self.opening();
        };
        let packet = self.packet_of(&flow);
        let packet = if direction == Direction::Reply {
            packet.ethernet(BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC)
        } else {
            packet
        };
        self.varied(packet)
    }

    fn packet_of(&mut self, flow: &Flow) -> Packet {
        let packet = if flow.protocol == protocol::TCP {
            let flags = *self.one_of(&[
                TcpFlags::SYN,
                TcpFlags::SYN | TcpFlags::ECE | TcpFlags::CWR,
                TcpFlags::SYN | TcpFlags::ACK,
                TcpFlags::ACK,
                TcpFlags::ACK | TcpFlags::PSH,
                TcpFlags::FIN | TcpFlags::ACK,
                TcpFlags::RST,
                TcpFlags::RST | TcpFlags::ACK,
                TcpFlags::NONE,
            ]);
            Packet::tcp().flags(flags)
        } else {
            Packet::udp()
        };
        packet
            .from(flow.source.ip(), flow.source.port())
            .to(flow.destination.ip(), flow.destination.port())
    }

    /// The packet with whatever a packet may have.
    fn varied(&mut self, packet: Packet) -> Packet {
        let packet = self.with_headers(packet);
        let length = match self.random.random_range(0..10) {
            0..7 => self.random.random_range(0..64),
            7 | 8 => self.random.random_range(1300..1480),
            _ => self.random.random_range(1480..3000),
        };
        let packet = packet.payload(&self.bytes(length));
        let packet = match self.random.random_range(0..12) {
            0 => packet.partial_checksum(),
            1 => packet.without_checksum(),
            2 => packet.bad_checksum(),
            3 => packet.bad_ip_checksum(),
            _ => packet,
        };
        if self.often(0.1) {
            let length = self.random.random_range(1..20);
            return packet.trailer(&self.bytes(length));
        }
        packet
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let first: u8 = self.random.random();
        // Mixed enough for sums to notice what is missing.
        (0..=250)
            .cycle()
            .step_by(7)
            .map(|byte: u8| byte.wrapping_add(first))
            .take(length)
            .collect()
    }

    /// The packet with tags, options, extension headers and a time to live.
    fn with_headers(&mut self, packet: Packet) -> Packet {
        let packet = if self.often(0.1) {
            packet.ethernet([0x02, 0, 0, 0, 0x02, 0x77], GATEWAY_TO_CLIENTS_MAC)
        } else {
            packet
        };
        let packet = match self.random.random_range(0..12) {
            0 => packet.tags(&[Tag::customer(5)]),
            1 => packet.tags(&[Tag::customer(7).priority(3).drop_eligible()]),
            2 => packet.tags(&[Tag::service(8).priority(6), Tag::customer(9).priority(1)]),
            3 => packet.tags(&[Tag::customer(0)]),
            _ => packet,
        };
        let packet = match self.random.random_range(0..12) {
            0 => packet.ip_options(&[1; 8]).extensions(&[Extension::HopByHop(0)]),
            1 => packet.ip_options(&[1; 40]).extensions(&[
                Extension::Destination(1),
                Extension::Routing {
                    kind: 4,
                    segments_left: 0,
                },
            ]),
            2 => packet.extensions(&[
                Extension::HopByHop(2),
                Extension::Routing {
                    kind: 0,
                    segments_left: 1,
                },
            ]),
            3 => packet.extensions(&[Extension::Destination(0); 9]),
            4 => packet.extensions(&[*self.one_of(&[
                Extension::Authentication,
                Extension::Mobility,
                Extension::NoNextHeader,
            ])]),
            _ => packet,
        };
        let packet = match self.random.random_range(0..8) {
            0 => packet.tcp_options(&[1; 12]),
            1 => packet.tcp_options(&[1; 40]),
            _ => packet,
        };
        let ttl = *self.one_of(&[63, 63, 63, 63, 255, 64, 2, 1, 0]);
        packet
            .ttl(ttl)
            .dscp(self.random.random())
            .ecn(self.random.random())
            .id(self.random.random())
            .flow_label(self.random.random())
    }

    /// The first fragment of a packet. The others come next, mostly all of them and in order.
    fn fragmented(&mut self, model: &Model) -> Vec<u8> {
        let packet = if self.often(0.4) {
            self.opening()
        } else {
            self.known(model)
        };
        let length = self.random.random_range(64..2600);
        let ttl = *self.one_of(&[63, 63, 63, 63, 63, 1]);
        let packet = packet.payload(&self.bytes(length)).dont_fragment(false).ttl(ttl);
        let frame = packet.extensions(&[]).build();
        // Few enough for packets to meet that have the same one.
        let id = if self.often(0.5) {
            self.random.random_range(0..4)
        } else {
            self.next_id += 1;
            self.next_id
        };
        let mut parts: VecDeque<Vec<u8>> = if self.often(0.5) {
            let mtu = self.random.random_range(160..1500);
            fragments_for_mtu(&frame, mtu, id).into()
        } else {
            let cut = *self.one_of(&[8, 16, 24, 40, 64]);
            fragments(&frame, &[cut], id).into()
        };
        match self.random.random_range(0..10) {
            0 => {
                parts.pop_front();
            }
            1 => parts.extend(parts.front().cloned()),
            2 if parts.len() > 1 => parts.swap(0, 1),
            3 => {
                parts.pop_back();
            }
            _ => {}
        }
        let first = parts.pop_front().unwrap_or(frame);
        self.queue = parts;
        first
    }

    /// An ICMP error about a packet that the balancer has sent, or could have.
    fn icmp_error(&mut self, model: &Model) -> Vec<u8> {
        let Some((flow, sent, direction)) = self.tuple(model) else {
            return self.echo().build();
        };
        let about = match (direction, self.random.random_range(0..10)) {
            // What the backend answers without us.
            (Direction::Direct, _) => flow.reversed(),
            (_, 0) => flow,
            _ => sent,
        };
        let length = self.random.random_range(0..1200);
        let quoted = self.packet_of(&about).payload(&self.bytes(length));
        let quoted = self.with_headers(quoted).build();
        let bytes = *self.one_of(&[0, 4, 8, 12, 17, 18, 20, 28, usize::MAX]);
        let mut quoted = quote(&quoted, bytes);
        if self.often(0.2) {
            // Nothing stands before a quote.
            let mut frame = vec![0; 14];
            frame.extend(&quoted);
            quoted = mutate(&mut self.random, frame, &[]).split_off(14);
        }
        let error = *self.one_of(&[
            IcmpError::HostUnreachable,
            IcmpError::PortUnreachable,
            IcmpError::TooBig { mtu: 1280 },
            IcmpError::TimeExceeded,
            IcmpError::ReassemblyTimeExceeded,
            IcmpError::ParameterProblem { pointer: 20 },
            IcmpError::Other {
                kind: 4,
                code: 0,
                rest: [0; 4],
            },
        ]);
        let family = Family::of(about.source.ip());
        let elsewhere = self.client(family);
        let reporter = *self.one_of(&[about.destination.ip(), family.backend_lan_router(), elsewhere]);
        let packet = Packet::icmp_error(error, &quoted)
            .destination(about.source.ip())
            .source(reporter);
        let packet = if self.often(0.15) {
            packet.icmp_extension(&[0, 8, 1, 1, 1, 2, 3, 4])
        } else {
            packet
        };
        let packet = if self.often(0.05) {
            packet.bad_checksum()
        } else {
            packet
        };
        let ethernet = *self.one_of(&[
            (BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC),
            (CLIENT_ROUTER_MAC, GATEWAY_TO_CLIENTS_MAC),
        ]);
        self.with_headers(packet.ethernet(ethernet.0, ethernet.1)).build()
    }

    fn echo(&mut self) -> Packet {
        let family = self.family();
        let (one, two) = (self.random.random(), self.random.random());
        let packet = if self.often(0.8) {
            Packet::echo_request(one, two)
        } else {
            Packet::echo_reply(one, two)
        };
        let target = *self.one_of(&[family.vip(), family.vip(), family.vip_2(), family.backend(1)]);
        let client = self.client(family);
        let length = self.random.random_range(0..80);
        let packet = packet.source(client).destination(target).payload(&self.bytes(length));
        self.with_headers(packet)
    }

    /// What is not for a balancer at all.
    fn stray(&mut self) -> Packet {
        let packet = self.opening();
        match self.random.random_range(0..4) {
            0 => packet.claim_protocol(self.random.random()),
            1 => packet.ethernet(CLIENT_ROUTER_MAC, [0x33, 0x33, 0, 0, 0, 1]),
            2 => packet.claim_version(self.random.random()),
            _ => {
                let kind = *self.one_of(&[0x0806, 0x88cc, 0x9100]);
                packet.tags(&[Tag {
                    protocol: kind,
                    ..Tag::customer(1)
                }])
            }
        }
    }
}
