//! IncrementalAlterConfigs (44): settings of topics and brokers are set, unset, and their lists added to or taken from.

use super::{alter_configs, error_text};
use crate::base::error::ErrorCode;
use crate::cluster::configs::Alteration;
use crate::cluster::image::Image;
use crate::cluster::record::MetadataRecord;
use crate::cluster::view::BrokerView;
use crate::wire::codec::incremental_alter_configs_response::AlterConfigsResourceResponse;
use crate::wire::codec::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, StrBytes};

/// The records of what can be changed (none if the request only asks for validation), and the answer to send once they are durable and
/// every core has the image that holds them.
pub fn decide(
    request: &IncrementalAlterConfigsRequest,
    image: &Image,
    broker: &BrokerView,
) -> (Vec<MetadataRecord>, IncrementalAlterConfigsResponse) {
    let asked: Vec<Alteration> = request
        .resources
        .iter()
        .map(|resource| Alteration {
            kind: resource.resource_type,
            name: &resource.resource_name,
            changes: resource.configs.iter().map(|one| (one.name.as_str(), one.config_operation, one.value.as_deref())).collect(),
            reset_others: false,
        })
        .collect();
    let (records, outcomes) = alter_configs::alter(image, broker, &asked, request.validate_only);
    (records, respond(request, outcomes))
}

/// The answer when nothing was decided in time.
pub fn failed(request: &IncrementalAlterConfigsRequest, code: ErrorCode) -> IncrementalAlterConfigsResponse {
    respond(request, std::iter::repeat_with(|| (code.code(), error_text(code.message()))))
}

fn respond(
    request: &IncrementalAlterConfigsRequest,
    outcomes: impl IntoIterator<Item = (i16, Option<StrBytes>)>,
) -> IncrementalAlterConfigsResponse {
    let mut response = IncrementalAlterConfigsResponse::default();
    for (one, outcome) in request.resources.iter().zip(outcomes) {
        let mut result = AlterConfigsResourceResponse::default();
        (result.resource_type, result.resource_name) = (one.resource_type, one.resource_name.clone());
        (result.error_code, result.error_message) = outcome;
        response.responses.push(result);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::cluster::configs;
    use crate::wire::codec::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    use crate::wire::versions::ApiKey;

    fn request(name: &str, value: Option<&str>, validate_only: bool) -> IncrementalAlterConfigsRequest {
        let mut config = AlterableConfig::default();
        (config.name, config.value) = ("retention.ms".into(), value.map(Into::into));
        let mut resource = AlterConfigsResource::default();
        (resource.resource_type, resource.resource_name, resource.configs) = (configs::TOPIC, name.into(), vec![config]);
        let mut request = IncrementalAlterConfigsRequest::default();
        (request.resources, request.validate_only) = (vec![resource], validate_only);
        request
    }

    fn answer(request: &IncrementalAlterConfigsRequest) -> (Vec<MetadataRecord>, IncrementalAlterConfigsResponse) {
        let broker = broker(&[]);
        decide(request, &image(&broker, &[("t", 1, 1)]), &broker)
    }

    #[test]
    fn settings_that_are_not_named_stay() {
        let (records, response) = answer(&request("t", Some("5000"), false));
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let configs = vec![own("cleanup.policy", "compact"), own("retention.ms", "5000")];
        assert_eq!(records, [MetadataRecord::TopicConfigs { id: [1; 16], configs }]);
        assert_eq!((response.responses[0].error_code, &response.responses[0].error_message), (0, &None));
    }

    #[test]
    fn validation_alone_changes_nothing() {
        assert_eq!(answer(&request("t", Some("5000"), true)).0, []);
        assert_eq!(answer(&request("t", Some("x"), true)).1.responses[0].error_code, 40);
    }

    #[test]
    fn every_version_encodes() {
        for (name, value) in [("t", Some("1")), ("t", Some("x")), ("nope", Some("1")), ("t", None)] {
            in_every_version(ApiKey::IncrementalAlterConfigs, |_| answer(&request(name, value, false)).1);
        }
        let long = "x".repeat(32_767);
        in_every_version(ApiKey::IncrementalAlterConfigs, |_| answer(&request("t", Some(&long), false)).1);
    }
}
