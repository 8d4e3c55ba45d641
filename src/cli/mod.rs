//! The command line: arguments to configuration to run. One file a command; no protocol here.

mod bench;
mod connect;
mod doctor;
mod logging;
#[cfg(feature = "dpdk")]
mod numa;
mod port_args;
mod ready;
mod serve;
mod tls_args;

pub use port_args::PortArgs;

use crate::time::Duration;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A kernel-bypass WebSocket engine: raw frames in, messages out, no socket on the way.
#[derive(Debug, Parser)]
#[command(name = "unsocket", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Bench(Box<bench::BenchArgs>),
    Connect(Box<connect::ConnectArgs>),
    Doctor(doctor::DoctorArgs),
}

/// Runs the command that the process's arguments name. The exit status is 0 when it did what was asked, 1 when it
/// failed, 2 when the arguments or the configuration are wrong.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Bench(args) => bench::run(&args).map_err(CliError::Bench),
        Command::Connect(args) => connect::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        match error {
            CliError::Config(_) | CliError::Tls(_) => ExitCode::from(2),
            CliError::Connect(error) => ExitCode::from(error.status()),
            #[cfg(feature = "dpdk")]
            CliError::Dpdk(_) => ExitCode::FAILURE,
            CliError::Bench(error) if error.is_usage() => ExitCode::from(2),
            CliError::Bench(_)
            | CliError::Log(_)
            | CliError::ReadyFd { .. }
            | CliError::Output(_)
            | CliError::Unreachable
            | CliError::Tap(_)
            | CliError::Launch(_) => ExitCode::FAILURE,
        }
    })
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The load could not be carried out.
    #[error(transparent)]
    Bench(#[from] crate::bench::BenchError),
    /// A connection could not be tried.
    #[error(transparent)]
    Connect(#[from] connect::ConnectError),
    /// The log cannot be set up.
    #[error("cannot set up the log: {0}")]
    Log(String),
    /// The descriptor of `--ready-fd` cannot be written to.
    #[error("--ready-fd {fd}: {source}; give the number of a pipe or file that is open for writing")]
    ReadyFd {
        /// Its number.
        fd: u32,
        /// Why not.
        source: std::io::Error,
    },
    /// Standard output cannot be written to.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    /// The port has its other end in this process.
    #[error(
        "port `wire` joins two ends inside one process, nobody else can reach it: use tap:NAME or dpdk:DEVARGS"
    )]
    Unreachable,
    /// The TAP device cannot be opened.
    #[error(transparent)]
    Tap(#[from] crate::port::tap::TapError),
    /// The DPDK device cannot be opened.
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Dpdk(#[from] crate::port::dpdk::DpdkError),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::FileError),
    /// The workers cannot run.
    #[error(transparent)]
    Launch(#[from] crate::engine::LaunchError),
}

/// A number of seconds, with a fraction if wanted.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "wanted a number of seconds, like 5 or 0.5".to_owned())?;
    if !(0.0..=1e6).contains(&seconds) {
        return Err("wanted 0 to 1000000 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_that_takes_a_value_says_its_default() {
        for command in Cli::command().get_subcommands() {
            for option in command.get_arguments().filter(|option| option.get_action().takes_values()) {
                let help = option.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    option.is_required_set()
                        || help.contains("[default: ")
                        || !option.get_default_values().is_empty(),
                    "{} {}: {help:?}",
                    command.get_name(),
                    option.get_id()
                );
            }
        }
    }
}
