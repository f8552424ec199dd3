//! Membership in a group of the new protocol (KIP-848): the broker decides who reads what, the member follows with heartbeats.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::admin::TopicPartition;
use super::membership::{Link, Member, MembershipConfig};
use super::{Client, ClientError, RETRY_PAUSE};
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::wire::codec::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, consumer_group_heartbeat_request, consumer_group_heartbeat_response,
};

/// Epoch of a member that wants to join.
const JOIN: i32 = 0;
/// Epoch of a member that leaves.
const LEAVE: i32 = -1;
/// Epoch of a static member that leaves and will be back.
const LEAVE_FOR_NOW: i32 = -2;

/// A member of a group of the new protocol.
#[derive(Debug)]
pub struct ModernMembership {
    link: Link,
    /// Chosen by the member, and its own for its whole life.
    member_id: String,
    /// [`JOIN`] until it is in.
    epoch: i32,
    interval: Duration,
    last_heartbeat: Instant,
    topics: Vec<String>,
    /// Topic ids and partitions that the group has given to it.
    given: BTreeSet<(Uuid, i32)>,
    /// What the coordinator knows that it reads.
    acknowledged: BTreeSet<(Uuid, i32)>,
}

impl ModernMembership {
    /// Not joined yet. `id` is a random one.
    pub fn new(config: MembershipConfig, id: Uuid) -> ModernMembership {
        ModernMembership {
            link: Link::new(config),
            member_id: id.to_string(),
            epoch: JOIN,
            interval: Duration::ZERO,
            last_heartbeat: Instant::now(),
            topics: Vec::new(),
            given: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    /// One heartbeat. With `whole` it tells everything, as a first one does and one that acknowledges.
    fn beat(&mut self, client: &mut Client, whole: bool) -> Result<(), ClientError> {
        let mut request = ConsumerGroupHeartbeatRequest::default();
        (request.group_id, request.member_id) = (self.link.config.group.as_str().into(), self.member_id.as_str().into());
        (request.member_epoch, request.rebalance_timeout_ms) = (self.epoch, -1);
        request.instance_id = self.link.config.instance.as_deref().map(Into::into);
        (request.rack_id, request.subscribed_topic_regex, request.server_assignor) = (None, None, None);
        (request.subscribed_topic_names, request.topic_partitions) = (None, None);
        if whole {
            request.rebalance_timeout_ms = self.link.config.rebalance_timeout.as_millis() as i32;
            request.subscribed_topic_names = Some(self.topics.iter().map(|topic| topic.as_str().into()).collect());
            request.topic_partitions = Some(owned(&self.acknowledged));
        }
        self.last_heartbeat = Instant::now();
        let answer = self.link.connection(client)?.call(&request)?;
        ClientError::check(answer.error_code, answer.error_message.as_deref())?;
        self.take(answer);
        Ok(())
    }

    fn take(&mut self, answer: ConsumerGroupHeartbeatResponse) {
        self.epoch = answer.member_epoch;
        self.interval = Duration::from_millis(u64::try_from(answer.heartbeat_interval_ms).unwrap_or(0));
        if let Some(assignment) = answer.assignment {
            self.given = given(&assignment);
        }
    }

    fn try_join(&mut self, client: &mut Client) -> Result<BTreeSet<TopicPartition>, ClientError> {
        if self.epoch == JOIN {
            self.acknowledged.clear();
            self.beat(client, true)?;
        }
        self.acknowledged = self.given.clone();
        self.beat(client, true)?;
        let names: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        let names: BTreeMap<Uuid, String> =
            client.topics(&names, false)?.into_iter().map(|topic| (topic.topic.id, topic.topic.name)).collect();
        Ok(self.acknowledged.iter().filter_map(|(id, index)| Some((names.get(id)?.clone(), *index))).collect())
    }
}

impl Member for ModernMembership {
    fn join(&mut self, client: &mut Client, topics: &[String]) -> Result<BTreeSet<TopicPartition>, ClientError> {
        let deadline = Instant::now() + client.config().api_timeout;
        self.topics = topics.to_vec();
        loop {
            match self.try_join(client) {
                Err(error) if self.rejoins_after(&error) && Instant::now() < deadline => std::thread::sleep(RETRY_PAUSE),
                result => return result,
            }
        }
    }

    fn heartbeat(&mut self, client: &mut Client) -> Result<bool, ClientError> {
        if self.epoch != JOIN && self.last_heartbeat.elapsed() >= self.interval {
            match self.beat(client, false) {
                Err(error) if self.rejoins_after(&error) => return Ok(false),
                result => result?,
            }
        }
        Ok(self.given == self.acknowledged && self.epoch != JOIN)
    }

    fn leave(&mut self, client: &mut Client) -> Result<(), ClientError> {
        if self.epoch == JOIN {
            return Ok(());
        }
        self.epoch = if self.link.config.instance.is_some() { LEAVE_FOR_NOW } else { LEAVE };
        self.beat(client, false)
    }

    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn identity(&self) -> Option<(i32, &str)> {
        (self.epoch != JOIN).then_some((self.epoch, self.member_id.as_str()))
    }

    fn rejoins_after(&mut self, error: &ClientError) -> bool {
        match error {
            ClientError::Broker(ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch, _) => {
                self.epoch = JOIN;
                self.given.clear();
                self.acknowledged.clear();
                true
            }
            ClientError::Broker(ErrorCode::StaleMemberEpoch, _) => true,
            error => self.link.is_lost_after(error),
        }
    }
}

fn given(assignment: &consumer_group_heartbeat_response::Assignment) -> BTreeSet<(Uuid, i32)> {
    let topics = assignment.topic_partitions.iter();
    topics.flat_map(|topic| topic.partitions.iter().map(|index| (Uuid::from(topic.topic_id), *index))).collect()
}

fn owned(partitions: &BTreeSet<(Uuid, i32)>) -> Vec<consumer_group_heartbeat_request::TopicPartitions> {
    let mut by_topic: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    partitions.iter().for_each(|(id, index)| by_topic.entry(*id).or_default().push(*index));
    let entry = |(id, partitions): (Uuid, Vec<i32>)| {
        let mut entry = consumer_group_heartbeat_request::TopicPartitions::default();
        (entry.topic_id, entry.partitions) = (id.into(), partitions);
        entry
    };
    by_topic.into_iter().map(entry).collect()
}
