//! `corelane console-consumer` (Kafka's `kafka-console-consumer`): prints records.

mod formatter;
mod source;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

use self::formatter::Formatter;
use self::source::{Source, Start};
use super::dump_log::coordinator::{self, Coordinator};
use super::tool::{Failure, Outcome, TopicPattern, client, number, pairs, read_properties, usage};
use crate::base::ids::Offset;
use crate::client::consumer::{Chunk, EARLIEST, FetchConfig, LATEST};
use crate::client::membership::MembershipConfig;
use crate::client::records::Received;

/// Print records of topics
#[derive(Debug, Default, Args)]
pub struct ConsoleConsumer {
    /// REQUIRED: Brokers to connect to, separated by commas
    #[arg(long, value_name = "HOST:PORT,...")]
    bootstrap_server: Option<String>,
    /// The topic
    #[arg(long)]
    topic: Option<String>,
    /// Regular expression of topics
    #[arg(long, value_name = "PATTERN")]
    include: Option<String>,
    /// Read one partition, outside of any group
    #[arg(long)]
    partition: Option<i32>,
    /// Where to begin in it: a number, earliest or latest [default: latest]
    #[arg(long, allow_hyphen_values = true)]
    offset: Option<String>,
    /// Join this group, go on where it has committed, and commit; without it nothing is committed
    #[arg(long)]
    group: Option<String>,
    /// Begin with the first record there is, where nothing was committed
    #[arg(long)]
    from_beginning: bool,
    /// End after so many records
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    max_messages: Option<i64>,
    /// End when no record has come for so long, ms
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    timeout_ms: Option<i64>,
    /// read_committed, which leaves out the records of open and aborted transactions, or read_uncommitted
    #[arg(long, value_name = "LEVEL")]
    isolation_level: Option<String>,
    /// Accepted: Kafka's DefaultMessageFormatter and NoOpMessageFormatter
    #[arg(long, value_name = "CLASS")]
    formatter: Option<String>,
    /// How records are printed: print.timestamp, print.partition, print.offset, print.headers, print.key, print.value, key.separator,
    /// line.separator, headers.separator, null.literal, key.deserializer, value.deserializer, headers.deserializer
    #[arg(long = "formatter-property", visible_alias = "property", value_name = "NAME=VALUE")]
    formatter_properties: Vec<String>,
    /// Properties file with the same
    #[arg(long, value_name = "FILE")]
    formatter_config: Option<PathBuf>,
    /// Deserializer of keys, such as LongDeserializer
    #[arg(long, value_name = "CLASS")]
    key_deserializer: Option<String>,
    /// Deserializer of values
    #[arg(long, value_name = "CLASS")]
    value_deserializer: Option<String>,
    /// Pass over records that cannot be printed
    #[arg(long)]
    skip_message_on_error: bool,
    /// Say when the tool has ended, for Kafka's system tests
    #[arg(long, hide = true)]
    enable_systest_events: bool,
    /// A setting of the consumer
    #[arg(long = "command-property", visible_alias = "consumer-property", value_name = "NAME=VALUE")]
    command_properties: Vec<String>,
    /// Properties file with settings of the consumer
    #[arg(long, visible_alias = "consumer.config", value_name = "FILE")]
    command_config: Option<PathBuf>,
}

impl ConsoleConsumer {
    /// Prints until there is a reason to end.
    pub fn run(self) -> Outcome {
        let mut settings = self.command_config.as_deref().map_or_else(|| Ok(BTreeMap::new()), read_properties)?;
        let group = self.check(&settings)?;
        settings.append(&mut pairs(&self.command_properties));
        let formatter = self.formatter()?;
        let start = self.start(group, &settings)?;
        let config = self.fetch_config(&settings)?;
        let servers = self.bootstrap_server.as_deref().unwrap_or_default();
        let source = Source::new(client(servers, &settings, "console-consumer")?, config, start);
        let stop = stop_flag().map_err(|error| Failure::Failed(format!("cannot handle signals: {error}")))?;
        let mut printer =
            Printer { formatter, skip_errors: self.skip_message_on_error, count: 0, max: self.max_messages.filter(|max| *max >= 0) };
        let patience = self.timeout_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        let result = consume(source, &mut printer, patience, &stop);
        eprintln!("Processed a total of {} messages", printer.count);
        if self.enable_systest_events {
            super::tool::print("shutdown_complete\n")?;
        }
        result
    }

    /// Refuses what makes no sense; returns the group, if there is one.
    fn check(&self, file: &BTreeMap<String, String>) -> Outcome<Option<String>> {
        if self.topic.is_some() == self.include.is_some() {
            return usage("Exactly one of the following arguments is required: [topic], [include]");
        }
        if self.partition.is_some() {
            if self.topic.is_none() {
                return usage("The topic is required when partition is specified.");
            }
            if self.from_beginning && self.offset.is_some() {
                return usage("Options from-beginning and offset cannot be specified together.");
            }
        } else if self.offset.is_some() {
            return usage("The partition is required when offset is specified.");
        }
        if self.bootstrap_server.is_none() {
            return usage("Missing required argument \"[bootstrap-server]\"");
        }
        let properties = pairs(&self.command_properties);
        let mut groups: Vec<&String> =
            [self.group.as_ref(), file.get("group.id"), properties.get("group.id")].into_iter().flatten().collect();
        groups.dedup();
        if groups.len() > 1 {
            let names: Vec<String> = groups.iter().map(|group| format!("'{group}'")).collect();
            return usage(format!(
                "The group ids provided in different places (directly using '--group', via '--command-property', or via \
                 '--command-config') do not match. Detected group ids: {}",
                names.join(", ")
            ));
        }
        if self.partition.is_some() && !groups.is_empty() {
            return usage("Options group and partition cannot be specified together.");
        }
        Ok(groups.first().map(|group| (*group).clone()))
    }

    fn start(&self, group: Option<String>, settings: &BTreeMap<String, String>) -> Outcome<Start> {
        if let (Some(topic), Some(partition)) = (&self.topic, self.partition) {
            return Ok(Start::Partition((topic.clone(), partition), self.first_offset()?));
        }
        let topics = match (&self.topic, &self.include) {
            (Some(topic), _) => source::Topics::Named(topic.clone()),
            (None, pattern) => source::Topics::Matching(TopicPattern::new(pattern.as_deref().unwrap_or_default())?),
        };
        let Some(group) = group else { return Ok(Start::Topics(topics)) };
        let seed = match settings.get("group.protocol").map(|protocol| protocol.to_ascii_lowercase()).as_deref() {
            None | Some("classic") => None,
            Some("consumer") => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
                Some(now ^ u64::from(std::process::id()) << 40)
            }
            Some(other) => {
                let text = format!("Invalid value {other} for configuration group.protocol: String must be one of: CONSUMER, CLASSIC");
                return Err(Failure::Failed(text));
            }
        };
        let commit = settings.get("enable.auto.commit").is_none_or(|text| text.trim().eq_ignore_ascii_case("true"));
        let commit_interval = Duration::from_millis(number(settings, "auto.commit.interval.ms", 5000)?);
        let membership = MembershipConfig {
            group,
            instance: settings.get("group.instance.id").cloned(),
            session_timeout: Duration::from_millis(number(settings, "session.timeout.ms", 45_000)?),
            rebalance_timeout: Duration::from_millis(number(settings, "max.poll.interval.ms", 300_000)?),
            heartbeat_interval: Duration::from_millis(number(settings, "heartbeat.interval.ms", 3000)?),
        };
        Ok(Start::Group { membership, topics, commit_interval: commit.then_some(commit_interval), seed })
    }

    /// Where to begin in --partition: an offset, or one of the special values of ListOffsets.
    fn first_offset(&self) -> Outcome<Offset> {
        let Some(text) = &self.offset else {
            return Ok(if self.from_beginning { EARLIEST } else { LATEST });
        };
        match (text.to_ascii_lowercase().as_str(), text.parse::<Offset>()) {
            ("earliest", _) => Ok(EARLIEST),
            ("latest", _) => Ok(LATEST),
            (_, Ok(offset)) if offset >= 0 => Ok(offset),
            _ => usage(format!(
                "The provided offset value '{text}' is incorrect. Valid values are 'earliest', 'latest', or a non-negative long."
            )),
        }
    }

    fn fetch_config(&self, settings: &BTreeMap<String, String>) -> Outcome<FetchConfig> {
        let isolation = self.isolation_level.as_ref().or(settings.get("isolation.level"));
        let read_committed = match isolation.map_or("read_uncommitted", |level| level.as_str()) {
            "read_committed" => true,
            "read_uncommitted" => false,
            other => {
                return Err(Failure::Failed(format!(
                    "Invalid value {other} for configuration isolation.level: String must be one of: read_committed, read_uncommitted"
                )));
            }
        };
        let reset = match settings.get("auto.offset.reset").map(String::as_str) {
            None if self.from_beginning => Some(EARLIEST),
            None | Some("latest") if !self.from_beginning => Some(LATEST),
            Some("earliest") => Some(EARLIEST),
            Some("none") if !self.from_beginning => None,
            Some(other) if self.from_beginning => {
                return Err(Failure::Failed(format!(
                    "Can't simultaneously specify --from-beginning and 'auto.offset.reset={other}', please remove one option"
                )));
            }
            other => {
                let other = other.unwrap_or_default();
                return Err(Failure::Failed(format!("Invalid value {other} for configuration auto.offset.reset")));
            }
        };
        let bytes = |name, default| Ok::<_, Failure>(number(settings, name, default)?.try_into().unwrap_or(i32::MAX));
        Ok(FetchConfig {
            read_committed,
            reset,
            min_bytes: bytes("fetch.min.bytes", 1)?,
            max_bytes: bytes("fetch.max.bytes", 52_428_800)?,
            partition_bytes: bytes("max.partition.fetch.bytes", 1_048_576)?,
        })
    }

    /// None prints nothing.
    fn formatter(&self) -> Outcome<Option<Format>> {
        let mut properties = self.formatter_config.as_deref().map_or_else(|| Ok(BTreeMap::new()), read_properties)?;
        for (name, class) in [("key.deserializer", &self.key_deserializer), ("value.deserializer", &self.value_deserializer)] {
            if let Some(class) = class.as_ref().filter(|class| !class.is_empty()) {
                properties.insert(name.to_owned(), class.clone());
            }
        }
        properties.append(&mut pairs(&self.formatter_properties));
        let class = self.formatter.as_deref().unwrap_or("DefaultMessageFormatter");
        match class.rsplit('.').next().unwrap_or_default() {
            "DefaultMessageFormatter" => {
                Formatter::new(&properties).map(|formatter| Some(Format::Columns(formatter))).map_err(Failure::Failed)
            }
            "OffsetsMessageFormatter" => Ok(Some(Format::Coordinator(coordinator::groups(), &[0, 1]))),
            "GroupMetadataMessageFormatter" => Ok(Some(Format::Coordinator(coordinator::groups(), &[2]))),
            "NoOpMessageFormatter" => Ok(None),
            _ => Err(Failure::Failed(format!("--formatter {class}: classes of Java cannot be loaded"))),
        }
    }
}

/// Set by the first SIGINT or SIGTERM; the second ends the process at once.
fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// How records are printed.
#[derive(Debug)]
enum Format {
    /// As Kafka's DefaultMessageFormatter does.
    Columns(Formatter),
    /// Records of these kinds of a coordinator's topic as JSON, one after the other without a line's end, as Kafka does; others not at all.
    Coordinator(Coordinator, &'static [i16]),
}

impl Format {
    fn put(&self, out: &mut Vec<u8>, partition: i32, record: &Received) -> Result<(), String> {
        match self {
            Format::Columns(formatter) => formatter.put(out, partition, record)?,
            Format::Coordinator(coordinator, kinds) => {
                let message = record.key.as_deref().and_then(|key| coordinator.message(kinds, key, record.value.as_deref()));
                out.extend(message.unwrap_or_default().into_bytes());
            }
        }
        Ok(())
    }
}

/// Prints records and counts them.
struct Printer {
    formatter: Option<Format>,
    skip_errors: bool,
    count: i64,
    max: Option<i64>,
}

impl Printer {
    fn is_done(&self) -> bool {
        self.max.is_some_and(|max| self.count >= max)
    }

    /// Prints what may still be printed of a chunk; the offset after that.
    fn print(&mut self, chunk: &Chunk, out: &mut Vec<u8>) -> Outcome<Option<Offset>> {
        let mut next = None;
        for record in &chunk.records {
            if self.is_done() {
                return Ok(next);
            }
            let put = self.formatter.as_ref().map_or(Ok(()), |formatter| formatter.put(out, chunk.partition.1, record));
            match put {
                Err(text) if self.skip_errors => eprintln!("Error processing message, skipping this message: {text}"),
                Err(text) => return Err(Failure::Failed(text)),
                Ok(()) => {}
            }
            self.count += 1;
            next = Some(record.offset.saturating_add(1));
        }
        Ok(Some(chunk.next))
    }
}

/// Reads and prints until enough is printed, nothing comes for as long as `patience`, nobody reads it, or `stop` is set.
fn consume(mut source: Source, printer: &mut Printer, patience: Option<Duration>, stop: &AtomicBool) -> Outcome {
    let mut last = Instant::now();
    let mut result = Ok(());
    while !printer.is_done() && !stop.load(Ordering::Relaxed) {
        let left = patience.map(|patience| patience.saturating_sub(last.elapsed()));
        if left == Some(Duration::ZERO) && last.elapsed() > Duration::ZERO {
            break;
        }
        let chunks = match source.poll(left) {
            Ok(chunks) => chunks,
            Err(failure) => {
                result = Err(failure);
                break;
            }
        };
        let (before, mut out, mut ends) = (printer.count, Vec::new(), Vec::new());
        let printed = chunks.iter().try_for_each(|chunk| {
            ends.extend(printer.print(chunk, &mut out)?.map(|next| (&chunk.partition, next)));
            Ok(())
        });
        if let Err(error) = io::stdout().write_all(&out).and_then(|()| io::stdout().flush()) {
            eprintln!("Unable to write to standard out, closing consumer.");
            result = Err(error.into());
            break;
        }
        // What was not printed is not consumed either.
        ends.into_iter().for_each(|(partition, next)| source.consumed(partition, next));
        if printed.is_err() {
            result = printed;
            break;
        }
        if printer.count > before {
            last = Instant::now();
        }
    }
    source.close();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::TimestampType;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tool: ConsoleConsumer,
    }

    fn tool(line: &str) -> ConsoleConsumer {
        let words = format!("c --bootstrap-server h:1 {line}");
        Line::try_parse_from(words.split_whitespace()).unwrap_or_else(|e| panic!("{e}")).tool
    }

    fn refused(line: &str) -> String {
        let tool = tool(line);
        match tool.check(&BTreeMap::new()).and_then(|_| tool.first_offset()) {
            Ok(_) => String::new(),
            Err(Failure::Usage(text)) => text,
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Texts as Kafka 4.3.1 gives them.
    #[test]
    fn kafkas_refusals() {
        let one = "Exactly one of the following arguments is required: [topic], [include]";
        assert_eq!((refused(""), refused("--topic t --include u")), (one.to_owned(), one.to_owned()));
        assert_eq!(refused("--topic t --offset 3"), "The partition is required when offset is specified.");
        assert_eq!(refused("--include t --partition 3"), "The topic is required when partition is specified.");
        assert_eq!(refused("--topic t --partition 3 --group g"), "Options group and partition cannot be specified together.");
        let both = "Options from-beginning and offset cannot be specified together.";
        assert_eq!(refused("--topic t --partition 3 --offset 3 --from-beginning"), both);
        let text = "The provided offset value '-5' is incorrect. Valid values are 'earliest', 'latest', or a non-negative long.";
        assert_eq!(refused("--topic t --partition 3 --offset -5"), text);
        assert!(refused("--topic t --group a --command-property group.id=b").ends_with("Detected group ids: 'a', 'b'"));
        for fine in ["--topic t --partition 3 --offset EARLIEST", "--topic t --group a --consumer-property group.id=a", "--include t.*"] {
            assert_eq!(refused(fine), "", "{fine}");
        }
    }

    #[test]
    fn where_to_begin() {
        let reset = |line: &str| {
            let tool = tool(line);
            tool.fetch_config(&pairs(&tool.command_properties)).map(|config| config.reset).map_err(|_| ())
        };
        assert_eq!((reset(""), reset("--from-beginning")), (Ok(Some(LATEST)), Ok(Some(EARLIEST))));
        let with = |value: &str| format!("--command-property auto.offset.reset={value}");
        assert_eq!((reset(&with("earliest")), reset(&with("none"))), (Ok(Some(EARLIEST)), Ok(None)));
        assert_eq!(reset(&format!("--from-beginning {}", with("latest"))), Err(()));
        assert_eq!(reset(&with("nonsense")), Err(()));
        assert_eq!(tool("--partition 0 --topic t").first_offset().unwrap(), LATEST);
        assert_eq!(tool("--partition 0 --topic t --from-beginning").first_offset().unwrap(), EARLIEST);
    }

    #[test]
    fn what_is_printed_is_what_counts() {
        let record = |offset| Received {
            offset,
            timestamp: 0,
            timestamp_type: TimestampType::CreateTime,
            key: None,
            value: Some(format!("v{offset}").into_bytes()),
            headers: vec![],
        };
        let chunk = Chunk { partition: ("t".to_owned(), 0), records: vec![record(3), record(5)], next: 9 };
        let mut printer = Printer { formatter: tool("--topic t").formatter().unwrap(), skip_errors: false, count: 0, max: Some(3) };
        let mut out = Vec::new();
        assert_eq!(printer.print(&chunk, &mut out).unwrap(), Some(9), "with what lies behind the last record");
        assert_eq!(printer.print(&chunk, &mut out).unwrap(), Some(4), "not what was not printed");
        assert_eq!(printer.print(&chunk, &mut out).unwrap(), None);
        assert_eq!((out, printer.is_done()), (b"v3\nv5\nv3\n".to_vec(), true));
    }
}
