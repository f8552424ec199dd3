//! Whole configurations, as people write them.

use std::io::Write;

use super::*;

fn load(file: &str, env: &[(&str, &str)], overrides: &[&str]) -> Result<Config, ConfigError> {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(file.as_bytes()).unwrap();
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    Config::load(Some(on_disk.path()), env.into_iter(), &overrides)
}

fn error(file: &str) -> String {
    load(file, &[], &[]).unwrap_err().to_string()
}

fn listener(name: &str, host: &str, port: u16) -> Listener {
    Listener { name: name.to_owned(), host: host.to_owned(), port }
}

/// The settings of the file that Kafka 4 ships as config/server.properties.
const SHIPPED: &str = "
############################# Server Basics #############################
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
#log.flush.interval.messages=10000
log.retention.hours=168
#log.retention.bytes=1073741824
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
";

#[test]
fn nothing_set() {
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    assert_eq!(config.listeners, [listener("PLAINTEXT", "localhost", 9092)]);
    assert_eq!(config.advertised, config.listeners);
    assert_eq!(config.log_dirs, [PathBuf::from("./corelane-data")]);
    assert_eq!((config.node_id, config.num_partitions, config.default_replication_factor), (1, 1, 1));
    assert_eq!((config.memory, config.cores, config.send_zc_bytes), (256 << 20, None, 32768));
    assert_eq!((config.ack, config.auto_create_topics, config.delete_topic_enable), (AckPolicy::Default, true, true));
    assert_eq!((config.fetch_max_bytes, config.max_fetch_sessions), (55 << 20, 1000));
    assert_eq!(config.connections_max_idle, Some(Duration::from_secs(600)));
    assert!(config.raw.is_empty() && config.unknown.is_empty() && config.warnings.is_empty());
}

#[test]
fn the_file_that_kafka_ships() {
    let config = load(SHIPPED, &[], &[]).unwrap();
    assert_eq!(config.listeners, [listener("PLAINTEXT", "0.0.0.0", 9092)]);
    assert_eq!(config.advertised, [listener("PLAINTEXT", "localhost", 9092)]);
    assert_eq!(config.log_dirs, [PathBuf::from("/tmp/kraft-combined-logs")]);
    assert_eq!(config.raw["num.io.threads"], "8");
    assert!(config.unknown.contains(&"num.network.threads".to_owned()) && !config.unknown.contains(&"process.roles".to_owned()));
    assert!(config.warnings.is_empty());
}

#[test]
fn listener_names_of_ones_own() {
    let config = load(
        "listeners=INSIDE://127.0.0.1:29092,OUTSIDE://:9094,CTRL://:9093\ncontroller.listener.names=CTRL\ninter.broker.listener.name=INSIDE
         listener.security.protocol.map=INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT,CTRL:SSL\nadvertised.listeners=OUTSIDE://kafka.example.org:19094
         controller.quorum.voters=1@a:9093,2@b:9093,3@c:9093\nbroker.id=7\nlog.dirs=/a, /b\nbroker.rack=r1\nauthorizer.class.name=x",
        &[],
        &[],
    )
    .unwrap();
    assert_eq!(config.listeners, [listener("INSIDE", "127.0.0.1", 29092), listener("OUTSIDE", "0.0.0.0", 9094)]);
    assert_eq!(config.advertised, [listener("INSIDE", "127.0.0.1", 29092), listener("OUTSIDE", "kafka.example.org", 19094)]);
    assert_eq!((config.node_id, config.broker_rack.as_deref()), (7, Some("r1")));
    assert_eq!(config.log_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(config.warnings.len(), 2);
}

#[test]
fn later_sources_win() {
    let env =
        [("KAFKA_NODE_ID", "2"), ("KAFKA_NUM_PARTITIONS", "12"), ("KAFKA_CORELANE_MEMORY", "1g"), ("CLUSTER_ID", "abc"), ("HOME", "/")];
    let config = load("node.id=1\nnum.partitions=3\nlog.dir=/x", &env, &["node.id=3", "corelane.ack = flushed"]).unwrap();
    assert_eq!((config.node_id, config.num_partitions, config.memory), (3, 12, 1 << 30));
    assert_eq!((config.ack, config.cluster_id.as_deref()), (AckPolicy::Flushed, Some("abc")));
    assert_eq!(config.log_dirs, [PathBuf::from("/x")]);
    assert!(config.unknown.is_empty());
}

#[test]
fn how_long_records_are_kept() {
    for fits in ["log.retention.hours=-7", "log.retention.hours=2147483647", "log.retention.ms=1\nlog.retention.hours=0"] {
        load(fits, &[], &[]).unwrap();
    }
    assert!(error("log.retention.hours=0").contains("log.retention.hours=0"));
    assert!(error("log.retention.minutes=0\nlog.retention.hours=1").contains("log.retention.minutes=0"));
    assert!(error("compression.gzip.level=0").contains("not 0"));
}

#[test]
fn errors_name_key_value_and_range() {
    let text = error("message.max.bytes=12x");
    assert!(text.starts_with("message.max.bytes=12x (from /") && text.ends_with("): must be a whole number of at least 0"), "{text}");
    let out_of_range = load("", &[("KAFKA_LOG_SEGMENT_BYTES", "10")], &[]).unwrap_err().to_string();
    assert_eq!(
        out_of_range,
        "log.segment.bytes=10 (from the environment variable KAFKA_LOG_SEGMENT_BYTES): must be a whole number of at least 1048576"
    );
    let ack = load("", &[], &["corelane.ack=maybe"]).unwrap_err().to_string();
    assert_eq!(ack, "corelane.ack=maybe (from --override): must be one of default, flushed, written");
    assert!(error("corelane.memmory=1g").contains("corelane.memory"));
    assert_eq!(load("", &[], &["x"]).unwrap_err(), ConfigError::Override("x".to_owned()));
    assert!(matches!(Config::load(Some(Path::new("/no/such")), std::iter::empty(), &[]), Err(ConfigError::File { .. })));
    assert!(error("a=\\uZZZZ").contains("line 1"));
}

/// Kafka has no such bounds, or takes what has no meaning here.
#[test]
fn values_without_bounds() {
    let config = load(
        "broker.id=-1\nconnections.max.idle.ms=-1\ngroup.min.session.timeout.ms=0\ngroup.initial.rebalance.delay.ms=-5
         offset.metadata.max.bytes=-1\noffsets.topic.segment.bytes=1\nnum.recovery.threads.per.data.dir=100000
         default.replication.factor=100000\ngroup.consumer.migration.policy=Upgrade\nmax.connections=0
         group.consumer.assignors=org.example.Own, org.apache.kafka.coordinator.group.assignor.RangeAssignor\nlog.dir=/a,/b",
        &[],
        &[],
    )
    .unwrap();
    assert_eq!((config.node_id, config.connections_max_idle), (1, None));
    assert_eq!(config.default_replication_factor, i16::MAX);
    let groups = &config.groups;
    assert_eq!((groups.min_session_timeout_ms, groups.initial_rebalance_delay_ms), (0, 0));
    assert_eq!((groups.metadata_max_bytes, groups.topic_segment_bytes), (0, 1 << 20));
    assert_eq!((groups.consumer.upgrade, groups.consumer.downgrade), (true, false));
    assert_eq!(groups.consumer.assignors, ["range"]);
    assert_eq!(config.log_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert!(config.warnings.iter().any(|line| line.contains("org.example.Own")));
}

#[test]
fn values_that_stand_elsewhere() {
    let given = "config.providers=e\nconfig.providers.e.class=org.apache.kafka.common.config.provider.EnvVarConfigProvider
                 log.dirs=${e:DATA}/a\nbroker.rack=${e:NONE}";
    let config = load(given, &[("DATA", "/data")], &["num.partitions=${e:N}"]);
    assert!(config.unwrap_err().to_string().starts_with("num.partitions=${e:N} (from --override)"));
    let config = load(given, &[("DATA", "/data"), ("N", "7")], &["num.partitions=${e:N}"]).unwrap();
    assert_eq!((&config.log_dirs[..], config.num_partitions), (&[PathBuf::from("/data/a")][..], 7));
    assert_eq!(config.broker_rack.as_deref(), Some("${e:NONE}"), "as in Kafka");
    assert!(config.warnings.iter().any(|line| line.contains("${e:NONE}")));
    let java = load("config.providers=v\nconfig.providers.v.class=org.example.Vault", &[], &[]);
    assert!(java.unwrap_err().to_string().contains("Java classes are not loaded"));
}

#[test]
fn refused() {
    for bad in [
        "node.id=-1",
        "num.partitions=0",
        "auto.create.topics.enable=yes",
        "corelane.cores=0",
        "corelane.memory=1m",
        "log.dirs=/a,/a",
        "log.dirs=,",
        "log.dirs=",
        "log.dirs=\nlog.dir=/a",
        "log.cleanup.policy=keep",
        "log.cleaner.min.cleanable.ratio=1.5",
        "log.cleaner.min.cleanable.ratio=NaN",
        "num.partitions=",
        "compression.gzip.level=0",
        "process.roles=controller",
        "process.roles=zookeeper",
        "listeners=SSL://:9093",
        "listeners=SASL_PLAINTEXT://:9093",
        "listeners=OWN://:9092",
        "listeners=CONTROLLER://:9093",
        "listeners=PLAINTEXT://:9092,CONTROLLER://:9092",
        "advertised.listeners=PLAINTEXT://0.0.0.0:9092",
        "advertised.listeners=OTHER://h:9092",
        "inter.broker.listener.name=OTHER",
        "corelane.cluster.id=a b",
        "corelane.log.level=loud",
    ] {
        assert!(matches!(load(bad, &[], &[]), Err(ConfigError::Value { .. })), "{bad}");
    }
}
