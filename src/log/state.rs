//! What a log knows, and the decisions that need no I/O: where the next batch goes, what the writer does next, which bytes it takes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::LogConfig;
use super::cache::{Opened, Seat};
use super::error::LogError;
use super::gather::Gather;
use super::index::Index;
use super::span::{Span, block_ceil, block_floor};
use crate::base::ids::{LeaderEpoch, Offset};
use crate::base::limits::{ALLOCATE_AHEAD, BLOCK, CHUNK_MAX, CHUNK_MIN};
use crate::rt::mem::{Chunk, Window};
use crate::wire::batch::{self, BatchHeader, Stamp};

/// First step of a segment's preallocation; it doubles up to [`ALLOCATE_AHEAD`].
pub(super) const FIRST_ALLOCATION: u64 = 256 << 10;
/// Largest write that has zeros written ahead of it.
const ZERO_LIMIT: u64 = 128 << 10;
/// Zeros written at a time.
const ZERO_STEP: u64 = 256 << 10;
/// A chunk that fills faster than this is followed by one of twice the size, a slower one by half the size.
const QUICK_FILL: Duration = Duration::from_secs(1);

/// One segment: a file of whole batches.
pub(super) struct Segment<F> {
    /// Offset that its name tells; no batch in it is below.
    pub base: Offset,
    /// Bytes of batches, those not yet written included.
    pub size: u64,
    /// Blocks are allocated, and the file is at least as long, up to here.
    pub allocated: u64,
    /// Blocks have been written, with data or zeros, up to here.
    pub zeroed: u64,
    /// How far to allocate ahead next time.
    pub step: u64,
    /// The file is there, and so is its name after a crash.
    pub exists: bool,
    /// Open file, if used lately.
    pub file: Option<F>,
    /// `None`: to be loaded when needed.
    pub index: Option<Index>,
    /// The largest timestamp (ms) of the first batch, from which `segment.ms` counts; `None`: it has none, or is in a complete segment.
    pub since_ms: Option<i64>,
    /// When (ms) the segment was begun, or opened by this process: what `segment.ms` counts from where the first batch has no timestamp.
    pub begun_ms: i64,
    /// The largest timestamp (ms) of a complete segment, once it was looked for.
    pub largest_ms: Option<i64>,
    /// The file still has the name that ends in `.swap`: it replaces others.
    pub swapping: bool,
    /// Of a complete segment, while its file is open or its index in memory.
    pub opened: Option<Opened>,
}

impl<F> Segment<F> {
    pub fn new(base: Offset, interval: u32) -> Segment<F> {
        Segment {
            base,
            size: 0,
            allocated: 0,
            zeroed: 0,
            step: FIRST_ALLOCATION,
            exists: false,
            file: None,
            index: Some(Index::new(interval)),
            since_ms: None,
            begun_ms: 0,
            largest_ms: None,
            swapping: false,
            opened: None,
        }
    }

    /// Closes the file and drops the index of a complete segment.
    pub fn close(&mut self) {
        (self.file, self.index, self.opened) = (None, None, None);
    }

    /// The end of its file's name.
    pub fn kind(&self) -> &'static str {
        if self.swapping { "log.swap" } else { "log" }
    }

    /// The length to allocate now so that `end` fits, or `None` when it does. `limit` is the segment's largest size.
    pub fn allocation(&mut self, end: u64, limit: u64) -> Option<u64> {
        if block_ceil(end) <= self.allocated {
            return None;
        }
        let ahead = (self.allocated + self.step).min(block_ceil(limit));
        self.step = (self.step * 2).min(ALLOCATE_AHEAD);
        Some(ahead.max(block_ceil(end)))
    }

    /// The file has been cut to `size`.
    pub fn cut_to(&mut self, size: u64) {
        self.allocated = size;
        // The last block is there as a whole.
        self.zeroed = block_ceil(size);
    }

    /// The range to fill with zeros beside a write to `start..end`, so that the writes after it find written blocks: a flush then has no
    /// metadata to store, and a write that rewrites the last block with the new ones behind it is still one to one extent, which the
    /// kernel starts without a worker thread. Not for large writes, which would only be doubled.
    pub fn zero_ahead(&mut self, start: u64, end: u64) -> Option<(u64, u64)> {
        self.zeroed = self.zeroed.max(end);
        // More may have come while so much was allocated as there was room for: the write makes the file longer itself.
        self.allocated = self.allocated.max(end);
        if end - start > ZERO_LIMIT || self.zeroed - end >= ZERO_STEP / 2 {
            return None;
        }
        let from = self.zeroed;
        self.zeroed = (from + ZERO_STEP).min(block_floor(self.allocated)).max(from);
        (self.zeroed > from).then_some((from, self.zeroed - from))
    }
}

/// What the writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Nothing to do.
    Wait,
    /// End the task.
    Stop,
    /// Write the next window.
    Write,
    /// Make written data durable: somebody waits for it.
    Sync,
    /// Complete the segment being written and go on to the next one.
    Finish,
    /// Make the file of the last segment, which is empty.
    Create,
    /// Give back what an idle log does not need.
    Trim,
}

/// A window on its way to the file, and what is true when it has arrived.
pub(super) struct Flight {
    pub position: u64,
    pub window: Window,
    pub durable: bool,
    key: Offset,
    upto: usize,
    offset: Offset,
}

pub(super) struct State<F> {
    /// By base offset; the last one takes the appends.
    pub segments: Vec<Segment<F>>,
    /// The span that takes the appends.
    pub active: Option<Span>,
    /// While there is one.
    pub seat: Option<Seat>,
    /// The cache knows that there is, or was, one.
    pub listed: bool,
    /// All other spans, by their first offset: those waiting to be written and those only cached.
    pub spans: BTreeMap<Offset, Span>,
    /// Keys of the full spans that are still to be written, in order.
    pub dirty: VecDeque<Offset>,
    /// The unaligned tail block of the last segment while there is no active span.
    pub tail: Box<[u8]>,
    /// Base offset of the segment that the writer works on.
    pub writing: Offset,
    pub start: Offset,
    pub end: Offset,
    pub written: Offset,
    pub flushed: Offset,
    /// Completed writes that no flush has covered.
    pub unflushed: bool,
    /// Smallest and largest offset up to which somebody waits for a flush.
    pub wanted: Option<(Offset, Offset)>,
    pub fenced: Option<String>,
    /// The log was not closed properly before it was opened, or is not as it was then.
    pub unclean: bool,
    /// The log's end was found by walking its batches: there is no index file of the last segment, or one of no use.
    pub checked: bool,
    /// There is no room, or no descriptor, for more: nothing is accepted until there is.
    pub stalled: Option<String>,
    /// The last segment's file is to be made although nothing is to be written to it yet.
    pub create: bool,
    pub closed: bool,
    pub trim: bool,
    /// The writer task exists.
    pub running: bool,
    /// Something was appended since the log was opened.
    pub changed: bool,
    /// The last segment's file was opened for writing since the log was opened.
    pub opened_for_writing: bool,
    /// Keys and ends of full spans whose unaligned end is still to be written by their successor.
    pub carried: VecDeque<(Offset, Offset)>,
    /// Spans (and their bytes) that are written completely and from now on only cached.
    pub retired: Vec<(Offset, usize)>,
    /// The names and small files of the log are durable.
    pub settled: bool,
    /// Leader-epoch checkpoint to be stored before the next write.
    pub owed_epochs: Option<String>,
    /// Read from disk since [`super::Log::take_used`] was asked.
    pub used: bool,
    /// Producer state to be stored with the segments that begin at these offsets.
    pub snapshots: Vec<(Offset, Vec<u8>)>,
    /// Whether the next write waits a moment.
    pub gather: Gather,
    /// Bases of complete segments whose index files are being written.
    pub storing: BTreeSet<Offset>,
    /// How many others are making files in the log's directory, see [`super::files::Making`].
    pub making: usize,
    /// Bytes appended since a recovery point was last set.
    pub behind_point: u64,
    /// The content of a new recovery point, to be stored when all below the offset is flushed.
    pub point: Option<(Offset, Vec<u8>)>,
    /// A recovery point is being stored.
    pub storing_point: bool,
    chunk_size: usize,
    chunk_opened: Duration,
}

impl<F> State<F> {
    /// A log that ends at `end`, all of it flushed, whose last block begins with `tail`.
    pub fn new(segments: Vec<Segment<F>>, start: Offset, end: Offset, tail: Box<[u8]>) -> State<F> {
        let writing = segments.last().expect("a log has a segment").base;
        State {
            segments,
            active: None,
            seat: None,
            listed: false,
            spans: BTreeMap::new(),
            dirty: VecDeque::new(),
            tail,
            writing,
            start,
            end,
            written: end,
            flushed: end,
            unflushed: false,
            wanted: None,
            fenced: None,
            unclean: false,
            checked: false,
            stalled: None,
            create: false,
            closed: false,
            trim: false,
            running: false,
            changed: false,
            opened_for_writing: false,
            carried: VecDeque::new(),
            retired: Vec::new(),
            settled: false,
            owed_epochs: None,
            used: false,
            snapshots: Vec::new(),
            gather: Gather::default(),
            storing: BTreeSet::new(),
            making: 0,
            behind_point: 0,
            point: None,
            storing_point: false,
            chunk_size: CHUNK_MIN,
            chunk_opened: Duration::ZERO,
        }
    }

    /// Some task makes or changes files of the log.
    pub fn at_work(&self) -> bool {
        self.running || self.storing_point || !self.storing.is_empty() || self.making > 0
    }

    pub fn last_segment(&mut self) -> &mut Segment<F> {
        self.segments.last_mut().expect("a log has a segment")
    }

    /// Place in `segments` of the one that holds `offset`, or would.
    pub fn segment_of(&self, offset: Offset) -> usize {
        self.segments.partition_point(|s| s.base <= offset).saturating_sub(1)
    }

    pub fn writing_segment(&mut self) -> &mut Segment<F> {
        let at = self.segment_of(self.writing);
        &mut self.segments[at]
    }

    /// The segment that holds exactly the offsets from `base` on; `None` when it was deleted meanwhile.
    pub fn segment_at(&mut self, base: Offset) -> Option<&mut Segment<F>> {
        let at = self.segment_of(base);
        self.segments.get_mut(at).filter(|segment| segment.base == base)
    }

    /// True when a batch of `len` bytes up to offset `last` has to start a new segment. `age_and_limit`: by a segment that is not empty, how
    /// old (ms) it is when that batch comes, and `segment.ms` less its jitter.
    pub fn rolls(&self, len: usize, last: Offset, config: &LogConfig, age_and_limit: impl FnOnce(&Segment<F>) -> (i64, i64)) -> bool {
        let segment = self.segments.last().expect("a log has a segment");
        let aged = || {
            let (age, limit) = age_and_limit(segment);
            age > limit
        };
        let full = || segment.index.as_ref().is_some_and(|index| index.is_full(config.segment_index_bytes));
        let large = segment.size + len as u64 > config.segment_bytes as u64;
        segment.size > 0 && (large || last - segment.base > i32::MAX as i64 || aged() || full())
    }

    /// Bytes of a new chunk that a batch of `len` bytes needs, or `None` if the active one has room. `limit` is the largest that memory allows.
    pub fn chunk_wanted(&mut self, len: usize, roll: bool, limit: impl FnOnce() -> usize, now: impl FnOnce() -> Duration) -> Option<usize> {
        if !roll && self.active.as_ref().is_some_and(|span| span.chunk.room() >= len) {
            return None;
        }
        let now = now();
        if self.active.is_some() && !roll {
            let quick = now.saturating_sub(self.chunk_opened) < QUICK_FILL;
            self.chunk_size = if quick { self.chunk_size * 2 } else { self.chunk_size / 2 };
        }
        self.chunk_size = self.chunk_size.min(limit()).clamp(CHUNK_MIN, CHUNK_MAX);
        self.chunk_opened = now;
        let head = if roll { 0 } else { self.last_segment().size as usize % BLOCK };
        Some(self.chunk_size.max(head + len))
    }

    /// Puts the active span away and opens one on `chunk`, in a new segment with `roll`.
    pub fn open_span(&mut self, mut chunk: Chunk, roll: Option<Segment<F>>) {
        let size = self.last_segment().size;
        let head = (size % BLOCK as u64) as usize;
        if roll.is_none() {
            match &self.active {
                Some(span) => chunk.extend(&span.chunk.filled()[span.chunk.len() - head..]),
                None => chunk.extend(&self.tail),
            }
        }
        self.tail = Box::default();
        if let Some(span) = self.active.take() {
            self.dirty.push_back(span.first);
            self.spans.insert(span.first, span);
        }
        let file_start = if roll.is_some() { 0 } else { block_floor(size) };
        self.segments.extend(roll);
        let segment = self.last_segment().base;
        self.active = Some(Span::new(segment, file_start, chunk, self.end));
    }

    /// Copies a batch into the active span, which has room for it.
    pub fn push(&mut self, batch: &[u8], header: &BatchHeader, base: Offset, epoch: LeaderEpoch, stamp: Option<Stamp>) {
        let span = self.active.as_mut().expect("opened by the caller");
        let at = span.chunk.len();
        let target = &mut span.chunk.spare()[..batch.len()];
        target.copy_from_slice(batch);
        batch::patch(target, base, epoch);
        if let Some(stamp) = stamp {
            stamp.apply(target);
        }
        span.chunk.advance(batch.len());
        self.end = base + header.last_offset_delta as Offset + 1;
        self.gather.appended();
        span.push(at, batch.len(), base, self.end);
        let last = self.end - 1;
        let segment = self.last_segment();
        let (relative, position) = ((last - segment.base) as u32, segment.size as u32);
        let ms = stamp.map_or(header.max_timestamp, Stamp::ms);
        if segment.size == 0 {
            segment.since_ms = Some(ms).filter(|ms| *ms >= 0);
        }
        if let Some(index) = &mut segment.index {
            index.note(relative, position, batch.len(), ms);
        }
        segment.size += batch.len() as u64;
        self.behind_point += batch.len() as u64;
        self.changed = true;
        self.trim = false;
    }

    /// Somebody waits until everything below `offset` is flushed.
    pub fn want_flush(&mut self, offset: Offset) {
        let offset = offset.min(self.end);
        if offset > self.flushed {
            let (first, last) = self.wanted.unwrap_or((offset, offset));
            self.wanted = Some((first.min(offset), last.max(offset)));
        }
    }

    /// An error unless flushed <= written <= end, and none of them has moved back: then no offset of the log can be believed.
    fn in_order(&self, advanced: bool) -> Result<(), LogError> {
        let (start, flushed, written, end) = (self.start, self.flushed, self.written, self.end);
        if advanced && flushed <= written && written <= end && start <= end {
            return Ok(());
        }
        Err(LogError::Disorder(format!("start {start}, flushed {flushed}, written {written}, end {end}")))
    }

    /// Everything written is flushed.
    pub fn flushed_to(&mut self, offset: Offset) -> Result<(), LogError> {
        self.flushed = self.flushed.max(offset);
        let flushed = self.flushed;
        self.wanted =
            self.wanted.filter(|(_, last)| *last > flushed).map(|(first, last)| (if first <= flushed { last } else { first }, last));
        self.in_order(true)
    }

    pub fn next_job(&mut self, deleted: bool) -> Job {
        if self.fenced.is_some() || deleted {
            return Job::Stop;
        }
        if self.unflushed && self.wanted.is_some_and(|(first, _)| self.written >= first) {
            return Job::Sync;
        }
        self.retire_written();
        if self.next_key().is_some() {
            return Job::Write;
        }
        if self.writing != self.last_segment().base {
            return Job::Finish;
        }
        if std::mem::take(&mut self.create) && !self.last_segment().exists {
            return Job::Create;
        }
        if self.trim { Job::Trim } else { Job::Wait }
    }

    /// Takes full spans off the queue of which nothing is left to write. Their unaligned end is carried by the next one: only when that is
    /// written may the cache drop them.
    pub fn retire_written(&mut self) {
        while let Some(span) = self.dirty.front().and_then(|key| self.spans.get(key)) {
            let done = self.writable(span) <= span.written;
            if !done || span.segment != self.writing {
                break;
            }
            self.carried.push_back((span.first, span.next));
            self.dirty.pop_front();
        }
        while let Some((key, _)) = self.carried.front().copied().filter(|(_, next)| *next <= self.written) {
            self.carried.pop_front();
            if let Some(span) = self.spans.get(&key) {
                self.retired.push((key, span.chunk.capacity()));
            }
        }
    }

    /// End of what is to be written of a span: the unaligned end of a full one is also the start of its successor, and is written with that.
    fn writable(&self, span: &Span) -> usize {
        let successor = match self.dirty.get(1) {
            Some(key) if self.dirty.front() == Some(&span.first) => self.spans.get(key),
            _ => self.active.as_ref(),
        };
        let carried = self.dirty.front() == Some(&span.first) && successor.is_some_and(|s| s.segment == span.segment);
        if carried { (span.end / BLOCK * BLOCK).max(span.written) } else { span.end }
    }

    fn next_key(&self) -> Option<Offset> {
        let span = match self.dirty.front() {
            Some(key) => self.spans.get(key)?,
            None => self.active.as_ref()?,
        };
        (span.segment == self.writing && self.writable(span) > span.written).then_some(span.first)
    }

    /// File position behind the next window.
    pub fn next_end(&self) -> Option<u64> {
        let key = self.next_key()?;
        let span = self.span(key)?;
        Some(span.file_start + self.writable(span) as u64)
    }

    /// The next window: whole blocks, the last one padded with zeros.
    pub fn take_off(&mut self) -> Option<Flight> {
        let key = self.next_key()?;
        let several = self.dirty.len() > 1;
        let upto = self.span(key).map(|span| self.writable(span))?;
        let wanted = self.wanted;
        let unflushed = self.unflushed;
        let span = self.span_mut(key)?;
        let start = span.written / BLOCK * BLOCK;
        let end = upto.next_multiple_of(BLOCK);
        if end > upto {
            // `upto` is the end of the committed bytes: only then is the last block not full.
            span.chunk.spare()[..end - upto].fill(0);
        }
        let offset = span.offset_at(upto);
        // A durable write covers itself only, so whatever went before must be flushed already; a backlog is cheaper with one flush behind it.
        let durable = !several && !unflushed && wanted.is_some_and(|(first, _)| offset >= first);
        let flight = Flight { position: span.file_start + start as u64, window: span.chunk.window(start..end), durable, key, upto, offset };
        self.gather.took_off();
        Some(flight)
    }

    /// A window has arrived.
    pub fn landed(&mut self, flight: Flight) -> Result<(), LogError> {
        if let Some(span) = self.span_mut(flight.key) {
            span.written = flight.upto;
        }
        let advanced = flight.offset >= self.written;
        self.written = self.written.max(flight.offset);
        self.in_order(advanced)?;
        if flight.durable {
            self.flushed_to(flight.offset)?;
        } else {
            self.unflushed = true;
        }
        self.retire_written();
        Ok(())
    }

    fn span(&self, key: Offset) -> Option<&Span> {
        self.active.as_ref().filter(|s| s.first == key).or_else(|| self.spans.get(&key))
    }

    fn span_mut(&mut self, key: Offset) -> Option<&mut Span> {
        match &mut self.active {
            Some(span) if span.first == key => Some(span),
            _ => self.spans.get_mut(&key),
        }
    }

    /// The span that answers for `offset`, which is below `end`.
    pub fn covering(&self, offset: Offset) -> Option<&Span> {
        if let Some(span) = self.active.as_ref().filter(|s| offset >= s.first) {
            return Some(span);
        }
        let span = self.spans.range(..=offset).next_back()?.1;
        (offset < span.next).then_some(span)
    }

    /// True when there is nothing that an idle log could give back.
    pub fn at_rest(&self) -> bool {
        self.active.is_none() && self.segments.iter().all(|segment| segment.file.is_none())
    }

    /// Gives up the span that takes the appends, unless something of it is to be written or it was used lately; the bytes freed.
    pub fn give_up_active(&mut self) -> Option<usize> {
        let span = self.active.as_ref().filter(|span| self.written >= self.end && !span.recent.replace(false))?;
        let bytes = span.chunk.capacity();
        self.drop_active();
        // It was too large for what there is.
        self.chunk_size /= 2;
        Some(bytes)
    }

    /// Everything is written; the unaligned tail stays.
    pub fn drop_active(&mut self) {
        self.seat = None;
        if let Some(span) = self.active.take() {
            let head = span.end % BLOCK;
            self.tail = span.chunk.filled()[span.end - head..span.end].into();
        }
    }

    /// Forgets all that an idle log can do without; everything is written.
    pub fn rest(&mut self) {
        self.drop_active();
        self.chunk_size = CHUNK_MIN;
        let last = self.segments.len() - 1;
        for (i, segment) in self.segments.iter_mut().enumerate() {
            segment.file = None;
            segment.step = FIRST_ALLOCATION;
            if i != last {
                segment.close();
            }
        }
    }
}
