//! The command line: one file per subcommand.

mod dump_log;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::base::config::Config;

/// A Kafka-compatible message broker: one thread per core, io_uring from socket to disk.
#[derive(Debug, Parser)]
#[command(name = "corelane", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    DumpLog(dump_log::DumpLog),
}

/// Runs what the process's arguments ask for. `server` is the broker: it serves until it is told to stop; its error says what went
/// wrong, where, and what to do. It is handed in because the broker lies beside this module, not below it.
pub fn run(server: impl FnOnce(Config) -> Result<(), String>) -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(arguments) => arguments.run(server),
        Command::DumpLog(arguments) => return arguments.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("corelane: {reason}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let parsed = Cli::try_parse_from(["corelane", "serve", "--config", "f", "--override", "a=1", "--override", "b=2,3"]).unwrap();
        let Command::Serve(serve) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!(serve.config.as_deref(), Some(std::path::Path::new("f")));
        assert_eq!(serve.overrides, ["a=1", "b=2,3"]);
        for bad in [&["corelane"][..], &["corelane", "serve", "file"], &["corelane", "run"]] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
