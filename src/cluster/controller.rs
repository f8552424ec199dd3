//! The controller's decisions: what is asked, checked against the image, becomes records or a refusal in Kafka's words.
//!
//! The image must hold every record decided before, committed or not. Nothing changes here: the records do that, through
//! [`Image::apply`].

use std::collections::{BTreeMap, BTreeSet};

use super::image::Image;
use super::names;
use super::record::MetadataRecord;
use super::settings::{BrokerSettings, Configs, bytes_of};
use super::topic_config;
use super::view::BrokerView;
use crate::base::error::ErrorCode;
use crate::base::ids::{BrokerId, ProducerId, TopicId, Uuid};
use crate::base::time::Now;

/// Partitions that one request may create (Kafka's `MAX_PARTITIONS_PER_BATCH`).
pub const PARTITIONS_PER_REQUEST: i64 = 10_000;

/// Producer ids that a core takes at a time (Kafka's block size).
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's code.
    pub code: ErrorCode,
    /// For people; Kafka's text where Kafka has one.
    pub message: String,
}

pub(super) fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

/// A topic as a request describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic<'a> {
    /// Its name, unchecked.
    pub name: &'a str,
    /// How many partitions; -1: the broker's default, or as assigned.
    pub partitions: i32,
    /// How many replicas; -1: the broker's default, or as assigned.
    pub replication_factor: i16,
    /// Partition numbers and the brokers for them, where the request chose them itself.
    pub assignments: Vec<(i32, &'a [BrokerId])>,
    /// Settings; a value may be missing, which is an error.
    pub configs: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> NewTopic<'a> {
    /// A topic with the broker's defaults.
    pub fn with_defaults(name: &'a str) -> NewTopic<'a> {
        NewTopic { name, partitions: -1, replication_factor: -1, ..NewTopic::default() }
    }
}

/// A topic that may be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id.
    pub id: TopicId,
    /// How many partitions it gets.
    pub partitions: i32,
    /// Its settings.
    pub overrides: Configs,
    /// What makes it exist: a [`MetadataRecord::Topic`].
    pub record: MetadataRecord,
}

/// An error if a request's topics have too many partitions together.
pub fn check_partitions<'a>(broker: &BrokerView, wanted: impl Iterator<Item = NewTopic<'a>>) -> Result<(), Refusal> {
    let partitions = |topic: NewTopic| match topic.partitions {
        _ if !topic.assignments.is_empty() => topic.assignments.len() as i64,
        -1 => broker.num_partitions as i64,
        n => n.max(0) as i64,
    };
    if wanted.map(partitions).sum::<i64>() > PARTITIONS_PER_REQUEST {
        return refuse(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.");
    }
    Ok(())
}

/// Takes room for settings that replace others of so many bytes; none is needed for less than there was.
pub(super) fn take(left: &mut usize, before: usize, after: usize) -> Result<(), Refusal> {
    match (*left + before).checked_sub(after) {
        Some(rest) => *left = rest,
        None if after <= before => *left = 0,
        None => return refuse(ErrorCode::PolicyViolation, "All settings together would take more than a quarter of corelane.memory."),
    }
    Ok(())
}

/// Decides on the topics of one request, in their order. `random` yields random bits for the ids.
pub fn create_topics(
    image: &Image,
    broker: &BrokerView,
    now: Now,
    wanted: &[NewTopic],
    random: &mut dyn FnMut() -> [u8; 16],
) -> Vec<Result<CreatedTopic, Refusal>> {
    if let Err(refusal) = check_partitions(broker, wanted.iter().cloned()) {
        return wanted.iter().map(|_| Err(refusal.clone())).collect();
    }
    let mut creation = Creation::default();
    wanted.iter().map(|topic| creation.topic(image, broker, now, topic, random)).collect()
}

/// The topics of one request, of which each is decided in turn, all on the same image.
#[derive(Default)]
pub struct Creation {
    accepted: BTreeSet<String>,
    /// The names that others can collide with, each by its folded form; of all topics, once a name
    /// that can collide is asked for: many may be.
    folded: Option<BTreeMap<String, String>>,
    /// Bytes of the settings of the accepted ones.
    settings: usize,
}

impl Creation {
    /// Decides on the next topic. `random` yields random bits for its id.
    pub fn topic(
        &mut self,
        image: &Image,
        broker: &BrokerView,
        now: Now,
        topic: &NewTopic,
        random: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<CreatedTopic, Refusal> {
        self.check_name(image, topic.name)?;
        let created = create_topic(image, broker, now, topic, random)?;
        // Groups need their topic, whatever others have.
        if !names::is_internal(topic.name) {
            let mut left = broker.settings_max.saturating_sub(image.settings_bytes() + self.settings);
            let bytes = bytes_of(&created.overrides);
            take(&mut left, 0, bytes)?;
            self.settings += bytes;
        }
        self.accepted.insert(topic.name.to_owned());
        if let Some(folded) = self.folded.as_mut().filter(|_| names::can_collide(topic.name)) {
            folded.insert(names::folded(topic.name), topic.name.to_owned());
        }
        Ok(created)
    }

    fn check_name(&mut self, image: &Image, name: &str) -> Result<(), Refusal> {
        names::validate(name).or_else(|text| refuse(ErrorCode::InvalidTopicException, text))?;
        if name == names::CLUSTER_METADATA {
            return refuse(ErrorCode::InvalidRequest, format!("Creation of internal topic {name} is prohibited."));
        }
        if image.topic(name).is_some() || self.accepted.contains(name) {
            return refuse(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists."));
        }
        if !names::can_collide(name) {
            return Ok(());
        }
        let folded = self.folded.get_or_insert_with(|| {
            let all = image.topics().map(|topic| &*topic.name).chain(self.accepted.iter().map(String::as_str));
            all.filter(|name| names::can_collide(name)).map(|name| (names::folded(name), name.to_owned())).collect()
        });
        match folded.get(&names::folded(name)) {
            None => Ok(()),
            Some(other) => refuse(ErrorCode::InvalidTopicException, format!("Topic '{name}' collides with existing topic: {other}")),
        }
    }
}

fn create_topic(
    image: &Image,
    broker: &BrokerView,
    now: Now,
    topic: &NewTopic,
    random: &mut dyn FnMut() -> [u8; 16],
) -> Result<CreatedTopic, Refusal> {
    let overrides = check_configs(&topic.configs, image.settings())?;
    let partitions = if topic.assignments.is_empty() { check_counts(topic, broker)? } else { check_assignments(topic, broker)? };
    let id = fresh_id(image, random);
    let record = MetadataRecord::Topic {
        id: id.0,
        name: topic.name.to_owned(),
        leader_epochs: vec![0; partitions as usize],
        configs: overrides.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        created_ms: now.wall_ms,
    };
    Ok(CreatedTopic { id, partitions, overrides, record })
}

fn check_configs(configs: &[(&str, Option<&str>)], settings: &BrokerSettings) -> Result<Configs, Refusal> {
    let mut overrides = Configs::new();
    for &(name, value) in configs {
        let Some(value) = value else {
            return refuse(ErrorCode::InvalidConfig, format!("Null value not supported for topic configs: {name}"));
        };
        topic_config::validate(name, value).or_else(|text| refuse(ErrorCode::InvalidConfig, text))?;
        overrides.insert(name.to_owned(), value.to_owned());
    }
    topic_config::validate_together(&overrides, settings).or_else(|text| refuse(ErrorCode::InvalidConfig, text))?;
    Ok(overrides)
}

fn check_counts(topic: &NewTopic, broker: &BrokerView) -> Result<i32, Refusal> {
    let replicas = match topic.replication_factor {
        -1 => broker.default_replication_factor,
        n => n,
    };
    if replicas <= 0 {
        let text = "Replication factor must be larger than 0, or -1 to use the default value.";
        return refuse(ErrorCode::InvalidReplicationFactor, text);
    }
    let partitions = match topic.partitions {
        -1 => broker.num_partitions,
        n if n <= 0 => {
            return refuse(ErrorCode::InvalidPartitions, "Number of partitions was set to an invalid non-positive value.");
        }
        n => n,
    };
    if replicas > 1 {
        let text = format!(
            "Unable to replicate the partition {replicas} time(s): The target replication factor of {replicas} cannot be reached \
             because only 1 broker(s) are registered or some brokers have all their log directories cordoned."
        );
        return refuse(ErrorCode::InvalidReplicationFactor, text);
    }
    Ok(partitions)
}

fn check_assignments(topic: &NewTopic, broker: &BrokerView) -> Result<i32, Refusal> {
    let given = |what| format!("A manual partition assignment was specified, but {what} was not set to -1.");
    if topic.replication_factor != -1 {
        return refuse(ErrorCode::InvalidRequest, given("replication factor"));
    }
    if topic.partitions != -1 {
        return refuse(ErrorCode::InvalidRequest, given("numPartitions"));
    }
    let mut seen = BTreeSet::new();
    for &(partition, brokers) in &topic.assignments {
        if !seen.insert(partition) {
            let text = format!("Found multiple manual partition assignments for partition {partition}");
            return refuse(ErrorCode::InvalidReplicaAssignment, text);
        }
        check_replicas(brokers, broker)?;
    }
    if !seen.iter().copied().eq(0..seen.len() as i32) {
        return refuse(ErrorCode::InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence");
    }
    Ok(seen.len() as i32)
}

/// The brokers that a request chose for one partition.
fn check_replicas(brokers: &[BrokerId], broker: &BrokerView) -> Result<(), Refusal> {
    let problem = match brokers.iter().find(|&&id| id != broker.node_id) {
        Some(other) => format!("broker {other}, but no such broker is registered."),
        None if brokers.is_empty() => "an empty replica list.".to_owned(),
        None if brokers.len() > 1 => format!("the broker {} more than once.", broker.node_id),
        None => return Ok(()),
    };
    refuse(ErrorCode::InvalidReplicaAssignment, format!("The manual partition assignment includes {problem}"))
}

/// More partitions for a topic, as a request asks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MorePartitions<'a> {
    /// The topic's name.
    pub name: &'a str,
    /// How many it is to have then.
    pub count: i32,
    /// The brokers for each new partition, where the request chose them itself.
    pub assignments: Option<Vec<&'a [BrokerId]>>,
}

/// The new partitions of one request, of which each topic is decided in turn, all on the same image;
/// each name stands there once.
pub struct Additions {
    /// Partitions that the request may still create.
    left: i64,
}

impl Default for Additions {
    fn default() -> Additions {
        Additions { left: PARTITIONS_PER_REQUEST }
    }
}

impl Additions {
    /// Decides on the next topic. A yes is a [`MetadataRecord::AddPartitions`].
    pub fn topic(&mut self, image: &Image, broker: &BrokerView, more: &MorePartitions) -> Result<MetadataRecord, Refusal> {
        let Some(topic) = image.topic(more.name) else {
            // As in Kafka without a text.
            return refuse(ErrorCode::UnknownTopicOrPartition, "");
        };
        if names::is_internal(more.name) {
            // Where a group or a producer is found depends on it: with another number all of them would be looked for elsewhere.
            let text = format!("The number of partitions of the internal topic {} cannot be changed.", more.name);
            return refuse(ErrorCode::InvalidRequest, text);
        }
        let additional = check_increase(more, topic.partitions.len() as i64)?;
        for &brokers in more.assignments.iter().flatten() {
            check_replicas(brokers, broker)?;
        }
        if additional > self.left {
            return refuse(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.");
        }
        self.left -= additional;
        Ok(MetadataRecord::AddPartitions { id: topic.id.0, leader_epochs: vec![0; additional as usize] })
    }
}

/// How many partitions are added to the `present` ones.
fn check_increase(more: &MorePartitions, present: i64) -> Result<i64, Refusal> {
    let MorePartitions { name, count, assignments } = more;
    let additional = i64::from(*count) - present;
    if additional == 0 {
        return refuse(ErrorCode::InvalidPartitions, format!("Topic already has {present} partition(s)."));
    }
    if additional < 0 {
        let text = format!("The topic {name} currently has {present} partition(s); {count} would not be an increase.");
        return refuse(ErrorCode::InvalidPartitions, text);
    }
    match assignments {
        Some(given) if given.len() as i64 != additional => {
            let given = given.len();
            let text = format!("Attempted to add {additional} additional partition(s), but only {given} assignment(s) were specified.");
            refuse(ErrorCode::InvalidReplicaAssignment, text)
        }
        _ => Ok(additional),
    }
}

/// An id that no topic has; as in Kafka none whose text begins with '-', which the tools would take for an option.
fn fresh_id(image: &Image, random: &mut dyn FnMut() -> [u8; 16]) -> TopicId {
    loop {
        let id = Uuid::from_random(random());
        if image.topic_by_id(id).is_none() && !id.to_string().starts_with('-') {
            return id;
        }
    }
}

/// The records for those of `wanted` that can be created with the broker's defaults; the others are left out, as Kafka leaves a
/// client to find out that a topic never appears. Never one of the broker's own topics, which are not created with defaults.
pub fn auto_create(
    image: &Image,
    broker: &BrokerView,
    now: Now,
    wanted: &[String],
    random: &mut dyn FnMut() -> [u8; 16],
) -> Vec<MetadataRecord> {
    let wanted: Vec<NewTopic> = wanted.iter().filter(|name| !names::is_internal(name)).map(|name| NewTopic::with_defaults(name)).collect();
    create_topics(image, broker, now, &wanted, random).into_iter().filter_map(|topic| Some(topic.ok()?.record)).collect()
}

/// A topic as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKey<'a> {
    /// By name.
    Name(&'a str),
    /// By id.
    Id(TopicId),
}

/// Decides on the deletion of topics; a yes is its id, to be put into a [`MetadataRecord::RemoveTopic`].
pub fn delete_topic(image: &Image, broker: &BrokerView, topic: TopicKey) -> Result<TopicId, Refusal> {
    if !broker.delete_topic_enable {
        return refuse(ErrorCode::TopicDeletionDisabled, ErrorCode::TopicDeletionDisabled.message());
    }
    let (found, missing) = match topic {
        TopicKey::Name(name) => (image.topic(name), ErrorCode::UnknownTopicOrPartition),
        TopicKey::Id(id) => (image.topic_by_id(id), ErrorCode::UnknownTopicId),
    };
    found.map_or_else(|| refuse(missing, missing.message()), |topic| Ok(topic.id))
}

/// A run of producer ids: the first, and the record that gives `count` of them away. They may be used once it is durable.
pub fn allocate_producer_ids(image: &Image, count: i64) -> (ProducerId, MetadataRecord) {
    let first = image.next_producer_id();
    (first, MetadataRecord::ProducerIds { next: first.saturating_add(count) })
}

/// Producer ids that one core was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerIds {
    next: ProducerId,
    end: ProducerId,
}

impl ProducerIds {
    /// The next id; none when it is time to [`ProducerIds::refill`].
    pub fn take(&mut self) -> Option<ProducerId> {
        let id = self.next;
        (id < self.end).then(|| {
            self.next += 1;
            id
        })
    }

    /// Goes on with `count` ids from `first`; what was left is lost, which does no harm.
    pub fn refill(&mut self, first: ProducerId, count: i64) {
        *self = ProducerIds { next: first, end: first.saturating_add(count) };
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
