//! OffsetCommit (8): a group remembers how far it has read.

use super::groups::{find_topic, maybe_name, name};
use crate::base::error::ErrorCode;
use crate::cluster::image::Image;
use crate::coord::Name;
use crate::coord::op::{Answer, Commit, CommitOffset, Membership, Op, Reply};
use crate::wire::codec::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use crate::wire::codec::{OffsetCommitRequest, OffsetCommitResponse};

/// From this version on topics are named by id (KIP-848).
const TOPIC_ID_FROM: i16 = 10;
/// From this version on clients know GROUP_ID_NOT_FOUND here.
const GROUP_ID_NOT_FOUND_FROM: i16 = 9;

/// What becomes of a request: each of its partitions in its order, the place in what the coordinator is asked or an error.
pub struct Plan {
    /// For the group's coordinator; none when nothing is left to commit.
    pub op: Option<Op>,
    places: Vec<Result<usize, ErrorCode>>,
    by_id: bool,
}

/// Looks up the topics.
pub fn plan(request: &OffsetCommitRequest, version: i16, image: &Image) -> Plan {
    let (mut offsets, mut places) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        let found = find_topic(image, version >= TOPIC_ID_FROM, &topic.name, topic.topic_id.into());
        let topic_name: Option<Name> = found.as_ref().ok().map(|t| t.name.clone());
        for partition in &topic.partitions {
            let place = found.and_then(|t| t.partition(partition.partition_index).map(|_| t).ok_or(ErrorCode::UnknownTopicOrPartition));
            places.push(place.map(|t| {
                offsets.push(CommitOffset {
                    topic: topic_name.clone().unwrap_or_default(),
                    topic_id: t.id,
                    partition: partition.partition_index,
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: maybe_name(&partition.committed_metadata).unwrap_or_default(),
                });
                offsets.len() - 1
            }));
        }
    }
    let op = (!offsets.is_empty()).then(|| {
        Op::Commit(Commit {
            member: Membership {
                member_id: name(&request.member_id),
                instance_id: maybe_name(&request.group_instance_id),
                generation: request.generation_id_or_member_epoch,
            },
            retention_ms: Some(request.retention_time_ms).filter(|ms| *ms >= 0),
            knows_group_id_not_found: version >= GROUP_ID_NOT_FOUND_FROM,
            version: image.offset(),
            offsets,
        })
    });
    Plan { op, places, by_id: version >= TOPIC_ID_FROM }
}

/// The answer; `reply` is the coordinator's, if it was asked.
pub fn respond(request: &OffsetCommitRequest, plan: &Plan, reply: Reply) -> OffsetCommitResponse {
    let code_of = |place: &Result<usize, ErrorCode>| match (place, &reply) {
        (Err(code), _) => *code,
        (Ok(at), Ok(Answer::Codes(codes))) => match codes.get(*at).copied() {
            // The topic has gone on the way to the coordinator.
            Some(ErrorCode::UnknownTopicOrPartition) if plan.by_id => ErrorCode::UnknownTopicId,
            code => code.unwrap_or(ErrorCode::UnknownServerError),
        },
        (Ok(_), Ok(_)) => ErrorCode::UnknownServerError,
        (Ok(_), Err(code)) => *code,
    };
    let mut places = plan.places.iter();
    let mut response = OffsetCommitResponse::default();
    for topic in &request.topics {
        let mut entry = OffsetCommitResponseTopic::default();
        (entry.name, entry.topic_id) = (topic.name.clone(), topic.topic_id);
        for (partition, place) in topic.partitions.iter().zip(&mut places) {
            let mut result = OffsetCommitResponsePartition::default();
            (result.partition_index, result.error_code) = (partition.partition_index, code_of(place).code());
            entry.partitions.push(result);
        }
        response.topics.push(entry);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, id, image, in_every_version};
    use crate::wire::codec::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    use crate::wire::versions::ApiKey;

    fn request() -> OffsetCommitRequest {
        let mut request = OffsetCommitRequest::default();
        for (topic, topic_id) in [("known", 1), ("unknown", 9)] {
            let mut entry = OffsetCommitRequestTopic::default();
            (entry.name, entry.topic_id) = (topic.into(), id(topic_id).into());
            for index in 0..2 {
                let mut partition = OffsetCommitRequestPartition::default();
                (partition.partition_index, partition.committed_offset) = (index, 5);
                entry.partitions.push(partition);
            }
            request.topics.push(entry);
        }
        request
    }

    #[test]
    fn each_partition_gets_its_code() {
        let image = image(&broker(&[]), &[("known", 1, 1)]);
        for (version, unknown) in [(9, 3), (10, 100)] {
            let plan = plan(&request(), version, &image);
            let Some(Op::Commit(commit)) = &plan.op else { panic!("nothing to commit") };
            assert_eq!(commit.offsets.len(), 1);
            assert_eq!((&*commit.offsets[0].topic, commit.offsets[0].topic_id, commit.retention_ms), ("known", id(1), None));
            let codes = |reply| {
                let response = respond(&request(), &plan, reply);
                response.topics.iter().flat_map(|t| t.partitions.iter().map(|p| p.error_code)).collect::<Vec<_>>()
            };
            assert_eq!(codes(Ok(Answer::Codes(vec![ErrorCode::OffsetMetadataTooLarge]))), [12, 3, unknown, unknown]);
            assert_eq!(codes(Err(ErrorCode::NotCoordinator)), [16, 3, unknown, unknown]);
        }
    }

    #[test]
    fn every_version_encodes() {
        let image = image(&broker(&[]), &[("known", 1, 1)]);
        in_every_version(ApiKey::OffsetCommit, |version| {
            let mut request = request();
            for topic in &mut request.topics {
                if version >= TOPIC_ID_FROM { topic.name = Default::default() } else { topic.topic_id = Default::default() }
            }
            respond(&request, &plan(&request, version, &image), Err(ErrorCode::IllegalGeneration))
        });
    }
}
