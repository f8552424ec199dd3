//! A producer to one topic: batches by partition, sent when one is full or when it is told to.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::partitioner::partition_for_key;
use super::{Client, ClientError, RETRY_PAUSE};
use crate::base::error::ErrorCode;
use crate::base::ids::BrokerId;
use crate::base::prng::Prng;
use crate::wire::batch::{BatchSpec, HEADER_LEN, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NewRecord, build_batch_of};
use crate::wire::codec::{InitProducerIdRequest, ProduceRequest, ProduceResponse, produce_request};
use crate::wire::compression::Compression;

/// What a record takes in a batch besides key, value and headers, at most.
const RECORD_OVERHEAD: usize = 21;

/// How records are to be sent.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Where to.
    pub topic: String,
    /// 0, 1, or -1 for all.
    pub acks: i16,
    /// Whether repeats are to be recognised by the broker.
    pub idempotent: bool,
    /// How batches are compressed.
    pub compression: Compression,
    /// A batch is sent when it has come to this, bytes.
    pub batch_bytes: usize,
    /// A record may have this size, bytes.
    pub max_request_bytes: usize,
    /// How often a batch is sent again.
    pub retries: u32,
    /// The pause before that.
    pub retry_backoff: Duration,
    /// How long the broker may wait for replicas, milliseconds.
    pub request_timeout_ms: i32,
    /// How long to wait for the topic to be there.
    pub max_block: Duration,
    /// Makes the choice of partitions differ from run to run.
    pub seed: u64,
}

/// A record that was not delivered, and why.
pub type Undelivered = (NewRecord, ClientError);

/// Records on their way.
pub struct Producer {
    client: Client,
    config: ProducerConfig,
    leaders: Vec<Option<BrokerId>>,
    pending: BTreeMap<usize, (Vec<NewRecord>, usize)>,
    sticky: Option<usize>,
    /// Producer id and epoch.
    identity: Option<(i64, i16)>,
    sequences: HashMap<usize, i32>,
    prng: Prng,
}

impl Producer {
    /// Nothing is sent yet.
    pub fn new(client: Client, config: ProducerConfig) -> Producer {
        let prng = Prng::new(config.seed);
        let (leaders, pending, sequences) = (Vec::new(), BTreeMap::new(), HashMap::new());
        Producer { client, config, leaders, pending, sticky: None, identity: None, sequences, prng }
    }

    /// Whether the topic was found. Until then each record waits for it, and failing to find it is a reason to give up.
    pub fn has_topic(&self) -> bool {
        !self.leaders.is_empty()
    }

    /// Whether something waits to be sent.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes a record; sends everything if its batch is full. What could not be delivered comes back.
    pub fn add(&mut self, record: NewRecord) -> Vec<Undelivered> {
        let size = size(&record);
        if HEADER_LEN + size > self.config.max_request_bytes {
            let text = format!(
                "The message is {} bytes when serialized which is larger than {}, which is the value of the max.request.size configuration.",
                HEADER_LEN + size,
                self.config.max_request_bytes
            );
            return vec![(record, ClientError::Broker(ErrorCode::MessageTooLarge, Some(text)))];
        }
        if self.leaders.is_empty()
            && let Err(error) = self.await_topic()
        {
            return vec![(record, error)];
        }
        let partition = match &record.key {
            Some(key) => partition_for_key(key, self.leaders.len()),
            None => self.sticky_partition(),
        };
        let mut failed = Vec::new();
        if self.pending.get(&partition).is_some_and(|(_, bytes)| bytes + size > self.config.batch_bytes) {
            failed = self.flush();
        }
        let (records, bytes) = self.pending.entry(partition).or_insert((Vec::new(), HEADER_LEN));
        records.push(record);
        *bytes += size;
        if *bytes >= self.config.batch_bytes {
            failed.append(&mut self.flush());
        }
        failed
    }

    /// Sends everything and waits for the answers. What could not be delivered comes back.
    pub fn flush(&mut self) -> Vec<Undelivered> {
        self.sticky = None;
        let mut undelivered = Vec::new();
        let mut waiting: Vec<(usize, Vec<NewRecord>)> =
            std::mem::take(&mut self.pending).into_iter().map(|(partition, (records, _))| (partition, records)).collect();
        let mut tries = 0;
        while !waiting.is_empty() {
            if tries > 0 {
                std::thread::sleep(self.config.retry_backoff);
                // Best effort: what is wrong shows again with the next try.
                let _ = self.refresh();
            }
            tries += 1;
            let mut failed = self.send(waiting);
            let again = |error: &ClientError| tries <= self.config.retries && may_pass(error);
            waiting = failed.extract_if(.., |(_, _, error)| again(error)).map(|(partition, records, _)| (partition, records)).collect();
            if !failed.is_empty() {
                // Their sequence numbers are gone: whatever follows starts anew.
                self.identity = None;
                self.sequences.clear();
            }
            for (_, records, error) in failed {
                undelivered.extend(records.into_iter().map(|record| (record, error.clone())));
            }
        }
        undelivered
    }

    /// One try for all batches; those that failed come back.
    fn send(&mut self, batches: Vec<(usize, Vec<NewRecord>)>) -> Vec<(usize, Vec<NewRecord>, ClientError)> {
        let mut failed = Vec::new();
        if let Err(error) = self.identify() {
            return batches.into_iter().map(|(partition, records)| (partition, records, error.clone())).collect();
        }
        let mut by_leader: BTreeMap<BrokerId, Vec<(usize, Vec<NewRecord>)>> = BTreeMap::new();
        for (partition, records) in batches {
            match self.leaders.get(partition).copied().flatten() {
                Some(leader) => by_leader.entry(leader).or_default().push((partition, records)),
                None => failed.push((partition, records, ClientError::Broker(ErrorCode::LeaderNotAvailable, None))),
            }
        }
        for (leader, batches) in by_leader {
            let request = self.request(&batches);
            let answer = if self.config.acks == 0 { self.tell(leader, &request) } else { self.client.ask_node(leader, &request) };
            for (partition, records) in batches {
                match answer.as_ref().map_err(Clone::clone).and_then(|response| result(response, partition)) {
                    Ok(()) => self.count(partition, records.len()),
                    Err(error) => failed.push((partition, records, error)),
                }
            }
        }
        failed
    }

    fn tell(&mut self, leader: BrokerId, request: &ProduceRequest) -> Result<ProduceResponse, ClientError> {
        self.client.tell_node(leader, request).map(|()| ProduceResponse::default())
    }

    fn request(&self, batches: &[(usize, Vec<NewRecord>)]) -> ProduceRequest {
        let mut topic = produce_request::TopicProduceData::default();
        topic.name = self.config.topic.as_str().into();
        for (partition, records) in batches {
            let (producer_id, producer_epoch) = self.identity.unwrap_or((NO_PRODUCER_ID, NO_PRODUCER_EPOCH));
            let base_sequence = match self.identity {
                Some(_) => self.sequences.get(partition).copied().unwrap_or(0),
                None => NO_SEQUENCE,
            };
            let compression = self.config.compression;
            let spec = BatchSpec { compression, producer_id, producer_epoch, base_sequence, ..BatchSpec::default() };
            let mut data = produce_request::PartitionProduceData::default();
            (data.index, data.records) = (*partition as i32, Some(build_batch_of(&spec, records).into()));
            topic.partition_data.push(data);
        }
        let mut request = ProduceRequest::default();
        request.transactional_id = None;
        (request.acks, request.timeout_ms) = (self.config.acks, self.config.request_timeout_ms);
        request.topic_data.push(topic);
        request
    }

    /// Asks for a producer id where one is wanted and the broker has them.
    fn identify(&mut self) -> Result<(), ClientError> {
        if !self.config.idempotent || self.identity.is_some() {
            return Ok(());
        }
        let mut request = InitProducerIdRequest::default();
        // What the codec takes for a default is an empty id, not none.
        request.transactional_id = None;
        (request.transaction_timeout_ms, request.producer_id, request.producer_epoch) = (i32::MAX, -1, -1);
        match self.client.ask(&request) {
            Err(ClientError::Unsupported(_)) => self.config.idempotent = false,
            answer => {
                let answer = answer?;
                ClientError::check(answer.error_code, None)?;
                self.identity = Some((answer.producer_id, answer.producer_epoch));
            }
        }
        Ok(())
    }

    fn count(&mut self, partition: usize, records: usize) {
        if self.identity.is_some() {
            let sequence = self.sequences.entry(partition).or_insert(0);
            *sequence = sequence.wrapping_add(records as i32) & i32::MAX;
        }
    }

    /// Records without a key go to one partition until their batch is sent.
    fn sticky_partition(&mut self) -> usize {
        if let Some(partition) = self.sticky {
            return partition;
        }
        let up: Vec<usize> = (0..self.leaders.len()).filter(|partition| self.leaders[*partition].is_some()).collect();
        let chosen = match up.len() {
            0 => 0,
            n => up[self.prng.below(n as u64) as usize],
        };
        self.sticky = Some(chosen);
        chosen
    }

    /// Waits until the topic is there, which asking for it may bring about. Where nobody answers there is no point in waiting.
    fn await_topic(&mut self) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.config.max_block;
        loop {
            match self.refresh() {
                Ok(()) if !self.leaders.is_empty() => return Ok(()),
                Err(error @ ClientError::Unreachable(..)) => return Err(error),
                Err(error) if !may_pass(&error) => return Err(error),
                _ if Instant::now() >= deadline => {
                    let ProducerConfig { topic, max_block, .. } = &self.config;
                    let text = format!("Topic {topic} not present in metadata after {} ms.", max_block.as_millis());
                    return Err(ClientError::Broker(ErrorCode::RequestTimedOut, Some(text)));
                }
                _ => std::thread::sleep(RETRY_PAUSE),
            }
        }
    }

    fn refresh(&mut self) -> Result<(), ClientError> {
        let response = self.client.metadata(Some(&[self.config.topic.as_str()]), true)?;
        let Some(topic) = response.topics.first() else { return Ok(()) };
        ClientError::check(topic.error_code, None)?;
        let mut leaders = vec![None; topic.partitions.len()];
        for partition in &topic.partitions {
            if let Some(leader) = usize::try_from(partition.partition_index).ok().and_then(|index| leaders.get_mut(index)) {
                *leader = Some(partition.leader_id).filter(|leader| *leader >= 0);
            }
        }
        self.leaders = leaders;
        Ok(())
    }
}

/// Errors after which the batch is sent again: a lost answer too, as the broker may have the records or not.
fn may_pass(error: &ClientError) -> bool {
    let more = matches!(
        error,
        ClientError::Timeout(_)
            | ClientError::Unreachable(..)
            | ClientError::Broker(
                ErrorCode::UnknownTopicOrPartition
                    | ErrorCode::CorruptMessage
                    | ErrorCode::KafkaStorageError
                    | ErrorCode::NotEnoughReplicas
                    | ErrorCode::NotEnoughReplicasAfterAppend,
                _
            )
    );
    more || error.is_retriable()
}

/// What the broker says of one partition's batch.
fn result(response: &ProduceResponse, partition: usize) -> Result<(), ClientError> {
    let mut results = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    let Some(result) = results.find(|result| result.index == partition as i32) else { return Ok(()) };
    match ErrorCode::from_code(result.error_code) {
        // The copy that was sent before has arrived.
        ErrorCode::DuplicateSequenceNumber => Ok(()),
        _ => ClientError::check(result.error_code, result.error_message.as_deref()),
    }
}

fn size(record: &NewRecord) -> usize {
    let length = |field: &Option<Vec<u8>>| field.as_ref().map_or(0, Vec::len);
    let headers: usize = record.headers.iter().map(|(key, value)| key.len() + length(value) + 10).sum();
    RECORD_OVERHEAD + length(&record.key) + length(&record.value) + headers
}
