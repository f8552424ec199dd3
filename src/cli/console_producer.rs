//! `corelane console-producer` (Kafka's `kafka-console-producer`): lines of standard input become records.

mod line_reader;

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

use self::line_reader::LineReader;
use super::tool::{Failure, Outcome, client, java, number, pairs, read_properties, usage};
use crate::client::ClientError;
use crate::client::producer::{Producer, ProducerConfig, Undelivered};
use crate::wire::batch::NewRecord;
use crate::wire::compression::Compression;

/// Records read ahead of the network.
const READ_AHEAD: usize = 256;

/// Send lines of standard input as records
#[derive(Debug, Args)]
pub struct ConsoleProducer {
    /// REQUIRED: Brokers to connect to, separated by commas
    #[arg(long, value_name = "HOST:PORT,...")]
    bootstrap_server: Option<String>,
    /// REQUIRED: The topic
    #[arg(long)]
    topic: Option<String>,
    /// Send each record by itself and wait for its acknowledgement
    #[arg(long)]
    sync: bool,
    /// none, gzip, snappy, lz4 or zstd; gzip if nothing is said
    #[arg(long, value_name = "CODEC", num_args = 0..=1, default_missing_value = "gzip")]
    compression_codec: Option<String>,
    /// Send a batch when it has come to this, bytes [default: 16384]
    #[arg(long, value_name = "BYTES")]
    batch_size: Option<u64>,
    /// As --batch-size, which it replaces
    #[arg(long, hide = true)]
    max_partition_memory_bytes: Option<u64>,
    /// Send a batch again so often [default: 3]
    #[arg(long, value_name = "TIMES")]
    message_send_max_retries: Option<u64>,
    /// Pause before that, ms [default: 100]
    #[arg(long, value_name = "MS")]
    retry_backoff_ms: Option<u64>,
    /// Wait so long for more records before a batch is sent, ms [default: 1000]
    #[arg(long, value_name = "MS")]
    timeout: Option<u64>,
    /// 0, 1, or -1 or all [default: -1]
    #[arg(long, value_name = "ACKS", allow_hyphen_values = true)]
    request_required_acks: Option<String>,
    /// Wait so long for an acknowledgement, ms [default: 1500]
    #[arg(long, value_name = "MS")]
    request_timeout_ms: Option<u64>,
    /// Accepted, no effect: every refresh is made when it is needed
    #[arg(long, hide = true)]
    metadata_expiry_ms: Option<u64>,
    /// Wait so long for the topic, ms [default: 60000]
    #[arg(long, value_name = "MS")]
    max_block_ms: Option<u64>,
    /// Accepted, no effect: memory is bounded without
    #[arg(long, hide = true)]
    max_memory_bytes: Option<u64>,
    /// Accepted, no effect
    #[arg(long, hide = true)]
    socket_buffer_size: Option<u64>,
    /// Accepted if it is Kafka's LineMessageReader, the only one
    #[arg(long, value_name = "CLASS", hide = true)]
    line_reader: Option<String>,
    /// How lines are read: parse.key, key.separator, parse.headers, headers.delimiter, headers.separator, headers.key.separator,
    /// ignore.error, null.marker
    #[arg(long = "reader-property", visible_alias = "property", value_name = "NAME=VALUE")]
    reader_properties: Vec<String>,
    /// Properties file with the same
    #[arg(long, value_name = "FILE")]
    reader_config: Option<PathBuf>,
    /// A setting of the producer
    #[arg(long = "command-property", visible_alias = "producer-property", value_name = "NAME=VALUE")]
    command_properties: Vec<String>,
    /// Properties file with settings of the producer
    #[arg(long, visible_alias = "producer.config", value_name = "FILE")]
    command_config: Option<PathBuf>,
}

impl ConsoleProducer {
    /// Sends until the input ends.
    pub fn run(self) -> Outcome {
        let Some(topic) = self.topic.clone() else { return usage("Missing required argument \"[topic]\"") };
        let Some(servers) = &self.bootstrap_server else { return usage("Missing required argument \"[bootstrap-server]\"") };
        if let Some(class) = self.line_reader.as_deref().filter(|class| !class.ends_with("LineMessageReader")) {
            return Err(Failure::Failed(format!("--line-reader {class}: classes of Java cannot be loaded")));
        }
        let reader = LineReader::new(&self.reader_properties()?).map_err(Failure::Failed)?;
        let settings = self.settings()?;
        let config = self.config(topic, &settings)?;
        let linger = Duration::from_millis(number(&settings, "linger.ms", 1000)?);
        let producer = Producer::new(client(servers, &settings, "console-producer")?, config);
        let (to, from) = sync_channel(READ_AHEAD);
        std::thread::spawn(move || read(reader, &to));
        send(producer, &from, linger, self.sync)
    }

    fn reader_properties(&self) -> Outcome<BTreeMap<String, String>> {
        let mut properties = self.reader_config.as_deref().map_or_else(|| Ok(BTreeMap::new()), read_properties)?;
        properties.append(&mut pairs(&self.reader_properties));
        Ok(properties)
    }

    /// The producer's settings under Kafka's names: an option wins over a property, that over the file, that over the default.
    fn settings(&self) -> Outcome<BTreeMap<String, String>> {
        let mut settings = self.command_config.as_deref().map_or_else(|| Ok(BTreeMap::new()), read_properties)?;
        settings.append(&mut pairs(&self.command_properties));
        settings.insert("compression.type".to_owned(), self.compression_codec.clone().unwrap_or_else(|| "none".to_owned()));
        let batch_size = self.max_partition_memory_bytes.or(self.batch_size);
        let numbers = [
            ("linger.ms", self.timeout, 1000),
            ("request.timeout.ms", self.request_timeout_ms, 1500),
            ("retries", self.message_send_max_retries, 3),
            ("retry.backoff.ms", self.retry_backoff_ms, 100),
            ("batch.size", batch_size, 16_384),
            ("max.block.ms", self.max_block_ms, 60_000),
        ];
        for (name, option, default) in numbers {
            if option.is_some() || !settings.contains_key(name) {
                settings.insert(name.to_owned(), option.unwrap_or(default).to_string());
            }
        }
        if self.request_required_acks.is_some() || !settings.contains_key("acks") {
            settings.insert("acks".to_owned(), self.request_required_acks.clone().unwrap_or_else(|| "-1".to_owned()));
        }
        Ok(settings)
    }

    fn config(&self, topic: String, settings: &BTreeMap<String, String>) -> Outcome<ProducerConfig> {
        let acks = match settings["acks"].as_str() {
            "-1" | "all" => -1,
            "0" => 0,
            "1" => 1,
            other => {
                let text = format!("Invalid value {other} for configuration acks: String must be one of: all, -1, 0, 1");
                return Err(Failure::Failed(text));
            }
        };
        let codec = settings["compression.type"].as_str();
        let compression = Compression::ALL.into_iter().find(|compression| compression.name() == codec);
        let compression = compression.ok_or_else(|| Failure::Failed(format!("Unknown compression name: {codec}")))?;
        let retries = number(settings, "retries", 3)?.try_into().unwrap_or(u32::MAX);
        let wanted = settings.get("enable.idempotence").is_none_or(|text| text.trim().eq_ignore_ascii_case("true"));
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        Ok(ProducerConfig {
            topic,
            acks,
            idempotent: wanted && acks == -1 && retries > 0,
            compression,
            batch_bytes: number(settings, "batch.size", 16_384)? as usize,
            max_request_bytes: number(settings, "max.request.size", 1 << 20)? as usize,
            retries,
            retry_backoff: Duration::from_millis(number(settings, "retry.backoff.ms", 100)?),
            request_timeout_ms: number(settings, "request.timeout.ms", 1500)?.try_into().unwrap_or(i32::MAX),
            max_block: Duration::from_millis(number(settings, "max.block.ms", 60_000)?),
            seed,
        })
    }
}

/// Reads records until the input ends, an error is told, or nobody takes them any more. Runs in a thread of its own, as typing must not
/// hold up what was typed before.
fn read(mut reader: LineReader, to: &SyncSender<Result<NewRecord, String>>) {
    let mut input = io::stdin().lock();
    let prompt = input.is_terminal() && io::stdout().is_terminal();
    let mut line = Vec::new();
    loop {
        if prompt {
            let _ = io::stdout().write_all(b">").and_then(|()| io::stdout().flush());
        }
        line.clear();
        let record = match input.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => reader.record(strip_end(&line)),
            Err(error) => Err(error.to_string()),
        };
        let last = record.is_err();
        if to.send(record).is_err() || last {
            return;
        }
    }
}

/// The line without its end, which may be Windows'.
fn strip_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Sends what comes. Records that could not be delivered are told of; the exit code then says so.
fn send(mut producer: Producer, from: &Receiver<Result<NewRecord, String>>, linger: Duration, sync: bool) -> Outcome {
    let mut lost = false;
    let mut due = Instant::now() + linger;
    loop {
        let waited = if producer.is_idle() {
            from.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            from.recv_timeout(due.saturating_duration_since(Instant::now()))
        };
        let undelivered = match waited {
            Ok(Ok(mut record)) => {
                record.timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(-1, |now| now.as_millis() as i64);
                if producer.is_idle() {
                    due = Instant::now() + linger;
                }
                let mut undelivered = producer.add(record);
                if sync {
                    undelivered.append(&mut producer.flush());
                }
                undelivered
            }
            Ok(Err(text)) => {
                report(&producer.flush());
                return Err(Failure::Failed(text));
            }
            Err(RecvTimeoutError::Timeout) => producer.flush(),
            Err(RecvTimeoutError::Disconnected) => {
                lost |= report(&producer.flush());
                return if lost { Err(Failure::Silent) } else { Ok(()) };
            }
        };
        let hopeless = |error: &ClientError| sync || !producer.has_topic() || matches!(error, ClientError::Unreachable(..));
        if let Some((_, error)) = undelivered.first().filter(|(_, error)| hopeless(error)) {
            return Err(Failure::Failed(error.to_string()));
        }
        lost |= report(&undelivered);
    }
}

/// Tells of each record that was not delivered; true if there was any.
fn report(undelivered: &[Undelivered]) -> bool {
    let length = |field: &Option<Vec<u8>>| field.as_ref().map_or("null".to_owned(), |bytes| format!("{} bytes", bytes.len()));
    for (record, error) in undelivered {
        eprintln!(
            "Error when sending message with key: {}, value: {} with error: {}",
            length(&record.key),
            length(&record.value),
            java(error)
        );
    }
    !undelivered.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tool: ConsoleProducer,
    }

    fn config(line: &str) -> Outcome<ProducerConfig> {
        let tool = Line::try_parse_from(line.split(' ')).unwrap().tool;
        tool.config("t".to_owned(), &tool.settings()?)
    }

    #[test]
    fn settings_and_who_wins() {
        let plain = config("p").unwrap();
        assert_eq!((plain.acks, plain.idempotent, plain.compression, plain.batch_bytes), (-1, true, Compression::None, 16_384));
        assert_eq!((plain.retries, plain.request_timeout_ms), (3, 1500));
        assert_eq!(config("p --compression-codec --sync").unwrap().compression, Compression::Gzip);
        assert_eq!(config("p --compression-codec lz4").unwrap().compression, Compression::Lz4);
        let given =
            config("p --request-required-acks 1 --batch-size 5 --command-property batch.size=7 --producer-property retries=9").unwrap();
        assert_eq!((given.acks, given.idempotent, given.batch_bytes, given.retries), (1, false, 5, 9));
        assert_eq!(config("p --request-required-acks -1").unwrap().acks, -1);
        assert!(!config("p --command-property enable.idempotence=false").unwrap().idempotent);
        assert!(config("p --request-required-acks 2").is_err() && config("p --compression-codec lzma").is_err());
    }

    #[test]
    fn ends_of_lines() {
        assert_eq!(
            (strip_end(b"a\r\n"), strip_end(b"a\n"), strip_end(b"a"), strip_end(b"\n")),
            (&b"a"[..], &b"a"[..], &b"a"[..], &b""[..])
        );
    }
}
