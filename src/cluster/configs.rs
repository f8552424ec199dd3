//! Changes of configurations at run time: what is asked of a topic, a group or of brokers becomes the record of all that it then has, or a refusal in
//! Kafka's words.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::controller::{self, Refusal, refuse};
use super::group_config;
use super::image::Image;
use super::names;
use super::record::MetadataRecord;
use super::settings::{Configs, bytes_of, bytes_of_group, check_value};
use super::topic_config;
use super::view::BrokerView;
use crate::base::config::table::{self, Kind};
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;

/// Kafka's number of topics among the kinds of things that have a configuration.
pub const TOPIC: i8 = 2;
/// Likewise of brokers.
pub const BROKER: i8 = 4;

/// Likewise of groups.
pub const GROUP: i8 = 32;

/// What is to become of one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// It has this value.
    Set(&'a str),
    /// It has no value of its own any more.
    Delete,
    /// These entries are added to its list, if they are not there.
    Append(&'a str),
    /// These entries are taken out of its list.
    Subtract(&'a str),
}

/// What is asked of one topic, one group, one broker, or (without a name) of all brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alteration<'a> {
    /// [`TOPIC`], [`BROKER`], [`GROUP`], or what is refused.
    pub kind: i8,
    /// Its name.
    pub name: &'a str,
    /// Names of settings with Kafka's number of the operation and the value.
    pub changes: Vec<(&'a str, i8, Option<&'a str>)>,
    /// Settings that are not named lose their value, as in the older AlterConfigs.
    pub reset_others: bool,
}

/// A decision on one alteration: its record, or none where nothing changes.
pub type Altered = Result<Option<MetadataRecord>, Refusal>;

/// Why nothing is altered that a request names more than once.
pub fn named_twice() -> Refusal {
    Refusal { code: ErrorCode::InvalidRequest, message: "Each resource must appear at most once.".to_owned() }
}

/// The alterations of one request, of which each is decided in turn, all on the same image.
#[derive(Default)]
pub struct Alterations {
    /// Bytes of settings that the request may still add; not known before its first alteration.
    left: Option<usize>,
}

impl Alterations {
    /// Decides on the next one, which names what no other of the request does.
    pub fn decide(&mut self, image: &Image, broker: &BrokerView, asked: &Alteration) -> Altered {
        let altered = alter(image, broker, asked)?;
        let unused = || broker.settings_max.saturating_sub(image.settings_bytes());
        let left = self.left.get_or_insert_with(unused);
        let (before, after) = altered.as_ref().map_or((0, 0), |record| settings_of(record, image));
        controller::take(left, before, after).map(|()| altered)
    }
}

fn alter(image: &Image, broker: &BrokerView, asked: &Alteration) -> Altered {
    let changes = changes(asked)?;
    match asked.kind {
        TOPIC => alter_topic(image, asked, &changes),
        BROKER => alter_broker(image, broker, asked, &changes),
        GROUP => alter_group(image, asked, &changes),
        other => refuse(ErrorCode::InvalidRequest, format!("Unknown resource type {other}")),
    }
}

/// Bytes of the settings that a record replaces, and of its own.
fn settings_of(record: &MetadataRecord, image: &Image) -> (usize, usize) {
    let (before, after) = match record {
        MetadataRecord::TopicConfigs { id, configs } => {
            (image.topic_by_id(Uuid(*id)).map_or(0, |topic| bytes_of(&topic.overrides)), configs)
        }
        MetadataRecord::GroupConfigs { group, configs } => {
            let before = image.group(group).map_or(0, |own| bytes_of_group(group, &own.configs));
            return (before, bytes_of_group(group, configs.iter().map(|(name, value)| (name, value))));
        }
        MetadataRecord::BrokerConfigs { broker, configs } => (image.settings().dynamic_bytes(*broker), configs),
        _ => return (0, 0),
    };
    (before, bytes_of(after.iter().map(|(name, value)| (name, value))))
}

/// The changes, well-formed.
fn changes<'a>(asked: &Alteration<'a>) -> Result<Vec<(&'a str, Change<'a>)>, Refusal> {
    const DELETE: i8 = 1;
    let mut names = BTreeSet::new();
    if !asked.changes.iter().all(|(name, ..)| names.insert(name)) {
        return refuse(ErrorCode::InvalidRequest, "Error due to duplicate config keys");
    }
    let without: Vec<&str> =
        asked.changes.iter().filter(|(_, op, value)| *op != DELETE && value.is_none()).map(|(name, ..)| *name).collect();
    if !without.is_empty() {
        return refuse(ErrorCode::InvalidRequest, format!("Null value not supported for : {}", without.join(", ")));
    }
    let change = |&(name, op, value): &(&'a str, i8, Option<&'a str>)| match (op, value.unwrap_or_default()) {
        (0, value) => Ok((name, Change::Set(value))),
        (DELETE, _) => Ok((name, Change::Delete)),
        (2, value) => Ok((name, Change::Append(value))),
        (3, value) => Ok((name, Change::Subtract(value))),
        (other, _) => refuse(ErrorCode::InvalidRequest, format!("Unknown operations type {other}")),
    };
    asked.changes.iter().map(change).collect()
}

fn alter_topic(image: &Image, asked: &Alteration, changes: &[(&str, Change)]) -> Altered {
    if asked.name.is_empty() {
        return refuse(ErrorCode::InvalidRequest, "Default topic resources are not allowed.");
    }
    names::validate(asked.name).or_else(|text| refuse(ErrorCode::InvalidTopicException, text))?;
    let topic = image.topic(asked.name);
    let before = topic.map(|topic| topic.overrides.clone()).unwrap_or_default();
    let list = |name: &str, change: &str| {
        let key = topic_config::find(name).filter(|key| is_list(key.kind));
        let text = || format!("Can't {change} to key {name} because its type is not LIST.");
        key.map(|key| key.default).ok_or_else(|| Refusal { code: ErrorCode::InvalidConfig, message: text() })
    };
    let after = apply(&before, asked.reset_others, changes, list)?;
    let invalid = |message| Refusal { code: ErrorCode::InvalidConfig, message };
    for (name, value) in &after {
        topic_config::validate(name, value).map_err(invalid)?;
    }
    topic_config::validate_together(&after, image.settings()).map_err(invalid)?;
    match topic {
        None => refuse(ErrorCode::UnknownTopicOrPartition, format!("The topic '{}' does not exist.", asked.name)),
        Some(_) if after == before => Ok(None),
        Some(topic) => Ok(Some(MetadataRecord::TopicConfigs { id: topic.id.0, configs: after.into_iter().collect() })),
    }
}

fn alter_broker(image: &Image, broker: &BrokerView, asked: &Alteration, changes: &[(&str, Change)]) -> Altered {
    let invalid = |text: String| refuse(ErrorCode::InvalidRequest, text);
    let scope = match asked.name.parse::<i32>() {
        _ if asked.name.is_empty() => None,
        Ok(_) if asked.name == broker.node_id.to_string() => Some(broker.node_id),
        Ok(_) => return invalid(format!("Unexpected broker id, expected {}, but received {}", broker.node_id, asked.name)),
        Err(_) => return invalid(format!("Node id must be an integer, but it is: {}", asked.name)),
    };
    let fixed = |name: &str| !table::is_dynamic(name);
    let mut never: Vec<&str> =
        changes.iter().filter(|(name, change)| *change != Change::Delete && fixed(name)).map(|(name, _)| *name).collect();
    if !never.is_empty() {
        never.sort_unstable();
        return invalid(format!("Cannot update these configs dynamically: [{}]", never.join(", ")));
    }
    let before: Configs = image.settings().dynamic(scope).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let list = |name: &str, change: &str| {
        let key = table::find(name).filter(|key| is_list(key.kind));
        let text = || format!("Config value {} is not allowed for config key: {name}", change.to_lowercase());
        key.map(|key| key.default).ok_or_else(|| Refusal { code: ErrorCode::InvalidConfig, message: text() })
    };
    let after = apply(&before, asked.reset_others, changes, list)?;
    for (name, value) in &after {
        // What an older program took may stay until it is changed.
        if let Some(key) = table::find(name) {
            check_value(key, value).map_err(|message| Refusal { code: ErrorCode::InvalidRequest, message })?;
        }
    }
    if after.get("log.retention.ms").is_some_and(|value| value.trim() == "0") {
        return invalid("requirement failed: log.retention.ms must be unlimited (-1) or, greater than or equal to 1".to_owned());
    }
    let then = image.settings().with_dynamic(scope, after.clone());
    if then.number("log.cleaner.dedupe.buffer.size") / then.number("log.cleaner.threads").max(1) < 1 << 20 {
        return invalid("requirement failed: log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread.".to_owned());
    }
    if after == before {
        return Ok(None);
    }
    Ok(Some(MetadataRecord::BrokerConfigs { broker: scope, configs: after.into_iter().collect() }))
}

fn alter_group(image: &Image, asked: &Alteration, changes: &[(&str, Change)]) -> Altered {
    if asked.name.is_empty() {
        return refuse(ErrorCode::InvalidRequest, "Default group resources are not allowed.");
    }
    if asked.name.len() > group_config::NAME_MAX {
        return refuse(ErrorCode::InvalidRequest, format!("Group name is longer than {} bytes.", group_config::NAME_MAX));
    }
    let before = image.group(asked.name).map(|group| group.configs.clone()).unwrap_or_default();
    let no_list = |name: &str, change: &str| {
        let message = format!("Can't {change} to key {name} because its type is not LIST.");
        Err(Refusal { code: ErrorCode::InvalidConfig, message })
    };
    let after = apply(&before, asked.reset_others, changes, no_list)?;
    group_config::validate(&after, image.settings()).map_err(|message| Refusal { code: ErrorCode::InvalidConfig, message })?;
    if after == before {
        return Ok(None);
    }
    Ok(Some(MetadataRecord::GroupConfigs { group: asked.name.to_owned(), configs: after.into_iter().collect() }))
}

fn is_list(kind: Kind) -> bool {
    matches!(kind, Kind::List | Kind::SomeOf(_))
}

/// What there is after the changes. `list` gives the built-in value of a setting that is a list; to others nothing can be appended.
fn apply(
    before: &Configs,
    reset_others: bool,
    changes: &[(&str, Change)],
    list: impl Fn(&str, &str) -> Result<&'static str, Refusal>,
) -> Result<Configs, Refusal> {
    let mut after = if reset_others { Configs::new() } else { before.clone() };
    for &(name, change) in changes {
        let entries = |default: &str| -> Vec<String> {
            let value = before.get(name).map_or(default, String::as_str);
            value.split(',').filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
        };
        let value = match change {
            Change::Set(value) => Some(value.to_owned()),
            Change::Delete => None,
            Change::Append(value) => {
                let mut entries = entries(list(name, "APPEND")?);
                let mut present: HashSet<String> = entries.iter().cloned().collect();
                entries.extend(value.split(',').filter(|new| present.insert((*new).to_owned())).map(str::to_owned));
                Some(entries.join(","))
            }
            Change::Subtract(value) => {
                let mut entries = entries(list(name, "SUBTRACT")?);
                // Each takes away the first that is left.
                let mut gone: HashMap<&str, usize> = HashMap::new();
                value.split(',').for_each(|entry| *gone.entry(entry).or_default() += 1);
                entries.retain(|entry| match gone.get_mut(entry.as_str()) {
                    Some(left) if *left > 0 => {
                        *left -= 1;
                        false
                    }
                    _ => true,
                });
                Some(entries.join(","))
            }
        };
        match value {
            Some(value) => after.insert(name.to_owned(), value),
            None => after.remove(name),
        };
    }
    Ok(after)
}

#[cfg(test)]
#[path = "configs_tests.rs"]
mod tests;
