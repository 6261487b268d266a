//! The Maglev table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4): a hash
//! table whose slots mostly stay where they are when a backend comes or goes.
//!
//! Every backend has its own order of preference over all slots, made from a hash of its address. Backends take turns; in its
//! turn a backend takes the free slot that it likes best. The paper leaves weights open. Here the k-th turn of a backend comes at
//! the time k / weight: shares are exact to one slot, equal weights are the paper's algorithm, and the order in which two backends
//! take turns does not depend on a third one.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{IpAddr, SocketAddr},
};

use lb_common::limits::MAX_SLOTS;

use super::{Candidate, common_divisor};
use crate::dataplane::BackendId;

/// Table sizes, all prime, so that every skip visits every slot. There are few of them on purpose: when the size changes, all
/// slots move.
///
/// The smallest is what a service of few backends needs: with 1,009 slots the loss of one of ten moves 3 % of what it should not.
const SIZES: [u32; 3] = [4_093, 16_381, MAX_SLOTS];

/// Slots per unit of weight. With 100, the paper's figure, shares differ by 1 % at most, but the loss of one backend moves up to
/// 2.7 % of the slots of others; with 200 it is 2 % at most for nearly all of them (2.2 % for one of 15 backends).
const SLOTS_PER_WEIGHT: u64 = 200;

/// The table size for a service with these backends: that for their number and for the sum of their weights after reduction.
///
/// It depends on the configuration only, not on health, and not on the ids.
pub(super) fn size(candidates: &[Candidate]) -> u32 {
    let divisor = common_divisor(candidates.iter().map(|candidate| candidate.weight));
    let total: u64 = candidates
        .iter()
        .map(|candidate| u64::from((candidate.weight / divisor).max(1)))
        .sum();
    SIZES
        .into_iter()
        .find(|size| u64::from(*size) >= total * SLOTS_PER_WEIGHT)
        .unwrap_or(MAX_SLOTS)
}

/// The order in which a backend likes the slots.
struct Preference {
    next: u32,
    skip: u32,
}

impl Preference {
    fn new(address: SocketAddr, size: u32) -> Self {
        Self {
            next: remainder(hash(address, 0), size),
            skip: remainder(hash(address, 1), size - 1) + 1,
        }
    }

    /// The next slot in the order of preference.
    const fn advance(&mut self, size: u32) -> usize {
        let slot = self.next;
        self.next = (slot + self.skip) % size;
        slot as usize
    }
}

/// A table of `size` slots over `takers`, which are sorted by address and have weights above 0; empty if there are none.
pub(super) fn table(takers: &[Candidate], size: u32) -> Vec<BackendId> {
    let mut preferences: Vec<Preference> = takers
        .iter()
        .map(|taker| Preference::new(taker.address, size))
        .collect();
    let mut slots: Vec<Option<BackendId>> = vec![None; size as usize];
    // Next turn of each backend: when, who, and the number of the turn. At equal times the lower address goes first.
    let mut turns: BinaryHeap<Reverse<(u64, usize, u64)>> =
        (0..takers.len()).map(|taker| Reverse((0, taker, 0))).collect();
    for _ in 0..size {
        let Some(Reverse((_, taker, turn))) = turns.pop() else {
            break;
        };
        let Candidate { id, weight, .. } = takers[taker];
        // Ends: the size is prime, so the preference visits every slot, and one is free in each of the `size` turns.
        let mut slot = preferences[taker].advance(size);
        while slots[slot].is_some() {
            slot = preferences[taker].advance(size);
        }
        slots[slot] = Some(id);
        // Fixed point, 32 bits behind the point: turns stay below 2^17, so nothing overflows.
        turns.push(Reverse((((turn + 1) << 32) / u64::from(weight), taker, turn + 1)));
    }
    slots.into_iter().flatten().collect()
}

/// A hash of a backend's identity that is the same on every machine and for every build: the words of address and port, mixed with
/// the finalizer of MurmurHash3 after each.
fn hash(address: SocketAddr, seed: u64) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the address")]
    let halves = [(ip >> 64) as u64, ip as u64];
    let hash = halves.into_iter().fold(mix(seed + 1), |hash, half| mix(hash ^ half));
    mix(hash ^ u64::from(address.port()))
}

const fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

fn remainder(hash: u64, divisor: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "below a divisor of 32 bits")]
    {
        (hash % u64::from(divisor)) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::tests::{candidates, counts},
        *,
    };

    #[test]
    fn sizes_are_prime_and_ascend() {
        assert!(SIZES.is_sorted());
        for size in SIZES {
            assert!((2..size).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
    }

    #[test]
    fn size_grows_with_backends_and_reduced_weights_and_ignores_health() {
        assert_eq!(size(&candidates(&[1; 20])), 4_093);
        assert_eq!(size(&candidates(&[100; 20])), 4_093);
        assert_eq!(size(&candidates(&[1; 21])), 16_381);
        assert_eq!(size(&candidates(&[100, 1])), MAX_SLOTS);
        assert_eq!(size(&candidates(&[1; 2000])), MAX_SLOTS);
        let mut one_down = candidates(&[1; 21]);
        one_down[0].ready = false;
        assert_eq!(size(&one_down), 16_381);
    }

    /// Balancers of different versions that share a VIP must agree: the table may not change with a release.
    #[test]
    fn table_is_the_same_in_every_release() {
        let takers = candidates(&[1, 2, 3]);
        let beginning: Vec<u32> = table(&takers, 1_009)[..24].iter().map(|id| id.0).collect();
        assert_eq!(
            beginning,
            [3, 2, 1, 3, 3, 3, 1, 3, 2, 2, 1, 3, 2, 3, 3, 1, 3, 2, 3, 2, 2, 3, 2, 3]
        );
    }

    #[test]
    fn families_and_ports_have_their_own_preferences() {
        let addresses = [
            "10.0.0.1:80",
            "10.0.0.1:81",
            "10.0.0.2:80",
            "[::10.0.0.3]:80",
            "[2001:db8::1]:80",
        ];
        let mut hashes: Vec<u64> = addresses
            .iter()
            .map(|address| hash(address.parse().unwrap(), 0))
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), addresses.len());
    }

    /// Share of slots that are not the same in both tables.
    fn moved(before: &[BackendId], after: &[BackendId]) -> f64 {
        let moved = before
            .iter()
            .zip(after)
            .filter(|(before, after)| before != after)
            .count();
        moved as f64 / before.len() as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn shares_are_within_three_percent_of_the_weights(weights in prop::collection::vec(1_u32..10, 1..60)) {
            let takers = candidates(&weights);
            let size = size(&takers);
            let slots = table(&takers, size);
            prop_assert_eq!(slots.len(), size as usize);
            let total: u32 = weights.iter().sum();
            let counts = counts(&slots);
            for taker in &takers {
                let quota = f64::from(size) * f64::from(taker.weight) / f64::from(total);
                let share = f64::from(counts[&taker.id]);
                prop_assert!((share / quota - 1.0).abs() < 0.03, "{:?} has {}, quota {}", taker, share, quota);
            }
        }

        #[test]
        fn losing_one_backend_moves_little_else(count in 2_usize..200, lost in any::<prop::sample::Index>()) {
            let takers = candidates(&vec![1; count]);
            let size = size(&takers);
            let mut left = takers.clone();
            left.remove(lost.index(count));
            let moved = moved(&table(&takers, size), &table(&left, size));
            prop_assert!(moved <= 1.0 / count as f64 + 0.03, "{} moved of {}", moved, count);
        }

        #[test]
        fn losing_one_weighted_backend_moves_little_else(
            weights in prop::collection::vec(1_u32..10, 2..60),
            lost in any::<prop::sample::Index>(),
        ) {
            let takers = candidates(&weights);
            let size = size(&takers);
            let mut left = takers.clone();
            let lost = left.remove(lost.index(weights.len()));
            let share = f64::from(lost.weight) / f64::from(weights.iter().sum::<u32>());
            let moved = moved(&table(&takers, size), &table(&left, size));
            prop_assert!(moved <= share + 0.03, "{} moved, its share was {}", moved, share);
        }
    }
}
