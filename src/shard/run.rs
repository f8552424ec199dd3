//! A shard's turn: what has come from other cores is handled, what is to go to them leaves.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::changes::AGAIN;
use super::control::Control;
use super::message::{Answer, Assignment, Call, Home, Ids, Message, Position, Terms, Ticket};
use super::op::Key;
use super::owner::{Replica, Sink, Watcher};
use super::{RemoteProduce, RemoteWatch, Shard, Waiting};
use crate::base::ids::{LeaderEpoch, Offset};
use crate::cluster::image::Image;
use crate::cluster::names;
use crate::cluster::queue::Lane;
use crate::cluster::record::MetadataRecord;
use crate::cluster::topic_config::TopicConfig;
use crate::log::{self, Log, LogConfig, LogError, Opening, Replay};
use crate::partition::epochs::Epochs;
use crate::partition::producers::Producers;
use crate::partition::{BatchHeader, Partition, Recovered};
use crate::rt::notify::Notify;
use crate::rt::slices::SLICE;
use crate::rt::{Class, Rt};

/// Messages of other cores are handled for so long in one turn.
const MESSAGES_FOR: Duration = Duration::from_micros(200);
/// What a look at a replica costs of a turn's budget, in inflated bytes.
pub(super) const REPLICA_COST: usize = 256;
/// How often silent producers are looked for, unless they expire sooner.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
/// Leader epochs that a log may know of beyond those of the metadata: more are damage.
const EPOCHS_BEHIND_MAX: LeaderEpoch = 1000;
/// How long the controller may look for room for a new leader epoch, before it is asked again.
const NEW_EPOCH_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether a replica is still being reopened.
const REOPENING: Duration = Duration::from_millis(1);

impl<R: Rt> Shard<R> {
    /// Handles what has arrived and sends what is due; true when there was anything.
    pub(super) fn turn(&self) -> bool {
        let wake = |core| self.rt().unpark(core);
        if self.0.stop_asked.load(Ordering::Relaxed) {
            self.0.asked.notify();
        }
        let began = Cell::new(None);
        let late = || {
            let now = self.rt().now().mono;
            let began = began.get().unwrap_or_else(|| {
                began.set(Some(now));
                now
            });
            now - began >= MESSAGES_FOR
        };
        let received = self.0.mailboxes.receive(|from, message| self.handle(from, message), late, wake);
        let sent = self.0.mailboxes.flush(wake);
        received || sent
    }

    fn handle(&self, from: usize, message: Message<R::Accepted>) {
        match message {
            Message::Connection(connection) => {
                let take = self.0.take_connection.borrow().clone();
                if let Some(take) = take {
                    take(connection);
                }
            }
            Message::Call(ticket, call) => self.handle_call(from, ticket, call),
            Message::Reply(ticket, answer) => self.handle_reply(ticket, answer),
            Message::Watch(ticket, items) => {
                let watcher: Rc<dyn Watcher> = Rc::new(RemoteWatch { shard: self.clone(), from, ticket });
                let one = |w: &super::Watched| self.0.owner.watch(&w.key, w.high_watermark, w.need_bytes, &watcher);
                let parked: Vec<_> = items.iter().filter_map(one).collect();
                self.0.parked.borrow_mut().insert((from, ticket), parked);
            }
            Message::Unwatch(ticket) => {
                let parked = self.0.parked.borrow_mut().remove(&(from, ticket));
                drop(parked);
            }
            Message::Notice(ticket) => {
                // The watch may be gone and its ticket given to another wait: a watcher that is told too much looks and waits again.
                let watcher = match self.0.waiting.borrow().get(ticket) {
                    Some(Waiting::Watch(watcher)) => Some(watcher.clone()),
                    _ => None,
                };
                if let Some(watcher) = watcher {
                    watcher.grown();
                }
            }
        }
    }

    fn handle_reply(&self, ticket: Ticket, answer: Answer) {
        let mut waiting = self.0.waiting.borrow_mut();
        match (&mut waiting[ticket], answer) {
            (Waiting::Call { answer: slot, waker }, answer) => {
                *slot = Some(answer);
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
            (Waiting::Produce(_), Answer::Produced(results)) => {
                let Waiting::Produce(sink) = waiting.remove(ticket) else { unreachable!("just seen") };
                drop(waiting);
                for (index, produced) in results {
                    sink.produced(index, produced);
                }
            }
            _ => unreachable!("answers match calls"),
        }
    }

    fn handle_call(&self, from: usize, ticket: Ticket, call: Call) {
        self.rt().doing(call.name());
        match call {
            Call::Produce(items) => {
                let remaining = Cell::new(items.len());
                let sink = RemoteProduce { shard: self.clone(), from, ticket, results: Default::default(), remaining };
                let sink: Rc<dyn Sink> = Rc::new(sink);
                for (index, item) in &items {
                    self.0.owner.produce(item, &sink, *index);
                }
            }
            Call::Read { items, max_bytes, first, holds } => match self.0.owner.read_cached(&items, max_bytes, first) {
                Some(results) => self.send(from, Message::Reply(ticket, Answer::Read(results))),
                None => self
                    .answer_later(from, ticket, async move |shard| Answer::Read(shard.0.owner.read(&items, max_bytes, first, holds).await)),
            },
            Call::Offsets(items) => {
                self.answer_later(from, ticket, async move |shard| Answer::Offsets(shard.0.owner.offsets(&items).await));
            }
            Call::Epochs(items) => self.send(from, Message::Reply(ticket, Answer::Epochs(self.0.owner.epochs(&items)))),
            Call::Assign(image, assignments) => self.answer_later(from, ticket, async move |shard| {
                shard.assign(&image, assignments).await;
                shard.cleaner_follows(image.settings());
                let before = std::mem::replace(&mut *shard.0.image.borrow_mut(), image);
                shard.groups_follow_topics(&before);
                Answer::Assigned
            }),
            Call::DeleteRecords(items) => {
                self.answer_later(from, ticket, async move |shard| Answer::Deleted(shard.0.owner.delete_records(&items).await))
            }
            Call::Sizes => self.answer_later(from, ticket, async |shard| Answer::Sizes(shard.0.owner.sizes().await)),
            Call::Control(change) => {
                let control = self.0.control.borrow().clone();
                control.expect("only the controller's core is asked").submit(from, ticket, change);
            }
            Call::Group(key, group, op) => self.take_group_op(from, ticket, &key, &group, *op),
            Call::ListGroups(states, types) => {
                self.answer_later(from, ticket, async move |shard| Answer::Groups(shard.listed(&states, &types).await));
            }
            Call::Checkpoint => {
                self.answer_later(from, ticket, async |shard| Answer::Checkpoint(shard.checkpoint().await));
            }
            Call::StoreCheckpoints => self.answer_later(from, ticket, async |shard| {
                let control = shard.0.control.borrow().clone();
                let control = control.expect("only the controller's core is asked");
                Answer::StoredCheckpoints(control.checkpoint().await)
            }),
            Call::Disconnect => self.answer_later(from, ticket, async |shard| {
                shard.disconnect().await;
                Answer::Disconnected
            }),
            Call::Stop => self.answer_later(from, ticket, async |shard| Answer::Stopped(shard.close_all().await)),
        }
    }

    /// Answers a call when work that waits for the disk is done.
    fn answer_later<F>(&self, from: usize, ticket: Ticket, work: F)
    where
        F: AsyncFnOnce(Shard<R>) -> Answer + 'static,
    {
        let shard = self.clone();
        self.rt().spawn(Class::Foreground, async move {
            let answer = work(shard.clone()).await;
            let stopping = matches!(answer, Answer::Stopped(_));
            shard.send(from, Message::Reply(ticket, answer));
            if stopping {
                shard.0.stopped.set(true);
                shard.0.stop.notify();
            }
        });
    }

    /// Sends the answer of the controller shard.
    pub(super) fn reply(&self, to: usize, ticket: Ticket, answer: Answer) {
        self.send(to, Message::Reply(ticket, answer));
    }

    pub(super) fn set_control(&self, control: Rc<Control<R>>) {
        *self.0.control.borrow_mut() = Some(control);
    }

    /// Opens or creates the replicas named and drops those whose topic is gone.
    async fn assign(&self, image: &Arc<Image>, assignments: Vec<Assignment>) {
        self.drop_orphans(image).await;
        let (shard, known) = (self.clone(), image.clone());
        let open = async move |assignment: Assignment| {
            let Assignment { key, home: Some(home) } = assignment else {
                return shard.0.owner.set_offline(assignment.key, None);
            };
            while shard.is_reopening(Some(&home.dir)) {
                shard.rt().sleep(REOPENING).await;
            }
            if let Err(e) = shard.open(&known, key, &home).await {
                let dir = home.dir.display().to_string();
                let again = matches!(e, LogError::Exhausted(_)).then_some(home);
                let until = if again.is_some() { "that has changed" } else { "the next start" };
                tracing::error!("{dir}: cannot be opened, its partition stays offline until {until}: {e}");
                shard.0.owner.set_offline(key, again);
            }
        };
        self.each(image, assignments, open).await;
        // A replica may have been reopened meanwhile, by the image that this one takes the place
        // of.
        while self.drop_orphans(image).await {}
    }

    /// Gives the replicas the settings of `image`, and drops those whose topic it does not have.
    /// Whether there were any.
    async fn drop_orphans(&self, image: &Arc<Image>) -> bool {
        self.0.owner.retain_offline(|key| image.topic_by_id(key.0).is_some());
        let mut gone = Vec::new();
        for (key, replica) in self.0.owner.opened() {
            self.rt().slices().pass(REPLICA_COST).await;
            match image.topic_by_id(key.0) {
                Some(topic) => {
                    replica.set_config(&topic.config);
                    replica.follow(image, &key);
                }
                None => gone.push(key),
            }
        }
        let (any, shard) = (!gone.is_empty(), self.clone());
        self.each(image, gone, async move |key: Key| shard.drop_replica(&key).await).await;
        any
    }

    /// Works through `items`, `num.recovery.threads.per.data.dir` of `image` at a time; returns when all are done.
    async fn each<T: 'static>(&self, image: &Image, items: Vec<T>, work: impl AsyncFn(T) + 'static) {
        let width = usize::try_from(image.settings().number("num.recovery.threads.per.data.dir")).unwrap_or(1).max(1).min(items.len());
        let (items, work) = (Rc::new(RefCell::new(items.into_iter())), Rc::new(work));
        let (left, done) = (Rc::new(Cell::new(width)), Rc::new(Notify::default()));
        for _ in 0..width {
            let (items, work, left, done) = (items.clone(), work.clone(), left.clone(), done.clone());
            let rt = self.rt().clone();
            self.rt().spawn(Class::Foreground, async move {
                loop {
                    let next = items.borrow_mut().next();
                    let Some(item) = next else { break };
                    work(item).await;
                    // Names are made by plain calls.
                    rt.slices().pass(SLICE).await;
                }
                left.set(left.get() - 1);
                done.notify();
            });
        }
        while left.get() > 0 {
            done.notified().await;
        }
    }

    /// Its topic is gone.
    pub(super) async fn drop_replica(&self, key: &Key) {
        let Some(replica) = self.0.owner.remove(key) else { return };
        replica.retire();
        self.groups_follow_replica(key);
        if let Err(e) = replica.log.delete().await {
            tracing::error!("{}: cannot be deleted: {e}", replica.name);
        }
    }

    pub(super) async fn open(&self, image: &Image, key: Key, home: &Home) -> Result<(), LogError> {
        let Home { dir, opening } = home;
        let closed = opening.clean;
        let Some(topic) = image.topic_by_id(key.0) else { return Ok(()) };
        let Some(info) = topic.partition(key.1) else { return Ok(()) };
        let config = log_config(&topic.config);
        let (rt, cache) = (self.rt(), &self.0.cache);
        self.clear_way(&key, &topic.name, dir).await?;
        let stored = log::epoch_checkpoint(rt, dir)?;
        let mut recovering = Recovering::new(stored.as_deref());
        let log = match Log::open(rt, cache, dir, config, *opening, &mut recovering).await {
            Err(LogError::Missing(_)) => Log::create(rt, cache, dir, key.0, config).await?,
            opened => opened?,
        };
        if log.topic_id().is_zero() {
            if log.end_offset() > 0 {
                tracing::warn!("{}: does not tell its topic's id and is taken for {}'s by its name", dir.display(), key.0);
            }
            log.set_topic_id(key.0);
        }
        let recovered = recovering.finish(&log, dir, stored.as_deref()).await?;
        let latest = recovered.epochs.latest().map_or(-1, |(epoch, _)| epoch);
        if latest > info.leader_epoch.saturating_add(EPOCHS_BEHIND_MAX) {
            return Err(LogError::refused(dir, format!("its leader epoch {latest} is far above {}", info.leader_epoch)));
        }
        // A log may know of a later leader than the metadata: that is an older copy then.
        let partition = Partition::new(key.0, key.1, info.leader_epoch.max(latest), recovered);
        let epochs = partition.epochs.encode();
        if stored.as_deref() != Some(&epochs) {
            log.set_epochs_later(epochs);
        }
        let name = log::dir::partition_name(dir);
        let log_dir = dir.parent().map(std::path::PathBuf::from).unwrap_or_default();
        let disk = self.0.log_dirs.iter().position(|entry| *entry == log_dir).unwrap_or(0) as u16;
        let dir = dir.clone();
        let replica = Replica {
            dir,
            log,
            log_dir,
            disk,
            name,
            config: RefCell::new(topic.config.clone()),
            flush_due: Cell::new(false),
            epochs_moved: Cell::new(false),
            on_end: RefCell::default(),
            held: Cell::new(image.held()),
            seen_end: Cell::new(-1),
            partition: RefCell::new(partition),
        };
        let replica = Rc::new(replica);
        let known = opening.recovery_point.max(opening.log_start).max(opening.cleaned);
        let grow = latest > info.leader_epoch || (closed && replica.log.opened_unclean());
        if grow || replica.log.end_offset() < known {
            self.serve_when_stored(key, replica, grow);
        } else {
            self.serve_replica(key, replica, image);
        }
        Ok(())
    }

    /// Takes a replica into service as `image` has it, or this core's own image where that is newer.
    fn serve_replica(&self, key: Key, replica: Rc<Replica<R>>, image: &Image) {
        let own = self.image();
        let image = if own.offset() > image.offset() { &own } else { image };
        if let Some(topic) = image.topic_by_id(key.0) {
            replica.set_config(&topic.config);
            replica.follow(image, &key);
        }
        self.0.owner.insert(key, replica);
        self.0.owner.set_online(&key);
        self.groups_follow_replica(&key);
    }

    /// Serves a replica, whose log is not as the last process has told, once the checkpoints tell how
    /// it is, and with `grow` its leader epoch has grown: it should have been closed. Until then it
    /// is kept beside those that are served, and dropped with its topic or closed as they are.
    fn serve_when_stored(&self, key: Key, replica: Rc<Replica<R>>, grow: bool) {
        let latest = replica.partition.borrow().leader_epoch;
        self.0.owner.set_pending(key, replica);
        let shard = self.clone();
        self.rt().spawn(Class::Foreground, async move {
            let mut grown = !grow;
            loop {
                grown = grown || shard.ask_new_epoch(&key, latest).await;
                if grown && shard.ask_checkpoint().await {
                    break;
                }
                // There is no room, which the controller says, or it is busy.
                shard.rt().sleep(AGAIN).await;
                if shard.0.stopping.get() || !shard.0.owner.is_pending(&key) {
                    return;
                }
            }
            if let Some(replica) = shard.0.owner.take_pending(&key) {
                shard.serve_replica(key, replica, &shard.image());
            }
        });
    }

    /// Has the leader epoch of a partition grow, above `latest`; false when that could not be done in
    /// time.
    async fn ask_new_epoch(&self, key: &Key, latest: LeaderEpoch) -> bool {
        let terms = Terms { within: NEW_EPOCH_WITHIN, lane: Lane::Takes, bytes: 0 };
        let key = *key;
        let decide = move |image: &Image, _: &mut Ids<'_>| {
            let now = image.topic_by_id(key.0).and_then(|topic| topic.partition(key.1)).map(|p| p.leader_epoch);
            let steps = now.map_or(0, |epoch| latest.saturating_sub(epoch).max(0) + 1);
            let record = MetadataRecord::NewLeaderEpochsOf { id: key.0.0, partitions: vec![key.1] };
            (vec![record; steps as usize], ())
        };
        self.control(terms, decide).await.is_ok()
    }

    /// Sets the directory `dir` aside if it is another topic's: it has come since the start, or could
    /// not be removed with its topic. One that is open, or may be, is never touched.
    async fn clear_way(&self, key: &Key, topic: &str, dir: &Path) -> Result<(), LogError> {
        let owner = log::stored_topic_id(self.rt(), dir)?;
        if owner.is_zero() || owner == key.0 {
            return Ok(());
        }
        if names::is_own(topic) || self.0.owner.opened().iter().any(|(_, replica)| replica.dir == dir) {
            return Err(LogError::taken(dir));
        }
        let aside = log::dir::set_aside(self.rt(), dir).await?;
        tracing::warn!("{}: belongs to the topic {owner}, not to {}: renamed to {}", dir.display(), key.0, aside.display());
        Ok(())
    }

    /// Looks for idle logs and silent producers, for as long as the core runs.
    pub async fn rest_idle_logs(self, idle: Duration) {
        let mut expired = self.rt().now().mono;
        while !self.0.stopped.get() {
            self.rt().sleep(idle).await;
            self.0.owner.rest_idle();
            let expiration = self.image().settings().number("producer.id.expiration.ms");
            let every = EXPIRE_EVERY.min(Duration::from_millis(expiration.max(0) as u64));
            let now = self.rt().now();
            if now.mono.saturating_sub(expired) >= every {
                expired = now.mono;
                self.0.owner.expire_producers(now.wall_ms, expiration).await;
            }
        }
    }

    async fn checkpoint(&self) -> Vec<Position> {
        let mut positions = Vec::new();
        for (key, replica) in self.0.owner.opened() {
            self.rt().slices().pass(REPLICA_COST).await;
            // A failed flush has fenced the log and said so; its recovery point stays where it was.
            let _ = replica.log.flush().await;
            positions.push(replica.position(key, false));
        }
        positions
    }

    /// Ends the groups and closes the connections of this core.
    async fn disconnect(&self) {
        self.0.stopping.set(true);
        self.end_groups();
        let stop = self.0.on_stop.borrow().clone();
        if let Some(stop) = stop {
            stop.notify();
            self.0.connections_closed.notified().await;
        }
    }

    /// Closes the logs.
    async fn close_all(&self) -> Vec<Position> {
        while self.is_reopening(None) {
            self.rt().sleep(REOPENING).await;
        }
        let positions = Rc::new(RefCell::new(Vec::new()));
        let (shard, closed) = (self.clone(), positions.clone());
        let close = async move |(key, replica): (Key, Rc<Replica<R>>)| {
            let snapshot = replica.partition.borrow().producers.encode_snapshot();
            let result = replica.log.close(snapshot).await;
            // The next start is to have its leader epoch grow, if this one could not.
            let clean = result.is_ok() && !shard.0.owner.is_pending(&key);
            closed.borrow_mut().push(replica.position(key, clean));
            if let Err(e) = result {
                tracing::error!("{}: not closed cleanly: {e}", replica.name);
            }
            shard.0.owner.remove(&key);
        };
        self.each(&self.image(), self.0.owner.opened(), close).await;
        positions.take()
    }
}

/// What of a topic's configuration the log is told.
fn log_config(config: &TopicConfig) -> LogConfig {
    // As in Kafka: what is to be compacted after some time must not stay in the last segment, which never is.
    let compaction_lag = if config.compact { config.max_compaction_lag_ms } else { i64::MAX };
    LogConfig {
        segment_bytes: config.segment_bytes as u32,
        index_interval_bytes: config.index_interval_bytes as u32,
        segment_index_bytes: config.segment_index_bytes as u32,
        segment_ms: config.segment_ms.min(compaction_lag),
        segment_jitter_ms: config.segment_jitter_ms,
        file_delete_delay_ms: config.file_delete_delay_ms,
        flushed_one_by_one: false,
    }
}

impl<R: Rt> Replica<R> {
    /// Leads in the epoch that the image tells; the reason to append nothing may have gone with the
    /// epoch before.
    fn follow(&self, image: &Image, key: &Key) {
        let info = image.topic_by_id(key.0).and_then(|topic| topic.partition(key.1));
        let mut partition = self.partition.borrow_mut();
        if let Some(info) = info.filter(|info| info.leader_epoch > partition.leader_epoch)
            && partition.lead(info.leader_epoch)
        {
            self.log.set_epochs_later(partition.epochs.encode());
        }
        self.held.set(image.held());
    }

    /// The topic's configuration may have changed.
    pub(super) fn set_config(&self, config: &TopicConfig) {
        if *self.config.borrow() != *config {
            self.log.set_config(log_config(config));
            self.config.replace(config.clone());
        }
    }

    /// Topic name and partition.
    pub(super) fn topic_and_partition(&self) -> (String, i32) {
        let (topic, index) = self.name.rsplit_once('-').unwrap_or((&self.name, "0"));
        (topic.to_owned(), index.parse().unwrap_or(0))
    }

    fn position(&self, key: Key, clean: bool) -> Position {
        let partition = self.partition.borrow();
        let opening = Opening {
            recovery_point: self.log.flushed_offset(),
            clean,
            log_start: partition.log_start,
            cleaned: self.log.cleaned_offset(),
        };
        Position { key, opening, high_watermark: partition.high_watermark }
    }
}

/// What the log's batches say of a partition, while the log is opened. Starts from the epoch checkpoint, which knows of epochs before the
/// snapshot.
struct Recovering(Recovered);

impl Replay for Recovering {
    fn snapshot(&mut self, _offset: Offset, payload: &[u8]) -> bool {
        match Producers::decode_snapshot(payload) {
            Ok(producers) => {
                self.0.producers = producers;
                true
            }
            Err(_) => false,
        }
    }

    fn batch(&mut self, header: &BatchHeader) {
        self.0.replay(header);
    }

    fn reset(&mut self) {
        self.0.producers = Producers::default();
    }

    fn state(&self) -> Option<Vec<u8>> {
        let producers = &self.0.producers;
        (!producers.is_empty()).then(|| producers.encode_snapshot())
    }
}

impl Recovering {
    fn new(checkpoint: Option<&str>) -> Recovering {
        let epochs = checkpoint.and_then(|text| Epochs::parse(text).ok()).unwrap_or_default();
        Recovering(Recovered { epochs, ..Recovered::default() })
    }

    /// Brings what was read up to date with the log. Leader epochs that `checkpoint` does not tell are
    /// read from the batches.
    async fn finish<R: Rt>(self, log: &Log<R>, dir: &Path, checkpoint: Option<&str>) -> Result<Recovered, LogError> {
        let mut recovered = self.0;
        (recovered.log_start, recovered.log_end) = (log.start_offset(), log.end_offset());
        let (dir, empty) = (dir.display(), recovered.log_start == recovered.log_end);
        match checkpoint.map(Epochs::parse) {
            Some(Ok(told)) if empty && told.latest().is_some_and(|(_, start)| start >= recovered.log_start) => tracing::warn!(
                "{dir}: is empty, though its leader epochs were noted for records from offset {} on: they were not flushed \
                 yet, or their files are gone",
                told.latest().map_or(0, |(_, start)| start)
            ),
            Some(Err(e)) => {
                tracing::warn!("{dir}: {e}: leader epochs are read from the batches");
                recovered.epochs.assign_all(log.leader_epochs().await?);
            }
            None if !empty => recovered.epochs.assign_all(log.leader_epochs().await?),
            Some(Ok(_)) | None => {}
        }
        recovered.epochs.truncate_from_end(recovered.log_end);
        recovered.epochs.truncate_from_start(recovered.log_start);
        Ok(recovered)
    }
}
