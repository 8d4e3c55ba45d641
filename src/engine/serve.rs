//! One connection's turn: what came is read under a share, what waits is flushed, what is due is done.

use super::conn::{Conn, Context};
use super::handler::{Cause, Closed, Connect, ConnectFailure, Handler};
use super::local::Local;
use super::opening::{self, ClientHandshake};
use super::secure::Secure;
use super::session::{Closing, Inbound, Phase, Session};
use super::worker::Worker;
use crate::port::Port;
use crate::stack::{CloseCause, ConnId, ConnectError, Stack, Status};
use crate::time::Instant;
use crate::ws::{CloseCode, Role};
use rand_core::RngCore;

/// What a turn costs of the burst's bytes even when it reads none: bounds how many turns one burst has.
const TURN_BYTES_MIN: usize = 256;

/// How a connection's turn begins.
#[derive(Clone, Copy)]
struct Turn {
    /// It is open on both ends with nothing but messages to see to.
    quiet: bool,
    /// It has TLS, and gathers what is sent on it until the turn ends.
    has_tls: bool,
}

impl<P: Port, H: Handler> Worker<P, H> {
    /// Gives a ready connection its turn.
    pub(super) fn serve(&mut self, id: ConnId) {
        self.bytes_left = self.bytes_left.saturating_sub(TURN_BYTES_MIN);
        let turn = self.begin_turn(id);
        self.serve_turn(id, turn);
        if turn.has_tls {
            self.end_secure_turn(id);
        }
    }

    /// Looks at the session once, for what the turn has to know from the beginning. With TLS, what is sent from now on is
    /// gathered.
    fn begin_turn(&mut self, id: ConnId) -> Turn {
        let now = self.local.now;
        let Some(session) = self.local.session(id) else { return Turn { quiet: false, has_tls: false } };
        let has_tls = session.outbound.begin_turn(&mut self.gather_spare);
        let quiet = session.is_quiet(now) && matches!(self.stack.status(id), Some(Status::Open));
        Turn { quiet, has_tls }
    }

    fn serve_turn(&mut self, id: ConnId, Turn { quiet, mut has_tls }: Turn) {
        if !quiet {
            if self.stack.status(id).is_none() {
                return;
            }
            if self.local.session(id).is_none() {
                self.admit(id);
                has_tls = self.local.secure(id.index).is_some();
            }
            self.local.resume(id.index);
            self.send_request_if_connected(id);
            self.flush(id);
        }
        let more = self.read(id, has_tls);
        if more {
            self.unfinished.push(id);
        }
        // The common turn ends here: nothing is due, nothing waits, nothing has ended. What TCP says has not changed:
        // nothing was fed to it, and whoever closed the connection ended its phase.
        let now = self.local.now;
        if quiet && self.local.session(id).is_some_and(|session| session.is_quiet(now)) {
            return;
        }
        if !more && !has_tls && self.waiting_bytes(id) == 0 {
            // Whatever a callback did to this connection itself is looked at below: there is nothing to flush, and nothing to
            // read, so it needs no other turn for that.
            self.local.attention.retain(|&other| other != id);
        }
        self.check_deadlines(id);
        if !more {
            self.check_ends(id);
        }
        self.arm(id);
    }

    /// Opens a connection as a client.
    pub(super) fn connect(&mut self, connect: Connect) {
        let full = self.local.stats.sessions >= self.local.limits.connections_max as u64;
        let opened = match (self.local.draining, full) {
            (true, _) => Err(ConnectFailure::Drain),
            (false, true) => Err(ConnectError::Full.into()),
            (false, false) => {
                let opened = match connect.source {
                    None => self.stack.connect(connect.remote),
                    Some(source) => self.stack.connect_from(source, connect.remote),
                };
                opened.map_err(ConnectFailure::Connect)
            }
        };
        match opened {
            Ok(id) => {
                let secure = connect.tls.as_ref().map(|tls| tls.config.connect(&tls.server_name));
                let mut nonce = [0; 16];
                self.local.rng.fill_bytes(&mut nonce);
                let inbound =
                    Inbound::Response(Box::new(ClientHandshake::new(connect, nonce, self.site.deflate)));
                let deadline = self.local.now + self.local.deadlines.handshake;
                let mut session = Session::new(id, Role::Client, Phase::Connecting, self.local.now, deadline);
                let failed = match secure.transpose() {
                    Ok(stream) => {
                        session.outbound.secure = stream.map(Secure::new);
                        None
                    }
                    Err(error) => Some(error),
                };
                self.insert(session, inbound);
                match failed {
                    Some(error) => self.fail_connect(id, error.into()),
                    None => self.arm(id),
                }
            }
            Err(cause) => {
                self.connect_failed(connect, cause);
                self.give_attention();
            }
        }
    }

    /// A connection that the stack accepted.
    fn admit(&mut self, id: ConnId) {
        let deadline = self.local.now + self.local.deadlines.handshake;
        let mut session = Session::new(id, Role::Server, Phase::Head, self.local.now, deadline);
        session.over_limit = self.local.stats.sessions >= self.local.limits.connections_max as u64;
        let proxied = self.is_from_a_proxy(id);
        let inbound = if proxied { Inbound::Proxy(Vec::new()) } else { Inbound::AWAITS_HEAD };
        let over_limit = session.over_limit;
        let secure = self.accept_secure(id);
        let refused = secure.is_some() && over_limit || matches!(secure, Some(Err(_)));
        session.outbound.secure = secure.and_then(Result::ok);
        self.insert(session, inbound);
        if refused {
            // A polite refusal would cost a whole handshake.
            self.local.stats.refused_busy += 1;
            self.linger(id);
        } else if !proxied {
            self.count_peer(id);
        }
    }

    fn insert(&mut self, session: Session<H::Session>, inbound: Inbound) {
        let index = session.id.index as usize;
        if self.inbound.len() <= index {
            self.inbound.resize_with(index + 1, Inbound::default);
            self.local.sessions.resize_with(index + 1, || None);
        }
        self.inbound[index] = inbound;
        self.local.sessions[index] = Some(session);
        self.local.stats.sessions += 1;
    }

    /// Forgets a session and gives its connection back to the stack, which closes it if it is open.
    pub(super) fn remove(&mut self, id: ConnId) {
        let index = id.index as usize;
        if self.local.session(id).is_none() {
            return;
        }
        self.uncount_peer(id);
        self.end_secure(id);
        self.local.unsubscribe_all(id.index);
        self.local.account_in(id.index, 0);
        self.local.forget_outbound(id.index);
        self.inbound[index] = Inbound::Idle;
        self.local.sessions[index] = None;
        self.local.stats.sessions -= 1;
        self.stack.release(id);
    }

    pub(super) fn phase(&mut self, id: ConnId) -> Option<Phase> {
        self.local.session(id).map(|session| session.phase)
    }

    /// A client's TCP connection is up: the request goes out.
    fn send_request_if_connected(&mut self, id: ConnId) {
        if self.phase(id) != Some(Phase::Connecting)
            || !matches!(self.stack.status(id), Some(Status::Open | Status::PeerFinished))
        {
            return;
        }
        let Some(Inbound::Response(handshake)) = self.inbound.get(id.index as usize) else { return };
        self.scratch.clear();
        if let Err(error) = handshake.write_request(&mut self.scratch) {
            return self.fail_connect(id, error.into());
        }
        self.push_scratch(id);
        if let Some(session) = self.local.session(id) {
            session.phase = Phase::Response;
        }
    }

    /// Moves what waits into the ring, and says so when all of it went.
    fn flush(&mut self, id: ConnId) {
        let waiting = self.waiting_bytes(id);
        if waiting == 0 {
            return;
        }
        let Some(drained) = self.stack.sender(id).map(|mut half| self.local.flush(id.index, &mut half))
        else {
            return;
        };
        if self.waiting_bytes(id) < waiting {
            // The peer reads: it is alive, even if we do not read from it because it is behind.
            self.hear(id);
            self.grant_time(id);
        }
        if drained
            && self.phase(id) == Some(Phase::Open)
            && let Some(mut conn) = lend(&mut self.stack, &mut self.local, id)
        {
            self.handler.on_drain(&mut conn);
        }
    }

    fn is_closed_by_peer(&mut self, id: ConnId) -> bool {
        self.local.session(id).is_some_and(|session| session.outbound.is_closed_by_peer())
    }

    fn waiting_bytes(&mut self, id: ConnId) -> usize {
        self.local.session(id).map_or(0, |session| session.outbound.waiting_bytes())
    }

    /// The peer has shown that it lives; returns whether what it sends is counted.
    pub(super) fn hear(&mut self, id: ConnId) -> bool {
        let now = self.local.now;
        let Some(session) = self.local.session(id) else { return false };
        session.received_at = now;
        session.pinged = false;
        session.terms.is_some()
    }

    /// A peer that still takes what it was sent gets more time to take the rest.
    fn grant_time(&mut self, id: ConnId) {
        let (now, deadlines) = (self.local.now, self.local.deadlines);
        if let Some(session) = self.local.session(id) {
            match session.phase {
                Phase::Head => session.phase_deadline = now + deadlines.http_keep_alive,
                Phase::CloseSent | Phase::Lingering => session.phase_deadline = now + deadlines.close,
                Phase::Connecting | Phase::Response | Phase::Open => {}
            }
        }
    }

    /// Does what a deadline that has passed asks for.
    fn check_deadlines(&mut self, id: ConnId) {
        let (now, deadlines) = (self.local.now, self.local.deadlines);
        let expires_at = self.local.expires_at(id.index);
        let Some(session) = self.local.session(id) else { return };
        let overdue = now >= session.phase_deadline;
        match session.phase {
            Phase::Connecting | Phase::Response if overdue => self.fail_connect(id, ConnectFailure::NoAnswer),
            Phase::Head if overdue => {
                if matches!(self.inbound.get(id.index as usize), Some(Inbound::Head { buffer, .. }) if !buffer.is_empty())
                {
                    self.scratch.clear();
                    opening::answer_timeout(&mut self.scratch);
                    self.push_scratch(id);
                }
                self.linger(id);
            }
            Phase::Open if now >= expires_at => {
                self.start_close(
                    id,
                    CloseCode::GOING_AWAY,
                    "open for as long as is allowed",
                    Cause::Lifetime,
                );
            }
            // It is not read from, so its silence is ours.
            Phase::Open if session.paused => {}
            Phase::Open if session.pinged && overdue => {
                self.start_close(id, CloseCode::INTERNAL, "no answer to a ping", Cause::PongMissing);
            }
            Phase::Open if deadlines.idle.is_some_and(|idle| now >= session.received_at + idle) => {
                self.start_close(id, CloseCode::GOING_AWAY, "idle", Cause::Idle);
            }
            Phase::Open
                if !session.pinged
                    && deadlines.ping.is_some_and(|ping| now >= session.received_at + ping) =>
            {
                session.pinged = true;
                session.phase_deadline = now + deadlines.pong;
                if let Some(mut half) = self.stack.sender(id) {
                    self.local.ping(id.index, &mut half, b"");
                }
            }
            Phase::CloseSent | Phase::Lingering if overdue => {
                // A FIN that is out needs no owner; anything else is cut off.
                let finished = session.finished;
                self.give_up(id, CloseCause::TimedOut);
                if !finished {
                    self.stack.abort(id);
                }
                self.remove(id);
            }
            _ => {}
        }
    }

    pub(super) fn push_scratch(&mut self, id: ConnId) {
        if let Some(mut half) = self.stack.sender(id) {
            self.local.push_bytes(id.index, &mut half, &self.scratch);
        }
    }

    fn start_close(&mut self, id: ConnId, code: CloseCode, reason: &str, cause: Cause) {
        if let Some(mut half) = self.stack.sender(id) {
            self.local.start_close(id.index, &mut half, code, reason, cause);
        }
    }

    /// Looks whether TCP has ended, or can be ended; everything that came has been read.
    fn check_ends(&mut self, id: ConnId) {
        let Some(phase) = self.phase(id) else { return };
        let unread = self.has_unread(id);
        let status = self.stack.status(id);
        let ended = match status {
            Some(Status::Closed(cause)) => cause,
            // What is unread because the peer is behind will still be read.
            Some(Status::PeerFinished) if !unread => CloseCause::Finished,
            Some(Status::Open) if phase == Phase::Lingering => return self.finish_if_flushed(id),
            Some(Status::Open) if self.is_closed_by_peer(id) && !unread => CloseCause::Finished,
            _ => return,
        };
        let over = matches!(status, Some(Status::Closed(_)));
        if matches!(phase, Phase::Connecting | Phase::Response) {
            return self.fail_connect(id, ConnectFailure::Transport(ended));
        }
        self.give_up(id, ended);
        if over || self.waiting_bytes(id) == 0 {
            self.remove(id);
        }
    }

    /// A session that has nothing more to say: FIN, as soon as everything is in the ring.
    fn finish_if_flushed(&mut self, id: ConnId) {
        let Some(session) = self.local.session(id) else { return };
        if session.finished || session.outbound.waiting_bytes() > 0 {
            return;
        }
        // TLS is ended by both ends at once, whoever of them is the first to end TCP.
        if let Some(secure) = &mut session.outbound.secure
            && let Some(mut half) = self.stack.sender(id)
            && !secure.close(&mut half)
        {
            return;
        }
        if session.finish_when_flushed {
            session.finished = true;
            self.stack.finish(id);
        }
    }

    /// Ends a session that has no WebSocket: what is queued still goes out, then FIN; what comes is discarded.
    pub(super) fn linger(&mut self, id: ConnId) {
        let deadline = self.local.now + self.local.deadlines.close;
        if let Some(session) = self.local.session(id) {
            session.phase = Phase::Lingering;
            session.phase_deadline = deadline;
            session.finish_when_flushed = true;
            self.inbound[id.index as usize] = Inbound::Idle;
        }
        self.finish_if_flushed(id);
        self.local.attention.push(id);
    }

    /// TCP has ended, or is about to be ended by us: an open WebSocket ends uncleanly.
    pub(super) fn give_up(&mut self, id: ConnId, ended: CloseCause) {
        let Some(session) = self.local.session(id) else { return };
        match session.phase {
            Phase::Open | Phase::CloseSent => {
                let closing = session.closing.take();
                let closed = match &closing {
                    Some(closing) => closing.closed(false),
                    None => Closed {
                        code: CloseCode::ABNORMAL,
                        reason: "",
                        clean: false,
                        cause: if ended == CloseCause::Finished {
                            match &session.outbound.secure {
                                Some(secure) if !secure.is_closed_by_peer() => Cause::Truncated,
                                _ => Cause::PeerFinished,
                            }
                        } else {
                            Cause::Transport(ended)
                        },
                    },
                };
                if let Some(mut conn) = lend(&mut self.stack, &mut self.local, id) {
                    conclude(&mut self.handler, &mut conn, &closed, true);
                }
                self.inbound[id.index as usize] = Inbound::Idle;
            }
            Phase::Head => self.linger(id),
            Phase::Connecting | Phase::Response => self.fail_connect(id, ConnectFailure::Transport(ended)),
            Phase::Lingering => {}
        }
    }

    /// Ends an open WebSocket from our side without waiting for the peer's close frame (RFC 6455 section 7.1.7).
    pub(super) fn fail(&mut self, id: ConnId, code: CloseCode, reason: &str, cause: Cause) {
        if let Some(mut half) = self.stack.sender(id) {
            self.local.push_close(id.index, &mut half, code, reason);
        }
        let Some(session) = self.local.session(id) else { return };
        let closing = session.closing.take();
        let closed = match &closing {
            // We had sent our close frame already: what it said stands.
            Some(closing) => closing.closed(false),
            None => Closed { code, reason, clean: false, cause },
        };
        if let Some(mut conn) = lend(&mut self.stack, &mut self.local, id) {
            conclude(&mut self.handler, &mut conn, &closed, true);
        }
        self.inbound[id.index as usize] = Inbound::Idle;
    }

    /// A client's connection that never opened is over.
    pub(super) fn fail_connect(&mut self, id: ConnId, cause: ConnectFailure) {
        let Some(inbound) = self.inbound.get_mut(id.index as usize) else { return };
        let inbound = std::mem::take(inbound);
        // Where TLS failed an alert is on its way to tell the server why: that is not cut off.
        let says_why = matches!(cause, ConnectFailure::Tls(_));
        if !says_why && !matches!(self.stack.status(id), Some(Status::Closed(_))) {
            self.stack.abort(id);
        }
        self.remove(id);
        if let Inbound::Response(handshake) = inbound {
            self.connect_failed(handshake.connect, cause);
        }
    }

    pub(super) fn connect_failed(&mut self, mut connect: Connect, cause: ConnectFailure) {
        if self.try_next_addr(&mut connect, &cause) {
            self.local.connects.push_back(connect);
            return;
        }
        self.local.stats.connects_failed += 1;
        let Worker { stack, local, handler, .. } = self;
        handler.on_connect_failed(&mut Context { stack, local }, &connect, cause);
        if !local.draining {
            let random = local.rng.next_u32();
            local.retries.failed(connect, local.now, random);
        }
    }

    /// Tells the stack the session's next deadline, if it must know of an earlier one.
    fn arm(&mut self, id: ConnId) {
        let (now, deadlines) = (self.local.now, self.local.deadlines);
        let expires_at = self.local.expires_at(id.index);
        let resumes_at = self.local.resumes_at(id.index).unwrap_or(Instant::FAR_FUTURE);
        let Some(session) = self.local.session(id) else { return };
        let deadline = match session.phase {
            Phase::Open if session.paused => resumes_at.min(expires_at),
            Phase::Open => {
                let idle = deadlines.idle.map(|idle| session.received_at + idle);
                let ping = if session.pinged {
                    Some(session.phase_deadline)
                } else {
                    deadlines.ping.map(|ping| session.received_at + ping)
                };
                idle.into_iter().chain(ping).min().unwrap_or(Instant::FAR_FUTURE).min(expires_at)
            }
            _ => session.phase_deadline,
        };
        // A later deadline need not be told: when the one that is armed fires, nothing is due and this is done again.
        // So a byte that arrives costs no timer.
        let fired = session.armed <= now;
        if deadline < session.armed || fired && deadline < Instant::FAR_FUTURE {
            session.armed = deadline;
            self.stack.set_deadline(id, Some(deadline));
        }
    }
}

/// A connection, for a callback.
pub(super) fn lend<'a, H: Handler>(
    stack: &'a mut Stack,
    local: &'a mut Local<H::Session>,
    id: ConnId,
) -> Option<Conn<'a, H>> {
    Some(Conn { id, half: stack.sender(id)?, local })
}

/// Tells the handler that a WebSocket is over. What is queued still goes out; then, with `finish`, FIN.
pub(super) fn conclude<H: Handler>(
    handler: &mut H,
    conn: &mut Conn<'_, H>,
    closed: &Closed<'_>,
    finish: bool,
) {
    let deadline = conn.local.now + conn.local.deadlines.close;
    let Some(session) = conn.local.session(conn.id) else { return };
    session.phase = Phase::Lingering;
    session.phase_deadline = deadline;
    session.finish_when_flushed = finish;
    session.outbound.drop_held();
    conn.local.stats.open -= 1;
    conn.local.stats.closed_clean += u64::from(closed.clean);
    conn.local.stats.closed_unclean += u64::from(!closed.clean);
    handler.on_close(conn, closed);
    let random = conn.local.rng.next_u32();
    conn.local.retries.closed(conn.id.index, closed.cause, conn.local.now, random);
    conn.local.unsubscribe_all(conn.id.index);
    conn.local.attention.push(conn.id);
}

impl Closing {
    /// How a connection that we closed ended.
    pub(super) fn closed(&self, clean: bool) -> Closed<'_> {
        Closed { code: self.code, reason: &self.reason, clean, cause: self.cause }
    }
}
