//! What long requests and long answers take from one core: time, one after the other, and memory.
//!
//! To decode a request of 50,000 names, or to describe a thousand topics, takes milliseconds. One is
//! worked on at a time, and after it all others wait for as long as it took: half of the core stays
//! with everybody else. What becomes of a request takes many times its bytes: for a long one memory is
//! taken before it is decoded, until it is answered. Whoever waits for that memory holds none that
//! others wait for: without it the work begins all the same once no other request holds any. One that
//! takes more than its part of the memory is alone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::rt::Rt;
use crate::rt::mem::Chunk;
use crate::rt::notify::Notify;

/// A request of more bytes is a long one.
pub const LONG_REQUEST: usize = 4 << 10;
/// What a request becomes when it is decoded, as a multiple of its bytes, at most: names are counted
/// references, empty ones too.
const DECODED: usize = 32;
/// A shorter request is never taken for a long one.
const TINY: usize = 512;
/// The part of the memory that requests which are not long may become together, one of so many:
/// beyond that they are treated as long ones.
const SHARE: usize = 8;
/// Likewise of the long ones. What becomes of one that is alone may take more.
const LONG_SHARE: usize = 4;
/// A request on whose behalf more is done at once is a long one, however short: bytes of the heap.
const HEAVY: usize = 1 << 20;
/// The longest pause after one.
const REST_MAX: Duration = Duration::from_millis(50);

/// A line of requests of one core, which are worked on one at a time.
pub struct Line<R: Rt> {
    rt: R,
    /// Those who wait for their turn.
    waiting: RefCell<VecDeque<Rc<Notify>>>,
    /// One is worked on.
    busy: Cell<bool>,
    /// The next one begins no sooner.
    rest_until: Cell<Duration>,
}

impl<R: Rt> Line<R> {
    /// Nobody is in it.
    pub fn new(rt: R) -> Rc<Line<R>> {
        Rc::new(Line { rt, waiting: RefCell::default(), busy: Cell::new(false), rest_until: Cell::default() })
    }

    /// Waits until no other is worked on.
    pub async fn turn(self: &Rc<Self>) -> Turn<R> {
        let place = Place { of: self, event: Rc::default() };
        self.waiting.borrow_mut().push_back(place.event.clone());
        while self.busy.get() || !place.is_first() {
            place.event.notified().await;
        }
        self.busy.set(true);
        drop(place);
        let mut turn = Turn { of: self.clone(), since: Duration::ZERO };
        let rest = self.rest_until.get().saturating_sub(self.rt.now().mono);
        if !rest.is_zero() {
            self.rt.sleep(rest).await;
        }
        turn.since = self.rt.now().mono;
        turn
    }

    fn wake_first(&self) {
        if let Some(first) = self.waiting.borrow().front() {
            first.notify();
        }
    }
}

/// The requests in work of one core, and the memory that they hold.
pub struct LongRequests<R: Rt> {
    rt: R,
    /// Long ones.
    line: Rc<Line<R>>,
    /// Requests that hold memory of the pool.
    rooms: Cell<usize>,
    /// Bytes that those become.
    held: Cell<usize>,
    /// One of them does no more.
    given_back: Notify,
    /// A request waits for them.
    wanted: Cell<bool>,
    /// Memory that requests which are not long may have become.
    short: Cell<usize>,
}

impl<R: Rt> LongRequests<R> {
    /// Nothing in work.
    pub fn new(rt: R) -> Rc<LongRequests<R>> {
        Rc::new(LongRequests {
            line: Line::new(rt.clone()),
            rt,
            rooms: Cell::new(0),
            held: Cell::new(0),
            given_back: Notify::default(),
            wanted: Cell::new(false),
            short: Cell::new(0),
        })
    }

    /// Takes note of a request that may be worked on at once; `None` for one of many bytes, or of more
    /// than a few while there are many. `besides`: bytes of the heap that it takes whatever its own are.
    pub fn begin(self: &Rc<Self>, bytes: usize, besides: usize) -> Option<Holding<R>> {
        let most = self.rt.memory().budget() / SHARE;
        let becomes = bytes * DECODED + besides;
        let fits = becomes <= TINY * DECODED || self.short.get() + besides < most;
        let short = bytes <= LONG_REQUEST && besides <= HEAVY && fits;
        short.then(|| {
            self.short.set(self.short.get() + becomes);
            Holding { of: self.clone(), short: becomes, long: 0, room: None }
        })
    }

    /// Waits until no other long one is worked on.
    pub async fn turn(&self) -> Turn<R> {
        self.line.turn().await
    }

    /// Memory for what becomes of a request of so many bytes, and for `besides` more. Only who has the
    /// turn asks.
    pub async fn room(self: &Rc<Self>, request: usize, besides: usize) -> Holding<R> {
        self.room_of(request * DECODED + besides).await
    }

    /// Memory of so many bytes. For one that takes more than the part of all long ones it is that part,
    /// once all others are answered. Only who has the turn asks.
    pub async fn room_of(self: &Rc<Self>, bytes: usize) -> Holding<R> {
        let memory = self.rt.memory();
        let most = memory.budget() / LONG_SHARE;
        while self.rooms.get() > 0 && self.held.get() + bytes > most {
            let _wanted = Wanted::new(&self.wanted);
            self.given_back.notified().await;
        }
        let alone = async {
            while self.rooms.get() > 0 {
                let _wanted = Wanted::new(&self.wanted);
                self.given_back.notified().await;
            }
            memory.chunk_now(bytes.min(most))
        };
        let room = Some(futures_lite::future::or(memory.chunk(bytes.min(most)), alone).await);
        self.rooms.set(self.rooms.get() + 1);
        self.held.set(self.held.get() + bytes);
        Holding { of: self.clone(), short: 0, long: bytes, room }
    }
}

/// For as long as it lives a request waits for what others hold.
struct Wanted<'a>(&'a Cell<bool>);

impl<'a> Wanted<'a> {
    fn new(wanted: &'a Cell<bool>) -> Wanted<'a> {
        wanted.set(true);
        Wanted(wanted)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The turn of a request.
pub struct Turn<R: Rt> {
    of: Rc<Line<R>>,
    since: Duration,
}

impl<R: Rt> Drop for Turn<R> {
    fn drop(&mut self) {
        let now = self.of.rt.now().mono;
        if !self.since.is_zero() {
            let took = now.saturating_sub(self.since).min(REST_MAX);
            self.of.rest_until.set(now + took);
        }
        self.of.busy.set(false);
        self.of.wake_first();
    }
}

/// What a request holds until it is answered.
pub struct Holding<R: Rt> {
    of: Rc<LongRequests<R>>,
    /// Bytes that it counts among those of short ones.
    short: usize,
    /// Likewise of long ones.
    long: usize,
    /// Memory of a long one.
    room: Option<Chunk>,
}

impl<R: Rt> Holding<R> {
    /// Whether it is memory that others may wait for.
    pub fn is_room(&self) -> bool {
        self.room.is_some()
    }

    /// Whether others wait for it.
    pub fn is_wanted(&self) -> bool {
        self.is_room() && (self.of.wanted.get() || self.of.rt.memory().contended())
    }
}

impl<R: Rt> Drop for Holding<R> {
    fn drop(&mut self) {
        self.of.short.set(self.of.short.get() - self.short);
        self.of.held.set(self.of.held.get() - self.long);
        if self.room.take().is_some() {
            self.of.rooms.set(self.of.rooms.get() - 1);
            self.of.given_back.notify();
        }
    }
}

/// A place in the line, given up when dropped.
struct Place<'a, R: Rt> {
    of: &'a Rc<Line<R>>,
    event: Rc<Notify>,
}

impl<R: Rt> Place<'_, R> {
    fn is_first(&self) -> bool {
        self.of.waiting.borrow().front().is_some_and(|first| Rc::ptr_eq(first, &self.event))
    }
}

impl<R: Rt> Drop for Place<'_, R> {
    fn drop(&mut self) {
        self.of.waiting.borrow_mut().retain(|event| !Rc::ptr_eq(event, &self.event));
        self.of.wake_first();
    }
}
