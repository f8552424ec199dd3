//! A client that speaks in raw frames, cut anywhere.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use super::Machine;
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::sim::SimClient;
use crate::wire::batch::{BatchSpec, build_batch};
use crate::wire::codec::{
    self, Message, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, Request, metadata_request, produce_request,
};
use crate::wire::frame::{parse_response, request_frame};
use crate::wire::versions::ApiKey;

/// Timeout in ms of a produce request.
pub const TIMEOUT_MS: i32 = 30_000;
/// Timestamp of records of [`produce_record`].
const RECORD_MS: i64 = 1_760_000_000_000;

/// The name of a topic in a produce request.
pub enum Topic<'t> {
    /// Up to version 12.
    Name(&'t str),
    /// From version 13 on.
    Id(TopicId),
}

/// A produce request of one topic, with a batch for each of some partitions.
pub fn produce(topic: Topic<'_>, acks: i16, batches: impl IntoIterator<Item = (i32, Vec<u8>)>) -> ProduceRequest {
    let mut entry = produce_request::TopicProduceData::default();
    match topic {
        Topic::Name(name) => entry.name = name.into(),
        Topic::Id(id) => entry.topic_id = id.into(),
    }
    for (partition, batch) in batches {
        let mut data = produce_request::PartitionProduceData::default();
        (data.index, data.records) = (partition, Some(batch.into()));
        entry.partition_data.push(data);
    }
    let mut request = ProduceRequest::default();
    request.transactional_id = None;
    (request.acks, request.timeout_ms, request.topic_data) = (acks, TIMEOUT_MS, vec![entry]);
    request
}

/// A produce request with acks=all and one record without a key, for versions up to 12.
pub fn produce_record(topic: &str, partition: i32, value: &[u8]) -> ProduceRequest {
    let batch = build_batch(&BatchSpec::default(), &[(None, Some(value), RECORD_MS)]);
    produce(Topic::Name(topic), -1, [(partition, batch)])
}

/// A connection, as long as it lasts.
pub struct Client<'a> {
    machine: &'a Machine,
    connection: SimClient,
    next: Cell<i32>,
}

/// A request whose answer is due.
#[derive(Clone, Copy)]
pub struct Due {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
}

impl<'a> Client<'a> {
    /// Connects, however long the broker needs to be there.
    pub async fn connect(machine: &'a Machine) -> Client<'a> {
        loop {
            if let Some(client) = Client::try_connect(machine).await {
                return client;
            }
            machine.sim.sleep(Duration::from_millis(3)).await;
        }
    }

    /// Connects, if the broker is there.
    pub async fn try_connect(machine: &'a Machine) -> Option<Client<'a>> {
        let connection = machine.sim.connect(machine.address).await.ok()?;
        Some(Client { machine, connection, next: Cell::new(machine.sim.below(1000) as i32) })
    }

    /// The machine with the broker.
    pub fn machine(&self) -> &'a Machine {
        self.machine
    }

    /// Sends a request in pieces; its answer is to be received in turn.
    pub async fn send<R: Request>(&self, version: i16, request: &R) -> io::Result<Due> {
        let correlation_id = self.next.replace(self.next.get() + 1);
        let frame = request_frame(version, correlation_id, Some("simulated"), request).unwrap();
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let sim = &self.machine.sim;
            let cut = if sim.below(3) == 0 { 1 + sim.below(rest.len() as u64) as usize } else { rest.len() };
            self.connection.write_all(&rest[..cut]).await?;
            rest = &rest[cut..];
            if !rest.is_empty() && sim.below(2) == 0 {
                sim.sleep(Duration::from_micros(sim.below(500))).await;
            }
        }
        let api = ApiKey::from_code(R::API_KEY.value()).unwrap();
        Ok(Due { api, version, correlation_id })
    }

    /// The next answer, which has to be that of `due`.
    pub async fn receive<M: Message>(&self, due: Due) -> io::Result<M> {
        let size = self.connection.read_exact(4).await?;
        let size = i32::from_be_bytes(size[..].try_into().unwrap());
        let frame = Bytes::from(self.connection.read_exact(size as usize).await?);
        let (correlation_id, body) = parse_response(due.api, due.version, frame).unwrap();
        assert_eq!(correlation_id, due.correlation_id, "an answer out of turn");
        Ok(codec::decode_any_size(body, due.version).unwrap())
    }

    /// Has a topic created by asking for it.
    pub async fn auto_create(&self, topic: &str) {
        let mut asked = metadata_request::MetadataRequestTopic::default();
        asked.name = Some(topic.to_owned().into());
        let mut metadata = MetadataRequest::default();
        (metadata.topics, metadata.allow_auto_topic_creation) = (Some(vec![asked]), true);
        let created: MetadataResponse = self.ask(12, &metadata).await.unwrap();
        assert_eq!(created.topics[0].error_code, 0);
    }

    /// Appends one record with acks=all; the error code.
    pub async fn append(&self, topic: &str, partition: i32, value: &[u8]) -> io::Result<ErrorCode> {
        let answer: ProduceResponse = self.ask(9, &produce_record(topic, partition, value)).await?;
        Ok(ErrorCode::from_code(answer.responses[0].partition_responses[0].error_code))
    }

    /// Asks and waits.
    pub async fn ask<R: Request, M: Message>(&self, version: i16, request: &R) -> io::Result<M> {
        let due = self.send(version, request).await?;
        self.receive(due).await
    }
}
