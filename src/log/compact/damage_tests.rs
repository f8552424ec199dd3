//! Cleanings that meet what they cannot read: it stays, and they go on.

use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::base::ids::Uuid;
use crate::log::cache::Cache;
use crate::log::damage_tests::flip;
use crate::log::tests::path;
use crate::log::{LogConfig, NoReplay, Opening, Read};
use crate::sim::{Sim, SimRt};
use crate::wire::batch::{BatchSpec, Inflation, build_batch};
use crate::wire::compression::Compression;

const CONFIG: LogConfig = LogConfig { segment_bytes: 20_000, file_delete_delay_ms: 100, ..LogConfig::DEFAULT };
const RULES: Rules = Rules { delete_retention_ms: 0, min_lag_ms: 0, max_lag_ms: i64::MAX, min_dirty_ppm: 0 };

async fn open(rt: &SimRt, opening: Opening) -> Log<SimRt> {
    rt.create_dir(Path::new("/data")).unwrap();
    rt.sync_dir(Path::new("/")).await.unwrap();
    let cache = Cache::new(rt.memory());
    match Log::open(rt, &cache, &path(), CONFIG, opening, &mut NoReplay).await {
        Err(LogError::Missing(_)) => Log::create(rt, &cache, &path(), Uuid([7; 16]), CONFIG).await.unwrap(),
        opened => opened.unwrap(),
    }
}

fn put(log: &Log<SimRt>, key: &str, value: Option<&[u8]>) -> Offset {
    let batch = build_batch(&BatchSpec::default(), &[(Some(key.as_bytes()), value, 1000)]);
    let base = log.end_offset();
    log.append(&batch, base, 3, None).unwrap();
    base
}

/// A compressed batch with a right checksum whose header claims a record too many.
fn unreadable(key: &str, base: Offset) -> Vec<u8> {
    let spec = BatchSpec { compression: Compression::Gzip, ..BatchSpec::default() };
    let mut batch = build_batch(&spec, &[(Some(key.as_bytes()), Some(b"unreadable"), 1000)]);
    batch[23..27].copy_from_slice(&1i32.to_be_bytes());
    batch[57..61].copy_from_slice(&2i32.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    crate::wire::batch::patch(&mut batch, base, 3);
    batch
}

fn fill(log: &Log<SimRt>, tag: &str) {
    for n in 0..30 {
        put(log, &format!("filler-{tag}-{n}"), Some(&[7; 2000]));
    }
}

async fn clean(rt: &SimRt, log: &Log<SimRt>) -> Cleaned {
    log.flush().await.unwrap();
    rt.sleep(std::time::Duration::from_millis(20)).await;
    let dirt = log.dirt(log.written_offset(), &RULES, rt.now().wall_ms).await.unwrap();
    let pace = Pace::new(f64::MAX);
    let means = Means { map_bytes: 1 << 20, map_load_ppm: 900_000, buffer: 8192, pace: &pace };
    log.compact(&dirt, &RULES, &means, &|_| false).await.unwrap()
}

/// Offset and key of the records that can be read and are no filler; `None` for a batch that cannot.
async fn seen(log: &Log<SimRt>, mut at: Offset) -> Vec<(Offset, Option<String>)> {
    let mut found = Vec::new();
    while at < log.end_offset() {
        let pieces: Vec<Bytes> = match log.read(at, 1 << 20, log.end_offset(), true) {
            Read::Hit(pieces) => pieces,
            Read::Miss(plan) => log.read_cold(plan).await.unwrap(),
        };
        for mut piece in pieces {
            while !piece.is_empty() {
                let header = BatchHeader::parse(&piece).unwrap();
                let batch = piece.split_to(header.total_len());
                at = header.next_offset();
                let Ok(payload) = Inflation::new(&header, &batch).and_then(Inflation::run) else {
                    assert_eq!(batch, unreadable("a", header.base_offset), "byte for byte");
                    found.push((header.base_offset, None));
                    continue;
                };
                for record in payload.records() {
                    let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
                    if !key.starts_with("filler") {
                        found.push((header.base_offset + Offset::from(record.offset_delta), Some(key)));
                    }
                }
            }
        }
    }
    found
}

#[test]
fn a_batch_that_cannot_be_read_stays_and_the_rest_is_compacted() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let mut log = open(&rt, Opening::default()).await;
        put(&log, "a", Some(b"1"));
        put(&log, "gone", None);
        let base = log.end_offset();
        log.append(&unreadable("a", base), base, 3, None).unwrap();
        put(&log, "b", Some(b"1"));
        put(&log, "a", Some(b"2"));
        let b = put(&log, "b", None);
        fill(&log, "1");
        let a = put(&log, "a", Some(b"3"));
        fill(&log, "2");
        for _ in 0..3 {
            let end = log.end_offset();
            let cleaned = clean(&rt, &log).await;
            assert!(cleaned.upto > a && cleaned.upto < end && log.cleaned_offset() == cleaned.upto);
            fill(&log, "1");
            let opening = Opening { clean: true, cleaned: cleaned.upto, ..Opening::default() };
            log.close(Vec::new()).await.unwrap();
            log = open(&rt, opening).await;
        }
        // The tombstone before it has gone; it might hide a record of the batch, so the one behind it stays.
        let left = [(base, None), (b, Some("b".to_owned())), (a, Some("a".to_owned()))];
        assert_eq!(seen(&log, 0).await, left);
    });
}

/// Changes a byte of the batch at `offset`; the base of its segment.
async fn damage(rt: &SimRt, log: &Log<SimRt>, offset: Offset, at: usize) -> Offset {
    let base = {
        let state = log.0.state.borrow();
        state.segments[state.segment_of(offset)].base
    };
    let bytes = rt.read_file(&files::name(&path(), base, "log")).unwrap();
    let mut position = 0;
    loop {
        let header = BatchHeader::parse(&bytes[position..]).unwrap();
        if header.base_offset == offset {
            break;
        }
        position += header.total_len();
    }
    flip(rt, base, position + at, &[]).await;
    base
}

#[test]
fn a_damaged_segment_stays_as_it_is_and_the_others_are_compacted() {
    // In the length, in the checksum, in the records.
    for at in [8, 17, 70] {
        let sim = Sim::new(2, 1);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = open(&rt, Opening::default()).await;
            put(&log, "before", Some(b"1"));
            fill(&log, "1");
            put(&log, "in", Some(b"1"));
            let bad = put(&log, "bad", Some(&[1; 100]));
            put(&log, "in", Some(b"2"));
            fill(&log, "2");
            put(&log, "behind", Some(b"1"));
            fill(&log, "3");
            let [before, _, behind] = ["before", "in", "behind"].map(|key| put(&log, key, Some(b"last")));
            put(&log, "behind", None);
            let tombstone = put(&log, "in", None);
            fill(&log, "4");
            log.close(Vec::new()).await.unwrap();
            let log = open(&rt, Opening { clean: true, ..Opening::default() }).await;
            let base = damage(&rt, &log, bad, at).await;
            let file = || rt.read_file(&files::name(&path(), base, "log")).unwrap();
            let kept = file();
            for _ in 0..3 {
                assert!(clean(&rt, &log).await.upto > tombstone);
                fill(&log, "5");
            }
            assert!(file() == kept, "the damaged segment is as it was");
            let next = log.0.state.borrow().segments.iter().map(|s| s.base).find(|other| *other > bad).unwrap();
            let found = seen(&log, next).await;
            let keys: Vec<_> = found.iter().map(|(offset, key)| (*offset, key.as_deref().unwrap())).collect();
            // Tombstones stay: what they hide may lie in the damaged part.
            assert_eq!(keys, [(before, "before"), (behind + 1, "behind"), (tombstone, "in")]);
            assert!(log.fenced().is_none());
        });
    }
}

/// Two batches of one key, each larger than the budget of a turn.
#[test]
fn a_cleaning_of_large_batches_goes_in_slices() {
    for compression in Compression::ALL {
        let sim = Sim::with_memory(3, 1, 256 << 20);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = open(&rt, Opening::default()).await;
            log.set_config(LogConfig { segment_bytes: 64 << 20, ..CONFIG });
            let value = vec![0; 4 << 20];
            for _ in 0..2 {
                let records = [(Some(&b"a"[..]), Some(&value[..]), 1000), (Some(b"b"), Some(&value), 1000)];
                let base = log.end_offset();
                log.append(&build_batch(&BatchSpec { compression, ..BatchSpec::default() }, &records), base, 3, None).unwrap();
                put(&log, "a", Some(b"2"));
            }
            log.set_config(CONFIG);
            fill(&log, "1");
            let before = rt.slices().rests();
            clean(&rt, &log).await;
            let rests = rt.slices().rests() - before;
            // Inflated twice at least, and one of two records compressed anew.
            let least = if compression == Compression::None { 16 } else { 2 * 64 + 4 * 16 };
            assert!(rests >= least, "{}: {rests}", compression.name());
            let found: Vec<_> = seen(&log, 0).await.into_iter().filter_map(|(_, key)| key).collect();
            assert_eq!(found, ["b", "a"]);
        });
    }
}
