//! One flow through a service, with its packets on both sides of the balancer.

use std::net::IpAddr;

use lb_common::service::{Forwarding, Scheduler, Service};
use lb_tests::{
    names::{BACKEND_ROUTER_MAC, CLIENT_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS_MAC},
    packet::{Packet, TcpFlags},
};
use xlb::{
    dataplane::{Dataplane as _, ServiceId},
    model::Protocol,
};

use crate::fixture::{BACKEND_PORT, Fixture, PORT};

/// The modes that translate, each with the port from which its flows come.
const TRANSLATING: [(Forwarding, u16); 2] = [(Forwarding::Nat, 40_000), (Forwarding::FullNat, 50_000)];

const fn service(family: Family) -> ServiceId {
    match family {
        Family::V4 => ServiceId(4),
        Family::V6 => ServiceId(6),
    }
}

/// Calls `test` with one TCP flow and one UDP flow in every family and translating mode, whose service is there and whose connection is
/// not. All are of one fixture, since it takes a while to make one.
pub(crate) fn for_each_new_flow(mut test: impl FnMut(&mut Fixture, Flow)) {
    let mut fixture = Fixture::new();
    for family in Family::ALL {
        let backends = [family.backend(1)];
        fixture.add_service(
            service(family),
            family.vip(),
            Scheduler::RoundRobin,
            Forwarding::Nat,
            &backends,
        );
        for (forwarding, client_port) in TRANSLATING {
            let record = Service::new(Scheduler::RoundRobin, forwarding);
            fixture
                .dataplane
                .set_service(service(family), record)
                .expect("a service");
            for flow in Flow::both(family, forwarding, client_port) {
                test(&mut fixture, flow);
            }
        }
    }
}

/// As [`for_each_new_flow`], with the connection open, and no other beside it.
pub(crate) fn for_each_flow(mut test: impl FnMut(&mut Fixture, Flow)) {
    for_each_new_flow(|fixture, flow| {
        for entry in fixture.connections() {
            fixture.remove(&entry.key);
        }
        flow.open(fixture);
        test(fixture, flow);
    });
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToBackend,
    ToClient,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::ToBackend, Self::ToClient];
}

/// A flow of the first client to the usual service of a family, with one backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) family: Family,
    pub(crate) forwarding: Forwarding,
    pub(crate) protocol: Protocol,
    pub(crate) client_port: u16,
}

impl Flow {
    /// One TCP flow and one UDP flow.
    pub(crate) fn both(family: Family, forwarding: Forwarding, client_port: u16) -> [Self; 2] {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Self {
            family,
            forwarding,
            protocol,
            client_port,
        })
    }

    /// Its service in [`for_each_flow`].
    pub(crate) const fn service(&self) -> ServiceId {
        service(self.family)
    }

    /// Sends the client's first packet.
    #[track_caller]
    pub(crate) fn open(&self, fixture: &mut Fixture) {
        fixture.counts();
        fixture.forwarded(&self.before(Way::ToBackend).flags(TcpFlags::SYN).build());
        fixture.expect_counts(&[("forward", 1)]);
    }

    /// Whom the backend talks to: `full_nat` keeps the client's port while that is free.
    pub(crate) const fn source(&self) -> IpAddr {
        match self.forwarding {
            Forwarding::FullNat => self.family.snat(),
            Forwarding::Nat | Forwarding::Dsr => self.family.client(1),
        }
    }

    /// A packet as it comes to the gateway.
    pub(crate) fn before(&self, way: Way) -> Packet {
        match way {
            Way::ToBackend => self
                .packet()
                .from(self.family.client(1), self.client_port)
                .to(self.family.vip(), PORT)
                .ethernet(CLIENT_ROUTER_MAC, GATEWAY_TO_CLIENTS_MAC),
            Way::ToClient => self
                .packet()
                .from(self.family.backend(1), BACKEND_PORT)
                .to(self.source(), self.client_port)
                .ethernet(BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC),
        }
    }

    /// The same packet as the gateway sends it on, but for its time to live.
    pub(crate) fn after(&self, way: Way) -> Packet {
        match way {
            Way::ToBackend => self
                .packet()
                .from(self.source(), self.client_port)
                .to(self.family.backend(1), BACKEND_PORT)
                .ethernet(GATEWAY_TO_BACKENDS_MAC, BACKEND_ROUTER_MAC),
            Way::ToClient => self
                .packet()
                .from(self.family.vip(), PORT)
                .to(self.family.client(1), self.client_port)
                .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC),
        }
    }

    fn packet(&self) -> Packet {
        match self.protocol {
            Protocol::Tcp => Packet::tcp(),
            Protocol::Udp => Packet::udp(),
        }
        .over(self.family)
    }
}
