//! ApiVersions (18): which APIs and versions this broker takes.

use crate::base::error::ErrorCode;
use crate::wire::codec::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use crate::wire::codec::{ApiVersionsRequest, ApiVersionsResponse};
use crate::wire::versions::{ADVERTISED, ApiKey};

/// Features that are switched on, with their levels: `group.version` 1 is the new consumer group protocol (KIP-848).
const FEATURES: &[(&str, i16)] = &[("group.version", 1)];
/// From this version on a feature may be one that can be switched off (level 0); before, clients do not take those (KAFKA-17011).
const LEVEL_ZERO_FROM: i16 = 4;
/// The features have been the same since the cluster began.
const FEATURES_EPOCH: i64 = 0;

/// The answer to a request of a known version.
pub fn respond(request: &ApiVersionsRequest, version: i16) -> ApiVersionsResponse {
    let mut response = ApiVersionsResponse::default();
    if version >= 3 && !(is_software_id(&request.client_software_name) && is_software_id(&request.client_software_version)) {
        response.error_code = ErrorCode::InvalidRequest.code();
        return response;
    }
    response.api_keys = ADVERTISED.iter().map(range).collect();
    response.finalized_features_epoch = FEATURES_EPOCH;
    for &(name, level) in FEATURES {
        let mut finalized = FinalizedFeatureKey::default();
        (finalized.name, finalized.min_version_level, finalized.max_version_level) = (name.into(), level, level);
        response.finalized_features.push(finalized);
        if version >= LEVEL_ZERO_FROM {
            let mut supported = SupportedFeatureKey::default();
            (supported.name, supported.min_version, supported.max_version) = (name.into(), 0, level);
            response.supported_features.push(supported);
        }
    }
    response
}

/// The answer to a version above ours, **to be encoded as version 0**: the client reads our range from it and asks again (KIP-511).
pub fn unsupported_version() -> ApiVersionsResponse {
    let mut response = ApiVersionsResponse::default();
    response.error_code = ErrorCode::UnsupportedVersion.code();
    response.api_keys = ADVERTISED.iter().filter(|(key, ..)| *key == ApiKey::ApiVersions).map(range).collect();
    response
}

fn range(&(key, low, high): &(ApiKey, i16, i16)) -> ApiVersion {
    let mut range = ApiVersion::default();
    (range.api_key, range.min_version, range.max_version) = (key.code(), low, high);
    range
}

/// Letters and digits, with '-' and '.' between them: client names become labels of metrics.
fn is_software_id(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.');
    let outer = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let text = text.as_bytes();
    outer(text.first()) && outer(text.last()) && text.iter().all(|&c| inner(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::wire::codec;

    fn request(name: &str, version: &str) -> ApiVersionsRequest {
        let mut request = ApiVersionsRequest::default();
        (request.client_software_name, request.client_software_version) = (name.into(), version.into());
        request
    }

    #[test]
    fn every_version_lists_what_is_advertised() {
        in_every_version(ApiKey::ApiVersions, |version| respond(&request("a", "1.0"), version));
        let response = respond(&request("apache-kafka-java", "4.3.1"), 4);
        let listed: Vec<_> = response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
        let expected: Vec<_> = ADVERTISED.iter().map(|&(key, low, high)| (key.code(), low, high)).collect();
        assert_eq!((listed, response.error_code), (expected, 0));
        let finalized: Vec<_> =
            response.finalized_features.iter().map(|f| (f.name.as_str(), f.min_version_level, f.max_version_level)).collect();
        let supported: Vec<_> = response.supported_features.iter().map(|f| (f.name.as_str(), f.min_version, f.max_version)).collect();
        assert_eq!((finalized, supported), (vec![("group.version", 1, 1)], vec![("group.version", 0, 1)]));
        assert!(respond(&request("a", "1"), 3).supported_features.is_empty());
    }

    #[test]
    fn a_version_above_ours() {
        let response = unsupported_version();
        // Error 35, one range: key 18, versions 0 to 4.
        assert_eq!(codec::encode(&response, 0).unwrap(), &[0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4][..]);
    }

    #[test]
    fn client_names() {
        for good in ["a", "librdkafka", "a-b.c9"] {
            assert_eq!(respond(&request(good, "1"), 3).error_code, 0, "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "é", "a_b"] {
            assert_eq!(respond(&request(bad, "1"), 3).error_code, 42, "{bad}");
            assert_eq!(respond(&request("a", bad), 4).error_code, 42, "{bad}");
            assert_eq!(respond(&request(bad, bad), 2).error_code, 0, "{bad}");
        }
        assert!(respond(&request("", ""), 3).api_keys.is_empty());
    }
}
