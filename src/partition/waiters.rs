//! Fetches that wait for data.

use std::collections::BTreeMap;

use crate::base::ids::Offset;

/// Names a parked fetch. Ordered by when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitId {
    /// Value of `seen_bytes` from which on it is due.
    due: u64,
    number: u64,
}

/// Parked fetches of one partition. `T` says whom to wake. Its size is bounded by the requests that were admitted.
#[derive(Debug)]
pub struct FetchWaiters<T> {
    /// Bytes that became readable since the partition was opened.
    seen_bytes: u64,
    parked_ever: u64,
    /// Sorted by when they are due, so that an append looks only at those whom it wakes.
    parked: BTreeMap<WaitId, (Offset, T)>,
}

impl<T> Default for FetchWaiters<T> {
    fn default() -> Self {
        FetchWaiters { seen_bytes: 0, parked_ever: 0, parked: BTreeMap::new() }
    }
}

impl<T> FetchWaiters<T> {
    /// Waits until the high watermark is above `offset` and `need_bytes` more bytes (at least one) than now are readable.
    pub fn park(&mut self, offset: Offset, need_bytes: usize, token: T) -> WaitId {
        self.parked_ever += 1;
        let id = WaitId { due: self.seen_bytes.saturating_add(need_bytes.max(1) as u64), number: self.parked_ever };
        self.parked.insert(id, (offset, token));
        id
    }

    /// Stops waiting; `None` when it was woken before.
    pub fn cancel(&mut self, id: WaitId) -> Option<T> {
        self.parked.remove(&id).map(|(_, token)| token)
    }

    /// The high watermark moved to `high_watermark` and made `bytes_appended` bytes readable: wakes those who are due, in that order.
    pub fn advance(&mut self, high_watermark: Offset, bytes_appended: usize) -> Vec<T> {
        self.seen_bytes = self.seen_bytes.saturating_add(bytes_appended as u64);
        if self.parked.is_empty() {
            return Vec::new();
        }
        let not_due = self.parked.split_off(&WaitId { due: self.seen_bytes.saturating_add(1), number: 0 });
        let mut woken = Vec::with_capacity(self.parked.len());
        for (id, (offset, token)) in std::mem::replace(&mut self.parked, not_due) {
            if offset < high_watermark {
                woken.push(token);
            } else {
                self.parked.insert(id, (offset, token));
            }
        }
        woken
    }

    /// Wakes everybody.
    pub fn release_all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.parked).into_values().map(|(_, token)| token).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Panics if somebody sleeps who is due.
    pub fn check_invariants(&self, high_watermark: Offset) {
        for (id, (offset, _)) in &self.parked {
            assert!(id.due > self.seen_bytes || *offset >= high_watermark, "{id:?} at {offset} sleeps through {high_watermark}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_by_bytes_and_by_offset() {
        let mut waiters = FetchWaiters::default();
        waiters.park(10, 1, "any");
        waiters.park(10, 100, "a hundred");
        waiters.park(15, 1, "further on");
        let gone = waiters.park(10, 1, "gone");
        assert_eq!(waiters.cancel(gone), Some("gone"));
        assert_eq!(waiters.cancel(gone), None);
        assert_eq!(waiters.advance(12, 50), ["any"]);
        waiters.check_invariants(12);
        assert_eq!(waiters.advance(20, 49), ["further on"]);
        assert_eq!(waiters.advance(21, 1), ["a hundred"]);
        waiters.park(21, 0, "later");
        waiters.park(21, usize::MAX, "never");
        assert!(waiters.advance(21, 0).is_empty(), "nothing came");
        assert_eq!(waiters.release_all(), ["later", "never"]);
    }
}
