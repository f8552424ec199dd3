//! Tests of the batch format and of what producers may send.

use proptest::prelude::*;

use bytes::Bytes;

use super::super::compression::{Compression, CompressionError, compress, decompress};
use super::super::record::Records;
use super::*;
use crate::base::config::Verify;
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
        verify: Verify::Full,
        codec: None,
    }
}

fn validate_produce(batch: &[u8], rules: &ProduceRules<'_>) -> Result<BatchHeader, Rejection> {
    super::validate_produce(&Bytes::copy_from_slice(batch), rules)
}

fn search(batch: &[u8], wanted: Wanted) -> Result<Option<(Offset, i64)>, CompressionError> {
    TimeSearch::new(&Bytes::copy_from_slice(batch), wanted).and_then(TimeSearch::run)
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
    Stamp::LogAppendTime(77).apply(&mut batch);
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
        let text = "Compacted topic cannot accept message without key in topic partition t-3";
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
        assert_eq!(validate_produce(&lie, &rules()).unwrap().max_timestamp, NOW + 5);
        let trusting = validate_produce(&lie, &ProduceRules { verify: Verify::Frame, ..rules() });
        match compression {
            Compression::None => assert_eq!(trusting.unwrap().max_timestamp, NOW + 5),
            _ => assert_eq!(trusting.unwrap_err().code, ErrorCode::InvalidTimestamp),
        }
    }
}

/// Some clients leave the largest timestamp at -1, or tell that of the first record.
#[test]
fn the_largest_timestamp_is_that_of_the_records() {
    for compression in Compression::ALL {
        for told in [-1, 0, NOW - 1, NOW + 4, NOW + 6] {
            let batch = with(sample(compression), MAX_TIMESTAMP, &i64::to_be_bytes(told));
            assert_eq!(validate_produce(&batch, &rules()).unwrap().max_timestamp, NOW + 5);
            // Without a look inside only what cannot be is noticed.
            let trusting = ProduceRules { verify: Verify::Frame, ..rules() };
            let seen = told < NOW || compression == Compression::None;
            assert_eq!(validate_produce(&batch, &trusting).unwrap().max_timestamp, if seen { NOW + 5 } else { told });
        }
        let spec = BatchSpec { compression, ..BatchSpec::default() };
        let none = build_batch(&spec, &[(None, None, NO_TIMESTAMP)]);
        assert_eq!(validate_produce(&none, &rules()).unwrap().max_timestamp, NO_TIMESTAMP);
        let mut stamped = with(sample(compression), MAX_TIMESTAMP, &i64::to_be_bytes(-1));
        Stamp::Largest(NOW + 5).apply(&mut stamped);
        assert_eq!(stamped, sample(compression));
    }
}

/// A batch around `payload`, which is compressed here, that claims `count` records.
fn batch_of(compression: Compression, payload: &[u8], count: i32) -> Vec<u8> {
    let packed = compress(compression, payload);
    let mut batch = build_batch(&BatchSpec { compression, ..BatchSpec::default() }, &[(None, None, NOW)]);
    batch.truncate(HEADER_LEN);
    batch.extend_from_slice(&packed);
    let length = (batch.len() - LOG_OVERHEAD) as i32;
    batch[BATCH_LENGTH..PARTITION_LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
    let batch = with(batch, LAST_OFFSET_DELTA, &count.wrapping_sub(1).to_be_bytes());
    with(batch, RECORDS_COUNT, &count.to_be_bytes())
}

#[test]
fn what_is_compressed_is_judged_like_the_rest() {
    let one = [&[16u8, 0, 0, 0, 2, b'k', 2, b'v', 0][..]].concat();
    let two = [&one[..], &[16, 0, 0, 2, 2, b'k', 2, b'v', 0]].concat();
    let cases: [(&str, &[u8], i32); 12] = [
        ("fewer records", &one, 2),
        ("more records", &two, 1),
        ("bytes behind", &[&one[..], &[0; 5]].concat(), 1),
        ("2^31 - 1 records", &one, i32::MAX),
        ("seven headers, none there", &[16, 0, 0, 0, 2, b'k', 2, b'v', 14], 1),
        ("a header without a key", &[20, 0, 0, 0, 2, b'k', 2, b'v', 2, 1, 1], 1),
        ("a negative header count", &[16, 0, 0, 0, 2, b'k', 2, b'v', 1], 1),
        ("a key of length -2", &[16, 0, 0, 0, 3, b'k', 2, b'v', 0], 1),
        ("a value longer than its record", &[16, 0, 0, 0, 2, b'k', 20, b'v', 0], 1),
        ("a record longer than its fields", &[18, 0, 0, 0, 2, b'k', 2, b'v', 0, 0], 1),
        ("an offset of 6 bytes", &[26, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 2, b'k', 2, b'v', 0], 1),
        ("nothing", &[], 1),
    ];
    let texts = |compression: Compression, payload: &[u8], count: i32| {
        validate_produce(&batch_of(compression, payload, count), &rules()).unwrap_err()
    };
    for (what, payload, count) in cases {
        let plain = texts(Compression::None, payload, count);
        assert_eq!(plain.code, ErrorCode::InvalidRecord, "{what}");
        for compression in Compression::ALL {
            assert_eq!(texts(compression, payload, count), plain, "{what} {}", compression.name());
        }
    }
    for compression in Compression::ALL {
        validate_produce(&batch_of(compression, &two, 2), &rules()).unwrap();
    }
}

#[test]
fn a_frame_cannot_hold_more_records_than_its_bytes_allow() {
    let trusting = ProduceRules { verify: Verify::Frame, ..rules() };
    for compression in Compression::ALL.into_iter().filter(|c| *c != Compression::None) {
        let good = sample(compression);
        validate_produce(&good, &trusting).unwrap();
        let many = with(good, RECORDS_COUNT, &i32::MAX.to_be_bytes());
        let many = with(many, LAST_OFFSET_DELTA, &(i32::MAX - 1).to_be_bytes());
        assert_eq!(validate_produce(&many, &trusting).unwrap_err().code, ErrorCode::InvalidRecord, "{}", compression.name());
        // The most that compresses best: equal records.
        let mut payload = vec![0; 7 * 50_000];
        for (index, record) in payload.chunks_mut(7).enumerate() {
            record.copy_from_slice(&[12, 0, 0, (index % 64) as u8, 1, 1, 0]);
        }
        validate_produce(&batch_of(compression, &payload, 50_000), &trusting).unwrap();
    }
}

#[test]
fn a_check_stops_at_its_budget_and_at_its_limit() {
    for compression in Compression::ALL.into_iter().filter(|c| *c != Compression::None) {
        let spec = BatchSpec { compression, ..BatchSpec::default() };
        let value = vec![0; 1 << 20];
        let batch: Bytes = build_batch(&spec, &[(Some(b"k"), Some(&value), NOW)]).into();
        let rules = ProduceRules { compacted: true, ..rules() };
        let mut checker = Checker::new(&batch, &rules).unwrap();
        let mut steps = 1;
        while checker.step(&rules, &mut (64 << 10)).unwrap().is_none() {
            steps += 1;
        }
        assert_eq!(steps, if compression == Compression::Gzip { 33 } else { 17 }, "{}", compression.name());
    }
    let bomb = vec![0; 65 << 20];
    let batch = build_batch(&BatchSpec { compression: Compression::Zstd, ..BatchSpec::default() }, &[(None, Some(&bomb), NOW)]);
    assert!(batch.len() < 8000);
    assert_eq!(refused(&batch), ErrorCode::MessageTooLarge);
}

#[test]
fn a_large_plain_batch_is_checked_in_steps() {
    let value = vec![0; 1 << 20];
    let records = vec![(Some(&b"k"[..]), Some(&value[..]), NOW); 16];
    let mut batch = build_batch(&BatchSpec::default(), &records);
    let rules = ProduceRules { max_message_bytes: i32::MAX, ..rules() };
    let steps = |batch: &[u8]| {
        let mut checker = Checker::new(&Bytes::copy_from_slice(batch), &rules).unwrap();
        for step in 1.. {
            match checker.step(&rules, &mut (256 << 10)) {
                Ok(None) => {}
                Ok(Some(_)) => return (step, ErrorCode::None),
                Err(rejection) => return (step, rejection.code),
            }
        }
        unreachable!("it ends")
    };
    // As much for the checksum as for the records.
    assert_eq!(steps(&batch), (9, ErrorCode::None));
    *batch.last_mut().unwrap() ^= 1;
    assert_eq!(steps(&batch), (5, ErrorCode::CorruptMessage));
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
    let _ = (crc_ok(bytes), search(bytes, Wanted::AtOrAfter { ts: 0, from: 0 }), search(bytes, Wanted::Largest));
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
        prop_assert_eq!(search(&batch, Wanted::Largest).unwrap(), Some((at, latest)));
        prop_assert_eq!(search(&batch, Wanted::AtOrAfter { ts: latest, from: 0 }).unwrap(), Some((at, latest)));
        prop_assert_eq!(search(&batch, Wanted::AtOrAfter { ts: latest + 1, from: 0 }).unwrap(), None);
    }

    /// Verdict and texts do not depend on the codec, and what is accepted can be read by everybody.
    #[test]
    fn accepted_batches_can_be_read_and_codecs_agree(
        records in any_records(),
        compression in any_compression(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3),
        more in -1..2i32,
        compacted in any::<bool>(),
    ) {
        let plain = build_batch(&BatchSpec::default(), &borrowed(&records));
        let mut payload = plain[HEADER_LEN..].to_vec();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        let count = records.len() as i32 + more;
        let rules = ProduceRules { compacted, ..rules() };
        let plain = batch_of(Compression::None, &payload, count);
        let batch = batch_of(compression, &payload, count);
        let verdict = validate_produce(&batch, &rules);
        let of = |verdict: &Result<BatchHeader, Rejection>| verdict.clone().map(|header| header.max_timestamp);
        prop_assert_eq!(of(&verdict), of(&validate_produce(&plain, &rules)));
        if let Ok(header) = verdict {
            let payload = Inflation::new(&header, &Bytes::copy_from_slice(&batch)).and_then(Inflation::run).unwrap();
            prop_assert_eq!(payload.records().count(), count as usize);
            let largest = payload.records().map(|r| header.base_timestamp.wrapping_add(r.timestamp_delta)).max().unwrap();
            prop_assert_eq!(header.max_timestamp, largest.max(NO_TIMESTAMP));
            prop_assert_eq!(search(&batch, Wanted::Largest).unwrap().unwrap().1, largest);
            let wanted = Wanted::AtOrAfter { ts: largest, from: 0 };
            prop_assert!(search(&batch, wanted).unwrap().is_some());
            let kept = filter_batch(&header, &batch, &payload, &Retention::default(), |_, r| r.key.is_some());
            if let Filtered::Rewritten(bytes) = kept {
                let header = BatchHeader::parse(&bytes).unwrap();
                prop_assert!(Inflation::new(&header, &bytes.into()).and_then(Inflation::run).is_ok());
            }
        }
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
