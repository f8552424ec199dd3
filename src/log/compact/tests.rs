//! Compaction over the simulated machine: a model of what must stay, with crashes anywhere and faults of every operation.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::base::ids::{ProducerId, Uuid};
use crate::base::prng::Prng;
use crate::log::cache::Cache;
use crate::log::{LogConfig, NoReplay, Opening, Read};
use crate::sim::{Fault, FaultOp, Sim, SimRt};
use crate::wire::batch::{self, BatchSpec, Batches, Inflation, build_batch, crc_ok};
use crate::wire::compression::Compression;
use crate::wire::record::Record;

const RETENTION_MS: i64 = 10_000;
const RULES: Rules = Rules { delete_retention_ms: RETENTION_MS, min_lag_ms: 0, max_lag_ms: i64::MAX, min_dirty_ppm: 0 };

type Value = Option<Vec<u8>>;

#[derive(Clone, Debug, PartialEq)]
struct Stored {
    key: Vec<u8>,
    value: Value,
    timestamp: i64,
}

/// Visits the records of a batch.
fn each_record(batch: &[u8], mut visit: impl FnMut(Offset, &Record<'_>)) {
    let header = BatchHeader::parse(batch).unwrap();
    let payload = Inflation::new(&header, &Bytes::copy_from_slice(batch)).and_then(Inflation::run).unwrap();
    for record in payload.records() {
        visit(header.base_offset + Offset::from(record.offset_delta), &record);
    }
}

/// All that was ever appended and may still be there.
#[derive(Default)]
struct Model {
    records: BTreeMap<Offset, Stored>,
    /// Ends of batches.
    ends: Vec<Offset>,
    end: Offset,
    flushed: Offset,
    written: Offset,
    /// The largest offset up to which anything was ever cleaned.
    touched: Offset,
    /// By producer: last offset and sequence of each batch.
    sequences: HashMap<ProducerId, Vec<(Offset, i32)>>,
}

impl Model {
    fn cut(&mut self, end: Offset) {
        assert!(end == 0 || self.ends.contains(&end), "the end {end} is that of a batch");
        self.records.split_off(&end);
        self.ends.retain(|e| *e <= end);
        self.sequences.values_mut().for_each(|batches| batches.retain(|(last, _)| *last < end));
        self.end = end;
    }

    fn last_of(&self, id: ProducerId) -> Option<(Offset, i32)> {
        self.sequences.get(&id)?.last().copied()
    }
}

struct Machine {
    sim: Sim,
    random: RefCell<Prng>,
    model: RefCell<Model>,
    config: LogConfig,
    map_bytes: Cell<usize>,
    /// Where the last cleaning that was finished has come to.
    cleaned: Cell<Offset>,
    pace: Pace,
}

fn path() -> PathBuf {
    PathBuf::from("/data/t-0")
}

impl Machine {
    fn new(seed: u64) -> Machine {
        let config =
            LogConfig { segment_bytes: [6_000, 20_000, 60_000][seed as usize % 3], file_delete_delay_ms: 100, ..LogConfig::DEFAULT };
        let machine = Machine {
            sim: Sim::new(seed, 1),
            random: RefCell::new(Prng::new(seed ^ 0x77)),
            model: RefCell::default(),
            config,
            map_bytes: Cell::new(8 << 20),
            cleaned: Cell::default(),
            pace: Pace::new(f64::MAX),
        };
        let rt = machine.sim.rt(0);
        machine.sim.run_until(async {
            rt.create_dir(Path::new("/data")).unwrap();
            rt.sync_dir(Path::new("/")).await.unwrap();
            Log::create(&rt, &Cache::new(rt.memory()), &path(), Uuid([7; 16]), config).await.unwrap().close(Vec::new()).await.unwrap();
        });
        machine
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    fn now_ms(&self) -> i64 {
        self.sim.now().wall_ms
    }

    async fn open(&self, opening: Opening) -> Log<SimRt> {
        let rt = self.sim.rt(0);
        let log = match Log::open(&rt, &Cache::new(rt.memory()), &path(), self.config, opening, &mut NoReplay).await {
            Err(LogError::Missing(_)) => Log::create(&rt, &Cache::new(rt.memory()), &path(), Uuid([7; 16]), self.config).await.unwrap(),
            opened => opened.unwrap(),
        };
        let mut model = self.model.borrow_mut();
        assert!(log.end_offset() >= model.flushed, "flushed batches are lost: {} < {}", log.end_offset(), model.flushed);
        model.cut(log.end_offset());
        log
    }

    /// One batch of one to twelve records.
    fn append(&self, log: &Log<SimRt>) {
        let mut model = self.model.borrow_mut();
        let (base, now_ms) = (model.end, self.now_ms());
        let count = 1 + self.below(12) as i64;
        let records: Vec<Stored> = (0..count)
            .map(|_| Stored {
                key: format!("key-{}", self.below(60)).into_bytes(),
                value: (self.below(5) > 0).then(|| vec![self.below(250) as u8; self.below(180) as usize]),
                timestamp: now_ms - self.below(500) as i64,
            })
            .collect();
        let id = self.below(6) as ProducerId - 2;
        let sequence = model.last_of(id).map_or(0, |(_, last)| last + 1);
        let (producer_id, producer_epoch, base_sequence) = if id < 0 { (-1, -1, -1) } else { (id, 0, sequence) };
        let compression = Compression::ALL[self.below(5) as usize];
        let spec = BatchSpec { compression, producer_id, producer_epoch, base_sequence, ..BatchSpec::default() };
        let shown: Vec<_> = records.iter().map(|r| (Some(&r.key[..]), r.value.as_deref(), r.timestamp)).collect();
        log.append(&build_batch(&spec, &shown), base, 3, None).unwrap();
        for (offset, record) in (base..).zip(records) {
            model.records.insert(offset, record);
        }
        model.end = base + count;
        model.ends.push(base + count);
        if id >= 0 {
            model.sequences.entry(id).or_default().push((base + count - 1, sequence + count as i32 - 1));
        }
    }

    fn note(&self, log: &Log<SimRt>) {
        let mut model = self.model.borrow_mut();
        (model.flushed, model.written) = (log.flushed_offset(), log.written_offset());
    }

    async fn clean(&self, log: &Log<SimRt>) -> Result<Cleaned, LogError> {
        let dirt = log.dirt(log.written_offset(), &RULES, self.now_ms()).await?;
        {
            let mut model = self.model.borrow_mut();
            model.touched = model.touched.max(dirt.upto);
        }
        let means = Means { map_bytes: self.map_bytes.get(), map_load_ppm: 900_000, buffer: 4096 << self.below(4), pace: &self.pace };
        let sequences = self.model.borrow().sequences.clone();
        log.flush().await?;
        let last = |id| sequences.get(&id).and_then(|batches: &Vec<(Offset, i32)>| batches.last());
        let pinned = |header: &BatchHeader| last(header.producer_id).is_some_and(|(last, _)| *last == header.last_offset());
        let cleaned = log.compact(&dirt, &RULES, &means, &pinned).await?;
        self.cleaned.set(cleaned.upto);
        Ok(cleaned)
    }

    async fn batches(&self, log: &Log<SimRt>, from: Offset) -> Vec<Bytes> {
        let (mut at, mut found) = (from, Vec::new());
        while at < log.end_offset() {
            let max = [1, 3000, 1 << 20][self.below(3) as usize];
            let pieces = match log.read(at, max, log.end_offset(), true) {
                Read::Hit(pieces) => pieces,
                Read::Miss(plan) => log.read_cold(plan).await.unwrap(),
            };
            assert!(!pieces.is_empty(), "nothing at {at}, the end is {}", log.end_offset());
            for mut piece in pieces {
                while !piece.is_empty() {
                    let header = BatchHeader::parse(&piece).unwrap();
                    assert!(header.base_offset >= at || found.is_empty(), "{} after {at}", header.base_offset);
                    assert!(header.next_offset() > at);
                    at = header.next_offset();
                    found.push(piece.split_to(header.total_len()));
                }
            }
        }
        found
    }

    /// What is there is what was appended, and whoever reads all of it ends up with the last value of each key.
    async fn check(&self, log: &Log<SimRt>) {
        let batches = self.batches(log, 0).await;
        let model = self.model.borrow();
        let mut seen: BTreeMap<Offset, Stored> = BTreeMap::new();
        let mut last: HashMap<ProducerId, (Offset, i32)> = HashMap::new();
        for bytes in &batches {
            assert!(crc_ok(bytes));
            let header = BatchHeader::parse(bytes).unwrap();
            assert_eq!(header.partition_leader_epoch, 3);
            let mut newest = -1;
            each_record(bytes, |offset, record| {
                let timestamp = header.base_timestamp + record.timestamp_delta;
                newest = newest.max(timestamp);
                let stored = Stored { key: record.key.unwrap().to_vec(), value: record.value.map(Vec::from), timestamp };
                assert!(offset <= header.last_offset() && seen.last_key_value().is_none_or(|(before, _)| *before < offset));
                seen.insert(offset, stored);
            });
            assert!(header.records_count == 0 || header.max_timestamp == newest);
            last.insert(header.producer_id, (header.last_offset(), header.last_sequence()));
        }
        for (offset, stored) in &seen {
            assert_eq!(model.records.get(offset), Some(stored), "offset {offset}");
        }
        assert!(model.records.range(model.touched..).all(|(offset, _)| seen.contains_key(offset)), "above {}", model.touched);
        let state = |records: &BTreeMap<Offset, Stored>| -> BTreeMap<Vec<u8>, Value> {
            records.values().map(|r| (r.key.clone(), r.value.clone())).collect()
        };
        let (expected, found) = (state(&model.records), state(&seen));
        for (key, value) in &expected {
            assert_eq!(found.get(key).cloned().flatten(), *value, "{}", String::from_utf8_lossy(key));
        }
        let newest: BTreeMap<&[u8], (&Offset, &Stored)> = model.records.iter().map(|(o, r)| (&r.key[..], (o, r))).collect();
        for (offset, stored) in newest.values() {
            let due = self.now_ms() - stored.timestamp >= RETENTION_MS;
            assert!(seen.contains_key(offset) || due && stored.value.is_none(), "the tombstone at {offset} went too early");
        }
        for id in model.sequences.keys() {
            assert_eq!(last.get(id).copied(), model.last_of(*id), "the last sequence of producer {id}");
        }
    }

    /// Of each key at most one record is left below `upto`.
    async fn check_clean(&self, log: &Log<SimRt>, upto: Offset) {
        let mut last: HashMap<Vec<u8>, Offset> = HashMap::new();
        for bytes in self.batches(log, 0).await {
            each_record(&bytes, |offset, record| {
                if offset < upto {
                    assert_eq!(last.insert(record.key.unwrap().to_vec(), offset), None, "offset {offset}");
                }
            });
        }
    }

    fn fill(&self, log: &Log<SimRt>, batches: u64) {
        for _ in 0..batches {
            self.append(log);
        }
    }

    async fn work(&self, log: &Log<SimRt>) {
        for _ in 0..self.below(6) {
            self.fill(log, self.below(60));
            match self.below(6) {
                0 => log.trim_idle(),
                1 => self.sim.sleep(Duration::from_millis(self.below(8000))).await,
                2 => log.0.cache.reclaim(self.below(1 << 20) as usize),
                _ => {}
            }
            log.flush().await.unwrap();
            self.note(log);
            if self.below(3) > 0 {
                // A small map takes several rounds.
                self.map_bytes.set(if self.below(4) == 0 { 120_000 } else { 8 << 20 });
                let cleaned = self.clean(log).await.unwrap();
                assert_eq!(log.cleaned_offset(), cleaned.upto);
                self.check_clean(log, cleaned.upto).await;
            }
            self.check(log).await;
            let from = self.below(log.end_offset() as u64 + 1) as Offset;
            let behind = |bytes: &Bytes| BatchHeader::parse(bytes).is_ok_and(|header| header.next_offset() > from);
            let all: Vec<Bytes> = self.batches(log, 0).await.into_iter().filter(behind).collect();
            assert_eq!(self.batches(log, from).await, all, "from {from}");
        }
    }

    /// Appends go on while the log is cleaned, until the machine fails somewhere in it.
    fn die_while_cleaning(&self, log: Log<SimRt>, after: Duration) {
        let die = async {
            let cleaning = self.clean(&log);
            let dying = async {
                let end = self.sim.now().mono + after;
                while self.sim.now().mono < end {
                    self.append(&log);
                    self.sim.sleep(Duration::from_micros(100)).await;
                    self.note(&log);
                }
                Ok(Cleaned::default())
            };
            futures_lite::future::or(cleaning, dying).await.unwrap();
        };
        self.sim.run_until(die);
        self.note(&log);
        drop(log);
    }

    fn fail(&self, power: bool) {
        if power {
            self.sim.crash();
        } else {
            self.sim.kill();
            let mut model = self.model.borrow_mut();
            model.flushed = model.written;
        }
    }

    fn live(&self) {
        for _ in 0..6 {
            let recovery_point = self.below(self.model.borrow().flushed as u64 + 1) as Offset;
            // What the checkpoint knows of the cleaned part may be old.
            let opening = Opening { recovery_point, cleaned: [0, self.cleaned.get()][self.below(2) as usize], ..Opening::default() };
            let log = self.sim.run_until(async {
                let log = self.open(opening).await;
                self.check(&log).await;
                self.work(&log).await;
                log
            });
            match self.below(3) {
                0 => {
                    self.sim.run_until(log.close(Vec::new())).unwrap();
                    self.model.borrow_mut().flushed = log.end_offset();
                    drop(log);
                    self.sim.crash();
                }
                power => {
                    self.die_while_cleaning(log, Duration::from_micros(self.below(30_000)));
                    self.fail(power == 1);
                }
            }
        }
    }
}

#[test]
fn the_last_value_of_each_key_survives_everything() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        Machine::new(seed).live();
    }
}

/// The same cleaning, with a power failure or a kill at each point of it.
#[test]
fn a_cleaning_may_end_anywhere() {
    for seed in [1, 2] {
        for step in 0..150u64 {
            let machine = Machine::new(seed);
            let log = machine.sim.run_until(async {
                let log = machine.open(Opening::default()).await;
                machine.fill(&log, 120);
                log.flush().await.unwrap();
                machine.note(&log);
                log
            });
            machine.die_while_cleaning(log, Duration::from_micros(step * 150));
            machine.fail(step % 2 == 0);
            machine.sim.run_until(async {
                let log = machine.open(Opening::default()).await;
                machine.check(&log).await;
                let left = machine.sim.rt(0).list(&path()).unwrap();
                assert!(left.iter().all(|e| [".swap", ".cleaned", ".deleted"].iter().all(|suffix| !e.name.ends_with(suffix))), "{left:?}");
                let cleaned = machine.clean(&log).await.unwrap();
                machine.check_clean(&log, cleaned.upto).await;
                machine.check(&log).await;
            });
        }
    }
}

/// Before a segment is in place a failure changes nothing; after that it takes the log out of service, with all its data on the disk.
#[test]
fn failures_lose_nothing() {
    let cases = [
        (FaultOp::Open, ".cleaned", false),
        (FaultOp::Write, ".cleaned", false),
        (FaultOp::Truncate, ".cleaned", false),
        (FaultOp::Sync, ".cleaned", false),
        (FaultOp::Read, ".log", false),
        (FaultOp::Names, ".log.cleaned", false),
        (FaultOp::Sync, "/data/t-0", true),
        (FaultOp::Names, ".swap", true),
    ];
    for (seed, (op, name, fences)) in (0..).zip(cases) {
        let machine = Machine::new(seed * 3);
        let log = machine.sim.run_until(async {
            let log = machine.open(Opening::default()).await;
            machine.fill(&log, 150);
            log.flush().await.unwrap();
            // The last segment's file is there, so that the next operation is one of the cleaning.
            machine.sim.sleep(Duration::from_millis(50)).await;
            machine.note(&log);
            log
        });
        // The first flush is that of the new segment, the second that of the directory.
        machine.sim.inject(op, name, u64::from(name == "/data/t-0"), Fault::Errno(libc::EIO));
        machine.sim.run_until(async {
            assert!(machine.clean(&log).await.is_err(), "{op:?} {name}");
            assert_eq!(log.fenced().is_some(), fences, "{op:?} {name}");
            machine.check(&log).await;
            if !fences {
                let cleaned = machine.clean(&log).await.unwrap();
                machine.check_clean(&log, cleaned.upto).await;
            }
            machine.note(&log);
        });
        drop(log);
        machine.fail(true);
        machine.sim.run_until(async {
            let log = machine.open(Opening::default()).await;
            machine.check(&log).await;
        });
    }
}

#[test]
fn tombstones_stay_for_their_time() {
    let machine = Machine::new(4);
    let put = |log: &Log<SimRt>, key: &str, value: Option<&[u8]>| {
        let bytes = build_batch(&BatchSpec::default(), &[(Some(key.as_bytes()), value, 1000)]);
        log.append(&bytes, log.end_offset(), 3, None).unwrap();
    };
    let filler = vec![7; 3000];
    machine.sim.run_until(async {
        let log = machine.open(Opening::default()).await;
        let clean = async || {
            for i in 0..60 {
                put(&log, &format!("filler-{i}"), Some(&filler));
            }
            log.flush().await.unwrap();
            machine.sim.sleep(Duration::from_millis(20)).await;
            machine.clean(&log).await.unwrap();
        };
        let records = async || {
            let mut found = Vec::new();
            for bytes in machine.batches(&log, 0).await {
                each_record(&bytes, |offset, r| found.push((offset, r.key.map(Vec::from), r.value.is_some())));
            }
            found.into_iter().filter(|(_, key, _)| key.as_deref().is_none_or(|k| !k.starts_with(b"filler"))).collect::<Vec<_>>()
        };
        put(&log, "a", Some(b"1"));
        put(&log, "a", None);
        let keyless = build_batch(&BatchSpec::default(), &[(None, Some(b"from before the topic was compacted"), 1000)]);
        log.append(&keyless, log.end_offset(), 3, None).unwrap();
        clean().await;
        assert_eq!(records().await, [(1, Some(b"a".to_vec()), false)]);
        machine.sim.sleep(Duration::from_millis(RETENTION_MS as u64 - 1000)).await;
        clean().await;
        assert_eq!(records().await.len(), 1, "its time is not over");
        machine.sim.sleep(Duration::from_millis(1100)).await;
        clean().await;
        assert!(records().await.is_empty());
        let first = BatchHeader::parse(&machine.batches(&log, 0).await[0]).unwrap();
        assert!(first.base_offset > 2, "nothing is left of the first batches");
        // Whoever asks for an offset that is gone gets the next one.
        assert_eq!(BatchHeader::parse(&machine.batches(&log, 1).await[0]).unwrap(), first);
    });
}

#[test]
fn lags_bound_what_is_cleaned_and_when() {
    let machine = Machine::new(3);
    machine.sim.run_until(async {
        let log = machine.open(Opening::default()).await;
        machine.fill(&log, 100);
        machine.sim.sleep(Duration::from_secs(60)).await;
        let middle = log.end_offset();
        machine.fill(&log, 100);
        log.flush().await.unwrap();
        machine.sim.sleep(Duration::from_millis(50)).await;
        let now_ms = machine.now_ms();
        let dirt = async |rules: Rules| log.dirt(log.end_offset(), &rules, now_ms).await.unwrap();
        let all = dirt(RULES).await;
        assert!(all.upto > middle && all.due(&RULES) && !all.overdue);
        let young = dirt(Rules { min_lag_ms: 30_000, ..RULES }).await;
        assert!(young.upto <= middle && young.upto > 0 && young.dirty_bytes < all.dirty_bytes);
        assert_eq!(dirt(Rules { min_lag_ms: 100_000, ..RULES }).await.dirty_bytes, 0);
        let lazy = Rules { min_dirty_ppm: 1_000_000, max_lag_ms: 100_000, ..RULES };
        assert!(!dirt(lazy).await.due(&lazy));
        let lazy = Rules { max_lag_ms: 30_000, ..lazy };
        assert!(dirt(lazy).await.due(&lazy));
        assert!(log.dirt(1, &RULES, now_ms).await.unwrap().dirty_bytes == 0, "nothing above the high watermark");
    });
}

/// Aborted records neither stay nor hide others; a marker goes after its records, and after its time.
#[test]
fn transactions_are_respected() {
    let machine = Machine::new(5);
    let log = machine.sim.run_until(machine.open(Opening::default()));
    let append = |spec: BatchSpec, key: &[u8], value: &[u8]| {
        let bytes = build_batch(&spec, &[(Some(key), Some(value), 1000)]);
        log.append(&bytes, log.end_offset(), 3, None).unwrap();
    };
    let of = |producer_id| BatchSpec { transactional: true, producer_id, producer_epoch: 0, base_sequence: 0, ..BatchSpec::default() };
    let end = |id, commit: u8| append(BatchSpec { control: true, base_sequence: -1, ..of(id) }, &[0, 0, 0, commit], &[0; 6]);
    append(BatchSpec::default(), b"a", b"plain");
    append(of(1), b"a", b"aborted");
    append(of(2), b"b", b"committed");
    end(1, 0);
    append(of(1), b"b", b"aborted");
    end(2, 1);
    end(1, 0);
    append(of(3), b"c", b"first");
    end(3, 1);
    append(BatchSpec::default(), b"c", b"second");
    let open = log.end_offset();
    append(of(4), b"a", b"open");
    for i in 0..40 {
        append(BatchSpec::default(), format!("filler-{i}").as_bytes(), &[7; 3000]);
    }
    let seen = async || {
        let mut found = Vec::new();
        for bytes in machine.batches(&log, 0).await {
            let header = BatchHeader::parse(&bytes).unwrap();
            if header.base_offset <= open {
                found.push((header.base_offset, header.records_count, header.is_control(), header.has_delete_horizon()));
            }
        }
        found
    };
    machine.sim.run_until(async {
        log.flush().await.unwrap();
        machine.sim.sleep(Duration::from_millis(50)).await;
        // The one that is open at the end is not passed, even if nobody says where it begins.
        let cleaned = machine.clean(&log).await.unwrap();
        assert_eq!(cleaned.upto, open);
        let data = |offset| (offset, 1, false, false);
        let marker = |offset, horizon| (offset, 1, true, horizon);
        let markers = [marker(3, false), marker(5, false), marker(6, false), marker(8, false)];
        assert_eq!(seen().await, [&[data(0), data(2)], &markers[..], &[data(9), data(10)]].concat());
        // Now that nothing is left of three transactions the time of their markers begins.
        machine.clean(&log).await.unwrap();
        let markers = [marker(3, true), marker(5, false), marker(6, true), marker(8, true)];
        assert_eq!(seen().await, [&[data(0), data(2)], &markers[..], &[data(9), data(10)]].concat());
        machine.sim.sleep(Duration::from_millis(RETENTION_MS as u64)).await;
        machine.clean(&log).await.unwrap();
        assert_eq!(seen().await, [data(0), data(2), marker(5, false), data(9), data(10)]);
    });
}

#[test]
fn a_cleaning_ends_when_its_log_is_closed_or_deleted() {
    for delete in [false, true] {
        let machine = Machine::new(6);
        machine.sim.run_until(async {
            let log = machine.open(Opening::default()).await;
            machine.fill(&log, 200);
            log.flush().await.unwrap();
            let slow = Pace::new(1000.0);
            let dirt = log.dirt(log.end_offset(), &RULES, machine.now_ms()).await.unwrap();
            let means = Means { map_bytes: 1 << 20, map_load_ppm: 900_000, buffer: 4096, pace: &slow };
            let cleaning = async { assert!(matches!(log.compact(&dirt, &RULES, &means, &|_| false).await, Err(LogError::Closed))) };
            let ending = async {
                machine.sim.sleep(Duration::from_millis(700)).await;
                if delete { log.delete().await.unwrap() } else { log.close(Vec::new()).await.unwrap() }
            };
            futures_lite::future::zip(cleaning, ending).await;
            let left = machine.sim.rt(0).list(&path());
            assert!(left.map_or(delete, |left| !delete && left.iter().all(|e| !e.name.ends_with(".cleaned"))));
            assert!(machine.sim.now().mono < Duration::from_secs(5), "it was not waited for");
        });
    }
}

/// A log of Kafka's may have lost the end of a segment to its compaction, with the rest of it in memory.
#[test]
fn a_gap_at_the_end_of_a_segment_is_read_across() {
    let machine = Machine::new(1);
    machine.sim.run_until(async {
        let log = machine.open(Opening::default()).await;
        machine.fill(&log, 100);
        log.close(Vec::new()).await.unwrap();
    });
    let rt = machine.sim.rt(0);
    let base = machine.sim.run_until(async {
        let bases: Vec<Offset> = rt.list(&path()).unwrap().iter().filter_map(|e| files::base_of(&e.name, "log")).collect();
        let file = rt.open(&files::name(&path(), bases[0], "log"), crate::rt::Open::Write).await.unwrap();
        let bytes = rt.read_file(&files::name(&path(), bases[0], "log")).unwrap();
        let (_, first) = Batches::new(&bytes).next().unwrap().unwrap();
        rt.truncate(&file, first.len() as u64).await.unwrap();
        bases[1]
    });
    for clean in [true, false] {
        machine.sim.run_until(async {
            let log = machine.open(Opening { clean, ..Opening::default() }).await;
            let batches = machine.batches(&log, base - 1).await;
            assert_eq!(BatchHeader::parse(&batches[0]).unwrap().base_offset, base);
            assert_eq!(BatchHeader::parse(&machine.batches(&log, 0).await[1]).unwrap().base_offset, base);
            let mut bytes = batches[0].to_vec();
            batch::patch(&mut bytes, 0, 3);
            assert!(log.offset_for_timestamp(i64::MAX, log.end_offset()).await.unwrap().is_none());
            log.close(Vec::new()).await.unwrap();
        });
    }
}
