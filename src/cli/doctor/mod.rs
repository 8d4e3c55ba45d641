//! `unsocket doctor`: is this machine fit, and what to do where it is not.

mod checks;
mod cpu;
mod dpdk;
mod machine;
mod memory;
mod nic;
mod purpose;
#[cfg(test)]
mod tests;

use super::CliError;
use crate::config::PortSpec;
use clap::Args;
use machine::Machine;
use purpose::{Build, Purpose};
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Check this machine: TAP, NICs, hugepages, IOMMU, memory limits, cores, clock source and more
///
/// Each check passes, warns (it works, but slower or with less) or fails (`serve` will not work), and says what to do about
/// it. What fails depends on the port: a NIC needs hugepages and vfio, a TAP device a permission. The exit status is 0 when
/// nothing failed, 1 when something did, 2 when the arguments are wrong.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// What is to be served on: tap:NAME, or dpdk:DEVARGS, e.g. dpdk:0000:03:00.0
    /// [default: a NIC when one was handed to vfio-pci, else a TAP device]
    #[arg(long, value_name = "SPEC")]
    port: Option<PortSpec>,
    /// Look at the machine whose dev, proc, sys and usr are in this folder [default: /]
    #[arg(long, value_name = "FOLDER", hide = true)]
    root: Option<PathBuf>,
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
    fn of(machine: &Machine, purpose: &Purpose, build: &Build) -> Report {
        let checks = checks::all(machine, purpose, build);
        Report { ok: checks.iter().all(|check| check.status != Status::Fail), checks }
    }
}

/// Checks this machine and prints what was found.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, CliError> {
    let machine = Machine::at(args.root.as_deref().unwrap_or(Path::new("/")));
    let report = Report::of(&machine, &Purpose::of(args.port.as_ref(), &machine), &Build::this());
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
