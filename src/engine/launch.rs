//! Threads, clock, sleep and signals: the one place of the engine that knows the operating system.

use super::config::{EngineConfig, Steering};
use super::handle::{Handle, HandleError};
use super::handler::{Connect, Handler};
use super::launch_loop::{Clock, EventFd, run};
use super::mailbox::Wake;
use super::reload::{CertificateWatch, reload};
use super::seat::{GroupSize, Seat, seats_of_groups};
use super::told;
use super::worker::{Worker, WorkerError};
use crate::port::Port;
use crate::stack::StackConfig;
use crate::tls::ServerTls;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// A server: workers on ports, one thread each.
///
/// ```no_run
/// use unsocket::engine::{Conn, EngineConfig, Handler, Server};
/// use unsocket::port::tap::{self, TapConfig};
/// use unsocket::ws::Message;
///
/// struct Echo;
/// impl Handler for Echo {
///     type Session = ();
///     fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
///         conn.send(message);
///     }
/// }
///
/// let mut config = EngineConfig { listen: vec![80], ..EngineConfig::default() };
/// config.stack.addrs.push("10.73.0.2/24".parse()?);
/// let ports = tap::open(&TapConfig::new("uns0"))?;
/// Server::with_ports(config, ports)?.serve(|_worker| Echo)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server<P> {
    config: EngineConfig,
    groups: Vec<Group<P>>,
    handle: Handle,
}

/// The queues of one device, and who the server is on its network: a group of workers, one for each queue.
///
/// Each group has addresses, routes and a DHCP lease of its own, and its workers hand frames to each other alone. One
/// server may have several groups; topics, the [`Handle`], the drain and the limits of a peer are for all of them.
///
/// ```no_run
/// use unsocket::engine::{EngineConfig, PortGroup, Server};
/// use unsocket::port::tap::{self, TapConfig};
/// # use unsocket::engine::{Conn, Handler};
/// # use unsocket::ws::Message;
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Session = ();
/// #     fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) { conn.send(message); }
/// # }
///
/// let config = EngineConfig { listen: vec![80], ..EngineConfig::default() };
/// let mut groups = Vec::new();
/// for (device, addr) in [("uns0", "10.73.0.2/24"), ("uns1", "10.74.0.2/24")] {
///     let mut group = PortGroup::new(&config, tap::open(&TapConfig::new(device))?);
///     group.stack.addrs.push(addr.parse()?);
///     groups.push(group);
/// }
/// Server::with_groups(config, groups)?.serve(|_worker| Echo)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct PortGroup<P> {
    /// The queues of one device, in their order.
    pub ports: Vec<P>,
    /// Addresses and routes on the device's network, and TCP; in place of [`EngineConfig::stack`].
    pub stack: StackConfig,
    /// How the device's flows are spread over its queues; in place of [`EngineConfig::steering`].
    pub steering: Steering,
    /// The cores of the group's workers; a worker beyond the end is not pinned. In place of [`EngineConfig::cores`].
    pub cores: Vec<usize>,
}

impl<P> PortGroup<P> {
    /// A group with a worker for each of `ports`, its settings those of `config`.
    pub fn new(config: &EngineConfig, ports: Vec<P>) -> Self {
        PortGroup {
            ports,
            stack: config.stack.clone(),
            steering: config.steering,
            cores: config.cores.clone(),
        }
    }
}

/// A group that is ready to start: `config` is what its workers are configured with.
struct Group<P> {
    config: EngineConfig,
    ports: Vec<P>,
    seats: Vec<Seat>,
    wakers: Vec<Arc<EventFd>>,
}

impl<P> Group<P> {
    /// What each worker is made from, with the core to pin it to.
    fn into_workers(
        self,
    ) -> impl Iterator<Item = (Seat, P, Arc<EventFd>, EngineConfig, Option<usize>)> + use<P> {
        let Group { config, ports, seats, wakers } = self;
        let parts = seats.into_iter().zip(ports).zip(wakers).enumerate();
        parts.map(move |(member, ((seat, port), waker))| {
            (seat, port, waker, config.clone(), config.cores.get(member).copied())
        })
    }
}

/// A client: the same workers, but nobody is listened to.
pub struct Client<P> {
    server: Server<P>,
}

/// Workers at work.
pub struct Running {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
    /// Workers that have not ended.
    left: usize,
    events: Receiver<Event>,
    _signals: Option<SignalWatch>,
    _certificates: Option<CertificateWatch>,
    signalled: bool,
}

/// Why a server or client could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// No port was given.
    #[error("a server needs at least one port: each worker owns one queue of a device")]
    NoPorts,
    /// The exception path has not one port for each worker.
    #[error("the exception path has {given} ports, and {workers} workers need one each")]
    ExceptionPorts {
        /// Ports that were given.
        given: usize,
        /// Workers.
        workers: usize,
    },
    /// There is no such group.
    #[error("there is no group {group} of ports: the server has {groups}")]
    NoGroup {
        /// The index asked for.
        group: usize,
        /// How many groups there are.
        groups: usize,
    },
    /// A worker could not be made.
    #[error("worker {worker}: {source}")]
    Worker {
        /// Its index.
        worker: usize,
        /// Why.
        source: WorkerError,
    },
    /// The workers could not be brought together.
    #[error(transparent)]
    Seats(WorkerError),
    /// The kernel refused what a worker needs to run.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A worker panicked, most likely in the application's handler; the others were stopped.
    #[error("worker {worker} panicked: {message}")]
    Panicked {
        /// Its index.
        worker: usize,
        /// What it said.
        message: String,
    },
    /// A device is gone; the workers were stopped.
    #[error("the device of worker {worker}, {port}, is gone")]
    PortGone {
        /// Its index.
        worker: usize,
        /// The port's name.
        port: String,
    },
}

impl<P: Port + Send + 'static> Server<P> {
    /// A server with one worker for each of `ports`: the queues of one device, in their order.
    ///
    /// # Errors
    /// When the configuration cannot work, or the kernel gives no eventfd or no random bytes.
    pub fn with_ports(config: EngineConfig, ports: Vec<P>) -> Result<Self, LaunchError> {
        let group = PortGroup::new(&config, ports);
        Self::with_groups(config, vec![group])
    }

    /// A server on several devices, each with the addresses of its own. Workers count on from group to group.
    /// [`Handle::connect`] opens connections from the first group, [`Handle::connect_from`] from any.
    ///
    /// # Errors
    /// As [`Server::with_ports`].
    pub fn with_groups(config: EngineConfig, groups: Vec<PortGroup<P>>) -> Result<Self, LaunchError> {
        let size = |group: &PortGroup<P>| {
            let mtu = group.ports.iter().map(|port| port.info().mtu).max().ok_or(LaunchError::NoPorts)?;
            Ok(GroupSize { workers: group.ports.len(), mtu })
        };
        let sizes: Vec<GroupSize> = groups.iter().map(size).collect::<Result<_, LaunchError>>()?;
        if sizes.is_empty() {
            return Err(LaunchError::NoPorts);
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|source| LaunchError::System { action: "get random bytes", source: source.into() })?;
        let workers: usize = sizes.iter().map(|size| size.workers).sum();
        let mut wakers: Vec<_> =
            (0..workers).map(|_| EventFd::new().map(Arc::new)).collect::<Result<_, _>>()?;
        let as_wake = |waker: &Arc<EventFd>| Arc::clone(waker) as Arc<dyn Wake>;
        let (handle, mut seats) =
            seats_of_groups(&config, &sizes, secret, wakers.iter().map(as_wake).collect())
                .map_err(LaunchError::Seats)?;
        let group = |PortGroup { ports, stack, steering, cores }| Group {
            seats: seats.drain(..ports.len()).collect(),
            wakers: wakers.drain(..ports.len()).collect(),
            config: EngineConfig { stack, steering, cores, ..config.clone() },
            ports,
        };
        let groups = groups.into_iter().map(group).collect();
        Ok(Server { config, groups, handle })
    }

    /// Hands frames for nobody to the kernel, and sends what it answers: `ports` have it at their other end (the queues of a
    /// TAP device), one for each worker of the first group.
    ///
    /// # Errors
    /// When there is not one for each worker.
    pub fn exception_path<Q>(self, ports: Vec<Q>) -> Result<Self, LaunchError>
    where
        Q: Port<Frame: Send> + Send + 'static,
    {
        self.exception_path_of(0, ports)
    }

    /// [`Server::exception_path`] of any group.
    ///
    /// # Errors
    /// When there is no such group, or not one port for each of its workers.
    pub fn exception_path_of<Q>(mut self, group: usize, ports: Vec<Q>) -> Result<Self, LaunchError>
    where
        Q: Port<Frame: Send> + Send + 'static,
    {
        let groups = self.groups.len();
        let Some(group) = self.groups.get_mut(group) else {
            return Err(LaunchError::NoGroup { group, groups });
        };
        if ports.len() != group.seats.len() {
            return Err(LaunchError::ExceptionPorts { given: ports.len(), workers: group.seats.len() });
        }
        let seats = group.seats.drain(..).zip(ports);
        group.seats = seats.map(|(seat, port)| seat.with_exception_path(port)).collect();
        Ok(self)
    }

    /// Reaches the workers from any thread; also before they run.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until SIGTERM or SIGINT (or [`Handle::drain`]) and the drain that follows; a second signal ends it at once.
    /// `factory` makes the handler of each worker, on the worker's own thread.
    ///
    /// # Errors
    /// When a worker cannot be made or panics, or a device is gone.
    pub fn serve<H: Handler>(
        self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<(), LaunchError> {
        self.start(factory)?.wait()
    }

    /// Starts the workers and returns when all of them are ready.
    ///
    /// # Errors
    /// When a worker cannot be made.
    pub fn start<H: Handler>(
        self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Running, LaunchError> {
        let Server { config, groups, handle } = self;
        groups.iter().for_each(|group| told::start(&group.config, &group.ports));
        let factory = Arc::new(factory);
        let clock = Clock::start();
        let (sender, events) = channel();
        let workers = handle.workers();
        let mut running = Running {
            handle,
            threads: Vec::new(),
            left: workers,
            events,
            // Before the first worker: a signal that comes while they start is not lost.
            signalled: false,
            _signals: config
                .handle_signals
                .then(|| SignalWatch::start(sender.clone(), config.tls.clone()))
                .transpose()?,
            _certificates: config
                .tls
                .clone()
                .zip(config.tls_watch)
                .map(|(tls, interval)| CertificateWatch::start(tls, interval))
                .transpose()
                .map_err(|source| LaunchError::System { action: "start a thread", source })?,
        };
        for (seat, port, waker, config, core) in groups.into_iter().flat_map(Group::into_workers) {
            let worker = seat.index();
            let (factory, sender) = (factory.clone(), sender.clone());
            let body = move || {
                let run = AssertUnwindSafe(|| {
                    pin(core, worker);
                    let made = Worker::new(&config, seat, port, factory(worker), clock.now());
                    let mut made = made.map_err(|source| LaunchError::Worker { worker, source })?;
                    let _ = sender.send(Event::Ready);
                    let end = run(&mut made, config.idle, &waker, clock);
                    told::end(&made.report());
                    end
                });
                let end = catch_unwind(run)
                    .unwrap_or_else(|panic| Err(LaunchError::Panicked { worker, message: text_of(&*panic) }));
                let _ = sender.send(Event::Ended(end));
            };
            let name = format!("unsocket-{worker}");
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(body)
                .map_err(|source| LaunchError::System { action: "start a thread", source })?;
            running.threads.push(thread);
        }
        let mut starting = running.threads.len();
        while starting > 0 {
            match running.events.recv() {
                Ok(Event::Ready) => starting -= 1,
                Ok(Event::Ended(Err(error))) => return Err(error),
                // It was ready before, and somebody stopped it already.
                Ok(Event::Ended(Ok(()))) => running.left -= 1,
                Ok(Event::Signal) => running.on_signal(),
                Err(_) => break,
            }
        }
        Ok(running)
    }
}

impl<P: Port + Send + 'static> Client<P> {
    /// A client with one worker for each of `ports`. What `config` says of listening is ignored.
    ///
    /// # Errors
    /// As [`Server::with_ports`].
    pub fn with_ports(config: EngineConfig, ports: Vec<P>) -> Result<Self, LaunchError> {
        let config = EngineConfig { listen: Vec::new(), ..config };
        Server::with_ports(config, ports).map(|server| Client { server })
    }

    /// Reaches the workers from any thread; also before they run.
    pub fn handle(&self) -> Handle {
        self.server.handle()
    }

    /// Opens a connection as soon as the workers run; more can be opened with [`Handle::connect`] and
    /// [`Context::connect`](super::Context::connect).
    ///
    /// # Errors
    /// The worker's mailbox is full.
    pub fn connect(&self, connect: Connect) -> Result<(), HandleError> {
        self.server.handle.connect(connect)
    }

    /// Runs until [`Handle::drain`], SIGTERM or SIGINT.
    ///
    /// # Errors
    /// As [`Server::serve`].
    pub fn run<H: Handler>(
        self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<(), LaunchError> {
        self.server.serve(factory)
    }

    /// Starts the workers and returns when all of them are ready.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start<H: Handler>(
        self,
        factory: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Running, LaunchError> {
        self.server.start(factory)
    }
}

impl Running {
    /// Reaches the workers from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until all workers have ended: after [`Handle::drain`] or [`Handle::stop`], a signal, or a failure.
    ///
    /// # Errors
    /// The first worker's failure; the others are stopped then.
    pub fn wait(mut self) -> Result<(), LaunchError> {
        let mut result = Ok(());
        while self.left > 0 {
            match self.events.recv() {
                Ok(Event::Ready) => {}
                Ok(Event::Signal) => self.on_signal(),
                Ok(Event::Ended(end)) => {
                    self.left -= 1;
                    if end.is_err() {
                        self.handle.stop();
                    }
                    result = result.and(end);
                }
                // The workers' senders are gone: all have ended.
                Err(_) => break,
            }
        }
        self.join();
        result
    }

    fn on_signal(&mut self) {
        if std::mem::replace(&mut self.signalled, true) {
            tracing::warn!("second signal: stopping at once");
            self.handle.stop();
        } else {
            tracing::info!("signal: draining");
            self.handle.drain();
        }
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic was caught inside and is reported by its event.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    /// Stops what still runs.
    fn drop(&mut self) {
        self.handle.stop();
        self.join();
    }
}

/// A thread that tells of SIGTERM and SIGINT, and has certificates read again on SIGHUP; without it, and for SIGHUP
/// without certificates, these signals end the process.
struct SignalWatch {
    handle: signal_hook::iterator::Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalWatch {
    fn start(events: Sender<Event>, tls: Option<Arc<ServerTls>>) -> Result<Self, LaunchError> {
        let system = |action| move |source| LaunchError::System { action, source };
        let watched = [SIGTERM, SIGINT].into_iter().chain(tls.is_some().then_some(SIGHUP));
        let mut signals = Signals::new(watched).map_err(system("watch for signals"))?;
        let handle = signals.handle();
        let body = move || {
            for signal in signals.forever() {
                if let (SIGHUP, Some(tls)) = (signal, &tls) {
                    reload(tls, "SIGHUP");
                } else if events.send(Event::Signal).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("unsocket-signals".into()).spawn(body);
        Ok(SignalWatch { handle, thread: Some(thread.map_err(system("start a thread"))?) })
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there would be nobody to tell.
            let _ = thread.join();
        }
    }
}

/// What the threads tell.
enum Event {
    Ready,
    Ended(Result<(), LaunchError>),
    Signal,
}

fn pin(core: Option<usize>, worker: usize) {
    if let Some(id) = core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        tracing::warn!(
            worker,
            core = id,
            "cannot pin this worker to its core: is there such a core, and may we use it?"
        );
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
