//! Records that cannot be read cost one group; decisions that cannot be stored are not made.

use super::group::{GroupMetadata, MemberMetadata};
use super::modern::heartbeat::Request;
use super::replay::Replayed;
use super::testing::{World, codes, member, topic_id};
use super::*;

impl World {
    /// The log is read again; the values of these records of it cannot be.
    fn restart_without(&mut self, unreadable: impl Fn(&Record) -> bool) {
        self.waiting.clear();
        self.coordinator = Coordinator::default();
        for record in &self.log {
            let key = record.encode().0;
            let Ok(record::Decoded::Known(tombstone)) = Record::decode(Some(&key), None) else { panic!("{record:?}") };
            let unreadable = unreadable(record) && record.encode().1.is_some();
            let replayed = if unreadable { Replayed::Unreadable(tombstone) } else { Replayed::Record(record.clone()) };
            self.coordinator.replay(&replayed);
        }
        self.step(|coordinator, context| coordinator.loaded(context));
    }

    /// A group of consumers that own nothing, in a form that the new protocol can take over.
    fn consumers(&mut self, group: &str, members: usize) -> (Vec<Name>, i32) {
        let tokens: Vec<_> = (0..members).map(|_| self.join_as_new(group).1).collect();
        self.pass(self.config.initial_rebalance_delay_ms as u64 * 2);
        let joined: Vec<Joined> = tokens.into_iter().map(|token| self.joined(token)).collect();
        let leader = joined.iter().find(|joined| joined.member_id == joined.leader).unwrap().clone();
        let ids: Vec<Name> = joined.iter().map(|joined| joined.member_id.clone()).collect();
        let assignments = ids.iter().map(|id| (id.clone(), Bytes::from_static(&[0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]))).collect();
        let member = op::Membership { member_id: leader.member_id, instance_id: None, generation: leader.generation };
        self.ask(group, Op::Sync(op::Sync { member, protocol_type: None, protocol: None, assignments })).unwrap();
        (ids, leader.generation)
    }

    fn heartbeat_of(&mut self, group: &str, member_id: &str, epoch: i32) -> Result<modern::Reply, modern::Refusal> {
        let request = Request {
            group_id: group.into(),
            member_id: member_id.into(),
            member_epoch: epoch,
            rebalance_timeout_ms: Some(60_000),
            topic_names: Some(["t".to_owned()].into()),
            owned: Some(Default::default()),
            ..Request::default()
        };
        match self.ask(group, Op::ConsumerHeartbeat(Box::new(request))) {
            Ok(Answer::Heard(heard)) => heard,
            other => panic!("{other:?}"),
        }
    }
}

fn is_group(record: &Record) -> bool {
    !matches!(record, Record::Offset { .. })
}

#[test]
fn a_group_that_cannot_be_read_is_deleted_or_waits() {
    let mut world = World::new();
    let (ids, generation) = world.stable("g", 2);
    world.commit("g", &ids[0], generation, "t", 5).unwrap();
    world.commit("healthy", "", -1, "t", 6).unwrap();
    world.restart_without(|record| &**record.group() == "g" && is_group(record));
    let unavailable = Err(ErrorCode::CoordinatorNotAvailable);
    assert_eq!(world.heartbeat("g", &ids[0], generation), unavailable);
    assert_eq!(world.commit("g", &ids[0], generation, "t", 9), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.ask("g", Op::Describe), Err(ErrorCode::CoordinatorNotAvailable));
    let join = world.join("g", member(""));
    assert_eq!(world.reply(join), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.committed("healthy", "t"), 6);
    let listed: Vec<_> = world.coordinator.list(&[], &[]).into_iter().map(|l| (l.group.to_string(), l.state)).collect();
    assert_eq!(listed, [("g".to_owned(), "Unknown"), ("healthy".to_owned(), "Empty")]);
    // Neither time nor the end of its topic changes what is left of it.
    world.pass(8 * 24 * 3_600_000);
    world.step(|coordinator, context| coordinator.forget_topics(context, &|_, _| true));
    assert_eq!(world.coordinator.fenced().map(|id| id.to_string()).collect::<Vec<_>>(), ["g"]);
    assert_eq!(world.ask("g", Op::Delete), Ok(Answer::Done));
    world.restart_without(|record| is_group(record) && &**record.group() == "g");
    assert!(world.coordinator.state().group("g").is_none() && world.coordinator.bytes() == 0);
    world.commit("g", "", -1, "t", 1).unwrap();
    assert_eq!(world.committed("g", "t"), 1);
}

#[test]
fn a_later_record_of_the_key_ends_the_fault() {
    let mut world = World::new();
    world.commit("g", "", -1, "t", 5).unwrap();
    world.commit("g", "", -1, "t", 6).unwrap();
    let first = world.log[0].clone();
    world.restart_without(|record| *record == first);
    assert_eq!(world.committed("g", "t"), 6);
    let last = world.log[1].clone();
    world.restart_without(|record| *record == last);
    assert_eq!(world.ask("g", Op::Describe), Err(ErrorCode::CoordinatorNotAvailable), "not back to 5");
}

#[test]
fn members_of_a_modern_group_that_cannot_be_read() {
    let mut world = World::new();
    world.heartbeat_of("g", "m", 0).unwrap();
    let member =
        |record: &Record| matches!(record, Record::Modern { change, .. } if matches!(**change, modern::record::Change::Member(..)));
    world.restart_without(member);
    assert_eq!(world.ask("g", Op::ConsumerDescribe), Err(ErrorCode::CoordinatorNotAvailable));
    world.pass(100_000);
    assert_eq!(world.ask("g", Op::Delete), Ok(Answer::Done));
    world.restart_without(member);
    assert_eq!(world.coordinator.bytes(), 0);
    world.heartbeat_of("g", "m", 0).unwrap();
}

#[test]
fn a_group_of_both_types_is_fenced() {
    let mut world = World::new();
    world.heartbeat_of("g", "m", 0).unwrap();
    let value = GroupMetadata {
        protocol_type: "consumer".into(),
        generation: 1,
        protocol: None,
        leader: None,
        state_ms: 1,
        members: Vec::<MemberMetadata>::new(),
    };
    let both = Record::Group { group: "g".into(), value: Some(value) };
    world.coordinator.apply(&both);
    let upto = world.log.len() as i64 + 1;
    assert!(world.coordinator.verify(std::slice::from_ref(&both), upto).unwrap_err().contains("both types"));
    world.log.push(both);
    world.restart_without(|_| false);
    assert_eq!(world.ask("g", Op::ConsumerDescribe), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.ask("g", Op::Delete), Ok(Answer::Done));
    assert_eq!(world.coordinator.bytes(), 0);
}

#[test]
fn what_contradicts_the_ledger_or_the_log_is_noticed() {
    let mut world = World::new();
    world.commit("g", "", -1, "t", 5).unwrap();
    let (records, upto) = (world.log.clone(), world.log.len() as i64);
    assert!(world.coordinator.verify(&records, upto).unwrap_err().contains("offset 1"), "applied twice");
    assert!(world.coordinator.verify(&[], upto - 1).is_err());
    assert_eq!(world.coordinator.verify(&[], upto), Ok(()));
    world.coordinator.state.bytes = usize::MAX - 5;
    assert!(world.coordinator.verify(&records, upto + 1).unwrap_err().contains("memory"));
}

#[test]
fn an_upgrade_larger_than_a_batch_is_refused() {
    let mut world = World::new();
    let (ids, generation) = world.consumers("g", 3);
    // Each of the records fits, all of them do not.
    world.max_batch_bytes = 900;
    let refusal = world.heartbeat_of("g", "m", 0).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::UnknownServerError);
    assert_eq!(world.heartbeat("g", &ids[0], generation), Ok(()), "it is a classic group as before");
    world.max_batch_bytes = 1 << 20;
    world.heartbeat_of("g", "m", 0).unwrap();
    let group = world.coordinator.state().group("g").unwrap().modern.clone().unwrap();
    assert_eq!((group.members().len(), group.targets().len()), (4, 4));
}

#[test]
fn a_downgrade_larger_than_a_batch_waits() {
    let mut world = World::new();
    world.consumers("g", 3);
    world.heartbeat_of("g", "m", 0).unwrap();
    world.max_batch_bytes = 900;
    let leave = modern::leave::Leave { group_id: "g".into(), member_id: "m".into(), ..Default::default() };
    assert!(matches!(world.ask("g", Op::ConsumerLeave(leave)), Ok(Answer::Heard(Ok(_)))));
    let group = world.coordinator.state().group("g").unwrap();
    assert!(group.metadata.is_none() && group.modern.as_ref().is_some_and(|group| group.members().len() == 3));
}

#[test]
fn a_member_that_cannot_be_removed_is_looked_at_again() {
    let mut world = World::new();
    world.heartbeat_of("g", "m", 0).unwrap();
    world.max_batch_bytes = 100;
    world.pass(200_000);
    assert!(world.coordinator.state().group("g").unwrap().modern.as_ref().is_some_and(|group| group.members().len() == 1));
    world.max_batch_bytes = 1 << 20;
    world.pass(200_000);
    assert!(world.coordinator.state().group("g").unwrap().modern.as_ref().is_some_and(|group| group.members().is_empty()));
}

#[test]
fn tombstones_of_a_large_group_are_divided() {
    let mut world = World::new();
    for n in 0..40 {
        let topic = format!("many{n}");
        world.cluster.put(&topic, topic_id(&topic), 1);
        assert_eq!(codes(world.commit("g", "", -1, &topic, n)), [ErrorCode::None]);
    }
    world.max_batch_bytes = 300;
    assert_eq!(world.ask("g", Op::Delete), Ok(Answer::Done));
    assert!(world.coordinator.state().groups().is_empty());
}

/// Whatever a batch may hold: a crash behind any of them leaves every group whole.
#[test]
fn a_crash_between_two_batches_leaves_whole_groups() {
    for max_batch_bytes in (400..4000).step_by(200) {
        let mut world = World::new();
        world.consumers("g", 3);
        world.commit("other", "", -1, "t", 5).unwrap();
        world.max_batch_bytes = max_batch_bytes;
        let joined = world.heartbeat_of("g", "m", 0).is_ok();
        if joined {
            let leave = modern::leave::Leave { group_id: "g".into(), member_id: "m".into(), ..Default::default() };
            let _ = world.ask("g", Op::ConsumerLeave(leave));
        }
        // The largest upgrade of these needs about 2 KB.
        assert!(joined || max_batch_bytes < 3000);
        let (log, ends) = (world.log.clone(), world.ends.clone());
        for end in ends {
            world.log = log[..end].to_vec();
            world.coordinator = Coordinator::default();
            world.coordinator.state = super::testing::replay(&world.log);
            world.step(|coordinator, context| coordinator.loaded(context));
            let stored = world.coordinator.state().group("g").unwrap();
            assert!(!stored.is_fenced());
            if let Some(group) = &stored.modern {
                assert!(group.members().keys().all(|id| group.targets().contains_key(id)), "{max_batch_bytes}: {group:?}");
            }
        }
    }
}

/// OffsetFetch up to version 7 does not say who asks.
#[test]
fn whoever_asks_hears_of_the_offsets_of_a_modern_group() {
    let mut world = World::new();
    let epoch = world.heartbeat_of("g", "m", 0).unwrap().epoch;
    world.commit("g", "m", epoch, "t", 5).unwrap();
    assert_eq!(world.committed("g", "t"), 5);
}
