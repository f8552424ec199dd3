//! The settings of consumer groups.

use std::borrow::Cow;

use super::ConfigError;
use super::listeners::list;
use super::settings::Settings;
use super::table::CONSUMER_ASSIGNORS;

/// What the group coordinators were told.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.consumer.…`: groups of the new protocol.
    pub consumer: ConsumerGroupConfig,
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
            initial_rebalance_delay_ms: settings.clamped("group.initial.rebalance.delay.ms", 0, i64::MAX)?,
            min_session_timeout_ms: settings.clamped("group.min.session.timeout.ms", 0, i64::MAX)?,
            max_session_timeout_ms: settings.clamped("group.max.session.timeout.ms", 0, i64::MAX)?,
            consumer: ConsumerGroupConfig::read(settings)?,
            max_size: settings.number("group.max.size")?,
            metadata_max_bytes: settings.clamped("offset.metadata.max.bytes", 0, i64::MAX)?,
            retention_ms: settings.number::<i64>("offsets.retention.minutes")? * 60_000,
            retention_check_ms: settings.number("offsets.retention.check.interval.ms")?,
            topic_partitions: settings.number("offsets.topic.num.partitions")?,
            topic_replication_factor: settings.number("offsets.topic.replication.factor")?,
            topic_segment_bytes: settings.clamped("offsets.topic.segment.bytes", 1 << 20, i64::MAX)?,
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
            consumer: ConsumerGroupConfig::default(),
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

/// What one group has in place of the broker's settings, each within the broker's bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupOverrides {
    /// See [`ConsumerGroupConfig::session_timeout_ms`].
    pub session_timeout_ms: Option<i32>,
    /// See [`ConsumerGroupConfig::heartbeat_interval_ms`].
    pub heartbeat_interval_ms: Option<i32>,
    /// See [`ConsumerGroupConfig::assignment_interval_ms`].
    pub assignment_interval_ms: Option<i32>,
}

/// The settings of groups of the new protocol (KIP-848).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupConfig {
    /// Whether `group.coordinator.rebalance.protocols` has the new protocol.
    pub enabled: bool,
    /// A member that is silent for this long is removed, milliseconds.
    pub session_timeout_ms: i32,
    /// How often members are told to report, milliseconds.
    pub heartbeat_interval_ms: i32,
    /// Time between two target assignments, milliseconds; 0: as often as there is a reason.
    pub assignment_interval_ms: i32,
    /// How often patterns are looked at again at the latest, milliseconds.
    pub regex_refresh_interval_ms: i32,
    /// Most members.
    pub max_size: usize,
    /// Names of the assignors that members may ask for; the first one is the default.
    pub assignors: Vec<&'static str>,
    /// Whether a classic group becomes one of the new protocol when a member of that joins.
    pub upgrade: bool,
    /// Whether a group becomes a classic one when its last member of the new protocol leaves.
    pub downgrade: bool,
}

impl ConsumerGroupConfig {
    /// The settings of a group that has some of its own.
    pub fn with(&self, own: GroupOverrides) -> Cow<'_, ConsumerGroupConfig> {
        if own == GroupOverrides::default() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(ConsumerGroupConfig {
            session_timeout_ms: own.session_timeout_ms.unwrap_or(self.session_timeout_ms),
            heartbeat_interval_ms: own.heartbeat_interval_ms.unwrap_or(self.heartbeat_interval_ms),
            assignment_interval_ms: own.assignment_interval_ms.unwrap_or(self.assignment_interval_ms),
            ..self.clone()
        })
    }

    fn read(settings: &Settings) -> Result<ConsumerGroupConfig, ConfigError> {
        let policy = settings.value("group.consumer.migration.policy").to_ascii_lowercase();
        let protocols = settings.value("group.coordinator.rebalance.protocols");
        let config = ConsumerGroupConfig {
            enabled: list(protocols).any(|protocol| protocol.eq_ignore_ascii_case("consumer")),
            session_timeout_ms: within(settings, "session.timeout.ms")?,
            heartbeat_interval_ms: within(settings, "heartbeat.interval.ms")?,
            assignment_interval_ms: within(settings, "assignment.interval.ms")?,
            regex_refresh_interval_ms: settings.number("group.consumer.regex.refresh.interval.ms")?,
            max_size: settings.number("group.consumer.max.size")?,
            assignors: assignors(settings),
            upgrade: matches!(&*policy, "bidirectional" | "upgrade"),
            downgrade: matches!(&*policy, "bidirectional" | "downgrade"),
        };
        if config.heartbeat_interval_ms >= config.session_timeout_ms {
            return Err(settings.wrong("group.consumer.heartbeat.interval.ms", "less than group.consumer.session.timeout.ms"));
        }
        Ok(config)
    }
}

/// The assignors that there are, of those that were asked for; all if none of them is.
fn assignors(settings: &Settings) -> Vec<&'static str> {
    let asked = list(settings.value("group.consumer.assignors"));
    let known: Vec<_> = asked.filter_map(assignor).collect();
    if known.is_empty() { CONSUMER_ASSIGNORS.to_vec() } else { known }
}

/// An assignor by its name or by the class that Kafka has for it.
fn assignor(name: &str) -> Option<&'static str> {
    match name.strip_prefix("org.apache.kafka.coordinator.group.assignor.") {
        Some("UniformAssignor") => Some("uniform"),
        Some("RangeAssignor") => Some("range"),
        Some(_) => None,
        None => CONSUMER_ASSIGNORS.iter().copied().find(|known| *known == name),
    }
}

/// The warning about assignors that there are not.
pub fn unknown_assignors(settings: &Settings) -> Option<String> {
    let key = "group.consumer.assignors";
    let unknown: Vec<_> = list(settings.value(key)).filter(|name| assignor(name).is_none()).collect();
    (!unknown.is_empty())
        .then(|| format!("{key}: without {}: there is no such assignor here, and Java classes are not loaded", unknown.join(", ")))
}

/// A number between its own minimum and maximum, which are settings too.
fn within(settings: &Settings, name: &str) -> Result<i32, ConfigError> {
    let (key, low, high) = (format!("group.consumer.{name}"), format!("group.consumer.min.{name}"), format!("group.consumer.max.{name}"));
    let (value, min, max): (i32, i32, i32) = (settings.number(&key)?, settings.number(&low)?, settings.number(&high)?);
    if min > max {
        return Err(settings.wrong(&low, &format!("not more than {high}")));
    }
    if (min..=max).contains(&value) { Ok(value) } else { Err(settings.wrong(&key, &format!("from {low} ({min}) to {high} ({max})"))) }
}

/// Kafka's defaults.
impl Default for ConsumerGroupConfig {
    fn default() -> ConsumerGroupConfig {
        ConsumerGroupConfig {
            enabled: true,
            session_timeout_ms: 45_000,
            heartbeat_interval_ms: 5_000,
            assignment_interval_ms: 1_000,
            regex_refresh_interval_ms: 600_000,
            max_size: i32::MAX as usize,
            assignors: CONSUMER_ASSIGNORS.to_vec(),
            upgrade: true,
            downgrade: true,
        }
    }
}
