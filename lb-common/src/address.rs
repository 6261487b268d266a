//! IP addresses as map keys, and the trait by which one packet path serves both families.

use crate::{byte_order::Be32, checksum::Sum};

/// An IP address of either family.
///
/// The packet path and the map types are generic over this, so that IPv6 is a second instance of the same code. A type qualifies
/// when it is plain bytes without padding.
pub trait Address: Copy + Eq + 'static {
    /// Adds the address to a checksum over a pseudo header (RFC 9293, section 3.1; RFC 768).
    fn add_to(self, sum: Sum) -> Sum;

    /// Mixes the address into 32 bits for [`crate::scheduler`]. Not meant to withstand an adversary by itself.
    fn fold(self) -> u32;

    /// Whether a packet may carry this address as its source and be answered: unicast, and not of the "this host" or loopback
    /// networks (RFC 1122, section 3.2.1.3; RFC 4291, sections 2.5 and 2.7).
    fn is_valid_source(self) -> bool;
}

/// An IPv4 address.
pub type V4 = Be32;

impl Address for V4 {
    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        sum.add32(self.image())
    }

    #[inline(always)]
    fn fold(self) -> u32 {
        self.image()
    }

    #[inline(always)]
    fn is_valid_source(self) -> bool {
        let first = self.to_wire()[0];
        // 0/8 and 127/8; 224/4 and above are multicast, reserved and broadcast.
        first != 0 && first != 127 && first < 224
    }
}

#[cfg(feature = "user")]
// SAFETY: a transparent integer, every bit pattern is a value.
unsafe impl aya::Pod for V4 {}

#[cfg(any(test, feature = "user"))]
impl From<std::net::Ipv4Addr> for V4 {
    fn from(address: std::net::Ipv4Addr) -> Self {
        Self::from_wire(address.octets())
    }
}

#[cfg(any(test, feature = "user"))]
impl From<V4> for std::net::Ipv4Addr {
    fn from(address: V4) -> Self {
        Self::from(address.to_wire())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_unicast_may_be_a_source() {
        let valid = |text: &str| V4::from(text.parse::<Ipv4Addr>().unwrap()).is_valid_source();
        for address in ["1.0.0.1", "10.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.255"] {
            assert!(valid(address), "{address} is a unicast address");
        }
        for address in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
            assert!(!valid(address), "{address} must not be answered");
        }
    }
}
