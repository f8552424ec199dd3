//! A consumer group of the new protocol (KIP-848) as the records of its log add up to it. [`Group::apply`] is the only way to change one, live
//! and at replay alike; what is decided stands in [`super::heartbeat`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::Seen;
use super::member::{CurrentAssignment, Member, MemberId, MemberMetadata, Owned, Partitions};
use super::record::Change;
use crate::base::ids::TopicId;
use crate::coord::ledger::{Ledger, entry_bytes, map_bytes, text_bytes};
use crate::coord::timers::TIMER_BYTES;

/// Memory of a group besides its members.
const OWN_BYTES: usize = size_of::<Group>() + entry_bytes::<MemberId, Seen>();
/// Memory of a group with its first member, besides what is counted with that.
pub(super) const GROUP_BYTES: usize = OWN_BYTES
    + map_bytes::<MemberId, Box<Member>>()
    + map_bytes::<MemberId, Partitions>()
    + map_bytes::<String, Resolved>()
    + map_bytes::<(TopicId, i32), MemberId>()
    + map_bytes::<String, MemberId>()
    + 3 * map_bytes::<String, usize>();
/// Memory of a member besides its texts and partitions.
const MEMBER_BYTES: usize = entry_bytes::<MemberId, Box<Member>>() + size_of::<Member>() + TIMER_BYTES + 64;
/// Memory of a topic of which a member has partitions.
const HELD_TOPIC_BYTES: usize = entry_bytes::<TopicId, BTreeMap<i32, i32>>() + map_bytes::<i32, i32>();
/// Memory of a partition that a member has, with its part of the map by partition.
const HELD_BYTES: usize = entry_bytes::<i32, i32>() + entry_bytes::<(TopicId, i32), MemberId>();
/// Memory of a target assignment without partitions.
const TARGET_BYTES: usize = entry_bytes::<MemberId, Partitions>() + map_bytes::<TopicId, BTreeSet<i32>>();
/// Memory of a topic and of a partition in it.
const TARGET_TOPIC_BYTES: usize = entry_bytes::<TopicId, BTreeSet<i32>>() + map_bytes::<i32, ()>();
const TARGET_PARTITION_BYTES: usize = entry_bytes::<i32, ()>();

/// State of a group as tools show it; the protocol never looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Without members.
    Empty,
    /// Its newest epoch has no target assignment yet.
    Assigning,
    /// Not every member has what the target says.
    Reconciling,
    /// Every member has what the target says.
    Stable,
}

impl GroupState {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::Assigning => "Assigning",
            GroupState::Reconciling => "Reconciling",
            GroupState::Stable => "Stable",
        }
    }
}

/// Topics that matched a pattern when it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Names.
    pub topics: BTreeSet<String>,
    /// [`super::topics::Topics::version`] of that moment.
    pub version: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// One group. The fields of the second half follow from those of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    epoch: i32,
    metadata_hash: i64,
    target_epoch: i32,
    target_timestamp_ms: i64,
    members: BTreeMap<MemberId, Box<Member>>,
    targets: BTreeMap<MemberId, Partitions>,
    regexes: BTreeMap<String, Resolved>,
    has_partition_metadata: bool,

    holders: BTreeMap<(TopicId, i32), MemberId>,
    static_members: BTreeMap<String, MemberId>,
    named: Counts,
    patterns: Counts,
    assignors: Counts,
    classic_members: Ledger,
    bytes: Ledger,
}

/// A group's epochs before anything happened.
const FIRST_EPOCH: i32 = 1;

impl Default for Group {
    fn default() -> Self {
        Group {
            epoch: FIRST_EPOCH,
            metadata_hash: 0,
            target_epoch: FIRST_EPOCH,
            target_timestamp_ms: 0,
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            regexes: BTreeMap::new(),
            has_partition_metadata: false,
            holders: BTreeMap::new(),
            static_members: BTreeMap::new(),
            named: Counts::default(),
            patterns: Counts::default(),
            assignors: Counts::default(),
            classic_members: Ledger::default(),
            bytes: Ledger::default(),
        }
    }
}

impl Group {
    /// Grows whenever a new target assignment is needed.
    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// See [`super::topics::metadata_hash`].
    pub fn metadata_hash(&self) -> i64 {
        self.metadata_hash
    }

    /// The group epoch that the target assignment was made for.
    pub fn target_epoch(&self) -> i32 {
        self.target_epoch
    }

    /// When the target assignment was made, milliseconds since 1970; 0 where the log does not say.
    pub fn target_timestamp_ms(&self) -> i64 {
        self.target_timestamp_ms
    }

    /// The members by id.
    pub fn members(&self) -> &BTreeMap<MemberId, Box<Member>> {
        &self.members
    }

    /// What each member is to have.
    pub fn targets(&self) -> &BTreeMap<MemberId, Partitions> {
        &self.targets
    }

    /// Patterns with the topics that match them.
    pub fn regexes(&self) -> &BTreeMap<String, Resolved> {
        &self.regexes
    }

    /// Whether the log holds a record of a kind that Kafka 4.0 wrote and nobody needs any more.
    pub fn has_partition_metadata(&self) -> bool {
        self.has_partition_metadata
    }

    /// The member that has, or has yet to give up, a partition.
    pub fn holder(&self, topic: TopicId, partition: i32) -> Option<&MemberId> {
        self.holders.get(&(topic, partition))
    }

    /// The member with a `group.instance.id`.
    pub fn static_member(&self, instance_id: &str) -> Option<(&MemberId, &Member)> {
        self.find(self.static_members.get(instance_id)?)
    }

    /// The member with an id.
    pub fn find(&self, id: &str) -> Option<(&MemberId, &Member)> {
        self.members.get_key_value(id).map(|(id, member)| (id, &**member))
    }

    /// How many members subscribe to each name.
    pub fn named(&self) -> &Counts {
        &self.named
    }

    /// How many members subscribe to each pattern.
    pub fn patterns(&self) -> &Counts {
        &self.patterns
    }

    /// How many members want each assignor.
    pub fn assignors(&self) -> &Counts {
        &self.assignors
    }

    /// How many members use the classic protocol.
    pub fn classic_members(&self) -> usize {
        self.classic_members.get()
    }

    /// Memory that the group takes, about.
    pub fn bytes(&self) -> usize {
        let maps = [
            first_node(&self.members),
            first_node(&self.targets),
            first_node(&self.regexes),
            first_node(&self.holders),
            first_node(&self.static_members),
            first_node(&self.named.0),
            first_node(&self.patterns.0),
            first_node(&self.assignors.0),
        ];
        self.bytes.get().wrapping_add(OWN_BYTES + maps.iter().sum::<usize>())
    }

    /// Whether a ledger of it is wrong beyond doubt.
    pub fn is_miscounted(&self) -> bool {
        self.bytes.is_absurd() || self.classic_members.is_absurd()
    }

    #[cfg(test)]
    pub(in crate::coord) fn miscount(&mut self, bytes: usize) {
        self.bytes.sub(bytes);
    }

    /// Whether a member subscribes to a topic, by name or by pattern.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.named.get(topic) > 0 || self.regexes.values().any(|resolved| resolved.topics.contains(topic))
    }

    /// The state that tools show.
    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch > self.target_epoch {
            GroupState::Assigning
        } else if self.members.values().all(|member| member.current.is_reconciled_to(self.target_epoch)) {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    /// Takes in one record. It refuses nothing: a compacted log, or one of another broker, may hold records in an order of its own.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Epoch(Some(value)) => (self.epoch, self.metadata_hash) = (value.epoch, value.metadata_hash),
            // Ends the group; the coordinator drops it.
            Change::Epoch(None) => (self.epoch, self.metadata_hash) = (FIRST_EPOCH, 0),
            Change::PartitionMetadata { present } => self.has_partition_metadata = *present,
            Change::Member(id, Some(metadata)) => {
                self.remove_metadata(id);
                self.member(id).metadata = metadata.clone();
                self.add_metadata(id, metadata);
            }
            Change::Member(id, None) => {
                self.set_current(id, None);
                self.remove_metadata(id);
                self.bytes.sub(self.members.remove(id).map_or(0, |_| member_bytes(id)));
            }
            Change::TargetEpoch(value) => {
                (self.target_epoch, self.target_timestamp_ms) = value.map_or((FIRST_EPOCH, 0), |value| (value.epoch, value.timestamp_ms))
            }
            Change::Target(id, target) => {
                let bytes = target.as_ref().map_or(0, |target| target_bytes(id, target));
                let former = match target {
                    Some(target) => self.targets.insert(id.clone(), target.clone()),
                    None => self.targets.remove(id),
                };
                self.bytes.replace(former.as_ref().map_or(0, |former| target_bytes(id, former)), bytes);
            }
            Change::Current(id, current) => self.set_current(id, current.as_ref()),
            Change::Regex(regex, resolved) => {
                let bytes = resolved.as_ref().map_or(0, |resolved| resolved_bytes(regex, resolved));
                let former = match resolved {
                    Some(resolved) => self.regexes.insert(regex.clone(), resolved.clone()),
                    None => self.regexes.remove(regex),
                };
                self.bytes.replace(former.as_ref().map_or(0, |former| resolved_bytes(regex, former)), bytes);
            }
        }
    }

    fn set_current(&mut self, id: &MemberId, current: Option<&CurrentAssignment>) {
        if current.is_none() && !self.members.contains_key(id) {
            return;
        }
        let former = std::mem::replace(&mut self.member(id).current, current.cloned().unwrap_or_default());
        self.bytes.replace(current_bytes(&former), current.map_or(0, current_bytes));
        let id = self.members.get_key_value(id).map_or(id, |(id, _)| id);
        for partition in former.holds() {
            if self.holders.get(&partition) == Some(id) {
                self.holders.remove(&partition);
            }
        }
        for partition in current.iter().flat_map(|current| current.holds()) {
            self.holders.insert(partition, id.clone());
        }
    }

    fn member(&mut self, id: &MemberId) -> &mut Member {
        self.members.entry(id.clone()).or_insert_with(|| {
            self.bytes.add(member_bytes(id));
            Box::default()
        })
    }

    fn add_metadata(&mut self, id: &MemberId, metadata: &MemberMetadata) {
        if let Some(instance_id) = &metadata.instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
        metadata.topic_names.iter().for_each(|name| self.named.add(name));
        metadata.regex().iter().for_each(|regex| self.patterns.add(regex));
        metadata.server_assignor.iter().for_each(|assignor| self.assignors.add(assignor));
        self.classic_members.add(usize::from(metadata.classic.is_some()));
        self.bytes.add(metadata.bytes());
    }

    /// Takes what [`Group::add_metadata`] added for a member back.
    fn remove_metadata(&mut self, id: &MemberId) {
        let Some(metadata) = self.members.get(id).map(|member| &member.metadata) else { return };
        if let Some(instance_id) = &metadata.instance_id
            && self.static_members.get(instance_id) == Some(id)
        {
            self.static_members.remove(instance_id);
        }
        metadata.topic_names.iter().for_each(|name| self.named.remove(name));
        metadata.regex().iter().for_each(|regex| self.patterns.remove(regex));
        metadata.server_assignor.iter().for_each(|assignor| self.assignors.remove(assignor));
        self.classic_members.sub(usize::from(metadata.classic.is_some()));
        self.bytes.sub(metadata.bytes());
    }

    /// Records that lead from nothing to this group, in an order that Kafka takes too.
    pub fn snapshot(&self) -> Vec<Change> {
        let mut changes: Vec<Change> =
            self.members.iter().map(|(id, member)| Change::Member(id.clone(), Some(member.metadata.clone()))).collect();
        changes.extend(self.regexes.iter().map(|(regex, resolved)| Change::Regex(regex.clone(), Some(resolved.clone()))));
        changes.push(Change::epoch(self.epoch, self.metadata_hash));
        changes.extend(self.targets.iter().map(|(id, target)| Change::Target(id.clone(), Some(target.clone()))));
        changes.push(Change::target_epoch(self.target_epoch, self.target_timestamp_ms));
        changes.extend(self.members.iter().map(|(id, member)| Change::Current(id.clone(), Some(member.current.clone()))));
        changes
    }

    /// Records that remove everything of the group from the log.
    pub fn tombstones(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = self.members.keys().map(|id| Change::Current(id.clone(), None)).collect();
        changes.extend(self.targets.keys().map(|id| Change::Target(id.clone(), None)));
        changes.push(Change::TargetEpoch(None));
        changes.extend(self.members.keys().map(|id| Change::Member(id.clone(), None)));
        changes.extend(self.regexes.keys().map(|regex| Change::Regex(regex.clone(), None)));
        if self.has_partition_metadata {
            changes.push(Change::PartitionMetadata { present: false });
        }
        changes.push(Change::Epoch(None));
        changes
    }

    /// Panics if the group contradicts itself; for tests and the simulator.
    pub fn check(&self) {
        let mut rebuilt = Group { has_partition_metadata: self.has_partition_metadata, ..Group::default() };
        self.snapshot().iter().for_each(|change| rebuilt.apply(change));
        assert_eq!(rebuilt, *self, "what follows from the members");
        let held: usize = self.members.values().map(|member| member.current.holds().count()).sum();
        assert_eq!(held, self.holders.len(), "a partition is held twice: {self:?}");
        for (id, member) in &self.members {
            let pending = !member.current.pending_revocation.is_empty();
            assert!(!pending || member.current.state == super::member::MemberState::UnrevokedPartitions, "{id}: {member:?}");
            assert!(member.current.epoch <= self.epoch, "{id} is ahead of its group");
        }
        assert!(self.target_epoch <= self.epoch);
        let mut targeted = BTreeSet::new();
        for (topic, partition) in self.targets.values().flatten().flat_map(|(topic, set)| set.iter().map(move |p| (*topic, *p))) {
            assert!(targeted.insert((topic, partition)), "{topic}-{partition} is the target of two members");
        }
    }
}

fn first_node<K, V>(map: &BTreeMap<K, V>) -> usize {
    if map.is_empty() { 0 } else { map_bytes::<K, V>() }
}

fn member_bytes(id: &str) -> usize {
    MEMBER_BYTES + text_bytes(id)
}

fn target_bytes(id: &str, target: &Partitions) -> usize {
    let topic = |partitions: &BTreeSet<i32>| TARGET_TOPIC_BYTES + TARGET_PARTITION_BYTES * partitions.len();
    TARGET_BYTES + text_bytes(id) + target.values().map(topic).sum::<usize>()
}

fn current_bytes(current: &CurrentAssignment) -> usize {
    let topic = |partitions: &BTreeMap<i32, i32>| HELD_TOPIC_BYTES + HELD_BYTES * partitions.len();
    let owned = |owned: &Owned| first_node(owned) + owned.values().map(topic).sum::<usize>();
    // Who has to give up partitions has a deadline for it.
    let deadline = if current.pending_revocation.is_empty() { 0 } else { TIMER_BYTES };
    owned(&current.assigned) + owned(&current.pending_revocation) + deadline
}

fn resolved_bytes(regex: &str, resolved: &Resolved) -> usize {
    let topic = |topic: &String| entry_bytes::<String, ()>() + text_bytes(topic);
    let own = entry_bytes::<String, Resolved>() + text_bytes(regex) + map_bytes::<String, ()>();
    own + resolved.topics.iter().map(topic).sum::<usize>()
}

impl Group {
    /// By how much the group's memory grows with these changes, at most.
    pub(in crate::coord) fn growth(&self, changes: &[Change]) -> usize {
        let (mut grown, mut freed) = (0, 0);
        for change in changes {
            let (after, before) = match change {
                Change::Member(id, Some(metadata)) => {
                    let former = self.members.get(id).map_or(0, |m| member_bytes(id) + m.metadata.bytes());
                    (member_bytes(id) + metadata.bytes(), former)
                }
                Change::Target(id, Some(target)) => {
                    let former = self.targets.get(id).map_or(0, |former| target_bytes(id, former));
                    (target_bytes(id, target), former)
                }
                Change::Current(id, Some(current)) => {
                    (current_bytes(current), self.members.get(id).map_or(0, |m| current_bytes(&m.current)))
                }
                Change::Regex(regex, Some(resolved)) => {
                    let former = self.regexes.get(regex).map_or(0, |former| resolved_bytes(regex, former));
                    (resolved_bytes(regex, resolved), former)
                }
                _ => continue,
            };
            grown += after;
            freed += before;
        }
        usize::saturating_sub(grown, freed)
    }
}

/// Takes a record into a group that may not be there yet, or no longer.
pub fn apply(group: &mut Option<Box<Group>>, change: &Change) {
    match change {
        Change::Epoch(None) => *group = None,
        change if change.is_tombstone() => group.iter_mut().for_each(|group| group.apply(change)),
        change => group.get_or_insert_default().apply(change),
    }
}

/// How often each text occurs among the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, usize>);

impl Counts {
    /// How often.
    pub fn get(&self, text: &str) -> usize {
        self.0.get(text).copied().unwrap_or(0)
    }

    /// Those that occur.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Those that occur from `first` on, in their order.
    pub fn keys_from(&self, first: &str) -> impl Iterator<Item = &str> {
        self.0.range::<str, _>((Bound::Included(first), Bound::Unbounded)).map(|(text, _)| text.as_str())
    }

    fn add(&mut self, text: &str) {
        match self.0.get_mut(text) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(text.to_owned(), 1)),
        }
    }

    fn remove(&mut self, text: &str) {
        match self.0.get_mut(text) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.0.remove(text)),
        }
    }
}
