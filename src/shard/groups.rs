//! The group coordinators of one core: each beside the replica of `__consumer_offsets` that holds
//! its state.
//!
//! A request is decided at once; its records go to the replica's log and are applied, and its
//! replies leave when all that was appended until then is flushed, so nobody hears of what a crash
//! could take back. A coordinator comes and goes with its replica. A log that takes no more ends
//! it; one that had no room for a while has it loaded again, and so has a decision that contradicts
//! its state. While nothing may be appended to the replica, the coordinator tells what it has and
//! decides nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::message::{Answer, Call, Message, Ticket};
use super::owner::{Replica, Sink};
use super::{Shard, placement};
use crate::base::config::{GroupConfig, GroupOverrides};
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::base::time::Now;
use crate::cluster::image::Image;
use crate::coord::modern::topics::Topics;
use crate::coord::op::{Listed, Op, Reply, Token};
use crate::coord::replay::{self, Replay, Replayed};
use crate::coord::{Context, Coordinator, Decision, Name, OFFSETS_TOPIC, Overrides, partition_for};
use crate::log::{LogError, Read};
use crate::partition::op::{Key, Produced};
use crate::rt::mem::Account;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};

/// Bytes read at a time when a log is replayed.
const READ_BYTES: usize = 1 << 20;
/// How long after its log had no room, or could not be read, a coordinator is loaded again.
const RELOAD: Duration = Duration::from_secs(1);
/// The same where it cannot be read time after time.
const RELOAD_MAX: Duration = Duration::from_secs(60);

/// What the listing of a group costs of a turn's budget, in inflated bytes.
const LISTED_COST: usize = 512;

/// How a coordinator stands.
enum Stage {
    /// Its log is being replayed.
    Loading,
    Active(Coordinator),
    /// Its log cannot be read or written, or the broker stops.
    Ended,
}

/// One partition's coordinator.
struct Hosted<R: Rt> {
    replica: Rc<Replica<R>>,
    stage: RefCell<Stage>,
    /// Who waits, by token: a core and its ticket.
    askers: RefCell<Slab<(usize, Ticket)>>,
    /// Topics that were deleted while the log was being replayed, or took no records.
    deleted: RefCell<BTreeSet<Name>>,
    /// Nothing could be decided when it was last looked at, see [`Replica::held`].
    held: Cell<bool>,
    /// Memory that the coordinator takes.
    account: Account,
}

/// The coordinators of a core.
pub(super) struct Groups<R: Rt> {
    config: GroupConfig,
    /// Memory for all of them.
    limit_bytes: usize,
    hosted: RefCell<BTreeMap<Key, Rc<Hosted<R>>>>,
    /// What the timer task sleeps for; none: until it is woken.
    armed: Cell<Option<Duration>>,
    timing: Cell<bool>,
    earlier: Notify,
    /// See [`Shard::groups_now`].
    clock: Cell<Duration>,
}

impl<R: Rt> Groups<R> {
    /// Without coordinators; `limit_bytes` is the memory that they may take together.
    pub(super) fn new(config: GroupConfig, limit_bytes: usize) -> Groups<R> {
        Groups {
            config,
            limit_bytes,
            hosted: RefCell::default(),
            armed: Cell::new(None),
            timing: Cell::new(false),
            earlier: Notify::default(),
            clock: Cell::default(),
        }
    }

    fn get(&self, key: &Key) -> Option<Rc<Hosted<R>>> {
        self.hosted.borrow().get(key).cloned()
    }

    fn all(&self) -> Vec<Rc<Hosted<R>>> {
        self.hosted.borrow().values().cloned().collect()
    }

    fn spare_bytes(&self) -> usize {
        let bytes = |hosted: &Rc<Hosted<R>>| hosted.account.bytes();
        self.limit_bytes.saturating_sub(self.hosted.borrow().values().map(bytes).sum())
    }
}

impl<R: Rt> Shard<R> {
    /// Sends a request to the coordinator of a group, wherever that is, at once; the reply may be awaited later, and has to be.
    pub fn group(&self, group: &str, op: Op) -> impl Future<Output = Reply> + use<R> {
        let image = self.image();
        let call = image.topic(OFFSETS_TOPIC).map(|topic| {
            let key = (topic.id, partition_for(group, topic.partitions.len()));
            self.call_now(placement::owner(key.0, key.1, self.rt().cores()), Call::Group(key, group.into(), Box::new(op)))
        });
        async {
            let Some(call) = call else { return Err(ErrorCode::NotCoordinator) };
            match call.await {
                Answer::Group(reply) => reply,
                _ => unreachable!("answers match calls"),
            }
        }
    }

    /// All groups of all cores that the filters let through (both in any case, empty for all).
    pub async fn list_groups(&self, states: Vec<String>, types: Vec<String>) -> Result<Vec<Listed>, ErrorCode> {
        let cores = 0..self.rt().cores();
        let calls: Vec<_> = cores.map(|core| self.call_now(core, Call::ListGroups(states.clone(), types.clone()))).collect();
        let mut all = Ok(Vec::new());
        for call in calls {
            let Answer::Groups(listed) = call.await else { unreachable!("answers match calls") };
            all = all.and_then(|mut all| {
                all.extend(listed?);
                Ok(all)
            });
        }
        all
    }

    /// The groups of this core, or why they are not all known: a list with groups missing would
    /// look like groups that are gone.
    pub(super) async fn listed(&self, states: &[String], types: &[String]) -> Result<Vec<Listed>, ErrorCode> {
        let mut all = Vec::new();
        if self.image().topic(OFFSETS_TOPIC).is_some_and(|topic| self.0.owner.has_offline(topic.id)) {
            return Err(ErrorCode::NotCoordinator);
        }
        for hosted in self.0.groups.all() {
            let known = all.len();
            match &*hosted.stage.borrow() {
                Stage::Active(coordinator) => all.extend(coordinator.list(states, types)),
                Stage::Loading => return Err(ErrorCode::CoordinatorLoadInProgress),
                Stage::Ended => return Err(ErrorCode::NotCoordinator),
            }
            self.rt().slices().pass((all.len() - known + 1) * LISTED_COST).await;
        }
        Ok(all)
    }

    /// Takes a request for a coordinator of this core.
    pub(super) fn take_group_op(&self, from: usize, ticket: Ticket, key: &Key, group: &Name, op: Op) {
        let refuse = |code| self.send(from, Message::Reply(ticket, Answer::Group(Err(code))));
        let Some(hosted) = self.0.groups.get(key) else { return refuse(ErrorCode::NotCoordinator) };
        match &*hosted.stage.borrow() {
            Stage::Loading => return refuse(ErrorCode::CoordinatorLoadInProgress),
            Stage::Ended => return refuse(ErrorCode::NotCoordinator),
            // Members look for their coordinator until it may decide again.
            Stage::Active(_) if hosted.replica.held.get() && !op.only_reads() => return refuse(ErrorCode::CoordinatorNotAvailable),
            Stage::Active(_) => {}
        }
        let token = hosted.askers.borrow_mut().insert((from, ticket));
        self.run(&hosted, |coordinator, context| coordinator.decide(context, group, op, token));
    }

    /// The image has changed: offsets go with their topics, and replicas that were opened for it
    /// get their coordinators.
    pub(super) fn groups_follow_topics(&self, before: &Image) {
        let image = self.image();
        if let Some(topic) = image.topic(OFFSETS_TOPIC) {
            (0..topic.partitions.len() as i32).for_each(|partition| self.groups_follow_replica(&(topic.id, partition)));
        }
        self.release_groups();
        let gone: Vec<Name> = before.topics().filter(|t| image.topic_by_id(t.id).is_none()).map(|t| t.name.clone()).collect();
        if gone.is_empty() {
            return;
        }
        for hosted in self.0.groups.all() {
            if matches!(*hosted.stage.borrow(), Stage::Loading) || hosted.held.get() {
                hosted.deleted.borrow_mut().extend(gone.iter().cloned());
            }
            self.forget_topics(&hosted);
        }
    }

    /// A replica has come or gone: if it is one of the coordinators' topic, as the image knows it,
    /// its coordinator does so too.
    pub(super) fn groups_follow_replica(&self, key: &Key) {
        let replica = self.0.owner.replica(key);
        if let Some(hosted) = self.0.groups.get(key) {
            if replica.as_ref().is_some_and(|replica| Rc::ptr_eq(replica, &hosted.replica)) {
                return;
            }
            self.end(&hosted);
            self.0.groups.hosted.borrow_mut().remove(key);
        }
        let image = self.image();
        let topic = image.topic(OFFSETS_TOPIC).filter(|topic| topic.id == key.0 && topic.partition(key.1).is_some());
        if let (Some(replica), Some(_)) = (replica, topic)
            && !self.0.stopping.get()
        {
            self.host(*key, replica);
        }
    }

    fn host(&self, key: Key, replica: Rc<Replica<R>>) {
        let empty = replica.log.start_offset() == replica.log.end_offset();
        let stage = RefCell::new(Stage::Loading);
        let held = Cell::new(replica.held.get());
        let (askers, deleted, account) = (RefCell::default(), RefCell::default(), self.rt().memory().account());
        let hosted = Rc::new(Hosted { replica, stage, askers, deleted, held, account });
        self.0.groups.hosted.borrow_mut().insert(key, hosted.clone());
        let (shard, ending) = (Rc::downgrade(&self.0), Rc::downgrade(&hosted));
        *hosted.replica.on_end.borrow_mut() = Some(Rc::new(move || {
            if let (Some(inner), Some(hosted)) = (shard.upgrade(), ending.upgrade()) {
                Shard(inner).end(&hosted);
            }
        }));
        if !self.0.groups.timing.replace(true) {
            let shard = self.clone();
            self.rt().spawn(Class::Foreground, async move { shard.time_groups().await });
        }
        if empty {
            return self.activate(&hosted, Coordinator::default());
        }
        self.load(hosted, Duration::ZERO);
    }

    /// Replays a partition's log, `after` a while, and has its coordinator serve.
    fn load(&self, hosted: Rc<Hosted<R>>, after: Duration) {
        let (shard, waiting) = (self.clone(), Rc::downgrade(&hosted));
        drop(hosted);
        self.rt().spawn(Class::Background, async move {
            shard.rt().sleep(after).await;
            let Some(hosted) = waiting.upgrade() else { return };
            let loaded = load(shard.rt(), &hosted.replica, &hosted.account).await;
            let wanted = matches!(&*hosted.stage.borrow(), Stage::Loading);
            if !wanted || loaded.is_err() {
                hosted.account.set(0);
            }
            if !wanted {
                return;
            }
            match loaded {
                Ok(coordinator) => shard.activate(&hosted, coordinator),
                Err(LogError::Exhausted(what)) => {
                    tracing::warn!("{}: its groups cannot be loaded yet: {what}", hosted.replica.name);
                    shard.load(hosted, RELOAD);
                }
                Err(e) if hosted.replica.log.fenced().is_some() => {
                    tracing::error!("{}: its groups cannot be loaded: {e}", hosted.replica.name);
                    *hosted.stage.borrow_mut() = Stage::Ended;
                }
                Err(e) => {
                    let again = after.saturating_mul(2).clamp(RELOAD, RELOAD_MAX);
                    let seconds = again.as_secs();
                    tracing::error!("{}: its groups cannot be loaded, tried again in {seconds} s: {e}", hosted.replica.name);
                    shard.load(hosted, again);
                }
            }
        });
    }

    fn activate(&self, hosted: &Rc<Hosted<R>>, coordinator: Coordinator) {
        *hosted.stage.borrow_mut() = Stage::Active(coordinator);
        self.begin(hosted);
    }

    /// Gives all members their session from now on. What has yet to be decided follows as soon as
    /// records are taken.
    fn begin(&self, hosted: &Rc<Hosted<R>>) {
        self.run(hosted, |coordinator, context| coordinator.loaded(context));
        if !hosted.replica.held.get() {
            self.forget_topics(hosted);
            hosted.deleted.take();
        }
    }

    /// Coordinators whose replicas take records again begin once more: their members could not be
    /// heard of meanwhile.
    fn release_groups(&self) {
        for hosted in self.0.groups.all() {
            let held = hosted.replica.held.get();
            if hosted.held.replace(held) && !held && matches!(*hosted.stage.borrow(), Stage::Active(_)) {
                self.begin(&hosted);
                self.0.groups.earlier.notify();
            }
        }
    }

    /// Offsets in topics that do not exist any more, or under whose name there is another one now.
    fn forget_topics(&self, hosted: &Rc<Hosted<R>>) {
        if hosted.replica.held.get() {
            return;
        }
        let image = self.image();
        let deleted = hosted.deleted.borrow().clone();
        let gone = |name: &Name, id: TopicId| {
            let other = |known: TopicId| if id.is_zero() { deleted.contains(name) } else { known != id };
            image.topic(name).is_none_or(|topic| other(topic.id))
        };
        self.run(hosted, |coordinator, context| coordinator.forget_topics(context, &gone));
    }

    /// The time that deadlines of groups go by. It stands still while this core cannot do what is due:
    /// nobody is late because the core could not hear of him.
    fn groups_now(&self) -> Now {
        let (now, clock) = (self.rt().now(), &self.0.groups.clock);
        // What a long turn has taken is known when it ends.
        clock.set(clock.get().max(now.mono.saturating_sub(self.rt().away())));
        Now { mono: clock.get(), ..now }
    }

    /// Lets a coordinator decide, appends and applies its records, and has its replies sent when they are durable.
    fn run(&self, hosted: &Rc<Hosted<R>>, decide: impl FnOnce(&mut Coordinator, Context) -> Decision) {
        self.rt().doing("a decision of a group's coordinator");
        let groups = &self.0.groups;
        let mut random = || {
            let mut bytes = [0; 16];
            self.rt().random(&mut bytes);
            bytes
        };
        let spare_bytes = groups.spare_bytes();
        let mut stage = hosted.stage.borrow_mut();
        let Stage::Active(coordinator) = &mut *stage else { return };
        let max_batch_bytes = {
            let config = hosted.replica.config.borrow();
            usize::try_from(config.max_message_bytes.min(config.segment_bytes)).unwrap_or(0)
        };
        let now = self.groups_now();
        let cluster = Cluster(self.image());
        let (topics, overrides) = (&cluster, &cluster);
        let context = Context { now, config: &groups.config, random: &mut random, spare_bytes, max_batch_bytes, topics, overrides };
        let Decision { records, divisible, replies } = decide(coordinator, context);
        let batches = replay::batches(&records, divisible, max_batch_bytes, now.wall_ms);
        let Some(batches) = batches.filter(|batches| batches.iter().all(|batch| hosted.replica.log.takes(batch.len()))) else {
            // Its askers alone hear of it: to load all groups again would change nothing.
            tracing::error!("{}: a decision is refused, its records are larger than a batch may be", hosted.replica.name);
            self.arm(coordinator.next_deadline());
            drop(stage);
            let refused = Err(ErrorCode::UnknownServerError);
            return hosted.answer(self, replies.into_iter().map(|(token, _)| (token, refused.clone())));
        };
        let appended = batches.iter().try_for_each(|batch| hosted.replica.append(batch));
        let done = appended.map_err(|code| format!("{code:?}")).and_then(|()| {
            records.iter().for_each(|record| coordinator.apply(record));
            coordinator.verify(&records, hosted.replica.log.end_offset())
        });
        if let Err(reason) = done {
            tracing::error!("{}: its groups are loaded again, a decision cannot stand: {reason}", hosted.replica.name);
            drop(stage);
            hosted.answer(self, replies.into_iter().map(|(token, _)| (token, Err(ErrorCode::NotCoordinator))));
            return self.fall_back(hosted);
        }
        hosted.account.set(coordinator.bytes());
        if cfg!(test) {
            coordinator.check();
        }
        self.arm(coordinator.next_deadline());
        drop(stage);
        if !replies.is_empty() || !records.is_empty() {
            let durable = Durable { shard: self.clone(), hosted: hosted.clone(), replies: RefCell::new(replies) };
            hosted.replica.when_flushed(Rc::new(durable));
        }
    }

    /// What a coordinator has applied is not what is in the log: everybody who waits looks again.
    /// Unless the log has failed, the coordinator goes on from what is there.
    fn fall_back(&self, hosted: &Rc<Hosted<R>>) {
        if hosted.replica.log.fenced().is_some() {
            return self.end(hosted);
        }
        // Many replies may have waited for the same records: the first that fails is enough.
        if matches!(*hosted.stage.borrow(), Stage::Active(_)) {
            self.step_down(hosted, Stage::Loading);
            self.load(hosted.clone(), RELOAD);
        }
    }

    /// Ends a coordinator: everybody who waits looks for another one.
    fn end(&self, hosted: &Rc<Hosted<R>>) {
        self.step_down(hosted, Stage::Ended);
    }

    fn step_down(&self, hosted: &Rc<Hosted<R>>, to: Stage) {
        if let Stage::Active(mut coordinator) = std::mem::replace(&mut *hosted.stage.borrow_mut(), to) {
            hosted.account.set(0);
            hosted.answer(self, coordinator.resign(ErrorCode::NotCoordinator));
        }
    }

    /// Ends all coordinators of this core.
    pub(super) fn end_groups(&self) {
        for hosted in self.0.groups.all() {
            self.end(&hosted);
        }
    }

    /// Makes the timer task look at `deadline`, if that is earlier than what it sleeps for.
    fn arm(&self, deadline: Option<Duration>) {
        let groups = &self.0.groups;
        if let Some(deadline) = deadline
            && groups.armed.get().is_none_or(|armed| deadline < armed)
        {
            groups.armed.set(Some(deadline));
            groups.earlier.notify();
        }
    }

    /// Calls coordinators when their deadlines have come, for as long as the core runs.
    async fn time_groups(&self) {
        let groups = &self.0.groups;
        while !self.0.stopped.get() {
            let deadline = |hosted: &Rc<Hosted<R>>| match &*hosted.stage.borrow() {
                Stage::Active(coordinator) if !hosted.replica.held.get() => coordinator.next_deadline(),
                Stage::Active(_) | Stage::Loading | Stage::Ended => None,
            };
            let now = self.groups_now().mono;
            let next = groups.all().iter().filter_map(|hosted| Some((deadline(hosted)?, hosted.clone()))).min_by_key(|(at, _)| *at);
            match next {
                Some((at, hosted)) if at <= now => {
                    self.run(&hosted, |coordinator, context| coordinator.expire(context));
                    // Many members may go silent at once.
                    self.rt().yield_now().await;
                }
                next => {
                    let at = next.map(|(at, _)| at);
                    groups.armed.set(at);
                    let sleep = async {
                        match at {
                            Some(at) => self.rt().sleep(at.saturating_sub(now)).await,
                            None => std::future::pending().await,
                        }
                    };
                    futures_lite::future::or(groups.earlier.notified(), sleep).await;
                }
            }
        }
    }
}

impl<R: Rt> Hosted<R> {
    fn answer(&self, shard: &Shard<R>, replies: impl IntoIterator<Item = (Token, Reply)>) {
        for (token, reply) in replies {
            let (from, ticket) = self.askers.borrow_mut().remove(token);
            shard.send(from, Message::Reply(ticket, Answer::Group(reply)));
        }
    }
}

/// The image as coordinators see it.
struct Cluster(Arc<Image>);

impl Overrides for Cluster {
    fn of(&self, group: &str) -> GroupOverrides {
        self.0.group(group).map(|group| group.overrides).unwrap_or_default()
    }
}

impl Topics for Cluster {
    fn version(&self) -> i64 {
        self.0.offset()
    }

    fn by_name(&self, name: &str) -> Option<(TopicId, i32)> {
        self.0.topic(name).map(|topic| (topic.id, topic.partitions.len() as i32))
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.topics().map(|topic| &*topic.name))
    }
}

/// Replies that wait for the flush of what they promise.
struct Durable<R: Rt> {
    shard: Shard<R>,
    hosted: Rc<Hosted<R>>,
    replies: RefCell<Vec<(Token, Reply)>>,
}

impl<R: Rt> Sink for Durable<R> {
    fn produced(&self, _index: u32, produced: Produced) {
        let replies = self.replies.take();
        if produced.code == ErrorCode::None {
            return self.hosted.answer(&self.shard, replies);
        }
        self.hosted.answer(&self.shard, replies.into_iter().map(|(token, _)| (token, Err(ErrorCode::NotCoordinator))));
        self.shard.fall_back(&self.hosted);
    }
}

/// Replays a partition's log, in slices. What cannot be read is told and passed over.
async fn load<R: Rt>(rt: &R, replica: &Replica<R>, account: &Account) -> Result<Coordinator, LogError> {
    let (mut coordinator, mut replay) = (Coordinator::default(), Replay::default());
    let (mut offset, end) = (replica.log.start_offset(), replica.log.end_offset());
    let mut again = None;
    while offset < end {
        let read = match replica.log.read(offset, READ_BYTES, end, true) {
            Read::Hit(batches) => Ok(batches),
            Read::Miss(plan) => replica.log.read_cold(plan).await,
        };
        let mut apply = |replayed: &Replayed| coordinator.replay(replayed);
        let mut next = offset;
        match read {
            Ok(batches) => {
                for bytes in batches {
                    replay.feed(bytes);
                    next = rt.slices().run(|budget| replay.step(budget, &mut apply).transpose()).await.map_err(LogError::BadBatch)?;
                }
            }
            Err(LogError::Corrupt { path, position, reason }) if again != Some(offset) => {
                let damage = replica.log.past_damage(offset).await?;
                let reason = format!("{} at byte {position}: {reason}", path.display());
                next = damage.next;
                match damage.batch {
                    Some((header, batch)) => {
                        replay.damaged(&header, batch, &reason, &mut apply);
                        rt.slices().run(|budget| replay.step(budget, &mut apply).transpose()).await.map_err(LogError::BadBatch)?;
                    }
                    None if next > offset => {
                        let last = next - 1;
                        replay.fault(format!("offsets {offset} to {last} are passed over, records of any group may be lost: {reason}"));
                    }
                    // Nothing is damaged: a segment was replaced.
                    None => {
                        again = Some(offset);
                        continue;
                    }
                }
            }
            Err(e) => return Err(e),
        };
        account.set(coordinator.bytes());
        replay.take_faults().iter().for_each(|fault| tracing::error!("{}: {fault}", replica.name));
        if next <= offset {
            return Err(LogError::BadBatch(format!("nothing at offset {offset}, although the log ends at {end}")));
        }
        offset = next;
    }
    for kind in &replay.unknown {
        tracing::warn!("{}: records of the unknown type {kind} are passed over", replica.name);
    }
    Ok(coordinator)
}
