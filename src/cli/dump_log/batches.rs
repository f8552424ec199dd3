//! The batches of a log file, one after the other, read through one buffer.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Failed, failed, unreadable};
use crate::wire::batch::{BatchHeader, HEADER_LEN, LOG_OVERHEAD, MAGIC};

/// Up to the magic, which says how to read the rest.
const UP_TO_MAGIC: u64 = 17;
/// Shortest batch of any format behind its length.
const SHORTEST: i32 = 14;
const WINDOW: usize = 1 << 20;
/// Kafka's segments are no larger.
const LARGEST_FILE: u64 = i32::MAX as u64;

/// An open log file.
pub struct LogFile {
    path: String,
    file: File,
    size: u64,
    /// Where the buffer begins.
    start: u64,
    window: Vec<u8>,
}

/// Where to read, in bytes from the file's beginning.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub position: u64,
    pub end: u64,
}

impl LogFile {
    /// Opens a file; one that grows meanwhile is read up to its size of now.
    pub fn open(path: &str) -> Result<LogFile, Failed> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = opened.or_else(|e| unreadable(path, &e))?;
        if size > LARGEST_FILE {
            let text = format!("The size of segment {path} ({size}) is larger than the maximum allowed segment size of {LARGEST_FILE}");
            return failed(text);
        }
        Ok(LogFile { path: path.to_owned(), file, size, start: 0, window: Vec::new() })
    }

    /// At most `size` bytes from `position` on. Fails behind the end.
    pub fn range(&self, position: i32, size: i32) -> Result<Range, Failed> {
        let (path, all) = (&self.path, self.size);
        let this = || format!("FileRecords(size={all}, file={path}, start=0, end={})", i32::MAX);
        let Ok(from) = u64::try_from(position) else {
            return failed(format!("Invalid position: {position} in read from {}", this()));
        };
        if from > all {
            return failed(format!("Slice from position {position} exceeds end position of {}", this()));
        }
        let Ok(size) = u64::try_from(size) else { return failed(format!("Invalid size: {size} in read from {}", this())) };
        Ok(Range { position: from, end: (from + size).min(all) })
    }

    fn at(&mut self, position: u64, len: usize) -> Result<&[u8], Failed> {
        let held = position >= self.start && position + len as u64 <= self.start + self.window.len() as u64;
        if !held {
            // What is read lies within the size that the file had when it was opened.
            let wanted = (self.size - position).min(len.max(WINDOW) as u64) as usize;
            self.window.resize(wanted, 0);
            self.start = position;
            self.file.read_exact_at(&mut self.window, position).or_else(|e| unreadable(&self.path, &e))?;
        }
        let from = (position - self.start) as usize;
        Ok(&self.window[from..from + len])
    }

    /// The batch at the range's position, which moves behind it. `None` at the end, and where the last batch is not whole.
    pub fn next(&mut self, range: &mut Range) -> Result<Option<(BatchHeader, &[u8])>, Failed> {
        let left = range.end - range.position;
        if left <= UP_TO_MAGIC {
            return Ok(None);
        }
        let head = self.at(range.position, UP_TO_MAGIC as usize)?;
        let (length, magic) = (i32::from_be_bytes([head[8], head[9], head[10], head[11]]), head[16] as i8);
        if length < SHORTEST {
            let path = &self.path;
            return failed(format!("Found record size {length} smaller than minimum record overhead ({SHORTEST}) in file {path}."));
        }
        let len = LOG_OVERHEAD + length as usize;
        if len as u64 > left {
            return Ok(None);
        }
        let (path, position) = (self.path.clone(), range.position);
        let damaged = |reason: String| Failed::Message(format!("{path}: at byte {position}: {reason}"));
        if magic < MAGIC {
            return Err(damaged(format!("a message of format {magic}, which only Kafka before 4.0 writes, and Corelane does not read")));
        }
        range.position += len as u64;
        let batch = self.at(position, len)?;
        let header = batch.get(..HEADER_LEN).ok_or_else(|| damaged(format!("a batch of {len} bytes is shorter than its header")))?;
        let header = BatchHeader::parse(header).map_err(|e| damaged(e.to_string()))?;
        Ok(Some((header, batch)))
    }
}
