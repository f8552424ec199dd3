//! The broker's front: it starts the cores, accepts connections, and turns requests into work for the shards.

pub mod admission;
mod backlog;
pub mod conn;
mod dispatch;
mod fetch;
mod groups;
mod long;
mod parts;
mod produce;
pub mod replies;
mod start;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

use crate::api::BrokerView;
use crate::api::fetch_session::Sessions;
use crate::api::init_producer_id::ProducerIds;
use crate::base::config::Config;
use crate::base::limits::SMALL_RECEIVE;
use crate::rt::mem::Account;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};
use crate::shard::Shard;
use backlog::{Backlog, Limits};
use conn::Conn;
use long::{Line, LongRequests};

pub use start::run;

/// How often connections are looked at for idleness, and memory is given back.
const SWEEP: Duration = Duration::from_secs(1);
/// Under memory pressure a request may take this long to arrive whole, or to get its place on the way to the disk.
const STALLED: Duration = Duration::from_secs(10);
/// Under memory pressure a client may take this long to read answers.
const UNREAD: Duration = Duration::from_secs(3);
/// The part of a core's memory that the answers to one connection may take at a time: one of so many.
const ANSWER_SHARE: usize = 16;
/// Most bytes of records of an answer while much is being sent. A first batch that is larger comes
/// whole.
const SCARCE_ANSWER: usize = 64 << 10;
/// The part of a core's memory for beginnings of requests that wait for memory, one of so many.
const PUT_BY_SHARE: usize = 8;
/// Fetch sessions take at most one of so many parts of the memory.
const SESSIONS_SHARE: usize = 16;
/// How long requests that were read may take to be finished at a stop.
const FINISH: Duration = Duration::from_secs(10);

/// What the connections of one core may have on the way to the disks. The batches lie in the memory
/// of the cores that own the partitions, half of which is for them: all cores send to each partition.
fn backlog_limits(budget: usize, cores: usize, disks: usize) -> Limits {
    Limits { partition: (budget / 8 / cores).max(1), disk: (budget / 2 / disks.max(1)).max(1) }
}

/// The server of one core.
pub struct Server<R: Rt> {
    /// The runtime of this core.
    pub rt: R,
    /// The shard of this core.
    pub shard: Shard<R>,
    /// What the broker was told.
    pub config: Arc<Config>,
    broker: Arc<OnceLock<BrokerView>>,
    sessions: RefCell<Sessions>,
    /// What they take.
    session_bytes: Account,
    connections: RefCell<Slab<Rc<Conn<R>>>>,
    producer_ids: RefCell<ProducerIds>,
    /// Produce requests in work.
    producing: Cell<usize>,
    /// Bytes handed to sockets that have not left.
    unsent: Cell<usize>,
    /// Batches on their way to the disks.
    backlog: RefCell<Backlog<Rc<Conn<R>>>>,
    /// Those of them that take longer to check.
    checks: produce::Checks<R>,
    /// Of each core whether its memory is scarce: answers of one core hold memory of others.
    scarce: Arc<[AtomicBool]>,
    /// Long requests in work, and what all requests hold.
    long: Rc<LongRequests<R>>,
    /// Requests that ask about many groups: one at a time.
    many_groups: Rc<Line<R>>,
    /// Bytes of beginnings of requests that wait for memory.
    put_by: Cell<usize>,
    stopping: Cell<bool>,
}

/// Takes back what [`Server::put_by`] has counted.
pub struct PutBy<R: Rt> {
    server: Rc<Server<R>>,
    bytes: usize,
}

impl<R: Rt> Drop for PutBy<R> {
    fn drop(&mut self) {
        self.server.put_by.set(self.server.put_by.get() - self.bytes);
    }
}

impl<R: Rt> Server<R> {
    /// Serves the connections that the shard is handed. `broker` is set before the first.
    pub fn start(shard: &Shard<R>, config: Arc<Config>, broker: Arc<OnceLock<BrokerView>>, scarce: Arc<[AtomicBool]>) -> Rc<Server<R>> {
        let rt = shard.rt().clone();
        let slots = (config.max_fetch_sessions / rt.cores()).max(1);
        let disks = config.log_dirs.len();
        let server = Rc::new(Server {
            shard: shard.clone(),
            config,
            broker,
            sessions: RefCell::new(Sessions::new(slots, rt.memory().budget() / SESSIONS_SHARE)),
            session_bytes: rt.memory().account(),
            connections: RefCell::default(),
            producer_ids: RefCell::default(),
            producing: Cell::new(0),
            unsent: Cell::new(0),
            backlog: RefCell::new(Backlog::new(backlog_limits(rt.memory().budget(), rt.cores(), disks))),
            checks: produce::Checks::default(),
            scarce,
            long: LongRequests::new(rt.clone()),
            many_groups: Line::new(rt.clone()),
            put_by: Cell::default(),
            stopping: Cell::new(false),
            rt: rt.clone(),
        });
        let taking = server.clone();
        shard.set_take_connection(Rc::new(move |connection| Conn::spawn(&taking, connection)));
        let stop = Rc::new(Notify::default());
        shard.set_on_stop(stop.clone());
        let stopping = server.clone();
        rt.spawn(Class::Foreground, async move {
            stop.notified().await;
            stopping.finish().await;
            stopping.shard.connections_closed();
        });
        let sweeping = server.clone();
        rt.spawn(Class::Background, async move { sweeping.sweep().await });
        server
    }

    /// This broker as clients see it.
    pub fn broker(&self) -> &BrokerView {
        self.broker.get().expect("set before the first connection is accepted")
    }

    /// Has the fetch sessions do something, and what they take counted.
    fn with_sessions<T>(&self, task: impl FnOnce(&mut Sessions) -> T) -> T {
        let mut sessions = self.sessions.borrow_mut();
        let done = task(&mut sessions);
        if sessions.bytes() != self.session_bytes.bytes() {
            self.session_bytes.set(sessions.bytes());
        }
        done
    }

    /// Has a long answer on the heap counted until it has left.
    fn on_heap(&self, answer: Bytes) -> Bytes {
        if answer.len() < dispatch::LONG_ANSWER { answer } else { self.rt.memory().charged(answer) }
    }

    /// True once no more requests are read.
    pub fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Bytes that one connection's answers may take at a time, but for the first.
    fn answer_share(&self) -> usize {
        self.rt.memory().budget() / ANSWER_SHARE
    }

    /// Most bytes of records of one answer. They pin what they are read from until their client has
    /// taken them; once clients that do not read hold much, new answers get little.
    fn fetch_max(&self) -> usize {
        let budget = self.rt.memory().budget();
        let most = if self.unsent.get() > budget / 4 { SCARCE_ANSWER } else { budget / ANSWER_SHARE };
        most.min(self.config.fetch_max_bytes)
    }

    fn join(&self, conn: &Rc<Conn<R>>) {
        conn.index.set(self.connections.borrow_mut().insert(conn.clone()));
    }

    fn leave(&self, conn: &Conn<R>) {
        let left = self.connections.borrow_mut().try_remove(conn.index.get());
        if conn.waits_for_room().is_some() {
            self.backlog.borrow_mut().cancel(|waiting| std::ptr::eq(&**waiting, conn));
        }
        drop(left);
    }

    fn all(&self) -> Vec<Rc<Conn<R>>> {
        self.connections.borrow().iter().map(|(_, c)| c.clone()).collect()
    }

    /// Reads nothing more, lets produce requests be acknowledged, then closes every connection.
    async fn finish(&self) {
        self.stopping.set(true);
        let deadline = self.rt.now().mono + FINISH;
        while self.producing.get() > 0 && self.rt.now().mono < deadline {
            self.rt.sleep(Duration::from_millis(1)).await;
        }
        // The writers send what is ready.
        self.rt.sleep(Duration::from_millis(10)).await;
        self.all().iter().for_each(|conn| conn.close());
    }

    async fn sweep(&self) {
        while !self.stopping.get() {
            self.rt.sleep(SWEEP).await;
            let now = self.rt.now().mono;
            let mut stalled = Vec::new();
            for conn in self.all() {
                conn.note_progress();
                let quiet = now.saturating_sub(conn.last_active());
                if self.config.connections_max_idle.is_some_and(|idle| quiet >= idle) {
                    tracing::debug!("{}: closed after {} s without a byte (connections.max.idle.ms)", conn.peer, quiet.as_secs());
                    conn.close();
                    continue;
                }
                if quiet >= SWEEP {
                    conn.release_chunk();
                }
                produce::refuse_late(&conn, now);
                let waits = [(conn.frame_since(), STALLED), (conn.answers_since(), UNREAD), (conn.waits_for_room(), STALLED)];
                let late = |(since, most): (Option<Duration>, Duration)| since.filter(|since| now.saturating_sub(*since) > most);
                stalled.extend(waits.into_iter().filter_map(late).min().map(|since| (since, conn)));
            }
            self.scarce[self.rt.core()].store(self.rt.memory().scarce(), Ordering::Relaxed);
            if self.scarce.iter().any(|scarce| scarce.load(Ordering::Relaxed)) {
                Self::close_oldest(stalled);
            }
            self.backlog.borrow_mut().forget_unused();
            self.rt.memory().trim();
        }
    }

    /// Copies the beginning of a request that has to wait for memory: in a receive buffer of the kernel's
    /// it would be in everybody's way, for there are few of those. An error where those who wait have
    /// more than they may together.
    pub fn put_by(self: &Rc<Self>, begun: &mut Bytes) -> io::Result<PutBy<R>> {
        // What is longer lies in memory of the pool.
        let bytes = if begun.len() <= SMALL_RECEIVE { begun.len() } else { 0 };
        let held = PutBy { server: self.clone(), bytes };
        self.put_by.set(self.put_by.get() + bytes);
        if self.put_by.get() > self.rt.memory().budget() / PUT_BY_SHARE {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "too many requests wait for memory"));
        }
        if bytes > 0 {
            *begun = self.rt.memory().charged(Bytes::copy_from_slice(begun));
        }
        Ok(held)
    }

    /// Requests that hold memory without ever being complete, and answers that nobody takes, as others wait for it: the oldest quarter goes.
    fn close_oldest(mut stalled: Vec<(Duration, Rc<Conn<R>>)>) {
        stalled.sort_by_key(|(since, _)| *since);
        stalled.truncate(stalled.len().div_ceil(4));
        if let Some((_, first)) = stalled.first() {
            let count = stalled.len();
            tracing::warn!(
                "{count} connections closed ({}, …): their requests or answers take too long on their way while others wait for memory",
                first.peer
            );
        }
        stalled.iter().for_each(|(_, conn)| conn.close());
    }
}
