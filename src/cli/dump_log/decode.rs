//! What a record holds, as text.

use super::coordinator::Coordinator;
use super::json::json;
use super::{Failed, failed};
use crate::cli::tool::java_text;
use crate::wire::kraft;
use crate::wire::record::Record;
use crate::wire::schema::{Fields, Schema, Value};

/// The decoder where none is asked for.
pub const STRING: &str = "org.apache.kafka.tools.api.StringDecoder";

/// How keys and values are read.
#[derive(Debug)]
pub enum Decoder {
    /// Bytes that stand for themselves.
    Plain { key: Plain, value: Plain },
    /// The records of a coordinator.
    Coordinator(Coordinator),
    /// The records of Kafka's metadata log.
    Metadata,
}

/// What a plain key or value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// UTF-8.
    Text,
    /// Four bytes.
    Int,
    /// Eight bytes.
    Long,
}

/// The decoder of that class name.
pub fn plain(class: &str) -> Result<Plain, Failed> {
    match class.strip_prefix("org.apache.kafka.tools.api.").unwrap_or(class) {
        "StringDecoder" => Ok(Plain::Text),
        "IntegerDecoder" => Ok(Plain::Int),
        "LongDecoder" => Ok(Plain::Long),
        _ => failed(format!("Failed to load decoder class {class}: there are StringDecoder, IntegerDecoder and LongDecoder")),
    }
}

impl Plain {
    fn decode(self, bytes: &[u8], offset: i64) -> Result<String, Failed> {
        let number = match self {
            Plain::Text => return Ok(java_text(bytes)),
            Plain::Int => bytes.first_chunk().map(|bytes| i32::from_be_bytes(*bytes).to_string()),
            Plain::Long => bytes.first_chunk().map(|bytes| i64::from_be_bytes(*bytes).to_string()),
        };
        number.ok_or_else(|| Failed::Message(format!("the record at offset {offset} is too short for its decoder: {} bytes", bytes.len())))
    }
}

impl Decoder {
    /// A record's key and value.
    pub fn decode(&self, record: &Record, offset: i64) -> Result<(Option<String>, Option<String>), Failed> {
        match self {
            Decoder::Plain { key, value } => {
                let key = record.key.map(|bytes| key.decode(bytes, offset)).transpose()?;
                Ok((key, record.value.map(|bytes| value.decode(bytes, offset)).transpose()?))
            }
            Decoder::Coordinator(coordinator) => coordinator.decode(record, offset).or_else(failed),
            Decoder::Metadata => Ok((None, Some(metadata(record, offset)))),
        }
    }
}

fn metadata(record: &Record, offset: i64) -> String {
    let record = match kraft::decode(record.value.unwrap_or_default()) {
        Ok(record) => record,
        Err(error) => return format!("Error at {offset}, skipping. {error}"),
    };
    json(&Value::Fields(Fields(vec![
        ("type", Value::Text(kind_name(record.name))),
        ("version", Value::Int(record.version.into())),
        ("data", Value::Fields(record.fields)),
    ])))
}

/// `TopicRecord` as `TOPIC_RECORD`.
fn kind_name(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

const VOTER: &str = "version:i16 leaderId:i32 voters:[{voterId:i32 voterDirectoryId:uuid@1}] \
                     grantingVoters:[{voterId:i32 voterDirectoryId:uuid@1}]";
const VOTERS: &str = "version:i16 voters:[{voterId:i32 voterDirectoryId:uuid endpoints:[{name:str host:str port:u16}] \
                      kRaftVersionFeature:{minSupportedVersion:i16 maxSupportedVersion:i16}}]";

/// Kinds of control records from number 2 on, those of Kafka's metadata log: how they are announced, newest version, fields.
const CONTROLS: [(&str, i16, &str); 5] = [
    (" LeaderChange: ", 1, VOTER),
    (" SnapshotHeader ", 0, "version:i16 lastContainedLogTimestamp:i64"),
    (" SnapshotFooter ", 0, "version:i16"),
    (" KRaftVersion ", 0, "version:i16 kRaftVersion:i16"),
    (" KRaftVoters ", 0, VOTERS),
];

/// What a control record says, with a space in front.
pub fn control(record: &Record) -> Result<String, Failed> {
    let short = |bytes: &[u8], at: usize| bytes.get(at..at + 2).map(|b| i16::from_be_bytes([b[0], b[1]]));
    let key = record.key.unwrap_or_default();
    let Some(kind) = short(key, 2) else {
        let text = "Invalid value size found for end control record key. Must have at least 4 bytes, but found only";
        return failed(format!("{text} {}", key.len()));
    };
    let value = record.value.unwrap_or_default();
    if kind == 0 || kind == 1 {
        let Some(epoch) = value.get(2..).and_then(|rest| rest.first_chunk()) else {
            let text = "Invalid value size found for end transaction marker. Must have at least 6 bytes, but found only";
            return failed(format!("{text} {}", value.len()));
        };
        let name = if kind == 0 { "ABORT" } else { "COMMIT" };
        return Ok(format!(" endTxnMarker: {name} coordinatorEpoch: {}", i32::from_be_bytes(*epoch)));
    }
    let Some((head, newest, fields)) = usize::try_from(kind - 2).ok().and_then(|at| CONTROLS.get(at)) else {
        return Ok(format!(" controlType: UNKNOWN({kind})"));
    };
    let version = short(value, 0).unwrap_or(-1).clamp(0, *newest);
    let schema = Schema::new(kind, head, *newest, 0, fields);
    let (fields, _) = schema.decode(version, value).or_else(|e| failed(format!("control record of type {kind}: {e}")))?;
    Ok(format!("{head}{}", json(&Value::Fields(fields))))
}
