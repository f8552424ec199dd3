//! DeleteTopics (20).

use std::collections::{BTreeMap, BTreeSet};

use super::error_text;
use crate::base::error::ErrorCode;
use crate::base::ids::{TopicId, Uuid};
use crate::cluster::controller::{self, Refusal, TopicKey};
use crate::cluster::image::Image;
use crate::cluster::record::MetadataRecord;
use crate::cluster::view::BrokerView;
use crate::wire::codec::delete_topics_request::DeleteTopicState;
use crate::wire::codec::delete_topics_response::DeletableTopicResult;
use crate::wire::codec::{DeleteTopicsRequest, DeleteTopicsResponse};

/// What the decision on a topic costs of a turn's budget, in inflated bytes.
const TOPIC_COST: usize = 512;

/// A decision that is made in steps, all on the same image.
#[derive(Default)]
pub struct Deciding(Option<UnderWay>);

struct UnderWay {
    /// Names and ids that stand there more than once: none of them is deleted.
    names_twice: BTreeSet<String>,
    ids_twice: BTreeSet<TopicId>,
    /// Topics asked for by name and by id: not deleted either.
    both_ways: BTreeSet<TopicId>,
    /// Topics that were looked at.
    at: usize,
    decided: Vec<TopicId>,
    response: DeleteTopicsResponse,
}

/// A topic by name, by id (zero: none), or wrongly by both or neither.
type Asked<'a> = (Option<&'a str>, TopicId);

/// Version 6 names topics by name or id, the versions before by name only, in a field of their own.
fn asked(request: &DeleteTopicsRequest, from: usize) -> impl Iterator<Item = Asked<'_>> {
    let named = request.topic_names.iter().map(|name| (Some(name.as_str()), Uuid::ZERO));
    let either = |topic: &'_ DeleteTopicState| -> TopicId { topic.topic_id.into() };
    let either = request.topics.iter().map(move |topic| (topic.name.as_deref(), either(topic)));
    named.skip(from).chain(either.skip(from.saturating_sub(request.topic_names.len())))
}

impl UnderWay {
    fn new(request: &DeleteTopicsRequest, version: i16, image: &Image, broker: &BrokerView) -> UnderWay {
        let (mut names, mut ids) = (BTreeMap::new(), BTreeMap::new());
        for asked in asked(request, 0) {
            match asked {
                (Some(name), id) if id.is_zero() => *names.entry(name).or_insert(0) += 1,
                (None, id) if !id.is_zero() => *ids.entry(id).or_insert(0) += 1,
                _ => {}
            }
        }
        let once = names.iter().filter(|(_, count)| **count == 1);
        let found = once.filter_map(|(name, _)| image.topic(name)).map(|topic| topic.id);
        let both_ways = found.filter(|id| ids.contains_key(id)).collect();
        names.retain(|_, count| *count > 1);
        ids.retain(|_, count| *count > 1);
        let mut response = DeleteTopicsResponse::default();
        if broker.delete_topic_enable {
            let name = |&name| refused((Some(name), Uuid::ZERO), invalid("Duplicate topic name."), version);
            response.responses.extend(names.keys().map(name));
            let id = |&id| refused((None, id), invalid("Duplicate topic id."), version);
            response.responses.extend(ids.keys().map(id));
        }
        let names_twice = names.into_keys().map(str::to_owned).collect();
        let ids_twice = ids.into_keys().collect();
        UnderWay { names_twice, ids_twice, both_ways, at: 0, decided: Vec::new(), response }
    }

    /// Whether another part of the answer speaks of it.
    fn is_answered(&self, asked: Asked) -> bool {
        match asked {
            (Some(name), id) if id.is_zero() => self.names_twice.contains(name),
            (None, id) => self.ids_twice.contains(&id) || self.both_ways.contains(&id),
            _ => false,
        }
    }
}

impl Deciding {
    /// Goes on until `budget`, which counts inflated bytes, was spent. At the end the records that
    /// delete what can be deleted, and the answer to send once they are durable and every core has
    /// let go of the topics; then a new decision may begin.
    pub fn step(
        &mut self,
        request: &DeleteTopicsRequest,
        version: i16,
        image: &Image,
        broker: &BrokerView,
        budget: &mut usize,
    ) -> Option<(Vec<MetadataRecord>, DeleteTopicsResponse)> {
        let under_way = self.0.get_or_insert_with(|| UnderWay::new(request, version, image, broker));
        for asked in asked(request, under_way.at) {
            if *budget == 0 {
                return None;
            }
            *budget = budget.saturating_sub(TOPIC_COST);
            under_way.at += 1;
            if broker.delete_topic_enable && under_way.is_answered(asked) {
                continue;
            }
            let decided = decide_one(asked, version, image, broker).and_then(|id| match under_way.both_ways.contains(&id) {
                true => Err((id, invalid("The provided topic name maps to an ID that was already supplied."))),
                false => Ok(id),
            });
            under_way.response.responses.push(match decided {
                Ok(id) => {
                    under_way.decided.push(id);
                    result(image.topic_by_id(id).map(|topic| &*topic.name), id)
                }
                Err((id, refusal)) => refused((asked.0, id), refusal, version),
            });
        }
        let UnderWay { decided, response, .. } = self.0.take()?;
        Some((decided.into_iter().map(|id| MetadataRecord::RemoveTopic { id: id.0 }).collect(), response))
    }
}

/// The answer when nothing was decided in time.
pub fn failed(request: &DeleteTopicsRequest, version: i16, code: ErrorCode) -> DeleteTopicsResponse {
    let refusal = Refusal { code, message: code.message().to_owned() };
    let mut response = DeleteTopicsResponse::default();
    response.responses = asked(request, 0).map(|asked| refused(asked, refusal.clone(), version)).collect();
    response
}

fn invalid(message: &str) -> Refusal {
    Refusal { code: ErrorCode::InvalidRequest, message: message.to_owned() }
}

/// The topic to delete, or why not, with the id to tell beside.
fn decide_one(asked: Asked, version: i16, image: &Image, broker: &BrokerView) -> Result<TopicId, (TopicId, Refusal)> {
    let refuse = |message: &str| Err((asked.1, invalid(message)));
    // What a client of the oldest versions can understand (Kafka's rule).
    if !broker.delete_topic_enable && version < 3 {
        return refuse("Topic deletion is disabled.");
    }
    let key = match asked {
        (None, id) if id.is_zero() => return refuse("Neither topic name nor id were specified."),
        (None, id) => TopicKey::Id(id),
        (Some(name), id) if id.is_zero() => TopicKey::Name(name),
        _ => return refuse("You may not specify both topic name and topic id."),
    };
    controller::delete_topic(image, broker, key).map_err(|refusal| (asked.1, refusal))
}

fn result(name: Option<&str>, id: TopicId) -> DeletableTopicResult {
    let mut result = DeletableTopicResult::default();
    result.name = name.map(Into::into);
    result.topic_id = id.into();
    result
}

fn refused((name, id): (Option<&str>, TopicId), refusal: Refusal, version: i16) -> DeletableTopicResult {
    // Before version 6 the name of an answer cannot be null; nor could it in the question.
    let mut result = result(name.or((version < 6).then_some("")), id);
    result.error_code = refusal.code.code();
    result.error_message = error_text(&refusal.message);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, id, image, in_every_version};
    use crate::wire::versions::ApiKey;

    /// In steps, which lead to the same whatever their length.
    fn decide(
        request: &DeleteTopicsRequest,
        version: i16,
        image: &Image,
        broker: &BrokerView,
    ) -> (Vec<MetadataRecord>, DeleteTopicsResponse) {
        let mut deciding = Deciding::default();
        let whole = deciding.step(request, version, image, broker, &mut usize::MAX.clone()).unwrap();
        let mut steps = 1;
        loop {
            if let Some(decided) = deciding.step(request, version, image, broker, &mut 1) {
                assert!(decided == whole && steps >= request.topic_names.len() + request.topics.len());
                return whole;
            }
            steps += 1;
        }
    }

    fn by_name(names: &[&str]) -> DeleteTopicsRequest {
        let mut request = DeleteTopicsRequest::default();
        request.topic_names = names.iter().map(|&name| name.into()).collect();
        request
    }

    fn by_either(topics: &[(Option<&str>, u8)]) -> DeleteTopicsRequest {
        let mut request = DeleteTopicsRequest::default();
        for &(name, byte) in topics {
            let mut topic = DeleteTopicState::default();
            (topic.name, topic.topic_id) = (name.map(Into::into), id(byte).into());
            request.topics.push(topic);
        }
        request
    }

    fn codes(response: &DeleteTopicsResponse) -> Vec<(&str, i16)> {
        response.responses.iter().map(|topic| (topic.name.as_deref().unwrap_or("null"), topic.error_code)).collect()
    }

    #[test]
    fn by_name_and_by_id() {
        let broker = broker(&[]);
        let image = image(&broker, &[("a", 1, 1), ("b", 2, 1), ("c", 3, 1)]);
        let (records, response) = decide(&by_name(&["a", "nope", "a", ".."]), 5, &image, &broker);
        assert_eq!(records, [], "a name that stands there twice keeps its topic");
        assert_eq!(codes(&response), [("a", 42), ("nope", 3), ("..", 3)]);

        let asked = [(Some("a"), 0), (None, 2), (None, 9), (Some("c"), 3), (None, 0)];
        let (records, response) = decide(&by_either(&asked), 6, &image, &broker);
        assert_eq!(records, [MetadataRecord::RemoveTopic { id: [1; 16] }, MetadataRecord::RemoveTopic { id: [2; 16] }]);
        assert_eq!(codes(&response), [("a", 0), ("b", 0), ("null", 100), ("c", 42), ("null", 42)]);
        assert_eq!(response.responses[0].topic_id, id(1).into());
    }

    #[test]
    fn topics_asked_for_twice_stay() {
        let broker = broker(&[]);
        let image = image(&broker, &[("a", 1, 1), ("b", 2, 1), ("c", 3, 1)]);
        // One by name and id, one by its id alone, one by name, an id that there is not.
        let asked = [(Some("a"), 0), (None, 1), (None, 2), (None, 9), (None, 2), (Some("c"), 0), (None, 9), (None, 2)];
        let (records, response) = decide(&by_either(&asked), 6, &image, &broker);
        assert_eq!(records, [MetadataRecord::RemoveTopic { id: [3; 16] }]);
        let told: Vec<_> = response.responses.iter().map(|topic| (Uuid::from(topic.topic_id), topic.error_message.as_deref())).collect();
        let mapped = "The provided topic name maps to an ID that was already supplied.";
        let twice = Some("Duplicate topic id.");
        assert_eq!(told, [(id(2), twice), (id(9), twice), (id(1), Some(mapped)), (id(3), None)]);
    }

    #[test]
    fn switched_off() {
        let mut broker = broker(&[]);
        broker.delete_topic_enable = false;
        let image = image(&broker, &[("a", 1, 1)]);
        assert_eq!(codes(&decide(&by_name(&["a"]), 2, &image, &broker).1), [("a", 42)]);
        assert_eq!(codes(&decide(&by_name(&["a"]), 3, &image, &broker).1), [("a", 73)]);
        assert!(decide(&by_name(&["a"]), 3, &image, &broker).0.is_empty());
    }

    #[test]
    fn every_version_encodes() {
        let broker = broker(&[]);
        let image = image(&broker, &[("a", 1, 1)]);
        in_every_version(ApiKey::DeleteTopics, |version| match version {
            6.. => decide(&by_either(&[(Some("a"), 0), (None, 9)]), version, &image, &broker).1,
            _ => decide(&by_name(&["a", "b"]), version, &image, &broker).1,
        });
    }
}
