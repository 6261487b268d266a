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

    /// Whether a packet may carry this address as its source, be answered, and be forwarded: unicast, and not of the "this host" or
    /// loopback networks (RFC 1122, section 3.2.1.3; RFC 4291, sections 2.5 to 2.7), nor of an IPv6 link alone.
    fn is_valid_source(self) -> bool;

    /// Whether both addresses begin with the same `prefix` bits. A prefix of 0 bits stands for "no network": nothing shares it.
    fn shares_prefix(self, other: Self, prefix: u8) -> bool;
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

    #[inline(always)]
    fn shares_prefix(self, other: Self, prefix: u8) -> bool {
        prefix != 0 && leading_bits_differ(self.to_native(), other.to_native(), prefix) == 0
    }
}

/// What differs in the first `prefix` bits of two words, at most all 32.
#[inline(always)]
const fn leading_bits_differ(one: u32, other: u32, prefix: u8) -> u32 {
    let mask = match prefix {
        0 => 0,
        1..=31 => !(u32::MAX >> prefix),
        _ => u32::MAX,
    };
    (one ^ other) & mask
}

/// An IPv6 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct V6([Be32; 4]);

impl V6 {
    /// From the bytes as they stand in the packet.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            Be32::from_wire([a, b, c, d]),
            Be32::from_wire([e, f, g, h]),
            Be32::from_wire([i, j, k, l]),
            Be32::from_wire([m, n, o, p]),
        ])
    }

    /// The bytes as they stand in the packet.
    #[inline(always)]
    pub const fn to_wire(self) -> [u8; 16] {
        let [a, b, c, d] = self.0[0].to_wire();
        let [e, f, g, h] = self.0[1].to_wire();
        let [i, j, k, l] = self.0[2].to_wire();
        let [m, n, o, p] = self.0[3].to_wire();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The four words of the address, the first one first.
    #[inline(always)]
    pub const fn words(self) -> [Be32; 4] {
        self.0
    }
}

impl Address for V6 {
    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        let [a, b, c, d] = self.0;
        sum.add32(a.image()).add32(b.image()).add32(c.image()).add32(d.image())
    }

    /// Words are multiplied by different odd constants, so that prefixes and interface identifiers that differ alike do not cancel
    /// each other out.
    #[inline(always)]
    fn fold(self) -> u32 {
        let [a, b, c, d] = self.0;
        let high = a.image().wrapping_mul(0x9e37_79b1) ^ b.image().wrapping_mul(0x85eb_ca77);
        let high = high ^ (high >> 15);
        let low = c.image().wrapping_mul(0xc2b2_ae3d) ^ d.image();
        high.wrapping_mul(0x27d4_eb2f) ^ low
    }

    #[inline(always)]
    fn is_valid_source(self) -> bool {
        let [a, b, c, d] = self.0;
        let first = a.to_native();
        // Unspecified and loopback differ from zero in the last bit at most; then multicast, then link-local.
        let reserved = first == 0 && b.image() == 0 && c.image() == 0 && d.to_native() <= 1;
        !reserved && first >> 24 != 0xff && first >> 22 != 0xfe80 >> 6
    }

    #[inline(always)]
    fn shares_prefix(self, other: Self, prefix: u8) -> bool {
        let differ = |word: usize, before: u8| {
            let (one, other) = (self.0[word].to_native(), other.0[word].to_native());
            leading_bits_differ(one, other, prefix.saturating_sub(before))
        };
        prefix != 0 && differ(0, 0) | differ(1, 32) | differ(2, 64) | differ(3, 96) == 0
    }
}

#[cfg(feature = "user")]
// SAFETY: a transparent integer, every bit pattern is a value.
unsafe impl aya::Pod for V4 {}
#[cfg(feature = "user")]
// SAFETY: four transparent integers, every bit pattern is a value.
unsafe impl aya::Pod for V6 {}

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

#[cfg(any(test, feature = "user"))]
impl From<std::net::Ipv6Addr> for V6 {
    fn from(address: std::net::Ipv6Addr) -> Self {
        Self::from_wire(address.octets())
    }
}

#[cfg(any(test, feature = "user"))]
impl From<V6> for std::net::Ipv6Addr {
    fn from(address: V6) -> Self {
        Self::from(address.to_wire())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v6(text: &str) -> V6 {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

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
    #[test]
    fn only_global_and_unique_local_unicast_may_be_a_source_over_ipv6() {
        for address in [
            "2001:db8::1",
            "fd00::1",
            "::2",
            "::ffff:10.0.0.1",
            "1::",
            "fec0::1",
            "fe00::1",
        ] {
            assert!(v6(address).is_valid_source(), "{address} is a unicast address");
        }
        for address in ["::", "::1", "ff02::1", "ff0e::1", "fe80::1", "febf::1"] {
            assert!(!v6(address).is_valid_source(), "{address} must not be answered");
        }
    }

    #[test]
    fn addresses_share_a_prefix_up_to_their_first_difference() {
        let cases = [
            ("2001:db8::1", "2001:db8::2", 126),
            ("2001:db8::1", "2001:db8::1", 128),
            ("2001:db8:0:1::1", "2001:db8::1", 63),
            ("2001:db8:8000::", "2001:db8::", 32),
            ("8000::", "::", 0),
        ];
        for (one, other, common) in cases {
            for prefix in 0..=128 {
                let shares = v6(one).shares_prefix(v6(other), prefix);
                assert_eq!(
                    shares,
                    prefix != 0 && prefix <= common,
                    "{one} and {other} in /{prefix}"
                );
            }
        }
        let v4 = |text: &str| V4::from(text.parse::<Ipv4Addr>().unwrap());
        for prefix in 0..=32 {
            let shares = v4("10.4.0.11").shares_prefix(v4("10.4.0.200"), prefix);
            assert_eq!(shares, (1..=24).contains(&prefix), "/{prefix}");
        }
    }

    #[test]
    fn wire_bytes_of_ipv6_keep_their_order() {
        let bytes = core::array::from_fn(|index| u8::try_from(index).unwrap() + 1);
        assert_eq!(V6::from_wire(bytes).to_wire(), bytes);
        assert_eq!(V6::from_wire(bytes).words()[0].to_native(), 0x0102_0304);
    }
}
