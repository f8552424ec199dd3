//! A model that a log must agree with after every crash: random operations, over several lives of one log on the simulated machine.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;

use super::cache::Cache;
use super::tests::{ID, batch_of, create, path};
use super::{Log, LogConfig, LogError, Opening, Read, Replay, Retention};
use crate::base::ids::Offset;
use crate::base::limits::BLOCK;
use crate::base::prng::Prng;
use crate::rt::Rt;
use crate::sim::{Sim, SimRt};
use crate::wire::batch::{self, BatchHeader};

/// Snapshots are their own offset in text; checks that what is replayed goes on from there without a gap.
#[derive(Default)]
pub(super) struct Follow {
    pub snapshot: Option<Offset>,
    pub batches: usize,
    next: Option<Offset>,
    pub first: Option<Offset>,
}

impl Replay for Follow {
    fn snapshot(&mut self, offset: Offset, payload: &[u8]) -> bool {
        assert_eq!(payload, offset.to_string().as_bytes());
        assert!(self.next.is_none() && self.snapshot.is_none());
        self.snapshot = Some(offset);
        true
    }

    fn batch(&mut self, header: &BatchHeader) {
        assert_eq!(header.base_offset, self.next.or(self.snapshot).unwrap_or(header.base_offset));
        self.first.get_or_insert(header.base_offset);
        self.next = Some(header.next_offset());
        self.batches += 1;
    }

    fn reset(&mut self) {
        *self = Follow::default();
    }

    fn state(&self) -> Option<Vec<u8>> {
        self.next.map(|next| next.to_string().into_bytes())
    }
}

/// What the log must hold.
#[derive(Default)]
struct Model {
    batches: Vec<(Offset, Vec<u8>)>,
    end: Offset,
    flushed: Offset,
    written: Offset,
    /// Nothing before it has to be there.
    start: Offset,
    /// Refused for want of room since the last append. A part may have reached the file, and is found there after a crash.
    refused: Vec<(Offset, Vec<u8>)>,
}

impl Model {
    /// The batches that a read has to give, as one piece.
    fn read(&self, offset: Offset, max_bytes: usize, upto: Offset) -> Vec<u8> {
        let from = self.batches.partition_point(|(base, _)| *base <= offset).saturating_sub(1);
        let mut out: Vec<u8> = Vec::new();
        for (i, (base, bytes)) in self.batches.iter().enumerate().skip(from) {
            let next = self.batches.get(i + 1).map_or(self.end, |b| b.0);
            if next > upto || *base >= upto || (!out.is_empty() && out.len() + bytes.len() > max_bytes) {
                break;
            }
            out.extend(bytes);
        }
        out
    }

    /// The log was found to end there.
    fn found(&mut self, end: Offset) {
        let back = std::mem::take(&mut self.refused);
        if end > self.end {
            self.batches.extend(back.into_iter().filter(|(base, _)| *base < end));
        }
        self.cut(end);
        self.written = end;
    }

    fn cut(&mut self, end: Offset) {
        self.batches.retain(|(base, _)| *base < end);
        let last = self.batches.last().map_or(0, |(_, bytes)| BatchHeader::parse(bytes).unwrap().next_offset());
        assert_eq!(last, end, "the end is that of a batch");
        self.end = end;
    }
}

struct Machine {
    sim: Sim,
    random: RefCell<Prng>,
    model: RefCell<Model>,
    config: LogConfig,
}

impl Machine {
    fn new(seed: u64, memory: usize) -> Machine {
        let segment_bytes = [40 << 10, 256 << 10, 4 << 20][seed as usize % 3];
        let config = LogConfig { segment_bytes, ..LogConfig::DEFAULT };
        let random = RefCell::new(Prng::new(seed ^ 0xabcd));
        Machine { sim: Sim::with_memory(seed, 1, memory), random, model: RefCell::default(), config }
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// As the owner of a partition does: what a crash has taken before the first batch is made again.
    async fn open(&self, opening: Opening, replay: &mut dyn Replay) -> Log<SimRt> {
        let rt = self.sim.rt(0);
        match Log::open(&rt, &Cache::new(rt.memory()), &path(), self.config, opening, replay).await {
            Err(LogError::Missing(_)) => create(&rt, self.config).await,
            opened => {
                let log = opened.unwrap();
                if log.topic_id().is_zero() {
                    assert_eq!(log.end_offset(), 0, "the id is durable before the first batch");
                    log.set_topic_id(ID);
                }
                log
            }
        }
    }

    fn append(&self, log: &Log<SimRt>) {
        let payload = match self.below(20) {
            0 => self.below(30_000),
            1 => self.below(3) * BLOCK as u64 + self.below(4) * 61,
            _ => self.below(600),
        };
        let records = 1 + self.below(5) as i32;
        let mut bytes = batch_of(&mut self.random.borrow_mut(), records, payload as usize, 1000);
        let mut model = self.model.borrow_mut();
        let base = model.end;
        match log.append(&bytes, base, 3, None) {
            Ok(true) => log.set_snapshot(base, base.to_string().into_bytes()),
            Ok(false) => {}
            Err(LogError::Exhausted(_)) => return,
            Err(e) => panic!("{e}"),
        }
        batch::patch(&mut bytes, base, 3);
        model.batches.push((base, bytes));
        model.end += records as Offset;
        if self.chance(15) {
            log.set_recovery_point(model.end.to_string().into_bytes());
        }
        model.refused.clear();
    }

    async fn check_read(&self, log: &Log<SimRt>, offset: Offset) -> Offset {
        let max_bytes = [1, 5000, 100_000, 10 << 20][self.below(4) as usize];
        let upto = log.end_offset();
        let pieces = match log.read(offset, max_bytes, upto, true) {
            Read::Hit(pieces) => pieces,
            Read::Miss(plan) => match log.read_cold(plan).await {
                // Taken back meanwhile, for want of room. Nobody else reads what is not written.
                Err(_) if log.end_offset() <= offset => return offset,
                read => read.unwrap(),
            },
        };
        let bytes = pieces.concat();
        let expected = self.model.borrow().read(offset, max_bytes, upto);
        assert!(expected.starts_with(&bytes), "offset {offset}");
        assert_eq!(bytes.is_empty(), offset >= upto);
        let mut rest = Bytes::from(bytes);
        let mut next = offset;
        while !rest.is_empty() {
            let header = BatchHeader::parse(&rest).unwrap();
            next = header.next_offset();
            let _ = rest.split_to(header.total_len());
        }
        next
    }

    /// What retention or DeleteRecords do.
    async fn shorten(&self, log: &Log<SimRt>) {
        let written = log.written_offset();
        let _turn = log.upkeep().unwrap();
        log.set_start(self.below(written as u64 + 1) as Offset);
        let bytes = Some(self.below(4 * self.config.segment_bytes as u64));
        let ms = Some(if self.chance(4) { 0 } else { i64::MAX });
        let before = log.expired_before(Retention { ms, bytes }, 5000).await.unwrap();
        let end = log.end_offset();
        if before == end && !log.roll(end.to_string().into_bytes()).await.unwrap() {
            return;
        }
        log.set_start(before);
        log.delete_before(before).await.unwrap();
        assert!(log.start_offset() >= before);
        let mut model = self.model.borrow_mut();
        model.start = model.start.max(log.start_offset());
    }

    fn chance(&self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// What the log has taken back, for want of room, is not expected any more.
    fn follow(&self, log: &Log<SimRt>) {
        let mut model = self.model.borrow_mut();
        let end = log.end_offset();
        if end < model.end {
            model.refused = model.batches.iter().filter(|(base, _)| *base >= end).cloned().collect();
            model.cut(end);
        }
    }

    async fn check_all(&self, log: &Log<SimRt>) {
        let mut at = log.start_offset();
        while at < log.end_offset() {
            at = self.check_read(log, at).await;
        }
    }

    async fn work(&self, log: &Log<SimRt>) {
        for _ in 0..self.below(250) {
            self.follow(log);
            match self.below(42) {
                0 => assert!(matches!(log.flush().await, Ok(()) | Err(LogError::Exhausted(_)))),
                40 => self.shorten(log).await,
                41 if self.chance(2) => self.sim.set_free_space(Some(self.below(200_000))),
                41 => self.sim.set_free_space(None),
                1 => log.want_flush(self.below(log.end_offset() as u64 + 1) as Offset),
                2 => self.sim.sleep(Duration::from_micros(self.below(3000))).await,
                3 => log.trim_idle(),
                4..8 => {
                    let start = log.start_offset();
                    let offset = start + self.below((log.end_offset() - start) as u64 + 1) as Offset;
                    self.check_read(log, offset).await;
                }
                8 => log.0.cache.reclaim(self.below(1 << 20) as usize),
                _ => self.append(log),
            }
            let mut model = self.model.borrow_mut();
            assert!(log.flushed_offset() <= log.written_offset() && log.written_offset() <= log.end_offset());
            (model.flushed, model.written) = (log.flushed_offset(), log.written_offset());
        }
        self.sim.set_free_space(None);
        self.follow(log);
    }

    /// Several lives of one log, each ended by a power failure, a kill or properly.
    fn live(&self) {
        let rt = self.sim.rt(0);
        self.sim.run_until(async { drop(create(&rt, self.config).await) });
        if self.below(2) == 0 {
            self.sim.crash();
        }
        let mut clean = false;
        for _ in 0..8 {
            let mut follow = Follow::default();
            let checkpoint = self.below(self.model.borrow().flushed as u64 + 1) as Offset;
            let opening = Opening { recovery_point: if clean { self.model.borrow().end } else { checkpoint }, clean, ..Opening::default() };
            let log = self.sim.run_until(async {
                let log = self.open(opening, &mut follow).await;
                assert_eq!(log.topic_id(), ID);
                let end = log.end_offset();
                assert!(end >= self.model.borrow().flushed, "flushed batches are lost");
                assert!(!clean || end == self.model.borrow().end);
                self.model.borrow_mut().found(end);
                assert!(log.start_offset() <= self.model.borrow().start, "records are gone that nobody has deleted");
                assert_eq!(follow.next.or(follow.snapshot).unwrap_or(end), end);
                assert!(follow.next.is_none() || follow.snapshot.is_some() || follow.first == Some(log.start_offset()));
                assert!(!clean || follow.batches == 0, "a proper end needs no scan");
                self.check_all(&log).await;
                self.work(&log).await;
                log
            });
            match self.below(3) {
                0 => {
                    self.sim.run_until(async {
                        // A log that waits for room finds it.
                        while log.flush().await.is_err() {
                            self.sim.sleep(Duration::from_millis(50)).await;
                            self.follow(&log);
                        }
                        self.follow(&log);
                        let snapshot = log.end_offset().to_string().into_bytes();
                        log.close(snapshot).await.unwrap();
                    });
                    self.model.borrow_mut().flushed = log.end_offset();
                    clean = true;
                    drop(log);
                    self.sim.crash();
                }
                1 => {
                    drop(log);
                    self.sim.crash();
                    clean = false;
                }
                _ => {
                    drop(log);
                    self.sim.kill();
                    // What was written survives the end of the process.
                    let mut model = self.model.borrow_mut();
                    model.flushed = model.written;
                    clean = false;
                }
            }
        }
    }
}

/// Lives of one seed; a failure names it, and `CORELANE_LOG_SEED` runs it again alone.
fn live(seed: u64, memory: usize) {
    let name_it = NameSeed(seed);
    Machine::new(seed, memory).live();
    std::mem::forget(name_it);
}

struct NameSeed(u64);

impl Drop for NameSeed {
    fn drop(&mut self) {
        eprintln!("again with CORELANE_LOG_SEED={}", self.0);
    }
}

#[test]
fn everything_flushed_survives_any_crash() {
    match std::env::var("CORELANE_LOG_SEED") {
        Ok(seed) => live(seed.parse().expect("a number"), 64 << 20),
        Err(_) => (0..150).for_each(|seed| live(seed, 64 << 20)),
    }
}

/// A million operations and more: 8 lives of 125 operations on average for each seed.
#[test]
fn a_million_operations() {
    (1000..2100).for_each(|seed| live(seed, if seed % 4 == 0 { 1 << 20 } else { 64 << 20 }));
}

#[test]
fn little_memory_is_enough() {
    for seed in 0..60 {
        live(seed, 1 << 20);
    }
}
