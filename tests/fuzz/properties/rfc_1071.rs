//! The Internet checksum's sum as RFC 1071 defines it, slowly: the oracle of what is fast.

/// The one's-complement sum of `bytes` in big-endian words, an odd last byte padded with a zero.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
