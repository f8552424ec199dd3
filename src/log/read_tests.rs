//! Tests of reading a log that is in no memory from its start to its end.

use std::path::Path;
use std::time::Duration;

use super::cache::Cache;
use super::{Log, LogConfig, NoReplay, Opening, Read};
use crate::base::ids::{Offset, Uuid};
use crate::base::limits::BLOCK;
use crate::rt::Rt;
use crate::sim::{Sim, SimRt};
use crate::wire::batch::{BatchHeader, BatchSpec, build_batch};

const CONFIG: LogConfig = LogConfig::DEFAULT;
const PATH: &str = "/data/t-0";

/// A log of `count` batches of one record with `payload` bytes each, opened anew.
async fn cold_log(rt: &SimRt, count: i32, payload: usize) -> Log<SimRt> {
    rt.create_dir(Path::new("/data")).unwrap();
    let log = Log::create(rt, &Cache::new(rt.memory()), Path::new(PATH), Uuid([7; 16]), CONFIG).await.unwrap();
    let value = vec![7; payload];
    for offset in 0..count as Offset {
        log.append(&build_batch(&BatchSpec::default(), &[(None, Some(&value), 1000)]), offset, 1, None).unwrap();
    }
    log.close(Vec::new()).await.unwrap();
    drop(log);
    let opening = Opening { recovery_point: count as Offset, clean: true, ..Opening::default() };
    Log::open(rt, &Cache::new(rt.memory()), Path::new(PATH), CONFIG, opening, &mut NoReplay).await.unwrap()
}

/// Reads on from `at`, a MiB at most: where it ends, and whether the device had to be asked.
async fn read(log: &Log<SimRt>, at: Offset) -> (Offset, bool) {
    let (pieces, missed) = match log.read(at, 1 << 20, log.end_offset(), true) {
        Read::Hit(pieces) => (pieces, false),
        Read::Miss(plan) => (log.read_cold(plan).await.unwrap(), true),
    };
    let mut next = at;
    for mut piece in pieces {
        while !piece.is_empty() {
            let header = BatchHeader::parse(&piece).unwrap();
            assert_eq!(header.base_offset, next);
            next = header.next_offset();
            let _ = piece.split_to(header.total_len());
        }
    }
    (next, missed)
}

/// Reads everything with pauses in between, as a consumer does; how often the device had to be asked.
async fn read_slowly(sim: &Sim, log: &Log<SimRt>) -> usize {
    let (mut at, mut misses) = (0, 0);
    while at < log.end_offset() {
        let (next, missed) = read(log, at).await;
        assert!(next > at);
        (at, misses) = (next, misses + missed as usize);
        sim.sleep(Duration::from_secs(1)).await;
    }
    misses
}

#[test]
fn a_sequential_reader_waits_for_the_first_two_reads_alone() {
    for payload in [1000, 65_000, 700_000, 1_100_000] {
        let sim = Sim::with_memory(3, 1, 256 << 20);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = cold_log(&rt, (10 << 20) / payload as i32, payload).await;
            assert_eq!(read_slowly(&sim, &log).await, 2, "batches of {payload} bytes");
        });
    }
}

#[test]
fn equal_batches_are_read_once() {
    let sim = Sim::with_memory(3, 1, 256 << 20);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = cold_log(&rt, 150, 65_000).await;
        read_slowly(&sim, &log).await;
        let state = log.0.state.borrow();
        // The first read does not know their length yet.
        for span in state.spans.values().skip(1) {
            assert!(span.chunk.len() - span.end < BLOCK, "{} bytes of {} are of no use", span.chunk.len() - span.end, span.chunk.len());
        }
    });
}

#[test]
fn readers_in_different_places_get_everything() {
    let sim = Sim::with_memory(3, 1, 8 << 20);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = cold_log(&rt, 300, 65_000).await;
        let mut places = [0, 100, 200];
        while places.iter().any(|at| *at < log.end_offset()) {
            for at in places.iter_mut().filter(|at| **at < log.end_offset()) {
                *at = read(&log, *at).await.0;
            }
        }
    });
}

/// The index knows only the segment's start; of three pieces in memory the first and the last have gone.
#[test]
fn what_lies_behind_a_cached_piece_is_found_without_an_index_entry_between() {
    let sim = Sim::new(3, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let config = LogConfig { index_interval_bytes: 64 << 20, ..CONFIG };
        rt.create_dir(Path::new("/data")).unwrap();
        let log = Log::create(&rt, &Cache::new(rt.memory()), Path::new(PATH), Uuid([7; 16]), config).await.unwrap();
        while log.0.state.borrow().spans.len() < 4 {
            let base = log.end_offset();
            log.append(&build_batch(&BatchSpec::default(), &[(None, Some(&[7; 1000]), 1000)]), base, 1, None).unwrap();
            log.flush().await.unwrap();
        }
        let pieces: Vec<Offset> = log.0.state.borrow().spans.keys().copied().collect();
        log.0.state.borrow_mut().spans.retain(|first, _| [pieces[1], pieces[3]].contains(first));
        assert_eq!(read(&log, pieces[2] + 1).await, (log.end_offset(), true));
        assert_eq!(read(&log, 0).await, (log.end_offset(), true));
    });
}
