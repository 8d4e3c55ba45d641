//! The load generator: closed loops of messages over many connections, every reply verified in full.
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`] | how many connections, messages, bytes, for how long, on which threads |
//! | [`pattern`] | what each message holds, and how a reply differs from it |
//! | [`generator`] | the closed loop of one thread, the same over every transport |
//! | [`tally`] | replies, round-trip times, errors by cause |
//! | [`crew`] | the threads, when measuring begins and ends, progress |
//! | [`kernel`] | transport: ordinary kernel sockets |
//! | [`client`], [`in_process`] | transport: the engine's own client; with the server in this process |
//! | [`url`], [`usage`], [`cache_line`], [`report`] | where to, on what machine, with what result |

pub mod cache_line;
pub mod client;
pub mod crew;
pub mod generator;
pub mod in_process;
pub mod kernel;
pub mod pattern;
pub mod plan;
pub mod report;
pub mod tally;
pub mod url;
pub mod usage;

pub use crew::{Phase, Progress};
pub use plan::{Plan, Stop};
pub use report::Report;
pub use url::WsUrl;

use crate::engine::WorkerError;
use crate::port::fault::FaultError;
use crate::port::wire::WireError;
use crate::time::{Duration, Instant};
use std::io;
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
    /// The wire cannot be made.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The faults cannot be put on the path.
    #[error(transparent)]
    Fault(#[from] FaultError),
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
