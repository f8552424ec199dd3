//! Tests of the simulation itself.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::{Fault, FaultOp, Sim, SimRt};
use crate::base::limits::BLOCK;
use crate::rt::{Class, Open, Rt};

type File = <SimRt as Rt>::File;

async fn write(rt: &SimRt, file: &File, block: u64, blocks: usize, mark: u8, durable: bool) -> io::Result<()> {
    let mut chunk = rt.memory().chunk(blocks * BLOCK).await;
    chunk.spare()[..blocks * BLOCK].fill(mark);
    rt.write_at(file, block * BLOCK as u64, chunk.window(0..blocks * BLOCK), durable).await
}

/// The first byte of each block; each block has to be of one piece.
async fn marks(rt: &SimRt, path: &str) -> Vec<u8> {
    let file = rt.open(Path::new(path), Open::Read).await.unwrap();
    let chunk = rt.memory().chunk(64 * BLOCK).await;
    let (read, chunk) = rt.read_at(&file, 0, chunk, 64 * BLOCK).await;
    assert_eq!(read.unwrap(), chunk.len());
    assert!(chunk.filled().chunks(BLOCK).all(|block| block.iter().all(|b| *b == block[0])));
    chunk.filled().chunks(BLOCK).map(|block| block[0]).collect()
}

fn serve(sim: &Sim) -> SocketAddr {
    let address = "127.0.0.1:9092".parse().unwrap();
    let rt = sim.rt(0);
    sim.spawn(0, async move {
        let listener = rt.listen(address).unwrap();
        loop {
            let (accepted, _) = rt.accept(&listener).await.unwrap();
            let (echo, socket) = (rt.clone(), rt.adopt(accepted).unwrap());
            rt.spawn(Class::Foreground, async move {
                loop {
                    let bytes = echo.recv_some(&socket).await.unwrap();
                    if bytes.is_empty() || echo.send(&socket, vec![bytes.slice(..1), bytes.slice(1..)]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn traffic(seed: u64) -> (u64, Duration) {
    let sim = Sim::new(seed, 2);
    let address = serve(&sim);
    let rt = sim.rt(1);
    sim.spawn(1, async move {
        rt.create_dir(Path::new("d")).unwrap();
        let file = rt.open(Path::new("d/f"), Open::Create).await.unwrap();
        for i in 0..20 {
            write(&rt, &file, i, 2, i as u8, i % 3 == 0).await.unwrap();
        }
    });
    sim.run_until(async {
        let client = loop {
            match sim.connect(address).await {
                Ok(client) => break client,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused),
            }
        };
        let sent: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        client.write_all(&sent).await.unwrap();
        assert_eq!(client.read_exact(sent.len()).await.unwrap(), sent);
    });
    sim.crash();
    (sim.trace(), sim.now().mono)
}

#[test]
fn equal_seeds_give_equal_runs() {
    assert_eq!(traffic(1), traffic(1));
    assert_eq!(traffic(2), traffic(2));
    assert_ne!(traffic(1).0, traffic(2).0);
}

#[test]
fn a_closed_peer_is_the_end_of_the_stream_and_a_receive_can_be_interrupted() {
    for seed in 0..50 {
        let sim = Sim::new(seed, 2);
        let address = "0.0.0.0:0".parse().unwrap();
        let (rt, other) = (sim.rt(0), sim.rt(1));
        let listener = rt.listen(address).unwrap();
        let address = rt.local_addr(&listener).unwrap();
        sim.run_until(async {
            let client = sim.connect(SocketAddr::new("127.0.0.1".parse().unwrap(), address.port())).await.unwrap();
            let (accepted, _) = rt.accept(&listener).await.unwrap();
            let socket = other.adopt(accepted).unwrap();
            other.interrupt_recv(&socket); // nobody waits: no effect
            client.write_all(b"abc").await.unwrap();
            let chunk = other.memory().chunk(BLOCK).await;
            let (got, chunk) = other.recv_into(&socket, chunk, 2).await;
            assert_eq!(chunk.filled(), &b"ab"[..got.unwrap()]);
            let mut rest = chunk.len();
            while rest < 3 {
                rest += other.recv_some(&socket).await.unwrap().len();
            }
            let (waker, wakes) = (other.clone(), socket.clone());
            sim.spawn(1, async move {
                waker.sleep(Duration::from_millis(20)).await;
                waker.interrupt_recv(&wakes);
            });
            let (got, chunk) = other.recv_into(&socket, chunk, 2).await;
            assert_eq!(got.unwrap_err().kind(), io::ErrorKind::Interrupted);
            drop(client);
            assert_eq!(other.recv_into(&socket, chunk, 2).await.0.unwrap(), 0);
            let refused = other.send(&socket, vec![Bytes::from_static(b"x")]).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }
}

#[test]
fn a_crash_keeps_what_is_durable_and_any_part_of_the_rest() {
    let (mut torn, mut short, mut nameless) = (false, false, false);
    for seed in 0..200 {
        let sim = Sim::new(seed, 1);
        let rt = sim.rt(0);
        sim.run_until(async {
            rt.create_dir(Path::new("/data")).unwrap();
            rt.create_dir(Path::new("/data/t-0")).unwrap();
            rt.sync_dir(Path::new("/")).await.unwrap();
            rt.sync_dir(Path::new("/data")).await.unwrap();
            let file = rt.open(Path::new("/data/t-0/log"), Open::Create).await.unwrap();
            rt.sync_dir(Path::new("/data/t-0")).await.unwrap();
            rt.replace_file(Path::new("/data/t-0/checkpoint"), b"7".to_vec()).await.unwrap();
            rt.open(Path::new("/data/t-0/unnamed"), Open::Create).await.unwrap();
            write(&rt, &file, 0, 4, 1, true).await.unwrap();
            write(&rt, &file, 2, 6, 2, false).await.unwrap();
        });
        sim.crash();
        assert!(rt.read_file(Path::new("/data/t-0/log")).is_err(), "the old machine is gone");
        let rt = sim.rt(0);
        let marks = sim.run_until(marks(&rt, "/data/t-0/log"));
        assert_eq!(marks[..2], [1, 1]);
        assert!(marks[2..4].iter().all(|m| *m == 1 || *m == 2));
        assert!(marks.len() == 4 || marks.len() == 8 && marks[4..].iter().all(|m| *m == 0 || *m == 2));
        torn |= marks[2] != marks[3];
        short |= marks.len() == 4;
        nameless |= rt.read_file(Path::new("/data/t-0/unnamed")).is_err();
        assert_eq!(rt.read_file(Path::new("/data/t-0/checkpoint")).unwrap(), b"7");
    }
    assert!(torn && short && nameless);
}

#[test]
fn a_replaced_file_is_old_or_new_whenever_the_crash_comes() {
    let mut seen = [false; 2];
    for seed in 0..300 {
        let sim = Sim::new(seed, 1);
        let (rt, path) = (sim.rt(0), Path::new("checkpoint"));
        sim.run_until(rt.replace_file(path, b"old".to_vec())).unwrap();
        let task = rt.clone();
        sim.spawn(0, async move { task.replace_file(path, b"new!".to_vec()).await.unwrap() });
        let moment = Duration::from_micros(sim.below(1200));
        sim.run_until(sim.sleep(moment));
        sim.crash();
        let content = sim.rt(0).read_file(path).unwrap();
        assert!(content == b"old" || content == b"new!");
        seen[usize::from(content == b"new!")] = true;
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    let sim = Sim::new(3, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let file = rt.open(Path::new("f"), Open::Create).await.unwrap();
        write(&rt, &file, 0, 3, 9, false).await.unwrap();
        rt.rename(Path::new("f"), Path::new("g")).unwrap();
    });
    sim.kill();
    assert_eq!(sim.run_until(marks(&sim.rt(0), "g")), [9; 3]);
}

#[test]
fn faults_hit_the_operation_they_were_planned_for() {
    let sim = Sim::new(4, 1);
    let rt = sim.rt(0);
    sim.inject(FaultOp::Write, "log", 1, Fault::Errno(libc::EIO));
    sim.inject(FaultOp::Sync, "log", 0, Fault::Errno(libc::EIO));
    sim.run_until(async {
        let file = rt.open(Path::new("log"), Open::Create).await.unwrap();
        rt.sync_dir(Path::new("")).await.unwrap();
        write(&rt, &file, 0, 1, 1, false).await.unwrap();
        assert_eq!(write(&rt, &file, 1, 1, 2, false).await.unwrap_err().raw_os_error(), Some(libc::EIO));
        write(&rt, &file, 1, 1, 2, false).await.unwrap();
        assert_eq!(rt.sync(&file).await.unwrap_err().raw_os_error(), Some(libc::EIO));
        rt.sync(&file).await.unwrap();
        sim.inject(FaultOp::Read, "log", 0, Fault::Short);
        assert!(marks(&rt, "log").await.len() < 2);
        sim.set_free_space(Some(10 * BLOCK as u64));
        rt.allocate(&file, 12 * BLOCK as u64).await.unwrap();
        let full = write(&rt, &file, 12, 1, 3, false).await;
        assert_eq!(full.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        rt.truncate(&file, 2 * BLOCK as u64).await.unwrap();
        write(&rt, &file, 5, 1, 3, false).await.unwrap();
    });
}

#[test]
fn what_a_failed_sync_covered_is_not_saved_by_the_next() {
    let lost = (0..50).filter(|seed| {
        let sim = Sim::new(*seed, 1);
        let rt = sim.rt(0);
        sim.inject(FaultOp::Sync, "log", 0, Fault::Errno(libc::EIO));
        sim.run_until(async {
            let file = rt.open(Path::new("log"), Open::Create).await.unwrap();
            rt.sync_dir(Path::new("")).await.unwrap();
            write(&rt, &file, 0, 1, 1, false).await.unwrap();
            rt.sync(&file).await.unwrap_err();
            rt.sync(&file).await.unwrap();
        });
        sim.crash();
        sim.run_until(marks(&sim.rt(0), "log")) == [0]
    });
    assert!((10..40).contains(&lost.count()));
}

#[test]
fn a_dropped_write_may_still_land() {
    let mut landed = [0; 2];
    for seed in 0..100 {
        let sim = Sim::new(seed, 1);
        let rt = sim.rt(0);
        let marks = sim.run_until(async {
            let file = rt.open(Path::new("f"), Open::Create).await.unwrap();
            let patience = sim.sleep(Duration::from_micros(10));
            futures_lite::future::or(async { write(&rt, &file, 0, 1, 1, false).await.unwrap() }, patience).await;
            rt.sleep(Duration::from_millis(50)).await;
            marks(&rt, "f").await
        });
        landed[marks.len()] += 1;
    }
    assert!(landed.iter().all(|n| *n > 10), "{landed:?}");
}

#[test]
fn turns_follow_unparks_and_yielding_lets_others_run() {
    for seed in 0..50 {
        let sim = Sim::new(seed, 2);
        let mailbox: Rc<RefCell<Vec<u32>>> = Rc::default();
        let (inbox, seen) = (mailbox.clone(), Rc::new(Cell::new(0)));
        let count = seen.clone();
        sim.rt(1).on_turn(Box::new(move || {
            let next = inbox.borrow_mut().pop();
            count.set(count.get() + next.unwrap_or(0));
            next.is_some()
        }));
        let rt = sim.rt(0);
        sim.spawn(0, async move {
            mailbox.borrow_mut().extend([1, 2, 3]);
            rt.unpark(1);
        });
        sim.run_until(sim.sleep(Duration::from_millis(1)));
        assert_eq!(seen.get(), 6);

        let (rt, ran) = (sim.rt(0), Rc::new(Cell::new(0)));
        sim.spawn(0, async move {
            for _ in 0..5 {
                let ran = ran.clone();
                rt.spawn(Class::Background, async move { ran.set(ran.get() + 1) });
            }
            rt.yield_now().await;
            assert_eq!(ran.get(), 5);
        });
        sim.run_until(sim.sleep(Duration::from_millis(1)));
    }
}

#[test]
fn a_disk_that_lies_has_nothing_after_a_power_loss() {
    for (op, fault) in [(FaultOp::Write, Fault::Lost), (FaultOp::Sync, Fault::Lie)] {
        let old = (0..40).filter(|seed| {
            let sim = Sim::new(*seed, 1);
            let rt = sim.rt(0);
            sim.run_until(async {
                let file = rt.open(Path::new("log"), Open::Create).await.unwrap();
                rt.sync_dir(Path::new("")).await.unwrap();
                write(&rt, &file, 0, 1, 1, true).await.unwrap();
                sim.add_fault(op, "log", 1, fault);
                write(&rt, &file, 0, 1, 2, false).await.unwrap();
                rt.sync(&file).await.unwrap();
                sim.clear_faults();
                assert_eq!(marks(&rt, "log").await, [2]);
            });
            assert!(sim.hits().iter().any(|hit| hit.fault == fault));
            sim.crash();
            sim.run_until(marks(&sim.rt(0), "log")) == [1]
        });
        assert!(old.count() > 10, "{fault:?}");
    }
}

#[test]
fn a_misdirected_write_and_a_flipped_bit_change_other_bytes() {
    let sim = Sim::new(6, 1);
    let rt = sim.rt(0);
    sim.run_until(async {
        let file = rt.open(Path::new("log"), Open::Create).await.unwrap();
        write(&rt, &file, 0, 8, 1, false).await.unwrap();
        sim.inject(FaultOp::Write, "log", 0, Fault::Misdirected);
        write(&rt, &file, 8, 1, 2, false).await.unwrap();
        let found = marks(&rt, "log").await;
        assert_eq!((found.len(), found.iter().filter(|mark| **mark == 2).count(), found[8]), (9, 1, 0));
        assert!(sim.flip_bit(Path::new("log"), 0, 2) && !sim.flip_bit(Path::new("log"), 1 << 20, 0));
        assert_ne!(rt.read_file(Path::new("log")).unwrap()[0], found[0]);
    });
}

#[test]
fn the_process_ends_instead_of_an_operation() {
    for fault in [Fault::Kill, Fault::PowerLoss] {
        let sim = Sim::new(8, 1);
        let (rt, done) = (sim.rt(0), Rc::new(Cell::new(0)));
        sim.inject(FaultOp::Write, "log", 1, fault);
        let written = done.clone();
        sim.spawn(0, async move {
            let file = rt.open(Path::new("log"), Open::Create).await.unwrap();
            rt.sync_dir(Path::new("")).await.unwrap();
            for mark in [1, 2] {
                write(&rt, &file, 0, 1, mark, true).await.unwrap();
                written.set(mark);
            }
        });
        sim.run_until(sim.sleep(Duration::from_secs(1)));
        assert_eq!((done.get(), sim.cut(), sim.cut()), (1, Some(fault), None));
        assert_eq!(sim.run_until(marks(&sim.rt(0), "log")), [1]);
    }
}

#[test]
fn a_directory_that_was_taken_out_comes_back_as_it_was() {
    let sim = Sim::new(7, 1);
    sim.run_until(async {
        let rt = sim.rt(0);
        rt.create_dir(Path::new("/a")).unwrap();
        rt.replace_file(Path::new("/a/f"), b"old".to_vec()).await.unwrap();
        rt.sync_dir(Path::new("/")).await.unwrap();
        sim.take_out(Path::new("/a"));
        assert!(rt.list(Path::new("/a")).is_err());
        rt.create_dir(Path::new("/a")).unwrap();
        rt.replace_file(Path::new("/a/g"), b"new".to_vec()).await.unwrap();
        sim.put_back(Path::new("/a"));
    });
    sim.crash();
    let rt = sim.rt(0);
    assert_eq!(rt.read_file(Path::new("/a/f")).unwrap(), b"old");
    assert!(rt.read_file(Path::new("/a/g")).is_err());
}

#[test]
fn a_fatal_error_ends_the_process_and_not_the_machine() {
    let sim = Sim::new(8, 1);
    let left = Rc::new(Cell::new(false));
    let task = left.clone();
    sim.spawn(0, async move {
        futures_lite::future::yield_now().await;
        if !task.get() {
            crate::base::fatal::fatal("no way on");
        }
        task.set(true);
    });
    sim.run_until(sim.sleep(Duration::from_millis(1)));
    assert_eq!((left.get(), sim.exits()), (false, vec!["no way on".to_owned()]));
    let wall_ms = sim.now().wall_ms;
    sim.jump_wall(-1_000_000);
    assert!(sim.now().wall_ms < wall_ms - 900_000);
}
