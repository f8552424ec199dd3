//! Membership in a classic consumer group, with the range assignor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::admin::{TopicPartition, by_topic};
use super::assign::{Subscriber, range};
use super::groups::{check_commit, commit_request};
use super::{Client, ClientError, Connection, RETRY_PAUSE};
use crate::base::error::ErrorCode;
use crate::base::ids::Offset;
use crate::wire::codec::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    SyncGroupRequest, consumer_protocol, consumer_protocol_assignment, join_group_request, leave_group_request, sync_group_request,
};

/// The assignor's name in the protocol; every client has it.
const RANGE: &str = "range";

/// How long the answer to a join may take beyond the rebalance timeout.
const GRACE: Duration = Duration::from_secs(5);

/// What a member asks of its group.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// The group.
    pub group: String,
    /// The instance id of a static member.
    pub instance: Option<String>,
    /// Without a heartbeat for so long the member is taken for dead.
    pub session_timeout: Duration,
    /// So long the group waits for its members to join again.
    pub rebalance_timeout: Duration,
    /// The time between heartbeats.
    pub heartbeat_interval: Duration,
}

/// A member of a group, whichever protocol it speaks.
pub trait Member {
    /// Joins, or joins again, as a reader of these topics; returns the partitions to read.
    fn join(&mut self, client: &mut Client, topics: &[String]) -> Result<BTreeSet<TopicPartition>, ClientError>;

    /// Tells the coordinator that this member is alive, when it is time to. False when one has to join again.
    fn heartbeat(&mut self, client: &mut Client) -> Result<bool, ClientError>;

    /// Leaves, so that the others take over at once.
    fn leave(&mut self, client: &mut Client) -> Result<(), ClientError>;

    /// Its way to the coordinator.
    fn link(&mut self) -> &mut Link;

    /// Its generation (or epoch) and member id. Nothing while it is not in the group.
    fn identity(&self) -> Option<(i32, &str)>;

    /// Whether an error means that one has to join anew; forgets what is then no longer true.
    fn rejoins_after(&mut self, error: &ClientError) -> bool;

    /// Commits what was read. False when the group has gone on without this member, which then reads it again.
    fn commit(&mut self, client: &mut Client, offsets: &BTreeMap<TopicPartition, Offset>) -> Result<bool, ClientError> {
        let Some((epoch, member_id)) = self.identity().filter(|_| !offsets.is_empty()) else {
            return Ok(true);
        };
        let member_id = member_id.into();
        let config = &self.link().config;
        let mut request = commit_request(&config.group, offsets);
        (request.generation_id_or_member_epoch, request.member_id) = (epoch, member_id);
        request.group_instance_id = config.instance.as_deref().map(Into::into);
        let answer = self.link().connection(client)?.call(&request).and_then(|answer| check_commit(&answer));
        match answer {
            Ok(()) => Ok(true),
            Err(error) if self.rejoins_after(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A member's settings, and its connection to its group's coordinator.
#[derive(Debug)]
pub struct Link {
    /// What it asks of its group.
    pub config: MembershipConfig,
    connection: Option<Connection>,
}

impl Link {
    /// Not connected yet.
    pub fn new(config: MembershipConfig) -> Link {
        Link { config, connection: None }
    }

    /// The connection; the coordinator is looked for first if there is none.
    pub fn connection(&mut self, client: &mut Client) -> Result<&mut Connection, ClientError> {
        if self.connection.is_none() {
            let (_, address) = client.coordinator(&self.config.group)?;
            self.connection = Some(client.connect(&address)?);
        }
        Ok(self.connection.as_mut().expect("just made"))
    }

    /// Whether after this error the coordinator has to be looked for again, which the next request then does.
    pub fn is_lost_after(&mut self, error: &ClientError) -> bool {
        let gone = matches!(error, ClientError::Lost(..) | ClientError::Timeout(_) | ClientError::Unreachable(..));
        let lost = gone || error.is_retriable();
        if lost {
            self.connection = None;
        }
        lost
    }
}

/// A member of a classic group.
#[derive(Debug)]
pub struct Membership {
    link: Link,
    member_id: String,
    generation: i32,
    last_heartbeat: Instant,
}

impl Membership {
    /// Not joined yet.
    pub fn new(config: MembershipConfig) -> Membership {
        Membership { link: Link::new(config), member_id: String::new(), generation: -1, last_heartbeat: Instant::now() }
    }

    fn try_join(&mut self, client: &mut Client, topics: &[String]) -> Result<BTreeSet<TopicPartition>, ClientError> {
        let mut subscription = ConsumerProtocolSubscription::default();
        subscription.topics = topics.iter().map(|topic| topic.as_str().into()).collect();
        let mut protocol = join_group_request::JoinGroupRequestProtocol::default();
        (protocol.name, protocol.metadata) = (RANGE.into(), consumer_protocol::encode_subscription(&subscription)?);
        let mut request = JoinGroupRequest::default();
        request.group_id = self.link.config.group.as_str().into();
        request.session_timeout_ms = self.link.config.session_timeout.as_millis() as i32;
        request.rebalance_timeout_ms = self.link.config.rebalance_timeout.as_millis() as i32;
        (request.member_id, request.protocol_type) = (self.member_id.as_str().into(), "consumer".into());
        request.group_instance_id = self.link.config.instance.as_deref().map(Into::into);
        request.protocols = vec![protocol];
        let patience = self.link.config.rebalance_timeout + GRACE;
        let joined = self.link.connection(client)?.call_within(&request, patience)?;
        if !joined.member_id.is_empty() {
            self.member_id = joined.member_id.as_str().to_owned();
        }
        ClientError::check(joined.error_code, None)?;
        self.generation = joined.generation_id;
        let assignments = if joined.leader == joined.member_id && !joined.skip_assignment { lead(client, &joined)? } else { Vec::new() };
        self.sync(client, &joined, assignments)
    }

    fn sync(
        &mut self,
        client: &mut Client,
        joined: &JoinGroupResponse,
        assignments: Vec<sync_group_request::SyncGroupRequestAssignment>,
    ) -> Result<BTreeSet<TopicPartition>, ClientError> {
        let mut request = SyncGroupRequest::default();
        (request.group_id, request.generation_id) = (self.link.config.group.as_str().into(), self.generation);
        request.member_id = self.member_id.as_str().into();
        request.group_instance_id = self.link.config.instance.as_deref().map(Into::into);
        (request.protocol_type, request.protocol_name) = (Some("consumer".into()), joined.protocol_name.clone());
        request.assignments = assignments;
        let patience = self.link.config.rebalance_timeout + GRACE;
        let synced = self.link.connection(client)?.call_within(&request, patience)?;
        ClientError::check(synced.error_code, None)?;
        self.last_heartbeat = Instant::now();
        let mut mine = BTreeSet::new();
        if !synced.assignment.is_empty() {
            for topic in consumer_protocol::decode_assignment(&synced.assignment)?.assigned_partitions {
                mine.extend(topic.partitions.iter().map(|index| (topic.topic.as_str().to_owned(), *index)));
            }
        }
        Ok(mine)
    }
}

impl Member for Membership {
    fn join(&mut self, client: &mut Client, topics: &[String]) -> Result<BTreeSet<TopicPartition>, ClientError> {
        let deadline = Instant::now() + client.config().api_timeout;
        loop {
            match self.try_join(client, topics) {
                Err(ClientError::Broker(ErrorCode::MemberIdRequired, _)) => {}
                Err(error) if self.rejoins_after(&error) && Instant::now() < deadline => std::thread::sleep(RETRY_PAUSE),
                result => return result,
            }
        }
    }

    fn heartbeat(&mut self, client: &mut Client) -> Result<bool, ClientError> {
        if self.last_heartbeat.elapsed() < self.link.config.heartbeat_interval {
            return Ok(true);
        }
        self.last_heartbeat = Instant::now();
        let mut request = HeartbeatRequest::default();
        (request.group_id, request.generation_id) = (self.link.config.group.as_str().into(), self.generation);
        request.member_id = self.member_id.as_str().into();
        request.group_instance_id = self.link.config.instance.as_deref().map(Into::into);
        let answer = self.link.connection(client).and_then(|connection| connection.call(&request));
        match answer.and_then(|answer| ClientError::check(answer.error_code, None)) {
            Ok(()) => Ok(true),
            Err(error) if self.rejoins_after(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn leave(&mut self, client: &mut Client) -> Result<(), ClientError> {
        if self.generation < 0 || self.link.config.instance.is_some() {
            return Ok(());
        }
        let mut member = leave_group_request::MemberIdentity::default();
        member.member_id = self.member_id.as_str().into();
        member.reason = Some("the consumer is being closed".into());
        let mut request = LeaveGroupRequest::default();
        (request.group_id, request.members) = (self.link.config.group.as_str().into(), vec![member]);
        self.generation = -1;
        let answer = self.link.connection(client)?.call(&request)?;
        ClientError::check(answer.error_code, None)
    }

    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn identity(&self) -> Option<(i32, &str)> {
        (self.generation >= 0).then_some((self.generation, self.member_id.as_str()))
    }

    fn rejoins_after(&mut self, error: &ClientError) -> bool {
        match error {
            ClientError::Broker(ErrorCode::UnknownMemberId, _) => {
                self.member_id.clear();
                self.generation = -1;
                true
            }
            ClientError::Broker(ErrorCode::IllegalGeneration | ErrorCode::RebalanceInProgress, _) => true,
            error => self.link.is_lost_after(error),
        }
    }
}

/// The leader's task: everybody's partitions.
fn lead(client: &mut Client, joined: &JoinGroupResponse) -> Result<Vec<sync_group_request::SyncGroupRequestAssignment>, ClientError> {
    let mut subscribers = Vec::new();
    for member in &joined.members {
        let topics =
            consumer_protocol::decode_subscription(&member.metadata)?.1.topics.into_iter().map(|topic| topic.into_string()).collect();
        let instance = member.group_instance_id.as_ref().map(|id| id.as_str().to_owned());
        subscribers.push(Subscriber { member: member.member_id.as_str().to_owned(), instance, topics });
    }
    let names: BTreeSet<&str> = subscribers.iter().flat_map(|subscriber| &subscriber.topics).map(String::as_str).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let counts = client.topics(&names, false)?.into_iter().map(|topic| (topic.topic.name, topic.partitions.len() as i32)).collect();
    range(&subscribers, &counts)
        .into_iter()
        .map(|(member, partitions)| {
            let mut entry = sync_group_request::SyncGroupRequestAssignment::default();
            (entry.member_id, entry.assignment) = (member.into(), consumer_protocol::encode_assignment(&assignment(&partitions), 1)?);
            Ok(entry)
        })
        .collect()
}

fn assignment(partitions: &[TopicPartition]) -> ConsumerProtocolAssignment {
    let mut assignment = ConsumerProtocolAssignment::default();
    let of_topic = |topic: &str, partitions| {
        let mut entry = consumer_protocol_assignment::TopicPartition::default();
        (entry.topic, entry.partitions) = (topic.into(), partitions);
        entry
    };
    assignment.assigned_partitions = by_topic(partitions, |(_, index)| *index, of_topic);
    assignment
}
