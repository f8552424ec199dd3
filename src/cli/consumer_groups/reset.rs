//! `consumer-groups --reset-offsets`: where to, what of it is possible, and doing it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use jiff::{SpanRelativeTo, Timestamp};

use super::super::tool::{Failure, Outcome, print, usage};
use super::table::{Column, fixed, growing, last, table};
use super::{ConsumerGroups, partitions, told, told_bare};
use crate::base::config::properties::without_byte_order_mark;
use crate::base::error::ErrorCode;
use crate::base::ids::Offset;
use crate::client::admin::TopicPartition;
use crate::client::consumer::{EARLIEST, LATEST};
use crate::client::{Client, ClientError};

type Offsets = BTreeMap<TopicPartition, Offset>;

const COLUMNS: [Column; 4] = [growing("GROUP", 15), growing("TOPIC", 15), fixed("PARTITION", 10), last("NEW-OFFSET")];

impl ConsumerGroups {
    pub(super) fn reset_offsets(&self, client: &mut Client) -> Outcome {
        let plan = self.from_file.as_deref().map(|path| self.read_plan(path)).transpose()?;
        let mut done: BTreeMap<String, Offsets> = BTreeMap::new();
        for group in self.chosen(client)? {
            let state = match client.describe_group(&group) {
                // What does not exist has no members, and comes to be by its offsets.
                Err(ClientError::Broker(ErrorCode::GroupIdNotFound, _)) => "Dead".to_owned(),
                description => description.map_err(told)?.state,
            };
            if !matches!(state.as_str(), "Empty" | "Dead") {
                print(&format!(
                    "\nError: Assignments can only be reset if the group '{group}' is inactive, but the current state is {state}.\n"
                ))?;
                done.insert(group, Offsets::new());
                continue;
            }
            let offsets = self.prepare(client, &group, plan.as_ref())?;
            if self.execute {
                client.alter_offsets(&group, &offsets).map_err(told)?;
            }
            done.insert(group, offsets);
        }
        print(&if self.export { csv(&done, self.groups.len() == 1) + "\n" } else { text(&done) })
    }

    /// The new offsets of one group.
    fn prepare(&self, client: &mut Client, group: &str, plan: Option<&BTreeMap<String, Offsets>>) -> Outcome<Offsets> {
        if let Some(plan) = plan {
            let Some(wanted) = plan.get(group) else {
                print(&format!("\nError: No reset plan for group {group} found\n"))?;
                return Ok(Offsets::new());
            };
            must_exist(client, &wanted.keys().cloned().collect())?;
            return within_log(client, wanted.clone());
        }
        let scope: BTreeSet<TopicPartition> = if self.all_topics {
            committed(client, group)?.into_keys().collect()
        } else {
            partitions(client, &self.topics)?.into_iter().collect()
        };
        must_exist(client, &scope)?;
        if let Some(offset) = self.to_offset {
            return within_log(client, scope.into_iter().map(|partition| (partition, offset)).collect());
        }
        if let Some(shift) = self.shift_by {
            let committed = committed(client, group)?;
            let mut wanted = Offsets::new();
            for partition in scope {
                let Some(offset) = committed.get(&partition) else {
                    let (topic, index) = partition;
                    return usage(format!("Cannot shift offset for partition {topic}-{index} since there is no current committed offset"));
                };
                wanted.insert(partition, offset.saturating_add(shift));
            }
            return within_log(client, wanted);
        }
        if self.to_current {
            let committed = committed(client, group)?;
            let (with, without): (BTreeSet<_>, BTreeSet<_>) = scope.into_iter().partition(|partition| committed.contains_key(partition));
            let mut offsets = log_offsets(client, without, LATEST)?;
            offsets.extend(with.into_iter().map(|partition| (partition.clone(), committed[&partition])));
            return Ok(offsets);
        }
        if self.to_earliest || self.to_latest {
            return log_offsets(client, scope, if self.to_earliest { EARLIEST } else { LATEST });
        }
        let timestamp = match (&self.to_datetime, &self.by_duration) {
            (Some(text), _) => parse_datetime(text)?,
            (None, text) => Timestamp::now().as_millisecond().saturating_sub(parse_duration(text.as_deref().unwrap_or_default())?),
        };
        since(client, scope, timestamp)
    }

    /// The file of --from-file: the offsets of each group.
    fn read_plan(&self, path: &Path) -> Outcome<BTreeMap<String, Offsets>> {
        let failed = |reason: &dyn Display| Failure::Failed(format!("cannot read {}: {reason}", path.display()));
        let content = std::fs::read(path).map_err(|error| failed(&error))?;
        let text = str::from_utf8(without_byte_order_mark(&content)).map_err(|error| failed(&error))?;
        let only = match self.groups.as_slice() {
            [group] => Some(group.as_str()),
            _ => None,
        };
        parse_plan(text, only).map_err(|text| Failure::Failed(format!("{}: {text}", path.display())))
    }
}

/// Refuses partitions that their topics do not have. Whether there is such a topic is not asked here.
fn must_exist(client: &mut Client, scope: &BTreeSet<TopicPartition>) -> Outcome {
    let names: BTreeSet<&str> = scope.iter().map(|(topic, _)| topic.as_str()).collect();
    let topics = client.topics(&names.into_iter().collect::<Vec<_>>(), false).map_err(told_bare)?;
    let has: BTreeMap<&str, BTreeSet<i32>> =
        topics.iter().map(|topic| (topic.topic.name.as_str(), topic.partitions.iter().map(|p| p.index).collect())).collect();
    let lacks = |(topic, index): &&TopicPartition| has.get(topic.as_str()).is_some_and(|known| !known.contains(index));
    let missing: Vec<String> = scope.iter().filter(lacks).map(|(topic, index)| format!("{topic}-{index}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Told(format!("The partitions \"{}\" do not exist", missing.join(","))))
}

fn committed(client: &mut Client, group: &str) -> Outcome<Offsets> {
    let committed = match client.committed(group) {
        Err(ClientError::Broker(ErrorCode::GroupIdNotFound, _)) => BTreeMap::new(),
        committed => committed.map_err(told)?,
    };
    Ok(committed.into_iter().map(|(partition, entry)| (partition, entry.offset)).collect())
}

/// The offset of each partition for one of the special values of ListOffsets.
fn log_offsets(client: &mut Client, scope: BTreeSet<TopicPartition>, which: i64) -> Outcome<Offsets> {
    let found = client.list_offsets(scope, which, 0).map_err(told)?;
    found
        .into_iter()
        .map(|(partition, offset)| match offset {
            Ok(offset) => Ok((partition, offset.unwrap_or(0))),
            Err(code) => Err(told_bare(ClientError::Broker(code, None))),
        })
        .collect()
}

/// The first offset of each partition at or after a time; the end where there is none.
fn since(client: &mut Client, scope: BTreeSet<TopicPartition>, timestamp: i64) -> Outcome<Offsets> {
    let found = client.list_offsets(scope, timestamp, 0).map_err(told)?;
    let (mut offsets, mut none) = (Offsets::new(), BTreeSet::new());
    for (partition, offset) in found {
        match offset {
            Ok(Some(offset)) => drop(offsets.insert(partition, offset)),
            Ok(None) => {
                let (topic, index) = &partition;
                print(&format!("\nWarn: Partition {index} from topic {topic} is empty. Falling back to latest known offset.\n"))?;
                none.insert(partition);
            }
            Err(code) => return Err(told_bare(ClientError::Broker(code, None))),
        }
    }
    offsets.extend(log_offsets(client, none, LATEST)?);
    Ok(offsets)
}

/// Moves offsets that the log does not have to its nearer end, with a warning.
fn within_log(client: &mut Client, wanted: Offsets) -> Outcome<Offsets> {
    let scope: BTreeSet<TopicPartition> = wanted.keys().cloned().collect();
    let (starts, ends) = (log_offsets(client, scope.clone(), EARLIEST)?, log_offsets(client, scope, LATEST)?);
    let mut offsets = Offsets::new();
    for (partition, offset) in wanted {
        let (start, end) = (starts[&partition], ends[&partition]);
        let possible = offset.min(end).max(start);
        if possible != offset {
            let (than, which) = if offset > end { ("higher", "latest") } else { ("lower", "earliest") };
            let (topic, index) = &partition;
            eprintln!(
                "WARN New offset ({offset}) is {than} than {which} offset for topic partition {topic}-{index}. Value will be set to {possible}"
            );
        }
        offsets.insert(partition, possible);
    }
    Ok(offsets)
}

/// Milliseconds since 1970 of a time in ISO 8601, in UTC if it does not say otherwise.
fn parse_datetime(text: &str) -> Outcome<i64> {
    let wrong = |reason: &str| Failure::Told(format!("java.text.ParseException: {reason}"));
    let Some((_, time)) = text.split_once('T') else {
        return Err(wrong("Error parsing timestamp. It does not contain a 'T' according to ISO8601 format"));
    };
    let zoned = if time.contains(['+', '-', 'Z']) { text.to_owned() } else { format!("{text}Z") };
    let parsed: Result<Timestamp, _> = zoned.parse();
    parsed.map(|time| time.as_millisecond()).map_err(|_| wrong(&format!("Unparseable date: \"{text}\"")))
}

/// Milliseconds of a duration in ISO 8601, days having 24 hours.
fn parse_duration(text: &str) -> Outcome<i64> {
    let wrong = || Failure::Told("Text cannot be parsed to a Duration".to_owned());
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    // As in Java, which knows days but nothing longer.
    if span.get_years() != 0 || span.get_months() != 0 || span.get_weeks() != 0 {
        return Err(wrong());
    }
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    i64::try_from(duration.as_millis()).map_err(|_| wrong())
}

/// Lines of `topic,partition,offset`, if there is only one group, or of `group,topic,partition,offset`.
fn parse_plan(text: &str, only: Option<&str>) -> Result<BTreeMap<String, Offsets>, String> {
    let mut plan: BTreeMap<String, Offsets> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').map(|field| field.trim().trim_matches('"')).collect();
        let (group, topic, partition, offset) = match (fields.as_slice(), only) {
            ([topic, partition, offset], Some(group)) => (group, *topic, *partition, *offset),
            ([group, topic, partition, offset], _) => (*group, *topic, *partition, *offset),
            _ => return Err(format!("not a line of [group,]topic,partition,offset: {line}")),
        };
        let number = |text: &str| text.parse::<Offset>().map_err(|_| format!("not a number in: {line}"));
        let partition = i32::try_from(number(partition)?).map_err(|_| format!("no partition in: {line}"))?;
        plan.entry(group.to_owned()).or_default().insert((topic.to_owned(), partition), number(offset)?);
    }
    Ok(plan)
}

fn text(done: &BTreeMap<String, Offsets>) -> String {
    let rows = |(group, offsets): (&String, &Offsets)| {
        let group = group.clone();
        let row = move |((topic, partition), offset): (&TopicPartition, &Offset)| {
            vec![group.clone(), topic.clone(), partition.to_string(), offset.to_string()]
        };
        offsets.iter().map(row).collect::<Vec<_>>()
    };
    if done.is_empty() { "\n".to_owned() } else { table(&COLUMNS, &done.iter().flat_map(rows).collect::<Vec<_>>()) + "\n" }
}

fn csv(done: &BTreeMap<String, Offsets>, single: bool) -> String {
    let mut out = String::new();
    for (group, offsets) in done {
        for ((topic, partition), offset) in offsets {
            out += &if single { format!("{topic},{partition},{offset}\n") } else { format!("{group},{topic},{partition},{offset}\n") };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = |text: &str| parse_datetime(text).map_err(|failure| format!("{failure:?}"));
        assert_eq!(at("2024-01-01T00:00:00.000"), Ok(1_704_067_200_000));
        assert_eq!(at("2024-01-01T00:00:00.123Z"), Ok(1_704_067_200_123));
        assert_eq!(at("2024-01-01T01:00:00.000+01:00"), at("2024-01-01T00:00:00"));
        assert!(at("nonsense").unwrap_err().contains("It does not contain a 'T'"));
        assert!(at("2024-13-01T00:00:00.000").unwrap_err().contains("Unparseable date"));
        let duration = |text: &str| parse_duration(text).map_err(|_| ());
        assert_eq!((duration("PT1M"), duration("P1DT2H30M5.5S")), (Ok(60_000), Ok(95_405_500)));
        assert_eq!((duration("P1M"), duration("1h?"), duration("")), (Err(()), Err(()), Err(())));
    }

    #[test]
    fn plans_and_tables() {
        let one = |offset| Offsets::from([(("t".to_owned(), 0), offset)]);
        let done = BTreeMap::from([("a".to_owned(), one(5)), ("b".to_owned(), one(6))]);
        assert_eq!(csv(&done, false), "a,t,0,5\nb,t,0,6\n");
        assert_eq!(parse_plan(&csv(&done, false), None).unwrap(), done);
        let alone = BTreeMap::from([("a".to_owned(), one(5))]);
        assert_eq!(parse_plan(&csv(&alone, true), Some("a")).unwrap(), alone);
        assert_eq!(parse_plan("\"t\",0,5\r\n\n", Some("a")).unwrap(), alone);
        for bad in ["t,0,5", "a,t,x,5", "a,t,0,", "a,t,99999999999,5"] {
            assert!(parse_plan(bad, None).is_err(), "{bad}");
        }
        assert_eq!(text(&alone), "\nGROUP           TOPIC           PARTITION  NEW-OFFSET\na               t               0          5\n");
        assert_eq!(text(&BTreeMap::new()), "\n");
    }
}
