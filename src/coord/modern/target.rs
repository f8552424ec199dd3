//! The target assignment of a group: what the assignor says its members are to have.

use std::collections::{BTreeMap, BTreeSet};

use super::assign::{Assignor, GroupSpec, MemberSpec};
use super::group::{Group, Resolved};
use super::member::{MemberId, MemberMetadata, Partitions};
use super::topics::Topics;
use crate::base::ids::TopicId;

/// The assignor with the most votes; of several with equally many the first in the configuration.
pub(super) fn preferred(configured: &[&str], votes: impl Fn(&Assignor) -> usize) -> Assignor {
    let configured: Vec<Assignor> = configured.iter().filter_map(|name| Assignor::by_name(name)).collect();
    // `max_by_key` takes the last.
    let wanted = configured.iter().rev().filter(|assignor| votes(assignor) > 0).max_by_key(|assignor| votes(assignor));
    wanted.or(configured.first()).copied().unwrap_or(Assignor::Uniform)
}

/// A member's part of a new target assignment.
pub struct Part<'a> {
    /// The member.
    pub id: &'a MemberId,
    /// Its part so far; `None` where it had none.
    pub former: Option<&'a Partitions>,
    /// What it is to have.
    pub target: Partitions,
}

/// A group with the changes that are being decided.
pub struct View<'a> {
    /// As it is.
    pub group: &'a Group,
    /// A member that is about to be replaced or removed.
    pub without: Option<&'a MemberId>,
    /// A member that is about to join or change.
    pub with: Option<(&'a MemberId, &'a MemberMetadata)>,
    /// Patterns that are about to change; `None`: no longer of interest.
    pub regexes: &'a BTreeMap<String, Option<Resolved>>,
    /// The cluster's topics.
    pub topics: &'a dyn Topics,
}

impl<'a> View<'a> {
    /// Topics that match a pattern.
    fn resolved(&self, regex: &str) -> Option<&'a Resolved> {
        match self.regexes.get(regex) {
            Some(changed) => changed.as_ref(),
            None => self.group.regexes().get(regex),
        }
    }

    /// Topics that exist and that a member subscribes to.
    pub fn topics_of(&self, metadata: &MemberMetadata) -> BTreeSet<TopicId> {
        let matching = metadata.regex().and_then(|regex| self.resolved(regex));
        let names = metadata.topic_names.iter().chain(matching.into_iter().flat_map(|resolved| &resolved.topics));
        names.filter_map(|name| self.topics.by_name(name)).map(|(id, _)| id).collect()
    }

    /// The members as they will be.
    pub fn members(&self) -> impl Iterator<Item = (&'a MemberId, &'a MemberMetadata)> {
        let (without, with) = (self.without, self.with);
        let stays = move |id: &MemberId| Some(id) != without && with.is_none_or(|(changed, _)| id != changed);
        let others = self.group.members().iter().filter(move |(id, _)| stays(id)).map(|(id, member)| (id, &member.metadata));
        others.chain(with)
    }

    /// Names of all topics that the group will subscribe to, existing or not.
    pub fn topic_names(&self) -> BTreeSet<&'a str> {
        // Nearly always the counts say it all, without a look at each member.
        let gone = |id: &MemberId| self.group.members().get(id).map(|member| &member.metadata);
        let gone: Vec<&MemberMetadata> = [self.without, self.with.map(|(id, _)| id)]
            .into_iter()
            .flatten()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(gone)
            .collect();
        let left = |name: &str| self.group.named().get(name) > gone.iter().filter(|member| member.topic_names.contains(name)).count();
        let mut names: BTreeSet<&str> = self.group.named().keys().filter(|name| left(name)).collect();
        names.extend(self.with.into_iter().flat_map(|(_, metadata)| &metadata.topic_names).map(String::as_str));
        let kept = self.group.regexes().iter().filter(|(regex, _)| !self.regexes.contains_key(*regex)).map(|(_, resolved)| resolved);
        let changed = self.regexes.values().flatten();
        names.extend(kept.chain(changed).flat_map(|resolved| &resolved.topics).map(String::as_str));
        names
    }

    /// The assignor that most members want; the first of the configured ones where they want none.
    fn assignor(&self, configured: &[&str]) -> Assignor {
        let gone =
            |id: Option<&MemberId>| id.and_then(|id| self.group.members().get(id)).and_then(|m| m.metadata.server_assignor.as_deref());
        let (mut gone, come) = (vec![gone(self.without)], self.with.and_then(|(_, metadata)| metadata.server_assignor.as_deref()));
        if self.with.map(|(id, _)| id) != self.without {
            gone.push(self.with.and_then(|(id, _)| self.group.members().get(id)).and_then(|m| m.metadata.server_assignor.as_deref()));
        }
        let votes = |assignor: &Assignor| {
            let name = Some(assignor.name());
            self.group.assignors().get(assignor.name()) + usize::from(come == name) - gone.iter().filter(|g| **g == name).count()
        };
        preferred(configured, votes)
    }

    /// The next target assignment, in the order of the members' ids.
    pub fn assign(&self, configured: &[&str]) -> Vec<Part<'a>> {
        let members = self.members_with_targets();
        let mut subscriptions: BTreeMap<(&BTreeSet<String>, Option<&str>), BTreeSet<TopicId>> = BTreeMap::new();
        for (_, metadata, _) in &members {
            subscriptions.entry((&metadata.topic_names, metadata.regex())).or_insert_with(|| self.topics_of(metadata));
        }
        let nothing = Partitions::new();
        let existing = self.topic_names().into_iter().filter_map(|name| self.topics.by_name(name));
        let topics = existing.filter(|(id, _)| subscriptions.values().any(|topics| topics.contains(id))).collect();
        let member = |(id, metadata, former): &(&'a MemberId, &'a MemberMetadata, Option<&'a Partitions>)| MemberSpec {
            id,
            instance_id: metadata.instance_id.as_deref(),
            topics: &subscriptions[&(&metadata.topic_names, metadata.regex())],
            previous: former.unwrap_or(&nothing),
        };
        let spec = GroupSpec { members: members.iter().map(member).collect(), topics };
        let targets = self.assignor(configured).assign(&spec);
        members.iter().zip(targets).map(|(&(id, _, former), target)| Part { id, former, target }).collect()
    }

    /// The members as they will be, in the order of their ids, with their targets so far.
    fn members_with_targets(&self) -> Vec<(&'a MemberId, &'a MemberMetadata, Option<&'a Partitions>)> {
        let mut members: Vec<_> = self.members().collect();
        members.sort_by_key(|(id, _)| *id);
        // Both are in order: one look at each instead of a search for each.
        let mut targets = self.group.targets().iter().peekable();
        let mut former = |id: &MemberId| {
            if self.inherits(id) {
                return self.target(id);
            }
            while targets.next_if(|(other, _)| *other < id).is_some() {}
            targets.next_if(|(other, _)| *other == id).map(|(_, target)| target)
        };
        members.into_iter().map(|(id, metadata)| (id, metadata, former(id))).collect()
    }

    /// What a member is to have so far; one that replaces another inherits from it.
    pub fn target(&self, id: &MemberId) -> Option<&'a Partitions> {
        self.group.targets().get(self.without.filter(|_| self.inherits(id)).unwrap_or(id))
    }

    fn inherits(&self, id: &MemberId) -> bool {
        self.with.is_some_and(|(with, _)| with == id)
    }
}
