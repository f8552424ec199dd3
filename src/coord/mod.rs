//! The group coordinator of one partition of `__consumer_offsets`.
//!
//! Two kinds of state, kept apart: [`State`] is what the partition's records add up to and changes by [`State::apply`] alone, live and at
//! replay; [`Live`] is what a restart forgets: who waits for an answer, who is joining, when who was heard of. [`Coordinator::decide`] sees the
//! first by reference only. Its records are to be appended and then applied before the next decision; its replies leave when everything that
//! was appended before is durable. What cannot be appended ends the coordinator: it is dropped, and loaded again from the log.

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod golden_tests;
pub mod group;
pub mod ledger;
#[cfg(test)]
mod memory_tests;
pub mod modern;
pub mod names;
pub mod offsets;
pub mod op;
mod rebalance;
pub mod record;
pub mod replay;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod timers;
#[cfg(test)]
mod topic_tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::config::{GroupConfig, GroupOverrides};
use crate::base::error::ErrorCode;
use crate::base::ids::{Offset, TopicId};
use crate::base::time::Now;
use group::{Group, GroupMetadata, Phase};
use ledger::{Ledger, entry_bytes, text_bytes};
use modern::topics::Topics;
use offsets::{Offsets, View};
use op::{Answer, DescribedMember, Description, Join, Joined, Listed, Op, Reply, Token};
use record::Record;
use timers::{TimerKey, Timers};

/// A group's, member's or topic's name.
pub type Name = Arc<str>;

/// The topic that coordinators keep their state in.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The partition of [`OFFSETS_TOPIC`] whose coordinator looks after a group: Java's string hash, without its sign, modulo the count.
pub fn partition_for(group: &str, partitions: usize) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    let hash = if hash == i32::MIN { 0 } else { hash.abs() };
    (hash as usize % partitions.max(1)) as i32
}

/// What a decision depends on besides the coordinator's state.
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// The settings.
    pub config: &'a GroupConfig,
    /// Random bytes for an id.
    pub random: &'a mut dyn FnMut() -> [u8; 16],
    /// By how many bytes the coordinators' memory may still grow.
    pub spare_bytes: usize,
    /// Most bytes of one batch of records (`max.message.bytes` of the topic).
    pub max_batch_bytes: usize,
    /// The cluster's topics.
    pub topics: &'a dyn Topics,
    /// The settings of single groups.
    pub overrides: &'a dyn Overrides,
}

/// The settings of single groups.
pub trait Overrides {
    /// What a group has in place of the coordinator's settings.
    fn of(&self, group: &str) -> GroupOverrides;
}

/// Records to append and apply, and replies to send once they are durable.
#[derive(Debug, Default)]
pub struct Decision {
    /// To be appended, see [`replay::batches`], then applied.
    pub records: Vec<Record>,
    /// A crash may leave any number of the first records without the others: they may be in several
    /// batches.
    pub divisible: bool,
    /// To be sent when these records, and all before them, are durable.
    pub replies: Vec<(Token, Reply)>,
}

/// What a group's machine works with, and leaves behind.
pub(crate) struct Effects<'a> {
    now: Now,
    config: &'a GroupConfig,
    random: &'a mut dyn FnMut() -> [u8; 16],
    max_batch_bytes: usize,
    topics: &'a dyn Topics,
    overrides: &'a dyn Overrides,
    seen: &'a mut BTreeMap<Name, modern::Seen>,
    timers: &'a mut Timers,
    records: Vec<Record>,
    divisible: bool,
    replies: Vec<(Token, Reply)>,
}

/// Groups and offsets that are looked at for expiry in one decision; one group is looked at whole.
const EXPIRY_LOOKS: usize = 500;

/// Bytes of a batch and of a record around keys and values, at most.
const BATCH_OVERHEAD: usize = 64;
const RECORD_OVERHEAD: usize = 32;

impl Effects<'_> {
    fn reply(&mut self, token: Token, reply: Reply) {
        self.replies.push((token, reply));
    }

    fn joined(&mut self, token: Token, joined: Joined) {
        self.reply(token, Ok(Answer::Joined(joined)));
    }

    /// Whether a record can be appended.
    fn fits(&self, record: &Record) -> bool {
        encoded_len(record) + BATCH_OVERHEAD <= self.max_batch_bytes
    }

    /// Whether all records of the decision can be appended as one batch.
    fn all_fit(&self) -> bool {
        self.records.is_empty() || self.records.iter().map(encoded_len).sum::<usize>() + BATCH_OVERHEAD <= self.max_batch_bytes
    }
}

fn encoded_len(record: &Record) -> usize {
    let (key, value) = record.encode();
    RECORD_OVERHEAD + key.len() + value.map_or(0, |v| v.len())
}

/// What the log has of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The last generation of a classic group; none for a group of which only offsets are known.
    pub metadata: Option<GroupMetadata>,
    /// A group of the new protocol; such a group is not a classic one too.
    pub modern: Option<Box<modern::group::Group>>,
    /// Committed offsets.
    pub offsets: Offsets,
    unreadable: Unreadable,
}

/// By key: tombstones of the records whose values could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Unreadable {
    tombstones: BTreeMap<Vec<u8>, Record>,
    bytes: Ledger,
}

/// Memory of an unreadable record besides its key.
const UNREADABLE_BYTES: usize = entry_bytes::<Vec<u8>, Record>() + size_of::<modern::record::Change>() + 128;
/// Memory of a group besides its id and its content.
const GROUP_BYTES: usize = entry_bytes::<Name, Stored>();

/// Memory of a group besides its content.
fn group_bytes(id: &str) -> usize {
    GROUP_BYTES + text_bytes(id)
}

impl Unreadable {
    fn is_empty(&self) -> bool {
        self.tombstones.is_empty()
    }

    fn cost(key: &[u8]) -> usize {
        UNREADABLE_BYTES + 3 * key.len()
    }

    fn insert(&mut self, tombstone: &Record) {
        let key = tombstone.encode().0;
        let cost = Unreadable::cost(&key);
        if self.tombstones.insert(key, tombstone.clone()).is_none() {
            self.bytes.add(cost);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if self.tombstones.remove(key).is_some() {
            self.bytes.sub(Unreadable::cost(key));
        }
    }
}

impl Stored {
    /// Memory of the part that a record of this kind changes.
    fn bytes_of(&self, record: &Record) -> usize {
        match record {
            Record::Offset { .. } => self.offsets.ledger().get(),
            Record::Group { .. } => self.metadata.as_ref().map_or(0, GroupMetadata::bytes),
            Record::Modern { .. } => self.modern.as_deref().map_or(0, modern::group::Group::bytes),
        }
    }

    fn bytes(&self) -> usize {
        let mut sum = Ledger::new(self.metadata.as_ref().map_or(0, GroupMetadata::bytes));
        sum.add(self.modern.as_deref().map_or(0, modern::group::Group::bytes));
        sum.add(self.offsets.ledger().get());
        sum.add(self.unreadable.bytes.get());
        sum.get()
    }

    /// Whether a ledger of it is wrong beyond doubt.
    fn is_miscounted(&self) -> bool {
        let modern = self.modern.as_ref().is_some_and(|group| group.is_miscounted());
        modern || self.offsets.ledger().is_absurd() || self.unreadable.bytes.is_absurd()
    }

    fn is_empty(&self) -> bool {
        self.metadata.is_none() && self.modern.is_none() && self.offsets.is_empty() && self.unreadable.is_empty()
    }

    /// A part of it cannot be read, or it is of both types: it can be deleted, and nothing else.
    pub fn is_fenced(&self) -> bool {
        !self.unreadable.is_empty() || self.metadata.is_some() && self.modern.is_some()
    }
}

/// What the records of the partition add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    groups: BTreeMap<Name, Stored>,
    bytes: Ledger,
}

impl State {
    /// A group.
    pub fn group(&self, id: &str) -> Option<&Stored> {
        self.groups.get(id)
    }

    /// All groups by id.
    pub fn groups(&self) -> &BTreeMap<Name, Stored> {
        &self.groups
    }

    /// Takes in one record: the only way to change the state.
    pub fn apply(&mut self, record: &Record) {
        let id = record.group();
        let stored = self.entry(id);
        let mut before = stored.bytes_of(record);
        match record {
            Record::Offset { topic, partition, value, .. } => stored.offsets.put(topic, *partition, value.as_ref()),
            Record::Group { value, .. } => stored.metadata = value.clone(),
            Record::Modern { change, .. } => modern::group::apply(&mut stored.modern, change),
        }
        let mut after = stored.bytes_of(record);
        if !stored.unreadable.is_empty() {
            before = before.wrapping_add(stored.unreadable.bytes.get());
            stored.unreadable.remove(&record.encode().0);
            after = after.wrapping_add(stored.unreadable.bytes.get());
        }
        let is_empty = stored.is_empty();
        self.bytes.replace(before, after);
        if is_empty {
            self.groups.remove(id);
            self.bytes.sub(group_bytes(id));
        }
    }

    fn entry(&mut self, id: &Name) -> &mut Stored {
        match self.groups.entry(id.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.bytes.add(group_bytes(id));
                new.insert(Stored::default())
            }
        }
    }

    /// Takes note of a record at replay whose value cannot be read, by the tombstone of its key:
    /// the group is fenced until that key has another record.
    fn apply_unreadable(&mut self, tombstone: &Record) {
        let stored = self.entry(tombstone.group());
        let before = stored.unreadable.bytes.get();
        stored.unreadable.insert(tombstone);
        let after = stored.unreadable.bytes.get();
        self.bytes.replace(before, after);
    }
}

/// What a restart forgets.
#[derive(Debug, Default)]
pub struct Live {
    groups: BTreeMap<Name, Group>,
    /// What groups of the new protocol have taken notice of.
    seen: BTreeMap<Name, modern::Seen>,
    timers: Timers,
    /// The group that the expiry of offsets goes on with; none: it begins with the first.
    expire_from: Option<Name>,
    bytes: Ledger,
}

/// One partition's coordinator.
#[derive(Debug, Default)]
pub struct Coordinator {
    state: State,
    live: Live,
    /// Offset behind the last record that was applied.
    applied: Offset,
}

impl Coordinator {
    /// What the log has.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The machine of a group that has members or is about to.
    pub fn live(&self, id: &str) -> Option<&Group> {
        self.live.groups.get(id)
    }

    /// See [`State::apply`].
    pub fn apply(&mut self, record: &Record) {
        self.state.apply(record);
    }

    /// Takes in what the log holds.
    pub fn replay(&mut self, replayed: &replay::Replayed) {
        match replayed {
            replay::Replayed::Record(record) => self.state.apply(record),
            replay::Replayed::Unreadable(tombstone) => self.state.apply_unreadable(tombstone),
        }
    }

    /// Groups of which a part cannot be read.
    pub fn fenced(&self) -> impl Iterator<Item = &Name> {
        self.state.groups.iter().filter(|(_, stored)| stored.is_fenced()).map(|(id, _)| id)
    }

    /// The cheap half of [`Coordinator::check`], for production: to be called when `records`, which
    /// end before offset `upto`, are applied. The error says what does not hold: the coordinator
    /// must not go on.
    pub fn verify(&mut self, records: &[Record], upto: Offset) -> Result<(), String> {
        if upto < self.applied || !records.is_empty() && upto == self.applied {
            return Err(format!("records before offset {upto} were applied after those before {}", self.applied));
        }
        self.applied = upto;
        if self.state.bytes.is_absurd() || self.live.bytes.is_absurd() {
            return Err("its memory is counted wrongly".into());
        }
        let mut last = None;
        for id in records.iter().map(Record::group) {
            if last.replace(id) == Some(id) {
                continue;
            }
            if self.live.groups.get(id).is_some_and(Group::is_miscounted) {
                return Err(format!("the members of the group {id} are counted wrongly"));
            }
            let Some(stored) = self.state.group(id) else { continue };
            if stored.is_miscounted() {
                return Err(format!("the memory of the group {id} is counted wrongly"));
            }
            if stored.modern.is_some() && (stored.metadata.is_some() || self.live.groups.contains_key(id)) {
                return Err(format!("the group {id} is of both types"));
            }
        }
        Ok(())
    }

    /// Memory that the coordinator takes, about.
    pub fn bytes(&self) -> usize {
        self.state.bytes.get().saturating_add(self.live.bytes.get())
    }

    /// When [`Coordinator::expire`] should be called; not later.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.live.timers.next()
    }

    /// The log is replayed: the members that it knows have their session from now on.
    pub fn loaded(&mut self, context: Context) -> Decision {
        let with_members = |s: &Stored| !s.is_fenced() && s.metadata.as_ref().is_some_and(|m| !m.members.is_empty());
        let ids: Vec<Name> = self.state.groups.iter().filter(|(_, s)| with_members(s)).map(|(id, _)| id.clone()).collect();
        let check_at = context.now.mono + group::millis(context.config.retention_check_ms);
        self.live.timers.set(TimerKey::Expiry, check_at);
        self.step(context, |step| {
            step.modern_loaded();
            for id in &ids {
                step.on_group(id, true, |group, fx| {
                    for member in group.members().keys() {
                        group.heard_of(member, fx);
                    }
                    if group.members().len() > fx.config.max_size {
                        group.prepare_rebalance(fx);
                    }
                });
            }
        })
    }

    /// Takes a request that concerns a group.
    pub fn decide(&mut self, context: Context, id: &Name, op: Op, token: Token) -> Decision {
        let spare = context.spare_bytes;
        // What is kept of the request shares the text that is there.
        let stored = self.state.groups.get_key_value(id).map(|(id, _)| id);
        let known = stored.or_else(|| self.live.groups.get_key_value(id).map(|(id, _)| id)).cloned();
        let id = known.as_ref().unwrap_or(id);
        self.step(context, |step| step.op(id, op, token, spare))
    }

    /// Does what has come due.
    pub fn expire(&mut self, context: Context) -> Decision {
        let now = context.now.mono;
        self.step(context, |step| {
            // Records have to be applied before the next decision on their group, so one group at a time.
            if let Some(key) = step.fx.timers.pop(now) {
                step.timer(key);
            }
        })
    }

    /// Topics are gone: so are the offsets in them. `gone` says of which name and id (zero: not
    /// known) that is so. The others whose topic was not known belong to the one that has the name
    /// now, from now on.
    pub fn forget_topics(&mut self, context: Context, gone: &dyn Fn(&Name, TopicId) -> bool) -> Decision {
        self.step(context, |step| {
            step.fx.divisible = true;
            let state = step.state;
            for (id, stored) in &state.groups {
                let first = step.fx.records.len();
                View { id, stored: Some(stored), live: step.groups.get(id) }.forget_topics(gone, &mut step.fx);
                step.keep_if_emptied(id, first);
            }
        })
    }

    /// Ends the coordinator: what everybody who waits is to be told.
    pub fn resign(&mut self, code: ErrorCode) -> Vec<(Token, Reply)> {
        let groups = std::mem::take(&mut self.live.groups);
        let members = groups.values().flat_map(|group| group.members().values());
        members.flat_map(|m| m.awaiting_join.into_iter().chain(m.awaiting_sync)).map(|token| (token, Err(code))).collect()
    }

    /// All groups, but for those that the filters leave out: states and types in lower case, empty for all.
    pub fn list(&self, states: &[String], types: &[String]) -> Vec<Listed> {
        let mut ids: Vec<&Name> = self.state.groups.keys().chain(self.live.groups.keys()).collect();
        ids.sort_unstable();
        ids.dedup();
        let wanted = |filter: &[String], name: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(name));
        let listed = ids.into_iter().map(|id| {
            let view = View { id, stored: self.state.group(id), live: self.live.groups.get(id) };
            let modern = view.modern().map(|_| group::CONSUMER.into());
            let protocol_type = modern.or_else(|| view.protocol_type().cloned()).unwrap_or_default();
            Listed { group: id.clone(), protocol_type, state: view.state_name(), kind: view.kind() }
        });
        listed.filter(|l| wanted(states, l.state) && wanted(types, l.kind)).collect()
    }

    fn step(&mut self, context: Context, work: impl FnOnce(&mut Step)) -> Decision {
        let Context { now, config, random, max_batch_bytes, topics, overrides, .. } = context;
        let Live { groups, seen, timers, expire_from, bytes } = &mut self.live;
        let fx = Effects {
            now,
            config,
            random,
            max_batch_bytes,
            topics,
            overrides,
            seen,
            timers,
            records: Vec::new(),
            divisible: false,
            replies: Vec::new(),
        };
        let mut step = Step { state: &self.state, groups, expire_from, bytes, fx };
        work(&mut step);
        Decision { records: step.fx.records, divisible: step.fx.divisible, replies: step.fx.replies }
    }

    /// Panics unless all invariants hold: to be called when the records of the last decision are applied.
    pub fn check(&self) {
        let timers = &self.live.timers;
        timers.check();
        for (id, group) in &self.live.groups {
            let kept = timers.contains(&TimerKey::Kept(id.clone()));
            assert!(!group.is_idle() || kept, "{id}: a group without members needs no machine");
            let stored = self.state.group(id).and_then(|s| s.metadata.as_ref());
            group.check(stored, |key| timers.contains(key));
        }
        for (id, stored) in &self.state.groups {
            assert!(!stored.is_empty(), "{id}: nothing is known of it");
            if stored.is_fenced() {
                assert!(!self.live.groups.contains_key(id), "{id}: fenced, but at work");
                continue;
            }
            if let Some(group) = &stored.modern {
                assert!(stored.metadata.is_none() && !self.live.groups.contains_key(id), "{id}: of both types");
                group.check();
                for member in group.members().keys() {
                    let key = TimerKey::Member(id.clone(), member.clone(), modern::TimerKind::Session);
                    assert!(timers.contains(&key), "{id}: {member} never times out");
                }
            }
            let members = stored.metadata.as_ref().is_some_and(|m| !m.members.is_empty());
            assert!(!members || self.live.groups.contains_key(id), "{id}: its members are not watched");
        }
        for stored in self.state.groups.values() {
            let unreadable = stored.unreadable.tombstones.keys().map(|key| Unreadable::cost(key));
            assert_eq!(stored.unreadable.bytes.get(), unreadable.sum::<usize>());
        }
        assert_eq!(self.live.bytes.get(), self.live.groups.values().map(Group::bytes).sum::<usize>());
        let stored = self.state.groups.iter().map(|(id, stored)| group_bytes(id) + stored.bytes());
        assert_eq!(self.state.bytes.get(), stored.sum::<usize>());
    }
}

/// One decision under way.
struct Step<'a> {
    state: &'a State,
    groups: &'a mut BTreeMap<Name, Group>,
    expire_from: &'a mut Option<Name>,
    bytes: &'a mut Ledger,
    fx: Effects<'a>,
}

impl Step<'_> {
    fn view<'s>(&'s self, id: &'s Name) -> View<'s> {
        View { id, stored: self.state.group(id), live: self.groups.get(id) }
    }

    fn op(&mut self, id: &Name, op: Op, token: Token, spare: usize) {
        // Members and consumers wait and try again: without a part of the group's state they would
        // begin anew somewhere.
        if self.state.group(id).is_some_and(Stored::is_fenced) && !matches!(op, Op::Delete) {
            return self.fx.reply(token, Err(ErrorCode::CoordinatorNotAvailable));
        }
        let Some(op) = self.classic_op_on_modern(id, op, token, spare) else { return };
        let reply = match op {
            Op::Join(join) => return self.join(id, join, token, spare),
            Op::Sync(sync) => {
                if sync.assignments.iter().map(|(_, assignment)| assignment.len()).sum::<usize>() > spare {
                    return self.fx.reply(token, Err(ErrorCode::CoordinatorNotAvailable));
                }
                let found = self.on_group(id, false, |group, fx| group.sync(sync, token, fx));
                return if found.is_none() {
                    self.fx.reply(token, Err(ErrorCode::UnknownMemberId))
                };
            }
            Op::Heartbeat(member) => {
                let beat = self.on_group(id, false, |group, fx| group.heartbeat(&member, fx));
                beat.unwrap_or(Err(ErrorCode::UnknownMemberId)).map(|()| Answer::Done)
            }
            Op::Leave(leaving) => {
                let codes = self.on_group(id, false, |group, fx| group.leave(&leaving, fx));
                Ok(Answer::Codes(codes.unwrap_or_else(|| vec![ErrorCode::UnknownMemberId; leaving.len()])))
            }
            Op::Commit(commit) => self.commit(id, commit, spare),
            Op::FetchOffsets(fetch) => self.view(id).fetch(&fetch, self.fx.topics),
            Op::DeleteOffsets(wanted) => {
                let view = View { id, stored: self.state.group(id), live: self.groups.get(id) };
                let first = self.fx.records.len();
                let reply = view.delete_offsets(&wanted, &mut self.fx);
                self.keep_if_emptied(id, first);
                reply
            }
            Op::Describe => self.describe(id),
            Op::Delete => self.delete(id),
            Op::ConsumerHeartbeat(request) => self.modern_heartbeat(id, &request, spare),
            Op::ConsumerLeave(request) => self.modern_leave(id, &request),
            Op::ConsumerDescribe => self.modern_describe(id),
        };
        self.fx.reply(token, reply);
    }

    /// Lets a group's machine work, and keeps it as long as there is something for it to do. Without `make`, none is made.
    fn on_group<T>(&mut self, id: &Name, make: bool, work: impl FnOnce(&mut Group, &mut Effects) -> T) -> Option<T> {
        if make && !self.groups.contains_key(id) {
            let stored = self.state.group(id).and_then(|s| s.metadata.as_ref());
            let group = Group::new(id.clone(), stored);
            self.bytes.add(group.bytes());
            self.groups.insert(id.clone(), group);
        }
        let group = self.groups.get_mut(id)?;
        let before = group.bytes();
        let result = work(group, &mut self.fx);
        self.bytes.replace(before, group.bytes());
        if group.is_idle() && !self.fx.timers.contains(&TimerKey::Kept(id.clone())) {
            self.bytes.sub(group.bytes());
            self.groups.remove(id);
        }
        Some(result)
    }

    /// Keeps a group for one more check for expired offsets, if the records from `first` on take the
    /// last of it away: who deletes its offsets may delete the group next.
    fn keep_if_emptied(&mut self, id: &Name, first: usize) {
        let Some(stored) = self.state.group(id) else { return };
        let is_gone = |record: &&Record| matches!(record, Record::Offset { value: None, .. });
        let gone = self.fx.records[first..].iter().filter(is_gone).count();
        if gone > 0 && gone == stored.offsets.len() && stored.metadata.is_none() && stored.modern.is_none() {
            let until = self.fx.now.mono + group::millis(self.fx.config.retention_check_ms);
            self.fx.timers.set(TimerKey::Kept(id.clone()), until);
            self.on_group(id, true, |_, _| ());
        }
    }

    fn join(&mut self, id: &Name, mut join: Join, token: Token, spare: usize) {
        let refused = |code| Joined::refused(code, join.member_id.clone());
        let timeouts = self.fx.config.min_session_timeout_ms..=self.fx.config.max_session_timeout_ms;
        if !timeouts.contains(&join.session_timeout_ms) {
            return self.fx.joined(token, refused(ErrorCode::InvalidSessionTimeout));
        }
        if !join.member_id.is_empty() && !self.groups.contains_key(id) {
            return self.fx.joined(token, refused(ErrorCode::UnknownMemberId));
        }
        // A new id costs memory, and so does what a member says: refused in words that make clients try again.
        if group_bytes(id) + join.cost(id) > spare {
            return self.fx.joined(token, refused(ErrorCode::CoordinatorNotAvailable));
        }
        // Not a part of the buffer that the request came in.
        join.protocols.iter_mut().for_each(|(_, metadata)| *metadata = Bytes::copy_from_slice(metadata));
        self.make_way_for_classic(id);
        if !self.fx.all_fit() {
            self.fx.records.clear();
            return self.fx.joined(token, refused(ErrorCode::UnknownServerError));
        }
        self.on_group(id, true, |group, fx| group.join(join, token, fx));
    }

    fn commit(&mut self, id: &Name, commit: op::Commit, spare: usize) -> Reply {
        if let Some(group) = self.groups.get(id)
            && matches!(group.phase(), Phase::Stable | Phase::PreparingRebalance)
        {
            let member = &commit.member;
            if group.validate_member(&member.member_id, member.instance_id.as_ref()).is_ok() && member.generation == group.generation {
                group.heard_of(&member.member_id, &mut self.fx);
            }
        }
        let cost = commit.offsets.iter().map(op::CommitOffset::cost).sum::<usize>();
        if group_bytes(id) + cost > spare {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        View { id, stored: self.state.group(id), live: self.groups.get(id) }.commit(commit, &mut self.fx)
    }

    fn describe(&self, id: &Name) -> Reply {
        let view = self.view(id);
        if !view.exists() {
            return Err(ErrorCode::GroupIdNotFound);
        }
        if view.modern().is_some() {
            return Ok(Answer::OtherType);
        }
        let stable = view.phase() == Phase::Stable;
        let protocol = view.live.and_then(|g| g.protocol.as_ref()).filter(|_| stable);
        let member = |(id, m): (&Name, &group::Member)| DescribedMember {
            member_id: id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: m.metadata(protocol),
            assignment: m.assignment.clone(),
        };
        Ok(Answer::Described(Description {
            state: view.phase().name(),
            protocol_type: view.protocol_type().cloned().unwrap_or_default(),
            protocol: protocol.cloned().unwrap_or_default(),
            members: view.live.map(|g| g.members().iter().map(member).collect()).unwrap_or_default(),
        }))
    }

    fn delete(&mut self, id: &Name) -> Reply {
        let view = View { id, stored: self.state.group(id), live: self.groups.get(id) };
        if !view.exists() {
            return Err(ErrorCode::GroupIdNotFound);
        }
        if !view.is_empty() && !view.is_fenced() {
            return Err(ErrorCode::NonEmptyGroup);
        }
        view.tombstones(&mut self.fx);
        self.fx.divisible = true;
        self.fx.seen.remove(id);
        self.fx.timers.cancel(&TimerKey::Kept(id.clone()));
        // Ids that were given out, and not used yet.
        if let Some(group) = self.groups.remove(id) {
            self.bytes.sub(group.bytes());
            group.pending().iter().for_each(|p| self.fx.timers.cancel(&TimerKey::Session(id.clone(), p.clone())));
        }
        Ok(Answer::Done)
    }

    fn timer(&mut self, key: TimerKey) {
        match key {
            TimerKey::Session(id, member) => self.on_group(&id, false, |group, fx| group.expire_session(&member, fx)).unwrap_or(()),
            TimerKey::Member(id, member, kind) => self.modern_expired(&id, &member, kind),
            TimerKey::Join(id) => self.on_group(&id, false, Group::expire_join).unwrap_or(()),
            TimerKey::Sync(id) => self.on_group(&id, false, Group::expire_sync).unwrap_or(()),
            TimerKey::Kept(id) => self.on_group(&id, false, |_, _| ()).unwrap_or(()),
            TimerKey::Expiry => self.expire_offsets(),
        }
    }

    /// Looks at some groups, the others follow at once: there may be many.
    fn expire_offsets(&mut self) {
        let pause = group::millis(self.fx.config.retention_check_ms);
        self.fx.divisible = true;
        let from = self.expire_from.take().map_or(Bound::Unbounded, Bound::Included);
        let mut looks = EXPIRY_LOOKS;
        let mut after = pause;
        for (id, stored) in self.state.groups.range::<Name, _>((from, Bound::Unbounded)) {
            if looks == 0 {
                *self.expire_from = Some(id.clone());
                after = Duration::ZERO;
                break;
            }
            looks = looks.saturating_sub(1 + stored.offsets.len());
            View { id, stored: Some(stored), live: self.groups.get(id) }.expire(&mut self.fx);
        }
        self.fx.timers.set(TimerKey::Expiry, self.fx.now.mono + after);
    }
}
