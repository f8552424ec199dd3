//! What a producer's batch must be before it is appended: Kafka's rules for magic 2, in Kafka's order.

use std::ops::ControlFlow;

use super::super::compression::{Compression, CompressionError, entries};
use super::super::record::{RecordError, Records};
use super::*;
use crate::base::error::ErrorCode;

/// Records of one batch whose errors are listed: Kafka lists all, but seven bytes of request are not to become a hundred of memory.
const RECORD_ERRORS_MAX: usize = 50;
/// How many of them the summary repeats, as Kafka does.
const RECORD_ERRORS_SHOWN: usize = 3;
/// First Produce version that may carry zstd (KIP-110).
const ZSTD_FROM_VERSION: i16 = 7;

/// What a topic's configuration and the request say about a batch.
#[derive(Clone, Copy, Debug)]
pub struct ProduceRules<'a> {
    /// Named in error texts.
    pub topic: &'a str,
    /// Named in error texts.
    pub partition: i32,
    /// `max.message.bytes`: longest batch, header included.
    pub max_message_bytes: i32,
    /// Whether `cleanup.policy` includes compact, so that every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`, from `now_ms` back.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`, from `now_ms` on.
    pub after_max_ms: i64,
    /// The broker's wall clock, ms since 1970.
    pub now_ms: i64,
    /// Version of the Produce request.
    pub api_version: i16,
}

/// Why a batch is not appended, as the response says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The partition's error.
    pub code: ErrorCode,
    /// The partition's error message.
    pub message: String,
    /// Index in the batch and error message of the records to blame, if it was single records (KIP-467). At most 50.
    pub record_errors: Vec<(i32, String)>,
}

impl Rejection {
    fn new(code: ErrorCode, message: impl Into<String>) -> Rejection {
        Rejection { code, message: message.into(), record_errors: Vec::new() }
    }
}

/// Checks the records of one partition of a Produce request; they are one whole batch if this succeeds, and its header is returned.
///
/// Uncompressed records are all parsed. Compressed ones are not decompressed, unless the topic is compacted: then their keys are
/// looked at, within [`super::super::compression::INFLATED_MAX`]. The first problem decides; the order is Kafka's.
pub fn validate_produce(records: &[u8], rules: &ProduceRules<'_>) -> Result<BatchHeader, Rejection> {
    let header = one_batch(records, rules.api_version)?;
    let compression = header.compression().map_err(|e| Rejection::new(ErrorCode::UnsupportedCompressionType, e.to_string()))?;
    if compression == Compression::Zstd && rules.api_version < ZSTD_FROM_VERSION {
        let message = format!("Produce requests with version {} are not allowed to use ZStandard compression", rules.api_version);
        return Err(Rejection::new(ErrorCode::UnsupportedCompressionType, message));
    }
    check_integrity(&header, records, rules)?;
    check_counts(&header)?;
    check_producer(&header)?;
    if compression == Compression::None {
        check_records(&header, &records[HEADER_LEN..], rules)?;
    } else if rules.compacted {
        check_compressed_keys(&header, records, rules)?;
    }
    check_header_times(&header, compression, rules)?;
    Ok(header)
}

fn invalid_record(message: impl Into<String>) -> Rejection {
    Rejection::new(ErrorCode::InvalidRecord, message)
}

fn one_batch(records: &[u8], version: i16) -> Result<BatchHeader, Rejection> {
    let how_many = |what| invalid_record(format!("Produce requests with version {version} must have {what} record batch per partition"));
    let header = match BatchHeader::parse(records) {
        Ok(header) => header,
        Err(BatchError::BadMagic(0 | 1)) => {
            let text = "are only allowed to contain record batches with magic version 2";
            return Err(invalid_record(format!("Produce requests with version {version} {text}")));
        }
        Err(BatchError::Truncated) => return Err(how_many("at least one")),
        Err(error) => return Err(Rejection::new(ErrorCode::CorruptMessage, error.to_string())),
    };
    match records.len() {
        len if len < header.total_len() => Err(how_many("at least one")),
        len if len > header.total_len() => Err(how_many("exactly one")),
        _ => Ok(header),
    }
}

fn check_integrity(header: &BatchHeader, batch: &[u8], rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    let place = format_args!("{}-{}", rules.topic, rules.partition);
    if header.base_offset != 0 {
        let offset = header.base_offset;
        let message = format!("The baseOffset of the record batch in the append to {place} should be 0, but it is {offset}");
        return Err(invalid_record(message));
    }
    if batch.len() as i64 > rules.max_message_bytes.into() {
        let (len, max) = (batch.len(), rules.max_message_bytes);
        let message =
            format!("The record batch size in the append to {place} is {len} bytes which exceeds the maximum configured value of {max}.");
        return Err(Rejection::new(ErrorCode::MessageTooLarge, message));
    }
    let computed = crc32c::crc32c(&batch[ATTRIBUTES..]);
    if computed != header.crc {
        let message = format!("Record is corrupt (stored crc = {}, computed crc = {computed}) in topic partition {place}.", header.crc);
        return Err(Rejection::new(ErrorCode::CorruptMessage, message));
    }
    Ok(())
}

fn check_counts(header: &BatchHeader) -> Result<(), Rejection> {
    let (count, last) = (header.records_count, header.last_offset());
    if header.last_offset_delta < 0 {
        return Err(invalid_record(format!("Batch has an invalid offset range: [{}, {last}]", header.base_offset)));
    }
    if count <= 0 {
        return Err(invalid_record(format!("Invalid reported count for record batch: {count}")));
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(count) {
        let message = format!("Inconsistent batch offset range [{}, {last}] and count of records {count}", header.base_offset);
        return Err(invalid_record(message));
    }
    Ok(())
}

fn check_producer(header: &BatchHeader) -> Result<(), Rejection> {
    if header.is_control() {
        return Err(invalid_record("Clients are not allowed to write control records"));
    }
    if header.has_delete_horizon() {
        return Err(invalid_record("Clients are not allowed to set a delete horizon"));
    }
    if header.has_producer_id() {
        let (id, sequence, epoch) = (header.producer_id, header.base_sequence, header.producer_epoch);
        if sequence < 0 {
            return Err(invalid_record(format!("Invalid sequence number {sequence} in record batch with producerId {id}")));
        }
        if epoch < 0 {
            return Err(invalid_record(format!("Invalid epoch {epoch} of producerId {id}")));
        }
    } else if header.producer_id != NO_PRODUCER_ID || header.is_transactional() {
        return Err(invalid_record(format!("Invalid producerId {} in record batch", header.producer_id)));
    }
    Ok(())
}

/// The bounds of acceptable timestamps; every one is within them under LogAppendTime.
fn time_bounds(rules: &ProduceRules<'_>) -> (i64, i64) {
    match rules.timestamp_type {
        TimestampType::LogAppendTime => (i64::MIN, i64::MAX),
        TimestampType::CreateTime => (rules.now_ms.saturating_sub(rules.before_max_ms), rules.now_ms.saturating_add(rules.after_max_ms)),
    }
}

#[inline]
fn acceptable(timestamp: i64, (low, high): (i64, i64)) -> bool {
    (low..=high).contains(&timestamp) || timestamp == NO_TIMESTAMP
}

fn out_of_range(timestamp: i64, offset: i32, (low, high): (i64, i64)) -> String {
    format!("Timestamp {timestamp} of message with offset {offset} is out of range. The timestamp should be within [{low}, {high}]")
}

fn invalid_timestamp(record_errors: Vec<(i32, String)>) -> Rejection {
    let message = "One or more records have been rejected due to invalid timestamp".to_owned();
    Rejection { code: ErrorCode::InvalidTimestamp, message, record_errors }
}

/// What the header says about time: all there is of compressed records, and what retention goes by. A maximum that is within the
/// bounds but not that of the records passes: Kafka would correct it, here it misleads nobody but its producer's own look-ups by time.
fn check_header_times(header: &BatchHeader, compression: Compression, rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    if header.timestamp_type() == TimestampType::LogAppendTime {
        let message = "Invalid timestamp type in batch. Producer should not set timestamp type to LogAppendTime.";
        return Err(invalid_timestamp(vec![(0, message.to_owned())]));
    }
    let bounds = time_bounds(rules);
    let first = (0, header.base_timestamp);
    let last = (header.last_offset_delta, header.max_timestamp);
    let ends = if compression == Compression::None { [last, last] } else { [first, last] };
    match ends.into_iter().find(|(_, timestamp)| !acceptable(*timestamp, bounds)) {
        Some((index, timestamp)) => Err(invalid_timestamp(vec![(index, out_of_range(timestamp, index, bounds))])),
        None => Ok(()),
    }
}

/// Collects what is wrong with single records.
struct Blame {
    errors: Vec<(i32, String)>,
    count: usize,
    bad_time: bool,
}

impl Blame {
    fn new() -> Blame {
        Blame { errors: Vec::new(), count: 0, bad_time: false }
    }

    #[cold]
    fn add(&mut self, index: i32, message: impl FnOnce() -> String) {
        self.count += 1;
        if self.errors.len() < RECORD_ERRORS_MAX {
            self.errors.push((index, message()));
        }
    }

    fn verdict(self) -> Result<(), Rejection> {
        if self.count == 0 {
            return Ok(());
        }
        if self.bad_time {
            return Err(invalid_timestamp(self.errors));
        }
        let shown = self.errors.iter().take(RECORD_ERRORS_SHOWN);
        let shown: Vec<_> = shown.map(|(index, text)| format!("RecordError(batchIndex={index}, message='{text}')")).collect();
        let message = format!(
            "One or more records have been rejected due to {} record errors in total, and only showing the first three errors at most: [{}]",
            self.count,
            shown.join(", ")
        );
        Err(Rejection { code: ErrorCode::InvalidRecord, message, record_errors: self.errors })
    }
}

fn no_key(rules: &ProduceRules<'_>) -> String {
    format!("Compacted topic cannot accept message without key in topic partition {}-{}.", rules.topic, rules.partition)
}

fn check_records(header: &BatchHeader, payload: &[u8], rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    let bounds = time_bounds(rules);
    let mut blame = Blame::new();
    for (index, record) in (0..).zip(Records::new(payload, header.records_count)) {
        let record = record.map_err(|error: RecordError| invalid_record(error.to_string()))?;
        if record.offset_delta != index {
            blame.add(index, || not_incremental(record.offset_delta, index, rules));
            continue;
        }
        if rules.compacted && record.key.is_none() {
            blame.add(index, || no_key(rules));
            continue;
        }
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        if !acceptable(timestamp, bounds) {
            blame.bad_time = true;
            blame.add(index, || out_of_range(timestamp, index, bounds));
        }
    }
    blame.verdict()
}

fn not_incremental(delta: i32, index: i32, rules: &ProduceRules<'_>) -> String {
    format!(
        "Inner record with offset {delta} inside the record batch does not have incremental offsets, expected offset is {index} in topic partition {}-{}.",
        rules.topic, rules.partition
    )
}

fn check_compressed_keys(header: &BatchHeader, batch: &[u8], rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    let mut blame = Blame::new();
    let mut index = 0;
    let scanned = entries(header, batch, |entry| {
        if entry.offset_delta != index {
            blame.add(index, || not_incremental(entry.offset_delta, index, rules));
        } else if !entry.has_key {
            blame.add(index, || no_key(rules));
        }
        index += 1;
        ControlFlow::Continue(())
    });
    scanned.map_err(|error: CompressionError| match error {
        CompressionError::TooLong(_) => Rejection::new(ErrorCode::MessageTooLarge, format!("The record batch has {error}")),
        _ => invalid_record(error.to_string()),
    })?;
    blame.verdict()
}
