//! What can go wrong with a log.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation of a log failed. The texts name the file and say what was being done.
#[derive(Debug)]
pub enum LogError {
    /// A write or flush failed before: nothing is accepted any more, what was confirmed stays readable. With the first reason.
    Fenced(String),
    /// No room on the disk or no file descriptor: nothing is accepted until there is, what was written stays. With what was tried.
    Exhausted(String),
    /// The log was closed or deleted.
    Closed,
    /// There is no such directory.
    Missing(PathBuf),
    /// The batch is larger than a segment may be.
    TooLarge,
    /// The log's offsets contradict each other: a fault of the program. It is fenced.
    Disorder(String),
    /// The bytes are no record batch, or its base offset is below the log's end.
    BadBatch(String),
    /// A file operation failed.
    Io {
        /// What was being done, to which file.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// What is stored is not this log's, or contradicts something else that is.
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// What is stored cannot be right.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Byte position in it.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
}

impl LogError {
    pub(super) fn io(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let what = format!("{doing} {}", path.display());
        move |source| LogError::Io { what, source }
    }

    /// As [`LogError::io`], for operations that may be tried again once there is room, or a descriptor.
    pub(super) fn io_or_exhausted(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let what = format!("{doing} {}", path.display());
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EMFILE | libc::ENFILE) => {
                LogError::Exhausted(format!("cannot {what}: {source}"))
            }
            _ => LogError::Io { what, source },
        }
    }

    /// For a directory that cannot be removed.
    pub fn removing(dir: &Path) -> impl FnOnce(io::Error) -> LogError {
        LogError::io("remove", dir)
    }

    /// For a directory that another partition has.
    pub fn taken(dir: &Path) -> LogError {
        LogError::refused(dir, "it is the directory of another partition")
    }

    /// A file or directory that is not what it should be.
    pub fn refused(path: &Path, reason: impl Into<String>) -> LogError {
        LogError::Refused { path: path.into(), reason: reason.into() }
    }

    /// Bytes of a file that cannot be right.
    pub fn corrupt(path: &Path, position: u64, reason: impl Into<String>) -> LogError {
        LogError::Corrupt { path: path.into(), position, reason: reason.into() }
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Fenced(reason) => write!(f, "the partition is offline: {reason}"),
            LogError::Missing(dir) => write!(f, "{} does not exist", dir.display()),
            LogError::Exhausted(what) => f.write_str(what),
            LogError::Disorder(offsets) => write!(f, "its offsets are out of order: {offsets}"),
            LogError::Closed => f.write_str("the log is closed"),
            LogError::TooLarge => f.write_str("the batch is larger than the segment size"),
            LogError::BadBatch(reason) => write!(f, "bad batch: {reason}"),
            LogError::Io { what, source } => write!(f, "cannot {what}: {source}"),
            LogError::Refused { path, reason } => write!(f, "{}: {reason}", path.display()),
            LogError::Corrupt { path, position, reason } => write!(f, "{} is damaged at byte {position}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for LogError {}
