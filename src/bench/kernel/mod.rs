//! The load over ordinary kernel sockets, for any WebSocket server: an epoll loop per generator thread.
//!
//! The clock is read once per readiness batch of at most [`BATCH_MAX`] events; all that happens in a batch
//! happens at its time.

mod connection;

use super::crew::{self, Crew, Outcome, Progress};
use super::generator::{Failure, Generator};
use super::plan::Plan;
use super::report::{Mode, Report};
use super::tally::{Cause, Tally};
use super::usage::Usage;
use super::{BenchError, Clock, Target};
use crate::time::{Duration, Instant};
use connection::{Connection, Next, Wires};
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most events handled at one reading of the clock.
pub const BATCH_MAX: usize = 64;
/// Most connections that one thread opens at the same time; more would overflow a server's listen backlog.
const OPENING_MAX: usize = 64;
/// How often connections are looked at that nothing happens to.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How often a thread whose connections are open looks whether the others' are.
const START_INTERVAL: Duration = Duration::from_millis(1);
/// How long a name's address may take to answer before the next one is tried.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// File descriptors used for other things than connections.
const OTHER_FILES: u64 = 64;

/// Carries out `plan` against the server at `target`. With `spin` the threads poll without ever sleeping, which
/// takes the wake-up of a sleeping generator out of the round-trip time.
///
/// # Errors
/// When the run could not begin; errors of its connections are in the report.
pub fn run(
    plan: &Plan,
    target: &Target,
    spin: bool,
    interrupted: &AtomicBool,
    observer: &mut dyn FnMut(Progress),
) -> Result<Report, BenchError> {
    crew::check_cores(&plan.cores)?;
    raise_file_limit(plan.connections)?;
    let addr = choose_address(target)?;
    let clock = Clock::new();
    let (crew, generators) = Crew::new(plan, clock);
    let outcome = std::thread::scope(|scope| {
        let threads = generators
            .into_iter()
            .enumerate()
            .map(|(index, generator)| {
                let core = crew::in_turn(&plan.cores, index);
                crew::spawn(scope, format!("generator-{index}"), move || {
                    generate(generator, addr, target, spin, core, clock)
                })
            })
            .collect::<Result<Vec<_>, BenchError>>()?;
        let interrupted = || interrupted.load(Ordering::Relaxed);
        crew.supervise(interrupted, || threads.iter().all(|thread| thread.is_finished()), observer);
        let mut outcome = Outcome::default();
        for thread in threads {
            outcome.add(crew::join(thread)?);
        }
        Ok::<_, BenchError>(outcome)
    })?;
    let mut report = Report::new(plan, Mode::Kernel, crew.measured(&outcome.tally), &outcome);
    report.url = Some(target.url.to_string());
    report.tls = target.url.is_secure();
    report.checksum = "kernel".to_owned();
    report.congestion = congestion_control();
    Ok(report)
}

/// Why a connection is looked at.
#[derive(Clone, Copy)]
enum Visit {
    /// The kernel says that something can be read or written; `ended` when the peer's FIN may be there.
    Ready { ended: bool },
    /// Nothing happened to it for a while.
    Idle,
}

/// One thread: opens its connections, keeps each one's loop going, closes them.
fn generate(
    generator: Generator,
    addr: SocketAddr,
    target: &Target,
    spin: bool,
    core: Option<usize>,
    clock: Clock,
) -> Result<(Tally, Usage), BenchError> {
    crew::pin_to(core)?;
    let refused = |what| move |source| BenchError::Kernel { what, source };
    let mut poll = Poll::new().map_err(refused("no epoll instance"))?;
    let mut events = Events::with_capacity(BATCH_MAX);
    let share = generator.share();
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| BenchError::Kernel { what: "no random bytes", source: error.into() })?;
    let mut wires = Wires::new(generator, &target.url, seed);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    connections.resize_with(share.connections as usize, || None);
    let (mut begun, mut opening, mut live) = (0, 0, 0);
    let mut again: Vec<usize> = Vec::new();
    let mut swept = Instant::ZERO;
    let mut started = false;

    wires.generator.tick(clock.now());
    loop {
        while begun < connections.len() && opening < OPENING_MAX && !wires.generator.is_over() {
            let opened = open(addr, begun, &poll, target, wires.generator.now() + wires.generator.timeout());
            match opened {
                Ok(connection) => {
                    connections[begun] = Some(connection);
                    opening += 1;
                    live += 1;
                }
                Err(error) => wires.generator.failed_to_open(connect_failure(&error)),
            }
            begun += 1;
        }
        if live == 0 && (begun == connections.len() || wires.generator.is_over()) {
            break;
        }
        let timeout = match () {
            () if spin || !again.is_empty() => Duration::ZERO,
            () if started => SWEEP_INTERVAL,
            () => START_INTERVAL,
        };
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(refused("epoll")(error)),
            _ => wires.generator.tick(clock.now()),
        }
        let now = wires.generator.now();
        let starts = !started && wires.generator.has_started();
        started |= starts;
        let sweep = starts || now - swept >= SWEEP_INTERVAL;
        let due = std::mem::take(&mut again);
        let mut visit = |row: usize, visit: Visit| {
            let Some(connection) = connections.get_mut(row).and_then(Option::as_mut) else { return };
            let was_opening = connection.is_opening();
            let next = match visit {
                Visit::Ready { ended } => connection.on_ready(row as u32, ended, &mut wires),
                Visit::Idle => connection.on_idle(&mut wires),
            };
            opening -= usize::from(was_opening && (next == Next::Gone || !connection.is_opening()));
            match next {
                Next::Wait => {}
                Next::Again => again.push(row),
                Next::Gone => {
                    connections[row] = None;
                    live -= 1;
                }
            }
        };
        for event in &events {
            visit(event.token().0, Visit::Ready { ended: event.is_read_closed() });
        }
        for row in due {
            visit(row, Visit::Ready { ended: true });
        }
        if sweep {
            swept = now;
            (0..begun).for_each(|row| visit(row, Visit::Idle));
        }
    }
    Ok(wires.generator.finish())
}

fn open(
    addr: SocketAddr,
    row: usize,
    poll: &Poll,
    target: &Target,
    deadline: Instant,
) -> io::Result<Connection> {
    let mut stream = mio::net::TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    poll.registry().register(&mut stream, Token(row), Interest::READABLE | Interest::WRITABLE)?;
    let tls = target.tls().map(|tls| tls.connect(target.url.host())).transpose().map_err(io::Error::other)?;
    Ok(Connection::new(stream, tls, deadline))
}

/// What an error while a connection is being opened means.
fn connect_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::new(Cause::Refused, error.to_string()),
        io::ErrorKind::AddrNotAvailable => Failure::new(
            Cause::Connect,
            format!("{error}: no local port is free towards that address (net.ipv4.ip_local_port_range)"),
        ),
        io::ErrorKind::TimedOut => Failure::new(Cause::Timeout, error.to_string()),
        _ => Failure::new(Cause::Connect, error.to_string()),
    }
}

/// The address to load: the first of the name's that answers. A single one is taken as it is, so that the
/// server does not see a connection more than were asked for.
fn choose_address(target: &Target) -> Result<SocketAddr, BenchError> {
    let addrs = target.resolve()?;
    let answers = |addr: &&SocketAddr| std::net::TcpStream::connect_timeout(addr, PROBE_TIMEOUT).is_ok();
    let chosen = if addrs.len() > 1 { addrs.iter().find(answers) } else { None };
    Ok(*chosen.unwrap_or(&addrs[0]))
}

/// Raises the soft limit of open files as far as `connections` need it.
fn raise_file_limit(connections: u32) -> Result<(), BenchError> {
    let needed = u64::from(connections) + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    let allowed = limit.maximum.is_none_or(|maximum| maximum >= needed);
    if allowed && setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    Err(BenchError::OpenFiles { connections, needed, limit: limit.maximum.unwrap_or(u64::MAX) })
}

/// The kernel's congestion control for new connections.
fn congestion_control() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
        .map_or_else(|_| "kernel".to_owned(), |name| name.trim().to_owned())
}
