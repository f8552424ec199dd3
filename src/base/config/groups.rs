//! The settings of consumer groups.

use super::ConfigError;
use super::settings::Settings;

/// What the group coordinators were told.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.max.size`.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub retention_check_ms: i64,
    /// `offsets.topic.num.partitions`.
    pub topic_partitions: i32,
    /// `offsets.topic.replication.factor`.
    pub topic_replication_factor: i16,
    /// `offsets.topic.segment.bytes`.
    pub topic_segment_bytes: i32,
}

impl GroupConfig {
    pub(super) fn read(settings: &Settings) -> Result<GroupConfig, ConfigError> {
        let config = GroupConfig {
            initial_rebalance_delay_ms: settings.number("group.initial.rebalance.delay.ms")?,
            min_session_timeout_ms: settings.number("group.min.session.timeout.ms")?,
            max_session_timeout_ms: settings.number("group.max.session.timeout.ms")?,
            max_size: settings.number("group.max.size")?,
            metadata_max_bytes: settings.number("offset.metadata.max.bytes")?,
            retention_ms: settings.number::<i64>("offsets.retention.minutes")? * 60_000,
            retention_check_ms: settings.number("offsets.retention.check.interval.ms")?,
            topic_partitions: settings.number("offsets.topic.num.partitions")?,
            topic_replication_factor: settings.number("offsets.topic.replication.factor")?,
            topic_segment_bytes: settings.number("offsets.topic.segment.bytes")?,
        };
        if config.min_session_timeout_ms > config.max_session_timeout_ms {
            return Err(settings.wrong("group.min.session.timeout.ms", "not more than group.max.session.timeout.ms"));
        }
        Ok(config)
    }
}

/// Kafka's defaults.
impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            initial_rebalance_delay_ms: 3000,
            min_session_timeout_ms: 6000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX as usize,
            metadata_max_bytes: 4096,
            retention_ms: 7 * 24 * 3_600_000,
            retention_check_ms: 600_000,
            topic_partitions: 50,
            topic_replication_factor: 3,
            topic_segment_bytes: 100 << 20,
        }
    }
}
