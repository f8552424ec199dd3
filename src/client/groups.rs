//! Groups as an administrator sees them: what there is, who is in them, what they have committed.

use std::collections::{BTreeMap, BTreeSet};

use super::admin::{TopicPartition, by_topic};
use super::{Api, Client, ClientError};
use crate::base::error::ErrorCode;
use crate::base::ids::{BrokerId, Offset};
use crate::wire::codec::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest, OffsetCommitRequest, OffsetCommitResponse,
    OffsetDeleteRequest, OffsetFetchRequest, consumer_group_describe_response, consumer_protocol, describe_groups_response,
    offset_commit_request, offset_delete_request, offset_fetch_request,
};

/// The protocol type of groups of consumers.
const CONSUMER: &str = "consumer";

/// One group in a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupListing {
    /// Its id.
    pub id: String,
    /// What its members speak; empty for a group that only holds offsets.
    pub protocol_type: String,
    /// Kafka's name of the state, such as `Stable`.
    pub state: String,
    /// `Classic`, `Consumer` and so on.
    pub kind: String,
}

/// One group with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub id: String,
    /// Kafka's name of the state.
    pub state: String,
    /// How partitions are given out.
    pub assignor: String,
    /// Who coordinates it: id, and HOST:PORT.
    pub coordinator: (BrokerId, String),
    /// In the coordinator's order.
    pub members: Vec<MemberDescription>,
    /// The group's and its assignment's epochs, for the new protocol.
    pub epochs: Option<(i32, i32)>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its member id.
    pub id: String,
    /// The instance id of a static member.
    pub instance: Option<String>,
    /// Its client id.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// Its partitions.
    pub assignment: BTreeSet<TopicPartition>,
    /// The partitions it is to have, for the new protocol.
    pub target: Option<BTreeSet<TopicPartition>>,
    /// Its epoch, for the new protocol.
    pub epoch: Option<i32>,
    /// Whether it speaks the new protocol, in a group of it.
    pub modern: Option<bool>,
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch of the record before it; -1 if unknown.
    pub leader_epoch: i32,
}

impl Client {
    /// The groups of consumers, in the given states and of the given types (all of them if there are none), by id.
    pub fn list_groups(&mut self, states: &[String], kinds: &[String]) -> Result<Vec<GroupListing>, ClientError> {
        self.metadata(Some(&[]), false)?;
        let mut request = ListGroupsRequest::default();
        request.states_filter = states.iter().map(|state| state.as_str().into()).collect();
        request.types_filter = kinds.iter().map(|kind| kind.as_str().into()).collect();
        let mut groups = BTreeSet::new();
        for node in self.nodes() {
            let response = self.retry(|client| {
                let response = client.ask_node(node, &request)?;
                ClientError::check(response.error_code, None)?;
                Ok(response)
            })?;
            groups.extend(response.groups.into_iter().map(|group| GroupListing {
                id: group.group_id.into_string(),
                protocol_type: group.protocol_type.into_string(),
                state: group.group_state.into_string(),
                kind: capitalised(&group.group_type),
            }));
        }
        // As in Kafka, a group without a protocol type only holds offsets, which a consumer has committed.
        let of_consumers = |group: &GroupListing| group.protocol_type == CONSUMER || group.protocol_type.is_empty();
        Ok(groups.into_iter().filter(of_consumers).collect())
    }

    /// Asks a group's coordinator, again while its failure may be passing. `check` looks at the answer's codes.
    fn ask_coordinator<Q: Api, T>(
        &mut self,
        group: &str,
        request: &Q,
        mut check: impl FnMut(Q::Response) -> Result<T, ClientError>,
    ) -> Result<((BrokerId, String), T), ClientError> {
        self.retry(|client| {
            let coordinator = client.coordinator(group)?;
            let response = client.ask_node(coordinator.0, request)?;
            Ok((coordinator, check(response)?))
        })
    }

    /// One group with its members, whichever protocol it speaks.
    pub fn describe_group(&mut self, group: &str) -> Result<GroupDescription, ClientError> {
        match self.describe_modern(group) {
            Err(ClientError::Unsupported(_) | ClientError::Broker(ErrorCode::GroupIdNotFound | ErrorCode::UnsupportedVersion, _)) => {
                self.describe_classic(group)
            }
            result => result,
        }
    }

    fn describe_modern(&mut self, group: &str) -> Result<GroupDescription, ClientError> {
        let mut request = ConsumerGroupDescribeRequest::default();
        request.group_ids = vec![group.into()];
        let (coordinator, described) = self.ask_coordinator(group, &request, |response| {
            let described = only(response.groups)?;
            ClientError::check(described.error_code, described.error_message.as_deref())?;
            Ok(described)
        })?;
        Ok(GroupDescription {
            id: group.to_owned(),
            state: described.group_state.into_string(),
            assignor: described.assignor_name.into_string(),
            coordinator,
            members: described.members.into_iter().map(modern_member).collect(),
            epochs: Some((described.group_epoch, described.assignment_epoch)),
        })
    }

    fn describe_classic(&mut self, group: &str) -> Result<GroupDescription, ClientError> {
        let mut request = DescribeGroupsRequest::default();
        request.groups = vec![group.into()];
        let (coordinator, described) = self.ask_coordinator(group, &request, |response| {
            let described = only(response.groups)?;
            ClientError::check(described.error_code, described.error_message.as_deref())?;
            Ok(described)
        })?;
        let members: Result<_, ClientError> = described.members.into_iter().map(classic_member).collect();
        Ok(GroupDescription {
            id: group.to_owned(),
            state: described.group_state.into_string(),
            assignor: described.protocol_data.into_string(),
            coordinator,
            members: members?,
            epochs: None,
        })
    }

    /// Everything that a group has committed.
    pub fn committed(&mut self, group: &str) -> Result<BTreeMap<TopicPartition, Committed>, ClientError> {
        let mut asked = offset_fetch_request::OffsetFetchRequestGroup::default();
        (asked.group_id, asked.topics) = (group.into(), None);
        asked.member_epoch = -1;
        let mut request = OffsetFetchRequest::default();
        (request.groups, request.require_stable) = (vec![asked], false);
        let (_, answer) = self.ask_coordinator(group, &request, |response| {
            let answer = only(response.groups)?;
            ClientError::check(answer.error_code, None)?;
            Ok(answer)
        })?;
        let mut committed = BTreeMap::new();
        for topic in answer.topics {
            for partition in topic.partitions {
                ClientError::check(partition.error_code, None)?;
                if partition.committed_offset >= 0 {
                    let entry = Committed { offset: partition.committed_offset, leader_epoch: partition.committed_leader_epoch };
                    committed.insert((topic.name.as_str().to_owned(), partition.partition_index), entry);
                }
            }
        }
        Ok(committed)
    }

    /// Commits offsets for a group without members.
    pub fn alter_offsets(&mut self, group: &str, offsets: &BTreeMap<TopicPartition, Offset>) -> Result<(), ClientError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let request = commit_request(group, offsets);
        self.ask_coordinator(group, &request, |response| check_commit(&response)).map(|(_, ())| ())
    }

    /// Deletes what a group has committed for some partitions: the answer of each.
    pub fn delete_offsets(
        &mut self,
        group: &str,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, ErrorCode>, ClientError> {
        let mut request = OffsetDeleteRequest::default();
        request.group_id = group.into();
        let partitions: Vec<TopicPartition> = partitions.iter().cloned().collect();
        let of_partition = |(_, index): &TopicPartition| {
            let mut partition = offset_delete_request::OffsetDeleteRequestPartition::default();
            partition.partition_index = *index;
            partition
        };
        request.topics = by_topic(&partitions, of_partition, |topic, partitions| {
            let mut entry = offset_delete_request::OffsetDeleteRequestTopic::default();
            (entry.name, entry.partitions) = (topic.into(), partitions);
            entry
        });
        let (_, response) = self.ask_coordinator(group, &request, |response| {
            ClientError::check(response.error_code, None)?;
            Ok(response)
        })?;
        let topics = response.topics.into_iter();
        Ok(topics
            .flat_map(|topic| {
                let name = topic.name.into_string();
                topic.partitions.into_iter().map(move |p| ((name.clone(), p.partition_index), ErrorCode::from_code(p.error_code)))
            })
            .collect())
    }

    /// Deletes one group.
    pub fn delete_group(&mut self, group: &str) -> Result<(), ClientError> {
        let mut request = DeleteGroupsRequest::default();
        request.groups_names = vec![group.into()];
        self.ask_coordinator(group, &request, |response| ClientError::check(only(response.results)?.error_code, None)).map(|(_, ())| ())
    }
}

/// A commit of offsets by nobody in particular: no member, no generation.
pub fn commit_request(group: &str, offsets: &BTreeMap<TopicPartition, Offset>) -> OffsetCommitRequest {
    let mut request = OffsetCommitRequest::default();
    (request.group_id, request.generation_id_or_member_epoch) = (group.into(), -1);
    let partitions: Vec<TopicPartition> = offsets.keys().cloned().collect();
    let of_partition = |committed: &TopicPartition| {
        let mut partition = offset_commit_request::OffsetCommitRequestPartition::default();
        (partition.partition_index, partition.committed_offset) = (committed.1, offsets[committed]);
        (partition.committed_leader_epoch, partition.committed_metadata) = (-1, Some("".into()));
        partition
    };
    request.topics = by_topic(&partitions, of_partition, |topic, partitions| {
        let mut entry = offset_commit_request::OffsetCommitRequestTopic::default();
        (entry.name, entry.partitions) = (topic.into(), partitions);
        entry
    });
    request
}

/// As Kafka's tools spell types: brokers send them in small letters.
fn capitalised(kind: &str) -> String {
    let mut letters = kind.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

/// The first refusal among the answers to a commit.
pub fn check_commit(response: &OffsetCommitResponse) -> Result<(), ClientError> {
    let mut partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.try_for_each(|partition| ClientError::check(partition.error_code, None))
}

/// The one answer to a question about one thing.
fn only<T>(answers: Vec<T>) -> Result<T, ClientError> {
    answers.into_iter().next().ok_or(ClientError::Malformed(crate::wire::WireError::Truncated))
}

fn modern_member(member: consumer_group_describe_response::Member) -> MemberDescription {
    let partitions = |assignment: consumer_group_describe_response::Assignment| {
        let topics = assignment.topic_partitions.into_iter();
        topics
            .flat_map(|topic| {
                let name = topic.topic_name.into_string();
                topic.partitions.into_iter().map(move |index| (name.clone(), index))
            })
            .collect()
    };
    MemberDescription {
        id: member.member_id.into_string(),
        instance: member.instance_id.map(|id| id.into_string()),
        client_id: member.client_id.into_string(),
        host: member.client_host.into_string(),
        assignment: partitions(member.assignment),
        target: Some(partitions(member.target_assignment)),
        epoch: Some(member.member_epoch),
        modern: match member.member_type {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
    }
}

fn classic_member(member: describe_groups_response::DescribedGroupMember) -> Result<MemberDescription, ClientError> {
    let mut assignment = BTreeSet::new();
    if !member.member_assignment.is_empty() {
        for topic in consumer_protocol::decode_assignment(&member.member_assignment)?.assigned_partitions {
            assignment.extend(topic.partitions.iter().map(|index| (topic.topic.as_str().to_owned(), *index)));
        }
    }
    Ok(MemberDescription {
        id: member.member_id.into_string(),
        instance: member.group_instance_id.map(|id| id.into_string()),
        client_id: member.client_id.into_string(),
        host: member.client_host.into_string(),
        assignment,
        target: None,
        epoch: None,
        modern: None,
    })
}
