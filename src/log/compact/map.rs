//! The last offset of each key, in bounded memory.
//!
//! As in Kafka a key is known by 16 bytes of hash, so that keys of any size cost the same. The hash is keyed at random for each map:
//! nobody can choose keys that are taken for one another.

use std::hash::{DefaultHasher, Hasher};

use crate::base::ids::Offset;

/// Parts of the table, chosen by the hash. Each grows by itself, so that no single growth takes long.
const PARTS: usize = 256;
/// Slots of a part when it gets its first key.
const FIRST_SLOTS: usize = 16;
const SLOT: usize = size_of::<Slot>();

#[derive(Clone, Copy)]
struct Slot {
    hash: (u64, u64),
    /// -1: free.
    offset: Offset,
}

const FREE: Slot = Slot { hash: (0, 0), offset: -1 };

#[derive(Clone, Default)]
struct Part {
    slots: Vec<Slot>,
    used: usize,
}

/// Keys and their last offsets: Kafka's `SkimpyOffsetMap`.
pub struct OffsetMap {
    parts: Vec<Part>,
    seed: [u64; 4],
    bytes: usize,
    max_bytes: usize,
    load_ppm: u64,
    len: usize,
}

impl OffsetMap {
    /// An empty map that takes at most about `max_bytes` (at least a few hundred KiB are of use), with slots filled up to `load_ppm`
    /// millionths (1 to 1,000,000). `seed` is random.
    pub fn new(max_bytes: usize, load_ppm: u32, seed: [u8; 32]) -> OffsetMap {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(seed.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        OffsetMap { parts: vec![Part::default(); PARTS], seed: words, bytes: 0, max_bytes, load_ppm: load_ppm.into(), len: 0 }
    }

    /// Keys in the map.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of its table.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that `key` is at `offset`, which is not below the offsets noted before. False, and nothing noted, when the map is full.
    pub fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        let part = &mut self.parts[hash.0 as usize % PARTS];
        if let Some(slot) = part.find(hash).filter(|at| part.slots[*at].offset >= 0) {
            part.slots[slot].offset = offset;
            return true;
        }
        // One slot is always left free: searches end there.
        let fits =
            |part: &Part| (part.used + 1) as u64 * 1_000_000 <= part.slots.len() as u64 * self.load_ppm && part.used + 1 < part.slots.len();
        while !fits(part) {
            let more = (part.slots.len() / 2).max(FIRST_SLOTS);
            if self.bytes + more * SLOT > self.max_bytes {
                return false;
            }
            part.grow(more);
            self.bytes += more * SLOT;
        }
        let Some(slot) = part.find(hash) else { return false };
        part.slots[slot] = Slot { hash, offset };
        part.used += 1;
        self.len += 1;
        true
    }

    /// The last offset of `key`.
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        let hash = self.hash(key);
        let part = &self.parts[hash.0 as usize % PARTS];
        part.find(hash).map(|at| part.slots[at].offset).filter(|offset| *offset >= 0)
    }

    fn hash(&self, key: &[u8]) -> (u64, u64) {
        let half = |seed: &[u64]| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(seed[0]);
            hasher.write_u64(seed[1]);
            hasher.write(key);
            hasher.finish()
        };
        (half(&self.seed[..2]), half(&self.seed[2..]))
    }
}

impl Part {
    /// The slot of a hash, or the free one where it belongs; `None` without any slot.
    fn find(&self, hash: (u64, u64)) -> Option<usize> {
        let count = self.slots.len();
        if count == 0 {
            return None;
        }
        let mut at = ((u128::from(hash.1) * count as u128) >> 64) as usize;
        while self.slots[at].offset >= 0 && self.slots[at].hash != hash {
            at = if at + 1 == count { 0 } else { at + 1 };
        }
        Some(at)
    }

    fn grow(&mut self, more: usize) {
        let larger = vec![FREE; self.slots.len() + more];
        for slot in std::mem::replace(&mut self.slots, larger) {
            if slot.offset >= 0
                && let Some(at) = self.find(slot.hash)
            {
                self.slots[at] = slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::collections::HashMap;

    #[test]
    fn it_is_a_map() {
        let mut random = Prng::new(3);
        let mut map = OffsetMap::new(4 << 20, 900_000, [5; 32]);
        let mut model = HashMap::new();
        for offset in 0..60_000 {
            let key = random.below(20_000).to_string();
            assert!(map.put(key.as_bytes(), offset));
            model.insert(key, offset);
        }
        assert_eq!(map.len(), model.len());
        assert!(map.bytes() < 20_000 * SLOT * 5 / 2);
        for key in 0..25_000u64 {
            let key = key.to_string();
            assert_eq!(map.get(key.as_bytes()), model.get(&key).copied());
        }
    }

    #[test]
    fn it_is_bounded() {
        for (max_bytes, load_ppm) in
            [(1 << 20, 900_000), (1 << 20, 1_000_000), (300_000, 500_000), (100, 900_000), (PARTS * FIRST_SLOTS * SLOT, 1)]
        {
            let mut map = OffsetMap::new(max_bytes, load_ppm, [1; 32]);
            let mut taken = 0;
            for key in 0..100_000i64 {
                if map.put(&key.to_be_bytes(), key) {
                    taken += 1;
                } else {
                    assert_eq!(map.get(&key.to_be_bytes()), None);
                }
            }
            assert!(map.bytes() <= max_bytes && map.len() == taken && taken <= max_bytes / SLOT);
            // A key that is known can always be updated.
            let known = (0..100_000i64).find(|key| map.get(&key.to_be_bytes()).is_some());
            assert!(known.is_none_or(|key| map.put(&key.to_be_bytes(), 1 << 40) && map.get(&key.to_be_bytes()) == Some(1 << 40)));
            assert!(taken > 0 || max_bytes < 1000 || load_ppm == 1);
        }
    }
}
