//! Snappy as Kafka's clients write it: blocks in the framing of xerial's snappy-java, all numbers big-endian.

use std::io::{self, Read};

const MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// The magic, a version and the lowest compatible version.
const HEADER_LEN: usize = 16;
/// Payload bytes per block, as snappy-java cuts them.
const BLOCK_LEN: usize = 32 << 10;
/// A block cannot grow by more than this factor: the best that three bytes do is to copy 64.
pub(super) const MAX_GROWTH: usize = 22;

/// Yields the bytes of framed blocks, or of one bare block (as old Go and C clients send).
pub(super) struct Decoder<P> {
    payload: P,
    /// Where the next block begins.
    next: usize,
    framed: bool,
    block: Vec<u8>,
    at: usize,
    limit: usize,
}

impl<P: AsRef<[u8]>> Decoder<P> {
    /// No block may claim more than `limit` bytes.
    pub(super) fn new(payload: P, limit: usize) -> Decoder<P> {
        let bytes = payload.as_ref();
        let framed = bytes.len() >= HEADER_LEN && bytes.starts_with(MAGIC);
        let next = if framed { HEADER_LEN } else { 0 };
        Decoder { payload, next, framed, block: Vec::new(), at: 0, limit }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let rest = &self.payload.as_ref()[self.next..];
        let packed = if self.framed {
            let (len, rest) = rest.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
            let len = usize::try_from(i32::from_be_bytes(*len)).map_err(|_| io::ErrorKind::InvalidData)?;
            self.next += size_of::<i32>() + len;
            rest.get(..len).ok_or(io::ErrorKind::UnexpectedEof)?
        } else {
            self.next += rest.len();
            rest
        };
        let claimed = snap::raw::decompress_len(packed)?;
        if claimed > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if claimed > packed.len().saturating_mul(MAX_GROWTH) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.block.resize(claimed, 0);
        self.at = 0;
        snap::raw::Decoder::new().decompress(packed, &mut self.block)?;
        Ok(())
    }
}

impl<P: AsRef<[u8]>> Read for Decoder<P> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if self.next >= self.payload.as_ref().len() {
                return Ok(0);
            }
            self.next_block()?;
        }
        let read = (&self.block[self.at..]).read(out)?;
        self.at += read;
        Ok(read)
    }
}

/// Frames and compresses a payload that comes in pieces.
pub(super) struct Encoder {
    out: Vec<u8>,
    /// Bytes of the next block.
    plain: Vec<u8>,
    block: Vec<u8>,
}

impl Encoder {
    /// The frame is appended to `out`.
    pub(super) fn new(mut out: Vec<u8>) -> Encoder {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&1i32.to_be_bytes());
        out.extend_from_slice(&1i32.to_be_bytes());
        let block = vec![0; snap::raw::max_compress_len(BLOCK_LEN)];
        Encoder { out, plain: Vec::with_capacity(BLOCK_LEN), block }
    }

    /// Takes the payload's next bytes.
    pub(super) fn write(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(BLOCK_LEN - self.plain.len()));
            self.plain.extend_from_slice(now);
            piece = later;
            if self.plain.len() == BLOCK_LEN {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        let len = snap::raw::Encoder::new().compress(&self.plain, &mut self.block);
        let len = len.expect("the buffer is as large as the worst case");
        self.out.extend_from_slice(&(len as i32).to_be_bytes());
        self.out.extend_from_slice(&self.block[..len]);
        self.plain.clear();
    }

    /// The whole frame.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if !self.plain.is_empty() {
            self.end_block();
        }
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(payload, 1 << 20).read_to_end(&mut out)?;
        Ok(out)
    }

    fn framed_of(plain: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        encoder.write(plain);
        encoder.finish()
    }

    #[test]
    fn bare_and_framed_blocks_are_read() {
        let plain = [b'a'; 100_000];
        assert_eq!(read(&snap::raw::Encoder::new().compress_vec(&plain).unwrap()).unwrap(), plain);
        let framed = framed_of(&plain);
        assert_eq!(framed[..HEADER_LEN], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
        assert_eq!(read(&framed).unwrap(), plain);
    }

    #[test]
    fn claims_are_not_believed() {
        // One bare block that says 1 MiB, then 4 GiB.
        assert_eq!(read(&[0x80, 0x80, 0x40, 0]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let mut framed = framed_of(b"abc");
        framed[HEADER_LEN] = 0x7f;
        assert_eq!(read(&framed).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        framed[HEADER_LEN] = 0xff;
        assert_eq!(read(&framed).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
