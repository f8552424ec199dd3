//! The data ring of one core: operations with the buffers they name, one submit per turn.
//!
//! Invariant: whatever the kernel may still touch is owned by the operation's slot until its last completion, also when the future
//! that started it is dropped.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use slab::Slab;
use socket2::{SockAddr, SockAddrStorage};

use crate::rt::mem::{Chunk, Registrar, Window};

/// Flags of io_uring_enter(2).
const GETEVENTS: u32 = 1;
const EXT_ARG: u32 = 1 << 3;

const ENTRIES: u32 = 1024;
const COMPLETIONS: u32 = 8192;
/// Slots of the sparse table of registered regions.
pub const REGION_SLOTS: u32 = 1024;
/// User data of operations whose completion nobody waits for.
const NOBODY: u64 = u64::MAX;
/// User data of the doorbell's poll.
const DOORBELL: u64 = u64::MAX - 1;

/// What an operation keeps alive for the kernel.
pub enum Keep {
    /// Nothing but the descriptor.
    Fd,
    /// The address of a peer to come. The result is a descriptor of its own, closed if nobody takes it.
    Accepted(Box<PeerAddress>),
    /// A name, ending in a zero byte.
    Path { _path: CString },
    /// A chunk that is received or read into.
    Chunk(Chunk),
    /// A range that is written.
    Window { _window: Window },
    /// Slices that are sent, with the message header and vectors that point to them.
    Message { pieces: Vec<Bytes>, _header: Box<libc::msghdr>, _vectors: Vec<libc::iovec> },
    /// One slice that is sent; the flag is cleared when the kernel reports that it copied a zero-copy send.
    Slice { _piece: Bytes, zero_copy: Option<Rc<Cell<bool>>> },
}

struct Slot {
    generation: u32,
    waker: Option<Waker>,
    result: Option<(i32, u32)>,
    /// No further completion will come.
    last: bool,
    /// The future is gone or has its result.
    orphan: bool,
    keep: Option<Keep>,
    _fd: Option<Rc<OwnedFd>>,
}

/// What the kernel of this machine can do; reported at start, never assumed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// DEFER_TASKRUN (6.1): completions are made when this thread asks for them.
    pub defer_taskrun: bool,
    /// SEND_ZC (6.0).
    pub send_zc: bool,
    /// FTRUNCATE on the ring (6.9).
    pub ftruncate: bool,
    /// Regions can be registered (limit on locked memory).
    pub fixed_buffers: bool,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("deferred task work (6.1)", self.defer_taskrun),
            ("zero-copy send (6.0)", self.send_zc),
            ("truncation (6.9)", self.ftruncate),
            ("registered buffers", self.fixed_buffers),
        ];
        for (i, (name, there)) in all.into_iter().enumerate() {
            write!(f, "{}{name}{}", if i > 0 { ", " } else { "" }, if there { "" } else { ": missing" })?;
        }
        Ok(())
    }
}

/// One core's ring.
pub struct Ring {
    uring: RefCell<IoUring>,
    slots: RefCell<Slab<Slot>>,
    generation: Cell<u32>,
    queued: Cell<bool>,
    closed: Cell<bool>,
    /// Writes that the kernel still holds.
    writes: Cell<usize>,
    completed: RefCell<Vec<cqueue::Entry>>,
    features: Features,
    region_slots: RefCell<Vec<u16>>,
    /// A region could not be registered, which was said.
    refused: Cell<bool>,
    /// Receive buffers that the kernel picked for operations whose future was dropped.
    pub unclaimed: RefCell<Vec<u16>>,
    doorbell: RawFd,
}

impl Ring {
    /// Builds the ring on the thread that will use it. Falls back to fewer set-up flags on older kernels.
    /// Whoever writes to the eventfd `doorbell` ends a [`Ring::wait`]; it must stay open as long as the ring.
    pub fn new(doorbell: &OwnedFd) -> io::Result<Ring> {
        let mut deferred = IoUring::builder();
        deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let mut cooperative = IoUring::builder();
        cooperative.setup_coop_taskrun().setup_taskrun_flag();
        let mut uring = None;
        let mut features = Features::default();
        for (builder, deferred) in [(&mut deferred, true), (&mut cooperative, false), (&mut IoUring::builder(), false)] {
            match builder.setup_clamp().setup_cqsize(COMPLETIONS).build(ENTRIES) {
                Ok(ring) => {
                    features.defer_taskrun = deferred;
                    uring = Some(ring);
                    break;
                }
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                Err(e) => return Err(e),
            }
        }
        let uring = uring.ok_or_else(|| io::Error::other("io_uring refuses every set-up: kernel 6.1 or newer is needed"))?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        features.send_zc = probe.is_supported(opcode::SendZc::CODE);
        features.ftruncate = probe.is_supported(opcode::Ftruncate::CODE);
        features.fixed_buffers = uring.submitter().register_buffers_sparse(REGION_SLOTS).is_ok();
        let ring = Ring {
            uring: RefCell::new(uring),
            slots: RefCell::new(Slab::with_capacity(64)),
            generation: Cell::new(0),
            queued: Cell::new(false),
            closed: Cell::new(false),
            writes: Cell::new(0),
            completed: RefCell::new(Vec::with_capacity(256)),
            features,
            region_slots: RefCell::new((0..REGION_SLOTS as u16).rev().collect()),
            refused: Cell::new(false),
            unclaimed: RefCell::default(),
            doorbell: doorbell.as_raw_fd(),
        };
        ring.listen_to_doorbell();
        Ok(ring)
    }

    /// What was found at start.
    pub fn features(&self) -> Features {
        self.features
    }

    /// A poll that lasts: every write to the eventfd is one completion, and nobody has to read the eventfd.
    fn listen_to_doorbell(&self) {
        let entry = opcode::PollAdd::new(io_uring::types::Fd(self.doorbell), libc::POLLIN as u32).multi(true).build();
        self.push(&entry.user_data(DOORBELL));
    }

    /// Hands a table of receive buffers to the kernel.
    ///
    /// # Safety
    /// `table` must point to `entries` page-aligned entries that outlive the ring.
    pub unsafe fn register_receive_table(&self, table: u64, entries: u16, group: u16) -> io::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.uring.borrow().submitter().register_buf_ring_with_flags(table, entries, group, 0) }
    }

    /// Queues an operation on `fd`. It reaches the kernel with the next turn.
    ///
    /// # Safety
    /// Every address in `entry` must lie in what `keep` (or the descriptor) owns.
    pub unsafe fn start(self: &Rc<Ring>, fd: Option<Rc<OwnedFd>>, entry: squeue::Entry, keep: Keep) -> Operation {
        let generation = self.generation.get().wrapping_add(1) & 0x7fff_ffff;
        self.generation.set(generation);
        let closed = self.closed.get();
        if matches!(keep, Keep::Window { .. }) && !closed {
            self.writes.set(self.writes.get() + 1);
        }
        let result = closed.then_some((-libc::ECANCELED, 0));
        let slot = Slot { generation, waker: None, result, last: closed, orphan: false, keep: Some(keep), _fd: fd };
        let index = self.slots.borrow_mut().insert(slot);
        if !closed {
            self.push(&entry.user_data(user_data(generation, index)));
        }
        Operation { ring: self.clone(), index, generation, done: false }
    }

    fn push(&self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the slot made by the caller owns what the entry names (see `start`); cancel entries name nothing.
            if unsafe { self.uring.borrow_mut().submission().push(entry) }.is_ok() {
                break;
            }
            self.enter(0, None);
            self.completed.borrow_mut().extend(self.uring.borrow_mut().completion());
        }
        self.queued.set(true);
    }

    /// Submits what is queued, and lets the kernel finish what it has ready.
    pub fn submit(&self) {
        let pending = self.queued.get() || {
            let mut uring = self.uring.borrow_mut();
            let submission = uring.submission();
            submission.taskrun() || submission.cq_overflow()
        };
        if pending {
            self.enter(0, None);
        }
    }

    /// Submits what is queued, and while a write is at the device looks for completions of any kind, for `longest` at most. True when there are some.
    pub fn spin(&self, longest: Duration) -> bool {
        if longest.is_zero() || self.writes.get() == 0 {
            return false;
        }
        self.submit();
        let start = Instant::now();
        loop {
            let (complete, ready) = {
                let mut uring = self.uring.borrow_mut();
                let complete = !uring.completion().is_empty();
                (complete, uring.submission().taskrun())
            };
            if complete || ready {
                if !complete {
                    self.enter(0, None);
                }
                return true;
            }
            if start.elapsed() >= longest {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Submits what is queued, and waits until something is complete, for `limit` at most.
    pub fn wait(&self, limit: Option<Duration>) {
        self.enter(1, limit);
    }

    /// Delivers what is complete. True when there was anything.
    pub fn reap(&self) -> bool {
        let mut completed = self.completed.take();
        completed.extend(self.uring.borrow_mut().completion());
        let any = !completed.is_empty();
        for entry in completed.drain(..) {
            self.complete(&entry);
        }
        let mut stashed = self.completed.borrow_mut();
        // What was stashed meanwhile, by a push that found the queue full, is for the next turn.
        if stashed.is_empty() {
            *stashed = completed;
        }
        any
    }

    fn enter(&self, completions: u32, limit: Option<Duration>) {
        let queued = {
            let mut uring = self.uring.borrow_mut();
            let mut submission = uring.submission();
            submission.sync();
            submission.len()
        };
        self.queued.set(false);
        let uring = self.uring.borrow();
        let limit = limit.map(|limit| Timespec::new().sec(limit.as_secs()).nsec(limit.subsec_nanos()));
        // GETEVENTS also runs deferred task work: without it completions would stay invisible.
        let entered = match &limit {
            // SAFETY: the argument and the time that it points to live until the call returns.
            Some(limit) => unsafe {
                let arguments = SubmitArgs::new().timespec(limit);
                uring.submitter().enter(queued as u32, completions, GETEVENTS | EXT_ARG, Some(&arguments))
            },
            // SAFETY: no argument structure is passed.
            None => unsafe { uring.submitter().enter::<libc::sigset_t>(queued as u32, completions, GETEVENTS, None) },
        };
        match entered {
            Ok(n) => self.queued.set(n < queued),
            Err(e) if e.raw_os_error() == Some(libc::ETIME) => {}
            // Interrupted, or completions have to be reaped first: the next turn tries again.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => self.queued.set(queued > 0),
            Err(e) => crate::base::fatal::fatal(&format!("io_uring_enter: {e}")),
        }
    }

    fn complete(&self, entry: &cqueue::Entry) {
        match entry.user_data() {
            NOBODY => return,
            DOORBELL if cqueue::more(entry.flags()) => return,
            DOORBELL => return self.listen_to_doorbell(),
            _ => {}
        }
        let index = (entry.user_data() & 0xffff_ffff) as usize;
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(index) else { return };
        let last = !cqueue::more(entry.flags());
        if cqueue::notif(entry.flags()) {
            const COPIED: u32 = 1 << 31;
            if entry.result() as u32 & COPIED != 0
                && let Some(Keep::Slice { zero_copy: Some(flag), .. }) = &slot.keep
            {
                flag.set(false);
            }
        } else {
            slot.result = Some((entry.result(), entry.flags()));
        }
        slot.last = last;
        if last && matches!(slot.keep, Some(Keep::Window { .. })) {
            self.writes.set(self.writes.get() - 1);
        }
        let waker = slot.waker.take();
        let removed = if last && slot.orphan { Some(slots.remove(index)) } else { None };
        drop(slots);
        // Dropping a kept buffer or descriptor may run code of its own: not under the borrow.
        if let Some(slot) = removed {
            self.abandon(slot);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The end of an operation whose future is gone: what the kernel handed out with its result is taken back.
    fn abandon(&self, slot: Slot) {
        let Some((result, flags)) = slot.result else { return };
        if let Some(buffer) = cqueue::buffer_select(flags) {
            self.unclaimed.borrow_mut().push(buffer);
        }
        if matches!(slot.keep, Some(Keep::Accepted(_))) && result >= 0 {
            // SAFETY: a fresh descriptor that the kernel gave to this operation and nobody has seen.
            drop(unsafe { OwnedFd::from_raw_fd(result) });
        }
    }

    fn cancel(&self, index: usize, generation: u32) {
        self.push(&opcode::AsyncCancel::new(user_data(generation, index)).build().user_data(NOBODY));
    }

    /// Operations that the kernel still holds.
    pub fn in_flight(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Cancels everything that is in flight, and whatever is started from now on, at once: a task may answer a cancelled operation with
    /// a new one.
    pub fn close(&self) {
        self.closed.set(true);
        let live: Vec<(usize, u32)> = self.slots.borrow().iter().map(|(i, s)| (i, s.generation)).collect();
        for (index, generation) in live {
            self.cancel(index, generation);
        }
    }
}

fn user_data(generation: u32, index: usize) -> u64 {
    (generation as u64) << 32 | index as u64
}

impl Registrar for Ring {
    fn register(&self, base: *mut u8, len: usize) -> Option<u16> {
        if !self.features.fixed_buffers {
            return None;
        }
        let slot = self.region_slots.borrow_mut().pop()?;
        let vector = libc::iovec { iov_base: base.cast(), iov_len: len };
        // SAFETY: the pool keeps the region mapped until it has called `unregister`.
        let done = unsafe { self.uring.borrow().submitter().register_buffers_update(slot as u32, &[vector], None) };
        match done {
            Ok(_) => Some(slot),
            Err(e) => {
                if !self.refused.replace(true) {
                    tracing::warn!(
                        "cannot register memory with io_uring ({e}): raise the limit of locked memory; \
                         going on without: disk and network copy more"
                    );
                }
                self.region_slots.borrow_mut().push(slot);
                None
            }
        }
    }

    fn unregister(&self, slot: u16) {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: an empty vector clears the slot.
        let _ = unsafe { self.uring.borrow().submitter().register_buffers_update(slot as u32, &[empty], None) };
        self.region_slots.borrow_mut().push(slot);
    }
}

/// A queued operation; resolves to its result and what it kept. Dropping it cancels the operation.
pub struct Operation {
    ring: Rc<Ring>,
    index: usize,
    generation: u32,
    done: bool,
}

/// The end of an operation.
pub struct Outcome {
    /// As the kernel gave it: a count, or a negated errno.
    pub result: i32,
    /// Completion flags.
    pub flags: u32,
    /// What the operation kept, unless the kernel may still read it.
    pub keep: Option<Keep>,
}

impl Outcome {
    /// The result as Rust has it.
    pub fn count(&self) -> io::Result<usize> {
        if self.result < 0 { Err(io::Error::from_raw_os_error(-self.result)) } else { Ok(self.result as usize) }
    }
}

impl Operation {
    /// Names the operation for [`interrupt`].
    pub fn id(&self) -> (usize, u32) {
        (self.index, self.generation)
    }
}

/// Asks the kernel to end an operation early; its future then resolves.
pub fn interrupt(ring: &Ring, id: (usize, u32)) {
    let live = ring.slots.borrow().get(id.0).is_some_and(|s| s.generation == id.1 && s.result.is_none());
    if live {
        ring.cancel(id.0, id.1);
    }
}

impl Future for Operation {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let ring = self.ring.clone();
        let mut slots = ring.slots.borrow_mut();
        let slot = &mut slots[self.index];
        let Some((result, flags)) = slot.result else {
            if !slot.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                slot.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        self.done = true;
        if slot.last {
            let slot = slots.remove(self.index);
            return Poll::Ready(Outcome { result, flags, keep: slot.keep });
        }
        slot.orphan = true;
        Poll::Ready(Outcome { result, flags, keep: None })
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut slots = self.ring.slots.borrow_mut();
        let slot = &mut slots[self.index];
        slot.orphan = true;
        slot.waker = None;
        let removed = if slot.last { Some(slots.remove(self.index)) } else { None };
        drop(slots);
        match removed {
            Some(slot) => self.ring.abandon(slot),
            None => self.ring.cancel(self.index, self.generation),
        }
    }
}

/// The raw descriptor of a shared one.
pub fn raw(fd: &Rc<OwnedFd>) -> io_uring::types::Fd {
    io_uring::types::Fd(fd.as_raw_fd())
}

/// The address of a connection's peer, which the kernel fills in.
pub struct PeerAddress {
    storage: SockAddrStorage,
    len: libc::socklen_t,
}

impl Default for PeerAddress {
    fn default() -> PeerAddress {
        let storage = SockAddrStorage::zeroed();
        PeerAddress { len: storage.size_of(), storage }
    }
}

impl PeerAddress {
    /// Where the kernel puts the address and its length.
    pub fn as_out(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        ((&raw mut self.storage).cast(), &raw mut self.len)
    }

    /// The address, if it is one of the internet.
    pub fn address(self) -> Option<SocketAddr> {
        // SAFETY: the storage holds the address that the kernel has put there, or zeros.
        unsafe { SockAddr::new(self.storage, self.len) }.as_socket()
    }
}
