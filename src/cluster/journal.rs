//! Metadata records in record batches, as the metadata log holds them.

use super::record::MetadataRecord;
use crate::base::ids::Offset;
use crate::wire::batch::{BatchSpec, Batches, HEADER_LEN, build_batch};
use crate::wire::record::Records;

/// One batch with these records, for offset 0.
pub fn encode(records: &[MetadataRecord], now_ms: i64) -> Vec<u8> {
    let values: Vec<Vec<u8>> = records.iter().map(MetadataRecord::encode).collect();
    let records: Vec<_> = values.iter().map(|value| (None, Some(value.as_slice()), now_ms)).collect();
    build_batch(&BatchSpec::default(), &records)
}

/// Most bytes of records that are put into one batch, if there is more than one record.
const BATCH_BYTES: usize = 1 << 20;
/// What a batch and a record have besides their content, at most.
const OVERHEAD: usize = 64;

/// The records in parts that are each a batch of moderate size.
pub fn split(records: &[MetadataRecord]) -> impl Iterator<Item = &[MetadataRecord]> {
    let mut left = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = left.iter().take_while(|record| {
            bytes += record.room() + OVERHEAD;
            bytes <= BATCH_BYTES
        });
        let count = fits.count().max(1).min(left.len());
        let (part, rest) = left.split_at(count);
        left = rest;
        (count > 0).then_some(part)
    })
}

/// The bytes that these records may take in the log, in batches of [`split`].
pub fn room(records: &[MetadataRecord]) -> usize {
    // A batch may have one record only.
    records.iter().map(|record| record.room() + 2 * OVERHEAD).sum()
}

/// All records of back-to-back batches, with their offsets. The error says what cannot be read, and where.
pub fn decode(bytes: &[u8]) -> Result<Vec<(Offset, MetadataRecord)>, String> {
    let mut out = Vec::new();
    for batch in Batches::new(bytes) {
        let (header, batch) = batch.map_err(|e| e.to_string())?;
        for record in Records::new(&batch[HEADER_LEN..], header.records_count) {
            let record = record.map_err(|e| format!("batch at offset {}: {e}", header.base_offset))?;
            let at = header.base_offset.saturating_add(record.offset_delta.into());
            let value = record.value.ok_or_else(|| format!("record at offset {at} has no value"))?;
            out.push((at, MetadataRecord::decode(value).map_err(|e| format!("record at offset {at}: {e}"))?));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_records_are_several_batches_of_which_none_is_large() {
        let configs = vec![("leader.replication.throttled.replicas".to_owned(), "9".repeat(32_767))];
        let large = |n: usize| MetadataRecord::TopicConfigs { id: [n as u8; 16], configs: configs.clone() };
        let mut records: Vec<_> = (0..100).map(large).collect();
        let huge = MetadataRecord::TopicConfigs { id: [7; 16], configs: vec![("a".into(), "b".repeat(3 << 20))] };
        records.insert(50, huge);
        let batches: Vec<Vec<u8>> = split(&records).map(|part| encode(part, 5)).collect();
        let alone = batches.iter().filter(|batch| batch.len() > BATCH_BYTES).count();
        assert_eq!((batches.len(), alone), (5, 1));
        assert!(batches.iter().map(Vec::len).sum::<usize>() <= room(&records));
        assert!(split(&records).flatten().eq(&records));
        assert_eq!(split(&[]).count(), 0);
        // As small as a record gets.
        let small = vec![MetadataRecord::NewLeaderEpochs; 30_000];
        let bytes: usize = split(&small).map(|part| encode(part, 5).len()).sum();
        assert!(bytes <= room(&small) && split(&small).count() > 1);
    }

    #[test]
    fn records_survive_the_log() {
        let records = [MetadataRecord::NewLeaderEpochs, MetadataRecord::RemoveTopic { id: [7; 16] }];
        let decoded = decode(&encode(&records, 5)).unwrap();
        assert_eq!(decoded, records.into_iter().enumerate().map(|(at, r)| (at as Offset, r)).collect::<Vec<_>>());
        assert!(decode(b"short").is_err());
    }
}
