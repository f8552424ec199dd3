//! ListConfigResources (74): the names of what has a configuration.

use crate::base::error::ErrorCode;
use crate::cluster::configs::{BROKER, GROUP, TOPIC};
use crate::cluster::image::Image;
use crate::cluster::view::BrokerView;
use crate::wire::codec::list_config_resources_response::ConfigResource;
use crate::wire::codec::{ListConfigResourcesRequest, ListConfigResourcesResponse};

const CLIENT_METRICS: i8 = 16;
/// Kinds that Kafka knows and of which this broker has none: loggers, client metrics.
const NONE_HERE: [i8; 2] = [8, CLIENT_METRICS];

/// The answer. Nothing named means all kinds; version 0 can only ask for client metrics.
pub fn respond(request: &ListConfigResourcesRequest, version: i16, image: &Image, broker: &BrokerView) -> ListConfigResourcesResponse {
    let kinds: &[i8] = match &request.resource_types[..] {
        _ if version == 0 => &[CLIENT_METRICS],
        [] => &[GROUP, BROKER, TOPIC],
        named => named,
    };
    let mut response = ListConfigResourcesResponse::default();
    if !kinds.iter().all(|kind| [GROUP, BROKER, TOPIC].contains(kind) || NONE_HERE.contains(kind)) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return response;
    }
    let mut add = |kind, name: &str| {
        let mut resource = ConfigResource::default();
        (resource.resource_type, resource.resource_name) = (kind, name.into());
        response.config_resources.push(resource);
    };
    if kinds.contains(&GROUP) {
        image.groups().for_each(|group| add(GROUP, group));
    }
    if kinds.contains(&BROKER) {
        add(BROKER, &broker.node_id.to_string());
    }
    if kinds.contains(&TOPIC) {
        image.topics().for_each(|topic| add(TOPIC, &topic.name));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::wire::versions::ApiKey;

    fn listed(version: i16, kinds: &[i8]) -> (i16, Vec<(i8, String)>) {
        let broker = broker(&[]);
        let mut request = ListConfigResourcesRequest::default();
        request.resource_types = kinds.to_vec();
        let answer = respond(&request, version, &image(&broker, &[("a", 1, 1), ("b", 2, 1)]), &broker);
        (answer.error_code, answer.config_resources.iter().map(|one| (one.resource_type, one.resource_name.to_string())).collect())
    }

    #[test]
    fn kinds() {
        let (node, topics) = ((BROKER, "1".to_owned()), [(TOPIC, "a".to_owned()), (TOPIC, "b".to_owned())]);
        assert_eq!(listed(1, &[]), (0, [vec![node.clone()], topics.to_vec()].concat()));
        assert_eq!(listed(1, &[TOPIC, GROUP]), (0, topics.to_vec()));
        assert_eq!(listed(1, &[BROKER]), (0, vec![node]));
        assert_eq!(listed(0, &[]), (0, vec![]));
        assert_eq!(listed(1, &[TOPIC, 77]), (35, vec![]));
    }

    #[test]
    fn every_version_encodes() {
        let broker = broker(&[]);
        let image = image(&broker, &[("a", 1, 1)]);
        in_every_version(ApiKey::ListConfigResources, |version| respond(&ListConfigResourcesRequest::default(), version, &image, &broker));
    }
}
