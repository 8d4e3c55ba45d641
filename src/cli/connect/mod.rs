//! `unsocket connect`: a WebSocket at the keyboard, or in a script.

mod input;
mod live;
mod over_kernel;
mod over_port;
mod session;
mod transport;

use super::tls_args::TlsArgs;
use super::{CliError, PortArgs};
use crate::config::{Config, Poll};
use crate::engine::Backoff;
use crate::port::tap;
use crate::time::Duration;
use crate::ws::deflate::DeflateConfig;
use crate::ws::handshake::HeadFieldError;
use crate::ws::{CloseCode, REASON_BYTES_MAX, WsUrl};
use clap::Args;
use session::{Session, Settings};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use transport::{Target, Transport};

/// Talk to a WebSocket server: lines of standard input become messages, messages become lines of standard output
///
/// Over ordinary kernel sockets; with --port and --ip over that device. The exit status tells how it ended: 0 closed
/// in order, 2 wrong arguments, 3 no connection, 4 TLS failed, 5 the server refused the WebSocket, 6 the server closed
/// with an error, 7 the connection broke.
#[derive(Args, Clone, Debug)]
pub(super) struct ConnectArgs {
    /// Where to: ws://HOST[:PORT][/path] or wss://..., an IPv6 address in brackets
    #[arg(value_name = "URL")]
    url: WsUrl,
    /// The server's address, instead of looking its name up [default: none]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Header to send along, e.g. "Authorization: Bearer abc"; may be repeated [default: none]
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Subprotocol to offer; may be repeated, the best liked first [default: none]
    #[arg(long, value_name = "NAME")]
    protocol: Vec<String>,
    /// Do not offer compression (permessage-deflate)
    #[arg(long)]
    no_compression: bool,
    /// How long opening the connection may take, in seconds; the server's addresses share it
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = super::seconds)]
    timeout: Duration,
    /// Binary messages: standard input is sent in blocks as it comes, what is received is written as it is
    #[arg(long, short)]
    binary: bool,
    /// Most bytes of a block with --binary, and of a line without
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    block_bytes: u32,
    /// Lines that begin with a slash are commands, also when standard input is no terminal: /ping [TEXT],
    /// /close [CODE [REASON]]; // sends a line that begins with one slash
    #[arg(long)]
    commands: bool,
    /// Send a ping when nothing came for so many seconds; a server that is silent for as long again is given up [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = super::seconds)]
    ping: Option<Duration>,
    /// After the end of standard input: close when nothing came for so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = super::seconds)]
    wait: Duration,
    /// Do not close at the end of standard input: go on receiving until the server closes
    #[arg(long, conflicts_with = "wait")]
    keep_open: bool,
    /// Close after so many messages were received [default: none]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Code to close with
    #[arg(long, value_name = "CODE", default_value_t = 1000, value_parser = close_code)]
    close_code: u16,
    /// Reason to close with, at most 123 bytes [default: none]
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = close_reason)]
    close_reason: String,
    /// Open the connection again when it broke or did not come to be, waiting longer each time
    #[arg(long)]
    reconnect: bool,
    /// Attempts in a row that may fail before it is given up [default: none, without end]
    #[arg(long, value_name = "N", requires = "reconnect")]
    reconnect_max: Option<u32>,
    /// The first wait before a new attempt, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = super::seconds)]
    reconnect_first: Duration,
    /// The longest wait before a new attempt, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = super::seconds)]
    reconnect_longest: Duration,
    /// Say on standard error what happens: opened, pongs, closed
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    trust: TlsArgs,
    #[command(flatten)]
    device: PortArgs,
}

/// Why a connection could not be tried at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The name has no address that can be used.
    #[error("{host} cannot be resolved: {cause}; give its address with --address")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        cause: std::io::Error,
    },
    /// None of our addresses is of the server's family.
    #[error(
        "{host} has no address of the family of --ip; give one of the other family, e.g. --ip fd73::3/64"
    )]
    NoFamily {
        /// The name.
        host: String,
    },
    /// A subprotocol or a header that no request can have.
    #[error("no request can be made of this: {0}")]
    Request(#[from] HeadFieldError),
    /// An option without what it is about.
    #[error("{option} is about {what}: {mend}")]
    Misplaced {
        /// The option.
        option: &'static str,
        /// Its subject.
        what: &'static str,
        /// How to mend it.
        mend: &'static str,
    },
    /// The engine cannot be set up.
    #[error(transparent)]
    Worker(#[from] crate::engine::WorkerError),
    /// The kernel refused what is needed.
    #[error("{what}: {cause}")]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// What the kernel said.
        cause: std::io::Error,
    },
}

impl ConnectError {
    /// The exit status of the process.
    pub(super) fn status(&self) -> u8 {
        match self {
            ConnectError::Resolve { .. } => 3,
            ConnectError::NoFamily { .. } | ConnectError::Misplaced { .. } | ConnectError::Request(_) => 2,
            ConnectError::Worker(_) | ConnectError::Kernel { .. } => 1,
        }
    }
}

/// Talks until one end closes; the exit status says how that went.
pub(super) fn run(args: &ConnectArgs) -> Result<ExitCode, CliError> {
    let tls = match (args.url.is_secure(), args.trust.given()) {
        (true, _) => Some(args.trust.load()?),
        (false, None) => None,
        (false, Some(option)) => {
            let (what, mend) = ("TLS", "give a wss:// URL, or leave it out");
            return Err(ConnectError::Misplaced { option, what, mend }.into());
        }
    };
    let target = Target {
        url: args.url.clone(),
        remotes: args.remotes()?,
        protocols: args.protocol.clone(),
        headers: args.header.clone(),
        tls,
        deflate: (!args.no_compression).then(DeflateConfig::default),
        timeout: args.timeout,
        ping: args.ping,
    };
    // Before anything is dialled: no other attempt would do better.
    target.request([0; 16]).write(&mut Vec::new()).map_err(ConnectError::Request)?;
    if args.device.port.is_none() {
        args.refuse_device_options()?;
        let transport = over_kernel::KernelSocket::new(target)?;
        return args.talk(transport);
    }
    let mut config = Config::default();
    args.device.apply(&mut config);
    config.validate()?;
    config.device()?;
    let spin = config.poll() == Poll::Spin;
    if let Some(tap) = config.tap() {
        return args.talk(over_port::EnginePort::new(target, config.stack(), tap::open(&tap)?, spin)?);
    }
    #[cfg(feature = "dpdk")]
    if let Some(dpdk) = config.dpdk() {
        let ports = crate::port::dpdk::open(&dpdk)?;
        return args.talk(over_port::EnginePort::new(target, config.stack(), ports, spin)?);
    }
    Err(CliError::Unreachable)
}

impl ConnectArgs {
    fn talk(&self, transport: impl Transport) -> Result<ExitCode, CliError> {
        let settings = Settings {
            binary: self.binary,
            block_bytes: self.block_bytes as usize,
            commands: self.commands,
            wait: (!self.keep_open).then_some(self.wait),
            count: self.count,
            close: (CloseCode(self.close_code), self.close_reason.clone()),
            backoff: self.reconnect.then(|| {
                let longest = self.reconnect_longest.max(self.reconnect_first);
                Backoff::new(self.reconnect_first, longest, self.reconnect_max)
            }),
            verbose: self.verbose,
        };
        let ended = Session::new(transport, settings)?.run()?;
        if let Some(words) = ended.words() {
            eprintln!("error: {}: {words}", self.url);
        }
        Ok(ExitCode::from(ended.status()))
    }

    /// The server's addresses, in the order in which they are tried; none when its name is looked up over the device.
    fn remotes(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let (host, port) = (self.url.host(), self.url.port());
        if let Some(address) = self.address {
            return Ok(vec![(address, port).into()]);
        }
        if self.device.port.is_some() && (self.device.dhcp || !self.device.dns.is_empty()) {
            return Ok(Vec::new());
        }
        let error = |cause| ConnectError::Resolve { host: host.to_owned(), cause };
        let found: Vec<_> = (host, port).to_socket_addrs().map_err(error)?.collect();
        if self.device.port.is_none() {
            return Ok(found);
        }
        // Over a device only those that one of our own addresses can speak to.
        let ours =
            |remote: &SocketAddr| self.device.ip.iter().any(|cidr| cidr.addr.is_ipv4() == remote.is_ipv4());
        let usable: Vec<_> = found.into_iter().filter(ours).collect();
        if usable.is_empty() { Err(ConnectError::NoFamily { host: host.to_owned() }) } else { Ok(usable) }
    }

    /// Options of a device mean nothing without one.
    fn refuse_device_options(&self) -> Result<(), ConnectError> {
        match self.device.given().next() {
            Some(option) => {
                let (what, mend) = ("a device", "give --port, e.g. --port tap:uns0, or leave it out");
                Err(ConnectError::Misplaced { option, what, mend })
            }
            None => Ok(()),
        }
    }
}

/// `Name: value`, as in HTTP.
fn header(text: &str) -> Result<(String, String), String> {
    let wanted = || "wanted `Name: value`, e.g. `Origin: https://example.org`".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wanted)?;
    if name.is_empty() { Err(wanted()) } else { Ok((name.to_owned(), value.trim().to_owned())) }
}

/// A reason that a close frame has room for.
fn close_reason(text: &str) -> Result<String, String> {
    if text.len() <= REASON_BYTES_MAX {
        return Ok(text.to_owned());
    }
    Err(format!("it has {} bytes, and a close frame holds {REASON_BYTES_MAX}", text.len()))
}

/// A code that may be sent, RFC 6455 section 7.4.
fn close_code(text: &str) -> Result<u16, String> {
    let code = text.parse().map(CloseCode).map_err(|_| "wanted a number".to_owned())?;
    if code.may_be_sent() {
        Ok(code.0)
    } else {
        Err("wanted 1000..=1014 or 3000..=4999, and not 1004..=1006".into())
    }
}
