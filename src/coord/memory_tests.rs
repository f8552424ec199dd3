//! What coordinators hold on the heap, compared to what they say: everything that grows with
//! requests is counted, and refused before it grows beyond the bound.

use super::modern::heartbeat::Request;
use super::replay::Replayed;
use super::testing::{World, member, topic_id};
use super::*;
use crate::rt::heap;

/// The first nodes of a coordinator's own maps, which are not counted.
const OWN: usize = 24 << 10;

impl World {
    /// Asks with `limit` as the bound of what the coordinator may hold.
    fn ask_within(&mut self, limit: usize, group: &str, op: Op) -> Result<Answer, ErrorCode> {
        self.spare_bytes = limit.saturating_sub(self.coordinator.bytes());
        let token = self.send(group, op);
        self.replies.remove(&token).unwrap_or(Ok(Answer::Done))
    }
}

/// Bytes counted, and bytes that the coordinator's end gives back.
fn counted_and_held(coordinator: Coordinator) -> (usize, usize) {
    let (counted, before) = (coordinator.bytes(), heap::held());
    drop(coordinator);
    (counted, (before - heap::held()) as usize)
}

/// Compares the two, of a coordinator that has lived, and of one that has read its log.
fn compare(mut world: World, what: &str) {
    let mut reloaded = Coordinator::default();
    for record in &world.log {
        let (key, value) = record.encode();
        let Ok(record::Decoded::Known(record)) = Record::decode(Some(&key), value.as_deref()) else { panic!("{record:?}") };
        reloaded.replay(&Replayed::Record(record));
    }
    std::mem::swap(&mut reloaded, &mut world.coordinator);
    let lived = reloaded;
    world.step(|coordinator, context| coordinator.loaded(context));
    let reloaded = std::mem::take(&mut world.coordinator);
    drop(world);
    for (how, coordinator) in [("lived", lived), ("reloaded", reloaded)] {
        let (counted, held) = counted_and_held(coordinator);
        assert!(held <= counted + OWN, "{what}, {how}: {held} bytes are held, {counted} counted");
        assert!(counted <= 4 * held + OWN, "{what}, {how}: {held} bytes are held, {counted} counted");
    }
}

fn commit(topics: usize, partitions: i32, metadata: &str) -> Op {
    let offset = |(topic, partition): (usize, i32)| op::CommitOffset {
        topic: format!("t{topic}").into(),
        topic_id: topic_id(&format!("t{topic}")),
        partition,
        offset: 1,
        leader_epoch: 0,
        metadata: metadata.into(),
    };
    let all = (0..topics).flat_map(|topic| (0..partitions).map(move |partition| (topic, partition)));
    let member = op::Membership { member_id: "".into(), instance_id: None, generation: -1 };
    let offsets = all.map(offset).collect();
    Op::Commit(op::Commit { member, retention_ms: None, knows_group_id_not_found: true, version: 0, offsets })
}

fn world(topics: usize) -> World {
    let mut world = World::new();
    (0..topics).for_each(|topic| world.cluster.put(&format!("t{topic}"), topic_id(&format!("t{topic}")), 4));
    (world.spare_bytes, world.max_batch_bytes) = (1 << 30, 1 << 30);
    world
}

fn name(of: usize, len: usize) -> String {
    format!("{of:05}{}", "x".repeat(len - 5))
}

/// The request of a consumer's metadata for these topics.
fn subscription(topics: impl Iterator<Item = String>) -> Bytes {
    let topics: Vec<String> = topics.collect();
    let mut out = vec![0, 0];
    out.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        out.extend((topic.len() as i16).to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend([0xff; 4]);
    out.into()
}

fn classic(member_id: &str, text: usize, topics: usize) -> Join {
    let subscription = subscription((0..topics).map(|topic| name(topic, 9)));
    Join {
        client_id: name(0, text).into(),
        protocols: vec![(name(1, text).into(), subscription.clone()), (name(2, text).into(), subscription)],
        ..member(member_id)
    }
}

/// A group of classic members that have these texts, stable.
fn stable(world: &mut World, group: &str, members: usize, text: usize, topics: usize) {
    let tokens: Vec<Token> = (0..members)
        .map(|at| {
            let instance_id = Some(name(at, text).into());
            world.join(group, Join { instance_id, ..classic("", text, topics) })
        })
        .collect();
    world.pass(7000);
    let joined: Vec<Joined> = tokens.into_iter().map(|token| world.joined(token)).collect();
    let (leaders, others): (Vec<_>, Vec<_>) = joined.into_iter().partition(|joined| joined.member_id == joined.leader);
    for joined in others.iter().chain(&leaders) {
        world.sync(group, joined);
    }
}

fn modern(group: &str, member_id: String, text: usize) -> Request {
    Request {
        group_id: group.into(),
        member_id,
        rack_id: Some(name(0, text)),
        client_id: name(0, text),
        rebalance_timeout_ms: Some(60_000),
        topic_names: Some([name(1, text), name(2, text)].into()),
        owned: Some(Default::default()),
        ..Request::default()
    }
}

fn heartbeat(request: Request) -> Op {
    Op::ConsumerHeartbeat(Box::new(request))
}

#[test]
fn offsets_and_the_ids_of_their_groups_are_counted() {
    for (groups, id, topics, partitions, metadata) in
        [(300, 6, 1, 1, 0), (40, 32_000, 1, 1, 0), (1, 6, 300, 1, 0), (1, 6, 300, 4, 3), (1, 6, 20, 2, 4096), (1, 6, 1, 4, 0)]
    {
        let mut world = world(300);
        for group in 0..groups {
            world.ask(&name(group, id), commit(topics, partitions, &"m".repeat(metadata))).unwrap();
        }
        compare(world, &format!("{groups} groups, {topics} topics"));
    }
}

#[test]
fn classic_members_are_counted() {
    for (groups, members, text, topics) in [(60, 1, 6, 1), (1, 60, 6, 1), (3, 3, 20_000, 1), (2, 2, 6, 3000)] {
        let mut world = world(1);
        for group in 0..groups {
            stable(&mut world, &name(group, text), members, text, topics);
        }
        compare(world, &format!("{groups} groups of {members} members, texts of {text}, {topics} topics"));
    }
    let mut pending = world(1);
    for group in 0..100 {
        pending.join(&name(group, 20_000), classic("", 20_000, 1));
    }
    let coordinator = std::mem::take(&mut pending.coordinator);
    drop(pending);
    let (counted, held) = counted_and_held(coordinator);
    assert!((held..3 * held).contains(&(counted + OWN)), "ids that were given out: {held} bytes are held, {counted} counted");
}

#[test]
fn members_of_the_new_protocol_are_counted() {
    for (groups, members, text, topics) in [(60, 1, 6, 4), (1, 60, 6, 100), (1, 6, 20_000, 4), (1, 1, 6, 3000)] {
        let mut world = world(topics);
        for (group, member) in (0..groups).flat_map(|group| (0..members).map(move |member| (group, member))) {
            let group = name(group, text);
            let mut request = Request { instance_id: Some(name(member, text)), ..modern(&group, name(member, text), text) };
            if member % 2 == 0 {
                request.topic_regex = Some(format!("t.*|{}", "y".repeat(text.min(100))));
            }
            world.ask(&group, heartbeat(request)).unwrap();
        }
        compare(world, &format!("{groups} groups of {members} members, texts of {text}, {topics} topics"));
    }
}

/// What may be asked without end, each time for something new; at last it is refused.
fn flood(what: &str, mut op: impl FnMut(usize) -> (String, Op)) {
    const LIMIT: usize = 512 << 10;
    let (mut world, mut refused) = (world(300), false);
    for at in 0..100 {
        let (group, op) = op(at);
        let reply = world.ask_within(LIMIT, &group, op);
        refused |= match reply {
            Err(code) => code == ErrorCode::CoordinatorNotAvailable,
            Ok(Answer::Joined(joined)) => joined.code == ErrorCode::CoordinatorNotAvailable,
            Ok(Answer::Heard(Err(refusal))) => refusal.code == ErrorCode::CoordinatorNotAvailable,
            Ok(_) => false,
        };
        assert!(world.coordinator.bytes() <= LIMIT, "{what}: {} bytes", world.coordinator.bytes());
    }
    assert!(refused, "{what}: {} bytes, and nothing was refused", world.coordinator.bytes());
    let coordinator = std::mem::take(&mut world.coordinator);
    drop(world);
    let (_, held) = counted_and_held(coordinator);
    assert!(held <= LIMIT + OWN, "{what}: {held} bytes");
}

#[test]
fn what_is_asked_without_end_is_refused() {
    flood("groups of long ids", |at| (name(at, 32_000), commit(1, 1, "")));
    flood("offsets", |at| ("g".into(), commit(300.min(at * 9), 4, &name(at, 20))));
    flood("ids given out", |at| (name(at, 9000), Op::Join(classic("", 9000, 1))));
    flood("classic members", |at| {
        let needs_known_id = false;
        ("g".into(), Op::Join(Join { needs_known_id, ..classic("", 500, 50 + at) }))
    });
    flood("members of the new protocol", |at| {
        let request = modern("g", name(at, 9000), 500);
        ("g".into(), heartbeat(request))
    });
    flood("patterns that match everything", |at| {
        let request = modern("g", name(at / 2, 9), 9);
        let topic_regex = (at % 2 == 1).then(|| format!("t.*|{at}"));
        ("g".into(), heartbeat(Request { topic_regex, ..request }))
    });
}

/// Where a join is refused for lack of memory, the members are not assigned anew for each further one
/// that is: the next of the same size may well have room.
#[test]
fn who_is_refused_has_nobody_assigned_anew() {
    let mut world = world(3);
    let join = |world: &mut World, member: usize| match world.ask("g", heartbeat(modern("g", name(member, 6), 6))) {
        Ok(Answer::Heard(heard)) => heard.map_err(|refusal| refusal.code).map(drop),
        other => panic!("{other:?}"),
    };
    (0..20).for_each(|member| join(&mut world, member).unwrap());
    // Large enough for the new member alone, too small for the targets of all those who have none.
    for spare in (0..).step_by(100) {
        world.pass(2000);
        world.spare_bytes = spare;
        if join(&mut world, 20) == Ok(()) {
            panic!("with {spare} bytes both have room at once");
        }
        if join(&mut world, 21) == Ok(()) {
            return;
        }
    }
}
