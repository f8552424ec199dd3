//! `corelane topics` (Kafka's `kafka-topics`): create, list, describe, alter and delete topics.

mod check;
mod describe;

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use super::tool::{Connect, Failure, Format, Outcome, TopicPattern, print};
use crate::base::error::ErrorCode;
use crate::base::ids::{BrokerId, Uuid};
use crate::client::admin::{MorePartitions, NewTopic, Resource, TopicDescription};
use crate::client::{Client, ClientError};

/// Partitions in one response of a describe, unless something else is asked for.
const PAGE: i32 = 2000;

/// Create, list, describe, alter or delete topics
#[derive(Debug, Default, Args)]
pub struct Topics {
    #[command(flatten)]
    connect: Connect,
    /// List all topics
    #[arg(long)]
    list: bool,
    /// Create a topic
    #[arg(long)]
    create: bool,
    /// Delete topics
    #[arg(long)]
    delete: bool,
    /// Change the number of partitions (settings: see configs)
    #[arg(long)]
    alter: bool,
    /// Show topics with their partitions
    #[arg(long)]
    describe: bool,
    /// The topic; but for --create a regular expression
    #[arg(long)]
    topic: Option<String>,
    /// The id of a topic to describe
    #[arg(long, allow_hyphen_values = true)]
    topic_id: Option<String>,
    /// How many partitions the topic is to have; without it the broker's default
    #[arg(long, allow_negative_numbers = true)]
    partitions: Option<i32>,
    /// How many replicas each partition is to have; without it the broker's default
    #[arg(long, allow_negative_numbers = true)]
    replication_factor: Option<i32>,
    /// Brokers of each partition: those of the first partition joined by colons, a comma, those of the second
    #[arg(long, value_name = "1:2,1:2,...")]
    replica_assignment: Option<String>,
    /// A setting for the new topic
    #[arg(long = "config", value_name = "NAME=VALUE")]
    configs: Vec<String>,
    /// Not supported any more; see configs
    #[arg(long, hide = true)]
    delete_config: Option<String>,
    /// Do nothing if the topic is not there
    #[arg(long)]
    if_exists: bool,
    /// Do nothing if the topic is there already
    #[arg(long)]
    if_not_exists: bool,
    /// Leave out the broker's own topics
    #[arg(long)]
    exclude_internal: bool,
    /// Of the partitions show those whose replicas are not all in sync
    #[arg(long)]
    under_replicated_partitions: bool,
    /// Of the partitions show those without a leader that is up
    #[arg(long)]
    unavailable_partitions: bool,
    /// Of the partitions show those with fewer replicas in sync than min.insync.replicas
    #[arg(long)]
    under_min_isr_partitions: bool,
    /// Of the partitions show those with exactly min.insync.replicas in sync
    #[arg(long)]
    at_min_isr_partitions: bool,
    /// Show only topics with settings of their own
    #[arg(long)]
    topics_with_overrides: bool,
    /// How many partitions one response of the broker may hold
    #[arg(long)]
    partition_size_limit_per_response: Option<i32>,
    /// How --list and --describe print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Topics {
    /// Does what is asked for.
    pub fn run(self) -> Outcome {
        self.check()?;
        let mut client = self.connect.client("corelane-topics")?;
        let client = &mut client;
        let done = if self.create {
            self.create(client)
        } else if self.alter {
            self.alter(client)
        } else if self.list {
            self.list(client)
        } else if self.describe {
            self.describe(client)
        } else {
            self.delete(client)
        };
        done.map_err(|failure| match failure {
            Failure::Failed(text) => Failure::Told(format!("Error while executing topic command : {text}")),
            other => other,
        })
    }

    fn create(&self, client: &mut Client) -> Outcome {
        let name = self.topic.clone().unwrap_or_default();
        let assignment = self.assignment()?;
        let configs = parse_configs(&self.configs)?;
        if name.contains(['.', '_']) {
            print(
                "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore ('_') could collide. To avoid \
                 issues it is best to use either, but not both.\n",
            )?;
        }
        let replication_factor = match self.replication_factor.map(i16::try_from) {
            None => None,
            Some(Ok(factor)) if factor >= 1 => Some(factor),
            Some(_) => return failed(format!("The replication factor must be between 1 and {} inclusive", i16::MAX)),
        };
        if self.partitions.is_some_and(|partitions| partitions < 1) {
            return failed("The partitions must be greater than 0");
        }
        let topic = NewTopic { name, partitions: self.partitions, replication_factor, assignment, configs };
        match client.create_topic(&topic) {
            Ok(()) => print(&format!("Created topic {}.\n", topic.name)),
            Err(error) if self.if_not_exists && error.code() == Some(ErrorCode::TopicAlreadyExists) => Ok(()),
            Err(error) => failed(error.to_string()),
        }
    }

    fn alter(&self, client: &mut Client) -> Outcome {
        let assignment = self.assignment()?;
        let names = self.matching(client)?;
        self.must_exist(!names.is_empty())?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let count = self.partitions.unwrap_or_default();
        let mut changes = Vec::new();
        for name in names {
            let rest = match assignment.as_slice() {
                [] => None,
                given => {
                    let present = client.topics(&[name], false).map_err(told)?.first().map_or(0, |topic| topic.partitions.len());
                    Some(given.get(present..).unwrap_or_default().to_vec())
                }
            };
            changes.push(MorePartitions { name, count, assignment: rest });
        }
        if changes.is_empty() { Ok(()) } else { client.create_partitions(&changes).map_err(told) }
    }

    fn list(&self, client: &mut Client) -> Outcome {
        let names = self.matching(client)?;
        match self.format {
            Format::Text => print(&(names.join("\n") + "\n")),
            Format::Json => print(&format!("{}\n", serde_json::json!(names))),
        }
    }

    fn describe(&self, client: &mut Client) -> Outcome {
        let mut topics = match self.wanted_id()? {
            Some(id) => self.by_id(client, id)?,
            None => {
                let names = self.matching(client)?;
                self.must_exist(!names.is_empty())?;
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let page = self.partition_size_limit_per_response.unwrap_or(PAGE);
                if names.is_empty() { Vec::new() } else { client.describe_topics(&names, page).map_err(told)? }
            }
        };
        let names: Vec<&str> = topics.iter().map(|topic| topic.topic.name.as_str()).collect();
        let configs: BTreeMap<_, _> = match names.as_slice() {
            [] => BTreeMap::new(),
            names => client.describe_configs(Resource::Topic, names, false).map_err(told)?.into_iter().collect(),
        };
        let live: BTreeSet<BrokerId> = client.live_brokers().map_err(told)?.into_iter().collect();
        if !topics.is_empty() {
            client.add_reassignments(&mut topics).map_err(told)?;
        }
        let view = describe::View { live: &live, configs: &configs, filter: self.filter(), overridden: self.topics_with_overrides };
        match self.format {
            Format::Text => print(&describe::text(&topics, &view)),
            Format::Json => print(&format!("{}\n", describe::json(&topics, &view))),
        }
    }

    fn delete(&self, client: &mut Client) -> Outcome {
        let names = self.matching(client)?;
        self.must_exist(!names.is_empty())?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if names.is_empty() { Ok(()) } else { client.delete_topics(&names).map_err(told) }
    }

    /// The names of the topics that are meant.
    fn matching(&self, client: &mut Client) -> Outcome<Vec<String>> {
        let pattern = self.topic.as_deref().map(TopicPattern::new).transpose()?;
        let topics = client.list_topics().map_err(told)?;
        let meant = topics.into_iter().filter(|topic| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(&topic.name)) && !(topic.internal && self.exclude_internal)
        });
        Ok(meant.map(|topic| topic.name).collect())
    }

    fn must_exist(&self, exists: bool) -> Outcome {
        match self.topic.as_deref() {
            Some(topic) if !topic.is_empty() && !exists && !self.if_exists => failed(format!("Topic '{topic}' does not exist as expected")),
            _ => Ok(()),
        }
    }

    /// The id to describe by; the zero id is none.
    fn wanted_id(&self) -> Outcome<Option<Uuid>> {
        let Some(text) = &self.topic_id else { return Ok(None) };
        match text.parse::<Uuid>() {
            Ok(id) => Ok(Some(id).filter(|id| !id.is_zero())),
            Err(error) => failed(format!("{text}: {error}")),
        }
    }

    fn by_id(&self, client: &mut Client, id: Uuid) -> Outcome<Vec<TopicDescription>> {
        let found = client.list_topics().map_err(told)?.into_iter().find(|topic| topic.id == id);
        match found.filter(|topic| !(topic.internal && self.exclude_internal)) {
            Some(topic) => client.topics(&[&topic.name], false).map_err(told),
            None if self.if_exists => Ok(Vec::new()),
            None => failed(format!("TopicId '{id}' does not exist as expected")),
        }
    }

    fn assignment(&self) -> Outcome<Vec<Vec<BrokerId>>> {
        self.replica_assignment.as_deref().filter(|text| !text.is_empty()).map_or(Ok(Vec::new()), parse_assignment)
    }

    fn filter(&self) -> describe::Filter {
        describe::Filter {
            under_replicated: self.under_replicated_partitions,
            unavailable: self.unavailable_partitions,
            under_min_isr: self.under_min_isr_partitions,
            at_min_isr: self.at_min_isr_partitions,
        }
    }
}

fn failed<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Failure::Failed(text.into()))
}

fn told(error: ClientError) -> Failure {
    Failure::Failed(error.to_string())
}

/// `key=value` settings.
fn parse_configs(given: &[String]) -> Outcome<BTreeMap<String, String>> {
    let mut configs = BTreeMap::new();
    for config in given {
        match config.split('=').map(str::trim).collect::<Vec<_>>().as_slice() {
            [name, value] if !value.is_empty() => configs.insert((*name).to_owned(), (*value).to_owned()),
            _ => {
                return failed("requirement failed: Invalid topic config: all configs to be added must be in the format \"key=val\".");
            }
        };
    }
    Ok(configs)
}

/// Brokers of each partition, as `1:2,2:1`.
fn parse_assignment(text: &str) -> Outcome<Vec<Vec<BrokerId>>> {
    let mut assignment: Vec<Vec<BrokerId>> = Vec::new();
    for (index, list) in text.split(',').enumerate() {
        let mut brokers = Vec::new();
        for id in list.split(':') {
            match id.trim().parse() {
                Ok(id) => brokers.push(id),
                Err(_) => return failed(format!("For input string: \"{}\"", id.trim())),
            }
        }
        let distinct: BTreeSet<_> = brokers.iter().collect();
        if distinct.len() < brokers.len() {
            let twice: BTreeSet<_> = brokers.iter().filter(|id| brokers.iter().filter(|other| other == id).count() > 1).collect();
            let twice: Vec<String> = twice.into_iter().map(ToString::to_string).collect();
            return failed(format!("Partition replica lists may not contain duplicate entries: {}", twice.join(",")));
        }
        if assignment.first().is_some_and(|first| first.len() != brokers.len()) {
            return failed(format!("Partition {index} has different replication factor: {brokers:?}"));
        }
        assignment.push(brokers);
    }
    Ok(assignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: std::fmt::Debug>(outcome: Outcome<T>) -> String {
        match outcome.unwrap_err() {
            Failure::Failed(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn assignments() {
        assert_eq!(parse_assignment("1:2, 2:1").unwrap(), [[1, 2], [2, 1]]);
        assert_eq!(text(parse_assignment("1,1:2")), "Partition 1 has different replication factor: [1, 2]");
        assert_eq!(text(parse_assignment("1:1")), "Partition replica lists may not contain duplicate entries: 1");
        assert_eq!(text(parse_assignment("x")), "For input string: \"x\"");
    }

    #[test]
    fn settings() {
        let given = |texts: &[&str]| parse_configs(&texts.iter().map(|text| text.to_string()).collect::<Vec<_>>());
        assert_eq!(given(&["a = b", "c=d"]).unwrap(), BTreeMap::from([("a".into(), "b".into()), ("c".into(), "d".into())]));
        for bad in ["a", "a=", "a=b=c"] {
            assert!(text(given(&[bad])).ends_with("must be in the format \"key=val\"."), "{bad}");
        }
    }
}
