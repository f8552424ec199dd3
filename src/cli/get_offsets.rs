//! `corelane get-offsets` (Kafka's `kafka-get-offsets`): the offsets of partitions at a time.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use super::tool::{Connect, Failure, Format, Outcome, TopicPattern, print};
use crate::client::ClientError;
use crate::client::admin::TopicPartition;

/// The special times, by name and number.
const SPECIAL: [(&str, i64); 6] = [
    ("latest", -1),
    ("earliest", -2),
    ("max-timestamp", -3),
    ("earliest-local", -4),
    ("latest-tiered", -5),
    ("earliest-pending-upload", -6),
];

/// Show the offsets of partitions at a time
#[derive(Debug, Args)]
pub struct GetOffsets {
    #[command(flatten)]
    connect: Connect,
    /// Regular expression of topics; without it all of them
    #[arg(long)]
    topic: Option<String>,
    /// Numbers of partitions, separated by commas; without it all of them
    #[arg(long, value_name = "0,1,...")]
    partitions: Option<String>,
    /// Topics with partitions: regular expressions, each with :N, :N-M (without M), :N- or :-M (without M) behind it
    #[arg(long, value_name = "TOPIC:PARTITIONS,...")]
    topic_partitions: Option<String>,
    /// Milliseconds since 1970, or latest (-1), earliest (-2), max-timestamp (-3), earliest-local (-4), latest-tiered (-5),
    /// earliest-pending-upload (-6)
    #[arg(long, default_value = "latest", allow_hyphen_values = true)]
    time: String,
    /// Leave out the broker's own topics
    #[arg(long)]
    exclude_internal_topics: bool,
    /// How the offsets are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl GetOffsets {
    /// Prints TOPIC:PARTITION:OFFSET lines.
    pub fn run(self) -> Outcome {
        self.print_offsets().map_err(|failure| match failure {
            Failure::Failed(text) => Failure::Failed(format!("Error occurred: {text}")),
            other => other,
        })
    }

    fn print_offsets(&self) -> Outcome {
        let mut client = self.connect.client("GetOffsetShell")?;
        if self.topic_partitions.is_some() && (self.topic.is_some() || self.partitions.is_some()) {
            return failed("--topic-partitions cannot be used with --topic or --partitions");
        }
        let time = parse_time(&self.time)?;
        let rules = match &self.topic_partitions {
            Some(text) => text.split(',').map(Rule::parse).collect::<Outcome<Vec<_>>>()?,
            None => vec![self.rule()?],
        };
        let topics = client.list_topics().map_err(told)?;
        let topics = topics.into_iter().filter(|topic| !(topic.internal && self.exclude_internal_topics));
        let names: Vec<String> = topics.map(|topic| topic.name).filter(|name| rules.iter().any(|rule| rule.topic.matches(name))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let described = if names.is_empty() { Vec::new() } else { client.topics(&names, false).map_err(told)? };
        let wanted: BTreeSet<TopicPartition> = described
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic.name.clone(), partition.index)))
            .filter(|(topic, partition)| rules.iter().any(|rule| rule.matches(topic, *partition)))
            .collect();
        if wanted.is_empty() {
            return failed("Could not match any topic-partitions with the specified filters");
        }
        let mut offsets = BTreeMap::new();
        for ((topic, partition), found) in client.list_offsets(wanted, time, 0).map_err(told)? {
            match found {
                // By name and number as one text, as in Kafka: t-10 comes before t-2.
                Ok(Some(offset)) => drop(offsets.insert(format!("{topic}-{partition}"), (topic, partition, offset))),
                Ok(None) => {}
                Err(code) => {
                    let error = super::tool::java(&ClientError::Broker(code, None));
                    eprintln!("Skip getting offsets for topic-partition {topic}-{partition} due to error: {error}");
                }
            }
        }
        let lines = offsets.values();
        match self.format {
            Format::Text => print(&lines.map(|(topic, partition, offset)| format!("{topic}:{partition}:{offset}\n")).collect::<String>()),
            Format::Json => {
                let entry = |(topic, partition, offset): &(String, i32, i64)| serde_json::json!({ "topic": topic, "partition": partition, "offset": offset });
                print(&format!("{}\n", lines.map(entry).collect::<serde_json::Value>()))
            }
        }
    }

    /// What --topic and --partitions say.
    fn rule(&self) -> Outcome<Rule> {
        let numbers = match self.partitions.as_deref().filter(|text| !text.is_empty()) {
            None => Partitions::Range(0, i32::MAX),
            Some(text) => {
                let numbers: Result<_, _> = text.split(',').map(str::parse).collect();
                let expected = "--partitions expects a comma separated list of numeric partition ids, but received: ";
                Partitions::Set(numbers.map_err(|_| Failure::Failed(format!("{expected}{text}")))?)
            }
        };
        Ok(Rule { topic: TopicPattern::new(self.topic.as_deref().unwrap_or(".*"))?, partitions: numbers })
    }
}

fn failed<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Failure::Failed(text.into()))
}

fn told(error: ClientError) -> Failure {
    Failure::Failed(error.to_string())
}

fn parse_time(text: &str) -> Outcome<i64> {
    let named = SPECIAL.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    named.or_else(|| text.parse().ok()).map_or_else(
        || {
            failed(format!(
                "Malformed time argument {text}. Please use -1 or latest / -2 or earliest / -3 or max-timestamp / -4 or earliest-local / \
                 -5 or latest-tiered / -6 or earliest-pending-upload, or a specified long format timestamp"
            ))
        },
        Ok,
    )
}

#[derive(Debug)]
enum Partitions {
    Set(BTreeSet<i32>),
    /// From the first to before the second.
    Range(i32, i32),
}

/// Topics and which of their partitions.
#[derive(Debug)]
struct Rule {
    topic: TopicPattern,
    partitions: Partitions,
}

impl Rule {
    /// TOPIC, TOPIC:N, TOPIC:N-M, TOPIC:N- or TOPIC:-M, each with or without the topic.
    fn parse(text: &str) -> Outcome<Rule> {
        let invalid = || Failure::Failed(format!("Invalid rule specification: {text}"));
        let number = |digits: &str, default| match digits {
            "" => Ok(default),
            digits if digits.bytes().all(|c| c.is_ascii_digit()) => digits.parse().map_err(|_| invalid()),
            _ => Err(invalid()),
        };
        let (topic, partitions) = text.split_once(':').unwrap_or((text, ""));
        let partitions = match partitions.split_once('-') {
            Some((low, high)) => Partitions::Range(number(low, 0)?, number(high, i32::MAX)?),
            None if partitions.is_empty() => Partitions::Range(0, i32::MAX),
            None => Partitions::Set(BTreeSet::from([number(partitions, 0)?])),
        };
        Ok(Rule { topic: TopicPattern::new(if topic.is_empty() { ".*" } else { topic })?, partitions })
    }

    fn matches(&self, topic: &str, partition: i32) -> bool {
        let number = match &self.partitions {
            Partitions::Set(numbers) => numbers.is_empty() || numbers.contains(&partition),
            Partitions::Range(low, high) => (*low..*high).contains(&partition),
        };
        number && self.topic.matches(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let partitions = |rule: &str| {
            let rule = Rule::parse(rule).unwrap();
            (0..6).filter(|partition| rule.matches("topic1", *partition)).collect::<Vec<_>>()
        };
        assert_eq!(partitions("topic1:1"), [1]);
        assert_eq!(partitions("topic.:0-3"), [0, 1, 2]);
        assert_eq!(partitions(":4-"), [4, 5]);
        assert_eq!(partitions("topic1:-2"), [0, 1]);
        assert_eq!(partitions("topic1").len(), 6);
        assert!(partitions("other").is_empty());
        for bad in ["t:a", "t:1-2-3", "t:1:2", "t:99999999999"] {
            assert!(Rule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("earliest").unwrap(), -2);
        assert_eq!((parse_time("-5").unwrap(), parse_time("1700000000000").unwrap()), (-5, 1_700_000_000_000));
        assert!(parse_time("now").is_err());
    }
}
