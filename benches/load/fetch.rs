//! The consuming side of a connection: Fetch requests of version 12, and their answers read without copying what is not looked at.

use std::io;

use crate::{
    args::STAMP,
    batch::{BatchHead, HEADER, Stamp},
    stats::{Stats, Totals},
    wire::{CORRELATION_ID, Put, Take, request, seal},
};

/// What the end of a partition means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// Start over.
    Wrap,
    /// Wait for more, and take the latency of each batch of this run and with the stamp at this place.
    Follow { run: u32, stamp_at: usize },
}

/// A partition that is read.
#[derive(Clone, Copy)]
pub struct Cursor {
    pub partition: i32,
    pub start: i64,
    pub offset: i64,
}

/// What precedes the records in an answer.
pub struct FetchHead {
    /// Bytes of the answer up to the records.
    pub length: usize,
    pub records_len: usize,
}

pub struct Fetcher {
    template: Vec<u8>,
    partition_at: usize,
    offset_at: usize,
    cursors: Vec<Cursor>,
    turn: usize,
    at_end: AtEnd,
    /// High watermark of the answer being read, and what it held so far.
    high_watermark: i64,
    totals: Totals,
}

/// Longest head of an answer: the topic's name and a few fixed fields.
pub const LONGEST_HEAD: usize = 512;

impl Fetcher {
    pub fn new(topic: &str, cursors: Vec<Cursor>, fetch_bytes: usize, at_end: AtEnd) -> Self {
        let mut template = request(1, 12, true);
        template.i32(-1); // not a replica
        template.i32(500); // longest wait, ms
        template.i32(1); // least bytes
        template.i32(fetch_bytes as i32);
        template.i8(0); // read uncommitted
        template.i32(0); // no session
        template.i32(-1);
        template.uvarint(2); // one topic
        template.compact_string(topic);
        template.uvarint(2); // one partition
        let partition_at = template.len();
        template.i32(0);
        template.i32(-1); // leader epoch unknown
        let offset_at = template.len();
        template.i64(0);
        template.i32(-1); // last fetched epoch
        template.i64(-1); // log start offset
        template.i32(fetch_bytes as i32);
        template.extend([0; 2]); // tagged fields of partition and topic
        template.uvarint(1); // forgotten topics: none
        template.uvarint(1); // rack: ""
        template.uvarint(0);
        seal(&mut template, 0);
        Self { template, partition_at, offset_at, cursors, turn: 0, at_end, high_watermark: 0, totals: Totals::default() }
    }

    /// Appends the next request; which cursor it belongs to.
    pub fn put_request(&mut self, out: &mut Vec<u8>, correlation_id: i32) -> usize {
        let (start, turn) = (out.len(), self.turn);
        let cursor = self.cursors[turn];
        out.extend(&self.template);
        out[start + CORRELATION_ID..][..4].copy_from_slice(&correlation_id.to_be_bytes());
        out[start + self.partition_at..][..4].copy_from_slice(&cursor.partition.to_be_bytes());
        out[start + self.offset_at..][..8].copy_from_slice(&cursor.offset.to_be_bytes());
        self.turn = (turn + 1) % self.cursors.len();
        turn
    }

    /// Reads an answer's head after its correlation id, for the cursor `turn`.
    pub fn head(&mut self, bytes: &[u8], turn: usize, stats: &mut Stats) -> io::Result<FetchHead> {
        let mut take = Take::new(bytes);
        take.tags()?;
        take.i32()?; // throttle time
        let error = take.i16()?;
        take.i32()?; // session
        self.totals = Totals { requests: 1, ..Totals::default() };
        self.high_watermark = i64::MAX;
        if error != 0 || take.compact_length()? == 0 {
            stats.error(error);
            return Ok(FetchHead { length: take.position(), records_len: 0 });
        }
        let name = take.compact_length()?;
        take.slice(name)?;
        take.compact_length()?; // partitions: one
        take.i32()?;
        let error = take.i16()?;
        self.high_watermark = take.i64()?;
        take.slice(16)?; // last stable and log start offsets
        for _ in 0..take.compact_length()? {
            take.slice(16)?;
            take.tags()?;
        }
        take.i32()?; // preferred replica
        let records_len = take.compact_length()?;
        if error != 0 {
            stats.error(error);
            self.cursors[turn].offset = self.cursors[turn].start;
        }
        Ok(FetchHead { length: take.position(), records_len })
    }

    /// Bytes of a batch that [`Self::batch`] wants to see.
    pub fn wanted(&self) -> usize {
        match self.at_end {
            AtEnd::Wrap => HEADER,
            AtEnd::Follow { stamp_at, .. } => stamp_at + STAMP,
        }
    }

    /// Counts a batch that starts with `bytes` and has `left` bytes of the answer's records from its start; its length, if it is whole.
    pub fn batch(&mut self, bytes: &[u8], left: usize, turn: usize, now: u64, stats: &mut Stats) -> Option<usize> {
        let head = BatchHead::read(bytes).filter(|head| head.total <= left)?;
        self.cursors[turn].offset = head.next_offset;
        self.totals.records += head.records;
        self.totals.bytes += head.total as u64;
        if let AtEnd::Follow { run, stamp_at } = self.at_end
            && let Some(stamp) = bytes.get(stamp_at..).and_then(Stamp::read)
            && stamp.run == run
            && stats.clock.measures(now)
        {
            stats.end_to_end.saturating_record(now.saturating_sub(stamp.intended));
        }
        Some(head.total)
    }

    /// An answer was read whole.
    pub fn done(&mut self, turn: usize, now: u64, stats: &mut Stats) {
        if stats.clock.measures(now) {
            stats.fetched.add(self.totals);
        }
        let cursor = &mut self.cursors[turn];
        if self.at_end == AtEnd::Wrap && (cursor.offset >= self.high_watermark || self.totals.bytes == 0) {
            cursor.offset = cursor.start;
        }
    }
}
