//! Listeners as the maps have them: every range of ports is cut into blocks that one entry can name.

#![forbid(unsafe_code)]

use std::{fmt, net::IpAddr};

use lb_common::port_prefix::prefixes;

use crate::model::{Listener, Ports, Protocol};

/// Bits of a port number.
const PORT_BITS: u8 = 16;

/// One entry of the listener maps: the ports of a VIP that begin with the same bits.
///
/// A block of one port stands in the hash map, a larger one in the trie of port ranges. Of two that contain a port the smaller one
/// counts. The order is that of addresses, then ports; a block comes before those inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerEntry {
    /// The VIP.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// The lowest port.
    pub port: u16,
    /// How many leading bits of a port must be those of `port`, from 0, any port, to 16, this port alone.
    pub bits: u8,
}

impl ListenerEntry {
    /// One port.
    pub const fn single(address: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self {
            address,
            protocol,
            port,
            bits: PORT_BITS,
        }
    }

    /// The entries that a listener is made of, in ascending order: one for a port, one for any port, 30 at most for a range.
    pub fn of(listener: &Listener) -> impl Iterator<Item = Self> + use<> {
        let Listener {
            address,
            ports,
            protocol,
        } = *listener;
        // No packet is for port 0, so it may be part of what any port is.
        let first = if ports == Ports::ANY { 0 } else { ports.first };
        prefixes(first, ports.last).filter_map(move |(port, bits)| {
            Some(Self {
                address,
                protocol,
                port,
                bits: u8::try_from(bits).ok()?,
            })
        })
    }

    /// Whether it stands in the trie of port ranges.
    pub const fn is_range(&self) -> bool {
        self.bits < PORT_BITS
    }

    /// The highest port.
    pub const fn last(&self) -> u16 {
        // What the bits leave open.
        let rest = if self.bits >= PORT_BITS {
            0
        } else {
            u16::MAX >> self.bits
        };
        self.port | rest
    }

    /// The blocks that it lies in, from the next larger one up to that of all ports.
    pub fn containing(self) -> impl Iterator<Item = Self> {
        (0..self.bits).rev().map(move |bits| Self {
            port: if bits == 0 { 0 } else { self.port & !(u16::MAX >> bits) },
            bits,
            ..self
        })
    }
}

impl fmt::Display for ListenerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = if self.bits == 0 {
            Ports::ANY
        } else {
            Ports {
                first: self.port,
                last: self.last(),
            }
        };
        let listener = Listener {
            address: self.address,
            ports,
            protocol: self.protocol,
        };
        listener.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(first: u16, last: u16) -> Vec<ListenerEntry> {
        ListenerEntry::of(&Listener {
            address: [203, 0, 113, 10].into(),
            ports: Ports { first, last },
            protocol: Protocol::Udp,
        })
        .collect()
    }

    fn shown(first: u16, last: u16) -> Vec<String> {
        entries(first, last).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn listeners_are_made_of_aligned_blocks() {
        assert_eq!(shown(80, 80), ["udp 203.0.113.10:80"]);
        assert_eq!(
            shown(8000, 8100),
            [
                "udp 203.0.113.10:8000-8063",
                "udp 203.0.113.10:8064-8095",
                "udp 203.0.113.10:8096-8099",
                "udp 203.0.113.10:8100",
            ]
        );
        assert_eq!(shown(1, 65_535), ["udp 203.0.113.10:*"]);
        assert_eq!(shown(1, 65_534).len(), 30);
    }

    #[test]
    fn blocks_of_one_port_are_no_ranges() {
        let ranges: Vec<bool> = entries(8000, 8100).iter().map(ListenerEntry::is_range).collect();
        assert_eq!(ranges, [true, true, true, false]);
    }

    #[test]
    fn a_block_lies_in_all_larger_ones_around_it() {
        let port = entries(8100, 8100)[0];
        let around: Vec<(u16, u16)> = port.containing().map(|block| (block.port, block.last())).collect();
        assert_eq!(around.len(), 16);
        assert_eq!(around[..3], [(8100, 8101), (8100, 8103), (8096, 8103)]);
        assert_eq!(around[15], (0, 65_535));
        for (first, last) in around {
            assert!((first..=last).contains(&8100));
        }
    }
}
