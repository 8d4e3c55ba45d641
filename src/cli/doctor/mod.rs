//! `unsocket doctor`: is this machine fit, and what to do where it is not.

mod checks;
mod machine;

use super::CliError;
use clap::Args;
use machine::Machine;
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// Check this machine: TAP permission, huge pages, CPU isolation, clock source and more
///
/// Each check passes, warns (it works, but slower) or fails (`serve` will not work), and says what to do about it.
/// The exit status is 0 when nothing failed, else 1.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it should be.
    Pass,
    /// It works, but slower or with less.
    Warn,
    /// `serve` will not work.
    Fail,
}

/// One check's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    /// What was looked at: a stable name for scripts.
    name: &'static str,
    status: Status,
    /// What was found.
    found: String,
    /// What to do about it; empty when there is nothing to do.
    advice: String,
}

/// All checks of one machine.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing failed.
    ok: bool,
    checks: Vec<Check>,
}

impl Report {
    fn of(machine: &Machine) -> Report {
        let checks = checks::all(machine);
        Report { ok: checks.iter().all(|check| check.status != Status::Fail), checks }
    }
}

/// Checks this machine and prints what was found.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, CliError> {
    let report = Report::of(&Machine::this());
    let mut stdout = std::io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer_pretty(&mut stdout, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(stdout))
    } else {
        write!(stdout, "{report}")
    };
    written.map_err(CliError::Output)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Pass => "pass",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for Check { name, status, found, advice } in &self.checks {
            writeln!(f, "{status:4}  {name:width$}  {found}")?;
            if !advice.is_empty() {
                writeln!(f, "{:4}  {:width$}  -> {advice}", "", "")?;
            }
        }
        let count = |status| self.checks.iter().filter(|check| check.status == status).count();
        let (warnings, failures) = (count(Status::Warn), count(Status::Fail));
        writeln!(f, "{} checks, {warnings} warnings, {failures} failures", self.checks.len())
    }
}
