//! AlterConfigs (33): the older way, in which what is not named loses its value.

use super::error_text;
use crate::base::error::ErrorCode;
use crate::cluster::configs::{self, Alteration};
use crate::cluster::image::Image;
use crate::cluster::record::MetadataRecord;
use crate::cluster::view::BrokerView;
use crate::wire::codec::alter_configs_response::AlterConfigsResourceResponse;
use crate::wire::codec::{AlterConfigsRequest, AlterConfigsResponse, StrBytes};

/// The operation of every entry, with IncrementalAlterConfigs' number.
const SET: i8 = 0;

/// The records of what can be changed (none if the request only asks for validation), and the answer to send once they are durable and
/// every core has the image that holds them.
pub fn decide(request: &AlterConfigsRequest, image: &Image, broker: &BrokerView) -> (Vec<MetadataRecord>, AlterConfigsResponse) {
    let asked: Vec<Alteration> = request
        .resources
        .iter()
        .map(|resource| Alteration {
            kind: resource.resource_type,
            name: &resource.resource_name,
            changes: resource.configs.iter().map(|one| (one.name.as_str(), SET, one.value.as_deref())).collect(),
            reset_others: true,
        })
        .collect();
    let (records, outcomes) = alter(image, broker, &asked, request.validate_only);
    (records, respond(request, outcomes))
}

/// The answer when nothing was decided in time.
pub fn failed(request: &AlterConfigsRequest, code: ErrorCode) -> AlterConfigsResponse {
    respond(request, std::iter::repeat_with(|| (code.code(), error_text(code.message()))))
}

fn respond(request: &AlterConfigsRequest, outcomes: impl IntoIterator<Item = (i16, Option<StrBytes>)>) -> AlterConfigsResponse {
    let mut response = AlterConfigsResponse::default();
    for (one, outcome) in request.resources.iter().zip(outcomes) {
        let mut result = AlterConfigsResourceResponse::default();
        (result.resource_type, result.resource_name) = (one.resource_type, one.resource_name.clone());
        (result.error_code, result.error_message) = outcome;
        response.responses.push(result);
    }
    response
}

/// The records to commit, none with `validate_only`, and what each alteration is answered: code and text.
pub(super) fn alter(
    image: &Image,
    broker: &BrokerView,
    asked: &[Alteration],
    validate_only: bool,
) -> (Vec<MetadataRecord>, Vec<(i16, Option<StrBytes>)>) {
    let (mut records, mut outcomes) = (Vec::new(), Vec::new());
    for altered in configs::alter(image, broker, asked) {
        outcomes.push(match altered {
            Ok(record) => {
                records.extend(record.filter(|_| !validate_only));
                (0, None)
            }
            Err(refusal) => (refusal.code.code(), error_text(&refusal.message)),
        });
    }
    (records, outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::wire::codec::alter_configs_request::{AlterConfigsResource, AlterableConfig};
    use crate::wire::versions::ApiKey;

    fn request(name: &str, value: Option<&str>) -> AlterConfigsRequest {
        let mut config = AlterableConfig::default();
        (config.name, config.value) = ("retention.ms".into(), value.map(Into::into));
        let mut resource = AlterConfigsResource::default();
        (resource.resource_type, resource.resource_name, resource.configs) = (configs::TOPIC, name.into(), vec![config]);
        let mut request = AlterConfigsRequest::default();
        request.resources = vec![resource];
        request
    }

    fn answer(request: &AlterConfigsRequest) -> (Vec<MetadataRecord>, AlterConfigsResponse) {
        let broker = broker(&[]);
        decide(request, &image(&broker, &[("t", 1, 1)]), &broker)
    }

    #[test]
    fn settings_that_are_not_named_are_reset() {
        let configs = vec![("retention.ms".to_owned(), "5000".to_owned())];
        assert_eq!(answer(&request("t", Some("5000"))).0, [MetadataRecord::TopicConfigs { id: [1; 16], configs }]);
        let mut validation = request("t", Some("5000"));
        validation.validate_only = true;
        assert_eq!(answer(&validation).0, []);
    }

    #[test]
    fn every_version_encodes() {
        for (name, value) in [("t", Some("1")), ("t", Some("x")), ("nope", Some("1")), ("t", None)] {
            in_every_version(ApiKey::AlterConfigs, |_| answer(&request(name, value)).1);
        }
    }
}
