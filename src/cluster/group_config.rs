//! The settings of single groups of the new consumer protocol: their table, Kafka's checks and error texts, and which value is in force.

use super::settings::{BrokerSettings, Configs, Source, Synonym, check_value};
use crate::base::config::GroupOverrides;
use crate::base::config::table::{self, Key, Kind};

/// Longest name of a group with settings, bytes: what a string of Kafka's older message versions can hold.
pub const NAME_MAX: usize = i16::MAX as usize;

const SESSION: &str = "consumer.session.timeout.ms";
const HEARTBEAT: &str = "consumer.heartbeat.interval.ms";
const ASSIGNMENT: &str = "consumer.assignment.interval.ms";

/// Every setting. What a group does not set is the broker's `group.` and the name.
pub const TABLE: &[Key] = &[
    Key { name: ASSIGNMENT, kind: Kind::Int(0, i32::MAX), default: "1000", meaning: "Time between two assignments of the group." },
    Key { name: HEARTBEAT, kind: Kind::Int(1, i32::MAX), default: "5000", meaning: "How often the group's members are told to report." },
    Key { name: SESSION, kind: Kind::Int(1, i32::MAX), default: "45000", meaning: "A member that is silent for this long is removed." },
];

/// One group with settings of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSettings {
    /// As they were given.
    pub configs: Configs,
    /// What they come to.
    pub overrides: GroupOverrides,
}

impl GroupSettings {
    /// Settings on a broker. What its bounds do not allow any more is the nearest value that they do.
    pub fn resolve(configs: Configs, settings: &BrokerSettings) -> GroupSettings {
        let own = |name: &str| {
            let value: i64 = configs.get(name)?.trim().parse().ok()?;
            let (low, high) = bounds(name, settings);
            i32::try_from(value.max(low).min(high)).ok()
        };
        let overrides = GroupOverrides {
            session_timeout_ms: own(SESSION),
            heartbeat_interval_ms: own(HEARTBEAT),
            assignment_interval_ms: own(ASSIGNMENT),
        };
        GroupSettings { configs, overrides }
    }
}

/// The broker's setting that a group's falls back to.
fn brokers_key(name: &str) -> Option<&'static Key> {
    table::find(&format!("group.{name}"))
}

/// The broker's smallest and largest value.
fn bounds(name: &str, settings: &BrokerSettings) -> (i64, i64) {
    let bound = |which: &str| settings.number(&name.replacen("consumer.", &format!("group.consumer.{which}."), 1));
    (bound("min"), bound("max"))
}

/// What is wrong with a group's settings; the error is Kafka's text.
pub fn validate(configs: &Configs, settings: &BrokerSettings) -> Result<(), String> {
    let find = |name: &str| TABLE.iter().find(|key| key.name == name);
    if let Some(name) = configs.keys().find(|name| find(name).is_none()) {
        return Err(format!("Unknown group config name: {name}"));
    }
    for (name, value) in configs {
        find(name).map_or(Ok(()), |key| check_value(key, value))?;
    }
    let number = |name: &str| match configs.get(name) {
        Some(value) => value.trim().parse().unwrap_or(0),
        None => settings.number(&format!("group.{name}")),
    };
    for name in [HEARTBEAT, SESSION, ASSIGNMENT] {
        let (low, high) = bounds(name, settings);
        let bound = |which: &str| name.replacen("consumer.", &format!("group.consumer.{which}."), 1);
        if number(name) < low {
            return Err(format!("{name} must be greater than or equal to {}", bound("min")));
        }
        if number(name) > high {
            return Err(format!("{name} must be less than or equal to {}", bound("max")));
        }
    }
    if number(SESSION) <= number(HEARTBEAT) {
        return Err(format!("{SESSION} must be greater than {HEARTBEAT}"));
    }
    Ok(())
}

/// Every setting with the places that have a value, most important first.
pub fn effective(configs: &Configs, settings: &BrokerSettings) -> impl Iterator<Item = (&'static Key, Vec<Synonym>)> {
    TABLE.iter().map(move |key| {
        let own = configs.get(key.name).map(|value| Synonym { name: key.name, value: value.trim().to_owned(), source: Source::Group });
        let brokers = brokers_key(key.name).map(|key| settings.synonyms(&[key])).unwrap_or_default();
        (key, own.into_iter().chain(brokers).collect())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn settings(pairs: &[(&str, &str)]) -> BrokerSettings {
        BrokerSettings::new(1, Arc::new(configs(pairs)))
    }

    /// The texts are those of a real Kafka 4.3.1.
    #[test]
    fn what_kafka_refuses() {
        let refused = |pairs: &[(&str, &str)]| validate(&configs(pairs), &settings(&[])).err().unwrap_or_default();
        assert_eq!(refused(&[(SESSION, " 50000 "), (HEARTBEAT, "5001"), (ASSIGNMENT, "0")]), "");
        assert_eq!(refused(&[(SESSION, "x")]), "Invalid value x for configuration consumer.session.timeout.ms: Not a number of type INT");
        let text = "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms";
        assert_eq!(refused(&[(SESSION, "44999")]), text);
        let text = "consumer.assignment.interval.ms must be less than or equal to group.consumer.max.assignment.interval.ms";
        assert_eq!(refused(&[(ASSIGNMENT, "15001")]), text);
        assert_eq!(refused(&[("nope", "1"), (SESSION, "x")]), "Unknown group config name: nope");
        let close = settings(&[("group.consumer.max.heartbeat.interval.ms", "50000")]);
        let text = validate(&configs(&[(HEARTBEAT, "45000")]), &close).unwrap_err();
        assert_eq!(text, "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms");
    }

    #[test]
    fn what_the_bounds_do_not_allow_any_more_is_moved_into_them() {
        let own = configs(&[(SESSION, "50000"), (HEARTBEAT, "6000")]);
        let overrides = |broker: &[(&str, &str)]| GroupSettings::resolve(own.clone(), &settings(broker)).overrides;
        let as_given =
            GroupOverrides { session_timeout_ms: Some(50_000), heartbeat_interval_ms: Some(6_000), assignment_interval_ms: None };
        assert_eq!(overrides(&[]), as_given);
        let narrower =
            overrides(&[("group.consumer.max.session.timeout.ms", "46000"), ("group.consumer.min.heartbeat.interval.ms", "7000")]);
        assert_eq!((narrower.session_timeout_ms, narrower.heartbeat_interval_ms), (Some(46_000), Some(7_000)));
    }
}
