//! What the tools share: where the cluster is, how they end, how they print.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use regex::Regex;

use crate::base::config::properties;
use crate::base::error::ErrorCode;
use crate::client::{Client, ClientConfig, ClientError};

/// The text of bytes as Java decodes them from UTF-8: what is not text becomes U+FFFD, an encoded surrogate becomes one of them and not one a byte.
pub fn java_text(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while let Some(chunk) = bytes.utf8_chunks().next() {
        text.push_str(chunk.valid());
        if chunk.invalid().is_empty() {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        bytes = &bytes[chunk.valid().len()..];
        let skipped = match bytes {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => 3,
            [0xed, 0xa0..=0xbf, ..] => 2,
            _ => chunk.invalid().len(),
        };
        bytes = &bytes[skipped..];
    }
    text
}

/// How a tool ends when it does not end well.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something that there is not.
    Usage(String),
    /// Said on standard error.
    Failed(String),
    /// Said on standard output, as some of Kafka's tools do.
    Told(String),
    /// Everything was said already.
    Silent,
    /// Nobody reads what is printed: the end of a pipe is closed. No error, and nothing to say.
    Unread,
}

/// What a tool's work comes to.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Says what there is to say; `tool` is the subcommand's name.
    pub fn report(self, tool: &str) -> ExitCode {
        match self {
            Failure::Usage(text) => eprintln!("{text}\nFor the options, try 'corelane {tool} --help'."),
            Failure::Failed(text) => eprintln!("{text}"),
            Failure::Told(text) => {
                if let Err(Failure::Failed(text)) = print(&format!("{text}\n")) {
                    eprintln!("{text}");
                }
            }
            Failure::Silent => {}
            Failure::Unread => return ExitCode::SUCCESS,
        }
        ExitCode::FAILURE
    }
}

/// Errors of standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Unread,
            _ => Failure::Failed(format!("cannot write to standard output: {error}")),
        }
    }
}

/// A refusal of the command line.
pub fn usage<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Failure::Usage(text.into()))
}

/// Prints to standard output, in one piece.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The forms that listings come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Kafka's text.
    #[default]
    Text,
    /// One JSON document, for programs.
    Json,
}

/// Where the cluster is.
#[derive(Clone, Debug, Default, Args)]
pub struct Connect {
    /// REQUIRED: Brokers to connect to, separated by commas
    #[arg(long, value_name = "HOST:PORT,...")]
    pub bootstrap_server: Option<String>,
    /// Properties file with settings of the client
    #[arg(long, value_name = "FILE")]
    pub command_config: Option<PathBuf>,
}

impl Connect {
    /// The settings of the file, if there is one.
    pub fn properties(&self) -> Outcome<BTreeMap<String, String>> {
        self.command_config.as_deref().map_or_else(|| Ok(BTreeMap::new()), read_properties)
    }

    /// A client, not connected yet.
    pub fn client(&self, client_id: &str) -> Outcome<Client> {
        let Some(servers) = &self.bootstrap_server else {
            return usage("Missing required argument \"[bootstrap-server]\"");
        };
        client(servers, &self.properties()?, client_id)
    }
}

/// A client for these servers and client settings, not connected yet.
pub fn client(servers: &str, settings: &BTreeMap<String, String>, client_id: &str) -> Outcome<Client> {
    let bootstrap: Vec<String> = servers.split(',').map(str::trim).filter(|server| !server.is_empty()).map(str::to_owned).collect();
    if bootstrap.is_empty() || bootstrap.iter().any(|server| server.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err())) {
        return usage(format!("--bootstrap-server must be a list of HOST:PORT, separated by commas, not '{servers}'"));
    }
    if let Some(protocol) = settings.get("security.protocol").filter(|protocol| *protocol != "PLAINTEXT") {
        return Err(Failure::Failed(format!("security.protocol={protocol}: the tools of this version speak PLAINTEXT only")));
    }
    Ok(Client::new(ClientConfig {
        bootstrap,
        client_id: settings.get("client.id").cloned().unwrap_or_else(|| client_id.to_owned()),
        request_timeout: Duration::from_millis(number(settings, "request.timeout.ms", 30_000)?),
        api_timeout: Duration::from_millis(number(settings, "default.api.timeout.ms", 60_000)?),
    }))
}

/// A whole number among client settings.
pub fn number(settings: &BTreeMap<String, String>, name: &str, default: u64) -> Outcome<u64> {
    match settings.get(name) {
        None => Ok(default),
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| Failure::Failed(format!("Invalid value {text} for configuration {name}: Not a number of type INT"))),
    }
}

/// True or false among settings.
pub fn flag(settings: &BTreeMap<String, String>, name: &str) -> bool {
    settings.get(name).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
}

/// Reads a properties file.
pub fn read_properties(path: &Path) -> Outcome<BTreeMap<String, String>> {
    let failed = |reason: &dyn Display| Failure::Failed(format!("cannot read {}: {reason}", path.display()));
    let content = std::fs::read(path).map_err(|error| failed(&error))?;
    Ok(properties::parse(&content).map_err(|error| failed(&error))?.into_iter().collect())
}

/// `key=value` arguments; a missing value is empty.
pub fn pairs(arguments: &[String]) -> BTreeMap<String, String> {
    let pair = |argument: &String| {
        let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
        (key.to_owned(), value.to_owned())
    };
    arguments.iter().map(pair).collect()
}

/// Refuses `used` beside any of `others`: each is whether it was given, and its name.
pub fn refuse_together(used: (bool, &str), others: &[(bool, &str)]) -> Outcome {
    match others.iter().find(|(given, _)| used.0 && *given) {
        Some((_, other)) => usage(format!("Option \"[{}]\" can't be used with option \"[{other}]\"", used.1)),
        None => Ok(()),
    }
}

/// A pattern of topics as Kafka takes it: a regular expression that has to match the whole name, in which a comma means "or".
#[derive(Clone, Debug)]
pub struct TopicPattern(Regex);

impl TopicPattern {
    /// Reads a pattern; quotes around it and spaces in it do not count.
    pub fn new(raw: &str) -> Outcome<TopicPattern> {
        let pattern = raw.trim().replace(',', "|").replace(' ', "");
        let pattern = pattern.trim_matches(['"', '\'']);
        let whole = Regex::new(&format!("^(?:{pattern})$"));
        whole.map(TopicPattern).map_err(|_| Failure::Failed(format!("{raw} is an invalid regex.")))
    }

    /// Whether a topic is meant.
    pub fn matches(&self, topic: &str) -> bool {
        self.0.is_match(topic)
    }
}

/// An error as Java prints it: the class of the exception, then its text.
pub fn java(error: &ClientError) -> String {
    let class = match error {
        ClientError::Broker(code, _) => java_class(*code),
        ClientError::Unsupported(_) => "UnsupportedVersionException".to_owned(),
        _ => return error.to_string(),
    };
    format!("org.apache.kafka.common.errors.{class}: {error}")
}

/// The name of Java's exception for an error, which the tools' texts show.
fn java_class(code: ErrorCode) -> String {
    use ErrorCode::*;
    let irregular = match code {
        UnknownServerError => "UnknownServerException",
        CorruptMessage => "CorruptRecordException",
        RequestTimedOut => "TimeoutException",
        MessageTooLarge => "RecordTooLargeException",
        RecordListTooLarge => "RecordBatchTooLargeException",
        InvalidTopicException => "InvalidTopicException",
        TopicAuthorizationFailed => "TopicAuthorizationException",
        GroupAuthorizationFailed => "GroupAuthorizationException",
        ClusterAuthorizationFailed => "ClusterAuthorizationException",
        TopicAlreadyExists => "TopicExistsException",
        InvalidConfig => "InvalidConfigurationException",
        KafkaStorageError => "KafkaStorageException",
        NonEmptyGroup => "GroupNotEmptyException",
        OutOfOrderSequenceNumber => "OutOfOrderSequenceException",
        _ => return format!("{code:?}Exception"),
    };
    irregular.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let matches = |pattern: &str, topic: &str| TopicPattern::new(pattern).unwrap().matches(topic);
        assert!(matches("orders", "orders") && !matches("orders", "orders2") && !matches("rders", "orders"));
        assert!(matches("a, b", "b") && matches("\"a.*\"", "abc") && matches("x|y", "y") && !matches("x|y", "xy"));
        assert!(TopicPattern::new("a(").is_err());
    }

    /// What Java 21 prints of the same bytes.
    #[test]
    fn javas_text() {
        let decoded = |bytes: &[u8]| java_text(bytes).replace(char::REPLACEMENT_CHARACTER, "?");
        assert_eq!(decoded("ab\u{e4}\u{20ac}\u{1f980}".as_bytes()), "ab\u{e4}\u{20ac}\u{1f980}");
        assert_eq!(decoded(b"a\xed\xa0\x80b\xed\xbf\xbfc"), "a?b?c");
        assert_eq!((decoded(b"\xed\xa0"), decoded(b"\xed\xa0A"), decoded(b"\xed\x9f")), ("?".into(), "?A".into(), "?".into()));
        assert_eq!(
            (decoded(b"\xe0\x80\x80"), decoded(b"\xf0\x90\x80A"), decoded(b"\xf4\x90\x80")),
            ("???".into(), "?A".into(), "???".into())
        );
    }

    #[test]
    fn javas_words() {
        let error = ClientError::Broker(ErrorCode::GroupIdNotFound, Some("Group g not found.".to_owned()));
        assert_eq!(java(&error), "org.apache.kafka.common.errors.GroupIdNotFoundException: Group g not found.");
        let error = ClientError::Broker(ErrorCode::NonEmptyGroup, None);
        assert_eq!(java(&error), "org.apache.kafka.common.errors.GroupNotEmptyException: The group is not empty.");
    }

    #[test]
    fn servers() {
        let connect = |servers: &str| Connect { bootstrap_server: Some(servers.to_owned()), command_config: None };
        let client = connect("a:1, b:2,").client("me").unwrap();
        assert_eq!(
            (client.config().bootstrap.as_slice(), client.config().client_id.as_str()),
            (&["a:1".to_owned(), "b:2".to_owned()][..], "me")
        );
        for bad in ["", "host", "host:x", "host:99999"] {
            assert!(matches!(connect(bad).client("me"), Err(Failure::Usage(_))), "{bad}");
        }
        assert!(matches!(Connect::default().client("me"), Err(Failure::Usage(_))));
        let settings = BTreeMap::from([("security.protocol".to_owned(), "SSL".to_owned())]);
        assert!(matches!(super::client("a:1", &settings, "me"), Err(Failure::Failed(_))));
        assert_eq!(pairs(&["a=b=c".to_owned(), "d".to_owned()]), BTreeMap::from([("a".into(), "b=c".into()), ("d".into(), String::new())]));
    }
}
