//! The replicas of one core, and what can be asked of them. Lives on that core; synchronous but for cold reads.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::message::Home;
use super::run::REPLICA_COST;
use crate::base::error::ErrorCode;
use crate::base::hash::IdMap;
use crate::base::ids::{Offset, TopicId};
use crate::cluster::topic_config::TopicConfig;
use crate::log::{Located, Log, LogError, Read};
use crate::partition::acks::Level;
use crate::partition::op::{EpochItem, EpochResult, Key, OffsetItem, OffsetResult, ProduceItem, Produced, ReadItem, ReadResult};
use crate::partition::waiters::WaitId;
use crate::partition::{BatchHeader, Partition, ProduceDecision, Released, Waiting};
use crate::rt::{Class, Rt};
use crate::wire::batch::Stamp;

/// ListOffsets' special timestamps.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// Bytes of an answer that are copied rather than have it hold on to more while memory is scarce.
const UNPINNED_MAX: usize = 64 << 10;

/// Who is told what became of a batch. Called on the core of the one who asked for it or, for another core, on the owner's.
pub trait Sink {
    /// The answer for the item that the asker numbered `index`.
    fn produced(&self, index: u32, produced: Produced);
}

/// Who is told that a partition has grown.
pub trait Watcher {
    /// Called at most once for each wait.
    fn grown(&self);
}

/// A producer that waits for its acknowledgement.
pub struct Ack {
    sink: Rc<dyn Sink>,
    index: u32,
    produced: Produced,
}

/// The state of one replica: its protocol state and its log.
pub struct Replica<R: Rt> {
    /// The log on disk.
    pub log: Log<R>,
    /// Its directory.
    pub dir: PathBuf,
    /// The entry of log.dirs that it lies in.
    pub log_dir: PathBuf,
    /// Place of that entry among log.dirs.
    pub disk: u16,
    /// TOPIC-PARTITION.
    pub name: String,
    /// The topic's, as it is now.
    pub config: RefCell<TopicConfig>,
    /// A flush that `flush.ms` asks for is on its way.
    pub flush_due: Cell<bool>,
    /// The epoch checkpoint is to be written: epochs went with the records at the front.
    pub epochs_moved: Cell<bool>,
    /// Called once, when the replica takes nothing any more: its log has failed, or its topic is
    /// deleted.
    pub on_end: RefCell<Option<Rc<dyn Fn()>>>,
    /// Nothing is to be appended for now, see [`crate::cluster::image::Image::held`].
    pub held: Cell<bool>,
    /// The log's end when idle logs were last looked for.
    pub seen_end: Cell<Offset>,
    /// Sequences, acknowledgements, waits.
    pub partition: RefCell<Partition<Ack, Rc<dyn Watcher>>>,
}

/// A wait at one partition.
pub struct Parked<R: Rt> {
    replica: Rc<Replica<R>>,
    id: WaitId,
}

impl<R: Rt> Drop for Parked<R> {
    fn drop(&mut self) {
        let watcher = self.replica.partition.borrow_mut().cancel_wait(self.id);
        drop(watcher);
    }
}

/// All replicas of a core.
pub struct Owner<R: Rt> {
    pub(super) rt: R,
    replicas: RefCell<IdMap<Key, Rc<Replica<R>>>>,
    /// Replicas whose log is open, but which are not served before their leader epoch has grown.
    pending: RefCell<BTreeMap<Key, Rc<Replica<R>>>>,
    /// Replicas of this core that could not be opened, with what to try again, if that may help.
    offline: RefCell<BTreeMap<Key, Option<Home>>>,
}

impl<R: Rt> Owner<R> {
    /// Without replicas.
    pub fn new(rt: R) -> Owner<R> {
        Owner { rt, replicas: RefCell::default(), pending: RefCell::default(), offline: RefCell::default() }
    }

    /// The replica of a partition.
    pub fn replica(&self, key: &Key) -> Option<Rc<Replica<R>>> {
        self.replicas.borrow().get(key).cloned()
    }

    /// All replicas, by topic and partition: a run in the simulation must not depend on a hash.
    pub fn replicas(&self) -> Vec<(Key, Rc<Replica<R>>)> {
        let mut all: Vec<_> = self.replicas.borrow().iter().map(|(k, r)| (*k, r.clone())).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// All replicas whose log is open, also those that are not served yet.
    pub fn opened(&self) -> Vec<(Key, Rc<Replica<R>>)> {
        let mut all = self.replicas();
        all.extend(self.pending.borrow().iter().map(|(key, replica)| (*key, replica.clone())));
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// Keeps a replica that is not to be served yet: its partition has a storage error until then.
    pub fn set_pending(&self, key: Key, replica: Rc<Replica<R>>) {
        self.set_offline(key, None);
        self.pending.borrow_mut().insert(key, replica);
    }

    /// Whether a replica is kept that is not served yet.
    pub fn is_pending(&self, key: &Key) -> bool {
        self.pending.borrow().contains_key(key)
    }

    /// Takes a replica that was not served yet.
    pub fn take_pending(&self, key: &Key) -> Option<Rc<Replica<R>>> {
        self.pending.borrow_mut().remove(key)
    }

    /// A replica of this core cannot be opened: its partition has a storage error until the next start, or until `again` succeeds.
    pub fn set_offline(&self, key: Key, again: Option<Home>) {
        self.offline.borrow_mut().insert(key, again);
    }

    /// A replica has been opened after all.
    pub fn set_online(&self, key: &Key) {
        self.offline.borrow_mut().remove(key);
    }

    /// The replicas whose opening is to be tried again.
    pub fn waiting(&self) -> Vec<(Key, Home)> {
        self.offline.borrow().iter().filter_map(|(key, home)| Some((*key, home.clone()?))).collect()
    }

    /// Whether a topic has replicas on this core that could not be opened.
    pub fn has_offline(&self, topic: TopicId) -> bool {
        self.offline.borrow().range((topic, i32::MIN)..=(topic, i32::MAX)).next().is_some()
    }

    /// Forgets the offline replicas that are not kept.
    pub fn retain_offline(&self, keep: impl Fn(&Key) -> bool) {
        self.offline.borrow_mut().retain(|key, _| keep(key));
    }

    /// Why there is no replica for a partition.
    pub(super) fn missing(&self, key: &Key) -> ErrorCode {
        if self.offline.borrow().contains_key(key) { ErrorCode::KafkaStorageError } else { ErrorCode::UnknownTopicOrPartition }
    }

    /// Takes a replica into service.
    pub fn insert(&self, key: Key, replica: Rc<Replica<R>>) {
        let weak = Rc::downgrade(&replica);
        replica.log.set_on_progress(Some(Rc::new(move || {
            if let Some(replica) = weak.upgrade() {
                replica.progress();
            }
        })));
        self.replicas.borrow_mut().insert(key, replica);
    }

    /// Logs that were not used since the last call give back what they can do without.
    pub fn rest_idle(&self) {
        let unused = |replica: &Replica<R>| {
            let (end, read) = (replica.log.end_offset(), replica.log.take_used());
            replica.seen_end.replace(end) == end && !read && !replica.log.at_rest()
        };
        let mut resting: Vec<_> = self.replicas.borrow().iter().filter(|(_, r)| unused(r)).map(|(k, r)| (*k, r.clone())).collect();
        // A run in the simulation must not depend on a hash.
        resting.sort_unstable_by_key(|(key, _)| *key);
        resting.iter().for_each(|(_, replica)| replica.log.trim_idle());
    }

    /// Forgets producers that were silent for so many milliseconds.
    pub async fn expire_producers(&self, now_ms: i64, expiration_ms: i64) {
        for (_, replica) in self.replicas() {
            replica.partition.borrow_mut().producers.expire(now_ms, expiration_ms);
            self.rt.slices().pass(REPLICA_COST).await;
        }
    }

    /// Takes a replica out of service, or one that was not served yet.
    pub fn remove(&self, key: &Key) -> Option<Rc<Replica<R>>> {
        let served = self.replicas.borrow_mut().remove(key);
        served.or_else(|| self.take_pending(key))
    }

    /// Appends a batch; the sink hears of it when what the producer waits for has happened.
    pub fn produce(&self, item: &ProduceItem, sink: &Rc<dyn Sink>, index: u32) {
        let produced = match self.replica(&item.key) {
            None => Some(Produced::refused(self.missing(&item.key))),
            Some(replica) => {
                let produced = replica.produce(&self.rt, item, sink, index);
                self.flush_later(&replica);
                produced
            }
        };
        if let Some(produced) = produced {
            sink.produced(index, produced);
        }
    }

    /// Has what was appended flushed when `flush.ms` have passed.
    fn flush_later(&self, replica: &Rc<Replica<R>>) {
        let flush_ms = replica.config.borrow().flush_ms;
        if flush_ms == i64::MAX || replica.flush_due.replace(true) {
            return;
        }
        let (rt, replica) = (self.rt.clone(), replica.clone());
        self.rt.spawn(Class::Background, async move {
            rt.sleep(Duration::from_millis(flush_ms.max(0) as u64)).await;
            replica.flush_due.set(false);
            replica.log.want_flush(replica.log.end_offset());
        });
    }

    /// Reads what memory holds; the rest is left as `None`, for [`Owner::read`].
    pub fn read_cached(&self, items: &[ReadItem], max_bytes: usize, first: bool) -> Option<Vec<ReadResult>> {
        let (mut left, mut first) = (max_bytes, first);
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let result = match self.replica(&item.key) {
                None => ReadResult::refused(self.missing(&item.key)),
                Some(replica) => match replica.plan_read(item, left, first) {
                    Err(result) => result,
                    Ok((result, Read::Hit(records))) => ReadResult { records, ..result },
                    Ok((_, Read::Miss(_))) => return None,
                },
            };
            left = left.saturating_sub(result.bytes());
            first &= result.records.is_empty();
            results.push(result);
        }
        Some(results)
    }

    /// Reads from memory and disk. Once the response has something, or if it has (`holds`), nothing is
    /// waited for.
    pub async fn read(&self, items: &[ReadItem], max_bytes: usize, first: bool, holds: bool) -> Vec<ReadResult> {
        let (mut left, mut first, mut holds) = (max_bytes, first, holds);
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let result = match self.replica(&item.key) {
                None => ReadResult::refused(self.missing(&item.key)),
                Some(replica) => replica.read(item, left, first, !holds).await,
            };
            holds |= !result.records.is_empty();
            left = left.saturating_sub(result.bytes());
            first &= result.records.is_empty();
            results.push(result);
        }
        results
    }

    /// Waits for a partition to grow past what the watcher has seen; `None` when it has already (the watcher is told) or is gone.
    pub fn watch(&self, key: &Key, seen: Offset, need_bytes: usize, watcher: &Rc<dyn Watcher>) -> Option<Parked<R>> {
        let Some(replica) = self.replica(key) else {
            watcher.grown();
            return None;
        };
        let grown = replica.partition.borrow().high_watermark > seen;
        let waiting = if grown { None } else { Some(replica.partition.borrow_mut().await_data(seen, need_bytes, watcher.clone())) };
        match waiting {
            Some(Waiting::Parked(id)) => Some(Parked { replica, id }),
            _ => {
                watcher.grown();
                None
            }
        }
    }

    /// Finds offsets by timestamp or special value.
    pub async fn offsets(&self, items: &[OffsetItem]) -> Vec<OffsetResult> {
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let refused = |code| OffsetResult { code, offset: -1, timestamp: -1, leader_epoch: -1 };
            results.push(match self.replica(&item.key) {
                None => refused(self.missing(&item.key)),
                Some(replica) => replica.offset(item).await.unwrap_or_else(refused),
            });
        }
        results
    }

    /// Finds where epochs end.
    pub fn epochs(&self, items: &[EpochItem]) -> Vec<EpochResult> {
        let one = |item: &EpochItem| {
            let refused = |code| EpochResult { code, epoch: -1, end_offset: -1 };
            let Some(replica) = self.replica(&item.key) else { return refused(self.missing(&item.key)) };
            let partition = replica.partition.borrow();
            if let Err(code) = partition.check_epoch(item.current_leader_epoch) {
                return refused(code);
            }
            let (epoch, end_offset) = partition.end_offset_for(item.epoch);
            EpochResult { code: ErrorCode::None, epoch, end_offset }
        };
        items.iter().map(one).collect()
    }
}

impl<R: Rt> Replica<R> {
    /// The answer, or `None` when the sink will hear later.
    fn produce(&self, rt: &R, item: &ProduceItem, sink: &Rc<dyn Sink>, index: u32) -> Option<Produced> {
        let mut partition = self.partition.borrow_mut();
        let (log_start_offset, disk) = (partition.log_start, Some(self.disk));
        let base_offset = match partition.produce(&item.header) {
            ProduceDecision::Append { base_offset } => base_offset,
            ProduceDecision::Reject(code) => return Some(Produced::refused(code)),
            ProduceDecision::Duplicate { base_offset, log_append_time } => {
                let produced = Produced { code: ErrorCode::None, base_offset, log_append_time, log_start_offset, disk };
                // The first copy may still be on its way to the disk: the repeat is acknowledged with it, not before.
                let end = base_offset.saturating_add(i64::from(item.header.last_offset_delta) + 1);
                return self.acknowledge(&mut partition, end, item.level, Ack { sink: sink.clone(), index, produced });
            }
        };
        let log_append_time = if item.log_append_time { rt.now().wall_ms } else { -1 };
        let stamp = if item.log_append_time { Some(Stamp::LogAppendTime(log_append_time)) } else { item.restamped() };
        if let Err(code) = self.store(&mut partition, &item.header, &item.records, base_offset, stamp) {
            return Some(Produced::refused(code));
        }
        let produced = Produced { code: ErrorCode::None, base_offset, log_append_time, log_start_offset, disk };
        let end = partition.log_end;
        if end - partition.flushed >= self.config.borrow().flush_messages {
            self.log.want_flush(end);
        }
        self.acknowledge(&mut partition, end, item.level, Ack { sink: sink.clone(), index, produced })
    }

    fn store(
        &self,
        partition: &mut Partition<Ack, Rc<dyn Watcher>>,
        header: &BatchHeader,
        records: &[u8],
        base_offset: Offset,
        stamp: Option<Stamp>,
    ) -> Result<(), ErrorCode> {
        if self.held.get() {
            return Err(ErrorCode::KafkaStorageError);
        }
        match self.log.append(records, base_offset, partition.leader_epoch, stamp) {
            Ok(false) => {}
            Ok(true) => self.log.set_snapshot(base_offset, partition.producers.encode_snapshot()),
            // Said once, when it began.
            Err(LogError::Exhausted(_)) => return Err(ErrorCode::KafkaStorageError),
            Err(LogError::TooLarge) => return Err(ErrorCode::RecordListTooLarge),
            Err(e) => {
                tracing::error!("{}: {e}", self.name);
                return Err(ErrorCode::KafkaStorageError);
            }
        }
        let mut stored = *header;
        if let Some(stamp) = stamp {
            stored.stamp(stamp);
        }
        partition.appended(&stored, base_offset, records.len());
        if self.log.recovery_point_due() {
            self.log.set_recovery_point(partition.producers.encode_snapshot());
        }
        Ok(())
    }

    /// Appends a batch of the broker's own.
    pub(super) fn append(&self, batch: &[u8]) -> Result<(), ErrorCode> {
        let header = BatchHeader::parse(batch).map_err(|_| ErrorCode::CorruptMessage)?;
        let mut partition = self.partition.borrow_mut();
        match partition.produce(&header) {
            ProduceDecision::Append { base_offset } => self.store(&mut partition, &header, batch, base_offset, None),
            ProduceDecision::Reject(code) => Err(code),
            ProduceDecision::Duplicate { .. } => unreachable!("the broker's own batches have no producer id"),
        }
    }

    /// Tells the sink when all that was appended so far is flushed: now, if it is; or that it never will be.
    pub(super) fn when_flushed(&self, sink: Rc<dyn Sink>) {
        let produced = Produced { code: ErrorCode::None, base_offset: -1, log_append_time: -1, log_start_offset: -1, disk: None };
        let due = {
            let mut partition = self.partition.borrow_mut();
            let end = partition.log_end;
            self.acknowledge(&mut partition, end, Level::Flushed, Ack { sink: sink.clone(), index: 0, produced })
        };
        if let Some(produced) = due {
            sink.produced(0, produced);
        }
    }

    /// The answer, if it is due already.
    fn acknowledge(&self, partition: &mut Partition<Ack, Rc<dyn Watcher>>, end: Offset, level: Level, ack: Ack) -> Option<Produced> {
        if level == Level::Flushed {
            self.log.want_flush(end);
        }
        match partition.await_ack(end, level, ack) {
            Waiting::Parked(()) => None,
            Waiting::Ready(ack) => Some(ack.produced),
            Waiting::Fenced(_) => Some(Produced::refused(ErrorCode::KafkaStorageError)),
        }
    }

    /// Called by the log when more is written or flushed, when it has taken back what it cannot write, or when it has failed.
    fn progress(&self) {
        let released = match self.log.fenced() {
            Some(reason) => self.partition.borrow_mut().fence(reason),
            None => {
                let mut partition = self.partition.borrow_mut();
                let serving = partition.fenced().is_none();
                let released = partition.progress(self.log.written_offset(), self.log.flushed_offset());
                if let Some(reason) = partition.fenced().filter(|_| serving) {
                    tracing::error!("partition {} goes offline: {reason}", self.name);
                }
                released
            }
        };
        let failed = self.partition.borrow().fenced().map(|_| ErrorCode::KafkaStorageError);
        tell(released, failed);
        if failed.is_some() {
            self.ended();
        }
        let end = self.log.end_offset();
        let taken_back = self.partition.borrow().log_end > end;
        if failed.is_none() && taken_back {
            let released = self.partition.borrow_mut().take_back(end);
            tell(released, Some(ErrorCode::KafkaStorageError));
        }
    }

    /// The topic is deleted: whoever waits hears of it, and nobody waits here again.
    pub(super) fn retire(&self) {
        let released = self.partition.borrow_mut().fence("the topic is deleted".into());
        tell(released, Some(ErrorCode::UnknownTopicOrPartition));
        self.ended();
    }

    fn ended(&self) {
        let on_end = self.on_end.take();
        if let Some(on_end) = on_end {
            on_end();
        }
    }

    fn plan_read(&self, item: &ReadItem, left: usize, first: bool) -> Result<(ReadResult, Read), ReadResult> {
        let partition = self.partition.borrow();
        if partition.fenced().is_some() {
            return Err(ReadResult::refused(ErrorCode::KafkaStorageError));
        }
        partition.check_epoch(item.current_leader_epoch).map_err(ReadResult::refused)?;
        let (high_watermark, log_start_offset) = (partition.high_watermark, partition.log_start);
        let result = ReadResult { code: ErrorCode::None, high_watermark, log_start_offset, records: Vec::new(), diverging: None };
        match partition.divergence(item.last_fetched_epoch, item.offset) {
            Ok(None) => {}
            Ok(diverging) => return Err(ReadResult { diverging, ..result }),
            Err(code) => return Err(ReadResult { code, ..result }),
        }
        if item.offset < log_start_offset || item.offset > partition.log_end {
            return Err(ReadResult { code: ErrorCode::OffsetOutOfRange, ..result });
        }
        let max = item.max_bytes.min(left);
        if item.offset >= high_watermark || (max == 0 && !first) {
            return Ok((result, Read::Hit(Vec::<Bytes>::new())));
        }
        let read = self.log.read(item.offset, max, high_watermark, first);
        Ok((result, read))
    }

    async fn read(&self, item: &ReadItem, left: usize, first: bool, patient: bool) -> ReadResult {
        let (result, read) = match self.plan_read(item, left, first) {
            Ok(planned) => planned,
            Err(result) => return result,
        };
        match read {
            Read::Hit(records) => ReadResult { records, ..result },
            Read::Miss(plan) => {
                let read = self.log.read_cold(if patient { plan } else { plan.impatient() }).await;
                let log_start_offset = self.partition.borrow().log_start;
                match read {
                    // Deleted while it was looked for: what was found lies behind it.
                    _ if item.offset < log_start_offset => ReadResult { code: ErrorCode::OffsetOutOfRange, log_start_offset, ..result },
                    Ok(records) => ReadResult { records: self.unpinned(records), ..result },
                    Err(e) => {
                        tracing::error!("{}: read at offset {}: {e}", self.name, item.offset);
                        ReadResult { code: ErrorCode::KafkaStorageError, ..result }
                    }
                }
            }
        }
    }

    /// What was read, without what else lies in the same memory, if that is scarce: its client may take
    /// its time.
    fn unpinned(&self, records: Vec<Bytes>) -> Vec<Bytes> {
        let memory = self.log.memory();
        let bytes = records.iter().map(Bytes::len).sum::<usize>();
        if bytes > UNPINNED_MAX || !memory.scarce() {
            return records;
        }
        vec![memory.charged(records.concat().into())]
    }

    async fn offset(&self, item: &OffsetItem) -> Result<OffsetResult, ErrorCode> {
        let (found, high_watermark) = {
            let partition = self.partition.borrow();
            partition.check_epoch(item.current_leader_epoch)?;
            let found = match item.timestamp {
                LATEST => Some(partition.high_watermark),
                EARLIEST | EARLIEST_LOCAL => Some(partition.log_start),
                LATEST_TIERED | EARLIEST_PENDING_UPLOAD => Some(-1),
                _ => None,
            };
            (found, partition.high_watermark)
        };
        if let Some(offset) = found {
            let epochs = &self.partition.borrow().epochs;
            let leader_epoch = if offset >= 0 { epochs.epoch_of(offset) } else { -1 };
            return Ok(OffsetResult { code: ErrorCode::None, offset, timestamp: -1, leader_epoch });
        }
        let storage = |e| {
            tracing::error!("{}: {e}", self.name);
            ErrorCode::KafkaStorageError
        };
        let found = match item.timestamp {
            MAX_TIMESTAMP => self.log.max_timestamp_offset(high_watermark).await,
            ..0 => return Err(ErrorCode::UnsupportedVersion),
            ts => self.log.offset_for_timestamp(ts, high_watermark).await,
        };
        // The batch tells the epoch: a deleted record has none in the history of epochs any more.
        let none = Located { offset: -1, timestamp: -1, leader_epoch: -1 };
        let Located { offset, timestamp, leader_epoch } = found.map_err(storage)?.unwrap_or(none);
        Ok(OffsetResult { code: ErrorCode::None, offset, timestamp, leader_epoch })
    }
}

fn tell(released: Released<Ack, Rc<dyn Watcher>>, failed: Option<ErrorCode>) {
    for Ack { sink, index, produced } in released.acks {
        sink.produced(
            index,
            match failed {
                Some(code) => Produced { disk: produced.disk, ..Produced::refused(code) },
                None => produced,
            },
        );
    }
    for watcher in released.waits {
        watcher.grown();
    }
}
