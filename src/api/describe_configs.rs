//! DescribeConfigs (32): every setting of a topic, a group or this broker, where its value comes from, and what it would else be.

use std::collections::BTreeSet;

use super::error_text;
use crate::base::config::table::{self, Key, Kind};
use crate::base::error::ErrorCode;
use crate::cluster::configs::{BROKER, GROUP, TOPIC};
use crate::cluster::group_config;
use crate::cluster::image::Image;
use crate::cluster::names;
use crate::cluster::settings::{Configs, Source, Synonym};
use crate::cluster::topic_config;
use crate::cluster::view::BrokerView;
use crate::wire::codec::DescribeConfigsRequest;
use crate::wire::codec::describe_configs_request::DescribeConfigsResource;
use crate::wire::codec::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym};

type Entries = Result<Vec<DescribeConfigsResourceResult>, (ErrorCode, Option<String>)>;

/// Bytes of the heap that the answer for one resource takes while it is made, about.
pub const RESOURCE_BYTES: usize = 64 << 10;

/// Takes out resources of which the same settings are asked for twice: a short request would get a
/// long answer.
pub fn distinct(request: &mut DescribeConfigsRequest) {
    let mut seen = BTreeSet::new();
    request.resources.retain(|resource| {
        let settings = resource.configuration_keys.clone();
        seen.insert((resource.resource_type, resource.resource_name.clone(), settings))
    });
}

/// The answer for one resource. Topics, groups and brokers have settings; other kinds of resources do
/// not exist in this broker.
pub fn describe(
    resource: &DescribeConfigsResource,
    request: &DescribeConfigsRequest,
    image: &Image,
    broker: &BrokerView,
) -> DescribeConfigsResult {
    let mut result = DescribeConfigsResult::default();
    result.resource_type = resource.resource_type;
    result.resource_name = resource.resource_name.clone();
    let entries = match resource.resource_type {
        TOPIC => topic_entries(&resource.resource_name, image),
        BROKER => broker_entries(&resource.resource_name, image, broker),
        GROUP => group_entries(&resource.resource_name, image),
        _ => Err((ErrorCode::InvalidRequest, Some(ErrorCode::InvalidRequest.message().to_owned()))),
    };
    match entries {
        Ok(entries) => result.configs = entries,
        Err((code, text)) => (result.error_code, result.error_message) = (code.code(), text.as_deref().and_then(error_text)),
    }
    let keys = resource.configuration_keys.as_deref().unwrap_or_default();
    if !keys.is_empty() {
        result.configs.retain(|entry| keys.contains(&entry.name));
    }
    for entry in &mut result.configs {
        if !request.include_synonyms {
            entry.synonyms.clear();
        }
        if !request.include_documentation {
            entry.documentation = None;
        }
    }
    result
}

fn topic_entries(name: &str, image: &Image) -> Entries {
    names::validate(name).map_err(|text| (ErrorCode::InvalidTopicException, Some(text)))?;
    let topic = image.topic(name).ok_or((ErrorCode::UnknownTopicOrPartition, Some(String::new())))?;
    let settings = topic_config::effective(&topic.overrides, image.settings());
    Ok(settings.map(|setting| entry(setting.key, Some(&setting.value), setting.source, &setting.synonyms)).collect())
}

/// Settings of a group, which need not exist.
fn group_entries(id: &str, image: &Image) -> Entries {
    if id.is_empty() {
        return Err((ErrorCode::InvalidRequest, Some("Group name must not be empty".to_owned())));
    }
    let (none, own) = (Configs::new(), image.group(id));
    let configs = own.map_or(&none, |group| &group.configs);
    let one = |(key, places): (&'static Key, Vec<Synonym>)| {
        let first = places.first();
        entry(key, Some(first.map_or(key.default, |place| &place.value)), first.map_or(Source::Default, |place| place.source), &places)
    };
    Ok(group_config::effective(configs, image.settings()).map(one).collect())
}

/// Settings of this broker: what Corelane knows, then whatever else was set.
fn broker_entries(name: &str, image: &Image, broker: &BrokerView) -> Entries {
    if name.is_empty() {
        return Ok(defaults_of_brokers(image));
    }
    let invalid = |text| Err((ErrorCode::InvalidRequest, Some(text)));
    match name.parse::<i32>() {
        Ok(id) if id == broker.node_id => {}
        Ok(id) => return invalid(format!("Unexpected broker id, expected {} or empty string, but received {id}", broker.node_id)),
        Err(_) => return invalid(format!("Broker id must be an integer, but it is: {name}")),
    }
    let known = table::BROKER.iter().chain(table::TOPIC_DEFAULTS.iter().map(|(key, _)| key));
    let mut entries: Vec<_> = known.map(|key| broker_entry(key, image, broker)).collect();
    for name in broker.settings.keys().filter(|name| table::find(name).is_none()) {
        entries.push(unknown_entry(name));
    }
    Ok(entries)
}

/// What was changed at run time for all brokers.
fn defaults_of_brokers(image: &Image) -> Vec<DescribeConfigsResourceResult> {
    let changed = image.settings().dynamic(None).filter_map(|(name, value)| Some((table::find(name)?, value)));
    let one = |(key, value): (&'static Key, &str)| {
        let place = Synonym { name: key.name, value: value.to_owned(), source: Source::DynamicDefaultBroker };
        let mut entry = entry(key, Some(value), place.source, &[place]);
        entry.read_only = !table::is_dynamic(key.name);
        entry
    };
    changed.map(one).collect()
}

fn broker_entry(key: &'static Key, image: &Image, broker: &BrokerView) -> DescribeConfigsResourceResult {
    // Fallbacks of a setting are those that follow it among the settings for the same topic setting (log.retention.hours, say).
    let topic = table::TOPIC_DEFAULTS.iter().find(|(other, _)| other.name == key.name).map(|(_, topic)| *topic);
    let same = table::TOPIC_DEFAULTS.iter().filter(|(_, other)| topic == Some(*other)).map(|(other, _)| other);
    let keys: Vec<&'static Key> = [key].into_iter().chain(same.skip_while(|other| other.name != key.name).skip(1)).collect();
    let synonyms = image.settings().synonyms(&keys);
    let node_id = broker.node_id.to_string();
    let value = match synonyms.first() {
        // The number of this node may have been given under its older name.
        _ if matches!(key.name, "node.id" | "broker.id") => Some(node_id.as_str()),
        first => first.map(|first| first.value.as_str()),
    };
    let source = synonyms.first().map_or(Source::Default, |first| first.source);
    let mut entry = entry(key, value, source, &synonyms);
    entry.read_only = !table::is_dynamic(key.name);
    entry
}

/// Something that Corelane has no use for: its value may be a secret.
fn unknown_entry(name: &str) -> DescribeConfigsResourceResult {
    let mut entry = DescribeConfigsResourceResult::default();
    entry.name = name.into();
    entry.value = None;
    entry.config_source = Source::StaticBroker as i8;
    (entry.is_sensitive, entry.read_only) = (true, true);
    let mut place = DescribeConfigsSynonym::default();
    (place.name, place.value, place.source) = (name.into(), None, Source::StaticBroker as i8);
    entry.synonyms = vec![place];
    entry
}

fn entry(key: &Key, value: Option<&str>, source: Source, synonyms: &[Synonym]) -> DescribeConfigsResourceResult {
    let mut entry = DescribeConfigsResourceResult::default();
    entry.name = key.name.into();
    entry.value = value.map(Into::into);
    entry.config_source = source as i8;
    entry.config_type = wire_type(key.kind);
    entry.documentation = Some(key.meaning.into()).filter(|_| !key.meaning.is_empty());
    let synonym = |place: &Synonym| {
        let mut synonym = DescribeConfigsSynonym::default();
        (synonym.name, synonym.value, synonym.source) = (place.name.into(), Some(place.value.as_str().into()), place.source as i8);
        synonym
    };
    entry.synonyms = synonyms.iter().map(synonym).collect();
    entry
}

/// Kafka's number of a type.
fn wire_type(kind: Kind) -> i8 {
    match kind {
        Kind::Bool => 1,
        Kind::Text | Kind::OneOf(_) | Kind::OneOfAnyCase(_) | Kind::Size(..) => 2,
        Kind::Int(..) => 3,
        Kind::Long(..) => 5,
        Kind::Double(..) => 6,
        Kind::List | Kind::SomeOf(_) => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::DescribeConfigsResponse;

    fn respond(request: &DescribeConfigsRequest, image: &Image, broker: &BrokerView) -> DescribeConfigsResponse {
        let mut response = DescribeConfigsResponse::default();
        response.results = request.resources.iter().map(|resource| describe(resource, request, image, broker)).collect();
        response
    }
    use crate::api::testing::{broker, image, in_every_version};
    use crate::wire::versions::ApiKey;

    const SETTINGS: &[(&str, &str)] =
        &[("message.max.bytes", "2000000"), ("broker.id", "1"), ("log.retention.minutes", "50"), ("ssl.keystore.password", "secret")];

    fn request(resource_type: i8, name: &str, keys: &[&str]) -> DescribeConfigsRequest {
        let mut resource = DescribeConfigsResource::default();
        (resource.resource_type, resource.resource_name) = (resource_type, name.into());
        resource.configuration_keys = (!keys.is_empty()).then(|| keys.iter().map(|&key| key.into()).collect());
        let mut request = DescribeConfigsRequest::default();
        request.resources = vec![resource];
        (request.include_synonyms, request.include_documentation) = (true, true);
        request
    }

    fn answer(request: &DescribeConfigsRequest) -> DescribeConfigsResult {
        let broker = broker(SETTINGS);
        respond(request, &image(&broker, &[("t", 1, 1)]), &broker).results.remove(0)
    }

    fn one(resource_type: i8, name: &str, key: &str) -> (Option<String>, i8, i8, Vec<(String, i8)>) {
        let mut configs = answer(&request(resource_type, name, &[key])).configs;
        assert_eq!(configs.len(), 1, "{key}");
        let entry = configs.remove(0);
        let synonyms = entry.synonyms.iter().map(|place| (place.name.to_string(), place.source)).collect();
        (entry.value.map(|value| value.to_string()), entry.config_source, entry.config_type, synonyms)
    }

    fn places(places: &[(&str, i8)]) -> Vec<(String, i8)> {
        places.iter().map(|&(name, source)| (name.to_owned(), source)).collect()
    }

    #[test]
    fn topics() {
        let all = answer(&request(TOPIC, "t", &[]));
        assert_eq!((all.error_code, all.configs.len()), (0, topic_config::TABLE.len()));
        // What kafka-topics --describe prints as the topic's Configs.
        let told: Vec<_> = all.configs.iter().filter(|entry| entry.config_source != 5).map(|entry| entry.name.as_str()).collect();
        assert_eq!(told, ["cleanup.policy", "max.message.bytes"]);
        assert!(all.configs.iter().all(|entry| !entry.read_only && !entry.is_sensitive && entry.documentation.is_some()));
        let policy = one(TOPIC, "t", "cleanup.policy");
        assert_eq!(policy, (Some("compact".into()), 1, 7, places(&[("cleanup.policy", 1), ("log.cleanup.policy", 5)])));
        let bytes = one(TOPIC, "t", "max.message.bytes");
        assert_eq!(bytes, (Some("2000000".into()), 4, 3, places(&[("message.max.bytes", 4), ("message.max.bytes", 5)])));
    }

    #[test]
    fn this_broker() {
        assert_eq!(one(BROKER, "1", "node.id").0, Some("1".into()));
        let minutes = one(BROKER, "1", "log.retention.minutes");
        assert_eq!(minutes, (Some("50".into()), 4, 3, places(&[("log.retention.minutes", 4), ("log.retention.hours", 5)])));
        assert_eq!(one(BROKER, "1", "log.retention.ms"), (None, 5, 5, vec![]));
        assert_eq!(one(BROKER, "1", "ssl.keystore.password"), (None, 4, 0, places(&[("ssl.keystore.password", 4)])));
        assert_eq!(one(BROKER, "1", "num.partitions").0, Some("1".into()));
        assert_eq!(answer(&request(BROKER, "", &[])).configs.len(), 0);
        let names: Vec<_> = answer(&request(BROKER, "1", &[])).configs.iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn resources_that_do_not_exist() {
        let code = |resource_type, name| {
            let result = answer(&request(resource_type, name, &[]));
            (result.error_code, result.error_message.map(|text| text.to_string()))
        };
        assert_eq!(code(TOPIC, "nope"), (3, Some(String::new())), "as Kafka");
        let text = "Topic name is invalid: the empty string is not allowed";
        assert_eq!(code(TOPIC, ""), (17, Some(text.into())));
        assert_eq!(code(BROKER, "7"), (42, Some("Unexpected broker id, expected 1 or empty string, but received 7".into())));
        assert_eq!(code(BROKER, "x"), (42, Some("Broker id must be an integer, but it is: x".into())));
        assert_eq!(code(8, "1").0, 42);
    }

    #[test]
    fn synonyms_and_texts_only_when_asked() {
        let mut request = request(TOPIC, "t", &[]);
        (request.include_synonyms, request.include_documentation) = (false, false);
        assert!(answer(&request).configs.iter().all(|entry| entry.synonyms.is_empty() && entry.documentation.is_none()));
    }

    #[test]
    fn every_version_encodes() {
        let broker = broker(SETTINGS);
        let image = image(&broker, &[("t", 1, 1)]);
        for (resource_type, name) in [(TOPIC, "t"), (TOPIC, "nope"), (BROKER, "1")] {
            in_every_version(ApiKey::DescribeConfigs, |_| respond(&request(resource_type, name, &[]), &image, &broker));
        }
    }
}
