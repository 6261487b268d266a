//! Port ranges as prefixes, so that one longest-prefix lookup finds the range that a port lies in.
//!
//! A range of ports becomes at most 30 prefixes of the 16 bits of a port number, any port becomes one prefix of no bits.

use crate::{
    address::{V4, V6},
    byte_order::Be16,
};

/// The data of a key in the maps of port ranges: what comes first is compared first. The prefix length covers address and protocol
/// whole, see [`PortPrefix::bits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortPrefix<A> {
    /// The VIP.
    pub address: A,
    protocol: u8,
    padding: u8,
    /// The port, or the first one of those with this prefix.
    pub port: Be16,
}

const _: () = assert!(size_of::<PortPrefix<V4>>() == 8);
const _: () = assert!(size_of::<PortPrefix<V6>>() == 20);

impl<A> PortPrefix<A> {
    /// A port, or the first of a prefix, of `protocol` on `address`.
    #[inline(always)]
    pub const fn new(address: A, protocol: u8, port: Be16) -> Self {
        Self {
            address,
            protocol,
            padding: 0,
            port,
        }
    }

    /// [`crate::flow::protocol`] number.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Prefix length of a key of which `port_bits` of the port count, at most 16.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "18 bytes at most")]
    pub const fn bits(port_bits: u32) -> u32 {
        (size_of::<A>() as u32 + 2) * 8 + port_bits
    }
}

/// The prefixes that make up the ports `first..=last`, in ascending order: each as its first port and the number of bits that count.
pub fn prefixes(first: u16, last: u16) -> impl Iterator<Item = (u16, u32)> {
    let mut next = Some(u32::from(first));
    core::iter::from_fn(move || {
        let start = next.filter(|start| *start <= u32::from(last))?;
        // As many ports as the alignment of the first allows, halved until they fit.
        let mut bits = 16 - start.trailing_zeros().min(16);
        while start + (0x1_0000 >> bits) - 1 > u32::from(last) {
            bits += 1;
        }
        next = Some(start + (0x1_0000 >> bits));
        Some((u16::try_from(start).ok()?, bits))
    })
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]`, padding is a field, every bit pattern is a value.
unsafe impl aya::Pod for PortPrefix<V4> {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for PortPrefix<V6> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aligned_ranges_are_one_prefix() {
        let all = |first, last| prefixes(first, last).collect::<Vec<_>>();
        assert_eq!(all(0, 65_535), [(0, 0)]);
        assert_eq!(all(8192, 16_383), [(8192, 3)]);
        assert_eq!(all(80, 80), [(80, 16)]);
        assert_eq!(all(1, 2), [(1, 16), (2, 16)]);
        assert_eq!(all(65_535, 65_535), [(65_535, 16)]);
        assert_eq!(all(1, 65_534).len(), 30);
    }

    proptest! {
        #[test]
        fn prefixes_cover_the_range_once_and_nothing_else(one: u16, other: u16) {
            let (first, last) = (one.min(other), one.max(other));
            let mut expected = u32::from(first);
            for (start, bits) in prefixes(first, last) {
                let ports = 0x1_0000_u32 >> bits;
                prop_assert_eq!(u32::from(start), expected);
                prop_assert_eq!(u32::from(start) % ports, 0);
                expected += ports;
            }
            prop_assert_eq!(expected, u32::from(last) + 1);
        }
    }
}
