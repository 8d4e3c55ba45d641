//! The application on every host: follows the plan of each connection, and writes all it does and sees into the book.

use crate::book::Book;
use crate::letter::{Letter, Side, publication};
use crate::rng::Rng;
use crate::scenario::{ConnPlan, Serving};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use unsocket::engine::{
    Closed, Compress, Conn, ConnRef, Connect, ConnectFailure, Context, Handler, Request, SendOutcome, Upgrade,
};
use unsocket::time::{Duration, Instant};
use unsocket::ws::{CloseCode, Message, Role};

/// Token of connections that are no plan's: an adversary's.
const STRANGER: u64 = u64::MAX;

/// One worker's application.
pub(crate) struct App {
    book: Rc<RefCell<Book>>,
    /// What is still to be said, by token.
    scripts: BTreeMap<u64, Script>,
    /// How far this host's clock is ahead of the world's.
    offset: Rc<Cell<Duration>>,
    publisher: u64,
    /// While more than this waits for a connection, it takes no further message, bytes.
    waiting_max: usize,
    pub(crate) seen: Seen,
}

/// How often the engine called.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) connects_failed: u64,
    pub(crate) messages: u64,
}

/// The token of a connection; what else there is of it is in the book and in the script.
#[derive(Default)]
pub(crate) struct Session {
    token: u64,
}

/// What one side still has to say.
struct Script {
    token: u64,
    side: Side,
    conn: ConnRef,
    plan: ConnPlan,
    rng: Rng,
    /// Messages of its own that are still to be sent.
    left: u64,
    next_index: u64,
    part: Option<Part>,
    pause: Pause,
}

/// A time in which an application says nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    Ahead,
    Until(Instant),
    Over,
}

/// A message that is being sent in fragments.
struct Part {
    letter: Letter,
    bytes: Vec<u8>,
    at: usize,
    begun: bool,
}

/// How a script speaks: in a callback of its connection, or in one that is about none.
trait Voice {
    fn send(&mut self, message: Message<'_>, compress: Compress) -> SendOutcome;
    /// `None` where fragments cannot be sent.
    fn send_fragment(&mut self, part: Message<'_>, fin: bool) -> Option<SendOutcome>;
    fn ping(&mut self, payload: &[u8]);
    fn close(&mut self, code: CloseCode);
    /// Bytes that wait for room; `None` where that is not to be known.
    fn buffered(&self) -> Option<usize>;
}

impl Voice for Conn<'_, App> {
    fn send(&mut self, message: Message<'_>, compress: Compress) -> SendOutcome {
        Conn::send_with(self, message, compress)
    }

    fn send_fragment(&mut self, part: Message<'_>, fin: bool) -> Option<SendOutcome> {
        Some(Conn::send_fragment(self, part, fin))
    }

    fn ping(&mut self, payload: &[u8]) {
        Conn::ping(self, payload);
    }

    fn close(&mut self, code: CloseCode) {
        Conn::close(self, code, "the plan is done");
    }

    fn buffered(&self) -> Option<usize> {
        Some(Conn::buffered(self))
    }
}

struct FromAfar<'a, 'b> {
    context: &'a mut Context<'b, App>,
    conn: ConnRef,
}

impl Voice for FromAfar<'_, '_> {
    fn send(&mut self, message: Message<'_>, _compress: Compress) -> SendOutcome {
        self.context.send(self.conn, message)
    }

    fn send_fragment(&mut self, _part: Message<'_>, _fin: bool) -> Option<SendOutcome> {
        None
    }

    fn ping(&mut self, _payload: &[u8]) {}

    fn close(&mut self, code: CloseCode) {
        self.context.close(self.conn, code, "the plan is done");
    }

    fn buffered(&self) -> Option<usize> {
        None
    }
}

impl App {
    pub(crate) fn new(
        book: Rc<RefCell<Book>>,
        offset: Rc<Cell<Duration>>,
        publisher: u64,
        waiting_max: usize,
    ) -> Self {
        App { book, scripts: BTreeMap::new(), offset, publisher, waiting_max, seen: Seen::default() }
    }

    /// Connections that it follows.
    pub(crate) fn scripts(&self) -> usize {
        self.scripts.len()
    }

    fn world_time(&self, now: Instant) -> Instant {
        Instant::ZERO + now.saturating_since(Instant::ZERO + self.offset.get())
    }

    /// Sends what there is to send and may be sent, and ends the connection when all is said.
    fn pump(&mut self, token: u64, now: Instant, voice: &mut impl Voice) {
        let Some(mut script) = self.scripts.remove(&token) else { return };
        let at = self.world_time(now);
        while self.say_next(&mut script, now, at, voice) {}
        if script.part.is_none() {
            self.check_done(&script, at, voice);
        }
        self.scripts.insert(token, script);
    }

    /// Sends one message or fragment; returns whether to go on.
    fn say_next(&mut self, script: &mut Script, now: Instant, at: Instant, voice: &mut impl Voice) -> bool {
        if let Pause::Until(until) = script.pause {
            if now < until {
                return false;
            }
            script.pause = Pause::Over;
        }
        if script.part.is_some() {
            return self.send_part(script, at, voice);
        }
        let in_flight = match (script.side, script.plan.serving) {
            (Side::Client, Serving::Echo) => self.book.borrow().unanswered(script.token),
            _ => 0,
        };
        if script.left == 0 || in_flight >= script.plan.window {
            return false;
        }
        if script.pause == Pause::Ahead && script.left <= script.plan.messages / 2 {
            script.pause = Pause::Until(now + script.plan.pause);
            return true;
        }
        let len = message_bytes(&mut script.rng, script.plan.bytes_max);
        let is_text = script.rng.chance(script.plan.text);
        let letter =
            Letter { token: script.token, author: script.side, index: script.next_index, is_text, len };
        let bytes = letter.bytes();
        if script.rng.chance(script.plan.pings) {
            let payload = vec![b'p'; script.rng.size(0, 125)];
            voice.ping(&payload);
        }
        if script.rng.chance(script.plan.fragmented) {
            script.part = Some(Part { letter, bytes, at: 0, begun: false });
            return true;
        }
        let compress = draw_compress(script);
        let waited = voice.buffered();
        match voice.send(message(is_text, &bytes), compress) {
            outcome @ (SendOutcome::Sent | SendOutcome::Queued) => {
                self.check_bound(script.token, waited);
                self.book.borrow_mut().accepted(at, script.token, script.side, letter, false);
                script.left -= 1;
                script.next_index += 1;
                outcome == SendOutcome::Sent || script.plan.greedy
            }
            SendOutcome::Dropped => self.told_dropped(),
            SendOutcome::Closed => {
                script.left = 0;
                false
            }
        }
    }

    /// Sends the next fragment; returns whether to go on.
    fn send_part(&mut self, script: &mut Script, at: Instant, voice: &mut impl Voice) -> bool {
        let Some(part) = &mut script.part else { return true };
        let mut end = (part.at + script.rng.size(0, 1 + part.bytes.len() / 2)).min(part.bytes.len());
        while part.letter.is_text && end < part.bytes.len() && part.bytes[end] & 0xc0 == 0x80 {
            end += 1;
        }
        let fin = end == part.bytes.len() && script.rng.chance(0.7);
        let piece = message(part.letter.is_text, &part.bytes[part.at..end]);
        match voice.send_fragment(piece, fin) {
            Some(outcome @ (SendOutcome::Sent | SendOutcome::Queued)) => {
                let mut book = self.book.borrow_mut();
                if !std::mem::replace(&mut part.begun, true) {
                    book.accepted(at, script.token, script.side, part.letter, true);
                }
                part.at = end;
                if fin {
                    book.completed(script.token, script.side);
                    script.part = None;
                    script.left -= 1;
                    script.next_index += 1;
                } else if script.rng.chance(0.1) {
                    voice.ping(b"between fragments");
                }
                outcome == SendOutcome::Sent || script.plan.greedy
            }
            // A message that has begun goes on with the connection's next callback.
            None if part.begun => false,
            None => {
                let Some(part) = script.part.take() else { return false };
                match voice.send(message(part.letter.is_text, &part.bytes), Compress::Auto) {
                    SendOutcome::Sent | SendOutcome::Queued => {
                        self.book.borrow_mut().accepted(at, script.token, script.side, part.letter, false);
                        script.left -= 1;
                        script.next_index += 1;
                        true
                    }
                    SendOutcome::Dropped => {
                        script.part = Some(part);
                        self.told_dropped()
                    }
                    SendOutcome::Closed => {
                        script.part = Some(part);
                        false
                    }
                }
            }
            // A fragment that is refused is tried again; the engine does not count it.
            Some(SendOutcome::Dropped) => false,
            Some(SendOutcome::Closed) => {
                script.part = None;
                script.left = 0;
                false
            }
        }
    }

    /// Ends the connection, if this side is to end it and everything is said.
    fn check_done(&mut self, script: &Script, at: Instant, voice: &mut impl Voice) {
        let (plan, side) = (script.plan, script.side);
        if !self.book.borrow_mut().has_all(script.token, side) {
            return;
        }
        let Some(code) = plan.closing_code(side) else { return };
        self.book.borrow_mut().closes(at, script.token, side);
        voice.close(CloseCode(code));
    }

    /// A message was accepted although so much was waiting already.
    fn check_bound(&self, token: u64, waited: Option<usize>) {
        if let Some(waited) = waited.filter(|&waited| waited > self.waiting_max) {
            let what =
                format!("connection {token}: accepted while {waited} B waited, {} may", self.waiting_max);
            self.book.borrow_mut().violate("limits hold", what);
        }
    }

    fn told_dropped(&self) -> bool {
        self.book.borrow_mut().told_dropped(self.publisher);
        false
    }
}

fn message(is_text: bool, bytes: &[u8]) -> Message<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_text => Message::Text(text),
        _ => Message::Binary(bytes),
    }
}

fn draw_compress(script: &mut Script) -> Compress {
    let [always, never] = script.plan.compress;
    match script.rng.chance(always) {
        true => Compress::Yes,
        false if script.rng.chance(never) => Compress::No,
        false => Compress::Auto,
    }
}

/// Lengths of every class, and the edges between them.
fn message_bytes(rng: &mut Rng, max: usize) -> usize {
    let edge = rng.pick(&[0, 1, 125, 126, 127, 1460, 4096, 65_535, 65_536]);
    let len = if rng.chance(0.2) { edge } else { rng.size(0, max) };
    len.min(max)
}

fn side_of(conn: &Conn<'_, App>) -> Side {
    match conn.role() {
        Role::Client => Side::Client,
        Role::Server => Side::Server,
    }
}

impl Handler for App {
    type Session = Session;

    fn on_upgrade(&mut self, request: &Request<'_>) -> Upgrade<Session> {
        let token = request.query().parse::<u64>().unwrap_or(STRANGER);
        match self.book.borrow().conns.get(&token).map(|conn| conn.plan.serving) {
            Some(Serving::Refuse { status }) => Upgrade::refuse(status, "the plan says so"),
            _ => Upgrade::accept(Session { token }),
        }
    }

    fn on_connect(&mut self, connect: &Connect, _protocol: Option<&str>) -> Session {
        Session { token: connect.token }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.seen.opened += 1;
        let (side, id, now, token) = (side_of(conn), conn.id(), conn.now(), conn.session().token);
        let at = self.world_time(now);
        let plan = self.book.borrow_mut().opened(at, token, side, id, self.publisher);
        let Some(plan) = plan else { return };
        if side == Side::Server
            && let Some(topic) = plan.topic
            && let Err(error) = conn.subscribe(&topic_name(topic))
        {
            self.book.borrow_mut().violate("subscriptions", format!("connection {token}: {error}"));
        }
        self.scripts.insert(token, Script::new(token, side, id, plan));
        self.pump(token, now, conn);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        self.seen.messages += 1;
        let (side, now, token) = (side_of(conn), conn.now(), conn.session().token);
        let at = self.world_time(now);
        if token == STRANGER {
            conn.send(message);
            return;
        }
        let Some((letter, plan)) = self.book.borrow_mut().received(at, token, side, message) else { return };
        if side == Side::Server && matches!(plan.serving, Serving::Echo | Serving::CloseAfter { .. }) {
            let waited = conn.buffered();
            match conn.send(message) {
                SendOutcome::Sent | SendOutcome::Queued => {
                    self.check_bound(token, Some(waited));
                    self.book.borrow_mut().accepted(at, token, side, letter, false);
                }
                // Reading stops before the bound is reached, so an echo is never dropped; but publications may fill the queue.
                SendOutcome::Dropped if plan.topic.is_none() => {
                    let what = format!("connection {token}: the echo of {} was dropped", letter.index);
                    self.book.borrow_mut().violate("an echo is never dropped", what);
                }
                SendOutcome::Dropped => {
                    self.told_dropped();
                }
                SendOutcome::Closed => {}
            }
        }
        if side == Side::Server
            && let Some(topic) = plan.topic
            && letter.index.is_multiple_of(3)
        {
            let number = self.book.borrow().next_publication(self.publisher);
            let bytes = publication(topic, self.publisher, number);
            let outcome = conn.publish(&topic_name(topic), Message::Binary(&bytes));
            self.book.borrow_mut().published(at, self.publisher, topic, outcome);
        }
        self.pump(token, now, conn);
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, Self>, payload: &[u8]) {
        if !(payload.iter().all(|&byte| byte == b'p') || payload == b"between fragments") {
            let token = conn.session().token;
            self.book.borrow_mut().violate("pongs echo pings", format!("connection {token}: {payload:?}"));
        }
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>) {
        let (token, now) = (conn.session().token, conn.now());
        // What is held back until a fragmented message ends does not wait for room.
        let mid_message = self.scripts.get(&token).is_some_and(|script| script.part.is_some());
        if conn.buffered() > 0 && !mid_message {
            let what = format!("connection {token}: {} B wait", conn.buffered());
            self.book.borrow_mut().violate("on_drain means that nothing waits", what);
        }
        self.pump(token, now, conn);
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        self.seen.closed += 1;
        let (side, token) = (side_of(conn), conn.session().token);
        let at = self.world_time(conn.now());
        self.scripts.remove(&token);
        self.book.borrow_mut().ended(at, token, side, closed);
    }

    fn on_connect_failed(
        &mut self,
        context: &mut Context<'_, Self>,
        connect: &Connect,
        cause: ConnectFailure,
    ) {
        self.seen.connects_failed += 1;
        let at = self.world_time(context.now());
        self.book.borrow_mut().not_connected(at, connect.token, cause);
    }

    fn on_tick(&mut self, context: &mut Context<'_, Self>) {
        let now = context.now();
        let is_due = |script: &Script| matches!(script.pause, Pause::Until(until) if until <= now);
        let due: Vec<_> = self
            .scripts
            .values()
            .filter(|script| is_due(script))
            .map(|script| (script.token, script.conn))
            .collect();
        for (token, conn) in due {
            self.pump(token, now, &mut FromAfar { context, conn });
        }
    }
}

impl Script {
    fn new(token: u64, side: Side, conn: ConnRef, plan: ConnPlan) -> Self {
        let left = match (side, plan.serving) {
            (Side::Client, _) => plan.messages,
            (Side::Server, Serving::Push { count }) => count,
            (Side::Server, _) => 0,
        };
        let pause = if plan.pause > Duration::ZERO { Pause::Ahead } else { Pause::Over };
        let rng = Rng::new(token << 1 | side as u64, "script", plan.messages);
        Script { token, side, conn, plan, rng, left, next_index: 0, part: None, pause }
    }
}

fn topic_name(topic: u8) -> String {
    format!("topic/{topic}")
}
