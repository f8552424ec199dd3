//! The network: listeners by address, connections as two streams that arrive late and in pieces.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::{self, Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::exec::Exec;

/// Bytes under way in one direction after which the sender waits.
const STREAM_MAX: usize = 256 << 10;
/// The first port that is given to those who ask for none.
const PORTS: u16 = 32768;

#[derive(Default)]
struct Stream {
    pieces: VecDeque<(Duration, Vec<u8>)>,
    bytes: usize,
    /// Bytes that the receiver has had.
    taken: u64,
    arrived: Duration,
    /// The sender is gone: end of the stream behind the pieces.
    ended: bool,
    /// The receiver is gone.
    refused: bool,
    waiting: Vec<Waker>,
}

impl Stream {
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// One end of a connection; closed when dropped. Behind mutexes only because it moves between cores.
pub struct End {
    inbound: Arc<Mutex<Stream>>,
    outbound: Arc<Mutex<Stream>>,
}

fn lock(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl End {
    fn pair() -> (End, End) {
        let (a, b): (Arc<Mutex<Stream>>, Arc<Mutex<Stream>>) = Default::default();
        (End { inbound: a.clone(), outbound: b.clone() }, End { inbound: b, outbound: a })
    }

    /// Ends both directions.
    pub fn shutdown(&self) {
        let mut inbound = lock(&self.inbound);
        (inbound.ended, inbound.refused) = (true, true);
        (inbound.pieces, inbound.bytes) = Default::default();
        inbound.wake();
        drop(inbound);
        let mut outbound = lock(&self.outbound);
        outbound.ended = true;
        outbound.wake();
    }

    /// Bytes sent that the other end has received.
    pub fn acknowledged(&self) -> u64 {
        lock(&self.outbound).taken
    }

    /// Wakes whoever receives.
    pub fn wake_receiver(&self) {
        lock(&self.inbound).wake();
    }

    /// Receives 1 to `max` bytes; none at the end of the stream. `Interrupted` when `interrupted` says so and nothing is there.
    pub async fn recv(&self, exec: &Rc<Exec>, max: usize, interrupted: impl Fn() -> bool) -> io::Result<Vec<u8>> {
        let mut timer = None;
        poll_fn(|cx| {
            let mut stream = lock(&self.inbound);
            let now = exec.now().mono;
            if let Some((at, piece)) = stream.pieces.front_mut()
                && *at <= now
            {
                let rest = piece.split_off(max.min(piece.len()));
                let got = std::mem::replace(piece, rest);
                if piece.is_empty() {
                    stream.pieces.pop_front();
                }
                stream.bytes -= got.len();
                stream.taken += got.len() as u64;
                stream.wake();
                exec.note(got.len() as u64);
                return Poll::Ready(Ok(got));
            }
            if interrupted() {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            }
            match stream.pieces.front() {
                Some((at, _)) => {
                    let timer = timer.insert(Box::pin(exec.until(*at)));
                    let _ = timer.as_mut().poll(cx);
                }
                None if stream.ended => return Poll::Ready(Ok(Vec::new())),
                None => {}
            }
            stream.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Sends all bytes, in pieces of random sizes with random delays.
    pub async fn send(&self, exec: &Rc<Exec>, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            let mut stream = lock(&self.outbound);
            while !bytes.is_empty() {
                if stream.refused || stream.ended {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                if stream.bytes >= STREAM_MAX {
                    stream.waiting.push(cx.waker().clone());
                    return Poll::Pending;
                }
                let most = bytes.len().min(STREAM_MAX - stream.bytes);
                let n = if exec.chance(1, 2) { most } else { 1 + exec.below(most as u64) as usize };
                let (piece, rest) = bytes.split_at(n);
                stream.arrived = stream.arrived.max(exec.now().mono + exec.delay());
                let arrived = stream.arrived;
                stream.pieces.push_back((arrived, piece.to_vec()));
                stream.bytes += n;
                stream.wake();
                bytes = rest;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[derive(Default)]
struct Backlog {
    arrived: VecDeque<(End, SocketAddr)>,
    waiting: Vec<Waker>,
}

/// A listening socket.
pub struct Listener {
    pub address: SocketAddr,
    backlog: Rc<RefCell<Backlog>>,
}

impl Listener {
    /// The next connection and its peer.
    pub async fn accept(&self) -> (End, SocketAddr) {
        poll_fn(|cx| {
            let mut backlog = self.backlog.borrow_mut();
            if let Some(next) = backlog.arrived.pop_front() {
                return Poll::Ready(next);
            }
            backlog.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Who listens where.
#[derive(Default)]
pub struct Net {
    /// The machine's ends of connections, inbound and outbound.
    ends: RefCell<Vec<[sync::Weak<Mutex<Stream>>; 2]>>,
    listeners: RefCell<BTreeMap<SocketAddr, Weak<RefCell<Backlog>>>>,
    ports: Cell<u16>,
}

impl Net {
    fn port(&self) -> u16 {
        PORTS + self.ports.replace((self.ports.get() + 1) % PORTS)
    }

    /// Listens; several may share an address and then take connections from one queue.
    pub fn listen(&self, mut address: SocketAddr) -> Listener {
        if address.port() == 0 {
            address.set_port(self.port());
        }
        let mut listeners = self.listeners.borrow_mut();
        let backlog = listeners.get(&address).and_then(Weak::upgrade).unwrap_or_default();
        listeners.insert(address, Rc::downgrade(&backlog));
        Listener { address, backlog }
    }

    /// Ends all connections and listeners of the machine, whoever still holds them: objects that hold each other outlive their tasks.
    pub fn sever(&self) {
        self.listeners.borrow_mut().clear();
        for [inbound, outbound] in self.ends.take() {
            if let (Some(inbound), Some(outbound)) = (inbound.upgrade(), outbound.upgrade()) {
                End { inbound, outbound }.shutdown();
            }
        }
    }

    fn find(&self, address: SocketAddr) -> Option<Rc<RefCell<Backlog>>> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
        let listeners = self.listeners.borrow();
        let found = listeners.get(&address).and_then(Weak::upgrade);
        found.or_else(|| listeners.get(&SocketAddr::new(any, address.port())).and_then(Weak::upgrade))
    }
}

/// A connection of somebody outside of the machine, for tests. Closed when dropped.
pub struct SimClient {
    exec: Rc<Exec>,
    end: End,
}

impl SimClient {
    pub(super) async fn connect(net: &Net, exec: Rc<Exec>, address: SocketAddr) -> io::Result<SimClient> {
        exec.latency().await;
        let backlog = net.find(address).ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = End::pair();
        net.ends.borrow_mut().retain(|[inbound, _]| inbound.strong_count() > 0);
        net.ends.borrow_mut().push([Arc::downgrade(&theirs.inbound), Arc::downgrade(&theirs.outbound)]);
        let peer = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), net.port());
        let mut backlog = backlog.borrow_mut();
        backlog.arrived.push_back((theirs, peer));
        backlog.waiting.drain(..).for_each(Waker::wake);
        Ok(SimClient { exec, end: ours })
    }

    /// Sends all bytes.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.end.send(&self.exec, bytes).await
    }

    /// Receives 1 to `max` bytes; none at the end of the stream.
    pub async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        self.end.recv(&self.exec, max, || false).await
    }

    /// Receives exactly `n` bytes, or fails with `UnexpectedEof`.
    pub async fn read_exact(&self, n: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < n {
            let more = pin!(self.read(n - all.len())).await?;
            if more.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            all.extend(more);
        }
        Ok(all)
    }

    /// Ends both directions.
    pub fn shutdown(&self) {
        self.end.shutdown();
    }
}
