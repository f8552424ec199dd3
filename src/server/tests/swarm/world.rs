//! One life: its machine, what is known of it, what has happened, and the broker's comings and goings.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use super::super::client::Client;
use super::super::{Down, Machine};
use super::history::{History, Mishap, Rules};
use super::plan::Plan;
use crate::base::ids::{TopicId, Uuid};
use crate::log;
use crate::sim::{Fault, FaultOp, Hit, Sim};

/// What is known of a topic's name.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// No topic has it.
    Gone,
    /// A topic has it.
    There(Topic),
    /// A creation or a deletion was not answered.
    Unknown,
}

/// A topic that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its partitions, at least.
    pub partitions: i32,
    /// Values that each of its settings may have.
    pub settings: BTreeMap<String, Vec<String>>,
}

impl Topic {
    /// The rules that some combination of the possible settings makes.
    pub fn rules(&self) -> Rules {
        let any = |name: &str, is: &dyn Fn(&str) -> bool| self.settings.get(name).is_some_and(|values| values.iter().any(|v| is(v)));
        let policy = |part: &str| any("cleanup.policy", &|value| value.contains(part));
        let deletes = policy("delete") || !self.settings.contains_key("cleanup.policy");
        let least = |name: &str| {
            let values = self.settings.get(name).into_iter().flatten();
            values.filter_map(|v| v.parse::<i64>().ok()).filter(|v| *v >= 0).min().filter(|_| deletes)
        };
        Rules { compact: policy("compact"), retention_ms: least("retention.ms"), retention_bytes: least("retention.bytes") }
    }
}

/// What is acknowledged.
#[derive(Clone, Copy, Debug)]
pub enum Ack {
    /// A batch.
    Batch,
    /// A committed offset.
    Commit,
    /// A change of a topic, or a DeleteRecords.
    Change,
}

/// A partition's name: topic and number.
pub type Name = (String, i32);

/// A disk that is out.
#[derive(Clone, Debug)]
pub struct Out {
    /// Its directory.
    pub dir: String,
    /// The partitions on it, with the ids of their topics.
    pub partitions: Vec<(Name, Option<TopicId>)>,
}

/// One life.
pub struct World {
    /// The machine.
    pub machine: Machine,
    /// Its draw.
    pub plan: Plan,
    /// The checker.
    pub history: RefCell<History>,
    /// By topic name.
    pub topics: RefCell<BTreeMap<String, Known>>,
    /// What happened, for whoever reads a failure.
    events: RefCell<Vec<String>>,
    /// How often each fault and feature was at work.
    pub counts: RefCell<BTreeMap<String, u64>>,
    /// Clients and faults end.
    pub over: Cell<bool>,
    /// The broker is meant to run.
    pub running: Cell<bool>,
    /// log.dirs as they are now.
    pub dirs: RefCell<Vec<String>>,
    /// A disk that is out.
    pub out: RefCell<Option<Out>>,
    /// The directory ids that `corelane.lost.log.dirs` names.
    pub lost: RefCell<Vec<Uuid>>,
    /// Somebody else than the supervisor looks after the broker.
    pub attended: Cell<bool>,
    /// Something is wrong with the disks now.
    pub ailing: Cell<bool>,
    /// Something was wrong with the disks since this process started: it may end, or not stop cleanly.
    pub disks_ail: Cell<bool>,
    /// Acknowledgements so far, by [`Ack`].
    acks: [Cell<u64>; 3],
    /// How often the process has ended.
    pub ends: Cell<u64>,
    /// Nothing is known of committed offsets any more.
    pub commits_lost: Cell<bool>,
    trace: bool,
}

/// The partition whose directory a path lies in.
fn partition_of(path: &Path) -> Option<Name> {
    let dir = path.components().nth(2)?.as_os_str().to_str()?;
    let dir = match dir.rsplit_once('.') {
        Some((name, rest)) if rest.ends_with("-delete") || rest.ends_with("-stray") => name,
        _ => dir,
    };
    let (topic, partition) = dir.rsplit_once('-')?;
    Some((topic.to_owned(), partition.parse().ok()?))
}

/// Whether it is a producer snapshot, or one that is being written.
fn is_snapshot(path: &Path) -> bool {
    path.to_string_lossy().contains(".snapshot")
}

impl World {
    /// The life of a seed, at its beginning.
    pub fn new(seed: u64) -> World {
        let plan = Plan::new(seed);
        let machine = Machine::with(seed, plan.cores, &plan.dirs, Vec::new());
        let world = World {
            topics: RefCell::new((0..plan.topics).map(|n| (format!("t{n}"), Known::Gone)).collect()),
            dirs: RefCell::new(plan.dirs.clone()),
            machine,
            plan,
            history: RefCell::default(),
            events: RefCell::default(),
            counts: RefCell::default(),
            over: Cell::new(false),
            running: Cell::new(false),
            out: RefCell::default(),
            lost: RefCell::default(),
            attended: Cell::new(false),
            ailing: Cell::new(false),
            disks_ail: Cell::new(false),
            acks: Default::default(),
            ends: Cell::new(0),
            commits_lost: Cell::new(false),
            trace: std::env::var_os("TRACE").is_some(),
        };
        world.tell(format!("SEED={seed}: {}", world.plan));
        world
    }

    /// The machine's clock, choices and disk.
    pub fn sim(&self) -> &Sim {
        &self.machine.sim
    }

    /// One of several.
    pub fn choose<T: Clone>(&self, from: &[T]) -> T {
        from[self.sim().below(from.len() as u64) as usize].clone()
    }

    /// True once in `n` times.
    pub fn one_in(&self, n: u64) -> bool {
        self.sim().below(n) == 0
    }

    /// Writes down what happens.
    pub fn tell(&self, event: impl Into<String>) {
        let event = format!("{:>12.6} {}", self.sim().now().mono.as_secs_f64(), event.into());
        if self.trace {
            println!("{event}");
        }
        self.events.borrow_mut().push(event);
    }

    /// Counts a fault or feature.
    pub fn count(&self, what: impl Into<String>) {
        *self.counts.borrow_mut().entry(what.into()).or_default() += 1;
    }

    /// Something was acknowledged.
    pub fn acknowledged(&self, what: Ack) {
        let acks = &self.acks[what as usize];
        acks.set(acks.get() + 1);
    }

    /// Resolves in the moment in which the next one of these is acknowledged, before anything else runs.
    pub async fn next_ack(&self, what: Ack) {
        let acks = &self.acks[what as usize];
        let before = acks.get();
        // Clients are polled before the faults, whenever one of them is woken.
        poll_fn(|_| if acks.get() == before { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    /// Ends the life if the checker objects.
    pub fn demand<T>(&self, verdict: Result<T, String>) -> T {
        verdict.unwrap_or_else(|finding| self.finding(&finding))
    }

    /// Ends the life.
    pub fn finding(&self, finding: &str) -> ! {
        panic!("FINDING at {:.6} s: {finding}", self.sim().now().mono.as_secs_f64())
    }

    /// The last events.
    pub fn events(&self) -> String {
        let events = self.events.borrow();
        let shown = if self.trace { 0 } else { events.len().min(400) };
        events[events.len() - shown..].join("\n")
    }

    /// The pause of a client before its next step: mostly short, now and then long.
    pub async fn pause(&self) {
        let length = self.plan.length.as_millis() as u64;
        let long = self.one_in(self.plan.long_pause_one_in);
        let bound = if long { length / 8 } else { self.plan.short_pause_ms };
        self.sim().sleep(Duration::from_micros(self.sim().below(bound * 1000))).await;
    }

    /// A connection to the broker, however long that takes.
    pub async fn connect(&self) -> Client<'_> {
        let mut wait = Duration::from_millis(5);
        // Whoever has lost a connection does not come back at once.
        self.sim().sleep(Duration::from_millis(self.sim().below(50))).await;
        loop {
            if let Some(client) = Client::try_connect(&self.machine).await {
                return client;
            }
            self.sim().sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(500));
        }
    }

    /// What `ask` gives, or an error after so much time.
    pub async fn within<T>(&self, limit: Duration, ask: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = async {
            self.sim().sleep(limit).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        futures_lite::future::or(ask, late).await
    }

    /// The topic that has a name now, if that is known.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        match self.topics.borrow().get(name) {
            Some(Known::There(topic)) => Some(topic.clone()),
            _ => None,
        }
    }

    /// Sets what is known of a name.
    pub fn know(&self, name: &str, known: Known) {
        self.topics.borrow_mut().insert(name.to_owned(), known);
    }

    /// Changes what is known of a topic that still has this name.
    pub fn learn(&self, name: &str, id: Uuid, change: impl FnOnce(&mut Topic)) {
        if let Some(Known::There(topic)) = self.topics.borrow_mut().get_mut(name)
            && topic.id == id
        {
            change(topic);
            self.history.borrow_mut().altered(id, &topic.rules());
        }
    }

    /// The checker hears of the time.
    pub fn tick(&self) {
        let now_ms = self.sim().now().wall_ms;
        let mut history = self.history.borrow_mut();
        history.latest_ms = history.latest_ms.max(now_ms);
    }

    /// Something is wrong with the disks from now on.
    pub fn ail(&self) {
        self.ailing.set(true);
        self.disks_ail.set(true);
    }

    /// Starts the broker with the disks as they are.
    pub fn start(&self) {
        let dirs = format!("log.dirs={}", self.dirs.borrow().join(","));
        self.tell(format!("start, {dirs}"));
        let lost: Vec<String> = self.lost.borrow().iter().map(Uuid::to_string).collect();
        let lost = (!lost.is_empty()).then(|| format!("corelane.lost.log.dirs={}", lost.join(",")));
        *self.machine.settings.borrow_mut() = self.plan.settings.iter().cloned().chain([dirs]).chain(lost).collect();
        self.disks_ail.set(self.ailing.get());
        // Those of a process that was being stopped.
        self.sim().exits().iter().for_each(|reason| self.tell(format!("it ended: {reason}")));
        self.machine.start();
        self.running.set(true);
    }

    /// Ends the broker.
    pub async fn down(&self, how: Down) {
        self.running.set(false);
        self.tell(format!("{how:?}"));
        self.count(format!("{how:?}"));
        let clean = match how {
            Down::PowerLoss => {
                self.sim().crash();
                false
            }
            Down::Kill => {
                self.sim().kill();
                false
            }
            Down::Stop => {
                let stopped = self.machine.stop(Duration::from_secs(120)).await;
                if let Err(reason) = &stopped {
                    self.tell(format!("not stopped cleanly: {reason}"));
                    if !self.disks_ail.get() {
                        self.finding(&format!("a stop fails: {reason}"));
                    }
                    self.sim().kill();
                }
                stopped.is_ok()
            }
        };
        self.ended(if how == Down::PowerLoss { Mishap::PowerLoss } else { Mishap::ProcessEnds }, clean);
    }

    /// Ends whatever is left of a process that was being stopped.
    pub fn bury(&self) {
        self.sim().kill();
        self.ended(Mishap::ProcessEnds, false);
    }

    fn ended(&self, mishap: Mishap, clean: bool) {
        self.ends.set(self.ends.get() + 1);
        self.look_at_hits();
        // A checkpoint that begins now and then, and takes its time, with a disk that works.
        let interval = self.plan.checkpoint.max(Duration::from_secs(1));
        let stored = self.sim().now().mono.saturating_sub(interval * 2 + Duration::from_secs(2));
        let stored = if self.disks_ail.get() { Duration::ZERO } else { stored };
        self.history.borrow_mut().process_ends(mishap, clean, stored);
    }

    /// Why the process has ended by itself, if it has.
    pub fn has_ended(&self) -> Option<String> {
        if !self.running.get() {
            return None;
        }
        if let Some(fault) = self.sim().cut() {
            self.running.set(false);
            let lost = fault == Fault::PowerLoss;
            self.ended(if lost { Mishap::PowerLoss } else { Mishap::ProcessEnds }, false);
            return Some(format!("{fault:?}"));
        }
        let exit = self.sim().exits().pop().map(|reason| format!("fatal: {reason}"));
        let refused = || (self.machine.ended.get() == self.machine.cores).then(|| self.machine.said().err().unwrap_or("it ended".into()));
        let reason = exit.or_else(refused)?;
        self.tell(format!("the broker has ended: {reason}"));
        self.count("ended by itself");
        self.running.set(false);
        self.sim().kill();
        self.ended(Mishap::ProcessEnds, false);
        if !self.disks_ail.get() {
            self.finding(&format!("the broker ends, and nothing is wrong: {reason}"));
        }
        Some(reason)
    }

    /// The id of a data directory.
    pub fn directory_id(&self, dir: &str) -> Option<Uuid> {
        log::dir::directory_id(&self.sim().rt(0), Path::new(dir)).ok().flatten()
    }

    /// Marks what the disk's faults have done.
    pub fn look_at_hits(&self) {
        for Hit { op, path, fault } in self.sim().hits() {
            self.tell(format!("{fault:?} hits {op:?} of {}", path.display()));
            self.count(format!("{fault:?} {op:?}"));
            let Some((topic, partition)) = partition_of(&path) else { continue };
            let mut history = self.history.borrow_mut();
            if is_snapshot(&path) {
                history.lost_snapshot(&topic, partition);
            }
            match fault {
                Fault::Misdirected => {
                    history.damage(&topic, partition, "a write went elsewhere");
                    self.commits_lost.set(self.commits_lost.get() || topic.starts_with("__"));
                }
                Fault::Lost | Fault::Lie => {
                    history.bad_flush(&topic, partition);
                    if path.to_string_lossy().contains("corelane-log-start") {
                        history.bad_start(&topic, partition);
                    }
                    self.commits_lost.set(self.commits_lost.get() || topic.starts_with("__"));
                }
                Fault::Errno(_) if op == FaultOp::Sync => history.failed_flush(&topic, partition),
                Fault::Errno(_) | Fault::Short | Fault::PowerLoss | Fault::Kill => {}
            }
        }
    }

    /// A file that is no evidence of anything was lost.
    pub fn file_lost(&self, path: &Path) {
        self.tell(format!("{} is gone", path.display()));
        if let Some((topic, partition)) = partition_of(path).filter(|_| is_snapshot(path)) {
            self.history.borrow_mut().lost_snapshot(&topic, partition);
        }
    }

    /// A bit of a file was flipped.
    pub fn flipped(&self, path: &Path) {
        let Some((topic, partition)) = partition_of(path) else { return };
        self.history.borrow_mut().damage(&topic, partition, "a bit was flipped");
        self.commits_lost.set(self.commits_lost.get() || topic.starts_with("__"));
    }

    /// Partitions with a directory in a data directory. A power loss may have left it empty.
    pub fn partitions_in(&self, dir: &str) -> Vec<Name> {
        let dirs = self.sim().dirs();
        let inside = dirs.iter().filter(|path| path.parent() == Some(Path::new(dir)));
        inside.filter_map(|path| live_partition(path)).collect()
    }

    /// Ends the life if a partition lies in two data directories while the broker serves.
    pub fn no_two_copies(&self) {
        let mut places: BTreeMap<Name, String> = BTreeMap::new();
        for dir in self.dirs.borrow().iter() {
            for name in self.partitions_in(dir) {
                if let Some(other) = places.insert(name.clone(), dir.clone()) {
                    self.finding(&format!("served with two copies of {name:?}, in {other} and {dir}"));
                }
            }
        }
    }
}

fn live_partition(path: &Path) -> Option<Name> {
    let dir = path.components().nth(2)?.as_os_str().to_str()?;
    let (topic, partition) = dir.rsplit_once('-')?;
    let number = partition.parse().ok()?;
    Some((topic.to_owned(), number))
}
