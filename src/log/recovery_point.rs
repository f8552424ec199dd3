//! A log's own recovery point: what a start after a crash needs to know of the last segment so that it looks only at what lies behind.
//!
//! Kafka's `recovery-point-offset-checkpoint` tells an offset, for all partitions, once a minute. This file is replaced whenever so much has
//! been appended, and tells the position in the segment, its index up to there and the state of producers. It is written after all below was
//! flushed, but not flushed itself: whoever reads it trusts its checksum, and that the log still has the batch which was the last one then.

use std::path::Path;

use super::Inner;
use super::error::LogError;
use super::index::Index;
use super::state::State;
use crate::base::ids::Offset;
use crate::rt::{Class, Rt};
use crate::wire::batch::BatchHeader;

/// The file's name; one that Kafka does not know and leaves alone.
pub(super) const NAME: &str = "corelane-recovery-point";
/// Bytes that all logs of a process together let grow behind their recovery points, about: so many are checked after a crash.
const BEHIND: u64 = 512 << 20;
/// The part of one log, at least and at most: with very many busy logs more is checked, or they would do little but set recovery points.
const LEAST_SHARE: u64 = 4 << 20;
const MOST_SHARE: u64 = 64 << 20;
const _: () = assert!(LEAST_SHARE <= MOST_SHARE && MOST_SHARE <= BEHIND);
const VERSION: u8 = 0;
/// Bytes of a batch header.
const HEADER: usize = 61;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RecoveryPoint {
    /// Base offset of the segment, which was the last one.
    pub segment: Offset,
    /// Bytes of the segment that lie below the recovery point.
    pub position: u32,
    /// The header of the last batch below, as it is stored; empty at the segment's start.
    pub last: Vec<u8>,
    /// The segment's index up to here, in the form of the `.index` and of the `.timeindex` file.
    pub offsets: Vec<u8>,
    pub times: Vec<u8>,
    /// State of producers, opaque here.
    pub snapshot: Vec<u8>,
}

impl RecoveryPoint {
    /// At the end of a log; `None` where nothing was appended to the last segment since the log was opened or idle.
    fn at_end<F>(state: &State<F>, snapshot: Vec<u8>) -> Option<RecoveryPoint> {
        let (segment, span) = (state.segments.last()?, state.active.as_ref()?);
        let last = span.last_batch().filter(|batch| batch.len() >= HEADER)?[..HEADER].to_vec();
        let index = segment.index.as_ref()?;
        let (offsets, times) = (index.encode_offsets(), index.encode_times());
        Some(RecoveryPoint { segment: segment.base, position: segment.size as u32, last, offsets, times, snapshot })
    }

    /// The header of the last batch below; `None` at the segment's start.
    pub fn last_header(&self) -> Option<BatchHeader> {
        BatchHeader::parse(&self.last).ok()
    }

    /// All below is flushed.
    pub fn offset(&self) -> Offset {
        self.last_header().map_or(self.segment, |header| header.next_offset())
    }

    /// The segment's index up to here, which goes on with an entry after every `interval` bytes.
    pub fn index(&self, interval: u32) -> Option<Index> {
        match self.position {
            0 => Some(Index::new(interval)),
            size => Index::decode(&self.offsets, &self.times, size.into(), self.offset().checked_sub(self.segment)?, interval),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let parts = [&self.last, &self.offsets, &self.times, &self.snapshot];
        let mut out = vec![VERSION, 0, 0, 0, 0];
        out.extend(self.segment.to_be_bytes());
        out.extend(self.position.to_be_bytes());
        for part in parts {
            out.extend((part.len() as u32).to_be_bytes());
            out.extend(part);
        }
        let crc = crc32c::crc32c(&out[5..]);
        out[1..5].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// `None` where the bytes are not what was once encoded.
    pub fn decode(bytes: &[u8]) -> Option<RecoveryPoint> {
        let (version, rest) = bytes.split_first()?;
        let (crc, mut rest) = rest.split_first_chunk::<4>()?;
        if *version != VERSION || u32::from_be_bytes(*crc) != crc32c::crc32c(rest) {
            return None;
        }
        let (segment, position);
        (segment, rest) = rest.split_first_chunk::<8>()?;
        (position, rest) = rest.split_first_chunk::<4>()?;
        let mut part = || {
            let (len, behind) = rest.split_first_chunk::<4>()?;
            let (part, behind) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
            rest = behind;
            Some(part.to_vec())
        };
        let (last, offsets, times, snapshot) = (part()?, part()?, part()?, part()?);
        let point = RecoveryPoint {
            segment: Offset::from_be_bytes(*segment),
            position: u32::from_be_bytes(*position),
            last,
            offsets,
            times,
            snapshot,
        };
        let at_start = point.position == 0 && point.last.is_empty();
        let behind = point.last_header().is_some_and(|h| h.total_len() as u64 <= point.position.into() && h.base_offset >= point.segment);
        (rest.is_empty() && (at_start || behind)).then_some(point)
    }
}

/// The stored recovery point, if there is one that is whole.
pub(super) fn read<R: Rt>(rt: &R, dir: &Path) -> Option<RecoveryPoint> {
    RecoveryPoint::decode(&rt.read_file(&dir.join(NAME)).ok()?)
}

impl<R: Rt> Inner<R> {
    /// True when so much was appended that a new recovery point is to be set.
    pub(super) fn recovery_point_due(&self) -> bool {
        let state = self.state.borrow();
        let share = || (BEHIND / self.rt.cores() as u64 / self.cache.active().max(1) as u64).clamp(LEAST_SHARE, MOST_SHARE);
        state.behind_point >= LEAST_SHARE && state.point.is_none() && !state.storing_point && state.behind_point >= share()
    }

    /// Sets the recovery point to the log's end, stored when that is flushed. The offset, if somebody has to ask for the flush.
    pub(super) fn set_recovery_point(&self, snapshot: Vec<u8>) -> Option<Offset> {
        let mut state = self.state.borrow_mut();
        state.behind_point = 0;
        let point = RecoveryPoint::at_end(&state, snapshot)?;
        let end = state.end;
        state.point = Some((end, point.encode()));
        Some(end)
    }

    /// Stores the recovery point in the background, once all below it is flushed.
    pub(super) fn store_recovery_point(&self) {
        let mut state = self.state.borrow_mut();
        let flushed = state.flushed;
        if self.deleted.get() || state.storing_point || state.point.as_ref().is_none_or(|(offset, _)| *offset > flushed) {
            return;
        }
        let (Some((_, content)), Some(this)) = (state.point.take(), self.this.upgrade()) else { return };
        state.storing_point = true;
        self.rt.spawn(Class::Background, async move {
            if let Err(e) = this.replace_unflushed(content).await {
                tracing::warn!("{e}; a start after a crash has more to check");
            }
            this.state.borrow_mut().storing_point = false;
            this.store_recovery_point();
            this.wake_waiters();
        });
    }

    /// After a failure of the machine the file may be the old one, or not whole.
    async fn replace_unflushed(&self, content: Vec<u8>) -> Result<(), LogError> {
        let path = self.dir.join(NAME);
        let beside = path.with_extension("tmp");
        self.rt.write_file(&beside, content).await.map_err(LogError::io("write", &beside))?;
        self.rt.rename(&beside, &path).map_err(LogError::io("rename", &beside))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(base: Offset, len: u32) -> Vec<u8> {
        let mut header = vec![0; HEADER];
        header[..8].copy_from_slice(&base.to_be_bytes());
        header[8..12].copy_from_slice(&(len - 12).to_be_bytes());
        header[16] = 2;
        header
    }

    proptest! {
        #[test]
        fn round_trips_and_no_other_bytes_are_taken(
            base in 0..1000i64, position in 100..u32::MAX, sizes in (0..200usize, 0..200usize, 0..200usize), at in any::<prop::sample::Index>(),
            change in 1..=255u8,
        ) {
            let parts = (vec![1; sizes.0], vec![2; sizes.1], vec![3; sizes.2]);
            let point = RecoveryPoint { segment: 0, position, last: header(base, 100), offsets: parts.0, times: parts.1, snapshot: parts.2 };
            let bytes = point.encode();
            prop_assert_eq!(RecoveryPoint::decode(&bytes), Some(point));
            let mut other = bytes.clone();
            other[at.index(bytes.len())] ^= change;
            prop_assert_eq!(RecoveryPoint::decode(&other), None);
            prop_assert_eq!(RecoveryPoint::decode(&bytes[..at.index(bytes.len())]), None);
        }

        #[test]
        fn nothing_read_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            RecoveryPoint::decode(&bytes);
            let mut signed = [vec![VERSION, 0, 0, 0, 0], bytes].concat();
            let crc = crc32c::crc32c(&signed[5..]);
            signed[1..5].copy_from_slice(&crc.to_be_bytes());
            if let Some(point) = RecoveryPoint::decode(&signed) {
                point.index(4096);
            }
        }
    }

    #[test]
    fn a_segment_may_have_nothing_below_it() {
        let point = RecoveryPoint { segment: 70, snapshot: vec![1], ..RecoveryPoint::default() };
        assert_eq!(RecoveryPoint::decode(&point.encode()), Some(point.clone()));
        assert_eq!((point.offset(), point.index(100)), (70, Some(Index::new(100))));
        let nowhere = RecoveryPoint { position: 5, ..point };
        assert_eq!(RecoveryPoint::decode(&nowhere.encode()), None);
    }
}
