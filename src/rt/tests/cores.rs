//! What crosses cores, waiting for memory, time and tasks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{World, on_both};
use crate::base::limits::{BLOCK, REGION};
use crate::rt::notify::Notify;
use crate::rt::slices::SLICE;
use crate::rt::uring::{self, Settings};
use crate::rt::{Class, Rt};

on_both! {
    unparked_cores_take_turns on 2,
    memory_that_comes_back_wakes_who_waits on 1,
    a_large_mapping_that_goes_wakes_who_waits on 1,
    memory_comes_back_from_another_core on 2,
    tasks_and_time on 1,
    long_work_leaves_turns_to_others on 1,
}

/// A number goes to and fro between two cores that have nothing else to do, through the turn hook alone.
async fn unparked_cores_take_turns<W: World>(world: Rc<W>) {
    const ROUNDS: u64 = 2000;
    let rt = world.rt().clone();
    let (me, shared) = (rt.core(), world.shared().clone());
    let (other, arrived) = (1 - me, Rc::new(Notify::default()));
    let (mail, ring) = (shared.clone(), arrived.clone());
    rt.on_turn(Box::new(move || {
        let any = !mail.mail[me].is_empty();
        if any {
            ring.notify();
        }
        // A hook that says so as long as it is not served would keep its core from parking.
        false
    }));
    let pass = |n: u64| {
        shared.mail[other].push(n);
        rt.unpark(other);
    };
    if me == 0 {
        pass(1);
    } else {
        // What was said before the hook was there.
        rt.unpark(me);
    }
    loop {
        arrived.notified().await;
        while let Some(n) = shared.mail[me].pop() {
            assert_eq!(n % 2, me as u64);
            if n % 512 < 2 {
                // Long enough to be parked for sure.
                rt.sleep(Duration::from_millis(8)).await;
            }
            pass(n + 1);
            if n >= ROUNDS {
                return;
            }
        }
    }
}

async fn memory_that_comes_back_wakes_who_waits<W: World>(world: Rc<W>) {
    let rt = world.rt().clone();
    let memory = rt.memory().clone();
    let mut held = Vec::new();
    while let Some(chunk) = memory.try_chunk(REGION / 4) {
        held.push(chunk);
    }
    let served = Rc::new(Cell::new(0));
    for _ in 0..8 {
        let (memory, served, rt) = (memory.clone(), served.clone(), rt.clone());
        rt.clone().spawn(Class::Foreground, async move {
            let mut chunk = memory.chunk(REGION / 2).await;
            chunk.extend(&[1; BLOCK]);
            rt.sleep(Duration::from_millis(1)).await;
            served.set(served.get() + 1);
        });
    }
    rt.sleep(Duration::from_millis(10)).await;
    assert_eq!((served.get(), memory.contended()), (0, true));
    // An eighth stays for those who read.
    let room = REGION / 2 + memory.budget() / 8;
    held.truncate(held.len() - room.div_ceil(REGION / 4));
    while served.get() < 8 {
        rt.sleep(Duration::from_millis(1)).await;
    }
    drop(held);
    assert_eq!(memory.used(), 0);
}

/// The memory that is waited for is that of a request above the size of a region, which has a mapping of its own.
async fn a_large_mapping_that_goes_wakes_who_waits<W: World>(world: Rc<W>) {
    let rt = world.rt().clone();
    let memory = rt.memory().clone();
    for _ in 0..20 {
        let large = memory.large(memory.budget());
        memory.charge(&large, memory.budget()).await;
        let (waiting, woken) = (memory.clone(), Rc::new(Notify::default()));
        let wake = woken.clone();
        rt.spawn(Class::Foreground, async move {
            waiting.chunk(BLOCK).await;
            wake.notify();
        });
        rt.sleep(Duration::from_millis(2)).await;
        assert!(memory.contended());
        drop(large);
        let late = Cell::new(false);
        let patience = async {
            rt.sleep(Duration::from_secs(3)).await;
            late.set(true);
        };
        futures_lite::future::or(woken.notified(), patience).await;
        assert!(!late.get(), "nobody was woken");
    }
}

/// One core fills its memory and waits for more while the other drops what it was given.
async fn memory_comes_back_from_another_core<W: World>(world: Rc<W>) {
    const SLICES: u64 = 3000;
    let (rt, shared) = (world.rt().clone(), world.shared().clone());
    if rt.core() == 0 {
        for n in 0..SLICES {
            // Most of the budget is in the other core's hands: each chunk waits for it.
            let mut chunk = rt.memory().chunk(REGION).await;
            chunk.extend(&n.to_le_bytes());
            shared.slices.push(chunk.slice(0..8));
            rt.unpark(1);
        }
        while shared.counter.load(Ordering::Relaxed) < SLICES {
            rt.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(rt.memory().used(), 0);
        return;
    }
    let arrived = Rc::new(Notify::default());
    let (mail, ring) = (shared.clone(), arrived.clone());
    rt.on_turn(Box::new(move || {
        if !mail.slices.is_empty() {
            ring.notify();
        }
        false
    }));
    let mut expected = 0;
    while expected < SLICES {
        while let Some(slice) = shared.slices.pop() {
            assert_eq!(slice[..], u64::to_le_bytes(expected));
            expected += 1;
            drop(slice);
            shared.counter.store(expected, Ordering::Relaxed);
        }
        if expected < SLICES {
            arrived.notified().await;
        }
    }
}

async fn tasks_and_time<W: World>(world: Rc<W>) {
    let rt = world.rt().clone();
    assert_eq!((rt.core(), rt.cores()), (0, 1));
    let (begun, order) = (rt.now(), Rc::new(RefCell::new(Vec::new())));
    for ms in [30u64, 10, 20] {
        let (task, order) = (rt.clone(), order.clone());
        rt.spawn(Class::Background, async move {
            task.sleep(Duration::from_millis(ms)).await;
            order.borrow_mut().push(ms);
        });
    }
    while order.borrow().len() < 3 {
        rt.sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*order.borrow(), [10, 20, 30]);
    let now = rt.now();
    assert!(now.mono - begun.mono >= Duration::from_millis(30) && now.wall_ms - begun.wall_ms >= 29);
    let (mut a, mut b) = ([0; 16], [0; 16]);
    rt.random(&mut a);
    rt.random(&mut b);
    assert_ne!(a, b);
}

/// Tasks of the background that never wait for anything but their turn: between two of their slices
/// the foreground runs.
async fn long_work_leaves_turns_to_others<W: World>(world: Rc<W>) {
    const STEPS: usize = 100;
    let rt = world.rt().clone();
    for with_slices in [false, true] {
        let (begun, ended) = (Rc::new(Notify::default()), Rc::new(Cell::new(0)));
        for _ in 0..2 {
            let (task, begun, ended) = (rt.clone(), begun.clone(), ended.clone());
            rt.spawn(Class::Background, async move {
                begun.notify();
                for _ in 0..STEPS {
                    match with_slices {
                        true => task.slices().pass(SLICE).await,
                        false => task.yield_now().await,
                    }
                }
                ended.set(ended.get() + 1);
            });
        }
        begun.notified().await;
        let mut between = 0;
        while ended.get() < 2 {
            rt.yield_now().await;
            between += 1;
        }
        assert!(between >= STEPS / 2, "{between}");
    }
}

/// A core that cannot be set up ends the others, and nothing runs on them.
#[test]
fn all_cores_start_or_none() {
    let allowed = crate::rt::uring::allowed_cpus();
    for missing in [0, 1, 2] {
        let mut cpus = vec![allowed[0]; 3];
        cpus[missing] = 100_000;
        let settings = Settings { cpus, memory_per_core: 16 << 20, send_zc_bytes: 0, spin: Duration::ZERO };
        let ended = uring::run(settings, |_| Ok(()), |_| async { panic!("not all cores are there") });
        let error = ended.unwrap_err();
        assert!(error.starts_with(&format!("cannot start core {missing}: ")), "{error}");
    }
}
