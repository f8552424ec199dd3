//! Tests of the log over the simulated machine: damage of each kind, bounds, and what an end leaves.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::cache::Cache;
use super::{Located, Log, LogConfig, LogError, NoReplay, Opening, Read, dir, files};
use crate::base::ids::{Offset, Uuid};
use crate::base::limits::BLOCK;
use crate::base::prng::Prng;
use crate::rt::{Open, Rt};
use crate::sim::{Fault, FaultOp, Sim, SimRt};
use crate::wire::batch::{self, BatchHeader, BatchSpec, Stamp, build_batch};

pub(super) const CONFIG: LogConfig = LogConfig { segment_bytes: 256 << 10, ..LogConfig::DEFAULT };
pub(super) const ID: Uuid = Uuid([7; 16]);

/// A batch of `records` records whose payload is random.
pub(super) fn batch_of(random: &mut Prng, records: i32, payload: usize, timestamp: i64) -> Vec<u8> {
    let mut batch = vec![0; 61 + payload];
    random.fill(&mut batch[61..]);
    batch[8..12].copy_from_slice(&(49 + payload as i32).to_be_bytes());
    batch[16] = 2;
    batch[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    batch[27..35].copy_from_slice(&timestamp.to_be_bytes());
    batch[35..43].copy_from_slice(&timestamp.to_be_bytes());
    batch[43..51].fill(0xff);
    batch[57..61].copy_from_slice(&records.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

pub(super) fn path() -> PathBuf {
    PathBuf::from("/data/t-0")
}

/// A new log in a data directory that survives a crash.
pub(super) async fn create(rt: &SimRt, config: LogConfig) -> Log<SimRt> {
    rt.create_dir(Path::new("/data")).unwrap();
    rt.sync_dir(Path::new("/")).await.unwrap();
    Log::create(rt, &Cache::new(rt.memory()), &path(), ID, config).await.unwrap()
}

pub(super) fn segment(base: Offset) -> PathBuf {
    files::name(&path(), base, "log")
}

/// A closed log of `count` batches of one record and about 200 bytes, with timestamps from 1000 on.
pub(super) fn filled(sim: &Sim, config: LogConfig, count: i32) -> Vec<Vec<u8>> {
    let rt = sim.rt(0);
    let mut random = Prng::new(5);
    let (mut batches, mut value) = (Vec::new(), [0; 140]);
    sim.run_until(async {
        let log = create(&rt, config).await;
        for i in 0..count {
            random.fill(&mut value);
            let mut bytes = build_batch(&BatchSpec::default(), &[(None, Some(&value), 1000 + i as i64)]);
            log.append(&bytes, i as Offset, 1, None).unwrap();
            batch::patch(&mut bytes, i as Offset, 1);
            batches.push(bytes);
        }
        log.close(Vec::new()).await.unwrap();
    });
    batches
}

pub(super) async fn reopen(rt: &SimRt, config: LogConfig, opening: Opening) -> Result<Log<SimRt>, LogError> {
    Log::open(rt, &Cache::new(rt.memory()), &path(), config, opening, &mut NoReplay).await
}

pub(super) async fn read_all(log: &Log<SimRt>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = log.start_offset();
    while at < log.end_offset() {
        let pieces = match log.read(at, 1 << 20, log.end_offset(), true) {
            Read::Hit(pieces) => pieces,
            Read::Miss(plan) => log.read_cold(plan).await.unwrap(),
        };
        for mut piece in pieces {
            bytes.extend(&piece);
            while !piece.is_empty() {
                let header = BatchHeader::parse(&piece).unwrap();
                at = header.next_offset();
                let _ = piece.split_to(header.total_len());
            }
        }
    }
    bytes
}

/// Overwrites a segment's file.
pub(super) async fn store(rt: &SimRt, base: Offset, bytes: &[u8]) {
    let file = rt.open(&segment(base), Open::Write).await.unwrap();
    let len = bytes.len().next_multiple_of(BLOCK);
    let mut chunk = rt.memory().chunk(len.max(1)).await;
    chunk.spare()[..len].fill(0);
    chunk.spare()[..bytes.len()].copy_from_slice(bytes);
    rt.truncate(&file, 0).await.unwrap();
    rt.write_at(&file, 0, chunk.window(0..len), true).await.unwrap();
    rt.truncate(&file, bytes.len() as u64).await.unwrap();
}

/// What is left of a log whose file holds `bytes`.
async fn recovered(rt: &SimRt, bytes: &[u8]) -> (Offset, Vec<u8>) {
    store(rt, 0, bytes).await;
    let log = reopen(rt, CONFIG, Opening::default()).await.unwrap();
    (log.end_offset(), read_all(&log).await)
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let sim = Sim::new(1, 1);
    let batches = filled(&sim, CONFIG, 3);
    let rt = sim.rt(0);
    let whole = batches.concat();
    let two = batches[..2].concat();
    sim.run_until(async {
        for cut in two.len()..whole.len() {
            assert_eq!(recovered(&rt, &whole[..cut]).await, (2, two.clone()), "cut at {cut}");
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            // A record ends in its header count, which is 0: the last cut changes nothing.
            let expected = if zeroed == whole { (3, whole.clone()) } else { (2, two.clone()) };
            assert_eq!(recovered(&rt, &zeroed).await, expected, "zeros from {cut}");
        }
    });
}

#[test]
fn garbage_and_stale_batches_are_cut() {
    let sim = Sim::new(2, 1);
    let batches = filled(&sim, CONFIG, 4);
    let rt = sim.rt(0);
    let (two, mut random) = (batches[..2].concat(), Prng::new(9));
    sim.run_until(async {
        let mut garbage = vec![0; 9000];
        random.fill(&mut garbage);
        let mut flipped = batches[2].clone();
        flipped[100] ^= 4;
        let mut huge = batches[2].clone();
        huge[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        let mut earlier_leader = batches[2].clone();
        batch::patch(&mut earlier_leader, 2, 0);
        let tails = [garbage, flipped, huge, earlier_leader, batches[1].clone(), batches[3].clone(), vec![0; 70_000]];
        for (i, tail) in tails.iter().enumerate() {
            let bytes = [&two[..], tail, &batches[3]].concat();
            assert_eq!(recovered(&rt, &bytes).await, (2, two.clone()), "tail {i}");
        }
        assert_eq!(recovered(&rt, &[]).await, (0, Vec::new()));
        assert_eq!(recovered(&rt, &batches.concat()).await, (4, batches.concat()));
    });
}

#[test]
fn bytes_behind_a_cut_never_come_back() {
    let sim = Sim::new(3, 1);
    let batches = filled(&sim, CONFIG, 3);
    let rt = sim.rt(0);
    sim.run_until(async {
        let mut bytes = batches.concat();
        bytes[batches[0].len() + 100] ^= 1;
        store(&rt, 0, &bytes).await;
        let log = reopen(&rt, CONFIG, Opening::default()).await.unwrap();
        assert_eq!(log.end_offset(), 1);
        // As long as the damaged batch, and in its place: the third one would follow it exactly.
        log.append(&batches[1], 1, 1, None).unwrap();
        log.flush().await.unwrap();
    });
    sim.crash();
    let rt = sim.rt(0);
    let log = sim.run_until(reopen(&rt, CONFIG, Opening::default())).unwrap();
    assert_eq!(log.end_offset(), 2);
}

#[test]
fn indexes_are_no_evidence() {
    let sim = Sim::new(4, 1);
    let config = LogConfig { segment_bytes: 20_000, ..CONFIG };
    let whole = filled(&sim, config, 500).concat();
    let rt = sim.rt(0);
    sim.run_until(async {
        let bases: Vec<Offset> = rt.list(&path()).unwrap().iter().filter_map(|e| files::base_of(&e.name, "log")).collect();
        assert!(bases.len() > 3);
        let damages: [&dyn Fn(Vec<u8>) -> Vec<u8>; 4] =
            [&|_| Vec::new(), &|b| vec![0; b.len()], &|b| b.into_iter().skip(1).collect(), &|b| [&b[..], &b].concat()];
        for damage in damages {
            for base in &bases {
                for kind in ["index", "timeindex"] {
                    let name = files::name(&path(), *base, kind);
                    let damaged = damage(rt.read_file(&name).unwrap_or_default());
                    rt.replace_file(&name, damaged).await.unwrap();
                }
            }
            for clean in [true, false] {
                let log = reopen(&rt, config, Opening { recovery_point: 500, clean, ..Opening::default() }).await.unwrap();
                assert_eq!(log.end_offset(), 500);
                assert!(read_all(&log).await == whole);
                assert_eq!(log.offset_for_timestamp(1321, 500).await.unwrap().unwrap().offset, 321);
            }
        }
    });
}

#[test]
fn a_failed_write_or_flush_fences_for_good() {
    for (op, seed) in [(FaultOp::Write, 1), (FaultOp::Sync, 2), (FaultOp::Allocate, 3)] {
        let sim = Sim::new(seed, 1);
        let rt = sim.rt(0);
        let mut random = Prng::new(1);
        let acked = sim.run_until(async {
            let log = create(&rt, CONFIG).await;
            sim.inject(op, ".log", 5, Fault::Errno(libc::EIO));
            let calls = Rc::new(Cell::new(0));
            let seen = calls.clone();
            log.set_on_progress(Some(Rc::new(move || seen.set(seen.get() + 1))));
            let mut acked = 0;
            while log.fenced().is_none() {
                let base = log.end_offset();
                let bytes = batch_of(&mut random, 1, 50_000, 0);
                if log.append(&bytes, base, 0, None).is_ok() && log.flush().await.is_ok() {
                    acked = base + 1;
                    assert_eq!(log.flushed_offset(), acked);
                }
            }
            assert!(calls.get() > 0);
            let bytes = batch_of(&mut random, 1, 10, 0);
            assert!(matches!(log.append(&bytes, log.end_offset(), 0, None), Err(LogError::Fenced(_))));
            assert!(log.flush().await.is_err() && log.close(Vec::new()).await.is_err());
            assert_eq!(log.flushed_offset(), acked);
            assert!(matches!(log.read(0, 10, 1, true), Read::Hit(pieces) if pieces.len() == 1));
            acked
        });
        sim.crash();
        let rt = sim.rt(0);
        let log = sim.run_until(reopen(&rt, CONFIG, Opening::default())).unwrap();
        assert!(log.end_offset() >= acked);
    }
}

#[test]
fn a_log_crashed_while_created_is_there_or_not() {
    for seed in 0..40 {
        let sim = Sim::new(seed, 1);
        let rt = sim.rt(0);
        let at = Duration::from_micros(sim.below(1500));
        let making = rt.clone();
        sim.spawn(0, async move {
            let log = create(&making, CONFIG).await;
            log.append(&batch_of(&mut Prng::new(1), 1, 100, 0), 0, 0, None).unwrap();
        });
        sim.run_until(sim.sleep(at));
        sim.crash();
        let rt = sim.rt(0);
        if rt.list(&path()).is_ok() {
            let log = sim.run_until(reopen(&rt, CONFIG, Opening::default())).unwrap();
            assert!(log.end_offset() <= 1 && (log.topic_id() == ID || log.topic_id().is_zero()));
        }
    }
}

/// Found by scripts/crash-identity: without its topic id a directory passes for that of the next topic of its name.
#[test]
fn a_crash_beside_the_removal_of_a_directory_leaves_none_without_its_id() {
    for seed in 0..100 {
        let sim = Sim::new(seed, 1);
        filled(&sim, CONFIG, 3);
        let rt = sim.rt(0);
        sim.run_until(dir::remove(&rt, &path())).unwrap();
        sim.crash();
        let left = dir::list(&sim.rt(0), path().parent().unwrap()).unwrap().partitions;
        assert!(left.iter().all(|found| found.topic_id == ID), "seed {seed}: {left:?}");
    }
}

/// Found by scripts/crash: retention stores the leader epochs after a start while the first batch has them stored, too.
#[test]
fn leader_epochs_stored_from_two_sides_do_not_fence() {
    for seed in 0..50 {
        let sim = Sim::new(seed, 1);
        let batches = filled(&sim, CONFIG, 3);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = reopen(&rt, CONFIG, Opening { clean: true, ..Opening::default() }).await.unwrap();
            log.set_epochs_later("both epochs".into());
            log.append(&batches[0], 3, 2, None).unwrap();
            rt.sleep(Duration::from_micros(seed * 10)).await;
            log.set_epochs("the new one".into()).await.unwrap();
            log.close(Vec::new()).await.unwrap();
            assert_eq!(rt.read_file(&path().join("leader-epoch-checkpoint")).unwrap(), b"the new one", "seed {seed}");
        });
    }
}

#[test]
fn reads_are_bounded_as_asked() {
    let sim = Sim::new(6, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        let mut random = Prng::new(1);
        for i in 0..10 {
            log.append(&batch_of(&mut random, 10, 100, 0), i * 10, 0, None).unwrap();
        }
        let read = |offset, max, upto, one| match log.read(offset, max, upto, one) {
            Read::Hit(pieces) => {
                assert!(pieces.len() <= 1, "batches of one chunk are one slice");
                pieces.iter().map(Bytes::len).sum::<usize>() / 161
            }
            Read::Miss(_) => panic!("not in memory"),
        };
        assert_eq!(read(0, 1 << 20, 100, true), 10);
        assert_eq!(read(55, 1 << 20, 100, true), 5);
        assert_eq!(read(55, 1 << 20, 80, true), 3);
        assert_eq!(read(55, 1 << 20, 79, true), 2);
        assert_eq!(read(0, 161 * 3 - 1, 100, true), 2);
        assert_eq!(read(0, 161 * 3, 100, false), 3);
        assert_eq!(read(0, 1, 100, true), 1);
        assert_eq!(read(0, 1, 100, false), 0);
        assert_eq!(read(100, 1, 100, true), 0);
        assert_eq!(read(95, 1, 95, true), 0);
    });
}

#[test]
fn a_batch_above_the_largest_chunk_goes_through() {
    let sim = Sim::new(7, 1);
    let config = LogConfig { segment_bytes: 64 << 20, ..CONFIG };
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, config).await;
        let mut random = Prng::new(1);
        let mut whole = Vec::new();
        for (i, payload) in [100, 9 << 20, 5000, 3 << 20].into_iter().enumerate() {
            let mut bytes = batch_of(&mut random, 1, payload, 0);
            log.append(&bytes, i as Offset, 0, None).unwrap();
            batch::patch(&mut bytes, i as Offset, 0);
            whole.extend(bytes);
        }
        log.flush().await.unwrap();
        assert!(matches!(log.append(&vec![0; 65 << 20], 4, 0, None), Err(LogError::BadBatch(_))));
        drop(log);
        for clean in [false, true] {
            let log = reopen(&rt, config, Opening { clean, ..Opening::default() }).await.unwrap();
            assert!(read_all(&log).await == whole);
            log.close(Vec::new()).await.unwrap();
        }
    });
}

#[test]
fn records_are_found_by_time() {
    let sim = Sim::new(10, 1);
    let config = LogConfig { segment_bytes: 20_000, ..CONFIG };
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, config).await;
        assert_eq!(log.max_timestamp_offset(0).await.unwrap(), None);
        let mut end = 0;
        // Batches of three records; every tenth one is late by 500 ms.
        for i in 0..400i64 {
            let ts = 10_000 + i * 10 - if i % 10 == 9 { 500 } else { 0 };
            let records: Vec<_> = (0..3).map(|r| (None, Some(&[1u8; 40][..]), ts + r)).collect();
            log.append(&build_batch(&BatchSpec::default(), &records), end, 0, None).unwrap();
            end += 3;
        }
        log.close(Vec::new()).await.unwrap();
        for clean in [true, false] {
            let log = reopen(&rt, config, Opening { clean, ..Opening::default() }).await.unwrap();
            let find = async |ts| log.offset_for_timestamp(ts, end).await.unwrap().map(Located::place);
            assert_eq!(find(0).await, Some((0, 10_000)));
            assert_eq!(find(10_001).await, Some((1, 10_001)));
            assert_eq!(find(10_003).await, Some((3, 10_010)));
            assert_eq!(find(12_005).await, Some((603, 12_010)));
            assert_eq!(find(13_982).await, Some((1196, 13_982)));
            assert_eq!(find(13_983).await, None);
            assert_eq!(log.offset_for_timestamp(12_005, 603).await.unwrap(), None);
            assert_eq!(log.max_timestamp_offset(end).await.unwrap().map(Located::place), Some((1196, 13_982)));
        }
        let log = reopen(&rt, config, Opening { clean: true, ..Opening::default() }).await.unwrap();
        let stamped = build_batch(&BatchSpec::default(), &[(None, Some(b"x"), 5)]);
        log.append(&stamped, end, 0, Some(Stamp::LogAppendTime(99_000))).unwrap();
        assert_eq!(log.offset_for_timestamp(50_000, end + 1).await.unwrap().map(Located::place), Some((end, 99_000)));
        let Read::Hit(pieces) = log.read(end, 1, end + 1, true) else { panic!("not in memory") };
        assert!(batch::crc_ok(&pieces[0]));
    });
}

/// A log that is used now and then and rests in between, while there is memory enough for everybody.
#[test]
fn resting_again_and_again_costs_the_cache_nothing() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, LogConfig { segment_bytes: 4 << 20, ..LogConfig::DEFAULT }).await;
        for i in 0..100 {
            let bytes = build_batch(&BatchSpec::default(), &[(None, Some(&[7; 100]), 1000)]);
            log.append(&bytes, i, 1, None).unwrap();
            log.flush().await.unwrap();
            log.trim_idle();
            log.0.wait_until(|state| !state.running).await.unwrap();
            assert!(log.0.state.borrow().at_rest() && log.0.cache.len() <= 1, "{} entries", log.0.cache.len());
        }
        assert_eq!(log.end_offset(), 100);
    });
}

#[test]
fn deleting_leaves_nothing() {
    let sim = Sim::new(8, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        for i in 0..50 {
            log.append(&batch_of(&mut Prng::new(i as u64), 1, 20_000, 0), i, 0, None).unwrap();
        }
        log.delete().await.unwrap();
        assert!(matches!(log.append(&batch_of(&mut Prng::new(1), 1, 1, 0), 50, 0, None), Err(LogError::Closed)));
        assert!(dir::list(&rt, Path::new("/data")).unwrap().partitions.is_empty());
        assert!(rt.list(Path::new("/data")).unwrap().is_empty());
    });
}

#[test]
fn a_directory_that_has_become_another_topics_is_not_deleted() {
    let sim = Sim::new(10, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        rt.rename(&path(), Path::new("/data/aside")).unwrap();
        files::create(&rt, &path(), Uuid([8; 16])).await.unwrap();
        assert!(log.delete().await.is_err());
        assert_eq!(files::topic_id(&rt, &path()).unwrap(), Uuid([8; 16]));
    });
}

#[test]
fn a_data_directory_knows_whose_it_is_and_how_it_was_left() {
    let sim = Sim::new(9, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let data = Path::new("/data");
        rt.create_dir(data).unwrap();
        let dirs = [data.to_owned()];
        let identify = |cluster: Option<&str>, node| dir::identify(&rt, &dirs, cluster.map(str::to_owned), node);
        let meta = identify(None, 1).await.unwrap();
        assert_eq!(identify(Some(&meta[0].cluster_id), 1).await.unwrap(), meta);
        assert!(identify(Some("other"), 1).await.unwrap_err().to_string().contains("belongs to cluster"));
        assert!(identify(None, 2).await.unwrap_err().to_string().contains("node.id 1"));
        assert!(!dir::take_clean(&rt, data).await.unwrap());
        dir::mark_clean(&rt, data, &dir::CleanMark::new(3, None)).await.unwrap();
        assert!(dir::take_clean(&rt, data).await.unwrap());
        assert!(!dir::take_clean(&rt, data).await.unwrap());
    });
}
