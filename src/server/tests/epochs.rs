//! The leader epoch of a log that opens unclean grows, whatever the other logs of the process did.

use std::path::Path;
use std::time::Duration;

use super::client::Client;
use super::{Down, Machine};
use crate::base::error::ErrorCode;
use crate::rt::{Open, Rt};
use crate::sim::{Fault, FaultOp};
use crate::wire::codec::{DeleteTopicsRequest, DeleteTopicsResponse, MetadataRequest, MetadataResponse, metadata_request};

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

async fn produce(client: &Client<'_>, partition: i32) -> ErrorCode {
    client.append(TOPIC, partition, &[7; 500]).await.unwrap()
}

/// What the checkpoint tells of a partition.
fn recovery_point(machine: &Machine, partition: &str) -> String {
    let text = String::from_utf8(machine.sim.rt(0).read_file(Path::new("/data/corelane-checkpoint")).unwrap()).unwrap();
    let mut entries = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    entries.find(|words| words.get(1) == Some(&partition)).unwrap()[2].to_owned()
}

#[test]
fn a_log_that_was_fenced_gets_a_new_epoch_after_a_clean_stop() {
    let machine = Machine::new(1);
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        assert_eq!(epochs(&client).await, [0, 0, 0]);
        for partition in 0..3 {
            assert_eq!(produce(&client, partition).await, ErrorCode::None);
        }
        machine.sim.inject(FaultOp::Write, "epochs-1/00000000000000000000.log", 0, Fault::Errno(libc::EIO));
        assert_eq!(produce(&client, 1).await, ErrorCode::KafkaStorageError);
        machine.down(Down::Stop).await;
        machine.start();
        let client = Client::connect(&machine).await;
        assert_eq!(epochs(&client).await, [0, 1, 0]);
        for partition in 0..3 {
            assert_eq!(produce(&client, partition).await, ErrorCode::None);
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
            assert_eq!(produce(&client, partition).await, ErrorCode::None);
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
        while produce(&client, 2).await != ErrorCode::None {
            machine.sim.sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(epochs(&client).await, [0, 0, 1]);
        // What it has lost does not count as flushed when other records take the offsets.
        assert_eq!(recovery_point(&machine, "2"), "0");
        let stored = machine.sim.rt(0).read_file(&dir.join("leader-epoch-checkpoint")).unwrap();
        assert_eq!(String::from_utf8(stored).unwrap(), "0\n1\n1 0\n");
    });
}

/// An older copy of the metadata is in place: what it leads in an earlier epoch would be cut by the next
/// unclean start.
#[test]
fn a_log_that_knows_a_later_epoch_than_the_metadata_is_served_above_it() {
    let machine = Machine::new(7);
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        epochs(&client).await;
        assert_eq!((produce(&client, 0).await, produce(&client, 0).await), (ErrorCode::None, ErrorCode::None));
        machine.down(Down::Stop).await;
        let path = Path::new("/data/epochs-0/leader-epoch-checkpoint");
        machine.sim.rt(0).replace_file(path, b"0\n2\n0 0\n5 1\n".to_vec()).await.unwrap();
        machine.start();
        let client = Client::connect(&machine).await;
        while produce(&client, 0).await != ErrorCode::None {
            machine.sim.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(epochs(&client).await, [6, 0, 0]);
        let stored = machine.sim.rt(0).read_file(path).unwrap();
        assert_eq!(String::from_utf8(stored).unwrap(), "0\n3\n0 0\n5 1\n6 2\n");
        machine.down(Down::Kill).await;
        machine.start();
        assert_eq!(epochs(&Client::connect(&machine).await).await, [7, 1, 1]);
        let segment = machine.sim.rt(0).read_file(Path::new("/data/epochs-0/00000000000000000000.log")).unwrap();
        assert_eq!(segment.windows(501).filter(|window| *window == [7; 501]).count(), 3, "nothing is cut");
    });
}

/// How it is cannot be stored while the disk has no room, and its topic goes meanwhile.
#[test]
fn a_log_that_waits_to_be_served_goes_with_its_topic_and_not_with_the_next() {
    let machine = Machine::new(3);
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        epochs(&client).await;
        assert_eq!(produce(&client, 2).await, ErrorCode::None);
        machine.down(Down::Stop).await;
        let rt = machine.sim.rt(0);
        let dir = Path::new("/data/epochs-2");
        let segment = rt.open(&dir.join("00000000000000000000.log"), Open::Write).await.unwrap();
        rt.truncate(&segment, 100).await.unwrap();
        for _ in 0..200 {
            machine.sim.inject(FaultOp::Write, "/data/corelane-checkpoint", 0, Fault::Errno(libc::ENOSPC));
        }
        machine.start();
        let client = Client::connect(&machine).await;
        assert_eq!(produce(&client, 2).await, ErrorCode::KafkaStorageError);
        machine.sim.sleep(Duration::from_secs(12)).await;
        assert_eq!(produce(&client, 2).await, ErrorCode::KafkaStorageError);
        let mut request = DeleteTopicsRequest::default();
        (request.topic_names, request.timeout_ms) = (vec![TOPIC.into()], 10_000);
        let answer: DeleteTopicsResponse = client.ask(5, &request).await.unwrap();
        assert_eq!(answer.responses[0].error_code, 0);
        let rt = machine.sim.rt(0);
        assert!(rt.list(dir).is_err(), "it was left behind");
        while produce(&client, 2).await != ErrorCode::None {
            epochs(&client).await;
            machine.sim.sleep(Duration::from_millis(100)).await;
        }
        machine.sim.sleep(Duration::from_secs(12)).await;
        assert!(rt.list(dir).is_ok());
        assert_eq!(produce(&client, 2).await, ErrorCode::None);
        let names = rt.list(Path::new("/data")).unwrap();
        assert!(names.iter().all(|entry| !entry.name.ends_with("-stray")), "{names:?}");
    });
}

#[test]
fn a_refused_start_leaves_the_clean_stop_before_it() {
    let machine = Machine::new(4);
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        assert_eq!(epochs(&client).await, [0, 0, 0]);
        machine.down(Down::Stop).await;
        let (rt, stray) = (machine.sim.rt(0), Path::new("/data/nobodys-0"));
        rt.create_dir(stray).unwrap();
        machine.sim.inject(FaultOp::Names, "/data/nobodys-0", 0, Fault::Errno(libc::EIO));
        machine.start();
        while machine.said().is_ok() {
            machine.sim.sleep(Duration::from_millis(1)).await;
        }
        let refusal = machine.said().unwrap_err();
        assert!(refusal.contains("nobodys-0") && !refusal.contains(';'), "{refusal}");
        machine.sim.kill();
        let rt = machine.sim.rt(0);
        assert!(rt.read_file(Path::new("/data/.kafka_cleanshutdown")).is_ok(), "{refusal}");
        machine.start();
        assert_eq!(epochs(&Client::connect(&machine).await).await, [0, 0, 0]);
    });
}
