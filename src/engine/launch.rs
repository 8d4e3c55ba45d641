//! Threads, clock, sleep and signals: the one place of the engine that knows the operating system.

use super::config::EngineConfig;
use super::handle::{Handle, HandleError};
use super::handler::{Connect, Handler};
use super::launch_loop::{Clock, EventFd, run};
use super::mailbox::Wake;
use super::reload::{CertificateWatch, reload};
use super::told;
use super::worker::{Seat, Worker, WorkerError, seats};
use crate::port::Port;
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
    ports: Vec<P>,
    seats: Vec<Seat>,
    wakers: Vec<Arc<EventFd>>,
    handle: Handle,
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
        let mtu = ports.iter().map(|port| port.info().mtu).max().ok_or(LaunchError::NoPorts)?;
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|source| LaunchError::System { action: "get random bytes", source: source.into() })?;
        let wakers: Vec<_> = ports.iter().map(|_| EventFd::new().map(Arc::new)).collect::<Result<_, _>>()?;
        let as_wake = |waker: &Arc<EventFd>| Arc::clone(waker) as Arc<dyn Wake>;
        let (handle, seats) =
            seats(&config, mtu, secret, wakers.iter().map(as_wake).collect()).map_err(LaunchError::Seats)?;
        Ok(Server { config, ports, seats, wakers, handle })
    }

    /// Hands frames for nobody to the kernel, and sends what it answers: `ports` have it at their other end (the queues of a
    /// TAP device), one for each worker.
    ///
    /// # Errors
    /// When there is not one for each worker.
    pub fn exception_path<Q>(mut self, ports: Vec<Q>) -> Result<Self, LaunchError>
    where
        Q: Port<Frame: Send> + Send + 'static,
    {
        if ports.len() != self.seats.len() {
            return Err(LaunchError::ExceptionPorts { given: ports.len(), workers: self.seats.len() });
        }
        self.seats =
            self.seats.into_iter().zip(ports).map(|(seat, port)| seat.with_exception_path(port)).collect();
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
        let Server { config, ports, seats, wakers, handle } = self;
        told::start(&config, &ports);
        let factory = Arc::new(factory);
        let clock = Clock::start();
        let (sender, events) = channel();
        let mut running = Running {
            handle,
            threads: Vec::new(),
            left: ports.len(),
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
        for (((worker, port), seat), waker) in ports.into_iter().enumerate().zip(seats).zip(wakers) {
            let (config, factory, sender) = (config.clone(), factory.clone(), sender.clone());
            let body = move || {
                let run = AssertUnwindSafe(|| {
                    pin(&config, worker);
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

fn pin(config: &EngineConfig, worker: usize) {
    if let Some(&id) = config.cores.get(worker)
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
