//! The records inside a batch's payload.

use std::fmt;

use super::WireError;
use super::primitive::{Reader, put_varlong};

/// Why a payload is not the records that its batch says it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The payload ends before the last record.
    Truncated,
    /// A length, count or number inside a record contradicts the record; says which.
    Malformed(&'static str),
    /// Bytes are left after the last record.
    Remaining(usize),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Truncated => f.write_str("Incorrect declared batch size, premature EOF reached"),
            RecordError::Malformed(what) => write!(f, "Found invalid record structure: {what}"),
            RecordError::Remaining(_) => f.write_str("Incorrect declared batch size, records still remaining in file"),
        }
    }
}

impl std::error::Error for RecordError {}

/// One record; its bytes stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Timestamp in ms, less the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offset, less the batch's base offset.
    pub offset_delta: i32,
    /// `None` is a null key.
    pub key: Option<&'a [u8]>,
    /// `None` is a null value: a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    headers: Headers<'a>,
    /// All that follows the timestamp.
    tail: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record's headers, known to be well formed.
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// The record with another timestamp, in two parts.
    pub(super) fn with_time(&self, timestamp_delta: i64) -> (RecordFront, &'a [u8]) {
        let mut front = RecordFront { bytes: [0; FRONT_MAX], len: 0 };
        front.put((1 + varlong_len(timestamp_delta) + self.tail.len()) as i64);
        // Attributes, of which there are none.
        front.put(0);
        front.put(timestamp_delta);
        (front, self.tail)
    }
}

/// Length and timestamp as numbers of ten bytes, and the attributes.
const FRONT_MAX: usize = 21;

/// The bytes of a record up to its timestamp.
pub(super) struct RecordFront {
    bytes: [u8; FRONT_MAX],
    len: usize,
}

impl RecordFront {
    fn put(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            self.bytes[self.len] = rest as u8 | 0x80;
            rest >>= 7;
            self.len += 1;
        }
        self.bytes[self.len] = rest as u8;
        self.len += 1;
    }
}

impl AsRef<[u8]> for RecordFront {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Goes over a record's headers: key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    rest: &'a [u8],
    count: i32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            return None;
        }
        let mut reader = Reader::new(self.rest);
        let header = read_header(&mut reader).ok()?;
        *self = Headers { rest: reader.rest(), count: self.count - 1 };
        Some(header)
    }
}

/// Goes over the records of an uncompressed payload and checks each of them whole. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    /// Records still to come; negative when the end was reported.
    left: i32,
}

impl<'a> Records<'a> {
    /// The `count` records that `payload` is to hold, nothing more and nothing less.
    pub fn new(payload: &'a [u8], count: i32) -> Records<'a> {
        Records { rest: payload, left: count.max(0) }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            let surplus = self.left == 0 && !self.rest.is_empty();
            self.left = -1;
            return surplus.then_some(Err(RecordError::Remaining(self.rest.len())));
        }
        self.left -= 1;
        let record = read_record(&mut self.rest);
        if record.is_err() {
            self.left = -1;
        }
        Some(record)
    }
}

/// Reads the record that `rest` begins with. [`RecordError::Truncated`]: it does not end there.
#[inline]
pub(super) fn read_record<'a>(rest: &mut &'a [u8]) -> Result<Record<'a>, RecordError> {
    let mut outer = Reader::new(rest);
    let len = outer.varint().map_err(cut_off)?;
    let body = outer.take(usize::try_from(len).map_err(|_| RecordError::Malformed("negative record size"))?).map_err(cut_off)?;
    *rest = outer.rest();
    read_body(&mut Reader::new(body)).map_err(|error| match error {
        WireError::Malformed(what) => RecordError::Malformed(what),
        _ => RecordError::Malformed("a field is longer than its record"),
    })
}

fn cut_off(error: WireError) -> RecordError {
    match error {
        WireError::Malformed(what) => RecordError::Malformed(what),
        _ => RecordError::Truncated,
    }
}

#[inline]
fn read_body<'a>(body: &mut Reader<'a>) -> Result<Record<'a>, WireError> {
    let _attributes = body.u8()?;
    let timestamp_delta = body.varlong()?;
    let tail = body.rest();
    let offset_delta = body.varint()?;
    let key = read_bytes(body)?;
    let value = read_bytes(body)?;
    let count = body.varint()?;
    let headers = Headers { rest: body.rest(), count };
    // A header takes two bytes at least.
    if count < 0 || count as usize > body.rest().len() / 2 {
        return Err(WireError::Malformed("header count"));
    }
    for _ in 0..count {
        read_header(body)?;
    }
    if !body.rest().is_empty() {
        return Err(WireError::Malformed("record size"));
    }
    Ok(Record { timestamp_delta, offset_delta, key, value, headers, tail })
}

#[inline]
fn read_bytes<'a>(body: &mut Reader<'a>) -> Result<Option<&'a [u8]>, WireError> {
    match body.varint()? {
        -1 => Ok(None),
        len => body.take(usize::try_from(len).map_err(|_| WireError::Malformed("negative size"))?).map(Some),
    }
}

fn read_header<'a>(body: &mut Reader<'a>) -> Result<(&'a [u8], Option<&'a [u8]>), WireError> {
    let key = read_bytes(body)?.ok_or(WireError::Malformed("header key is null"))?;
    Ok((key, read_bytes(body)?))
}

/// Appends one record without headers.
pub(super) fn put_record(out: &mut Vec<u8>, offset_delta: i32, timestamp_delta: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
    let content = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
    let numbers = [timestamp_delta, offset_delta.into(), nullable_len(key), nullable_len(value), 0];
    let prefixes: usize = numbers.into_iter().map(varlong_len).sum();
    put_varlong(out, (1 + prefixes + content) as i64);
    out.push(0);
    put_varlong(out, timestamp_delta);
    put_varlong(out, offset_delta.into());
    put_field(out, key);
    put_field(out, value);
    put_varlong(out, 0);
}

/// Appends one record with headers: key and value of each.
pub(super) fn put_record_with_headers(
    out: &mut Vec<u8>,
    (offset_delta, timestamp_delta): (i32, i64),
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(String, Option<Vec<u8>>)],
) {
    let mut body = vec![0];
    put_varlong(&mut body, timestamp_delta);
    put_varlong(&mut body, offset_delta.into());
    put_field(&mut body, key);
    put_field(&mut body, value);
    put_varlong(&mut body, headers.len() as i64);
    for (key, value) in headers {
        put_field(&mut body, Some(key.as_bytes()));
        put_field(&mut body, value.as_deref());
    }
    put_varlong(out, body.len() as i64);
    out.append(&mut body);
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    put_varlong(out, nullable_len(field));
    out.extend_from_slice(field.unwrap_or_default());
}

fn nullable_len(field: Option<&[u8]>) -> i64 {
    field.map_or(-1, |bytes| bytes.len() as i64)
}

fn varlong_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (zigzag | 1).ilog2() as usize / 7 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Vec<u8> {
        let mut out = Vec::new();
        put_record(&mut out, 0, 0, Some(b"key"), Some(b"value"));
        put_record(&mut out, 1, -3, None, Some(&[7; 300]));
        put_record(&mut out, 2, i64::MAX, Some(b""), None);
        // A record with two headers, spelled out: length, attributes, deltas 5 and 3, null key and value, "h" -> "v", "" -> null.
        let spelled = [24, 0, 10, 6, 1, 1, 4, 2, b'h', 2, b'v', 0, 1];
        let before = out.len();
        put_record_with_headers(&mut out, (3, 5), None, None, &[("h".to_owned(), Some(b"v".to_vec())), (String::new(), None)]);
        assert_eq!(out[before..], spelled);
        out
    }

    #[test]
    fn records_are_read_as_written() {
        let payload = payload();
        let records: Vec<_> = Records::new(&payload, 4).collect::<Result<_, _>>().unwrap();
        assert_eq!((records[0].key, records[0].value), (Some(&b"key"[..]), Some(&b"value"[..])));
        assert_eq!((records[1].timestamp_delta, records[1].offset_delta, records[1].key), (-3, 1, None));
        assert_eq!((records[2].timestamp_delta, records[2].key, records[2].value), (i64::MAX, Some(&b""[..]), None));
        assert_eq!(records[3].headers().collect::<Vec<_>>(), [(&b"h"[..], Some(&b"v"[..])), (b"", None)]);
        let mut again = Vec::new();
        for record in &records {
            let (front, tail) = record.with_time(record.timestamp_delta);
            again.extend([front.as_ref(), tail].concat());
        }
        assert_eq!(again, payload);
    }

    #[test]
    fn counts_must_fit() {
        let payload = payload();
        let last = |count| Records::new(&payload, count).last().unwrap();
        assert!(matches!(last(3), Err(RecordError::Remaining(13))));
        assert_eq!(last(5), Err(RecordError::Truncated));
        assert_eq!(Records::new(&payload, -1).count(), 1, "only the surplus is reported");
        assert_eq!(Records::new(&[], 0).count(), 0);
    }

    #[test]
    fn contradictions_are_errors() {
        let error = |bytes: &[u8]| Records::new(bytes, 1).next().unwrap().unwrap_err();
        assert_eq!(error(&[0x01]), RecordError::Malformed("negative record size"));
        assert_eq!(error(&[4, 0, 0]), RecordError::Malformed("a field is longer than its record"));
        assert_eq!(error(&[12, 0, 0, 0, 3, 1, 0]), RecordError::Malformed("negative size"));
        assert_eq!(error(&[12, 0, 0, 0, 1, 1, 1]), RecordError::Malformed("header count"));
        assert_eq!(error(&[16, 0, 0, 0, 1, 1, 2, 1, 1]), RecordError::Malformed("header key is null"));
        assert_eq!(error(&[14, 0, 0, 0, 1, 1, 0, 0]), RecordError::Malformed("record size"));
        assert_eq!(error(&[0xff, 0xff, 0xff, 0xff, 0xff, 1]), RecordError::Malformed("varint"));
    }
}
