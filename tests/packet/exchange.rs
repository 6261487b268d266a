//! Exchanges between a client and a backend, over both families and with the client's source kept or translated: for tests of what must
//! hold in all of them.

use std::net::IpAddr;

use lb_common::service::{Forwarding, Scheduler};
use lb_tests::{
    diff::assert_packet_eq,
    names::{BACKEND_ROUTER_MAC, CLIENT_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS_MAC},
    packet::{Packet, TcpFlags},
};
use xlb::dataplane::ServiceId;

use crate::fixture::{BACKEND_PORT, Fixture, PORT, XDP_PROGRAMS};

/// Who talks: a client with one port, a VIP, and a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    pub(crate) family: Family,
    forwarding: Forwarding,
    /// The client's port. A source that is translated keeps it, since no test gives it away before.
    pub(crate) port: u16,
}

/// Time to live of packets as they come, unless a test says otherwise; they leave with one less.
const TTL: u8 = 63;

impl Exchange {
    /// One for each family and way of forwarding, from the client's port 40000.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Family::ALL.into_iter().flat_map(|family| {
            [Forwarding::Nat, Forwarding::FullNat].map(|forwarding| Self {
                family,
                forwarding,
                port: 40_000,
            })
        })
    }

    /// The same from another port of the client.
    pub(crate) const fn at_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The VIP: each way of forwarding has one of its own.
    pub(crate) const fn vip(self) -> IpAddr {
        match self.forwarding {
            Forwarding::FullNat => self.family.vip_2(),
            _ => self.family.vip(),
        }
    }

    /// Whether the backend sees a translated source.
    pub(crate) const fn hides_client(self) -> bool {
        matches!(self.forwarding, Forwarding::FullNat)
    }

    /// The address that the backend talks to.
    pub(crate) const fn peer(self) -> IpAddr {
        if self.hides_client() {
            self.family.snat()
        } else {
            self.family.client(1)
        }
    }

    /// A client's packet as it comes.
    pub(crate) fn request(self, packet: Packet) -> Packet {
        packet
            .ethernet(CLIENT_ROUTER_MAC, GATEWAY_TO_CLIENTS_MAC)
            .from(self.family.client(1), self.port)
            .to(self.vip(), PORT)
            .ttl(TTL)
    }

    /// The same as it leaves.
    pub(crate) fn request_leaving(self, packet: Packet) -> Packet {
        packet
            .ethernet(GATEWAY_TO_BACKENDS_MAC, BACKEND_ROUTER_MAC)
            .from(self.peer(), self.port)
            .to(self.family.backend(1), BACKEND_PORT)
            .ttl(TTL - 1)
    }

    /// A backend's packet as it comes.
    pub(crate) fn reply(self, packet: Packet) -> Packet {
        packet
            .ethernet(BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC)
            .from(self.family.backend(1), BACKEND_PORT)
            .to(self.peer(), self.port)
            .ttl(TTL)
    }

    /// The same as it leaves.
    pub(crate) fn reply_leaving(self, packet: Packet) -> Packet {
        packet
            .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
            .from(self.vip(), PORT)
            .to(self.family.client(1), self.port)
            .ttl(TTL - 1)
    }

    /// Opens connections of both protocols.
    pub(crate) fn open(self, fixture: &mut Fixture) {
        for packet in [Packet::tcp().flags(TcpFlags::SYN), Packet::udp()] {
            let out = fixture.forwarded(&self.request(packet.clone()).build());
            assert_packet_eq(&out, &self.request_leaving(packet).build());
        }
    }

    /// Runs the packet as a request and as a reply, and compares all of both with what must leave. The connection must be open.
    #[track_caller]
    pub(crate) fn check(self, fixture: &mut Fixture, packet: &Packet) {
        let out = fixture.forwarded(&self.request(packet.clone()).build());
        assert_packet_eq(&out, &self.request_leaving(packet.clone()).build());
        let out = fixture.forwarded(&self.reply(packet.clone()).build());
        assert_packet_eq(&out, &self.reply_leaving(packet.clone()).build());
    }
}

impl Fixture {
    /// A service for every exchange.
    pub(crate) fn with_exchanges() -> Self {
        let mut fixture = Self::new();
        for (id, exchange) in (1..).map(ServiceId).zip(Exchange::all()) {
            let backends = [exchange.family.backend(1)];
            fixture.add_service(
                id,
                exchange.vip(),
                Scheduler::RoundRobin,
                exchange.forwarding,
                &backends,
            );
        }
        fixture
    }
}

/// Runs a test over every exchange through every program. Each time the client has another port, a multiple of 100, the connections are
/// open, and nothing is counted yet.
pub(crate) fn each(mut test: impl FnMut(&mut Fixture, Exchange)) {
    let mut fixture = Fixture::with_exchanges();
    for (program, port) in XDP_PROGRAMS.into_iter().zip((40_000..).step_by(100)) {
        fixture.use_program(program);
        for exchange in Exchange::all() {
            // Shown when the test fails.
            eprintln!("{program}, {exchange:?}");
            let exchange = exchange.at_port(port);
            exchange.open(&mut fixture);
            fixture.counts();
            test(&mut fixture, exchange);
        }
    }
}
