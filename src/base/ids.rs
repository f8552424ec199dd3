//! Identifiers with Kafka's names and Kafka's text forms.

use std::fmt;
use std::str::FromStr;

/// Position of a record in its partition; the first is 0.
pub type Offset = i64;
/// Term of a partition leader; -1 where unknown.
pub type LeaderEpoch = i32;
/// Id that the broker gives an idempotent producer; -1 where there is none.
pub type ProducerId = i64;
/// `node.id` of a broker.
pub type BrokerId = i32;

/// 128 bits, shown as Kafka shows them: URL-safe base64 without padding, 22 characters.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

/// Stable identity of a topic: a topic that is deleted and created again gets a new one.
pub type TopicId = Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Uuid {
    /// The id that stands for "none" on the wire.
    pub const ZERO: Uuid = Uuid([0; 16]);

    /// True for [`Uuid::ZERO`].
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// A version 4 UUID from 16 random bytes.
    pub fn from_random(mut bytes: [u8; 16]) -> Uuid {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Uuid(bytes)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for i in 0..22 {
            // 22 digits hold 132 bits: the value sits at the top, the last digit's four low bits are zero.
            let digit = if i < 21 { (bits >> (122 - 6 * i)) & 63 } else { (bits << 4) & 63 };
            write!(f, "{}", ALPHABET[digit as usize] as char)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUuid;

impl fmt::Display for BadUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a 22-character URL-safe base64 id")
    }
}

impl std::error::Error for BadUuid {}

impl FromStr for Uuid {
    type Err = BadUuid;
    fn from_str(text: &str) -> Result<Uuid, BadUuid> {
        let text = text.trim_end_matches('=').as_bytes();
        if text.len() != 22 {
            return Err(BadUuid);
        }
        let mut bits: u128 = 0;
        for (i, c) in text.iter().enumerate() {
            let digit = ALPHABET.iter().position(|a| a == c).ok_or(BadUuid)? as u128;
            bits = if i < 21 { (bits << 6) | digit } else { (bits << 2) | (digit >> 4) };
        }
        Ok(Uuid(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_matches_java() {
        // Kafka's Uuid.toString of (0x0011223344556677, 0x8899aabbccddeeff).
        let id = Uuid([0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
        assert_eq!(id.to_string(), "ABEiM0RVZneImaq7zN3u_w");
        assert_eq!("ABEiM0RVZneImaq7zN3u_w".parse(), Ok(id));
        assert!("short".parse::<Uuid>().is_err());
    }
}
