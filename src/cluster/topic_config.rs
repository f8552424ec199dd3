//! The settings of topics: their table, Kafka's checks and error texts, and which value is in force and why.

use super::settings::{BrokerSettings, Configs, Source, Synonym, check_value, items};
use crate::base::config::AckPolicy;
use crate::base::config::table::{self, ANY_LONG, Key, Kind, parse_bool};
use crate::wire::compression::{Codec, Compression};

/// The default of `compression.lz4.level`.
const LZ4_FAST: i32 = 9;
const FOREVER: &str = "9223372036854775807";

const fn at_least(low: i64) -> Kind {
    Kind::Long(low, i64::MAX)
}

const fn int_at_least(low: i32) -> Kind {
    Kind::Int(low, i32::MAX)
}

macro_rules! topic_settings {
    ($($name:literal, $kind:expr, $default:expr, $meaning:literal;)*) => {
        /// Every topic setting, sorted by name. Those of Kafka 4.3, and `corelane.ack`.
        pub const TABLE: &[Key] = &[$(Key { name: $name, kind: $kind, default: $default, meaning: $meaning },)*];
    };
}

topic_settings! {
    "cleanup.policy", Kind::SomeOf(&["compact", "delete"]), "delete", "What happens to old data: deleted by age and size, compacted by key, both, or (empty) nothing.";
    "compression.gzip.level", Kind::Int(-1, 9), "-1", "Level of gzip, where the broker compresses.";
    "compression.lz4.level", Kind::Int(1, 17), "9", "Level of lz4, where the broker compresses.";
    "compression.type", Kind::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), "producer", "Compression on disk; `producer` keeps what the producer chose.";
    "compression.zstd.level", Kind::Int(-131072, 22), "3", "Level of zstd, where the broker compresses.";
    "corelane.ack", Kind::OneOf(&["default", "flushed", "written"]), "default", "What an acknowledgement promises: `flushed` = on the device, `written` = direct write completed; `default` = flushed for acks=all, written for acks=1.";
    "delete.retention.ms", at_least(0), "86400000", "How long the tombstones of a compacted topic are kept.";
    "file.delete.delay.ms", at_least(0), "60000", "How long a deleted segment's file stays.";
    "flush.messages", at_least(1), FOREVER, "A flush after this many records.";
    "flush.ms", at_least(0), FOREVER, "A flush after this time.";
    "follower.replication.throttled.replicas", Kind::List, "", "Replicas whose fetching is throttled: `PARTITION:BROKER` or `*`.";
    "index.interval.bytes", int_at_least(0), "4096", "Bytes of log for each entry of the offset index.";
    "leader.replication.throttled.replicas", Kind::List, "", "Replicas whose serving is throttled: `PARTITION:BROKER` or `*`.";
    "local.retention.bytes", at_least(-2), "-2", "Kept locally by size with tiered storage; -2: as `retention.bytes`.";
    "local.retention.ms", at_least(-2), "-2", "Kept locally by age with tiered storage; -2: as `retention.ms`.";
    "max.compaction.lag.ms", at_least(1), FOREVER, "The longest time that a record may stay uncompacted.";
    "max.message.bytes", int_at_least(0), "1048588", "Largest record batch.";
    "message.timestamp.after.max.ms", at_least(0), "3600000", "How far a record's timestamp may lie ahead of the broker's clock.";
    "message.timestamp.before.max.ms", at_least(0), FOREVER, "How far a record's timestamp may lie behind the broker's clock.";
    "message.timestamp.type", Kind::OneOf(&["CreateTime", "LogAppendTime"]), "CreateTime", "Whether timestamps are the producer's or the broker's.";
    "min.cleanable.dirty.ratio", Kind::Double(0.0, 1.0), "0.5", "Share of uncompacted data from which on a log is compacted.";
    "min.compaction.lag.ms", at_least(0), "0", "The time for which a record stays uncompacted at least.";
    "min.insync.replicas", int_at_least(1), "1", "Replicas that must have a record before acks=all is answered.";
    "preallocate", Kind::Bool, "false", "Kafka's switch for allocating segment files ahead.";
    "remote.log.copy.disable", Kind::Bool, "false", "Tiered storage: no more copying.";
    "remote.log.delete.on.disable", Kind::Bool, "false", "Tiered storage: delete remote data when it is switched off.";
    "remote.storage.enable", Kind::Bool, "false", "Tiered storage; not available.";
    "retention.bytes", ANY_LONG, "-1", "Kept by size, for each partition; -1: no limit.";
    "retention.ms", at_least(-1), "604800000", "Kept by age; -1: no limit.";
    "segment.bytes", int_at_least(1 << 20), "1073741824", "Size at which a new segment begins.";
    "segment.index.bytes", int_at_least(4), "10485760", "Largest index of a segment.";
    "segment.jitter.ms", at_least(0), "0", "Random part of `segment.ms`.";
    "segment.ms", at_least(1), "604800000", "Age at which a new segment begins.";
    "unclean.leader.election.enable", Kind::Bool, "false", "Whether a replica that lacks records may lead, at the price of those records.";
}

/// The description of a topic setting.
pub fn find(name: &str) -> Option<&'static Key> {
    TABLE.binary_search_by(|key| key.name.cmp(name)).ok().map(|at| &TABLE[at])
}

/// Whether a topic setting may have this value; the error is Kafka's text.
pub fn validate(name: &str, value: &str) -> Result<(), String> {
    let key = find(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    check_value(key, value)?;
    if key.kind == Kind::List && !throttled_replicas(value) {
        let shown = items(value).collect::<Vec<_>>().join(", ");
        let format = "[partitionId]:[brokerId],[partitionId]:[brokerId],...";
        return Err(format!(
            "Invalid value [{shown}] for configuration {name}: {name} must be the literal '*' or a list of replicas in the following \
             format: {format}"
        ));
    }
    Ok(())
}

fn throttled_replicas(value: &str) -> bool {
    let is_pair = |item: &str| item.split_once(':').is_some_and(|(p, b)| p.parse::<u32>().is_ok() && b.parse::<u32>().is_ok());
    value.trim() == "*" || items(value).all(is_pair)
}

/// What is wrong with a topic's settings taken together; the error is Kafka's text. `overrides` are valid one by one.
pub fn validate_together(overrides: &Configs, settings: &BrokerSettings) -> Result<(), String> {
    let number = |name| value_in_force(name, overrides, settings).parse::<i64>().unwrap_or(0);
    let (min, max) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"));
    if min > max {
        return Err(format!("conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"));
    }
    if parse_bool(&value_in_force("remote.storage.enable", overrides, settings)) == Some(true) {
        let text = "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.";
        return Err(text.to_owned());
    }
    Ok(())
}

/// The value in force of one setting, and where it comes from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The setting.
    pub key: &'static Key,
    /// In the topic's unit, in one spelling (`true`, not `TRUE`).
    pub value: String,
    /// Who set it.
    pub source: Source,
    /// The places that have a value, most important first.
    pub synonyms: Vec<Synonym>,
}

/// Every setting of a topic with these `overrides` on a broker with these `settings`, by name.
pub fn effective<'a>(overrides: &'a Configs, settings: &'a BrokerSettings) -> impl Iterator<Item = Effective> + 'a {
    TABLE.iter().map(move |key| {
        let own = overrides.get(key.name).map(|value| Synonym { name: key.name, value: value.clone(), source: Source::Topic });
        let synonyms: Vec<Synonym> = own.into_iter().chain(settings.synonyms(&broker_keys(key.name).collect::<Vec<_>>())).collect();
        Effective {
            key,
            value: value_in_force(key.name, overrides, settings),
            source: synonyms.first().map_or(Source::Default, |first| first.source),
            synonyms,
        }
    })
}

/// The broker's settings that a topic's setting falls back to, first wins.
fn broker_keys(name: &str) -> impl Iterator<Item = &'static Key> {
    let own = table::BROKER.iter().filter(move |key| key.name == name);
    table::TOPIC_DEFAULTS.iter().filter(move |(_, topic)| *topic == name).map(|(key, _)| key).chain(own)
}

/// The value that counts: the topic's, else the first that the broker was given, else the built-in one.
pub fn value_in_force(name: &str, overrides: &Configs, settings: &BrokerSettings) -> String {
    let key = find(name);
    let own = overrides.get(name).filter(|value| validate(name, value).is_ok()).cloned();
    let brokers = || broker_keys(name).find_map(|key| settings.get(key.name).map(|value| in_topic_unit(key.name, value)));
    let value = own.or_else(brokers);
    key.map_or_else(String::new, |key| one_spelling(key.kind, value.as_deref().unwrap_or(key.default)))
}

/// Hours and minutes of the broker's settings are milliseconds for topics, whose range is narrower
/// for some: everything below 0 means "no limit", or "at once".
fn in_topic_unit(name: &str, value: &str) -> String {
    let factor = match name {
        _ if name.ends_with(".hours") => 3_600_000,
        _ if name.ends_with(".minutes") => 60_000,
        _ => 1,
    };
    let lowest = match name {
        _ if name.starts_with("log.retention.") && name != "log.retention.bytes" => -1,
        _ if name.starts_with("log.flush.") && name.ends_with(".ms") => 0,
        _ if factor == 1 => return value.to_owned(),
        _ => i64::MIN,
    };
    let in_unit = |n: i64| n.saturating_mul(factor).max(lowest).to_string();
    value.trim().parse().map_or(value.to_owned(), in_unit)
}

fn one_spelling(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Bool => value.trim().to_ascii_lowercase(),
        Kind::SomeOf(choice) => {
            let mut list: Vec<&str> = Vec::with_capacity(choice.len());
            for item in items(value) {
                if !list.contains(&item) {
                    list.push(item);
                }
            }
            list.join(",")
        }
        Kind::List => items(value).collect::<Vec<_>>().join(","),
        _ => value.trim().to_owned(),
    }
}

/// The settings of one topic that the data path looks at, in force and typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `segment.bytes`.
    pub segment_bytes: i32,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`.
    pub segment_index_bytes: i32,
    /// `index.interval.bytes`.
    pub index_interval_bytes: i32,
    /// `file.delete.delay.ms`.
    pub file_delete_delay_ms: i64,
    /// `retention.ms`; -1: no limit.
    pub retention_ms: i64,
    /// `retention.bytes`; negative: no limit.
    pub retention_bytes: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`; `i64::MAX`: no limit.
    pub max_compaction_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`, in millionths.
    pub min_cleanable_dirty_ppm: u32,
    /// `max.message.bytes`.
    pub max_message_bytes: i32,
    /// `cleanup.policy` has `compact`.
    pub compact: bool,
    /// `cleanup.policy` has `delete`.
    pub delete: bool,
    /// `message.timestamp.type` is `LogAppendTime`.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `flush.messages`; `i64::MAX`: never.
    pub flush_messages: i64,
    /// `flush.ms`; `i64::MAX`: never.
    pub flush_ms: i64,
    /// `corelane.ack`.
    pub ack: AckPolicy,
    /// `compression.type`; `None`: `producer`.
    pub compression: Option<Compression>,
    /// `compression.gzip.level`.
    pub gzip_level: i32,
    /// `compression.lz4.level`.
    pub lz4_level: i32,
    /// `compression.zstd.level`.
    pub zstd_level: i32,
}

impl TopicConfig {
    /// The view of a topic with these `overrides` on a broker with these `settings`.
    pub fn resolve(overrides: &Configs, settings: &BrokerSettings) -> TopicConfig {
        let text = |name: &str| value_in_force(name, overrides, settings);
        // A value that does not parse was written by another version: its range is not ours to guess, the built-in one is safe.
        let long = |name: &str| text(name).parse::<i64>().or_else(|_| find(name).map_or("0", |key| key.default).parse()).unwrap_or(0);
        let int = |name: &str| i32::try_from(long(name)).unwrap_or(i32::MAX);
        let policy = text("cleanup.policy");
        TopicConfig {
            segment_bytes: int("segment.bytes"),
            segment_ms: long("segment.ms"),
            segment_jitter_ms: long("segment.jitter.ms"),
            segment_index_bytes: int("segment.index.bytes"),
            index_interval_bytes: int("index.interval.bytes"),
            file_delete_delay_ms: long("file.delete.delay.ms"),
            retention_ms: long("retention.ms"),
            retention_bytes: long("retention.bytes"),
            delete_retention_ms: long("delete.retention.ms"),
            min_compaction_lag_ms: long("min.compaction.lag.ms"),
            max_compaction_lag_ms: long("max.compaction.lag.ms"),
            min_cleanable_dirty_ppm: (text("min.cleanable.dirty.ratio").parse().unwrap_or(0.5) * 1e6) as u32,
            max_message_bytes: int("max.message.bytes"),
            compact: items(&policy).any(|item| item == "compact"),
            delete: items(&policy).any(|item| item == "delete"),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            flush_messages: long("flush.messages"),
            flush_ms: long("flush.ms"),
            ack: text("corelane.ack").parse().unwrap_or_default(),
            compression: compression(&text("compression.type")),
            gzip_level: int("compression.gzip.level"),
            lz4_level: int("compression.lz4.level"),
            zstd_level: int("compression.zstd.level"),
        }
    }

    /// The codec of all batches; `None`: that of their producer.
    pub fn codec(&self) -> Option<Codec> {
        let compression = self.compression?;
        let level = match compression {
            Compression::Gzip => Some(self.gzip_level),
            Compression::Zstd => Some(self.zstd_level),
            // As in Kafka, the default is the fast compression, and every other level the high one.
            Compression::Lz4 => Some(self.lz4_level).filter(|level| *level != LZ4_FAST),
            Compression::None | Compression::Snappy => None,
        };
        Some(Codec { compression, level })
    }
}

fn compression(name: &str) -> Option<Compression> {
    let none = (name == "uncompressed").then_some(Compression::None);
    none.or_else(|| Compression::ALL.into_iter().find(|compression| compression.name() == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn broker(pairs: &[(&str, &str)]) -> BrokerSettings {
        BrokerSettings::new(1, std::sync::Arc::new(map(pairs)))
    }

    fn one(name: &str, overrides: &[(&str, &str)], settings: &[(&str, &str)]) -> Effective {
        effective(&map(overrides), &broker(settings)).find(|entry| entry.key.name == name).unwrap()
    }

    fn shown(entry: &Effective) -> Vec<(&str, &str, i8)> {
        entry.synonyms.iter().map(|s| (s.name, s.value.as_str(), s.source as i8)).collect()
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_valid_and_the_brokers() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        for key in TABLE {
            assert_eq!(validate(key.name, key.default), Ok(()), "{}", key.name);
            for broker in broker_keys(key.name).filter(|broker| !broker.default.is_empty()) {
                assert_eq!(in_topic_unit(broker.name, broker.default), key.default, "{}", broker.name);
            }
        }
        for (_, topic) in table::TOPIC_DEFAULTS {
            assert!(find(topic).is_some(), "{topic}");
        }
    }

    /// Another value that a setting may have.
    fn another(key: &Key) -> String {
        let differs = |value: &&str| *value != key.default && validate(key.name, value).is_ok();
        let candidates = ["true", "written", "LogAppendTime", "gzip", "compact", "0.25", "7", "1048577", "1:1"];
        candidates.iter().find(|value| differs(value)).unwrap().to_string()
    }

    /// A promise that is not kept is told: the table of those settings has exactly those that change nothing.
    #[test]
    fn every_setting_has_an_effect_or_is_named_as_one_without() {
        let settings = broker(&[]);
        let plain = TopicConfig::resolve(&Configs::new(), &settings);
        let changed = |key: &&Key| TopicConfig::resolve(&map(&[(key.name, &another(key))]), &settings) != plain;
        let idle: Vec<&str> = TABLE.iter().filter(|key| !changed(key)).map(|key| key.name).collect();
        let told: Vec<&str> = table::IDLE_TOPIC_SETTINGS.iter().map(|(name, _)| *name).collect();
        assert_eq!(idle, told);
    }

    /// Each text as a real Kafka 4.3.1 gives it.
    #[test]
    fn kafkas_error_texts() {
        let cases = [
            ("cleanup.policy", "foo", "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete"),
            ("segment.bytes", "10", "Invalid value 10 for configuration segment.bytes: Value must be at least 1048576"),
            ("segment.bytes", "abc", "Invalid value abc for configuration segment.bytes: Not a number of type INT"),
            ("segment.bytes", "3000000000", "Invalid value 3000000000 for configuration segment.bytes: Not a number of type INT"),
            ("segment.bytes", "", "Invalid value  for configuration segment.bytes: Not a number of type INT"),
            ("max.message.bytes", "-1", "Invalid value -1 for configuration max.message.bytes: Value must be at least 0"),
            (
                "min.cleanable.dirty.ratio",
                "1.5",
                "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
            ),
            ("min.cleanable.dirty.ratio", "x", "Invalid value x for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE"),
            ("preallocate", "yes", "Invalid value yes for configuration preallocate: Expected value to be either true or false"),
            ("retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"),
            ("retention.ms", "1.0", "Invalid value 1.0 for configuration retention.ms: Not a number of type LONG"),
            (
                "compression.type",
                "foo",
                "Invalid value foo for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer",
            ),
            (
                "compression.gzip.level",
                "0",
                "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
            ),
            (
                "compression.gzip.level",
                "10",
                "Invalid value 10 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
            ),
            ("compression.zstd.level", "23", "Invalid value 23 for configuration compression.zstd.level: Value must be no more than 22"),
            ("compression.lz4.level", "0", "Invalid value 0 for configuration compression.lz4.level: Value must be at least 1"),
            (
                "message.timestamp.type",
                "logappendtime",
                "Invalid value logappendtime for configuration message.timestamp.type: String must be one of: CreateTime, LogAppendTime",
            ),
            (
                "leader.replication.throttled.replicas",
                "foo",
                "Invalid value [foo] for configuration leader.replication.throttled.replicas: leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
            ),
            ("nope", "1", "Unknown topic config name: nope"),
            ("message.downconversion.enable", "true", "Unknown topic config name: message.downconversion.enable"),
        ];
        for (name, value, text) in cases {
            assert_eq!(validate(name, value).unwrap_err(), text);
        }
        assert!(validate("leader.replication.throttled.replicas", &"1:1,".repeat(20_000)).unwrap_err().contains("Longer than"));
    }

    #[test]
    fn what_kafka_takes() {
        let cases = [
            ("cleanup.policy", ""),
            ("cleanup.policy", " compact , delete "),
            ("cleanup.policy", "compact,compact"),
            ("preallocate", "TRUE"),
            ("retention.bytes", "-5"),
            ("retention.ms", " 100 "),
            ("leader.replication.throttled.replicas", "*"),
            ("leader.replication.throttled.replicas", "1:1, 2:0"),
            ("compression.gzip.level", "-1"),
        ];
        for (name, value) in cases {
            assert_eq!(validate(name, value), Ok(()), "{name}={value}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other() {
        let text = "conflict topic config setting min.compaction.lag.ms (100) > max.compaction.lag.ms (50)";
        let lags = map(&[("min.compaction.lag.ms", "100"), ("max.compaction.lag.ms", "50")]);
        assert_eq!(validate_together(&lags, &broker(&[])).unwrap_err(), text);
        let one = map(&[("min.compaction.lag.ms", "100")]);
        assert_eq!(validate_together(&one, &broker(&[("log.cleaner.max.compaction.lag.ms", "50")])).unwrap_err(), text);
        assert_eq!(validate_together(&one, &broker(&[])), Ok(()));
        assert!(validate_together(&map(&[("remote.storage.enable", "TRUE")]), &broker(&[])).unwrap_err().starts_with("Tiered Storage"));
    }

    /// As a real Kafka 4.3.1 with these settings describes its topics.
    #[test]
    fn sources_and_synonyms() {
        let entry = one("max.message.bytes", &[], &[("message.max.bytes", "2000000")]);
        assert_eq!((entry.value.as_str(), entry.source), ("2000000", Source::StaticBroker));
        assert_eq!(shown(&entry), [("message.max.bytes", "2000000", 4), ("message.max.bytes", "1048588", 5)]);

        let entry = one("cleanup.policy", &[("cleanup.policy", " compact , delete ,compact")], &[]);
        assert_eq!((entry.value.as_str(), entry.source), ("compact,delete", Source::Topic));
        assert_eq!(shown(&entry), [("cleanup.policy", " compact , delete ,compact", 1), ("log.cleanup.policy", "delete", 5)]);

        let entry = one("retention.ms", &[], &[("log.retention.hours", "100"), ("log.retention.minutes", "50")]);
        assert_eq!((entry.value.as_str(), entry.source, shown(&entry)), ("3000000", Source::Default, vec![]));
        let entry = one("retention.ms", &[("retention.ms", "5000")], &[("log.retention.hours", "100")]);
        assert_eq!(shown(&entry), [("retention.ms", "5000", 1)]);
        for (given, ms) in [("-1", "-1"), ("-7", "-1"), ("2147483647", "7730941129200000")] {
            assert_eq!(one("retention.ms", &[], &[("log.retention.hours", given)]).value, ms);
        }
        assert_eq!(one("retention.ms", &[], &[("log.retention.ms", "-9")]).value, "-1");
        assert_eq!(one("flush.ms", &[], &[("log.flush.interval.ms", "-9")]).value, "0");

        assert_eq!(shown(&one("flush.ms", &[], &[])), []);
        let entry = one("flush.ms", &[], &[("log.flush.interval.ms", "1000"), ("log.flush.scheduler.interval.ms", "7000")]);
        assert_eq!((entry.value.as_str(), entry.source), ("1000", Source::StaticBroker));
        let scheduler = "log.flush.scheduler.interval.ms";
        assert_eq!(shown(&entry), [("log.flush.interval.ms", "1000", 4), (scheduler, "7000", 4), (scheduler, FOREVER, 5)]);
        assert_eq!(one("preallocate", &[("preallocate", "TRUE")], &[]).value, "true");
        let throttled = "leader.replication.throttled.replicas";
        assert_eq!(one(throttled, &[(throttled, " 1:1 , 0:2")], &[]).value, "1:1,0:2");
        assert_eq!(one("corelane.ack", &[], &[("corelane.ack", "written")]).source, Source::StaticBroker);
    }

    #[test]
    fn the_data_paths_view() {
        let config = TopicConfig::resolve(&map(&[]), &broker(&[]));
        assert_eq!((config.segment_bytes, config.max_message_bytes, config.index_interval_bytes), (1 << 30, 1_048_588, 4096));
        assert_eq!((config.compact, config.delete, config.log_append_time), (false, true, false));
        assert_eq!((config.timestamp_before_max_ms, config.timestamp_after_max_ms), (i64::MAX, 3_600_000));
        assert_eq!((config.segment_ms, config.retention_ms, config.retention_bytes), (604_800_000, 604_800_000, -1));
        assert_eq!((config.delete_retention_ms, config.min_cleanable_dirty_ppm), (86_400_000, 500_000));
        assert_eq!((config.flush_messages, config.flush_ms, config.ack), (i64::MAX, i64::MAX, AckPolicy::Default));

        assert_eq!(config.codec(), None);
        let codec = |pairs: &[(&str, &str)]| TopicConfig::resolve(&map(pairs), &broker(&[("compression.type", "gzip")])).codec();
        let of = |compression, level| Some(Codec { compression, level });
        assert_eq!(codec(&[]), of(Compression::Gzip, Some(-1)));
        assert_eq!(codec(&[("compression.gzip.level", "9")]), of(Compression::Gzip, Some(9)));
        let zstd = [("compression.type", "zstd"), ("compression.zstd.level", "-7")];
        assert_eq!(codec(&zstd), of(Compression::Zstd, Some(-7)));
        assert_eq!(codec(&[("compression.type", "uncompressed")]), of(Compression::None, None));
        assert_eq!(codec(&[("compression.type", "snappy")]), of(Compression::Snappy, None));
        assert_eq!(codec(&[("compression.type", "lz4")]), of(Compression::Lz4, None));
        let lz4 = [("compression.type", "lz4"), ("compression.lz4.level", "10")];
        assert_eq!(codec(&lz4), of(Compression::Lz4, Some(10)));
        assert_eq!(codec(&[("compression.type", "producer")]), None);

        let own = map(&[
            ("cleanup.policy", "compact"),
            ("message.timestamp.type", "LogAppendTime"),
            ("segment.bytes", "1048576"),
            ("corelane.ack", "flushed"),
            ("max.message.bytes", "not ours"),
        ]);
        let config = TopicConfig::resolve(&own, &broker(&[("message.max.bytes", "5000"), ("corelane.ack", "written")]));
        assert_eq!((config.compact, config.delete, config.log_append_time), (true, false, true));
        assert_eq!((config.segment_bytes, config.max_message_bytes, config.ack), (1 << 20, 5000, AckPolicy::Flushed));
    }
}
