//! The Internet checksum: sums, full checksums, incremental updates.
//!
//! Everything here works on the memory image of 16-bit words, never on swapped ones: the one's-complement sum is the same in either
//! byte order (RFC 1071, section 2 (B)), so a sum taken over memory is written back to memory as it is.
//!
//! An incremental update follows RFC 1624, equation 3, `HC' = ~(~HC + ~m + m')`. Equation 4 and RFC 1141 are not used: they can
//! produce the wrong one of the two zeros.

use crate::{Address, flow::FlowKey};

/// A running one's-complement sum, not yet folded.
///
/// 64 bits hold the sum of 2^32 words of 32 bits, so nothing that fits a packet can overflow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self(0);

    /// A sum as the kernel returns it from `bpf_csum_diff`: 32 bits, unfolded.
    #[inline(always)]
    pub const fn from_kernel(sum: u32) -> Self {
        Self(sum as u64)
    }

    /// Adds the memory image of a 16-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn add16(self, image: u16) -> Self {
        Self(self.0 + image as u64)
    }

    /// Adds the memory image of two adjacent 16-bit words.
    #[inline(always)]
    #[must_use]
    pub const fn add32(self, image: u32) -> Self {
        Self(self.0 + image as u64)
    }

    /// Adds another sum.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Takes out a 16-bit word that was part of the summed data (`~m` of RFC 1624).
    #[inline(always)]
    #[must_use]
    pub const fn sub16(self, image: u16) -> Self {
        self.add16(!image)
    }

    /// Takes out the words that were added to `other`.
    #[inline(always)]
    #[must_use]
    pub const fn sub(self, other: Self) -> Self {
        self.add16(!other.fold())
    }

    /// The sum as 16 bits, carries added back in. It is 0 only for a sum over nothing but zeros.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits in the lines above")]
        {
            sum as u16
        }
    }

    /// The checksum field for data with this sum: the complement of [`fold`](Self::fold).
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The sum of the bytes of one header or payload, an odd last byte padded with a zero behind it (RFC 1071, section 1).
#[inline]
pub fn sum_bytes(bytes: &[u8]) -> Sum {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum = words
        .iter()
        .fold(Sum::ZERO, |sum, word| sum.add16(u16::from_ne_bytes(*word)));
    match rest {
        [last] => sum.add16(u16::from_ne_bytes([*last, 0])),
        _ => sum,
    }
}

/// The sum of the pseudo header of TCP and UDP (RFC 9293, section 3.1; RFC 768; RFC 8200, section 8.1).
///
/// `length` is that of the L4 header and payload in bytes, in the machine's byte order.
#[inline(always)]
pub fn pseudo_header<A: Address>(key: &FlowKey<A>, length: u16) -> Sum {
    let sum = key.destination.add_to(key.source.add_to(Sum::ZERO));
    sum.add16((key.protocol as u16).to_be()).add16(length.to_be())
}

/// What changes in a checksum when a flow's tuple is rewritten: address words and port words apart, since only the addresses stand
/// in the pseudo header.
#[derive(Clone, Copy, Debug)]
pub struct TupleDelta {
    /// Difference of the two addresses, the part that a pseudo header shares.
    pub addresses: Sum,
    /// Difference of the two ports.
    pub ports: Sum,
}

impl TupleDelta {
    /// The difference between a packet with the tuple `from` and the same packet with the tuple `to`.
    #[inline(always)]
    pub fn between<A: Address>(from: &FlowKey<A>, to: &FlowKey<A>) -> Self {
        let addresses = |key: &FlowKey<A>| key.destination.add_to(key.source.add_to(Sum::ZERO));
        let ports = |key: &FlowKey<A>| {
            Sum::ZERO
                .add16(key.source_port.image())
                .add16(key.destination_port.image())
        };
        Self {
            addresses: addresses(to).sub(addresses(from)),
            ports: ports(to).sub(ports(from)),
        }
    }

    /// The difference for a checksum that covers addresses and ports: TCP's and UDP's.
    #[inline(always)]
    pub const fn all(&self) -> Sum {
        self.addresses.add(self.ports)
    }
}

/// Updates a checksum field for data that changed by `delta` (RFC 1624, equation 3). A wrong checksum stays wrong by the same
/// difference.
#[inline(always)]
pub const fn update(field: u16, delta: Sum) -> u16 {
    delta.sub16(field).checksum()
}

/// Updates the checksum field of UDP over IPv4, where 0 means "no checksum" and is kept, and where a computed 0 is sent as 0xffff
/// (RFC 768).
#[inline(always)]
pub const fn update_udp(field: u16, delta: Sum) -> u16 {
    if field == 0 {
        return 0;
    }
    udp_field(update(field, delta))
}

/// The UDP checksum field for a computed checksum: 0 is reserved for "none" and sent as 0xffff (RFC 768; RFC 8200, section 8.1).
#[inline(always)]
pub const fn udp_field(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether an L4 checksum field holds only the pseudo-header part of a checksum, as a sender leaves it that expects its network
/// card to finish the work (`CHECKSUM_PARTIAL` in `include/linux/skbuff.h`): the folded sum, not complemented.
///
/// A finished checksum looks like this once in 65,536 packets. Finishing such a packet anew yields the checksum it already has, if
/// that was right. If it was wrong, it is made right: one corrupted packet in 65,536, on virtual interfaces only, which is how often the
/// checksum itself misses a corruption.
#[inline(always)]
pub const fn is_partial(field: u16, pseudo_header: Sum) -> bool {
    field == pseudo_header.fold()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{address::V4, byte_order::Be16, flow::protocol};

    /// RFC 1071, section 3: the worked example.
    #[test]
    fn sum_matches_the_example_of_rfc_1071() {
        let sum = sum_bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold().to_be(), 0xddf2);
    }

    /// RFC 1624, section 4: the example on which RFC 1141 goes wrong. Header sum 0xDD2F, word 0x5555 becomes 0x3285, result 0x0000.
    #[test]
    fn update_matches_the_example_of_rfc_1624() {
        let delta = Sum::ZERO.add16(0x3285_u16.to_be()).sub16(0x5555_u16.to_be());
        assert_eq!(update(0xdd2f_u16.to_be(), delta), 0x0000);
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        assert_eq!(update_udp(0, Sum::ZERO.add16(0x1234)), 0);
    }

    #[test]
    fn computed_zero_is_sent_as_all_ones() {
        let delta = Sum::ZERO.add16(0x3285_u16.to_be()).sub16(0x5555_u16.to_be());
        assert_eq!(update_udp(0xdd2f_u16.to_be(), delta), 0xffff);
    }

    /// Written without any of the code above: big-endian words in a 32-bit accumulator, as RFC 1071 has it.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    fn key(bytes: &[u8; 12], protocol: u8) -> FlowKey<V4> {
        let word = |at: usize| V4::from_wire(bytes[at..at + 4].try_into().unwrap());
        let port = |at: usize| Be16::from_wire(bytes[at..at + 2].try_into().unwrap());
        FlowKey::new((word(0), port(8)), (word(4), port(10)), protocol)
    }

    /// Pseudo header, ports and payload of a packet with this tuple, as bytes.
    fn covered(tuple: &[u8; 12], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len() + 4).unwrap();
        let mut bytes = tuple[..8].to_vec();
        bytes.extend([0, protocol]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(&tuple[8..]);
        bytes.extend(payload);
        bytes
    }

    proptest! {
        #[test]
        fn incremental_update_equals_full_recomputation(
            from: [u8; 12],
            to: [u8; 12],
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let old = reference(&covered(&from, protocol::TCP, &payload));
            let new = reference(&covered(&to, protocol::TCP, &payload));
            let delta = TupleDelta::between(&key(&from, protocol::TCP), &key(&to, protocol::TCP));
            prop_assert_eq!(update(old.to_be(), delta.all()), new.to_be());
        }

        #[test]
        fn a_wrong_checksum_stays_wrong_by_the_same_amount(field: u16, error in 1_u16..0xffff, delta: u16) {
            let delta = Sum::ZERO.add16(delta);
            let right = Sum::ZERO.add16(!update(field, delta));
            let wrong = Sum::ZERO.add16(!update((Sum::ZERO.add16(field).add16(error)).fold(), delta));
            prop_assert_eq!(right.sub16(error).fold() % 0xffff, wrong.fold() % 0xffff);
        }

        #[test]
        fn pseudo_header_sum_equals_the_bytes_of_the_header(tuple: [u8; 12], length: u16) {
            let mut bytes = tuple[..8].to_vec();
            bytes.extend([0, protocol::UDP]);
            bytes.extend(length.to_be_bytes());
            let sum = pseudo_header(&key(&tuple, protocol::UDP), length);
            prop_assert_eq!(sum.checksum(), reference(&bytes).to_be());
        }

        #[test]
        fn sum_of_bytes_equals_the_reference(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(sum_bytes(&bytes).checksum(), reference(&bytes).to_be());
        }

        #[test]
        fn fold_is_zero_only_for_nothing_but_zeros(words in prop::collection::vec(1_u32.., 1..50)) {
            let sum = words.iter().fold(Sum::ZERO, |sum, word| sum.add32(*word));
            prop_assert_ne!(sum.fold(), 0);
        }
    }
}
