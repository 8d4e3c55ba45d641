//! Everything of one worker that callbacks may touch, the connection's own bytes and send ring apart.

use super::compression::Broadcast;
use super::config::{Deadlines, EngineConfig, Limits, SlowReader};
use super::conn::{Compress, PublishOutcome, SendOutcome};
use super::handler::{Cause, Connect};
use super::lookups::Lookups;
use super::mailbox::{Command, Crew, Mailbox, SharedMessage};
use super::outbound::OutFrame;
use super::peers::Peers;
use super::retry::Retries;
use super::session::{Closing, Phase, Session};
use super::stats::WorkerStats;
use super::topics::{SubscribeError, Topics};
use crate::stack::{ConnId, SendHalf, Stack};
use crate::time::Instant;
use crate::ws::deflate::Deflater;
use crate::ws::frame::{CONTROL_BYTES_MAX, Opcode};
use crate::ws::{self, Close, CloseCode, Message, REASON_BYTES_MAX, Role};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;
use thin_vec::ThinVec;

/// The send rings of a worker's connections: the whole stack, or what is left of it while one connection's
/// received bytes are lent.
pub(super) trait Senders {
    /// The sending half of a live connection.
    fn sender(&mut self, id: ConnId) -> Option<SendHalf<'_>>;
}

impl Senders for Stack {
    fn sender(&mut self, id: ConnId) -> Option<SendHalf<'_>> {
        Stack::sender(self, id)
    }
}

impl Senders for SendHalf<'_> {
    fn sender(&mut self, id: ConnId) -> Option<SendHalf<'_>> {
        self.other(id)
    }
}

/// See the module.
pub(super) struct Local<S> {
    pub(super) now: Instant,
    pub(super) worker: usize,
    pub(super) limits: Limits,
    /// Those of messages, for all decoders.
    pub(super) message_limits: Arc<ws::Limits>,
    pub(super) deadlines: Deadlines,
    slow_reader: SlowReader,
    /// By [`ConnId::index`].
    pub(super) sessions: Vec<Option<Session<S>>>,
    topics: Topics,
    /// Compresses what is sent, where that is configured; not here while it does.
    pub(super) deflater: Option<Box<Deflater>>,
    /// Messages of this many bytes are compressed where that was negotiated; `usize::MAX` when it never is.
    deflate_from: usize,
    pub(super) crew: Arc<Crew>,
    pub(super) rng: ChaCha20Rng,
    pub(super) stats: WorkerStats,
    /// Connections whose state a callback of another one changed: the worker looks at them in this burst.
    pub(super) attention: Vec<ConnId>,
    /// Connections to open after the callback.
    pub(super) connects: VecDeque<Connect>,
    /// Connections that wait for the address of a name.
    pub(super) lookups: Lookups,
    /// Connections that are opened again when they end.
    pub(super) retries: Retries,
    pub(super) draining: bool,
    /// Shared with the other workers.
    pub(super) peers: Arc<Peers>,
}

impl<S> Local<S> {
    pub(super) fn new(
        config: &EngineConfig,
        worker: usize,
        crew: Arc<Crew>,
        peers: Arc<Peers>,
        secret: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(secret);
        let mut topics_key = [0; 16];
        rng.fill_bytes(&mut topics_key);
        Local {
            now,
            worker,
            limits: config.limits,
            message_limits: config.limits.message.into(),
            deadlines: config.deadlines,
            slow_reader: config.slow_reader,
            sessions: Vec::new(),
            topics: Topics::new(config.limits.topics_max, topics_key),
            deflater: config.deflate.map(|deflate| Box::new(Deflater::new(&deflate))),
            deflate_from: config.deflate.map_or(usize::MAX, |deflate| deflate.threshold_bytes),
            crew,
            rng,
            stats: WorkerStats::default(),
            attention: Vec::new(),
            connects: VecDeque::new(),
            lookups: Lookups::default(),
            retries: Retries::default(),
            draining: false,
            peers,
        }
    }

    /// This worker's own mailbox.
    pub(super) fn mailbox(&self) -> Option<&Mailbox> {
        self.crew.mailbox(self.worker)
    }

    /// The session in a slot.
    #[inline]
    pub(super) fn at(&mut self, index: u32) -> Option<&mut Session<S>> {
        self.sessions.get_mut(index as usize)?.as_mut()
    }

    /// The session of exactly this connection.
    #[inline]
    pub(super) fn session(&mut self, id: ConnId) -> Option<&mut Session<S>> {
        self.at(id.index).filter(|session| session.id == id)
    }

    /// Whether the session may be read from. A server does not read from a peer that does not read: TCP's window
    /// closes instead. A client reads always, or two ends could wait for each other for ever; and what comes after our
    /// close frame is discarded, so it need not wait either.
    pub(super) fn may_read(&self, index: u32) -> bool {
        match self.sessions.get(index as usize) {
            Some(Some(session)) => {
                session.outbound.waiting_bytes() <= self.limits.overflow_bytes_high_water && !session.paused
                    || session.role == Role::Client
                    || session.phase > Phase::Open
            }
            _ => false,
        }
    }

    /// Sends a whole message to an open connection.
    pub(super) fn send(
        &mut self,
        index: u32,
        half: &mut SendHalf<'_>,
        message: Message<'_>,
        compress: Compress,
    ) -> SendOutcome {
        let (opcode, payload) = parts(message);
        let Local { sessions, rng, stats, .. } = self;
        let Some(Some(session)) = sessions.get_mut(index as usize) else { return SendOutcome::Closed };
        if session.phase != Phase::Open {
            return SendOutcome::Closed;
        }
        let mask = mask_for(session.role, rng);
        if payload.len() >= self.deflate_from || compress == Compress::Yes {
            return self.send_deflated(index, half, message, mask, compress);
        }
        let frame = OutFrame::new(opcode, true, payload, mask);
        if push_at_once(session, stats, half, &frame) {
            return SendOutcome::Sent;
        }
        self.queue_message(index, half, &frame)
    }

    /// Sends a part of a message, the last one with `fin`.
    pub(super) fn send_fragment(
        &mut self,
        index: u32,
        half: &mut SendHalf<'_>,
        part: Message<'_>,
        fin: bool,
    ) -> SendOutcome {
        let Some(mask) = self.mask_if_open(index) else { return SendOutcome::Closed };
        let max = self.limits.overflow_bytes_max;
        let Some(session) = self.at(index) else { return SendOutcome::Closed };
        if session.outbound.waiting_bytes() > max {
            return SendOutcome::Dropped;
        }
        let (kind, payload) = parts(part);
        let opcode = if session.outbound.mid_message() { Opcode::Continuation } else { kind };
        let frame = OutFrame::new(opcode, fin, payload, mask);
        // For the push itself the message is not under way: this frame must not be held back.
        session.outbound.set_mid_message(false);
        let outcome = self.push_message(index, half, &frame);
        let taken = matches!(outcome, SendOutcome::Sent | SendOutcome::Queued);
        let Some(session) = self.at(index) else { return outcome };
        session.outbound.set_mid_message(if taken { !fin } else { opcode == Opcode::Continuation });
        if taken && fin && session.outbound.held_bytes() > 0 {
            session.outbound.release_held();
            let id = session.id;
            self.attention.push(id);
        }
        self.account_out(index);
        outcome
    }

    /// Sends a ping. It may be dropped like a message; it is not counted as one.
    pub(super) fn ping(&mut self, index: u32, half: &mut SendHalf<'_>, payload: &[u8]) -> SendOutcome {
        let Some(mask) = self.mask_if_open(index) else { return SendOutcome::Closed };
        let max = self.limits.overflow_bytes_max;
        let Some(session) = self.at(index) else { return SendOutcome::Closed };
        if session.outbound.waiting_bytes() > max {
            return SendOutcome::Dropped;
        }
        let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
        let sent = session.outbound.push(half, &OutFrame::new(Opcode::Ping, true, payload, mask));
        self.account_out(index);
        if sent { SendOutcome::Sent } else { SendOutcome::Queued }
    }

    /// Answers a ping. Never dropped: at most two pongs wait, and a peer that does not read is not read from.
    pub(super) fn pong(&mut self, index: u32, half: &mut SendHalf<'_>, payload: &[u8]) {
        let Some(mask) = self.mask_if_open(index) else { return };
        if let Some(session) = self.at(index) {
            session.outbound.push_pong(half, payload, mask);
            self.account_out(index);
        }
    }

    /// Begins the closing handshake; `false` when the connection is not open. The close frame is never dropped.
    pub(super) fn start_close(
        &mut self,
        index: u32,
        half: &mut SendHalf<'_>,
        code: CloseCode,
        reason: &str,
        cause: Cause,
    ) -> bool {
        let code =
            if code.may_be_sent() || code == CloseCode::NO_STATUS { code } else { CloseCode::INTERNAL };
        // As much as the close frame says.
        let reason = match code {
            CloseCode::NO_STATUS => "",
            _ => &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)],
        };
        if !self.push_close(index, half, code, reason) {
            return false;
        }
        let deadline = self.now + self.deadlines.close;
        let Some(session) = self.at(index) else { return false };
        session.phase = Phase::CloseSent;
        session.phase_deadline = deadline;
        session.closing = Some(Box::new(Closing { code, reason: reason.into(), cause }));
        let id = session.id;
        self.attention.push(id);
        true
    }

    /// Queues a close frame on an open connection; what was held back for later is dropped.
    pub(super) fn push_close(
        &mut self,
        index: u32,
        half: &mut SendHalf<'_>,
        code: CloseCode,
        reason: &str,
    ) -> bool {
        let Some(mask) = self.mask_if_open(index) else { return false };
        let mut payload = [0; CONTROL_BYTES_MAX];
        let len = Close { code, reason }.encode(&mut payload);
        let Some(session) = self.at(index) else { return false };
        session.outbound.drop_held();
        session.outbound.push(half, &OutFrame::new(Opcode::Close, true, &payload[..len], mask));
        self.account_out(index);
        true
    }

    /// Moves what waits into the ring; returns whether something waited and nothing does now.
    pub(super) fn flush(&mut self, index: u32, half: &mut SendHalf<'_>) -> bool {
        let Local { sessions, rng, .. } = self;
        let Some(Some(session)) = sessions.get_mut(index as usize) else { return false };
        let role = session.role;
        let drained = session.outbound.flush(half, || mask_for(role, rng));
        self.account_out(index);
        drained
    }

    /// Queues bytes that are no frame: a part of the opening handshake or a plain HTTP response.
    pub(super) fn push_bytes(&mut self, index: u32, half: &mut SendHalf<'_>, bytes: &[u8]) {
        if let Some(session) = self.at(index) {
            session.outbound.push_bytes(half, bytes);
            self.account_out(index);
        }
    }

    /// Sends a message to all subscribers on all workers, but not to `except`.
    pub(super) fn publish(
        &mut self,
        senders: &mut impl Senders,
        topic: &str,
        message: Message<'_>,
        except: Option<u32>,
    ) -> PublishOutcome {
        let mut outcome = self.publish_here(senders, topic, message, except);
        if self.crew.workers() > 1 {
            let topic: Arc<str> = topic.into();
            let message = SharedMessage::new(message);
            for (worker, mailbox) in self.crew.mailboxes().enumerate() {
                if worker == self.worker {
                    continue;
                }
                if mailbox.push(Command::Publish { topic: topic.clone(), message: message.clone() }) {
                    outcome.forwarded += 1;
                } else {
                    outcome.not_forwarded += 1;
                }
            }
            self.stats.publishes_not_forwarded += outcome.not_forwarded as u64;
        }
        outcome
    }

    /// Sends a message to this worker's subscribers, but not to `except`. It is encoded once, and compressed once.
    pub(super) fn publish_here(
        &mut self,
        senders: &mut impl Senders,
        name: &str,
        message: Message<'_>,
        except: Option<u32>,
    ) -> PublishOutcome {
        let mut outcome = PublishOutcome::default();
        let (opcode, payload) = parts(message);
        // Sending may close a subscriber but never changes the list: subscriptions end with the session.
        let Some(topic) = self.topics.find(name) else { return outcome };
        let plain = OutFrame::new(opcode, true, payload, None);
        let mut deflater = if payload.len() >= self.deflate_from { self.deflater.take() } else { None };
        let mut broadcast = Broadcast::new(deflater.as_deref_mut());
        let mut position = 0;
        while let Some(conn) = self.topics.subscriber(topic, position) {
            position += 1;
            if except == Some(conn) {
                continue;
            }
            let Some(mask) = self.mask_if_open(conn) else { continue };
            let Some(id) = self.at(conn).map(|session| session.id) else { continue };
            let Some(mut half) = senders.sender(id) else { continue };
            let sent = match (broadcast.deflated(payload, self.outgoing(conn)), mask) {
                (Some(deflated), _) => {
                    let frame = OutFrame::compressed(opcode, deflated, mask);
                    self.push_deflated(conn, &mut half, payload, &frame)
                }
                (None, None) => self.push_message(conn, &mut half, &plain),
                (None, Some(_)) => {
                    self.push_message(conn, &mut half, &OutFrame::new(opcode, true, payload, mask))
                }
            };
            match sent {
                SendOutcome::Sent => outcome.sent += 1,
                SendOutcome::Queued => outcome.queued += 1,
                SendOutcome::Dropped => outcome.dropped += 1,
                SendOutcome::Closed => {}
            }
        }
        if deflater.is_some() {
            self.deflater = deflater;
        }
        outcome
    }

    pub(super) fn subscribe(&mut self, index: u32, topic: &str) -> Result<(), SubscribeError> {
        let Limits { topic_bytes_max, subscriptions_max, .. } = self.limits;
        if topic.len() > topic_bytes_max {
            return Err(SubscribeError::NameTooLong { limit: topic_bytes_max });
        }
        let Local { sessions, topics, .. } = self;
        match sessions.get_mut(index as usize) {
            Some(Some(session)) if session.phase == Phase::Open => {
                topics.subscribe(index, &mut session.subscriptions, subscriptions_max, topic)
            }
            _ => Err(SubscribeError::Closed),
        }
    }

    pub(super) fn unsubscribe(&mut self, index: u32, topic: &str) -> bool {
        let Local { sessions, topics, .. } = self;
        let Some(Some(session)) = sessions.get_mut(index as usize) else { return false };
        let mut moved = None;
        let ended = topics.unsubscribe(&mut session.subscriptions, topic, |entry| moved = Some(entry));
        if let Some(moved) = moved
            && let Some(other) = self.at(moved.conn)
        {
            moved.apply(&mut other.subscriptions);
        }
        ended
    }

    /// Ends all subscriptions of a session that ends.
    pub(super) fn unsubscribe_all(&mut self, index: u32) {
        loop {
            let Local { sessions, topics, .. } = self;
            let Some(Some(session)) = sessions.get_mut(index as usize) else { return };
            let mut moved = None;
            if !topics.unsubscribe_last(&mut session.subscriptions, |entry| moved = Some(entry)) {
                session.subscriptions = ThinVec::new();
                return;
            }
            if let Some(moved) = moved
                && let Some(other) = self.at(moved.conn)
            {
                moved.apply(&mut other.subscriptions);
            }
        }
    }

    /// Counts a change of the heap that a session's receiving side holds.
    pub(super) fn account_in(&mut self, index: u32, heap_bytes: usize) {
        let Local { sessions, stats, .. } = self;
        if let Some(Some(session)) = sessions.get_mut(index as usize) {
            recount(&mut stats.memory_bytes, &mut session.heap_in, heap_bytes);
        }
    }

    /// A session that ends holds nothing more.
    pub(super) fn forget_outbound(&mut self, index: u32) {
        if let Some(session) = self.at(index) {
            session.outbound.clear();
            session.deflate = None;
            self.account_out(index);
        }
    }

    /// Whether the worker's bound on memory is exceeded.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.stats.memory_bytes > self.limits.memory_bytes_max as u64
    }

    /// Counts a change of the heap that a session's sending side holds.
    pub(super) fn account_out(&mut self, index: u32) {
        let Local { sessions, stats, .. } = self;
        if let Some(Some(session)) = sessions.get_mut(index as usize) {
            let heap_bytes = session.heap_out();
            recount(&mut stats.memory_bytes, &mut session.heap_out, heap_bytes);
        }
    }

    /// A fresh masking key for a client, none for a server; `None` altogether when the session is not open.
    #[inline]
    #[allow(clippy::option_option)] // The outer one is "not open", the inner one "not masked".
    fn mask_if_open(&mut self, index: u32) -> Option<Option<[u8; 4]>> {
        let Local { sessions, rng, .. } = self;
        match sessions.get(index as usize) {
            Some(Some(session)) if session.phase == Phase::Open => Some(mask_for(session.role, rng)),
            _ => None,
        }
    }

    /// The one way of a data frame: accepted whole under the rule of `overflow_bytes_max`, or dropped and counted.
    #[inline]
    pub(super) fn push_message(
        &mut self,
        index: u32,
        half: &mut SendHalf<'_>,
        frame: &OutFrame<'_>,
    ) -> SendOutcome {
        let Local { sessions, stats, .. } = self;
        let Some(Some(session)) = sessions.get_mut(index as usize) else { return SendOutcome::Closed };
        if push_at_once(session, stats, half, frame) {
            return SendOutcome::Sent;
        }
        self.queue_message(index, half, frame)
    }

    /// A data frame that the ring does not take as it is.
    #[inline(never)]
    fn queue_message(&mut self, index: u32, half: &mut SendHalf<'_>, frame: &OutFrame<'_>) -> SendOutcome {
        let Local { sessions, stats, limits, .. } = self;
        let Some(Some(session)) = sessions.get_mut(index as usize) else { return SendOutcome::Closed };
        let hold = session.outbound.mid_message();
        let waiting = if hold { session.outbound.held_bytes() } else { session.outbound.waiting_bytes() };
        let room = if waiting == 0 && !hold { session.outbound.room(half) } else { 0 };
        let overflowing = frame.len().saturating_sub(room);
        if overflowing > 0 {
            if waiting > limits.overflow_bytes_max {
                stats.dropped_slow_reader += 1;
                if self.slow_reader == SlowReader::Close {
                    let reason = "too much unread";
                    self.start_close(index, half, CloseCode::TRY_AGAIN_LATER, reason, Cause::SlowReader);
                }
                return SendOutcome::Dropped;
            }
            if stats.memory_bytes.saturating_add(overflowing as u64) > limits.memory_bytes_max as u64 {
                stats.dropped_memory += 1;
                let reason = "out of memory";
                self.start_close(index, half, CloseCode::TRY_AGAIN_LATER, reason, Cause::MemoryShort);
                return SendOutcome::Dropped;
            }
        }
        stats.messages_out += 1;
        stats.message_bytes_out += frame.payload_bytes() as u64;
        let sent = if hold {
            session.outbound.hold(frame);
            false
        } else {
            session.outbound.push(half, frame)
        };
        if sent {
            return SendOutcome::Sent;
        }
        stats.messages_queued += 1;
        self.account_out(index);
        SendOutcome::Queued
    }
}

/// Takes a data frame if the ring does, as it is and at once.
#[inline]
fn push_at_once<S>(
    session: &Session<S>,
    stats: &mut WorkerStats,
    half: &mut SendHalf<'_>,
    frame: &OutFrame<'_>,
) -> bool {
    let sent = session.outbound.push_at_once(half, frame);
    if sent {
        stats.messages_out += 1;
        stats.message_bytes_out += frame.payload_bytes() as u64;
    }
    sent
}

/// A part of a sum has changed. What is over 4 GiB counts as 4 GiB.
fn recount(sum_bytes: &mut u64, counted: &mut u32, bytes: usize) {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    if *counted != bytes {
        *sum_bytes = *sum_bytes - u64::from(*counted) + u64::from(bytes);
        *counted = bytes;
    }
}

pub(super) fn parts(message: Message<'_>) -> (Opcode, &[u8]) {
    match message {
        Message::Text(text) => (Opcode::Text, text.as_bytes()),
        Message::Binary(bytes) => (Opcode::Binary, bytes),
    }
}

fn mask_for(role: Role, rng: &mut ChaCha20Rng) -> Option<[u8; 4]> {
    match role {
        Role::Client => Some(rng.next_u32().to_ne_bytes()),
        Role::Server => None,
    }
}
