//! What an engine is configured with. Every limit has its unit in its name, every time is a `Duration`.

use super::guards::{Guard, Origins};
use crate::http::Routes;
use crate::stack::{Cidr, StackConfig};
use crate::time::Duration;
use crate::tls::ServerTls;
use crate::ws::{self, deflate::DeflateConfig};
use std::sync::Arc;

/// Everything the workers of one server or client are configured with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// TCP ports to accept connections on; none for a client.
    pub listen: Vec<u16>,
    /// TCP ports to accept connections with TLS on, as [`EngineConfig::tls`] says.
    pub listen_tls: Vec<u16>,
    /// Certificates and keys; needed where TLS is listened for. With [`EngineConfig::handle_signals`], SIGHUP has them
    /// read again.
    pub tls: Option<Arc<ServerTls>>,
    /// How often the launcher looks whether a file of [`EngineConfig::tls`] is another one; `None` for never.
    pub tls_watch: Option<Duration>,
    /// Addresses, routes and TCP. [`Limits::connections_max`] bounds what its slab has beyond refusals.
    pub stack: StackConfig,
    /// How the flows are spread over several workers.
    pub steering: Steering,
    /// What is served over plain HTTP, and which paths take upgrades.
    pub routes: Arc<Routes>,
    /// Which web pages may open a WebSocket.
    pub origins: Origins,
    /// Who else is asked, in this order, before the application is.
    pub guards: Vec<Arc<dyn Guard>>,
    /// Networks of proxies: every connection from there begins with a PROXY header, and whom that names is the peer.
    pub proxies: Vec<Cidr>,
    /// Bounds on connections, messages and memory.
    pub limits: Limits,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// Compression (RFC 7692) to agree to as a server and to offer as a client; `None` for neither.
    pub deflate: Option<DeflateConfig>,
    /// What happens to a message for a connection that does not read what it was sent.
    pub slow_reader: SlowReader,
    /// How much work one burst does.
    pub burst: Burst,
    /// What the launcher's loop does when there is nothing to do.
    pub idle: Idle,
    /// The core of each worker, by worker index; a worker beyond the end is not pinned.
    pub cores: Vec<usize>,
    /// SIGTERM and SIGINT start a graceful drain.
    pub handle_signals: bool,
}

impl Default for EngineConfig {
    /// Every upgrade path, no static answers, no port to listen on, any origin.
    fn default() -> Self {
        let mut routes = Routes::default();
        routes.upgrade_any_path();
        EngineConfig {
            listen: Vec::new(),
            listen_tls: Vec::new(),
            tls: None,
            tls_watch: Some(Duration::from_secs(1)),
            stack: StackConfig::default(),
            steering: Steering::Device,
            routes: Arc::new(routes),
            origins: Origins::Any,
            guards: Vec::new(),
            proxies: Vec::new(),
            limits: Limits::default(),
            deadlines: Deadlines::default(),
            deflate: None,
            slow_reader: SlowReader::Drop,
            burst: Burst::default(),
            idle: Idle::default(),
            cores: Vec::new(),
            handle_signals: true,
        }
    }
}

/// Which rule says what flows are a worker's own. Whoever receives a frame of another worker's flow hands it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Steering {
    /// The device's, where it says how it spreads flows over its queues ([`PortInfo::rss`]); else the workers' own.
    ///
    /// [`PortInfo::rss`]: crate::port::PortInfo::rss
    #[default]
    Device,
    /// The workers' own, `flow hash % workers`, whatever the device says.
    Software,
}

/// What happens to a message while more than [`Limits::overflow_bytes_max`] wait for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SlowReader {
    /// The message is dropped, counted, and the outcome says so; the connection goes on.
    #[default]
    Drop,
    /// The message is dropped and the connection closed with 1013.
    Close,
}

/// What happens when a client sends faster than [`RateLimits`] allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RatePolicy {
    /// It is not read from until it is within the rate again: TCP's window closes and slows it down.
    #[default]
    Delay,
    /// Messages over the rate are dropped and counted.
    Drop,
    /// The connection is closed with 1008.
    Close,
}

/// How fast one client may send; 0 for as fast as it can. A second's worth may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Bytes a second: of frames with their headers, or with [`RatePolicy::Drop`] of messages.
    pub bytes_per_second: u64,
    /// Messages a second.
    pub messages_per_second: u64,
    /// Pings and pongs a second. A flood closes the connection with 1008 whatever the policy is.
    pub control_frames_per_second: u64,
    /// What happens to what is over the first two.
    pub policy: RatePolicy,
}

impl Default for RateLimits {
    fn default() -> Self {
        RateLimits {
            bytes_per_second: 0,
            messages_per_second: 0,
            control_frames_per_second: 100,
            policy: RatePolicy::Delay,
        }
    }
}

/// Bounds, each for one worker unless it says connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections served at once (plain HTTP ones included); further requests get a 503.
    pub connections_max: usize,
    /// Connections of one peer, over all workers: an IPv4 address, or an IPv6 network of 64 bits. Further ones are reset.
    /// 0 for any number.
    pub connections_per_peer_max: u32,
    /// How fast one connection may send.
    pub rates: RateLimits,
    /// What one peer may send: bytes of a message and of a frame, frames of a message.
    pub message: ws::Limits,
    /// Request or response head, bytes.
    pub head_bytes_max: usize,
    /// Encoded bytes that may wait for one connection whose send ring is full. While more than this waits, no
    /// further message is accepted; the last one accepted may reach over it.
    pub overflow_bytes_max: usize,
    /// A server does not read from a connection for which more bytes than this wait: TCP's window closes.
    pub overflow_bytes_high_water: usize,
    /// Heap for request heads and messages being assembled and for overflow queues, bytes over all connections. Beyond
    /// it messages are dropped, their connections closed with 1013, and requests get a 503.
    pub memory_bytes_max: usize,
    /// Topics that have a subscriber.
    pub topics_max: usize,
    /// Topics one connection is subscribed to.
    pub subscriptions_max: usize,
    /// A topic's name, bytes.
    pub topic_bytes_max: usize,
    /// Commands that may wait in the worker's mailbox.
    pub mailbox_commands_max: usize,
    /// Payload bytes that may wait in the worker's mailbox.
    pub mailbox_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 65_536,
            connections_per_peer_max: 0,
            rates: RateLimits::default(),
            message: ws::Limits::default(),
            head_bytes_max: 16 << 10,
            overflow_bytes_max: 1 << 20,
            overflow_bytes_high_water: 64 << 10,
            memory_bytes_max: 1 << 30,
            topics_max: 65_536,
            subscriptions_max: 256,
            topic_bytes_max: 256,
            mailbox_commands_max: 16_384,
            mailbox_bytes_max: 64 << 20,
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the TCP connection to the end of the opening handshake; also for one HTTP request head.
    pub handshake: Duration,
    /// Between two HTTP requests on one connection.
    pub http_keep_alive: Duration,
    /// From our close frame to the peer's, and from there to the end of TCP.
    pub close: Duration,
    /// An open connection from which nothing came for this long is closed with 1001. Any byte counts.
    pub idle: Option<Duration>,
    /// An open connection that is this old is closed with 1001, busy or not.
    pub lifetime: Option<Duration>,
    /// Silence after which a ping is sent. Any byte counts as an answer.
    pub ping: Option<Duration>,
    /// Silence after our ping that ends the connection with 1011.
    pub pong: Duration,
    /// From the start of a drain until what is left is reset.
    pub drain: Duration,
    /// Interval of [`Handler::on_tick`](super::Handler::on_tick); `None` for no ticks.
    pub tick: Option<Duration>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            handshake: Duration::from_secs(10),
            http_keep_alive: Duration::from_secs(30),
            close: Duration::from_secs(5),
            idle: Some(Duration::from_secs(120)),
            lifetime: None,
            ping: Some(Duration::from_secs(30)),
            pong: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            tick: Some(Duration::from_secs(1)),
        }
    }
}

/// How much work one burst does, so that its length is bounded and every connection gets its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Frames received at once, from the port and from each other worker.
    pub rx_frames: usize,
    /// Frames that may wait for the port.
    pub tx_frames: usize,
    /// Received bytes after which a connection's turn ends (at the next message boundary).
    pub connection_bytes: usize,
    /// Messages and control frames after which a connection's turn ends.
    pub connection_messages: usize,
    /// Received bytes, over all connections, after which the burst goes to transmit.
    pub total_bytes: usize,
    /// Commands taken from the mailbox.
    pub mailbox_commands: usize,
    /// Steps of TLS handshakes, over all connections: each may take as long as a hundred messages, and whoever else
    /// has something to do waits for it.
    pub tls_handshakes: usize,
}

impl Default for Burst {
    fn default() -> Self {
        Burst {
            rx_frames: 64,
            tx_frames: 256,
            connection_bytes: 64 << 10,
            connection_messages: 256,
            total_bytes: 1 << 20,
            mailbox_commands: 256,
            tls_handshakes: 1,
        }
    }
}

/// What a worker's loop does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Never sleep: least latency, one core busy. For dedicated cores.
    Spin,
    /// Spin for this long after the last work, then sleep until traffic, a command or the next deadline.
    Adaptive {
        /// How long to spin first.
        spin: Duration,
        /// Not to look for traffic for this long after the last work, so that what comes meanwhile shares one wake-up and
        /// one burst: the interrupt moderation of NICs (`ethtool -C rx-usecs`). Commands and deadlines do not wait for it.
        coalesce: Duration,
    },
}

impl Default for Idle {
    fn default() -> Self {
        Idle::Adaptive { spin: Duration::from_micros(50), coalesce: Duration::ZERO }
    }
}

/// Why a configuration cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A limit that would stop everything.
    #[error("`{name}` must be at least {min}")]
    TooSmall {
        /// The setting.
        name: &'static str,
        /// Its least value.
        min: usize,
    },
    /// A port speaks either one or the other.
    #[error("port {port} is listened on both with TLS and without: choose one, or another port")]
    PlainAndTls {
        /// The port.
        port: u16,
    },
    /// TLS needs a certificate.
    #[error("port {port} is to be listened on with TLS, but no certificate is given")]
    NoCertificate {
        /// The port.
        port: u16,
    },
    /// Input would still be read when nothing more is accepted: an echo would lose messages.
    #[error("`overflow_bytes_high_water` ({high_water}) must not be over `overflow_bytes_max` ({max})")]
    HighWaterOverMax {
        /// The high-water mark, bytes.
        high_water: usize,
        /// The bound, bytes.
        max: usize,
    },
}

impl EngineConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Limits { overflow_bytes_max: max, overflow_bytes_high_water: high_water, .. } = self.limits;
        for (name, value, min) in [
            ("connections_max", self.limits.connections_max, 1),
            ("head_bytes_max", self.limits.head_bytes_max, 256),
            ("overflow_bytes_max", max, 1),
            ("mailbox_commands_max", self.limits.mailbox_commands_max, 1),
            ("burst.rx_frames", self.burst.rx_frames, 1),
            ("burst.tx_frames", self.burst.tx_frames, 1),
            ("burst.connection_bytes", self.burst.connection_bytes, 1),
            ("burst.connection_messages", self.burst.connection_messages, 1),
            ("burst.total_bytes", self.burst.total_bytes, 1),
            ("burst.mailbox_commands", self.burst.mailbox_commands, 1),
            ("burst.tls_handshakes", self.burst.tls_handshakes, 1),
        ] {
            if value < min {
                return Err(ConfigError::TooSmall { name, min });
            }
        }
        if high_water > max {
            return Err(ConfigError::HighWaterOverMax { high_water, max });
        }
        if let Some(&port) = self.listen_tls.iter().find(|port| self.listen.contains(port)) {
            return Err(ConfigError::PlainAndTls { port });
        }
        if let (Some(&port), None) = (self.listen_tls.first(), &self.tls) {
            return Err(ConfigError::NoCertificate { port });
        }
        Ok(())
    }
}
