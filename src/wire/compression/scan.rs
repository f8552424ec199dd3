//! Looking into a batch for single records, without having all of them in memory.

use std::ops::ControlFlow;

use super::super::batch::{BatchError, BatchHeader, HEADER_LEN, TimestampType};
use super::super::record::{self, Entry};
use super::{CompressionError, INFLATED_MAX, decoder, describe};
use crate::base::ids::Offset;

/// Visits the records of the whole batch that `batch` begins with, until `visit` breaks.
pub(in super::super) fn entries(
    header: &BatchHeader,
    batch: &[u8],
    visit: impl FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), CompressionError> {
    let compression = header.compression().map_err(CompressionError::Batch)?;
    let payload = batch.get(HEADER_LEN..header.total_len()).ok_or(CompressionError::Batch(BatchError::Truncated))?;
    let input = decoder(compression, payload, INFLATED_MAX);
    input.and_then(|input| record::scan(input, header.records_count, visit)).map_err(|error| describe(error, INFLATED_MAX))
}

/// Offset and timestamp of the batch's first record whose timestamp is `ts` or later.
pub fn first_at_or_after(batch: &[u8], ts: i64) -> Result<Option<(Offset, i64)>, CompressionError> {
    let header = BatchHeader::parse(batch).map_err(CompressionError::Batch)?;
    if header.max_timestamp < ts || header.records_count == 0 {
        return Ok(None);
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Ok(Some((header.base_offset, header.max_timestamp)));
    }
    let mut found = None;
    entries(&header, batch, |entry| {
        let (offset, timestamp) = place(&header, entry);
        if timestamp < ts {
            return ControlFlow::Continue(());
        }
        found = Some((offset, timestamp));
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Offset of the first record that has the batch's largest timestamp, and that timestamp. `None` for a batch without records.
pub fn max_timestamp(batch: &[u8]) -> Result<Option<(Offset, i64)>, CompressionError> {
    let header = BatchHeader::parse(batch).map_err(CompressionError::Batch)?;
    if header.records_count == 0 {
        return Ok(None);
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Ok(Some((header.base_offset, header.max_timestamp)));
    }
    let mut best = None;
    entries(&header, batch, |entry| {
        let (offset, timestamp) = place(&header, entry);
        if best.is_none_or(|(_, largest)| timestamp > largest) {
            best = Some((offset, timestamp));
        }
        // A producer's own maximum is not believed to be the end of the search unless it is there.
        if timestamp == header.max_timestamp { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(best)
}

fn place(header: &BatchHeader, entry: Entry) -> (Offset, i64) {
    (header.base_offset.wrapping_add(entry.offset_delta.into()), header.base_timestamp.wrapping_add(entry.timestamp_delta))
}

#[cfg(test)]
mod tests {
    use super::super::super::batch::{BatchSpec, build_batch, set_log_append_time};
    use super::super::Compression;
    use super::*;

    #[test]
    fn records_are_found_by_time_in_every_compression() {
        for compression in Compression::ALL {
            let spec = BatchSpec { base_offset: 100, compression, ..BatchSpec::default() };
            let mut batch =
                build_batch(&spec, &[(None, Some(b"a"), 1000), (None, Some(b"b"), 3000), (None, None, 2000), (None, None, 3000)]);
            let first = |batch: &[u8], ts| first_at_or_after(batch, ts).unwrap();
            assert_eq!(first(&batch, 0), Some((100, 1000)));
            assert_eq!(first(&batch, 1001), Some((101, 3000)), "the first in offset order, not in time order");
            assert_eq!(first(&batch, 3001), None);
            assert_eq!(max_timestamp(&batch), Ok(Some((101, 3000))));
            assert!(first_at_or_after(&batch[..batch.len() - 1], 0).is_err());
            set_log_append_time(&mut batch, 5000);
            assert_eq!(first(&batch, 4000), Some((100, 5000)));
            assert_eq!(max_timestamp(&batch), Ok(Some((100, 5000))));
        }
    }
}
