//! A frame as it comes from a socket: header, then the body of whichever API and version it names.
#![no_main]

use bytes::Bytes;
use corelane::wire::codec::{self, Message, decode, encode};
use corelane::wire::versions::ApiKey;
use corelane::wire::{frame, produce};
use libfuzzer_sys::fuzz_target;

/// What was decoded can be encoded, and is then decoded to the same.
fn round_trip<M: Message + PartialEq + std::fmt::Debug>(body: Bytes, version: i16) {
    if let Ok(message) = decode::<M>(body, version) {
        let again = encode(&message, version).expect("what was read can be written");
        assert_eq!(decode::<M>(again, version), Ok(message));
    }
}

/// The walk takes whatever the codec takes, with the same records in it.
fn compare_produce(body: Bytes, version: i16) {
    let walked = produce::decode(body.clone(), version);
    let Ok(expected) = decode::<codec::ProduceRequest>(body, version) else { return };
    let walked = walked.expect("the codec takes it");
    assert_eq!((walked.acks, walked.topics.len()), (expected.acks, expected.topic_data.len()));
    for (ours, theirs) in walked.topics.iter().zip(&expected.topic_data) {
        let ours = ours.partitions.iter().map(|partition| (partition.index, &partition.records));
        assert!(ours.eq(theirs.partition_data.iter().map(|partition| (partition.index, &partition.records))));
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok((header, body)) = frame::parse_request(Bytes::copy_from_slice(data)) else { return };
    let version = header.api_version;
    let api = ApiKey::from_code(header.api_key).expect("a header is only given for a known API");
    if !api.accepted().contains(&version) {
        assert_eq!(api, ApiKey::ApiVersions);
        return;
    }
    match api {
        ApiKey::Produce => compare_produce(body, version),
        ApiKey::Fetch => round_trip::<codec::FetchRequest>(body, version),
        ApiKey::ListOffsets => round_trip::<codec::ListOffsetsRequest>(body, version),
        ApiKey::Metadata => round_trip::<codec::MetadataRequest>(body, version),
        ApiKey::OffsetCommit => round_trip::<codec::OffsetCommitRequest>(body, version),
        ApiKey::OffsetFetch => round_trip::<codec::OffsetFetchRequest>(body, version),
        ApiKey::FindCoordinator => round_trip::<codec::FindCoordinatorRequest>(body, version),
        ApiKey::JoinGroup => round_trip::<codec::JoinGroupRequest>(body, version),
        ApiKey::Heartbeat => round_trip::<codec::HeartbeatRequest>(body, version),
        ApiKey::LeaveGroup => round_trip::<codec::LeaveGroupRequest>(body, version),
        ApiKey::SyncGroup => round_trip::<codec::SyncGroupRequest>(body, version),
        ApiKey::DescribeGroups => round_trip::<codec::DescribeGroupsRequest>(body, version),
        ApiKey::ListGroups => round_trip::<codec::ListGroupsRequest>(body, version),
        ApiKey::ApiVersions => round_trip::<codec::ApiVersionsRequest>(body, version),
        ApiKey::CreateTopics => round_trip::<codec::CreateTopicsRequest>(body, version),
        ApiKey::DeleteTopics => round_trip::<codec::DeleteTopicsRequest>(body, version),
        ApiKey::DeleteRecords => round_trip::<codec::DeleteRecordsRequest>(body, version),
        ApiKey::InitProducerId => round_trip::<codec::InitProducerIdRequest>(body, version),
        ApiKey::OffsetForLeaderEpoch => round_trip::<codec::OffsetForLeaderEpochRequest>(body, version),
        ApiKey::DescribeConfigs => round_trip::<codec::DescribeConfigsRequest>(body, version),
        ApiKey::AlterConfigs => round_trip::<codec::AlterConfigsRequest>(body, version),
        ApiKey::DescribeLogDirs => round_trip::<codec::DescribeLogDirsRequest>(body, version),
        ApiKey::CreatePartitions => round_trip::<codec::CreatePartitionsRequest>(body, version),
        ApiKey::DeleteGroups => round_trip::<codec::DeleteGroupsRequest>(body, version),
        ApiKey::IncrementalAlterConfigs => round_trip::<codec::IncrementalAlterConfigsRequest>(body, version),
        ApiKey::OffsetDelete => round_trip::<codec::OffsetDeleteRequest>(body, version),
        ApiKey::DescribeCluster => round_trip::<codec::DescribeClusterRequest>(body, version),
        ApiKey::ConsumerGroupHeartbeat => round_trip::<codec::ConsumerGroupHeartbeatRequest>(body, version),
        ApiKey::ConsumerGroupDescribe => round_trip::<codec::ConsumerGroupDescribeRequest>(body, version),
        ApiKey::ListConfigResources => round_trip::<codec::ListConfigResourcesRequest>(body, version),
        ApiKey::DescribeTopicPartitions => round_trip::<codec::DescribeTopicPartitionsRequest>(body, version),
    }
});
