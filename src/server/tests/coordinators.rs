//! Replicas that are opened later, and topics that go meanwhile: coordinators and offsets follow.

use std::cell::Cell;
use std::time::Duration;

use futures_lite::future::{or, zip};

use super::client::Client;
use super::commits::commit_of;
use super::{Down, Machine};
use crate::base::error::ErrorCode;
use crate::sim::{Fault, FaultOp};
use crate::wire::batch::{BatchSpec, build_batch};
use crate::wire::codec::create_topics_request::CreatableTopic;
use crate::wire::codec::delete_topics_request::DeleteTopicState;
use crate::wire::codec::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use crate::wire::codec::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, ProduceRequest, ProduceResponse, produce_request,
};

const TOPIC: &str = "followed";
const GROUPS: usize = 8;

async fn create(client: &Client<'_>) {
    let mut topic = CreatableTopic::default();
    (topic.name, topic.num_partitions, topic.replication_factor) = (TOPIC.into(), 1, 1);
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
    let mut data = produce_request::PartitionProduceData::default();
    let batch = build_batch(&BatchSpec::default(), &[(None, Some(b"value"), 1_760_000_000_000)]);
    (data.index, data.records) = (0, Some(batch.into()));
    let mut topic = produce_request::TopicProduceData::default();
    (topic.name, topic.partition_data) = (TOPIC.into(), vec![data]);
    let mut request = ProduceRequest::default();
    request.transactional_id = None;
    (request.acks, request.timeout_ms, request.topic_data) = (-1, 30_000, vec![topic]);
    let answer: ProduceResponse = client.ask(9, &request).await.unwrap();
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
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
