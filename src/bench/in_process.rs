//! Server and clients in this process, joined by the in-process wire: no privilege, no kernel on the path.
//!
//! Each generator worker has a server worker of its own at the other end of a wire of its own, as each queue of
//! a NIC has; every worker is a thread that never sleeps.

use super::churn::Churn;
use super::client::{self, Client, Destination, Driven};
use super::crew::{self, Bounds, Crew, Outcome, Progress, Window};
use super::generator::Generator;
use super::plan::{Plan, Scenario};
use super::report::{Faults, Mode, Report, ThreadReport};
use super::tally::Tally;
use super::usage::{SchedStat, Usage};
use super::{BenchError, Clock, cache_line, engine_setup};
use crate::apps::{Echo, PubSub};
use crate::engine::{ConnectTls, EngineConfig, Handler, Seat, Worker};
use crate::port::Port;
use crate::port::fault::FaultPort;
use crate::port::wire::{self, WireConfig, WirePort};
use crate::stack::{Cidr, CongestionControl, StackConfig, TcpConfig};
use crate::time::Duration;
use crate::tls;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// What the server's certificate is for.
const SERVER_NAME: &str = "bench.test";
const PREFIX_BITS: u8 = 24;
/// The first TCP port that a server worker listens on.
const PORT: u16 = 8000;
/// Connections to one TCP port: a client has 32,768 ephemeral ports towards it.
const CONNECTIONS_PER_PORT: u32 = 10_000;
/// Polls without anything to do, some 50 ns each, after which a thread lets others have its core.
const QUIET_MAX: u32 = 2_000;

/// How the wire and its ends are set up.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Largest IP packet, bytes.
    pub mtu: usize,
    /// Compute and verify checksums in software; `false` trusts memory.
    pub checksums: bool,
    /// Congestion control of both ends.
    pub congestion: CongestionControl,
    /// Faults on the path, each way.
    pub faults: Option<Faults>,
    /// With TLS, with certificates of the moment.
    pub tls: bool,
    /// Cores to pin the server threads to, in turn; empty for none.
    pub server_cores: Vec<usize>,
}

/// Carries out `plan` within this process.
///
/// # Errors
/// When the run could not begin; errors of its connections are in the report.
pub fn run(
    plan: &Plan,
    wiring: &Wiring,
    interrupted: &AtomicBool,
    observer: &mut dyn FnMut(Progress),
) -> Result<Report, BenchError> {
    if !wiring.checksums && wiring.faults.is_some_and(|faults| faults.corrupt > 0.0) {
        return Err(BenchError::CorruptionUnnoticed);
    }
    crew::check_cores(&plan.cores)?;
    crew::check_cores(&wiring.server_cores)?;
    let clock = Clock::new();
    let (crew, generators) = Crew::new(plan, clock);
    let count = generators.len();
    let (server_ports, client_ports) = wire::queues(count, &wiring.wire())?;
    let client_config = engine_setup::config(plan, wiring.stack(CLIENT));
    let tls = wiring.tls.then(|| tls::pair(SERVER_NAME)).transpose()?;
    let listen: Vec<_> = ports(plan.connections).collect();
    let (plain, secure) = if wiring.tls { (Vec::new(), listen) } else { (listen, Vec::new()) };
    let (server_tls, client_tls) = tls.unzip();
    let server_config = EngineConfig {
        listen: plain,
        listen_tls: secure,
        tls: server_tls.map(Arc::new),
        ..engine_setup::config(plan, wiring.stack(SERVER))
    };
    let server_seats = engine_setup::seats(&server_config, wiring.mtu, count)?;
    let client_seats = engine_setup::seats(&client_config, wiring.mtu, count)?;
    let crowded = std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2 * count);
    let stop = AtomicBool::new(false);

    let (outcome, servers) = std::thread::scope(|scope| {
        let servers = server_ports
            .into_iter()
            .zip(server_seats)
            .enumerate()
            .map(|(index, (port, seat))| {
                let (config, window, stop) = (&server_config, crew.window(), &stop);
                let core = crew::in_turn(&wiring.server_cores, index);
                crew::spawn(scope, format!("server-{index}"), move || {
                    crew::pin_to(core)?;
                    match plan.scenario {
                        Scenario::Broadcast => {
                            serve(config, port, seat, PubSub, crowded, clock, window, stop)
                        }
                        _ => serve(config, port, seat, Echo, crowded, clock, window, stop),
                    }
                })
            })
            .collect::<Result<Vec<_>, BenchError>>()?;
        let clients = client_ports
            .into_iter()
            .zip(client_seats)
            .zip(generators)
            .enumerate()
            .map(|(index, ((port, seat), generator))| {
                let (config, core) = (&client_config, crew::in_turn(&plan.cores, index));
                let tls = client_tls
                    .clone()
                    .map(|config| ConnectTls { config, server_name: SERVER_NAME.to_owned() });
                crew::spawn(scope, format!("generator-{index}"), move || {
                    crew::pin_to(core)?;
                    match wiring.faults {
                        None => load(config, port, seat, generator, tls, crowded, clock),
                        Some(faults) => {
                            let port = FaultPort::new(port, &faults.config(index as u64))?;
                            load(config, port, seat, generator, tls, crowded, clock)
                        }
                    }
                })
            })
            .collect::<Result<Vec<_>, BenchError>>()?;
        // Without its server a client would wait for nothing.
        let interrupted =
            || interrupted.load(Ordering::Relaxed) || servers.iter().any(|server| server.is_finished());
        let seen =
            crew.supervise(interrupted, || clients.iter().all(|client| client.is_finished()), observer);
        stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        for client in clients {
            outcome.add(crew::join(client)?);
        }
        let servers = servers.into_iter().map(crew::join).collect::<Result<Vec<_>, _>>()?;
        outcome.seen = seen;
        Ok::<_, BenchError>((outcome, servers))
    })?;

    let measured = crew.measured(&outcome.tally);
    let mut report = Report::new(plan, Mode::Wire, measured, &outcome);
    report.checksum = if wiring.checksums { "software" } else { "trust" }.to_owned();
    report.congestion = engine_setup::congestion_name(wiring.congestion).to_owned();
    report.mtu = Some(wiring.mtu);
    report.tls = wiring.tls;
    report.faults = wiring.faults;
    report.set_server_busy(servers.iter().map(|server| server.busy).sum());
    report.servers = servers.iter().map(|server| ThreadReport::new(server.usage, measured)).collect();
    report.core_to_core_ns = match (wiring.server_cores.first(), plan.cores.first()) {
        (Some(&server), Some(&client)) if server != client => cache_line::round_trip_ns(server, client),
        _ => None,
    };
    Ok(report)
}

impl Wiring {
    fn wire(&self) -> WireConfig {
        let defaults = WireConfig::default();
        WireConfig {
            mtu: self.mtu,
            checksum_offload: !self.checksums,
            held_frames: defaults.held_frames + self.faults.map_or(0, |faults| faults.held_frames_max()),
            ..defaults
        }
    }

    fn stack(&self, addr: Ipv4Addr) -> StackConfig {
        StackConfig {
            addrs: vec![Cidr { addr: IpAddr::V4(addr), prefix: PREFIX_BITS }],
            tcp: TcpConfig { congestion: self.congestion, ..TcpConfig::default() },
            ..StackConfig::default()
        }
    }
}

/// The TCP ports that a server worker listens on, for so many connections.
fn ports(connections: u32) -> impl Iterator<Item = u16> {
    let count = connections.div_ceil(CONNECTIONS_PER_PORT).min(u32::from(u16::MAX - PORT));
    PORT..PORT + count as u16
}

/// What one server thread did.
struct Served {
    /// Time of the polls within the measured time that did work.
    busy: Duration,
    usage: Usage,
}

#[expect(clippy::too_many_arguments, reason = "what one server thread is made of, handed over once")]
fn serve<H: Handler>(
    config: &EngineConfig,
    port: WirePort,
    seat: Seat,
    app: H,
    crowded: bool,
    clock: Clock,
    window: &Window,
    stop: &AtomicBool,
) -> Result<Served, BenchError> {
    let mut now = clock.now();
    let mut worker = Worker::new(config, seat, port, app, now)?;
    let mut busy = Duration::ZERO;
    let (mut start, mut end) = (None, None);
    let mut rest = Rest::new(crowded);
    while !stop.load(Ordering::Relaxed) {
        let worked = worker.poll(now).busy;
        let then = clock.now();
        let Bounds { from, until, .. } = window.bounds();
        if now >= from && then < until {
            busy += if worked { then - now } else { Duration::ZERO };
            start = start.or_else(SchedStat::of_this_thread);
        } else if then >= until && end.is_none() {
            end = SchedStat::of_this_thread();
        }
        rest.after(worked);
        now = then;
    }
    Ok(Served { busy, usage: Usage::between(start, end.or_else(SchedStat::of_this_thread)) })
}

fn load<P: Port>(
    config: &EngineConfig,
    port: P,
    seat: Seat,
    generator: Generator,
    tls: Option<ConnectTls>,
    crowded: bool,
    clock: Clock,
) -> Result<(Tally, Usage), BenchError> {
    let destination = Destination {
        remotes: ports(generator.share().connections).map(|port| SocketAddr::from((SERVER, port))).collect(),
        host: SERVER.to_string(),
        target: "/".to_owned(),
        tls,
        sources: Vec::new(),
    };
    match generator.scenario() {
        Scenario::Connect { echoes } => {
            carry(config, port, seat, Churn::new(generator, destination, echoes), crowded, clock)
        }
        _ => carry(config, port, seat, Client::new(generator, destination), crowded, clock),
    }
}

fn carry<P: Port, L: Driven>(
    config: &EngineConfig,
    port: P,
    seat: Seat,
    load: L,
    crowded: bool,
    clock: Clock,
) -> Result<(Tally, Usage), BenchError> {
    let mut worker = Worker::new(config, seat, port, load, clock.now())?;
    let mut rest = Rest::new(crowded);
    Ok(client::drive(&mut worker, clock, |_, _, progress| rest.after(progress.busy)))
}

/// What a thread does between two polls.
struct Rest {
    /// There are too few cores for all threads: the other end needs ours.
    crowded: bool,
    /// Polls since there was something to do.
    quiet: u32,
}

impl Rest {
    fn new(crowded: bool) -> Self {
        Rest { crowded, quiet: 0 }
    }

    /// Lets others have the core when there was nothing to do for a while.
    fn after(&mut self, worked: bool) {
        self.quiet = if worked { 0 } else { self.quiet.saturating_add(1) };
        match self.quiet {
            0 => {}
            QUIET_MAX.. => std::thread::yield_now(),
            _ if self.crowded => std::thread::yield_now(),
            _ => std::hint::spin_loop(),
        }
    }
}
