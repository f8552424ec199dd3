//! Tests of rolling and of deleting from the front, over the simulated machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::tests::{CONFIG, batch_of, create, filled, path, read_all, reopen, segment};
use super::{Located, Log, LogConfig, LogError, Opening, Read, Retention, files};
use crate::base::ids::Offset;
use crate::base::prng::Prng;
use crate::rt::Rt;
use crate::sim::{Fault, FaultOp, Sim, SimRt};

const SMALL: LogConfig = LogConfig { segment_bytes: 20_000, file_delete_delay_ms: 1000, ..CONFIG };

fn append(log: &Log<SimRt>, timestamp: i64) -> bool {
    let base = log.end_offset();
    log.append(&batch_of(&mut Prng::new(base as u64), 1, 500, timestamp), base, 0, None).unwrap()
}

fn bases(log: &Log<SimRt>) -> Vec<Offset> {
    log.0.state.borrow().segments.iter().map(|segment| segment.base).collect()
}

fn names(rt: &SimRt) -> Vec<String> {
    rt.list(&path()).unwrap().into_iter().map(|entry| entry.name).collect()
}

/// Ends of deletion as an owner does it.
async fn retain(log: &Log<SimRt>, retention: Retention, now_ms: i64) -> usize {
    let before = log.expired_before(retention, now_ms).await.unwrap();
    if before == log.end_offset() && before > log.start_offset() {
        assert!(log.roll(before.to_string().into_bytes()).await.unwrap());
    }
    log.set_start(before);
    log.delete_before(before).await.unwrap()
}

#[test]
fn a_segment_ends_by_time_after_its_first_record() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    let config = LogConfig { segment_ms: 1000, ..CONFIG };
    sim.run_until(async {
        let log = create(&rt, config).await;
        let rolled: Vec<bool> = [5000, 6000, 5500, 6001, 6500, 7002, 0, 9000].into_iter().map(|ts| append(&log, ts)).collect();
        assert_eq!(rolled, [false, false, false, true, false, true, false, true]);
        log.close(Vec::new()).await.unwrap();
        // The time counts on after a restart.
        let log = reopen(&rt, config, Opening { clean: true, ..Opening::default() }).await.unwrap();
        assert!(append(&log, 10_001) && !append(&log, 11_001));
        log.close(Vec::new()).await.unwrap();
        let log = reopen(&rt, config, Opening { clean: true, ..Opening::default() }).await.unwrap();
        assert!(!append(&log, 11_001));
    });
}

/// As in Kafka: such a segment is as old as the process's knowledge of it when it comes to its end, and as its file when it comes to deletion.
#[test]
fn without_timestamps_the_clock_and_the_file_tell_the_age() {
    let sim = Sim::new(5, 1);
    let rt = sim.rt(0);
    let config = LogConfig { segment_ms: 1000, file_delete_delay_ms: 1000, ..CONFIG };
    let by_age = |ms| Retention { ms: Some(ms), bytes: None };
    sim.run_until(async {
        let log = create(&rt, config).await;
        assert!(!append(&log, -1) && !append(&log, 5000));
        rt.sleep(Duration::from_millis(1100)).await;
        assert!(append(&log, -1) && !append(&log, -1));
        log.close(Vec::new()).await.unwrap();
        rt.sleep(Duration::from_millis(1100)).await;
        let log = reopen(&rt, config, Opening { clean: true, ..Opening::default() }).await.unwrap();
        assert!(!append(&log, -1));
        rt.sleep(Duration::from_millis(1100)).await;
        assert!(append(&log, -1));
        log.flush().await.unwrap();
        // Written to later than the one before it was ended.
        rt.sleep(Duration::from_millis(20)).await;
        assert!(!append(&log, -1));
        log.flush().await.unwrap();
        assert_eq!(bases(&log), [0, 2, 5]);
        let written = |base| rt.modified_ms(&segment(base)).unwrap();
        // The first one has a timestamp, be it of 1970.
        assert_eq!(retain(&log, by_age(written(2) - 5000), written(2)).await, 0);
        assert_eq!(retain(&log, by_age(50), written(2) + 50).await, 1);
        assert_eq!(retain(&log, by_age(50), written(2) + 51).await, 1);
        assert_eq!(retain(&log, by_age(50), written(5) + 51).await, 1);
        assert_eq!((log.start_offset(), log.end_offset()), (7, 7));
    });
}

#[test]
fn jitter_shortens_the_time_of_each_segment() {
    let sim = Sim::new(2, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, LogConfig { segment_bytes: 64 << 20, segment_ms: 1000, segment_jitter_ms: 900, ..CONFIG }).await;
        for ts in 0..50_000 {
            append(&log, ts);
        }
        let bases = bases(&log);
        let lengths: Vec<Offset> = bases.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(lengths.iter().all(|length| (101..=1001).contains(length)), "{lengths:?}");
        assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() > 300);
    });
}

#[test]
fn a_segment_ends_when_kafkas_index_would_be_full() {
    let sim = Sim::new(3, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        // Each batch but the first has an entry. With rising times the time index fills first, without them the offset index.
        for (rising, batches) in [(true, 10), (false, 16)] {
            let config = LogConfig { index_interval_bytes: 0, segment_index_bytes: 8 * 15, ..CONFIG };
            let log = create(&rt, config).await;
            for i in 0..60 {
                append(&log, if rising { i } else { 7 });
            }
            assert_eq!(bases(&log)[..3], [0, batches, 2 * batches]);
            log.delete().await.unwrap();
        }
    });
}

#[test]
fn segments_go_by_size_by_age_and_before_the_start() {
    let sim = Sim::new(4, 1);
    let batches = filled(&sim, SMALL, 500);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = reopen(&rt, SMALL, Opening { clean: true, recovery_point: 500, log_start: 0, cleaned: 0 }).await.unwrap();
        let all = bases(&log);
        let keep = |ms, bytes| Retention { ms, bytes };
        assert_eq!(retain(&log, keep(None, None), i64::MAX).await, 0);
        assert_eq!(retain(&log, keep(Some(i64::MAX), Some(u64::MAX)), i64::MAX).await, 0);
        // By size: as long as the rest still has as many bytes.
        let size = |from: usize| batches[all[from] as usize..].iter().map(Vec::len).sum::<usize>() as u64;
        assert_eq!(retain(&log, keep(None, Some(size(1) + 1)), 0).await, 0);
        assert_eq!(retain(&log, keep(None, Some(size(1))), 0).await, 1);
        assert_eq!((log.start_offset(), log.size()), (all[1], size(1)));
        // By age: the newest record of a segment counts, and a younger segment protects those behind it.
        let newest = 1000 + all[2] - 1;
        assert_eq!(retain(&log, keep(Some(50), None), newest + 50).await, 0);
        assert_eq!(retain(&log, keep(Some(50), None), newest + 51).await, 1);
        // Before the start.
        log.set_start(all[4] + 3);
        assert_eq!(retain(&log, Retention::default(), 0).await, 2);
        assert_eq!((log.start_offset(), bases(&log)[0]), (all[4] + 3, all[4]));
        assert_eq!(log.offset_for_timestamp(0, 500).await.unwrap().map(Located::place), Some((all[4] + 3, 1000 + all[4] + 3)));
        // The last one does not go by size, only by age.
        let last = *all.last().unwrap();
        retain(&log, keep(None, Some(0)), 0).await;
        assert_eq!(bases(&log), [last]);
        assert!(read_all(&log).await == batches[last as usize..].concat());
        assert_eq!(retain(&log, keep(Some(1), None), 10_000).await, 1);
        assert_eq!((bases(&log), log.start_offset(), log.end_offset()), (vec![500], 500, 500));
        assert_eq!(log.max_timestamp_offset(500).await.unwrap(), None);
        // An empty segment stays.
        assert_eq!(retain(&log, keep(Some(1), None), 10_000).await, 0);
        assert!(names(&rt).iter().filter(|name| name.ends_with(".log.deleted")).count() == all.len());
        rt.sleep(Duration::from_millis(1100)).await;
        let left: Vec<String> = names(&rt).into_iter().filter(|name| name.starts_with("0000")).collect();
        assert_eq!(left, ["00000000000000000500.log", "00000000000000000500.snapshot"]);
        assert!(!append(&log, 0));
        log.close(b"501".to_vec()).await.unwrap();
        let log = reopen(&rt, SMALL, Opening::default()).await.unwrap();
        assert_eq!((log.start_offset(), log.end_offset()), (500, 501));
    });
}

#[test]
fn readers_are_served_or_told_while_segments_go() {
    let sim = Sim::new(5, 1);
    filled(&sim, SMALL, 500);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = Rc::new(reopen(&rt, SMALL, Opening { clean: true, recovery_point: 500, log_start: 0, cleaned: 0 }).await.unwrap());
        let reader = log.clone();
        sim.spawn(0, async move {
            for offset in (0..500).chain(0..500) {
                let result = match reader.read(offset, 5000, 500, true) {
                    Read::Hit(pieces) => Ok(pieces),
                    Read::Miss(plan) => reader.read_cold(plan).await,
                };
                match result {
                    Ok(pieces) => assert!(!pieces.is_empty()),
                    Err(e) => assert!(offset < reader.start_offset(), "{offset}: {e}"),
                }
                reader.0.cache.reclaim(1 << 20);
            }
        });
        for left in (0..10).rev() {
            rt.sleep(Duration::from_millis(3)).await;
            retain(&log, Retention { ms: None, bytes: Some(left * 10_000) }, 0).await;
        }
        assert_eq!(bases(&log).len(), 1);
    });
}

#[test]
fn a_crash_while_segments_go_leaves_no_gap() {
    for seed in 0..200 {
        let sim = Sim::new(seed, 1);
        let batches = filled(&sim, SMALL, 500);
        let rt = sim.rt(0);
        let log = sim.run_until(reopen(&rt, SMALL, Opening { clean: true, recovery_point: 500, log_start: 0, cleaned: 0 })).unwrap();
        let log = Rc::new(log);
        let (working, all) = (log.clone(), sim.below(2) == 0);
        sim.spawn(0, async move {
            let ms = all.then_some(0);
            retain(&working, Retention { ms, bytes: Some(30_000) }, 10_000).await;
        });
        sim.run_until(sim.sleep(Duration::from_micros(sim.below(10_000))));
        drop(log);
        sim.crash();
        let rt = sim.rt(0);
        sim.run_until(async {
            // The recovery point is an old one: everything there is is checked.
            let log = reopen(&rt, SMALL, Opening { recovery_point: sim.below(500) as Offset, ..Opening::default() }).await.unwrap();
            assert_eq!(log.end_offset(), 500, "seed {seed}");
            assert!(read_all(&log).await == batches[log.start_offset() as usize..].concat());
            assert!(!names(&rt).iter().any(|name| name.ends_with(".deleted")));
            let first = log.0.state.borrow().segments[0].base;
            let orphan = |name: &String| files::DERIVED.iter().any(|kind| files::base_of(name, kind).is_some_and(|base| base < first));
            assert!(!names(&rt).iter().any(orphan));
        });
    }
}

#[test]
fn what_cannot_be_renamed_stays_and_a_failed_flush_of_the_directory_fences() {
    let sim = Sim::new(6, 1);
    filled(&sim, SMALL, 600);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = reopen(&rt, SMALL, Opening { clean: true, recovery_point: 600, log_start: 0, cleaned: 0 }).await.unwrap();
        let all = bases(&log);
        sim.inject(FaultOp::Names, ".log", 1, Fault::Errno(libc::EROFS));
        assert!(matches!(log.delete_before(all[3]).await, Err(LogError::Io { .. })));
        assert_eq!(bases(&log), all[1..], "one was renamed before");
        assert!(log.fenced().is_none());
        assert_eq!(log.delete_before(all[3]).await.unwrap(), 2);
        sim.inject(FaultOp::Sync, path().to_str().unwrap(), 0, Fault::Errno(libc::EIO));
        assert!(log.delete_before(all[5]).await.is_err());
        assert!(log.fenced().is_some() && bases(&log) == all[4..]);
    });
}

#[test]
fn a_deleted_topic_is_not_in_the_way_of_files_to_be_removed() {
    let sim = Sim::new(7, 1);
    filled(&sim, SMALL, 200);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = reopen(&rt, SMALL, Opening { clean: true, recovery_point: 200, log_start: 0, cleaned: 0 }).await.unwrap();
        assert!(retain(&log, Retention { ms: None, bytes: Some(0) }, 0).await > 0);
        log.delete().await.unwrap();
        rt.sleep(Duration::from_secs(5)).await;
        assert!(rt.list(Path::new("/data")).unwrap().is_empty() && rt.read_file(&segment(0)).is_err());
    });
}

/// A disk that hears of freed blocks at once is busy with a large file for tens of milliseconds.
#[test]
fn a_large_segment_is_removed_in_pieces() {
    const MIB: u64 = 1 << 20;
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        let gone = path().join("0.log.deleted");
        let file = rt.open(&gone, crate::rt::Open::Create).await.unwrap();
        rt.allocate(&file, 10 * MIB + 7).await.unwrap();
        log.0.remove_later(vec![gone.clone()]);
        rt.sleep(Duration::from_millis(CONFIG.file_delete_delay_ms as u64 + 4)).await;
        let left = rt.file_len(&file).unwrap();
        assert!((MIB..10 * MIB).contains(&left), "{left}");
        rt.sleep(Duration::from_secs(1)).await;
        assert!(!names(&rt).contains(&"0.log.deleted".to_owned()));
    });
}

/// A look-up that makes an index holds nothing that a deletion waits for otherwise.
#[test]
fn a_deleted_log_makes_no_files_in_the_directory_of_its_successor() {
    for seed in 0..200 {
        let sim = Sim::new(seed, 1);
        let config = LogConfig { segment_bytes: 4096, ..CONFIG };
        filled(&sim, config, 60);
        let rt = sim.rt(0);
        for kind in ["index", "timeindex"] {
            rt.remove_file(&files::name(&path(), 0, kind)).unwrap();
        }
        sim.run_until(async {
            let closed = Opening { recovery_point: 60, clean: true, ..Opening::default() };
            let log = reopen(&rt, config, closed).await.unwrap();
            let look_up = async {
                let _ = log.offset_for_timestamp(1005, 60).await;
            };
            let delete = async {
                rt.sleep(Duration::from_micros(sim.below(1500))).await;
                log.delete().await.unwrap();
                create(&rt, config).await
            };
            let _ = futures_lite::future::zip(look_up, delete).await;
            let names: BTreeSet<String> = rt.list(&path()).unwrap().into_iter().map(|entry| entry.name).collect();
            let made = ["00000000000000000000.log", "partition.metadata"].map(str::to_owned);
            assert_eq!(names, BTreeSet::from(made), "seed {seed}");
        });
    }
}

/// Else the next topic of the name could not begin.
#[test]
fn a_log_whose_metadata_was_damaged_while_it_was_open_is_deleted() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        append(&log, 1000);
        log.flush().await.unwrap();
        rt.write_file(&path().join("partition.metadata"), b"version: 0\nuopic_id: x".to_vec()).await.unwrap();
        log.delete().await.unwrap();
        assert!(rt.list(&path()).is_err());
    });
}
