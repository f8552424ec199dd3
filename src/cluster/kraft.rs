//! Taking over the metadata of a Kafka that ran on this data directory: its metadata log (KRaft) becomes records of ours.
//!
//! What is taken: topics with their ids, partitions, leader epochs and settings; producer ids. The rest is counted.

use std::collections::BTreeMap;

use super::record::MetadataRecord;
use super::{names, topic_config};
use crate::base::config::table::parse_bool;
use crate::base::ids::{BrokerId, LeaderEpoch, Offset, ProducerId, TopicId, Uuid};
use crate::wire::batch::{BatchHeader, Batches, HEADER_LEN, crc_ok};
use crate::wire::compression::{INFLATED_MAX, decompress};
use crate::wire::kraft::{self, KraftRecord, key};
use crate::wire::record::Records;
use crate::wire::schema::Value;

/// Kafka's numbers of what a setting is for: a topic.
const TOPIC_RESOURCE: i64 = 2;
/// Control records of a snapshot, by the number in their key.
const SNAPSHOT_HEADER: i16 = 3;
const SNAPSHOT_FOOTER: i16 = 4;
const OTHER_CONFIG: &str = "ConfigRecord of a broker, group or client";
/// What somebody has set up and will have to set up again.
const MISSED: [&str; 5] =
    [OTHER_CONFIG, "AccessControlEntryRecord", "ClientQuotaRecord", "DelegationTokenRecord", "UserScramCredentialRecord"];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Partition {
    leader_epoch: LeaderEpoch,
    replicas: Vec<i64>,
    /// Log directory of each replica.
    directories: Vec<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Topic {
    name: String,
    partitions: BTreeMap<i32, Partition>,
}

/// Kafka's metadata as its records add up to it.
#[derive(Clone, Debug, Default)]
pub struct KafkaMetadata {
    topics: BTreeMap<TopicId, Topic>,
    settings: BTreeMap<String, BTreeMap<String, String>>,
    next_producer_id: ProducerId,
    /// Log directories of each broker.
    log_dirs: BTreeMap<i64, Vec<Uuid>>,
    /// Records that count only once their transaction has ended.
    transaction: Option<Vec<KraftRecord>>,
    passed_over: BTreeMap<&'static str, usize>,
    next_offset: Offset,
}

/// What is taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// To be written to our metadata log, all at once.
    pub records: Vec<MetadataRecord>,
    /// Kinds of records that were passed over and that somebody may miss, and how many of each.
    pub missed: Vec<(&'static str, usize)>,
    /// Those that only mattered to Kafka itself.
    pub passed_over: Vec<(&'static str, usize)>,
    /// Ids of the log directories that the node had.
    pub log_dirs: Vec<Uuid>,
    /// Log directory of each partition for which Kafka has noted it.
    pub homes: BTreeMap<(TopicId, i32), Uuid>,
    /// TOPIC: SETTING=VALUE for those that have no meaning here.
    pub dropped_settings: Vec<String>,
}

impl KafkaMetadata {
    /// Offset of the next record of the log.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Takes in a whole snapshot, which holds everything below `end_offset`. It comes first.
    pub fn snapshot(&mut self, bytes: &[u8], end_offset: Offset) -> Result<(), String> {
        let (mut first, mut last) = (None, None);
        for batch in Batches::new(bytes) {
            let (header, batch) = batch.map_err(|e| e.to_string())?;
            if !crc_ok(batch) {
                return Err(damaged(&header));
            }
            last = if header.is_control() { control_kind(batch) } else { None };
            first = first.or(Some(last));
            self.batch(&header, batch, 0)?;
        }
        if first != Some(Some(SNAPSHOT_HEADER)) || last != Some(SNAPSHOT_FOOTER) {
            return Err("it is not whole: its first or its last record is missing".into());
        }
        self.next_offset = end_offset;
        Ok(())
    }

    /// Takes in a segment of the log that begins at `base`, as far as it lies behind what is known already. The end of the last segment may
    /// be `torn`: what was being written when Kafka was killed is left out. Says at which byte it ends early, if so.
    pub fn segment(&mut self, bytes: &[u8], base: Offset, torn: bool) -> Result<Option<usize>, String> {
        if base > self.next_offset {
            return Err(format!("it begins at offset {base}, but the records from {} on are missing", self.next_offset));
        }
        let (mut next, mut batches) = (base, Batches::new(bytes));
        loop {
            let rest = batches.rest();
            let at = bytes.len() - rest.len();
            let reason = match batches.next() {
                None => return Ok(None),
                Some(Ok((header, batch))) if !crc_ok(batch) => damaged(&header),
                Some(Ok((header, _))) if header.base_offset != next || header.last_offset_delta < 0 => {
                    format!("offset {}, where {next} is due", header.base_offset)
                }
                Some(Ok((header, batch))) => {
                    next = header.next_offset();
                    self.batch(&header, batch, self.next_offset)?;
                    self.next_offset = self.next_offset.max(next);
                    continue;
                }
                Some(Err(error)) => error.to_string(),
            };
            // What was cut short is the last thing that was written.
            if torn && !batch_follows(rest, next) {
                return Ok(Some(at));
            }
            return Err(format!("at byte {at}: {reason}"));
        }
    }

    fn batch(&mut self, header: &BatchHeader, batch: &[u8], from: Offset) -> Result<(), String> {
        if header.is_control() {
            return Ok(());
        }
        let at = |offset: Offset, e: &dyn std::fmt::Display| format!("record at offset {offset}: {e}");
        let compression = header.compression().map_err(|e| at(header.base_offset, &e))?;
        let payload = decompress(compression, &batch[HEADER_LEN..], INFLATED_MAX).map_err(|e| at(header.base_offset, &e))?;
        for record in Records::new(&payload, header.records_count) {
            let record = record.map_err(|e| at(header.base_offset, &e))?;
            let offset = header.base_offset.saturating_add(record.offset_delta.into());
            if offset >= from {
                let record = kraft::decode(record.value.unwrap_or_default()).map_err(|e| at(offset, &e))?;
                self.take(record).map_err(|e| at(offset, &e))?;
            }
        }
        Ok(())
    }

    fn take(&mut self, record: KraftRecord) -> Result<(), String> {
        match (record.key, self.transaction.as_mut()) {
            (key::BEGIN_TRANSACTION, None) => self.transaction = Some(Vec::new()),
            (key::END_TRANSACTION, Some(_)) => {
                for record in self.transaction.take().unwrap_or_default() {
                    self.apply(record)?;
                }
            }
            (key::ABORT_TRANSACTION, Some(_)) => self.transaction = None,
            (key::BEGIN_TRANSACTION | key::END_TRANSACTION | key::ABORT_TRANSACTION, _) => {
                return Err(format!("{} out of place", record.name));
            }
            (_, Some(pending)) => pending.push(record),
            (_, None) => self.apply(record)?,
        }
        Ok(())
    }

    fn apply(&mut self, record: KraftRecord) -> Result<(), String> {
        let (fields, name) = (&record.fields, record.name);
        let missing = || format!("{name} without one of its fields");
        let int = |field| fields.int(field).ok_or_else(missing);
        let id = || fields.uuid("topicId").ok_or_else(missing);
        match record.key {
            key::TOPIC => {
                let name = fields.text("name").ok_or_else(missing)?.to_owned();
                self.topics.insert(id()?, Topic { name, partitions: BTreeMap::new() });
            }
            key::PARTITION => {
                let (leader_epoch, replicas) = (int("leaderEpoch")? as LeaderEpoch, ints(fields.list("replicas")));
                let directories = uuids(fields.list("directories"));
                let partition = Partition { leader_epoch, replicas, directories };
                self.topic(id()?)?.partitions.insert(int("partitionId")? as i32, partition);
            }
            key::PARTITION_CHANGE => {
                let (id, index) = (id()?, int("partitionId")? as i32);
                let topic = self.topic(id)?;
                let Some(partition) = topic.partitions.get_mut(&index) else {
                    return Err(format!("a change of partition {index} of {}, which does not exist", topic.name));
                };
                if fields.int("leader").is_some() {
                    partition.leader_epoch = partition.leader_epoch.saturating_add(1);
                }
                if let replicas @ Some(_) = fields.list("replicas") {
                    partition.replicas = ints(replicas);
                }
                if let directories @ Some(_) = fields.list("directories") {
                    partition.directories = uuids(directories);
                }
            }
            key::REMOVE_TOPIC => {
                let topic = self.topics.remove(&id()?).ok_or("the deletion of a topic that does not exist")?;
                self.settings.remove(&topic.name);
            }
            key::CONFIG if int("resourceType")? == TOPIC_RESOURCE => {
                let settings = self.settings.entry(fields.text("resourceName").ok_or_else(missing)?.to_owned()).or_default();
                let name = fields.text("name").ok_or_else(missing)?;
                match fields.text("value") {
                    Some(value) => settings.insert(name.to_owned(), value.to_owned()),
                    None => settings.remove(name),
                };
            }
            key::PRODUCER_IDS => self.next_producer_id = self.next_producer_id.max(int("nextProducerId")?),
            key::REGISTER_BROKER | key::BROKER_CHANGE => {
                if let log_dirs @ Some(_) = fields.list("logDirs") {
                    self.log_dirs.insert(int("brokerId")?, uuids(log_dirs));
                }
                self.pass_over(name);
            }
            key::CONFIG => self.pass_over(OTHER_CONFIG),
            _ => self.pass_over(name),
        }
        Ok(())
    }

    fn topic(&mut self, id: TopicId) -> Result<&mut Topic, String> {
        self.topics.get_mut(&id).ok_or_else(|| format!("a partition of the topic {id}, which does not exist"))
    }

    fn pass_over(&mut self, kind: &'static str) {
        *self.passed_over.entry(kind).or_default() += 1;
    }

    /// What becomes of it on node `node`. `stored_epoch` is the last epoch in the log of a partition, if it is known: the next one is above
    /// it and above Kafka's. The error says what cannot be taken over.
    pub fn finish(self, node: BrokerId, now_ms: i64, stored_epoch: impl Fn(&str, i32) -> Option<LeaderEpoch>) -> Result<Taken, String> {
        let (missed, passed_over) = self.passed_over.into_iter().partition(|(kind, _)| MISSED.contains(kind));
        let log_dirs = self.log_dirs.get(&i64::from(node)).cloned().unwrap_or_default();
        let mut taken = Taken { missed, passed_over, log_dirs, ..Taken::default() };
        let mut by_name = BTreeMap::new();
        for (id, topic) in self.topics {
            if let Some((other, _)) = by_name.insert(topic.name.clone(), (id, topic)) {
                return Err(format!("two topics of one name: {other} and {id}"));
            }
        }
        for (name, (id, topic)) in by_name {
            names::validate(&name)?;
            let settings = self.settings.get(&name).cloned().unwrap_or_default();
            if settings.get("remote.storage.enable").and_then(|value| parse_bool(value)) == Some(true) {
                return Err(format!("topic {name} has remote.storage.enable=true: Corelane cannot read from tiered storage"));
            }
            let (configs, dropped): (Vec<_>, Vec<_>) =
                settings.into_iter().partition(|(setting, value)| topic_config::validate(setting, value).is_ok());
            taken.dropped_settings.extend(dropped.iter().map(|(setting, value)| format!("{name}: {setting}={value}")));
            let leader_epochs = epochs(&name, &topic, node, &stored_epoch)?;
            let homes = topic.partitions.iter().filter_map(|(index, partition)| match partition.directories[..] {
                [home] if !is_reserved(&home) => Some(((id, *index), home)),
                _ => None,
            });
            taken.homes.extend(homes);
            taken.records.push(MetadataRecord::Topic { id: id.0, name, leader_epochs, configs, created_ms: now_ms });
        }
        taken.records.push(MetadataRecord::ProducerIds { next: self.next_producer_id });
        Ok(taken)
    }
}

fn epochs(
    name: &str,
    topic: &Topic,
    node: BrokerId,
    stored_epoch: &impl Fn(&str, i32) -> Option<LeaderEpoch>,
) -> Result<Vec<LeaderEpoch>, String> {
    if !topic.partitions.keys().copied().eq(0..topic.partitions.len() as i32) || topic.partitions.is_empty() {
        return Err(format!("topic {name} has the partitions {:?}", topic.partitions.keys()));
    }
    let epoch = |(&index, partition): (&i32, &Partition)| {
        if partition.replicas != [i64::from(node)] {
            return Err(format!(
                "partition {name}-{index} has replicas on the nodes {:?}, this is node.id={node}: only a Kafka of one node can be taken over",
                partition.replicas
            ));
        }
        Ok(partition.leader_epoch.max(stored_epoch(name, index).unwrap_or(-1)).saturating_add(1))
    };
    topic.partitions.iter().map(epoch).collect()
}

fn ints(list: Option<&[Value]>) -> Vec<i64> {
    let int = |value: &Value| if let Value::Int(value) = value { Some(*value) } else { None };
    list.unwrap_or_default().iter().filter_map(int).collect()
}

fn uuids(list: Option<&[Value]>) -> Vec<Uuid> {
    let uuid = |value: &Value| if let Value::Uuid(value) = value { Some(*value) } else { None };
    list.unwrap_or_default().iter().filter_map(uuid).collect()
}

/// True for the ids that stand for "lost", "not assigned" and the like instead of a log directory.
fn is_reserved(directory: &Uuid) -> bool {
    directory.0[..15].iter().all(|byte| *byte == 0) && directory.0[15] < 100
}

fn damaged(header: &BatchHeader) -> String {
    format!("the checksum of the batch at offset {} is wrong", header.base_offset)
}

/// Whether a whole batch of a later offset than `next` begins somewhere behind the first byte.
fn batch_follows(bytes: &[u8], next: Offset) -> bool {
    let plausible =
        |rest: &&[u8]| BatchHeader::parse(rest).is_ok_and(|header| header.base_offset > next && header.total_len() <= rest.len());
    (1..bytes.len()).map(|at| &bytes[at..]).filter(plausible).any(crc_ok)
}

/// The number of a control record.
fn control_kind(batch: &[u8]) -> Option<i16> {
    let record = Records::new(&batch[HEADER_LEN..], 1).next()?.ok()?;
    record.key?.get(2..4).map(|kind| i16::from_be_bytes([kind[0], kind[1]]))
}

#[cfg(test)]
#[path = "kraft_tests.rs"]
mod tests;
