//! A metadata disk that is full or stalls: requests are answered in time, what was given up on never
//! appears, deletions make room, and a start without room serves what it can.

use std::path::Path;
use std::time::Duration;

use super::client::Client;
use super::commits::commit_of;
use super::{Down, Machine};
use crate::base::error::ErrorCode;
use crate::rt::Rt;
use crate::sim::{Fault, FaultOp};
use crate::wire::codec::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use crate::wire::codec::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use crate::wire::codec::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, FetchRequest, FetchResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse, MetadataRequest, MetadataResponse,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, fetch_request,
};

/// How long clients wait for a change.
const TIMEOUT_MS: i32 = 2000;
/// The metadata log's files.
const LOG: &str = "__corelane_metadata-0/";
const DATA: &str = "data";

fn create_request(name: &str, filling: usize) -> CreateTopicsRequest {
    let mut config = CreatableTopicConfig::default();
    config.name = "leader.replication.throttled.replicas".into();
    config.value = Some(vec!["0:1"; filling / 4].join(",").into());
    let mut topic = CreatableTopic::default();
    (topic.name, topic.num_partitions, topic.replication_factor) = (name.into(), 1, 1);
    topic.configs = if filling > 0 { vec![config] } else { Vec::new() };
    let mut request = CreateTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], TIMEOUT_MS);
    request
}

async fn create(client: &Client<'_>, name: &str, filling: usize) -> ErrorCode {
    let answer: CreateTopicsResponse = client.ask(7, &create_request(name, filling)).await.unwrap();
    ErrorCode::from_code(answer.topics[0].error_code)
}

async fn delete(client: &Client<'_>, name: &str) -> ErrorCode {
    let mut request = DeleteTopicsRequest::default();
    (request.topic_names, request.timeout_ms) = (vec![name.into()], TIMEOUT_MS);
    let answer: DeleteTopicsResponse = client.ask(5, &request).await.unwrap();
    ErrorCode::from_code(answer.responses[0].error_code)
}

async fn produce(client: &Client<'_>, value: &[u8]) -> ErrorCode {
    client.append(DATA, 0, value).await.unwrap()
}

/// Bytes that a consumer gets from the beginning.
async fn fetched(client: &Client<'_>) -> usize {
    let mut partition = fetch_request::FetchPartition::default();
    partition.partition_max_bytes = 10 << 20;
    let mut topic = fetch_request::FetchTopic::default();
    (topic.topic, topic.partitions) = (DATA.into(), vec![partition]);
    let mut request = FetchRequest::default();
    (request.max_bytes, request.max_wait_ms, request.topics) = (10 << 20, 0, vec![topic]);
    (request.session_id, request.session_epoch) = (0, -1);
    let answer: FetchResponse = client.ask(11, &request).await.unwrap();
    let partition = &answer.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    partition.records.as_ref().map_or(0, |records| records.len())
}

/// Names of all topics, and the leader epoch of the first partition of each.
async fn topics(client: &Client<'_>) -> Vec<(String, i32)> {
    let mut request = MetadataRequest::default();
    request.topics = None;
    let answer: MetadataResponse = client.ask(12, &request).await.unwrap();
    let one = |topic: &crate::wire::codec::metadata_response::MetadataResponseTopic| {
        (topic.name.as_ref().unwrap().to_string(), topic.partitions[0].leader_epoch)
    };
    let mut all: Vec<_> = answer.topics.iter().map(one).collect();
    all.sort();
    all
}

async fn names(client: &Client<'_>) -> Vec<String> {
    topics(client).await.into_iter().map(|(name, _)| name).collect()
}

/// Runs a test on a machine whose broker has started, for some seeds, and not for ever.
fn on_a_machine(test: impl AsyncFn(&Machine)) {
    for seed in 0..8 {
        let machine = Machine::new(seed);
        machine.start();
        let late = async {
            machine.sim.sleep(super::LONG_ENOUGH).await;
            panic!("seed {seed}: no end in sight, the broker says {:?}", machine.said());
        };
        machine.sim.run_until(futures_lite::future::or(test(&machine), late));
    }
}

#[test]
fn a_full_metadata_disk_answers_in_time_and_deletions_make_room() {
    on_a_machine(async |machine| {
        let client = Client::connect(machine).await;
        assert_eq!(create(&client, DATA, 0).await, ErrorCode::None);
        assert_eq!(create(&client, "other", 0).await, ErrorCode::None);
        for _ in 0..8 {
            assert_eq!(produce(&client, &[7; 300_000]).await, ErrorCode::None);
        }
        machine.sim.set_free_space(Some(0));
        // What is allocated ahead for such changes is used up.
        let mut made = 0;
        while create(&client, &format!("large-{made}"), 32_000).await == ErrorCode::None {
            made += 1;
            assert!(made < 1000);
        }
        while create(&client, &format!("small-{made}"), 0).await == ErrorCode::None {
            made += 1;
            assert!(made < 10_000);
        }
        let before = names(&client).await;
        assert_eq!(create(&client, "late", 100).await, ErrorCode::RequestTimedOut);
        let mut wanted = InitProducerIdRequest::default();
        wanted.transactional_id = None;
        (wanted.transaction_timeout_ms, wanted.producer_id, wanted.producer_epoch) = (60_000, -1, -1);
        let given: InitProducerIdResponse = client.ask(4, &wanted).await.unwrap();
        assert!([0, ErrorCode::CoordinatorLoadInProgress.code()].contains(&given.error_code));
        // A creation that waits does not hold up the deletion behind it.
        let waiting = client.send(7, &create_request("waits", 100)).await.unwrap();
        let other = Client::connect(machine).await;
        assert_eq!(delete(&other, "other").await, ErrorCode::None);
        // Which may have made the room that it waits for.
        let answer: CreateTopicsResponse = client.receive(waiting).await.unwrap();
        let there = ErrorCode::from_code(answer.topics[0].error_code) == ErrorCode::None;
        assert!(there || answer.topics[0].error_code == ErrorCode::RequestTimedOut.code());
        assert_eq!(delete(&client, DATA).await, ErrorCode::None);
        while create(&client, "after", 0).await != ErrorCode::None {}
        let mut expected = before;
        expected.retain(|name| name != DATA && name != "other");
        expected.extend(there.then(|| "waits".to_owned()));
        let look = async || {
            let mut there = names(&Client::connect(machine).await).await;
            there.retain(|name| name != "after");
            there
        };
        machine.sim.set_free_space(None);
        machine.sim.sleep(Duration::from_secs(5)).await;
        assert_eq!(look().await, expected, "what was given up on has appeared");
        machine.down(Down::Kill).await;
        machine.start();
        assert_eq!(look().await, expected);
    });
}

#[test]
fn a_stalled_metadata_disk_answers_in_time_and_what_was_not_begun_never_appears() {
    on_a_machine(async |machine| {
        let client = Client::connect(machine).await;
        assert_eq!(create(&client, DATA, 0).await, ErrorCode::None);
        machine.sim.set_slow(Some((LOG, Duration::from_secs(20))));
        let written = client.send(7, &create_request("written", 0)).await.unwrap();
        machine.sim.sleep(Duration::from_millis(100)).await;
        let late = Client::connect(machine).await;
        assert_eq!(create(&late, "late", 0).await, ErrorCode::RequestTimedOut);
        let answer: CreateTopicsResponse = client.receive(written).await.unwrap();
        assert_eq!(answer.topics[0].error_code, ErrorCode::RequestTimedOut.code());
        machine.sim.set_slow(None);
        while create(&client, "after", 0).await == ErrorCode::RequestTimedOut {}
        assert!(!names(&client).await.contains(&"late".to_owned()));
    });
}

#[test]
fn a_start_without_room_serves_reads_and_takes_records_when_the_leader_epochs_have_grown() {
    on_a_machine(async |machine| {
        let client = Client::connect(machine).await;
        assert_eq!(create(&client, DATA, 0).await, ErrorCode::None);
        assert_eq!(produce(&client, b"before").await, ErrorCode::None);
        let bytes = fetched(&client).await;
        assert!(bytes > 0);
        machine.down(Down::Kill).await;
        for _ in 0..40 {
            machine.sim.inject(FaultOp::Allocate, LOG, 0, Fault::Errno(libc::ENOSPC));
        }
        machine.start();
        let client = Client::connect(machine).await;
        assert_eq!(fetched(&client).await, bytes);
        assert_eq!(topics(&client).await, [(DATA.to_owned(), 0)]);
        assert_eq!(produce(&client, b"too early").await, ErrorCode::KafkaStorageError);
        while produce(&client, b"after").await != ErrorCode::None {
            assert_eq!(topics(&client).await[0].1, 0);
            machine.sim.sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(topics(&client).await, [(DATA.to_owned(), 1)]);
        assert!(fetched(&client).await > bytes);
    });
}

#[test]
fn a_stop_before_the_leader_epochs_have_grown_is_not_a_clean_one() {
    on_a_machine(async |machine| {
        let client = Client::connect(machine).await;
        assert_eq!(create(&client, DATA, 0).await, ErrorCode::None);
        machine.down(Down::Kill).await;
        for _ in 0..40 {
            machine.sim.inject(FaultOp::Allocate, LOG, 0, Fault::Errno(libc::ENOSPC));
        }
        machine.start();
        assert_eq!(topics(&Client::connect(machine).await).await, [(DATA.to_owned(), 0)]);
        machine.down(Down::Stop).await;
        machine.start();
        let client = Client::connect(machine).await;
        while topics(&client).await != [(DATA.to_owned(), 1)] {
            machine.sim.sleep(Duration::from_millis(100)).await;
        }
    });
}

async fn commit(client: &Client<'_>, offset: i64) -> ErrorCode {
    let answer: OffsetCommitResponse = client.ask(8, &commit_of("group", DATA, offset)).await.unwrap();
    ErrorCode::from_code(answer.topics[0].partitions[0].error_code)
}

async fn committed(client: &Client<'_>) -> Result<i64, ErrorCode> {
    let mut wanted = OffsetFetchRequestTopics::default();
    (wanted.name, wanted.partition_indexes) = (DATA.into(), vec![0]);
    let mut asked = OffsetFetchRequestGroup::default();
    (asked.group_id, asked.member_epoch, asked.topics) = ("group".into(), -1, Some(vec![wanted]));
    let mut request = OffsetFetchRequest::default();
    request.groups = vec![asked];
    let answer: OffsetFetchResponse = client.ask(8, &request).await.unwrap();
    match answer.groups[0].error_code {
        0 => Ok(answer.groups[0].topics[0].partitions[0].committed_offset),
        code => Err(ErrorCode::from_code(code)),
    }
}

#[test]
fn coordinators_wait_for_the_leader_epochs_and_tell_offsets_meanwhile() {
    on_a_machine(async |machine| {
        let client = Client::connect(machine).await;
        assert_eq!(create(&client, DATA, 0).await, ErrorCode::None);
        let mut find = FindCoordinatorRequest::default();
        find.coordinator_keys = vec!["group".into()];
        let found: FindCoordinatorResponse = client.ask(4, &find).await.unwrap();
        assert_eq!(found.coordinators[0].error_code, 0);
        assert_eq!(commit(&client, 5).await, ErrorCode::None);
        machine.down(Down::Kill).await;
        for _ in 0..40 {
            machine.sim.inject(FaultOp::Allocate, LOG, 0, Fault::Errno(libc::ENOSPC));
        }
        machine.start();
        let client = Client::connect(machine).await;
        while committed(&client).await == Err(ErrorCode::CoordinatorLoadInProgress) {
            machine.sim.sleep(Duration::from_millis(1)).await;
        }
        // From now on it is there all the time: nothing has it loaded again.
        let (mut offset, mut refused) = (6, 0);
        while refused == 0 || offset < 12 {
            match commit(&client, offset).await {
                ErrorCode::None => offset += 1,
                code => {
                    assert_eq!(code, ErrorCode::CoordinatorNotAvailable);
                    refused += 1;
                }
            }
            assert_eq!(committed(&client).await, Ok(offset - 1));
            machine.sim.sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(topics(&client).await.first().map(|(_, epoch)| *epoch), Some(1));
    });
}

#[test]
fn a_start_without_room_for_its_checkpoints_serves_and_writes_them_later() {
    on_a_machine(async |machine| {
        let client = Client::connect(machine).await;
        assert_eq!(create(&client, DATA, 0).await, ErrorCode::None);
        assert_eq!(produce(&client, b"before").await, ErrorCode::None);
        let bytes = fetched(&client).await;
        machine.down(Down::Stop).await;
        // As a version before our own checkpoint has left it.
        let rt = machine.sim.rt(0);
        let files = ["/data/corelane-checkpoint", "/data/corelane-log-dirs"].map(Path::new);
        files.iter().for_each(|file| rt.remove_file(file).unwrap());
        for _ in 0..20 {
            machine.sim.inject(FaultOp::Write, "/data/corelane-", 0, Fault::Errno(libc::ENOSPC));
        }
        machine.start();
        let client = Client::connect(machine).await;
        assert_eq!(fetched(&client).await, bytes);
        assert!(files.iter().all(|file| rt.read_file(file).is_err()));
        assert_eq!(create(&client, "late", 0).await, ErrorCode::RequestTimedOut);
        while create(&client, "after", 0).await != ErrorCode::None {}
        assert!(files.iter().all(|file| rt.read_file(file).is_ok()));
    });
}
