//! Reads `tests/golden`: bytes that Kafka's own classes wrote, and the fields that they read back.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A line of a golden file.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Message, version and variant.
    pub name: String,
    /// Key of a coordinator's record.
    pub key: Vec<u8>,
    /// The message; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Fields by Kafka's names.
    pub fields: Value,
}

/// The lines of a file.
pub(crate) fn cases(file: &str) -> Vec<Case> {
    let cases: Vec<Case> = read(file).lines().map(case).collect();
    assert!(cases.len() > 5, "{file}: {} lines", cases.len());
    cases
}

fn case(line: &str) -> Case {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().expect("four words");
    let (name, key, value) = (word().to_owned(), bytes(word()), bytes(word()));
    let fields = serde_json::from_str(word()).expect("JSON");
    Case { name, key: key.unwrap_or_default(), value, fields }
}

/// A case, and the key and value that Corelane writes for it.
pub(crate) type Ours<'a> = (&'a Case, Vec<u8>, Option<Vec<u8>>);

/// Where Corelane's bytes differ from Kafka's, they are in a file of their own, from which Kafka's
/// classes must read the same (`scripts/golden`, which sets GOLDEN=write). One line per case.
pub(crate) fn check_ours(file: &str, ours: &[Ours<'_>]) {
    let line = |(case, key, value): &Ours<'_>| {
        let key = if key.is_empty() { "-".into() } else { hex(key) };
        format!("{} {key} {}\n", case.name, value.as_ref().map_or("-".into(), |value| hex(value)))
    };
    let text: String = ours.iter().map(line).collect();
    if std::env::var("GOLDEN").as_deref() == Ok("write") {
        std::fs::write(path(file), &text).expect("a writable source tree");
    }
    assert!(read(file) == text, "{file} is out of date: run scripts/golden. It should be\n{text}");
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

/// The text of a golden file.
pub(crate) fn read(file: &str) -> String {
    std::fs::read_to_string(path(file)).expect("a golden file")
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (hex != "-").then(|| (0..hex.len()).step_by(2).map(byte).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes in the form that they have in Kafka's JSON.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = |at: usize| DIGITS[(bits >> (18 - 6 * at) & 63) as usize] as char;
        out.extend((0..4).map(|at| if at <= chunk.len() { digit(at) } else { '=' }));
    }
    out
}
