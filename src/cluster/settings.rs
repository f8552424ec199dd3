//! The broker's settings by place: changed at run time for this broker or for all, configured at the start, built in.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use crate::base::config::table::{self, Key, Kind, parse_bool};
use crate::base::ids::BrokerId;

/// Longest value: what a string of Kafka's older message versions can hold.
const VALUE_MAX: usize = i16::MAX as usize;
/// Longest value that is no list and no text: a number with so many zeros in front means nothing, but would be kept.
const WORD_MAX: usize = 1024;

/// Settings by name, as they were given.
pub type Configs = BTreeMap<String, String>;

/// Bytes of the heap that one setting takes besides its texts, about, and the map of any: it grows in nodes
/// of eleven.
const SETTING_BYTES: usize = 112;
const MAP_BYTES: usize = 560;

/// Bytes of the heap that settings take, about.
pub fn bytes_of<'a>(configs: impl IntoIterator<Item = (&'a String, &'a String)>) -> usize {
    let all = configs.into_iter().map(|(name, value)| name.len() + value.len() + SETTING_BYTES).sum::<usize>();
    if all == 0 { 0 } else { MAP_BYTES + all }
}

/// Likewise those of a group, which is known by them alone: its name counts too.
pub fn bytes_of_group<'a>(id: &str, configs: impl IntoIterator<Item = (&'a String, &'a String)>) -> usize {
    const GROUP_BYTES: usize = 256;
    match bytes_of(configs) {
        0 => 0,
        bytes => GROUP_BYTES + id.len() + bytes,
    }
}

/// Whom a change of brokers' settings is for: one of them, or (`None`) all that have no value of their own.
pub type Scope = Option<BrokerId>;

/// Who set a value, with Kafka's number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// The topic's own setting.
    Topic = 1,
    /// Changed at run time, for this broker.
    DynamicBroker = 2,
    /// Changed at run time, for all brokers.
    DynamicDefaultBroker = 3,
    /// The broker's configuration.
    StaticBroker = 4,
    /// Nobody: built in.
    Default = 5,
    /// The group's own setting.
    Group = 8,
}

/// One of the places a value can come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The setting's name in that place.
    pub name: &'static str,
    /// As it was set there.
    pub value: String,
    /// The place.
    pub source: Source,
}

/// What one broker was told, and what was changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerSettings {
    node_id: BrokerId,
    given: Arc<Configs>,
    dynamic: BTreeMap<Scope, Configs>,
}

impl BrokerSettings {
    /// The settings of a broker that was started with `given`.
    pub fn new(node_id: BrokerId, given: Arc<Configs>) -> BrokerSettings {
        BrokerSettings { node_id, given, dynamic: BTreeMap::new() }
    }

    /// What was changed at run time for a scope.
    pub fn dynamic(&self, scope: Scope) -> impl Iterator<Item = (&str, &str)> {
        self.dynamic.get(&scope).into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Every scope with changes.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.dynamic.keys().copied()
    }

    /// Takes in all changes of a scope, in place of those before.
    pub fn set_dynamic(&mut self, scope: Scope, configs: Configs) {
        if configs.is_empty() {
            self.dynamic.remove(&scope);
        } else {
            self.dynamic.insert(scope, configs);
        }
    }

    /// Bytes of the heap that the changes of a scope take, about.
    pub fn dynamic_bytes(&self, scope: Scope) -> usize {
        self.dynamic.get(&scope).map_or(0, bytes_of)
    }

    /// These settings with others in place of what was changed for a scope.
    pub fn with_dynamic(&self, scope: Scope, configs: Configs) -> BrokerSettings {
        let mut next = self.clone();
        next.set_dynamic(scope, configs);
        next
    }

    /// What was set under this name, by the first place that has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.places().find_map(|(_, configs)| configs.get(name)).map(String::as_str)
    }

    /// A setting with a built-in value, as a whole number.
    pub fn number(&self, name: &str) -> i64 {
        self.parsed(name)
    }

    /// Likewise with a fraction.
    pub fn fraction(&self, name: &str) -> f64 {
        self.parsed(name)
    }

    fn parsed<T: FromStr + Default>(&self, name: &str) -> T {
        let built_in = || table::find(name).and_then(|key| key.default.parse().ok());
        self.get(name).and_then(|value| value.trim().parse().ok()).or_else(built_in).unwrap_or_default()
    }

    fn places(&self) -> impl Iterator<Item = (Source, &Configs)> {
        let own = self.dynamic.get(&Some(self.node_id)).map(|configs| (Source::DynamicBroker, configs));
        let all = self.dynamic.get(&None).map(|configs| (Source::DynamicDefaultBroker, configs));
        own.into_iter().chain(all).chain([(Source::StaticBroker, &*self.given)])
    }

    /// The synonyms that Kafka shows for a list of broker settings, of which the first gives the leading name: by place, within a place in
    /// the order of the list, but none above the first that has the leading name (`log.retention.ms`, say). So a `log.retention.hours`
    /// alone decides the value and yet is not shown.
    pub fn synonyms(&self, keys: &[&'static Key]) -> Vec<Synonym> {
        let in_place = |(source, configs): (Source, &Configs)| {
            let one = |key: &&'static Key| configs.get(key.name).map(|value| Synonym { name: key.name, value: value.clone(), source });
            keys.iter().filter_map(one).collect::<Vec<_>>()
        };
        let built_in = keys.iter().filter(|key| !key.default.is_empty());
        let built_in = built_in.map(|key| Synonym { name: key.name, value: key.default.to_owned(), source: Source::Default });
        let leading = keys.first().map_or("", |key| key.name);
        self.places().flat_map(in_place).chain(built_in).skip_while(|place| place.name != leading).collect()
    }
}

/// Whether a setting may have this value; the error is Kafka's text.
pub fn check_value(key: &Key, value: &str) -> Result<(), String> {
    let name = key.name;
    let longest = if matches!(key.kind, Kind::List | Kind::Text) { VALUE_MAX } else { WORD_MAX };
    if value.len() > longest {
        return Err(format!("Invalid value for configuration {name}: Longer than {longest} bytes"));
    }
    let value = value.trim();
    let wrong = |value: &str, reason: &str| Err(format!("Invalid value {value} for configuration {name}: {reason}"));
    let number = |kind: &str, parsed: Option<Result<(), String>>| match parsed {
        None => wrong(value, &format!("Not a number of type {kind}")),
        Some(Err(reason)) => wrong(value, &reason),
        Some(Ok(())) => Ok(()),
    };
    match key.kind {
        _ if name == "compression.gzip.level" && value == "0" => wrong(value, GZIP_LEVELS),
        Kind::Int(-1, 9) => number("INT", value.parse().ok().map(|v: i32| in_range(v, -1, 9, false).map_err(|_| GZIP_LEVELS.to_owned()))),
        Kind::Int(low, high) => number("INT", value.parse().ok().map(|v: i32| in_range(v, low, high, high == i32::MAX))),
        Kind::Long(low, high) => number("LONG", value.parse().ok().map(|v: i64| in_range(v, low, high, high == i64::MAX))),
        Kind::Double(low, high) => number("DOUBLE", value.parse().ok().map(|v: f64| in_range(v, low, high, false))),
        Kind::Bool if parse_bool(value).is_none() => wrong(value, "Expected value to be either true or false"),
        Kind::OneOfAnyCase(choice) if !key.kind.accepts(value) => {
            let choice = choice.join(", ").to_ascii_uppercase();
            wrong(value, &format!("String must be one of (case insensitive): {choice}"))
        }
        Kind::OneOf(choice) if !choice.contains(&value) => wrong(value, &format!("String must be one of: {}", choice.join(", "))),
        Kind::SomeOf(choice) => match items(value).find(|item| !choice.contains(item)) {
            Some(item) => wrong(item, &format!("String must be one of: {}", choice.join(", "))),
            None => Ok(()),
        },
        Kind::Size(..) if !key.kind.accepts(value) => wrong(value, &format!("Must be {}", key.kind.allowed())),
        _ => Ok(()),
    }
}

const GZIP_LEVELS: &str = "Value must be between 1 and 9 or equal to -1";

fn in_range<T: PartialOrd + std::fmt::Display>(value: T, low: T, high: T, open: bool) -> Result<(), String> {
    match () {
        () if value >= low && value <= high => Ok(()),
        () if open || value < low => Err(format!("Value must be at least {low}")),
        () => Err(format!("Value must be no more than {high}")),
    }
}

/// The entries of a list value; an empty text is an empty list.
pub fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(move |_| !value.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn shown(settings: &BrokerSettings, names: &[&str]) -> Vec<(&'static str, String, i8)> {
        let keys: Vec<&'static Key> = names.iter().map(|name| table::find(name).unwrap()).collect();
        settings.synonyms(&keys).into_iter().map(|place| (place.name, place.value, place.source as i8)).collect()
    }

    #[test]
    fn no_value_is_long_but_a_list() {
        let key = |kind| Key { name: "k", kind, default: "", meaning: "" };
        let zeros = |n: usize| "0".repeat(n - 1) + "5";
        for kind in [Kind::Long(0, 9), Kind::Int(0, 9), Kind::Double(0.0, 9.0)] {
            assert_eq!(check_value(&key(kind), &zeros(WORD_MAX)), Ok(()));
            let refused = check_value(&key(kind), &zeros(WORD_MAX + 1)).unwrap_err();
            assert_eq!(refused, "Invalid value for configuration k: Longer than 1024 bytes");
        }
        let policies = "compact,".repeat(200) + "compact";
        assert!(check_value(&key(Kind::SomeOf(&["compact"])), &policies).is_err());
        assert_eq!(check_value(&key(Kind::List), &"0".repeat(VALUE_MAX)), Ok(()));
        assert!(check_value(&key(Kind::List), &"0".repeat(VALUE_MAX + 1)).is_err());
    }

    #[test]
    fn numbers_are_those_given_or_built_in() {
        let given = configs(&[("log.cleaner.io.buffer.load.factor", " 0.25 "), ("max.connections", "9")]);
        let settings = BrokerSettings::new(1, Arc::new(given));
        assert_eq!(settings.fraction("log.cleaner.io.buffer.load.factor"), 0.25);
        assert_eq!(settings.number("max.connections"), 9);
        let settings = BrokerSettings::new(1, Arc::default());
        assert_eq!(settings.fraction("log.cleaner.io.buffer.load.factor"), 0.9);
        assert_eq!(settings.number("log.cleaner.delete.retention.ms"), 86_400_000);
    }

    /// As a real Kafka 4.3.1 describes them after the same changes.
    #[test]
    fn places_in_their_order() {
        let mut settings = BrokerSettings::new(1, Arc::new(configs(&[("log.retention.minutes", "50"), ("max.connections", "9")])));
        let retention = ["log.retention.ms", "log.retention.minutes", "log.retention.hours"];
        assert_eq!(shown(&settings, &retention), []);
        settings.set_dynamic(Some(1), configs(&[("log.retention.ms", "5000")]));
        settings.set_dynamic(Some(2), configs(&[("log.retention.ms", "1")]));
        settings.set_dynamic(None, configs(&[("log.retention.ms", "7000"), ("max.connections", "8")]));
        let place = |name, value: &str, source| (name, value.to_owned(), source);
        let expected = [
            place("log.retention.ms", "5000", 2),
            place("log.retention.ms", "7000", 3),
            place("log.retention.minutes", "50", 4),
            place("log.retention.hours", "168", 5),
        ];
        assert_eq!(shown(&settings, &retention), expected);
        assert_eq!((settings.get("log.retention.ms"), settings.number("max.connections")), (Some("5000"), 8));
        settings.set_dynamic(Some(1), Configs::new());
        assert_eq!(settings.get("log.retention.ms"), Some("7000"));
        assert_eq!(settings.scopes().collect::<Vec<_>>(), [None, Some(2)]);
        let before = settings.with_dynamic(None, Configs::new());
        assert_eq!((before.get("log.retention.ms"), before.number("max.connections"), before.number("num.partitions")), (None, 9, 1));
    }
}
