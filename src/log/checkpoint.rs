//! Checkpoints of a data directory: offsets of all its partitions.
//!
//! Kafka's files name partitions by topic name, so an entry of a deleted topic looks like one of its
//! successor. They are read where there is no file of our own, which names partitions by topic id.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::LogError;
use super::{Opening, files};
use crate::base::ids::{Offset, TopicId};
use crate::rt::Rt;

/// Our own checkpoint; Kafka leaves the file alone.
const OWN: &str = "corelane-checkpoint";

/// `recovery-point-offset-checkpoint`: below it everything is known to be flushed.
pub const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// `log-start-offset-checkpoint`: first offsets to serve, where not the first segment's.
pub const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// `replication-offset-checkpoint`: high watermarks.
pub const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
/// `cleaner-offset-checkpoint`: below it everything is compacted, of the logs that were ever cleaned.
pub const CLEANED: &str = "cleaner-offset-checkpoint";

/// Offsets by topic name and partition.
pub type Offsets = BTreeMap<(String, i32), Offset>;

/// The text form: version 0, the count, one `TOPIC PARTITION OFFSET` per line.
pub fn encode(offsets: &Offsets) -> String {
    let mut text = format!("0\n{}\n", offsets.len());
    for ((topic, partition), offset) in offsets {
        text.push_str(&format!("{topic} {partition} {offset}\n"));
    }
    text
}

/// Reads the text form; the error says what is wrong.
pub fn parse(text: &str) -> Result<Offsets, String> {
    // Kafka leaves it so where it has nothing to tell.
    if text.is_empty() {
        return Ok(Offsets::new());
    }
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some("0") {
        return Err("its version is not 0".into());
    }
    let count: usize = lines.next().and_then(|l| l.trim().parse().ok()).ok_or("its second line is no count")?;
    let mut offsets = Offsets::new();
    for line in lines.filter(|l| !l.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let entry = (|| Some(((words.next()?.to_owned(), words.next()?.parse().ok()?), words.next()?.parse().ok()?)))();
        let (key, offset) = entry.filter(|_| words.next().is_none()).ok_or_else(|| format!("this is no entry: {line}"))?;
        offsets.insert(key, offset);
    }
    if offsets.len() != count {
        return Err(format!("it says {count} entries but has {}", offsets.len()));
    }
    Ok(offsets)
}

/// Reads the checkpoint `name` of a data directory; empty when there is none, or when it is damaged: it only says what need not be looked
/// at, so that all is looked at then.
pub fn read<R: Rt>(rt: &R, data_dir: &Path, name: &str) -> Result<Offsets, LogError> {
    let path = data_dir.join(name);
    let Some(text) = files::read_text(rt, &path)? else { return Ok(Offsets::new()) };
    Ok(parse(&text).unwrap_or_else(|reason| {
        damaged(&path, &reason);
        Offsets::new()
    }))
}

/// Entries of our own checkpoint by topic id and partition. `clean` of an entry: the log was closed
/// properly, or had been when the process started and was not opened since.
pub type Entries = BTreeMap<(TopicId, i32), Opening>;

/// The text form: version 1, the count, lines of
/// `TOPIC_ID PARTITION RECOVERY_POINT LOG_START CLEANED CLEAN`, the last one 0 or 1, and a checksum.
/// Version 0 has none.
fn encode_own(entries: &Entries) -> String {
    let mut text = format!("1\n{}\n", entries.len());
    for ((topic, partition), entry) in entries {
        let Opening { recovery_point, log_start, cleaned, clean } = entry;
        let clean = u8::from(*clean);
        text.push_str(&format!("{topic} {partition} {recovery_point} {log_start} {cleaned} {clean}\n"));
    }
    files::with_checksum(text)
}

/// Reads the text form; the error says what is wrong.
fn parse_own(text: &str) -> Result<Entries, String> {
    let text = match text.starts_with("0\n") {
        true => text,
        false => files::without_checksum(text).ok_or("its checksum is not that of its text")?,
    };
    let mut lines = text.lines();
    if !matches!(lines.next(), Some("0" | "1")) {
        return Err("its version is neither 0 nor 1".into());
    }
    let count: usize = lines.next().and_then(|l| l.parse().ok()).ok_or("its second line is no count")?;
    let mut entries = Entries::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let entry = || {
            let &[topic, partition, recovery_point, log_start, cleaned, clean] = &words[..] else { return None };
            let opening = Opening {
                recovery_point: recovery_point.parse().ok()?,
                log_start: log_start.parse().ok()?,
                cleaned: cleaned.parse().ok()?,
                clean: clean == "1",
            };
            Some(((topic.parse().ok()?, partition.parse().ok()?), opening))
        };
        let (key, opening) = entry().ok_or_else(|| format!("this is no entry: {line}"))?;
        entries.insert(key, opening);
    }
    if entries.len() != count {
        return Err(format!("it says {count} entries but has {}", entries.len()));
    }
    Ok(entries)
}

/// Reads our own checkpoint of a data directory; `None` when there never was one. A damaged one has
/// no entries.
pub fn read_own<R: Rt>(rt: &R, data_dir: &Path) -> Result<Option<Entries>, LogError> {
    let path = data_dir.join(OWN);
    let Some(text) = files::read_text(rt, &path)? else { return Ok(None) };
    Ok(Some(parse_own(&text).unwrap_or_else(|reason| {
        damaged(&path, &reason);
        Entries::new()
    })))
}

/// Replaces our own checkpoint of a data directory.
pub async fn write_own<R: Rt>(rt: &R, data_dir: &Path, entries: &Entries) -> Result<(), LogError> {
    let path = data_dir.join(OWN);
    let text = encode_own(entries).into_bytes();
    rt.replace_file(&path, text).await.map_err(LogError::io_or_exhausted("write", &path))
}

fn damaged(path: &Path, reason: &str) {
    tracing::warn!("{}: damaged ({reason}): going on without it, all of every log will be looked at", path.display());
}

/// Replaces the checkpoint `name` of a data directory.
pub async fn write<R: Rt>(rt: &R, data_dir: &Path, name: &str, offsets: &Offsets) -> Result<(), LogError> {
    let path = data_dir.join(name);
    rt.replace_file(&path, encode(offsets).into_bytes()).await.map_err(LogError::io_or_exhausted("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let offsets = Offsets::from([(("a".to_owned(), 0), 5), (("b.c".to_owned(), 12), i64::MAX)]);
        assert_eq!(encode(&offsets), format!("0\n2\na 0 5\nb.c 12 {}\n", i64::MAX));
        assert_eq!(parse(&encode(&offsets)), Ok(offsets));
        assert_eq!(parse(""), Ok(Offsets::new()));
        for bad in ["1\n0\n", "0\nx\n", "0\n2\na 0 5\n", "0\n1\na 0\n", "0\n1\na 0 5 6\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn our_own_form_round_trips_and_bad_text_is_refused() {
        let entry = Opening { recovery_point: 20, clean: true, log_start: 15, cleaned: 3 };
        let other = Opening { recovery_point: i64::MAX, ..Opening::default() };
        let ids = [TopicId::from_random([1; 16]), TopicId::from_random([2; 16])];
        let entries = Entries::from([((ids[0], 0), entry), ((ids[0], 1), other), ((ids[1], 0), other)]);
        assert_eq!(parse_own(&encode_own(&entries)).as_ref(), Ok(&entries));
        let text = encode_own(&entries);
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert!(parse_own(&String::from_utf8_lossy(&damaged)).is_err(), "{at}");
            assert!(parse_own(&text[..at]).is_err(), "{at}");
        }
        let line = format!("{} 0 20 15 3 1", ids[0]);
        assert!(parse_own(&format!("0\n1\n{line}\n")).is_ok());
        for bad in ["", "1\n0\n", "0\nx\n", "0\n1\nt 0 20 15 3 1\n"] {
            assert!(parse_own(bad).is_err(), "{bad:?}");
        }
        for (count, line) in [(2, line.clone()), (1, format!("{line} 1")), (1, line[..line.len() - 2].into())] {
            assert!(parse_own(&format!("0\n{count}\n{line}\n")).is_err(), "{count} {line:?}");
        }
    }
}
