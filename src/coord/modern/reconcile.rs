//! One step of a member from what it has towards its target (KIP-848): first it gives up what is no longer its own, then it gets what
//! others have given up. A partition has one owner at a time, whatever the order in which members report.

use std::collections::BTreeSet;

use super::member::{CurrentAssignment, MemberState, Owned, Partitions};
use crate::base::ids::TopicId;

/// What a step depends on.
pub struct Step<'a> {
    /// Epoch of the target assignment.
    pub target_epoch: i32,
    /// The member's part of it.
    pub target: &'a Partitions,
    /// Topics that the member subscribes to and that exist. What it has of others is taken away at once, whatever the target says.
    pub subscribed: &'a BTreeSet<TopicId>,
    /// Whether any member holds a partition.
    pub is_held: &'a dyn Fn(TopicId, i32) -> bool,
    /// What the member says it owns; `None` when it did not say.
    pub reported: Option<&'a Partitions>,
}

/// The member is in a state that this version does not know: it must give up everything and join anew (FENCED_MEMBER_EPOCH).
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownState;

/// The next state of a member; the same one when there is no step to take.
pub fn next(current: &CurrentAssignment, step: &Step<'_>) -> Result<CurrentAssignment, UnknownState> {
    let consistent = current.assigned.keys().all(|topic| step.subscribed.contains(topic));
    Ok(match current.state {
        MemberState::Stable if current.epoch == step.target_epoch => {
            if consistent {
                current.clone()
            } else {
                without_unsubscribed(current, step)
            }
        }
        MemberState::UnrevokedPartitions if step.still_owns(&current.pending_revocation) => {
            if consistent {
                current.clone()
            } else {
                without_unsubscribed(current, step)
            }
        }
        MemberState::Stable | MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
            towards_target(current, current.epoch, step)
        }
        MemberState::Unknown if step.reported.is_some_and(Partitions::is_empty) => towards_target(current, step.target_epoch, step),
        MemberState::Unknown => return Err(UnknownState),
    })
}

impl Step<'_> {
    /// Whether the member still owns some of these. One that does not say is taken to own all.
    fn still_owns(&self, revoked: &Owned) -> bool {
        if revoked.is_empty() {
            return false;
        }
        let Some(reported) = self.reported else { return true };
        let owns = |topic: &TopicId, partition: &i32| reported.get(topic).is_some_and(|owned| owned.contains(partition));
        revoked.iter().any(|(topic, partitions)| partitions.keys().any(|partition| owns(topic, partition)))
    }
}

/// Takes away topics that the member is not subscribed to (any more), without a look at the target.
fn without_unsubscribed(current: &CurrentAssignment, step: &Step<'_>) -> CurrentAssignment {
    let mut next = moved(current, current.epoch, current.state);
    let (kept, gone): (Owned, Owned) = current.assigned.clone().into_iter().partition(|(topic, _)| step.subscribed.contains(topic));
    next.assigned = kept;
    let mut revoke = current.pending_revocation.clone();
    for (topic, partitions) in gone {
        revoke.entry(topic).or_default().extend(partitions);
    }
    if step.still_owns(&revoke) {
        next.state = MemberState::UnrevokedPartitions;
        next.pending_revocation = revoke;
    }
    next
}

fn towards_target(current: &CurrentAssignment, epoch: i32, step: &Step<'_>) -> CurrentAssignment {
    let none = BTreeSet::new();
    let (mut kept, mut revoke, mut given) = (Owned::new(), Owned::new(), Partitions::new());
    let mut unreleased = false;
    let topics: BTreeSet<&TopicId> = step.target.keys().chain(current.assigned.keys()).collect();
    for &topic in topics {
        let target = step.target.get(&topic).filter(|_| step.subscribed.contains(&topic)).unwrap_or(&none);
        let assigned = current.assigned.get(&topic);
        for (&partition, &since) in assigned.into_iter().flatten() {
            let side = if target.contains(&partition) { &mut kept } else { &mut revoke };
            side.entry(topic).or_default().insert(partition, since);
        }
        for &partition in target {
            if assigned.is_some_and(|assigned| assigned.contains_key(&partition)) {
                continue;
            }
            // What the member itself was to give up and has given up is free for it again.
            let own = current.pending_revocation.get(&topic).is_some_and(|pending| pending.contains_key(&partition));
            if own || !(step.is_held)(topic, partition) {
                given.entry(topic).or_default().insert(partition);
            } else {
                unreleased = true;
            }
        }
    }
    if step.still_owns(&revoke) {
        let mut next = moved(current, epoch, MemberState::UnrevokedPartitions);
        (next.assigned, next.pending_revocation) = (kept, revoke);
        return next;
    }
    for (topic, partitions) in given {
        kept.entry(topic).or_default().extend(partitions.into_iter().map(|partition| (partition, step.target_epoch)));
    }
    let state = if unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable };
    let mut next = moved(current, step.target_epoch, state);
    (next.assigned, next.pending_revocation) = (kept, Owned::new());
    // Heard again in the same epoch, with nothing new: not worth a record.
    if (CurrentAssignment { previous_epoch: current.previous_epoch, ..next.clone() }) == *current { current.clone() } else { next }
}

fn moved(current: &CurrentAssignment, epoch: i32, state: MemberState) -> CurrentAssignment {
    CurrentAssignment { epoch, previous_epoch: current.epoch, state, ..current.clone() }
}
