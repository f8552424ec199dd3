//! Records to batches of a partition's log, and back.
//!
//! What cannot be read costs as little as possible: a value its group, which is fenced; a key its
//! record; a batch its records. Each is told with its place, and stays in the log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::record::{Decoded, Record};
use crate::base::ids::{Offset, ProducerId};
use crate::wire;
use crate::wire::batch::{BatchError, BatchHeader, BatchSpec, Cursor, Inflation, KeyValue, PartialCrc, Payload, build_batch};

/// Type of a transaction marker that commits.
const COMMIT_MARKER: [u8; 2] = [0, 1];
/// Faults that are told one by one.
const FAULTS: usize = 100;
/// Bytes of a key that are shown.
const KEY_SHOWN: usize = 64;

/// One batch with these records, for offset 0.
pub fn encode(records: &[Record], now_ms: i64) -> Vec<u8> {
    let pairs: Vec<_> = records.iter().map(Record::encode).collect();
    let records: Vec<KeyValue<'_>> = pairs.iter().map(|(key, value)| (Some(&key[..]), value.as_deref(), now_ms)).collect();
    build_batch(&BatchSpec::default(), &records)
}

/// A decision's records as batches to append: one, or where they are `divisible` as many as have
/// `max_bytes` at most. None: they are not divisible, and too large. A single record is never
/// divided: it may have more bytes, if the log takes it.
pub fn batches(records: &[Record], divisible: bool, max_bytes: usize, now_ms: i64) -> Option<Vec<Vec<u8>>> {
    if records.is_empty() {
        return Some(Vec::new());
    }
    let batch = encode(records, now_ms);
    if batch.len() <= max_bytes || records.len() == 1 {
        return Some(vec![batch]);
    }
    if !divisible {
        return None;
    }
    let (front, back) = records.split_at(records.len() / 2);
    let mut all = batches(front, true, max_bytes, now_ms)?;
    all.extend(batches(back, true, max_bytes, now_ms)?);
    Some(all)
}

/// What a log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// A record.
    Record(Record),
    /// A record whose value cannot be read; the tombstone of its key.
    Unreadable(Record),
}

/// What the read and the application of a record cost of a turn's budget, in inflated bytes.
const RECORD_COST: usize = 1 << 10;

/// Reads a log from its beginning, in steps. Offsets that were committed in a transaction count from its marker on, if that commits.
#[derive(Default)]
pub struct Replay {
    pending: BTreeMap<ProducerId, Vec<Replayed>>,
    /// Types of records that this broker does not know and has passed over.
    pub unknown: BTreeSet<i16>,
    faults: Vec<String>,
    told: usize,
    /// Batches that are still to be read.
    rest: Bytes,
    reading: Option<Reading>,
    /// Offset behind the last batch that was read.
    next: Offset,
}

/// A batch that is being read.
struct Reading {
    header: BatchHeader,
    batch: Bytes,
    stage: Stage,
}

enum Stage {
    Checksum(PartialCrc),
    Inflating(Inflation),
    Records {
        payload: Payload,
        at: Cursor,
        /// The batch is damaged: its records cost their groups.
        damaged: bool,
    },
}

impl Replay {
    /// Takes back-to-back batches, for [`Replay::step`].
    pub fn feed(&mut self, batches: Bytes) {
        self.rest = batches;
    }

    /// Goes on until `budget`, which counts inflated bytes, was spent; `apply` sees what the batches
    /// hold, in order. At the end of them the offset behind the last one. The error says what is no
    /// batch.
    pub fn step(&mut self, budget: &mut usize, apply: &mut impl FnMut(&Replayed)) -> Result<Option<Offset>, String> {
        while *budget > 0 {
            if let Some(reading) = self.reading.take() {
                self.reading = self.read(reading, budget, apply);
                continue;
            }
            if self.rest.is_empty() {
                return Ok(Some(self.next));
            }
            let header = BatchHeader::parse(&self.rest).map_err(|e| e.to_string())?;
            if header.total_len() > self.rest.len() {
                return Err(BatchError::Truncated.to_string());
            }
            let batch = self.rest.split_to(header.total_len());
            self.reading = Some(Reading { header, batch, stage: Stage::Checksum(PartialCrc::default()) });
            *budget = budget.saturating_sub(RECORD_COST);
        }
        Ok(None)
    }

    /// Reads on in a batch; gives it back if there is more.
    fn read(&mut self, reading: Reading, budget: &mut usize, apply: &mut impl FnMut(&Replayed)) -> Option<Reading> {
        let Reading { header, batch, stage } = reading;
        let step = match stage {
            Stage::Checksum(mut crc) => match crc.step(&batch, budget) {
                None => Ok(Some(Stage::Checksum(crc))),
                Some(crc) if crc != header.crc => Err("its checksum is wrong".to_owned()),
                Some(_) => Inflation::new(&header, &batch).map(|new| Some(Stage::Inflating(new))).map_err(|e| e.to_string()),
            },
            // Nothing is applied before the last record is found whole.
            Stage::Inflating(mut inflation) => match inflation.step(budget) {
                Ok(None) => Ok(Some(Stage::Inflating(inflation))),
                Ok(Some(payload)) => {
                    let (at, damaged) = (payload.start(), inflation.is_salvage());
                    Ok(Some(Stage::Records { payload, at, damaged }))
                }
                Err(error) => Err(error.to_string()),
            },
            Stage::Records { payload, at, damaged } => Ok(self.records(&header, payload, at, damaged, budget, apply)),
        };
        match step {
            Ok(stage) => {
                self.next = header.next_offset();
                stage.map(|stage| Reading { header, batch, stage })
            }
            Err(reason) => {
                self.damaged(&header, Some(batch), &reason, apply);
                self.next = header.next_offset();
                self.reading.take()
            }
        }
    }

    /// Applies more records of a batch; nothing at their end.
    fn records(
        &mut self,
        header: &BatchHeader,
        payload: Payload,
        mut at: Cursor,
        damaged: bool,
        budget: &mut usize,
        apply: &mut impl FnMut(&Replayed),
    ) -> Option<Stage> {
        while *budget > 0 {
            let record = payload.next(&mut at)?;
            *budget = budget.saturating_sub(RECORD_COST);
            match damaged {
                true => {
                    if let Some(tombstone) = record.key.and_then(tombstone) {
                        self.lost(tombstone, apply);
                    }
                }
                false => self.take_in(header, &record, apply),
            }
        }
        Some(Stage::Records { payload, at, damaged })
    }

    fn take_in(&mut self, header: &BatchHeader, record: &wire::record::Record<'_>, apply: &mut impl FnMut(&Replayed)) {
        if header.is_control() {
            let commits = record.key.is_some_and(|key| key.get(2..4) == Some(&COMMIT_MARKER));
            let done = self.pending.remove(&header.producer_id).unwrap_or_default();
            return done.iter().filter(|_| commits).for_each(apply);
        }
        let offset = header.base_offset.wrapping_add(record.offset_delta.into());
        let Some(replayed) = self.record(offset, record.key, record.value) else { return };
        if header.is_transactional() {
            self.pending.entry(header.producer_id).or_default().push(replayed);
        } else {
            apply(&replayed);
        }
    }

    /// Takes note of a batch that cannot be read. Groups whose keys are still found in it, by the
    /// next steps, are fenced: what the log has of them is older.
    pub fn damaged(&mut self, header: &BatchHeader, batch: Option<Bytes>, reason: &str, apply: &mut impl FnMut(&Replayed)) {
        let (first, last) = (header.base_offset, header.last_offset());
        self.fault(format!(
            "the batch of offsets {first} to {last} cannot be read and is passed over, records of any group may be lost: {reason}"
        ));
        if header.is_control() {
            // Whether these were committed nobody knows any more.
            let pending = self.pending.remove(&header.producer_id).unwrap_or_default();
            let tombstones = pending.into_iter().filter_map(|replayed| match replayed {
                Replayed::Record(record) => tombstone(&record.encode().0),
                Replayed::Unreadable(tombstone) => Some(tombstone),
            });
            return tombstones.for_each(|tombstone| self.lost(tombstone, apply));
        }
        let Some(batch) = batch else { return };
        if let Ok(inflation) = Inflation::salvage(header, &batch) {
            self.reading = Some(Reading { header: *header, batch, stage: Stage::Inflating(inflation) });
        }
    }

    fn lost(&mut self, tombstone: Record, apply: &mut impl FnMut(&Replayed)) {
        self.fault(format!("a record of the group {} was lost with it: the group is not served until it is deleted", tombstone.group()));
        apply(&Replayed::Unreadable(tombstone));
    }

    /// Takes note of a part of the log that cannot be read.
    pub fn fault(&mut self, text: String) {
        self.told += 1;
        match self.told {
            ..=FAULTS => self.faults.push(text),
            told if told == FAULTS + 1 => self.faults.push("more cannot be read: not told one by one".into()),
            _ => {}
        }
    }

    /// What could not be read since the last call.
    pub fn take_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    fn record(&mut self, offset: Offset, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<Replayed> {
        let error = match Record::decode(key, value) {
            Ok(Decoded::Known(record)) => return Some(Replayed::Record(record)),
            Ok(Decoded::Unknown(kind)) => {
                self.unknown.insert(kind);
                return None;
            }
            Err(error) => error,
        };
        let shown = shown(key);
        let Some(tombstone) = key.and_then(tombstone) else {
            self.fault(format!("the record at offset {offset} is passed over, its key {shown} cannot be read: {error}"));
            return None;
        };
        let group = tombstone.group();
        self.fault(format!(
            "the record at offset {offset} with the key {shown} cannot be read, the group {group} is not served until it is deleted: {error}"
        ));
        Some(Replayed::Unreadable(tombstone))
    }
}

/// The tombstone of a key; none for one that cannot be read.
fn tombstone(key: &[u8]) -> Option<Record> {
    match Record::decode(Some(key), None) {
        Ok(Decoded::Known(tombstone)) => Some(tombstone),
        _ => None,
    }
}

/// A key in hexadecimal, cut.
fn shown(key: Option<&[u8]>) -> String {
    let Some(key) = key else { return "null".into() };
    let hex: String = key.iter().take(KEY_SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if key.len() > KEY_SHOWN { hex + "..." } else { hex }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::{HEADER_LEN, TimestampType, patch};
    use crate::wire::compression::Compression;

    fn offset(group: &str, offset: i64) -> Record {
        let value = super::super::offsets::CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: "".into(),
            commit_ms: 1,
            expire_ms: None,
            topic_id: Default::default(),
        };
        Record::Offset { group: group.into(), topic: "t".into(), partition: 0, value: Some(value) }
    }

    fn gone(group: &str) -> Record {
        Record::Offset { group: group.into(), topic: "t".into(), partition: 0, value: None }
    }

    fn batch(spec: BatchSpec, key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
        build_batch(&BatchSpec { timestamp_type: TimestampType::CreateTime, ..spec }, &[(Some(key), value, 1)])
    }

    /// The log, and what was told.
    fn read(log: &[u8]) -> (Vec<Replayed>, Vec<String>) {
        let (read, mut replay) = read_steps(log, 1).unwrap();
        assert_eq!(read_steps(log, usize::MAX).unwrap().0, read);
        (read, replay.take_faults())
    }

    /// In steps that cost about `budget`.
    fn read_steps(log: &[u8], budget: usize) -> Result<(Vec<Replayed>, Replay), String> {
        let (mut read, mut replay) = (Vec::new(), Replay::default());
        replay.feed(Bytes::copy_from_slice(log));
        loop {
            if replay.step(&mut budget.clone(), &mut |replayed| read.push(replayed.clone()))?.is_some() {
                return Ok((read, replay));
            }
        }
    }

    #[test]
    fn transactions_count_when_they_commit() {
        let mut log = encode(&[offset("g", 1)], 5);
        for (producer_id, n, marker) in [(7, 2, 0u8), (8, 3, 1)] {
            let (key, value) = offset("g", n).encode();
            let spec = BatchSpec { transactional: true, producer_id, producer_epoch: 0, base_sequence: 0, ..BatchSpec::default() };
            log.extend(batch(spec, &key, value.as_deref()));
            log.extend(batch(BatchSpec { control: true, ..spec }, &[0, 0, 0, marker], Some(&[0; 6])));
        }
        let spec = BatchSpec { compression: Compression::Zstd, ..BatchSpec::default() };
        log.extend(batch(spec, &[0, 99], None));
        assert_eq!(read(&log), ([1, 3].map(|n| Replayed::Record(offset("g", n))).to_vec(), vec![]));
        assert!(read_steps(&log[..70], 1).is_err());
    }

    #[test]
    fn a_value_that_cannot_be_read_costs_its_group() {
        let mut pairs = [offset("a", 1), offset("b", 2), offset("c", 3)].map(|record| record.encode());
        pairs[1].1 = Some(vec![0, 99, 1]);
        let records: Vec<KeyValue<'_>> = pairs.iter().map(|(key, value)| (Some(&key[..]), value.as_deref(), 1)).collect();
        let mut log = build_batch(&BatchSpec::default(), &records);
        patch(&mut log, 40, 0);
        let (records, told) = read(&log);
        assert_eq!(records, [Replayed::Record(offset("a", 1)), Replayed::Unreadable(gone("b")), Replayed::Record(offset("c", 3))]);
        let key: String = pairs[1].0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("offset 41") && told[0].contains(&key) && told[0].contains("group b"), "{told:?}");
    }

    #[test]
    fn a_key_that_cannot_be_read_costs_its_record() {
        let pairs = [(vec![0, 1, 0, 200], None), offset("a", 1).encode()];
        let records: Vec<KeyValue<'_>> =
            pairs.iter().map(|(key, value)| (Some(&key[..]), value.as_deref(), 1)).chain([(None, None, 1)]).collect();
        let (records, told) = read(&build_batch(&BatchSpec::default(), &records));
        assert_eq!(records, [Replayed::Record(offset("a", 1))]);
        assert!(
            told.len() == 2 && told[0].contains("offset 0") && told[0].contains("000100c8") && told[1].contains("offset 2"),
            "{told:?}"
        );
    }

    #[test]
    fn a_damaged_batch_costs_the_groups_in_it() {
        let (mut damaged, mut cut) = (encode(&[offset("a", 2), offset("b", 2)], 5), encode(&[offset("c", 2)], 5));
        damaged[17] ^= 1;
        // Its checksum is right, its record is not: the length of the record.
        cut[HEADER_LEN] = 0x7e;
        let crc = crc32c::crc32c(&cut[21..]);
        cut[17..21].copy_from_slice(&crc.to_be_bytes());
        patch(&mut damaged, 7, 0);
        let log = [encode(&[offset("a", 1)], 5), damaged, cut, encode(&[offset("d", 1)], 5)].concat();
        let (records, told) = read(&log);
        let unreadable = [gone("a"), gone("b")].map(Replayed::Unreadable);
        assert_eq!(records[0], Replayed::Record(offset("a", 1)));
        assert_eq!(records[1..3], unreadable);
        assert_eq!(records[3..], [Replayed::Record(offset("d", 1))]);
        assert!(told[0].contains("offsets 7 to 8") && told[1].contains("group a") && told[3].contains("offsets 0 to 0"), "{told:?}");
    }

    #[test]
    fn a_batch_that_grows_and_many_records_are_read_in_steps() {
        let steps = |log: &[u8]| {
            let mut replay = Replay::default();
            replay.feed(Bytes::copy_from_slice(log));
            (1..).find(|_| replay.step(&mut (256 << 10), &mut |_| ()).unwrap().is_some()).unwrap()
        };
        let spec = BatchSpec { compression: Compression::Zstd, ..BatchSpec::default() };
        let grows = build_batch(&spec, &[(Some(&[0, 99]), Some(&vec![0; 32 << 20]), 1)]);
        assert!(grows.len() < 8000 && steps(&grows) >= 128);
        let many: Vec<Record> = (0..1000).map(|n| offset("g", n)).collect();
        assert!(steps(&encode(&many, 5)) >= 4);
    }

    #[test]
    fn faults_are_told_within_bounds() {
        let log: Vec<u8> = (0..500).flat_map(|_| batch(BatchSpec::default(), &[0, 1, 0], None)).collect();
        assert_eq!(read(&log).1.len(), FAULTS + 1);
    }

    #[test]
    fn what_is_one_decision_is_one_batch() {
        let records: Vec<Record> = (0..40).map(|n| offset("g", n)).collect();
        let whole = encode(&records, 5).len();
        assert_eq!(batches(&records, false, whole, 5).map(|all| all.len()), Some(1));
        assert_eq!(batches(&records, false, whole - 1, 5), None);
        let parts = batches(&records, true, whole / 3, 5).unwrap();
        assert!(parts.len() > 3 && parts.iter().all(|part| part.len() <= whole / 3));
        let all = parts.concat();
        assert_eq!(read(&all).0, records.iter().cloned().map(Replayed::Record).collect::<Vec<_>>());
        assert_eq!(batches(&records[..1], false, 1, 5).map(|all| all.len()), Some(1));
        assert_eq!(batches(&[], false, 0, 5), Some(vec![]));
    }
}
