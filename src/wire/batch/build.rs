//! Making batches: for the broker's own logs, and for tests and load.

use super::super::compression::{Compression, compress};
use super::super::record::{put_record, put_record_with_headers};
use super::*;

/// Key, value and timestamp (ms) of a record to be written.
pub type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, i64);

/// A record to be written that may have headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// `None` is a null key.
    pub key: Option<Vec<u8>>,
    /// `None` is a null value.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Key and value of each header.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Everything about a batch but its records. The default is what a plain producer sends.
#[derive(Clone, Copy, Debug)]
pub struct BatchSpec {
    /// Offset of the first record; 0 in a produce request.
    pub base_offset: Offset,
    /// Epoch of the leader; -1 in a produce request.
    pub leader_epoch: LeaderEpoch,
    /// How the records are compressed.
    pub compression: Compression,
    /// Whose clock the timestamps come from.
    pub timestamp_type: TimestampType,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// Whether its records are control records.
    pub control: bool,
    /// The idempotent producer, its epoch, and the first record's sequence number.
    pub producer_id: ProducerId,
    /// See `producer_id`.
    pub producer_epoch: i16,
    /// See `producer_id`.
    pub base_sequence: i32,
}

impl Default for BatchSpec {
    fn default() -> BatchSpec {
        BatchSpec {
            base_offset: 0,
            leader_epoch: -1,
            compression: Compression::None,
            timestamp_type: TimestampType::CreateTime,
            transactional: false,
            control: false,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            base_sequence: NO_SEQUENCE,
        }
    }
}

impl BatchSpec {
    fn attributes(&self) -> i16 {
        let flag = |set: bool, bit: i16| if set { bit } else { 0 };
        self.compression as i16
            | flag(self.timestamp_type == TimestampType::LogAppendTime, TIMESTAMP_TYPE_FLAG)
            | flag(self.transactional, TRANSACTIONAL_FLAG)
            | flag(self.control, CONTROL_FLAG)
    }
}

/// A whole batch with its CRC. Without records it is the bare header that compaction may leave, whose one offset has no record.
pub fn build_batch(spec: &BatchSpec, records: &[KeyValue<'_>]) -> Vec<u8> {
    let base_timestamp = records.first().map_or(NO_TIMESTAMP, |record| record.2);
    let max_timestamp = records.iter().map(|record| record.2).max().unwrap_or(NO_TIMESTAMP);
    let mut payload = Vec::with_capacity(records.iter().map(|(key, value, _)| 24 + len(*key) + len(*value)).sum());
    for (i, (key, value, timestamp)) in records.iter().enumerate() {
        put_record(&mut payload, i as i32, timestamp.wrapping_sub(base_timestamp), *key, *value);
    }
    assemble(spec, payload, records.len(), base_timestamp, max_timestamp)
}

/// As [`build_batch`], with headers.
pub fn build_batch_of(spec: &BatchSpec, records: &[NewRecord]) -> Vec<u8> {
    let base_timestamp = records.first().map_or(NO_TIMESTAMP, |record| record.timestamp);
    let max_timestamp = records.iter().map(|record| record.timestamp).max().unwrap_or(NO_TIMESTAMP);
    let mut payload = Vec::new();
    for (i, record) in records.iter().enumerate() {
        let deltas = (i as i32, record.timestamp.wrapping_sub(base_timestamp));
        put_record_with_headers(&mut payload, deltas, record.key.as_deref(), record.value.as_deref(), &record.headers);
    }
    assemble(spec, payload, records.len(), base_timestamp, max_timestamp)
}

/// The batch around `count` records, which are compressed here.
fn assemble(spec: &BatchSpec, mut payload: Vec<u8>, count: usize, base_timestamp: i64, max_timestamp: i64) -> Vec<u8> {
    if spec.compression != Compression::None {
        payload = compress(spec.compression, &payload);
    }
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&spec.base_offset.to_be_bytes());
    out.extend_from_slice(&((HEADER_LEN - LOG_OVERHEAD + payload.len()) as i32).to_be_bytes());
    out.extend_from_slice(&spec.leader_epoch.to_be_bytes());
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&spec.attributes().to_be_bytes());
    out.extend_from_slice(&(count.saturating_sub(1) as i32).to_be_bytes());
    out.extend_from_slice(&base_timestamp.to_be_bytes());
    out.extend_from_slice(&max_timestamp.to_be_bytes());
    out.extend_from_slice(&spec.producer_id.to_be_bytes());
    out.extend_from_slice(&spec.producer_epoch.to_be_bytes());
    out.extend_from_slice(&spec.base_sequence.to_be_bytes());
    out.extend_from_slice(&(count as i32).to_be_bytes());
    out.extend_from_slice(&payload);
    let crc = crc32c::crc32c(&out[ATTRIBUTES..]);
    out[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    out
}

fn len(field: Option<&[u8]>) -> usize {
    field.map_or(0, <[u8]>::len)
}
