//! One non-blocking connection to a broker: requests out, answers in, in order.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read},
    net::TcpStream,
};

use crate::{
    batch::HEADER,
    fetch::{Fetcher, LONGEST_HEAD},
    produce::{Ledger, Producer},
    stats::Stats,
    sys,
    wire::malformed,
};

/// Requests are gathered up to this size before they are sent.
const GATHER: usize = 64 << 10;
/// Answers of at least this many uninteresting bytes are dropped in the kernel.
const DROP_IN_KERNEL: usize = 16 << 10;
const RECEIVE: usize = 64 << 10;
/// Larger answers are none.
const FRAME_MAX: usize = 1 << 30;

pub enum Role {
    Produce(Producer),
    Fetch(Fetcher),
}

/// A request that was sent.
struct Pending {
    intended: u64,
    sent: u64,
    /// Which partition it went to, in the role's own numbering.
    turn: usize,
    /// Records in it, of a producer.
    records: u64,
}

enum Phase {
    Size,
    Head,
    /// This many bytes of records are still to come.
    Records(usize),
    End,
}

pub struct Connection {
    socket: TcpStream,
    pub readable: bool,
    pub writable: bool,
    role: Role,
    inflight: usize,
    /// Intended times and records of requests that could not be sent yet; used in the open loop only.
    due: VecDeque<(u64, u64)>,
    pending: VecDeque<Pending>,
    next_id: i32,
    out: Vec<u8>,
    out_sent: usize,
    /// Bytes of the batch's tail that follow `out`.
    tail_left: usize,
    received: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes to pass over.
    skip: usize,
    phase: Phase,
    /// Bytes of the current answer after those consumed and those in `skip`.
    frame_left: usize,
}

impl Connection {
    pub fn new(socket: TcpStream, role: Role, inflight: usize) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            readable: true,
            writable: true,
            role,
            inflight,
            due: VecDeque::new(),
            pending: VecDeque::with_capacity(inflight),
            next_id: 0,
            out: Vec::with_capacity(GATHER),
            out_sent: 0,
            tail_left: 0,
            received: vec![0; RECEIVE],
            start: 0,
            end: 0,
            skip: 0,
            phase: Phase::Size,
            frame_left: 0,
        })
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// True while an answer is owed, or a request is half sent.
    pub fn busy(&self) -> bool {
        !self.pending.is_empty() || self.out_sent < self.out.len() || self.tail_left > 0
    }

    pub fn is_producer(&self) -> bool {
        matches!(self.role, Role::Produce(_))
    }

    pub fn unanswered(&self) -> u64 {
        self.pending.len() as u64
    }

    /// A request is to be sent at `intended`, by a producer with so many records.
    pub fn schedule(&mut self, intended: u64, records: u64) {
        self.due.push_back((intended, records));
    }

    /// Records of a whole batch; 1 for a consumer.
    pub fn whole(&self) -> u64 {
        match &self.role {
            Role::Produce(producer) => producer.template().records,
            Role::Fetch(_) => 1,
        }
    }

    pub fn into_ledgers(self) -> Vec<Ledger> {
        match self.role {
            Role::Produce(producer) => producer.into_ledgers(),
            Role::Fetch(_) => Vec::new(),
        }
    }

    /// Does all that can be done now. `open_loop`: requests are sent when scheduled; `stopping`: none are begun.
    pub fn advance(&mut self, open_loop: bool, stopping: bool, stats: &mut Stats) -> io::Result<()> {
        while self.readable {
            self.receive(stats)?;
        }
        while self.writable {
            if !self.transmit(stats)? || stopping || !self.gather(open_loop, stats) {
                break;
            }
        }
        Ok(())
    }

    /// Sends what was gathered; false if the socket takes no more.
    fn transmit(&mut self, stats: &mut Stats) -> io::Result<bool> {
        loop {
            let result = if self.out_sent < self.out.len() {
                sys::send(&self.socket, &self.out[self.out_sent..], self.tail_left > 0)
            } else if self.tail_left > 0 {
                self.send_tail()
            } else {
                break;
            };
            match result {
                Ok(sent) if self.out_sent < self.out.len() => self.out_sent += sent,
                Ok(sent) => self.tail_left -= sent,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.out_sent = 0;
        if let Role::Produce(producer) = &mut self.role
            && !producer.wants_answer()
            && !self.pending.is_empty()
        {
            let now = stats.clock.now();
            for pending in self.pending.drain(..) {
                producer.done(pending.turn, pending.records, 0, now, stats);
                stats.answered(now, pending.intended, pending.sent);
            }
        }
        Ok(true)
    }

    fn send_tail(&self) -> io::Result<usize> {
        let Role::Produce(producer) = &self.role else { return Ok(0) };
        let template = producer.template();
        let at = template.tail().len() - self.tail_left;
        sys::send(&self.socket, &template.tail()[at..], false)
    }

    /// Prepares the next requests; false if there are none.
    fn gather(&mut self, open_loop: bool, stats: &Stats) -> bool {
        while self.pending.len() < self.inflight && self.out.len() < GATHER && self.tail_left == 0 {
            let sent = stats.clock.now();
            let (intended, records) = match self.due.pop_front() {
                Some(due) => due,
                None if open_loop => break,
                None => (sent, self.whole()),
            };
            let turn = match &mut self.role {
                Role::Fetch(fetcher) => fetcher.put_request(&mut self.out, self.next_id),
                Role::Produce(producer) => {
                    let turn = producer.put_request(&mut self.out, self.next_id, intended, records);
                    if records != producer.template().records {
                        // A part of a batch is in `out` as a whole.
                    } else if producer.template().tail_apart() {
                        self.tail_left = producer.template().tail().len();
                    } else {
                        self.out.extend(producer.template().tail());
                    }
                    turn
                }
            };
            self.next_id = self.next_id.wrapping_add(1);
            self.pending.push_back(Pending { intended, sent, turn, records });
        }
        !self.out.is_empty()
    }

    /// Receives once, and works on what came.
    fn receive(&mut self, stats: &mut Stats) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let drop = self.start == self.end && self.skip >= DROP_IN_KERNEL;
        let result = if drop {
            sys::receive_nothing(&self.socket, self.skip)
        } else {
            self.make_room();
            (&self.socket).read(&mut self.received[self.end..])
        };
        match result {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed the connection")),
            Ok(count) if drop => self.skip -= count,
            Ok(count) => {
                // A short read has emptied the socket: the next bytes are reported anew.
                self.readable = self.end + count == self.received.len();
                self.end += count;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        let now = stats.clock.now();
        while self.parse(now, stats)? {}
        Ok(())
    }

    fn make_room(&mut self) {
        if self.received.len() - self.end < RECEIVE / 2 {
            self.received.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.received.len() {
            self.received.resize(self.end * 2, 0);
        }
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        self.frame_left -= count;
    }

    /// Takes one step on the received bytes; false if it needs more of them.
    fn parse(&mut self, now: u64, stats: &mut Stats) -> io::Result<bool> {
        let skipped = self.skip.min(self.end - self.start);
        self.start += skipped;
        self.skip -= skipped;
        if self.skip > 0 {
            return Ok(false);
        }
        let bytes = &self.received[self.start..self.end];
        let (turn, records) = self.pending.front().map_or((None, 0), |pending| (Some(pending.turn), pending.records));
        match self.phase {
            Phase::Size => {
                let Some(size) = bytes.first_chunk::<4>() else { return Ok(false) };
                self.frame_left = u32::from_be_bytes(*size) as usize;
                if !(5..=FRAME_MAX).contains(&self.frame_left) || turn.is_none() {
                    return Err(malformed("frame"));
                }
                self.start += 4;
                self.phase = Phase::Head;
            }
            Phase::Head => return self.head(turn.ok_or_else(|| malformed("frame"))?, records, now, stats),
            Phase::Records(left) => {
                let (Role::Fetch(fetcher), Some(turn)) = (&mut self.role, turn) else { return Err(malformed("records")) };
                let wanted = fetcher.wanted().min(left);
                if bytes.len() < wanted {
                    return Ok(false);
                }
                match fetcher.batch(&bytes[..wanted], left, turn, now, stats) {
                    Some(total) => {
                        self.phase = if left - total < HEADER { Phase::End } else { Phase::Records(left - total) };
                        self.frame_left -= total;
                        self.skip = total;
                    }
                    None => self.phase = Phase::End,
                }
            }
            Phase::End if self.frame_left > 0 => self.skip = std::mem::take(&mut self.frame_left),
            Phase::End => {
                let pending = self.pending.pop_front().ok_or_else(|| malformed("frame"))?;
                stats.answered(now, pending.intended, pending.sent);
                if let Role::Fetch(fetcher) = &mut self.role {
                    fetcher.done(pending.turn, now, stats);
                }
                self.phase = Phase::Size;
            }
        }
        Ok(true)
    }

    /// Takes the start of an answer: all of it when producing.
    fn head(&mut self, turn: usize, records: u64, now: u64, stats: &mut Stats) -> io::Result<bool> {
        let needed = if self.is_producer() { self.frame_left } else { self.frame_left.min(LONGEST_HEAD) };
        let bytes = &self.received[self.start..self.end];
        if bytes.len() < needed {
            return Ok(false);
        }
        let expected = self.next_id.wrapping_sub(self.pending.len() as i32);
        let (id, body) = bytes[..needed].split_at(4);
        if id != expected.to_be_bytes() {
            return Err(malformed("answers out of order"));
        }
        match &mut self.role {
            Role::Produce(producer) => {
                producer.answer(body, turn, records, now, stats)?;
                self.consume(needed);
                self.phase = Phase::End;
            }
            Role::Fetch(fetcher) => {
                let head = fetcher.head(body, turn, stats)?;
                if 4 + head.length + head.records_len > self.frame_left {
                    return Err(malformed("records"));
                }
                self.consume(4 + head.length);
                self.phase = if head.records_len < HEADER { Phase::End } else { Phase::Records(head.records_len) };
            }
        }
        Ok(true)
    }
}
