//! The compression types of record batches, with output that is bounded whatever the input claims.

mod snappy;

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};

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
        match self {
            Compression::None => 0,
            Compression::Gzip => 16,
            Compression::Snappy | Compression::Lz4 | Compression::Zstd => 4,
        }
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
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

/// Memory takes whatever is written.
const IN_MEMORY: &str = "compressing into memory does not fail";

impl Compressor {
    /// What it makes is appended to `out`.
    pub fn new(compression: Compression, out: Vec<u8>) -> Compressor {
        Compressor(match compression {
            Compression::None => Encoder::None(out),
            Compression::Gzip => Encoder::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::default())),
            Compression::Snappy => Encoder::Snappy(snappy::Encoder::new(out)),
            // Independent blocks, this encoder's default, are the only ones that Java reads.
            Compression::Lz4 => Encoder::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(out))),
            Compression::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(out, 0).expect(IN_MEMORY)),
        })
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
            Encoder::Zstd(encoder) => encoder.finish(),
        };
        finished.expect(IN_MEMORY)
    }
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
