//! Consumers that ask for much and take nothing: the others still read what is on the disk.

use std::time::Duration;

use super::Machine;
use super::client::Client;
use crate::base::error::ErrorCode;
use crate::wire::codec::{FetchRequest, FetchResponse, fetch_request};

const TOPIC: &str = "long";
const PARTITIONS: i32 = 3;
/// Of each partition.
const BATCHES: i64 = 24;
const BATCH: usize = 400_000;

async fn fill(machine: &Machine) {
    let client = Client::connect(machine).await;
    client.auto_create(TOPIC).await;
    for n in 0..BATCHES as i32 * PARTITIONS {
        let appended = client.append(TOPIC, n % PARTITIONS, &[n as u8; BATCH]).await.unwrap();
        assert_eq!(appended, ErrorCode::None);
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
