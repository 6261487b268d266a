//! How listeners change without a port that leads nowhere, or to another service's backends.
//!
//! Entries are blocks of ports, and of two around a port the smaller one counts. A listener whose ports change may be made of other
//! blocks than before, so for a while old and new ones stand beside each other: an old block goes when all the new ones that take
//! over its ports are there.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
};

use super::Reconciliation;
use crate::dataplane::{ListenerEntry, Result, ServiceId};

/// The entries of a map that have ports of `entry`: blocks around it, and blocks inside it.
pub(super) fn nested<V>(
    map: &BTreeMap<ListenerEntry, V>,
    entry: ListenerEntry,
) -> impl Iterator<Item = (&ListenerEntry, &V)> {
    let last = ListenerEntry::single(entry.address, entry.protocol, entry.last());
    let inside = map.range((Bound::Excluded(entry), Bound::Included(last)));
    entry
        .containing()
        .filter_map(|block| map.get_key_value(&block))
        .chain(inside)
        // Of a single port, the last one is the entry itself.
        .filter(move |(block, _)| **block != entry)
}

impl Reconciliation<'_> {
    /// Removes what must not lead where it leads any longer: ports that nobody wants, and those that would lead to another
    /// service's backends while services exchange them. What is left of unwanted entries waits for its successors.
    pub(super) fn remove_unwanted_listeners(&mut self) -> Result<()> {
        let used: HashSet<ServiceId> = (self.actual.listeners.iter())
            .filter(|(entry, _)| {
                self.wanted_listeners.contains_key(*entry) || nested(&self.wanted_listeners, **entry).next().is_some()
            })
            .map(|(_, id)| *id)
            .collect();
        let mut gone = Vec::new();
        for (entry, current) in self.actual.listeners.clone() {
            let targets = self.targets(entry, current)?;
            // A service without listeners is made first, so that this one moves before anything happens to the one it has.
            let may_wait = |target: &ServiceId| *target == current || !used.contains(target);
            let stays = !targets.is_empty() && (targets.iter().all(may_wait) || !self.gains_backends(current)?);
            if !stays {
                gone.push(entry);
            } else if !self.wanted_listeners.contains_key(&entry) {
                self.stale.insert(entry, current);
            }
        }
        gone.into_iter().try_for_each(|entry| self.remove_listener(entry))
    }

    /// The services that take over ports of an entry that now leads to `current`. Ports that stay with `current` while it loses
    /// others get their own entries at once, which changes nothing for them.
    fn targets(&mut self, entry: ListenerEntry, current: ServiceId) -> Result<Vec<ServiceId>> {
        if let Some(target) = self.wanted_listeners.get(&entry) {
            return Ok(vec![*target]);
        }
        let mut targets = Vec::new();
        let mut staying = Vec::new();
        for (block, target) in nested(&self.wanted_listeners, entry) {
            if *target == current && block.bits > entry.bits {
                staying.push(*block);
            } else {
                targets.push(*target);
            }
        }
        for block in staying {
            self.set_listener(block, current)?;
        }
        Ok(targets)
    }

    /// Points the listeners of a service at it, and removes the entries that they replace.
    pub(super) fn write_listeners(&mut self, entries: &[ListenerEntry], id: ServiceId) -> Result<()> {
        for entry in entries {
            self.set_listener(*entry, id)?;
        }
        // Before anything that a range replaces goes.
        self.count_first_ranges(entries)?;
        if self.stale.is_empty() {
            return Ok(());
        }
        let replaced: Vec<ListenerEntry> = entries
            .iter()
            .flat_map(|entry| nested(&self.stale, *entry))
            .map(|(stale, _)| *stale)
            .collect();
        for entry in replaced {
            let is_there = |(block, target)| self.actual.listeners.get(block) == Some(target);
            if nested(&self.wanted_listeners, entry).all(is_there) && self.stale.remove(&entry).is_some() {
                self.remove_listener(entry)?;
            }
        }
        Ok(())
    }

    fn set_listener(&mut self, entry: ListenerEntry, id: ServiceId) -> Result<()> {
        if self.actual.listeners.get(&entry) == Some(&id) {
            return Ok(());
        }
        self.dataplane.set_listener(entry, id)?;
        self.actual.listeners.insert(entry, id);
        self.writes += 1;
        Ok(())
    }

    fn remove_listener(&mut self, entry: ListenerEntry) -> Result<()> {
        self.dataplane.remove_listener(entry)?;
        self.actual.listeners.remove(&entry);
        self.writes += 1;
        Ok(())
    }

    /// Has the program look for port ranges, if `entries`, which are there, are the first.
    fn count_first_ranges(&mut self, entries: &[ListenerEntry]) -> Result<()> {
        let counted = self.actual.settings.is_some_and(|settings| settings.port_prefixes > 0);
        if !counted && entries.iter().any(ListenerEntry::is_range) {
            self.set_settings(self.desired.settings)?;
        }
        Ok(())
    }
}
