//! Heartbeat (12): a member is still there, and hears whether it has to join again.

use super::groups::{maybe_name, name, named};
use crate::base::error::ErrorCode;
use crate::coord::op::{Membership, Op, Reply};
use crate::wire::codec::{HeartbeatRequest, HeartbeatResponse};

/// What the group's coordinator is asked.
pub fn plan(request: &HeartbeatRequest) -> Result<Op, ErrorCode> {
    named(&request.group_id)?;
    Ok(Op::Heartbeat(Membership {
        member_id: name(&request.member_id),
        instance_id: maybe_name(&request.group_instance_id),
        generation: request.generation_id,
    }))
}

/// The answer. While the coordinator loads, all is well: as soon as it has, it knows the member again.
pub fn respond(reply: Reply) -> HeartbeatResponse {
    let mut response = HeartbeatResponse::default();
    response.error_code = match reply {
        Ok(_) | Err(ErrorCode::CoordinatorLoadInProgress) => 0,
        Err(code) => code.code(),
    };
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::wire::versions::ApiKey;

    #[test]
    fn every_version_encodes() {
        in_every_version(ApiKey::Heartbeat, |_| respond(Err(ErrorCode::UnknownMemberId)));
        assert_eq!(respond(Err(ErrorCode::CoordinatorLoadInProgress)).error_code, 0);
        assert_eq!(plan(&HeartbeatRequest::default()).err(), Some(ErrorCode::InvalidGroupId));
    }
}
