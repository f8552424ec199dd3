//! Which part of a log is cleaned, and which segments become one.

use std::ops::Range;

use crate::base::ids::Offset;

/// A segment that nothing is appended to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    /// Its first offset.
    pub base: Offset,
    /// Bytes of its batches.
    pub size: u64,
    /// The first offset of the segment behind it.
    pub next: Offset,
}

/// How a topic's logs are compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `delete.retention.ms`: how long a tombstone stays after the first cleaning that it survived.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`: segments with a record younger than this stay as they are.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`: a log with an uncompacted record older than this is cleaned however little of it is dirty.
    pub max_lag_ms: i64,
    /// `min.cleanable.dirty.ratio` in millionths: a log is cleaned when more of it than this is dirty.
    pub min_dirty_ppm: u32,
}

/// The part of a log that a cleaning would take in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirt {
    /// First offset that is not compacted.
    pub from: Offset,
    /// Everything from here on is left as it is; not below `from`.
    pub upto: Offset,
    /// Bytes of segments below `from`.
    pub clean_bytes: u64,
    /// Bytes of segments between.
    pub dirty_bytes: u64,
    /// Something in it has been there for longer than `max.compaction.lag.ms`.
    pub overdue: bool,
}

impl Dirt {
    /// The dirty share of what can be cleaned, in millionths.
    pub fn dirty_ppm(&self) -> u32 {
        let total = u128::from(self.clean_bytes) + u128::from(self.dirty_bytes);
        (u128::from(self.dirty_bytes) * 1_000_000).checked_div(total).unwrap_or(0) as u32
    }

    /// Whether the log is to be cleaned now.
    pub fn due(&self, rules: &Rules) -> bool {
        self.dirty_bytes > 0 && (self.overdue || self.dirty_ppm() > rules.min_dirty_ppm)
    }

    /// What lies between `from` and `upto`, both among the offsets of `segments`.
    pub(super) fn measure(from: Offset, upto: Offset, segments: &[Sealed]) -> Dirt {
        let sum = |wanted: &dyn Fn(&Sealed) -> bool| segments.iter().filter(|s| wanted(s)).map(|s| s.size).sum();
        Dirt {
            from,
            upto: upto.max(from),
            clean_bytes: sum(&|s| s.next <= from),
            dirty_bytes: sum(&|s| s.next > from && s.next <= upto),
            overdue: false,
        }
    }
}

/// Neighbours that become one segment each: of at most `max_bytes` together, and with offsets that fit 31 bits from its base.
pub(super) fn groups(segments: &[Sealed], max_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, segment) in segments.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if bytes + segment.size <= max_bytes && segment.next - segments[group.start].base - 1 <= i64::from(i32::MAX) => {
                group.end = at + 1;
                bytes += segment.size;
            }
            _ => {
                groups.push(at..at + 1);
                bytes = segment.size;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(of: &[(Offset, u64)], end: Offset) -> Vec<Sealed> {
        let next = |at: usize| of.get(at + 1).map_or(end, |s| s.0);
        of.iter().enumerate().map(|(at, (base, size))| Sealed { base: *base, size: *size, next: next(at) }).collect()
    }

    #[test]
    fn a_log_is_due_by_ratio_or_age() {
        let all = segments(&[(0, 300), (10, 100), (20, 200), (30, 50)], 40);
        let rules = Rules { delete_retention_ms: 0, min_lag_ms: 0, max_lag_ms: 0, min_dirty_ppm: 500_000 };
        let dirt = Dirt::measure(10, 30, &all);
        assert_eq!((dirt.clean_bytes, dirt.dirty_bytes, dirt.dirty_ppm(), dirt.due(&rules)), (300, 300, 500_000, false));
        assert!(Dirt::measure(10, 40, &all).due(&rules));
        assert!(Dirt { overdue: true, ..dirt }.due(&rules));
        assert!(!Dirt { overdue: true, ..Dirt::measure(30, 30, &all) }.due(&rules));
        assert!(Dirt::measure(10, 15, &all).dirty_bytes == 0 && Dirt::measure(20, 10, &all).upto == 20);
        assert_eq!(Dirt::measure(0, 0, &[]).dirty_ppm(), 0);
    }

    #[test]
    fn small_segments_are_grouped() {
        let all = segments(&[(0, 40), (10, 60), (20, 1), (30, 150), (40, 0), (50, 100)], 60);
        assert_eq!(groups(&all, 100), [0..2, 2..3, 3..4, 4..6]);
        let far = segments(&[(0, 1), (1 << 31, 1), (3 << 30, 1)], (3 << 30) + 1);
        assert_eq!(groups(&far, 100), [0..1, 1..3]);
        assert!(groups(&[], 100).is_empty());
    }
}
