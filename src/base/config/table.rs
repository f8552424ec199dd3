//! Every setting that Corelane knows: type, range, default and meaning. README.md shows this table; a test keeps the two equal.

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// 32-bit whole number, bounds inclusive.
    Int(i32, i32),
    /// 64-bit whole number, bounds inclusive.
    Long(i64, i64),
    /// Number, bounds inclusive.
    Double(f64, f64),
    /// Whole number of bytes with an optional `k`, `m` or `g` (powers of 1024), bounds inclusive.
    Size(u64, u64),
    /// Any text.
    Text,
    /// Comma-separated texts.
    List,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// One of these, in lower or upper case.
    OneOfAnyCase(&'static [&'static str]),
    /// Any number of these, comma-separated.
    SomeOf(&'static [&'static str]),
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Name in the file.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// Value when not set; empty: none, or as the meaning says.
    pub default: &'static str,
    /// One sentence for the README.
    pub meaning: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning }
}

const I32: i32 = i32::MAX;
/// Kafka sets no bounds; what is read from it has some.
const ANY_INT: Kind = Int(i32::MIN, i32::MAX);
/// The same with 64 bits: any whole number.
pub const ANY_LONG: Kind = Long(i64::MIN, i64::MAX);
const I64: i64 = i64::MAX;
const FOREVER: &str = "9223372036854775807";

use Kind::*;

/// The server-side assignors of consumer groups.
pub const CONSUMER_ASSIGNORS: &[&str] = &["uniform", "range"];

/// Corelane's settings and the settings of Kafka that have an effect, without those that are defaults for topics.
pub const BROKER: &[Key] = &[
    key(
        "corelane.ack",
        OneOf(&["default", "flushed", "written"]),
        "default",
        "What an acknowledgement promises: `flushed` = on the device, `written` = direct write completed; `default` = flushed for acks=all, written for acks=1. Also per topic.",
    ),
    key("corelane.cluster.id", Text, "", "Cluster id of a new data directory; else random. Environment: also `CLUSTER_ID`."),
    key("corelane.cores", Int(1, 1024), "", "Cores to run on; not set: every CPU that the affinity mask allows."),
    key(
        "corelane.log.idle.ms",
        Int(10, I32),
        "5000",
        "A log that nothing was appended to for this long gives back its open files, its append chunk and the space allocated ahead.",
    ),
    key(
        "corelane.log.level",
        OneOf(&["off", "error", "warn", "info", "debug", "trace"]),
        "info",
        "What is logged; the environment variable `RUST_LOG` overrides it, also per module.",
    ),
    key(
        "corelane.lost.log.dirs",
        List,
        "",
        "Ids (`directory.id` in `meta.properties`) of log directories that will not return: partitions that have a directory nowhere else begin anew, empty.",
    ),
    key("corelane.memory", Size(32 << 20, 1 << 46), "256m", "Memory of the whole process for buffers and cache; taken as load needs it."),
    key(
        "corelane.send.zc.bytes",
        Size(0, 1 << 30),
        "32768",
        "Fetched data of this size or more is sent without a copy in the kernel; 0: never.",
    ),
    key(
        "corelane.spin.us",
        Int(0, 10_000),
        "0",
        "How long a core with a write at the disk looks for its end before it sleeps, in microseconds: quicker answers for a core that is always busy.",
    ),
    key(
        "corelane.verify.compressed",
        OneOf(&["full", "frame"]),
        "full",
        "How far compressed batches are looked at when they are produced: `full` = every record, as Kafka does; `frame` = the header only, for producers that are trusted, unless the topic is compacted or the header tells no timestamp.",
    ),
    key("node.id", Int(0, I32), "1", "Id of this node; the older name `broker.id` works too."),
    key("broker.id", ANY_INT, "", "Older name of `node.id`; below 0: not set."),
    key("broker.rack", Text, "", "Rack or zone, told to clients."),
    key(
        "process.roles",
        SomeOf(&["broker", "controller"]),
        "broker,controller",
        "Must contain `broker`; a single node is its own controller.",
    ),
    key("controller.quorum.voters", List, "", "Accepted. This version runs single nodes: more than one voter gets a warning."),
    key("controller.quorum.bootstrap.servers", List, "", "Accepted, no effect on a single node."),
    key(
        "listeners",
        List,
        "PLAINTEXT://localhost:9092",
        "Where clients connect: `NAME://HOST:PORT`; no host: all interfaces; port 0: any free one.",
    ),
    key("advertised.listeners", List, "", "What clients are told; not set: `listeners`, with the host name for all interfaces."),
    key(
        "listener.security.protocol.map",
        List,
        "",
        "`NAME:PROTOCOL` for listener names of your own. Only PLAINTEXT works in this version.",
    ),
    key("inter.broker.listener.name", Text, "", "Must name a listener; no further effect on a single node."),
    key("controller.listener.names", List, "CONTROLLER", "Listeners that are not opened: a single node needs no controller connections."),
    key("log.dirs", List, "./corelane-data", "Data directories."),
    key("log.dir", List, "", "Data directories, where `log.dirs` is not set."),
    key(
        "metadata.log.dir",
        Text,
        "",
        "Where a Kafka that ran here kept its metadata log, if not in `log.dirs`; looked at when it is taken over.",
    ),
    key(
        "log.flush.offset.checkpoint.interval.ms",
        Int(0, I32),
        "60000",
        "How often the recovery points of Kafka's form are written, and all logs flushed. After a crash a log is checked from there or from its own recovery point, which follows what is written: about 512 MiB in all.",
    ),
    key("log.cleaner.backoff.ms", Long(0, I64), "15000", "How often a core looks for logs to compact while there are none."),
    key(
        "log.cleaner.dedupe.buffer.size",
        Long(0, I64),
        "134217728",
        "Memory for the keys of logs that are being compacted, in bytes, shared by the cores: 24 bytes a key. Taken only meanwhile, as far as needed; at least 1 MiB, at most a quarter of `corelane.memory`.",
    ),
    key("log.cleaner.enable", Bool, "true", "Whether logs are compacted."),
    key("log.cleaner.io.buffer.load.factor", Double(f64::MIN, f64::MAX), "0.9", "How full the table of keys may get; 1 at most."),
    key(
        "log.cleaner.io.buffer.size",
        Int(0, I32),
        "524288",
        "Memory for reading and writing while compacting, shared by the cores; at least 128 KiB for each.",
    ),
    key(
        "log.cleaner.io.max.bytes.per.second",
        Double(f64::MIN, f64::MAX),
        "1.7976931348623157E308",
        "Bytes that compaction reads and writes each second at most, shared by the cores.",
    ),
    key("log.cleaner.threads", Int(0, I32), "1", "Accepted, without effect: each core compacts its own logs, one at a time."),
    key(
        "num.recovery.threads.per.data.dir",
        Int(1, I32),
        "16",
        "Logs that a core opens at a start, or closes at a stop, at a time, 1024 at most. (Kafka counts threads, 2 by default.)",
    ),
    key(
        "log.retention.check.interval.ms",
        Long(1, I64),
        "300000",
        "How often logs are looked at for segments that retention does not keep.",
    ),
    key("num.partitions", Int(1, I32), "1", "Partitions of a topic that is created without a number."),
    key("default.replication.factor", ANY_INT, "1", "Replicas of a topic that is created without a number."),
    key("auto.create.topics.enable", Bool, "true", "Whether asking for an unknown topic may create it."),
    key("delete.topic.enable", Bool, "true", "Whether topics can be deleted."),
    key("socket.request.max.bytes", Int(1, I32), "104857600", "Largest request."),
    key(
        "group.initial.rebalance.delay.ms",
        ANY_INT,
        "3000",
        "How long the first rebalance of a group without members waits for more of them.",
    ),
    key("group.min.session.timeout.ms", ANY_INT, "6000", "Shortest session timeout that members of classic groups may ask for."),
    key("group.max.session.timeout.ms", ANY_INT, "1800000", "Longest session timeout that members of classic groups may ask for."),
    key(
        "group.coordinator.rebalance.protocols",
        List,
        "classic,consumer,streams",
        "Protocols of groups: without `consumer` the new one is switched off. Others have no effect.",
    ),
    key("group.max.size", Int(1, I32), "2147483647", "Most members of a classic group."),
    key("group.consumer.session.timeout.ms", Int(1, I32), "45000", "A member of the new protocol that is silent for this long is removed."),
    key("group.consumer.min.session.timeout.ms", Int(1, I32), "45000", "Smallest `group.consumer.session.timeout.ms`."),
    key("group.consumer.max.session.timeout.ms", Int(1, I32), "60000", "Largest `group.consumer.session.timeout.ms`."),
    key("group.consumer.heartbeat.interval.ms", Int(1, I32), "5000", "How often members of the new protocol are told to report."),
    key("group.consumer.min.heartbeat.interval.ms", Int(1, I32), "5000", "Smallest `group.consumer.heartbeat.interval.ms`."),
    key("group.consumer.max.heartbeat.interval.ms", Int(1, I32), "15000", "Largest `group.consumer.heartbeat.interval.ms`."),
    key(
        "group.consumer.assignment.interval.ms",
        Int(0, I32),
        "1000",
        "Time between two assignments of a group of the new protocol; 0: as often as there is a reason.",
    ),
    key("group.consumer.min.assignment.interval.ms", Int(0, I32), "0", "Smallest `group.consumer.assignment.interval.ms`."),
    key("group.consumer.max.assignment.interval.ms", Int(0, I32), "15000", "Largest `group.consumer.assignment.interval.ms`."),
    key(
        "group.consumer.regex.refresh.interval.ms",
        Int(10_000, I32),
        "600000",
        "How often subscriptions by pattern are matched against the topics at the latest; new topics are noticed within 10 s.",
    ),
    key("group.consumer.max.size", Int(1, I32), "2147483647", "Most members of a group of the new protocol."),
    key(
        "group.consumer.assignors",
        List,
        "uniform,range",
        "Server-side assignors that members may ask for, by name or Kafka's class; the first one is the default. Classes of your own are left out, with a warning.",
    ),
    key(
        "group.consumer.migration.policy",
        OneOfAnyCase(&["bidirectional", "upgrade", "downgrade", "disabled"]),
        "bidirectional",
        "Whether a group with members may change from the classic to the new protocol (upgrade) and back (downgrade).",
    ),
    key("offset.metadata.max.bytes", ANY_INT, "4096", "Longest text that a client may store with an offset, in characters."),
    key(
        "offsets.retention.minutes",
        Int(1, I32),
        "10080",
        "Offsets of a group expire so long after it lost its last member; those of consumers without a group protocol, after their commit.",
    ),
    key("offsets.retention.check.interval.ms", Long(1, I64), "600000", "How often expired offsets are looked for."),
    key("offsets.topic.num.partitions", Int(1, I32), "50", "Partitions of `__consumer_offsets`, when it is created."),
    key("offsets.topic.replication.factor", Int(1, 32767), "3", "Replicas of `__consumer_offsets`; no more than there are brokers."),
    key(
        "offsets.topic.segment.bytes",
        Int(1, I32),
        "104857600",
        "Segment size of `__consumer_offsets`, when it is created; at least 1 MiB.",
    ),
    key("producer.id.expiration.ms", Int(1, I32), "86400000", "An idempotent producer that has been silent for this long is forgotten."),
    key("max.connections", Int(0, I32), "20000", "Open connections."),
    key("max.connections.per.ip", Int(0, I32), "10000", "Open connections from one address."),
    key("connections.max.idle.ms", ANY_LONG, "600000", "A connection without requests is closed after this time; below 0: never."),
    key("fetch.max.bytes", Int(1024, I32), "57671680", "Most bytes of one fetch response, whatever the client asks for."),
    key("max.incremental.fetch.session.cache.slots", Int(0, I32), "1000", "Fetch sessions remembered."),
];

/// Those of [`BROKER`] that can be changed at run time.
const DYNAMIC: &[&str] = &[
    "corelane.ack",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "max.connections",
    "max.connections.per.ip",
    "num.recovery.threads.per.data.dir",
    "producer.id.expiration.ms",
];

/// Settings of the broker that are defaults for topics: the setting, and the topic's name for it.
pub const TOPIC_DEFAULTS: &[(Key, &str)] = &[
    (key("compression.gzip.level", Int(-1, 9), "-1", ""), "compression.gzip.level"),
    (key("compression.lz4.level", Int(1, 17), "9", ""), "compression.lz4.level"),
    (key("compression.type", OneOf(&["producer", "uncompressed", "zstd", "lz4", "snappy", "gzip"]), "producer", ""), "compression.type"),
    (key("compression.zstd.level", Int(-131072, 22), "3", ""), "compression.zstd.level"),
    (key("log.cleaner.delete.retention.ms", Long(0, I64), "86400000", ""), "delete.retention.ms"),
    (key("log.cleaner.max.compaction.lag.ms", Long(1, I64), FOREVER, ""), "max.compaction.lag.ms"),
    (key("log.cleaner.min.cleanable.ratio", Double(0.0, 1.0), "0.5", ""), "min.cleanable.dirty.ratio"),
    (key("log.cleaner.min.compaction.lag.ms", Long(0, I64), "0", ""), "min.compaction.lag.ms"),
    (key("log.cleanup.policy", SomeOf(&["compact", "delete"]), "delete", ""), "cleanup.policy"),
    (key("log.flush.interval.messages", Long(1, I64), FOREVER, ""), "flush.messages"),
    (key("log.flush.interval.ms", ANY_LONG, "", ""), "flush.ms"),
    (key("log.flush.scheduler.interval.ms", ANY_LONG, FOREVER, ""), "flush.ms"),
    (key("log.index.interval.bytes", Int(0, I32), "4096", ""), "index.interval.bytes"),
    (key("log.index.size.max.bytes", Int(4, I32), "10485760", ""), "segment.index.bytes"),
    (key("log.local.retention.bytes", Long(-2, I64), "-2", ""), "local.retention.bytes"),
    (key("log.local.retention.ms", Long(-2, I64), "-2", ""), "local.retention.ms"),
    (key("log.message.timestamp.after.max.ms", Long(0, I64), "3600000", ""), "message.timestamp.after.max.ms"),
    (key("log.message.timestamp.before.max.ms", Long(0, I64), FOREVER, ""), "message.timestamp.before.max.ms"),
    (key("log.message.timestamp.type", OneOf(&["CreateTime", "LogAppendTime"]), "CreateTime", ""), "message.timestamp.type"),
    (key("log.preallocate", Bool, "false", ""), "preallocate"),
    (key("log.retention.bytes", ANY_LONG, "-1", ""), "retention.bytes"),
    (key("log.retention.ms", ANY_LONG, "", ""), "retention.ms"),
    (key("log.retention.minutes", ANY_INT, "", ""), "retention.ms"),
    (key("log.retention.hours", ANY_INT, "168", ""), "retention.ms"),
    (key("log.roll.jitter.ms", Long(0, I64), "", ""), "segment.jitter.ms"),
    (key("log.roll.jitter.hours", Int(0, I32), "0", ""), "segment.jitter.ms"),
    (key("log.roll.ms", Long(1, I64), "", ""), "segment.ms"),
    (key("log.roll.hours", Int(1, I32), "168", ""), "segment.ms"),
    (key("log.segment.bytes", Int(1 << 20, I32), "1073741824", ""), "segment.bytes"),
    (key("log.segment.delete.delay.ms", Long(0, I64), "60000", ""), "file.delete.delay.ms"),
    (key("message.max.bytes", Int(0, I32), "1048588", ""), "max.message.bytes"),
    (key("min.insync.replicas", Int(1, I32), "1", ""), "min.insync.replicas"),
    (key("unclean.leader.election.enable", Bool, "false", ""), "unclean.leader.election.enable"),
];

/// Settings of topics that are checked, kept and shown, but change nothing in this version, with the reason.
pub const IDLE_TOPIC_SETTINGS: &[(&str, &str)] = &[
    ("follower.replication.throttled.replicas", "there is no replication"),
    ("leader.replication.throttled.replicas", "there is no replication"),
    ("local.retention.bytes", "there is no tiered storage"),
    ("local.retention.ms", "there is no tiered storage"),
    (
        "min.insync.replicas",
        "as in Kafka 4.3 no more replicas are asked for than the topic has, and it has one: `acks=all` waits for that one to be flushed",
    ),
    ("preallocate", "files are always allocated ahead"),
    ("remote.log.copy.disable", "there is no tiered storage"),
    ("remote.log.delete.on.disable", "there is no tiered storage"),
    ("remote.storage.enable", "there is no tiered storage: `true` is refused"),
    ("unclean.leader.election.enable", "there is no other replica that could lead"),
];

/// Settings of the broker that cannot be changed at run time although a topic's setting that can falls back to them, as in Kafka.
const FIXED_DEFAULTS: &[&str] =
    &["log.flush.scheduler.interval.ms", "log.retention.hours", "log.retention.minutes", "log.roll.hours", "log.roll.jitter.hours"];

/// Whether a setting of the broker can be changed at run time.
pub fn is_dynamic(name: &str) -> bool {
    let topics = TOPIC_DEFAULTS.iter().any(|(key, _)| key.name == name) && !FIXED_DEFAULTS.contains(&name);
    topics || DYNAMIC.contains(&name)
}

/// The description of a setting; none for one that Corelane does not know.
pub fn find(name: &str) -> Option<&'static Key> {
    BROKER.iter().chain(TOPIC_DEFAULTS.iter().map(|(key, _)| key)).find(|key| key.name == name)
}

impl Kind {
    /// The range in words, as errors and the README show it.
    pub fn allowed(&self) -> String {
        match *self {
            Bool => "true or false".to_owned(),
            ANY_INT | ANY_LONG => "a whole number".to_owned(),
            Double(f64::MIN, _) => "a number".to_owned(),
            Int(low, high) => range(&low, (high != I32).then_some(&high)),
            Long(low, high) => range(&low, (high != I64).then_some(&high)),
            Double(low, high) if high == f64::MAX => format!("a number of at least {low}"),
            Double(low, high) => format!("a number from {low} to {high}"),
            Size(low, high) => format!("a size from {} to {} (k, m and g work)", size(low), size(high)),
            Text => "a text".to_owned(),
            List => "a comma-separated list".to_owned(),
            OneOf(choice) | OneOfAnyCase(choice) => format!("one of {}", choice.join(", ")),
            SomeOf(choice) => format!("a comma-separated list of {}", choice.join(", ")),
        }
    }

    /// Whether a (trimmed) value is in the range.
    pub fn accepts(&self, value: &str) -> bool {
        match *self {
            Bool => parse_bool(value).is_some(),
            Int(low, high) => value.parse().is_ok_and(|v: i32| (low..=high).contains(&v)),
            Long(low, high) => value.parse().is_ok_and(|v: i64| (low..=high).contains(&v)),
            Double(low, high) => value.parse().is_ok_and(|v: f64| (low..=high).contains(&v)),
            Size(low, high) => parse_size(value).is_some_and(|v| (low..=high).contains(&v)),
            Text | List => true,
            OneOf(choice) => choice.contains(&value),
            OneOfAnyCase(choice) => choice.iter().any(|one| one.eq_ignore_ascii_case(value)),
            SomeOf(choice) => {
                value.split(',').all(|part| part.trim().is_empty() && value.trim().is_empty() || choice.contains(&part.trim()))
            }
        }
    }
}

fn range<T: std::fmt::Display>(low: &T, high: Option<&T>) -> String {
    match high {
        Some(high) => format!("a whole number from {low} to {high}"),
        None => format!("a whole number of at least {low}"),
    }
}

fn size(bytes: u64) -> String {
    match [(30, "g"), (20, "m"), (10, "k")].iter().find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// Kafka's rule for booleans: `true` or `false` in any case.
pub fn parse_bool(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A number of bytes with an optional `k`, `m` or `g` of any case.
pub fn parse_size(value: &str) -> Option<u64> {
    let (digits, shift) = match value.char_indices().next_back()? {
        (at, 'k' | 'K') => (&value[..at], 10),
        (at, 'm' | 'M') => (&value[..at], 20),
        (at, 'g' | 'G') => (&value[..at], 30),
        _ => (value, 0),
    };
    digits.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_range_and_names_are_unique() {
        let all: Vec<&Key> = BROKER.iter().chain(TOPIC_DEFAULTS.iter().map(|(key, _)| key)).collect();
        for key in &all {
            assert!(key.default.is_empty() || key.kind.accepts(key.default), "{}", key.name);
            assert_eq!(all.iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
        }
    }

    #[test]
    fn what_can_be_changed_at_run_time() {
        assert!(DYNAMIC.iter().all(|name| BROKER.iter().any(|key| key.name == *name)));
        assert!(FIXED_DEFAULTS.iter().all(|name| find(name).is_some()));
        assert!(is_dynamic("log.retention.ms") && !is_dynamic("log.retention.hours") && !is_dynamic("log.dirs") && !is_dynamic("nope"));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("32768"), Some(32768));
        assert_eq!(parse_size("256m"), Some(256 << 20));
        assert_eq!(parse_size("2 G"), Some(2 << 30));
        for bad in ["", "m", "-1", "1.5g", "1t", "99999999999999999999", "18014398509481984k", "1mm"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        assert_eq!(Size(32 << 20, 1 << 46).allowed(), "a size from 32m to 65536g (k, m and g work)");
    }

    /// The rows that README.md must have.
    fn rows() -> String {
        let mut out = String::from("| setting | default | range | meaning |\n|---|---|---|---|\n");
        for key in BROKER {
            out += &format!("| `{}` | {} | {} | {} |\n", key.name, key.default, key.kind.allowed(), key.meaning);
        }
        out += "\n| setting | default | range | topic setting |\n|---|---|---|---|\n";
        for (key, topic) in TOPIC_DEFAULTS {
            out += &format!("| `{}` | {} | {} | `{topic}` |\n", key.name, key.default, key.kind.allowed());
        }
        out += "\n| topic setting without effect | because |\n|---|---|\n";
        for (name, reason) in IDLE_TOPIC_SETTINGS {
            out += &format!("| `{name}` | {reason} |\n");
        }
        out
    }

    #[test]
    fn the_readme_has_every_setting() {
        let readme = include_str!("../../../README.md");
        for row in rows().lines() {
            assert!(
                readme.lines().any(|line| line == row),
                "README.md lacks this line of its tables of settings:\n{row}\n\nAll of them:\n{}",
                rows()
            );
        }
        // Nor does it have others: what came into force, or went, is not told of any more.
        let told = readme.lines().filter(|line| line.starts_with("| `")).filter(|line| line.contains('.'));
        let settings = rows();
        let section = readme.split("## Settings").nth(1).unwrap();
        for line in told.filter(|line| section.contains(line)) {
            assert!(
                settings.lines().any(|row| row == line),
                "README.md has this line in its tables of settings, which no setting has:\n{line}"
            );
        }
    }
}
