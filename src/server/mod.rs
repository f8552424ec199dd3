//! The broker's front: it starts the cores, accepts connections, and turns requests into work for the shards.

pub mod admission;
pub mod conn;
mod dispatch;
mod fetch;
mod groups;
mod produce;
pub mod replies;
mod start;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use slab::Slab;

use crate::api::BrokerView;
use crate::api::fetch_session::Sessions;
use crate::api::init_producer_id::ProducerIds;
use crate::base::config::Config;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};
use crate::shard::Shard;
use conn::Conn;

pub use start::run;

/// How often connections are looked at for idleness, and memory is given back.
const SWEEP: Duration = Duration::from_secs(1);
/// Under memory pressure a request may take this long to arrive whole.
const STALLED: Duration = Duration::from_secs(10);
/// How long requests that were read may take to be finished at a stop.
const FINISH: Duration = Duration::from_secs(10);

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
    connections: RefCell<Slab<Rc<Conn<R>>>>,
    producer_ids: RefCell<ProducerIds>,
    /// Produce requests in work.
    producing: Cell<usize>,
    /// Those of them that take longer to check.
    checks: produce::Checks<R>,
    stopping: Cell<bool>,
}

impl<R: Rt> Server<R> {
    /// Serves the connections that the shard is handed. `broker` is set before the first.
    pub fn start(shard: &Shard<R>, config: Arc<Config>, broker: Arc<OnceLock<BrokerView>>) -> Rc<Server<R>> {
        let rt = shard.rt().clone();
        let slots = (config.max_fetch_sessions / rt.cores()).max(1);
        let server = Rc::new(Server {
            shard: shard.clone(),
            config,
            broker,
            sessions: RefCell::new(Sessions::new(slots)),
            connections: RefCell::default(),
            producer_ids: RefCell::default(),
            producing: Cell::new(0),
            checks: produce::Checks::default(),
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

    /// True once no more requests are read.
    pub fn stopping(&self) -> bool {
        self.stopping.get()
    }

    fn join(&self, conn: &Rc<Conn<R>>) {
        conn.index.set(self.connections.borrow_mut().insert(conn.clone()));
    }

    fn leave(&self, conn: &Conn<R>) {
        let left = self.connections.borrow_mut().try_remove(conn.index.get());
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
                if quiet >= self.config.connections_max_idle {
                    tracing::debug!("{}: closed after {} s without a byte (connections.max.idle.ms)", conn.peer, quiet.as_secs());
                    conn.close();
                    continue;
                }
                if quiet >= SWEEP {
                    conn.release_chunk();
                }
                stalled.extend(conn.frame_since().filter(|since| now.saturating_sub(*since) > STALLED).map(|since| (since, conn)));
            }
            if self.rt.memory().contended() {
                Self::close_oldest(stalled);
            }
            self.rt.memory().trim();
        }
    }

    /// Requests that hold memory without ever being complete, as others wait for it: the oldest quarter goes.
    fn close_oldest(mut stalled: Vec<(Duration, Rc<Conn<R>>)>) {
        stalled.sort_by_key(|(since, _)| *since);
        stalled.truncate(stalled.len().div_ceil(4));
        if let Some((_, first)) = stalled.first() {
            let count = stalled.len();
            tracing::warn!(
                "{count} connections closed ({}, …): their requests take too long to arrive while others wait for memory",
                first.peer
            );
        }
        stalled.iter().for_each(|(_, conn)| conn.close());
    }
}
