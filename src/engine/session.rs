//! What the engine keeps of each connection, in a table parallel to the stack's slab.

use super::handler::Cause;
use super::opening::ClientHandshake;
use super::outbound::Outbound;
use super::rates::{Bucket, Terms};
use super::topics::Subscription;
use crate::stack::ConnId;
use crate::time::Instant;
use crate::ws::deflate::{History, Outgoing};
use crate::ws::{CloseCode, Decoder, Role};
use thin_vec::ThinVec;

/// Where a session stands. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Client: TCP's handshake is under way.
    Connecting,
    /// Client: the request is sent, the response is awaited.
    Response,
    /// Server: a request head is awaited.
    Head,
    /// Messages flow both ways.
    Open,
    /// Our close frame is sent, the peer's is awaited.
    CloseSent,
    /// Nothing more to say: flush, FIN, and discard what comes until the peer's FIN.
    Lingering,
}

/// Everything about one connection but what it receives ([`Inbound`]).
pub(super) struct Session<S> {
    pub(super) id: ConnId,
    pub(super) phase: Phase,
    pub(super) role: Role,
    /// Accepted over the limit of connections: its request gets a 503.
    pub(super) over_limit: bool,
    /// It has sent too fast and is not read from for a while.
    pub(super) paused: bool,
    /// It counts among its peer's connections.
    pub(super) counted: bool,
    /// A ping of ours is unanswered: nothing at all came since.
    pub(super) pinged: bool,
    /// Lingering: FIN goes out when everything is flushed (a client lets the server go first, RFC 6455
    /// section 7.1.1).
    pub(super) finish_when_flushed: bool,
    /// Lingering: FIN is out.
    pub(super) finished: bool,
    /// When the last byte came.
    pub(super) received_at: Instant,
    /// When this phase (or, while open, an unanswered ping) times out.
    pub(super) phase_deadline: Instant,
    /// The deadline that the stack knows; at or before the true one.
    pub(super) armed: Instant,
    /// Pings and pongs that came.
    pub(super) control: Bucket,
    /// Its bytes and messages are counted, its age is limited, or its client is behind a proxy.
    pub(super) terms: Option<Box<Terms>>,
    pub(super) outbound: Outbound,
    /// How messages to the peer may be compressed, where that was negotiated.
    pub(super) deflate: Option<Box<Outgoing>>,
    /// Heap counted for what it receives and for what it sends, bytes.
    pub(super) heap_in: u32,
    /// See `heap_in`.
    pub(super) heap_out: u32,
    pub(super) subscriptions: ThinVec<Subscription>,
    /// What our close frame said, and why it was sent.
    pub(super) closing: Option<Box<Closing>>,
    pub(super) user: S,
}

/// Our own end of a closing handshake.
pub(super) struct Closing {
    pub(super) code: CloseCode,
    pub(super) reason: Box<str>,
    pub(super) cause: Cause,
}

impl<S> Session<S> {
    /// Heap that the sending side holds, bytes.
    pub(super) fn heap_out(&self) -> usize {
        let deflate =
            self.deflate.as_deref().map_or(0, |outgoing| size_of::<Outgoing>() + outgoing.heap_bytes());
        self.outbound.heap_bytes() + deflate
    }
}

impl<S: Default> Session<S> {
    pub(super) fn new(id: ConnId, role: Role, phase: Phase, now: Instant, phase_deadline: Instant) -> Self {
        Session {
            id,
            phase,
            role,
            over_limit: false,
            paused: false,
            counted: false,
            pinged: false,
            finish_when_flushed: false,
            finished: false,
            received_at: now,
            phase_deadline,
            armed: Instant::FAR_FUTURE,
            control: Bucket::new(now),
            terms: None,
            outbound: Outbound::default(),
            deflate: None,
            heap_in: 0,
            heap_out: 0,
            subscriptions: ThinVec::new(),
            closing: None,
            user: S::default(),
        }
    }
}

impl<S> Session<S> {
    /// Whether it is open with nothing due and nothing waiting.
    #[inline]
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.phase == Phase::Open && self.outbound.is_quiet() && !self.paused && now < self.armed
    }
}

/// The receiving side of a session; in a table of its own, so that a message lent from it leaves the session free.
#[derive(Default)]
pub(super) enum Inbound {
    /// No connection, or nothing is read from it any more.
    #[default]
    Idle,
    /// Server: what a proxy says of its client, collected here when it comes in pieces.
    Proxy(Vec<u8>),
    /// Server: a request head, collected here when it comes in pieces.
    Head {
        /// What came so far, when it was not whole.
        buffer: Vec<u8>,
        /// Bytes of the last request's body that are still to be skipped.
        body_bytes: usize,
    },
    /// Client: the response to our request.
    Response(Box<ClientHandshake>),
    /// Frames.
    Frames {
        /// Makes messages of them.
        decoder: Decoder,
        /// What compressed messages may refer to, where context takeover was negotiated.
        history: Option<Box<History>>,
    },
}

impl Inbound {
    /// Nothing of a request has come yet.
    pub(super) const AWAITS_HEAD: Inbound = Inbound::Head { buffer: Vec::new(), body_bytes: 0 };

    /// Heap held, bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Inbound::Idle => 0,
            Inbound::Proxy(buffer) => buffer.capacity(),
            Inbound::Head { buffer, .. } => buffer.capacity(),
            Inbound::Response(handshake) => handshake.heap_bytes(),
            Inbound::Frames { decoder, history } => {
                let history = history.as_deref().map_or(0, |h| size_of::<History>() + h.heap_bytes());
                decoder.heap_bytes() + history
            }
        }
    }

    /// Of that, what belongs to something that has begun to arrive, bytes.
    pub(super) fn begun_bytes(&self) -> usize {
        match self {
            Inbound::Frames { decoder, .. } => decoder.heap_bytes(),
            other => other.heap_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_open_connection_stays_small() {
        // docs/api.md states this.
        assert_eq!((size_of::<Option<Session<()>>>(), size_of::<Inbound>()), (104, 88));
    }
}
