//! A core's memory: page-aligned blocks cut from regions, within a budget, shared by reference and returned from any core.
//!
//! The only code outside `rt/uring` with `unsafe`: the bytes of one block are at once the append buffer, the disk buffer, the tail cache
//! and the send buffer, so the committed front of a [`Chunk`] is read by others while its owner fills the rest.
//!
//! Invariant: a byte below a chunk's committed length is never written again while a slice of the block exists.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use crossbeam_queue::SegQueue;

use crate::base::limits::{BLOCK, REGION};

const ORDERS: usize = (REGION / BLOCK).trailing_zeros() as usize + 1;
/// Regions are registered with the ring (which pins them) only once this much is in use, so that an idle broker stays small.
const REGISTER_ABOVE: usize = 1 << 20;

/// See [`Pool::lines`].
const BLOCKS: usize = 0;
const LARGE: usize = 1;
const READS: usize = 2;
const BEYOND: usize = 3;
const SMALL_READS: usize = 4;
/// The part of the budget that is kept for blocks to read into, one of so many: requests that wait for
/// something do not hold up those who read.
const READ_SHARE: usize = 8;
/// A block of so many bytes is a small one to read into: the end of a log takes no more.
const SMALL_READ: usize = 64 << 10;
/// The part of the budget that is kept for small ones, one of so many: who reads the end of a log does
/// not stand behind those who read much and do not take it.
const SMALL_READ_SHARE: usize = 32;

/// Who pins regions for the kernel: the data ring.
pub trait Registrar {
    /// Registers `len` bytes at `base`; the slot, or `None` when the kernel refuses.
    fn register(&self, base: *mut u8, len: usize) -> Option<u16>;
    /// Forgets a slot.
    fn unregister(&self, slot: u16);
}

/// The part of a pool that other cores see.
struct Home {
    returns: SegQueue<(usize, usize)>,
    /// Bytes of mappings larger than a region that are charged to the budget.
    large: AtomicUsize,
    /// Bytes on the heap that are charged to the budget.
    heap: AtomicUsize,
    /// Bytes of accounts.
    accounts: AtomicUsize,
    /// Address of the one mapping that may go on beyond the half that all large ones have together; 0: none.
    beyond: AtomicUsize,
    waiting: AtomicBool,
    /// Something has come back while a task waited.
    came_back: AtomicBool,
    notify: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct Region {
    slot: Option<u16>,
    /// Per page: order + 1 of the free block that starts there, 0 where none does.
    free: Box<[u8; REGION / BLOCK]>,
}

/// What is to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// So many bytes for a new block.
    Any(usize),
    /// So many bytes of mappings larger than a region.
    Large(usize),
}

/// Frees cached blocks.
type Reclaim = Rc<dyn Fn(Wanted)>;

/// Tasks that wait for memory, in turn.
#[derive(Default)]
struct Line {
    waiting: VecDeque<(u64, Waker)>,
    next: u64,
}

impl Line {
    fn wake_first(&self) {
        if let Some((_, waker)) = self.waiting.front() {
            waker.wake_by_ref();
        }
    }
}

/// A core's regions and what is free in them. It has no `Drop`: at exit blocks may still be referenced from other cores, so regions stay mapped until the process ends.
struct Pool {
    home: Arc<Home>,
    budget: usize,
    used: Cell<usize>,
    regions: RefCell<HashMap<usize, Region>>,
    /// Start addresses by order; an entry counts only if the region's `free` table agrees.
    free: RefCell<[Vec<usize>; ORDERS]>,
    /// Those who wait for blocks, for mappings larger than a region, for blocks to read into, the one
    /// large mapping that goes beyond their half, and those who wait for small blocks to read into: the
    /// ones do not stand behind the others.
    lines: [RefCell<Line>; 5],
    reclaim: RefCell<Option<Reclaim>>,
    registrar: RefCell<Option<Rc<dyn Registrar>>>,
}

/// One core's pool. Clones name the same pool.
#[derive(Clone)]
pub struct Memory(Rc<Pool>);

/// A block of one pool; returned to it when the last reference is dropped, on whichever core.
struct Block {
    base: NonNull<u8>,
    capacity: usize,
    home: Arc<Home>,
    /// 0 for a block of a region; else the bytes charged for this mapping of its own.
    large_charge: AtomicUsize,
    large: bool,
}

// SAFETY: the memory is owned by the block, not by a thread; shared access is governed by the module's invariant.
unsafe impl Send for Block {}
// SAFETY: as above; `Block` itself only hands out its address.
unsafe impl Sync for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        let address = self.base.as_ptr() as usize;
        if self.large {
            self.home.large.fetch_sub(*self.large_charge.get_mut(), Ordering::Relaxed);
            let _ = self.home.beyond.compare_exchange(address, 0, Ordering::Relaxed, Ordering::Relaxed);
            // SAFETY: the mapping was made for this block alone, and this is its last reference.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.capacity) };
        } else {
            self.home.returns.push((address, self.capacity));
        }
        self.home.gave_back();
    }
}

impl Home {
    /// Something has come back: tells the core, if a task of it waits.
    fn gave_back(&self) {
        // Pairs with the fence in `Memory::poll_room`: either the waiter sees what we gave back, or we see the waiter.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed)
            && !self.came_back.swap(true, Ordering::AcqRel)
            && let Some(notify) = self.notify.get()
        {
            notify();
        }
    }
}

/// Bytes of the heap that count as used, for as long as this lives.
struct Charged {
    bytes: Bytes,
    home: Arc<Home>,
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.home.heap.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.home.gave_back();
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Memory on the heap that grows and shrinks, and counts as used: that of state.
pub struct Account {
    bytes: Cell<usize>,
    home: Arc<Home>,
}

impl Account {
    /// Bytes that it counts.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// From now on it counts so many.
    pub fn set(&self, bytes: usize) {
        let before = self.bytes.replace(bytes);
        let (more, less) = (bytes.saturating_sub(before), before.saturating_sub(bytes));
        self.home.accounts.fetch_add(more, Ordering::Relaxed);
        if less > 0 {
            self.home.accounts.fetch_sub(less, Ordering::Relaxed);
            self.home.gave_back();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A block with one writer: bytes below `len` are committed and may be shared, those above belong to the writer.
pub struct Chunk {
    block: Arc<Block>,
    len: usize,
}

/// A range of a block as the kernel sees it, without a claim that its bytes are settled.
#[derive(Clone)]
pub struct Window {
    block: Arc<Block>,
    start: usize,
    len: usize,
}

/// What `Bytes` holds on to.
struct Committed(Window);

impl AsRef<[u8]> for Committed {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: made by `Chunk::slice` from a committed range, which by the module's invariant no longer changes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len) }
    }
}

impl Window {
    /// Address of the first byte; valid as long as the window lives.
    pub fn as_ptr(&self) -> *const u8 {
        // SAFETY: start lies within the block.
        unsafe { self.block.base.as_ptr().add(self.start) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when the range is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The range up to `at` bytes from its start, and the rest.
    pub fn split_at(&self, at: usize) -> (Window, Window) {
        assert!(at <= self.len, "a range is split inside");
        let (front, rest) = (Window { len: at, ..self.clone() }, Window { start: self.start + at, len: self.len - at, ..self.clone() });
        (front, rest)
    }

    /// A copy of the bytes as they are now.
    pub fn to_vec(&self) -> Vec<u8> {
        // SAFETY: within the block, and initialised: mappings start as zeros. The writer lives on this thread.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }.to_vec()
    }
}

impl Chunk {
    /// Committed bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is committed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size of the block: a power of two, at least [`BLOCK`], up to [`REGION`] (larger ones are rounded up to [`BLOCK`]).
    pub fn capacity(&self) -> usize {
        self.block.capacity
    }

    /// Bytes that can still be committed.
    pub fn room(&self) -> usize {
        self.block.capacity - self.len
    }

    /// The committed bytes.
    pub fn filled(&self) -> &[u8] {
        // SAFETY: within the block and settled.
        unsafe { std::slice::from_raw_parts(self.block.base.as_ptr(), self.len) }
    }

    /// The bytes above `len`, to be filled and then committed with [`Chunk::advance`].
    pub fn spare(&mut self) -> &mut [u8] {
        // SAFETY: `&mut self` is the only writer and no slice reaches above `len`.
        unsafe { std::slice::from_raw_parts_mut(self.block.base.as_ptr().add(self.len), self.block.capacity - self.len) }
    }

    /// Commits `n` bytes of the spare part. Panics when there are fewer.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.room());
        self.len += n;
    }

    /// Copies and commits. Panics when there is no room.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.spare()[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }

    /// A shared, reference-counted slice of committed bytes. Panics when the range is not committed.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len);
        if range.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Committed(Window { block: self.block.clone(), start: range.start, len: range.end - range.start }))
    }

    /// A range for the kernel, which may reach above `len` (padding). Panics outside the block.
    pub fn window(&self, range: Range<usize>) -> Window {
        assert!(range.start <= range.end && range.end <= self.block.capacity);
        Window { block: self.block.clone(), start: range.start, len: range.end - range.start }
    }

    /// Empties the chunk for reuse if no slice or window of it is left.
    pub fn try_reset(&mut self) -> bool {
        let unique = Arc::get_mut(&mut self.block).is_some();
        if unique {
            self.len = 0;
        }
        unique
    }
}

impl Memory {
    /// A pool that may use about `budget` bytes.
    pub fn new(budget: usize) -> Memory {
        let home = Home {
            returns: SegQueue::new(),
            large: AtomicUsize::new(0),
            heap: AtomicUsize::new(0),
            accounts: AtomicUsize::new(0),
            beyond: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            came_back: AtomicBool::new(false),
            notify: OnceLock::new(),
        };
        Memory(Rc::new(Pool {
            home: Arc::new(home),
            budget,
            used: Cell::new(0),
            regions: RefCell::default(),
            free: RefCell::default(),
            lines: Default::default(),
            reclaim: RefCell::default(),
            registrar: RefCell::default(),
        }))
    }

    /// Who is told of new regions. To be set before the first allocation.
    pub fn set_registrar(&self, registrar: Option<Rc<dyn Registrar>>) {
        *self.0.registrar.borrow_mut() = registrar;
    }

    /// Who frees cached blocks when the budget is reached.
    pub fn set_reclaim(&self, reclaim: Reclaim) {
        *self.0.reclaim.borrow_mut() = Some(reclaim);
    }

    /// Called, from any core, when memory comes back while a task of this core waits for some.
    pub fn set_notify(&self, notify: Box<dyn Fn() + Send + Sync>) {
        let _ = self.0.home.notify.set(notify);
    }

    /// Bytes in blocks that are held by somebody, and those on the heap that are charged.
    pub fn used(&self) -> usize {
        self.collect();
        let home = &self.0.home;
        // State may have been made under a larger budget. Requests may ask for half of this one, and all
        // else has a place beside them.
        let accounts = home.accounts.load(Ordering::Relaxed).min(self.0.budget / 8 * 3);
        self.0.used.get() + home.large.load(Ordering::Relaxed) + home.heap.load(Ordering::Relaxed) + accounts
    }

    /// An account that counts nothing yet.
    pub fn account(&self) -> Account {
        Account { bytes: Cell::new(0), home: self.0.home.clone() }
    }

    /// Counts bytes of the heap as used for as long as a part of the result lives.
    pub fn charged(&self, bytes: Bytes) -> Bytes {
        let home = self.0.home.clone();
        home.heap.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Charged { bytes, home })
    }

    /// More is used than the budget allows, or a task waits for memory.
    pub fn scarce(&self) -> bool {
        self.contended() || self.used() > self.0.budget
    }

    /// The pool's limit in bytes.
    pub fn budget(&self) -> usize {
        self.0.budget
    }

    /// A chunk of at least `size` bytes if the budget allows, cached blocks being given up for it.
    pub fn try_chunk(&self, size: usize) -> Option<Chunk> {
        self.chunk_within(size, 0)
    }

    /// A chunk if so many bytes of the budget are left then.
    fn chunk_within(&self, size: usize, left: usize) -> Option<Chunk> {
        let size = round(size);
        if self.used() + size + left > self.0.budget {
            self.reclaim(Wanted::Any(size + left));
            if self.used() + size + left > self.0.budget {
                return None;
            }
        }
        Some(self.allocate(size))
    }

    /// As [`Memory::try_chunk`], waiting in turn until there is room. A size above the budget is given when nothing else is in use.
    pub async fn chunk(&self, size: usize) -> Chunk {
        let size = size.min(self.0.budget / 2).max(1);
        let line = if size > REGION { LARGE } else { BLOCKS };
        let mut place = Place { memory: self, line, ticket: None };
        poll_fn(|cx| place.poll(cx, || self.chunk_within(size, self.0.budget / READ_SHARE))).await
    }

    /// As [`Memory::chunk`], to read into: a part of the budget is for those who do.
    pub async fn chunk_to_read(&self, size: usize) -> Chunk {
        let size = size.min(self.0.budget / 2).max(1);
        let (line, share) = match size <= SMALL_READ {
            true => (SMALL_READS, 0),
            false => (READS, self.0.budget / SMALL_READ_SHARE),
        };
        let mut place = Place { memory: self, line, ticket: None };
        poll_fn(|cx| place.poll(cx, || self.chunk_within(size, share))).await
    }

    /// A chunk at once, over the budget if need be: for input that was admitted before.
    pub fn chunk_now(&self, size: usize) -> Chunk {
        self.try_chunk(size).unwrap_or_else(|| self.allocate(round(size)))
    }

    /// A mapping of its own for `size` bytes of which nothing is charged yet: see [`Memory::charge`].
    pub fn large(&self, size: usize) -> Chunk {
        let capacity = size.div_ceil(BLOCK) * BLOCK;
        let base = map(capacity);
        let block = Block { base, capacity, home: self.0.home.clone(), large_charge: AtomicUsize::new(0), large: true };
        Chunk { block: Arc::new(block), len: 0 }
    }

    /// Waits until the first `upto` bytes of a [`Memory::large`] chunk may be touched.
    pub async fn charge(&self, chunk: &Chunk, upto: usize) {
        let charged = chunk.block.large_charge.load(Ordering::Relaxed);
        let more = upto.min(chunk.capacity()).saturating_sub(charged);
        if more == 0 || !chunk.block.large {
            return;
        }
        let is_beyond = self.0.home.beyond.load(Ordering::Relaxed) == chunk.block.base.as_ptr() as usize;
        let line = if is_beyond { BEYOND } else { LARGE };
        let mut place = Place { memory: self, line, ticket: None };
        poll_fn(|cx| place.poll(cx, || self.try_charge(chunk, charged, more))).await
    }

    fn try_charge(&self, chunk: &Chunk, charged: usize, more: usize) -> Option<()> {
        if self.used() + more > self.0.budget {
            self.reclaim(Wanted::Any(more));
        }
        // Half is kept for all that is smaller. Alone one may go over: a request above the whole budget still has to be answered.
        let large = || self.0.home.large.load(Ordering::Relaxed);
        if large() > charged && large() + more > self.0.budget / 2 {
            self.reclaim(Wanted::Large(large() + more - self.0.budget / 2));
        }
        let large = large();
        if large > charged && self.used() + more > self.0.budget {
            return None;
        }
        // Several that each have a part of what they need would wait for each other: one goes on.
        if large > charged && large + more > self.0.budget / 2 && !self.goes_beyond(chunk) {
            return None;
        }
        chunk.block.large_charge.fetch_add(more, Ordering::Relaxed);
        self.0.home.large.fetch_add(more, Ordering::Relaxed);
        Some(())
    }

    /// Whether the chunk is the one that may, or is from now on.
    fn goes_beyond(&self, chunk: &Chunk) -> bool {
        let (beyond, address) = (&self.0.home.beyond, chunk.block.base.as_ptr() as usize);
        let taken = beyond.compare_exchange(0, address, Ordering::Relaxed, Ordering::Relaxed);
        taken.is_ok() || taken == Err(address)
    }

    /// Takes back what other tasks and cores have dropped and wakes those who wait. Called once per turn of the core's loop.
    pub fn turn(&self) {
        self.collect();
        // A mapping of its own comes back without a trace in `returns`: the flag is what tells.
        if self.contended() && self.0.home.came_back.swap(false, Ordering::AcqRel) {
            self.0.lines.iter().for_each(|line| line.borrow().wake_first());
        }
    }

    fn reclaim(&self, wanted: Wanted) {
        let reclaim = self.0.reclaim.borrow().clone();
        if let Some(reclaim) = reclaim {
            reclaim(wanted);
        }
    }

    /// Gives wholly free regions back to the system. Called when the core is idle.
    pub fn trim(&self) {
        self.collect();
        let mut regions = self.0.regions.borrow_mut();
        regions.retain(|base, region| {
            let whole = region.free[0] as usize == ORDERS;
            if whole {
                if let (Some(slot), Some(registrar)) = (region.slot, self.0.registrar.borrow().as_ref()) {
                    registrar.unregister(slot);
                }
                // SAFETY: every block of the region is free, so nothing points into it.
                unsafe { libc::munmap(*base as *mut libc::c_void, REGION) };
            }
            !whole
        });
    }

    /// The registered slot and region start that hold `address`, if any.
    pub fn slot_of(&self, address: *const u8) -> Option<u16> {
        self.0.regions.borrow().get(&(address as usize & !(REGION - 1)))?.slot
    }

    /// True while a task waits for memory.
    pub fn contended(&self) -> bool {
        self.0.lines.iter().any(|line| !line.borrow().waiting.is_empty())
    }

    fn collect(&self) {
        while let Some((address, size)) = self.0.home.returns.pop() {
            self.free(address, size);
        }
    }

    fn allocate(&self, size: usize) -> Chunk {
        if size > REGION {
            let chunk = self.large(size);
            chunk.block.large_charge.store(size, Ordering::Relaxed);
            self.0.home.large.fetch_add(size, Ordering::Relaxed);
            return chunk;
        }
        let order = (size / BLOCK).trailing_zeros() as usize;
        let address = self.take(order).unwrap_or_else(|| {
            self.add_region();
            self.take(order).expect("a fresh region holds a block of every order")
        });
        self.0.used.set(self.0.used.get() + size);
        if self.0.used.get() > REGISTER_ABOVE {
            self.register();
        }
        let base = NonNull::new(address as *mut u8).expect("mapped");
        let block = Block { base, capacity: size, home: self.0.home.clone(), large_charge: AtomicUsize::new(0), large: false };
        Chunk { block: Arc::new(block), len: 0 }
    }

    fn take(&self, order: usize) -> Option<usize> {
        let mut free = self.0.free.borrow_mut();
        let mut regions = self.0.regions.borrow_mut();
        for from in order..ORDERS {
            while let Some(address) = free[from].pop() {
                let Some(region) = regions.get_mut(&(address & !(REGION - 1))) else { continue };
                let page = (address & (REGION - 1)) / BLOCK;
                if region.free[page] as usize != from + 1 {
                    continue;
                }
                region.free[page] = 0;
                for split in (order..from).rev() {
                    let buddy = address + (BLOCK << split);
                    region.free[page + (1 << split)] = split as u8 + 1;
                    free[split].push(buddy);
                }
                return Some(address);
            }
        }
        None
    }

    fn free(&self, address: usize, size: usize) {
        self.0.used.set(self.0.used.get() - size);
        let mut regions = self.0.regions.borrow_mut();
        let base = address & !(REGION - 1);
        let region = regions.get_mut(&base).expect("a block's region outlives it");
        let mut order = (size / BLOCK).trailing_zeros() as usize;
        let mut page = (address - base) / BLOCK;
        while order + 1 < ORDERS {
            let buddy = page ^ (1 << order);
            if region.free[buddy] as usize != order + 1 {
                break;
            }
            region.free[buddy] = 0;
            page &= !(1 << order);
            order += 1;
        }
        region.free[page] = order as u8 + 1;
        self.0.free.borrow_mut()[order].push(base + page * BLOCK);
    }

    fn add_region(&self) {
        // Twice the size, then the ends cut off: blocks are aligned to their size, and `slot_of` finds a region by its address.
        let wide = map(2 * REGION).as_ptr() as usize;
        let base = wide.next_multiple_of(REGION);
        // SAFETY: both ranges lie within the mapping just made and are used by nobody.
        unsafe {
            if base > wide {
                libc::munmap(wide as *mut libc::c_void, base - wide);
            }
            libc::munmap((base + REGION) as *mut libc::c_void, wide + REGION - base);
        }
        let mut free = Box::new([0u8; REGION / BLOCK]);
        free[0] = ORDERS as u8;
        self.0.regions.borrow_mut().insert(base, Region { slot: None, free });
        self.0.free.borrow_mut()[ORDERS - 1].push(base);
    }

    fn register(&self) {
        let registrar = self.0.registrar.borrow().clone();
        let Some(registrar) = registrar else { return };
        for (base, region) in self.0.regions.borrow_mut().iter_mut().filter(|(_, r)| r.slot.is_none()) {
            region.slot = registrar.register(*base as *mut u8, REGION);
            if region.slot.is_none() {
                // The kernel refused (memlock limit, table full): stop asking.
                *self.0.registrar.borrow_mut() = None;
                return;
            }
        }
    }
}

/// A place in the line of those who wait for memory; given up when dropped.
struct Place<'a> {
    memory: &'a Memory,
    line: usize,
    ticket: Option<u64>,
}

impl Place<'_> {
    /// What `attempt` gives, once all who came before have had theirs.
    fn poll<T>(&mut self, cx: &Context<'_>, attempt: impl Fn() -> Option<T>) -> Poll<T> {
        let pool = &self.memory.0;
        let line = &pool.lines[self.line];
        let first = match (self.ticket, line.borrow().waiting.front()) {
            (None, first) => first.is_none(),
            (Some(ticket), first) => first.is_some_and(|(first, _)| *first == ticket),
        };
        if let Some(given) = first.then(&attempt).flatten() {
            return Poll::Ready(given);
        }
        self.wait(cx.waker());
        // What another core gave back before it could see the flag, it has told nobody of: hence a second look.
        pool.home.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        first.then(attempt).flatten().map_or(Poll::Pending, Poll::Ready)
    }

    fn wait(&mut self, waker: &Waker) {
        let mut line = self.memory.0.lines[self.line].borrow_mut();
        match self.ticket {
            Some(ticket) => {
                let at = line.waiting.iter().position(|(waiting, _)| *waiting == ticket);
                line.waiting[at.expect("it is in the line until it is dropped")].1.clone_from(waker);
            }
            None => {
                let ticket = line.next;
                line.next += 1;
                line.waiting.push_back((ticket, waker.clone()));
                self.ticket = Some(ticket);
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut line = self.memory.0.lines[self.line].borrow_mut();
        line.waiting.retain(|(waiting, _)| *waiting != ticket);
        // There may be room for more than one.
        line.wake_first();
        drop(line);
        if !self.memory.contended() {
            self.memory.0.home.waiting.store(false, Ordering::Relaxed);
        }
    }
}

fn round(size: usize) -> usize {
    if size > REGION { size.div_ceil(BLOCK) * BLOCK } else { size.max(BLOCK).next_power_of_two() }
}

fn map(len: usize) -> NonNull<u8> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let base = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if base == libc::MAP_FAILED {
        crate::base::fatal::fatal(&format!("cannot map {len} bytes of memory: {}", std::io::Error::last_os_error()));
    }
    NonNull::new(base.cast()).expect("mmap does not return null")
}

#[cfg(test)]
#[path = "mem_tests.rs"]
mod tests;
