//! Tuples with the addresses of the standard library, so that one model serves both families.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    Address as _,
    address::{V4, V6},
    byte_order::Be16,
    flow::FlowKey,
    packet::Ip,
    scheduler,
};

/// Both ends of a packet, and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Protocol number.
    pub protocol: u8,
}

impl Flow {
    /// The tuple of an answer.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
        }
    }

    /// From the product's form of it.
    pub(super) fn of<A: Family>(key: &FlowKey<A>) -> Self {
        Self {
            source: (key.source.ip(), key.source_port.to_native()).into(),
            destination: (key.destination.ip(), key.destination_port.to_native()).into(),
            protocol: key.protocol,
        }
    }

    /// The hash of `maglev`.
    pub(super) fn hash(&self, seed: u32) -> u32 {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                scheduler::flow_hash(&self.key(V4::from(source), V4::from(destination)), seed)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                scheduler::flow_hash(&self.key(V6::from(source), V6::from(destination)), seed)
            }
            _ => unreachable!("a packet has one family"),
        }
    }

    const fn key<A: Family>(&self, source: A, destination: A) -> FlowKey<A> {
        FlowKey::new(
            (source, Be16::new(self.source.port())),
            (destination, Be16::new(self.destination.port())),
            self.protocol,
        )
    }
}

/// The product's addresses.
pub(super) trait Family: Ip {
    /// As the standard library has it.
    fn ip(self) -> IpAddr;
}

impl Family for V4 {
    fn ip(self) -> IpAddr {
        std::net::Ipv4Addr::from(self).into()
    }
}

impl Family for V6 {
    fn ip(self) -> IpAddr {
        std::net::Ipv6Addr::from(self).into()
    }
}

/// The hash of `source_hash`.
pub(super) fn source_hash(address: IpAddr, seed: u32) -> u32 {
    match address {
        IpAddr::V4(address) => scheduler::source_hash(V4::from(address), seed),
        IpAddr::V6(address) => scheduler::source_hash(V6::from(address), seed),
    }
}

/// Whether a packet may come from this address.
pub(super) fn is_valid_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => V4::from(address).is_valid_source(),
        IpAddr::V6(address) => V6::from(address).is_valid_source(),
    }
}

/// Whether both addresses are in one network with a prefix of this length; 0 stands for none.
pub(super) fn shares_prefix(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => V4::from(one).shares_prefix(V4::from(other), prefix),
        (IpAddr::V6(one), IpAddr::V6(other)) => V6::from(one).shares_prefix(V6::from(other), prefix),
        _ => false,
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
