//! What a start finds in the data directories besides its own: the metadata of a Kafka that ran here, and partitions of no topic.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::control::{LogDir, METADATA};
use crate::base::ids::{BrokerId, LeaderEpoch, Offset, TopicId};
use crate::cluster::image::Image;
use crate::cluster::kraft::{KafkaMetadata, Taken};
use crate::cluster::names::CLUSTER_METADATA;
use crate::log::{self, LogError, dir};
use crate::partition::epochs::Epochs;
use crate::rt::Rt;

/// Reads the metadata of a Kafka of one node from its log, if there is one. `elsewhere` is `metadata.log.dir`. Nothing is changed. The
/// error says what is wrong, where, and what to do.
pub(super) fn read_kafka<R: Rt>(
    rt: &R,
    dirs: &[LogDir],
    elsewhere: Option<&Path>,
    node: BrokerId,
) -> Result<Option<(PathBuf, Taken)>, String> {
    let mut found = None;
    for place in elsewhere.into_iter().chain(dirs.iter().map(|d| d.path.as_path())) {
        let path = dir::partition_dir(place, CLUSTER_METADATA, 0);
        match rt.list(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(format!("cannot list {}: {e}", path.display())),
            Ok(_) => found = found.or(Some(path)),
        }
    }
    let Some(path) = found else { return nobodys(dirs).map(|()| None) };
    let clean = dirs.iter().all(|d| d.clean);
    let stored_epoch = |topic: &str, partition: i32| stored_epoch(rt, dirs, topic, partition);
    let taken = fold(rt, &path, clean).and_then(|metadata| metadata.finish(node, rt.now().wall_ms, stored_epoch));
    taken.map(|taken| Some((path.clone(), taken))).map_err(|reason| {
        format!(
            "cannot take over the metadata of Kafka in {}: {reason}. Nothing was changed: Kafka can start here again; let it, stop it properly, \
             and try again, or move its topics by mirroring",
            path.display()
        )
    })
}

/// Refuses partitions without any metadata: setting all of them aside is hardly what is wanted.
fn nobodys(dirs: &[LogDir]) -> Result<(), String> {
    let found = dirs.iter().flat_map(|d| &d.partitions).find(|p| p.topic != METADATA);
    found.map_or(Ok(()), |partition| {
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
    let mut found = dirs.iter().flat_map(|d| &d.partitions).filter(|p| p.topic == topic && p.partition == partition);
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

/// Directories of partitions that the metadata does not know: of topics that were deleted (`removed`) they are removed, all others are set
/// aside, since nobody knows what they are.
pub(super) async fn clear_strays<R: Rt>(rt: &R, dirs: &mut [LogDir], image: &Image, removed: &HashSet<TopicId>) -> Result<(), LogError> {
    for log_dir in dirs {
        for found in std::mem::take(&mut log_dir.partitions) {
            let topic = image.topic(&found.topic).filter(|topic| found.topic_id.is_zero() || found.topic_id == topic.id);
            let own = found.topic == METADATA || topic.is_some_and(|topic| topic.partition(found.partition).is_some());
            if own {
                log_dir.partitions.push(found);
            } else if found.topic == CLUSTER_METADATA {
                // Kafka's, and left as it is.
            } else if removed.contains(&found.topic_id) {
                tracing::info!("{}: removing what is left of the deleted topic {}", found.path.display(), found.topic_id);
                dir::remove(rt, &found.path).await?;
            } else {
                let aside = dir::set_aside(rt, &found.path).await?;
                tracing::warn!("{}: no topic has this partition: renamed to {}", found.path.display(), aside.display());
            }
        }
    }
    Ok(())
}
