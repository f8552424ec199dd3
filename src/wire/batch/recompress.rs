//! A produced batch in the codec of its topic (`compression.type`), made in steps.

use bytes::Bytes;

use super::super::compression::{Codec, Compressor};
use super::*;

/// What is left of a checked batch to be written.
pub(super) struct Recompression {
    codec: Codec,
    /// `None` once the result is longer than `max`.
    compressor: Option<Compressor>,
    /// Longest batch, header included.
    max: usize,
}

impl Recompression {
    /// Of the batch that `batch` begins with; its records come with [`Recompression::take`].
    pub(super) fn new(batch: &[u8], codec: Codec, max: usize) -> Recompression {
        let header = batch[..HEADER_LEN].to_vec();
        Recompression { codec, compressor: Some(Compressor::of(codec, header)), max }
    }

    /// Takes the next bytes of the records; what that costs of a budget.
    pub(super) fn take(&mut self, piece: &[u8]) -> usize {
        let Some(compressor) = &mut self.compressor else { return 0 };
        compressor.write(piece);
        if compressor.written() > self.max {
            self.compressor = None;
        }
        piece.len() * self.codec.compressing_weight()
    }

    /// The batch with its new records, but for the checksum: all else in the header is as it was, but
    /// for the codec and the largest timestamp (ms). `None` if it is too long.
    pub(super) fn finish(self, largest: i64) -> Option<Sealing> {
        let mut out = self.compressor?.finish();
        if out.len() > self.max {
            return None;
        }
        let length = (out.len() - LOG_OVERHEAD) as i32;
        out[BATCH_LENGTH..PARTITION_LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
        let attributes = i16::from_be_bytes([out[ATTRIBUTES], out[ATTRIBUTES + 1]]);
        let attributes = attributes & !COMPRESSION_MASK | self.codec.compression as i16;
        out[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
        out[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&largest.to_be_bytes());
        Some(Sealing { out, crc: PartialCrc::default() })
    }
}

/// A batch whose checksum is computed.
pub(super) struct Sealing {
    out: Vec<u8>,
    crc: PartialCrc,
}

impl Sealing {
    /// Goes on until `budget`, which counts inflated bytes, was spent. The batch at the end.
    pub(super) fn step(&mut self, budget: &mut usize) -> Option<Bytes> {
        let crc = self.crc.step(&self.out, budget)?;
        let mut out = std::mem::take(&mut self.out);
        out[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
        Some(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::compression::Compression;
    use super::*;
    use crate::base::config::Verify;
    use crate::base::error::ErrorCode;

    const RULES: ProduceRules<'static> = ProduceRules {
        topic: "t",
        partition: 0,
        max_message_bytes: 1 << 20,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: 3_600_000,
        now_ms: 10_000,
        api_version: 13,
        verify: Verify::Full,
        codec: None,
    };

    fn to(compression: Compression) -> ProduceRules<'static> {
        ProduceRules { codec: Some(compression.into()), ..RULES }
    }

    fn sent(compression: Compression, records: &[KeyValue<'_>]) -> Bytes {
        let spec = BatchSpec { compression, producer_id: 7, producer_epoch: 2, base_sequence: 9, ..BatchSpec::default() };
        let mut batch = build_batch(&spec, records);
        Stamp::Largest(12).apply(&mut batch);
        batch.into()
    }

    /// The result, and how many steps it took.
    fn check(batch: &Bytes, rules: &ProduceRules<'_>, budget: usize) -> (Result<Checked, Rejection>, usize) {
        let mut checker = Checker::new(batch, rules).unwrap();
        for steps in 1.. {
            match checker.step(rules, &mut budget.clone()) {
                Ok(None) => {}
                Ok(Some(checked)) => return (Ok(checked), steps),
                Err(rejection) => return (Err(rejection), steps),
            }
        }
        unreachable!("it ends")
    }

    /// Offset and timestamp as in the batch, key, value.
    type Owned = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn payload(batch: &Bytes) -> Vec<Owned> {
        let header = BatchHeader::parse(batch).unwrap();
        let payload = Inflation::new(&header, batch).and_then(Inflation::run).unwrap();
        let owned = |bytes: Option<&[u8]>| bytes.map(Vec::from);
        payload.records().map(|r| (r.offset_delta, r.timestamp_delta, owned(r.key), owned(r.value))).collect()
    }

    #[test]
    fn a_batch_in_another_codec_is_compressed_anew() {
        let value = [b'v'; 70_000];
        let records = [(Some(&b"k"[..]), Some(&value[..]), 5000), (None, None, 7000), (None, Some(&value), 6000)];
        for from in Compression::ALL {
            for into in Compression::ALL {
                let batch = sent(from, &records);
                for verify in [Verify::Full, Verify::Frame] {
                    let rules = ProduceRules { verify, ..to(into) };
                    let checked = check(&batch, &rules, usize::MAX).0.unwrap();
                    let Some(made) = checked.recompressed else {
                        assert_eq!(from, into, "sent in the right codec");
                        continue;
                    };
                    assert!(from != into && crc_ok(&made) && made.len() == checked.header.total_len());
                    assert_eq!(checked.header, BatchHeader::parse(&made).unwrap());
                    let (mut wanted, mut got) = (BatchHeader::parse(&batch).unwrap(), checked.header);
                    assert_eq!(got.compression(), Ok(into));
                    wanted.stamp(Stamp::Largest(7000));
                    // All else is as it was sent.
                    (got.crc, got.batch_length, got.attributes) = (wanted.crc, wanted.batch_length, wanted.attributes);
                    assert_eq!(got, wanted);
                    assert_eq!(payload(&made), payload(&batch));
                }
            }
        }
    }

    #[test]
    fn it_is_done_in_steps() {
        let value: Vec<u8> = (0..60_000u32).flat_map(|n| n.to_le_bytes()).collect();
        for (from, codec, least) in [
            (Compression::None, Codec::from(Compression::Gzip), 14),
            (Compression::Zstd, Codec::from(Compression::Lz4), 14),
            (Compression::None, Codec { compression: Compression::Zstd, level: Some(12) }, 14),
        ] {
            let batch = sent(from, &[(None, Some(&value), 5000)]);
            let rules = ProduceRules { codec: Some(codec), ..RULES };
            let (checked, steps) = check(&batch, &rules, 64 << 10);
            assert!(steps >= least, "{codec:?}: {steps}");
            let (at_once, steps) = check(&batch, &rules, usize::MAX);
            assert_eq!(steps, 1);
            let made = checked.unwrap().recompressed.unwrap();
            assert_eq!(payload(&made), payload(&batch));
            assert_eq!(at_once.unwrap().recompressed.unwrap(), made);
        }
    }

    #[test]
    fn a_batch_that_becomes_too_long_is_refused() {
        let value = [0; 20_000];
        let batch = sent(Compression::Gzip, &[(None, Some(&value), 5000)]);
        let len = check(&batch, &to(Compression::None), usize::MAX).0.unwrap().header.total_len();
        let limited = |max| ProduceRules { max_message_bytes: max as i32, ..to(Compression::None) };
        assert!(check(&batch, &limited(len), usize::MAX).0.is_ok());
        for max in [len - 1, batch.len()] {
            let refused = check(&batch, &limited(max), usize::MAX).0.unwrap_err();
            assert_eq!(refused.code, ErrorCode::MessageTooLarge);
        }
        // What is wrong with records comes first.
        let late = sent(Compression::Gzip, &[(None, Some(&value), i64::MAX / 2)]);
        let refused = check(&late, &limited(batch.len()), usize::MAX).0.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidTimestamp);
    }
}
