//! Command line of the load generator.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use corelane::wire::compression::Compression;

use crate::batch::Shape;

/// Bytes of a record's value that the generator marks as its own; the smallest `--record-size`.
pub const STAMP: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Send batches as fast as they are acknowledged, or at the rate -R.
    Produce,
    /// Read each partition from its first offset, over and over.
    Fetch,
    /// Send, and read at the tail: latency from the intended send to the arrival at the consumer.
    E2e,
    /// Produce against a null responder: what this generator can do at most.
    Ceiling,
    /// Fetch against a null responder.
    CeilingFetch,
    /// Only be the null responder, at --bootstrap-server; prints its address.
    Null,
}

/// Load on a Kafka-compatible broker, measured as wrk does it.
#[derive(Clone, Parser)]
#[command(name = "load")]
pub struct Args {
    #[arg(value_enum, default_value = "produce")]
    pub mode: Mode,
    /// A broker's host and port.
    #[arg(short, long, default_value = "localhost:9092")]
    pub bootstrap_server: String,
    /// Connections, over all threads. In the mode e2e these are the producers; one consumer per partition comes on top.
    #[arg(short, long, default_value_t = 8)]
    pub connections: usize,
    /// Threads of the generator.
    #[arg(short, long, default_value_t = 1)]
    pub threads: usize,
    /// Requests outstanding per connection; with fetch, each has a partition of its own.
    #[arg(long, default_value_t = 1)]
    pub inflight: usize,
    /// Time measured: 30s, 500ms, 2m.
    #[arg(short, long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Time before it that is not measured.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub warmup: Duration,
    /// Requests per second over all connections, sent on schedule whether answers come or not; latency counts from the schedule.
    #[arg(short = 'R', long)]
    pub rate: Option<f64>,
    /// Bytes of a record's value.
    #[arg(long, default_value = "1k", value_parser = size)]
    pub record_size: usize,
    /// Largest size of a batch; 0: one record per batch.
    #[arg(long, default_value = "64k", value_parser = size)]
    pub batch_bytes: usize,
    /// Open loop only: records come at the rate -R and wait so long for others of their connection before they are sent as a batch.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub linger: Duration,
    /// none, gzip, snappy, lz4 or zstd. Compressed records look like text and bear no stamp.
    #[arg(long, default_value = "none", value_parser = compression)]
    pub compression: Compression,
    /// Different keys; batches go to the partitions that Kafka's partitioner would choose. 0: no keys, partitions in turn.
    #[arg(long, default_value_t = 0)]
    pub keys: usize,
    /// Exponent of the keys' distribution (Zipf); 0: all as often.
    #[arg(long, default_value_t = 0.0)]
    pub key_skew: f64,
    /// 0, 1 or all.
    #[arg(long, default_value = "all", value_parser = acks)]
    pub acks: i16,
    /// Topic; made when missing. Default: load-PARTITIONS.
    #[arg(long)]
    pub topic: Option<String>,
    /// Topics, whose names then end in a number; connections take them in turn.
    #[arg(long, default_value_t = 1)]
    pub topics: usize,
    /// Partitions of a topic that has to be made.
    #[arg(long, default_value_t = 1)]
    pub partitions: usize,
    /// Configuration of a topic that has to be made, as KEY=VALUE; may be repeated.
    #[arg(long)]
    pub topic_config: Vec<String>,
    /// Before a fetch: batches are produced until each partition has this much to read.
    #[arg(long, default_value = "0", value_parser = size)]
    pub fill: usize,
    /// Most bytes of one fetch.
    #[arg(long, default_value = "1m", value_parser = size)]
    pub fetch_bytes: usize,
    /// After produce or e2e: read everything back and compare.
    #[arg(long)]
    pub verify: bool,
    /// After the run: deletes the topic.
    #[arg(long)]
    pub delete_topic: bool,
    /// The broker's process: adds its CPU time and memory.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Core for the generator's process.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Core for the null responder in the ceiling modes.
    #[arg(long)]
    pub server_cpu: Option<usize>,
    /// The null responder runs on a bare io_uring loop, not on the broker's runtime.
    #[arg(long)]
    pub bare: bool,
    /// The result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Writes the latencies as an HdrHistogram percentile table to this file.
    #[arg(long)]
    pub histogram: Option<PathBuf>,
    /// No progress lines.
    #[arg(long)]
    pub quiet: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// Checks what single values cannot show.
    pub fn check(&self) -> Result<(), String> {
        let bounds = [
            ("--connections", self.connections, 1, 100_000),
            ("--threads", self.threads, 1, self.connections.min(256)),
            ("--inflight", self.inflight, 1, 100_000),
            ("--partitions", self.partitions, 1, 1_000_000),
            ("--record-size", self.record_size, STAMP, 512 << 20),
            ("--batch-bytes", self.batch_bytes, 0, 1 << 30),
            ("--fetch-bytes", self.fetch_bytes, 1, 1 << 30),
            ("--keys", self.keys, 0, 9_999_999),
            ("--topics", self.topics, 1, self.connections),
        ];
        for (name, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} is {value}, but must be in {least}..={most}"));
            }
        }
        let lingers = !self.linger.is_zero();
        let compressed = self.compression != Compression::None;
        let contradictions = [
            (lingers && self.rate.is_none(), "--linger needs a rate, -R: without one nothing is waited for"),
            (lingers && self.mode == Mode::Fetch, "--linger is for modes that produce"),
            (lingers && self.verify, "--verify knows batches of one size: not with --linger"),
            (
                compressed && (self.verify || self.mode == Mode::E2e || lingers),
                "--verify, e2e and --linger need stamps: not with --compression",
            ),
            (!(0.0..=10.0).contains(&self.key_skew), "--key-skew must be in 0..=10"),
        ];
        if let Some((_, text)) = contradictions.iter().find(|(wrong, _)| *wrong) {
            return Err((*text).to_string());
        }
        match self.rate {
            Some(rate) if !(rate > 0.0 && rate <= 1e8) => Err(format!("--rate is {rate}, but must be above 0 and at most 100000000")),
            _ if self.duration.is_zero() => Err("--duration is 0".to_string()),
            _ => Ok(()),
        }
    }

    pub fn topic(&self) -> String {
        self.topic.clone().unwrap_or_else(|| format!("load-{}", self.partitions))
    }

    pub fn topic_names(&self) -> Vec<String> {
        match self.topics {
            1 => vec![self.topic()],
            topics => (0..topics).map(|number| format!("{}-{number}", self.topic())).collect(),
        }
    }

    pub fn shape(&self, now_ms: i64) -> Shape {
        let Self { record_size, batch_bytes, keys, compression, .. } = *self;
        Shape { record_size, batch_bytes, keys, compression, now_ms }
    }

    pub fn open_loop(&self) -> bool {
        self.rate.is_some()
    }
}

/// `30s`, `1.5m`, `200ms`, `2h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unit {unit:?} is not one of ms, s, m, h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|e| e.to_string())
}

/// `64k`, `1m`, `2g` (powers of 1024), or bytes.
fn size(text: &str) -> Result<usize, String> {
    let (number, shift) = match text.to_ascii_lowercase() {
        t if t.ends_with('k') => (t[..t.len() - 1].to_string(), 10),
        t if t.ends_with('m') => (t[..t.len() - 1].to_string(), 20),
        t if t.ends_with('g') => (t[..t.len() - 1].to_string(), 30),
        t => (t, 0),
    };
    let number: usize = number.parse().map_err(|_| format!("{text:?} is not a size such as 4096, 64k or 1m"))?;
    number.checked_shl(shift).filter(|n| n >> shift == number).ok_or_else(|| format!("{text:?} is too large"))
}

fn compression(text: &str) -> Result<Compression, String> {
    let all = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    all.into_iter().find(|one| one.name() == text).ok_or_else(|| format!("{text:?} is not none, gzip, snappy, lz4 or zstd"))
}

fn acks(text: &str) -> Result<i16, String> {
    match text {
        "0" => Ok(0),
        "1" => Ok(1),
        "all" | "-1" => Ok(-1),
        _ => Err(format!("{text:?} is not 0, 1 or all")),
    }
}
