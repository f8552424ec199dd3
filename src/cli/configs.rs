//! `corelane configs` (Kafka's `kafka-configs`): the dynamic settings of topics, brokers, groups and client metrics.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use regex::Regex;
use serde_json::json;

use super::tool::{Connect, Failure, Format, Outcome, java, print, read_properties, refuse_together, usage};
use crate::client::admin::{ConfigEntry, Resource};
use crate::client::{Client, ClientError};

/// Names of the sources of settings, by number.
const SOURCES: [&str; 9] = [
    "UNKNOWN",
    "DYNAMIC_TOPIC_CONFIG",
    "DYNAMIC_BROKER_CONFIG",
    "DYNAMIC_DEFAULT_BROKER_CONFIG",
    "STATIC_BROKER_CONFIG",
    "DEFAULT_CONFIG",
    "DYNAMIC_BROKER_LOGGER_CONFIG",
    "DYNAMIC_CLIENT_METRICS_CONFIG",
    "DYNAMIC_GROUP_CONFIG",
];
/// Source of what is set for all brokers.
const ALL_BROKERS: i8 = 3;

/// The kinds that have settings, under the names of the command line.
const KINDS: [(&str, Resource, i8); 5] = [
    ("topics", Resource::Topic, 1),
    ("brokers", Resource::Broker, 2),
    ("broker-loggers", Resource::BrokerLogger, 6),
    ("client-metrics", Resource::ClientMetrics, 7),
    ("groups", Resource::Group, 8),
];
/// Kinds that Kafka has besides, whose quotas and passwords this tool does not manage.
const OTHER_KINDS: [&str; 3] = ["clients", "users", "ips"];

/// Show or change dynamic settings
#[derive(Debug, Default, Args)]
pub struct Configs {
    #[command(flatten)]
    connect: Connect,
    /// Show settings
    #[arg(long)]
    describe: bool,
    /// Change settings
    #[arg(long)]
    alter: bool,
    /// With --describe: all settings, not only those that were set
    #[arg(long)]
    all: bool,
    /// topics, brokers, broker-loggers, client-metrics or groups
    #[arg(long, value_name = "KIND")]
    entity_type: Option<String>,
    /// The name of the topic or group, the id of the broker
    #[arg(long, value_name = "NAME")]
    entity_name: Option<String>,
    /// All brokers
    #[arg(long)]
    entity_default: bool,
    /// As --entity-type topics --entity-name
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// As --entity-type brokers --entity-name
    #[arg(long, value_name = "ID")]
    broker: Option<String>,
    /// As --entity-type brokers --entity-default
    #[arg(long)]
    broker_defaults: bool,
    /// As --entity-type broker-loggers --entity-name
    #[arg(long, value_name = "ID")]
    broker_logger: Option<String>,
    /// As --entity-type client-metrics --entity-name
    #[arg(long, value_name = "NAME")]
    client_metrics: Option<String>,
    /// As --entity-type groups --entity-name
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// With --alter: what to set; a value with commas stands in square brackets
    #[arg(long, value_name = "K1=V1,K2=[V2,V3]")]
    add_config: Option<String>,
    /// With --alter: properties file with what to set
    #[arg(long, value_name = "FILE")]
    add_config_file: Option<PathBuf>,
    /// With --alter: what to set back to its default
    #[arg(long, value_name = "K1,K2", value_delimiter = ',')]
    delete_config: Vec<String>,
    /// How --describe prints
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What the settings belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entity<'a> {
    /// The kind's name, as "topics".
    kind: &'static str,
    resource: Resource,
    /// Where this kind's dynamic settings come from.
    source: i8,
    /// `None`: all of this kind. Empty: all brokers together.
    name: Option<&'a str>,
}

impl Entity<'_> {
    fn singular(&self) -> &'static str {
        self.kind.trim_end_matches('s')
    }
}

impl Configs {
    /// Does what is asked for.
    pub fn run(self) -> Outcome {
        let entity = self.entity()?;
        self.check(&entity)?;
        let mut client = self.connect.client("corelane-configs")?;
        if self.alter { self.alter(&mut client, &entity) } else { self.describe(&mut client, &entity) }
    }

    fn entity(&self) -> Outcome<Entity<'_>> {
        if self.describe == self.alter {
            return usage("Command must include exactly one action: --describe, --alter");
        }
        let short = [
            ("topics", &self.topic),
            ("brokers", &self.broker),
            ("broker-loggers", &self.broker_logger),
            ("client-metrics", &self.client_metrics),
            ("groups", &self.group),
        ];
        let mut chosen: Vec<(&str, Option<&str>)> = short.iter().filter_map(|(kind, name)| Some((*kind, Some(name.as_deref()?)))).collect();
        if self.broker_defaults {
            chosen.push(("brokers", Some("")));
        }
        if (self.entity_type.is_some() || self.entity_name.is_some() || self.entity_default) && !chosen.is_empty() {
            return usage("--entity-{type,name,default} should not be used in conjunction with specific entity flags");
        }
        if let Some(kind) = &self.entity_type {
            chosen.push((kind, self.entity_name.as_deref().or(self.entity_default.then_some(""))));
        }
        let (kind, name) = match chosen.as_slice() {
            [] => return usage("At least one entity type must be specified"),
            [one] => *one,
            _ => return usage("Only 'users' and 'clients' entity types may be specified together"),
        };
        if OTHER_KINDS.contains(&kind) {
            return usage(format!("{kind}: quotas and passwords are not managed by this version"));
        }
        let known =
            KINDS.iter().find(|(known, ..)| *known == kind).map(|&(kind, resource, source)| Entity { kind, resource, source, name });
        let names: Vec<&str> = KINDS.iter().map(|(kind, ..)| *kind).collect();
        known.ok_or_else(|| Failure::Usage(format!("Invalid entity type {kind}, the entity type must be one of {}", names.join(", "))))
    }

    fn check(&self, entity: &Entity) -> Outcome {
        let adds = (self.add_config.is_some(), "add-config");
        refuse_together((self.describe, "describe"), &[adds, (!self.delete_config.is_empty(), "delete-config")])?;
        let Entity { kind, name, .. } = *entity;
        if let Some(id) = name.filter(|id| !id.is_empty() && kind.starts_with("broker") && id.parse::<i32>().is_err()) {
            return usage(format!("The entity name for {kind} must be a valid integer broker id, but it is: {id}"));
        }
        if name == Some("") && kind != "brokers" {
            return usage(format!("--entity-default must not be specified with {kind}"));
        }
        if kind == "broker-loggers" && name.is_none() {
            return usage(format!("An entity name must be specified with --describe of {kind}"));
        }
        if !self.alter {
            return Ok(());
        }
        if name.is_none() {
            return usage(format!("An entity name must be specified with --alter of {kind}"));
        }
        if self.add_config.is_some() && self.add_config_file.is_some() {
            return usage("Only one of --add-config or --add-config-file must be specified");
        }
        if self.add_config.is_none() && self.add_config_file.is_none() && self.delete_config.is_empty() {
            return usage("At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter");
        }
        Ok(())
    }

    fn alter(&self, client: &mut Client, entity: &Entity) -> Outcome {
        let added = match (&self.add_config, &self.add_config_file) {
            (_, Some(path)) => read_properties(path)?,
            (Some(text), None) => parse_added(text)?,
            _ => BTreeMap::new(),
        };
        let allowed = |key: &str| key.bytes().all(|c| c.is_ascii_alphanumeric() || b"$._-".contains(&c));
        if let Some(key) = added.keys().find(|key| !allowed(key)) {
            return usage(format!("Invalid character found for config key: {key}"));
        }
        let name = entity.name.unwrap_or_default();
        let deleted: Vec<&str> = self.delete_config.iter().map(|key| key.trim()).collect();
        if !deleted.is_empty() {
            let present = self.entries(client, entity, name)?;
            let missing: Vec<&str> = deleted.iter().copied().filter(|key| !present.iter().any(|entry| entry.name == *key)).collect();
            if !missing.is_empty() {
                return usage(format!("Invalid config(s): {}", missing.join(",")));
            }
        }
        let mut changes: Vec<(String, Option<String>)> = added.into_iter().map(|(key, value)| (key, Some(value))).collect();
        changes.extend(deleted.iter().map(|key| ((*key).to_owned(), None)));
        client.alter_configs(entity.resource, name, &changes).map_err(told)?;
        match name {
            "" => print(&format!("Completed updating default config for {} in the cluster.\n", entity.kind)),
            name => print(&format!("Completed updating config for {} {name}.\n", entity.singular())),
        }
    }

    fn describe(&self, client: &mut Client, entity: &Entity) -> Outcome {
        let names = match entity.name {
            Some(name) => {
                if !name.is_empty() && !exists(client, entity, name)? {
                    return print(&format!("The {} '{name}' doesn't exist and doesn't have dynamic config.\n", entity.singular()));
                }
                vec![name.to_owned()]
            }
            None => all_names(client, entity)?,
        };
        let mut documents = Vec::new();
        for name in names {
            let entries = self.entries(client, entity, &name)?;
            match self.format {
                Format::Text => print(&text(entity, &name, self.all, &entries))?,
                Format::Json => documents.push(document(entity, &name, &entries)),
            }
        }
        if self.format == Format::Json { print(&format!("{}\n", json!(documents))) } else { Ok(()) }
    }

    /// The settings that are shown, by name: the dynamic ones of this entity, or all.
    fn entries(&self, client: &mut Client, entity: &Entity, name: &str) -> Outcome<Vec<ConfigEntry>> {
        let described = client.describe_configs(entity.resource, &[name], true).map_err(told)?;
        let source = if name.is_empty() { ALL_BROKERS } else { entity.source };
        let mut entries: Vec<_> = described.into_iter().flat_map(|(_, entries)| entries).collect();
        entries.retain(|entry| self.all || entity.resource == Resource::BrokerLogger || entry.source == source);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

fn told(error: ClientError) -> Failure {
    match error {
        ClientError::Broker(..) => Failure::Failed(format!("Error while executing config command: {}", java(&error))),
        other => Failure::Failed(other.to_string()),
    }
}

/// Whether there is such a thing; groups and client metrics have settings before they exist.
fn exists(client: &mut Client, entity: &Entity, name: &str) -> Outcome<bool> {
    Ok(match entity.resource {
        Resource::Topic | Resource::Broker => all_names(client, entity)?.iter().any(|known| known == name),
        _ => true,
    })
}

/// All of a kind, the brokers with what is set for all of them behind.
fn all_names(client: &mut Client, entity: &Entity) -> Outcome<Vec<String>> {
    Ok(match entity.resource {
        Resource::Topic => client.list_topics().map_err(told)?.into_iter().map(|topic| topic.name).collect(),
        Resource::Broker | Resource::BrokerLogger => {
            let brokers = client.live_brokers().map_err(told)?;
            brokers.iter().map(ToString::to_string).chain([String::new()]).collect()
        }
        Resource::Group => client.list_groups(&[], &[]).map_err(told)?.into_iter().map(|group| group.id).collect(),
        Resource::ClientMetrics => return usage("An entity name must be specified with --describe of client-metrics"),
    })
}

/// What --add-config says: commas separate, but not within square brackets.
fn parse_added(text: &str) -> Outcome<BTreeMap<String, String>> {
    let mut added = BTreeMap::new();
    // A value in brackets, or one without commas.
    let pair = Regex::new(r"^\s*([^=,\[\]]+?)\s*=\s*(\[[^\]]*\]|[^,\[\]=]*?)\s*(?:,|$)").expect("a sound pattern");
    let mut rest = text;
    while !rest.is_empty() {
        let Some(found) = pair.captures(rest) else {
            return usage(
                "requirement failed: Invalid entity config: all configs to be added must be in the format \"key=val\" or  \
                 \"key=[val1,val2]\" to group values which contain commas.",
            );
        };
        added.insert(found[1].to_owned(), found[2].trim_matches(['[', ']']).trim().to_owned());
        rest = &rest[found[0].len()..];
    }
    Ok(added)
}

/// Kafka's lines.
fn text(entity: &Entity, name: &str, all: bool, entries: &[ConfigEntry]) -> String {
    let mut out = match name {
        "" => format!("Default configs for {} in the cluster are:\n", entity.kind),
        name => format!("{} configs for {} {name} are:\n", if all { "All" } else { "Dynamic" }, entity.singular()),
    };
    for entry in entries {
        let value = |value: &Option<String>| value.as_deref().unwrap_or("null").to_owned();
        let synonyms: Vec<String> =
            entry.synonyms.iter().map(|(name, of, source)| format!("{}:{name}={}", source_name(*source), value(of))).collect();
        let (name, sensitive, synonyms) = (&entry.name, entry.sensitive, synonyms.join(", "));
        let _ = writeln!(out, "  {name}={} sensitive={sensitive} synonyms={{{synonyms}}}", value(&entry.value));
    }
    out
}

fn document(entity: &Entity, name: &str, entries: &[ConfigEntry]) -> serde_json::Value {
    let entry = |entry: &ConfigEntry| {
        let synonyms =
            entry.synonyms.iter().map(|(name, value, source)| json!({ "name": name, "value": value, "source": source_name(*source) }));
        json!({
            "name": entry.name,
            "value": entry.value,
            "source": source_name(entry.source),
            "sensitive": entry.sensitive,
            "synonyms": synonyms.collect::<Vec<_>>(),
        })
    };
    json!({ "entity_type": entity.kind, "entity_name": name, "configs": entries.iter().map(entry).collect::<Vec<_>>() })
}

fn source_name(source: i8) -> &'static str {
    usize::try_from(source).ok().and_then(|source| SOURCES.get(source)).unwrap_or(&SOURCES[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tool: Configs,
    }

    fn refused(line: &str) -> String {
        let tool = Line::try_parse_from(["configs"].into_iter().chain(line.split(' '))).unwrap_or_else(|e| panic!("{e}")).tool;
        match tool.entity().and_then(|entity| tool.check(&entity)) {
            Ok(()) => String::new(),
            Err(Failure::Usage(text)) => text,
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Texts as Kafka 4.3.1 gives them.
    #[test]
    fn kafkas_refusals() {
        assert_eq!(refused("--describe"), "At least one entity type must be specified");
        assert_eq!(refused("--alter --describe --topic t"), "Command must include exactly one action: --describe, --alter");
        assert_eq!(
            refused("--alter --topic t"),
            "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter"
        );
        let together = "--entity-{type,name,default} should not be used in conjunction with specific entity flags";
        assert_eq!(refused("--describe --entity-type topics --topic t"), together);
        assert_eq!(refused("--describe --broker x"), "The entity name for brokers must be a valid integer broker id, but it is: x");
        assert_eq!(refused("--alter --entity-type topics --add-config a=b"), "An entity name must be specified with --alter of topics");
        assert!(refused("--describe --entity-type nonsense").starts_with("Invalid entity type nonsense"));
        assert!(refused("--describe --entity-type users").starts_with("users: "));
        for fine in ["--describe --topic t", "--describe --entity-type brokers", "--alter --broker-defaults --add-config a=b"] {
            assert_eq!(refused(fine), "", "{fine}");
        }
    }

    #[test]
    fn what_is_added() {
        let added = |text: &str| parse_added(text).unwrap().into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        assert_eq!(added("a=1, b = [x,y] ,c=,d=e"), ["a=1", "b=x,y", "c=", "d=e"]);
        for bad in ["a", "a=1,b", "a=b=c", "=x"] {
            assert!(parse_added(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines() {
        let synonyms = vec![("a.b".to_owned(), Some("1".to_owned()), 1), ("c".to_owned(), None, 5)];
        let entry = ConfigEntry { name: "a.b".into(), value: Some("1".into()), source: 1, sensitive: false, synonyms };
        let entity = Entity { kind: "topics", resource: Resource::Topic, source: 1, name: None };
        let line = "  a.b=1 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:a.b=1, DEFAULT_CONFIG:c=null}\n";
        assert_eq!(text(&entity, "t", false, &[entry]), format!("Dynamic configs for topic t are:\n{line}"));
        assert_eq!(text(&Entity { kind: "brokers", ..entity }, "", true, &[]), "Default configs for brokers in the cluster are:\n");
    }
}
