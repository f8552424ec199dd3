//! The controller shard: one change of the metadata at a time, committed to its own log, then acted on by every core.
//!
//! Lives on core 0. The log is a partition log like any other, in `__corelane_metadata-0` of the first log directory; each record is a
//! `MetadataRecord`. A change is answered when its records are on the device and every core has opened or dropped the replicas concerned,
//! so a topic is usable when its creation is answered (`changes.rs`). A failed write is fatal: a broker without its metadata serves nobody.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::changes::{Asker, NoRoom};
use super::message::{Change, Position};
use super::{MetadataRecord, Shard, takeover};
use crate::base::ids::{BrokerId, Offset, TopicId, Uuid};
use crate::cluster::image::Image;
use crate::cluster::journal;
use crate::cluster::kraft::Taken;
use crate::cluster::queue::Queue;
use crate::cluster::settings::{BrokerSettings, Configs};
use crate::log::checkpoint::{self, Offsets};
use crate::log::dir::PartitionDir;
use crate::log::{self, Log, LogConfig, LogError, NoReplay, Opening, Read, dir};
use crate::partition::op::Key;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};
use crate::wire::producer_snapshot;

// For whoever starts the process: before anything else is opened.
pub use crate::log::dir::lock;

/// Topic name of the metadata log; it has one partition.
pub(super) const METADATA: &str = "__corelane_metadata";
const METADATA_ID: Uuid = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// No segment begins for its age: the room that is kept for deletions is in the last one.
const METADATA_LOG: LogConfig = LogConfig { segment_bytes: 64 << 20, segment_ms: i64::MAX, ..LogConfig::DEFAULT };
const READ_BYTES: usize = 1 << 20;
/// Broker epoch of a clean marker that is put back.
const UNKNOWN_EPOCH: i64 = -1;

/// What one entry of log.dirs was found to hold.
#[derive(Clone, Debug)]
pub struct LogDir {
    pub(super) path: PathBuf,
    pub(super) clean: bool,
    recovery_points: Offsets,
    log_starts: Offsets,
    cleaned: Offsets,
    pub(super) partitions: Vec<PartitionDir>,
}

impl LogDir {
    /// Looks at a log directory. The clean marker is taken from it: if this process does not stop cleanly, the next will know.
    async fn read<R: Rt>(rt: &R, path: &Path) -> Result<LogDir, LogError> {
        Ok(LogDir {
            path: path.into(),
            clean: dir::take_clean(rt, path).await?,
            recovery_points: checkpoint::read(rt, path, checkpoint::RECOVERY_POINTS)?,
            log_starts: checkpoint::read(rt, path, checkpoint::LOG_STARTS)?,
            cleaned: checkpoint::read(rt, path, checkpoint::CLEANED)?,
            partitions: dir::partitions(rt, path)?,
        })
    }

    /// What is known of a partition here. A clean stop counts for it only if its log was among those closed.
    fn opening(&self, partition: &(String, i32)) -> Opening {
        let recovery_point = self.recovery_points.get(partition).copied();
        Opening {
            recovery_point: recovery_point.unwrap_or(0),
            clean: self.clean && recovery_point.is_some(),
            log_start: self.log_starts.get(partition).copied().unwrap_or(0),
            cleaned: self.cleaned.get(partition).copied().unwrap_or(0),
        }
    }
}

/// Looks at every entry of log.dirs. All must belong to this broker and to one cluster: to `cluster_id` if that is configured, else to that
/// of the first directory, which is made up if it is new. Returns the cluster's id and what was found.
pub async fn open_dirs<R: Rt>(
    rt: &R,
    paths: &[PathBuf],
    mut cluster_id: Option<String>,
    node_id: BrokerId,
) -> Result<(String, Vec<LogDir>), LogError> {
    let mut dirs = Vec::with_capacity(paths.len());
    for path in paths {
        cluster_id = Some(dir::identify(rt, path, cluster_id.as_deref(), node_id).await?.cluster_id);
        dirs.push(LogDir::read(rt, path).await?);
    }
    Ok((cluster_id.unwrap_or_default(), dirs))
}

/// Where every partition's directory is.
pub(super) struct Places {
    dirs: Vec<LogDir>,
    /// Index into `dirs` by topic name and partition.
    of: BTreeMap<(String, i32), usize>,
    counts: Vec<usize>,
}

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
    /// A checkpoint is being written. Two at a time would take each other's files away.
    writing: Cell<bool>,
    pub(super) closed: Cell<bool>,
}

impl<R: Rt> Control<R> {
    /// Opens the metadata log, replays it, and has every core open its replicas. Where there is none yet, but that of a Kafka, its metadata
    /// is taken over. `given` are the settings that this broker, `node`, was started with.
    pub async fn start(shard: Shard<R>, node: BrokerId, given: Arc<Configs>, mut dirs: Vec<LogDir>) -> Result<Rc<Control<R>>, String> {
        let rt = shard.rt();
        let path = dir::partition_dir(&dirs[0].path, METADATA, 0);
        let failed = |e: &dyn std::fmt::Display| format!("metadata log {}: {e}", path.display());
        let elsewhere = given.get("metadata.log.dir").map(PathBuf::from);
        let mut opened = None;
        if log::exists(rt, &path).map_err(|e| failed(&e))? {
            let opening = dirs[0].opening(&(METADATA.to_owned(), 0));
            let log = Log::open(rt, shard.cache(), &path, METADATA_LOG, opening, &mut NoReplay).await;
            opened = Some(log.map_err(|e| failed(&e))?);
        }
        // An empty one is of a start that was cut short before it had taken over anything.
        let fresh = opened.as_ref().is_none_or(|log| log.end_offset() == 0);
        let taken = if fresh { take_over(rt, &dirs, elsewhere.as_deref(), node).await? } else { None };
        let log = match opened {
            Some(log) => log,
            None => Log::create(rt, shard.cache(), &path, METADATA_ID, METADATA_LOG).await.map_err(|e| failed(&e))?,
        };
        let (image, removed) = replay(&log, Image::new(BrokerSettings::new(node, given))).await.map_err(|e| failed(&e))?;
        let control = Rc::new(Control {
            image: RefCell::new(image),
            places: RefCell::new(Places::new(Vec::new())),
            queue: RefCell::default(),
            queued: Notify::default(),
            deciding: Cell::default(),
            expiry: Notify::default(),
            owed: RefCell::default(),
            full: Cell::default(),
            busy: Cell::default(),
            writing: Cell::new(false),
            closed: Cell::new(false),
            log,
            shard: shard.clone(),
        });
        control.reserve().await;
        if let Some((path, taken)) = taken {
            control.take_in(&taken.records, &dirs).await?;
            takeover::report(&path, &taken, &control.image.borrow());
        }
        let image = control.image.borrow().clone();
        takeover::clear_strays(rt, &mut dirs, &image, &removed).await.map_err(|e| e.to_string())?;
        *control.places.borrow_mut() = Places::new(dirs);
        // What the logs have lost may be written anew at the same offsets: a new leader epoch tells clients which is which.
        let unclean = control.places.borrow().new_epochs(&image);
        if !unclean.is_empty() {
            control.write_or_owe(unclean).await;
        }
        shard.set_control(control.clone());
        let everything = partitions(&control.image.borrow());
        control.publish(everything).await;
        let running = control.clone();
        shard.rt().spawn(Class::Foreground, async move { running.run().await });
        Ok(control)
    }

    /// Writes the checkpoints every now and then, so that a start after a crash has little to look at.
    pub async fn checkpoint_every(&self, interval: Duration) {
        loop {
            self.shard.rt().sleep(interval.max(Duration::from_secs(1))).await;
            let mut positions = Vec::new();
            for core in 0..self.shard.rt().cores() {
                positions.extend(self.shard.checkpoint_core(core).await);
            }
            positions.push(self.position());
            if self.closed.get() {
                return;
            }
            self.writing.set(true);
            if let Err(e) = self.write_checkpoints(&positions).await {
                tracing::warn!("{e}");
            }
            self.writing.set(false);
            // What the log has allocated ahead is not given back: it is the room for deletions.
        }
    }

    /// Closes the metadata log, and marks the stop as clean. `positions` are those of the logs that were closed.
    pub async fn close(&self, mut positions: Vec<Position>) -> Result<(), String> {
        self.closed.set(true);
        while self.writing.get() || self.busy.get() {
            self.shard.rt().sleep(Duration::from_millis(1)).await;
        }
        let no_producers = producer_snapshot::encode(std::iter::empty());
        self.log.close(no_producers).await.map_err(|e| format!("metadata log: {e}"))?;
        positions.push(self.position());
        self.write_checkpoints(&positions).await.map_err(|e| e.to_string())?;
        if self.owes() {
            tracing::warn!("the stop is not marked as clean: the leader epochs have not grown since the last one that was not");
            return Ok(());
        }
        let dirs: Vec<PathBuf> = self.places.borrow().dirs.iter().map(|d| d.path.clone()).collect();
        let offset = self.image.borrow().offset();
        for path in dirs {
            dir::mark_clean(self.shard.rt(), &path, offset).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Takes in the metadata of a Kafka, as a whole or not at all.
    async fn take_in(&self, records: &[MetadataRecord], dirs: &[LogDir]) -> Result<(), String> {
        let now_ms = self.shard.rt().now().wall_ms;
        let refused = match journal::encode(records, now_ms).len() <= METADATA_LOG.segment_bytes as usize {
            true => self.write(records, now_ms).await.err().map(|NoRoom(what)| what),
            false => Some("it is larger than a segment of our metadata log".to_owned()),
        };
        let Some(reason) = refused else { return Ok(()) };
        mark_again(self.shard.rt(), dirs).await.map_err(|e| format!("{reason}; {e}"))?;
        Err(format!("the metadata of Kafka cannot be stored: {reason}. Nothing was changed"))
    }

    fn position(&self) -> Position {
        let log_dir = self.places.borrow().dirs[0].path.clone();
        let high_watermark = self.log.written_offset();
        Position {
            log_dir,
            partition: (METADATA.into(), 0),
            recovery_point: self.log.flushed_offset(),
            high_watermark,
            log_start: 0,
            cleaned: 0,
        }
    }

    async fn write_checkpoints(&self, positions: &[Position]) -> Result<(), LogError> {
        let dirs: Vec<PathBuf> = self.places.borrow().dirs.iter().map(|d| d.path.clone()).collect();
        for path in dirs {
            let here = || positions.iter().filter(|p| p.log_dir == path);
            let column = |of: fn(&Position) -> Offset| here().map(|p| (p.partition.clone(), of(p))).collect::<Offsets>();
            let rt = self.shard.rt();
            let log_starts: Offsets = here().filter(|p| p.log_start > 0).map(|p| (p.partition.clone(), p.log_start)).collect();
            checkpoint::write(rt, &path, checkpoint::RECOVERY_POINTS, &column(|p| p.recovery_point)).await?;
            checkpoint::write(rt, &path, checkpoint::HIGH_WATERMARKS, &column(|p| p.high_watermark)).await?;
            checkpoint::write(rt, &path, checkpoint::LOG_STARTS, &log_starts).await?;
            let cleaned: Offsets = here().filter(|p| p.cleaned > 0).map(|p| (p.partition.clone(), p.cleaned)).collect();
            checkpoint::write(rt, &path, checkpoint::CLEANED, &cleaned).await?;
        }
        Ok(())
    }
}

impl Places {
    fn new(dirs: Vec<LogDir>) -> Places {
        let counts = dirs.iter().map(|d| d.partitions.len()).collect();
        let of = dirs.iter().enumerate().flat_map(|(i, d)| d.partitions.iter().map(move |p| ((p.topic.clone(), p.partition), i))).collect();
        Places { dirs, of, counts }
    }

    /// Where a partition is, or is to be: a new one goes to the directory with the fewest.
    pub(super) fn place(&mut self, partition: &(String, i32)) -> (PathBuf, Opening) {
        let counts = &mut self.counts;
        let index = *self.of.entry(partition.clone()).or_insert_with(|| {
            let fewest = (0..counts.len()).min_by_key(|i| counts[*i]).unwrap_or(0);
            counts[fewest] += 1;
            fewest
        });
        let dir = &self.dirs[index];
        (dir::partition_dir(&dir.path, &partition.0, partition.1), dir.opening(partition))
    }

    /// New leader epochs for the partitions whose log was not closed, or is missing.
    fn new_epochs(&self, image: &Image) -> Vec<MetadataRecord> {
        let closed = |name: &str, partition: i32| {
            let key = (name.to_owned(), partition);
            self.of.get(&key).is_some_and(|at| self.dirs[*at].opening(&key).clean)
        };
        let mut records = Vec::new();
        let mut all = true;
        for topic in image.topics() {
            let count = topic.partitions.len() as i32;
            let partitions: Vec<i32> = (0..count).filter(|partition| !closed(&topic.name, *partition)).collect();
            all &= partitions.len() == topic.partitions.len();
            if !partitions.is_empty() {
                records.push(MetadataRecord::NewLeaderEpochsOf { id: topic.id.0, partitions });
            }
        }
        if all && !records.is_empty() { vec![MetadataRecord::NewLeaderEpochs] } else { records }
    }

    pub(super) fn forget_all_but(&mut self, image: &Image) {
        let (counts, dirs) = (&mut self.counts, &mut self.dirs);
        self.of.retain(|partition, index| {
            let keep = partition.0 == METADATA || image.topic(&partition.0).is_some_and(|t| t.partition(partition.1).is_some());
            if !keep {
                counts[*index] = counts[*index].saturating_sub(1);
                dirs[*index].recovery_points.remove(partition);
                dirs[*index].log_starts.remove(partition);
                dirs[*index].cleaned.remove(partition);
            }
            keep
        });
    }
}

pub(super) fn partitions(image: &Image) -> Vec<Key> {
    image.topics().flat_map(|topic| (0..topic.partitions.len() as i32).map(|partition| (topic.id, partition))).collect()
}

/// See [`takeover::read_kafka`]. When it fails the next start, Kafka's perhaps, finds what this one has found.
async fn take_over<R: Rt>(rt: &R, dirs: &[LogDir], elsewhere: Option<&Path>, node: BrokerId) -> Result<Option<(PathBuf, Taken)>, String> {
    let taken = takeover::read_kafka(rt, dirs, elsewhere, node);
    if let Err(reason) = &taken {
        mark_again(rt, dirs).await.map_err(|e| format!("{reason}; {e}"))?;
    }
    taken
}

/// Puts the clean markers back that this start has taken.
async fn mark_again<R: Rt>(rt: &R, dirs: &[LogDir]) -> Result<(), LogError> {
    for dir in dirs.iter().filter(|dir| dir.clean) {
        dir::mark_clean(rt, &dir.path, UNKNOWN_EPOCH).await?;
    }
    Ok(())
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
