//! What the configuration says about this broker, as far as answers and decisions about metadata need it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::ids::BrokerId;

/// Where clients of one listener reach this broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the listener, such as `PLAINTEXT`.
    pub listener: String,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
}

/// This broker in its cluster. Filled once at start, shared by all cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerView {
    /// `node.id`; the controller's too, on a single node.
    pub node_id: BrokerId,
    /// `cluster.id` of meta.properties.
    pub cluster_id: String,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// One for each client listener; never empty.
    pub endpoints: Vec<Endpoint>,
    /// Everything that was set in the configuration, under the broker's names ([`crate::base::config::Config::raw`]).
    pub settings: Arc<BTreeMap<String, String>>,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// Whether `group.coordinator.rebalance.protocols` has the new consumer protocol.
    pub consumer_protocol: bool,
    /// How the topic of the group coordinators is made.
    pub offsets_topic: OffsetsTopic,
    /// Bytes of the heap that all settings which are set at run time may take.
    pub settings_max: usize,
}

/// What `__consumer_offsets` is like when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetsTopic {
    /// `offsets.topic.num.partitions`.
    pub partitions: i32,
    /// `offsets.topic.replication.factor`.
    pub replication_factor: i16,
    /// `offsets.topic.segment.bytes`.
    pub segment_bytes: i32,
}

impl BrokerView {
    /// What clients that came in through `listener` are told to connect to. A listener without an advertised address of its own
    /// gets the first one.
    pub fn endpoint(&self, listener: &str) -> &Endpoint {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener).unwrap_or(&self.endpoints[0])
    }

    /// A broker with Kafka's defaults, but for three partitions a topic.
    #[cfg(test)]
    pub fn example() -> BrokerView {
        BrokerView {
            node_id: 1,
            cluster_id: "test".into(),
            rack: None,
            endpoints: vec![Endpoint { listener: "PLAINTEXT".into(), host: "localhost".into(), port: 9092 }],
            settings: Arc::default(),
            num_partitions: 3,
            default_replication_factor: 1,
            auto_create_topics: true,
            delete_topic_enable: true,
            consumer_protocol: true,
            offsets_topic: OffsetsTopic { partitions: 50, replication_factor: 3, segment_bytes: 100 << 20 },
            settings_max: 32 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_has_its_own_address_or_the_first_one() {
        let port = |listener: &str, port| Endpoint { listener: listener.into(), host: "h".into(), port };
        let endpoints = vec![port("A", 1), port("B", 2), port("C", 3)];
        let broker = BrokerView { endpoints, ..BrokerView::example() };
        assert_eq!(["A", "B", "C", "D"].map(|listener| broker.endpoint(listener).port), [1, 2, 3, 1]);
    }
}
