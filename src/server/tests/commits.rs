//! A consumer that commits one offset after the other, and looks after every new connection whether they are there.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use super::Machine;
use super::client::Client;
use crate::base::error::ErrorCode;
use crate::wire::codec::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::wire::codec::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use crate::wire::codec::{
    FindCoordinatorRequest, FindCoordinatorResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
};

const GROUP: &str = "simulated-group";

/// How far a group has got.
#[derive(Default)]
pub struct Commits {
    /// The last offset that a commit was sent of.
    sent: Cell<i64>,
    /// The last one whose commit was acknowledged.
    acknowledged: Cell<i64>,
}

impl Commits {
    /// The commits that were acknowledged.
    pub fn acknowledged(&self) -> i64 {
        self.acknowledged.get()
    }

    /// Commits offsets up to `last`, or until the connection ends.
    pub async fn go_on(&self, machine: &Machine, topic: &str, last: i64) -> io::Result<()> {
        let client = Client::connect(machine).await;
        let mut find = FindCoordinatorRequest::default();
        find.coordinator_keys = vec![GROUP.into()];
        let found: FindCoordinatorResponse = client.ask(4, &find).await?;
        assert_eq!(found.coordinators[0].error_code, 0);
        self.look(machine, &client, topic).await?;
        while self.acknowledged.get() < last {
            let offset = self.acknowledged.get() + 1;
            // Counted before it is sent: it may arrive although sending it fails.
            self.sent.set(offset.max(self.sent.get()));
            let answer: OffsetCommitResponse = client.ask(8, &commit(topic, offset)).await?;
            match answer.topics[0].partitions[0].error_code {
                0 => self.acknowledged.set(offset),
                code if retriable(code) => machine.sim.sleep(Duration::from_millis(2)).await,
                code => panic!("a commit is refused with {code}"),
            }
        }
        self.look(machine, &client, topic).await
    }

    /// What is committed is what was acknowledged last, or sent behind it.
    async fn look(&self, machine: &Machine, client: &Client<'_>, topic: &str) -> io::Result<()> {
        let mut group = OffsetFetchRequestGroup::default();
        let mut wanted = OffsetFetchRequestTopics::default();
        (wanted.name, wanted.partition_indexes) = (topic.into(), vec![0]);
        (group.group_id, group.member_epoch, group.topics) = (GROUP.into(), -1, Some(vec![wanted]));
        let mut fetch = OffsetFetchRequest::default();
        fetch.groups = vec![group];
        loop {
            let answer: OffsetFetchResponse = client.ask(8, &fetch).await?;
            let group = &answer.groups[0];
            if retriable(group.error_code) {
                machine.sim.sleep(Duration::from_millis(2)).await;
                continue;
            }
            assert_eq!(group.error_code, 0);
            let committed = group.topics[0].partitions[0].committed_offset.max(0);
            let (acknowledged, sent) = (self.acknowledged.get(), self.sent.get());
            assert!((acknowledged..=sent).contains(&committed), "{committed} is committed, {acknowledged} was acknowledged, {sent} sent");
            self.acknowledged.set(committed);
            return Ok(());
        }
    }
}

/// The coordinator loads, or the broker stops.
fn retriable(code: i16) -> bool {
    [ErrorCode::CoordinatorLoadInProgress, ErrorCode::NotCoordinator].iter().any(|c| c.code() == code)
}

fn commit(topic: &str, offset: i64) -> OffsetCommitRequest {
    commit_of(GROUP, topic, offset)
}

/// A commit by name, of somebody without a group protocol.
pub fn commit_of(group: &str, topic: &str, offset: i64) -> OffsetCommitRequest {
    let mut partition = OffsetCommitRequestPartition::default();
    (partition.committed_offset, partition.committed_metadata) = (offset, Some("".into()));
    let mut entry = OffsetCommitRequestTopic::default();
    (entry.name, entry.partitions) = (topic.into(), vec![partition]);
    let mut request = OffsetCommitRequest::default();
    (request.group_id, request.generation_id_or_member_epoch, request.topics) = (group.to_owned().into(), -1, vec![entry]);
    request
}
