//! Reading and writing the protocol's primitive types, in the classic and the flexible (KIP-482) form.

use bytes::{BufMut, BytesMut};

use super::WireError;

/// A cursor over received bytes. Nothing it returns is copied, nothing is reserved from a length it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! big_endian {
    ($($name:ident: $int:ty),*) => {
        $(#[inline]
        pub(crate) fn $name(&mut self) -> Result<$int, WireError> {
            let (head, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
            self.rest = rest;
            Ok(<$int>::from_be_bytes(*head))
        })*
    };
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    big_endian!(u8: u8, i16: i16, i32: i32, i64: i64);

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn uuid(&mut self) -> Result<[u8; 16], WireError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Unsigned base-128 number of at most 32 bits.
    #[inline]
    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, WireError> {
        let byte = self.u8()?;
        if byte < 0x80 {
            return Ok(byte.into());
        }
        let value = self.long_varint(byte, 5)?;
        u32::try_from(value).map_err(|_| WireError::Malformed("varint"))
    }

    /// Zigzag base-128 number of at most 32 bits, as records use it.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<i32, WireError> {
        let raw = self.unsigned_varint()?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// Zigzag base-128 number of at most 64 bits.
    #[inline]
    pub(crate) fn varlong(&mut self) -> Result<i64, WireError> {
        let byte = self.u8()?;
        let raw = if byte < 0x80 { byte.into() } else { self.long_varint(byte, 10)? };
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// The rest of a number whose first byte says that more follow. Padded encodings pass, as with Kafka; bits beyond the 64th do not.
    fn long_varint(&mut self, first: u8, max_bytes: u32) -> Result<u64, WireError> {
        let mut value = u64::from(first & 0x7f);
        for i in 1..max_bytes {
            let byte = self.u8()?;
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Malformed("varint"))
    }

    /// A nullable string with a 16-bit length.
    pub(crate) fn classic_string(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        match self.i16()? {
            -1 => Ok(None),
            len => Ok(Some(self.take(usize::try_from(len).map_err(|_| WireError::Malformed("string length"))?)?)),
        }
    }

    /// A nullable string in the form of the message's version; its bytes are not checked to be UTF-8.
    pub(crate) fn string(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, WireError> {
        if flexible { self.compact_bytes() } else { self.classic_string() }
    }

    /// A nullable byte string in the form of the message's version.
    pub(crate) fn bytes(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, WireError> {
        if flexible {
            return self.compact_bytes();
        }
        match self.i32()? {
            -1 => Ok(None),
            len => Ok(Some(self.take(usize::try_from(len).map_err(|_| WireError::Malformed("bytes length"))?)?)),
        }
    }

    fn compact_bytes(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        match self.unsigned_varint()? {
            0 => Ok(None),
            len => Ok(Some(self.take(len as usize - 1)?)),
        }
    }

    /// The element count of an array that may not be null. More elements than bytes left are refused (CVE-2022-34917).
    pub(crate) fn array_len(&mut self, flexible: bool) -> Result<usize, WireError> {
        self.nullable_array_len(flexible)?.ok_or(WireError::Malformed("array length"))
    }

    /// As [`Reader::array_len`]; `None` is a null array.
    pub(crate) fn nullable_array_len(&mut self, flexible: bool) -> Result<Option<usize>, WireError> {
        let len = if flexible { i64::from(self.unsigned_varint()?) - 1 } else { self.i32()?.into() };
        match usize::try_from(len) {
            _ if len == -1 => Ok(None),
            Ok(len) if len <= self.rest.len() => Ok(Some(len)),
            _ => Err(WireError::Malformed("array length")),
        }
    }

    /// Steps over a tagged field section, whatever is in it.
    pub(crate) fn skip_tags(&mut self) -> Result<(), WireError> {
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let len = self.unsigned_varint()?;
            self.take(len as usize)?;
        }
        Ok(())
    }
}

/// Appends one unsigned base-128 number.
pub(crate) fn put_unsigned_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends one zigzag base-128 number; a 32-bit value has the same bytes as a `varint`.
pub(crate) fn put_varlong(out: &mut impl BufMut, value: i64) {
    put_unsigned_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends the element count of an array.
pub(crate) fn put_array_len(out: &mut BytesMut, flexible: bool, len: usize) {
    if flexible {
        put_unsigned_varint(out, len as u64 + 1);
    } else {
        out.put_i32(len as i32);
    }
}

/// Appends a nullable string, cut to what the classic form's 16-bit length can say.
pub(crate) fn put_string(out: &mut BytesMut, flexible: bool, text: Option<&str>) {
    let Some(text) = text else {
        return if flexible { out.put_u8(0) } else { out.put_i16(-1) };
    };
    let text = &text[..text.floor_char_boundary(i16::MAX as usize)];
    if flexible {
        put_unsigned_varint(out, text.len() as u64 + 1);
    } else {
        out.put_i16(text.len() as i16);
    }
    out.put_slice(text.as_bytes());
}

/// Appends an empty tagged field section where the version has one.
pub(crate) fn put_no_tags(out: &mut BytesMut, flexible: bool) {
    if flexible {
        out.put_u8(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for value in [0, 1, -1, 63, -64, 64, 300, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN] {
            let mut out = BytesMut::new();
            put_varlong(&mut out, value);
            assert_eq!(Reader::new(&out).varlong(), Ok(value));
            assert_eq!(Reader::new(&out).varint().ok().map(i64::from), i32::try_from(value).ok().map(i64::from));
        }
    }

    #[test]
    fn hostile_numbers_are_errors() {
        assert_eq!(Reader::new(&[0xff; 4]).unsigned_varint(), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[0xff; 16]).unsigned_varint(), Err(WireError::Malformed("varint")));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).unsigned_varint(), Err(WireError::Malformed("varint")));
        assert_eq!(Reader::new(&[0xff; 16]).varlong(), Err(WireError::Malformed("varint")));
        assert_eq!(Reader::new(&[0x81, 0x00]).unsigned_varint(), Ok(1), "padded");
        assert!(Reader::new(&[0x7f, 0xff, 0xff, 0xff]).array_len(false).is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff]).array_len(false).is_err());
        assert!(Reader::new(&[0]).array_len(true).is_err());
        assert!(Reader::new(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).skip_tags().is_err());
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let mut out = BytesMut::new();
        put_string(&mut out, false, Some(&"é".repeat(20_000)));
        let text = Reader::new(&out).string(false).unwrap().unwrap();
        assert_eq!(std::str::from_utf8(text).unwrap().chars().count(), 16_383);
    }
}
