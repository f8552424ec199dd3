//! The files of a partition's directory: names, small ones whole, derived ones.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cache::Cache;
use super::error::LogError;
use super::index::Index;
use super::{Inner, dir};
use crate::base::ids::{Offset, TopicId};
use crate::rt::{Class, Open, Rt};

/// The leader-epoch checkpoint's name.
pub(super) const EPOCHS: &str = "leader-epoch-checkpoint";
/// Files beside a segment's that can be rebuilt from it.
pub(super) const DERIVED: [&str; 3] = ["index", "timeindex", "txnindex"];
const METADATA: &str = "partition.metadata";
/// Large files that one core removes at a time; bytes of them that go at once, and the pause after that. One core removes 1 to 2 GB/s so.
pub(super) const REMOVALS: usize = 2;
const REMOVED_AT_ONCE: u64 = 1 << 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(1);

/// A segment file's name: `kind` is `log`, one of [`DERIVED`] or `snapshot`.
pub(super) fn name(dir: &Path, base: Offset, kind: &str) -> PathBuf {
    dir.join(format!("{base:020}.{kind}"))
}

/// The base offset in the name of a file of that kind.
pub(super) fn base_of(name: &str, kind: &str) -> Option<Offset> {
    let digits = name.strip_suffix(kind)?.strip_suffix('.')?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The right to make files in a log's directory, for who is not the writer and does not hold
/// [`Inner::upkeep`]: a deletion waits for it, because the path may be that of a new topic's
/// directory after it.
pub(super) struct Making<'a, R: Rt>(&'a Inner<R>);

impl<'a, R: Rt> Making<'a, R> {
    /// `None` once the log is deleted.
    pub fn begin(log: &'a Inner<R>) -> Option<Making<'a, R>> {
        if log.deleted.get() {
            return None;
        }
        log.state.borrow_mut().making += 1;
        Some(Making(log))
    }
}

impl<R: Rt> Drop for Making<'_, R> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().making -= 1;
        self.0.wake_waiters();
    }
}

/// Makes the directory of a new log with an empty first segment. Nothing of it is flushed: an empty log that a crash takes away is made
/// again, and [`settle`] comes before its first batch.
pub(super) async fn create<R: Rt>(rt: &R, dir: &Path, topic_id: TopicId) -> Result<(), LogError> {
    let fresh = !exists(rt, dir)?;
    let made = fill(rt, dir, topic_id).await;
    if made.is_err() && fresh {
        // Without its metadata it would be nobody's.
        let _ = rt.remove_dir_all(dir);
    }
    made
}

/// Whether there is such a directory.
pub(super) fn exists<R: Rt>(rt: &R, dir: &Path) -> Result<bool, LogError> {
    match rt.list(dir) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(LogError::io_or_exhausted("list", dir)(e)),
    }
}

async fn fill<R: Rt>(rt: &R, dir: &Path, topic_id: TopicId) -> Result<(), LogError> {
    rt.create_dir(dir).map_err(LogError::io_or_exhausted("create", dir))?;
    let segment = name(dir, 0, "log");
    rt.open(&segment, Open::Create).await.map_err(LogError::io_or_exhausted("create", &segment))?;
    let metadata = dir.join(METADATA);
    rt.write_file(&metadata, metadata_text(topic_id).into_bytes()).await.map_err(LogError::io_or_exhausted("write", &metadata))
}

pub(super) fn metadata_text(topic_id: TopicId) -> String {
    format!("version: 0\ntopic_id: {topic_id}")
}

/// Before the first write since the log was opened: what was made without a flush becomes durable, names and small files.
pub(super) async fn settle<R: Rt>(log: &Inner<R>) -> Result<(), LogError> {
    let metadata = log.dir.join(METADATA);
    if !log.topic_id.get().is_zero() {
        let text = metadata_text(log.topic_id.get()).into_bytes();
        log.rt.replace_file(&metadata, text).await.map_err(LogError::io_or_exhausted("write", &metadata))?;
    }
    for dir in [Some(&*log.dir), log.dir.parent()].into_iter().flatten() {
        log.rt.sync_dir(dir).await.map_err(LogError::io("flush", dir))?;
    }
    Ok(())
}

/// Stores the leader-epoch checkpoint that [`super::Log::set_epochs_later`] was given, if there is one. What is owed stays so until it is
/// stored.
pub(super) async fn write_owed_epochs<R: Rt>(log: &Inner<R>) -> Result<(), LogError> {
    // The writer and retention come here at any time, and two at once would take each other's file away.
    let _turn = log.storing_epochs.enter().await;
    let owed = log.state.borrow().owed_epochs.clone();
    let Some(text) = owed else { return Ok(()) };
    let path = log.dir.join(EPOCHS);
    log.rt.replace_file(&path, text.clone().into_bytes()).await.map_err(LogError::io_or_exhausted("write", &path))?;
    log.state.borrow_mut().owed_epochs.take_if(|owed| *owed == text);
    Ok(())
}

/// A small text file, or `None` when there is none.
pub(super) fn read_text<R: Rt>(rt: &R, path: &Path) -> Result<Option<String>, LogError> {
    let bytes = match rt.read_file(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LogError::io_or_exhausted("read", path)(e)),
    };
    // What is not text does not parse, and whoever parses it says what that means.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// A text file of our own, with a last line that tells the checksum of all before it.
pub(super) fn with_checksum(text: String) -> String {
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {crc:08x}\n")
}

/// What [`with_checksum`] was given; `None` where the text is not what it has made.
pub(super) fn without_checksum(text: &str) -> Option<&str> {
    let (start, _) = text.strip_suffix('\n')?.rmatch_indices('\n').next()?;
    let content = &text[..=start];
    (with_checksum(content.to_owned()) == text).then_some(content)
}

/// The topic id that a partition's directory belongs to; zero if it does not say. A file that a crash has left empty says nothing either:
/// the log had no batch yet.
pub(super) fn topic_id<R: Rt>(rt: &R, dir: &Path) -> Result<TopicId, LogError> {
    let path = dir.join(METADATA);
    let Some(text) = read_text(rt, &path)?.filter(|text| text.bytes().any(|byte| byte != 0)) else { return Ok(TopicId::ZERO) };
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id:"));
    id.and_then(|id| id.trim().parse().ok()).ok_or_else(|| LogError::corrupt(&path, 0, "it has no valid topic_id line"))
}

/// Stores a segment's index files. They are derived: a failure is only told, they will be rebuilt.
pub(super) async fn write_index<R: Rt>(rt: &R, dir: &Path, base: Offset, index: &Index) {
    for (kind, content) in [("index", index.encode_offsets()), ("timeindex", index.encode_times())] {
        let path = name(dir, base, kind);
        if let Err(e) = rt.replace_file(&path, content).await {
            tracing::warn!("cannot write {}: {e}; it will be rebuilt when needed", path.display());
        }
    }
}

/// Stores producer state at `offset` and removes what is older than the snapshot before it.
pub(super) async fn write_snapshot<R: Rt>(rt: &R, dir: &Path, offset: Offset, payload: Vec<u8>) {
    let path = name(dir, offset, "snapshot");
    if let Err(e) = rt.replace_file(&path, payload).await {
        tracing::warn!("cannot write {}: {e}; it will be rebuilt from the log", path.display());
        return;
    }
    let older = snapshots(rt, dir).into_iter().filter(|o| *o < offset).skip(1);
    for old in older {
        let _ = rt.remove_file(&name(dir, old, "snapshot"));
    }
}

/// Offsets of the stored snapshots, newest first.
pub(super) fn snapshots<R: Rt>(rt: &R, dir: &Path) -> Vec<Offset> {
    let entries = rt.list(dir).unwrap_or_default();
    let mut offsets: Vec<Offset> = entries.iter().filter_map(|e| base_of(&e.name, "snapshot")).collect();
    offsets.sort_unstable_by(|a, b| b.cmp(a));
    offsets
}

/// Reads a closed segment's index files; `None` when they are missing or cannot be right.
pub(super) fn read_index<R: Rt>(rt: &R, dir: &Path, base: Offset, size: u64, end: Offset, interval: u32) -> Option<Index> {
    let offsets = rt.read_file(&name(dir, base, "index")).ok()?;
    let times = rt.read_file(&name(dir, base, "timeindex")).ok()?;
    Index::decode(&offsets, &times, size, end - base, interval)
}

/// The last step of a proper end: index files of the last segment and the producer state.
pub(super) async fn write_closing<R: Rt>(log: &Inner<R>, snapshot: Vec<u8>) -> Result<(), LogError> {
    let (base, index, end, changed, empty) = {
        let state = log.state.borrow();
        let segment = state.segments.last().expect("a log has a segment");
        let indexed = !state.changed && !state.checked;
        (segment.base, segment.index.clone().filter(|_| !indexed), state.end, state.changed, state.end == state.segments[0].base)
    };
    if let Some(index) = index {
        write_index(&log.rt, &log.dir, base, &index).await;
    }
    if changed || (!empty && !snapshots(&log.rt, &log.dir).contains(&end)) {
        write_snapshot(&log.rt, &log.dir, end, snapshot).await;
    }
    Ok(())
}

/// Renames the directory to Kafka's `TOPIC-PARTITION.ID-delete`, and removes that in the background; what is left of it by then goes at the next
/// start. A directory that has become another topic's is left alone.
pub(super) async fn remove<R: Rt>(log: &Inner<R>) -> Result<(), LogError> {
    let owner = match topic_id(&log.rt, &log.dir) {
        // Damaged since the log was opened: what stays would be in the way of the next topic of the name.
        Err(LogError::Corrupt { .. }) => TopicId::ZERO,
        owner => owner?,
    };
    let ours = log.topic_id.get();
    if owner != ours && !owner.is_zero() && !ours.is_zero() {
        return Err(LogError::taken(&log.dir));
    }
    let gone = rename_with(&log.rt, &log.dir, &dir::partition_name(&log.dir), "delete").await?;
    let (rt, cache) = (log.rt.clone(), log.cache.clone());
    log.rt.spawn(Class::Background, async move {
        let segments = rt.list(&gone).unwrap_or_default().into_iter().filter(|entry| entry.name.contains(".log"));
        for segment in segments {
            // What cannot be removed now cannot be below either, and is told there.
            let _ = remove_segment(&rt, &cache, &gone.join(segment.name)).await;
        }
        if let Err(e) = rt.remove_dir_all(&gone) {
            tracing::warn!("cannot remove {}: {e}; it will be at the next start", gone.display());
        }
    });
    Ok(())
}

/// Removes a segment's file from its end, a piece at a time: a disk that is told of freed blocks at once is busy with a large file for tens of
/// milliseconds, and every write waits.
pub(super) async fn remove_segment<R: Rt>(rt: &R, cache: &Cache, path: &Path) -> io::Result<()> {
    let _turn = cache.removals().enter().await;
    let file = rt.open(path, Open::Write).await?;
    let mut left = rt.file_len(&file)?;
    while left > REMOVED_AT_ONCE {
        left -= REMOVED_AT_ONCE;
        rt.truncate(&file, left).await?;
        rt.sleep(REMOVAL_PAUSE).await;
    }
    drop(file);
    rt.unlink(path).await
}

/// Renames the directory of the partition `name`, durably, to `TOPIC-PARTITION.ID-SUFFIX` with a random id, cut to 255 bytes as Kafka does.
pub(super) async fn rename_with<R: Rt>(rt: &R, dir: &Path, name: &str, suffix: &str) -> Result<PathBuf, LogError> {
    let mut id = [0; 16];
    rt.random(&mut id);
    let suffix = format!(".{:032x}-{suffix}", u128::from_be_bytes(id));
    let (topic, partition) = name.rsplit_once('-').unwrap_or((name, "0"));
    let room = 255usize.saturating_sub(suffix.len() + partition.len() + 1);
    let renamed = dir.with_file_name(format!("{}-{partition}{suffix}", &topic[..topic.floor_char_boundary(room)]));
    rt.rename(dir, &renamed).map_err(LogError::io("rename", dir))?;
    if let Some(parent) = dir.parent() {
        rt.sync_dir(parent).await.map_err(LogError::io("flush", parent))?;
    }
    Ok(renamed)
}
