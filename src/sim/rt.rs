//! [`SimRt`]: what a simulated core gives the code that runs on it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::{Disk, OpenFile};
use super::exec::Exec;
use super::net::{End, Listener, Net};
use crate::base::limits::{BLOCK, SMALL_RECEIVE};
use crate::base::time::Now;
use crate::rt::mem::{Chunk, Memory, Window};
use crate::rt::slices::Slices;
use crate::rt::{Class, DirEntry, Open, Rt};

struct Core {
    index: usize,
    count: usize,
    exec: Rc<Exec>,
    disk: Rc<Disk>,
    net: Rc<Net>,
    memory: Memory,
    slices: Slices,
    turn: RefCell<Option<Rc<dyn Fn() -> bool>>>,
    stopped: Cell<bool>,
}

/// One core of the simulated machine, until the machine crashes; then every operation fails.
#[derive(Clone)]
pub struct SimRt(Rc<Core>);

/// A connection on its way to a core. Dropping it closes it.
pub struct SimAccepted(End);

struct Connection {
    end: End,
    receiving: Cell<bool>,
    interrupted: Cell<bool>,
}

/// A connection of this core.
#[derive(Clone)]
pub struct SimSocket(Rc<Connection>);

/// An open file.
#[derive(Clone)]
pub struct SimFile(Rc<OpenFile>);

/// Says that a `recv_into` waits, as long as it does.
struct Receiving<'a>(&'a Connection);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.receiving.set(false);
        self.0.interrupted.set(false);
    }
}

fn aligned(value: u64) -> bool {
    value.is_multiple_of(BLOCK as u64)
}

impl SimRt {
    pub(super) fn new(index: usize, count: usize, exec: Rc<Exec>, disk: Rc<Disk>, net: Rc<Net>, memory: usize) -> SimRt {
        let memory = Memory::new(memory);
        let ready = exec.ready();
        memory.set_notify(Box::new(move || ready.turn_soon(index)));
        let (turn, stopped, slices) = (RefCell::default(), Cell::new(false), Slices::default());
        SimRt(Rc::new(Core { index, count, exec, disk, net, memory, slices, turn, stopped }))
    }

    /// One turn of the core's loop; true when it found something to do.
    pub(super) fn turn(&self) -> bool {
        self.0.memory.turn();
        let any = self.0.slices.turn();
        let turn = self.0.turn.borrow().clone();
        turn.is_some_and(|turn| turn()) || any
    }

    pub(super) fn stop(&self) {
        self.0.stopped.set(true);
        let turn = self.0.turn.borrow_mut().take();
        drop(turn);
        self.0.memory.set_reclaim(Rc::new(|_| {}));
    }

    /// What a slow disk adds to a read, a write or a flush of this file.
    fn stall(&self, file: &SimFile) -> impl Future<Output = ()> + 'static {
        self.stall_of(&file.0)
    }

    fn stall_of(&self, file: &OpenFile) -> impl Future<Output = ()> + 'static {
        let (exec, stall) = (self.0.exec.clone(), self.0.disk.stall(file));
        async move {
            if !stall.is_zero() {
                exec.sleep(stall).await;
            }
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.0.stopped.get() { Err(io::Error::other("this core has crashed")) } else { Ok(()) }
    }

    /// An operation on the disk: a delay, the effect, another delay.
    async fn disk<T: 'static>(&self, effect: impl FnOnce(&Disk) -> io::Result<T> + 'static) -> io::Result<T> {
        self.alive()?;
        let (exec, disk) = (self.0.exec.clone(), self.0.disk.clone());
        let operation = async move {
            exec.latency().await;
            let outcome = effect(&disk);
            exec.latency().await;
            outcome
        };
        self.0.exec.operation(self.0.index, operation).await
    }
}

impl Rt for SimRt {
    type Listener = Listener;
    type Accepted = SimAccepted;
    type Socket = SimSocket;
    type File = SimFile;

    fn core(&self) -> usize {
        self.0.index
    }

    fn cores(&self) -> usize {
        self.0.count
    }

    fn now(&self) -> Now {
        self.0.exec.now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        self.0.exec.sleep(duration)
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        self.0.exec.yield_now()
    }

    /// Classes are not told apart: any order that shares could give, chance can give too.
    fn spawn(&self, _class: Class, task: impl Future<Output = ()> + 'static) {
        if !self.0.stopped.get() {
            self.0.exec.spawn(self.0.index, task);
        }
    }

    fn memory(&self) -> &Memory {
        &self.0.memory
    }

    fn slices(&self) -> &Slices {
        &self.0.slices
    }

    fn away(&self) -> Duration {
        self.0.exec.away()
    }

    fn random(&self, out: &mut [u8]) {
        self.0.exec.fill(out);
    }

    fn on_turn(&self, turn: Box<dyn Fn() -> bool>) {
        let old = self.0.turn.replace(Some(turn.into()));
        drop(old);
        self.0.exec.turn_soon(self.0.index);
    }

    fn unpark(&self, core: usize) {
        self.0.exec.turn_soon(core);
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        self.alive()?;
        Ok(self.0.net.listen(address))
    }

    fn local_addr(&self, listener: &Listener) -> io::Result<SocketAddr> {
        Ok(listener.address)
    }

    async fn accept(&self, listener: &Listener) -> io::Result<(SimAccepted, SocketAddr)> {
        self.alive()?;
        let (end, peer) = listener.accept().await;
        Ok((SimAccepted(end), peer))
    }

    fn adopt(&self, accepted: SimAccepted) -> io::Result<SimSocket> {
        self.alive()?;
        Ok(SimSocket(Rc::new(Connection { end: accepted.0, receiving: Cell::new(false), interrupted: Cell::new(false) })))
    }

    async fn recv_some(&self, socket: &SimSocket) -> io::Result<Bytes> {
        self.alive()?;
        Ok(socket.0.end.recv(&self.0.exec, SMALL_RECEIVE, || false).await?.into())
    }

    async fn recv_into(&self, socket: &SimSocket, mut chunk: Chunk, want: usize) -> (io::Result<usize>, Chunk) {
        assert!(want > 0 && want <= chunk.room(), "0 < want <= spare");
        if let Err(e) = self.alive() {
            return (Err(e), chunk);
        }
        socket.0.receiving.set(true);
        let _receiving = Receiving(&socket.0);
        let received = socket.0.end.recv(&self.0.exec, want, || socket.0.interrupted.get()).await;
        let received = received.map(|bytes| {
            chunk.extend(&bytes);
            bytes.len()
        });
        (received, chunk)
    }

    fn interrupt_recv(&self, socket: &SimSocket) {
        if socket.0.receiving.get() {
            socket.0.interrupted.set(true);
            socket.0.end.wake_receiver();
        }
    }

    async fn send(&self, socket: &SimSocket, pieces: Vec<Bytes>) -> io::Result<()> {
        self.alive()?;
        for piece in pieces {
            socket.0.end.send(&self.0.exec, &piece).await?;
        }
        Ok(())
    }

    fn acknowledged(&self, socket: &SimSocket) -> u64 {
        socket.0.end.acknowledged()
    }

    fn abort(&self, socket: &SimSocket) {
        self.shutdown(socket);
    }

    fn shutdown(&self, socket: &SimSocket) {
        socket.0.end.shutdown();
    }

    async fn open(&self, path: &Path, how: Open) -> io::Result<SimFile> {
        let path = path.to_owned();
        Ok(SimFile(Rc::new(self.disk(move |disk| disk.open(&path, how)).await?)))
    }

    fn file_len(&self, file: &SimFile) -> io::Result<u64> {
        self.alive()?;
        Ok(self.0.disk.len(&file.0))
    }

    async fn read_at(&self, file: &SimFile, position: u64, mut chunk: Chunk, want: usize) -> (io::Result<usize>, Chunk) {
        assert!(aligned(position) && aligned(want as u64) && aligned(chunk.len() as u64), "direct I/O needs whole blocks");
        let (file, want) = (file.0.clone(), want.min(chunk.room()));
        if let Err(e) = self.alive() {
            return (Err(e), chunk);
        }
        self.stall_of(&file).await;
        if let Err(e) = self.alive() {
            return (Err(e), chunk);
        }
        let read = self.disk(move |disk| {
            let outcome = disk.read(&file, position, &mut chunk.spare()[..want]);
            if let Ok(n) = outcome {
                chunk.advance(n);
            }
            Ok((outcome, chunk))
        });
        // Only the check of `alive` fails, and nothing has run since the one above.
        read.await.expect("the core is alive")
    }

    async fn write_at(&self, file: &SimFile, position: u64, window: Window, durable: bool) -> io::Result<()> {
        let address = window.as_ptr() as u64;
        assert!(aligned(position) && aligned(window.len() as u64) && aligned(address), "direct I/O needs whole blocks");
        self.alive()?;
        let stall = self.stall(file);
        let (exec, disk, file) = (self.0.exec.clone(), self.0.disk.clone(), file.0.clone());
        let operation = async move {
            stall.await;
            exec.latency().await;
            disk.write(&file, position, &window.to_vec())?;
            exec.latency().await;
            if durable {
                disk.harden(&file, position, window.len() as u64)?;
                exec.latency().await;
            }
            Ok(())
        };
        self.0.exec.operation(self.0.index, operation).await
    }

    async fn zero(&self, file: &SimFile, position: u64, len: u64) -> io::Result<()> {
        assert!(aligned(position) && aligned(len), "direct I/O needs whole blocks");
        let file = file.0.clone();
        self.disk(move |disk| disk.write(&file, position, &vec![0; len as usize])).await
    }

    async fn sync(&self, file: &SimFile) -> io::Result<()> {
        self.stall(file).await;
        let file = file.0.clone();
        self.disk(move |disk| disk.harden(&file, 0, u64::MAX)).await
    }

    async fn allocate(&self, file: &SimFile, len: u64) -> io::Result<()> {
        let file = file.0.clone();
        self.disk(move |disk| disk.allocate(&file, len)).await
    }

    async fn truncate(&self, file: &SimFile, len: u64) -> io::Result<()> {
        let file = file.0.clone();
        self.disk(move |disk| disk.truncate(&file, len)).await
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.alive()?;
        self.0.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive()?;
        self.0.disk.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?;
        self.0.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.alive()?;
        self.0.disk.remove_file(path)
    }

    async fn unlink(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.disk(move |disk| disk.remove_file(&path)).await
    }

    fn len_of(&self, path: &Path) -> io::Result<u64> {
        self.alive()?;
        self.0.disk.looked_at(path).map(|(len, _)| len)
    }

    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        self.alive()?;
        self.0.disk.looked_at(path).map(|(_, modified_ms)| modified_ms)
    }

    fn space(&self, _dir: &Path) -> io::Result<(u64, u64)> {
        Ok(self.0.disk.space())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.alive()?;
        self.0.disk.remove_dir_all(path)
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.alive()?;
        self.0.disk.read_file(path)
    }

    async fn write_file(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let file = self.open(path, Open::Create).await?;
        let small = file.0.clone();
        self.disk(move |disk| disk.write_small(&small, &content)).await
    }

    async fn replace_file(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let file = self.open(Path::new(&beside), Open::Create).await?;
        let small = file.0.clone();
        self.disk(move |disk| disk.write_small(&small, &content)).await?;
        self.sync(&file).await?;
        self.rename(Path::new(&beside), path)?;
        match path.parent() {
            Some(dir) => self.sync_dir(dir).await,
            None => Ok(()),
        }
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        self.disk(move |disk| disk.sync_dir(&dir)).await
    }
}
