//! The payload of a compressed batch: the first byte chooses the type.
#![no_main]

use corelane::wire::compression::{Compression, compress, decompress};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((code, payload)) = data.split_first() else { return };
    let compression = Compression::ALL[usize::from(*code) % Compression::ALL.len()];
    if let Ok(plain) = decompress(compression, payload, LIMIT) {
        assert!(plain.len() <= LIMIT);
        assert_eq!(decompress(compression, &compress(compression, &plain), LIMIT), Ok(plain));
    }
});
