//! How a record is printed: Kafka's DefaultMessageFormatter. Pure.

use std::collections::BTreeMap;

use super::super::tool::flag;
use crate::client::records::Received;
use crate::wire::batch::TimestampType;

/// How bytes become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Decoder {
    /// As they are.
    #[default]
    Bytes,
    /// A big-endian number of that many bytes.
    Whole(usize),
    /// A big-endian floating-point number of 4 or 8 bytes.
    Float(usize),
}

/// The classes of Java's deserializers that have a counterpart here.
const DECODERS: [(&str, Decoder); 10] = [
    ("StringDeserializer", Decoder::Bytes),
    ("ByteArrayDeserializer", Decoder::Bytes),
    ("BytesDeserializer", Decoder::Bytes),
    ("ByteBufferDeserializer", Decoder::Bytes),
    ("ShortDeserializer", Decoder::Whole(2)),
    ("IntegerDeserializer", Decoder::Whole(4)),
    ("LongDeserializer", Decoder::Whole(8)),
    ("FloatDeserializer", Decoder::Float(4)),
    ("DoubleDeserializer", Decoder::Float(8)),
    ("UUIDDeserializer", Decoder::Bytes),
];

/// Prints records.
#[derive(Clone, Debug)]
pub struct Formatter {
    print: Columns,
    key_separator: String,
    line_separator: String,
    headers_separator: String,
    null_literal: String,
    key: Decoder,
    value: Decoder,
    headers: Decoder,
}

#[derive(Clone, Copy, Debug)]
struct Columns {
    timestamp: bool,
    partition: bool,
    offset: bool,
    delivery: bool,
    epoch: bool,
    headers: bool,
    key: bool,
    value: bool,
}

impl Formatter {
    /// A formatter with these properties; others do not count.
    pub fn new(properties: &BTreeMap<String, String>) -> Result<Formatter, String> {
        let text = |name: &str, default: &str| properties.get(name).cloned().unwrap_or_else(|| default.to_owned());
        let decoder = |name: &str| match properties.get(name).map(|class| class.rsplit('.').next().unwrap_or_default()) {
            None => Ok(Decoder::default()),
            Some(class) => match DECODERS.iter().find(|(known, _)| *known == class) {
                Some((_, decoder)) => Ok(*decoder),
                None => Err(format!("{name}={}: classes of Java cannot be loaded; known are {}", properties[name], known())),
            },
        };
        Ok(Formatter {
            print: Columns {
                timestamp: flag(properties, "print.timestamp"),
                partition: flag(properties, "print.partition"),
                offset: flag(properties, "print.offset"),
                delivery: flag(properties, "print.delivery"),
                epoch: flag(properties, "print.epoch"),
                headers: flag(properties, "print.headers"),
                key: flag(properties, "print.key"),
                value: !properties.contains_key("print.value") || flag(properties, "print.value"),
            },
            key_separator: text("key.separator", "\t"),
            line_separator: text("line.separator", "\n"),
            headers_separator: text("headers.separator", ","),
            null_literal: text("null.literal", "null"),
            key: decoder("key.deserializer")?,
            value: decoder("value.deserializer")?,
            headers: decoder("headers.deserializer")?,
        })
    }

    /// Appends one record; an error says what in it cannot be shown.
    pub fn put(&self, out: &mut Vec<u8>, partition: i32, record: &Received) -> Result<(), String> {
        let Columns { timestamp, partition: with_partition, offset, delivery, epoch, headers, key, value } = self.print;
        let mut columns: Vec<Vec<u8>> = Vec::new();
        if timestamp {
            let kind = if record.timestamp_type == TimestampType::LogAppendTime { "LogAppendTime" } else { "CreateTime" };
            columns.push(format!("{kind}:{}", record.timestamp).into());
        }
        if with_partition {
            columns.push(format!("Partition:{partition}").into());
        }
        if offset {
            columns.push(format!("Offset:{}", record.offset).into());
        }
        if delivery {
            columns.push("Delivery:NOT_PRESENT".into());
        }
        if epoch {
            columns.push("Epoch:NOT_PRESENT".into());
        }
        if headers {
            columns.push(self.headers(record)?);
        }
        if key {
            columns.push(self.text(self.key, record.key.as_deref())?);
        }
        if value {
            columns.push(self.text(self.value, record.value.as_deref())?);
        }
        out.extend_from_slice(&columns.join(self.key_separator.as_bytes()));
        // Without columns there is no line either, as in Kafka.
        if !columns.is_empty() {
            out.extend_from_slice(self.line_separator.as_bytes());
        }
        Ok(())
    }

    fn headers(&self, record: &Received) -> Result<Vec<u8>, String> {
        let mut texts = Vec::new();
        for (key, value) in &record.headers {
            texts.push([key.as_bytes(), b":", &self.text(self.headers, value.as_deref())?].concat());
        }
        Ok(if texts.is_empty() { b"NO_HEADERS".to_vec() } else { texts.join(self.headers_separator.as_bytes()) })
    }

    fn text(&self, decoder: Decoder, bytes: Option<&[u8]>) -> Result<Vec<u8>, String> {
        let Some(bytes) = bytes else { return Ok(self.null_literal.clone().into_bytes()) };
        let wrong = |len: usize| format!("Size of data received is not {len}");
        let padded = |len: usize| <[u8; 8]>::try_from([&vec![0; 8 - len], bytes].concat()).map_err(|_| wrong(len));
        Ok(match decoder {
            Decoder::Bytes => bytes.to_vec(),
            Decoder::Whole(len) => {
                let shift = 64 - 8 * len as u32;
                ((i64::from_be_bytes(padded(len)?) << shift) >> shift).to_string().into_bytes()
            }
            Decoder::Float(4) => format!("{:?}", f32::from_bits(i64::from_be_bytes(padded(4)?) as u32)).into_bytes(),
            Decoder::Float(_) => format!("{:?}", f64::from_be_bytes(padded(8)?)).into_bytes(),
        })
    }
}

fn known() -> String {
    DECODERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Received {
        Received {
            offset: 7,
            timestamp: 5,
            timestamp_type: TimestampType::CreateTime,
            key: None,
            value: Some(b"v".to_vec()),
            headers: vec![("h".into(), Some(b"1".to_vec())), ("i".into(), None)],
        }
    }

    fn shown(properties: &str, record: &Received) -> Result<String, String> {
        let properties = properties.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
        let mut out = Vec::new();
        Formatter::new(&properties.collect())?.put(&mut out, 3, record)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn columns() {
        assert_eq!(shown("", &record()).unwrap(), "v\n");
        assert_eq!(shown("print.key=true", &record()).unwrap(), "null\tv\n");
        let all = "print.timestamp=true print.partition=true print.offset=true print.delivery=true print.epoch=true print.headers=true print.key=true";
        assert_eq!(
            shown(all, &record()).unwrap(),
            "CreateTime:5\tPartition:3\tOffset:7\tDelivery:NOT_PRESENT\tEpoch:NOT_PRESENT\th:1,i:null\tnull\tv\n"
        );
        let words = "print.headers=true print.value=false headers.separator=; key.separator=| null.literal=NIL line.separator=$";
        assert_eq!(shown(words, &record()).unwrap(), "h:1;i:NIL$");
        let bare = Received { headers: vec![], timestamp_type: TimestampType::LogAppendTime, ..record() };
        assert_eq!(shown("print.timestamp=true print.headers=true", &bare).unwrap(), "LogAppendTime:5\tNO_HEADERS\tv\n");
        assert_eq!(shown("print.value=false", &record()).unwrap(), "");
    }

    #[test]
    fn numbers() {
        let with = |class: &str, bytes: &[u8]| {
            let record = Received { value: Some(bytes.to_vec()), ..record() };
            shown(&format!("value.deserializer=org.apache.kafka.common.serialization.{class}"), &record)
        };
        assert_eq!(with("IntegerDeserializer", &(-5i32).to_be_bytes()).unwrap(), "-5\n");
        assert_eq!(with("ShortDeserializer", &(-1i16).to_be_bytes()).unwrap(), "-1\n");
        assert_eq!(with("LongDeserializer", &i64::MIN.to_be_bytes()).unwrap(), "-9223372036854775808\n");
        assert_eq!(with("DoubleDeserializer", &1.0f64.to_be_bytes()).unwrap(), "1.0\n");
        assert_eq!(with("FloatDeserializer", &(-2.5f32).to_be_bytes()).unwrap(), "-2.5\n");
        assert_eq!(with("StringDeserializer", b"text").unwrap(), "text\n");
        for bad in [&b"12345"[..], b"123456789", b""] {
            assert!(with("IntegerDeserializer", bad).is_err());
        }
        assert!(with("MyDeserializer", b"x").is_err());
    }
}
