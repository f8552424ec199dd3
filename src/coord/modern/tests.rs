//! Tests of the decisions on one group, step by step.

use std::collections::BTreeSet;

use super::classic;
use super::commit::may_commit;
use super::group::{Group, GroupState, Resolved};
use super::heartbeat::{Request, heartbeat};
use super::leave::{Leave, expired, leave};
use super::member::{MemberState, Partitions};
use super::record::Change;
use super::testing::Cluster;
use super::{Context, Decision, Refusal, Reply, Seen, TimerChange, TimerKind};
use crate::base::config::ConsumerGroupConfig;
use crate::base::error::ErrorCode;
use crate::base::ids::{TopicId, Uuid};
use crate::coord::op::{Leaving, Membership};

const T: TopicId = Uuid([1; 16]);

struct Fixture {
    group: Group,
    cluster: Cluster,
    settings: ConsumerGroupConfig,
    seen: Seen,
    now_ms: i64,
    timers: Vec<TimerChange>,
}

fn fixture() -> Fixture {
    let mut cluster = Cluster::default();
    cluster.put("t", T, 6);
    let settings = ConsumerGroupConfig { assignment_interval_ms: 0, ..ConsumerGroupConfig::default() };
    Fixture { group: Group::default(), cluster, settings, seen: Seen::default(), now_ms: 1_700_000_000_000, timers: Vec::new() }
}

fn parts(partitions: &[i32]) -> Partitions {
    Partitions::from([(T, partitions.iter().copied().collect())]).into_iter().filter(|(_, p): &(_, BTreeSet<i32>)| !p.is_empty()).collect()
}

fn join(member_id: &str) -> Request {
    Request {
        group_id: "g".into(),
        member_id: member_id.into(),
        rebalance_timeout_ms: Some(1000),
        topic_names: Some(["t".to_owned()].into()),
        owned: Some(Partitions::new()),
        ..Request::default()
    }
}

fn report(member_id: &str, epoch: i32, owned: Option<&[i32]>) -> Request {
    let owned = owned.map(parts);
    Request { group_id: "g".into(), member_id: member_id.into(), member_epoch: epoch, owned, ..Request::default() }
}

impl Fixture {
    fn take<T>(&mut self, decide: impl FnOnce(&Group, &Context<'_>) -> Result<Decision<T>, Refusal>) -> Result<T, Refusal> {
        let cx = Context { now_ms: self.now_ms, settings: &self.settings, topics: &self.cluster, seen: self.seen.clone() };
        let decision = decide(&self.group, &cx)?;
        decision.changes.iter().for_each(|change| self.group.apply(change));
        self.group.check();
        (self.seen, self.timers) = (decision.seen, decision.timers);
        Ok(decision.reply)
    }

    fn beat(&mut self, request: &Request) -> Result<Reply, Refusal> {
        self.take(|group, cx| heartbeat(group, cx, request))
    }

    /// Epoch and assignment of the answer.
    fn heard(&mut self, request: &Request) -> (i32, Option<Partitions>) {
        let reply = self.beat(request).unwrap();
        (reply.epoch, reply.assignment)
    }

    fn refused(&mut self, request: &Request) -> ErrorCode {
        self.beat(request).unwrap_err().code
    }

    fn leaves(&mut self, member_id: &str, instance_id: Option<&str>, for_a_while: bool) -> Result<Reply, Refusal> {
        let request = Leave { group_id: "g".into(), member_id: member_id.into(), instance_id: instance_id.map(str::to_owned), for_a_while };
        self.take(|group, cx| leave(group, cx, &request))
    }

    fn expires(&mut self, member_id: &str, kind: TimerKind) -> bool {
        let nothing = || Refusal::new(ErrorCode::None, "");
        self.take(|group, cx| expired(group, cx, member_id, kind).ok_or_else(nothing)).is_ok()
    }
}

/// As seen with Kafka 4.3.1: the epochs and the partitions of each answer.
#[test]
fn a_third_member_gets_what_the_others_have_given_up() {
    let mut f = fixture();
    assert_eq!(f.heard(&join("a")), (2, Some(parts(&[0, 1, 2, 3, 4, 5]))));
    assert_eq!(f.group.state(), GroupState::Stable);
    assert_eq!(f.heard(&join("b")), (3, Some(parts(&[]))), "everything is still in use");
    assert_eq!(f.group.state(), GroupState::Reconciling);
    assert_eq!(f.heard(&report("a", 2, None)), (2, Some(parts(&[0, 1, 2]))), "the epoch stays until it has given up the rest");
    let revoking = TimerChange::Set { member_id: "a".into(), kind: TimerKind::Rebalance, after_ms: 1000 };
    assert!(f.timers.contains(&revoking), "{:?}", f.timers);
    assert_eq!(f.heard(&report("b", 3, Some(&[]))), (3, None));
    assert_eq!(f.heard(&report("a", 2, None)), (2, None), "silence about partitions gives up none");
    assert_eq!(f.heard(&report("a", 2, Some(&[0, 1, 2]))), (3, None));
    assert!(f.timers.contains(&TimerChange::Cancel { member_id: "a".into(), kind: TimerKind::Rebalance }));
    assert_eq!(f.heard(&report("b", 3, Some(&[]))), (3, Some(parts(&[3, 4, 5]))));
    assert_eq!(f.group.state(), GroupState::Stable);
    assert_eq!(f.heard(&join("c")), (4, Some(parts(&[]))));
    assert_eq!(f.heard(&report("a", 3, None)), (3, Some(parts(&[0, 1]))));
    assert_eq!(f.heard(&report("b", 3, None)), (3, Some(parts(&[3, 4]))));
    assert_eq!(f.heard(&report("a", 3, Some(&[0, 1]))), (4, None));
    assert_eq!(f.heard(&report("c", 4, None)), (4, Some(parts(&[2]))));
    assert_eq!(f.heard(&report("b", 3, Some(&[3, 4]))), (4, None));
    assert_eq!(f.heard(&report("c", 4, None)), (4, Some(parts(&[2, 5]))));
    assert_eq!(f.group.members()["c"].current.state, MemberState::Stable);
    // Nothing new: nothing to write.
    let cx = Context { now_ms: f.now_ms, settings: &f.settings, topics: &f.cluster, seen: f.seen.clone() };
    assert_eq!(heartbeat(&f.group, &cx, &report("c", 4, None)).unwrap().changes, []);
}

#[test]
fn epochs_are_checked() {
    let mut f = fixture();
    assert_eq!(f.refused(&report("a", 1, None)), ErrorCode::UnknownMemberId);
    f.heard(&join("a"));
    assert_eq!(f.refused(&report("a", 3, None)), ErrorCode::FencedMemberEpoch);
    assert_eq!(f.refused(&report("a", -7, None)), ErrorCode::FencedMemberEpoch);
    f.heard(&join("b"));
    f.heard(&report("a", 2, None));
    f.heard(&report("a", 2, Some(&[0, 1, 2])));
    // The answer with epoch 3 was lost.
    assert_eq!(f.refused(&report("a", 2, None)), ErrorCode::FencedMemberEpoch);
    assert_eq!(f.refused(&report("a", 2, Some(&[3]))), ErrorCode::FencedMemberEpoch, "not its own any more");
    assert_eq!(f.heard(&report("a", 2, Some(&[0, 1, 2]))), (3, None));
    // Back to the beginning, with the same id.
    assert_eq!(f.heard(&join("a")), (3, Some(parts(&[0, 1, 2]))));
    f.settings.max_size = 2;
    assert_eq!(f.refused(&join("c")), ErrorCode::GroupMaxSizeReached);
    assert_eq!(f.heard(&join("b")), (3, Some(parts(&[3, 4, 5]))));
}

#[test]
fn leaving_and_silence_free_partitions() {
    let mut f = fixture();
    f.heard(&join("a"));
    f.heard(&join("b"));
    assert_eq!(f.leaves("x", None, false).unwrap_err().code, ErrorCode::UnknownMemberId);
    assert_eq!(f.leaves("a", None, false).unwrap().epoch, -1);
    assert_eq!((f.group.epoch(), f.group.state()), (4, GroupState::Assigning));
    assert_eq!(f.heard(&report("b", 3, None)), (4, Some(parts(&[0, 1, 2, 3, 4, 5]))));
    f.heard(&join("c"));
    assert!(!f.expires("b", TimerKind::Rebalance), "it was not told to give up anything yet");
    f.heard(&report("b", 4, None));
    assert!(f.expires("b", TimerKind::Rebalance), "too slow");
    assert_eq!(f.heard(&report("c", 5, None)), (6, Some(parts(&[0, 1, 2, 3, 4, 5]))));
    assert!(f.expires("c", TimerKind::Session) && !f.expires("c", TimerKind::Session));
    assert_eq!((f.group.epoch(), f.group.state()), (7, GroupState::Empty));
}

#[test]
fn static_members_come_back_to_what_they_had() {
    let mut f = fixture();
    let static_join = |id: &str| Request { instance_id: Some("i".into()), ..join(id) };
    f.heard(&static_join("a"));
    assert_eq!(f.refused(&static_join("b")), ErrorCode::UnreleasedInstanceId);
    assert_eq!(f.leaves("b", Some("i"), true).unwrap_err().code, ErrorCode::FencedInstanceId);
    assert_eq!(f.leaves("a", Some("j"), true).unwrap_err().code, ErrorCode::UnknownMemberId);
    assert_eq!(f.leaves("a", Some("i"), true).unwrap().epoch, -2);
    let epoch = f.group.epoch();
    assert_eq!(f.heard(&static_join("b")), (epoch, Some(parts(&[0, 1, 2, 3, 4, 5]))));
    assert_eq!(f.group.epoch(), epoch, "no rebalance");
    let cancelled = TimerChange::Cancel { member_id: "a".into(), kind: TimerKind::Session };
    assert!(f.timers.contains(&cancelled) && !f.group.members().contains_key("a"));
    let with_instance = |id: &str| Request { instance_id: Some("i".into()), ..report(id, epoch, None) };
    assert_eq!(f.refused(&with_instance("a")), ErrorCode::FencedInstanceId);
    assert_eq!(f.heard(&with_instance("b")), (epoch, None));
    // Fenced, it begins anew by itself.
    assert_eq!(f.heard(&static_join("b")), (epoch, Some(parts(&[0, 1, 2, 3, 4, 5]))));
    f.leaves("b", Some("i"), false).unwrap();
    assert_eq!(f.group.state(), GroupState::Empty);
}

#[test]
fn topics_and_patterns() {
    let mut f = fixture();
    f.heard(&join("a"));
    f.cluster.put("t", T, 8);
    assert_eq!(f.heard(&report("a", 2, None)), (3, Some(parts(&[0, 1, 2, 3, 4, 5, 6, 7]))));
    f.cluster.put("other", Uuid([2; 16]), 8);
    assert_eq!(f.heard(&report("a", 3, None)), (3, None));
    f.cluster.remove("t");
    assert_eq!(f.heard(&report("a", 3, None)), (3, Some(parts(&[]))), "at once, though it must say that it has given it up");
    assert_eq!(f.heard(&report("a", 3, Some(&[]))), (4, None));

    let pattern = |regex: &str, epoch| Request { topic_regex: Some(regex.into()), ..report("a", epoch, None) };
    let refusal = f.beat(&pattern("(", 4)).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::InvalidRegularExpression);
    assert!(refusal.message.starts_with("SubscribedTopicRegex `(` is not a valid regular expression: "), "{}", refusal.message);
    assert_eq!(f.beat(&pattern("t.*", 4)).unwrap().epoch, 4, "nothing matches");
    f.cluster.put("t2", T, 2);
    f.now_ms += 1000;
    assert_eq!(f.heard(&report("a", 4, None)).1, Some(parts(&[0, 1])), "the first look for new topics");
    f.cluster.put("t3", Uuid([3; 16]), 1);
    assert_eq!(f.heard(&report("a", 5, None)), (5, None), "too soon to look again");
    f.now_ms += 10_001;
    let all = f.heard(&report("a", 5, None)).1.unwrap();
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), [T, Uuid([3; 16])]);
    assert_eq!(f.group.regexes()["t.*"].topics.len(), 2);
    // Nobody's pattern any more.
    f.heard(&pattern("", 6));
    assert!(f.group.regexes().is_empty());
}

/// As Kafka, which matches a pattern that is new to the group in the background.
#[test]
fn topics_of_a_new_pattern_begin_with_the_next_epoch() {
    let mut f = fixture();
    let pattern = |id: &str| Request { topic_names: None, topic_regex: Some("t.*".into()), ..join(id) };
    assert_eq!(f.heard(&pattern("a")), (1, Some(parts(&[]))));
    assert_eq!((f.group.epoch(), f.group.target_epoch()), (2, 1));
    assert_eq!(f.heard(&report("a", 1, None)), (2, Some(parts(&[0, 1, 2, 3, 4, 5]))));
    assert_eq!(f.heard(&pattern("b")).0, 3, "of one that the group knows at once");
}

/// A heartbeat matches a few of a group's patterns again, the next ones match the rest.
#[test]
fn many_patterns_are_matched_again_one_part_after_the_other() {
    let mut f = fixture();
    for member in 0..40 {
        let regex = format!("x{member:02}|t{}", if member == 39 { ".*" } else { "" });
        let request = Request { topic_names: None, topic_regex: Some(regex), ..join(&format!("m{member:02}")) };
        f.beat(&request).unwrap();
    }
    // A first round, with the member's first report.
    f.now_ms += 600_001;
    for _ in 0..4 {
        let epoch = f.group.members()["m00"].current.epoch;
        f.heard(&report("m00", epoch, None));
    }
    assert_eq!(f.seen.regex_next, None);
    f.now_ms += 10_001;
    // Of the last pattern alone.
    f.cluster.put("t2", Uuid([2; 16]), 1);
    let found = |f: &Fixture| f.group.regexes()["x39|t.*"].topics.len();
    let mut beats = 0;
    while found(&f) == 1 {
        let epoch = f.group.members()["m00"].current.epoch;
        f.heard(&report("m00", epoch, None));
        beats += 1;
    }
    assert_eq!(beats, 40_usize.div_ceil(16));
    assert_eq!(f.seen.regex_next, None);
}

#[test]
fn assignments_keep_their_distance() {
    let mut f = fixture();
    f.settings.assignment_interval_ms = 1000;
    f.heard(&join("a"));
    assert_eq!(f.heard(&join("b")), (2, Some(parts(&[]))));
    assert_eq!((f.group.epoch(), f.group.target_epoch()), (3, 2));
    f.now_ms += 999;
    assert_eq!(f.heard(&report("a", 2, None)), (2, None));
    f.now_ms += 1;
    assert_eq!(f.heard(&report("b", 2, None)).0, 3);
    assert_eq!(f.heard(&report("a", 2, None)), (2, Some(parts(&[0, 1, 2]))));
}

#[test]
fn a_wall_clock_that_is_set_back_delays_no_assignment() {
    let mut f = fixture();
    f.settings.assignment_interval_ms = 1000;
    f.heard(&join("a"));
    f.heard(&join("b"));
    f.now_ms -= 3_600_000;
    f.heard(&report("b", 2, None));
    assert_eq!((f.group.epoch(), f.group.target_epoch()), (3, 3));
}

#[test]
fn most_votes_choose_the_assignor() {
    let mut f = fixture();
    f.cluster.put("u", Uuid([2; 16]), 6);
    let wants = |id: &str, assignor: &str| Request {
        topic_names: Some(["t".to_owned(), "u".to_owned()].into()),
        server_assignor: Some(assignor.into()),
        ..join(id)
    };
    f.heard(&wants("a", "range"));
    f.heard(&wants("b", "range"));
    f.heard(&wants("c", "uniform"));
    // Of each topic a third: the range assignor's work.
    assert!(f.group.targets().values().all(|target| target.len() == 2 && target.values().all(|partitions| partitions.len() == 2)));
}

#[test]
fn what_kafka_4_0_left_behind_is_removed() {
    let mut f = fixture();
    f.group.apply(&Change::PartitionMetadata { present: true });
    f.heard(&join("a"));
    assert!(!f.group.has_partition_metadata());
}

#[test]
fn a_member_of_an_unknown_state_begins_anew() {
    let mut f = fixture();
    f.heard(&join("a"));
    let mut current = f.group.members()["a"].current.clone();
    current.state = MemberState::Unknown;
    f.group.apply(&Change::Current("a".into(), Some(current)));
    assert_eq!(f.refused(&report("a", 2, None)), ErrorCode::FencedMemberEpoch);
    assert_eq!(f.heard(&join("a")), (2, Some(parts(&[0, 1, 2, 3, 4, 5]))));
}

#[test]
fn a_static_member_that_leaves_for_a_while_gives_up_what_it_was_to_revoke() {
    let mut f = fixture();
    let with_instance = |request: Request| Request { instance_id: Some("i".into()), ..request };
    f.heard(&with_instance(join("a")));
    f.heard(&join("b"));
    assert_eq!(f.heard(&with_instance(report("a", 2, None))), (2, Some(parts(&[0, 1, 2]))));
    assert_eq!(f.heard(&report("b", 3, None)), (3, None));
    f.leaves("a", Some("i"), true).unwrap();
    assert_eq!(f.heard(&report("b", 3, None)), (3, Some(parts(&[3, 4, 5]))));
}

/// As an administrator removes them.
#[test]
fn static_members_are_removed_by_their_instance_alone() {
    let mut f = fixture();
    f.heard(&Request { instance_id: Some("i".into()), ..join("a") });
    let mut removed = |member_id: &str, instance_id: &str| {
        let leaving = Leaving { member_id: member_id.into(), instance_id: Some(instance_id.into()) };
        f.take(|group, cx| Ok(classic::leave(group, cx, &[leaving]))).unwrap()
    };
    assert_eq!(removed("", "j"), [ErrorCode::UnknownMemberId]);
    assert_eq!(removed("b", "i"), [ErrorCode::FencedInstanceId]);
    assert_eq!(removed("", "i"), [ErrorCode::None]);
    assert!(f.group.members().is_empty());
}

#[test]
fn only_an_empty_group_takes_commits_without_an_epoch() {
    let mut f = fixture();
    let commits = |group: &Group, generation| {
        let who = Membership { member_id: "b".into(), instance_id: None, generation };
        may_commit(group, &who, true).map(|guard| guard.is_none())
    };
    let unknown = Err(ErrorCode::UnknownMemberId);
    assert_eq!([-1, 0, 1].map(|generation| commits(&f.group, generation)), [Ok(true), unknown, unknown]);
    f.heard(&join("a"));
    assert_eq!(commits(&f.group, -1), unknown);
    f.heard(&join("b"));
    assert_eq!(commits(&f.group, 3), Ok(true));
}

#[test]
fn an_older_epoch_commits_for_what_the_member_had_then() {
    let mut f = fixture();
    f.heard(&join("a"));
    f.heard(&join("b"));
    f.heard(&report("a", 2, None));
    f.heard(&report("a", 2, Some(&[0, 1, 2])));
    assert_eq!(f.heard(&report("b", 3, Some(&[]))), (3, Some(parts(&[3, 4, 5]))));
    let commits = |member: &str, partition| {
        let who = Membership { member_id: member.into(), instance_id: None, generation: 2 };
        may_commit(&f.group, &who, true).unwrap().expect("an older epoch").check(T, partition)
    };
    let stale = Err(ErrorCode::StaleMemberEpoch);
    assert_eq!([commits("a", 0), commits("a", 5)], [Ok(()), stale], "it has given up 5");
    assert_eq!(commits("b", 3), stale, "it got 3 later");
}

#[test]
fn memory_of_targets_and_of_what_patterns_match() {
    let mut f = fixture();
    f.heard(&join("a"));
    let before = f.group.bytes();
    let mut grown = |change: Change| {
        f.group.apply(&change);
        f.group.bytes() - before
    };
    let matched = |topics: &[&str]| {
        let topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        Change::Regex("p".into(), Some(Resolved { topics, version: 0, timestamp_ms: 0 }))
    };
    let [none, short, long] = [&[][..], &["w"], &["ten letters"]].map(|topics| grown(matched(topics)));
    assert_eq!(long - short, 10, "in place of the former");
    assert_eq!(grown(matched(&["u", "v"])) - short, short - none);
    assert_eq!(grown(Change::Regex("p".into(), None)), 0);
    let few = grown(Change::Target("b".into(), Some(parts(&[7]))));
    let more = grown(Change::Target("b".into(), Some(parts(&[7, 8]))));
    let many = grown(Change::Target("b".into(), Some(parts(&[7, 8, 9, 10]))));
    assert_eq!((many - few, grown(Change::Target("b".into(), None))), (3 * (more - few), 0));
}
