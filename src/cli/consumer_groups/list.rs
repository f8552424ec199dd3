//! `consumer-groups --list`.

use serde_json::json;

use super::super::tool::{Format, Outcome, print, usage};
use super::table::{Column, fixed, table};
use super::{ConsumerGroups, told};
use crate::client::Client;
use crate::client::groups::GroupListing;

/// Kafka's states of groups of consumers, in the order in which its tool names them.
const STATES: [&str; 7] = ["Reconciling", "PreparingRebalance", "Stable", "Assigning", "Dead", "Empty", "CompletingRebalance"];
/// Kafka's types of those groups.
const KINDS: [&str; 2] = ["Classic", "Consumer"];

impl ConsumerGroups {
    pub(super) fn list(&self, client: &mut Client) -> Outcome {
        let states = self.state.as_deref().map_or(Ok(Vec::new()), |text| filter(text, "state", &STATES))?;
        let kinds = self.kind.as_deref().map_or(Ok(Vec::new()), |text| filter(text, "types", &KINDS))?;
        let groups = client.list_groups(&states, &kinds).map_err(told)?;
        match self.format {
            Format::Text => print(&text(&groups, self.kind.is_some(), self.state.is_some())),
            Format::Json => {
                let document = groups.iter().map(|group| json!({ "group": group.id, "type": group.kind, "state": group.state }));
                print(&format!("{}\n", document.collect::<serde_json::Value>()))
            }
        }
    }
}

/// The names in a list, as Kafka spells them.
fn filter(text: &str, what: &str, known: &[&str]) -> Outcome<Vec<String>> {
    let plural = what.trim_end_matches('s');
    let name = |name: &str| match known.iter().find(|known| known.eq_ignore_ascii_case(name.trim())) {
        Some(known) => Ok((*known).to_owned()),
        None => usage(format!("Invalid {what} list '{text}'. Valid {plural}s are: {}", known.join(", "))),
    };
    text.split(',').filter(|_| !text.is_empty()).map(name).collect()
}

fn text(groups: &[GroupListing], kinds: bool, states: bool) -> String {
    if !kinds && !states {
        return groups.iter().map(|group| format!("{}\n", group.id)).collect();
    }
    let longest = groups.iter().map(|group| group.id.chars().count()).max().unwrap_or(0);
    let mut columns: Vec<Column> = vec![fixed("GROUP", longest.max(15) + 10)];
    columns.extend(kinds.then(|| fixed("TYPE", 20)));
    columns.extend(states.then(|| fixed("STATE", 20)));
    let row = |group: &GroupListing| {
        let mut row = vec![group.id.clone()];
        row.extend(kinds.then(|| group.kind.clone()));
        row.extend(states.then(|| group.state.clone()));
        row
    };
    let rows: Vec<_> = groups.iter().map(row).collect();
    table(&columns, &rows)[1..].to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::super::tool::Failure;
    use super::*;

    #[test]
    fn columns() {
        let group = |id: &str| GroupListing { id: id.into(), protocol_type: String::new(), state: "Stable".into(), kind: "Classic".into() };
        let groups = [group("g1"), group("g2")];
        assert_eq!(text(&groups, false, false), "g1\ng2\n");
        let lines = "GROUP                     TYPE                 STATE               \n\
                     g1                        Classic              Stable              \n";
        assert_eq!(text(&groups[..1], true, true), lines);
        assert_eq!(text(&[], false, true), "GROUP                     STATE               \n");
    }

    #[test]
    fn filters() {
        assert_eq!(filter("stable, EMPTY", "state", &STATES).unwrap(), ["Stable", "Empty"]);
        assert!(filter("", "state", &STATES).unwrap().is_empty());
        let Err(Failure::Usage(text)) = filter("nonsense", "state", &STATES) else { panic!() };
        assert_eq!(
            text,
            "Invalid state list 'nonsense'. Valid states are: Reconciling, PreparingRebalance, Stable, Assigning, Dead, Empty, CompletingRebalance"
        );
    }
}
