//! Many worlds, one thread a world.

use crate::scenario::{Scenario, Without};
use crate::world::{Outcome, World};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which worlds to run, and how long.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The first seed.
    pub from: u64,
    /// One past the last seed.
    pub until: u64,
    /// Begin no further world after this much real time.
    pub time_limit: Option<Duration>,
    /// Worlds at a time.
    pub threads: usize,
    /// Leave out worlds of more than two hosts, three connections and no adversary.
    pub small: bool,
}

/// What all worlds came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Worlds run.
    pub worlds: u64,
    /// Seeds that failed, with the rule that was broken.
    pub failures: Vec<(u64, String)>,
    /// Simulated time.
    pub virtual_time: Duration,
    /// Real time of all threads together.
    pub thread_time: Duration,
    /// Events, frames and messages.
    pub events: u64,
    /// WebSocket connections begun.
    pub connections: u64,
    /// Messages that arrived.
    pub messages: u64,
    /// Published messages that arrived.
    pub publications: u64,
    /// Connections of plans that are over and were judged.
    pub judged: u64,
    /// Connections that did not go as planned, by what excuses that.
    pub excused: BTreeMap<&'static str, u64>,
    /// Frames on all links.
    pub frames: u64,
    /// Frames that faults took.
    pub frames_lost: u64,
    /// A hash over the trace hashes of all worlds, in the order of their seeds.
    pub hash: u64,
}

/// Runs one world; a panic is a broken rule, too.
pub(crate) fn run_world(seed: u64, without: &Without, in_words: bool) -> Result<Outcome, String> {
    let run = || World::new(Scenario::draw(seed, without.clone()), in_words).run();
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        text.unwrap_or("no message").to_owned()
    })
}

/// How often a fleet says how far it is.
const PROGRESS: Duration = Duration::from_secs(60);

/// Runs a fleet; `each` hears of every world that failed, as it happens, `progress` once a minute of what was done and
/// from which seed to go on.
pub fn run_fleet(
    fleet: &Fleet,
    each: impl Fn(u64, &str) + Sync,
    progress: impl Fn(&Totals, u64) + Sync,
) -> Totals {
    let next = AtomicU64::new(fleet.from);
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let totals = Mutex::new((Totals::default(), Vec::new()));
    let told = Mutex::new(began);
    let run = || {
        while !over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= fleet.until || fleet.time_limit.is_some_and(|limit| began.elapsed() >= limit) {
                break;
            }
            if fleet.small && !Scenario::draw(seed, Without::default()).is_small() {
                continue;
            }
            let begun = Instant::now();
            let outcome = run_world(seed, &Without::default(), false);
            let took = begun.elapsed();
            let mut guard = totals.lock().unwrap_or_else(PoisonError::into_inner);
            let (totals, hashes) = &mut *guard;
            totals.worlds += 1;
            totals.thread_time += took;
            let failure = match outcome {
                Err(panic) => Some(format!("no panic: {panic}")),
                Ok(outcome) => {
                    totals.virtual_time += outcome.virtual_time;
                    totals.events += outcome.events;
                    totals.connections += outcome.connections;
                    totals.messages += outcome.messages;
                    totals.publications += outcome.publications;
                    totals.judged += outcome.judged;
                    for (name, count) in outcome.excused {
                        *totals.excused.entry(name).or_default() += count;
                    }
                    totals.frames += outcome.net.frames;
                    totals.frames_lost += outcome.net.lost + outcome.net.overflowed + outcome.net.too_long;
                    hashes.push((seed, outcome.hash));
                    outcome.violation.map(|violation| format!("{}: {}", violation.oracle, violation.what))
                }
            };
            if let Some(failure) = failure {
                each(seed, &failure);
                totals.failures.push((seed, failure));
            }
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() >= PROGRESS {
                *told = Instant::now();
                // Worlds under way are run again.
                progress(totals, (seed + 1).saturating_sub(fleet.threads as u64).max(fleet.from));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..fleet.threads.max(1) {
            scope.spawn(run);
        }
    });
    let (mut totals, mut hashes) = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    hashes.sort_unstable();
    totals.failures.sort();
    for (_, hash) in hashes {
        totals.hash = totals.hash.rotate_left(7) ^ hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    totals
}
