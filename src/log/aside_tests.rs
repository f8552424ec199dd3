//! Tests that recovery removes no byte of a batch: what it cannot keep is beside the log, and damage costs no other batches.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::cache::Cache;
use super::damage_tests::{SMALL, flip, serves_what_was_written};
use super::model_tests::Follow;
use super::state::{Segment, State};
use super::tests::{CONFIG, ID, create, filled, path, read_all, reopen, segment};
use super::{Log, LogConfig, LogError, NoReplay, Opening, Retention, dir, files};
use crate::base::ids::Offset;
use crate::base::prng::Prng;
use crate::rt::Rt;
use crate::sim::{Fault, FaultOp, Sim, SimRt};
use crate::wire::batch::{BatchSpec, build_batch};

const UNCLEAN: Opening = Opening { clean: false, recovery_point: 0, log_start: 0, cleaned: 0 };

/// All files of the log.
fn contents(rt: &SimRt) -> BTreeMap<String, Vec<u8>> {
    let names = rt.list(&path()).unwrap().into_iter().map(|entry| entry.name);
    names.map(|name| (name.clone(), rt.read_file(&path().join(&name)).unwrap())).collect()
}

fn bases(rt: &SimRt) -> Vec<Offset> {
    rt.list(&path()).unwrap().iter().filter_map(|entry| files::base_of(&entry.name, "log")).collect()
}

fn aside(rt: &SimRt, end: &str) -> Vec<(String, Vec<u8>)> {
    contents(rt).into_iter().filter(|(name, _)| name.ends_with(end)).collect()
}

/// Neither the base offset nor the leader epoch is covered by the checksum.
#[test]
fn a_flipped_bit_outside_the_checksum_costs_its_own_batch_only() {
    let mut random = Prng::new(1);
    for seed in 0..200 {
        let sim = Sim::new(seed, 1);
        let batches = filled(&sim, SMALL, 300);
        let rt = sim.rt(0);
        sim.run_until(async {
            let sealed = bases(&rt);
            let at = random.below(sealed.len() as u64 - 1) as usize;
            let (base, len) = (sealed[at], batches[0].len());
            let count = (sealed[at + 1] - base) as u64;
            let batch = random.below(count);
            let byte = [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15][random.below(12) as usize];
            let position = batch as usize * len + byte;
            let mut bytes = rt.read_file(&segment(base)).unwrap();
            bytes[position] ^= 1 << random.below(8);
            flip(&rt, base, position, &[bytes[position]]).await;
            for _ in 0..2 {
                let log = reopen(&rt, SMALL, UNCLEAN).await.unwrap();
                assert_eq!((log.end_offset(), bases(&rt)), (300, sealed.clone()), "seed {seed}: batch {batch} byte {byte}");
                let damaged = base + batch as Offset;
                let mut expected = batches.clone();
                if byte >= 12 {
                    // Served as it is: clients do not look at it.
                    expected[damaged as usize][byte] = bytes[position];
                }
                let refused = serves_what_was_written(&log, &expected).await;
                let may = if byte < 12 { vec![damaged] } else { Vec::new() };
                assert_eq!(refused, may, "seed {seed}: batch {batch} byte {byte}");
                assert!(rt.read_file(&segment(base)).unwrap() == bytes, "it stays as it is");
                assert_eq!(aside(&rt, ".corrupt"), []);
            }
        });
    }
}

/// Bytes over a segment from `position` to its end, in which no batch is to be found.
async fn spoil(rt: &SimRt, base: Offset, position: usize) {
    let len = rt.read_file(&segment(base)).unwrap().len();
    flip(rt, base, position, &vec![0x7f; len - position]).await;
}

#[test]
fn a_complete_segment_without_its_end_stays_as_it_is() {
    let sim = Sim::new(1, 1);
    let batches = filled(&sim, SMALL, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        let sealed = bases(&rt);
        let base = sealed[1];
        spoil(&rt, base, 10 * batches[0].len() + 8).await;
        let damaged = rt.read_file(&segment(base)).unwrap();
        for _ in 0..3 {
            let log = reopen(&rt, SMALL, Opening { recovery_point: base, ..UNCLEAN }).await.unwrap();
            assert_eq!((log.end_offset(), bases(&rt)), (300, sealed.clone()));
            let refused = serves_what_was_written(&log, &batches).await;
            assert_eq!(refused, (base + 10..sealed[2]).collect::<Vec<_>>());
            assert!(rt.read_file(&segment(base)).unwrap() == damaged && aside(&rt, ".corrupt").is_empty());
        }
    });
}

#[test]
fn what_was_flushed_is_set_aside_where_the_log_is_cut() {
    let sim = Sim::new(2, 1);
    let batches = filled(&sim, CONFIG, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        let len = batches[0].len();
        spoil(&rt, 0, 10 * len + 8).await;
        let damaged = rt.read_file(&segment(0)).unwrap();
        let opening = Opening { recovery_point: 200, ..UNCLEAN };
        sim.inject(FaultOp::Write, ".tmp", 0, Fault::Errno(libc::ENOSPC));
        assert!(matches!(reopen(&rt, CONFIG, opening).await, Err(LogError::Exhausted(_))));
        assert!(rt.read_file(&segment(0)).unwrap() == damaged, "not before there is room for them");
        let log = reopen(&rt, CONFIG, opening).await.unwrap();
        assert_eq!((log.end_offset(), log.opened_unclean()), (10, true));
        let kept = aside(&rt, ".corrupt");
        assert!(kept.len() == 1 && kept[0].1 == damaged[10 * len / 4096 * 4096..]);
        log.append(&batches[10], 10, 1, None).unwrap();
        log.close(Vec::new()).await.unwrap();
        let log = reopen(&rt, CONFIG, Opening { clean: true, recovery_point: 11, ..UNCLEAN }).await.unwrap();
        assert!(read_all(&log).await == batches[..11].concat() && !log.opened_unclean());
        assert!(aside(&rt, ".corrupt") == kept, "it stays");
        log.delete().await.unwrap();
        assert_eq!(dir::list(&rt, Path::new("/data")).unwrap().partitions, []);
        while !rt.list(Path::new("/data")).unwrap().is_empty() {
            sim.sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_damaged_batch_below_the_recovery_point_costs_no_later_one() {
    let sim = Sim::new(3, 1);
    let batches = filled(&sim, CONFIG, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        flip(&rt, 0, 10 * batches[0].len() + 100, &[]).await;
        let log = reopen(&rt, CONFIG, Opening { recovery_point: 200, ..UNCLEAN }).await.unwrap();
        assert_eq!((log.end_offset(), serves_what_was_written(&log, &batches).await), (300, vec![10]));
        // Behind a torn batch that nobody has vouched for lies nothing that counts.
        let log = reopen(&rt, CONFIG, UNCLEAN).await.unwrap();
        assert_eq!((log.end_offset(), aside(&rt, ".torn").len()), (10, 1));
    });
}

#[test]
fn torn_ends_do_not_pile_up() {
    let sim = Sim::new(4, 1);
    let batches = filled(&sim, CONFIG, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        for at in (0..10).rev() {
            flip(&rt, 0, at * batches[0].len() + 100, &[]).await;
            for _ in 0..3 {
                let log = reopen(&rt, CONFIG, UNCLEAN).await.unwrap();
                assert_eq!(log.end_offset(), at as Offset);
            }
        }
        assert_eq!((aside(&rt, ".torn").len(), aside(&rt, ".corrupt").len()), (4, 0));
    });
}

#[test]
fn a_crash_while_bytes_are_set_aside_loses_none() {
    for seed in 0..60 {
        let sim = Sim::new(seed, 1);
        let batches = filled(&sim, CONFIG, 300);
        let rt = sim.rt(0);
        let len = batches[0].len();
        let damaged = sim.run_until(async {
            spoil(&rt, 0, 50 * len + 8).await;
            rt.read_file(&segment(0)).unwrap()
        });
        let opening = Opening { recovery_point: 300, ..UNCLEAN };
        for _ in 0..3 {
            let rt = sim.rt(0);
            let opened = rt.clone();
            sim.spawn(0, async move {
                let _ = Log::open(&opened, &Cache::new(opened.memory()), &path(), CONFIG, opening, &mut NoReplay).await;
            });
            sim.run_until(sim.sleep(Duration::from_micros(sim.below(1500))));
            sim.crash();
        }
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = reopen(&rt, CONFIG, opening).await.unwrap();
            assert!(read_all(&log).await == batches[..50].concat(), "seed {seed}");
        });
        let kept = aside(&rt, ".corrupt");
        // A crash may bring back a part of what was cut: it is set aside again.
        let all = &damaged[50 * len / 4096 * 4096..];
        assert!(kept.len() <= 2 && kept.iter().any(|(_, bytes)| bytes.starts_with(all)), "seed {seed}: {}", kept.len());
        assert!(aside(&rt, ".tmp").is_empty());
    }
}

/// A checkpoint that is not of this log says that it was flushed further than it reaches.
#[test]
fn what_was_read_back_is_flushed_whatever_a_checkpoint_says() {
    for seed in 0..20 {
        let sim = Sim::new(seed, 1);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = create(&rt, CONFIG).await;
            for offset in 0..20 {
                let bytes = build_batch(&BatchSpec::default(), &[(None, Some(&[7; 200]), 1000)]);
                log.append(&bytes, offset, 1, None).unwrap();
            }
            log.0.wait_until(|state| state.written == 20).await.unwrap();
        });
        sim.kill();
        let rt = sim.rt(0);
        let flushed = sim.run_until(async {
            let log = reopen(&rt, CONFIG, Opening { recovery_point: 1000, ..UNCLEAN }).await.unwrap();
            assert_eq!(log.topic_id(), ID);
            log.flushed_offset()
        });
        sim.crash();
        let rt = sim.rt(0);
        let log = sim.run_until(reopen(&rt, CONFIG, UNCLEAN)).unwrap();
        assert_eq!((flushed, log.end_offset()), (20, 20), "seed {seed}");
    }
}

/// The state of producers at an offset that the log has lost is that of other batches.
#[test]
fn a_snapshot_behind_the_end_is_not_taken() {
    let sim = Sim::new(5, 1);
    let batches = filled(&sim, CONFIG, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        for offset in [40, 200] {
            rt.replace_file(&files::name(&path(), offset, "snapshot"), offset.to_string().into_bytes()).await.unwrap();
        }
        let _ = rt.remove_file(&files::name(&path(), 300, "snapshot"));
        spoil(&rt, 0, 50 * batches[0].len() + 8).await;
        let mut follow = Follow::default();
        let opening = Opening { recovery_point: 250, ..UNCLEAN };
        let log = Log::open(&rt, &Cache::new(rt.memory()), &path(), CONFIG, opening, &mut follow).await.unwrap();
        assert_eq!((log.end_offset(), follow.snapshot, follow.batches), (50, Some(40), 10));
        assert_eq!(files::snapshots(&rt, &path()), [40]);
    });
}

/// How far a compacted segment reaches is told by a base offset, which no checksum covers: what it seems to replace is not removed.
#[test]
fn an_interrupted_compaction_removes_nothing_that_it_may_not_have_replaced() {
    for (to, opens) in [(1, true), (20, true), (1 << 20, false)] {
        let sim = Sim::new(8, 1);
        let batches = filled(&sim, SMALL, 300);
        let rt = sim.rt(0);
        sim.run_until(async {
            let sealed = bases(&rt);
            let (base, next) = (sealed[1], sealed[2]);
            let mut swap = rt.read_file(&segment(base)).unwrap();
            let last = swap.len() - batches[0].len();
            swap[last..last + 8].copy_from_slice(&(next - 1 + to).to_be_bytes());
            rt.replace_file(&files::name(&path(), base, "log.swap"), swap).await.unwrap();
            let before = contents(&rt);
            let opened = reopen(&rt, SMALL, UNCLEAN).await;
            assert_eq!(opened.is_ok(), opens, "{to}");
            let now = contents(&rt);
            for base in sealed {
                let name = format!("{base:020}.log");
                let kept = |end: &str| now.get(&format!("{name}{end}")) == before.get(&name);
                assert!(kept("") || kept(".corrupt"), "{to}: {name}");
            }
        });
    }
}

#[test]
fn offsets_out_of_order_are_an_error() {
    let mut state = State::<()>::new(vec![Segment::new(0, 4096)], 0, 10, Box::default());
    assert!(state.flushed_to(10).is_ok());
    assert!(matches!(state.flushed_to(11), Err(LogError::Disorder(_))));
    let mut state = State::<()>::new(vec![Segment::new(0, 4096)], 0, 10, Box::default());
    state.end = 9;
    assert!(matches!(state.flushed_to(3), Err(LogError::Disorder(_))));
}

#[test]
fn the_last_offset_is_never_passed() {
    let sim = Sim::new(7, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        let bytes = build_batch(&BatchSpec::default(), &[(None, Some(b"x"), i64::MAX)]);
        assert!(matches!(log.append(&bytes, Offset::MAX, 1, None), Err(LogError::BadBatch(_))));
        let mut many = bytes.clone();
        many[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(matches!(log.append(&many, Offset::MAX - 5, 1, None), Err(LogError::BadBatch(_))));
        for (offset, ms) in [(0, i64::MIN), (Offset::MAX - 2, i64::MAX)] {
            let bytes = build_batch(&BatchSpec::default(), &[(None, Some(b"x"), ms)]);
            log.append(&bytes, offset, i32::MAX, None).unwrap();
            log.flush().await.unwrap();
        }
        assert_eq!(log.end_offset(), Offset::MAX - 1);
        let whole = read_all(&log).await;
        drop(log);
        for clean in [false, true] {
            let log = reopen(&rt, CONFIG, Opening { clean, recovery_point: Offset::MAX - 1, ..UNCLEAN }).await.unwrap();
            assert_eq!(log.end_offset(), Offset::MAX - 1);
            assert!(read_all(&log).await == whole);
            log.offset_for_timestamp(i64::MAX, Offset::MAX).await.unwrap();
            log.expired_before(Retention { ms: Some(0), bytes: Some(0) }, i64::MAX).await.unwrap();
            log.close(Vec::new()).await.unwrap();
        }
    });
}

#[test]
fn a_snapshot_that_cannot_be_read_is_done_without() {
    let sim = Sim::new(6, 1);
    filled(&sim, CONFIG, 30);
    let rt = sim.rt(0);
    sim.run_until(async {
        rt.replace_file(&files::name(&path(), 20, "snapshot"), b"20".to_vec()).await.unwrap();
        let _ = rt.remove_file(&files::name(&path(), 30, "snapshot"));
        sim.inject(FaultOp::Read, ".snapshot", 0, Fault::Errno(libc::EIO));
        let mut follow = Follow::default();
        let log = Log::open(&rt, &Cache::new(rt.memory()), &path(), CONFIG, UNCLEAN, &mut follow).await.unwrap();
        assert_eq!((log.end_offset(), follow.snapshot, follow.batches), (30, None, 30));
    });
}

/// The base offset of the last batch is not in its checksum, and no next batch contradicts it.
#[test]
fn a_closed_log_does_not_end_behind_the_place_where_it_was_closed() {
    let sim = Sim::new(3, 1);
    let batches = filled(&sim, CONFIG, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        reopen(&rt, CONFIG, UNCLEAN).await.unwrap().close(Vec::new()).await.unwrap();
        flip(&rt, 0, 299 * batches[0].len() + 5, &[0x10]).await;
        let closed = Opening { clean: true, recovery_point: 300, ..UNCLEAN };
        let log = reopen(&rt, CONFIG, closed).await.unwrap();
        assert_eq!((log.end_offset(), log.opened_unclean()), (299, true));
        assert!(read_all(&log).await == batches[..299].concat());
    });
}

#[test]
fn a_log_that_is_flushed_one_by_one_is_refused_where_it_is_damaged_and_cut_where_it_is_torn() {
    let config = LogConfig { flushed_one_by_one: true, ..CONFIG };
    let sim = Sim::new(4, 1);
    let batches = filled(&sim, config, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        let len = batches[0].len();
        for (batch, recovery_point) in [(100, 0), (100, 200), (299, 300)] {
            let position = batch * len + 70;
            let before = rt.read_file(&segment(0)).unwrap();
            flip(&rt, 0, position, &[!before[position]]).await;
            let damaged = rt.read_file(&segment(0)).unwrap();
            let refused = reopen(&rt, config, Opening { recovery_point, ..UNCLEAN }).await;
            assert!(matches!(refused, Err(LogError::Corrupt { .. })), "batch {batch}");
            assert!(rt.read_file(&segment(0)).unwrap() == damaged, "batch {batch}: nothing is changed");
            flip(&rt, 0, position, &[before[position]]).await;
        }
        // Of the last batch nobody may have heard.
        flip(&rt, 0, 299 * len + 70, &[!batches[299][70]]).await;
        let log = reopen(&rt, config, Opening { recovery_point: 299, ..UNCLEAN }).await.unwrap();
        assert_eq!(log.end_offset(), 299);
    });
}
