//! Timers of one core. The ring's wait ends when the next one is due.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Who waits until when; the number tells equal instants apart.
type Key = (Instant, u64);

/// The waiting timers of a core.
#[derive(Default)]
pub struct Timers {
    waiting: RefCell<BTreeMap<Key, Waker>>,
    last: Cell<u64>,
}

impl Timers {
    /// Resolves after `duration`.
    pub fn sleep(self: &Rc<Timers>, duration: Duration) -> Sleep {
        self.last.set(self.last.get() + 1);
        // A duration beyond the clock's end never comes; a century is as good.
        let now = Instant::now();
        let due = now.checked_add(duration).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400));
        Sleep { timers: self.clone(), key: (due, self.last.get()) }
    }

    /// Wakes whoever is due; true when there was one.
    pub fn fire(&self) -> bool {
        let first = self.waiting.borrow().first_key_value().map(|(key, _)| key.0);
        let Some(now) = first.map(|_| Instant::now()).filter(|now| first.is_some_and(|first| first <= *now)) else {
            return false;
        };
        let later = self.waiting.borrow_mut().split_off(&(now, u64::MAX));
        let due = self.waiting.replace(later);
        due.into_values().for_each(Waker::wake);
        true
    }

    /// How long until the next one is due.
    pub fn next(&self) -> Option<Duration> {
        let waiting = self.waiting.borrow();
        waiting.first_key_value().map(|(key, _)| key.0.saturating_duration_since(Instant::now()))
    }
}

/// A wait for an instant; dropping it ends the wait.
pub struct Sleep {
    timers: Rc<Timers>,
    key: Key,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.key.0 <= Instant::now() {
            return Poll::Ready(());
        }
        self.timers.waiting.borrow_mut().insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.timers.waiting.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_what_is_due_and_not_dropped_is_woken() {
        let timers = Rc::new(Timers::default());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut soon = timers.sleep(Duration::from_millis(5));
        let mut late = timers.sleep(Duration::from_secs(3600));
        let mut dropped = timers.sleep(Duration::from_millis(5));
        for sleep in [&mut soon, &mut late, &mut dropped] {
            assert!(Pin::new(sleep).poll(&mut cx).is_pending());
        }
        drop(dropped);
        assert!(timers.next().is_some_and(|next| next <= Duration::from_millis(5)));
        std::thread::sleep(Duration::from_millis(6));
        assert!(timers.fire());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(Pin::new(&mut soon).poll(&mut cx).is_ready());
        assert!(Pin::new(&mut late).poll(&mut cx).is_pending());
        assert!(!timers.fire());
        drop(late);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_sleep_without_end_is_no_overflow() {
        let timers = Rc::new(Timers::default());
        let waker = Waker::noop();
        let mut sleep = timers.sleep(Duration::MAX);
        assert!(Pin::new(&mut sleep).poll(&mut Context::from_waker(waker)).is_pending());
    }
}
