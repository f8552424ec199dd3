//! Metadata (3): the brokers, and the topics with their leaders.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS};
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::cluster::image::{Image, Topic};
use crate::cluster::names;
use crate::cluster::view::BrokerView;
use crate::wire::codec::metadata_request::MetadataRequestTopic;
use crate::wire::codec::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use crate::wire::codec::{MetadataRequest, MetadataResponse, StrBytes};

pub use crate::cluster::controller::auto_create;

/// The topics that the request names, does not find, and may create: for [`auto_create`], after which
/// [`respond`] is asked with the image that has them.
pub fn plan(request: &MetadataRequest, version: i16, image: &Image, broker: &BrokerView) -> Vec<String> {
    if !(broker.auto_create_topics && request.allow_auto_topic_creation) {
        return Vec::new();
    }
    let asked = asked(request, version).unwrap_or_default().iter().filter(|topic| topic.topic_id.is_zero());
    let missing: BTreeSet<&str> = asked
        .filter_map(|topic| topic.name.as_deref())
        .filter(|name| image.topic(name).is_none() && names::validate(name).is_ok())
        .collect();
    missing.into_iter().map(str::to_owned).collect()
}

/// What a topic and a partition cost of a turn's budget, in inflated bytes.
const TOPIC_COST: usize = 256;
const PARTITION_COST: usize = 128;

/// An answer that is made in steps.
pub struct Answering {
    response: MetadataResponse,
    operations: i32,
    /// Where the topics go on: by name where all are asked for, else by place in the request.
    from: Option<Arc<str>>,
    at: usize,
    seen: BTreeSet<(Option<StrBytes>, Uuid)>,
}

impl Answering {
    /// The answer to a client that came in through `listener`, as yet without topics.
    pub fn new(request: &MetadataRequest, broker: &BrokerView, listener: &str) -> Answering {
        let operations = |asked, all| if asked { all } else { OPERATIONS_NOT_ASKED };
        let mut response = MetadataResponse::default();
        response.brokers = vec![this_broker(broker, listener)];
        response.cluster_id = Some(broker.cluster_id.as_str().into());
        response.controller_id = broker.node_id;
        response.cluster_authorized_operations = operations(request.include_cluster_authorized_operations, CLUSTER_OPERATIONS);
        let operations = operations(request.include_topic_authorized_operations, TOPIC_OPERATIONS);
        Answering { response, operations, from: None, at: 0, seen: BTreeSet::new() }
    }

    /// Goes on until `budget`, which counts inflated bytes, was spent; the answer at the end. Request
    /// and image are to be the same each time.
    pub fn step(
        &mut self,
        request: &MetadataRequest,
        version: i16,
        image: &Image,
        broker: &BrokerView,
        budget: &mut usize,
    ) -> Option<MetadataResponse> {
        let Answering { response, operations, from, at, seen } = self;
        let mut put = |topic: MetadataResponseTopic| {
            *budget = budget.saturating_sub(TOPIC_COST + topic.partitions.len() * PARTITION_COST);
            response.topics.push(topic);
            *budget == 0
        };
        match asked(request, version) {
            None => {
                let first = from.take();
                let mut rest = image.topics_from(first.as_deref().unwrap_or_default());
                while let Some(topic) = rest.next() {
                    if put(found(topic, broker, *operations)) {
                        *from = rest.next().map(|topic| topic.name.clone());
                        if from.is_some() {
                            return None;
                        }
                        break;
                    }
                }
            }
            Some(asked) => {
                while let Some(topic) = asked.get(*at) {
                    *at += 1;
                    let new = seen.insert((topic.name.clone(), topic.topic_id.into()));
                    if new && put(one_topic(topic, version, image, broker, *operations)) {
                        return None;
                    }
                }
            }
        }
        Some(std::mem::take(response))
    }
}

/// The answer to a client that came in through `listener`, in one go.
pub fn respond(request: &MetadataRequest, version: i16, image: &Image, broker: &BrokerView, listener: &str) -> MetadataResponse {
    let mut answering = Answering::new(request, broker, listener);
    loop {
        if let Some(response) = answering.step(request, version, image, broker, &mut usize::MAX.clone()) {
            return response;
        }
    }
}

/// Bytes that making the answer takes, about.
pub fn answer_bytes(request: &MetadataRequest, image: &Image) -> usize {
    const TOPIC: usize = 300;
    const PARTITION: usize = 400;
    match &request.topics {
        Some(topics) if !topics.is_empty() => {
            let named = |topic: &MetadataRequestTopic| match &topic.name {
                Some(name) => image.topic(name),
                None => image.topic_by_id(topic.topic_id.into()),
            };
            topics.iter().map(|topic| TOPIC + named(topic).map_or(0, |topic| topic.partitions.len() * PARTITION)).sum()
        }
        _ => image.topics().len() * TOPIC + image.partitions() * PARTITION,
    }
}

/// The topics asked for; none: all. Version 0 has no null and says "all" by asking for nothing.
fn asked(request: &MetadataRequest, version: i16) -> Option<&[MetadataRequestTopic]> {
    request.topics.as_deref().filter(|topics| version > 0 || !topics.is_empty())
}

fn this_broker(broker: &BrokerView, listener: &str) -> MetadataResponseBroker {
    let endpoint = broker.endpoint(listener);
    let mut entry = MetadataResponseBroker::default();
    entry.node_id = broker.node_id;
    entry.host = endpoint.host.as_str().into();
    entry.port = endpoint.port.into();
    entry.rack = broker.rack.as_deref().map(Into::into);
    entry
}

fn one_topic(topic: &MetadataRequestTopic, version: i16, image: &Image, broker: &BrokerView, operations: i32) -> MetadataResponseTopic {
    let id = Uuid::from(topic.topic_id);
    let by_name = topic.name.as_deref().filter(|_| id.is_zero());
    let code = match by_name {
        // Asking by id came with version 12 (KIP-516).
        None if version < 12 || id.is_zero() => ErrorCode::InvalidRequest,
        None => match image.topic_by_id(id) {
            Some(topic) => return found(topic, broker, operations),
            None => ErrorCode::UnknownTopicId,
        },
        Some(name) => match image.topic(name) {
            Some(topic) => return found(topic, broker, operations),
            None if names::validate(name).is_err() => ErrorCode::InvalidTopicException,
            None => ErrorCode::UnknownTopicOrPartition,
        },
    };
    let mut entry = MetadataResponseTopic::default();
    entry.error_code = code.code();
    entry.topic_id = topic.topic_id;
    entry.topic_authorized_operations = OPERATIONS_NOT_ASKED;
    // Before version 12 the name of an answer cannot be null.
    entry.name = by_name.or((version < 12).then_some("")).map(Into::into);
    entry.is_internal = by_name.is_some_and(names::is_internal);
    entry
}

fn found(topic: &Topic, broker: &BrokerView, operations: i32) -> MetadataResponseTopic {
    let mut entry = MetadataResponseTopic::default();
    entry.name = Some((&*topic.name).into());
    entry.topic_id = topic.id.into();
    entry.is_internal = names::is_internal(&topic.name);
    entry.topic_authorized_operations = operations;
    let partition = |(index, partition): (usize, &crate::cluster::image::PartitionInfo)| {
        let mut entry = MetadataResponsePartition::default();
        entry.partition_index = index as i32;
        entry.leader_id = broker.node_id;
        entry.leader_epoch = partition.leader_epoch;
        entry.replica_nodes = vec![broker.node_id];
        entry.isr_nodes = vec![broker.node_id];
        entry
    };
    entry.partitions = topic.partitions.iter().enumerate().map(partition).collect();
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, id, image, in_every_version};
    use crate::wire::versions::ApiKey;

    fn ask(names: &[&str]) -> MetadataRequest {
        let mut request = MetadataRequest::default();
        let topic = |name: &&str| {
            let mut topic = MetadataRequestTopic::default();
            topic.name = Some((*name).into());
            topic
        };
        request.topics = Some(names.iter().map(topic).collect());
        request.allow_auto_topic_creation = true;
        request
    }

    fn ask_id(byte: u8) -> MetadataRequest {
        let mut request = ask(&["x"]);
        let topic = &mut request.topics.as_mut().unwrap()[0];
        (topic.name, topic.topic_id) = (None, id(byte).into());
        request
    }

    fn names(response: &MetadataResponse) -> Vec<(&str, i16)> {
        response.topics.iter().map(|topic| (topic.name.as_deref().unwrap_or("null"), topic.error_code)).collect()
    }

    #[test]
    fn every_version_encodes() {
        let broker = broker(&[]);
        let image = image(&broker, &[("a", 1, 3), ("__consumer_offsets", 2, 1)]);
        in_every_version(ApiKey::Metadata, |version| respond(&ask(&["a", "nope", "a b"]), version, &image, &broker, "OUTSIDE"));
        in_every_version(ApiKey::Metadata, |version| respond(&ask_id(9), version, &image, &broker, "OUTSIDE"));
    }

    #[test]
    fn all_some_or_no_topics() {
        let broker = broker(&[]);
        let image = image(&broker, &[("b", 1, 3), ("a", 2, 1)]);
        let mut all = MetadataRequest::default();
        all.topics = None;
        assert_eq!(names(&respond(&all, 12, &image, &broker, "PLAINTEXT")), [("a", 0), ("b", 0)]);
        assert_eq!(names(&respond(&ask(&[]), 0, &image, &broker, "PLAINTEXT")), [("a", 0), ("b", 0)]);
        assert_eq!(names(&respond(&ask(&[]), 1, &image, &broker, "PLAINTEXT")), []);
        let some = respond(&ask(&["b", "nope", "", "b"]), 9, &image, &broker, "PLAINTEXT");
        assert_eq!(names(&some), [("b", 0), ("nope", 3), ("", 17)]);
        let partition = &some.topics[0].partitions[2];
        assert_eq!((partition.partition_index, partition.leader_id, partition.leader_epoch), (2, 1, 4));
        assert_eq!((&partition.replica_nodes[..], &partition.isr_nodes[..]), (&[1][..], &[1][..]));
        assert!(partition.offline_replicas.is_empty());
    }

    #[test]
    fn steps_lead_to_the_same_answer() {
        let broker = broker(&[]);
        let image = image(&broker, &[("b", 1, 3), ("a", 2, 1), ("c", 3, 2)]);
        let mut all = MetadataRequest::default();
        all.topics = None;
        for (request, expected) in [(all, 3), (ask(&["b", "b", "nope", "a"]), 3)] {
            let mut answering = Answering::new(&request, &broker, "PLAINTEXT");
            let mut steps = 0;
            let response = loop {
                steps += 1;
                if let Some(response) = answering.step(&request, 12, &image, &broker, &mut 1) {
                    break response;
                }
            };
            assert!(steps >= expected, "{steps}");
            assert_eq!(response, respond(&request, 12, &image, &broker, "PLAINTEXT"));
        }
    }

    #[test]
    fn by_id() {
        let broker = broker(&[]);
        let image = image(&broker, &[("b", 1, 3)]);
        assert_eq!(names(&respond(&ask_id(1), 12, &image, &broker, "PLAINTEXT")), [("b", 0)]);
        let unknown = respond(&ask_id(2), 12, &image, &broker, "PLAINTEXT");
        assert_eq!((names(&unknown), unknown.topics[0].topic_id), (vec![("null", 100)], id(2).into()));
        assert_eq!(names(&respond(&ask_id(1), 11, &image, &broker, "PLAINTEXT")), [("", 42)]);
        assert_eq!(names(&respond(&ask_id(0), 12, &image, &broker, "PLAINTEXT")), [("null", 42)]);
    }

    #[test]
    fn brokers_and_operations() {
        let broker = broker(&[]);
        let image = image(&broker, &[("b", 1, 1)]);
        let mut request = ask(&["b"]);
        let plain = respond(&request, 8, &image, &broker, "OUTSIDE");
        assert_eq!((plain.brokers[0].host.as_str(), plain.brokers[0].port), ("outside.example", 19092));
        assert_eq!(plain.brokers[0].rack.as_deref(), Some("r1"));
        assert_eq!((plain.controller_id, plain.cluster_id.as_deref()), (1, Some("the-cluster")));
        assert_eq!((plain.cluster_authorized_operations, plain.topics[0].topic_authorized_operations), (i32::MIN, i32::MIN));
        request.include_cluster_authorized_operations = true;
        request.include_topic_authorized_operations = true;
        let asked = respond(&request, 8, &image, &broker, "unheard-of");
        assert_eq!(asked.brokers[0].port, 9092);
        assert_eq!((asked.cluster_authorized_operations, asked.topics[0].topic_authorized_operations), (8096, 3576));
    }

    #[test]
    fn what_is_created_by_asking() {
        let on = broker(&[]);
        let image = image(&on, &[("b", 1, 1)]);
        let mut request = ask(&["b", "new", "new", "not ok", ""]);
        assert_eq!(plan(&request, 4, &image, &on), ["new"]);
        let mut off = on.clone();
        off.auto_create_topics = false;
        assert!(plan(&request, 4, &image, &off).is_empty());
        request.allow_auto_topic_creation = false;
        assert!(plan(&request, 4, &image, &on).is_empty());
        assert!(plan(&ask(&[]), 0, &image, &on).is_empty() && plan(&ask_id(7), 12, &image, &on).is_empty());
    }
}
