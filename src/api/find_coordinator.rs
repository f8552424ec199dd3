//! FindCoordinator (10): which broker looks after a group or a transactional id. On a single node always this one.
//!
//! Besides telling so, librdkafka takes the presence of version 0 for a broker that understands lz4.

use crate::base::error::ErrorCode;
use crate::cluster::image::Image;
use crate::cluster::view::BrokerView;
use crate::coord::OFFSETS_TOPIC;
use crate::wire::codec::find_coordinator_response::Coordinator;
use crate::wire::codec::{self, FindCoordinatorRequest, FindCoordinatorResponse};

/// Keys of a request are a list from this version on.
const LIST_FROM: i16 = 4;
/// Key types: group and transactional id. Share groups (2) are not known here.
const KEY_TYPES: std::ops::RangeInclusive<i8> = 0..=1;

/// The key type of groups.
const GROUP: i8 = 0;

/// Whether the request looks for the coordinator of a group, but there is no topic yet for one to keep its state in.
pub fn needs_topic(request: &FindCoordinatorRequest, image: &Image) -> bool {
    request.key_type == GROUP && image.topic(OFFSETS_TOPIC).is_none()
}

/// The response, which names this broker by its address for clients of `listener`.
pub fn respond(
    request: &FindCoordinatorRequest,
    version: i16,
    image: &Image,
    broker: &BrokerView,
    listener: &str,
) -> FindCoordinatorResponse {
    let code = match request.key_type {
        kind if !KEY_TYPES.contains(&kind) => ErrorCode::InvalidRequest,
        _ if needs_topic(request, image) => ErrorCode::CoordinatorNotAvailable,
        _ => ErrorCode::None,
    };
    let found = code == ErrorCode::None;
    let node_id = if found { broker.node_id } else { -1 };
    let endpoint = broker.endpoint(listener);
    let (host, port) = if found { (endpoint.host.as_str(), endpoint.port.into()) } else { ("", -1) };
    let mut response = FindCoordinatorResponse::default();
    if version < LIST_FROM {
        (response.error_code, response.node_id, response.port) = (code.code(), node_id, port);
        response.host = host.into();
        response.error_message = (version >= 1).then(|| if found { "NONE" } else { code.message() }.into());
        return response;
    }
    let one = |key: &crate::wire::codec::StrBytes| {
        let mut coordinator = Coordinator::default();
        coordinator.key = key.clone();
        (coordinator.error_code, coordinator.node_id, coordinator.port) = (code.code(), node_id, port);
        coordinator.host = host.into();
        coordinator.error_message = Some(codec::StrBytes::default());
        coordinator
    };
    response.coordinators = request.coordinator_keys.iter().map(one).collect();
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::wire::versions::ApiKey;

    #[test]
    fn this_broker_in_every_version() {
        let broker = broker(&[]);
        let with_topic = image(&broker, &[(OFFSETS_TOPIC, 1, 50)]);
        let before = respond(&FindCoordinatorRequest::default(), 3, &image(&broker, &[]), &broker, "PLAINTEXT");
        assert_eq!((before.error_code, before.node_id), (15, -1));
        in_every_version(ApiKey::FindCoordinator, |version| {
            let mut request = FindCoordinatorRequest::default();
            request.key = "g".into();
            request.coordinator_keys = vec!["g".into(), "h".into()];
            let response = respond(&request, version, &with_topic, &broker, "PLAINTEXT");
            if version < LIST_FROM {
                assert_eq!(response.node_id, broker.node_id);
            } else {
                assert_eq!(response.coordinators.len(), 2);
            }
            response
        });
    }
}
