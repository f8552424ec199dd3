//! Tests of the batch format and of what producers may send.

use proptest::prelude::*;

use super::super::compression::{Compression, decompress, first_at_or_after, max_timestamp};
use super::super::record::Records;
use super::*;
use crate::base::error::ErrorCode;

const NOW: i64 = 1_700_000_000_000;

fn rules() -> ProduceRules<'static> {
    ProduceRules {
        topic: "t",
        partition: 3,
        max_message_bytes: 1_048_588,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: 3_600_000,
        now_ms: NOW,
        api_version: 13,
    }
}

fn sample(compression: Compression) -> Vec<u8> {
    let spec = BatchSpec { compression, ..BatchSpec::default() };
    build_batch(&spec, &[(Some(b"k1"), Some(b"v1"), NOW), (Some(b"k2"), Some(b"v2"), NOW + 5), (Some(b"k3"), None, NOW - 5)])
}

/// Overwrites a header field and makes the CRC right again.
fn with(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn refused(batch: &[u8]) -> ErrorCode {
    validate_produce(batch, &rules()).unwrap_err().code
}

/// The bytes of Kafka's own batch of one record "hello" at time 1600000000000, by its documented layout.
#[test]
fn the_layout_is_kafkas() {
    let batch = build_batch(&BatchSpec::default(), &[(None, Some(b"hello"), 1_600_000_000_000)]);
    let expected = [
        &[0; 8][..],                                            // base offset
        &[0, 0, 0, 61],                                         // length: 49 of the header, 12 of the record
        &[255; 4],                                              // leader epoch
        &[2],                                                   // magic
        &batch[CRC..ATTRIBUTES],                                // checked below
        &[0, 0, 0, 0, 0, 0],                                    // attributes, last offset delta
        &1_600_000_000_000i64.to_be_bytes(),                    // first timestamp
        &1_600_000_000_000i64.to_be_bytes(),                    // largest timestamp
        &[255; 14],                                             // producer id, epoch, sequence
        &[0, 0, 0, 1],                                          // records
        &[22, 0, 0, 0, 1, 10, b'h', b'e', b'l', b'l', b'o', 0], // the record
    ];
    assert_eq!(batch, expected.concat());
    assert!(crc_ok(&batch));
}

#[test]
fn headers_are_read_and_patched() {
    let spec = BatchSpec {
        base_offset: 10,
        leader_epoch: 4,
        compression: Compression::Lz4,
        transactional: true,
        producer_id: 7,
        producer_epoch: 2,
        base_sequence: i32::MAX,
        ..BatchSpec::default()
    };
    let mut batch = build_batch(&spec, &[(None, None, 5), (None, None, 9)]);
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!((header.base_offset, header.last_offset(), header.next_offset(), header.total_len()), (10, 11, 12, batch.len()));
    assert_eq!((header.partition_leader_epoch, header.compression()), (4, Ok(Compression::Lz4)));
    assert!(header.is_transactional() && header.has_producer_id() && !header.is_control() && !header.has_delete_horizon());
    assert_eq!((header.producer_id, header.producer_epoch, header.last_sequence()), (7, 2, 0), "sequences wrap to 0");
    patch(&mut batch, 1 << 40, 9);
    assert!(crc_ok(&batch), "what the broker sets is outside the CRC");
    set_log_append_time(&mut batch, 77);
    assert!(crc_ok(&batch));
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!((header.base_offset, header.partition_leader_epoch), (1 << 40, 9));
    assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, 77));
    assert!(!crc_ok(&batch[..batch.len() - 1]));
}

#[test]
fn batches_lie_back_to_back() {
    let two = [sample(Compression::None), sample(Compression::Gzip)].concat();
    let lengths: Vec<_> = Batches::new(&two).map(|batch| batch.unwrap().1.len()).collect();
    assert_eq!(lengths.iter().sum::<usize>(), two.len());
    let cut: Vec<_> = Batches::new(&two[..two.len() - 1]).map(|batch| batch.map(|_| ())).collect();
    assert_eq!(cut, [Ok(()), Err(BatchError::Truncated)]);
    assert_eq!(Batches::new(&[0; 4096]).next().unwrap().unwrap_err(), BatchError::BadLength(0), "a preallocated tail is no batch");
}

#[test]
fn what_producers_send_is_accepted() {
    for compression in Compression::ALL {
        let header = validate_produce(&sample(compression), &rules()).unwrap();
        assert_eq!(header.records_count, 3);
        validate_produce(&sample(compression), &ProduceRules { compacted: true, ..rules() }).unwrap();
        let log_append = ProduceRules { timestamp_type: TimestampType::LogAppendTime, now_ms: 0, ..rules() };
        validate_produce(&sample(compression), &log_append).unwrap();
    }
    let spec = BatchSpec { producer_id: 0, producer_epoch: 0, base_sequence: 0, ..BatchSpec::default() };
    validate_produce(&build_batch(&spec, &[(None, None, NO_TIMESTAMP)]), &rules()).unwrap();
}

#[test]
fn what_is_not_one_whole_batch_is_refused() {
    let good = sample(Compression::None);
    assert_eq!(refused(&[]), ErrorCode::InvalidRecord);
    assert_eq!(refused(&good[..good.len() - 1]), ErrorCode::InvalidRecord);
    assert_eq!(refused(&good.repeat(2)), ErrorCode::InvalidRecord);
    for (magic, code) in [(0, ErrorCode::InvalidRecord), (1, ErrorCode::InvalidRecord), (3, ErrorCode::CorruptMessage)] {
        assert_eq!(refused(&with(good.clone(), MAGIC_AT, &[magic])), code, "magic {magic}");
    }
    assert_eq!(refused(&with(good.clone(), BATCH_LENGTH, &48i32.to_be_bytes())), ErrorCode::CorruptMessage);
    assert_eq!(refused(&with(good.clone(), BATCH_LENGTH, &(-1i32).to_be_bytes())), ErrorCode::CorruptMessage);
    assert_eq!(refused(&with(good.clone(), BATCH_LENGTH, &i32::MAX.to_be_bytes())), ErrorCode::InvalidRecord);
    assert_eq!(refused(&with(good.clone(), BASE_OFFSET, &1i64.to_be_bytes())), ErrorCode::InvalidRecord);
    for at in ATTRIBUTES..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(validate_produce(&bad, &rules()).is_err(), "bit flipped in byte {at}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let good = || sample(Compression::None);
    for delta in [-1, 0, 1, 3, i32::MAX] {
        assert_eq!(refused(&with(good(), LAST_OFFSET_DELTA, &i32::to_be_bytes(delta))), ErrorCode::InvalidRecord);
    }
    for count in [-1, 0, 2, 4, i32::MAX] {
        let batch = with(good(), RECORDS_COUNT, &i32::to_be_bytes(count));
        assert_eq!(refused(&batch), ErrorCode::InvalidRecord);
        // Also if the offsets agree with the count.
        assert_eq!(refused(&with(batch, LAST_OFFSET_DELTA, &i32::wrapping_sub(count, 1).to_be_bytes())), ErrorCode::InvalidRecord);
    }
    for (attributes, code) in [
        (0x20, ErrorCode::InvalidRecord),
        (0x10, ErrorCode::InvalidRecord),
        (0x40, ErrorCode::InvalidRecord),
        (0x08, ErrorCode::InvalidTimestamp),
        (0x05, ErrorCode::UnsupportedCompressionType),
    ] {
        assert_eq!(refused(&with(good(), ATTRIBUTES, &i16::to_be_bytes(attributes))), code, "attributes {attributes:#x}");
    }
    let of_producer = |id: i64, epoch: i16, sequence: i32| {
        refused(&with(good(), PRODUCER_ID, &[&id.to_be_bytes()[..], &epoch.to_be_bytes(), &sequence.to_be_bytes()].concat()))
    };
    assert_eq!(of_producer(5, 0, -1), ErrorCode::InvalidRecord);
    assert_eq!(of_producer(5, -1, 0), ErrorCode::InvalidRecord);
    assert_eq!(of_producer(-2, 0, 0), ErrorCode::InvalidRecord);
}

#[test]
fn sizes_and_versions_are_kept() {
    let batch = sample(Compression::Zstd);
    let refused = |rules| validate_produce(&batch, &rules).unwrap_err();
    let small = refused(ProduceRules { max_message_bytes: batch.len() as i32 - 1, ..rules() });
    assert_eq!(small.code, ErrorCode::MessageTooLarge);
    assert!(small.message.contains("t-3"), "{}", small.message);
    assert!(validate_produce(&batch, &ProduceRules { max_message_bytes: batch.len() as i32, ..rules() }).is_ok());
    assert_eq!(refused(ProduceRules { api_version: 6, ..rules() }).code, ErrorCode::UnsupportedCompressionType);
}

#[test]
fn records_are_blamed_one_by_one() {
    for compression in Compression::ALL {
        let spec = BatchSpec { compression, ..BatchSpec::default() };
        let batch = build_batch(&spec, &[(None, None, NOW), (Some(b""), None, NOW), (None, None, NOW)]);
        let rejection = validate_produce(&batch, &ProduceRules { compacted: true, ..rules() }).unwrap_err();
        assert_eq!(rejection.code, ErrorCode::InvalidRecord);
        assert_eq!(rejection.record_errors.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 2]);
        let text = "Compacted topic cannot accept message without key in topic partition t-3.";
        assert_eq!(rejection.record_errors[0].1, text);
        let all = format!(
            "One or more records have been rejected due to 2 record errors in total, and only showing the first three errors at most: \
             [RecordError(batchIndex=0, message='{text}'), RecordError(batchIndex=2, message='{text}')]"
        );
        assert_eq!(rejection.message, all);
    }
    let none: Vec<KeyValue<'_>> = vec![(None, None, NOW); 5000];
    let rejection = validate_produce(&build_batch(&BatchSpec::default(), &none), &ProduceRules { compacted: true, ..rules() }).unwrap_err();
    assert_eq!(rejection.record_errors.len(), 50);
    assert!(rejection.message.contains("due to 5000 record errors"));
}

#[test]
fn timestamps_are_bounded() {
    for compression in [Compression::None, Compression::Zstd] {
        let spec = BatchSpec { compression, ..BatchSpec::default() };
        let late = NOW + 3_600_001;
        let batch = build_batch(&spec, &[(None, None, NOW), (None, None, late)]);
        let rejection = validate_produce(&batch, &rules()).unwrap_err();
        assert_eq!((rejection.code, rejection.record_errors.len()), (ErrorCode::InvalidTimestamp, 1));
        assert_eq!(rejection.record_errors[0].0, 1);
        let text = format!(
            "Timestamp {late} of message with offset 1 is out of range. The timestamp should be within [{}, {}]",
            NOW - 10,
            NOW + 10
        );
        let tight = ProduceRules { before_max_ms: 10, after_max_ms: 10, ..rules() };
        assert_eq!(validate_produce(&batch, &tight).unwrap_err().record_errors[0].1, text);
        let early = build_batch(&spec, &[(None, None, NOW - 11)]);
        assert_eq!(validate_produce(&early, &tight).unwrap_err().code, ErrorCode::InvalidTimestamp);
        // A maximum that no record has would keep the batch for ever.
        let lie = with(sample(compression), MAX_TIMESTAMP, &i64::MAX.to_be_bytes());
        assert_eq!(refused(&lie), ErrorCode::InvalidTimestamp);
    }
}

type Owned = (Option<Vec<u8>>, Option<Vec<u8>>, i64);

fn any_records() -> impl Strategy<Value = Vec<Owned>> {
    let field = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    proptest::collection::vec((field(), field(), 0..NOW), 1..20)
}

fn any_compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&Compression::ALL[..])
}

fn borrowed(records: &[Owned]) -> Vec<KeyValue<'_>> {
    records.iter().map(|(key, value, ts)| (key.as_deref(), value.as_deref(), *ts)).collect()
}

/// Everything that reads a batch, for its not panicking.
fn read_all(bytes: &[u8]) {
    for compacted in [false, true] {
        let _ = validate_produce(bytes, &ProduceRules { compacted, ..rules() });
    }
    let _ = (crc_ok(bytes), first_at_or_after(bytes, 0), max_timestamp(bytes));
    for (header, batch) in Batches::new(bytes).map_while(Result::ok) {
        let payload = &batch[HEADER_LEN..];
        let count =
            Records::new(payload, header.records_count).map_while(Result::ok).map(|record| 1 + record.headers().count()).sum::<usize>();
        assert!(count <= payload.len());
        for compression in Compression::ALL {
            assert!(decompress(compression, payload, 1 << 16).map_or(0, |plain| plain.len()) <= 1 << 16);
        }
    }
}

proptest! {
    #[test]
    fn built_batches_are_valid_and_read_back(records in any_records(), compression in any_compression()) {
        let batch = build_batch(&BatchSpec { compression, ..BatchSpec::default() }, &borrowed(&records));
        let header = validate_produce(&batch, &rules()).unwrap();
        let payload = decompress(compression, &batch[HEADER_LEN..], 1 << 20).unwrap();
        let seen: Vec<Owned> = Records::new(&payload, header.records_count)
            .map(|record| record.unwrap())
            .map(|r| (r.key.map(Vec::from), r.value.map(Vec::from), header.base_timestamp + r.timestamp_delta))
            .collect();
        prop_assert_eq!(&seen, &records);
        let latest = records.iter().map(|record| record.2).max().unwrap();
        let at = records.iter().position(|record| record.2 == latest).unwrap() as i64;
        prop_assert_eq!(max_timestamp(&batch).unwrap(), Some((at, latest)));
        prop_assert_eq!(first_at_or_after(&batch, latest).unwrap(), Some((at, latest)));
        prop_assert_eq!(first_at_or_after(&batch, latest + 1).unwrap(), None);
    }

    #[test]
    fn mutated_batches_never_panic(
        records in any_records(),
        compression in any_compression(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        len in any::<proptest::sample::Index>(),
        right_crc in any::<bool>(),
    ) {
        let mut batch = build_batch(&BatchSpec { compression, ..BatchSpec::default() }, &borrowed(&records));
        for (at, byte) in changes {
            let at = at.index(batch.len());
            batch[at] = byte;
        }
        if right_crc {
            batch = with(batch, 0, &[]);
        }
        read_all(&batch);
        read_all(&batch[..len.index(batch.len())]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
        let _ = Records::new(&bytes, i32::MAX).count();
    }
}
