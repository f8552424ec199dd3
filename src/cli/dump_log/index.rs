//! Printing `.index` and `.timeindex` files, and comparing them with their log.

use std::io::Write;

use super::batches::LogFile;
use super::{Failed, Findings, absolute, base_offset, failed, note, sibling, unreadable};
use crate::wire::batch::{BatchHeader, NO_TIMESTAMP};

/// What is done with an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// What a starting broker looks at.
    Sanity,
    /// Compared with the log.
    Quietly,
    /// Compared and printed.
    Print,
}

struct Index {
    base: i64,
    /// Bytes of the file.
    len: usize,
    /// (offset, position)
    entries: Vec<(i64, i32)>,
}

fn read(path: &str) -> Result<Vec<u8>, Failed> {
    std::fs::read(path).or_else(|e| unreadable(path, &e))
}

impl Index {
    fn open(path: &str, base: i64) -> Result<Index, Failed> {
        let bytes = read(path)?;
        let entry = |entry: &[u8]| (base.wrapping_add(int(entry).into()), int(&entry[4..]));
        Ok(Index { base, len: bytes.len(), entries: bytes.chunks_exact(8).map(entry).collect() })
    }

    fn sane(&self, path: &str) -> Result<(), Failed> {
        let (path, base) = (absolute(path), self.base);
        if let Some((last, _)) = self.entries.last().filter(|(last, _)| *last < base) {
            return failed(format!(
                "Corrupt index found, index file {path} has non-zero size but the last offset is {last} \
                 which is less than the base offset {base}"
            ));
        }
        whole(self.len, 8, &format!("Index file {path}"))
    }

    /// Where the batch that holds an offset may begin.
    fn lookup(&self, offset: i64) -> i32 {
        // An index that was allocated ahead ends in zeros: its entries rise only up to there.
        let used = self.entries.iter().skip(1).position(|e| e.0 == self.base).map_or(self.entries.len(), |at| at + 1);
        let entries = &self.entries[..used];
        entries.partition_point(|e| e.0 <= offset).checked_sub(1).map_or(0, |at| entries[at].1)
    }
}

fn whole(len: usize, entry: usize, what: &str) -> Result<(), Failed> {
    if len.is_multiple_of(entry) {
        return Ok(());
    }
    failed(format!("{what} is corrupt, found {len} bytes which is neither positive nor a multiple of {entry}"))
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Prints an `.index` file.
pub fn offsets(out: &mut dyn Write, path: &str, check: Check, max_message_size: i32, findings: &mut Findings) -> Result<(), Failed> {
    let base = base_offset(path)?;
    let mut log = LogFile::open(&sibling(path, "log"))?;
    let index = Index::open(path, base)?;
    if index.entries.is_empty() {
        return Ok(writeln!(out, "{path} is empty.")?);
    }
    if check == Check::Sanity {
        index.sane(path)?;
        return Ok(writeln!(out, "{path} passed sanity check.")?);
    }
    let mut mismatches = Vec::new();
    for (at, (offset, position)) in index.entries.iter().copied().enumerate() {
        if at > 0 && offset == base {
            // Allocated ahead, not written yet.
            break;
        }
        let mut range = log.range(position, max_message_size)?;
        let Some((header, _)) = log.next(&mut range)? else {
            return failed(format!("{path}: the log has no batch of up to {max_message_size} bytes at position {position}"));
        };
        if header.last_offset() != offset {
            mismatches.push((offset, header.last_offset()));
        }
        if check == Check::Print {
            writeln!(out, "offset: {offset} position: {position}")?;
        }
    }
    if !mismatches.is_empty() {
        mismatches.sort_unstable_by(|a, b| b.cmp(a));
        findings.index_mismatches.push((absolute(path), mismatches));
    }
    Ok(())
}

struct TimeIndex {
    base: i64,
    len: usize,
    /// (timestamp, offset)
    entries: Vec<(i64, i64)>,
}

impl TimeIndex {
    fn open(path: &str, base: i64) -> Result<TimeIndex, Failed> {
        let bytes = read(path)?;
        let entry = |entry: &[u8]| {
            let (timestamp, offset) = entry.split_first_chunk().expect("twelve bytes");
            (i64::from_be_bytes(*timestamp), base.wrapping_add(int(offset).into()))
        };
        Ok(TimeIndex { base, len: bytes.len(), entries: bytes.chunks_exact(12).map(entry).collect() })
    }

    fn sane(&self, path: &str) -> Result<(), Failed> {
        let (path, base) = (absolute(path), self.base);
        let corrupt = |what: &str, last: i64, first: i64| {
            failed(format!(
                "Corrupt time index found, time index file ({path}) has non-zero size but the last {what} is {last} \
                 which is less than the first {what} {first}"
            ))
        };
        if let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) {
            if last.0 < first.0 {
                return corrupt("timestamp", last.0, first.0);
            }
            if last.1 < base {
                return corrupt("offset", last.1, base);
            }
        }
        whole(self.len, 12, &format!("Time index file {path}"))
    }
}

/// Prints a `.timeindex` file.
pub fn times(out: &mut dyn Write, path: &str, check: Check, findings: &mut Findings) -> Result<(), Failed> {
    let base = base_offset(path)?;
    let mut log = LogFile::open(&sibling(path, "log"))?;
    let offsets = Index::open(&sibling(path, "index"), base)?;
    let index = TimeIndex::open(path, base)?;
    if check == Check::Sanity {
        index.sane(path)?;
        return Ok(writeln!(out, "{path} passed sanity check.")?);
    }
    let file = absolute(path);
    let mut before = NO_TIMESTAMP;
    for (at, (timestamp, offset)) in index.entries.iter().copied().enumerate() {
        if at > 0 && offset == base {
            break;
        }
        match find(&mut log, offsets.lookup(offset), offset)? {
            Some((found, max_timestamp)) if found == offset => {
                if max_timestamp != timestamp {
                    note(&mut findings.time_mismatches, &file, (timestamp, max_timestamp));
                }
                if before >= timestamp {
                    note(&mut findings.times_out_of_order, &file, (timestamp, before));
                }
            }
            other => note(&mut findings.offsets_not_found, &file, (offset, other.map_or(-1, |(found, _)| found))),
        }
        if check == Check::Print {
            writeln!(out, "timestamp: {timestamp} offset: {offset}")?;
        }
        before = timestamp;
    }
    Ok(())
}

/// The first batch from `position` on that ends at `offset` or behind it: its last offset, and the largest timestamp of its records if
/// it ends there.
fn find(log: &mut LogFile, position: i32, offset: i64) -> Result<Option<(i64, i64)>, Failed> {
    let mut range = log.range(position, i32::MAX)?;
    while let Some((header, batch)) = log.next(&mut range)? {
        if header.last_offset() >= offset {
            let max = if header.last_offset() == offset { largest_timestamp(&header, batch)? } else { NO_TIMESTAMP };
            return Ok(Some((header.last_offset(), max)));
        }
    }
    Ok(None)
}

fn largest_timestamp(header: &BatchHeader, batch: &[u8]) -> Result<i64, Failed> {
    let mut max = NO_TIMESTAMP;
    super::log::records(header, batch, |_, timestamp, _| {
        max = max.max(timestamp);
        Ok(())
    })?;
    Ok(max)
}
