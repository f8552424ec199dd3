//! Tests of the idempotence state.

use proptest::prelude::*;

use super::*;

fn batch(producer_id: i64, producer_epoch: i16, base_sequence: i32, count: i32) -> BatchHeader {
    BatchHeader {
        base_offset: 0,
        batch_length: 100,
        partition_leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: 1000,
        max_timestamp: 1000,
        producer_id,
        producer_epoch,
        base_sequence,
        records_count: count,
    }
}

const TRANSACTIONAL: i16 = 0x10;
const MARKER: i16 = 0x30;

fn duplicate(base_offset: Offset) -> Result<SequenceCheck, ErrorCode> {
    Ok(SequenceCheck::Duplicate { base_offset, log_append_time: 1000 })
}

const FRESH: Result<SequenceCheck, ErrorCode> = Ok(SequenceCheck::Fresh);
const OUT_OF_ORDER: Result<SequenceCheck, ErrorCode> = Err(ErrorCode::OutOfOrderSequenceNumber);

#[test]
fn window_of_five_repeats() {
    let mut producers = Producers::default();
    for i in 0..7 {
        producers.apply(&batch(1, 0, i * 10, 10), i64::from(i) * 100);
    }
    assert_eq!(producers.check(&batch(1, 0, 10, 10)), OUT_OF_ORDER, "the sixth last is out of the window");
    for i in 2..7 {
        assert_eq!(producers.check(&batch(1, 0, i * 10, 10)), duplicate(i64::from(i) * 100));
    }
    assert_eq!(producers.check(&batch(1, 0, 60, 9)), OUT_OF_ORDER, "an overlap is no repeat");
    assert_eq!(producers.check(&batch(1, 0, 70, 1)), FRESH);
    assert_eq!(producers.check(&batch(1, 0, 71, 1)), OUT_OF_ORDER, "a gap");
}

#[test]
fn epochs_and_unknown_producers() {
    let mut producers = Producers::default();
    assert_eq!(producers.check(&batch(1, 3, 77, 1)), FRESH, "no state: any sequence");
    assert_eq!(producers.check(&batch(1, 3, -1, 1)), Err(ErrorCode::InvalidRecord));
    assert_eq!(producers.check(&batch(-1, -1, -1, 1)), FRESH, "not idempotent");
    producers.apply(&batch(-1, -1, -1, 1), 0);
    assert!(producers.is_empty());
    producers.apply(&batch(1, 3, 77, 1), 1);
    assert_eq!(producers.check(&batch(1, 2, 0, 1)), Err(ErrorCode::InvalidProducerEpoch));
    assert_eq!(producers.check(&batch(1, 4, 78, 1)), OUT_OF_ORDER, "a new epoch begins at 0");
    assert_eq!(producers.check(&batch(1, 4, 0, 1)), FRESH);
    producers.apply(&batch(1, 4, 0, 1), 2);
    assert_eq!(producers.check(&batch(1, 4, 77, 1)), OUT_OF_ORDER, "the old epoch's window is gone");
}

#[test]
fn sequences_wrap_to_zero() {
    let mut producers = Producers::default();
    producers.apply(&batch(1, 0, i32::MAX - 4, 5), 0);
    assert_eq!(producers.check(&batch(1, 0, 0, 3)), FRESH);
    producers.apply(&batch(1, 0, 0, 3), 5);
    producers.check_invariants();

    let mut producers = Producers::default();
    producers.apply(&batch(1, 0, i32::MAX - 4, 10), 0);
    assert_eq!(producers.check(&batch(1, 0, i32::MAX - 4, 10)), duplicate(0), "a repeat across the wrap");
    assert_eq!(producers.check(&batch(1, 0, 4, 1)), OUT_OF_ORDER);
    assert_eq!(producers.check(&batch(1, 0, 5, 1)), FRESH);
    producers.apply(&batch(1, 0, 5, 1), 10);
    producers.check_invariants();
}

#[test]
fn open_transactions() {
    let mut producers = Producers::default();
    let transactional = |sequence| BatchHeader { attributes: TRANSACTIONAL, ..batch(1, 0, sequence, 1) };
    producers.apply(&transactional(0), 10);
    producers.apply(&transactional(1), 11);
    assert_eq!(producers.first_open_transaction(), Some(10));
    assert_eq!(producers.check(&batch(1, 0, 2, 1)), Err(ErrorCode::InvalidTxnState));
    producers.expire(i64::MAX, 1);
    assert_eq!(producers.len(), 1, "an open transaction is not forgotten");
    producers.apply(&BatchHeader { attributes: MARKER, ..batch(1, 1, -1, 1) }, 12);
    assert_eq!(producers.first_open_transaction(), None);
    assert_eq!(producers.check(&transactional(2)), Err(ErrorCode::InvalidProducerEpoch), "the marker fences its epoch");
    assert_eq!(producers.check(&batch(1, 1, 0, 1)), FRESH);
    assert_eq!(producers.check(&batch(1, 1, 2, 1)), OUT_OF_ORDER);
    producers.check_invariants();
}

#[test]
fn expiry_frees_the_sequence() {
    let mut producers = Producers::default();
    producers.apply(&batch(1, 0, 0, 10), 0);
    producers.expire(1999, 1000);
    assert_eq!(producers.check(&batch(1, 0, 50, 1)), OUT_OF_ORDER);
    producers.expire(2000, 1000);
    assert_eq!(producers.check(&batch(1, 0, 50, 1)), FRESH);
}

#[test]
fn a_producer_whose_first_batch_was_taken_back_is_remembered_as_long_as_others() {
    let mut producers = Producers::default();
    let first = batch(1, 0, 0, 10);
    let before = producers.before(&first).unwrap();
    producers.apply(&first, 0);
    producers.restore(before);
    producers.expire(1999, 1000);
    assert_eq!(producers.check(&batch(1, 0, 10, 10)), OUT_OF_ORDER, "its first batch has to come first");
    assert_eq!(producers.check(&first), FRESH);
}

#[test]
fn a_hole_in_the_replayed_log_empties_the_window() {
    let mut producers = Producers::default();
    producers.apply(&batch(1, 0, 0, 10), 0);
    producers.apply(&batch(1, 0, 50, 10), 500);
    producers.apply(&batch(1, 0, 0, 10), 600);
    producers.check_invariants();
    assert_eq!(producers.check(&batch(1, 0, 0, 10)), duplicate(600));
    assert_eq!(producers.check(&batch(1, 0, 50, 10)), OUT_OF_ORDER);
}

#[test]
fn count_is_bounded_and_the_silent_go_first() {
    let mut producers = Producers::default();
    for id in 0..PRODUCERS_MAX as i64 * 3 {
        producers.apply(&batch(id, 0, 0, 1), id * 2);
        producers.apply(&batch(0, 0, id as i32 + 1, 1), id * 2 + 1);
    }
    producers.check_invariants();
    assert!(producers.by_id.contains_key(&0), "the busy one stays");
    assert!(producers.by_id.contains_key(&(PRODUCERS_MAX as i64 * 3 - 1)) && !producers.by_id.contains_key(&1));
    assert!(producers.len() > PRODUCERS_MAX - EVICTED_TOGETHER);
}

#[test]
fn a_snapshot_of_as_many_as_are_remembered_is_read_whole() {
    let mut producers = Producers::default();
    for id in 0..PRODUCERS_MAX as i64 {
        producers.apply(&batch(id, 0, 0, 1), id);
    }
    assert_eq!(producers.len(), PRODUCERS_MAX);
    assert_eq!(Producers::decode_snapshot(&producers.encode_snapshot()), Ok(producers));
}

/// Written field by field after Kafka's ProducerSnapshot schema; the checksum is of an independent CRC-32C.
#[test]
fn snapshot_bytes_are_kafkas() {
    let mut producers = Producers::default();
    producers.apply(&batch(7, 2, 10, 5), 100);
    let bytes = producers.encode_snapshot();
    let entries = [
        &1i32.to_be_bytes()[..],
        &7i64.to_be_bytes(),
        &2i16.to_be_bytes(),
        &14i32.to_be_bytes(),
        &104i64.to_be_bytes(),
        &4i32.to_be_bytes(),
        &1000i64.to_be_bytes(),
        &(-1i32).to_be_bytes(),
        &(-1i64).to_be_bytes(),
    ]
    .concat();
    assert_eq!(bytes, [&1i16.to_be_bytes()[..], &bitwise_crc32c(&entries).to_be_bytes(), &entries].concat());
    assert_eq!(Producers::decode_snapshot(&bytes), Ok(producers));
}

fn bitwise_crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn damaged_snapshots_are_refused() {
    let mut producers = Producers::default();
    producers.apply(&batch(7, 2, 10, 5), 100);
    let good = producers.encode_snapshot();
    for cut in 0..good.len() {
        assert!(Producers::decode_snapshot(&good[..cut]).is_err());
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Producers::decode_snapshot(&bad).is_err(), "bit {bit}");
    }
    let sound = Entry {
        producer_id: 7,
        epoch: 2,
        last_sequence: 14,
        last_offset: 104,
        offset_delta: 4,
        timestamp: 0,
        coordinator_epoch: 0,
        transaction_first_offset: -1,
    };
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = sound;
        change(&mut entry);
        Producers::decode_snapshot(&producer_snapshot::encode([entry].into_iter()))
    };
    assert!(with(&|_| ()).is_ok());
    let senseless: [&dyn Fn(&mut Entry); 5] = [
        &|entry| entry.producer_id = -1,
        &|entry| entry.epoch = -1,
        &|entry| entry.last_sequence = -2,
        &|entry| entry.last_offset = -2,
        &|entry| entry.transaction_first_offset = -2,
    ];
    for change in senseless {
        assert_eq!(with(change), Err(SnapshotError::Entry(0)));
    }
    let mut claims = vec![0, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff];
    let checksum = crc32c::crc32c(&claims[6..]);
    claims[2..6].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(Producers::decode_snapshot(&claims), Err(SnapshotError::Length));
}

proptest! {
    #[test]
    fn decode_survives_anything_with_a_good_checksum(count in 0..3i32, body in prop::collection::vec(any::<u8>(), 0..150)) {
        let mut bytes = [&[0u8, 1, 0, 0, 0, 0][..], &count.to_be_bytes(), &body].concat();
        bytes.truncate(10 + count as usize * 46);
        let checksum = crc32c::crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&checksum.to_be_bytes());
        if let Ok(producers) = Producers::decode_snapshot(&bytes) {
            producers.check_invariants();
            prop_assert_eq!(Producers::decode_snapshot(&producers.encode_snapshot()), Ok(producers));
        }
    }

    #[test]
    fn no_stored_header_breaks_the_invariants(headers in prop::collection::vec(
        (0..3i64, -1..3i16, any::<i32>(), any::<i32>(), 0..8i16, 0..50i64), 0..40)) {
        let mut producers = Producers::default();
        let mut offset = 0;
        for (id, epoch, sequence, delta, attributes, gap) in headers {
            let header = BatchHeader { attributes: attributes << 4, last_offset_delta: delta, ..batch(id, epoch, sequence, 1) };
            let _ = producers.check(&header);
            producers.apply(&header, offset);
            producers.check_invariants();
            offset += i64::from(delta.max(0)) + 1 + gap;
        }
    }
}

/// What compaction has to leave: the last batch with data, or the marker of one that has sent nothing else.
#[test]
fn headers_that_are_needed() {
    let mut producers = Producers::default();
    let at = |header: BatchHeader, base_offset| BatchHeader { base_offset, ..header };
    let marker = BatchHeader { attributes: MARKER, ..batch(2, 4, -1, 1) };
    producers.apply(&batch(1, 0, 0, 10), 100);
    producers.apply(&batch(1, 0, 10, 5), 200);
    producers.apply(&marker, 300);
    let last = producers.last_records();
    assert!(!last.hold(&at(batch(1, 0, 0, 10), 100)));
    assert!(last.hold(&at(batch(1, 0, 10, 5), 200)));
    assert!(last.hold(&at(marker, 300)) && !last.hold(&at(BatchHeader { producer_epoch: 3, ..marker }, 290)));
    assert!(!last.hold(&at(batch(3, 0, 0, 1), 400)) && !last.hold(&at(batch(-1, -1, -1, 1), 500)));
}
