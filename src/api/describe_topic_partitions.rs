//! DescribeTopicPartitions (75): topics page by page (KIP-966).

use std::collections::BTreeSet;

use super::{OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS};
use crate::base::error::ErrorCode;
use crate::cluster::image::{Image, Topic};
use crate::cluster::names;
use crate::cluster::view::BrokerView;
use crate::wire::codec::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use crate::wire::codec::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};

/// Most partitions on a page (Kafka's default of `max.request.partition.size.limit`).
const PAGE_MAX: usize = 2000;

/// One page of the topics asked for, or of all: by name, from the cursor on.
pub fn respond(request: &DescribeTopicPartitionsRequest, image: &Image, broker: &BrokerView) -> DescribeTopicPartitionsResponse {
    let mut response = DescribeTopicPartitionsResponse::default();
    let (from, first) = match &request.cursor {
        None => ("", 0),
        Some(cursor) => match usize::try_from(cursor.partition_index) {
            Ok(first) => (cursor.topic_name.as_str(), first),
            Err(_) => {
                let wrong = request.topics.iter().map(|topic| failed(&topic.name, ErrorCode::InvalidRequest));
                response.topics = wrong.collect();
                return response;
            }
        },
    };
    let mut room = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PAGE_MAX);
    let first_of = |name: &str| if name == from { first } else { 0 };
    let mut take = |name: &str, topic: Option<&Topic>| {
        if room == 0 {
            response.next_cursor = Some(cursor(name, first_of(name)));
            return false;
        }
        let Some(topic) = topic else {
            let known = names::validate(name).map_or(ErrorCode::InvalidTopicException, |()| ErrorCode::UnknownTopicOrPartition);
            response.topics.push(failed(name, known));
            return true;
        };
        let first = first_of(name);
        let end = topic.partitions.len().min(first.saturating_add(room));
        response.topics.push(found(topic, first, end, broker));
        room -= end.saturating_sub(first);
        if end < topic.partitions.len() {
            response.next_cursor = Some(cursor(name, end));
        }
        response.next_cursor.is_none()
    };
    if request.topics.is_empty() {
        image.topics_from(from).all(|topic| take(&topic.name, Some(topic)));
    } else {
        let asked: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
        asked.range(from..).all(|name| take(name, image.topic(name).map(|topic| &**topic)));
    }
    response
}

fn cursor(name: &str, partition: usize) -> Cursor {
    let mut cursor = Cursor::default();
    (cursor.topic_name, cursor.partition_index) = (name.into(), partition as i32);
    cursor
}

fn failed(name: &str, code: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    let mut entry = DescribeTopicPartitionsResponseTopic::default();
    entry.error_code = code.code();
    entry.name = Some(name.into());
    entry.topic_authorized_operations = OPERATIONS_NOT_ASKED;
    entry
}

fn found(topic: &Topic, first: usize, end: usize, broker: &BrokerView) -> DescribeTopicPartitionsResponseTopic {
    let mut entry = DescribeTopicPartitionsResponseTopic::default();
    entry.name = Some((&*topic.name).into());
    entry.topic_id = topic.id.into();
    entry.is_internal = names::is_internal(&topic.name);
    entry.topic_authorized_operations = TOPIC_OPERATIONS;
    let partition = |index: usize| {
        let mut entry = DescribeTopicPartitionsResponsePartition::default();
        entry.partition_index = index as i32;
        entry.leader_id = broker.node_id;
        entry.leader_epoch = topic.partitions[index].leader_epoch;
        entry.replica_nodes = vec![broker.node_id];
        entry.isr_nodes = vec![broker.node_id];
        // Empty, not null: null would be "unknown" (the tools show N/A).
        entry.eligible_leader_replicas = Some(Vec::new());
        entry.last_known_elr = Some(Vec::new());
        entry
    };
    entry.partitions = (first..end).map(partition).collect();
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::wire::codec::describe_topic_partitions_request::{Cursor as Position, TopicRequest};
    use crate::wire::versions::ApiKey;

    fn request(names: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> DescribeTopicPartitionsRequest {
        let mut request = DescribeTopicPartitionsRequest::default();
        for &name in names {
            let mut topic = TopicRequest::default();
            topic.name = name.into();
            request.topics.push(topic);
        }
        request.response_partition_limit = limit;
        request.cursor = cursor.map(|(name, partition)| {
            let mut cursor = Position::default();
            (cursor.topic_name, cursor.partition_index) = (name.into(), partition);
            cursor
        });
        request
    }

    /// Name, error code, partitions.
    type Shown = (String, i16, Vec<i32>);

    fn shown(request: &DescribeTopicPartitionsRequest) -> (Vec<Shown>, Option<(String, i32)>) {
        let broker = broker(&[]);
        let response = respond(request, &image(&broker, &[("b", 1, 3), ("a", 2, 2), ("c", 3, 1)]), &broker);
        let topic = |topic: &DescribeTopicPartitionsResponseTopic| {
            let partitions = topic.partitions.iter().map(|partition| partition.partition_index).collect();
            (topic.name.as_ref().unwrap().to_string(), topic.error_code, partitions)
        };
        let next = response.next_cursor.as_ref().map(|cursor| (cursor.topic_name.to_string(), cursor.partition_index));
        (response.topics.iter().map(topic).collect(), next)
    }

    fn entry(name: &str, code: i16, partitions: &[i32]) -> Shown {
        (name.into(), code, partitions.to_vec())
    }

    #[test]
    fn all_and_some() {
        let all = vec![entry("a", 0, &[0, 1]), entry("b", 0, &[0, 1, 2]), entry("c", 0, &[0])];
        assert_eq!(shown(&request(&[], 2000, None)), (all, None));
        let some = vec![entry("", 17, &[]), entry("b", 0, &[0, 1, 2]), entry("nope", 3, &[])];
        assert_eq!(shown(&request(&["nope", "b", "", "b"], 2000, None)), (some, None));
    }

    #[test]
    fn pages_cover_everything_once() {
        for names in [&[][..], &["c", "a", "b"]] {
            for limit in -1..8 {
                let mut seen = Vec::new();
                let mut at = None;
                loop {
                    let (topics, next) = shown(&request(names, limit, at.as_ref().map(|(name, p): &(String, i32)| (name.as_str(), *p))));
                    let page: Vec<_> =
                        topics.into_iter().flat_map(|(name, _, parts)| parts.into_iter().map(move |p| (name.clone(), p))).collect();
                    assert!(page.len() as i32 <= limit.max(1));
                    seen.extend(page);
                    at = next;
                    if at.is_none() {
                        break;
                    }
                }
                let expected = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("c", 0)].map(|(name, p)| (name.to_owned(), p));
                assert_eq!(seen, expected);
            }
        }
    }

    #[test]
    fn odd_cursors() {
        assert_eq!(shown(&request(&["a"], 10, Some(("a", -1)))), (vec![entry("a", 42, &[])], None));
        assert_eq!(shown(&request(&["a", "c"], 10, Some(("a", 9)))).0, [entry("a", 0, &[]), entry("c", 0, &[0])]);
        assert_eq!(shown(&request(&[], 10, Some(("bb", 7)))).0, [entry("c", 0, &[0])]);
        assert_eq!(shown(&request(&[], 10, Some(("zz", 0)))).0, []);
    }

    #[test]
    fn it_encodes() {
        let broker = broker(&[]);
        let image = image(&broker, &[("a", 1, 3)]);
        in_every_version(ApiKey::DescribeTopicPartitions, |_| respond(&request(&["a", "b"], 2, None), &image, &broker));
    }
}
