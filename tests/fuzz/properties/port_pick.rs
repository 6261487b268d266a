//! The port that a random number picks against a list of all that may be picked.

use lb_common::settings::PortRange;

/// `data`: first and last port of the range and of what is excepted, and the random number, all big-endian.
pub(crate) fn check(data: &[u8]) {
    let &[a, b, c, d, e, f, g, h, i, j, k, l] = data else {
        return;
    };
    let range = |first, last| PortRange {
        first: u16::from_be_bytes(first),
        last: u16::from_be_bytes(last),
    };
    let (range, except) = (range([a, b], [c, d]), range([e, f], [g, h]));
    let random = u32::from_be_bytes([i, j, k, l]);

    let excepted = |port: &u16| except.first <= *port && *port <= except.last;
    let left: Vec<u16> = (range.first..=range.last).filter(|port| !excepted(port)).collect();
    let expected = match left.len() {
        0 => None,
        count => left.get(random as usize % count).copied(),
    };
    assert_eq!(
        range.pick(random, except),
        expected,
        "{range:?} except {except:?} by {random}"
    );
    assert_eq!(range.len() as usize, (range.first..=range.last).count());
}
