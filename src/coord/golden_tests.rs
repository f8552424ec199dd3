//! The records of `__consumer_offsets` against those that Kafka's own classes write and read.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::group::{CONSUMER, GroupMetadata, MemberMetadata};
use super::modern::group::Resolved;
use super::modern::member::{CurrentAssignment, MemberMetadata as ModernMember, Owned, Partitions};
use super::modern::record::{Change, Epoch};
use super::offsets::CommittedOffset;
use super::record::{Decoded, Record};
use crate::base::golden::{Case, base64, cases, check_ours};
use crate::base::ids::TopicId;

/// A record as Kafka shows it: fields of the key, fields of the value.
fn shown(record: &Record) -> (Value, Option<Value>) {
    match record {
        Record::Offset { group, topic, partition, value } => {
            let key = json!({"group": **group, "topic": **topic, "partition": partition});
            (key, value.as_ref().map(shown_offset))
        }
        Record::Group { group, value } => (json!({"group": **group}), value.as_ref().map(shown_group)),
        Record::Modern { group, change } => shown_change(group, change),
    }
}

fn shown_offset(value: &CommittedOffset) -> Value {
    json!({
        "offset": value.offset,
        "leaderEpoch": value.leader_epoch,
        "metadata": *value.metadata,
        "commitTimestamp": value.commit_ms,
        "expireTimestamp": value.expire_ms.unwrap_or(-1),
        "topicId": value.topic_id.to_string(),
    })
}

fn shown_group(value: &GroupMetadata) -> Value {
    let member = |member: &MemberMetadata| {
        json!({
            "memberId": *member.member_id,
            "groupInstanceId": member.instance_id.as_deref(),
            "clientId": *member.client_id,
            "clientHost": *member.client_host,
            "rebalanceTimeout": member.rebalance_timeout_ms,
            "sessionTimeout": member.session_timeout_ms,
            "subscription": base64(&member.subscription),
            "assignment": base64(&member.assignment),
        })
    };
    json!({
        "protocolType": *value.protocol_type,
        "generation": value.generation,
        "protocol": value.protocol.as_deref(),
        "leader": value.leader.as_deref(),
        "currentStateTimestamp": value.state_ms,
        "members": value.members.iter().map(member).collect::<Vec<_>>(),
    })
}

fn shown_change(group: &str, change: &Change) -> (Value, Option<Value>) {
    let of_group = json!({"groupId": group});
    let of_member = |id: &str| json!({"groupId": group, "memberId": id});
    match change {
        Change::Epoch(value) => {
            let fields = |v: &Epoch| json!({"epoch": v.epoch, "metadataHash": v.metadata_hash});
            (of_group, value.as_ref().map(fields))
        }
        Change::PartitionMetadata { present } => (of_group, present.then_some(Value::Null)),
        Change::Member(id, value) => (of_member(id), value.as_ref().map(shown_member)),
        Change::TargetEpoch(value) => {
            let fields = value.map(|v| json!({"assignmentEpoch": v.epoch, "assignmentTimestamp": v.timestamp_ms}));
            (of_group, fields)
        }
        Change::Target(id, value) => (of_member(id), value.as_ref().map(shown_target)),
        Change::Current(id, value) => (of_member(id), value.as_ref().map(shown_current)),
        Change::Regex(regex, value) => {
            let fields = |v: &Resolved| json!({"topics": v.topics, "version": v.version, "timestamp": v.timestamp_ms});
            (json!({"groupId": group, "regularExpression": regex}), value.as_ref().map(fields))
        }
    }
}

fn shown_member(value: &ModernMember) -> Value {
    let classic = value.classic.as_ref().map(|classic| {
        let protocol = |(name, metadata): &(String, Bytes)| json!({"name": name, "metadata": base64(metadata)});
        let protocols: Vec<Value> = classic.protocols.iter().map(protocol).collect();
        json!({"sessionTimeoutMs": classic.session_timeout_ms, "supportedProtocols": protocols})
    });
    json!({
        "instanceId": value.instance_id,
        "rackId": value.rack_id,
        "clientId": value.client_id,
        "clientHost": value.client_host,
        "subscribedTopicNames": value.topic_names,
        "subscribedTopicRegex": value.topic_regex,
        "rebalanceTimeoutMs": value.rebalance_timeout_ms,
        "serverAssignor": value.server_assignor,
        "classicMemberMetadata": classic,
    })
}

fn shown_target(value: &Partitions) -> Value {
    let topics = value.iter().map(|(id, partitions)| json!({"topicId": id.to_string(), "partitions": partitions}));
    json!({"topicPartitions": topics.collect::<Vec<_>>()})
}

fn shown_current(value: &CurrentAssignment) -> Value {
    let owned = |owned: &Owned| -> Vec<Value> {
        let topic = |(id, partitions): (&TopicId, &BTreeMap<i32, i32>)| {
            let (partitions, epochs): (Vec<i32>, Vec<i32>) = partitions.iter().unzip();
            json!({"topicId": id.to_string(), "partitions": partitions, "assignmentEpochs": epochs})
        };
        owned.iter().map(topic).collect()
    };
    json!({
        "memberEpoch": value.epoch,
        "previousMemberEpoch": value.previous_epoch,
        "state": value.state as i8,
        "assignedPartitions": owned(&value.assigned),
        "partitionsPendingRevocation": owned(&value.pending_revocation),
    })
}

/// Kafka's fields, with what stands in place of those that the version or the writer left out.
fn completed(mut fields: Value, defaults: &Value) -> Value {
    let object = fields.as_object_mut().expect("fields");
    for (name, value) in defaults.as_object().expect("fields") {
        object.entry(name).or_insert_with(|| value.clone());
    }
    fields
}

fn expected(case: &Case) -> Option<Value> {
    let value = case.fields.get("value")?.clone();
    let zero = TopicId::ZERO.to_string();
    Some(match case.name.split('/').next().expect("a name") {
        "OffsetCommit" | "LegacyOffsetCommit" => completed(value, &json!({"leaderEpoch": -1, "expireTimestamp": -1, "topicId": zero})),
        "GroupMetadata" => {
            let mut value = completed(value, &json!({"currentStateTimestamp": -1}));
            each(&mut value["members"], |member| {
                let timeout = member["sessionTimeout"].clone();
                let defaults = json!({"groupInstanceId": null, "rebalanceTimeout": timeout});
                *member = completed(member.take(), &defaults);
            });
            value
        }
        "ConsumerGroupMetadata" => completed(value, &json!({"metadataHash": 0})),
        "ConsumerGroupPartitionMetadata" => Value::Null,
        "ConsumerGroupMemberMetadata" => completed(value, &json!({"classicMemberMetadata": null})),
        "ConsumerGroupTargetAssignmentMetadata" => completed(value, &json!({"assignmentTimestamp": 0})),
        "ConsumerGroupCurrentMemberAssignment" => {
            let (mut value, epoch) = (value.clone(), value["memberEpoch"].clone());
            for list in ["assignedPartitions", "partitionsPendingRevocation"] {
                each(&mut value[list], |topic| {
                    if topic["assignmentEpochs"].is_null() {
                        topic["assignmentEpochs"] = json!([epoch]);
                    }
                });
            }
            value
        }
        _ => value,
    })
}

fn each(list: &mut Value, mut change: impl FnMut(&mut Value)) {
    list.as_array_mut().expect("an array").iter_mut().for_each(&mut change);
}

/// Old versions are written in the newest one, unknown tags not at all, and what has a default in
/// the log is spelled out.
fn differs(name: &str) -> bool {
    let old = ["OffsetCommit/0/", "OffsetCommit/1/default", "OffsetCommit/2/", "OffsetCommit/3/", "GroupMetadata/"];
    let spelled_out = ["ConsumerGroupMemberMetadata/0/default", "ConsumerGroupCurrentMemberAssignment/0/null"];
    let current = name.starts_with("GroupMetadata/3/");
    (name.ends_with("/odd") || old.iter().any(|start| name.starts_with(start)) || spelled_out.contains(&name)) && !current
}

#[test]
fn records_are_read_and_written_as_kafka_does() {
    let (mut ours, mut same, all) = (Vec::new(), 0, cases("consumer_offsets.txt"));
    for case in &all {
        let record = match Record::decode(Some(&case.key), case.value.as_deref()) {
            Ok(Decoded::Known(record)) => record,
            Ok(Decoded::Unknown(_)) => {
                assert!(case.name.starts_with("Share") || case.name.starts_with("Streams"), "{}", case.name);
                continue;
            }
            Err(error) => panic!("{}: {error}", case.name),
        };
        let (key, value) = shown(&record);
        assert_eq!((&key, &value), (&case.fields["key"], &expected(case)), "{}", case.name);
        // Kafka and Corelane only read these.
        if case.name.starts_with("ConsumerGroupPartitionMetadata/0") || case.name.starts_with("Legacy") {
            continue;
        }
        let (key, value) = record.encode();
        if key == case.key && value == case.value {
            same += 1;
        } else {
            assert!(differs(&case.name), "{}", case.name);
            ours.push((case, key, value));
        }
    }
    assert!(same > 25, "{same}");
    check_ours("ours_groups.txt", &ours);
}

#[test]
fn subscriptions_of_every_version_name_their_topics() {
    let mut seen = 0;
    for case in cases("consumer_protocol.txt").iter().filter(|case| case.name.contains("Subscription")) {
        let member = MemberMetadata {
            member_id: "m".into(),
            instance_id: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout_ms: 1,
            session_timeout_ms: 1,
            subscription: case.value.clone().expect("bytes").into(),
            assignment: Bytes::new(),
        };
        let group = GroupMetadata {
            protocol_type: CONSUMER.into(),
            generation: 1,
            protocol: None,
            leader: None,
            state_ms: -1,
            members: vec![member],
        };
        let topics: Vec<String> = group.subscribed_topics().expect("topics").iter().map(|t| t.to_string()).collect();
        assert_eq!(json!(topics), case.fields["topics"], "{}", case.name);
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}
