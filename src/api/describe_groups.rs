//! DescribeGroups (15): classic groups in full.

use super::groups::{GROUP_OPERATIONS, maybe_text, text};
use super::{OPERATIONS_NOT_ASKED, error_text};
use crate::base::error::ErrorCode;
use crate::coord::op::{Answer, DescribedMember, Reply};
use crate::wire::codec::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use crate::wire::codec::{DescribeGroupsRequest, DescribeGroupsResponse};

/// From this version on a group that is not there is an error; before, it is dead.
const NOT_FOUND_FROM: i16 = 6;
/// Kafka's name of the state of a group that is not there.
const DEAD: &str = "Dead";

/// The answer from the coordinators' replies, one for each group of the request.
pub fn respond(request: &DescribeGroupsRequest, version: i16, replies: Vec<Reply>) -> DescribeGroupsResponse {
    let mut response = DescribeGroupsResponse::default();
    for (group, reply) in request.groups.iter().zip(replies) {
        let mut entry = DescribedGroup::default();
        entry.group_id = group.clone();
        entry.authorized_operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
        match reply {
            Ok(Answer::Described(description)) => {
                entry.group_state = description.state.into();
                entry.protocol_type = text(&description.protocol_type);
                entry.protocol_data = text(&description.protocol);
                entry.members = description.members.into_iter().map(member).collect();
            }
            Ok(Answer::OtherType) | Err(ErrorCode::GroupIdNotFound) => {
                entry.group_state = DEAD.into();
                if version >= NOT_FOUND_FROM {
                    let why = if reply.is_ok() { "is not a classic group" } else { "not found" };
                    entry.error_code = ErrorCode::GroupIdNotFound.code();
                    entry.error_message = error_text(&format!("Group {} {why}.", group.as_str()));
                }
            }
            Ok(_) => entry.error_code = ErrorCode::UnknownServerError.code(),
            Err(code) => entry.error_code = code.code(),
        }
        response.groups.push(entry);
    }
    response
}

fn member(member: DescribedMember) -> DescribedGroupMember {
    let mut entry = DescribedGroupMember::default();
    entry.member_id = text(&member.member_id);
    entry.group_instance_id = maybe_text(&member.instance_id);
    entry.client_id = text(&member.client_id);
    entry.client_host = text(&member.client_host);
    entry.member_metadata = member.metadata;
    entry.member_assignment = member.assignment;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::coord::op::Description;
    use crate::wire::versions::ApiKey;

    #[test]
    fn found_and_not_found() {
        let mut request = DescribeGroupsRequest::default();
        request.groups = vec!["g".into(), "nope".into()];
        let member = DescribedMember {
            member_id: "m".into(),
            instance_id: Some("i".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            metadata: vec![1].into(),
            assignment: vec![2].into(),
        };
        let described = Description { state: "Stable", protocol_type: "consumer".into(), protocol: "range".into(), members: vec![member] };
        let replies = || vec![Ok(Answer::Described(described.clone())), Err(ErrorCode::GroupIdNotFound)];
        in_every_version(ApiKey::DescribeGroups, |version| respond(&request, version, replies()));
        let dead = |version| respond(&request, version, replies()).groups[1].clone();
        assert_eq!((dead(5).error_code, dead(5).group_state.as_str()), (0, "Dead"));
        assert_eq!((dead(6).error_code, dead(6).error_message.unwrap().as_str()), (69, "Group nope not found."));
    }
}
