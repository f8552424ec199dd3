//! What a partition remembers of its idempotent producers, and Kafka's file form of it.

use std::collections::BTreeMap;

use crate::base::error::ErrorCode;
use crate::base::ids::{Offset, ProducerId};
use crate::base::limits::DUPLICATE_WINDOW;
use crate::wire::batch::BatchHeader;
use crate::wire::producer_snapshot::{self, Entry, SnapshotError};

/// Producers that one partition remembers at most (about 0.7 MB). Over it the longest silent ones are forgotten, which costs them
/// only the recognition of a repeat: a producer without state may begin at any sequence.
pub const PRODUCERS_MAX: usize = 4096;
/// How many are forgotten together, so that a flood of new producers pays for one search per this many.
const EVICTED_TOGETHER: usize = PRODUCERS_MAX / 8;

const NO_SEQUENCE: i32 = -1;
const NO_OFFSET: Offset = -1;
const NO_TIMESTAMP: i64 = -1;
const NO_COORDINATOR: i32 = -1;

/// Whether a batch is new to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// To be appended.
    Fresh,
    /// An exact repeat of one of the producer's last five batches: answered as a success, not appended.
    Duplicate {
        /// Where the first copy begins. The repeat has the same count of records, so it ends at the same distance.
        base_offset: Offset,
        /// Largest timestamp of the first copy; Kafka answers it as the append time whatever the topic's timestamp type.
        log_append_time: i64,
    },
}

/// A batch in the duplicate window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    last_offset: Offset,
    timestamp: i64,
    last_sequence: i32,
    /// Last minus first offset, and last minus first sequence.
    delta: i32,
}

impl Seen {
    fn first_sequence(&self) -> i32 {
        self.last_sequence.wrapping_sub(self.delta) & i32::MAX
    }

    fn first_offset(&self) -> Offset {
        self.last_offset.saturating_sub(self.delta.into())
    }
}

/// The last batches of a producer, oldest first. In place: most producers are looked up on every batch that they send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    seen: [Seen; DUPLICATE_WINDOW],
    len: usize,
}

impl Window {
    fn batches(&self) -> &[Seen] {
        &self.seen[..self.len]
    }

    fn last(&self) -> Option<&Seen> {
        self.batches().last()
    }

    fn push(&mut self, batch: Seen) {
        if self.len == DUPLICATE_WINDOW {
            self.seen.rotate_left(1);
        } else {
            self.len += 1;
        }
        self.seen[self.len - 1] = batch;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    window: Window,
    /// Of the last batch or transaction marker.
    timestamp: i64,
    /// Not in a batch header: only carried from snapshot to snapshot.
    coordinator_epoch: i32,
    /// Where its open transaction begins, or -1.
    open_transaction: Offset,
}

impl Producer {
    /// Takes over the earlier batches of the same producer; `None` when they are not earlier.
    fn follow(&mut self, earlier: Producer) -> Option<()> {
        let (last, before) = (*self.window.last()?, earlier.window.last()?.last_offset);
        if earlier.epoch != self.epoch || before >= last.last_offset {
            return None;
        }
        self.window = earlier.window;
        self.window.push(last);
        Some(())
    }

    fn new(epoch: i16) -> Producer {
        Producer {
            epoch,
            window: Window::default(),
            timestamp: NO_TIMESTAMP,
            coordinator_epoch: NO_COORDINATOR,
            open_transaction: NO_OFFSET,
        }
    }

    fn last_sequence(&self) -> i32 {
        self.window.last().map_or(NO_SEQUENCE, |b| b.last_sequence)
    }

    fn last_offset(&self) -> Offset {
        self.window.last().map_or(NO_OFFSET, |b| b.last_offset)
    }

    fn follows(&self, first_sequence: i32) -> bool {
        first_sequence == next_sequence(self.last_sequence())
    }
}

/// After `i32::MAX` comes 0, and 0 follows "none" too.
fn next_sequence(sequence: i32) -> i32 {
    sequence.wrapping_add(1) & i32::MAX
}

fn last_sequence(header: &BatchHeader) -> i32 {
    if header.base_sequence < 0 { NO_SEQUENCE } else { header.base_sequence.wrapping_add(header.last_offset_delta) & i32::MAX }
}

#[derive(Clone, Copy, Debug)]
enum LastRecord {
    /// The last offset of the last batch with data.
    Data(Offset),
    /// The epoch of one that has written nothing but transaction markers.
    Marker(i16),
}

/// Where the log tells the last sequence number of each producer, at one time.
#[derive(Clone, Debug, Default)]
pub struct LastRecords(BTreeMap<ProducerId, LastRecord>);

impl LastRecords {
    /// Whether the header of this batch, which is in the log, has to stay.
    pub fn hold(&self, header: &BatchHeader) -> bool {
        self.0.get(&header.producer_id).is_some_and(|last| match *last {
            LastRecord::Data(offset) => offset == header.last_offset(),
            LastRecord::Marker(epoch) => header.is_control() && header.producer_epoch == epoch,
        })
    }
}

/// A producer as it was before a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before(ProducerId, Option<Producer>);

/// The idempotence state of one partition: Kafka's `ProducerStateManager`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
}

impl Producers {
    /// Producers remembered.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// True when no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Start of the oldest open transaction: what `read_committed` may not read past.
    pub fn first_open_transaction(&self) -> Option<Offset> {
        self.by_id.values().map(|p| p.open_transaction).filter(|offset| *offset != NO_OFFSET).min()
    }

    /// What the log must still tell of each producer after a compaction.
    pub fn last_records(&self) -> LastRecords {
        let last = |producer: &Producer| match producer.window.last() {
            Some(batch) => LastRecord::Data(batch.last_offset),
            None => LastRecord::Marker(producer.epoch),
        };
        LastRecords(self.by_id.iter().map(|(id, producer)| (*id, last(producer))).collect())
    }

    /// Judges a client's batch as Kafka does. A batch without producer id is always fresh.
    ///
    /// Errors: `InvalidRecord` (producer id without a sequence), `InvalidProducerEpoch` (older than the known one),
    /// `OutOfOrderSequenceNumber` (neither the next batch nor an exact repeat; or a new epoch that does not begin at 0),
    /// `InvalidTxnState` (no transactional batch while the producer's transaction is open).
    pub fn check(&self, header: &BatchHeader) -> Result<SequenceCheck, ErrorCode> {
        if header.producer_id < 0 {
            return Ok(SequenceCheck::Fresh);
        }
        if header.base_sequence < 0 || header.producer_epoch < 0 {
            return Err(ErrorCode::InvalidRecord);
        }
        let Some(producer) = self.by_id.get(&header.producer_id) else {
            return Ok(SequenceCheck::Fresh);
        };
        if header.producer_epoch < producer.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if header.producer_epoch > producer.epoch {
            if header.base_sequence != 0 {
                return Err(ErrorCode::OutOfOrderSequenceNumber);
            }
        } else if let Some(seen) = find_repeat(producer, header) {
            return Ok(SequenceCheck::Duplicate { base_offset: seen.first_offset(), log_append_time: seen.timestamp });
        } else if !producer.follows(header.base_sequence) {
            return Err(ErrorCode::OutOfOrderSequenceNumber);
        }
        if producer.open_transaction != NO_OFFSET && !header.is_transactional() {
            return Err(ErrorCode::InvalidTxnState);
        }
        Ok(SequenceCheck::Fresh)
    }

    /// Records a batch that is in the log at `base_offset`; the header's other fields are as stored (a LogAppendTime topic's
    /// timestamps included, else a replay would differ). The only mutator, live and at replay, so it refuses nothing.
    pub fn apply(&mut self, header: &BatchHeader, base_offset: Offset) {
        if header.producer_id < 0 || header.producer_epoch < 0 {
            return;
        }
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&header.producer_id) {
            self.forget_longest_silent();
        }
        let producer = self.by_id.entry(header.producer_id).or_insert_with(|| Producer::new(header.producer_epoch));
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.window = Window::default();
        }
        producer.timestamp = header.max_timestamp;
        if header.is_control() {
            producer.open_transaction = NO_OFFSET;
            return;
        }
        // A hole in the sequence means that the producer was forgotten meanwhile, or its earlier batches compacted away.
        // The window must not span it: it might then hold the same sequence twice.
        if header.base_sequence < 0 || !producer.follows(header.base_sequence) {
            producer.window = Window::default();
        }
        let delta = header.last_offset_delta.max(0);
        producer.window.push(Seen {
            last_offset: base_offset.saturating_add(delta.into()),
            timestamp: header.max_timestamp,
            last_sequence: last_sequence(header),
            delta,
        });
        if header.is_transactional() && producer.open_transaction == NO_OFFSET {
            producer.open_transaction = base_offset;
        }
    }

    /// What there is to put back should this batch, which is about to be applied, be taken back; `None` when it says nothing of a producer.
    pub fn before(&self, header: &BatchHeader) -> Option<Before> {
        let counts = header.producer_id >= 0 && header.producer_epoch >= 0;
        counts.then(|| Before(header.producer_id, self.by_id.get(&header.producer_id).cloned()))
    }

    /// Takes batches back, the last one first. Producers that were forgotten in favour of others stay forgotten. One that had only just
    /// begun, at sequence 0, has to begin there again: the batches that it has sent behind the first one must not take its place.
    pub fn restore(&mut self, Before(id, producer): Before) {
        let Some(present) = self.by_id.get(&id) else { return };
        match producer {
            Some(producer) => {
                self.by_id.insert(id, producer);
            }
            None if present.window.batches().first().is_some_and(|first| first.first_sequence() == 0) => {
                let begins = Producer { timestamp: present.timestamp, ..Producer::new(present.epoch) };
                self.by_id.insert(id, begins);
            }
            None => {
                self.by_id.remove(&id);
            }
        }
    }

    /// Forgets producers whose last batch is stamped `after_ms` (`producer.id.expiration.ms`) or longer before `now_ms` and that have
    /// no transaction open.
    pub fn expire(&mut self, now_ms: i64, after_ms: i64) {
        self.by_id.retain(|_, p| p.open_transaction != NO_OFFSET || now_ms.saturating_sub(p.timestamp) < after_ms);
    }

    /// By log position, never by time or access, so that a replay forgets the same ones. Those with a transaction open go last.
    fn forget_longest_silent(&mut self) {
        let age = |p: &Producer| (p.open_transaction != NO_OFFSET, p.last_offset());
        let mut ages: Vec<_> = self.by_id.iter().map(|(id, p)| (age(p), *id)).collect();
        ages.select_nth_unstable(EVICTED_TOGETHER);
        for (_, id) in &ages[..EVICTED_TOGETHER] {
            self.by_id.remove(id);
        }
    }

    /// Panics unless the invariants hold: bounded, and each window a contiguous run of sequences at rising offsets.
    pub fn check_invariants(&self) {
        assert!(self.by_id.len() <= PRODUCERS_MAX, "{} producers", self.by_id.len());
        for (id, producer) in &self.by_id {
            assert!(*id >= 0 && producer.epoch >= 0, "producer {id} epoch {}", producer.epoch);
            for batch in producer.window.batches() {
                assert!(batch.delta >= 0 && batch.last_offset >= batch.delta.into(), "producer {id}: {batch:?}");
            }
            for pair in producer.window.batches().windows(2) {
                assert!(pair[0].last_offset < pair[1].first_offset(), "producer {id}: offsets of {pair:?}");
                assert_eq!(next_sequence(pair[0].last_sequence), pair[1].first_sequence(), "producer {id}: sequences of {pair:?}");
            }
        }
    }
}

fn find_repeat<'a>(producer: &'a Producer, header: &BatchHeader) -> Option<&'a Seen> {
    let last = last_sequence(header);
    producer.window.batches().iter().find(|seen| seen.last_sequence == last && seen.delta == header.last_offset_delta)
}

impl Producers {
    /// The content of a `.snapshot` file in Kafka's format. Kafka writes the last batch of each producer only, and so takes a repeat of
    /// an earlier one for a gap after a restart. We write an entry for each batch of the window, oldest first: Kafka keeps the last one that
    /// it reads of a producer, [`Producers::decode_snapshot`] all of them.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut entries = Vec::with_capacity(self.by_id.len());
        for (&producer_id, producer) in &self.by_id {
            let last = Entry {
                producer_id,
                epoch: producer.epoch,
                last_sequence: producer.last_sequence(),
                last_offset: producer.last_offset(),
                offset_delta: producer.window.last().map_or(0, |b| b.delta),
                timestamp: producer.timestamp,
                coordinator_epoch: producer.coordinator_epoch,
                transaction_first_offset: producer.open_transaction,
            };
            if let Some((_, earlier)) = producer.window.batches().split_last() {
                entries.extend(earlier.iter().map(|b| Entry {
                    last_sequence: b.last_sequence,
                    last_offset: b.last_offset,
                    offset_delta: b.delta,
                    timestamp: b.timestamp,
                    ..last
                }));
            }
            entries.push(last);
        }
        producer_snapshot::encode(entries.into_iter())
    }

    /// Reads a `.snapshot` file, Kafka's or ours. At most [`PRODUCERS_MAX`] producers are kept.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Producers, SnapshotError> {
        let mut producers = Producers::default();
        for (index, entry) in producer_snapshot::decode(bytes)?.enumerate() {
            let mut producer = restore(&entry).ok_or(SnapshotError::Entry(index))?;
            if let Some(earlier) = producers.by_id.remove(&entry.producer_id) {
                producer.follow(earlier).ok_or(SnapshotError::Entry(index))?;
            }
            producers.by_id.insert(entry.producer_id, producer);
            if producers.by_id.len() > PRODUCERS_MAX {
                producers.forget_longest_silent();
            }
        }
        Ok(producers)
    }
}

fn restore(entry: &Entry) -> Option<Producer> {
    let Entry { last_sequence, last_offset, offset_delta: delta, timestamp, .. } = *entry;
    let sane = entry.producer_id >= 0 && entry.epoch >= 0 && last_sequence >= NO_SEQUENCE && last_offset >= NO_OFFSET;
    if !sane || entry.transaction_first_offset < NO_OFFSET {
        return None;
    }
    let mut producer = Producer::new(entry.epoch);
    producer.timestamp = timestamp;
    producer.coordinator_epoch = entry.coordinator_epoch;
    producer.open_transaction = entry.transaction_first_offset;
    if last_offset != NO_OFFSET {
        if delta < 0 || last_offset < delta.into() {
            return None;
        }
        producer.window.push(Seen { last_offset, timestamp, last_sequence, delta });
    }
    Some(producer)
}

#[cfg(test)]
#[path = "producers_tests.rs"]
mod tests;
