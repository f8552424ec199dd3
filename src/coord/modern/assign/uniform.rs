//! The uniform assignor: members get equally many partitions as far as their subscriptions allow, and keep what they had.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Assignment, GroupSpec, MemberSpec};
use crate::base::ids::TopicId;
use crate::coord::modern::member::Partitions;

/// Rounds of balancing between members with different subscriptions. One is enough for all but interlocking subscriptions, for which
/// each round about halves what is uneven.
const ROUNDS: usize = 16;

/// See [`super::Assignor::Uniform`].
pub fn assign(group: &GroupSpec<'_>) -> Assignment {
    let mut subscriptions = group.members.iter().map(|member| member.topics);
    let first = subscriptions.next();
    if subscriptions.all(|topics| first.is_some_and(|first| same(first, topics))) { alike(group) } else { Mixed::new(group).assign() }
}

/// Most members of most groups share one set.
fn same(a: &BTreeSet<TopicId>, b: &BTreeSet<TopicId>) -> bool {
    std::ptr::eq(a, b) || a == b
}

/// What a member had that exists and that it subscribes to.
fn kept<'a>(group: &'a GroupSpec<'_>, member: &'a MemberSpec<'_>) -> impl Iterator<Item = (TopicId, i32)> + 'a {
    let subscribed = member.previous.iter().filter(|(topic, _)| member.topics.contains(topic));
    subscribed.flat_map(|(topic, partitions)| {
        let count = group.topics.get(topic).copied().unwrap_or(0);
        partitions.iter().filter(move |&&partition| (0..count).contains(&partition)).map(|&partition| (*topic, partition))
    })
}

fn all_partitions(group: &GroupSpec<'_>) -> impl Iterator<Item = (TopicId, i32)> {
    group.topics.iter().flat_map(|(topic, &count)| (0..count).map(|partition| (*topic, partition)))
}

/// All members subscribe to the same topics: each has a quota, and quotas differ by one at most.
fn alike(group: &GroupSpec<'_>) -> Assignment {
    let members = group.members.len();
    if members == 0 {
        return Assignment::new();
    }
    let total: usize = group.topics.values().map(|&count| count.max(0) as usize).sum();
    let (quota, larger) = (total / members, total % members);
    // The larger quotas go to those who have the most: then the least has to move.
    let mut by_size: Vec<(Reverse<usize>, usize)> =
        group.members.iter().enumerate().map(|(at, member)| (Reverse(kept(group, member).count()), at)).collect();
    by_size.sort_unstable();
    let mut quotas = vec![quota; members];
    by_size.iter().take(larger).for_each(|(_, at)| quotas[*at] += 1);

    let mut assigned = BTreeSet::new();
    let mut assignment = vec![Partitions::new(); members];
    for ((part, member), quota) in assignment.iter_mut().zip(&group.members).zip(&quotas) {
        for (topic, partition) in kept(group, member).take(*quota) {
            part.entry(topic).or_default().insert(partition);
            assigned.insert((topic, partition));
        }
    }
    let mut free = all_partitions(group).filter(|partition| !assigned.contains(partition));
    for (part, quota) in assignment.iter_mut().zip(&quotas) {
        let missing = quota - part.values().map(BTreeSet::len).sum::<usize>();
        for (topic, partition) in free.by_ref().take(missing) {
            part.entry(topic).or_default().insert(partition);
        }
    }
    assignment
}

/// Members with different subscriptions, by number.
struct Mixed<'a> {
    group: &'a GroupSpec<'a>,
    /// Partitions of each member so far.
    loads: Vec<usize>,
    topics: Vec<Topic>,
}

struct Topic {
    id: TopicId,
    subscribers: Vec<usize>,
    /// By partition.
    owners: Vec<Option<usize>>,
}

impl<'a> Mixed<'a> {
    fn new(group: &'a GroupSpec<'a>) -> Mixed<'a> {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (at, member) in group.members.iter().enumerate() {
            member.topics.iter().for_each(|topic| subscribers.entry(*topic).or_default().push(at));
        }
        let owners = |topic: &TopicId| vec![None; group.topics.get(topic).map_or(0, |&count| count.max(0) as usize)];
        let mut topics: Vec<Topic> =
            subscribers.into_iter().map(|(id, subscribers)| Topic { owners: owners(&id), id, subscribers }).collect();
        // Those that leave the least choice come first: many partitions for few subscribers.
        topics.sort_by(|a, b| {
            let shares = (b.owners.len() * a.subscribers.len()).cmp(&(a.owners.len() * b.subscribers.len()));
            shares.then(a.subscribers.len().cmp(&b.subscribers.len())).then(a.id.cmp(&b.id))
        });
        Mixed { group, loads: vec![0; group.members.len()], topics }
    }

    fn assign(mut self) -> Assignment {
        self.keep();
        for topic in &mut self.topics {
            let mut by_load: BTreeSet<(usize, usize)> = topic.subscribers.iter().map(|&member| (self.loads[member], member)).collect();
            for owner in topic.owners.iter_mut().filter(|owner| owner.is_none()) {
                let Some((load, member)) = by_load.pop_first() else { break };
                by_load.insert((load + 1, member));
                self.loads[member] += 1;
                *owner = Some(member);
            }
        }
        for _ in 0..ROUNDS {
            let loads = &mut self.loads;
            if self.topics.iter_mut().map(|topic| topic.balance(loads)).sum::<usize>() == 0 {
                break;
            }
        }
        let mut assignment = vec![Partitions::new(); self.group.members.len()];
        for topic in &self.topics {
            for (partition, owner) in topic.owners.iter().enumerate() {
                if let Some(owner) = *owner {
                    assignment[owner].entry(topic.id).or_default().insert(partition as i32);
                }
            }
        }
        assignment
    }

    fn keep(&mut self) {
        let places: BTreeMap<TopicId, usize> = self.topics.iter().enumerate().map(|(at, topic)| (topic.id, at)).collect();
        for (at, member) in self.group.members.iter().enumerate() {
            for (topic, partition) in kept(self.group, member) {
                let owner = &mut self.topics[places[&topic]].owners[partition as usize];
                if owner.is_none() {
                    *owner = Some(at);
                    self.loads[at] += 1;
                }
            }
        }
    }
}

impl Topic {
    /// Moves partitions of this topic from the most to the least loaded of its subscribers, while that makes it more even. How many moved.
    fn balance(&mut self, loads: &mut [usize]) -> usize {
        let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (partition, owner) in self.owners.iter().enumerate() {
            owner.iter().for_each(|&owner| parts.entry(owner).or_default().push(partition));
        }
        let mut by_load: BTreeSet<(usize, usize)> = self.subscribers.iter().map(|&member| (loads[member], member)).collect();
        let mut givers: BTreeSet<(usize, usize)> = parts.keys().map(|&member| (loads[member], member)).collect();
        let mut moved = 0;
        while let (Some(&(most, from)), Some(&(least, to))) = (givers.last(), by_load.first()) {
            if most <= least + 1 {
                break;
            }
            givers.pop_last();
            by_load.pop_first();
            by_load.remove(&(most, from));
            givers.remove(&(least, to));
            let Some(partition) = parts.get_mut(&from).and_then(Vec::pop) else { break };
            parts.entry(to).or_default().push(partition);
            self.owners[partition] = Some(to);
            (loads[from], loads[to]) = (most - 1, least + 1);
            by_load.extend([(most - 1, from), (least + 1, to)]);
            givers.insert((least + 1, to));
            if !parts[&from].is_empty() {
                givers.insert((most - 1, from));
            }
            moved += 1;
        }
        moved
    }
}
