//! JoinGroup (11): become a member of a group, or take part in its rebalance.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::groups::{client_host, maybe_name, maybe_text, name, named, text};
use crate::base::error::ErrorCode;
use crate::coord::op::{Answer, Join, Joined, Op, Reply};
use crate::wire::codec::join_group_response::JoinGroupResponseMember;
use crate::wire::codec::{JoinGroupRequest, JoinGroupResponse, StrBytes};

/// From this version on a new member is given its id before it joins (KIP-394).
const KNOWN_ID_FROM: i16 = 4;
/// From this version on the leader can be told to leave the assignment as it is (KIP-814).
const SKIP_FROM: i16 = 9;
/// From this version on a protocol's name can be missing in the response.
const NULL_PROTOCOL_FROM: i16 = 7;

/// What the group's coordinator is asked.
pub fn plan(request: &JoinGroupRequest, version: i16, client_id: &str, address: IpAddr) -> Result<Op, ErrorCode> {
    named(&request.group_id)?;
    let mut seen = BTreeSet::new();
    let protocols = request.protocols.iter().filter(|p| seen.insert(p.name.as_str())).map(|p| (name(&p.name), p.metadata.clone()));
    Ok(Op::Join(Join {
        member_id: name(&request.member_id),
        instance_id: maybe_name(&request.group_instance_id),
        client_id: client_id.into(),
        client_host: client_host(address),
        session_timeout_ms: request.session_timeout_ms,
        // Version 0 knows one timeout.
        rebalance_timeout_ms: if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms },
        protocol_type: name(&request.protocol_type),
        protocols: protocols.collect(),
        needs_known_id: version >= KNOWN_ID_FROM,
        can_skip_assignment: version >= SKIP_FROM,
    }))
}

/// The answer to the member that called itself `member_id`.
pub fn respond(reply: Reply, version: i16, member_id: &StrBytes) -> JoinGroupResponse {
    let joined = match reply {
        Ok(Answer::Joined(joined)) => joined,
        Ok(_) => Joined::refused(ErrorCode::UnknownServerError, name(member_id)),
        Err(code) => Joined::refused(code, name(member_id)),
    };
    let mut response = JoinGroupResponse::default();
    response.error_code = joined.code.code();
    response.generation_id = joined.generation;
    response.protocol_type = maybe_text(&joined.protocol_type);
    response.protocol_name = maybe_text(&joined.protocol).or_else(|| (version < NULL_PROTOCOL_FROM).then(StrBytes::default));
    response.leader = text(&joined.leader);
    response.skip_assignment = joined.skip_assignment;
    response.member_id = text(&joined.member_id);
    let member = |member: crate::coord::op::JoinedMember| {
        let mut entry = JoinGroupResponseMember::default();
        entry.member_id = text(&member.member_id);
        entry.group_instance_id = maybe_text(&member.instance_id);
        entry.metadata = member.metadata;
        entry
    };
    response.members = joined.members.into_iter().map(member).collect();
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::coord::op::JoinedMember;
    use crate::wire::versions::ApiKey;

    #[test]
    fn every_version_encodes() {
        let member = JoinedMember { member_id: "m".into(), instance_id: Some("i".into()), metadata: vec![1].into() };
        let joined = Joined {
            protocol_type: Some("consumer".into()),
            protocol: Some("range".into()),
            generation: 3,
            members: vec![member],
            skip_assignment: true,
            ..Joined::refused(ErrorCode::None, "m".into())
        };
        in_every_version(ApiKey::JoinGroup, |version| {
            let mut response = respond(Ok(Answer::Joined(joined.clone())), version, &"m".into());
            response.skip_assignment &= version >= SKIP_FROM;
            response
        });
        in_every_version(ApiKey::JoinGroup, |version| respond(Err(ErrorCode::NotCoordinator), version, &"m".into()));
    }

    #[test]
    fn requests() {
        let mut request = JoinGroupRequest::default();
        let plan = |request: &_, version| plan(request, version, "c", "127.0.0.1".parse().unwrap());
        assert_eq!(plan(&request, 9).err(), Some(ErrorCode::InvalidGroupId));
        request.group_id = "g".into();
        (request.session_timeout_ms, request.rebalance_timeout_ms) = (1, 2);
        let Ok(Op::Join(join)) = plan(&request, 0) else { panic!("no join") };
        assert_eq!((join.rebalance_timeout_ms, join.needs_known_id), (1, false));
        let Ok(Op::Join(join)) = plan(&request, 9) else { panic!("no join") };
        assert_eq!((join.rebalance_timeout_ms, join.needs_known_id, join.can_skip_assignment), (2, true, true));
    }
}
