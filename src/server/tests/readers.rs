//! Consumers that ask for much and take nothing: the others still read what is on the disk.

use std::time::Duration;

use super::Machine;
use super::client::Client;
use crate::wire::batch::{BatchSpec, build_batch};
use crate::wire::codec::{
    FetchRequest, FetchResponse, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, fetch_request, metadata_request,
    produce_request,
};

const TOPIC: &str = "long";
const PARTITIONS: i32 = 3;
/// Of each partition.
const BATCHES: i64 = 24;
const BATCH: usize = 400_000;

async fn fill(machine: &Machine) {
    let client = Client::connect(machine).await;
    let mut topic = metadata_request::MetadataRequestTopic::default();
    topic.name = Some(TOPIC.into());
    let mut metadata = MetadataRequest::default();
    (metadata.topics, metadata.allow_auto_topic_creation) = (Some(vec![topic]), true);
    let created: MetadataResponse = client.ask(12, &metadata).await.unwrap();
    assert_eq!(created.topics[0].error_code, 0);
    for n in 0..BATCHES as i32 * PARTITIONS {
        let batch = build_batch(&BatchSpec::default(), &[(None, Some(&[n as u8; BATCH]), 1_760_000_000_000)]);
        let mut data = produce_request::PartitionProduceData::default();
        (data.index, data.records) = (n % PARTITIONS, Some(batch.into()));
        let mut topic = produce_request::TopicProduceData::default();
        (topic.name, topic.partition_data) = (TOPIC.into(), vec![data]);
        let mut request = ProduceRequest::default();
        request.transactional_id = None;
        (request.acks, request.timeout_ms, request.topic_data) = (-1, 30_000, vec![topic]);
        let answer: ProduceResponse = client.ask(9, &request).await.unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }
}

/// Asks for all partitions from `offset` on.
fn fetch(offset: i64) -> FetchRequest {
    let partition = |index| {
        let mut partition = fetch_request::FetchPartition::default();
        (partition.partition, partition.fetch_offset, partition.partition_max_bytes) = (index, offset, 1 << 20);
        partition
    };
    let mut topic = fetch_request::FetchTopic::default();
    (topic.topic, topic.partitions) = (TOPIC.into(), (0..PARTITIONS).map(partition).collect());
    let mut request = FetchRequest::default();
    (request.cluster_id, request.replica_id, request.session_epoch) = (None, -1, -1);
    (request.max_wait_ms, request.min_bytes, request.max_bytes) = (100, 1, 50 << 20);
    request.topics = vec![topic];
    request
}

/// So many consumers ask and do not read; then another reads all within the time. Each core has so
/// many bytes of memory.
fn held_up(seed: u64, memory: usize, stuck: i64, within: Duration) {
    let machine = Machine::with_memory(seed, memory);
    machine.start();
    machine.sim.run_until(async {
        fill(&machine).await;
        let mut clients = Vec::new();
        for n in 0..stuck {
            let client = Client::connect(&machine).await;
            for _ in 0..4 {
                client.send(11, &fetch(n)).await.unwrap();
            }
            clients.push(client);
        }
        machine.sim.sleep(Duration::from_secs(1)).await;
        let begun = machine.sim.now().mono;
        let client = Client::connect(&machine).await;
        for offset in 0..BATCHES {
            let answer: FetchResponse = client.ask(11, &fetch(offset)).await.unwrap();
            let records = answer.responses[0].partitions.iter().map(|p| p.records.as_ref().map_or(0, |r| r.len()));
            assert!(records.sum::<usize>() >= BATCH, "nothing at offset {offset}");
        }
        let took = machine.sim.now().mono - begun;
        assert!(took < within, "{stuck} that do not read have held it up for {took:?}");
    });
}

#[test]
fn a_few_consumers_that_do_not_read_hold_up_nobody_else() {
    (0..4).for_each(|seed| held_up(seed, 32 << 20, 4, Duration::from_secs(2)));
}

#[test]
fn of_many_consumers_that_do_not_read_some_are_closed() {
    (0..4).for_each(|seed| held_up(seed, 8 << 20, 30, Duration::from_secs(60)));
}
