//! `corelane consumer-groups` (Kafka's `kafka-consumer-groups`): list, describe and delete groups, and change what they have committed.

mod check;
mod delete;
mod describe;
mod list;
mod reset;
mod table;

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

use super::tool::{Connect, Failure, Format, Outcome, client, java, print, usage};
use crate::base::error::ErrorCode;
use crate::client::admin::TopicPartition;
use crate::client::{Client, ClientError};

/// List, describe and delete consumer groups, and reset or delete their offsets
#[derive(Debug, Default, Args)]
pub struct ConsumerGroups {
    #[command(flatten)]
    connect: Connect,
    /// List all groups
    #[arg(long)]
    list: bool,
    /// Show groups: their offsets, unless --members or --state is given
    #[arg(long)]
    describe: bool,
    /// Delete groups
    #[arg(long)]
    delete: bool,
    /// Delete what a group has committed for topics
    #[arg(long)]
    delete_offsets: bool,
    /// Change what groups without members have committed: one of the --to-, --by-, --shift-by and --from-file options says to what
    #[arg(long)]
    reset_offsets: bool,
    /// Check a regular expression as groups use it, without a broker
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    validate_regex: Option<String>,
    /// The group; several of them for --describe, --delete and --reset-offsets
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// All groups
    #[arg(long)]
    all_groups: bool,
    /// A topic, all of it or some partitions
    #[arg(long = "topic", value_name = "TOPIC[:0,1,...]")]
    topics: Vec<String>,
    /// All topics that the group has committed offsets of
    #[arg(long)]
    all_topics: bool,
    /// With --describe: the members
    #[arg(long)]
    members: bool,
    /// With --describe: the offsets and how far they are behind, which is the default
    #[arg(long)]
    offsets: bool,
    /// With --describe the state; with --list the states too, or only groups in these states
    #[arg(long, value_name = "STATE,...", num_args = 0..=1, default_missing_value = "")]
    state: Option<String>,
    /// With --list: the types too, or only groups of these types (classic, consumer)
    #[arg(long = "type", value_name = "TYPE,...", num_args = 0..=1, default_missing_value = "")]
    kind: Option<String>,
    /// With --describe: more of it
    #[arg(long)]
    verbose: bool,
    /// Back to the first offset there is
    #[arg(long)]
    to_earliest: bool,
    /// To the end
    #[arg(long)]
    to_latest: bool,
    /// To what is committed; to the end where nothing is
    #[arg(long)]
    to_current: bool,
    /// To this offset
    #[arg(long, value_name = "OFFSET", allow_negative_numbers = true)]
    to_offset: Option<i64>,
    /// On or back by so many records
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// To what was written that long ago, such as P1DT2H30M
    #[arg(long, value_name = "PnDTnHnMnS", allow_hyphen_values = true)]
    by_duration: Option<String>,
    /// To what was written since then: YYYY-MM-DDThh:mm:ss.sss, in UTC or with +hh:mm behind it
    #[arg(long, value_name = "TIME")]
    to_datetime: Option<String>,
    /// To what a CSV file says: `[group,]topic,partition,offset`
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// With --reset-offsets: only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// With --reset-offsets: do it
    #[arg(long)]
    execute: bool,
    /// With --reset-offsets: print CSV as --from-file takes it
    #[arg(long)]
    export: bool,
    /// How long to wait for the brokers, ms
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    timeout: u64,
    /// How --list and --describe print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl ConsumerGroups {
    /// Does what is asked for. As with Kafka's tool, what a broker refuses is told on standard output, and the exit code stays 0.
    pub fn run(self) -> Outcome {
        if let Some(pattern) = &self.validate_regex {
            return validate(pattern);
        }
        self.check()?;
        let Some(servers) = &self.connect.bootstrap_server else { return usage("Missing required argument \"[bootstrap-server]\"") };
        let mut settings = self.connect.properties()?;
        settings.insert("default.api.timeout.ms".to_owned(), self.timeout.to_string());
        let mut client = client(servers, &settings, "corelane-consumer-groups")?;
        let client = &mut client;
        let done = if self.list {
            self.list(client)
        } else if self.describe {
            self.describe(client)
        } else if self.delete {
            self.delete(client)
        } else if self.delete_offsets {
            self.delete_offsets(client)
        } else {
            self.reset_offsets(client)
        };
        match done {
            Err(Failure::Told(text)) => print(&format!("\nError: Executing consumer group command failed due to {text}\n")),
            other => other,
        }
    }

    /// The groups that are meant.
    fn chosen(&self, client: &mut Client) -> Outcome<Vec<String>> {
        if !self.all_groups {
            let mut seen = BTreeSet::new();
            return Ok(self.groups.iter().filter(|group| seen.insert(*group)).cloned().collect());
        }
        Ok(client.list_groups(&[], &[]).map_err(told)?.into_iter().map(|group| group.id).collect())
    }
}

/// What a broker refuses is told with the exception that Java wraps; whatever else goes wrong is an error of its own.
fn told(error: ClientError) -> Failure {
    match error {
        ClientError::Broker(..) | ClientError::Unsupported(_) => Failure::Told(java(&error)),
        other => Failure::Failed(other.to_string()),
    }
}

/// As [`told`], where Java throws the exception itself.
fn told_bare(error: ClientError) -> Failure {
    match error {
        ClientError::Broker(..) => Failure::Told(error.to_string()),
        other => told(other),
    }
}

/// All partitions of the topics, each of which is a name alone or with partitions behind a colon.
fn partitions(client: &mut Client, topics: &[String]) -> Outcome<Vec<TopicPartition>> {
    let (some, whole): (Vec<_>, Vec<_>) = topics.iter().partition(|topic| topic.contains(':'));
    let mut partitions = Vec::new();
    for topic in some {
        partitions.extend(with_partitions(topic)?);
    }
    for topic in whole {
        let described = client.topics(&[topic.as_str()], false).map_err(told_bare)?;
        let Some(described) = described.first() else {
            return Err(told_bare(ClientError::Broker(ErrorCode::UnknownTopicOrPartition, None)));
        };
        partitions.extend(described.partitions.iter().map(|partition| (topic.clone(), partition.index)));
    }
    Ok(partitions)
}

/// `topic:0,1`
fn with_partitions(argument: &str) -> Outcome<Vec<TopicPartition>> {
    let parts: Vec<&str> = argument.split(':').collect();
    let [topic, partitions] = parts.as_slice() else {
        return usage(format!("Invalid topic arg '{argument}', expected topic name and partitions"));
    };
    let number = |text: &str| match text.parse() {
        Ok(partition) => Ok(((*topic).to_owned(), partition)),
        Err(_) => usage(format!("Invalid partition '{text}' specified in topic arg '{argument}''")),
    };
    partitions.split(',').map(number).collect()
}

fn validate(pattern: &str) -> Outcome {
    match regex::Regex::new(pattern) {
        Ok(_) => print(&format!("The regular expression `{pattern}` is valid.\n")),
        Err(error) => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            print(&format!("The regular expression `{pattern}` is invalid: {reason}.\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_with_partitions() {
        assert_eq!(with_partitions("t:0,12").unwrap(), [("t".to_owned(), 0), ("t".to_owned(), 12)]);
        let refused = |argument| match with_partitions(argument) {
            Err(Failure::Usage(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused("t:x"), "Invalid partition 'x' specified in topic arg 't:x''");
        assert_eq!(refused("t:0:1"), "Invalid topic arg 't:0:1', expected topic name and partitions");
    }
}
