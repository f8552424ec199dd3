//! A thread of the generator: its connections, its schedule, its counts.

use std::{collections::VecDeque, io, time::Duration};

use crate::{
    connection::Connection,
    produce::Ledger,
    stats::{Progress, Stats},
    sys::{self, Poller},
};

/// How long answers are waited for after the end.
const DRAIN: u64 = 10_000_000_000;
/// Before a request this near the thread does not sleep.
const SPIN: u64 = 60_000;
const TICK: u64 = 100_000_000;

/// Requests at fixed times, going to the producers (or to all, when there are none) in turn.
pub struct Schedule {
    /// Nanoseconds between two requests of this thread, and when the first is due.
    pub interval: f64,
    pub first: f64,
}

pub struct Worker {
    connections: Vec<Connection>,
    poller: Poller,
    stats: Stats,
    schedule: Option<Schedule>,
    /// Requests scheduled so far, and the connections that they go to.
    scheduled: u64,
    paced: Vec<usize>,
    /// How long a record waits for others, nanoseconds; 0: each request stands for itself.
    linger: u64,
    /// For each connection when the first record of its open batch was due, and how many there are.
    open: Vec<(u64, u64)>,
    /// Open batches in the order of their deadlines: the connection, and when its first record was due.
    waiting: VecDeque<(usize, u64)>,
    broken: Vec<bool>,
    reported: (u64, u64),
}

impl Worker {
    pub fn new(connections: Vec<Connection>, schedule: Option<Schedule>, linger: u64, stats: Stats) -> io::Result<Self> {
        let poller = Poller::new()?;
        for (token, connection) in connections.iter().enumerate() {
            poller.add(connection.socket(), token)?;
        }
        let producers: Vec<usize> = (0..connections.len()).filter(|&i| connections[i].is_producer()).collect();
        let paced = if producers.is_empty() { (0..connections.len()).collect() } else { producers };
        let broken = vec![false; connections.len()];
        let open = vec![(0, 0); connections.len()];
        let waiting = VecDeque::new();
        Ok(Self { connections, poller, stats, schedule, scheduled: 0, paced, linger, open, waiting, broken, reported: (0, 0) })
    }

    /// Runs to the end of the clock and until all is answered.
    pub fn run(mut self, progress: &Progress) -> io::Result<(Stats, Vec<Ledger>)> {
        sys::precise_timers();
        let end = self.stats.clock.measure_to;
        let mut ready = Vec::new();
        for index in 0..self.connections.len() {
            self.advance(index, false);
        }
        loop {
            let now = self.stats.clock.now();
            let stopping = now >= end;
            let owed = stopping && now < end + DRAIN && self.owed();
            if (stopping && !owed) || self.broken.iter().all(|&broken| broken) {
                break;
            }
            let next = if stopping { now + TICK } else { self.issue(now).min(end) };
            self.poller.wait(self.timeout(next), &mut ready)?;
            for event in &ready {
                let connection = &mut self.connections[event.token];
                connection.readable |= event.readable;
                connection.writable |= event.writable;
                let stopping = self.stats.clock.now() >= end;
                self.advance(event.token, stopping);
            }
            self.report(progress);
        }
        self.stats.unanswered = self.connections.iter().filter(|c| c.is_producer()).map(Connection::unanswered).sum();
        Ok((self.stats, self.connections.into_iter().flat_map(Connection::into_ledgers).collect()))
    }

    /// True while a producer waits for an answer.
    fn owed(&self) -> bool {
        self.connections.iter().zip(&self.broken).any(|(connection, broken)| !broken && connection.is_producer() && connection.busy())
    }

    /// Sends what is due; when the next request is.
    fn issue(&mut self, now: u64) -> u64 {
        let Some(Schedule { interval, first }) = self.schedule else { return now + TICK };
        loop {
            let due = (first + self.scheduled as f64 * interval) as u64;
            if due > now {
                return due.min(self.close_batches(now));
            }
            let index = self.paced[self.scheduled as usize % self.paced.len()];
            self.scheduled += 1;
            if self.linger > 0 {
                self.add_record(index, due);
                continue;
            }
            let whole = self.connections[index].whole();
            self.connections[index].schedule(due, whole);
            self.advance(index, false);
        }
    }

    /// A record of an open batch, which is sent when it is full.
    fn add_record(&mut self, index: usize, due: u64) {
        let (first, records) = &mut self.open[index];
        if *records == 0 {
            *first = due;
            self.waiting.push_back((index, due));
        }
        *records += 1;
        if *records == self.connections[index].whole() {
            self.send_open(index);
        }
    }

    /// Sends the batches that have waited long enough; when the next one will have.
    fn close_batches(&mut self, now: u64) -> u64 {
        while let Some((index, first)) = self.waiting.front().copied() {
            let current = self.open[index].1 > 0 && self.open[index].0 == first;
            if current && first + self.linger > now {
                return first + self.linger;
            }
            self.waiting.pop_front();
            if current {
                self.send_open(index);
            }
        }
        u64::MAX
    }

    fn send_open(&mut self, index: usize) {
        let (first, records) = std::mem::take(&mut self.open[index]);
        self.connections[index].schedule(first, records);
        self.advance(index, false);
    }

    fn timeout(&self, next: u64) -> Duration {
        let left = next.saturating_sub(self.stats.clock.now());
        Duration::from_nanos(if left <= SPIN { 0 } else { (left - SPIN).min(TICK) })
    }

    fn advance(&mut self, index: usize, stopping: bool) {
        if self.broken[index] {
            return;
        }
        let connection = &mut self.connections[index];
        // Consumers follow the schedule only where there are no producers.
        let open_loop = self.schedule.is_some() && (connection.is_producer() || self.paced.len() == self.broken.len());
        if let Err(error) = connection.advance(open_loop, stopping, &mut self.stats) {
            self.broken[index] = true;
            self.stats.broke(&error);
        }
    }

    fn report(&mut self, progress: &Progress) {
        let (produced, fetched) = (self.stats.produced, self.stats.fetched);
        let total = (produced.requests + fetched.requests, produced.bytes + fetched.bytes);
        progress.add(total.0 - self.reported.0, total.1 - self.reported.1);
        self.reported = total;
    }
}
