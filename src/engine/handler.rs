//! What an application implements, and what it is told.

use super::backoff::Backoff;
use super::conn::{Conn, Context};
use super::guards::Claims;
use super::lookups::ByName;
use crate::http::RequestHead;
use crate::stack::{CloseCause, ConnectError, LookupError};
use crate::tls::{Agreed, ClientTls, TlsError, Violation};
use crate::ws::handshake::{HeadFieldError, ResponseError};
use crate::ws::{CloseCode, Message, ProtocolError, handshake};
use std::net::{IpAddr, SocketAddr};

/// An application: one value per worker, made on the worker's own thread and called by nobody else, so that it
/// needs neither `Send` nor locks. A callback runs to completion before the next frame is looked at: work that
/// takes long belongs on another thread, which answers through a [`Handle`](super::Handle).
pub trait Handler: Sized {
    /// What the application keeps of each connection.
    type Session: Default;

    /// The worker is up. A client opens its first connections here.
    fn on_start(&mut self, context: &mut Context<'_, Self>) {
        let _ = context;
    }

    /// Somebody asks for a WebSocket. The default accepts with a default session and no subprotocol.
    fn on_upgrade(&mut self, request: &Request<'_>) -> Upgrade<Self::Session> {
        let _ = request;
        Upgrade::accept(Self::Session::default())
    }

    /// A server agreed to the WebSocket that we asked for: the connection's session. `protocol` is the subprotocol it chose.
    fn on_connect(&mut self, connect: &Connect, protocol: Option<&str>) -> Self::Session {
        let _ = (connect, protocol);
        Self::Session::default()
    }

    /// The opening handshake is done. What is sent here is the first that the peer sees.
    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        let _ = conn;
    }

    /// A whole message. It is lent: from the receive ring itself where it lies there in one piece.
    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>);

    /// A pong; an answer to [`Conn::ping`] or unsolicited.
    fn on_pong(&mut self, conn: &mut Conn<'_, Self>, payload: &[u8]) {
        let _ = (conn, payload);
    }

    /// Everything that waited for room has gone into the send ring: go on sending.
    fn on_drain(&mut self, conn: &mut Conn<'_, Self>) {
        let _ = conn;
    }

    /// The connection is over; called exactly once for each that was open. The session is dropped after it.
    fn on_close(&mut self, conn: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        let _ = (conn, closed);
    }

    /// A connection that we asked for did not come to be.
    fn on_connect_failed(
        &mut self,
        context: &mut Context<'_, Self>,
        connect: &Connect,
        cause: ConnectFailure,
    ) {
        let _ = (context, connect, cause);
    }

    /// Called every [`Deadlines::tick`](super::Deadlines::tick).
    fn on_tick(&mut self, context: &mut Context<'_, Self>) {
        let _ = context;
    }
}

/// A request for a WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub(super) head: &'a RequestHead<'a, 'a>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) claims: Option<&'a Claims>,
    pub(super) tls: Option<&'a Agreed>,
}

impl<'a> Request<'a> {
    /// The path, without the query.
    pub fn path(&self) -> &'a str {
        self.head.path
    }

    /// What follows the `?`; empty when there is none. Not decoded.
    pub fn query(&self) -> &'a str {
        self.head.query
    }

    /// The first header of that name, compared without case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers, as they came.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.head.headers.iter().map(|header| (header.name, header.value))
    }

    /// The subprotocols that the client offers, the one it likes best first.
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        handshake::offered_protocols(self.head.headers)
    }

    /// The first cookie of that name, RFC 6265 section 5.4. Its value is as the client sent it.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.cookies().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All cookies, name and value, in the order in which they came. What is no `name=value` is left out.
    pub fn cookies(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let headers = self.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Cookie"));
        headers
            .filter_map(|(_, value)| str::from_utf8(value).ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.trim_ascii(), value.trim_ascii()))
    }

    /// The value of a query parameter, not decoded; `None` when it is there twice, as whoever else reads the query
    /// could take the other one.
    pub fn query_value(&self, name: &str) -> Option<&'a str> {
        let mut found = self
            .query()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value);
        found.next().filter(|_| found.next().is_none())
    }

    /// The token of `Authorization: Bearer TOKEN` (RFC 6750 section 2.1); `None` without one, or with two headers.
    pub fn bearer_token(&self) -> Option<&'a str> {
        let mut values = self.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Authorization"));
        let (_, value) = values.next().filter(|_| values.next().is_none())?;
        let (scheme, token) = str::from_utf8(value).ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_ascii())
    }

    /// What a guard found out about the client: the claims of its token.
    pub fn claims(&self) -> Option<&'a Claims> {
        self.claims
    }

    /// Who asks: the client, when a proxy that is listed told of it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Our address that was asked.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What TLS was agreed on, with the certificate that the client showed, if it did; `None` without TLS.
    pub fn tls(&self) -> Option<&'a Agreed> {
        self.tls
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug)]
pub struct Upgrade<S> {
    pub(super) answer: Result<S, Refusal>,
    pub(super) protocol: Option<String>,
    pub(super) headers: Vec<(String, String)>,
}

/// What a refused client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Refusal {
    /// An HTTP status (400..=599, else it is 403) and, in one line, why.
    pub fn new(status: u16, what: &str) -> Self {
        let status = if (400..=599).contains(&status) { status } else { 403 };
        Refusal { status, headers: Vec::new(), body: format!("{status}: {what}\n") }
    }

    /// Adds a header to the response.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl<S> From<Refusal> for Upgrade<S> {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, headers, body } = refusal;
        Upgrade { answer: Err(Refusal { status, headers: Vec::new(), body }), protocol: None, headers }
    }
}

impl<S> Upgrade<S> {
    /// Yes: the connection's session is `session`.
    pub fn accept(session: S) -> Self {
        Upgrade { answer: Ok(session), protocol: None, headers: Vec::new() }
    }

    /// No: answered with this HTTP status (400..=599) and plain-text body.
    pub fn refuse(status: u16, body: impl Into<String>) -> Self {
        let status = if (400..=599).contains(&status) { status } else { 403 };
        Upgrade {
            answer: Err(Refusal { status, headers: Vec::new(), body: body.into() }),
            protocol: None,
            headers: Vec::new(),
        }
    }

    /// Chooses a subprotocol; it must be one of [`Request::protocols`], or the request is answered with 500.
    pub fn protocol(mut self, name: impl Into<String>) -> Self {
        self.protocol = Some(name.into());
        self
    }

    /// Adds a header to the response. One that cannot stand in a response makes the request fail with 500.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A WebSocket to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Where the server is. With a `name` the port alone counts, and the address is what was found.
    pub remote: SocketAddr,
    /// The server's name, which is looked up before each attempt ([`Connect::by_name`]); `None` where `remote` is its address.
    pub name: Option<ByName>,
    /// Which address of ours it comes from; `None` for the one on the way there.
    pub source: Option<IpAddr>,
    /// The `Host` header: host, with the port when it is not 80.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Subprotocols to offer, the best liked first.
    pub protocols: Vec<String>,
    /// More headers, as given.
    pub headers: Vec<(String, String)>,
    /// With TLS (`wss://`), and how.
    pub tls: Option<ConnectTls>,
    /// The policy by which it is opened again when it ended otherwise than by our own close, or did not come to be.
    pub reconnect: Option<Backoff>,
    /// Whatever tells the application what this connection is for; see [`Handler::on_connect`].
    pub token: u64,
}

impl Connect {
    /// A WebSocket at `ws://remote` + `target`.
    pub fn new(remote: SocketAddr, target: impl Into<String>) -> Self {
        let host = if remote.port() == 80 {
            match remote {
                SocketAddr::V4(v4) => v4.ip().to_string(),
                SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
            }
        } else {
            remote.to_string()
        };
        let target = target.into();
        let (protocols, headers) = (Vec::new(), Vec::new());
        Connect {
            remote,
            name: None,
            source: None,
            host,
            target,
            protocols,
            headers,
            tls: None,
            reconnect: None,
            token: 0,
        }
    }
}

/// The TLS of a connection to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTls {
    /// Whom to believe, and who we are.
    pub config: ClientTls,
    /// The server's name, or its IP address: what its certificate must be good for.
    pub server_name: String,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed<'a> {
    /// What the peer's close frame said when the peer closed, what ours said when we did;
    /// [`CloseCode::ABNORMAL`] when TCP ended before anybody closed.
    pub code: CloseCode,
    /// The reason that goes with it.
    pub reason: &'a str,
    /// Close frames went both ways.
    pub clean: bool,
    /// Why.
    pub cause: Cause,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The peer sent a close frame.
    Peer,
    /// [`Conn::close`] or its like was called.
    Local,
    /// The peer broke the protocol or a limit on messages.
    Protocol(ProtocolError),
    /// The peer did not read what it was sent, and [`SlowReader::Close`](super::SlowReader::Close) is in force.
    SlowReader,
    /// The worker's `memory_bytes_max` was reached.
    MemoryShort,
    /// Nothing came for [`Deadlines::idle`](super::Deadlines::idle).
    Idle,
    /// It was open for [`Deadlines::lifetime`](super::Deadlines::lifetime).
    Lifetime,
    /// The client sent faster than [`RateLimits`](super::RateLimits) allow.
    RateLimit,
    /// Nothing came within [`Deadlines::pong`](super::Deadlines::pong) of our ping.
    PongMissing,
    /// The worker is drained.
    Drain,
    /// The peer's FIN came without a close frame.
    PeerFinished,
    /// With TLS: the peer's FIN came without a close frame, and without the close_notify that only the peer can send.
    /// Somebody in between may have cut the connection (RFC 8446 section 6.1).
    Truncated,
    /// The peer broke TLS, or ended it with an alert.
    Tls(Violation),
    /// TCP ended without a close frame.
    Transport(CloseCause),
}

/// Why a connection that we asked for did not come to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// What was asked for cannot be put into a request.
    #[error(transparent)]
    Request(#[from] HeadFieldError),
    /// The server's name has no address.
    #[error("cannot resolve {name}: {cause}")]
    Lookup {
        /// The name.
        name: String,
        /// What is wrong with it.
        cause: LookupError,
    },
    /// TCP could not even begin.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TCP ended before the server agreed.
    #[error("the connection ended before the server agreed: {0:?}")]
    Transport(CloseCause),
    /// The server's answer is no upgrade.
    #[error(transparent)]
    Refused(#[from] ResponseError),
    /// No answer within [`Deadlines::handshake`](super::Deadlines::handshake).
    #[error("no answer in time (`websocket.handshake_timeout_ms`)")]
    NoAnswer,
    /// This worker is drained.
    #[error("this worker is shutting down")]
    Drain,
}

impl ConnectFailure {
    /// Whether it says something about this address of the server's: another one may do better.
    pub fn is_of_addr(&self) -> bool {
        use ConnectFailure::{Connect, NoAnswer, Transport};
        matches!(self, Connect(_) | Transport(_) | NoAnswer)
    }
}
