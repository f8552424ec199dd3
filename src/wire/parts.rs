//! Responses that end with one list, encoded an element at a time: as a whole they may be too large for the memory.

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;
use super::codec::{Encode, encode_into};
use super::frame;
use super::primitive::put_array_len;
use super::versions::ApiKey;

/// A response whose last field, but for tags, is a list.
pub struct Parts {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    flexible: bool,
    /// The fields before the list.
    before: Bytes,
}

impl Parts {
    /// `empty`: the response with nothing in its list.
    pub fn new(api: ApiKey, version: i16, correlation_id: i32, empty: &impl Encode) -> Result<Parts, WireError> {
        let flexible = api.response_header_version(version) >= 1;
        let mut bytes = BytesMut::new();
        encode_into(empty, version, &mut bytes)?;
        // Behind the fields stand the length of the list and, in flexible versions, the tags.
        bytes.truncate(bytes.len() - if flexible { 2 } else { 4 });
        Ok(Parts { api, version, correlation_id, flexible, before: bytes.freeze() })
    }

    /// Appends `count` elements to `out`: `some` is the response with these in its list. Bytes appended.
    pub fn put(&self, some: &impl Encode, count: usize, out: &mut BytesMut) -> Result<usize, WireError> {
        let mut bytes = BytesMut::new();
        put_array_len(&mut bytes, self.flexible, count);
        let before = self.before.len() + bytes.len();
        bytes.clear();
        encode_into(some, self.version, &mut bytes)?;
        let elements = &bytes[before..bytes.len() - usize::from(self.flexible)];
        out.extend_from_slice(elements);
        Ok(elements.len())
    }

    /// The begin of the frame, up to the first element: there are `count`, of so many `bytes` together.
    pub fn begin(&self, count: usize, bytes: usize) -> Result<BytesMut, WireError> {
        let mut out = frame::begin(self.api, self.version, self.correlation_id, 64);
        out.extend_from_slice(&self.before);
        put_array_len(&mut out, self.flexible, count);
        frame::finish(&mut out, bytes + usize::from(self.flexible))?;
        Ok(out)
    }

    /// Appends what stands behind the last element.
    pub fn end(&self, out: &mut BytesMut) {
        if self.flexible {
            out.put_u8(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::DescribeConfigsResponse;
    use crate::wire::codec::describe_configs_response::DescribeConfigsResult;
    use crate::wire::frame::response_frame;

    #[test]
    fn parts_are_together_what_the_whole_is() {
        let result = |n| {
            let mut one = DescribeConfigsResult::default();
            one.resource_name = format!("topic-{n}").into();
            one
        };
        for version in ApiKey::DescribeConfigs.accepted() {
            for count in [0, 1, 2, 127, 128, 300] {
                let mut whole = DescribeConfigsResponse::default();
                whole.throttle_time_ms = 7;
                let parts = Parts::new(ApiKey::DescribeConfigs, version, 5, &whole).unwrap();
                whole.results = (0..count).map(result).collect();
                let mut elements = BytesMut::new();
                let mut bytes = 0;
                for some in whole.results.chunks(150) {
                    let mut response = DescribeConfigsResponse::default();
                    response.throttle_time_ms = 7;
                    response.results = some.to_vec();
                    bytes += parts.put(&response, some.len(), &mut elements).unwrap();
                }
                let mut frame = parts.begin(count, bytes).unwrap();
                frame.extend_from_slice(&elements);
                parts.end(&mut frame);
                assert_eq!(frame.freeze(), response_frame(ApiKey::DescribeConfigs, version, 5, &whole).unwrap(), "version {version}");
            }
        }
    }
}
