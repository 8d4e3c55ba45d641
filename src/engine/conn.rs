//! What a callback can do: with its connection, and with the worker.

use super::handler::{Cause, Connect, Handler};
use super::local::Local;
use super::topics::SubscribeError;
use crate::stack::{ConnId, SendHalf, Stack};
use crate::time::Instant;
use crate::tls::Agreed;
use crate::ws::{CloseCode, Message, Role};
use std::fmt;
use std::net::SocketAddr;

/// Names a connection from outside its callbacks; never reused for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnRef {
    /// The worker that owns it.
    pub worker: usize,
    /// Its name there.
    pub id: ConnId,
}

/// Whether a message is compressed, where that was negotiated; one that would not become shorter never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// From [`DeflateConfig::threshold_bytes`](crate::ws::deflate::DeflateConfig::threshold_bytes) on.
    #[default]
    Auto,
    /// However short it is.
    Yes,
    /// Not at all: it does not shrink, or it holds a secret beside what a stranger can choose, whose length would
    /// tell of it.
    No,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// All of it is in the send ring.
    Sent,
    /// Accepted; some of it waits for room. [`Handler::on_drain`] tells when all of it has gone.
    Queued,
    /// Not accepted: too much is waiting already, or the worker is short of memory. Counted.
    Dropped,
    /// Not accepted: the connection is closed or closing.
    Closed,
}

/// What became of a published message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishOutcome {
    /// Subscribers on this worker in whose send ring all of it is.
    pub sent: usize,
    /// Subscribers on this worker for whom some of it waits for room.
    pub queued: usize,
    /// Subscribers on this worker that did not get it: too much was waiting for them.
    pub dropped: usize,
    /// Other workers that were given it for their own subscribers.
    pub forwarded: usize,
    /// Other workers whose mailbox was full: their subscribers do not get it.
    pub not_forwarded: usize,
}

/// A connection, lent to a callback.
///
/// What it sends goes straight into the connection's send ring and leaves with the burst. The rule when the ring
/// is full: a message is accepted, whatever its size, as long as no more than
/// [`Limits::overflow_bytes_max`](super::Limits::overflow_bytes_max) bytes wait already.
pub struct Conn<'a, H: Handler> {
    pub(super) id: ConnId,
    pub(super) half: SendHalf<'a>,
    pub(super) local: &'a mut Local<H::Session>,
}

impl<H: Handler> Conn<'_, H> {
    /// Sends a message.
    pub fn send(&mut self, message: Message<'_>) -> SendOutcome {
        self.send_with(message, Compress::Auto)
    }

    /// Sends a message, compressed or not.
    pub fn send_with(&mut self, message: Message<'_>, compress: Compress) -> SendOutcome {
        self.local.send(self.id.index, &mut self.half, message, compress)
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) -> SendOutcome {
        self.send(Message::Text(text))
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, bytes: &[u8]) -> SendOutcome {
        self.send(Message::Binary(bytes))
    }

    /// Sends one part of a message, the last one with `fin`; the first part's kind is the message's. A text may be
    /// cut at any character. A part that is [`SendOutcome::Dropped`] was not taken, and neither counted nor a reason
    /// to close: send the same again from [`Handler::on_drain`]. Whole messages sent meanwhile follow the last part. Parts
    /// are never compressed.
    pub fn send_fragment(&mut self, part: Message<'_>, fin: bool) -> SendOutcome {
        self.local.send_fragment(self.id.index, &mut self.half, part, fin)
    }

    /// Sends a ping with up to 125 bytes of payload (the rest is cut off); the answer comes to
    /// [`Handler::on_pong`].
    pub fn ping(&mut self, payload: &[u8]) -> SendOutcome {
        self.local.ping(self.id.index, &mut self.half, payload)
    }

    /// Begins the closing handshake: what was accepted before is still sent, nothing after. Messages that still
    /// come are discarded. `reason` is cut to 123 bytes. [`CloseCode::NO_STATUS`] sends a close frame without a
    /// code; any other code that may not be on the wire becomes [`CloseCode::INTERNAL`].
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.local.start_close(self.id.index, &mut self.half, code, reason, Cause::Local);
    }

    /// Subscribes to a topic; doing it twice changes nothing.
    ///
    /// # Errors
    /// A limit, or the connection is closed.
    pub fn subscribe(&mut self, topic: &str) -> Result<(), SubscribeError> {
        self.local.subscribe(self.id.index, topic)
    }

    /// Ends a subscription; returns whether there was one.
    pub fn unsubscribe(&mut self, topic: &str) -> bool {
        self.local.unsubscribe(self.id.index, topic)
    }

    /// Sends a message to all subscribers of a topic, on all workers; to this connection, too, if it is one.
    pub fn publish(&mut self, topic: &str, message: Message<'_>) -> PublishOutcome {
        self.local.publish(&mut self.half, topic, message, None)
    }

    /// Sends a message to all subscribers of a topic, on all workers, but not to this connection.
    pub fn publish_to_others(&mut self, topic: &str, message: Message<'_>) -> PublishOutcome {
        self.local.publish(&mut self.half, topic, message, Some(self.id.index))
    }

    /// Bytes that wait because the send ring is full; 0 means that [`Conn::send`] goes straight into the ring.
    pub fn buffered(&self) -> usize {
        match self.local.sessions.get(self.id.index as usize) {
            Some(Some(session)) => session.outbound.waiting_bytes() + session.outbound.held_bytes(),
            _ => 0,
        }
    }

    /// Bytes in the send ring: on their way, and not yet acknowledged by the peer's TCP.
    pub fn unacknowledged(&self) -> usize {
        self.half.queued_bytes()
    }

    /// The peer's address: the client's, when a proxy that is listed told of it.
    pub fn peer(&self) -> SocketAddr {
        self.local.told_peer(self.id.index).unwrap_or_else(|| self.half.peer())
    }

    /// Our address.
    pub fn local(&self) -> SocketAddr {
        self.half.local()
    }

    /// What TLS was agreed on; `None` without TLS.
    pub fn tls(&mut self) -> Option<&Agreed> {
        self.local.secure(self.id.index)?.agreed()
    }

    /// Whether messages may be compressed: both ends agreed to permessage-deflate (RFC 7692).
    pub fn is_compressed(&self) -> bool {
        matches!(self.local.sessions.get(self.id.index as usize), Some(Some(session)) if session.deflate.is_some())
    }

    /// Which end of the connection we are.
    pub fn role(&self) -> Role {
        match self.local.sessions.get(self.id.index as usize) {
            Some(Some(session)) => session.role,
            _ => Role::Server,
        }
    }

    /// Names this connection for a [`Handle`](super::Handle).
    pub fn id(&self) -> ConnRef {
        ConnRef { worker: self.local.worker, id: self.id }
    }

    /// The time of this burst.
    pub fn now(&self) -> Instant {
        self.local.now
    }

    /// The application's part of the connection.
    pub fn session(&mut self) -> &mut H::Session {
        // The worker lends a `Conn` only for a live session and removes it only after the callback.
        let session = self.local.sessions[self.id.index as usize].as_mut();
        &mut session.expect("a lent connection has a session").user
    }
}

impl<H: Handler> fmt::Debug for Conn<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("id", &self.id()).field("peer", &self.peer()).finish()
    }
}

/// A worker, lent to a callback that is not about one connection.
pub struct Context<'a, H: Handler> {
    pub(super) stack: &'a mut Stack,
    pub(super) local: &'a mut Local<H::Session>,
}

impl<H: Handler> Context<'_, H> {
    /// The worker's index.
    pub fn worker(&self) -> usize {
        self.local.worker
    }

    /// The time of this burst.
    pub fn now(&self) -> Instant {
        self.local.now
    }

    /// WebSockets that are open on this worker.
    pub fn open(&self) -> usize {
        self.local.stats.open as usize
    }

    /// Sends a message to one of this worker's connections.
    pub fn send(&mut self, conn: ConnRef, message: Message<'_>) -> SendOutcome {
        if conn.worker != self.local.worker || self.local.session(conn.id).is_none() {
            return SendOutcome::Closed;
        }
        match self.stack.sender(conn.id) {
            Some(mut half) => self.local.send(conn.id.index, &mut half, message, Compress::Auto),
            None => SendOutcome::Closed,
        }
    }

    /// Pings one of this worker's connections, like [`Conn::ping`].
    pub fn ping(&mut self, conn: ConnRef, payload: &[u8]) -> SendOutcome {
        if conn.worker != self.local.worker || self.local.session(conn.id).is_none() {
            return SendOutcome::Closed;
        }
        match self.stack.sender(conn.id) {
            Some(mut half) => self.local.ping(conn.id.index, &mut half, payload),
            None => SendOutcome::Closed,
        }
    }

    /// Sends a message to all subscribers of a topic, on all workers.
    pub fn publish(&mut self, topic: &str, message: Message<'_>) -> PublishOutcome {
        self.local.publish(self.stack, topic, message, None)
    }

    /// Closes one of this worker's connections, like [`Conn::close`]; returns whether it was open.
    pub fn close(&mut self, conn: ConnRef, code: CloseCode, reason: &str) -> bool {
        if conn.worker != self.local.worker || self.local.session(conn.id).is_none() {
            return false;
        }
        self.stack.sender(conn.id).is_some_and(|mut half| {
            self.local.start_close(conn.id.index, &mut half, code, reason, Cause::Local)
        })
    }

    /// Opens a connection on this worker. It fails, if it does, through [`Handler::on_connect_failed`].
    pub fn connect(&mut self, connect: Connect) {
        self.local.connects.push_back(connect);
    }
}
