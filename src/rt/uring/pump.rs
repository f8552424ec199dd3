//! The loop of a core: it submits what the tasks queued, delivers what is complete, drains the mailboxes, and parks when idle.
//!
//! glommio 0.9.0 can park although tasks are runnable (its `run_task_queues` returns false when preemption was requested before the first
//! queue ran; the completion that requested it wakes nobody). Only a timer bounds that stall, since a park honours the next one. Hence the
//! tick: every millisecond while there is work, every 100 ms when idle. Behind it stand guards, each later than the one before, which are
//! set anew whenever the tick runs: when this thread has not had the CPU for a while several timers are due at once, what they wake may be
//! lost together, and only one that is still to come gets the core going again.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, FromRawFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use glommio::timer::Timer;

use super::Core;
use crate::rt::notify::Notify;

/// The tick while there is work, and its guards, in milliseconds.
const TICKS_MS: [u64; 7] = [1, 3, 10, 30, 100, 1000, 10_000];
/// The same for an idle core.
const IDLE_TICKS_MS: [u64; 7] = [100, 130, 200, 400, 1000, 4000, 16_000];
/// The core counts as busy this long after the last thing it did.
const BUSY: Duration = Duration::from_millis(5);

/// When the core last did something, and the tick that follows from it.
struct Ticks {
    busy_until: Cell<Instant>,
    idle: Cell<bool>,
    kick: Notify,
}

/// The pump of one core.
pub struct Pump {
    core: Rc<Core>,
    ticks: Rc<Ticks>,
    tick: bool,
}

type Ring = Pin<Box<dyn Future<Output = ()>>>;

impl Pump {
    /// For a core whose ring rings the core's doorbell.
    pub fn new(core: Rc<Core>, tick: bool) -> Pump {
        let ticks = Ticks { busy_until: Cell::new(Instant::now()), idle: Cell::new(true), kick: Notify::default() };
        Pump { core, ticks: Rc::new(ticks), tick }
    }

    /// Runs until the core is drained.
    pub async fn run(self) {
        if self.tick {
            glommio::spawn_local_into(tick(self.ticks.clone()), self.core.foreground).expect("the queue exists").detach();
        }
        let fd = self.core.peers[self.core.index].doorbell.as_raw_fd();
        // SAFETY: a duplicate of the doorbell, owned by the file.
        let doorbell = Rc::new(unsafe { BufferedFile::from_raw_fd(libc::dup(fd)) });
        let rung: RefCell<Ring> = RefCell::new(listen(&doorbell));
        let parked = &self.core.peers[self.core.index].parked;
        while !self.core.stopping.get() {
            if self.turn() {
                futures_lite::future::yield_now().await;
                continue;
            }
            parked.store(true, Ordering::SeqCst);
            // Pairs with the fence in `unpark`: either we see the message, or its sender sees us parked.
            fence(Ordering::SeqCst);
            if !self.turn() {
                self.wait(&doorbell, &rung).await;
            }
            parked.store(false, Ordering::SeqCst);
        }
    }

    /// One turn; true when there was anything to do.
    fn turn(&self) -> bool {
        let core = &self.core;
        let mut any = core.ring.turn();
        core.receives.turn();
        core.memory.turn();
        let hook = core.turn.borrow().clone();
        if let Some(hook) = hook {
            any |= hook();
        }
        if any {
            self.ticks.busy_until.set(Instant::now() + BUSY);
            if self.ticks.idle.replace(false) {
                self.ticks.kick.notify();
            }
        }
        any
    }

    /// Until the doorbell rings or a task of this core queues an operation.
    async fn wait(&self, doorbell: &Rc<BufferedFile>, rung: &RefCell<Ring>) {
        let kicked = self.core.ring.kick.notified();
        futures_lite::pin!(kicked);
        poll_fn(|cx| {
            if rung.borrow_mut().as_mut().poll(cx).is_ready() {
                drop(rung.replace(listen(doorbell)));
                // Polled once so that it is in the kernel's hands before we park again.
                let _ = rung.borrow_mut().as_mut().poll(cx);
                return Poll::Ready(());
            }
            kicked.as_mut().poll(cx)
        })
        .await
    }
}

fn listen(doorbell: &Rc<BufferedFile>) -> Ring {
    let doorbell = doorbell.clone();
    Box::pin(async move {
        if let Err(e) = doorbell.read_at(0, 8).await {
            crate::base::fatal::fatal(&format!("the core's doorbell cannot be read: {e}"));
        }
    })
}

async fn tick(ticks: Rc<Ticks>) {
    loop {
        let idle = Instant::now() >= ticks.busy_until.get();
        ticks.idle.set(idle);
        let mut timers = if idle { IDLE_TICKS_MS } else { TICKS_MS }.map(|ms| Timer::new(Duration::from_millis(ms)));
        let mut kicked = pin!(ticks.kick.notified());
        poll_fn(|cx| {
            // All are polled, since that sets them.
            let due = timers.iter_mut().filter_map(|timer| Pin::new(timer).poll(cx).is_ready().then_some(())).count();
            if due > 0 || idle && kicked.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
