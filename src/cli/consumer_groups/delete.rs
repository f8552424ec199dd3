//! `consumer-groups --delete` and `--delete-offsets`.

use std::collections::{BTreeMap, BTreeSet};

use super::super::tool::{Outcome, java, print};
use super::table::{fixed, growing, table};
use super::{ConsumerGroups, told, with_partitions};
use crate::base::error::ErrorCode;
use crate::client::admin::TopicPartition;
use crate::client::{Client, ClientError};

impl ConsumerGroups {
    pub(super) fn delete(&self, client: &mut Client) -> Outcome {
        let (mut deleted, mut failed) = (Vec::new(), Vec::new());
        for group in self.chosen(client)? {
            match client.delete_group(&group) {
                Ok(()) => deleted.push(group),
                Err(error @ ClientError::Broker(..)) => failed.push((group, error)),
                Err(error) => return Err(told(error)),
            }
        }
        let quoted: Vec<String> = deleted.iter().map(|group| format!("'{group}'")).collect();
        if failed.is_empty() {
            return print(&format!("Deletion of requested consumer groups ({}) was successful.\n", quoted.join(", ")));
        }
        let mut text = "\nError: Deletion of some consumer groups failed:\n".to_owned();
        for (group, error) in failed {
            text += &format!("* Group '{group}' could not be deleted due to: {}\n", java(&error));
        }
        if !deleted.is_empty() {
            text += &format!("\nThese consumer groups were deleted successfully: {}\n", quoted.join(", "));
        }
        print(&text)
    }

    pub(super) fn delete_offsets(&self, client: &mut Client) -> Outcome {
        let group = self.groups.last().map(String::as_str).unwrap_or_default();
        let mut results: BTreeMap<TopicPartition, ErrorCode> = BTreeMap::new();
        let mut partitions = BTreeSet::new();
        for topic in &self.topics {
            if topic.contains(':') {
                partitions.extend(with_partitions(topic)?);
                continue;
            }
            match client.topics(&[topic.as_str()], false).map_err(told)?.first() {
                Some(found) => partitions.extend(found.partitions.iter().map(|partition| (topic.clone(), partition.index))),
                None => drop(results.insert((topic.clone(), -1), ErrorCode::UnknownTopicOrPartition)),
            }
        }
        let mut refused = None;
        match client.delete_offsets(group, &partitions) {
            Ok(answers) => results.extend(answers),
            Err(ClientError::Broker(code, _)) => {
                refused = Some(code);
                results.extend(partitions.into_iter().map(|partition| (partition, code)));
            }
            Err(error) => return Err(told(error)),
        }
        print(&offsets_text(group, refused, &results))
    }
}

/// What became of each partition; `refused` is the answer to all of it.
fn offsets_text(group: &str, refused: Option<ErrorCode>, results: &BTreeMap<TopicPartition, ErrorCode>) -> String {
    let summary = match refused {
        Some(code) => format!("\nError: {}\n", code.message()),
        None if results.values().any(|code| *code != ErrorCode::None) => {
            "\nError: Encountered some partition-level error, see the follow-up details.\n".to_owned()
        }
        None => format!("Request succeeded for deleting offsets from group {group}.\n"),
    };
    let row = |((topic, partition), code): (&TopicPartition, &ErrorCode)| {
        let status = match code {
            ErrorCode::None => "Successful".to_owned(),
            code => format!("Error: {}", java(&ClientError::Broker(*code, None))),
        };
        vec![topic.clone(), if *partition < 0 { "-".to_owned() } else { partition.to_string() }, status]
    };
    let rows: Vec<_> = results.iter().map(row).collect();
    summary + &table(&[growing("TOPIC", 15), fixed("PARTITION", 10), fixed("STATUS", 15)], &rows) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kafka 4.3.1 prints it.
    #[test]
    fn what_became_of_them() {
        let mut results = BTreeMap::from([(("gt".to_owned(), 0), ErrorCode::None)]);
        let head = "\nTOPIC           PARTITION  STATUS         \ngt              0          Successful     \n";
        assert_eq!(offsets_text("g1", None, &results), format!("Request succeeded for deleting offsets from group g1.\n{head}"));
        results.insert(("nope".to_owned(), -1), ErrorCode::UnknownTopicOrPartition);
        let row = "nope            -          Error: org.apache.kafka.common.errors.UnknownTopicOrPartitionException: This server does not host this topic-partition.\n";
        let error = "\nError: Encountered some partition-level error, see the follow-up details.\n";
        assert_eq!(offsets_text("g1", None, &results), format!("{error}{head}{row}"));
        assert!(
            offsets_text("g1", Some(ErrorCode::GroupIdNotFound), &results).starts_with("\nError: The group id does not exist.\n\nTOPIC")
        );
    }
}
