//! Connections that are opened, used for a few echoes and closed, again and again: a [`Handler`] for each generator
//! worker. What is timed is the opening, from the SYN to the answer to the upgrade request.
//!
//! The server is asked by a close frame and closes TCP first (RFC 6455 section 7.1.1), so TIME-WAIT is on its side.
//! A place for a connection is free again once the engine has reported that the last one there is over, and is given up
//! with the first one that cannot be opened: a server that has gone away ends the load.

use super::client::{self, Destination, Driven};
use super::generator::Generator;
use super::load::{Birth, Failure, Load};
use super::tally::Cause;
use crate::engine::{Closed, Conn, ConnRef, Connect, ConnectFailure, Context, Handler, SendOutcome};
use crate::time::{Duration, Instant};
use crate::ws::{CloseCode, Message};

/// Most connections that one worker opens at the same time.
const OPENING_MAX: u32 = 256;
/// How often connections are opened.
const OPEN_INTERVAL: Duration = Duration::from_micros(20);
/// How often connections are looked at that nothing happens to.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// The places for connections of one generator worker.
pub struct Churn {
    generator: Generator,
    destination: Destination,
    echoes: u32,
    places: Vec<Place>,
    free: Vec<u32>,
    given_up: usize,
    opening: u32,
    turn: usize,
    next_sweep: Instant,
    scratch: Vec<u8>,
}

struct Place {
    state: State,
    load: Load,
}

enum State {
    Free,
    Opening(Birth),
    /// Open, with so many echoes still to come.
    Open(ConnRef, u32),
    /// Ours is the close frame, the server's is awaited.
    Closing,
    /// What went wrong is counted; the end is awaited.
    Failed,
}

impl Churn {
    /// Connections to `destination`, each for so many echoes; `generator` says how many at a time, and when to end.
    pub fn new(mut generator: Generator, destination: Destination, echoes: u32) -> Self {
        let count = generator.share().connections;
        let places = (0..count).map(|row| Place { state: State::Free, load: generator.place(row) }).collect();
        generator.settle();
        let scratch = Vec::with_capacity(generator.message_bytes_max());
        let free = (0..count).rev().collect();
        let next_sweep = Instant::ZERO;
        Churn {
            generator,
            destination,
            echoes,
            places,
            free,
            given_up: 0,
            opening: 0,
            turn: 0,
            next_sweep,
            scratch,
        }
    }

    fn open(&mut self, context: &mut Context<'_, Self>) {
        while self.opening < OPENING_MAX && self.generator.may_begin() {
            let Some(row) = self.free.pop() else { return };
            self.places[row as usize].state = State::Opening(self.generator.begun());
            self.opening += 1;
            context.connect(self.destination.connect(self.turn, row));
            self.turn = self.turn.wrapping_add(1);
        }
    }

    /// Gives up connections whose echo does not come.
    fn sweep(&mut self, context: &mut Context<'_, Self>) {
        for row in 0..self.places.len() {
            let Place { state: State::Open(conn, _), load } = &self.places[row] else { continue };
            if self.generator.is_overdue(load) {
                context.close(*conn, CloseCode::GOING_AWAY, "no reply in time");
                self.fail(row as u32, self.generator.overdue());
            }
        }
    }
}

impl Driven for Churn {
    const INTERVAL: Duration = OPEN_INTERVAL;

    fn generator(&mut self) -> &mut Generator {
        &mut self.generator
    }

    fn advance(&mut self, now: Instant, context: &mut Context<'_, Self>, sweep: bool) {
        self.tick(now);
        self.open(context);
        if sweep && now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.sweep(context);
        }
    }

    fn take_reply(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) -> Result<(), Failure> {
        let place = &mut self.places[*conn.session() as usize];
        let State::Open(_, left) = &mut place.state else { return Ok(()) };
        self.generator.verify(&mut place.load, message)?;
        *left -= 1;
        self.go_on(conn);
        Ok(())
    }

    /// Sends the next message, or closes after the last echo.
    fn go_on(&mut self, conn: &mut Conn<'_, Self>) {
        let place = &mut self.places[*conn.session() as usize];
        let State::Open(_, left) = place.state else { return };
        if left == 0 {
            place.state = State::Closing;
            conn.close(CloseCode::NORMAL, "");
            return;
        }
        if place.load.is_waiting() {
            return;
        }
        self.scratch.clear();
        self.generator.write(&place.load, &mut self.scratch);
        let text = if self.generator.is_text() { str::from_utf8(&self.scratch).ok() } else { None };
        let message = text.map_or(Message::Binary(&self.scratch), Message::Text);
        match conn.send(message) {
            SendOutcome::Sent | SendOutcome::Queued => self.generator.sent_beside(&mut place.load),
            // `on_drain` comes when there is room again, `on_close` when there never will be.
            SendOutcome::Dropped | SendOutcome::Closed => {}
        }
    }

    fn fail(&mut self, row: u32, failure: Failure) {
        let place = &mut self.places[row as usize];
        self.generator.failed(&place.load, failure);
        place.load.forget();
        place.state = State::Failed;
    }

    fn is_done(&self) -> bool {
        let idle = self.free.len() + self.given_up == self.places.len();
        idle && (self.generator.is_over() || self.free.is_empty())
    }
}

impl Handler for Churn {
    /// The place.
    type Session = u32;

    fn on_connect(&mut self, connect: &Connect, _protocol: Option<&str>) -> u32 {
        connect.token as u32
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.tick(conn.now());
        self.opening -= 1;
        let place = &mut self.places[*conn.session() as usize];
        if let Err(failure) = self.generator.check_compression(conn.is_compressed()) {
            self.generator.failed_to_open(failure);
            place.state = State::Failed;
            conn.close(CloseCode::POLICY, "not compressed");
            return;
        }
        if let State::Opening(birth) = place.state {
            self.generator.born(birth);
        }
        place.state = State::Open(conn.id(), self.echoes);
        self.go_on(conn);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        client::on_message(self, conn, message);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>) {
        client::on_drain(self, conn);
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        self.tick(conn.now());
        let row = *conn.session();
        match self.places[row as usize].state {
            State::Open(..) => self.fail(row, client::close_failure(closed)),
            State::Closing if closed.clean => self.generator.closed(&self.places[row as usize].load),
            State::Closing => {
                self.fail(row, Failure::new(Cause::Closed, "the closing handshake was not completed"));
            }
            State::Free | State::Opening(_) | State::Failed => {}
        }
        self.places[row as usize].state = State::Free;
        self.free.push(row);
    }

    fn on_connect_failed(
        &mut self,
        context: &mut Context<'_, Self>,
        connect: &Connect,
        cause: ConnectFailure,
    ) {
        self.tick(context.now());
        self.opening -= 1;
        self.generator.failed_to_open(client::connect_failure(&cause));
        self.places[connect.token as usize].state = State::Free;
        self.given_up += 1;
    }
}
