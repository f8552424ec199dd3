//! Requests that ask about much: what is told of it is complete and in order, however long.

use super::Machine;
use super::client::Client;
use crate::base::error::ErrorCode;
use crate::cluster::configs::BROKER;
use crate::wire::codec::describe_configs_request::DescribeConfigsResource;
use crate::wire::codec::offset_fetch_request::OffsetFetchRequestGroup;
use crate::wire::codec::{
    self, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DeleteGroupsRequest, DeleteGroupsResponse, DescribeConfigsRequest,
    DescribeConfigsResponse, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    OffsetFetchRequest, OffsetFetchResponse, StrBytes,
};

/// A core's memory.
const MEMORY: usize = 8 << 20;

/// The settings of the same broker under so many spellings of its number.
async fn describe(client: &Client<'_>, spellings: usize) -> DescribeConfigsResponse {
    let mut request = DescribeConfigsRequest::default();
    let resource = |zeros: usize| {
        let mut resource = DescribeConfigsResource::default();
        let name = "0".repeat(zeros) + "1";
        (resource.resource_type, resource.resource_name) = (BROKER, name.as_str().into());
        resource.configuration_keys = None;
        resource
    };
    request.resources = (0..spellings).map(resource).collect();
    (request.include_synonyms, request.include_documentation) = (true, true);
    client.ask(4, &request).await.unwrap()
}

#[test]
fn descriptions_longer_than_the_memory_arrive_whole() {
    let machine = Machine::with_memory(1, MEMORY);
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        let alone = describe(&client, 1).await;
        let bytes = codec::encode(&alone.results[0], 4).unwrap().len();
        let count = MEMORY / bytes + 10;
        let answer = describe(&client, count).await;
        assert_eq!(answer.results.len(), count);
        for (at, result) in answer.results.iter().enumerate() {
            assert_eq!((result.resource_name.len(), result.error_code), (at + 1, 0));
            assert!(result.configs == alone.results[0].configs, "{at}");
        }
        assert!(describe(&client, 1).await == alone);
    });
}

/// More than are asked about at a time, and than one piece of an answer holds.
const GROUPS: usize = 3000;

/// Names of groups that do not exist.
fn names() -> Vec<StrBytes> {
    (0..GROUPS).map(|n| format!("group-{n:05}").as_str().into()).collect()
}

#[test]
fn many_groups_are_told_of_in_their_order() {
    let machine = Machine::with_memory(2, MEMORY);
    machine.start();
    machine.sim.run_until(async {
        let client = Client::connect(&machine).await;
        let mut find = FindCoordinatorRequest::default();
        find.coordinator_keys = names();
        let found: FindCoordinatorResponse = client.ask(6, &find).await.unwrap();
        assert_eq!(found.coordinators.iter().map(|one| one.key.clone()).collect::<Vec<_>>(), names());
        assert!(found.coordinators.iter().all(|one| (one.error_code, one.node_id) == (0, 1)));
        for version in [0, 1, 6] {
            let mut describe = DescribeGroupsRequest::default();
            describe.groups = names();
            let described: DescribeGroupsResponse = client.ask(version, &describe).await.unwrap();
            let told = described.groups.iter().map(|one| (one.group_id.clone(), one.group_state.as_str()));
            assert!(told.eq(names().into_iter().map(|name| (name, "Dead"))), "version {version}");
        }
        let mut delete = DeleteGroupsRequest::default();
        delete.groups_names = names();
        let deleted: DeleteGroupsResponse = client.ask(2, &delete).await.unwrap();
        let missing = ErrorCode::GroupIdNotFound.code();
        let told = deleted.results.iter().map(|one| (one.group_id.clone(), one.error_code));
        assert!(told.eq(names().into_iter().map(|name| (name, missing))));
        let mut fetch = OffsetFetchRequest::default();
        let group = |name: StrBytes| {
            let mut group = OffsetFetchRequestGroup::default();
            (group.group_id, group.topics) = (name, None);
            group
        };
        fetch.groups = names().into_iter().map(group).collect();
        let fetched: OffsetFetchResponse = client.ask(9, &fetch).await.unwrap();
        let told = fetched.groups.iter().map(|one| (one.group_id.clone(), one.error_code, one.topics.len()));
        assert!(told.eq(names().into_iter().map(|name| (name, 0, 0))));
        let mut describe = ConsumerGroupDescribeRequest::default();
        // The first is not asked about.
        describe.group_ids = [StrBytes::default()].into_iter().chain(names()).collect();
        let described: ConsumerGroupDescribeResponse = client.ask(1, &describe).await.unwrap();
        let codes = described.groups.iter().map(|one| one.error_code);
        assert!(codes.eq([ErrorCode::InvalidGroupId.code()].into_iter().chain(vec![missing; GROUPS])));
    });
}
