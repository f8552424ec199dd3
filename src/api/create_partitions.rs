//! CreatePartitions (37).

use std::collections::BTreeSet;

use super::error_text;
use super::repeated::Repeated;
use crate::base::error::ErrorCode;
use crate::cluster::controller::{Additions, MorePartitions, Refusal};
use crate::cluster::image::Image;
use crate::cluster::record::MetadataRecord;
use crate::cluster::view::BrokerView;
use crate::wire::codec::create_partitions_request::CreatePartitionsTopic;
use crate::wire::codec::create_partitions_response::CreatePartitionsTopicResult;
use crate::wire::codec::{CreatePartitionsRequest, CreatePartitionsResponse};

/// What the decision on a topic costs of a turn's budget, in inflated bytes.
const TOPIC_COST: usize = 2 << 10;
/// What a partition costs besides: those that are added, and those that the request assigns.
const PARTITION_COST: usize = 128;

/// A decision that is made in steps, all on the same image.
#[derive(Default)]
pub struct Deciding(Option<UnderWay>);

#[derive(Default)]
struct UnderWay {
    repeated: Repeated,
    /// Topics that were decided on.
    at: usize,
    additions: Additions,
    records: Vec<MetadataRecord>,
    response: CreatePartitionsResponse,
}

impl Deciding {
    /// Goes on until `budget`, which counts inflated bytes, was spent. At the end the records that
    /// add what can be added (none if the request only asks for validation), and the answer to send
    /// once they are durable and every core has opened its part; then a new decision may begin.
    pub fn step(
        &mut self,
        request: &CreatePartitionsRequest,
        image: &Image,
        broker: &BrokerView,
        budget: &mut usize,
    ) -> Option<(Vec<MetadataRecord>, CreatePartitionsResponse)> {
        let UnderWay { repeated, at, additions, records, response } = self.0.get_or_insert_default();
        if !repeated.step(|at| request.topics.get(at).map(|topic| (0, topic.name.clone())), budget) {
            return None;
        }
        if *at == 0 {
            let refusal = Refusal { code: ErrorCode::InvalidRequest, message: "Duplicate topic name.".to_owned() };
            response.results = repeated.sorted().iter().map(|name| result(name, Some(&refusal))).collect();
        }
        while let Some(topic) = request.topics.get(*at) {
            if *budget == 0 {
                return None;
            }
            *at += 1;
            *budget = budget.saturating_sub(TOPIC_COST);
            if repeated.has(0, &topic.name) {
                continue;
            }
            let assigned = topic.assignments.as_ref().map_or(0, Vec::len);
            let decision = additions.topic(image, broker, &more(topic));
            let added = match &decision {
                Ok(MetadataRecord::AddPartitions { leader_epochs, .. }) => leader_epochs.len(),
                _ => 0,
            };
            *budget = budget.saturating_sub((assigned + added) * PARTITION_COST);
            response.results.push(result(&topic.name, decision.as_ref().err()));
            records.extend(decision.ok().filter(|_| !request.validate_only));
        }
        self.0.take().map(|done| (done.records, done.response))
    }
}

/// The answer when nothing was decided in time.
pub fn failed(request: &CreatePartitionsRequest, code: ErrorCode) -> CreatePartitionsResponse {
    let refusal = Refusal { code, message: code.message().to_owned() };
    let mut response = CreatePartitionsResponse::default();
    let named: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
    response.results = named.into_iter().map(|name| result(name, Some(&refusal))).collect();
    response
}

fn more(topic: &CreatePartitionsTopic) -> MorePartitions<'_> {
    let assignments = topic.assignments.as_ref().map(|given| given.iter().map(|entry| &entry.broker_ids[..]).collect());
    MorePartitions { name: &topic.name, count: topic.count, assignments }
}

fn result(name: &str, refusal: Option<&Refusal>) -> CreatePartitionsTopicResult {
    let mut result = CreatePartitionsTopicResult::default();
    result.name = name.into();
    result.error_code = refusal.map_or(ErrorCode::None, |refusal| refusal.code).code();
    result.error_message = refusal.filter(|refusal| !refusal.message.is_empty()).and_then(|refusal| error_text(&refusal.message));
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::wire::codec::create_partitions_request::CreatePartitionsAssignment;
    use crate::wire::versions::ApiKey;

    type Asked<'a> = (&'a str, i32, Option<&'a [&'a [i32]]>);

    fn request(topics: &[Asked]) -> CreatePartitionsRequest {
        let mut request = CreatePartitionsRequest::default();
        for &(name, count, assignments) in topics {
            let mut topic = CreatePartitionsTopic::default();
            (topic.name, topic.count) = (name.into(), count);
            topic.assignments = assignments.map(|given| {
                let assignment = |brokers: &&[i32]| {
                    let mut assignment = CreatePartitionsAssignment::default();
                    assignment.broker_ids = brokers.to_vec();
                    assignment
                };
                given.iter().map(assignment).collect()
            });
            request.topics.push(topic);
        }
        request
    }

    fn answer(request: &CreatePartitionsRequest) -> (Vec<MetadataRecord>, CreatePartitionsResponse) {
        let broker = broker(&[]);
        let image = image(&broker, &[("cp", 1, 5), ("other", 2, 1)]);
        Deciding::default().step(request, &image, &broker, &mut usize::MAX.clone()).unwrap()
    }

    /// Code and text of one question alone.
    fn refused(name: &str, count: i32, assignments: Option<&[&[i32]]>) -> (i16, String) {
        let (records, response) = answer(&request(&[(name, count, assignments)]));
        assert!(records.is_empty());
        (response.results[0].error_code, response.results[0].error_message.as_deref().unwrap_or_default().to_owned())
    }

    /// Texts as a real Kafka 4.3.1 gives them, but for the last two, where it has none.
    #[test]
    fn kafkas_refusals() {
        let text = |code: i16, text: &str| (code, text.to_owned());
        assert_eq!(refused("cp", 2, None), text(37, "The topic cp currently has 5 partition(s); 2 would not be an increase."));
        assert_eq!(refused("cp", -1, None), text(37, "The topic cp currently has 5 partition(s); -1 would not be an increase."));
        assert_eq!(refused("cp", 5, None), text(37, "Topic already has 5 partition(s)."));
        let few = "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.";
        assert_eq!(refused("cp", 7, Some(&[&[1]])), text(39, few));
        let manual = |rest: &str| text(39, &format!("The manual partition assignment includes {rest}"));
        assert_eq!(refused("cp", 6, Some(&[&[2]])), manual("broker 2, but no such broker is registered."));
        assert_eq!(refused("cp", 6, Some(&[&[]])), manual("an empty replica list."));
        assert_eq!(refused("cp", 6, Some(&[&[1, 1]])), manual("the broker 1 more than once."));
        assert_eq!(refused("nope", 6, None).0, 3);
        assert_eq!(refused("cp", i32::MAX, None), text(44, "Excessively large number of partitions per request."));
    }

    #[test]
    fn many_topics_are_decided_in_steps_as_in_one_go() {
        let names: Vec<String> = (0..3000).map(|n| format!("t{}", n % 2999)).collect();
        let mut asked: Vec<Asked> = names.iter().map(|name| (name.as_str(), 2, None)).collect();
        asked.extend([("cp", 9000, None), ("other", 1500, None)]);
        let (asked, broker) = (request(&asked), broker(&[]));
        let image = image(&broker, &[("cp", 1, 5), ("other", 2, 1)]);
        let (mut deciding, mut steps) = (Deciding::default(), 1);
        let stepped = loop {
            match deciding.step(&asked, &image, &broker, &mut (256 << 10)) {
                Some(done) => break done,
                None => steps += 1,
            }
        };
        assert!(steps >= 30, "{steps}");
        assert_eq!(stepped, answer(&asked));
        let codes: Vec<i16> = stepped.1.results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes.len(), 3001);
        assert_eq!((codes[0], codes[1], codes[2999], codes[3000]), (42, 3, 0, 44), "one limit for all steps");
    }

    #[test]
    fn what_can_be_added_is() {
        let asked: [Asked; 5] =
            [("cp", 7, Some(&[&[1], &[1]])), ("twice", 2, None), ("other", 10_000, None), ("twice", 3, None), ("nope", 1, None)];
        let (records, response) = answer(&request(&asked));
        let codes: Vec<_> = response.results.iter().map(|result| (result.name.as_str(), result.error_code)).collect();
        assert_eq!(codes, [("twice", 42), ("cp", 0), ("other", 44), ("nope", 3)], "the limit is one of the request");
        assert_eq!(records, [MetadataRecord::AddPartitions { id: [1; 16], leader_epochs: vec![0; 2] }]);
        assert_eq!(response.results[1].error_message, None);
        let mut only_asking = request(&asked);
        only_asking.validate_only = true;
        assert_eq!(answer(&only_asking), (vec![], response));
    }

    #[test]
    fn every_version_encodes() {
        in_every_version(ApiKey::CreatePartitions, |_| answer(&request(&[("cp", 6, None), ("cp", 1, None), ("nope", 1, None)])).1);
    }
}
