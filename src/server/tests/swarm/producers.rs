//! Producers: several batches under way on one connection, sent again in order when they are idempotent.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::super::client::{self, Client, Due};
use super::history::{self, History, Promise};
use super::plan::Feature;
use super::requests;
use super::world::{Ack, Topic, World};
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::wire::batch::{BatchSpec, build_batch};
use crate::wire::codec::ProduceResponse;

/// Batches under way at a time.
const WINDOW: usize = 5;
/// Bits of a producer's number that tell the producer; those above count its connections.
const LANES: u32 = 8;
/// Keys in use.
const KEYS: u64 = 8;
/// How long an answer may take before the producer gives the connection up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one producer does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// `acks` of its requests.
    pub acks: i16,
    /// Whether it is idempotent.
    pub idempotent: bool,
}

struct Batch {
    /// Its records' numbers.
    records: Vec<usize>,
    bytes: Vec<u8>,
}

/// An idempotent producer's way into one partition of one topic id.
struct Stream {
    topic: TopicId,
    partition: i32,
    producer_id: i64,
    sequence: i32,
    pending: VecDeque<Batch>,
}

/// One producer of one topic name.
pub struct Producer<'a> {
    world: &'a World,
    name: String,
    number: u32,
    kind: Kind,
    streams: Vec<Stream>,
}

fn code(code: ErrorCode) -> i16 {
    code.code()
}

impl<'a> Producer<'a> {
    /// The producers of a topic name.
    pub fn of<'w>(world: &'w World, name: &str, number: &mut u32) -> Vec<Producer<'w>> {
        let mut kinds = vec![Kind { acks: -1, idempotent: true }, Kind { acks: -1, idempotent: false }];
        if world.plan.does(Feature::WeakAcks) {
            kinds.extend([Kind { acks: 1, idempotent: false }, Kind { acks: 0, idempotent: false }]);
        }
        let mut next = |kind| {
            *number += 1;
            Producer { world, name: name.to_owned(), number: *number, kind, streams: Vec::new() }
        };
        kinds.into_iter().map(&mut next).collect()
    }

    /// Produces until the life is over.
    pub async fn run(mut self) {
        while !self.world.over.get() {
            let client = self.world.connect().await;
            if !self.kind.idempotent {
                // What the last connection has sent may be appended behind what this one sends.
                self.number += 1 << LANES;
            }
            // Errors are of the connection; the records' fate is known to the checker.
            let _ = self.produce(&client).await;
        }
    }

    async fn produce(&mut self, client: &Client<'_>) -> io::Result<()> {
        let mut fresh = true;
        while !self.world.over.get() {
            self.world.pause().await;
            let Some(topic) = self.world.topic(&self.name) else { continue };
            let partition = self.world.sim().below(topic.partitions as u64) as i32;
            match self.kind.idempotent {
                true => self.burst_again(client, &topic, partition, fresh).await?,
                false => self.burst(client, &topic, partition).await?,
            }
            fresh = false;
        }
        Ok(())
    }

    fn promise(&self) -> Promise {
        match self.kind.acks {
            -1 => Promise::Flushed,
            1 => Promise::Written,
            _ => Promise::Nothing,
        }
    }

    /// A batch of new records.
    fn batch(&self, topic: TopicId, partition: i32, spec: &BatchSpec) -> Batch {
        let (world, sim) = (self.world, self.world.sim());
        let now_ms = sim.now().wall_ms;
        let (mut records, mut made) = (Vec::new(), Vec::new());
        for _ in 0..1 + sim.below(4) {
            let filling = match sim.below(24) {
                0 => None,
                1 => Some(sim.below(60_000) as usize),
                2..6 => Some(5000),
                _ => Some(sim.below(300) as usize),
            };
            let key = sim.below(KEYS) as u32;
            let mut history = world.history.borrow_mut();
            let (number, timestamp) = history.partition(topic, partition).send(self.number, key, filling, self.promise(), now_ms);
            records.push(number);
            made.push((history::key(key), filling.map(|filling| history::value(topic, partition, number, filling)), timestamp));
        }
        let pairs: Vec<_> = made.iter().map(|(key, value, timestamp)| (Some(&key[..]), value.as_deref(), *timestamp)).collect();
        Batch { records, bytes: build_batch(spec, &pairs) }
    }

    /// Sends a few batches that are sent once.
    async fn burst(&mut self, client: &Client<'_>, topic: &Topic, partition: i32) -> io::Result<()> {
        let count = 1 + self.world.sim().below(WINDOW as u64) as usize;
        let mut due = Vec::new();
        for _ in 0..count {
            let batch = self.batch(topic.id, partition, &BatchSpec::default());
            let request = client::produce(client::Topic::Id(topic.id), self.kind.acks, [(partition, batch.bytes)]);
            due.push((batch.records, client.send(13, &request).await?));
        }
        if self.kind.acks == 0 {
            return Ok(());
        }
        if self.gives_up() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        for (records, due) in due {
            let (error, offset) = self.answer(client, due).await?;
            match error {
                0 => self.acked(topic.id, partition, &records, offset),
                _ => self.refused(topic.id, partition, error),
            }
        }
        Ok(())
    }

    /// Sends a few batches, and again what has no answer yet.
    async fn burst_again(&mut self, client: &Client<'_>, topic: &Topic, partition: i32, fresh: bool) -> io::Result<()> {
        let Some(mut stream) = self.stream(client, topic.id, partition).await? else { return Ok(()) };
        for _ in 0..1 + self.world.sim().below(WINDOW as u64) {
            if stream.pending.len() == WINDOW {
                break;
            }
            let spec =
                BatchSpec { producer_id: stream.producer_id, producer_epoch: 0, base_sequence: stream.sequence, ..BatchSpec::default() };
            let batch = self.batch(topic.id, partition, &spec);
            stream.sequence += batch.records.len() as i32;
            stream.pending.push_back(batch);
        }
        self.streams.push(stream);
        let mut due = VecDeque::new();
        let sent: Vec<Vec<u8>> = self.streams.last().map_or_else(Vec::new, |s| s.pending.iter().map(|b| b.bytes.clone()).collect());
        for bytes in sent {
            due.push_back(client.send(13, &client::produce(client::Topic::Id(topic.id), -1, [(partition, bytes)])).await?);
        }
        if self.gives_up() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut first = true;
        while let Some(next) = due.pop_front() {
            let (error, offset) = self.answer(client, next).await?;
            let Some(stream) = self.streams.last_mut() else { break };
            if error == 0 || error == code(ErrorCode::DuplicateSequenceNumber) {
                if let Some(batch) = stream.pending.pop_front().filter(|_| error == 0) {
                    self.acked(topic.id, partition, &batch.records, offset);
                }
                first = false;
                continue;
            }
            let broken = [ErrorCode::OutOfOrderSequenceNumber, ErrorCode::UnknownProducerId, ErrorCode::InvalidProducerEpoch];
            if first && broken.iter().any(|e| code(*e) == error) {
                self.forgotten(topic.id, partition, error, fresh);
            } else if !broken.iter().any(|e| code(*e) == error) {
                self.refused(topic.id, partition, error);
            }
            // The others do not follow: their answers come all the same.
            for next in due.drain(..) {
                self.answer(client, next).await?;
            }
        }
        Ok(())
    }

    /// The way into a partition, last in `streams` no more.
    async fn stream(&mut self, client: &Client<'_>, topic: TopicId, partition: i32) -> io::Result<Option<Stream>> {
        if let Some(at) = self.streams.iter().position(|s| (s.topic, s.partition) == (topic, partition)) {
            return Ok(Some(self.streams.swap_remove(at)));
        }
        let given = self.world.within(PATIENCE, requests::producer_id(client)).await?;
        let Ok(producer_id) = given else { return Ok(None) };
        let new = self.world.history.borrow_mut().producer_ids.insert(producer_id);
        if !new {
            self.world.finding(&format!("the producer id {producer_id} is given twice"));
        }
        Ok(Some(Stream { topic, partition, producer_id, sequence: 0, pending: VecDeque::new() }))
    }

    async fn answer(&self, client: &Client<'_>, due: Due) -> io::Result<(i16, i64)> {
        let answer: ProduceResponse = self.world.within(PATIENCE, client.receive(due)).await?;
        let partition = &answer.responses[0].partition_responses[0];
        Ok((partition.error_code, partition.base_offset))
    }

    /// The producer closes its connection with the answers under way.
    fn gives_up(&self) -> bool {
        self.world.plan.does(Feature::LostAnswers) && self.world.one_in(10)
    }

    fn acked(&self, topic: TopicId, partition: i32, records: &[usize], offset: i64) {
        self.world.count("batches");
        self.world.acknowledged(Ack::Batch);
        let mut history = self.world.history.borrow_mut();
        for (at, number) in (offset..).zip(records) {
            let verdict = history.partition(topic, partition).ack(*number, if offset < 0 { -1 } else { at });
            self.world.demand(verdict.map_err(|e| format!("{} partition {partition}: {e}", self.name)));
        }
    }

    /// The broker does not know what this producer sent before.
    fn forgotten(&mut self, topic: TopicId, partition: i32, error: i16, fresh: bool) {
        let stream = self.streams.pop();
        let mut history = self.world.history.borrow_mut();
        // The last of several is known, or follows those that are.
        let earlier = stream.as_ref().is_some_and(|stream| stream.pending.len() > 1);
        let may =
            history.partition(topic, partition).may_forget_producers() || (earlier && history.may_know_last_batch_alone(topic, partition));
        if !may {
            let at = stream.map(|s| (s.producer_id, s.sequence, s.pending.len()));
            self.world.finding(&format!(
                "{} partition {partition}: the broker has forgotten an idempotent producer: code {error}, {at:?}, {fresh}",
                self.name
            ));
        }
    }

    /// A refusal that says that nothing was stored, or does not say.
    fn refused(&self, topic: TopicId, partition: i32, error: i16) {
        self.world.count(format!("refused with {:?}", ErrorCode::from_code(error)));
        let gone = [ErrorCode::UnknownTopicId, ErrorCode::UnknownTopicOrPartition];
        // A directory of the same name that cannot be read may be in the way of its successor.
        let damaged = |history: &mut History| history.of_name(&self.name, partition).any(|life| life.damaged.is_some());
        let mut history = self.world.history.borrow_mut();
        let bad = history.partition(topic, partition).lenient() || damaged(&mut history);
        drop(history);
        let there = self.world.topic(&self.name).is_some_and(|now| now.id == topic);
        let allowed = match ErrorCode::from_code(error) {
            e if gone.contains(&e) => !there,
            ErrorCode::KafkaStorageError | ErrorCode::NotLeaderOrFollower => bad || !there || self.world.disks_ail.get(),
            ErrorCode::RequestTimedOut => self.world.disks_ail.get(),
            _ => false,
        };
        if !allowed && !self.world.out.borrow().is_some() {
            self.world.finding(&format!("{} partition {partition}: a batch is refused with {error}", self.name));
        }
    }
}
