//! The log of one partition replica: segments in Kafka's file format, written with direct I/O, read from memory where possible.
//!
//! [`Log::append`] copies a batch once, into the append chunk; that chunk is the disk buffer, the cache and the send buffer. A writer task
//! per busy log keeps one write in flight, and what arrives meanwhile joins the next one. A failed write or flush fences the log for good.

mod aside;
#[cfg(test)]
mod aside_tests;
pub mod cache;
pub mod checkpoint;
pub mod compact;
#[cfg(test)]
mod damage_tests;
pub mod dir;
mod epochs;
mod error;
mod files;
mod first;
#[cfg(test)]
mod flip_tests;
mod gather;
#[cfg(test)]
mod golden_tests;
mod index;
pub mod known_dirs;
mod lookup;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod open_tests;
mod read;
#[cfg(test)]
mod read_tests;
mod recover;
mod recovery_point;
#[cfg(test)]
mod recovery_tests;
mod retain;
#[cfg(test)]
mod retain_tests;
mod span;
mod stall;
#[cfg(test)]
mod stall_tests;
mod state;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod times_tests;
#[cfg(test)]
mod wait_tests;
mod walk;
mod writer;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use crate::base::ids::{LeaderEpoch, Offset, TopicId};
use crate::base::prng::Prng;
use crate::rt::mem::Memory;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};
use crate::wire::batch::{BatchHeader, Stamp};
pub use aside::find_in_cut;
use cache::{Cache, Holder, Visit};
pub use error::LogError;
pub use lookup::Located;
use read::Gate;
pub use read::{Damage, Read, ReadPlan};
pub use retain::Retention;
use state::{Segment, State};

/// What of a topic's configuration the log needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment is closed before it would grow above this.
    pub segment_bytes: u32,
    /// `index.interval.bytes`: distance of index entries.
    pub index_interval_bytes: u32,
    /// `segment.index.bytes`: a segment is closed before either index file would grow above this.
    pub segment_index_bytes: u32,
    /// `segment.ms`: a segment is closed this long after its first record's timestamp, milliseconds.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: up to this much of `segment_ms` is left out, at random for each segment.
    pub segment_jitter_ms: i64,
    /// `file.delete.delay.ms`: how long the files of a deleted segment stay, under names that end in `.deleted`.
    pub file_delete_delay_ms: i64,
    /// Each batch is flushed before the next one is appended. So a batch that cannot be right is damaged,
    /// not torn, if a sound one follows or a recovery point lies behind it: the log is not opened then,
    /// and nothing of it is cut.
    pub flushed_one_by_one: bool,
}

impl LogConfig {
    /// Kafka's defaults.
    pub const DEFAULT: LogConfig = LogConfig {
        segment_bytes: 1 << 30,
        index_interval_bytes: 4096,
        segment_index_bytes: 10 << 20,
        segment_ms: 604_800_000,
        segment_jitter_ms: 0,
        file_delete_delay_ms: 60_000,
        flushed_one_by_one: false,
    };
}

/// What is known of a log before it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// All below was flushed, says the checkpoint. 0 if unknown.
    pub recovery_point: Offset,
    /// The last process ended properly: nothing has to be checked.
    pub clean: bool,
    /// First offset to serve, says the checkpoint. 0 if unknown: then the first segment's base.
    pub log_start: Offset,
    /// Everything below is compacted, says the checkpoint. 0 if unknown.
    pub cleaned: Offset,
}

/// Rebuilds, at [`Log::open`], what the caller derives from the batches of a log: producer state.
pub trait Replay {
    /// A snapshot of the state at `offset`, as once given to [`Log::set_snapshot`] or [`Log::close`] or by Kafka. False if it is of no use:
    /// then an older one, or none, is tried. At most one call returns true, and it precedes all calls of [`Replay::batch`].
    fn snapshot(&mut self, offset: Offset, payload: &[u8]) -> bool;
    /// The next batch behind the snapshot.
    fn batch(&mut self, header: &BatchHeader);
    /// Forgets the snapshot and the batches: the log has lost some of them. Others follow.
    fn reset(&mut self);
    /// The state behind the last batch, as a snapshot; none where there is nothing to tell.
    fn state(&self) -> Option<Vec<u8>> {
        None
    }
}

/// For logs whose batches nobody derives anything from.
pub struct NoReplay;

impl Replay for NoReplay {
    fn snapshot(&mut self, _offset: Offset, _payload: &[u8]) -> bool {
        true
    }
    fn batch(&mut self, _header: &BatchHeader) {}
    fn reset(&mut self) {}
}

/// Whether a partition's directory is there. That it cannot be looked at does not mean that it is not.
pub fn exists<R: Rt>(rt: &R, dir: &Path) -> Result<bool, LogError> {
    files::exists(rt, dir)
}

/// The id of the topic that a partition's directory belongs to; zero where it does not say, or is missing.
pub fn stored_topic_id<R: Rt>(rt: &R, dir: &Path) -> Result<TopicId, LogError> {
    files::topic_id(rt, dir)
}

/// The leader-epoch checkpoint's text in a partition's directory, if there is one.
pub fn epoch_checkpoint<R: Rt>(rt: &R, dir: &Path) -> Result<Option<String>, LogError> {
    files::read_text(rt, &dir.join(files::EPOCHS))
}

/// A partition replica's log on its owner core. Clones name the same log.
pub struct Log<R: Rt>(Rc<Inner<R>>);

impl<R: Rt> Clone for Log<R> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

struct Inner<R: Rt> {
    rt: R,
    cache: Cache,
    dir: PathBuf,
    topic_id: Cell<TopicId>,
    config: Cell<LogConfig>,
    state: RefCell<State<R::File>>,
    deleted: Cell<bool>,
    /// Everything below is compacted, as far as is known.
    cleaned: Cell<Offset>,
    /// Of these segments was said that the cleaner cannot read all.
    told: RefCell<compact::Told>,
    /// Makes the jitter of each segment.
    salt: u64,
    /// Held while segments are taken away or replaced.
    upkeep: Gate,
    /// Held while the leader-epoch checkpoint is stored.
    storing_epochs: Gate,
    /// Held while the log's start is stored.
    storing_start: Gate,
    /// The start that the log's own file tells; 0 if there is none.
    stored_start: Cell<Offset>,
    wake: Notify,
    gate: Gate,
    reading_ahead: Cell<bool>,
    /// Damage that a read has met lately.
    met_damage: Cell<Option<read::Met>>,
    waiters: RefCell<Vec<Waker>>,
    on_progress: RefCell<Option<Rc<dyn Fn()>>>,
    this: Weak<Inner<R>>,
}

impl<R: Rt> Holder for Inner<R> {
    fn visit(&self, key: Offset) -> Visit {
        let Ok(mut state) = self.state.try_borrow_mut() else { return Visit::Keep };
        match state.spans.get(&key) {
            None => Visit::Gone(0),
            Some(span) if span.recent.replace(false) || state.dirty.contains(&key) => Visit::Keep,
            Some(_) => Visit::Gone(state.spans.remove(&key).map_or(0, |span| span.chunk.capacity())),
        }
    }

    fn visit_active(&self) -> Visit {
        let Ok(mut state) = self.state.try_borrow_mut() else { return Visit::Keep };
        let visit = match state.active {
            None => Visit::Gone(0),
            Some(_) => state.give_up_active().map_or(Visit::Keep, Visit::GaveUp),
        };
        state.listed &= matches!(visit, Visit::Keep);
        visit
    }

    fn close_segment(&self, base: Offset) -> bool {
        let Ok(mut state) = self.state.try_borrow_mut() else { return false };
        if state.storing.contains(&base) {
            return false;
        }
        let writing = state.writing;
        if let Some(segment) = state.segment_at(base).filter(|segment| segment.base < writing) {
            segment.close();
        }
        true
    }
}

impl<R: Rt> Log<R> {
    /// A new, empty log in `dir`, which is created: its first offset is 0. Its name is durable before its first batch is written.
    pub async fn create(rt: &R, cache: &Cache, dir: &Path, topic_id: TopicId, config: LogConfig) -> Result<Log<R>, LogError> {
        files::create(rt, dir, topic_id).await?;
        let segment = Segment::new(0, config.index_interval_bytes);
        Ok(Self::assemble(rt, cache, dir, topic_id, config, State::new(vec![segment], 0, 0, Box::default())))
    }

    /// Opens the log in `dir`. After an unclean end everything from the recovery point on is checked, and cut at the first batch that is
    /// torn, zeroed, stale or fails its checksum. `replay` is told the newest usable snapshot and all batches behind it.
    pub async fn open(
        rt: &R,
        cache: &Cache,
        dir: &Path,
        config: LogConfig,
        opening: Opening,
        replay: &mut dyn Replay,
    ) -> Result<Log<R>, LogError> {
        let topic_id = files::topic_id(rt, dir)?;
        let stored_start = first::read(rt, dir, topic_id, &opening).await?;
        let opening = Opening { log_start: opening.log_start.max(stored_start), ..opening };
        let mut state = recover::open(rt, dir, config, opening, replay).await?;
        let last = state.last_segment();
        last.begun_ms = rt.now().wall_ms;
        let log = Self::assemble(rt, cache, dir, topic_id, config, state);
        if stored_start > log.end_offset() {
            // These offsets will be given anew.
            first::remove(rt, dir, stored_start).await?;
        } else {
            log.0.stored_start.set(stored_start);
        }
        let walked: Vec<Offset> = log.0.state.borrow().segments.iter().filter(|s| s.index.is_some()).map(|s| s.base).collect();
        walked.into_iter().for_each(|base| log.0.used_segment(base));
        // What lies above the checkpoint's offset, if a crash has cut the log below it, is not what was compacted.
        log.0.cleaned.set(if opening.cleaned > log.end_offset() { 0 } else { opening.cleaned });
        Ok(log)
    }

    fn assemble(rt: &R, cache: &Cache, dir: &Path, topic_id: TopicId, config: LogConfig, state: State<R::File>) -> Log<R> {
        let mut salt = [0; 8];
        rt.random(&mut salt);
        Log(Rc::new_cyclic(|this| Inner {
            salt: u64::from_le_bytes(salt),
            upkeep: Gate::new(1),
            storing_epochs: Gate::new(1),
            storing_start: Gate::new(1),
            stored_start: Cell::default(),
            rt: rt.clone(),
            cache: cache.clone(),
            dir: dir.into(),
            topic_id: Cell::new(topic_id),
            config: Cell::new(config),
            state: RefCell::new(state),
            deleted: Cell::new(false),
            cleaned: Cell::default(),
            told: RefCell::default(),
            wake: Notify::default(),
            gate: Gate::new(1),
            reading_ahead: Cell::new(false),
            met_damage: Cell::default(),
            waiters: RefCell::default(),
            on_progress: RefCell::default(),
            this: this.clone(),
        }))
    }

    /// Whether a batch of so many bytes is not too large for this log.
    pub fn takes(&self, bytes: usize) -> bool {
        bytes <= self.0.config.get().segment_bytes as usize
    }

    /// Copies a batch (its CRC checked by the caller) to the end of the log under `base_offset`, which is not below the end, and has it
    /// written soon. With `stamp` the batch gets that timestamp. True when the batch starts a new segment: then the caller
    /// gives the state before this batch to [`Log::set_snapshot`].
    pub fn append(&self, batch: &[u8], base_offset: Offset, epoch: LeaderEpoch, stamp: Option<Stamp>) -> Result<bool, LogError> {
        let inner = &*self.0;
        let header = BatchHeader::parse(batch).map_err(|e| LogError::BadBatch(e.to_string()))?;
        if header.total_len() != batch.len() || header.last_offset_delta < 0 {
            return Err(LogError::BadBatch("its length is not that of its bytes, or its offsets run backwards".into()));
        }
        let config = inner.config.get();
        if !self.takes(batch.len()) {
            return Err(LogError::TooLarge);
        }
        let last = base_offset.checked_add(header.last_offset_delta.into()).filter(|last| *last < Offset::MAX);
        let Some(last) = last else { return Err(LogError::BadBatch("the log has no more offsets".into())) };
        let mut state = inner.state.borrow_mut();
        if let Some(reason) = &state.fenced {
            return Err(LogError::Fenced(reason.clone()));
        }
        if let Some(reason) = &state.stalled {
            return Err(LogError::Exhausted(reason.clone()));
        }
        if state.closed {
            return Err(LogError::Closed);
        }
        if base_offset < state.end {
            return Err(LogError::BadBatch(format!("base offset {base_offset} is below the log's end {}", state.end)));
        }
        let ms = stamp.map_or(header.max_timestamp, Stamp::ms);
        let now_ms = || inner.rt.now().wall_ms;
        let roll = state.rolls(batch.len(), last, &config, |segment| {
            let age = segment.since_ms.map_or_else(|| now_ms().saturating_sub(segment.begun_ms), |since| ms.saturating_sub(since));
            (age, inner.roll_ms(segment.base))
        });
        let memory = inner.rt.memory();
        let spare = || memory.budget().saturating_sub(memory.used().saturating_sub(inner.cache.bytes()));
        let limit = || (spare() / 8).min(inner.cache.chunk_share());
        if let Some(size) = state.chunk_wanted(batch.len(), roll, limit, || inner.rt.now().mono) {
            // Taking memory may make the cache ask this very log for some.
            drop(state);
            let chunk = memory.chunk_now(size);
            state = inner.state.borrow_mut();
            let segment = roll.then(|| Segment::new(base_offset, config.index_interval_bytes));
            state.open_span(chunk, segment);
            state.seat.get_or_insert_with(|| inner.cache.seat());
            // Once only, however often chunks come and go: nobody takes entries away while there is memory enough.
            if !std::mem::replace(&mut state.listed, true) {
                inner.cache.insert_active(inner.this.clone());
            }
        }
        if ms < 0 && state.last_segment().size == 0 {
            state.last_segment().begun_ms = now_ms();
        }
        state.push(batch, &header, base_offset, epoch, stamp);
        let kick = inner.kick(&mut state);
        drop(state);
        inner.start(kick);
        Ok(roll)
    }

    /// Snapshot of producer state at `offset`, the base offset of a new segment (see [`Log::append`]): written when that segment begins.
    pub fn set_snapshot(&self, offset: Offset, payload: Vec<u8>) {
        self.0.state.borrow_mut().snapshots.push((offset, payload));
    }

    /// True when so much was appended since [`Log::set_recovery_point`] that a start after a crash would take long.
    pub fn recovery_point_due(&self) -> bool {
        self.0.recovery_point_due()
    }

    /// A start after a crash is to look at nothing below the log's end as it is now. Has the log flushed; `snapshot` is the state of
    /// producers, stored with the recovery point.
    pub fn set_recovery_point(&self, snapshot: Vec<u8>) {
        if let Some(offset) = self.0.set_recovery_point(snapshot) {
            self.want_flush(offset);
        }
    }

    /// Replaces the leader-epoch checkpoint (Kafka's text form, opaque here).
    pub async fn set_epochs(&self, text: String) -> Result<(), LogError> {
        self.set_epochs_later(text);
        files::write_owed_epochs(&self.0).await
    }

    /// As [`Log::set_epochs`], stored before the next batch is. Until then nothing in the log is of an epoch that the stored text lacks.
    pub fn set_epochs_later(&self, text: String) {
        self.0.state.borrow_mut().owed_epochs = Some(text);
    }

    /// True when the log was read from disk since the last call.
    pub fn take_used(&self) -> bool {
        std::mem::take(&mut self.0.state.borrow_mut().used)
    }

    /// Another configuration is in force from now on; segments that exist keep the spacing of their index.
    pub fn set_config(&self, config: LogConfig) {
        self.0.config.set(config);
    }

    /// The topic's id from `partition.metadata`; zero if that is missing.
    pub fn topic_id(&self) -> TopicId {
        self.0.topic_id.get()
    }

    /// The id, where the directory does not say it: stored before the next batch.
    pub fn set_topic_id(&self, topic_id: TopicId) {
        self.0.topic_id.set(topic_id);
        self.0.state.borrow_mut().settled = false;
    }

    /// The memory that it is cached in.
    pub fn memory(&self) -> &Memory {
        self.0.rt.memory()
    }

    /// First offset to serve.
    pub fn start_offset(&self) -> Offset {
        self.0.state.borrow().start
    }

    /// Offset that the next batch gets.
    pub fn end_offset(&self) -> Offset {
        self.0.state.borrow().end
    }

    /// All below survives the end of the process.
    pub fn written_offset(&self) -> Offset {
        self.0.state.borrow().written
    }

    /// All below survives a loss of power.
    pub fn flushed_offset(&self) -> Offset {
        self.0.state.borrow().flushed
    }

    /// The log was not closed properly before it was opened, or is not as it was then: records may be missing that were seen.
    pub fn opened_unclean(&self) -> bool {
        self.0.state.borrow().unclean
    }

    /// Why the log accepts nothing any more, if so.
    pub fn fenced(&self) -> Option<String> {
        self.0.state.borrow().fenced.clone()
    }

    /// Called after every advance of the written or flushed offset, and when the log is fenced. It may call the log.
    pub fn set_on_progress(&self, callback: Option<Rc<dyn Fn()>>) {
        *self.0.on_progress.borrow_mut() = callback;
    }

    /// Somebody waits until everything below `offset` is flushed.
    pub fn want_flush(&self, offset: Offset) {
        let mut state = self.0.state.borrow_mut();
        state.want_flush(offset);
        let kick = state.wanted.is_some() && self.0.kick(&mut state);
        drop(state);
        self.0.start(kick);
    }

    /// Flushes all that was appended so far. [`LogError::Exhausted`]: some of it could not be written and was taken back.
    pub async fn flush(&self) -> Result<(), LogError> {
        self.flush_to(self.end_offset()).await
    }

    /// As [`Log::flush`], of all below `end`.
    async fn flush_to(&self, end: Offset) -> Result<(), LogError> {
        self.want_flush(end);
        // A stall lasts for longer than it takes to hear of it.
        self.0.wait_until(|state| state.flushed >= end || state.stalled.is_some()).await?;
        match &self.0.state.borrow().stalled {
            Some(what) if self.flushed_offset() < end => Err(LogError::Exhausted(what.clone())),
            _ => Ok(()),
        }
    }

    /// True when there is nothing that [`Log::trim_idle`] would give back.
    pub fn at_rest(&self) -> bool {
        self.0.state.borrow().at_rest()
    }

    /// For a log that was not used for a while: gives back disk allocated ahead, the append chunk and open files.
    pub fn trim_idle(&self) {
        if !self.at_rest() {
            self.trim();
        }
    }

    fn trim(&self) {
        let mut state = self.0.state.borrow_mut();
        state.trim = true;
        let kick = self.0.kick(&mut state);
        drop(state);
        self.0.start(kick);
    }

    /// Ends the log properly: everything flushed, files cut to their logical size, indexes and the producer state `snapshot` stored.
    pub async fn close(&self, snapshot: Vec<u8>) -> Result<(), LogError> {
        self.0.state.borrow_mut().closed = true;
        // A cleaning notices and ends.
        let _turn = self.0.upkeep.enter().await;
        let _stored = self.0.storing_start.enter().await;
        self.flush().await?;
        self.trim();
        self.0.wait_until(|state| !state.at_work()).await?;
        *self.0.on_progress.borrow_mut() = None;
        files::write_closing(&self.0, snapshot).await
    }

    /// Removes the log and its directory, which is renamed first as Kafka does. Later calls fail with [`LogError::Closed`].
    pub async fn delete(&self) -> Result<(), LogError> {
        self.0.state.borrow_mut().closed = true;
        self.0.deleted.set(true);
        self.0.wake.notify();
        // Nothing may make files here once the directory can be that of a new topic.
        let _turn = self.0.upkeep.enter().await;
        let _stored = self.0.storing_start.enter().await;
        poll_fn(|cx| self.0.poll_until(cx.waker(), |state| !state.at_work())).await;
        *self.0.on_progress.borrow_mut() = None;
        let spans = std::mem::take(&mut self.0.state.borrow_mut().spans);
        files::remove(&self.0).await?;
        drop(spans);
        Ok(())
    }
}

impl<R: Rt> Inner<R> {
    /// `segment.ms` less the jitter of the segment that begins at `base`.
    fn roll_ms(&self, base: Offset) -> i64 {
        let config = self.config.get();
        let most = config.segment_jitter_ms.min(config.segment_ms);
        let jitter = if most > 0 { Prng::new(self.salt ^ base as u64).below(most as u64) as i64 } else { 0 };
        config.segment_ms - jitter
    }

    /// Makes the writer look again; true when the task has to be started.
    fn kick(&self, state: &mut State<R::File>) -> bool {
        if state.running {
            self.wake.notify();
            return false;
        }
        state.running = state.fenced.is_none() && !self.deleted.get();
        state.running
    }

    fn start(&self, kick: bool) {
        if kick && let Some(this) = self.this.upgrade() {
            self.rt.spawn(Class::Foreground, writer::run(this));
        }
    }

    fn wake_waiters(&self) {
        for waker in self.waiters.take() {
            waker.wake();
        }
    }

    /// Tells everybody that offsets have moved.
    fn progressed(&self) {
        self.wake_waiters();
        let callback = self.on_progress.borrow().clone();
        if let Some(callback) = callback {
            callback();
        }
    }

    fn poll_until(&self, waker: &Waker, done: impl Fn(&State<R::File>) -> bool) -> Poll<()> {
        if done(&self.state.borrow()) {
            return Poll::Ready(());
        }
        self.waiters.borrow_mut().push(waker.clone());
        Poll::Pending
    }

    async fn wait_until(&self, done: impl Fn(&State<R::File>) -> bool) -> Result<(), LogError> {
        poll_fn(|cx| self.poll_until(cx.waker(), |state| state.fenced.is_some() || self.deleted.get() || done(state))).await;
        let state = self.state.borrow();
        match &state.fenced {
            Some(reason) => Err(LogError::Fenced(reason.clone())),
            None if done(&state) => Ok(()),
            None => Err(LogError::Closed),
        }
    }
}

impl<R: Rt> Drop for Inner<R> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let cached = state.spans.iter().filter(|(key, _)| !state.dirty.contains(key));
        self.cache.forget(cached.map(|(_, span)| span.chunk.capacity()).sum());
        self.cache.sweep();
    }
}
