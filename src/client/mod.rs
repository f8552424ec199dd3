//! Outbound Kafka connections, for the tools: blocking, one request at a time, against any Kafka-compatible cluster.
//!
//! A tool asks, waits and prints; there is nothing that it could do meanwhile. So this is plain `std::net`, without the broker's runtime, and a
//! tool has its answer in milliseconds.

pub mod admin;
mod api;
pub mod assign;
mod connection;
pub mod consumer;
pub mod groups;
pub mod membership;
pub mod modern;
pub mod partitioner;
pub mod producer;
pub mod records;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

pub use api::Api;
pub use connection::Connection;

use crate::base::config::host_port;
use crate::base::error::ErrorCode;
use crate::base::ids::BrokerId;
use crate::wire::WireError;
use crate::wire::codec::{FindCoordinatorRequest, MetadataRequest, MetadataResponse, metadata_request};

/// Pause before something is tried again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What went wrong between a tool and a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// No connection: the address, and the system's words.
    Unreachable(String, String),
    /// The connection broke: the address, and the system's words.
    Lost(String, String),
    /// No answer in time: the address.
    Timeout(String),
    /// The broker said no: its code, and its text where it gave one.
    Broker(ErrorCode, Option<String>),
    /// The broker does not have this API, or no version of it that we speak; the API's name.
    Unsupported(&'static str),
    /// What came is no answer.
    Malformed(WireError),
}

impl ClientError {
    /// A broker's code as an error, if it is one.
    pub fn check(code: i16, message: Option<&str>) -> Result<(), ClientError> {
        match ErrorCode::from_code(code) {
            ErrorCode::None => Ok(()),
            error => Err(ClientError::Broker(error, message.map(str::to_owned))),
        }
    }

    /// The broker's code, if it was the broker that said no.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Broker(code, _) => Some(*code),
            _ => None,
        }
    }

    /// Whether the same question may have another answer in a moment.
    pub fn is_retriable(&self) -> bool {
        use ErrorCode::*;
        match self {
            ClientError::Lost(..) => true,
            ClientError::Broker(code, _) => matches!(
                code,
                LeaderNotAvailable
                    | NotLeaderOrFollower
                    | NotController
                    | CoordinatorLoadInProgress
                    | CoordinatorNotAvailable
                    | NotCoordinator
                    | NetworkException
                    | ReplicaNotAvailable
                    | OffsetNotAvailable
                    | FencedLeaderEpoch
                    | UnknownLeaderEpoch
                    | UnstableOffsetCommit
                    | RequestTimedOut
            ),
            _ => false,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Unreachable(address, reason) => write!(f, "cannot reach {address}: {reason}; is a broker listening there?"),
            ClientError::Lost(address, reason) => write!(f, "the connection to {address} broke: {reason}"),
            ClientError::Timeout(address) => write!(f, "no answer from {address} in time"),
            ClientError::Broker(code, message) => f.write_str(message.as_deref().unwrap_or(code.message())),
            ClientError::Unsupported(api) => write!(f, "The node does not support {api}"),
            ClientError::Malformed(error) => write!(f, "an answer cannot be understood: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> ClientError {
        ClientError::Malformed(error)
    }
}

/// Where to reach a cluster, and how long to be patient.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// HOST:PORT of brokers; the first that can be reached is asked.
    pub bootstrap: Vec<String>,
    /// The name that the broker logs.
    pub client_id: String,
    /// How long one connection or answer may take.
    pub request_timeout: Duration,
    /// How long an operation is repeated while its failure may be passing.
    pub api_timeout: Duration,
}

/// Connections to the nodes of one cluster, made when they are needed.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    addresses: BTreeMap<BrokerId, String>,
    connections: HashMap<String, Connection>,
    controller: BrokerId,
}

impl Client {
    /// Not connected yet.
    pub fn new(config: ClientConfig) -> Client {
        Client { config, addresses: BTreeMap::new(), connections: HashMap::new(), controller: -1 }
    }

    /// How patient this client is.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Asks any node.
    pub fn ask<Q: Api>(&mut self, request: &Q) -> Result<Q::Response, ClientError> {
        let mut last = None;
        for address in self.config.bootstrap.clone() {
            match self.connection(&address) {
                Ok(connection) => {
                    let answer = connection.call(request);
                    return self.settle(&address, answer);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Unreachable(String::new(), "no address given".to_owned())))
    }

    /// Asks one node.
    pub fn ask_node<Q: Api>(&mut self, node: BrokerId, request: &Q) -> Result<Q::Response, ClientError> {
        let address = self.address(node)?;
        let answer = self.connection(&address)?.call(request);
        self.settle(&address, answer)
    }

    /// Sends one node what is not answered.
    pub fn tell_node<Q: Api>(&mut self, node: BrokerId, request: &Q) -> Result<(), ClientError> {
        let address = self.address(node)?;
        let sent = self.connection(&address)?.tell(request);
        self.settle(&address, sent)
    }

    fn address(&mut self, node: BrokerId) -> Result<String, ClientError> {
        if !self.addresses.contains_key(&node) {
            self.metadata(Some(&[]), false)?;
        }
        let missing = || ClientError::Unreachable(format!("broker {node}"), "it is not in the cluster's metadata".to_owned());
        self.addresses.get(&node).cloned().ok_or_else(missing)
    }

    /// Asks the controller.
    pub fn ask_controller<Q: Api>(&mut self, request: &Q) -> Result<Q::Response, ClientError> {
        if self.controller < 0 {
            self.metadata(Some(&[]), false)?;
        }
        match self.controller {
            -1 => self.ask(request),
            node => self.ask_node(node, request),
        }
    }

    /// Does something again while its failure may be passing, at most for the API timeout.
    pub fn retry<T>(&mut self, mut attempt: impl FnMut(&mut Client) -> Result<T, ClientError>) -> Result<T, ClientError> {
        let deadline = Instant::now() + self.config.api_timeout;
        loop {
            match attempt(self) {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    self.controller = -1;
                    std::thread::sleep(RETRY_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// The nodes and topics; `None` means all topics, none of them only the nodes. With `create` the broker may make what is missing.
    pub fn metadata(&mut self, topics: Option<&[&str]>, create: bool) -> Result<MetadataResponse, ClientError> {
        let mut request = MetadataRequest::default();
        request.topics = topics.map(|names| {
            let topic = |name: &&str| {
                let mut topic = metadata_request::MetadataRequestTopic::default();
                topic.name = Some((*name).into());
                topic
            };
            names.iter().map(topic).collect()
        });
        request.allow_auto_topic_creation = create;
        let response = self.ask(&request)?;
        ClientError::check(response.error_code, None)?;
        self.addresses = response.brokers.iter().map(|node| (node.node_id, host_port(&node.host, node.port))).collect();
        self.controller = response.controller_id;
        Ok(response)
    }

    /// The node that coordinates a group: its id, and HOST:PORT.
    pub fn coordinator(&mut self, group: &str) -> Result<(BrokerId, String), ClientError> {
        let mut request = FindCoordinatorRequest::default();
        request.key = group.into();
        let found = self.ask(&request)?;
        ClientError::check(found.error_code, found.error_message.as_deref().filter(|text| *text != "NONE"))?;
        let address = host_port(&found.host, found.port);
        self.addresses.insert(found.node_id, address.clone());
        Ok((found.node_id, address))
    }

    /// All nodes that are known.
    pub fn nodes(&self) -> Vec<BrokerId> {
        self.addresses.keys().copied().collect()
    }

    /// A connection of one's own, for what must not wait behind other answers.
    pub fn connect(&self, address: &str) -> Result<Connection, ClientError> {
        Connection::open(address, &self.config.client_id, self.config.request_timeout)
    }

    fn connection(&mut self, address: &str) -> Result<&mut Connection, ClientError> {
        if !self.connections.contains_key(address) {
            let made = self.connect(address)?;
            self.connections.insert(address.to_owned(), made);
        }
        Ok(self.connections.get_mut(address).expect("just made"))
    }

    /// A connection whose last answer did not come whole cannot be used again.
    fn settle<T>(&mut self, address: &str, answer: Result<T, ClientError>) -> Result<T, ClientError> {
        if matches!(answer, Err(ClientError::Lost(..) | ClientError::Timeout(_) | ClientError::Malformed(_))) {
            self.connections.remove(address);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let error = ClientError::Unreachable("localhost:9".to_owned(), "Connection refused".to_owned());
        assert_eq!(error.to_string(), "cannot reach localhost:9: Connection refused; is a broker listening there?");
        assert!(!error.is_retriable());
        let error = ClientError::check(16, None).unwrap_err();
        assert!(error.is_retriable());
        assert_eq!(error.to_string(), "This is not the correct coordinator.");
        assert_eq!(ClientError::check(3, Some("mine")).unwrap_err().to_string(), "mine");
        assert_eq!(ClientError::check(0, Some("no error")), Ok(()));
    }
}
