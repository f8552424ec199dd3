//! Tests of the records: Kafka's bytes, and damaged ones.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const TOPIC: Uuid = Uuid([0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Key and value as Kafka 4.3.1 writes them.
#[test]
fn kafkas_bytes() {
    let id: MemberId = "m".into();
    let member = MemberMetadata {
        instance_id: Some("i".into()),
        client_id: "c".into(),
        client_host: "/h".into(),
        topic_names: names(&["a", "b"]),
        topic_regex: Some("x.*".into()),
        rebalance_timeout_ms: 300_000,
        server_assignor: Some("range".into()),
        classic: Some(ClassicMember { session_timeout_ms: 45_000, protocols: vec![("range".into(), Bytes::from_static(&[1, 2, 3]))] }),
        ..MemberMetadata::default()
    };
    let current = CurrentAssignment {
        epoch: 9,
        previous_epoch: 8,
        state: MemberState::UnrevokedPartitions,
        assigned: Owned::from([(TOPIC, BTreeMap::from([(0, 9), (5, 4)]))]),
        pending_revocation: Owned::new(),
    };
    let resolved = Resolved { topics: names(&["xa"]), version: 33, timestamp_ms: 1_700_000_000_000 };
    for (change, key, value) in [
        (Change::epoch(7, -2), "0003000167", "000000000007010008fffffffffffffffe"),
        (Change::epoch(7, 0), "0003000167", "00000000000700"),
        (
            Change::Member(id.clone(), Some(member)),
            "000500016700016d",
            "00000269000263032f68030261026204782e2a000493e00672616e6765010012010000afc8020672616e6765040102030000",
        ),
        (Change::Member(id.clone(), Some(MemberMetadata::default())), "000500016700016d", "0000000001010100ffffffff0001000100"),
        (Change::target_epoch(9, 1_700_000_000_000), "0006000167", "0000000000090100080000018bcfe56800"),
        (
            Change::Target(id.clone(), Some(Partitions::from([(TOPIC, BTreeSet::from([0, 5]))]))),
            "000700016700016d",
            "00000200112233445566778899aabbccddeeff0300000000000000050000",
        ),
        (
            Change::Current(id.clone(), Some(current.clone())),
            "000800016700016d",
            "00000000000900000008010200112233445566778899aabbccddeeff030000000000000005010009030000000900000004\
             0100",
        ),
        (Change::Regex("x.*".into(), Some(resolved)), "00100001670003782e2a", "00000203786100000000000000210000018bcfe5680000"),
    ] {
        assert_eq!(change.encode("g"), (bytes(key), Some(bytes(value))), "{change:?}");
        assert_eq!(decode(&bytes(key), Some(&bytes(value))), Ok(("g".into(), change)));
    }
    // Without epochs of partitions, as before 4.3: those of the member.
    let old = "00000000000900000008010200112233445566778899aabbccddeeff0300000000000000050100090300000009000000040200112233445566778899aabbccddeeff\
               02000000070000";
    let pending_revocation = Owned::from([(TOPIC, BTreeMap::from([(7, 9)]))]);
    let expected = Change::Current(id.clone(), Some(CurrentAssignment { pending_revocation, ..current }));
    assert_eq!(decode(&bytes("000800016700016d"), Some(&bytes(old))), Ok(("g".into(), expected)));
    for tombstone in [
        Change::Epoch(None),
        Change::PartitionMetadata { present: false },
        Change::Member(id.clone(), None),
        Change::TargetEpoch(None),
        Change::Target(id.clone(), None),
        Change::Current(id, None),
        Change::Regex("x.*".into(), None),
    ] {
        let (key, value) = tombstone.encode("g");
        assert_eq!((value, decode(&key, None)), (None, Ok(("g".into(), tombstone))));
    }
}

/// Kafka writes null for a member of the new protocol. Corelane left the field out once, and Kafka
/// leaves it out where it holds an empty structure.
#[test]
fn a_member_without_classic_metadata() {
    let expected = Ok(("g".into(), Change::Member("m".into(), Some(MemberMetadata::default()))));
    let member = "0000000001010100ffffffff00";
    for classic in ["01000100", "00", "01000701000000000100", "010005ffffffff0f"] {
        let value = bytes(&format!("{member}{classic}"));
        assert_eq!(decode(&bytes("000500016700016d"), Some(&value)), expected, "{classic}");
    }
}

#[test]
fn what_is_not_ours() {
    assert!(decode(&bytes("0003000167"), Some(&bytes("00010000000700"))).is_err(), "a newer version");
    assert!(decode(&bytes("0009000167"), None).is_err(), "another kind");
    let newer_tag = "00000000000702000800000000000000010703616263";
    assert_eq!(decode(&bytes("0003000167"), Some(&bytes(newer_tag))), Ok(("g".into(), Change::epoch(7, 1))));
}

proptest! {
    #[test]
    fn damaged_records_are_errors(kind in prop::sample::select(&KINDS[..]), key in prop::collection::vec(any::<u8>(), 0..40), value in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&key, Some(&value));
        let key = [&kind.to_be_bytes()[..], &[0, 1, b'g', 0, 1, b'm']].concat();
        let _ = decode(&key, Some(&[&[0, 0], &value[..]].concat()));
    }
}
