//! ConsumerGroupHeartbeat: a member joins, reports, or changes its subscription; it hears what it has.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{Group, Resolved};
use super::member::{
    ClassicMember, CurrentAssignment, JOIN_EPOCH, LEAVE_STATIC_EPOCH, Member, MemberId, Partitions, partitions_of, same_partitions,
};
use super::record::Change;
use super::target::{Part, View};
use super::topics::metadata_hash;
use super::{Context, Decision, Refusal, Reply, Seen, TimerChange, TimerKind, check_epoch, known, known_static, pattern, reconcile};
use crate::base::error::ErrorCode;

/// Patterns are matched against new topics at most this often, milliseconds.
const REGEX_REST_MS: i64 = 10_000;
/// Patterns that one heartbeat matches again; the next one goes on.
const REGEXES_AT_ONCE: usize = 16;

/// A heartbeat that joins or reports. `None` where the member says nothing new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The group.
    pub group_id: String,
    /// The member; made up by the caller where a client of version 0 leaves it to the coordinator.
    pub member_id: String,
    /// 0 to join.
    pub member_epoch: i32,
    /// `group.instance.id`; a static member sends it every time.
    pub instance_id: Option<String>,
    /// `client.rack`.
    pub rack_id: Option<String>,
    /// Time to give up partitions, milliseconds.
    pub rebalance_timeout_ms: Option<i32>,
    /// Topics subscribed to by name.
    pub topic_names: Option<BTreeSet<String>>,
    /// Pattern subscribed to; empty: none any more.
    pub topic_regex: Option<String>,
    /// Server-side assignor.
    pub server_assignor: Option<String>,
    /// What the member owns.
    pub owned: Option<Partitions>,
    /// `client.id`.
    pub client_id: String,
    /// Where it comes from.
    pub client_host: String,
}

impl Request {
    /// Whether it may make the group larger by more than what the member was to have anyway.
    pub(super) fn grows(&self) -> bool {
        let said = self.topic_names.is_some() || self.topic_regex.is_some();
        self.joins() || said || self.rack_id.is_some() || self.server_assignor.is_some()
    }

    /// Whether the member comes, or comes back.
    pub(super) fn joins(&self) -> bool {
        self.member_epoch == JOIN_EPOCH
    }

    /// A member says everything when it joins, and after errors: then it is told everything.
    fn is_full(&self) -> bool {
        self.rebalance_timeout_ms.is_some() && (self.topic_names.is_some() || self.topic_regex.is_some()) && self.owned.is_some()
    }
}

/// Decides on a heartbeat. The group is an empty one where a member joins that is the first.
pub fn heartbeat(group: &Group, cx: &Context<'_>, request: &Request) -> Result<Decision<Reply>, Refusal> {
    check_size(group, cx, &request.member_id)?;
    let mut draft = Draft::begin(group, cx, request, false)?;
    draft.update_member(request, None);
    draft.decide(request)
}

/// Whether a member may join: those that are in the group already may.
pub(super) fn check_size(group: &Group, cx: &Context<'_>, member_id: &str) -> Result<(), Refusal> {
    if group.members().len() < cx.settings.max_size || group.members().contains_key(member_id) {
        return Ok(());
    }
    let text = format!("The consumer group has reached its maximum capacity of {} members.", cx.settings.max_size);
    Err(Refusal::new(ErrorCode::GroupMaxSizeReached, text))
}

/// A heartbeat in work.
pub(super) struct Draft<'a> {
    group: &'a Group,
    cx: &'a Context<'a>,
    id: MemberId,
    /// The static member whose place is taken.
    replaced: Option<&'a MemberId>,
    /// The member before the heartbeat; a new one is empty.
    base: Member,
    /// The member after it.
    member: Member,
    regexes: BTreeMap<String, Option<Resolved>>,
    /// A pattern that is new to the group, with its topics: they count from the next epoch on.
    new_regex: Option<(String, BTreeSet<String>)>,
    changes: Vec<Change>,
    timers: Vec<TimerChange>,
    seen: Seen,
}

impl<'a> Draft<'a> {
    /// Finds the member that a request speaks for, or whose place it takes. One of the classic protocol takes any static member's.
    pub(super) fn begin(group: &'a Group, cx: &'a Context<'a>, request: &Request, classic: bool) -> Result<Draft<'a>, Refusal> {
        let known_id = || group.find(&request.member_id);
        let (mut replaced, mut changes) = (None, Vec::new());
        let found = match request.instance_id.as_deref() {
            None if request.joins() => known_id(),
            None => Some(known(group, &request.group_id, &request.member_id)?),
            Some(instance_id) if request.joins() => match group.static_member(instance_id) {
                None => known_id(),
                // A member that was fenced and begins anew. (Kafka 4.3 lets it wait for its own session timeout.)
                Some((owner, member)) if **owner == *request.member_id && member.current.epoch != LEAVE_STATIC_EPOCH => {
                    Some((owner, member))
                }
                Some((owner, member)) => {
                    if !classic {
                        check_released(owner, member, request, instance_id)?;
                    }
                    replaced = Some(owner);
                    Some((owner, member))
                }
            },
            Some(instance_id) => Some(known_static(group, &request.member_id, instance_id)?),
        };
        let id = found.filter(|_| replaced.is_none()).map_or_else(|| request.member_id.as_str().into(), |(id, _)| id.clone());
        let mut base = found.map(|(_, member)| member.clone()).unwrap_or_default();
        if let Some(owner) = replaced {
            (base.current.epoch, base.current.previous_epoch) = (JOIN_EPOCH, JOIN_EPOCH);
            changes.extend([
                Change::Current(owner.clone(), None),
                Change::Target(owner.clone(), None),
                Change::Member(owner.clone(), None),
            ]);
            let target = group.targets().get(owner).cloned().unwrap_or_default();
            changes.extend([
                Change::Member(id.clone(), Some(base.metadata.clone())),
                Change::Target(id.clone(), Some(target)),
                Change::Current(id.clone(), Some(base.current.clone())),
            ]);
        } else if found.is_some() {
            check_epoch(&base, request.member_epoch, request.owned.as_ref())?;
        }
        let member = base.clone();
        Ok(Draft {
            group,
            cx,
            id,
            replaced,
            base,
            member,
            regexes: BTreeMap::new(),
            new_regex: None,
            changes,
            timers: Vec::new(),
            seen: cx.seen.clone(),
        })
    }

    /// Does the rest, once it is known what the member is.
    pub(super) fn decide(mut self, request: &Request) -> Result<Decision<Reply>, Refusal> {
        let regex_changed = self.update_regexes()?;
        let bump = self.base.metadata.topic_names != self.member.metadata.topic_names || regex_changed;
        let epoch = self.update_epoch(bump);
        let (target_epoch, target) = self.update_target(epoch);
        self.reconcile(request, target_epoch, &target)?;
        self.add_new_regex(epoch);
        Ok(self.finish(request))
    }

    /// Takes in what the request says of the member.
    pub(super) fn update_member(&mut self, request: &Request, classic: Option<ClassicMember>) {
        let metadata = &mut self.member.metadata;
        let set = |field: &mut Option<String>, new: &Option<String>| {
            if new.is_some() {
                field.clone_from(new);
            }
        };
        set(&mut metadata.instance_id, &request.instance_id);
        set(&mut metadata.rack_id, &request.rack_id);
        set(&mut metadata.server_assignor, &request.server_assignor);
        set(&mut metadata.topic_regex, &request.topic_regex);
        if let Some(ms) = request.rebalance_timeout_ms {
            metadata.rebalance_timeout_ms = ms;
        }
        if let Some(names) = &request.topic_names {
            metadata.topic_names.clone_from(names);
        }
        metadata.client_id.clone_from(&request.client_id);
        metadata.client_host.clone_from(&request.client_host);
        metadata.classic = classic;
        if self.member.metadata != self.base.metadata {
            self.changes.push(Change::Member(self.id.clone(), Some(self.member.metadata.clone())));
        }
    }

    /// Matches patterns against the topics: a new one, and all of them when there may be new topics.
    /// Whether that changes what the group subscribes to by now.
    fn update_regexes(&mut self) -> Result<bool, Refusal> {
        let (old, new) = (self.base.metadata.regex(), self.member.metadata.regex());
        let changed = old != new;
        if changed {
            if let Some(old) = old.filter(|old| self.group.patterns().get(old) <= 1) {
                self.regexes.insert(old.to_owned(), None);
                self.changes.push(Change::Regex(old.to_owned(), None));
            }
            if let Some(new) = new {
                // Also one that others have: the check is what tells a member of its mistake.
                let topics = pattern::resolve(new, self.cx.topics).map_err(|reason| {
                    let text = format!("SubscribedTopicRegex `{new}` is not a valid regular expression: {reason}.");
                    Refusal::new(ErrorCode::InvalidRegularExpression, text)
                })?;
                if !self.group.regexes().contains_key(new) {
                    self.new_regex = Some((new.to_owned(), topics));
                }
            }
        }
        Ok(self.refresh_regexes() || changed && self.new_regex.is_none())
    }

    /// Takes in a pattern that is new to the group. As in Kafka, which matches it in the background,
    /// this heartbeat is still answered without; its topics begin an epoch after `epoch`.
    fn add_new_regex(&mut self, epoch: i32) {
        let Some((regex, topics)) = self.new_regex.take() else { return };
        let matches = !topics.is_empty();
        self.resolve(regex, topics);
        if matches {
            let hash = metadata_hash(self.view().topic_names(), self.cx.topics);
            self.changes.push(Change::epoch(epoch.saturating_add(1), hash));
        }
    }

    fn resolve(&mut self, regex: String, topics: BTreeSet<String>) {
        let resolved = Resolved { topics, version: self.cx.topics.version(), timestamp_ms: self.cx.now_ms };
        self.changes.push(Change::Regex(regex.clone(), Some(resolved.clone())));
        self.regexes.insert(regex, Some(resolved));
    }

    /// Whether topics came or went that match a pattern.
    fn refresh_regexes(&mut self) -> bool {
        let (now_ms, version) = (self.cx.now_ms, self.cx.topics.version());
        // A wall clock that was set back tells nothing.
        let rested = match now_ms.saturating_sub(self.seen.regex_ms) {
            ..0 => i64::MAX,
            rested => rested,
        };
        let due = self.seen.regex_next.is_some()
            || self.seen.regex_version < version && rested > REGEX_REST_MS
            || rested > self.cx.settings.regex_refresh_interval_ms.into();
        if self.group.patterns().keys().len() == 0 || !due {
            return false;
        }
        let next = self.seen.regex_next.take();
        if next.is_none() {
            (self.seen.regex_version, self.seen.regex_ms) = (version, now_ms);
        }
        let mut patterns = self.group.patterns().keys_from(next.as_deref().unwrap_or_default());
        let some: Vec<&str> = patterns.by_ref().take(REGEXES_AT_ONCE).collect();
        self.seen.regex_next = patterns.next().map(Box::from);
        let mut changed = false;
        for regex in some {
            if self.regexes.contains_key(regex) {
                continue;
            }
            // One from another broker's log may not compile here: it matches nothing.
            let topics = pattern::resolve(regex, self.cx.topics).unwrap_or_default();
            if self.group.regexes().get(regex).is_none_or(|resolved| resolved.topics != topics) {
                self.resolve(regex.to_owned(), topics);
                changed = true;
            }
        }
        changed
    }

    fn view(&self) -> View<'_> {
        View {
            group: self.group,
            without: self.replaced,
            with: Some((&self.id, &self.member.metadata)),
            regexes: &self.regexes,
            topics: self.cx.topics,
        }
    }

    /// Begins a new epoch when there is a reason, in the member or in the topics. The epoch of the group.
    fn update_epoch(&mut self, bump: bool) -> i32 {
        let version = self.cx.topics.version();
        if !bump && self.seen.version == version {
            return self.group.epoch();
        }
        self.seen.version = version;
        let hash = metadata_hash(self.view().topic_names(), self.cx.topics);
        let mut epoch = self.group.epoch();
        if bump || hash != self.group.metadata_hash() {
            epoch = epoch.saturating_add(1);
            self.changes.push(Change::epoch(epoch, hash));
        }
        if self.group.has_partition_metadata() {
            self.changes.push(Change::PartitionMetadata { present: false });
        }
        epoch
    }

    /// Makes a new target assignment, unless the last one is up to date or too young. Its epoch, and the member's part.
    fn update_target(&mut self, epoch: i32) -> (i32, Partitions) {
        let (group, made_ms) = (self.group, self.group.target_timestamp_ms());
        let interval: i64 = self.cx.settings.assignment_interval_ms.into();
        // Of a target that a clock made which was set back since, the age is not known.
        let young = |ms: i64| ms != 0 && (ms..ms.saturating_add(interval)).contains(&self.cx.now_ms);
        if group.target_epoch() >= epoch || young(made_ms) || young(self.seen.assigned_ms) {
            return (group.target_epoch(), self.view().target(&self.id).cloned().unwrap_or_default());
        }
        self.seen.assigned_ms = self.cx.now_ms;
        let parts = self.view().assign(&self.cx.settings.assignors);
        let mut mine = Partitions::new();
        let mut changes = Vec::new();
        for Part { id, former, target } in parts {
            if *id == self.id {
                mine.clone_from(&target);
            }
            if former != Some(&target) {
                changes.push(Change::Target(id.clone(), Some(target)));
            }
        }
        self.changes.extend(changes);
        self.changes.push(Change::target_epoch(epoch, self.cx.now_ms));
        (epoch, mine)
    }

    /// Takes the member a step towards its target.
    fn reconcile(&mut self, request: &Request, target_epoch: i32, target: &Partitions) -> Result<(), Refusal> {
        let step = reconcile::Step {
            target_epoch,
            target,
            subscribed: &self.view().topics_of(&self.member.metadata),
            is_held: &|topic, partition| self.group.holder(topic, partition).is_some(),
            reported: request.owned.as_ref(),
        };
        let next = reconcile::next(&self.member.current, &step).map_err(|reconcile::UnknownState| {
            let text = "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin.";
            Refusal::new(ErrorCode::FencedMemberEpoch, text)
        })?;
        if next != self.member.current {
            self.changes.push(Change::Current(self.id.clone(), Some(next.clone())));
            self.timers.push(rebalance_timer(&self.id, &next, self.member.metadata.rebalance_timeout_ms));
            self.member.current = next;
        }
        Ok(())
    }

    fn finish(mut self, request: &Request) -> Decision<Reply> {
        let Member { current, .. } = &self.member;
        if let Some(replaced) = self.replaced.filter(|replaced| **replaced != self.id) {
            self.timers.extend(TimerKind::ALL.map(|kind| TimerChange::Cancel { member_id: replaced.clone(), kind }));
        }
        self.timers.push(TimerChange::Set {
            member_id: self.id.clone(),
            kind: TimerKind::Session,
            after_ms: self.cx.settings.session_timeout_ms,
        });
        let tell = request.joins() || request.is_full() || !same_partitions(&self.base.current.assigned, &current.assigned);
        let reply = Reply {
            member_id: self.id,
            epoch: current.epoch,
            heartbeat_interval_ms: self.cx.settings.heartbeat_interval_ms,
            assignment: tell.then(|| partitions_of(&current.assigned)),
        };
        Decision { changes: self.changes, timers: self.timers, seen: self.seen, reply }
    }
}

/// A static member's place can be taken once it has left for a while, or when it used the classic protocol.
fn is_released(member: &Member) -> bool {
    member.is_classic() || member.current.epoch == LEAVE_STATIC_EPOCH
}

fn check_released(owner: &MemberId, member: &Member, request: &Request, instance_id: &str) -> Result<(), Refusal> {
    if is_released(member) {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::UnreleasedInstanceId,
        format!(
            "Static member {} with instance id {instance_id} cannot join the group because the instance id is owned by {owner} member.",
            request.member_id
        ),
    ))
}

/// The timer that goes with a state: a member must give up its partitions within its rebalance timeout.
pub(super) fn rebalance_timer(id: &MemberId, current: &CurrentAssignment, timeout_ms: i32) -> TimerChange {
    let (member_id, kind) = (id.clone(), TimerKind::Rebalance);
    if !current.pending_revocation.is_empty() {
        TimerChange::Set { member_id, kind, after_ms: timeout_ms }
    } else {
        TimerChange::Cancel { member_id, kind }
    }
}
