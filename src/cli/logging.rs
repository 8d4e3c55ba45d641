//! The log: events of `tracing`, on standard error.

use super::CliError;
use crate::config::{LogConfig, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts the log. Once in a process.
pub(super) fn init(config: &LogConfig) -> Result<(), CliError> {
    let filter =
        EnvFilter::builder().parse(&config.level).map_err(|error| CliError::Log(error.to_string()))?;
    // Colours are for people who watch, and who did not decline them (no-color.org).
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let outcome = match config.format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|error| CliError::Log(error.to_string()))
}
