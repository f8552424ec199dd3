//! Sockets on the data ring.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use bytes::Bytes;
use io_uring::{cqueue, opcode, squeue};

use super::receive::{GROUP, Receives};
use super::ring::{Keep, Operation, Outcome, PeerAddress, Ring, interrupt, raw};
use crate::base::limits::SMALL_RECEIVE;
use crate::rt::mem::{Chunk, Memory};

/// Vectors of one send call; the kernel takes at most 1024.
const VECTORS: usize = 256;

/// A listening socket.
pub struct Listener {
    fd: Rc<OwnedFd>,
}

/// A connection on its way to a core. Dropping it closes it.
pub struct Accepted(OwnedFd);

struct Connection {
    fd: Rc<OwnedFd>,
    /// Sends above the threshold go without a copy; cleared when the kernel reports that it copies anyway (loopback).
    zero_copy: Rc<Cell<bool>>,
    receiving: Cell<Option<(usize, u32)>>,
    /// What tests have the next send without a copy end with.
    #[cfg(test)]
    refusal: Cell<Option<i32>>,
}

/// A connection of this core.
#[derive(Clone)]
pub struct Socket(Rc<Connection>);

/// Binds and listens; the address is not shared with another process. One of IPv6 is not reached over
/// IPv4.
pub fn listen(address: SocketAddr) -> io::Result<Listener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(Listener { fd: Rc::new(socket.into()) })
}

impl Listener {
    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = socket2::SockRef::from(&*self.fd).local_addr()?;
        address.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
    }

    /// The next connection. Its peer is asked for with it: one that was reset meanwhile has none.
    pub async fn accept(&self, ring: &Rc<Ring>) -> io::Result<(Accepted, SocketAddr)> {
        let mut peer = Box::<PeerAddress>::default();
        let (address, len) = peer.as_out();
        let entry = opcode::Accept::new(raw(&self.fd), address, len).flags(libc::SOCK_CLOEXEC);
        let keep = Keep::Accepted(peer);
        // SAFETY: the address is kept by the operation; moving the box does not move it.
        let operation = unsafe { ring.start(Some(self.fd.clone()), entry.build(), keep) };
        let outcome = operation.await;
        let fd = outcome.count()? as i32;
        // SAFETY: a fresh descriptor that the kernel just gave us.
        let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        let Some(Keep::Accepted(peer)) = outcome.keep else { unreachable!("an accept keeps the address") };
        let peer = peer.address().ok_or_else(|| io::Error::other("not an internet socket"))?;
        Ok((Accepted(fd), peer))
    }
}

impl Socket {
    /// Takes over a connection.
    pub fn adopt(accepted: Accepted, zero_copy: bool) -> io::Result<Socket> {
        socket2::SockRef::from(&accepted.0).set_tcp_nodelay(true)?;
        Ok(Socket(Rc::new(Connection {
            fd: Rc::new(accepted.0),
            zero_copy: Rc::new(Cell::new(zero_copy)),
            receiving: Cell::new(None),
            #[cfg(test)]
            refusal: Cell::new(None),
        })))
    }

    /// See [`crate::rt::Rt::recv_some`].
    pub async fn recv_some(&self, ring: &Rc<Ring>, receives: &Receives, memory: &Memory) -> io::Result<Bytes> {
        let entry = opcode::Recv::new(raw(&self.0.fd), std::ptr::null_mut(), SMALL_RECEIVE as u32).buf_group(GROUP).build();
        // SAFETY: the kernel picks the buffer from the registered table.
        let operation = unsafe { ring.start(Some(self.0.fd.clone()), entry.flags(squeue::Flags::BUFFER_SELECT), Keep::Fd) };
        let outcome = operation.await;
        if outcome.result == -libc::ENOBUFS {
            let chunk = memory.chunk(SMALL_RECEIVE).await;
            let (received, chunk) = self.recv_into(ring, chunk, SMALL_RECEIVE).await;
            return received.map(|n| chunk.slice(0..n));
        }
        // Taken also with an error, so that it is given back.
        let picked = cqueue::buffer_select(outcome.flags).map(|buffer| receives.take(buffer, outcome.result.max(0) as usize));
        outcome.count()?;
        Ok(picked.unwrap_or_default())
    }

    /// See [`crate::rt::Rt::recv_into`].
    pub async fn recv_into(&self, ring: &Rc<Ring>, mut chunk: Chunk, want: usize) -> (io::Result<usize>, Chunk) {
        let spare = chunk.spare();
        let entry = opcode::Recv::new(raw(&self.0.fd), spare.as_mut_ptr(), want.min(spare.len()) as u32).build();
        // SAFETY: the chunk, whose spare part is named, is kept by the operation.
        let operation = unsafe { ring.start(Some(self.0.fd.clone()), entry, Keep::Chunk(chunk)) };
        self.0.receiving.set(Some(operation.id()));
        let outcome = operation.await;
        self.0.receiving.set(None);
        let received = match outcome.result {
            n if n == -libc::ECANCELED || n == -libc::EINTR => Err(io::ErrorKind::Interrupted.into()),
            _ => outcome.count(),
        };
        let mut chunk = kept_chunk(outcome);
        if let Ok(n) = received {
            chunk.advance(n);
        }
        (received, chunk)
    }

    /// See [`crate::rt::Rt::interrupt_recv`].
    pub fn interrupt_recv(&self, ring: &Ring) {
        if let Some(id) = self.0.receiving.get() {
            interrupt(ring, id);
        }
    }

    /// See [`crate::rt::Rt::send`].
    pub async fn send(&self, ring: &Rc<Ring>, memory: &Memory, mut pieces: Vec<Bytes>, zero_copy_from: usize) -> io::Result<()> {
        pieces.retain(|p| !p.is_empty());
        let mut pieces = pieces.into_iter().peekable();
        let slot = |piece: &Bytes| self.zero_copy_slot(memory, piece, zero_copy_from);
        while let Some(first) = pieces.next() {
            if slot(&first).is_some() {
                self.send_slice(ring, first, slot).await?;
                continue;
            }
            let mut batch = vec![first];
            while batch.len() < VECTORS
                && let Some(piece) = pieces.next_if(|p| slot(p).is_none())
            {
                batch.push(piece);
            }
            if batch.len() == 1 {
                self.send_slice(ring, batch.remove(0), |_| None).await?;
            } else {
                self.send_message(ring, batch).await?;
            }
        }
        Ok(())
    }

    /// The registered region that `piece` lies in, if it goes without a copy. Of other memory,
    /// another core's above all, the kernel would pin pages for each send, and charge them to the
    /// limit of locked memory.
    fn zero_copy_slot(&self, memory: &Memory, piece: &Bytes, from: usize) -> Option<u16> {
        let large = self.0.zero_copy.get() && from > 0 && piece.len() >= from;
        if large { memory.slot_of(piece.as_ptr()) } else { None }
    }

    /// Sends one slice, without a copy as long as `slot` finds it in a registered region.
    async fn send_slice(&self, ring: &Rc<Ring>, mut piece: Bytes, slot: impl Fn(&Bytes) -> Option<u16>) -> io::Result<()> {
        const REPORT_USAGE: u16 = 1 << 3;
        const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        while !piece.is_empty() {
            let (address, len) = (piece.as_ptr(), piece.len().min(1 << 30) as u32);
            let fd = raw(&self.0.fd);
            let slot = slot(&piece);
            let entry = match slot {
                Some(slot) => opcode::SendZc::new(fd, address, len).buf_index(Some(slot)).flags(FLAGS).zc_flags(REPORT_USAGE).build(),
                None => opcode::Send::new(fd, address, len).flags(FLAGS).build(),
            };
            #[cfg(test)]
            let refusal = slot.and_then(|_| self.0.refusal.take());
            #[cfg(test)]
            let entry = refusal.map_or(entry, |_| opcode::Nop::new().build());
            let zero_copy = slot.map(|_| self.0.zero_copy.clone());
            // SAFETY: the slice is kept until the last completion, for zero-copy sends the kernel's notification.
            let operation = unsafe { ring.start(Some(self.0.fd.clone()), entry, Keep::Slice { _piece: piece.clone(), zero_copy }) };
            let outcome = operation.await;
            #[cfg(test)]
            let outcome = Outcome { result: refusal.map_or(outcome.result, |errno: i32| -errno), ..outcome };
            if slot.is_some() && matches!(-outcome.result, libc::ENOMEM | libc::ENOBUFS) {
                // The kernel has no room for its side of a send without a copy: this connection copies.
                self.0.zero_copy.set(false);
                continue;
            }
            let _ = piece.split_to(sent(&outcome)?);
        }
        Ok(())
    }

    async fn send_message(&self, ring: &Rc<Ring>, mut pieces: Vec<Bytes>) -> io::Result<()> {
        while !pieces.is_empty() {
            let outcome = self.start_message(ring, pieces).await;
            let mut sent = sent(&outcome)?;
            let Some(Keep::Message { pieces: left, .. }) = outcome.keep else { unreachable!("a message keeps its pieces") };
            pieces = left;
            let whole = pieces
                .iter()
                .take_while(|p| {
                    p.len() <= sent && {
                        sent -= p.len();
                        true
                    }
                })
                .count();
            pieces.drain(..whole);
            if let Some(first) = pieces.first_mut() {
                let _ = first.split_to(sent);
            }
        }
        Ok(())
    }

    fn start_message(&self, ring: &Rc<Ring>, pieces: Vec<Bytes>) -> Operation {
        let mut vectors: Vec<libc::iovec> =
            pieces.iter().map(|p| libc::iovec { iov_base: p.as_ptr() as *mut libc::c_void, iov_len: p.len() }).collect();
        // SAFETY: all-zero is a valid msghdr.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = vectors.len() as _;
        let entry = opcode::SendMsg::new(raw(&self.0.fd), &*header).flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32).build();
        let keep = Keep::Message { pieces, _header: header, _vectors: vectors };
        // SAFETY: header, vectors and slices are kept by the operation; moving the boxes does not move what they point to.
        unsafe { ring.start(Some(self.0.fd.clone()), entry, keep) }
    }

    /// See [`crate::rt::Rt::acknowledged`]; 0 where the kernel does not tell.
    pub fn acknowledged(&self) -> u64 {
        // SAFETY: all-zero is valid for this structure of numbers.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        let fd = self.0.fd.as_raw_fd();
        // SAFETY: the kernel fills in at most `len` bytes of a structure of that size.
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &mut len) };
        info.tcpi_bytes_acked
    }

    /// Ends the connection and drops what was not sent yet: the kernel would keep the memory of sends
    /// without a copy for as long as the peer lives and does not read.
    pub fn abort(&self) {
        // SAFETY: all zeros are a valid address structure.
        let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
        nowhere.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
        // SAFETY: a plain call on an owned descriptor; the address lives until it returns.
        unsafe { libc::connect(self.0.fd.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as libc::socklen_t) };
    }

    /// Ends both directions.
    pub fn shutdown(&self) {
        // SAFETY: a plain call on an owned descriptor.
        unsafe { libc::shutdown(self.0.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

#[cfg(test)]
impl Socket {
    /// Whether large sends still go without a copy.
    pub fn sends_without_copy(&self) -> bool {
        self.0.zero_copy.get()
    }

    /// Has the next send without a copy end as where the kernel refuses it, with nothing sent.
    pub fn refuse_next(&self, errno: i32) {
        self.0.refusal.set(Some(errno));
    }
}

fn sent(outcome: &Outcome) -> io::Result<usize> {
    match outcome.count()? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        n => Ok(n),
    }
}

/// The chunk of an operation that was started with one.
pub fn kept_chunk(outcome: Outcome) -> Chunk {
    match outcome.keep {
        Some(Keep::Chunk(chunk)) => chunk,
        _ => unreachable!("an operation on a chunk keeps it"),
    }
}
