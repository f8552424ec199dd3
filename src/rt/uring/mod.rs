//! The real runtime: per core one pinned glommio executor for tasks, and one data ring for sockets, files, timers and waiting.
//!
//! Nothing outside this module names glommio or io-uring.

mod cores;
mod file;
mod net;
mod preflight;
mod pump;
mod receive;
mod ring;
mod timers;
mod turns;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use glommio::TaskQueueHandle;

use super::mem::{Chunk, Memory, Window};
use super::slices::Slices;
use super::{Class, DirEntry, Open, Rt};
use crate::base::limits::BLOCK;
use crate::base::time::Now;
use receive::Receives;
use ring::Ring;
use timers::Timers;
use turns::Turns;

pub use cores::run;
pub use preflight::{check, raise_limits};
#[cfg(test)]
use ring::Features;

/// Log filter for the runtime library: it warns of unregistered memory that nobody uses.
pub const RUNTIME_LOG_FILTER: &str = "glommio=error";

/// How the cores are set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The CPU of each core.
    pub cpus: Vec<usize>,
    /// Budget of a core's pool, bytes.
    pub memory_per_core: usize,
    /// Sends from this size on go without a copy (SEND_ZC); 0: never.
    pub send_zc_bytes: usize,
    /// How long a core looks for completions before it sleeps while a write is at the device; 0: not at all.
    pub spin: Duration,
}

/// The part of a core that other threads see.
struct Peer {
    doorbell: OwnedFd,
    parked: AtomicBool,
}

impl Peer {
    fn unpark(&self) {
        // Pairs with the fence between "parked" and the last look at the mailboxes.
        fence(Ordering::SeqCst);
        if self.parked.swap(false, Ordering::SeqCst) {
            self.ring_doorbell();
        }
    }

    fn ring_doorbell(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes 8 bytes of our own to an open eventfd.
        unsafe { libc::write(self.doorbell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// Wakes cores from any thread.
#[derive(Clone)]
pub struct Remote(Arc<[Peer]>);

impl Remote {
    /// Makes a core take a turn soon.
    pub fn unpark(&self, core: usize) {
        self.0[core].unpark();
    }
}

struct Core {
    index: usize,
    peers: Arc<[Peer]>,
    ring: Rc<Ring>,
    timers: Rc<Timers>,
    turns: Turns,
    slices: Slices,
    receives: Receives,
    memory: Memory,
    /// Polls of tasks so far: unchanged over a round of the loop, nothing was runnable.
    polls: Cell<u64>,
    turn: RefCell<Option<Rc<dyn Fn() -> bool>>>,
    foreground: TaskQueueHandle,
    background: TaskQueueHandle,
    start: Instant,
    send_zc_bytes: usize,
    spin: Duration,
    stopping: Cell<bool>,
}

/// One core of the real runtime.
#[derive(Clone)]
pub struct Uring(Rc<Core>);

/// The CPUs that this process may use, in order: what `taskset` or a cpuset allows.
pub fn allowed_cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|c| c.id).collect()
}

impl Uring {
    /// What the kernel can do.
    #[cfg(test)]
    pub fn features(&self) -> Features {
        self.0.ring.features()
    }

    /// Ends everything that is in flight, so that no buffer is freed under the kernel's hands.
    async fn drain(&self) {
        self.0.turn.replace(None);
        self.0.ring.close();
        while self.0.ring.in_flight() > 0 {
            self.sleep(Duration::from_millis(1)).await;
        }
        self.0.turns.tell(self.0.index);
        self.0.stopping.set(true);
    }

    fn counted<F: Future>(&self, task: F) -> Counted<F> {
        Counted { rt: self.clone(), task }
    }
}

/// A task whose polls are counted. On a drained core it runs no further: a task that always has something to do would keep the executor from
/// its end. Not an async function: that would hold its task twice, before its first poll and after.
struct Counted<F> {
    rt: Uring,
    task: F,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `task` is pinned with `self`: it is neither moved out of it nor replaced, and there is no `Drop` that could.
        let (rt, task) = unsafe {
            let counted = self.get_unchecked_mut();
            (&counted.rt, Pin::new_unchecked(&mut counted.task))
        };
        if rt.0.stopping.get() {
            return Poll::Pending;
        }
        rt.0.polls.set(rt.0.polls.get() + 1);
        rt.0.turns.doing(std::any::type_name::<F>());
        task.poll(cx)
    }
}

impl Rt for Uring {
    type Listener = net::Listener;
    type Accepted = net::Accepted;
    type Socket = net::Socket;
    type File = file::File;

    fn core(&self) -> usize {
        self.0.index
    }

    fn doing(&self, what: &'static str) {
        self.0.turns.doing(what);
    }

    fn cores(&self) -> usize {
        self.0.peers.len()
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.0.start.elapsed(), wall_ms: wall.as_millis() as i64 }
    }

    fn turn_began(&self) -> Duration {
        self.0.turns.began().saturating_duration_since(self.0.start)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        self.0.timers.sleep(duration)
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        // A task that woke itself would keep the loop out of its queue: that ends when no task of it
        // is runnable.
        let core = self.0.clone();
        async move { core.slices.yield_now().await }
    }

    fn spawn(&self, class: Class, task: impl Future<Output = ()> + 'static) {
        let queue = match class {
            Class::Foreground => self.0.foreground,
            Class::Background => self.0.background,
        };
        glommio::spawn_local_into(self.counted(task), queue).expect("the queue exists").detach();
    }

    fn memory(&self) -> &Memory {
        &self.0.memory
    }

    fn slices(&self) -> &Slices {
        &self.0.slices
    }

    fn away(&self) -> Duration {
        self.0.turns.away()
    }

    fn descriptors(&self) -> usize {
        let files = preflight::raise_limits().map_or(usize::MAX, |limits| limits.files as usize);
        files / self.cores()
    }

    fn random(&self, out: &mut [u8]) {
        // SAFETY: writes at most `out.len()` bytes to `out`.
        let got = unsafe { libc::getrandom(out.as_mut_ptr().cast(), out.len(), 0) };
        if got != out.len() as isize {
            crate::base::fatal::fatal("the system gives no random bytes");
        }
    }

    fn on_turn(&self, turn: Box<dyn Fn() -> bool>) {
        self.0.turn.replace(Some(turn.into()));
    }

    fn unpark(&self, core: usize) {
        // Whoever calls this on its own core keeps it awake already.
        if core != self.0.index {
            self.0.peers[core].unpark();
        }
    }

    fn listen(&self, address: SocketAddr) -> io::Result<net::Listener> {
        net::listen(address)
    }

    fn local_addr(&self, listener: &net::Listener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(&self, listener: &net::Listener) -> io::Result<(net::Accepted, SocketAddr)> {
        listener.accept(&self.0.ring).await
    }

    fn adopt(&self, accepted: net::Accepted) -> io::Result<net::Socket> {
        net::Socket::adopt(accepted, self.0.send_zc_bytes > 0)
    }

    async fn recv_some(&self, socket: &net::Socket) -> io::Result<Bytes> {
        socket.recv_some(&self.0.ring, &self.0.receives, &self.0.memory).await
    }

    async fn recv_into(&self, socket: &net::Socket, chunk: Chunk, want: usize) -> (io::Result<usize>, Chunk) {
        socket.recv_into(&self.0.ring, chunk, want).await
    }

    fn interrupt_recv(&self, socket: &net::Socket) {
        socket.interrupt_recv(&self.0.ring);
    }

    async fn send(&self, socket: &net::Socket, pieces: Vec<Bytes>) -> io::Result<()> {
        socket.send(&self.0.ring, &self.0.memory, pieces, self.0.send_zc_bytes).await
    }

    fn acknowledged(&self, socket: &net::Socket) -> u64 {
        socket.acknowledged()
    }

    fn abort(&self, socket: &net::Socket) {
        socket.shutdown();
        socket.abort();
    }

    fn shutdown(&self, socket: &net::Socket) {
        socket.shutdown();
    }

    async fn open(&self, path: &Path, how: Open) -> io::Result<file::File> {
        file::open(path, how)
    }

    fn file_len(&self, file: &file::File) -> io::Result<u64> {
        file.len()
    }

    async fn read_at(&self, file: &file::File, position: u64, chunk: Chunk, want: usize) -> (io::Result<usize>, Chunk) {
        file.read_at(&self.0.ring, &self.0.memory, position, chunk, want).await
    }

    async fn write_at(&self, file: &file::File, position: u64, window: Window, durable: bool) -> io::Result<()> {
        file.write_at(&self.0.ring, &self.0.memory, position, window, durable).await
    }

    async fn zero(&self, file: &file::File, position: u64, len: u64) -> io::Result<()> {
        file.zero(&self.0.ring, position, len).await
    }

    async fn sync(&self, file: &file::File) -> io::Result<()> {
        file.sync(&self.0.ring, true).await
    }

    async fn allocate(&self, file: &file::File, len: u64) -> io::Result<()> {
        file.allocate(&self.0.ring, len).await
    }

    async fn truncate(&self, file: &file::File, len: u64) -> io::Result<()> {
        file.truncate(&self.0.ring, len).await
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        let all = std::fs::read_dir(dir).map_err(|e| match e.kind() {
            // What is behind it may be absent, and is not to be made anew.
            io::ErrorKind::NotFound if std::fs::symlink_metadata(dir).is_ok() => io::Error::other("a symbolic link to what is not there"),
            _ => e,
        })?;
        for entry in all {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            // A link to what is not there may be to a disk that is absent.
            let is_dir = kind.is_dir() || (kind.is_symlink() && std::fs::metadata(entry.path()).map_or(true, |to| to.is_dir()));
            entries.push(DirEntry { name, is_dir });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            result => result,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    async fn unlink(&self, path: &Path) -> io::Result<()> {
        file::unlink(&self.0.ring, path).await
    }

    fn len_of(&self, path: &Path) -> io::Result<u64> {
        std::fs::metadata(path).map(|metadata| metadata.len())
    }

    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        let modified = std::fs::metadata(path)?.modified()?;
        Ok(modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
    }

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        file::space(dir)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        if std::fs::symlink_metadata(path)?.is_symlink() {
            // Directories in it are not ours, and then it stays.
            for entry in std::fs::read_dir(path).into_iter().flatten() {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    std::fs::remove_file(entry.path())?;
                }
            }
            if let Ok(target) = std::fs::canonicalize(path) {
                let _ = std::fs::remove_dir(target);
            }
            return std::fs::remove_file(path);
        }
        std::fs::remove_dir_all(path)
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Without asking for the length first, as `std::fs::read` does: a start reads several for every partition.
        let mut content = Vec::with_capacity(BLOCK);
        io::Read::read_to_end(&mut io::Read::take(std::fs::File::open(path)?, u64::MAX), &mut content)?;
        Ok(content)
    }

    async fn write_file(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        std::fs::write(path, content)
    }

    async fn replace_file(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let mut file = std::fs::File::create(&beside)?;
        io::Write::write_all(&mut file, &content)?;
        file::File::plain(file).sync(&self.0.ring, true).await?;
        std::fs::rename(&beside, path)?;
        match path.parent() {
            Some(dir) => self.sync_dir(dir).await,
            None => Ok(()),
        }
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        file::File::plain(std::fs::File::open(dir)?).sync(&self.0.ring, false).await
    }
}
