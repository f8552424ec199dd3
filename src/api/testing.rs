//! What the tests of the APIs share: a broker, an image, and every version's encoding.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::ids::Uuid;
use crate::cluster::image::Image;
use crate::cluster::record::MetadataRecord;
use crate::cluster::settings::BrokerSettings;
use crate::cluster::view::{BrokerView, Endpoint};
use crate::wire::codec::{self, Message};
use crate::wire::versions::ApiKey;

/// Broker 1 with two listeners and these settings.
pub fn broker(settings: &[(&str, &str)]) -> BrokerView {
    let endpoint = |listener: &str, host: &str, port| Endpoint { listener: listener.into(), host: host.into(), port };
    BrokerView {
        cluster_id: "the-cluster".into(),
        rack: Some("r1".into()),
        endpoints: vec![endpoint("PLAINTEXT", "inside", 9092), endpoint("OUTSIDE", "outside.example", 19092)],
        settings: Arc::new(settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<BTreeMap<_, _>>()),
        num_partitions: 2,
        ..BrokerView::example()
    }
}

/// An image with the given topics: name, id byte, partitions.
pub fn image(broker: &BrokerView, topics: &[(&str, u8, usize)]) -> Image {
    let mut image = Image::new(BrokerSettings::new(broker.node_id, broker.settings.clone()));
    for (at, &(name, id, partitions)) in topics.iter().enumerate() {
        let leader_epochs = vec![4; partitions];
        let configs = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
        image.apply(at as i64, &MetadataRecord::Topic { id: [id; 16], name: name.into(), leader_epochs, configs, created_ms: 0 });
    }
    image
}

/// The id that [`image`] gave.
pub fn id(byte: u8) -> Uuid {
    Uuid([byte; 16])
}

/// Encodes and decodes a response in every version that clients may ask for; the function makes the response for a version. The newest
/// version must lose nothing.
pub fn in_every_version<M: Message + PartialEq + std::fmt::Debug>(key: ApiKey, response: impl Fn(i16) -> M) {
    for version in key.accepted() {
        let made = response(version);
        let bytes = codec::encode(&made, version).unwrap_or_else(|error| panic!("version {version}: {error}"));
        let read: M = codec::decode(bytes, version).unwrap_or_else(|error| panic!("version {version}: {error}"));
        if version == *key.accepted().end() {
            assert_eq!(read, made);
        }
    }
}
