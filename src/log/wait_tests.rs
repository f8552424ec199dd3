//! Tests of who waits for memory: nobody who holds some that the others wait for. Several logs at once do
//! what takes a second buffer, with memory for the first of each and no more.

use std::cell::Cell;
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::cache::Cache;
use super::tests::{CONFIG, ID};
use super::{Log, LogConfig, NoReplay, Opening, Read, files};
use crate::base::ids::Offset;
use crate::rt::{Class, Rt};
use crate::sim::{Sim, SimRt};
use crate::wire::batch::{BatchSpec, build_batch};

const LOGS: usize = 2;
/// What each log may have of the memory: the first buffer of a walk.
const EACH: usize = 64 << 10;
const SMALL: LogConfig = LogConfig { segment_bytes: 200 << 10, index_interval_bytes: 4096, ..CONFIG };
const CLEAN: Opening = Opening { clean: true, recovery_point: Offset::MAX, log_start: 0, cleaned: 0 };
const COUNT: i64 = 300;
const PAYLOAD: usize = 1000;

fn dir(n: usize) -> PathBuf {
    format!("/data/t-{n}").into()
}

/// Closed logs of two segments, in memory enough.
async fn write(rt: &SimRt) {
    rt.create_dir("/data".as_ref()).unwrap();
    for n in 0..LOGS {
        let log = Log::create(rt, &Cache::new(rt.memory()), &dir(n), ID, SMALL).await.unwrap();
        for offset in 0..COUNT {
            log.append(&build_batch(&BatchSpec::default(), &[(None, Some(&[7; PAYLOAD]), 1000)]), offset, 1, None).unwrap();
        }
        log.close(Vec::new()).await.unwrap();
    }
}

/// Changes the content of a file of each log.
async fn change(rt: &SimRt, base: Offset, kind: &str, change: impl Fn(&mut Vec<u8>)) {
    for n in 0..LOGS {
        let path = files::name(&dir(n), base, kind);
        let mut bytes = rt.read_file(&path).unwrap();
        change(&mut bytes);
        rt.replace_file(&path, bytes).await.unwrap();
    }
}

async fn open(rt: &SimRt, n: usize, opening: Opening) -> Log<SimRt> {
    Log::open(rt, &Cache::new(rt.memory()), &dir(n), SMALL, opening, &mut NoReplay).await.unwrap()
}

/// Writes the logs, damages them, and does `work` in all of them at once, after a restart, in little memory.
fn at_once<F>(damage: impl AsyncFn(&SimRt), each: usize, opening: Opening, work: fn(SimRt, usize, Opening) -> F)
where
    F: Future<Output = ()> + 'static,
{
    for seed in 0..20 {
        let sim = Sim::with_memory(seed, 1, LOGS * each);
        let rt = sim.rt(0);
        sim.run_until(async {
            write(&rt).await;
            damage(&rt).await;
        });
        sim.kill();
        let rt = sim.rt(0);
        sim.run_until(async {
            let done = Rc::new(Cell::new(0));
            for n in 0..LOGS {
                let (rt, done) = (rt.clone(), done.clone());
                rt.clone().spawn(Class::Foreground, async move {
                    work(rt, n, opening).await;
                    done.set(done.get() + 1);
                });
            }
            // Of virtual time.
            for _ in 0..600 {
                if done.get() < LOGS {
                    sim.sleep(Duration::from_millis(100)).await;
                }
            }
            assert_eq!(done.get(), LOGS, "seed {seed}: they wait for each other");
        });
    }
}

#[test]
fn logs_whose_ends_are_set_aside_do_not_wait_for_each_other() {
    let damage = async |rt: &SimRt| {
        for n in 0..LOGS {
            let bases: Vec<Offset> = rt.list(&dir(n)).unwrap().iter().filter_map(|e| files::base_of(&e.name, "log")).collect();
            let path = files::name(&dir(n), *bases.iter().max().unwrap(), "log");
            let mut bytes = rt.read_file(&path).unwrap();
            bytes[3000] ^= 1;
            rt.replace_file(&path, bytes).await.unwrap();
            assert_eq!(bases.len(), 2);
        }
    };
    at_once(damage, EACH, Opening::default(), |rt, n, opening| async move {
        let log = open(&rt, n, opening).await;
        assert!(log.end_offset() < COUNT);
    });
}

#[test]
fn readers_that_ask_how_far_damage_goes_do_not_wait_for_each_other() {
    let damage = async |rt: &SimRt| change(rt, 0, "log", |bytes| bytes[100_000] ^= 1).await;
    at_once(damage, EACH, CLEAN, |rt, n, opening| async move {
        let log = open(&rt, n, opening).await;
        let at = 100_000 / (PAYLOAD as i64 + 75);
        let damage = log.past_damage(at).await.unwrap();
        assert!(damage.next > at && damage.batch.is_some(), "{damage:?}");
    });
}

#[test]
fn readers_that_make_indexes_anew_do_not_wait_for_each_other() {
    let damage = async |rt: &SimRt| {
        // Each entry tells a position within a batch.
        change(rt, 0, "index", |bytes| bytes.chunks_mut(8).for_each(|entry| entry[7] ^= 1)).await;
    };
    at_once(damage, 4 * EACH, CLEAN, |rt, n, opening| async move {
        let log = open(&rt, n, opening).await;
        let Read::Miss(plan) = log.read(10, 1 << 20, COUNT, true) else { panic!("it is in memory") };
        assert_eq!(log.read_cold(plan).await.unwrap()[0][..8], 10i64.to_be_bytes());
    });
}
