//! `unsocket bench`: arguments to a load, its progress and result to the terminal.

use crate::bench::report::thousands;
use crate::bench::{BenchError, Phase, Plan, Progress, Report, Stop, WsUrl, kernel};
use crate::time::Duration;
use clap::Args;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Load a WebSocket echo server and verify every reply.
///
/// Without a URL, server and clients run in this process over an in-process wire; no privilege is needed. With a
/// URL, ordinary kernel sockets load any server; with --port and --ip, the engine's own client does, over that
/// port. Each connection keeps --in-flight messages on their way; each reply is compared byte for byte and in
/// order. The exit status is 0 when there was no error, 1 when there was any.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// The echo server, ws://HOST[:PORT][/path]; an IPv6 address in brackets [default: in this process]
    #[arg(value_name = "URL")]
    pub url: Option<WsUrl>,

    /// Connections in all
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub connections: u32,

    /// Messages on their way per connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: u32,

    /// Payload of each message, bytes; up to 64 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    pub size: u32,

    /// Text messages instead of binary ones
    #[arg(long)]
    pub text: bool,

    /// How long to measure, seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub duration: Duration,

    /// Stop after this many messages over all connections instead of after a duration
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,

    /// How long to run before measuring, seconds [default: 0.5, with --messages 0]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Option<Duration>,

    /// How long a reply, or the opening of a connection, may take before it is an error, seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,

    /// Generator threads; the connections are divided between them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: u32,

    /// Cores to pin the generator threads to, in turn, like 1,2 [default: not pinned]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cores: Vec<usize>,

    /// Poll kernel sockets without ever sleeping: no wake-up in the round-trip time
    #[arg(long, requires = "url", conflicts_with = "port")]
    pub spin: bool,

    /// Seed of the payloads and of the faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Write the result as one JSON object to this file; `-` for standard output and nothing else
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

/// Carries out `unsocket bench`. The exit status is 1 when there were errors on its connections.
///
/// # Errors
/// When the run could not begin, or its result could not be written.
pub fn run(args: BenchArgs) -> Result<ExitCode, BenchError> {
    let plan = args.plan()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends the process: the run may be waiting for a server that does not answer.
        let registered =
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)));
        registered.map_err(|source| BenchError::Kernel { what: "no signal handler", source })?;
    }
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let mut meter = Meter::new(to_stdout);
    let report = args.execute(&plan, &interrupted, &mut |progress| meter.show(progress))?;
    meter.clear();
    match args.json.as_deref() {
        Some(_) if to_stdout => println!("{}", report.to_json()),
        Some(path) => {
            std::fs::write(path, report.to_json() + "\n")
                .map_err(|source| BenchError::Output { path: path.to_owned(), source })?;
            print!("{report}");
        }
        None => print!("{report}"),
    }
    Ok(if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl BenchArgs {
    fn plan(&self) -> Result<Plan, BenchError> {
        let outstanding = u64::from(self.connections) * u64::from(self.in_flight);
        if outstanding > OUTSTANDING_MAX {
            return Err(BenchError::Outstanding { outstanding, limit: OUTSTANDING_MAX });
        }
        Ok(Plan {
            connections: self.connections,
            in_flight: self.in_flight,
            size: self.size as usize,
            text: self.text,
            stop: self.messages.map_or(Stop::After(self.duration), Stop::Messages),
            warmup: self.warmup.unwrap_or(if self.messages.is_some() { Duration::ZERO } else { WARMUP }),
            timeout: self.timeout,
            workers: self.workers,
            cores: self.cores.clone(),
            seed: self.seed,
        })
    }

    fn execute(
        &self,
        plan: &Plan,
        interrupted: &AtomicBool,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<Report, BenchError> {
        match &self.url {
            Some(url) => kernel::run(plan, url, self.spin, interrupted, observer),
            None => todo!(),
        }
    }
}

/// Warm-up of a load that is measured for a duration.
const WARMUP: Duration = Duration::from_millis(500);
/// Most messages on their way over all connections: 8 bytes are kept for each.
const OUTSTANDING_MAX: u64 = 1 << 28;

/// A number of seconds, with a fraction if wanted.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "wanted a number of seconds, like 5 or 0.5".to_owned())?;
    if !(0.0..=1e6).contains(&seconds) {
        return Err("wanted 0 to 1000000 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Live progress on standard error: one line that is rewritten on a terminal, one line a second elsewhere.
struct Meter {
    silent: bool,
    terminal: bool,
    shown_at: Option<Duration>,
    replies: u64,
}

impl Meter {
    fn new(silent: bool) -> Self {
        Meter { silent, terminal: std::io::stderr().is_terminal(), shown_at: None, replies: 0 }
    }

    fn show(&mut self, progress: Progress) {
        let interval = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(1) };
        let since = progress.elapsed.saturating_sub(self.shown_at.unwrap_or_default());
        if self.silent || since < interval {
            return;
        }
        let rate = (progress.replies - self.replies) as f64 / since.as_secs_f64();
        (self.shown_at, self.replies) = (Some(progress.elapsed), progress.replies);
        let line = progress_line(&progress, rate);
        let mut stderr = std::io::stderr().lock();
        // Whoever closed standard error does not want to see progress.
        let _ = if self.terminal { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
    }

    /// Removes the line from a terminal.
    fn clear(&self) {
        if self.terminal && self.shown_at.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn progress_line(progress: &Progress, rate: f64) -> String {
    let phase = match progress.phase {
        Phase::Connecting => "connecting",
        Phase::WarmingUp => "warming up",
        Phase::Measuring => "measuring",
        Phase::Draining => "last replies",
    };
    let remaining =
        progress.remaining.map_or(String::new(), |left| format!(", {:.1} s left", left.as_secs_f64()));
    format!(
        "{phase:<12} {:>12} messages/s, {} connections open, {:.1} s{remaining}",
        thousands(rate as u64),
        thousands(u64::from(progress.open)),
        progress.elapsed.as_secs_f64()
    )
}
