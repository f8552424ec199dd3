//! What a producer's batch must be before it is appended: Kafka's rules for magic 2, in Kafka's order.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::super::compression::{Codec, Compression, CompressionError, INFLATED_MAX};
use super::super::scan::Front;
use super::inspect::Inspection;
use super::recompress::{Recompression, Sealing};
use super::*;
use crate::base::config::Verify;
use crate::base::error::ErrorCode;

/// Records of one batch whose errors are listed: Kafka lists all, but seven bytes of request are not to become a hundred of memory.
const RECORD_ERRORS_MAX: usize = 50;
/// How many of them the summary repeats, as Kafka does.
const RECORD_ERRORS_SHOWN: usize = 3;
/// First Produce version that may carry zstd (KIP-110).
const ZSTD_FROM_VERSION: i16 = 7;

/// Bytes of the shortest record: its length, attributes, two deltas, no key, no value, no headers.
const RECORD_MIN: usize = 7;

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
    /// How far compressed batches are looked at: without inflating them what the header says must be
    /// possible for a batch of this length.
    pub verify: Verify,
    /// `compression.type`: batches in another codec are compressed anew. `None`: as they are sent.
    pub codec: Option<Codec>,
}

/// A batch that may be appended.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its header, with the largest timestamp that the records have.
    pub header: BatchHeader,
    /// The batch in the codec of its topic, if it was sent in another one.
    pub recompressed: Option<Bytes>,
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

/// Checks the records of one partition of a Produce request, which must be one whole batch, in steps:
/// a short frame may hold a lot, and a long one is much to look at. The first problem decides; the
/// order is Kafka's.
pub struct Checker {
    header: BatchHeader,
    stage: Stage,
    blame: Blame,
    /// Of the next record.
    index: i32,
    /// Largest timestamp (ms) of the records so far.
    largest: i64,
    /// Bytes inflated so far.
    inflated: usize,
}

enum Stage {
    /// The checksum is computed.
    Checksum {
        /// Of the whole batch.
        records: Bytes,
        crc: PartialCrc,
    },
    Records {
        inspection: Inspection,
        recompression: Option<Recompression>,
    },
    Sealing(Sealing),
    /// The records of a compressed batch are not looked at.
    Trusted,
}

impl Checker {
    /// Checks what costs nothing.
    pub fn new(records: &Bytes, rules: &ProduceRules<'_>) -> Result<Checker, Rejection> {
        let header = one_batch(records, rules.api_version)?;
        let compression = header.compression();
        let compression = compression.map_err(|e| Rejection::new(ErrorCode::UnsupportedCompressionType, e.to_string()))?;
        if compression == Compression::Zstd && rules.api_version < ZSTD_FROM_VERSION {
            let version = rules.api_version;
            let message = format!("Produce requests with version {version} are not allowed to use ZStandard compression");
            return Err(Rejection::new(ErrorCode::UnsupportedCompressionType, message));
        }
        check_integrity(&header, records, rules)?;
        let stage = Stage::Checksum { records: records.clone(), crc: PartialCrc::default() };
        Ok(Checker { header, stage, blame: Blame::new(), index: 0, largest: NO_TIMESTAMP, inflated: 0 })
    }

    /// True for compressed records.
    pub fn is_compressed(&self) -> bool {
        self.header.compression() != Ok(Compression::None)
    }

    /// True for a batch that is compressed anew.
    pub fn recompresses(&self, rules: &ProduceRules<'_>) -> bool {
        new_codec(&self.header, rules).is_some()
    }

    /// Bytes inflated so far.
    pub fn inflated(&self) -> usize {
        self.inflated
    }

    /// Goes on until `budget`, which counts inflated bytes, was spent. The rules are to be those of
    /// the beginning.
    pub fn step(&mut self, rules: &ProduceRules<'_>, budget: &mut usize) -> Result<Option<Checked>, Rejection> {
        if let Stage::Checksum { records, crc } = &mut self.stage {
            let Some(computed) = crc.step(records, budget) else { return Ok(None) };
            check_crc(&self.header, computed, rules)?;
            self.stage = begin_records(&self.header, records, rules)?;
        }
        if let Stage::Records { .. } = &self.stage {
            return self.look(rules, budget);
        }
        if let Stage::Sealing(sealing) = &mut self.stage {
            return Ok(sealing.step(budget).map(Checked::recompressed));
        }
        check_header_times(&self.header, rules)?;
        Ok(Some(Checked { header: self.header, recompressed: None }))
    }

    /// Goes on with the records.
    fn look(&mut self, rules: &ProduceRules<'_>, budget: &mut usize) -> Result<Option<Checked>, Rejection> {
        let bounds = time_bounds(rules);
        let Checker { header, stage, blame, index, largest, inflated } = self;
        let Stage::Records { inspection, recompression } = stage else { return Ok(None) };
        let base = header.base_timestamp;
        let visit = |front: Front| {
            let timestamp = base.wrapping_add(front.timestamp_delta);
            *largest = timestamp.max(*largest);
            check_record(front, timestamp, *index, bounds, rules, blame);
            *index += 1;
            ControlFlow::Continue(())
        };
        let done = match recompression {
            None => inspection.step(budget, visit),
            Some(recompression) => inspection.step_into(budget, visit, |piece| recompression.take(piece)),
        };
        *inflated = inspection.inflated();
        if !done.map_err(unreadable)? {
            return Ok(None);
        }
        std::mem::replace(blame, Blame::new()).verdict()?;
        check_timestamp_type(header)?;
        let Some(recompression) = recompression.take() else {
            let header = BatchHeader { max_timestamp: *largest, ..*header };
            return Ok(Some(Checked { header, recompressed: None }));
        };
        let mut sealing = recompression.finish(*largest).ok_or_else(|| too_long_recompressed(rules))?;
        let sealed = sealing.step(budget).map(Checked::recompressed);
        self.stage = Stage::Sealing(sealing);
        Ok(sealed)
    }
}

impl Checked {
    fn recompressed(batch: Bytes) -> Checked {
        let header = BatchHeader::parse(&batch).expect("it has the checked batch's header");
        Checked { header, recompressed: Some(batch) }
    }
}

/// The codec in which a batch is compressed anew.
fn new_codec(header: &BatchHeader, rules: &ProduceRules<'_>) -> Option<Codec> {
    rules.codec.filter(|codec| header.compression() != Ok(codec.compression))
}

fn too_long_recompressed(rules: &ProduceRules<'_>) -> Rejection {
    let (topic, partition, max) = (rules.topic, rules.partition, rules.max_message_bytes);
    let message = format!("The record batch for {topic}-{partition} has more than {max} bytes in the codec of the topic");
    Rejection::new(ErrorCode::MessageTooLarge, message)
}

/// Checks the rest of the header of a batch whose checksum is right.
fn begin_records(header: &BatchHeader, records: &Bytes, rules: &ProduceRules<'_>) -> Result<Stage, Rejection> {
    check_counts(header, rules)?;
    check_producer(header, rules)?;
    let compression = header.compression().unwrap_or_default();
    let codec = new_codec(header, rules);
    let look = rules.verify != Verify::Frame || rules.compacted || header.time_unknown() || codec.is_some();
    if compression != Compression::None && !look {
        check_plausible(header, compression, rules)?;
        return Ok(Stage::Trusted);
    }
    let inspection = Inspection::new(header, records).map_err(unreadable)?;
    let max = rules.max_message_bytes.max(0) as usize;
    Ok(match codec {
        None => Stage::Records { inspection, recompression: None },
        Some(codec) => {
            let recompression = Some(Recompression::new(records, codec, max));
            Stage::Records { inspection: inspection.in_small_pieces(), recompression }
        }
    })
}

/// As a [`Checker`] does, in one go.
pub fn validate_produce(records: &Bytes, rules: &ProduceRules<'_>) -> Result<BatchHeader, Rejection> {
    let mut checker = Checker::new(records, rules)?;
    loop {
        if let Some(checked) = checker.step(rules, &mut usize::MAX.clone())? {
            return Ok(checked.header);
        }
    }
}

fn unreadable(error: CompressionError) -> Rejection {
    match error {
        CompressionError::TooLong(_) => Rejection::new(ErrorCode::MessageTooLarge, format!("The record batch has {error}")),
        _ => invalid_record(error.to_string()),
    }
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
    Ok(())
}

fn check_crc(header: &BatchHeader, computed: u32, rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    if computed != header.crc {
        let place = format_args!("{}-{}", rules.topic, rules.partition);
        let message = format!("Record is corrupt (stored crc = {}, computed crc = {computed}) in topic partition {place}.", header.crc);
        return Err(Rejection::new(ErrorCode::CorruptMessage, message));
    }
    Ok(())
}

fn check_counts(header: &BatchHeader, rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    let (count, last, base) = (header.records_count, header.last_offset(), header.base_offset);
    let place = format_args!("in topic partition {}-{}", rules.topic, rules.partition);
    if header.last_offset_delta < 0 {
        return Err(invalid_record(format!("Batch has an invalid offset range: [{base}, {last}] {place}")));
    }
    if count <= 0 {
        return Err(invalid_record(format!("Invalid reported count for record batch: {count} {place}")));
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(count) {
        let range = format_args!("[{base}, {last}]");
        return Err(invalid_record(format!("Inconsistent batch offset range {range} and count of records {count} {place}")));
    }
    Ok(())
}

/// A batch that is not inflated cannot hold more records than its bytes could become.
fn check_plausible(header: &BatchHeader, compression: Compression, rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    let payload = header.total_len() - HEADER_LEN;
    let inflated = payload.saturating_mul(compression.growth_max()).min(INFLATED_MAX);
    if header.records_count as usize <= inflated / RECORD_MIN {
        return Ok(());
    }
    let (count, topic, partition) = (header.records_count, rules.topic, rules.partition);
    Err(invalid_record(format!("Invalid reported count for record batch: {count} in topic partition {topic}-{partition}")))
}

fn check_producer(header: &BatchHeader, rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    let place = format_args!("in topic partition {}-{}", rules.topic, rules.partition);
    if header.is_control() {
        return Err(invalid_record(format!("Clients are not allowed to write control records {place}")));
    }
    if header.has_delete_horizon() {
        return Err(invalid_record("Clients are not allowed to set a delete horizon"));
    }
    if header.has_producer_id() {
        let (id, sequence, epoch) = (header.producer_id, header.base_sequence, header.producer_epoch);
        if sequence < 0 {
            let what = format_args!("Invalid sequence number {sequence} in record batch with producerId {id}");
            return Err(invalid_record(format!("{what} {place}")));
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

/// What the header says about time: all there is of records that are not looked at, and what
/// retention goes by.
fn check_header_times(header: &BatchHeader, rules: &ProduceRules<'_>) -> Result<(), Rejection> {
    check_timestamp_type(header)?;
    let bounds = time_bounds(rules);
    let ends = [(0, header.base_timestamp), (header.last_offset_delta, header.max_timestamp)];
    match ends.into_iter().find(|(_, timestamp)| !acceptable(*timestamp, bounds)) {
        Some((index, timestamp)) => Err(invalid_timestamp(vec![(index, out_of_range(timestamp, index, bounds))])),
        None => Ok(()),
    }
}

fn check_timestamp_type(header: &BatchHeader) -> Result<(), Rejection> {
    if header.timestamp_type() == TimestampType::CreateTime {
        return Ok(());
    }
    let message = "Invalid timestamp type in batch. Producer should not set timestamp type to LogAppendTime.";
    Err(invalid_timestamp(vec![(0, message.to_owned())]))
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

#[inline]
fn check_record(front: Front, timestamp: i64, index: i32, bounds: (i64, i64), rules: &ProduceRules<'_>, blame: &mut Blame) {
    if front.offset_delta != index {
        blame.add(index, || not_incremental(front.offset_delta, index, rules));
    } else if rules.compacted && !front.has_key {
        blame.add(index, || no_key(rules));
    } else if !acceptable(timestamp, bounds) {
        blame.bad_time = true;
        blame.add(index, || out_of_range(timestamp, index, bounds));
    }
}

fn no_key(rules: &ProduceRules<'_>) -> String {
    format!("Compacted topic cannot accept message without key in topic partition {}-{}", rules.topic, rules.partition)
}

fn not_incremental(delta: i32, index: i32, rules: &ProduceRules<'_>) -> String {
    format!(
        "Inner record with offset {delta} inside the record batch does not have incremental offsets, expected offset is {index} in topic partition {}-{}.",
        rules.topic, rules.partition
    )
}
