//! A failing world, made smaller: faults, adversaries and connections are left out as long as the same rule is broken.

use crate::fleet::run_world;
use crate::scenario::{Scenario, Without};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What is run again.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// The seed.
    pub seed: u64,
    /// Faults left out, by number.
    pub without_faults: BTreeSet<usize>,
    /// Connections left out, by number.
    pub without_conns: BTreeSet<usize>,
    /// Adversaries left out, by number.
    pub without_adversaries: BTreeSet<usize>,
    /// Look for the smallest world that fails alike.
    pub shrink: bool,
    /// Lines of the trace to show.
    pub lines: usize,
}

/// A world that was looked at.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The rule that was broken, and how; `None` when all went well.
    pub broken: Option<String>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// What there is to read about it.
    pub text: String,
}

fn broken(seed: u64, without: &Without) -> Option<String> {
    match run_world(seed, without, false) {
        Err(_) => Some("no panic".to_owned()),
        Ok(outcome) => outcome.violation.map(|violation| violation.oracle.to_owned()),
    }
}

/// Leaves out halves, quarters and so on down to single ones, as long as the same rule is broken.
fn leave_out(
    count: usize,
    mut still_fails: impl FnMut(&BTreeSet<usize>) -> bool,
    without: &mut BTreeSet<usize>,
) {
    let mut size = count.div_ceil(2);
    while size > 0 {
        for from in (0..count).step_by(size) {
            let mut tried = without.clone();
            tried.extend(from..(from + size).min(count));
            if tried != *without && still_fails(&tried) {
                *without = tried;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
}

fn smallest(seed: u64, mut without: Without) -> Without {
    let Some(rule) = broken(seed, &without) else { return without };
    let scenario = Scenario::draw(seed, Without::default());
    let fails = |tried: &Without| broken(seed, tried).as_ref() == Some(&rule);
    for _ in 0..2 {
        let before = without.clone();
        let mut faults = without.faults.clone();
        let tried = |faults: &BTreeSet<usize>| fails(&Without { faults: faults.clone(), ..without.clone() });
        leave_out(scenario.faults.len(), tried, &mut faults);
        without.faults = faults;
        let mut adversaries = without.adversaries.clone();
        let tried = |adversaries: &BTreeSet<usize>| {
            fails(&Without { adversaries: adversaries.clone(), ..without.clone() })
        };
        leave_out(scenario.adversaries.len(), tried, &mut adversaries);
        without.adversaries = adversaries;
        let mut conns = without.conns.clone();
        let tried = |conns: &BTreeSet<usize>| fails(&Without { conns: conns.clone(), ..without.clone() });
        leave_out(scenario.conns.len(), tried, &mut conns);
        without.conns = conns;
        if without == before {
            break;
        }
    }
    without
}

fn command(seed: u64, without: &Without) -> String {
    let mut command = format!("scripts/simulate --seed {seed}");
    let parts =
        [("faults", &without.faults), ("connections", &without.conns), ("adversaries", &without.adversaries)];
    for (name, set) in parts {
        if !set.is_empty() {
            let list: Vec<String> = set.iter().map(usize::to_string).collect();
            let _ = write!(command, " --without-{name} {}", list.join(","));
        }
    }
    command
}

/// Runs one world again, with its trace in words.
pub fn examine(replay: &Replay) -> Failure {
    let seed = replay.seed;
    let mut without = Without {
        faults: replay.without_faults.clone(),
        conns: replay.without_conns.clone(),
        adversaries: replay.without_adversaries.clone(),
    };
    if replay.shrink {
        without = smallest(seed, without);
    }
    let scenario = Scenario::draw(seed, without.clone());
    let (broken, hash, trace) = match run_world(seed, &without, true) {
        Err(panic) => (Some(format!("no panic: {panic}")), 0, Vec::new()),
        Ok(outcome) => {
            let broken =
                outcome.violation.map(|violation| format!("{}: {}", violation.oracle, violation.what));
            (broken, outcome.hash, outcome.trace)
        }
    };
    let mut text = String::new();
    if broken.is_some() || replay.lines > 0 {
        let kind = if scenario.gentle { "gentle" } else { "harsh" };
        let _ = writeln!(
            text,
            "a {kind} world, IPv{}, {:?} of faults",
            if scenario.ipv6 { 6 } else { 4 },
            scenario.horizon
        );
        for (index, host) in scenario.hosts.iter().enumerate() {
            let _ = writeln!(text, "host {index}: {host:?}");
        }
        list(&mut text, "fault", &scenario.faults, &without.faults);
        list(&mut text, "adversary", &scenario.adversaries, &without.adversaries);
        list(&mut text, "connection", &scenario.conns, &without.conns);
        text.push_str("what happened last:\n");
        for line in trace.iter().skip(trace.len().saturating_sub(replay.lines)) {
            let _ = writeln!(text, "  {line}");
        }
    }
    if broken.is_some() {
        let _ = writeln!(text, "again: {}", command(seed, &without));
    }
    Failure { broken, hash, text }
}

fn list<T: std::fmt::Debug>(text: &mut String, name: &str, all: &[T], without: &BTreeSet<usize>) {
    for (index, one) in all.iter().enumerate().filter(|(index, _)| !without.contains(index)) {
        let _ = writeln!(text, "{name} {index}: {one:?}");
    }
}
