//! A coordinator's rules one by one, then all of them under random requests, timeouts and restarts.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::op::{Commit, Joined, Leaving, Membership, Sync};
use super::testing::{World, codes, commit, compacted, member, replay, subscription, topic_id};
use super::*;

#[test]
fn groups_have_kafkas_partitions() {
    // Java: "g1".hashCode() % 50, and a hash that is negative.
    assert_eq!(partition_for("g1", 50), 42);
    assert_eq!(partition_for("", 50), 0);
    assert_eq!(partition_for("polygenelubricants", 50), 0, "Integer.MIN_VALUE");
    assert_eq!(partition_for("console-consumer-12345", 50), java("console-consumer-12345"));
    assert_eq!(partition_for("grüße", 50), java("grüße"));
}

fn java(text: &str) -> i32 {
    let hash = text.encode_utf16().fold(0i64, |hash, unit| (hash * 31 + i64::from(unit)) as i32 as i64);
    (hash.abs() % 50) as i32
}

#[test]
fn a_group_comes_together() {
    let mut world = World::new();
    let (a, first) = world.join_as_new("g");
    assert!(a.starts_with("client-") && a.len() == "client-".len() + 36, "{a}");
    world.pass(2000);
    let (b, second) = world.join_as_new("g");
    world.pass(2500);
    assert_eq!(world.coordinator.live("g").unwrap().phase(), Phase::PreparingRebalance, "the second one extends the delay");
    world.pass(3000);
    let (first, second) = (world.joined(first), world.joined(second));
    assert_eq!((first.generation, first.protocol.as_deref(), first.code), (1, Some("range"), ErrorCode::None));
    let leader = if first.leader == a { (&first, &second) } else { (&second, &first) };
    assert_eq!((leader.0.members.len(), leader.1.members.len(), &leader.1.leader), (2, 0, &leader.0.member_id));
    assert!(world.log.is_empty(), "nothing to remember yet");

    let follower = world.sync("g", leader.1);
    assert!(world.waiting.contains(&follower));
    let token = world.sync("g", leader.0);
    for (token, id) in [(token, &leader.0.member_id), (follower, &leader.1.member_id)] {
        let Ok(Answer::Synced(synced)) = world.reply(token) else { panic!("not synced") };
        assert_eq!(&synced.assignment[..], id.as_bytes());
    }
    assert_eq!(world.log.len(), 1);
    assert_eq!(world.heartbeat("g", &b, 1), Ok(()));
    assert_eq!(world.heartbeat("g", &b, 0), Err(ErrorCode::IllegalGeneration));
    assert_eq!(world.heartbeat("g", "x", 1), Err(ErrorCode::UnknownMemberId));
    assert_eq!(world.heartbeat("nope", "x", 1), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn a_member_more_and_a_member_less() {
    let mut world = World::new();
    let (ids, generation) = world.stable("g", 2);
    let (third, joining) = world.join_as_new("g");
    assert_eq!(world.heartbeat("g", &ids[0], generation), Err(ErrorCode::RebalanceInProgress));
    let again: Vec<_> = ids.iter().map(|id| world.join("g", member(id))).collect();
    let joined: Vec<Joined> = again.into_iter().chain([joining]).map(|token| world.joined(token)).collect();
    assert!(joined.iter().all(|j| j.generation == generation + 1 && j.leader == ids[0]), "no delay but the first");
    assert_eq!(joined[0].members.len(), 3);
    // Before the assignments are there nothing may be committed.
    assert_eq!(world.commit("g", &third, generation + 1, "t", 5), Err(ErrorCode::RebalanceInProgress));
    let followers = [world.sync("g", &joined[1]), world.sync("g", &joined[2])];
    assert_eq!(world.leave("g", &third), [ErrorCode::None]);
    assert_eq!(world.reply(followers[0]), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(world.reply(followers[1]), Err(ErrorCode::UnknownMemberId));
    assert_eq!(world.leave("g", &third), [ErrorCode::UnknownMemberId]);
}

#[test]
fn whom_the_leader_forgets_gets_nothing() {
    let mut world = World::new();
    let (ids, generation) = world.stable("g", 2);
    let tokens: Vec<_> =
        ids.iter().map(|id| world.join("g", Join { protocols: vec![("range".into(), subscription("u"))], ..member(id) })).collect();
    let mut joined: Vec<Joined> = tokens.into_iter().map(|token| world.joined(token)).collect();
    assert_eq!(joined[0].generation, generation + 1);
    joined[0].members.retain(|m| m.member_id == ids[0]);
    let follower = world.sync("g", &joined[1]);
    let leader = world.sync("g", &joined[0]);
    let assigned = [leader, follower].map(|token| match world.reply(token) {
        Ok(Answer::Synced(synced)) => synced.assignment,
        other => panic!("{other:?}"),
    });
    assert_eq!(assigned, [Bytes::from(ids[0].to_string()), Bytes::new()]);
}

#[test]
fn the_silent_are_put_out() {
    let mut world = World::new();
    let (ids, generation) = world.stable("g", 2);
    for _ in 0..3 {
        world.pass(5000);
        let _ = world.heartbeat("g", &ids[0], generation);
    }
    assert_eq!(world.heartbeat("g", &ids[1], generation), Err(ErrorCode::UnknownMemberId));
    let token = world.join("g", member(&ids[0]));
    let joined = world.joined(token);
    assert_eq!((joined.generation, joined.members.len()), (generation + 1, 1));
    // Its assignment never comes: the time to sync is over, then nobody is left.
    for _ in 0..7 {
        world.pass(9000);
        let _ = world.heartbeat("g", &ids[0], generation + 1);
    }
    assert_eq!(world.heartbeat("g", &ids[0], generation + 1), Err(ErrorCode::UnknownMemberId));
    let stored = world.coordinator.state().group("g").unwrap().metadata.clone().unwrap();
    assert_eq!((stored.members.len(), stored.generation), (0, generation + 2));
}

#[test]
fn who_does_not_join_again_is_out_when_the_rebalance_ends() {
    let mut world = World::new();
    let (ids, generation) = world.stable("g", 2);
    let token = world.join("g", Join { protocols: vec![("range".into(), subscription("u"))], ..member(&ids[0]) });
    for _ in 0..5 {
        world.pass(9000);
        let _ = world.heartbeat("g", &ids[1], generation);
    }
    assert!(world.waiting.contains(&token), "the other one is alive, and has a minute");
    for _ in 0..2 {
        world.pass(9000);
        let _ = world.heartbeat("g", &ids[1], generation);
    }
    let joined = world.joined(token);
    assert_eq!((joined.generation, joined.members.len()), (generation + 1, 1));
}

#[test]
fn ids_that_were_never_used_are_forgotten() {
    let mut world = World::new();
    let token = world.join("g", member(""));
    let id = world.joined(token).member_id;
    world.pass(11_000);
    assert!(world.coordinator.live("g").is_none());
    let token = world.join("g", member(&id));
    assert_eq!(world.joined(token).code, ErrorCode::UnknownMemberId);
    assert_eq!(world.coordinator.bytes(), 0);
}

#[test]
fn old_clients_join_without_an_id() {
    let mut world = World::new();
    let token = world.join("g", Join { needs_known_id: false, ..member("") });
    world.pass(3000);
    let joined = world.joined(token);
    assert_eq!((joined.code, joined.generation, joined.members.len()), (ErrorCode::None, 1, 1));
}

#[test]
fn a_repeated_join_gets_the_same_answer() {
    let mut world = World::new();
    let (a, token) = world.join_as_new("g");
    world.pass(3000);
    let joined = world.joined(token);
    let token = world.join("g", member(&a));
    assert_eq!(world.joined(token), joined, "CompletingRebalance");
    let token = world.sync("g", &joined);
    assert!(world.reply(token).is_ok());
    let token = world.join("g", member(&a));
    assert_eq!(world.joined(token).generation, 2, "a leader that joins again wants a rebalance");
    let (ids, generation) = world.stable("two", 2);
    let token = world.join("two", member(&ids[1]));
    assert_eq!(world.joined(token).generation, generation, "a follower as it was changes nothing");
}

/// A client's commits of a former generation are no sign of life of the member that it is now.
#[test]
fn only_commits_of_its_generation_keep_a_member() {
    for (generation, stays) in [(0, true), (-1, false)] {
        let mut world = World::new();
        let (ids, current) = world.stable("g", 1);
        for _ in 0..3 {
            world.pass(5000);
            let _ = world.commit("g", &ids[0], current + generation, "t", 1);
        }
        assert_eq!(world.heartbeat("g", &ids[0], current).is_ok(), stays);
    }
}

#[test]
fn protocols_have_to_agree() {
    let mut world = World::new();
    world.stable("g", 1);
    let refused = |world: &mut World, join| {
        let token = world.join("g", join);
        world.joined(token).code
    };
    let other_type = Join { protocol_type: "connect".into(), ..member("") };
    let other_strategy = Join { protocols: vec![("sticky".into(), Bytes::new())], ..member("") };
    assert_eq!(refused(&mut world, other_type), ErrorCode::InconsistentGroupProtocol);
    assert_eq!(refused(&mut world, other_strategy), ErrorCode::InconsistentGroupProtocol);
    assert_eq!(refused(&mut world, Join { session_timeout_ms: 5999, ..member("") }), ErrorCode::InvalidSessionTimeout);
    let token = world.join("new", Join { protocols: vec![], ..member("") });
    assert_eq!(world.joined(token).code, ErrorCode::InconsistentGroupProtocol);
    assert!(world.coordinator.live("new").is_none());
}

#[test]
fn the_strategy_that_most_members_want() {
    let mut world = World::new();
    let wanting = |first: &str, second: &str| Join {
        protocols: vec![(first.into(), subscription("t")), (second.into(), subscription("t"))],
        needs_known_id: false,
        ..member("")
    };
    let tokens = [wanting("a", "b"), wanting("b", "a"), wanting("b", "c")].map(|join| world.join("g", join));
    world.pass(6000);
    for token in tokens {
        assert_eq!(world.joined(token).protocol.as_deref(), Some("b"), "the only one that all know");
    }
}

fn as_instance(id: &str, member_id: &str) -> Join {
    Join { instance_id: Some(id.into()), ..member(member_id) }
}

#[test]
fn static_members_come_back_without_a_rebalance() {
    let mut world = World::new();
    let tokens = ["a", "b"].map(|id| world.join("g", as_instance(id, "")));
    world.pass(6000);
    let joined = tokens.map(|token| world.joined(token));
    assert!(joined[0].member_id.starts_with("a-"));
    let leader = usize::from(joined[1].leader == joined[1].member_id);
    let tokens = [world.sync("g", &joined[1 - leader]), world.sync("g", &joined[leader])];
    tokens.into_iter().for_each(|token| assert!(world.reply(token).is_ok()));

    // The one that does not lead, after a restart of its process, then the leader.
    for (who, skips) in [(1 - leader, false), (leader, true)] {
        let id = ["a", "b"][who];
        let token = world.join("g", as_instance(id, ""));
        let back = world.joined(token);
        assert_eq!((back.code, back.generation, back.skip_assignment), (ErrorCode::None, 1, skips));
        assert_ne!(back.member_id, joined[who].member_id);
        assert_eq!(back.members.len(), if skips { 2 } else { 0 });
        let token = world.sync("g", &back);
        let Ok(Answer::Synced(synced)) = world.reply(token) else { panic!("not synced") };
        assert_eq!(&synced.assignment[..], joined[who].member_id.as_bytes(), "what was assigned before");
        let old = Membership { member_id: joined[who].member_id.clone(), instance_id: Some(id.into()), generation: 1 };
        assert_eq!(world.ask("g", Op::Heartbeat(old)), Err(ErrorCode::FencedInstanceId));
    }
    // With another subscription, but the same strategy, the group goes on; that is for the leader to see.
    world.restart();
    let token = world.join("g", Join { can_skip_assignment: false, ..as_instance("a", "") });
    assert_eq!(world.joined(token).generation, 1);
    // An administrator sends one away.
    let leaving = vec![Leaving { member_id: "".into(), instance_id: Some("b".into()) }];
    assert_eq!(codes(world.ask("g", Op::Leave(leaving.clone()))), [ErrorCode::None]);
    assert_eq!(codes(world.ask("g", Op::Leave(leaving))), [ErrorCode::UnknownMemberId]);
    assert_eq!(world.coordinator.live("g").unwrap().phase(), Phase::PreparingRebalance);
}

#[test]
fn static_members_may_be_away_for_their_session() {
    let mut world = World::new();
    let token = world.join("g", Join { session_timeout_ms: 200_000, ..as_instance("a", "") });
    world.pass(3000);
    let joined = world.joined(token);
    let token = world.sync("g", &joined);
    world.reply(token).unwrap();
    let (_, joining) = world.join_as_new("g");
    world.pass(60_000);
    let second = world.joined(joining);
    assert_eq!((second.generation, second.members.len()), (2, 2), "the absent one is still a member");
    assert_eq!(second.leader, second.member_id, "but does not lead");
}

#[test]
fn commits_are_for_members() {
    let mut world = World::new();
    assert_eq!(world.commit("g", "m", 1, "t", 5), Err(ErrorCode::GroupIdNotFound));
    let Op::Commit(old) = commit("m", 1, "t", 5) else { unreachable!() };
    assert_eq!(world.ask("g", Op::Commit(Commit { knows_group_id_not_found: false, ..old })), Err(ErrorCode::IllegalGeneration));
    assert_eq!(codes(world.commit("g", "", -1, "t", 5).clone()), [ErrorCode::None], "a simple consumer");
    assert_eq!(world.committed("g", "t"), 5);
    let (ids, generation) = world.stable("g", 1);
    assert_eq!(world.commit("g", "", -1, "t", 6), Err(ErrorCode::UnknownMemberId), "not beside members");
    assert_eq!(world.commit("g", &ids[0], generation - 1, "t", 6), Err(ErrorCode::IllegalGeneration));
    assert_eq!(codes(world.commit("g", &ids[0], generation, "t", 7)), [ErrorCode::None]);
    world.restart();
    assert_eq!(world.committed("g", "t"), 7);
    assert_eq!(world.heartbeat("g", &ids[0], generation), Ok(()), "members survive a restart");
    let Op::Commit(mut long) = commit(&ids[0], generation, "t", 8) else { unreachable!() };
    long.offsets[0].metadata = "x".repeat(4097).into();
    assert_eq!(codes(world.ask("g", Op::Commit(long))), [ErrorCode::OffsetMetadataTooLarge]);
    assert_eq!(world.committed("g", "t"), 7);
    assert_eq!(world.committed("nope", "t"), -1);
}

#[test]
fn what_may_be_deleted() {
    let mut world = World::new();
    assert_eq!(world.ask("g", Op::Delete), Err(ErrorCode::GroupIdNotFound));
    assert_eq!(world.ask("g", Op::DeleteOffsets(vec![])), Err(ErrorCode::GroupIdNotFound));
    let (ids, generation) = world.stable("g", 1);
    for topic in ["t", "other"] {
        world.commit("g", &ids[0], generation, topic, 5).unwrap();
    }
    assert_eq!(world.ask("g", Op::Delete), Err(ErrorCode::NonEmptyGroup));
    let wanted = || Op::DeleteOffsets(["t", "other", "never"].map(|topic| (topic.into(), topic_id(topic), 0)).to_vec());
    assert_eq!(codes(world.ask("g", wanted())), [ErrorCode::GroupSubscribedToTopic, ErrorCode::None, ErrorCode::None]);
    assert_eq!((world.committed("g", "t"), world.committed("g", "other")), (5, -1));
    world.leave("g", &ids[0]);
    assert_eq!(codes(world.ask("g", wanted())), [ErrorCode::None; 3]);
    world.commit("g", "", -1, "t", 9).unwrap();
    assert_eq!(world.ask("g", Op::Delete), Ok(Answer::Done));
    assert!(world.coordinator.state().groups().is_empty());
    assert_eq!(world.coordinator.bytes(), 0);
}

/// Scripts delete offsets and then the group.
#[test]
fn a_group_without_offsets_stays_until_the_next_check() {
    let delete = || Op::DeleteOffsets(vec![("t".into(), topic_id("t"), 0)]);
    let mut world = World::new();
    let listed = |world: &World| world.coordinator.list(&[], &[]).iter().map(|group| group.state).collect::<Vec<_>>();
    let emptied = |world: &mut World| {
        world.commit("g", "", -1, "t", 9).unwrap();
        assert_eq!(codes(world.ask("g", delete())), [ErrorCode::None]);
        assert_eq!(listed(world), ["Empty"]);
        assert_eq!(codes(world.ask("g", delete())), [ErrorCode::None]);
    };
    emptied(&mut world);
    assert_eq!(world.ask("g", Op::Delete), Ok(Answer::Done));
    assert_eq!((world.ask("g", Op::Delete), world.coordinator.bytes()), (Err(ErrorCode::GroupIdNotFound), 0));
    emptied(&mut world);
    world.pass(world.config.retention_check_ms as u64);
    assert!(listed(&world).is_empty());
    assert_eq!(world.coordinator.bytes(), 0);
}

#[test]
fn syncs_that_do_not_fit_are_refused() {
    let mut world = World::new();
    let (ids, generation) = world.stable("g", 1);
    let mut synced = |member_id: &str, generation, protocol_type: Option<&str>, protocol: Option<&str>| {
        let member = Membership { member_id: member_id.into(), instance_id: None, generation };
        let (protocol_type, protocol) = (protocol_type.map(Name::from), protocol.map(Name::from));
        world.ask("g", Op::Sync(Sync { member, protocol_type, protocol, assignments: vec![] })).map(|_| ())
    };
    assert_eq!(synced(&ids[0], generation, None, None), Ok(()));
    assert_eq!(synced(&ids[0], generation, Some("consumer"), Some("range")), Ok(()));
    assert_eq!(synced("x", generation, None, None), Err(ErrorCode::UnknownMemberId));
    for wrong in [generation - 1, generation + 1] {
        assert_eq!(synced(&ids[0], wrong, None, None), Err(ErrorCode::IllegalGeneration));
    }
    for (protocol_type, protocol) in [(Some("connect"), None), (None, Some("roundrobin"))] {
        let refused = synced(&ids[0], generation, protocol_type, protocol);
        assert_eq!(refused, Err(ErrorCode::InconsistentGroupProtocol));
    }
}

#[test]
fn members_that_have_synced_stay_when_the_time_to_sync_is_over() {
    let mut world = World::new();
    let (ids, generation) = world.stable("g", 2);
    for _ in 0..15 {
        world.pass(5000);
        assert!(ids.iter().all(|id| world.heartbeat("g", id, generation) == Ok(())));
    }
}

#[test]
fn a_first_rebalance_waits_for_newcomers_up_to_the_rebalance_timeout() {
    let mut world = World::new();
    let newcomer = |world: &mut World| {
        let join = |id: &str| Join { rebalance_timeout_ms: 8000, ..member(id) };
        let first = world.join("g", join(""));
        let id = world.joined(first).member_id;
        world.join("g", join(&id))
    };
    let mut tokens = vec![newcomer(&mut world)];
    for _ in 0..7 {
        world.pass(1000);
        tokens.push(newcomer(&mut world));
    }
    world.pass(999);
    assert_eq!(world.coordinator.live("g").unwrap().phase(), Phase::PreparingRebalance);
    world.pass(1);
    assert!(tokens.into_iter().all(|token| world.joined(token).generation == 1));
}

#[test]
fn a_commit_in_an_unknown_topic_is_tried_again_if_its_core_knows_more() {
    let mut world = World::new();
    let mut commits = |ahead| {
        let Op::Commit(request) = commit("", -1, "nope", 1) else { panic!("no commit") };
        let version = world.cluster.version() + ahead;
        world.ask("g", Op::Commit(Commit { version, ..request }))
    };
    assert_eq!([-1, 0].map(|ahead| codes(commits(ahead))), [[ErrorCode::UnknownTopicOrPartition]; 2]);
    assert_eq!(commits(1), Err(ErrorCode::CoordinatorLoadInProgress));
}

#[test]
fn memory_of_a_generation() {
    let mut world = World::new();
    world.stable("g", 1);
    let mut metadata = world.coordinator.live("g").unwrap().metadata();
    let before = metadata.bytes();
    let member = &mut metadata.members[0];
    (member.subscription, member.assignment) = (vec![0; 1000].into(), vec![0; 300].into());
    let more = 1300 - subscription("t").len() - member.member_id.len();
    assert_eq!(metadata.bytes(), before + more, "its assignment was its id");
}

#[test]
fn offsets_expire() {
    let mut world = World::new();
    let week = 7 * 24 * 3_600_000;
    world.commit("simple", "", -1, "t", 1).unwrap();
    let (ids, generation) = world.stable("g", 1);
    world.commit("g", &ids[0], generation, "t", 1).unwrap();
    world.commit("g", &ids[0], generation, "unread", 1).unwrap();
    for _ in 0..(week / 9000) {
        world.pass(9000);
        assert_eq!(world.heartbeat("g", &ids[0], generation), Ok(()));
    }
    world.pass(9000);
    let _ = world.heartbeat("g", &ids[0], generation);
    world.config.retention_check_ms = 1000;
    world.pass(9000);
    // What nobody reads any more expires by its own age; what a member reads does not.
    let _ = world.heartbeat("g", &ids[0], generation);
    for _ in 0..70 {
        world.pass(9000);
        let _ = world.heartbeat("g", &ids[0], generation);
    }
    assert_eq!((world.committed("simple", "t"), world.committed("g", "unread"), world.committed("g", "t")), (-1, -1, 1));
    assert!(world.coordinator.state().group("simple").is_none());
    world.leave("g", &ids[0]);
    world.pass(week - 2000);
    assert_eq!(world.committed("g", "t"), 1, "since the group is empty");
    world.pass(4000);
    assert_eq!(world.committed("g", "t"), -1);
    assert!(world.coordinator.state().group("g").is_none(), "and nothing is left of it");
}

/// No decision looks at all groups where there are many.
#[test]
fn the_offsets_of_many_groups_expire_one_part_after_the_other() {
    let mut world = World::new();
    world.spare_bytes = 1 << 30;
    for n in 0..1200 {
        world.commit(&format!("g{n}"), "", -1, "t", 1).unwrap();
    }
    let mut parts = Vec::new();
    world.config.retention_ms = 0;
    world.now.mono = world.coordinator.next_deadline().unwrap();
    while world.coordinator.next_deadline().unwrap() <= world.now.mono {
        world.step(|coordinator, context| {
            let decision = coordinator.expire(context);
            parts.push(decision.records.len());
            decision
        });
    }
    assert_eq!((parts.iter().sum::<usize>(), parts.len()), (1200, 5), "{parts:?}");
    assert!(world.coordinator.state().groups().is_empty());
}

#[test]
fn offsets_go_with_their_topic() {
    let mut world = World::new();
    for topic in ["t", "u"] {
        world.commit("g", "", -1, topic, 1).unwrap();
    }
    world.step(|coordinator, context| coordinator.forget_topics(context, &|name, _| &**name == "t"));
    assert_eq!((world.committed("g", "t"), world.committed("g", "u")), (-1, 1));
}

#[test]
fn full_groups_and_full_memory() {
    let mut world = World::new();
    world.config.max_size = 2;
    let (ids, _) = world.stable("g", 2);
    let token = world.join("g", member(""));
    assert_eq!(world.joined(token).code, ErrorCode::GroupMaxSizeReached);
    let token = world.join("g", member(&ids[0]));
    assert!(world.waiting.contains(&token), "members may join again");
    world.spare_bytes = 100;
    let token = world.join("h", member(""));
    assert_eq!(world.joined(token).code, ErrorCode::CoordinatorNotAvailable);
    assert_eq!(world.commit("h", "", -1, "t", 1), Err(ErrorCode::CoordinatorNotAvailable));
}

#[test]
fn assignments_that_cannot_be_stored() {
    let mut world = World::new();
    let (_, token) = world.join_as_new("g");
    world.pass(3000);
    let joined = world.joined(token);
    world.max_batch_bytes = 200;
    let token = world.sync("g", &joined);
    assert_eq!(world.reply(token), Err(ErrorCode::UnknownServerError));
    assert_eq!(world.coordinator.live("g").unwrap().phase(), Phase::PreparingRebalance);
    assert!(world.log.is_empty());
}

#[test]
fn lists_and_descriptions() {
    let mut world = World::new();
    let (ids, _) = world.stable("stable", 1);
    world.commit("simple", "", -1, "t", 1).unwrap();
    let listed = |world: &World, states: &[&str], types: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        let listed = world.coordinator.list(&owned(states), &owned(types));
        listed.iter().map(|l| (l.group.to_string(), l.protocol_type.to_string(), l.state)).collect::<Vec<_>>()
    };
    let (simple, stable) = (("simple".to_owned(), "".to_owned(), "Empty"), ("stable".to_owned(), "consumer".to_owned(), "Stable"));
    assert_eq!(listed(&world, &[], &[]), [simple.clone(), stable.clone()]);
    assert_eq!(listed(&world, &["stable"], &["Classic"]), [stable]);
    assert_eq!(listed(&world, &["Empty"], &[]), [simple]);
    assert_eq!(listed(&world, &[], &["consumer"]), []);
    let Ok(Answer::Described(described)) = world.ask("stable", Op::Describe) else { panic!("not described") };
    assert_eq!((described.state, &*described.protocol, described.members.len()), ("Stable", "range", 1));
    assert_eq!((&described.members[0].member_id, &described.members[0].metadata), (&ids[0], &subscription("t")));
    assert_eq!(world.ask("nope", Op::Describe), Err(ErrorCode::GroupIdNotFound));
}

/// What a random client does next.
#[derive(Clone, Debug)]
enum Act {
    JoinNew { needs_known_id: bool, instance: Option<u8>, strategies: u8 },
    JoinAgain { who: usize, strategies: u8 },
    Sync { who: usize },
    Heartbeat { who: usize },
    Leave { who: usize },
    LeaveInstance { instance: u8 },
    Commit { who: usize, topic: u8 },
    CommitSimple { topic: u8 },
    DeleteOffsets { topic: u8 },
    Delete,
    ForgetTopic { topic: u8 },
    Pass { ms: u64 },
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (any::<bool>(), prop::option::weighted(0.3, 0..2u8), 0..3u8).prop_map(|(needs_known_id, instance, strategies)| Act::JoinNew { needs_known_id, instance, strategies }),
        6 => (0..16usize, 0..3u8).prop_map(|(who, strategies)| Act::JoinAgain { who, strategies }),
        8 => (0..16usize).prop_map(|who| Act::Sync { who }),
        4 => (0..16usize).prop_map(|who| Act::Heartbeat { who }),
        1 => (0..16usize).prop_map(|who| Act::Leave { who }),
        1 => (0..2u8).prop_map(|instance| Act::LeaveInstance { instance }),
        3 => (0..16usize, 0..3u8).prop_map(|(who, topic)| Act::Commit { who, topic }),
        1 => (0..3u8).prop_map(|topic| Act::CommitSimple { topic }),
        1 => (0..3u8).prop_map(|topic| Act::DeleteOffsets { topic }),
        1 => Just(Act::Delete),
        1 => (0..3u8).prop_map(|topic| Act::ForgetTopic { topic }),
        4 => prop_oneof![0..200u64, 0..15_000u64, 0..100_000u64].prop_map(|ms| Act::Pass { ms }),
        1 => Just(Act::Restart),
    ]
}

/// A client: what it was last told.
#[derive(Clone, Debug)]
struct Client {
    joined: Joined,
    instance: Option<Name>,
}

/// Clients of one group, and what has to hold of what they are told.
struct Clients {
    world: World,
    clients: Vec<Client>,
    /// JoinGroup requests under way, with the instance id.
    joining: Vec<(Token, Option<Name>)>,
    /// SyncGroup requests under way: generation and member.
    syncing: Vec<(Token, i32, Name)>,
    /// By generation: leader and strategy; then who has which assignment.
    generations: BTreeMap<i32, (Name, Option<Name>)>,
    owners: BTreeMap<(i32, Bytes), Name>,
    committed: BTreeMap<u8, i64>,
    next_offset: i64,
}

const GROUP: &str = "g";

fn topic(n: u8) -> String {
    format!("t{n}")
}

fn strategies(n: u8) -> Vec<(Name, Bytes)> {
    let all = ["range", "roundrobin", "sticky"];
    (0..3).map(|i| all[(i + usize::from(n)) % 3]).map(|s| (s.into(), subscription(&topic(n)))).collect()
}

impl Clients {
    fn new() -> Clients {
        let mut world = World::new();
        world.config.retention_check_ms = 20_000;
        world.config.retention_ms = 50_000;
        Clients {
            world,
            clients: Vec::new(),
            joining: Vec::new(),
            syncing: Vec::new(),
            generations: BTreeMap::new(),
            owners: BTreeMap::new(),
            committed: BTreeMap::new(),
            next_offset: 1,
        }
    }

    fn who(&self, who: usize) -> Option<Client> {
        (!self.clients.is_empty()).then(|| self.clients[who % self.clients.len()].clone())
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::JoinNew { needs_known_id, instance, strategies: n } => {
                let instance_id: Option<Name> = instance.map(|i| format!("i{i}").into());
                let join = Join { needs_known_id, instance_id: instance_id.clone(), protocols: strategies(n), ..member("") };
                let token = self.world.join(GROUP, join);
                self.joining.push((token, instance_id));
            }
            Act::JoinAgain { who, strategies: n } => {
                let Some(client) = self.who(who) else { return };
                let join = Join { instance_id: client.instance.clone(), protocols: strategies(n), ..member(&client.joined.member_id) };
                let token = self.world.join(GROUP, join);
                self.joining.push((token, client.instance));
            }
            Act::Sync { who } => {
                let Some(client) = self.who(who) else { return };
                let joined = client.joined;
                let assignments =
                    joined.members.iter().enumerate().map(|(i, m)| (m.member_id.clone(), Bytes::from(vec![i as u8]))).collect();
                let member =
                    Membership { member_id: joined.member_id.clone(), instance_id: client.instance, generation: joined.generation };
                let token = self.world.send(GROUP, Op::Sync(Sync { member, protocol_type: None, protocol: None, assignments }));
                self.syncing.push((token, joined.generation, joined.member_id));
            }
            Act::Heartbeat { who } => {
                let Some(client) = self.who(who) else { return };
                let _ = self.world.heartbeat(GROUP, &client.joined.member_id, client.joined.generation);
            }
            Act::Leave { who } => {
                let Some(client) = self.who(who) else { return };
                let _ = self.world.leave(GROUP, &client.joined.member_id);
            }
            Act::LeaveInstance { instance } => {
                let leaving = Leaving { member_id: "".into(), instance_id: Some(format!("i{instance}").into()) };
                let _ = self.world.ask(GROUP, Op::Leave(vec![leaving]));
            }
            Act::Commit { who, topic: n } => {
                let Some(client) = self.who(who) else { return };
                self.commit(&client.joined.member_id, client.joined.generation, n);
            }
            Act::CommitSimple { topic: n } => self.commit("", -1, n),
            Act::DeleteOffsets { topic: n } => {
                let reply = self.world.ask(GROUP, Op::DeleteOffsets(vec![(topic(n).as_str().into(), topic_id(&topic(n)), 0)]));
                if reply == Ok(Answer::Codes(vec![ErrorCode::None])) {
                    self.committed.remove(&n);
                }
            }
            Act::Delete => {
                if self.world.ask(GROUP, Op::Delete).is_ok() {
                    self.forget_group();
                }
            }
            Act::ForgetTopic { topic: n } => {
                self.world.step(|coordinator, context| coordinator.forget_topics(context, &|name, _| **name == *topic(n)));
                self.committed.remove(&n);
            }
            Act::Pass { ms } => self.pass(ms),
            Act::Restart => {
                self.world.restart();
                self.joining.clear();
                self.syncing.clear();
                // A generation that was not stored may come again, with other members.
                let stored = self.world.coordinator.state().group(GROUP).and_then(|s| s.metadata.as_ref()).map_or(0, |m| m.generation);
                self.generations.retain(|generation, _| *generation <= stored);
                self.owners.retain(|(generation, _), _| *generation <= stored);
                self.clients.retain(|client| client.joined.generation <= stored);
            }
        }
        self.hear();
    }

    fn commit(&mut self, member_id: &str, generation: i32, n: u8) {
        self.next_offset += 1;
        if self.world.commit(GROUP, member_id, generation, &topic(n), self.next_offset).is_ok() {
            self.committed.insert(n, self.next_offset);
        }
    }

    /// Offsets may expire meanwhile: those that have are not expected any more.
    fn pass(&mut self, ms: u64) {
        self.world.pass(ms);
        self.hear();
        let state = self.world.coordinator.state();
        if state.group(GROUP).is_none() {
            self.forget_group();
        }
        let state = self.world.coordinator.state();
        self.committed.retain(|n, _| state.group(GROUP).is_some_and(|s| s.offsets.get(&topic(*n), 0).is_some()));
    }

    fn forget_group(&mut self) {
        self.committed.clear();
        // Generations begin anew.
        self.generations.clear();
        self.owners.clear();
        self.clients.clear();
    }

    /// Takes the replies that have come.
    fn hear(&mut self) {
        for (token, instance) in std::mem::take(&mut self.joining) {
            match self.world.replies.remove(&token) {
                None if self.world.waiting.contains(&token) => self.joining.push((token, instance)),
                Some(Ok(Answer::Joined(joined))) => self.joined(joined, instance),
                _ => {}
            }
        }
        for (token, generation, member) in std::mem::take(&mut self.syncing) {
            match self.world.replies.remove(&token) {
                None if self.world.waiting.contains(&token) => self.syncing.push((token, generation, member)),
                Some(Ok(Answer::Synced(synced))) => self.synced(generation, member, synced.assignment),
                _ => {}
            }
        }
        self.world.replies.clear();
    }

    fn joined(&mut self, joined: Joined, instance: Option<Name>) {
        if joined.code == ErrorCode::None {
            let said = (joined.leader.clone(), joined.protocol.clone());
            let known = self.generations.entry(joined.generation).or_insert_with(|| said.clone());
            // A static leader comes back under another id.
            assert_eq!(known.1, said.1, "one strategy in generation {}", joined.generation);
            known.0 = said.0;
            let leads = joined.leader == joined.member_id;
            assert!(leads || joined.members.is_empty(), "only the leader is told of the members");
        }
        if matches!(joined.code, ErrorCode::None | ErrorCode::MemberIdRequired) {
            self.clients.retain(|client| client.joined.member_id != joined.member_id);
            self.clients.push(Client { joined, instance });
            if self.clients.len() > 8 {
                self.clients.remove(0);
            }
        }
    }

    fn synced(&mut self, generation: i32, member: Name, assignment: Bytes) {
        if assignment.is_empty() {
            return;
        }
        let stored = self.world.coordinator.state().group(GROUP).and_then(|s| s.metadata.as_ref());
        let same_instance = |a: &Name, b: &Name| {
            let instance =
                |id: &Name| stored.and_then(|m| m.members.iter().find(|m| m.member_id == *id)).and_then(|m| m.instance_id.clone());
            instance(b).is_some() && a != b
        };
        let owner = self.owners.entry((generation, assignment)).or_insert_with(|| member.clone());
        assert!(*owner == member || same_instance(owner, &member), "{owner} and {member} have the same in generation {generation}");
        *owner = member;
    }

    fn check(&self) {
        let state = self.world.coordinator.state();
        assert_eq!(&replay(&self.world.log), state, "the log says what is so");
        assert_eq!(&replay(&compacted(&self.world.log)), state, "and so does what compaction leaves of it");
        for (n, offset) in &self.committed {
            let stored = state.group(GROUP).and_then(|s| s.offsets.get(&topic(*n), 0)).map(|o| o.offset);
            assert_eq!(stored, Some(*offset), "what was committed last is there");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn live_and_replayed_state_agree_whatever_happens(acts in prop::collection::vec(act(), 1..120)) {
        let mut clients = Clients::new();
        for act in acts {
            clients.act(act);
            clients.check();
        }
        // When everybody falls silent every request is answered, and every group becomes empty.
        clients.pass(500_000);
        clients.pass(500_000);
        prop_assert!(clients.world.waiting.is_empty(), "{:?}", clients.world.waiting);
        prop_assert!(clients.world.coordinator.live(GROUP).is_none());
        clients.check();
    }
}
