//! DescribeLogDirs: what lies in each log directory, and what room there is.

use std::collections::{BTreeMap, HashSet};

use crate::base::error::ErrorCode;
use crate::partition::op::{DirSpace, ReplicaSize};
use crate::wire::codec::describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic};
use crate::wire::codec::{DescribeLogDirsRequest, DescribeLogDirsResponse};

/// What Kafka answers for a size, or a distance, that is not known.
const UNKNOWN: i64 = -1;

/// The response. A directory whose file system cannot be asked is offline: it has an error and no partitions. So has a fenced partition an
/// unknown distance to its end; one that could not be opened is not there.
pub fn respond(request: &DescribeLogDirsRequest, dirs: &[DirSpace], sizes: &[ReplicaSize]) -> DescribeLogDirsResponse {
    let asked: Option<HashSet<(&str, i32)>> = request
        .topics
        .as_ref()
        .map(|topics| topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (&*topic.topic, *partition))).collect());
    let mut response = DescribeLogDirsResponse::default();
    for dir in dirs {
        let mut result = DescribeLogDirsResult::default();
        result.log_dir = dir.shown.as_str().into();
        (result.total_bytes, result.usable_bytes) = (UNKNOWN, UNKNOWN);
        match dir.bytes {
            None => result.error_code = ErrorCode::KafkaStorageError.code(),
            Some((total, usable)) => {
                (result.total_bytes, result.usable_bytes) = (number(total), number(usable));
                let here = sizes.iter().filter(|size| size.log_dir == dir.log_dir);
                result.topics =
                    topics(here.filter(|size| asked.as_ref().is_none_or(|asked| asked.contains(&(&*size.topic, size.partition)))));
            }
        }
        response.results.push(result);
    }
    response
}

fn topics<'a>(sizes: impl Iterator<Item = &'a ReplicaSize>) -> Vec<DescribeLogDirsTopic> {
    let mut by_topic: BTreeMap<&str, Vec<&ReplicaSize>> = BTreeMap::new();
    for size in sizes {
        by_topic.entry(&size.topic).or_default().push(size);
    }
    let topic = |(name, mut sizes): (&str, Vec<&ReplicaSize>)| {
        sizes.sort_unstable_by_key(|size| size.partition);
        let mut topic = DescribeLogDirsTopic::default();
        topic.name = name.into();
        topic.partitions = sizes.into_iter().map(partition).collect();
        topic
    };
    by_topic.into_iter().map(topic).collect()
}

fn partition(size: &ReplicaSize) -> DescribeLogDirsPartition {
    let mut partition = DescribeLogDirsPartition::default();
    (partition.partition_index, partition.partition_size) = (size.partition, number(size.bytes));
    // The leader has all there is.
    partition.offset_lag = if size.fenced { UNKNOWN } else { 0 };
    partition
}

fn number(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::wire::codec::describe_log_dirs_request::DescribableLogDirTopic;
    use crate::wire::versions::ApiKey;

    #[test]
    fn directories_and_what_was_asked_for() {
        let size = |dir: &str, topic: &str, partition, bytes, fenced| ReplicaSize {
            log_dir: dir.into(),
            topic: topic.into(),
            partition,
            bytes,
            fenced,
        };
        let sizes = [size("x", "b", 1, 10, false), size("x", "b", 0, 20, true), size("y", "a", 0, 5, false), size("x", "a", 1, 7, false)];
        let dir = |log_dir: &str, bytes| DirSpace { log_dir: log_dir.into(), shown: format!("/{log_dir}"), bytes };
        let dirs = [dir("x", Some((1000, 400))), dir("y", None)];
        let shown = |response: &DescribeLogDirsResponse| {
            let one = |dir: &DescribeLogDirsResult| {
                let of = |t: &DescribeLogDirsTopic| {
                    t.partitions
                        .iter()
                        .map(|p| format!("{}-{}:{}/{}", &*t.name, p.partition_index, p.partition_size, p.offset_lag))
                        .collect()
                };
                let all: Vec<String> = dir.topics.iter().flat_map(|t| -> Vec<String> { of(t) }).collect();
                (dir.log_dir.to_string(), dir.error_code, dir.usable_bytes, all.join(" "))
            };
            response.results.iter().map(one).collect::<Vec<_>>()
        };
        let mut request = DescribeLogDirsRequest::default();
        request.topics = None;
        let all = respond(&request, &dirs, &sizes);
        assert_eq!(
            shown(&all),
            [("/x".to_owned(), 0, 400, "a-1:7/0 b-0:20/-1 b-1:10/0".to_owned()), ("/y".to_owned(), 56, -1, String::new())]
        );
        let mut topic = DescribableLogDirTopic::default();
        (topic.topic, topic.partitions) = ("b".into(), vec![1, 5]);
        request.topics = Some(vec![topic]);
        assert_eq!(shown(&respond(&request, &dirs, &sizes))[0].3, "b-1:10/0");
        in_every_version(ApiKey::DescribeLogDirs, |_| all.clone());
    }
}
