//! What the logs of one core keep in memory beyond what is still to be written: bounded by the core's memory, least recently read goes first.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use super::files::REMOVALS;
use super::read::{COLD_READS, Gate};
use crate::base::ids::Offset;
use crate::base::limits::REGION;
use crate::rt::mem::{Account, Memory, Wanted};

/// Complete segments of one core that may be open: each has a descriptor.
pub(super) const OPEN_MAX: usize = 128;
/// The share of a core's memory that their indexes may take: one part of so many.
pub(super) const INDEX_SHARE: usize = 64;

/// Whoever holds cached spans.
pub(super) trait Holder {
    /// The span's fate: it is dropped when nothing of it is to be written and it was not read since the last call.
    fn visit(&self, key: Offset) -> Visit;
    /// The fate of the span that takes appends: it is given up when nothing of it is to be written. After [`Visit::Gone`] and
    /// [`Visit::GaveUp`] the holder is not asked again until it calls [`Cache::insert_active`].
    fn visit_active(&self) -> Visit;
    /// Closes a complete segment's file and drops its index; false if they are in use.
    fn close_segment(&self, base: Offset) -> bool;
}

/// Answer of [`Holder::visit`].
pub(super) enum Visit {
    /// It was read recently: ask again later.
    Keep,
    /// It is gone, or is now: so many bytes were freed.
    Gone(usize),
    /// So many bytes were freed that never counted as cached.
    GaveUp(usize),
}

struct Entry {
    holder: Weak<dyn Holder>,
    /// `None`: the span that takes appends, whichever that is.
    key: Option<Offset>,
}

struct Inner {
    /// Second-chance order: read entries go round once more.
    entries: RefCell<VecDeque<Entry>>,
    /// Spans of mappings larger than a region, of which there is little room: the first to go.
    large: RefCell<VecDeque<Entry>>,
    bytes: Cell<usize>,
    /// Logs with an append chunk.
    active: Cell<usize>,
    memory: Option<Memory>,
    cold_reads: Gate,
    removals: Gate,
    open_max: Cell<usize>,
    /// Complete segments whose file is open or whose index is in memory, by the order of their last use.
    open: RefCell<BTreeMap<u64, Kept>>,
    next_use: Cell<u64>,
    /// Memory of their indexes.
    index_bytes: Cell<usize>,
    account: Option<Account>,
}

struct Kept {
    holder: Weak<dyn Holder>,
    base: Offset,
    index_bytes: usize,
}

impl Inner {
    fn use_number(&self) -> u64 {
        self.next_use.replace(self.next_use.get() + 1)
    }

    fn count_index(&self, before: usize, after: usize) {
        self.index_bytes.set(self.index_bytes.get() - before + after);
        if let Some(account) = &self.account {
            account.set(self.index_bytes.get());
        }
    }
}

impl Default for Inner {
    fn default() -> Inner {
        let (cold_reads, removals) = (Gate::new(COLD_READS), Gate::new(REMOVALS));
        let large = RefCell::default();
        Inner {
            entries: RefCell::default(),
            large,
            bytes: Cell::new(0),
            active: Cell::new(0),
            memory: None,
            cold_reads,
            removals,
            open_max: Cell::new(OPEN_MAX),
            open: RefCell::default(),
            next_use: Cell::new(0),
            index_bytes: Cell::new(0),
            account: None,
        }
    }
}

/// Counts a log as one with an append chunk.
pub(super) struct Seat(Rc<Inner>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// Held by a complete segment whose file is open or whose index is in memory.
pub(super) struct Opened {
    cache: Rc<Inner>,
    last_use: Cell<u64>,
}

impl Opened {
    /// The segment was used, and its index takes so much.
    pub fn used(&self, index_bytes: usize) {
        let mut open = self.cache.open.borrow_mut();
        let Some(mut kept) = open.remove(&self.last_use.get()) else { return };
        self.cache.count_index(kept.index_bytes, index_bytes);
        kept.index_bytes = index_bytes;
        self.last_use.set(self.cache.use_number());
        open.insert(self.last_use.get(), kept);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(kept) = self.cache.open.borrow_mut().remove(self.last_use.get_mut()) {
            self.cache.count_index(kept.index_bytes, 0);
        }
    }
}

/// One core's cache of log data. Clones name the same cache.
#[derive(Clone, Default)]
pub struct Cache(Rc<Inner>);

impl Cache {
    /// An empty cache that gives its memory up when `memory` runs out.
    pub fn new(memory: &Memory) -> Cache {
        let account = Some(memory.account());
        let cache = Cache(Rc::new(Inner { memory: Some(memory.clone()), account, ..Inner::default() }));
        let weak = Rc::downgrade(&cache.0);
        memory.set_reclaim(Rc::new(move |wanted| {
            let Some(inner) = weak.upgrade() else { return };
            let bytes = match wanted {
                Wanted::Any(bytes) => bytes,
                Wanted::Large(bytes) => return Cache(inner).reclaim_large(bytes),
            };
            // What was taken above the budget has to come back too, or whoever asks would wait for nothing.
            let above = inner.memory.as_ref().map_or(0, |m| (m.used() + bytes).saturating_sub(m.budget()));
            Cache(inner).reclaim(above);
        }));
        cache
    }

    /// Leaves most of so many descriptors to all else.
    pub fn set_descriptors(&self, descriptors: usize) {
        self.0.open_max.set((descriptors / 4).clamp(1, OPEN_MAX));
    }

    /// Bytes in spans that could be given up.
    pub fn bytes(&self) -> usize {
        self.0.bytes.get()
    }

    /// Gives up at least `bytes`, if there are as many. Slices of them that are still being sent keep their memory until then.
    pub fn reclaim(&self, bytes: usize) {
        let freed = self.reclaim_from(&self.0.large, bytes);
        self.reclaim_from(&self.0.entries, bytes.saturating_sub(freed));
    }

    /// As [`Cache::reclaim`], of mappings larger than a region.
    fn reclaim_large(&self, bytes: usize) {
        if self.reclaim_from(&self.0.large, bytes) >= bytes {
            return;
        }
        // The others may be among those that take appends.
        let entries = std::mem::take(&mut *self.0.entries.borrow_mut());
        let (active, others): (VecDeque<Entry>, VecDeque<Entry>) = entries.into_iter().partition(|entry| entry.key.is_none());
        *self.0.entries.borrow_mut() = others;
        let active = RefCell::new(active);
        self.reclaim_from(&active, bytes);
        self.0.entries.borrow_mut().extend(active.into_inner());
    }

    /// The bytes that were freed.
    fn reclaim_from(&self, entries: &RefCell<VecDeque<Entry>>, bytes: usize) -> usize {
        let mut freed = 0;
        // Twice round: the first pass only takes the marks of recent reading away.
        let mut visits = 2 * entries.borrow().len();
        while freed < bytes && visits > 0 {
            visits -= 1;
            let Some(entry) = entries.borrow_mut().pop_front() else { break };
            let Some(holder) = entry.holder.upgrade() else { continue };
            let visit = entry.key.map_or_else(|| holder.visit_active(), |key| holder.visit(key));
            match visit {
                Visit::Keep => entries.borrow_mut().push_back(entry),
                Visit::Gone(n) => {
                    freed += n;
                    self.forget(n);
                }
                Visit::GaveUp(n) => freed += n,
            }
        }
        freed
    }

    /// Called when spans have become ones that could be given up. Who waits for memory looks again only when some comes back.
    pub(super) fn relieve(&self) {
        if self.0.memory.as_ref().is_some_and(Memory::contended) {
            self.reclaim(1);
        }
    }

    /// Where the cold reads of one core wait for their turn at the device.
    pub(super) fn cold_reads(&self) -> &Gate {
        &self.0.cold_reads
    }

    /// Removals of large files of this core.
    pub(super) fn removals(&self) -> &Gate {
        &self.0.removals
    }

    /// Takes a span into account.
    pub(super) fn insert(&self, holder: Weak<dyn Holder>, key: Offset, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get() + bytes);
        let entries = if bytes > REGION { &self.0.large } else { &self.0.entries };
        entries.borrow_mut().push_back(Entry { holder, key: Some(key) });
    }

    /// Takes note of a log with a span that takes appends: it is asked for that when memory is short.
    pub(super) fn insert_active(&self, holder: Weak<dyn Holder>) {
        self.0.entries.borrow_mut().push_back(Entry { holder, key: None });
    }

    /// One more log has an append chunk, for as long as the seat lives.
    pub(super) fn seat(&self) -> Seat {
        self.0.active.set(self.0.active.get() + 1);
        Seat(self.0.clone())
    }

    /// Logs with an append chunk.
    pub(super) fn active(&self) -> usize {
        self.0.active.get()
    }

    /// The largest append chunk that a log may have, so that all of them together leave half of the memory to everything else.
    pub(super) fn chunk_share(&self) -> usize {
        self.0.memory.as_ref().map_or(usize::MAX, |memory| memory.budget() / 2 / self.0.active.get().max(1))
    }

    /// Takes note of a complete segment that is open, for as long as the result lives.
    pub(super) fn open(&self, holder: Weak<dyn Holder>, base: Offset, index_bytes: usize) -> Opened {
        let last_use = self.0.use_number();
        self.0.count_index(0, index_bytes);
        self.0.open.borrow_mut().insert(last_use, Kept { holder, base, index_bytes });
        Opened { cache: self.0.clone(), last_use: Cell::new(last_use) }
    }

    /// Closes the segments that were not used for longest, as many as are too many.
    pub(super) fn close_unused(&self) {
        let index_max = self.0.memory.as_ref().map_or(usize::MAX, |memory| memory.budget() / INDEX_SHARE);
        self.close_while(|open, index_bytes| open > self.0.open_max.get() || open > 1 && index_bytes > index_max);
    }

    /// Closes all of them: there is no descriptor left. Whether there were any.
    pub(super) fn close_all(&self) -> bool {
        let before = self.0.open.borrow().len();
        self.close_while(|open, _| open > 0);
        self.0.open.borrow().len() < before
    }

    fn close_while(&self, too_many: impl Fn(usize, usize) -> bool) {
        let mut after = None;
        while too_many(self.0.open.borrow().len(), self.0.index_bytes.get()) {
            let oldest = {
                let open = self.0.open.borrow();
                let mut later = open.range(after.map_or(0, |after: u64| after + 1)..);
                later.next().map(|(at, kept)| (*at, kept.holder.clone(), kept.base))
            };
            let Some((at, holder, base)) = oldest else { return };
            // Those in use stay, and are passed over.
            after = Some(at);
            if let Some(holder) = holder.upgrade() {
                holder.close_segment(base);
            }
        }
    }

    /// Complete segments that are open.
    #[cfg(test)]
    pub(super) fn open_segments(&self) -> usize {
        self.0.open.borrow().len()
    }

    /// How many entries the cache keeps.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.entries.borrow().len() + self.0.large.borrow().len()
    }

    /// `bytes` of spans went without being asked.
    pub(super) fn forget(&self, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get().saturating_sub(bytes));
    }

    /// Drops the entries of holders that are gone.
    pub(super) fn sweep(&self) {
        for entries in [&self.0.entries, &self.0.large] {
            entries.borrow_mut().retain(|entry| entry.holder.strong_count() > 0);
        }
    }
}
