//! One file per Kafka API: a decoded request and what the broker knows become a response, or operations for others. Pure.

pub mod alter_configs;
pub mod api_versions;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_topic_partitions;
pub mod fetch;
pub mod fetch_session;
pub mod find_coordinator;
pub mod groups;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
mod repeated;
pub mod sync_group;

use crate::wire::codec::StrBytes;

// Answers depend on it: whoever asks the APIs fills it in.
pub use crate::cluster::view::{BrokerView, Endpoint, OffsetsTopic};

/// Value of "authorized operations" where nobody asked.
const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// Everything that can be done with a topic, as there is no authorizer: Read, Write, Create, Delete, Alter, Describe, DescribeConfigs,
/// AlterConfigs; one bit for each operation's number (KIP-430).
const TOPIC_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// Likewise of the cluster: Create, Alter, Describe, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite.
const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

/// An error text for a response. Texts quote the request: one that would not fit a string of the older versions is cut.
fn error_text(text: &str) -> Option<StrBytes> {
    const MOST: usize = 4096;
    let end = text.floor_char_boundary(MOST.min(text.len()));
    Some(text[..end].into())
}

#[cfg(test)]
mod testing;
