//! Slot tables: what the program indexes when it gives a new connection a backend.
//!
//! A table is a pure function of the backends: the order in which they are given does not matter, and neither do their ids. So it
//! survives a restart unchanged, and balancers that share a VIP and a configuration fill equal tables.

#![forbid(unsafe_code)]

mod maglev;
mod weighted;

use std::net::SocketAddr;

use lb_common::limits::{MAX_BACKENDS, MAX_SLOTS};

use crate::{dataplane::BackendId, model::Scheduler};

// Every backend of a service can have a slot.
const _: () = assert!(MAX_BACKENDS <= MAX_SLOTS);

/// A backend of the service whose slots are to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What stands in its slots.
    pub id: BackendId,
    /// Its identity: where its slots lie follows from the address, never from the id.
    pub address: SocketAddr,
    /// Its share of the slots relative to the others; 0 gives none.
    pub weight: u32,
    /// Whether it takes new connections now. The size of a Maglev table follows from all candidates, so that one which comes and
    /// goes with its health does not move the slots of the others.
    pub ready: bool,
}

impl Candidate {
    const fn gets_slots(&self) -> bool {
        self.ready && self.weight > 0
    }
}

/// The slots of a service: at most [`MAX_SLOTS`] ids, empty when no candidate is ready with a weight above 0.
pub fn slots(scheduler: Scheduler, candidates: &[Candidate]) -> Vec<BackendId> {
    let mut takers: Vec<Candidate> = candidates.iter().copied().filter(Candidate::gets_slots).collect();
    takers.sort_unstable_by_key(|taker| taker.address);
    match scheduler {
        Scheduler::RoundRobin | Scheduler::Random => weighted::sequence(&takers),
        Scheduler::SourceHash | Scheduler::Maglev => maglev::table(&takers, maglev::size(candidates)),
    }
}

/// The greatest number that divides all weights, zeros left out; 1 when there is none.
fn common_divisor(weights: impl Iterator<Item = u32>) -> u32 {
    let divisor = weights.fold(0, |mut a, mut b| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    divisor.max(1)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    const SCHEDULERS: [Scheduler; 4] = [
        Scheduler::RoundRobin,
        Scheduler::Random,
        Scheduler::SourceHash,
        Scheduler::Maglev,
    ];

    /// Backends 10.0.x.y:8080 with these weights, ids from 1.
    pub(super) fn candidates(weights: &[u32]) -> Vec<Candidate> {
        (1..)
            .zip(weights)
            .map(|(id, weight)| Candidate {
                id: BackendId(id),
                address: SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + id), 8080)),
                weight: *weight,
                ready: true,
            })
            .collect()
    }

    pub(super) fn counts(slots: &[BackendId]) -> HashMap<BackendId, u32> {
        let mut counts = HashMap::new();
        for id in slots {
            *counts.entry(*id).or_default() += 1;
        }
        counts
    }

    #[test]
    fn nobody_ready_leaves_no_slots() {
        for scheduler in SCHEDULERS {
            assert_eq!(slots(scheduler, &[]), []);
            assert_eq!(slots(scheduler, &candidates(&[0, 0])), []);
            let mut down = candidates(&[1, 5]);
            down.iter_mut().for_each(|candidate| candidate.ready = false);
            assert_eq!(slots(scheduler, &down), []);
        }
    }

    #[test]
    fn divisor_ignores_zeros() {
        assert_eq!(common_divisor([].into_iter()), 1);
        assert_eq!(common_divisor([0, 0].into_iter()), 1);
        assert_eq!(common_divisor([12, 0, 18].into_iter()), 6);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn order_of_candidates_does_not_matter(
            (given, shuffled) in prop::collection::vec(0_u32..20, 0..30).prop_flat_map(|weights| {
                let given = candidates(&weights);
                (Just(given.clone()), Just(given).prop_shuffle())
            })
        ) {
            for scheduler in SCHEDULERS {
                prop_assert_eq!(slots(scheduler, &given), slots(scheduler, &shuffled));
            }
        }

        #[test]
        fn renumbering_moves_no_slot(weights in prop::collection::vec(0_u32..20, 1..30)) {
            let given = candidates(&weights);
            let mut renumbered = given.clone();
            renumbered.iter_mut().for_each(|candidate| candidate.id.0 += 1000);
            for scheduler in SCHEDULERS {
                let moved: Vec<_> = slots(scheduler, &given).iter().map(|id| BackendId(id.0 + 1000)).collect();
                prop_assert_eq!(slots(scheduler, &renumbered), moved);
            }
        }

        #[test]
        fn exactly_those_ready_with_a_weight_have_slots(
            set in prop::collection::vec((0_u32..70_000, any::<bool>()), 0..30)
        ) {
            let mut given = candidates(&set.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
            for (candidate, (_, ready)) in given.iter_mut().zip(&set) {
                candidate.ready = *ready;
            }
            for scheduler in SCHEDULERS {
                let slots = slots(scheduler, &given);
                prop_assert!(slots.len() <= MAX_SLOTS as usize);
                let counts = counts(&slots);
                for candidate in &given {
                    prop_assert_eq!(counts.contains_key(&candidate.id), candidate.gets_slots(), "{:?}", candidate);
                }
            }
        }
    }
}
