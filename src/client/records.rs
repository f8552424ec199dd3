//! The records of a fetch response, whole batches decoded.

use crate::base::error::ErrorCode;
use crate::base::ids::Offset;
use crate::base::limits::CLIENT_INFLATED_MAX;
use crate::wire::batch::{BatchError, BatchHeader, Batches, HEADER_LEN, TimestampType, crc_ok};
use crate::wire::compression::{Compression, decompress};
use crate::wire::record::{Record, Records};

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its place in the partition.
    pub offset: Offset,
    /// Milliseconds since 1970; -1 for none.
    pub timestamp: i64,
    /// Whose clock that is.
    pub timestamp_type: TimestampType,
    /// `None` is a null key.
    pub key: Option<Vec<u8>>,
    /// `None` is a null value.
    pub value: Option<Vec<u8>>,
    /// Key and value of each header.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A transaction that was aborted: the producer, and its first record's offset.
pub type Aborted = (i64, Offset);

/// The records from `from` on, and the offset to go on at. What is cut off at the end comes with the next fetch. Records of `aborted`
/// transactions and control records are left out. An error is told in words.
pub fn decode(bytes: &[u8], from: Offset, aborted: &[Aborted]) -> Result<(Vec<Received>, Offset), String> {
    let mut records = Vec::new();
    let mut next = from;
    let mut waiting: Vec<Aborted> = aborted.to_vec();
    let mut open: Vec<i64> = Vec::new();
    for batch in Batches::new(bytes) {
        let (header, batch) = match batch {
            Ok(batch) => batch,
            Err(BatchError::Truncated) => break,
            Err(error) => return Err(error.to_string()),
        };
        if !crc_ok(batch) {
            return Err(format!("offset {}: {}", header.base_offset, ErrorCode::CorruptMessage.message()));
        }
        waiting.retain(|(producer, first)| {
            let begun = *first <= header.last_offset();
            if begun {
                open.push(*producer);
            }
            !begun
        });
        if header.is_control() {
            // The marker that ends the transaction.
            open.retain(|producer| *producer != header.producer_id);
        } else if !(header.is_transactional() && open.contains(&header.producer_id)) {
            decode_batch(&header, &batch[HEADER_LEN..], next, &mut records)?;
        }
        next = next.max(header.next_offset());
    }
    Ok((records, next))
}

fn decode_batch(header: &BatchHeader, payload: &[u8], from: Offset, out: &mut Vec<Received>) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| format!("batch at offset {}: {error}", header.base_offset);
    let compression = header.compression().map_err(|error| told(&error))?;
    let inflated;
    let payload = match compression {
        Compression::None => payload,
        _ => {
            inflated = decompress(compression, payload, CLIENT_INFLATED_MAX).map_err(|error| told(&error))?;
            &inflated
        }
    };
    for record in Records::new(payload, header.records_count) {
        let record = record.map_err(|error| told(&error))?;
        let offset = header.base_offset.wrapping_add(record.offset_delta.into());
        if offset >= from {
            out.push(received(header, offset, &record));
        }
    }
    Ok(())
}

fn received(header: &BatchHeader, offset: Offset, record: &Record) -> Received {
    let timestamp = match header.timestamp_type() {
        TimestampType::LogAppendTime => header.max_timestamp,
        TimestampType::CreateTime => header.base_timestamp.wrapping_add(record.timestamp_delta),
    };
    Received {
        offset,
        timestamp,
        timestamp_type: header.timestamp_type(),
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record.headers().map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), value.map(<[u8]>::to_vec))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::{BatchSpec, build_batch};
    use proptest::prelude::*;

    fn batch(base_offset: Offset, spec: BatchSpec, values: &[&str]) -> Vec<u8> {
        let records: Vec<_> = values.iter().enumerate().map(|(i, value)| (None, Some(value.as_bytes()), 100 + i as i64)).collect();
        build_batch(&BatchSpec { base_offset, ..spec }, &records)
    }

    fn values(records: &[Received]) -> Vec<(Offset, String)> {
        records.iter().map(|r| (r.offset, String::from_utf8_lossy(r.value.as_deref().unwrap_or(b"null")).into_owned())).collect()
    }

    #[test]
    fn every_compression_from_the_middle_and_cut_off() {
        for compression in Compression::ALL {
            let spec = BatchSpec { compression, ..BatchSpec::default() };
            let bytes = [batch(10, spec, &["a", "b", "c"]), batch(13, spec, &["d"])].concat();
            let (records, next) = decode(&bytes, 11, &[]).unwrap();
            assert_eq!(values(&records), [(11, "b".into()), (12, "c".into()), (13, "d".into())]);
            assert_eq!((next, records[0].timestamp), (14, 101));
            let (records, next) = decode(&bytes[..bytes.len() - 1], 10, &[]).unwrap();
            assert_eq!((records.len(), next), (3, 13));
            let mut damaged = bytes;
            damaged[70] ^= 1;
            assert!(decode(&damaged, 10, &[]).is_err());
        }
    }

    proptest! {
        /// Whatever a server sends: an error or records, never a panic, and no way back.
        #[test]
        fn damage_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(), from in any::<i64>()) {
            let spec = BatchSpec { compression: Compression::Lz4, ..BatchSpec::default() };
            let mut bytes = [batch(0, spec, &["a", "b"]), batch(2, BatchSpec::default(), &["c"])].concat();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok((_, next)) = decode(&bytes, from, &[(1, 0)]) {
                prop_assert!(next >= from);
            }
        }
    }

    #[test]
    fn aborted_transactions_are_left_out() {
        let by = |producer_id, control| BatchSpec { producer_id, transactional: true, control, ..BatchSpec::default() };
        let plain = BatchSpec::default();
        let bytes = [
            batch(0, by(7, false), &["no"]),
            batch(1, by(8, false), &["yes"]),
            batch(2, plain, &["plain"]),
            batch(3, by(7, true), &["marker"]),
            batch(4, by(7, false), &["again"]),
        ]
        .concat();
        let (records, next) = decode(&bytes, 0, &[(7, 0)]).unwrap();
        assert_eq!(values(&records), [(1, "yes".into()), (2, "plain".into()), (4, "again".into())]);
        assert_eq!(next, 5);
        assert_eq!(decode(&bytes, 0, &[]).unwrap().0.len(), 4, "but control records never show");
    }
}
