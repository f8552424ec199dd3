//! The command line: one file or folder per subcommand.
//!
//! Called through a link with the name of one of Kafka's scripts (`kafka-topics`, `kafka-topics.sh`), the binary behaves as that tool: the
//! subcommands have the scripts' names, without `kafka-`.

mod configs;
mod console_consumer;
mod console_producer;
mod consumer_groups;
mod delete_records;
mod dump_log;
mod get_offsets;
mod serve;
mod tool;
mod topics;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::base::config::Config;
use crate::base::logs;

/// How long a broker that has ended waits for a reader of its last log lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// A Kafka-compatible message broker: one thread per core, io_uring from socket to disk.
#[derive(Debug, Parser)]
#[command(name = "corelane", version, propagate_version = true, infer_long_args = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Topics(topics::Topics),
    ConsoleProducer(console_producer::ConsoleProducer),
    ConsoleConsumer(console_consumer::ConsoleConsumer),
    ConsumerGroups(consumer_groups::ConsumerGroups),
    Configs(configs::Configs),
    GetOffsets(get_offsets::GetOffsets),
    DeleteRecords(delete_records::DeleteRecords),
    DumpLog(dump_log::DumpLog),
}

/// Runs what the process's arguments ask for. `server` is the broker: it serves until it is told to stop; its error says what went
/// wrong, where, and what to do. It is handed in because the broker lies beside this module, not below it.
pub fn run(server: impl FnOnce(Config) -> Result<(), String>) -> ExitCode {
    let arguments = with_tool(std::env::args_os().collect());
    let command = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli.command,
        Err(error) => return refuse(&error),
    };
    let result = match command {
        Command::Serve(arguments) => return serve(arguments, server),
        Command::DumpLog(arguments) => return arguments.run(),
        Command::Topics(arguments) => arguments.run(),
        Command::ConsoleProducer(arguments) => arguments.run(),
        Command::ConsoleConsumer(arguments) => arguments.run(),
        Command::ConsumerGroups(arguments) => arguments.run(),
        Command::Configs(arguments) => arguments.run(),
        Command::GetOffsets(arguments) => arguments.run(),
        Command::DeleteRecords(arguments) => arguments.run(),
    };
    let name = arguments.get(1).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&name),
    }
}

fn serve(arguments: serve::Serve, server: impl FnOnce(Config) -> Result<(), String>) -> ExitCode {
    let ended = arguments.run(server);
    if let Err(reason) = &ended {
        logs::say(&format!("corelane: {reason}"));
    }
    logs::flush(LAST_LINES);
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The arguments with the tool's name in second place, if the binary was called by it: `kafka-topics.sh --list` is `corelane topics --list`.
fn with_tool(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().and_then(|first| Path::new(first).file_name()?.to_str());
    let tool = called.and_then(|called| called.strip_suffix(".sh").unwrap_or(called).strip_prefix("kafka-")).map(str::to_owned);
    if let Some(tool) = tool.filter(|tool| Cli::command().find_subcommand(tool).is_some()) {
        arguments.insert(1, tool.into());
    }
    arguments
}

/// What the parser did not take: help and version on standard output, errors in the words of Kafka's tools and with their exit code.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        return printed.map_or_else(|e| tool::Failure::from(e).report(""), |()| ExitCode::SUCCESS);
    }
    let option = error.get(ContextKind::InvalidArg).map(|name| name.to_string());
    let bare = option.as_deref().map(|name| name.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default().to_owned());
    let told = match (error.kind(), bare) {
        (ErrorKind::UnknownArgument, Some(name)) => format!("{name} is not a recognized option"),
        (ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues, Some(name))
            if error.get(ContextKind::InvalidValue).is_none_or(|value| value.to_string().is_empty()) =>
        {
            format!("Option {name} requires an argument")
        }
        (ErrorKind::ValueValidation, Some(name)) => {
            let value = error.get(ContextKind::InvalidValue).map(|value| value.to_string()).unwrap_or_default();
            format!("Cannot parse argument '{value}' of option {name}")
        }
        _ => {
            let _ = error.print();
            return ExitCode::FAILURE;
        }
    };
    eprintln!("{told}");
    let rendered = error.render().to_string();
    if let Some(usage) = rendered.lines().find(|line| line.starts_with("Usage:")) {
        eprintln!("{usage}\nFor more information, try '--help'.");
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        Cli::command().debug_assert();
        let parsed = Cli::try_parse_from(["corelane", "serve", "--config", "f", "--override", "a=1", "--override", "b=2,3"]).unwrap();
        let Command::Serve(serve) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!(serve.config.as_deref(), Some(std::path::Path::new("f")));
        assert_eq!(serve.overrides, ["a=1", "b=2,3"]);
        for bad in [&["corelane"][..], &["corelane", "serve", "file"], &["corelane", "run"]] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links() {
        let with = |arguments: &[&str]| {
            let given = arguments.iter().map(OsString::from).collect();
            with_tool(given).into_iter().skip(1).map(|a| a.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(with(&["/opt/bin/kafka-topics.sh", "--list"]), ["topics", "--list"]);
        assert_eq!(with(&["kafka-console-consumer", "--topic", "t"]), ["console-consumer", "--topic", "t"]);
        assert_eq!(with(&["/usr/bin/corelane", "serve"]), ["serve"]);
        assert_eq!(with(&["kafka-nonsense", "--list"]), ["--list"]);
    }
}
