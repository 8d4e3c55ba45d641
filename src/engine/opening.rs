//! The opening handshake and plain HTTP, both ends: what is decided from one request or response head.

use super::config::EngineConfig;
use super::guards::{Guard, Origins};
use super::handler::{Connect, Handler, Refusal, Request, Upgrade};
use crate::http::{RequestHead, Routes, write_plain};
use crate::time::{Duration, Instant};
use crate::tls::Agreed;
use crate::ws::deflate::{self, Agreement, DeflateConfig};
use crate::ws::handshake::{
    self, Accepted, ClientRequest, HandshakeError, HeadFieldError, RESPONSE_HEAD_BYTES_MAX, ResponseError,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a server's answers depend on beside the request.
pub(super) struct Site {
    routes: Arc<Routes>,
    origins: Origins,
    guards: Vec<Arc<dyn Guard>>,
    /// Compression to agree to, or to offer.
    pub(super) deflate: Option<DeflateConfig>,
    /// Time since 1970 at an instant of the worker's.
    pub(super) unix: Option<(Instant, Duration)>,
}

/// Who asks, whom, over what, and when.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) tls: Option<&'a Agreed>,
    pub(super) now: Instant,
}

/// What became of a request.
pub(super) enum Answered<S> {
    /// Answered over HTTP; another request may follow, or not.
    Http {
        /// Whether one may.
        keep_alive: bool,
    },
    /// Frames follow; compressed ones, too, where that was agreed on.
    Upgraded(S, Option<Agreement>),
}

impl Site {
    pub(super) fn new(config: &EngineConfig) -> Self {
        Site {
            routes: config.routes.clone(),
            origins: config.origins.clone(),
            guards: config.guards.clone(),
            unix: None,
            deflate: config.deflate,
        }
    }

    /// Appends the answer to a request that came whole.
    pub(super) fn answer<H: Handler>(
        &self,
        handler: &mut H,
        head: &RequestHead<'_, '_>,
        asked: Asked<'_>,
        out: &mut Vec<u8>,
    ) -> Answered<H::Session> {
        if !handshake::wants_websocket(head.headers) || !self.routes.takes_upgrade(head.path) {
            self.routes.respond(head, out);
            return Answered::Http { keep_alive: head.keep_alive };
        }
        let Asked { peer, local, tls, now } = asked;
        match self.upgrade(handler, Request { head, peer, local, tls, claims: None }, now, out) {
            Ok((session, deflate)) => Answered::Upgraded(session, deflate),
            Err(Refusal { status, headers, body }) => {
                write_plain(out, status, &headers, &body, false);
                Answered::Http { keep_alive: false }
            }
        }
    }

    /// Appends the answer to a head that cannot be parsed.
    pub(super) fn answer_error(&self, error: crate::http::HeadError, out: &mut Vec<u8>) {
        self.routes.respond_error(error, out);
    }

    fn upgrade<H: Handler>(
        &self,
        handler: &mut H,
        request: Request<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(H::Session, Option<Agreement>), Refusal> {
        let head = request.head;
        let checked = handshake::check_request(head.method, head.minor_version, head.headers)
            .map_err(|error| Refusal::of_handshake(&error))?;
        if head.body_bytes > 0 {
            // What follows the head must be frames: a body would be taken for them, or they for a body.
            return Err(Refusal::new(400, "an upgrade request must not have a body"));
        }
        let origins = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("Origin"));
        // RFC 6455 section 10.2.
        if !self.origins.allow(origins.map(|header| header.value), head.host) {
            return Err(Refusal::new(403, "this origin may not open a WebSocket here"));
        }
        let unix = self.unix.map(|(at, unix)| unix + (now - at));
        let mut claims = None;
        for guard in &self.guards {
            let seen = Request { claims: claims.as_ref(), ..request };
            claims = guard.check(&seen, unix)?.or(claims);
        }
        let request = Request { claims: claims.as_ref(), ..request };
        let Upgrade { answer, protocol, headers } = handler.on_upgrade(&request);
        let session = answer.map_err(|refusal| Refusal { headers: headers.clone(), ..refusal })?;
        if let Some(chosen) = &protocol
            && !handshake::offered_protocols(head.headers).any(|offered| offered == chosen)
        {
            // RFC 6455 section 4.2.2: the server may only choose what the client offered.
            return Err(Refusal::new(500, "the application chose a subprotocol that was not offered"));
        }
        // The grammar has been checked: there is nothing left that could fail.
        let chosen = self.deflate.and_then(|config| deflate::choose(head.headers, &config).ok().flatten());
        let (agreed, extensions) = chosen.unzip();
        handshake::write_accept(out, checked.key, protocol.as_deref(), extensions.as_deref(), &headers)
            .map_err(|_| Refusal::new(500, "the application's answer cannot be sent"))?;
        Ok((session, agreed))
    }
}

/// Appends the polite refusal of a server that has too much to do.
pub(super) fn answer_busy(out: &mut Vec<u8>) {
    let retry = [("Retry-After".to_owned(), "1".to_owned())];
    write_plain(out, 503, &retry, "503 Service Unavailable: too busy, try again\n", false);
}

/// Appends the answer to a request that came without TLS where it is spoken.
pub(super) fn answer_plain_http(out: &mut Vec<u8>) {
    write_plain(out, 400, &[], "400 Bad Request: this port speaks TLS; use https:// or wss://\n", false);
}

/// Appends the answer to a request whose head did not come in time.
pub(super) fn answer_timeout(out: &mut Vec<u8>) {
    write_plain(out, 408, &[], "408 Request Timeout: the request head did not come in time\n", false);
}

impl Refusal {
    fn of_handshake(error: &HandshakeError) -> Self {
        let mut refusal = Refusal::new(error.status(), &error.to_string());
        if refusal.status == 426 {
            // RFC 6455 section 4.2.2, and RFC 9110 section 15.5.22.
            refusal.headers.push(("Sec-WebSocket-Version".into(), "13".into()));
            refusal.headers.push(("Upgrade".into(), "websocket".into()));
        }
        if refusal.status == 405 {
            refusal.headers.push(("Allow".into(), "GET".into()));
        }
        refusal
    }
}

/// Our own request, and the response as far as it came.
pub(super) struct ClientHandshake {
    pub(super) connect: Connect,
    nonce: [u8; 16],
    deflate: Option<DeflateConfig>,
    buffer: Vec<u8>,
}

/// What the response so far says.
pub(super) enum Response {
    /// More bytes are needed.
    Partial,
    /// The server agrees.
    Accepted {
        /// How many of the last bytes belong to the response; frames follow.
        used: usize,
        /// The subprotocol it chose.
        protocol: Option<String>,
        /// How messages may be compressed.
        deflate: Option<Agreement>,
    },
    /// It does not.
    Refused(ResponseError),
}

impl ClientHandshake {
    pub(super) fn new(connect: Connect, nonce: [u8; 16], deflate: Option<DeflateConfig>) -> Self {
        ClientHandshake { connect, nonce, deflate, buffer: Vec::new() }
    }

    /// Appends the request.
    ///
    /// # Errors
    /// What of it cannot be sent; nothing was appended.
    pub(super) fn write_request(&self, out: &mut Vec<u8>) -> Result<(), HeadFieldError> {
        self.request().write(out)
    }

    /// Takes more bytes of the response.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Response {
        let before = self.buffer.len();
        let room = RESPONSE_HEAD_BYTES_MAX.saturating_sub(before).min(bytes.len());
        let tail = before.saturating_sub(2);
        self.buffer.extend_from_slice(&bytes[..room]);
        // Looked at once at first and then only when it may be whole: not again for each byte that trickles in.
        let full = self.buffer.len() >= RESPONSE_HEAD_BYTES_MAX;
        if before > 0 && !full && !ends_head(&self.buffer[tail..]) {
            return Response::Partial;
        }
        match self.request().check_response(&self.buffer) {
            Ok(Some(Accepted { consumed, protocol, deflate })) => Response::Accepted {
                used: consumed.saturating_sub(before),
                protocol: protocol.map(str::to_owned),
                deflate,
            },
            Ok(None) => Response::Partial,
            Err(error) => Response::Refused(error),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.buffer.capacity()
    }

    fn request(&self) -> ClientRequest<'_> {
        ClientRequest {
            host: &self.connect.host,
            target: &self.connect.target,
            nonce: self.nonce,
            protocols: &self.connect.protocols,
            headers: &self.connect.headers,
            deflate: self.deflate.as_ref(),
        }
    }
}

/// Whether a blank line ends a head somewhere in these bytes.
pub(super) fn ends_head(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}
