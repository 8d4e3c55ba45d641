//! The load over the engine's own client: a [`Handler`] for each generator worker, and the loop that polls it.
//!
//! The clock is read once per burst; all that happens in a burst happens at its time.

use super::Clock;
use super::generator::Generator;
use super::load::{Failure, Load};
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
/// In so many turns every connection is looked at, also when nothing happens to it,
const SWEEP_TURNS: usize = 100;
/// or in more turns, where there are more than so many in each.
const SWEEP_MAX: usize = 2048;
/// The same at the end of a load of idle connections.
const PROOFS_MAX: usize = 64;
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
        // From all of our addresses to one of the server's, then to the next: so each pair has its turn.
        let in_turn = turn / self.sources.len().max(1) % self.remotes.len().max(1);
        Connect {
            host: self.host.clone(),
            tls: self.tls.clone(),
            token: u64::from(token),
            source: self.sources.get(turn % self.sources.len().max(1)).copied(),
            ..Connect::new(self.remotes[in_turn], self.target.clone())
        }
    }
}

/// A load that [`drive`] carries out. A connection's session is its row.
pub trait Driven: Handler<Session = u32> + Sized {
    /// How often it is given a turn.
    const INTERVAL: Duration;

    /// Its loop.
    fn generator(&mut self) -> &mut Generator;

    /// Opens connections, sends what is due; looks at connections that nothing happens to, too, when it is time to `sweep`.
    fn advance(&mut self, now: Instant, context: &mut Context<'_, Self>, sweep: bool);

    /// Verifies what came on an open connection and, when it is what was due, goes on.
    ///
    /// # Errors
    /// When the connection must be given up with [`Driven::fail`].
    fn take_reply(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) -> Result<(), Failure>;

    /// Sends what is due on an open connection; closes it when it is done.
    fn go_on(&mut self, conn: &mut Conn<'_, Self>);

    /// Gives up an open connection.
    fn fail(&mut self, row: u32, failure: Failure);

    /// Whether nothing is left to do but to close connections.
    fn is_done(&self) -> bool;

    /// Begins a burst, unless it has begun.
    fn tick(&mut self, now: Instant) {
        let generator = self.generator();
        if now != generator.now() {
            generator.tick(now);
        }
    }
}

/// [`Handler::on_message`] of every load.
pub(super) fn on_message<L: Driven>(load: &mut L, conn: &mut Conn<'_, L>, message: Message<'_>) {
    load.tick(conn.now());
    if let Err(failure) = load.take_reply(conn, message) {
        load.fail(*conn.session(), failure);
        conn.close(CloseCode::POLICY, "not what was due");
    }
}

/// [`Handler::on_drain`] of every load.
pub(super) fn on_drain<L: Driven>(load: &mut L, conn: &mut Conn<'_, L>) {
    load.tick(conn.now());
    load.go_on(conn);
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
    /// The row at which the sweep goes on.
    swept: usize,
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
        let scratch = Vec::with_capacity(generator.message_bytes_max());
        Client {
            generator,
            destination,
            rows,
            begun: 0,
            opening: 0,
            live: 0,
            started: false,
            swept: 0,
            scratch,
        }
    }

    /// Opens connections, as many as may be under way.
    fn open(&mut self, context: &mut Context<'_, Self>) {
        while self.opening < OPENING_MAX && self.generator.may_open(self.begun) {
            context.connect(self.destination.connect(self.begun as usize, self.begun));
            self.begun += 1;
            self.opening += 1;
        }
    }

    /// Closes a connection for which the load is over.
    #[cold]
    fn finish(&mut self, conn: &mut Conn<'_, Self>) {
        if let Some(row) = self.rows.get_mut(*conn.session() as usize) {
            *row = None;
            self.live -= 1;
            conn.close(CloseCode::NORMAL, "");
        }
    }

    /// Looks at the next connections, and within a hundred turns at all: the end of the load, deadlines. More at a time would
    /// keep those waiting that something happens to.
    fn sweep(&mut self, context: &mut Context<'_, Self>) {
        // Each proof that an idle connection is there takes pages at both ends, until they are idle again.
        let most = if self.generator.proves() { PROOFS_MAX } else { SWEEP_MAX };
        let count = self.rows.len().div_ceil(SWEEP_TURNS).min(most);
        for _ in 0..count {
            self.look_at(self.swept, context);
            self.swept = (self.swept + 1) % self.rows.len();
        }
    }

    /// Sends what is due on a connection, closes it at its end and when it is overdue.
    fn look_at(&mut self, row: usize, context: &mut Context<'_, Self>) {
        let Some(Some(Live { conn, load })) = self.rows.get_mut(row) else { return };
        let conn = *conn;
        if self.generator.is_overdue(load) {
            self.generator.failed(load, self.generator.overdue());
            context.close(conn, CloseCode::GOING_AWAY, "no reply in time");
        } else if pump(&mut self.generator, load, &mut self.scratch, |message| context.send(conn, message)) {
            context.close(conn, CloseCode::NORMAL, "");
        } else {
            return;
        }
        self.rows[row] = None;
        self.live -= 1;
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
        on_message(self, conn, message);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>) {
        on_drain(self, conn);
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        self.tick(conn.now());
        let row = *conn.session();
        self.fail(row, close_failure(closed));
    }

    fn on_connect_failed(&mut self, context: &mut Context<'_, Self>, _: &Connect, cause: ConnectFailure) {
        self.tick(context.now());
        self.opening -= 1;
        self.generator.failed_to_open(connect_failure(&cause));
    }
}

impl Driven for Client {
    const INTERVAL: Duration = START_INTERVAL;

    fn generator(&mut self) -> &mut Generator {
        &mut self.generator
    }

    fn advance(&mut self, now: Instant, context: &mut Context<'_, Self>, sweep: bool) {
        self.tick(now);
        self.open(context);
        if !self.started && self.generator.has_started() {
            self.started = true;
            (0..self.rows.len()).for_each(|row| self.look_at(row, context));
        }
        while let Some(row) = self.generator.next_due() {
            self.look_at(row as usize, context);
        }
        if sweep {
            self.sweep(context);
        }
    }

    fn take_reply(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) -> Result<(), Failure> {
        let Client { rows, generator, scratch, .. } = self;
        // A connection that was given up waits for its end.
        let row = *conn.session() as usize;
        let Some(Some(Live { load, .. })) = rows.get_mut(row) else { return Ok(()) };
        generator.reply(load, message)?;
        if pump(generator, load, scratch, |message| conn.send(message)) {
            self.finish(conn);
        }
        Ok(())
    }

    fn go_on(&mut self, conn: &mut Conn<'_, Self>) {
        let Client { rows, generator, scratch, .. } = self;
        let row = *conn.session() as usize;
        let Some(Some(Live { load, .. })) = rows.get_mut(row) else { return };
        if pump(generator, load, scratch, |message| conn.send(message)) {
            self.finish(conn);
        }
    }

    #[cold]
    fn fail(&mut self, row: u32, failure: Failure) {
        if let Some(Live { load, .. }) = self.rows.get_mut(row as usize).and_then(Option::take) {
            self.generator.failed(&load, failure);
            self.live -= 1;
        }
    }

    fn is_done(&self) -> bool {
        let begun = self.begun == self.generator.share().connections || self.generator.is_over();
        begun && self.opening == 0 && self.live == 0
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
    give_up_at: Option<Instant>,
}

impl Rounds {
    /// Opens connections and looks at all of them, each as often as it is due at `now`; returns whether the load is
    /// over and its connections are closed. To be called before each poll.
    pub fn go<P: Port, L: Driven>(&mut self, worker: &mut Worker<P, L>, now: Instant) -> bool {
        if now < self.next_turn && now < worker.handler_mut().generator().next_due_at() {
            return false;
        }
        let sweep = now >= self.next_turn;
        if sweep {
            self.next_turn = now + L::INTERVAL;
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
    let mut now = clock.now();
    loop {
        if rounds.go(worker, now) {
            return worker.handler_mut().generator().finish();
        }
        let progress = worker.poll(now);
        after(worker, now, progress);
        let then = clock.now();
        if progress.busy {
            worker.handler_mut().generator().worked(now, then);
        }
        now = then;
    }
}
