//! Tests of the bounds on complete segments that are open: descriptors, and indexes in memory.

use super::cache::{Cache, INDEX_SHARE, OPEN_MAX};
use super::index::Index;
use super::tests::{CONFIG, create, path, reopen};
use super::{Located, Log, LogConfig, Opening, Read, Retention};
use crate::base::ids::Offset;
use crate::rt::mem::Memory;
use crate::rt::{Class, Rt};
use crate::sim::{Fault, FaultOp, Sim, SimRt};
use crate::wire::batch::{BatchSpec, build_batch};

/// About ten batches in a segment, half of them with an index entry.
const SMALL: LogConfig = LogConfig { segment_bytes: 4000, index_interval_bytes: 500, ..CONFIG };
const CLEAN: Opening = Opening { clean: true, recovery_point: Offset::MAX, log_start: 0, cleaned: 0 };
const COUNT: i64 = 3000;

/// Appends batches of one record each, their time that of their offset, and waits until they are written.
async fn append(log: &Log<SimRt>, upto: Offset) {
    for offset in log.end_offset()..upto {
        log.append(&build_batch(&BatchSpec::default(), &[(None, Some(&[7; 300]), offset)]), offset, 1, None).unwrap();
    }
    log.flush().await.unwrap();
}

/// Complete segments whose files are open, those whose indexes are in memory, and the bytes of these.
fn open(log: &Log<SimRt>) -> (usize, usize, usize) {
    let state = log.0.state.borrow();
    let complete = state.segments.iter().filter(|segment| segment.base < state.writing);
    let (files, indexes): (Vec<_>, Vec<_>) = complete.map(|s| (s.file.is_some(), s.index.as_ref())).unzip();
    let bytes = indexes.iter().flatten().map(|index| index.bytes()).sum();
    (files.iter().filter(|open| **open).count(), indexes.iter().flatten().count(), bytes)
}

fn bases(log: &Log<SimRt>) -> Vec<Offset> {
    log.0.state.borrow().segments.iter().map(|segment| segment.base).collect()
}

async fn read(log: &Log<SimRt>, at: Offset) {
    let pieces = match log.read(at, 100, log.end_offset(), true) {
        Read::Hit(pieces) => pieces,
        Read::Miss(plan) => log.read_cold(plan).await.unwrap(),
    };
    assert_eq!(pieces[0][..8], at.to_be_bytes());
}

#[test]
fn a_busy_log_keeps_few_of_its_segments_open() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, SMALL).await;
        append(&log, COUNT).await;
        // The indexes of the last segments are being stored.
        sim.sleep(std::time::Duration::from_secs(1)).await;
        let all = bases(&log);
        assert!(all.len() > 2 * OPEN_MAX, "{} segments", all.len());
        append(&log, COUNT + 20).await;
        let (files, indexes, bytes) = open(&log);
        assert!(files <= OPEN_MAX && indexes <= OPEN_MAX && bytes > 0, "written: {:?}", (files, indexes));
        for (n, base) in all.iter().enumerate() {
            assert_eq!(log.offset_for_timestamp(*base, COUNT).await.unwrap().map(Located::place), Some((*base, *base)));
            log.0.cache.reclaim(usize::MAX);
            read(&log, *base + 1).await;
            let (files, indexes, bytes) = open(&log);
            assert!(files <= OPEN_MAX && indexes <= OPEN_MAX, "{n} looked up: {:?}", (files, indexes));
            assert_eq!(log.0.cache.open_segments(), indexes.max(files));
            assert!(rt.memory().used() >= bytes);
        }
        // Memory that is charged comes back.
        log.close(Vec::new()).await.unwrap();
        drop(log);
        assert_eq!(rt.memory().used(), 0);
    });
}

#[test]
fn indexes_take_a_share_of_the_memory() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        append(&create(&rt, SMALL).await, 500).await;
        let memory = Memory::new(INDEX_SHARE * 400);
        let log = Log::open(&rt, &Cache::new(&memory), &path(), SMALL, Opening::default(), &mut super::NoReplay).await.unwrap();
        for base in bases(&log) {
            assert_eq!(log.offset_for_timestamp(base, 500).await.unwrap().map(Located::place), Some((base, base)));
            let (_, indexes, bytes) = open(&log);
            assert!(bytes <= 400 || indexes == 1, "{indexes} indexes of {bytes} bytes");
            assert_eq!(memory.used(), bytes);
        }
        let size = Index::new(0).bytes();
        assert_eq!(size, 0, "what is empty takes nothing");
    });
}

#[test]
fn segments_may_be_closed_at_any_time() {
    for seed in 0..4 {
        let sim = Sim::new(seed, 1);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = create(&rt, SMALL).await;
            append(&log, 400).await;
            log.close(Vec::new()).await.unwrap();
            let log = reopen(&rt, SMALL, CLEAN).await.unwrap();
            let done = std::rc::Rc::new(std::cell::Cell::new(0));
            for reader in 0..6 {
                let (log, done) = (log.clone(), done.clone());
                rt.spawn(Class::Foreground, async move {
                    for step in 0..6 {
                        let at = (reader * 61 + step * 37) % 400;
                        assert_eq!(log.offset_for_timestamp(at, 400).await.unwrap().map(Located::place), Some((at, at)));
                        read(&log, at).await;
                        log.0.cache.reclaim(usize::MAX);
                    }
                    assert_eq!(log.max_timestamp_offset(400).await.unwrap().map(Located::place), Some((399, 399)));
                    let old = Retention { ms: Some(100), bytes: None };
                    assert!(log.expired_before(old, 300).await.unwrap() > 0);
                    done.set(done.get() + 1);
                });
            }
            while done.get() < 6 {
                log.0.cache.close_all();
                rt.yield_now().await;
            }
        });
    }
}

#[test]
fn where_no_descriptor_is_left_segments_give_up_theirs() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        append(&create(&rt, SMALL).await, 200).await;
        let log = reopen(&rt, SMALL, Opening::default()).await.unwrap();
        let all = bases(&log);
        read(&log, all[0]).await;
        assert_eq!(open(&log).0, 1);
        sim.inject(FaultOp::Open, ".log", 0, Fault::Errno(libc::EMFILE));
        read(&log, all[2]).await;
        assert_eq!(open(&log).0, 1, "the former was closed for it");
    });
}
