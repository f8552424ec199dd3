//! Ranges of settings against Kafka's own definitions: what Kafka takes ends no start.

use super::table::{self, Key, Kind};
use crate::base::golden;

/// Settings whose range is narrower than Kafka's, with the reason.
const NARROWER: &[(&str, &str)] = &[
    ("log.cleaner.dedupe.buffer.size", "with one below 0 Kafka does not start"),
    ("log.roll.jitter.ms", "likewise"),
    ("log.roll.ms", "likewise, below 1"),
];

/// The bounds in one of Kafka's texts, such as `[1,...]` and `[1,...,9] or -1`.
fn bounds(range: &str) -> (f64, f64) {
    let Some((low, rest)) = range.strip_prefix('[').and_then(|range| range.split_once(",...")) else {
        return (f64::MIN, f64::MAX);
    };
    let (high, more) = rest.trim_start_matches(',').split_once(']').unwrap();
    let low: f64 = more.strip_prefix(" or ").unwrap_or(low).parse().unwrap();
    (low, high.parse().unwrap_or(f64::MAX))
}

/// The words in one of Kafka's texts, such as `(case insensitive) [A, B]`.
fn words(range: &str) -> Vec<String> {
    let list = range.trim_start_matches("(case insensitive) ").trim_matches(['[', ']']);
    list.split(", ").filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn takes_all(key: &Key, kafka: &str, range: &str) -> bool {
    let (low, high) = bounds(range);
    let holds = |from: f64, to: f64, least: f64, most: f64| from <= low.max(least) && to >= high.min(most);
    match key.kind {
        Kind::Int(from, to) if kafka == "SHORT" => holds(from.into(), to.into(), i16::MIN.into(), i16::MAX.into()),
        Kind::Int(from, to) => kafka == "INT" && holds(from.into(), to.into(), i32::MIN.into(), i32::MAX.into()),
        Kind::Long(from, to) => kafka == "LONG" && holds(from as f64, to as f64, i64::MIN as f64, i64::MAX as f64),
        Kind::Double(from, to) => kafka == "DOUBLE" && holds(from, to, f64::MIN, f64::MAX),
        Kind::Bool => kafka == "BOOLEAN",
        Kind::OneOf(_) | Kind::SomeOf(_) => words(range).iter().all(|word| key.kind.accepts(word)),
        Kind::OneOfAnyCase(_) => words(range).iter().all(|word| key.kind.accepts(word) && key.kind.accepts(&word.to_lowercase())),
        Kind::List => kafka == "LIST" || kafka == "STRING",
        Kind::Text => kafka == "STRING",
        Kind::Size(..) => false,
    }
}

#[test]
fn what_kafka_takes_is_taken() {
    let (text, mut seen, mut narrower) = (golden::read("settings.txt"), 0, Vec::new());
    for line in text.lines().filter_map(|line| line.strip_prefix("broker\t")) {
        let mut words = line.split('\t');
        let (name, kafka, range) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
        let Some(key) = table::find(name) else { continue };
        seen += 1;
        if !takes_all(key, kafka, range) {
            narrower.push(name);
        }
    }
    assert!(seen > 80, "{seen} settings of Kafka");
    let told: Vec<&str> = NARROWER.iter().map(|(name, _)| *name).collect();
    assert_eq!(narrower, told);
}
