//! SyncGroup (14): the leader brings the assignments, every member gets its own.

use super::groups::{maybe_name, maybe_text, name, named};
use crate::base::error::ErrorCode;
use crate::coord::op::{Answer, Membership, Op, Reply, Sync};
use crate::wire::codec::{SyncGroupRequest, SyncGroupResponse};

/// From this version on both sides say which protocol they mean.
const PROTOCOL_FROM: i16 = 5;

/// What the group's coordinator is asked.
pub fn plan(request: &SyncGroupRequest, version: i16) -> Result<Op, ErrorCode> {
    named(&request.group_id)?;
    if version >= PROTOCOL_FROM && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    Ok(Op::Sync(Sync {
        member: Membership {
            member_id: name(&request.member_id),
            instance_id: maybe_name(&request.group_instance_id),
            generation: request.generation_id,
        },
        protocol_type: maybe_name(&request.protocol_type),
        protocol: maybe_name(&request.protocol_name),
        assignments: request.assignments.iter().map(|a| (name(&a.member_id), a.assignment.clone())).collect(),
    }))
}

/// The answer.
pub fn respond(reply: Reply) -> SyncGroupResponse {
    let mut response = SyncGroupResponse::default();
    match reply {
        Ok(Answer::Synced(synced)) => {
            response.protocol_type = maybe_text(&synced.protocol_type);
            response.protocol_name = maybe_text(&synced.protocol);
            response.assignment = synced.assignment;
        }
        Ok(_) => response.error_code = ErrorCode::UnknownServerError.code(),
        Err(code) => response.error_code = code.code(),
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::coord::op::Synced;
    use crate::wire::versions::ApiKey;

    #[test]
    fn every_version_encodes() {
        let synced = Synced { protocol_type: Some("consumer".into()), protocol: Some("range".into()), assignment: vec![1].into() };
        in_every_version(ApiKey::SyncGroup, |_| respond(Ok(Answer::Synced(synced.clone()))));
        in_every_version(ApiKey::SyncGroup, |_| respond(Err(ErrorCode::RebalanceInProgress)));
    }

    #[test]
    fn newer_members_say_what_they_mean() {
        let mut request = SyncGroupRequest::default();
        assert_eq!(plan(&request, 5).err(), Some(ErrorCode::InvalidGroupId));
        request.group_id = "g".into();
        assert_eq!(plan(&request, 5).err(), Some(ErrorCode::InconsistentGroupProtocol));
        assert!(plan(&request, 4).is_ok());
    }
}
