//! Kafka's primitive types, as far as the generator's few fixed request versions need them.

use std::io;

/// Error of a response that does not have the form of its version.
pub fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed response ({what}): is this a Kafka broker?"))
}

/// Appends Kafka's types to a buffer.
pub trait Put {
    fn i8(&mut self, value: i8);
    fn i16(&mut self, value: i16);
    fn i32(&mut self, value: i32);
    fn i64(&mut self, value: i64);
    /// Unsigned varint.
    fn uvarint(&mut self, value: u64);
    /// Signed, zigzag varint, as records use it.
    fn varint(&mut self, value: i64);
    /// STRING.
    fn string(&mut self, value: &str);
    /// COMPACT_STRING.
    fn compact_string(&mut self, value: &str);
}

impl Put for Vec<u8> {
    fn i8(&mut self, value: i8) {
        self.extend(value.to_be_bytes());
    }
    fn i16(&mut self, value: i16) {
        self.extend(value.to_be_bytes());
    }
    fn i32(&mut self, value: i32) {
        self.extend(value.to_be_bytes());
    }
    fn i64(&mut self, value: i64) {
        self.extend(value.to_be_bytes());
    }
    fn uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }
    fn varint(&mut self, value: i64) {
        self.uvarint(((value << 1) ^ (value >> 63)) as u64);
    }
    fn string(&mut self, value: &str) {
        self.i16(value.len() as i16);
        self.extend(value.as_bytes());
    }
    fn compact_string(&mut self, value: &str) {
        self.uvarint(value.len() as u64 + 1);
        self.extend(value.as_bytes());
    }
}

/// Start of a request with its size still 0. `flexible` adds the empty tagged fields of header version 2.
pub fn request(api_key: i16, version: i16, flexible: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.i32(0);
    out.i16(api_key);
    out.i16(version);
    out.i32(0);
    out.string("load");
    if flexible {
        out.uvarint(0);
    }
    out
}

/// Where the correlation id of a request stands.
pub const CORRELATION_ID: usize = 8;

/// Writes the size in front of a whole request that is followed by `more` bytes.
pub fn seal(frame: &mut [u8], more: usize) {
    let size = (frame.len() - 4 + more) as i32;
    frame[..4].copy_from_slice(&size.to_be_bytes());
}

/// Reads Kafka's types from a received slice.
pub struct Take<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Take<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn slice(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let slice = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| malformed("too short"))?;
        self.at += length;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.slice(N)?.try_into().map_err(|_| malformed("too short"))
    }

    pub fn i8(&mut self) -> io::Result<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }
    pub fn i16(&mut self) -> io::Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }
    pub fn i32(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }
    pub fn i64(&mut self) -> io::Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub fn uvarint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.array::<1>()?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("varint"))
    }

    /// Length of an ARRAY; null is empty.
    pub fn length(&mut self) -> io::Result<usize> {
        Ok(self.i32()?.max(0) as usize)
    }

    /// Length of a COMPACT_ARRAY, COMPACT_STRING or COMPACT_BYTES; null is empty.
    pub fn compact_length(&mut self) -> io::Result<usize> {
        Ok(self.uvarint()?.saturating_sub(1) as usize)
    }

    /// STRING or NULLABLE_STRING; null is empty.
    pub fn string(&mut self) -> io::Result<String> {
        let length = self.i16()?.max(0) as usize;
        Ok(String::from_utf8_lossy(self.slice(length)?).into_owned())
    }

    /// Tagged fields, skipped.
    pub fn tags(&mut self) -> io::Result<()> {
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let length = self.uvarint()?;
            self.slice(length as usize)?;
        }
        Ok(())
    }
}
