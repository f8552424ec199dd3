//! Batches on their way from the connections of one core to the disks.
//!
//! A partition, and a disk, may have so many bytes on their way. Whoever wants to add to a full one
//! waits, and all others go on: a disk that stalls costs its own partitions only. Which disk a
//! partition is on is learned from its first answer; until then it has one request on its way.

use std::collections::VecDeque;
use std::time::Duration;

use slab::Slab;

use crate::base::hash::IdMap;
use crate::shard::op::Key;

/// Bytes that may be on their way.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To one partition.
    pub partition: usize,
    /// To one disk.
    pub disk: usize,
}

/// What one item has on its way; to be given back with [`Backlog::release`].
#[derive(Debug)]
pub struct Held {
    slot: u32,
    bytes: u32,
    /// The bytes are counted for the disk as well.
    on_disk: bool,
}

/// What has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// A partition.
    Partition(u32),
    /// A disk.
    Disk(u16),
}

/// Bytes on their way to one partition.
struct Slot<W> {
    key: Key,
    bytes: usize,
    disk: Option<u16>,
    waiting: VecDeque<W>,
    /// Since the last [`Backlog::forget_unused`].
    used: bool,
}

/// Bytes on their way to one disk.
struct Disk<W> {
    bytes: usize,
    /// When it last finished something, or began to have something to do.
    progressed: Duration,
    waiting: VecDeque<W>,
}

/// Everything on its way from one core. `W` is who waits for room.
pub struct Backlog<W> {
    limits: Limits,
    slots: Slab<Slot<W>>,
    by_key: IdMap<Key, u32>,
    /// By number.
    disks: Vec<Disk<W>>,
}

impl<W> Backlog<W> {
    /// Nothing on its way.
    pub fn new(limits: Limits) -> Backlog<W> {
        Backlog { limits, slots: Slab::new(), by_key: IdMap::default(), disks: Vec::new() }
    }

    /// Counts items, by partition and bytes, or says what has no room; then nothing is counted.
    /// `woken`: whoever asks has waited and been woken, and need not stand behind those who wait.
    pub fn reserve(&mut self, items: impl ExactSizeIterator<Item = (Key, usize)>, woken: bool, now: Duration) -> Result<Vec<Held>, Full> {
        let mut held = Vec::with_capacity(items.len());
        for (key, bytes) in items {
            let slot = self.slot(key);
            self.check(slot, woken)?;
            held.push(Held { slot, bytes: bytes as u32, on_disk: false });
        }
        held.iter_mut().for_each(|held| self.add(held, now));
        Ok(held)
    }

    /// Where a partition is counted.
    fn slot(&mut self, key: Key) -> u32 {
        let slots = &mut self.slots;
        *self.by_key.entry(key).or_insert_with(|| {
            let (waiting, disk) = (VecDeque::new(), None);
            slots.insert(Slot { key, bytes: 0, disk, waiting, used: true }) as u32
        })
    }

    fn check(&self, at: u32, woken: bool) -> Result<(), Full> {
        let slot = &self.slots[at as usize];
        let behind = |waiting: &VecDeque<W>| !woken && !waiting.is_empty();
        let limit = if slot.disk.is_some() { self.limits.partition } else { 1 };
        if slot.bytes >= limit || behind(&slot.waiting) {
            return Err(Full::Partition(at));
        }
        let Some(number) = slot.disk else { return Ok(()) };
        let disk = &self.disks[usize::from(number)];
        let full = disk.bytes >= self.limits.disk || behind(&disk.waiting);
        if full { Err(Full::Disk(number)) } else { Ok(()) }
    }

    fn add(&mut self, held: &mut Held, now: Duration) {
        let slot = &mut self.slots[held.slot as usize];
        slot.bytes += held.bytes as usize;
        slot.used = true;
        let Some(number) = slot.disk else { return };
        let disk = &mut self.disks[usize::from(number)];
        if disk.bytes == 0 {
            disk.progressed = now;
        }
        disk.bytes += held.bytes as usize;
        held.on_disk = true;
    }

    /// Gives back what an item had; `disk` is where its partition is, if the answer told. Who may
    /// try again now is added to `woken`.
    pub fn release(&mut self, held: Held, disk: Option<u16>, now: Duration, woken: &mut Vec<W>) {
        let Held { slot: at, bytes, on_disk } = held;
        let slot = &mut self.slots[at as usize];
        slot.bytes -= bytes as usize;
        // All at once, and not before there is room for several.
        if slot.bytes <= self.limits.partition / 2 {
            woken.extend(slot.waiting.drain(..));
        }
        if let Some(number) = slot.disk.filter(|_| on_disk) {
            let disk = &mut self.disks[usize::from(number)];
            disk.bytes -= bytes as usize;
            disk.progressed = now;
            if disk.bytes <= self.limits.disk / 2 {
                woken.extend(disk.waiting.drain(..));
            }
        }
        // What is on its way was counted for the disk that was known then.
        if slot.bytes == 0
            && let Some(number) = disk
        {
            slot.disk = disk;
            let disks = self.disks.len().max(usize::from(number) + 1);
            self.disks.resize_with(disks, Disk::idle);
        }
    }

    /// Has somebody wait for room.
    pub fn wait(&mut self, full: Full, who: W) {
        match full {
            Full::Partition(at) => self.slots[at as usize].waiting.push_back(who),
            Full::Disk(number) => self.disks[usize::from(number)].waiting.push_back(who),
        }
    }

    /// Takes somebody back who waits no longer.
    pub fn cancel(&mut self, gone: impl Fn(&W) -> bool) {
        self.slots.iter_mut().for_each(|(_, slot)| slot.waiting.retain(|who| !gone(who)));
        self.disks.iter_mut().for_each(|disk| disk.waiting.retain(|who| !gone(who)));
    }

    /// For how long nothing has moved where there is no room.
    pub fn stalled(&self, full: Full, now: Duration) -> Duration {
        let disk = match full {
            Full::Partition(at) => self.slots[at as usize].disk,
            Full::Disk(number) => Some(number),
        };
        let progressed = disk.map(|number| self.disks[usize::from(number)].progressed);
        progressed.map_or(Duration::ZERO, |progressed| now.saturating_sub(progressed))
    }

    /// Forgets partitions that nothing was sent to since the last call.
    pub fn forget_unused(&mut self) {
        let by_key = &mut self.by_key;
        self.slots.retain(|_, slot| {
            let keep = std::mem::take(&mut slot.used) || slot.bytes > 0 || !slot.waiting.is_empty();
            if !keep {
                by_key.remove(&slot.key);
            }
            keep
        });
    }
}

impl<W> Disk<W> {
    fn idle() -> Disk<W> {
        Disk { bytes: 0, progressed: Duration::ZERO, waiting: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Uuid;
    use crate::base::prng::Prng;

    const LIMITS: Limits = Limits { partition: 100, disk: 250 };

    fn key(n: u8) -> Key {
        (Uuid([n; 16]), 0)
    }

    fn reserve(backlog: &mut Backlog<u32>, n: u8, bytes: usize) -> Result<Held, Full> {
        let held = backlog.reserve([(key(n), bytes)].into_iter(), false, Duration::ZERO);
        held.map(|mut held| held.remove(0))
    }

    fn release(backlog: &mut Backlog<u32>, held: Held, disk: u16) -> Vec<u32> {
        let mut woken = Vec::new();
        backlog.release(held, Some(disk), Duration::ZERO, &mut woken);
        woken
    }

    #[test]
    fn a_full_disk_and_a_full_partition_cost_no_other() {
        let mut backlog = Backlog::new(LIMITS);
        for (n, disk) in [(1, 0), (2, 0), (3, 0), (4, 0), (5, 1)] {
            let first = reserve(&mut backlog, n, 10).unwrap();
            assert!(reserve(&mut backlog, n, 10).is_err(), "its disk is not known yet");
            release(&mut backlog, first, disk);
        }
        let held: Vec<Held> = (1..=3).map(|n| reserve(&mut backlog, n, 90).unwrap()).collect();
        assert_eq!(reserve(&mut backlog, 4, 1).unwrap_err(), Full::Disk(0));
        let mut last = reserve(&mut backlog, 5, 1000).unwrap();
        let full = reserve(&mut backlog, 5, 1).unwrap_err();
        assert!(matches!(full, Full::Partition(_)), "over the limit by one request, not by more");
        backlog.wait(Full::Disk(0), 7);
        backlog.wait(full, 8);
        let woken: Vec<_> = held.into_iter().map(|h| release(&mut backlog, h, 0)).collect();
        assert_eq!(woken, [vec![], vec![7], vec![]], "once half of the room is free");
        assert_eq!(release(&mut backlog, last, 1), [8]);
        last = reserve(&mut backlog, 5, 1).unwrap();
        release(&mut backlog, last, 1);
        backlog.forget_unused();
        backlog.forget_unused();
        assert!(backlog.slots.is_empty() && backlog.by_key.is_empty());
    }

    #[test]
    fn nobody_waits_for_what_is_free_and_counts_come_back() {
        let mut random = Prng::new(3);
        let mut backlog: Backlog<u32> = Backlog::new(LIMITS);
        let (mut on_way, mut waiting) = (Vec::new(), 0);
        for who in 0..20_000u32 {
            if random.chance(1, 2) {
                let items: Vec<(Key, usize)> =
                    (0..1 + random.below(3)).map(|_| (key(random.below(8) as u8), 1 + random.below(60) as usize)).collect();
                match backlog.reserve(items.iter().copied(), random.chance(1, 4), Duration::ZERO) {
                    Ok(held) => on_way.extend(items.into_iter().zip(held)),
                    Err(full) => {
                        backlog.wait(full, who);
                        waiting += 1;
                    }
                }
            } else if !on_way.is_empty() {
                let at = random.below(on_way.len() as u64) as usize;
                let ((key, _), held) = on_way.swap_remove(at);
                let disk = u16::from(key.0.0[0] % 2);
                waiting -= release(&mut backlog, held, disk).len();
            }
            for (_, slot) in &backlog.slots {
                let sum = on_way.iter().filter(|((k, _), _)| *k == slot.key).map(|((_, b), _)| b);
                assert_eq!(sum.sum::<usize>(), slot.bytes);
                assert!(slot.waiting.is_empty() || slot.bytes > 0);
            }
            assert!(backlog.disks.iter().all(|d| d.waiting.is_empty() || d.bytes > 0));
            if who % 1000 == 0 {
                backlog.forget_unused();
            }
        }
        for ((key, _), held) in on_way {
            waiting -= release(&mut backlog, held, u16::from(key.0.0[0] % 2)).len();
        }
        assert_eq!(waiting, 0, "the last one to go wakes all");
        assert!(backlog.disks.iter().all(|disk| disk.bytes == 0));
    }
}
