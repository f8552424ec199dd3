//! Reading: from memory at once, else from the device in large pieces that then stay in the cache.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::error::LogError;
use super::index::TimesKnown;
use super::span::{Span, block_ceil, block_floor};
use super::{Inner, Log, files, walk};
use crate::base::ids::Offset;
use crate::rt::mem::Chunk;
use crate::rt::{Class, Open, Rt};
use crate::wire::batch::{self, BatchHeader};

/// Bytes asked from the device at a time; a batch that does not fit is read alone.
const COLD_READ: u64 = 1 << 20;
/// Cold reads that one core has at the device at a time: one is being answered while the other is on its way.
pub(super) const COLD_READS: usize = 2;
/// Bytes of a batch header.
const HEADER: usize = 61;
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

/// What a cold read has brought.
enum Loaded {
    /// The batch asked for, and what lies behind it.
    Span,
    /// Compaction has left nothing before this offset, where the next segment begins.
    NothingBefore(Offset),
    /// There is no memory, and the reader does not wait for it.
    NoRoom,
}

/// Where a cold read starts and where it must end.
struct Place {
    base: Offset,
    /// No batch from there on begins below.
    floor: Offset,
    /// No batch reaches it: the next segment begins there.
    ceiling: Offset,
    position: u64,
    limit: u64,
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

    /// The extent of the damage that [`Log::read_cold`] found at `offset`: one batch, or what lies
    /// before the next one that the index knows. `next` is `offset` itself where nothing is
    /// damaged.
    pub async fn past_damage(&self, offset: Offset) -> Result<Damage, LogError> {
        let inner = &*self.0;
        let _turn = inner.gate.enter().await;
        let place = inner.place(offset).await?;
        let path = files::name(&inner.dir, place.base, "log");
        let file = inner.file(place.base).await?;
        let start = block_floor(place.position);
        let len = (block_ceil(place.end) - start).min(COLD_READ);
        let chunk = inner.rt.memory().chunk(len as usize).await;
        let turn = inner.cache.cold_reads().enter().await;
        let (result, chunk) = inner.rt.read_at(&file, start, chunk, len as usize).await;
        drop(turn);
        result.map_err(LogError::io("read", &path))?;
        let upto = {
            let state = inner.state.borrow();
            let at = state.segment_of(place.base);
            state.segments.get(at + 1).map_or(state.end, |segment| segment.base)
        };
        Ok(match damaged_batch(&place, start, &chunk, offset, upto) {
            // A segment was replaced while it was read.
            Ok((_, Some(batch))) if batch::crc_ok(batch) => Damage { next: offset, batch: None },
            Ok((header, batch)) => Damage { next: header.next_offset(), batch: Some((header, batch.map(Bytes::copy_from_slice))) },
            Err(position) => {
                let mut state = inner.state.borrow_mut();
                let index = state.segment_at(place.base).and_then(|segment| segment.index.as_ref());
                let indexed = index.and_then(|index| index.behind(position as u32)).map(|last| place.base + Offset::from(last));
                Damage { next: indexed.filter(|next| *next > offset).unwrap_or(upto), batch: None }
            }
        })
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
        let mut place = self.place(offset).await?;
        let mut least = 0;
        loop {
            if place.position + HEADER as u64 > place.limit {
                // A gap that compaction left: before a cached span, or at the end of the segment.
                if place.limit == place.end {
                    return self.next_segment(place.base, offset).map(Loaded::NothingBefore);
                }
                place.limit = place.end;
            }
            let path = files::name(&self.dir, place.base, "log");
            let file = self.file(place.base).await?;
            let start = block_floor(place.position);
            let len = (block_ceil(place.limit) - start).min(place.want(start).max(least));
            let memory = self.rt.memory();
            // A batch above half the budget has to be answered too; it is as long as it says, for the file holds it.
            let chunk = match patient {
                true if len > memory.budget() as u64 / 2 => memory.chunk_now(len as usize),
                true => memory.chunk(len as usize).await,
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
            match parse(&place, start, chunk, offset).map_err(|(position, reason)| LogError::corrupt(&path, position, reason))? {
                Parsed::Span(span) => {
                    span.ahead.set(place.sequential.is_some());
                    self.keep(span);
                    return Ok(Loaded::Span);
                }
                Parsed::Further { position, needs } => {
                    least = block_ceil(needs as u64) + crate::base::limits::BLOCK as u64;
                    place.position = position;
                }
            }
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
        let indexed = segment.index.as_ref().map_or(0, |index| index.position((offset - base).max(0) as u32) as u64);
        let (floor, position) = match before {
            Some(span) if span.batches_end() >= indexed => (span.next, span.batches_end()),
            _ => (base, indexed),
        };
        let ahead = state.spans.range(offset + 1..).next().map(|(_, s)| s).or(state.active.as_ref()).filter(|s| s.segment == base);
        let limit = ahead.map_or(segment.size, |s| s.batches_start());
        let sequential = before.filter(|s| s.next == offset).map(Span::last_len);
        let ceiling = state.segments.get(state.segment_of(base) + 1).map_or(state.end, |next| next.base);
        Ok(Place { base, floor, ceiling, position, limit, end: segment.size, sequential })
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

    /// As `with_index` for the segment of `offset`, for those that have not entered the gate: while an index is loaded its segment must not be
    /// replaced.
    pub(super) async fn indexed(&self, offset: Offset) -> Result<(), LogError> {
        let _turn = self.gate.enter().await;
        let base = {
            let state = self.state.borrow();
            state.segments[state.segment_of(offset)].base
        };
        self.with_index(base).await
    }

    /// As [`Inner::indexed`], for those who need the times of the index.
    pub(super) async fn indexed_times(&self, offset: Offset) -> Result<(), LogError> {
        // An idle log may give its index up at every wait.
        while !self.has_times(offset).await? {}
        Ok(())
    }

    /// One try of [`Inner::indexed_times`]: true if the index is there.
    async fn has_times(&self, offset: Offset) -> Result<bool, LogError> {
        self.indexed(offset).await?;
        let _turn = self.gate.enter().await;
        let (base, size, kind, samples) = {
            let state = self.state.borrow();
            let segment = &state.segments[state.segment_of(offset)];
            match &segment.index {
                // The last segment was looked at when the log was opened.
                Some(index) if index.times_known() == TimesKnown::Stored && segment.base < state.writing => {
                    (segment.base, segment.size, segment.kind(), index.samples(SAMPLES))
                }
                index => return Ok(index.is_some()),
            }
        };
        let path = files::name(&self.dir, base, kind);
        if walk::lacks_times(&self.rt, &path, size, &samples).await? {
            self.make_index(base).await?;
        } else if let Some(index) = self.state.borrow_mut().segment_at(base).and_then(|s| s.index.as_mut()) {
            index.set_sampled();
        }
        let state = self.state.borrow();
        Ok(state.segments[state.segment_of(offset)].index.is_some())
    }

    /// Makes sure that a segment's index is in memory: from its files, or by walking the segment.
    async fn with_index(&self, base: Offset) -> Result<(), LogError> {
        let (size, end, kind) = {
            let state = self.state.borrow();
            let at = state.segment_of(base);
            if state.segments[at].base != base || state.segments[at].index.is_some() {
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
        Ok(())
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
            return Ok(file);
        }
        let path = files::name(&self.dir, base, kind);
        let how = if writable { Open::Write } else { Open::Read };
        let file = self.rt.open(&path, how).await.map_err(LogError::io_or_exhausted("open", &path))?;
        if let Some(segment) = self.state.borrow_mut().segment_at(base) {
            segment.file = Some(file.clone());
        }
        Ok(file)
    }
}

enum Parsed {
    Span(Span),
    /// Nothing for the offset in here: read on at `position`, where a batch of `needs` bytes starts.
    Further {
        position: u64,
        needs: usize,
    },
}

/// The header of the batch at the front of `bytes`, of which not all need be there, and whether its
/// checksum is right, as far as that can be said. `next`: the offset behind the one before it.
fn check(place: &Place, position: u64, bytes: &[u8], next: Option<Offset>) -> Result<(BatchHeader, bool), String> {
    let header = BatchHeader::parse(bytes).map_err(|e| e.to_string())?;
    let len = header.total_len();
    let end = header.base_offset.checked_add(i64::from(header.last_offset_delta) + 1);
    let beyond = position + len as u64 > place.limit || end.is_none_or(|end| end > place.ceiling);
    if beyond || header.last_offset_delta < 0 || header.base_offset < next.unwrap_or(place.floor) {
        return Err("a batch header that cannot be right".into());
    }
    // The offset is not covered by the checksum. Where some are missing the next batch tells whether it can be right.
    let behind = || {
        bytes.get(len..).and_then(|bytes| BatchHeader::parse(bytes).ok()).filter(|_| position + len as u64 + HEADER as u64 <= place.limit)
    };
    if next != Some(header.base_offset) && behind().is_some_and(|behind| behind.base_offset < header.next_offset()) {
        return Err("a batch whose offset is above that of the next one".into());
    }
    // Once for each read of the device, not for each consumer: what has changed since it was written is never served.
    Ok((header, len > bytes.len() || batch::crc_ok(bytes)))
}

/// The batch that holds `offset`, by the headers from `place` on, with its bytes if all are there;
/// or where there is no header.
fn damaged_batch<'a>(
    place: &Place,
    start: u64,
    chunk: &'a Chunk,
    offset: Offset,
    upto: Offset,
) -> Result<(BatchHeader, Option<&'a [u8]>), u64> {
    let (mut at, mut next) = ((place.position - start) as usize, place.floor);
    loop {
        let (position, rest) = (start + at as u64, chunk.filled().get(at..).unwrap_or_default());
        let header = BatchHeader::parse(rest).map_err(|_| position)?;
        let len = header.total_len();
        let fits = position + len as u64 <= place.end && header.base_offset >= next && header.last_offset_delta >= 0;
        if !fits || header.next_offset() <= next || header.next_offset() > upto {
            return Err(position);
        }
        next = header.next_offset();
        if next > offset {
            return Ok((header, rest.get(..len)));
        }
        at += len;
    }
}

/// The length of the damaged batch at the front of `bytes`, if the sound one behind it shows that it does not hold `offset`.
fn passed_over(place: &Place, position: u64, bytes: &[u8], next: Option<Offset>, offset: Offset) -> Option<usize> {
    let len = BatchHeader::parse(bytes).ok()?.total_len();
    let (behind, _) = check(place, position + len as u64, bytes.get(len..)?, next).ok()?;
    (behind.base_offset <= offset).then_some(len)
}

/// Makes a span of the whole batches in `chunk`, which was read from `start`.
fn parse(place: &Place, start: u64, chunk: Chunk, offset: Offset) -> Result<Parsed, (u64, String)> {
    let filled = (chunk.len() as u64).min(place.limit - start) as usize;
    let mut at = (place.position - start) as usize;
    let mut found: Vec<(usize, usize, Offset, Offset)> = Vec::new();
    let mut next = None;
    while at + HEADER <= filled {
        let position = start + at as u64;
        let batch = &chunk.filled()[at..filled];
        let header = match check(place, position, batch, next) {
            Ok((header, true)) => header,
            // Before what is asked for: it is passed over, and what is kept begins behind it.
            Ok((header, false)) if header.next_offset() <= offset => {
                found.clear();
                next = Some(header.next_offset());
                at += header.total_len();
                continue;
            }
            Ok(_) if next.is_some_and(|next| next > offset) => break,
            Ok(_) => return Err((position, "a batch whose checksum is wrong".into())),
            // Whoever asks for this one will be told.
            Err(_) if next.is_some_and(|next| next > offset) => break,
            Err(reason) => {
                let Some(len) = passed_over(place, position, batch, next, offset) else { return Err((position, reason)) };
                found.clear();
                at += len;
                continue;
            }
        };
        let len = header.total_len();
        if at + len > filled {
            break;
        }
        found.push((at, len, header.base_offset, header.next_offset()));
        next = Some(header.next_offset());
        at += len;
    }
    if next.is_none_or(|next| next <= offset) {
        let needs = match filled.checked_sub(at) {
            Some(rest) if rest >= HEADER => BatchHeader::parse(&chunk.filled()[at..]).map_or(HEADER, |h| h.total_len()),
            _ => HEADER,
        };
        return Ok(Parsed::Further { position: start + at as u64, needs });
    }
    let mut span = Span::new(place.base, start, chunk, found[0].2.min(offset));
    for (at, len, base, next) in found {
        span.push(at, len, base, next);
    }
    span.written = span.end;
    Ok(Parsed::Span(span))
}
