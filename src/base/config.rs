//! Broker configuration: Kafka's `server.properties`, `KAFKA_*` environment names and `--override`, later ones winning.
//!
//! Everything is checked before anything is opened: [`Config::load`] either returns a whole configuration or says which setting is
//! wrong, what it was and what it may be.

mod environment;
#[cfg(test)]
mod golden_tests;
mod groups;
mod listeners;
pub mod properties;
mod providers;
mod settings;
pub mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use groups::{ConsumerGroupConfig, GroupConfig, GroupOverrides};
pub use listeners::{Listener, host_port};
use settings::Settings;

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AckPolicy {
    /// Flushed for acks=all, written for acks=1.
    #[default]
    Default,
    /// On the device, flushed: survives power loss.
    Flushed,
    /// The direct write completed: survives the end of the process; power loss only on devices with power-loss protection.
    Written,
}

impl FromStr for AckPolicy {
    type Err = ();
    fn from_str(text: &str) -> Result<AckPolicy, ()> {
        match text {
            "default" => Ok(AckPolicy::Default),
            "flushed" => Ok(AckPolicy::Flushed),
            "written" => Ok(AckPolicy::Written),
            _ => Err(()),
        }
    }
}

/// How far produced batches are looked at when they are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Every record, as Kafka does.
    #[default]
    Full,
    /// The header, unless the records are needed: for their keys, or for a timestamp that the header
    /// lacks.
    Frame,
}

impl FromStr for Verify {
    type Err = ();
    fn from_str(text: &str) -> Result<Verify, ()> {
        match text {
            "full" => Ok(Verify::Full),
            "frame" => Ok(Verify::Frame),
            _ => Err(()),
        }
    }
}

/// What a broker was told, complete and within the ranges of [`table`].
#[derive(Debug, Clone)]
pub struct Config {
    /// `node.id`.
    pub node_id: i32,
    /// Cluster id for a new data directory (`corelane.cluster.id`); `None`: a random one.
    pub cluster_id: Option<String>,
    /// Listeners of clients, at least one; hosts are never empty. Listeners of controllers are left out.
    pub listeners: Vec<Listener>,
    /// What clients of each of `listeners` are told, in the same order under the same names.
    pub advertised: Vec<Listener>,
    /// Data directories, at least one.
    pub log_dirs: Vec<PathBuf>,
    /// `num.partitions`, at least 1.
    pub num_partitions: i32,
    /// `default.replication.factor`; topics cannot be created with one below 1.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// Largest request in bytes, without its size field.
    pub socket_request_max_bytes: usize,
    /// A connection without requests is closed after this time; `None`: never.
    pub connections_max_idle: Option<Duration>,
    /// Most bytes of one fetch response.
    pub fetch_max_bytes: usize,
    /// Fetch sessions in all.
    pub max_fetch_sessions: usize,
    /// `broker.rack`.
    pub broker_rack: Option<String>,
    /// How often recovery points are written.
    pub flush_checkpoint_interval: Duration,
    /// How often retention looks at the logs.
    pub retention_check_interval: Duration,
    /// A log that nothing was appended to for this long gives back what it can do without.
    pub log_idle: Duration,
    /// Settings of consumer groups.
    pub groups: GroupConfig,
    /// Cores to run on; `None`: every CPU that the affinity mask allows.
    pub cores: Option<usize>,
    /// Bytes of the whole process for buffers and cache.
    pub memory: usize,
    /// `corelane.ack`: default of the topics.
    pub ack: AckPolicy,
    /// Fetched data of this size in bytes or more is sent without a copy; 0: never.
    pub send_zc_bytes: usize,
    /// How long a core with a write at the disk looks for its end before it sleeps.
    pub spin: Duration,
    /// `corelane.verify.compressed`.
    pub verify_compressed: Verify,
    /// `log.cleaner.enable`; the other settings of the cleaner can be changed at run time.
    pub cleaner_enable: bool,
    /// `corelane.log.level`.
    pub log_level: String,
    /// Everything that was set, under the broker's names, trimmed. May hold secrets of settings that are not in [`table`]: show only
    /// those that are.
    pub raw: BTreeMap<String, String>,
    /// Settings that were set but have no effect here, sorted: Kafka's, or misspelt. Worth one warning.
    pub unknown: Vec<String>,
    /// Other things that the operator should be told.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read, or is not a properties file.
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An override without `=`.
    Override(String),
    /// A value out of its range.
    Value {
        /// The setting.
        key: String,
        /// What it was set to.
        value: String,
        /// Where: a file, an environment variable, an override.
        origin: String,
        /// What it may be.
        allowed: String,
    },
    /// No such setting among those that start with `corelane.`.
    UnknownKey {
        /// The setting.
        key: String,
        /// Where it was set.
        origin: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::File { path, reason } => write!(f, "cannot read the configuration file {}: {reason}", path.display()),
            ConfigError::Override(text) => write!(f, "--override {text}: must have the form KEY=VALUE"),
            ConfigError::Value { key, value, origin, allowed } => write!(f, "{key}={value} (from {origin}): must be {allowed}"),
            ConfigError::UnknownKey { key, origin } => {
                let own: Vec<&str> = table::BROKER.iter().map(|key| key.name).filter(|name| name.starts_with("corelane.")).collect();
                write!(f, "{key} (from {origin}): there is no such setting; those of Corelane itself are {}", own.join(", "))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks all settings: `file`, then those of the environment's variables that map to settings, then the overrides
    /// (`KEY=VALUE`); later ones win. Reads the file and, for a listener on all interfaces, the host name; touches nothing else.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>, overrides: &[String]) -> Result<Config, ConfigError> {
        let settings = Settings::gather(file, env, overrides)?;
        settings.check()?;
        check_holes(&settings)?;
        let (listeners, advertised) = client_listeners(&settings)?;
        let mut config = Config {
            node_id: node_id(&settings)?,
            cluster_id: cluster_id(&settings)?,
            listeners,
            advertised,
            log_dirs: log_dirs(&settings)?,
            num_partitions: settings.number("num.partitions")?,
            default_replication_factor: settings.clamped("default.replication.factor", i16::MIN.into(), i16::MAX.into())?,
            auto_create_topics: settings.flag("auto.create.topics.enable")?,
            delete_topic_enable: settings.flag("delete.topic.enable")?,
            socket_request_max_bytes: settings.number("socket.request.max.bytes")?,
            connections_max_idle: u64::try_from(settings.number::<i64>("connections.max.idle.ms")?).ok().map(Duration::from_millis),
            fetch_max_bytes: settings.number("fetch.max.bytes")?,
            max_fetch_sessions: settings.number("max.incremental.fetch.session.cache.slots")?,
            broker_rack: settings.text("broker.rack").map(str::to_owned),
            flush_checkpoint_interval: Duration::from_millis(settings.number("log.flush.offset.checkpoint.interval.ms")?),
            retention_check_interval: Duration::from_millis(settings.number("log.retention.check.interval.ms")?),
            log_idle: Duration::from_millis(settings.number("corelane.log.idle.ms")?),
            groups: GroupConfig::read(&settings)?,
            cores: settings.text("corelane.cores").map(|_| settings.number("corelane.cores")).transpose()?,
            memory: settings.size("corelane.memory")?,
            ack: settings.parsed("corelane.ack", |value| value.parse().ok())?,
            send_zc_bytes: settings.size("corelane.send.zc.bytes")?,
            spin: Duration::from_micros(settings.number("corelane.spin.us")?),
            verify_compressed: settings.parsed("corelane.verify.compressed", |value| value.parse().ok())?,
            cleaner_enable: settings.flag("log.cleaner.enable")?,
            log_level: settings.parsed("corelane.log.level", |value| Some(value.to_owned()))?,
            raw: settings.raw(),
            unknown: settings.unknown(),
            warnings: Vec::new(),
        };
        config.warnings = warnings(&settings);
        Ok(config)
    }
}

fn node_id(settings: &Settings) -> Result<i32, ConfigError> {
    let older = settings.number::<i32>("broker.id").ok().filter(|id| *id >= 0);
    match older {
        Some(id) if !settings.is_set("node.id") => Ok(id),
        _ => settings.number("node.id"),
    }
}

fn cluster_id(settings: &Settings) -> Result<Option<String>, ConfigError> {
    let fits = |id: &str| id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    match settings.text("corelane.cluster.id") {
        Some(id) if !fits(id) => Err(settings.wrong("corelane.cluster.id", "up to 64 letters, digits, - and _")),
        id => Ok(id.map(str::to_owned)),
    }
}

fn log_dirs(settings: &Settings) -> Result<Vec<PathBuf>, ConfigError> {
    let key = if settings.is_given("log.dirs") || !settings.is_given("log.dir") { "log.dirs" } else { "log.dir" };
    if settings.is_given(key) && !settings.is_set(key) {
        return Err(settings.wrong(key, "one or more directories"));
    }
    let dirs: Vec<PathBuf> = listeners::list(settings.value(key)).map(PathBuf::from).collect();
    let twice = dirs.iter().enumerate().any(|(at, dir)| dirs[..at].contains(dir));
    if dirs.is_empty() || twice {
        return Err(settings.wrong(key, "one or more different directories, separated by commas"));
    }
    Ok(dirs)
}

/// The listeners of clients and, for each, what its clients are told.
fn client_listeners(settings: &Settings) -> Result<(Vec<Listener>, Vec<Listener>), ConfigError> {
    let wrong = |key: &'static str| move |allowed: String| settings.wrong(key, &allowed);
    let map = listeners::parse_map(settings.value("listener.security.protocol.map")).map_err(wrong("listener.security.protocol.map"))?;
    let controllers: Vec<String> = listeners::list(settings.value("controller.listener.names")).map(str::to_ascii_uppercase).collect();
    let mut open = listeners::parse(settings.value("listeners")).map_err(wrong("listeners"))?;
    if let Some(clash) = listeners::clash(&open) {
        return Err(settings.wrong("listeners", &clash));
    }
    open.retain(|listener| !controllers.contains(&listener.name));
    if open.is_empty() {
        return Err(settings.wrong("listeners", "a list with a listener for clients: all of these are in controller.listener.names"));
    }
    for listener in &mut open {
        check_protocol(settings, &listener.name, &map)?;
        if listener.host.is_empty() {
            listener.host = "0.0.0.0".to_owned();
        }
    }
    if let Some(name) = settings.text("inter.broker.listener.name")
        && !open.iter().any(|listener| listener.name.eq_ignore_ascii_case(name))
    {
        return Err(settings.wrong("inter.broker.listener.name", "the name of one of the listeners for clients"));
    }
    let told = advertised(settings, &open, &controllers)?;
    Ok((open, told))
}

fn check_protocol(settings: &Settings, name: &str, map: &[(String, String)]) -> Result<(), ConfigError> {
    match listeners::protocol(name, map).as_deref() {
        Some("PLAINTEXT") => Ok(()),
        Some(other) => Err(settings.wrong(
            "listeners",
            &format!("a list of PLAINTEXT listeners: {name} uses {other}, and this version has neither TLS nor SASL (no client would be protected)"),
        )),
        None => Err(settings.wrong("listeners", &format!("a list of listeners whose names listener.security.protocol.map has: {name} is not there"))),
    }
}

/// One entry for each open listener: the advertised one of its name, else what it is bound to.
fn advertised(settings: &Settings, open: &[Listener], controllers: &[String]) -> Result<Vec<Listener>, ConfigError> {
    let Some(value) = settings.text("advertised.listeners") else {
        return Ok(open.iter().map(listeners::advertise).collect());
    };
    let mut told = listeners::parse(value).map_err(|allowed| settings.wrong("advertised.listeners", &allowed))?;
    told.retain(|listener| !controllers.contains(&listener.name));
    for listener in &told {
        if !open.iter().any(|other| other.name == listener.name) {
            let allowed = format!("a list with names from listeners only: {} is not there", listener.name);
            return Err(settings.wrong("advertised.listeners", &allowed));
        }
        if matches!(listener.host.as_str(), "0.0.0.0" | "::") {
            return Err(settings.wrong("advertised.listeners", "a list of addresses that clients can reach: 0.0.0.0 and :: are none"));
        }
    }
    let named = |listener: &Listener| told.iter().find(|other| other.name == listener.name).unwrap_or(listener).clone();
    Ok(open.iter().map(|listener| listeners::advertise(&named(listener))).collect())
}

/// Kafka's ranges with a hole at 0; of the settings that say how long records are kept, the first
/// counts.
fn check_holes(settings: &Settings) -> Result<(), ConfigError> {
    for hole in ["retention.ms", "compression.gzip.level"] {
        let mut keys = table::TOPIC_DEFAULTS.iter().filter(|(_, topic)| *topic == hole).map(|(key, _)| key);
        let counts = keys.find(|key| settings.is_set(key.name));
        if let Some(key) = counts.filter(|key| settings.number::<i64>(key.name) == Ok(0)) {
            return Err(settings.wrong(key.name, &format!("{}, but not 0", key.kind.allowed())));
        }
    }
    Ok(())
}

fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings: Vec<String> = groups::unknown_assignors(settings).into_iter().collect();
    let without = |(name, variable): &(String, String)| format!("{name}: there is no value for {variable}, which stays as it is");
    warnings.extend(settings.without_value().iter().map(without));
    let voters = listeners::list(settings.value("controller.quorum.voters")).count();
    if voters > 1 {
        warnings.push(format!(
            "controller.quorum.voters names {voters} nodes: this version runs single nodes, so this one is a cluster of its own"
        ));
    }
    for (key, topic) in table::TOPIC_DEFAULTS {
        let idle = table::IDLE_TOPIC_SETTINGS.iter().find(|(name, _)| name == topic);
        if let Some((_, reason)) = idle.filter(|_| settings.text(key.name).is_some_and(|value| value != key.default)) {
            warnings.push(format!("{} has no effect: {reason}", key.name));
        }
    }
    if settings.is_set("authorizer.class.name") {
        warnings.push("authorizer.class.name: this version has no access control, whoever can connect may do everything".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests;
