//! OffsetFetch (9): how far groups have read.

use super::groups::{maybe_name, name, text};
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::cluster::image::Image;
use crate::coord::Name;
use crate::coord::op::{Answer, FetchOffsets, FetchTopic, FetchedOffset, Membership, Op, Reply, TopicOffsets};
use crate::wire::codec::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use crate::wire::codec::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use crate::wire::codec::{OffsetFetchRequest, OffsetFetchResponse};

/// Several groups in one request from this version on.
const GROUPS_FROM: i16 = 8;
/// An error of the group has a place of its own from this version on.
const GROUP_ERROR_FROM: i16 = 2;
/// Topics are named by id from this version on.
const TOPIC_ID_FROM: i16 = 10;

/// The groups that a request asks about, and what each one's coordinator is asked. Older versions ask about one.
pub fn plan(request: &OffsetFetchRequest, version: i16, image: &Image) -> Vec<(Name, Op)> {
    if version >= GROUPS_FROM {
        return request
            .groups
            .iter()
            .map(|group| (name(&group.group_id), group_op(group, version, image, request.require_stable)))
            .collect();
    }
    let topics = request.topics.as_ref();
    let one = |t: &OffsetFetchRequestTopic| FetchTopic {
        topic: name(&t.name),
        topic_id: image.topic(&t.name).map_or(Uuid::ZERO, |topic| topic.id),
        partitions: t.partition_indexes.clone(),
    };
    let topics = topics.map(|topics| topics.iter().map(one).collect());
    let version = Some(image.offset());
    let fetch = FetchOffsets { member: None, topics, version, require_stable: request.require_stable };
    vec![(name(&request.group_id), Op::FetchOffsets(fetch))]
}

fn group_op(group: &OffsetFetchRequestGroup, version: i16, image: &Image, require_stable: bool) -> Op {
    let topics = group.topics.as_ref();
    let topics = topics.map(|topics| {
        let known = topics.iter().filter_map(|t| {
            let (topic, topic_id) = topic_of(t, version, image)?;
            Some(FetchTopic { topic, topic_id, partitions: t.partition_indexes.clone() })
        });
        known.collect()
    });
    let member = (group.member_id.is_some() || group.member_epoch >= 0).then(|| Membership {
        member_id: maybe_name(&group.member_id).unwrap_or_default(),
        instance_id: None,
        generation: group.member_epoch,
    });
    let version = (version < TOPIC_ID_FROM).then(|| image.offset());
    Op::FetchOffsets(FetchOffsets { member, topics, version, require_stable })
}

/// Name and id of a topic; none for an id that no topic has. The id of a name that no topic has is
/// zero.
fn topic_of(topic: &OffsetFetchRequestTopics, version: i16, image: &Image) -> Option<(Name, Uuid)> {
    if version < TOPIC_ID_FROM {
        let known = image.topic(&topic.name);
        return Some((name(&topic.name), known.map_or(Uuid::ZERO, |known| known.id)));
    }
    image.topic_by_id(topic.topic_id.into()).map(|t| (t.name.clone(), t.id))
}

/// The answer from the coordinators' replies, one for each group of [`plan`].
pub fn respond(request: &OffsetFetchRequest, version: i16, image: &Image, replies: Vec<Reply>) -> OffsetFetchResponse {
    let mut response = OffsetFetchResponse::default();
    let mut replies = replies.into_iter().map(|reply| match reply {
        Ok(Answer::Offsets(topics)) => Ok(topics),
        Ok(_) => Err(ErrorCode::UnknownServerError),
        Err(code) => Err(code),
    });
    if version < GROUPS_FROM {
        match replies.next().unwrap_or(Err(ErrorCode::UnknownServerError)) {
            Ok(topics) => response.topics = topics.iter().map(single_topic).collect(),
            Err(code) if version >= GROUP_ERROR_FROM => response.error_code = code.code(),
            Err(code) => response.topics = refused_topics(request, code),
        }
        return response;
    }
    response.groups = request.groups.iter().zip(replies).map(|(group, reply)| one_group(group, version, image, reply)).collect();
    response
}

fn single_topic(topic: &TopicOffsets) -> OffsetFetchResponseTopic {
    let mut entry = OffsetFetchResponseTopic::default();
    entry.name = text(&topic.topic);
    let partition = |found: &FetchedOffset| {
        let mut entry = OffsetFetchResponsePartition::default();
        entry.partition_index = found.partition;
        entry.committed_offset = found.offset;
        entry.committed_leader_epoch = found.leader_epoch;
        entry.metadata = Some(text(&found.metadata));
        entry
    };
    entry.partitions = topic.partitions.iter().map(partition).collect();
    entry
}

/// The oldest version has no other way to say that the whole request failed.
fn refused_topics(request: &OffsetFetchRequest, code: ErrorCode) -> Vec<OffsetFetchResponseTopic> {
    let topics = request.topics.iter().flatten().map(|topic| {
        let refused = |partition: &i32| FetchedOffset { partition: *partition, offset: -1, leader_epoch: -1, metadata: Name::default() };
        let mut entry = single_topic(&TopicOffsets {
            topic: name(&topic.name),
            topic_id: Uuid::ZERO,
            partitions: topic.partition_indexes.iter().map(refused).collect(),
        });
        entry.partitions.iter_mut().for_each(|p| p.error_code = code.code());
        entry
    });
    topics.collect()
}

fn one_group(
    group: &OffsetFetchRequestGroup,
    version: i16,
    image: &Image,
    reply: Result<Vec<TopicOffsets>, ErrorCode>,
) -> OffsetFetchResponseGroup {
    let mut response = OffsetFetchResponseGroup::default();
    response.group_id = group.group_id.clone();
    let topics = match reply {
        Ok(topics) => topics,
        Err(code) => {
            response.error_code = code.code();
            return response;
        }
    };
    match &group.topics {
        // All topics that have offsets; where topics are named by id, those that exist.
        None => response.topics.extend(topics.into_iter().filter_map(|topic| {
            let exists = image.topic_by_id(topic.topic_id).is_some();
            (version < TOPIC_ID_FROM || exists).then(|| topic_entry(&topic, version, topic.topic_id, ErrorCode::None))
        })),
        Some(asked) => {
            let mut topics = topics.into_iter();
            let known = |topic: &&OffsetFetchRequestTopics| topic_of(topic, version, image).is_some();
            let (known, others): (Vec<_>, Vec<_>) = asked.iter().partition(known);
            response.topics.extend(known.into_iter().map(|topic| {
                let found = topics.next().unwrap_or_else(|| unknown(topic));
                topic_entry(&found, version, topic.topic_id.into(), ErrorCode::None)
            }));
            // Those of unknown ids come last.
            response.topics.extend(
                others.into_iter().map(|topic| topic_entry(&unknown(topic), version, topic.topic_id.into(), ErrorCode::UnknownTopicId)),
            );
        }
    }
    response
}

fn unknown(topic: &OffsetFetchRequestTopics) -> TopicOffsets {
    let none = |partition: &i32| FetchedOffset { partition: *partition, offset: -1, leader_epoch: -1, metadata: Name::default() };
    TopicOffsets { topic: name(&topic.name), topic_id: Uuid::ZERO, partitions: topic.partition_indexes.iter().map(none).collect() }
}

fn topic_entry(topic: &TopicOffsets, version: i16, id: Uuid, code: ErrorCode) -> OffsetFetchResponseTopics {
    let mut entry = OffsetFetchResponseTopics::default();
    if version < TOPIC_ID_FROM {
        entry.name = text(&topic.topic)
    } else {
        entry.topic_id = id.into()
    }
    let partition = |found: &FetchedOffset| {
        let mut entry = OffsetFetchResponsePartitions::default();
        entry.partition_index = found.partition;
        entry.committed_offset = found.offset;
        entry.committed_leader_epoch = found.leader_epoch;
        entry.metadata = Some(text(&found.metadata));
        entry.error_code = code.code();
        entry
    };
    entry.partitions = topic.partitions.iter().map(partition).collect();
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, id, image, in_every_version};
    use crate::wire::versions::ApiKey;

    fn offsets() -> Reply {
        let partitions = vec![FetchedOffset { partition: 0, offset: 7, leader_epoch: 2, metadata: "m".into() }];
        Ok(Answer::Offsets(vec![TopicOffsets { topic: "t".into(), topic_id: id(1), partitions }]))
    }

    fn request(version: i16) -> OffsetFetchRequest {
        let mut request = OffsetFetchRequest::default();
        request.group_id = "g".into();
        let mut topic = OffsetFetchRequestTopic::default();
        (topic.name, topic.partition_indexes) = ("t".into(), vec![0]);
        request.topics = Some(vec![topic]);
        let mut group = OffsetFetchRequestGroup::default();
        group.group_id = "g".into();
        let topics = [9, 1].map(|n| {
            let mut topic = OffsetFetchRequestTopics::default();
            (topic.name, topic.topic_id, topic.partition_indexes) = ("t".into(), id(n).into(), vec![0]);
            topic
        });
        group.topics = Some(topics[usize::from(version < TOPIC_ID_FROM)..].to_vec());
        request.groups = vec![group];
        request
    }

    #[test]
    fn every_version_encodes() {
        let image = image(&broker(&[]), &[("t", 1, 1)]);
        in_every_version(ApiKey::OffsetFetch, |version| respond(&request(version), version, &image, vec![offsets()]));
        in_every_version(ApiKey::OffsetFetch, |version| respond(&request(version), version, &image, vec![Err(ErrorCode::NotCoordinator)]));
    }

    #[test]
    fn errors_have_their_place() {
        let image = image(&broker(&[]), &[("t", 1, 1)]);
        let refused = |version| respond(&request(version), version, &image, vec![Err(ErrorCode::NotCoordinator)]);
        assert_eq!(refused(1).topics[0].partitions[0].error_code, 16);
        assert_eq!((refused(7).error_code, refused(7).topics.len()), (16, 0));
        assert_eq!((refused(10).groups[0].error_code, refused(10).groups[0].topics.len()), (16, 0));
    }

    #[test]
    fn topics_by_id() {
        let image = image(&broker(&[]), &[("t", 1, 1)]);
        let planned = plan(&request(10), 10, &image);
        assert!(matches!(&planned[0].1, Op::FetchOffsets(f) if f.topics.as_ref().unwrap().len() == 1));
        let response = respond(&request(10), 10, &image, vec![offsets()]);
        let found: Vec<_> =
            response.groups[0].topics.iter().map(|t| (t.partitions[0].error_code, t.partitions[0].committed_offset)).collect();
        assert_eq!(found, [(0, 7), (100, -1)], "the unknown id of the request comes last");
        let mut all = request(10);
        all.groups[0].topics = None;
        assert_eq!(respond(&all, 10, &image, vec![offsets()]).groups[0].topics[0].topic_id, id(1).into());
    }
}
