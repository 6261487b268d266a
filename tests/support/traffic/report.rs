//! What clients tell about their exchanges.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Instant,
};

use super::Answer;

/// One request on a socket of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When it started.
    pub started: Instant,
    /// The answer, or in words why there was none.
    pub outcome: Result<Answer, String>,
}

/// Every exchange of a client, in the order in which they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
}

impl Report {
    /// The answers there were.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.exchanges
            .iter()
            .filter_map(|exchange| exchange.outcome.as_ref().ok())
    }

    /// Number of answers by backend.
    pub fn by_backend(&self) -> BTreeMap<u32, usize> {
        count(self.answers().map(|answer| answer.backend))
    }

    /// Number of failures by reason.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        count(
            self.exchanges
                .iter()
                .filter_map(|exchange| exchange.outcome.clone().err()),
        )
    }

    /// The client addresses that backends saw: the client's own, or others if its source is translated.
    pub fn clients_seen(&self) -> BTreeSet<IpAddr> {
        self.answers().map(|answer| answer.client.ip()).collect()
    }

    /// The part that started at `time` or later.
    #[must_use]
    pub fn since(&self, time: Instant) -> Self {
        let exchanges = self.exchanges.iter().filter(|exchange| exchange.started >= time);
        Self {
            exchanges: exchanges.cloned().collect(),
        }
    }
}

/// How often each item occurs.
pub(super) fn count<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests:", self.exchanges.len())?;
        for (backend, answers) in self.by_backend() {
            write!(f, " backend {backend} {answers},")?;
        }
        let failures = self.failures();
        write!(f, " failed {}", failures.values().sum::<usize>())?;
        for (reason, times) in failures {
            write!(f, "\n  {times} x {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn report_counts_answers_and_failures_apart() {
        let start = Instant::now();
        let answer = |backend| -> Result<Answer, String> { format!("{backend} 0 10.1.0.11:4000").parse() };
        let outcomes = [answer(1), answer(2), answer(1), Err("connection reset".to_owned())];
        let exchanges = outcomes.into_iter().zip(0..).map(|(outcome, second)| Exchange {
            started: start + Duration::from_secs(second),
            outcome,
        });
        let report = Report {
            exchanges: exchanges.collect(),
        };
        assert_eq!(
            report.to_string(),
            "4 requests: backend 1 2, backend 2 1, failed 1\n  1 x connection reset"
        );
        let late = report.since(start + Duration::from_secs(2));
        assert_eq!(late.by_backend(), BTreeMap::from([(1, 1)]));
        assert_eq!(late.failures().len(), 1);
    }
}
