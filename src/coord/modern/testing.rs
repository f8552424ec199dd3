//! A cluster's topics for tests.

use std::collections::BTreeMap;

use super::topics::Topics;
use crate::base::ids::TopicId;

/// Topics that tests put and remove.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    topics: BTreeMap<String, (TopicId, i32)>,
    version: i64,
}

impl Cluster {
    /// A new topic, or more partitions.
    pub fn put(&mut self, name: &str, id: TopicId, partitions: i32) {
        self.topics.insert(name.to_owned(), (id, partitions));
        self.version += 1;
    }

    /// A topic's end.
    pub fn remove(&mut self, name: &str) {
        self.topics.remove(name);
        self.version += 1;
    }
}

impl Topics for Cluster {
    fn version(&self) -> i64 {
        self.version
    }

    fn by_name(&self, name: &str) -> Option<(TopicId, i32)> {
        self.topics.get(name).copied()
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.topics.keys().map(String::as_str))
    }
}
