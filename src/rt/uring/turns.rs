//! How long the turns of a core take: in a turn every task that can go on does so once.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// After a turn of this length completions are delivered before timers fire: what was due in between
/// may have come in time.
pub const LONG: Duration = Duration::from_millis(10);
/// A turn of this length is told, with what was done last in it.
const TOLD: Duration = Duration::from_millis(100);
/// It is told so often at most.
const TELL_EVERY: Duration = Duration::from_secs(10);
const BOUNDS: [Duration; 3] = [Duration::from_millis(1), LONG, TOLD];

/// The turns of one core so far.
pub struct Turns {
    /// Turns over 1, 10 and 100 ms.
    over: [Cell<u64>; 3],
    longest: Cell<(Duration, &'static str)>,
    doing: Cell<&'static str>,
    began: Cell<Instant>,
    told: Cell<Option<Instant>>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            over: Default::default(),
            longest: Cell::new((Duration::ZERO, "")),
            doing: Cell::new("nothing"),
            began: Cell::new(Instant::now()),
            told: Cell::new(None),
        }
    }
}

impl Turns {
    /// What the core is at now, for the log.
    pub fn doing(&self, what: &'static str) {
        self.doing.set(what);
    }

    /// The core has waited: a turn begins.
    pub fn begin(&self) {
        self.began.set(Instant::now());
    }

    /// A turn ends, and another begins; how long it was.
    pub fn next(&self, core: usize) -> Duration {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began.replace(now));
        if took >= BOUNDS[0] {
            self.note(core, now, took);
        }
        took
    }

    #[cold]
    fn note(&self, core: usize, now: Instant, took: Duration) {
        for (over, bound) in self.over.iter().zip(BOUNDS) {
            over.set(over.get() + u64::from(took >= bound));
        }
        let what = self.doing.get();
        if took > self.longest.get().0 {
            self.longest.set((took, what));
        }
        let recently = self.told.get().is_some_and(|told| now - told < TELL_EVERY);
        if took >= TOLD && !recently {
            self.told.set(Some(now));
            tracing::warn!("core {core} was at one thing for {} ms, last at {what}", took.as_millis());
        }
    }

    /// Says how long the turns were, at the end of the core, if some were long.
    pub fn tell(&self, core: usize) {
        let [over_1, over_10, over_100] = self.over.each_ref().map(Cell::get);
        let (longest, what) = self.longest.get();
        if over_10 == 0 {
            return;
        }
        tracing::info!(
            "core {core}: {over_1} turns over 1 ms, {over_10} over 10 ms, {over_100} over 100 ms; the longest took {:.1} ms, last at {what}",
            longest.as_secs_f64() * 1e3
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_turns_are_counted_with_their_cause() {
        let turns = Turns::default();
        turns.doing("Produce");
        let now = Instant::now();
        for ms in [0, 1, 2, 10, 150] {
            turns.began.set(now.checked_sub(Duration::from_millis(ms)).unwrap());
            turns.next(0);
        }
        assert!(turns.over[0].get() >= 4 && turns.over[1].get() >= 2 && turns.over[2].get() >= 1);
        assert!(turns.longest.get().0 >= Duration::from_millis(150));
        assert_eq!(turns.longest.get().1, "Produce");
    }
}
