//! The runtime seam: everything that touches a clock, a socket, a file or another core goes through [`Rt`].
//!
//! `uring` runs it on one pinned executor and one io_uring per core; `sim` (in the top-level module of that name) runs the same
//! code in one thread, in virtual time, with a disk that can lose what was not flushed.

#[cfg(test)]
pub mod heap;
pub mod mem;
pub mod notify;
pub mod slices;
#[cfg(test)]
mod tests;
pub mod uring;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::base::time::Now;
use mem::{Chunk, Memory, Window};
use slices::Slices;

/// Which share of a core a task gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Network, append, fetch: latency matters.
    Foreground,
    /// Index building, snapshots, statistics: whatever is left over.
    Background,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Read only; an error if missing.
    Read,
    /// Read and write; an error if missing.
    Write,
    /// Read and write; created if missing.
    Create,
}

/// One directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name without the directory.
    pub name: String,
    /// True for a directory, and for a symbolic link to one or to what is not there.
    pub is_dir: bool,
}

/// What one core gives the code that runs on it. Clones share the core. Nothing here is `Send` but what says so.
///
/// Futures returned here may be dropped at any time: the kernel's operation is then cancelled, and the buffers it names live until
/// its last completion.
pub trait Rt: Clone + 'static {
    /// A listening socket.
    type Listener: 'static;
    /// A connection not yet bound to a core: it can be sent to another one.
    type Accepted: Send + 'static;
    /// A connection of this core. Clones name the same connection; it is closed when the last clone is dropped.
    type Socket: Clone + 'static;
    /// An open file of this core. Clones name the same file; it is closed when the last clone is dropped.
    type File: Clone + 'static;

    /// This core's number, `0..cores()`.
    fn core(&self) -> usize;
    /// How many cores there are.
    fn cores(&self) -> usize;
    /// Both clocks.
    fn now(&self) -> Now;
    /// The monotonic clock as it was when this turn of the core began: to read it costs nothing, where
    /// each look at the clocks is a few hundredths of a small request's work.
    fn turn_began(&self) -> Duration {
        self.now().mono
    }
    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;
    /// Lets every other runnable task of this core run once.
    fn yield_now(&self) -> impl Future<Output = ()> + 'static;
    /// Runs a task on this core until it ends.
    fn spawn(&self, class: Class, task: impl Future<Output = ()> + 'static);
    /// This core's memory.
    fn memory(&self) -> &Memory;
    /// The budget of this core's turns for long work.
    fn slices(&self) -> &Slices;
    /// For how long this core could not do what was due, in all: turns that took long, and the time
    /// in which the process was stopped.
    fn away(&self) -> Duration;
    /// File descriptors that this core may have: its part of the process's.
    fn descriptors(&self) -> usize {
        usize::MAX
    }
    /// Says what the core is at now: the log names it where a turn takes long.
    fn doing(&self, _what: &'static str) {}
    /// Fills `out` with random bytes from the system (seeded in the simulation), for ids.
    fn random(&self, out: &mut [u8]);

    /// Calls `turn` once per turn of this core's loop and whenever another core has unparked it. It drains the mailboxes; it returns
    /// true when it found something to do.
    fn on_turn(&self, turn: Box<dyn Fn() -> bool>);
    /// Makes `core` take a turn soon. Callable for any core.
    fn unpark(&self, core: usize);

    /// Binds and listens. With port 0 the kernel picks one.
    fn listen(&self, address: SocketAddr) -> io::Result<Self::Listener>;
    /// The bound address.
    fn local_addr(&self, listener: &Self::Listener) -> io::Result<SocketAddr>;
    /// The next connection and its peer.
    fn accept(&self, listener: &Self::Listener) -> impl Future<Output = io::Result<(Self::Accepted, SocketAddr)>>;
    /// Binds a connection to this core.
    fn adopt(&self, accepted: Self::Accepted) -> io::Result<Self::Socket>;
    /// Receives some bytes into a small buffer that is taken only when they arrive; empty at the end of the stream.
    fn recv_some(&self, socket: &Self::Socket) -> impl Future<Output = io::Result<Bytes>>;
    /// Receives up to `want` bytes (0 < want <= spare) behind what the chunk holds; 0 at the end of the stream.
    fn recv_into(&self, socket: &Self::Socket, chunk: Chunk, want: usize) -> impl Future<Output = (io::Result<usize>, Chunk)>;
    /// Makes a waiting [`Rt::recv_into`] of this socket return `Interrupted` (or what it has).
    fn interrupt_recv(&self, socket: &Self::Socket);
    /// Sends all pieces, in order. One call at a time per socket.
    fn send(&self, socket: &Self::Socket, pieces: Vec<Bytes>) -> impl Future<Output = io::Result<()>>;
    /// Bytes of what was sent that the peer's side has received.
    fn acknowledged(&self, socket: &Self::Socket) -> u64;
    /// Ends both directions; waiting operations return.
    fn shutdown(&self, socket: &Self::Socket);
    /// As [`Rt::shutdown`], and what was not sent yet is dropped: the memory of sends that are under way
    /// comes back whatever the peer does.
    fn abort(&self, socket: &Self::Socket);

    /// Opens a file for direct I/O.
    fn open(&self, path: &Path, how: Open) -> impl Future<Output = io::Result<Self::File>>;
    /// Length of the file in bytes.
    fn file_len(&self, file: &Self::File) -> io::Result<u64>;
    /// Reads up to `want` bytes at `position` behind what the chunk holds; fewer only at the end of the file. `position`, `want` and
    /// the chunk's length are multiples of [`crate::base::limits::BLOCK`].
    fn read_at(&self, file: &Self::File, position: u64, chunk: Chunk, want: usize) -> impl Future<Output = (io::Result<usize>, Chunk)>;
    /// Writes the whole window at `position`; with `durable` it is on the device, and so is the file's length, when this returns.
    /// `position` and the window's range are multiples of [`crate::base::limits::BLOCK`]. After an error nothing is known about the range.
    fn write_at(&self, file: &Self::File, position: u64, window: Window, durable: bool) -> impl Future<Output = io::Result<()>>;
    /// Writes zeros to `position..position + len` (multiples of [`crate::base::limits::BLOCK`]): blocks that were only allocated become written
    /// ones, and a later write to them changes no metadata of the file.
    fn zero(&self, file: &Self::File, position: u64, len: u64) -> impl Future<Output = io::Result<()>>;
    /// Makes all completed writes durable (fdatasync). Never retry after an error.
    fn sync(&self, file: &Self::File) -> impl Future<Output = io::Result<()>>;
    /// Allocates blocks for `0..len` and makes the file at least that long; new bytes read as zeros.
    fn allocate(&self, file: &Self::File, len: u64) -> impl Future<Output = io::Result<()>>;
    /// Cuts or extends the file to `len`.
    fn truncate(&self, file: &Self::File, len: u64) -> impl Future<Output = io::Result<()>>;

    /// Entries of a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Creates a directory in one that is there; fine if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file or directory over `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a file that may be large, without stalling the core meanwhile.
    fn unlink(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// A file's length in bytes.
    fn len_of(&self, path: &Path) -> io::Result<u64>;
    /// When a file was last written to or cut, in milliseconds since 1970.
    fn modified_ms(&self, path: &Path) -> io::Result<i64>;
    /// Bytes of the file system that holds `dir`: all, and those still to be had.
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)>;
    /// Removes a directory and all in it; of one behind a symbolic link the files, and the link.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// A whole (small) file through the page cache.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Creates or overwrites a small file through the page cache, without a flush: after a crash it may be missing, empty or torn.
    fn write_file(&self, path: &Path, content: Vec<u8>) -> impl Future<Output = io::Result<()>>;
    /// Replaces a small file: written beside it, flushed, renamed over it, the directory flushed.
    fn replace_file(&self, path: &Path, content: Vec<u8>) -> impl Future<Output = io::Result<()>>;
    /// Makes created, renamed and removed names of a directory durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
}
