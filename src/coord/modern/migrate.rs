//! The part of a coordinator's decisions that concerns groups with members of both protocols, and their way from one to the other.

use super::group::Group;
use super::record::Change;
use super::{Refusal, TimerChange, TimerKind, classic};
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::coord::group as classic_group;
use crate::coord::op::{Answer, Join, Joined, Op, Token};
use crate::coord::record::Record;
use crate::coord::timers::TimerKey;
use crate::coord::{Name, Step};

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;

impl Step<'_> {
    /// What a member of the new protocol that joins first finds where there is none of its groups: an empty group, or what a classic one with
    /// members becomes (KIP-848's online upgrade); and the records that come before those of the member.
    pub(super) fn instead_of_classic(&self, id: &Name) -> Result<(Group, Vec<Record>), Refusal> {
        let stored = self.state.group(id).is_some_and(|stored| stored.metadata.is_some());
        let mut records: Vec<Record> = stored.then(|| Record::Group { group: id.clone(), value: None }).into_iter().collect();
        let mut group = Group::default();
        let Some(live) = self.groups.get(id).filter(|live| !live.members().is_empty()) else { return Ok((group, records)) };
        let refused =
            |why: &str| Refusal::new(ErrorCode::GroupIdNotFound, format!("Cannot upgrade classic group {id} to consumer group {why}"));
        if !self.fx.config.consumer.upgrade {
            return Err(refused("because online upgrade is disabled."));
        }
        if live.members().len() > self.fx.config.consumer.max_size {
            return Err(refused("because the group size exceeds the consumer group maximum size."));
        }
        for change in classic::upgrade(live, self.fx.topics).map_err(refused)? {
            group.apply(&change);
            records.push(Record::modern(id, change));
        }
        Ok((group, records))
    }

    /// A classic group has become one of the new protocol: whoever waits for its next generation has to join again.
    pub(super) fn end_classic(&mut self, id: &Name) {
        let Some(mut group) = self.groups.remove(id) else { return };
        self.bytes.sub(group.bytes());
        let ids: Vec<Name> = group.members().keys().chain(group.pending()).cloned().collect();
        ids.iter().for_each(|member| group.remove(member, &mut self.fx, ErrorCode::RebalanceInProgress));
        self.fx.timers.cancel(&TimerKey::Join(id.clone()));
        self.fx.timers.cancel(&TimerKey::Sync(id.clone()));
        self.fx.timers.cancel(&TimerKey::Kept(id.clone()));
    }

    /// When none but classic members are left after the records from `first` on, the group is a classic one again, and rebalances.
    pub(super) fn downgrade_if_classic(&mut self, id: &Name, group: &Group, first: usize) {
        let changes: Vec<&Change> = self.fx.records[first..]
            .iter()
            .filter_map(|record| match record {
                Record::Modern { change, .. } => Some(&**change),
                _ => None,
            })
            .collect();
        if !self.fx.config.consumer.downgrade || changes.is_empty() {
            return;
        }
        let Some(last) = classic::without_modern_members(group, &changes) else { return };
        let fits = last.members().len() <= self.fx.config.max_size;
        // Not the epoch that began with the last step: the members have yet to hear of the rebalance
        // in their own generation.
        let metadata = classic::downgrade(&last, group.epoch(), self.fx.topics, self.fx.now.wall_ms);
        let Some(metadata) = metadata.filter(|_| fits) else { return };
        let before = self.fx.records.len();
        self.fx.records.extend(last.tombstones().into_iter().map(|change| Record::modern(id, change)));
        self.fx.records.push(Record::Group { group: id.clone(), value: Some(metadata.clone()) });
        if !self.fx.all_fit() {
            // It stays as it is: halves of this would be no group.
            return self.fx.records.truncate(before);
        }
        for member_id in last.members().keys() {
            let timers = TimerKind::ALL.map(|kind| TimerChange::Cancel { member_id: member_id.clone(), kind });
            self.fx.set_timers(id, timers.to_vec());
        }
        self.fx.seen.remove(id);
        let live = classic_group::Group::new(id.clone(), Some(&metadata));
        self.bytes.add(live.bytes());
        self.groups.insert(id.clone(), live);
        self.on_group(id, false, |group, fx| {
            let members: Vec<Name> = group.members().keys().cloned().collect();
            members.iter().for_each(|member| group.heard_of(member, fx));
            group.prepare_rebalance(fx);
        });
    }

    /// Answers what members of the classic protocol ask of a group of the new one; hands back what is none of that.
    pub(in crate::coord) fn classic_op_on_modern(&mut self, id: &Name, op: Op, token: Token, spare: usize) -> Option<Op> {
        let state = self.state;
        let Some(group) = state.group(id).and_then(|stored| stored.modern.as_deref()).filter(|group| !group.members().is_empty()) else {
            return Some(op);
        };
        let reply = match op {
            Op::Join(join) => {
                let joined = self.join_modern(id, group, &join, spare);
                self.fx.joined(token, joined);
                return None;
            }
            Op::Sync(sync) => {
                let synced = classic::sync(group, &sync, self.fx.topics);
                self.with_timers(id, synced).map(Answer::Synced)
            }
            Op::Heartbeat(who) => {
                let beat = classic::heartbeat(group, &who);
                self.with_timers(id, beat).map(|()| Answer::Done)
            }
            Op::Leave(leaving) => {
                let first = self.fx.records.len();
                let codes = self.fx.modern(id, |cx| Ok(classic::leave(group, cx, &leaving)));
                self.downgrade_if_classic(id, group, first);
                codes.map(Answer::Codes).map_err(|refusal| refusal.code)
            }
            other => return Some(other),
        };
        self.fx.reply(token, reply);
        None
    }

    fn with_timers<T>(&mut self, id: &Name, decided: Result<(Vec<TimerChange>, Result<T, ErrorCode>), ErrorCode>) -> Result<T, ErrorCode> {
        let (timers, result) = decided?;
        self.fx.set_timers(id, timers);
        result
    }

    fn join_modern(&mut self, id: &Name, group: &Group, join: &Join, spare: usize) -> Joined {
        let refused = |code| Joined::refused(code, join.member_id.clone());
        let config = self.fx.config;
        if !(config.min_session_timeout_ms..=config.max_session_timeout_ms).contains(&join.session_timeout_ms) {
            return refused(ErrorCode::InvalidSessionTimeout);
        }
        // With the policy `disabled` groups are not to be mixed.
        if !config.consumer.upgrade && !config.consumer.downgrade {
            return refused(ErrorCode::InconsistentGroupProtocol);
        }
        let member_id: Name = match &*join.member_id {
            "" => Uuid::from_random((self.fx.random)()).to_string().into(),
            _ => join.member_id.clone(),
        };
        if join.member_id.is_empty() && join.needs_known_id && join.instance_id.is_none() {
            return Joined::refused(ErrorCode::MemberIdRequired, member_id);
        }
        let first = self.fx.records.len();
        let has_room = |changes: &[Change]| group.growth(changes) <= spare;
        match self.fx.modern_within(id, has_room, |cx| classic::join(group, cx, id, &member_id, join)) {
            // Without the member's id, as Kafka.
            Err(refusal) => Joined::refused(refusal.code, Name::default()),
            Ok(joined) => {
                self.downgrade_if_classic(id, group, first);
                Joined {
                    code: ErrorCode::None,
                    generation: joined.generation,
                    protocol_type: Some(join.protocol_type.clone()),
                    protocol: Some(joined.protocol),
                    leader: Name::default(),
                    skip_assignment: false,
                    member_id: joined.member_id,
                    members: Vec::new(),
                }
            }
        }
    }
}
