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
use crate::wire::batch::{BatchHeader, MAGIC, NO_TIMESTAMP};
use crate::wire::compression::INFLATED_MAX;

/// The walking buffer's first and largest size in bytes.
const FIRST_WINDOW: u64 = 64 << 10;
const WINDOW: u64 = 1 << 20;
/// Bytes of a batch header.
pub(super) const HEADER: usize = 61;
/// Where the format's version stands in it.
const MAGIC_AT: usize = 16;
/// What a look at a batch costs of a turn's budget, in inflated bytes.
const LOOK_COST: usize = 128;
/// So many bytes cost as much in a checksum as one that is inflated.
const CRC_CHEAPER: usize = 16;

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
    pub damaged: bool,
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

    /// Reads little at first: not much of the file is asked for.
    pub fn briefly(mut self) -> Self {
        self.window = 2 * BLOCK as u64;
        self
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
                None => self.rt.memory().chunk_to_read(len).await,
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
            let len = bytes.len();
            at += len as u64;
            self.rt.slices().pass(len / CRC_CHEAPER).await;
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
        self.rt.slices().pass(LOOK_COST).await;
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

    /// Where it goes on behind the damaged batch at `at`, and those that follow it; `None` when that
    /// was not flushed, or is not to be found.
    async fn behind(&mut self, at: &End, bad: &Bad) -> Result<Option<End>, LogError> {
        if at.next >= self.bounds.flushed {
            return Ok(None);
        }
        // Its length may be what is damaged, and lead past sound batches: those come first.
        let told = self.by_lengths(at, bad).await?;
        let found = self.scan(at, told).await?.or(told);
        let nothing = || (self.bounds.flushed == Offset::MAX).then_some(End { position: self.size, ..*at });
        Ok(found.or_else(nothing))
    }

    /// The next sound batch, by the length of each damaged one.
    async fn by_lengths(&mut self, at: &End, bad: &Bad) -> Result<Option<End>, LogError> {
        let (mut place, mut len) = (*at, bad.len);
        while let Some(step) = len {
            place.position += step;
            if place.position >= self.size {
                return Ok(None);
            }
            match self.judge(&place, Trust::Complete).await? {
                Ok(sound) if sound.base_offset > self.bounds.flushed => return Ok(None),
                Ok(sound) => return Ok(Some(End { next: sound.base_offset, ..place })),
                Err(bad) => len = bad.len,
            }
        }
        Ok(None)
    }

    /// The next sound batch at any byte behind the start of the damaged one at `at`, before `told`.
    /// Records may hold what looks like a batch, so that one counts only where sound ones follow it
    /// up to `told`; without that, where the file or another header does, or where it is the next
    /// one by its offset.
    async fn scan(&mut self, at: &End, told: Option<End>) -> Result<Option<End>, LogError> {
        let upto = told.map_or(self.size, |told| told.position);
        let damaged = BatchHeader::parse(self.at(at.position, HEADER).await?);
        let expected = damaged.ok().and_then(|header| end_of_header(&header));
        let mut position = at.position + 1;
        while let Some(candidate) = self.candidate(at, position, upto).await? {
            let place = End { position: candidate, ..*at };
            if let Ok(header) = self.judge(&place, Trust::Complete).await? {
                let behind = End { position: candidate + header.total_len() as u64, next: header.next_offset(), ..*at };
                let confirmed = match told {
                    Some(told) => self.leads_to(behind, told.position).await?,
                    None if Some(header.base_offset) == expected => true,
                    None => self.is_followed(&behind).await?,
                };
                if confirmed {
                    return Ok(Some(End { next: header.base_offset, ..place }));
                }
            }
            position = candidate + 1;
        }
        Ok(None)
    }

    /// The first place from `position` on, before `upto`, where the bytes look like the header of a
    /// flushed batch that can follow `at`.
    async fn candidate(&mut self, at: &End, mut position: u64, upto: u64) -> Result<Option<u64>, LogError> {
        let (size, bounds) = (self.size, self.bounds);
        let offsets = at.next..=bounds.flushed.min(bounds.limit - 1);
        while position < upto && position + HEADER as u64 <= size {
            let bytes = self.at(position, HEADER).await?;
            let places = bytes.len().saturating_sub(HEADER - 1).max(1);
            let fits = |n: &usize| {
                bytes.get(n + MAGIC_AT).is_some_and(|magic| *magic == MAGIC as u8)
                    && BatchHeader::parse(&bytes[*n..]).is_ok_and(|header| {
                        let end = position + (*n + header.total_len()) as u64;
                        offsets.contains(&header.base_offset) && end <= size
                    })
            };
            let found = (0..places).take_while(|n| position + (*n as u64) < upto).find(fits);
            if let Some(n) = found {
                return Ok(Some(position + n as u64).filter(|found| found + HEADER as u64 <= size));
            }
            position += places as u64;
            // Every byte was looked at.
            self.rt.slices().pass(places).await;
        }
        Ok(None)
    }

    /// Whether sound batches lie between `from` and `position`, which is the end of the last one.
    async fn leads_to(&mut self, mut from: End, position: u64) -> Result<bool, LogError> {
        while from.position < position {
            let Ok(header) = self.judge(&from, Trust::Complete).await? else { return Ok(false) };
            from.position += header.total_len() as u64;
            from.next = header.next_offset();
        }
        Ok(from.position == position)
    }

    /// Whether the file ends at `behind`, or a header that can be the next one stands there.
    async fn is_followed(&mut self, behind: &End) -> Result<bool, LogError> {
        if behind.position >= self.size {
            return Ok(true);
        }
        let next = BatchHeader::parse(self.at(behind.position, HEADER).await?);
        Ok(next.is_ok_and(|next| next.base_offset >= behind.next && next.base_offset < self.bounds.limit))
    }

    /// Looks for the batch that holds `offset`, or the next one, from the batch at `from` on.
    pub async fn find(&mut self, from: End, offset: Offset) -> Result<Found, LogError> {
        let mut at = from;
        while at.position < self.size {
            let bad = match self.judge(&at, Trust::Complete).await? {
                Ok(header) if header.next_offset() > offset => return Ok(Found::Sound(at)),
                Ok(header) => {
                    at.position += header.total_len() as u64;
                    at.next = header.next_offset();
                    continue;
                }
                Err(bad) => bad,
            };
            let behind = self.behind(&at, &bad).await?.filter(|behind| behind.position < self.size);
            match behind {
                Some(behind) if behind.next <= offset => at = behind,
                _ => {
                    let end = behind.map_or(self.size, |behind| behind.position);
                    let whole = bad.len.is_some_and(|len| at.position + len == end);
                    let (position, reason) = (at.position, bad.reason);
                    let next = behind.map(|behind| behind.next);
                    return Ok(Found::Damaged { position, end, whole, next, reason });
                }
            }
        }
        Ok(Found::Nothing)
    }

    /// Whether the batch that holds `offset` has this largest timestamp (ms). A batch at or before it
    /// lies at `from`.
    pub async fn has_time(&mut self, from: u64, offset: Offset, ms: i64) -> Result<bool, LogError> {
        let (mut position, mut next) = (from, self.bounds.base);
        while position < self.size {
            self.window = 2 * BLOCK as u64;
            let Ok(header) = BatchHeader::parse(self.at(position, HEADER).await?) else { return Ok(false) };
            let Some(end) = end_of_header(&header).filter(|_| header.base_offset >= next) else { return Ok(false) };
            if header.base_offset > offset {
                return Ok(false);
            }
            if end > offset {
                return Ok(self.with_time(position, header).await?.max_timestamp == ms);
            }
            next = end;
            position += header.total_len() as u64;
        }
        Ok(false)
    }
}

/// The offset behind the batch of a header that may be damaged.
fn end_of_header(header: &BatchHeader) -> Option<Offset> {
    let delta = Offset::from(header.last_offset_delta);
    header.base_offset.checked_add(delta)?.checked_add(1).filter(|_| delta >= 0)
}

/// Whether the index entry of offset `last` can be that of the batch that `bytes` begin with. An
/// older Kafka's tells the first one of several that were appended together, and the last offset of
/// all.
pub(super) fn fits_entry(mut bytes: &[u8], base: Offset, last: Offset) -> bool {
    let mut next = base;
    while let Ok(header) = BatchHeader::parse(bytes) {
        let Some(end) = end_of_header(&header).filter(|end| header.base_offset >= next && *end <= last + 1) else {
            return false;
        };
        if end == last + 1 {
            return true;
        }
        let Some(rest) = bytes.get(header.total_len()..) else { return false };
        (bytes, next) = (rest, end);
    }
    false
}

/// See [`Walk::find`].
pub(super) enum Found {
    /// It is here, and sound.
    Sound(End),
    /// It is among the damaged bytes.
    Damaged {
        position: u64,
        end: u64,
        /// One batch with a whole header, as far as can be said.
        whole: bool,
        /// The offset of the batch at `end`, if there is one.
        next: Option<Offset>,
        reason: &'static str,
    },
    /// There is none.
    Nothing,
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
    let end = walk.batches(End::start(base), Trust::Complete, &mut each).await?;
    match end.reason {
        None => Ok(index),
        Some(reason) => Err(LogError::corrupt(path, end.position, reason)),
    }
}

/// Whether the largest timestamp (ms) of a stored time index of a complete segment, and the offset of
/// its batch, are those of a batch, which lies at `from` or behind, and the batches at these positions
/// tell their largest timestamp.
pub(super) async fn proves_times<R: Rt>(
    rt: &R,
    path: &Path,
    segment: (Offset, u64),
    positions: &[u32],
    largest: (u64, Offset, i64),
) -> Result<bool, LogError> {
    let (base, size) = segment;
    let (from, offset, ms) = largest;
    let file = rt.open(path, Open::Read).await.map_err(LogError::io_or_exhausted("open", path))?;
    let mut walk = Walk::<R>::new(rt, &file, path, size, Bounds::complete(base, Offset::MAX));
    for position in positions.iter().filter(|position| u64::from(**position) < size) {
        walk.window = 2 * BLOCK as u64;
        let header = BatchHeader::parse(walk.at((*position).into(), HEADER).await?);
        if header.is_ok_and(|header| header.time_unknown()) {
            return Ok(false);
        }
    }
    walk.has_time(from, offset, ms).await
}

/// [`Walk::has_time`] of the segment of `base`, whose batches end at `size`.
pub(super) async fn has_time<R: Rt>(rt: &R, path: &Path, segment: (Offset, u64), largest: (u64, Offset, i64)) -> Result<bool, LogError> {
    proves_times(rt, path, segment, &[], largest).await
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
