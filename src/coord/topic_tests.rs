//! Offsets belong to a topic by its id: none of a deleted topic acts on its successor of the same
//! name.

use super::op::{Commit, Joined};
use super::testing::{TOPIC, World, codes, commit, member, topic_id};
use super::*;
use crate::base::ids::Uuid;

const NEXT: Uuid = Uuid([2; 16]);

impl World {
    /// The topic "t" is deleted and another one created, as the coordinator's core hears of it.
    fn replace_topic(&mut self) {
        self.cluster.remove("t");
        self.forget();
        self.cluster.put("t", NEXT, 1);
    }

    fn forget(&mut self) {
        let cluster = self.cluster.clone();
        let gone = |name: &Name, id: TopicId| cluster.by_name(name).is_none_or(|(known, _)| !id.is_zero() && known != id);
        self.step(|coordinator, context| coordinator.forget_topics(context, &gone));
    }

    /// Commits as a core with metadata of this version asks.
    fn commit_by(&mut self, group: &str, topic_id: Uuid, version: i64, offset: i64) -> Reply {
        let Op::Commit(Commit { member, retention_ms, knows_group_id_not_found, mut offsets, .. }) = commit("", -1, "t", offset) else {
            unreachable!()
        };
        offsets[0].topic_id = topic_id;
        self.ask(group, Op::Commit(Commit { member, retention_ms, knows_group_id_not_found, version, offsets }))
    }
}

#[test]
fn a_commit_on_its_way_does_not_reach_the_next_topic() {
    let mut world = World::new();
    let version = world.cluster.version();
    world.cluster.remove("t");
    world.forget();
    // Looked up before the deletion, decided after it, and again after the next creation.
    assert_eq!(codes(world.commit_by("g", TOPIC, version, 777)), [ErrorCode::UnknownTopicOrPartition]);
    world.cluster.put("t", NEXT, 1);
    assert_eq!(codes(world.commit_by("g", TOPIC, version, 777)), [ErrorCode::UnknownTopicOrPartition]);
    assert_eq!(world.committed("g", "t"), -1);
    assert!(world.log.is_empty());
    // One of the new topic counts; one from a core that is ahead has to come again.
    assert_eq!(codes(world.commit_by("g", NEXT, world.cluster.version(), 5)), [ErrorCode::None]);
    let ahead = world.cluster.version() + 1;
    assert_eq!(world.commit_by("g", Uuid([3; 16]), ahead, 6), Err(ErrorCode::CoordinatorLoadInProgress));
    world.restart();
    assert_eq!(world.committed("g", "t"), 5);
}

#[test]
fn an_offset_of_another_id_is_none() {
    let mut world = World::new();
    let version = world.cluster.version();
    world.commit("g", "", -1, "t", 777).unwrap();
    // The coordinator has not heard of the deletion, or has no record of it yet: who asks has.
    assert_eq!(world.committed_in("g", "t", NEXT, None), -1);
    assert_eq!(world.committed_in("g", "t", NEXT, Some(version + 2)), -1);
    assert_eq!(world.committed_in("g", "t", TOPIC, None), 777);
    // The other way round: a name means the newest topic of that name, an id itself.
    world.replace_topic();
    assert_eq!(codes(world.commit_by("g", NEXT, world.cluster.version(), 5)), [ErrorCode::None]);
    assert_eq!(world.committed_in("g", "t", TOPIC, Some(version)), 5);
    assert_eq!(world.committed_in("g", "t", TOPIC, None), -1);
    let wanted = |id| Op::DeleteOffsets(vec![("t".into(), id, 0)]);
    assert_eq!(codes(world.ask("g", wanted(TOPIC))), [ErrorCode::None]);
    assert_eq!(world.committed("g", "t"), 5, "not the offset that was meant");
    assert_eq!(codes(world.ask("g", wanted(NEXT))), [ErrorCode::None]);
    assert_eq!(world.committed("g", "t"), -1);
}

#[test]
fn a_group_outlives_its_last_topic_by_a_while() {
    let mut world = World::new();
    world.commit("g", "", -1, "t", 7).unwrap();
    world.replace_topic();
    assert_eq!((world.committed("g", "t"), world.coordinator.list(&[], &[]).len()), (-1, 1));
    assert_eq!(world.ask("g", Op::Delete), Ok(Answer::Done));
    assert_eq!((world.coordinator.list(&[], &[]).len(), world.coordinator.bytes()), (0, 0));
}

#[test]
fn all_offsets_are_those_of_topics_that_exist() {
    let mut world = World::new();
    for topic in ["t", "u"] {
        world.commit("g", "", -1, topic, 7).unwrap();
    }
    // Not told yet.
    world.cluster.remove("t");
    world.cluster.put("t", NEXT, 1);
    let all = Op::FetchOffsets(op::FetchOffsets { member: None, topics: None, version: None, require_stable: false });
    let Ok(Answer::Offsets(found)) = world.ask("g", all) else { panic!("no offsets") };
    assert_eq!(found.iter().map(|t| (&*t.topic, t.topic_id, t.partitions[0].offset)).collect::<Vec<_>>(), [("u", topic_id("u"), 7)]);
}

#[test]
fn offsets_without_an_id_get_one() {
    let mut world = World::new();
    world.commit("g", "", -1, "t", 7).unwrap();
    // As older brokers write it.
    let Some(Record::Offset { value: Some(value), .. }) = world.log.last_mut() else { panic!("no offset") };
    value.topic_id = Uuid::ZERO;
    world.coordinator.state = super::testing::replay(&world.log);
    world.restart();
    world.forget();
    assert_eq!(world.committed("g", "t"), 7);
    world.cluster.remove("t");
    world.cluster.put("t", NEXT, 1);
    assert_eq!(world.committed("g", "t"), -1);
    world.restart();
    world.forget();
    assert_eq!((world.committed("g", "t"), world.coordinator.state().groups().len()), (-1, 0));
}

#[test]
fn offsets_that_expire_have_no_id_and_go_by_name() {
    let mut world = World::new();
    let Op::Commit(old) = commit("", -1, "t", 7) else { unreachable!() };
    assert_eq!(codes(world.ask("g", Op::Commit(Commit { retention_ms: Some(60_000), ..old }))), [ErrorCode::None]);
    world.restart();
    assert_eq!(world.committed("g", "t"), 7);
    world.replace_topic();
    assert_eq!(world.committed("g", "t"), -1);
}

#[test]
fn a_classic_group_goes_on_in_the_next_topic_from_its_beginning() {
    let mut world = World::new();
    let (ids, generation) = world.stable("g", 1);
    let version = world.cluster.version();
    world.commit("g", &ids[0], generation, "t", 777).unwrap();
    world.replace_topic();
    let Op::Commit(late) = commit(&ids[0], generation, "t", 778) else { unreachable!() };
    assert_eq!(codes(world.ask("g", Op::Commit(Commit { version, ..late }))), [ErrorCode::UnknownTopicOrPartition]);
    for restarts in 0..2 {
        assert_eq!(world.committed("g", "t"), -1, "after {restarts} restarts");
        world.restart();
        world.forget();
    }
    let token = world.join("g", member(&ids[0]));
    let joined: Joined = world.joined(token);
    assert_eq!((joined.code, joined.generation), (ErrorCode::None, generation + 1));
}
