//! The executor: tasks of all cores in one thread, virtual time, seeded choices.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::base::prng::Prng;
use crate::base::time::Now;

/// Where the simulated wall clock starts: a fixed day, so that runs are equal.
const WALL_START_MS: i64 = 1_760_000_000_000;
/// The future of [`super::Sim::run_until`], which is no task of a core.
const MAIN: u64 = 0;
/// The core of what is outside of the machine.
const OUTSIDE: usize = usize::MAX;

struct Item {
    what: What,
    core: usize,
    stamp: u64,
    /// Runs after all items of its core that were there before it.
    yielded: bool,
}

enum What {
    Task(Arc<Handle>),
    Turn,
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    stamp: u64,
    yielding: bool,
    turns: Vec<bool>,
}

/// What can run. Behind a mutex only because wakers have to be `Send`: there is one thread.
#[derive(Default)]
pub struct Ready(Mutex<Queue>);

impl Ready {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a core take a turn.
    pub fn turn_soon(&self, core: usize) {
        let mut queue = self.queue();
        if !std::mem::replace(&mut queue.turns[core], true) {
            queue.push(What::Turn, core);
        }
    }
}

impl Queue {
    fn push(&mut self, what: What, core: usize) {
        self.stamp += 1;
        let (stamp, yielded) = (self.stamp, self.yielding);
        self.items.push(Item { what, core, stamp, yielded });
    }

    fn pick(&mut self, random: &mut Prng, frozen: bool) -> Option<Item> {
        if frozen {
            // What is outside of the machine is on no core.
            let at = self.items.iter().position(|item| item.core == OUTSIDE)?;
            return Some(self.items.swap_remove(at));
        }
        if self.items.is_empty() {
            return None;
        }
        let mut at = random.below(self.items.len() as u64) as usize;
        if self.items[at].yielded {
            let core = self.items[at].core;
            let oldest = self.items.iter().enumerate().filter(|(_, i)| i.core == core).min_by_key(|(_, i)| i.stamp);
            at = oldest.map_or(at, |(i, _)| i);
        }
        Some(self.items.swap_remove(at))
    }
}

struct Handle {
    id: u64,
    core: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.queue().push(What::Task(self.clone()), self.core);
        }
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What runs next.
pub enum Next {
    Main,
    Task(Runnable),
    Turn(usize),
    Idle,
}

/// A task that was woken.
pub struct Runnable(Arc<Handle>);

/// See the module.
pub struct Exec {
    ready: Arc<Ready>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    clock: Cell<Duration>,
    /// How far the wall clock was set, in ms.
    wall_moved: Cell<i64>,
    next_id: Cell<u64>,
    /// Counts the lives of the machine, so that a task that kills it is not kept for the next one.
    life: Cell<u64>,
    /// No task of the machine runs before.
    frozen_until: Cell<Duration>,
    /// For how long that was so, in all.
    away: Cell<Duration>,
    random: RefCell<Prng>,
    trace: Cell<u64>,
}

impl Exec {
    pub fn new(seed: u64, cores: usize) -> Exec {
        let ready = Arc::new(Ready::default());
        ready.queue().turns = vec![false; cores];
        Exec {
            ready,
            tasks: RefCell::default(),
            timers: RefCell::default(),
            clock: Cell::default(),
            wall_moved: Cell::default(),
            next_id: Cell::new(MAIN + 1),
            life: Cell::default(),
            frozen_until: Cell::default(),
            away: Cell::default(),
            random: RefCell::new(Prng::new(seed)),
            trace: Cell::default(),
        }
    }

    pub fn ready(&self) -> Arc<Ready> {
        self.ready.clone()
    }

    pub fn turn_soon(&self, core: usize) {
        self.ready.turn_soon(core);
    }

    pub fn now(&self) -> Now {
        let mono = self.clock.get();
        Now { mono, wall_ms: WALL_START_MS + self.wall_moved.get() + mono.as_millis() as i64 }
    }

    /// Stops the machine for a while; what is outside goes on.
    pub fn freeze(&self, duration: Duration) {
        self.frozen_until.set(self.clock.get() + duration);
        self.away.set(self.away.get() + duration);
    }

    /// For how long the machine was stopped, in all.
    pub fn away(&self) -> Duration {
        self.away.get()
    }

    /// Sets the wall clock forwards or back.
    pub fn jump_wall(&self, ms: i64) {
        self.wall_moved.set(self.wall_moved.get() + ms);
    }

    pub fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Adds an event to the trace.
    pub fn note(&self, event: u64) {
        self.trace.set((self.trace.get().rotate_left(5) ^ event).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    pub fn chance(&self, numerator: u64, denominator: u64) -> bool {
        self.random.borrow_mut().chance(numerator, denominator)
    }

    pub fn fill(&self, out: &mut [u8]) {
        self.random.borrow_mut().fill(out);
    }

    fn id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Starts a task; its number.
    pub fn spawn(&self, core: usize, task: impl Future<Output = ()> + 'static) -> u64 {
        let id = self.id();
        self.tasks.borrow_mut().insert(id, Box::pin(task));
        self.handle(id, core).wake();
        id
    }

    fn handle(&self, id: u64, core: usize) -> Arc<Handle> {
        Arc::new(Handle { id, core, queued: AtomicBool::new(false), ready: self.ready.clone() })
    }

    /// The waker of a future that is driven from outside.
    pub fn main_waker(&self) -> Waker {
        self.handle(MAIN, OUTSIDE).into()
    }

    /// Ends a task at once.
    fn kill(&self, id: u64) {
        let task = self.tasks.borrow_mut().remove(&id);
        drop(task);
    }

    /// Ends all tasks. Timers and wakes of futures outside of the machine stay.
    pub fn clear(&self) {
        self.life.set(self.life.get() + 1);
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
    }

    /// Lets time pass, fires timers, and picks what runs next.
    pub fn next(&self) -> Next {
        self.clock.set(self.clock.get() + Duration::from_nanos(200 + self.below(2000)));
        self.fire();
        let mut item = self.pick();
        while item.is_none() {
            let timer = self.timers.borrow().keys().next().map(|(at, _)| *at);
            let thaw = Some(self.frozen_until.get()).filter(|thaw| *thaw > self.clock.get());
            let Some(at) = timer.into_iter().chain(thaw).min() else { return Next::Idle };
            self.clock.set(at);
            self.fire();
            item = self.pick();
        }
        let Some(Item { what, core, .. }) = item else { return Next::Idle };
        self.note(self.clock.get().as_nanos() as u64);
        match what {
            What::Turn => {
                self.ready.queue().turns[core] = false;
                Next::Turn(core)
            }
            What::Task(handle) => {
                handle.queued.store(false, Ordering::Relaxed);
                self.note(handle.id);
                if handle.id == MAIN { Next::Main } else { Next::Task(Runnable(handle)) }
            }
        }
    }

    fn pick(&self) -> Option<Item> {
        let frozen = self.frozen_until.get() > self.clock.get();
        self.ready.queue().pick(&mut self.random.borrow_mut(), frozen)
    }

    fn fire(&self) {
        let due = {
            let mut timers = self.timers.borrow_mut();
            let later = timers.split_off(&(self.clock.get() + Duration::from_nanos(1), 0));
            std::mem::replace(&mut *timers, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    /// Polls a task once; its core takes a turn afterwards.
    pub fn run(&self, Runnable(handle): Runnable) {
        let Some(mut task) = self.tasks.borrow_mut().remove(&handle.id) else { return };
        let life = self.life.get();
        let waker = Waker::from(handle.clone());
        let pending = task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
        if pending && life == self.life.get() {
            self.tasks.borrow_mut().insert(handle.id, task);
        }
        self.turn_soon(handle.core);
    }

    /// Resolves at `at`.
    pub fn until(self: &Rc<Self>, at: Duration) -> Sleep {
        Sleep { exec: self.clone(), key: (at, self.id()) }
    }

    /// Resolves after `duration` and a little more.
    pub fn sleep(self: &Rc<Self>, duration: Duration) -> Sleep {
        let late = Duration::from_nanos(self.below(20_000));
        self.until(self.clock.get().saturating_add(duration).saturating_add(late))
    }

    /// A device's or a network's delay: mostly tens of microseconds, now and then milliseconds.
    pub fn delay(&self) -> Duration {
        let bound = if self.chance(1, 40) { 5_000_000 } else { 100_000 };
        Duration::from_nanos(1000 + self.below(bound))
    }

    /// Waits for one [`Exec::delay`].
    pub fn latency(self: &Rc<Self>) -> Sleep {
        self.until(self.clock.get() + self.delay())
    }

    /// Lets every other runnable task of the core run once.
    pub fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        let (ready, mut yielded) = (self.ready.clone(), false);
        poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            ready.queue().yielding = true;
            cx.waker().wake_by_ref();
            ready.queue().yielding = false;
            Poll::Pending
        })
    }

    /// Starts an operation of the kernel: it goes on when the caller's future is dropped, or is cancelled then, by chance.
    pub fn operation<T: 'static>(self: &Rc<Self>, core: usize, operation: impl Future<Output = T> + 'static) -> Operation<T> {
        let slot = Rc::new(Slot { value: Cell::new(None), waiter: Cell::new(None) });
        let done = slot.clone();
        let id = self.spawn(core, async move {
            done.value.set(Some(operation.await));
            if let Some(waker) = done.waiter.take() {
                waker.wake();
            }
        });
        Operation { exec: self.clone(), id, slot }
    }
}

/// See [`Exec::sleep`].
pub struct Sleep {
    exec: Rc<Exec>,
    key: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.key.0 <= self.exec.clock.get() {
            return Poll::Ready(());
        }
        self.exec.timers.borrow_mut().insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.exec.timers.borrow_mut().remove(&self.key);
    }
}

struct Slot<T> {
    value: Cell<Option<T>>,
    waiter: Cell<Option<Waker>>,
}

/// See [`Exec::operation`].
pub struct Operation<T> {
    exec: Rc<Exec>,
    id: u64,
    slot: Rc<Slot<T>>,
}

impl<T> Future for Operation<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = self.slot.value.take() {
            return Poll::Ready(value);
        }
        self.slot.waiter.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        if self.exec.chance(1, 2) {
            self.exec.kill(self.id);
        }
    }
}
