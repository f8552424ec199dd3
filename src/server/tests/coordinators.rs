//! Replicas that are opened later, and topics that go meanwhile: coordinators and offsets follow.

use std::cell::Cell;
use std::time::Duration;

use futures_lite::future::{or, zip};

use super::client::Client;
use super::commits::commit_of;
use super::{Down, Machine};
use crate::base::error::ErrorCode;
use crate::sim::{Fault, FaultOp};
use crate::wire::codec::create_topics_request::CreatableTopic;
use crate::wire::codec::delete_topics_request::DeleteTopicState;
use crate::wire::codec::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use crate::wire::codec::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use crate::wire::codec::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitResponse, OffsetDeleteRequest,
    OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse,
};

const TOPIC: &str = "followed";
const GROUPS: usize = 8;
/// The log with the records of group-0.
const OFFSETS_LOG: &str = "__consumer_offsets-48/00000000000000000000.log";

async fn create(client: &Client<'_>) {
    create_wide(client, 1).await;
}

async fn create_wide(client: &Client<'_>, partitions: i32) {
    let mut topic = CreatableTopic::default();
    (topic.name, topic.num_partitions, topic.replication_factor) = (TOPIC.into(), partitions, 1);
    let mut request = CreateTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], 30_000);
    let answer: CreateTopicsResponse = client.ask(7, &request).await.unwrap();
    assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
}

async fn delete(client: &Client<'_>) {
    let mut topic = DeleteTopicState::default();
    topic.name = Some(TOPIC.into());
    let mut request = DeleteTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], 30_000);
    let answer: DeleteTopicsResponse = client.ask(6, &request).await.unwrap();
    assert_eq!(answer.responses[0].error_code, 0);
}

async fn produce(client: &Client<'_>) {
    assert_eq!(client.append(TOPIC, 0, b"value").await.unwrap(), ErrorCode::None);
}

async fn find(client: &Client<'_>) {
    let mut request = FindCoordinatorRequest::default();
    request.coordinator_keys = vec!["any".into()];
    let found: FindCoordinatorResponse = client.ask(4, &request).await.unwrap();
    assert_eq!(found.coordinators[0].error_code, 0);
}

async fn commit(client: &Client<'_>, group: usize, offset: i64) -> i16 {
    let answer: OffsetCommitResponse = client.ask(8, &commit_of(&format!("group-{group}"), TOPIC, offset)).await.unwrap();
    answer.topics[0].partitions[0].error_code
}

/// Waits while the coordinator is not there.
async fn committed(client: &Client<'_>, group: usize) -> i64 {
    let mut wanted = OffsetFetchRequestTopics::default();
    (wanted.name, wanted.partition_indexes) = (TOPIC.into(), vec![0]);
    let mut asked = OffsetFetchRequestGroup::default();
    (asked.group_id, asked.member_epoch, asked.topics) = (format!("group-{group}").into(), -1, Some(vec![wanted]));
    let mut request = OffsetFetchRequest::default();
    request.groups = vec![asked];
    loop {
        let answer: OffsetFetchResponse = client.ask(8, &request).await.unwrap();
        match answer.groups[0].error_code {
            0 => return answer.groups[0].topics[0].partitions[0].committed_offset,
            code => assert!(is_moving(code), "{code}"),
        }
        client.machine().sim.sleep(Duration::from_millis(2)).await;
    }
}

fn is_moving(code: i16) -> bool {
    [ErrorCode::CoordinatorLoadInProgress, ErrorCode::NotCoordinator].iter().any(|c| c.code() == code)
}

/// How many replicas of the topic the cores have.
async fn replicas(client: &Client<'_>) -> usize {
    let mut request = DescribeLogDirsRequest::default();
    request.topics = None;
    let answer: DescribeLogDirsResponse = client.ask(4, &request).await.unwrap();
    let topics = answer.results.iter().flat_map(|dir| &dir.topics).filter(|topic| &*topic.name == TOPIC);
    topics.map(|topic| topic.partitions.len()).sum()
}

async fn listed(client: &Client<'_>) -> (i16, usize) {
    let answer: ListGroupsResponse = client.ask(4, &ListGroupsRequest::default()).await.unwrap();
    (answer.error_code, answer.groups.len())
}

fn run(seed: u64, work: impl AsyncFnOnce(&Machine)) {
    println!("SEED={seed}");
    let machine = Machine::new(seed);
    machine.start();
    let late = async {
        machine.sim.sleep(super::LONG_ENOUGH).await;
        panic!("no end in sight: the broker says {:?}", machine.said());
    };
    machine.sim.run_until(or(work(&machine), late));
}

#[test]
fn coordinators_come_with_replicas_that_are_opened_later() {
    for seed in 0..8 {
        run(seed, async |machine| {
            let client = Client::connect(machine).await;
            create(&client).await;
            let partitions = [42, 43, 44, 45];
            for partition in partitions {
                machine.sim.inject(FaultOp::Open, &format!("__consumer_offsets-{partition}/"), 0, Fault::Errno(libc::EMFILE));
            }
            find(&client).await;
            assert_eq!(listed(&client).await.0, ErrorCode::NotCoordinator.code(), "groups may be hidden");
            for group in 0..64 {
                loop {
                    match commit(&client, group, 5).await {
                        0 => break,
                        code => assert!(is_moving(code), "{code}"),
                    }
                    machine.sim.sleep(Duration::from_millis(20)).await;
                }
            }
            assert_eq!(listed(&client).await, (0, 64));
        });
    }
}

#[test]
fn a_topic_that_is_deleted_while_its_replica_is_reopened() {
    for seed in 0..48 {
        run(seed, async |machine| {
            let client = Client::connect(machine).await;
            create(&client).await;
            produce(&client).await;
            machine.down(Down::Kill).await;
            machine.sim.inject(FaultOp::Open, &format!("{TOPIC}-0/"), 0, Fault::Errno(libc::EMFILE));
            machine.start();
            let client = Client::connect(machine).await;
            assert_eq!(replicas(&client).await, 0);
            // A second after the start it is opened again, and takes its time.
            machine.sim.set_slow(Some((TOPIC, Duration::from_millis(400))));
            machine.sim.sleep(Duration::from_millis(machine.sim.below(2000))).await;
            delete(&client).await;
            if machine.sim.below(2) == 0 {
                machine.sim.sleep(Duration::from_millis(3000)).await;
                assert_eq!(replicas(&client).await, 0, "a replica of nobody");
            }
            create(&client).await;
            machine.sim.set_slow(None);
            while replicas(&client).await != 1 {
                machine.sim.sleep(Duration::from_millis(50)).await;
            }
            find(&client).await;
            assert_eq!(commit(&client, 0, 5).await, 0);
            machine.down(Down::Stop).await;
        });
    }
}

#[test]
fn offsets_of_a_deleted_topic_do_not_come_back() {
    for seed in 0..24 {
        run(seed, async |machine| {
            let client = Client::connect(machine).await;
            create(&client).await;
            find(&client).await;
            let (ended, others) = (Cell::new(false), [Client::connect(machine).await, Client::connect(machine).await]);
            let committing = async |client: &Client<'_>| {
                let mut group = 0;
                while !ended.get() {
                    let code = commit(client, group % GROUPS, 777).await;
                    assert!(code == 0 || code == ErrorCode::UnknownTopicOrPartition.code() || is_moving(code), "{code}");
                    group += 1;
                }
            };
            let deleting = async {
                machine.sim.sleep(Duration::from_micros(machine.sim.below(20_000))).await;
                delete(&client).await;
                ended.set(true);
            };
            zip(zip(committing(&others[0]), committing(&others[1])), deleting).await;
            let how = machine.choose(&[None, Some(Down::Kill), Some(Down::PowerLoss), Some(Down::Stop)]);
            let client = match how {
                None => client,
                Some(how) => {
                    machine.down(how).await;
                    machine.start();
                    Client::connect(machine).await
                }
            };
            create(&client).await;
            for group in 0..GROUPS {
                assert_eq!(committed(&client, group).await, -1, "{how:?}");
            }
        });
    }
}

/// The tombstones of one request are larger than a batch may be.
#[test]
fn an_offset_delete_of_many_bytes_unloads_no_group() {
    const PARTITIONS: i32 = 60;
    run(1, async |machine| {
        let client = Client::connect(machine).await;
        create_wide(&client, PARTITIONS).await;
        find(&client).await;
        let group = "g".repeat(30_000);
        for partition in 0..PARTITIONS {
            let mut request = commit_of(&group, TOPIC, 5);
            request.topics[0].partitions[0].partition_index = partition;
            let answer: OffsetCommitResponse = client.ask(8, &request).await.unwrap();
            assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        }
        let one = |partition_index| {
            let mut partition = OffsetDeleteRequestPartition::default();
            partition.partition_index = partition_index;
            partition
        };
        let mut topic = OffsetDeleteRequestTopic::default();
        (topic.name, topic.partitions) = (TOPIC.into(), (0..PARTITIONS).map(one).collect());
        let mut request = OffsetDeleteRequest::default();
        (request.group_id, request.topics) = (group.as_str().into(), vec![topic]);
        let answer: OffsetDeleteResponse = client.ask(0, &request).await.unwrap();
        assert_eq!(answer.error_code, 0);
        assert!(answer.topics[0].partitions.iter().all(|partition| partition.error_code == 0));
        // The coordinator goes on at once.
        let answer: OffsetCommitResponse = client.ask(8, &commit_of(&group, TOPIC, 6)).await.unwrap();
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    });
}

#[test]
fn a_coordinator_whose_log_could_not_be_read_is_loaded_later() {
    for seed in 0..4 {
        run(seed, async |machine| {
            let client = Client::connect(machine).await;
            create(&client).await;
            find(&client).await;
            assert_eq!(commit(&client, 0, 5).await, 0);
            machine.down(Down::Stop).await;
            // The first read is that of the start: it would have the replica offline.
            for _ in 0..=seed {
                machine.sim.inject(FaultOp::Read, OFFSETS_LOG, 1, Fault::Errno(libc::EIO));
            }
            machine.start();
            let client = Client::connect(machine).await;
            assert_eq!(committed(&client, 0).await, 5);
            assert_eq!(commit(&client, 0, 6).await, 0);
        });
    }
}
