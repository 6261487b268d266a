//! Fragments that wait, and when each is looked at again: pure, so that it is tested without time passing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::dataplane::aya::PacketId;

/// The first fragment is a few milliseconds away, or lost: how long after its arrival a fragment is first looked at. Each time the
/// pause doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// How long a fragment waits at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Fragments that may wait: 2 MiB of them.
const MAX_WAITING: usize = 1024;

/// A fragment that came before the first one of its packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Index of the interface it came in on.
    pub(super) ifindex: u32,
    /// The frame, from its Ethernet header on.
    pub(super) frame: Vec<u8>,
    /// The packet it is a part of.
    pub(super) packet: PacketId,
}

/// What is to be done with a fragment that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Ask for the note of its first fragment once more.
    MayCome,
    /// Its first fragment did not come.
    InVain,
}

struct Waiter {
    fragment: Fragment,
    until: Instant,
    pause: Duration,
}

/// The fragments that wait, by the moment at which each is looked at next.
#[derive(Default)]
pub(super) struct Waiting {
    waiters: BTreeMap<(Instant, u64), Waiter>,
    arrivals: u64,
}

impl Waiting {
    /// Lets a fragment wait; `false` if there is no room.
    pub(super) fn admit(&mut self, fragment: Fragment, now: Instant) -> bool {
        if self.waiters.len() >= MAX_WAITING {
            return false;
        }
        self.insert(
            now,
            Waiter {
                fragment,
                until: now + PATIENCE,
                pause: FIRST_PAUSE,
            },
        );
        true
    }

    fn insert(&mut self, now: Instant, waiter: Waiter) {
        // Of those that are due at the same moment, the one that came first goes first.
        self.arrivals += 1;
        self.waiters
            .insert(((now + waiter.pause).min(waiter.until), self.arrivals), waiter);
    }

    /// When the next fragment is to be looked at; `None` while none waits.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiters.first_key_value().map(|((due, _), _)| *due)
    }

    /// Looks at the fragments that are due. `release` says whether it let a fragment go; one that it did not waits on, unless it
    /// waited in vain.
    pub(super) fn look(&mut self, now: Instant, mut release: impl FnMut(&Fragment, Outlook) -> bool) {
        while let Some(entry) = self.waiters.first_entry().filter(|entry| entry.key().0 <= now) {
            let mut waiter = entry.remove();
            let outlook = if now < waiter.until {
                Outlook::MayCome
            } else {
                Outlook::InVain
            };
            if !release(&waiter.fragment, outlook) && outlook == Outlook::MayCome {
                waiter.pause *= 2;
                self.insert(now, waiter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(ifindex: u32) -> Fragment {
        Fragment {
            ifindex,
            frame: Vec::new(),
            packet: PacketId {
                source: "198.51.100.7".parse().unwrap(),
                destination: "203.0.113.10".parse().unwrap(),
                id: 1,
                protocol: 17,
            },
        }
    }

    /// The milliseconds at which a fragment that came at 0 is looked at until it is let go, which happens from `note` on.
    fn looks(note: u64) -> Vec<(u128, Outlook)> {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        assert!(waiting.admit(fragment(1), start));
        let mut looks = Vec::new();
        while let Some(due) = waiting.next() {
            waiting.look(due, |_, outlook| {
                let at = due.duration_since(start);
                looks.push((at.as_millis(), outlook));
                at >= Duration::from_millis(note)
            });
        }
        looks
    }

    #[test]
    fn pauses_double_until_the_note_is_there() {
        use Outlook::MayCome;
        assert_eq!(looks(0), [(1, MayCome)]);
        assert_eq!(looks(5), [(1, MayCome), (3, MayCome), (7, MayCome)]);
    }

    #[test]
    fn nothing_waits_longer_than_a_second() {
        let looks = looks(u64::MAX);
        assert_eq!(looks.last(), Some(&(1000, Outlook::InVain)));
        assert_eq!(looks.len(), 10, "{looks:?}");
        assert!(looks[..9].iter().all(|(_, outlook)| *outlook == Outlook::MayCome));
    }

    #[test]
    fn those_that_came_first_go_first() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        for ifindex in 1..=3 {
            assert!(waiting.admit(fragment(ifindex), start));
        }
        let mut order = Vec::new();
        waiting.look(start, |_, _| panic!("nothing is due yet"));
        waiting.look(start + FIRST_PAUSE, |fragment, _| {
            order.push(fragment.ifindex);
            true
        });
        assert_eq!(order, [1, 2, 3]);
        assert_eq!(waiting.next(), None);
    }

    #[test]
    fn room_is_limited_and_comes_back() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        for _ in 0..MAX_WAITING {
            assert!(waiting.admit(fragment(1), start));
        }
        assert!(!waiting.admit(fragment(1), start));
        waiting.look(start + FIRST_PAUSE, |_, _| true);
        assert!(waiting.admit(fragment(1), start));
    }
}
