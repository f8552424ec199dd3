//! DescribeCluster (60).

use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED, error_text};
use crate::cluster::view::BrokerView;
use crate::wire::codec::describe_cluster_response::DescribeClusterBroker;
use crate::wire::codec::{DescribeClusterRequest, DescribeClusterResponse};

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;
/// Kafka's MISMATCHED_ENDPOINT_TYPE: only this API has it.
const MISMATCHED_ENDPOINT_TYPE: i16 = 114;
/// Kafka's UNSUPPORTED_ENDPOINT_TYPE, likewise.
const UNSUPPORTED_ENDPOINT_TYPE: i16 = 115;

/// The answer to a client that came in through `listener`, which is one for clients.
pub fn respond(request: &DescribeClusterRequest, broker: &BrokerView, listener: &str) -> DescribeClusterResponse {
    let mut response = DescribeClusterResponse::default();
    response.cluster_authorized_operations = OPERATIONS_NOT_ASKED;
    let problem = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => {
            let text = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER";
            Some((MISMATCHED_ENDPOINT_TYPE, text.to_owned()))
        }
        other => Some((UNSUPPORTED_ENDPOINT_TYPE, format!("Unsupported endpoint type {other}"))),
    };
    if let Some((code, text)) = problem {
        (response.error_code, response.error_message) = (code, error_text(&text));
        return response;
    }
    let endpoint = broker.endpoint(listener);
    let mut entry = DescribeClusterBroker::default();
    entry.broker_id = broker.node_id;
    entry.host = endpoint.host.as_str().into();
    entry.port = endpoint.port.into();
    entry.rack = broker.rack.as_deref().map(Into::into);
    response.brokers = vec![entry];
    response.cluster_id = broker.cluster_id.as_str().into();
    response.controller_id = broker.node_id;
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, in_every_version};
    use crate::wire::versions::ApiKey;

    #[test]
    fn brokers_by_listener() {
        let mut request = DescribeClusterRequest::default();
        in_every_version(ApiKey::DescribeCluster, |_| respond(&request, &broker(&[]), "OUTSIDE"));
        let response = respond(&request, &broker(&[]), "OUTSIDE");
        assert_eq!((response.brokers[0].host.as_str(), response.brokers[0].port), ("outside.example", 19092));
        assert_eq!((response.cluster_id.as_str(), response.controller_id), ("the-cluster", 1));
        assert_eq!(response.cluster_authorized_operations, i32::MIN);
        request.include_cluster_authorized_operations = true;
        assert_eq!(respond(&request, &broker(&[]), "OUTSIDE").cluster_authorized_operations, 8096);
        request.endpoint_type = 2;
        assert_eq!(respond(&request, &broker(&[]), "OUTSIDE").error_code, 114);
        request.endpoint_type = 3;
        assert_eq!(respond(&request, &broker(&[]), "OUTSIDE").error_code, 115);
    }
}
