//! Small receive buffers that the kernel picks when bytes arrive: an idle connection holds none.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use crossbeam_queue::SegQueue;
use io_uring::types::BufRingEntry;

use super::ring::Ring;
use crate::base::limits::{BLOCK, SMALL_RECEIVE, SMALL_RECEIVES};

/// The buffer group of the ring.
pub const GROUP: u16 = 0;

/// Memory of all buffers; mapped until the last received slice is gone.
struct Pages {
    base: *mut u8,
    len: usize,
    returns: SegQueue<u16>,
}

// SAFETY: the pages are reached through slices whose buffer the kernel has handed over, each owned by one `Received`.
unsafe impl Send for Pages {}
// SAFETY: as above; `returns` is a concurrent queue.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; nobody refers to it any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

struct Received {
    pages: Arc<Pages>,
    buffer: u16,
    len: usize,
}

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the kernel has filled `len` bytes and does not touch the buffer until it is given back by our drop.
        unsafe { std::slice::from_raw_parts(self.pages.base.add(self.buffer as usize * SMALL_RECEIVE), self.len) }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.pages.returns.push(self.buffer);
    }
}

/// The buffers of one core and the table through which the kernel takes them.
pub struct Receives {
    pages: Arc<Pages>,
    table: *mut BufRingEntry,
    tail: std::cell::Cell<u16>,
    ring: Rc<Ring>,
}

impl Receives {
    /// Maps the buffers (they cost memory only once used) and registers the table.
    pub fn new(ring: Rc<Ring>) -> io::Result<Receives> {
        let len = SMALL_RECEIVE * SMALL_RECEIVES;
        let pages = Arc::new(Pages { base: map(len)?, len, returns: SegQueue::new() });
        const _: () = assert!(SMALL_RECEIVES * size_of::<BufRingEntry>() <= BLOCK);
        let table = map(BLOCK)?.cast::<BufRingEntry>();
        // SAFETY: a page of its own that is never unmapped while the ring lives (`ring`; the page is left to the process's end).
        unsafe { ring.register_receive_table(table as u64, SMALL_RECEIVES as u16, GROUP)? };
        let receives = Receives { pages, table, tail: std::cell::Cell::new(0), ring };
        for buffer in 0..SMALL_RECEIVES as u16 {
            receives.offer(buffer);
        }
        receives.publish();
        Ok(receives)
    }

    /// Gives returned buffers to the kernel again. Called once per turn.
    pub fn turn(&self) {
        let mut any = false;
        while let Some(buffer) = self.pages.returns.pop().or_else(|| self.ring.unclaimed.borrow_mut().pop()) {
            self.offer(buffer);
            any = true;
        }
        if any {
            self.publish();
        }
    }

    /// The bytes that the kernel has put into a buffer.
    pub fn take(&self, buffer: u16, len: usize) -> Bytes {
        Bytes::from_owner(Received { pages: self.pages.clone(), buffer, len })
    }

    fn offer(&self, buffer: u16) {
        let index = self.tail.get() as usize & (SMALL_RECEIVES - 1);
        // SAFETY: inside the table's page; the kernel reads entries only below the published tail. The first entry's tail field is not
        // written by these setters.
        let entry = unsafe { &mut *self.table.add(index) };
        // SAFETY: inside the mapping.
        entry.set_addr(unsafe { self.pages.base.add(buffer as usize * SMALL_RECEIVE) } as u64);
        entry.set_len(SMALL_RECEIVE as u32);
        entry.set_bid(buffer);
        self.tail.set(self.tail.get().wrapping_add(1));
    }

    fn publish(&self) {
        // SAFETY: the table's first entry holds the tail, which only this thread writes and the kernel reads.
        let tail = unsafe { &*(BufRingEntry::tail(self.table) as *const AtomicU16) };
        tail.store(self.tail.get(), Ordering::Release);
    }
}

fn map(len: usize) -> io::Result<*mut u8> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let base = unsafe {
        libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base.cast()) }
}
