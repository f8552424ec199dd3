//! What compaction needs of a batch: its keys, and the batch without the records that are to go.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::super::compression::{Compression, CompressionError, Compressor, INFLATED_MAX};
use super::super::record::{Record, read_record};
use super::inspect::{Inspection, PLAIN_CHEAPER, RECORD_COST};
use super::*;

/// What is to become of a batch, besides the choice of single records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// No record stays, whatever is said of each.
    pub discard: bool,
    /// Without records the header stays, for the sequence number or the last offset that it tells.
    pub keep_empty: bool,
    /// The batch is a marker of a transaction of which nothing is left: it gets a delete horizon as a tombstone does.
    pub hollow_marker: bool,
    /// Time in ms from which tombstones may go: set in batches that have tombstones and no such time yet (KIP-534).
    pub horizon_ms: i64,
}

/// What is left of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// All of it, byte for byte.
    Whole,
    /// Nothing.
    Gone,
    /// This: offsets, sequence numbers and codec as before.
    Rewritten(Vec<u8>),
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// Its records do not count.
    Abort,
    /// Its records count.
    Commit,
    /// Another kind of control record.
    Other,
}

/// The records of a batch, inflated and known to be well formed.
pub struct Payload {
    bytes: Bytes,
    count: i32,
}

/// A place among the records of a [`Payload`].
#[derive(Clone, Copy)]
pub struct Cursor {
    at: usize,
    left: i32,
}

impl Payload {
    /// Its records.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut cursor = self.start();
        std::iter::from_fn(move || self.next(&mut cursor))
    }

    /// The place of the first record.
    pub fn start(&self) -> Cursor {
        Cursor { at: 0, left: self.count }
    }

    /// The record at a place, which moves on to the next one.
    pub fn next(&self, cursor: &mut Cursor) -> Option<Record<'_>> {
        if cursor.left <= 0 {
            return None;
        }
        let mut rest = &self.bytes[cursor.at..];
        // Checked when it was made.
        let record = read_record(&mut rest).ok()?;
        *cursor = Cursor { at: self.bytes.len() - rest.len(), left: cursor.left - 1 };
        Some(record)
    }
}

/// Records of so many bytes get room for all that there may be.
const LARGE: usize = 1 << 20;

/// Inflates and checks the records of a batch in steps, up to [`INFLATED_MAX`].
pub struct Inflation {
    inspection: Inspection,
    /// The records themselves, where they are not compressed.
    plain: Option<Bytes>,
    inflated: Vec<u8>,
    count: i32,
    salvage: bool,
}

impl Inflation {
    /// Of the whole batch that `batch` begins with.
    pub fn new(header: &BatchHeader, batch: &Bytes) -> Result<Inflation, CompressionError> {
        let inspection = Inspection::new(header, batch)?;
        let plain = match header.compression() {
            _ if header.records_count == 0 => Some(Bytes::new()),
            Ok(Compression::None) => Some(batch.slice(HEADER_LEN..header.total_len())),
            _ => None,
        };
        Ok(Inflation { inspection, plain, inflated: Vec::new(), count: header.records_count, salvage: false })
    }

    /// As [`Inflation::new`], of a damaged batch: its records end where they cannot be read.
    pub fn salvage(header: &BatchHeader, batch: &Bytes) -> Result<Inflation, CompressionError> {
        Ok(Inflation { salvage: true, ..Inflation::new(header, batch)? })
    }

    /// See [`Inflation::salvage`].
    pub fn is_salvage(&self) -> bool {
        self.salvage
    }

    /// Goes on until `budget`, which counts inflated bytes, was spent. The records at the end.
    pub fn step(&mut self, budget: &mut usize) -> Result<Option<Payload>, CompressionError> {
        let Inflation { inspection, plain, inflated, count, salvage } = self;
        let is_plain = plain.is_some();
        let take = |piece: &[u8]| {
            if is_plain {
                return 0;
            }
            if inflated.len() < LARGE && inflated.len() + piece.len() >= LARGE {
                // Room that is not used costs nothing, and to move so much later is a long turn.
                inflated.reserve_exact(INFLATED_MAX + piece.len() - inflated.len());
            }
            inflated.extend_from_slice(piece);
            0
        };
        match inspection.step_into(budget, |_| ControlFlow::Continue(()), take) {
            Ok(false) => return Ok(None),
            Err(error) if !*salvage => return Err(error),
            Ok(true) | Err(_) => {}
        }
        let bytes = plain.take().unwrap_or_else(|| std::mem::take(inflated).into());
        Ok(Some(Payload { bytes, count: *count }))
    }

    /// Inflates in one go.
    pub fn run(mut self) -> Result<Payload, CompressionError> {
        loop {
            if let Some(payload) = self.step(&mut usize::MAX.clone())? {
                return Ok(payload);
            }
        }
    }
}

/// How the transaction ended, by the key of the first record of a control batch.
pub fn marker(payload: &Payload) -> Marker {
    let first = payload.records().next().and_then(|record| record.key);
    match first.and_then(|key| Some([*key.get(2)?, *key.get(3)?])) {
        Some([0, 0]) => Marker::Abort,
        Some([0, 1]) => Marker::Commit,
        _ => Marker::Other,
    }
}

/// Bytes that are compressed between two looks at the budget.
const COMPRESS_STEP: usize = 16 << 10;
/// The same of bytes that are only copied.
const COPY_STEP: usize = 64 << 10;
/// What the choice of a record costs, in inflated bytes: a look-up of its key.
const CHOICE_COST: usize = 128;

/// Makes a whole batch without the records that are not wanted, in steps: Kafka's
/// `MemoryRecords.filterTo` for one batch.
pub struct Filtering<'a> {
    header: &'a BatchHeader,
    batch: &'a [u8],
    payload: &'a Payload,
    retention: Retention,
    stage: Stage,
    /// Whether each record stays.
    kept: Vec<bool>,
    tombstones: bool,
}

enum Stage {
    Choosing(Cursor),
    Writing(Box<Writing>),
    Checksum { out: Vec<u8>, crc: PartialCrc },
}

/// The records that stay, on their way into a new payload.
struct Writing {
    cursor: Cursor,
    /// Records gone by.
    passed: usize,
    /// Bytes of the current record's tail that are written; none: its front is not.
    written: Option<usize>,
    compressor: Compressor,
    horizon: bool,
    base: Option<i64>,
    largest: i64,
}

impl<'a> Filtering<'a> {
    /// Of the whole batch `batch` with these records.
    pub fn new(header: &'a BatchHeader, batch: &'a [u8], payload: &'a Payload, retention: Retention) -> Filtering<'a> {
        let stage = Stage::Choosing(payload.start());
        Filtering { header, batch, payload, retention, stage, kept: Vec::new(), tombstones: false }
    }

    /// Goes on until `budget`, which counts inflated bytes, was spent: what is left of the batch, at
    /// the end. `keep` is asked about each record once.
    pub fn step(&mut self, budget: &mut usize, keep: &mut impl FnMut(Offset, &Record<'_>) -> bool) -> Option<Filtered> {
        while *budget > 0 {
            let done = match &mut self.stage {
                Stage::Choosing(_) => self.choose(budget, keep),
                Stage::Writing(_) => self.write(budget),
                Stage::Checksum { out, crc } => crc.step(out, budget).map(|crc| {
                    out[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
                    Filtered::Rewritten(std::mem::take(out))
                }),
            };
            if done.is_some() {
                return done;
            }
        }
        None
    }

    fn choose(&mut self, budget: &mut usize, keep: &mut impl FnMut(Offset, &Record<'_>) -> bool) -> Option<Filtered> {
        let Stage::Choosing(cursor) = &mut self.stage else { return None };
        let (header, payload) = (self.header, self.payload);
        while !self.retention.discard {
            if *budget == 0 {
                return None;
            }
            let Some(record) = payload.next(cursor) else { break };
            let keep = keep(header.base_offset.wrapping_add(record.offset_delta.into()), &record);
            self.tombstones |= keep && record.value.is_none();
            self.kept.push(keep);
            *budget = budget.saturating_sub(CHOICE_COST);
        }
        self.chosen()
    }

    /// All records are chosen: the batch if nothing is to be written, or none.
    fn chosen(&mut self) -> Option<Filtered> {
        let (header, retention) = (self.header, &self.retention);
        let left = self.kept.iter().filter(|keep| **keep).count();
        if left == 0 {
            return match (retention.keep_empty, header.records_count) {
                (false, _) => Some(Filtered::Gone),
                (true, 0) => Some(Filtered::Whole),
                (true, _) => {
                    let attributes = header.attributes & !(COMPRESSION_MASK | DELETE_HORIZON_FLAG);
                    self.assemble(self.batch[..HEADER_LEN].to_vec(), attributes, NO_TIMESTAMP, header.max_timestamp, 0);
                    None
                }
            };
        }
        let horizon = (self.tombstones || retention.hollow_marker) && !header.has_delete_horizon();
        if left == self.kept.len() && !horizon {
            return Some(Filtered::Whole);
        }
        let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
        let compression = header.compression().unwrap_or_default();
        self.stage = Stage::Writing(Box::new(Writing {
            cursor: self.payload.start(),
            passed: 0,
            written: None,
            compressor: Compressor::new(compression, self.batch[..HEADER_LEN].to_vec()),
            horizon,
            base: horizon.then_some(retention.horizon_ms).or(header.has_delete_horizon().then_some(header.base_timestamp)),
            largest: if stamped { header.max_timestamp } else { NO_TIMESTAMP },
        }));
        None
    }

    fn write(&mut self, budget: &mut usize) -> Option<Filtered> {
        let Stage::Writing(writing) = &mut self.stage else { return None };
        let header = self.header;
        let weight = header.compression().unwrap_or_default().compressing_weight();
        while *budget > 0 {
            let mut behind = writing.cursor;
            let Some(record) = self.payload.next(&mut behind) else {
                self.written();
                return None;
            };
            let whole = !self.kept[writing.passed] || writing.record(header, &record, weight, budget);
            if whole {
                (writing.cursor, writing.written) = (behind, None);
                writing.passed += 1;
                *budget = budget.saturating_sub(RECORD_COST);
            }
        }
        None
    }

    /// All records are written.
    fn written(&mut self) {
        let Stage::Writing(writing) = std::mem::replace(&mut self.stage, Stage::Choosing(self.payload.start())) else { return };
        let Writing { compressor, horizon, base, largest, .. } = *writing;
        let attributes = self.header.attributes | if horizon { DELETE_HORIZON_FLAG } else { 0 };
        let count = self.kept.iter().filter(|keep| **keep).count();
        self.assemble(compressor.finish(), attributes, base.unwrap_or(NO_TIMESTAMP), largest, count as i32);
    }

    /// Sets what has changed in the header, but for the checksum, which comes next.
    fn assemble(&mut self, mut out: Vec<u8>, attributes: i16, base_timestamp: i64, max_timestamp: i64, count: i32) {
        let length = (out.len() - LOG_OVERHEAD) as i32;
        out[BATCH_LENGTH..PARTITION_LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
        out[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
        out[BASE_TIMESTAMP..MAX_TIMESTAMP].copy_from_slice(&base_timestamp.to_be_bytes());
        out[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&max_timestamp.to_be_bytes());
        out[RECORDS_COUNT..HEADER_LEN].copy_from_slice(&count.to_be_bytes());
        self.stage = Stage::Checksum { out, crc: PartialCrc::default() };
    }
}

impl Writing {
    /// Writes more of a record; true at its end.
    fn record(&mut self, header: &BatchHeader, record: &Record<'_>, weight: usize, budget: &mut usize) -> bool {
        let timestamp = match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => header.base_timestamp.wrapping_add(record.timestamp_delta),
        };
        let base = *self.base.get_or_insert(timestamp);
        self.largest = self.largest.max(timestamp);
        let (front, tail) = record.with_time(timestamp.wrapping_sub(base));
        let from = self.written.unwrap_or_else(|| {
            self.compressor.write(front.as_ref());
            0
        });
        let piece = (tail.len() - from).min(if weight == 0 { COPY_STEP } else { COMPRESS_STEP });
        self.compressor.write(&tail[from..from + piece]);
        self.written = Some(from + piece);
        *budget = budget.saturating_sub(piece * weight + piece / PLAIN_CHEAPER);
        from + piece == tail.len()
    }
}

/// As [`Filtering`], in one go.
#[cfg(test)]
pub fn filter_batch(
    header: &BatchHeader,
    batch: &[u8],
    payload: &Payload,
    retention: &Retention,
    mut keep: impl FnMut(Offset, &Record<'_>) -> bool,
) -> Filtered {
    let mut filtering = Filtering::new(header, batch, payload, *retention);
    loop {
        // Any length of the steps leads to the same.
        if let Some(filtered) = filtering.step(&mut 1, &mut keep) {
            return filtered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = Vec<(Offset, i64, Option<Vec<u8>>)>;

    fn read(batch: &[u8]) -> (BatchHeader, Seen) {
        assert!(crc_ok(batch));
        let header = BatchHeader::parse(batch).unwrap();
        let mut seen = Vec::new();
        for record in payload(&header, batch).records() {
            let offset = header.base_offset + i64::from(record.offset_delta);
            let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
            let timestamp = if stamped { header.max_timestamp } else { header.base_timestamp + record.timestamp_delta };
            seen.push((offset, timestamp, record.key.map(Vec::from)));
        }
        (header, seen)
    }

    fn payload(header: &BatchHeader, batch: &[u8]) -> Payload {
        Inflation::new(header, &Bytes::copy_from_slice(batch)).and_then(Inflation::run).unwrap()
    }

    fn filter(header: &BatchHeader, batch: &[u8], retention: &Retention, keep: impl FnMut(Offset, &Record<'_>) -> bool) -> Filtered {
        filter_batch(header, batch, &payload(header, batch), retention, keep)
    }

    fn rewritten(batch: &[u8], retention: Retention, keep: &[Offset]) -> Vec<u8> {
        let header = BatchHeader::parse(batch).unwrap();
        match filter(&header, batch, &retention, |offset, _| keep.contains(&offset)) {
            Filtered::Rewritten(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn sample(compression: Compression) -> Vec<u8> {
        let spec = BatchSpec {
            base_offset: 100,
            leader_epoch: 3,
            compression,
            producer_id: 7,
            producer_epoch: 1,
            base_sequence: 40,
            ..BatchSpec::default()
        };
        build_batch(
            &spec,
            &[(Some(b"a"), Some(b"1"), 5000), (Some(b"b"), None, 4000), (Some(b"c"), Some(b"3"), 7000), (Some(b"d"), Some(b"4"), 6000)],
        )
    }

    #[test]
    fn what_stays_keeps_its_offset_time_and_sequence() {
        for compression in Compression::ALL {
            let batch = sample(compression);
            let (header, seen) = read(&rewritten(&batch, Retention::default(), &[102, 103]));
            assert_eq!(seen, [(102, 7000, Some(b"c".to_vec())), (103, 6000, Some(b"d".to_vec()))]);
            assert_eq!((header.base_offset, header.last_offset(), header.records_count), (100, 103, 2));
            assert_eq!((header.base_timestamp, header.max_timestamp, header.has_delete_horizon()), (7000, 7000, false));
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence, header.partition_leader_epoch), (7, 1, 40, 3));
            assert_eq!(header.compression(), Ok(compression));
        }
    }

    #[test]
    fn tombstones_get_their_horizon_once() {
        let batch = sample(Compression::Lz4);
        let retention = Retention { horizon_ms: 1_000_000, ..Retention::default() };
        let first = rewritten(&batch, retention, &[100, 101, 102, 103]);
        let (header, seen) = read(&first);
        assert!(header.has_delete_horizon());
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_000_000, 7000));
        assert_eq!(seen.iter().map(|r| r.1).collect::<Vec<_>>(), [5000, 4000, 7000, 6000]);
        let later = Retention { horizon_ms: 2_000_000, ..Retention::default() };
        assert_eq!(filter(&header, &first, &later, |_, _| true), Filtered::Whole);
        let (header, seen) = read(&rewritten(&first, later, &[101, 103]));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_000_000, 6000));
        assert_eq!(seen.iter().map(|r| r.1).collect::<Vec<_>>(), [4000, 6000]);
    }

    #[test]
    fn an_empty_batch_goes_or_leaves_its_header() {
        let batch = sample(Compression::Zstd);
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(filter(&header, &batch, &Retention::default(), |_, _| false), Filtered::Gone);
        for discard in [false, true] {
            let retention = Retention { keep_empty: true, discard, ..Retention::default() };
            let empty = rewritten(&batch, retention, &[]);
            assert_eq!(empty.len(), HEADER_LEN);
            let (header, seen) = read(&empty);
            assert!(seen.is_empty());
            assert_eq!((header.base_offset, header.last_offset(), header.last_sequence()), (100, 103, 43));
            assert_eq!((header.compression(), header.base_timestamp, header.max_timestamp), (Ok(Compression::None), -1, 7000));
            assert_eq!(filter(&header, &empty, &retention, |_, _| true), Filtered::Whole);
            assert_eq!(filter(&header, &empty, &Retention::default(), |_, _| true), Filtered::Gone);
        }
    }

    #[test]
    fn append_times_and_markers() {
        let mut batch = sample(Compression::None);
        Stamp::LogAppendTime(9000).apply(&mut batch);
        let (header, seen) = read(&rewritten(&batch, Retention { horizon_ms: 50_000, ..Retention::default() }, &[101, 102]));
        assert_eq!((header.base_timestamp, header.max_timestamp, seen[0].1), (50_000, 9000, 9000));
        let control = BatchSpec { control: true, transactional: true, producer_id: 1, producer_epoch: 0, ..BatchSpec::default() };
        for (key, expected) in
            [(&[0, 0, 0, 0][..], Marker::Abort), (&[0, 0, 0, 1], Marker::Commit), (&[0, 0, 0, 9], Marker::Other), (&[0], Marker::Other)]
        {
            let batch = build_batch(&control, &[(Some(key), Some(b"\0\0\0\0\0\0"), 1)]);
            let header = BatchHeader::parse(&batch).unwrap();
            assert_eq!(marker(&payload(&header, &batch)), expected);
            let (header, _) = read(&rewritten(&batch, Retention { hollow_marker: true, horizon_ms: 77, ..Retention::default() }, &[0]));
            assert!(header.is_control() && header.has_delete_horizon() && header.base_timestamp == 77);
        }
    }

    #[test]
    fn a_large_batch_is_filtered_in_steps() {
        let value = vec![7; 1 << 20];
        for compression in Compression::ALL {
            let records = [1, 2, 3, 4].map(|time| (Some(&b"k"[..]), Some(&value[..]), time));
            let batch = Bytes::from(build_batch(&BatchSpec { compression, ..BatchSpec::default() }, &records));
            let header = BatchHeader::parse(&batch).unwrap();
            let mut inflation = Inflation::new(&header, &batch).unwrap();
            let mut steps = 0;
            let payload = loop {
                steps += 1;
                if let Some(payload) = inflation.step(&mut (64 << 10)).unwrap() {
                    break payload;
                }
            };
            assert!(steps >= if compression == Compression::None { 4 } else { 64 }, "{}: {steps}", compression.name());
            let mut filtering = Filtering::new(&header, &batch, &payload, Retention::default());
            let mut steps = 0;
            let filtered = loop {
                steps += 1;
                if let Some(filtered) = filtering.step(&mut (64 << 10), &mut |offset, _| offset != 1) {
                    break filtered;
                }
            };
            assert!(steps >= if compression == Compression::None { 3 } else { 192 }, "{}: {steps}", compression.name());
            let Filtered::Rewritten(bytes) = filtered else { panic!("{filtered:?}") };
            assert_eq!(read(&bytes).1.iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), [0, 2, 3]);
        }
    }
}
