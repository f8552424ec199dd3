//! A segment's sparse index: offset to file position, and timestamp to offset, in Kafka's two file formats.
//!
//! Bounded in memory: when full, every second entry is dropped and the spacing doubles, which both formats allow. An index only says where
//! to start looking; it is never evidence about the log.

use crate::base::ids::Offset;

/// Entries kept of either kind, 48 KiB in all; with a cold read of 1 MiB a coarser index than Kafka's
/// costs nothing.
const CAPACITY: usize = 2048;

/// Of one segment; offsets are relative to its base, positions in bytes from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// (last offset of a batch, position of that batch), both strictly increasing.
    offsets: Vec<(u32, u32)>,
    /// (largest timestamp so far, last offset of the batch that holds it), strictly increasing timestamps.
    times: Vec<(i64, u32)>,
    /// The largest timestamp of the segment and the last offset of its batch.
    max: Option<(i64, u32)>,
    interval: u64,
    since: u64,
    kafkas: Counts,
    times_known: TimesKnown,
    /// Behind the last batch noted.
    end: u32,
    stored: Option<Stored>,
}

/// What was read from files, and is not proved: a bit of it may have changed since it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of the segment that it is of.
    pub size: u64,
    /// The largest timestamp and the last offset of its batch.
    pub largest: (i64, u32),
}

/// How sure it is that the times are those of the records. Some clients tell no largest timestamp in
/// their batches; processes that believed them have stored indexes without their records' times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimesKnown {
    /// Read from files.
    #[default]
    Stored,
    /// Read from files, and some batches were looked at: all of them tell their timestamp, and one
    /// has the largest.
    Sampled,
    /// Made of the batches.
    Made,
}

/// Entries that Kafka's files of the segment would have: an index that thins itself out holds fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    offsets: u64,
    times: u64,
    interval: u64,
    since: u64,
    last_time: Option<i64>,
}

impl Counts {
    fn note(&mut self, len: usize, max_timestamp: i64) {
        if self.since > self.interval {
            self.offsets += 1;
            if self.last_time.is_none_or(|last| max_timestamp > last) {
                self.times += 1;
                self.last_time = Some(max_timestamp);
            }
            self.since = 0;
        }
        self.since += len as u64;
    }
}

impl Index {
    /// An empty index that gets an entry after every `interval` bytes.
    pub fn new(interval: u32) -> Index {
        let kafkas = Counts { interval: interval as u64, ..Counts::default() };
        Index { interval: interval as u64, kafkas, times_known: TimesKnown::Made, ..Index::default() }
    }

    /// Takes note of the next batch. As in Kafka, the first batch of a segment never has an entry.
    pub fn note(&mut self, last: u32, position: u32, len: usize, max_timestamp: i64) {
        if self.max.is_none_or(|(ts, _)| max_timestamp > ts) {
            self.max = Some((max_timestamp, last));
        }
        if self.since > self.interval {
            push_thinning(&mut self.offsets, (last, position), &mut self.interval);
            let max = self.max.expect("just set");
            if self.times.last().is_none_or(|(ts, _)| max.0 > *ts) {
                push_thinning(&mut self.times, max, &mut 0);
            }
            self.since = 0;
        }
        self.since += len as u64;
        self.end = last.saturating_add(1);
        self.kafkas.note(len, self.max.map_or(-1, |(ts, _)| ts));
    }

    /// True when either of Kafka's files has no room for another entry within `bytes` (`segment.index.bytes`). As in Kafka, the time
    /// index keeps room for its closing entry.
    pub fn is_full(&self, bytes: u32) -> bool {
        self.kafkas.offsets >= bytes as u64 / 8 || self.kafkas.times + 1 >= bytes as u64 / 12
    }

    /// A position at or before the batch that holds `offset`.
    pub fn position(&self, offset: u32) -> u32 {
        self.entry(offset).map_or(0, |entry| entry.1)
    }

    /// The entry that tells it, if one does: the last offset of a batch, and its position.
    pub fn entry(&self, offset: u32) -> Option<(u32, u32)> {
        let behind = self.offsets.partition_point(|(last, _)| *last <= offset);
        behind.checked_sub(1).map(|n| self.offsets[n])
    }

    /// Memory of its entries.
    pub fn bytes(&self) -> usize {
        self.offsets.capacity() * size_of::<(u32, u32)>() + self.times.capacity() * size_of::<(i64, u32)>()
    }

    /// Position of the last indexed batch.
    pub fn last_position(&self) -> u32 {
        self.offsets.last().map_or(0, |e| e.1)
    }

    /// The last timestamp below `ts`, and an offset before which none is above it.
    pub fn before_time(&self, ts: i64) -> Option<(i64, u32)> {
        self.times.partition_point(|(t, _)| *t < ts).checked_sub(1).map(|n| self.times[n])
    }

    /// The largest timestamp and the last offset of its batch.
    pub fn max_timestamp(&self) -> Option<(i64, u32)> {
        self.max
    }

    /// See [`TimesKnown`].
    pub fn times_known(&self) -> TimesKnown {
        self.times_known
    }

    /// The part that was read from files.
    pub fn stored(&self) -> Option<Stored> {
        self.stored
    }

    /// Some batches were looked at, see [`TimesKnown::Sampled`].
    pub fn set_sampled(&mut self) {
        if self.times_known == TimesKnown::Stored {
            self.times_known = TimesKnown::Sampled;
        }
    }

    /// Puts `made`, which was made of the batches, in the place of what was read from files.
    pub fn replace_stored(&mut self, mut made: Index) {
        let Some(stored) = self.stored else { return };
        let (last, end) = (made.times.last().map_or(i64::MIN, |last| last.0), made.end);
        made.interval = made.interval.max(self.interval);
        for entry in self.offsets.iter().filter(|entry| u64::from(entry.1) >= stored.size) {
            push_thinning(&mut made.offsets, *entry, &mut made.interval);
        }
        for entry in self.times.iter().filter(|entry| entry.1 >= end && entry.0 > last) {
            push_thinning(&mut made.times, *entry, &mut 0);
        }
        if self.end > end {
            // It has grown since it was read.
            let later = self.max.filter(|max| max.1 >= end);
            made.max = later.filter(|later| made.max.is_none_or(|max| later.0 > max.0)).or(made.max);
            (made.since, made.end) = (self.since, self.end);
            made.kafkas = self.kafkas.clone();
        }
        *self = made;
    }

    /// Positions of up to `count` batches, the first one among them, all over the segment.
    pub fn samples(&self, count: usize) -> Vec<u32> {
        let step = self.offsets.len().div_ceil(count.max(2) - 1).max(1);
        [0].into_iter().chain(self.offsets.iter().skip(step - 1).step_by(step).map(|e| e.1)).collect()
    }

    /// Content of the `.index` file.
    pub fn encode_offsets(&self) -> Vec<u8> {
        self.offsets.iter().flat_map(|(last, position)| [last.to_be_bytes(), position.to_be_bytes()]).flatten().collect()
    }

    /// Content of the `.timeindex` file, closed by the entry of the segment's largest timestamp.
    pub fn encode_times(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity((self.times.len() + 1) * 12);
        let closing = self.max.filter(|max| self.times.last().is_none_or(|last| max.0 > last.0));
        for (ts, last) in self.times.iter().copied().chain(closing) {
            out.extend(ts.to_be_bytes());
            out.extend(last.to_be_bytes());
        }
        out
    }

    /// Reads both files of a closed segment of `size` bytes that ends before the relative offset `end`; `None` when they cannot be right
    /// (then the segment is walked instead).
    pub fn decode(offsets: &[u8], times: &[u8], size: u64, end: Offset, interval: u32) -> Option<Index> {
        if !offsets.len().is_multiple_of(8) || !times.len().is_multiple_of(12) || times.is_empty() {
            return None;
        }
        let mut index = Index { times_known: TimesKnown::Stored, ..Index::new(interval) };
        let mut before = None;
        for entry in offsets.chunks_exact(8) {
            let entry = (u32::from_be_bytes(entry[..4].try_into().ok()?), u32::from_be_bytes(entry[4..].try_into().ok()?));
            let increasing = before.is_none_or(|(last, position)| entry.0 > last && entry.1 > position);
            if !increasing || entry.0 as i64 >= end || entry.1 as u64 >= size {
                return None;
            }
            push_thinning(&mut index.offsets, entry, &mut index.interval);
            before = Some(entry);
        }
        let mut before: Option<(i64, u32)> = None;
        for entry in times.chunks_exact(12) {
            let entry = (i64::from_be_bytes(entry[..8].try_into().ok()?), u32::from_be_bytes(entry[8..].try_into().ok()?));
            if before.is_some_and(|b| entry.0 <= b.0 || entry.1 < b.1) || entry.1 as i64 >= end {
                return None;
            }
            push_thinning(&mut index.times, entry, &mut 0);
            before = Some(entry);
        }
        index.max = before;
        index.stored = before.map(|largest| Stored { size, largest });
        index.kafkas.offsets = offsets.len() as u64 / 8;
        index.kafkas.times = times.len() as u64 / 12;
        index.kafkas.last_time = before.map(|(ts, _)| ts);
        Some(index)
    }
}

fn push_thinning<T: Copy>(entries: &mut Vec<T>, entry: T, interval: &mut u64) {
    if entries.len() == CAPACITY {
        let mut keep = false;
        entries.retain(|_| {
            keep = !keep;
            keep
        });
        *interval *= 2;
    }
    entries.push(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded_and_finds_a_start_at_or_before() {
        let mut index = Index::new(100);
        for i in 0..200_000u32 {
            index.note(i * 2 + 1, i * 60, 60, i as i64 / 3);
        }
        assert!(index.offsets.len() <= CAPACITY && index.times.len() <= CAPACITY);
        for offset in (0..400_000).step_by(997) {
            let batch = index.position(offset) / 60;
            assert!(batch * 2 <= offset && offset / 2 - batch < 400, "{offset} {batch}");
        }
        for ts in (0..66_000).step_by(97) {
            assert!(index.before_time(ts).is_none_or(|(t, last)| t < ts && last as i64 <= ts * 6));
        }
    }

    #[test]
    fn an_entry_comes_with_the_first_batch_behind_more_than_the_interval() {
        let mut index = Index::new(100);
        for (at, entries) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)] {
            index.note(at, at * 100, 100, at.into());
            assert_eq!((index.offsets.len(), index.kafkas.offsets), (entries, entries as u64), "{at}");
        }
        assert_eq!([0, 1, 2, 3, 4, 9].map(|offset| index.position(offset)), [0, 0, 200, 200, 400, 400]);
    }

    #[test]
    fn an_index_is_full_when_one_of_its_files_is() {
        let with_entries = |count: u32, ms: &dyn Fn(u32) -> i64| {
            let mut index = Index::new(0);
            (0..=count).for_each(|at| index.note(at, at * 100, 100, ms(at)));
            index
        };
        let same_time = with_entries(12, &|_| 7);
        assert_eq!([103, 104].map(|bytes| same_time.is_full(bytes)), [true, false]);
        let rising = with_entries(12, &|at| at.into());
        assert_eq!([104, 167, 168].map(|bytes| rising.is_full(bytes)), [true, true, false]);
        let reread = |index: &Index| Index::decode(&index.encode_offsets(), &index.encode_times(), 1300, 13, 0).unwrap();
        assert_eq!([103, 104].map(|bytes| reread(&same_time).is_full(bytes)), [true, false]);
        assert_eq!([104, 167, 168].map(|bytes| reread(&rising).is_full(bytes)), [true, true, false]);
    }

    #[test]
    fn files_round_trip_and_nonsense_is_refused() {
        let mut index = Index::new(100);
        for i in 0..50u32 {
            index.note(i, i * 60, 60, 1000 + i as i64);
        }
        let (offsets, times) = (index.encode_offsets(), index.encode_times());
        let back = Index::decode(&offsets, &times, 3000, 50, 100).unwrap();
        assert_eq!((&back.offsets, back.max), (&index.offsets, Some((1049, 49))));
        assert_eq!((index.times_known(), back.times_known()), (TimesKnown::Made, TimesKnown::Stored));
        assert_eq!(back.samples(4).len(), 4);
        assert_eq!(Index::new(100).samples(4), [0]);
        assert_eq!(Index::decode(&offsets[1..], &times, 3000, 50, 100), None);
        assert_eq!(Index::decode(&offsets, &times, 2000, 50, 100), None);
        assert_eq!(Index::decode(&offsets, &times, 3000, 49, 100), None);
        assert_eq!(Index::decode(&[0; 16], &times, 3000, 50, 100), None);
    }
}
