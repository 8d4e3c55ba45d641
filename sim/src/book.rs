//! The book of every connection: what each side sent, what each side got, how each side saw it end. Whatever does
//! not agree is a violation.

use crate::letter::{Letter, Side};
use crate::publications::{Missed, Publication, Skipped};
use crate::scenario::{ConnPlan, Serving};
use std::collections::{BTreeMap, VecDeque};
use unsocket::engine::{Cause, Closed, ConnRef, ConnectFailure};
use unsocket::time::Instant;
use unsocket::ws::Message;

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which one.
    pub(crate) oracle: &'static str,
    pub(crate) what: String,
}

/// How a side saw the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) at: Instant,
    pub(crate) code: u16,
    pub(crate) clean: bool,
    pub(crate) cause: Cause,
}

/// One side of one connection.
#[derive(Debug, Default)]
pub(crate) struct SideBook {
    pub(crate) conn: Option<ConnRef>,
    pub(crate) opened: bool,
    pub(crate) ended: Option<Ended>,
    /// Its host crashed with it.
    pub(crate) lost: bool,
    /// Sent and not yet seen at the other side. The last may be a part only.
    pub(crate) under_way: VecDeque<Letter>,
    /// The last of `under_way` has begun and not ended.
    pub(crate) partial: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// The last publication of each publisher that arrived here.
    pub(crate) published: BTreeMap<u64, u64>,
    /// The worker that has this side, as a publisher.
    pub(crate) worker: u64,
    /// When the application, or the peer's close frame, ended it.
    pub(crate) closing: Option<Instant>,
}

impl SideBook {
    pub(crate) fn is_over(&self) -> bool {
        self.lost || self.ended.is_some()
    }
}

#[derive(Debug)]
pub(crate) struct ConnBook {
    pub(crate) plan: ConnPlan,
    pub(crate) started: bool,
    pub(crate) failed: Option<ConnectFailure>,
    /// When a side last opened, sent, got something or ended.
    pub(crate) moved: Instant,
    pub(crate) sides: [SideBook; 2],
}

impl ConnBook {
    pub(crate) fn side(&mut self, side: Side) -> &mut SideBook {
        &mut self.sides[side as usize]
    }

    /// Both sides know that it is over.
    pub(crate) fn is_over(&self) -> bool {
        let [client, server] = &self.sides;
        self.started && (client.is_over() || self.failed.is_some()) && (server.is_over() || !server.opened)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) conns: BTreeMap<u64, ConnBook>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) notes: Vec<(Instant, String)>,
    pub(crate) wants_notes: bool,
    /// Everything the applications saw, for the trace's hash.
    pub(crate) seen: Vec<(Instant, u64)>,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) publications: u64,
    /// What each worker published, in order.
    pub(crate) published: BTreeMap<u64, Vec<Publication>>,
    /// What subscribers did not get, by server (a publisher without its worker).
    pub(crate) missed: BTreeMap<u64, Missed>,
    /// Publications that the engine did not hand to each subscriber of its worker.
    pub(crate) skipped: Vec<Skipped>,
    /// Connections that did not go as planned, by what excuses that.
    pub(crate) excused: BTreeMap<&'static str, u64>,
    /// Connections judged.
    pub(crate) judged: u64,
}

impl Book {
    pub(crate) fn violate(&mut self, oracle: &'static str, what: String) {
        self.violations.push(Violation { oracle, what });
    }

    pub(crate) fn note(&mut self, at: Instant, word: u64, describe: impl FnOnce() -> String) {
        self.seen.push((at, word));
        if self.wants_notes {
            self.notes.push((at, describe()));
        }
    }

    /// Messages of the client that are not answered yet.
    pub(crate) fn unanswered(&self, token: u64) -> u64 {
        self.conns.get(&token).map_or(0, |conn| conn.sides[0].sent.saturating_sub(conn.sides[0].received))
    }

    /// A side opened; its plan.
    pub(crate) fn opened(
        &mut self,
        at: Instant,
        token: u64,
        side: Side,
        id: ConnRef,
        worker: u64,
    ) -> Option<ConnPlan> {
        self.note(at, 5 << 56 | token, || format!("{token} {side:?} opens"));
        let conn = self.conns.get_mut(&token)?;
        let plan = conn.plan;
        conn.moved = at;
        let book = conn.side(side);
        book.conn = Some(id);
        book.worker = worker;
        if std::mem::replace(&mut book.opened, true) {
            self.violate("on_open once", format!("connection {token}, {side:?}"));
        }
        Some(plan)
    }

    pub(crate) fn not_connected(&mut self, at: Instant, token: u64, cause: ConnectFailure) {
        self.note(at, 6 << 56 | token, || format!("{token} is not connected: {cause}"));
        let Some(conn) = self.conns.get_mut(&token) else { return };
        if conn.failed.replace(cause).is_some() {
            self.violate("on_connect_failed once", format!("connection {token}"));
        }
    }

    /// A side is gone without a word.
    pub(crate) fn lose(&mut self, token: u64, side: Side) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.side(side).lost = true;
            // Whoever is to judge it looks again.
            self.seen.push((Instant::ZERO, 7 << 56 | token));
        }
    }

    /// A host crashed with all its connections.
    pub(crate) fn lose_host(&mut self, host: usize) {
        let hit = |conn: &ConnBook| {
            let [client, server] = &conn.sides;
            let client = conn.plan.client == host && conn.started && !client.is_over();
            let server = conn.plan.server == host && server.opened && !server.is_over();
            [(client, Side::Client), (server, Side::Server)]
        };
        let sides: Vec<(u64, Side)> = self
            .conns
            .iter()
            .flat_map(|(&token, conn)| hit(conn).map(|(is_hit, side)| (token, side, is_hit)))
            .filter_map(|(token, side, is_hit)| is_hit.then_some((token, side)))
            .collect();
        sides.into_iter().for_each(|(token, side)| self.lose(token, side));
    }

    /// The last fragment of a message was accepted.
    pub(crate) fn completed(&mut self, token: u64, side: Side) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.side(side).partial = false;
        }
    }

    /// Whether a side has said and heard all that its plan wants of it.
    pub(crate) fn has_all(&self, token: u64, side: Side) -> bool {
        let Some(ConnBook { plan, sides: [client, server], .. }) = self.conns.get(&token) else {
            return false;
        };
        match (side, plan.serving) {
            (Side::Client, Serving::Echo) => client.received >= plan.messages && client.sent >= plan.messages,
            (Side::Client, Serving::Push { count }) => {
                client.received >= count && client.sent >= plan.messages
            }
            (Side::Client, Serving::Sink) => client.sent >= plan.messages,
            // The server ends it.
            (Side::Client, Serving::CloseAfter { .. } | Serving::Refuse { .. }) => false,
            (Side::Server, Serving::Push { count }) => {
                server.sent >= count && server.received >= plan.messages
            }
            (Side::Server, Serving::CloseAfter { count, .. }) => server.received >= count,
            (Side::Server, _) => server.received >= plan.messages,
        }
    }

    /// A message was accepted on this side.
    pub(crate) fn accepted(&mut self, at: Instant, token: u64, side: Side, letter: Letter, is_part: bool) {
        self.note(at, 1 << 56 | token << 8 | letter.index, || {
            format!("{token} {side:?} sends {} ({} B)", letter.index, letter.len)
        });
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.moved = at;
            let book = conn.side(side);
            book.under_way.push_back(letter);
            book.partial = is_part;
            book.sent += 1;
        }
    }

    /// A message arrived at this side; what it is.
    pub(crate) fn received(
        &mut self,
        at: Instant,
        token: u64,
        side: Side,
        message: Message<'_>,
    ) -> Option<(Letter, ConnPlan)> {
        let bytes = message.as_bytes();
        self.messages += 1;
        self.bytes += bytes.len() as u64;
        if bytes.first() == Some(&b'P') {
            self.received_publication(at, token, side, bytes);
            return None;
        }
        self.note(at, 2 << 56 | token << 8 | bytes.len() as u64, || {
            format!("{token} {side:?} receives {} B", bytes.len())
        });
        let conn = self.conns.get_mut(&token)?;
        conn.moved = at;
        let peer = conn.side(side.other());
        let Some(letter) = peer.under_way.front().copied() else {
            self.violate(
                "each message once",
                format!("connection {token}, {side:?}: got {} B that nobody sent", bytes.len()),
            );
            return None;
        };
        if peer.partial && peer.under_way.len() == 1 {
            self.violate(
                "messages whole",
                format!("connection {token}, {side:?}: got message {} before its end was sent", letter.index),
            );
            return None;
        }
        let is_text = matches!(message, Message::Text(_));
        if letter.is_text != is_text || letter.bytes() != bytes {
            let expected = letter.bytes();
            let first = expected.iter().zip(bytes).position(|(a, b)| a != b);
            self.violate(
                "messages whole and in order",
                format!(
                    "connection {token}, {side:?}: expected {letter:?}, got {} B (text: {is_text}), first difference at {first:?}",
                    bytes.len()
                ),
            );
            return None;
        }
        peer.under_way.pop_front();
        let plan = conn.plan;
        conn.side(side).received += 1;
        Some((letter, plan))
    }

    /// A side's connection ended.
    pub(crate) fn ended(&mut self, at: Instant, token: u64, side: Side, closed: &Closed<'_>) {
        let ended = Ended { at, code: closed.code.0, clean: closed.clean, cause: closed.cause };
        self.note(at, 4 << 56 | token << 8 | u64::from(closed.code.0), || {
            format!(
                "{token} {side:?} ends: {} clean {} {:?} {:?}",
                ended.code, ended.clean, ended.cause, closed.reason
            )
        });
        let Some(conn) = self.conns.get_mut(&token) else { return };
        conn.moved = at;
        if conn.side(side).ended.replace(ended).is_some() {
            return self.violate("on_close once", format!("connection {token}, {side:?}"));
        }
        // The peer's close frame follows all that the peer sent: RFC 6455 section 5.5.1.
        if closed.cause == Cause::Peer {
            let peer = conn.side(side.other());
            let whole = peer.under_way.len() - usize::from(peer.partial);
            if whole > 0 && !peer.lost {
                let what = format!(
                    "connection {token}: {side:?} got the close frame but not {whole} messages before it"
                );
                self.violate("nothing lost before a close frame", what);
            } else if side == Side::Client {
                self.close_subscriber(token);
            }
        }
    }

    /// The application closes its side.
    pub(crate) fn closes(&mut self, at: Instant, token: u64, side: Side) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.side(side).closing.get_or_insert(at);
        }
    }
}
