//! A produce request on its way: appended in the order in which it was read, answered when the last partition is as safe as asked for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::Server;
use super::conn::Conn;
use crate::api::produce::{Context, Plan, Planner};
use crate::rt::{Class, Rt};
use crate::shard::op::Produced;
use crate::shard::owner::Sink;
use crate::wire;
use crate::wire::frame::RequestHeader;

/// Inflated bytes that are checked before others have their turn.
const TURN: usize = 256 << 10;

/// The connections of a core whose requests take more than a turn to check. One batch is inflated at
/// a time, so the memory for it does not grow with the number of connections.
pub struct Checks<R: Rt> {
    waiting: RefCell<VecDeque<Rc<Conn<R>>>>,
    /// A task works on them.
    running: Cell<bool>,
}

impl<R: Rt> Default for Checks<R> {
    fn default() -> Checks<R> {
        Checks { waiting: RefCell::default(), running: Cell::new(false) }
    }
}

/// The requests of one connection that are not checked yet, in the order in which they were read:
/// none overtakes another.
#[derive(Default)]
pub struct Unchecked {
    requests: RefCell<VecDeque<Request>>,
}

/// A request that is being checked.
struct Request {
    planner: Planner,
    place: u64,
    version: i16,
    correlation_id: i32,
}

struct Pending<R: Rt> {
    conn: Rc<Conn<R>>,
    place: u64,
    version: i16,
    correlation_id: i32,
    acks: i16,
    plan: RefCell<Plan>,
    remaining: Cell<usize>,
}

/// Starts a produce request; the response follows by itself.
pub fn handle<R: Rt>(conn: &Rc<Conn<R>>, place: u64, header: &RequestHeader, body: Bytes) -> io::Result<()> {
    let server = &conn.server;
    let version = header.api_version;
    let request = wire::produce::decode(body, version).map_err(super::dispatch::malformed)?;
    let context =
        Context { version, image: server.shard.image(), now_ms: server.rt.now().wall_ms, verify: server.config.verify_compressed };
    let planner = Planner::new(request, context);
    let mut request = Request { planner, place, version, correlation_id: header.correlation_id };
    server.producing.set(server.producing.get() + 1);
    let mut requests = conn.unchecked.requests.borrow_mut();
    if requests.is_empty() && request.planner.step(&mut TURN.clone()) {
        drop(requests);
        submit(conn, request);
        return Ok(());
    }
    requests.push_back(request);
    if requests.len() == 1 {
        server.checks.waiting.borrow_mut().push_back(conn.clone());
        check_later(server);
    }
    Ok(())
}

/// Makes sure that a task checks the requests that wait.
fn check_later<R: Rt>(server: &Rc<Server<R>>) {
    if server.checks.running.replace(true) {
        return;
    }
    let server = server.clone();
    server.rt.clone().spawn(Class::Foreground, async move {
        loop {
            let next = server.checks.waiting.borrow_mut().pop_front();
            let Some(conn) = next else { break };
            if check_a_batch(&conn).await {
                server.checks.waiting.borrow_mut().push_back(conn);
            }
            server.rt.yield_now().await;
        }
        server.checks.running.set(false);
    });
}

/// Checks one long batch of a connection, or as many short ones as a turn allows. True if there is
/// more.
async fn check_a_batch<R: Rt>(conn: &Rc<Conn<R>>) -> bool {
    loop {
        let checked = {
            let mut requests = conn.unchecked.requests.borrow_mut();
            let Some(first) = requests.front_mut() else { return false };
            if !first.planner.step(&mut TURN.clone()) {
                if first.planner.between_batches() {
                    return true;
                }
                None
            } else {
                requests.pop_front()
            }
        };
        match checked {
            None => conn.server.rt.yield_now().await,
            Some(request) => {
                submit(conn, request);
                return !conn.unchecked.requests.borrow().is_empty();
            }
        }
    }
}

/// Appends the batches of a request that has been checked.
fn submit<R: Rt>(conn: &Rc<Conn<R>>, request: Request) {
    let Request { planner, place, version, correlation_id } = request;
    let acks = planner.acks();
    // The request's memory is given back as soon as its batches are copied.
    let mut plan = planner.finish();
    let items = std::mem::take(&mut plan.items);
    let remaining = Cell::new(items.len());
    let pending = Pending { conn: conn.clone(), place, version, correlation_id, acks, remaining, plan: RefCell::new(plan) };
    if items.is_empty() {
        pending.finish();
    } else {
        conn.server.shard.produce(items, Rc::new(pending));
    }
}

impl<R: Rt> Pending<R> {
    fn finish(&self) {
        let server = &self.conn.server;
        server.producing.set(server.producing.get() - 1);
        let plan = self.plan.borrow();
        if self.acks == 0 {
            self.conn.reply(self.place, Vec::new());
            if plan.refused() {
                tracing::info!("{}: closed: a batch sent with acks=0 was refused", self.conn.peer);
                self.conn.close();
            }
            return;
        }
        let response = wire::produce::encode_response(self.version, self.correlation_id, &plan.topics, 0);
        self.conn.reply(self.place, vec![response]);
    }
}

impl<R: Rt> Sink for Pending<R> {
    fn produced(&self, index: u32, produced: Produced) {
        self.plan.borrow_mut().answer(index as usize, &produced);
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() == 0 {
            self.finish();
        }
    }
}
