//! What a group needs to know of the cluster's topics.

use std::collections::BTreeSet;

use twox_hash::XxHash3_64;

use crate::base::ids::TopicId;

/// The cluster's topics at one moment.
pub trait Topics {
    /// Grows with every change of the metadata.
    fn version(&self) -> i64;
    /// Id and number of partitions of a topic.
    fn by_name(&self, name: &str) -> Option<(TopicId, i32)>;
    /// Whether a topic of this name and id has the partition.
    fn has(&self, name: &str, id: TopicId, partition: i32) -> bool {
        self.by_name(name).is_some_and(|(known, partitions)| known == id && (0..partitions).contains(&partition))
    }
    /// All names, sorted.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;
}

/// Version of the hash's input (Kafka's `TOPIC_HASH_MAGIC_BYTE`).
const TOPIC_HASH_VERSION: u8 = 0;

/// Hash of what an assignment of these topics depends on: ids, names, numbers of partitions (KIP-1101). A group whose hash differs from the
/// one in its log needs a new assignment. Topics that do not exist count for nothing; without any it is 0. The same number as that of a
/// Kafka whose brokers have no racks.
pub fn metadata_hash<'a>(names: impl IntoIterator<Item = &'a str>, topics: &dyn Topics) -> i64 {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let hashes: Vec<u8> = names.iter().filter_map(|name| topic_hash(name, topics)).flat_map(u64::to_le_bytes).collect();
    if hashes.is_empty() { 0 } else { XxHash3_64::oneshot(&hashes) as i64 }
}

fn topic_hash(name: &str, topics: &dyn Topics) -> Option<u64> {
    let (id, partitions) = topics.by_name(name)?;
    let mut input = vec![TOPIC_HASH_VERSION];
    // Kafka hands the id over as two numbers, and numbers enter the hash with the lowest byte first.
    input.extend(id.0[..8].iter().rev());
    input.extend(id.0[8..].iter().rev());
    put_text(&mut input, name);
    input.extend(partitions.to_le_bytes());
    (0..partitions).for_each(|partition| input.extend(partition.to_le_bytes()));
    Some(XxHash3_64::oneshot(&input))
}

/// A Java string as Kafka's hash library takes it: its UTF-16 units, then how many.
fn put_text(input: &mut Vec<u8>, text: &str) {
    let before = input.len();
    input.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    let units = (input.len() - before) / 2;
    input.extend((units as i32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coord::modern::testing::Cluster;

    /// The numbers are those of Kafka's own hash library.
    #[test]
    fn the_hash_is_kafkas() {
        let id = crate::base::ids::Uuid([0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
        let mut cluster = Cluster::default();
        cluster.put("orders", id, 3);
        assert_eq!(topic_hash("orders", &cluster), Some(-3631099842061097785i64 as u64));
        assert_eq!(metadata_hash(["orders", "gone"], &cluster), 4375729222792458428);
        assert_eq!(metadata_hash(["gone"], &cluster), 0);
        assert_eq!(metadata_hash([], &cluster), 0);
        cluster.put("é-topics", id, 30);
        assert_eq!(topic_hash("é-topics", &cluster), Some(-2282249215313633644i64 as u64));
    }
}
