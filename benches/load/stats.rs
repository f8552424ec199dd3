//! What is counted during a run: per thread first, added up at the end.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// The run's clock and which part of it counts. Times are nanoseconds since `start`.
#[derive(Clone, Copy)]
pub struct Clock {
    pub start: Instant,
    pub measure_from: u64,
    pub measure_to: u64,
}

impl Clock {
    /// Starts now.
    pub fn new(warmup: Duration, duration: Duration) -> Self {
        Self { start: Instant::now(), measure_from: warmup.as_nanos() as u64, measure_to: (warmup + duration).as_nanos() as u64 }
    }

    /// Measures nothing.
    pub fn idle() -> Self {
        Self { start: Instant::now(), measure_from: 0, measure_to: 0 }
    }

    pub fn sleep_until(&self, at: u64) {
        std::thread::sleep(Duration::from_nanos(at.saturating_sub(self.now())));
    }

    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    pub fn measures(&self, at: u64) -> bool {
        (self.measure_from..self.measure_to).contains(&at)
    }
}

/// Work that was acknowledged or received.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    pub requests: u64,
    pub records: u64,
    /// Bytes of record batches.
    pub bytes: u64,
}

impl Totals {
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Counts and latencies (nanoseconds) of the measured part.
pub struct Stats {
    pub clock: Clock,
    pub produced: Totals,
    pub fetched: Totals,
    /// From when a request was to be sent until its answer.
    pub response: Histogram<u64>,
    /// From when it was sent.
    pub service: Histogram<u64>,
    /// From when a batch was to be sent until a consumer has it.
    pub end_to_end: Histogram<u64>,
    /// Partition errors by Kafka's number.
    pub errors: BTreeMap<i16, u64>,
    /// Connections that broke, and why the first did.
    pub broken: u64,
    pub first_break: Option<String>,
    /// Requests still unanswered at the end of the run.
    pub unanswered: u64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 100_000_000_000, 3).expect("constant bounds are valid")
}

impl Stats {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            produced: Totals::default(),
            fetched: Totals::default(),
            response: histogram(),
            service: histogram(),
            end_to_end: histogram(),
            errors: BTreeMap::new(),
            broken: 0,
            first_break: None,
            unanswered: 0,
        }
    }

    /// A request was answered at `now`.
    pub fn answered(&mut self, now: u64, intended: u64, sent: u64) {
        if self.clock.measures(now) {
            self.response.saturating_record(now.saturating_sub(intended));
            self.service.saturating_record(now.saturating_sub(sent));
        }
    }

    pub fn error(&mut self, code: i16) {
        *self.errors.entry(code).or_default() += 1;
    }

    pub fn broke(&mut self, reason: &std::io::Error) {
        self.broken += 1;
        self.first_break.get_or_insert_with(|| reason.to_string());
    }

    pub fn add(&mut self, other: &Self) {
        self.produced.add(other.produced);
        self.fetched.add(other.fetched);
        for (mine, theirs) in
            [(&mut self.response, &other.response), (&mut self.service, &other.service), (&mut self.end_to_end, &other.end_to_end)]
        {
            mine.add(theirs).expect("all have the same bounds");
        }
        for (code, count) in &other.errors {
            *self.errors.entry(*code).or_default() += count;
        }
        self.broken += other.broken;
        self.unanswered += other.unanswered;
        if self.first_break.is_none() {
            self.first_break.clone_from(&other.first_break);
        }
    }
}

/// Totals that the main thread shows while the run goes on.
#[derive(Default)]
pub struct Progress {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    pub fn add(&self, requests: u64, bytes: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Requests and bytes so far, warm-up included.
    pub fn get(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}
