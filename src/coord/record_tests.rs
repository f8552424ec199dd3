//! Record formats: there and back, damage, and the bytes that Kafka itself writes.

use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = Name> {
    "[a-z-]{0,12}".prop_map(Name::from)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

prop_compose! {
    fn offset()(offset in any::<i64>(), leader_epoch in -1..5i32, metadata in name(), commit_ms in any::<i64>(), expire in any::<bool>(), id in any::<bool>()) -> CommittedOffset {
        // The formats have no room for an expiry time beside an epoch or a topic's id.
        let (leader_epoch, topic_id) = if expire { (-1, Uuid::ZERO) } else { (leader_epoch, if id { Uuid([7; 16]) } else { Uuid::ZERO }) };
        CommittedOffset { offset, leader_epoch, metadata, commit_ms, expire_ms: expire.then_some(commit_ms.saturating_add(5)).filter(|ms| *ms != -1), topic_id }
    }
}

prop_compose! {
    fn member()(member_id in name(), instance_id in prop::option::of(name()), client_id in name(), client_host in name(), rebalance_timeout_ms in 0..9i32,
                session_timeout_ms in 0..9i32, subscription in bytes(), assignment in bytes()) -> MemberMetadata {
        MemberMetadata { member_id, instance_id, client_id, client_host, rebalance_timeout_ms, session_timeout_ms, subscription, assignment }
    }
}

prop_compose! {
    fn generation()(protocol_type in name(), generation in any::<i32>(), protocol in prop::option::of(name()), leader in prop::option::of(name()),
                    state_ms in any::<i64>(), members in prop::collection::vec(member(), 0..4)) -> GroupMetadata {
        GroupMetadata { protocol_type, generation, protocol, leader, state_ms, members }
    }
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (name(), name(), any::<i32>(), prop::option::of(offset())).prop_map(|(group, topic, partition, value)| Record::Offset {
            group,
            topic,
            partition,
            value
        }),
        (name(), prop::option::of(generation())).prop_map(|(group, value)| Record::Group { group, value }),
    ]
}

proptest! {
    #[test]
    fn round_trip(record in record()) {
        let (key, value) = record.encode();
        prop_assert_eq!(Record::decode(Some(&key), value.as_deref()), Ok(Decoded::Known(record)));
    }

    #[test]
    fn damage_is_an_error_or_another_record_never_a_panic(record in record(), at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>()) {
        let (key, value) = record.encode();
        let mut value = value.unwrap_or_else(|| vec![0]);
        let _ = Record::decode(Some(&key), Some(&value[..cut.index(value.len())]));
        let at = at.index(value.len());
        value[at] ^= 1u8 << bit;
        let _ = Record::decode(Some(&key), Some(&value));
        let _ = Record::decode(Some(&key[..cut.index(key.len())]), None);
    }
}

#[test]
fn other_types_are_passed_over() {
    assert_eq!(Record::decode(Some(&[0, 99, 0]), None), Ok(Decoded::Unknown(99)));
    assert_eq!(Record::decode(None, None), Err(BadRecord::NoKey));
    let (key, _) = Record::Group { group: "g".into(), value: None }.encode();
    assert_eq!(Record::decode(Some(&key), Some(&[0, 5])), Err(BadRecord::Version(5)));
}

/// What Kafka 4.3.1 wrote of a group "g1" that has read "t".
#[test]
fn kafkas_own_bytes() {
    let bytes = |hex: &str| -> Vec<u8> { (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect() };
    let both_ways = |key: &str, value: &str| {
        let (key, value) = (bytes(key), bytes(value));
        let Ok(Decoded::Known(record)) = Record::decode(Some(&key), Some(&value)) else { panic!("not read") };
        assert_eq!(record.encode(), (key, Some(value)));
        record
    };
    let offset = "0004000000000000000500000000".to_owned() + "01000001a1ff4b5022" + "0100103a0a813eb539459ca7400dbb62410844";
    let Record::Offset { topic, value: Some(value), .. } = both_ways("00010002673100017400000000", &offset) else { panic!("no offset") };
    assert_eq!((&*topic, value.offset, value.topic_id.to_string()), ("t", 5, "OgqBPrU5RZynQA27YkEIRA".to_owned()));
    let empty = "00030008636f6e73756d657200000002ffffffff000001a1ff4b55bd00000000";
    let Record::Group { group, value: Some(value) } = both_ways("000200026731", empty) else { panic!("no group") };
    assert_eq!((&*group, &*value.protocol_type, value.generation, value.protocol), ("g1", "consumer", 2, None));
}

#[test]
fn older_values_are_read() {
    let (key, _) = Record::Offset { group: "g".into(), topic: "t".into(), partition: 0, value: None }.encode();
    // Version 0: offset 5, metadata "m", committed at 9.
    let value = [&[0, 0][..], &5i64.to_be_bytes(), &[0, 1, b'm'], &9i64.to_be_bytes()].concat();
    let Ok(Decoded::Known(Record::Offset { value: Some(read), .. })) = Record::decode(Some(&key), Some(&value)) else { panic!("not read") };
    assert_eq!((read.offset, read.leader_epoch, &*read.metadata, read.commit_ms, read.expire_ms), (5, -1, "m", 9, None));
}
