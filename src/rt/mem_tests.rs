//! Tests of a core's memory.

use super::*;
use crate::base::prng::Prng;

#[test]
fn blocks_do_not_overlap_and_come_back() {
    let memory = Memory::new(64 << 20);
    let mut random = Prng::new(1);
    let mut held: Vec<(Chunk, u8)> = Vec::new();
    for round in 0..20_000u32 {
        if random.chance(1, 2) && !held.is_empty() {
            let (chunk, mark) = held.swap_remove(random.below(held.len() as u64) as usize);
            assert!(chunk.filled().iter().all(|b| *b == mark));
        } else if let Some(mut chunk) = memory.try_chunk(random.below(300_000) as usize) {
            let mark = round as u8;
            let n = chunk.capacity().min(5000);
            chunk.spare()[..n].fill(mark);
            chunk.advance(n);
            held.push((chunk, mark));
        }
    }
    held.clear();
    assert_eq!(memory.used(), 0);
    memory.trim();
    assert!(memory.0.regions.borrow().is_empty());
}

#[test]
fn memory_is_given_in_turn_and_large_requests_stand_apart() {
    let memory = Memory::new(8 << 20);
    let held: Vec<Chunk> = (0..7).map(|_| memory.try_chunk(1 << 20).unwrap()).collect();
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = Box::pin(memory.chunk(2 << 20));
    let mut second = Box::pin(memory.chunk(BLOCK));
    assert!(first.as_mut().poll(&mut cx).is_pending() && second.as_mut().poll(&mut cx).is_pending());
    let mut held = held.into_iter();
    drop(held.next());
    assert!(second.as_mut().poll(&mut cx).is_pending(), "it came later");
    assert!(first.as_mut().poll(&mut cx).is_pending());
    drop(held.next());
    let Poll::Ready(_given) = first.as_mut().poll(&mut cx) else { panic!("there is room") };
    assert!(second.as_mut().poll(&mut cx).is_pending(), "nothing is left");
    drop(second);
    assert!(!memory.contended());
}

#[test]
fn who_reads_does_not_stand_behind_requests() {
    let memory = Memory::new(8 << 20);
    let mut cx = Context::from_waker(Waker::noop());
    let mut requests: Vec<_> = (0..9).map(|_| Box::pin(memory.chunk(1 << 20))).collect();
    let given: Vec<_> = requests.iter_mut().map(|r| r.as_mut().poll(&mut cx)).filter(Poll::is_ready).collect();
    assert_eq!(given.len(), 7, "an eighth is kept");
    let mut read = Box::pin(memory.chunk_to_read(512 << 10));
    let mut further = Box::pin(memory.chunk_to_read(512 << 10));
    let Poll::Ready(_held) = read.as_mut().poll(&mut cx) else { panic!("it is kept for those who read") };
    assert!(further.as_mut().poll(&mut cx).is_pending());
    let mut small = Box::pin(memory.chunk_to_read(64 << 10));
    assert!(small.as_mut().poll(&mut cx).is_ready(), "the end of a log is read all the same");
}

#[test]
fn bytes_of_the_heap_are_charged_while_a_part_of_them_lives() {
    let memory = Memory::new(1 << 20);
    let bytes = memory.charged(Bytes::from(vec![1; 1 << 20]));
    assert!(memory.try_chunk(1).is_none());
    let part = bytes.slice(5..6);
    drop(bytes);
    assert!(memory.try_chunk(1).is_none());
    drop(part);
    assert!(memory.try_chunk(1 << 20).is_some());
}

#[test]
fn of_large_chunks_that_have_a_part_one_goes_on() {
    let memory = Memory::new(8 << 20);
    let mut cx = Context::from_waker(Waker::noop());
    let chunks: Vec<Chunk> = (0..3).map(|_| memory.large(3 << 20)).collect();
    let poll = |charge: std::pin::Pin<&mut dyn Future<Output = ()>>, cx: &mut Context<'_>| charge.poll(cx).is_ready();
    for chunk in &chunks {
        assert!(poll(std::pin::pin!(memory.charge(chunk, 1 << 20)), &mut cx));
    }
    assert!(poll(std::pin::pin!(memory.charge(&chunks[0], 2 << 20)), &mut cx), "there is room in the half");
    assert!(poll(std::pin::pin!(memory.charge(&chunks[1], (3 << 20) - 1)), &mut cx), "one goes on");
    let mut chunks = chunks.into_iter();
    let (first, second, third) = (chunks.next().unwrap(), chunks.next().unwrap(), chunks.next().unwrap());
    let mut waits = [Box::pin(memory.charge(&first, 3 << 20)), Box::pin(memory.charge(&third, 3 << 20))];
    assert!(waits.iter_mut().all(|wait| !poll(wait.as_mut(), &mut cx)), "one alone");
    assert!(poll(std::pin::pin!(memory.charge(&second, second.capacity())), &mut cx), "past those who wait");
    drop(second);
    assert!(poll(waits[0].as_mut(), &mut cx));
}

#[test]
fn accounts_count_what_they_were_set_to_and_leave_room() {
    let memory = Memory::new(1 << 20);
    let (small, large) = (memory.account(), memory.account());
    small.set(300 << 10);
    small.set(200 << 10);
    assert_eq!(memory.used(), 200 << 10);
    large.set(5 << 20);
    assert_eq!((memory.used(), large.bytes()), (384 << 10, 5 << 20));
    drop((small, large));
    assert_eq!(memory.used(), 0);
}

#[test]
fn the_budget_holds_and_slices_keep_a_block() {
    let memory = Memory::new(1 << 20);
    let mut chunk = memory.try_chunk(1 << 20).unwrap();
    chunk.extend(b"abc");
    let slice = chunk.slice(1..3);
    assert!(!chunk.try_reset());
    assert!(memory.try_chunk(1).is_none());
    drop(chunk);
    assert!(memory.try_chunk(1).is_none());
    assert_eq!(&slice[..], b"bc");
    std::thread::spawn(move || drop(slice)).join().unwrap();
    assert!(memory.try_chunk(1 << 20).is_some());
}
