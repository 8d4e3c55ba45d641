//! `unsocket bench`: arguments to a load, its progress and result to the terminal.

mod load_args;
mod meter;
mod plot;

use super::PortArgs;
use super::tls_args::TlsArgs;
use crate::bench::in_process::{self, Wiring};
use crate::bench::over_port::{self, Site};
use crate::bench::report::Faults;
use crate::bench::{BenchError, Plan, Progress, Report, Target, kernel};
use crate::config::{Checksum, Config, Poll};
use crate::port::tap;
use crate::stack::CongestionControl;
use crate::tls::ClientTls;
use crate::ws::WsUrl;
use clap::{Args, ValueEnum};
use load_args::LoadArgs;
use meter::Meter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// MTU of the in-process wire unless another is given, bytes.
const WIRE_MTU: usize = 1_500;

/// Load a WebSocket server and verify every reply
///
/// Without a URL, server and clients run in this process over an in-process wire; no privilege is needed. With a
/// URL, ordinary kernel sockets load any server; with --port and --ip, the engine's own client does, over that
/// device. Each connection keeps --in-flight messages on their way, or with --rate messages go at that rate; each reply is
/// compared byte for byte and in order. The exit status is 0 when there was no error, 1 when there was any.
#[derive(Args, Clone, Debug)]
pub(super) struct BenchArgs {
    /// Server, ws://HOST[:PORT][/path] or wss://..., an IPv6 address in brackets [default: none, serve in this process]
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
    /// Draw throughput and latency percentiles over the measured time into this SVG file [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    plot: Option<PathBuf>,
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
    let plan = Plan { series: args.plot.is_some(), ..args.load.plan()? };
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
    if let Some(path) = &args.plot {
        plot::draw(&report, path)?;
    }
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
                if !self.load.source.is_empty() {
                    return Err(BenchError::OptionNeedsKernel { option: "--source" });
                }
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
            (Some(url), _) if url.is_secure() => Ok(Some(self.target_at(url, Some(self.trust.load()?))?)),
            (_, Some(option)) => Err(BenchError::OptionNeedsTls { option }),
            (None, None) => Ok(None),
            (Some(url), None) => Ok(Some(self.target_at(url, None)?)),
        }
    }

    fn target_at(&self, url: &WsUrl, tls: Option<ClientTls>) -> Result<Target, BenchError> {
        let (first, port_count) = (url.port(), self.load.ports);
        if u32::from(first) + u32::from(port_count) - 1 > u32::from(u16::MAX) {
            return Err(BenchError::Ports { count: port_count, first });
        }
        let sources = self.load.source.iter().flat_map(|sources| sources.0.iter().copied()).collect();
        Ok(Target { port_count, sources, ..Target::new(url.clone(), tls) })
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
        let of_wires = ["--mtu", "--checksum"];
        match self.device.given().find(|option| wires_too || !of_wires.contains(option)) {
            Some(option) => Err(BenchError::OptionNeedsPort { option }),
            None => Ok(()),
        }
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

impl PathArgs {
    fn congestion(&self) -> CongestionControl {
        match self.congestion {
            None | Some(Congestion::Cubic) => CongestionControl::Cubic,
            Some(Congestion::None) => CongestionControl::None,
        }
    }
}
