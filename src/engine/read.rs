//! Reading from one connection: request heads, a response, frames.

use super::conn::Conn;
use super::handler::{Cause, Closed, Handler};
use super::opening::{self, Answered, Asked, Response, ends_head};
use super::rates::Verdict;
use super::secure::Input;
use super::serve::{conclude, lend};
use super::session::{Inbound, Phase};
use super::worker::Worker;
use crate::http::{header_slots, parse_head};
use crate::port::Port;
use crate::stack::ConnId;
use crate::ws::deflate::{Agreement, Outgoing};
use crate::ws::{Close, CloseCode, Decoder, Event, ProtocolError, Role};

/// A connection's share of this burst, and what it has had of it.
struct Share {
    /// Bytes that came and were read.
    read: usize,
    /// Bytes that compressed messages among them came to.
    inflated: usize,
    bytes_max: usize,
    messages_left: usize,
}

impl Share {
    /// Bytes that were gone through. One step may go beyond the share: a frame's piece is as long as it lies there.
    fn bytes(&self) -> usize {
        self.read + self.inflated
    }

    fn is_used_up(&self) -> bool {
        self.bytes() >= self.bytes_max || self.messages_left == 0
    }
}

/// What became of a piece of a request head.
enum HeadStep<S> {
    Partial,
    Body,
    Busy,
    Answered { keep_alive: bool, body_bytes: usize },
    Upgraded(S, Option<Agreement>),
}

impl<P: Port, H: Handler> Worker<P, H> {
    /// Reads what came, up to the connection's share; returns whether more is there and may be read.
    pub(super) fn read(&mut self, id: ConnId, has_tls: bool) -> bool {
        let mut share = Share {
            read: 0,
            inflated: 0,
            bytes_max: self.burst.connection_bytes,
            messages_left: self.burst.connection_messages,
        };
        let mut more = self.has_input(id, has_tls);
        while more && !share.is_used_up() && self.local.may_read(id.index) {
            let (bytes, read) = (share.bytes(), share.read);
            let mut frames = false;
            match self.inbound.get(id.index as usize) {
                Some(Inbound::Frames { .. }) => {
                    frames = true;
                    self.read_frames(id, has_tls, &mut share);
                }
                Some(Inbound::Head { .. }) => self.read_head(id, &mut share),
                Some(Inbound::Response(_)) => self.read_response(id, &mut share),
                Some(Inbound::Proxy(_)) => share.read += self.read_proxy(id),
                Some(Inbound::Idle) | None => self.discard(id, &mut share),
            }
            self.bytes_left = self.bytes_left.saturating_sub(share.bytes() - bytes);
            let counted = self.hear(id);
            if frames && counted {
                self.police(id, share.read - read);
            }
            more = self.has_input(id, has_tls);
        }
        if has_tls || share.bytes() > 0 && self.may_hold_memory(id) {
            self.settle_memory(id);
        }
        more && self.local.may_read(id.index)
    }

    /// Frames: decoded where they lie, and lent to the handler from there.
    fn read_frames(&mut self, id: ConnId, has_tls: bool, share: &mut Share) {
        let Worker { stack, inbound, inflater, local, handler, .. } = self;
        let Some(Inbound::Frames { decoder, history }) = inbound.get_mut(id.index as usize) else { return };
        let message_bytes_max = local.limits.message.message_bytes_max;
        let mut input = if has_tls { local.take_input(id.index) } else { Input::Plain };
        // Written there, not handed over: nearly always there is none.
        let mut ended = None;
        input.lend(stack, id, |bytes, half| {
            let mut conn = Conn { id, half: half.reborrow(), local };
            let mut used = 0;
            // The first step needs no question: the caller has asked.
            loop {
                match decoder.decode(&mut bytes[used..]) {
                    Ok(decoded) => {
                        used += decoded.consumed;
                        share.read += decoded.consumed;
                        // Without one, all of the input was used.
                        let Some(mut event) = decoded.event else { break };
                        share.messages_left -= 1;
                        let mut sent_bytes = None;
                        if let Event::Compressed(compressed) = event {
                            sent_bytes = Some(compressed.payload.len());
                            match inflater.inflate(compressed, history.as_deref_mut(), message_bytes_max) {
                                Ok(message) => {
                                    share.inflated += message.as_bytes().len();
                                    event = Event::Message(message);
                                }
                                Err(error) => {
                                    ended = Some(Err(error));
                                    break;
                                }
                            }
                        }
                        if deliver(handler, &mut conn, event, sent_bytes) {
                            ended = Some(Ok(()));
                            break;
                        }
                    }
                    Err(error) => {
                        ended = Some(Err(error));
                        break;
                    }
                }
                if used >= bytes.len() || share.is_used_up() || !conn.local.may_read(id.index) {
                    break;
                }
            }
            // Nothing that follows a close frame or a violation is looked at (RFC 6455 sections 5.5.1 and 7.1.7).
            (if ended.is_some() { bytes.len() } else { used }, ())
        });
        local.put_input(id.index, input);
        match ended {
            None => {}
            Some(Ok(())) => inbound[id.index as usize] = Inbound::Idle,
            Some(Err(error)) => self.violated(id, error),
        }
    }

    /// Counts what was read, for the limit on bytes.
    fn police(&mut self, id: ConnId, bytes: usize) {
        if self.local.police_bytes(id.index, bytes) == Verdict::Close
            && let Some(mut conn) = lend::<H>(&mut self.stack, &mut self.local, id)
        {
            conn.close_for_rate();
        }
    }

    fn violated(&mut self, id: ConnId, error: ProtocolError) {
        self.local.stats.protocol_errors += 1;
        self.fail(id, error.close_code(), &error.to_string(), Cause::Protocol(error));
    }

    /// Whether the receiving side holds heap, or is counted as if it did; the common turn leaves nothing there.
    fn may_hold_memory(&mut self, id: ConnId) -> bool {
        let is_counted = self.local.at(id.index).is_some_and(|session| session.heap_in > 0);
        is_counted || self.inbound.get(id.index as usize).is_some_and(|inbound| inbound.heap_bytes() > 0)
    }

    /// Counts the heap that the receiving side holds; whoever brings it over the worker's bound must go.
    #[inline(never)]
    fn settle_memory(&mut self, id: ConnId) {
        let Some(inbound) = self.inbound.get_mut(id.index as usize) else { return };
        if let Inbound::Frames { decoder, .. } = inbound {
            decoder.reclaim();
        }
        let begun_bytes = inbound.begun_bytes();
        let heap_bytes = inbound.heap_bytes();
        let (secure_bytes, held_bytes) = self.local.secure_heap(id.index);
        self.local.account_in(id.index, heap_bytes + secure_bytes);
        if begun_bytes + held_bytes > 0 && self.local.is_short_of_memory() {
            match self.phase(id) {
                Some(Phase::Open | Phase::CloseSent) => {
                    self.fail(id, CloseCode::TRY_AGAIN_LATER, "out of memory", Cause::MemoryShort);
                }
                Some(Phase::Head) => {
                    self.local.stats.refused_busy += 1;
                    self.scratch.clear();
                    opening::answer_busy(&mut self.scratch);
                    self.push_scratch(id);
                    self.linger(id);
                }
                // A response that is being collected is bounded by `RESPONSE_HEAD_BYTES_MAX`, and of our own asking.
                Some(Phase::Connecting | Phase::Response | Phase::Lingering) | None => {}
            }
            let heap_bytes = self.inbound[id.index as usize].heap_bytes();
            self.local.account_in(id.index, heap_bytes + secure_bytes);
        }
    }

    /// A request head, and the body that may follow it.
    fn read_head(&mut self, id: ConnId, share: &mut Share) {
        let (Some(peer), Some(ours)) = (self.stack.peer(id), self.stack.local(id)) else { return };
        let peer = self.local.told_peer(id.index).unwrap_or(peer);
        let now = self.local.now;
        let Worker { stack, inbound, local, handler, site, scratch, .. } = self;
        let Some(Inbound::Head { buffer, body_bytes }) = inbound.get_mut(id.index as usize) else { return };
        let mut input = local.take_input(id.index);
        let busy = local.draining || local.is_short_of_memory();
        let Some(Some(session)) = local.sessions.get_mut(id.index as usize) else { return };
        let busy = busy || session.over_limit;
        let head_bytes_max = local.limits.head_bytes_max;
        scratch.clear();
        let tls = session.outbound.secure.as_ref().and_then(|secure| secure.agreed());
        let step = input.lend(stack, id, |bytes, _| {
            let before = buffer.len();
            let used = bytes.len();
            if *body_bytes > 0 {
                let skipped = used.min(*body_bytes);
                *body_bytes -= skipped;
                return (skipped, (skipped, HeadStep::Body));
            }
            let whole = if before == 0 {
                &*bytes
            } else {
                let room = head_bytes_max.saturating_sub(before).min(used);
                buffer.extend_from_slice(&bytes[..room]);
                let tail = before.saturating_sub(2);
                // Parsed once at first and then when it may be whole: not again for each byte that trickles in.
                if !ends_head(&buffer[tail..]) && buffer.len() < head_bytes_max {
                    return (used, (used, HeadStep::Partial));
                }
                &*buffer
            };
            let mut headers = header_slots();
            match parse_head(whole, &mut headers, head_bytes_max) {
                Ok(Some(head)) => {
                    let used = head.head_bytes.saturating_sub(before).min(used);
                    let body_bytes = head.body_bytes;
                    if busy {
                        opening::answer_busy(scratch);
                        return (used, (used, HeadStep::Busy));
                    }
                    let asked = Asked { peer, local: ours, tls, now };
                    let step = match site.answer(handler, &head, asked, scratch) {
                        Answered::Http { keep_alive } => HeadStep::Answered { keep_alive, body_bytes },
                        Answered::Upgraded(user, deflate) => HeadStep::Upgraded(user, deflate),
                    };
                    (used, (used, step))
                }
                Ok(None) => {
                    if before == 0 {
                        buffer.extend_from_slice(bytes);
                    }
                    (used, (used, HeadStep::Partial))
                }
                Err(error) => {
                    site.answer_error(error, scratch);
                    (used, (used, HeadStep::Answered { keep_alive: false, body_bytes: 0 }))
                }
            }
        });
        if let Some(secure) = &mut session.outbound.secure {
            secure.put_input(input);
        }
        let Some((used, step)) = step else { return };
        share.read += used;
        let (now, deadlines) = (local.now, local.deadlines);
        match step {
            HeadStep::Partial => {
                session.phase_deadline = session.phase_deadline.min(now + deadlines.handshake);
                return;
            }
            HeadStep::Body => return,
            HeadStep::Busy | HeadStep::Answered { .. } | HeadStep::Upgraded(..) => {}
        }
        share.messages_left -= 1;
        *buffer = Vec::new();
        local.stats.http_requests += 1;
        local.stats.refused_busy += u64::from(matches!(step, HeadStep::Busy));
        if let HeadStep::Answered { keep_alive: true, body_bytes: following } = step {
            *body_bytes = following;
            session.phase_deadline = now + deadlines.http_keep_alive;
        }
        if let Some(mut half) = stack.sender(id) {
            local.push_bytes(id.index, &mut half, scratch);
        }
        match step {
            HeadStep::Upgraded(user, deflate) => self.open(id, user, deflate),
            HeadStep::Answered { keep_alive: true, .. } => {}
            _ => self.linger(id),
        }
    }

    /// The response to our own request.
    fn read_response(&mut self, id: ConnId, share: &mut Share) {
        let Worker { stack, inbound, handler, local, .. } = self;
        let Some(Inbound::Response(handshake)) = inbound.get_mut(id.index as usize) else { return };
        let mut input = local.take_input(id.index);
        let response = input.lend(stack, id, |bytes, _| {
            let response = handshake.take(bytes);
            let used = match &response {
                Response::Accepted { used, .. } => *used,
                _ => bytes.len(),
            };
            share.read += used;
            (used, response)
        });
        local.put_input(id.index, input);
        match response {
            None | Some(Response::Partial) => {}
            Some(Response::Accepted { protocol, deflate, .. }) => {
                share.messages_left -= 1;
                let user = handler.on_connect(&handshake.connect, protocol.as_deref());
                if handshake.connect.reconnect.is_some() {
                    local.retries.opened(id.index, handshake.connect.clone());
                }
                self.open(id, user, deflate);
            }
            Some(Response::Refused(error)) => self.fail_connect(id, error.into()),
        }
    }

    /// The opening handshake is done.
    fn open(&mut self, id: ConnId, user: H::Session, deflate: Option<Agreement>) {
        let limits = self.local.message_limits.clone();
        let Some(session) = self.local.session(id) else { return };
        session.phase = Phase::Open;
        session.user = user;
        session.deflate = deflate.map(|agreed| Box::new(Outgoing::new(agreed.send)));
        let decoder = Decoder::new(session.role, limits);
        self.inbound[id.index as usize] = match deflate {
            None => Inbound::Frames { decoder, history: None },
            Some(agreed) => Inbound::Frames {
                decoder: decoder.with_compression(),
                history: agreed.receive.history().map(Box::new),
            },
        };
        self.local.begin_terms(id.index);
        self.local.stats.open += 1;
        self.local.stats.opened += 1;
        if let Some(mut conn) = lend(&mut self.stack, &mut self.local, id) {
            self.handler.on_open(&mut conn);
        }
    }

    /// What nobody wants any more: the connection is on its way out.
    fn discard(&mut self, id: ConnId, share: &mut Share) {
        // With TLS it is not even opened.
        drop(self.local.take_input(id.index));
        let discarded = self.stack.with_received(id, |bytes, _| (bytes.len(), bytes.len()));
        share.read += discarded.unwrap_or(0);
    }
}

/// Gives one event to whom it concerns; returns whether nothing that follows is to be looked at. A message that was
/// compressed came in `sent_bytes`.
fn deliver<H: Handler>(
    handler: &mut H,
    conn: &mut Conn<'_, H>,
    event: Event<'_>,
    sent_bytes: Option<usize>,
) -> bool {
    let Some(session) = conn.local.session(conn.id) else { return true };
    let open = session.phase == Phase::Open;
    let counted = session.terms.is_some();
    if open && matches!(event, Event::Ping(_) | Event::Pong(_)) && conn.police_control() {
        return false;
    }
    match event {
        Event::Message(message) if open => {
            if counted && !conn.police_message(sent_bytes.unwrap_or(message.as_bytes().len())) {
                return false;
            }
            let stats = &mut conn.local.stats;
            stats.messages_in += 1;
            stats.message_bytes_in += message.as_bytes().len() as u64;
            handler.on_message(conn, message);
        }
        Event::Ping(payload) if open => {
            conn.local.stats.pings_in += 1;
            conn.local.pong(conn.id.index, &mut conn.half, payload);
        }
        Event::Pong(payload) if open => handler.on_pong(conn, payload),
        // We have sent our close frame: what comes until the peer's is discarded.
        Event::Message(_) | Event::Compressed(_) | Event::Ping(_) | Event::Pong(_) => {}
        Event::Close(close) => {
            conclude_handshake(handler, conn, close);
            return true;
        }
    }
    false
}

/// The peer's close frame is here: ours goes back, unless it is out already (RFC 6455 section 5.5.1).
fn conclude_handshake<H: Handler>(handler: &mut H, conn: &mut Conn<'_, H>, close: Close<'_>) {
    let Some(session) = conn.local.session(conn.id) else { return };
    // Section 7.1.1: the server ends TCP, the client waits for it.
    let finish = session.role == Role::Server;
    match session.closing.take() {
        Some(closing) => conclude(handler, conn, &closing.closed(true), finish),
        None => {
            let Close { code, reason } = close;
            conn.local.push_close(conn.id.index, &mut conn.half, code, reason);
            conclude(handler, conn, &Closed { code, reason, clean: true, cause: Cause::Peer }, finish);
        }
    }
}

impl<H: Handler> Conn<'_, H> {
    /// The client sends too fast, and the policy is to close.
    fn close_for_rate(&mut self) {
        let (code, reason) = (CloseCode::POLICY, "too fast");
        self.local.start_close(self.id.index, &mut self.half, code, reason, Cause::RateLimit);
    }

    /// Counts a message of the peer's that came in `bytes`; whether it is delivered.
    fn police_message(&mut self, bytes: usize) -> bool {
        let verdict = self.local.police_message(self.id.index, bytes);
        if verdict == Verdict::Close {
            self.close_for_rate();
        }
        verdict == Verdict::Deliver
    }

    /// Counts a control frame of the peer's; `true` when it was one too many, and the connection closes.
    fn police_control(&mut self) -> bool {
        let too_many = self.local.police_control(self.id.index) == Verdict::Close;
        if too_many {
            self.close_for_rate();
        }
        too_many
    }
}
