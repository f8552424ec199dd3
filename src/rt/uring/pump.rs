//! The loop of a core: it lets the tasks run, submits what they queued, delivers what is complete, drains the mailboxes, and waits when
//! there is nothing to do.
//!
//! The core waits in its data ring, inside this task, and never in glommio: that costs one system call where glommio's park takes six or
//! seven, and it is the cure of glommio 0.9.0's lost wake-up. That executor can park although tasks are runnable (its `run_task_queues`
//! returns false when preemption was requested before the first queue ran; the completion that requested it wakes nobody), and then sleeps
//! until some other event. Here this task is always runnable and the preemption timer far away, so that glommio has no reason to park;
//! should it park after all, the guard, a timer of its own that park honours, gets it going again. While the pump lets the background go on,
//! the mark at the end of that queue is runnable in its place.
//!
//! What follows from that: nothing of glommio's that needs its rings (timers, files, sockets, wakers from other threads) works here. `Rt`
//! has its own of each.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use super::Core;
use crate::rt::notify::Notify;

/// glommio's preemption timer. It only ends a round of glommio's own loop, which has nothing to do here.
pub const PREEMPT: Duration = Duration::from_secs(3600);
/// The longest that glommio can sleep with tasks to run.
const GUARD: Duration = Duration::from_millis(1);
/// Rounds of tasks waking tasks before the kernel hears of what they queued so far.
const ROUNDS: usize = 8;
/// Rounds after a long one in which timers wait: what has arrived meanwhile is looked at first.
const ROUNDS_BEFORE_TIMERS: usize = 4;

/// A mark at the end of the background queue.
#[derive(Default)]
struct Background {
    ask: Notify,
    passed: Notify,
}

impl Background {
    /// Resolves when every task of the background that could go on has done so once. The caller does
    /// not run meanwhile: else the executor would give it most of the time.
    async fn pass(&self) {
        self.ask.notify();
        self.passed.notified().await;
    }
}

/// The pump of one core.
pub struct Pump {
    core: Rc<Core>,
    background: Rc<Background>,
    /// Rounds that timers still wait for.
    before_timers: Cell<usize>,
}

impl Pump {
    /// For a core whose ring waits for the core's doorbell.
    pub fn new(core: Rc<Core>) -> Pump {
        Pump { core, background: Rc::default(), before_timers: Cell::new(0) }
    }

    /// Runs until the core is drained.
    pub async fn run(self) {
        let background = self.background.clone();
        let passing = async move {
            loop {
                background.ask.notified().await;
                background.passed.notify();
            }
        };
        let guard = async {
            loop {
                Timer::new(GUARD).await;
            }
        };
        glommio::spawn_local_into(passing, self.core.background).expect("the queue exists").detach();
        glommio::spawn_local_into(guard, self.core.foreground).expect("the queue exists").detach();
        // The other cores were waited for.
        self.core.turns.waited(Instant::now(), None);
        let mut rounds = 0;
        // The background had something to do when the core last had time for it.
        let mut busy = false;
        while !self.core.stopping.get() {
            let polls = self.core.polls.get();
            // Every runnable task of the foreground runs once, and the other queues get their share.
            glommio::executor().yield_task_queue_now().await;
            if self.core.turns.next(self.core.index) {
                self.core.ring.submit();
                self.before_timers.set(ROUNDS_BEFORE_TIMERS);
            }
            if self.look() || self.core.polls.get() != polls {
                self.set_parked(false);
                rounds += 1;
                if rounds == ROUNDS {
                    rounds = 0;
                    self.core.ring.submit();
                }
                continue;
            }
            rounds = 0;
            self.set_parked(true);
            // What came before "parked" was seen. Whatever this wakes, and does not tell, runs before
            // the mark is reached: that is behind the runnable tasks of the background.
            let quiet = !self.look();
            if busy {
                self.core.ring.submit();
            }
            self.background.pass().await;
            busy = self.core.polls.get() != polls;
            if quiet && !busy && !self.core.stopping.get() {
                self.wait();
            }
        }
    }

    /// Waits until something is complete, a timer is due or another core rings.
    fn wait(&self) {
        let limit = self.core.timers.next();
        let spin = limit.map_or(self.core.spin, |limit| limit.min(self.core.spin));
        let before = Instant::now();
        if !self.core.ring.spin(spin) {
            self.core.ring.wait(self.core.timers.next());
        }
        if self.core.turns.waited(before, limit) {
            self.before_timers.set(ROUNDS_BEFORE_TIMERS);
        }
    }

    /// Tells the other cores whether they have to ring for what they send. After `true` the next look sees all that was sent without.
    fn set_parked(&self, parked: bool) {
        let flag = &self.core.peers[self.core.index].parked;
        if flag.load(Ordering::Relaxed) != parked {
            flag.store(parked, Ordering::SeqCst);
            // Pairs with the fence in `unpark`: either we see the message, or its sender sees us parked.
            fence(Ordering::SeqCst);
        }
    }

    /// Looks at everything that can bring work; true when there was any, false also when tasks were woken by the way.
    fn look(&self) -> bool {
        let core = &self.core;
        let mut any = core.ring.reap();
        any |= match self.before_timers.get() {
            0 => core.timers.fire(),
            rounds => {
                self.before_timers.set(rounds - 1);
                true
            }
        };
        core.receives.turn();
        core.memory.turn();
        any |= core.slices.turn();
        let hook = core.turn.borrow().clone();
        if let Some(hook) = hook {
            any |= hook();
        }
        any
    }
}
