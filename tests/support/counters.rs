//! What the kernel of a namespace counted: `/proc/net/snmp` and `/proc/net/netstat`, with the names that `nstat` prints.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// Counters by name, such as `TcpInCsumErrors` or `UdpInCsumErrors`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, i64>);

impl Counters {
    /// Reads those of a namespace.
    ///
    /// # Errors
    ///
    /// When the namespace is gone.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut counters = Self::default();
            for file in ["snmp", "netstat"] {
                // `/proc/net` would show the namespace of the process, not that of the thread.
                let path = format!("/proc/thread-self/net/{file}");
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
                counters.add_table(&text);
            }
            Ok(counters)
        };
        namespace.run(read)?
    }

    /// Adds lines in pairs: `Tcp: InSegs InErrs`, then `Tcp: 7 0`.
    fn add_table(&mut self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks_exact(2) {
            let Some((group, names)) = pair[0].split_once(':') else {
                continue;
            };
            let values = pair[1].split_whitespace().skip(1);
            for (name, value) in names.split_whitespace().zip(values) {
                self.0.insert(format!("{group}{name}"), value.parse().unwrap_or(0));
            }
        }
    }

    /// One counter; `None` if this kernel does not have it.
    pub fn get(&self, name: &str) -> Option<i64> {
        self.0.get(name).copied()
    }

    /// Those that changed since `before`, and by how much.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let changes = self.0.iter().filter_map(|(name, value)| {
            let change = value - before.get(name).unwrap_or(0);
            (change != 0).then(|| (name.clone(), change))
        });
        Self(changes.collect())
    }

    /// TCP and UDP packets dropped for a wrong checksum.
    pub fn checksum_errors(&self) -> i64 {
        ["TcpInCsumErrors", "UdpInCsumErrors"]
            .into_iter()
            .filter_map(|name| self.get(name))
            .sum()
    }

    /// All counters and their values, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_nstat_and_differences_hold_only_changes() {
        let mut before = Counters::default();
        before.add_table("Tcp: MaxConn InSegs InCsumErrors\nTcp: -1 7 0\nUdp: InCsumErrors\nUdp: 2\n");
        assert_eq!(before.get("TcpMaxConn"), Some(-1));
        assert_eq!(before.checksum_errors(), 2);
        let mut after = before.clone();
        after.add_table("Tcp: InSegs InCsumErrors\nTcp: 9 1\n");
        let changes: Vec<_> = after.since(&before).0.into_iter().collect();
        assert_eq!(
            changes,
            [("TcpInCsumErrors".to_owned(), 1), ("TcpInSegs".to_owned(), 2)]
        );
    }
}
