//! Swarm: whole lives of a broker, each with a random subset of features and faults, then healed and held against their history.
//!
//! `scripts/swarm [HOURS] [FIRST_SEED]` runs lives for so many virtual hours. `SEED=7 TRACE=1 cargo test --release --lib swarm::lives --
//! --nocapture` runs one seed and prints its draw, all that happens and the broker's log. A seed gives the same life every time.
//! WITHOUT=Flip,Churn leaves features and faults of these names out of all lives; WITHOUT= leaves out none.
//!
//! To read a trace: each line begins with the virtual time in seconds. The draw comes first, then topics by their ids, ends and starts of
//! the broker, faults that hit with the file they hit, and at last the finding. `plan` has what is drawn, `history` what is demanded and
//! its table of what a fault may take, `nemesis` the faults, `heal` what has to answer at the end.

mod admin;
mod commits;
mod heal;
mod history;
mod history_tests;
mod nemesis;
mod plan;
mod producers;
mod readers;
pub(super) mod requests;
mod world;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use commits::Commits;
use plan::Feature;
use producers::Producer;
use world::World;

/// Lives of a plain `cargo test`.
const SEEDS: u64 = 24;

type Part<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs all until the first one ends.
async fn race(mut parts: Vec<Part<'_>>) {
    poll_fn(|cx| match parts.iter_mut().any(|part| part.as_mut().poll(cx).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await
}

/// What one life was.
struct Life {
    trace: u64,
    virtual_time: Duration,
    counts: BTreeMap<String, u64>,
}

/// Lives a life: clients and faults, then the healing.
fn live(world: &World) {
    let mut number = 0;
    let names: Vec<String> = world.topics.borrow().keys().cloned().collect();
    let mut commits: Vec<_> = names.iter().flat_map(|name| Commits::of(world, name)).collect();
    world.machine.sim.run_until(async {
        world.start();
        let mut parts: Vec<Part<'_>> = Vec::new();
        for name in &names {
            parts.push(Box::pin(admin::run(world, name)));
            parts.push(Box::pin(readers::run(world, name)));
            for producer in Producer::of(world, name, &mut number) {
                parts.push(Box::pin(producer.run()));
            }
        }
        if world.plan.does(Feature::Commits) {
            parts.extend(commits.iter_mut().map(|commits| Box::pin(commits.run()) as Part<'_>));
        }
        parts.push(Box::pin(nemesis::run(world)));
        parts.push(Box::pin(nemesis::supervise(world)));
        parts.push(Box::pin(world.sim().sleep(world.plan.length)));
        race(parts).await;
        world.over.set(true);
        heal::heal(world, &mut commits).await;
    });
}

/// The life of a seed. When it ends with a finding, the seed and the events are printed.
fn life(seed: u64) -> Life {
    let world = World::new(seed);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| live(&world))) {
        println!("{}", world.events());
        println!("FAILED SEED={seed}: SEED={seed} TRACE=1 cargo test --lib swarm::lives -- --nocapture");
        resume_unwind(panic);
    }
    Life { trace: world.sim().trace(), virtual_time: world.sim().now().mono, counts: world.counts.take() }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What several lives were.
#[derive(Default)]
struct Sum {
    lives: u64,
    virtual_time: Duration,
    counts: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, life: Life) {
        self.lives += 1;
        self.virtual_time += life.virtual_time;
        for (what, n) in life.counts {
            *self.counts.entry(what).or_default() += n;
        }
    }

    fn hours(&self) -> f64 {
        self.virtual_time.as_secs_f64() / 3600.0
    }

    fn print(&self, first: u64, started: Instant) {
        let took = started.elapsed().as_secs();
        println!("seeds {first} to {}: {} lives, {:.2} virtual hours in {took} s", first + self.lives - 1, self.lives, self.hours());
        let counts: Vec<String> = self.counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
        println!("{}", counts.join(", "));
    }
}

thread_local! {
    static LOGGED: Cell<bool> = const { Cell::new(false) };
}

/// Shows the broker's log, if TRACE is set.
fn show_log() {
    if std::env::var_os("TRACE").is_some() && !LOGGED.replace(true) {
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).without_time().try_init();
    }
}

/// SEED: this one alone. SEEDS: so many, from FIRST_SEED on. HOURS: from there on, for so many virtual hours.
#[test]
fn lives() {
    show_log();
    let started = Instant::now();
    let first = number("SEED").or(number("FIRST_SEED")).unwrap_or(0);
    let seeds = number("SEED").map(|_| 1).or(number("SEEDS")).unwrap_or(SEEDS);
    let hours = number("HOURS").filter(|_| number("SEED").is_none());
    let mut sum = Sum::default();
    let go_on = |sum: &Sum| hours.map_or(sum.lives < seeds, |hours| sum.hours() < hours as f64);
    while go_on(&sum) {
        sum.add(life(first + sum.lives));
        if sum.lives.is_multiple_of(50) {
            sum.print(first, started);
        }
    }
    sum.print(first, started);
}

#[test]
fn equal_seeds_give_equal_lives() {
    for seed in [3, 4, 5] {
        assert_eq!(life(seed).trace, life(seed).trace);
    }
}
