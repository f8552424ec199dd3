//! Putting a rewritten segment in the place of its sources, so that a crash at any point leaves the one or the others.
//!
//! `BASE.log.cleaned`, complete and flushed, becomes `BASE.log.swap`: from when that name is durable a start finishes what is left to do
//! ([`finish_swaps`]). Then the sources go, and only when that is durable too the new segment gets its final name. Their index files go
//! with the sources, so an index never outlives the segment that it was made for.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::error::LogError;
use super::super::span::Span;
use super::super::state::Segment;
use super::super::{Inner, aside, files, walk};
use super::io::Written;
use super::plan::Sealed;
use crate::base::ids::Offset;
use crate::rt::{DirEntry, Rt};

/// Replaces the sources of a group by the segment written to `.cleaned`. An error after that has got its name `.swap` has fenced the log:
/// what the directory holds is not known.
pub(super) async fn install<R: Rt>(log: &Inner<R>, group: &[Sealed], written: Written<R::File>) -> Result<(), LogError> {
    log.still_open()?;
    let base = group[0].base;
    merge_aborted(&log.rt, &log.dir, group).await?;
    rename(&log.rt, &files::name(&log.dir, base, "log.cleaned"), &files::name(&log.dir, base, "log.swap"))?;
    let done = swap(log, group, written).await;
    if let Err(e) = &done {
        log.fence(e);
        log.wake.notify();
        log.progressed();
    }
    done?;
    let index = {
        let state = log.state.borrow();
        state.segments[state.segment_of(base)].index.clone()
    };
    log.used_segment(base);
    if let Some(index) = index {
        files::write_index(&log.rt, &log.dir, base, &index).await;
    }
    Ok(())
}

async fn swap<R: Rt>(log: &Inner<R>, group: &[Sealed], written: Written<R::File>) -> Result<(), LogError> {
    let base = group[0].base;
    let (rt, dir) = (&log.rt, &log.dir);
    sync_dir(rt, dir).await?;
    let gone = {
        // Nobody reads the sources from the device, or loads an index of theirs, while they change places with the new one.
        let _turn = log.gate.enter().await;
        replace(log, group, written);
        retire_files(rt, dir, group)?
    };
    sync_dir(rt, dir).await?;
    give_final_names(rt, dir, base)?;
    if let Some(segment) = log.state.borrow_mut().segments.iter_mut().find(|s| s.base == base) {
        segment.swapping = false;
    }
    sync_dir(rt, dir).await?;
    log.remove_later(gone);
    Ok(())
}

/// The log as its readers see it.
fn replace<R: Rt>(log: &Inner<R>, group: &[Sealed], written: Written<R::File>) {
    let (first, last) = (group[0].base, group[group.len() - 1].base);
    let mut state = log.state.borrow_mut();
    let mut segment = Segment::new(first, log.config.get().index_interval_bytes);
    segment.size = written.size;
    segment.exists = true;
    segment.cut_to(written.size);
    segment.file = Some(written.file);
    segment.index = Some(written.index);
    segment.swapping = true;
    let (from, to) = (state.segments.partition_point(|s| s.base < first), state.segments.partition_point(|s| s.base <= last));
    state.segments.splice(from..to, [segment]);
    // Readers that hold slices of the old spans finish on them.
    let gone: Vec<(Offset, Span)> = state.spans.extract_if(.., |_, span| (first..=last).contains(&span.segment)).collect();
    let counted = gone.iter().filter(|(key, _)| !state.retired.iter().any(|(retired, _)| retired == key));
    let bytes = counted.map(|(_, span)| span.chunk.capacity()).sum();
    state.retired.retain(|(key, _)| !gone.iter().any(|(old, _)| old == key));
    drop(state);
    log.cache.forget(bytes);
}

/// Takes the sources' names away; what their bytes are called now.
fn retire_files<R: Rt>(rt: &R, dir: &Path, group: &[Sealed]) -> Result<Vec<PathBuf>, LogError> {
    let mut gone = Vec::with_capacity(group.len());
    for segment in group {
        for kind in files::DERIVED {
            remove(rt, &files::name(dir, segment.base, kind))?;
        }
        let retired = files::name(dir, segment.base, "log.deleted");
        rename(rt, &files::name(dir, segment.base, "log"), &retired)?;
        gone.push(retired);
    }
    Ok(gone)
}

fn give_final_names<R: Rt>(rt: &R, dir: &Path, base: Offset) -> Result<(), LogError> {
    for kind in ["txnindex", "log"] {
        let swap = files::name(dir, base, &format!("{kind}.swap"));
        match rt.rename(&swap, &files::name(dir, base, kind)) {
            Err(e) if kind == "txnindex" && e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(LogError::io("rename", &swap))?,
        }
    }
    Ok(())
}

/// The aborted transactions of all sources, for the new segment: entries say their offsets themselves, so that those of records that are
/// gone do no harm.
async fn merge_aborted<R: Rt>(rt: &R, dir: &Path, group: &[Sealed]) -> Result<(), LogError> {
    let mut entries = Vec::new();
    for segment in group {
        let path = files::name(dir, segment.base, "txnindex");
        match rt.read_file(&path) {
            Ok(bytes) => entries.extend(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(LogError::io("read", &path)(e)),
        }
    }
    if entries.is_empty() {
        return Ok(());
    }
    let path = files::name(dir, group[0].base, "txnindex.swap");
    rt.replace_file(&path, entries).await.map_err(LogError::io("write", &path))
}

/// Finishes what a crash has interrupted: segments under names that end in `.log.swap` are complete, and take the place of what they cover.
/// `entries` are those of the directory.
pub(in super::super) async fn finish_swaps<R: Rt>(rt: &R, dir: &Path, entries: &[DirEntry]) -> Result<(), LogError> {
    let bases = |kind| entries.iter().filter_map(move |e| files::base_of(&e.name, kind));
    let aborted: BTreeSet<Offset> = bases("txnindex.swap").collect();
    for entry in entries {
        let Some(base) = files::base_of(&entry.name, "log.swap") else { continue };
        let path = dir.join(&entry.name);
        let end = walk::end_of(rt, &path, base).await?;
        let last = bases("log").chain(bases("log.deleted")).filter(|covered| (base..end).contains(covered)).max();
        if !is_proved(rt, dir, last, end).await {
            set_sources_aside(rt, dir, entries, base..end).await?;
        }
        tracing::info!("{}: takes the place of the segments of offsets {base} to {end}", path.display());
        for covered in bases("log").chain(bases("index")).filter(|covered| (base..end.max(base + 1)).contains(covered)) {
            // That of the new segment may have its final name already.
            let kept = covered == base && !aborted.contains(&base);
            for kind in files::DERIVED.into_iter().chain(["log"]).filter(|kind| !(kept && *kind == "txnindex")) {
                remove(rt, &files::name(dir, covered, kind))?;
            }
        }
        sync_dir(rt, dir).await?;
        give_final_names(rt, dir, base)?;
        sync_dir(rt, dir).await?;
    }
    for entry in entries.iter().filter(|e| e.name.ends_with(".swap")) {
        let path = dir.join(&entry.name);
        match files::base_of(&entry.name, "txnindex.swap") {
            // Its segment went first, or has not got that far: it has all that the old one has.
            Some(base) if rt.list(dir).is_ok_and(|now| now.iter().any(|e| e.name == entry.name)) => {
                rename(rt, &path, &files::name(dir, base, "txnindex"))?;
            }
            // Indexes of Kafka's, which will be made anew.
            _ => remove(rt, &path)?,
        }
    }
    Ok(())
}

/// True when a segment that ends at `end` replaces the segment of `last`, and those before it, for certain: each ends with the same batch.
/// A base offset is covered by no checksum, and what is removed is gone.
async fn is_proved<R: Rt>(rt: &R, dir: &Path, last: Option<Offset>, end: Offset) -> bool {
    let Some(last) = last else { return true };
    for kind in ["log", "log.deleted"] {
        let path = files::name(dir, last, kind);
        if rt.len_of(&path).is_ok() {
            return walk::end_of(rt, &path, last).await.is_ok_and(|its_end| its_end == end);
        }
    }
    true
}

/// Renames the segments whose base lies in `covered`. Never the last one of the log, which nothing replaces.
async fn set_sources_aside<R: Rt>(rt: &R, dir: &Path, entries: &[DirEntry], covered: Range<Offset>) -> Result<(), LogError> {
    let mut bases: Vec<Offset> = entries.iter().filter_map(|e| files::base_of(&e.name, "log")).collect();
    bases.sort_unstable();
    if bases.last().is_some_and(|last| *last > covered.start && covered.contains(last)) {
        let swap = files::name(dir, covered.start, "log.swap");
        let reason = format!("it ends at offset {}, within the last segment or behind it", covered.end);
        return Err(LogError::corrupt(&swap, 0, reason));
    }
    for base in bases.into_iter().filter(|base| covered.contains(base)) {
        let aside = aside::rename_segment(rt, dir, base)?;
        tracing::warn!("{}: probably replaced by a compaction that a crash has interrupted: set aside", aside.display());
    }
    sync_dir(rt, dir).await
}

fn rename<R: Rt>(rt: &R, from: &Path, to: &Path) -> Result<(), LogError> {
    rt.rename(from, to).map_err(LogError::io("rename", from))
}

fn remove<R: Rt>(rt: &R, path: &Path) -> Result<(), LogError> {
    match rt.remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(LogError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

async fn sync_dir<R: Rt>(rt: &R, dir: &Path) -> Result<(), LogError> {
    rt.sync_dir(dir).await.map_err(LogError::io("flush", dir))
}
