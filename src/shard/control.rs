//! The controller shard: one change of the metadata at a time, committed to its own log, then acted on by every core.
//!
//! Lives on core 0. The log is a partition log like any other, in `__corelane_metadata-0` of one log directory, at first the first one; each record is a
//! `MetadataRecord`. A change is answered when its records are on the device and every core has opened or dropped the replicas concerned,
//! so a topic is usable when its creation is answered (`changes.rs`). A failed write is fatal: a broker without its metadata serves nobody.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::changes::{Asker, NoRoom};
use super::dirs::{LogDirs, METADATA_ID, METADATA_KEY, Places};
use super::message::{Change, Position};
use super::takeover::{self, Takeover};
use super::{MetadataRecord, Shard};
use crate::base::ids::{BrokerId, Offset, TopicId, Uuid};
use crate::cluster::image::Image;
use crate::cluster::journal;
use crate::cluster::names::METADATA;
use crate::cluster::queue::Queue;
use crate::cluster::settings::{BrokerSettings, Configs};
use crate::log::dir::CleanMark;
use crate::log::{Log, LogConfig, LogError, NoReplay, Opening, Read, dir};
use crate::partition::op::Key;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};
use crate::wire::producer_snapshot;

/// No segment begins for its age: the room that is kept for deletions is in the last one.
const METADATA_LOG: LogConfig = LogConfig { segment_bytes: 64 << 20, segment_ms: i64::MAX, flushed_one_by_one: true, ..LogConfig::DEFAULT };
const READ_BYTES: usize = 1 << 20;

/// The controller shard of this process.
pub struct Control<R: Rt> {
    pub(super) shard: Shard<R>,
    pub(super) log: Log<R>,
    pub(super) image: RefCell<Image>,
    pub(super) places: RefCell<Places>,
    pub(super) queue: RefCell<Queue<(Asker, Change)>>,
    pub(super) queued: Notify,
    /// Who is told of the change that is being made, and until when.
    pub(super) deciding: Cell<Option<(Asker, Duration)>>,
    /// A deadline has come to those that are waited for.
    pub(super) expiry: Notify,
    /// What has to be written before anything is produced.
    pub(super) owed: RefCell<Vec<MetadataRecord>>,
    /// The log has no room, and that was said.
    pub(super) full: Cell<bool>,
    /// The log is being written.
    pub(super) busy: Cell<bool>,
    /// The checkpoints are being written.
    writing: Cell<bool>,
    /// Rounds of checkpoints that were begun; whether one is under way; whether the last was written.
    rounds: Cell<u64>,
    in_round: Cell<bool>,
    round_done: Cell<bool>,
    /// The checkpoints of the last process name partitions that could be taken for new ones.
    stale: Cell<bool>,
    pub(super) closed: Cell<bool>,
}

impl<R: Rt> Control<R> {
    /// Opens the metadata log, replays it, and has every core open its replicas. Where there is none yet, but that of a Kafka, its metadata
    /// is taken over. `given` are the settings that this broker, `node`, was started with.
    pub async fn start(shard: Shard<R>, node: BrokerId, given: Arc<Configs>, mut dirs: LogDirs) -> Result<Rc<Control<R>>, String> {
        let rt = shard.rt();
        let elsewhere = given.get("metadata.log.dir").map(PathBuf::from);
        let settings = BrokerSettings::new(node, given);
        let opened = Opened::open(&shard, node, settings, &mut dirs, elsewhere.as_deref()).await?;
        let Opened { log, home, image, removed, takeover } = opened;
        let path = dir::partition_dir(&dirs.dirs[home].path, METADATA, 0);
        let failed = |e: &dyn std::fmt::Display| format!("metadata log {}: {e}", path.display());
        let log = match log {
            Some(log) => log,
            None => Log::create(rt, shard.cache(), &path, METADATA_ID, METADATA_LOG).await.map_err(|e| failed(&e))?,
        };
        match dirs.store_known(rt, home).await {
            Err(LogError::Exhausted(what)) => tracing::warn!("{what}: it will be written when there is room"),
            stored => stored.map_err(|e| e.to_string())?,
        }
        let (clean, markers) = (dirs.clean(), dirs.markers());
        let control = Rc::new(Control {
            image: RefCell::new(image),
            places: RefCell::default(),
            queue: RefCell::default(),
            queued: Notify::default(),
            deciding: Cell::default(),
            expiry: Notify::default(),
            owed: RefCell::default(),
            full: Cell::default(),
            busy: Cell::default(),
            writing: Cell::new(false),
            rounds: Cell::default(),
            in_round: Cell::default(),
            round_done: Cell::default(),
            stale: Cell::default(),
            closed: Cell::new(false),
            log,
            shard: shard.clone(),
        });
        // From here on a log may change. A start that is refused leaves it as a stop does, and the
        // next start, Kafka's perhaps, finds what this one has found.
        markers.take(rt).await?;
        if let Err(reason) = control.prepare(dirs, home, &removed, takeover, elsewhere.as_deref()).await {
            let closed = control.log.close(no_producers()).await.map_err(|e| e.to_string());
            let back = match closed {
                Ok(()) => markers.put_back(rt).await,
                failed => failed,
            };
            return Err(back.err().map_or(reason.clone(), |e| format!("{reason}; {e}")));
        }
        let image = control.image.borrow().clone();
        // What the logs have lost may be written anew at the same offsets: a new leader epoch tells clients which is which.
        let unclean = control.places.borrow().new_epochs(&image);
        if !unclean.is_empty() {
            control.write_or_owe(unclean).await;
        }
        shard.set_control(control.clone());
        let everything = partitions(&control.image.borrow());
        control.publish(everything).await;
        control.places.borrow_mut().forget_all_but(&control.image.borrow());
        if !clean {
            // Before anything new is accepted: a log may end below what its checkpoint tells, and what
            // is written there next is something else.
            control.checkpoint().await;
        }
        let running = control.clone();
        shard.rt().spawn(Class::Foreground, async move { running.run().await });
        Ok(control)
    }

    /// Makes the metadata log and the log directories ready, before any partition is opened or made.
    async fn prepare(
        &self,
        mut dirs: LogDirs,
        home: usize,
        removed: &HashSet<TopicId>,
        takeover: Option<Takeover>,
        elsewhere: Option<&Path>,
    ) -> Result<(), String> {
        let rt = self.shard.rt();
        self.reserve().await;
        if let Some(Takeover { path, taken }) = &takeover {
            self.take_in(&taken.records).await?;
            takeover::report(path, taken, &self.image.borrow());
        }
        if self.log.end_offset() > 0
            && let Err(reason) = takeover::mark_taken_over(rt, &dirs, elsewhere).await
        {
            if takeover.is_some() {
                return Err(reason);
            }
            tracing::warn!("{reason}");
        }
        let image = self.image.borrow().clone();
        takeover::clear_strays(rt, &mut dirs, &image, removed).await.map_err(|e| e.to_string())?;
        self.places.replace(Places::new(dirs, home, &image));
        if !self.places.borrow().checkpoints_are_stale(&image) {
            return Ok(());
        }
        self.stale.set(true);
        match self.write_checkpoints(&[]).await {
            Err(LogError::Exhausted(what)) => match self.places.borrow().made_from_stale(&image) {
                Some(dir) => Err(format!("{what}, and a partition that is to be made anew in {dir} would be taken for an old one")),
                None => {
                    tracing::warn!("{what}: until there is room no topic is created");
                    Ok(())
                }
            },
            written => written.map_err(|e| e.to_string()),
        }
    }

    /// Writes the checkpoints every now and then, so that a start after a crash has little to look at.
    pub async fn checkpoint_every(self: Rc<Self>, interval: Duration) {
        while !self.closed.get() {
            self.shard.rt().sleep(interval.max(Duration::from_secs(1))).await;
            self.checkpoint().await;
            // What the log has allocated ahead is not given back: it is the room for deletions.
        }
    }

    /// Writes the checkpoints once all logs are flushed, one round after the other: two at a time would
    /// take each other's files away. False when that failed, or at the stop.
    pub(super) async fn checkpoint(&self) -> bool {
        let asked = self.rounds.get();
        while self.in_round.get() && !self.closed.get() {
            self.shard.rt().sleep(Duration::from_millis(1)).await;
        }
        if self.closed.get() {
            return false;
        }
        // One that was begun since then tells what was asked for.
        if self.rounds.get() > asked && self.round_done.get() {
            return true;
        }
        self.in_round.set(true);
        self.rounds.set(self.rounds.get() + 1);
        let positions = self.positions().await;
        let done = !self.closed.get() && {
            self.writing.set(true);
            let written = self.write_checkpoints(&positions).await;
            self.writing.set(false);
            written.inspect_err(|e| tracing::warn!("{e}")).is_ok()
        };
        self.round_done.set(done);
        self.in_round.set(false);
        done
    }

    /// Before a partition is made: the checkpoints name none any more that could be taken for it.
    pub(super) async fn settle_checkpoints(&self) -> Result<(), NoRoom> {
        match !self.stale.get() || self.checkpoint().await {
            true => Ok(()),
            false => Err(NoRoom("the checkpoints of the last process are not replaced yet".into())),
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

    /// Closes the metadata log, and marks the stop as clean. `positions` are those of the logs that were closed.
    pub async fn close(&self, mut positions: Vec<Position>) -> Result<(), String> {
        self.closed.set(true);
        while self.writing.get() || self.busy.get() {
            self.shard.rt().sleep(Duration::from_millis(1)).await;
        }
        self.log.close(no_producers()).await.map_err(|e| format!("metadata log: {e}"))?;
        positions.push(self.position(true));
        self.write_checkpoints(&positions).await.map_err(|e| e.to_string())?;
        if self.owes() {
            tracing::warn!("the stop is not marked as clean: the leader epochs have not grown since the last one that was not");
            return Ok(());
        }
        let dirs = self.places.borrow().paths();
        let offset = self.image.borrow().offset();
        let mark = CleanMark::of_this_stop(self.shard.rt(), offset);
        for path in dirs {
            dir::mark_clean(self.shard.rt(), &path, &mark).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Takes in the metadata of a Kafka, as a whole or not at all.
    async fn take_in(&self, records: &[MetadataRecord]) -> Result<(), String> {
        let now_ms = self.shard.rt().now().wall_ms;
        let refused = match journal::encode(records, now_ms).len() <= METADATA_LOG.segment_bytes as usize {
            true => self.write(records, now_ms).await.err().map(|NoRoom(what)| what),
            false => Some("it is larger than a segment of our metadata log".to_owned()),
        };
        let Some(reason) = refused else { return Ok(()) };
        Err(format!(
            "the metadata of Kafka cannot be stored: {reason}. Nothing of Kafka's was changed, it can start here again; \
             an empty {METADATA}-0 was made, and a list of the log directories in each of them"
        ))
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
        let (rt, owed) = (self.shard.rt(), self.places.borrow().unstored());
        if let Some(lists) = owed {
            lists.write(rt).await?;
            self.places.borrow_mut().set_stored();
        }
        let checkpoints = self.places.borrow_mut().checkpoints(positions, &self.image.borrow());
        for checkpoint in checkpoints {
            checkpoint.write(rt).await?;
        }
        self.stale.set(false);
        Ok(())
    }
}

fn no_producers() -> Vec<u8> {
    producer_snapshot::encode(std::iter::empty())
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
        dirs: &mut LogDirs,
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

/// Folds the whole log into an image; also the topics that were deleted. Nothing is ever taken out of it:
/// a record that is missing is an error, as topics would be.
async fn replay<R: Rt>(log: &Log<R>, mut image: Image) -> Result<(Image, HashSet<TopicId>), String> {
    let mut removed = HashSet::new();
    let (mut offset, end) = (0, log.end_offset());
    let missing = |from: Offset, to: Offset| format!("its records from offset {from} up to {to} are missing: a segment has gone");
    if log.start_offset() > 0 {
        return Err(missing(0, log.start_offset()));
    }
    while offset < end {
        let batches = match log.read(offset, READ_BYTES, end, true) {
            Read::Hit(batches) => batches,
            Read::Miss(plan) => log.read_cold(plan).await.map_err(|e| e.to_string())?,
        };
        let before = offset;
        for bytes in &batches {
            for (at, record) in journal::decode(bytes)? {
                if at > offset {
                    return Err(missing(offset, at));
                }
                if at == offset {
                    image.apply(at, &record);
                    if let MetadataRecord::RemoveTopic { id } = record {
                        removed.insert(Uuid(id));
                    }
                    offset = at.saturating_add(1);
                }
            }
        }
        if offset == before {
            return Err(format!("no record at offset {offset}, although the log ends at {end}"));
        }
    }
    Ok((image, removed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::cache::Cache;
    use crate::log::{LogConfig, Opening};
    use crate::sim::Sim;

    /// A start without them would set the directories of topics aside, as nobody's.
    #[test]
    fn a_segment_of_the_metadata_log_that_has_gone_is_missed() {
        let config = LogConfig { segment_bytes: 4096, ..METADATA_LOG };
        for gone in [0, 1] {
            let sim = Sim::new(1, 1);
            let (rt, dir) = (sim.rt(0), Path::new("/data"));
            sim.run_until(async {
                let cache = Cache::new(rt.memory());
                let log = Log::create(&rt, &cache, dir, Uuid([7; 16]), config).await.unwrap();
                for n in 0..100 {
                    let record = MetadataRecord::Topic {
                        id: [n; 16],
                        name: format!("t{n}"),
                        leader_epochs: vec![0],
                        configs: vec![("retention.ms".into(), "1000".into())],
                        created_ms: 0,
                    };
                    log.append(&journal::encode(&[record], 0), n.into(), 0, None).unwrap();
                }
                log.close(no_producers()).await.unwrap();
                let opening = Opening { recovery_point: 100, clean: true, ..Opening::default() };
                let read = async || {
                    let log = Log::open(&rt, &cache, dir, config, opening, &mut NoReplay).await.unwrap();
                    replay(&log, Image::new(BrokerSettings::default())).await.map(|(image, _)| image.topics().len())
                };
                assert_eq!(read().await, Ok(100));
                let segments: Vec<_> = rt.list(dir).unwrap().into_iter().filter(|entry| entry.name.ends_with(".log")).collect();
                assert!(segments.len() > 2, "{segments:?}");
                rt.remove_file(&dir.join(&segments[gone].name)).unwrap();
                assert!(read().await.unwrap_err().contains("are missing"), "segment {gone}");
            });
        }
    }
}
