//! Consumer groups of the new protocol (KIP-848). One group is a [`Group`], made of the records in `__consumer_offsets`; requests and timers are
//! decided upon without changing it ([`heartbeat`], [`leave`]), and what was decided is applied record by record.

pub mod assign;
pub mod classic;
pub mod commit;
pub mod describe;
pub mod group;
pub mod heartbeat;
pub mod leave;
pub mod member;
mod migrate;
pub mod pattern;
pub mod reconcile;
pub mod record;
mod step;
pub mod target;
#[cfg(test)]
pub(super) mod testing;
pub mod topics;

use group::Group;
use member::{MemberId, Partitions};
use record::Change;
use topics::Topics;

use crate::base::config::ConsumerGroupConfig;
use crate::base::error::ErrorCode;

/// How far a group has taken notice of the cluster's topics. Not in the log: after a restart everything is looked at once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// [`Topics::version`] that the metadata hash was last compared with.
    pub version: i64,
    /// [`Topics::version`] that patterns were last matched against.
    pub regex_version: i64,
    /// When, milliseconds since 1970.
    pub regex_ms: i64,
    /// The first of the patterns that are still to be matched then; `None`: all have been.
    pub regex_next: Option<Box<str>>,
    /// When a target assignment was last worked out, also if its member was refused then: 0 never.
    pub assigned_ms: i64,
}

impl Default for Seen {
    fn default() -> Self {
        Seen { version: -1, regex_version: -1, regex_ms: 0, regex_next: None, assigned_ms: 0 }
    }
}

/// What a decision depends on beside the group.
pub struct Context<'a> {
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// The group's settings.
    pub settings: &'a ConsumerGroupConfig,
    /// The cluster's topics.
    pub topics: &'a dyn Topics,
    /// What the group has taken notice of.
    pub seen: Seen,
}

/// A timer of one member; a new one takes the place of the former.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// The member must report.
    Session,
    /// The member must have given up what it was told to.
    Rebalance,
    /// The classic member must join again.
    Join,
    /// The classic member must fetch what it was given when it joined.
    Sync,
}

impl TimerKind {
    /// All of them.
    pub const ALL: [TimerKind; 4] = [TimerKind::Session, TimerKind::Rebalance, TimerKind::Join, TimerKind::Sync];
}

/// A change of a member's timers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerChange {
    /// To go off after so many milliseconds.
    Set {
        /// Whose.
        member_id: MemberId,
        /// Which one.
        kind: TimerKind,
        /// From now, milliseconds.
        after_ms: i32,
    },
    /// Likewise, unless it is set already.
    Keep {
        /// Whose.
        member_id: MemberId,
        /// Which one.
        kind: TimerKind,
        /// From now, milliseconds.
        after_ms: i32,
    },
    /// Not to go off.
    Cancel {
        /// Whose.
        member_id: MemberId,
        /// Which one.
        kind: TimerKind,
    },
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The member's id.
    pub member_id: MemberId,
    /// The epoch to be used from now on.
    pub epoch: i32,
    /// When to report again, milliseconds; 0 to a member that leaves.
    pub heartbeat_interval_ms: i32,
    /// What the member has now; `None`: as before.
    pub assignment: Option<Partitions>,
}

/// What is to happen: the records are appended together and applied, the rest is done with them; the reply waits until they are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<T> {
    /// To be appended as one batch, and applied in this order.
    pub changes: Vec<Change>,
    /// Timers.
    pub timers: Vec<TimerChange>,
    /// What the group has taken notice of.
    pub seen: Seen,
    /// The answer.
    pub reply: T,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's error.
    pub code: ErrorCode,
    /// Kafka's text.
    pub message: String,
}

impl Refusal {
    fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

/// Judges the epoch that a member reports; an older one is taken once, if the member owns nothing that it does not have (its last answer may have been
/// lost).
fn check_epoch(member: &member::Member, epoch: i32, reported: Option<&Partitions>) -> Result<(), Refusal> {
    let current = &member.current;
    let subset = |reported: &Partitions| {
        let has = |topic, partition| current.assigned.get(topic).is_some_and(|assigned| assigned.contains_key(partition));
        reported.iter().all(|(topic, partitions)| partitions.iter().all(|partition| has(topic, partition)))
    };
    let relation = match epoch {
        member::JOIN_EPOCH => return Ok(()),
        _ if epoch > current.epoch => "greater",
        _ if epoch < current.epoch && (epoch != current.previous_epoch || !reported.is_some_and(subset)) => "smaller",
        _ => return Ok(()),
    };
    Err(Refusal::new(
        ErrorCode::FencedMemberEpoch,
        format!(
            "The consumer group member has a {relation} member epoch ({epoch}) than the one known by the group coordinator ({}). The member must \
             abandon all its partitions and rejoin.",
            current.epoch
        ),
    ))
}

/// The member with an id, or Kafka's refusal.
fn known<'a>(group: &'a Group, group_id: &str, member_id: &str) -> Result<(&'a MemberId, &'a member::Member), Refusal> {
    group
        .find(member_id)
        .ok_or_else(|| Refusal::new(ErrorCode::UnknownMemberId, format!("Member {member_id} is not a member of group {group_id}.")))
}

/// The static member with an instance id that a request of `member_id` may speak for, or Kafka's refusal.
fn known_static<'a>(group: &'a Group, member_id: &str, instance_id: &str) -> Result<(&'a MemberId, &'a member::Member), Refusal> {
    match group.static_member(instance_id) {
        None => Err(Refusal::new(ErrorCode::UnknownMemberId, format!("Instance id {instance_id} is unknown."))),
        Some((owner, _)) if **owner != *member_id => Err(Refusal::new(
            ErrorCode::FencedInstanceId,
            format!("Static member {member_id} with instance id {instance_id} was fenced by member {owner}."),
        )),
        Some(found) => Ok(found),
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
