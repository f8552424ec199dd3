//! Keys and where they go: which share of the batches each partition gets when records are keyed, as Kafka's default partitioner has it.

use std::sync::Arc;

use corelane::base::prng::Prng;

/// Bytes of a key.
pub const KEY: usize = 8;

/// The key number `index`.
pub fn key(index: usize) -> [u8; KEY] {
    let mut key = *b"k0000000";
    let mut left = index;
    for digit in key[1..].iter_mut().rev() {
        *digit += (left % 10) as u8;
        left /= 10;
    }
    key
}

/// The share of each of `partitions` when `keys` keys are used, key k with weight 1 / (k + 1)^skew (Zipf's law; 0: all alike).
pub fn shares(keys: usize, skew: f64, partitions: usize) -> Arc<[f64]> {
    let mut shares = vec![0.0; partitions];
    for index in 0..keys {
        shares[(murmur2(&key(index)) & 0x7fff_ffff) as usize % partitions] += ((index + 1) as f64).powf(-skew);
    }
    let total: f64 = shares.iter().sum();
    shares.iter().map(|share| share / total).collect()
}

/// Draws numbers by shares.
pub struct Draw {
    cumulative: Vec<f64>,
    random: Prng,
}

impl Draw {
    /// Among the numbers below `shares`' length, in proportion to them.
    pub fn new(shares: impl Iterator<Item = f64>, seed: u64) -> Self {
        let sum = shares.scan(0.0, |sum, share| {
            *sum += share;
            Some(*sum)
        });
        Self { cumulative: sum.collect(), random: Prng::new(seed) }
    }

    pub fn next(&mut self) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let point = total * self.random.below(1 << 53) as f64 / (1_u64 << 53) as f64;
        self.cumulative.partition_point(|end| *end <= point).min(self.cumulative.len() - 1)
    }
}

/// The hash of Kafka's default partitioner (org.apache.kafka.common.utils.Utils.murmur2).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        for (shift, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * shift);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}
