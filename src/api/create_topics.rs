//! CreateTopics (19).

use std::collections::{BTreeMap, BTreeSet};

use super::error_text;
use crate::base::error::ErrorCode;
use crate::base::time::Now;
use crate::cluster::controller::{self, CreatedTopic, Creation, NewTopic, Refusal};
use crate::cluster::image::Image;
use crate::cluster::record::MetadataRecord;
use crate::cluster::topic_config;
use crate::cluster::view::BrokerView;
use crate::wire::codec::create_topics_request::CreatableTopic;
use crate::wire::codec::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use crate::wire::codec::{CreateTopicsRequest, CreateTopicsResponse};

/// What the decision on a topic costs of a turn's budget, in inflated bytes: its answer tells all settings.
const TOPIC_COST: usize = 64 << 10;

/// A decision that is made in steps, all on the same image.
#[derive(Default)]
pub struct Deciding(Option<UnderWay>);

struct UnderWay {
    /// Names that stand there more than once.
    twice: BTreeSet<String>,
    /// Why none is created.
    refusal: Option<Refusal>,
    /// Topics that were looked at.
    at: usize,
    creation: Creation,
    records: Vec<MetadataRecord>,
    response: CreateTopicsResponse,
}

impl UnderWay {
    fn new(request: &CreateTopicsRequest, broker: &BrokerView) -> UnderWay {
        let mut named = BTreeMap::new();
        request.topics.iter().for_each(|topic| *named.entry(topic.name.as_str()).or_insert(0) += 1);
        let twice: BTreeSet<String> = named.into_iter().filter(|&(_, count)| count > 1).map(|(name, _)| name.to_owned()).collect();
        let mut response = CreateTopicsResponse::default();
        for name in &twice {
            let refusal = Refusal { code: ErrorCode::InvalidRequest, message: "Duplicate topic name.".to_owned() };
            response.topics.push(refused(name, &refusal));
        }
        let once = request.topics.iter().filter(|topic| !twice.contains(topic.name.as_str()));
        let refusal = controller::check_partitions(broker, once.map(new_topic)).err();
        UnderWay { twice, refusal, at: 0, creation: Creation::default(), records: Vec::new(), response }
    }
}

impl Deciding {
    /// Goes on until `budget`, which counts inflated bytes, was spent. At the end the records that
    /// create what can be created (none if the request only asks for validation), and the answer to
    /// send once they are durable and every core has the image that holds them; then a new decision
    /// may begin. `random` yields random bits for the topics' ids.
    pub fn step(
        &mut self,
        request: &CreateTopicsRequest,
        image: &Image,
        broker: &BrokerView,
        (now, random): (Now, &mut dyn FnMut() -> [u8; 16]),
        budget: &mut usize,
    ) -> Option<(Vec<MetadataRecord>, CreateTopicsResponse)> {
        let under_way = self.0.get_or_insert_with(|| UnderWay::new(request, broker));
        let UnderWay { twice, refusal, at, creation, records, response } = under_way;
        while let Some(topic) = request.topics.get(*at) {
            if *budget == 0 {
                return None;
            }
            *at += 1;
            if twice.contains(topic.name.as_str()) {
                continue;
            }
            *budget = budget.saturating_sub(TOPIC_COST);
            let decision = match refusal {
                Some(refusal) => Err(refusal.clone()),
                None => creation.topic(image, broker, now, &new_topic(topic), random),
            };
            response.topics.push(match &decision {
                Ok(made) => created(&topic.name, made, image),
                Err(refusal) => refused(&topic.name, refusal),
            });
            records.extend(decision.ok().filter(|_| !request.validate_only).map(|made| made.record));
        }
        self.0.take().map(|done| (done.records, done.response))
    }
}

/// The answer when nothing was decided in time.
pub fn failed(request: &CreateTopicsRequest, code: ErrorCode) -> CreateTopicsResponse {
    let refusal = Refusal { code, message: code.message().to_owned() };
    let mut response = CreateTopicsResponse::default();
    let named: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
    response.topics = named.into_iter().map(|name| refused(name, &refusal)).collect();
    response
}

fn new_topic(topic: &CreatableTopic) -> NewTopic<'_> {
    NewTopic {
        name: &topic.name,
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic.assignments.iter().map(|entry| (entry.partition_index, &entry.broker_ids[..])).collect(),
        configs: topic.configs.iter().map(|entry| (entry.name.as_str(), entry.value.as_deref())).collect(),
    }
}

fn refused(name: &str, refusal: &Refusal) -> CreatableTopicResult {
    let mut result = CreatableTopicResult::default();
    result.name = name.into();
    result.error_code = refusal.code.code();
    result.error_message = error_text(&refusal.message);
    result
}

fn created(name: &str, made: &CreatedTopic, image: &Image) -> CreatableTopicResult {
    let mut result = CreatableTopicResult::default();
    result.name = name.into();
    result.topic_id = made.id.into();
    result.num_partitions = made.partitions;
    result.replication_factor = 1;
    result.error_message = None;
    let config = |entry: topic_config::Effective| {
        let mut config = CreatableTopicConfigs::default();
        config.name = entry.key.name.into();
        config.value = Some(entry.value.into());
        config.config_source = entry.source as i8;
        config
    };
    result.configs = Some(topic_config::effective(&made.overrides, image.settings()).map(config).collect());
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::base::ids::Uuid;
    use crate::wire::codec::create_topics_request::CreatableTopicConfig;
    use crate::wire::versions::ApiKey;

    /// In steps, which lead to the same whatever their length.
    fn decide(
        request: &CreateTopicsRequest,
        image: &Image,
        broker: &BrokerView,
        now: Now,
        random: &mut dyn FnMut() -> [u8; 16],
    ) -> (Vec<MetadataRecord>, CreateTopicsResponse) {
        let mut deciding = Deciding::default();
        let mut steps = 0;
        loop {
            steps += 1;
            if let Some(decided) = deciding.step(request, image, broker, (now, random), &mut 1) {
                assert!(steps >= request.topics.len() / 2, "{steps}");
                return decided;
            }
        }
    }

    fn request(topics: &[(&str, i32, i16)]) -> CreateTopicsRequest {
        let mut request = CreateTopicsRequest::default();
        for &(name, partitions, replicas) in topics {
            let mut topic = CreatableTopic::default();
            (topic.name, topic.num_partitions, topic.replication_factor) = (name.into(), partitions, replicas);
            let mut config = CreatableTopicConfig::default();
            (config.name, config.value) = ("retention.ms".into(), Some("5000".into()));
            topic.configs = vec![config];
            request.topics.push(topic);
        }
        request
    }

    fn answer(request: &CreateTopicsRequest) -> (Vec<MetadataRecord>, CreateTopicsResponse) {
        let broker = broker(&[("message.max.bytes", "2000000")]);
        let mut n = 0;
        decide(request, &image(&broker, &[("old", 1, 1)]), &broker, Now::default(), &mut || {
            n += 1;
            [n; 16]
        })
    }

    #[test]
    fn topics_one_by_one() {
        let (records, response) =
            answer(&request(&[("new", -1, -1), ("old", 1, 1), ("twice", 1, 1), ("ok", 5, 1), ("twice", 1, 1), ("r", 1, 3)]));
        assert_eq!(records.len(), 2);
        let codes: Vec<_> = response.topics.iter().map(|topic| (topic.name.as_str(), topic.error_code, topic.num_partitions)).collect();
        assert_eq!(codes, [("twice", 42, -1), ("new", 0, 2), ("old", 36, -1), ("ok", 0, 5), ("r", 38, -1)]);
        assert_eq!(response.topics[0].error_message.as_deref(), Some("Duplicate topic name."));
        let new = &response.topics[1];
        assert_eq!((new.topic_id, new.replication_factor), (Uuid::from_random([1; 16]).into(), 1));
        let configs = new.configs.as_ref().unwrap();
        let config = |name: &str| {
            let entry = configs.iter().find(|entry| entry.name.as_str() == name).unwrap();
            (entry.value.as_deref().unwrap(), entry.config_source)
        };
        assert_eq!(config("retention.ms"), ("5000", 1));
        assert_eq!(config("max.message.bytes"), ("2000000", 4));
        assert_eq!(config("cleanup.policy"), ("delete", 5));
        assert_eq!(configs.len(), topic_config::TABLE.len());
    }

    #[test]
    fn validation_alone_makes_nothing() {
        let mut request = request(&[("new", 1, 1)]);
        request.validate_only = true;
        let (records, response) = answer(&request);
        assert_eq!((records.len(), response.topics[0].error_code), (0, 0));
    }

    #[test]
    fn every_version_encodes() {
        let late = failed(&request(&[("a", 1, 1), ("b", 1, 1), ("a", 1, 1)]), ErrorCode::RequestTimedOut);
        let codes: Vec<_> = late.topics.iter().map(|topic| (topic.name.as_str(), topic.error_code)).collect();
        assert_eq!(codes, [("a", 7), ("b", 7)]);
        in_every_version(ApiKey::CreateTopics, |_| late.clone());
        in_every_version(ApiKey::CreateTopics, |_| answer(&request(&[("new", -1, -1), ("old", 1, 1), ("not ok", 1, 1)])).1);
        // A text that quotes a name of 32767 bytes would not fit.
        let long = "x".repeat(32_767);
        in_every_version(ApiKey::CreateTopics, |_| answer(&request(&[(&long, 1, 1)])).1);
    }
}
