//! Decisions of the writer, with plain bytes in the place of files.

use std::collections::BTreeMap;
use std::time::Duration;

use super::LogConfig;
use super::index::Index;
use super::state::{FIRST_ALLOCATION, Job, Segment, State};
use super::tests::batch_of;
use crate::base::ids::Offset;
use crate::base::limits::{ALLOCATE_AHEAD, BLOCK, CHUNK_MAX, CHUNK_MIN};
use crate::base::prng::Prng;
use crate::rt::mem::Memory;
use crate::wire::batch::{self, BatchHeader};

const CONFIG: LogConfig = LogConfig { segment_bytes: 100_000, ..LogConfig::DEFAULT };
const SECOND: Duration = Duration::from_secs(1);
const KIB: u64 = 1024;

fn fresh() -> State<()> {
    State::new(vec![Segment::new(0, 4096)], 0, 0, Box::default())
}

/// A log's state, the files that its writer has written, and the batches that it was given.
struct World {
    random: Prng,
    memory: Memory,
    state: State<()>,
    files: BTreeMap<Offset, Vec<u8>>,
    appended: BTreeMap<Offset, Vec<u8>>,
    batches: BTreeMap<Offset, Vec<u8>>,
    wanted: Offset,
    /// Where the log ended when it last gave up what it had in memory.
    rested: Offset,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            random: Prng::new(seed),
            memory: Memory::new(64 << 20),
            state: fresh(),
            files: BTreeMap::new(),
            appended: BTreeMap::new(),
            batches: BTreeMap::new(),
            wanted: 0,
            rested: 0,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    fn append(&mut self) {
        let (records, payload) = (1 + self.below(4) as i32, self.below(9000) as usize);
        let mut bytes = batch_of(&mut self.random, records, payload, 1000);
        let header = BatchHeader::parse(&bytes).unwrap();
        let roll = self.state.rolls(bytes.len(), self.state.end + i64::from(records) - 1, &CONFIG, |_| (0, 1));
        let gap = if roll { 0 } else { self.below(3) as Offset };
        let base = self.state.end + gap;
        if let Some(size) = self.state.chunk_wanted(bytes.len(), roll, || CHUNK_MAX, || SECOND) {
            let chunk = self.memory.chunk_now(size);
            self.state.open_span(chunk, roll.then(|| Segment::new(base, 4096)));
        }
        self.state.push(&bytes, &header, base, 7, None);
        batch::patch(&mut bytes, base, 7);
        let segment = self.state.last_segment().base;
        self.appended.entry(segment).or_default().extend(&bytes);
        assert_eq!(self.state.last_segment().size, self.appended[&segment].len() as u64);
        assert_eq!(self.state.end, base + i64::from(records));
        self.batches.insert(base, bytes);
    }

    /// Does the writer's next job; false when there is none.
    fn work(&mut self) -> bool {
        match self.state.next_job(false) {
            Job::Write => self.write(),
            Job::Sync => self.flush(),
            Job::Finish => {
                self.flush();
                let at = self.state.segment_of(self.state.writing);
                assert_eq!(self.files[&self.state.writing][..], padded(&self.appended[&self.state.writing]));
                self.state.writing = self.state.segments[at + 1].base;
            }
            Job::Wait => return false,
            job => panic!("{job:?}"),
        }
        true
    }

    fn flush(&mut self) {
        self.state.unflushed = false;
        self.state.flushed_to(self.state.written).unwrap();
    }

    fn write(&mut self) {
        let (segment, end, unflushed) = (self.state.writing, self.state.next_end().unwrap(), self.state.unflushed);
        let flight = self.state.take_off().unwrap();
        let bytes = flight.window.to_vec();
        let (from, to) = (flight.position as usize, flight.position as usize + bytes.len());
        assert!(from.is_multiple_of(BLOCK) && to == (end as usize).next_multiple_of(BLOCK));
        assert!(!(flight.durable && unflushed), "a flush of this write alone would leave out the one before");
        let file = self.files.entry(segment).or_default();
        assert!(from <= file.len(), "a hole");
        file.resize(to.max(file.len()), 0);
        file[from..to].copy_from_slice(&bytes);
        if self.below(3) == 0 {
            self.append();
        }
        let (durable, before) = (flight.durable, self.state.flushed);
        self.state.landed(flight).unwrap();
        let flushed = if durable { self.state.written } else { before };
        assert_eq!((self.state.flushed, self.state.unflushed), (flushed, !durable));
    }

    /// Whole batches from one of them on come out of memory as they went in.
    fn read(&mut self) {
        let bases: Vec<Offset> = self.batches.keys().copied().collect();
        let (Some(first), Some(last)) = (bases.first(), bases.last()) else { return };
        let offset = first + self.below((self.state.end - first) as u64) as Offset;
        let (max, upto) = (self.below(30_000) as usize, first + self.below((last - first) as u64 + 9) as Offset);
        let Some(span) = self.state.covering(offset) else {
            assert!(offset < self.rested, "what came since is in memory");
            return;
        };
        for min_one in [false, true] {
            let mut expected: Vec<u8> = Vec::new();
            for (base, bytes) in self.batches.range(..span.next) {
                let next = BatchHeader::parse(bytes).unwrap().next_offset();
                if next <= offset || *base < span.first {
                    continue;
                }
                let fits = expected.len() + bytes.len() <= max || (min_one && expected.is_empty());
                // A gap behind a batch belongs to it.
                let end = self.batches.range(base + 1..span.next).next().map_or(span.next, |(next, _)| *next);
                let visible = if upto >= span.next { true } else { end <= upto };
                if !fits || !visible {
                    break;
                }
                expected.extend(bytes);
            }
            let taken = span.take(offset, max, upto, min_one);
            assert_eq!(taken.map_or(Vec::new(), |(bytes, _)| bytes.to_vec()), expected, "{offset} {max} {upto}");
        }
    }

    fn settle(&mut self) {
        while self.work() {}
        assert_eq!(self.state.written, self.state.end);
        assert!(self.state.flushed >= self.wanted && self.state.wanted.is_none());
        for (segment, bytes) in &self.appended {
            assert_eq!(self.files.get(segment).cloned().unwrap_or_default(), padded(bytes));
        }
        assert!(self.state.dirty.is_empty() && self.state.carried.is_empty());
        let retired: Vec<Offset> = self.state.retired.iter().map(|(key, _)| *key).collect();
        assert!(retired.iter().eq(self.state.spans.keys()), "what is written may leave the cache: {retired:?}");
    }

    /// There is no room for what is not written.
    fn take_back(&mut self) {
        self.state.take_back();
        let (end, segment) = (self.state.written, self.state.writing);
        assert_eq!((self.state.end, self.state.last_segment().base), (end, segment));
        self.batches.retain(|base, _| *base < end);
        self.appended.retain(|base, _| *base <= segment);
        let batches = self.batches.range(segment..).map(|(_, bytes)| bytes.clone());
        let left: Vec<u8> = batches.collect::<Vec<_>>().concat();
        assert_eq!(self.state.last_segment().size, left.len() as u64);
        if self.state.active.is_none() {
            // As `stall::resume` reads it again.
            self.state.last_segment().index = Some(Index::new(4096));
            self.state.tail = left[left.len() / BLOCK * BLOCK..].into();
        }
        if let Some(file) = self.files.get_mut(&segment) {
            file.resize(left.len(), 0);
            file.resize(left.len().next_multiple_of(BLOCK), 0);
        }
        self.appended.insert(segment, left);
        assert!(self.state.wanted.is_none_or(|(first, last)| first <= last && last <= end));
        (self.wanted, self.rested) = (self.wanted.min(end), end);
        self.flush();
    }

    fn step(&mut self) {
        match self.below(13) {
            0..6 => self.append(),
            6..8 => {
                self.work();
            }
            8 => {
                let offset = self.state.end + 5 - self.below(10).min(self.state.end as u64 + 5) as Offset;
                self.state.want_flush(offset);
                self.wanted = self.wanted.max(offset.min(self.state.end));
            }
            9 | 10 => self.read(),
            11 => self.take_back(),
            _ => {
                self.settle();
                if self.below(2) == 0 {
                    self.state.rest();
                    self.state.spans.clear();
                    self.state.retired.clear();
                    self.rested = self.state.end;
                    assert!(self.state.at_rest());
                }
            }
        }
    }
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

#[test]
fn files_get_what_was_appended_and_readers_see_it() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        for _ in 0..120 {
            world.step();
        }
        world.settle();
    }
}

#[test]
fn a_segment_is_allocated_in_growing_steps_up_to_its_size() {
    let mut segment = Segment::<()>::new(0, 4096);
    assert_eq!(segment.allocation(1, 1 << 30), Some(FIRST_ALLOCATION));
    segment.allocated = FIRST_ALLOCATION;
    assert_eq!(segment.allocation(FIRST_ALLOCATION, 1 << 30), None);
    assert_eq!(segment.allocation(FIRST_ALLOCATION + 1, 1 << 30), Some(3 * FIRST_ALLOCATION));
    assert_eq!(segment.step, 4 * FIRST_ALLOCATION);
    assert_eq!(segment.allocation(FIRST_ALLOCATION + 1, FIRST_ALLOCATION + 5000), Some(FIRST_ALLOCATION + 8192));
    assert_eq!(segment.allocation(5 << 20, FIRST_ALLOCATION), Some(5 << 20), "a batch may be larger");
    for _ in 0..20 {
        segment.allocation(1 << 40, 1 << 40);
    }
    assert_eq!(segment.step, ALLOCATE_AHEAD);
    segment.cut_to(5000);
    assert_eq!((segment.allocated, segment.zeroed), (5000, 8192));
}

#[test]
fn zeros_are_written_ahead_of_small_writes() {
    let mut segment = Segment::<()>::new(0, 4096);
    segment.allocated = 300 * KIB;
    assert_eq!(segment.zero_ahead(0, 4 * KIB), Some((4 * KIB, 256 * KIB)));
    assert_eq!(segment.zero_ahead(4 * KIB, 132 * KIB), None, "half of them are left");
    assert_eq!(segment.zero_ahead(132 * KIB, 136 * KIB), Some((260 * KIB, 40 * KIB)), "up to what is allocated");
    assert_eq!(segment.zero_ahead(296 * KIB, 300 * KIB), None, "nothing is left to fill");
    segment.allocated = 900 * KIB;
    assert_eq!(segment.zero_ahead(300 * KIB, 429 * KIB), None, "a large write");
    assert_eq!(segment.zero_ahead(300 * KIB, 428 * KIB), Some((429 * KIB, 256 * KIB)));
    assert_eq!(segment.zero_ahead(1000 * KIB, 1004 * KIB), None);
    assert_eq!((segment.allocated, segment.zeroed), (1004 * KIB, 1004 * KIB), "the write made the file longer");
}

#[test]
fn chunks_grow_with_quick_logs_and_shrink_with_slow_ones() {
    let memory = Memory::new(64 << 20);
    let mut state = fresh();
    let mut now = SECOND;
    let mut wanted = |state: &mut State<()>, len, roll, pause: Duration| {
        now += pause;
        let size = state.chunk_wanted(len, roll, || CHUNK_MAX, || now).unwrap();
        state.open_span(memory.chunk_now(size), roll.then(|| Segment::new(state.end, 4096)));
        size
    };
    let quick = SECOND / 2;
    assert_eq!(wanted(&mut state, CHUNK_MAX, false, quick), CHUNK_MAX, "as large as the batch");
    let (mut state, big) = (fresh(), CHUNK_MAX);
    let mut sizes = Vec::new();
    for pause in [quick, quick, quick, SECOND, SECOND] {
        if let Some(span) = &mut state.active {
            let room = span.chunk.room();
            span.chunk.advance(room);
        }
        sizes.push(wanted(&mut state, 1, false, pause) / CHUNK_MIN);
    }
    assert_eq!(sizes, [1, 2, 4, 2, 1]);
    assert_eq!(wanted(&mut state, 1, true, quick), CHUNK_MIN, "a new segment changes nothing");
    assert_eq!(state.chunk_wanted(1, false, || big, || SECOND), None, "there is room");
    let room = state.active.as_ref().unwrap().chunk.room();
    assert_eq!(state.chunk_wanted(room, false, || big, || SECOND), None);
    state.last_segment().size = 4096 + 100;
    assert_eq!(state.chunk_wanted(big, false, || 0, || SECOND), Some(big + 100), "with the unaligned end");
}

#[test]
fn a_segment_ends_by_size_age_offsets_and_index() {
    let mut state = fresh();
    let rolls = |state: &State<()>, len, last, age| state.rolls(len, last, &CONFIG, |_| (age, 1000));
    assert!(!rolls(&state, 1 << 20, 0, 9999), "an empty one never does");
    state.last_segment().size = 60_000;
    assert_eq!([40_000, 40_001].map(|len| rolls(&state, len, 9, 0)), [false, true]);
    assert_eq!([1000, 1001].map(|age| rolls(&state, 1, 9, age)), [false, true]);
    let most = i64::from(i32::MAX);
    assert_eq!([most, most + 1].map(|last| rolls(&state, 1, last, 0)), [false, true]);
    let small = LogConfig { segment_index_bytes: 12, ..CONFIG };
    assert!(state.rolls(1, 9, &small, |_| (0, 1)));
}

#[test]
fn flushes_are_asked_for_once_for_all() {
    let mut state = fresh();
    state.end = 100;
    state.want_flush(0);
    assert_eq!(state.wanted, None, "flushed already");
    for (offset, wanted) in [(50, (50, 50)), (70, (50, 70)), (30, (30, 70)), (500, (30, 100))] {
        state.want_flush(offset);
        assert_eq!(state.wanted, Some(wanted));
    }
    state.written = 60;
    state.unflushed = true;
    assert_eq!(state.next_job(false), Job::Sync);
    state.flushed_to(29).unwrap();
    assert_eq!(state.wanted, Some((30, 100)));
    state.flushed_to(30).unwrap();
    assert_eq!(state.wanted, Some((100, 100)));
    assert_eq!(state.next_job(false), Job::Wait, "what is wanted is not written");
    state.written = 100;
    state.flushed_to(100).unwrap();
    assert_eq!(state.wanted, None);
    assert!(state.flushed_to(101).is_err(), "beyond what is written");
    assert_eq!(state.next_job(true), Job::Stop);
}
