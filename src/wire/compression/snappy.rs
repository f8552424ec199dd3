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
    large: Option<Large>,
}

/// Longer blocks are decoded as their bytes are read.
const WHOLE_BLOCK: usize = 64 << 10;
/// Bytes of such a block that are decoded at a time.
const PIECE: usize = 16 << 10;

/// A long block that is not decoded to its end.
struct Large {
    /// The bytes of the payload that are still to be decoded.
    rest: std::ops::Range<usize>,
    /// How many bytes the block has.
    claimed: usize,
    /// Bytes left of the literal that is being copied.
    literal: usize,
}

impl Large {
    /// Appends more of the block to `block`; true at its end.
    fn decode(&mut self, payload: &[u8], block: &mut Vec<u8>) -> io::Result<bool> {
        let upto = (block.len() + PIECE).min(self.claimed);
        while block.len() < upto {
            if self.literal > 0 {
                let len = self.literal.min(upto - block.len());
                block.extend_from_slice(self.take(payload, len)?);
                self.literal -= len;
                continue;
            }
            let tag = usize::from(self.take(payload, 1)?[0]);
            let (len, offset) = match tag & 3 {
                0 => {
                    // Long ones tell their length, less one, in up to four bytes.
                    let more = (tag >> 2).saturating_sub(59);
                    let len = if more == 0 { tag >> 2 } else { self.number(payload, more)? };
                    self.literal = len + 1;
                    continue;
                }
                1 => (4 + (tag >> 2 & 7), (tag >> 5) << 8 | self.number(payload, 1)?),
                2 => (1 + (tag >> 2), self.number(payload, 2)?),
                _ => (1 + (tag >> 2), self.number(payload, 4)?),
            };
            let from = block.len().checked_sub(offset).filter(|_| offset > 0).ok_or(io::ErrorKind::InvalidData)?;
            if len > self.claimed - block.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if offset >= len {
                block.extend_from_within(from..from + len);
            } else {
                (from..from + len).for_each(|at| block.push(block[at]));
            }
        }
        if block.len() < self.claimed {
            return Ok(false);
        }
        if self.literal > 0 || !self.rest.is_empty() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(true) }
    }

    fn take<'p>(&mut self, payload: &'p [u8], len: usize) -> io::Result<&'p [u8]> {
        if len > self.rest.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let from = self.rest.start;
        self.rest.start += len;
        Ok(&payload[from..from + len])
    }

    /// A number of up to four bytes, the lowest first.
    fn number(&mut self, payload: &[u8], bytes: usize) -> io::Result<usize> {
        Ok(self.take(payload, bytes)?.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }
}

impl<P: AsRef<[u8]>> Decoder<P> {
    /// No block may claim more than `limit` bytes.
    pub(super) fn new(payload: P, limit: usize) -> Decoder<P> {
        let bytes = payload.as_ref();
        let framed = bytes.len() >= HEADER_LEN && bytes.starts_with(MAGIC);
        let next = if framed { HEADER_LEN } else { 0 };
        Decoder { payload, next, framed, block: Vec::new(), at: 0, limit, large: None }
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
        self.at = 0;
        if claimed > WHOLE_BLOCK {
            let end = self.next;
            let begin = end - packed.len() + varint_len(packed);
            self.block.clear();
            self.block.reserve_exact(claimed);
            self.large = Some(Large { rest: begin..end, claimed, literal: 0 });
            return Ok(());
        }
        self.block.resize(claimed, 0);
        snap::raw::Decoder::new().decompress(packed, &mut self.block)?;
        Ok(())
    }
}

impl<P: AsRef<[u8]>> Read for Decoder<P> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if let Some(large) = &mut self.large {
                if large.decode(self.payload.as_ref(), &mut self.block)? {
                    self.large = None;
                }
                continue;
            }
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

/// Bytes of a block's length at its beginning.
fn varint_len(packed: &[u8]) -> usize {
    packed.iter().take_while(|byte| **byte >= 0x80).count() + 1
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

    /// Bytes of the frame so far, and of what it is appended to.
    pub(super) fn written(&self) -> usize {
        self.out.len()
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
    use crate::base::prng::Prng;

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

    /// Long blocks, also damaged ones, as the other decoder reads them.
    #[test]
    fn long_blocks_are_decoded_piece_by_piece() {
        let mut random = Prng::new(5);
        let mut plain = Vec::new();
        while plain.len() < 300_000 {
            match random.below(3) {
                0 => {
                    let len = if random.chance(1, 100) { 9000 } else { random.below(20) };
                    plain.extend((0..len).map(|_| random.below(256) as u8).collect::<Vec<_>>());
                }
                1 => plain.extend(vec![random.below(256) as u8; random.below(400) as usize]),
                _ => {
                    let from = random.below(plain.len() as u64 + 1) as usize;
                    let to = (from + random.below(3000) as usize).min(plain.len());
                    plain.extend_from_within(from..to);
                }
            }
        }
        let packed = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
        assert_eq!(read(&packed).unwrap(), plain);
        let mut decoder = Decoder::new(&packed[..], 1 << 20);
        let mut some = [0; 100];
        decoder.read_exact(&mut some).unwrap();
        assert!(some[..] == plain[..100] && decoder.block.len() <= PIECE + 64, "no more than was asked for");
        let (mut right, mut wrong) = (0, 0);
        for _ in 0..3000 {
            let mut damaged = packed.clone();
            let at = 3 + random.below(packed.len() as u64 - 3) as usize;
            damaged[at] ^= 1 << random.below(8);
            match snap::raw::Decoder::new().decompress_vec(&damaged) {
                Ok(expected) => {
                    assert!(read(&damaged).unwrap() == expected);
                    right += 1;
                }
                Err(_) => {
                    assert!(read(&damaged).is_err());
                    wrong += 1;
                }
            }
        }
        assert!(right > 100 && wrong > 100, "{right} {wrong}");
        assert!(read(&packed[..packed.len() - 1]).is_err() && read(&[&packed[..], b"x"].concat()).is_err());
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
