//! Deleting from the front: which segments are too old or too many, and how they go.
//!
//! A segment goes in three steps. Its file gets a name that ends in `.deleted`, durably, the oldest first and one at a time: a crash leaves a
//! log without gaps, whatever it leaves. After `file.delete.delay.ms` the file is removed, or when the log is next opened.

use std::path::PathBuf;
use std::time::Duration;

use super::error::LogError;
use super::index::{Index, TimesKnown};
use super::read::Turn;
use super::state::Segment;
use super::{Inner, Log, files, walk};
use crate::base::ids::Offset;
use crate::rt::{Class, Rt};

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// A segment goes when its newest record is older than so many milliseconds; `None`: it does not go by age.
    pub ms: Option<i64>,
    /// The oldest segments go while the rest has at least so many bytes; `None`: they do not go by size. The last one stays.
    pub bytes: Option<u64>,
}

impl<R: Rt> Log<R> {
    /// Bytes of batches, those not yet written included.
    pub fn size(&self) -> u64 {
        self.0.state.borrow().segments.iter().map(|segment| segment.size).sum()
    }

    /// The right to take segments away or to replace them, for as long as the result lives; `None` while somebody else has it.
    pub fn upkeep(&self) -> Option<Turn<'_>> {
        self.0.upkeep.try_enter()
    }

    /// The offset before which all segments are to go at `now_ms`: by age, by size, or because they end below the log's start. The log's end
    /// when nothing is to stay: then [`Log::roll`] comes first. Only what is written goes.
    pub async fn expired_before(&self, retention: Retention, now_ms: i64) -> Result<Offset, LogError> {
        let mut surplus = retention.bytes.map(|bytes| self.size().saturating_sub(bytes));
        let mut before = self.0.state.borrow().segments[0].base;
        loop {
            let (size, next, last, start, written) = {
                let mut state = self.0.state.borrow_mut();
                let at = state.segment_of(before);
                let next = state.segments.get(at + 1).map(|segment| segment.base);
                let (start, end, written) = (state.start, state.end, state.written);
                let Some(segment) = state.segment_at(before) else { return Ok(before) };
                (segment.size, next.unwrap_or(end), next.is_none(), start, written)
            };
            if next > written || (last && size == 0) {
                return Ok(before);
            }
            let below_start = !last && next <= start;
            let too_many = !last && surplus.is_some_and(|surplus| surplus >= size);
            if !below_start && !too_many && !self.0.too_old(before, retention.ms, now_ms).await? {
                return Ok(before);
            }
            surplus = surplus.map(|surplus| surplus.saturating_sub(size));
            before = next;
            if last {
                return Ok(before);
            }
        }
    }

    /// Begins a new, empty segment at the log's end, with the producer state `snapshot`; false when the log cannot, or has grown meanwhile.
    pub async fn roll(&self, snapshot: Vec<u8>) -> Result<bool, LogError> {
        let base = {
            let mut state = self.0.state.borrow_mut();
            if state.stalled.is_some() || state.closed || state.written < state.end || state.last_segment().size == 0 {
                return Ok(false);
            }
            let base = state.end;
            state.drop_active();
            state.tail = Box::default();
            state.segments.push(Segment::new(base, self.0.config.get().index_interval_bytes));
            state.create = true;
            // A trim that is under way would end the writer.
            state.trim = false;
            let kick = self.0.kick(&mut state);
            drop(state);
            self.0.start(kick);
            base
        };
        let made = |state: &super::State<R::File>| state.segments.iter().any(|segment| segment.base == base && segment.exists);
        let known = |state: &super::State<R::File>| state.segments.iter().any(|segment| segment.base == base);
        self.0.wait_until(|state| made(state) || !known(state)).await?;
        if !made(&self.0.state.borrow()) {
            return Ok(false);
        }
        // What it says of producers may stand nowhere else soon.
        files::write_snapshot(&self.0.rt, &self.0.dir, base, snapshot).await;
        Ok(true)
    }

    /// The log starts at `offset` from now on, if it did not before.
    pub fn set_start(&self, offset: Offset) {
        let mut state = self.0.state.borrow_mut();
        state.start = state.start.max(offset.min(state.written));
    }

    /// Deletes the segments that end at or below `before`; their number.
    pub async fn delete_before(&self, before: Offset) -> Result<usize, LogError> {
        let inner = &self.0;
        let mut marked = Vec::new();
        let result = loop {
            match inner.mark_first(before, &mut marked) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(e) => break Err(e),
            }
            if let Err(e) = inner.rt.sync_dir(&inner.dir).await.map_err(LogError::io("flush", &inner.dir)) {
                // The next name to go might be gone after a power failure, and this one not.
                inner.fence(&e);
                inner.progressed();
                break Err(e);
            }
            inner.rt.yield_now().await;
        };
        let count = marked.iter().filter(|path: &&PathBuf| path.to_string_lossy().ends_with(".log.deleted")).count();
        if !marked.is_empty() {
            inner.remove_later(marked);
        }
        result.map(|()| count)
    }
}

impl<R: Rt> Inner<R> {
    /// Stores the index of a complete segment, unless that is deleted meanwhile.
    pub(super) async fn store_index(&self, base: Offset, index: &Index) {
        let Some(_making) = files::Making::begin(self) else { return };
        let gone = || self.state.borrow_mut().segment_at(base).is_none();
        if !gone() {
            files::write_index(&self.rt, &self.dir, base, index).await;
        }
        if gone() {
            for kind in files::DERIVED {
                let _ = self.rt.remove_file(&files::name(&self.dir, base, kind));
            }
        }
    }

    async fn too_old(&self, base: Offset, ms: Option<i64>, now_ms: i64) -> Result<bool, LogError> {
        let Some(ms) = ms else { return Ok(false) };
        let old = |time: i64| now_ms.saturating_sub(time) > ms;
        let known = self.state.borrow_mut().segment_at(base).and_then(|segment| segment.largest_ms);
        if let Some(largest) = known {
            return Ok(old(largest));
        }
        match self.indexed_times(base).await {
            // Damaged: the file's age is known all the same.
            Err(LogError::Corrupt { .. }) => return Ok(old(self.written_ms(base)?)),
            indexed => drop(indexed?),
        }
        let (largest, made) = {
            let mut state = self.state.borrow_mut();
            let closed = base < state.writing;
            let Some(segment) = state.segment_at(base) else { return Ok(false) };
            if segment.size == 0 {
                return Ok(old(i64::MIN));
            }
            let index = segment.index.as_ref();
            let largest = index.and_then(Index::max_timestamp).map(|(ts, _)| ts).filter(|ts| *ts >= 0);
            let made = index.is_some_and(|index| index.times_known() == TimesKnown::Made);
            if made && closed {
                segment.largest_ms = largest;
            }
            (largest, made)
        };
        match largest {
            Some(largest) if made || !old(largest) => return Ok(old(largest)),
            _ => {}
        }
        // Without timestamps the file's age counts, as in Kafka. It also counts where a stored index
        // may lack some: no record is younger than its file.
        if old(self.written_ms(base)?) {
            return Ok(true);
        }
        if made {
            return Ok(false);
        }
        match self.make_index(base).await {
            // What cannot be read may be young; of the last segment the end is perhaps not written yet.
            Err(LogError::Corrupt { .. }) => Ok(false),
            largest => Ok(largest?.is_some_and(old)),
        }
    }

    /// When a segment's file was last written to, in milliseconds since 1970.
    fn written_ms(&self, base: Offset) -> Result<i64, LogError> {
        let path = self.segment_path(base);
        self.rt.modified_ms(&path).map_err(LogError::io("look at", &path))
    }

    /// Makes the index of a segment anew, of all its batches or of those that the stored index is of;
    /// their largest timestamp (ms).
    pub(super) async fn make_index(&self, base: Offset) -> Result<Option<i64>, LogError> {
        let (size, limit, kind) = {
            let mut state = self.state.borrow_mut();
            let next = state.segments.get(state.segment_of(base) + 1).map_or(state.end, |s| s.base);
            let Some(segment) = state.segment_at(base) else { return Ok(None) };
            let stored = segment.index.as_ref().and_then(Index::stored);
            (stored.map_or(segment.size, |stored| stored.size), next, segment.kind())
        };
        let interval = self.config.get().index_interval_bytes;
        let path = files::name(&self.dir, base, kind);
        let made = walk::walk_index(&self.rt, &path, base, limit, size, interval).await?;
        let (index, complete) = {
            let mut state = self.state.borrow_mut();
            let complete = base < state.writing;
            let Some(segment) = state.segment_at(base) else { return Ok(None) };
            match &mut segment.index {
                Some(index) if index.stored().is_some_and(|stored| stored.size == size) => index.replace_stored(made),
                // Somebody else has made it meanwhile, or the segment has grown.
                Some(_) => {}
                None => segment.index = Some(made).filter(|_| segment.size == size),
            }
            let index = segment.index.clone();
            // That of the last segment is stored when the log is closed.
            state.checked |= !complete;
            (index, complete)
        };
        self.used_segment(base);
        if let Some(index) = index.as_ref().filter(|_| complete) {
            self.store_index(base, index).await;
        }
        Ok(index.as_ref().and_then(Index::max_timestamp).map(|(ts, _)| ts).filter(|ts| *ts >= 0))
    }

    /// Renames the files of the first segment, if it ends at or below `before`, and forgets it. False when there is none to go.
    fn mark_first(&self, before: Offset, marked: &mut Vec<PathBuf>) -> Result<bool, LogError> {
        let mut state = self.state.borrow_mut();
        let (base, next) = match &state.segments[..] {
            // The next one's name has to be there after a crash: it tells where the log goes on.
            [first, second, ..] if second.base <= before && second.exists && first.base < state.writing && !self.deleted.get() => {
                (first.base, second.base)
            }
            _ => return Ok(false),
        };
        let mut mark = |kind| {
            let path = files::name(&self.dir, base, kind);
            let gone = files::name(&self.dir, base, &format!("{kind}.deleted"));
            self.rt.rename(&path, &gone).map_err(LogError::io("rename", &path)).map(|()| marked.push(gone))
        };
        mark("log")?;
        for kind in files::DERIVED.into_iter().chain(["snapshot"]) {
            // Not there, or in nobody's way.
            let _ = mark(kind);
        }
        state.segments.remove(0);
        state.start = state.start.max(next);
        let kept = state.spans.split_off(&next);
        let gone = std::mem::replace(&mut state.spans, kept);
        let uncounted: Vec<Offset> = state.retired.iter().map(|(key, _)| *key).filter(|key| *key < next).collect();
        state.retired.retain(|(key, _)| *key >= next);
        drop(state);
        self.cache.forget(gone.iter().filter(|(key, _)| !uncounted.contains(key)).map(|(_, span)| span.chunk.capacity()).sum());
        Ok(true)
    }

    /// Removes files after `file.delete.delay.ms`.
    pub(super) fn remove_later(&self, marked: Vec<PathBuf>) {
        let (rt, cache) = (self.rt.clone(), self.cache.clone());
        let delay = Duration::from_millis(self.config.get().file_delete_delay_ms.max(0) as u64);
        self.rt.spawn(Class::Background, async move {
            rt.sleep(delay).await;
            // The path may have become that of a new topic's: its files of these names are of no use
            // to it either.
            for path in marked {
                let segment = path.to_string_lossy().ends_with(".log.deleted");
                let removed = if segment { files::remove_segment(&rt, &cache, &path).await } else { rt.unlink(&path).await };
                match removed {
                    // Its topic may have been deleted meanwhile.
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        tracing::warn!("cannot remove {}: {e}; it will be at the next start", path.display());
                    }
                    _ => {}
                }
            }
        });
    }
}
