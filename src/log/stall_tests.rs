//! Tests of a disk that is full, of descriptors that have run out, and of slow disks, over the simulated machine.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::tests::{CONFIG, create, read_all, reopen};
use super::{Located, Log, LogConfig, LogError, Opening};
use crate::base::ids::Offset;
use crate::base::prng::Prng;
use crate::rt::Rt;
use crate::sim::{Fault, FaultOp, Sim, SimRt};
use crate::wire::batch::{self, BatchSpec, build_batch};

fn batch_of(random: &mut Prng, payload: usize, timestamp: i64) -> Vec<u8> {
    let mut value = vec![0; payload];
    random.fill(&mut value);
    build_batch(&BatchSpec::default(), &[(None, Some(&value), timestamp)])
}

/// Appends until the log refuses or `count` is reached; what the log must hold.
async fn fill(log: &Log<SimRt>, held: &RefCell<Vec<Vec<u8>>>, random: &mut Prng, count: usize) {
    for _ in 0..count {
        let payload = 1 + random.below(20_000) as usize;
        let base = log.end_offset();
        held.borrow_mut().truncate(base as usize);
        let mut bytes = batch_of(random, payload, 1000 + base);
        if log.append(&bytes, base, 2, None).is_err() {
            return;
        }
        batch::patch(&mut bytes, base, 2);
        held.borrow_mut().push(bytes);
        if random.below(5) == 0 {
            let _ = log.flush().await;
            held.borrow_mut().truncate(log.end_offset() as usize);
        }
    }
}

/// A log that was given `faults`, then room again, goes on where it was written to; a crash afterwards loses nothing.
fn stalls_and_goes_on(seed: u64, segment_bytes: u32, fault: impl Fn(&Sim)) {
    let sim = Sim::new(seed, 1);
    let config = LogConfig { segment_bytes, ..CONFIG };
    let held = RefCell::new(Vec::new());
    let mut random = Prng::new(seed);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, config).await;
        fill(&log, &held, &mut random, 10).await;
        let _ = log.flush().await;
        for _ in 0..3 {
            fault(&sim);
            for _ in 0..1000 {
                fill(&log, &held, &mut random, 20).await;
                rt.sleep(Duration::from_micros(200)).await;
                if log.0.state.borrow().stalled.is_some() {
                    break;
                }
            }
            assert!(log.0.state.borrow().stalled.is_some(), "seed {seed}: it never ran out");
            held.borrow_mut().truncate(log.end_offset() as usize);
            assert_eq!((log.fenced(), log.end_offset()), (None, log.written_offset()));
            assert!(matches!(log.append(&batch_of(&mut random, 1, 0), log.end_offset(), 2, None), Err(LogError::Exhausted(_))));
            assert!(read_all(&log).await == held.borrow().concat(), "seed {seed}: reads go on");
            sim.set_free_space(None);
            while log.0.state.borrow().stalled.is_some() {
                rt.sleep(Duration::from_millis(100)).await;
            }
            fill(&log, &held, &mut random, 30).await;
            log.flush().await.unwrap();
            held.borrow_mut().truncate(log.end_offset() as usize);
            let end = log.end_offset();
            assert_eq!(end as usize, held.borrow().len());
            let ts = 1000 + random.below(end as u64) as i64;
            assert_eq!(log.max_timestamp_offset(end).await.unwrap().map(|found| found.offset), Some(end - 1));
            assert!(log.offset_for_timestamp(ts, end).await.is_ok());
        }
    });
    sim.crash();
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = reopen(&rt, config, Opening::default()).await.unwrap();
        assert!(read_all(&log).await == held.borrow().concat(), "seed {seed}: after a crash");
    });
}

#[test]
fn a_full_disk_refuses_what_is_not_written_and_goes_on_when_there_is_room() {
    for seed in 0..40 {
        let segment_bytes = [60_000, 400_000, 8 << 20][seed as usize % 3];
        stalls_and_goes_on(seed, segment_bytes, |sim| sim.set_free_space(Some(sim.below(300_000))));
    }
}

#[test]
fn a_write_that_finds_no_room_is_taken_back() {
    for seed in 0..40 {
        // As on file systems that cannot allocate ahead.
        stalls_and_goes_on(seed, 400_000, |sim| sim.inject(FaultOp::Write, ".log", sim.below(4), Fault::Errno(libc::EDQUOT)));
    }
}

#[test]
fn descriptors_that_have_run_out_stall_a_log_until_there_are_some() {
    for seed in 0..20 {
        // After the first one the log closes the files of complete segments, and tries again.
        stalls_and_goes_on(seed, 60_000, |sim| (0..2).for_each(|_| sim.inject(FaultOp::Open, ".log", 0, Fault::Errno(libc::EMFILE))));
    }
}

#[test]
fn derived_files_without_room_are_made_later() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    let config = LogConfig { segment_bytes: 30_000, ..CONFIG };
    sim.run_until(async {
        let log = create(&rt, config).await;
        for kind in [".index", ".timeindex", ".snapshot"] {
            for _ in 0..3 {
                sim.inject(FaultOp::Write, kind, 0, Fault::Errno(libc::ENOSPC));
            }
        }
        let mut random = Prng::new(1);
        for i in 0..300 {
            if log.append(&batch_of(&mut random, 1000, 1000 + i), i, 0, None).unwrap() {
                log.set_snapshot(i, Vec::new());
            }
        }
        log.flush().await.unwrap();
        log.close(Vec::new()).await.unwrap();
        let log = reopen(&rt, config, Opening { clean: true, recovery_point: 300, log_start: 0, cleaned: 0 }).await.unwrap();
        for ts in [1000, 1070, 1299] {
            assert_eq!(log.offset_for_timestamp(ts, 300).await.unwrap().map(Located::place), Some((ts - 1000, ts)));
        }
    });
}

#[test]
fn a_log_without_room_can_be_closed_and_deleted() {
    for delete in [false, true] {
        let sim = Sim::new(2, 1);
        let rt = sim.rt(0);
        let end = Rc::new(RefCell::new(0));
        sim.run_until(async {
            let log = create(&rt, CONFIG).await;
            let mut random = Prng::new(1);
            log.append(&batch_of(&mut random, 1000, 0), 0, 0, None).unwrap();
            log.flush().await.unwrap();
            sim.set_free_space(Some(0));
            let mut offset: Offset = 1;
            while log.append(&batch_of(&mut random, 100_000, 0), offset, 0, None).is_ok() {
                offset = log.end_offset();
                rt.sleep(Duration::from_millis(1)).await;
            }
            rt.sleep(Duration::from_millis(300)).await;
            *end.borrow_mut() = log.end_offset();
            if delete {
                log.delete().await.unwrap();
            } else {
                log.close(Vec::new()).await.unwrap();
            }
        });
        if !delete {
            let rt = sim.rt(0);
            let opening = Opening { clean: true, recovery_point: *end.borrow(), log_start: 0, cleaned: 0 };
            let log = sim.run_until(reopen(&rt, CONFIG, opening)).unwrap();
            assert_eq!(log.end_offset(), *end.borrow());
        }
    }
}

/// What more has come while little was allocated makes the file longer than that: it is cut when the segment is complete.
#[test]
fn a_write_beyond_what_was_allocated_is_allocated_too() {
    let mut segment = super::state::Segment::<()>::new(0, 4096);
    segment.allocated = 16 << 10;
    segment.size = 31_231;
    segment.zero_ahead(12 << 10, 32 << 10);
    assert!(segment.allocated > segment.size, "or nobody would cut it");
}

#[test]
fn room_that_was_made_is_there_when_the_disk_is_full() {
    for seed in 0..20 {
        let sim = Sim::new(seed, 1);
        let mut random = Prng::new(seed);
        let config = LogConfig { segment_bytes: 8 << 20, ..CONFIG };
        let rt = sim.rt(0);
        let written = sim.run_until(async {
            let log = create(&rt, config).await;
            let mut written = Vec::new();
            for round in 0..3 {
                log.make_room(100_000).await.unwrap();
                sim.set_free_space(Some(0));
                // More than is allocated ahead of every write.
                assert!(matches!(log.make_room(2 << 20).await, Err(LogError::Exhausted(_))));
                assert!(log.0.state.borrow().stalled.is_none(), "nothing was appended, nothing waits");
                for _ in 0..9 {
                    let base = log.end_offset();
                    let mut bytes = batch_of(&mut random, 10_000, 1000);
                    log.append(&bytes, base, 2, None).unwrap();
                    log.flush().await.unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}"));
                    batch::patch(&mut bytes, base, 2);
                    written.extend(bytes);
                }
                sim.set_free_space(None);
            }
            log.close(Vec::new()).await.unwrap();
            assert!(matches!(log.make_room(1).await, Err(LogError::Closed)));
            written
        });
        sim.crash();
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = reopen(&rt, config, Opening::default()).await.unwrap();
            assert!(read_all(&log).await == written, "seed {seed}");
        });
    }
}
