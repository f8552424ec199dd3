//! The range assignor, as every Kafka client has it: whoever leads a classic group runs it for all members.

use std::collections::BTreeMap;

use super::admin::TopicPartition;

/// A member as the assignor sees it: what orders it, and what it is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Its member id.
    pub member: String,
    /// The instance id of a static member.
    pub instance: Option<String>,
    /// Topics.
    pub topics: Vec<String>,
}

/// Gives each topic's partitions out in runs: members in order (static ones first, by instance id), the first ones get one more.
/// `partitions` says how many a topic has; topics that it does not know are left out.
pub fn range(members: &[Subscriber], partitions: &BTreeMap<String, i32>) -> BTreeMap<String, Vec<TopicPartition>> {
    let mut assigned: BTreeMap<String, Vec<TopicPartition>> =
        members.iter().map(|subscriber| (subscriber.member.clone(), Vec::new())).collect();
    let mut ordered: Vec<&Subscriber> = members.iter().collect();
    ordered.sort_by_key(|subscriber| (subscriber.instance.is_none(), subscriber.instance.clone(), subscriber.member.clone()));
    for (topic, &count) in partitions {
        let readers: Vec<_> = ordered.iter().filter(|subscriber| subscriber.topics.contains(topic)).collect();
        let mut next = 0;
        for (i, reader) in readers.iter().enumerate() {
            let share = count / readers.len() as i32 + i32::from((i as i32) < count % readers.len() as i32);
            let run = (next..next + share).map(|index| (topic.clone(), index));
            assigned.entry(reader.member.clone()).or_default().extend(run);
            next += share;
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subscriber(member: &str, instance: Option<&str>, topics: &[&str]) -> Subscriber {
        Subscriber { member: member.into(), instance: instance.map(Into::into), topics: topics.iter().map(|t| t.to_string()).collect() }
    }

    #[test]
    fn runs_and_static_members_first() {
        let members = [subscriber("a", None, &["t"]), subscriber("b", Some("1"), &["t", "u"]), subscriber("c", None, &["t", "gone"])];
        let assigned = range(&members, &BTreeMap::from([("t".to_owned(), 4), ("u".to_owned(), 2)]));
        let of = |member: &str| assigned[member].iter().map(|(topic, index)| format!("{topic}{index}")).collect::<Vec<_>>();
        assert_eq!(
            (of("b"), of("a"), of("c")),
            (vec!["t0".into(), "t1".into(), "u0".into(), "u1".into()], vec!["t2".into()], vec!["t3".into()])
        );
    }

    proptest! {
        #[test]
        fn everything_once_and_evenly(members in 1..9usize, partitions in 0..40i32) {
            let subscribers: Vec<_> = (0..members).map(|i| subscriber(&i.to_string(), None, &["t"])).collect();
            let assigned = range(&subscribers, &BTreeMap::from([("t".to_owned(), partitions)]));
            let mut all: Vec<i32> = assigned.values().flatten().map(|(_, index)| *index).collect();
            all.sort_unstable();
            prop_assert!(all.iter().copied().eq(0..partitions));
            let sizes: Vec<_> = assigned.values().map(Vec::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }
}
