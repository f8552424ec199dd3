//! From the batches of a partition's log back to the records in them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::record::{Decoded, Record};
use crate::base::ids::{Offset, ProducerId};
use crate::wire::batch::{BatchHeader, BatchSpec, Batches, HEADER_LEN, KeyValue, build_batch};
use crate::wire::compression::{self, Compression, INFLATED_MAX};
use crate::wire::record::Records;

/// Type of a transaction marker that commits.
const COMMIT_MARKER: [u8; 2] = [0, 1];

/// One batch with these records, for offset 0.
pub fn encode(records: &[Record], now_ms: i64) -> Vec<u8> {
    let pairs: Vec<_> = records.iter().map(Record::encode).collect();
    let records: Vec<KeyValue<'_>> = pairs.iter().map(|(key, value)| (Some(&key[..]), value.as_deref(), now_ms)).collect();
    build_batch(&BatchSpec::default(), &records)
}

/// Reads a log from its beginning. Offsets that were committed in a transaction count from its marker on, if that commits.
#[derive(Default)]
pub struct Replay {
    pending: BTreeMap<ProducerId, Vec<Record>>,
    /// Types of records that this broker does not know and has passed over.
    pub unknown: BTreeSet<i16>,
}

impl Replay {
    /// The records of back-to-back batches that are to be applied, in order; then the offset behind the last batch. The error says what
    /// cannot be read, and where.
    pub fn batches(&mut self, bytes: &[u8], mut apply: impl FnMut(&Record)) -> Result<Offset, String> {
        let mut next = -1;
        for batch in Batches::new(bytes) {
            let (header, batch) = batch.map_err(|e| e.to_string())?;
            self.batch(&header, batch, &mut apply).map_err(|e| format!("batch at offset {}: {e}", header.base_offset))?;
            next = header.next_offset();
        }
        Ok(next)
    }

    fn batch(&mut self, header: &BatchHeader, batch: &[u8], apply: &mut impl FnMut(&Record)) -> Result<(), String> {
        let payload = match header.compression().map_err(|e| e.to_string())? {
            Compression::None => Cow::Borrowed(&batch[HEADER_LEN..]),
            codec => Cow::Owned(compression::decompress(codec, &batch[HEADER_LEN..], INFLATED_MAX).map_err(|e| e.to_string())?),
        };
        for record in Records::new(&payload, header.records_count) {
            let record = record.map_err(|e| e.to_string())?;
            if header.is_control() {
                let commits = record.key.is_some_and(|key| key.get(2..4) == Some(&COMMIT_MARKER));
                let done = self.pending.remove(&header.producer_id).unwrap_or_default();
                done.iter().filter(|_| commits).for_each(&mut *apply);
                continue;
            }
            match Record::decode(record.key, record.value) {
                Ok(Decoded::Known(record)) if header.is_transactional() => self.pending.entry(header.producer_id).or_default().push(record),
                Ok(Decoded::Known(record)) => apply(&record),
                Ok(Decoded::Unknown(kind)) => _ = self.unknown.insert(kind),
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::TimestampType;

    fn offset(offset: i64) -> Record {
        let value = super::super::offsets::CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: "".into(),
            commit_ms: 1,
            expire_ms: None,
            topic_id: Default::default(),
        };
        Record::Offset { group: "g".into(), topic: "t".into(), partition: 0, value: Some(value) }
    }

    fn batch(spec: BatchSpec, key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
        build_batch(&BatchSpec { timestamp_type: TimestampType::CreateTime, ..spec }, &[(Some(key), value, 1)])
    }

    #[test]
    fn transactions_count_when_they_commit() {
        let mut log = encode(&[offset(1)], 5);
        for (producer_id, n, marker) in [(7, 2, 0u8), (8, 3, 1)] {
            let (key, value) = offset(n).encode();
            let spec = BatchSpec { transactional: true, producer_id, producer_epoch: 0, base_sequence: 0, ..BatchSpec::default() };
            log.extend(batch(spec, &key, value.as_deref()));
            log.extend(batch(BatchSpec { control: true, ..spec }, &[0, 0, 0, marker], Some(&[0; 6])));
        }
        let spec = BatchSpec { compression: Compression::Zstd, ..BatchSpec::default() };
        log.extend(batch(spec, &[0, 99], None));
        let mut read = Vec::new();
        Replay::default().batches(&log, |record| read.push(record.clone())).unwrap();
        assert_eq!(read, [offset(1), offset(3)]);
        assert!(Replay::default().batches(&log[..70], |_| ()).is_err());
    }
}
