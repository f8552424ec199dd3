//! Tests of groups on their way from one protocol to the other, with a whole coordinator.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::heartbeat::Request;
use super::super::leave::Leave;
use super::super::member::Partitions;
use crate::base::config::GroupOverrides;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::coord::Name;
use crate::coord::op::{Answer, Join, Joined, Leaving, Membership, Op, Reply, Sync};
use crate::coord::testing::{World, compacted, replay};

const T: Uuid = Uuid([1; 16]);

struct Host(World);

fn host() -> Host {
    let mut world = World::new();
    world.cluster.put("t", T, 4);
    world.config.initial_rebalance_delay_ms = 0;
    world.config.consumer.assignment_interval_ms = 0;
    Host(world)
}

/// What a consumer of topic `t` that owns these partitions says (version 1).
fn subscription(owned: &[i32]) -> Bytes {
    [&[0, 1, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff][..], &partitions(owned)].concat().into()
}

/// What it is told.
fn assignment(owned: &[i32]) -> Bytes {
    [&[0, 1][..], &partitions(owned), &[0xff; 4]].concat().into()
}

fn partitions(owned: &[i32]) -> Vec<u8> {
    if owned.is_empty() {
        return vec![0; 4];
    }
    let mut out = vec![0, 0, 0, 1, 0, 1, b't'];
    out.extend((owned.len() as i32).to_be_bytes());
    out.extend(owned.iter().flat_map(|partition| partition.to_be_bytes()));
    out
}

fn who(generation: i32) -> Membership {
    Membership { member_id: "a".into(), instance_id: None, generation }
}

impl Host {
    /// The answer, after what is due at once.
    fn ask(&mut self, op: Op) -> Reply {
        let token = self.0.send("g", op);
        self.0.pass(0);
        assert_eq!(replay(&self.0.log), *self.0.coordinator.state());
        self.0.reply(token)
    }

    fn joins(&mut self, id: &str, owned: &[i32]) -> Joined {
        let join = Join { needs_known_id: false, ..join(id, owned) };
        let Ok(Answer::Joined(joined)) = self.ask(Op::Join(join)) else { panic!("no answer to a join") };
        joined
    }

    fn syncs(&mut self, member: Membership, assignments: Vec<(Name, Bytes)>) -> Result<Bytes, ErrorCode> {
        match self.ask(Op::Sync(Sync { member, protocol_type: Some("consumer".into()), protocol: Some("range".into()), assignments }))? {
            Answer::Synced(synced) => Ok(synced.assignment),
            other => panic!("{other:?}"),
        }
    }

    fn beats(&mut self, generation: i32) -> Result<Answer, ErrorCode> {
        self.ask(Op::Heartbeat(who(generation)))
    }

    /// Epoch and partitions that the member of the new protocol hears.
    fn modern(&mut self, epoch: i32, owned: Option<&[i32]>) -> (i32, Option<Vec<i32>>) {
        let owned = owned.map(|owned| Partitions::from([(T, owned.iter().copied().collect())]));
        let owned = owned.map(|owned| owned.into_iter().filter(|(_, partitions)| !partitions.is_empty()).collect());
        let joins = epoch == 0;
        let request = Request {
            group_id: "g".into(),
            member_id: "m".into(),
            member_epoch: epoch,
            rebalance_timeout_ms: joins.then_some(1000),
            topic_names: joins.then(|| ["t".to_owned()].into()),
            owned,
            ..Request::default()
        };
        match self.ask(Op::ConsumerHeartbeat(Box::new(request))) {
            Ok(Answer::Heard(Ok(reply))) => (reply.epoch, reply.assignment.map(|partitions| partitions.into_values().flatten().collect())),
            other => panic!("{other:?}"),
        }
    }

    fn modern_leaves(&mut self) {
        let leave = Leave { group_id: "g".into(), member_id: "m".into(), ..Leave::default() };
        assert!(matches!(self.ask(Op::ConsumerLeave(leave)), Ok(Answer::Heard(Ok(_)))));
    }

    fn kind(&self) -> &'static str {
        self.0.coordinator.list(&[], &[])[0].kind
    }

    /// A classic group that has lost its only member.
    fn with_classic_group() -> Host {
        let mut host = host();
        let member_id = host.joins("", &[]).member_id;
        host.ask(Op::Leave(vec![Leaving { member_id, instance_id: None }])).unwrap();
        host
    }
}

#[test]
fn who_joins_without_an_id_gets_one_and_who_does_not_join_makes_no_group() {
    let mut host = host();
    let beat = |host: &mut Host, member_epoch| {
        let names = || ["t".to_owned()].into();
        let request = Request {
            group_id: "g".into(),
            member_epoch,
            rebalance_timeout_ms: Some(1000),
            topic_names: Some(names()),
            owned: Some(Partitions::new()),
            ..Request::default()
        };
        match host.ask(Op::ConsumerHeartbeat(Box::new(request))) {
            Ok(Answer::Heard(heard)) => heard.map(|reply| reply.member_id).map_err(|refusal| refusal.code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(beat(&mut host, 1), Err(ErrorCode::GroupIdNotFound));
    assert!(host.0.log.is_empty());
    let ids = [beat(&mut host, 0).unwrap(), beat(&mut host, 0).unwrap()];
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 22), "{ids:?}");
}

/// Up, and down again, with one member of each protocol.
#[test]
fn there_and_back() {
    let mut host = host();
    let joined = host.joins("", &[]);
    let id = joined.member_id.clone();
    let me = |generation| Membership { member_id: id.clone(), instance_id: None, generation };
    assert_eq!((joined.generation, &joined.leader), (1, &id));
    host.syncs(me(1), vec![(id.clone(), assignment(&[0, 1, 2, 3]))]).unwrap();
    assert_eq!(host.kind(), "classic");

    assert_eq!(host.modern(0, Some(&[])), (2, Some(vec![])));
    assert_eq!(host.kind(), "consumer");
    let beat = |host: &mut Host, generation| host.ask(Op::Heartbeat(me(generation)));
    assert_eq!(beat(&mut host, 1), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(beat(&mut host, 2), Err(ErrorCode::IllegalGeneration));
    assert_eq!(host.beats(1), Err(ErrorCode::UnknownMemberId), "of somebody else");
    let joined = host.joins(&id, &[0, 1, 2, 3]);
    assert_eq!((joined.code, joined.generation, &*joined.leader), (ErrorCode::None, 1, ""));
    let half = host.syncs(me(1), vec![]).unwrap();
    assert_eq!(half, assignment(&[0, 1]));
    assert_eq!(host.modern(2, Some(&[])), (2, None), "not given up yet");
    assert_eq!(beat(&mut host, 1), Err(ErrorCode::RebalanceInProgress), "it has to say that it has");
    assert_eq!(host.joins(&id, &[0, 1]).generation, 2);
    assert_eq!(host.syncs(me(2), vec![]), Ok(half));
    assert_eq!(beat(&mut host, 2), Ok(Answer::Done));
    assert_eq!(host.modern(2, None), (2, Some(vec![2, 3])));

    host.modern_leaves();
    assert_eq!(host.kind(), "classic");
    assert_eq!(beat(&mut host, 2), Err(ErrorCode::RebalanceInProgress), "in the generation that it has");
    let joined = host.joins(&id, &[0, 1]);
    assert_eq!((joined.generation, &joined.leader), (3, &id));
    host.syncs(me(3), vec![(id.clone(), assignment(&[0, 1, 2, 3]))]).unwrap();
    assert_eq!(beat(&mut host, 3), Ok(Answer::Done));
}

/// A new epoch whose assignment waits for the interval between assignments.
#[test]
fn a_classic_member_is_sent_back_for_an_assignment_only() {
    let mut host = host();
    host.0.config.consumer.assignment_interval_ms = 1000;
    assert_eq!(host.modern(0, Some(&[])), (2, Some(vec![0, 1, 2, 3])));
    let joined = host.joins("", &[]);
    assert_eq!((joined.code, joined.generation), (ErrorCode::None, 2), "of the assignment that there is");
    let me = Membership { member_id: joined.member_id.clone(), instance_id: None, generation: 2 };
    assert_eq!(host.syncs(me.clone(), vec![]), Ok(assignment(&[])));
    assert_eq!(host.ask(Op::Heartbeat(me.clone())), Ok(Answer::Done));
    host.0.pass(1000);
    assert_eq!(host.modern(2, Some(&[0, 1, 2, 3])), (2, Some(vec![0, 1])));
    assert_eq!(host.ask(Op::Heartbeat(me.clone())), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(host.syncs(me, vec![]), Err(ErrorCode::RebalanceInProgress));
}

#[test]
fn a_refused_join_names_no_member() {
    let mut host = host();
    host.modern(0, Some(&[]));
    let refused = host.joins("who", &[]);
    assert_eq!(refused.code, ErrorCode::None, "an id of its own");
    host.0.config.consumer.max_size = 1;
    let refused = host.joins("other", &[]);
    assert_eq!((refused.code, &*refused.member_id), (ErrorCode::GroupMaxSizeReached, ""));
}

/// Nobody but classic members, who stay in a group of the new protocol by its policy.
#[test]
fn classic_members_alone_come_to_their_assignment() {
    let mut host = host();
    (host.0.config.consumer.assignment_interval_ms, host.0.config.consumer.downgrade) = (1000, false);
    assert_eq!(host.modern(0, Some(&[])), (2, Some(vec![0, 1, 2, 3])));
    let joined = host.joins("", &[]);
    let me = |generation| Membership { member_id: joined.member_id.clone(), instance_id: None, generation };
    assert_eq!(host.syncs(me(2), vec![]), Ok(assignment(&[])));
    host.modern_leaves();
    assert_eq!((host.kind(), host.ask(Op::Heartbeat(me(2)))), ("consumer", Err(ErrorCode::RebalanceInProgress)));
    host.0.pass(1000);
    assert_eq!(host.joins(&joined.member_id, &[]).generation, 4);
    assert_eq!(host.syncs(me(4), vec![]), Ok(assignment(&[0, 1, 2, 3])));
    assert_eq!(host.ask(Op::Heartbeat(me(4))), Ok(Answer::Done));
}

/// The other order: the group of the new protocol is there first, and the classic member is the last one in it.
#[test]
fn a_classic_member_joins_and_the_other_one_goes_silent() {
    let mut host = host();
    assert_eq!(host.modern(0, Some(&[])), (2, Some(vec![0, 1, 2, 3])));
    let joined = host.joins("", &[]);
    assert_eq!((joined.code, joined.generation), (ErrorCode::None, 3));
    assert_eq!(joined.member_id.len(), 22, "an id was made for it");
    let me = Membership { member_id: joined.member_id.clone(), instance_id: None, generation: 3 };
    assert_eq!(host.syncs(me.clone(), vec![]), Ok(assignment(&[])));
    assert_eq!(host.ask(Op::Heartbeat(me.clone())), Ok(Answer::Done), "nothing is free yet");
    assert_eq!(host.modern(2, None), (2, Some(vec![0, 1])));
    assert_eq!(host.modern(2, Some(&[0, 1])), (3, None));
    assert_eq!(host.ask(Op::Heartbeat(me.clone())), Err(ErrorCode::RebalanceInProgress), "now there is");
    assert_eq!(host.joins(&joined.member_id, &[]).generation, 3);
    assert_eq!(host.syncs(me.clone(), vec![]), Ok(assignment(&[2, 3])));
    // The classic member reports, the other one does not.
    for _ in 0..6 {
        assert_eq!((host.kind(), host.ask(Op::Heartbeat(me.clone()))), ("consumer", Ok(Answer::Done)));
        host.0.pass(8_000);
    }
    assert_eq!(host.kind(), "classic");
}

#[test]
fn policies_and_what_cannot_be_converted() {
    let mut host = Host::with_classic_group();
    // An empty group makes way, whatever the policy.
    host.0.config.consumer.upgrade = false;
    assert_eq!(host.modern(0, Some(&[])).0, 2);
    host.modern_leaves();
    host.joins("", &[]);
    assert_eq!(host.kind(), "classic");
    let request = Request { group_id: "g".into(), member_id: "m".into(), topic_names: Some(["t".to_owned()].into()), ..Request::default() };
    let refused = |host: &mut Host| match host.ask(Op::ConsumerHeartbeat(Box::new(request.clone()))) {
        Ok(Answer::Heard(Err(refusal))) => (refusal.code, refusal.message),
        other => panic!("{other:?}"),
    };
    let text = "Cannot upgrade classic group g to consumer group because online upgrade is disabled.";
    assert_eq!(refused(&mut host), (ErrorCode::GroupIdNotFound, text.to_owned()));
    host.0.config.consumer.upgrade = true;
    host.0.config.consumer.max_size = 0;
    assert!(refused(&mut host).1.contains("because the group size exceeds"));
    assert_eq!(host.kind(), "classic");
    // Without a downgrade the group stays what it is.
    host.0.config.consumer.max_size = 10;
    host.0.config.consumer.downgrade = false;
    host.modern(0, Some(&[]));
    host.modern_leaves();
    assert_eq!(host.kind(), "consumer");
    // With neither, nobody joins with the other protocol.
    host.0.config.consumer.upgrade = false;
    assert_eq!(host.joins("", &[]).code, ErrorCode::InconsistentGroupProtocol);
}

/// What clients of both protocols do, and what happens to them.
#[derive(Clone, Debug)]
enum Act {
    Join(usize),
    Sync(usize),
    Beat(usize),
    Leave(usize),
    Modern(usize),
    ModernLeave(usize),
    Pass(u64),
    Partitions(i32),
    Delete,
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..3usize).prop_map(Act::Join),
        4 => (0..3usize).prop_map(Act::Sync),
        4 => (0..3usize).prop_map(Act::Beat),
        1 => (0..3usize).prop_map(Act::Leave),
        6 => (0..2usize).prop_map(Act::Modern),
        2 => (0..2usize).prop_map(Act::ModernLeave),
        3 => prop_oneof![0..100u64, 0..12_000u64, 0..60_000u64].prop_map(Act::Pass),
        1 => (4..8i32).prop_map(Act::Partitions),
        1 => Just(Act::Delete),
        1 => Just(Act::Restart),
    ]
}

#[derive(Clone, Debug, Default)]
struct Classic {
    id: Name,
    generation: i32,
    leads: bool,
    owned: Vec<i32>,
}

#[derive(Clone, Debug, Default)]
struct Modern {
    epoch: i32,
    owned: Partitions,
}

struct Mixed {
    world: World,
    classic: Vec<Classic>,
    modern: Vec<Modern>,
}

impl Mixed {
    /// The reply, unless it has to wait.
    fn ask(&mut self, op: Op) -> Option<Reply> {
        let token = self.world.send("g", op);
        self.world.pass(0);
        self.world.replies.remove(&token)
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Join(n) => {
                let Classic { id, owned, .. } = self.classic[n].clone();
                let Some(Ok(Answer::Joined(joined))) = self.ask(Op::Join(join(&id, &owned))) else { return };
                let client = &mut self.classic[n];
                match joined.code {
                    ErrorCode::None => {
                        client.leads = joined.leader == joined.member_id;
                        (client.id, client.generation) = (joined.member_id, joined.generation);
                    }
                    ErrorCode::MemberIdRequired => client.id = joined.member_id,
                    _ => *client = Classic::default(),
                }
            }
            Act::Sync(n) => {
                let Classic { id, generation, leads, .. } = self.classic[n].clone();
                let member = Membership { member_id: id.clone(), instance_id: None, generation };
                let assignments = if leads { vec![(id, assignment(&[0, 1, 2, 3]))] } else { vec![] };
                let sync = Sync { member, protocol_type: Some("consumer".into()), protocol: Some("range".into()), assignments };
                if let Some(Ok(Answer::Synced(synced))) = self.ask(Op::Sync(sync)) {
                    // Topic `t` alone: its partitions are numbers at the end, before the absent user data.
                    let numbers = synced.assignment.get(13..synced.assignment.len().saturating_sub(4)).unwrap_or_default();
                    self.classic[n].owned = numbers.chunks_exact(4).map(|bytes| i32::from_be_bytes(bytes.try_into().unwrap())).collect();
                }
            }
            Act::Beat(n) => {
                let Classic { id, generation, .. } = self.classic[n].clone();
                let _ = self.ask(Op::Heartbeat(Membership { member_id: id, instance_id: None, generation }));
            }
            Act::Leave(n) => {
                let member_id = std::mem::take(&mut self.classic[n]).id;
                let _ = self.ask(Op::Leave(vec![Leaving { member_id, instance_id: None }]));
            }
            Act::Modern(n) => {
                let Modern { epoch, owned } = self.modern[n].clone();
                let request = Request {
                    group_id: "g".into(),
                    member_id: format!("m{n}"),
                    member_epoch: epoch,
                    rebalance_timeout_ms: (epoch == 0).then_some(20_000),
                    topic_names: (epoch == 0).then(|| ["t".to_owned()].into()),
                    owned: Some(if epoch == 0 { Partitions::new() } else { owned }),
                    ..Request::default()
                };
                match self.ask(Op::ConsumerHeartbeat(Box::new(request))) {
                    Some(Ok(Answer::Heard(Ok(reply)))) => {
                        self.modern[n].epoch = reply.epoch;
                        self.modern[n].owned = reply.assignment.unwrap_or_else(|| self.modern[n].owned.clone());
                    }
                    _ => self.modern[n] = Modern::default(),
                }
            }
            Act::ModernLeave(n) => {
                self.modern[n] = Modern::default();
                let leave = Leave { group_id: "g".into(), member_id: format!("m{n}"), ..Leave::default() };
                let _ = self.ask(Op::ConsumerLeave(leave));
            }
            Act::Pass(ms) => self.world.pass(ms),
            Act::Partitions(count) => self.world.cluster.put("t", T, count),
            Act::Delete => drop(self.ask(Op::Delete)),
            Act::Restart => self.world.restart(),
        }
    }
}

fn join(id: &str, owned: &[i32]) -> Join {
    Join {
        member_id: id.into(),
        instance_id: None,
        client_id: "c".into(),
        client_host: "/h".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 20_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription(owned))],
        needs_known_id: id.is_empty() && owned.is_empty(),
        can_skip_assignment: false,
    }
}

/// What a group has of its own counts from the next heartbeat on, and after a restart.
#[test]
fn settings_of_one_group() {
    let mut host = host();
    let heartbeat = |host: &mut Host, epoch: i32| {
        let request = Request {
            group_id: "g".into(),
            member_id: "m".into(),
            member_epoch: epoch,
            rebalance_timeout_ms: (epoch == 0).then_some(1000),
            topic_names: (epoch == 0).then(|| ["t".to_owned()].into()),
            owned: (epoch == 0).then(Partitions::default),
            ..Request::default()
        };
        match host.ask(Op::ConsumerHeartbeat(Box::new(request))) {
            Ok(Answer::Heard(answer)) => answer.map(|reply| (reply.epoch, reply.heartbeat_interval_ms)).map_err(|refusal| refusal.code),
            other => panic!("{other:?}"),
        }
    };
    let (epoch, interval) = heartbeat(&mut host, 0).unwrap();
    assert_eq!(interval, 5000);
    let own = GroupOverrides { session_timeout_ms: Some(2000), heartbeat_interval_ms: Some(700), assignment_interval_ms: None };
    host.0.overrides.insert("g".into(), own);
    host.0.pass(3000);
    assert_eq!(heartbeat(&mut host, epoch), Ok((epoch, 700)));
    host.0.pass(1999);
    assert_eq!(heartbeat(&mut host, epoch), Ok((epoch, 700)));
    host.0.restart();
    host.0.pass(1999);
    assert_eq!(heartbeat(&mut host, epoch), Ok((epoch, 700)));
    host.0.pass(2001);
    assert_eq!(heartbeat(&mut host, epoch), Err(ErrorCode::UnknownMemberId));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// The invariants are those of `Coordinator::check`, which the world runs after every decision.
    #[test]
    fn clients_of_both_protocols_at_random(acts in prop::collection::vec(act(), 1..100)) {
        let Host(world) = host();
        let mut mixed = Mixed { world, classic: vec![Classic::default(); 3], modern: vec![Modern::default(); 2] };
        for act in &acts {
            mixed.act(act);
            prop_assert_eq!(&replay(&mixed.world.log), mixed.world.coordinator.state());
            prop_assert_eq!(&replay(&compacted(&mixed.world.log)), mixed.world.coordinator.state());
        }
    }
}
