//! The compression types of record batches, with output that is bounded whatever the input claims.

mod snappy;

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::RangeInclusive;

use super::batch::BatchError;
use super::record::RecordError;

/// Largest decompressed payload of one batch, in bytes; a batch with a larger one is refused.
pub const INFLATED_MAX: usize = 64 << 20;

/// Decompressed bytes that a decoder hands out at a time.
const PIECE: usize = 16 << 10;

/// How a batch's records are compressed (`CompressionType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// Not.
    #[default]
    None = 0,
    /// RFC 1952, one or more members.
    Gzip = 1,
    /// Snappy blocks in the framing of xerial's snappy-java; a lone raw block is read as well.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878 (KIP-110).
    Zstd = 4,
}

impl Compression {
    /// Bytes that one compressed byte can become, at most: no fact about usual data, but a bound for
    /// what a length can hold.
    pub fn growth_max(self) -> usize {
        match self {
            Compression::None => 1,
            // A match of 258 bytes takes two bits.
            Compression::Gzip => 1032,
            Compression::Snappy => snappy::MAX_GROWTH,
            // A byte of a match's length counts for 255.
            Compression::Lz4 => 255,
            // A block of 128 KiB that repeats one byte takes four.
            Compression::Zstd => 32 << 10,
        }
    }

    /// What inflating a byte costs: the fast ones cost 1.
    pub fn inflating_weight(self) -> usize {
        if self == Compression::Gzip { 2 } else { 1 }
    }

    /// What compressing a byte costs, in inflated bytes.
    pub fn compressing_weight(self) -> usize {
        Codec::from(self).compressing_weight()
    }

    /// All of them.
    pub const ALL: [Compression; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The type of a code in a batch's attributes.
    pub fn from_code(code: u8) -> Result<Compression, BatchError> {
        Self::ALL.get(usize::from(code)).copied().ok_or(BatchError::BadCompression(code))
    }

    /// Kafka's name, as in `compression.type`.
    pub fn name(self) -> &'static str {
        ["none", "gzip", "snappy", "lz4", "zstd"][self as usize]
    }
}

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    /// The type of the result.
    pub compression: Compression,
    /// How hard to try, of those types that have levels; `None`: as the type's library does.
    pub level: Option<i32>,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Codec {
        Codec { compression, level: None }
    }
}

impl Codec {
    /// What compressing a byte costs, in inflated bytes.
    pub fn compressing_weight(self) -> usize {
        match (self.compression, self.level.unwrap_or(0)) {
            (Compression::None, _) => 0,
            (Compression::Gzip, 7..) => 48,
            (Compression::Gzip, _) => 16,
            (Compression::Snappy, _) | (Compression::Lz4, ..=0) | (Compression::Zstd, ..=4) => 4,
            (Compression::Lz4, ..=9) => 16,
            (Compression::Lz4, _) => 64,
            (Compression::Zstd, ..=9) => 16,
            (Compression::Zstd, ..=15) => 64,
            (Compression::Zstd, _) => 256,
        }
    }
}

/// Why a batch's payload could not be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompressionError {
    /// The bytes are no whole batch.
    Batch(BatchError),
    /// It would be longer than this when decompressed.
    TooLong(usize),
    /// It is not what its type says.
    Corrupt(String),
    /// The records in it are damaged.
    Records(RecordError),
}

impl fmt::Display for CompressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompressionError::Batch(error) => error.fmt(f),
            CompressionError::TooLong(limit) => write!(f, "more than {limit} bytes when decompressed"),
            CompressionError::Corrupt(text) => write!(f, "corrupt payload: {text}"),
            CompressionError::Records(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CompressionError {}

impl From<RecordError> for CompressionError {
    fn from(error: RecordError) -> CompressionError {
        CompressionError::Records(error)
    }
}

/// Decompresses a payload that yields at most `limit` bytes; memory grows with what comes out, not with what is claimed.
pub fn decompress(compression: Compression, payload: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    let read = decoder(compression, payload, limit).and_then(|mut decoder| decoder.read_to_end(&mut out));
    read.map_err(|error| describe(error, limit))?;
    Ok(out)
}

/// Compresses a payload in the form that Kafka's clients write and read.
pub fn compress(compression: Compression, payload: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(compression, Vec::new());
    compressor.write(payload);
    compressor.finish()
}

/// Compresses a payload that comes in pieces, in the form that Kafka's clients write and read.
pub struct Compressor(Encoder);

enum Encoder {
    None(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Snappy(snappy::Encoder),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    /// The same format, with a level.
    Lz4High(lz4::Encoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

/// Memory takes whatever is written.
const IN_MEMORY: &str = "compressing into memory does not fail";

impl Compressor {
    /// What it makes is appended to `out`.
    pub fn new(compression: Compression, out: Vec<u8>) -> Compressor {
        Compressor::of(compression.into(), out)
    }

    /// As [`Compressor::new`], with a level.
    pub fn of(codec: Codec, out: Vec<u8>) -> Compressor {
        Compressor(match codec.compression {
            Compression::None => Encoder::None(out),
            Compression::Gzip => {
                let level = codec.level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or_else(flate2::Compression::default, flate2::Compression::new);
                Encoder::Gzip(flate2::write::GzEncoder::new(out, level))
            }
            Compression::Snappy => Encoder::Snappy(snappy::Encoder::new(out)),
            // Independent blocks, this encoder's default, are the only ones that Java reads.
            Compression::Lz4 if codec.level.is_some() => Encoder::Lz4High(lz4_encoder(codec.level.unwrap_or(0), out)),
            Compression::Lz4 => Encoder::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(out))),
            Compression::Zstd => Encoder::Zstd(zstd_encoder(codec.level.unwrap_or(0), out)),
        })
    }

    /// Bytes of what was made so far, and of what it was appended to.
    pub fn written(&self) -> usize {
        match &self.0 {
            Encoder::None(out) => out.len(),
            Encoder::Gzip(encoder) => encoder.get_ref().len(),
            Encoder::Snappy(encoder) => encoder.written(),
            Encoder::Lz4(encoder) => encoder.get_ref().len(),
            Encoder::Lz4High(encoder) => encoder.writer().len(),
            Encoder::Zstd(encoder) => encoder.get_ref().len(),
        }
    }

    /// Takes the payload's next bytes.
    pub fn write(&mut self, piece: &[u8]) {
        let written = match &mut self.0 {
            Encoder::None(out) => {
                out.extend_from_slice(piece);
                Ok(())
            }
            Encoder::Gzip(encoder) => encoder.write_all(piece),
            Encoder::Snappy(encoder) => {
                encoder.write(piece);
                Ok(())
            }
            Encoder::Lz4(encoder) => encoder.write_all(piece),
            Encoder::Lz4High(encoder) => encoder.write_all(piece),
            Encoder::Zstd(encoder) => encoder.write_all(piece),
        };
        written.expect(IN_MEMORY);
    }

    /// All that was made.
    pub fn finish(self) -> Vec<u8> {
        let finished = match self.0 {
            Encoder::None(out) => Ok(out),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Snappy(encoder) => Ok(encoder.finish()),
            Encoder::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Encoder::Lz4High(encoder) => {
                let (out, ended) = encoder.finish();
                ended.map(|()| out)
            }
            Encoder::Zstd(encoder) => encoder.finish(),
        };
        finished.expect(IN_MEMORY)
    }
}

/// The first level of zstd whose tables are bounded here.
const ZSTD_HIGH: i32 = 9;
/// Log2 of the bytes in which higher levels of zstd look for repeats: as lower ones do. Their tables
/// grow with it, at the highest level to several hundred MiB.
const ZSTD_WINDOW_LOG: u32 = 21;

/// Levels that the high compression of lz4 tells apart.
const LZ4_LEVELS: RangeInclusive<u32> = 2..=12;

fn lz4_encoder(level: i32, out: Vec<u8>) -> lz4::Encoder<Vec<u8>> {
    let level = u32::try_from(level).unwrap_or(0).clamp(*LZ4_LEVELS.start(), *LZ4_LEVELS.end());
    let mut builder = lz4::EncoderBuilder::new();
    builder.level(level).block_size(lz4::BlockSize::Max64KB);
    // As the other encoder does, and as Kafka's clients read it.
    builder.block_mode(lz4::BlockMode::Independent);
    builder.block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum);
    builder.checksum(lz4::ContentChecksum::NoChecksum);
    builder.build(out).expect(IN_MEMORY)
}

fn zstd_encoder(level: i32, out: Vec<u8>) -> zstd::stream::write::Encoder<'static, Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(out, level).expect(IN_MEMORY);
    if level >= ZSTD_HIGH {
        encoder.window_log(ZSTD_WINDOW_LOG).expect("within the library's range");
    }
    encoder
}

/// A stream of the decompressed bytes that fails when there are more than `limit`.
pub(super) fn decoder<'a>(compression: Compression, payload: impl AsRef<[u8]> + 'a, limit: usize) -> io::Result<Box<dyn BufRead + 'a>> {
    fn bounded<'a>(inner: impl Read + 'a, limit: usize) -> Box<dyn BufRead + 'a> {
        Box::new(BufReader::with_capacity(PIECE, Bounded { inner, left: limit }))
    }
    let input = io::Cursor::new(payload);
    Ok(match compression {
        Compression::None => bounded(input, limit),
        Compression::Gzip => bounded(flate2::bufread::MultiGzDecoder::new(input), limit),
        Compression::Snappy => bounded(snappy::Decoder::new(input.into_inner(), limit), limit),
        Compression::Lz4 => bounded(lz4_flex::frame::FrameDecoder::new(input), limit),
        Compression::Zstd => bounded(zstd::stream::read::Decoder::with_buffer(input)?, limit),
    })
}

struct Bounded<R> {
    inner: R,
    left: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.left = self.left.checked_sub(read).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

pub(super) fn describe(error: io::Error, limit: usize) -> CompressionError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => CompressionError::TooLong(limit),
        _ => CompressionError::Corrupt(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn text() -> Vec<u8> {
        (0..200_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    #[test]
    fn every_type_round_trips() {
        for compression in Compression::ALL {
            assert_eq!(Compression::from_code(compression as u8), Ok(compression));
            for plain in [&text()[..], b"x", b""] {
                let packed = compress(compression, plain);
                assert_eq!(decompress(compression, &packed, plain.len()).as_deref(), Ok(plain), "{}", compression.name());
            }
        }
        assert_eq!(Compression::from_code(5), Err(BatchError::BadCompression(5)));
    }

    #[test]
    fn pieces_become_what_the_whole_becomes() {
        for compression in Compression::ALL {
            let mut compressor = Compressor::new(compression, b"before".to_vec());
            text().chunks(70_001).for_each(|piece| compressor.write(piece));
            let packed = compressor.finish();
            let packed = packed.strip_prefix(b"before").unwrap();
            assert_eq!(decompress(compression, packed, 800_000).unwrap(), text(), "{}", compression.name());
            if compression == Compression::Snappy {
                assert_eq!(packed, compress(compression, &text()), "blocks do not depend on pieces");
            }
        }
    }

    #[test]
    fn every_level_makes_what_can_be_read() {
        let mut dice = Prng::new(1);
        let plain: String = (0..20_000).map(|_| format!("{} ", dice.below(300) * 7919)).collect();
        let plain = plain.into_bytes();
        let packed = |compression, level| {
            let codec = Codec { compression, level: Some(level) };
            let mut compressor = Compressor::of(codec, Vec::new());
            plain.chunks(50_000).for_each(|piece| compressor.write(piece));
            let packed = compressor.finish();
            let read = decompress(compression, &packed, plain.len());
            assert!(read.as_ref() == Ok(&plain), "{} {level}", compression.name());
            packed.len()
        };
        for level in [-1, 1, 6, 9] {
            packed(Compression::Gzip, level);
        }
        for level in [1, 2, 9, 12, 17] {
            packed(Compression::Lz4, level);
        }
        assert!(packed(Compression::Lz4, 12) < compress(Compression::Lz4, &plain).len());
        for level in [-131072, -5, 0, 1, 3, 9, 22] {
            packed(Compression::Zstd, level);
        }
        assert!(packed(Compression::Gzip, 9) < packed(Compression::Gzip, 1));
        assert!(packed(Compression::Zstd, 3) < packed(Compression::Zstd, -131072));
        assert_eq!(packed(Compression::Gzip, -1), packed(Compression::Gzip, 6));
    }

    #[test]
    fn output_is_bounded_and_damage_is_an_error() {
        for compression in Compression::ALL {
            let packed = compress(compression, &text());
            assert_eq!(decompress(compression, &packed, 799_999), Err(CompressionError::TooLong(799_999)), "{}", compression.name());
            if compression != Compression::None {
                let half = decompress(compression, &packed[..packed.len() / 2], 1 << 20);
                assert!(matches!(half, Err(CompressionError::Corrupt(_))), "{}", compression.name());
                assert!(decompress(compression, &[0x55; 64], 1 << 20).is_err(), "{}", compression.name());
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 32 << 20];
        for compression in [Compression::Gzip, Compression::Lz4, Compression::Zstd, Compression::Snappy] {
            let packed = compress(compression, &zeros);
            assert_eq!(decompress(compression, &packed, 1 << 20), Err(CompressionError::TooLong(1 << 20)));
        }
    }
}
