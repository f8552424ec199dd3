//! Record batches of format version 2 ("magic 2", KIP-98), the only one that this broker takes, keeps and serves.

mod build;
mod filter;
mod inspect;
mod recompress;
#[cfg(test)]
mod tests;
mod validate;

use std::fmt;

use super::compression::Compression;
use crate::base::ids::{LeaderEpoch, Offset, ProducerId};

pub use build::{BatchSpec, KeyValue, NewRecord, build_batch, build_batch_of};
#[cfg(test)]
pub use filter::filter_batch;
pub use filter::{Cursor, Filtered, Filtering, Inflation, Marker, Payload, Retention, marker};
pub use inspect::{TimeSearch, Wanted};
pub use validate::{Checked, Checker, ProduceRules, Rejection, validate_produce};

/// Bytes of a batch before its records (Kafka's `RECORD_BATCH_OVERHEAD`).
pub const HEADER_LEN: usize = 61;
/// Bytes before and including the batch length, which that length does not count (Kafka's `LOG_OVERHEAD`).
pub const LOG_OVERHEAD: usize = 12;
/// The format's version.
pub const MAGIC: i8 = 2;
/// Timestamp of a record that has none (Kafka's `RecordBatch.NO_TIMESTAMP`).
pub const NO_TIMESTAMP: i64 = -1;
/// Producer id of a batch whose producer is not idempotent.
pub const NO_PRODUCER_ID: ProducerId = -1;
/// Producer epoch of such a batch.
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// Base sequence of such a batch.
pub const NO_SEQUENCE: i32 = -1;

const BASE_OFFSET: usize = 0;
const BATCH_LENGTH: usize = 8;
const PARTITION_LEADER_EPOCH: usize = 12;
const MAGIC_AT: usize = 16;
const CRC: usize = 17;
/// Where the checksummed part starts: offset and leader epoch lie before it, so that a broker can set them without a new CRC.
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
const RECORDS_COUNT: usize = 57;

const COMPRESSION_MASK: i16 = 0x07;
const TIMESTAMP_TYPE_FLAG: i16 = 0x08;
const TRANSACTIONAL_FLAG: i16 = 0x10;
const CONTROL_FLAG: i16 = 0x20;
const DELETE_HORIZON_FLAG: i16 = 0x40;

/// Whose clock a batch's timestamps come from (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's: every record counts as written at the batch's maximum timestamp.
    LogAppendTime,
}

/// Why bytes are not a record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// The bytes end inside the batch.
    Truncated,
    /// The length field cannot be that of a batch.
    BadLength(i32),
    /// Not format version 2.
    BadMagic(i8),
    /// A compression code that does not exist.
    BadCompression(u8),
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::Truncated => f.write_str("record batch is cut off"),
            BatchError::BadLength(length) => write!(f, "record batch claims a length of {length}"),
            BatchError::BadMagic(magic) => write!(f, "record batch has magic {magic}, not {MAGIC}"),
            BatchError::BadCompression(code) => write!(f, "unknown compression type {code}"),
        }
    }
}

impl std::error::Error for BatchError {}

/// All that stands before a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record, also if compaction removed it.
    pub base_offset: Offset,
    /// Bytes after this field; at least 49.
    pub batch_length: i32,
    /// Epoch of the leader that appended the batch.
    pub partition_leader_epoch: LeaderEpoch,
    /// Always [`MAGIC`].
    pub magic: i8,
    /// CRC-32C of everything after it.
    pub crc: u32,
    /// Compression, timestamp type and the flags.
    pub attributes: i16,
    /// Offset of the last record, less `base_offset`; kept through compaction.
    pub last_offset_delta: i32,
    /// Timestamp of the first record in ms, [`NO_TIMESTAMP`], or the delete horizon if that flag is set.
    pub base_timestamp: i64,
    /// Largest timestamp of the records in ms, or the time of the append.
    pub max_timestamp: i64,
    /// The idempotent producer, or [`NO_PRODUCER_ID`].
    pub producer_id: ProducerId,
    /// Its epoch, or [`NO_PRODUCER_EPOCH`].
    pub producer_epoch: i16,
    /// Sequence number of the first record, or [`NO_SEQUENCE`].
    pub base_sequence: i32,
    /// Records in the batch; 0 if compaction left the header alone.
    pub records_count: i32,
}

impl BatchHeader {
    /// As the header is after [`Stamp::apply`], but for the checksum.
    pub fn stamp(&mut self, stamp: Stamp) {
        match stamp {
            Stamp::LogAppendTime(ms) => {
                self.attributes |= TIMESTAMP_TYPE_FLAG;
                self.max_timestamp = ms;
            }
            Stamp::Largest(ms) => self.max_timestamp = ms,
        }
    }

    /// True if `max_timestamp` cannot be that of the records, so that only they tell: some clients
    /// leave it at -1, and brokers that do not look into batches have stored it so.
    pub fn time_unknown(&self) -> bool {
        let below = self.max_timestamp < 0 || !self.has_delete_horizon() && self.max_timestamp < self.base_timestamp;
        below && self.records_count > 0 && self.timestamp_type() == TimestampType::CreateTime
    }

    /// Reads the header of the batch that `bytes` begin with; the batch may be longer than `bytes`. The CRC is not looked at.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(BatchError::Truncated)?;
        let parsed = BatchHeader {
            base_offset: i64::from_be_bytes(field(header, BASE_OFFSET)),
            batch_length: i32::from_be_bytes(field(header, BATCH_LENGTH)),
            partition_leader_epoch: i32::from_be_bytes(field(header, PARTITION_LEADER_EPOCH)),
            magic: i8::from_be_bytes(field(header, MAGIC_AT)),
            crc: u32::from_be_bytes(field(header, CRC)),
            attributes: i16::from_be_bytes(field(header, ATTRIBUTES)),
            last_offset_delta: i32::from_be_bytes(field(header, LAST_OFFSET_DELTA)),
            base_timestamp: i64::from_be_bytes(field(header, BASE_TIMESTAMP)),
            max_timestamp: i64::from_be_bytes(field(header, MAX_TIMESTAMP)),
            producer_id: i64::from_be_bytes(field(header, PRODUCER_ID)),
            producer_epoch: i16::from_be_bytes(field(header, PRODUCER_EPOCH)),
            base_sequence: i32::from_be_bytes(field(header, BASE_SEQUENCE)),
            records_count: i32::from_be_bytes(field(header, RECORDS_COUNT)),
        };
        // Shorter than a record of any format: not a batch at all, whatever stands where the magic should (Kafka's order of checks).
        const SHORTEST: i32 = 14;
        if parsed.batch_length < SHORTEST {
            return Err(BatchError::BadLength(parsed.batch_length));
        }
        if parsed.magic != MAGIC {
            return Err(BatchError::BadMagic(parsed.magic));
        }
        if parsed.batch_length < (HEADER_LEN - LOG_OVERHEAD) as i32 {
            return Err(BatchError::BadLength(parsed.batch_length));
        }
        Ok(parsed)
    }

    /// Bytes of the whole batch.
    #[inline]
    pub fn total_len(&self) -> usize {
        LOG_OVERHEAD + self.batch_length as usize
    }

    /// Offset of the last record. Wraps on a header that lies; validated and recovered batches do not.
    #[inline]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.wrapping_add(self.last_offset_delta.into())
    }

    /// Offset that the batch after this one starts at.
    #[inline]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().wrapping_add(1)
    }

    /// Sequence number of the last record; sequence numbers go on at 0 after 2^31 - 1.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 { NO_SEQUENCE } else { self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX }
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        Compression::from_code((self.attributes & COMPRESSION_MASK) as u8)
    }

    /// Whose clock the timestamps come from.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_FLAG != 0 { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    /// True for a batch that belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_FLAG != 0
    }

    /// True for a batch that holds a transaction marker or another control record, which clients skip.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_FLAG != 0
    }

    /// True if `base_timestamp` says when compaction may drop the batch's tombstones (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_FLAG != 0
    }

    /// True for a batch of an idempotent producer.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }
}

#[inline]
fn field<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&header[at..at + N]);
    out
}

/// Sets what the broker assigns; neither is covered by the CRC. Panics if `batch` is shorter than a header.
#[inline]
pub fn patch(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    batch[BASE_OFFSET..BATCH_LENGTH].copy_from_slice(&base_offset.to_be_bytes());
    batch[PARTITION_LEADER_EPOCH..MAGIC_AT].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// A timestamp (ms) that the broker sets in a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The batch becomes one of type LogAppendTime.
    LogAppendTime(i64),
    /// The largest timestamp of the records, where the producer has told another.
    Largest(i64),
}

impl Stamp {
    /// The timestamp.
    pub fn ms(self) -> i64 {
        match self {
            Stamp::LogAppendTime(ms) | Stamp::Largest(ms) => ms,
        }
    }

    /// Sets it in a whole batch, with a new CRC. Panics if `batch` is shorter than a header.
    pub fn apply(self, batch: &mut [u8]) {
        if let Stamp::LogAppendTime(_) = self {
            let attributes = i16::from_be_bytes([batch[ATTRIBUTES], batch[ATTRIBUTES + 1]]);
            let attributes = (attributes | TIMESTAMP_TYPE_FLAG).to_be_bytes();
            batch[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes);
        }
        batch[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&self.ms().to_be_bytes());
        let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
        batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    }
}

/// Whether the batch that `bytes` begin with is whole and has the CRC that it says.
pub fn crc_ok(bytes: &[u8]) -> bool {
    match BatchHeader::parse(bytes) {
        Ok(header) if header.total_len() <= bytes.len() => crc32c::crc32c(&bytes[ATTRIBUTES..header.total_len()]) == header.crc,
        _ => false,
    }
}

/// Bytes of a batch whose checksum is computed between two looks at the budget.
const CRC_STEP: usize = 128 << 10;

/// The checksum of a whole batch, computed in steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartialCrc {
    crc: u32,
    /// Bytes behind the fields that it does not cover, so far.
    done: usize,
}

impl PartialCrc {
    /// Goes on until `budget`, which counts inflated bytes, was spent; the checksum at the end.
    pub fn step(&mut self, batch: &[u8], budget: &mut usize) -> Option<u32> {
        let covered = batch.get(ATTRIBUTES..).unwrap_or_default();
        while *budget > 0 {
            let rest = &covered[self.done..];
            let now = rest.len().min(CRC_STEP);
            self.crc = crc32c::crc32c_append(self.crc, &rest[..now]);
            self.done += now;
            *budget = budget.saturating_sub(now / inspect::PLAIN_CHEAPER);
            if now == rest.len() {
                return Some(self.crc);
            }
        }
        None
    }
}

/// Goes over batches that lie back to back: each with its header and its bytes. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
    failed: bool,
}

impl<'a> Batches<'a> {
    /// All batches of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Batches<'a> {
        Batches { rest: bytes, failed: false }
    }

    /// The bytes that no batch was made of yet: after an error those that begin with the bad batch.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() || self.failed {
            return None;
        }
        let batch = BatchHeader::parse(self.rest).and_then(|header| {
            let (batch, rest) = self.rest.split_at_checked(header.total_len()).ok_or(BatchError::Truncated)?;
            self.rest = rest;
            Ok((header, batch))
        });
        self.failed = batch.is_err();
        Some(batch)
    }
}
