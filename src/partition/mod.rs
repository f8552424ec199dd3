//! One partition's state on the core that leads it: deduplication, epochs, high watermark, who waits for what.

pub mod acks;
pub mod epochs;
#[cfg(test)]
mod golden_tests;
pub mod op;
pub mod producers;
pub mod waiters;

use std::collections::VecDeque;

use crate::base::error::ErrorCode;
use crate::base::ids::{LeaderEpoch, Offset, TopicId};
pub use crate::wire::batch::BatchHeader;
use acks::{AckQueue, Level};
use epochs::{Epochs, UNDEFINED};
use producers::{Before, Producers, SequenceCheck};
use waiters::{FetchWaiters, WaitId};

/// What is known of a partition before it is served: read from its files, then brought up to date by [`Recovered::replay`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// First offset that may be read.
    pub log_start: Offset,
    /// Offset of the next record.
    pub log_end: Offset,
    /// From the producer snapshot.
    pub producers: Producers,
    /// From the leader epoch checkpoint.
    pub epochs: Epochs,
}

impl Recovered {
    /// Takes in a batch of the log that lies after the snapshot; `header` as stored.
    pub fn replay(&mut self, header: &BatchHeader) {
        self.producers.apply(header, header.base_offset);
        // What the checkpoint says is taken as long as the batches agree: compaction may have taken the first ones of an epoch away. An epoch
        // that does not agree, and those behind it, were of records that the log has lost.
        if self.epochs.epoch_of(header.base_offset) != header.partition_leader_epoch {
            self.epochs.truncate_from_end(header.base_offset.saturating_add(1));
            self.epochs.assign(header.partition_leader_epoch, header.base_offset);
        }
        self.log_end = end_of(header, header.base_offset);
    }
}

/// What becomes of a batch that a client produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProduceDecision {
    /// Append it there, then call [`Partition::appended`], before the next decision.
    Append {
        /// Offset of its first record.
        base_offset: Offset,
    },
    /// It is in the log already: a success, due when the first copy is as safe as asked for, so wait for the
    /// same count of records from `base_offset` on.
    Duplicate {
        /// Where the first copy begins.
        base_offset: Offset,
        /// To be answered as append time, whatever the topic's timestamp type (as Kafka does); milliseconds.
        log_append_time: i64,
    },
    /// Refused; nothing changed.
    Reject(ErrorCode),
}

/// Where a request that wants to wait stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Waiting<T, Id = ()> {
    /// Waits; the token comes back by [`Partition::progress`] or [`Partition::fence`].
    Parked(Id),
    /// Nothing to wait for: it is so already.
    Ready(T),
    /// The partition is fenced: answer [`ErrorCode::KafkaStorageError`].
    Fenced(T),
}

/// Whom to answer or wake.
#[derive(Debug, PartialEq, Eq)]
pub struct Released<A, W> {
    /// Produce requests: acknowledged by [`Partition::progress`], failed by [`Partition::fence`].
    pub acks: Vec<A>,
    /// Fetches that should read again.
    pub waits: Vec<W>,
}

/// A batch on its way to the disk.
#[derive(Debug)]
struct Unwritten {
    end: Offset,
    bytes: usize,
    /// Its producer before it.
    before: Option<Before>,
}

/// The leader's state of one partition. `A` names a waiting produce request, `W` a waiting fetch.
///
/// The public fields are for reading: they change by the methods alone.
#[derive(Debug)]
pub struct Partition<A, W> {
    /// Topic.
    pub topic_id: TopicId,
    /// Number within the topic.
    pub index: i32,
    /// The term that this leader is in.
    pub leader_epoch: LeaderEpoch,
    /// First offset that may be read.
    pub log_start: Offset,
    /// Offset of the next record to be appended.
    pub log_end: Offset,
    /// Consumers read below it: the written part of the log, as long as there is a single replica.
    pub high_watermark: Offset,
    /// Everything below it is flushed.
    pub flushed: Offset,
    /// Idempotence state.
    pub producers: Producers,
    /// Leader epochs.
    pub epochs: Epochs,
    acks: AckQueue<A>,
    waiters: FetchWaiters<W>,
    /// The batches that are appended but not written.
    unwritten: VecDeque<Unwritten>,
    fenced: Option<String>,
}

impl<A, W> Partition<A, W> {
    /// Leads a partition whose log is written and flushed to its end; the epoch begins there.
    pub fn new(topic_id: TopicId, index: i32, leader_epoch: LeaderEpoch, recovered: Recovered) -> Self {
        let Recovered { log_start, log_end, producers, epochs } = recovered;
        let mut partition = Partition {
            topic_id,
            index,
            leader_epoch,
            log_start,
            log_end,
            high_watermark: log_end,
            flushed: log_end,
            producers,
            epochs,
            acks: AckQueue::default(),
            waiters: FetchWaiters::default(),
            unwritten: VecDeque::new(),
            fenced: None,
        };
        partition.lead(leader_epoch);
        partition
    }

    /// Goes on in a newer term, which begins at the log's end. True when the epoch checkpoint is to be written.
    pub fn lead(&mut self, leader_epoch: LeaderEpoch) -> bool {
        self.leader_epoch = leader_epoch;
        self.epochs.assign(leader_epoch, self.log_end)
    }

    /// Decides on a batch whose form was validated before. Errors besides those of [`Producers::check`]: `KafkaStorageError` when fenced.
    pub fn produce(&self, header: &BatchHeader) -> ProduceDecision {
        if self.fenced.is_some() {
            return ProduceDecision::Reject(ErrorCode::KafkaStorageError);
        }
        match self.producers.check(header) {
            Ok(SequenceCheck::Fresh) => ProduceDecision::Append { base_offset: self.log_end },
            Ok(SequenceCheck::Duplicate { base_offset, log_append_time }) => ProduceDecision::Duplicate { base_offset, log_append_time },
            Err(code) => ProduceDecision::Reject(code),
        }
    }

    /// The log has taken the batch at `base_offset`, `bytes` long; not written yet. `header` as stored, so with the timestamps of a
    /// LogAppendTime topic; its base offset and leader epoch are not looked at.
    pub fn appended(&mut self, header: &BatchHeader, base_offset: Offset, bytes: usize) {
        let before = self.producers.before(header);
        self.producers.apply(header, base_offset);
        self.log_end = end_of(header, base_offset);
        self.unwritten.push_back(Unwritten { end: self.log_end, bytes, before });
    }

    /// The log could not write the batches from `end` on and has taken them back: their producers are to be refused, and the next batch gets
    /// the offset `end`. The epoch need not change: nobody but those producers has heard of these offsets, as consumers read what is
    /// written only.
    pub fn take_back(&mut self, end: Offset) -> Released<A, W> {
        while let Some(last) = self.unwritten.pop_back_if(|last| last.end > end) {
            if let Some(before) = last.before {
                self.producers.restore(before);
            }
        }
        self.log_end = end;
        self.epochs.assign(self.leader_epoch, end);
        Released { acks: self.acks.fail_above(end).collect(), waits: Vec::new() }
    }

    /// Waits until everything below `end_offset` is written, or flushed.
    pub fn await_ack(&mut self, end_offset: Offset, level: Level, token: A) -> Waiting<A> {
        let reached = match level {
            Level::Written => self.high_watermark,
            Level::Flushed => self.flushed,
        };
        if self.fenced.is_some() {
            Waiting::Fenced(token)
        } else if end_offset <= reached {
            Waiting::Ready(token)
        } else {
            self.acks.push(end_offset, level, token);
            Waiting::Parked(())
        }
    }

    /// Waits until the high watermark is above `offset` and `need_bytes` more bytes than now are readable. The caller has read what
    /// there is and wants more; 0 means "whatever comes", and is ready at once if there is something.
    pub fn await_data(&mut self, offset: Offset, need_bytes: usize, token: W) -> Waiting<W, WaitId> {
        if self.fenced.is_some() {
            Waiting::Fenced(token)
        } else if need_bytes == 0 && offset < self.high_watermark {
            Waiting::Ready(token)
        } else {
            Waiting::Parked(self.waiters.park(offset, need_bytes, token))
        }
    }

    /// Ends a wait for data early; `None` when it was released before.
    pub fn cancel_wait(&mut self, id: WaitId) -> Option<W> {
        self.waiters.cancel(id)
    }

    /// The log has written and flushed up to there. Values may lag behind earlier ones; they never go back. Nothing happens once fenced.
    /// Fences the partition unless flushed <= written <= log end.
    pub fn progress(&mut self, written: Offset, flushed: Offset) -> Released<A, W> {
        if self.fenced.is_some() {
            return Released { acks: Vec::new(), waits: Vec::new() };
        }
        let end = self.log_end;
        if flushed > written || written > end {
            return self.fence(format!("its offsets are out of order: flushed {flushed}, written {written}, end {end}"));
        }
        self.high_watermark = self.high_watermark.max(written);
        self.flushed = self.flushed.max(flushed);
        let mut readable = 0;
        while let Some(first) = self.unwritten.pop_front_if(|first| first.end <= self.high_watermark) {
            readable += first.bytes;
        }
        let acks = self.acks.advance(self.high_watermark, self.flushed).collect();
        Released { acks, waits: self.waiters.advance(self.high_watermark, readable) }
    }

    /// Records were deleted: the log begins at `log_start` now. True when the epoch checkpoint is to be written.
    pub fn start_moved(&mut self, log_start: Offset) -> bool {
        if log_start <= self.log_start {
            return false;
        }
        self.log_start = log_start;
        self.epochs.truncate_from_start(log_start)
    }

    /// Where the log is to start for a DeleteRecords up to `offset`; -1: the high watermark. Errors: `OffsetOutOfRange` beyond that,
    /// `KafkaStorageError` when fenced.
    pub fn deletion(&self, offset: Offset) -> Result<Offset, ErrorCode> {
        let upto = if offset == -1 { self.high_watermark } else { offset };
        match () {
            () if self.fenced.is_some() => Err(ErrorCode::KafkaStorageError),
            () if !(0..=self.high_watermark).contains(&upto) => Err(ErrorCode::OffsetOutOfRange),
            () => Ok(upto.max(self.log_start)),
        }
    }

    /// Ends all produce for good, after a failed write or flush. What was readable stays so.
    pub fn fence(&mut self, reason: String) -> Released<A, W> {
        self.fenced.get_or_insert(reason);
        Released { acks: self.acks.fail_all().collect(), waits: self.waiters.release_all() }
    }

    /// Why the partition is fenced, if it is.
    pub fn fenced(&self) -> Option<&str> {
        self.fenced.as_deref()
    }

    /// Compares the epoch that a client believes in (-1: it does not say) with the leader's.
    /// Errors: `FencedLeaderEpoch` (older), `UnknownLeaderEpoch` (newer).
    pub fn check_epoch(&self, current_leader_epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        match current_leader_epoch {
            epoch if epoch < 0 || epoch == self.leader_epoch => Ok(()),
            epoch if epoch < self.leader_epoch => Err(ErrorCode::FencedLeaderEpoch),
            _ => Err(ErrorCode::UnknownLeaderEpoch),
        }
    }

    /// OffsetForLeaderEpoch: see [`Epochs::end_offset_for`].
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        self.epochs.end_offset_for(epoch, self.log_end)
    }

    /// Where a fetcher's log parts from this one, if it does: `last_fetched_epoch` (-1: it does not say) wrote the record before
    /// `fetch_offset` in its log (KIP-595). Error: `OffsetOutOfRange` when the epoch cannot be placed.
    pub fn divergence(&self, last_fetched_epoch: LeaderEpoch, fetch_offset: Offset) -> Result<Option<(LeaderEpoch, Offset)>, ErrorCode> {
        if last_fetched_epoch < 0 {
            return Ok(None);
        }
        match self.end_offset_for(last_fetched_epoch) {
            UNDEFINED => Err(ErrorCode::OffsetOutOfRange),
            (epoch, end) if epoch < last_fetched_epoch || end < fetch_offset => Ok(Some((epoch, end))),
            _ => Ok(None),
        }
    }

    /// Panics unless all invariants hold.
    pub fn check(&self) {
        assert!(0 <= self.log_start && self.log_start <= self.log_end, "start {} end {}", self.log_start, self.log_end);
        assert!(self.flushed <= self.high_watermark && self.high_watermark <= self.log_end, "{} {}", self.flushed, self.high_watermark);
        assert!(self.unwritten.iter().is_sorted_by_key(|batch| batch.end));
        assert!(self.unwritten.front().is_none_or(|batch| batch.end > self.high_watermark));
        assert!(self.unwritten.back().is_none_or(|batch| batch.end == self.log_end));
        assert_eq!(self.epochs.latest().map(|(epoch, _)| epoch), Some(self.leader_epoch));
        assert!(self.fenced.is_none() || (self.acks.is_empty() && self.waiters.is_empty()), "somebody waits for a fenced partition");
        self.acks.check_invariants(self.high_watermark, self.flushed, self.log_end);
        self.waiters.check_invariants(self.high_watermark);
        self.producers.check_invariants();
        self.epochs.check_invariants();
    }
}

fn end_of(header: &BatchHeader, base_offset: Offset) -> Offset {
    base_offset.saturating_add(i64::from(header.last_offset_delta.max(0)) + 1)
}

#[cfg(test)]
mod tests;
