//! The process is stopped for longer than sessions last, and goes on: members that were not heard of
//! in between stay.

use std::time::Duration;

use super::Machine;
use super::client::Client;
use crate::wire::codec::consumer_group_heartbeat_request::TopicPartitions;
use crate::wire::codec::join_group_request::JoinGroupRequestProtocol;
use crate::wire::codec::sync_group_request::SyncGroupRequestAssignment;
use crate::wire::codec::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse,
};

const GROUP: &str = "paused";
/// Of classic members.
const SESSION_MS: i32 = 6000;
/// Longer than the session of a modern member, 45 s, too.
const PAUSE: Duration = Duration::from_secs(60);
/// A member that is well may take so long to be heard of.
const INTERVAL: Duration = Duration::from_secs(2);

async fn find(client: &Client<'_>) {
    let mut request = FindCoordinatorRequest::default();
    request.coordinator_keys = vec![GROUP.into()];
    let found: FindCoordinatorResponse = client.ask(4, &request).await.unwrap();
    assert_eq!(found.coordinators[0].error_code, 0);
}

/// Joins a classic group alone; its heartbeat.
async fn classic(client: &Client<'_>) -> HeartbeatRequest {
    let mut protocol = JoinGroupRequestProtocol::default();
    (protocol.name, protocol.metadata) = ("range".into(), vec![0; 6].into());
    let mut join = JoinGroupRequest::default();
    (join.group_id, join.protocol_type, join.protocols) = (GROUP.into(), "consumer".into(), vec![protocol]);
    (join.session_timeout_ms, join.rebalance_timeout_ms) = (SESSION_MS, SESSION_MS);
    let joined: JoinGroupResponse = client.ask(3, &join).await.unwrap();
    assert_eq!(joined.error_code, 0);
    let mut assignment = SyncGroupRequestAssignment::default();
    assignment.member_id = joined.member_id.clone();
    let mut sync = SyncGroupRequest::default();
    (sync.group_id, sync.generation_id, sync.member_id) = (GROUP.into(), joined.generation_id, joined.member_id.clone());
    sync.assignments = vec![assignment];
    let synced: SyncGroupResponse = client.ask(1, &sync).await.unwrap();
    assert_eq!(synced.error_code, 0);
    let mut beat = HeartbeatRequest::default();
    (beat.group_id, beat.generation_id, beat.member_id) = (GROUP.into(), joined.generation_id, joined.member_id);
    beat
}

/// Joins a group of the new protocol; its heartbeat.
async fn modern(client: &Client<'_>) -> ConsumerGroupHeartbeatRequest {
    let mut join = ConsumerGroupHeartbeatRequest::default();
    (join.group_id, join.member_id, join.rebalance_timeout_ms) = (GROUP.into(), "member-1".into(), 60_000);
    join.subscribed_topic_names = Some(vec!["t".into()]);
    join.topic_partitions = Some(Vec::<TopicPartitions>::new());
    let joined: ConsumerGroupHeartbeatResponse = client.ask(1, &join).await.unwrap();
    assert_eq!(joined.error_code, 0, "{:?}", joined.error_message);
    let mut beat = ConsumerGroupHeartbeatRequest::default();
    (beat.group_id, beat.member_id, beat.member_epoch) = (GROUP.into(), "member-1".into(), joined.member_epoch);
    beat.rebalance_timeout_ms = -1;
    (beat.subscribed_topic_names, beat.topic_partitions) = (None, None);
    beat
}

fn run(seed: u64, work: impl AsyncFnOnce(&Machine, Client<'_>)) {
    println!("SEED={seed}");
    let machine = Machine::new(seed);
    machine.settings.borrow_mut().push("group.initial.rebalance.delay.ms=0".into());
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        find(&client).await;
        machine.sim.sleep(Duration::from_millis(machine.sim.below(3000))).await;
        work(&machine, client).await;
    });
}

/// The heartbeat lies in the socket when the process goes on, or comes soon after.
#[test]
fn members_stay_while_the_process_is_stopped() {
    for seed in 0..16 {
        for in_time in [true, false] {
            run(seed, async |machine, client| {
                let beat = classic(&client).await;
                machine.sim.freeze(PAUSE);
                let due = if in_time { Some(client.send(0, &beat).await.unwrap()) } else { None };
                machine.sim.sleep(PAUSE + if in_time { Duration::ZERO } else { INTERVAL }).await;
                let due = if let Some(due) = due { due } else { client.send(0, &beat).await.unwrap() };
                let answer: HeartbeatResponse = client.receive(due).await.unwrap();
                assert_eq!(answer.error_code, 0, "in time: {in_time}");
                // Whoever is silent is still found out.
                machine.sim.sleep(Duration::from_millis(SESSION_MS as u64 + 500)).await;
                let answer: HeartbeatResponse = client.ask(0, &beat).await.unwrap();
                assert_ne!(answer.error_code, 0);
            });
            run(seed, async |machine, client| {
                let beat = modern(&client).await;
                machine.sim.freeze(PAUSE);
                let due = if in_time { Some(client.send(1, &beat).await.unwrap()) } else { None };
                machine.sim.sleep(PAUSE + if in_time { Duration::ZERO } else { INTERVAL }).await;
                let due = if let Some(due) = due { due } else { client.send(1, &beat).await.unwrap() };
                let answer: ConsumerGroupHeartbeatResponse = client.receive(due).await.unwrap();
                assert_eq!(answer.error_code, 0, "in time: {in_time}");
            });
        }
    }
}
