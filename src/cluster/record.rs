//! The records of the metadata log: one version byte, then rkyv's archive, validated at decoding.

use std::fmt;

use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};

/// First byte of every record; other layouts will get other numbers.
const VERSION: u8 = 1;

/// One change of the cluster's metadata. Ids are the bytes of [`crate::base::ids::Uuid`].
///
/// New kinds go to the end and must not be larger than `Topic`: an archive names its kind by place, and is found by its size from the end.
/// Then logs of older programs stay readable.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {
    /// A new topic (or, in a snapshot, one with the epochs it has come to).
    Topic {
        /// Stable identity.
        id: [u8; 16],
        /// Unique among the topics that exist.
        name: String,
        /// The leader epoch of each partition; a new topic has zeros.
        leader_epochs: Vec<i32>,
        /// The settings that were given, as they were given.
        configs: Vec<(String, String)>,
        /// When it was created, in milliseconds since 1970.
        created_ms: i64,
    },
    /// The topic is gone.
    RemoveTopic {
        /// Which one.
        id: [u8; 16],
    },
    /// The node that leads every partition started again: each leader epoch grows by one, so that clients and followers notice what
    /// an unclean end may have cut off (KIP-320).
    NewLeaderEpochs,
    /// Producer ids below this one are given away.
    ProducerIds {
        /// The first free id.
        next: i64,
    },
    /// All settings of a topic, in place of those that it had.
    TopicConfigs {
        /// Which topic.
        id: [u8; 16],
        /// As they were given.
        configs: Vec<(String, String)>,
    },
    /// All settings changed at run time of one broker or (`None`) of all, in place of those before.
    BrokerConfigs {
        /// Which broker.
        broker: Option<i32>,
        /// As they were given.
        configs: Vec<(String, String)>,
    },
    /// A topic gets more partitions, numbered on from those that it has.
    AddPartitions {
        /// Which topic.
        id: [u8; 16],
        /// The leader epoch of each new partition.
        leader_epochs: Vec<i32>,
    },
    /// All settings of a consumer group, in place of those that it had; the group need not exist.
    GroupConfigs {
        /// Its id.
        group: String,
        /// As they were given.
        configs: Vec<(String, String)>,
    },
    /// As `NewLeaderEpochs`, for some partitions of one topic.
    NewLeaderEpochsOf {
        /// Which topic.
        id: [u8; 16],
        /// The numbers of the partitions.
        partitions: Vec<i32>,
    },
}

/// What every log so far was written with.
const _: () = assert!(size_of::<ArchivedMetadataRecord>() == 56);

/// Why bytes are not a metadata record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// Nothing there.
    Empty,
    /// Written by a newer Corelane (or damaged).
    Version(u8),
    /// The archive does not validate; says where.
    Archive(String),
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRecord::Empty => f.write_str("empty metadata record"),
            BadRecord::Version(version) => write!(f, "metadata record of version {version}, this program knows {VERSION}"),
            BadRecord::Archive(reason) => write!(f, "damaged metadata record: {reason}"),
        }
    }
}

impl std::error::Error for BadRecord {}

impl MetadataRecord {
    /// The bytes that [`MetadataRecord::decode`] takes.
    pub fn encode(&self) -> Vec<u8> {
        // Serialising plain owned data into growing memory has no way to fail.
        let archive = rkyv::to_bytes::<Error>(self).expect("owned data always serialises");
        let mut out = Vec::with_capacity(1 + archive.len());
        out.push(VERSION);
        out.extend_from_slice(&archive);
        out
    }

    /// The bytes of [`MetadataRecord::encode`] at most, told without encoding.
    pub fn room(&self) -> usize {
        // Of the archive's own: a record, the end of each text and list, alignment.
        const FIXED: usize = 1 + size_of::<ArchivedMetadataRecord>() + 16;
        const TEXT: usize = 8;
        let text = |text: &String| text.len() + TEXT;
        let pairs = |configs: &[(String, String)]| -> usize { configs.iter().map(|(name, value)| text(name) + text(value)).sum() };
        FIXED
            + match self {
                MetadataRecord::Topic { name, leader_epochs, configs, .. } => {
                    text(name) + leader_epochs.len() * size_of::<i32>() + pairs(configs)
                }
                MetadataRecord::TopicConfigs { configs, .. } | MetadataRecord::BrokerConfigs { configs, .. } => pairs(configs),
                MetadataRecord::AddPartitions { leader_epochs, .. } => leader_epochs.len() * size_of::<i32>(),
                MetadataRecord::NewLeaderEpochsOf { partitions, .. } => partitions.len() * size_of::<i32>(),
                MetadataRecord::GroupConfigs { group, configs } => text(group) + pairs(configs),
                MetadataRecord::RemoveTopic { .. } | MetadataRecord::NewLeaderEpochs | MetadataRecord::ProducerIds { .. } => 0,
            }
    }

    /// The record in `bytes`, which may come from a damaged disk.
    pub fn decode(bytes: &[u8]) -> Result<MetadataRecord, BadRecord> {
        match bytes.split_first() {
            None => Err(BadRecord::Empty),
            Some((&VERSION, archive)) => {
                // The archive's types have alignments that a place within a log does not.
                let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(archive.len());
                aligned.extend_from_slice(archive);
                rkyv::from_bytes::<MetadataRecord, Error>(&aligned).map_err(|error| BadRecord::Archive(error.to_string()))
            }
            Some((&version, _)) => Err(BadRecord::Version(version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = MetadataRecord> {
        let configs = prop::collection::vec((".{0,20}", ".{0,20}"), 0..4);
        prop_oneof![
            (any::<[u8; 16]>(), ".{0,40}", prop::collection::vec(any::<i32>(), 0..20), configs.clone(), any::<i64>()).prop_map(
                |(id, name, leader_epochs, configs, created_ms)| MetadataRecord::Topic { id, name, leader_epochs, configs, created_ms }
            ),
            any::<[u8; 16]>().prop_map(|id| MetadataRecord::RemoveTopic { id }),
            Just(MetadataRecord::NewLeaderEpochs),
            any::<i64>().prop_map(|next| MetadataRecord::ProducerIds { next }),
            (any::<[u8; 16]>(), configs.clone()).prop_map(|(id, configs)| MetadataRecord::TopicConfigs { id, configs }),
            (any::<Option<i32>>(), configs.clone()).prop_map(|(broker, configs)| MetadataRecord::BrokerConfigs { broker, configs }),
            (any::<[u8; 16]>(), prop::collection::vec(any::<i32>(), 0..20))
                .prop_map(|(id, partitions)| MetadataRecord::NewLeaderEpochsOf { id, partitions }),
            (".{0,40}", configs).prop_map(|(group, configs)| MetadataRecord::GroupConfigs { group, configs }),
            (any::<[u8; 16]>(), prop::collection::vec(any::<i32>(), 0..20))
                .prop_map(|(id, leader_epochs)| MetadataRecord::AddPartitions { id, leader_epochs }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(record in any_record()) {
            let bytes = record.encode();
            let fits = bytes.len()..=2 * bytes.len() + 16;
            prop_assert!(fits.contains(&record.room()), "{} bytes, {} told", bytes.len(), record.room());
            prop_assert_eq!(MetadataRecord::decode(&bytes), Ok(record));
        }

        #[test]
        fn damage_is_an_error_or_another_record_never_a_panic(record in any_record(), at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>()) {
            let mut bytes = record.encode();
            let _ = MetadataRecord::decode(&bytes[..cut.index(bytes.len())]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            let _ = MetadataRecord::decode(&bytes);
        }
    }

    /// The bytes that the first programs wrote, before there were `TopicConfigs` and `BrokerConfigs`.
    #[test]
    fn old_logs_stay_readable() {
        let configs = vec![("cleanup.policy".to_owned(), "compact".to_owned()), ("a".to_owned(), "".to_owned())];
        let topic = MetadataRecord::Topic { id: [7; 16], name: "orders".into(), leader_epochs: vec![0, 3], configs, created_ms: 5 };
        let written = [
            (
                topic,
                "010000000003000000636c65616e75702e706f6c69637900008e000000f0ffffff636f6d70616374ff61ffffffffffffffffffffffffffffff00070707070707070707070707070707070000006f7264657273ffffacffffff02000000bcffffff02000000000000000500000000000000",
            ),
            (
                MetadataRecord::RemoveTopic { id: [9; 16] },
                "010109090909090909090909090909090909000000000000000000000000000000000000000000000000000000000000000000000000000000",
            ),
            (
                MetadataRecord::NewLeaderEpochs,
                "010200000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
            ),
            (
                MetadataRecord::ProducerIds { next: 4000 },
                "010300000000000000a00f00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
            ),
        ];
        for (record, hex) in written {
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            assert_eq!(MetadataRecord::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn other_versions_are_refused() {
        assert_eq!(MetadataRecord::decode(&[]), Err(BadRecord::Empty));
        assert_eq!(MetadataRecord::decode(&[2, 0, 0]), Err(BadRecord::Version(2)));
        assert!(matches!(MetadataRecord::decode(&[1, 9]), Err(BadRecord::Archive(_))));
    }
}
