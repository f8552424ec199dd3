//! Segment files: direct I/O on the data ring.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::OnceLock;

use io_uring::{opcode, types};

use super::net::kept_chunk;
use super::ring::{Keep, Ring, raw};
use crate::base::limits::BLOCK;
use crate::rt::Open;
use crate::rt::mem::{Chunk, Memory, Window};

/// Bytes of one write of zeros.
const ZEROS: usize = 256 << 10;

/// The address of [`ZEROS`] zero bytes. They are never written, so the kernel backs them all with its one page of zeros.
fn zeros() -> io::Result<usize> {
    static MAPPED: OnceLock<usize> = OnceLock::new();
    if let Some(address) = MAPPED.get() {
        return Ok(*address);
    }
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), ZEROS, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(*MAPPED.get_or_init(|| base as usize))
}

/// An open file.
#[derive(Clone)]
pub struct File(Rc<OwnedFd>);

/// Opens for direct I/O; through the page cache where the file system knows none (said once per file).
pub fn open(path: &Path, how: Open) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(how != Open::Read).create(how == Open::Create).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC);
    let file = match options.open(path) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!("{}: this file system has no direct I/O; going through the page cache", path.display());
            options.custom_flags(libc::O_CLOEXEC).open(path)?
        }
        other => other?,
    };
    Ok(File(Rc::new(file.into())))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// See [`crate::rt::Rt::unlink`]: a worker thread of the kernel frees the blocks, which takes milliseconds for a large file.
pub async fn unlink(ring: &Rc<Ring>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let entry = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
    // SAFETY: the path, whose bytes are on the heap, is kept by the operation.
    unsafe { ring.start(None, entry, Keep::Path { _path: path }) }.await.count().map(|_| ())
}

/// See [`crate::rt::Rt::space`].
pub fn space(dir: &Path) -> io::Result<(u64, u64)> {
    let dir = c_path(dir)?;
    // SAFETY: all-zero is a valid statvfs.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero and `stat` is ours.
    match unsafe { libc::statvfs(dir.as_ptr(), &mut stat) } {
        0 => Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)),
        _ => Err(io::Error::last_os_error()),
    }
}

impl File {
    /// Wraps a file for [`File::sync`] alone.
    pub fn plain(file: std::fs::File) -> File {
        File(Rc::new(file.into()))
    }

    /// Length in bytes.
    pub fn len(&self) -> io::Result<u64> {
        // SAFETY: all-zero is a valid stat.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `stat` is ours.
        match unsafe { libc::fstat(self.0.as_raw_fd(), &mut stat) } {
            0 => Ok(stat.st_size as u64),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// See [`crate::rt::Rt::read_at`].
    pub async fn read_at(
        &self,
        ring: &Rc<Ring>,
        memory: &Memory,
        mut position: u64,
        mut chunk: Chunk,
        want: usize,
    ) -> (io::Result<usize>, Chunk) {
        let want = want.min(chunk.room());
        let mut total = 0;
        while total < want {
            let spare = chunk.spare();
            let (address, len) = (spare.as_mut_ptr(), (want - total) as u32);
            let entry = match memory.slot_of(address) {
                Some(slot) => opcode::ReadFixed::new(raw(&self.0), address, len, slot).offset(position).build(),
                None => opcode::Read::new(raw(&self.0), address, len).offset(position).build(),
            };
            // SAFETY: the chunk, whose spare part is named, is kept by the operation.
            let outcome = unsafe { ring.start(Some(self.0.clone()), entry, Keep::Chunk(chunk)) }.await;
            let read = outcome.count();
            chunk = kept_chunk(outcome);
            match read {
                Ok(0) => break,
                Ok(n) => {
                    chunk.advance(n);
                    total += n;
                    position += n as u64;
                    if !n.is_multiple_of(BLOCK) {
                        break; // the end of the file
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (Err(e), chunk),
            }
        }
        (Ok(total), chunk)
    }

    /// See [`crate::rt::Rt::write_at`].
    pub async fn write_at(&self, ring: &Rc<Ring>, memory: &Memory, position: u64, window: Window, durable: bool) -> io::Result<()> {
        let mut done = 0;
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        while done < window.len() {
            let address = window.as_ptr().wrapping_add(done);
            let (len, offset) = ((window.len() - done) as u32, position + done as u64);
            let entry = match memory.slot_of(address) {
                Some(slot) => opcode::WriteFixed::new(raw(&self.0), address, len, slot).offset(offset).rw_flags(flags).build(),
                None => opcode::Write::new(raw(&self.0), address, len).offset(offset).rw_flags(flags).build(),
            };
            // SAFETY: the window is kept by the operation.
            let outcome = unsafe { ring.start(Some(self.0.clone()), entry, Keep::Window { _window: window.clone() }) }.await;
            match outcome.count() {
                Ok(n) if n > 0 && n.is_multiple_of(BLOCK) => done += n,
                Ok(n) if done + n == window.len() => done += n,
                Ok(n) => return Err(io::Error::other(format!("short write: {n} of {len} bytes"))),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// See [`crate::rt::Rt::zero`].
    pub async fn zero(&self, ring: &Rc<Ring>, position: u64, len: u64) -> io::Result<()> {
        let (mut offset, end) = (position, position + len);
        while offset < end {
            let len = (end - offset).min(ZEROS as u64) as u32;
            let entry = opcode::Write::new(raw(&self.0), zeros()? as *const u8, len).offset(offset).build();
            // SAFETY: the zeros are mapped for as long as the process lives, and nobody writes to them.
            let outcome = unsafe { ring.start(Some(self.0.clone()), entry, Keep::Fd) }.await;
            match outcome.count() {
                Ok(n) if n > 0 && n.is_multiple_of(BLOCK) => offset += n as u64,
                Ok(n) => return Err(io::Error::other(format!("short write: {n} of {len} bytes"))),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// See [`crate::rt::Rt::sync`]; for a directory all of it.
    pub async fn sync(&self, ring: &Rc<Ring>, data_only: bool) -> io::Result<()> {
        let flags = if data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
        let entry = opcode::Fsync::new(raw(&self.0)).flags(flags).build();
        // SAFETY: no address is passed.
        unsafe { ring.start(Some(self.0.clone()), entry, Keep::Fd) }.await.count().map(|_| ())
    }

    /// See [`crate::rt::Rt::allocate`].
    pub async fn allocate(&self, ring: &Rc<Ring>, len: u64) -> io::Result<()> {
        let entry = opcode::Fallocate::new(raw(&self.0), len).build();
        // SAFETY: no address is passed.
        let done = unsafe { ring.start(Some(self.0.clone()), entry, Keep::Fd) }.await.count();
        match done {
            // No preallocation here (some network and overlay file systems): the length alone will do.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                if self.len()? < len {
                    self.truncate(ring, len).await?;
                }
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// See [`crate::rt::Rt::truncate`].
    pub async fn truncate(&self, ring: &Rc<Ring>, len: u64) -> io::Result<()> {
        if ring.features().ftruncate {
            let entry = opcode::Ftruncate::new(raw(&self.0), len).build();
            // SAFETY: no address is passed.
            return unsafe { ring.start(Some(self.0.clone()), entry, Keep::Fd) }.await.count().map(|_| ());
        }
        // SAFETY: a plain call on an owned descriptor.
        match unsafe { libc::ftruncate(self.0.as_raw_fd(), len as libc::off_t) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
