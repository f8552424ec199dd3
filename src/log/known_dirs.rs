//! The log directories of this node: a small file in each of them names all by id.
//!
//! A directory that is missing from `log.dirs` is so told from one that never was: partitions that
//! may lie there are offline, not empty, and a missing metadata log is no reason for a new one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::LogError;
use super::files;
use crate::base::ids::Uuid;
use crate::rt::Rt;

/// The file's name; one that Kafka does not know and leaves alone.
pub const NAME: &str = "corelane-log-dirs";

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownDirs {
    /// Grows with each change: of several files the one with the largest counts.
    pub revision: u64,
    /// Directory that holds the metadata log, once there is one.
    pub metadata: Option<Uuid>,
    /// Every directory by its id, with the path that it was last seen at.
    pub paths: BTreeMap<Uuid, String>,
}

/// What a data directory says of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredDirs {
    /// It has no such file.
    Missing,
    /// The file, with this path, is not what was once written.
    Damaged(PathBuf),
    /// The file's content.
    Whole(KnownDirs),
}

impl KnownDirs {
    /// The text form; the last line is a checksum. In version 0 it only says that the text is whole.
    fn encode(&self) -> String {
        let mut text = format!("version=1\nrevision={}\n", self.revision);
        if let Some(id) = self.metadata {
            text.push_str(&format!("metadata={id}\n"));
        }
        for (id, path) in &self.paths {
            text.push_str(&format!("directory.{id}={}\n", path.replace('\n', " ")));
        }
        files::with_checksum(text)
    }

    /// `None` where the text is not what was once encoded.
    fn parse(text: &str) -> Option<KnownDirs> {
        let content = match text.starts_with("version=0\n") {
            true => text.strip_suffix("end=0\n")?,
            false => files::without_checksum(text)?,
        };
        let mut lines = content.lines();
        if !matches!(lines.next()?, "version=0" | "version=1") {
            return None;
        }
        let revision = lines.next()?.strip_prefix("revision=")?.parse().ok()?;
        let mut known = KnownDirs { revision, ..KnownDirs::default() };
        for line in lines {
            let (key, value) = line.split_once('=')?;
            match key.strip_prefix("directory.") {
                Some(id) => {
                    known.paths.insert(id.parse().ok()?, value.to_owned());
                }
                None if key == "metadata" => known.metadata = Some(value.parse().ok()?),
                None => return None,
            }
        }
        Some(known)
    }

    /// Reads the file in a data directory.
    pub fn read<R: Rt>(rt: &R, data_dir: &Path) -> Result<StoredDirs, LogError> {
        let path = data_dir.join(NAME);
        let Some(text) = files::read_text(rt, &path)? else { return Ok(StoredDirs::Missing) };
        Ok(KnownDirs::parse(&text).map_or(StoredDirs::Damaged(path), StoredDirs::Whole))
    }

    /// Replaces the file in a data directory.
    pub async fn write<R: Rt>(&self, rt: &R, data_dir: &Path) -> Result<(), LogError> {
        let path = data_dir.join(NAME);
        rt.replace_file(&path, self.encode().into_bytes()).await.map_err(LogError::io_or_exhausted("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let ids = [Uuid::from_random([1; 16]), Uuid::from_random([2; 16])];
        let paths = BTreeMap::from([(ids[0], "/a=b".to_owned()), (ids[1], "/c".to_owned())]);
        let known = KnownDirs { revision: 7, metadata: Some(ids[0]), paths };
        let text = known.encode();
        assert_eq!(KnownDirs::parse(&text).as_ref(), Some(&known));
        let before = "version=0\nrevision=7\nmetadata={0}\ndirectory.{0}=/a=b\ndirectory.{1}=/c\nend=0\n";
        let before = before.replace("{0}", &ids[0].to_string()).replace("{1}", &ids[1].to_string());
        assert_eq!(KnownDirs::parse(&before), Some(known));
        assert_eq!(KnownDirs::parse(&KnownDirs::default().encode()), Some(KnownDirs::default()));
        for cut in 0..text.len() {
            assert_eq!(KnownDirs::parse(&text[..cut]), None, "{cut}");
            let mut damaged = text.clone().into_bytes();
            damaged[cut] ^= 1;
            assert_eq!(KnownDirs::parse(&String::from_utf8_lossy(&damaged)), None, "{cut}");
        }
        for bad in ["version=1\nrevision=0\nend=0\n", "version=0\nrevision=0\nx=1\nend=0\n"] {
            assert_eq!(KnownDirs::parse(bad), None, "{bad:?}");
        }
    }
}
