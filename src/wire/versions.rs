//! The APIs of this broker and their versions: those it announces, and those it takes.

use std::ops::RangeInclusive;

macro_rules! apis {
    ($($name:ident = $code:literal, advertised $low:literal-$high:literal, accepted from $min:literal, flexible from $flexible:literal;)*) => {
        /// An API of the Kafka protocol that this broker has, with Kafka's key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ApiKey { $(#[doc = concat!("Key ", $code, ".")] $name = $code,)* }

        /// What ApiVersions answers: key, lowest and highest version.
        pub const ADVERTISED: &[(ApiKey, i16, i16)] = &[$((ApiKey::$name, $low, $high),)*];

        impl ApiKey {
            /// The API of a key on the wire; `None` for one that this broker does not have.
            pub fn from_code(code: i16) -> Option<ApiKey> {
                match code {
                    $($code => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name, as in metrics and logs.
            pub fn name(self) -> &'static str {
                match self { $(ApiKey::$name => stringify!($name),)* }
            }

            /// The versions that are really taken. Produce announces 0-2 as well (librdkafka compresses only then, KAFKA-18659).
            pub fn accepted(self) -> RangeInclusive<i16> {
                match self { $(ApiKey::$name => $min..=$high,)* }
            }

            /// The first version with flexible encoding (KIP-482).
            pub fn flexible_from(self) -> i16 {
                match self { $(ApiKey::$name => $flexible,)* }
            }
        }
    };
}

apis! {
    Produce = 0, advertised 0-13, accepted from 3, flexible from 9;
    Fetch = 1, advertised 4-18, accepted from 4, flexible from 12;
    ListOffsets = 2, advertised 1-11, accepted from 1, flexible from 6;
    Metadata = 3, advertised 0-13, accepted from 0, flexible from 9;
    OffsetCommit = 8, advertised 2-10, accepted from 2, flexible from 8;
    OffsetFetch = 9, advertised 1-10, accepted from 1, flexible from 6;
    FindCoordinator = 10, advertised 0-6, accepted from 0, flexible from 3;
    JoinGroup = 11, advertised 0-9, accepted from 0, flexible from 6;
    Heartbeat = 12, advertised 0-4, accepted from 0, flexible from 4;
    LeaveGroup = 13, advertised 0-5, accepted from 0, flexible from 4;
    SyncGroup = 14, advertised 0-5, accepted from 0, flexible from 4;
    DescribeGroups = 15, advertised 0-6, accepted from 0, flexible from 5;
    ListGroups = 16, advertised 0-5, accepted from 0, flexible from 3;
    ApiVersions = 18, advertised 0-4, accepted from 0, flexible from 3;
    CreateTopics = 19, advertised 2-7, accepted from 2, flexible from 5;
    DeleteTopics = 20, advertised 1-6, accepted from 1, flexible from 4;
    DeleteRecords = 21, advertised 0-2, accepted from 0, flexible from 2;
    InitProducerId = 22, advertised 0-5, accepted from 0, flexible from 2;
    OffsetForLeaderEpoch = 23, advertised 2-4, accepted from 2, flexible from 4;
    DescribeConfigs = 32, advertised 1-4, accepted from 1, flexible from 4;
    AlterConfigs = 33, advertised 0-2, accepted from 0, flexible from 2;
    DescribeLogDirs = 35, advertised 1-5, accepted from 1, flexible from 2;
    CreatePartitions = 37, advertised 0-3, accepted from 0, flexible from 2;
    DeleteGroups = 42, advertised 0-2, accepted from 0, flexible from 2;
    IncrementalAlterConfigs = 44, advertised 0-1, accepted from 0, flexible from 1;
    OffsetDelete = 47, advertised 0-0, accepted from 0, flexible from 32767;
    DescribeCluster = 60, advertised 0-2, accepted from 0, flexible from 0;
    ConsumerGroupHeartbeat = 68, advertised 0-1, accepted from 0, flexible from 0;
    ConsumerGroupDescribe = 69, advertised 0-1, accepted from 0, flexible from 0;
    ListConfigResources = 74, advertised 0-1, accepted from 0, flexible from 0;
    DescribeTopicPartitions = 75, advertised 0-0, accepted from 0, flexible from 0;
}

impl ApiKey {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// Whether a version of this API uses flexible encoding.
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.flexible_from()
    }

    /// Version of the request header: 2 has tagged fields.
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the response header: 1 has tagged fields. ApiVersions always answers with 0, as a client that guessed too high
    /// a version must be able to read the refusal (KIP-511).
    pub fn response_header_version(self, version: i16) -> i16 {
        (self != ApiKey::ApiVersions && self.is_flexible(version)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_consistent() {
        assert!(ADVERTISED.is_sorted_by_key(|(key, ..)| key.code()));
        for &(key, low, high) in ADVERTISED {
            assert_eq!(ApiKey::from_code(key.code()), Some(key));
            assert!(low <= *key.accepted().start() && high == *key.accepted().end(), "{}", key.name());
        }
        assert_eq!(ApiKey::from_code(7), None);
        assert_eq!(ApiKey::ApiVersions.response_header_version(4), 0);
        assert_eq!(ApiKey::Metadata.response_header_version(9), 1);
    }
}
