//! What the logs of one core keep in memory beyond what is still to be written: bounded by the core's memory, least recently read goes first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::files::REMOVALS;
use super::read::{COLD_READS, Gate};
use crate::base::ids::Offset;
use crate::base::limits::REGION;
use crate::rt::mem::{Memory, Wanted};

/// Whoever holds cached spans.
pub(super) trait Holder {
    /// The span's fate: it is dropped when nothing of it is to be written and it was not read since the last call.
    fn visit(&self, key: Offset) -> Visit;
    /// The fate of the span that takes appends: it is given up when nothing of it is to be written. After [`Visit::Gone`] and
    /// [`Visit::GaveUp`] the holder is not asked again until it calls [`Cache::insert_active`].
    fn visit_active(&self) -> Visit;
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
}

impl Default for Inner {
    fn default() -> Inner {
        let (cold_reads, removals) = (Gate::new(COLD_READS), Gate::new(REMOVALS));
        let large = RefCell::default();
        Inner { entries: RefCell::default(), large, bytes: Cell::new(0), active: Cell::new(0), memory: None, cold_reads, removals }
    }
}

/// Counts a log as one with an append chunk.
pub(super) struct Seat(Rc<Inner>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// One core's cache of log data. Clones name the same cache.
#[derive(Clone, Default)]
pub struct Cache(Rc<Inner>);

impl Cache {
    /// An empty cache that gives its memory up when `memory` runs out.
    pub fn new(memory: &Memory) -> Cache {
        let cache = Cache(Rc::new(Inner { memory: Some(memory.clone()), ..Inner::default() }));
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
