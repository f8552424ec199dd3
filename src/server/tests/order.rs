//! Requests that one connection sends without waiting take effect in their order.

use super::Machine;
use super::client::Client;
use crate::wire::codec::create_topics_request::CreatableTopic;
use crate::wire::codec::delete_topics_request::DeleteTopicState;
use crate::wire::codec::{CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse};

const TOPIC: &str = "again";

fn create() -> CreateTopicsRequest {
    let mut topic = CreatableTopic::default();
    (topic.name, topic.num_partitions, topic.replication_factor) = (TOPIC.into(), 2, 1);
    let mut request = CreateTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], 30_000);
    request
}

fn delete() -> DeleteTopicsRequest {
    let mut topic = DeleteTopicState::default();
    topic.name = Some(TOPIC.into());
    let mut request = DeleteTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![topic], 30_000);
    request
}

#[test]
fn a_topic_is_deleted_and_created_again_without_waiting() {
    for seed in 0..8 {
        let machine = Machine::new(seed);
        machine.start();
        machine.sim.run_until(async {
            let client = Client::connect(&machine).await;
            let mut due = Vec::new();
            for _ in 0..10 {
                due.push((client.send(7, &create()).await.unwrap(), client.send(6, &delete()).await.unwrap()));
            }
            for (created, deleted) in due {
                let created: CreateTopicsResponse = client.receive(created).await.unwrap();
                assert_eq!(created.topics[0].error_code, 0, "created again before it was deleted");
                let deleted: DeleteTopicsResponse = client.receive(deleted).await.unwrap();
                assert_eq!(deleted.responses[0].error_code, 0, "deleted before it was created");
            }
        });
    }
}
