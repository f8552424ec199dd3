//! Single bits that change in a log's files below the recovery point: they cost one batch at most.

use std::time::Duration;

use super::cache::Cache;
use super::damage_tests::{SMALL, serves_what_was_written};
use super::tests::{create, path, reopen};
use super::{Located, Log, LogConfig, LogError, NoReplay, Opening, Retention, files};
use crate::base::ids::Offset;
use crate::base::prng::Prng;
use crate::rt::Rt;
use crate::sim::{Fault, FaultOp, Sim, SimRt};
use crate::wire::batch::{self, BatchSpec, build_batch};

const COUNT: Offset = 250;
const FIRST_MS: i64 = 1_000_000;

fn opening(clean: bool) -> Opening {
    Opening { clean, recovery_point: COUNT, ..Opening::default() }
}

fn config(interval: u32) -> LogConfig {
    LogConfig { index_interval_bytes: interval, ..SMALL }
}

/// A closed log of [`COUNT`] batches with one record each, at the timestamps `ms`. With `equal` all
/// are of 128 bytes: a bit of a length then leads from one batch to another.
fn written(sim: &Sim, interval: u32, equal: bool, ms: impl Fn(Offset) -> i64) -> Vec<Vec<u8>> {
    let (rt, mut random) = (sim.rt(0), Prng::new(7));
    let mut batches = Vec::new();
    sim.run_until(async {
        let log = create(&rt, config(interval)).await;
        for offset in 0..COUNT {
            let mut value = vec![0; if equal { 59 } else { 60 + random.below(200) as usize }];
            random.fill(&mut value);
            let mut bytes = build_batch(&BatchSpec::default(), &[(None, Some(&value), ms(offset))]);
            assert!(!equal || bytes.len() == 128, "{}", bytes.len());
            log.append(&bytes, offset, 1, None).unwrap();
            batch::patch(&mut bytes, offset, 1);
            batches.push(bytes);
        }
        log.close(Vec::new()).await.unwrap();
    });
    batches
}

/// The files whose names end in `kind`, with their lengths.
fn files_of(rt: &SimRt, kind: &str) -> Vec<(Offset, u64)> {
    let entries = rt.list(&path()).unwrap();
    let bases = entries.iter().filter_map(|entry| files::base_of(&entry.name, kind));
    bases.map(|base| (base, rt.len_of(&files::name(&path(), base, kind)).unwrap())).collect()
}

/// Looks every timestamp up: the first record with it or a later one, but for those that are `lost`.
async fn finds_by_time(log: &Log<SimRt>, ms: &impl Fn(Offset) -> i64, lost: &[Offset], what: &str) {
    for wanted in (FIRST_MS - 1..FIRST_MS + COUNT + 1).step_by(3) {
        let expected = (0..COUNT).find(|offset| ms(*offset) >= wanted).map(|offset| (offset, ms(offset)));
        match log.offset_for_timestamp(wanted, COUNT).await {
            Ok(found) if found.map(Located::place) == expected => {}
            Ok(found) => assert!(expected.is_some_and(|(at, _)| lost.contains(&at)), "{what}: {wanted}: {found:?} {expected:?}"),
            Err(LogError::Corrupt { .. }) if !lost.is_empty() => {}
            Err(e) => panic!("{what}: {e}"),
        }
    }
    if lost.is_empty() {
        let largest = (0..COUNT).map(ms).max().unwrap();
        let at = (0..COUNT).find(|offset| ms(*offset) == largest).unwrap();
        assert_eq!(log.max_timestamp_offset(COUNT).await.unwrap().map(Located::place), Some((at, largest)), "{what}");
    }
}

/// Flips one bit in each of `rounds` logs.
fn flips(kind: &str, equal: bool, rounds: u64) {
    let mut random = Prng::new(rounds);
    for round in 0..rounds {
        let sim = Sim::new(round, 1);
        let interval = [1, 300, 1000, 4096][random.below(4) as usize];
        let disorder = random.below(3) as i64 * 20;
        let mut seed = Prng::new(round);
        let shuffled: Vec<i64> = (0..COUNT).map(|n| FIRST_MS + n - seed.below(disorder as u64 + 1) as i64).collect();
        let ms = |offset: Offset| shuffled[offset as usize];
        let batches = written(&sim, interval, equal, ms);
        let rt = sim.rt(0);
        let found = files_of(&rt, kind);
        let (base, len) = found[random.below(found.len() as u64) as usize];
        if len == 0 {
            continue;
        }
        let (mut byte, bit) = (random.below(len), random.below(8) as u32);
        if random.below(2) == 0 {
            // Where a bit can change unnoticed: offsets and lengths, the low bytes of an entry.
            byte = match kind {
                "log" => {
                    let before = (0..byte / 128 / 2).map(|n| batches[base as usize + n as usize].len() as u64);
                    before.sum::<u64>() + random.below(12)
                }
                "timeindex" => byte / 12 * 12 + [6, 7, 10, 11][random.below(4) as usize],
                _ => byte,
            };
        }
        let clean = random.below(2) == 0;
        let what = format!("round {round}: {kind} {base}, byte {byte}, bit {bit}, interval {interval}, clean {clean}");
        assert!(sim.flip_bit(&files::name(&path(), base, kind), byte, bit));
        let damaged = match kind {
            "log" => {
                let mut at = 0;
                (base..COUNT).find(|offset| {
                    at += batches[*offset as usize].len() as u64;
                    byte < at
                })
            }
            _ => None,
        };
        sim.run_until(async {
            // Twice: what was made anew is right from then on.
            for again in [false, true] {
                let log = reopen(&rt, config(interval), opening(clean || again)).await.unwrap();
                // The last one of all may end the log.
                let cut = damaged == Some(COUNT - 1) && log.end_offset() == COUNT - 1;
                assert!(cut || log.end_offset() == COUNT, "{what}: {}", log.end_offset());
                let mut expected = batches.clone();
                if let Some(damaged) = damaged {
                    let stored = rt.read_file(&files::name(&path(), base, "log")).unwrap();
                    let start: usize = batches[base as usize..damaged as usize].iter().map(Vec::len).sum();
                    if (12..16).contains(&(byte as usize - start)) && !cut {
                        // The leader epoch is covered by nothing.
                        expected[damaged as usize] = stored[start..start + expected[damaged as usize].len()].to_vec();
                    }
                }
                expected.truncate(log.end_offset() as usize);
                // From the end to the start, and on the way back by what is in memory.
                let refused = serves_what_was_written(&log, &expected).await;
                assert!(refused.iter().all(|offset| Some(*offset) == damaged), "{what}: {refused:?}");
                log.0.cache.reclaim(1 << 30);
                for offset in (0..expected.len() as Offset).rev().step_by(3) {
                    let alone = serves(&log, offset, &expected, &what).await;
                    assert!(alone || Some(offset) == damaged, "{what}: offset {offset}");
                    log.0.cache.reclaim(1 << 30);
                }
                let lost: Vec<Offset> = damaged.into_iter().collect();
                if !cut {
                    finds_by_time(&log, &ms, &lost, &what).await;
                }
                // All of it is younger than this, whatever an index tells.
                let young = Retention { ms: Some(1000), bytes: None };
                assert_eq!(log.expired_before(young, FIRST_MS).await.unwrap(), 0, "{what}");
                log.close(Vec::new()).await.unwrap();
            }
        });
    }
}

/// Whether a read at `offset` brings what was written there.
async fn serves(log: &Log<SimRt>, offset: Offset, batches: &[Vec<u8>], what: &str) -> bool {
    let pieces = match log.read(offset, 1 << 20, log.end_offset(), true) {
        super::Read::Hit(pieces) => pieces,
        super::Read::Miss(plan) => match log.read_cold(plan).await {
            Ok(pieces) => pieces,
            Err(LogError::Corrupt { .. }) => return false,
            Err(e) => panic!("offset {offset}: {e}"),
        },
    };
    let bytes = pieces.concat();
    assert!(!bytes.is_empty() && batches[offset as usize..].concat().starts_with(&bytes), "{what}: offset {offset}");
    true
}

#[test]
fn a_flipped_bit_of_an_index_hides_no_record() {
    flips("index", false, 60);
}

#[test]
fn a_flipped_bit_of_a_time_index_hides_no_record_and_deletes_none() {
    flips("timeindex", false, 120);
}

#[test]
fn a_flipped_bit_of_a_segment_costs_its_own_batch_only() {
    flips("log", false, 60);
    flips("log", true, 60);
}

/// Below the recovery point, in the last segment: a length that leads behind the file, or into the
/// middle of another batch.
#[test]
fn a_length_that_cannot_be_right_costs_no_flushed_batch() {
    for (byte, replace) in [(8, 0x7f), (9, 1), (11, 0), (10, 1)] {
        let sim = Sim::new(1, 1);
        let batches = written(&sim, 4096, false, |offset| FIRST_MS + offset);
        let rt = sim.rt(0);
        sim.run_until(async {
            let (base, _) = *files_of(&rt, "log").last().unwrap();
            let at: usize = batches[base as usize..base as usize + 3].iter().map(Vec::len).sum();
            super::damage_tests::flip(&rt, base, at + byte, &[replace]).await;
            let before = rt.read_file(&files::name(&path(), base, "log")).unwrap();
            let log = Log::open(&rt, &Cache::new(rt.memory()), &path(), SMALL, opening(false), &mut NoReplay).await;
            let log = log.unwrap();
            assert_eq!(log.end_offset(), COUNT);
            assert_eq!(serves_what_was_written(&log, &batches).await, [base + 3]);
            assert!(rt.read_file(&files::name(&path(), base, "log")).unwrap() == before, "it stays as it is");
        });
    }
}

/// A consumer asks again and again: the rest of the segment is not read each time.
#[test]
fn who_asks_again_for_what_is_damaged_is_told_without_a_read() {
    let sim = Sim::new(1, 1);
    written(&sim, 4096, false, |offset| FIRST_MS + offset);
    let rt = sim.rt(0);
    sim.run_until(async {
        super::damage_tests::flip(&rt, 0, 100, &[0x7f; 1000]).await;
        let log = reopen(&rt, SMALL, opening(true)).await.unwrap();
        let ask = async || match log.read(1, 1 << 20, COUNT, true) {
            super::Read::Hit(_) => panic!("it is damaged"),
            super::Read::Miss(plan) => log.read_cold(plan).await.unwrap_err().to_string(),
        };
        let first = ask().await;
        sim.add_fault(FaultOp::Read, ".log", 1, Fault::Errno(libc::EIO));
        assert_eq!((ask().await, sim.hits().len()), (first.clone(), 0));
        sim.sleep(Duration::from_secs(10)).await;
        assert!(ask().await != first, "what was read wrong may be right by now");
    });
}

/// As an older Kafka has stored it: an entry of the first of several batches that were appended
/// together, with the last offset of all. It is as good as ours.
#[test]
fn an_entry_of_several_batches_is_believed() {
    let batches: Vec<Vec<u8>> = (0..6)
        .map(|n| {
            let mut bytes = build_batch(&BatchSpec::default(), &[(None, None, 1), (None, None, 1)]);
            batch::patch(&mut bytes, 100 + 2 * n, 1);
            bytes
        })
        .collect();
    let bytes = batches.concat();
    for (last, fits) in [(101, true), (105, true), (111, true), (100, false), (104, false), (113, false)] {
        assert_eq!(super::walk::fits_entry(&bytes, 0, last), fits, "{last}");
    }
    assert!(!super::walk::fits_entry(&bytes[1..], 0, 101) && !super::walk::fits_entry(&[], 0, 101));
    assert!(!super::walk::fits_entry(&bytes, 101, 105), "below its segment");
}
