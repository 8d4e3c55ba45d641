//! The configuration: one TOML file, every limit with its unit in its name, validated once.
//!
//! Defaults, then the file, then the command line. Each key, its default and its range are described in
//! `docs/configuration.md`; a test holds that page to the structs here.

mod convert;
mod error;
mod guards;
mod parse;
mod text;
mod validate;

pub use error::ConfigError;
pub use guards::{GuardsConfig, JwtSignature};
pub use text::{Mac, PortSpec};

use crate::stack::Cidr;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is served.
    pub server: ServerConfig,
    /// Who may open a WebSocket.
    pub guards: GuardsConfig,
    /// The device and the addresses on it.
    pub port: PortConfig,
    /// More devices, each with what `[port]` has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_ports: Vec<PortConfig>,
    /// `wss://` and `https://`.
    pub tls: TlsSettings,
    /// TCP, for every connection.
    pub tcp: TcpSettings,
    /// WebSocket and HTTP: limits of one connection and deadlines.
    pub websocket: WebSocketConfig,
    /// Compression of messages.
    pub compression: CompressionConfig,
    /// Bounds of one worker.
    pub limits: LimitsConfig,
    /// Threads and how they wait.
    pub workers: WorkersConfig,
    /// How much work one burst does.
    pub burst: BurstConfig,
    /// The graceful end.
    pub drain: DrainConfig,
    /// What is written to standard error.
    pub log: LogConfig,
}

/// `[server]`: what is served.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// TCP ports to accept connections on.
    pub listen: Vec<u16>,
    /// The application.
    pub app: App,
    /// Paths that take WebSocket upgrades; none for every path.
    pub paths: Vec<String>,
    /// Whether `/` answers with the embedded page.
    pub page: bool,
    /// `Origin` values that may open a WebSocket beside the server's own; `*` for any.
    pub allowed_origins: Vec<String>,
    /// Networks of proxies, whose connections begin with a PROXY header.
    #[serde(with = "text::list")]
    pub proxies: Vec<Cidr>,
}

/// `[tls]`: `wss://` and `https://`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// TCP ports to accept connections with TLS on.
    pub listen: Vec<u16>,
    /// PEM files with a certificate and its chain each.
    pub certs: Vec<PathBuf>,
    /// PEM files with the private key of each of them, in the same order.
    pub keys: Vec<PathBuf>,
    /// Whether clients have to show a certificate.
    pub client_auth: ClientCertificates,
    /// PEM file of the authorities that issue them.
    pub client_ca: Option<PathBuf>,
    /// How often the files are looked at; 0 for never.
    pub watch_ms: u64,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    None,
    /// They may.
    Optional,
    /// No connection without.
    Required,
}

/// The applications that ship in the binary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum App {
    /// Every message goes back to its sender.
    #[default]
    Echo,
    /// Every message goes to everyone in the same room.
    Chat,
    /// Every message goes as it is to everyone connected to the same path.
    #[value(name = "pubsub")]
    PubSub,
}

/// `[port]`: the device and the addresses on it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortConfig {
    /// Which device.
    pub spec: Option<PortSpec>,
    /// Our addresses.
    #[serde(with = "text::list")]
    pub ip: Vec<Cidr>,
    /// Workers on this device; `workers.count` when not given.
    pub workers: Option<usize>,
    /// Addresses of the kernel's end of a TAP device.
    #[serde(with = "text::list")]
    pub host_ip: Vec<Cidr>,
    /// Network namespace for the kernel's end of a TAP device.
    pub netns: Option<String>,
    /// Our MAC address; the port's own choice when not given.
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes; 1500 on a TAP device when not given.
    pub mtu: Option<usize>,
    /// Frames of each queue.
    pub frames: usize,
    /// Queue pairs of a DPDK device; one for each worker, as far as it has them, when not given.
    pub queues: Option<usize>,
    /// The VLAN that a DPDK device belongs to.
    pub vlan: Option<u16>,
    /// Whether a TAP device may leave out checksums and hand over large segments.
    pub offload: bool,
    /// Whether the device is given large TCP segments over IPv4 to cut, where it can.
    pub tso: bool,
    /// Who sees to checksums on a DPDK device.
    pub checksum: Checksum,
    /// Whether DPDK's memory is hugepages; ordinary pages otherwise.
    pub hugepages: bool,
    /// More arguments for DPDK's EAL.
    pub eal: Vec<String>,
    /// The TAP device by which frames for nobody go to the kernel.
    pub exception_path: Option<String>,
    /// Default routers, at most one of each family.
    pub gateway: Vec<IpAddr>,
    /// Static routes.
    pub routes: Vec<RouteConfig>,
    /// Get an IPv4 address and router by DHCP.
    pub dhcp: bool,
    /// DNS servers, at which names of outgoing connections are looked up; those of the DHCP lease when there are none.
    pub dns: Vec<IpAddr>,
}

/// Who sees to checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// They are filled in and verified, by the device as far as it can, else in software.
    #[default]
    Verify,
    /// Nobody, at either end: memory does not corrupt frames.
    Trust,
}

/// One of `[[port.routes]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Destinations.
    #[serde(with = "text::one")]
    pub to: Cidr,
    /// The router, on one of our own networks.
    pub via: IpAddr,
}

/// `[tcp]`: settings of every connection.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpSettings {
    /// Receive ring of one connection.
    pub recv_buffer_bytes: usize,
    /// Send ring of one connection.
    pub send_buffer_bytes: usize,
    /// Congestion control.
    pub congestion: Congestion,
    /// Least retransmission timeout.
    pub min_rto_ms: u64,
    /// How long an acknowledgement may wait for data to ride on.
    pub ack_delay_ms: u64,
    /// Interval of keep-alive probes; 0 for none.
    pub keep_alive_ms: u64,
    /// Give up when the peer has acknowledged nothing for this long.
    pub user_timeout_ms: u64,
    /// How long a half-open connection may take.
    pub syn_timeout_ms: u64,
    /// How long a closed connection waits for the peer's FIN.
    pub fin_wait2_timeout_ms: u64,
    /// How long a closed 4-tuple is remembered.
    pub time_wait_ms: u64,
    /// Most TIME-WAIT records.
    pub time_wait_max: usize,
    /// Most half-open connections.
    pub half_open_max: usize,
    /// Most RSTs a second to segments of no connection, and most acknowledgements to those of connections in TIME-WAIT.
    pub rst_per_second_max: u32,
}

/// Congestion control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// None at all: for a dedicated LAN only.
    None,
}

/// `[websocket]`: limits of one connection and deadlines.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocketConfig {
    /// Largest message.
    pub message_bytes_max: usize,
    /// Largest frame payload.
    pub frame_bytes_max: usize,
    /// Most frames of one message.
    pub fragments_max: usize,
    /// Largest request head.
    pub head_bytes_max: usize,
    /// From the TCP connection to the end of the opening handshake.
    pub handshake_timeout_ms: u64,
    /// Between two plain HTTP requests on one connection.
    pub http_idle_timeout_ms: u64,
    /// Silence after which a connection is closed; 0 for never.
    pub idle_timeout_ms: u64,
    /// Silence after which a ping is sent; 0 for never.
    pub ping_interval_ms: u64,
    /// Silence after our ping that ends a connection.
    pub pong_timeout_ms: u64,
    /// From our close frame to the end of TCP.
    pub close_timeout_ms: u64,
    /// Encoded bytes that may wait for one connection beyond its send ring.
    pub send_queue_bytes_max: usize,
    /// Waiting bytes past which the connection is not read from.
    pub send_queue_bytes_high_water: usize,
    /// What becomes of a message for a connection whose queue is full.
    pub slow_consumer: SlowConsumer,
    /// Age at which a connection is closed, however busy it is; 0 for none.
    pub lifetime_max_ms: u64,
    /// Bytes a second that a client may send; 0 for any number.
    pub bytes_per_second_max: u64,
    /// Messages a second that a client may send; 0 for any number.
    pub messages_per_second_max: u64,
    /// Pings and pongs a second that a client may send; 0 for any number.
    pub control_frames_per_second_max: u64,
    /// What becomes of what is over a rate.
    pub rate_policy: RatePolicy,
}

/// What becomes of a message for a connection that does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowConsumer {
    /// It is dropped and counted.
    Drop,
    /// The connection is closed with 1013.
    Close,
}

/// `[compression]`: permessage-deflate, RFC 7692.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompressionConfig {
    /// Whether it is agreed to, by clients that offer it.
    pub enabled: bool,
    /// From fast to small.
    pub level: u8,
    /// Shorter messages are sent as they are.
    pub threshold_bytes: usize,
    /// Whether messages that we send may refer to earlier ones.
    pub send_takeover: bool,
    /// Whether messages that we receive may refer to earlier ones.
    pub receive_takeover: bool,
    /// How far back what we send may refer: 2 to this power, bytes.
    pub send_window_bits: u8,
    /// How far back what we receive may refer to earlier messages: 2 to this power, bytes.
    pub receive_window_bits: u8,
}

/// What happens when a client sends too fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RatePolicy {
    /// It is not read from until it is within the rate again.
    Delay,
    /// What is over is dropped and counted.
    Drop,
    /// The connection is closed with 1008.
    Close,
}

/// `[limits]`: bounds of one worker, but for `connections_per_peer_max`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections served at once.
    pub connections_max: usize,
    /// Connections of one peer, over all workers; 0 for any number.
    pub connections_per_peer_max: u32,
    /// Heap for messages being assembled and for send queues, over all connections.
    pub memory_bytes_max: usize,
    /// Topics that have a subscriber.
    pub topics_max: usize,
    /// Topics that one connection subscribes to.
    pub subscriptions_max: usize,
    /// A topic's name.
    pub topic_bytes_max: usize,
    /// Commands that wait in the mailbox.
    pub mailbox_commands_max: usize,
    /// Payload bytes that wait in the mailbox.
    pub mailbox_bytes_max: usize,
}

/// `[workers]`: threads and how they wait.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersConfig {
    /// How many workers, each a thread with its own queue.
    pub count: usize,
    /// The core of each worker; those beyond the end are not pinned.
    pub cores: Vec<usize>,
    /// What a worker does when there is nothing to do; the port's default when not given ([`Config::poll`]).
    pub poll: Option<Poll>,
    /// How long an adaptive worker spins before it sleeps.
    pub spin_us: u64,
    /// How long after its last work an adaptive worker that does not spin leaves what comes waiting.
    pub coalesce_us: u64,
    /// Which rule says whose a connection is.
    pub steering: Steering,
}

/// Which rule says whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Steering {
    /// The device's rule, where it tells one, else the workers' flow hash.
    Device,
    /// The workers' flow hash, whatever the device says.
    Software,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Poll {
    /// Never sleep: least latency, one core busy.
    Spin,
    /// Spin for a while, then sleep until traffic or the next deadline.
    Adaptive,
}

/// `[burst]`: how much work one burst does.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BurstConfig {
    /// Frames received at once.
    pub rx_frames: usize,
    /// Frames that may wait for the port.
    pub tx_frames: usize,
    /// Received bytes after which a connection's turn ends.
    pub connection_bytes: usize,
    /// Messages after which a connection's turn ends.
    pub connection_messages: usize,
    /// Received bytes, over all connections, after which the burst is sent.
    pub total_bytes: usize,
    /// Commands taken from the mailbox.
    pub mailbox_commands: usize,
    /// Steps of TLS handshakes.
    pub tls_handshakes: usize,
}

/// `[drain]`: the graceful end.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// From SIGTERM until what is still open is reset.
    pub deadline_ms: u64,
}

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// Least level, or levels by module in the form of `tracing`'s `EnvFilter`.
    pub level: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event.
    Human,
    /// One JSON object an event.
    Json,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            listen: vec![80],
            app: App::Echo,
            paths: Vec::new(),
            page: true,
            allowed_origins: Vec::new(),
            proxies: Vec::new(),
        }
    }
}

impl Default for TlsSettings {
    fn default() -> Self {
        TlsSettings {
            listen: Vec::new(),
            certs: Vec::new(),
            keys: Vec::new(),
            client_auth: ClientCertificates::None,
            client_ca: None,
            watch_ms: 1_000,
        }
    }
}

impl Default for PortConfig {
    fn default() -> Self {
        PortConfig {
            spec: None,
            ip: Vec::new(),
            workers: None,
            host_ip: Vec::new(),
            netns: None,
            mac: None,
            mtu: None,
            frames: 1_024,
            queues: None,
            vlan: None,
            offload: true,
            tso: true,
            checksum: Checksum::Verify,
            hugepages: true,
            eal: Vec::new(),
            exception_path: None,
            gateway: Vec::new(),
            routes: Vec::new(),
            dhcp: false,
            dns: Vec::new(),
        }
    }
}

impl Default for TcpSettings {
    fn default() -> Self {
        TcpSettings {
            recv_buffer_bytes: 65_535,
            send_buffer_bytes: 65_536,
            congestion: Congestion::Cubic,
            min_rto_ms: 200,
            ack_delay_ms: 10,
            keep_alive_ms: 0,
            user_timeout_ms: 60_000,
            syn_timeout_ms: 10_000,
            fin_wait2_timeout_ms: 20_000,
            time_wait_ms: 60_000,
            time_wait_max: 65_536,
            half_open_max: 4_096,
            rst_per_second_max: 1_000,
        }
    }
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        WebSocketConfig {
            message_bytes_max: 16 << 20,
            frame_bytes_max: 16 << 20,
            fragments_max: 1 << 20,
            head_bytes_max: 16 << 10,
            handshake_timeout_ms: 10_000,
            http_idle_timeout_ms: 30_000,
            idle_timeout_ms: 120_000,
            ping_interval_ms: 30_000,
            pong_timeout_ms: 30_000,
            close_timeout_ms: 5_000,
            send_queue_bytes_max: 1 << 20,
            send_queue_bytes_high_water: 64 << 10,
            slow_consumer: SlowConsumer::Drop,
            lifetime_max_ms: 0,
            bytes_per_second_max: 0,
            messages_per_second_max: 0,
            control_frames_per_second_max: 100,
            rate_policy: RatePolicy::Delay,
        }
    }
}

impl Default for CompressionConfig {
    fn default() -> Self {
        CompressionConfig {
            enabled: false,
            level: 1,
            threshold_bytes: 256,
            send_takeover: false,
            receive_takeover: false,
            send_window_bits: 12,
            receive_window_bits: 12,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            connections_max: 65_536,
            connections_per_peer_max: 0,
            memory_bytes_max: 1 << 30,
            topics_max: 65_536,
            subscriptions_max: 256,
            topic_bytes_max: 256,
            mailbox_commands_max: 16_384,
            mailbox_bytes_max: 64 << 20,
        }
    }
}

impl Default for WorkersConfig {
    fn default() -> Self {
        WorkersConfig {
            count: 1,
            cores: Vec::new(),
            poll: None,
            spin_us: 50,
            coalesce_us: 0,
            steering: Steering::Device,
        }
    }
}

impl Default for BurstConfig {
    fn default() -> Self {
        BurstConfig {
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

impl Default for DrainConfig {
    fn default() -> Self {
        DrainConfig { deadline_ms: 10_000 }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { format: LogFormat::Human, level: "info".to_owned() }
    }
}
