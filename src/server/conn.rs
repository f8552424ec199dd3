//! One connection: read frames, hand them to work in order, write the responses in order. Lives on one core.
//!
//! An idle connection holds no buffer: the kernel picks a small one when bytes arrive. A larger frame gets a chunk of its own size that is
//! received into directly, admitted against the core's memory before it is read. A frame that announces much more than this connection has
//! sent before is charged as its bytes come, so that announcing is free of cost for us.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

use super::Server;
use super::produce::Queue;
use super::replies::Replies;
use crate::base::limits::{PIPELINE, REGION, SMALL_RECEIVE};
use crate::rt::mem::Chunk;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};
use crate::shard::message::Connection;

/// Frames up to this size get a chunk of the pool at once, whoever sends them.
const UNTRUSTED: usize = 64 << 10;
/// Steps in which a larger frame of a new connection is charged.
const CHARGE_STEP: usize = 64 << 10;
/// Small frames are received several at a time, up to this much: a connection that has them queued up saves calls and, as its answers
/// then leave together, packets.
const READ_AHEAD: usize = 128 << 10;
/// No further request is read while this much waits to be sent.
const QUEUED_BYTES: usize = 1 << 20;
/// Requests of one connection that are handled before others have their turn, and the time that they
/// may take.
const REQUESTS_PER_TURN: u32 = 16;
/// After so many requests each the connection looks at the clock.
const REQUESTS_PER_LOOK: u32 = 4;
/// See [`REQUESTS_PER_TURN`].
const TIME_PER_TURN: Duration = Duration::from_micros(100);
/// Request header: api key, version, correlation id.
const SMALLEST_FRAME: usize = 8;

/// A connection as its requests see it.
pub struct Conn<R: Rt> {
    /// The server of this core.
    pub server: Rc<Server<R>>,
    /// The peer, for logs.
    pub peer: SocketAddr,
    /// The listener that accepted it: index into the configured ones.
    pub listener: usize,
    socket: R::Socket,
    replies: RefCell<Replies>,
    /// Produce requests that are not handed to the partitions yet.
    pub(super) queue: Queue,
    /// There is something to send, or nothing will come any more.
    ready: Notify,
    /// The reader may go on.
    room: Notify,
    /// The connection goes away: for a reader that waits for memory.
    gone: Notify,
    /// Requests that wait for something to happen, and are not worth waiting for once the client has ended its side.
    waiting: RefCell<Slab<Rc<Notify>>>,
    read_to_end: Cell<bool>,
    closed: Cell<bool>,
    last_active: Cell<Duration>,
    /// Bytes handed to the socket that have not left, and since when the first of them have not.
    sending: Cell<Option<(usize, Duration)>>,
    /// Since when answers have waited for those of earlier requests.
    queued_since: Cell<Option<Duration>>,
    /// Requests that wait until the socket has taken answers.
    unanswered: RefCell<Slab<Rc<Notify>>>,
    /// Long requests that have not begun.
    unstarted: Cell<usize>,
    /// See [`Conn::note_progress`].
    acknowledged: Cell<u64>,
    /// The reader holds an empty chunk that it could do without.
    holds_chunk: Cell<bool>,
    /// When the frame began that is not complete yet.
    frame_since: Cell<Option<Duration>>,
    /// Place in the server's table.
    pub(super) index: Cell<usize>,
    _seat: Box<dyn Any + Send>,
}

impl<R: Rt> Conn<R> {
    /// Serves a connection until it ends.
    pub fn spawn(server: &Rc<Server<R>>, connection: Connection<R::Accepted>) {
        let Connection { accepted, peer, listener, seat } = connection;
        if server.stopping() {
            // Handed over as this core was closing its connections.
            return;
        }
        let rt = server.rt.clone();
        let socket = match rt.adopt(accepted) {
            Ok(socket) => socket,
            Err(e) => return tracing::debug!("{peer}: {e}"),
        };
        let conn = Rc::new(Conn {
            server: server.clone(),
            peer,
            listener,
            socket,
            replies: RefCell::default(),
            queue: Queue::default(),
            ready: Notify::default(),
            room: Notify::default(),
            gone: Notify::default(),
            waiting: RefCell::default(),
            read_to_end: Cell::new(false),
            closed: Cell::new(false),
            last_active: Cell::new(rt.now().mono),
            sending: Cell::new(None),
            queued_since: Cell::new(None),
            unanswered: RefCell::default(),
            unstarted: Cell::new(0),
            acknowledged: Cell::new(0),
            holds_chunk: Cell::new(false),
            frame_since: Cell::new(None),
            index: Cell::new(usize::MAX),
            _seat: seat,
        });
        server.join(&conn);
        let writer = conn.clone();
        rt.spawn(Class::Foreground, async move { writer.write().await });
        rt.spawn(Class::Foreground, async move {
            match conn.read().await {
                Ok(()) => tracing::debug!("{peer}: closed by the client"),
                Err(e) if conn.closed.get() => tracing::debug!("{peer}: closed: {e}"),
                Err(e) => tracing::info!("{peer}: closed: {e}"),
            }
            conn.finish();
        });
    }

    /// Takes the next place in the order of responses.
    pub fn reserve(&self) -> u64 {
        self.replies.borrow_mut().reserve()
    }

    /// Answers the request that took `place`.
    pub fn reply(&self, place: u64, pieces: Vec<Bytes>) {
        if self.replies.borrow_mut().put(place, pieces) {
            self.ready.notify();
        } else if self.queued_since.get().is_none() {
            self.queued_since.set(Some(self.server.rt.turn_began()));
        }
    }

    /// Answers the request that took `place`, and whose answer is the next to be sent, in part: more follows
    /// by another call or [`Conn::reply`]. Resolves when the socket has taken it.
    pub async fn reply_part(&self, place: u64, part: Bytes) {
        self.replies.borrow_mut().put_part(place, vec![part]);
        self.ready.notify();
        while !self.closed.get() && (self.sending.get().is_some() || !self.replies.borrow().head_is_taken()) {
            self.after_a_send().await;
        }
    }

    /// Ends the connection: what is in work is dropped.
    pub fn close(&self) {
        if !self.closed.replace(true) {
            match self.sending.get() {
                None => self.server.rt.shutdown(&self.socket),
                Some(_) => self.server.rt.abort(&self.socket),
            }
            super::produce::forget(self);
            // They may hold memory that the requests in work wait for.
            self.replies.borrow_mut().forget();
            self.server.leave(self);
        }
        self.ready.notify();
        self.room.notify();
        self.gone.notify();
        self.end_waits();
    }

    /// Waits for `event`, or until the client has ended its side.
    pub async fn wait_for(&self, event: &Rc<Notify>) {
        let place = self.waiting.borrow_mut().insert(event.clone());
        let _leave = Leave { waiting: &self.waiting, place };
        if !self.has_ended() {
            event.notified().await;
        }
    }

    /// True once the client will ask for nothing more.
    pub fn has_ended(&self) -> bool {
        self.read_to_end.get() || self.closed.get()
    }

    fn end_waits(&self) {
        let all = [&self.waiting, &self.unanswered];
        all.iter().for_each(|waiting| waiting.borrow().iter().for_each(|(_, event)| event.notify()));
    }

    /// Requests in work.
    pub fn outstanding(&self) -> usize {
        self.replies.borrow().outstanding()
    }

    /// When the last byte came or went.
    pub fn last_active(&self) -> Duration {
        self.last_active.get()
    }

    /// Since when answers have been held that the client has not taken.
    pub fn answers_since(&self) -> Option<Duration> {
        let sending = self.sending.get().map(|(_, since)| since);
        [sending, self.queued_since.get()].into_iter().flatten().min()
    }

    /// Bytes of answers that have not left.
    fn unsent(&self) -> usize {
        self.replies.borrow().queued_bytes() + self.sending.get().map_or(0, |(bytes, _)| bytes)
    }

    /// Whether a large answer may be made at once for the request that took `place`: its client has
    /// taken those before it, but for a share of the memory.
    pub fn may_answer(&self, place: u64) -> bool {
        self.is_next(place) || (self.unsent() < self.server.answer_share() && !self.server.rt.memory().contended())
    }

    /// Whether the answer to the request that took `place` is the next to be sent.
    fn is_next(&self, place: u64) -> bool {
        self.closed.get() || self.replies.borrow().is_first(place)
    }

    /// Resolves when the answer to the request that took `place` is the next to be sent: an answer that
    /// waited for others would hold memory that those may wait for.
    pub async fn room_for_answer(&self, place: u64) {
        while !self.is_next(place) {
            self.after_a_send().await;
        }
    }

    /// Until the socket has taken something, or the connection ends.
    async fn after_a_send(&self) {
        let event = Rc::new(Notify::default());
        let place = self.unanswered.borrow_mut().insert(event.clone());
        let _leave = Leave { waiting: &self.unanswered, place };
        event.notified().await;
    }

    /// The result of `task`, or `None` if the connection ends before.
    pub async fn unless_closed<T>(&self, task: impl Future<Output = T>) -> Option<T> {
        let closed = async {
            while !self.closed.get() {
                self.after_a_send().await;
            }
            None
        };
        futures_lite::future::or(async { Some(task.await) }, closed).await
    }

    /// A long request has been read that does not begin yet: nothing more is read until the result is
    /// dropped.
    pub fn unstarted(self: &Rc<Self>) -> Unstarted<R> {
        self.unstarted.set(self.unstarted.get() + 1);
        Unstarted(self.clone())
    }

    /// When the request began that has not been received whole.
    pub fn frame_since(&self) -> Option<Duration> {
        self.frame_since.get()
    }

    /// Takes the receive buffer from a connection that has nothing to receive.
    pub fn release_chunk(&self) {
        if self.holds_chunk.get() {
            self.server.rt.interrupt_recv(&self.socket);
        }
    }

    /// Nothing more will be read. What was read is still answered: the writer closes when it has nothing left.
    fn finish(&self) {
        self.read_to_end.set(true);
        self.end_waits();
        self.ready.notify();
    }

    async fn write(&self) {
        loop {
            let pieces = self.replies.borrow_mut().take_ready();
            self.room.notify();
            self.unanswered.borrow().iter().for_each(|(_, event)| event.notify());
            if self.replies.borrow().queued_bytes() == 0 {
                self.queued_since.set(None);
            }
            if pieces.is_empty() {
                if self.closed.get() || (self.read_to_end.get() && self.outstanding() == 0) {
                    return self.close();
                }
                self.ready.notified().await;
                continue;
            }
            let bytes = pieces.iter().map(Bytes::len).sum();
            self.sending.set(Some((bytes, self.server.rt.turn_began())));
            self.server.unsent.set(self.server.unsent.get() + bytes);
            let sent = self.server.rt.send(&self.socket, pieces).await;
            self.server.unsent.set(self.server.unsent.get() - bytes);
            self.sending.set(None);
            if let Err(e) = sent {
                tracing::debug!("{}: send: {e}", self.peer);
                return self.close();
            }
            self.touch();
        }
    }

    /// Counts as activity what the client has received, since the last call, of responses that are
    /// being sent.
    pub fn note_progress(&self) {
        if self.sending.get().is_some() {
            let acknowledged = self.server.rt.acknowledged(&self.socket);
            if self.acknowledged.replace(acknowledged) != acknowledged {
                self.touch();
            }
        }
    }

    fn touch(&self) {
        self.last_active.set(self.server.rt.turn_began());
    }

    /// Reads until the stream ends.
    async fn read(self: &Rc<Self>) -> io::Result<()> {
        let rt = self.server.rt.clone();
        loop {
            self.admit().await?;
            let bytes = rt.recv_some(&self.socket).await?;
            if bytes.is_empty() {
                return Ok(());
            }
            self.touch();
            let (rest, _) = self.handle_frames(bytes).await?;
            // Boxed: an idle connection does not keep room for it.
            if !rest.is_empty() && !Box::pin(self.read_large(rest)).await? {
                return Ok(());
            }
        }
    }

    /// When the first of the produce requests began to wait for room on its way to the disk.
    pub fn waits_for_room(&self) -> Option<Duration> {
        self.queue.waits_for_room()
    }

    /// More requests may be read.
    pub fn read_on(&self) {
        self.room.notify();
    }

    /// Waits until another request may be read: a place in the pipeline, room for its answer, room on the way to the disk, room in the
    /// mailboxes.
    async fn admit(&self) -> io::Result<()> {
        loop {
            if self.closed.get() || self.server.stopping() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let full = {
                let replies = self.replies.borrow();
                replies.outstanding() >= PIPELINE
                    || replies.queued_bytes() >= QUEUED_BYTES
                    || self.sending.get().is_some_and(|(bytes, _)| bytes > QUEUED_BYTES)
                    || self.unstarted.get() > 0
                    || self.waits_for_room().is_some()
            };
            if full {
                self.room.notified().await;
            } else if self.server.shard.congested() {
                self.server.rt.sleep(Duration::from_millis(1)).await;
            } else {
                return Ok(());
            }
        }
    }

    /// Hands whole frames to work. What is left is the beginning of one; and the length of the last whole one, 0 if there was none.
    async fn handle_frames(self: &Rc<Self>, mut bytes: Bytes) -> io::Result<(Bytes, usize)> {
        let mut last = 0;
        let mut turn = Quantum::default();
        while let Some(total) = self.frame_len(&bytes)? {
            if bytes.len() < total {
                break;
            }
            if turn.is_over(&self.server.rt) {
                self.server.rt.yield_now().await;
                turn = Quantum::default();
            }
            last = total;
            let frame = bytes.split_to(total).slice(4..);
            self.admit().await?;
            super::dispatch::handle(self, frame)?;
        }
        self.frame_since.set((!bytes.is_empty()).then(|| self.frame_since.get().unwrap_or(self.last_active.get())));
        Ok((bytes, last))
    }

    /// The length of the frame that begins here, with its size field; `None` while that is not complete.
    fn frame_len(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(size) = bytes.first_chunk::<4>() else { return Ok(None) };
        let size = i32::from_be_bytes(*size);
        let max = self.server.config.socket_request_max_bytes;
        match usize::try_from(size) {
            Ok(n) if (SMALLEST_FRAME..=max).contains(&n) => Ok(Some(n + 4)),
            _ => {
                let why = format!("a request of {size} bytes: {SMALLEST_FRAME} to {max} (socket.request.max.bytes) are accepted");
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }

    /// Receives into a chunk as long as frames are large; false at the end of the stream.
    async fn read_large(self: &Rc<Self>, rest: Bytes) -> io::Result<bool> {
        let mut inbox =
            Inbox { conn: self, chunk: None, parsed: 0, trusted: UNTRUSTED, expected: SMALL_RECEIVE, ahead: 0, stepwise: false };
        inbox.carry(rest).await?;
        loop {
            if !inbox.receive().await? {
                return Ok(false);
            }
            if inbox.dispatch().await? {
                return Ok(true);
            }
        }
    }
}

/// How much of its turn a connection has used. The clock is read for few of its requests: for each it
/// would be a twelfth of the work.
#[derive(Default)]
struct Quantum {
    /// When the clock was read first.
    since: Option<Duration>,
    handled: u32,
}

impl Quantum {
    /// Whether the next request has to wait for the connection's next turn; else it is counted.
    fn is_over<R: Rt>(&mut self, rt: &R) -> bool {
        self.handled += 1;
        if !self.handled.is_multiple_of(REQUESTS_PER_LOOK) {
            return false;
        }
        let now = rt.now().mono;
        let since = *self.since.get_or_insert(now);
        self.handled >= REQUESTS_PER_TURN || now.saturating_sub(since) >= TIME_PER_TURN
    }
}

/// See [`Conn::unstarted`].
pub struct Unstarted<R: Rt>(Rc<Conn<R>>);

impl<R: Rt> Drop for Unstarted<R> {
    fn drop(&mut self) {
        self.0.unstarted.set(self.0.unstarted.get() - 1);
        self.0.read_on();
    }
}

/// Takes a wait back when it is over or dropped.
struct Leave<'a> {
    waiting: &'a RefCell<Slab<Rc<Notify>>>,
    place: usize,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.waiting.borrow_mut().remove(self.place);
    }
}

/// The receive buffer of a connection that sends large frames.
struct Inbox<'a, R: Rt> {
    conn: &'a Rc<Conn<R>>,
    chunk: Option<Chunk>,
    /// Bytes of the chunk that have been handed to work.
    parsed: usize,
    /// The largest frame that this connection has completed, at least [`UNTRUSTED`].
    trusted: usize,
    /// Length of the last frame: the next is likely to be the same, and reading no further saves carrying its neighbour's beginning over.
    expected: usize,
    /// The chunk that this connection fills at once, if frames are small.
    ahead: usize,
    /// The chunk is charged as its bytes come.
    stepwise: bool,
}

impl<R: Rt> Inbox<'_, R> {
    /// The largest frame that gets a chunk of the pool; what is larger has a mapping of its own.
    fn pooled_max(&self) -> usize {
        REGION.min(self.conn.server.rt.memory().budget() / 4)
    }

    /// Size of a chunk for frames of `frame` bytes.
    fn chunk_for(&self, frame: usize) -> usize {
        let alone = frame > READ_AHEAD / 2 || self.conn.server.rt.memory().contended();
        if alone { frame } else { frame.max(self.ahead).min(self.pooled_max()) }
    }

    /// Waits for memory, unless the connection goes away.
    async fn wait<T>(&self, memory: impl Future<Output = T>) -> io::Result<T> {
        let got = async { Some(memory.await) };
        let gone = async {
            self.conn.gone.notified().await;
            None
        };
        futures_lite::future::or(got, gone).await.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// Starts a chunk with the beginning of a frame.
    async fn carry(&mut self, mut begun: Bytes) -> io::Result<()> {
        let total = self.conn.frame_len(&begun)?.unwrap_or(SMALL_RECEIVE).max(begun.len());
        self.stepwise = total > self.trusted;
        let mut chunk = {
            let mut chunk = std::pin::pin!(self.chunk(total, begun.len()));
            match futures_lite::future::poll_once(&mut chunk).await {
                Some(chunk) => chunk?,
                None => {
                    let _held = self.conn.server.put_by(&mut begun)?;
                    chunk.await?
                }
            }
        };
        chunk.extend(&begun);
        self.chunk = Some(chunk);
        self.parsed = 0;
        Ok(())
    }

    /// Memory for a frame of `total` bytes, of which so many are there.
    async fn chunk(&self, total: usize, begun: usize) -> io::Result<Chunk> {
        let memory = self.conn.server.rt.memory();
        if total <= self.trusted.min(self.pooled_max()) {
            return self.wait(memory.chunk(self.chunk_for(total))).await;
        }
        let chunk = memory.large(total);
        self.wait(memory.charge(&chunk, begun.max(CHARGE_STEP))).await?;
        Ok(chunk)
    }

    /// Receives once; false at the end of the stream.
    async fn receive(&mut self) -> io::Result<bool> {
        let conn = self.conn;
        let rt = &conn.server.rt;
        let Some(chunk) = self.chunk.take() else { return Ok(true) };
        let begun = &chunk.filled()[self.parsed..];
        let total = conn.frame_len(begun)?;
        let want = match total {
            _ if !self.stepwise && total.unwrap_or(self.expected) <= READ_AHEAD / 2 => chunk.room(),
            Some(total) => total - begun.len(),
            None => self.expected.saturating_sub(begun.len()).max(SMALL_RECEIVE),
        };
        let want = want.min(chunk.room()).min(if self.stepwise { CHARGE_STEP } else { usize::MAX });
        self.wait(rt.memory().charge(&chunk, chunk.len() + want)).await?;
        conn.holds_chunk.set(begun.is_empty());
        let (received, chunk) = rt.recv_into(&conn.socket, chunk, want).await;
        conn.holds_chunk.set(false);
        let idle = chunk.len() == self.parsed;
        if chunk.room() == 0 {
            self.ahead = (chunk.capacity() * 2).min(READ_AHEAD);
        }
        self.chunk = Some(chunk);
        match received {
            Ok(0) => Ok(false),
            Ok(_) => {
                conn.touch();
                Ok(true)
            }
            // Asked to give up an empty buffer: back to the small ones. At a stop every receive is interrupted: then it is the end.
            Err(e) if e.kind() == io::ErrorKind::Interrupted && !conn.server.stopping() => {
                if idle {
                    self.chunk = None;
                }
                Ok(true)
            }
            Err(e) => Err(e),
        }
    }

    /// Hands whole frames to work; true when the connection can go back to small buffers.
    async fn dispatch(&mut self) -> io::Result<bool> {
        let Some(chunk) = &self.chunk else { return Ok(true) };
        let before = self.parsed;
        let (rest, last_frame) = self.conn.handle_frames(chunk.slice(self.parsed..chunk.len())).await?;
        let Some(mut chunk) = self.chunk.take() else { return Ok(true) };
        self.parsed = chunk.len() - rest.len();
        self.trusted = self.trusted.max(last_frame);
        if last_frame > 0 {
            self.expected = last_frame;
        }
        if rest.is_empty() {
            if self.parsed == before {
                self.chunk = Some(chunk);
                return Ok(false);
            }
            if last_frame < SMALL_RECEIVE || chunk.capacity() > self.pooled_max() {
                return Ok(true);
            }
            // The next frame is likely to be as large: the same buffer if nobody holds a part of it, else a new one.
            drop(rest);
            self.conn.admit().await?;
            let size = self.chunk_for(last_frame);
            if chunk.capacity() < size || !chunk.try_reset() {
                drop(chunk);
                chunk = self.wait(self.conn.server.rt.memory().chunk(size)).await?;
            }
            self.parsed = 0;
            self.chunk = Some(chunk);
            return Ok(false);
        }
        let needed = self.conn.frame_len(&rest)?.unwrap_or(SMALL_RECEIVE);
        if self.parsed + needed <= chunk.capacity() {
            self.chunk = Some(chunk);
        } else {
            drop(chunk);
            self.carry(rest).await?;
        }
        Ok(false)
    }
}
