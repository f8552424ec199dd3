//! Walking through the batches of a segment's file, and judging each.
//!
//! Memory is bounded: files are walked through one buffer, and checksums of larger batches are computed piecewise.

use std::path::Path;

use super::error::LogError;
use super::index::Index;
use super::span::{block_ceil, block_floor};
use super::{files, lookup};
use crate::base::ids::{LeaderEpoch, Offset};
use crate::base::limits::BLOCK;
use crate::rt::mem::Chunk;
use crate::rt::{Open, Rt};
use crate::wire::batch::{BatchHeader, NO_TIMESTAMP};
use crate::wire::compression::INFLATED_MAX;

/// The walking buffer's first and largest size in bytes.
const FIRST_WINDOW: u64 = 64 << 10;
const WINDOW: u64 = 1 << 20;
/// Bytes of a batch header.
pub(super) const HEADER: usize = 61;

/// A segment's file seen through one buffer.
pub(super) struct Walk<'a, R: Rt> {
    rt: &'a R,
    file: &'a R::File,
    path: &'a Path,
    size: u64,
    bounds: Bounds,
    /// Position of the buffer's first byte.
    start: u64,
    /// Bytes of the next read: there may be little to look at.
    window: u64,
    chunk: Option<Chunk>,
    /// Damaged batches were passed over.
    damaged: bool,
    /// A batch did not tell its largest timestamp.
    pub lacked_times: bool,
}

/// Offsets that the batches of a segment can have.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Base offset of the segment.
    pub base: Offset,
    /// Base offset of the next segment; `Offset::MAX` without one.
    pub limit: Offset,
    /// All below was flushed. A batch there that cannot be right is damaged, not torn: the sound ones behind it count.
    pub flushed: Offset,
}

impl Bounds {
    /// Of a segment with a successor, which was flushed before that got its name.
    pub fn complete(base: Offset, limit: Offset) -> Bounds {
        Bounds { base, limit, flushed: Offset::MAX }
    }
}

/// How strictly batches are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Headers only: these bytes were flushed, or the log was closed properly.
    Flushed,
    /// Everything, checksums too. Offsets may be missing: the segment was complete, and perhaps compacted.
    Complete,
    /// Each batch has to start where the one before it ends, too.
    Nothing,
}

/// Where a walk ended.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub position: u64,
    pub next: Offset,
    pub epoch: LeaderEpoch,
    /// Why it ended before the file did.
    pub reason: Option<&'static str>,
}

impl End {
    /// Before the first batch of a segment.
    pub fn start(base: Offset) -> End {
        End { position: 0, next: base, epoch: -1, reason: None }
    }
}

/// A batch that cannot be right.
struct Bad {
    reason: &'static str,
    /// Its length in bytes, if that can be right.
    len: Option<u64>,
}

/// See [`ending`].
#[derive(Default)]
pub(super) struct Ending {
    pub base: Offset,
    pub size: u64,
    /// The bytes behind the last whole block.
    pub tail: Box<[u8]>,
    /// The largest timestamp (ms) of the first batch, if it has one.
    pub since_ms: Option<i64>,
}

impl<'a, R: Rt> Walk<'a, R> {
    pub fn new(rt: &'a R, file: &'a R::File, path: &'a Path, size: u64, bounds: Bounds) -> Self {
        Walk { rt, file, path, size, bounds, start: 0, window: FIRST_WINDOW, chunk: None, damaged: false, lacked_times: false }
    }

    /// The bytes from `position` on: at least `want` (at most a few hundred) of them, or what is left of the file.
    pub async fn at(&mut self, position: u64, want: usize) -> Result<&[u8], LogError> {
        let held = self.chunk.as_ref().map_or(0, |c| c.len() as u64);
        let enough = position >= self.start && (position + want as u64).min(self.size) <= self.start + held;
        if !enough {
            let start = block_floor(position);
            let len = (self.size - start).next_multiple_of(BLOCK as u64).min(self.window) as usize;
            self.window = (self.window * 4).min(WINDOW);
            let mut chunk = match self.chunk.take().filter(|chunk| chunk.capacity() >= len) {
                Some(chunk) => chunk,
                None => self.rt.memory().chunk(len).await,
            };
            assert!(chunk.try_reset(), "nothing of it was handed out");
            let len = len.min(chunk.capacity());
            let (result, chunk) = self.rt.read_at(self.file, start, chunk, len).await;
            result.map_err(LogError::io("read", self.path))?;
            if start + (chunk.len() as u64) < (position + want as u64).min(self.size) {
                return Err(LogError::corrupt(self.path, start, "the file ends before its length"));
            }
            self.start = start;
            self.chunk = Some(chunk);
        }
        let chunk = self.chunk.as_ref().expect("just read");
        Ok(&chunk.filled()[(position - self.start) as usize..])
    }

    /// See [`ending`].
    pub async fn ending(&mut self, base: Offset, size: u64) -> Result<Ending, LogError> {
        let tail = match (size % BLOCK as u64) as usize {
            0 => Box::default(),
            head => self.at(block_floor(size), head).await?[..head].into(),
        };
        Ok(Ending { base, size, tail, since_ms: self.first_timestamp().await? })
    }

    /// The largest timestamp (ms) of the file's first batch, if it has one.
    async fn first_timestamp(&mut self) -> Result<Option<i64>, LogError> {
        if self.size == 0 {
            return Ok(None);
        }
        self.window = BLOCK as u64;
        let Ok(header) = BatchHeader::parse(self.at(0, HEADER).await?) else { return Ok(None) };
        let header = self.with_time(0, header).await?;
        Ok(Some(header.max_timestamp).filter(|ms| *ms >= 0))
    }

    /// The header of the batch at `position`, with the largest timestamp of its records where only
    /// they tell it.
    async fn with_time(&mut self, position: u64, header: BatchHeader) -> Result<BatchHeader, LogError> {
        let end = position + header.total_len() as u64;
        self.lacked_times |= header.time_unknown();
        if !header.time_unknown() || end > self.size || header.total_len() > INFLATED_MAX {
            return Ok(header);
        }
        let start = block_floor(position);
        let len = block_ceil(end - start) as usize;
        // It is as long as it says, for the file holds it.
        let chunk = self.rt.memory().chunk_now(len);
        let (result, chunk) = self.rt.read_at(self.file, start, chunk, len).await;
        result.map_err(LogError::io("read", self.path))?;
        let filled = (chunk.len() as u64).min(end - start) as usize;
        let batch = chunk.slice((position - start) as usize..filled);
        Ok(lookup::with_time(self.rt, &header, &batch).await)
    }

    /// True when the batch at `position` has the checksum that its header tells.
    async fn crc_ok(&mut self, position: u64, header: &BatchHeader) -> Result<bool, LogError> {
        let (mut at, end) = (position + 21, position + header.total_len() as u64);
        let mut crc = 0;
        while at < end {
            let bytes = self.at(at, 1).await?;
            let bytes = &bytes[..bytes.len().min((end - at) as usize)];
            crc = crc32c::crc32c_append(crc, bytes);
            at += bytes.len() as u64;
        }
        Ok(crc == header.crc)
    }

    /// Walks batches from `from` on, up to the first one that cannot be right. Damaged ones in a part that was flushed are passed over.
    pub async fn batches(&mut self, from: End, trust: Trust, each: &mut dyn FnMut(&BatchHeader, u64)) -> Result<End, LogError> {
        let mut end = from;
        while end.position < self.size {
            let bad = match self.judge(&end, trust).await? {
                Ok(header) => {
                    each(&self.with_time(end.position, header).await?, end.position);
                    let position = end.position + header.total_len() as u64;
                    end = End { position, next: header.next_offset(), epoch: header.partition_leader_epoch, reason: None };
                    continue;
                }
                Err(bad) => bad,
            };
            let Some(behind) = self.behind(&end, &bad).await? else { return Ok(End { reason: Some(bad.reason), ..end }) };
            tracing::error!(
                "{}: {} at byte {} (offset {}): {} bytes are damaged, and stay as they are",
                self.path.display(),
                bad.reason,
                end.position,
                end.next,
                behind.position - end.position,
            );
            (end, self.damaged) = (behind, true);
        }
        Ok(end)
    }

    /// The header of the batch at `at`, or what is wrong with it.
    async fn judge(&mut self, at: &End, trust: Trust) -> Result<Result<BatchHeader, Bad>, LogError> {
        let bytes = self.at(at.position, HEADER).await?;
        let Ok(header) = BatchHeader::parse(bytes) else {
            let zero = bytes.iter().take(HEADER).all(|b| *b == 0);
            return Ok(Err(Bad { reason: if zero { "zeros" } else { "no batch header" }, len: None }));
        };
        let len = header.total_len() as u64;
        if len > self.size - at.position {
            return Ok(Err(Bad { reason: "a batch longer than the file", len: None }));
        }
        let bad = |reason| Ok(Err(Bad { reason, len: Some(len) }));
        let gap = header.base_offset != at.next;
        if header.base_offset < at.next || header.last_offset_delta < 0 || (gap && trust == Trust::Nothing) {
            return bad("a batch whose offset is not the next one");
        }
        let last = header.base_offset.checked_add(header.last_offset_delta.into());
        if last.is_none_or(|last| last >= self.bounds.limit || last - self.bounds.base > i32::MAX.into()) {
            return bad("a batch whose offsets lie beyond its segment");
        }
        if trust != Trust::Flushed {
            if header.partition_leader_epoch < at.epoch {
                return bad("a batch of an earlier leader");
            }
            if !self.crc_ok(at.position, &header).await? {
                return bad("a batch whose checksum is wrong");
            }
        }
        // Neither is covered by the checksum.
        let unusual = gap || header.partition_leader_epoch > at.epoch;
        if unusual && at.next < self.bounds.flushed && self.contradicted(&header, at.position + len).await? {
            return bad("a batch whose offset or leader epoch is above that of the next one");
        }
        Ok(Ok(header))
    }

    /// True when the batch at `behind` cannot come after that of `header`.
    async fn contradicted(&mut self, header: &BatchHeader, behind: u64) -> Result<bool, LogError> {
        if behind >= self.size {
            return Ok(false);
        }
        let next = BatchHeader::parse(self.at(behind, HEADER).await?);
        let earlier =
            |next: BatchHeader| next.base_offset < header.next_offset() || next.partition_leader_epoch < header.partition_leader_epoch;
        Ok(next.is_ok_and(earlier))
    }

    /// Where it goes on behind the damaged batch at `at`, and those that follow it; `None` when that was not flushed, or is not to be found.
    async fn behind(&mut self, at: &End, bad: &Bad) -> Result<Option<End>, LogError> {
        let (mut place, mut len) = (*at, bad.len.filter(|_| at.next < self.bounds.flushed));
        while let Some(step) = len {
            place.position += step;
            if place.position >= self.size {
                return Ok(Some(place).filter(|_| self.bounds.flushed == Offset::MAX));
            }
            match self.judge(&place, Trust::Complete).await? {
                Ok(sound) if sound.base_offset <= self.bounds.flushed => return Ok(Some(End { next: sound.base_offset, ..place })),
                Ok(_) => return Ok(None),
                Err(bad) => len = bad.len,
            }
        }
        Ok(None)
    }
}

/// Builds the index of a complete segment, or of one whose end is known, from its batches. The next segment begins at `limit`.
pub(super) async fn walk_index<R: Rt>(
    rt: &R,
    path: &Path,
    base: Offset,
    limit: Offset,
    size: u64,
    interval: u32,
) -> Result<Index, LogError> {
    let mut index = Index::new(interval);
    let file = rt.open(path, Open::Read).await.map_err(LogError::io_or_exhausted("open", path))?;
    let mut walk = Walk::<R>::new(rt, &file, path, size, Bounds::complete(base, limit));
    let mut each = |header: &BatchHeader, position| note(&mut index, base, header, position);
    let end = walk.batches(End::start(base), Trust::Flushed, &mut each).await?;
    match end.reason {
        None => Ok(index),
        Some(reason) => Err(LogError::corrupt(path, end.position, reason)),
    }
}

/// True if one of the batches at these positions of a complete segment does not tell its largest
/// timestamp.
pub(super) async fn lacks_times<R: Rt>(rt: &R, path: &Path, size: u64, positions: &[u32]) -> Result<bool, LogError> {
    let file = rt.open(path, Open::Read).await.map_err(LogError::io_or_exhausted("open", path))?;
    let mut walk = Walk::<R>::new(rt, &file, path, size, Bounds::complete(0, Offset::MAX));
    for position in positions.iter().filter(|position| u64::from(**position) < size) {
        walk.window = 2 * BLOCK as u64;
        let header = BatchHeader::parse(walk.at((*position).into(), HEADER).await?);
        if header.is_ok_and(|header| header.time_unknown()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The offset behind the last batch of the complete segment of `base` at `path`; an error unless all of its batches are sound.
pub(super) async fn end_of<R: Rt>(rt: &R, path: &Path, base: Offset) -> Result<Offset, LogError> {
    let size = rt.len_of(path).map_err(LogError::io("look at", path))?;
    let file = rt.open(path, Open::Read).await.map_err(LogError::io_or_exhausted("open", path))?;
    let mut walk = Walk::<R>::new(rt, &file, path, size, Bounds::complete(base, Offset::MAX));
    let end = walk.batches(End::start(base), Trust::Complete, &mut |_, _| ()).await?;
    match end.reason {
        Some(reason) => Err(LogError::corrupt(path, end.position, reason)),
        None if walk.damaged => Err(LogError::corrupt(path, 0, "not all of its batches are sound")),
        None => Ok(end.next),
    }
}

/// The largest timestamp (ms) of a file's first batch, if it has one.
pub(super) async fn first_timestamp<R: Rt>(rt: &R, file: &R::File, path: &Path) -> Result<Option<i64>, LogError> {
    let size = rt.file_len(file).map_err(LogError::io("look at", path))?;
    Walk::<R>::new(rt, file, path, size, Bounds::complete(0, Offset::MAX)).first_timestamp().await
}

/// What has to be known of the segment of `base`, whose batches end at `size`, before more is appended to it.
pub(super) async fn ending<R: Rt>(rt: &R, dir: &Path, base: Offset, size: u64) -> Result<Ending, LogError> {
    let path = files::name(dir, base, "log");
    let file = rt.open(&path, Open::Read).await.map_err(LogError::io_or_exhausted("open", &path))?;
    Walk::<R>::new(rt, &file, &path, size, Bounds::complete(base, Offset::MAX)).ending(base, size).await
}

/// Enters a batch into the index of its segment.
pub(super) fn note(index: &mut Index, base: Offset, header: &BatchHeader, position: u64) {
    // A batch that compaction has left without records still tells their largest timestamp, but nobody could find it there.
    let max_timestamp = if header.records_count == 0 { NO_TIMESTAMP } else { header.max_timestamp };
    index.note((header.last_offset() - base) as u32, position as u32, header.total_len(), max_timestamp);
}
