//! Checkpoints, indexes and small files against those that Kafka's own classes write and read.

use serde_json::json;

use super::checkpoint::{self, Offsets};
use super::dir::{self, Meta};
use super::files;
use super::index::Index;
use crate::base::golden::{Case, cases};
use crate::base::ids::Uuid;
use crate::rt::Rt;
use crate::sim::Sim;

/// Base offset of the segment that the indexes are of; bytes of it, offsets in it.
const BASE: i64 = 1000;
const SIZE: u64 = 30_000;
const OFFSETS: i64 = 60;

fn file<'a>(all: &'a [Case], name: &str) -> (&'a [u8], &'a serde_json::Value) {
    let case = all.iter().find(|case| case.name.strip_prefix("file/") == Some(name));
    let case = case.unwrap_or_else(|| panic!("no {name}"));
    (case.value.as_deref().expect("a file"), &case.fields)
}

#[test]
fn checkpoints() {
    let all = cases("files.txt");
    for name in ["offset-checkpoint/0", "offset-checkpoint/2"] {
        let (bytes, fields) = file(&all, name);
        let text = std::str::from_utf8(bytes).unwrap();
        let read: Offsets = checkpoint::parse(text).unwrap();
        let shown: Vec<_> = read.iter().map(|((topic, p), offset)| json!([format!("{topic}-{p}"), offset])).collect();
        assert_eq!((&json!(shown), &*checkpoint::encode(&read)), (fields, text), "{name}");
    }
}

#[test]
fn indexes() {
    let all = cases("files.txt");
    let ((offsets, offset_fields), (times, time_fields)) = (file(&all, "index"), file(&all, "timeindex"));
    let index = Index::decode(offsets, times, SIZE, OFFSETS, 4096).expect("both are sound");
    for entry in offset_fields.as_array().unwrap() {
        let (offset, position) = (entry[0].as_i64().unwrap(), entry[1].as_i64().unwrap());
        let found = index.position((offset - BASE) as u32);
        assert_eq!(i64::from(found), position);
        assert!(i64::from(index.position((offset - BASE - 1) as u32)) < position);
    }
    for entry in time_fields.as_array().unwrap() {
        let (time, offset) = (entry[0].as_i64().unwrap(), entry[1].as_i64().unwrap() - BASE);
        // What is sought may lie at the entry itself, so that the search begins before it.
        assert_eq!(index.before_time(time + 1), Some((time, offset as u32)));
        assert!(index.before_time(time).is_none_or(|(_, before)| i64::from(before) < offset));
    }
    assert_eq!((index.encode_offsets(), index.encode_times()), (offsets.to_vec(), times.to_vec()));
}

#[test]
fn small_files() {
    let all = cases("files.txt");
    let (sim, path) = (Sim::new(1, 1), std::path::Path::new("/data/t-0"));
    let rt = sim.rt(0);
    let put = |dir: &std::path::Path, name: &str, bytes: &[u8]| {
        rt.create_dir(dir.parent().unwrap()).unwrap();
        rt.create_dir(dir).unwrap();
        sim.run_until(rt.write_file(&dir.join(name), bytes.to_vec())).unwrap();
    };
    let (bytes, fields) = file(&all, "partition.metadata");
    put(path, "partition.metadata", bytes);
    let id = files::topic_id(&rt, path).unwrap();
    assert_eq!(json!({"version": 0, "topicId": id.to_string()}), *fields);
    assert_eq!(files::metadata_text(id).as_bytes(), bytes);

    let (bytes, fields) = file(&all, "meta.properties");
    let text = std::str::from_utf8(bytes).unwrap();
    let meta = Meta::parse(text, Uuid::ZERO).unwrap();
    let shown = json!({
        "version": 1, "clusterId": meta.cluster_id, "nodeId": meta.node_id, "directoryId": meta.directory_id.to_string(),
    });
    assert_eq!(shown, *fields);
    let lines = |text: &str| -> std::collections::BTreeSet<String> { text.lines().map(str::to_owned).collect() };
    assert_eq!(lines(&meta.encode()), lines(text), "Java's order is that of a hash");

    let (bytes, _) = file(&all, ".kafka_cleanshutdown");
    let dir = std::path::Path::new("/data");
    put(dir, ".kafka_cleanshutdown", bytes);
    assert!(sim.run_until(dir::take_clean(&rt, dir)).unwrap());
    sim.run_until(dir::mark_clean(&rt, dir, &dir::CleanMark::new(42, None))).unwrap();
    assert_eq!(rt.read_file(&dir.join(".kafka_cleanshutdown")).unwrap(), bytes);
}
