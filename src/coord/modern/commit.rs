//! Which members may commit and fetch offsets. A commit carries the member's epoch; one of an older epoch still counts for partitions that the
//! member has had since then (KIP-1251).

use super::group::Group;
use super::member::Member;
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::coord::op::Membership;

/// A commit with an older epoch: each partition has to be looked at.
#[derive(Debug)]
pub struct Guard<'a> {
    member: &'a Member,
    epoch: i32,
}

impl Guard<'_> {
    /// Whether the member may commit for a partition.
    pub fn check(&self, topic: TopicId, partition: i32) -> Result<(), ErrorCode> {
        let current = &self.member.current;
        let since = [&current.assigned, &current.pending_revocation].into_iter().find_map(|owned| owned.get(&topic)?.get(&partition));
        if since.is_some_and(|&since| since <= self.epoch) { Ok(()) } else { Err(stale(self.member)) }
    }
}

fn stale(member: &Member) -> ErrorCode {
    if member.is_classic() { ErrorCode::IllegalGeneration } else { ErrorCode::StaleMemberEpoch }
}

/// Judges an OffsetCommit; `knows_epochs`: of a version (9) that has epochs.
pub fn may_commit<'a>(group: &'a Group, who: &Membership, knows_epochs: bool) -> Result<Option<Guard<'a>>, ErrorCode> {
    let epoch = who.generation;
    // Somebody without a group protocol, or an administrator.
    if epoch < 0 && group.members().is_empty() {
        return Ok(None);
    }
    let member = group.members().get(&who.member_id).ok_or(ErrorCode::UnknownMemberId)?;
    if !member.is_classic() && !knows_epochs {
        return Err(ErrorCode::UnsupportedVersion);
    }
    if epoch == member.current.epoch {
        Ok(None)
    } else if epoch > member.current.epoch {
        Err(stale(member))
    } else {
        Ok(Some(Guard { member, epoch }))
    }
}

/// Judges an OffsetFetch of somebody who says who it is.
pub fn may_fetch(group: &Group, who: &Membership) -> Result<(), ErrorCode> {
    let member = group.members().get(&who.member_id).ok_or(ErrorCode::UnknownMemberId)?;
    if who.generation == member.current.epoch { Ok(()) } else { Err(stale(member)) }
}
