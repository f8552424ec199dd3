//! The range assignor: each topic is cut into contiguous ranges, one for each subscriber in a fixed order.

use std::collections::BTreeMap;

use super::{Assignment, GroupSpec, MemberSpec};
use crate::coord::modern::member::Partitions;

/// See [`super::Assignor::Range`].
pub fn assign(group: &GroupSpec<'_>) -> Assignment {
    let mut subscribers: BTreeMap<_, i32> = BTreeMap::new();
    for topic in group.members.iter().flat_map(|member| member.topics) {
        *subscribers.entry(*topic).or_default() += 1;
    }
    // What is left of each topic: the first partition that nobody has, and how many subscribers are still to come.
    let mut left: BTreeMap<_, (i32, i32)> = subscribers.into_iter().map(|(topic, count)| (topic, (0, count))).collect();
    let mut members: Vec<(usize, &MemberSpec<'_>)> = group.members.iter().enumerate().collect();
    // Static members first: their names outlive restarts, and so do their ranges.
    members.sort_by_key(|(at, member)| (member.instance_id.is_none(), member.instance_id, *at));
    let mut assignment = vec![Partitions::new(); group.members.len()];
    for (at, member) in members {
        let part = &mut assignment[at];
        for topic in member.topics {
            let (Some((next, count)), Some(&partitions)) = (left.get_mut(topic), group.topics.get(topic)) else { continue };
            // Ranges differ by one at most, the longer ones come first.
            let end = *next + (partitions - *next + *count - 1) / *count;
            if end > *next {
                part.insert(*topic, (*next..end).collect());
            }
            (*next, *count) = (end, *count - 1);
        }
    }
    assignment
}
