//! The records of Kafka's own metadata log and of its snapshots (KRaft, KIP-500): those of Kafka 4.3.

use std::sync::LazyLock;

use super::WireError;
use super::primitive::Reader;
use super::schema::{Fields, NEVER, Schema};

/// Numbers of records, as far as somebody asks for them.
pub mod key {
    /// A broker has registered, with the ids of its log directories.
    pub const REGISTER_BROKER: i16 = 0;
    /// A topic: name and id.
    pub const TOPIC: i16 = 2;
    /// A partition of a topic, whole.
    pub const PARTITION: i16 = 3;
    /// A setting of a topic, a broker, …; a null value removes it.
    pub const CONFIG: i16 = 4;
    /// What has changed of a partition.
    pub const PARTITION_CHANGE: i16 = 5;
    /// A topic is deleted.
    pub const REMOVE_TOPIC: i16 = 9;
    /// The first producer id that nobody has.
    pub const PRODUCER_IDS: i16 = 15;
    /// What has changed of a broker's registration.
    pub const BROKER_CHANGE: i16 = 17;
    /// What follows counts only with [`END_TRANSACTION`] (KIP-868).
    pub const BEGIN_TRANSACTION: i16 = 23;
    /// What came since [`BEGIN_TRANSACTION`] counts.
    pub const END_TRANSACTION: i16 = 24;
    /// What came since [`BEGIN_TRANSACTION`] is void.
    pub const ABORT_TRANSACTION: i16 = 25;
}

/// Version of the frame around a record.
const FRAME: u32 = 1;

/// Number, name, newest version, fields (see [`Schema`]); all are flexible.
const RECORDS: &[(i16, &str, i16, &str)] = &[
    (
        0,
        "RegisterBrokerRecord",
        4,
        "brokerId:i32 isMigratingZkBroker:bool@2 incarnationId:uuid brokerEpoch:i64 endPoints:[{name:str host:str \
         port:u16 securityProtocol:i16}] features:[{name:str minSupportedVersion:i16 maxSupportedVersion:i16}] \
         rack:str? fenced:bool inControlledShutdown:bool@1 logDirs:[uuid]@3#0 cordonedLogDirs:[uuid]?@4#1",
    ),
    (1, "UnregisterBrokerRecord", 0, "brokerId:i32 brokerEpoch:i64"),
    (2, "TopicRecord", 0, "name:str topicId:uuid"),
    (
        3,
        "PartitionRecord",
        2,
        "partitionId:i32 topicId:uuid replicas:[i32] isr:[i32] removingReplicas:[i32] addingReplicas:[i32] leader:i32 \
         leaderRecoveryState:i8#0 leaderEpoch:i32 partitionEpoch:i32 directories:[uuid]@1 \
         eligibleLeaderReplicas:[i32]?@2#1 lastKnownElr:[i32]?@2#2",
    ),
    (4, "ConfigRecord", 0, "resourceType:i8 resourceName:str name:str value:str?"),
    (
        5,
        "PartitionChangeRecord",
        2,
        "partitionId:i32 topicId:uuid isr:[i32]?#0 leader:i32#1 replicas:[i32]?#2 removingReplicas:[i32]?#3 \
         addingReplicas:[i32]?#4 leaderRecoveryState:i8#5 directories:[uuid]?@1#8 eligibleLeaderReplicas:[i32]?@2#6 \
         lastKnownElr:[i32]?@2#7",
    ),
    (7, "FenceBrokerRecord", 0, "id:i32 epoch:i64"),
    (8, "UnfenceBrokerRecord", 0, "id:i32 epoch:i64"),
    (9, "RemoveTopicRecord", 0, "topicId:uuid"),
    (
        10,
        "DelegationTokenRecord",
        0,
        "owner:str requester:str renewers:[str] issueTimestamp:i64 maxTimestamp:i64 expirationTimestamp:i64 \
         tokenId:str",
    ),
    (11, "UserScramCredentialRecord", 0, "name:str mechanism:i8 salt:bytes storedKey:bytes serverKey:bytes iterations:i32"),
    (12, "FeatureLevelRecord", 0, "name:str featureLevel:i16"),
    (14, "ClientQuotaRecord", 0, "entity:[{entityType:str entityName:str?}] key:str value:f64 remove:bool"),
    (15, "ProducerIdsRecord", 0, "brokerId:i32 brokerEpoch:i64 nextProducerId:i64"),
    (
        17,
        "BrokerRegistrationChangeRecord",
        3,
        "brokerId:i32 brokerEpoch:i64 fenced:i8#0 inControlledShutdown:i8@1#1 logDirs:[uuid]@2#2 \
         cordonedLogDirs:[uuid]?@3#3",
    ),
    (
        18,
        "AccessControlEntryRecord",
        0,
        "id:uuid resourceType:i8 resourceName:str patternType:i8 principal:str host:str operation:i8 permissionType:i8",
    ),
    (19, "RemoveAccessControlEntryRecord", 0, "id:uuid"),
    (20, "NoOpRecord", 0, ""),
    (21, "ZkMigrationStateRecord", 0, "zkMigrationState:i8"),
    (22, "RemoveUserScramCredentialRecord", 0, "name:str mechanism:i8"),
    (23, "BeginTransactionRecord", 0, "name:str?#0"),
    (24, "EndTransactionRecord", 0, ""),
    (25, "AbortTransactionRecord", 0, "reason:str?#0"),
    (26, "RemoveDelegationTokenRecord", 0, "tokenId:str"),
    (
        27,
        "RegisterControllerRecord",
        0,
        "controllerId:i32 incarnationId:uuid zkMigrationReady:bool endPoints:[{name:str host:str port:u16 \
         securityProtocol:i16}] features:[{name:str minSupportedVersion:i16 maxSupportedVersion:i16}]",
    ),
    (28, "ClearElrRecord", 0, "topicName:str"),
];

static SCHEMAS: LazyLock<Vec<Schema>> =
    LazyLock::new(|| RECORDS.iter().map(|&(key, name, max, fields)| Schema::new(key, name, max, 0, fields)).collect());

/// A record of the metadata log.
#[derive(Clone, Debug, PartialEq)]
pub struct KraftRecord {
    /// Its kind: one of [`key`] or another.
    pub key: i16,
    /// The name of its kind.
    pub name: &'static str,
    /// The version that it was written in.
    pub version: i16,
    /// What it says.
    pub fields: Fields,
}

/// Decodes the value of a record: frame, then body. Kinds and versions newer than Kafka 4.3 are errors.
pub fn decode(value: &[u8]) -> Result<KraftRecord, WireError> {
    let mut reader = Reader::new(value);
    let frame = reader.unsigned_varint()?;
    if frame != FRAME {
        return Err(WireError::Codec(format!("metadata record with a frame of version {frame}, this program knows {FRAME}")));
    }
    let number = |reader: &mut Reader| reader.unsigned_varint().map(|n| i16::try_from(n).unwrap_or(NEVER));
    let (key, version) = (number(&mut reader)?, number(&mut reader)?);
    let schema = SCHEMAS.iter().find(|schema| schema.key == key);
    let schema = schema.ok_or_else(|| WireError::Codec(format!("unknown metadata record {key}")))?;
    let (fields, rest) = schema.decode(version, reader.rest())?;
    if !rest.is_empty() {
        return Err(WireError::Malformed("metadata record: bytes behind its end"));
    }
    Ok(KraftRecord { key, name: schema.name, version, fields })
}

#[cfg(test)]
mod tests {
    use super::super::schema::Value;
    use super::*;
    use crate::base::ids::Uuid;
    use proptest::prelude::*;

    #[test]
    fn a_record_as_kafka_writes_it() {
        let topic = [&[1, 2, 0, 3, b'a', b'b'][..], &[7; 16], &[0]].concat();
        let record = decode(&topic).unwrap();
        assert_eq!((record.key, record.name, record.version), (key::TOPIC, "TopicRecord", 0));
        assert_eq!((record.fields.text("name"), record.fields.uuid("topicId")), (Some("ab"), Some(Uuid([7; 16]))));
        // A change of the leader alone: tag 1.
        let change = [&[1, 5, 2, 0, 0, 0, 3][..], &[7; 16], &[1, 1, 4, 0, 0, 0, 1]].concat();
        let record = decode(&change).unwrap();
        assert_eq!((record.fields.int("partitionId"), record.fields.int("leader"), record.fields.get("isr")), (Some(3), Some(1), None));
        assert_eq!(decode(&[1, 24, 0, 0]).unwrap().fields.0, []);
        assert_eq!(decode(&[1, 12, 0, 2, b'm', 0, 9, 0]).unwrap().fields.get("featureLevel"), Some(&Value::Int(9)));
    }

    #[test]
    fn what_is_newer_or_cut_is_an_error() {
        for bad in
            [&[][..], &[2, 2, 0], &[1, 99, 0, 0], &[1, 24, 1, 0], &[1, 24, 0, 0, 0], &[1, 2, 0, 3, b'a'], &[1, 0xff, 0xff, 0xff, 0xff, 0xf]]
        {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SCHEMAS.len(), 26, "every description is sound");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(key in 0..30u8, version in 0..4u8, body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&[&[1, key, version][..], &body].concat());
            let _ = decode(&body);
        }
    }
}
