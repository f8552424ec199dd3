//! What a group coordinator is asked and what it answers, as values that cross cores.

use bytes::Bytes;

use super::Name;
use super::modern;
use crate::base::error::ErrorCode;
use crate::base::ids::{LeaderEpoch, Offset, TopicId};

/// Names a request that waits for its reply; the caller's choice.
pub type Token = usize;

/// The answer to an [`Op`], or why the request fails as a whole.
pub type Reply = Result<Answer, ErrorCode>;

/// A request that concerns one group.
#[derive(Clone, Debug)]
pub enum Op {
    /// JoinGroup; answered when the rebalance has come so far.
    Join(Join),
    /// SyncGroup; answered when the leader has sent the assignments.
    Sync(Sync),
    /// Heartbeat.
    Heartbeat(Membership),
    /// LeaveGroup: the members that go.
    Leave(Vec<Leaving>),
    /// OffsetCommit.
    Commit(Commit),
    /// OffsetFetch.
    FetchOffsets(FetchOffsets),
    /// OffsetDelete: topics with their ids, and partitions.
    DeleteOffsets(Vec<(Name, TopicId, i32)>),
    /// DescribeGroups.
    Describe,
    /// DeleteGroups.
    Delete,
    /// ConsumerGroupHeartbeat that joins or reports.
    ConsumerHeartbeat(Box<modern::heartbeat::Request>),
    /// ConsumerGroupHeartbeat that leaves.
    ConsumerLeave(modern::leave::Leave),
    /// ConsumerGroupDescribe.
    ConsumerDescribe,
}

impl Op {
    /// Whether it is answered from what there is, and never makes records.
    pub fn only_reads(&self) -> bool {
        matches!(self, Op::FetchOffsets(_) | Op::Describe | Op::ConsumerDescribe)
    }
}

/// The successful answers, each to the [`Op`] of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// See [`Op::Join`].
    Joined(Joined),
    /// See [`Op::Sync`].
    Synced(Synced),
    /// To [`Op::Heartbeat`] and [`Op::Delete`].
    Done,
    /// To [`Op::Leave`], [`Op::Commit`] and [`Op::DeleteOffsets`]: one for each entry of the request, in its order.
    Codes(Vec<ErrorCode>),
    /// See [`Op::FetchOffsets`].
    Offsets(Vec<TopicOffsets>),
    /// See [`Op::Describe`].
    Described(Description),
    /// To [`Op::Describe`] and [`Op::ConsumerDescribe`]: the group is of the other type.
    OtherType,
    /// To [`Op::ConsumerHeartbeat`] and [`Op::ConsumerLeave`].
    Heard(Result<modern::Reply, modern::Refusal>),
    /// See [`Op::ConsumerDescribe`].
    ConsumerDescribed(modern::describe::Description),
}

/// Who a member says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// As the coordinator gave it; empty: none yet.
    pub member_id: Name,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<Name>,
    /// Generation of the group that the member is in; -1: none.
    pub generation: i32,
}

impl Default for Membership {
    /// Nobody's member.
    fn default() -> Membership {
        Membership { member_id: Name::default(), instance_id: None, generation: -1 }
    }
}

/// See [`Op::Join`].
#[derive(Clone, Debug)]
pub struct Join {
    /// Empty for a member that is new.
    pub member_id: Name,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Name>,
    /// What the client calls itself.
    pub client_id: Name,
    /// Where it comes from, as Kafka writes it: `/127.0.0.1`.
    pub client_host: Name,
    /// A member silent for so many milliseconds is out.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for members to join again, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// Such as `consumer` or `connect`.
    pub protocol_type: Name,
    /// Assignment strategies that the member knows with its metadata for each, most wanted first; names are unique.
    pub protocols: Vec<(Name, Bytes)>,
    /// A new member is first given an id to join with (KIP-394; JoinGroup 4 and later).
    pub needs_known_id: bool,
    /// The client understands "skip the assignment" (KIP-814; JoinGroup 9 and later).
    pub can_skip_assignment: bool,
}

/// The answer to [`Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Success or why not.
    pub code: ErrorCode,
    /// -1 on errors.
    pub generation: i32,
    /// None on errors.
    pub protocol_type: Option<Name>,
    /// The strategy chosen; none on errors.
    pub protocol: Option<Name>,
    /// Member id of the leader; empty on errors.
    pub leader: Name,
    /// The leader need not compute an assignment.
    pub skip_assignment: bool,
    /// The member's id from now on.
    pub member_id: Name,
    /// All members with their metadata, for the leader alone.
    pub members: Vec<JoinedMember>,
}

impl Joined {
    /// A refusal.
    pub fn refused(code: ErrorCode, member_id: Name) -> Joined {
        Joined {
            code,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: Name::default(),
            skip_assignment: false,
            member_id,
            members: Vec::new(),
        }
    }
}

/// A member as the leader is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: Name,
    /// Its `group.instance.id`.
    pub instance_id: Option<Name>,
    /// Its metadata for the strategy chosen.
    pub metadata: Bytes,
}

/// See [`Op::Sync`].
#[derive(Clone, Debug)]
pub struct Sync {
    /// Who.
    pub member: Membership,
    /// The protocol type that the member believes in; none in old versions.
    pub protocol_type: Option<Name>,
    /// The strategy that the member believes in; none in old versions.
    pub protocol: Option<Name>,
    /// By member id; from the leader alone.
    pub assignments: Vec<(Name, Bytes)>,
}

/// The answer to [`Sync`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Of the group.
    pub protocol_type: Option<Name>,
    /// Of the generation.
    pub protocol: Option<Name>,
    /// What the leader assigned to this member.
    pub assignment: Bytes,
}

/// A member that leaves, or is made to.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Empty: whoever has the instance id.
    pub member_id: Name,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Name>,
}

/// See [`Op::Commit`].
#[derive(Clone, Debug)]
pub struct Commit {
    /// Who; a consumer without a group protocol has no id and generation -1.
    pub member: Membership,
    /// How long the offsets are kept, milliseconds, where an old client says so.
    pub retention_ms: Option<i64>,
    /// Commits to an unknown group of a generation that it cannot have: newer versions say GROUP_ID_NOT_FOUND, older ILLEGAL_GENERATION.
    pub knows_group_id_not_found: bool,
    /// Version of the metadata that the topics were looked up in.
    pub version: i64,
    /// What is committed.
    pub offsets: Vec<CommitOffset>,
}

/// One offset of a [`Commit`].
#[derive(Clone, Debug)]
pub struct CommitOffset {
    /// Topic.
    pub topic: Name,
    /// Its id.
    pub topic_id: TopicId,
    /// Partition.
    pub partition: i32,
    /// Offset of the next record to read.
    pub offset: Offset,
    /// Epoch of the last record read; -1: unknown.
    pub leader_epoch: LeaderEpoch,
    /// The client's own words.
    pub metadata: Name,
}

/// See [`Op::FetchOffsets`].
#[derive(Clone, Debug)]
pub struct FetchOffsets {
    /// Who asks, and in which epoch (KIP-848); classic members and administrators do not say.
    pub member: Option<Membership>,
    /// Topics with their partitions; none: everything that is committed.
    pub topics: Option<Vec<FetchTopic>>,
    /// Version of the metadata that names were looked up in; none where the request has ids.
    pub version: Option<i64>,
    /// Offsets that an open transaction is about to change are not told.
    pub require_stable: bool,
}

/// A topic of [`FetchOffsets`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchTopic {
    /// Its name.
    pub topic: Name,
    /// Its id; zero where no topic of that name exists.
    pub topic_id: TopicId,
    /// Its partitions.
    pub partitions: Vec<i32>,
}

/// Offsets of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOffsets {
    /// Its name.
    pub topic: Name,
    /// Its id; zero where it is not known.
    pub topic_id: TopicId,
    /// One for each partition asked for.
    pub partitions: Vec<FetchedOffset>,
}

/// The offset of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    /// Which.
    pub partition: i32,
    /// -1: none committed.
    pub offset: Offset,
    /// -1: unknown.
    pub leader_epoch: LeaderEpoch,
    /// The client's own words.
    pub metadata: Name,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub group: Name,
    /// Such as `consumer`; empty: never had members.
    pub protocol_type: Name,
    /// Kafka's name of its state.
    pub state: &'static str,
    /// Kafka's name of its type: `classic` or `consumer`.
    pub kind: &'static str,
}

/// A classic group in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Kafka's name of its state.
    pub state: &'static str,
    /// Such as `consumer`; empty: never had members.
    pub protocol_type: Name,
    /// The strategy in use; empty unless Stable.
    pub protocol: Name,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// A member of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub member_id: Name,
    /// Its `group.instance.id`.
    pub instance_id: Option<Name>,
    /// What the client calls itself.
    pub client_id: Name,
    /// Where it comes from.
    pub client_host: Name,
    /// Its metadata for the strategy in use; empty unless Stable.
    pub metadata: Bytes,
    /// What it is assigned.
    pub assignment: Bytes,
}
