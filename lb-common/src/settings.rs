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

    /// A port of the range chosen by a random number, not part of `except`; `None` when nothing is left.
    ///
    /// The ports of `except` are counted out rather than drawn again, so that one draw is one port.
    #[inline(always)]
    pub const fn pick(self, random: u32, except: Self) -> Option<u16> {
        // The part of `except` that lies inside.
        let low = if except.first > self.first {
            except.first
        } else {
            self.first
        };
        let high = if except.last < self.last {
            except.last
        } else {
            self.last
        };
        let cut = if low > high { 0 } else { (high - low) as u32 + 1 };
        let count = self.len() - cut;
        if count == 0 {
            return None;
        }
        let mut port = self.first as u32 + random % count;
        if cut != 0 && port >= low as u32 {
            port += cut;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most `last`, which is 16 bits")]
        {
            Some(port as u16)
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
        (0..200_000).filter_map(|random| range.pick(random, except)).collect()
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
        }
        assert_eq!(all(range(0, 65_535), PortRange::EMPTY).len(), 65_536);
    }
}
