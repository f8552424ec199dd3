//! A data directory (an entry of `log.dirs`): its lock, its identity, how it was left, and the partitions in it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::LogError;
use super::files;
use crate::base::ids::{BrokerId, Uuid};
use crate::rt::Rt;

const META: &str = "meta.properties";
const CLEAN: &str = ".kafka_cleanshutdown";

/// Held while the process uses a data directory.
#[derive(Debug)]
pub struct Lock {
    /// The lock lasts as long as the file is open.
    _file: File,
}

/// Takes the directory (created if missing) for this process. The error is for people.
pub fn lock(data_dir: &Path) -> Result<Lock, String> {
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
        let value = |key: &str| {
            let pairs = text.lines().filter(|l| !l.trim_start().starts_with(['#', '!'])).filter_map(|l| l.split_once('='));
            pairs.filter(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_owned()).next_back()
        };
        if value("version").as_deref() != Some("1") {
            return Err("its version is not 1 (data of a ZooKeeper-based Kafka has to be migrated by Kafka first)".into());
        }
        let cluster_id = value("cluster.id").ok_or("it has no cluster.id")?;
        let node_id = value("node.id").and_then(|v| v.parse().ok()).ok_or("it has no valid node.id")?;
        let directory_id = match value("directory.id") {
            Some(id) => id.parse().map_err(|_| format!("its directory.id {id} is no id"))?,
            None => directory_id,
        };
        Ok(Meta { cluster_id, node_id, directory_id })
    }
}

fn random_id<R: Rt>(rt: &R) -> Uuid {
    let mut bytes = [0; 16];
    rt.random(&mut bytes);
    Uuid::from_random(bytes)
}

/// The identity of a data directory, created when it has none. A directory of another cluster or broker is refused. With `cluster_id` unset
/// (no configuration, no other directory) that of the directory is taken, or a new one made.
pub async fn identify<R: Rt>(rt: &R, data_dir: &Path, cluster_id: Option<&str>, node_id: BrokerId) -> Result<Meta, LogError> {
    let path = data_dir.join(META);
    let new_id = random_id(rt);
    let found = match files::read_text(rt, &path)? {
        Some(text) => Some(Meta::parse(&text, new_id).map_err(|reason| LogError::corrupt(&path, 0, reason))?),
        None => None,
    };
    if let Some(meta) = found {
        if let Some(expected) = cluster_id.filter(|id| *id != meta.cluster_id) {
            return Err(LogError::corrupt(&path, 0, format!("it belongs to cluster {}, not to {expected}", meta.cluster_id)));
        }
        if meta.node_id != node_id {
            return Err(LogError::corrupt(&path, 0, format!("it belongs to node.id {}, this is {node_id}", meta.node_id)));
        }
        return Ok(meta);
    }
    let cluster_id = cluster_id.map_or_else(|| random_id(rt).to_string(), str::to_owned);
    let meta = Meta { cluster_id, node_id, directory_id: new_id };
    rt.replace_file(&path, meta.encode().into_bytes()).await.map_err(LogError::io("write", &path))?;
    Ok(meta)
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
pub async fn mark_clean<R: Rt>(rt: &R, data_dir: &Path, broker_epoch: i64) -> Result<(), LogError> {
    let path = data_dir.join(CLEAN);
    let text = format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}");
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

/// Name of a partition's directory.
pub fn partition_dir(data_dir: &Path, topic: &str, partition: i32) -> PathBuf {
    data_dir.join(format!("{topic}-{partition}"))
}

/// The partitions in a data directory. Directories whose deletion was under way are removed; other names are left alone.
pub fn partitions<R: Rt>(rt: &R, data_dir: &Path) -> Result<Vec<PartitionDir>, LogError> {
    let mut found = Vec::new();
    for entry in rt.list(data_dir).map_err(LogError::io("list", data_dir))?.into_iter().filter(|e| e.is_dir) {
        let path = data_dir.join(&entry.name);
        if is_deleting(&entry.name) {
            rt.remove_dir_all(&path).map_err(LogError::io("remove", &path))?;
        } else if let Some((topic, partition)) = parse_name(&entry.name) {
            let topic_id = files::topic_id(rt, &path).unwrap_or_default();
            found.push(PartitionDir { path, topic: topic.into(), partition, topic_id });
        }
    }
    Ok(found)
}

/// Takes a partition's directory out of the way, as Kafka does with one that no topic claims: renamed to `TOPIC-PARTITION.ID-stray`, it
/// keeps all that is in it. Returns its new path.
pub async fn set_aside<R: Rt>(rt: &R, dir: &Path) -> Result<PathBuf, LogError> {
    files::rename_with(rt, dir, "stray").await
}

/// `TOPIC-PARTITION.ID-delete` with an id of 32 hexadecimal digits.
fn is_deleting(name: &str) -> bool {
    let id = name.strip_suffix("-delete").and_then(|rest| rest.rsplit_once('.'));
    id.is_some_and(|(_, id)| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn parse_name(name: &str) -> Option<(&str, i32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let digits = !partition.is_empty() && partition.bytes().all(|b| b.is_ascii_digit());
    (!topic.is_empty() && digits).then(|| Some((topic, partition.parse().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(parse_name("a-b-12"), Some(("a-b", 12)));
        for other in ["a", "-1", "a-", "a-x", "a-1.0123456789abcdef0123456789abcdef-delete", "a-99999999999"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
        assert!(is_deleting("a-1.0123456789abcdef0123456789abcdef-delete"));
        assert!(!is_deleting("a.b-delete") && !is_deleting("a-1"));
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
