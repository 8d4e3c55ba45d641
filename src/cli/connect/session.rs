//! The tool's loop: standard input to messages, messages to standard output, and what to do when it ends.

use super::input::{Input, Item};
use super::transport::{Ended, Event, Transport};
use super::{CliError, ConnectError};
use crate::engine::{Backoff, SendOutcome};
use crate::time::Duration;
use crate::ws::{CloseCode, Message};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Longest wait for something to happen: a signal ends it, too.
const TURN_MAX: Duration = Duration::from_millis(200);
/// How long the closing handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the tool was told.
pub(super) struct Settings {
    pub(super) binary: bool,
    pub(super) block_bytes: usize,
    /// Lines may be commands, also when nobody sits at a terminal.
    pub(super) commands: bool,
    /// How long nothing must have come after the end of standard input; `None`: go on until the server closes.
    pub(super) wait: Option<Duration>,
    /// Messages to receive before closing.
    pub(super) count: Option<u64>,
    pub(super) close: (CloseCode, String),
    /// With it, a connection that broke is opened again.
    pub(super) backoff: Option<Backoff>,
    pub(super) verbose: bool,
}

/// See the module.
pub(super) struct Session<T> {
    transport: T,
    settings: Settings,
    input: Input,
    commands: bool,
    state: State,
    /// The item that was not accepted yet.
    kept: Option<Item>,
    /// Something waits for room: standard input is left alone.
    congested: bool,
    received: u64,
    /// When something was last received, or standard input ended.
    busy_at: Instant,
    interrupted: Arc<AtomicBool>,
}

/// Where it stands.
#[derive(Clone, Debug)]
enum State {
    Opening,
    Open,
    /// Our close frame is out; given up at this time.
    Closing {
        until: Instant,
    },
    /// Until the next attempt.
    Waiting {
        until: Instant,
    },
    Ended(Ended),
}

impl<T: Transport> Session<T> {
    pub(super) fn new(transport: T, settings: Settings) -> Result<Self, CliError> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The first one closes in order, the second one ends the process.
            signal_hook::flag::register_conditional_shutdown(signal, 130, interrupted.clone())
                .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()))
                .map_err(|cause| ConnectError::Kernel { what: "no signal handler", cause })?;
        }
        Ok(Session {
            transport,
            input: Input::new(settings.binary, settings.block_bytes),
            commands: !settings.binary && (settings.commands || std::io::stdin().is_terminal()),
            settings,
            state: State::Opening,
            kept: None,
            congested: false,
            received: 0,
            busy_at: Instant::now(),
            interrupted,
        })
    }

    /// Goes on until it has ended for good.
    pub(super) fn run(mut self) -> Result<Ended, CliError> {
        self.transport.open();
        loop {
            while let Some(event) = self.transport.next_event() {
                self.happened(event)?;
            }
            self.type_on();
            self.look_at_the_clock();
            if let State::Ended(ended) = self.state {
                self.transport.finish();
                return Ok(ended);
            }
            let wants_input = matches!(self.state, State::Open)
                && !self.congested
                && self.kept.is_none()
                && !self.input.has_ended();
            let also = wants_input.then(|| self.input.fd());
            if self.transport.turn(also, self.patience()) {
                self.input.read();
                self.busy_at = Instant::now();
            }
        }
    }

    /// How long nothing may happen before there is something to look at.
    fn patience(&self) -> Duration {
        let until = match self.state {
            State::Closing { until } | State::Waiting { until } => until,
            _ => return if self.input.has_ended() { Duration::from_millis(20) } else { TURN_MAX },
        };
        until.saturating_duration_since(Instant::now()).min(TURN_MAX)
    }

    fn happened(&mut self, event: Event) -> Result<(), CliError> {
        match event {
            Event::Opened { peer, protocol, tls, compressed } => {
                let protocol = protocol.map(|name| format!(", subprotocol {name}")).unwrap_or_default();
                let tls = tls.map(|tls| format!(", {tls}")).unwrap_or_default();
                let compressed = if compressed { ", compressed" } else { "" };
                self.say(&format!("connected to {peer}{tls}{protocol}{compressed}"));
                self.state = State::Open;
                self.congested = false;
                self.busy_at = Instant::now();
                if let Some(backoff) = &mut self.settings.backoff {
                    backoff.reset();
                }
            }
            Event::Text(text) => self.received(text.as_bytes())?,
            Event::Binary(bytes) => self.received(&bytes)?,
            Event::Pong(payload) => {
                self.busy_at = Instant::now();
                self.say(&format!("pong {:?}", String::from_utf8_lossy(&payload)));
            }
            Event::Drained => self.congested = false,
            Event::Failed(ended) | Event::Closed(ended) => self.ended(ended),
        }
        Ok(())
    }

    fn received(&mut self, payload: &[u8]) -> Result<(), CliError> {
        self.busy_at = Instant::now();
        if self.settings.count.is_some_and(|count| self.received >= count) {
            return Ok(());
        }
        self.received += 1;
        let mut out = std::io::stdout().lock();
        let newline: &[u8] = if self.settings.binary { b"" } else { b"\n" };
        let written = out.write_all(payload).and_then(|()| out.write_all(newline)).and_then(|()| out.flush());
        if let Err(error) = written {
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                return Err(CliError::Output(error));
            }
            // Whoever read us has seen enough, like `head`.
            self.close(CloseCode::GOING_AWAY, "");
        } else if self.settings.count == Some(self.received) {
            self.close_as_told();
        }
        Ok(())
    }

    /// Sends what was typed, as long as there is room.
    fn type_on(&mut self) {
        while matches!(self.state, State::Open)
            && !self.congested
            && let Some(item) = self.kept.take().or_else(|| self.input.next())
        {
            let outcome = match &item {
                Item::Line(line) if self.commands && line.starts_with('/') => match line.strip_prefix("//") {
                    Some(rest) => self.transport.send(Message::Text(&format!("/{rest}"))),
                    None => {
                        self.obey(line);
                        continue;
                    }
                },
                Item::Line(line) => self.transport.send(Message::Text(line)),
                Item::Block(bytes) => self.transport.send(Message::Binary(bytes)),
            };
            match outcome {
                SendOutcome::Sent => {}
                SendOutcome::Queued => self.congested = true,
                SendOutcome::Dropped => {
                    self.kept = Some(item);
                    self.congested = true;
                }
                // Its end is on the way to us; after it the item is sent again, if there is an after.
                SendOutcome::Closed => {
                    self.kept = Some(item);
                    return;
                }
            }
        }
    }

    fn obey(&mut self, line: &str) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "/ping" => self.transport.ping(rest.as_bytes()),
            "/close" => {
                let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                match (code, super::close_code(code), super::close_reason(reason)) {
                    ("", ..) => self.close_as_told(),
                    (_, Ok(code), Ok(reason)) => self.close(CloseCode(code), &reason),
                    (_, Err(error), _) | (_, _, Err(error)) => eprintln!("{line}: {error}"),
                }
            }
            _ => {
                eprintln!("{command}: commands are /ping [TEXT] and /close [CODE [REASON]]; // sends a slash")
            }
        }
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if self.interrupted.load(Ordering::Relaxed) {
            match self.state {
                State::Open => self.close(CloseCode::GOING_AWAY, ""),
                State::Opening | State::Waiting { .. } => {
                    self.state = State::Ended(Ended::NoConnection("interrupted".into()));
                }
                State::Closing { .. } | State::Ended(_) => {}
            }
        }
        match self.state {
            State::Waiting { until } if now >= until => {
                self.state = State::Opening;
                self.transport.open();
            }
            State::Closing { until } if now >= until => {
                self.state = State::Ended(Ended::Broke("the server did not answer our close frame".into()));
            }
            State::Open if self.input.has_ended() && self.kept.is_none() && !self.congested => {
                let quiet = now.duration_since(self.busy_at);
                if self.settings.wait.is_some_and(|wait| quiet >= wait) {
                    self.close_as_told();
                }
            }
            _ => {}
        }
    }

    fn close_as_told(&mut self) {
        let (code, reason) = self.settings.close.clone();
        self.close(code, &reason);
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        if matches!(self.state, State::Open) {
            self.state = State::Closing { until: Instant::now() + CLOSE_TIMEOUT };
            self.transport.close(code, reason);
        }
    }

    fn ended(&mut self, ended: Ended) {
        let closing = matches!(self.state, State::Closing { .. });
        match &ended {
            Ended::Clean { code, reason } => self.say(&format!("closed: {} {reason:?}", code.0)),
            other => self.say(&other.words().unwrap_or_default()),
        }
        // What nobody wanted to end begins again: but not what will not be better the next time.
        let again = !closing && !matches!(ended, Ended::Tls(_));
        let wait =
            self.settings.backoff.as_mut().filter(|_| again).and_then(|backoff| backoff.next(random()));
        self.state = match wait {
            Some(wait) => {
                self.say(&format!("trying again in {:.1} s", wait.as_secs_f64()));
                State::Waiting { until: Instant::now() + wait }
            }
            None => State::Ended(ended),
        };
    }

    fn say(&self, what: &str) {
        if self.settings.verbose {
            eprintln!("{what}");
        }
    }
}

/// Any number.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
