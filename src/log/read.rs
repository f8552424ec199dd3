//! Reading: from memory at once, else from the device in large pieces that then stay in the cache.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::error::LogError;
use super::index::{Index, TimesKnown};
use super::span::{Span, block_ceil, block_floor};
use super::walk::{Bounds, End, Found, HEADER, Walk};
use super::{Inner, Log, files, walk};
use crate::base::ids::Offset;
use crate::base::limits::BLOCK;
use crate::rt::mem::Chunk;
use crate::rt::{Class, Open, Rt};
use crate::wire::batch::{self, BatchHeader};

/// Bytes asked from the device at a time; a batch that does not fit is read alone.
const COLD_READ: u64 = 1 << 20;
/// Cold reads that one core has at the device at a time: one is being answered while the other is on its way.
pub(super) const COLD_READS: usize = 2;
/// For how long readers are told of damage without another look at the device.
const MET_FOR: Duration = Duration::from_secs(5);
/// Batches of a segment that are looked at before its stored times are believed.
const SAMPLES: usize = 5;

/// Answer of [`Log::read`].
#[derive(Debug)]
pub enum Read {
    /// Whole batches, in order; those of one chunk are one slice. Empty when there is nothing below the limit.
    Hit(Vec<Bytes>),
    /// The device has to be asked: [`Log::read_cold`].
    Miss(ReadPlan),
}

/// What a read that was not answered from memory asked for.
#[derive(Clone, Copy, Debug)]
pub struct ReadPlan {
    offset: Offset,
    max_bytes: usize,
    upto: Offset,
    min_one: bool,
    /// Waits for memory, and for other reads of the log.
    patient: bool,
}

impl ReadPlan {
    /// For a reader that holds memory already: if it waited for more, readers could wait for each
    /// other without end. It gets nothing where there is none.
    pub fn impatient(self) -> ReadPlan {
        ReadPlan { patient: false, ..self }
    }
}

/// Lets so many in at a time. One cold read per log: the second reader of the same place finds it in the cache. And a few per core: more
/// would not be faster, and every write would queue up behind them in the device.
pub(super) struct Gate {
    free: Cell<usize>,
    waiters: RefCell<Vec<Waker>>,
}

/// Held by whoever has been let in.
pub struct Turn<'a>(&'a Gate);

impl Gate {
    pub fn new(places: usize) -> Gate {
        Gate { free: Cell::new(places), waiters: RefCell::default() }
    }

    pub async fn enter(&self) -> Turn<'_> {
        poll_fn(|cx| {
            let Some(left) = self.free.get().checked_sub(1) else {
                self.waiters.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            };
            self.free.set(left);
            Poll::Ready(())
        })
        .await;
        Turn(self)
    }

    /// As [`Gate::enter`], if there is room.
    pub fn try_enter(&self) -> Option<Turn<'_>> {
        let left = self.free.get().checked_sub(1)?;
        self.free.set(left);
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        for waker in self.0.waiters.take() {
            waker.wake();
        }
    }
}

/// A part of the log that cannot be read, see [`Log::past_damage`].
#[derive(Debug)]
pub struct Damage {
    /// Where to go on reading.
    pub next: Offset,
    /// The batch, if that is all and its header is whole, with its bytes if they were read.
    pub batch: Option<(BatchHeader, Option<Bytes>)>,
}

/// Damage that a read has met: who asks again is told the same for a while. To find out what is
/// damaged may take reading the rest of a segment.
#[derive(Clone, Copy)]
pub(super) struct Met {
    base: Offset,
    position: u64,
    reason: &'static str,
    /// It answers for the offsets from `from` on, below `upto`.
    from: Offset,
    upto: Offset,
    until: Duration,
}

/// What a cold read has brought.
enum Loaded {
    /// The batch asked for, and what lies behind it.
    Span,
    /// Compaction has left nothing before this offset, where the next segment begins.
    NothingBefore(Offset),
    /// There is no memory, and the reader does not wait for it.
    NoRoom,
}

/// An entry of an index.
#[derive(Clone, Copy)]
struct Entry {
    /// The last offset of its batch.
    last: Offset,
    /// It was read from a file.
    stored: bool,
}

/// Where a cold read starts and where it must end.
struct Place {
    base: Offset,
    /// The offset behind the batch before it, or of the batch there.
    next: Offset,
    /// Where the position comes from, until the batch there was looked at.
    entry: Option<Entry>,
    /// No batch reaches it: the next segment begins there.
    ceiling: Offset,
    position: u64,
    /// What is read ends here: at the next cached span, or at the end of the segment's batches.
    limit: u64,
    /// No batch before the limit reaches it.
    ahead: Offset,
    /// End of the segment's batches.
    end: u64,
    /// Where it goes on behind a cached span, so that the reader is a sequential one: the length of the last batch there.
    sequential: Option<u64>,
}

impl Place {
    /// How much to read from `start` on, at most [`COLD_READ`] but for a larger batch. A sequential reader probably gets batches of one length:
    /// a read that ends behind one of them leaves no part of a batch to be read again.
    fn want(&self, start: u64) -> u64 {
        let Some(len) = self.sequential else { return COLD_READ };
        let batches = ((COLD_READ - (self.position - start)) / len.max(1)).max(1);
        block_ceil(self.position + batches * len) - start
    }

    /// Where it begins.
    fn from(&self) -> End {
        End { position: self.position, ..End::start(self.next) }
    }

    /// Reads on behind what was looked at.
    fn go_on(&mut self, position: u64, next: Offset) {
        (self.position, self.next, self.entry) = (position, next, None);
    }

    /// Compares the batch that `bytes` begin with to the index entry that led to it. False if that
    /// entry is wrong, and would hide what is before the batch.
    fn compare(&mut self, bytes: &[u8], offset: Offset) -> bool {
        let Some(entry) = self.entry else { return true };
        let header = BatchHeader::parse(bytes).ok().filter(|header| header.base_offset <= offset);
        let header = header.filter(|_| self.position + HEADER as u64 <= self.limit);
        match header.filter(|_| walk::fits_entry(bytes, self.base, entry.last)) {
            Some(header) => self.go_on(self.position, header.base_offset),
            None if entry.stored => return false,
            // The batch is damaged.
            None => self.go_on(self.position, entry.last),
        }
        true
    }
}

impl<R: Rt> Log<R> {
    /// Whole batches from the one that holds `offset` on, below `upto` (exclusive, the end of a batch), at most `max_bytes`; with `min_one`
    /// the first batch comes whole even if it is larger (KIP-74). Whether `offset` is in range is for the caller to say.
    pub fn read(&self, offset: Offset, max_bytes: usize, upto: Offset, min_one: bool) -> Read {
        let state = self.0.state.borrow();
        let upto = upto.min(state.end);
        let mut pieces = Vec::new();
        let (mut at, mut room) = (offset.max(state.segments[0].base), max_bytes);
        let mut ahead = None;
        while at < upto {
            let Some(span) = state.covering(at) else {
                if pieces.is_empty() {
                    return Read::Miss(ReadPlan { offset: at, max_bytes, upto, min_one, patient: true });
                }
                break;
            };
            let Some((piece, next)) = span.take(at, room, upto, min_one && pieces.is_empty()) else { break };
            room = room.saturating_sub(piece.len());
            pieces.push(piece);
            at = next;
            if span.ahead.replace(false) {
                ahead = Some(span.next);
            }
        }
        drop(state);
        if let Some(next) = ahead {
            self.read_ahead(next);
        }
        Read::Hit(pieces)
    }

    /// Reads what [`Log::read`] did not find in memory. It may return less than there is, but not nothing, unless the plan is impatient.
    pub async fn read_cold(&self, plan: ReadPlan) -> Result<Vec<Bytes>, LogError> {
        let again = |offset| match self.read(offset, plan.max_bytes, plan.upto, plan.min_one) {
            Read::Hit(pieces) => Some(pieces),
            Read::Miss(_) => None,
        };
        let mut offset = plan.offset;
        let turn = match plan.patient {
            true => Some(self.0.gate.enter().await),
            false => self.0.gate.try_enter(),
        };
        if turn.is_none() {
            return Ok(Vec::new());
        }
        let pieces = loop {
            if let Some(pieces) = again(offset) {
                return Ok(pieces);
            }
            match self.0.load(offset, plan.patient).await? {
                Loaded::NoRoom => return Ok(Vec::new()),
                Loaded::Span => break again(offset),
                Loaded::NothingBefore(base) => offset = base,
            }
        };
        drop(turn);
        self.0.cache.relieve();
        pieces.ok_or_else(|| LogError::corrupt(&self.0.dir, 0, format!("no batch holds offset {}", plan.offset)))
    }

    /// The extent of the damage that [`Log::read_cold`] found at `offset`. `next` is `offset` itself
    /// where nothing is damaged.
    pub async fn past_damage(&self, offset: Offset) -> Result<Damage, LogError> {
        let inner = &*self.0;
        let _turn = inner.gate.enter().await;
        let mut place = inner.place(offset).await?;
        let file = inner.file(place.base).await?;
        let path = files::name(&inner.dir, place.base, "log");
        let bounds = Bounds::complete(place.base, place.ahead);
        let mut walk = Walk::<R>::new(&inner.rt, &file, &path, place.limit, bounds);
        if place.position < place.limit {
            place.compare(walk.at(place.position, HEADER).await?, offset);
        }
        let Found::Damaged { position, end, whole, next, .. } = walk.find(place.from(), offset).await? else {
            // A segment was replaced while it was read.
            return Ok(Damage { next: offset, batch: None });
        };
        let upto = place.ahead;
        if !whole || end - position > COLD_READ {
            return Ok(Damage { next: next.unwrap_or(upto), batch: None });
        }
        // Its buffer: others may wait for it who hold what is waited for here.
        drop(walk);
        let start = block_floor(position);
        let len = (block_ceil(end) - start) as usize;
        let chunk = inner.rt.memory().chunk_to_read(len).await;
        let (result, chunk) = inner.rt.read_at(&file, start, chunk, len).await;
        result.map_err(LogError::io("read", &path))?;
        let batch = chunk.filled().get((position - start) as usize..(end - start) as usize).unwrap_or_default();
        let header = BatchHeader::parse(batch).ok().map(|header| (header, Some(Bytes::copy_from_slice(batch))));
        Ok(Damage { next: next.unwrap_or(upto), batch: header })
    }

    /// Reads the piece behind one that a sequential reader has just got, while it is being sent. Not while others wait for memory.
    fn read_ahead(&self, next: Offset) {
        let cold = {
            let state = self.0.state.borrow();
            next < state.written && state.covering(next).is_none()
        };
        if !cold || self.0.rt.memory().contended() || self.0.reading_ahead.replace(true) {
            return;
        }
        let log = self.clone();
        self.0.rt.spawn(Class::Foreground, async move {
            let _turn = log.0.gate.enter().await;
            let cold = log.0.state.borrow().covering(next).is_none();
            if cold && !log.0.deleted.get() {
                // Whoever wants the piece will be told of the failure.
                let _ = log.0.load(next, true).await;
                log.0.cache.relieve();
            }
            log.0.reading_ahead.set(false);
        });
    }
}

impl<R: Rt> Inner<R> {
    /// Brings the batch that holds `offset`, or the next one of its segment, and what fits behind it, into the cache.
    async fn load(&self, offset: Offset, patient: bool) -> Result<Loaded, LogError> {
        self.known_damage(offset)?;
        let mut place = self.place(offset).await?;
        let mut least = 0;
        loop {
            if place.position + HEADER as u64 > place.limit && place.entry.is_none_or(|entry| !entry.stored) {
                // A gap that compaction left: before a cached span, or at the end of the segment.
                if place.limit == place.end {
                    return self.next_segment(place.base, offset).map(Loaded::NothingBefore);
                }
                (place.limit, place.ahead) = (place.end, place.ceiling);
            }
            let path = files::name(&self.dir, place.base, "log");
            let file = self.file(place.base).await?;
            let start = block_floor(place.position);
            let len = (block_ceil(place.limit).max(start + BLOCK as u64) - start).min(place.want(start).max(least));
            let memory = self.rt.memory();
            // A batch above half the budget has to be answered too; it is as long as it says, for the file holds it.
            let chunk = match patient {
                true if len > memory.budget() as u64 / 2 => memory.chunk_now(len as usize),
                true => memory.chunk_to_read(len as usize).await,
                false => match memory.try_chunk(len as usize) {
                    Some(chunk) => chunk,
                    None => return Ok(Loaded::NoRoom),
                },
            };
            let turn = self.cache.cold_reads().enter().await;
            let (result, chunk) = self.rt.read_at(&file, start, chunk, len as usize).await;
            drop(turn);
            let n = result.map_err(LogError::io("read", &path))? as u64;
            if n < len && start + n < place.limit {
                return Err(LogError::corrupt(&path, start + n, "the file ends before its last batch"));
            }
            let batch = chunk.filled().get((place.position - start) as usize..).unwrap_or_default();
            if !place.compare(batch, offset) {
                tracing::warn!("{}: its stored index does not fit its batches: it is made anew", path.display());
                // The walk waits for memory, which others would hold who come here as well.
                drop(chunk);
                self.make_index(place.base).await?;
                place = self.place(offset).await?;
                continue;
            }
            match parse(&place, start, chunk, offset) {
                Ok(Parsed::Span(span)) => {
                    span.ahead.set(place.sequential.is_some());
                    self.keep(span);
                    return Ok(Loaded::Span);
                }
                Ok(Parsed::Further { position, needs, next }) => {
                    least = block_ceil(needs as u64) + BLOCK as u64;
                    place.go_on(position, next);
                }
                Err(bad) => self.go_past(&mut place, &file, bad, offset).await?,
            }
        }
    }

    /// Goes on behind what is damaged; an error if that holds `offset`.
    async fn go_past(&self, place: &mut Place, file: &R::File, bad: Bad, offset: Offset) -> Result<(), LogError> {
        let path = files::name(&self.dir, place.base, "log");
        place.go_on(bad.position, bad.next);
        let bounds = Bounds::complete(place.base, place.ahead);
        let mut walk = Walk::<R>::new(&self.rt, file, &path, place.limit, bounds);
        match walk.find(place.from(), offset).await? {
            Found::Sound(at) if at.position > bad.position => {
                place.sequential = None;
                place.go_on(at.position, at.next);
                Ok(())
            }
            Found::Damaged { position, reason, next, .. } => {
                let until = self.rt.now().mono + MET_FOR;
                let upto = next.unwrap_or(place.ahead);
                let met = Met { base: place.base, position, reason, from: offset, upto, until };
                self.met_damage.set(Some(met));
                Err(LogError::corrupt(&path, position, reason))
            }
            _ => Err(LogError::corrupt(&path, bad.position, bad.reason)),
        }
    }

    /// An error if a read has lately met damage that holds `offset`.
    fn known_damage(&self, offset: Offset) -> Result<(), LogError> {
        match self.met_damage.get().filter(|met| met.until > self.rt.now().mono) {
            Some(met) if (met.from..met.upto).contains(&offset) => {
                let path = files::name(&self.dir, met.base, "log");
                Err(LogError::corrupt(&path, met.position, met.reason))
            }
            _ => Ok(()),
        }
    }

    fn keep(&self, span: Span) {
        let (key, bytes) = (span.first, span.chunk.capacity());
        let replaced = self.state.borrow_mut().spans.insert(key, span);
        self.cache.forget(replaced.map_or(0, |old| old.chunk.capacity()));
        self.cache.insert(self.this.clone(), key, bytes);
    }

    /// Where to read for `offset`: behind the cached span before it or at the index entry before it, whichever is nearer.
    async fn place(&self, offset: Offset) -> Result<Place, LogError> {
        let base = {
            let state = self.state.borrow();
            state.segments[state.segment_of(offset)].base
        };
        self.with_index(base).await?;
        let state = self.state.borrow();
        let Some(segment) = state.segments.iter().find(|segment| segment.base == base) else { return Err(self.gone(base)) };
        // What is read must not reach back over a cached span: the batches behind that one would be looked for in it.
        let before = state.spans.range(..=offset).next_back().map(|(_, s)| s).filter(|s| s.segment == base && s.next <= offset);
        let entry = segment.index.as_ref().and_then(|index| index.entry((offset - base).max(0) as u32));
        let indexed = entry.map_or(0, |(_, position)| u64::from(position));
        let stored = segment.index.as_ref().and_then(Index::stored).is_some_and(|stored| indexed < stored.size);
        let entry = entry.map(|(last, _)| Entry { last: base + Offset::from(last), stored });
        let (next, position, entry) = match before {
            Some(span) if span.batches_end() >= indexed => (span.next, span.batches_end(), None),
            _ => (base, indexed, entry),
        };
        let ahead = state.spans.range(offset + 1..).next().map(|(_, s)| s).or(state.active.as_ref()).filter(|s| s.segment == base);
        let limit = ahead.map_or(segment.size, |s| s.batches_start());
        let sequential = before.filter(|s| s.next == offset).map(Span::last_len);
        let ceiling = state.segments.get(state.segment_of(base) + 1).map_or(state.end, |next| next.base);
        let ahead = ahead.map_or(ceiling, Span::first_base);
        Ok(Place { base, next, entry, ceiling, ahead, position, limit, end: segment.size, sequential })
    }

    fn next_segment(&self, base: Offset, offset: Offset) -> Result<Offset, LogError> {
        let state = self.state.borrow();
        let at = state.segment_of(base);
        let Some(segment) = state.segments.get(at + 1) else {
            let path = files::name(&self.dir, base, "log");
            return Err(LogError::corrupt(&path, state.segments[at].size, format!("it should hold offset {offset}")));
        };
        Ok(segment.base)
    }

    /// Makes sure that the index of the segment of `offset` is in memory until the next wait, and that
    /// its largest timestamp is that of the records. The segment is not replaced as long as the result
    /// lives.
    pub(super) async fn indexed_times(&self, offset: Offset) -> Result<Turn<'_>, LogError> {
        let turn = self.gate.enter().await;
        // An index may be given up at every wait.
        while !self.has_times(offset).await? {}
        Ok(turn)
    }

    /// One try of [`Inner::indexed_times`]: true if the index is there.
    async fn has_times(&self, offset: Offset) -> Result<bool, LogError> {
        let base = {
            let state = self.state.borrow();
            state.segments[state.segment_of(offset)].base
        };
        self.with_index(base).await?;
        let (segment, kind, index, largest) = {
            let state = self.state.borrow();
            let segment = &state.segments[state.segment_of(offset)];
            let Some(index) = &segment.index else { return Ok(false) };
            match index.stored().filter(|_| index.times_known() == TimesKnown::Stored) {
                // The last segment was looked at when the log was opened.
                Some(stored) if segment.base < state.writing => {
                    let (ms, last) = stored.largest;
                    let largest = (index.position(last).into(), segment.base + Offset::from(last), ms);
                    ((segment.base, segment.size), segment.kind(), index.clone(), largest)
                }
                _ => return Ok(true),
            }
        };
        let path = files::name(&self.dir, base, kind);
        if !walk::proves_times(&self.rt, &path, segment, &index.samples(SAMPLES), largest).await? {
            self.make_index(base).await?;
        } else if let Some(segment) = self.state.borrow_mut().segment_at(base) {
            // It may have been given up meanwhile.
            segment.index.get_or_insert(index).set_sampled();
        }
        self.used_segment(base);
        let state = self.state.borrow();
        Ok(state.segments[state.segment_of(offset)].index.is_some())
    }

    /// Makes sure that a segment's index is in memory: from its files, or by walking the segment.
    async fn with_index(&self, base: Offset) -> Result<(), LogError> {
        let (size, end, kind) = {
            let state = self.state.borrow();
            let at = state.segment_of(base);
            if state.segments[at].base != base {
                return Ok(());
            }
            if state.segments[at].index.is_some() {
                drop(state);
                self.used_segment(base);
                return Ok(());
            }
            (state.segments[at].size, state.segments.get(at + 1).map_or(state.end, |s| s.base), state.segments[at].kind())
        };
        let interval = self.config.get().index_interval_bytes;
        let index = match files::read_index(&self.rt, &self.dir, base, size, end, interval) {
            Some(index) => index,
            None => {
                let index = walk::walk_index(&self.rt, &files::name(&self.dir, base, kind), base, end, size, interval).await?;
                self.store_index(base, &index).await;
                index
            }
        };
        if let Some(segment) = self.state.borrow_mut().segment_at(base) {
            segment.index.get_or_insert(index);
        }
        self.used_segment(base);
        Ok(())
    }

    /// Takes note of a complete segment whose file is open or whose index is in memory. Those that were
    /// not used for longest are closed where there are too many.
    pub(super) fn used_segment(&self, base: Offset) {
        let mut state = self.state.borrow_mut();
        if base >= state.writing {
            return;
        }
        let Some(segment) = state.segment_at(base) else { return };
        let bytes = segment.index.as_ref().map_or(0, Index::bytes);
        match &segment.opened {
            Some(opened) => opened.used(bytes),
            None => segment.opened = Some(self.cache.open(self.this.clone(), base, bytes)),
        }
        drop(state);
        self.cache.close_unused();
    }

    /// Opens a file. Where no descriptor is left, segments that nobody writes to give up theirs.
    pub(super) async fn open(&self, path: &Path, how: Open) -> io::Result<R::File> {
        match self.rt.open(path, how).await {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && self.cache.close_all() => {
                self.rt.open(path, how).await
            }
            opened => opened,
        }
    }

    /// For a reader that was overtaken by the deletion of its segment.
    fn gone(&self, base: Offset) -> LogError {
        LogError::corrupt(&files::name(&self.dir, base, "log"), 0, "it was deleted")
    }

    async fn file(&self, base: Offset) -> Result<R::File, LogError> {
        let (file, kind, writable) = {
            let mut state = self.state.borrow_mut();
            state.used = true;
            let writable = base >= state.writing;
            let segment = state.segment_at(base).ok_or_else(|| self.gone(base))?;
            (segment.file.clone(), segment.kind(), writable)
        };
        if let Some(file) = file {
            self.used_segment(base);
            return Ok(file);
        }
        let path = files::name(&self.dir, base, kind);
        let how = if writable { Open::Write } else { Open::Read };
        let file = self.open(&path, how).await.map_err(LogError::io_or_exhausted("open", &path))?;
        if let Some(segment) = self.state.borrow_mut().segment_at(base) {
            segment.file = Some(file.clone());
        }
        self.used_segment(base);
        Ok(file)
    }
}

enum Parsed {
    Span(Span),
    /// Nothing for the offset in here: read on at `position`, where a batch of `needs` bytes starts.
    Further {
        position: u64,
        needs: usize,
        /// The offset behind the batch before it.
        next: Offset,
    },
}

/// Bytes that cannot be right, before or at the batch that is looked for.
struct Bad {
    position: u64,
    /// The offset behind the batch before them.
    next: Offset,
    reason: String,
}

/// The header of the batch at the front of `bytes`, of which not all need be there. `next`: the offset
/// behind the one before it.
fn check(place: &Place, position: u64, bytes: &[u8], next: Offset) -> Result<BatchHeader, String> {
    let header = BatchHeader::parse(bytes).map_err(|e| e.to_string())?;
    let len = header.total_len();
    let end = header.base_offset.checked_add(i64::from(header.last_offset_delta) + 1);
    let beyond = position + len as u64 > place.limit || end.is_none_or(|end| end > place.ahead);
    if beyond || header.last_offset_delta < 0 || header.base_offset < next {
        return Err("a batch header that cannot be right".into());
    }
    // The offset is not covered by the checksum. Where some are missing the next batch tells whether it can be right.
    let behind = || {
        bytes.get(len..).and_then(|bytes| BatchHeader::parse(bytes).ok()).filter(|_| position + len as u64 + HEADER as u64 <= place.limit)
    };
    if next != header.base_offset && behind().is_some_and(|behind| behind.base_offset < header.next_offset()) {
        return Err("a batch whose offset is above that of the next one".into());
    }
    // Once for each read of the device, not for each consumer: what has changed since it was written is never served.
    if len <= bytes.len() && !batch::crc_ok(bytes) {
        return Err("a batch whose checksum is wrong".into());
    }
    Ok(header)
}

/// Makes a span of the whole batches in `chunk`, which was read from `start`.
fn parse(place: &Place, start: u64, chunk: Chunk, offset: Offset) -> Result<Parsed, Bad> {
    let filled = (chunk.len() as u64).min(place.limit - start) as usize;
    let mut at = (place.position - start) as usize;
    let mut found: Vec<(usize, usize, Offset, Offset)> = Vec::new();
    let (mut next, mut needs) = (place.next, HEADER);
    while at + HEADER <= filled {
        let position = start + at as u64;
        let header = match check(place, position, &chunk.filled()[at..filled], next) {
            Ok(header) => header,
            // Whoever asks for this one will be told.
            Err(_) if !found.is_empty() && next > offset => break,
            Err(reason) => return Err(Bad { position, next, reason }),
        };
        let len = header.total_len();
        // Where offsets are missing before it the header behind it has to be there too, see `check`.
        let gap = next != header.base_offset && position + ((len + HEADER) as u64) <= place.limit;
        needs = if gap { len + HEADER } else { len };
        if at + needs > filled {
            break;
        }
        needs = HEADER;
        found.push((at, len, header.base_offset, header.next_offset()));
        next = header.next_offset();
        at += len;
    }
    if found.is_empty() || next <= offset {
        return Ok(Parsed::Further { position: start + at as u64, needs, next });
    }
    let mut span = Span::new(place.base, start, chunk, found[0].2.min(offset));
    for (at, len, base, next) in found {
        span.push(at, len, base, next);
    }
    span.written = span.end;
    Ok(Parsed::Span(span))
}
