//! `corelane dump-log` (Kafka's `kafka-dump-log`): what is in the files of a data directory, without a broker.

mod batches;
pub mod coordinator;
mod decode;
#[cfg(test)]
mod golden_tests;
mod index;
mod json;
mod log;
mod state;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use decode::Decoder;

/// Print the contents of log segments, indexes, producer snapshots and metadata snapshots
#[derive(Debug, Args)]
pub struct DumpLog {
    /// REQUIRED: The files, separated by commas
    #[arg(long, value_name = "FILE1,FILE2,...")]
    files: Option<String>,
    /// Print what the records hold; implied by every decoder
    #[arg(long)]
    print_data_log: bool,
    /// Print every record, not only the batches; implied by --print-data-log
    #[arg(long)]
    deep_iteration: bool,
    /// Compare an index with its log without printing it
    #[arg(long)]
    verify_index_only: bool,
    /// Only check of an index what a start of the broker checks
    #[arg(long)]
    index_sanity_check: bool,
    /// Longest batch that an index entry may point to, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 5 << 20, allow_negative_numbers = true)]
    max_message_size: i32,
    /// Read this much of each log, bytes
    #[arg(long, value_name = "BYTES", default_value_t = i32::MAX, allow_negative_numbers = true)]
    max_bytes: i32,
    /// Print of records only what they hold
    #[arg(long)]
    skip_record_metadata: bool,
    /// How values are printed: StringDecoder, IntegerDecoder or LongDecoder, with or without org.apache.kafka.tools.api in front
    #[arg(long, value_name = "CLASS", num_args = 0..=1, default_missing_value = decode::STRING)]
    value_decoder_class: Option<String>,
    /// How keys are printed: as for --value-decoder-class
    #[arg(long, value_name = "CLASS", num_args = 0..=1, default_missing_value = decode::STRING)]
    key_decoder_class: Option<String>,
    /// The records are those of __consumer_offsets
    #[arg(long)]
    offsets_decoder: bool,
    /// The records are those of __transaction_state
    #[arg(long)]
    transaction_log_decoder: bool,
    /// The records are those of __cluster_metadata, Kafka's metadata log
    #[arg(long)]
    cluster_metadata_decoder: bool,
    /// The records are those of __share_group_state
    #[arg(long)]
    share_group_state_decoder: bool,
    /// Not available: Corelane keeps nothing in tiered storage
    #[arg(long, hide = true)]
    remote_log_metadata_decoder: bool,
}

/// Why it ends early.
#[derive(Debug)]
enum Failed {
    /// For the user.
    Message(String),
    /// Nobody reads what is printed: the end of a pipe is closed.
    Unread,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failed::Unread,
            _ => Failed::Message(format!("cannot write to standard output: {error}")),
        }
    }
}

fn failed<T>(message: impl Into<String>) -> Result<T, Failed> {
    Err(Failed::Message(message.into()))
}

/// What is wrong with the files, told at the end; each with the file's absolute path.
#[derive(Debug, Default)]
struct Findings {
    /// Offset in an index, last offset of the batch that it points to; the highest first.
    index_mismatches: Vec<(String, Vec<(i64, i64)>)>,
    time_mismatches: Vec<(String, Vec<(i64, i64)>)>,
    times_out_of_order: Vec<(String, Vec<(i64, i64)>)>,
    offsets_not_found: Vec<(String, Vec<(i64, i64)>)>,
    /// A record's offset, and the next one's that is not one higher.
    gaps: Vec<(String, Vec<(i64, i64)>)>,
}

impl Findings {
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut print = |all: &[(String, Vec<(i64, i64)>)], head: &dyn Fn(&str) -> String, line: &dyn Fn(i64, i64) -> String| {
            for (file, pairs) in all {
                writeln!(out, "{}", head(file))?;
                pairs.iter().try_for_each(|(a, b)| writeln!(out, "{}", line(*a, *b)))?;
            }
            io::Result::Ok(())
        };
        print(&self.index_mismatches, &|f| format!("Mismatches in :{f}"), &|a, b| format!("  Index offset: {a}, log offset: {b}"))?;
        print(&self.time_mismatches, &|f| format!("Found timestamp mismatch in :{f}"), &|a, b| {
            format!("  Index timestamp: {a}, log timestamp: {b}")
        })?;
        print(&self.times_out_of_order, &|f| format!("Found out of order timestamp in :{f}"), &|a, b| {
            format!("  Index timestamp: {a}, Previously indexed timestamp: {b}")
        })?;
        print(&self.offsets_not_found, &|f| format!("The following indexed offsets are not found in :{f}"), &|a, b| {
            format!("Indexed offset: {a}, found log offset: {b}")
        })?;
        print(&self.gaps, &|f| format!("Non-consecutive offsets in {f}"), &|a, b| format!("  {a} is followed by {b}"))
    }
}

/// Adds to a file's findings.
fn note(all: &mut Vec<(String, Vec<(i64, i64)>)>, file: &str, pair: (i64, i64)) {
    match all.last_mut().filter(|(last, _)| last == file) {
        Some((_, pairs)) => pairs.push(pair),
        None => all.push((file.to_owned(), vec![pair])),
    }
}

impl DumpLog {
    /// Prints the files to standard output, what is wrong with them to standard error. Fails where Kafka's tool fails.
    pub fn run(self) -> ExitCode {
        let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
        let mut findings = Findings::default();
        let result = self.dump(&mut out, &mut findings).and_then(|()| Ok(out.flush()?));
        drop(out);
        match result {
            Ok(()) => {
                // Nobody to tell if standard error is closed.
                let _ = findings.print(&mut io::stderr().lock());
                ExitCode::SUCCESS
            }
            Err(Failed::Unread) => ExitCode::FAILURE,
            Err(Failed::Message(message)) => {
                eprintln!("{message}");
                ExitCode::FAILURE
            }
        }
    }

    fn dump(&self, out: &mut dyn Write, findings: &mut Findings) -> Result<(), Failed> {
        let Some(files) = &self.files else { return failed("Missing required argument \"[files]\"") };
        let decoder = self.decoder()?;
        let print = self.print_data_log
            || self.value_decoder_class.is_some()
            || self.key_decoder_class.is_some()
            || !matches!(decoder, Decoder::Plain { .. });
        let printing = log::Printing {
            records: self.deep_iteration || print,
            contents: print.then_some(&decoder),
            metadata: !self.skip_record_metadata,
            max_bytes: self.max_bytes,
        };
        let check = match (self.index_sanity_check, self.verify_index_only) {
            (true, _) => index::Check::Sanity,
            (false, true) => index::Check::Quietly,
            (false, false) => index::Check::Print,
        };
        for file in files.split(',') {
            let file = as_java_shows(file);
            writeln!(out, "Dumping {file}")?;
            match Path::new(&file).extension().and_then(|e| e.to_str()) {
                Some("log" | "checkpoint") => log::dump(out, &file, &printing, &mut findings.gaps)?,
                Some("index") => index::offsets(out, &file, check, self.max_message_size, findings)?,
                Some("timeindex") => index::times(out, &file, check, findings)?,
                Some("snapshot") => state::producers(out, &file)?,
                Some("txnindex") => state::transactions(out, &file)?,
                _ => eprintln!("Ignoring unknown file {file}"),
            }
        }
        Ok(())
    }

    fn decoder(&self) -> Result<Decoder, Failed> {
        if self.remote_log_metadata_decoder {
            return failed("--remote-log-metadata-decoder is not available");
        }
        Ok(match () {
            () if self.offsets_decoder => Decoder::Coordinator(coordinator::groups()),
            () if self.transaction_log_decoder => Decoder::Coordinator(coordinator::transactions()),
            () if self.cluster_metadata_decoder => Decoder::Metadata,
            () if self.share_group_state_decoder => Decoder::Coordinator(coordinator::share_groups()),
            () => {
                let plain = |class: &Option<String>| decode::plain(class.as_deref().unwrap_or(decode::STRING));
                Decoder::Plain { key: plain(&self.key_decoder_class)?, value: plain(&self.value_decoder_class)? }
            }
        })
    }
}

/// A path without doubled slashes and without one at its end.
fn as_java_shows(path: &str) -> String {
    let mut shown = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !shown.ends_with('/') {
            shown.push(c);
        }
    }
    if shown.len() > 1 && shown.ends_with('/') {
        shown.pop();
    }
    shown
}

/// The last part of a path.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The offset in a file's name, which stands before its first dot.
fn base_offset(path: &str) -> Result<i64, Failed> {
    let digits = stem(path);
    digits.parse().or_else(|_| failed(format!("For input string: \"{digits}\"")))
}

fn stem(path: &str) -> &str {
    name_of(path).split('.').next().unwrap_or_default()
}

/// The path in full, links left as they are.
fn absolute(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

/// The file of another kind beside an index.
fn sibling(path: &str, kind: &str) -> String {
    let absolute = absolute(path);
    let dir = absolute.rsplit_once('/').map_or("", |(dir, _)| dir);
    format!("{dir}/{}.{kind}", stem(path))
}

fn unreadable<T>(path: &str, error: &io::Error) -> Result<T, Failed> {
    failed(format!("{path}: {error}"))
}

#[cfg(test)]
mod tests;
