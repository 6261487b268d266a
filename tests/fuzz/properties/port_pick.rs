//! The port that a random number picks against a list of all that may be picked.

use lb_common::settings::{PortPool, PortRange};

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
    let pool = PortPool::new(range, except);
    let told = format!("{range:?} except {except:?}");
    assert_eq!(pool.is_empty(), left.is_empty(), "{told}");
    let contained = (0..=u16::MAX).filter(|port| pool.contains(*port));
    assert!(contained.eq(left.iter().copied()), "{told}");
    if !left.is_empty() {
        assert_eq!(
            pool.pick(random),
            left[random as usize % left.len()],
            "{told} by {random}"
        );
    }
    assert_eq!(range.len() as usize, (range.first..=range.last).count());
}
