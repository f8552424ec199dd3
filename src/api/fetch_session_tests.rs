//! Tests of the fetch sessions.

use proptest::prelude::*;

use super::*;
use crate::base::ids::Uuid;
use crate::rt::heap;

/// More than any session here takes, and what a partition of [`target`] takes.
const LARGE: usize = 1 << 30;
const OF_ONE: usize = PARTITION_BYTES + 1;

fn target(partition: i32, fetch_offset: Offset) -> FetchTarget {
    FetchTarget {
        topic_id: Uuid::ZERO,
        name: "t".into(),
        partition,
        fetch_offset,
        max_bytes: 1 << 20,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        log_start_offset: -1,
    }
}

fn request(session_id: i32, epoch: i32, targets: Vec<FetchTarget>) -> SessionRequest {
    SessionRequest { session_id, epoch, targets, ..SessionRequest::default() }
}

fn at(seconds: u64) -> Now {
    Now { mono: Duration::from_secs(seconds), wall_ms: 0 }
}

const QUIET: FetchOutcome =
    FetchOutcome { code: ErrorCode::None, high_watermark: 10, log_start_offset: 0, has_records: false, must_answer: false };
const RECORDS: FetchOutcome = FetchOutcome { has_records: true, ..QUIET };

fn partitions(context: &SessionContext) -> Vec<i32> {
    context.targets.iter().map(|t| t.partition).collect()
}

/// A session over partitions `0..count`, opened at `seconds`.
fn open(sessions: &mut Sessions, id: i32, count: i32, seconds: u64) -> i32 {
    let context = sessions.begin(request(0, INITIAL_EPOCH, (0..count).map(|p| target(p, 0)).collect()), at(seconds)).unwrap();
    let finished = sessions.finish(&context, &vec![QUIET; count as usize], at(seconds), || id).unwrap();
    assert_eq!(finished.include, (0..count as usize).collect::<Vec<_>>(), "a full answer holds every partition, empty ones too");
    sessions.check();
    finished.session_id
}

/// An incremental fetch, all of it: the partitions that were read, and those that are answered.
fn fetch(
    sessions: &mut Sessions,
    id: i32,
    epoch: i32,
    targets: Vec<FetchTarget>,
    outcome: impl Fn(i32) -> FetchOutcome,
) -> (Vec<i32>, Vec<i32>) {
    let context = sessions.begin(request(id, epoch, targets), at(0)).unwrap();
    let read = partitions(&context);
    let outcomes: Vec<_> = read.iter().map(|p| outcome(*p)).collect();
    let finished = sessions.finish(&context, &outcomes, at(0), || unreachable!()).unwrap();
    assert_eq!(finished.session_id, id);
    sessions.check();
    let answered = finished.include.iter().map(|i| read[*i]).collect();
    (read, answered)
}

#[test]
fn without_a_session_everything_is_answered() {
    let mut sessions = Sessions::new(10, LARGE);
    let context = sessions.begin(request(0, FINAL_EPOCH, vec![target(1, 5), target(0, 6)]), at(0)).unwrap();
    assert_eq!(partitions(&context), [1, 0], "request order");
    let finished = sessions.finish(&context, &[QUIET, QUIET], at(0), || 1).unwrap();
    assert_eq!(finished, Finished { session_id: NO_SESSION, include: vec![0, 1] });
    assert!(sessions.is_empty());
}

#[test]
fn an_incremental_answer_holds_what_changed() {
    let mut sessions = Sessions::new(10, LARGE);
    let id = open(&mut sessions, 77, 4, 0);
    assert_eq!(id, 77);
    assert_eq!(fetch(&mut sessions, id, 1, vec![], |_| QUIET), (vec![0, 1, 2, 3], vec![]), "nothing new");
    let moved = |p| FetchOutcome { high_watermark: if p == 1 { 11 } else { 10 }, log_start_offset: if p == 2 { 5 } else { 0 }, ..QUIET };
    assert_eq!(fetch(&mut sessions, id, 2, vec![], moved).1, [1, 2]);
    assert!(fetch(&mut sessions, id, 3, vec![], moved).1.is_empty(), "told already");
    let failed = |p| if p == 0 { FetchOutcome { code: ErrorCode::NotLeaderOrFollower, ..moved(p) } } else { moved(p) };
    assert_eq!(fetch(&mut sessions, id, 4, vec![], failed).1, [0]);
    assert_eq!(fetch(&mut sessions, id, 5, vec![], failed).1, [0], "an error is told each time");
    assert_eq!(fetch(&mut sessions, id, 6, vec![], moved).1, [0], "and so is its end");
    let other = |p| FetchOutcome { must_answer: p == 3, ..moved(p) };
    assert_eq!(fetch(&mut sessions, id, 7, vec![], other).1, [3]);
}

#[test]
fn partitions_with_records_go_to_the_end() {
    let mut sessions = Sessions::new(10, LARGE);
    let id = open(&mut sessions, 1, 4, 0);
    let first_two = |p| if p < 2 { RECORDS } else { QUIET };
    assert_eq!(fetch(&mut sessions, id, 1, vec![], first_two), (vec![0, 1, 2, 3], vec![0, 1]));
    assert_eq!(fetch(&mut sessions, id, 2, vec![], |_| QUIET).0, [2, 3, 0, 1]);
    let (read, _) = fetch(&mut sessions, id, 3, vec![target(0, 50), target(9, 0)], |_| QUIET);
    assert_eq!(read, [2, 3, 0, 1, 9], "an update keeps its place, a newcomer goes last");
}

#[test]
fn updates_and_forgotten_partitions() {
    let mut sessions = Sessions::new(10, LARGE);
    let id = open(&mut sessions, 1, 3, 0);
    let gone = |partition| Forgotten { topic_id: Uuid::ZERO, name: "t".into(), partition };
    let mut update = request(id, 1, vec![target(1, 42)]);
    update.forgotten = vec![gone(0), gone(8)];
    let context = sessions.begin(update, at(0)).unwrap();
    assert_eq!(context.targets, [target(1, 42), target(2, 0)]);
    let outcomes: Vec<_> = context.targets.iter().map(|_| QUIET).collect();
    sessions.finish(&context, &outcomes, at(0), || unreachable!()).unwrap();
    let mut rest = request(id, 2, vec![]);
    rest.forgotten = vec![gone(1), gone(2)];
    let context = sessions.begin(rest, at(0)).unwrap();
    assert!(context.targets.is_empty());
    assert_eq!(sessions.finish(&context, &[], at(0), || 1).unwrap().session_id, NO_SESSION);
    assert!(sessions.is_empty() && sessions.bytes() == 0, "an empty session ends");
}

#[test]
fn wrong_ids_and_epochs() {
    let mut sessions = Sessions::new(10, LARGE);
    let id = open(&mut sessions, 5, 1, 0);
    let error = |sessions: &mut Sessions, request| sessions.begin(request, at(0)).unwrap_err();
    assert_eq!(error(&mut sessions, request(6, 1, vec![])), ErrorCode::FetchSessionIdNotFound);
    assert_eq!(error(&mut sessions, request(0, 1, vec![])), ErrorCode::FetchSessionIdNotFound);
    for epoch in [2, -2, i32::MAX] {
        assert_eq!(error(&mut sessions, request(id, epoch, vec![])), ErrorCode::InvalidFetchSessionEpoch);
    }
    let by_id = SessionRequest { by_topic_id: true, ..request(id, 1, vec![]) };
    assert_eq!(error(&mut sessions, by_id), ErrorCode::FetchSessionTopicIdError);
    assert_eq!(fetch(&mut sessions, id, 1, vec![], |_| QUIET).0, [0], "the session outlives them");
    // Two of one session under way: the first finds the session gone on.
    let first = sessions.begin(request(id, 2, vec![]), at(0)).unwrap();
    let second = sessions.begin(request(id, 3, vec![]), at(0)).unwrap();
    assert_eq!(sessions.finish(&first, &[QUIET], at(0), || 1), Err(ErrorCode::InvalidFetchSessionEpoch));
    assert!(sessions.finish(&second, &[QUIET], at(0), || 1).is_ok());
}

#[test]
fn a_full_fetch_ends_the_session_that_it_names() {
    let mut sessions = Sessions::new(10, LARGE);
    let id = open(&mut sessions, 5, 1, 0);
    let context = sessions.begin(request(id, FINAL_EPOCH, vec![]), at(0)).unwrap();
    assert_eq!(sessions.finish(&context, &[], at(0), || 1).unwrap().session_id, NO_SESSION);
    assert!(sessions.is_empty());
    let id = open(&mut sessions, 5, 1, 0);
    let context = sessions.begin(request(id, INITIAL_EPOCH, vec![target(0, 0)]), at(0)).unwrap();
    let finished = sessions.finish(&context, &[QUIET], at(0), || 9).unwrap();
    assert_eq!((finished.session_id, sessions.len()), (9, 1));
}

#[test]
fn epochs_wrap_to_one_and_ids_are_positive_and_free() {
    assert_eq!(next_epoch(i32::MAX), 1);
    let mut sessions = Sessions::new(10, LARGE);
    let ids: Vec<_> = (0..3).map(|_| open(&mut sessions, i32::MIN, 1, 0)).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(open(&mut sessions, i32::MAX, 1, 0), i32::MAX);
    assert_eq!(open(&mut sessions, -1, 1, 0), 4);
}

#[test]
fn slots_are_freed_as_kafka_frees_them() {
    let mut sessions = Sessions::new(2, LARGE);
    assert_eq!(open(&mut sessions, 1, 5, 0), 1);
    assert_eq!(open(&mut sessions, 2, 3, 10), 2);
    assert_eq!(open(&mut sessions, 3, 9, 100), NO_SESSION, "both are young");
    assert_eq!(open(&mut sessions, 3, 1, 121), 3, "the first is unused for two minutes, however big");
    for (id, seconds) in [(2, 125), (3, 125)] {
        sessions.begin(request(id, 1, vec![]), at(seconds)).unwrap();
    }
    assert_eq!(open(&mut sessions, 4, 3, 131), NO_SESSION, "the second is old, but not smaller");
    assert_eq!(open(&mut sessions, 4, 4, 131), 4);
    assert!(!sessions.by_id.contains_key(&2));
    assert_eq!(open(&mut Sessions::new(0, LARGE), 1, 1, 0), NO_SESSION);
}

#[test]
fn bytes_are_bounded_over_all_sessions() {
    let mut sessions = Sessions::new(5, 2 * SESSION_BYTES + 10 * OF_ONE);
    assert_eq!(open(&mut sessions, 1, 20, 0), NO_SESSION);
    assert_eq!(open(&mut sessions, 1, 6, 0), 1);
    assert_eq!(open(&mut sessions, 2, 5, 0), NO_SESSION);
    assert_eq!(open(&mut sessions, 2, 4, 0), 2);
    let more = request(2, 1, vec![target(100, 0)]);
    assert_eq!(sessions.begin(more, at(0)), Err(ErrorCode::FetchSessionIdNotFound), "back to full fetches");
    sessions.check();
    assert_eq!((sessions.len(), sessions.bytes()), (1, SESSION_BYTES + 6 * OF_ONE));
    assert_eq!(open(&mut sessions, 3, 8, 121), 3, "an unused one makes room");
}

#[test]
fn sessions_take_no_more_of_the_heap_than_they_count() {
    for (count, name) in [(1, 20), (48, 20), (48, 249), (5000, 249), (50_000, 13)] {
        let targets = (0..count).map(|p| FetchTarget { name: "x".repeat(name).into(), ..target(p, 0) }).collect();
        let mut sessions = Sessions::new(10, LARGE);
        let context = sessions.begin(request(0, INITIAL_EPOCH, targets), at(0)).unwrap();
        sessions.finish(&context, &vec![QUIET; count as usize], at(0), || 1).unwrap();
        drop(context);
        let (counted, before) = (sessions.bytes() as isize, heap::held());
        drop(sessions);
        let held = before - heap::held();
        assert!(held <= counted, "{count} partitions: {held} bytes of the heap, {counted} counted");
        assert!(counted < 2 * held + 4000, "{count} partitions: {held} bytes of the heap, {counted} counted");
    }
}

#[test]
fn bytes_follow_names_that_change_and_partitions_that_are_named_twice() {
    let mut sessions = Sessions::new(1, SESSION_BYTES + 2 * OF_ONE);
    let thrice = vec![target(0, 1), target(1, 1), target(0, 2), target(0, 3)];
    let context = sessions.begin(request(0, INITIAL_EPOCH, thrice), at(0)).unwrap();
    assert_eq!(context.targets, [target(0, 3), target(1, 1)], "the last, in the place of the first");
    assert_eq!(sessions.finish(&context, &[QUIET, QUIET], at(0), || 1).unwrap().session_id, 1);
    sessions.check();
    let update = request(1, 1, vec![target(0, 4), target(0, 5)]);
    assert_eq!(sessions.begin(update, at(0)).unwrap().targets, [target(0, 5), target(1, 1)]);
    sessions.check();
    // Where ids name the topics, names may change.
    let mut sessions = Sessions::new(1, LARGE);
    let named = |name: &str| FetchTarget { name: name.into(), ..target(0, 0) };
    for (id, epoch, name) in [(0, INITIAL_EPOCH, "a"), (1, 1, "longer"), (1, 2, "")] {
        let asked = SessionRequest { by_topic_id: true, ..request(id, epoch, vec![named(name)]) };
        let context = sessions.begin(asked, at(0)).unwrap();
        sessions.finish(&context, &[QUIET], at(0), || 1).unwrap();
        sessions.check();
        assert_eq!(sessions.bytes(), SESSION_BYTES + PARTITION_BYTES + name.len());
    }
}

#[test]
fn a_partition_that_is_named_many_times_is_read_once() {
    for (count, kind) in [(20_000, FINAL_EPOCH), (FEW_TARGETS as i64, FINAL_EPOCH), (300, INITIAL_EPOCH)] {
        let mut sessions = Sessions::new(1, LARGE);
        let targets = (0..count).map(|n| target((n % 3) as i32, n)).collect();
        let context = sessions.begin(request(0, kind, targets), at(0)).unwrap();
        let last = |partition: i32| (0..count).rev().find(|n| n % 3 == i64::from(partition)).unwrap();
        assert_eq!(context.targets, [0, 1, 2].map(|p| target(p, last(p))));
    }
}

#[test]
fn ids_name_topics_from_version_13_on() {
    let mut sessions = Sessions::new(1, LARGE);
    let by_id = |n: u8, name: &str| FetchTarget { topic_id: Uuid([n; 16]), name: name.into(), ..target(0, 0) };
    let full = SessionRequest { by_topic_id: true, ..request(0, 0, vec![by_id(1, ""), by_id(2, "")]) };
    let context = sessions.begin(full, at(0)).unwrap();
    sessions.finish(&context, &[QUIET, QUIET], at(0), || 1).unwrap();
    let again = SessionRequest { by_topic_id: true, ..request(1, 1, vec![by_id(2, "resolved meanwhile")]) };
    assert_eq!(sessions.begin(again, at(0)).unwrap().targets, [by_id(1, ""), by_id(2, "resolved meanwhile")]);
}

proptest! {
    /// A client that believes what it is told sees every change, whatever happens in between.
    #[test]
    fn a_client_never_misses_a_change(steps in prop::collection::vec((0..6u8, 0..6i32), 1..80)) {
        let mut sessions = Sessions::new(2, 2 * SESSION_BYTES + 8 * OF_ONE);
        let (mut broker, mut told) = ([0i64; 6], [-1i64; 6]);
        let mut client = std::collections::BTreeMap::from([(0, -1i64)]);
        let (mut id, mut epoch, mut seed) = (0, 0, 100);
        let (mut add, mut forget) = (vec![], vec![]);
        for (op, partition) in steps {
            match op {
                0 => broker[partition as usize] += 1,
                // Forgotten and wanted again between two fetches: to the session it never left.
                1 => if let std::collections::btree_map::Entry::Vacant(wanted) = client.entry(partition) {
                    if forget.contains(&partition) { forget.retain(|p| *p != partition) } else { add.push(partition) }
                    wanted.insert(told[partition as usize]);
                },
                2 => if let Some(seen) = client.remove(&partition) {
                    if add.contains(&partition) { add.retain(|p| *p != partition) } else { forget.push(partition) }
                    told[partition as usize] = seen;
                },
                3 => { seed += 1; open(&mut sessions, seed, partition, 0); }
                _ => {
                    let wanted = if epoch == 0 { client.keys().copied().collect() } else { std::mem::take(&mut add) };
                    let mut request = request(id, epoch, wanted.into_iter().map(|p| target(p, 0)).collect());
                    if epoch > 0 {
                        let gone = std::mem::take(&mut forget).into_iter();
                        request.forgotten = gone.map(|p| Forgotten { topic_id: Uuid::ZERO, name: "t".into(), partition: p }).collect();
                    }
                    (add, forget, told) = (vec![], vec![], [-1; 6]);
                    let Ok(context) = sessions.begin(request, at(0)) else { (id, epoch) = (0, 0); continue };
                    let mut read = partitions(&context);
                    let outcomes: Vec<_> = read.iter().map(|p| FetchOutcome { high_watermark: broker[*p as usize], ..QUIET }).collect();
                    seed += 1;
                    let finished = sessions.finish(&context, &outcomes, at(0), || seed).unwrap();
                    for index in finished.include {
                        client.insert(read[index], broker[read[index] as usize]);
                    }
                    read.sort();
                    prop_assert_eq!(&read, &client.keys().copied().collect::<Vec<_>>());
                    for (p, seen) in &client {
                        prop_assert_eq!(*seen, broker[*p as usize]);
                    }
                    (id, epoch) = if finished.session_id == 0 { (0, 0) } else { (finished.session_id, next_epoch(epoch)) };
                }
            }
            sessions.check();
        }
    }
}
