//! Tests of stored batches whose headers do not tell their largest timestamp.

use std::time::Duration;

use super::files;
use super::tests::{CONFIG, create, path, reopen, segment};
use super::{Located, Log, LogConfig, Opening, Retention};
use crate::rt::Rt;
use crate::sim::{Sim, SimRt};
use crate::wire::batch::{BatchSpec, Stamp, build_batch};
use crate::wire::compression::Compression;

const SMALL: LogConfig = LogConfig { segment_bytes: 5000, ..CONFIG };
const CLEAN: Opening = Opening { clean: true, recovery_point: i64::MAX, log_start: 0, cleaned: 0 };
const COUNT: i64 = 200;
/// Timestamp of the first record; those behind the old one follow each other from here on.
const FRESH: i64 = 5_000_000;

/// A closed log of one old record and [`COUNT`] batches of two records that do not tell their time, as
/// a broker has stored it that believed them.
async fn written(rt: &SimRt) {
    let log = create(rt, SMALL).await;
    log.append(&build_batch(&BatchSpec::default(), &[(None, None, 1000)]), 0, 1, None).unwrap();
    let value = [7; 200];
    for n in 0..COUNT {
        let compression = Compression::ALL[n as usize % 5];
        let spec = BatchSpec { compression, ..BatchSpec::default() };
        let records = [(None, Some(&value[..]), FRESH + n), (None, Some(&value), FRESH + n - 1)];
        let mut batch = build_batch(&spec, &records);
        Stamp::Largest(-1).apply(&mut batch);
        log.append(&batch, log.end_offset(), 1, None).unwrap();
    }
    log.close(Vec::new()).await.unwrap();
}

async fn check(log: &Log<SimRt>) {
    let end = log.end_offset();
    assert_eq!(end, 1 + 2 * COUNT);
    for n in [0, 1, 50, COUNT - 1] {
        let found = log.offset_for_timestamp(FRESH + n, end).await.unwrap().map(Located::place);
        assert_eq!(found, Some((1 + 2 * n, FRESH + n)));
    }
    assert_eq!(log.offset_for_timestamp(FRESH + COUNT, end).await.unwrap(), None);
    let largest = log.max_timestamp_offset(end).await.unwrap().map(Located::place);
    assert_eq!(largest, Some((2 * COUNT - 1, FRESH + COUNT - 1)));
}

#[test]
fn records_are_found_whose_batches_do_not_tell_their_time() {
    for clean in [true, false] {
        let sim = Sim::new(1, 1);
        let rt = sim.rt(0);
        sim.run_until(async {
            written(&rt).await;
            let opening = if clean { CLEAN } else { Opening::default() };
            check(&reopen(&rt, SMALL, opening).await.unwrap()).await;
            // Also where there is no index.
            for base in bases(&rt) {
                for kind in ["index", "timeindex"] {
                    let _ = rt.remove_file(&files::name(&path(), base, kind));
                }
            }
            let log = reopen(&rt, SMALL, Opening::default()).await.unwrap();
            check(&log).await;
            log.close(Vec::new()).await.unwrap();
            // The stored indexes are right from now on.
            check(&reopen(&rt, SMALL, CLEAN).await.unwrap()).await;
        });
    }
}

fn bases(rt: &SimRt) -> Vec<i64> {
    let entries = rt.list(&path()).unwrap();
    entries.iter().filter_map(|entry| files::base_of(&entry.name, "log")).collect()
}

#[test]
fn retention_does_not_go_by_a_part_of_the_timestamps() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    let by_age = |ms| Retention { ms: Some(ms), bytes: None };
    sim.run_until(async {
        written(&rt).await;
        let log = reopen(&rt, SMALL, CLEAN).await.unwrap();
        let all = bases(&rt);
        assert!(all.len() > 3);
        // Half of the records are older than this, by their own timestamps.
        let now_ms = FRESH + COUNT / 2 + 1000;
        let before = log.expired_before(by_age(1000), now_ms).await.unwrap();
        let at = all.iter().position(|base| *base == before).unwrap();
        assert!(at > 0 && at + 1 < all.len(), "{before} of {all:?}");
        let newest_gone = FRESH + (before - 2) / 2;
        assert!(now_ms - newest_gone > 1000);
        // Whatever the stored index says: here that of the first segment tells of the old record only.
        let log = reopen(&rt, SMALL, CLEAN).await.unwrap();
        let told = [&1000i64.to_be_bytes()[..], &[0; 4]].concat();
        rt.replace_file(&files::name(&path(), 0, "timeindex"), told).await.unwrap();
        assert_eq!(log.expired_before(by_age(1000), FRESH).await.unwrap(), 0);
        // Once its file is old too nothing in it can be young.
        rt.sleep(Duration::from_millis(10)).await;
        let written = all.iter().map(|base| rt.modified_ms(&segment(*base)).unwrap()).max().unwrap();
        assert_eq!(log.expired_before(by_age(1000), written + 1001).await.unwrap(), log.end_offset());
    });
}

/// The epoch is the batch's own: what is known of the log's epochs begins at its start.
#[test]
fn a_deleted_record_with_the_largest_timestamp_is_told_with_its_epoch() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        for (base, epoch, times) in [(0, 3, [10, 5000, 20]), (3, 4, [30, 40, 4000])] {
            let records: Vec<_> = times.iter().map(|ts| (None, Some(&b"v"[..]), *ts)).collect();
            log.append(&build_batch(&BatchSpec::default(), &records), base, epoch, None).unwrap();
        }
        let largest = Located { offset: 1, timestamp: 5000, leader_epoch: 3 };
        for start in [0, 2, 3, 6] {
            log.set_start(start);
            assert_eq!(log.max_timestamp_offset(6).await.unwrap(), Some(largest), "{start}");
        }
    });
}

/// DeleteRecords may cut a batch, which stays whole in its file.
#[test]
fn records_before_the_start_are_not_found_by_time() {
    for (compression, stamp) in
        [(Compression::None, None), (Compression::Gzip, None), (Compression::Zstd, Some(Stamp::LogAppendTime(9000)))]
    {
        let sim = Sim::new(1, 1);
        let rt = sim.rt(0);
        sim.run_until(async {
            // An index entry for each batch.
            let config = LogConfig { index_interval_bytes: 0, segment_bytes: 2000, ..CONFIG };
            let log = create(&rt, config).await;
            let spec = BatchSpec { compression, ..BatchSpec::default() };
            for base in (0..100).step_by(10) {
                let of = |n: i64| if n == 4 { 7000 } else { 1000 + base + n };
                let records: Vec<_> = (0..10).map(|n| (None, Some(&[7; 40][..]), of(n))).collect();
                log.append(&build_batch(&spec, &records), base, 1, stamp).unwrap();
            }
            log.flush().await.unwrap();
            let find = async |ts| log.offset_for_timestamp(ts, 100).await.unwrap().map(Located::place);
            for start in [0, 3, 4, 5, 19, 20, 57, 99, 100] {
                log.set_start(start);
                let next = (start < 100).then_some(start);
                let late = (0..100).find(|n| *n >= start && n % 10 == 4);
                let time = |n: i64| {
                    if stamp.is_some() {
                        9000
                    } else if n % 10 == 4 {
                        7000
                    } else {
                        1000 + n
                    }
                };
                for ts in [0, 1000, 1000 + start.min(99)] {
                    assert_eq!(find(ts).await, next.map(|n| (n, time(n))), "{compression:?} {start} {ts}");
                }
                let wanted = if stamp.is_some() { next } else { late };
                assert_eq!(find(2000).await, wanted.map(|n| (n, time(n))), "{compression:?} {start}");
            }
        });
    }
}

/// Records without a timestamp have the largest one of their log, as in Kafka.
#[test]
fn the_largest_timestamp_may_be_none() {
    let sim = Sim::new(1, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let log = create(&rt, CONFIG).await;
        let records = [(None, Some(&b"v"[..]), -1), (None, None, -1)];
        log.append(&build_batch(&BatchSpec::default(), &records), 0, 3, None).unwrap();
        let first = Located { offset: 0, timestamp: -1, leader_epoch: 3 };
        assert_eq!(log.max_timestamp_offset(2).await.unwrap(), Some(first));
        assert_eq!(log.offset_for_timestamp(0, 2).await.unwrap(), None);
    });
}

/// One batch of many records, inflated or not, is no turn of its own.
#[test]
fn look_ups_in_large_batches_go_in_slices() {
    let large = LogConfig { segment_bytes: 64 << 20, ..CONFIG };
    for (compression, size, least) in [(Compression::Zstd, 32 << 20, 128), (Compression::None, 16 << 20, 4)] {
        let sim = Sim::with_memory(3, 1, 256 << 20);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = create(&rt, large).await;
            let value = vec![0; size];
            let batch = build_batch(&BatchSpec { compression, ..BatchSpec::default() }, &[(Some(b"k"), Some(&value), FRESH)]);
            log.append(&batch, 0, 1, None).unwrap();
            log.flush().await.unwrap();
            let rests = || rt.slices().rests();
            let before = rests();
            let found = log.offset_for_timestamp(FRESH - 1, log.end_offset()).await.unwrap().map(Located::place);
            assert_eq!(found, Some((0, FRESH)));
            assert!(rests() - before >= least, "{}: {}", compression.name(), rests() - before);
            log.close(Vec::new()).await.unwrap();
        });
    }
}
