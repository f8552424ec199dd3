//! One shard per core: the replicas it owns, its mailboxes, and the way from a request on any core to the owner of a partition.

mod changes;
mod cleaner;
pub mod control;
pub mod dirs;
mod groups;
pub mod mailbox;
pub mod message;
pub mod owner;
mod run;
mod takeover;
mod upkeep;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Poll, Waker};

use slab::Slab;

use crate::base::config::Config;
use crate::base::error::ErrorCode;
use crate::base::limits::{GROUPS_SHARE, MAILBOX};
use crate::cluster::placement;
use crate::cluster::settings::BrokerSettings;
use crate::log::cache::Cache;
use crate::partition::op::{
    DeletionItem, DeletionResult, EpochItem, EpochResult, Key, OffsetItem, OffsetResult, ProduceItem, Produced, ReadItem, ReadResult,
    ReplicaSize,
};
use crate::rt::Rt;
use crate::rt::notify::Notify;
use cleaner::Cleaner;
use groups::Groups;
use mailbox::{Grid, Mailboxes};
use message::{Answer, Call, Change, Connection, Decide, Ids, Message, Position, Terms, Ticket, Watched};
use owner::{Owner, Parked, Sink, Watcher};

pub use crate::cluster::image::Image;
pub use crate::cluster::queue::Lane;
pub use crate::cluster::record::MetadataRecord;
// What a shard is asked and what it answers.
pub use crate::coord::op as group_op;
pub use crate::partition::op;

/// The core that runs the controller shard.
pub const CONTROLLER_CORE: usize = 0;

/// All mailboxes of a process whose connections travel as `A`.
pub type Post<A> = Grid<Message<A>>;

/// Makes the mailboxes for `cores` cores.
pub fn post<A>(cores: usize) -> Post<A> {
    Grid::new(cores, MAILBOX)
}

/// What waits for an answer from another core.
enum Waiting {
    Produce(Rc<dyn Sink>),
    Call { answer: Option<Answer>, waker: Option<Waker> },
    Watch(Rc<dyn Watcher>),
}

/// Takes a connection that another core accepted.
pub type TakeConnection<A> = Rc<dyn Fn(Connection<A>)>;

/// By the core that waits and its ticket.
type RemoteWaits<R> = HashMap<(usize, Ticket), Vec<Parked<R>>>;

struct Inner<R: Rt> {
    rt: R,
    mailboxes: Mailboxes<Message<R::Accepted>>,
    owner: Owner<R>,
    cache: Cache,
    log_dirs: Vec<PathBuf>,
    groups: Groups<R>,
    cleaner: Cleaner,
    image: RefCell<Arc<Image>>,
    waiting: RefCell<Slab<Waiting>>,
    /// Waits of other cores at our partitions.
    parked: RefCell<RemoteWaits<R>>,
    take_connection: RefCell<Option<TakeConnection<R::Accepted>>>,
    control: RefCell<Option<Rc<control::Control<R>>>>,
    /// Set by the server: closes the connections of this core when it stops.
    on_stop: RefCell<Option<Rc<Notify>>>,
    connections_closed: Notify,
    /// Directory of the replica that is being reopened.
    reopening: RefCell<Option<PathBuf>>,
    /// The stop has begun: no replica is reopened, no coordinator begins.
    stopping: Cell<bool>,
    stopped: Cell<bool>,
    stop: Notify,
    stop_asked: Arc<AtomicBool>,
    asked: Notify,
}

/// One core's shard. Clones name the same one.
pub struct Shard<R: Rt>(Rc<Inner<R>>);

impl<R: Rt> Clone for Shard<R> {
    fn clone(&self) -> Self {
        Shard(self.0.clone())
    }
}

impl<R: Rt> Shard<R> {
    /// The shard of this core, listening to its mailboxes from now on. Once `stop_asked` is set and the core unparked, [`Shard::asked_to_stop`]
    /// resolves.
    pub fn start(rt: R, post: Post<R::Accepted>, stop_asked: Arc<AtomicBool>, config: &Config) -> Shard<R> {
        let mailboxes = Mailboxes::new(post, rt.core(), MAILBOX);
        let cache = Cache::new(rt.memory());
        cache.set_descriptors(rt.descriptors());
        let shard = Shard(Rc::new(Inner {
            owner: Owner::new(rt.clone()),
            cache,
            log_dirs: config.log_dirs.clone(),
            groups: Groups::new(config.groups.clone(), config.memory / GROUPS_SHARE / rt.cores()),
            cleaner: Cleaner::default(),
            mailboxes,
            image: RefCell::new(Arc::new(Image::new(BrokerSettings::default()))),
            waiting: RefCell::default(),
            parked: RefCell::default(),
            take_connection: RefCell::default(),
            control: RefCell::default(),
            on_stop: RefCell::default(),
            connections_closed: Notify::default(),
            reopening: RefCell::default(),
            stopping: Cell::new(false),
            stopped: Cell::new(false),
            stop: Notify::default(),
            stop_asked,
            asked: Notify::default(),
            rt,
        }));
        let turning = Rc::downgrade(&shard.0);
        shard.0.rt.on_turn(Box::new(move || turning.upgrade().is_some_and(|inner| Shard(inner).turn())));
        // What other cores have said before we listened.
        shard.0.rt.unpark(shard.me());
        shard
    }

    /// The runtime of this core.
    pub fn rt(&self) -> &R {
        &self.0.rt
    }

    /// The newest metadata that this core has acted on.
    pub fn image(&self) -> Arc<Image> {
        self.0.image.borrow().clone()
    }

    /// The replicas of this core.
    pub fn owner(&self) -> &Owner<R> {
        &self.0.owner
    }

    /// Who takes the connections that other cores hand to this one.
    pub fn set_take_connection(&self, take: TakeConnection<R::Accepted>) {
        *self.0.take_connection.borrow_mut() = Some(take);
    }

    /// Hands a connection to a core.
    pub fn hand_over(&self, to: usize, connection: Connection<R::Accepted>) {
        self.send(to, Message::Connection(connection));
    }

    /// True while no new work should be read from connections.
    pub fn congested(&self) -> bool {
        self.0.mailboxes.congested()
    }

    /// The core that owns a partition.
    pub fn owner_of(&self, key: &Key) -> usize {
        placement::owner(key.0, key.1, self.0.rt.cores())
    }

    fn me(&self) -> usize {
        self.0.rt.core()
    }

    fn send(&self, to: usize, message: Message<R::Accepted>) {
        self.0.mailboxes.send(to, message);
        // The outbox is emptied by the next turn of this core.
        self.0.rt.unpark(self.me());
    }

    /// Appends batches, each at its owner, in order. `sink` hears of every item by its place in `items`.
    pub fn produce(&self, items: Vec<ProduceItem>, sink: Rc<dyn Sink>) {
        let mut remote: BTreeMap<usize, Vec<(u32, ProduceItem)>> = BTreeMap::new();
        for (index, item) in items.into_iter().enumerate() {
            let owner = self.owner_of(&item.key);
            if owner == self.me() {
                self.0.owner.produce(&item, &sink, index as u32);
            } else {
                remote.entry(owner).or_default().push((index as u32, item));
            }
        }
        for (owner, items) in remote {
            let ticket = self.0.waiting.borrow_mut().insert(Waiting::Produce(sink.clone()));
            self.send(owner, Message::Call(ticket, Call::Produce(items)));
        }
    }

    async fn call(&self, to: usize, call: Call) -> Answer {
        self.call_now(to, call).await
    }

    /// Sends a call at once; its answer may be awaited later, and has to be: the ticket is kept for it.
    fn call_now(&self, to: usize, call: Call) -> impl Future<Output = Answer> + use<R> {
        let ticket = self.0.waiting.borrow_mut().insert(Waiting::Call { answer: None, waker: None });
        self.send(to, Message::Call(ticket, call));
        let shard = self.clone();
        poll_fn(move |cx| {
            let mut waiting = shard.0.waiting.borrow_mut();
            let Waiting::Call { answer, waker } = &mut waiting[ticket] else { unreachable!("the ticket is ours") };
            match answer.take() {
                None => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                Some(answer) => {
                    waiting.remove(ticket);
                    Poll::Ready(answer)
                }
            }
        })
    }

    /// Reads partitions that `owner` owns, from its memory alone: `None` when that is another core or when the disk is needed.
    pub fn read_now(&self, owner: usize, items: &[ReadItem], max_bytes: usize, first: bool) -> Option<Vec<ReadResult>> {
        if owner == self.me() { self.0.owner.read_cached(items, max_bytes, first) } else { None }
    }

    /// Reads partitions that `owner` owns.
    pub async fn read(&self, owner: usize, items: &[ReadItem], max_bytes: usize, first: bool, holds: bool) -> Vec<ReadResult> {
        if owner == self.me() {
            return self.0.owner.read(items, max_bytes, first, holds).await;
        }
        match self.call(owner, Call::Read { items: items.to_vec(), max_bytes, first, holds }).await {
            Answer::Read(results) => results,
            _ => unreachable!("answers match calls"),
        }
    }

    /// Finds offsets in partitions that `owner` owns.
    pub async fn offsets(&self, owner: usize, items: Vec<OffsetItem>) -> Vec<OffsetResult> {
        if owner == self.me() {
            return self.0.owner.offsets(&items).await;
        }
        match self.call(owner, Call::Offsets(items)).await {
            Answer::Offsets(results) => results,
            _ => unreachable!("answers match calls"),
        }
    }

    /// Finds ends of epochs in partitions that `owner` owns.
    pub async fn epochs(&self, owner: usize, items: Vec<EpochItem>) -> Vec<EpochResult> {
        if owner == self.me() {
            return self.0.owner.epochs(&items);
        }
        match self.call(owner, Call::Epochs(items)).await {
            Answer::Epochs(results) => results,
            _ => unreachable!("answers match calls"),
        }
    }

    /// Deletes records of partitions that `owner` owns.
    pub async fn delete_records(&self, owner: usize, items: Vec<DeletionItem>) -> Vec<DeletionResult> {
        if owner == self.me() {
            return self.0.owner.delete_records(&items).await;
        }
        match self.call(owner, Call::DeleteRecords(items)).await {
            Answer::Deleted(results) => results,
            _ => unreachable!("answers match calls"),
        }
    }

    /// What the replicas of all cores occupy.
    pub async fn sizes(&self) -> Vec<ReplicaSize> {
        let mut sizes = Vec::new();
        for core in 0..self.rt().cores() {
            match self.call(core, Call::Sizes).await {
                Answer::Sizes(of_core) => sizes.extend(of_core),
                _ => unreachable!("answers match calls"),
            }
        }
        sizes
    }

    /// Tells `watcher` when a partition of `owner` has grown past what was seen. The wait ends when the result is dropped.
    pub fn watch(&self, owner: usize, items: Vec<Watched>, watcher: Rc<dyn Watcher>) -> Watch<R> {
        if owner == self.me() {
            let one = |w: &Watched| self.0.owner.watch(&w.key, w.high_watermark, w.need_bytes, &watcher);
            return Watch { shard: self.clone(), remote: None, _local: items.iter().filter_map(one).collect() };
        }
        let ticket = self.0.waiting.borrow_mut().insert(Waiting::Watch(watcher));
        self.send(owner, Message::Watch(ticket, items));
        Watch { shard: self.clone(), remote: Some((owner, ticket)), _local: Vec::new() }
    }

    /// Has the controller shard decide on its newest image; resolves when the records are committed and every core has acted on them, or
    /// with `RequestTimedOut` when that was not to be had within the terms.
    pub async fn control<T: Send + 'static>(
        &self,
        terms: Terms,
        mut decide: impl FnMut(&Image, &mut Ids) -> (Vec<MetadataRecord>, T) + Send + 'static,
    ) -> Result<T, ErrorCode> {
        self.control_in_steps(terms, move |image, ids, _| Some(decide(image, ids))).await
    }

    /// As [`Shard::control`], for a decision of many steps.
    pub async fn control_in_steps<T: Send + 'static>(
        &self,
        terms: Terms,
        mut decide: impl FnMut(&Image, &mut Ids, &mut usize) -> Option<(Vec<MetadataRecord>, T)> + Send + 'static,
    ) -> Result<T, ErrorCode> {
        let decide: Decide = Box::new(move |image, ids, budget| {
            let (records, reply) = decide(image, ids, budget)?;
            Some((records, Box::new(reply) as Box<dyn Any + Send>))
        });
        match self.call(CONTROLLER_CORE, Call::Control(Change { decide, terms })).await {
            Answer::Control(reply) => Ok(*reply?.downcast::<T>().expect("the reply of our own decision")),
            _ => unreachable!("answers match calls"),
        }
    }

    /// Lets the server of this core close its connections first when the core stops; it says so with [`Shard::connections_closed`].
    pub fn set_on_stop(&self, stop: Rc<Notify>) {
        *self.0.on_stop.borrow_mut() = Some(stop);
    }

    /// See [`Shard::set_on_stop`].
    pub fn connections_closed(&self) {
        self.0.connections_closed.notify();
    }

    /// Resolves when the process has been asked to stop.
    pub async fn asked_to_stop(&self) {
        self.0.asked.notified().await;
    }

    /// Ends a core's connections. All cores' come first, then [`Shard::stop_core`]: nobody is to ask for a log that is closed already.
    pub fn disconnect_core(&self, core: usize) -> impl Future<Output = ()> {
        let answer = self.call_now(core, Call::Disconnect);
        async {
            answer.await;
        }
    }

    /// Stops a core: its logs are closed. The positions of the logs that were closed cleanly.
    pub fn stop_core(&self, core: usize) -> impl Future<Output = Vec<Position>> {
        let answer = self.call_now(core, Call::Stop);
        async {
            match answer.await {
                Answer::Stopped(positions) => positions,
                _ => unreachable!("answers match calls"),
            }
        }
    }

    /// This core's cache of log data.
    fn cache(&self) -> &Cache {
        &self.0.cache
    }

    /// Has a core flush its logs; how far they are.
    pub async fn checkpoint_core(&self, core: usize) -> Vec<Position> {
        match self.call(core, Call::Checkpoint).await {
            Answer::Checkpoint(positions) => positions,
            _ => unreachable!("answers match calls"),
        }
    }

    /// Has the checkpoints of all log directories written; false when they could not be.
    async fn ask_checkpoint(&self) -> bool {
        match self.call(CONTROLLER_CORE, Call::StoreCheckpoints).await {
            Answer::StoredCheckpoints(stored) => stored,
            _ => unreachable!("answers match calls"),
        }
    }

    /// Resolves when this core has been stopped and all it had to say has left.
    pub async fn stopped(&self) {
        while !self.0.stopped.get() {
            self.0.stop.notified().await;
        }
        while !self.0.mailboxes.is_empty() {
            self.0.rt.sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

/// A wait for growth; ends when dropped.
pub struct Watch<R: Rt> {
    shard: Shard<R>,
    remote: Option<(usize, Ticket)>,
    _local: Vec<Parked<R>>,
}

impl<R: Rt> Drop for Watch<R> {
    fn drop(&mut self) {
        if let Some((owner, ticket)) = self.remote {
            self.shard.0.waiting.borrow_mut().remove(ticket);
            self.shard.send(owner, Message::Unwatch(ticket));
        }
    }
}

/// Produce on behalf of another core: answers when every item has been.
struct RemoteProduce<R: Rt> {
    shard: Shard<R>,
    from: usize,
    ticket: Ticket,
    results: RefCell<Vec<(u32, Produced)>>,
    remaining: Cell<usize>,
}

impl<R: Rt> Sink for RemoteProduce<R> {
    fn produced(&self, index: u32, produced: Produced) {
        self.results.borrow_mut().push((index, produced));
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() == 0 {
            self.shard.send(self.from, Message::Reply(self.ticket, Answer::Produced(self.results.take())));
        }
    }
}

/// Passes a notice on to the core that watches.
struct RemoteWatch<R: Rt> {
    shard: Shard<R>,
    from: usize,
    ticket: Ticket,
}

impl<R: Rt> Watcher for RemoteWatch<R> {
    fn grown(&self) {
        self.shard.send(self.from, Message::Notice(self.ticket));
    }
}
