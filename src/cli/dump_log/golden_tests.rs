//! Records as text against the fields that Kafka's own classes read from the same bytes.

use serde_json::{Value, json};

use super::coordinator::{self, Coordinator};
use super::json::json as as_json;
use super::{decode, state};
use crate::base::golden::cases;
use crate::wire::batch::{BatchHeader, HEADER_LEN};
use crate::wire::kraft;
use crate::wire::record::Records;
use crate::wire::schema::Value as Field;

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn records_of_coordinators() {
    type Decoder = fn() -> Coordinator;
    let topics: [(&str, Decoder); 3] = [
        ("consumer_offsets.txt", coordinator::groups),
        ("transaction_state.txt", coordinator::transactions),
        ("share_group_state.txt", coordinator::share_groups),
    ];
    for (file, coordinator) in topics {
        let (coordinator, kinds) = (coordinator(), (0..100).collect::<Vec<i16>>());
        for case in cases(file) {
            let text = coordinator.message(&kinds, &case.key, case.value.as_deref());
            let message = parsed(&text.unwrap_or_else(|| panic!("{} cannot be read", case.name)));
            assert_eq!(message["key"]["data"], case.fields["key"], "{}", case.name);
            match case.fields.get("value") {
                Some(fields) => assert_eq!(message["value"]["data"], *fields, "{}", case.name),
                None => assert_eq!(message["value"], Value::Null, "{}", case.name),
            }
        }
    }
}

#[test]
fn records_of_the_metadata_log() {
    for case in cases("cluster_metadata.txt") {
        let record = kraft::decode(case.value.as_deref().expect("a record"));
        let record = record.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(parsed(&as_json(&Field::Fields(record.fields))), case.fields, "{}", case.name);
        assert!(case.name.starts_with(&format!("{}/{}/", record.name, record.version)));
    }
}

#[test]
fn what_consumers_tell_each_other() {
    for case in cases("consumer_protocol.txt") {
        let bytes = case.value.as_deref().expect("a message");
        let name = if case.name.contains("Subscription") { "subscription" } else { "assignment" };
        let fields = coordinator::embedded(name, bytes).unwrap_or_else(|| panic!("{}", case.name));
        assert_eq!(parsed(&as_json(&Field::Fields(fields))), case.fields, "{}", case.name);
    }
}

#[test]
fn control_records() {
    let mut seen = 0;
    for case in cases("batches.txt").iter().filter(|case| case.fields["control"] == true) {
        let bytes = case.value.as_deref().expect("a batch");
        let header = BatchHeader::parse(bytes).expect("a header");
        let records = Records::new(&bytes[HEADER_LEN..], header.records_count);
        for (record, expected) in records.zip(case.fields["records"].as_array().expect("records")) {
            let text = decode::control(&record.expect("a record")).unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
            let data = &expected["data"];
            if let Some(epoch) = data.get("coordinatorEpoch") {
                let kind = expected["type"].as_str().expect("a type");
                assert_eq!(text, format!(" endTxnMarker: {kind} coordinatorEpoch: {epoch}"));
            } else {
                assert_eq!(parsed(&text[text.find('{').expect("JSON")..]), *data, "{}", case.name);
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn aborted_transactions() {
    let all = cases("files.txt");
    let case = all.iter().find(|case| case.name == "file/txnindex").expect("a case");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("00000000000000001000.txnindex");
    std::fs::write(&path, case.value.as_deref().expect("a file")).expect("written");
    let mut out = Vec::new();
    state::transactions(&mut out, path.to_str().expect("a path")).unwrap();
    let line = |line: &str| -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        let pairs = words.chunks(2).map(|pair| (pair[0].trim_end_matches(':').to_owned(), json!(parsed(pair[1]))));
        Value::Object(pairs.collect())
    };
    let shown: Vec<Value> = std::str::from_utf8(&out).expect("text").lines().map(line).collect();
    assert_eq!(json!(shown), case.fields);
}
