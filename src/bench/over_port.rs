//! The engine's own client over a device's ports, one generator worker to a port: any server that can be reached
//! there.

use super::churn::Churn;
use super::client::{self, Client, Destination, Driven};
use super::crew::{self, Crew, Outcome, Progress};
use super::generator::Generator;
use super::plan::{Plan, Scenario};
use super::report::{Faults, Mode, Report};
use super::tally::Tally;
use super::usage::Usage;
use super::{BenchError, Clock, Target, engine_setup};
use crate::engine::{ConnectTls, EngineConfig, Seat, Worker};
use crate::port::Port;
use crate::port::fault::FaultPort;
use crate::stack::StackConfig;
use crate::time::{Duration, Instant};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long a worker polls an idle port before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// Longest sleep.
const SLEEP_MAX: Duration = Duration::from_millis(1);

/// The device and who we are on it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Addresses, routes, TCP.
    pub stack: StackConfig,
    /// Faults on the path, each way.
    pub faults: Option<Faults>,
    /// Poll without ever sleeping.
    pub spin: bool,
}

/// Carries out `plan` against the server at `target` over `ports`, one for each of the plan's shares.
///
/// # Errors
/// When the run could not begin; errors of its connections are in the report.
pub fn run<P: Port + Send>(
    plan: &Plan,
    target: &Target,
    site: &Site,
    ports: Vec<P>,
    interrupted: &AtomicBool,
    observer: &mut dyn FnMut(Progress),
) -> Result<Report, BenchError> {
    let remote = choose_address(target, &site.stack)?;
    let url = &target.url;
    crew::check_cores(&plan.cores)?;
    let clock = Clock::new();
    let (crew, generators) = Crew::new(plan, clock);
    let Some(info) = ports.first().map(|port| port.info().clone()) else { return Err(BenchError::NoPort) };
    let config = engine_setup::config(plan, site.stack.clone());
    let seats = engine_setup::seats(&config, info.mtu, generators.len())?;
    let destination = Destination {
        remotes: target.ports().map(|port| SocketAddr::new(remote.ip(), port)).collect(),
        host: url.authority().to_owned(),
        target: url.target().to_owned(),
        tls: target
            .tls()
            .map(|config| ConnectTls { config: config.clone(), server_name: url.host().to_owned() }),
        sources: site
            .stack
            .addrs
            .iter()
            .map(|cidr| cidr.addr)
            .filter(|addr| addr.is_ipv4() == remote.is_ipv4())
            .collect(),
    };
    let outcome = std::thread::scope(|scope| {
        let threads = ports
            .into_iter()
            .zip(seats)
            .zip(generators)
            .enumerate()
            .map(|(index, ((port, seat), generator))| {
                let core = crew::in_turn(&plan.cores, index);
                let (config, destination) = (&config, destination.clone());
                crew::spawn(scope, format!("generator-{index}"), move || {
                    crew::pin_to(core)?;
                    match site.faults {
                        None => load(config, port, seat, generator, destination, site.spin, clock),
                        Some(faults) => {
                            let port = FaultPort::new(port, &faults.config(index as u64))?;
                            load(config, port, seat, generator, destination, site.spin, clock)
                        }
                    }
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
    let mut report = Report::new(plan, Mode::Port, crew.measured(&outcome.tally), &outcome);
    report.url = Some(url.to_string());
    report.port = Some(info.name);
    report.checksum = match (info.tx_checksum_offload, info.rx_checksum_trusted) {
        (true, true) => "device",
        (false, false) => "software",
        (true, false) => "device on transmit, software on receive",
        (false, true) => "software on transmit, device on receive",
    }
    .to_owned();
    report.congestion = engine_setup::congestion_name(site.stack.tcp.congestion).to_owned();
    report.mtu = Some(site.stack.mtu.unwrap_or(info.mtu));
    report.tls = url.is_secure();
    report.faults = site.faults;
    Ok(report)
}

/// The first of the name's addresses in whose family we have one.
fn choose_address(target: &Target, stack: &StackConfig) -> Result<SocketAddr, BenchError> {
    let addrs = target.resolve()?;
    let reachable = |addr: &&SocketAddr| stack.addrs.iter().any(|ours| ours.addr.is_ipv4() == addr.is_ipv4());
    addrs.iter().find(reachable).copied().ok_or_else(|| BenchError::NoFamily { url: target.url.clone() })
}

fn load<P: Port>(
    config: &EngineConfig,
    port: P,
    seat: Seat,
    generator: Generator,
    destination: Destination,
    spin: bool,
    clock: Clock,
) -> Result<(Tally, Usage), BenchError> {
    match generator.scenario() {
        Scenario::Connect { echoes } => {
            carry(config, port, seat, Churn::new(generator, destination, echoes), spin, clock)
        }
        _ => carry(config, port, seat, Client::new(generator, destination), spin, clock),
    }
}

fn carry<P: Port, L: Driven>(
    config: &EngineConfig,
    port: P,
    seat: Seat,
    load: L,
    spin: bool,
    clock: Clock,
) -> Result<(Tally, Usage), BenchError> {
    let mut worker = Worker::new(config, seat, port, load, clock.now())?;
    let mut quiet_since = Instant::ZERO;
    Ok(client::drive(&mut worker, clock, |worker, now, progress| {
        if progress.busy || spin {
            quiet_since = now;
        } else if now - quiet_since >= SPIN {
            let send_at = worker.handler_mut().generator().next_due_at();
            let until_due = progress.deadline.map_or(send_at, |deadline| deadline.min(send_at)) - now;
            sleep(worker, until_due.min(SLEEP_MAX));
        }
    }))
}

/// Sleeps until frames are waiting, for `at_most` if none come.
fn sleep<P: Port, L: Driven>(worker: &mut Worker<P, L>, at_most: Duration) {
    if !worker.prepare_sleep() {
        return;
    }
    let at_most = worker.wait_max().map_or(at_most, |max| max.min(at_most));
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(at_most.subsec_nanos()) };
    let mut fds: Vec<_> =
        worker.wait_fds().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    // Woken or not, the next thing is to look.
    let _ = poll(&mut fds, Some(&timeout));
}
