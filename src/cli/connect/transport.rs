//! What carries a connection, as the tool sees it.

use crate::engine::{ConnectFailure, SendOutcome};
use crate::time::Duration;
use crate::tls::ClientTls;
use crate::ws::deflate::DeflateConfig;
use crate::ws::handshake::{ClientRequest, ResponseError};
use crate::ws::{CloseCode, Message, WsUrl};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// Where to, and what to say there.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: WsUrl,
    /// Its addresses, tried in turn; none when its name is looked up over the device.
    pub(super) remotes: Vec<SocketAddr>,
    pub(super) protocols: Vec<String>,
    pub(super) headers: Vec<(String, String)>,
    /// Whom to believe, where the URL says `wss://`.
    pub(super) tls: Option<ClientTls>,
    /// Compression to offer.
    pub(super) deflate: Option<DeflateConfig>,
    /// How long opening may take.
    pub(super) timeout: Duration,
    /// Silence after which a ping is sent, and after twice which the connection is given up.
    pub(super) ping: Option<Duration>,
}

impl Target {
    /// The opening handshake's request.
    pub(super) fn request(&self, nonce: [u8; 16]) -> ClientRequest<'_> {
        ClientRequest {
            host: self.url.authority(),
            target: self.url.target(),
            nonce,
            protocols: &self.protocols,
            headers: &self.headers,
            deflate: self.deflate.as_ref(),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The WebSocket is open.
    Opened {
        peer: SocketAddr,
        /// The subprotocol that the server chose.
        protocol: Option<String>,
        /// Version and cipher suite.
        tls: Option<String>,
        /// Whether messages may be compressed.
        compressed: bool,
    },
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    /// Everything that waited for room is on its way.
    Drained,
    /// It did not come to be.
    Failed(Ended),
    /// It is over.
    Closed(Ended),
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Close frames went both ways, and the peer's says nothing of an error.
    Clean { code: CloseCode, reason: String },
    /// The peer closed with a code that means an error.
    Error { code: CloseCode, reason: String },
    /// No connection: refused, unreachable, too slow.
    NoConnection(String),
    /// TLS failed.
    Tls(String),
    /// The server's answer is no WebSocket.
    Refused(String),
    /// It ended without a close frame.
    Broke(String),
}

impl Ended {
    /// From the peer's close frame, or ours.
    pub(super) fn closed(code: CloseCode, reason: &str) -> Self {
        let reason = reason.to_owned();
        match code {
            CloseCode::NORMAL | CloseCode::GOING_AWAY | CloseCode::NO_STATUS => Ended::Clean { code, reason },
            // Codes for applications and libraries (RFC 6455 section 7.4.2) are theirs to judge.
            CloseCode(3000..=4999) => Ended::Clean { code, reason },
            code => Ended::Error { code, reason },
        }
    }

    pub(super) fn failed(cause: &ConnectFailure) -> Self {
        let words = cause.to_string();
        match cause {
            ConnectFailure::Tls(_) => Ended::Tls(words),
            ConnectFailure::Refused(error) => Ended::refused(error),
            _ => Ended::NoConnection(words),
        }
    }

    pub(super) fn refused(error: &ResponseError) -> Self {
        Ended::Refused(error.to_string())
    }

    /// The exit status of the process.
    pub(super) fn status(&self) -> u8 {
        match self {
            Ended::Clean { .. } => 0,
            Ended::NoConnection(_) => 3,
            Ended::Tls(_) => 4,
            Ended::Refused(_) => 5,
            Ended::Error { .. } => 6,
            Ended::Broke(_) => 7,
        }
    }

    /// What went wrong, if anything did.
    pub(super) fn words(&self) -> Option<String> {
        match self {
            Ended::Clean { .. } => None,
            Ended::Error { code, reason } => Some(format!("the server closed with {} {reason:?}", code.0)),
            Ended::NoConnection(words) => Some(format!("no connection: {words}")),
            Ended::Tls(words) => Some(words.clone()),
            Ended::Refused(words) => Some(format!("no WebSocket: {words}")),
            Ended::Broke(words) => Some(format!("the connection broke: {words}")),
        }
    }
}

/// One connection at a time.
pub(super) trait Transport {
    /// Begins to open the connection; [`Event::Opened`] or [`Event::Failed`] follows.
    fn open(&mut self);

    /// Waits until something happens on the connection or on `also`, for `at_most`, and does what is due. Returns whether
    /// `also` can be read.
    fn turn(&mut self, also: Option<BorrowedFd<'_>>, at_most: Duration) -> bool;

    /// The next thing that happened.
    fn next_event(&mut self) -> Option<Event>;

    /// Sends a message. What is [`SendOutcome::Queued`] is accepted, but the next is better kept until
    /// [`Event::Drained`].
    fn send(&mut self, message: Message<'_>) -> SendOutcome;

    /// Sends a ping.
    fn ping(&mut self, payload: &[u8]);

    /// Begins to close; [`Event::Closed`] follows.
    fn close(&mut self, code: CloseCode, reason: &str);

    /// Lets what is under way come to its end: the last bytes, FIN. Nothing else is asked of it any more.
    fn finish(&mut self);
}
