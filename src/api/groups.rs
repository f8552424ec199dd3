//! What the APIs of groups share.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::base::time::Now;
use crate::cluster::controller::{self, NewTopic};
use crate::cluster::image::{Image, Topic};
use crate::cluster::record::MetadataRecord;
use crate::cluster::view::BrokerView;
use crate::coord::{Name, OFFSETS_TOPIC};
use crate::wire::codec::StrBytes;

/// Everything that can be done with a group, as there is no authorizer: Read, Delete, Describe, DescribeConfigs, AlterConfigs.
pub(super) const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

/// A text of a request as a name that outlives it.
pub(super) fn name(text: &StrBytes) -> Name {
    text.as_str().into()
}

/// Likewise one that may be missing.
pub(super) fn maybe_name(text: &Option<StrBytes>) -> Option<Name> {
    text.as_ref().map(name)
}

pub(super) fn text(name: &Name) -> StrBytes {
    (&**name).into()
}

pub(super) fn maybe_text(name: &Option<Name>) -> Option<StrBytes> {
    name.as_ref().map(text)
}

/// The APIs of members have no group without a name; those of offsets do.
pub(super) fn named(group: &StrBytes) -> Result<(), ErrorCode> {
    if group.is_empty() { Err(ErrorCode::InvalidGroupId) } else { Ok(()) }
}

/// Takes out what is named twice: told again and again, a large group would fill the memory.
pub fn distinct<T>(groups: &mut Vec<T>, name: impl Fn(&T) -> &StrBytes) {
    let mut seen = BTreeSet::new();
    groups.retain(|group| seen.insert(name(group).clone()));
}

/// An address as Java shows it, which is what groups remember of their members.
pub fn client_host(address: IpAddr) -> Name {
    match address {
        IpAddr::V4(v4) => format!("/{v4}").into(),
        IpAddr::V6(v6) => format!("/{}", v6.segments().map(|s| format!("{s:x}")).join(":")).into(),
    }
}

/// The topic that a request names, by id from the version on that has ids.
pub(super) fn find_topic<'a>(image: &'a Image, by_id: bool, name: &StrBytes, id: Uuid) -> Result<&'a Topic, ErrorCode> {
    let (found, missing) =
        if by_id { (image.topic_by_id(id), ErrorCode::UnknownTopicId) } else { (image.topic(name), ErrorCode::UnknownTopicOrPartition) };
    found.map(|topic| &**topic).ok_or(missing)
}

/// The records that create the topic of the coordinators' state; none if it is there.
pub fn create_offsets_topic(image: &Image, broker: &BrokerView, now: Now, random: &mut dyn FnMut() -> [u8; 16]) -> Vec<MetadataRecord> {
    let segment_bytes = broker.offsets_topic.segment_bytes.to_string();
    let configs = [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", segment_bytes.as_str())];
    let wanted = NewTopic {
        partitions: broker.offsets_topic.partitions,
        replication_factor: broker.offsets_topic.replication_factor.min(BROKERS),
        configs: configs.map(|(key, value)| (key, Some(value))).to_vec(),
        ..NewTopic::with_defaults(OFFSETS_TOPIC)
    };
    controller::create_topics(image, broker, now, &[wanted], random).into_iter().filter_map(|topic| Some(topic.ok()?.record)).collect()
}

/// How many brokers there are to have replicas.
const BROKERS: i16 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image};

    #[test]
    fn addresses_as_java_shows_them() {
        assert_eq!(&*client_host("127.0.0.1".parse().unwrap()), "/127.0.0.1");
        assert_eq!(&*client_host("::1".parse().unwrap()), "/0:0:0:0:0:0:0:1");
    }

    #[test]
    fn each_group_once() {
        let mut groups: Vec<StrBytes> = vec!["a".into(), "b".into(), "a".into()];
        distinct(&mut groups, |group| group);
        assert_eq!(groups, ["a".into(), "b".into()]);
    }

    #[test]
    fn the_topic_is_made_once() {
        let broker = broker(&[]);
        let mut image = image(&broker, &[]);
        let records = create_offsets_topic(&image, &broker, Now::default(), &mut || [9; 16]);
        records.iter().for_each(|record| image.apply(0, record));
        let topic = image.topic(OFFSETS_TOPIC).unwrap();
        assert_eq!((topic.partitions.len(), topic.config.compact, topic.config.segment_bytes), (50, true, 100 << 20));
        assert!(create_offsets_topic(&image, &broker, Now::default(), &mut || [8; 16]).is_empty());
    }
}
