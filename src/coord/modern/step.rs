//! The part of a coordinator's decisions that concerns groups of the new protocol: finds the group, and turns what is decided about it into
//! records, timers and replies.

use std::borrow::Cow;
use std::time::Duration;

use super::group::{GROUP_BYTES, Group};
use super::heartbeat::{self, Request};
use super::leave::{self, Leave};
use super::record::Change;
use super::{Context, Decision, Refusal, TimerChange, TimerKind, describe};
use crate::base::config::ConsumerGroupConfig;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::coord::op::{Answer, Reply};
use crate::coord::record::Record;
use crate::coord::timers::TimerKey;
use crate::coord::{Effects, Name, Step, group_bytes};

impl<'a> Effects<'a> {
    /// The settings of a group.
    fn settings(&self, id: &str) -> Cow<'a, ConsumerGroupConfig> {
        self.config.consumer.with(self.overrides.of(id))
    }

    pub(super) fn set_timers(&mut self, id: &Name, changes: Vec<TimerChange>) {
        for change in changes {
            match change {
                TimerChange::Set { member_id, kind, after_ms } => {
                    let due = self.now.mono + Duration::from_millis(after_ms.max(0) as u64);
                    self.timers.set(TimerKey::Member(id.clone(), member_id, kind), due);
                }
                TimerChange::Keep { member_id, kind, after_ms } => {
                    let key = TimerKey::Member(id.clone(), member_id, kind);
                    if !self.timers.contains(&key) {
                        self.timers.set(key, self.now.mono + Duration::from_millis(after_ms.max(0) as u64));
                    }
                }
                TimerChange::Cancel { member_id, kind } => self.timers.cancel(&TimerKey::Member(id.clone(), member_id, kind)),
            }
        }
    }

    /// Lets a decision be made about a group, and takes it over.
    pub(super) fn modern<T>(&mut self, id: &Name, decide: impl FnOnce(&Context<'_>) -> Result<Decision<T>, Refusal>) -> Result<T, Refusal> {
        self.modern_within(id, |_| true, decide)
    }

    /// As [`Effects::modern`], if there is room for what the decision changes.
    pub(super) fn modern_within<T>(
        &mut self,
        id: &Name,
        has_room: impl FnOnce(&[Change]) -> bool,
        decide: impl FnOnce(&Context<'_>) -> Result<Decision<T>, Refusal>,
    ) -> Result<T, Refusal> {
        let seen = self.seen.get(id).cloned().unwrap_or_default();
        let settings = self.settings(id);
        let cx = Context { now_ms: self.now.wall_ms, settings: &settings, topics: self.topics, seen };
        let Decision { changes, timers, seen, reply } = decide(&cx)?;
        if !has_room(&changes) {
            // Else each of those who are refused would have all members assigned anew.
            if let Some(known) = self.seen.get_mut(id) {
                known.assigned_ms = seen.assigned_ms;
            }
            return Err(Refusal::new(ErrorCode::CoordinatorNotAvailable, "There is no memory for more members."));
        }
        let first = self.records.len();
        self.records.extend(changes.into_iter().map(|change| Record::modern(id, change)));
        if !self.all_fit() {
            self.records.truncate(first);
            return Err(Refusal::new(ErrorCode::UnknownServerError, "The group's records are larger than max.message.bytes."));
        }
        self.seen.insert(id.clone(), seen);
        self.set_timers(id, timers);
        Ok(reply)
    }
}

/// Memory that a group takes when it gets its first member.
fn group_cost(id: &Name, group: &Group) -> usize {
    if group.members().is_empty() { group_bytes(id) + GROUP_BYTES } else { 0 }
}

impl Step<'_> {
    fn modern_group(&self, id: &Name) -> Option<&Group> {
        self.state.group(id)?.modern.as_deref()
    }

    /// Kafka's refusal where there is no group of the new protocol.
    fn no_modern_group(&self, id: &Name) -> Refusal {
        let text =
            if self.view(id).exists() { format!("Group {id} is not a consumer group.") } else { format!("Consumer group {id} not found.") };
        Refusal::new(ErrorCode::GroupIdNotFound, text)
    }

    /// Who leaves hears of any group that is missing in the same words.
    fn not_to_be_left(&self, id: &Name) -> Refusal {
        let missing = || Refusal::new(ErrorCode::GroupIdNotFound, format!("Group {id} not found."));
        if self.view(id).exists() { self.no_modern_group(id) } else { missing() }
    }

    pub(in crate::coord) fn modern_heartbeat(&mut self, id: &Name, request: &Request, spare: usize) -> Reply {
        let given;
        let request = if request.member_id.is_empty() {
            let member_id = Uuid::from_random((self.fx.random)()).to_string();
            given = Request { member_id, ..request.clone() };
            &given
        } else {
            request
        };
        let state = self.state;
        let stored = state.group(id);
        let (new, before);
        let group = match stored.and_then(|stored| stored.modern.as_deref()) {
            Some(group) => {
                before = Vec::new();
                group
            }
            None if !request.joins() => return Ok(Answer::Heard(Err(self.no_modern_group(id)))),
            None => match self.instead_of_classic(id) {
                Ok(found) => {
                    (new, before) = found;
                    &new
                }
                Err(refusal) => return Ok(Answer::Heard(Err(refusal))),
            },
        };
        // What only reports is never refused: a member would lose its place.
        let has_room = |changes: &[Change]| !request.grows() || group_cost(id, group) + group.growth(changes) <= spare;
        let first = self.fx.records.len();
        self.fx.records.extend(before);
        let heard = self.fx.modern_within(id, has_room, |cx| heartbeat::heartbeat(group, cx, request));
        if heard.is_err() {
            self.fx.records.truncate(first);
        } else if self.groups.contains_key(id) {
            // It had members, who are in the new group, or had only given out ids.
            self.end_classic(id);
            let timers = leave::timers_after_load(group, self.fx.settings(id).session_timeout_ms);
            self.fx.set_timers(id, timers);
        }
        Ok(Answer::Heard(heard))
    }

    pub(in crate::coord) fn modern_leave(&mut self, id: &Name, request: &Leave) -> Reply {
        let state = self.state;
        let Some(group) = state.group(id).and_then(|stored| stored.modern.as_deref()) else {
            return Ok(Answer::Heard(Err(self.not_to_be_left(id))));
        };
        let first = self.fx.records.len();
        let heard = self.fx.modern(id, |cx| leave::leave(group, cx, request));
        self.downgrade_if_classic(id, group, first);
        Ok(Answer::Heard(heard))
    }

    pub(in crate::coord) fn modern_describe(&self, id: &Name) -> Reply {
        match self.modern_group(id) {
            Some(group) => Ok(Answer::ConsumerDescribed(describe::describe(group, &self.fx.config.consumer.assignors))),
            None if self.view(id).exists() => Ok(Answer::OtherType),
            None => Err(ErrorCode::GroupIdNotFound),
        }
    }

    pub(in crate::coord) fn modern_expired(&mut self, id: &Name, member: &Name, kind: TimerKind) {
        let state = self.state;
        let Some(group) = state.group(id).and_then(|stored| stored.modern.as_deref()) else { return };
        let nothing = Refusal::new(ErrorCode::None, "");
        let first = self.fx.records.len();
        match self.fx.modern(id, |cx| leave::expired(group, cx, member, kind).ok_or(nothing)) {
            Ok(()) => self.downgrade_if_classic(id, group, first),
            // The deadline no longer matters.
            Err(refusal) if refusal.code == ErrorCode::None => {}
            // Too large to be stored: `max.message.bytes` may be raised.
            Err(_) => {
                let after_ms = self.fx.settings(id).session_timeout_ms;
                self.fx.set_timers(id, vec![TimerChange::Set { member_id: member.clone(), kind, after_ms }]);
            }
        }
    }

    /// Everybody that the log knows has the whole session from now on.
    pub(in crate::coord) fn modern_loaded(&mut self) {
        let state = self.state;
        let served = state.groups().iter().filter(|(_, stored)| !stored.is_fenced());
        for (id, group) in served.filter_map(|(id, stored)| Some((id, stored.modern.as_deref()?))) {
            let timers = leave::timers_after_load(group, self.fx.settings(id).session_timeout_ms);
            self.fx.set_timers(id, timers);
        }
    }

    /// Removes a group of the new protocol that has no members, for a classic one to take its name.
    pub(in crate::coord) fn make_way_for_classic(&mut self, id: &Name) {
        let state = self.state;
        let Some(group) = state.group(id).and_then(|stored| stored.modern.as_deref()) else { return };
        self.fx.records.extend(group.tombstones().into_iter().map(|change| Record::modern(id, change)));
        self.fx.seen.remove(id);
    }
}
