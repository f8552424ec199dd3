//! Deadlines of groups and members.
//!
//! Moving a deadline to a later time, which every heartbeat does, costs one look-up: the queue keeps the old entry and finds out when it
//! comes up that it is not due yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Name;
use super::ledger::entry_bytes;
use super::modern::TimerKind;

/// What is to happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKey {
    /// A member was silent for its session timeout.
    Session(Name, Name),
    /// One of a member of the new protocol.
    Member(Name, Name, TimerKind),
    /// The time to join a classic group's next generation is over.
    Join(Name),
    /// The time to sync with a classic group's new generation is over.
    Sync(Name),
    /// A classic group without members and offsets need not be known any longer.
    Kept(Name),
    /// Offsets may have expired.
    Expiry,
}

/// Memory of a deadline, besides the texts of its key.
pub const TIMER_BYTES: usize = entry_bytes::<TimerKey, Entry>() + entry_bytes::<(Duration, TimerKey), ()>();

#[derive(Clone, Copy, Debug)]
struct Entry {
    due: Duration,
    /// Where the queue has it; not after `due`.
    queued: Duration,
}

/// All deadlines of a coordinator, in monotonic time.
#[derive(Debug, Default)]
pub struct Timers {
    entries: BTreeMap<TimerKey, Entry>,
    queue: BTreeSet<(Duration, TimerKey)>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub fn set(&mut self, key: TimerKey, due: Duration) {
        match self.entries.get_mut(&key) {
            Some(entry) if entry.queued <= due => entry.due = due,
            Some(entry) => {
                // The key of a request would keep another copy of its texts.
                let queued = self.queue.take(&(entry.queued, key.clone()));
                *entry = Entry { due, queued: due };
                self.queue.insert((due, queued.map_or(key, |(_, key)| key)));
            }
            None => {
                self.queue.insert((due, key.clone()));
                self.entries.insert(key, Entry { due, queued: due });
            }
        }
    }

    /// Forgets a deadline.
    pub fn cancel(&mut self, key: &TimerKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.queue.remove(&(entry.queued, key.clone()));
        }
    }

    /// When to look again: not after the first deadline, possibly before it.
    pub fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out the first deadline that has come.
    pub fn pop(&mut self, now: Duration) -> Option<TimerKey> {
        while self.queue.first().is_some_and(|(at, _)| *at <= now) {
            let (_, key) = self.queue.pop_first()?;
            match self.entries.get_mut(&key) {
                Some(entry) if entry.due > now => {
                    entry.queued = entry.due;
                    self.queue.insert((entry.due, key));
                }
                _ => {
                    self.entries.remove(&key);
                    return Some(key);
                }
            }
        }
        None
    }

    /// Whether a deadline is set.
    pub fn contains(&self, key: &TimerKey) -> bool {
        self.entries.contains_key(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Panics unless queue and entries agree.
    pub fn check(&self) {
        assert_eq!(self.entries.len(), self.queue.len());
        for (key, entry) in &self.entries {
            assert!(entry.queued <= entry.due && self.queue.contains(&(entry.queued, key.clone())), "{key:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain map.
        #[test]
        fn deadlines_come_in_order_and_once(ops in prop::collection::vec((0..4u8, 0..6u8, 0..50u64), 0..200)) {
            let key = |n: u8| TimerKey::Join(Name::from(n.to_string()));
            let (mut timers, mut model) = (Timers::default(), BTreeMap::new());
            let mut now = Duration::ZERO;
            for (op, n, ms) in ops {
                let at = now + Duration::from_millis(ms);
                match op {
                    0 | 1 => {
                        timers.set(key(n), at);
                        model.insert(key(n), at);
                    }
                    2 => {
                        timers.cancel(&key(n));
                        model.remove(&key(n));
                    }
                    _ => {
                        now = at;
                        let mut due: Vec<_> = model.iter().filter(|(_, at)| **at <= now).map(|(k, at)| (*at, k.clone())).collect();
                        due.sort();
                        model.retain(|_, at| *at > now);
                        let popped: Vec<_> = std::iter::from_fn(|| timers.pop(now)).collect();
                        let mut sorted = popped.clone();
                        sorted.sort();
                        let mut expected: Vec<_> = due.into_iter().map(|(_, k)| k).collect();
                        expected.sort();
                        prop_assert_eq!(sorted, expected);
                    }
                }
                timers.check();
                prop_assert_eq!(timers.len(), model.len());
                if let Some(first) = model.values().min() {
                    prop_assert!(timers.next().unwrap() <= *first);
                }
            }
        }
    }
}
