//! `unsocket bench`: arguments to a load, its progress and result to the terminal.

mod meter;

use super::PortArgs;
use super::tls_args::TlsArgs;
use crate::bench::in_process::{self, Wiring};
use crate::bench::over_port::{self, Site};
use crate::bench::report::Faults;
use crate::bench::{BenchError, Plan, Progress, Report, Scenario, Stop, Target, kernel};
use crate::config::{Checksum, Config, Poll};
use crate::port::tap;
use crate::stack::CongestionControl;
use crate::time::Duration;
use crate::ws::WsUrl;
use clap::{Args, ValueEnum};
use meter::Meter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Warm-up of a load that is measured for a duration.
const WARMUP: Duration = Duration::from_millis(500);
/// MTU of the in-process wire unless another is given, bytes.
const WIRE_MTU: usize = 1_500;
/// Most messages on their way over all connections: 8 bytes are kept for each.
const OUTSTANDING_MAX: u64 = 1 << 28;

/// Load a WebSocket echo server and verify every reply
///
/// Without a URL, server and clients run in this process over an in-process wire; no privilege is needed. With a
/// URL, ordinary kernel sockets load any server; with --port and --ip, the engine's own client does, over that
/// device. Each connection keeps --in-flight messages on their way; each reply is compared byte for byte and in
/// order. The exit status is 0 when there was no error, 1 when there was any.
#[derive(Args, Clone, Debug)]
pub(super) struct BenchArgs {
    /// Echo server, ws://HOST[:PORT][/path] or wss://..., an IPv6 address in brackets [default: none, serve in this process]
    #[arg(value_name = "URL")]
    url: Option<WsUrl>,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    device: PortArgs,
    #[command(flatten)]
    path: PathArgs,
    /// In one process: with TLS, with a certificate made for the run
    #[arg(long, conflicts_with = "url", help_heading = "TLS (wss://)")]
    tls: bool,
    #[command(flatten)]
    trust: TlsArgs,
    /// Write the result as one JSON object to this file; `-` for standard output, and then nothing else
    /// [default: none, a summary for people on standard output]
    #[arg(long, value_name = "FILE|-", help_heading = "Result")]
    json: Option<PathBuf>,
}

/// What is sent, by whom, for how long.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// What is done: echo (each connection keeps messages on their way) or connect (each is opened, used for --echoes
    /// messages, closed and opened again; openings are counted and timed)
    #[arg(long, value_name = "WHICH", default_value = "echo")]
    scenario: ScenarioName,
    /// With --scenario connect: messages in the life of a connection, one after the other [default: 1]
    #[arg(long, value_name = "N")]
    echoes: Option<u32>,
    /// Connections in all; with --scenario connect, at a time
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    connections: u32,
    /// Messages on their way per connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Payload of each message in bytes, at most 64 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    size: u32,
    /// Text messages instead of binary ones
    #[arg(long)]
    text: bool,
    /// Offer permessage-deflate (in one process: on both sides), and send what compresses as JSON does; a server that
    /// declines is an error. Messages under 256 bytes are not compressed
    #[arg(long)]
    deflate: bool,
    /// How long to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = super::seconds)]
    duration: Duration,
    /// Stop after this many messages over all connections (with --scenario connect, so many openings), not after a duration [default: none]
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// How long to run before measuring, in seconds [default: 0.5, with --messages 0]
    #[arg(long, value_name = "SECONDS", value_parser = super::seconds)]
    warmup: Option<Duration>,
    /// How long a reply, or the opening of a connection, may take before it is an error, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = super::seconds)]
    timeout: Duration,
    /// Generator threads, the connections divided between them; in one process also as many server threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// Cores to pin the generator threads to, in turn, e.g. 1,2 [default: none, not pinned]
    #[arg(long, value_name = "CORE,..", value_delimiter = ',')]
    cores: Vec<usize>,
    /// In one process: cores to pin the server threads to, in turn [default: none, not pinned]
    #[arg(long, value_name = "CORE,..", value_delimiter = ',', conflicts_with = "url")]
    server_core: Vec<usize>,
    /// With a URL: poll without ever sleeping, so that no wake-up is in the round-trip time
    #[arg(long, requires = "url")]
    spin: bool,
    /// Seed of the payloads and of the faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// The engine's path; over kernel sockets it is the kernel's, and none of these can be given.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Path of the engine (not over kernel sockets)")]
struct PathArgs {
    /// Congestion control of the engine's connections [default: cubic]
    #[arg(long, value_name = "WHICH")]
    congestion: Option<Congestion>,
    /// Probability that a frame is lost, 0 to 1, each way [default: 0]
    #[arg(long, value_name = "RATE")]
    fault_loss: Option<f64>,
    /// Probability that a frame is overtaken by later ones, 0 to 1, each way [default: 0]
    #[arg(long, value_name = "RATE")]
    fault_reorder: Option<f64>,
    /// Probability that a frame arrives twice, 0 to 1, each way [default: 0]
    #[arg(long, value_name = "RATE")]
    fault_duplicate: Option<f64>,
    /// Probability that a bit of a frame is flipped, 0 to 1, each way [default: 0]
    #[arg(long, value_name = "RATE")]
    fault_corrupt: Option<f64>,
    /// Delay of every frame in microseconds, each way [default: 0]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(0..=60_000_000))]
    fault_delay_us: Option<u64>,
}

/// Which scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScenarioName {
    /// Messages back and forth.
    Echo,
    /// Connections that come and go.
    Connect,
}

/// Which congestion control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Congestion {
    /// RFC 9438.
    Cubic,
    /// None at all: for memory and dedicated networks.
    None,
}

/// Carries out `unsocket bench`. The exit status is 1 when there were errors on its connections.
///
/// # Errors
/// When the run could not begin, or its result could not be written.
pub(super) fn run(args: &BenchArgs) -> Result<ExitCode, BenchError> {
    let plan = args.load.plan()?;
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
    let outcome = args.execute(&plan, &interrupted, &mut |progress| meter.show(progress));
    meter.clear();
    let report = outcome?;
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
    fn execute(
        &self,
        plan: &Plan,
        interrupted: &AtomicBool,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<Report, BenchError> {
        let target = self.target()?;
        match (&target, &self.device.port) {
            (Some(target), Some(_)) => {
                let config = self.config(plan)?;
                let spin = self.load.spin || config.poll() == Poll::Spin;
                let site = Site { stack: config.stack(), faults: self.faults(), spin };
                if let Some(tap) = config.tap() {
                    return over_port::run(plan, target, &site, tap::open(&tap)?, interrupted, observer);
                }
                #[cfg(feature = "dpdk")]
                if let Some(dpdk) = config.dpdk() {
                    let ports = crate::port::dpdk::open(&dpdk)?;
                    if let Some(port) = ports.first() {
                        eprintln!("{}", port.summary());
                        if let Some(advice) = crate::cli::numa::advice_for(port.summary(), &plan.cores) {
                            eprintln!("warning: {advice}");
                        }
                    }
                    return over_port::run(plan, target, &site, ports, interrupted, observer);
                }
                Err(BenchError::WireToUrl)
            }
            (Some(target), None) => {
                self.refuse_device_options(true)?;
                self.refuse_path_options()?;
                if plan.scenario != Scenario::Echo {
                    return Err(BenchError::ScenarioNeedsEngine);
                }
                kernel::run(plan, target, self.load.spin, interrupted, observer)
            }
            (None, Some(_)) => Err(BenchError::PortWithoutUrl),
            (None, None) => {
                self.refuse_device_options(false)?;
                in_process::run(plan, &self.wiring(), interrupted, observer)
            }
        }
    }

    /// The server to load; `None` when it is in this process.
    fn target(&self) -> Result<Option<Target>, BenchError> {
        match (&self.url, self.trust.given()) {
            (Some(url), _) if url.is_secure() => {
                Ok(Some(Target { url: url.clone(), tls: Some(self.trust.load()?) }))
            }
            (_, Some(option)) => Err(BenchError::OptionNeedsTls { option }),
            (url, None) => Ok(url.clone().map(|url| Target { url, tls: None })),
        }
    }

    /// The device's configuration.
    fn config(&self, plan: &Plan) -> Result<Config, BenchError> {
        let mut config = Config::default();
        self.device.apply(&mut config);
        if config.port.dhcp {
            return Err(BenchError::Dhcp);
        }
        config.workers.count = plan.shares().len();
        config.tcp.congestion = match self.path.congestion() {
            CongestionControl::Cubic => crate::config::Congestion::Cubic,
            CongestionControl::None => crate::config::Congestion::None,
        };
        config.validate()?;
        config.device()?;
        Ok(config)
    }

    fn wiring(&self) -> Wiring {
        let faults = self.faults();
        let corrupts = faults.is_some_and(|faults| faults.corrupt > 0.0);
        let checksum =
            self.device.checksum.unwrap_or(if corrupts { Checksum::Verify } else { Checksum::Trust });
        Wiring {
            mtu: self.device.mtu.unwrap_or(WIRE_MTU),
            checksums: checksum == Checksum::Verify,
            congestion: self.path.congestion(),
            faults,
            tls: self.tls,
            server_cores: self.load.server_core.clone(),
        }
    }

    fn faults(&self) -> Option<Faults> {
        let PathArgs { fault_loss, fault_reorder, fault_duplicate, fault_corrupt, fault_delay_us, .. } =
            self.path;
        let faults = Faults {
            loss: fault_loss.unwrap_or_default(),
            reorder: fault_reorder.unwrap_or_default(),
            duplicate: fault_duplicate.unwrap_or_default(),
            corrupt: fault_corrupt.unwrap_or_default(),
            delay_us: fault_delay_us.unwrap_or_default(),
            seed: self.load.seed,
        };
        let none = Faults { loss: 0.0, reorder: 0.0, duplicate: 0.0, corrupt: 0.0, delay_us: 0, ..faults };
        (faults != none).then_some(faults)
    }

    /// Options of a device mean nothing without one; only MTU and checksums are the wire's, too.
    fn refuse_device_options(&self, wires_too: bool) -> Result<(), BenchError> {
        let PortArgs {
            port: _,
            ip,
            host_ip,
            netns,
            mac,
            mtu,
            queues,
            vlan,
            gateway,
            dhcp,
            checksum,
            no_huge,
            eal,
        } = &self.device;
        let given = [
            ("--ip", !ip.is_empty()),
            ("--host-ip", !host_ip.is_empty()),
            ("--netns", netns.is_some()),
            ("--mac", mac.is_some()),
            ("--mtu", mtu.is_some() && wires_too),
            ("--checksum", checksum.is_some() && wires_too),
            ("--queues", queues.is_some()),
            ("--vlan", vlan.is_some()),
            ("--gateway", !gateway.is_empty()),
            ("--dhcp", *dhcp),
            ("--no-huge", *no_huge),
            ("what follows --", !eal.is_empty()),
        ];
        refuse(given, |option| BenchError::OptionNeedsPort { option })
    }

    /// Over kernel sockets the path is the kernel's.
    fn refuse_path_options(&self) -> Result<(), BenchError> {
        let given = [
            ("--congestion", self.path.congestion.is_some()),
            ("--fault-loss", self.path.fault_loss.is_some()),
            ("--fault-reorder", self.path.fault_reorder.is_some()),
            ("--fault-duplicate", self.path.fault_duplicate.is_some()),
            ("--fault-corrupt", self.path.fault_corrupt.is_some()),
            ("--fault-delay-us", self.path.fault_delay_us.is_some()),
        ];
        refuse(given, |option| BenchError::OptionNeedsEngine { option })
    }
}

fn refuse<const N: usize>(
    given: [(&'static str, bool); N],
    error: impl Fn(&'static str) -> BenchError,
) -> Result<(), BenchError> {
    match given.into_iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(error(option)),
        None => Ok(()),
    }
}

impl LoadArgs {
    fn plan(&self) -> Result<Plan, BenchError> {
        let outstanding = u64::from(self.connections) * u64::from(self.in_flight);
        if outstanding > OUTSTANDING_MAX {
            return Err(BenchError::Outstanding { outstanding, limit: OUTSTANDING_MAX });
        }
        let scenario = match (self.scenario, self.echoes) {
            (ScenarioName::Echo, None) => Scenario::Echo,
            (ScenarioName::Connect, echoes) if self.in_flight == 1 => {
                Scenario::Connect { echoes: echoes.unwrap_or(1) }
            }
            (ScenarioName::Echo, Some(_)) => {
                return Err(BenchError::OptionOfOtherScenario { option: "--echoes", scenario: "echo" });
            }
            (ScenarioName::Connect, _) => {
                return Err(BenchError::OptionOfOtherScenario { option: "--in-flight", scenario: "connect" });
            }
        };
        Ok(Plan {
            scenario,
            connections: self.connections,
            in_flight: self.in_flight,
            size: self.size as usize,
            text: self.text,
            deflate: self.deflate,
            stop: self.messages.map_or(Stop::After(self.duration), Stop::Messages),
            warmup: self.warmup.unwrap_or(if self.messages.is_some() { Duration::ZERO } else { WARMUP }),
            timeout: self.timeout,
            workers: self.workers,
            cores: self.cores.clone(),
            seed: self.seed,
        })
    }
}

impl PathArgs {
    fn congestion(&self) -> CongestionControl {
        match self.congestion {
            None | Some(Congestion::Cubic) => CongestionControl::Cubic,
            Some(Congestion::None) => CongestionControl::None,
        }
    }
}
