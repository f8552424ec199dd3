//! What makes a classic group rebalance, and how it comes to its next generation.
//!
//! Empty → PreparingRebalance: a member joins. PreparingRebalance → CompletingRebalance: all have joined, or the time for it is over; each
//! hears of the new generation, the leader of all its members. CompletingRebalance → Stable: the leader has sent the assignments, which are
//! stored. Whoever joins, changes, leaves or falls silent begins a new PreparingRebalance; with nobody left it ends in Empty.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Effects;
use super::Name;
use super::group::{Group, InitialDelay, Member, Phase, millis};
use super::op::{Answer, Join, Joined, Leaving, Membership, Sync, Synced, Token};
use super::timers::TimerKey;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;

/// How long the client of a new member may be gone without a sign while its first JoinGroup waits (Kafka's constant).
const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 300_000;

impl Group {
    /// Takes a JoinGroup request, in a group that the caller has found or, for a member without an id, made.
    pub(super) fn join(&mut self, join: Join, token: Token, fx: &mut Effects) {
        if !self.accepts(&join.member_id, fx.config.max_size) {
            self.remove(&join.member_id, fx, ErrorCode::GroupMaxSizeReached);
            return fx.joined(token, Joined::refused(ErrorCode::GroupMaxSizeReached, Name::default()));
        }
        if !self.supports(&join.protocol_type, &join.protocols) {
            return fx.joined(token, Joined::refused(ErrorCode::InconsistentGroupProtocol, join.member_id));
        }
        if join.member_id.is_empty() { self.join_new(join, token, fx) } else { self.join_known(join, token, fx) }
    }

    /// Whether `group.max.size` lets this member in.
    fn accepts(&self, member_id: &Name, max_size: usize) -> bool {
        let member = self.member(member_id);
        match self.phase() {
            Phase::Empty => true,
            Phase::PreparingRebalance => member.is_some_and(|m| m.awaiting_join.is_some()) || self.awaiting_join() < max_size,
            Phase::CompletingRebalance | Phase::Stable => member.is_some() || self.members().len() < max_size,
        }
    }

    fn join_new(&mut self, join: Join, token: Token, fx: &mut Effects) {
        let prefix = join.instance_id.as_ref().unwrap_or(&join.client_id);
        let id: Name = format!("{prefix}-{}", hyphenated(Uuid::from_random((fx.random)()))).into();
        if let Some(instance_id) = &join.instance_id {
            return match self.static_member(instance_id).cloned() {
                Some(old) => self.rejoin_static(&old, id, join, token, fx),
                None => self.add(id, join, token, fx),
            };
        }
        if !join.needs_known_id {
            return self.add(id, join, token, fx);
        }
        self.add_pending(id.clone());
        self.await_heartbeat(&id, join.session_timeout_ms.into(), fx);
        fx.joined(token, Joined::refused(ErrorCode::MemberIdRequired, id));
    }

    fn join_known(&mut self, join: Join, token: Token, fx: &mut Effects) {
        let id = join.member_id.clone();
        if self.pending().contains(&id) && join.instance_id.is_none() {
            return self.add(id, join, token, fx);
        }
        if let Err(code) = self.validate_member(&id, join.instance_id.as_ref()) {
            return fx.joined(token, Joined::refused(code, id));
        }
        let unchanged = self.member(&id).is_some_and(|m| m.protocols == join.protocols);
        let leads = self.is_leader(&id);
        match self.phase() {
            // The answer may have been lost: the same one again.
            Phase::CompletingRebalance if unchanged => fx.joined(token, self.joined(&id, leads)),
            Phase::Stable if unchanged && !leads => fx.joined(token, self.joined(&id, false)),
            Phase::Empty => fx.joined(token, Joined::refused(ErrorCode::UnknownMemberId, id)),
            Phase::PreparingRebalance | Phase::CompletingRebalance | Phase::Stable => {
                self.update(&id, join.protocols, (join.rebalance_timeout_ms, join.session_timeout_ms), token, fx);
                self.rebalance_or_complete(fx);
            }
        }
    }

    fn add(&mut self, id: Name, join: Join, token: Token, fx: &mut Effects) {
        if self.members().is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        if let Some(initial) = &mut self.initial {
            initial.joined = true;
        }
        let member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(token),
            awaiting_sync: None,
            is_new: true,
        };
        self.insert(id.clone(), member);
        // Its client may be gone while its request waits, and sends no heartbeats before it is answered.
        self.await_heartbeat(&id, NEW_MEMBER_JOIN_TIMEOUT_MS, fx);
        self.rebalance_or_complete(fx);
    }

    /// A static member came back without its id. If that changes nothing for the others it gets its assignment back (KIP-345).
    fn rejoin_static(&mut self, old: &Name, id: Name, join: Join, token: Token, fx: &mut Effects) {
        let leader = self.leader.clone();
        self.replace(old, &id, fx);
        self.update(&id, join.protocols, (join.rebalance_timeout_ms, join.session_timeout_ms), token, fx);
        self.heard_of(&id, fx);
        match self.phase() {
            // A group that can no longer be stored finds out at the end of a rebalance.
            Phase::Stable if self.select_protocol() == self.protocol && fx.fits(&self.record()) => {
                let leads = self.is_leader(&id);
                let mut joined = self.joined(&id, leads && join.can_skip_assignment);
                if join.can_skip_assignment {
                    joined.skip_assignment = leads;
                } else {
                    // An old client that is told it leads would compute a new assignment, of a generation that is settled.
                    joined.leader = leader.unwrap_or_default();
                }
                self.complete_join(&id, joined, fx);
                fx.records.push(self.record());
            }
            Phase::Stable => self.rebalance_or_complete(fx),
            Phase::CompletingRebalance => self.prepare_rebalance(fx),
            Phase::PreparingRebalance | Phase::Empty => self.complete_if_joined(fx),
        }
    }

    fn rebalance_or_complete(&mut self, fx: &mut Effects) {
        if self.phase() == Phase::PreparingRebalance { self.complete_if_joined(fx) } else { self.prepare_rebalance(fx) }
    }

    fn complete_if_joined(&mut self, fx: &mut Effects) {
        if self.phase() == Phase::PreparingRebalance && self.initial.is_none() && self.all_joined() {
            self.complete_join_phase(fx);
        }
    }

    /// Begins a rebalance: everybody has to join again.
    pub(super) fn prepare_rebalance(&mut self, fx: &mut Effects) {
        if self.phase() == Phase::CompletingRebalance {
            self.propagate(Err(ErrorCode::RebalanceInProgress), fx);
        }
        self.unsynced.clear();
        fx.timers.cancel(&TimerKey::Sync(self.id.clone()));
        if self.phase() == Phase::Empty {
            let delay_ms = fx.config.initial_rebalance_delay_ms;
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.initial = Some(InitialDelay { delay_ms, remaining_ms, joined: false });
            self.await_joins(delay_ms, fx);
            self.enter(Phase::PreparingRebalance, fx);
            return;
        }
        self.enter(Phase::PreparingRebalance, fx);
        if self.all_joined() {
            self.complete_join_phase(fx);
        } else {
            self.await_joins(self.rebalance_timeout_ms(), fx);
        }
    }

    fn await_joins(&self, ms: i64, fx: &mut Effects) {
        let key = TimerKey::Join(self.id.clone());
        fx.timers.cancel(&key);
        fx.timers.set(key, fx.now.mono + millis(ms));
    }

    /// The time to join is over; at first it may be extended for those who still come.
    pub(super) fn expire_join(&mut self, fx: &mut Effects) {
        if self.phase() != Phase::PreparingRebalance {
            return;
        }
        if let Some(initial) = &mut self.initial
            && initial.joined
            && initial.remaining_ms != 0
        {
            let delay_ms = fx.config.initial_rebalance_delay_ms.min(initial.remaining_ms);
            let remaining_ms = (initial.remaining_ms - initial.delay_ms).max(0);
            *initial = InitialDelay { delay_ms, remaining_ms, joined: false };
            return self.await_joins(delay_ms, fx);
        }
        self.complete_join_phase(fx);
    }

    /// Makes a generation of those who have joined, and of static members, who may be away for their session.
    fn complete_join_phase(&mut self, fx: &mut Effects) {
        fx.timers.cancel(&TimerKey::Join(self.id.clone()));
        self.initial = None;
        let absent = |m: &Member| m.awaiting_join.is_none() && m.instance_id.is_none();
        let absent: Vec<Name> = self.members().iter().filter(|(_, m)| absent(m)).map(|(id, _)| id.clone()).collect();
        for id in absent {
            self.remove(&id, fx, ErrorCode::UnknownMemberId);
        }
        if !self.members().is_empty() && !self.elect_joined_leader() {
            // Static members alone, all of them away: until one comes back or their sessions end.
            return self.await_joins(self.rebalance_timeout_ms(), fx);
        }
        self.next_generation(fx);
        if self.members().is_empty() {
            fx.records.push(self.record());
            return;
        }
        for id in self.members().keys().cloned().collect::<Vec<_>>() {
            let joined = self.joined(&id, self.is_leader(&id));
            self.complete_join(&id, joined, fx);
            if let Some(member) = self.member_mut(&id) {
                member.is_new = false;
            }
            self.heard_of(&id, fx);
            self.unsynced.insert(id);
        }
        let due = fx.now.mono + millis(self.rebalance_timeout_ms());
        fx.timers.set(TimerKey::Sync(self.id.clone()), due);
    }

    /// The time to sync is over: who has not is out.
    pub(super) fn expire_sync(&mut self, fx: &mut Effects) {
        if self.unsynced.is_empty() || !matches!(self.phase(), Phase::CompletingRebalance | Phase::Stable) {
            return;
        }
        for id in std::mem::take(&mut self.unsynced) {
            self.remove(&id, fx, ErrorCode::UnknownMemberId);
        }
        self.prepare_rebalance(fx);
    }

    /// Takes a SyncGroup request.
    pub(super) fn sync(&mut self, sync: Sync, token: Token, fx: &mut Effects) {
        if let Err(code) = self.validate_sync(&sync) {
            return fx.reply(token, Err(code));
        }
        let id = sync.member.member_id;
        match self.phase() {
            Phase::Empty => fx.reply(token, Err(ErrorCode::UnknownMemberId)),
            Phase::PreparingRebalance => fx.reply(token, Err(ErrorCode::RebalanceInProgress)),
            Phase::Stable => {
                self.synced(&id, fx);
                fx.reply(token, Ok(Answer::Synced(self.synced_answer(&id))));
            }
            Phase::CompletingRebalance => {
                self.synced(&id, fx);
                let before = self.member_mut(&id).and_then(|m| m.awaiting_sync.replace(token));
                if let Some(before) = before {
                    fx.reply(before, Err(ErrorCode::RebalanceInProgress));
                }
                if self.is_leader(&id) {
                    self.assign(sync.assignments, fx);
                }
            }
        }
    }

    fn validate_sync(&self, sync: &Sync) -> Result<(), ErrorCode> {
        self.validate_member(&sync.member.member_id, sync.member.instance_id.as_ref())?;
        let differs = |said: &Option<Name>, known: &Option<Name>| said.is_some() && said != known;
        if sync.member.generation != self.generation {
            Err(ErrorCode::IllegalGeneration)
        } else if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            Err(ErrorCode::InconsistentGroupProtocol)
        } else {
            Ok(())
        }
    }

    fn synced(&mut self, id: &Name, fx: &mut Effects) {
        self.unsynced.remove(id);
        if self.unsynced.is_empty() {
            fx.timers.cancel(&TimerKey::Sync(self.id.clone()));
        }
    }

    fn synced_answer(&self, id: &Name) -> Synced {
        let assignment = self.member(id).map(|m| m.assignment.clone()).unwrap_or_default();
        Synced { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    /// The leader has sent the assignments: they are stored, and then everybody gets its own.
    fn assign(&mut self, assignments: Vec<(Name, Bytes)>, fx: &mut Effects) {
        // Copied: they are a part of the buffer that the request came in. Who was forgotten gets nothing.
        let mut assignments: BTreeMap<Name, Bytes> = assignments.into_iter().map(|(id, a)| (id, Bytes::copy_from_slice(&a))).collect();
        for id in self.members().keys().cloned().collect::<Vec<_>>() {
            let assignment = assignments.remove(&id).unwrap_or_default();
            self.set_assignment(&id, assignment);
        }
        self.enter(Phase::Stable, fx);
        let record = self.record();
        if fx.fits(&record) {
            fx.records.push(record);
            self.propagate(Ok(()), fx);
        } else {
            // Too large to be stored (max.message.bytes of the topic): the members are told, and may try again.
            self.enter(Phase::CompletingRebalance, fx);
            self.propagate(Err(ErrorCode::UnknownServerError), fx);
            self.prepare_rebalance(fx);
        }
    }

    /// Answers all SyncGroups that wait; with an error no assignment stands.
    fn propagate(&mut self, outcome: Result<(), ErrorCode>, fx: &mut Effects) {
        for id in self.members().keys().cloned().collect::<Vec<_>>() {
            if outcome.is_err() {
                self.set_assignment(&id, Bytes::new());
            }
            if let Some(token) = self.member_mut(&id).and_then(|m| m.awaiting_sync.take()) {
                let answer = outcome.map(|()| Answer::Synced(self.synced_answer(&id)));
                fx.reply(token, answer);
                self.heard_of(&id, fx);
            }
        }
    }

    /// Takes a heartbeat: the error is what the member has to react to.
    pub(super) fn heartbeat(&mut self, member: &Membership, fx: &mut Effects) -> Result<(), ErrorCode> {
        self.validate_member(&member.member_id, member.instance_id.as_ref())?;
        if member.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.heard_of(&member.member_id, fx);
        if self.phase() == Phase::PreparingRebalance { Err(ErrorCode::RebalanceInProgress) } else { Ok(()) }
    }

    /// Members leave; one code for each.
    pub(super) fn leave(&mut self, leaving: &[Leaving], fx: &mut Effects) -> Vec<ErrorCode> {
        let codes: Vec<ErrorCode> = leaving.iter().map(|one| self.leave_one(one, fx).err().unwrap_or(ErrorCode::None)).collect();
        if codes.contains(&ErrorCode::None) {
            match self.phase() {
                Phase::Stable | Phase::CompletingRebalance => self.prepare_rebalance(fx),
                Phase::PreparingRebalance => self.complete_if_joined(fx),
                Phase::Empty => {}
            }
        }
        codes
    }

    fn leave_one(&mut self, leaving: &Leaving, fx: &mut Effects) -> Result<(), ErrorCode> {
        let id = if leaving.member_id.is_empty() {
            let by_instance = leaving.instance_id.as_ref().and_then(|instance| self.static_member(instance));
            by_instance.cloned().ok_or(ErrorCode::UnknownMemberId)?
        } else {
            if !self.pending().contains(&leaving.member_id) {
                self.validate_member(&leaving.member_id, leaving.instance_id.as_ref())?;
            }
            leaving.member_id.clone()
        };
        self.remove(&id, fx, ErrorCode::UnknownMemberId);
        Ok(())
    }

    /// A member, or one that was about to join, was silent for too long.
    pub(super) fn expire_session(&mut self, id: &Name, fx: &mut Effects) {
        let waits = |m: &Member| !m.is_new && (m.awaiting_join.is_some() || m.awaiting_sync.is_some());
        match self.member(id) {
            // It cannot send heartbeats while its request waits; it is timed again when that is answered.
            Some(member) if waits(member) => return,
            None if !self.pending().contains(id) => return,
            _ => {}
        }
        self.remove(id, fx, ErrorCode::UnknownMemberId);
        match self.phase() {
            Phase::Stable | Phase::CompletingRebalance => self.prepare_rebalance(fx),
            Phase::PreparingRebalance if self.all_joined() => self.complete_join_phase(fx),
            Phase::PreparingRebalance | Phase::Empty => {}
        }
    }
}

/// The form in which Java writes a UUID, and member ids have it.
fn hyphenated(id: Uuid) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(id.0));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
