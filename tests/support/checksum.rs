//! The Internet checksum by its definition (RFC 1071), recomputed in full each time.
//!
//! Deliberately nothing but the definition: the product updates checksums incrementally, and this is what it is held against.

use std::net::IpAddr;

/// A one's complement sum that is still being added to. Every part but the last must have an even number of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes as big-endian 16-bit words, an odd one at the end padded with zero.
    #[must_use]
    pub fn plus(self, bytes: &[u8]) -> Self {
        let words = bytes.chunks(2).map(|pair| {
            let low = pair.get(1).copied().unwrap_or(0);
            u64::from(u16::from_be_bytes([pair[0], low]))
        });
        Self(self.0 + words.sum::<u64>())
    }

    /// Adds the pseudo header of TCP and UDP over IPv4 (RFC 9293, section 3.1; RFC 768), and of anything over IPv6 (RFC 8200,
    /// section 8.1). They differ in the size of their fields and the order of length and protocol, which no sum of words shows.
    #[must_use]
    pub fn plus_pseudo_header(self, source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Self {
        self.plus_address(source)
            .plus_address(destination)
            .plus(&length.to_be_bytes())
            .plus(&[0, protocol])
    }

    fn plus_address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.plus(&address.octets()),
            IpAddr::V6(address) => self.plus(&address.octets()),
        }
    }

    /// The sum folded to 16 bits, not complemented. It is 0xffff over data that holds its own right checksum.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "folded until nothing is left above 16 bits"
    )]
    pub const fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum: the complement of the folded sum.
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of RFC 1071, section 3.
    #[test]
    fn sum_of_the_rfc_example_is_ddf2() {
        let sum = Sum::default().plus(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.checksum(), 0x220d);
    }

    #[test]
    fn odd_byte_counts_as_the_high_half_of_a_word() {
        assert_eq!(Sum::default().plus(&[0x12, 0x34, 0x56]).folded(), 0x1234 + 0x5600);
    }
}
