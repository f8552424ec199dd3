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
    fn records_survive_the_log() {
        let records = [MetadataRecord::NewLeaderEpochs, MetadataRecord::RemoveTopic { id: [7; 16] }];
        let decoded = decode(&encode(&records, 5)).unwrap();
        assert_eq!(decoded, records.into_iter().enumerate().map(|(at, r)| (at as Offset, r)).collect::<Vec<_>>());
        assert!(decode(b"short").is_err());
    }
}
