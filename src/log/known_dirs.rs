//! The log directories of this node: a small file in each of them names all by id.
//!
//! A directory that is missing from `log.dirs` is so told from one that never was: partitions that
//! may lie there are offline, not empty, and a missing metadata log is no reason for a new one.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::LogError;
use super::files;
use crate::base::ids::Uuid;
use crate::rt::Rt;

/// The file's name; one that Kafka does not know and leaves alone.
const NAME: &str = "corelane-log-dirs";

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

impl KnownDirs {
    /// The text form; the last line says that it is whole.
    fn encode(&self) -> String {
        let mut text = format!("version=0\nrevision={}\n", self.revision);
        if let Some(id) = self.metadata {
            text.push_str(&format!("metadata={id}\n"));
        }
        for (id, path) in &self.paths {
            text.push_str(&format!("directory.{id}={}\n", path.replace('\n', " ")));
        }
        text.push_str("end=0\n");
        text
    }

    /// `None` where the text is not what was once encoded.
    fn parse(text: &str) -> Option<KnownDirs> {
        let mut lines = text.strip_suffix("end=0\n")?.lines();
        if lines.next()? != "version=0" {
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

    /// Reads the file in a data directory; `None` where there is none.
    pub fn read<R: Rt>(rt: &R, data_dir: &Path) -> Result<Option<KnownDirs>, LogError> {
        let path = data_dir.join(NAME);
        let Some(text) = files::read_text(rt, &path)? else { return Ok(None) };
        let known = KnownDirs::parse(&text);
        known.map(Some).ok_or_else(|| LogError::corrupt(&path, 0, "it is no list of log directories"))
    }

    /// Replaces the file in a data directory.
    pub async fn write<R: Rt>(&self, rt: &R, data_dir: &Path) -> Result<(), LogError> {
        let path = data_dir.join(NAME);
        rt.replace_file(&path, self.encode().into_bytes()).await.map_err(LogError::io("write", &path))
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
        assert_eq!(KnownDirs::parse(&text), Some(known));
        assert_eq!(KnownDirs::parse(&KnownDirs::default().encode()), Some(KnownDirs::default()));
        for cut in 0..text.len() {
            assert_eq!(KnownDirs::parse(&text[..cut]), None, "{cut}");
        }
        for bad in ["version=1\nrevision=0\nend=0\n", "version=0\nrevision=0\nx=1\nend=0\n"] {
            assert_eq!(KnownDirs::parse(bad), None, "{bad:?}");
        }
    }
}
