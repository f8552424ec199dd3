//! Tests of what a start after a crash looks at: the part behind the log's own recovery point, or more where that cannot be trusted.

use super::cache::Cache;
use super::damage_tests::flip;
use super::model_tests::Follow;
use super::recovery_point::NAME;
use super::state::State;
use super::tests::{self, CONFIG, create, path, read_all};
use super::{Located, Log, Opening, files};
use crate::base::ids::Offset;
use crate::rt::Rt;
use crate::sim::{Fault, FaultOp, Sim, SimRt};
use crate::wire::batch::{self, BatchSpec, build_batch};

/// Batches of the log, each of one record with a timestamp of its own.
const COUNT: Offset = 700;
/// Its recovery point.
const POINT: Offset = 600;

async fn append(log: &Log<SimRt>, offsets: std::ops::Range<Offset>) -> Vec<u8> {
    let mut all = Vec::new();
    for offset in offsets {
        let mut bytes = build_batch(&BatchSpec::default(), &[(None, Some(&[7; 200]), 1000 + offset)]);
        log.append(&bytes, offset, 1, None).unwrap();
        batch::patch(&mut bytes, offset, 1);
        all.extend(bytes);
    }
    log.flush().await.unwrap();
    all
}

/// A log of one segment with a recovery point, whose process was killed; what it holds.
fn killed(sim: &Sim) -> Vec<u8> {
    let rt = sim.rt(0);
    let all = sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        let mut all = append(&log, 0..POINT).await;
        log.set_recovery_point(POINT.to_string().into_bytes());
        all.extend(append(&log, POINT..COUNT).await);
        log.0.wait_until(|state| !state.storing_point && state.point.is_none()).await.unwrap();
        all
    });
    sim.kill();
    all
}

async fn reopen(rt: &SimRt) -> (Log<SimRt>, Follow) {
    let mut follow = Follow::default();
    let log = Log::open(rt, &Cache::new(rt.memory()), &path(), CONFIG, Opening::default(), &mut follow).await.unwrap();
    (log, follow)
}

#[test]
fn nothing_below_the_recovery_point_is_looked_at() {
    let sim = Sim::new(1, 1);
    let whole = killed(&sim);
    let rt = sim.rt(0);
    sim.run_until(async {
        let batch = whole.len() / COUNT as usize;
        // Whoever looked at it would cut the log here.
        flip(&rt, 0, batch * 300 + 16, &[]).await;
        let (log, follow) = reopen(&rt).await;
        assert_eq!((follow.snapshot, follow.first, follow.batches), (Some(POINT), Some(POINT), (COUNT - POINT) as usize));
        assert_eq!(log.end_offset(), COUNT);
        flip(&rt, 0, batch * 300 + 16, &[]).await;
        assert!(read_all(&log).await == whole);
        for offset in [5, POINT - 1, POINT, COUNT - 1] {
            assert_eq!(log.offset_for_timestamp(1000 + offset, COUNT).await.unwrap().map(Located::place), Some((offset, 1000 + offset)));
        }
        assert_eq!(log.max_timestamp_offset(COUNT).await.unwrap().map(Located::place), Some((COUNT - 1, 999 + COUNT)));
    });
}

#[test]
fn a_recovery_point_that_is_not_whole_means_nothing() {
    let sim = Sim::new(2, 1);
    let whole = killed(&sim);
    let rt = sim.rt(0);
    sim.run_until(async {
        let stored = rt.read_file(&path().join(NAME)).unwrap();
        let damages: [&dyn Fn(Vec<u8>) -> Vec<u8>; 4] =
            [&|_| Vec::new(), &|b| vec![0; b.len()], &|b| b[1..].to_vec(), &|b| [&b[..], &b].concat()];
        for damage in damages {
            rt.replace_file(&path().join(NAME), damage(stored.clone())).await.unwrap();
            let (log, follow) = reopen(&rt).await;
            assert_eq!((follow.snapshot, follow.batches, log.end_offset()), (None, COUNT as usize, COUNT));
            assert!(read_all(&log).await == whole);
        }
        rt.replace_file(&path().join(NAME), stored).await.unwrap();
        assert_eq!(reopen(&rt).await.1.snapshot, Some(POINT));
    });
}

/// Its last batch is another one than the recovery point tells: nothing in the log is certain then.
#[test]
fn a_recovery_point_of_another_log_means_nothing_and_goes() {
    let sim = Sim::new(3, 1);
    let whole = killed(&sim);
    let rt = sim.rt(0);
    sim.run_until(async {
        let batch = whole.len() / COUNT as usize;
        flip(&rt, 0, batch * (POINT as usize - 1) + 20, &[]).await;
        let (log, follow) = reopen(&rt).await;
        assert_eq!((follow.snapshot, log.end_offset()), (None, POINT - 1));
        assert!(rt.read_file(&path().join(NAME)).is_err());
        assert!(read_all(&log).await == whole[..batch * (POINT as usize - 1)]);
    });
}

/// A log of several segments, each with a state at its start, whose process was killed. The start of the
/// last one.
fn killed_with_states(sim: &Sim) -> Offset {
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, super::LogConfig { segment_bytes: 20_000, ..CONFIG }).await;
        for offset in 0..200 {
            let batch = build_batch(&BatchSpec::default(), &[(None, Some(&[7; 200]), 1000)]);
            if log.append(&batch, offset, 1, None).unwrap() {
                log.set_snapshot(offset, offset.to_string().into_bytes());
            }
        }
        log.flush().await.unwrap();
        let stored = |state: &State<_>| !state.storing_point && state.point.is_none();
        log.0.wait_until(|state| stored(state) && state.storing.is_empty()).await.unwrap();
    });
    sim.kill();
    let names = sim.rt(0).list(&path()).unwrap();
    let last = names.iter().filter_map(|entry| files::base_of(&entry.name, "log")).max().unwrap();
    assert!(last > 100);
    last
}

/// A segment begins with a recovery point: how much was written before it does not matter.
#[test]
fn a_new_segment_sets_a_recovery_point() {
    let sim = Sim::new(4, 1);
    let last = killed_with_states(&sim);
    let rt = sim.rt(0);
    sim.run_until(async {
        let (log, follow) = reopen(&rt).await;
        assert_eq!((follow.snapshot, follow.first, log.end_offset()), (Some(last), Some(last), 200));
    });
}

/// The recovery point is not flushed, and the checkpoint is old: neither may be there after a power
/// loss. Batches that the state at the last segment's start was made of may be compacted away.
#[test]
fn the_state_at_the_start_of_the_last_segment_counts_without_a_recovery_point() {
    let sim = Sim::new(6, 1);
    let last = killed_with_states(&sim);
    let rt = sim.rt(0);
    rt.remove_file(&path().join(NAME)).unwrap();
    sim.run_until(async {
        let (log, follow) = reopen(&rt).await;
        assert_eq!((follow.snapshot, follow.first, log.end_offset()), (Some(last), Some(last), 200));
        // All is checked all the same, and what is damaged ends the trust in it.
        flip(&rt, 0, 80, &[]).await;
        let (log, follow) = reopen(&rt).await;
        assert_eq!((follow.snapshot, log.end_offset()), (None, 200));
        assert!(follow.first < Some(last));
    });
}

/// Else compaction might take the batches before another state is stored.
#[test]
fn a_start_stores_the_state_at_the_start_of_the_last_segment_if_it_is_missing() {
    let sim = Sim::new(7, 1);
    let last = killed_with_states(&sim);
    let rt = sim.rt(0);
    rt.remove_file(&path().join(NAME)).unwrap();
    for offset in files::snapshots(&rt, &path()) {
        rt.remove_file(&files::name(&path(), offset, "snapshot")).unwrap();
    }
    sim.run_until(async {
        let (_, follow) = reopen(&rt).await;
        assert_eq!((follow.snapshot, follow.first, follow.batches), (None, Some(0), 200));
    });
    sim.crash();
    let rt = sim.rt(0);
    sim.run_until(async {
        let (_, follow) = reopen(&rt).await;
        assert_eq!((follow.snapshot, follow.first), (Some(last), Some(last)));
    });
}

/// The files and directories that an opening after a crash flushes.
fn flushed(sim: &Sim, recovery_point: Offset) -> Vec<String> {
    sim.kill();
    let rt = sim.rt(0);
    sim.add_fault(FaultOp::Sync, "/data", 1, Fault::Lie);
    let opening = Opening { recovery_point, ..Opening::default() };
    sim.run_until(tests::reopen(&rt, CONFIG, opening)).unwrap();
    sim.clear_faults();
    sim.hits().into_iter().map(|hit| hit.path.to_string_lossy().into_owned()).collect()
}

/// With many partitions that is most of a start's time.
#[test]
fn only_what_may_not_be_durable_is_flushed_at_a_start() {
    let sim = Sim::new(5, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        create(&rt, CONFIG).await;
    });
    assert!(flushed(&sim, 0).is_empty(), "it is empty");
    let rt = sim.rt(0);
    sim.run_until(async {
        append(&tests::reopen(&rt, CONFIG, Opening::default()).await.unwrap(), 0..20).await;
    });
    let segment = "/data/t-0/00000000000000000000.log";
    // The file is longer than its batches: space was allocated.
    assert!(flushed(&sim, 20).is_empty(), "it ends where it was flushed to");
    assert_eq!(flushed(&sim, 15), [segment]);
    assert_eq!(flushed(&sim, 0), [segment, "/data/t-0", "/data"]);
    assert_eq!(flushed(&sim, 25), [segment, "/data/t-0", "/data/t-0", "/data"], "it says too much");
}

/// Else a second loss of power gives the zeros back, and whoever counts the log's bytes counts them.
#[test]
fn a_segment_that_was_cut_at_a_start_is_flushed_before_it_has_a_successor() {
    for seed in 0..20 {
        let sim = Sim::new(seed, 1);
        let rt = sim.rt(0);
        let whole = sim.run_until(async { append(&create(&rt, CONFIG).await, 0..20).await });
        sim.crash();
        let rt = sim.rt(0);
        let opening = Opening { recovery_point: 20, ..Opening::default() };
        sim.run_until(async {
            let log = tests::reopen(&rt, CONFIG, opening).await.unwrap();
            assert!(log.roll(Vec::new()).await.unwrap());
            append(&log, 20..21).await;
        });
        sim.crash();
        let rt = sim.rt(0);
        let log = sim.run_until(tests::reopen(&rt, CONFIG, opening)).unwrap();
        assert_eq!((log.end_offset(), log.size()), (21, whole.len() as u64 / 20 * 21), "seed {seed}");
    }
}
