//! Of the formatting, on files made here; `tests/interop/test_dump.py` compares with the tool of Kafka.

use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::wire::batch::{BatchSpec, KeyValue, Stamp, build_batch};
use crate::wire::compression::Compression;
use crate::wire::producer_snapshot::{self, Entry};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    dump: DumpLog,
}

/// What is printed of one file with this name and content, and what is found wrong with it.
fn dump(files: &[(&str, &[u8])], flags: &[&str]) -> (Result<(), Failed>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let path = dir.path().join(files[0].0);
    let arguments = ["dump-log", "--files", path.to_str().unwrap()];
    let arguments = Arguments::try_parse_from(arguments.iter().chain(flags)).unwrap();
    let (mut out, mut found, mut findings) = (Vec::new(), Vec::new(), Findings::default());
    let result = arguments.dump.dump(&mut out, &mut findings);
    findings.print(&mut found).unwrap();
    let dir = format!("{}/", dir.path().display());
    let text = |bytes| String::from_utf8(bytes).unwrap().replace(&dir, "");
    (result, text(out), text(found))
}

fn message(result: Result<(), Failed>) -> String {
    match result {
        Err(Failed::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

const NAME: &str = "00000000000000000007.log";

fn batch(base_offset: i64, compression: Compression, records: &[KeyValue]) -> Vec<u8> {
    build_batch(&BatchSpec { base_offset, compression, leader_epoch: 3, ..BatchSpec::default() }, records)
}

#[test]
fn batches_and_records() {
    let mut stamped = batch(9, Compression::Gzip, &[(None, Some(b"c"), 5)]);
    Stamp::LogAppendTime(99).apply(&mut stamped);
    let marker =
        BatchSpec { base_offset: 12, transactional: true, control: true, producer_id: 4, producer_epoch: 1, ..BatchSpec::default() };
    let marker = build_batch(&marker, &[(Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 2]), 7)]);
    let log = [batch(7, Compression::None, &[(Some(b"k"), Some(b"v"), 5), (Some(b"k2"), None, 6)]), stamped, marker].concat();

    let (result, out, found) = dump(&[(NAME, &log)], &["--print-data-log"]);
    result.unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["Dumping 00000000000000000007.log", "Log starting offset: 7"]);
    assert!(lines[2].starts_with(
        "baseOffset: 7 lastOffset: 8 count: 2 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 partitionLeaderEpoch: 3 \
         isTransactional: false isControl: false deleteHorizonMs: OptionalLong.empty position: 0 CreateTime: 6 size: "
    ));
    assert!(lines[2].ends_with(" isvalid: true") && lines[2].contains(" magic: 2 compresscodec: none crc: "));
    let records = [
        "| offset: 7 CreateTime: 5 keySize: 1 valueSize: 1 sequence: -1 headerKeys: [] key: k payload: v",
        "| offset: 8 CreateTime: 6 keySize: 2 valueSize: -1 sequence: -1 headerKeys: [] key: k2",
    ];
    assert_eq!(lines[3..5], records);
    assert!(lines[5].contains("LogAppendTime: 99") && lines[5].contains("compresscodec: gzip"));
    assert_eq!(lines[6], "| offset: 9 LogAppendTime: 99 keySize: -1 valueSize: 1 sequence: -1 headerKeys: [] payload: c");
    let control = "| offset: 12 CreateTime: 7 keySize: 4 valueSize: 6 sequence: -1 headerKeys: [] endTxnMarker: COMMIT coordinatorEpoch: 2";
    assert_eq!(lines[8], control);
    assert_eq!(found, "Non-consecutive offsets in 00000000000000000007.log\n  -1 is followed by 7\n  9 is followed by 12\n");

    let skipped = dump(&[(NAME, &log)], &["--print-data-log", "--skip-record-metadata"]).1;
    assert_eq!(
        skipped.lines().filter(|line| !line.contains("Offset")).skip(2).collect::<Vec<_>>(),
        ["| key: k payload: v", "| key: k2", "| payload: c", ""]
    );
    assert_eq!(dump(&[(NAME, &log)], &["--max-bytes", "100"]).1.lines().count(), 3);
    assert_eq!(dump(&[(NAME, &log)], &[]).2, "");
}

#[test]
fn indexes_are_compared_with_the_log() {
    let batches: Vec<Vec<u8>> = (0..3).map(|n| batch(7 + n, Compression::None, &[(None, Some(b"v"), 50 + n)])).collect();
    let (log, len) = (batches.concat(), batches[0].len() as i32);
    let entry = |offset: i32, position: i32| [offset.to_be_bytes(), position.to_be_bytes()].concat();
    let time = |time: i64, offset: i32| [&time.to_be_bytes()[..], &offset.to_be_bytes()].concat();
    let index = [entry(1, len), entry(2, len * 2), vec![0; 16]].concat();
    let times = [time(51, 1), time(52, 2), vec![0; 12]].concat();
    let (log_name, index_name, time_name) = ("00000000000000000007.log", "00000000000000000007.index", "00000000000000000007.timeindex");
    let offsets = |index: &[u8], flags: &[&str]| dump(&[(index_name, index), (log_name, &log)], flags);
    let times_of = |times: &[u8], flags: &[&str]| dump(&[(time_name, times), (index_name, &index), (log_name, &log)], flags);

    let (result, out, found) = offsets(&index, &[]);
    result.unwrap();
    assert_eq!(out, format!("Dumping {index_name}\noffset: 8 position: {len}\noffset: 9 position: {}\n", len * 2));
    assert_eq!(found, "");
    let (_, out, found) = offsets(&entry(2, len), &["--verify-index-only"]);
    assert_eq!((out.lines().count(), &*found), (1, &*format!("Mismatches in :{index_name}\n  Index offset: 9, log offset: 8\n")));
    assert_eq!(offsets(&index, &["--index-sanity-check"]).1.lines().nth(1), Some(&*format!("{index_name} passed sanity check.")));
    assert!(message(offsets(&index[..9], &["--index-sanity-check"]).0).contains("found 9 bytes"));
    assert!(message(offsets(&entry(1, len * 9), &[]).0).starts_with("Slice from position"));
    assert!(message(offsets(&entry(1, -1), &[]).0).starts_with("Invalid position: -1"));

    let (result, out, found) = times_of(&times, &[]);
    result.unwrap();
    assert_eq!((out.lines().skip(1).collect::<Vec<_>>(), &*found), (vec!["timestamp: 51 offset: 8", "timestamp: 52 offset: 9"], ""));
    let found = times_of(&[time(60, 1), time(52, 2), time(70, 9)].concat(), &["--verify-index-only"]).2;
    let expected = [
        format!("Found timestamp mismatch in :{time_name}"),
        "  Index timestamp: 60, log timestamp: 51".into(),
        format!("Found out of order timestamp in :{time_name}"),
        "  Index timestamp: 52, Previously indexed timestamp: 60".into(),
        format!("The following indexed offsets are not found in :{time_name}"),
        "Indexed offset: 16, found log offset: -1".into(),
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn producers_and_aborted_transactions() {
    let entry = Entry {
        producer_id: 5,
        epoch: 1,
        last_sequence: 3,
        last_offset: 9,
        offset_delta: 4,
        timestamp: 77,
        coordinator_epoch: -1,
        transaction_first_offset: 6,
    };
    let none = Entry { last_sequence: -1, last_offset: -1, offset_delta: 0, transaction_first_offset: -1, ..entry };
    let (result, out, _) = dump(&[("1.snapshot", &producer_snapshot::encode([entry, none].into_iter()))], &[]);
    result.unwrap();
    let lines = [
        "Dumping 1.snapshot",
        "producerId: 5 producerEpoch: 1 coordinatorEpoch: -1 currentTxnFirstOffset: OptionalLong[6] lastTimestamp: 77 \
         firstSequence: 2147483647 lastSequence: 3 lastOffset: 9 offsetDelta: 4 timestamp: 77",
        "producerId: 5 producerEpoch: 1 coordinatorEpoch: -1 currentTxnFirstOffset: OptionalLong.empty lastTimestamp: 77",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), lines);

    let aborted: Vec<u8> = [&[0, 0][..], &5i64.to_be_bytes(), &6i64.to_be_bytes(), &9i64.to_be_bytes(), &3i64.to_be_bytes()].concat();
    let out = dump(&[("1.txnindex", &[&aborted[..], &[0; 20]].concat())], &[]).1;
    assert_eq!(out, "Dumping 1.txnindex\nversion: 0 producerId: 5 firstOffset: 6 lastOffset: 9 lastStableOffset: 3\n");
    assert!(message(dump(&[("1.txnindex", &[&[0, 1], &aborted[2..]].concat())], &[]).0).contains("version 1"));
}

#[test]
fn records_of_coordinators_and_of_the_metadata_log() {
    let text = |text: &str| [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat();
    let key = [&[0, 1][..], &text("g"), &text("t"), &[0, 0, 0, 2]].concat();
    let value = [&[0, 3][..], &9i64.to_be_bytes(), &[0xff; 4], &text("m"), &77i64.to_be_bytes()].concat();
    let records = batch(
        0,
        Compression::None,
        &[(Some(&key), Some(&value), 0), (Some(&key), None, 0), (Some(&[0, 99]), None, 0), (Some(&[0]), None, 0)],
    );
    let out = dump(&[(NAME, &records)], &["--offsets-decoder", "--skip-record-metadata"]).1;
    let lines = [
        r#"| key: {"type":"1","data":{"group":"g","topic":"t","partition":2}} payload: {"version":"3","data":{"offset":9,"leaderEpoch":-1,"metadata":"m","commitTimestamp":77}}"#,
        r#"| key: {"type":"1","data":{"group":"g","topic":"t","partition":2}} payload: <DELETE>"#,
        "| key: Unknown record type 99 at offset 2, skipping.",
        "| key: Error at offset 3, skipping. message ends inside a field",
    ];
    assert_eq!(out.lines().skip(3).collect::<Vec<_>>(), lines);
    let missing = batch(0, Compression::None, &[(None, Some(b"v"), 0)]);
    assert!(message(dump(&[(NAME, &missing)], &["--transaction-log-decoder"]).0).contains("missing key"));
    let metadata = batch(0, Compression::None, &[(None, Some(&[1, 12, 0, 2, b'm', 0, 9, 0]), 0), (None, Some(&[7]), 0)]);
    let out = dump(&[(NAME, &metadata)], &["--cluster-metadata-decoder", "--skip-record-metadata"]).1;
    let line = r#"| payload: {"type":"FEATURE_LEVEL_RECORD","version":0,"data":{"name":"m","featureLevel":9}}"#;
    assert_eq!(out.lines().nth(3), Some(line));
    assert!(out.lines().nth(4).unwrap().starts_with("| payload: Error at 1, skipping. "));
}

#[test]
fn bad_files_and_arguments() {
    let whole = batch(7, Compression::None, &[(None, Some(b"v"), 0)]);
    let torn = dump(&[(NAME, &whole[..whole.len() - 1])], &[]);
    assert_eq!(
        (torn.1.lines().last(), torn.0.is_ok()),
        (Some(&*format!("Found {} invalid bytes at the end of {NAME}", whole.len() - 1)), true)
    );
    let zeros = [&whole[..], &[0; 50]].concat();
    assert!(message(dump(&[(NAME, &zeros)], &[]).0).starts_with("Found record size 0 smaller than minimum record overhead (14) in file "));
    let mut old = whole.clone();
    old[16] = 1;
    assert!(message(dump(&[(NAME, &old)], &[]).0).contains("format 1"));
    assert_eq!(message(dump(&[("name.log", &whole)], &[]).0), "For input string: \"name\"");
    assert!(message(dump(&[("1.checkpoint", &whole)], &[]).0).contains("OFFSET-EPOCH"));
    assert!(message(dump(&[(NAME, &whole)], &["--key-decoder-class", "x.Y"]).0).starts_with("Failed to load decoder class"));
    assert!(message(dump(&[(NAME, &whole)], &["--value-decoder-class", "LongDecoder"]).0).contains("too short"));
    assert_eq!([as_java_shows("a//b/"), as_java_shows("/"), as_java_shows("")], ["a/b", "/", ""]);
}

proptest! {
    #[test]
    fn any_bytes_are_printed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), magic in any::<bool>(), kind in 0..6usize) {
        let mut bytes = bytes;
        if magic && bytes.len() > 70 {
            let len = (bytes.len() - 12) as u32;
            bytes[8..12].copy_from_slice(&len.to_be_bytes());
            bytes[16] = 2;
        }
        let name = ["7.log", "7.index", "7.timeindex", "7.snapshot", "7.txnindex", "00000000000000000000-0000000000.checkpoint"][kind];
        let flag = ["--print-data-log", "--offsets-decoder", "--cluster-metadata-decoder"][kind % 3];
        let _ = dump(&[(name, &bytes[..]), ("7.log", &bytes), ("7.index", &bytes)][..if kind < 3 { 3 } else { 1 }], &[flag]);
    }
}
