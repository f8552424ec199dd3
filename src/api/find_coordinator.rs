//! FindCoordinator (10): which broker looks after a group or a transactional id. On a single node always this one.
//!
//! Besides telling so, librdkafka takes the presence of version 0 for a broker that understands lz4.

use crate::base::error::ErrorCode;
use crate::cluster::view::BrokerView;
use crate::wire::codec::find_coordinator_response::Coordinator;
use crate::wire::codec::{FindCoordinatorRequest, FindCoordinatorResponse};

/// Keys of a request are a list from this version on.
const LIST_FROM: i16 = 4;
/// Key types: group and transactional id. Share groups (2) are not known here.
const KEY_TYPES: std::ops::RangeInclusive<i8> = 0..=1;

/// The response, which names this broker by its address for clients of `listener`.
pub fn respond(request: &FindCoordinatorRequest, version: i16, broker: &BrokerView, listener: &str) -> FindCoordinatorResponse {
    let known = KEY_TYPES.contains(&request.key_type);
    let (code, node_id) = if known { (ErrorCode::None, broker.node_id) } else { (ErrorCode::InvalidRequest, -1) };
    let message = (!known).then(|| ErrorCode::InvalidRequest.message().into());
    let endpoint = broker.endpoint(listener);
    let (host, port) = if known { (endpoint.host.as_str(), endpoint.port.into()) } else { ("", -1) };
    let mut response = FindCoordinatorResponse::default();
    if version < LIST_FROM {
        (response.error_code, response.node_id, response.port) = (code.code(), node_id, port);
        response.host = host.into();
        response.error_message = message.filter(|_| version >= 1);
        return response;
    }
    let one = |key: &crate::wire::codec::StrBytes| {
        let mut coordinator = Coordinator::default();
        coordinator.key = key.clone();
        (coordinator.error_code, coordinator.node_id, coordinator.port) = (code.code(), node_id, port);
        coordinator.host = host.into();
        coordinator.error_message = message.clone();
        coordinator
    };
    response.coordinators = request.coordinator_keys.iter().map(one).collect();
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, in_every_version};
    use crate::wire::versions::ApiKey;

    #[test]
    fn this_broker_in_every_version() {
        let broker = broker(&[]);
        in_every_version(ApiKey::FindCoordinator, |version| {
            let mut request = FindCoordinatorRequest::default();
            request.key = "g".into();
            request.coordinator_keys = vec!["g".into(), "h".into()];
            let response = respond(&request, version, &broker, "PLAINTEXT");
            if version < LIST_FROM {
                assert_eq!(response.node_id, broker.node_id);
            } else {
                assert_eq!(response.coordinators.len(), 2);
            }
            response
        });
    }
}
