//! Long work of a core, in slices: each turn has a budget for it, and a task that has spent the
//! budget goes on in a later turn, in line with the others.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use super::notify::Notify;

/// Budget of one turn: the cost of inflating so many bytes, about 200 us. Other work costs as many
/// bytes as are inflated in the same time.
pub const SLICE: usize = 256 << 10;

/// The budget of one core's turn, and the tasks that wait for the next one.
pub struct Slices {
    left: Cell<usize>,
    /// Tasks with long work, in the order in which they go on.
    line: RefCell<VecDeque<Weak<Notify>>>,
    /// Tasks that let the others run once.
    yielded: RefCell<Vec<Waker>>,
    rests: Cell<u64>,
}

impl Default for Slices {
    fn default() -> Slices {
        Slices { left: Cell::new(SLICE), line: RefCell::default(), yielded: RefCell::default(), rests: Cell::default() }
    }
}

impl Slices {
    /// A turn begins: the budget is whole again, and the first task of the line goes on. True if a
    /// task was woken.
    pub fn turn(&self) -> bool {
        self.left.set(SLICE);
        let mut woken = false;
        if !self.yielded.borrow().is_empty() {
            let yielded = self.yielded.take();
            yielded.into_iter().for_each(Waker::wake);
            woken = true;
        }
        // A task that was dropped has left its place.
        while let Some(first) = self.line.borrow_mut().pop_front() {
            if let Some(first) = first.upgrade() {
                first.notify();
                return true;
            }
        }
        woken
    }

    /// What is left of the turn's budget.
    pub fn left(&self) -> usize {
        self.left.get()
    }

    /// Counts work that was done.
    pub fn spend(&self, cost: usize) {
        self.left.set(self.left.get().saturating_sub(cost));
    }

    /// Waits for a turn of one's own if the budget is spent.
    pub async fn rest(&self) {
        if self.left.get() > 0 {
            return;
        }
        self.rests.set(self.rests.get() + 1);
        let event = Rc::new(Notify::default());
        self.line.borrow_mut().push_back(Rc::downgrade(&event));
        event.notified().await;
        // Others may have spent this turn's already.
        self.left.set(SLICE);
    }

    /// Counts work that was done, and waits if the budget is spent.
    pub async fn pass(&self, cost: usize) {
        self.spend(cost);
        self.rest().await;
    }

    /// Calls `work` with what is left of the budget, above 0; it takes off what it has spent.
    pub async fn step<T>(&self, work: impl FnOnce(&mut usize) -> T) -> T {
        self.rest().await;
        let mut budget = self.left.get();
        let result = work(&mut budget);
        self.left.set(budget);
        result
    }

    /// Calls `step` with what is left of the budget until it has a result. Each call goes on until
    /// the work is done or the budget is spent.
    pub async fn run<T>(&self, mut step: impl FnMut(&mut usize) -> Option<T>) -> T {
        loop {
            if let Some(result) = self.step(&mut step).await {
                return result;
            }
        }
    }

    /// Lets every other runnable task of the core run once.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        let wait = poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            self.yielded.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        });
        wait.await;
    }

    /// Whether a task waits for the next turn.
    pub fn has_line(&self) -> bool {
        !self.line.borrow().is_empty()
    }

    /// How often tasks have waited for another turn.
    #[cfg(test)]
    pub fn rests(&self) -> u64 {
        self.rests.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn a_turn_has_one_budget_and_the_line_is_kept() {
        let slices = Slices::default();
        let mut cx = Context::from_waker(Waker::noop());
        slices.spend(SLICE);
        let (mut first, mut gone, mut second) = (pin!(slices.rest()), Box::pin(slices.rest()), pin!(slices.rest()));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(gone.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        drop(gone);
        assert!(slices.turn());
        assert!(second.as_mut().poll(&mut cx).is_pending(), "one at a time");
        assert!(first.as_mut().poll(&mut cx).is_ready());
        assert!(slices.turn());
        slices.spend(SLICE);
        assert!(second.as_mut().poll(&mut cx).is_ready());
        assert_eq!(slices.left(), SLICE, "it has waited for its turn");
        assert!(!slices.turn());
        assert_eq!(slices.rests(), 3);
    }

    #[test]
    fn work_goes_on_until_it_has_a_result() {
        let slices = Slices::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut todo = 5 * SLICE / 2;
        let mut work = pin!(slices.run(|budget| {
            let now = todo.min(*budget);
            (todo, *budget) = (todo - now, *budget - now);
            (todo == 0).then_some("done")
        }));
        for _ in 0..2 {
            assert!(work.as_mut().poll(&mut cx).is_pending());
            slices.turn();
        }
        assert_eq!(work.as_mut().poll(&mut cx), Poll::Ready("done"));
        assert_eq!(slices.left(), SLICE / 2);
    }
}
