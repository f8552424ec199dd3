//! A classic group: what its last generation was ([`GroupMetadata`], replayed from the log), and the machine that brings it to the next
//! one ([`Group`], which lives as long as the group has members or somebody is about to join).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::ledger::{Ledger, entry_bytes, map_bytes, text_bytes};
use super::names::Names;
use super::op::{Join, Joined, JoinedMember, Token};
use super::record::Record;
use super::timers::{TIMER_BYTES, TimerKey};
use super::{Effects, Name};
use crate::base::error::ErrorCode;
use crate::wire::primitive::Reader;

/// Protocol type of consumers, whose metadata the coordinator looks into.
pub const CONSUMER: &str = "consumer";
/// Memory of a machine besides its members and texts, at most.
const GROUP_BYTES: usize = entry_bytes::<Name, Group>()
    + map_bytes::<Name, Member>()
    + map_bytes::<Name, Name>()
    + 2 * map_bytes::<Name, ()>()
    + map_bytes::<Name, usize>()
    + 3 * TIMER_BYTES;
/// Memory of a member, besides its texts and what only some have.
const MEMBER_BYTES: usize = entry_bytes::<Name, Member>() + entry_bytes::<Name, ()>() + TIMER_BYTES;
/// Memory of an id that was given out, besides its text.
const PENDING_BYTES: usize = entry_bytes::<Name, ()>() + TIMER_BYTES;
/// Memory of counted bytes besides these.
const SHARED_BYTES: usize = 64;

/// A generation of a group, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// Such as `consumer`; empty: none.
    pub protocol_type: Name,
    /// Counts up with every rebalance.
    pub generation: i32,
    /// The strategy chosen; none in a group without members.
    pub protocol: Option<Name>,
    /// Member id of the leader.
    pub leader: Option<Name>,
    /// When the group came into its state, milliseconds since 1970; -1: unknown.
    pub state_ms: i64,
    /// Members with their assignments.
    pub members: Vec<MemberMetadata>,
}

/// A member of a [`GroupMetadata`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMetadata {
    /// Its id.
    pub member_id: Name,
    /// Its `group.instance.id`.
    pub instance_id: Option<Name>,
    /// What the client calls itself.
    pub client_id: Name,
    /// Where it comes from.
    pub client_host: Name,
    /// How long a rebalance waits for it, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// A member silent for so many milliseconds is out.
    pub session_timeout_ms: i32,
    /// Its metadata for the strategy chosen.
    pub subscription: Bytes,
    /// What the leader gave it.
    pub assignment: Bytes,
}

impl GroupMetadata {
    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let texts = [Some(&self.protocol_type), self.protocol.as_ref(), self.leader.as_ref()];
        texts_bytes(texts) + self.members.iter().map(MemberMetadata::bytes).sum::<usize>()
    }

    /// The topics that consumers are subscribed to; none where that cannot be known.
    pub fn subscribed_topics(&self) -> Option<Names> {
        subscribed_topics(&self.protocol_type, self.members.iter().map(|m| &m.subscription))
    }
}

impl MemberMetadata {
    /// Memory that it takes, about.
    fn bytes(&self) -> usize {
        let texts = [Some(&self.member_id), self.instance_id.as_ref(), Some(&self.client_id), Some(&self.client_host)];
        let bytes = self.subscription.len() + self.assignment.len() + 2 * SHARED_BYTES;
        size_of::<MemberMetadata>() + texts_bytes(texts) + bytes
    }
}

fn texts_bytes<'a>(texts: impl IntoIterator<Item = Option<&'a Name>>) -> usize {
    texts.into_iter().flatten().map(|text| text_bytes(text)).sum()
}

fn subscribed_topics<'a>(protocol_type: &str, subscriptions: impl Iterator<Item = &'a Bytes>) -> Option<Names> {
    if protocol_type != CONSUMER {
        return None;
    }
    let mut topics = Vec::new();
    for subscription in subscriptions {
        add_topics(subscription, &mut topics)?;
    }
    Some(Names::new(topics))
}

/// The topics in a consumer's metadata (ConsumerProtocolSubscription, whose first field they are in every version).
fn add_topics<'a>(metadata: &'a [u8], topics: &mut Vec<&'a str>) -> Option<()> {
    let mut reader = Reader::new(metadata);
    reader.i16().ok().filter(|version| *version >= 0)?;
    for _ in 0..reader.array_len(false).ok()? {
        topics.push(std::str::from_utf8(reader.string(false).ok()??).ok()?);
    }
    Some(())
}

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No members.
    Empty,
    /// Members are joining the next generation.
    PreparingRebalance,
    /// The leader computes the assignments.
    CompletingRebalance,
    /// Every member has its assignment, or can have it.
    Stable,
}

impl Phase {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::PreparingRebalance => "PreparingRebalance",
            Phase::CompletingRebalance => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }
}

/// A member as the coordinator deals with it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its `group.instance.id`.
    pub instance_id: Option<Name>,
    /// What the client calls itself.
    pub client_id: Name,
    /// Where it comes from.
    pub client_host: Name,
    /// How long a rebalance waits for it, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// A member silent for so many milliseconds is out.
    pub session_timeout_ms: i32,
    /// Strategies with its metadata for each, most wanted first.
    pub protocols: Vec<(Name, Bytes)>,
    /// What the leader gave it.
    pub assignment: Bytes,
    /// Its JoinGroup waits.
    pub awaiting_join: Option<Token>,
    /// Its SyncGroup waits.
    pub awaiting_sync: Option<Token>,
    /// It has not been in a generation yet.
    pub is_new: bool,
}

impl Member {
    /// Memory that it takes, about.
    fn bytes(&self, id: &str) -> usize {
        // The deadline may have a text of its own.
        let id = 2 * text_bytes(id);
        let instance = self.instance_id.as_ref().map_or(0, |_| entry_bytes::<Name, Name>());
        let texts = texts_bytes([self.instance_id.as_ref(), Some(&self.client_id), Some(&self.client_host)]);
        MEMBER_BYTES + id + instance + texts + protocols_bytes(&self.protocols) + self.assignment.len() + SHARED_BYTES
    }

    /// Its metadata for a strategy.
    pub fn metadata(&self, protocol: Option<&Name>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name) == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

/// Memory of a member's strategies.
fn protocols_bytes(protocols: &[(Name, Bytes)]) -> usize {
    let entry = size_of::<(Name, Bytes)>() + entry_bytes::<Name, usize>() + SHARED_BYTES;
    protocols.iter().map(|(name, metadata)| entry + text_bytes(name) + metadata.len()).sum()
}

impl Join {
    /// Memory that its member takes when it has joined the group of this id and is stored, at most.
    pub(super) fn cost(&self, group: &str) -> usize {
        // A new id begins with one of these.
        let id = self.member_id.len() + self.instance_id.as_ref().unwrap_or(&self.client_id).len() + 64;
        let texts = texts_bytes([Some(&self.protocol_type), self.instance_id.as_ref(), Some(&self.client_id), Some(&self.client_host)]);
        let live = GROUP_BYTES + text_bytes(group) + MEMBER_BYTES + 2 * id + entry_bytes::<Name, Name>() + texts;
        let stored = size_of::<MemberMetadata>() + 2 * id + texts + 4 * SHARED_BYTES;
        // The strategies, the chosen one in the log, and the topics in it.
        live + stored + 4 * protocols_bytes(&self.protocols)
    }
}

/// The machine of a classic group. The methods here keep its parts in agreement; `rebalance.rs` has what happens when.
#[derive(Debug)]
pub struct Group {
    /// Its id.
    pub id: Name,
    phase: Phase,
    /// The rebalance under way began in an empty group, and waits for `group.initial.rebalance.delay.ms`.
    pub(super) initial: Option<InitialDelay>,
    /// Generation of the members.
    pub generation: i32,
    /// Of all members; stays when they are gone.
    pub protocol_type: Option<Name>,
    /// The strategy chosen.
    pub protocol: Option<Name>,
    /// Member id of the leader.
    pub leader: Option<Name>,
    state_ms: i64,
    members: BTreeMap<Name, Member>,
    /// Member ids by instance id.
    static_members: BTreeMap<Name, Name>,
    /// Ids that were given out, and not used yet.
    pending: BTreeSet<Name>,
    /// Members of the new generation that have not sent SyncGroup.
    pub(super) unsynced: BTreeSet<Name>,
    /// How many members know each strategy.
    supported: BTreeMap<Name, usize>,
    awaiting_join: Ledger,
    /// Topics that the consumers of this generation are subscribed to; none where that cannot be known.
    subscribed_topics: Option<Names>,
    /// Memory of members and pending ids.
    bytes: Ledger,
}

/// The first rebalance of a group waits until for so long nobody new has come (KIP-134).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InitialDelay {
    /// Of the wait under way, milliseconds.
    pub(super) delay_ms: i64,
    /// By how much it may still be extended, milliseconds.
    pub(super) remaining_ms: i64,
    /// Somebody has come since it began.
    pub(super) joined: bool,
}

impl Group {
    /// The machine of a group that the log knows, or does not.
    pub fn new(id: Name, stored: Option<&GroupMetadata>) -> Group {
        let mut group = Group {
            id,
            phase: Phase::Empty,
            initial: None,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            state_ms: -1,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            supported: BTreeMap::new(),
            awaiting_join: Ledger::default(),
            subscribed_topics: None,
            bytes: Ledger::default(),
        };
        let Some(stored) = stored else { return group };
        for member in &stored.members {
            let name = stored.protocol.clone().unwrap_or_default();
            let entry = Member {
                instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![(name, member.subscription.clone())],
                assignment: member.assignment.clone(),
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
            };
            group.insert(member.member_id.clone(), entry);
        }
        group.phase = if group.members.is_empty() { Phase::Empty } else { Phase::Stable };
        group.generation = stored.generation;
        group.protocol_type = Some(stored.protocol_type.clone()).filter(|t| !t.is_empty());
        (group.protocol, group.leader) = (stored.protocol.clone(), stored.leader.clone());
        group.state_ms = stored.state_ms;
        group.subscribed_topics = stored.subscribed_topics();
        group
    }

    /// The generation as it is stored.
    pub fn metadata(&self) -> GroupMetadata {
        let member = |(id, m): (&Name, &Member)| MemberMetadata {
            member_id: id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            rebalance_timeout_ms: m.rebalance_timeout_ms,
            session_timeout_ms: m.session_timeout_ms,
            subscription: m.metadata(self.protocol.as_ref()),
            assignment: m.assignment.clone(),
        };
        GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_ms: self.state_ms,
            members: self.members.iter().map(member).collect(),
        }
    }

    /// The record that stores this generation.
    pub(super) fn record(&self) -> Record {
        Record::Group { group: self.id.clone(), value: Some(self.metadata()) }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn enter(&mut self, phase: Phase, fx: &Effects) {
        self.phase = phase;
        self.state_ms = fx.now.wall_ms;
    }

    /// Nothing goes on here that the log does not know: the machine can be dropped.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Empty && self.pending.is_empty()
    }

    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let texts = [Some(&self.id), self.protocol_type.as_ref(), self.protocol.as_ref(), self.leader.as_ref()];
        let topics = self.subscribed_topics.as_ref().map_or(0, Names::bytes);
        self.bytes.get().wrapping_add(GROUP_BYTES + texts_bytes(texts) + topics)
    }

    /// Whether a ledger of it is wrong beyond doubt.
    pub(super) fn is_miscounted(&self) -> bool {
        self.bytes.is_absurd() || self.awaiting_join.is_absurd()
    }

    /// Members and their ids.
    pub fn members(&self) -> &BTreeMap<Name, Member> {
        &self.members
    }

    /// A member.
    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    pub(super) fn member_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.members.get_mut(id)
    }

    /// The member with an instance id.
    pub fn static_member(&self, instance_id: &str) -> Option<&Name> {
        self.static_members.get(instance_id)
    }

    /// Ids that were given out, and not used yet.
    pub fn pending(&self) -> &BTreeSet<Name> {
        &self.pending
    }

    /// Topics that the consumers are subscribed to; none where that cannot be known.
    pub fn subscribed_topics(&self) -> Option<&Names> {
        self.subscribed_topics.as_ref()
    }

    /// Members whose JoinGroup waits.
    pub fn awaiting_join(&self) -> usize {
        self.awaiting_join.get()
    }

    pub(super) fn is_leader(&self, id: &Name) -> bool {
        self.leader.as_ref() == Some(id)
    }

    pub(super) fn add_pending(&mut self, id: Name) {
        self.bytes.add(pending_bytes(&id));
        self.pending.insert(id);
    }

    /// Adds a member under an id that no other has.
    pub(super) fn insert(&mut self, id: Name, member: Member) {
        self.forget_pending(&id);
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
        for (name, _) in &member.protocols {
            *self.supported.entry(name.clone()).or_default() += 1;
        }
        self.awaiting_join.add(usize::from(member.awaiting_join.is_some()));
        self.leader.get_or_insert_with(|| id.clone());
        self.bytes.add(member.bytes(&id));
        self.members.insert(id, member);
    }

    /// Takes a member out, leaving the leader as it is.
    fn take(&mut self, id: &Name) -> Option<Member> {
        let member = self.members.remove(id)?;
        for (name, _) in &member.protocols {
            if let Some(count) = self.supported.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(name);
                }
            }
        }
        self.awaiting_join.sub(usize::from(member.awaiting_join.is_some()));
        if let Some(instance_id) = &member.instance_id {
            self.static_members.remove(instance_id);
        }
        self.unsynced.remove(id);
        self.bytes.sub(member.bytes(id));
        Some(member)
    }

    fn forget_pending(&mut self, id: &Name) {
        if self.pending.remove(id) {
            self.bytes.sub(pending_bytes(id));
        }
    }

    /// Removes a member or a pending id with its deadline; who waits for an answer on its behalf is told.
    pub(super) fn remove(&mut self, id: &Name, fx: &mut Effects, code: ErrorCode) {
        fx.timers.cancel(&TimerKey::Session(self.id.clone(), id.clone()));
        self.forget_pending(id);
        let Some(member) = self.take(id) else { return };
        if let Some(token) = member.awaiting_join {
            fx.joined(token, Joined::refused(code, Name::default()));
        }
        if let Some(token) = member.awaiting_sync {
            fx.reply(token, Err(code));
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// A static member came back: it goes on under a new id, and whoever uses the old one is fenced.
    pub(super) fn replace(&mut self, old: &Name, new: &Name, fx: &mut Effects) {
        fx.timers.cancel(&TimerKey::Session(self.id.clone(), old.clone()));
        let Some(mut member) = self.take(old) else { return };
        if let Some(token) = member.awaiting_join.take() {
            fx.joined(token, Joined::refused(ErrorCode::FencedInstanceId, old.clone()));
        }
        if let Some(token) = member.awaiting_sync.take() {
            fx.reply(token, Err(ErrorCode::FencedInstanceId));
        }
        member.is_new = false;
        if self.is_leader(old) {
            self.leader = Some(new.clone());
        }
        self.insert(new.clone(), member);
    }

    /// A member has joined again: what it says now counts.
    pub(super) fn update(&mut self, id: &Name, protocols: Vec<(Name, Bytes)>, timeouts_ms: (i32, i32), token: Token, fx: &mut Effects) {
        let unsynced = self.unsynced.contains(id);
        let Some(mut member) = self.take(id) else { return };
        if let Some(token) = member.awaiting_join.replace(token) {
            // The client has given that request up. Kafka leaves it without an answer.
            fx.reply(token, Err(ErrorCode::RebalanceInProgress));
        }
        member.protocols = protocols;
        (member.rebalance_timeout_ms, member.session_timeout_ms) = timeouts_ms;
        self.insert(id.clone(), member);
        if unsynced {
            self.unsynced.insert(id.clone());
        }
    }

    pub(super) fn set_assignment(&mut self, id: &Name, assignment: Bytes) {
        if let Some(member) = self.members.get_mut(id) {
            self.bytes.replace(member.assignment.len(), assignment.len());
            member.assignment = assignment;
        }
    }

    /// Answers a member's JoinGroup, if one waits.
    pub(super) fn complete_join(&mut self, id: &Name, joined: Joined, fx: &mut Effects) {
        if let Some(token) = self.members.get_mut(id).and_then(|m| m.awaiting_join.take()) {
            self.awaiting_join.sub(1);
            fx.joined(token, joined);
        }
    }

    /// The member has until then to be heard of again.
    pub(super) fn await_heartbeat(&self, id: &Name, timeout_ms: i64, fx: &mut Effects) {
        let due = fx.now.mono + millis(timeout_ms);
        fx.timers.set(TimerKey::Session(self.id.clone(), id.clone()), due);
    }

    /// The member was heard of.
    pub(super) fn heard_of(&self, id: &Name, fx: &mut Effects) {
        if let Some(member) = self.members.get(id) {
            self.await_heartbeat(id, member.session_timeout_ms.into(), fx);
        }
    }

    /// Whether all members of the group, those that are about to come too, have joined the next generation.
    pub(super) fn all_joined(&self) -> bool {
        self.members.len() == self.awaiting_join() && self.pending.is_empty()
    }

    /// The longest time that a member asks a rebalance to wait for it, milliseconds.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0).max(0).into()
    }

    /// Whether a member with these could be in the group.
    pub(super) fn supports(&self, protocol_type: &Name, protocols: &[(Name, Bytes)]) -> bool {
        if self.phase == Phase::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let known_to_all = |name: &Name| self.supported.get(name).copied().unwrap_or(0) == self.members.len();
        self.protocol_type.as_ref() == Some(protocol_type) && protocols.iter().any(|(name, _)| known_to_all(name))
    }

    /// The strategy that most members want of those that all know; of equals the one that the leader puts first.
    pub(super) fn select_protocol(&self) -> Option<Name> {
        let known_to_all = |name: &Name| self.supported.get(name) == Some(&self.members.len());
        let mut votes: BTreeMap<&Name, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| known_to_all(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id)).or(self.members.values().next())?;
        let wanted = leader.protocols.iter().find(|(name, _)| votes.get(name) == Some(&most));
        wanted.map(|(name, _)| name.clone()).or_else(|| votes.into_iter().find(|(_, n)| *n == most).map(|(name, _)| name.clone()))
    }

    /// A member that joined leads, if the leader did not. False when nobody has joined.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let joined = |id: &Name| self.members.get(id).is_some_and(|m| m.awaiting_join.is_some());
        if !self.leader.as_ref().is_some_and(joined) {
            let Some(other) = self.members.keys().find(|id| joined(id)).cloned() else { return false };
            self.leader = Some(other);
        }
        true
    }

    /// Begins the next generation with the members that there are.
    pub(super) fn next_generation(&mut self, fx: &Effects) {
        self.generation = if self.generation == i32::MAX { 1 } else { self.generation + 1 };
        self.protocol = self.select_protocol();
        let subscriptions: Vec<Bytes> = self.members.values().map(|m| m.metadata(self.protocol.as_ref())).collect();
        self.subscribed_topics = subscribed_topics(self.protocol_type.as_deref().unwrap_or_default(), subscriptions.iter());
        self.unsynced.clear();
        self.initial = None;
        self.enter(if self.members.is_empty() { Phase::Empty } else { Phase::CompletingRebalance }, fx);
    }

    /// The answer to a member's JoinGroup in the present generation; the leader's has all members.
    pub(super) fn joined(&self, id: &Name, with_members: bool) -> Joined {
        let member = |(id, m): (&Name, &Member)| JoinedMember {
            member_id: id.clone(),
            instance_id: m.instance_id.clone(),
            metadata: m.metadata(self.protocol.as_ref()),
        };
        Joined {
            code: ErrorCode::None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: id.clone(),
            members: if with_members { self.members.iter().map(member).collect() } else { Vec::new() },
        }
    }

    /// Whether a request is from a member: its id exists and, if it says an instance id, nobody has come in its place.
    pub fn validate_member(&self, id: &Name, instance_id: Option<&Name>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(existing) if existing != id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Panics unless all invariants hold. `stored` is what the log knows of the group.
    pub fn check(&self, stored: Option<&GroupMetadata>, has_timer: impl Fn(&TimerKey) -> bool) {
        let id = &self.id;
        assert_eq!(self.awaiting_join(), self.members.values().filter(|m| m.awaiting_join.is_some()).count(), "{id}");
        assert!(self.leader.as_ref().is_none_or(|leader| self.members.contains_key(leader)), "{id}: the leader is a member");
        assert_eq!(self.leader.is_some(), !self.members.is_empty(), "{id}");
        assert!(self.pending.iter().all(|p| !self.members.contains_key(p)), "{id}: pending or member");
        assert!(self.unsynced.iter().all(|m| self.members.contains_key(m)), "{id}");
        let statics: BTreeMap<_, _> = self.members.iter().filter_map(|(m, e)| Some((e.instance_id.clone()?, m.clone()))).collect();
        assert_eq!(self.static_members, statics, "{id}: one member for each instance id");
        let members = self.members.iter().map(|(m, e)| e.bytes(m)).sum::<usize>();
        let pending = self.pending.iter().map(|p| pending_bytes(p)).sum::<usize>();
        assert_eq!(self.bytes.get(), members + pending, "{id}: bytes");
        for (member, entry) in &self.members {
            let waits = entry.awaiting_join.is_some() || entry.awaiting_sync.is_some();
            let timed = has_timer(&TimerKey::Session(id.clone(), member.clone()));
            assert!(timed || (waits && !entry.is_new), "{id}: {member} can go silent for ever");
        }
        for pending in &self.pending {
            assert!(has_timer(&TimerKey::Session(id.clone(), pending.clone())), "{id}: {pending} can go silent for ever");
        }
        match self.phase {
            Phase::Empty => assert!(self.members.is_empty() && self.initial.is_none(), "{id}"),
            Phase::PreparingRebalance => assert!(has_timer(&TimerKey::Join(id.clone())), "{id}: a rebalance has an end"),
            Phase::CompletingRebalance => {
                assert!(!self.members.is_empty() && self.awaiting_join() == 0, "{id}");
                assert!(self.unsynced.is_empty() || has_timer(&TimerKey::Sync(id.clone())), "{id}");
            }
            Phase::Stable => {
                assert_eq!(Some(&self.metadata()), stored, "{id}: a stable generation is the stored one");
                assert!(self.members.values().all(|m| m.awaiting_join.is_none() && m.awaiting_sync.is_none()), "{id}");
            }
        }
    }
}

fn pending_bytes(id: &str) -> usize {
    PENDING_BYTES + 2 * text_bytes(id)
}

pub(super) fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.max(0) as u64)
}
