//! Frames: the 4-byte size, the headers, and where the body starts.

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;
use super::codec::{Encode, Request, StrBytes, encode_into, is_flexible};
use super::primitive::{Reader, put_no_tags, put_string};
use super::versions::ApiKey;

/// Bytes of the size that precedes every frame; it does not count itself.
pub const SIZE_BYTES: usize = 4;

/// The longest client id, in bytes, that need not be UTF-8.
const COPIED_NAME_MAX: usize = 1024;

/// What stands before every request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which API; see [`ApiKey::from_code`].
    pub api_key: i16,
    /// Version of the body, and of what answers it.
    pub api_version: i16,
    /// Given back in the response.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<StrBytes>,
}

/// Splits a frame (without its size) into header and body.
///
/// Errors mean that the connection is to be closed, as Kafka does: an unknown API, a version that is not accepted, a malformed header.
/// The exception is an ApiVersions request of a version unknown to us: it has a header, so that the caller can answer with
/// UNSUPPORTED_VERSION in the form of version 0 (KIP-511); its body must then not be looked at.
pub fn parse_request(frame: Bytes) -> Result<(RequestHeader, Bytes), WireError> {
    let mut reader = Reader::new(&frame);
    let (api_key, api_version, correlation_id) = (reader.i16()?, reader.i16()?, reader.i32()?);
    let api = ApiKey::from_code(api_key).ok_or(WireError::UnknownApi(api_key))?;
    if !api.accepted().contains(&api_version) && api != ApiKey::ApiVersions {
        return Err(WireError::UnsupportedVersion { api_key, api_version });
    }
    // The client id kept its 16-bit length in the flexible header.
    let client_id = reader.classic_string()?.map(|text| name(&frame, text)).transpose()?;
    if api.request_header_version(api_version) >= 2 {
        reader.skip_tags()?;
    }
    let body = frame.slice(frame.len() - reader.rest().len()..);
    Ok((RequestHeader { api_key, api_version, correlation_id, client_id }, body))
}

/// A client's name for itself; replacement characters stand for what is not UTF-8, as in Kafka. Not in
/// a long one: the copy is in no account.
fn name(frame: &Bytes, text: &[u8]) -> Result<StrBytes, WireError> {
    match str_bytes(frame, text) {
        Err(_) if text.len() <= COPIED_NAME_MAX => Ok(String::from_utf8_lossy(text).into_owned().into()),
        result => result,
    }
}

/// A string that shares the memory of the frame it lies in.
pub(super) fn str_bytes(frame: &Bytes, text: &[u8]) -> Result<StrBytes, WireError> {
    StrBytes::try_from(frame.slice_ref(text)).map_err(|_| WireError::Malformed("string: not UTF-8"))
}

/// Begins a response frame: space for the size, then the header. [`finish`] it.
pub(super) fn begin(api: ApiKey, api_version: i16, correlation_id: i32, capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(capacity);
    out.put_i32(0);
    out.put_i32(correlation_id);
    put_no_tags(&mut out, api.response_header_version(api_version) >= 1);
    out
}

/// Writes the size of a frame that is followed by `outside` bytes in other buffers.
pub(super) fn finish(out: &mut BytesMut, outside: usize) -> Result<(), WireError> {
    let size = i32::try_from(out.len() - SIZE_BYTES + outside).map_err(|_| WireError::TooLarge("frame"))?;
    out[..SIZE_BYTES].copy_from_slice(&size.to_be_bytes());
    Ok(())
}

/// A complete response: size, header, body. Fails on a body that its version cannot express.
pub fn response_frame(api_key: ApiKey, api_version: i16, correlation_id: i32, body: &impl Encode) -> Result<Bytes, WireError> {
    let mut out = begin(api_key, api_version, correlation_id, 16);
    encode_into(body, api_version, &mut out)?;
    finish(&mut out, 0)?;
    Ok(out.freeze())
}

/// A complete request, as the clients among our own parts send it, to any broker: also of APIs that this one does not have.
pub fn request_frame<R: Request>(api_version: i16, correlation_id: i32, client_id: Option<&str>, body: &R) -> Result<Bytes, WireError> {
    let api_key = R::API_KEY.value();
    let mut out = BytesMut::with_capacity(64);
    out.put_i32(0);
    out.put_i16(api_key);
    out.put_i16(api_version);
    out.put_i32(correlation_id);
    put_string(&mut out, false, client_id);
    put_no_tags(&mut out, is_flexible::<R>(api_version));
    encode_into(body, api_version, &mut out)?;
    finish(&mut out, 0)?;
    Ok(out.freeze())
}

/// Splits the response to a request of type `R` (without its size) into correlation id and body, on the client's side.
pub fn parse_response_to<R: Request>(api_version: i16, frame: Bytes) -> Result<(i32, Bytes), WireError> {
    // See [`ApiKey::response_header_version`].
    let tags = is_flexible::<R>(api_version) && R::API_KEY.value() != ApiKey::ApiVersions.code();
    split_response(tags, frame)
}

/// As [`parse_response_to`], for an API that this broker has.
pub fn parse_response(api_key: ApiKey, api_version: i16, frame: Bytes) -> Result<(i32, Bytes), WireError> {
    split_response(api_key.response_header_version(api_version) >= 1, frame)
}

fn split_response(tags: bool, frame: Bytes) -> Result<(i32, Bytes), WireError> {
    let mut reader = Reader::new(&frame);
    let correlation_id = reader.i32()?;
    if tags {
        reader.skip_tags()?;
    }
    Ok((correlation_id, frame.slice(frame.len() - reader.rest().len()..)))
}

#[cfg(test)]
mod tests {
    use super::super::codec::{ApiVersionsRequest, MetadataRequest, MetadataResponse, decode};
    use super::*;

    fn without_size(frame: &Bytes) -> Bytes {
        assert_eq!(frame[..4], (frame.len() as i32 - 4).to_be_bytes());
        frame.slice(4..)
    }

    #[test]
    fn requests_round_trip_in_every_version() {
        for version in ApiKey::Metadata.accepted() {
            for client_id in [None, Some(""), Some("rdkafka")] {
                let sent = request_frame(version, 7, client_id, &MetadataRequest::default()).unwrap();
                let (header, body) = parse_request(without_size(&sent)).unwrap();
                assert_eq!((header.api_key, header.api_version, header.correlation_id), (3, version, 7));
                assert_eq!(header.client_id.as_deref(), client_id);
                decode::<MetadataRequest>(body, version).unwrap();
            }
        }
    }

    #[test]
    fn responses_round_trip_in_every_version() {
        for version in ApiKey::Metadata.accepted() {
            let sent = response_frame(ApiKey::Metadata, version, 9, &MetadataResponse::default()).unwrap();
            let (correlation_id, body) = parse_response(ApiKey::Metadata, version, without_size(&sent)).unwrap();
            assert_eq!(correlation_id, 9);
            assert_eq!(parse_response_to::<MetadataRequest>(version, without_size(&sent)).unwrap(), (9, body.clone()));
            decode::<MetadataResponse>(body, version).unwrap();
        }
    }

    #[test]
    fn unknown_header_tags_are_skipped() {
        let (header, body) = parse_request(Bytes::from_static(b"\0\x03\0\x0c\0\0\0\x01\0\x01x\x01\x05\x02zzbody")).unwrap();
        assert_eq!((header.client_id.as_deref(), &body[..]), (Some("x"), &b"body"[..]));
    }

    #[test]
    fn what_is_refused_and_what_is_not() {
        let error = |bytes: &'static [u8]| parse_request(Bytes::from_static(bytes)).unwrap_err();
        assert_eq!(error(b""), WireError::Truncated);
        assert_eq!(error(b"\x03\xe7\0\0\0\0\0\x01\xff\xff"), WireError::UnknownApi(999));
        assert_eq!(error(b"\0\0\0\x02\0\0\0\x01\xff\xff"), WireError::UnsupportedVersion { api_key: 0, api_version: 2 });
        assert_eq!(error(b"\0\x03\0\0\0\0\0\x01\0\x05ab"), WireError::Truncated);
        assert_eq!(error(b"\0\x03\0\0\0\0\0\x01\xff\xfe"), WireError::Malformed("string length"));
        let named = |len: usize, last: u8| {
            let head = [&b"\0\x03\0\0\0\0\0\x01"[..], &(len as u16).to_be_bytes()].concat();
            parse_request([head, vec![b'x'; len - 1], vec![last]].concat().into()).map(|(header, _)| header.client_id.unwrap())
        };
        assert_eq!(named(2, 0xff).as_deref(), Ok("x\u{fffd}"));
        assert!(named(5000, b'y').is_ok());
        assert_eq!(named(5000, 0xff), Err(WireError::Malformed("string: not UTF-8")));
        // ApiVersions from the future still has a header.
        let future = request_frame(4, 5, Some("x"), &ApiVersionsRequest::default()).unwrap();
        let mut future = BytesMut::from(&future[4..]);
        future[3] = 99;
        let (header, _) = parse_request(future.freeze()).unwrap();
        assert_eq!((header.api_version, header.correlation_id), (99, 5));
    }
}
