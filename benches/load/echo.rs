//! The null responder on a bare io_uring loop of one thread: no executor, no runtime, no pool of buffers. What the broker's runtime costs is the
//! difference to [`crate::null`].

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd},
};

use bytes::Bytes;
use io_uring::{IoUring, opcode, squeue, types};

use crate::null::{Canned, frame_len};

const ENTRIES: u32 = 4096;
/// Bytes received at a time; larger frames enlarge their connection's buffer.
const RECEIVE: usize = 64 << 10;
const FRAME_MAX: usize = 4 << 20;
/// User data of the accept; connections have their place in the table.
const ACCEPT: u64 = u64::MAX;

/// One connection: it receives, or it sends, never both.
struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
    sent: usize,
}

/// Serves until the process is killed.
pub fn serve(listener: &TcpListener, canned: &Canned) -> io::Result<()> {
    let mut echo =
        Echo { ring: IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(ENTRIES)?, connections: Vec::new(), canned };
    let accept = opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
    let accept = accept.flags(libc::SOCK_CLOEXEC).build().user_data(ACCEPT);
    echo.push(&accept)?;
    let mut done = Vec::new();
    loop {
        echo.ring.submit_and_wait(1)?;
        done.extend(echo.ring.completion().map(|entry| (entry.user_data(), entry.result())));
        for (id, result) in done.drain(..) {
            if id == ACCEPT {
                echo.accepted(result)?;
                echo.push(&accept)?;
            } else {
                echo.advance(id as usize, result)?;
            }
        }
    }
}

struct Echo<'a> {
    ring: IoUring,
    /// Boxed: the kernel holds addresses of their buffers while the table grows. `None`: it has ended.
    connections: Vec<Option<Box<Connection>>>,
    canned: &'a Canned,
}

impl Echo<'_> {
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: an entry names a descriptor and the spare part of a buffer of a connection, both of which stay as they are until its completion.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    fn accepted(&mut self, result: i32) -> io::Result<()> {
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        // SAFETY: a fresh descriptor that the kernel gave to this accept.
        let socket = unsafe { TcpStream::from_raw_fd(result) };
        socket.set_nodelay(true)?;
        let connection = Connection { socket, received: vec![0; RECEIVE], filled: 0, out: Vec::new(), sent: 0 };
        self.connections.push(Some(Box::new(connection)));
        self.receive(self.connections.len() - 1)
    }

    fn receive(&mut self, at: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[at] else { return Ok(()) };
        let spare = &mut connection.received[connection.filled..];
        let entry = opcode::Recv::new(types::Fd(connection.socket.as_raw_fd()), spare.as_mut_ptr(), spare.len() as u32);
        self.push(&entry.build().user_data(at as u64))
    }

    fn send(&mut self, at: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[at] else { return Ok(()) };
        let rest = &connection.out[connection.sent..];
        let entry = opcode::Send::new(types::Fd(connection.socket.as_raw_fd()), rest.as_ptr(), rest.len() as u32);
        self.push(&entry.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build().user_data(at as u64))
    }

    /// A receive or a send of a connection has ended.
    fn advance(&mut self, at: usize, result: i32) -> io::Result<()> {
        let Some(connection) = &mut self.connections[at] else { return Ok(()) };
        if result <= 0 {
            // The generator has closed it, or tells why not.
            self.connections[at] = None;
            return Ok(());
        }
        if connection.out.is_empty() {
            connection.filled += result as usize;
            self.answer(at)?;
        } else {
            connection.sent += result as usize;
        }
        let Some(connection) = &mut self.connections[at] else { return Ok(()) };
        if connection.sent < connection.out.len() {
            return self.send(at);
        }
        connection.out.clear();
        connection.sent = 0;
        self.receive(at)
    }

    /// Answers the whole frames that are there.
    fn answer(&mut self, at: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[at] else { return Ok(()) };
        let (mut start, mut answers) = (0, Vec::<Bytes>::new());
        let bytes = &connection.received[..connection.filled];
        while let Some(total) = frame_len(&bytes[start..]).filter(|total| bytes.len() - start >= *total) {
            self.canned.answer(&bytes[start + 4..start + total], &mut answers)?;
            start += total;
        }
        connection.out.extend(answers.iter().flat_map(|answer| answer.iter()));
        connection.received.copy_within(start..connection.filled, 0);
        connection.filled -= start;
        let wanted = frame_len(&connection.received[..connection.filled]).unwrap_or(0);
        if wanted > FRAME_MAX {
            return Err(io::Error::other("requests of up to 4 MiB are taken here"));
        }
        if wanted > connection.received.len() {
            connection.received.resize(wanted, 0);
        }
        Ok(())
    }
}
