//! Reading complete segments batch by batch and writing the one that replaces them, at a bounded rate and with pauses for everybody else.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::super::error::LogError;
use super::super::index::Index;
use super::super::span::{block_ceil, block_floor};
use super::super::{Inner, lookup, walk};
use super::plan::Sealed;
use crate::base::ids::Offset;
use crate::base::limits::BLOCK;
use crate::rt::mem::Chunk;
use crate::rt::slices::Slices;
use crate::rt::{Open, Rt};
use crate::wire::batch::{BatchHeader, HEADER_LEN, Inflation, PartialCrc, Payload};

/// What a batch costs of a turn's budget, in inflated bytes.
const BATCH_COST: usize = 256;
/// So many bytes are copied at the cost of one that is inflated.
const COPIED_CHEAPER: usize = 16;
/// Shortest and longest pause for the sake of the rate.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(3600);
/// How often a pause is looked up from, to see whether the cleaning is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// The rate at which a core's cleanings read and write.
pub struct Pace {
    /// Bytes a second.
    rate: Cell<f64>,
    /// When what was read and written so far may have been.
    due: Cell<Duration>,
}

impl Pace {
    /// At most `rate` bytes a second, above 0.
    pub fn new(rate: f64) -> Pace {
        Pace { rate: Cell::new(rate), due: Cell::default() }
    }

    /// From now on at most `rate` bytes a second, above 0; a pause for the sake of another rate ends.
    pub fn set_rate(&self, rate: f64) {
        if self.rate.replace(rate) != rate {
            self.due.set(Duration::ZERO);
        }
    }

    /// Waits as long as `bytes` more take, unless the log is to be left alone.
    async fn spend<R: Rt>(&self, log: &Inner<R>, bytes: u64) -> Result<(), LogError> {
        let now = || log.rt.now().mono;
        let due = self.due.get().max(now()) + Duration::try_from_secs_f64(bytes as f64 / self.rate.get()).unwrap_or(LONGEST).min(LONGEST);
        self.due.set(due);
        log.rt.yield_now().await;
        log.still_open()?;
        while let Some(wait) = self.due.get().checked_sub(now()).filter(|wait| *wait >= SHORTEST) {
            log.rt.sleep(wait.min(LOOK)).await;
            log.still_open()?;
        }
        Ok(())
    }
}

/// What comes next in a segment.
pub(super) enum Next {
    /// A whole batch with a right checksum.
    Batch(BatchHeader),
    /// Nothing more.
    End,
    /// Bytes that are no such batch: nothing in the rest of the segment can be told apart.
    Damaged,
}

/// The batches of a complete segment, in order.
pub(super) struct Source<'a, R: Rt> {
    log: &'a Inner<R>,
    pace: &'a Pace,
    file: R::File,
    path: PathBuf,
    base: Offset,
    size: u64,
    buffer: usize,
    /// File position of the chunk's first byte.
    start: u64,
    chunk: Option<Chunk>,
    /// File positions of the current batch.
    current: (u64, u64),
    next_offset: Offset,
    /// Base offset of the next segment.
    limit: Offset,
}

impl<'a, R: Rt> Source<'a, R> {
    /// The file at `path` of `segment`, read in pieces of `buffer` bytes.
    pub async fn open(log: &'a Inner<R>, pace: &'a Pace, path: PathBuf, segment: &Sealed, buffer: usize) -> Result<Self, LogError> {
        let Sealed { base, size, next: limit } = *segment;
        let file = log.rt.open(&path, Open::Read).await.map_err(LogError::io_or_exhausted("open", &path))?;
        Ok(Source { log, pace, file, path, base, size, buffer, start: 0, chunk: None, current: (0, 0), next_offset: base, limit })
    }

    /// Goes on to the next batch.
    pub async fn next(&mut self) -> Result<Next, LogError> {
        match self.next_batch().await {
            Ok(Some(header)) => Ok(Next::Batch(header)),
            Ok(None) => Ok(Next::End),
            Err(error @ LogError::Corrupt { .. }) => {
                self.log.tell_unreadable(self.base, &format!("{error}; the segment stays as it is"));
                Ok(Next::Damaged)
            }
            Err(error) => Err(error),
        }
    }

    async fn next_batch(&mut self) -> Result<Option<BatchHeader>, LogError> {
        let position = self.current.1;
        if position >= self.size {
            return Ok(None);
        }
        let header = BatchHeader::parse(self.at(position, HEADER_LEN).await?).map_err(|e| self.corrupt(position, &e.to_string()))?;
        let end = position + header.total_len() as u64;
        let last = header.base_offset.checked_add(header.last_offset_delta.into());
        let beyond = last.is_none_or(|last| last >= self.limit);
        if end > self.size || header.base_offset < self.next_offset || header.last_offset_delta < 0 || beyond {
            return Err(self.corrupt(position, "a batch header that cannot be right"));
        }
        let (log, bytes) = (self.log, self.at(position, header.total_len()).await?);
        let (slices, mut crc) = (log.rt.slices(), PartialCrc::default());
        slices.spend(BATCH_COST);
        if slices.run(|budget| crc.step(bytes, budget)).await != header.crc {
            return Err(self.corrupt(position, "a batch whose checksum is wrong"));
        }
        self.current = (position, end);
        self.next_offset = header.next_offset();
        log.still_open()?;
        Ok(Some(header))
    }

    /// The budget of this core's turns.
    pub fn slices(&self) -> &'a Slices {
        self.log.rt.slices()
    }

    /// The current batch.
    pub fn batch(&self) -> &[u8] {
        let chunk = self.chunk.as_ref().map_or(&[][..], Chunk::filled);
        &chunk[(self.current.0 - self.start) as usize..(self.current.1 - self.start) as usize]
    }

    /// True when no batch follows the current one.
    pub fn at_end(&self) -> bool {
        self.current.1 >= self.size
    }

    /// The records of the current batch; `None` if they cannot be read, which is said.
    pub async fn payload(&self, header: &BatchHeader) -> Result<Option<Payload>, LogError> {
        let inflated = async {
            let mut inflation = Inflation::new(header, &self.shared())?;
            self.log.rt.slices().run(|budget| inflation.step(budget).transpose()).await
        };
        match inflated.await {
            Ok(payload) => self.log.still_open().map(|()| Some(payload)),
            Err(error) => {
                let place = self.corrupt(self.current.0, &error.to_string());
                let offset = header.base_offset;
                self.log.tell_unreadable(self.base, &format!("{place}; the batch at offset {offset} stays as it is"));
                Ok(None)
            }
        }
    }

    /// The current batch, for as long as its reader wants.
    fn shared(&self) -> Bytes {
        let range = (self.current.0 - self.start) as usize..(self.current.1 - self.start) as usize;
        self.chunk.as_ref().map_or_else(Bytes::new, |chunk| chunk.slice(range))
    }

    /// The header of the current batch, with the largest timestamp of its records.
    pub async fn with_time(&self, header: &BatchHeader) -> BatchHeader {
        match header.time_unknown() {
            true => lookup::with_time(&self.log.rt, header, &self.shared()).await,
            false => *header,
        }
    }

    fn corrupt(&self, position: u64, reason: &str) -> LogError {
        LogError::corrupt(&self.path, position, reason)
    }

    /// `want` bytes from `position` on.
    async fn at(&mut self, position: u64, want: usize) -> Result<&[u8], LogError> {
        let end = position + want as u64;
        if end > self.size {
            return Err(self.corrupt(position, "the file ends inside a batch"));
        }
        let held = self.chunk.as_ref().map_or(0, |c| c.len() as u64);
        if position < self.start || end > self.start + held {
            let start = block_floor(position);
            let len = block_ceil(end - start).max(self.buffer as u64).min(block_ceil(self.size - start)) as usize;
            let memory = self.log.rt.memory();
            // One that is too small goes before another is waited for.
            let used = self.chunk.take().filter(|chunk| chunk.capacity() >= len);
            let chunk = match used.and_then(|mut chunk| chunk.try_reset().then_some(chunk)) {
                Some(chunk) => chunk,
                // It is as long as it says, for the file holds it.
                _ if len > memory.budget() / 2 => memory.chunk_now(len),
                _ => memory.chunk(len).await,
            };
            let (result, chunk) = self.log.rt.read_at(&self.file, start, chunk, len).await;
            let read = result.map_err(LogError::io("read", &self.path))? as u64;
            self.start = start;
            self.chunk = Some(chunk);
            self.pace.spend(self.log, read).await?;
            if start + read < end {
                return Err(self.corrupt(start + read, "the file ends before its length"));
            }
        }
        let from = (position - self.start) as usize;
        Ok(&self.chunk.as_ref().map_or(&[][..], Chunk::filled)[from..from + want])
    }
}

/// The segment that is being written.
pub(super) struct Output<'a, R: Rt> {
    log: &'a Inner<R>,
    pace: &'a Pace,
    file: R::File,
    path: PathBuf,
    base: Offset,
    index: Index,
    chunk: Chunk,
    /// File position of the chunk's first byte.
    start: u64,
    size: u64,
}

/// A segment that was written and flushed.
pub(super) struct Written<F> {
    /// Its open file.
    pub file: F,
    /// Bytes of its batches.
    pub size: u64,
    /// Of its batches.
    pub index: Index,
}

impl<'a, R: Rt> Output<'a, R> {
    /// An empty segment at `path`, whatever was there, for batches from offset `base` on.
    pub async fn create(
        log: &'a Inner<R>,
        pace: &'a Pace,
        path: PathBuf,
        base: Offset,
        interval: u32,
        buffer: usize,
    ) -> Result<Self, LogError> {
        let file = log.rt.open(&path, Open::Create).await.map_err(LogError::io_or_exhausted("create", &path))?;
        log.rt.truncate(&file, 0).await.map_err(LogError::io("truncate", &path))?;
        let chunk = log.rt.memory().chunk(buffer).await;
        Ok(Output { log, pace, file, path, base, index: Index::new(interval), chunk, start: 0, size: 0 })
    }

    /// Appends a batch.
    pub async fn push(&mut self, header: &BatchHeader, mut bytes: &[u8]) -> Result<(), LogError> {
        if self.size + bytes.len() as u64 > i32::MAX as u64 {
            return Err(LogError::corrupt(&self.path, self.size, "the cleaned segment would be longer than 2 GiB"));
        }
        walk::note(&mut self.index, self.base, header, self.size);
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.chunk.room()));
            self.chunk.extend(now);
            bytes = later;
            self.log.rt.slices().pass(now.len() / COPIED_CHEAPER).await;
            if self.chunk.room() == 0 {
                self.write().await?;
            }
        }
        Ok(())
    }

    /// Writes what the chunk holds, padded with zeros to a block.
    async fn write(&mut self) -> Result<(), LogError> {
        let len = self.chunk.len();
        let padded = len.next_multiple_of(BLOCK);
        self.chunk.spare()[..padded - len].fill(0);
        let window = self.chunk.window(0..padded);
        self.log.rt.write_at(&self.file, self.start, window, false).await.map_err(LogError::io_or_exhausted("write", &self.path))?;
        self.start += padded as u64;
        if !self.chunk.try_reset() {
            // In the place of one that goes.
            self.chunk = self.log.rt.memory().chunk_now(self.chunk.capacity());
        }
        self.pace.spend(self.log, padded as u64).await?;
        Ok(())
    }

    /// Makes the segment's content and length durable.
    pub async fn finish(mut self) -> Result<Written<R::File>, LogError> {
        if !self.chunk.is_empty() {
            self.write().await?;
        }
        self.log.rt.truncate(&self.file, self.size).await.map_err(LogError::io("truncate", &self.path))?;
        self.log.rt.sync(&self.file).await.map_err(LogError::io("flush", &self.path))?;
        Ok(Written { file: self.file, size: self.size, index: self.index })
    }
}
