//! Producers and a consumer that know what must be there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;

use super::Machine;
use super::churn::Churn;
use super::client::{self, Client};
use super::commits::Commits;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::wire::batch::{BatchHeader, BatchSpec, Batches, build_batch, crc_ok};
use crate::wire::codec::{
    ApiVersionsRequest, ApiVersionsResponse, FetchRequest, FetchResponse, InitProducerIdRequest, InitProducerIdResponse, MetadataRequest,
    MetadataResponse, ProduceRequest, ProduceResponse, StrBytes, fetch_request, metadata_request,
};
use crate::wire::record::Records;

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 3;
/// How often another topic comes and goes.
const CHURN: u64 = 6;
/// Offsets that a group commits.
const COMMITS: i64 = 60;
/// Bytes of a batch before its records.
pub const HEADER: usize = 61;
/// Batches that an idempotent producer may have under way.
const WINDOW: usize = 5;

/// What one producer sends, and what it was told.
struct Producer {
    number: u64,
    acks: i16,
    partitions: Vec<i32>,
    batches: usize,
    id: Cell<i64>,
    /// Base offsets of acknowledged batches: by batch, in the order of `partitions`. None: given up without an answer.
    acknowledged: RefCell<Vec<Option<Vec<i64>>>>,
    /// Batches that were sent.
    sent: Cell<usize>,
    /// Of those, how many may be lost: acknowledged as written before the power was lost, if the client heard of it then or later.
    at_risk: Cell<usize>,
}

impl Producer {
    fn idempotent(&self) -> bool {
        self.acks == -1
    }

    fn records_of(&self, batch: usize) -> i32 {
        1 + (batch as i32 * 7 + self.number as i32) % 4
    }

    fn first_of(&self, batch: usize) -> i32 {
        (0..batch).map(|b| self.records_of(b)).sum()
    }

    /// A record's value: whose it is, its place, and a filling of a length that depends on both.
    fn value(&self, record: i32) -> Vec<u8> {
        let n = self.number * 31 + record as u64;
        let len = [0, 10, 900, 5000, 30_000, 200, 70, 120_000][(n * n % 8) as usize];
        let mut value = [self.number.to_be_bytes(), (record as u64).to_be_bytes()].concat();
        value.extend((0..len).map(|i| (n + i) as u8));
        value
    }

    fn batch(&self, batch: usize) -> Vec<u8> {
        let first = self.first_of(batch);
        let values: Vec<Vec<u8>> = (first..first + self.records_of(batch)).map(|record| self.value(record)).collect();
        let records: Vec<_> = values.iter().map(|value| (None, Some(&value[..]), 1_760_000_000_000)).collect();
        let spec = match self.idempotent() {
            true => BatchSpec { producer_id: self.id.get(), producer_epoch: 0, base_sequence: first, ..BatchSpec::default() },
            false => BatchSpec::default(),
        };
        build_batch(&spec, &records)
    }
}

/// The clients of one machine.
pub struct Workload<'a> {
    machine: &'a Machine,
    topic_id: Cell<Uuid>,
    producers: Vec<Producer>,
    commits: Commits,
    churn: Churn,
    working: Cell<usize>,
    last_error: RefCell<Option<io::Error>>,
}

impl fmt::Debug for Workload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let progress = self.producers.iter().map(|p| format!("{} of {}", p.acknowledged.borrow().len(), p.batches));
        write!(f, "acknowledged {:?}, last error {:?}", progress.collect::<Vec<_>>(), self.last_error.borrow())
    }
}

/// Waits for all.
async fn all<'a>(mut futures: Vec<Pin<Box<dyn Future<Output = ()> + 'a>>>) {
    poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await
}

impl<'a> Workload<'a> {
    pub fn new(machine: &'a Machine) -> Workload<'a> {
        let producer = |(number, (acks, partitions)): (u64, (i16, &[i32]))| Producer {
            number,
            acks,
            partitions: partitions.to_vec(),
            batches: 20 + machine.sim.below(40) as usize,
            id: Cell::new(-1),
            acknowledged: RefCell::default(),
            sent: Cell::new(0),
            at_risk: Cell::new(0),
        };
        let kinds: [(i16, &[i32]); 5] = [(-1, &[0]), (-1, &[1]), (-1, &[0, 1, 2]), (1, &[0]), (1, &[2])];
        let producers = (0..).zip(kinds).map(producer).collect();
        Workload {
            machine,
            topic_id: Cell::default(),
            producers,
            commits: Commits::default(),
            churn: Churn::new(),
            working: Cell::new(0),
            last_error: RefCell::default(),
        }
    }

    /// What was acknowledged as written only may be gone.
    pub fn power_lost(&self) {
        for producer in self.producers.iter().filter(|p| p.acks == 1) {
            producer.at_risk.set(producer.sent.get());
        }
    }

    /// Creates the topic, produces everything, consumes meanwhile.
    pub async fn run(&self) {
        while self.set_up().await.is_err() {}
        self.working.set(self.producers.len());
        let mut tasks: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        for producer in &self.producers {
            tasks.push(Box::pin(async move {
                while producer.acknowledged.borrow().len() < producer.batches {
                    self.note(self.produce(producer).await);
                }
                self.working.set(self.working.get() - 1);
            }));
        }
        tasks.push(Box::pin(async {
            while self.commits.acknowledged() < COMMITS {
                self.note(self.commits.go_on(self.machine, TOPIC, COMMITS).await);
            }
        }));
        tasks.push(Box::pin(async {
            while self.churn.rounds() < CHURN {
                self.note(self.churn.go_on(self.machine, CHURN).await);
            }
        }));
        tasks.push(Box::pin(async {
            while self.working.get() > 0 {
                self.note(self.follow().await);
            }
        }));
        all(tasks).await;
    }

    fn note(&self, outcome: io::Result<()>) {
        if let Err(e) = outcome {
            *self.last_error.borrow_mut() = Some(e);
        }
    }

    /// Several requests at once, answered in their order: the last ones are quick, the one that creates the topic is not.
    async fn set_up(&self) -> io::Result<()> {
        let client = Client::connect(self.machine).await;
        let mut topic = metadata_request::MetadataRequestTopic::default();
        topic.name = Some(TOPIC.into());
        let mut metadata = MetadataRequest::default();
        (metadata.topics, metadata.allow_auto_topic_creation) = (Some(vec![topic]), true);
        let created = client.send(12, &metadata).await?;
        let mut named = ApiVersionsRequest::default();
        (named.client_software_name, named.client_software_version) = ("simulated".into(), "1.0".into());
        let versions = [client.send(3, &named).await?, client.send(0, &ApiVersionsRequest::default()).await?];
        let created: MetadataResponse = client.receive(created).await?;
        for due in versions {
            let versions: ApiVersionsResponse = client.receive(due).await?;
            assert!(versions.error_code == 0 && versions.api_keys.iter().any(|k| k.api_key == 0 && k.max_version == 13));
        }
        let topic = &created.topics[0];
        assert_eq!((created.topics.len(), topic.error_code, topic.partitions.len()), (1, 0, PARTITIONS as usize));
        assert!(topic.partitions.iter().all(|p| p.error_code == 0));
        self.topic_id.set(topic.topic_id.into());
        for producer in self.producers.iter().filter(|p| p.idempotent() && p.id.get() < 0) {
            let mut wanted = InitProducerIdRequest::default();
            wanted.transactional_id = None;
            (wanted.transaction_timeout_ms, wanted.producer_id, wanted.producer_epoch) = (60_000, -1, -1);
            let given: InitProducerIdResponse = client.ask(4, &wanted).await?;
            assert_eq!((given.error_code, given.producer_epoch), (0, 0));
            assert!(self.producers.iter().all(|p| p.id.get() != given.producer_id), "a producer id given twice");
            producer.id.set(given.producer_id);
        }
        Ok(())
    }

    /// Produces from the first batch that is not acknowledged, until all are or the connection ends.
    async fn produce(&self, producer: &Producer) -> io::Result<()> {
        let client = Client::connect(self.machine).await;
        let done = || producer.acknowledged.borrow().len();
        let mut due = VecDeque::new();
        let mut next = done();
        let outcome = async {
            while done() < producer.batches {
                let most = 1 + self.machine.sim.below(WINDOW as u64) as usize;
                while next < producer.batches && due.len() < most {
                    let version = self.machine.choose(&[7, 9, 12, 13]);
                    // Counted before it is sent: it may arrive although sending it fails.
                    next += 1;
                    producer.sent.set(next);
                    due.push_back(None);
                    let sent = client.send(version, &self.request(producer, next - 1, version)).await?;
                    *due.back_mut().unwrap() = Some(sent);
                }
                if let Some(Some(first)) = due.front() {
                    let answer: ProduceResponse = client.receive(*first).await?;
                    let offsets = offsets(producer, &answer, self.machine.was_full.get())?;
                    due.pop_front();
                    producer.acknowledged.borrow_mut().push(Some(offsets));
                }
            }
            Ok(())
        }
        .await;
        if !producer.idempotent() {
            // It cannot know whether these have arrived, and sending them again might make them two.
            producer.acknowledged.borrow_mut().extend(due.iter().map(|_| None));
        }
        outcome
    }

    fn request(&self, producer: &Producer, batch: usize, version: i16) -> ProduceRequest {
        let topic = if version >= 13 { client::Topic::Id(self.topic_id.get()) } else { client::Topic::Name(TOPIC) };
        let batches = producer.partitions.iter().map(|partition| (*partition, producer.batch(batch)));
        client::produce(topic, producer.acks, batches)
    }

    /// One fetch of all partitions from the given offsets: the records, and the high watermarks.
    async fn fetch(&self, client: &Client<'_>, offsets: &[i64]) -> io::Result<Vec<(Vec<u8>, i64)>> {
        let version = self.machine.choose(&[4, 11, 12, 13, 17]);
        let mut topic = fetch_request::FetchTopic::default();
        if version >= 13 {
            topic.topic_id = self.topic_id.get().into();
        } else {
            topic.topic = StrBytes::from(TOPIC);
        }
        for (partition, offset) in (0..).zip(offsets) {
            let mut wanted = fetch_request::FetchPartition::default();
            (wanted.partition, wanted.fetch_offset, wanted.current_leader_epoch) = (partition, *offset, -1);
            (wanted.last_fetched_epoch, wanted.log_start_offset) = (-1, -1);
            wanted.partition_max_bytes = self.machine.choose(&[1, 10_000, 1 << 20]);
            topic.partitions.push(wanted);
        }
        let mut request = FetchRequest::default();
        (request.cluster_id, request.replica_id) = (None, -1);
        (request.session_epoch, request.max_wait_ms, request.min_bytes) = (-1, 20, self.machine.choose(&[0, 1, 5000]));
        (request.max_bytes, request.topics) = (self.machine.choose(&[1, 200_000, 1 << 24]), vec![topic]);
        let response: FetchResponse = client.ask(version, &request).await?;
        assert_eq!((response.error_code, response.responses.len()), (0, 1));
        let mut found = Vec::new();
        for (index, partition) in (0..).zip(&response.responses[0].partitions) {
            assert_eq!((partition.partition_index, partition.error_code), (index, 0));
            found.push((partition.records.clone().unwrap_or_default().to_vec(), partition.high_watermark));
        }
        Ok(found)
    }

    /// Reads at the tail as long as the connection lasts and somebody produces.
    async fn follow(&self) -> io::Result<()> {
        let client = Client::connect(self.machine).await;
        let mut next = [0; PARTITIONS as usize];
        while self.working.get() > 0 {
            let found = self.fetch(&client, &next).await?;
            for (next, (records, _)) in next.iter_mut().zip(&found) {
                for (header, _) in batches(records, *next) {
                    *next = header.next_offset();
                }
            }
        }
        Ok(())
    }

    /// Reads everything and holds it against what was acknowledged.
    pub async fn check(&self) {
        let partitions = loop {
            if let Ok(partitions) = self.read_all().await {
                break partitions;
            }
        };
        for producer in &self.producers {
            for (column, partition) in producer.partitions.iter().enumerate() {
                self.check_one(producer, column, &partitions[*partition as usize]);
            }
        }
    }

    async fn read_all(&self) -> io::Result<Vec<Vec<u8>>> {
        let client = Client::connect(self.machine).await;
        let mut all = vec![Vec::new(); PARTITIONS as usize];
        let mut next = [0; PARTITIONS as usize];
        loop {
            let mut ends = true;
            for (i, (records, high_watermark)) in self.fetch(&client, &next).await?.into_iter().enumerate() {
                for (header, _) in batches(&records, next[i]) {
                    next[i] = header.next_offset();
                }
                ends &= next[i] == high_watermark;
                all[i].extend(records);
            }
            if ends {
                return Ok(all);
            }
        }
    }

    fn check_one(&self, producer: &Producer, column: usize, partition: &[u8]) {
        // Batches of this producer in the order of the log: number and base offset.
        let mut found: Vec<(usize, i64)> = Vec::new();
        for (header, bytes) in batches(partition, 0) {
            let values: Vec<Vec<u8>> =
                Records::new(&bytes[HEADER..], header.records_count).map(|r| r.unwrap().value.unwrap().to_vec()).collect();
            if u64::from_be_bytes(values[0][..8].try_into().unwrap()) != producer.number {
                continue;
            }
            let first = u64::from_be_bytes(values[0][8..16].try_into().unwrap()) as i32;
            let batch = (0..producer.batches).find(|b| producer.first_of(*b) == first).expect("a record that was never sent");
            assert_eq!(values.len(), producer.records_of(batch) as usize);
            assert!((first..).zip(&values).all(|(record, value)| *value == producer.value(record)), "other bytes than were sent");
            found.push((batch, header.base_offset));
        }
        let acknowledged = producer.acknowledged.borrow();
        let who = format!("producer {} in partition {}", producer.number, producer.partitions[column]);
        assert!(found.is_sorted_by(|a, b| a.0 < b.0), "{who}: twice or out of order: {found:?}");
        for (batch, told) in acknowledged.iter().enumerate() {
            let at = found.iter().find(|f| f.0 == batch).map(|f| f.1);
            match told {
                Some(offsets) if batch >= producer.at_risk.get() => {
                    assert_eq!(at, Some(offsets[column]), "{who}: batch {batch} was acknowledged");
                }
                _ => {}
            }
        }
        if producer.idempotent() {
            assert_eq!(found.len(), producer.batches, "{who}");
        }
    }
}

/// The base offsets that an answer gives, in the order of the producer's partitions.
/// The base offsets, or an error when the disk was full: then it is begun again behind what was acknowledged.
fn offsets(producer: &Producer, answer: &ProduceResponse, was_full: bool) -> io::Result<Vec<i64>> {
    assert_eq!(answer.responses.len(), 1);
    let partitions = &answer.responses[0].partition_responses;
    assert_eq!(partitions.iter().map(|p| p.index).collect::<Vec<_>>(), producer.partitions);
    for partition in partitions {
        let code = partition.error_code;
        // Of several batches under way the later ones do not follow when the first one is refused.
        let refusals = [ErrorCode::KafkaStorageError.code(), ErrorCode::OutOfOrderSequenceNumber.code()];
        if was_full && refusals.contains(&code) {
            return Err(io::Error::other(format!("refused with {code}")));
        }
        assert_eq!(code, ErrorCode::None.code(), "producer {}: {:?}", producer.number, partition.error_message);
    }
    Ok(partitions.iter().map(|p| p.base_offset).collect())
}

/// Whole, intact batches without a gap from `next` on, which may lie in the first.
fn batches(records: &[u8], mut next: i64) -> Vec<(BatchHeader, &[u8])> {
    let mut found = Vec::new();
    for batch in Batches::new(records) {
        let (header, bytes) = batch.expect("whole batches");
        assert!(crc_ok(bytes));
        assert!(header.next_offset() > next && (header.base_offset == next || found.is_empty()), "a gap before {}", header.base_offset);
        assert!(header.base_offset <= next);
        next = header.next_offset();
        found.push((header, bytes));
    }
    found
}
