//! What the whole program obeys.

/// The one element of the settings map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// [`crate::LAYOUT_VERSION`] of the agent that made the maps.
    pub layout: u32,
    /// Seed of the schedulers' hash. The same on all balancers that share a VIP.
    pub hash_seed: u32,
    /// Half-open connections beyond which new ones are refused.
    pub half_open_max: u32,
    /// Number of IPv4 addresses in the `snat` pool; 0: each backend's own source address.
    pub snat_addresses_v4: u32,
    /// Number of IPv6 addresses in the `snat` pool; 0: each backend's own source address.
    pub snat_addresses_v6: u32,
    /// Number of port prefixes in the maps of port ranges; 0 spares the program the second lookup.
    pub port_prefixes: u32,
    /// Ports for translated sources.
    pub snat_ports: PortRange,
    /// Ports that translated sources must leave to this host's own sockets; empty when `first` is above `last`.
    pub host_ports: PortRange,
}

const _: () = assert!(size_of::<Settings>() == 32);

/// Ports `first..=last`, in the machine's byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// No port at all.
    pub const EMPTY: Self = Self { first: 1, last: 0 };

    /// Whether `port` lies in the range.
    #[inline(always)]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Number of ports.
    #[inline(always)]
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty range is a range like any other here"
    )]
    pub const fn len(self) -> u32 {
        if self.first > self.last {
            0
        } else {
            (self.last - self.first) as u32 + 1
        }
    }
}

/// The ports of one range that are not part of another, ready to be drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortPool {
    first: u32,
    count: u32,
    /// The first port behind which the excepted ones are left out, and their number.
    gap_at: u32,
    gap: u32,
}

impl PortPool {
    /// The ports of `range` that are not part of `except`.
    #[inline(always)]
    pub const fn new(range: PortRange, except: PortRange) -> Self {
        // The part of `except` that lies inside.
        let low = if except.first > range.first {
            except.first
        } else {
            range.first
        };
        let high = if except.last < range.last {
            except.last
        } else {
            range.last
        };
        let gap = PortRange { first: low, last: high }.len();
        Self {
            first: range.first as u32,
            count: range.len() - gap,
            gap_at: low as u32,
            gap,
        }
    }

    /// Whether there is none.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `port` can be drawn.
    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        let port = port as u32;
        let in_range = self.first <= port && port < self.first + self.count + self.gap;
        in_range && !(self.gap_at <= port && port < self.gap_at + self.gap)
    }

    /// The port that a number stands for; numbers that differ by less than the number of ports stand for different ones. Without any
    /// port the result means nothing.
    ///
    /// The excepted ports are counted out rather than drawn again, so that one draw is one port.
    #[inline(always)]
    pub const fn pick(&self, number: u32) -> u16 {
        let port = self.first + if self.count == 0 { 0 } else { number % self.count };
        let beyond = (port >= self.gap_at) as u32;
        #[expect(clippy::cast_possible_truncation, reason = "at most the last port, which is 16 bits")]
        {
            (port + beyond * self.gap) as u16
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` without gaps, every bit pattern is a value.
unsafe impl aya::Pod for Settings {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all(range: PortRange, except: PortRange) -> BTreeSet<u16> {
        let pool = PortPool::new(range, except);
        if pool.is_empty() {
            return BTreeSet::new();
        }
        (0..200_000).map(|random| pool.pick(random)).collect()
    }

    #[test]
    fn every_port_but_the_excepted_ones_can_be_drawn() {
        let range = |first, last| PortRange { first, last };
        for except in [
            PortRange::EMPTY,
            range(1, 9),
            range(8, 12),
            range(12, 14),
            range(18, 30),
            range(30, 40),
            range(1, 40),
        ] {
            let expected: BTreeSet<u16> = (10..=20).filter(|port| !except.contains(*port)).collect();
            assert_eq!(all(range(10, 20), except), expected, "except {except:?}");
            let pool = PortPool::new(range(10, 20), except);
            let contained: BTreeSet<u16> = (0..=u16::MAX).filter(|port| pool.contains(*port)).collect();
            assert_eq!(contained, expected, "except {except:?}");
        }
        assert_eq!(all(range(0, 65_535), PortRange::EMPTY).len(), 65_536);
    }
}
