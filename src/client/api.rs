//! The requests that the client sends, each with the versions that it can fill in and read.

use std::ops::RangeInclusive;

use crate::wire::codec::{
    ApiVersionsRequest, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    DescribeTopicPartitionsRequest, FetchRequest, FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, ProduceRequest, Rpc, SyncGroupRequest,
};

/// A request of the client. The highest version that both sides know is used.
pub trait Api: Rpc {
    /// The versions that the client can fill in and read.
    const VERSIONS: RangeInclusive<i16>;
    /// Kafka's name of the API, for errors.
    const API: &'static str;
}

macro_rules! apis {
    ($($request:ident = $name:literal, $versions:expr;)*) => {
        $(impl Api for $request {
            const VERSIONS: RangeInclusive<i16> = $versions;
            const API: &'static str = $name;
        })*
    };
}

// Topics go by name: versions that know only their ids are left out. Those below are of brokers before Kafka 3.0.
apis! {
    ProduceRequest = "PRODUCE", 3..=12;
    FetchRequest = "FETCH", 4..=12;
    ListOffsetsRequest = "LIST_OFFSETS", 1..=11;
    MetadataRequest = "METADATA", 4..=13;
    OffsetCommitRequest = "OFFSET_COMMIT", 2..=9;
    OffsetFetchRequest = "OFFSET_FETCH", 8..=9;
    FindCoordinatorRequest = "FIND_COORDINATOR", 0..=3;
    JoinGroupRequest = "JOIN_GROUP", 2..=9;
    HeartbeatRequest = "HEARTBEAT", 0..=4;
    LeaveGroupRequest = "LEAVE_GROUP", 3..=5;
    SyncGroupRequest = "SYNC_GROUP", 0..=5;
    DescribeGroupsRequest = "DESCRIBE_GROUPS", 0..=6;
    ListGroupsRequest = "LIST_GROUPS", 0..=5;
    ApiVersionsRequest = "API_VERSIONS", 0..=3;
    CreateTopicsRequest = "CREATE_TOPICS", 4..=7;
    DeleteTopicsRequest = "DELETE_TOPICS", 1..=5;
    DeleteRecordsRequest = "DELETE_RECORDS", 0..=2;
    InitProducerIdRequest = "INIT_PRODUCER_ID", 0..=4;
    DescribeConfigsRequest = "DESCRIBE_CONFIGS", 1..=4;
    CreatePartitionsRequest = "CREATE_PARTITIONS", 0..=3;
    DeleteGroupsRequest = "DELETE_GROUPS", 0..=2;
    IncrementalAlterConfigsRequest = "INCREMENTAL_ALTER_CONFIGS", 0..=1;
    ListPartitionReassignmentsRequest = "LIST_PARTITION_REASSIGNMENTS", 0..=0;
    OffsetDeleteRequest = "OFFSET_DELETE", 0..=0;
    DescribeClusterRequest = "DESCRIBE_CLUSTER", 0..=2;
    ConsumerGroupHeartbeatRequest = "CONSUMER_GROUP_HEARTBEAT", 0..=1;
    ConsumerGroupDescribeRequest = "CONSUMER_GROUP_DESCRIBE", 0..=1;
    DescribeTopicPartitionsRequest = "DESCRIBE_TOPIC_PARTITIONS", 0..=0;
}
