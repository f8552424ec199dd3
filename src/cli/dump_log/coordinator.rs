//! The records of Kafka's coordinators, which live in topics: `__consumer_offsets`, `__transaction_state`, `__share_group_state`.

use std::sync::LazyLock;

use super::json::json;
use crate::wire::WireError;
use crate::wire::record::Record;
use crate::wire::schema::{Fields, NEVER, Schema, Value};

/// Number and name; fields of the key, whose version is always 0; newest version, first flexible version and fields of the value.
type Description = (i16, &'static str, &'static str, i16, i16, &'static str);

const GROUPS: &[Description] = &[
    (0, "LegacyOffsetCommit", "group:str topic:str partition:i32", 0, NEVER, "offset:i64 metadata:str commitTimestamp:i64"),
    (
        1,
        "OffsetCommit",
        "group:str topic:str partition:i32",
        4,
        4,
        "offset:i64 leaderEpoch:i32@3 metadata:str commitTimestamp:i64 expireTimestamp:i64@1-1 topicId:uuid@4#0",
    ),
    (
        2,
        "GroupMetadata",
        "group:str",
        4,
        4,
        "protocolType:str generation:i32 protocol:str? leader:str? currentStateTimestamp:i64@2 members:[{memberId:str \
         groupInstanceId:str?@3 clientId:str clientHost:str rebalanceTimeout:i32@1 sessionTimeout:i32 subscription:bytes \
         assignment:bytes}]",
    ),
    (3, "ConsumerGroupMetadata", "groupId:str", 0, 0, "epoch:i32 metadataHash:i64#0"),
    (
        4,
        "ConsumerGroupPartitionMetadata",
        "groupId:str",
        0,
        0,
        "topics:[{topicId:uuid topicName:str numPartitions:i32 partitionMetadata:[{partition:i32 racks:[str]}]}]",
    ),
    (
        5,
        "ConsumerGroupMemberMetadata",
        "groupId:str memberId:str",
        0,
        0,
        "instanceId:str? rackId:str? clientId:str clientHost:str subscribedTopicNames:[str] subscribedTopicRegex:str? \
         rebalanceTimeoutMs:i32 serverAssignor:str? classicMemberMetadata:{sessionTimeoutMs:i32 supportedProtocols:[{name:str \
         metadata:bytes}]}?#0",
    ),
    (6, "ConsumerGroupTargetAssignmentMetadata", "groupId:str", 0, 0, "assignmentEpoch:i32 assignmentTimestamp:i64#0"),
    (7, "ConsumerGroupTargetAssignmentMember", "groupId:str memberId:str", 0, 0, "topicPartitions:[{topicId:uuid partitions:[i32]}]"),
    (
        8,
        "ConsumerGroupCurrentMemberAssignment",
        "groupId:str memberId:str",
        0,
        0,
        "memberEpoch:i32 previousMemberEpoch:i32 state:i8 assignedPartitions:[{topicId:uuid partitions:[i32] \
         assignmentEpochs:[i32]?#0}] partitionsPendingRevocation:[{topicId:uuid partitions:[i32] assignmentEpochs:[i32]?#0}]",
    ),
    (
        10,
        "ShareGroupMemberMetadata",
        "groupId:str memberId:str",
        0,
        0,
        "rackId:str? clientId:str clientHost:str subscribedTopicNames:[str]",
    ),
    (11, "ShareGroupMetadata", "groupId:str", 0, 0, "epoch:i32 metadataHash:i64"),
    (12, "ShareGroupTargetAssignmentMetadata", "groupId:str", 0, 0, "assignmentEpoch:i32 assignmentTimestamp:i64#0"),
    (13, "ShareGroupTargetAssignmentMember", "groupId:str memberId:str", 0, 0, "topicPartitions:[{topicId:uuid partitions:[i32]}]"),
    (
        14,
        "ShareGroupCurrentMemberAssignment",
        "groupId:str memberId:str",
        0,
        0,
        "memberEpoch:i32 previousMemberEpoch:i32 state:i8 assignedPartitions:[{topicId:uuid partitions:[i32]}]",
    ),
    (
        15,
        "ShareGroupStatePartitionMetadata",
        "groupId:str",
        0,
        0,
        "initializingTopics:[{topicId:uuid topicName:str partitions:[i32]}] initializedTopics:[{topicId:uuid topicName:str \
         partitions:[i32]}] deletingTopics:[{topicId:uuid topicName:str}]",
    ),
    (16, "ConsumerGroupRegularExpression", "groupId:str regularExpression:str", 0, 0, "topics:[str] version:i64 timestamp:i64"),
    (
        17,
        "StreamsGroupMetadata",
        "groupId:str",
        0,
        0,
        "epoch:i32 metadataHash:i64 validatedTopologyEpoch:i32#0 lastAssignmentConfigs:[{key:str value:str}]?#1",
    ),
    (
        19,
        "StreamsGroupMemberMetadata",
        "groupId:str memberId:str",
        0,
        0,
        "instanceId:str? rackId:str? clientId:str clientHost:str rebalanceTimeoutMs:i32 topologyEpoch:i32 processId:str \
         userEndpoint:{host:str port:u16}? clientTags:[{key:str value:str}]",
    ),
    (20, "StreamsGroupTargetAssignmentMetadata", "groupId:str", 0, 0, "assignmentEpoch:i32 assignmentTimestamp:i64#0"),
    (
        21,
        "StreamsGroupTargetAssignmentMember",
        "groupId:str memberId:str",
        0,
        0,
        "activeTasks:[{subtopologyId:str partitions:[i32]}] standbyTasks:[{subtopologyId:str partitions:[i32]}] \
         warmupTasks:[{subtopologyId:str partitions:[i32]}]",
    ),
    (
        22,
        "StreamsGroupCurrentMemberAssignment",
        "groupId:str memberId:str",
        0,
        0,
        "memberEpoch:i32 previousMemberEpoch:i32 state:i8 activeTasks:[{subtopologyId:str partitions:[i32] \
         assignmentEpochs:[i32]?#0}] standbyTasks:[{subtopologyId:str partitions:[i32] assignmentEpochs:[i32]?#0}] \
         warmupTasks:[{subtopologyId:str partitions:[i32] assignmentEpochs:[i32]?#0}] \
         activeTasksPendingRevocation:[{subtopologyId:str partitions:[i32] assignmentEpochs:[i32]?#0}] \
         standbyTasksPendingRevocation:[{subtopologyId:str partitions:[i32] assignmentEpochs:[i32]?#0}] \
         warmupTasksPendingRevocation:[{subtopologyId:str partitions:[i32] assignmentEpochs:[i32]?#0}]",
    ),
    (
        23,
        "StreamsGroupTopology",
        "groupId:str",
        0,
        0,
        "epoch:i32 subtopologies:[{subtopologyId:str sourceTopics:[str] sourceTopicRegex:[str] stateChangelogTopics:[{name:str \
         partitions:i32 replicationFactor:i16 topicConfigs:[{key:str value:str}]}] repartitionSinkTopics:[str] \
         repartitionSourceTopics:[{name:str partitions:i32 replicationFactor:i16 topicConfigs:[{key:str value:str}]}] \
         copartitionGroups:[{sourceTopics:[i16] sourceTopicRegex:[i16] repartitionSourceTopics:[i16]}]}]",
    ),
];

const TRANSACTIONS: &[Description] = &[(
    0,
    "TransactionLog",
    "transactionalId:str",
    1,
    1,
    "producerId:i64 previousProducerId:i64@1#0 nextProducerId:i64@1#1 producerEpoch:i16 nextProducerEpoch:i16@1#3 \
         transactionTimeoutMs:i32 transactionStatus:i8 transactionPartitions:[{topic:str partitionIds:[i32]}]? \
         transactionLastUpdateTimestampMs:i64 transactionStartTimestampMs:i64 clientTransactionVersion:i16@1#2",
)];

const SHARE_GROUPS: &[Description] = &[
    (
        0,
        "ShareSnapshot",
        "groupId:str topicId:uuid partition:i32",
        0,
        0,
        "snapshotEpoch:i32 stateEpoch:i32 leaderEpoch:i32 startOffset:i64 deliveryCompleteCount:i32#0 createTimestamp:i64 \
         writeTimestamp:i64 stateBatches:[{firstOffset:i64 lastOffset:i64 deliveryState:i8 deliveryCount:i16}]",
    ),
    (
        1,
        "ShareUpdate",
        "groupId:str topicId:uuid partition:i32",
        0,
        0,
        "snapshotEpoch:i32 leaderEpoch:i32 startOffset:i64 deliveryCompleteCount:i32#0 stateBatches:[{firstOffset:i64 \
         lastOffset:i64 deliveryState:i8 deliveryCount:i16}]",
    ),
];

const SUBSCRIPTION: &str = "topics:[str] userData:bytes? ownedPartitions:[{topic:str partitions:[i32]}]@1 generationId:i32@2 rackId:str?@3";
const ASSIGNMENT: &str = "assignedPartitions:[{topic:str partitions:[i32]}] userData:bytes?";
/// Newest version of both.
const CONSUMER_PROTOCOL: i16 = 3;

/// What the members of a consumer group send each other inside a GroupMetadata record.
static MEMBER_FIELDS: LazyLock<[(&str, Schema); 2]> = LazyLock::new(|| {
    [("subscription", SUBSCRIPTION), ("assignment", ASSIGNMENT)]
        .map(|(name, fields)| (name, Schema::new(0, name, CONSUMER_PROTOCOL, NEVER, fields)))
});

/// The kinds of records of one coordinator.
#[derive(Debug)]
pub struct Coordinator {
    kinds: Vec<(Schema, Schema)>,
}

impl Coordinator {
    fn new(descriptions: &[Description]) -> Coordinator {
        let kind = |&(number, name, key, version, flexible, value): &Description| {
            (Schema::new(number, name, 0, NEVER, key), Schema::new(number, name, version, flexible, value))
        };
        Coordinator { kinds: descriptions.iter().map(kind).collect() }
    }

    /// A record of one of these kinds as Kafka's console consumer shows it; none for others and for what cannot be decoded.
    pub fn message(&self, kinds: &[i16], key: &[u8], bytes: Option<&[u8]>) -> Option<String> {
        let (number, key) = split_number(key)?;
        let (key_schema, value_schema) = self.kinds.iter().find(|(schema, _)| schema.key == number && kinds.contains(&number))?;
        let (key, _) = key_schema.decode(0, key).ok()?;
        let value = match bytes {
            None => Value::Null,
            Some(bytes) => {
                let (version, body) = split_number(bytes)?;
                let (fields, _) = value_schema.decode(version, body).ok()?;
                object([("version", Value::Int(version.into())), ("data", Value::Fields(fields))])
            }
        };
        let key = object([("type", Value::Int(number.into())), ("data", Value::Fields(key))]);
        Some(json(&object([("key", key), ("value", value)])))
    }

    /// Key and value as text, in the form of Kafka's dump tool; what cannot be decoded is told in place of the key.
    pub fn decode(&self, record: &Record, offset: i64) -> Result<(Option<String>, Option<String>), String> {
        let Some(key) = record.key else {
            return Err(format!("Failed to decode message at offset {offset} using the specified decoder (message had a missing key)"));
        };
        let Some((number, key)) = split_number(key) else { return Ok((Some(skipped(offset, &WireError::Truncated)), None)) };
        let Some((key_schema, value_schema)) = self.kinds.iter().find(|(schema, _)| schema.key == number) else {
            return Ok((Some(format!("Unknown record type {number} at offset {offset}, skipping.")), None));
        };
        let decoded = key_schema.decode(0, key).and_then(|(key, _)| Ok((key, value(value_schema, record.value)?)));
        let (key, value) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return Ok((Some(skipped(offset, &error)), None)),
        };
        let key = json(&object([("type", Value::Text(number.to_string())), ("data", Value::Fields(key))]));
        let value = value.map_or_else(
            || "<DELETE>".to_owned(),
            |(version, fields)| json(&object([("version", Value::Text(version.to_string())), ("data", Value::Fields(fields))])),
        );
        Ok((Some(key), Some(value)))
    }
}

fn skipped(offset: i64, error: &WireError) -> String {
    format!("Error at offset {offset}, skipping. {error}")
}

fn object<const N: usize>(fields: [(&'static str, Value); N]) -> Value {
    Value::Fields(Fields(fields.into()))
}

/// The 16-bit number in front.
fn split_number(bytes: &[u8]) -> Option<(i16, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (i16::from_be_bytes(*number), rest))
}

fn value(schema: &Schema, bytes: Option<&[u8]>) -> Result<Option<(i16, Fields)>, WireError> {
    let Some(bytes) = bytes else { return Ok(None) };
    let (version, body) = split_number(bytes).ok_or(WireError::Truncated)?;
    let (mut fields, _) = schema.decode(version, body)?;
    if fields.text("protocolType") == Some("consumer") {
        open_members(&mut fields);
    }
    Ok(Some((version, fields)))
}

/// Shows what the members of a classic consumer group have sent each other, where it is what a consumer sends.
fn open_members(group: &mut Fields) {
    let Some((_, Value::List(members))) = group.0.iter_mut().find(|(name, _)| *name == "members") else { return };
    for member in members {
        let Value::Fields(member) = member else { continue };
        for (name, field) in &mut member.0 {
            let Value::Bytes(bytes) = &*field else { continue };
            if let Some(fields) = embedded(name, bytes) {
                *field = Value::Fields(fields);
            }
        }
    }
}

/// A subscription or an assignment, by the name of the field that holds it.
pub(super) fn embedded(field: &str, bytes: &[u8]) -> Option<Fields> {
    let (_, schema) = MEMBER_FIELDS.iter().find(|(name, _)| *name == field)?;
    let (version, body) = split_number(bytes)?;
    Some(schema.decode(version, body).ok()?.0)
}

/// `__consumer_offsets`
pub fn groups() -> Coordinator {
    Coordinator::new(GROUPS)
}

/// `__transaction_state`
pub fn transactions() -> Coordinator {
    Coordinator::new(TRANSACTIONS)
}

/// `__share_group_state`
pub fn share_groups() -> Coordinator {
    Coordinator::new(SHARE_GROUPS)
}
