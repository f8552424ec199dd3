//! A topic that comes and goes: what was deleted stays away with all its records, and what was created stays.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use super::Machine;
use super::client::Client;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::wire::batch::Batches;
use crate::wire::codec::create_topics_request::CreatableTopic;
use crate::wire::codec::delete_topics_request::DeleteTopicState;
use crate::wire::codec::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, FetchRequest, FetchResponse, MetadataRequest,
    MetadataResponse, fetch_request, metadata_request,
};
use crate::wire::record::Records;

const TOPIC: &str = "comes-and-goes";
/// Batches of each life of the topic.
const BATCHES: u64 = 4;

/// What is known of the topic.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Gone,
    There(Uuid),
    /// A creation or a deletion was not answered.
    Unknown,
}

/// Creations and deletions so far.
pub struct Churn {
    known: Cell<Known>,
    /// Deletions that were acknowledged.
    deleted: Cell<u64>,
    /// Batches of the present life that were acknowledged.
    acknowledged: Cell<u64>,
}

impl Churn {
    pub fn new() -> Churn {
        Churn { known: Cell::new(Known::Gone), deleted: Cell::new(0), acknowledged: Cell::new(0) }
    }

    /// How often the topic has come and gone.
    pub fn rounds(&self) -> u64 {
        self.deleted.get()
    }

    /// Creates, fills and deletes the topic until it has gone `rounds` times, or until the connection ends.
    pub async fn go_on(&self, machine: &Machine, rounds: u64) -> io::Result<()> {
        let client = Client::connect(machine).await;
        self.look(&client).await?;
        while self.deleted.get() < rounds {
            if self.known.get() == Known::Gone {
                self.create(&client).await?;
                self.look(&client).await?;
            }
            while self.acknowledged.get() < BATCHES {
                match self.produce(&client).await? {
                    ErrorCode::None => self.acknowledged.set(self.acknowledged.get() + 1),
                    ErrorCode::KafkaStorageError if machine.was_full.get() => {
                        machine.sim.sleep(Duration::from_millis(2)).await;
                    }
                    code => panic!("a batch is refused with {code:?}"),
                }
            }
            self.look(&client).await?;
            self.delete(&client).await?;
            self.look(&client).await?;
        }
        Ok(())
    }

    async fn create(&self, client: &Client<'_>) -> io::Result<()> {
        let mut topic = CreatableTopic::default();
        (topic.name, topic.num_partitions, topic.replication_factor) = (TOPIC.into(), 2, 1);
        let mut request = CreateTopicsRequest::default();
        (request.topics, request.timeout_ms) = (vec![topic], 30_000);
        self.known.set(Known::Unknown);
        self.acknowledged.set(0);
        let answer: CreateTopicsResponse = client.ask(7, &request).await?;
        assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
        self.known.set(Known::There(answer.topics[0].topic_id.into()));
        Ok(())
    }

    async fn delete(&self, client: &Client<'_>) -> io::Result<()> {
        let mut topic = DeleteTopicState::default();
        topic.name = Some(TOPIC.into());
        let mut request = DeleteTopicsRequest::default();
        (request.topics, request.timeout_ms) = (vec![topic], 30_000);
        self.known.set(Known::Unknown);
        let answer: DeleteTopicsResponse = client.ask(6, &request).await?;
        assert_eq!(answer.responses[0].error_code, 0);
        self.known.set(Known::Gone);
        self.deleted.set(self.deleted.get() + 1);
        Ok(())
    }

    fn id(&self) -> Uuid {
        match self.known.get() {
            Known::There(id) => id,
            other => panic!("nobody should ask for the id of a topic that is {other:?}"),
        }
    }

    /// Appends a batch that names this life of the topic; the error code.
    async fn produce(&self, client: &Client<'_>) -> io::Result<ErrorCode> {
        let value = [&self.id().0[..], &self.acknowledged.get().to_be_bytes()].concat();
        client.append(TOPIC, 0, &value).await
    }

    /// Holds what the broker says of the topic, and all its records, against what is known.
    async fn look(&self, client: &Client<'_>) -> io::Result<()> {
        let mut topic = metadata_request::MetadataRequestTopic::default();
        topic.name = Some(TOPIC.into());
        let mut request = MetadataRequest::default();
        (request.topics, request.allow_auto_topic_creation) = (Some(vec![topic]), false);
        let answer: MetadataResponse = client.ask(12, &request).await?;
        let topic = &answer.topics[0];
        let found = match topic.error_code {
            0 => Known::There(topic.topic_id.into()),
            code => {
                assert_eq!(code, ErrorCode::UnknownTopicOrPartition.code());
                Known::Gone
            }
        };
        match self.known.get() {
            Known::Unknown => self.known.set(found),
            known => assert_eq!(found, known),
        }
        match found {
            Known::There(id) => self.read(client, id).await,
            _ => Ok(()),
        }
    }

    /// All records are of this life, and those that were acknowledged are there.
    async fn read(&self, client: &Client<'_>, id: Uuid) -> io::Result<()> {
        let mut wanted = fetch_request::FetchPartition::default();
        (wanted.current_leader_epoch, wanted.last_fetched_epoch, wanted.log_start_offset) = (-1, -1, -1);
        wanted.partition_max_bytes = 1 << 20;
        let mut topic = fetch_request::FetchTopic::default();
        (topic.topic, topic.partitions) = (TOPIC.into(), vec![wanted]);
        let mut request = FetchRequest::default();
        (request.cluster_id, request.replica_id, request.session_epoch) = (None, -1, -1);
        (request.max_bytes, request.topics) = (1 << 20, vec![topic]);
        let answer: FetchResponse = client.ask(11, &request).await?;
        let partition = &answer.responses[0].partitions[0];
        if partition.error_code == ErrorCode::KafkaStorageError.code() && client.machine().was_full.get() {
            return Ok(());
        }
        assert_eq!(partition.error_code, 0);
        let records = partition.records.clone().unwrap_or_default();
        let mut found = 0;
        for batch in Batches::new(&records) {
            let (header, bytes) = batch.expect("whole batches");
            for record in Records::new(&bytes[super::workload::HEADER..], header.records_count) {
                assert_eq!(record.unwrap().value.unwrap()[..16], id.0, "a record of another life of the topic");
                found += 1;
            }
        }
        assert!(found >= self.acknowledged.get(), "{found} of {} acknowledged records", self.acknowledged.get());
        Ok(())
    }
}
