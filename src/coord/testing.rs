//! A coordinator with its log, a clock, and clients that ask one thing at a time: what its tests share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::modern::testing::Cluster;
use super::modern::topics::Topics;
use super::op::{Answer, Commit, CommitOffset, FetchOffsets, FetchTopic, Join, Joined, Leaving, Membership, Op, Reply, Sync, Token};
use super::record::{Decoded, Record};
use super::replay;
use super::{Context, Coordinator, Decision, Name, Overrides, State};
use crate::base::config::{GroupConfig, GroupOverrides};
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::base::prng::Prng;
use crate::base::time::Now;
use crate::wire::batch::BatchHeader;

/// Id of the topic "t".
pub(super) const TOPIC: Uuid = Uuid([1; 16]);

/// Id of a topic to commit in.
pub(super) fn topic_id(name: &str) -> Uuid {
    let mut id = TOPIC;
    if name != "t" {
        id.0[..name.len()].copy_from_slice(name.as_bytes());
    }
    id
}

/// The world of one coordinator.
pub(super) struct World {
    pub coordinator: Coordinator,
    pub log: Vec<Record>,
    /// Where in the log a batch ends.
    pub ends: Vec<usize>,
    pub now: Now,
    pub config: GroupConfig,
    pub spare_bytes: usize,
    pub max_batch_bytes: usize,
    pub cluster: Cluster,
    pub overrides: BTreeMap<String, GroupOverrides>,
    random: Prng,
    next_token: Token,
    pub waiting: BTreeSet<Token>,
    pub replies: BTreeMap<Token, Reply>,
}

impl Overrides for BTreeMap<String, GroupOverrides> {
    fn of(&self, group: &str) -> GroupOverrides {
        self.get(group).copied().unwrap_or_default()
    }
}

impl World {
    pub fn new() -> World {
        let mut world = World {
            coordinator: Coordinator::default(),
            log: Vec::new(),
            ends: Vec::new(),
            now: Now { mono: Duration::from_secs(1), wall_ms: 1_000_000 },
            config: GroupConfig::default(),
            spare_bytes: 1 << 20,
            max_batch_bytes: 1 << 20,
            cluster: Cluster::default(),
            overrides: BTreeMap::new(),
            random: Prng::new(1),
            next_token: 0,
            waiting: BTreeSet::new(),
            replies: BTreeMap::new(),
        };
        for topic in ["t", "t0", "t1", "t2", "u", "other", "unread"] {
            world.cluster.put(topic, topic_id(topic), 1);
        }
        world.step(|coordinator, context| coordinator.loaded(context));
        world
    }

    /// Lets the coordinator decide, and does what its owner does; then everything is checked.
    pub fn step(&mut self, decide: impl FnOnce(&mut Coordinator, Context) -> Decision) {
        let random = &mut self.random;
        let mut random = || {
            let mut bytes = [0; 16];
            random.fill(&mut bytes);
            bytes
        };
        let context = Context {
            now: self.now,
            config: &self.config,
            random: &mut random,
            spare_bytes: self.spare_bytes,
            max_batch_bytes: self.max_batch_bytes,
            topics: &self.cluster,
            overrides: &self.overrides,
        };
        let Decision { records, divisible, replies } = decide(&mut self.coordinator, context);
        let batches = replay::batches(&records, divisible, self.max_batch_bytes, self.now.wall_ms);
        for batch in batches.unwrap_or_else(|| panic!("a decision that cannot be appended: {records:?}")) {
            let before = self.ends.last().copied().unwrap_or(0);
            self.ends.push(before + BatchHeader::parse(&batch).unwrap().records_count as usize);
        }
        let upto = (self.log.len() + records.len()) as i64;
        let decided = records.clone();
        for record in records {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(Some(&key), value.as_deref()), Ok(Decoded::Known(record.clone())));
            self.coordinator.apply(&record);
            self.log.push(record);
        }
        for (token, reply) in replies {
            assert!(self.waiting.remove(&token), "{token} is answered twice");
            self.replies.insert(token, reply);
        }
        self.coordinator.verify(&decided, upto).unwrap();
        self.coordinator.check();
    }

    pub fn send(&mut self, group: &str, op: Op) -> Token {
        self.next_token += 1;
        let token = self.next_token;
        self.waiting.insert(token);
        self.step(|coordinator, context| coordinator.decide(context, &group.into(), op, token));
        token
    }

    /// The reply to a request that is answered at once.
    pub fn ask(&mut self, group: &str, op: Op) -> Reply {
        let token = self.send(group, op);
        self.reply(token)
    }

    pub fn reply(&mut self, token: Token) -> Reply {
        self.replies.remove(&token).unwrap_or_else(|| panic!("{token} waits"))
    }

    /// Lets time pass, stopping at every deadline on the way.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.mono + Duration::from_millis(ms);
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            self.set_time(at.max(self.now.mono));
            self.step(|coordinator, context| coordinator.expire(context));
        }
        self.set_time(end);
    }

    fn set_time(&mut self, at: Duration) {
        self.now.wall_ms += (at - self.now.mono).as_millis() as i64;
        self.now.mono = at;
    }

    /// The process ends, and another one reads its log. Who waited hears nothing.
    pub fn restart(&mut self) {
        self.waiting.clear();
        let state = replay(&self.log);
        assert_eq!(&state, self.coordinator.state());
        self.coordinator = Coordinator { state, ..Coordinator::default() };
        self.step(|coordinator, context| coordinator.loaded(context));
    }

    pub fn join(&mut self, group: &str, join: Join) -> Token {
        self.send(group, Op::Join(join))
    }

    pub fn joined(&mut self, token: Token) -> Joined {
        match self.reply(token) {
            Ok(Answer::Joined(joined)) => joined,
            other => panic!("{other:?}"),
        }
    }

    /// Joins as a new client does: asks for an id first.
    pub fn join_as_new(&mut self, group: &str) -> (Name, Token) {
        let first = self.join(group, member(""));
        let first = self.joined(first);
        assert_eq!(first.code, ErrorCode::MemberIdRequired);
        let token = self.join(group, member(&first.member_id));
        (first.member_id, token)
    }

    /// The leader assigns each member its own id.
    pub fn sync(&mut self, group: &str, joined: &Joined) -> Token {
        let assignments = joined.members.iter().map(|m| (m.member_id.clone(), Bytes::from(m.member_id.to_string()))).collect();
        let member = Membership { member_id: joined.member_id.clone(), instance_id: None, generation: joined.generation };
        self.send(group, Op::Sync(Sync { member, protocol_type: None, protocol: None, assignments }))
    }

    pub fn heartbeat(&mut self, group: &str, member_id: &str, generation: i32) -> Result<(), ErrorCode> {
        let member = Membership { member_id: member_id.into(), instance_id: None, generation };
        self.ask(group, Op::Heartbeat(member)).map(|_| ())
    }

    pub fn leave(&mut self, group: &str, member_id: &str) -> Vec<ErrorCode> {
        codes(self.ask(group, Op::Leave(vec![Leaving { member_id: member_id.into(), instance_id: None }])))
    }

    /// A group of so many members, stable; their ids, the leader's first, and the generation.
    pub fn stable(&mut self, group: &str, members: usize) -> (Vec<Name>, i32) {
        let tokens: Vec<_> = (0..members).map(|_| self.join_as_new(group).1).collect();
        self.pass(self.config.initial_rebalance_delay_ms as u64 * 2);
        let joined: Vec<Joined> = tokens.into_iter().map(|token| self.joined(token)).collect();
        let (leaders, others): (Vec<_>, Vec<_>) = joined.into_iter().partition(|j| j.member_id == j.leader);
        let tokens: Vec<_> = others.iter().chain(&leaders).map(|joined| self.sync(group, joined)).collect();
        for token in tokens {
            assert!(matches!(self.reply(token), Ok(Answer::Synced(_))));
        }
        (leaders.iter().chain(&others).map(|j| j.member_id.clone()).collect(), leaders[0].generation)
    }

    pub fn commit(&mut self, group: &str, member_id: &str, generation: i32, topic: &str, offset: i64) -> Reply {
        self.ask(group, commit(member_id, generation, topic, offset))
    }

    pub fn committed(&mut self, group: &str, topic: &str) -> i64 {
        let topic_id = self.cluster.by_name(topic).map_or(Uuid::ZERO, |(id, _)| id);
        self.committed_in(group, topic, topic_id, None)
    }

    /// As a core asks that has metadata of this version, if names count, and there this id.
    pub fn committed_in(&mut self, group: &str, topic: &str, topic_id: Uuid, version: Option<i64>) -> i64 {
        let topics = Some(vec![FetchTopic { topic: topic.into(), topic_id, partitions: vec![0] }]);
        match self.ask(group, Op::FetchOffsets(FetchOffsets { member: None, topics, version, require_stable: false })) {
            Ok(Answer::Offsets(topics)) => topics[0].partitions[0].offset,
            other => panic!("{other:?}"),
        }
    }
}

/// What a log adds up to.
pub(super) fn replay(log: &[Record]) -> State {
    let mut state = State::default();
    log.iter().for_each(|record| state.apply(record));
    state
}

/// What compaction leaves of a log, its tombstones gone.
pub(super) fn compacted(log: &[Record]) -> Vec<Record> {
    let mut last: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (at, record) in log.iter().enumerate() {
        last.insert(record.encode().0, at);
    }
    let keep: BTreeSet<usize> = last.into_values().collect();
    let kept = log.iter().enumerate().filter(|(at, record)| keep.contains(at) && record.encode().1.is_some());
    kept.map(|(_, record)| record.clone()).collect()
}

/// A consumer's JoinGroup request, subscribed to the topic "t".
pub(super) fn member(member_id: &str) -> Join {
    Join {
        member_id: member_id.into(),
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription("t")), ("roundrobin".into(), subscription("t"))],
        needs_known_id: true,
        can_skip_assignment: true,
    }
}

/// A consumer's metadata of version 0.
pub(super) fn subscription(topic: &str) -> Bytes {
    let mut out = Vec::new();
    out.put_i16(0);
    out.put_i32(1);
    out.put_i16(topic.len() as i16);
    out.put_slice(topic.as_bytes());
    out.put_i32(-1);
    out.into()
}

pub(super) fn commit(member_id: &str, generation: i32, topic: &str, offset: i64) -> Op {
    let member = Membership { member_id: member_id.into(), instance_id: None, generation };
    let offset =
        CommitOffset { topic: topic.into(), topic_id: topic_id(topic), partition: 0, offset, leader_epoch: 0, metadata: "".into() };
    Op::Commit(Commit { member, retention_ms: None, knows_group_id_not_found: true, version: 0, offsets: vec![offset] })
}

pub(super) fn codes(reply: Reply) -> Vec<ErrorCode> {
    match reply {
        Ok(Answer::Codes(codes)) => codes,
        other => panic!("{other:?}"),
    }
}
