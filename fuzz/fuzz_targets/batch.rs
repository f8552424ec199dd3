//! The records of a produce request: batch iteration, validation, look-ups by time.
#![no_main]

use bytes::Bytes;
use corelane::base::config::Verify;
use corelane::wire::batch::{
    Batches, HEADER_LEN, Inflation, ProduceRules, TimeSearch, TimestampType, Wanted, crc_ok, validate_produce,
};
use libfuzzer_sys::fuzz_target;

fn check(records: &[u8], compacted: bool) {
    let rules = ProduceRules {
        topic: "t",
        partition: 0,
        max_message_bytes: 1 << 20,
        compacted,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        now_ms: 1_700_000_000_000,
        api_version: 13,
        verify: Verify::Full,
        codec: None,
    };
    if let Ok(header) = validate_produce(&Bytes::copy_from_slice(records), &rules) {
        // What is accepted can be read.
        let payload = Inflation::new(&header, records).and_then(Inflation::run).expect("readable");
        assert_eq!(payload.records().count(), header.records_count as usize);
        assert_eq!(header.total_len(), records.len());
        assert!(crc_ok(records) && !header.is_control() && header.next_offset() == i64::from(header.records_count));
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes: usize = Batches::new(data).map_while(Result::ok).map(|(_, batch)| batch.len()).sum();
    assert!(bytes <= data.len());
    let bytes = Bytes::copy_from_slice(data);
    for wanted in [Wanted::AtOrAfter { ts: 1, from: 1 }, Wanted::Largest] {
        let _ = TimeSearch::new(&bytes, wanted).and_then(TimeSearch::run);
    }
    check(data, false);
    check(data, true);
    if data.len() >= HEADER_LEN {
        // Past the CRC, which a fuzzer does not guess.
        let mut sealed = data.to_vec();
        let crc = crc32c::crc32c(&sealed[21..]);
        sealed[17..21].copy_from_slice(&crc.to_be_bytes());
        check(&sealed, false);
        check(&sealed, true);
    }
});
