//! Topics, their settings and their offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Api, Client, ClientError, RETRY_PAUSE};
use crate::base::error::ErrorCode;
use crate::base::ids::{BrokerId, Offset, Uuid};
use crate::wire::codec::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeTopicPartitionsRequest, IncrementalAlterConfigsRequest, ListOffsetsRequest,
    ListPartitionReassignmentsRequest, create_partitions_request, create_topics_request, delete_records_request, describe_configs_request,
    describe_topic_partitions_request, incremental_alter_configs_request, list_offsets_request, list_partition_reassignments_request,
    metadata_response,
};

/// A topic's name and the number of a partition.
pub type TopicPartition = (String, i32);

/// How long the broker may take for a change, milliseconds.
const CHANGE_TIMEOUT_MS: i32 = 30_000;

/// One topic in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: String,
    /// Its id; zero from brokers that have none.
    pub id: Uuid,
    /// Whether it is one of the broker's own.
    pub internal: bool,
}

/// One topic with its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Name, id, kind.
    pub topic: TopicListing,
    /// By number.
    pub partitions: Vec<PartitionDescription>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub index: i32,
    /// Who leads it, if anybody does.
    pub leader: Option<BrokerId>,
    /// Who holds it.
    pub replicas: Vec<BrokerId>,
    /// Who of them is in sync.
    pub isr: Vec<BrokerId>,
    /// Who else may lead it, and who did last (KIP-966); not known from Metadata.
    pub eligible: Option<Vec<BrokerId>>,
    /// See `eligible`.
    pub last_known: Option<Vec<BrokerId>>,
    /// Replicas that a reassignment under way adds and removes.
    pub reassignment: Option<(Vec<BrokerId>, Vec<BrokerId>)>,
}

/// What kind of thing settings belong to; the numbers of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Resource {
    /// A topic.
    Topic = 2,
    /// A broker; the empty name stands for all of them.
    Broker = 4,
    /// A broker's loggers.
    BrokerLogger = 8,
    /// A subscription of client metrics.
    ClientMetrics = 16,
    /// A group.
    Group = 32,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; none if it is not set, or secret.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: i8,
    /// Whether it is kept secret.
    pub sensitive: bool,
    /// Everything it could come from, the strongest first: name, value, source.
    pub synonyms: Vec<(String, Option<String>, i8)>,
}

/// Source of a setting that nobody set.
pub const DEFAULT_SOURCE: i8 = 5;

/// A topic to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; none: the broker's default.
    pub partitions: Option<i32>,
    /// How many replicas; none: the broker's default.
    pub replication_factor: Option<i16>,
    /// The brokers of each partition, if the tool's user chose them.
    pub assignment: Vec<Vec<BrokerId>>,
    /// Settings.
    pub configs: BTreeMap<String, String>,
}

/// More partitions for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MorePartitions<'a> {
    /// Its name.
    pub name: &'a str,
    /// How many it is to have then.
    pub count: i32,
    /// The brokers of each new one, if the tool's user chose them.
    pub assignment: Option<Vec<Vec<BrokerId>>>,
}

impl Client {
    /// All topics, by name.
    pub fn list_topics(&mut self) -> Result<Vec<TopicListing>, ClientError> {
        let mut topics: Vec<_> = self.metadata(None, false)?.topics.iter().map(listing).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// The topics of these names with their partitions; `page` is how many partitions a response may hold. A topic that does not exist is an
    /// error.
    pub fn describe_topics(&mut self, names: &[&str], page: i32) -> Result<Vec<TopicDescription>, ClientError> {
        match self.describe_pages(names, page) {
            Err(ClientError::Unsupported(_)) => {
                let response = self.metadata(Some(names), false)?;
                let mut topics = response.topics.iter().map(|topic| {
                    ClientError::check(topic.error_code, None)?;
                    Ok(from_metadata(topic))
                });
                topics.by_ref().collect()
            }
            result => result,
        }
    }

    fn describe_pages(&mut self, names: &[&str], page: i32) -> Result<Vec<TopicDescription>, ClientError> {
        let mut request = DescribeTopicPartitionsRequest::default();
        request.response_partition_limit = page;
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        let topic = |name: &&str| {
            let mut topic = describe_topic_partitions_request::TopicRequest::default();
            topic.name = (*name).into();
            topic
        };
        request.topics = sorted.iter().map(topic).collect();
        let mut topics: Vec<TopicDescription> = Vec::new();
        loop {
            let response = self.ask(&request)?;
            for topic in response.topics {
                ClientError::check(topic.error_code, None)?;
                let name = topic.name.as_deref().unwrap_or_default().to_owned();
                let partitions = topic.partitions.into_iter().map(|p| PartitionDescription {
                    index: p.partition_index,
                    leader: Some(p.leader_id).filter(|leader| *leader >= 0),
                    replicas: p.replica_nodes,
                    isr: p.isr_nodes,
                    eligible: Some(p.eligible_leader_replicas.unwrap_or_default()),
                    last_known: Some(p.last_known_elr.unwrap_or_default()),
                    reassignment: None,
                });
                match topics.last_mut().filter(|last| last.topic.name == name) {
                    Some(last) => last.partitions.extend(partitions),
                    None => topics.push(TopicDescription {
                        topic: TopicListing { name, id: topic.topic_id.into(), internal: topic.is_internal },
                        partitions: partitions.collect(),
                    }),
                }
            }
            let Some(next) = response.next_cursor else { return Ok(topics) };
            let mut cursor = describe_topic_partitions_request::Cursor::default();
            (cursor.topic_name, cursor.partition_index) = (next.topic_name, next.partition_index);
            request.topics.retain(|topic| topic.name >= cursor.topic_name);
            request.cursor = Some(cursor);
        }
    }

    /// The topics of these names as Metadata tells of them; names that do not exist are left out. With `create` the broker may make them.
    pub fn topics(&mut self, names: &[&str], create: bool) -> Result<Vec<TopicDescription>, ClientError> {
        let response = self.metadata(Some(names), create)?;
        Ok(response.topics.iter().filter(|topic| topic.error_code == 0).map(from_metadata).collect())
    }

    /// Adds to the descriptions which replicas are being added and removed. Brokers that do not know are taken to do nothing of the kind.
    pub fn add_reassignments(&mut self, topics: &mut [TopicDescription]) -> Result<(), ClientError> {
        let mut request = ListPartitionReassignmentsRequest::default();
        request.timeout_ms = CHANGE_TIMEOUT_MS;
        let asked = topics.iter().map(|topic| {
            let mut asked = list_partition_reassignments_request::ListPartitionReassignmentsTopics::default();
            asked.name = topic.topic.name.as_str().into();
            asked.partition_indexes = topic.partitions.iter().map(|p| p.index).collect();
            asked
        });
        request.topics = Some(asked.collect());
        let response = match self.ask_controller(&request) {
            Err(ClientError::Unsupported(_)) => return Ok(()),
            response => response?,
        };
        match ErrorCode::from_code(response.error_code) {
            ErrorCode::ClusterAuthorizationFailed => return Ok(()),
            _ => ClientError::check(response.error_code, response.error_message.as_deref())?,
        }
        for moving in response.topics {
            let Some(topic) = topics.iter_mut().find(|topic| topic.topic.name == moving.name.as_str()) else { continue };
            for change in moving.partitions {
                if let Some(partition) = topic.partitions.iter_mut().find(|p| p.index == change.partition_index) {
                    partition.reassignment = Some((change.adding_replicas, change.removing_replicas));
                }
            }
        }
        Ok(())
    }

    /// The ids of the brokers that are up.
    pub fn live_brokers(&mut self) -> Result<Vec<BrokerId>, ClientError> {
        match self.ask(&DescribeClusterRequest::default()) {
            Err(ClientError::Unsupported(_)) => {
                self.metadata(Some(&[]), false)?;
                Ok(self.nodes())
            }
            response => {
                let response = response?;
                ClientError::check(response.error_code, response.error_message.as_deref())?;
                Ok(response.brokers.iter().map(|broker| broker.broker_id).collect())
            }
        }
    }

    /// Creates one topic.
    pub fn create_topic(&mut self, topic: &NewTopic) -> Result<(), ClientError> {
        let mut new = create_topics_request::CreatableTopic::default();
        new.name = topic.name.as_str().into();
        new.num_partitions = topic.partitions.unwrap_or(-1);
        new.replication_factor = topic.replication_factor.unwrap_or(-1);
        for (index, brokers) in (0..).zip(&topic.assignment) {
            let mut replicas = create_topics_request::CreatableReplicaAssignment::default();
            (replicas.partition_index, replicas.broker_ids) = (index, brokers.clone());
            new.assignments.push(replicas);
        }
        for (name, value) in &topic.configs {
            let mut config = create_topics_request::CreatableTopicConfig::default();
            (config.name, config.value) = (name.as_str().into(), Some(value.as_str().into()));
            new.configs.push(config);
        }
        let mut request = CreateTopicsRequest::default();
        (request.topics, request.timeout_ms) = (vec![new], CHANGE_TIMEOUT_MS);
        self.retry(|client| {
            let response = client.ask_controller(&request)?;
            let result = response.topics.first().ok_or(ClientError::Malformed(crate::wire::WireError::Truncated))?;
            ClientError::check(result.error_code, result.error_message.as_deref())
        })
    }

    /// Deletes topics by name.
    pub fn delete_topics(&mut self, names: &[&str]) -> Result<(), ClientError> {
        let mut request = DeleteTopicsRequest::default();
        request.topic_names = names.iter().map(|name| (*name).into()).collect();
        request.timeout_ms = CHANGE_TIMEOUT_MS;
        self.retry(|client| {
            let response = client.ask_controller(&request)?;
            response.responses.iter().try_for_each(|topic| ClientError::check(topic.error_code, topic.error_message.as_deref()))
        })
    }

    /// Gives topics more partitions.
    pub fn create_partitions(&mut self, topics: &[MorePartitions]) -> Result<(), ClientError> {
        let mut request = CreatePartitionsRequest::default();
        request.timeout_ms = CHANGE_TIMEOUT_MS;
        for MorePartitions { name, count, assignment } in topics {
            let mut topic = create_partitions_request::CreatePartitionsTopic::default();
            (topic.name, topic.count) = ((*name).into(), *count);
            topic.assignments = assignment.as_ref().map(|partitions| {
                let replicas = |brokers: &Vec<BrokerId>| {
                    let mut replicas = create_partitions_request::CreatePartitionsAssignment::default();
                    replicas.broker_ids = brokers.clone();
                    replicas
                };
                partitions.iter().map(replicas).collect()
            });
            request.topics.push(topic);
        }
        self.retry(|client| {
            let response = client.ask_controller(&request)?;
            response.results.iter().try_for_each(|topic| ClientError::check(topic.error_code, topic.error_message.as_deref()))
        })
    }

    /// The settings of some things of one kind, by name.
    pub fn describe_configs(
        &mut self,
        kind: Resource,
        names: &[&str],
        synonyms: bool,
    ) -> Result<Vec<(String, Vec<ConfigEntry>)>, ClientError> {
        let mut request = DescribeConfigsRequest::default();
        request.include_synonyms = synonyms;
        let resource = |name: &&str| {
            let mut resource = describe_configs_request::DescribeConfigsResource::default();
            (resource.resource_type, resource.resource_name) = (kind as i8, (*name).into());
            resource
        };
        request.resources = names.iter().map(resource).collect();
        let response = self.ask_owner(kind, names, &request)?;
        let mut described = Vec::new();
        for result in response.results {
            ClientError::check(result.error_code, result.error_message.as_deref())?;
            let entries = result.configs.into_iter().map(|config| ConfigEntry {
                name: config.name.into_string(),
                value: config.value.map(|value| value.into_string()),
                source: config.config_source,
                sensitive: config.is_sensitive,
                synonyms: config.synonyms.into_iter().map(|s| (s.name.into_string(), s.value.map(|v| v.into_string()), s.source)).collect(),
            });
            described.push((result.resource_name.into_string(), entries.collect()));
        }
        Ok(described)
    }

    /// Sets settings, and with `None` sets them back to their defaults.
    pub fn alter_configs(&mut self, kind: Resource, name: &str, changes: &[(String, Option<String>)]) -> Result<(), ClientError> {
        let mut resource = incremental_alter_configs_request::AlterConfigsResource::default();
        (resource.resource_type, resource.resource_name) = (kind as i8, name.into());
        for (name, value) in changes {
            let mut config = incremental_alter_configs_request::AlterableConfig::default();
            config.name = name.as_str().into();
            config.value = Some(value.as_deref().unwrap_or_default().into());
            config.config_operation = value.is_none().into();
            resource.configs.push(config);
        }
        let mut request = IncrementalAlterConfigsRequest::default();
        request.resources.push(resource);
        let response = self.ask_owner(kind, &[name], &request)?;
        response.responses.iter().try_for_each(|result| ClientError::check(result.error_code, result.error_message.as_deref()))
    }

    /// A broker answers for its own settings, any of them for everything else.
    fn ask_owner<Q: Api>(&mut self, kind: Resource, names: &[&str], request: &Q) -> Result<Q::Response, ClientError> {
        let broker = matches!(kind, Resource::Broker | Resource::BrokerLogger).then(|| names.first()?.parse().ok()).flatten();
        match broker {
            Some(node) => self.ask_node(node, request),
            None => self.ask(request),
        }
    }

    /// The leader of each partition that has one.
    pub fn leaders(&mut self, partitions: &BTreeSet<TopicPartition>) -> Result<BTreeMap<TopicPartition, BrokerId>, ClientError> {
        let names: BTreeSet<&str> = partitions.iter().map(|(topic, _)| topic.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let mut leaders = BTreeMap::new();
        for topic in self.topics(&names, false)? {
            for partition in &topic.partitions {
                if let Some(leader) = partition.leader {
                    leaders.insert((topic.topic.name.clone(), partition.index), leader);
                }
            }
        }
        Ok(leaders)
    }

    /// Asks each partition's leader, again while an error may be passing. `ask` answers for the partitions of one leader.
    fn ask_leaders<T>(
        &mut self,
        partitions: BTreeSet<TopicPartition>,
        mut ask: impl FnMut(&mut Client, BrokerId, &[TopicPartition]) -> Result<Vec<(TopicPartition, Result<T, ErrorCode>)>, ClientError>,
    ) -> Result<BTreeMap<TopicPartition, Result<T, ErrorCode>>, ClientError> {
        let deadline = Instant::now() + self.config().api_timeout;
        let mut done = BTreeMap::new();
        let mut left = partitions;
        loop {
            let leaders = self.leaders(&left)?;
            let mut by_leader: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
            for partition in &left {
                match leaders.get(partition) {
                    Some(leader) => by_leader.entry(*leader).or_default().push(partition.clone()),
                    None => drop(done.insert(partition.clone(), Err(ErrorCode::UnknownTopicOrPartition))),
                }
            }
            left.clear();
            for (leader, asked) in by_leader {
                for (partition, result) in ask(self, leader, &asked)? {
                    match &result {
                        Err(code) if ClientError::Broker(*code, None).is_retriable() && Instant::now() < deadline => {
                            left.insert(partition);
                        }
                        _ => drop(done.insert(partition, result)),
                    }
                }
            }
            if left.is_empty() {
                return Ok(done);
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// The offset of each partition at a time, or for one of the special values of ListOffsets (-1 the end, -2 the beginning); none where no
    /// record is that young.
    pub fn list_offsets(
        &mut self,
        partitions: BTreeSet<TopicPartition>,
        timestamp: i64,
        isolation_level: i8,
    ) -> Result<BTreeMap<TopicPartition, Result<Option<Offset>, ErrorCode>>, ClientError> {
        self.ask_leaders(partitions, |client, leader, asked| {
            let mut request = ListOffsetsRequest::default();
            (request.replica_id, request.isolation_level) = (-1, isolation_level);
            let of_partition = |(_, index): &TopicPartition| {
                let mut partition = list_offsets_request::ListOffsetsPartition::default();
                (partition.partition_index, partition.timestamp) = (*index, timestamp);
                partition
            };
            request.topics = by_topic(asked, of_partition, |topic, partitions| {
                let mut entry = list_offsets_request::ListOffsetsTopic::default();
                (entry.name, entry.partitions) = (topic.into(), partitions);
                entry
            });
            let response = client.ask_node(leader, &request)?;
            let topics = response.topics.into_iter();
            Ok(topics
                .flat_map(|topic| {
                    let name = topic.name.into_string();
                    topic.partitions.into_iter().map(move |p| {
                        let result = match ErrorCode::from_code(p.error_code) {
                            ErrorCode::None => Ok(Some(p.offset).filter(|offset| *offset >= 0)),
                            code => Err(code),
                        };
                        ((name.clone(), p.partition_index), result)
                    })
                })
                .collect())
        })
    }

    /// Deletes the records before an offset (-1: all); the answer is the new first offset of each partition.
    pub fn delete_records(
        &mut self,
        before: &BTreeMap<TopicPartition, Offset>,
    ) -> Result<BTreeMap<TopicPartition, Result<Offset, ErrorCode>>, ClientError> {
        self.ask_leaders(before.keys().cloned().collect(), |client, leader, asked| {
            let mut request = DeleteRecordsRequest::default();
            request.timeout_ms = CHANGE_TIMEOUT_MS;
            let of_partition = |asked: &TopicPartition| {
                let mut partition = delete_records_request::DeleteRecordsPartition::default();
                (partition.partition_index, partition.offset) = (asked.1, before[asked]);
                partition
            };
            request.topics = by_topic(asked, of_partition, |topic, partitions| {
                let mut entry = delete_records_request::DeleteRecordsTopic::default();
                (entry.name, entry.partitions) = (topic.into(), partitions);
                entry
            });
            let response = client.ask_node(leader, &request)?;
            let topics = response.topics.into_iter();
            Ok(topics
                .flat_map(|topic| {
                    let name = topic.name.into_string();
                    topic.partitions.into_iter().map(move |p| {
                        let result = match ErrorCode::from_code(p.error_code) {
                            ErrorCode::None => Ok(p.low_watermark),
                            code => Err(code),
                        };
                        ((name.clone(), p.partition_index), result)
                    })
                })
                .collect())
        })
    }
}

/// The part of a request that is grouped by topic. `partitions` are in the order of their topics.
pub fn by_topic<P, T>(
    partitions: &[TopicPartition],
    of_partition: impl Fn(&TopicPartition) -> P,
    of_topic: impl Fn(&str, Vec<P>) -> T,
) -> Vec<T> {
    let topics = partitions.chunk_by(|a, b| a.0 == b.0);
    topics.map(|partitions| of_topic(&partitions[0].0, partitions.iter().map(&of_partition).collect())).collect()
}

fn listing(topic: &metadata_response::MetadataResponseTopic) -> TopicListing {
    TopicListing { name: topic.name.as_deref().unwrap_or_default().to_owned(), id: topic.topic_id.into(), internal: topic.is_internal }
}

fn from_metadata(topic: &metadata_response::MetadataResponseTopic) -> TopicDescription {
    let mut partitions: Vec<PartitionDescription> = topic
        .partitions
        .iter()
        .map(|p| PartitionDescription {
            index: p.partition_index,
            leader: Some(p.leader_id).filter(|leader| *leader >= 0),
            replicas: p.replica_nodes.clone(),
            isr: p.isr_nodes.clone(),
            eligible: None,
            last_known: None,
            reassignment: None,
        })
        .collect();
    partitions.sort_by_key(|partition| partition.index);
    TopicDescription { topic: listing(topic), partitions }
}
