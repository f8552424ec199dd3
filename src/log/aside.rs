//! Files that recovery sets aside: bytes that a log cannot keep, under names that neither a start nor Kafka reads as part of it.
//!
//! `BASE.log.POSITION.CRC.corrupt` holds the bytes of the segment from the block of `POSITION` on that were flushed once;
//! `BASE.log.corrupt` a whole segment. These stay until somebody removes them, or the topic is deleted. `….torn` holds bytes that
//! nobody has vouched for, after a failure of the machine mostly: a few of them are kept. The checksum in the name makes a start that
//! is repeated write the same file again.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::LogError;
use super::files;
use super::span::{block_ceil, block_floor};
use crate::base::ids::Offset;
use crate::base::limits::BLOCK;
use crate::rt::mem::Chunk;
use crate::rt::{Open, Rt};

const CORRUPT: &str = "corrupt";
const TORN: &str = "torn";
/// Torn ends that are kept of one log.
const TORN_KEPT: usize = 4;
/// Bytes copied at a time.
const PIECE: u64 = 1 << 20;

/// Copies the bytes of `range` in the segment of `base` to a file beside it, durably, if there are others than zeros. The file's name,
/// and how many bytes of the range it holds.
pub(super) async fn keep<R: Rt>(
    rt: &R,
    dir: &Path,
    file: &R::File,
    base: Offset,
    range: Range<u64>,
    flushed: bool,
) -> Result<Option<(PathBuf, u64)>, LogError> {
    let path = files::name(dir, base, "log");
    let len = (range.end - block_floor(range.start)).min(PIECE).next_multiple_of(BLOCK as u64);
    let mut chunk = rt.memory().chunk(len as usize).await;
    let (mut at, mut end) = (block_floor(range.start), range.start);
    while at < range.end {
        chunk = read(rt, file, &path, at, chunk).await?;
        let skipped = range.start.saturating_sub(at) as usize;
        let last = chunk.filled().iter().skip(skipped).rposition(|byte| *byte != 0);
        end = last.map_or(end, |last| at + (skipped + last) as u64 + 1);
        at += PIECE;
    }
    if end == range.start {
        return Ok(None);
    }
    // A batch may end in zeros.
    let end = block_ceil(end).min(range.end);
    let start = block_floor(range.start);
    let beside = dir.join(format!("{base:020}.log.{start:010}.tmp"));
    let copy = rt.open(&beside, Open::Create).await.map_err(LogError::io_or_exhausted("create", &beside))?;
    let (mut at, mut crc) = (start, 0);
    while at < end {
        chunk = read(rt, file, &path, at, chunk).await?;
        let n = chunk.len().min((end - at) as usize);
        crc = crc32c::crc32c_append(crc, &chunk.filled()[..n]);
        let whole = n.next_multiple_of(BLOCK);
        let held = chunk.len();
        if whole > held {
            chunk.spare()[..whole - held].fill(0);
        }
        rt.write_at(&copy, at - start, chunk.window(0..whole), false).await.map_err(LogError::io_or_exhausted("write", &beside))?;
        at += PIECE;
    }
    rt.truncate(&copy, end - start).await.map_err(LogError::io("truncate", &beside))?;
    rt.sync(&copy).await.map_err(LogError::io("flush", &beside))?;
    let kept = dir.join(format!("{base:020}.log.{start:010}.{crc:08x}.{}", if flushed { CORRUPT } else { TORN }));
    rt.rename(&beside, &kept).map_err(LogError::io("rename", &beside))?;
    rt.sync_dir(dir).await.map_err(LogError::io("flush", dir))?;
    forget_torn(rt, dir);
    Ok(Some((kept, end - range.start)))
}

/// The file that was set aside from the log in `dir` and has `bytes` in it, if there is one.
pub fn find_in_cut<R: Rt>(rt: &R, dir: &Path, bytes: &[u8]) -> Result<Option<PathBuf>, LogError> {
    let entries = rt.list(dir).map_err(LogError::io("list", dir))?;
    let kept = |name: &str| [CORRUPT, TORN].iter().any(|end| name.ends_with(&format!(".{end}")));
    for entry in entries.iter().filter(|entry| kept(&entry.name)) {
        let path = dir.join(&entry.name);
        let content = rt.read_file(&path).map_err(LogError::io("read", &path))?;
        if content.windows(bytes.len()).any(|window| window == bytes) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

async fn read<R: Rt>(rt: &R, file: &R::File, path: &Path, at: u64, mut chunk: Chunk) -> Result<Chunk, LogError> {
    assert!(chunk.try_reset(), "nothing of it was handed out");
    let want = (PIECE as usize).min(chunk.capacity() / BLOCK * BLOCK);
    let (result, chunk) = rt.read_at(file, at, chunk, want).await;
    result.map_err(LogError::io("read", path))?;
    Ok(chunk)
}

/// Removes torn ends but for the last ones. What fails is tried again when the next one comes.
fn forget_torn<R: Rt>(rt: &R, dir: &Path) {
    let entries = rt.list(dir).unwrap_or_default();
    let torn: Vec<_> = entries.iter().filter(|entry| entry.name.ends_with(&format!(".{TORN}"))).collect();
    for old in &torn[..torn.len().saturating_sub(TORN_KEPT)] {
        let _ = rt.remove_file(&dir.join(&old.name));
    }
}

/// Renames the segment of `base`; its new name. Not flushed.
pub(super) fn rename_segment<R: Rt>(rt: &R, dir: &Path, base: Offset) -> Result<PathBuf, LogError> {
    let path = files::name(dir, base, "log");
    let names = std::iter::once(format!("log.{CORRUPT}")).chain((1..).map(|n| format!("log.{n}.{CORRUPT}")));
    let taken: Vec<String> = rt.list(dir).map_err(LogError::io("list", dir))?.into_iter().map(|entry| entry.name).collect();
    let mut free = names.map(|kind| files::name(dir, base, &kind));
    let free = free.find(|name| !taken.iter().any(|taken| name.ends_with(taken))).unwrap_or_else(|| path.clone());
    rt.rename(&path, &free).map_err(LogError::io("rename", &path))?;
    Ok(free)
}
