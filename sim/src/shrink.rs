//! A failing world, made smaller: hosts, faults, adversaries, connections, messages and time are left out as long as
//! the same rule is broken.

use crate::fleet::run_world;
use crate::scenario::{Scenario, Without};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What is run again.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// The seed.
    pub seed: u64,
    /// What is left out of it.
    pub without: Without,
    /// Look for the smallest world that fails alike, for so much real time.
    pub shrink: Option<Duration>,
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

/// The smallest part of a world that still fails: bisection over what is in it, then over how much is said and how long.
fn smallest(scenario: &Scenario, still_fails: impl Fn(&Without) -> bool) -> Without {
    type Part = fn(&mut Without) -> &mut BTreeSet<usize>;
    let parts: [(usize, Part); 4] = [
        (scenario.hosts.len(), |without| &mut without.hosts),
        (scenario.faults.len(), |without| &mut without.faults),
        (scenario.adversaries.len(), |without| &mut without.adversaries),
        (scenario.conns.len(), |without| &mut without.conns),
    ];
    let mut without = scenario.without.clone();
    for _ in 0..2 {
        let before = without.clone();
        for (count, part) in parts {
            let mut left_out = part(&mut without).clone();
            let tried = |set: &BTreeSet<usize>| {
                let mut tried = without.clone();
                part(&mut tried).clone_from(set);
                still_fails(&tried)
            };
            leave_out(count, tried, &mut left_out);
            *part(&mut without) = left_out;
        }
        // A connection says at most 200 messages.
        let halved = |halved| Without { halved, ..without.clone() };
        let most = (without.halved..=8).rev().find(|&times| still_fails(&halved(times)));
        without = halved(most.unwrap_or(without.halved));
        without.after = shortest(&without, scenario.horizon, &still_fails);
        if without == before {
            break;
        }
    }
    without
}

/// How much of a world's time is enough, to a tenth of a second.
fn shortest(
    without: &Without,
    horizon: Duration,
    still_fails: impl Fn(&Without) -> bool,
) -> Option<Duration> {
    let (mut low, mut high) = (0, horizon.as_millis() as u64 / 100 + 1);
    let at = |tenths| Some(Duration::from_millis(tenths * 100));
    let whole = high;
    while low < high {
        let middle = (low + high) / 2;
        if still_fails(&Without { after: at(middle), ..without.clone() }) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    if high < whole { at(high) } else { without.after }
}

fn command(seed: u64, without: &Without) -> String {
    let mut command = format!("scripts/simulate --seed {seed}");
    let parts = [
        ("hosts", &without.hosts),
        ("faults", &without.faults),
        ("connections", &without.conns),
        ("adversaries", &without.adversaries),
    ];
    for (name, set) in parts {
        if !set.is_empty() {
            let list: Vec<String> = set.iter().map(usize::to_string).collect();
            let _ = write!(command, " --without-{name} {}", list.join(","));
        }
    }
    if without.halved > 0 {
        let _ = write!(command, " --halve-messages {}", without.halved);
    }
    if let Some(after) = without.after {
        let _ = write!(command, " --until-ms {}", after.as_millis());
    }
    command
}

/// How much of a world there is.
fn size(scenario: &Scenario) -> String {
    let count = |all: usize, has: &dyn Fn(usize) -> bool| {
        format!("{} of {all}", (0..all).filter(|&i| has(i)).count())
    };
    format!(
        "{} hosts, {} faults, {} adversaries, {} connections, {:?} of faults",
        count(scenario.hosts.len(), &|i| scenario.has_host(i)),
        count(scenario.faults.len(), &|i| scenario.has_fault(i)),
        count(scenario.adversaries.len(), &|i| scenario.has_adversary(i)),
        count(scenario.conns.len(), &|i| scenario.has_conn(i)),
        scenario.horizon,
    )
}

/// Runs one world again, with its trace in words.
pub fn examine(replay: &Replay) -> Failure {
    let seed = replay.seed;
    let mut without = replay.without.clone();
    if let Some(limit) = replay.shrink
        && let Some(rule) = broken(seed, &without)
    {
        let began = Instant::now();
        // When time is up nothing smaller is found any more.
        let fails = |tried: &Without| began.elapsed() < limit && broken(seed, tried).as_ref() == Some(&rule);
        without = smallest(&Scenario::draw(seed, without), fails);
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
        let _ =
            writeln!(text, "a {kind} world, IPv{}: {}", if scenario.ipv6 { 6 } else { 4 }, size(&scenario));
        list(&mut text, "host", &scenario.hosts, |index| scenario.has_host(index));
        list(&mut text, "fault", &scenario.faults, |index| scenario.has_fault(index));
        list(&mut text, "adversary", &scenario.adversaries, |index| scenario.has_adversary(index));
        list(&mut text, "connection", &scenario.conns, |index| scenario.has_conn(index));
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

fn list<T: std::fmt::Debug>(text: &mut String, name: &str, all: &[T], has: impl Fn(usize) -> bool) {
    for (index, one) in all.iter().enumerate().filter(|(index, _)| has(*index)) {
        let _ = writeln!(text, "{name} {index}: {one:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A large world.
    fn world() -> Scenario {
        let is_large = |scenario: &Scenario| {
            scenario.conns.len() > 10 && scenario.faults.len() > 3 && scenario.hosts.len() > 3
        };
        (0..10_000)
            .map(|seed| Scenario::draw(seed, Without::default()))
            .find(is_large)
            .expect("a large world")
    }

    #[test]
    fn only_what_the_failure_needs_is_left() {
        let whole = world();
        let seed = whole.seed;
        let conn =
            (0..whole.conns.len()).max_by_key(|&conn| whole.conns[conn].messages).expect("a connection");
        let begins = whole.faults[1].from.max(whole.conns[conn].start);
        // Needs one connection with some messages, one fault, and the time until both have begun.
        let fails = |tried: &Without| {
            let scenario = Scenario::draw(seed, tried.clone());
            scenario.has_conn(conn)
                && scenario.has_fault(1)
                && scenario.conns[conn].messages >= whole.conns[conn].messages / 4
        };
        assert!(fails(&Without::default()));
        let scenario = Scenario::draw(seed, smallest(&whole, fails));
        let conns: Vec<usize> = (0..scenario.conns.len()).filter(|&index| scenario.has_conn(index)).collect();
        assert_eq!(conns, [conn]);
        let needed = [Some(whole.conns[conn].client), Some(whole.conns[conn].server), whole.faults[1].host];
        assert!(
            (0..scenario.hosts.len()).all(|host| scenario.has_host(host) == needed.contains(&Some(host)))
        );
        assert!((0..scenario.faults.len()).all(|fault| scenario.has_fault(fault) == (fault == 1)));
        assert!((0..scenario.adversaries.len()).all(|index| !scenario.has_adversary(index)));
        assert_eq!(scenario.conns[conn].messages, whole.conns[conn].messages / 4);
        assert!(scenario.horizon <= begins + Duration::from_millis(200), "{:?}", scenario.horizon);
    }

    #[test]
    fn the_command_names_all_that_is_left_out() {
        let without = Without {
            faults: [1, 4].into(),
            hosts: [2].into(),
            halved: 3,
            after: Some(Duration::from_millis(1500)),
            ..Without::default()
        };
        let expected = "scripts/simulate --seed 7 --without-hosts 2 --without-faults 1,4 --halve-messages 3 --until-ms 1500";
        assert_eq!(command(7, &without), expected);
    }
}
