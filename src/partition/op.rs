//! What can be asked of a partition's owner, as values that cross cores, and what it answers.

use bytes::Bytes;

use super::acks::Level;
use crate::base::error::ErrorCode;
use crate::base::ids::{LeaderEpoch, Offset, TopicId};
use crate::wire::batch::{BatchHeader, Stamp};

/// A partition by the identity of its topic.
pub type Key = (TopicId, i32);

/// Append one validated batch.
#[derive(Clone, Debug)]
pub struct ProduceItem {
    /// Where to.
    pub key: Key,
    /// The parsed header of `records`, with the largest timestamp that they have, not the one that
    /// their header tells.
    pub header: BatchHeader,
    /// The batch as it was received; copied once, into the append chunk.
    pub records: Bytes,
    /// When the batch counts as done. With acks=0 nobody is told, but the broker counts what is on
    /// its way.
    pub level: Level,
    /// The topic stamps batches with the broker's clock.
    pub log_append_time: bool,
}

impl ProduceItem {
    /// The largest timestamp, if the header in `records` tells another.
    pub fn restamped(&self) -> Option<Stamp> {
        let told = BatchHeader::parse(&self.records).ok()?.max_timestamp;
        (told != self.header.max_timestamp).then_some(Stamp::Largest(self.header.max_timestamp))
    }
}

/// The answer to a [`ProduceItem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Success or why not.
    pub code: ErrorCode,
    /// Offset of the batch's first record; -1 on errors.
    pub base_offset: Offset,
    /// The broker's timestamp for LogAppendTime topics, else -1.
    pub log_append_time: i64,
    /// First offset of the log; -1 where unknown.
    pub log_start_offset: Offset,
    /// The entry of log.dirs that the partition is in; `None` where it has no replica.
    pub disk: Option<u16>,
}

impl Produced {
    /// A refusal.
    pub fn refused(code: ErrorCode) -> Produced {
        Produced { code, base_offset: -1, log_append_time: -1, log_start_offset: -1, disk: None }
    }
}

/// Read from one partition.
#[derive(Clone, Debug)]
pub struct ReadItem {
    /// Where from.
    pub key: Key,
    /// First offset wanted.
    pub offset: Offset,
    /// Upper bound in bytes; the first batch of a response is returned even if larger (KIP-74).
    pub max_bytes: usize,
    /// The leader epoch that the client knows; -1: do not check.
    pub current_leader_epoch: LeaderEpoch,
    /// Epoch of the last record that the client has; -1: do not check for divergence.
    pub last_fetched_epoch: LeaderEpoch,
}

/// The answer to a [`ReadItem`].
#[derive(Clone, Debug)]
pub struct ReadResult {
    /// Success or why not.
    pub code: ErrorCode,
    /// One past the last readable record; -1 where unknown.
    pub high_watermark: Offset,
    /// First offset of the log; -1 where unknown.
    pub log_start_offset: Offset,
    /// Whole batches, straight from the log's memory.
    pub records: Vec<Bytes>,
    /// Where the client's log went another way: the last epoch in common and its end offset (KIP-595).
    pub diverging: Option<(LeaderEpoch, Offset)>,
}

impl ReadResult {
    /// A refusal.
    pub fn refused(code: ErrorCode) -> ReadResult {
        ReadResult { code, high_watermark: -1, log_start_offset: -1, records: Vec::new(), diverging: None }
    }

    /// Bytes of records.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// Find an offset.
#[derive(Clone, Debug)]
pub struct OffsetItem {
    /// Where.
    pub key: Key,
    /// The leader epoch that the client knows; -1: do not check.
    pub current_leader_epoch: LeaderEpoch,
    /// Milliseconds, or one of ListOffsets' negative special values.
    pub timestamp: i64,
}

/// The answer to an [`OffsetItem`]: -1 in a field that does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetResult {
    /// Success or why not.
    pub code: ErrorCode,
    /// The offset found.
    pub offset: Offset,
    /// The timestamp of the record found.
    pub timestamp: i64,
    /// The leader epoch of the offset found.
    pub leader_epoch: LeaderEpoch,
}

/// Delete records from the front.
#[derive(Clone, Debug)]
pub struct DeletionItem {
    /// Where.
    pub key: Key,
    /// The first offset to stay; -1: the high watermark.
    pub offset: Offset,
}

/// The answer to a [`DeletionItem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletionResult {
    /// Success or why not.
    pub code: ErrorCode,
    /// Where the log starts now; -1 on errors.
    pub low_watermark: Offset,
}

/// What one replica occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSize {
    /// The entry of log.dirs that it lies in.
    pub log_dir: String,
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Bytes of record batches.
    pub bytes: u64,
    /// A write or flush has failed: it is not served.
    pub fenced: bool,
}

/// One entry of log.dirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirSpace {
    /// Its path, as configured.
    pub log_dir: String,
    /// Its path from the root.
    pub shown: String,
    /// Bytes of its file system, all of them and those still to be had; `None` when it cannot be asked.
    pub bytes: Option<(u64, u64)>,
}

/// Ask where an epoch ends.
#[derive(Clone, Debug)]
pub struct EpochItem {
    /// Where.
    pub key: Key,
    /// The leader epoch that the client knows; -1: do not check.
    pub current_leader_epoch: LeaderEpoch,
    /// The epoch in question.
    pub epoch: LeaderEpoch,
}

/// The answer to an [`EpochItem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochResult {
    /// Success or why not.
    pub code: ErrorCode,
    /// The largest epoch not above the one asked for; -1 when there is none.
    pub epoch: LeaderEpoch,
    /// Its end offset; -1 when there is none.
    pub end_offset: Offset,
}
