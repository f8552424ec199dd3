//! ConsumerGroupDescribe (69): groups of the new protocol in full.

use super::groups::{GROUP_OPERATIONS, named};
use super::{OPERATIONS_NOT_ASKED, error_text};
use crate::base::error::ErrorCode;
use crate::cluster::image::Image;
use crate::coord::modern::describe::DescribedMember;
use crate::coord::modern::member::Partitions;
use crate::coord::op::{Answer, Op, Reply};
use crate::wire::codec::consumer_group_describe_response::{Assignment, DescribedGroup, Member, TopicPartitions};
use crate::wire::codec::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, StrBytes};

/// Kafka's numbers of member types.
const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;
/// From this version on the type of each member is told.
const MEMBER_TYPE_FROM: i16 = 1;

/// Why a group is not asked about at all.
fn check(group: &StrBytes, enabled: bool) -> Result<(), ErrorCode> {
    if enabled { named(group) } else { Err(ErrorCode::UnsupportedVersion) }
}

/// The groups to ask about, if the protocol is `enabled`.
pub fn plan(request: &ConsumerGroupDescribeRequest, enabled: bool) -> Vec<(String, Op)> {
    let asked = request.group_ids.iter().filter(|group| check(group, enabled).is_ok());
    asked.map(|group| (group.as_str().to_owned(), Op::ConsumerDescribe)).collect()
}

/// The answer from the coordinators' replies, one for each group of [`plan`].
pub fn respond(
    request: &ConsumerGroupDescribeRequest,
    version: i16,
    image: &Image,
    enabled: bool,
    replies: Vec<Reply>,
) -> ConsumerGroupDescribeResponse {
    let mut response = ConsumerGroupDescribeResponse::default();
    let mut replies = replies.into_iter();
    for group in &request.group_ids {
        let reply = check(group, enabled).and_then(|()| replies.next().unwrap_or(Err(ErrorCode::UnknownServerError)));
        let mut entry = DescribedGroup::default();
        entry.group_id = group.clone();
        entry.authorized_operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
        let mut missing = |text: String| {
            entry.error_code = ErrorCode::GroupIdNotFound.code();
            entry.error_message = error_text(&text);
        };
        match reply {
            Ok(Answer::ConsumerDescribed(description)) => {
                entry.group_state = description.state.into();
                (entry.group_epoch, entry.assignment_epoch) = (description.epoch, description.target_epoch);
                entry.assignor_name = description.assignor.into();
                entry.members = description.members.into_iter().map(|one| member(one, version, image)).collect();
            }
            Ok(Answer::OtherType) => missing(format!("Group {} is not a consumer group.", group.as_str())),
            Err(ErrorCode::GroupIdNotFound) => missing(format!("Group {} not found.", group.as_str())),
            Ok(_) => entry.error_code = ErrorCode::UnknownServerError.code(),
            Err(code) => entry.error_code = code.code(),
        }
        response.groups.push(entry);
    }
    response
}

fn member(member: DescribedMember, version: i16, image: &Image) -> Member {
    let maybe = |text: &Option<String>| text.as_deref().map(StrBytes::from);
    let mut entry = Member::default();
    let metadata = &member.metadata;
    entry.member_id = (&*member.id).into();
    entry.instance_id = maybe(&metadata.instance_id);
    entry.rack_id = maybe(&metadata.rack_id);
    entry.member_epoch = member.epoch;
    entry.client_id = metadata.client_id.as_str().into();
    entry.client_host = metadata.client_host.as_str().into();
    entry.subscribed_topic_names = metadata.topic_names.iter().map(|name| name.as_str().into()).collect();
    entry.subscribed_topic_regex = Some(metadata.topic_regex.as_deref().unwrap_or_default().into());
    entry.assignment = assignment(&member.assigned, image);
    entry.target_assignment = assignment(&member.target, image);
    if version >= MEMBER_TYPE_FROM {
        entry.member_type = if metadata.classic.is_some() { CLASSIC_MEMBER } else { CONSUMER_MEMBER };
    }
    entry
}

/// Topics that are gone have no name to be told by.
fn assignment(partitions: &Partitions, image: &Image) -> Assignment {
    let mut assignment = Assignment::default();
    for (id, partitions) in partitions {
        if let Some(topic) = image.topic_by_id(*id) {
            let mut entry = TopicPartitions::default();
            (entry.topic_id, entry.topic_name) = ((*id).into(), (&*topic.name).into());
            entry.partitions = partitions.iter().copied().collect();
            assignment.topic_partitions.push(entry);
        }
    }
    assignment
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::testing::{broker, id, image, in_every_version};
    use crate::coord::modern::describe::Description;
    use crate::coord::modern::member::MemberMetadata;
    use crate::wire::versions::ApiKey;

    #[test]
    fn found_and_not_found() {
        let image = image(&broker(&[]), &[("t", 1, 1)]);
        let mut request = ConsumerGroupDescribeRequest::default();
        request.group_ids = vec!["g".into(), "nope".into(), "old".into()];
        let target = Partitions::from([(id(1), BTreeSet::from([0])), (id(9), BTreeSet::from([0]))]);
        let metadata = MemberMetadata { client_id: "c".into(), ..MemberMetadata::default() };
        let member = DescribedMember { id: "m".into(), metadata, epoch: 3, assigned: Partitions::new(), target };
        let described = Description { state: "Stable", epoch: 3, target_epoch: 3, assignor: "uniform", members: vec![member] };
        let replies = || vec![Ok(Answer::ConsumerDescribed(described.clone())), Err(ErrorCode::GroupIdNotFound), Ok(Answer::OtherType)];
        in_every_version(ApiKey::ConsumerGroupDescribe, |version| respond(&request, version, &image, true, replies()));
        let groups = respond(&request, 1, &image, true, replies()).groups;
        let topics = &groups[0].members[0].target_assignment.topic_partitions;
        assert_eq!((topics.len(), topics[0].topic_name.as_str(), groups[0].members[0].member_type), (1, "t", 1));
        let texts: Vec<_> = groups[1..].iter().map(|group| (group.error_code, group.error_message.clone().unwrap().to_string())).collect();
        assert_eq!(texts, [(69, "Group nope not found.".into()), (69, "Group old is not a consumer group.".into())]);
    }

    #[test]
    fn groups_that_nobody_is_asked_about() {
        let image = image(&broker(&[]), &[]);
        let mut request = ConsumerGroupDescribeRequest::default();
        request.group_ids = vec!["".into(), "g".into()];
        let codes = |enabled, replies| -> Vec<i16> {
            respond(&request, 1, &image, enabled, replies).groups.iter().map(|group| group.error_code).collect()
        };
        assert!(matches!(&plan(&request, true)[..], [(group, Op::ConsumerDescribe)] if group == "g"));
        assert_eq!(codes(true, vec![Ok(Answer::OtherType)]), [24, 69]);
        assert!(plan(&request, false).is_empty());
        assert_eq!(codes(false, Vec::new()), [35, 35]);
    }
}
