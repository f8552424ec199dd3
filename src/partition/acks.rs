//! Produce requests that wait until their batches are as safe as they asked for.

use std::collections::VecDeque;

use crate::base::ids::Offset;

/// What has to be true of a batch before its producer hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The write has completed.
    Written,
    /// The device has flushed it as well.
    Flushed,
}

/// Waiting acknowledgements. `T` says whom to answer. Its size is bounded by the requests that were admitted.
#[derive(Debug)]
pub struct AckQueue<T> {
    written: VecDeque<(Offset, T)>,
    flushed: VecDeque<(Offset, T)>,
}

impl<T> Default for AckQueue<T> {
    fn default() -> Self {
        AckQueue { written: VecDeque::new(), flushed: VecDeque::new() }
    }
}

impl<T> AckQueue<T> {
    /// Waits for all offsets below `end_offset`.
    pub fn push(&mut self, end_offset: Offset, level: Level, token: T) {
        let queue = match level {
            Level::Written => &mut self.written,
            Level::Flushed => &mut self.flushed,
        };
        // Almost always the back: only a repeated batch waits for less than those before it.
        let at = queue.partition_point(|(end, _)| *end <= end_offset);
        queue.insert(at, (end_offset, token));
    }

    /// Those who have what they wait for, in order of offset within each level, equal offsets in order of arrival.
    pub fn advance(&mut self, written: Offset, flushed: Offset) -> impl Iterator<Item = T> {
        let reached = |queue: &VecDeque<(Offset, T)>, upto| queue.partition_point(|(end, _)| *end <= upto);
        let (of_written, of_flushed) = (reached(&self.written, written), reached(&self.flushed, flushed));
        self.written.drain(..of_written).chain(self.flushed.drain(..of_flushed)).map(|(_, token)| token)
    }

    /// Those who wait for more than what lies below `end_offset`, because it was taken back.
    pub fn fail_above(&mut self, end_offset: Offset) -> impl Iterator<Item = T> {
        let within = |queue: &VecDeque<(Offset, T)>| queue.partition_point(|(end, _)| *end <= end_offset);
        let (of_written, of_flushed) = (within(&self.written), within(&self.flushed));
        self.written.drain(of_written..).chain(self.flushed.drain(of_flushed..)).map(|(_, token)| token)
    }

    /// Everybody, because nothing more will be written.
    pub fn fail_all(&mut self) -> impl Iterator<Item = T> {
        self.written.drain(..).chain(self.flushed.drain(..)).map(|(_, token)| token)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.written.len() + self.flushed.len()
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Panics if somebody still waits for what has happened, or for more than the log holds.
    pub fn check_invariants(&self, written: Offset, flushed: Offset, log_end: Offset) {
        for (queue, reached) in [(&self.written, written), (&self.flushed, flushed)] {
            assert!(queue.iter().all(|(end, _)| *end > reached && *end <= log_end), "ends of {reached}..={log_end} only");
            assert!(queue.iter().is_sorted_by_key(|(end, _)| *end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_released_in_order() {
        let mut acks = AckQueue::default();
        acks.push(10, Level::Flushed, "f10");
        acks.push(12, Level::Written, "w12");
        acks.push(20, Level::Flushed, "f20");
        acks.push(20, Level::Written, "w20");
        acks.push(10, Level::Flushed, "f10, repeated");
        assert_eq!(acks.advance(11, 9).count(), 0);
        assert_eq!(acks.advance(20, 10).collect::<Vec<_>>(), ["w12", "w20", "f10", "f10, repeated"]);
        acks.check_invariants(20, 10, 20);
        assert_eq!(acks.fail_all().collect::<Vec<_>>(), ["f20"]);
        assert!(acks.is_empty());
    }
}
