//! The load generator: closed and open loops of messages over many connections, every reply verified in full.
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`], [`sizes`] | how many connections, messages, bytes, for how long, on which threads |
//! | [`pattern`] | what each message holds, and how a reply differs from it |
//! | [`generator`], [`load`] | the loop of one thread, the same over every transport; one connection of it |
//! | [`pace`], [`senders`], [`publication`] | parts of it: open loops, connections that send, broadcasts |
//! | [`tally`], [`series`] | replies, latencies, errors by cause; how they went over time |
//! | [`crew`] | the threads, when measuring begins and ends, progress |
//! | [`kernel`] | transport: ordinary kernel sockets |
//! | [`client`], [`churn`], [`engine_setup`] | transport: the engine's own client; that with connections that come and go |
//! | [`in_process`], [`over_port`] | that with the server in this process; that over a device |
//! | [`usage`], [`memory`], [`cache_line`], [`report`], [`summary`] | on what machine, with what result |

pub mod cache_line;
pub mod churn;
pub mod client;
pub mod crew;
pub mod engine_setup;
pub mod generator;
pub mod in_process;
pub mod kernel;
pub mod load;
pub mod memory;
pub mod over_port;
pub mod pace;
pub mod pattern;
pub mod plan;
pub mod publication;
pub mod report;
pub mod senders;
pub mod series;
pub mod sizes;
pub mod summary;
pub mod tally;
pub mod usage;

pub use crew::{Phase, Progress};
pub use plan::{Plan, Scenario, Stop};
pub use report::Report;
pub use sizes::Sizes;

use crate::config::ConfigError;
use crate::engine::WorkerError;
use crate::port::fault::FaultError;
use crate::port::tap::TapError;
use crate::port::wire::WireError;
use crate::time::{Duration, Instant};
use crate::tls::{ClientTls, FileError};
use crate::ws::WsUrl;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// The monotonic clock of one run; its epoch is the moment it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: std::time::Instant,
}

impl Clock {
    /// A clock that shows zero now.
    #[expect(clippy::new_without_default, reason = "a clock is started, not defaulted")]
    pub fn new() -> Self {
        Clock { epoch: std::time::Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> Instant {
        Instant::ZERO + self.elapsed()
    }

    fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// The server that is loaded.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it is.
    pub url: WsUrl,
    /// Whom to believe; used where the URL says `wss://`.
    pub tls: Option<ClientTls>,
    /// So many TCP ports from the URL's on, taken in turn: each is another 2^15 connections for each address of ours.
    pub port_count: u16,
    /// Over kernel sockets: our addresses, taken in turn; none for the kernel's choice.
    pub sources: Vec<IpAddr>,
}

impl Target {
    /// The addresses it stands for, in the resolver's order of preference; at least one.
    fn resolve(&self) -> Result<Vec<SocketAddr>, BenchError> {
        let error = |source| BenchError::Resolve { url: self.url.clone(), source };
        let addrs: Vec<_> = (self.url.host(), self.url.port()).to_socket_addrs().map_err(error)?.collect();
        if addrs.is_empty() {
            return Err(error(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
        }
        Ok(addrs)
    }

    /// The server at `url`, with TLS as given, on its one port, from the kernel's choice of address.
    pub fn new(url: WsUrl, tls: Option<ClientTls>) -> Target {
        Target { url, tls, port_count: 1, sources: Vec::new() }
    }

    /// The TCP ports that connections go to in turn.
    fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        (self.url.port()..=u16::MAX).take(usize::from(self.port_count.max(1)))
    }

    /// The TLS of a connection to it; `None` without TLS.
    fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref().filter(|_| self.url.is_secure())
    }
}

/// Why a run could not be carried out. What goes wrong on its connections is counted, not returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The host name has no address.
    #[error("{url}: the host cannot be resolved: {source}")]
    Resolve {
        /// The URL.
        url: WsUrl,
        /// What the resolver said.
        source: io::Error,
    },
    /// More connections than file descriptors.
    #[error(
        "{connections} connections need {needed} open files, the hard limit is {limit}; \
         use fewer --connections or raise it (ulimit -Hn, LimitNOFILE=)"
    )]
    OpenFiles {
        /// Connections wanted.
        connections: u32,
        /// Descriptors they need.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// A core that does not exist or may not be used.
    #[error("core {core} cannot be used; this process may use {usable:?}")]
    Core {
        /// The core asked for.
        core: usize,
        /// The cores there are.
        usable: Vec<usize>,
    },
    /// More messages on their way than there is memory for.
    #[error("--connections x --in-flight is {outstanding}, at most {limit} messages can be on their way")]
    Outstanding {
        /// Messages on their way over all connections.
        outstanding: u64,
        /// How many are possible.
        limit: u64,
    },
    /// The result could not be written.
    #[error("{}: the result cannot be written: {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device but no server to reach over it.
    #[error(
        "--port needs a URL: the server to load, e.g. ws://10.73.0.1:8080/; without --port server and clients run in this process"
    )]
    PortWithoutUrl,
    /// The in-process wire cannot reach a server elsewhere.
    #[error(
        "--port wire joins two ends inside this process and reaches no URL; give --port tap:NAME or --port dpdk:DEVARGS, or none for \
         a run in one process"
    )]
    WireToUrl,
    /// An option of a device without one.
    #[error("{option} is about a device: give --port, e.g. --port tap:uns0, or leave {option} out")]
    OptionNeedsPort {
        /// The option.
        option: &'static str,
    },
    /// An option of the engine's path over kernel sockets.
    #[error(
        "{option} is about the engine's path, kernel sockets have their own: give --port, or leave {option} out"
    )]
    OptionNeedsEngine {
        /// The option.
        option: &'static str,
    },
    /// A server whose memory cannot be looked at.
    #[error(
        "--server-pid {pid}: there is no such process, or its memory may not be looked at; give the server's, as root or its user"
    )]
    ServerPid {
        /// The process id.
        pid: u32,
    },
    /// More ports than there are behind the URL's.
    #[error("--ports {count}: from port {first} on there are not so many; the last one is 65535")]
    Ports {
        /// How many were asked for.
        count: u16,
        /// The URL's.
        first: u16,
    },
    /// The picture cannot be drawn.
    #[error("{}: the picture cannot be drawn: {why}", path.display())]
    Plot {
        /// The file.
        path: PathBuf,
        /// What the library said.
        why: String,
    },
    /// An option of kernel sockets elsewhere.
    #[error("{option} is about kernel sockets: give a URL without --port, or leave {option} out")]
    OptionNeedsKernel {
        /// The option.
        option: &'static str,
    },
    /// An option of another scenario.
    #[error("{option} means nothing in --scenario {scenario}: leave it out")]
    OptionOfOtherScenario {
        /// The option.
        option: &'static str,
        /// The scenario asked for.
        scenario: &'static str,
    },
    /// Addresses by DHCP.
    #[error("a load needs its addresses from the start: give --ip instead of --dhcp")]
    Dhcp,
    /// The device's configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The device cannot be opened.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The DPDK device cannot be opened.
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Dpdk(#[from] crate::port::dpdk::DpdkError),
    /// None of our addresses is of the server's family.
    #[error("{url}: no --ip is of that address family; give one, e.g. --ip 10.73.0.3/24 or --ip fd73::3/64")]
    NoFamily {
        /// The URL.
        url: WsUrl,
    },
    /// A device without a queue.
    #[error("the device has no queue to work on")]
    NoPort,
    /// The wire cannot be made.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Frames are to be corrupted where nobody looks at checksums.
    #[error("--fault-corrupt would go unnoticed without checksums: leave out --checksum trust")]
    CorruptionUnnoticed,
    /// The faults cannot be put on the path.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] FileError),
    /// An option of TLS without it.
    #[error("{option} is about TLS: give a wss:// URL, or leave {option} out")]
    OptionNeedsTls {
        /// The option.
        option: &'static str,
    },
    /// A worker cannot be set up.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The kernel refused what a generator needs.
    #[error("{what}: {source}")]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BenchError {
    /// Whether the arguments are wrong, rather than what they met.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            BenchError::PortWithoutUrl
                | BenchError::WireToUrl
                | BenchError::OptionNeedsPort { .. }
                | BenchError::OptionNeedsEngine { .. }
                | BenchError::OptionNeedsTls { .. }
                | BenchError::Tls(_)
                | BenchError::ServerPid { .. }
                | BenchError::Ports { .. }
                | BenchError::OptionNeedsKernel { .. }
                | BenchError::OptionOfOtherScenario { .. }
                | BenchError::Dhcp
                | BenchError::Config(_)
                | BenchError::NoFamily { .. }
                | BenchError::Outstanding { .. }
                | BenchError::Core { .. }
                | BenchError::Wire(_)
                | BenchError::Fault(_)
                | BenchError::CorruptionUnnoticed
        )
    }
}
