//! One member of a consumer group: what it asked for, and what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::base::ids::TopicId;
use crate::coord::ledger::{entry_bytes, map_bytes, text_bytes};
use crate::coord::timers::TIMER_BYTES;

/// Id of a member: made by the client from version 1 of the heartbeat on, by the coordinator before.
pub type MemberId = Arc<str>;
/// Partitions by topic; no topic without any.
pub type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;
/// Partitions that a member may use, each with the assignment epoch in which it got it; no topic without any.
pub type Owned = BTreeMap<TopicId, BTreeMap<i32, i32>>;

/// Epoch of a request by which a member joins.
pub const JOIN_EPOCH: i32 = 0;
/// Epoch of a request by which a member leaves for good.
pub const LEAVE_EPOCH: i32 = -1;
/// Epoch of a static member that has left for a while: of its request, and of its state until it comes back.
pub const LEAVE_STATIC_EPOCH: i32 = -2;

/// Where a member stands between its current and its target assignment (KIP-848); the numbers are those of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i8)]
pub enum MemberState {
    /// Has what the target gave it in the epoch of the member.
    #[default]
    Stable = 0,
    /// Has yet to give up partitions.
    UnrevokedPartitions = 1,
    /// Waits for partitions that others have yet to give up.
    UnreleasedPartitions = 2,
    /// Written by a newer version.
    Unknown = 127,
}

impl MemberState {
    /// The state with a number of the log.
    pub fn from_number(number: i8) -> MemberState {
        match number {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }
}

/// What a member of the classic protocol said when it joined; there while a group changes from one protocol to the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassicMember {
    /// Its session timeout, milliseconds: classic members choose their own.
    pub session_timeout_ms: i32,
    /// Its protocols (client-side assignors) with their metadata, the preferred one first.
    pub protocols: Vec<(String, Bytes)>,
}

/// What a member is and subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMetadata {
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `client.rack`.
    pub rack_id: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Address that it comes from, as Kafka shows it: `/127.0.0.1`.
    pub client_host: String,
    /// Topics that it subscribes to by name.
    pub topic_names: BTreeSet<String>,
    /// Pattern of topic names that it subscribes to.
    pub topic_regex: Option<String>,
    /// How long it may take to give up partitions, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// The server-side assignor that it wants.
    pub server_assignor: Option<String>,
    /// Set for a member of the classic protocol.
    pub classic: Option<ClassicMember>,
}

impl Default for MemberMetadata {
    fn default() -> Self {
        MemberMetadata {
            instance_id: None,
            rack_id: None,
            client_id: String::new(),
            client_host: String::new(),
            topic_names: BTreeSet::new(),
            topic_regex: None,
            rebalance_timeout_ms: -1,
            server_assignor: None,
            classic: None,
        }
    }
}

/// Memory of texts that a member and a map of its group have, each its own.
pub(super) fn texts_bytes<'a>(texts: impl Iterator<Item = &'a String>) -> usize {
    let entries = entry_bytes::<String, ()>() + entry_bytes::<String, MemberId>();
    texts.map(|text| entries + 2 * text_bytes(text)).sum()
}

impl ClassicMember {
    fn bytes(&self) -> usize {
        let protocol = |(name, metadata): &(String, Bytes)| size_of::<(String, Bytes)>() + 2 * text_bytes(name) + metadata.len();
        self.protocols.iter().map(protocol).sum()
    }
}

impl MemberMetadata {
    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let named = [&self.instance_id, &self.rack_id, &self.topic_regex, &self.server_assignor];
        let classic = self.classic.as_ref().map_or(0, |classic| 2 * TIMER_BYTES + classic.bytes());
        let names = if self.topic_names.is_empty() { 0 } else { map_bytes::<String, ()>() };
        names + self.client_id.len() + self.client_host.len() + classic + texts_bytes(named.into_iter().flatten().chain(&self.topic_names))
    }

    /// The pattern, if there is one: the empty text stands for none.
    pub fn regex(&self) -> Option<&str> {
        self.topic_regex.as_deref().filter(|regex| !regex.is_empty())
    }
}

/// What a member has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CurrentAssignment {
    /// The epoch that its next heartbeat must carry.
    pub epoch: i32,
    /// The one before: taken too, for the answer with the newer one may have been lost.
    pub previous_epoch: i32,
    /// See [`MemberState`].
    pub state: MemberState,
    /// What it may use.
    pub assigned: Owned,
    /// What it has been told to give up, and may still use.
    pub pending_revocation: Owned,
}

impl CurrentAssignment {
    /// True when nothing stands between it and the target of this epoch.
    pub fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == target_epoch
    }

    /// Everything that nobody else may have.
    pub fn holds(&self) -> impl Iterator<Item = (TopicId, i32)> {
        each(&self.assigned).chain(each(&self.pending_revocation))
    }

    /// [`CurrentAssignment::holds`] by topic.
    pub fn held_partitions(&self) -> Partitions {
        let mut held = Partitions::new();
        for (topic, partition) in self.holds() {
            held.entry(topic).or_default().insert(partition);
        }
        held
    }
}

fn each(owned: &Owned) -> impl Iterator<Item = (TopicId, i32)> {
    owned.iter().flat_map(|(topic, partitions)| partitions.keys().map(|&partition| (*topic, partition)))
}

/// True when both name the same partitions, in whatever epochs.
pub fn same_partitions(a: &Owned, b: &Owned) -> bool {
    each(a).eq(each(b))
}

/// Without the epochs.
pub fn partitions_of(owned: &Owned) -> Partitions {
    owned.iter().map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect()
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// What it is and subscribes to.
    pub metadata: MemberMetadata,
    /// What it has.
    pub current: CurrentAssignment,
}

impl Member {
    /// True for a member that joined with JoinGroup.
    pub fn is_classic(&self) -> bool {
        self.metadata.classic.is_some()
    }
}
