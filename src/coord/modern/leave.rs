//! The ways out of a group: a member leaves, for good or (static members) for a while, or is removed because it was silent or slow.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{Group, Resolved};
use super::heartbeat::rebalance_timer;
use super::member::{CurrentAssignment, LEAVE_STATIC_EPOCH, MemberId, Owned};
use super::record::Change;
use super::target::View;
use super::topics::metadata_hash;
use super::{Context, Decision, Refusal, Reply, TimerChange, TimerKind, known, known_static};

/// A heartbeat with epoch -1 or -2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leave {
    /// The group.
    pub group_id: String,
    /// The member.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// For a while only: the place is kept until the session timeout.
    pub for_a_while: bool,
}

/// Decides on a leave.
pub fn leave(group: &Group, cx: &Context<'_>, request: &Leave) -> Result<Decision<Reply>, Refusal> {
    let (id, member) = match &request.instance_id {
        None => known(group, &request.group_id, &request.member_id)?,
        Some(instance_id) => known_static(group, &request.member_id, instance_id)?,
    };
    let reply = |epoch| Reply { member_id: id.clone(), epoch, heartbeat_interval_ms: 0, assignment: None };
    if request.instance_id.is_some() && request.for_a_while {
        let gone = CurrentAssignment { epoch: LEAVE_STATIC_EPOCH, pending_revocation: Owned::new(), ..member.current.clone() };
        let timers = vec![TimerChange::Cancel { member_id: id.clone(), kind: TimerKind::Rebalance }];
        let changes = vec![Change::Current(id.clone(), Some(gone))];
        return Ok(Decision { changes, timers, seen: cx.seen.clone(), reply: reply(LEAVE_STATIC_EPOCH) });
    }
    Ok(remove(group, cx, id, reply(super::member::LEAVE_EPOCH)))
}

/// A timer has gone off. `None` when it no longer matters.
pub fn expired(group: &Group, cx: &Context<'_>, member_id: &str, kind: TimerKind) -> Option<Decision<()>> {
    let (id, member) = group.members().get_key_value(member_id)?;
    let slow = !member.current.pending_revocation.is_empty();
    (kind != TimerKind::Rebalance || slow).then(|| remove(group, cx, id, ()))
}

/// Removes a member: its partitions are free, and the others get a new assignment.
pub(super) fn remove<T>(group: &Group, cx: &Context<'_>, id: &MemberId, reply: T) -> Decision<T> {
    let mut changes = vec![Change::Current(id.clone(), None), Change::Target(id.clone(), None), Change::Member(id.clone(), None)];
    let regex = group.members().get(id).and_then(|member| member.metadata.regex()).filter(|regex| group.patterns().get(regex) <= 1);
    let regexes: BTreeMap<String, Option<Resolved>> = regex.map(|regex| (regex.to_owned(), None)).into_iter().collect();
    changes.extend(regexes.keys().map(|regex| Change::Regex(regex.clone(), None)));
    let view = View { group, without: Some(id), with: None, regexes: &regexes, topics: cx.topics };
    let names: BTreeSet<&str> = view.topic_names();
    changes.push(Change::epoch(group.epoch().saturating_add(1), metadata_hash(names, cx.topics)));
    let timers = TimerKind::ALL.map(|kind| TimerChange::Cancel { member_id: id.clone(), kind }).to_vec();
    Decision { changes, timers, seen: cx.seen.clone(), reply }
}

/// The timers of a group that has just been loaded: everybody gets the whole time again.
pub fn timers_after_load(group: &Group, session_timeout_ms: i32) -> Vec<TimerChange> {
    let mut timers = Vec::new();
    for (id, member) in group.members() {
        let after_ms = member.metadata.classic.as_ref().map_or(session_timeout_ms, |classic| classic.session_timeout_ms);
        timers.push(TimerChange::Set { member_id: id.clone(), kind: TimerKind::Session, after_ms });
        if !member.current.pending_revocation.is_empty() && !member.is_classic() {
            timers.push(rebalance_timer(id, &member.current, member.metadata.rebalance_timeout_ms));
        }
    }
    timers
}
