//! Server and clients in this process, joined by the in-process wire: no privilege, no kernel on the path.
//!
//! Each generator worker has a server worker of its own at the other end of a wire of its own, as each queue of
//! a NIC has; every worker is a thread that never sleeps.

use super::client::{self, Client, Destination};
use super::crew::{self, Bounds, Crew, Outcome, Progress, Window};
use super::generator::Generator;
use super::plan::Plan;
use super::report::{Faults, Mode, Report, ThreadReport};
use super::usage::{SchedStat, Usage};
use super::{BenchError, Clock, cache_line};
use crate::engine::{Conn, Deadlines, EngineConfig, Handler, Limits, NoWake, Seat, Worker, seats};
use crate::port::Port;
use crate::port::fault::FaultPort;
use crate::port::wire::{self, WireConfig, WirePort};
use crate::stack::{Cidr, CongestionControl, StackConfig, TcpConfig};
use crate::time::Duration;
use crate::ws::{self, Message};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PREFIX_BITS: u8 = 24;
/// The first TCP port that a server worker listens on.
const PORT: u16 = 8000;
/// Connections to one TCP port: a client has fewer than 16,384 ephemeral ports towards it.
const CONNECTIONS_PER_PORT: u32 = 10_000;

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
    let clock = Clock::new();
    let (crew, generators) = Crew::new(plan, clock);
    let wire = WireConfig { mtu: wiring.mtu, checksum_offload: !wiring.checksums, ..WireConfig::default() };
    let (server_ports, client_ports) = wire::queues(generators.len(), &wire)?;
    let server_config = engine_config(plan, wiring, SERVER);
    let client_config = EngineConfig { listen: Vec::new(), ..engine_config(plan, wiring, CLIENT) };
    let server_seats = take_seats(&server_config, wiring.mtu, generators.len())?;
    let client_seats = take_seats(&client_config, wiring.mtu, generators.len())?;
    let threads = 2 * generators.len();
    let crowded = std::thread::available_parallelism().is_ok_and(|cores| cores.get() < threads);
    let stop = AtomicBool::new(false);

    let (outcome, servers) = std::thread::scope(|scope| {
        let servers: Vec<_> = server_ports
            .into_iter()
            .zip(server_seats)
            .enumerate()
            .map(|(index, (port, seat))| {
                let (config, stop, window) = (&server_config, &stop, crew.window());
                let core = nth(&wiring.server_cores, index);
                scope.spawn(move || serve(config, port, seat, core, crowded, clock, &window, stop))
            })
            .collect();
        let clients: Vec<_> = client_ports
            .into_iter()
            .zip(client_seats)
            .zip(generators)
            .enumerate()
            .map(|(index, ((port, seat), generator))| {
                let (config, core) = (&client_config, nth(&plan.cores, index));
                scope.spawn(move || {
                    let pinned = core.map_or(Ok(()), crew::pin);
                    match wiring.faults {
                        None => pinned.and_then(|()| load(config, port, seat, generator, crowded, clock)),
                        Some(faults) => {
                            let port = FaultPort::new(port, faults.config(index as u64))?;
                            pinned.and_then(|()| load(config, port, seat, generator, crowded, clock))
                        }
                    }
                })
            })
            .collect();
        crew.supervise(interrupted, || clients.iter().all(|client| client.is_finished()), observer);
        stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        for client in clients {
            outcome.add(crew::join(client)?);
        }
        let servers = servers.into_iter().map(crew::join).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, BenchError>((outcome, servers))
    })?;

    let measured = crew.measured(&outcome.tally);
    let mut report = Report::new(plan, Mode::Wire, measured, &outcome);
    report.checksum = if wiring.checksums { "software" } else { "trust" }.to_owned();
    report.congestion = congestion_name(wiring.congestion).to_owned();
    report.mtu = Some(wiring.mtu);
    report.faults = wiring.faults;
    let busy: Duration = servers.iter().map(|server| server.busy).sum();
    report.set_server_busy(busy);
    report.servers = servers.iter().map(|server| ThreadReport::new(server.usage, measured)).collect();
    report.core_to_core_ns = match (wiring.server_cores.first(), plan.cores.first()) {
        (Some(&server), Some(&client)) if server != client => cache_line::round_trip_ns(server, client),
        _ => None,
    };
    Ok(report)
}

/// The name of a congestion control in options and reports.
pub fn congestion_name(congestion: CongestionControl) -> &'static str {
    match congestion {
        CongestionControl::Cubic => "cubic",
        CongestionControl::None => "none",
    }
}

/// The entry of a list that is gone through in turn; `None` when it is empty.
fn nth(list: &[usize], index: usize) -> Option<usize> {
    list.get(index % list.len().max(1)).copied()
}

/// Limits and deadlines with room for the load, on either end.
pub fn limits(plan: &Plan) -> (Limits, Deadlines) {
    let message = ws::Limits::default();
    let limits = Limits {
        connections_max: plan.connections as usize + 1,
        message: ws::Limits {
            message_bytes_max: message.message_bytes_max.max(plan.size),
            frame_bytes_max: message.frame_bytes_max.max(plan.size),
            ..message
        },
        memory_bytes_max: usize::MAX,
        ..Limits::default()
    };
    let deadlines =
        Deadlines { handshake: plan.timeout, idle: None, ping: None, tick: None, ..Deadlines::default() };
    (limits, deadlines)
}

fn engine_config(plan: &Plan, wiring: &Wiring, addr: Ipv4Addr) -> EngineConfig {
    let (limits, deadlines) = limits(plan);
    EngineConfig {
        listen: ports(plan).collect(),
        stack: StackConfig {
            addrs: vec![Cidr { addr: IpAddr::V4(addr), prefix: PREFIX_BITS }],
            tcp: TcpConfig { congestion: wiring.congestion, ..TcpConfig::default() },
            ..StackConfig::default()
        },
        limits,
        deadlines,
        ..EngineConfig::default()
    }
}

/// The TCP ports that each server worker listens on.
fn ports(plan: &Plan) -> impl Iterator<Item = u16> {
    let count = plan.connections.div_ceil(CONNECTIONS_PER_PORT).min(u32::from(u16::MAX - PORT)) as u16;
    PORT..PORT + count
}

fn take_seats(config: &EngineConfig, mtu: usize, count: usize) -> Result<Vec<Seat>, BenchError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| BenchError::Kernel { what: "no random bytes", source: error.into() })?;
    // Each worker is alone on its wire: one crew each, no links between them.
    (0..count)
        .map(|_| {
            let (_, seats) = seats(config, mtu, secret, vec![Arc::new(NoWake)])?;
            Ok(seats.into_iter().next().expect("one waker, one seat"))
        })
        .collect()
}

/// What one server thread did.
struct Served {
    /// Time of the polls within the measured time that did work.
    busy: Duration,
    usage: Usage,
}

/// The echo server of the benchmark.
struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        conn.send(message);
    }
}

#[expect(clippy::too_many_arguments, reason = "one thread's surroundings, passed once")]
fn serve(
    config: &EngineConfig,
    port: WirePort,
    seat: Seat,
    core: Option<usize>,
    crowded: bool,
    clock: Clock,
    window: &Window,
    stop: &AtomicBool,
) -> Result<Served, BenchError> {
    if let Some(core) = core {
        crew::pin(core)?;
    }
    let mut now = clock.now();
    let mut worker = Worker::new(config, seat, port, Echo, now)?;
    let mut busy = Duration::ZERO;
    let (mut start, mut end) = (None, None);
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
        if !worked {
            rest(crowded);
        }
        now = then;
    }
    Ok(Served { busy, usage: Usage::between(start, end.or_else(SchedStat::of_this_thread)) })
}

fn load<P: Port>(
    config: &EngineConfig,
    port: P,
    seat: Seat,
    generator: Generator,
    crowded: bool,
    clock: Clock,
) -> Result<(super::tally::Tally, Usage), BenchError> {
    let addrs = config.stack.addrs.len();
    debug_assert_eq!(addrs, 1);
    let first = PORT;
    let count = generator.share().connections.div_ceil(CONNECTIONS_PER_PORT) as u16;
    let destination = Destination {
        remotes: (first..first + count).map(|port| SocketAddr::from((SERVER, port))).collect(),
        host: SERVER.to_string(),
        target: "/".to_owned(),
    };
    let mut worker = Worker::new(config, seat, port, Client::new(generator, destination), clock.now())?;
    Ok(client::drive(&mut worker, clock, |_| rest(crowded)))
}

/// Lets the other end go on: with too few cores it needs ours.
fn rest(crowded: bool) {
    if crowded {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}
