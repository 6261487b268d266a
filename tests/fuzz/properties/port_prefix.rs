//! Prefixes of a port range against the range itself.

use lb_common::port_prefix::prefixes;

/// `data`: the first and the last port, in big-endian order.
pub(crate) fn check(data: &[u8]) {
    let &[a, b, c, d] = data else { return };
    let (first, last) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let mut next = u32::from(first);
    let mut count = 0;
    let mut before = None;
    for (start, bits) in prefixes(first, last) {
        assert!(bits <= 16, "{bits} bits of a port");
        let ports = 1 << (16 - bits);
        assert_eq!(u32::from(start), next, "prefixes are adjacent and ascend");
        assert_eq!(u32::from(start) % ports, 0, "{start} begins no prefix of {bits} bits");
        let mergeable = before == Some(bits) && (u32::from(start) - ports) % (2 * ports) == 0;
        assert!(!mergeable, "{start} and the prefix before are one");
        before = Some(bits);
        next += ports;
        count += 1;
    }
    if first <= last {
        assert_eq!(next, u32::from(last) + 1, "{first}-{last} is covered to its end");
        // The capacity of the map counts on it.
        assert!(count <= 30, "{first}-{last} takes {count} prefixes");
    } else {
        assert_eq!(count, 0, "{first}-{last} has no port");
    }
}
