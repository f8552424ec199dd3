//! The generated message codec. This is the only file that names its crates, so that it can be exchanged here.

use bytes::{Bytes, BytesMut};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder};

pub use kafka_wire::*;
pub use kafka_wire::{KafkaMessage as Message, KafkaRequest as Request, RequestResponsePair as Rpc};
pub use kafka_wire_core::{KafkaEncode as Encode, StrBytes, Uuid as WireUuid};

use super::WireError;
use crate::base::ids::Uuid;

/// Longest body of a message that carries no records: tens of thousands of topics or partitions. Decoded, two bytes may become seventy
/// (an array of nulls), so a body of `socket.request.max.bytes` would not be harmless.
pub const PLAIN_BODY_MAX: usize = 2 << 20;

/// Most elements of one array of such a message: each costs work.
pub const ELEMENTS_MAX: usize = 50_000;

/// Decodes a message body (without header); no length in it can reserve memory. Bytes behind it are passed over, as in Kafka: librdkafka
/// leaves some behind its Metadata requests.
///
/// Bodies longer than [`PLAIN_BODY_MAX`] are refused unless they carry records (see [`super::produce`] for the way in of those).
pub fn decode<M: Message>(body: Bytes, version: i16) -> Result<M, WireError> {
    if body.len() > PLAIN_BODY_MAX {
        return Err(WireError::TooLarge(M::NAME));
    }
    let mut limits = limits(body.len());
    limits.max_array_elements = limits.max_array_elements.min(ELEMENTS_MAX);
    decode_within(body, version, limits)
}

/// As [`decode`], for bodies that carry records and have been admitted as such.
pub fn decode_any_size<M: Message>(body: Bytes, version: i16) -> Result<M, WireError> {
    let limits = limits(body.len());
    decode_within(body, version, limits)
}

fn decode_within<M: Message>(body: Bytes, version: i16, limits: DecodeLimits) -> Result<M, WireError> {
    let decoded = Decoder::new(body, limits).and_then(|mut decoder| M::decode(&mut decoder, ApiVersion::new(version)));
    decoded.map_err(|error| WireError::Codec(format!("{} version {version}: {error}", M::NAME)))
}

/// Whether a version of a request, and with it of its response, uses flexible encoding (KIP-482).
pub fn is_flexible<R: Request>(version: i16) -> bool {
    R::is_flexible(ApiVersion::new(version))
}

fn codec_error(error: impl std::fmt::Display) -> WireError {
    WireError::Codec(error.to_string())
}

/// Nothing in a body can be longer than the body, nor an array have more elements than it has bytes. Texts end where Kafka ends them.
fn limits(len: usize) -> DecodeLimits {
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = len;
    limits.max_string_bytes = len.min(i16::MAX as usize);
    limits.max_bytes_bytes = len;
    limits.max_array_elements = len;
    limits.max_tagged_fields = 64;
    limits.max_tag_bytes = len;
    limits.max_total_tag_bytes = len;
    limits
}

/// Appends an encoded body to `out`; on an error `out` is as before.
pub fn encode_into(body: &impl Encode, version: i16, out: &mut BytesMut) -> Result<usize, WireError> {
    body.encode_into(out, ApiVersion::new(version)).map_err(codec_error)
}

/// What consumers of the classic protocol say in JoinGroup's metadata and are told in SyncGroup's assignment: a version, then a message.
pub mod consumer_protocol {
    pub use kafka_wire::consumer_protocol_assignment as assignment;

    use super::*;

    /// The version and the subscription in a member's metadata.
    pub fn decode_subscription(bytes: &Bytes) -> Result<(i16, ConsumerProtocolSubscription), WireError> {
        let decoded = kafka_wire::decode_consumer_protocol_subscription(bytes.clone(), limits(bytes.len()));
        decoded.map(|(version, subscription)| (version.value(), subscription)).map_err(codec_error)
    }

    /// What a member says of itself, in version 1, which every client reads.
    pub fn encode_subscription(subscription: &ConsumerProtocolSubscription) -> Result<Bytes, WireError> {
        let mut out = BytesMut::new();
        kafka_wire::encode_consumer_protocol_subscription(&mut out, subscription, ApiVersion::new(1)).map_err(codec_error)?;
        Ok(out.freeze())
    }

    /// An assignment, of whatever version.
    pub fn decode_assignment(bytes: &Bytes) -> Result<ConsumerProtocolAssignment, WireError> {
        let decoded = kafka_wire::decode_consumer_protocol_assignment(bytes.clone(), limits(bytes.len()));
        decoded.map(|(_, assignment)| assignment).map_err(codec_error)
    }

    /// An assignment with its version.
    pub fn encode_assignment(assignment: &ConsumerProtocolAssignment, version: i16) -> Result<Bytes, WireError> {
        let mut out = BytesMut::new();
        let encoded = kafka_wire::encode_consumer_protocol_assignment(&mut out, assignment, ApiVersion::new(version));
        encoded.map_err(codec_error)?;
        Ok(out.freeze())
    }
}

/// An encoded body without header.
pub fn encode(body: &impl Encode, version: i16) -> Result<Bytes, WireError> {
    let mut out = BytesMut::new();
    encode_into(body, version, &mut out)?;
    Ok(out.freeze())
}

impl From<WireUuid> for Uuid {
    fn from(id: WireUuid) -> Uuid {
        Uuid(id.to_bytes())
    }
}

impl From<Uuid> for WireUuid {
    fn from(id: Uuid) -> WireUuid {
        WireUuid::from_bytes(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::versions::{ADVERTISED, ApiKey};
    use super::*;

    #[test]
    fn our_versions_are_within_the_codecs() {
        for &(key, ..) in ADVERTISED {
            let known = kafka_wire::API_DESCRIPTORS.iter().find(|api| api.api_key.value() == key.code()).unwrap();
            for version in key.accepted() {
                assert!(known.supported_versions.contains(ApiVersion::new(version)), "{} {version}", key.name());
                let flexible = known.flexible_versions.is_some_and(|range| range.contains(ApiVersion::new(version)));
                assert_eq!(key.is_flexible(version), flexible, "{} {version}", key.name());
                let header = kafka_wire::response_header_version(known.api_key, ApiVersion::new(version), flexible);
                assert_eq!(key.response_header_version(version), header, "{} {version}", key.name());
            }
        }
        assert_eq!(ApiKey::Produce.accepted(), 3..=13);
    }

    #[test]
    fn claimed_counts_are_errors_and_bytes_left_over_are_not() {
        let claims = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0, 0]);
        assert!(matches!(decode::<MetadataRequest>(claims, 1), Err(WireError::Codec(_))));
        let body = encode(&MetadataRequest::default(), 1).unwrap();
        let longer = Bytes::from([&body[..], b"x"].concat());
        assert!(decode::<MetadataRequest>(longer, 1).is_ok());
        let names = |count: usize| {
            let mut request = DeleteTopicsRequest::default();
            request.topic_names = vec!["".into(); count];
            decode::<DeleteTopicsRequest>(encode(&request, 5).unwrap(), 5)
        };
        assert!(names(ELEMENTS_MAX).is_ok() && matches!(names(ELEMENTS_MAX + 1), Err(WireError::Codec(_))));
        let huge = Bytes::from(vec![0; PLAIN_BODY_MAX + 1]);
        assert_eq!(decode::<MetadataRequest>(huge, 1), Err(WireError::TooLarge("MetadataRequest")));
    }
}
