//! The book of every connection: what each side sent, what each side got, how each side saw it end. Whatever does
//! not agree is a violation.

use crate::rng::Rng;
use crate::scenario::{ConnPlan, Serving};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use unsocket::engine::{Cause, Closed, ConnRef, ConnectFailure, PublishOutcome};
use unsocket::stack::CloseCause;
use unsocket::time::{Duration, Instant};
use unsocket::ws::Message;

/// How long a publication may take from one worker to another.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which one.
    pub(crate) oracle: &'static str,
    pub(crate) what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// A message by its place; its bytes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) token: u64,
    pub(crate) author: Side,
    pub(crate) index: u64,
    pub(crate) is_text: bool,
    pub(crate) len: usize,
}

impl Letter {
    /// The bytes. They never begin with a publication's mark.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let stream = self.token << 33 | (self.author as u64) << 32 | self.index;
        content(Rng::new(stream, "letter", self.len as u64), b'D', self.is_text, self.len)
    }
}

/// `len` bytes of which the first is `mark`; valid UTF-8 of all widths when it is text.
fn content(mut rng: Rng, mark: u8, is_text: bool, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    if is_text {
        for byte in &mut bytes {
            *byte = b' ' + *byte % 95;
        }
        let mut at = 1;
        while at + 4 < len {
            let wide = ["ä", "€", "😀"][rng.below(3) as usize].as_bytes();
            bytes[at..at + wide.len()].copy_from_slice(wide);
            at += wide.len() + rng.size(0, 40);
        }
    }
    if let Some(first) = bytes.first_mut() {
        *first = mark;
    }
    bytes
}

/// A published message names its topic, its publisher and its number.
pub(crate) fn publication(topic: u8, publisher: u64, number: u64) -> Vec<u8> {
    let mut bytes = format!("P{topic}:{publisher}:{number}:").into_bytes();
    let mut rng = Rng::new(publisher << 32 | number, "publication", u64::from(topic));
    let len = rng.size(0, 600);
    bytes.extend(content(rng, b'.', true, len));
    bytes
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
    /// Connections that did not go as planned, by what excuses that.
    pub(crate) excused: BTreeMap<&'static str, u64>,
    /// Connections judged.
    pub(crate) judged: u64,
}

/// A message that was published.
#[derive(Debug)]
pub(crate) struct Publication {
    at: Instant,
    /// Subscribers that must get it, unless it is dropped by policy.
    owed: BTreeSet<u64>,
}

/// What subscribers of one server did not get, and what the engine says about that.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    publications: u64,
    example: Option<(u64, u64, u64)>,
    /// Dropped, not forwarded, or skipped because their subscriber was closing, as the engine counts.
    counted: u64,
    /// Of these, messages that the application itself was told of.
    told: u64,
}

/// The server among a publisher's bits: its host and incarnation.
fn server_of(publisher: u64) -> u64 {
    publisher >> 4
}

/// What may have happened to a connection that did not go as planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuses {
    /// Deadlines are short, so that slowness ends connections, too.
    pub(crate) harsh: bool,
    /// A fault that may cost a connection its life met it.
    pub(crate) hit: bool,
    /// One of its hosts was drained.
    pub(crate) drained: bool,
    /// Its server had more half-open connections than it keeps, since it began.
    pub(crate) evicted: bool,
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

    /// The number of what a worker publishes next.
    pub(crate) fn next_publication(&self, publisher: u64) -> u64 {
        self.published.get(&publisher).map_or(0, |all| all.len() as u64) + 1
    }

    /// A message was published. Whoever is subscribed now must get it, once, in order, or it was dropped by policy.
    pub(crate) fn published(&mut self, at: Instant, publisher: u64, topic: u8, outcome: PublishOutcome) {
        let subscribes = |conn: &ConnBook| {
            let [_, server] = &conn.sides;
            let is_here = server.opened && server_of(server.worker) == server_of(publisher);
            is_here && conn.plan.topic == Some(topic) && !server.is_over() && server.closing.is_none()
        };
        let owed: BTreeSet<u64> =
            self.conns.iter().filter(|(_, conn)| subscribes(conn)).map(|(&token, _)| token).collect();
        let here = owed.iter().filter(|token| self.conns[token].sides[1].worker == publisher).count();
        let skipped = here.saturating_sub(outcome.sent + outcome.queued + outcome.dropped);
        self.missed.entry(server_of(publisher)).or_default().counted += skipped as u64;
        self.published.entry(publisher).or_default().push(Publication { at, owed });
    }

    /// The application was told that a message was dropped.
    pub(crate) fn told_dropped(&mut self, worker: u64) {
        self.missed.entry(server_of(worker)).or_default().told += 1;
    }

    /// A worker has ended: how many messages it dropped, by its own counters.
    pub(crate) fn counted_dropped(&mut self, worker: u64, dropped: u64) {
        self.missed.entry(server_of(worker)).or_default().counted += dropped;
    }

    /// Those of a worker's publications in `numbers` that a subscriber was to get will not come any more.
    fn miss(&mut self, token: u64, publisher: u64, numbers: std::ops::Range<u64>, until: Option<Instant>) {
        let Some(all) = self.published.get(&publisher) else { return };
        let Some(conn) = self.conns.get(&token) else { return };
        let is_here = conn.sides[1].worker == publisher;
        for number in numbers {
            let Some(publication) = all.get(number as usize - 1) else { continue };
            // What comes from another worker may have been on its way when the connection closed.
            let in_time = is_here || until.is_none_or(|until| publication.at + ON_ITS_WAY < until);
            if publication.owed.contains(&token) && in_time {
                let missed = self.missed.entry(server_of(publisher)).or_default();
                missed.publications += 1;
                missed.example.get_or_insert((token, publisher, number));
            }
        }
    }

    /// When all is over: whatever did not arrive was dropped by policy, and counted.
    pub(crate) fn judge_publications(&self) -> Result<(), Violation> {
        for missed in self.missed.values() {
            let counted = missed.counted.saturating_sub(missed.told);
            if let (true, Some((token, publisher, number))) = (missed.publications > counted, missed.example)
            {
                let what = format!(
                    "{} did not arrive, {counted} are counted as dropped; the first: {number} of {publisher} at connection {token}",
                    missed.publications
                );
                return Err(Violation { oracle: "publications once and in order", what });
            }
        }
        Ok(())
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

    fn received_publication(&mut self, at: Instant, token: u64, side: Side, bytes: &[u8]) {
        self.publications += 1;
        let text = String::from_utf8_lossy(bytes);
        let mut parts = text[1..].split(':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let (Some(topic), Some(publisher), Some(number)) = (number(), number(), number()) else {
            return self.violate("publications whole", format!("connection {token}: {text:.40}"));
        };
        self.note(at, 3 << 56 | token << 32 | publisher << 16 | number, || {
            format!("{token} {side:?} receives publication {number} of {publisher}")
        });
        if publication(topic as u8, publisher, number) != bytes {
            return self
                .violate("publications whole", format!("connection {token}: {topic}:{publisher}:{number}"));
        }
        let Some(conn) = self.conns.get_mut(&token) else { return };
        if conn.plan.topic != Some(topic as u8) || side == Side::Server {
            return self.violate(
                "publications to subscribers only",
                format!("connection {token} got topic {topic}"),
            );
        }
        let last = conn.side(side).published.insert(publisher, number).unwrap_or(0);
        if last >= number {
            self.violate(
                "publications once and in order",
                format!("connection {token}: {number} of {publisher} after {last}"),
            );
        }
        self.miss(token, publisher, last + 1..number, None);
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

    /// A subscriber saw its server's close frame: what was published before is here.
    fn close_subscriber(&mut self, token: u64) {
        let Some(conn) = self.conns.get(&token).filter(|conn| conn.plan.topic.is_some()) else { return };
        let [client, server] = &conn.sides;
        // Drained, or for reading too slowly: closed by the engine, at a time that the application does not know.
        let by_engine =
            client.closing.is_some() || client.ended.is_some_and(|ended| matches!(ended.code, 1001 | 1013));
        let Some(until) = server.closing.filter(|_| !server.lost && !by_engine) else { return };
        let home = server_of(server.worker);
        let publishers = self.published.iter().filter(|(publisher, _)| server_of(**publisher) == home);
        let rest: Vec<_> = publishers
            .map(|(&publisher, all)| {
                let last = client.published.get(&publisher).copied().unwrap_or(0);
                (publisher, last + 1..all.len() as u64 + 1)
            })
            .collect();
        for (publisher, numbers) in rest {
            self.miss(token, publisher, numbers, Some(until));
        }
    }

    /// The application closes its side.
    pub(crate) fn closes(&mut self, at: Instant, token: u64, side: Side) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.side(side).closing.get_or_insert(at);
        }
    }

    /// How a connection that is over ended: RFC 6455 section 7. What could not go as planned needs an excuse, which is
    /// counted.
    pub(crate) fn judge(&mut self, token: u64, excuses: Excuses) {
        let Some(conn) = self.conns.get_mut(&token) else { return };
        let Excuses { harsh, hit, drained, evicted } = excuses;
        let cut_by_drain = harsh && drained;
        let [client, server] = &conn.sides;
        // What is wrong, and what would excuse it.
        let mut wrong: Vec<(String, Vec<(&'static str, bool)>)> = Vec::new();
        match (&conn.failed, conn.plan.serving) {
            (Some(ConnectFailure::Refused(_)), Serving::Refuse { .. }) => {}
            (None, Serving::Refuse { .. }) if client.opened => {
                wrong.push(("opened although refused".to_owned(), Vec::new()));
            }
            (Some(failure), _) => {
                // A flood of SYNs makes the oldest half-open connections give way.
                let is_eviction = matches!(failure, ConnectFailure::Transport(_) | ConnectFailure::NoAnswer);
                let may = vec![(FAULT, hit), (DRAIN, drained), (EVICTION, evicted && is_eviction)];
                wrong.push((format!("not connected: {failure}"), may));
            }
            _ => {}
        }
        if let (Some(client), Some(server)) = (client.ended, server.ended) {
            let ends = [client, server];
            for [one, other] in [[client, server], [server, client]] {
                if one.cause == Cause::Peer && (other.cause == Cause::Peer || other.code != one.code) {
                    wrong.push((format!("close codes disagree: {ends:?}"), Vec::new()));
                }
                if !one.clean {
                    let may = vec![(FAULT, hit), (DRAIN, cut_by_drain), (DEADLINE, harsh)];
                    wrong.push((format!("not closed cleanly: {ends:?}"), may));
                }
                let may = match one.cause {
                    Cause::Peer | Cause::Local => continue,
                    Cause::Drain if drained => continue,
                    Cause::SlowReader if one.code == 1013 => continue,
                    Cause::Idle | Cause::PongMissing => vec![(FAULT, hit), (DEADLINE, harsh)],
                    Cause::Transport(CloseCause::Aborted | CloseCause::Reset) => {
                        vec![(FAULT, hit), (DRAIN, cut_by_drain), (DEADLINE, harsh)]
                    }
                    _ => vec![(FAULT, hit), (DRAIN, cut_by_drain)],
                };
                wrong.push((format!("must not end like this: {ends:?}"), may));
            }
        } else if client.opened != server.opened && conn.failed.is_none() {
            wrong.push(("opened on one side only".to_owned(), vec![(FAULT, hit), (DRAIN, cut_by_drain)]));
        }
        let plan = conn.plan;
        self.judged += 1;
        let mut excuse = None;
        for (what, may) in wrong {
            match may.iter().find(|(_, is_so)| *is_so) {
                Some((name, _)) => excuse = Some(*name),
                None => self.violate(
                    "close codes and causes",
                    format!("connection {token}: {what}; {excuses:?}; plan {plan:?}"),
                ),
            }
        }
        if let Some(name) = excuse {
            *self.excused.entry(name).or_default() += 1;
        }
    }
}

/// A connection was hit by a fault that may cost it its life.
const FAULT: &str = "fault";
/// A host of it was drained.
const DRAIN: &str = "drain";
/// Its server had too many half-open connections.
const EVICTION: &str = "half-open eviction";
/// A short deadline of a harsh world.
const DEADLINE: &str = "short deadline";
