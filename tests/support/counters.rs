//! What the kernel of a namespace counted: `/proc/net/snmp`, `/proc/net/netstat` and `/proc/net/snmp6`, with the names that `nstat`
//! prints.

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
            counters.add_table(&read_file("snmp")?);
            counters.add_table(&read_file("netstat")?);
            // Missing in a kernel without IPv6.
            counters.add_list(&read_file("snmp6").unwrap_or_default());
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

    /// Adds lines of a name and a value each: `Udp6InCsumErrors 0`.
    fn add_list(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(value)) = (words.next(), words.next()) {
                self.0.insert(name.to_owned(), value.parse().unwrap_or(0));
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

    /// TCP and UDP packets of either family dropped for a wrong checksum.
    pub fn checksum_errors(&self) -> i64 {
        ["TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"]
            .into_iter()
            .filter_map(|name| self.get(name))
            .sum()
    }

    /// All counters and their values, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

/// A file of the thread's namespace; `/proc/net` would show that of the process.
fn read_file(name: &str) -> Result<String> {
    let path = format!("/proc/thread-self/net/{name}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
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

    #[test]
    fn ipv6_counters_stand_in_lines_of_their_own() {
        let mut counters = Counters::default();
        counters.add_list("Ip6InReceives                   \t7\nUdp6InCsumErrors \t2\n");
        assert_eq!(counters.get("Ip6InReceives"), Some(7));
        assert_eq!(counters.checksum_errors(), 2);
    }
}
