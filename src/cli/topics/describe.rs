//! How topics are shown. Pure: descriptions in, text out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

use crate::base::ids::BrokerId;
use crate::client::admin::{ConfigEntry, DEFAULT_SOURCE, PartitionDescription, TopicDescription};

/// Which partitions to show: those that one of these holds for; all of them if none is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Not all replicas are in sync.
    pub under_replicated: bool,
    /// No leader, or one that is not up.
    pub unavailable: bool,
    /// Fewer replicas in sync than `min.insync.replicas`.
    pub under_min_isr: bool,
    /// Exactly so many.
    pub at_min_isr: bool,
}

/// What the text depends on besides the topics.
pub struct View<'a> {
    /// Brokers that are up.
    pub live: &'a BTreeSet<BrokerId>,
    /// Settings by topic.
    pub configs: &'a BTreeMap<String, Vec<ConfigEntry>>,
    /// Which partitions.
    pub filter: Filter,
    /// Only topics with settings of their own, without their partitions.
    pub overridden: bool,
}

impl View<'_> {
    fn configs(&self, topic: &TopicDescription) -> impl Iterator<Item = &ConfigEntry> {
        self.configs.get(&topic.topic.name).into_iter().flatten()
    }

    fn own_configs(&self, topic: &TopicDescription) -> impl Iterator<Item = &ConfigEntry> {
        self.configs(topic).filter(|entry| entry.source != DEFAULT_SOURCE)
    }

    /// Whether topics have a line of their own.
    fn heads(&self) -> bool {
        let Filter { under_replicated, unavailable, under_min_isr, at_min_isr } = self.filter;
        !(under_replicated || unavailable || under_min_isr || at_min_isr)
    }

    fn shows_topic(&self, topic: &TopicDescription) -> bool {
        self.heads() && (!self.overridden || self.own_configs(topic).next().is_some())
    }

    fn shows_partition(&self, topic: &TopicDescription, partition: &PartitionDescription) -> bool {
        if self.overridden {
            return false;
        }
        let in_sync = partition.isr.len();
        let min_isr = self.configs(topic).find(|entry| entry.name == "min.insync.replicas");
        let min_isr: usize = min_isr.and_then(|entry| entry.value.as_deref()?.parse().ok()).unwrap_or(1);
        self.heads()
            || self.filter.under_replicated && replicas(partition) > in_sync
            || self.filter.unavailable && partition.leader.is_none_or(|leader| !self.live.contains(&leader))
            || self.filter.under_min_isr && (partition.leader.is_none() || in_sync < min_isr)
            || self.filter.at_min_isr && in_sync == min_isr
    }
}

/// How many replicas a partition has, without those that are only being added.
fn replicas(partition: &PartitionDescription) -> usize {
    let adding = partition.reassignment.as_ref().map_or(0, |(adding, _)| adding.len());
    partition.replicas.len().saturating_sub(adding)
}

/// Kafka's lines.
pub fn text(topics: &[TopicDescription], view: &View) -> String {
    let mut out = String::new();
    for topic in topics {
        let name = &topic.topic.name;
        if view.shows_topic(topic) {
            let value = |entry: &ConfigEntry| format!("{}={}", entry.name, entry.value.as_deref().unwrap_or("null"));
            let configs: Vec<String> = view.own_configs(topic).map(value).collect();
            let _ = write!(out, "Topic: {name}");
            if !topic.topic.id.is_zero() {
                let _ = write!(out, "\tTopicId: {}", topic.topic.id);
            }
            let factor = topic.partitions.first().map_or(0, replicas);
            let count = topic.partitions.len();
            let _ = writeln!(out, "\tPartitionCount: {count}\tReplicationFactor: {factor}\tConfigs: {}", configs.join(","));
        }
        for partition in topic.partitions.iter().filter(|partition| view.shows_partition(topic, partition)) {
            partition_line(&mut out, name, partition);
        }
    }
    out
}

fn partition_line(out: &mut String, topic: &str, partition: &PartitionDescription) {
    let leader = partition.leader.map_or("none".to_owned(), |leader| leader.to_string());
    let (index, replicas, isr) = (partition.index, ids(&partition.replicas), ids(&partition.isr));
    let _ = write!(out, "\tTopic: {topic}\tPartition: {index}\tLeader: {leader}\tReplicas: {replicas}\tIsr: {isr}");
    if let Some((adding, removing)) = &partition.reassignment {
        let _ = write!(out, "\tAdding Replicas: {}\tRemoving Replicas: {}", ids(adding), ids(removing));
    }
    let known = |ids_of: &Option<Vec<BrokerId>>| ids_of.as_ref().map_or("N/A".to_owned(), |brokers| ids(brokers));
    let _ = writeln!(out, "\tElr: {}\tLastKnownElr: {}", known(&partition.eligible), known(&partition.last_known));
}

fn ids(brokers: &[BrokerId]) -> String {
    brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The same as one JSON array of topics.
pub fn json(topics: &[TopicDescription], view: &View) -> Value {
    let shown = topics.iter().filter_map(|topic| {
        let partitions: Vec<Value> = topic
            .partitions
            .iter()
            .filter(|partition| view.shows_partition(topic, partition))
            .map(|partition| {
                json!({
                    "partition": partition.index,
                    "leader": partition.leader,
                    "replicas": partition.replicas,
                    "isr": partition.isr,
                    "elr": partition.eligible,
                    "last_known_elr": partition.last_known,
                })
            })
            .collect();
        let configs: serde_json::Map<String, Value> =
            view.own_configs(topic).map(|entry| (entry.name.clone(), json!(entry.value))).collect();
        (view.shows_topic(topic) || !partitions.is_empty()).then(|| {
            json!({
                "topic": topic.topic.name,
                "topic_id": topic.topic.id.to_string(),
                "internal": topic.topic.internal,
                "partition_count": topic.partitions.len(),
                "replication_factor": topic.partitions.first().map_or(0, replicas),
                "configs": configs,
                "partitions": partitions,
            })
        })
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Uuid;
    use crate::client::admin::TopicListing;

    fn partition(index: i32, leader: Option<i32>, replicas: &[i32], isr: &[i32]) -> PartitionDescription {
        let (replicas, isr) = (replicas.to_vec(), isr.to_vec());
        PartitionDescription { index, leader, replicas, isr, eligible: Some(vec![]), last_known: None, reassignment: None }
    }

    fn shown(filter: Filter, overridden: bool) -> String {
        let topic = TopicListing { name: "t".into(), id: Uuid([1; 16]), internal: false };
        let mut moving = partition(3, Some(1), &[1, 2, 3], &[1, 2]);
        moving.reassignment = Some((vec![3], vec![1]));
        let partitions =
            vec![partition(0, Some(1), &[1, 2], &[1, 2]), partition(1, None, &[2, 1], &[2]), partition(2, Some(9), &[1, 2], &[2]), moving];
        let plain = TopicDescription {
            topic: TopicListing { name: "u".into(), id: Uuid::ZERO, internal: false },
            partitions: vec![partition(0, Some(1), &[1], &[1])],
        };
        let entry = |name: &str, value: &str, source| ConfigEntry {
            name: name.into(),
            value: Some(value.into()),
            source,
            sensitive: false,
            synonyms: vec![],
        };
        let configs = BTreeMap::from([
            ("t".to_owned(), vec![entry("min.insync.replicas", "2", 1), entry("retention.ms", "5", 4), entry("x", "1", 5)]),
            ("u".to_owned(), vec![entry("min.insync.replicas", "1", 5)]),
        ]);
        let live = BTreeSet::from([1, 2]);
        text(&[TopicDescription { topic, partitions }, plain], &View { live: &live, configs: &configs, filter, overridden })
    }

    #[test]
    fn everything() {
        assert_eq!(
            shown(Filter::default(), false),
            "Topic: t\tTopicId: AQEBAQEBAQEBAQEBAQEBAQ\tPartitionCount: 4\tReplicationFactor: 2\tConfigs: min.insync.replicas=2,retention.ms=5\n\
             \tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1,2\tElr: \tLastKnownElr: N/A\n\
             \tTopic: t\tPartition: 1\tLeader: none\tReplicas: 2,1\tIsr: 2\tElr: \tLastKnownElr: N/A\n\
             \tTopic: t\tPartition: 2\tLeader: 9\tReplicas: 1,2\tIsr: 2\tElr: \tLastKnownElr: N/A\n\
             \tTopic: t\tPartition: 3\tLeader: 1\tReplicas: 1,2,3\tIsr: 1,2\tAdding Replicas: 3\tRemoving Replicas: 1\tElr: \tLastKnownElr: N/A\n\
             Topic: u\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: \n\
             \tTopic: u\tPartition: 0\tLeader: 1\tReplicas: 1\tIsr: 1\tElr: \tLastKnownElr: N/A\n"
        );
    }

    #[test]
    fn filters() {
        let partitions = |filter| {
            let text = shown(filter, false);
            text.lines().map(|line| line.split('\t').nth(2).unwrap().replace("Partition: ", "") + &line[8..9]).collect::<Vec<_>>()
        };
        assert_eq!(partitions(Filter { under_replicated: true, ..Filter::default() }), ["1t", "2t"]);
        assert_eq!(partitions(Filter { unavailable: true, ..Filter::default() }), ["1t", "2t"]);
        assert_eq!(partitions(Filter { under_min_isr: true, ..Filter::default() }), ["1t", "2t"]);
        assert_eq!(partitions(Filter { at_min_isr: true, ..Filter::default() }), ["0t", "3t", "0u"]);
        assert_eq!(shown(Filter::default(), true).lines().count(), 1);
    }
}
