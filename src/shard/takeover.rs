//! Takes over a Kafka node's metadata, once, and sets partitions of no topic aside.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::dirs::{Found, LogDir, LogDirs, claimed};
use super::op::Key;
use crate::base::ids::{BrokerId, LeaderEpoch, Offset, TopicId, Uuid};
use crate::cluster::image::Image;
use crate::cluster::kraft::{KafkaMetadata, Taken};
use crate::cluster::names::{CLUSTER_METADATA, METADATA};
use crate::cluster::settings::BrokerSettings;
use crate::log::dir::{self, PartitionDir};
use crate::log::{self, LogError};
use crate::partition::epochs::Epochs;
use crate::rt::Rt;

/// Metadata of Kafka that was found, and where.
pub(super) struct Takeover {
    pub path: PathBuf,
    pub taken: Taken,
}

/// The metadata logs of Kafka in these directories and in `elsewhere`, which is `metadata.log.dir`.
fn kafka_logs<R: Rt>(rt: &R, dirs: &[LogDir], elsewhere: Option<&Path>) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for place in elsewhere.into_iter().chain(dirs.iter().map(|d| d.path.as_path())) {
        let path = dir::partition_dir(place, CLUSTER_METADATA, 0);
        match rt.list(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(format!("cannot list {}: {e}", path.display())),
            Ok(_) => found.push(path),
        }
    }
    Ok(found)
}

/// Reads the metadata of a Kafka of one node from its log, if there is one. Nothing is changed. The
/// error says what is wrong, where, and what to do.
pub(super) fn read_kafka<R: Rt>(
    rt: &R,
    found: &LogDirs,
    elsewhere: Option<&Path>,
    settings: &BrokerSettings,
    node: BrokerId,
) -> Result<Option<Takeover>, String> {
    let dirs = &found.dirs;
    let logs = kafka_logs(rt, dirs, elsewhere)?;
    for path in &logs {
        if dir::taken_over(rt, path).map_err(|e| e.to_string())? {
            return Err(format!(
                "{} was taken over before, but Corelane's metadata log ({METADATA}-0) is missing or empty: it is not \
                 taken over again, as all that was changed since would be lost. Add the log directory that has it",
                path.display()
            ));
        }
    }
    let Some(path) = logs.into_iter().next() else { return nobodys(dirs).map(|()| None) };
    let clean = found.clean();
    let stored_epoch = |topic: &str, partition: i32| stored_epoch(rt, dirs, topic, partition);
    let taken = fold(rt, &path, clean).and_then(|metadata| metadata.finish(node, rt.now().wall_ms, stored_epoch));
    let whole = taken.and_then(|taken| refuse_missing(dirs, &taken, settings).map(|()| taken));
    whole.map(|taken| Some(Takeover { path: path.clone(), taken })).map_err(|reason| {
        format!(
            "cannot take over the metadata of Kafka in {}: {reason}. Nothing was changed: Kafka can start here again; let it, stop it properly, \
             and try again, or move its topics by mirroring",
            path.display()
        )
    })
}

/// Refuses metadata with partitions that lie in a log directory of Kafka's which is not there: they
/// would begin anew, empty. Where Kafka has not noted the directory yet, any of them may be it. A
/// partition that Kafka was about to make has a directory nowhere.
fn refuse_missing(dirs: &[LogDir], taken: &Taken, settings: &BrokerSettings) -> Result<(), String> {
    let image = Image::of(settings.clone(), &taken.records);
    let here: HashSet<Key> = dirs.iter().flat_map(|d| &d.partitions).filter_map(|p| claimed(&p.dir, &image)).collect();
    let absent = |id: &Uuid| !dirs.iter().any(|dir| dir.id == *id);
    let some_absent = taken.log_dirs.iter().any(absent);
    let elsewhere = |key: &Key| !here.contains(key) && taken.homes.get(key).map_or(some_absent, absent);
    let partitions = image.topics().flat_map(|topic| (0..topic.partitions.len() as i32).map(move |p| (topic, p)));
    let missing: Vec<String> =
        partitions.filter(|(topic, p)| elsewhere(&(topic.id, *p))).map(|(topic, p)| format!("{}-{p}", topic.name)).collect();
    match missing.first() {
        None => Ok(()),
        Some(first) => Err(format!(
            "{} partitions are in a log directory that is not in log.dirs, {first} is one: add it (if it is lost, Kafka \
             makes them anew, empty, when it starts without it)",
            missing.len()
        )),
    }
}

/// Has Kafka's metadata logs say that they were taken over.
pub(super) async fn mark_taken_over<R: Rt>(rt: &R, dirs: &LogDirs, elsewhere: Option<&Path>) -> Result<(), String> {
    for path in kafka_logs(rt, &dirs.dirs, elsewhere)? {
        dir::mark_taken_over(rt, &path, &dirs.cluster_id).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Refuses partitions without any metadata: setting all of them aside is hardly what is wanted.
fn nobodys(dirs: &[LogDir]) -> Result<(), String> {
    let found = dirs.iter().flat_map(|d| &d.partitions).next();
    found.map_or(Ok(()), |Found { dir: partition, .. }| {
        Err(format!(
            "{} is a partition, but there is no metadata, neither Corelane's ({METADATA}-0) nor Kafka's ({CLUSTER_METADATA}-0): if Kafka kept it \
             elsewhere, set metadata.log.dir; else choose other log.dirs, or move the partitions away",
            partition.path.display()
        ))
    })
}

/// Adds up the newest snapshot and the log behind it.
fn fold<R: Rt>(rt: &R, path: &Path, clean: bool) -> Result<KafkaMetadata, String> {
    let names: Vec<String> = rt.list(path).map_err(|e| e.to_string())?.into_iter().map(|entry| entry.name).collect();
    let read = |name: &str| rt.read_file(&path.join(name)).map_err(|e| format!("{name}: {e}"));
    let mut metadata = KafkaMetadata::default();
    if let Some(((end, epoch), name)) = names.iter().filter_map(|name| Some((snapshot_name(name)?, name))).max() {
        tracing::debug!("{}: snapshot at offset {end}, epoch {epoch}", path.display());
        metadata.snapshot(&read(name)?, end).map_err(|reason| format!("{name}: {reason}"))?;
    }
    let mut segments: Vec<(Offset, &String)> = names.iter().filter_map(|name| Some((log_name(name)?, name))).collect();
    segments.sort_unstable();
    // Those before the last that begins at or below the snapshot hold nothing new.
    let first = segments.partition_point(|(base, _)| *base <= metadata.next_offset()).saturating_sub(1);
    let Some((_, last)) = segments.last().copied() else { return Err("it has no log".into()) };
    for &(base, name) in &segments[first..] {
        let torn = !clean && name == last;
        let cut = metadata.segment(&read(name)?, base, torn).map_err(|reason| format!("{name}: {reason}"))?;
        if let Some(at) = cut {
            tracing::warn!("{}: what was being written at byte {at} when Kafka ended is left out", path.join(name).display());
        }
    }
    Ok(metadata)
}

/// Offset and epoch in `OFFSET-EPOCH.checkpoint`.
fn snapshot_name(name: &str) -> Option<(Offset, LeaderEpoch)> {
    let (offset, epoch) = name.strip_suffix(".checkpoint")?.split_once('-')?;
    Some((offset.parse().ok()?, epoch.parse().ok()?))
}

fn log_name(name: &str) -> Option<Offset> {
    name.strip_suffix(".log")?.parse().ok()
}

/// The newest epoch that a partition's directory knows of.
fn stored_epoch<R: Rt>(rt: &R, dirs: &[LogDir], topic: &str, partition: i32) -> Option<LeaderEpoch> {
    let dirs = dirs.iter().flat_map(|d| &d.partitions).map(|found| &found.dir);
    let mut found = dirs.filter(|dir| dir.topic == topic && dir.partition == partition);
    let text = log::epoch_checkpoint(rt, &found.next()?.path).ok()??;
    Some(Epochs::parse(&text).ok()?.latest()?.0)
}

/// Says what was taken over.
pub(super) fn report(path: &Path, taken: &Taken, image: &Image) {
    let partitions: usize = image.topics().map(|topic| topic.partitions.len()).sum();
    tracing::info!("took over {} topics with {partitions} partitions from Kafka's {}", image.topics().len(), path.display());
    let count = |kinds: &[(&str, usize)]| kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ");
    tracing::info!("records of Kafka's metadata that mean nothing here: {}", count(&taken.passed_over));
    if !taken.missed.is_empty() {
        tracing::warn!("of Kafka's metadata NOT taken over, to be set up again where needed: {}", count(&taken.missed));
    }
    if !taken.dropped_settings.is_empty() {
        tracing::warn!("settings of topics that have no meaning here were dropped: {}", taken.dropped_settings.join(", "));
    }
}

/// An error if the metadata log's end was cut as damaged and had the topic of a directory in it. That is
/// made once the topic's record is flushed: the record is lost, and not torn.
fn refuse_if_cut<R: Rt>(rt: &R, metadata: Option<&Path>, dir: &PartitionDir) -> Result<(), LogError> {
    let Some(metadata) = metadata.filter(|_| !dir.topic_id.is_zero()) else { return Ok(()) };
    let Some(cut) = log::find_in_cut(rt, metadata, &dir.topic_id.0)? else { return Ok(()) };
    let what = format!(
        "the metadata log has lost the topic {} with the id {}: it was damaged, and its end is set aside in {}. \
         Put a copy of {} in its place; or, to go on without the topic, move this directory away",
        dir.topic,
        dir.topic_id,
        cut.display(),
        metadata.display()
    );
    Err(LogError::refused(&dir.path, what))
}

/// Directories of partitions that the metadata does not know: of topics that were deleted (`removed`) they are removed, all others are set
/// aside, since nobody knows what they are; so are copies that moves had begun. An error where the metadata log has lost a topic.
pub(super) async fn clear_strays<R: Rt>(rt: &R, dirs: &mut LogDirs, image: &Image, removed: &HashSet<TopicId>) -> Result<(), LogError> {
    let all = dirs.dirs.iter().flat_map(|log_dir| &log_dir.partitions);
    let here: HashSet<Key> = all.filter_map(|found| claimed(&found.dir, image)).collect();
    let metadata = dirs.dirs.iter().find_map(|log_dir| Some(log_dir.metadata.as_ref()?.dir.path.clone()));
    for log_dir in &mut dirs.dirs {
        for found in std::mem::take(&mut log_dir.partitions) {
            let dir = &found.dir;
            if claimed(dir, image).is_some() {
                log_dir.partitions.push(found);
            } else if removed.contains(&dir.topic_id) {
                tracing::info!("{}: removing what is left of the deleted topic {}", dir.path.display(), dir.topic_id);
                dir::remove(rt, &dir.path).await?;
            } else if let Some(key) = log_dir.is_mistaken(dir, image).filter(|key| !here.contains(key)) {
                tracing::error!(
                    "{}: has the id {} in its partition.metadata, which is no topic's, but by the checkpoint it is a \
                     partition of {}: it stays offline. Put topic_id: {} there if that was damaged; else move the directory \
                     away, and it begins anew, empty",
                    dir.path.display(),
                    dir.topic_id,
                    dir.topic,
                    key.0
                );
                log_dir.mistaken.push(key);
            } else if dir.topic == CLUSTER_METADATA {
                // Kafka's, and left as it is.
            } else {
                refuse_if_cut(rt, metadata.as_deref(), dir)?;
                let aside = dir::set_aside(rt, &dir.path).await?;
                tracing::warn!("{}: no topic has this partition: renamed to {}", dir.path.display(), aside.display());
            }
        }
        for leftover in std::mem::take(&mut log_dir.leftovers) {
            let aside = dir::set_aside(rt, &leftover).await?;
            tracing::warn!(
                "{}: tells no topic's id, and the partition of this name is in another log directory: renamed to {}",
                leftover.display(),
                aside.display()
            );
        }
        for future in std::mem::take(&mut log_dir.futures) {
            let aside = dir::set_aside(rt, &future).await?;
            tracing::warn!(
                "{}: a move to this log directory was not finished, the partition stays where it was: renamed to {}",
                future.display(),
                aside.display()
            );
        }
    }
    Ok(())
}
