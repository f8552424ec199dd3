//! Files: direct reads and writes, lengths, names, small files.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use super::{World, on_both, on_real_cores, pattern};
use crate::base::limits::BLOCK;
use crate::rt::mem::Chunk;
use crate::rt::{Open, Rt};

on_both! {
    blocks_come_back_as_written on 1,
    lengths_follow_writes_and_cuts on 1,
    names_and_small_files on 1,
    a_dropped_write_leaves_its_memory_alone on 1,
}

async fn chunk_of<R: Rt>(rt: &R, bytes: &[u8]) -> Chunk {
    let mut chunk = rt.memory().chunk(bytes.len()).await;
    chunk.extend(bytes);
    chunk
}

async fn blocks_come_back_as_written<W: World>(world: Rc<W>) {
    let rt = world.rt();
    rt.create_dir(&world.dir()).unwrap();
    let path = world.dir().join("blocks");
    assert!(rt.open(&path, Open::Read).await.is_err() && rt.open(&path, Open::Write).await.is_err());
    let file = rt.open(&path, Open::Create).await.unwrap();
    // Above what makes the pool register its regions with the ring, so that fixed and plain operations are both taken.
    let all = pattern(0, 600 * BLOCK);
    let mut held = Vec::new();
    for (at, blocks, durable) in [(0, 1, false), (1, 3, true), (4, 252, false), (256, 344, true)] {
        let chunk = chunk_of(rt, &all[at * BLOCK..(at + blocks) * BLOCK]).await;
        rt.write_at(&file, (at * BLOCK) as u64, chunk.window(0..blocks * BLOCK), durable).await.unwrap();
        held.push(chunk);
    }
    rt.sync(&file).await.unwrap();
    assert_eq!(rt.file_len(&file).unwrap(), all.len() as u64);
    // A block in the middle again, from the middle of a chunk.
    let again = chunk_of(rt, &pattern(7, 3 * BLOCK)).await;
    rt.write_at(&file, 9 * BLOCK as u64, again.window(BLOCK..2 * BLOCK), true).await.unwrap();
    let mut expected = all.clone();
    expected[9 * BLOCK..10 * BLOCK].copy_from_slice(&again.filled()[BLOCK..2 * BLOCK]);

    let reader = rt.open(&path, Open::Read).await.unwrap();
    let chunk = rt.memory().chunk(1024 * BLOCK).await;
    let (read, chunk) = rt.read_at(&reader, 0, chunk, 5 * BLOCK).await;
    assert_eq!(read.unwrap(), 5 * BLOCK);
    let (read, chunk) = rt.read_at(&reader, 5 * BLOCK as u64, chunk, 1000 * BLOCK).await;
    assert_eq!(read.unwrap(), 595 * BLOCK, "up to the end of the file");
    assert!(chunk.filled() == expected);
    let (read, chunk) = rt.read_at(&reader, 600 * BLOCK as u64, chunk, BLOCK).await;
    assert_eq!(read.unwrap(), 0, "behind the end");
    assert_eq!(chunk.len(), 600 * BLOCK);
    assert!(rt.write_at(&reader, 0, again.window(0..BLOCK), false).await.is_err(), "opened for reading");
}

async fn lengths_follow_writes_and_cuts<W: World>(world: Rc<W>) {
    let rt = world.rt();
    rt.create_dir(&world.dir()).unwrap();
    let file = rt.open(&world.dir().join("cut"), Open::Create).await.unwrap();
    rt.allocate(&file, 64 * BLOCK as u64).await.unwrap();
    assert_eq!(rt.file_len(&file).unwrap(), 64 * BLOCK as u64);
    let ones = chunk_of(rt, &vec![1; 4 * BLOCK]).await;
    rt.write_at(&file, 2 * BLOCK as u64, ones.window(0..4 * BLOCK), false).await.unwrap();
    rt.allocate(&file, 8 * BLOCK as u64).await.unwrap();
    assert_eq!(rt.file_len(&file).unwrap(), 64 * BLOCK as u64, "allocating never cuts");
    rt.truncate(&file, 5 * BLOCK as u64 + 100).await.unwrap();
    assert_eq!(rt.file_len(&file).unwrap(), 5 * BLOCK as u64 + 100);
    let (read, chunk) = rt.read_at(&file, 0, rt.memory().chunk(8 * BLOCK).await, 8 * BLOCK).await;
    assert_eq!(read.unwrap(), 5 * BLOCK + 100);
    assert!(chunk.filled()[..2 * BLOCK].iter().all(|b| *b == 0) && chunk.filled()[2 * BLOCK..].iter().all(|b| *b == 1));
    // What was cut off does not come back.
    rt.truncate(&file, 8 * BLOCK as u64).await.unwrap();
    let (read, chunk) = rt.read_at(&file, 4 * BLOCK as u64, rt.memory().chunk(4 * BLOCK).await, 4 * BLOCK).await;
    assert_eq!(read.unwrap(), 4 * BLOCK);
    assert!(chunk.filled()[..BLOCK + 100].iter().all(|b| *b == 1) && chunk.filled()[BLOCK + 100..].iter().all(|b| *b == 0));
}

async fn names_and_small_files<W: World>(world: Rc<W>) {
    let (rt, dir) = (world.rt(), world.dir());
    rt.create_dir(&dir).unwrap();
    assert!(rt.create_dir(&dir.join("a/b")).is_err(), "above it there is none");
    rt.create_dir(&dir.join("a")).unwrap();
    rt.create_dir(&dir.join("a/b")).unwrap();
    rt.create_dir(&dir.join("a/b")).unwrap();
    let (one, two) = (dir.join("a/one"), dir.join("a/two"));
    for content in [&b"first"[..], b"the second is longer", b""] {
        rt.replace_file(&one, content.to_vec()).await.unwrap();
        assert_eq!(rt.read_file(&one).unwrap(), content);
    }
    rt.replace_file(&one, pattern(0, 10_001)).await.unwrap();
    rt.replace_file(&two, b"two".to_vec()).await.unwrap();
    let names = |at: &Path| rt.list(at).unwrap().into_iter().map(|e| (e.name, e.is_dir)).collect::<Vec<_>>();
    assert_eq!(names(&dir.join("a")), [("b".into(), true), ("one".into(), false), ("two".into(), false)]);
    assert_eq!(rt.len_of(&one).unwrap(), 10_001);
    rt.rename(&one, &two).unwrap();
    assert_eq!(rt.read_file(&two).unwrap(), pattern(0, 10_001));
    assert_eq!(rt.read_file(&one).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(rt.remove_file(&one).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    rt.rename(&dir.join("a"), &dir.join("c")).unwrap();
    rt.sync_dir(&dir).await.unwrap();
    assert_eq!(rt.read_file(&dir.join("c/two")).unwrap().len(), 10_001);
    rt.remove_dir_all(&dir.join("c")).unwrap();
    assert!(rt.list(&dir.join("c")).is_err() && names(&dir).is_empty());
}

/// Partitions are moved to other disks and left as links.
#[test]
fn directories_behind_symbolic_links() {
    on_real_cores(1, |world| async move {
        let (rt, dir) = (world.rt(), world.dir().join("links"));
        let (link, other) = (dir.join("d"), dir.join("other"));
        [&dir, &other, &other.join("t-0")].into_iter().for_each(|dir| rt.create_dir(dir).unwrap());
        rt.replace_file(&other.join("t-0/one"), b"one".to_vec()).await.unwrap();
        let to = [(other.join("t-0"), &link), (dir.join("nowhere"), &dir.join("e")), (other.join("t-0/one"), &dir.join("f"))];
        to.into_iter().for_each(|(to, link)| std::os::unix::fs::symlink(to, link).unwrap());
        let names = |at: &Path| rt.list(at).unwrap().into_iter().map(|e| (e.name, e.is_dir)).collect::<Vec<_>>();
        let found = [("d", true), ("e", true), ("f", false), ("other", true)];
        assert_eq!(names(&dir), found.map(|(name, is_dir)| (name.to_owned(), is_dir)));
        assert_eq!(rt.list(&dir.join("e")).unwrap_err().kind(), std::io::ErrorKind::Other, "it is not missing");
        rt.remove_dir_all(&link).unwrap();
        rt.remove_dir_all(&dir.join("e")).unwrap();
        rt.remove_file(&dir.join("f")).unwrap();
        assert!(names(&other).is_empty());
    });
}

/// The kernel writes what there is room for and says how much that was: the write goes on behind it, and fails there.
#[test]
fn a_write_that_is_cut_short_by_a_full_disk_fails() {
    const ROOM: usize = 64;
    on_real_cores(1, |world| async move {
        let (rt, dir) = (world.rt(), world.dir().join("small"));
        rt.create_dir(&dir).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&dir).output();
        if !mount.is_ok_and(|done| done.status.success()) {
            return eprintln!("not allowed to mount a file system: nothing tested");
        }
        let file = rt.open(&dir.join("short"), Open::Create).await.unwrap();
        let bytes = pattern(0, 2 * ROOM * BLOCK);
        let chunk = chunk_of(rt, &bytes).await;
        let written = rt.write_at(&file, 0, chunk.window(0..bytes.len()), false).await;
        let len = rt.file_len(&file).unwrap() as usize;
        let (read, found) = rt.read_at(&file, 0, rt.memory().chunk(bytes.len()).await, bytes.len()).await;
        let unmounted = Command::new("umount").arg("-l").arg(&dir).status().unwrap();
        assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert!(unmounted.success() && len == read.unwrap() && (1..=ROOM * BLOCK).contains(&len));
        assert!(found.filled() == &bytes[..len]);
    });
}

/// Whoever lets go of a write must get neither its memory back before the kernel is done with it nor a torn block.
async fn a_dropped_write_leaves_its_memory_alone<W: World>(world: Rc<W>) {
    let rt = world.rt();
    rt.create_dir(&world.dir()).unwrap();
    let file = rt.open(&world.dir().join("dropped"), Open::Create).await.unwrap();
    for round in 0..50u8 {
        let chunk = chunk_of(rt, &vec![round + 1; 64 * BLOCK]).await;
        let write = rt.write_at(&file, 0, chunk.window(0..64 * BLOCK), false);
        drop(chunk);
        futures_lite::future::or(async { write.await.unwrap() }, rt.yield_now()).await;
        // The same memory again, were it free.
        let mut next = rt.memory().chunk(64 * BLOCK).await;
        next.spare()[..64 * BLOCK].fill(0xff);
    }
    while rt.memory().used() > 0 {
        rt.sleep(Duration::from_millis(1)).await;
    }
    let len = rt.file_len(&file).unwrap() as usize;
    let (read, chunk) = rt.read_at(&file, 0, rt.memory().chunk(64 * BLOCK).await, 64 * BLOCK).await;
    assert_eq!(read.unwrap(), len);
    assert!(chunk.filled().chunks(BLOCK).all(|block| block[0] <= 50 && block.iter().all(|b| *b == block[0])));
}
