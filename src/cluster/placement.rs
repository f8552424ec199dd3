//! Which core of a node owns a partition.

use crate::base::ids::TopicId;

/// The core, in `0..cores`, that owns a partition: always the same for the same arguments; the partitions of a topic go round the cores,
/// starting at one that depends on the topic, so that many topics of one partition spread as well. `cores` is at least 1.
pub fn owner(topic: TopicId, partition: i32, cores: usize) -> usize {
    // Ids are random, so any of their bits are a hash; the low half has no version bits.
    let start = u64::from_be_bytes(topic.0[8..].try_into().expect("8 bytes"));
    let cores = cores as u64;
    ((start % cores + partition as u32 as u64) % cores) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ids::Uuid, prng::Prng};

    #[test]
    fn partitions_go_round_and_topics_spread() {
        let mut random = Prng::new(1);
        for cores in [1, 2, 3, 7, 64] {
            let mut first = vec![0; cores];
            for _ in 0..1000 {
                let mut bytes = [0; 16];
                random.fill(&mut bytes);
                let id = Uuid::from_random(bytes);
                let owners: Vec<usize> = (0..cores as i32).map(|p| owner(id, p, cores)).collect();
                let mut sorted = owners.clone();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..cores));
                first[owners[0]] += 1;
            }
            let last = Uuid([255; 16]);
            assert!((0..cores as i32).all(|p| owner(last, p, cores) < cores), "no id is too large");
            let fair = 1000 / cores;
            assert!(first.iter().all(|&n| n <= fair * 2 + 10), "{cores}: {first:?}");
        }
    }
}
