//! The smooth weighted sequence: over one cycle everybody has exactly as many slots as its weight says, and those of one backend
//! lie as far apart as they can.

use lb_common::limits::MAX_SLOTS;

use super::{Candidate, common_divisor};
use crate::dataplane::BackendId;

/// One cycle over `takers`, which are sorted by address and have weights above 0.
///
/// Weights are reduced by their common divisor first. If their sum is still above [`MAX_SLOTS`], they are scaled down to it.
pub(super) fn sequence(takers: &[Candidate]) -> Vec<BackendId> {
    let divisor = common_divisor(takers.iter().map(|taker| taker.weight));
    let weights: Vec<u32> = takers.iter().map(|taker| taker.weight / divisor).collect();
    interleave(&fit(weights, MAX_SLOTS))
        .into_iter()
        .map(|taker| takers[taker].id)
        .collect()
}

/// Scales weights so that their sum is at most `limit`: by largest remainder, but everybody keeps at least 1.
fn fit(weights: Vec<u32>, limit: u32) -> Vec<u32> {
    let mut total: u64 = weights.iter().copied().map(u64::from).sum();
    let mut left = u64::from(limit);
    if total <= left {
        return weights;
    }
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|index| weights[*index]);
    let mut scaled = vec![1; weights.len()];

    // Who would get less than one slot gets one; the others share what is left. In ascending order one pass finds them all.
    let small = order
        .iter()
        .take_while(|index| {
            let weight = u64::from(weights[**index]);
            let is_small = weight * left < total;
            if is_small {
                left = left.saturating_sub(1);
                total -= weight;
            }
            is_small
        })
        .count();
    let rest = &mut order[small..];

    let quota = |index: usize| u64::from(weights[index]) * left;
    let mut given = 0;
    for &index in rest.iter() {
        let share = quota(index) / total;
        scaled[index] = u32::try_from(share).unwrap_or(limit);
        given += share;
    }
    // The sort is stable, so equal remainders go by weight, then by address.
    rest.sort_by_key(|index| std::cmp::Reverse(quota(*index) % total));
    let missing = usize::try_from(left - given).unwrap_or(usize::MAX);
    for &mut index in rest.iter_mut().take(missing) {
        scaled[index] += 1;
    }
    scaled
}

/// Backends of one weight. In nginx's algorithm their values grow in step and each one picked falls behind the others, so they
/// take turns, and only the value of the one whose turn it is has to be known.
struct Group {
    weight: i64,
    /// Indices of the weights, ascending.
    members: Vec<usize>,
    /// Whose turn it is, as an index into `members`.
    turn: usize,
    /// Current value of that member and of those behind it.
    value: i64,
}

/// The sequence of nginx's smooth weighted round robin as indices of `weights`: in each step everybody's value grows by its weight,
/// the first one with the greatest value is picked, and its value falls by the sum of all weights.
///
/// Going by groups makes a step cost the number of different weights, which is below 362 in any table that fits, instead of the
/// number of backends.
fn interleave(weights: &[u32]) -> Vec<usize> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, weight) in weights.iter().enumerate() {
        let weight = i64::from(*weight);
        match groups.iter_mut().find(|group| group.weight == weight) {
            Some(group) => group.members.push(index),
            None => groups.push(Group {
                weight,
                members: vec![index],
                turn: 0,
                value: 0,
            }),
        }
    }
    let total: u32 = weights.iter().sum();
    (0..total).filter_map(|_| step(&mut groups, i64::from(total))).collect()
}

fn step(groups: &mut [Group], total: i64) -> Option<usize> {
    for group in groups.iter_mut() {
        group.value += group.weight;
    }
    let group = groups
        .iter_mut()
        .max_by_key(|group| (group.value, std::cmp::Reverse(group.members[group.turn])))?;
    let picked = group.members[group.turn];
    group.turn += 1;
    if group.turn == group.members.len() {
        group.turn = 0;
        group.value -= total;
    }
    Some(picked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::tests::{candidates, counts},
        *,
    };

    /// nginx's algorithm as its source has it, one value per peer.
    fn nginx(weights: &[u32]) -> Vec<usize> {
        let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        let mut values = vec![0_i64; weights.len()];
        (0..total)
            .map(|_| {
                let mut best = 0;
                for index in 0..values.len() {
                    values[index] += i64::from(weights[index]);
                    if values[index] > values[best] {
                        best = index;
                    }
                }
                values[best] -= total;
                best
            })
            .collect()
    }

    /// The example of nginx's commit 52327e0627f4.
    #[test]
    fn five_one_one_is_interleaved_as_nginx_documents_it() {
        assert_eq!(interleave(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn weights_are_reduced_to_the_shortest_cycle() {
        let slots = sequence(&candidates(&[300, 100, 200]));
        assert_eq!(slots.len(), 6);
    }

    #[test]
    fn weights_beyond_the_table_are_scaled_and_nobody_is_lost() {
        let mut weights = vec![65_535; 50];
        weights.extend([1, 2, 3]);
        let slots = sequence(&candidates(&weights));
        assert_eq!(slots.len(), MAX_SLOTS as usize);
        let counts = counts(&slots);
        for id in 1..=50 {
            assert!((1310..=1311).contains(&counts[&BackendId(id)]), "backend {id}");
        }
        for id in 51..=53 {
            assert_eq!(counts[&BackendId(id)], 1, "backend {id}");
        }
    }

    #[test]
    fn a_table_full_of_backends_is_one_slot_each() {
        let weights: Vec<u32> = (0..MAX_SLOTS - 1).map(|index| 1 + index % 2).collect();
        let scaled = fit(weights, MAX_SLOTS);
        assert_eq!(scaled.iter().sum::<u32>(), MAX_SLOTS);
        assert_eq!(
            scaled.iter().filter(|weight| **weight == 1).count(),
            MAX_SLOTS as usize - 2
        );
    }

    proptest! {
        #[test]
        fn groups_give_nginx_its_sequence(weights in prop::collection::vec(1_u32..9, 1..20)) {
            prop_assert_eq!(interleave(&weights), nginx(&weights));
        }

        #[test]
        fn a_cycle_respects_weights_exactly(weights in prop::collection::vec(1_u32..200, 1..20)) {
            let takers = candidates(&weights);
            let slots = sequence(&takers);
            let counts = counts(&slots);
            let total: u32 = weights.iter().sum();
            for taker in &takers {
                prop_assert_eq!(
                    u64::from(counts[&taker.id]) * u64::from(total),
                    u64::from(taker.weight) * slots.len() as u64
                );
            }
        }

        #[test]
        fn scaled_weights_fill_the_limit_and_stay_within_one_of_their_quota(
            weights in prop::collection::vec(500_u32..65_535, 2..100)
        ) {
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            let limit = 1000;
            let scaled = fit(weights.clone(), limit);
            prop_assert!(scaled.iter().all(|weight| *weight >= 1));
            if total > u64::from(limit) {
                prop_assert_eq!(scaled.iter().sum::<u32>(), limit);
            }
            // Up to 100 backends of at least 500/65535 of the greatest: minima taken out shift the others by little.
            for (before, after) in weights.iter().zip(&scaled) {
                let quota = f64::from(*before) * f64::from(limit) / total as f64;
                prop_assert!((f64::from(*after) - quota).abs() < 1.5, "weight {} got {}, quota {}", before, after, quota);
            }
        }
    }
}
