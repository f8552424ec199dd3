//! How long the turns of a core take, and for what: in a turn every task that can go on does so once.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// After a turn of this length completions are delivered before timers fire: what was due in between
/// may have come in time.
pub const LONG: Duration = Duration::from_millis(10);
/// A turn of this length is told, with what took longest in it.
const TOLD: Duration = Duration::from_millis(100);
/// A turn over 10 ms is told too where it is so many times as long as the longest before.
const LONGER: f64 = 1.2;
/// It is told so often at most.
const TELL_EVERY: Duration = Duration::from_secs(10);
const BOUNDS: [Duration; 3] = [Duration::from_millis(1), LONG, TOLD];

/// What took longest in a turn, as far as the coarse clock tells: nothing in most turns.
#[derive(Clone, Copy, Default)]
struct Part {
    what: &'static str,
    took: Duration,
}

/// The turns of one core so far.
pub struct Turns {
    /// Turns over 1, 10 and 100 ms.
    over: [Cell<u64>; 3],
    longest: Cell<(Duration, Part)>,
    /// What the core is at, and since when by the coarse clock.
    doing: Cell<(&'static str, Duration)>,
    /// Of this turn.
    part: Cell<Part>,
    began: Cell<Instant>,
    told: Cell<Option<Instant>>,
    away: Cell<Duration>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            over: Default::default(),
            longest: Cell::default(),
            doing: Cell::new(("nothing", coarse_now())),
            part: Cell::default(),
            began: Cell::new(Instant::now()),
            told: Cell::new(None),
            away: Cell::default(),
        }
    }
}

/// A clock that costs a few nanoseconds and moves in steps of 1 to 10 ms.
fn coarse_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one `timespec` of our own.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Turns {
    /// What the core is at from now on.
    pub fn doing(&self, what: &'static str) {
        self.switch(what, coarse_now());
    }

    fn switch(&self, what: &'static str, now: Duration) {
        let (before, since) = self.doing.replace((what, now));
        let took = now.saturating_sub(since);
        if took > self.part.get().took {
            self.part.set(Part { what: before, took });
        }
    }

    /// The core has waited since `before`, for `limit` at most: a turn begins. Whether the wait has
    /// taken much longer than that.
    pub fn waited(&self, before: Instant, limit: Option<Duration>) -> bool {
        let now = Instant::now();
        self.began.set(now);
        self.doing.set(("the loop", coarse_now()));
        self.part.take();
        let late = limit.map_or(Duration::ZERO, |limit| now.saturating_duration_since(before).saturating_sub(limit));
        let long = late >= LONG;
        if long {
            self.away.set(self.away.get() + late);
        }
        long
    }

    /// A turn ends, and another begins. Whether it was a long one.
    pub fn next(&self, core: usize) -> bool {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began.replace(now));
        self.doing("the loop");
        let part = self.part.take();
        if took >= BOUNDS[0] {
            self.note(core, now, took, part);
        }
        took >= LONG
    }

    /// When this turn began.
    pub fn began(&self) -> Instant {
        self.began.get()
    }

    /// Time in long turns, and in waits that were too long. A turn counts from the moment on at which it is long: the machine may have
    /// stood still in it, and what is decided in the rest of it must know.
    pub fn away(&self) -> Duration {
        let took = self.began.get().elapsed();
        self.away.get() + if took >= LONG { took } else { Duration::ZERO }
    }

    #[cold]
    fn note(&self, core: usize, now: Instant, took: Duration, part: Part) {
        for (over, bound) in self.over.iter().zip(BOUNDS) {
            over.set(over.get() + u64::from(took >= bound));
        }
        if took >= LONG {
            self.away.set(self.away.get() + took);
        }
        let longest = self.longest.get().0;
        if took > longest {
            self.longest.set((took, part));
        }
        if took >= LONG && took < TOLD && took > longest.mul_f64(LONGER) {
            tracing::info!("core {core}: a turn took {} ms{}", took.as_millis(), cause(part));
        }
        let recently = self.told.get().is_some_and(|told| now - told < TELL_EVERY);
        if took >= TOLD && !recently {
            self.told.set(Some(now));
            tracing::warn!("core {core}: a turn took {} ms{}", took.as_millis(), cause(part));
        }
    }

    /// Says how long the turns were, at the end of the core, if some were long.
    pub fn tell(&self, core: usize) {
        let [over_1, over_10, over_100] = self.over.each_ref().map(Cell::get);
        let (longest, part) = self.longest.get();
        if over_10 == 0 {
            return;
        }
        tracing::info!(
            "core {core}: {over_1} turns over 1 ms, {over_10} over 10 ms, {over_100} over 100 ms; the longest took {:.1} ms{}",
            longest.as_secs_f64() * 1e3,
            cause(part),
        );
    }
}

fn cause(Part { what, took }: Part) -> String {
    match took.is_zero() {
        true => ", no part of it long".into(),
        false => format!(", {} ms of it in {}", took.as_millis(), shown(what)),
    }
}

/// The name of a task, which is the path of its code, without what is the same in all of them.
fn shown(what: &str) -> String {
    let mut name = what.replace("corelane::", "").replace("::{{closure}}", "");
    for runtime in ["<rt::uring::Uring>", "rt::uring::Uring, ", ", rt::uring::Uring", "rt::uring::Uring"] {
        name = name.replace(runtime, "");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pass(turns: &Turns, took: Duration) -> bool {
        turns.began.set(Instant::now().checked_sub(took).unwrap());
        turns.next(0)
    }

    #[test]
    fn long_turns_are_counted_and_are_time_away() {
        let turns = Turns::default();
        let long = [0, 1, 2, 10, 150].map(|ms| pass(&turns, ms * MS));
        assert_eq!(long[3..], [true, true]);
        assert!(turns.over[0].get() >= 4 && turns.over[1].get() >= 2 && turns.over[2].get() >= 1);
        assert!(turns.longest.get().0 >= 150 * MS);
        assert!(turns.away() >= 160 * MS);
    }

    #[test]
    fn a_long_turn_counts_while_it_goes_on() {
        let turns = Turns::default();
        turns.began.set(Instant::now().checked_sub(6000 * MS).unwrap());
        assert!(turns.away() >= 6000 * MS, "a deadline that is looked at in this turn");
        turns.next(0);
        let away = turns.away();
        assert!(away >= 6000 * MS && away < 12_000 * MS, "it counts once: {away:?}");
    }

    #[test]
    fn the_cause_is_what_took_longest_and_not_what_came_last() {
        let turns = Turns::default();
        let start = coarse_now();
        turns.switch("Produce", start);
        turns.switch("ListOffsets", start + MS);
        turns.switch("Fetch", start + 81 * MS);
        turns.switch("the loop", start + 90 * MS);
        pass(&turns, 150 * MS);
        let (_, part) = turns.longest.get();
        assert_eq!((part.what, part.took), ("ListOffsets", 80 * MS));
        assert_eq!(cause(part), ", 80 ms of it in ListOffsets");
        assert!(turns.part.get().took.is_zero(), "the next turn has its own");
    }

    #[test]
    fn a_wait_that_is_too_long_is_time_away() {
        let turns = Turns::default();
        let before = Instant::now().checked_sub(50 * MS).unwrap();
        assert!(!turns.waited(before, None));
        assert!(turns.waited(before, Some(20 * MS)));
        let away = turns.away();
        assert!(away >= 30 * MS && away < 1000 * MS, "{away:?}");
        assert!(!turns.waited(Instant::now(), Some(20 * MS)));
        assert_eq!(turns.away(), away);
    }

    #[test]
    fn names_of_tasks_are_short() {
        let name = "corelane::server::conn::Conn<corelane::rt::uring::Uring>::spawn::{{closure}}";
        assert_eq!(shown(name), "server::conn::Conn::spawn");
    }
}
