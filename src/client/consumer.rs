//! Reading partitions: positions, fetches, what to do where an offset is not there.

use std::collections::{BTreeMap, BTreeSet};

use super::admin::{TopicPartition, by_topic};
use super::records::{Received, decode};
use super::{Client, ClientError};
use crate::base::error::ErrorCode;
use crate::base::ids::{BrokerId, Offset};
use crate::wire::codec::{FetchRequest, FetchResponse, fetch_request, fetch_response};

/// ListOffsets' name for the end.
pub const LATEST: i64 = -1;
/// ListOffsets' name for the beginning.
pub const EARLIEST: i64 = -2;

/// How records are to be read.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// Whether records of open and aborted transactions are left out.
    pub read_committed: bool,
    /// Where to go on from an offset that is not there: [`EARLIEST`], [`LATEST`], or nowhere.
    pub reset: Option<i64>,
    /// Least bytes of an answer, unless its time is over.
    pub min_bytes: i32,
    /// Most bytes of an answer.
    pub max_bytes: i32,
    /// Most bytes of one partition in an answer.
    pub partition_bytes: i32,
}

/// Records of one partition that came together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where from.
    pub partition: TopicPartition,
    /// In order.
    pub records: Vec<Received>,
    /// The offset after them.
    pub next: Offset,
}

/// A set of partitions that are read.
#[derive(Debug)]
pub struct Fetcher {
    config: FetchConfig,
    positions: BTreeMap<TopicPartition, Offset>,
    leaders: BTreeMap<TopicPartition, BrokerId>,
}

impl Fetcher {
    /// Reads nothing yet.
    pub fn new(config: FetchConfig) -> Fetcher {
        Fetcher { config, positions: BTreeMap::new(), leaders: BTreeMap::new() }
    }

    /// Reads these partitions from now on, and no others: from the offset given, or from where the configuration says.
    pub fn assign(&mut self, client: &mut Client, partitions: BTreeMap<TopicPartition, Option<Offset>>) -> Result<(), ClientError> {
        self.positions.clear();
        self.leaders.clear();
        let mut unknown = BTreeSet::new();
        for (partition, offset) in partitions {
            match offset {
                Some(offset) => drop(self.positions.insert(partition, offset)),
                None => drop(unknown.insert(partition)),
            }
        }
        self.reset(client, unknown)
    }

    /// The offsets to read next.
    pub fn positions(&self) -> &BTreeMap<TopicPartition, Offset> {
        &self.positions
    }

    fn reset(&mut self, client: &mut Client, partitions: BTreeSet<TopicPartition>) -> Result<(), ClientError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let Some(to) = self.config.reset else {
            let names: Vec<String> = partitions.iter().map(|(topic, index)| format!("{topic}-{index}")).collect();
            let text = format!("Undefined offset with no reset policy for partitions: [{}]", names.join(", "));
            return Err(ClientError::Broker(ErrorCode::OffsetOutOfRange, Some(text)));
        };
        for (partition, found) in client.list_offsets(partitions, to, self.config.read_committed.into())? {
            let offset = found.map_err(|code| ClientError::Broker(code, None))?;
            self.positions.insert(partition, offset.unwrap_or(0));
        }
        Ok(())
    }

    /// Asks for what comes next, and waits for it `max_wait_ms` at most. An empty answer means that there was nothing.
    pub fn poll(&mut self, client: &mut Client, max_wait_ms: i32) -> Result<Vec<Chunk>, ClientError> {
        if self.leaders.len() < self.positions.len() {
            self.leaders = client.leaders(&self.positions.keys().cloned().collect())?;
        }
        let mut by_leader: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
        for partition in self.positions.keys() {
            if let Some(leader) = self.leaders.get(partition) {
                by_leader.entry(*leader).or_default().push(partition.clone());
            }
        }
        if by_leader.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(max_wait_ms.clamp(1, 100) as u64));
            return Ok(Vec::new());
        }
        let share = max_wait_ms / by_leader.len() as i32;
        let mut chunks = Vec::new();
        for (leader, partitions) in by_leader {
            let request = self.request(&partitions, share);
            match client.ask_node(leader, &request) {
                Ok(response) => self.take(client, response, &mut chunks)?,
                // The leader may be another by now.
                Err(ClientError::Lost(..) | ClientError::Unreachable(..)) => {
                    self.leaders.clear();
                    client.metadata(Some(&[]), false)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(chunks)
    }

    fn request(&self, partitions: &[TopicPartition], max_wait_ms: i32) -> FetchRequest {
        let mut request = FetchRequest::default();
        (request.replica_id, request.session_id, request.session_epoch) = (-1, 0, -1);
        (request.max_wait_ms, request.min_bytes, request.max_bytes) = (max_wait_ms, self.config.min_bytes, self.config.max_bytes);
        request.isolation_level = self.config.read_committed.into();
        let of_partition = |read: &TopicPartition| {
            let mut partition = fetch_request::FetchPartition::default();
            (partition.partition, partition.fetch_offset) = (read.1, self.positions[read]);
            (partition.current_leader_epoch, partition.last_fetched_epoch, partition.log_start_offset) = (-1, -1, -1);
            partition.partition_max_bytes = self.config.partition_bytes;
            partition
        };
        request.topics = by_topic(partitions, of_partition, |topic, partitions| {
            let mut entry = fetch_request::FetchTopic::default();
            (entry.topic, entry.partitions) = (topic.into(), partitions);
            entry
        });
        request
    }

    fn take(&mut self, client: &mut Client, response: FetchResponse, chunks: &mut Vec<Chunk>) -> Result<(), ClientError> {
        ClientError::check(response.error_code, None)?;
        let mut out_of_range = BTreeSet::new();
        for topic in response.responses {
            for data in topic.partitions {
                let partition = (topic.topic.as_str().to_owned(), data.partition_index);
                match ErrorCode::from_code(data.error_code) {
                    ErrorCode::None => chunks.extend(self.chunk(partition, data)?),
                    ErrorCode::OffsetOutOfRange => drop(out_of_range.insert(partition)),
                    ErrorCode::UnknownTopicOrPartition | ErrorCode::KafkaStorageError => drop(self.leaders.remove(&partition)),
                    code if ClientError::Broker(code, None).is_retriable() => drop(self.leaders.remove(&partition)),
                    code => return Err(ClientError::Broker(code, None)),
                }
            }
        }
        self.reset(client, out_of_range)
    }

    /// Decodes what came of a partition and moves its position.
    fn chunk(&mut self, partition: TopicPartition, data: fetch_response::PartitionData) -> Result<Option<Chunk>, ClientError> {
        let Some(position) = self.positions.get_mut(&partition) else { return Ok(None) };
        let bytes = data.records.unwrap_or_default();
        let aborted: Vec<_> = data.aborted_transactions.iter().flatten().map(|entry| (entry.producer_id, entry.first_offset)).collect();
        let (records, next) = decode(&bytes, *position, &aborted)
            .map_err(|text| ClientError::Broker(ErrorCode::CorruptMessage, Some(format!("{}-{}: {text}", partition.0, partition.1))))?;
        if next == *position {
            return Ok(None);
        }
        *position = next;
        Ok(Some(Chunk { partition, records, next }))
    }
}
