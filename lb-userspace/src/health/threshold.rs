//! From single results to a verdict: how many in a row it takes.

/// What is known of a backend's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not decided yet: it gets no new connections. The first success leads to [`Up`](Self::Up), `fall` failures in a row to
    /// [`Down`](Self::Down).
    #[default]
    Pending,
    /// Takes connections, until `fall` failures in a row lead to [`Down`](Self::Down).
    Up,
    /// Takes none, until `rise` successes in a row lead to [`Up`](Self::Up).
    Down,
}

/// Results in a row, and the status that they led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    status: Status,
    successes: u32,
    failures: u32,
}

impl Tally {
    /// No result yet, but a status that is known from elsewhere.
    pub const fn starting_as(status: Status) -> Self {
        Self {
            status,
            successes: 0,
            failures: 0,
        }
    }

    /// The status so far.
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Successes since the last failure.
    pub const fn successes(&self) -> u32 {
        self.successes
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts one result; the new status if it changed. A `rise` or `fall` of 0 counts as 1.
    pub fn record(&mut self, passed: bool, rise: u32, fall: u32) -> Option<Status> {
        if passed {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
        }
        let status = match self.status {
            Status::Pending if passed => Status::Up,
            Status::Down if self.successes >= rise.max(1) => Status::Up,
            Status::Pending | Status::Up if self.failures >= fall.max(1) => Status::Down,
            unchanged => unchanged,
        };
        let changed = status != self.status;
        self.status = status;
        changed.then_some(status)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Plays results, `+` and `-`, with rise 2 and fall 3, and returns the first letter of the status after each.
    fn play(results: &str) -> String {
        let mut tally = Tally::default();
        results
            .chars()
            .map(|result| {
                tally.record(result == '+', 2, 3);
                match tally.status() {
                    Status::Pending => 'p',
                    Status::Up => 'u',
                    Status::Down => 'd',
                }
            })
            .collect()
    }

    #[test]
    fn first_success_of_a_pending_backend_lets_it_in() {
        assert_eq!(play("+"), "u");
        assert_eq!(play("--+"), "ppu");
    }

    #[test]
    fn pending_backend_goes_down_after_fall_failures_and_then_needs_rise_successes() {
        assert_eq!(play("---++"), "ppddu");
    }

    #[test]
    fn only_results_in_a_row_count() {
        assert_eq!(play("+--+--+---+-+++"), "uuuuuuuuudddduu");
    }

    proptest! {
        /// Against a definition over the whole history: the status flips at the first run that is long enough.
        #[test]
        fn status_changes_exactly_after_a_run_of_rise_or_fall(
            results in prop::collection::vec(any::<bool>(), 0..60), rise in 1_u32..5, fall in 1_u32..5
        ) {
            let mut tally = Tally::default();
            let mut status = Status::Pending;
            for (index, passed) in results.iter().enumerate() {
                let run = results[..=index].iter().rev().take_while(|result| *result == passed).count() as u64;
                let before = status;
                if *passed && (status == Status::Pending || status == Status::Down && run >= u64::from(rise)) {
                    status = Status::Up;
                }
                if !passed && status != Status::Down && run >= u64::from(fall) {
                    status = Status::Down;
                }
                prop_assert_eq!(tally.record(*passed, rise, fall), (before != status).then_some(status));
                prop_assert_eq!(tally.status(), status);
            }
        }
    }
}
