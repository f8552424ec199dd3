//! The cluster's metadata at one moment, as the metadata log's records add up to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::group_config::GroupSettings;
use super::record::MetadataRecord;
use super::settings::{BrokerSettings, Configs, bytes_of, bytes_of_group};
use super::topic_config::TopicConfig;
use crate::base::ids::{LeaderEpoch, Offset, ProducerId, TopicId, Uuid};

/// One partition of a topic; its number is its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Term of its leader.
    pub leader_epoch: LeaderEpoch,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Stable identity.
    pub id: TopicId,
    /// Unique among the topics that exist.
    pub name: Arc<str>,
    /// By partition number; never empty.
    pub partitions: Vec<PartitionInfo>,
    /// The settings in force that the data path looks at.
    pub config: TopicConfig,
    /// The settings that were given, as they were given.
    pub overrides: Configs,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

impl Topic {
    /// A partition; none for a number that the topic does not have.
    pub fn partition(&self, index: i32) -> Option<&PartitionInfo> {
        usize::try_from(index).ok().and_then(|index| self.partitions.get(index))
    }
}

/// A snapshot of the metadata. Cores share one behind an `Arc`; the next one is a clone (topics are shared, not copied) that
/// [`Image::apply`] has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    settings: BrokerSettings,
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    by_id: BTreeMap<TopicId, Arc<Topic>>,
    /// Partitions of all topics.
    partitions: usize,
    groups: BTreeMap<Arc<str>, Arc<GroupSettings>>,
    /// See [`Image::settings_bytes`].
    settings_bytes: usize,
    next_producer_id: ProducerId,
    held: bool,
    offset: Offset,
}

impl Image {
    /// The image of an empty log. `settings` are the broker's: they are what topics default to.
    pub fn new(settings: BrokerSettings) -> Image {
        Image {
            settings,
            by_name: BTreeMap::new(),
            by_id: BTreeMap::new(),
            partitions: 0,
            groups: BTreeMap::new(),
            settings_bytes: 0,
            next_producer_id: 0,
            held: false,
            offset: -1,
        }
    }

    /// What `records` add up to.
    pub fn of(settings: BrokerSettings, records: &[MetadataRecord]) -> Image {
        let mut image = Image::new(settings);
        for (at, record) in (0..).zip(records) {
            image.apply(at, record);
        }
        image
    }

    /// The settings of this broker.
    pub fn settings(&self) -> &BrokerSettings {
        &self.settings
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// All topics by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// How many partitions all topics have.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// All topics by name, from `name` on.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.range::<str, _>((std::ops::Bound::Included(name), std::ops::Bound::Unbounded)).map(|(_, topic)| topic)
    }

    /// The settings of a group; none for one without any.
    pub fn group(&self, id: &str) -> Option<&GroupSettings> {
        self.groups.get(id).map(|group| &**group)
    }

    /// The groups that have settings, by id.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.groups.keys()
    }

    /// Bytes of the heap that the settings of topics, groups and brokers take which were set at run time, about.
    pub fn settings_bytes(&self) -> usize {
        self.settings_bytes
    }

    /// The first producer id that nobody has.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// Nothing is to be appended to partitions for now: their leader epochs should have grown, and have not yet. Not of the log: who
    /// writes that says so.
    pub fn held(&self) -> bool {
        self.held
    }

    /// See [`Image::held`].
    pub fn set_held(&mut self, held: bool) {
        self.held = held;
    }

    /// Position of the last applied record in the metadata log; -1 before the first.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Takes in one record: the only way to change an image, live and at replay alike.
    pub fn apply(&mut self, at: Offset, record: &MetadataRecord) {
        match record {
            MetadataRecord::Topic { id, name, leader_epochs, configs, created_ms } => {
                let overrides: Configs = configs.iter().cloned().collect();
                self.insert(Topic {
                    id: Uuid(*id),
                    name: name.as_str().into(),
                    partitions: leader_epochs.iter().map(|&leader_epoch| PartitionInfo { leader_epoch }).collect(),
                    config: TopicConfig::resolve(&overrides, &self.settings),
                    overrides,
                    created_ms: *created_ms,
                });
            }
            MetadataRecord::RemoveTopic { id } => {
                if let Some(topic) = self.by_id.remove(&Uuid(*id)) {
                    self.by_name.remove(&topic.name);
                    self.settings_bytes -= bytes_of(&topic.overrides);
                    self.partitions -= topic.partitions.len();
                }
            }
            MetadataRecord::NewLeaderEpochs => self.change_topics(|topic, _| {
                topic.partitions.iter_mut().for_each(|partition| partition.leader_epoch = partition.leader_epoch.saturating_add(1));
            }),
            MetadataRecord::NewLeaderEpochsOf { id, partitions } => {
                if let Some(topic) = self.by_id.get(&Uuid(*id)) {
                    let mut next = (**topic).clone();
                    for index in partitions.iter().filter_map(|index| usize::try_from(*index).ok()) {
                        if let Some(partition) = next.partitions.get_mut(index) {
                            partition.leader_epoch = partition.leader_epoch.saturating_add(1);
                        }
                    }
                    self.insert(next);
                }
            }
            MetadataRecord::ProducerIds { next } => self.next_producer_id = self.next_producer_id.max(*next),
            MetadataRecord::TopicConfigs { id, configs } => {
                if let Some(topic) = self.by_id.get(&Uuid(*id)) {
                    let overrides: Configs = configs.iter().cloned().collect();
                    let config = TopicConfig::resolve(&overrides, &self.settings);
                    self.insert(Topic { config, overrides, ..(**topic).clone() });
                }
            }
            MetadataRecord::BrokerConfigs { broker, configs } => {
                self.settings_bytes -= self.settings.dynamic_bytes(*broker);
                self.settings.set_dynamic(*broker, configs.iter().cloned().collect());
                self.settings_bytes += self.settings.dynamic_bytes(*broker);
                self.change_topics(|topic, settings| topic.config = TopicConfig::resolve(&topic.overrides, settings));
                for group in self.groups.values_mut() {
                    *group = Arc::new(GroupSettings::resolve(group.configs.clone(), &self.settings));
                }
            }
            MetadataRecord::AddPartitions { id, leader_epochs } => {
                if let Some(topic) = self.by_id.get(&Uuid(*id)) {
                    let mut next = (**topic).clone();
                    next.partitions.extend(leader_epochs.iter().map(|&leader_epoch| PartitionInfo { leader_epoch }));
                    self.insert(next);
                }
            }
            MetadataRecord::GroupConfigs { group, configs } => {
                let before = if configs.is_empty() {
                    self.groups.remove(group.as_str())
                } else {
                    let resolved = GroupSettings::resolve(configs.iter().cloned().collect(), &self.settings);
                    self.settings_bytes += bytes_of_group(group, &resolved.configs);
                    self.groups.insert(group.as_str().into(), Arc::new(resolved))
                };
                self.settings_bytes -= before.map_or(0, |own| bytes_of_group(group, &own.configs));
            }
        }
        self.offset = at;
    }

    fn change_topics(&mut self, change: impl Fn(&mut Topic, &BrokerSettings)) {
        for topic in self.by_name.values().cloned().collect::<Vec<_>>() {
            let mut next = (*topic).clone();
            change(&mut next, &self.settings);
            self.insert(next);
        }
    }

    fn insert(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        // Names and ids are unique as long as every record was decided on the image before it; a log that says otherwise must still
        // leave the two maps with the same topics.
        self.partitions += topic.partitions.len();
        self.settings_bytes += bytes_of(&topic.overrides);
        let by_name = self.by_name.insert(topic.name.clone(), topic.clone());
        let by_id = self.by_id.insert(topic.id, topic.clone());
        let by_id = by_id.filter(|old| by_name.as_ref().is_none_or(|other| !Arc::ptr_eq(old, other)));
        for old in by_name.into_iter().chain(by_id) {
            self.partitions -= old.partitions.len();
            self.settings_bytes -= bytes_of(&old.overrides);
            if old.name != topic.name {
                self.by_name.remove(&old.name);
            }
            if old.id != topic.id {
                self.by_id.remove(&old.id);
            }
        }
    }

    /// Records that lead from an empty image to this one (but for its offset): what a compacted metadata log holds.
    pub fn records(&self) -> impl Iterator<Item = MetadataRecord> {
        let topics = self.by_name.values().map(|topic| MetadataRecord::Topic {
            id: topic.id.0,
            name: topic.name.to_string(),
            leader_epochs: topic.partitions.iter().map(|partition| partition.leader_epoch).collect(),
            configs: topic.overrides.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            created_ms: topic.created_ms,
        });
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let brokers = self
            .settings
            .scopes()
            .map(move |broker| MetadataRecord::BrokerConfigs { broker, configs: self.settings.dynamic(broker).map(owned).collect() });
        let groups = self.groups.iter().map(|(group, own)| MetadataRecord::GroupConfigs {
            group: group.to_string(),
            configs: own.configs.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        });
        topics.chain(brokers).chain(groups).chain([MetadataRecord::ProducerIds { next: self.next_producer_id }])
    }

    /// Panics if the image contradicts itself; for tests and the simulator.
    pub fn check(&self) {
        let topics = self.by_name.values().map(|topic| bytes_of(&topic.overrides)).sum::<usize>();
        let groups = self.groups.iter().map(|(id, own)| bytes_of_group(id, &own.configs)).sum::<usize>();
        let brokers = self.settings.scopes().map(|scope| self.settings.dynamic_bytes(scope)).sum::<usize>();
        assert_eq!(self.settings_bytes, topics + groups + brokers);
        assert_eq!(self.by_name.len(), self.by_id.len());
        assert_eq!(self.partitions, self.by_name.values().map(|topic| topic.partitions.len()).sum::<usize>());
        for (name, topic) in &self.by_name {
            assert_eq!(*name, topic.name);
            assert!(Arc::ptr_eq(topic, &self.by_id[&topic.id]), "{name}");
            assert_eq!(topic.config, TopicConfig::resolve(&topic.overrides, &self.settings), "{name}");
        }
        for (id, group) in &self.groups {
            assert!(!group.configs.is_empty(), "{id}");
            assert_eq!(**group, GroupSettings::resolve(group.configs.clone(), &self.settings), "{id}");
        }
        assert!(self.next_producer_id >= 0 && self.offset >= -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(id: u8, name: &str, epochs: &[i32]) -> MetadataRecord {
        MetadataRecord::Topic { id: [id; 16], name: name.into(), leader_epochs: epochs.to_vec(), configs: vec![], created_ms: 5 }
    }

    fn any_record() -> impl Strategy<Value = MetadataRecord> {
        let configs = prop_oneof![Just(vec![]), Just(vec![("cleanup.policy".to_owned(), "compact".to_owned())])];
        let broker = prop_oneof![Just(vec![]), (0..9i32).prop_map(|n| vec![("message.max.bytes".to_owned(), n.to_string())])];
        let group = prop_oneof![Just(vec![]), (0..9i32).prop_map(|n| vec![("consumer.session.timeout.ms".to_owned(), format!("5000{n}"))])];
        prop_oneof![
            4 => (1..8u8, "[a-d]", prop::collection::vec(0..3i32, 1..4), configs.clone()).prop_map(|(id, name, leader_epochs, configs)| {
                MetadataRecord::Topic { id: [id; 16], name, leader_epochs, configs, created_ms: 1 }
            }),
            2 => (1..8u8).prop_map(|id| MetadataRecord::RemoveTopic { id: [id; 16] }),
            1 => Just(MetadataRecord::NewLeaderEpochs),
            1 => (1..8u8, prop::collection::vec(-1..4i32, 0..3))
                .prop_map(|(id, partitions)| MetadataRecord::NewLeaderEpochsOf { id: [id; 16], partitions }),
            2 => (1..8u8, prop::collection::vec(0..3i32, 0..3))
                .prop_map(|(id, leader_epochs)| MetadataRecord::AddPartitions { id: [id; 16], leader_epochs }),
            1 => (0..100i64).prop_map(|next| MetadataRecord::ProducerIds { next }),
            2 => (1..8u8, configs.clone()).prop_map(|(id, configs)| MetadataRecord::TopicConfigs { id: [id; 16], configs }),
            2 => ("[ab]", group).prop_map(|(group, configs)| MetadataRecord::GroupConfigs { group, configs }),
            1 => (prop::option::of(0..2i32), broker).prop_map(|(broker, configs)| MetadataRecord::BrokerConfigs { broker, configs }),
        ]
    }

    proptest! {
        /// Also with records that no controller decides: names and ids that clash.
        #[test]
        fn any_log_gives_a_sound_image_and_its_compacted_form_the_same(records in prop::collection::vec(any_record(), 0..40)) {
            let settings = BrokerSettings::new(1, Arc::new(BTreeMap::from([("message.max.bytes".to_owned(), "777".to_owned())])));
            let mut image = Image::new(settings.clone());
            for (at, record) in records.iter().enumerate() {
                image.apply(at as i64, record);
                image.check();
            }
            let mut compacted = Image::new(settings);
            image.records().for_each(|record| compacted.apply(image.offset(), &MetadataRecord::decode(&record.encode()).unwrap()));
            prop_assert_eq!(compacted, image);
        }
    }

    #[test]
    fn topics_come_and_go() {
        let mut image = Image::new(BrokerSettings::default());
        image.apply(0, &topic(1, "b", &[0, 0]));
        image.apply(1, &topic(2, "a", &[0]));
        assert_eq!(image.topics().map(|t| &*t.name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(image.topics_from("aa").map(|t| &*t.name).collect::<Vec<_>>(), ["b"]);
        let before = image.clone();
        image.apply(2, &MetadataRecord::NewLeaderEpochs);
        assert_eq!(image.topic("b").unwrap().partition(1), Some(&PartitionInfo { leader_epoch: 1 }));
        assert_eq!(before.topic("b").unwrap().partition(1), Some(&PartitionInfo { leader_epoch: 0 }));
        assert_eq!((image.topic("b").unwrap().partition(2), image.topic("b").unwrap().partition(-1)), (None, None));
        image.apply(3, &MetadataRecord::AddPartitions { id: [1; 16], leader_epochs: vec![7] });
        assert_eq!(image.topic("b").unwrap().partitions.iter().map(|p| p.leader_epoch).collect::<Vec<_>>(), [1, 1, 7]);
        image.apply(4, &MetadataRecord::NewLeaderEpochsOf { id: [1; 16], partitions: vec![1, 2, 3, -1] });
        assert_eq!(image.topic("b").unwrap().partitions.iter().map(|p| p.leader_epoch).collect::<Vec<_>>(), [1, 2, 8]);
        image.apply(4, &MetadataRecord::RemoveTopic { id: [1; 16] });
        assert!(image.topic("b").is_none() && image.topic_by_id(Uuid([1; 16])).is_none());
        assert_eq!((image.topics().len(), image.offset()), (1, 4));
    }
}
