//! State of producers and leader epochs against the files that Kafka's own classes write and read.

use serde_json::{Value, json};

use super::epochs::Epochs;
use super::producers::Producers;
use crate::base::golden::{Case, cases, check_ours};
use crate::wire::batch::{BatchHeader, BatchSpec, build_batch};
use crate::wire::producer_snapshot::{self, Entry};

fn shown(entry: &Entry) -> Value {
    let mut fields = json!({
        "producerId": entry.producer_id,
        "epoch": entry.epoch,
        "coordinatorEpoch": entry.coordinator_epoch,
        "timestamp": entry.timestamp,
        "transactionFirstOffset": entry.transaction_first_offset,
    });
    if entry.last_offset >= 0 {
        fields["lastSequence"] = json!(entry.last_sequence);
        fields["lastOffset"] = json!(entry.last_offset);
        fields["offsetDelta"] = json!(entry.offset_delta);
    }
    fields
}

fn content(case: &Case) -> &[u8] {
    case.value.as_deref().expect("a file")
}

#[test]
fn producers_are_read_and_written_as_kafka_does() {
    let all = cases("files.txt");
    let named = |name: &str| all.iter().find(|case| case.name == name).expect("a case");
    for case in all.iter().filter(|case| case.name.starts_with("file/producers/")) {
        let entries: Vec<Value> = producer_snapshot::decode(content(case)).unwrap().map(|e| shown(&e)).collect();
        assert_eq!(json!(entries), case.fields, "{}", case.name);
        let producers = Producers::decode_snapshot(content(case)).unwrap();
        assert_eq!(producers.len(), entries.len());
        assert_eq!(producers.encode_snapshot(), content(case), "{}", case.name);
    }
    // Of the producer's last batches Kafka takes the newest.
    let case = named("file/producers/window");
    let mut producers = Producers::default();
    for n in 0..5 {
        let spec = BatchSpec { producer_id: 7, producer_epoch: 2, base_sequence: 2 * n, ..BatchSpec::default() };
        let records = [(None, None, 1000 + i64::from(n)); 2];
        let header = BatchHeader::parse(&build_batch(&spec, &records)).unwrap();
        producers.apply(&header, 100 + 2 * i64::from(n));
    }
    let ours = producers.encode_snapshot();
    assert!(ours.len() > content(case).len());
    check_ours("ours_producers.txt", &[(case, Vec::new(), Some(ours))]);
}

#[test]
fn leader_epochs_are_read_and_written_as_kafka_does() {
    let all = cases("files.txt");
    let mut seen = 0;
    for case in all.iter().filter(|case| case.name.starts_with("file/leader-epoch-checkpoint/")) {
        let text = std::str::from_utf8(content(case)).unwrap();
        let read = Epochs::parse(text).unwrap();
        let mut expected = Epochs::default();
        for entry in case.fields.as_array().unwrap() {
            expected.assign(entry[0].as_i64().unwrap() as i32, entry[1].as_i64().unwrap());
        }
        assert_eq!((&read, &*read.encode()), (&expected, text), "{}", case.name);
        seen += 1;
    }
    assert_eq!(seen, 2);
}
