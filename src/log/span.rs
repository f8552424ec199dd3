//! A stretch of a segment in memory: whole batches, back to back, with their positions.

use std::cell::Cell;

use bytes::Bytes;

use crate::base::ids::Offset;
use crate::base::limits::BLOCK;
use crate::rt::mem::Chunk;

/// `position` rounded down to a block.
pub(super) fn block_floor(position: u64) -> u64 {
    position & !(BLOCK as u64 - 1)
}

/// `position` rounded up to a block.
pub(super) fn block_ceil(position: u64) -> u64 {
    block_floor(position + BLOCK as u64 - 1)
}

/// Where a batch starts: its base offset relative to the span's, its place in the chunk.
#[derive(Clone, Copy)]
struct Mark {
    base: u32,
    at: u32,
}

/// Batches in one chunk that begins at a block of the segment's file. What lies before the first batch (the rest of the tail block that was
/// there) and behind the last one is not the span's.
pub(super) struct Span {
    /// Base offset of the segment.
    pub segment: Offset,
    /// File position of the chunk's first byte; a multiple of the block.
    pub file_start: u64,
    pub chunk: Chunk,
    /// All offsets from here up to `next` are answered by this span (a gap before the first batch included).
    pub first: Offset,
    /// Offset after the last batch.
    pub next: Offset,
    /// End of the last batch in the chunk.
    pub end: usize,
    /// Bytes of the chunk that are on the file.
    pub written: usize,
    /// Read since the cache last looked.
    pub recent: Cell<bool>,
    /// Read from the device for a sequential reader: what follows is to be read when this is.
    pub ahead: Cell<bool>,
    marks: Vec<Mark>,
}

impl Span {
    pub fn new(segment: Offset, file_start: u64, chunk: Chunk, first: Offset) -> Span {
        let end = chunk.len();
        Span {
            segment,
            file_start,
            chunk,
            first,
            next: first,
            end,
            written: 0,
            recent: Cell::new(true),
            ahead: Cell::new(false),
            marks: Vec::new(),
        }
    }

    /// Takes in the batch at `at`, behind all others.
    pub fn push(&mut self, at: usize, len: usize, base: Offset, next: Offset) {
        self.marks.push(Mark { base: (base - self.first) as u32, at: at as u32 });
        self.end = at + len;
        self.next = next;
        self.recent.set(true);
    }

    /// File position of the first batch.
    pub fn batches_start(&self) -> u64 {
        self.file_start + self.marks.first().map_or(self.end, |m| m.at as usize) as u64
    }

    /// Base offset of the first batch; that of the next one if there is none.
    pub fn first_base(&self) -> Offset {
        self.marks.first().map_or(self.next, |mark| self.first + Offset::from(mark.base))
    }

    /// Length of the last batch, bytes; there is one.
    pub fn last_len(&self) -> u64 {
        (self.end - self.marks.last().map_or(0, |m| m.at as usize)) as u64
    }

    /// The last batch, if there is one.
    pub fn last_batch(&self) -> Option<&[u8]> {
        self.marks.last().map(|mark| &self.chunk.filled()[mark.at as usize..self.end])
    }

    /// File position behind the last batch.
    pub fn batches_end(&self) -> u64 {
        self.file_start + self.end as u64
    }

    /// The offset up to which all batches end at or before `end` in the chunk.
    pub fn offset_at(&self, end: usize) -> Offset {
        if end >= self.end {
            return self.next;
        }
        match self.marks.partition_point(|m| m.at as usize <= end) {
            0 => self.first,
            n => self.first + self.marks[n - 1].base as Offset,
        }
    }

    /// Whole batches from the one that holds `offset` on, as one slice, and the offset behind them: at most `max_bytes`, but at least one
    /// with `min_one`; none that reaches beyond `upto`. `None` when nothing qualifies. `offset` lies in `first..next`.
    pub fn take(&self, offset: Offset, max_bytes: usize, upto: Offset, min_one: bool) -> Option<(Bytes, Offset)> {
        let n = self.marks.len();
        let from = self.find(offset);
        let visible = if upto >= self.next { n } else { self.count_below(upto) };
        if from >= visible {
            return None;
        }
        let start = self.marks[from].at as usize;
        let mut until = visible;
        if self.batch_start(until) - start > max_bytes {
            until = self.marks.partition_point(|m| m.at as usize <= start.saturating_add(max_bytes)) - 1;
        }
        if until <= from {
            if !min_one {
                return None;
            }
            until = from + 1;
        }
        self.recent.set(true);
        let next = if until == n { self.next } else { self.first + self.marks[until].base as Offset };
        Some((self.chunk.slice(start..self.batch_start(until)), next))
    }

    /// How many batches end at or before `upto`, which is below `next`.
    fn count_below(&self, upto: Offset) -> usize {
        let relative = upto - self.first;
        self.marks.partition_point(|m| m.base as Offset <= relative).saturating_sub(1)
    }

    /// File position of the first batch that does not lie below `offset`; behind the last one when all do.
    pub fn position_of(&self, offset: Offset) -> u64 {
        let mark = self.marks.partition_point(|m| self.first + (m.base as Offset) < offset);
        self.file_start + self.batch_start(mark) as u64
    }

    fn batch_start(&self, mark: usize) -> usize {
        self.marks.get(mark).map_or(self.end, |m| m.at as usize)
    }

    fn find(&self, offset: Offset) -> usize {
        let relative = offset - self.first;
        let behind = self.marks.partition_point(|m| m.base as Offset <= relative);
        let Some(candidate) = behind.checked_sub(1) else { return 0 };
        // Compaction leaves gaps: then the batch that starts before may also end before.
        let at = self.marks[candidate].at as usize;
        let delta = &self.chunk.filled()[at + 23..at + 27];
        let last = self.marks[candidate].base as i64 + i32::from_be_bytes([delta[0], delta[1], delta[2], delta[3]]) as i64;
        if last < relative { behind } else { candidate }
    }
}
