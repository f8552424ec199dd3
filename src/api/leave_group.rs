//! LeaveGroup (13): members leave, or an administrator makes them.

use super::groups::{maybe_name, name, named};
use crate::base::error::ErrorCode;
use crate::coord::op::{Answer, Leaving, Op, Reply};
use crate::wire::codec::leave_group_response::MemberResponse;
use crate::wire::codec::{LeaveGroupRequest, LeaveGroupResponse};

/// From this version on several members may leave at once.
const LIST_FROM: i16 = 3;

/// What the group's coordinator is asked.
pub fn plan(request: &LeaveGroupRequest, version: i16) -> Result<Op, ErrorCode> {
    named(&request.group_id)?;
    if version < LIST_FROM {
        return Ok(Op::Leave(vec![Leaving { member_id: name(&request.member_id), instance_id: None }]));
    }
    let leaving = |m: &crate::wire::codec::leave_group_request::MemberIdentity| Leaving {
        member_id: name(&m.member_id),
        instance_id: maybe_name(&m.group_instance_id),
    };
    Ok(Op::Leave(request.members.iter().map(leaving).collect()))
}

/// The answer.
pub fn respond(reply: Reply, request: &LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
    let mut response = LeaveGroupResponse::default();
    let codes = match reply {
        Ok(Answer::Codes(codes)) => codes,
        Ok(_) => vec![ErrorCode::UnknownServerError; request.members.len()],
        Err(code) => {
            response.error_code = code.code();
            return response;
        }
    };
    if version < LIST_FROM {
        response.error_code = codes.first().map_or(0, |code| code.code());
        return response;
    }
    for (member, code) in request.members.iter().zip(codes) {
        let mut entry = MemberResponse::default();
        entry.member_id = member.member_id.clone();
        entry.group_instance_id = member.group_instance_id.clone();
        entry.error_code = code.code();
        response.members.push(entry);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::wire::codec::leave_group_request::MemberIdentity;
    use crate::wire::versions::ApiKey;

    #[test]
    fn one_or_many() {
        let mut request = LeaveGroupRequest::default();
        request.group_id = "g".into();
        request.members = vec![MemberIdentity::default()];
        let codes = || Ok(Answer::Codes(vec![ErrorCode::UnknownMemberId]));
        assert_eq!(respond(codes(), &request, 2).error_code, 25);
        let listed = respond(codes(), &request, 3);
        assert_eq!((listed.error_code, listed.members[0].error_code), (0, 25));
        in_every_version(ApiKey::LeaveGroup, |version| respond(codes(), &request, version));
        in_every_version(ApiKey::LeaveGroup, |version| respond(Err(ErrorCode::NotCoordinator), &request, version));
        assert!(matches!(plan(&request, 5), Ok(Op::Leave(leaving)) if leaving.len() == 1));
    }
}
