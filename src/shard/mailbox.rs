//! Mailboxes between cores: one bounded queue for each ordered pair, many messages per wake-up, and a sender that never waits.
//!
//! Invariant: a full mailbox cannot deadlock, because nobody blocks on one. What does not fit waits in the sender's own outbox and is tried
//! again on its next turn; a receiver that has made room in a full mailbox wakes the sender. What bounds an outbox is admission
//! ([`Mailboxes::congested`]): a core stops reading from its connections while work for another core is piling up. Replies are bounded
//! by the requests that they answer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;

/// Messages that are handled before the clock is looked at.
const MESSAGES_PER_LOOK: usize = 8;

struct Lane<M> {
    queue: ArrayQueue<M>,
    /// The sender has more than fits.
    overflow: AtomicBool,
}

/// The mailboxes of all pairs of cores.
pub struct Grid<M> {
    lanes: Arc<[Lane<M>]>,
    cores: usize,
}

impl<M> Clone for Grid<M> {
    fn clone(&self) -> Self {
        Grid { lanes: self.lanes.clone(), cores: self.cores }
    }
}

impl<M> Grid<M> {
    /// `capacity` messages for each ordered pair of `cores` cores.
    pub fn new(cores: usize, capacity: usize) -> Grid<M> {
        let lane = |_| Lane { queue: ArrayQueue::new(capacity), overflow: AtomicBool::new(false) };
        Grid { lanes: (0..cores * cores).map(lane).collect(), cores }
    }

    fn lane(&self, from: usize, to: usize) -> &Lane<M> {
        &self.lanes[from * self.cores + to]
    }
}

/// One core's end of the grid.
pub struct Mailboxes<M> {
    grid: Grid<M>,
    core: usize,
    outboxes: RefCell<Vec<VecDeque<M>>>,
    congestion: usize,
    /// The sender whose messages are taken first in the next turn.
    next_sender: Cell<usize>,
}

impl<M> Mailboxes<M> {
    /// The end of `core`. Above `congestion` waiting messages the core is congested.
    pub fn new(grid: Grid<M>, core: usize, congestion: usize) -> Mailboxes<M> {
        let outboxes = RefCell::new((0..grid.cores).map(|_| VecDeque::new()).collect());
        Mailboxes { grid, core, outboxes, congestion, next_sender: Cell::new(0) }
    }

    /// Puts a message into the outbox for `to` (which may be this core); it leaves with the next [`Mailboxes::flush`].
    pub fn send(&self, to: usize, message: M) {
        self.outboxes.borrow_mut()[to].push_back(message);
    }

    /// Moves what fits from the outboxes to the mailboxes; calls `wake` for each core that got something. True when anything moved.
    pub fn flush(&self, mut wake: impl FnMut(usize)) -> bool {
        let mut any = false;
        for (to, outbox) in self.outboxes.borrow_mut().iter_mut().enumerate() {
            if outbox.is_empty() {
                continue;
            }
            let lane = self.grid.lane(self.core, to);
            let mut moved = self.fill(lane, outbox);
            if !outbox.is_empty() {
                lane.overflow.store(true, Ordering::SeqCst);
                // The receiver may have emptied the lane between the failed push and the flag: it would then wake nobody.
                moved |= self.fill(lane, outbox);
            }
            if moved {
                any = true;
                wake(to);
            }
        }
        any
    }

    fn fill(&self, lane: &Lane<M>, outbox: &mut VecDeque<M>) -> bool {
        let mut moved = false;
        while let Some(message) = outbox.pop_front() {
            if let Err(message) = lane.queue.push(message) {
                outbox.push_front(message);
                break;
            }
            moved = true;
        }
        moved
    }

    /// Takes what has arrived, in order per sender, until `late` says that this core has other work;
    /// the next call goes on with the next sender. Calls `wake` for each sender that was waiting for
    /// room. True when there was anything.
    pub fn receive(&self, mut each: impl FnMut(usize, M), late: impl Fn() -> bool, mut wake: impl FnMut(usize)) -> bool {
        let (mut any, mut enough) = (false, false);
        let first = self.next_sender.replace((self.next_sender.get() + 1) % self.grid.cores);
        for from in (first..self.grid.cores).chain(0..first) {
            let lane = self.grid.lane(from, self.core);
            // At most one mailbox full per turn, too.
            for taken in 1..=lane.queue.capacity() {
                if enough {
                    break;
                }
                let Some(message) = lane.queue.pop() else { break };
                any = true;
                each(from, message);
                enough = taken % MESSAGES_PER_LOOK == 0 && late();
            }
            if !lane.queue.is_full() && lane.overflow.swap(false, Ordering::SeqCst) {
                wake(from);
            }
        }
        any
    }

    /// True when nothing waits in the outboxes.
    pub fn is_empty(&self) -> bool {
        self.outboxes.borrow().iter().all(VecDeque::is_empty)
    }

    /// True while so much waits for other cores that no new work should be read.
    pub fn congested(&self) -> bool {
        self.outboxes.borrow().iter().any(|o| o.len() > self.congestion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;
    use std::sync::Mutex;

    /// A stand-in for a core's doorbell.
    #[derive(Default)]
    struct Bell(Mutex<bool>, Condvar);

    impl Bell {
        fn ring(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_all();
        }

        fn wait(&self) {
            let mut rung = self.0.lock().unwrap();
            while !*rung {
                rung = self.1.wait(rung).unwrap();
            }
            *rung = false;
        }
    }

    /// Both cores send far more than fits before either reads: with blocking senders this would hang for ever.
    #[test]
    fn both_sides_full_does_not_deadlock() {
        const MESSAGES: u64 = 100_000;
        let grid: Grid<u64> = Grid::new(2, 4);
        let bells = Arc::new([Bell::default(), Bell::default()]);
        let threads: Vec<_> = (0..2)
            .map(|core| {
                let (grid, bells) = (grid.clone(), bells.clone());
                std::thread::spawn(move || {
                    let mailboxes = Mailboxes::new(grid, core, 8);
                    for n in 0..MESSAGES {
                        mailboxes.send(1 - core, n);
                    }
                    assert!(mailboxes.congested());
                    let mut expected = 0;
                    let late = Cell::new(false);
                    let wake = |to: usize| bells[to].ring();
                    loop {
                        let moved = mailboxes.flush(wake);
                        let got = mailboxes.receive(
                            |_, n| {
                                assert_eq!(n, expected);
                                expected += 1;
                            },
                            || late.replace(!late.get()),
                            wake,
                        );
                        if expected == MESSAGES && mailboxes.outboxes.borrow()[1 - core].is_empty() {
                            return;
                        }
                        if !moved && !got {
                            bells[core].wait();
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
