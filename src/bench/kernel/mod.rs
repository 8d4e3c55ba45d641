//! The load over ordinary kernel sockets, for any WebSocket server: an epoll loop per generator thread.
//!
//! The clock is read once per readiness batch of at most [`BATCH_MAX`] events; all that happens in a batch
//! happens at its time.

mod connection;
mod wires;

use super::crew::{self, Crew, Outcome, Progress};
use super::generator::Generator;
use super::load::Failure;
use super::plan::{Plan, Scenario};
use super::report::{Mode, Report};
use super::tally::{Cause, Tally};
use super::usage::Usage;
use super::{BenchError, Clock, Target};
use crate::time::{Duration, Instant};
use crate::tls::Stream as Tls;
use connection::{Connection, Life, Next};
use mio::{Events, Interest, Poll, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use wires::Wires;

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
        let seen =
            crew.supervise(interrupted, || threads.iter().all(|thread| thread.is_finished()), observer);
        let mut outcome = Outcome::default();
        for thread in threads {
            outcome.add(crew::join(thread)?);
        }
        outcome.seen = seen;
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
    let route = Route::new(addr, target);
    let mut places = Places::new(&mut wires.generator, share.connections);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    connections.resize_with(share.connections as usize, || None);
    let (mut turn, mut opening, mut live) = (0, 0, 0);
    let mut again: Vec<usize> = Vec::new();
    let mut due: Vec<usize> = Vec::new();
    let mut swept = Instant::ZERO;
    let mut started = false;

    wires.generator.tick(clock.now());
    loop {
        while opening < OPENING_MAX
            && let Some(row) = places.next(&wires.generator)
        {
            let deadline = wires.generator.now() + wires.generator.timeout();
            match route.open(turn, row, &poll) {
                Ok((stream, tls)) => {
                    let life = places.life(&mut wires.generator);
                    connections[row] = Some(Connection::new(stream, tls, deadline, life));
                    opening += 1;
                    live += 1;
                }
                Err(error) => wires.generator.failed_to_open(connect_failure(&error)),
            }
            turn += 1;
        }
        if live == 0 && (places.are_used_up() || wires.generator.is_over()) {
            break;
        }
        let timeout = match () {
            () if spin || !again.is_empty() => Duration::ZERO,
            () if started => SWEEP_INTERVAL,
            () => START_INTERVAL,
        };
        let timeout = timeout.min(doze(wires.generator.next_due_at() - wires.generator.now()));
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(refused("epoll")(error)),
            _ => wires.generator.tick(clock.now()),
        }
        let now = wires.generator.now();
        let starts = !started && wires.generator.has_started();
        started |= starts;
        let sweep = starts || now - swept >= SWEEP_INTERVAL;
        let unread = std::mem::take(&mut again);
        due.extend(std::iter::from_fn(|| wires.generator.next_due()).map(|row| row as usize));
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
                    if !was_opening {
                        places.is_free(row);
                    }
                }
            }
        };
        for event in &events {
            visit(event.token().0, Visit::Ready { ended: event.is_read_closed() });
        }
        for row in unread {
            visit(row, Visit::Ready { ended: true });
        }
        for row in due.drain(..) {
            visit(row, Visit::Idle);
        }
        if sweep {
            swept = now;
            (0..share.connections as usize).for_each(|row| visit(row, Visit::Idle));
        }
    }
    Ok(wires.generator.finish())
}

/// How long to sleep when something is due after `left`: epoll counts in milliseconds, and wakes late.
fn doze(left: Duration) -> Duration {
    Duration::from_millis(left.saturating_sub(Duration::from_millis(1)).as_millis().min(1_000) as u64)
}

/// The places for connections of one thread: each is used once, or where connections come and go, again and again.
struct Places {
    /// Messages in the life of a connection that comes and goes.
    echoes: Option<u32>,
    count: u32,
    begun: u32,
    free: Vec<usize>,
}

impl Places {
    fn new(generator: &mut Generator, count: u32) -> Places {
        let Scenario::Connect { echoes } = generator.scenario() else {
            return Places { echoes: None, count, begun: 0, free: Vec::new() };
        };
        generator.settle();
        Places { echoes: Some(echoes), count, begun: 0, free: (0..count as usize).rev().collect() }
    }

    /// The place of the connection that is to be opened next, if one may be.
    fn next(&mut self, generator: &Generator) -> Option<usize> {
        if self.echoes.is_some() {
            return if generator.may_begin() { self.free.pop() } else { None };
        }
        if !generator.may_open(self.begun) {
            return None;
        }
        self.begun += 1;
        Some(self.begun as usize - 1)
    }

    /// The life of the connection that is being opened, if it is to come to an end by itself.
    fn life(&self, generator: &mut Generator) -> Option<Life> {
        self.echoes.map(|left| Life { birth: generator.begun(), left })
    }

    /// The connection in this place was open and is gone. Where one could not be opened, the place is given up.
    fn is_free(&mut self, row: usize) {
        if self.echoes.is_some() {
            self.free.push(row);
        }
    }

    /// Whether, when no connection is left, none can be opened any more.
    fn are_used_up(&self) -> bool {
        match self.echoes {
            Some(_) => self.free.is_empty(),
            None => self.begun == self.count,
        }
    }
}

/// Where connections go, and from where.
struct Route<'a> {
    remotes: Vec<SocketAddr>,
    target: &'a Target,
}

impl<'a> Route<'a> {
    fn new(addr: SocketAddr, target: &'a Target) -> Self {
        let remotes = target.ports().map(|port| SocketAddr::new(addr.ip(), port)).collect();
        Route { remotes, target }
    }

    /// Begins connection number `turn` of this thread, which has place `row`.
    fn open(&self, turn: usize, row: usize, poll: &Poll) -> io::Result<(mio::net::TcpStream, Option<Tls>)> {
        // One after the other from all addresses to one port, then to the next port.
        let sources = &self.target.sources;
        let remote = self.remotes[turn / sources.len().max(1) % self.remotes.len()];
        let mut stream = match sources.get(turn % sources.len().max(1)) {
            None => mio::net::TcpStream::connect(remote)?,
            Some(source) => connect_from(*source, remote)?,
        };
        stream.set_nodelay(true)?;
        poll.registry().register(&mut stream, Token(row), Interest::READABLE | Interest::WRITABLE)?;
        let host = self.target.url.host();
        let tls = self.target.tls().map(|tls| tls.connect(host)).transpose().map_err(io::Error::other)?;
        Ok((stream, tls))
    }
}

/// Begins a connection from one of our addresses.
fn connect_from(source: IpAddr, remote: SocketAddr) -> io::Result<mio::net::TcpStream> {
    let family = if remote.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    match rustix::net::connect(&socket, &remote) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(mio::net::TcpStream::from_std(std::net::TcpStream::from(socket)))
}

/// What an error while a connection is being opened means.
fn connect_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::new(Cause::Refused, error.to_string()),
        io::ErrorKind::AddrNotAvailable => Failure::new(
            Cause::Connect,
            format!(
                "{error}: no local port is free towards that address: connect from several with --source, or widen net.ipv4.ip_local_port_range"
            ),
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
