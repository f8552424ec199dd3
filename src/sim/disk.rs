//! The disk: what is written and what is durable are two things, for names as for blocks.
//!
//! A name is made durable by syncing its directory, a block and a length by syncing their file. Changes of names are atomic each, but any
//! subset of the pending ones survives a crash, as does any version since the last sync of each 4 KiB block.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::resume_unwind;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::exec::Exec;
use super::faults::{Fault, FaultOp, Faults};
use crate::base::limits::BLOCK;
use crate::rt::DirEntry;

/// What a disk without a limit says of its size.
const SPACE: u64 = 1 << 40;
/// Versions of a block that a crash may bring back, besides the durable one.
const VERSIONS: usize = 4;

type Block = Rc<[u8]>;

/// A file's content.
#[derive(Default)]
struct Content {
    /// Blocks that are not all zeros by default.
    blocks: BTreeMap<u64, Block>,
    /// Earlier versions of blocks that are not durable as they are, the durable one first.
    earlier: BTreeMap<u64, Vec<Option<Block>>>,
    /// Blocks that a failed sync has given up.
    lost: BTreeSet<u64>,
    /// Blocks whose last write the device has dropped: no sync makes them durable.
    dropped: BTreeSet<u64>,
    len: u64,
    durable_len: u64,
    modified_ms: i64,
    /// Bytes charged to the disk's space.
    allocated: u64,
}

impl Content {
    fn set(&mut self, index: u64, block: Option<Block>) {
        let old = match block {
            Some(block) => self.blocks.insert(index, block),
            None => self.blocks.remove(&index),
        };
        let versions = self.earlier.entry(index).or_default();
        versions.push(old);
        if versions.len() > VERSIONS {
            versions.remove(1);
        }
        self.lost.remove(&index);
        self.dropped.remove(&index);
    }

    fn copy_out(&self, position: u64, out: &mut [u8]) {
        for (i, piece) in out.chunks_mut(BLOCK).enumerate() {
            match self.blocks.get(&(position / BLOCK as u64 + i as u64)) {
                Some(block) => piece.copy_from_slice(&block[..piece.len()]),
                None => piece.fill(0),
            }
        }
    }

    fn truncate(&mut self, len: u64) {
        if len < self.len {
            let gone: Vec<u64> = self.blocks.range(len.div_ceil(BLOCK as u64)..).map(|(i, _)| *i).collect();
            gone.into_iter().for_each(|index| self.set(index, None));
            let (last, keep) = (len / BLOCK as u64, (len % BLOCK as u64) as usize);
            if let Some(block) = self.blocks.get(&last).filter(|_| keep > 0) {
                let mut block = block.to_vec();
                block[keep..].fill(0);
                self.set(last, Some(block.into()));
            }
        }
        self.len = len;
    }

    fn harden(&mut self, blocks: impl Fn(u64) -> bool) {
        let (lost, dropped) = (&self.lost, &self.dropped);
        self.earlier.retain(|index, _| lost.contains(index) || dropped.contains(index) || !blocks(*index));
        self.durable_len = self.len;
    }

    fn crash(&mut self, exec: &Exec) {
        for (index, mut versions) in std::mem::take(&mut self.earlier) {
            let choice = if self.dropped.contains(&index) { 0 } else { exec.below(versions.len() as u64 + 1) as usize };
            if choice < versions.len() {
                match versions.swap_remove(choice) {
                    Some(block) => self.blocks.insert(index, block),
                    None => self.blocks.remove(&index),
                };
            }
        }
        let len = if exec.chance(1, 2) { self.len } else { self.durable_len };
        // Blocks beyond the length go, whichever length it is.
        self.len = u64::MAX;
        self.truncate(len);
        self.earlier.clear();
        self.lost.clear();
        self.dropped.clear();
        self.durable_len = len;
    }
}

/// An open file.
pub struct OpenFile {
    content: Rc<RefCell<Content>>,
    path: PathBuf,
    writable: bool,
}

#[derive(Clone)]
enum Node {
    Dir,
    File(Rc<RefCell<Content>>),
}

type Names = BTreeMap<PathBuf, Node>;

/// What is at and below a path. Paths are sorted by their parts, so it is in one piece.
fn below<'n>(names: &'n Names, path: &Path) -> impl Iterator<Item = (&'n PathBuf, &'n Node)> {
    names.range(path.to_owned()..).take_while(move |(name, _)| name.starts_with(path))
}

fn paths_below(names: &Names, path: &Path) -> Vec<PathBuf> {
    below(names, path).map(|(path, _)| path.clone()).collect()
}

enum Change {
    Insert(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn paths(&self) -> [&PathBuf; 2] {
        match self {
            Change::Insert(path, _) | Change::Remove(path) => [path, path],
            Change::Rename(from, to) => [from, to],
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Change::Insert(path, node) => {
                names.insert(path.clone(), node.clone());
            }
            Change::Remove(path) => {
                if below(names, path).take(2).count() == 1 {
                    names.remove(path);
                }
            }
            Change::Rename(from, to) => {
                if !names.contains_key(from) {
                    return;
                }
                paths_below(names, to).iter().for_each(|path| drop(names.remove(path)));
                let moved = paths_below(names, from);
                for path in moved {
                    let (Some(node), Ok(rest)) = (names.remove(&path), path.strip_prefix(from)) else { continue };
                    names.insert(if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) }, node);
                }
            }
        }
    }
}

#[derive(Default)]
struct Tree {
    names: Names,
    durable: Names,
    /// What leads from `durable` to `names`, in order.
    pending: Vec<Change>,
}

impl Tree {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.parent().is_none() || path.as_os_str().is_empty() || matches!(self.names.get(path), Some(Node::Dir))
    }

    /// Makes the changes in `dir` durable, and earlier ones that they build on.
    fn sync(&mut self, dir: &Path) {
        let mut needed: Vec<PathBuf> = Vec::new();
        let mut commit = vec![false; self.pending.len()];
        for (i, change) in self.pending.iter().enumerate().rev() {
            let paths = change.paths();
            if paths.iter().any(|p| p.parent() == Some(dir) || needed.iter().any(|n| p.starts_with(n))) {
                commit[i] = true;
                needed.extend(paths.into_iter().cloned());
            }
        }
        for (change, commit) in std::mem::take(&mut self.pending).into_iter().zip(commit) {
            if commit { change.apply(&mut self.durable) } else { self.pending.push(change) }
        }
    }

    /// Takes everything at and below `dir` out.
    fn split_off(&mut self, dir: &Path) -> Tree {
        let mut out = Tree::default();
        for (from, to) in [(&mut self.names, &mut out.names), (&mut self.durable, &mut out.durable)] {
            let (inside, outside) = std::mem::take(from).into_iter().partition(|(path, _)| path.starts_with(dir));
            (*from, *to) = (outside, inside);
        }
        let pending = std::mem::take(&mut self.pending).into_iter();
        let (inside, outside) = pending.partition(|change| change.paths()[0].starts_with(dir));
        (self.pending, out.pending) = (outside, inside);
        out
    }

    fn crash(&mut self, exec: &Exec) {
        let mut names = std::mem::take(&mut self.durable);
        std::mem::take(&mut self.pending).iter().filter(|_| exec.chance(1, 2)).for_each(|change| change.apply(&mut names));
        // Parents sort before their children: what has lost its directory is gone.
        self.names = Names::new();
        for (path, node) in names {
            if path.parent().is_some_and(|parent| self.is_dir(parent)) {
                self.names.insert(path, node);
            }
        }
        self.durable = self.names.clone();
    }
}

/// Unwinds to [`super::Sim::run_until`] instead of an operation. True: the power is lost; false: the
/// process is killed.
pub struct Cut(pub bool);

/// See the module. Nothing here takes time: the callers put their delays around.
pub struct Disk {
    exec: Rc<Exec>,
    tree: RefCell<Tree>,
    /// What goes wrong.
    pub faults: Faults,
    free: Cell<Option<u64>>,
    /// Directories that were taken out, by their path.
    away: RefCell<BTreeMap<PathBuf, Tree>>,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn clean(path: &Path) -> PathBuf {
    path.components().filter(|c| *c != Component::CurDir).collect()
}

impl Disk {
    pub fn new(exec: Rc<Exec>) -> Disk {
        Disk { exec, tree: RefCell::default(), faults: Faults::default(), free: Cell::new(None), away: RefCell::default() }
    }

    pub fn set_free_space(&self, bytes: Option<u64>) {
        self.free.set(bytes.map(|bytes| bytes / BLOCK as u64 * BLOCK as u64));
    }

    /// How much longer than others an operation on this file takes.
    pub fn stall(&self, file: &OpenFile) -> Duration {
        self.faults.stall(&file.path)
    }

    /// All files with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let tree = self.tree.borrow();
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(content) => Some((path.clone(), content.borrow().len)),
            Node::Dir => None,
        };
        tree.names.iter().filter_map(file).collect()
    }

    /// All directories.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let tree = self.tree.borrow();
        let dirs = tree.names.iter().filter(|(_, node)| matches!(node, Node::Dir));
        dirs.map(|(path, _)| path.clone()).collect()
    }

    /// Flips a bit of a file where it lies; false when there is no such byte.
    pub fn flip(&self, path: &Path, byte: u64, bit: u32) -> bool {
        let tree = self.tree.borrow();
        let Some(Node::File(content)) = tree.names.get(path) else { return false };
        let mut content = content.borrow_mut();
        if byte >= content.len {
            return false;
        }
        let index = byte / BLOCK as u64;
        let mut block = content.blocks.get(&index).map_or_else(|| vec![0; BLOCK], |block| block.to_vec());
        block[(byte % BLOCK as u64) as usize] ^= 1 << bit;
        content.blocks.insert(index, block.into());
        true
    }

    /// Takes a directory out with all that is in it. No file in it may be open.
    pub fn take_out(&self, dir: &Path) {
        let out = self.tree.borrow_mut().split_off(dir);
        self.away.borrow_mut().insert(dir.to_owned(), out);
    }

    /// Puts a directory back that was taken out, in the place of whatever is there.
    pub fn put_back(&self, dir: &Path) {
        if let Some(back) = self.away.borrow_mut().remove(dir) {
            let mut tree = self.tree.borrow_mut();
            tree.split_off(dir);
            tree.names.extend(back.names);
            tree.durable.extend(back.durable);
            tree.pending.extend(back.pending);
        }
    }

    /// A file's length and when (ms) it was last written to.
    pub fn looked_at(&self, path: &Path) -> io::Result<(u64, i64)> {
        match self.tree.borrow().names.get(&clean(path)) {
            Some(Node::File(content)) => Ok((content.borrow().len, content.borrow().modified_ms)),
            _ => Err(errno(libc::ENOENT)),
        }
    }

    /// Bytes in all and free ones.
    pub fn space(&self) -> (u64, u64) {
        (SPACE, self.free.get().unwrap_or(SPACE))
    }

    pub fn crash(&self) {
        let mut tree = self.tree.borrow_mut();
        tree.crash(&self.exec);
        for node in tree.names.values() {
            if let Node::File(content) = node {
                content.borrow_mut().crash(&self.exec);
            }
        }
    }

    /// The fault planned for this operation, if any.
    fn fault(&self, op: FaultOp, path: &Path) -> Option<Fault> {
        self.exec.note(op as u64);
        let fault = self.faults.pick(&self.exec, op, path);
        if matches!(fault, Some(Fault::PowerLoss | Fault::Kill)) {
            resume_unwind(Box::new(Cut(fault == Some(Fault::PowerLoss))));
        }
        fault
    }

    fn check(&self, op: FaultOp, path: &Path) -> io::Result<()> {
        match self.fault(op, path) {
            Some(Fault::Errno(code)) => Err(errno(code)),
            _ => Ok(()),
        }
    }

    /// Charges a file for its first `upto` bytes.
    fn charge(&self, content: &mut Content, upto: u64) -> io::Result<()> {
        let upto = upto.next_multiple_of(BLOCK as u64);
        let more = upto.saturating_sub(content.allocated);
        if let Some(free) = self.free.get() {
            self.free.set(Some(free.checked_sub(more).ok_or_else(|| errno(libc::ENOSPC))?));
        }
        content.allocated += more;
        Ok(())
    }

    fn give_back(&self, content: &mut Content, keep: u64) {
        let keep = keep.next_multiple_of(BLOCK as u64);
        let less = content.allocated.saturating_sub(keep);
        content.allocated -= less;
        self.free.set(self.free.get().map(|free| free + less));
    }

    pub fn open(&self, path: &Path, how: crate::rt::Open) -> io::Result<OpenFile> {
        let path = clean(path);
        self.check(FaultOp::Open, &path)?;
        let mut tree = self.tree.borrow_mut();
        let content = match tree.names.get(&path) {
            Some(Node::File(content)) => content.clone(),
            Some(Node::Dir) => return Err(errno(libc::EISDIR)),
            None if how == crate::rt::Open::Create && path.parent().is_some_and(|dir| tree.is_dir(dir)) => {
                let content = Rc::new(RefCell::new(Content::default()));
                tree.change(Change::Insert(path.clone(), Node::File(content.clone())));
                content
            }
            None => return Err(errno(libc::ENOENT)),
        };
        Ok(OpenFile { content, path, writable: how != crate::rt::Open::Read })
    }

    pub fn len(&self, file: &OpenFile) -> u64 {
        file.content.borrow().len
    }

    /// Fills the front of `out`; how much.
    pub fn read(&self, file: &OpenFile, position: u64, out: &mut [u8]) -> io::Result<usize> {
        let content = file.content.borrow();
        let mut n = (content.len.saturating_sub(position)).min(out.len() as u64) as usize;
        match self.fault(FaultOp::Read, &file.path) {
            Some(Fault::Errno(code)) => return Err(errno(code)),
            Some(Fault::Short) => n = self.exec.below(n.div_ceil(BLOCK) as u64) as usize * BLOCK,
            _ => {}
        }
        content.copy_out(position, &mut out[..n]);
        Ok(n)
    }

    /// Writes whole blocks.
    pub fn write(&self, file: &OpenFile, position: u64, bytes: &[u8]) -> io::Result<()> {
        if !file.writable {
            return Err(errno(libc::EBADF));
        }
        self.exec.note(u64::from(crc32c::crc32c(bytes)) ^ position << 32);
        let fault = self.fault(FaultOp::Write, &file.path);
        let outcome = match fault {
            Some(Fault::Errno(code)) => Err(errno(code)),
            _ => Ok(()),
        };
        let mut content = file.content.borrow_mut();
        let end = position + bytes.len() as u64;
        self.charge(&mut content, end)?;
        content.modified_ms = self.exec.now().wall_ms;
        let mut first = position / BLOCK as u64;
        if fault == Some(Fault::Misdirected) {
            first = self.exec.below(content.len.div_ceil(BLOCK as u64).max(1));
        }
        for (i, block) in bytes.chunks(BLOCK).enumerate() {
            if outcome.is_ok() || self.exec.chance(1, 2) {
                content.set(first + i as u64, Some(block.into()));
            }
            if fault == Some(Fault::Lost) {
                content.dropped.insert(first + i as u64);
            }
        }
        if outcome.is_ok() || self.exec.chance(1, 2) {
            content.len = content.len.max(end);
        }
        outcome
    }

    /// Makes the blocks of `position..position + len` durable, and the file's length.
    pub fn harden(&self, file: &OpenFile, position: u64, len: u64) -> io::Result<()> {
        let blocks = position / BLOCK as u64..(position.saturating_add(len)).div_ceil(BLOCK as u64);
        let fault = self.fault(FaultOp::Sync, &file.path);
        let outcome = match fault {
            Some(Fault::Errno(code)) => Err(errno(code)),
            _ => Ok(()),
        };
        let mut content = file.content.borrow_mut();
        match outcome {
            Ok(()) if fault == Some(Fault::Lie) => {}
            Ok(()) => content.harden(|index| blocks.contains(&index)),
            Err(_) => {
                let lost: Vec<u64> = content.earlier.range(blocks).map(|(index, _)| *index).collect();
                content.lost.extend(lost);
            }
        }
        outcome
    }

    pub fn allocate(&self, file: &OpenFile, len: u64) -> io::Result<()> {
        self.check(FaultOp::Allocate, &file.path)?;
        let mut content = file.content.borrow_mut();
        self.charge(&mut content, len)?;
        content.len = content.len.max(len);
        Ok(())
    }

    pub fn truncate(&self, file: &OpenFile, len: u64) -> io::Result<()> {
        self.check(FaultOp::Truncate, &file.path)?;
        let mut content = file.content.borrow_mut();
        content.truncate(len);
        content.modified_ms = self.exec.now().wall_ms;
        self.give_back(&mut content, len);
        Ok(())
    }

    pub fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let (dir, tree) = (clean(dir), self.tree.borrow());
        if !tree.is_dir(&dir) {
            return Err(errno(libc::ENOENT));
        }
        let entries = below(&tree.names, &dir).filter(|(path, _)| path.parent() == Some(&dir));
        let entry = |(path, node): (&PathBuf, &Node)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            DirEntry { name, is_dir: matches!(node, Node::Dir) }
        };
        let mut entries: Vec<DirEntry> = entries.map(entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let (dir, mut tree) = (clean(dir), self.tree.borrow_mut());
        self.check(FaultOp::Names, &dir)?;
        if tree.is_dir(&dir) {
            return Ok(());
        }
        if tree.names.contains_key(&dir) {
            return Err(errno(libc::EEXIST));
        }
        let root = |path: &Path| path.parent().is_none_or(|above| above.as_os_str().is_empty());
        if !dir.parent().is_none_or(|parent| root(parent) || tree.is_dir(parent)) {
            return Err(errno(libc::ENOENT));
        }
        tree.change(Change::Insert(dir, Node::Dir));
        Ok(())
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to, mut tree) = (clean(from), clean(to), self.tree.borrow_mut());
        self.check(FaultOp::Names, &from)?;
        let node = tree.names.get(&from).cloned().ok_or_else(|| errno(libc::ENOENT))?;
        if !to.parent().is_some_and(|dir| tree.is_dir(dir)) {
            return Err(errno(libc::ENOENT));
        }
        if from == to {
            return Ok(());
        }
        match (node, tree.names.get(&to)) {
            (Node::Dir, Some(Node::File(_))) => return Err(errno(libc::ENOTDIR)),
            (Node::File(_), Some(Node::Dir)) => return Err(errno(libc::EISDIR)),
            (Node::Dir, Some(Node::Dir)) if tree.names.keys().any(|p| p.parent() == Some(&to)) => return Err(errno(libc::ENOTEMPTY)),
            (Node::Dir, _) if to.starts_with(&from) => return Err(errno(libc::EINVAL)),
            (_, Some(Node::File(replaced))) => self.give_back(&mut replaced.borrow_mut(), 0),
            _ => {}
        }
        tree.change(Change::Rename(from, to));
        Ok(())
    }

    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = clean(path);
        self.check(FaultOp::Names, &path)?;
        self.remove(path)
    }

    fn remove(&self, path: PathBuf) -> io::Result<()> {
        let mut tree = self.tree.borrow_mut();
        match tree.names.get(&path) {
            Some(Node::File(content)) => self.give_back(&mut content.borrow_mut(), 0),
            Some(Node::Dir) => return Err(errno(libc::EISDIR)),
            None => return Err(errno(libc::ENOENT)),
        }
        tree.change(Change::Remove(path));
        Ok(())
    }

    pub fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let dir = clean(dir);
        self.check(FaultOp::Names, &dir)?;
        if !matches!(self.tree.borrow().names.get(&dir), Some(Node::Dir)) {
            return Err(errno(libc::ENOENT));
        }
        // Children first, each a change of its own: a crash may leave some of them.
        let all = paths_below(&self.tree.borrow().names, &dir);
        for path in all.into_iter().rev() {
            if self.tree.borrow().is_dir(&path) {
                self.tree.borrow_mut().change(Change::Remove(path));
            } else {
                self.remove(path)?;
            }
        }
        Ok(())
    }

    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = clean(path);
        self.check(FaultOp::Read, &path)?;
        match self.tree.borrow().names.get(&path) {
            Some(Node::File(content)) => {
                let content = content.borrow();
                let mut bytes = vec![0; content.len as usize];
                content.copy_out(0, &mut bytes);
                Ok(bytes)
            }
            Some(Node::Dir) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    /// Writes a small file from its start through the page cache: any length.
    pub fn write_small(&self, file: &OpenFile, bytes: &[u8]) -> io::Result<()> {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
        file.content.borrow_mut().truncate(0);
        self.write(file, 0, &padded)?;
        file.content.borrow_mut().truncate(bytes.len() as u64);
        Ok(())
    }

    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = clean(dir);
        let fault = self.fault(FaultOp::Sync, &dir);
        if let Some(Fault::Errno(code)) = fault {
            return Err(errno(code));
        }
        if !self.tree.borrow().is_dir(&dir) {
            return Err(errno(libc::ENOENT));
        }
        if fault != Some(Fault::Lie) {
            self.tree.borrow_mut().sync(&dir);
        }
        Ok(())
    }
}
