//! What is measured: the cases, as data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    maps::programs,
    verdict::{ForwardReason, PassReason},
};
use lb_tests::{
    names::{BACKEND_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, VIP_2},
    packet::{Packet, TcpFlags},
};

/// Where the listener of the measured service listens.
pub(crate) const PORT: u16 = 80;
/// Where its backend listens.
pub(crate) const BACKEND_PORT: u16 = 8080;

/// One path through a program.
pub(crate) struct Case {
    /// What it is called in the output.
    pub(crate) name: &'static str,
    /// The program, as `lb-ebpf` names it.
    pub(crate) program: &'static str,
    /// The frame.
    pub(crate) frames: Frames,
    /// What the connection table holds when a round begins.
    pub(crate) table: Content,
    /// Number of the reason under which every single packet must be counted, see [`lb_common::verdict`].
    pub(crate) reason: u32,
}

/// Frames of many flows: all alike but for the client's address and port.
pub(crate) struct Frames {
    /// IP family.
    pub(crate) family: Family,
    /// The frame of a client with this address and port.
    pub(crate) of: fn(IpAddr, u16) -> Packet,
    /// Whether the client is the receiver.
    pub(crate) to_client: bool,
    /// Whether the TCP checksum is left for the program to finish.
    pub(crate) unfinished: bool,
}

impl Frames {
    /// The client's address, whose last four bytes are these.
    pub(crate) fn client(&self, last: u32) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from_bits(last).into(),
            Family::V6 => Ipv6Addr::from_bits(CLIENTS_V6.to_bits() | u128::from(last)).into(),
        }
    }

    /// Where the last four bytes of the client's address, and its port, stand in the frame.
    pub(crate) const fn client_at(&self) -> (u32, u32) {
        match (self.family, self.to_client) {
            (Family::V4, false) => (26, 34),
            (Family::V4, true) => (30, 36),
            (Family::V6, false) => (34, 54),
            (Family::V6, true) => (50, 56),
        }
    }
}

/// The network of the IPv6 clients.
const CLIENTS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0);

/// What a connection table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Content {
    /// Nothing: every packet of a round opens a connection.
    Nothing,
    /// An established connection for each flow.
    Established,
}

/// A round that opens connections has one packet a flow, so fewer flows than this would measure the system call.
const LEAST_NEW_FLOWS: u32 = 1 << 14;

impl Case {
    /// Whether it says anything with this many flows.
    pub(crate) const fn takes(&self, flows: u32) -> bool {
        matches!(self.table, Content::Established) || flows >= LEAST_NEW_FLOWS
    }
}

/// The client's SYN.
pub(crate) const SYN: Frames = Frames {
    family: Family::V4,
    of: |client, port| from_client(client, port).flags(TcpFlags::SYN),
    to_client: false,
    unfinished: false,
};

/// The backend's answer to it.
pub(crate) const SYN_ACK: Frames = Frames {
    family: Family::V4,
    of: |client, port| from_backend(client, port).flags(TcpFlags::SYN | TcpFlags::ACK),
    to_client: true,
    unfinished: false,
};

/// A packet of an established connection, to the backend.
pub(crate) const FORWARD: Frames = Frames {
    family: Family::V4,
    of: from_client,
    to_client: false,
    unfinished: false,
};

/// A packet of an established connection, to the client.
pub(crate) const REPLY: Frames = Frames {
    family: Family::V4,
    of: from_backend,
    to_client: true,
    unfinished: false,
};

/// As [`FORWARD`], from a sender who leaves the checksum to the network card.
const FORWARD_UNFINISHED: Frames = Frames {
    family: Family::V4,
    of: |client, port| from_client(client, port).partial_checksum(),
    to_client: false,
    unfinished: true,
};

/// A packet of a flow that the gateway has nothing to do with.
const NO_SERVICE: Frames = Frames {
    family: Family::V4,
    of: |client, port| from_client(client, port).to(VIP_2, PORT),
    to_client: false,
    unfinished: false,
};

/// As [`SYN`], over IPv6.
pub(crate) const SYN_V6: Frames = Frames {
    family: Family::V6,
    ..SYN
};

/// As [`SYN_ACK`], over IPv6.
pub(crate) const SYN_ACK_V6: Frames = Frames {
    family: Family::V6,
    ..SYN_ACK
};

/// As [`FORWARD`], over IPv6.
pub(crate) const FORWARD_V6: Frames = Frames {
    family: Family::V6,
    ..FORWARD
};

/// As [`REPLY`], over IPv6.
const REPLY_V6: Frames = Frames {
    family: Family::V6,
    ..REPLY
};

fn from_client(client: IpAddr, port: u16) -> Packet {
    Packet::tcp().from(client, port).to(Family::of(client).vip(), PORT)
}

fn from_backend(client: IpAddr, port: u16) -> Packet {
    Packet::tcp()
        .ethernet(BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC)
        .from(Family::of(client).backend(1), BACKEND_PORT)
        .to(client, port)
}

/// Every case. The four paths of the program that hardware drivers get come first; then what recognising and finishing unfinished
/// checksums adds on virtual interfaces.
pub(crate) const CASES: [Case; 12] = [
    Case {
        name: "pass, no service",
        program: programs::NATIVE,
        frames: NO_SERVICE,
        table: Content::Established,
        reason: PassReason::NoListener as u32,
    },
    Case {
        name: "new connection",
        program: programs::NATIVE,
        frames: SYN,
        table: Content::Nothing,
        reason: ForwardReason::Forward as u32,
    },
    Case {
        name: "established forward",
        program: programs::NATIVE,
        frames: FORWARD,
        table: Content::Established,
        reason: ForwardReason::Forward as u32,
    },
    Case {
        name: "reply",
        program: programs::NATIVE,
        frames: REPLY,
        table: Content::Established,
        reason: ForwardReason::Reply as u32,
    },
    Case {
        name: "IPv6, new connection",
        program: programs::NATIVE,
        frames: SYN_V6,
        table: Content::Nothing,
        reason: ForwardReason::Forward as u32,
    },
    Case {
        name: "IPv6, established forward",
        program: programs::NATIVE,
        frames: FORWARD_V6,
        table: Content::Established,
        reason: ForwardReason::Forward as u32,
    },
    Case {
        name: "IPv6, reply",
        program: programs::NATIVE,
        frames: REPLY_V6,
        table: Content::Established,
        reason: ForwardReason::Reply as u32,
    },
    Case {
        name: "pass, no service",
        program: programs::NATIVE_VIRTUAL,
        frames: NO_SERVICE,
        table: Content::Established,
        reason: PassReason::NoListener as u32,
    },
    Case {
        name: "new connection",
        program: programs::NATIVE_VIRTUAL,
        frames: SYN,
        table: Content::Nothing,
        reason: ForwardReason::Forward as u32,
    },
    Case {
        name: "established forward",
        program: programs::NATIVE_VIRTUAL,
        frames: FORWARD,
        table: Content::Established,
        reason: ForwardReason::Forward as u32,
    },
    Case {
        name: "forward, unfinished checksum",
        program: programs::NATIVE_VIRTUAL,
        frames: FORWARD_UNFINISHED,
        table: Content::Established,
        reason: ForwardReason::Forward as u32,
    },
    Case {
        name: "reply",
        program: programs::NATIVE_VIRTUAL,
        frames: REPLY,
        table: Content::Established,
        reason: ForwardReason::Reply as u32,
    },
];
