//! Produce: a request becomes one item for each batch that passes the checks; results become the response.

use crate::base::config::AckPolicy;
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::cluster::image::{Image, Topic};
use crate::cluster::names;
use crate::partition::acks::Level;
use crate::partition::op::{ProduceItem, Produced};
use crate::wire::batch::{ProduceRules, TimestampType, validate_produce};
use crate::wire::produce::{PartitionResult, ProducePartition, ProduceRequest, TopicResult};

/// A request on its way: what to append, and the response as far as it is known.
pub struct Plan {
    /// Batches to append, in the request's order.
    pub items: Vec<ProduceItem>,
    /// The response; results of `items` are filled in with [`Plan::answer`].
    pub topics: Vec<TopicResult>,
    /// Topic and partition of each item in `topics`.
    places: Vec<(u32, u32)>,
}

/// Checks a request against the image.
pub fn plan(request: &ProduceRequest, version: i16, image: &Image, now_ms: i64) -> Plan {
    let mut plan = Plan { items: Vec::new(), topics: Vec::with_capacity(request.topics.len()), places: Vec::new() };
    for topic in &request.topics {
        let known = if version >= 13 { image.topic_by_id(topic.id) } else { image.topic(&topic.name) };
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let unknown = if version >= 13 { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition };
            let checked = match known {
                None => Err(refused(unknown)),
                Some(known) => check(request.acks, version, known, partition, now_ms),
            };
            let result = match checked {
                Ok(item) => {
                    plan.places.push((plan.topics.len() as u32, partitions.len() as u32));
                    plan.items.push(item);
                    refused(ErrorCode::UnknownServerError)
                }
                Err(result) => result,
            };
            partitions.push(PartitionResult { index: partition.index, ..result });
        }
        plan.topics.push(TopicResult { name: topic.name.clone(), id: topic.id, partitions });
    }
    plan
}

impl Plan {
    /// Fills in the result of an item.
    pub fn answer(&mut self, item: usize, produced: &Produced) {
        let (topic, partition) = self.places[item];
        let result = &mut self.topics[topic as usize].partitions[partition as usize];
        result.code = produced.code;
        result.base_offset = produced.base_offset;
        result.log_append_time_ms = produced.log_append_time;
        result.log_start_offset = produced.log_start_offset;
    }

    /// True when something was refused: with acks=0 the only way to say so is to close the connection.
    pub fn refused(&self) -> bool {
        self.topics.iter().flat_map(|t| &t.partitions).any(|p| p.code != ErrorCode::None)
    }
}

fn check(acks: i16, version: i16, topic: &Topic, partition: &ProducePartition, now_ms: i64) -> Result<ProduceItem, PartitionResult> {
    if !(-1..=1).contains(&acks) {
        return Err(refused(ErrorCode::InvalidRequiredAcks));
    }
    if topic.partition(partition.index).is_none() {
        return Err(refused(ErrorCode::UnknownTopicOrPartition));
    }
    if names::is_internal(&topic.name) {
        // Only the broker itself writes there.
        return Err(refused(ErrorCode::InvalidTopicException));
    }
    let Some(records) = &partition.records else { return Err(refused(ErrorCode::InvalidRecord)) };
    let config = &topic.config;
    let rules = ProduceRules {
        topic: &topic.name,
        partition: partition.index,
        max_message_bytes: config.max_message_bytes,
        compacted: config.compact,
        timestamp_type: if config.log_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        before_max_ms: config.timestamp_before_max_ms,
        after_max_ms: config.timestamp_after_max_ms,
        now_ms,
        api_version: version,
    };
    let header = validate_produce(records, &rules).map_err(|rejection| PartitionResult {
        record_errors: rejection.record_errors,
        message: Some(rejection.message),
        ..refused(rejection.code)
    })?;
    if header.is_transactional() {
        return Err(refused(ErrorCode::InvalidTxnState));
    }
    let key: (TopicId, i32) = (topic.id, partition.index);
    let level = level(acks, config.ack, config.flush_messages);
    Ok(ProduceItem { key, header, records: records.clone(), level, log_append_time: config.log_append_time })
}

/// What the producer waits for: its own choice, unless the topic promises more or less.
fn level(acks: i16, policy: AckPolicy, flush_messages: i64) -> Option<Level> {
    match (acks, policy) {
        (0, _) => None,
        _ if flush_messages == 1 => Some(Level::Flushed),
        (_, AckPolicy::Flushed) | (-1, AckPolicy::Default) => Some(Level::Flushed),
        _ => Some(Level::Written),
    }
}

fn refused(code: ErrorCode) -> PartitionResult {
    PartitionResult {
        index: 0,
        code,
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        record_errors: Vec::new(),
        message: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgement_levels() {
        use AckPolicy::*;
        assert_eq!(level(0, Flushed, i64::MAX), None);
        assert_eq!(level(1, Default, i64::MAX), Some(Level::Written));
        assert_eq!(level(-1, Default, i64::MAX), Some(Level::Flushed));
        assert_eq!(level(-1, Written, i64::MAX), Some(Level::Written));
        assert_eq!(level(1, Flushed, i64::MAX), Some(Level::Flushed));
        assert_eq!(level(1, Written, 1), Some(Level::Flushed));
    }
}
