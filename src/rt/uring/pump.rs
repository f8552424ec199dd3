//! The loop of a core: it lets the tasks run, submits what they queued, delivers what is complete, drains the mailboxes, and waits when
//! there is nothing to do.
//!
//! The core waits in its data ring, inside this task, and never in glommio: that costs one system call where glommio's park takes six or
//! seven, and it is the cure of glommio 0.9.0's lost wake-up. That executor can park although tasks are runnable (its `run_task_queues`
//! returns false when preemption was requested before the first queue ran; the completion that requested it wakes nobody), and then sleeps
//! until some other event. Here this task is always runnable and the preemption timer far away, so that glommio has no reason to park;
//! should it park after all, the guard, a timer of its own that park honours, gets it going again.
//!
//! What follows from that: nothing of glommio's that needs its rings (timers, files, sockets, wakers from other threads) works here. `Rt`
//! has its own of each.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use glommio::timer::Timer;

use super::Core;
use super::turns::LONG;
use crate::rt::notify::Notify;

/// glommio's preemption timer. It only ends a round of glommio's own loop, which has nothing to do here.
pub const PREEMPT: Duration = Duration::from_secs(3600);
/// The longest that glommio can sleep with tasks to run.
const GUARD: Duration = Duration::from_millis(1);
/// Rounds of tasks waking tasks before the kernel hears of what they queued so far.
const ROUNDS: usize = 8;
/// Rounds after a long one in which timers wait: what has arrived meanwhile is looked at first.
const ROUNDS_BEFORE_TIMERS: usize = 4;

/// Tells whether the background queue has been through all its tasks.
#[derive(Default)]
struct Background {
    ask: Notify,
    asked: Cell<bool>,
    passed: Cell<bool>,
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
                background.passed.set(true);
            }
        };
        let guard = async {
            loop {
                Timer::new(GUARD).await;
            }
        };
        glommio::spawn_local_into(passing, self.core.background).expect("the queue exists").detach();
        glommio::spawn_local_into(guard, self.core.foreground).expect("the queue exists").detach();
        let mut rounds = 0;
        // Nothing has run since the background was asked.
        let mut quiet = false;
        while !self.core.stopping.get() {
            let polls = self.core.polls.get();
            // Every runnable task of the foreground runs once, and the other queues get their share.
            glommio::executor().yield_task_queue_now().await;
            if self.core.turns.next(self.core.index) >= LONG {
                self.core.ring.submit();
                self.before_timers.set(ROUNDS_BEFORE_TIMERS);
            }
            if self.look() || self.core.polls.get() != polls {
                self.set_parked(false);
                quiet = false;
                rounds += 1;
                if rounds == ROUNDS {
                    rounds = 0;
                    self.core.ring.submit();
                }
            } else if !self.background.asked.get() {
                self.set_parked(true);
                // What came before "parked" was seen. Whatever this wakes, and does not tell, runs before the question is answered: that
                // queues up behind the runnable tasks of the background.
                quiet = !self.look();
                self.background.asked.set(true);
                self.background.ask.notify();
            } else if self.background.passed.replace(false) {
                self.background.asked.set(false);
                if quiet {
                    rounds = 0;
                    let limit = self.core.timers.next();
                    let spin = limit.map_or(self.core.spin, |limit| limit.min(self.core.spin));
                    if !self.core.ring.spin(spin) {
                        self.core.ring.wait(self.core.timers.next());
                    }
                    self.core.turns.begin();
                }
            } else {
                self.core.ring.submit();
            }
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
        let hook = core.turn.borrow().clone();
        if let Some(hook) = hook {
            any |= hook();
        }
        any
    }
}
