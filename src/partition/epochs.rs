//! Which leader epoch wrote which offsets: Kafka's leader epoch cache.

use std::fmt;

use crate::base::ids::{LeaderEpoch, Offset};

/// What Kafka answers for an epoch that it cannot place.
pub const UNDEFINED: (LeaderEpoch, Offset) = (-1, -1);

/// The first offset of each epoch; both rise strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl Epochs {
    /// The newest epoch and its first offset.
    pub fn latest(&self) -> Option<(LeaderEpoch, Offset)> {
        self.starts.last().copied()
    }

    /// Notes that `epoch` begins at `start_offset`; entries that contradict it (begun by a leader that wrote nothing, or cut off) go.
    /// Repeats, and negative values (batches older than leader epochs), change nothing. True when the cache changed: then its
    /// checkpoint is to be written.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        let known = self.latest().is_some_and(|(latest, start)| latest == epoch && start <= start_offset);
        if known || epoch < 0 || start_offset < 0 {
            return false;
        }
        while self.latest().is_some_and(|(latest, start)| latest >= epoch || start >= start_offset) {
            self.starts.pop();
        }
        self.starts.push((epoch, start_offset));
        true
    }

    /// Where an epoch ends, as OffsetForLeaderEpoch answers it: the largest known epoch not above the asked one, and the offset where
    /// the next begins (`log_end` for the newest). An epoch newer than all is [`UNDEFINED`]; one older than all ends where the oldest
    /// begins.
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> (LeaderEpoch, Offset) {
        if epoch < 0 {
            return UNDEFINED;
        }
        let above = self.starts.partition_point(|(known, _)| *known <= epoch);
        let floor = above.checked_sub(1).map(|at| self.starts[at].0);
        match (floor, self.starts.get(above)) {
            (Some(floor), None) if floor == epoch => (epoch, log_end),
            (_, None) => UNDEFINED,
            (Some(floor), Some((_, end))) => (floor, *end),
            (None, Some((_, end))) => (epoch, *end),
        }
    }

    /// The epoch that wrote `offset`, or -1 where it is unknown.
    pub fn epoch_of(&self, offset: Offset) -> LeaderEpoch {
        let above = self.starts.partition_point(|(_, start)| *start <= offset);
        above.checked_sub(1).map_or(UNDEFINED.0, |at| self.starts[at].0)
    }

    /// Begins anew with these epochs and their first offsets; what contradicts those before it is left out.
    pub fn assign_all(&mut self, starts: Vec<(LeaderEpoch, Offset)>) {
        self.starts.clear();
        starts.into_iter().for_each(|(epoch, start)| {
            self.assign(epoch, start);
        });
    }

    /// The log was cut and ends at `end_offset` now. True when the cache changed.
    pub fn truncate_from_end(&mut self, end_offset: Offset) -> bool {
        let before = self.starts.len();
        self.starts.retain(|(_, start)| *start < end_offset);
        self.starts.len() != before
    }

    /// The log begins at `start_offset` now; the epoch in force there is kept and begins there. True when the cache changed.
    pub fn truncate_from_start(&mut self, start_offset: Offset) -> bool {
        let above = self.starts.partition_point(|(_, start)| *start <= start_offset);
        let Some(in_force) = above.checked_sub(1) else {
            return false;
        };
        let changed = self.starts[0].1 != start_offset;
        self.starts.drain(..in_force);
        self.starts[0].1 = start_offset;
        changed
    }

    /// The content of `leader-epoch-checkpoint`.
    pub fn encode(&self) -> String {
        let lines: String = self.starts.iter().map(|(epoch, start)| format!("{epoch} {start}\n")).collect();
        format!("0\n{}\n{lines}", self.starts.len())
    }

    /// Reads a `leader-epoch-checkpoint`, Kafka's or ours.
    pub fn parse(text: &str) -> Result<Epochs, BadEpochs> {
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let mut number = |expected: &'static str| {
            let (line, text) = lines.next().ok_or(BadEpochs { line: 0, expected })?;
            text.parse::<usize>().map_err(|_| BadEpochs { line, expected }).map(|value| (line, value))
        };
        let (line, version) = number("a version")?;
        if version != 0 {
            return Err(BadEpochs { line, expected: "version 0" });
        }
        let (line, count) = number("a count")?;
        let mut epochs = Epochs::default();
        for (line, text) in lines.filter(|(_, text)| !text.is_empty()) {
            let entry = parse_entry(text).filter(|entry| epochs.latest().is_none_or(|last| last.0 < entry.0 && last.1 < entry.1));
            epochs.starts.push(entry.ok_or(BadEpochs { line, expected: "EPOCH START_OFFSET, both above the line before" })?);
        }
        if epochs.starts.len() != count {
            return Err(BadEpochs { line, expected: "the count of the lines that follow" });
        }
        Ok(epochs)
    }

    /// Panics unless both columns rise strictly.
    pub fn check_invariants(&self) {
        assert!(self.starts.iter().all(|(epoch, start)| *epoch >= 0 && *start >= 0), "{self:?}");
        assert!(self.starts.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{self:?}");
    }
}

fn parse_entry(text: &str) -> Option<(LeaderEpoch, Offset)> {
    let (epoch, start) = text.split_once(' ')?;
    let entry: (LeaderEpoch, Offset) = (epoch.parse().ok()?, start.trim().parse().ok()?);
    (entry.0 >= 0 && entry.1 >= 0).then_some(entry)
}

/// Why a text is not a leader epoch checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEpochs {
    /// Counted from 1; 0 when the text ends too early.
    pub line: usize,
    /// What the line should hold.
    pub expected: &'static str,
}

impl fmt::Display for BadEpochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "leader-epoch-checkpoint: ends where {} should be", self.expected),
            line => write!(f, "leader-epoch-checkpoint: line {line} should be {}", self.expected),
        }
    }
}

impl std::error::Error for BadEpochs {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cache(entries: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        entries.iter().for_each(|(epoch, start)| {
            epochs.assign(*epoch, *start);
        });
        epochs
    }

    #[test]
    fn end_offsets_as_kafka_answers_them() {
        let epochs = cache(&[(2, 10), (4, 30), (7, 50)]);
        assert_eq!(epochs.end_offset_for(7, 99), (7, 99), "the newest ends at the log's end");
        assert_eq!(epochs.end_offset_for(8, 99), UNDEFINED, "the future");
        assert_eq!(epochs.end_offset_for(-1, 99), UNDEFINED);
        assert_eq!(epochs.end_offset_for(4, 99), (4, 50));
        assert_eq!(epochs.end_offset_for(6, 99), (4, 50), "the largest not above the asked one");
        assert_eq!(epochs.end_offset_for(1, 99), (1, 10), "older than all");
        assert_eq!(Epochs::default().end_offset_for(0, 99), UNDEFINED);
        assert_eq!([9, 10, 29, 30, 1000].map(|at| epochs.epoch_of(at)), [-1, 2, 2, 4, 7]);
    }

    #[test]
    fn assign_drops_what_contradicts_it() {
        let mut epochs = cache(&[(1, 0), (2, 10)]);
        assert!(!epochs.assign(2, 15), "known already");
        assert!(!epochs.assign(-1, 20));
        assert!(epochs.assign(3, 10), "epoch 2 wrote nothing");
        assert_eq!(epochs, cache(&[(1, 0), (3, 10)]));
        assert!(epochs.assign(2, 5));
        assert_eq!(epochs, cache(&[(1, 0), (2, 5)]));
    }

    #[test]
    fn truncation_at_both_ends() {
        let mut epochs = cache(&[(1, 0), (2, 10), (3, 20)]);
        assert!(!epochs.truncate_from_end(21));
        assert!(epochs.truncate_from_end(20));
        assert_eq!(epochs, cache(&[(1, 0), (2, 10)]));
        assert!(epochs.truncate_from_start(12));
        assert_eq!(epochs, cache(&[(2, 12)]));
        assert!(!epochs.truncate_from_start(12));
        assert!(!epochs.truncate_from_start(3), "before all of them");
    }

    #[test]
    fn text_form_is_kafkas() {
        let epochs = cache(&[(0, 0), (5, 17)]);
        assert_eq!(epochs.encode(), "0\n2\n0 0\n5 17\n");
        assert_eq!(Epochs::parse("0\n2\n0 0\n5 17\n"), Ok(epochs));
        assert_eq!(Epochs::parse("0\n0\n"), Ok(Epochs::default()));
        for (text, line) in [
            ("", 0),
            ("1\n0\n", 1),
            ("0\n", 0),
            ("0\n9\n0 0\n", 2),
            ("0\n1\nx 0\n", 3),
            ("0\n1\n-1 0\n", 3),
            ("0\n2\n1 5\n1 6\n", 4),
            ("0\n2\n1 5\n2 5\n", 4),
        ] {
            assert_eq!(Epochs::parse(text).map_err(|e| e.line), Err(line), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_history_stays_ordered_and_round_trips(ops in prop::collection::vec((0..4u8, -1..20i32, -1..50i64), 0..60)) {
            let mut epochs = Epochs::default();
            for (op, epoch, offset) in ops {
                let before = epochs.clone();
                let changed = match op {
                    0 => epochs.truncate_from_end(offset),
                    1 => epochs.truncate_from_start(offset),
                    _ => epochs.assign(epoch, offset),
                };
                epochs.check_invariants();
                prop_assert_eq!(changed, epochs != before);
                prop_assert_eq!(Epochs::parse(&epochs.encode()), Ok(epochs.clone()));
            }
        }

        #[test]
        fn parse_survives_anything(text in "[0-9 \\n-]{0,40}") {
            if let Ok(epochs) = Epochs::parse(&text) {
                epochs.check_invariants();
            }
        }
    }
}
