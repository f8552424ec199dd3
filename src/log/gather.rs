//! Whether the next small flushed write waits a moment for the producers that the last one has just answered. Pure.
//!
//! Producers that wait for each answer before they send again fall apart into two groups: while one's records are being flushed the other's gather,
//! and each waits for both flushes. If the answered ones are back soon, one flush for all is faster for everybody.

use std::time::Duration;

/// The longest wait. A wait is also at most half of what the last write took.
const LONGEST: Duration = Duration::from_micros(100);
/// Writes above this take long by their size, and fewer of them gain nothing.
const SMALL: usize = 16 << 10;
/// Most writes that are not waited for after a wait was in vain.
const MOST_SKIPPED: u32 = 256;

/// What is known of the producers of one log.
#[derive(Default)]
pub(super) struct Gather {
    /// Batches appended since the last write began.
    appended: usize,
    /// Batches in the write that is under way.
    flying: usize,
    /// How many there would be with all that were answered, and until when they are waited for.
    expected: usize,
    until: Duration,
    /// Writes still to be begun at once, and how many it will be after the next wait in vain.
    skip: u32,
    next_skip: u32,
}

impl Gather {
    pub fn appended(&mut self) {
        self.appended += 1;
    }

    pub fn took_off(&mut self) {
        self.flying = std::mem::take(&mut self.appended);
        self.expected = 0;
    }

    /// A write of `bytes` that began at `started` has ended.
    pub fn landed(&mut self, bytes: usize, durable: bool, started: Duration, now: Duration) {
        // A group alone has nobody to wait for.
        if !durable || bytes > SMALL || self.appended + self.flying < 2 {
            return;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.expected = self.appended + self.flying;
        self.until = now + (now.saturating_sub(started) / 2).min(LONGEST);
    }

    /// How long the next write is to wait at most, unless more is appended meanwhile.
    pub fn wait(&mut self, now: Duration) -> Option<Duration> {
        if self.expected == 0 {
            return None;
        }
        if self.appended >= self.expected {
            self.next_skip = 0;
        } else if now < self.until {
            return Some(self.until - now);
        } else {
            self.next_skip = (self.next_skip * 2).clamp(1, MOST_SKIPPED);
            self.skip = self.next_skip;
        }
        self.expected = 0;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Appends `n` batches, begins a write at `at` that takes 200 us, during which `meanwhile` come.
    fn flight(gather: &mut Gather, n: usize, meanwhile: usize, at: u64) {
        (0..n).for_each(|_| gather.appended());
        gather.took_off();
        (0..meanwhile).for_each(|_| gather.appended());
        gather.landed(4096, true, us(at), us(at + 200));
    }

    #[test]
    fn two_groups_become_one() {
        let mut gather = Gather::default();
        flight(&mut gather, 4, 4, 0);
        assert_eq!(gather.wait(us(210)), Some(us(90)));
        (0..3).for_each(|_| gather.appended());
        assert_eq!(gather.wait(us(250)), Some(us(50)));
        gather.appended();
        assert_eq!(gather.wait(us(260)), None);
    }

    #[test]
    fn two_producers_are_enough() {
        for (together, meanwhile) in [(1, 1), (2, 0)] {
            let mut gather = Gather::default();
            flight(&mut gather, together, meanwhile, 0);
            assert_eq!(gather.wait(us(210)), Some(us(90)), "{together} {meanwhile}");
        }
    }

    #[test]
    fn no_wait_is_longer_than_half_of_the_write() {
        let mut gather = Gather::default();
        (0..2).for_each(|_| gather.appended());
        gather.took_off();
        gather.landed(4096, true, us(1000), us(1060));
        assert_eq!(gather.wait(us(1065)), Some(us(25)));
        assert_eq!(gather.wait(us(1090)), None);
    }

    #[test]
    fn who_does_not_come_is_waited_for_ever_more_rarely() {
        let mut gather = Gather::default();
        let (mut at, mut waits) = (0, 0);
        for _ in 0..2000 {
            flight(&mut gather, 1, 1, at);
            waits += usize::from(gather.wait(us(at + 200)).is_some());
            assert_eq!(gather.wait(us(at + 300)), None, "never longer than half of the write");
            at += 1000;
        }
        assert!((8..20).contains(&waits), "{waits}");
    }

    #[test]
    fn one_producer_and_large_or_unflushed_writes_are_not_waited_for() {
        let mut gather = Gather::default();
        flight(&mut gather, 1, 0, 0);
        assert_eq!(gather.wait(us(200)), None);
        for (bytes, durable) in [(SMALL + 1, true), (4096, false)] {
            (0..8).for_each(|_| gather.appended());
            gather.took_off();
            (0..8).for_each(|_| gather.appended());
            gather.landed(bytes, durable, us(0), us(200));
            assert_eq!(gather.wait(us(200)), None);
        }
    }
}
