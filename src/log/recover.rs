//! Opening a log: what is there, where it ends, and after an unclean end which of it can be trusted.
//!
//! Memory is bounded: files are walked through one buffer, and checksums of larger batches are computed piecewise.

use std::path::Path;

use super::error::LogError;
use super::files;
use super::index::{Index, TimesKnown};
use super::recovery_point::{self, RecoveryPoint};
use super::span::{block_ceil, block_floor};
use super::state::{Segment, State};
use super::{LogConfig, Opening, Replay, compact, lookup};
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
const HEADER: usize = 61;

/// A file seen through one buffer.
struct Walk<'a, R: Rt> {
    rt: &'a R,
    file: &'a R::File,
    path: &'a Path,
    size: u64,
    /// Position of the buffer's first byte.
    start: u64,
    /// Bytes of the next read: there may be little to look at.
    window: u64,
    chunk: Option<Chunk>,
    /// A batch did not tell its largest timestamp.
    lacked_times: bool,
}

/// How strictly batches are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Headers only: these bytes were flushed, or the log was closed properly.
    Flushed,
    /// Everything, checksums too. Offsets may be missing: the segment was complete, and perhaps compacted.
    Complete,
    /// Each batch has to start where the one before it ends, too.
    Nothing,
}

/// Where a walk ended.
struct End {
    position: u64,
    next: Offset,
    epoch: LeaderEpoch,
    /// Why it ended before the file did.
    reason: Option<&'static str>,
}

/// See [`ending`].
#[derive(Default)]
pub(super) struct Ending {
    base: Offset,
    size: u64,
    /// The bytes behind the last whole block.
    pub tail: Box<[u8]>,
    /// The largest timestamp (ms) of the first batch, if it has one.
    since_ms: Option<i64>,
}

impl<'a, R: Rt> Walk<'a, R> {
    fn new(rt: &'a R, file: &'a R::File, path: &'a Path, size: u64) -> Self {
        Walk { rt, file, path, size, start: 0, window: FIRST_WINDOW, chunk: None, lacked_times: false }
    }

    /// The bytes from `position` on: at least `want` (at most a few hundred) of them, or what is left of the file.
    async fn at(&mut self, position: u64, want: usize) -> Result<&[u8], LogError> {
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
    async fn ending(&mut self, base: Offset, size: u64) -> Result<Ending, LogError> {
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

    /// Walks batches from `from` on, the first of which is expected at `next`, up to the first one that cannot be right.
    async fn batches(&mut self, from: End, trust: Trust, each: &mut dyn FnMut(&BatchHeader, u64)) -> Result<End, LogError> {
        let mut end = from;
        while end.position < self.size {
            let position = end.position;
            let rest = self.size - position;
            let bytes = self.at(position, HEADER).await?;
            let Ok(header) = BatchHeader::parse(bytes) else {
                let zero = bytes.iter().take(HEADER).all(|b| *b == 0);
                return Ok(End { reason: Some(if zero { "zeros" } else { "no batch header" }), ..end });
            };
            let strict = trust != Trust::Flushed;
            let gap = trust == Trust::Nothing && header.base_offset != end.next;
            let out_of_place = header.base_offset < end.next || gap || header.last_offset_delta < 0;
            let reason = if header.total_len() as u64 > rest {
                Some("a batch longer than the file")
            } else if out_of_place {
                Some("a batch whose offset is not the next one")
            } else if strict && header.partition_leader_epoch < end.epoch {
                Some("a batch of an earlier leader")
            } else if strict && !self.crc_ok(position, &header).await? {
                Some("a batch whose checksum is wrong")
            } else {
                None
            };
            if reason.is_some() {
                return Ok(End { reason, ..end });
            }
            each(&self.with_time(position, header).await?, position);
            let position = position + header.total_len() as u64;
            end = End { position, next: header.next_offset(), epoch: header.partition_leader_epoch, reason: None };
        }
        Ok(end)
    }
}

/// Builds the index of a complete segment from its batches.
pub(super) async fn walk_index<R: Rt>(rt: &R, path: &Path, base: Offset, size: u64, interval: u32) -> Result<Index, LogError> {
    let mut index = Index::new(interval);
    walk_complete(rt, path, base, size, &mut |header, position| note(&mut index, base, header, position)).await?;
    Ok(index)
}

/// True if one of the batches at these positions of a complete segment does not tell its largest
/// timestamp.
pub(super) async fn lacks_times<R: Rt>(rt: &R, path: &Path, size: u64, positions: &[u32]) -> Result<bool, LogError> {
    let file = rt.open(path, Open::Read).await.map_err(LogError::io_or_exhausted("open", path))?;
    let mut walk = Walk::<R>::new(rt, &file, path, size);
    for position in positions.iter().filter(|position| u64::from(**position) < size) {
        walk.window = 2 * BLOCK as u64;
        let header = BatchHeader::parse(walk.at((*position).into(), HEADER).await?);
        if header.is_ok_and(|header| header.time_unknown()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The offset behind the last batch of a complete segment.
pub(super) async fn end_of<R: Rt>(rt: &R, path: &Path, base: Offset, size: u64) -> Result<Offset, LogError> {
    walk_complete(rt, path, base, size, &mut |_, _| ()).await
}

async fn walk_complete<R: Rt>(
    rt: &R,
    path: &Path,
    base: Offset,
    size: u64,
    each: &mut dyn FnMut(&BatchHeader, u64),
) -> Result<Offset, LogError> {
    let file = rt.open(path, Open::Read).await.map_err(LogError::io_or_exhausted("open", path))?;
    let start = End { position: 0, next: base, epoch: -1, reason: None };
    let end = Walk::<R>::new(rt, &file, path, size).batches(start, Trust::Flushed, each).await?;
    match end.reason {
        None => Ok(end.next),
        Some(reason) => Err(LogError::corrupt(path, end.position, reason)),
    }
}

/// The largest timestamp (ms) of a file's first batch, if it has one.
pub(super) async fn first_timestamp<R: Rt>(rt: &R, file: &R::File, path: &Path) -> Result<Option<i64>, LogError> {
    Walk::<R>::new(rt, file, path, rt.file_len(file).map_err(LogError::io("look at", path))?).first_timestamp().await
}

/// What has to be known of the segment of `base`, whose batches end at `size`, before more is appended to it.
pub(super) async fn ending<R: Rt>(rt: &R, dir: &Path, base: Offset, size: u64) -> Result<Ending, LogError> {
    let path = files::name(dir, base, "log");
    let file = rt.open(&path, Open::Read).await.map_err(LogError::io_or_exhausted("open", &path))?;
    Walk::<R>::new(rt, &file, &path, size).ending(base, size).await
}

/// Enters a batch into the index of its segment.
pub(super) fn note(index: &mut Index, base: Offset, header: &BatchHeader, position: u64) {
    // A batch that compaction has left without records still tells their largest timestamp, but nobody could find it there.
    let max_timestamp = if header.records_count == 0 { NO_TIMESTAMP } else { header.max_timestamp };
    index.note((header.last_offset() - base) as u32, position as u32, header.total_len(), max_timestamp);
}

/// One opening under way.
struct Opener<'a, R: Rt> {
    rt: &'a R,
    dir: &'a Path,
    interval: u32,
    segments: Vec<Segment<R::File>>,
    /// Offsets of the stored snapshots, newest first.
    snapshots: Vec<Offset>,
    /// The log's own recovery point, if it is one of this log.
    point: Option<RecoveryPoint>,
    /// The last segment's index up to the recovery point, where there is one in it.
    resume: Option<Index>,
    /// All below was flushed, says the checkpoint or the recovery point.
    flushed: Offset,
    replay: &'a mut dyn Replay,
    /// Batches from here on are replayed.
    replay_from: Offset,
    /// Of the segment that was walked last, if it may be the last one.
    ending: Option<Ending>,
}

/// See [`super::Log::open`].
pub(super) async fn open<R: Rt>(
    rt: &R,
    dir: &Path,
    config: LogConfig,
    opening: Opening,
    replay: &mut dyn Replay,
) -> Result<State<R::File>, LogError> {
    let interval = config.index_interval_bytes;
    let (segments, snapshots) = list(rt, dir, opening.log_start, interval).await?;
    let flushed = opening.recovery_point;
    let mut opener =
        Opener { rt, dir, interval, segments, snapshots, point: None, resume: None, flushed, replay, replay_from: 0, ending: None };
    let end = match opening.clean {
        true => opener.clean_end().await?,
        false => None,
    };
    if end.is_none() {
        opener.read_point().await?;
    }
    let flushed = opener.flushed;
    let checked_from = match end {
        // Nothing to check.
        Some(end) => end,
        None => opener.segments[opener.segments.partition_point(|s| s.base <= flushed).saturating_sub(1)].base,
    };
    opener.choose_snapshot(end.unwrap_or(checked_from.max(flushed)))?;
    let end = opener.walk(checked_from, end).await?;
    if end < flushed {
        tracing::error!("{} ends at offset {end}, though it was once flushed up to {flushed}", dir.display());
        opener.drop_point().await?;
    }
    let settled = end > opener.segments[0].base && (opening.clean || end > flushed);
    if settled && !opening.clean {
        // The last process may have died between making a file and making its name durable, and what is found now counts as flushed.
        for dir in [Some(dir), dir.parent()].into_iter().flatten() {
            rt.sync_dir(dir).await.map_err(LogError::io("flush", dir))?;
        }
    }
    let last = opener.segments.last().map_or((0, 0), |segment| (segment.base, segment.size));
    let ending = match opener.ending.take() {
        Some(ending) if (ending.base, ending.size) == last => ending,
        _ if last.1 == 0 => Ending::default(),
        _ => ending(rt, dir, last.0, last.1).await?,
    };
    let start = opener.segments[0].base.max(opening.log_start).min(end);
    let behind_point = last.1 - opener.point.as_ref().filter(|point| point.segment == last.0).map_or(0, |p| p.position.into()).min(last.1);
    let mut state = State::new(opener.segments, start, end, ending.tail);
    state.last_segment().since_ms = ending.since_ms;
    state.settled = settled;
    state.behind_point = behind_point;
    Ok(state)
}

/// Segments, and offsets of snapshots.
type Found<F> = (Vec<Segment<F>>, Vec<Offset>);

/// The segments and the offsets of the snapshots, newest first, by their names; leftovers of work that was under way are removed, or brought
/// to its end.
async fn list<R: Rt>(rt: &R, dir: &Path, log_start: Offset, interval: u32) -> Result<Found<R::File>, LogError> {
    let (mut segments, mut snapshots, mut derived) = (Vec::new(), Vec::new(), Vec::new());
    let list = || {
        rt.list(dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => LogError::Missing(dir.into()),
            _ => LogError::io_or_exhausted("list", dir)(e),
        })
    };
    let mut entries = list()?;
    if entries.iter().any(|entry| entry.name.ends_with(".swap")) {
        compact::finish_swaps(rt, dir, &entries).await?;
        entries = list()?;
    }
    for entry in entries {
        let path = dir.join(&entry.name);
        if [".deleted", ".cleaned", ".tmp"].iter().any(|suffix| entry.name.ends_with(suffix)) {
            rt.remove_file(&path).map_err(LogError::io("remove", &path))?;
        } else if let Some(base) = files::base_of(&entry.name, "log") {
            let mut segment = Segment::new(base, interval);
            segment.size = rt.len_of(&path).map_err(LogError::io("look at", &path))?;
            segment.allocated = segment.size;
            segment.exists = true;
            segment.index = None;
            segments.push(segment);
        } else if let Some(base) = files::DERIVED.iter().find_map(|kind| files::base_of(&entry.name, kind)) {
            derived.push((base, path));
        } else {
            snapshots.extend(files::base_of(&entry.name, "snapshot"));
        }
    }
    for (_, orphan) in derived.into_iter().filter(|(base, _)| !segments.iter().any(|s: &Segment<R::File>| s.base == *base)) {
        // Its segment was deleted a moment before the end.
        rt.remove_file(&orphan).map_err(LogError::io("remove", &orphan))?;
    }
    if segments.is_empty() {
        segments.push(Segment::new(log_start, interval));
    }
    segments.sort_by_key(|s| s.base);
    snapshots.sort_unstable_by(|a, b| b.cmp(a));
    Ok((segments, snapshots))
}

impl<R: Rt> Opener<'_, R> {
    async fn file(&self, at: usize, how: Open) -> Result<R::File, LogError> {
        let path = files::name(self.dir, self.segments[at].base, "log");
        self.rt.open(&path, how).await.map_err(LogError::io_or_exhausted("open", &path))
    }

    /// The end of a log that was closed properly, from the last index entry on; `None` when the file says otherwise.
    async fn clean_end(&mut self) -> Result<Option<Offset>, LogError> {
        let at = self.segments.len() - 1;
        let (base, size) = (self.segments[at].base, self.segments[at].size);
        if size == 0 {
            self.segments[at].index = Some(Index::new(self.interval));
            return Ok(Some(base));
        }
        let Some(index) = files::read_index(self.rt, self.dir, base, size, Offset::MAX, self.interval) else { return Ok(None) };
        let file = self.file(at, Open::Read).await?;
        let path = files::name(self.dir, base, "log");
        let from = End { position: index.last_position() as u64, next: base, epoch: -1, reason: None };
        let mut walk = Walk::<R>::new(self.rt, &file, &path, size);
        let end = walk.batches(from, Trust::Flushed, &mut |_, _| ()).await?;
        if let Some(reason) = end.reason {
            tracing::warn!("{}: {reason} at byte {} though it was closed properly; checking all of it", path.display(), end.position);
            return Ok(None);
        }
        self.ending = Some(walk.ending(base, size).await?);
        // Those before may not either, and what has stored the index may have believed them.
        let index = match walk.lacked_times {
            true => walk_index(self.rt, &path, base, size, self.interval).await?,
            false => index,
        };
        self.segments[at].index = Some(index);
        Ok(Some(end.next))
    }

    /// Looks for the log's own recovery point. It counts if the log still has the batch that was the last one below it.
    async fn read_point(&mut self) -> Result<(), LogError> {
        let at = self.segments.len() - 1;
        let Some(point) = recovery_point::read(self.rt, self.dir) else { return Ok(()) };
        if point.segment == self.segments[at].base {
            self.resume = self.index_up_to(at, &point).await?;
            if self.resume.is_none() {
                tracing::warn!("{}: does not belong to the log: checking more of it", self.dir.join(recovery_point::NAME).display());
                return self.drop_point().await;
            }
        }
        // One in an earlier segment tells an offset only: that may have been compacted since.
        if self.segments.iter().any(|segment| segment.base == point.segment) {
            self.flushed = self.flushed.max(point.offset());
            self.point = Some(point);
        }
        Ok(())
    }

    async fn index_up_to(&self, at: usize, point: &RecoveryPoint) -> Result<Option<Index>, LogError> {
        let (position, size) = (point.position as u64, self.segments[at].size);
        if position > size {
            return Ok(None);
        }
        if let Some(last) = point.last_header() {
            let file = self.file(at, Open::Read).await?;
            let path = files::name(self.dir, point.segment, "log");
            let mut walk = Walk::<R>::new(self.rt, &file, &path, size);
            if !walk.at(position - last.total_len() as u64, HEADER).await?.starts_with(&point.last) {
                return Ok(None);
            }
        }
        Ok(point.index(self.interval))
    }

    /// Removes the stored recovery point, for good: the log may get other batches in its place.
    async fn drop_point(&mut self) -> Result<(), LogError> {
        (self.point, self.resume) = (None, None);
        let path = self.dir.join(recovery_point::NAME);
        match self.rt.remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(LogError::io("remove", &path)(e)),
            _ => self.rt.sync_dir(self.dir).await.map_err(LogError::io("flush", self.dir)),
        }
    }

    /// Offers the snapshots that are not newer than `limit`, newest first; what lies behind the accepted one will be replayed.
    fn choose_snapshot(&mut self, limit: Offset) -> Result<(), LogError> {
        self.replay_from = self.segments[0].base;
        let mut point = self.point.as_ref();
        let offsets = std::mem::take(&mut self.snapshots).into_iter().map(Some).chain([None]);
        for offset in offsets {
            if let Some(point) = point.take_if(|point| offset.is_none_or(|offset| offset <= point.offset()))
                && self.replay.snapshot(point.offset(), &point.snapshot)
            {
                self.replay_from = point.offset();
                return Ok(());
            }
            let Some(offset) = offset else { break };
            let path = files::name(self.dir, offset, "snapshot");
            if offset > limit || offset < self.segments[0].base {
                // State of batches that may be cut off, or without that of batches which were deleted.
                self.rt.remove_file(&path).map_err(LogError::io("remove", &path))?;
                continue;
            }
            let payload = self.rt.read_file(&path).map_err(LogError::io("read", &path))?;
            if self.replay.snapshot(offset, &payload) {
                self.replay_from = offset.max(self.replay_from);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Walks what has to be replayed or, from the segment at `checked_from` on, checked. The log's end.
    async fn walk(&mut self, checked_from: Offset, clean_end: Option<Offset>) -> Result<Offset, LogError> {
        if clean_end.is_some_and(|end| self.replay_from >= end) {
            return Ok(clean_end.unwrap_or_default());
        }
        if self.point.as_ref().is_some_and(|point| self.replay_from < point.offset()) {
            self.resume = None;
        }
        let first = self.segments.partition_point(|s| s.base <= self.replay_from.min(checked_from)).saturating_sub(1);
        let mut end = End { position: 0, next: self.segments[first].base, epoch: -1, reason: None };
        for at in first..self.segments.len() {
            let base = self.segments[at].base;
            let check = clean_end.is_none() && base >= checked_from;
            // Kafka's compaction can leave nothing at a segment's end.
            if check && base < end.next && at > first {
                self.drop_from(at, "it begins before the one before it ends").await?;
                break;
            }
            end = self.walk_segment(at, end, check).await?;
            if check && end.reason.is_some() && at + 1 < self.segments.len() {
                self.drop_from(at + 1, "the one before it is incomplete").await?;
                break;
            }
        }
        Ok(end.next)
    }

    async fn walk_segment(&mut self, at: usize, before: End, check: bool) -> Result<End, LogError> {
        let (base, size, exists) = (self.segments[at].base, self.segments[at].size, self.segments[at].exists);
        let point = self.point.as_ref().filter(|point| point.segment == base).zip(self.resume.take_if(|_| check));
        let (mut index, from) = match point {
            Some((point, index)) => {
                let epoch = point.last_header().map_or(before.epoch, |header| header.partition_leader_epoch);
                (index, End { position: point.position.into(), next: point.offset(), epoch, reason: None })
            }
            None => (Index::new(self.interval), End { position: 0, next: base, epoch: before.epoch, reason: None }),
        };
        if !exists || size == 0 {
            self.segments[at].index = Some(index);
            return Ok(from);
        }
        let file = self.file(at, if check { Open::Write } else { Open::Read }).await?;
        let path = files::name(self.dir, base, "log");
        let (replay_from, replay) = (self.replay_from, &mut *self.replay);
        let mut each = |header: &BatchHeader, position: u64| {
            note(&mut index, base, header, position);
            if header.base_offset >= replay_from {
                replay.batch(header);
            }
        };
        // A segment that has a successor was flushed before that got its name, and only such a one can have been compacted.
        let trust = match check {
            true if at + 1 < self.segments.len() => Trust::Complete,
            true => Trust::Nothing,
            false => Trust::Flushed,
        };
        let mut walk = Walk::<R>::new(self.rt, &file, &path, size);
        let end = walk.batches(from, trust, &mut each).await?;
        let lacked_times = walk.lacked_times;
        if end.position > 0 && (at + 1 == self.segments.len() || end.reason.is_some()) {
            self.ending = Some(walk.ending(base, end.position).await?);
        }
        match end.reason {
            Some(reason) if !check => return Err(LogError::corrupt(&path, end.position, reason)),
            Some(reason) => {
                tracing::info!("{}: cut at byte {} (offset {}): {reason}", path.display(), end.position, end.next);
                // Bytes behind the cut must never come back as the batches that follow new ones.
                self.rt.truncate(&file, end.position).await.map_err(LogError::io("truncate", &path))?;
            }
            None => {}
        }
        if check && (end.reason.is_some() || end.next > self.flushed) {
            // Read back, but perhaps never flushed.
            self.rt.sync(&file).await.map_err(LogError::io("flush", &path))?;
        }
        if lacked_times && index.times_known() == TimesKnown::Stored {
            // Those below the recovery point may not tell their times either.
            index = walk_index(self.rt, &path, base, end.position, self.interval).await?;
        }
        let segment = &mut self.segments[at];
        segment.size = end.position;
        segment.allocated = end.position;
        segment.index = Some(index);
        Ok(end)
    }

    /// Removes the segments from `at` on: they lie behind the log's end. One at a time and the last one first: a crash leaves no hole.
    async fn drop_from(&mut self, at: usize, reason: &str) -> Result<(), LogError> {
        for segment in self.segments.drain(at..).collect::<Vec<_>>().iter().rev() {
            let path = files::name(self.dir, segment.base, "log");
            tracing::warn!("{} is removed: {reason}", path.display());
            for kind in ["index", "timeindex", "log"] {
                let path = files::name(self.dir, segment.base, kind);
                match self.rt.remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(LogError::io("remove", &path)(e)),
                    _ => {}
                }
            }
            self.rt.sync_dir(self.dir).await.map_err(LogError::io("flush", self.dir))?;
        }
        Ok(())
    }
}
