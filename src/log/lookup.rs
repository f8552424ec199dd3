//! Looking records up by time.

use super::error::LogError;
use super::{Inner, Log, Read, files, walk};
use crate::base::ids::{LeaderEpoch, Offset};
use crate::rt::Rt;
use crate::wire::batch::{BatchHeader, TimeSearch, Wanted};
use bytes::Bytes;

/// Bytes looked through at a time.
const STEP: usize = 1 << 20;
/// What a batch costs of a turn's budget, in inflated bytes.
const BATCH_COST: usize = 64;

/// A record that was looked up by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp (ms).
    pub timestamp: i64,
    /// The leader epoch of its batch.
    pub leader_epoch: LeaderEpoch,
}

impl Located {
    fn new(header: &BatchHeader, (offset, timestamp): (Offset, i64)) -> Located {
        Located { offset, timestamp, leader_epoch: header.partition_leader_epoch }
    }

    /// Its offset and timestamp (ms).
    pub fn place(self) -> (Offset, i64) {
        (self.offset, self.timestamp)
    }
}

/// Looks a record of the batch that `batch` begins with up by time, in slices. Of a batch that cannot
/// be read only the header counts.
async fn look<R: Rt>(rt: &R, header: &BatchHeader, batch: &Bytes, wanted: Wanted) -> Option<(Offset, i64)> {
    let mut search = match TimeSearch::new(batch, wanted) {
        Ok(search) => search,
        Err(_) => return told(header, wanted),
    };
    let slices = rt.slices();
    slices.spend(BATCH_COST);
    let done = slices.run(|budget| match search.step(budget) {
        Ok(false) => None,
        Ok(true) => Some(Ok(())),
        Err(error) => Some(Err(error)),
    });
    match done.await {
        Ok(()) => search.found(),
        Err(_) => told(header, wanted),
    }
}

/// As far as the header tells.
fn told(header: &BatchHeader, wanted: Wanted) -> Option<(Offset, i64)> {
    let (ts, from) = match wanted {
        Wanted::AtOrAfter { ts, from } => (ts, from),
        Wanted::Largest => (0, 0),
    };
    let within = header.max_timestamp >= ts && header.last_offset() >= from;
    within.then_some((header.base_offset.max(from), header.max_timestamp))
}

/// The header of the batch that `batch` begins with, with the largest timestamp of its records where
/// only they tell it.
pub(super) async fn with_time<R: Rt>(rt: &R, header: &BatchHeader, batch: &Bytes) -> BatchHeader {
    let largest = match header.time_unknown() {
        true => look(rt, header, batch, Wanted::Largest).await,
        false => None,
    };
    BatchHeader { max_timestamp: largest.map_or(header.max_timestamp, |(_, largest)| largest), ..*header }
}

impl<R: Rt> Log<R> {
    /// The first record from the log's start on and below `upto` whose timestamp is `ts` (ms) or
    /// later.
    pub async fn offset_for_timestamp(&self, ts: i64, upto: Offset) -> Result<Option<Located>, LogError> {
        let mut next = Some(self.start_offset());
        while let Some(offset) = next {
            let (from, behind) = self.0.where_to_look(offset, ts).await?;
            next = behind;
            let Some(from) = from else { continue };
            let end = behind.unwrap_or(upto).min(upto);
            let found = self.search(ts, from.max(self.start_offset()), end).await?;
            match found {
                // Deleted meanwhile.
                Some(found) if found.offset < self.start_offset() => next = Some(self.start_offset()),
                Some(_) => return Ok(found),
                None => {}
            }
        }
        Ok(None)
    }

    /// The first record below `upto` that has the largest timestamp. As in Kafka, it may be one that
    /// DeleteRecords has deleted and whose segment is still there.
    pub async fn max_timestamp_offset(&self, upto: Offset) -> Result<Option<Located>, LogError> {
        let mut best: Option<(i64, Offset)> = None;
        let mut next = Some(self.start_offset());
        while let Some(offset) = next {
            let _turn = self.0.indexed_times(offset).await?;
            let state = self.0.state.borrow();
            let at = state.segment_of(offset);
            next = state.segments.get(at + 1).map(|s| s.base);
            let max = state.segments[at].index.as_ref().and_then(|i| i.max_timestamp());
            if let Some((ts, last)) = max.filter(|(ts, _)| best.is_none_or(|(b, _)| *ts > b)) {
                best = Some((ts, state.segments[at].base + last as Offset));
            }
        }
        let Some((_, last)) = best else { return Ok(None) };
        let pieces = self.fetch(last, 1, upto).await?;
        let Some(batch) = pieces.first() else { return Ok(None) };
        let header = BatchHeader::parse(batch).map_err(|e| LogError::BadBatch(e.to_string()))?;
        let found = look(&self.0.rt, &header, batch, Wanted::Largest).await;
        Ok(found.map(|found| Located::new(&header, found)))
    }

    async fn fetch(&self, offset: Offset, max_bytes: usize, upto: Offset) -> Result<Vec<Bytes>, LogError> {
        match self.read(offset, max_bytes, upto, true) {
            Read::Hit(pieces) => Ok(pieces),
            Read::Miss(plan) => self.read_cold(plan).await,
        }
    }

    async fn search(&self, ts: i64, mut at: Offset, upto: Offset) -> Result<Option<Located>, LogError> {
        // The batch at `at` may hold deleted records too.
        let from = self.start_offset();
        while at < upto {
            let pieces = self.fetch(at, STEP, upto).await?;
            if pieces.is_empty() {
                return Ok(None);
            }
            for mut piece in pieces {
                while !piece.is_empty() {
                    let header = BatchHeader::parse(&piece).map_err(|e| LogError::BadBatch(e.to_string()))?;
                    let batch = piece.split_to(header.total_len().min(piece.len()));
                    let found = look(&self.0.rt, &header, &batch, Wanted::AtOrAfter { ts, from }).await;
                    if let Some(found) = found {
                        return Ok(Some(Located::new(&header, found)));
                    }
                    at = header.next_offset();
                }
            }
        }
        Ok(None)
    }
}

impl<R: Rt> Inner<R> {
    /// Where to begin to look for a record of `ts` (ms) or later in the segment of `offset`; `None` if
    /// it has none. And where the next segment begins.
    async fn where_to_look(&self, offset: Offset, ts: i64) -> Result<(Option<Offset>, Option<Offset>), LogError> {
        loop {
            // What is read must not be replaced meanwhile.
            let _turn = self.indexed_times(offset).await?;
            let (base, kind, entry, stored, position) = {
                let state = self.state.borrow();
                let at = state.segment_of(offset);
                let (segment, next) = (&state.segments[at], state.segments.get(at + 1).map(|s| s.base));
                // Given up while the gate was closed.
                let Some(index) = &segment.index else { continue };
                if index.max_timestamp().is_none_or(|(max, _)| max < ts) {
                    return Ok((None, next));
                }
                let Some((ms, last)) = index.before_time(ts) else { return Ok((Some(segment.base), next)) };
                let stored = index.stored().filter(|stored| last <= stored.largest.1);
                let from = segment.base + Offset::from(last);
                let Some(stored) = stored else { return Ok((Some(from), next)) };
                (segment.base, segment.kind(), (ms, from, next), stored, index.position(last))
            };
            let (path, (ms, from, next)) = (files::name(&self.dir, base, kind), entry);
            if walk::has_time(&self.rt, &path, (base, stored.size), (position.into(), from, ms)).await? {
                return Ok((Some(from), next));
            }
            tracing::warn!("{}: its stored time index does not fit its batches: it is made anew", path.display());
            self.make_index(base).await?;
        }
    }
}
