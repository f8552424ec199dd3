//! What a real Kafka 4.3.1 makes of the same changes, in its words; and that live changes and a replay agree.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::time::Now;
use crate::cluster::controller::{NewTopic, create_topics};
use crate::cluster::settings::BrokerSettings;
use crate::rt::heap;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Topics `t` and `u` without settings of their own.
fn fresh() -> Image {
    let mut image = Image::new(BrokerSettings::new(1, Arc::default()));
    for (at, name) in ["t", "u"].into_iter().enumerate() {
        let id = [at as u8 + 1; 16];
        let topic = MetadataRecord::Topic { id, name: name.into(), leader_epochs: vec![0], configs: vec![], created_ms: 0 };
        image.apply(at as i64, &topic);
    }
    image
}

fn one<'a>(kind: i8, name: &'a str, changes: &[(&'a str, i8, Option<&'a str>)]) -> Alteration<'a> {
    Alteration { kind, name, changes: changes.to_vec(), reset_others: false }
}

/// Decides on the alterations of one request.
fn all(image: &Image, broker: &BrokerView, asked: &[Alteration]) -> Vec<Altered> {
    let mut alterations = Alterations::default();
    asked.iter().map(|one| alterations.decide(image, broker, one)).collect()
}

fn made(image: &mut Image, asked: &[Alteration]) -> Vec<Result<(), (i16, String)>> {
    let decided = all(image, &BrokerView::example(), asked);
    for record in decided.iter().flatten().flatten() {
        image.apply(image.offset() + 1, &MetadataRecord::decode(&record.encode()).unwrap());
        image.check();
    }
    decided.into_iter().map(|one| one.map(drop).map_err(|refusal| (refusal.code.code(), refusal.message))).collect()
}

/// The refusal of one alteration of a fresh image.
fn refused(asked: Alteration) -> (i16, String) {
    made(&mut fresh(), &[asked]).remove(0).unwrap_err()
}

fn value<'a>(image: &'a Image, name: &str) -> Option<&'a str> {
    image.topic("t").unwrap().overrides.get(name).map(String::as_str)
}

#[test]
fn refusals_of_topics() {
    let text = |code: i16, message: &str| (code, message.to_owned());
    let topic = |changes: &[(&'static str, i8, Option<&'static str>)]| refused(one(TOPIC, "t", changes));
    let set = |name, value| topic(&[(name, SET, Some(value))]);
    assert_eq!(set("retention.ms", "x"), text(40, "Invalid value x for configuration retention.ms: Not a number of type LONG"));
    assert_eq!(set("nope", "x"), text(40, "Unknown topic config name: nope"));
    assert_eq!(
        set("remote.storage.enable", "true"),
        text(40, "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.")
    );
    let without = [("retention.ms", SET, None), ("segment.ms", APPEND, None), ("flush.ms", DELETE, None)];
    assert_eq!(topic(&without), text(42, "Null value not supported for : retention.ms, segment.ms"));
    let twice = [("retention.ms", SET, Some("1")), ("retention.ms", SET, Some("2"))];
    assert_eq!(topic(&twice), text(42, "Error due to duplicate config keys"));
    let list = |change: &str, name: &str| text(40, &format!("Can't {change} to key {name} because its type is not LIST."));
    assert_eq!(topic(&[("retention.ms", APPEND, Some("1"))]), list("APPEND", "retention.ms"));
    assert_eq!(topic(&[("nope", SUBTRACT, Some("1"))]), list("SUBTRACT", "nope"));
    let foo = "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete";
    assert_eq!(topic(&[("cleanup.policy", APPEND, Some("foo"))]), text(40, foo));
    let lags = [("min.compaction.lag.ms", SET, Some("100")), ("max.compaction.lag.ms", SET, Some("50"))];
    assert_eq!(topic(&lags), text(40, "conflict topic config setting min.compaction.lag.ms (100) > max.compaction.lag.ms (50)"));
    let equal = [("min.compaction.lag.ms", SET, Some("100")), ("max.compaction.lag.ms", SET, Some("100"))];
    assert!(made(&mut fresh(), &[one(TOPIC, "t", &equal)]).remove(0).is_ok());
    assert_eq!(topic(&[("retention.ms", 9, Some("1"))]).0, 42);

    let named = |kind, name| refused(one(kind, name, &[("retention.ms", SET, Some("1"))]));
    assert_eq!(named(TOPIC, "nope"), text(3, "The topic 'nope' does not exist."));
    assert_eq!(named(TOPIC, ""), text(42, "Default topic resources are not allowed."));
    let space = "Topic name is invalid: 'a b' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'";
    assert_eq!(named(TOPIC, "a b"), text(17, space));
    assert_eq!(named(77, "t"), text(42, "Unknown resource type 77"));
}

#[test]
fn refusals_of_brokers() {
    let text = |code: i16, message: &str| (code, message.to_owned());
    let set = |name: &'static str, changes: &[(&'static str, &'static str)]| {
        let changes: Vec<_> = changes.iter().map(|&(name, value)| (name, SET, Some(value))).collect();
        refused(one(BROKER, name, &changes))
    };
    let never = text(42, "Cannot update these configs dynamically: [broker.id, log.dirs]");
    assert_eq!(set("1", &[("log.dirs", "/x"), ("broker.id", "3"), ("log.retention.ms", "5")]), never);
    assert_eq!(set("", &[("log.retention.hours", "5")]), text(42, "Cannot update these configs dynamically: [log.retention.hours]"));
    let invalid = text(42, "Invalid value 1 for configuration log.segment.bytes: Value must be at least 1048576");
    assert_eq!(set("", &[("log.segment.bytes", "1")]), invalid);
    let zero = text(42, "requirement failed: log.retention.ms must be unlimited (-1) or, greater than or equal to 1");
    assert_eq!(set("1", &[("log.retention.ms", "0")]), zero);
    assert_eq!(set("5", &[("log.retention.ms", "5")]), text(42, "Unexpected broker id, expected 1, but received 5"));
    assert_eq!(set("x", &[("log.retention.ms", "5")]), text(42, "Node id must be an integer, but it is: x"));
    let append = refused(one(BROKER, "1", &[("log.retention.ms", APPEND, Some("5"))]));
    assert_eq!(append, text(40, "Config value append is not allowed for config key: log.retention.ms"));
}

#[test]
fn names_of_groups() {
    let session = [("consumer.session.timeout.ms", SET, Some("50000"))];
    let named = |name: &str| made(&mut fresh(), &[one(GROUP, name, &session)]).remove(0);
    let text = |message: &str| Err((42, message.to_owned()));
    assert_eq!(named(""), text("Default group resources are not allowed."));
    let longest = "g".repeat(group_config::NAME_MAX);
    assert_eq!(named(&longest), Ok(()));
    for more in ["g", "gg"] {
        assert_eq!(named(&(longest.clone() + more)), text("Group name is longer than 32767 bytes."));
    }
}

#[test]
fn entries_of_lists_that_are_named_twice() {
    let list = "leader.replication.throttled.replicas";
    let mut image = fresh();
    let mut then = |op, entries: &str| {
        assert_eq!(made(&mut image, &[one(TOPIC, "t", &[(list, op, Some(entries))])]), [Ok(())]);
        value(&image, list).unwrap_or_default().to_owned()
    };
    assert_eq!(then(APPEND, "0:1,1:1,0:1"), "0:1,1:1");
    assert_eq!(then(SET, "0:1,1:1,0:1,2:1,0:1"), "0:1,1:1,0:1,2:1,0:1");
    assert_eq!(then(SUBTRACT, "0:1,2:1,7:1"), "1:1,0:1,0:1", "the first of each");
    assert_eq!(then(SUBTRACT, "0:1,0:1"), "1:1");
}

#[test]
fn lists_and_others() {
    let mut image = fresh();
    let mut change = |name: &str, op: i8, new: Option<&str>, expected: Option<&str>| {
        assert_eq!(made(&mut image, &[one(TOPIC, "t", &[(name, op, new)])]), [Ok(())]);
        assert_eq!(value(&image, name), expected, "{name} {op} {new:?}");
    };
    change("cleanup.policy", APPEND, Some("compact"), Some("delete,compact"));
    change("cleanup.policy", APPEND, Some("compact,delete,compact"), Some("delete,compact"));
    change("cleanup.policy", SUBTRACT, Some("delete"), Some("compact"));
    change("cleanup.policy", SUBTRACT, Some("compact,x"), Some(""));
    change("cleanup.policy", APPEND, Some(""), Some(""));
    change("leader.replication.throttled.replicas", APPEND, Some("0:1"), Some("0:1"));
    change("leader.replication.throttled.replicas", APPEND, Some("1:1,0:1"), Some("0:1,1:1"));
    change("retention.ms", SET, Some(" 5 "), Some(" 5 "));
    change("retention.ms", DELETE, Some("ignored"), None);
    change("nope", DELETE, None, None);
    assert_eq!(made(&mut image, &[one(TOPIC, "t", &[])]), [Ok(())]);
    let reset = Alteration { reset_others: true, ..one(TOPIC, "t", &[("flush.ms", SET, Some("7"))]) };
    assert_eq!(made(&mut image, &[reset]), [Ok(())]);
    assert_eq!(image.topic("t").unwrap().overrides.len(), 1);
}

/// Settings of brokers reach the topics that have none of their own.
#[test]
fn brokers_settings_are_the_topics_defaults() {
    let mut image = fresh();
    let retention = |image: &Image| image.topic("t").unwrap().config.retention_ms;
    let mut change = |name: &str, op: i8, new: &str, expected: i64| {
        assert_eq!(made(&mut image, &[one(BROKER, name, &[("log.retention.ms", op, Some(new))])]), [Ok(())]);
        assert_eq!(retention(&image), expected);
    };
    change("", SET, "7000", 7000);
    change("1", SET, "5000", 5000);
    change("", SET, "6000", 5000);
    change("1", DELETE, "", 6000);
    assert_eq!(made(&mut image, &[one(BROKER, "1", &[("log.cleanup.policy", APPEND, Some("compact"))])]), [Ok(())]);
    assert!(image.topic("t").unwrap().config.compact && image.topic("t").unwrap().config.delete);
    let reset = Alteration { reset_others: true, ..one(BROKER, "", &[("max.connections", SET, Some("7"))]) };
    assert_eq!(made(&mut image, &[reset]), [Ok(())]);
    assert_eq!((retention(&image), image.settings().number("max.connections")), (604_800_000, 7));
}

proptest! {
    /// Whatever is asked: every topic's settings stay valid, and a compacted log gives the same image.
    #[test]
    fn any_changes_leave_a_sound_image(asked in prop::collection::vec(any_alteration(), 0..30)) {
        let mut image = fresh();
        for (kind, name, setting, op, value, reset_others) in &asked {
            let changes = vec![(setting.as_str(), *op, value.as_deref())];
            made(&mut image, &[Alteration { kind: *kind, name, changes, reset_others: *reset_others }]);
        }
        for topic in image.topics() {
            prop_assert!(topic.overrides.iter().all(|(name, value)| topic_config::validate(name, value).is_ok()));
        }
        let mut compacted = Image::new(BrokerSettings::new(1, Arc::default()));
        image.records().for_each(|record| compacted.apply(image.offset(), &record));
        prop_assert_eq!(compacted, image);
    }
}

fn any_alteration() -> impl Strategy<Value = (i8, String, String, i8, Option<String>, bool)> {
    let names = prop_oneof![Just("t"), Just("u"), Just("nope"), Just("1"), Just(""), Just("a b")].prop_map(str::to_owned);
    let settings = prop_oneof![
        Just("cleanup.policy"),
        Just("retention.ms"),
        Just("min.compaction.lag.ms"),
        Just("max.compaction.lag.ms"),
        Just("log.retention.ms"),
        Just("log.cleanup.policy"),
        Just("log.cleaner.max.compaction.lag.ms"),
        Just("log.dirs"),
        Just("consumer.session.timeout.ms"),
        Just("consumer.heartbeat.interval.ms"),
        Just("nope"),
    ]
    .prop_map(str::to_owned);
    let values = prop_oneof![Just("1".to_owned()), Just("50".to_owned()), Just("50000".to_owned()), Just("compact".to_owned()), ".{0,6}"];
    let kinds = prop_oneof![3 => Just(TOPIC), 3 => Just(BROKER), 3 => Just(GROUP), 1 => any::<i8>()];
    (kinds, names, settings, -1..5i8, prop::option::weighted(0.9, values), any::<bool>())
}

/// Settings may be as large as a record, and topics are many: what all take together is bounded.
#[test]
fn all_settings_together_have_a_limit() {
    let long = "1:1,".repeat(5_000) + "1:1";
    let key = "leader.replication.throttled.replicas";
    let mut image = fresh();
    let set = |name, value| Alteration { kind: TOPIC, name, changes: vec![(key, 0, Some(value))], reset_others: false };
    let codes =
        |outcomes: &[Altered]| -> Vec<_> { outcomes.iter().map(|one| one.as_ref().map_or_else(|r| r.code, |_| ErrorCode::None)).collect() };
    let broker = BrokerView { settings_max: image.settings_bytes() + 30_000, ..BrokerView::example() };
    let outcomes = all(&image, &broker, &[set("t", &long), set("u", &long)]);
    assert_eq!(codes(&outcomes), [ErrorCode::None, ErrorCode::PolicyViolation]);
    for (at, record) in outcomes.into_iter().filter_map(|one| one.ok().flatten()).enumerate() {
        image.apply(100 + at as i64, &record);
    }
    image.check();
    // The next start may have less memory: then there may be less, but not more.
    let broker = BrokerView { settings_max: 1_000, ..broker };
    let (longer, shorter) = (long.clone() + ",2:2", &long[..long.len() - 4]);
    assert_eq!(codes(&all(&image, &broker, &[set("t", &longer)])), [ErrorCode::PolicyViolation]);
    assert_eq!(codes(&all(&image, &broker, &[set("t", shorter)])), [ErrorCode::None]);
    assert_eq!(codes(&all(&image, &broker, &[set("u", "1:1")])), [ErrorCode::PolicyViolation]);
    let wanted = |configs| NewTopic { name: "new", partitions: 1, replication_factor: 1, assignments: Vec::new(), configs };
    let mut id = || [9; 16];
    let now = Now { mono: std::time::Duration::ZERO, wall_ms: 0 };
    let mut create =
        |configs| create_topics(&image, &broker, now, &[wanted(configs)], &mut id)[0].as_ref().map_or_else(|r| r.code, |_| ErrorCode::None);
    assert_eq!(create(vec![(key, Some("1:1"))]), ErrorCode::PolicyViolation);
    assert_eq!(create(Vec::new()), ErrorCode::None);
    let offsets = NewTopic { name: "__consumer_offsets", ..wanted(vec![(key, Some("1:1"))]) };
    assert!(create_topics(&image, &broker, now, &[offsets], &mut || [8; 16])[0].is_ok(), "groups need it");
}

/// A group is known by its settings alone, and its name may be as long as a value.
#[test]
fn the_names_of_groups_count_among_their_settings() {
    let mut image = fresh();
    let name = "g".repeat(30_000);
    let set = |name| one(GROUP, name, &[("consumer.session.timeout.ms", SET, Some("50000"))]);
    let broker = BrokerView { settings_max: 40_000, ..BrokerView::example() };
    let record = all(&image, &broker, &[set(&name)]).remove(0).unwrap().unwrap();
    image.apply(5, &record);
    image.check();
    assert!((30_000..32_000).contains(&image.settings_bytes()));
    let other = "h".repeat(30_000);
    let refused = all(&image, &broker, &[set(&other)]).remove(0).map(drop).unwrap_err();
    assert_eq!(refused.code, ErrorCode::PolicyViolation);
    image.apply(6, &MetadataRecord::GroupConfigs { group: name, configs: Vec::new() });
    assert_eq!(image.settings_bytes(), 0);
}

#[test]
fn settings_take_no_more_of_the_heap_than_they_count() {
    let text = |len: usize| "x".repeat(len);
    for (settings, len) in [(1, 3), (2, 32_000), (8, 10), (30, 10), (30, 1000)] {
        let configs: Vec<(String, String)> = (0..settings).map(|n| (format!("{n:02}") + &text(20), text(len))).collect();
        let record = MetadataRecord::TopicConfigs { id: [1; 16], configs };
        let mut image = fresh();
        image.apply(5, &record);
        let (counted, before) = (image.settings_bytes(), heap::held());
        image.apply(6, &MetadataRecord::RemoveTopic { id: [1; 16] });
        let held = (before - heap::held()) as usize;
        // The topic goes too, which is not counted.
        assert!(held < counted + 400, "{settings} of {len} bytes: {held} held, {counted} counted");
        assert!(counted < 2 * held, "{settings} of {len} bytes: {held} held, {counted} counted");
    }
}
