//! The five-tuple.

use crate::{
    Address,
    address::{V4, V6},
    byte_order::Be16,
};

/// Protocol numbers of the IP header (IANA, "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// Internet Control Message Protocol, for IPv4.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// Internet Control Message Protocol, for IPv6.
    pub const ICMP_V6: u8 = 58;
}

/// The five-tuple of a packet as it arrives, and the key of the connection tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// [`protocol`] number.
    pub protocol: u8,
    // Not one array: the BPF target clears arrays by calling `memset`.
    padding: u8,
    more_padding: u16,
}

const _: () = assert!(size_of::<FlowKey<V4>>() == 16);
const _: () = assert!(size_of::<FlowKey<V6>>() == 40);

impl<A: Address> FlowKey<A> {
    /// The tuple `source` to `destination` of `protocol`.
    #[inline(always)]
    pub const fn new(source: (A, Be16), destination: (A, Be16), protocol: u8) -> Self {
        Self {
            source: source.0,
            destination: destination.0,
            source_port: source.1,
            destination_port: destination.1,
            protocol,
            padding: 0,
            more_padding: 0,
        }
    }

    /// The tuple of a packet in the opposite direction.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            padding: 0,
            more_padding: 0,
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]`, padding is a field, every bit pattern is a value.
unsafe impl aya::Pod for FlowKey<V4> {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for FlowKey<V6> {}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn reversing_swaps_both_ends_and_is_its_own_inverse() {
        let key = FlowKey::new(
            (V4::from(Ipv4Addr::new(198, 51, 100, 7)), Be16::new(40_000)),
            (V4::from(Ipv4Addr::new(203, 0, 113, 10)), Be16::new(80)),
            protocol::TCP,
        );
        let reply = key.reversed();
        assert_eq!(reply.source, key.destination);
        assert_eq!(reply.source_port.to_native(), 80);
        assert_eq!(reply.destination_port.to_native(), 40_000);
        assert_eq!(reply.reversed(), key);
    }
}
