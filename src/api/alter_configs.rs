//! AlterConfigs (33): the older way, in which what is not named loses its value.

use super::error_text;
use super::repeated::Repeated;
use crate::base::error::ErrorCode;
use crate::cluster::configs::{self, Alteration, Alterations};
use crate::cluster::image::Image;
use crate::cluster::record::MetadataRecord;
use crate::cluster::view::BrokerView;
use crate::wire::codec::alter_configs_response::AlterConfigsResourceResponse;
use crate::wire::codec::{AlterConfigsRequest, AlterConfigsResponse, StrBytes};

/// The operation of every entry, with IncrementalAlterConfigs' number.
const SET: i8 = 0;
/// What the decision on a resource costs of a turn's budget, in inflated bytes.
const RESOURCE_COST: usize = 16 << 10;
/// What a setting costs besides, and what each of its bytes does.
const SETTING_COST: usize = 2 << 10;
const BYTE_COST: usize = 32;

/// What is answered for one resource: code and text.
pub type Outcome = (i16, Option<StrBytes>);

/// A request that alters configurations: AlterConfigs, IncrementalAlterConfigs.
pub trait Altering {
    /// Its answer.
    type Response: Default;

    /// Nothing is to be changed.
    fn validate_only(&self) -> bool;

    /// Kind and name of a resource.
    fn resource(&self, at: usize) -> Option<(i8, &StrBytes)>;

    /// What is asked of it.
    fn alteration(&self, at: usize) -> Option<Alteration<'_>>;

    /// Puts code and text of a resource into the answer.
    fn tell(&self, at: usize, outcome: Outcome, response: &mut Self::Response);
}

/// A decision that is made in steps, all on the same image.
pub struct Deciding<A: Altering>(Option<UnderWay<A::Response>>);

#[derive(Default)]
struct UnderWay<T> {
    repeated: Repeated,
    alterations: Alterations,
    /// Resources that were decided on.
    at: usize,
    records: Vec<MetadataRecord>,
    response: T,
}

impl<A: Altering> Default for Deciding<A> {
    fn default() -> Deciding<A> {
        Deciding(None)
    }
}

impl<A: Altering> Deciding<A> {
    /// Goes on until `budget`, which counts inflated bytes, was spent. At the end the records of what
    /// can be changed (none if the request only asks for validation), and the answer to send once
    /// they are durable and every core has the image that holds them; then a new decision may begin.
    pub fn step(
        &mut self,
        request: &A,
        image: &Image,
        broker: &BrokerView,
        budget: &mut usize,
    ) -> Option<(Vec<MetadataRecord>, A::Response)> {
        let UnderWay { repeated, alterations, at, records, response } = self.0.get_or_insert_default();
        let name = |at| request.resource(at).map(|(kind, name)| (kind, name.clone()));
        if !repeated.step(name, budget) {
            return None;
        }
        while let Some((kind, name)) = request.resource(*at) {
            if *budget == 0 {
                return None;
            }
            let altered = match repeated.has(kind, name) {
                true => Err(configs::named_twice()),
                false => request.alteration(*at).map_or(Ok(None), |asked| {
                    *budget = budget.saturating_sub(cost(&asked));
                    alterations.decide(image, broker, &asked)
                }),
            };
            *budget = budget.saturating_sub(RESOURCE_COST);
            let outcome = match altered {
                Ok(record) => {
                    records.extend(record.filter(|_| !request.validate_only()));
                    (0, None)
                }
                Err(refusal) => (refusal.code.code(), error_text(&refusal.message)),
            };
            request.tell(*at, outcome, response);
            *at += 1;
        }
        self.0.take().map(|done| (done.records, done.response))
    }
}

/// What the settings of an alteration cost.
fn cost(asked: &Alteration) -> usize {
    let bytes = |name: &str, value: Option<&str>| name.len() + value.map_or(0, str::len);
    let cost = |(name, _, value): &(&str, i8, Option<&str>)| SETTING_COST + bytes(name, *value) * BYTE_COST;
    asked.changes.iter().map(cost).sum()
}

/// The answer when nothing was decided in time.
pub fn failed<A: Altering>(request: &A, code: ErrorCode) -> A::Response {
    let mut response = A::Response::default();
    for at in (0..).take_while(|at| request.resource(*at).is_some()) {
        request.tell(at, (code.code(), error_text(code.message())), &mut response);
    }
    response
}

impl Altering for AlterConfigsRequest {
    type Response = AlterConfigsResponse;

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
            changes: one.configs.iter().map(|one| (one.name.as_str(), SET, one.value.as_deref())).collect(),
            reset_others: true,
        })
    }

    fn tell(&self, at: usize, outcome: Outcome, response: &mut AlterConfigsResponse) {
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
        let image = image(&broker, &[("t", 1, 1)]);
        Deciding::default().step(request, &image, &broker, &mut usize::MAX.clone()).unwrap()
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
    fn many_resources_are_decided_in_steps_as_in_one_go() {
        const RESOURCES: usize = 3000;
        let mut asked = request("t", Some("5000"));
        asked.resources = (0..RESOURCES).map(|n| request(&format!("t{}", n % 2999), Some("1")).resources.remove(0)).collect();
        asked.resources.push(request("t", Some("5000")).resources.remove(0));
        let broker = broker(&[]);
        let image = image(&broker, &[("t", 1, 1)]);
        let mut deciding = Deciding::default();
        let mut steps = 1;
        let stepped = loop {
            match deciding.step(&asked, &image, &broker, &mut (256 << 10)) {
                Some(done) => break done,
                None => steps += 1,
            }
        };
        assert!(steps >= RESOURCES / 16, "{steps}");
        assert_eq!(stepped, answer(&asked));
        let codes: Vec<i16> = stepped.1.responses.iter().map(|one| one.error_code).collect();
        assert_eq!((codes.len(), codes[0], codes[1], codes[2999], codes[RESOURCES]), (RESOURCES + 1, 42, 3, 42, 0));
        assert!(deciding.step(&asked, &image, &broker, &mut (256 << 10)).is_none(), "a new decision begins");
    }

    #[test]
    fn a_large_setting_takes_the_budget_of_its_size() {
        let broker = broker(&[]);
        let image = image(&broker, &[("t", 1, 1)]);
        let left = |value: &str| {
            let mut budget = 1 << 20;
            Deciding::default().step(&request("t", Some(value)), &image, &broker, &mut budget).unwrap();
            budget
        };
        assert_eq!((left("1") > 1 << 19, left(&"1".repeat(64 << 10))), (true, 0));
    }

    #[test]
    fn every_version_encodes() {
        for (name, value) in [("t", Some("1")), ("t", Some("x")), ("nope", Some("1")), ("t", None)] {
            in_every_version(ApiKey::AlterConfigs, |_| answer(&request(name, value)).1);
        }
    }
}
