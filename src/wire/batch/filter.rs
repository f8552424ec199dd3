//! What compaction needs of a batch: its keys, and the batch without the records that are to go.

use std::borrow::Cow;
use std::io::BufRead;

use super::super::compression::{Compression, CompressionError, INFLATED_MAX, compress, decoder, describe};
use super::super::record::{Record, Records};
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
pub struct Payload<'a> {
    bytes: Cow<'a, [u8]>,
    count: i32,
}

impl Payload<'_> {
    /// Its records.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        // Checked when it was made.
        Records::new(&self.bytes, self.count).map_while(Result::ok)
    }
}

/// Inflates a batch in steps, up to [`INFLATED_MAX`].
pub struct Inflation<'a> {
    input: Option<Box<dyn BufRead + 'a>>,
    bytes: Cow<'a, [u8]>,
    count: i32,
}

impl<'a> Inflation<'a> {
    /// Of the whole batch `batch`.
    pub fn new(header: &BatchHeader, batch: &'a [u8]) -> Result<Inflation<'a>, CompressionError> {
        let compression = header.compression().map_err(CompressionError::Batch)?;
        let payload = batch.get(HEADER_LEN..header.total_len());
        let payload = payload.ok_or(CompressionError::Batch(BatchError::Truncated))?;
        let count = header.records_count;
        let inflation = |input, bytes| Inflation { input, bytes: Cow::Borrowed(bytes), count };
        match compression {
            // Kafka writes no payload where there are no records, whatever the codec.
            _ if count == 0 => Ok(inflation(None, &[])),
            Compression::None => Ok(inflation(None, payload)),
            _ => {
                let decoder = decoder(compression, payload, INFLATED_MAX);
                Ok(inflation(Some(decoder.map_err(|e| describe(e, INFLATED_MAX))?), &[]))
            }
        }
    }

    /// Goes on until `budget` inflated bytes were spent; true at the end.
    pub fn step(&mut self, budget: &mut usize) -> Result<bool, CompressionError> {
        let Some(input) = &mut self.input else { return Ok(true) };
        while *budget > 0 {
            let piece = input.fill_buf().map_err(|error| describe(error, INFLATED_MAX))?;
            if piece.is_empty() {
                return Ok(true);
            }
            let len = piece.len();
            self.bytes.to_mut().extend_from_slice(piece);
            input.consume(len);
            *budget = budget.saturating_sub(len);
        }
        Ok(false)
    }

    /// The records, which are all checked, after the last step.
    pub fn finish(self) -> Result<Payload<'a>, CompressionError> {
        for record in Records::new(&self.bytes, self.count) {
            record?;
        }
        Ok(Payload { bytes: self.bytes, count: self.count })
    }

    /// Inflates in one go.
    pub fn run(mut self) -> Result<Payload<'a>, CompressionError> {
        self.step(&mut usize::MAX.clone())?;
        self.finish()
    }
}

/// How the transaction ended, by the key of the first record of a control batch.
pub fn marker(payload: &Payload<'_>) -> Marker {
    let first = payload.records().next().and_then(|record| record.key);
    match first.and_then(|key| Some([*key.get(2)?, *key.get(3)?])) {
        Some([0, 0]) => Marker::Abort,
        Some([0, 1]) => Marker::Commit,
        _ => Marker::Other,
    }
}

/// A whole batch without the records that `keep` does not want: Kafka's `MemoryRecords.filterTo` for one batch.
pub fn filter_batch(
    header: &BatchHeader,
    batch: &[u8],
    payload: &Payload<'_>,
    retention: &Retention,
    mut keep: impl FnMut(Offset, &Record<'_>) -> bool,
) -> Filtered {
    let mut kept = Vec::new();
    let mut tombstones = false;
    for record in payload.records().take_while(|_| !retention.discard) {
        let keep = keep(header.base_offset.wrapping_add(record.offset_delta.into()), &record);
        tombstones |= keep && record.value.is_none();
        kept.push(keep);
    }
    let left = kept.iter().filter(|keep| **keep).count();
    if left == 0 {
        return match (retention.keep_empty, header.records_count) {
            (false, _) => Filtered::Gone,
            (true, 0) => Filtered::Whole,
            (true, _) => Filtered::Rewritten(without_records(header, batch)),
        };
    }
    let horizon = ((tombstones || retention.hollow_marker) && !header.has_delete_horizon()).then_some(retention.horizon_ms);
    if left == kept.len() && horizon.is_none() {
        return Filtered::Whole;
    }
    let stays = payload.records().zip(&kept).filter_map(|(record, keep)| keep.then_some(record));
    Filtered::Rewritten(rebuild(header, batch, horizon, left, stays))
}

fn rebuild<'a>(
    header: &BatchHeader,
    batch: &[u8],
    horizon: Option<i64>,
    count: usize,
    records: impl Iterator<Item = Record<'a>>,
) -> Vec<u8> {
    let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
    let timestamp = |record: &Record<'_>| match stamped {
        true => header.max_timestamp,
        false => header.base_timestamp.wrapping_add(record.timestamp_delta),
    };
    let mut base = horizon.or(header.has_delete_horizon().then_some(header.base_timestamp));
    let mut largest = if stamped { header.max_timestamp } else { NO_TIMESTAMP };
    let mut payload = Vec::new();
    for record in records {
        let timestamp = timestamp(&record);
        let base = *base.get_or_insert(timestamp);
        largest = largest.max(timestamp);
        record.put(&mut payload, timestamp.wrapping_sub(base));
    }
    let compression = header.compression().unwrap_or_default();
    if compression != Compression::None {
        payload = compress(compression, &payload);
    }
    let flag = if horizon.is_some() { DELETE_HORIZON_FLAG } else { 0 };
    assemble(batch, header.attributes | flag, base.unwrap_or(NO_TIMESTAMP), largest, count as i32, &payload)
}

/// The bare header that tells offsets, producer and sequence, as Kafka writes it.
fn without_records(header: &BatchHeader, batch: &[u8]) -> Vec<u8> {
    let attributes = header.attributes & !(COMPRESSION_MASK | DELETE_HORIZON_FLAG);
    assemble(batch, attributes, NO_TIMESTAMP, header.max_timestamp, 0, &[])
}

fn assemble(original: &[u8], attributes: i16, base_timestamp: i64, max_timestamp: i64, count: i32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&original[..HEADER_LEN]);
    out.extend_from_slice(payload);
    let length = (out.len() - LOG_OVERHEAD) as i32;
    out[BATCH_LENGTH..PARTITION_LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
    out[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
    out[BASE_TIMESTAMP..MAX_TIMESTAMP].copy_from_slice(&base_timestamp.to_be_bytes());
    out[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&max_timestamp.to_be_bytes());
    out[RECORDS_COUNT..HEADER_LEN].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&out[ATTRIBUTES..]);
    out[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    out
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

    fn payload<'a>(header: &BatchHeader, batch: &'a [u8]) -> Payload<'a> {
        Inflation::new(header, batch).and_then(Inflation::run).unwrap()
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
}
