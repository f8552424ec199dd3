//! The log directories: what a start finds in each, where every partition is, and their checkpoints.
//!
//! Partitions are known by topic id, directories by directory id. Names say nothing: a topic may have
//! been deleted and created again, and a path may lead to another disk than before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::message::Position;
use super::op::Key;
use crate::base::ids::{BrokerId, Offset, Uuid};
use crate::cluster::image::Image;
use crate::cluster::names::METADATA;
use crate::cluster::record::MetadataRecord;
use crate::log::checkpoint::{self, Entries, Offsets};
use crate::log::dir::{self, CleanMark, PartitionDir};
use crate::log::known_dirs::{self, KnownDirs, StoredDirs};
use crate::log::{self, LogError, Opening};
use crate::rt::Rt;

// For the start of the process: before anything else is opened.
pub use crate::log::dir::lock_all;

/// Topic id of the metadata log.
pub(super) const METADATA_ID: Uuid = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// The metadata log among the partitions.
pub(super) const METADATA_KEY: Key = (METADATA_ID, 0);
/// Partitions named in one line of the log.
const NAMED: usize = 50;

/// A partition's directory, and what the last process left behind about its log.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub dir: PartitionDir,
    pub opening: Opening,
}

/// An entry of log.dirs.
#[derive(Debug)]
pub(super) struct LogDir {
    pub path: PathBuf,
    pub id: Uuid,
    /// It was closed, by the same stop as the directory of the metadata log.
    pub clean: bool,
    /// The mark of the stop that closed it.
    mark: Option<CleanMark>,
    /// The metadata log, if it is here.
    pub metadata: Option<Found>,
    pub partitions: Vec<Found>,
    /// Copies that moves between directories had begun.
    pub futures: Vec<PathBuf>,
    /// Entries of the checkpoint without a directory that tells their topic's id.
    vanished: Entries,
    /// The checkpoint is Kafka's, or of a version before our own.
    named: bool,
    /// Partitions, by the checkpoint, whose directories tell the id of no topic.
    pub mistaken: Vec<Key>,
    /// All partitions that the checkpoint names; `None` where there is none of our own.
    own: Option<BTreeSet<Key>>,
    /// Directories that tell no id, of partitions that are elsewhere: of earlier topics of these names.
    pub leftovers: Vec<PathBuf>,
}

/// All entries of log.dirs.
#[derive(Debug)]
pub struct LogDirs {
    pub(super) cluster_id: String,
    pub(super) dirs: Vec<LogDir>,
    known: KnownDirs,
    /// `known` is what all directories have stored.
    stored: bool,
    /// Known directories whose content is not there.
    absent: BTreeMap<Uuid, Absent>,
    /// The lists of log directories that are there, where all of them are damaged.
    damaged: Vec<PathBuf>,
}

/// A log directory whose content is not there.
#[derive(Clone, Debug)]
struct Absent {
    /// Where it was last seen.
    path: String,
    /// It is in log.dirs, but all that it has is its id.
    emptied: bool,
}

/// For people: what is missing.
fn what_is_absent(id: &Uuid, Absent { path, emptied }: &Absent) -> String {
    match emptied {
        true => format!("the log directory {id} at {path} has lost its content (it has no {})", known_dirs::NAME),
        false => format!("the log directory {id}, last seen at {path}, is not in log.dirs"),
    }
}

/// The list of log directories, and those that are to have it.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    known: KnownDirs,
    dirs: Vec<(Uuid, PathBuf)>,
}

impl Lists {
    fn new(known: &KnownDirs, dirs: &[LogDir]) -> Lists {
        Lists { known: known.clone(), dirs: dirs.iter().map(|dir| (dir.id, dir.path.clone())).collect() }
    }

    /// Stores the list in all of the directories. Those that have none first get one of themselves
    /// alone, older than all others: whenever this process is killed, a directory that a list names
    /// has a list. One without has lost its content.
    pub(super) async fn write<R: Rt>(&self, rt: &R) -> Result<(), LogError> {
        for (id, path) in &self.dirs {
            if KnownDirs::read(rt, path)? == StoredDirs::Missing {
                let paths = BTreeMap::from([(*id, path.display().to_string())]);
                KnownDirs { paths, ..KnownDirs::default() }.write(rt, path).await?;
            }
        }
        for (_, path) in &self.dirs {
            self.known.write(rt, path).await?;
        }
        Ok(())
    }
}

impl LogDir {
    /// Looks at a log directory. The clean marker stays, see [`Markers`].
    fn read<R: Rt>(rt: &R, path: &Path, id: Uuid) -> Result<LogDir, LogError> {
        let content = dir::list(rt, path)?;
        let own = checkpoint::read_own(rt, path)?;
        let keys = own.as_ref().map(|entries| entries.keys().copied().collect());
        let mark = dir::clean_mark(rt, path)?;
        let clean = mark.is_some();
        let is_metadata =
            |dir: &PartitionDir| dir.topic == METADATA && dir.partition == 0 && (dir.topic_id.is_zero() || dir.topic_id == METADATA_ID);
        let (mut partitions, mut vanished, mut named) = (Vec::new(), Entries::new(), false);
        match own {
            Some(mut entries) => {
                for dir in content.partitions {
                    let key = if is_metadata(&dir) { METADATA_KEY } else { (dir.topic_id, dir.partition) };
                    let entry = entries.remove(&key).unwrap_or_default();
                    partitions.push(Found { dir, opening: Opening { clean: clean && entry.clean, ..entry } });
                }
                // A power failure may take the directory of a log that never held a batch.
                entries.retain(|_, entry| Opening { clean: false, ..*entry } != Opening::default());
                // A process that was killed may have opened them.
                entries.values_mut().for_each(|entry| entry.clean &= clean);
                vanished = entries;
            }
            None => {
                let [recovery_points, log_starts, cleaned] =
                    [checkpoint::RECOVERY_POINTS, checkpoint::LOG_STARTS, checkpoint::CLEANED].map(|name| checkpoint::read(rt, path, name));
                let (recovery_points, log_starts, cleaned) = (recovery_points?, log_starts?, cleaned?);
                named = [&recovery_points, &log_starts, &cleaned].iter().any(|offsets| !offsets.is_empty());
                for dir in content.partitions {
                    let name = (dir.topic.clone(), dir.partition);
                    let of = |offsets: &Offsets| offsets.get(&name).copied().unwrap_or(0);
                    let opening = Opening {
                        recovery_point: of(&recovery_points),
                        // A clean stop counts for a log that was among those closed.
                        clean: clean && recovery_points.contains_key(&name),
                        log_start: of(&log_starts),
                        cleaned: of(&cleaned),
                    };
                    partitions.push(Found { dir, opening });
                }
            }
        }
        let metadata = partitions.iter().position(|found| is_metadata(&found.dir)).map(|at| partitions.remove(at));
        let (path, futures) = (path.into(), content.futures);
        Ok(LogDir {
            path,
            id,
            clean,
            mark,
            metadata,
            partitions,
            futures,
            vanished,
            named,
            mistaken: Vec::new(),
            own: keys,
            leftovers: Vec::new(),
        })
    }

    /// Parts with the directories that are not the partitions of `told` that their names claim: they
    /// tell no id, and the checkpoint does not name these partitions.
    fn part_with_leftovers(&mut self, told: &BTreeSet<Key>, image: &Image) {
        let Some(own) = &self.own else { return };
        let is_leftover = |dir: &PartitionDir| {
            let key = claimed(dir, image).filter(|_| dir.topic_id.is_zero());
            key.is_some_and(|key| told.contains(&key) && !own.contains(&key))
        };
        let gone = self.partitions.extract_if(.., |found| is_leftover(&found.dir));
        self.leftovers.extend(gone.map(|found| found.dir.path));
    }

    /// Counts as one that was not closed.
    fn distrust(&mut self) {
        self.clean = false;
        let found = self.partitions.iter_mut().chain(&mut self.metadata).map(|found| &mut found.opening);
        found.chain(self.vanished.values_mut()).for_each(|opening| opening.clean = false);
    }

    /// The partition of `image` that the directory of one, which tells the id of no topic, is by its
    /// name and by the checkpoint: that names the partition, and there is no directory for it. So is one
    /// whose id differs in a single character.
    pub(super) fn is_mistaken(&self, dir: &PartitionDir, image: &Image) -> Option<Key> {
        let key = (image.topic(&dir.topic)?.id, dir.partition);
        let known = self.vanished.contains_key(&key) || differ_in_one_character(dir.topic_id, key.0);
        (image.topic_by_id(dir.topic_id).is_none() && known).then_some(key)
    }
}

/// No two topics have such ids: one of them is damaged.
fn differ_in_one_character(one: Uuid, other: Uuid) -> bool {
    let (one, other) = (one.to_string(), other.to_string());
    one.len() == other.len() && one.bytes().zip(other.bytes()).filter(|(a, b)| a != b).count() == 1
}

/// Looks at every entry of log.dirs. All must belong to this broker and to one cluster: to
/// `cluster_id` if that is configured, else to that of the first directory which has one. `lost` is
/// `corelane.lost.log.dirs`. Returns the cluster's id and what was found. The error is for people.
pub async fn open_dirs<R: Rt>(
    rt: &R,
    paths: &[PathBuf],
    cluster_id: Option<String>,
    node_id: BrokerId,
    lost: Option<&str>,
) -> Result<(String, LogDirs), String> {
    let lost = parse_lost(lost.unwrap_or_default())?;
    let text = |e: LogError| e.to_string();
    let identities = dir::identify(rt, paths, cluster_id, node_id).await.map_err(text)?;
    let cluster_id = identities.first().map(|meta| meta.cluster_id.clone()).unwrap_or_default();
    let mut dirs = Vec::with_capacity(paths.len());
    for (path, meta) in paths.iter().zip(identities) {
        let stored = KnownDirs::read(rt, path).map_err(text)?;
        dirs.push((LogDir::read(rt, path, meta.directory_id).map_err(text)?, stored));
    }
    Ok((cluster_id.clone(), LogDirs::new(cluster_id, dirs, &lost)))
}

fn parse_lost(text: &str) -> Result<BTreeSet<Uuid>, String> {
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
    ids.map(|id| id.parse().map_err(|_| format!("corelane.lost.log.dirs: {id} is no directory.id"))).collect()
}

impl LogDirs {
    /// What was found in each directory, and what it says of all.
    fn new(cluster_id: String, found: Vec<(LogDir, StoredDirs)>, lost: &BTreeSet<Uuid>) -> LogDirs {
        let whole = |(_, stored): &(LogDir, StoredDirs)| match stored {
            StoredDirs::Whole(known) => Some(known.clone()),
            _ => None,
        };
        let newest = found.iter().filter_map(whole).max_by_key(|known| known.revision);
        let mut damaged: Vec<PathBuf> = Vec::new();
        for (_, stored) in &found {
            if let StoredDirs::Damaged(path) = stored {
                tracing::warn!("{}: damaged: it is no list of log directories", path.display());
                damaged.push(path.clone());
            }
        }
        if newest.is_some() {
            damaged.clear();
        }
        let newest = newest.unwrap_or_default();
        let mut known = newest.clone();
        known.paths.retain(|id, _| !lost.contains(id));
        known.metadata = known.metadata.filter(|id| !lost.contains(id));
        // `Lists::write` leaves none without a list that another names.
        let emptied = |dir: &LogDir, stored| stored == StoredDirs::Missing && known.paths.contains_key(&dir.id);
        let mut stored_by_all = true;
        let (mut dirs, mut gone) = (Vec::with_capacity(found.len()), BTreeMap::new());
        for (dir, stored) in found {
            stored_by_all &= stored == StoredDirs::Whole(newest.clone());
            match emptied(&dir, stored) {
                true => drop(gone.insert(dir.id, Absent { path: dir.path.display().to_string(), emptied: true })),
                false => dirs.push(dir),
            }
        }
        for dir in &dirs {
            if lost.contains(&dir.id) {
                tracing::warn!("{}: is there, though corelane.lost.log.dirs names it", dir.path.display());
            }
            known.paths.insert(dir.id, dir.path.display().to_string());
        }
        let present: BTreeSet<Uuid> = dirs.iter().map(|dir| dir.id).collect();
        let absent = known.paths.iter().filter(|(id, _)| !present.contains(id));
        let mut absent: BTreeMap<Uuid, Absent> = absent.map(|(id, path)| (*id, Absent { path: path.clone(), emptied: false })).collect();
        absent.extend(gone);
        let stored = stored_by_all && known == newest;
        distrust_other_stops(&mut dirs);
        LogDirs { cluster_id, dirs, known, stored, absent, damaged }
    }

    /// True when every directory was left by a clean stop.
    pub(super) fn clean(&self) -> bool {
        self.dirs.iter().all(|dir| dir.clean)
    }

    /// Which directory holds the metadata log; `None` where there is none yet. `elsewhere` is
    /// `metadata.log.dir`. The error says where it is instead, or why it cannot be told.
    pub(super) fn metadata<R: Rt>(&self, rt: &R, elsewhere: Option<&Path>) -> Result<Option<usize>, String> {
        if let Some((id, absent)) = self.known.metadata.and_then(|id| self.absent.get_key_value(&id)) {
            let what = what_is_absent(id, absent);
            if let Some(dir) = self.dirs.iter().find(|dir| dir.metadata.is_some()) {
                let path = dir.path.display();
                return Err(format!(
                    "{path} has the metadata log, which belongs to the log directory with directory.id {id}, but its \
                     meta.properties tells {}: put directory.id={id} there if that was damaged or removed",
                    dir.id
                ));
            }
            return Err(format!("the metadata log is missing, as {what}: put that directory back with all that it held"));
        }
        let foreign = self.dirs.iter().flat_map(|dir| &dir.partitions);
        let foreign = foreign.map(|found| &found.dir).find(|dir| dir.topic == METADATA && dir.partition == 0);
        if let Some(dir) = foreign {
            let (path, id) = (dir.path.display(), dir.topic_id);
            if self.dirs.iter().any(|dir| dir.vanished.contains_key(&METADATA_KEY)) {
                return Err(format!(
                    "{path} is the metadata log by its name, but of the topic {id} by its partition.metadata: put the \
                     topic_id {METADATA_ID} there if that was damaged"
                ));
            }
            return Err(format!("{path} is no metadata log but a partition of the topic {id}: move it away"));
        }
        let mut found = self.dirs.iter().enumerate().filter_map(|(at, dir)| Some((at, &dir.metadata.as_ref()?.dir.path)));
        let (first, second) = (found.next(), found.next());
        if let (Some((_, first)), Some((_, second))) = (first, second) {
            return Err(two_copies("metadata log", first, second));
        }
        if let Some(path) = self.metadata_elsewhere(rt, elsewhere)? {
            return Err(match first {
                Some((_, first)) => two_copies("metadata log", first, &path),
                None => format!("{} is Corelane's metadata log, but its directory is not in log.dirs: add it", path.display()),
            });
        }
        let gone = self.dirs.iter().find(|dir| first.is_none() && dir.vanished.contains_key(&METADATA_KEY));
        match gone {
            Some(dir) => Err(format!("the metadata log {METADATA}-0 is missing from {}", dir.path.display())),
            None if first.is_none() && !self.damaged.is_empty() => Err(format!(
                "the metadata log {METADATA}-0 is nowhere in log.dirs, and what says where it was is damaged: add the log \
                 directory that has it, or remove {} to begin anew",
                listed(&self.damaged)
            )),
            None => Ok(first.map(|(at, _)| at)),
        }
    }

    /// The metadata log in `metadata.log.dir`, where that is none of these directories.
    fn metadata_elsewhere<R: Rt>(&self, rt: &R, elsewhere: Option<&Path>) -> Result<Option<PathBuf>, String> {
        let Some(elsewhere) = elsewhere else { return Ok(None) };
        let path = dir::partition_dir(elsewhere, METADATA, 0);
        if !log::exists(rt, &path).map_err(|e| e.to_string())? {
            return Ok(None);
        }
        let id = dir::directory_id(rt, elsewhere).map_err(|e| e.to_string())?;
        Ok((!self.dirs.iter().any(|dir| Some(dir.id) == id)).then_some(path))
    }

    /// The clean markers that were found.
    pub(super) fn markers(&self) -> Markers {
        Markers(self.dirs.iter().filter_map(|dir| Some((dir.path.clone(), dir.mark.clone()?))).collect())
    }

    /// Has every directory know all directories, and which of them holds the metadata log. Damaged
    /// lists stay until nothing is missing that they may have named.
    pub(super) async fn store_known<R: Rt>(&mut self, rt: &R, metadata: usize) -> Result<(), LogError> {
        let metadata = Some(self.dirs[metadata].id);
        if self.stored && self.known.metadata == metadata {
            return Ok(());
        }
        self.stored = false;
        self.known.metadata = metadata;
        self.known.revision += 1;
        if !self.damaged.is_empty() {
            return Ok(());
        }
        Lists::new(&self.known, &self.dirs).write(rt).await?;
        self.stored = true;
        Ok(())
    }

    /// Refuses two directories that hold the same partition of a topic of `image`: nobody can tell
    /// which one has what was acknowledged. One whose `partition.metadata` is damaged may be what is
    /// left of an earlier topic of that name, which is told by the checkpoint.
    pub(super) fn refuse_copies(&mut self, image: &Image) -> Result<(), String> {
        let all = self.dirs.iter().flat_map(|dir| &dir.partitions).map(|found| &found.dir);
        let told = all.filter(|dir| !dir.topic_id.is_zero());
        let told: BTreeSet<Key> = told.filter_map(|dir| claimed(dir, image)).collect();
        self.dirs.iter_mut().for_each(|dir| dir.part_with_leftovers(&told, image));
        let mut seen: BTreeMap<Key, &Path> = BTreeMap::new();
        for found in self.dirs.iter().flat_map(|dir| &dir.partitions) {
            let Some(key) = claimed(&found.dir, image) else { continue };
            if let Some(other) = seen.insert(key, &found.dir.path) {
                return Err(two_copies("partition", other, &found.dir.path));
            }
        }
        Ok(())
    }
}

/// A directory that the last stop of the metadata log has not closed was absent then, or is a copy
/// from before: its partitions may have got other records since, at the offsets where they end here.
fn distrust_other_stops(dirs: &mut [LogDir]) {
    let home = dirs.iter().find(|dir| dir.metadata.is_some());
    // Before there is a metadata log of ours, it is Kafka that was stopped.
    let mark = home.map_or(Some(CleanMark::new(0, None)), |home| home.mark.clone());
    for dir in dirs.iter_mut().filter(|dir| dir.clean) {
        if dir.mark.as_ref().map(CleanMark::stop) != mark.as_ref().map(CleanMark::stop) {
            tracing::warn!(
                "{}: was not closed by the last stop of the metadata log: its logs are checked and get new leader epochs",
                dir.path.display()
            );
            dir.distrust();
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Log directories with a clean marker, and those as they were found.
pub(super) struct Markers(Vec<(PathBuf, CleanMark)>);

impl Markers {
    /// Takes the markers, before any log changes: if this process does not stop cleanly, the next will
    /// know. If one cannot be taken, all stay.
    pub(super) async fn take<R: Rt>(&self, rt: &R) -> Result<(), String> {
        for (path, _) in &self.0 {
            if let Err(reason) = dir::take_clean(rt, path).await {
                let back = self.put_back(rt).await;
                return Err(back.err().map_or(reason.to_string(), |e| format!("{reason}; {e}")));
            }
        }
        Ok(())
    }

    /// Gives the markers back: all logs are closed as they were.
    pub(super) async fn put_back<R: Rt>(&self, rt: &R) -> Result<(), String> {
        let mut done = Ok(());
        for (path, mark) in &self.0 {
            done = done.and(dir::mark_clean(rt, path, mark).await.map_err(|e| e.to_string()));
        }
        done
    }
}

fn two_copies(of: &str, first: &Path, second: &Path) -> String {
    let (first, second) = (first.display(), second.display());
    format!("there are two copies of one {of}, {first} and {second}: move the one away that is not wanted")
}

/// The partition of a topic of `image` that a directory holds. One that does not tell its topic's id
/// goes by its name.
pub(super) fn claimed(dir: &PartitionDir, image: &Image) -> Option<Key> {
    let topic = image.topic(&dir.topic).filter(|topic| dir.topic_id.is_zero() || dir.topic_id == topic.id)?;
    topic.partition(dir.partition).map(|_| (topic.id, dir.partition))
}

/// Where one partition is.
#[derive(Clone, Copy, Debug)]
struct Place {
    dir: usize,
    /// What the last process left behind about its log.
    opening: Opening,
    /// As `opening`, of a directory that does not tell its topic's id: to be carried over, but the
    /// log is not opened by it.
    carried: Option<Opening>,
    /// How far the log is and its high watermark, as a core has told; `None` before it has.
    told: Option<(Opening, Offset)>,
    /// Its log may have been opened.
    tried: bool,
}

impl Place {
    fn new(dir: usize, opening: Opening) -> Place {
        Place { dir, opening, carried: None, told: None, tried: false }
    }

    /// What is known of a log that is not open.
    fn carried(&self) -> Opening {
        let known = self.carried.unwrap_or(self.opening);
        Opening { clean: known.clean && !self.tried, ..known }
    }
}

/// Where every partition's directory is.
#[derive(Default)]
pub(super) struct Places {
    dirs: Vec<LogDir>,
    of: BTreeMap<Key, Place>,
    /// Partitions without a directory that may have one in a log directory which is absent, and
    /// those whose directory may be another's.
    offline: BTreeSet<Key>,
    counts: Vec<usize>,
    /// Those that are there: new partitions go to no other.
    usable: Vec<bool>,
    /// The list of log directories, which not all of them have stored yet.
    unstored: Option<Lists>,
}

impl Places {
    /// Takes in what was found. The directories hold partitions of topics of `image` only;
    /// `metadata` is the one with the metadata log.
    pub(super) fn new(found: LogDirs, metadata: usize, image: &Image) -> Places {
        let LogDirs { dirs, absent, known, stored, damaged, .. } = found;
        let mut offline = BTreeSet::new();
        let mut of = BTreeMap::new();
        for (at, dir) in dirs.iter().enumerate() {
            for found in &dir.partitions {
                if let Some(key) = claimed(&found.dir, image) {
                    let carried = dir.vanished.get(&key).copied();
                    of.insert(key, Place { carried, ..Place::new(at, found.opening) });
                }
            }
            for key in &dir.mistaken {
                // What is known of it is kept: it tells at the next start too that there was one.
                let carried = dir.vanished.get(key).copied();
                of.insert(*key, Place { carried, ..Place::new(at, Opening::default()) });
                offline.insert(*key);
            }
        }
        let opening = dirs[metadata].metadata.as_ref().map(|found| found.opening).unwrap_or_default();
        of.insert(METADATA_KEY, Place::new(metadata, opening));
        let counts = (0..dirs.len()).map(|at| of.values().filter(|place| place.dir == at).count()).collect();
        let unstored = (!stored).then(|| Lists::new(&known, &dirs));
        let usable = vec![true; dirs.len()];
        let mut places = Places { dirs, of, offline, counts, usable, unstored };
        places.look_for_missing(&absent, &damaged, image);
        places
    }

    /// Partitions without a directory: offline while one of the log directories is absent, or may be
    /// as the lists of them are `damaged`.
    fn look_for_missing(&mut self, absent: &BTreeMap<Uuid, Absent>, damaged: &[PathBuf], image: &Image) {
        let missing: Vec<(Key, String)> = image
            .topics()
            .flat_map(|topic| (0..topic.partitions.len() as i32).map(move |p| ((topic.id, p), format!("{}-{p}", topic.name))))
            .filter(|(key, _)| !self.of.contains_key(key))
            .collect();
        let mut names = missing.iter().take(NAMED).map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
        if missing.len() > NAMED {
            names.push_str(" and others");
        }
        let count = missing.len();
        let ids: Vec<String> = absent.keys().map(Uuid::to_string).collect();
        for (id, absent) in absent {
            tracing::warn!("{}", what_is_absent(id, absent));
        }
        match (count, absent.is_empty()) {
            (0, _) => {}
            (_, true) if !damaged.is_empty() => {
                tracing::error!(
                    "{count} partitions have no directory in log.dirs and stay offline, as the list of log directories is \
                     damaged: {names}. Add what is missing; to have them begin anew, empty, remove {}",
                    listed(damaged)
                );
                self.offline.extend(missing.into_iter().map(|(key, _)| key));
                // A whole list would tell the next start that there is no other directory.
                self.unstored = None;
            }
            (_, true) => tracing::warn!("{count} partitions have no directory in log.dirs and begin anew, empty: {names}"),
            (_, false) => {
                tracing::warn!(
                    "{count} partitions have no directory in log.dirs and stay offline: {names}. To give up what lies in \
                     absent log directories, or has lain in empty ones, and have them begin anew, empty: \
                     corelane.lost.log.dirs={}",
                    ids.join(",")
                );
                self.offline.extend(missing.into_iter().map(|(key, _)| key));
            }
        }
    }

    /// True when checkpoints are to be written before a partition is made: some name partitions that
    /// are gone and would be made again, or partitions by topic name.
    pub(super) fn checkpoints_are_stale(&self, image: &Image) -> bool {
        let here = |key: &Key, at| self.of.get(key).is_some_and(|place| place.dir == at);
        let gone = |key: &Key, at| image.topic_by_id(key.0).is_some() && !here(key, at);
        self.dirs.iter().enumerate().any(|(at, dir)| dir.named || dir.vanished.keys().any(|key| gone(key, at)))
    }

    /// The log directory whose stale checkpoint would count for a partition that is to be made anew
    /// there, if there is one: one by name may be any.
    pub(super) fn made_from_stale(&self, image: &Image) -> Option<String> {
        let all = image.topics().flat_map(|topic| (0..topic.partitions.len() as i32).map(|p| (topic.id, p)));
        let anew: Vec<Key> = all.filter(|key| !self.of.contains_key(key) && !self.offline.contains(key)).collect();
        let stale = |dir: &&LogDir| anew.iter().any(|key| dir.named || dir.vanished.contains_key(key));
        self.dirs.iter().find(stale).map(|dir| dir.path.display().to_string())
    }

    /// The list of log directories, if it is still to be stored.
    pub(super) fn unstored(&self) -> Option<Lists> {
        self.unstored.clone()
    }

    /// The list of log directories is stored.
    pub(super) fn set_stored(&mut self) {
        self.unstored = None;
    }

    /// Looks which log directories are there, by what tells whose they are: a disk may have gone.
    pub(super) fn look_for_usable<R: Rt>(&mut self, rt: &R) {
        self.usable = self.dirs.iter().map(|dir| dir::is_there(rt, &dir.path)).collect();
    }

    /// Where a partition is, or is to be: a new one goes to the directory with the fewest. `None`: it
    /// may lie in a log directory that is absent.
    pub(super) fn place(&mut self, key: Key, topic: &str) -> Option<(PathBuf, Opening)> {
        if self.offline.contains(&key) {
            return None;
        }
        let (counts, usable) = (&mut self.counts, &self.usable);
        let place = self.of.entry(key).or_insert_with(|| {
            let dir = (0..counts.len()).min_by_key(|i| (!usable[*i], counts[*i])).unwrap_or(0);
            counts[dir] += 1;
            Place::new(dir, Opening::default())
        });
        place.tried = true;
        Some((dir::partition_dir(&self.dirs[place.dir].path, topic, key.1), place.opening))
    }

    /// New leader epochs for the partitions whose log was not closed, or is missing. Nothing is
    /// appended to those that stay offline.
    pub(super) fn new_epochs(&self, image: &Image) -> Vec<MetadataRecord> {
        let closed = |key: &Key| self.offline.contains(key) || self.of.get(key).is_some_and(|place| place.opening.clean);
        let mut records = Vec::new();
        let mut all = true;
        for topic in image.topics() {
            let count = topic.partitions.len() as i32;
            let partitions: Vec<i32> = (0..count).filter(|partition| !closed(&(topic.id, *partition))).collect();
            all &= partitions.len() == topic.partitions.len();
            if !partitions.is_empty() {
                records.push(MetadataRecord::NewLeaderEpochsOf { id: topic.id.0, partitions });
            }
        }
        if all && !records.is_empty() { vec![MetadataRecord::NewLeaderEpochs] } else { records }
    }

    /// Forgets the partitions of topics that are gone.
    pub(super) fn forget_all_but(&mut self, image: &Image) {
        let exists = |key: &Key| *key == METADATA_KEY || image.topic_by_id(key.0).is_some();
        let counts = &mut self.counts;
        self.of.retain(|key, place| {
            let keep = exists(key);
            if !keep {
                counts[place.dir] = counts[place.dir].saturating_sub(1);
            }
            keep
        });
        self.offline.retain(exists);
    }

    /// Paths of all log directories.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.path.clone()).collect()
    }

    /// The checkpoints to write, with `positions` as they are now. What is known of logs that are not
    /// open is carried over, but for how they were closed once an attempt to open them may have failed.
    pub(super) fn checkpoints(&mut self, positions: &[Position], image: &Image) -> Vec<Checkpoint> {
        for position in positions {
            if let Some(place) = self.of.get_mut(&position.key) {
                place.told = Some((position.opening, position.high_watermark));
            }
        }
        let mut all: Vec<Checkpoint> = self.dirs.iter().map(|dir| Checkpoint { path: dir.path.clone(), ..Checkpoint::default() }).collect();
        for (key, place) in &self.of {
            let topic = if *key == METADATA_KEY { Some(METADATA) } else { image.topic_by_id(key.0).map(|topic| &*topic.name) };
            let known = place.told.is_some() || place.carried() != Opening::default();
            if let Some(topic) = topic.filter(|_| known) {
                all[place.dir].add(*key, topic, place);
            }
        }
        all
    }
}

/// The checkpoints of one log directory: our own, and Kafka's for Kafka.
#[derive(Default)]
pub(super) struct Checkpoint {
    path: PathBuf,
    own: Entries,
    recovery_points: Offsets,
    high_watermarks: Offsets,
    log_starts: Offsets,
    cleaned: Offsets,
}

impl Checkpoint {
    fn add(&mut self, key: Key, topic: &str, place: &Place) {
        let carried = place.carried();
        let (opening, high_watermark) = place.told.unwrap_or((carried, carried.recovery_point));
        let Opening { recovery_point, log_start, cleaned, .. } = opening;
        let name = || (topic.to_owned(), key.1);
        self.own.insert(key, opening);
        self.recovery_points.insert(name(), recovery_point);
        self.high_watermarks.insert(name(), high_watermark);
        if log_start > 0 {
            self.log_starts.insert(name(), log_start);
        }
        if cleaned > 0 {
            self.cleaned.insert(name(), cleaned);
        }
    }

    /// Writes all of them, our own first: Kafka's are not read where that is.
    pub(super) async fn write<R: Rt>(&self, rt: &R) -> Result<(), LogError> {
        checkpoint::write_own(rt, &self.path, &self.own).await?;
        checkpoint::write(rt, &self.path, checkpoint::RECOVERY_POINTS, &self.recovery_points).await?;
        checkpoint::write(rt, &self.path, checkpoint::HIGH_WATERMARKS, &self.high_watermarks).await?;
        checkpoint::write(rt, &self.path, checkpoint::LOG_STARTS, &self.log_starts).await?;
        checkpoint::write(rt, &self.path, checkpoint::CLEANED, &self.cleaned).await
    }
}

#[cfg(test)]
#[path = "dirs_tests.rs"]
mod tests;
