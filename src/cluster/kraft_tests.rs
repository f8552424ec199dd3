//! Tests of taking over the metadata of a Kafka, on records as Kafka writes them.

use super::*;
use crate::base::ids::Uuid;
use crate::wire::batch::{BatchSpec, build_batch};
use proptest::prelude::*;

const NODE: BrokerId = 1;

/// A string in the flexible form.
fn text(text: &str) -> Vec<u8> {
    [&[text.len() as u8 + 1][..], text.as_bytes()].concat()
}

fn topic(id: u8, name: &str) -> Vec<u8> {
    [&[1, 2, 0][..], &text(name), &[id; 16], &[0]].concat()
}

fn partition(id: u8, index: i32, epoch: i32, replicas: &[i32]) -> Vec<u8> {
    let list: Vec<u8> = replicas.iter().flat_map(|r| r.to_be_bytes()).collect();
    let list = [&[replicas.len() as u8 + 1][..], &list].concat();
    [&[1, 3, 0][..], &index.to_be_bytes(), &[id; 16], &list, &list, &[1, 1], &1i32.to_be_bytes(), &epoch.to_be_bytes(), &[0; 4], &[0]]
        .concat()
}

fn new_leader(id: u8, index: i32) -> Vec<u8> {
    [&[1, 5, 0][..], &index.to_be_bytes(), &[id; 16], &[1, 1, 4], &1i32.to_be_bytes()].concat()
}

fn setting(kind: u8, resource: &str, name: &str, value: Option<&str>) -> Vec<u8> {
    [&[1, 4, 0, kind][..], &text(resource), &text(name), &value.map_or(vec![0], text), &[0]].concat()
}

fn removal(id: u8) -> Vec<u8> {
    [&[1, 9, 0][..], &[id; 16], &[0]].concat()
}

fn producer_ids(next: i64) -> Vec<u8> {
    [&[1, 15, 0][..], &1i32.to_be_bytes(), &[0; 8], &next.to_be_bytes(), &[0]].concat()
}

const BEGIN: [u8; 4] = [1, 23, 0, 0];
const END: [u8; 4] = [1, 24, 0, 0];
const ABORT: [u8; 4] = [1, 25, 0, 0];
const NO_OP: [u8; 4] = [1, 20, 0, 0];

fn batch(base_offset: Offset, records: &[Vec<u8>]) -> Vec<u8> {
    let records: Vec<_> = records.iter().map(|record| (None, Some(record.as_slice()), 0)).collect();
    build_batch(&BatchSpec { base_offset, ..BatchSpec::default() }, &records)
}

fn control(base_offset: Offset, kind: u8) -> Vec<u8> {
    build_batch(&BatchSpec { base_offset, control: true, ..BatchSpec::default() }, &[(Some(&[0, 0, 0, kind]), Some(&[0, 0]), 0)])
}

fn read(log: &[u8]) -> Result<Taken, String> {
    let mut metadata = KafkaMetadata::default();
    metadata.segment(log, 0, false)?;
    metadata.finish(NODE, 5, |_, _| None)
}

fn topics(taken: &Taken) -> Vec<(&str, &[i32])> {
    fn topic(record: &MetadataRecord) -> Option<(&str, &[i32])> {
        if let MetadataRecord::Topic { name, leader_epochs, .. } = record { Some((name, leader_epochs)) } else { None }
    }
    taken.records.iter().filter_map(topic).collect()
}

#[test]
fn what_a_log_adds_up_to() {
    let log = [
        control(0, 2),
        batch(1, &[BEGIN.to_vec(), topic(7, "never"), ABORT.to_vec(), BEGIN.to_vec(), NO_OP.to_vec(), END.to_vec()]),
        batch(7, &[topic(1, "a"), partition(1, 0, 3, &[1]), partition(1, 1, 0, &[1]), topic(2, "b"), partition(2, 0, 0, &[1])]),
        batch(
            12,
            &[new_leader(1, 1), new_leader(1, 1), setting(2, "a", "retention.ms", Some("5")), setting(2, "a", "flush.ms", Some("6"))],
        ),
        batch(
            16,
            &[setting(2, "a", "flush.ms", None), setting(2, "a", "no.such", Some("x")), setting(4, "1", "log.retention.ms", Some("1"))],
        ),
        batch(19, &[setting(2, "b", "retention.ms", Some("9")), removal(2), producer_ids(3000), topic(3, "b"), partition(3, 0, 0, &[1])]),
        batch(24, &[BEGIN.to_vec(), topic(9, "not committed")]),
    ]
    .concat();
    let mut metadata = KafkaMetadata::default();
    assert_eq!(metadata.segment(&log, 0, false), Ok(None));
    assert_eq!(metadata.next_offset(), 26);
    let taken = metadata.finish(NODE, 5, |name, index| (name == "a" && index == 0).then_some(8)).unwrap();
    let topic = |id: u8, name: &str, leader_epochs: &[i32], configs: &[(&str, &str)]| MetadataRecord::Topic {
        id: [id; 16],
        name: name.into(),
        leader_epochs: leader_epochs.to_vec(),
        configs: configs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        created_ms: 5,
    };
    let expected = [topic(1, "a", &[9, 3], &[("retention.ms", "5")]), topic(3, "b", &[1], &[]), MetadataRecord::ProducerIds { next: 3000 }];
    assert_eq!(taken.records, expected);
    assert_eq!((taken.missed, taken.passed_over), (vec![(OTHER_CONFIG, 1)], vec![("NoOpRecord", 1)]));
    assert_eq!(taken.dropped_settings, ["a: no.such=x"]);
}

#[test]
fn log_directories_of_the_node_and_of_its_partitions() {
    let list = |ids: &[u8]| {
        let ids: Vec<u8> = ids.iter().flat_map(|id| [*id; 16]).collect();
        [&[(ids.len() / 16) as u8 + 1][..], &ids].concat()
    };
    let tagged = |tag: u8, list: Vec<u8>| [&[1, tag, list.len() as u8][..], &list].concat();
    let registered = |node: BrokerId, ids: &[u8]| {
        let unused = [&[0; 1 + 16 + 8][..], &[1, 1, 0, 0, 0]].concat();
        [&[1, 0, 3][..], &node.to_be_bytes(), &unused, &tagged(0, list(ids))].concat()
    };
    let changed = |ids: &[u8]| [&[1, 17, 2][..], &NODE.to_be_bytes(), &[0; 8], &tagged(2, list(ids))].concat();
    let stored = |index: i32, ids: &[u8]| {
        let old = partition(1, index, 0, &[1]);
        [&[1, 3, 1][..], &old[3..old.len() - 1], &list(ids), &[0]].concat()
    };
    let records = [registered(1, &[10, 11]), registered(2, &[20]), topic(1, "a"), stored(0, &[11]), stored(1, &[0]), stored(2, &[10, 11])];
    let dir = |id: u8| Uuid([id; 16]);
    let taken = read(&batch(0, &records)).unwrap();
    assert_eq!(taken.log_dirs, [dir(10), dir(11)]);
    assert_eq!(taken.homes, BTreeMap::from([((dir(1), 0), dir(11))]), "not where it is lost or in two");
    let taken = read(&batch(0, &[&records[..], &[changed(&[10, 12])]].concat())).unwrap();
    assert_eq!(taken.log_dirs, [dir(10), dir(12)]);
}

#[test]
fn a_hundred_ids_of_directories_are_reserved() {
    let id = |last: u8| {
        let mut id = [0; 16];
        id[15] = last;
        is_reserved(&Uuid(id))
    };
    assert_eq!([0, 1, 99, 100, 255].map(id), [true, true, true, false, false]);
    let mut large = [0; 16];
    large[14] = 1;
    assert!(!is_reserved(&Uuid(large)));
}

#[test]
fn a_snapshot_and_what_lies_behind_it() {
    let snapshot = [control(0, 3), batch(1, &[topic(1, "a"), partition(1, 0, 3, &[1])]), control(3, 4)].concat();
    let log = [batch(0, &[topic(8, "old"), removal(8)]), batch(2, &[new_leader(1, 0)])].concat();
    let mut metadata = KafkaMetadata::default();
    metadata.snapshot(&snapshot, 2).unwrap();
    metadata.segment(&log, 0, false).unwrap();
    assert_eq!(topics(&metadata.finish(NODE, 0, |_, _| None).unwrap()), [("a", &[5][..])]);

    for cut in [0, 78, snapshot.len() - 1] {
        assert!(KafkaMetadata::default().snapshot(&snapshot[..cut], 2).is_err(), "{cut}");
    }
    let whole_batches = snapshot.len() - control(3, 4).len();
    assert!(KafkaMetadata::default().snapshot(&snapshot[..whole_batches], 2).is_err());
    let mut metadata = KafkaMetadata::default();
    assert!(metadata.segment(&batch(5, &[topic(1, "a")]), 5, false).is_err(), "records are missing");
}

#[test]
fn the_torn_end_is_left_out_and_damage_is_not() {
    let parts = [batch(0, &[topic(1, "a"), partition(1, 0, 0, &[1])]), batch(2, &[topic(2, "b"), partition(2, 0, 0, &[1])])];
    let (log, first) = (parts.concat(), parts[0].len());
    for cut in first + 1..log.len() {
        let read = |torn| {
            let mut metadata = KafkaMetadata::default();
            metadata.segment(&log[..cut], 0, torn).map(|at| (at, metadata))
        };
        assert!(read(false).is_err(), "{cut}");
        let (at, metadata) = read(true).unwrap();
        assert_eq!(at, Some(first));
        assert_eq!(topics(&metadata.finish(NODE, 0, |_, _| None).unwrap()), [("a", &[1][..])]);
    }
    let zeros = [&parts[0][..], &[0; 500]].concat();
    assert_eq!(KafkaMetadata::default().segment(&zeros, 0, true), Ok(Some(first)));
    for at in [0, 3, 9, 16, 30, first - 1] {
        let mut bad = log.clone();
        bad[at] ^= 0x11;
        assert!(KafkaMetadata::default().segment(&bad, 0, true).is_err(), "byte {at}: a whole batch follows");
    }
}

#[test]
fn what_cannot_be_taken_over() {
    let one = |records: &[Vec<u8>]| read(&batch(0, records)).unwrap_err();
    assert!(one(&[topic(1, "a"), partition(1, 0, 0, &[1, 2])]).contains("only a Kafka of one node"));
    assert!(one(&[topic(1, "a"), partition(1, 0, 0, &[2])]).contains("only a Kafka of one node"));
    assert!(one(&[topic(1, "a"), partition(1, 1, 0, &[1])]).contains("has the partitions"));
    assert!(one(&[topic(1, "a")]).contains("has the partitions"));
    assert!(one(&[topic(1, "../a"), partition(1, 0, 0, &[1])]).contains("is invalid"));
    assert!(one(&[topic(1, "a"), topic(2, "a")]).contains("two topics"));
    assert!(one(&[partition(1, 0, 0, &[1])]).contains("does not exist"));
    assert!(one(&[topic(1, "a"), new_leader(1, 0)]).contains("does not exist"));
    assert!(one(&[removal(1)]).contains("does not exist"));
    assert!(one(&[END.to_vec()]).contains("out of place"));
    let tiered = setting(2, "a", "remote.storage.enable", Some("true"));
    assert!(one(&[topic(1, "a"), partition(1, 0, 0, &[1]), tiered]).contains("tiered storage"));
    assert!(one(&[vec![1, 99, 0, 0]]).contains("unknown metadata record 99"));
}

proptest! {
    #[test]
    fn any_bytes_are_metadata_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), torn in any::<bool>()) {
        let _ = KafkaMetadata::default().segment(&bytes, 0, torn);
        let _ = KafkaMetadata::default().snapshot(&bytes, 5);
    }

    /// Records in any order: an error, or topics that are sound.
    #[test]
    fn any_records_are_sound_metadata_or_an_error(kinds in prop::collection::vec((0..8u8, 1..4u8, 0..3i32), 0..20)) {
        let records: Vec<Vec<u8>> = kinds.iter().map(|&(kind, id, index)| match kind {
            0 => topic(id, &format!("t{id}")),
            1 | 2 => partition(id, index, 0, &[1]),
            3 => new_leader(id, index),
            4 => removal(id),
            5 => setting(2, &format!("t{id}"), "retention.ms", (index > 0).then_some("7")),
            6 => [BEGIN, END, ABORT][index as usize].to_vec(),
            _ => producer_ids(index.into()),
        }).collect();
        if let Ok(taken) = read(&batch(0, &records)) {
            for record in taken.records {
                if let MetadataRecord::Topic { id, leader_epochs, .. } = record {
                    prop_assert!(!Uuid(id).is_zero() && !leader_epochs.is_empty() && leader_epochs.iter().all(|epoch| *epoch > 0));
                }
            }
        }
    }
}
