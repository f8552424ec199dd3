//! The Kafka protocol: frames, messages, record batches, compression. Pure: bytes in, values out, and back.

pub mod batch;
pub mod codec;
pub mod compression;
pub mod fetch;
pub mod frame;
#[cfg(test)]
mod golden_tests;
pub mod kraft;
pub mod parts;
pub(crate) mod primitive;
pub mod produce;
pub mod producer_snapshot;
pub mod record;
pub(crate) mod scan;
pub mod schema;
pub mod versions;

use std::fmt;

/// Why bytes from the network are not a message; the connection that sent them is to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The bytes end inside a field.
    Truncated,
    /// A field holds what no well-formed message has; says which.
    Malformed(&'static str),
    /// More than this broker takes of something that is not record data; says what.
    TooLarge(&'static str),
    /// An API that this broker does not have.
    UnknownApi(i16),
    /// A version outside the accepted range of a known API.
    UnsupportedVersion {
        /// The request's API key.
        api_key: i16,
        /// The version asked for.
        api_version: i16,
    },
    /// The message codec's own words.
    Codec(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Truncated => f.write_str("message ends inside a field"),
            WireError::Malformed(what) => write!(f, "malformed {what}"),
            WireError::TooLarge(what) => write!(f, "too large: {what}"),
            WireError::UnknownApi(key) => write!(f, "unknown API key {key}"),
            WireError::UnsupportedVersion { api_key, api_version } => write!(f, "API key {api_key} does not support version {api_version}"),
            WireError::Codec(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for WireError {}
