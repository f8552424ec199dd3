//! Where the console consumer's records come from: one partition, some topics, or a group's share of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::tool::{Failure, Outcome, TopicPattern};
use crate::base::error::ErrorCode;
use crate::base::ids::{Offset, Uuid};
use crate::base::prng::Prng;
use crate::client::admin::TopicPartition;
use crate::client::consumer::{Chunk, FetchConfig, Fetcher};
use crate::client::membership::{Member, Membership, MembershipConfig};
use crate::client::modern::ModernMembership;
use crate::client::{Client, ClientError, RETRY_PAUSE};

/// Longest wait for records: so long a signal or a rebalance may go unnoticed.
const WAIT: Duration = Duration::from_millis(500);
/// How often new topics and partitions are looked for (Kafka's metadata.max.age.ms).
const REFRESH: Duration = Duration::from_secs(300);
/// The same while there is nothing to read.
const REFRESH_EMPTY: Duration = Duration::from_secs(1);

/// Which topics.
#[derive(Clone, Debug)]
pub enum Topics {
    /// This one; it may be made by asking for it.
    Named(String),
    /// All that match.
    Matching(TopicPattern),
}

/// What to read.
#[derive(Debug)]
pub enum Start {
    /// One partition from an offset on, or from one of the special values of ListOffsets.
    Partition(TopicPartition, Offset),
    /// All partitions of the topics.
    Topics(Topics),
    /// What a group gives out of the topics; with the time between commits, if there are to be any. `seed` is for the member's id, which a
    /// member of the new protocol has; without it the group is a classic one.
    Group { membership: MembershipConfig, topics: Topics, commit_interval: Option<Duration>, seed: Option<u64> },
}

/// A stream of records.
pub struct Source {
    client: Client,
    fetcher: Fetcher,
    start: Start,
    member: Option<Box<dyn Member>>,
    /// Partitions of each topic when it was last looked.
    known: BTreeMap<String, i32>,
    looked: Option<Instant>,
    /// What was printed and not committed yet.
    consumed: BTreeMap<TopicPartition, Offset>,
    committed: Instant,
    connected: bool,
    warned: bool,
}

impl Source {
    /// Not connected yet.
    pub fn new(client: Client, config: FetchConfig, start: Start) -> Source {
        let member: Option<Box<dyn Member>> = match &start {
            Start::Group { membership, seed: Some(seed), .. } => {
                let mut id = [0; 16];
                Prng::new(*seed).fill(&mut id);
                Some(Box::new(ModernMembership::new(membership.clone(), Uuid::from_random(id))))
            }
            Start::Group { membership, seed: None, .. } => Some(Box::new(Membership::new(membership.clone()))),
            _ => None,
        };
        let (known, consumed) = (BTreeMap::new(), BTreeMap::new());
        let fetcher = Fetcher::new(config);
        Source { client, fetcher, start, member, known, looked: None, consumed, committed: Instant::now(), connected: false, warned: false }
    }

    /// What has come, after a while at most; `left` is how much patience there is. Once it was connected it outlives losing the broker.
    pub fn poll(&mut self, left: Option<Duration>) -> Outcome<Vec<Chunk>> {
        match self.try_poll(left.unwrap_or(WAIT).min(WAIT)) {
            Ok(chunks) => {
                (self.connected, self.warned) = (true, false);
                Ok(chunks)
            }
            Err(error) if self.connected && passes(&error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    eprintln!("{error}; trying again");
                }
                std::thread::sleep(RETRY_PAUSE);
                Ok(Vec::new())
            }
            Err(error) => Err(Failure::Failed(error.to_string())),
        }
    }

    fn try_poll(&mut self, wait: Duration) -> Result<Vec<Chunk>, ClientError> {
        self.refresh()?;
        if let Some(member) = &mut self.member {
            if !self.known.is_empty() && !member.heartbeat(&mut self.client)? {
                self.join()?;
            }
            self.commit_when_due()?;
        }
        self.fetcher.poll(&mut self.client, wait.as_millis().max(1) as i32)
    }

    /// A record was printed; the next one to read is at `next`.
    pub fn consumed(&mut self, partition: &TopicPartition, next: Offset) {
        if self.member.is_some() {
            self.consumed.insert(partition.clone(), next);
        }
    }

    /// Looks for topics and partitions, when it is time to.
    fn refresh(&mut self) -> Result<(), ClientError> {
        let age = if self.known.is_empty() { REFRESH_EMPTY } else { REFRESH };
        if self.looked.is_some_and(|looked| looked.elapsed() < age) {
            return Ok(());
        }
        if let Start::Partition(partition, first) = &self.start {
            let (partition, first) = (partition.clone(), *first);
            return self.assign_one(partition, first);
        }
        let found = match &self.start {
            Start::Topics(topics) | Start::Group { topics, .. } => look(&mut self.client, topics)?,
            Start::Partition(..) => return Ok(()),
        };
        self.looked = Some(Instant::now());
        if found == self.known {
            return Ok(());
        }
        self.known = found;
        if self.member.is_some() { self.join() } else { self.assign_all() }
    }

    fn assign_one(&mut self, partition: TopicPartition, first: Offset) -> Result<(), ClientError> {
        let found = look(&mut self.client, &Topics::Named(partition.0.clone()))?;
        self.looked = Some(Instant::now());
        if !(0..found.get(&partition.0).copied().unwrap_or(0)).contains(&partition.1) || self.fetcher.positions().contains_key(&partition) {
            return Ok(());
        }
        let offset = match first {
            0.. => first,
            special => {
                let found = self.client.list_offsets([partition.clone()].into(), special, 0)?;
                let offset = found.into_values().next().unwrap_or(Ok(None));
                offset.map_err(|code| ClientError::Broker(code, None))?.unwrap_or(0)
            }
        };
        self.known = found;
        self.fetcher.assign(&mut self.client, [(partition, Some(offset))].into())
    }

    /// All partitions that there are; those that are read already go on where they are.
    fn assign_all(&mut self) -> Result<(), ClientError> {
        let positions = self.fetcher.positions().clone();
        let partitions = self.known.iter().flat_map(|(topic, count)| (0..*count).map(move |index| (topic.clone(), index)));
        let offsets = partitions.map(|partition| (partition.clone(), positions.get(&partition).copied())).collect();
        self.fetcher.assign(&mut self.client, offsets)
    }

    /// Joins the group, again if need be, and reads what it gives.
    fn join(&mut self) -> Result<(), ClientError> {
        self.commit()?;
        let Some(member) = &mut self.member else { return Ok(()) };
        let Start::Group { membership, .. } = &self.start else { return Ok(()) };
        // Of a partition that goes to another member nothing is known any more.
        self.consumed.clear();
        let topics: Vec<String> = self.known.keys().cloned().collect();
        let mine = member.join(&mut self.client, &topics)?;
        let committed = self.client.committed(&membership.group)?;
        let offsets = mine.into_iter().map(|partition| (partition.clone(), committed.get(&partition).map(|entry| entry.offset)));
        self.fetcher.assign(&mut self.client, offsets.collect())
    }

    fn commit_when_due(&mut self) -> Result<(), ClientError> {
        match &self.start {
            Start::Group { commit_interval: Some(interval), .. } if self.committed.elapsed() >= *interval => self.commit(),
            _ => Ok(()),
        }
    }

    fn commit(&mut self) -> Result<(), ClientError> {
        self.committed = Instant::now();
        let Start::Group { commit_interval: Some(_), .. } = &self.start else { return Ok(()) };
        let Some(member) = &mut self.member else { return Ok(()) };
        if member.commit(&mut self.client, &self.consumed)? {
            self.consumed.clear();
        }
        Ok(())
    }

    /// Commits and leaves the group.
    pub fn close(&mut self) {
        let left = self.commit().and_then(|()| match &mut self.member {
            Some(member) => member.leave(&mut self.client),
            None => Ok(()),
        });
        if let Err(error) = left {
            eprintln!("could not leave the group properly: {error}");
        }
    }
}

/// Topics and how many partitions they have; empty while there are none.
fn look(client: &mut Client, topics: &Topics) -> Result<BTreeMap<String, i32>, ClientError> {
    let names: Vec<String> = match topics {
        Topics::Named(name) => vec![name.clone()],
        Topics::Matching(pattern) => {
            let all = client.list_topics()?.into_iter();
            all.filter(|topic| !topic.internal && pattern.matches(&topic.name)).map(|topic| topic.name).collect()
        }
    };
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let response = client.metadata(Some(&names), matches!(topics, Topics::Named(_)))?;
    let mut found = BTreeMap::new();
    for topic in response.topics {
        match ErrorCode::from_code(topic.error_code) {
            ErrorCode::None => drop(found.insert(topic.name.as_deref().unwrap_or_default().to_owned(), topic.partitions.len() as i32)),
            ErrorCode::UnknownTopicOrPartition | ErrorCode::LeaderNotAvailable => {}
            code => {
                let text = format!("{} {}", topic.name.as_deref().unwrap_or_default(), code.message());
                return Err(ClientError::Broker(code, Some(text)));
            }
        }
    }
    Ok(found)
}

/// Whether trying again may help.
fn passes(error: &ClientError) -> bool {
    matches!(error, ClientError::Lost(..) | ClientError::Timeout(_) | ClientError::Unreachable(..))
        || error.is_retriable()
        || error.code() == Some(ErrorCode::UnknownTopicOrPartition)
}
