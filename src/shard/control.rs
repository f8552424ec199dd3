//! The controller shard: one change of the metadata at a time, committed to its own log, then acted on by every core.
//!
//! Lives on core 0. The log is a partition log like any other, in `__corelane_metadata-0` of one log directory, at first the first one; each record is a
//! `MetadataRecord`. A change is answered when its records are on the device and every core has opened or dropped the replicas concerned,
//! so a topic is usable when its creation is answered. What cannot be written is fatal: a broker without its metadata serves nobody.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::dirs::{LogDirs, METADATA_ID, METADATA_KEY, Places};
use super::message::{Answer, Assignment, Call, Decide, Home, Ids, Position, Ticket};
use super::takeover::{self, Takeover};
use super::{MetadataRecord, Shard};
use crate::base::fatal::fatal;
use crate::base::ids::{BrokerId, TopicId, Uuid};
use crate::cluster::image::Image;
use crate::cluster::names::METADATA;
use crate::cluster::settings::{BrokerSettings, Configs};
use crate::cluster::{journal, placement};
use crate::log::{Log, LogConfig, LogError, NoReplay, Opening, Read, dir};
use crate::partition::op::Key;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};
use crate::wire::producer_snapshot;

const METADATA_LOG: LogConfig = LogConfig { segment_bytes: 64 << 20, ..LogConfig::DEFAULT };
const READ_BYTES: usize = 1 << 20;
/// How often a change that the disk has no room for is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// The controller shard of this process.
pub struct Control<R: Rt> {
    shard: Shard<R>,
    log: Log<R>,
    image: RefCell<Image>,
    places: RefCell<Places>,
    queue: RefCell<VecDeque<(usize, Ticket, Decide)>>,
    queued: Notify,
    /// A checkpoint is being written. Two at a time would take each other's files away.
    writing: Cell<bool>,
    closed: Cell<bool>,
}

impl<R: Rt> Control<R> {
    /// Opens the metadata log, replays it, and has every core open its replicas. Where there is none yet, but that of a Kafka, its metadata
    /// is taken over. `given` are the settings that this broker, `node`, was started with.
    pub async fn start(shard: Shard<R>, node: BrokerId, given: Arc<Configs>, mut dirs: LogDirs) -> Result<Rc<Control<R>>, String> {
        let rt = shard.rt();
        let elsewhere = given.get("metadata.log.dir").map(PathBuf::from);
        let settings = BrokerSettings::new(node, given);
        let opened = match Opened::open(&shard, node, settings, &dirs, elsewhere.as_deref()).await {
            Ok(opened) => opened,
            Err(reason) => {
                // The next start, Kafka's perhaps, finds what this one has found.
                dirs.put_back(rt).await.map_err(|e| format!("{reason}; {e}"))?;
                return Err(reason);
            }
        };
        let Opened { log, home, image, removed, takeover } = opened;
        let path = dir::partition_dir(&dirs.dirs[home].path, METADATA, 0);
        let failed = |e: &dyn std::fmt::Display| format!("metadata log {}: {e}", path.display());
        let log = match log {
            Some(log) => log,
            None => Log::create(rt, shard.cache(), &path, METADATA_ID, METADATA_LOG).await.map_err(|e| failed(&e))?,
        };
        dirs.store_known(rt, home).await.map_err(|e| e.to_string())?;
        let clean = dirs.clean();
        let control = Rc::new(Control {
            image: RefCell::new(image),
            places: RefCell::default(),
            queue: RefCell::default(),
            queued: Notify::default(),
            writing: Cell::new(false),
            closed: Cell::new(false),
            log,
            shard: shard.clone(),
        });
        if let Some(Takeover { path, taken }) = &takeover {
            control.write(&taken.records, rt.now().wall_ms).await;
            takeover::report(path, taken, &control.image.borrow());
        }
        if control.log.end_offset() > 0
            && let Err(reason) = takeover::mark_taken_over(rt, &dirs, elsewhere.as_deref()).await
        {
            if takeover.is_some() {
                return Err(reason);
            }
            tracing::warn!("{reason}");
        }
        let image = control.image.borrow().clone();
        takeover::clear_strays(rt, &mut dirs, &image, &removed).await.map_err(|e| e.to_string())?;
        control.places.replace(Places::new(dirs, home, &image));
        if control.places.borrow().checkpoints_are_stale(&image) {
            control.write_checkpoints(&[]).await.map_err(|e| e.to_string())?;
        }
        if !clean && control.image.borrow().topics().len() > 0 {
            // What the logs have lost may be written anew at the same offsets: a new leader epoch tells clients which is which.
            control.write(&[MetadataRecord::NewLeaderEpochs], rt.now().wall_ms).await;
        }
        shard.set_control(control.clone());
        let everything = partitions(&control.image.borrow());
        control.publish(everything).await;
        if !clean {
            control.checkpoint_recovered().await;
        }
        let running = control.clone();
        shard.rt().spawn(Class::Foreground, async move { running.run().await });
        Ok(control)
    }

    /// Takes a decision into the queue.
    pub(super) fn submit(&self, from: usize, ticket: Ticket, decide: Decide) {
        self.queue.borrow_mut().push_back((from, ticket, decide));
        self.queued.notify();
    }

    async fn run(self: Rc<Self>) {
        // Once the log is closed nothing can be decided: those who asked have lost their connections.
        while !self.closed.get() {
            let next = self.queue.borrow_mut().pop_front();
            let Some((from, ticket, decide)) = next else {
                self.queued.notified().await;
                continue;
            };
            let now = self.shard.rt().now();
            let mut random = || {
                let mut bytes = [0; 16];
                self.shard.rt().random(&mut bytes);
                bytes
            };
            let (records, reply) = decide(&self.image.borrow(), &mut Ids { now, random: &mut random });
            if !records.is_empty() {
                self.commit(&records, now.wall_ms).await;
            }
            self.shard.reply(from, ticket, Answer::Control(reply));
        }
    }

    /// Writes, flushes, applies, publishes.
    async fn commit(&self, records: &[MetadataRecord], now_ms: i64) {
        // Producer ids are of interest here alone.
        if records.iter().all(|record| matches!(record, MetadataRecord::ProducerIds { .. })) {
            return self.write(records, now_ms).await;
        }
        let before: HashSet<Key> = partitions(&self.image.borrow()).into_iter().collect();
        self.write(records, now_ms).await;
        let created = partitions(&self.image.borrow()).into_iter().filter(|key| !before.contains(key)).collect();
        self.publish(created).await;
    }

    async fn write(&self, records: &[MetadataRecord], now_ms: i64) {
        let base = loop {
            let base = self.log.end_offset();
            let appended = self.log.append(&journal::encode(records, now_ms), base, 0, None);
            let done = match appended {
                Ok(_) => self.log.flush().await,
                Err(e) => Err(e),
            };
            match done {
                Ok(()) => break base,
                // The log says so; whoever asked waits.
                Err(LogError::Exhausted(_)) => self.shard.rt().sleep(AGAIN).await,
                Err(e) => fatal(&format!("the metadata log cannot be written: {e}")),
            }
        };
        for (at, record) in (base..).zip(records) {
            self.image.borrow_mut().apply(at, record);
        }
    }

    /// Gives the image to every core, with the replicas to open, and waits until all have acted on it.
    async fn publish(&self, open: Vec<Key>) {
        let cores = self.shard.rt().cores();
        let image = Arc::new(self.image.borrow().clone());
        let mut assignments: Vec<Vec<Assignment>> = vec![Vec::new(); cores];
        for key in open {
            let Some(topic) = image.topic_by_id(key.0) else { continue };
            let home = self.places.borrow_mut().place(key, &topic.name).map(|(dir, opening)| Home { dir, opening });
            assignments[placement::owner(key.0, key.1, cores)].push(Assignment { key, home });
        }
        let calls: Vec<_> =
            (0..cores).map(|core| self.shard.call_now(core, Call::Assign(image.clone(), std::mem::take(&mut assignments[core])))).collect();
        for call in calls {
            call.await;
        }
        // A topic that is created again under the name of a deleted one starts anew, wherever there is room.
        self.places.borrow_mut().forget_all_but(&image);
    }

    /// Writes the checkpoints every now and then, so that a start after a crash has little to look at.
    pub async fn checkpoint_every(&self, interval: Duration) {
        loop {
            self.shard.rt().sleep(interval.max(Duration::from_secs(1))).await;
            let positions = self.positions().await;
            if self.closed.get() {
                return;
            }
            self.writing.set(true);
            if let Err(e) = self.write_checkpoints(&positions).await {
                tracing::warn!("{e}");
            }
            self.writing.set(false);
            // Metadata seldom changes: between two checkpoints the log holds nothing that it does not need.
            self.log.trim_idle();
        }
    }

    /// How far all logs are, once they are flushed.
    async fn positions(&self) -> Vec<Position> {
        let mut positions = Vec::new();
        for core in 0..self.shard.rt().cores() {
            positions.extend(self.shard.checkpoint_core(core).await);
        }
        positions.push(self.position(false));
        positions
    }

    /// After an unclean end, before anything new is accepted: a log may end below what its checkpoint
    /// tells, and what is written there next is something else.
    async fn checkpoint_recovered(&self) {
        let positions = self.positions().await;
        if let Err(e) = self.write_checkpoints(&positions).await {
            tracing::warn!("{e}");
        }
    }

    /// Closes the metadata log, and marks the stop as clean. `positions` are those of the logs that were closed.
    pub async fn close(&self, mut positions: Vec<Position>) -> Result<(), String> {
        self.closed.set(true);
        while self.writing.get() {
            self.shard.rt().sleep(Duration::from_millis(1)).await;
        }
        let no_producers = producer_snapshot::encode(std::iter::empty());
        self.log.close(no_producers).await.map_err(|e| format!("metadata log: {e}"))?;
        positions.push(self.position(true));
        self.write_checkpoints(&positions).await.map_err(|e| e.to_string())?;
        let dirs = self.places.borrow().paths();
        let offset = self.image.borrow().offset();
        for path in dirs {
            dir::mark_clean(self.shard.rt(), &path, offset).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn position(&self, clean: bool) -> Position {
        let recovery_point = self.log.flushed_offset();
        Position {
            key: METADATA_KEY,
            opening: Opening { recovery_point, clean, ..Opening::default() },
            high_watermark: self.log.written_offset(),
        }
    }

    async fn write_checkpoints(&self, positions: &[Position]) -> Result<(), LogError> {
        let checkpoints = self.places.borrow_mut().checkpoints(positions, &self.image.borrow());
        for checkpoint in checkpoints {
            checkpoint.write(self.shard.rt()).await?;
        }
        Ok(())
    }
}

/// What a start knows before it changes anything.
struct Opened<R: Rt> {
    /// The metadata log, if there is one.
    log: Option<Log<R>>,
    /// The log directory that it is in, or is to be in.
    home: usize,
    image: Image,
    /// Topics that were deleted.
    removed: HashSet<TopicId>,
    /// Kafka's metadata, to be written to the log.
    takeover: Option<Takeover>,
}

impl<R: Rt> Opened<R> {
    /// Opens and replays the metadata log, or reads Kafka's where there is none or an empty one.
    async fn open(
        shard: &Shard<R>,
        node: BrokerId,
        settings: BrokerSettings,
        dirs: &LogDirs,
        elsewhere: Option<&Path>,
    ) -> Result<Opened<R>, String> {
        let (rt, found) = (shard.rt(), dirs.metadata(shard.rt(), elsewhere)?);
        let home = found.unwrap_or(0);
        let (mut image, mut removed) = (Image::new(settings.clone()), HashSet::new());
        let mut log = None;
        if let Some(found) = &dirs.dirs[home].metadata {
            let failed = |e: &dyn std::fmt::Display| format!("metadata log {}: {e}", found.dir.path.display());
            let opened = Log::open(rt, shard.cache(), &found.dir.path, METADATA_LOG, found.opening, &mut NoReplay).await;
            let opened = opened.map_err(|e| failed(&e))?;
            let (end, flushed) = (opened.end_offset(), found.opening.recovery_point);
            if end < flushed {
                let reason = format!("it ends at offset {end}, though it was once flushed up to {flushed}: topics are missing");
                return Err(failed(&format!("{reason}. Put a copy of the directory in its place")));
            }
            (image, removed) = replay(&opened, image).await.map_err(|e| failed(&e))?;
            log = Some(opened);
        }
        // An empty one is of a start that was cut short before it had taken over anything.
        let fresh = log.as_ref().is_none_or(|log| log.end_offset() == 0);
        let takeover = if fresh { takeover::read_kafka(rt, dirs, elsewhere, &settings, node)? } else { None };
        match &takeover {
            None => dirs.refuse_copies(&image)?,
            Some(takeover) => dirs.refuse_copies(&Image::of(settings, &takeover.taken.records))?,
        }
        Ok(Opened { log, home, image, removed, takeover })
    }
}

fn partitions(image: &Image) -> Vec<Key> {
    image.topics().flat_map(|topic| (0..topic.partitions.len() as i32).map(|partition| (topic.id, partition))).collect()
}

/// Folds the whole log into an image; also the topics that were deleted.
async fn replay<R: Rt>(log: &Log<R>, mut image: Image) -> Result<(Image, HashSet<TopicId>), String> {
    let mut removed = HashSet::new();
    let (mut offset, end) = (log.start_offset(), log.end_offset());
    while offset < end {
        let batches = match log.read(offset, READ_BYTES, end, true) {
            Read::Hit(batches) => batches,
            Read::Miss(plan) => log.read_cold(plan).await.map_err(|e| e.to_string())?,
        };
        let before = offset;
        for bytes in &batches {
            for (at, record) in journal::decode(bytes)? {
                if at >= offset {
                    image.apply(at, &record);
                    if let MetadataRecord::RemoveTopic { id } = record {
                        removed.insert(Uuid(id));
                    }
                    offset = at + 1;
                }
            }
        }
        if offset == before {
            return Err(format!("no record at offset {offset}, although the log ends at {end}"));
        }
    }
    Ok((image, removed))
}
