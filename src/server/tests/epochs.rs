//! The leader epoch of a log that opens unclean grows, whatever the other logs of the process did.

use super::client::Client;
use super::{Down, Machine};
use crate::base::error::ErrorCode;
use crate::rt::{Open, Rt};
use crate::sim::{Fault, FaultOp};
use crate::wire::batch::{BatchSpec, build_batch};
use crate::wire::codec::{MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, metadata_request, produce_request};

const TOPIC: &str = "epochs";

/// The leader epochs of the topic's partitions; it is made if it is missing.
async fn epochs(client: &Client<'_>) -> Vec<i32> {
    let mut topic = metadata_request::MetadataRequestTopic::default();
    topic.name = Some(TOPIC.into());
    let mut request = MetadataRequest::default();
    (request.topics, request.allow_auto_topic_creation) = (Some(vec![topic]), true);
    let answer: MetadataResponse = client.ask(12, &request).await.unwrap();
    let mut partitions: Vec<_> = answer.topics[0].partitions.iter().map(|p| (p.partition_index, p.leader_epoch)).collect();
    partitions.sort_unstable();
    partitions.into_iter().map(|(_, epoch)| epoch).collect()
}

async fn produce(client: &Client<'_>, partition: i32) -> i16 {
    let mut data = produce_request::PartitionProduceData::default();
    let batch = build_batch(&BatchSpec::default(), &[(None, Some(&[7; 500]), 1_760_000_000_000)]);
    (data.index, data.records) = (partition, Some(batch.into()));
    let mut topic = produce_request::TopicProduceData::default();
    (topic.name, topic.partition_data) = (TOPIC.into(), vec![data]);
    let mut request = ProduceRequest::default();
    request.transactional_id = None;
    (request.acks, request.timeout_ms, request.topic_data) = (-1, 30_000, vec![topic]);
    let answer: ProduceResponse = client.ask(9, &request).await.unwrap();
    answer.responses[0].partition_responses[0].error_code
}

#[test]
fn a_log_that_was_fenced_gets_a_new_epoch_after_a_clean_stop() {
    let machine = Machine::new(1);
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        assert_eq!(epochs(&client).await, [0, 0, 0]);
        for partition in 0..3 {
            assert_eq!(produce(&client, partition).await, 0);
        }
        machine.sim.inject(FaultOp::Write, "epochs-1/00000000000000000000.log", 0, Fault::Errno(libc::EIO));
        assert_eq!(produce(&client, 1).await, ErrorCode::KafkaStorageError.code());
        machine.down(Down::Stop).await;
        machine.start();
        let client = Client::connect(&machine).await;
        assert_eq!(epochs(&client).await, [0, 1, 0]);
        for partition in 0..3 {
            assert_eq!(produce(&client, partition).await, 0);
        }
        machine.down(Down::Stop).await;
        machine.start();
        assert_eq!(epochs(&Client::connect(&machine).await).await, [0, 1, 0], "all were closed");
        machine.down(Down::Kill).await;
        machine.start();
        assert_eq!(epochs(&Client::connect(&machine).await).await, [1, 2, 1]);
    });
}

/// The marker says that all logs were closed, and this one is not as it was then.
#[test]
fn a_log_that_is_not_as_it_was_closed_gets_a_new_epoch() {
    let machine = Machine::new(2);
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        epochs(&client).await;
        for partition in 0..3 {
            assert_eq!(produce(&client, partition).await, 0);
        }
        machine.down(Down::Stop).await;
        let rt = machine.sim.rt(0);
        let dir = std::path::Path::new("/data/epochs-2");
        let timeindex = dir.join("00000000000000000000.timeindex");
        rt.remove_file(&timeindex).unwrap();
        machine.start();
        assert_eq!(epochs(&Client::connect(&machine).await).await, [0, 0, 0], "an index is no evidence");
        machine.down(Down::Stop).await;
        let rt = machine.sim.rt(0);
        assert!(rt.read_file(&timeindex).is_ok());
        let segment = rt.open(&dir.join("00000000000000000000.log"), Open::Write).await.unwrap();
        rt.truncate(&segment, 500).await.unwrap();
        machine.start();
        let client = Client::connect(&machine).await;
        while produce(&client, 2).await != 0 {
            machine.sim.sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(epochs(&client).await, [0, 0, 1]);
        let stored = machine.sim.rt(0).read_file(&dir.join("leader-epoch-checkpoint")).unwrap();
        assert_eq!(String::from_utf8(stored).unwrap(), "0\n1\n1 0\n");
    });
}
