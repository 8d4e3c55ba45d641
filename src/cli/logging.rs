//! The log: events of `tracing`, on standard error.

use super::CliError;
use crate::config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;

/// Starts the log. Once in a process.
pub(super) fn init(config: &LogConfig) -> Result<(), CliError> {
    let filter =
        EnvFilter::builder().parse(&config.level).map_err(|error| CliError::Log(error.to_string()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let outcome = match config.format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|error| CliError::Log(error.to_string()))
}
