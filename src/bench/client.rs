//! The load over the engine's own client: a [`Handler`] for each generator worker, and the loop that polls it.
//!
//! The clock is read once per burst; all that happens in a burst happens at its time.

use super::Clock;
use super::generator::{Failure, Generator, Load};
use super::tally::{Cause, Tally};
use super::usage::Usage;
use crate::engine::{
    self, Closed, Conn, ConnRef, Connect, ConnectFailure, ConnectTls, Context, Handler, SendOutcome, Worker,
};
use crate::port::Port;
use crate::stack::CloseCause;
use crate::time::{Duration, Instant};
use crate::ws::{CloseCode, Message};
use std::net::{IpAddr, SocketAddr};

/// Most connections that one worker opens at the same time.
const OPENING_MAX: u32 = 256;
/// How often connections are opened, and how often a worker looks whether the others' are open.
const START_INTERVAL: Duration = Duration::from_millis(1);
/// How often connections are looked at that nothing happens to.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How long closing handshakes may take when the load is over; what is left then is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the connections of a load go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The servers' addresses; connections are spread over them in turn.
    pub remotes: Vec<SocketAddr>,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Our addresses, taken in turn; none for the stack's choice.
    pub sources: Vec<IpAddr>,
    /// With TLS, and how.
    pub tls: Option<ConnectTls>,
}

impl Destination {
    /// What to ask the engine for, as connection number `turn`, known by `token`.
    pub fn connect(&self, turn: usize, token: u32) -> Connect {
        let in_turn = turn % self.remotes.len().max(1);
        Connect {
            host: self.host.clone(),
            tls: self.tls.clone(),
            token: u64::from(token),
            source: self.sources.get(turn % self.sources.len().max(1)).copied(),
            ..Connect::new(self.remotes[in_turn], self.target.clone())
        }
    }
}

/// A load that [`drive`] carries out.
pub trait Driven: Handler + Sized {
    /// How often it is given a turn.
    const INTERVAL: Duration;

    /// Opens connections; looks at every connection, too, when it is time to `sweep`.
    fn advance(&mut self, now: Instant, context: &mut Context<'_, Self>, sweep: bool);

    /// Whether nothing is left to do but to close connections.
    fn is_done(&self) -> bool;

    /// Ends the load and hands out what was counted.
    fn finish(&mut self) -> (Tally, Usage);
}

/// The connections of one generator worker.
pub struct Client {
    generator: Generator,
    destination: Destination,
    /// By the connection's row in the generator's share; `None` before it is open and after it is over.
    rows: Vec<Option<Live>>,
    begun: u32,
    opening: u32,
    live: u32,
    started: bool,
    scratch: Vec<u8>,
}

struct Live {
    conn: ConnRef,
    load: Load,
}

impl Client {
    /// A client that carries `generator`'s load to `destination`.
    pub fn new(generator: Generator, destination: Destination) -> Self {
        let connections = generator.share().connections;
        let mut rows = Vec::new();
        rows.resize_with(connections as usize, || None);
        let scratch = Vec::with_capacity(generator.message_bytes());
        Client { generator, destination, rows, begun: 0, opening: 0, live: 0, started: false, scratch }
    }

    /// Opens connections, as many as may be under way.
    fn open(&mut self, context: &mut Context<'_, Self>) {
        while self.begun < self.generator.share().connections
            && self.opening < OPENING_MAX
            && !self.generator.is_over()
        {
            context.connect(self.destination.connect(self.begun as usize, self.begun));
            self.begun += 1;
            self.opening += 1;
        }
    }

    /// Looks at every connection: the first messages, the end of the load, deadlines.
    fn sweep(&mut self, context: &mut Context<'_, Self>) {
        for row in &mut self.rows {
            let Some(Live { conn, load }) = row else { continue };
            let conn = *conn;
            if self.generator.is_overdue(load) {
                self.generator.failed(load, self.generator.overdue());
                context.close(conn, CloseCode::GOING_AWAY, "no reply in time");
            } else if !pump(&mut self.generator, load, &mut self.scratch, |message| {
                context.send(conn, message)
            }) {
                continue;
            } else {
                context.close(conn, CloseCode::NORMAL, "");
            }
            *row = None;
            self.live -= 1;
        }
    }

    fn tick(&mut self, now: Instant) {
        if now != self.generator.now() {
            self.generator.tick(now);
        }
    }

    /// Sends what is due on an open connection; closes it at the end of the load.
    fn go_on(&mut self, conn: &mut Conn<'_, Self>) {
        let index = *conn.session() as usize;
        let Some(row) = self.rows.get_mut(index) else { return };
        let Some(Live { load, .. }) = row else { return };
        if pump(&mut self.generator, load, &mut self.scratch, |message| conn.send(message)) {
            *row = None;
            self.live -= 1;
            conn.close(CloseCode::NORMAL, "");
        }
    }

    /// Gives up an open connection.
    #[cold]
    fn fail(&mut self, index: usize, failure: Failure) {
        if let Some(Live { load, .. }) = self.rows.get_mut(index).and_then(Option::take) {
            self.generator.failed(&load, failure);
            self.live -= 1;
        }
    }
}

/// Sends the messages that are due; returns whether the load is over for this connection, which then is closed.
fn pump(
    generator: &mut Generator,
    load: &mut Load,
    scratch: &mut Vec<u8>,
    mut send: impl FnMut(Message<'_>) -> SendOutcome,
) -> bool {
    while generator.may_send(load) {
        scratch.clear();
        generator.write(load, scratch);
        let text = if generator.is_text() { str::from_utf8(scratch).ok() } else { None };
        let message = text.map_or(Message::Binary(scratch), Message::Text);
        match send(message) {
            SendOutcome::Sent | SendOutcome::Queued => generator.sent(load),
            // `on_drain` comes when there is room again, `on_close` when there never will be.
            SendOutcome::Dropped | SendOutcome::Closed => return false,
        }
    }
    let done = generator.is_done(load);
    if done {
        generator.closed(load);
    }
    done
}

impl Handler for Client {
    /// The connection's row.
    type Session = u32;

    fn on_connect(&mut self, connect: &Connect, _protocol: Option<&str>) -> u32 {
        connect.token as u32
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.tick(conn.now());
        let row = *conn.session();
        self.opening -= 1;
        if let Err(failure) = self.generator.check_compression(conn.is_compressed()) {
            self.generator.failed_to_open(failure);
            conn.close(CloseCode::POLICY, "not compressed");
            return;
        }
        self.live += 1;
        self.rows[row as usize] = Some(Live { conn: conn.id(), load: self.generator.opened(row) });
        self.go_on(conn);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        self.tick(conn.now());
        let index = *conn.session() as usize;
        let Some(Some(Live { load, .. })) = self.rows.get_mut(index) else { return };
        match self.generator.reply(load, message) {
            Ok(()) => self.go_on(conn),
            Err(failure) => {
                self.fail(index, failure);
                conn.close(CloseCode::POLICY, "not an echo");
            }
        }
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>) {
        self.tick(conn.now());
        self.go_on(conn);
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        self.tick(conn.now());
        let index = *conn.session() as usize;
        self.fail(index, close_failure(closed));
    }

    fn on_connect_failed(&mut self, context: &mut Context<'_, Self>, _: &Connect, cause: ConnectFailure) {
        self.tick(context.now());
        self.opening -= 1;
        self.generator.failed_to_open(connect_failure(&cause));
    }
}

impl Driven for Client {
    const INTERVAL: Duration = START_INTERVAL;

    fn advance(&mut self, now: Instant, context: &mut Context<'_, Self>, sweep: bool) {
        self.tick(now);
        self.open(context);
        let starts = !self.started && self.generator.has_started();
        self.started |= starts;
        if starts || sweep {
            self.sweep(context);
        }
    }

    fn is_done(&self) -> bool {
        let begun = self.begun == self.generator.share().connections || self.generator.is_over();
        begun && self.opening == 0 && self.live == 0
    }

    fn finish(&mut self) -> (Tally, Usage) {
        self.generator.finish()
    }
}

/// What the end of an open connection means.
pub(super) fn close_failure(closed: &Closed<'_>) -> Failure {
    match closed.cause {
        engine::Cause::Protocol(error) => Failure::new(Cause::Protocol, error.to_string()),
        engine::Cause::Transport(CloseCause::TimedOut) => {
            Failure::new(Cause::Timeout, "the peer's TCP fell silent")
        }
        engine::Cause::Transport(cause) => Failure::new(Cause::Reset, format!("TCP ended: {cause:?}")),
        engine::Cause::Peer => Failure::new(
            Cause::Closed,
            format!("the peer closed with code {} {:?}", closed.code.0, closed.reason),
        ),
        engine::Cause::PeerFinished => {
            Failure::new(Cause::Closed, "the peer ended the connection without a close frame")
        }
        cause => Failure::new(Cause::Closed, format!("closed by this end: {cause:?}")),
    }
}

/// What it means that a connection did not come to be.
pub(super) fn connect_failure(failure: &ConnectFailure) -> Failure {
    let cause = match failure {
        ConnectFailure::Transport(CloseCause::Refused) => Cause::Refused,
        ConnectFailure::Transport(CloseCause::TimedOut) | ConnectFailure::NoAnswer => Cause::Timeout,
        ConnectFailure::Refused(_) => Cause::Upgrade,
        _ => Cause::Connect,
    };
    Failure::new(cause, failure.to_string())
}

/// What the owner of a load's worker does between its polls.
#[derive(Debug, Default)]
pub struct Rounds {
    next_turn: Instant,
    next_sweep: Instant,
    give_up_at: Option<Instant>,
}

impl Rounds {
    /// Opens connections and looks at all of them, each as often as it is due at `now`; returns whether the load is
    /// over and its connections are closed. To be called before each poll.
    pub fn go<P: Port, L: Driven>(&mut self, worker: &mut Worker<P, L>, now: Instant) -> bool {
        if now < self.next_turn {
            return false;
        }
        self.next_turn = now + L::INTERVAL;
        let sweep = now >= self.next_sweep;
        if sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
        }
        worker.with_context(|load, context| load.advance(now, context, sweep));
        if !worker.handler().is_done() {
            return false;
        }
        let give_up_at = *self.give_up_at.get_or_insert(now + CLOSE_TIMEOUT);
        worker.report().engine.sessions == 0 || now >= give_up_at
    }
}

/// Polls `worker` until its load is over and its connections are closed; `after` each burst is told what it came to.
pub fn drive<P: Port, L: Driven>(
    worker: &mut Worker<P, L>,
    clock: Clock,
    mut after: impl FnMut(&mut Worker<P, L>, Instant, engine::Progress),
) -> (Tally, Usage) {
    let mut rounds = Rounds::default();
    loop {
        let now = clock.now();
        if rounds.go(worker, now) {
            return worker.handler_mut().finish();
        }
        let progress = worker.poll(now);
        after(worker, now, progress);
    }
}
