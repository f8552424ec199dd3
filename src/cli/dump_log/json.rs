//! Decoded messages as JSON, in the spelling of Kafka's tool.

use std::fmt::Write;

use crate::wire::schema::Value;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// One value without spaces.
pub fn json(value: &Value) -> String {
    let mut out = String::new();
    put(&mut out, value);
    out
}

fn put(out: &mut String, value: &Value) {
    // Writing to a string cannot fail.
    let _ = match value {
        Value::Null => write!(out, "null"),
        Value::Bool(value) => write!(out, "{value}"),
        Value::Int(value) => write!(out, "{value}"),
        Value::Float(value) => write!(out, "{value:?}"),
        Value::Uuid(value) => write!(out, "\"{value}\""),
        Value::Text(value) => {
            put_text(out, value);
            Ok(())
        }
        Value::Bytes(value) => write!(out, "\"{}\"", base64(value)),
        Value::List(list) => {
            put_all(out, ['[', ']'], list.iter(), put);
            Ok(())
        }
        Value::Fields(fields) => {
            put_all(out, ['{', '}'], fields.0.iter(), |out, (name, value)| {
                put_text(out, name);
                out.push(':');
                put(out, value);
            });
            Ok(())
        }
    };
}

fn put_all<T>(out: &mut String, [open, close]: [char; 2], items: impl Iterator<Item = T>, mut each: impl FnMut(&mut String, T)) {
    out.push(open);
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(',');
        }
        each(out, item);
    }
    out.push(close);
}

fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let c = BASE64[(bits >> (18 - 6 * digit) & 63) as usize] as char;
            out.push(if digit <= chunk.len() { c } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::schema::Fields;

    #[test]
    fn values() {
        let list = Value::List(vec![Value::Int(-1), Value::Null, Value::Bool(true), Value::Float(1.0)]);
        let all = Value::Fields(Fields(vec![("a", list), ("b", Value::Text("q\"\\\n\u{1}é".into())), ("c", Value::List(vec![]))]));
        assert_eq!(json(&all), r#"{"a":[-1,null,true,1.0],"b":"q\"\\\n\u0001é","c":[]}"#);
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")] {
            assert_eq!(base64(bytes), text);
        }
    }
}
