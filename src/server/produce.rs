//! A produce request on its way: appended in the order in which it was read, answered when the last partition is as safe as asked for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::Server;
use super::backlog::{Full, Held};
use super::conn::Conn;
use crate::api::produce::{Context, Plan, Planner, Room};
use crate::base::error::ErrorCode;
use crate::rt::slices::SLICE;
use crate::rt::{Class, Rt};
use crate::shard::op::Produced;
use crate::shard::owner::Sink;
use crate::wire;
use crate::wire::frame::RequestHeader;

/// What a look at a request costs of a turn's budget besides its batches, in inflated bytes.
const REQUEST_COST: usize = 512;
/// A request waits so long at most for room on its way to the disk; less if its client gives up
/// before.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The same where nothing has moved for as long and others wait for memory.
const WAIT_STALLED: Duration = Duration::from_secs(2);

/// The connections of a core that have requests to go on with. One batch is inflated at a time, so
/// the memory for it does not grow with the number of connections.
pub struct Checks<R: Rt> {
    /// With each whether it has waited for room and been woken.
    waiting: RefCell<VecDeque<(Rc<Conn<R>>, bool)>>,
    /// A task works on them.
    running: Cell<bool>,
}

impl<R: Rt> Default for Checks<R> {
    fn default() -> Checks<R> {
        Checks { waiting: RefCell::default(), running: Cell::new(false) }
    }
}

/// The requests of one connection that are not handed to the partitions yet, in the order in which
/// they were read: none overtakes another.
#[derive(Default)]
pub struct Queue {
    requests: RefCell<VecDeque<Request>>,
    blocked: Cell<Option<Blocked>>,
}

/// The first request of a queue waits for room.
#[derive(Clone, Copy)]
struct Blocked {
    full: Full,
    since: Duration,
}

impl Queue {
    /// Since when the first request has waited for room.
    pub fn waits_for_room(&self) -> Option<Duration> {
        self.blocked.get().map(|blocked| blocked.since)
    }
}

/// A request on its way to the partitions.
struct Request {
    stage: Stage,
    place: u64,
    version: i16,
    correlation_id: i32,
    acks: i16,
    /// When its client gives up.
    deadline: Duration,
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum Stage {
    Checking(Planner),
    Checked(Plan),
}

/// When a request goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// As soon as it is read. Nothing is compressed anew then: of all connections one batch at a time
    /// is, so that the memory for it does not grow with their number.
    First,
    /// In line with those of other connections.
    InLine,
    /// The same, after it has waited for room on the way to the disk.
    Woken,
}

/// How far a request has come.
enum Progress {
    /// There is more to check.
    Checking {
        /// No batch is half checked.
        between_batches: bool,
    },
    /// It waits for room.
    Full(Full),
    /// It is to be handed to the partitions, and is counted.
    Ready(Vec<Held>),
}

struct Pending<R: Rt> {
    conn: Rc<Conn<R>>,
    place: u64,
    version: i16,
    correlation_id: i32,
    acks: i16,
    plan: RefCell<Plan>,
    /// Of each item what it has on its way.
    held: RefCell<Vec<Option<Held>>>,
    remaining: Cell<usize>,
}

/// Starts a produce request; the response follows by itself.
pub fn handle<R: Rt>(conn: &Rc<Conn<R>>, place: u64, header: &RequestHeader, body: Bytes) -> io::Result<()> {
    let server = &conn.server;
    let version = header.api_version;
    let request = wire::produce::decode(body, version).map_err(super::dispatch::malformed)?;
    let now = server.rt.now();
    let context = Context { version, image: server.shard.image(), now_ms: now.wall_ms, verify: server.config.verify_compressed };
    let planner = Planner::new(request, context);
    let wait = Duration::from_millis(planner.timeout_ms().max(0) as u64).min(WAIT_MAX);
    let mut request = Request {
        acks: planner.acks(),
        stage: Stage::Checking(planner),
        place,
        version,
        correlation_id: header.correlation_id,
        deadline: now.mono + wait,
    };
    server.producing.set(server.producing.get() + 1);
    if conn.queue.requests.borrow().is_empty() {
        // Short ones do not wait for a turn; long ones of others do.
        let mut budget = SLICE;
        let progress = request.go_on(server, Turn::First, &mut budget);
        server.rt.slices().spend(SLICE - budget);
        match progress {
            Progress::Ready(held) => {
                submit(conn, request, held);
                return Ok(());
            }
            Progress::Full(full) => block(conn, full),
            Progress::Checking { .. } => go_on_later(conn, false),
        }
    }
    conn.queue.requests.borrow_mut().push_back(request);
    Ok(())
}

impl Request {
    /// Goes on until `budget`, which counts inflated bytes, was spent.
    fn go_on<R: Rt>(&mut self, server: &Server<R>, turn: Turn, budget: &mut usize) -> Progress {
        *budget = budget.saturating_sub(REQUEST_COST);
        if let Stage::Checking(planner) = &mut self.stage {
            let memory = server.rt.memory();
            let room = |batch: &[u8]| {
                let mut chunk = memory.try_chunk(batch.len())?;
                chunk.extend(batch);
                Some(chunk.slice(0..batch.len()))
            };
            let room: Option<&Room<'_>> = if turn == Turn::First { None } else { Some(&room) };
            if !planner.step(budget, room) {
                return Progress::Checking { between_batches: planner.between_batches() };
            }
            // The request's memory is given back as soon as its batches are copied.
            self.stage = Stage::Checked(planner.take());
        }
        let Stage::Checked(plan) = &self.stage else { unreachable!("set above") };
        let sizes = plan.items.iter().map(|item| (item.key, item.records.len()));
        let reserved = server.backlog.borrow_mut().reserve(sizes, turn == Turn::Woken, server.rt.turn_began());
        reserved.map_or_else(Progress::Full, Progress::Ready)
    }
}

/// Has a connection wait for room on the way to the disk.
fn block<R: Rt>(conn: &Rc<Conn<R>>, full: Full) {
    conn.server.backlog.borrow_mut().wait(full, conn.clone());
    conn.queue.blocked.set(Some(Blocked { full, since: conn.server.rt.now().mono }));
}

/// Makes sure that a task goes on with the requests of a connection.
fn go_on_later<R: Rt>(conn: &Rc<Conn<R>>, woken: bool) {
    let server = &conn.server;
    server.checks.waiting.borrow_mut().push_back((conn.clone(), woken));
    if server.checks.running.replace(true) {
        return;
    }
    let server = server.clone();
    server.rt.clone().spawn(Class::Foreground, async move {
        loop {
            let next = server.checks.waiting.borrow_mut().pop_front();
            let Some((conn, woken)) = next else { break };
            if go_on(&conn, woken).await {
                server.checks.waiting.borrow_mut().push_back((conn, false));
            }
        }
        server.checks.running.set(false);
    });
}

/// Checks one long batch of a connection, or as many short ones as a turn allows, and hands what is
/// checked to the partitions. True if there is more to do.
async fn go_on<R: Rt>(conn: &Rc<Conn<R>>, woken: bool) -> bool {
    loop {
        let step = |budget: &mut usize| {
            let mut requests = conn.queue.requests.borrow_mut();
            let turn = if woken { Turn::Woken } else { Turn::InLine };
            Some(requests.front_mut()?.go_on(&conn.server, turn, budget))
        };
        let Some(progress) = conn.server.rt.slices().step(step).await else { return false };
        match progress {
            Progress::Checking { between_batches: true } => return true,
            Progress::Checking { between_batches: false } => {}
            Progress::Full(full) => {
                block(conn, full);
                return false;
            }
            Progress::Ready(held) => {
                let first = conn.queue.requests.borrow_mut().pop_front();
                submit(conn, first.expect("it was looked at"), held);
                return !conn.queue.requests.borrow().is_empty();
            }
        }
    }
}

/// Goes on with the requests of connections that have waited for room.
fn wake<R: Rt>(woken: Vec<Rc<Conn<R>>>) {
    for conn in woken {
        conn.queue.blocked.set(None);
        conn.read_on();
        go_on_later(&conn, true);
    }
}

/// Refuses the first request of a connection if it has waited for too long: nothing of it is
/// appended, and its memory comes back.
pub fn refuse_late<R: Rt>(conn: &Rc<Conn<R>>, now: Duration) {
    let Some(Blocked { full, since }) = conn.queue.blocked.get() else { return };
    let server = &conn.server;
    let mut requests = conn.queue.requests.borrow_mut();
    let Some(first) = requests.front() else { return };
    let scarce = server.rt.memory().contended()
        && server.backlog.borrow().stalled(full, now) >= WAIT_STALLED
        && now.saturating_sub(since) >= WAIT_STALLED;
    if first.deadline > now && !scarce {
        return;
    }
    let Some(mut first) = requests.pop_front() else { return };
    drop(requests);
    server.backlog.borrow_mut().cancel(|waiting| Rc::ptr_eq(waiting, conn));
    conn.queue.blocked.set(None);
    if let Stage::Checked(plan) = &mut first.stage {
        plan.refuse(ErrorCode::RequestTimedOut);
    }
    submit(conn, first, Vec::new());
    conn.read_on();
    go_on_later(conn, false);
}

/// Forgets the requests of a connection that has ended: nobody waits for them any more.
pub fn forget<R: Rt>(conn: &Conn<R>) {
    let requests = std::mem::take(&mut *conn.queue.requests.borrow_mut());
    let producing = &conn.server.producing;
    producing.set(producing.get() - requests.len());
}

/// Hands the batches of a request that has been checked to their partitions.
fn submit<R: Rt>(conn: &Rc<Conn<R>>, request: Request, held: Vec<Held>) {
    let Request { stage, place, version, correlation_id, acks, .. } = request;
    let Stage::Checked(mut plan) = stage else { unreachable!("only what is checked is handed on") };
    if acks == 0 {
        // Nobody waits for it.
        conn.reply(place, Vec::new());
    }
    let items = std::mem::take(&mut plan.items);
    let pending = Pending {
        conn: conn.clone(),
        place,
        version,
        correlation_id,
        acks,
        remaining: Cell::new(items.len()),
        plan: RefCell::new(plan),
        held: RefCell::new(held.into_iter().map(Some).collect()),
    };
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
        let held = self.held.borrow_mut()[index as usize].take();
        if let Some(held) = held {
            let (server, mut woken) = (&self.conn.server, Vec::new());
            let now = server.rt.turn_began();
            server.backlog.borrow_mut().release(held, produced.disk, now, &mut woken);
            wake(woken);
        }
        self.plan.borrow_mut().answer(index as usize, &produced);
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() == 0 {
            self.finish();
        }
    }
}
