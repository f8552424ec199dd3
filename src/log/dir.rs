//! A data directory (an entry of `log.dirs`): its lock, its identity, how it was left, and the partitions in it.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::LogError;
use super::files;
use crate::base::ids::{BrokerId, Uuid};
use crate::rt::Rt;

const META: &str = "meta.properties";
const DIRECTORY_ID: &str = "directory.id";
/// In the directory of Kafka's metadata log, once that was taken over; Kafka leaves the file alone.
const TAKEN_OVER: &str = "corelane-taken-over";
const CLEAN: &str = ".kafka_cleanshutdown";
/// Key of the stop's id in the clean marker.
const STOP: &str = "corelaneStopId";

/// Held while the process uses a data directory.
#[derive(Debug)]
pub struct Lock {
    /// The lock lasts as long as the file is open.
    _file: File,
}

/// Takes all directories for this process, each created if missing. The error is for people.
pub fn lock_all(data_dirs: &[PathBuf]) -> Result<Vec<Lock>, String> {
    let mut seen: Vec<((u64, u64), &Path)> = Vec::new();
    for dir in data_dirs {
        let failed = |e| format!("cannot create the data directory {}: {e}", dir.display());
        std::fs::create_dir_all(dir).map_err(failed)?;
        let found = std::fs::metadata(dir).map_err(failed)?;
        let place = (found.dev(), found.ino());
        if let Some((_, other)) = seen.iter().find(|(other, _)| *other == place) {
            let (other, dir) = (other.display(), dir.display());
            return Err(format!("log.dirs names one directory twice: {other} and {dir} are the same"));
        }
        seen.push((place, dir));
    }
    data_dirs.iter().map(|dir| lock(dir)).collect()
}

/// Takes the directory (created if missing) for this process. The error is for people.
fn lock(data_dir: &Path) -> Result<Lock, String> {
    let path = data_dir.join(".lock");
    std::fs::create_dir_all(data_dir).map_err(|e| format!("cannot create the data directory {}: {e}", data_dir.display()))?;
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    let locked = || format!("the data directory {} is locked by another process (its file .lock)", data_dir.display());
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(locked()),
        Err(TryLockError::Error(e)) => return Err(format!("cannot lock {}: {e}", path.display())),
    }
    // Java takes a lock of the older kind, which this kind does not see. It lasts until the file is first closed.
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _file: file }),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(locked()),
        Err(e) => Err(format!("cannot lock {}: {e}", path.display())),
    }
}

/// What `meta.properties` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Id of the cluster that the data belongs to.
    pub cluster_id: String,
    /// Broker that the data belongs to.
    pub node_id: BrokerId,
    /// Id of this directory.
    pub directory_id: Uuid,
}

impl Meta {
    pub(super) fn encode(&self) -> String {
        let Meta { cluster_id, node_id, directory_id } = self;
        format!("#\n#\ncluster.id={cluster_id}\ndirectory.id={directory_id}\nnode.id={node_id}\nversion=1\n")
    }

    /// Reads the text form; a missing directory id is taken from `directory_id`. The error says what is wrong.
    pub(super) fn parse(text: &str, directory_id: Uuid) -> Result<Meta, String> {
        let value = |key: &str| value_of(text, key);
        match value("version").as_deref() {
            Some("1") => {}
            Some("0") => return Err("its version is 0: data of a ZooKeeper-based Kafka has to be migrated by Kafka first".into()),
            Some(other) => return Err(format!("its version is {other}, which is not known")),
            None => return Err("it tells no version: it is damaged".into()),
        }
        let cluster_id = value("cluster.id").ok_or("it has no cluster.id")?;
        let node_id = value("node.id").and_then(|v| v.parse().ok()).ok_or("it has no valid node.id")?;
        let directory_id = match value(DIRECTORY_ID) {
            Some(id) => id.parse().map_err(|_| format!("its directory.id {id} is no id"))?,
            None => directory_id,
        };
        Ok(Meta { cluster_id, node_id, directory_id })
    }
}

/// Whether a data directory is there, with its `meta.properties`.
pub fn is_there<R: Rt>(rt: &R, data_dir: &Path) -> bool {
    rt.len_of(&data_dir.join(META)).is_ok()
}

/// Id of a data directory, which is not changed; `None` where it does not tell one.
pub fn directory_id<R: Rt>(rt: &R, data_dir: &Path) -> Result<Option<Uuid>, LogError> {
    let text = files::read_text(rt, &data_dir.join(META))?;
    Ok(text.and_then(|text| value_of(&text, DIRECTORY_ID)?.parse().ok()))
}

/// The value of a key in the text of a properties file.
fn value_of(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', '!']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.filter(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_owned()).next_back()
}

fn random_id<R: Rt>(rt: &R) -> Uuid {
    let mut bytes = [0; 16];
    rt.random(&mut bytes);
    Uuid::from_random(bytes)
}

/// The identities of all data directories, created for those that have none. A directory of another
/// cluster or broker is refused, and so are two of one id. With `cluster_id` unset (no
/// configuration) that of the first directory that has one is taken, or a new one made.
pub async fn identify<R: Rt>(rt: &R, data_dirs: &[PathBuf], cluster_id: Option<String>, node_id: BrokerId) -> Result<Vec<Meta>, LogError> {
    let mut cluster_id = cluster_id;
    let mut found = Vec::with_capacity(data_dirs.len());
    // All are looked at before the first file is written: a refused start leaves a new disk new.
    for (at, data_dir) in data_dirs.iter().enumerate() {
        let path = data_dir.join(META);
        let text = files::read_text(rt, &path)?;
        let parsed = text.as_deref().map(|text| Meta::parse(text, random_id(rt))).transpose();
        let refused = |reason: String| LogError::refused(&path, reason);
        let meta = parsed.map_err(refused)?;
        if let Some(meta) = &meta {
            let expected = cluster_id.get_or_insert_with(|| meta.cluster_id.clone());
            if meta.cluster_id != *expected {
                return Err(refused(format!("it belongs to cluster {}, not to {expected}", meta.cluster_id)));
            }
            if meta.node_id != node_id {
                return Err(refused(format!("it belongs to node.id {}, this is {node_id}", meta.node_id)));
            }
            let same = |other: &Option<(Meta, bool)>| other.as_ref().is_some_and(|(other, _)| other.directory_id == meta.directory_id);
            if let Some(other) = found[..at].iter().position(same) {
                let (other, id) = (data_dirs[other].display(), meta.directory_id);
                return Err(refused(format!("its directory.id {id} is that of {other}: one is a copy")));
            }
        }
        let says_id = text.is_some_and(|text| value_of(&text, DIRECTORY_ID).is_some());
        found.push(meta.map(|meta| (meta, says_id)));
    }
    let cluster_id = cluster_id.unwrap_or_else(|| random_id(rt).to_string());
    let mut identities = Vec::with_capacity(data_dirs.len());
    for (data_dir, found) in data_dirs.iter().zip(found) {
        let (meta, stored) =
            found.unwrap_or_else(|| (Meta { cluster_id: cluster_id.clone(), node_id, directory_id: random_id(rt) }, false));
        if !stored {
            let path = data_dir.join(META);
            let text = meta.encode().into_bytes();
            rt.replace_file(&path, text).await.map_err(LogError::io("write", &path))?;
        }
        identities.push(meta);
    }
    Ok(identities)
}

/// The mark of a proper end: the content of the clean marker's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanMark(String);

impl CleanMark {
    /// The mark of one stop: its id is the same in all directories. Kafka, and versions before the
    /// id, write none; Kafka passes over what it does not know.
    pub fn new(broker_epoch: i64, stop: Option<Uuid>) -> CleanMark {
        let stop = stop.map(|id| format!(",\"{STOP}\":\"{id}\"")).unwrap_or_default();
        CleanMark(format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}{stop}}}"))
    }

    /// The mark of a stop that is now, for all directories.
    pub fn of_this_stop<R: Rt>(rt: &R, broker_epoch: i64) -> CleanMark {
        CleanMark::new(broker_epoch, Some(random_id(rt)))
    }

    /// Id of the stop, as it is written; `None` where there is none.
    pub fn stop(&self) -> Option<&str> {
        let (_, behind) = self.0.split_once(STOP)?;
        // What is damaged is not the id of any other directory.
        Some(behind.trim_start_matches(['"', ':']).trim_end_matches(['"', '}']))
    }
}

/// The mark of the last process, if that ended properly.
pub fn clean_mark<R: Rt>(rt: &R, data_dir: &Path) -> Result<Option<CleanMark>, LogError> {
    files::read_text(rt, &data_dir.join(CLEAN)).map(|text| text.map(CleanMark))
}

/// True when the last process ended properly. The sign is removed, durably: if this process does not, the next start will know.
pub async fn take_clean<R: Rt>(rt: &R, data_dir: &Path) -> Result<bool, LogError> {
    let path = data_dir.join(CLEAN);
    match rt.remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(LogError::io("remove", &path)(e)),
    }
    rt.sync_dir(data_dir).await.map_err(LogError::io("flush", data_dir))?;
    Ok(true)
}

/// The last thing of a proper end, after all logs were closed and the checkpoints written.
pub async fn mark_clean<R: Rt>(rt: &R, data_dir: &Path, mark: &CleanMark) -> Result<(), LogError> {
    let path = data_dir.join(CLEAN);
    rt.replace_file(&path, mark.0.clone().into_bytes()).await.map_err(LogError::io("write", &path))
}

/// True when the Kafka metadata log in `dir` was taken over before.
pub fn taken_over<R: Rt>(rt: &R, dir: &Path) -> Result<bool, LogError> {
    files::read_text(rt, &dir.join(TAKEN_OVER)).map(|text| text.is_some())
}

/// Has the Kafka metadata log in `dir` say that this cluster has taken it over.
pub async fn mark_taken_over<R: Rt>(rt: &R, dir: &Path, cluster_id: &str) -> Result<(), LogError> {
    if taken_over(rt, dir)? {
        return Ok(());
    }
    let path = dir.join(TAKEN_OVER);
    let text = format!("version=0\ncluster.id={cluster_id}\n");
    rt.replace_file(&path, text.into_bytes()).await.map_err(LogError::io("write", &path))
}

/// A partition's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDir {
    /// Where it is.
    pub path: PathBuf,
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Topic id from `partition.metadata`; zero when it does not say or cannot be read.
    pub topic_id: Uuid,
}

/// The name that a partition's directory has.
pub fn partition_name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The path of a partition's directory.
pub fn partition_dir(data_dir: &Path, topic: &str, partition: i32) -> PathBuf {
    data_dir.join(format!("{topic}-{partition}"))
}

/// What lies in a data directory.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The partitions.
    pub partitions: Vec<PartitionDir>,
    /// Copies that moves of partitions between directories had begun (`TOPIC-PARTITION.ID-future`).
    pub futures: Vec<PathBuf>,
}

/// Lists a data directory. Directories whose deletion was under way are removed; other names are
/// left alone.
pub fn list<R: Rt>(rt: &R, data_dir: &Path) -> Result<Content, LogError> {
    let mut found = Content::default();
    let entries = rt.list(data_dir).map_err(LogError::io("list", data_dir))?;
    for entry in entries.into_iter().filter(|entry| entry.is_dir) {
        let path = data_dir.join(&entry.name);
        if before_suffix(&entry.name, "delete").is_some() {
            rt.remove_dir_all(&path).map_err(LogError::io("remove", &path))?;
        } else if before_suffix(&entry.name, "future").is_some_and(|name| parse_name(name).is_some()) {
            found.futures.push(path);
        } else if let Some((topic, partition)) = parse_name(&entry.name) {
            let topic_id = files::topic_id(rt, &path).unwrap_or_default();
            found.partitions.push(PartitionDir { path, topic: topic.into(), partition, topic_id });
        }
    }
    Ok(found)
}

/// Takes a partition's directory out of the way, as Kafka does with one that no topic claims: renamed
/// to `TOPIC-PARTITION.ID-stray`, it keeps all that is in it. Returns its new path.
pub async fn set_aside<R: Rt>(rt: &R, dir: &Path) -> Result<PathBuf, LogError> {
    let name = partition_name(dir);
    files::rename_with(rt, dir, before_suffix(&name, "future").unwrap_or(&name), "stray").await
}

/// Removes a partition's directory of a deleted topic. It is renamed to `TOPIC-PARTITION.ID-delete`
/// first: what a crash leaves of it must not pass for the partition of a topic with the same name.
pub async fn remove<R: Rt>(rt: &R, dir: &Path) -> Result<(), LogError> {
    let gone = files::rename_with(rt, dir, &partition_name(dir), "delete").await?;
    rt.remove_dir_all(&gone).map_err(LogError::removing(&gone))
}

/// TOPIC-PARTITION of `TOPIC-PARTITION.ID-SUFFIX` with an id of 32 hexadecimal digits.
fn before_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let (name, id) = name.strip_suffix(suffix)?.strip_suffix('-')?.rsplit_once('.')?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(name)
}

/// Topic and partition of a name as [`partition_dir`] makes it: `a-01` is none.
fn parse_name(name: &str) -> Option<(&str, i32)> {
    let (topic, digits) = name.rsplit_once('-')?;
    let partition: i32 = digits.parse().ok()?;
    (!topic.is_empty() && partition.to_string() == digits).then_some((topic, partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(parse_name("a-b-12"), Some(("a-b", 12)));
        for other in ["a", "-1", "a-", "a-x", "a-1.0123456789abcdef0123456789abcdef-delete", "a-99999999999", "a-01", "a-+1"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
        let named = |suffix| format!("a-1.0123456789abcdef0123456789abcdef-{suffix}");
        assert_eq!(before_suffix(&named("delete"), "delete"), Some("a-1"));
        assert_eq!(before_suffix(&named("future"), "future"), Some("a-1"));
        assert_eq!(before_suffix(&named("future"), "delete"), None);
        assert!(["a.b-delete", "a-1"].iter().all(|name| before_suffix(name, "delete").is_none()));
    }

    #[test]
    fn identity_round_trips_and_other_versions_are_refused() {
        let meta = Meta { cluster_id: "c-1".into(), node_id: 7, directory_id: Uuid::from_random([3; 16]) };
        assert_eq!(Meta::parse(&meta.encode(), Uuid::ZERO), Ok(meta.clone()));
        let kafka = "#\n#Sat Nov 21 12:00:00 UTC 2026\nnode.id=1\nversion=1\ncluster.id=abc\n";
        assert_eq!(Meta::parse(kafka, meta.directory_id).unwrap().directory_id, meta.directory_id);
        assert!(Meta::parse("version=0\nbroker.id=1\n", Uuid::ZERO).is_err());
    }

    #[test]
    fn a_second_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(lock(dir.path()).unwrap_err().contains("locked"));
        drop(held);
        lock(dir.path()).unwrap();
    }
}
