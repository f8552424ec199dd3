//! The payload of an uncompressed batch.
#![no_main]

use corelane::wire::record::Records;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for count in [0, 1, 3, i32::MAX] {
        let mut seen = 0;
        for record in Records::new(data, count).map_while(Result::ok) {
            seen += 1;
            let inside = |field: &[u8]| field.is_empty() || data.as_ptr_range().contains(&field.as_ptr());
            assert!(inside(record.key.unwrap_or_default()) && inside(record.value.unwrap_or_default()));
            assert!(record.headers().count() <= data.len());
        }
        assert!(seen <= count && seen as usize <= data.len());
    }
});
