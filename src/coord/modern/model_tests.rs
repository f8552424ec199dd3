//! Random lives of a group: clients that join, lag, crash and come back, answers that are lost, topics that come and go, restarts of the
//! coordinator. After every step the group is sound, a replay of the log (compacted or not) gives the same group, and no partition is in use
//! by two clients.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::group::{Group, GroupState, apply};
use super::heartbeat::{self, Request};
use super::leave::{self, Leave};
use super::member::{JOIN_EPOCH, Partitions, same_partitions};
use super::record;
use super::testing::Cluster;
use super::topics::Topics;
use super::{Context, Decision, Refusal, Seen, TimerChange, TimerKind};
use crate::base::config::ConsumerGroupConfig;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;

/// Key and value.
type Pair = (Vec<u8>, Option<Vec<u8>>);

const GROUP: &str = "g";
const CLIENTS: usize = 5;
const TOPICS: [&str; 4] = ["a", "ab", "b", "c"];

#[derive(Clone, Debug)]
enum Op {
    /// Joins, or comes back after a crash; `usize` chooses the subscription.
    Join(usize, usize),
    /// Reports; the answer may be lost.
    Heartbeat(usize, bool),
    /// Subscribes to something else.
    Subscribe(usize, usize),
    /// Gives up what it must.
    Revoke(usize),
    /// Takes what it was given.
    Adopt(usize),
    Leave(usize),
    /// Static members: will be back. Others: crash without a word.
    Away(usize),
    /// A timer goes off.
    Expire(usize, TimerKind),
    /// The topic gets this many partitions (0: deleted).
    Topic(usize, i32),
    Wait(i64),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0..CLIENTS;
    prop_oneof![
        4 => (client.clone(), 0..7usize).prop_map(|(client, subscription)| Op::Join(client, subscription)),
        12 => (client.clone(), prop::bool::weighted(0.1)).prop_map(|(client, lost)| Op::Heartbeat(client, lost)),
        2 => (client.clone(), 0..7usize).prop_map(|(client, subscription)| Op::Subscribe(client, subscription)),
        6 => client.clone().prop_map(Op::Revoke),
        6 => client.clone().prop_map(Op::Adopt),
        1 => client.clone().prop_map(Op::Leave),
        1 => client.clone().prop_map(Op::Away),
        2 => (client, prop_oneof![Just(TimerKind::Session), Just(TimerKind::Rebalance)]).prop_map(|(client, kind)| Op::Expire(client, kind)),
        2 => (0..TOPICS.len(), 0..7i32).prop_map(|(topic, partitions)| Op::Topic(topic, partitions)),
        3 => (1..12_000i64).prop_map(Op::Wait),
        1 => Just(Op::Restart),
    ]
}

/// What client number `n` asks for: names, pattern, assignor.
fn subscription(n: usize) -> (BTreeSet<String>, Option<String>, Option<String>) {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    match n {
        0 | 1 => (names(&["a", "b"]), Some(String::new()), None),
        2 => (names(&["a"]), Some(String::new()), None),
        3 => (names(&[]), Some("a.*".into()), Some("range".into())),
        4 => (names(&["b"]), Some("a.*".into()), None),
        5 => (names(&["c", "gone"]), Some(String::new()), Some("range".into())),
        _ => (names(&[]), Some(".*".into()), Some("uniform".into())),
    }
}

#[derive(Default)]
struct Client {
    id: String,
    incarnation: u32,
    instance_id: Option<String>,
    epoch: i32,
    /// In use.
    owned: Partitions,
    /// To be in use.
    given: Option<Partitions>,
    joined: bool,
    subscription: usize,
    /// The next heartbeat says everything.
    news: bool,
}

impl Client {
    fn request(&self) -> Request {
        let joins = self.epoch == JOIN_EPOCH;
        let (names, regex, assignor) = subscription(self.subscription);
        let news = joins || self.news;
        Request {
            group_id: GROUP.into(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance_id.clone(),
            rebalance_timeout_ms: news.then_some(1000),
            topic_names: news.then_some(names),
            topic_regex: if news { regex } else { None },
            server_assignor: if news { assignor } else { None },
            // On its way to what it was given a client says nothing of what it owns, unless it says everything.
            owned: (news || self.given.is_none()).then(|| self.owned.clone()),
            client_id: "c".into(),
            client_host: "/h".into(),
            ..Request::default()
        }
    }

    /// Drops everything, as a client does that is told that it is no member.
    fn fenced(&mut self) {
        (self.epoch, self.owned, self.given) = (JOIN_EPOCH, Partitions::new(), None);
    }
}

struct World {
    group: Option<Box<Group>>,
    seen: Seen,
    log: Vec<Pair>,
    timers: BTreeSet<(String, TimerKind)>,
    clients: Vec<Client>,
    cluster: Cluster,
    topic_ids: u8,
    now_ms: i64,
    settings: ConsumerGroupConfig,
}

impl World {
    fn new() -> World {
        let clients = (0..CLIENTS).map(|n| Client { instance_id: (n < 2).then(|| format!("i{n}")), ..Client::default() }).collect();
        let mut world = World {
            group: None,
            seen: Seen::default(),
            log: Vec::new(),
            timers: BTreeSet::new(),
            clients,
            cluster: Cluster::default(),
            topic_ids: 0,
            now_ms: 1_700_000_000_000,
            settings: ConsumerGroupConfig::default(),
        };
        (0..3).for_each(|topic| world.set_topic(topic, 4));
        world
    }

    fn set_topic(&mut self, topic: usize, partitions: i32) {
        let name = TOPICS[topic];
        match self.cluster.by_name(name) {
            Some(_) if partitions == 0 => self.cluster.remove(name),
            Some((id, before)) => self.cluster.put(name, id, before.max(partitions)),
            None => {
                self.topic_ids += 1;
                self.cluster.put(name, Uuid([self.topic_ids; 16]), partitions.max(1));
            }
        }
    }

    fn decide<T>(&mut self, decide: impl FnOnce(&Group, &Context<'_>) -> Result<Decision<T>, Refusal>) -> Result<T, Refusal> {
        let empty = Group::default();
        let cx = Context { now_ms: self.now_ms, settings: &self.settings, topics: &self.cluster, seen: self.seen.clone() };
        let decision = decide(self.group.as_deref().unwrap_or(&empty), &cx)?;
        for change in &decision.changes {
            let (key, value) = change.encode(GROUP);
            assert_eq!(record::decode(&key, value.as_deref()).unwrap(), (GROUP.into(), change.clone()));
            self.log.push((key, value));
            apply(&mut self.group, change);
        }
        for timer in decision.timers {
            _ = match timer {
                TimerChange::Set { member_id, kind, .. } | TimerChange::Keep { member_id, kind, .. } => {
                    self.timers.insert((member_id.to_string(), kind))
                }
                TimerChange::Cancel { member_id, kind } => self.timers.remove(&(member_id.to_string(), kind)),
            };
        }
        self.seen = decision.seen;
        Ok(decision.reply)
    }

    fn heartbeat(&mut self, n: usize, lost: bool) {
        let request = self.clients[n].request();
        if self.clients[n].news {
            // The answer says everything too: what was given before no longer counts.
            self.clients[n].given = None;
        }
        let exists = self.group.is_some() || request.member_epoch == JOIN_EPOCH;
        let result = if exists {
            self.decide(|group, cx| heartbeat::heartbeat(group, cx, &request))
        } else {
            Err(Refusal { code: ErrorCode::GroupIdNotFound, message: String::new() })
        };
        let client = &mut self.clients[n];
        match result {
            // Without an answer a client says everything again.
            _ if lost => client.news = true,
            Ok(reply) => {
                assert_eq!(*reply.member_id, *client.id);
                (client.epoch, client.news) = (reply.epoch, false);
                if reply.assignment.is_some() {
                    client.given = reply.assignment;
                }
            }
            Err(refusal) if refusal.code == ErrorCode::UnreleasedInstanceId => {}
            Err(_) => client.fenced(),
        }
    }

    fn leave(&mut self, n: usize, for_a_while: bool) {
        let (member_id, instance_id) = (self.clients[n].id.clone(), self.clients[n].instance_id.clone());
        let request = Leave { group_id: GROUP.into(), member_id, instance_id, for_a_while };
        // Partitions are given up first.
        self.clients[n].fenced();
        self.clients[n].joined = false;
        let _ = self.decide(|group, cx| leave::leave(group, cx, &request));
    }

    fn expire(&mut self, id: &str, kind: TimerKind) {
        if !self.timers.remove(&(id.to_owned(), kind)) {
            return;
        }
        let _ =
            self.decide(|group, cx| leave::expired(group, cx, id, kind).ok_or(Refusal { code: ErrorCode::None, message: String::new() }));
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Join(n, subscription) if !self.clients[n].joined => {
                let client = &mut self.clients[n];
                client.fenced();
                client.incarnation += 1;
                (client.id, client.joined, client.subscription) = (format!("{n}-{}", client.incarnation), true, subscription);
                self.heartbeat(n, false);
            }
            Op::Heartbeat(n, lost) if self.clients[n].joined => self.heartbeat(n, lost),
            Op::Subscribe(n, subscription) if self.clients[n].joined => {
                (self.clients[n].subscription, self.clients[n].news) = (subscription, true);
            }
            Op::Revoke(n) => {
                let Client { owned, given: Some(given), .. } = &mut self.clients[n] else { return };
                owned.retain(|topic, partitions| {
                    partitions.retain(|partition| given.get(topic).is_some_and(|given| given.contains(partition)));
                    !partitions.is_empty()
                });
            }
            Op::Adopt(n) => {
                if let Some(given) = self.clients[n].given.take() {
                    self.clients[n].owned = given;
                }
            }
            Op::Leave(n) if self.clients[n].joined => self.leave(n, false),
            Op::Away(n) if self.clients[n].joined => {
                if self.clients[n].instance_id.is_some() {
                    self.leave(n, true);
                } else {
                    self.clients[n].fenced();
                    self.clients[n].joined = false;
                }
            }
            Op::Expire(n, kind) => {
                let ids: Vec<String> = self.timers.iter().map(|(id, _)| id.clone()).filter(|id| id.starts_with(&n.to_string())).collect();
                ids.iter().for_each(|id| self.expire(id, kind));
            }
            Op::Topic(topic, partitions) => self.set_topic(topic, partitions),
            Op::Wait(ms) => self.now_ms += ms,
            Op::Restart => {
                self.group = replay(&self.log);
                (self.seen, self.timers) = (Seen::default(), BTreeSet::new());
                for timer in self.group.iter().flat_map(|group| leave::timers_after_load(group, 45_000)) {
                    let TimerChange::Set { member_id, kind, .. } = timer else { panic!("{timer:?}") };
                    self.timers.insert((member_id.to_string(), kind));
                }
            }
            _ => {}
        }
    }

    fn check(&self, cut: usize) {
        let Some(group) = &self.group else { return };
        group.check();
        assert_eq!(replay(&self.log).as_ref(), Some(group), "replay");
        for (cut, tombstones) in [(self.log.len(), false), (cut % (self.log.len() + 1), false), (cut % (self.log.len() + 1), true)] {
            assert_eq!(replay(&compact(&self.log, cut, tombstones)).as_ref(), Some(group), "replay of a compacted log");
        }
        for id in group.members().keys() {
            assert!(self.timers.contains(&(id.to_string(), TimerKind::Session)), "{id} never times out");
        }
        let mut used = BTreeMap::new();
        for client in self.clients.iter().filter(|client| group.members().contains_key(&*client.id)) {
            for (topic, partitions) in &client.owned {
                for partition in partitions {
                    let other = used.insert((*topic, *partition), &client.id);
                    assert_eq!(other, None, "{topic}-{partition} is in use by {} too; {group:?}", client.id);
                }
            }
        }
    }

    /// With everybody reporting and nothing changing the group comes to rest, with everything assigned.
    fn settle(&mut self) {
        for n in 0..CLIENTS {
            if !self.clients[n].joined && self.clients[n].instance_id.is_some() {
                self.step(&Op::Join(n, 0));
            }
        }
        let gone: Vec<String> =
            self.timers.iter().map(|(id, _)| id.clone()).filter(|id| self.clients.iter().all(|c| c.id != *id)).collect();
        gone.iter().for_each(|id| self.expire(id, TimerKind::Session));
        let away = self.clients.iter().filter(|client| !client.joined).map(|client| client.id.clone()).collect::<Vec<_>>();
        away.iter().for_each(|id| self.expire(id, TimerKind::Session));
        for _ in 0..4 * CLIENTS {
            self.now_ms += 11_000;
            for n in (0..CLIENTS).filter(|&n| self.clients[n].joined).collect::<Vec<_>>() {
                for op in [Op::Heartbeat(n, false), Op::Revoke(n), Op::Heartbeat(n, false), Op::Adopt(n)] {
                    self.step(&op);
                    self.check(0);
                }
            }
        }
        let Some(group) = &self.group else { return };
        let joined: Vec<&Client> = self.clients.iter().filter(|client| client.joined).collect();
        assert_eq!(group.members().len(), joined.len());
        if joined.is_empty() {
            return;
        }
        assert_eq!(group.state(), GroupState::Stable, "{group:?}");
        let mut wanted = BTreeSet::new();
        for client in &joined {
            let member = &group.members()[&*client.id];
            assert!(same_partitions(&member.current.assigned, &epochs(&client.owned)) && client.owned == group.targets()[&*client.id]);
            let (names, regex, _) = subscription(client.subscription);
            let matching = regex.iter().flat_map(|regex| super::pattern::resolve(regex, &self.cluster).unwrap());
            wanted.extend(names.into_iter().chain(matching).filter_map(|name| self.cluster.by_name(&name)));
        }
        let held: usize = joined.iter().flat_map(|client| client.owned.values()).map(BTreeSet::len).sum();
        assert_eq!(held, wanted.iter().map(|(_, partitions)| *partitions as usize).sum::<usize>());
    }
}

fn epochs(owned: &Partitions) -> super::member::Owned {
    owned.iter().map(|(topic, partitions)| (*topic, partitions.iter().map(|&partition| (partition, 0)).collect())).collect()
}

fn replay(log: &[Pair]) -> Option<Box<Group>> {
    let mut group = None;
    for (key, value) in log {
        apply(&mut group, &record::decode(key, value.as_deref()).unwrap().1);
    }
    group
}

/// Of the first `cut` records the last one of each key.
fn compact(log: &[Pair], cut: usize, tombstones: bool) -> Vec<Pair> {
    let (front, tail) = log.split_at(cut);
    let last: BTreeMap<&Vec<u8>, usize> = front.iter().enumerate().map(|(at, (key, _))| (key, at)).collect();
    let kept = front.iter().enumerate().filter(|(at, (key, value))| last[key] == *at && (tombstones || value.is_some()));
    kept.map(|(_, record)| record.clone()).chain(tail.iter().cloned()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_life_of_a_group(ops in prop::collection::vec(op(), 1..120), cut in any::<u16>()) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
            world.check(cut.into());
        }
        world.settle();
    }
}
