//! Tests of segments that were damaged after they were written, and of strange files beside them.

use super::tests::{CONFIG, batch_of, filled, path, read_all, reopen, segment, store};
use super::{Log, LogConfig, LogError, Opening, Read, files};
use crate::base::ids::Offset;
use crate::base::prng::Prng;
use crate::rt::Rt;
use crate::sim::{Fault, FaultOp, Sim, SimRt};

pub(super) const SMALL: LogConfig = LogConfig { segment_bytes: 20_000, ..CONFIG };
const CLOSED: Opening = Opening { clean: true, recovery_point: 500, log_start: 0, cleaned: 0 };

/// Changes one bit of a segment's file, or puts other bytes in the place of some.
pub(super) async fn flip(rt: &SimRt, base: Offset, position: usize, replace: &[u8]) {
    let mut bytes = rt.read_file(&segment(base)).unwrap();
    match replace {
        [] => bytes[position] ^= 0x10,
        other => bytes[position..position + other.len()].copy_from_slice(other),
    }
    store(rt, base, &bytes).await;
}

async fn read(log: &Log<SimRt>, offset: Offset) -> Result<Vec<u8>, LogError> {
    match log.read(offset, 1 << 20, log.end_offset(), true) {
        Read::Hit(pieces) => Ok(pieces.concat()),
        Read::Miss(plan) => log.read_cold(plan).await.map(|pieces| pieces.concat()),
    }
}

/// One record in each batch: every offset is served as it was written, or refused.
pub(super) async fn serves_what_was_written(log: &Log<SimRt>, batches: &[Vec<u8>]) -> Vec<Offset> {
    let mut refused = Vec::new();
    for offset in 0..batches.len() {
        match read(log, offset as Offset).await {
            Ok(bytes) => assert!(!bytes.is_empty() && batches[offset..].concat().starts_with(&bytes), "offset {offset}"),
            Err(LogError::Corrupt { .. }) => refused.push(offset as Offset),
            Err(e) => panic!("offset {offset}: {e}"),
        }
    }
    refused
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_never_served() {
    let mut random = Prng::new(1);
    for seed in 0..60 {
        let sim = Sim::new(seed, 1);
        let batches = filled(&sim, SMALL, 300);
        let rt = sim.rt(0);
        sim.run_until(async {
            // Base offset and leader epoch are covered by no checksum.
            let len = batches[0].len();
            let within = (0..len).filter(|at| (8..12).contains(at) || *at >= 16).nth(random.below(len as u64 - 12) as usize).unwrap();
            let segment_batches = rt.read_file(&segment(0)).unwrap().len() / len;
            flip(&rt, 0, random.below(segment_batches as u64) as usize * len + within, &[]).await;
            let log = reopen(&rt, SMALL, Opening { recovery_point: 300, ..CLOSED }).await.unwrap();
            let refused = serves_what_was_written(&log, &batches).await;
            assert!(!refused.is_empty());
            assert!(refused.len() <= 100, "one segment at most: {refused:?}");
            assert!(log.fenced().is_none());
        });
    }
}

#[test]
fn a_batch_in_the_wrong_place_is_not_served() {
    let sim = Sim::new(2, 1);
    let batches = filled(&sim, SMALL, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        // A valid batch of the same log, of an offset that has been before: over the eleventh one.
        let position = batches[..10].iter().map(Vec::len).sum();
        flip(&rt, 0, position, &batches[3]).await;
        let log = reopen(&rt, SMALL, Opening { recovery_point: 300, ..CLOSED }).await.unwrap();
        let refused = serves_what_was_written(&log, &batches).await;
        assert!(refused.contains(&10), "{refused:?}");
        // An unclean start does not look at what was flushed long ago.
        let log = reopen(&rt, SMALL, Opening { clean: false, recovery_point: 300, log_start: 0, cleaned: 0 }).await.unwrap();
        assert_eq!(log.end_offset(), 300);
    });
}

#[test]
fn a_segment_that_cannot_be_read_costs_only_its_own_reads() {
    let sim = Sim::new(3, 1);
    let batches = filled(&sim, SMALL, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = reopen(&rt, SMALL, Opening { recovery_point: 300, ..CLOSED }).await.unwrap();
        sim.inject(FaultOp::Read, "000.log", 0, Fault::Errno(libc::EIO));
        assert!(matches!(read(&log, 5).await, Err(LogError::Io { .. })));
        assert!(log.fenced().is_none());
        assert!(read_all(&log).await == batches.concat());
        log.0.cache.reclaim(1 << 30);
        sim.inject(FaultOp::Read, "000.log", 0, Fault::Short);
        assert!(read(&log, 5).await.is_err());
        log.append(&batch_of(&mut Prng::new(1), 1, 10, 0), 300, 1, None).unwrap();
        log.flush().await.unwrap();
        assert!(read(&log, 5).await.is_ok());
    });
}

#[test]
fn strange_files_are_left_alone() {
    let sim = Sim::new(4, 1);
    let batches = filled(&sim, SMALL, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        let strange = ["notes.txt", "1.log", "00000000000000000000.log.bak", "99999999999999999999.log", ".lock"];
        for name in strange {
            rt.replace_file(&path().join(name), b"something else".to_vec()).await.unwrap();
        }
        let first = rt.read_file(&files::name(&path(), 0, "index")).unwrap();
        let bases: Vec<Offset> = rt.list(&path()).unwrap().iter().filter_map(|e| files::base_of(&e.name, "log")).collect();
        for kind in ["index", "timeindex"] {
            // Of another segment.
            let other = rt.read_file(&files::name(&path(), bases[2], kind)).unwrap();
            rt.replace_file(&files::name(&path(), bases[1], kind), other).await.unwrap();
        }
        assert!(!first.is_empty());
        for clean in [true, false] {
            let log = reopen(&rt, SMALL, Opening { clean, recovery_point: 300, log_start: 0, cleaned: 0 }).await.unwrap();
            assert!(read_all(&log).await == batches.concat());
            assert!(strange.iter().all(|name| rt.read_file(&path().join(name)).is_ok()));
        }
    });
}

#[test]
fn a_directory_that_cannot_be_written_to_is_served_until_somebody_appends() {
    let sim = Sim::new(5, 1);
    let batches = filled(&sim, SMALL, 300);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = reopen(&rt, SMALL, Opening { recovery_point: 300, ..CLOSED }).await.unwrap();
        sim.inject(FaultOp::Open, ".log", 0, Fault::Errno(libc::EROFS));
        log.append(&batch_of(&mut Prng::new(1), 1, 10, 0), 300, 1, None).unwrap();
        assert!(matches!(log.flush().await, Err(LogError::Fenced(_))));
        assert!(read_all(&log).await.starts_with(&batches.concat()));
    });
}
