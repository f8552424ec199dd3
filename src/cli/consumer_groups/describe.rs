//! `consumer-groups --describe`: offsets with their lag, members, states.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::tool::{Format, Outcome, print};
use super::table::{Column, fixed, growing, last, table};
use super::{ConsumerGroups, told};
use crate::base::ids::Offset;
use crate::client::Client;
use crate::client::admin::TopicPartition;
use crate::client::consumer::LATEST;
use crate::client::groups::{Committed, GroupDescription, MemberDescription};

/// Stands where there is nothing to show.
const MISSING: &str = "-";

/// A partition of a group: who reads it, how far it has come.
struct Row<'a> {
    partition: Option<&'a TopicPartition>,
    committed: Option<&'a Committed>,
    end: Option<Offset>,
    member: Option<&'a MemberDescription>,
}

impl Row<'_> {
    fn lag(&self) -> Option<Offset> {
        Some(self.end?.saturating_sub(self.committed?.offset))
    }
}

impl ConsumerGroups {
    pub(super) fn describe(&self, client: &mut Client) -> Outcome {
        let mut groups = self.chosen(client)?;
        groups.sort();
        let mut described = Vec::new();
        for group in groups {
            described.push(client.describe_group(&group).map_err(told)?);
        }
        let mut documents = Vec::new();
        for group in &described {
            if self.members {
                self.show_members(group, &mut documents)?;
            } else if self.state.is_some() {
                self.show_state(group, &mut documents)?;
            } else {
                self.show_offsets(client, group, &mut documents)?;
            }
        }
        if self.format == Format::Json { print(&format!("{}\n", json!(documents))) } else { Ok(()) }
    }

    fn show_offsets(&self, client: &mut Client, group: &GroupDescription, documents: &mut Vec<Value>) -> Outcome {
        let committed = client.committed(&group.id).map_err(told)?;
        let assigned = group.members.iter().flat_map(|member| &member.assignment);
        let scope: BTreeSet<TopicPartition> = assigned.chain(committed.keys()).cloned().collect();
        let ends = client.list_offsets(scope, LATEST, 0).map_err(told)?;
        let ends = ends.into_iter().filter_map(|(partition, end)| Some((partition, end.ok().flatten()?))).collect();
        let rows = rows(group, &committed, &ends);
        if self.format == Format::Json {
            documents.push(json!({ "group": group.id, "state": group.state, "offsets": rows.iter().map(row_json).collect::<Vec<_>>() }));
            return Ok(());
        }
        tell_state(group);
        if rows.is_empty() || group.state == "Dead" { Ok(()) } else { print(&offsets_text(group, &rows, self.verbose)) }
    }

    fn show_members(&self, group: &GroupDescription, documents: &mut Vec<Value>) -> Outcome {
        if self.format == Format::Json {
            let members = group.members.iter().map(|member| {
                json!({
                    "member_id": member.id,
                    "instance_id": member.instance,
                    "client_id": member.client_id,
                    "host": member.host,
                    "assignment": assignment_json(&member.assignment),
                })
            });
            documents.push(json!({ "group": group.id, "state": group.state, "members": members.collect::<Vec<_>>() }));
            return Ok(());
        }
        tell_state(group);
        print(&members_text(group, self.verbose))
    }

    fn show_state(&self, group: &GroupDescription, documents: &mut Vec<Value>) -> Outcome {
        if self.format == Format::Json {
            documents.push(json!({
                "group": group.id,
                "state": group.state,
                "coordinator": { "id": group.coordinator.0, "address": group.coordinator.1 },
                "assignment_strategy": group.assignor,
                "members": group.members.len(),
            }));
            return Ok(());
        }
        tell_state(group);
        print(&state_text(group, self.verbose))
    }
}

/// What the state of a group means for what is shown of it.
fn tell_state(group: &GroupDescription) {
    let id = &group.id;
    match group.state.as_str() {
        "Dead" => drop(print(&format!("\nError: Consumer group '{id}' does not exist.\n"))),
        "Empty" => eprintln!("\nConsumer group '{id}' has no active members."),
        "PreparingRebalance" | "CompletingRebalance" | "Assigning" | "Reconciling" => {
            eprintln!("\nWarning: Consumer group '{id}' is rebalancing.");
        }
        _ => {}
    }
}

/// The partitions of members, those with the most first, then what nobody reads any more.
fn rows<'a>(
    group: &'a GroupDescription,
    committed: &'a BTreeMap<TopicPartition, Committed>,
    ends: &BTreeMap<TopicPartition, Offset>,
) -> Vec<Row<'a>> {
    let mut members: Vec<&MemberDescription> = group.members.iter().filter(|member| !member.assignment.is_empty()).collect();
    members.sort_by_key(|member| std::cmp::Reverse(member.assignment.len()));
    let row = |partition: &'a TopicPartition, member| Row {
        partition: Some(partition),
        committed: committed.get(partition),
        end: ends.get(partition).copied(),
        member,
    };
    let mut rows: Vec<Row> = Vec::new();
    for member in &members {
        rows.extend(member.assignment.iter().map(|partition| row(partition, Some(*member))));
    }
    let read = |partition: &TopicPartition| members.iter().any(|member| member.assignment.contains(partition));
    rows.extend(committed.keys().filter(|partition| !read(partition)).map(|partition| row(partition, None)));
    rows
}

fn offsets_text(group: &GroupDescription, rows: &[Row], verbose: bool) -> String {
    let shown = |value: Option<String>| value.unwrap_or_else(|| MISSING.to_owned());
    let mut columns: Vec<Column> = vec![growing("GROUP", 15), growing("TOPIC", 15), fixed("PARTITION", 10)];
    columns.extend(verbose.then(|| fixed("LEADER-EPOCH", 15)));
    columns.extend([fixed("CURRENT-OFFSET", 15), fixed("LOG-END-OFFSET", 15), fixed("LAG", 15), growing("CONSUMER-ID", 15)]);
    columns.extend([growing("HOST", 15), last("CLIENT-ID")]);
    let row = |row: &Row| {
        let (topic, index) = row.partition.map(|(topic, index)| (topic.clone(), index.to_string())).unzip();
        let mut fields = vec![group.id.clone(), shown(topic), shown(index)];
        let epoch = row.committed.map(|entry| entry.leader_epoch).filter(|epoch| *epoch >= 0);
        fields.extend(verbose.then(|| shown(epoch.map(|epoch| epoch.to_string()))));
        fields.push(shown(row.committed.map(|entry| entry.offset.to_string())));
        fields.push(shown(row.end.map(|end| end.to_string())));
        fields.push(shown(row.lag().map(|lag| lag.to_string())));
        fields.push(shown(row.member.map(|member| member.id.clone())));
        fields.push(shown(row.member.map(|member| member.host.clone())));
        fields.push(shown(row.member.map(|member| member.client_id.clone())));
        fields
    };
    table(&columns, &rows.iter().map(row).collect::<Vec<_>>()) + "\n"
}

fn row_json(row: &Row) -> Value {
    json!({
        "topic": row.partition.map(|(topic, _)| topic),
        "partition": row.partition.map(|(_, index)| index),
        "current_offset": row.committed.map(|entry| entry.offset),
        "log_end_offset": row.end,
        "lag": row.lag(),
        "member_id": row.member.map(|member| &member.id),
        "host": row.member.map(|member| &member.host),
        "client_id": row.member.map(|member| &member.client_id),
    })
}

fn by_topic(assignment: &BTreeSet<TopicPartition>) -> BTreeMap<&str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    assignment.iter().for_each(|(topic, index)| topics.entry(topic).or_default().push(*index));
    topics
}

fn assignment_json(assignment: &BTreeSet<TopicPartition>) -> Value {
    by_topic(assignment).into_iter().map(|(topic, partitions)| json!({ "topic": topic, "partitions": partitions })).collect()
}

/// `t:0,1;u:2`
fn assignment_text(assignment: &BTreeSet<TopicPartition>) -> String {
    let list = |partitions: Vec<i32>| partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let topics: Vec<String> = by_topic(assignment).into_iter().map(|(topic, partitions)| format!("{topic}:{}", list(partitions))).collect();
    if topics.is_empty() { MISSING.to_owned() } else { topics.join(";") }
}

fn members_text(group: &GroupDescription, verbose: bool) -> String {
    let instances = group.members.iter().any(|member| member.instance.is_some());
    // Kafka shows it only while a group is on its way to the new protocol.
    let upgrading = verbose && group.members.iter().any(|member| member.modern == Some(false));
    let mut columns: Vec<Column> = vec![growing("GROUP", 15), growing("CONSUMER-ID", 15)];
    columns.extend(instances.then(|| growing("GROUP-INSTANCE-ID", 17)));
    columns.extend([growing("HOST", 15), growing("CLIENT-ID", 15), fixed("#PARTITIONS", 15)]);
    if verbose {
        columns.extend([fixed("CURRENT-EPOCH", 15), growing("CURRENT-ASSIGNMENT", 20), fixed("TARGET-EPOCH", 15)]);
        columns.push(growing("TARGET-ASSIGNMENT", 20));
        columns.extend(upgrading.then(|| last("UPGRADED")));
    } else {
        // Kafka's lines end with a space.
        columns.push(last(""));
    }
    let number = |value: Option<i32>| value.map_or(MISSING.to_owned(), |value| value.to_string());
    let row = |member: &MemberDescription| {
        let mut fields = vec![group.id.clone(), member.id.clone()];
        fields.extend(instances.then(|| member.instance.clone().unwrap_or_default()));
        fields.extend([member.host.clone(), member.client_id.clone(), member.assignment.len().to_string()]);
        if verbose {
            fields.extend([number(member.epoch), assignment_text(&member.assignment)]);
            fields.push(number(member.target.as_ref().and(group.epochs).map(|(_, assignment)| assignment)));
            fields.push(member.target.as_ref().map_or(MISSING.to_owned(), assignment_text));
            fields.extend(upgrading.then(|| member.modern.map_or(MISSING.to_owned(), |modern| modern.to_string())));
        } else {
            fields.push(String::new());
        }
        fields
    };
    table(&columns, &group.members.iter().map(row).collect::<Vec<_>>()) + "\n"
}

fn state_text(group: &GroupDescription, verbose: bool) -> String {
    let (id, address) = &group.coordinator;
    let assignor = if group.assignor.is_empty() { MISSING } else { &group.assignor };
    let mut columns: Vec<Column> =
        vec![growing("GROUP", 15), growing("COORDINATOR (ID)", 25), fixed("ASSIGNMENT-STRATEGY", 20), fixed("STATE", 20)];
    let mut row = vec![group.id.clone(), format!("{address}  ({id})"), assignor.to_owned(), group.state.clone()];
    if verbose {
        let (of_group, of_assignment) = group.epochs.map(|(a, b)| (a.to_string(), b.to_string())).unzip();
        columns.extend([fixed("GROUP-EPOCH", 15), fixed("TARGET-ASSIGNMENT-EPOCH", 25)]);
        row.extend([of_group, of_assignment].map(|epoch| epoch.unwrap_or_else(|| MISSING.to_owned())));
    }
    columns.push(last("#MEMBERS"));
    row.push(group.members.len().to_string());
    table(&columns, &[row]) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, instance: Option<&str>, partitions: &[i32]) -> MemberDescription {
        MemberDescription {
            id: id.into(),
            instance: instance.map(Into::into),
            client_id: "cli".into(),
            host: "/127.0.0.1".into(),
            assignment: partitions.iter().map(|index| ("gt".to_owned(), *index)).collect(),
            target: None,
            epoch: None,
            modern: None,
        }
    }

    fn group(members: Vec<MemberDescription>) -> GroupDescription {
        let coordinator = (1, "127.0.0.1:24092".to_owned());
        GroupDescription { id: "g1".into(), state: "Stable".into(), assignor: "range".into(), coordinator, members, epochs: None }
    }

    /// The texts are those of Kafka 4.3.1.
    #[test]
    fn offsets() {
        let group = group(vec![member("cli-75157746", None, &[0]), member("idle", None, &[])]);
        let committed = BTreeMap::from([
            (("gt".to_owned(), 0), Committed { offset: 10, leader_epoch: 0 }),
            (("old".to_owned(), 10), Committed { offset: 1, leader_epoch: -1 }),
        ]);
        let ends = BTreeMap::from([(("gt".to_owned(), 0), 12)]);
        let rows = rows(&group, &committed, &ends);
        assert_eq!(
            offsets_text(&group, &rows, true),
            "\nGROUP           TOPIC           PARTITION  LEADER-EPOCH    CURRENT-OFFSET  LOG-END-OFFSET  LAG             CONSUMER-ID     HOST            CLIENT-ID\n\
             g1              gt              0          0               10              12              2               cli-75157746    /127.0.0.1      cli\n\
             g1              old             10         -               1               -               -               -               -               -\n"
        );
    }

    #[test]
    fn members() {
        assert_eq!(
            members_text(&group(vec![member("cli-75157746-193c", None, &[0, 1, 2])]), false),
            "\nGROUP           CONSUMER-ID       HOST            CLIENT-ID       #PARTITIONS     \n\
             g1              cli-75157746-193c /127.0.0.1      cli             3               \n"
        );
        assert!(members_text(&group(vec![member("a", Some("inst1"), &[])]), false).contains("GROUP-INSTANCE-ID HOST "));
        let mut modern = member("a", None, &[0, 1, 2]);
        (modern.epoch, modern.target) = (Some(2), Some(modern.assignment.clone()));
        let described = GroupDescription { epochs: Some((2, 2)), ..group(vec![modern]) };
        assert_eq!(
            members_text(&described, true),
            "\nGROUP           CONSUMER-ID     HOST            CLIENT-ID       #PARTITIONS     CURRENT-EPOCH   CURRENT-ASSIGNMENT   TARGET-EPOCH    TARGET-ASSIGNMENT   \n\
             g1              a               /127.0.0.1      cli             3               2               gt:0,1,2             2               gt:0,1,2            \n"
        );
    }

    #[test]
    fn states() {
        assert_eq!(
            state_text(&group(vec![member("a", None, &[])]), false),
            "\nGROUP           COORDINATOR (ID)          ASSIGNMENT-STRATEGY  STATE                #MEMBERS\n\
             g1              127.0.0.1:24092  (1)      range                Stable               1\n"
        );
        let described = GroupDescription { epochs: Some((2, 3)), assignor: String::new(), ..group(vec![]) };
        assert!(state_text(&described, true).ends_with("Stable               2               3                         0\n"));
    }
}
