//! A fast hash for maps whose keys clients cannot choose.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map from ids that brokers make, such as topic ids, which are random. Never one from what a
/// client sends: it could choose keys that collide.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiplies and rotates, a few cycles for a topic id and a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

/// Odd, with bits all over: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl IdHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| self.add(u64::from(*byte)));
    }

    fn write_i32(&mut self, n: i32) {
        self.add(u64::from(n.cast_unsigned()));
    }

    fn write_u64(&mut self, n: u64) {
        self.add(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.add(n as u64);
    }

    /// Maps use the lowest bits; a product has its best bits at the top.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;
    use crate::base::ids::Uuid;

    #[test]
    fn partitions_of_a_topic_spread_over_the_buckets() {
        let topic = Uuid::from_random(*b"0123456789abcdef");
        let hashes = (0..4096).map(|partition: i32| {
            let mut hasher = IdHasher::default();
            (topic, partition).hash(&mut hasher);
            hasher.finish()
        });
        let (mut low, mut high) = (vec![0; 256], vec![0; 128]);
        for hash in hashes {
            low[(hash & 255) as usize] += 1;
            high[(hash >> 57) as usize] += 1;
        }
        assert!(low.iter().all(|n| (4..=40).contains(n)), "16 each: {low:?}");
        assert!(high.iter().all(|n| (8..=80).contains(n)), "32 each: {high:?}");
    }
}
