//! Opening a log: what is there, where it ends, and after an unclean end which of it can be trusted.
//!
//! No byte of a batch is removed here: what the log cannot keep is set aside, see [`aside`].

use std::ops::Range;
use std::path::Path;

use super::error::LogError;
use super::index::{Index, Stored, TimesKnown};
use super::recovery_point::{self, RecoveryPoint};
use super::span::{block_ceil, block_floor};
use super::state::{Segment, State};
use super::walk::{Bounds, End, Ending, HEADER, Trust, Walk, ending, note, walk_index};
use super::{LogConfig, Opening, Replay, aside, compact, files};
use crate::base::ids::Offset;
use crate::rt::{Open, Rt};
use crate::wire::batch::BatchHeader;

/// One opening under way.
struct Opener<'a, R: Rt> {
    rt: &'a R,
    dir: &'a Path,
    interval: u32,
    /// See [`LogConfig::flushed_one_by_one`].
    flushed_one_by_one: bool,
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
    /// A batch of a complete segment is damaged, or missing at its end.
    damaged: bool,
    /// Something was cut off.
    cut: bool,
    /// Of the segment that was walked last: zeros were cut off, and that is not flushed.
    cut_unflushed: bool,
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
    let mut opener = Opener {
        rt,
        dir,
        interval,
        flushed_one_by_one: config.flushed_one_by_one,
        segments,
        snapshots,
        point: None,
        resume: None,
        flushed,
        replay,
        replay_from: 0,
        damaged: false,
        cut: false,
        cut_unflushed: false,
        ending: None,
    };
    let end = match opening.clean {
        true => opener.clean_end().await?.filter(|end| opener.is_where_it_was_closed(*end)),
        false => None,
    };
    if end.is_none() {
        opener.read_point().await?;
    }
    let checked = end.is_none();
    let end = opener.end(end).await?;
    let settled = end > opener.segments[0].base;
    // The last process may have died between making a file and making its name durable, and what is
    // found now counts as flushed. Names are durable before a batch is flushed, and a recovery point is
    // of flushed batches: it vouches for its segment's name and those before, not for later ones.
    // The same holds for a checkpoint's offset inside the last segment.
    let last_base = opener.last_base();
    let named =
        opener.point.as_ref().is_some_and(|point| point.segment == last_base) || (last_base + 1..=end).contains(&opening.recovery_point);
    if settled && checked && !named {
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
    let (cut, cut_unflushed) = (opener.cut, opener.cut_unflushed);
    let mut state = State::new(opener.segments, start, end, ending.tail);
    state.last_segment().since_ms = ending.since_ms;
    state.settled = settled;
    state.behind_point = behind_point;
    state.unclean = !opening.clean || cut || end < opening.recovery_point;
    state.checked = checked;
    state.unflushed = cut_unflushed;
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
        let from = End { position: index.last_position() as u64, ..End::start(base) };
        let mut walk = Walk::<R>::new(self.rt, &file, &path, size, Bounds { base, limit: Offset::MAX, flushed: base });
        let end = walk.batches(from, Trust::Flushed, &mut |_, _| ()).await?;
        if let Some(reason) = end.reason {
            tracing::warn!("{}: {reason} at byte {} though it was closed properly; checking all of it", path.display(), end.position);
            return Ok(None);
        }
        if let Some(Stored { largest: (ms, last), .. }) = index.stored()
            && !walk.has_time(index.position(last).into(), base + Offset::from(last), ms).await?
        {
            tracing::warn!("{}: its stored time index does not fit its batches; checking all of it", path.display());
            return Ok(None);
        }
        self.ending = Some(walk.ending(base, size).await?);
        // Those before may not either, and what has stored the index may have believed them.
        let index = match walk.lacked_times {
            true => walk_index(self.rt, &path, base, Offset::MAX, size, self.interval).await?,
            false => index,
        };
        self.segments[at].index = Some(index);
        Ok(Some(end.next))
    }

    /// Whether a log that was closed properly ends where it was closed; a base offset is not in the checksum.
    fn is_where_it_was_closed(&self, end: Offset) -> bool {
        let closed_at = self.flushed;
        if end != closed_at {
            tracing::warn!("{}: ends at offset {end}, but was closed at {closed_at}; checking all of it", self.dir.display());
        }
        end == closed_at
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
            let mut walk = Walk::<R>::new(self.rt, &file, &path, size, Bounds::complete(point.segment, Offset::MAX));
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

    /// The log's end: that of a proper end, or what the walk finds.
    async fn end(&mut self, clean_end: Option<Offset>) -> Result<Offset, LogError> {
        let flushed = self.flushed;
        let checked_from = match clean_end {
            // Nothing to check.
            Some(end) => end,
            None => self.segments[self.segments.partition_point(|s| s.base <= flushed).saturating_sub(1)].base,
        };
        let sure = clean_end.unwrap_or(checked_from.max(flushed));
        // Nothing of a complete segment is cut, and compaction may have taken batches of it that only
        // the state at its end tells of. Where it is damaged after all, the batches that are left count.
        self.choose_snapshot(sure.max(self.last_base()))?;
        let end = self.walk(checked_from, clean_end).await?;
        if end < flushed {
            tracing::error!("{} ends at offset {end}, though it was once flushed up to {flushed}", self.dir.display());
            self.drop_point().await?;
        }
        if self.replay_from <= end && !(self.damaged && self.replay_from > sure) {
            return Ok(end);
        }
        // The state that was taken is one of batches that the log has lost.
        self.replay.reset();
        self.snapshots = files::snapshots(self.rt, self.dir);
        self.choose_snapshot(end.min(sure))?;
        self.walk(checked_from, clean_end).await
    }

    /// The last segment's base: all below is in complete segments.
    fn last_base(&self) -> Offset {
        self.segments.last().map_or(0, |segment| segment.base)
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
            match self.rt.read_file(&path) {
                Ok(payload) if self.replay.snapshot(offset, &payload) => {
                    self.replay_from = offset.max(self.replay_from);
                    return Ok(());
                }
                Ok(_) => {}
                // The batches tell the same.
                Err(e) => tracing::warn!("cannot read {}: {e}; going on without it", path.display()),
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
        let mut end = self.segments[first].base;
        for at in first..self.segments.len() {
            let base = self.segments[at].base;
            if base == self.last_base() && self.replay_from < base {
                self.store_state(base).await;
            }
            end = self.walk_segment(at, clean_end.is_none() && base >= checked_from).await?;
        }
        Ok(clean_end.unwrap_or(end))
    }

    /// Stores the state at the start of the last segment, which the last process did not come to: before
    /// compaction takes batches that it was made of.
    async fn store_state(&self, base: Offset) {
        if let Some(payload) = self.replay.state() {
            files::write_snapshot(self.rt, self.dir, base, payload).await;
        }
    }

    /// Walks one segment, and cuts it where its batches end if it is to be checked. Its end.
    async fn walk_segment(&mut self, at: usize, check: bool) -> Result<Offset, LogError> {
        let (base, size, exists) = (self.segments[at].base, self.segments[at].size, self.segments[at].exists);
        let point = self.point.as_ref().filter(|point| point.segment == base).zip(self.resume.take_if(|_| check));
        let (mut index, from) = match point {
            Some((point, index)) => {
                let epoch = point.last_header().map_or(-1, |header| header.partition_leader_epoch);
                (index, End { position: point.position.into(), next: point.offset(), epoch, reason: None })
            }
            None => (Index::new(self.interval), End::start(base)),
        };
        if !exists || size == 0 {
            self.segments[at].index = Some(index);
            return Ok(from.next);
        }
        let file = self.file(at, if check { Open::Write } else { Open::Read }).await?;
        let path = files::name(self.dir, base, "log");
        let (replay_from, replay) = (self.replay_from, &mut *self.replay);
        let mut last = None;
        let mut each = |header: &BatchHeader, position: u64| {
            note(&mut index, base, header, position);
            last = Some(position);
            if header.base_offset >= replay_from {
                replay.batch(header);
            }
        };
        // A segment that has a successor was flushed before that got its name, and only such a one can have been compacted.
        let successor = self.segments.get(at + 1).map(|segment| segment.base);
        let (trust, bounds) = match successor {
            Some(limit) if check => (Trust::Complete, Bounds::complete(base, limit)),
            // Of a file's last batch nothing tells whether it was flushed.
            None if check && self.flushed_one_by_one => (Trust::Nothing, Bounds { base, limit: Offset::MAX, flushed: Offset::MAX - 1 }),
            None if check => (Trust::Nothing, Bounds { base, limit: Offset::MAX, flushed: self.flushed }),
            limit => (Trust::Flushed, Bounds::complete(base, limit.unwrap_or(Offset::MAX))),
        };
        let mut walk = Walk::<R>::new(self.rt, &file, &path, size, bounds);
        let end = walk.batches(from, trust, &mut each).await?;
        if let Some(reason) = end.reason.filter(|_| !check) {
            // Its readers will be told.
            tracing::error!("{}: {reason} at byte {} (offset {}): left as it is", path.display(), end.position, end.next);
            return Ok(end.next);
        }
        if self.flushed_one_by_one && (walk.damaged || end.reason.is_some_and(|_| end.next < self.flushed)) {
            let reason = end.reason.unwrap_or("a damaged batch before sound ones");
            return Err(LogError::corrupt(&path, end.position, format!("{reason}: nothing of it was changed")));
        }
        self.damaged |= check && successor.is_some() && (walk.damaged || end.reason.is_some());
        let lacked_times = walk.lacked_times;
        if successor.is_none() && end.position > 0 {
            self.ending = Some(walk.ending(base, end.position).await?);
        }
        // What is set aside is copied through a buffer of its own: nobody waits for one who holds one.
        drop(walk);
        let mut lost = false;
        if let Some(reason) = end.reason {
            self.cut = true;
            lost = self.cut_segment(&file, bounds, size, &end, reason).await?;
        }
        if let Some(last) = last.filter(|_| check && self.flushed_one_by_one && successor.is_none()) {
            self.write_again(&file, &path, last..end.position).await?;
        }
        // Read back, but perhaps never flushed, unless the log ends just where it was flushed to. Zeros
        // behind the last batch may come back.
        let read_back = end.position > from.position && end.next != self.flushed;
        if check && (lost || read_back) {
            self.rt.sync(&file).await.map_err(LogError::io("flush", &path))?;
        }
        // Before the segment gets a successor its length has to be durable.
        self.cut_unflushed = end.reason.is_some() && !(lost || read_back);
        if lacked_times && index.times_known() == TimesKnown::Stored {
            // Those below the recovery point may not tell their times either.
            index = walk_index(self.rt, &path, base, bounds.limit, end.position, self.interval).await?;
        }
        let segment = &mut self.segments[at];
        segment.size = end.position;
        segment.allocated = end.position;
        segment.index = Some(index);
        Ok(end.next)
    }

    /// Writes the log's last batch once more. Its flush may have failed, which ended the process: the
    /// bytes are read back then, but no later flush need cover them.
    async fn write_again(&self, file: &R::File, path: &Path, batch: Range<u64>) -> Result<(), LogError> {
        let start = block_floor(batch.start);
        let len = (block_ceil(batch.end) - start) as usize;
        let (read, mut chunk) = self.rt.read_at(file, start, self.rt.memory().chunk_now(len), len).await;
        read.map_err(LogError::io("read", path))?;
        // Padding up to a whole block, which is cut off again.
        let missing = len.saturating_sub(chunk.len());
        chunk.spare()[..missing].fill(0);
        self.rt.write_at(file, start, chunk.window(0..len), true).await.map_err(LogError::io("write", path))?;
        self.rt.truncate(file, batch.end).await.map_err(LogError::io("truncate", path))
    }

    /// Cuts a segment at `end`; what lies behind is set aside. It must never come back as the batches
    /// that follow new ones. True if there was anything but zeros.
    async fn cut_segment(&self, file: &R::File, bounds: Bounds, size: u64, end: &End, reason: &str) -> Result<bool, LogError> {
        let path = files::name(self.dir, bounds.base, "log");
        let flushed = end.next < bounds.flushed;
        let aside = aside::keep(self.rt, self.dir, file, bounds.base, end.position..size, flushed).await?;
        let what = format!("{}: {reason} at byte {} (offset {})", path.display(), end.position, end.next);
        let lost = aside.is_some();
        match aside {
            None => tracing::info!("{what}: cut there, nothing lies behind"),
            Some((kept, bytes)) if flushed => {
                tracing::error!("{what}, though it was flushed: cut there, {bytes} bytes are set aside in {}", kept.display());
            }
            Some((kept, bytes)) => tracing::warn!("{what}: cut there, {bytes} bytes are set aside in {}", kept.display()),
        }
        self.rt.truncate(file, end.position).await.map_err(LogError::io("truncate", &path))?;
        Ok(lost)
    }
}
