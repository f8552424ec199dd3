//! Checks the records of a payload that comes in pieces, without holding more than one piece.

use std::ops::ControlFlow;

use super::record::{RecordError, read_record};

/// The fields of a record that checks and look-ups need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// Offset, less the batch's base offset.
    pub offset_delta: i32,
    /// Timestamp in ms, less the batch's base timestamp.
    pub timestamp_delta: i64,
    /// False for a null key.
    pub has_key: bool,
}

/// The part of a record that the next byte belongs to; lengths count down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Length,
    Attributes,
    Timestamp,
    Offset,
    KeyLength,
    Key(usize),
    ValueLength,
    Value(usize),
    HeaderCount,
    HeaderKeyLength,
    HeaderKey(usize),
    HeaderValueLength,
    HeaderValue(usize),
}

/// Checks records exactly as [`super::record::Records`] does: what passes here can be read there.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// Records still to come, the current one included.
    left: i32,
    part: Part,
    /// Bits and bytes of the number that is being read.
    number: (u64, u32),
    /// Bytes of the current record still to come.
    body: usize,
    headers: i32,
    front: Front,
}

const VARINT: RecordError = RecordError::Malformed("varint");
const TOO_LONG: RecordError = RecordError::Malformed("a field is longer than its record");

impl Scanner {
    /// For `count` records, nothing more and nothing less.
    pub fn new(count: i32) -> Scanner {
        let front = Front::default();
        Scanner { left: count.max(0), part: Part::Length, number: (0, 0), body: 0, headers: 0, front }
    }

    /// Takes the payload's next bytes; `visit` sees the front of every record that ends in them.
    /// A scan whose visitor breaks is over.
    pub fn feed(&mut self, mut bytes: &[u8], visit: &mut impl FnMut(Front) -> ControlFlow<()>) -> Result<ControlFlow<()>, RecordError> {
        while !bytes.is_empty() {
            let whole = self.whole_record(&mut bytes)?;
            let Some(front) = (if whole.is_some() { whole } else { self.piece(&mut bytes)? }) else {
                continue;
            };
            self.left -= 1;
            if visit(front).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The payload has ended.
    pub fn finish(&self) -> Result<(), RecordError> {
        if self.left > 0 { Err(RecordError::Truncated) } else { Ok(()) }
    }

    /// Reads a record that begins and ends in `bytes`; the usual case.
    #[inline]
    fn whole_record(&mut self, bytes: &mut &[u8]) -> Result<Option<Front>, RecordError> {
        if self.part != Part::Length || self.number.1 > 0 {
            return Ok(None);
        }
        if self.left == 0 {
            return Err(RecordError::Remaining(bytes.len()));
        }
        let mut rest = *bytes;
        match read_record(&mut rest) {
            Ok(record) => {
                *bytes = rest;
                let (offset_delta, timestamp_delta) = (record.offset_delta, record.timestamp_delta);
                Ok(Some(Front { offset_delta, timestamp_delta, has_key: record.key.is_some() }))
            }
            Err(RecordError::Truncated) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads on in a record that is cut by a piece's end; its front once it is whole.
    fn piece(&mut self, bytes: &mut &[u8]) -> Result<Option<Front>, RecordError> {
        let next = match self.part {
            Part::Length => {
                let Some(len) = self.varint(bytes)? else { return Ok(None) };
                let negative = RecordError::Malformed("negative record size");
                self.body = usize::try_from(len).map_err(|_| negative)?;
                Part::Attributes
            }
            Part::Attributes => {
                self.byte(bytes);
                Part::Timestamp
            }
            Part::Timestamp => {
                let Some(raw) = self.number(bytes, 10)? else { return Ok(None) };
                self.front.timestamp_delta = (raw >> 1) as i64 ^ -((raw & 1) as i64);
                Part::Offset
            }
            Part::Offset => {
                let Some(delta) = self.varint(bytes)? else { return Ok(None) };
                self.front.offset_delta = delta;
                Part::KeyLength
            }
            Part::KeyLength => {
                let Some(len) = self.length(bytes)? else { return Ok(None) };
                self.front.has_key = len.is_some();
                Part::Key(len.unwrap_or(0))
            }
            Part::Key(len) => Part::Key(self.skip(bytes, len)),
            Part::ValueLength => {
                let Some(len) = self.length(bytes)? else { return Ok(None) };
                Part::Value(len.unwrap_or(0))
            }
            Part::Value(len) => Part::Value(self.skip(bytes, len)),
            Part::HeaderCount => {
                let Some(count) = self.varint(bytes)? else { return Ok(None) };
                // A header takes two bytes at least.
                if count < 0 || count as usize > self.body / 2 {
                    return Err(RecordError::Malformed("header count"));
                }
                self.headers = count;
                Part::HeaderValue(0)
            }
            Part::HeaderKeyLength => {
                let Some(len) = self.length(bytes)? else { return Ok(None) };
                self.headers -= 1;
                Part::HeaderKey(len.ok_or(RecordError::Malformed("header key is null"))?)
            }
            Part::HeaderKey(len) => Part::HeaderKey(self.skip(bytes, len)),
            Part::HeaderValueLength => {
                let Some(len) = self.length(bytes)? else { return Ok(None) };
                Part::HeaderValue(len.unwrap_or(0))
            }
            Part::HeaderValue(len) => Part::HeaderValue(self.skip(bytes, len)),
        };
        self.enter(next)
    }

    /// Goes on with `next`, or behind it if it has no bytes; the record's front at its end.
    fn enter(&mut self, next: Part) -> Result<Option<Front>, RecordError> {
        self.part = match next {
            Part::Key(0) => Part::ValueLength,
            Part::Value(0) => Part::HeaderCount,
            Part::HeaderKey(0) => Part::HeaderValueLength,
            Part::HeaderValue(0) if self.headers > 0 => Part::HeaderKeyLength,
            Part::HeaderValue(0) if self.body > 0 => {
                return Err(RecordError::Malformed("record size"));
            }
            Part::HeaderValue(0) => {
                self.part = Part::Length;
                return Ok(Some(std::mem::take(&mut self.front)));
            }
            next => next,
        };
        if self.body == 0 { Err(TOO_LONG) } else { Ok(None) }
    }

    /// The next byte. The caller knows that there is one, and that the record has room for it.
    fn byte(&mut self, bytes: &mut &[u8]) -> u8 {
        let first = bytes[0];
        *bytes = &bytes[1..];
        if self.part != Part::Length {
            self.body -= 1;
        }
        first
    }

    /// Steps over up to `len` bytes; how many of them are left.
    fn skip(&mut self, bytes: &mut &[u8], len: usize) -> usize {
        let now = len.min(bytes.len());
        *bytes = &bytes[now..];
        self.body -= now;
        len - now
    }

    /// The length of a nullable field, which the record has room for. `None`: more bytes needed.
    fn length(&mut self, bytes: &mut &[u8]) -> Result<Option<Option<usize>>, RecordError> {
        match self.varint(bytes)? {
            None => Ok(None),
            Some(-1) => Ok(Some(None)),
            Some(len) => {
                let len = usize::try_from(len);
                let len = len.map_err(|_| RecordError::Malformed("negative size"))?;
                if len > self.body { Err(TOO_LONG) } else { Ok(Some(Some(len))) }
            }
        }
    }

    fn varint(&mut self, bytes: &mut &[u8]) -> Result<Option<i32>, RecordError> {
        let Some(raw) = self.number(bytes, 5)? else { return Ok(None) };
        let raw = u32::try_from(raw).map_err(|_| VARINT)?;
        Ok(Some((raw >> 1) as i32 ^ -((raw & 1) as i32)))
    }

    /// A base-128 number of at most `most` bytes; `None`: more bytes needed.
    fn number(&mut self, bytes: &mut &[u8], most: u32) -> Result<Option<u64>, RecordError> {
        while !bytes.is_empty() {
            let byte = self.byte(bytes);
            let (value, count) = self.number;
            if count == 9 && byte > 1 {
                return Err(VARINT);
            }
            self.number = (value | u64::from(byte & 0x7f) << (7 * count), count + 1);
            if byte < 0x80 {
                return Ok(Some(std::mem::take(&mut self.number).0));
            }
            if count + 1 == most {
                return Err(VARINT);
            }
            if self.body == 0 && self.part != Part::Length {
                return Err(TOO_LONG);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::{Records, put_record, put_record_with_headers};
    use super::*;

    /// The fronts of the records before the first error, and that.
    type Seen = (Vec<Front>, Option<RecordError>);

    fn scanned(payload: &[u8], count: i32, piece: usize) -> Seen {
        let mut scanner = Scanner::new(count);
        let mut seen = Vec::new();
        let mut visit = |front| {
            seen.push(front);
            ControlFlow::Continue(())
        };
        let fed = payload.chunks(piece).try_for_each(|piece| scanner.feed(piece, &mut visit).map(|_| ()));
        let error = fed.and_then(|()| scanner.finish()).err();
        (seen, error)
    }

    fn read(payload: &[u8], count: i32) -> Seen {
        let (mut seen, mut failed) = (Vec::new(), None);
        for record in Records::new(payload, count) {
            match record {
                Ok(r) => {
                    let (offset_delta, timestamp_delta) = (r.offset_delta, r.timestamp_delta);
                    seen.push(Front { offset_delta, timestamp_delta, has_key: r.key.is_some() });
                }
                Err(error) => failed = Some(error),
            }
        }
        (seen, failed)
    }

    /// Asserts that scanning in pieces of any length says what reading says.
    fn agree(payload: &[u8], count: i32, piece: usize) {
        let ((mut front, error), (read, expected)) = (scanned(payload, count, piece), read(payload, count));
        match (&error, &expected) {
            // How many bytes are too many, or what is wrong in a record that is cut off, may be told otherwise.
            (Some(RecordError::Remaining(_)), Some(RecordError::Remaining(_))) => {}
            (Some(RecordError::Malformed(_)), Some(RecordError::Truncated)) => {}
            _ => assert_eq!(error, expected, "{payload:?} {count} {piece}"),
        }
        front.truncate(read.len());
        assert_eq!(front, read, "{payload:?} {count} {piece}");
    }

    type Field = Option<Vec<u8>>;
    type Owned = (Field, Field, i64, Vec<(String, Field)>);

    fn payload(records: &[Owned]) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, (key, value, time, headers)) in (0..).zip(records) {
            let (key, value) = (key.as_deref(), value.as_deref());
            if headers.is_empty() {
                put_record(&mut out, index, *time, key, value);
            } else {
                put_record_with_headers(&mut out, (index, *time), key, value, headers);
            }
        }
        out
    }

    fn any_records() -> impl Strategy<Value = Vec<Owned>> {
        let field = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100));
        let headers = proptest::collection::vec(("[a-z]{0,3}", field()), 0..3);
        proptest::collection::vec((field(), field(), any::<i64>(), headers), 0..6)
    }

    #[test]
    fn every_piece_length_says_the_same() {
        let headers = vec![("h".to_owned(), Some(b"v".to_vec())), (String::new(), None)];
        let records = [
            (Some(b"key".to_vec()), Some(vec![7; 300]), i64::MIN, vec![]),
            (None, None, i64::MAX, headers),
            (Some(vec![]), Some(vec![]), -3, vec![]),
        ];
        let payload = payload(&records);
        for piece in 1..payload.len() + 1 {
            for count in [-1, 0, 1, 2, 3, 4, i32::MAX] {
                agree(&payload, count, piece);
            }
            for len in 0..payload.len() {
                agree(&payload[..len], 3, piece);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn scanning_agrees_with_reading(
            records in any_records(),
            more in -1..2i32,
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            piece in 1..40usize,
        ) {
            let mut payload = payload(&records);
            for (at, byte) in changes {
                if !payload.is_empty() {
                    let at = at.index(payload.len());
                    payload[at] = byte;
                }
            }
            agree(&payload, records.len() as i32 + more, piece);
        }

        #[test]
        fn arbitrary_bytes_agree_too(bytes in proptest::collection::vec(any::<u8>(), 0..60), piece in 1..9usize) {
            agree(&bytes, 3, piece);
        }
    }
}
