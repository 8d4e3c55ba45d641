//! Workers, handlers, sessions: where the layers meet and the application runs.
//!
//! One [`Worker`] owns one queue of a port, one stack and one [`Handler`]; its [`Worker::poll`] does one burst: receive
//! all, process all, transmit all. Nothing in it takes a lock, allocates per frame or reads a clock, and nothing is
//! shared between workers but bounded mailboxes (a [`Handle`] reaches them) and, for frames, bounded links.
//!
//! | part | what it does |
//! |---|---|
//! | `worker`, `serve`, `read`, `drain` | a burst; one connection's turn in it; what is read there; the end |
//! | `session`, `outbound`, `local` | what is kept of a connection; its frames on their way out; what callbacks touch |
//! | `secure` | TLS between the rings and all of the above, for `wss://` |
//! | `compression` | messages on their way out that are compressed |
//! | `opening`, [`guards`], `proxied` | the opening handshake of both roles, and plain HTTP beside it; who may; clients behind a proxy |
//! | `rates`, `peers` | how fast one connection may send; how many connections one peer may have |
//! | `topics`, `mailbox` | publish and subscribe; what crosses threads |
//! | `seat` | which workers share a device, and what all of them share |
//! | `steering`, `placement` | frames for another worker; whether the device gives each worker its own |
//! | `handler`, `conn`, `handle` | the programming interface |
//! | `exception` | frames for nobody, to the kernel and back |
//! | `config`, `stats` | limits and deadlines; counters |
//! | `launch`, `launch_loop` | threads and signals; the clock and the sleep of one worker's thread |
//! | `told` | what is logged of them |
//! | `backoff`, `retry` | when a connection that ended is opened again |
//! | `lookups` | servers that are known by their names |
//! | `reload` | certificates that are exchanged while a server runs |
//!
//! # Invariants
//!
//! * A session exists for exactly the connections that the stack has given out and not got back.
//! * A session's phase only ever advances; `on_close` is called when it leaves `Open` or `CloseSent`.
//! * Bytes reach a send ring in the order in which their messages were accepted; a message is accepted whole or not.
//! * Memory beyond the rings is counted in [`WorkerStats::memory_bytes`] and bounded by [`Limits::memory_bytes_max`].

mod backoff;
mod compression;
mod config;
mod conn;
mod drain;
mod exception;
pub mod guards;
mod handle;
mod handler;
mod launch;
mod launch_loop;
mod local;
mod lookups;
mod mailbox;
mod opening;
mod outbound;
mod peers;
mod placement;
mod proxied;
mod rates;
mod read;
mod reload;
mod retry;
mod seat;
mod secure;
mod serve;
mod session;
mod stats;
mod steering;
mod told;
mod topics;
mod worker;

pub use backoff::Backoff;
pub use config::{
    Burst, ConfigError, Deadlines, EngineConfig, Idle, Limits, RateLimits, RatePolicy, SlowReader, Steering,
};
pub use conn::{Compress, Conn, ConnRef, Context, PublishOutcome, SendOutcome};
pub use handle::{Handle, HandleError};
pub use handler::{Cause, Closed, Connect, ConnectFailure, ConnectTls, Handler, Refusal, Request, Upgrade};
pub use launch::{Client, LaunchError, PortGroup, Running, Server};
pub use lookups::ByName;
pub use mailbox::{NoWake, Wake};
pub use seat::{Seat, seats};
pub use stats::{WorkerReport, WorkerStats};
pub use topics::SubscribeError;
pub use worker::{Progress, Worker, WorkerError};
