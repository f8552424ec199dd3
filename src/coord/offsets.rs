//! Committed offsets of groups: commit, fetch, delete, expiry.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::group::{Group, Phase};
use super::ledger::{Ledger, entry_bytes, map_bytes, text_bytes};
use super::modern;
use super::modern::topics::Topics;
use super::op::{Answer, Commit, CommitOffset, FetchOffsets, FetchTopic, FetchedOffset, Membership, Reply, TopicOffsets};
use super::record::Record;
use super::{Effects, Name, Stored};
use crate::base::config::GroupConfig;
use crate::base::error::ErrorCode;
use crate::base::ids::{LeaderEpoch, Offset, TopicId};

/// State of a group of which a part cannot be read.
const UNKNOWN_STATE: &str = "Unknown";

/// An offset of a group, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Offset of the next record to read.
    pub offset: Offset,
    /// Epoch of the last record read; -1: unknown.
    pub leader_epoch: LeaderEpoch,
    /// The client's own words.
    pub metadata: Name,
    /// When it was committed, milliseconds since 1970.
    pub commit_ms: i64,
    /// When it expires, where an old client said so.
    pub expire_ms: Option<i64>,
    /// Of the topic; zero where it is not known: records of older brokers have none, nor those that
    /// expire.
    pub topic_id: TopicId,
}

impl CommittedOffset {
    /// Whether it is one in the topic with this id, as far as that is known: zero is not.
    fn is_of(&self, topic: TopicId) -> bool {
        self.topic_id == topic || self.topic_id.is_zero() || topic.is_zero()
    }
}

/// All offsets of a group: by topic, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    topics: BTreeMap<Name, BTreeMap<i32, CommittedOffset>>,
    count: usize,
    bytes: Ledger,
}

impl Offsets {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// An offset.
    pub fn get(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Memory that they take, about.
    pub fn ledger(&self) -> Ledger {
        let first_node = map_bytes::<Name, BTreeMap<i32, CommittedOffset>>();
        let mut bytes = self.bytes;
        bytes.add(if self.topics.is_empty() { 0 } else { first_node });
        bytes
    }

    #[cfg(test)]
    pub(super) fn miscount(&mut self, bytes: usize) {
        self.bytes.sub(bytes);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, i32, &CommittedOffset)> {
        self.topics.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |(p, offset)| (topic, *p, offset)))
    }

    /// Sets an offset or takes it away.
    pub(super) fn put(&mut self, topic: &Name, partition: i32, value: Option<&CommittedOffset>) {
        let cost = |offset: &CommittedOffset| offset_bytes(&offset.metadata);
        match value {
            Some(value) => {
                let partitions = match self.topics.entry(topic.clone()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        self.bytes.add(topic_bytes(topic));
                        new.insert(BTreeMap::new())
                    }
                };
                let before = partitions.insert(partition, value.clone());
                self.count += usize::from(before.is_none());
                self.bytes.replace(before.as_ref().map_or(0, cost), cost(value));
            }
            None => {
                let Some(partitions) = self.topics.get_mut(topic) else { return };
                let before = partitions.remove(&partition);
                self.count -= usize::from(before.is_some());
                self.bytes.sub(before.as_ref().map_or(0, cost));
                if partitions.is_empty() {
                    self.topics.remove(topic);
                    self.bytes.sub(topic_bytes(topic));
                }
            }
        }
    }
}

/// Memory of an offset with this metadata.
fn offset_bytes(metadata: &str) -> usize {
    entry_bytes::<i32, CommittedOffset>() + text_bytes(metadata)
}

/// Memory of a topic with offsets, besides these.
fn topic_bytes(topic: &str) -> usize {
    let first_node = map_bytes::<i32, CommittedOffset>();
    entry_bytes::<Name, BTreeMap<i32, CommittedOffset>>() + first_node + text_bytes(topic)
}

impl CommitOffset {
    /// Memory that it takes when it is committed, at most.
    pub(super) fn cost(&self) -> usize {
        let first_node = map_bytes::<Name, BTreeMap<i32, CommittedOffset>>();
        first_node + topic_bytes(&self.topic) + offset_bytes(&self.metadata)
    }
}

/// What offsets need to know of a group: what the log has of it, and its machine if it runs.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) id: &'a Name,
    pub(super) stored: Option<&'a Stored>,
    pub(super) live: Option<&'a Group>,
}

impl View<'_> {
    pub(super) fn exists(&self) -> bool {
        self.stored.is_some() || self.live.is_some()
    }

    /// The group, if it is one of the new protocol.
    pub(super) fn modern(&self) -> Option<&modern::group::Group> {
        self.stored?.modern.as_deref()
    }

    /// See [`Stored::is_fenced`].
    pub(super) fn is_fenced(&self) -> bool {
        self.stored.is_some_and(Stored::is_fenced)
    }

    /// Whether it has no members.
    pub(super) fn is_empty(&self) -> bool {
        self.modern().map_or(self.phase() == Phase::Empty, |group| group.members().is_empty())
    }

    /// Kafka's name of its state.
    pub(super) fn state_name(&self) -> &'static str {
        if self.is_fenced() {
            return UNKNOWN_STATE;
        }
        self.modern().map_or(self.phase().name(), |group| group.state().name())
    }

    /// Kafka's name of its type.
    pub(super) fn kind(&self) -> &'static str {
        if self.modern().is_some() { "consumer" } else { "classic" }
    }

    /// Of a classic group.
    pub(super) fn phase(&self) -> Phase {
        self.live.map_or(Phase::Empty, Group::phase)
    }

    /// None for a group that never had members.
    pub(super) fn protocol_type(&self) -> Option<&Name> {
        let stored = || self.stored.and_then(|s| s.metadata.as_ref()).map(|m| &m.protocol_type);
        self.live.map_or_else(stored, |group| group.protocol_type.as_ref()).filter(|t| !t.is_empty())
    }

    fn is_consumers(&self) -> bool {
        self.modern().is_some() || self.protocol_type().is_some_and(|t| &**t == super::group::CONSUMER)
    }

    /// Whether a member reads the topic, as far as the coordinator can know: a consumer whose metadata it does not understand may.
    fn subscribes(&self, topic: &Name) -> bool {
        if let Some(group) = self.modern() {
            return group.is_subscribed_to(topic);
        }
        match self.live {
            None => false,
            Some(group) => group.subscribed_topics().map_or(self.is_consumers(), |topics| topics.contains(topic)),
        }
    }

    /// Takes an OffsetCommit request.
    pub(super) fn commit(&self, commit: Commit, fx: &mut Effects) -> Reply {
        // Topics that this core has yet to hear of: it will, soon.
        if commit.version > fx.topics.version() && commit.offsets.iter().any(|o| !fx.topics.has(&o.topic, o.topic_id, o.partition)) {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        let guard = match self.modern() {
            Some(group) => modern::commit::may_commit(group, &commit.member, commit.knows_group_id_not_found)?,
            None => self.may_commit(&commit).map(|()| None)?,
        };
        let expire_ms = commit.retention_ms.map(|ms| fx.now.wall_ms.saturating_add(ms));
        let first = fx.records.len();
        let mut codes = Vec::with_capacity(commit.offsets.len());
        for offset in commit.offsets {
            // Deleted since the request came in. Its offset would be taken for one in the next
            // topic of that name.
            if !fx.topics.has(&offset.topic, offset.topic_id, offset.partition) {
                codes.push(ErrorCode::UnknownTopicOrPartition);
                continue;
            }
            if let Some(guard) = &guard
                && let Err(code) = guard.check(offset.topic_id, offset.partition)
            {
                codes.push(code);
                continue;
            }
            // Kafka counts characters of UTF-16.
            if offset.metadata.encode_utf16().count() > fx.config.metadata_max_bytes {
                codes.push(ErrorCode::OffsetMetadataTooLarge);
                continue;
            }
            codes.push(ErrorCode::None);
            let record = self.offset_record(offset, fx.now.wall_ms, expire_ms);
            fx.records.push(record);
        }
        if !fx.all_fit() {
            fx.records.truncate(first);
            return Err(ErrorCode::UnknownServerError);
        }
        Ok(Answer::Codes(codes))
    }

    fn offset_record(&self, commit: CommitOffset, commit_ms: i64, expire_ms: Option<i64>) -> Record {
        let CommitOffset { topic, topic_id, partition, offset, leader_epoch, metadata } = commit;
        // The format of offsets that expire has neither.
        let (topic_id, leader_epoch) = if expire_ms.is_some() { (TopicId::ZERO, -1) } else { (topic_id, leader_epoch) };
        let value = CommittedOffset { offset, leader_epoch, metadata, commit_ms, expire_ms, topic_id };
        Record::Offset { group: self.id.clone(), topic, partition, value: Some(value) }
    }

    fn may_commit(&self, commit: &Commit) -> Result<(), ErrorCode> {
        let Membership { member_id, instance_id, generation } = &commit.member;
        if !self.exists() && *generation >= 0 {
            return Err(if commit.knows_group_id_not_found { ErrorCode::GroupIdNotFound } else { ErrorCode::IllegalGeneration });
        }
        let empty = self.phase() == Phase::Empty;
        if *generation < 0 && empty {
            // Somebody without a group protocol, or an administrator.
            return Ok(());
        }
        if *generation >= 0 || !member_id.is_empty() || instance_id.is_some() {
            let group = self.live.ok_or(ErrorCode::UnknownMemberId)?;
            group.validate_member(member_id, instance_id.as_ref())?;
            if *generation != group.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if !empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        if self.phase() == Phase::CompletingRebalance { Err(ErrorCode::RebalanceInProgress) } else { Ok(()) }
    }

    /// Takes an OffsetFetch request. A group that does not exist has committed nothing.
    pub(super) fn fetch(&self, fetch: &FetchOffsets, known: &dyn Topics) -> Reply {
        if let (Some(group), Some(member)) = (self.modern(), &fetch.member) {
            modern::commit::may_fetch(group, member)?;
        }
        let none = Offsets::default();
        let offsets = self.stored.map_or(&none, |stored| &stored.offsets);
        let fetched = |partition: i32, found: Option<&CommittedOffset>| FetchedOffset {
            partition,
            offset: found.map_or(-1, |o| o.offset),
            leader_epoch: found.map_or(-1, |o| o.leader_epoch),
            metadata: found.map(|o| o.metadata.clone()).unwrap_or_default(),
        };
        let topics = match &fetch.topics {
            Some(topics) => {
                let one = |wanted: &FetchTopic| {
                    let id = wanted_id(wanted, fetch.version, known);
                    let found = |p: i32| offsets.get(&wanted.topic, p).filter(|offset| offset.is_of(id));
                    let partitions = wanted.partitions.iter().map(|p| fetched(*p, found(*p))).collect();
                    TopicOffsets { topic: wanted.topic.clone(), topic_id: id, partitions }
                };
                topics.iter().map(one).collect()
            }
            None => {
                let one = |(topic, partitions): (&Name, &BTreeMap<i32, CommittedOffset>)| {
                    let id = known.by_name(topic).map_or(TopicId::ZERO, |(id, _)| id);
                    let partitions = partitions.iter().filter(|(_, offset)| offset.is_of(id));
                    let partitions: Vec<_> = partitions.map(|(p, offset)| fetched(*p, Some(offset))).collect();
                    (!partitions.is_empty()).then(|| TopicOffsets { topic: topic.clone(), topic_id: id, partitions })
                };
                offsets.topics.iter().filter_map(one).collect()
            }
        };
        Ok(Answer::Offsets(topics))
    }

    /// Takes an OffsetDelete request.
    pub(super) fn delete_offsets(&self, wanted: &[(Name, TopicId, i32)], fx: &mut Effects) -> Reply {
        if !self.exists() {
            return Err(ErrorCode::GroupIdNotFound);
        }
        if !self.is_empty() && !self.is_consumers() {
            return Err(ErrorCode::NonEmptyGroup);
        }
        fx.divisible = true;
        let (mut codes, mut deleted) = (Vec::with_capacity(wanted.len()), BTreeSet::new());
        for (topic, id, partition) in wanted {
            if self.subscribes(topic) {
                codes.push(ErrorCode::GroupSubscribedToTopic);
                continue;
            }
            codes.push(ErrorCode::None);
            let stored = self.stored.and_then(|s| s.offsets.get(topic, *partition));
            // A request may name one many times.
            if stored.is_some_and(|offset| offset.is_of(*id)) && deleted.insert((topic, partition)) {
                fx.records.push(self.tombstone(topic, *partition));
            }
        }
        Ok(Answer::Codes(codes))
    }

    fn tombstone(&self, topic: &Name, partition: i32) -> Record {
        Record::Offset { group: self.id.clone(), topic: topic.clone(), partition, value: None }
    }

    /// Tombstones for everything that is stored.
    pub(super) fn tombstones(&self, fx: &mut Effects) {
        let Some(stored) = self.stored else { return };
        fx.records.extend(stored.offsets.iter().map(|(topic, partition, _)| self.tombstone(topic, partition)));
        if stored.metadata.is_some() {
            fx.records.push(Record::Group { group: self.id.clone(), value: None });
        }
        let modern = stored.modern.iter().flat_map(|group| group.tombstones());
        fx.records.extend(modern.map(|change| Record::modern(self.id, change)));
        // The last ones: until they are there the group is fenced.
        fx.records.extend(stored.unreadable.tombstones.values().cloned());
    }

    /// Tombstones for the offsets of which `gone` says so: their topics do not exist any more. The
    /// others of unknown topics get the id of the one that has the name.
    pub(super) fn forget_topics(&self, gone: &dyn Fn(&Name, TopicId) -> bool, fx: &mut Effects) {
        let Some(stored) = self.stored.filter(|stored| !stored.is_fenced()) else { return };
        for (topic, partition, offset) in stored.offsets.iter() {
            if gone(topic, offset.topic_id) {
                fx.records.push(self.tombstone(topic, partition));
            } else if offset.topic_id.is_zero()
                && offset.expire_ms.is_none()
                && let Some((topic_id, _)) = fx.topics.by_name(topic)
            {
                let value = Some(CommittedOffset { topic_id, ..offset.clone() });
                fx.records.push(Record::Offset { group: self.id.clone(), topic: topic.clone(), partition, value });
            }
        }
    }

    /// Tombstones for what has expired; for the group as well, when it has no members and nothing is left.
    pub(super) fn expire(&self, fx: &mut Effects) {
        let Some(stored) = self.stored.filter(|stored| !stored.is_fenced()) else { return };
        let Some(since_empty) = self.expires_since(stored) else { return };
        let mut left = false;
        for (topic, partition, offset) in stored.offsets.iter() {
            let base = since_empty.unwrap_or(offset.commit_ms);
            if !self.subscribes(topic) && is_expired(offset, base, fx.now.wall_ms, fx.config) {
                fx.records.push(self.tombstone(topic, partition));
            } else {
                left = true;
            }
        }
        if !left && self.live.is_none() && stored.metadata.is_some() {
            fx.records.push(Record::Group { group: self.id.clone(), value: None });
        }
        if let Some(group) = stored.modern.as_ref().filter(|group| !left && group.members().is_empty()) {
            fx.seen.remove(self.id);
            fx.records.extend(group.tombstones().into_iter().map(|change| Record::modern(self.id, change)));
        }
    }

    /// From when on offsets of this group age: `None`: they do not; else since that time or, without one, since each was committed.
    fn expires_since(&self, stored: &Stored) -> Option<Option<i64>> {
        if stored.modern.is_some() {
            return Some(None);
        }
        match (self.protocol_type(), self.phase()) {
            (None, _) => Some(None),
            (Some(_), Phase::Empty) => Some(stored.metadata.as_ref().map(|m| m.state_ms).filter(|ms| *ms >= 0)),
            (Some(_), Phase::Stable) if self.live.is_some_and(|g| g.subscribed_topics().is_some()) => Some(None),
            _ => None,
        }
    }
}

/// The id of the topic that a request means: of a name that of the newer metadata, the request's or
/// ours.
fn wanted_id(wanted: &FetchTopic, version: Option<i64>, known: &dyn Topics) -> TopicId {
    match version {
        Some(version) if version < known.version() => known.by_name(&wanted.topic).map_or(wanted.topic_id, |(id, _)| id),
        _ => wanted.topic_id,
    }
}

fn is_expired(offset: &CommittedOffset, base_ms: i64, now_ms: i64, config: &GroupConfig) -> bool {
    match offset.expire_ms {
        Some(at) => now_ms >= at,
        None => now_ms.saturating_sub(base_ms) >= config.retention_ms,
    }
}
