//! The requests of the clients, and the parts of the answers that they look at.

use std::collections::BTreeMap;
use std::io;

use super::super::client::{self, Client, TIMEOUT_MS};
use crate::base::ids::{Offset, TopicId};
use crate::wire::codec::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use crate::wire::codec::delete_topics_request::DeleteTopicState;
use crate::wire::codec::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use crate::wire::codec::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::wire::codec::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use crate::wire::codec::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse, FetchRequest,
    FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    InitProducerIdRequest, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetFetchRequest, OffsetFetchResponse, create_partitions_request, delete_records_request,
    describe_configs_request, fetch_request, incremental_alter_configs_request, metadata_request,
};

const TOPIC_RESOURCE: i8 = 2;
const SET: i8 = 0;

/// What a fetch of one partition says.
pub struct Fetched {
    /// The error code.
    pub code: i16,
    /// The log's start.
    pub start: Offset,
    /// The high watermark.
    pub end: Offset,
    /// Batches.
    pub records: Vec<u8>,
}

/// Fetches from one partition.
pub async fn fetch(client: &Client<'_>, topic: TopicId, partition: i32, offset: Offset, bytes: i32, wait_ms: i32) -> io::Result<Fetched> {
    let mut wanted = fetch_request::FetchPartition::default();
    (wanted.partition, wanted.fetch_offset, wanted.current_leader_epoch) = (partition, offset, -1);
    (wanted.last_fetched_epoch, wanted.log_start_offset, wanted.partition_max_bytes) = (-1, -1, bytes);
    let mut entry = fetch_request::FetchTopic::default();
    (entry.topic_id, entry.partitions) = (topic.into(), vec![wanted]);
    let mut request = FetchRequest::default();
    (request.cluster_id, request.replica_id) = (None, -1);
    (request.session_epoch, request.max_wait_ms, request.min_bytes) = (-1, wait_ms, 1);
    (request.max_bytes, request.topics) = (1 << 24, vec![entry]);
    let mut answer: FetchResponse = client.ask(13, &request).await?;
    let Some(mut topic) = answer.responses.pop().filter(|_| answer.error_code == 0) else {
        return Ok(Fetched { code: answer.error_code, start: -1, end: -1, records: Vec::new() });
    };
    let found = topic.partitions.pop().expect("the partition that was asked for");
    let records = found.records.map_or_else(Vec::new, |records| records.to_vec());
    Ok(Fetched { code: found.error_code, start: found.log_start_offset, end: found.high_watermark, records })
}

/// Asks for an offset by time: the error code, the offset and the timestamp.
pub async fn list_offsets(client: &Client<'_>, topic: &str, partition: i32, timestamp: i64) -> io::Result<(i16, Offset, i64)> {
    let mut wanted = ListOffsetsPartition::default();
    (wanted.partition_index, wanted.current_leader_epoch, wanted.timestamp) = (partition, -1, timestamp);
    let mut entry = ListOffsetsTopic::default();
    (entry.name, entry.partitions) = (topic.into(), vec![wanted]);
    let mut request = ListOffsetsRequest::default();
    (request.replica_id, request.topics) = (-1, vec![entry]);
    let answer: ListOffsetsResponse = client.ask(7, &request).await?;
    let found = &answer.topics[0].partitions[0];
    Ok((found.error_code, found.offset, found.timestamp))
}

/// The creation of a topic.
pub fn creation(name: &str, partitions: i32, settings: &BTreeMap<String, String>) -> CreateTopicsRequest {
    let config = |(name, value): (&String, &String)| {
        let mut config = CreatableTopicConfig::default();
        (config.name, config.value) = (name.as_str().into(), Some(value.as_str().into()));
        config
    };
    let mut topic = CreatableTopic::default();
    (topic.name, topic.num_partitions, topic.replication_factor) = (name.into(), partitions, 1);
    topic.configs = settings.iter().map(config).collect();
    let mut request = CreateTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], TIMEOUT_MS);
    request
}

/// Creates a topic: the error code and the id.
pub async fn create(client: &Client<'_>, name: &str, partitions: i32, settings: &BTreeMap<String, String>) -> io::Result<(i16, TopicId)> {
    let answer: CreateTopicsResponse = client.ask(7, &creation(name, partitions, settings)).await?;
    Ok((answer.topics[0].error_code, answer.topics[0].topic_id.into()))
}

/// The deletion of a topic.
pub fn deletion(name: &str) -> DeleteTopicsRequest {
    let mut topic = DeleteTopicState::default();
    topic.name = Some(name.into());
    let mut request = DeleteTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], TIMEOUT_MS);
    request
}

/// Deletes a topic: the error code.
pub async fn delete(client: &Client<'_>, name: &str) -> io::Result<i16> {
    let answer: DeleteTopicsResponse = client.ask(6, &deletion(name)).await?;
    Ok(answer.responses[0].error_code)
}

/// What the metadata says of a name: the error code, the id and the number of partitions.
pub async fn metadata(client: &Client<'_>, name: &str) -> io::Result<(i16, TopicId, i32)> {
    let mut topic = metadata_request::MetadataRequestTopic::default();
    topic.name = Some(name.into());
    let mut request = MetadataRequest::default();
    (request.topics, request.allow_auto_topic_creation) = (Some(vec![topic]), false);
    let answer: MetadataResponse = client.ask(12, &request).await?;
    let topic = &answer.topics[0];
    Ok((topic.error_code, topic.topic_id.into(), topic.partitions.len() as i32))
}

/// DeleteRecords: the error code and the low watermark.
pub async fn delete_records(client: &Client<'_>, name: &str, partition: i32, offset: Offset) -> io::Result<(i16, Offset)> {
    let mut wanted = delete_records_request::DeleteRecordsPartition::default();
    (wanted.partition_index, wanted.offset) = (partition, offset);
    let mut topic = delete_records_request::DeleteRecordsTopic::default();
    (topic.name, topic.partitions) = (name.into(), vec![wanted]);
    let mut request = DeleteRecordsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], TIMEOUT_MS);
    let answer: DeleteRecordsResponse = client.ask(2, &request).await?;
    let found = &answer.topics[0].partitions[0];
    Ok((found.error_code, found.low_watermark))
}

/// Has a topic grow to so many partitions: the error code.
pub async fn grow(client: &Client<'_>, name: &str, count: i32) -> io::Result<i16> {
    let mut topic = create_partitions_request::CreatePartitionsTopic::default();
    (topic.name, topic.count, topic.assignments) = (name.into(), count, None);
    let mut request = CreatePartitionsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], TIMEOUT_MS);
    let answer: CreatePartitionsResponse = client.ask(3, &request).await?;
    Ok(answer.results[0].error_code)
}

/// Sets a setting of a topic: the error code.
pub async fn alter(client: &Client<'_>, name: &str, setting: &str, value: &str) -> io::Result<i16> {
    let mut config = incremental_alter_configs_request::AlterableConfig::default();
    (config.name, config.config_operation, config.value) = (setting.into(), SET, Some(value.into()));
    let mut resource = incremental_alter_configs_request::AlterConfigsResource::default();
    (resource.resource_type, resource.resource_name, resource.configs) = (TOPIC_RESOURCE, name.into(), vec![config]);
    let mut request = IncrementalAlterConfigsRequest::default();
    request.resources = vec![resource];
    let answer: IncrementalAlterConfigsResponse = client.ask(1, &request).await?;
    Ok(answer.responses[0].error_code)
}

/// The settings of a topic, or the error code.
pub async fn settings(client: &Client<'_>, name: &str) -> io::Result<Result<BTreeMap<String, String>, i16>> {
    let mut resource = describe_configs_request::DescribeConfigsResource::default();
    (resource.resource_type, resource.resource_name, resource.configuration_keys) = (TOPIC_RESOURCE, name.into(), None);
    let mut request = DescribeConfigsRequest::default();
    request.resources = vec![resource];
    let answer: DescribeConfigsResponse = client.ask(4, &request).await?;
    let result = &answer.results[0];
    if result.error_code != 0 {
        return Ok(Err(result.error_code));
    }
    let known = result.configs.iter().filter_map(|c| Some((c.name.to_string(), c.value.as_ref()?.to_string())));
    Ok(Ok(known.collect()))
}

/// A new producer id, or the error code.
pub async fn producer_id(client: &Client<'_>) -> io::Result<Result<i64, i16>> {
    let mut request = InitProducerIdRequest::default();
    request.transactional_id = None;
    (request.transaction_timeout_ms, request.producer_id, request.producer_epoch) = (60_000, -1, -1);
    let answer: InitProducerIdResponse = client.ask(4, &request).await?;
    Ok(if answer.error_code == 0 { Ok(answer.producer_id) } else { Err(answer.error_code) })
}

/// Looks for a group's coordinator, which makes `__consumer_offsets` if there is none: the error code.
pub async fn find_coordinator(client: &Client<'_>, group: &str) -> io::Result<i16> {
    let mut request = FindCoordinatorRequest::default();
    request.coordinator_keys = vec![group.into()];
    let answer: FindCoordinatorResponse = client.ask(4, &request).await?;
    Ok(answer.coordinators[0].error_code)
}

/// The commit of an offset with a text: in version 8 by the topic's name, in version 10 by its id.
pub fn commit(group: &str, topic: client::Topic<'_>, partition: i32, offset: Offset, text: &str) -> OffsetCommitRequest {
    let mut wanted = OffsetCommitRequestPartition::default();
    (wanted.partition_index, wanted.committed_offset) = (partition, offset);
    wanted.committed_metadata = Some(text.into());
    let mut entry = OffsetCommitRequestTopic::default();
    match topic {
        client::Topic::Name(name) => entry.name = name.into(),
        client::Topic::Id(id) => entry.topic_id = id.into(),
    }
    entry.partitions = vec![wanted];
    let mut request = OffsetCommitRequest::default();
    (request.group_id, request.topics) = (group.into(), vec![entry]);
    request.generation_id_or_member_epoch = -1;
    request
}

/// The committed offset with its text, or the error code. Versions as for [`commit`].
pub async fn committed(
    client: &Client<'_>,
    version: i16,
    group: &str,
    topic: client::Topic<'_>,
    partition: i32,
) -> io::Result<Result<(Offset, String), i16>> {
    let mut entry = OffsetFetchRequestTopics::default();
    match topic {
        client::Topic::Name(name) => entry.name = name.into(),
        client::Topic::Id(id) => entry.topic_id = id.into(),
    }
    entry.partition_indexes = vec![partition];
    let mut wanted = OffsetFetchRequestGroup::default();
    (wanted.group_id, wanted.topics) = (group.into(), Some(vec![entry]));
    wanted.member_epoch = -1;
    let mut request = OffsetFetchRequest::default();
    request.groups = vec![wanted];
    let answer: OffsetFetchResponse = client.ask(version, &request).await?;
    let group = &answer.groups[0];
    if group.error_code != 0 {
        return Ok(Err(group.error_code));
    }
    let found = &group.topics[0].partitions[0];
    let text = found.metadata.as_ref().map_or_else(String::new, |text| text.to_string());
    Ok(match found.error_code {
        0 => Ok((found.committed_offset, text)),
        code => Err(code),
    })
}
