//! The checker: what the clients of a life sent and heard, and whether an answer of the broker agrees with it. Pure.
//!
//! An acknowledged record is there at its offset, once and in the order of its producer, and nothing else is. [`LOSSES`] lists what a
//! fault may take; everything else that is missing, twice, elsewhere, or back is an error, whose text says what and where.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::base::ids::{Offset, TopicId};

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Nothing: acks=0.
    Nothing,
    /// The write has ended: acks=1.
    Written,
    /// A flush behind the write has ended: acks=all.
    Flushed,
}

/// What happens to a machine or a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The process ends, in whatever way; the disk keeps what was written.
    ProcessEnds,
    /// The disk keeps what was flushed, and any part of the rest.
    PowerLoss,
    /// As [`Mishap::PowerLoss`], where a flush lied before or failed in an earlier process, or a write was
    /// dropped.
    PowerLossAfterBadFlush,
    /// Bytes of the partition were changed on the disk, or it is not there.
    Damage,
}

/// The acknowledgements that each mishap may break: those that promise less than this.
pub const LOSSES: [(Mishap, Option<Promise>); 4] = [
    (Mishap::ProcessEnds, Some(Promise::Written)),
    (Mishap::PowerLoss, Some(Promise::Flushed)),
    (Mishap::PowerLossAfterBadFlush, None),
    (Mishap::Damage, None),
];

/// True when an acknowledgement with this promise may be broken.
fn may_break(mishap: Mishap, promise: Promise) -> bool {
    LOSSES.iter().any(|(m, keeps)| *m == mishap && keeps.is_none_or(|keeps| promise < keeps))
}

/// A record that was sent.
#[derive(Clone, Debug)]
struct Sent {
    /// The producer's number: one that is not idempotent has another one for each connection.
    producer: u32,
    key: u32,
    /// Length of its value's filling; `None` for a null value.
    filling: Option<usize>,
    /// Unique among the records of its key.
    timestamp_ms: i64,
    /// Its offset, once acknowledged.
    acked: Option<Offset>,
    promise: Promise,
    /// A mishap may have taken it.
    doubtful: bool,
}

/// One partition of one topic id.
#[derive(Debug, Default)]
pub struct PartitionLife {
    sent: Vec<Sent>,
    by_timestamp: BTreeMap<(u32, i64), usize>,
    /// Records by the offset at which a client has read them since the last mishap that may move them.
    seen: BTreeMap<Offset, usize>,
    /// The highest start of the log that was seen, with the time; earlier ones before it.
    starts: Vec<(Duration, Offset)>,
    /// The highest offset that DeleteRecords was asked for.
    deleted: Offset,
    /// The highest end that was seen.
    end: Offset,
    /// A flush has lied, or the process has ended behind a failed one: a power loss may take anything.
    bad_flush: bool,
    /// What has lied was the flush or write of the file that tells the log's first offset: after a
    /// power loss that file may be damaged, and then the partition is offline.
    bad_start: bool,
    /// A flush has failed: while this process runs nothing more is acknowledged. The next one reads what
    /// the kernel still has and cannot know that the disk does not.
    failed_flush: bool,
    /// A power loss after dropped writes: places of its files may hold other bytes, for good. Reads of
    /// them are refused, as those of damaged bytes are.
    pub holes: bool,
    /// A producer snapshot was lost, or could not be written or read.
    lost_snapshot: bool,
    /// It was away: producers have gone on elsewhere.
    was_away: bool,
    /// Why nothing is known of it any more.
    pub damaged: Option<String>,
    /// It is not there for the time being.
    pub away: bool,
    /// Mishaps so far.
    mishaps: u64,
}

/// Settings of a topic that decide what may be missing, over its whole life.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// It was compacted at some time.
    pub compact: bool,
    /// The shortest retention.ms that it had while deletion was on.
    pub retention_ms: Option<i64>,
    /// The smallest retention.bytes likewise.
    pub retention_bytes: Option<i64>,
}

/// One topic id.
#[derive(Debug)]
pub struct TopicLife {
    /// The topic's name.
    pub name: String,
    /// See [`Rules`].
    pub rules: Rules,
    /// By partition.
    pub partitions: BTreeMap<i32, PartitionLife>,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct History {
    /// By topic id, deleted ones too.
    pub topics: BTreeMap<TopicId, TopicLife>,
    /// Producer ids that were given.
    pub producer_ids: BTreeSet<i64>,
    /// The latest wall clock, in ms.
    pub latest_ms: i64,
}

/// A record that a client has read.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its timestamp.
    pub timestamp_ms: i64,
}

/// Bytes of a value before its filling.
const HEAD: usize = 28;
/// Bytes that a record takes beside its value, at most.
const RECORD_MAX: usize = 128;

/// The value of a record: the topic id, the partition and the record's number, then a filling.
pub fn value(topic: TopicId, partition: i32, number: usize, filling: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD + filling);
    value.extend_from_slice(&topic.0);
    value.extend_from_slice(&partition.to_be_bytes());
    value.extend_from_slice(&(number as u64).to_be_bytes());
    value.extend((0..filling).map(|i| (number.wrapping_mul(31) + i) as u8));
    value
}

/// The bytes of a key.
pub fn key(key: u32) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// What was known of a partition when somebody asked for something: more may be known when the answer comes.
#[derive(Clone, Copy, Debug)]
pub struct View {
    floor: Offset,
    end: Offset,
    mishaps: u64,
}

impl PartitionLife {
    /// What is known now.
    pub fn view(&self) -> View {
        View { floor: self.floor(), end: self.end, mishaps: self.mishaps }
    }

    /// True when an answer tells nothing: it may have been given before a mishap, or nothing is demanded.
    pub fn stale(&self, asked: &View) -> bool {
        self.lenient() || self.mishaps != asked.mishaps
    }

    /// Adds a record that is about to be sent; its number and its timestamp, `now_ms` or a little later.
    pub fn send(&mut self, producer: u32, key: u32, filling: Option<usize>, promise: Promise, now_ms: i64) -> (usize, i64) {
        let number = self.sent.len();
        let mut timestamp_ms = now_ms;
        while self.by_timestamp.contains_key(&(key, timestamp_ms)) {
            timestamp_ms += 1;
        }
        self.by_timestamp.insert((key, timestamp_ms), number);
        self.sent.push(Sent { producer, key, filling, timestamp_ms, acked: None, promise, doubtful: false });
        (number, timestamp_ms)
    }

    /// A record is acknowledged at an offset; -1: somewhere.
    pub fn ack(&mut self, number: usize, offset: Offset) -> Result<(), String> {
        if offset < 0 || self.away || self.damaged.is_some() {
            return Ok(());
        }
        if let Some(other) = self.seen.get(&offset).filter(|other| **other != number) {
            return Err(format!("record {number} is acknowledged at {offset}, where record {other} was read"));
        }
        let sent = &mut self.sent[number];
        if let Some(other) = sent.acked.filter(|other| *other != offset && !sent.doubtful) {
            return Err(format!("record {number} is acknowledged at {offset} and at {other}"));
        }
        sent.acked = Some(offset);
        // A mishap while the answer was under way leaves it in doubt, unless it promises more than that takes.
        self.end = self.end.max(if sent.doubtful { 0 } else { offset + 1 });
        Ok(())
    }

    /// The offset behind the last record that was acknowledged or read.
    pub fn last_seen(&self) -> Offset {
        self.end.max(self.floor())
    }

    /// The timestamp of one of the records that were sent.
    pub fn some_timestamp(&self, choice: u64) -> Option<i64> {
        let at = choice.checked_rem(self.sent.len() as u64)?;
        Some(self.sent[at as usize].timestamp_ms)
    }

    fn strikes(&mut self, mishap: Mishap) {
        let mishap = match mishap {
            Mishap::PowerLoss if self.bad_flush => Mishap::PowerLossAfterBadFlush,
            other => other,
        };
        // A flush covers all that lies before it, whatever that was promised.
        let flushed = |sent: &&Sent| sent.promise == Promise::Flushed && !sent.doubtful;
        let flushed = self.sent.iter().filter(flushed).filter_map(|sent| sent.acked).max();
        for sent in &mut self.sent {
            let covered = mishap == Mishap::PowerLoss && sent.acked.is_some_and(|at| Some(at) < flushed);
            // What was not acknowledged may be acknowledged yet: its answer may be under way.
            sent.doubtful |= may_break(mishap, sent.promise) && !covered;
        }
        self.mishaps += 1;
        let failed_flush = std::mem::take(&mut self.failed_flush);
        if mishap == Mishap::ProcessEnds {
            self.bad_flush |= failed_flush;
            return;
        }
        if mishap == Mishap::PowerLossAfterBadFlush {
            self.holes = true;
            if self.bad_start {
                self.damaged.get_or_insert_with(|| "the file of its first offset was dropped".to_owned());
            }
            // The log's start is on the same disk.
            self.starts.clear();
        }
        let sent = &self.sent;
        self.seen.retain(|offset, number| sent[*number].acked == Some(*offset) && !sent[*number].doubtful);
        self.end = self.sent.iter().filter(|s| !s.doubtful).filter_map(|s| s.acked).max().map_or(0, |last| last + 1);
    }

    /// The lowest offset at which a record may still be.
    fn floor(&self) -> Offset {
        self.starts.last().map_or(0, |(_, start)| *start)
    }

    /// True when the broker may have forgotten producers of this partition.
    pub fn may_forget_producers(&self) -> bool {
        self.bad_flush || self.failed_flush || self.was_away || self.lenient()
    }

    /// The records whose offsets are known.
    fn known(&self) -> BTreeMap<Offset, usize> {
        let read = self.seen.iter().map(|(offset, number)| (*offset, *number));
        let sure = self.sent.iter().enumerate().filter(|(_, sent)| !sent.doubtful);
        read.chain(sure.filter_map(|(number, sent)| Some((sent.acked?, number)))).collect()
    }

    /// The highest start of a log that keeps so many bytes.
    fn allowed_by_size(&self, known: &BTreeMap<Offset, usize>, bytes: i64) -> Offset {
        let Some((last, _)) = known.last_key_value() else {
            // Nothing is known of what lies behind the last record.
            return Offset::MAX;
        };
        // No more than each record takes on the disk, with a batch of its own.
        let size = |s: &Sent| (s.filling.unwrap_or(0) + HEAD + RECORD_MAX) as i64;
        // What a mishap took may have counted before.
        let read: BTreeSet<usize> = self.seen.values().copied().collect();
        let unknown = |(number, s): &(usize, &Sent)| (s.acked.is_none() || s.doubtful) && !read.contains(number);
        let unknown: Vec<&Sent> = self.sent.iter().enumerate().filter(unknown).map(|(_, s)| s).collect();
        let mut left = bytes - unknown.iter().map(|s| size(s)).sum::<i64>();
        let kept = known.iter().rev().take_while(|(_, number)| {
            left -= size(&self.sent[**number]);
            left > 0
        });
        // Records whose answers are under way may lie behind the last one that is known, and may have
        // gone already.
        let after_all = last + 1 + unknown.len() as Offset;
        kept.last().map_or(after_all, |(offset, _)| *offset)
    }

    /// Nothing is demanded but that what is read was sent.
    pub fn lenient(&self) -> bool {
        self.away || self.damaged.is_some()
    }
}

impl History {
    /// A topic that was created.
    pub fn created(&mut self, id: TopicId, name: &str, partitions: i32, rules: Rules) {
        let partitions = (0..partitions).map(|p| (p, PartitionLife::default())).collect();
        self.topics.entry(id).or_insert(TopicLife { name: name.to_owned(), rules, partitions });
    }

    /// A partition, which is there from now on.
    pub fn partition(&mut self, id: TopicId, partition: i32) -> &mut PartitionLife {
        let topic = self.topics.get_mut(&id).expect("a topic that was created");
        topic.partitions.entry(partition).or_default()
    }

    /// Settings that hold from now on.
    pub fn altered(&mut self, id: TopicId, now: &Rules) {
        let rules = &mut self.topics.get_mut(&id).expect("a topic that was created").rules;
        let least = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
        rules.compact |= now.compact;
        rules.retention_ms = least(rules.retention_ms, now.retention_ms);
        rules.retention_bytes = least(rules.retention_bytes, now.retention_bytes);
    }

    /// DeleteRecords is about to be asked for.
    pub fn delete_records(&mut self, id: TopicId, partition: i32, offset: Offset) {
        let life = self.partition(id, partition);
        life.deleted = life.deleted.max(offset);
    }

    /// The process has ended. `clean`: it had time to say so. Starts of logs that were seen after `stored` may not be on the disk.
    pub fn process_ends(&mut self, mishap: Mishap, clean: bool, stored: Duration) {
        for life in self.topics.values_mut().flat_map(|topic| topic.partitions.values_mut()) {
            life.strikes(mishap);
            if !clean {
                life.starts.retain(|(at, _)| *at <= stored);
            }
        }
    }

    /// The partitions of a topic's name, whichever id it has.
    pub fn of_name<'a>(&'a mut self, name: &'a str, partition: i32) -> impl Iterator<Item = &'a mut PartitionLife> {
        let topics = self.topics.values_mut().filter(move |topic| topic.name == name);
        topics.filter_map(move |topic| topic.partitions.get_mut(&partition))
    }

    /// A producer snapshot of a partition was lost, or could not be written or read.
    pub fn lost_snapshot(&mut self, name: &str, partition: i32) {
        self.of_name(name, partition).for_each(|life| life.lost_snapshot = true);
    }

    /// The disk is full: nobody knows which files could not be written.
    pub fn no_room(&mut self) {
        let topics = self.topics.values_mut();
        topics.flat_map(|t| t.partitions.values_mut()).for_each(|life| life.lost_snapshot = true);
    }

    /// True when the broker may know a producer's last batch alone, and take a repeat of one before it
    /// for a gap. Compaction leaves the header of the last one in the log; those before are in the
    /// snapshot, which is no evidence and may be gone.
    pub fn may_know_last_batch_alone(&mut self, id: TopicId, partition: i32) -> bool {
        self.topics[&id].rules.compact && self.partition(id, partition).lost_snapshot
    }

    /// A flush of a partition has failed.
    pub fn failed_flush(&mut self, name: &str, partition: i32) {
        self.of_name(name, partition).for_each(|life| life.failed_flush = true);
    }

    /// A flush of a partition has done nothing.
    pub fn bad_flush(&mut self, name: &str, partition: i32) {
        self.of_name(name, partition).for_each(|life| life.bad_flush = true);
    }

    /// A flush or write of the file with a partition's first offset has done nothing.
    pub fn bad_start(&mut self, name: &str, partition: i32) {
        self.of_name(name, partition).for_each(|life| life.bad_start = true);
    }

    /// Bytes of a partition have changed on the disk.
    pub fn damage(&mut self, name: &str, partition: i32, how: &str) {
        for life in self.of_name(name, partition) {
            life.damaged.get_or_insert_with(|| how.to_owned());
            life.strikes(Mishap::Damage);
            life.starts.clear();
        }
    }

    /// A partition goes with its disk, or comes back.
    pub fn away(&mut self, name: &str, partition: i32, away: bool) {
        for life in self.of_name(name, partition) {
            (life.away, life.was_away) = (away, true);
            let sent = &life.sent;
            life.seen.retain(|offset, number| sent[*number].acked == Some(*offset) && !sent[*number].doubtful);
        }
    }

    /// What a fetch or ListOffsets says of a log's start.
    pub fn start(&mut self, id: TopicId, partition: i32, start: Offset, at: Duration, asked: &View) -> Result<(), String> {
        let life = self.partition(id, partition);
        if life.stale(asked) {
            return Ok(());
        }
        if start < asked.floor {
            return Err(format!("partition {partition}: the log's start goes back from {} to {start}", asked.floor));
        }
        // What was seen before was allowed before.
        if start <= life.floor() {
            return Ok(());
        }
        let allowed = self.allowed_start(id, partition);
        if start > allowed {
            return Err(format!("partition {partition}: the log's start is {start}, nothing allows more than {allowed}"));
        }
        self.partition(id, partition).starts.push((at, start));
        Ok(())
    }

    /// DeleteRecords is answered with this start: it is durable, and stays whatever ends the process.
    pub fn records_deleted(&mut self, id: TopicId, partition: i32, start: Offset, asked: &View) {
        let life = self.partition(id, partition);
        if !life.stale(asked) && start >= life.floor() {
            life.starts.push((Duration::ZERO, start));
        }
    }

    /// The highest start that DeleteRecords and retention allow, by offsets that are known.
    fn allowed_start(&mut self, id: TopicId, partition: i32) -> Offset {
        let latest_ms = self.latest_ms;
        let rules = self.topics[&id].rules.clone();
        let life = self.partition(id, partition);
        let known = life.known();
        let mut allowed = life.deleted.max(life.floor());
        if let Some(bytes) = rules.retention_bytes {
            allowed = allowed.max(life.allowed_by_size(&known, bytes));
        }
        if let Some(ms) = rules.retention_ms {
            // Compaction may have taken a young record and left older ones around it.
            let newest = known.iter().map(|(offset, number)| (life.sent[*number].key, *offset));
            let newest: BTreeMap<u32, Offset> = newest.collect();
            let stays = |offset: &Offset, sent: &Sent| sent.filling.is_some() && newest[&sent.key] == *offset;
            // Young ones that may have gone for another reason hold nothing back.
            let fresh = known.range(allowed..).find(|(offset, number)| {
                let sent = &life.sent[**number];
                sent.timestamp_ms >= latest_ms - ms && (!rules.compact || stays(offset, sent))
            });
            allowed = allowed.max(fresh.map_or(Offset::MAX, |(offset, _)| *offset));
        }
        allowed
    }

    /// What a fetch says of a log's end.
    pub fn end(&mut self, id: TopicId, partition: i32, end: Offset, asked: &View) -> Result<(), String> {
        let life = self.partition(id, partition);
        if life.stale(asked) {
            return Ok(());
        }
        if end < asked.end {
            return Err(format!("partition {partition}: the log's end goes back from {} to {end}", asked.end));
        }
        life.end = life.end.max(end);
        Ok(())
    }

    /// A record that was read; its number.
    pub fn observe(&mut self, id: TopicId, partition: i32, found: &Found<'_>, asked: &View) -> Result<usize, String> {
        let offset = found.offset;
        let place = format!("partition {partition}, offset {offset}");
        let life = self.partition(id, partition);
        let number = match found.value {
            Some(bytes) if bytes.len() >= HEAD => {
                if bytes[..16] != id.0 || bytes[16..20] != partition.to_be_bytes() {
                    return Err(format!("{place}: a record of another topic or partition: {:?}", &bytes[..HEAD]));
                }
                u64::from_be_bytes(bytes[20..HEAD].try_into().expect("8 bytes")) as usize
            }
            Some(bytes) => return Err(format!("{place}: a value that nobody sent: {bytes:?}")),
            None => {
                let mut keys = life.by_timestamp.iter().filter(|((_, ms), _)| *ms == found.timestamp_ms);
                let number = keys.find(|((k, _), _)| found.key == Some(&key(*k)[..])).map(|(_, number)| *number);
                number.ok_or_else(|| format!("{place}: a tombstone that nobody sent: key {:?}", found.key))?
            }
        };
        let Some(sent) = life.sent.get(number) else { return Err(format!("{place}: record {number} was never sent")) };
        let expected = sent.filling.map(|filling| value(id, partition, number, filling));
        if expected.as_deref() != found.value || found.key != Some(&key(sent.key)[..]) || found.timestamp_ms != sent.timestamp_ms {
            return Err(format!("{place}: record {number} has another key, value or timestamp than was sent"));
        }
        if life.stale(asked) {
            return Ok(number);
        }
        if offset < asked.floor {
            return Err(format!("{place}: record {number} is back, the log began at {}", asked.floor));
        }
        if let Some(acked) = sent.acked.filter(|acked| *acked != offset && !sent.doubtful) {
            return Err(format!("{place}: record {number} was acknowledged at {acked}"));
        }
        if let Some(other) = life.seen.insert(offset, number).filter(|other| *other != number) {
            return Err(format!("{place}: record {number}, where record {other} was read before"));
        }
        Ok(number)
    }

    /// Holds a whole read, from `start` to `end`, against what was acknowledged. `rest`: nobody was producing meanwhile.
    pub fn whole(
        &mut self,
        id: TopicId,
        partition: i32,
        read: &[(Offset, usize)],
        ends: (Offset, Offset),
        rest: bool,
    ) -> Result<(), String> {
        let compact = self.topics[&id].rules.compact;
        let life = self.partition(id, partition);
        if life.lenient() {
            return Ok(());
        }
        let place = format!("partition {partition}");
        let mut last: BTreeMap<u32, usize> = BTreeMap::new();
        let mut present = BTreeSet::new();
        // The last offset of each key.
        let mut newest: BTreeMap<u32, Offset> = BTreeMap::new();
        for &(offset, number) in read {
            if !present.insert(number) {
                return Err(format!("{place}: record {number} is there twice, the second time at {offset}"));
            }
            let sent = &life.sent[number];
            if let Some(before) = last.insert(sent.producer, number).filter(|before| *before > number) {
                return Err(format!(
                    "{place}: record {number} at {offset} is behind record {before} of the same producer {}",
                    sent.producer
                ));
            }
            newest.insert(sent.key, offset);
        }
        // The last tombstone of each key. One that was not acknowledged may be anywhere: also one that
        // was sent again, late.
        let mut tombstones: BTreeMap<u32, Offset> = BTreeMap::new();
        for sent in life.sent.iter().filter(|sent| sent.filling.is_none()) {
            let at = sent.acked.unwrap_or(Offset::MAX);
            tombstones.entry(sent.key).and_modify(|last| *last = (*last).max(at)).or_insert(at);
        }
        for (number, sent) in life.sent.iter().enumerate() {
            let Some(offset) = sent.acked.filter(|offset| !sent.doubtful && *offset >= ends.0 && (rest || *offset < ends.1)) else {
                continue;
            };
            let replaced = || newest.get(&sent.key).is_some_and(|newer| *newer > offset);
            let deleted = || tombstones.get(&sent.key).is_some_and(|tombstone| *tombstone >= offset);
            if !present.contains(&number) && !(compact && (replaced() || deleted())) {
                return Err(format!(
                    "{place}: record {number} is lost: acknowledged at {offset} as {:?}, the log reaches from {} to {}",
                    sent.promise, ends.0, ends.1
                ));
            }
        }
        Ok(())
    }

    /// A look-up by time, of a log that begins at `start` afterwards: the answer is no record that is too
    /// old, and passes over none that was there before and is not.
    pub fn looked_up(
        &mut self,
        id: TopicId,
        partition: i32,
        wanted_ms: i64,
        answer: Option<(Offset, i64)>,
        start: Offset,
        asked: &View,
    ) -> Result<(), String> {
        let compact = self.topics[&id].rules.compact;
        let life = self.partition(id, partition);
        if life.stale(asked) {
            return Ok(());
        }
        let before = asked.end;
        let said = format!("partition {partition}: looked up {wanted_ms}, got {answer:?}");
        if answer.is_some_and(|(_, timestamp_ms)| timestamp_ms < wanted_ms) {
            return Err(format!("{said}: too old"));
        }
        let upto = answer.map_or(before, |(offset, _)| offset.min(before));
        let passed = life.seen.range(start..).take_while(|(offset, _)| **offset < upto);
        let mut young = passed.filter(|(_, number)| life.sent[**number].timestamp_ms >= wanted_ms);
        match young.next().filter(|_| !compact) {
            Some((offset, number)) => Err(format!("{said}: passes over record {number} at {offset}")),
            None => Ok(()),
        }
    }
}
