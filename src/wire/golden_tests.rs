//! Batches and the consumers' embedded protocol against what Kafka's own classes write and read.

use bytes::{Bytes, BytesMut};
use kafka_wire_core::ApiVersion;
use serde_json::{Value, json};

use super::batch::{BatchHeader, BatchSpec, HEADER_LEN, NewRecord, TimestampType, build_batch_of, crc_ok};
use super::codec::{self, Message, Rpc, StrBytes, consumer_protocol};
use super::compression::decompress;
use super::record::{Record, Records};
use super::versions::{ADVERTISED, ApiKey};
use crate::base::golden::{Case, base64, cases, check_ours};

fn hex(bytes: Option<&[u8]>) -> Value {
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!(bytes.map_or("-".into(), digits))
}

fn shown(header: &BatchHeader, records: &[Record<'_>]) -> Value {
    let horizon = header.has_delete_horizon();
    let append_time = header.timestamp_type() == TimestampType::LogAppendTime;
    let record = |record: &Record<'_>| {
        let timestamp = if append_time { header.max_timestamp } else { header.base_timestamp + record.timestamp_delta };
        let headers = record.headers().map(|(key, value)| json!([String::from_utf8_lossy(key), hex(value)]));
        json!({
            "offset": header.base_offset + i64::from(record.offset_delta),
            "timestamp": timestamp,
            "key": hex(record.key),
            "value": hex(record.value),
            "headers": headers.collect::<Vec<_>>(),
        })
    };
    json!({
        "baseOffset": header.base_offset,
        "lastOffset": header.last_offset(),
        "leaderEpoch": header.partition_leader_epoch,
        "codec": header.compression().expect("a codec").name(),
        "timestampType": if append_time { "LogAppendTime" } else { "CreateTime" },
        "maxTimestamp": header.max_timestamp,
        "transactional": header.is_transactional(),
        "control": header.is_control(),
        "producerId": header.producer_id,
        "producerEpoch": header.producer_epoch,
        "baseSequence": header.base_sequence,
        "deleteHorizonMs": if horizon { header.base_timestamp } else { -1 },
        "records": records.iter().map(record).collect::<Vec<_>>(),
    })
}

/// The batch as Corelane would write it: the same bytes, but for what another compressor makes.
fn rebuilt(header: &BatchHeader, records: &[Record<'_>]) -> Vec<u8> {
    let spec = BatchSpec {
        base_offset: header.base_offset,
        leader_epoch: header.partition_leader_epoch,
        compression: header.compression().expect("a codec"),
        timestamp_type: header.timestamp_type(),
        transactional: header.is_transactional(),
        control: header.is_control(),
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
    };
    let record = |record: &Record<'_>| NewRecord {
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        timestamp: header.base_timestamp + record.timestamp_delta,
        headers: record.headers().map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), value.map(<[u8]>::to_vec))).collect(),
    };
    build_batch_of(&spec, &records.iter().map(record).collect::<Vec<_>>())
}

#[test]
fn batches_are_read_and_written_as_kafka_does() {
    let (mut ours, all) = (Vec::new(), cases("batches.txt"));
    for case in &all {
        let bytes = case.value.as_deref().expect("a batch");
        let header = BatchHeader::parse(bytes).expect("a header");
        assert!(crc_ok(bytes) && header.total_len() == bytes.len(), "{}", case.name);
        let payload = decompress(header.compression().expect("a codec"), &bytes[HEADER_LEN..], 1 << 20).expect("records");
        let records: Vec<Record<'_>> = Records::new(&payload, header.records_count).collect::<Result<_, _>>().expect("sound records");
        let mut expected = case.fields.clone();
        for record in expected["records"].as_array_mut().expect("records") {
            // What a control record means is for who prints it.
            record.as_object_mut().expect("fields").retain(|name, _| !["type", "data"].contains(&name.as_str()));
        }
        assert_eq!(shown(&header, &records), expected, "{}", case.name);
        // Compaction keeps the header as it is.
        if header.has_delete_horizon() || header.records_count == 0 {
            continue;
        }
        let mut again = rebuilt(&header, &records);
        if header.timestamp_type() == TimestampType::LogAppendTime {
            super::batch::Stamp::LogAppendTime(header.max_timestamp).apply(&mut again);
        }
        if again != bytes {
            assert_ne!(header.attributes & 7, 0, "{}", case.name);
            ours.push((case, Vec::new(), Some(again)));
        }
    }
    check_ours("ours_batches.txt", &ours);
}

fn partitions<T>(list: &[T], of: impl Fn(&T) -> (&StrBytes, &Vec<i32>)) -> Value {
    let topic = |entry| {
        let (topic, partitions) = of(entry);
        json!({"topic": topic.as_str(), "partitions": partitions})
    };
    list.iter().map(topic).collect()
}

fn user_data(data: Option<&Bytes>) -> Value {
    json!(data.map(|data| base64(data)))
}

/// The fields that the version has, compared with Kafka's; the message as it is written again.
fn subscription(case: &Case, bytes: &Bytes) -> BytesMut {
    let (version, read) = consumer_protocol::decode_subscription(bytes).expect("a subscription");
    let all = json!({
        "topics": read.topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>(),
        "userData": user_data(read.user_data.as_ref()),
        "ownedPartitions": partitions(&read.owned_partitions, |owned| (&owned.topic, &owned.partitions)),
        "generationId": read.generation_id,
        "rackId": read.rack_id.as_ref().map(|rack| rack.as_str()),
    });
    for (name, value) in case.fields.as_object().expect("fields") {
        assert_eq!(&all[name], value, "{} {name}", case.name);
    }
    let mut out = BytesMut::new();
    kafka_wire::encode_consumer_protocol_subscription(&mut out, &read, ApiVersion::new(version)).expect("encoded");
    out
}

fn assignment(case: &Case, bytes: &Bytes) -> BytesMut {
    let read = consumer_protocol::decode_assignment(bytes).expect("an assignment");
    let shown = json!({
        "assignedPartitions": partitions(&read.assigned_partitions, |given| (&given.topic, &given.partitions)),
        "userData": user_data(read.user_data.as_ref()),
    });
    assert_eq!(shown, case.fields, "{}", case.name);
    let version = i16::from_be_bytes([bytes[0], bytes[1]]);
    consumer_protocol::encode_assignment(&read, version).expect("encoded").as_ref().into()
}

#[test]
fn what_consumers_tell_each_other_is_read_and_written_as_kafka_does() {
    for case in &cases("consumer_protocol.txt") {
        let bytes = Bytes::from(case.value.clone().expect("a message"));
        let of = if case.name.contains("Subscription") { subscription } else { assignment };
        assert_eq!(of(case, &bytes), bytes, "{}", case.name);
    }
}

/// Reads and writes each version of a request that Corelane takes, and of its response.
fn api<R: Rpc>(all: &[Case]) -> i16 {
    let code = R::API_KEY.value();
    let versions = ApiKey::from_code(code).expect("an API of Corelane").accepted();
    for version in versions {
        message::<R>(all, version);
        message::<R::Response>(all, version);
    }
    code
}

fn message<M: Message>(all: &[Case], version: i16) {
    let start = format!("{}/{version}/", M::NAME);
    let of_version = all.iter().filter(|case| case.name.starts_with(&start));
    let mut seen = 0;
    for case in of_version {
        let body = Bytes::from(case.value.clone().expect("a message")).slice(2..);
        let read: M = codec::decode(body.clone(), version).unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        assert_eq!(codec::encode(&read, version).expect("encoded"), body, "{}", case.name);
        seen += 1;
    }
    assert!(seen > 0, "no {start}");
}

macro_rules! apis {
    ($all:expr, $($request:ident)*) => { [$(api::<codec::$request>($all)),*] };
}

#[test]
fn requests_and_responses_are_read_and_written_as_kafka_does() {
    let all = cases("apis.txt");
    let codes = apis!(
        &all,
        ProduceRequest FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest
        OffsetFetchRequest FindCoordinatorRequest JoinGroupRequest HeartbeatRequest
        LeaveGroupRequest SyncGroupRequest DescribeGroupsRequest ListGroupsRequest
        ApiVersionsRequest CreateTopicsRequest DeleteTopicsRequest DeleteRecordsRequest
        InitProducerIdRequest OffsetForLeaderEpochRequest DescribeConfigsRequest
        AlterConfigsRequest DescribeLogDirsRequest CreatePartitionsRequest DeleteGroupsRequest
        IncrementalAlterConfigsRequest OffsetDeleteRequest DescribeClusterRequest
        ConsumerGroupHeartbeatRequest ConsumerGroupDescribeRequest ListConfigResourcesRequest
        DescribeTopicPartitionsRequest
    );
    assert!(codes.iter().copied().eq(ADVERTISED.iter().map(|(api, ..)| api.code())));
}
