//! IncrementalAlterConfigs (44): settings of topics and brokers are set, unset, and their lists added to or taken from.

use super::alter_configs::{Altering, Outcome};
use crate::cluster::configs::Alteration;
use crate::wire::codec::incremental_alter_configs_response::AlterConfigsResourceResponse;
use crate::wire::codec::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, StrBytes};

impl Altering for IncrementalAlterConfigsRequest {
    type Response = IncrementalAlterConfigsResponse;

    fn validate_only(&self) -> bool {
        self.validate_only
    }

    fn resource(&self, at: usize) -> Option<(i8, &StrBytes)> {
        self.resources.get(at).map(|one| (one.resource_type, &one.resource_name))
    }

    fn alteration(&self, at: usize) -> Option<Alteration<'_>> {
        self.resources.get(at).map(|one| Alteration {
            kind: one.resource_type,
            name: &one.resource_name,
            changes: one.configs.iter().map(|one| (one.name.as_str(), one.config_operation, one.value.as_deref())).collect(),
            reset_others: false,
        })
    }

    fn tell(&self, at: usize, outcome: Outcome, response: &mut IncrementalAlterConfigsResponse) {
        let Some((kind, name)) = self.resource(at) else { return };
        let mut result = AlterConfigsResourceResponse::default();
        (result.resource_type, result.resource_name) = (kind, name.clone());
        (result.error_code, result.error_message) = outcome;
        response.responses.push(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::alter_configs::Deciding;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::cluster::configs;
    use crate::cluster::record::MetadataRecord;
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
        let image = image(&broker, &[("t", 1, 1)]);
        Deciding::default().step(request, &image, &broker, &mut usize::MAX.clone()).unwrap()
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
