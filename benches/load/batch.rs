//! Record batches: one is built per run, and each copy that is sent gets its own stamp and checksum at the price of a few words.

use std::sync::Arc;

use corelane::wire::compression::{Compression, compress};

use crate::{args::STAMP, keys, wire::Put};

/// Bytes of a batch before its records.
pub const HEADER: usize = 61;
/// Where the checksum stands, and what it covers from.
const CRC: usize = 17;
const CRC_FROM: usize = 21;
/// A tail from here on is sent from where it is: below, a second system call costs more than a copy to the rest of the request.
/// (Sent with sendfile it would cost this side less but the broker more, as no client's data does: pages of 4 KiB one by one.)
const APART: usize = 16 << 10;

/// What marks a batch of this generator: the start of its first record's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub run: u32,
    pub connection: u32,
    /// Counts the batches of a connection to one partition.
    pub sequence: u64,
    /// When the batch was to be sent, in nanoseconds since the run's start.
    pub intended: u64,
}

impl Stamp {
    fn bytes(&self) -> [u8; STAMP] {
        let mut out = [0; STAMP];
        out[..4].copy_from_slice(&self.run.to_be_bytes());
        out[4..8].copy_from_slice(&self.connection.to_be_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        out[16..].copy_from_slice(&self.intended.to_be_bytes());
        out
    }

    /// Reads the stamp at the start of `bytes`.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self { run: word(0)?, connection: word(4)?, sequence: long(8)?, intended: long(16)? })
    }
}

/// What the generator wants to know of a batch that it received.
#[derive(Clone, Copy)]
pub struct BatchHead {
    pub base_offset: i64,
    /// Bytes of the whole batch.
    pub total: usize,
    pub next_offset: i64,
    pub records: u64,
}

impl BatchHead {
    /// Reads the head at the start of `bytes`; None if it is cut short or cannot be one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        let word = |at: usize| Some(i32::from_be_bytes(bytes[at..at + 4].try_into().ok()?));
        let base_offset = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let total = usize::try_from(word(8)?).ok()? + 12;
        let (last_delta, records) = (word(23)?, word(57)?);
        (total >= HEADER && bytes[16] == 2).then_some(Self {
            base_offset,
            total,
            next_offset: base_offset + i64::from(last_delta) + 1,
            records: u64::try_from(records).ok()?,
        })
    }
}

/// True if the whole batch `bytes` agrees with its checksum.
pub fn crc_ok(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[CRC..CRC_FROM] == crc32c::crc32c(&bytes[CRC_FROM..]).to_be_bytes()
}

/// What a run's batches are made of.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Bytes of a record's value.
    pub record_size: usize,
    /// Largest size of a batch before compression; 0: one record.
    pub batch_bytes: usize,
    /// Different keys, one record each in turn; 0: no keys.
    pub keys: usize,
    pub compression: Compression,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

/// The batch that all requests of a run carry.
pub struct Template {
    /// Up to the end of the stamp; of a compressed batch, whose records cannot be stamped, the header.
    head: Vec<u8>,
    /// From there on, and the three empty tagged fields that end a Produce request.
    tail: Vec<u8>,
    /// Checksum of what stands before the stamp, and of what follows the stamp.
    crc_before: u32,
    crc_after: u32,
    /// What each bit of a checksum becomes over as many zero bytes as follow the stamp: checksums are linear.
    shift: [u32; 32],
    stamped: bool,
    pub records: u64,
    /// Where each record ends in the tail.
    ends: Vec<usize>,
}

/// Empty tagged fields of the partition, the topic and the request.
const REQUEST_END: [u8; 3] = [0; 3];

impl Template {
    /// A batch of as many records as fit, at least one.
    pub fn new(shape: Shape) -> Arc<Self> {
        let Shape { record_size, batch_bytes, keys, compression, now_ms } = shape;
        let stamped = compression == Compression::None;
        let mut records = Vec::with_capacity(batch_bytes + record_size);
        let mut ends = Vec::new();
        let mut count = 0_i32;
        loop {
            let record = record(count, record_size, keys, stamped);
            if count > 0 && HEADER + records.len() + record.len() > batch_bytes {
                break;
            }
            records.extend(record);
            ends.push(records.len());
            count += 1;
        }
        if !stamped {
            records = compress(compression, &records);
        }
        let mut head = Vec::with_capacity(HEADER + 64);
        head.i64(0);
        head.i32((HEADER - 12 + records.len()) as i32);
        head.i32(-1); // partition leader epoch
        head.i8(2); // magic
        head.i32(0); // checksum
        head.i16(compression as i16); // attributes
        head.i32(count - 1);
        head.i64(now_ms);
        head.i64(now_ms);
        head.i64(-1); // producer id, epoch and sequence: not idempotent
        head.i16(-1);
        head.i32(-1);
        head.i32(count);
        let (stamp, stamp_end) = if stamped { (STAMP, record_start(0, record_size, keys).len() + STAMP) } else { (0, 0) };
        ends.iter_mut().for_each(|end| *end -= stamp_end.min(*end));
        head.extend(&records[..stamp_end]);
        let mut tail = records.split_off(stamp_end);
        let crc_before = crc32c::crc32c(&head[CRC_FROM..head.len() - stamp]);
        let crc_after = crc32c::crc32c(&tail);
        let shift = std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, tail.len()));
        tail.extend(REQUEST_END);
        Arc::new(Self { head, tail, crc_before, crc_after, shift, stamped, records: count as u64, ends })
    }

    /// Bytes of the batch.
    pub fn batch_len(&self) -> usize {
        self.head.len() + self.tail.len() - REQUEST_END.len()
    }

    /// Bytes of the batch and of what ends the request after it.
    pub fn framed_len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Where in a batch the stamp stands.
    pub fn stamp_at(&self) -> usize {
        self.head.len() - if self.stamped { STAMP } else { 0 }
    }

    /// Bytes of a batch of the first `records` records.
    pub fn part_len(&self, records: u64) -> usize {
        self.head.len() + self.ends[records as usize - 1]
    }

    /// Bytes of a batch of so many records, compressed or not.
    pub fn part_bytes(&self, records: u64) -> usize {
        if records == self.records { self.batch_len() } else { self.part_len(records) }
    }

    /// Appends a batch of the first `records` records, and what ends the request. Not for compressed batches.
    pub fn put_part(&self, out: &mut Vec<u8>, stamp: &Stamp, records: u64) {
        let start = out.len();
        self.put_head(out, stamp);
        out.extend(&self.tail[..self.ends[records as usize - 1]]);
        let batch = &mut out[start..];
        let (len, count) = (batch.len() as i32 - 12, records as i32);
        batch[8..12].copy_from_slice(&len.to_be_bytes());
        batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[CRC..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        out.extend(REQUEST_END);
    }

    /// Appends the batch up to the end of its stamp.
    pub fn put_head(&self, out: &mut Vec<u8>, stamp: &Stamp) {
        let start = out.len();
        if !self.stamped {
            out.extend(&self.head);
            let crc = crc32c::crc32c_combine(self.crc_before, self.crc_after, self.batch_len() - self.head.len());
            return out[start + CRC..start + CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        }
        let stamp = stamp.bytes();
        out.extend(&self.head[..self.head.len() - STAMP]);
        out.extend(stamp);
        let mut crc = self.crc_after;
        let mut bits = crc32c::crc32c_append(self.crc_before, &stamp);
        while bits != 0 {
            crc ^= self.shift[bits.trailing_zeros() as usize];
            bits &= bits - 1;
        }
        out[start + CRC..start + CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    }

    /// The rest of the batch and of the request.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// True if the tail is large enough to be sent apart from the rest.
    pub fn tail_apart(&self) -> bool {
        self.tail.len() >= APART
    }
}

/// A record up to its value, without a timestamp of its own.
fn record_start(index: i32, value_len: usize, keys: usize) -> Vec<u8> {
    let mut fields = Vec::with_capacity(24);
    fields.i8(0);
    fields.varint(0);
    fields.varint(i64::from(index));
    if keys == 0 {
        fields.varint(-1);
    } else {
        fields.varint(keys::KEY as i64);
        fields.extend(keys::key(index as usize % keys));
    }
    fields.varint(value_len as i64);
    let mut out = Vec::with_capacity(32);
    out.varint((fields.len() + value_len + 1) as i64);
    out.extend(fields);
    out
}

/// A record whose value looks random or, where it is to be compressed, like text.
fn record(index: i32, value_len: usize, keys: usize, random: bool) -> Vec<u8> {
    const WORDS: &[u8] = b"order paid user cart item total price city ";
    let mut out = record_start(index, value_len, keys);
    let mut state = u64::from(index as u32 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for _ in 0..value_len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.push(if random { state as u8 } else { WORDS[(state >> 60) as usize + out.len() % 24] });
    }
    out.push(0); // no headers
    out
}
