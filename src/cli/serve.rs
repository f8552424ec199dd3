//! `corelane serve`: settings and logging, then the broker.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::base::config::Config;
use crate::base::logs;
use crate::rt::uring::RUNTIME_LOG_FILTER;

/// Run a broker. Without arguments: one node on localhost:9092 with its data in ./corelane-data.
#[derive(Debug, Args)]
pub struct Serve {
    /// A server.properties file, as Kafka takes it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting; wins over the file and over KAFKA_* environment variables
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

impl Serve {
    /// Loads the settings, starts logging and runs the broker until it is told to stop.
    pub fn run(self, server: impl FnOnce(Config) -> Result<(), String>) -> Result<(), String> {
        // Variables that are not Unicode cannot be settings.
        let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let config = Config::load(self.config.as_deref(), env, &self.overrides).map_err(|error| error.to_string())?;
        log_to_stderr(&config.log_level)?;
        if !config.unknown.is_empty() {
            tracing::warn!("settings without effect here: {}", config.unknown.join(", "));
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        server(config)
    }
}

/// Readable lines to standard error, filtered by `RUST_LOG` where it is set. The cores only queue them.
fn log_to_stderr(level: &str) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| format!("RUST_LOG={text}: {error}"))?,
        _ if level == "off" => EnvFilter::new(level),
        _ => EnvFilter::new(format!("{level},{RUNTIME_LOG_FILTER}")),
    };
    logs::start().map_err(|error| format!("cannot start the thread of the log: {error}"))?;
    let coloured = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| logs::Lines).with_ansi(coloured);
    // A line that cannot be written (its disk is full, say) is lost; complaining about it on the same stderr would end the process.
    lines.log_internal_errors(false).try_init().map_err(|error| format!("cannot start logging: {error}"))
}
