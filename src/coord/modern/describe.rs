//! ConsumerGroupDescribe: a group in full.

use super::group::Group;
use super::member::{MemberId, MemberMetadata, Partitions};

/// A group of the new protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Kafka's name of its state.
    pub state: &'static str,
    /// Group epoch.
    pub epoch: i32,
    /// Epoch of the target assignment.
    pub target_epoch: i32,
    /// The assignor that most members want.
    pub assignor: &'static str,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// A member of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub id: MemberId,
    /// What it is and subscribes to.
    pub metadata: MemberMetadata,
    /// Its epoch.
    pub epoch: i32,
    /// What it has, and what it has yet to give up.
    pub assigned: Partitions,
    /// What it is to have.
    pub target: Partitions,
}

/// Describes a group; the first of the configured assignors is in use where the members want none.
pub fn describe(group: &Group, configured: &[&str]) -> Description {
    let member = |(id, member): (&MemberId, &super::member::Member)| DescribedMember {
        id: id.clone(),
        metadata: member.metadata.clone(),
        epoch: member.current.epoch,
        assigned: member.current.held_partitions(),
        target: group.targets().get(id).cloned().unwrap_or_default(),
    };
    Description {
        state: group.state().name(),
        epoch: group.epoch(),
        target_epoch: group.target_epoch(),
        assignor: super::target::preferred(configured, |assignor| group.assignors().get(assignor.name())).name(),
        members: group.members().iter().map(|(id, found)| member((id, found))).collect(),
    }
}
