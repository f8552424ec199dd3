//! Members of the classic protocol in a group of the new one, while clients are upgraded or downgraded one by one (KIP-848). They are reconciled
//! like all others: the epoch is their generation, and a heartbeat tells them to join again when there is a step to take.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::group::Group;
use super::heartbeat::{Draft, Request, check_size};
use super::leave;
use super::member::{
    ClassicMember, CurrentAssignment, JOIN_EPOCH, Member, MemberId, MemberMetadata, MemberState, Owned, Partitions, partitions_of,
};
use super::record::Change;
use super::topics::{Topics, metadata_hash};
use super::{Context, Decision, Refusal, TimerChange, TimerKind, known, known_static};
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::coord::Name;
use crate::coord::group::{self as classic, CONSUMER};
use crate::coord::op::{Join, Leaving, Membership, Sync, Synced};
use crate::wire::codec::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, consumer_protocol};

/// The highest version of the consumer's embedded protocol.
const EMBEDDED_MAX: i16 = 3;

/// Why a consumer's metadata or assignment could not be read.
const MALFORMED: &str = "because the embedded consumer protocol is malformed.";
/// Why an assignment cannot be carried over.
const CUSTOM: &str = "because an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor before \
                      re-attempting the upgrade.";

/// The records that make a classic group one of the new protocol, with everything that its members have. The error says, after the group's
/// name, why that cannot be.
pub fn upgrade(group: &classic::Group, topics: &dyn Topics) -> Result<Vec<Change>, &'static str> {
    if group.protocol_type.as_deref() != Some(CONSUMER) {
        return Err("because the group does not use the consumer embedded protocol.");
    }
    let epoch = group.generation.max(1);
    let (mut names, mut given) = (BTreeSet::new(), BTreeSet::new());
    let (mut members, mut targets, mut currents) = (Vec::new(), Vec::new(), Vec::new());
    for (id, member) in group.members() {
        let metadata = upgraded_metadata(group, member)?;
        let mut assigned = Owned::new();
        for (topic, partition) in embedded_partitions(&member.assignment, topics)? {
            // An assignor of the client's may have given it twice; here it has one owner.
            if given.insert((topic, partition)) {
                assigned.entry(topic).or_default().insert(partition, epoch);
            }
        }
        names.extend(metadata.topic_names.iter().cloned());
        members.push(Change::Member(id.clone(), Some(metadata)));
        targets.push(Change::Target(id.clone(), Some(partitions_of(&assigned))));
        let current = CurrentAssignment { epoch, previous_epoch: epoch, assigned, ..CurrentAssignment::default() };
        currents.push(Change::Current(id.clone(), Some(current)));
    }
    let mut changes = members;
    changes.push(Change::epoch(epoch, metadata_hash(names.iter().map(String::as_str), topics)));
    changes.extend(targets);
    changes.push(Change::target_epoch(epoch, 0));
    changes.extend(currents);
    Ok(changes)
}

fn upgraded_metadata(group: &classic::Group, member: &classic::Member) -> Result<MemberMetadata, &'static str> {
    let protocol = group.protocol.as_ref().or_else(|| member.protocols.first().map(|(name, _)| name));
    let (_, subscription) = consumer_protocol::decode_subscription(&member.metadata(protocol)).map_err(|_| MALFORMED)?;
    let protocols = member.protocols.iter().map(|(name, metadata)| (name.to_string(), metadata.clone())).collect();
    Ok(MemberMetadata {
        instance_id: member.instance_id.as_ref().map(|id| id.to_string()),
        rack_id: subscription.rack_id.as_ref().map(|rack| rack.as_str().to_owned()),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        topic_names: subscription.topics.iter().map(|topic| topic.as_str().to_owned()).collect(),
        topic_regex: Some(String::new()),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        server_assignor: None,
        classic: Some(ClassicMember { session_timeout_ms: member.session_timeout_ms, protocols }),
    })
}

/// Partitions in a classic consumer's assignment, of topics that exist. A member that has not been given any yet has no bytes at all.
fn embedded_partitions(assignment: &Bytes, topics: &dyn Topics) -> Result<Vec<(TopicId, i32)>, &'static str> {
    if assignment.is_empty() {
        return Ok(Vec::new());
    }
    let assignment = consumer_protocol::decode_assignment(assignment).map_err(|_| MALFORMED)?;
    if assignment.user_data.is_some_and(|data| !data.is_empty()) {
        return Err(CUSTOM);
    }
    let mut partitions = Vec::new();
    for topic in &assignment.assigned_partitions {
        if let Some((id, _)) = topics.by_name(&topic.topic) {
            partitions.extend(topic.partitions.iter().map(|&partition| (id, partition)));
        }
    }
    Ok(partitions)
}

/// The state of a classic group that continues this one, whose members are all classic ones, in a
/// generation; `None` where a member's metadata cannot be read.
pub fn downgrade(group: &Group, generation: i32, topics: &dyn Topics, now_ms: i64) -> Option<classic::GroupMetadata> {
    let protocol = common_protocols(group).into_iter().next()?;
    let mut members = Vec::new();
    for (id, member) in group.members() {
        let classic = member.metadata.classic.as_ref()?;
        let (_, subscription) = classic.protocols.iter().find(|(name, _)| *name == protocol)?;
        let nothing = Partitions::new();
        let target = group.targets().get(id).unwrap_or(&nothing);
        members.push(classic::MemberMetadata {
            member_id: id.clone(),
            instance_id: member.metadata.instance_id.as_deref().map(Name::from),
            client_id: member.metadata.client_id.as_str().into(),
            client_host: member.metadata.client_host.as_str().into(),
            rebalance_timeout_ms: member.metadata.rebalance_timeout_ms,
            session_timeout_ms: classic.session_timeout_ms,
            subscription: subscription.clone(),
            assignment: embedded_assignment(target, subscription, topics)?,
        });
    }
    Some(classic::GroupMetadata {
        protocol_type: CONSUMER.into(),
        generation,
        protocol: Some(protocol.as_str().into()),
        // The members are about to join again, whoever this is.
        leader: group.members().keys().next().cloned(),
        state_ms: now_ms,
        members,
    })
}

/// Protocols that every classic member knows, in the order of the first of them.
fn common_protocols(group: &Group) -> Vec<String> {
    let lists: Vec<&ClassicMember> = group.members().values().filter_map(|member| member.metadata.classic.as_ref()).collect();
    let Some(first) = lists.first() else { return Vec::new() };
    let known = |name: &String| lists.iter().all(|list| list.protocols.iter().any(|(other, _)| other == name));
    first.protocols.iter().map(|(name, _)| name.clone()).filter(known).collect()
}

/// Partitions as a classic consumer is told of them, in the version that its subscription has.
fn embedded_assignment(partitions: &Partitions, subscription: &Bytes, topics: &dyn Topics) -> Option<Bytes> {
    let (version, _) = consumer_protocol::decode_subscription(subscription).ok()?;
    let mut assignment = ConsumerProtocolAssignment::default();
    for name in topics.names() {
        if let Some(partitions) = topics.by_name(name).and_then(|(id, _)| partitions.get(&id)) {
            let mut entry = consumer_protocol::assignment::TopicPartition::default();
            (entry.topic, entry.partitions) = (name.into(), partitions.iter().copied().collect());
            assignment.assigned_partitions.push(entry);
        }
    }
    consumer_protocol::encode_assignment(&assignment, version.min(EMBEDDED_MAX)).ok()
}

/// The answer to a JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The member's id.
    pub member_id: MemberId,
    /// Its epoch.
    pub generation: i32,
    /// The protocol that it prefers: it makes no assignments here, so any will do.
    pub protocol: Name,
}

/// Decides on a JoinGroup; `id` is the member's, or a new one where it has none yet.
pub fn join(group: &Group, cx: &Context<'_>, group_id: &str, id: &str, join: &Join) -> Result<Decision<Joined>, Refusal> {
    check_size(group, cx, id)?;
    let inconsistent = || Refusal::new(ErrorCode::InconsistentGroupProtocol, format!("Member {id}'s protocols are not supported."));
    let (protocol, metadata) = join.protocols.first().ok_or_else(inconsistent)?;
    let common = common_protocols(group);
    let others = group.members().iter().any(|(other, member)| **other != *id && member.is_classic());
    if *join.protocol_type != *CONSUMER || others && !join.protocols.iter().any(|(name, _)| common.iter().any(|other| **other == **name)) {
        return Err(inconsistent());
    }
    let (_, subscription) = consumer_protocol::decode_subscription(metadata).map_err(|_| inconsistent())?;
    let request = Request {
        group_id: group_id.to_owned(),
        member_id: id.to_owned(),
        member_epoch: JOIN_EPOCH,
        instance_id: join.instance_id.as_ref().map(|id| id.to_string()),
        rack_id: subscription.rack_id.as_ref().map(|rack| rack.as_str().to_owned()),
        rebalance_timeout_ms: Some(join.rebalance_timeout_ms),
        topic_names: Some(subscription.topics.iter().map(|topic| topic.as_str().to_owned()).collect()),
        topic_regex: Some(String::new()),
        server_assignor: None,
        owned: Some(owned(&subscription, cx.topics)),
        client_id: join.client_id.to_string(),
        client_host: join.client_host.to_string(),
    };
    if let Some(instance_id) = &join.instance_id
        && !join.member_id.is_empty()
    {
        known_static(group, &join.member_id, instance_id)?;
    }
    let mut draft = Draft::begin(group, cx, &request, true)?;
    // Copied: they are a part of the buffer that the request came in.
    let protocols = join.protocols.iter().map(|(name, metadata)| (name.to_string(), Bytes::copy_from_slice(metadata))).collect();
    draft.update_member(&request, Some(ClassicMember { session_timeout_ms: join.session_timeout_ms, protocols }));
    let decision = draft.decide(&request)?;
    let reply = Joined { member_id: decision.reply.member_id.clone(), generation: decision.reply.epoch, protocol: protocol.clone() };
    let mut timers = decision.timers;
    let member_id = reply.member_id.clone();
    timers.push(TimerChange::Cancel { member_id: member_id.clone(), kind: TimerKind::Rebalance });
    timers.push(TimerChange::Cancel { member_id: member_id.clone(), kind: TimerKind::Join });
    timers.push(TimerChange::Set { member_id: member_id.clone(), kind: TimerKind::Session, after_ms: join.session_timeout_ms });
    timers.push(TimerChange::Set { member_id, kind: TimerKind::Sync, after_ms: join.rebalance_timeout_ms });
    Ok(Decision { changes: decision.changes, timers, seen: decision.seen, reply })
}

fn owned(subscription: &ConsumerProtocolSubscription, topics: &dyn Topics) -> Partitions {
    let mut owned = Partitions::new();
    for topic in subscription.owned_partitions.iter().filter(|topic| !topic.partitions.is_empty()) {
        if let Some((id, _)) = topics.by_name(&topic.topic) {
            owned.entry(id).or_default().extend(topic.partitions.iter().copied());
        }
    }
    owned
}

/// The classic member that a request speaks for, in its generation.
fn classic_member<'a>(group: &'a Group, who: &Membership) -> Result<(&'a MemberId, &'a Member, &'a ClassicMember), ErrorCode> {
    let found = match &who.instance_id {
        None => known(group, "", &who.member_id),
        Some(instance_id) => known_static(group, &who.member_id, instance_id),
    };
    let (id, member) = found.map_err(|refusal| refusal.code)?;
    let classic = member.metadata.classic.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
    if who.generation != member.current.epoch { Err(ErrorCode::IllegalGeneration) } else { Ok((id, member, classic)) }
}

fn join_timer(id: &MemberId, member: &Member) -> TimerChange {
    TimerChange::Keep { member_id: id.clone(), kind: TimerKind::Join, after_ms: member.metadata.rebalance_timeout_ms }
}

/// Takes a Heartbeat: the timers, and whether the member has to join again.
pub fn heartbeat(group: &Group, who: &Membership) -> Result<(Vec<TimerChange>, Result<(), ErrorCode>), ErrorCode> {
    let (id, member, classic) = classic_member(group, who)?;
    let mut timers = vec![TimerChange::Set { member_id: id.clone(), kind: TimerKind::Session, after_ms: classic.session_timeout_ms }];
    // Members of the new protocol make the next target with their heartbeats. Without one it comes
    // with the next join, which Kafka leaves to chance.
    let only_classic = group.classic_members() == group.members().len();
    let newest = if only_classic { group.epoch() } else { group.target_epoch() };
    let rejoin = member.current.epoch < newest
        || match member.current.state {
            MemberState::UnrevokedPartitions => true,
            MemberState::UnreleasedPartitions => !waits_for_others(group, id, member),
            MemberState::Stable | MemberState::Unknown => false,
        };
    if !rejoin {
        return Ok((timers, Ok(())));
    }
    timers.push(join_timer(id, member));
    Ok((timers, Err(ErrorCode::RebalanceInProgress)))
}

/// Whether a partition of the member's target is still somebody else's.
fn waits_for_others(group: &Group, id: &MemberId, member: &Member) -> bool {
    let target = group.targets().get(id).into_iter().flatten();
    let mut missing = target
        .flat_map(|(topic, partitions)| partitions.iter().map(move |&partition| (*topic, partition)))
        .filter(|(topic, partition)| !member.current.assigned.get(topic).is_some_and(|assigned| assigned.contains_key(partition)));
    missing.any(|(topic, partition)| group.holder(topic, partition).is_some())
}

/// Takes a SyncGroup: the timers, and what the member has.
pub fn sync(group: &Group, sync: &Sync, topics: &dyn Topics) -> Result<(Vec<TimerChange>, Result<Synced, ErrorCode>), ErrorCode> {
    let (id, member, classic) = classic_member(group, &sync.member)?;
    let (protocol, subscription) = classic.protocols.first().ok_or(ErrorCode::UnknownServerError)?;
    let other_type = sync.protocol_type.as_deref().is_some_and(|kind| kind != CONSUMER);
    if other_type || sync.protocol.as_deref().is_some_and(|name| *name != **protocol) {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    // A newer group epoch without a target has nothing for the member yet.
    if group.target_epoch() > member.current.epoch && member.current.state != MemberState::UnrevokedPartitions {
        return Ok((vec![join_timer(id, member)], Err(ErrorCode::RebalanceInProgress)));
    }
    let assigned = partitions_of(&member.current.assigned);
    let assignment = embedded_assignment(&assigned, subscription, topics).ok_or(ErrorCode::UnknownServerError)?;
    let timers = vec![
        TimerChange::Cancel { member_id: id.clone(), kind: TimerKind::Sync },
        TimerChange::Set { member_id: id.clone(), kind: TimerKind::Session, after_ms: classic.session_timeout_ms },
    ];
    let synced = Synced { protocol_type: sync.protocol_type.clone(), protocol: sync.protocol.clone(), assignment };
    Ok((timers, Ok(synced)))
}

/// Decides on a LeaveGroup, which may be an administrator's and name members of both protocols; one code for each.
pub fn leave(group: &Group, cx: &Context<'_>, leaving: &[Leaving]) -> Decision<Vec<ErrorCode>> {
    let mut left = group.clone();
    let mut decision = Decision { changes: Vec::new(), timers: Vec::new(), seen: cx.seen.clone(), reply: Vec::new() };
    for one in leaving {
        let found = match &one.instance_id {
            None => known(&left, "", &one.member_id),
            Some(instance_id) if one.member_id.is_empty() => {
                left.static_member(instance_id).ok_or_else(|| Refusal::new(ErrorCode::UnknownMemberId, ""))
            }
            Some(instance_id) => known_static(&left, &one.member_id, instance_id),
        };
        match found.map(|(id, _)| id.clone()) {
            Err(refusal) => decision.reply.push(refusal.code),
            Ok(id) => {
                let removed = leave::remove(&left, cx, &id, ());
                removed.changes.iter().for_each(|change| left.apply(change));
                decision.changes.extend(removed.changes);
                decision.timers.extend(removed.timers);
                decision.reply.push(ErrorCode::None);
            }
        }
    }
    decision
}

/// Whether none but classic members are left after these changes, so that the group can be a classic one again: what it will be then.
pub fn without_modern_members(group: &Group, changes: &[&Change]) -> Option<Group> {
    let modern = group.members().len().saturating_sub(group.classic_members());
    let gone = changes.iter().filter(|change| matches!(change, Change::Member(_, None))).count();
    // Nearly always the counts say that it is not so, without a copy of the group.
    if modern > gone || group.classic_members() == 0 && gone == 0 {
        return None;
    }
    let mut next = group.clone();
    changes.iter().for_each(|change| next.apply(change));
    (!next.members().is_empty() && next.classic_members() == next.members().len()).then_some(next)
}
