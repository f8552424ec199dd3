//! The system calls that std lacks: edge-triggered epoll, sending with more to follow, receiving without copying.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    time::Duration,
};

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Which sockets became ready.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// One report: edge-triggered, so each readiness is told once.
#[derive(Clone, Copy)]
pub struct Ready {
    pub token: usize,
    pub readable: bool,
    pub writable: bool,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed; a returned descriptor is owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC) as isize)? as i32) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; 256] })
    }

    /// Reports both directions of `socket` under `token`, until it is closed.
    pub fn add(&self, socket: &TcpStream, token: usize) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events as u32, u64: token as u64 };
        // SAFETY: the event lives through the call, which copies it.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event) };
        check(result as isize).map(drop)
    }

    /// Waits for reports, at most `timeout`.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        let time = libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let (fd, events, room) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr(), self.events.len());
        // SAFETY: the kernel writes at most `room` events there, and reads a time that lives through the call.
        let count = check(unsafe { libc::epoll_pwait2(fd, events, room as i32, &raw const time, ptr::null()) } as isize);
        let count = match count {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        ready.clear();
        ready.extend(self.events[..count].iter().map(|event| {
            let has = |mask: libc::c_int| event.events & mask as u32 != 0;
            let broken = has(libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP);
            Ready { token: event.u64 as usize, readable: has(libc::EPOLLIN) || broken, writable: has(libc::EPOLLOUT) || broken }
        }));
        Ok(())
    }
}

/// Timers of this thread fire within a microsecond of their time, not within the usual 50.
pub fn precise_timers() {
    // SAFETY: no pointers; a failure only leaves timers coarse.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize, 0, 0, 0) };
}

/// Sends bytes; `more` follows at once and may share a packet.
pub fn send(socket: &TcpStream, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: the kernel reads within the slice.
    check(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Receives up to `length` bytes and drops them in the kernel, without a copy (tcp(7), MSG_TRUNC); how many.
pub fn receive_nothing(socket: &TcpStream, length: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the address given.
    check(unsafe { libc::recv(socket.as_raw_fd(), ptr::null_mut(), length, libc::MSG_TRUNC) })
}
