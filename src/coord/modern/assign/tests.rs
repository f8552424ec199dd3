//! Tests of the assignors.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Assignor, GroupSpec, MemberSpec};
use crate::base::config::table::CONSUMER_ASSIGNORS;
use crate::base::ids::{TopicId, Uuid};
use crate::coord::modern::member::{MemberId, Partitions};

/// Members with their instance ids and topics.
type Members = BTreeMap<MemberId, (Option<String>, BTreeSet<TopicId>)>;

/// The parts of members by id.
type Assignment = BTreeMap<MemberId, Partitions>;

fn topic(number: u8) -> TopicId {
    Uuid([number; 16])
}

fn assign(assignor: Assignor, members: &Members, topics: &BTreeMap<TopicId, i32>, previous: &Assignment) -> Assignment {
    let nothing = Partitions::new();
    let mut spec = GroupSpec::default();
    for (id, (instance_id, subscribed)) in members {
        let previous = previous.get(id).unwrap_or(&nothing);
        spec.members.push(MemberSpec { id, instance_id: instance_id.as_deref(), topics: subscribed, previous });
        spec.topics.extend(subscribed.iter().map(|id| (*id, topics[id])));
    }
    let assignment = assignor.assign(&spec);
    assert_eq!(assignor.assign(&spec), assignment, "twice the same");
    assert_eq!(assignment.len(), members.len());
    members.keys().cloned().zip(assignment).collect()
}

fn size(part: &Partitions) -> usize {
    part.values().map(BTreeSet::len).sum()
}

/// Every partition that somebody subscribes to has exactly one owner, who subscribes to it; nobody is forgotten.
fn check(members: &Members, topics: &BTreeMap<TopicId, i32>, assignment: &Assignment) {
    assert!(assignment.keys().eq(members.keys()));
    let mut owned = BTreeSet::new();
    for (id, part) in assignment {
        for (topic, partitions) in part {
            assert!(members[id].1.contains(topic) && !partitions.is_empty());
            for &partition in partitions {
                assert!((0..topics[topic]).contains(&partition));
                assert!(owned.insert((*topic, partition)), "{topic}-{partition} twice");
            }
        }
    }
    let wanted: BTreeSet<TopicId> = members.values().flat_map(|(_, topics)| topics.iter().copied()).collect();
    assert_eq!(owned.len(), wanted.iter().map(|topic| topics[topic] as usize).sum::<usize>());
}

/// No single move would make it more even.
fn check_even(members: &Members, assignment: &Assignment) {
    for (from, part) in assignment {
        for (to, (_, subscribed)) in members {
            let could_move = part.keys().any(|topic| subscribed.contains(topic));
            assert!(!could_move || size(part) <= size(&assignment[to]) + 1, "{from} has {part:?}, {to} {:?}", assignment[to]);
        }
    }
}

fn members(same: bool) -> impl Strategy<Value = Members> {
    let member = ("[a-h]", prop::option::of("[s-w]"), prop::collection::btree_set(1..6u8, 0..5));
    (prop::collection::vec(member, 1..9), prop::collection::btree_set(1..6u8, 0..5)).prop_map(move |(members, shared)| {
        let topics = |own: BTreeSet<u8>| if same { &shared } else { &own }.iter().map(|&number| topic(number)).collect();
        members.into_iter().map(|(id, instance, own)| (id.into(), (instance, topics(own)))).collect()
    })
}

fn topics() -> impl Strategy<Value = BTreeMap<TopicId, i32>> {
    prop::collection::vec(1..12i32, 6).prop_map(|counts| counts.into_iter().enumerate().map(|(n, count)| (topic(n as u8), count)).collect())
}

proptest! {
    /// Members come and go, topics grow: with the same subscriptions for all no partition moves that could have stayed.
    #[test]
    fn uniform_for_members_alike(rounds in prop::collection::vec((members(true), topics()), 1..5)) {
        let mut previous = Assignment::new();
        for (members, topics) in rounds {
            let next = assign(Assignor::Uniform, &members, &topics, &previous);
            check(&members, &topics, &next);
            let (low, high) = next.values().map(size).fold((usize::MAX, 0), |(low, high), size| (low.min(size), high.max(size)));
            prop_assert!(high <= low + 1);
            let valid = |id: &MemberId| -> BTreeSet<(TopicId, i32)> {
                let part = previous.get(id).into_iter().flatten();
                let all = part.flat_map(|(topic, set)| set.iter().map(move |&partition| (*topic, partition)));
                all.filter(|(topic, partition)| members[id].1.contains(topic) && *partition < topics[topic]).collect()
            };
            // The best that any assignment with these sizes can keep: everybody up to the quota, the larger quotas where most is held.
            let mut held: Vec<usize> = members.keys().map(|id| valid(id).len()).collect();
            held.sort_unstable_by(|a, b| b.cmp(a));
            let total: usize = next.values().map(size).sum();
            let quota = |at: usize| total / members.len() + usize::from(at < total % members.len());
            let best: usize = held.iter().enumerate().map(|(at, &held)| held.min(quota(at))).sum();
            let stayed: usize = next
                .iter()
                .map(|(id, part)| {
                    let valid = valid(id);
                    part.iter().flat_map(|(topic, set)| set.iter().map(move |&p| (*topic, p))).filter(|p| valid.contains(p)).count()
                })
                .sum();
            prop_assert_eq!(stayed, best);
            previous = next;
        }
    }

    #[test]
    fn uniform_for_mixed_members(rounds in prop::collection::vec((members(false), topics()), 1..5)) {
        let mut previous = Assignment::new();
        for (members, topics) in rounds {
            let next = assign(Assignor::Uniform, &members, &topics, &previous);
            check(&members, &topics, &next);
            check_even(&members, &next);
            prop_assert_eq!(&assign(Assignor::Uniform, &members, &topics, &next), &next, "what is even stays");
            previous = next;
        }
    }

    #[test]
    fn range(members in members(false), topics in topics()) {
        let assignment = assign(Assignor::Range, &members, &topics, &Assignment::new());
        check(&members, &topics, &assignment);
        for topic in topics.keys() {
            let ranges: Vec<_> = assignment.values().filter_map(|part| part.get(topic)).collect();
            for range in &ranges {
                prop_assert_eq!((range.last().unwrap() - range.first().unwrap() + 1) as usize, range.len());
            }
            let subscribers = members.values().filter(|(_, topics)| topics.contains(topic)).count();
            if subscribers > 0 {
                let most = (topics[topic] as usize).div_ceil(subscribers);
                prop_assert!(ranges.iter().all(|range| range.len() == most || range.len() + 1 == most));
            }
        }
    }
}

fn group(ids: &[&str], topics: &[u8]) -> Members {
    ids.iter().map(|&id| (id.into(), (None, topics.iter().map(|&number| topic(number)).collect()))).collect()
}

fn parts(assignment: &Assignment, number: u8) -> Vec<Vec<i32>> {
    assignment.values().map(|part| part.get(&topic(number)).into_iter().flatten().copied().collect()).collect()
}

/// What Kafka 4.3.1 does with six partitions when a third member joins two.
#[test]
fn uniform_as_seen_with_kafka() {
    let topics = BTreeMap::from([(topic(1), 6)]);
    let two = assign(Assignor::Uniform, &group(&["a", "b"], &[1]), &topics, &Assignment::new());
    assert_eq!(parts(&two, 1), [vec![0, 1, 2], vec![3, 4, 5]]);
    let three = assign(Assignor::Uniform, &group(&["a", "b", "c"], &[1]), &topics, &two);
    assert_eq!(parts(&three, 1), [vec![0, 1], vec![3, 4], vec![2, 5]]);
}

#[test]
fn range_keeps_topics_together_and_static_members_first() {
    let topics = BTreeMap::from([(topic(1), 5), (topic(2), 5), (topic(3), 1)]);
    let mut members = group(&["a", "b"], &[1, 2]);
    let assignment = assign(Assignor::Range, &members, &topics, &Assignment::new());
    assert_eq!(parts(&assignment, 1), [vec![0, 1, 2], vec![3, 4]]);
    assert_eq!(parts(&assignment, 1), parts(&assignment, 2));
    members.get_mut("b").unwrap().0 = Some("z".into());
    let assignment = assign(Assignor::Range, &members, &topics, &Assignment::new());
    assert_eq!(parts(&assignment, 1), [vec![3, 4], vec![0, 1, 2]]);
}

#[test]
fn nobody_and_nothing() {
    for assignor in [Assignor::Uniform, Assignor::Range] {
        assert_eq!(Assignor::by_name(assignor.name()), Some(assignor));
        assert!(assign(assignor, &Members::new(), &BTreeMap::new(), &Assignment::new()).is_empty());
        let idle = assign(assignor, &group(&["a"], &[]), &BTreeMap::new(), &Assignment::new());
        assert_eq!(idle[&MemberId::from("a")], Partitions::new());
    }
    assert_eq!(Assignor::by_name("sticky"), None);
    assert!(CONSUMER_ASSIGNORS.iter().all(|name| Assignor::by_name(name).is_some()));
}
