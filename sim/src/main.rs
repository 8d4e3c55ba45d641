//! `scripts/simulate`: runs worlds from seeds.

use clap::Parser;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use unsocket_sim::{Fleet, Replay, Totals, Without, examine, run_fleet};

/// Runs simulated worlds: the whole engine under every fault, each drawn from a seed.
#[derive(Debug, Parser)]
#[command(name = "scripts/simulate")]
struct Options {
    /// Run this one world; if it fails, show what happened and the smallest world that fails alike.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Run these worlds: A..B, without B, or A.. for all from A on, as long as --minutes says.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// Run random worlds for so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Worlds at a time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// With --seed: leave out these faults.
    #[arg(long, value_delimiter = ',')]
    without_faults: Vec<usize>,
    /// With --seed: leave out these connections.
    #[arg(long, value_delimiter = ',')]
    without_connections: Vec<usize>,
    /// With --seed: leave out these adversaries.
    #[arg(long, value_delimiter = ',')]
    without_adversaries: Vec<usize>,
    /// With --seed: leave out these hosts, and what is theirs.
    #[arg(long, value_delimiter = ',')]
    without_hosts: Vec<usize>,
    /// With --seed: halve the number of messages of each connection so often.
    #[arg(long, default_value_t = 0)]
    halve_messages: u32,
    /// With --seed: leave out what begins later, milliseconds of the world's time.
    #[arg(long)]
    until_ms: Option<u64>,
    /// With --seed: look for a smaller world that fails alike for so long, seconds.
    #[arg(long, default_value_t = 300)]
    shrink_seconds: u64,
    /// With --seed: do not look for a smaller world.
    #[arg(long)]
    whole: bool,
    /// With --seed: lines of the trace to show when it fails.
    #[arg(long, default_value_t = 60)]
    lines: usize,
    /// With --seed: show the trace although all went well.
    #[arg(long)]
    show: bool,
    /// Only worlds of two hosts, at most three connections and no adversary.
    #[arg(long, conflicts_with = "seed")]
    small: bool,
    /// End with the first world that fails.
    #[arg(long)]
    first: bool,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let wanted = || format!("`{text}` is no range of seeds: A..B, like 0..1000, or A..");
    let (from, until) = text.split_once("..").ok_or_else(wanted)?;
    let until = if until.is_empty() { Ok(u64::MAX) } else { until.parse() };
    Ok((from.parse().map_err(|_| wanted())?, until.map_err(|_| wanted())?))
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.seed {
        Some(seed) => run_one(seed, &options),
        None => run_many(&options),
    }
}

fn run_one(seed: u64, options: &Options) -> ExitCode {
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let replay = Replay {
        seed,
        without: Without {
            faults: options.without_faults.iter().copied().collect(),
            conns: options.without_connections.iter().copied().collect(),
            adversaries: options.without_adversaries.iter().copied().collect(),
            hosts: options.without_hosts.iter().copied().collect(),
            halved: options.halve_messages,
            after: options.until_ms.map(Duration::from_millis),
        },
        shrink: None,
        lines: if options.show { options.lines } else { 0 },
    };
    let whole = examine(&replay);
    println!("seed {seed}: trace hash {:016x}", whole.hash);
    let Some(broken) = &whole.broken else {
        print!("{}", whole.text);
        return ExitCode::SUCCESS;
    };
    println!("FAILED {broken}");
    let shrink = (!options.whole).then_some(Duration::from_secs(options.shrink_seconds));
    let smallest = examine(&Replay { shrink, lines: options.lines, ..replay });
    print!("{}", smallest.text);
    println!("FAILED {}", smallest.broken.as_ref().unwrap_or(broken));
    ExitCode::FAILURE
}

fn run_many(options: &Options) -> ExitCode {
    let random = || {
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos());
        let from = (nanos as u64) >> 4;
        (from, u64::MAX)
    };
    let (from, until) = options.seeds.unwrap_or_else(random);
    let minutes = options.minutes.or(options.seeds.is_none().then_some(1.0));
    let time_limit = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let fleet = Fleet { from, until, time_limit, threads: options.threads, small: options.small };
    std::panic::set_hook(Box::new(|_| {}));
    let first = options.first;
    let began = Instant::now();
    let failed = |seed, failure: &str| {
        println!("seed {seed} FAILED {failure}\n  again: scripts/simulate --seed {seed}");
        if first {
            std::process::exit(1);
        }
    };
    let progress = |totals: &Totals, next| {
        println!(
            "{:.0} s: {} worlds, {} connections, {} messages, {} failures; to go on: --seeds {next}..",
            began.elapsed().as_secs_f64(),
            totals.worlds,
            totals.connections,
            totals.messages,
            totals.failures.len()
        );
    };
    let totals = run_fleet(&fleet, failed, progress);
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} worlds from seed {from} in {took:.1} s: {:.0} worlds a minute, {:.0} simulated seconds a second of one thread",
        totals.worlds,
        totals.worlds as f64 * 60.0 / took,
        totals.virtual_time.as_secs_f64() / totals.thread_time.as_secs_f64().max(1e-9),
    );
    println!(
        "{} connections, {} messages, {} publications, {} frames ({} lost to faults), {} events; hash {:016x}",
        totals.connections,
        totals.messages,
        totals.publications,
        totals.frames,
        totals.frames_lost,
        totals.events,
        totals.hash
    );
    println!("{} connections judged; excused: {:?}", totals.judged, totals.excused);
    println!("{} worlds failed", totals.failures.len());
    if totals.failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
