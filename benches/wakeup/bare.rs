//! The same request/response on a bare glommio executor that parks: wake-ups by eventfd, as a ring of the executor's user would send them.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::{LocalExecutorBuilder, Placement};

/// An eventfd.
pub struct Bell(OwnedFd);

impl Bell {
    fn new() -> io::Result<Bell> {
        // SAFETY: a fresh eventfd, owned from here on.
        unsafe {
            match libc::eventfd(0, libc::EFD_CLOEXEC) {
                fd if fd < 0 => Err(io::Error::last_os_error()),
                fd => Ok(Bell(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// Wakes whoever waits.
    pub fn ring(&self) {
        // SAFETY: writes 8 bytes of our own to an open eventfd.
        unsafe { libc::write(self.0.as_raw_fd(), 1u64.to_ne_bytes().as_ptr().cast(), 8) };
    }

    /// Waits for a ring; false if none came in time.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, ours.
        if unsafe { libc::poll(&mut poll, 1, limit.as_millis() as i32) } == 0 {
            return Ok(false);
        }
        let mut count = [0; 8];
        // SAFETY: reads 8 bytes into our own from an open eventfd.
        match unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) } {
            8 => Ok(true),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The bells between clients and server.
pub struct Bells {
    /// For each client the server's and its own.
    pub clients: Vec<[Bell; 2]>,
    /// Rung by a client whose answer does not come.
    pub help: Bell,
}

impl Bells {
    /// For so many clients.
    pub fn new(clients: usize) -> io::Result<Arc<Bells>> {
        let clients = (0..clients).map(|_| Ok([Bell::new()?, Bell::new()?])).collect::<io::Result<_>>()?;
        Ok(Arc::new(Bells { clients, help: Bell::new()? }))
    }
}

/// Answers on a glommio executor, for ever; `started` is called on its thread.
pub fn serve(cpu: usize, bells: Arc<Bells>, started: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu)).spawn(move || async move {
        started();
        for client in 0..bells.clients.len() {
            let bells = bells.clone();
            glommio::spawn_local(async move {
                let [to_server, to_client] = &bells.clients[client];
                let file = file(to_server.0.as_raw_fd());
                while file.read_at(0, 8).await.is_ok() {
                    to_client.ring();
                }
            })
            .detach();
        }
        let help = file(bells.help.0.as_raw_fd());
        while help.read_at(0, 8).await.is_ok() {}
    });
    executor.map_err(|e| io::Error::other(e.to_string()))?.join().map_err(|e| io::Error::other(e.to_string()))
}

/// The eventfd as a file of the executor, which must not close it.
fn file(eventfd: RawFd) -> ManuallyDrop<BufferedFile> {
    // SAFETY: the caller keeps the eventfd open, and the file is never dropped.
    ManuallyDrop::new(unsafe { BufferedFile::from_raw_fd(eventfd) })
}
