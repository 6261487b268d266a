//! The hashes by which a scheduler picks a slot.

use crate::{Address, flow::FlowKey};

/// Mixes 32 bits into each other: the finalizer of MurmurHash3, which passes every bit into every other.
#[inline(always)]
const fn mix(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// Hash of a client's address, for `source_hash`.
///
/// The result is the same on every machine of one byte order with the same `seed`, so that balancers which share a VIP agree.
#[inline(always)]
pub fn source_hash<A: Address>(address: A, seed: u32) -> u32 {
    mix(address.fold() ^ seed)
}

/// Hash of a five-tuple, for `maglev`.
#[inline(always)]
pub fn flow_hash<A: Address>(key: &FlowKey<A>, seed: u32) -> u32 {
    let ports = (key.source_port.image() as u32) << 16 | key.destination_port.image() as u32;
    let hash = source_hash(key.source, seed);
    let hash = mix(hash ^ ports).wrapping_add(0x9e37_79b9);
    mix(hash ^ key.destination.fold().rotate_left(11) ^ key.protocol as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address::V4, byte_order::Be16, flow::protocol};

    /// Neighbouring addresses and ports, as real clients have them, fill the slots of a table evenly: Pearson's chi-squared with
    /// 250 degrees of freedom stays below its 99.99 % point, 339.
    #[test]
    fn neighbouring_clients_spread_evenly_over_slots() {
        const SLOTS: usize = 251;
        let mut flows = [0_u32; SLOTS];
        let mut sources = [0_u32; SLOTS];
        for client in 0..4_000_u32 {
            let address = V4::new(0x0a00_0000 + client);
            sources[source_hash(address, 0) as usize % SLOTS] += 10;
            for port in 0..10 {
                let key = FlowKey::new(
                    (address, Be16::new(40_000 + port)),
                    (V4::new(0xcb00_710a), Be16::new(80)),
                    protocol::TCP,
                );
                flows[flow_hash(&key, 0) as usize % SLOTS] += 1;
            }
        }
        let expected = 40_000.0 / SLOTS as f64;
        let chi = |counts: [u32; SLOTS]| -> f64 {
            counts
                .iter()
                .map(|n| (f64::from(*n) - expected).powi(2) / expected)
                .sum()
        };
        assert!(chi(flows) < 339.0, "five-tuples: {}", chi(flows));
        assert!(chi(sources) / 10.0 < 339.0, "sources: {}", chi(sources) / 10.0);
    }

    #[test]
    fn seed_changes_the_choice() {
        let address = V4::new(0x0a00_0001);
        assert_ne!(source_hash(address, 1), source_hash(address, 2));
    }
}
