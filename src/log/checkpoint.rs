//! Kafka's offset checkpoint files: recovery points, log start offsets, high watermarks of all partitions of a data directory.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::LogError;
use super::files;
use crate::base::ids::Offset;
use crate::rt::Rt;

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
        tracing::warn!("{}: damaged ({reason}): going on without it, all of every log will be looked at", path.display());
        Offsets::new()
    }))
}

/// Replaces the checkpoint `name` of a data directory.
pub async fn write<R: Rt>(rt: &R, data_dir: &Path, name: &str, offsets: &Offsets) -> Result<(), LogError> {
    let path = data_dir.join(name);
    rt.replace_file(&path, encode(offsets).into_bytes()).await.map_err(LogError::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let offsets = Offsets::from([(("a".to_owned(), 0), 5), (("b.c".to_owned(), 12), i64::MAX)]);
        assert_eq!(encode(&offsets), format!("0\n2\na 0 5\nb.c 12 {}\n", i64::MAX));
        assert_eq!(parse(&encode(&offsets)), Ok(offsets));
        for bad in ["", "1\n0\n", "0\nx\n", "0\n2\na 0 5\n", "0\n1\na 0\n", "0\n1\na 0 5 6\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
