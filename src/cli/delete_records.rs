//! `corelane delete-records` (Kafka's `kafka-delete-records`): delete the records before given offsets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::tool::{Connect, Failure, Outcome, java, print, usage};
use crate::base::config::properties::without_byte_order_mark;
use crate::base::ids::Offset;
use crate::client::ClientError;
use crate::client::admin::TopicPartition;

/// Delete the records of partitions before given offsets
#[derive(Debug, Args)]
pub struct DeleteRecords {
    #[command(flatten)]
    connect: Connect,
    /// REQUIRED: JSON file {"partitions": [{"topic": "t", "partition": 0, "offset": 5}], "version": 1}; -1 is the end
    #[arg(long, value_name = "FILE")]
    offset_json_file: Option<PathBuf>,
}

impl DeleteRecords {
    /// Prints the new first offset of each partition.
    pub fn run(self) -> Outcome {
        let mut client = self.connect.client("corelane-delete-records")?;
        let Some(path) = self.offset_json_file else { return usage("Missing required argument \"[offset-json-file]\"") };
        let content = std::fs::read(&path).map_err(|_| Failure::Failed(format!("Unable to read file {}", path.display())))?;
        let before = parse(&content).map_err(Failure::Failed)?;
        print("Executing records delete operation\n")?;
        let results = client.delete_records(&before).map_err(|error| Failure::Failed(error.to_string()))?;
        print("Records delete operation completed:\n")?;
        for ((topic, partition), result) in results {
            let result = match result {
                Ok(offset) => format!("low_watermark: {offset}"),
                Err(code) => format!("error: {}", java(&ClientError::Broker(code, None))),
            };
            print(&format!("partition: {topic}-{partition}\t{result}\n"))?;
        }
        Ok(())
    }
}

/// The offsets of the file; each partition stands there once.
fn parse(content: &[u8]) -> Result<BTreeMap<TopicPartition, Offset>, String> {
    let file: Value =
        serde_json::from_slice(without_byte_order_mark(content)).map_err(|_| "The input string is not a valid JSON".to_owned())?;
    match file.get("version").map_or(Some(1), Value::as_i64) {
        Some(1) => {}
        _ => return Err(format!("Not supported version field value {}", file["version"])),
    }
    let partitions = file.get("partitions").and_then(Value::as_array).ok_or("Missing partitions field")?;
    let mut before = BTreeMap::new();
    let mut twice = Vec::new();
    for entry in partitions {
        let missing = |field: &str| format!("No such field exists: `{field}`");
        let topic = entry.get("topic").and_then(Value::as_str).ok_or_else(|| missing("topic"))?;
        let partition = entry.get("partition").and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
        let partition = partition.ok_or_else(|| missing("partition"))?;
        let offset = entry.get("offset").and_then(Value::as_i64).ok_or_else(|| missing("offset"))?;
        if before.insert((topic.to_owned(), partition), offset).is_some() {
            twice.push(format!("{topic}-{partition}"));
        }
    }
    if twice.is_empty() { Ok(before) } else { Err(format!("Offset json file contains duplicate topic partitions: {}", twice.join(","))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let whole =
            br#"{"partitions": [{"topic": "t", "partition": 1, "offset": -1}, {"topic": "t", "partition": 0, "offset": 5}], "version": 1}"#;
        assert_eq!(parse(whole).unwrap(), BTreeMap::from([(("t".to_owned(), 0), 5), (("t".to_owned(), 1), -1)]));
        assert!(parse(br#"{"partitions": []}"#).unwrap().is_empty());
        assert_eq!(parse(&[b"\xef\xbb\xbf", &whole[..]].concat()).unwrap(), parse(whole).unwrap());
        let refused = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert_eq!(refused("{"), "The input string is not a valid JSON");
        assert_eq!(refused("{}"), "Missing partitions field");
        assert_eq!(refused(r#"{"partitions": [], "version": 2}"#), "Not supported version field value 2");
        let twice = r#"{"topic": "t", "partition": 1, "offset": 1}"#;
        assert_eq!(
            refused(&format!(r#"{{"partitions": [{twice}, {twice}]}}"#)),
            "Offset json file contains duplicate topic partitions: t-1"
        );
        assert!(refused(r#"{"partitions": [{"topic": "t", "partition": 99999999999, "offset": 1}]}"#).contains("partition"));
    }
}
