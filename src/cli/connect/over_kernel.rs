//! A connection over a kernel socket: the same codec and TLS as the engine's, without the engine.

use super::ConnectError;
use super::live::Live;
use super::transport::{Ended, Event, Target, Transport};
use crate::engine::SendOutcome;
use crate::time::Duration;
use crate::tls::{Data, Stream as Tls, TlsError};
use crate::ws::deflate::{Deflater, Inflater, Outgoing};
use crate::ws::frame::CONTROL_BYTES_MAX;
use crate::ws::handshake::RESPONSE_HEAD_BYTES_MAX;
use crate::ws::{Close, CloseCode, Decoder, Event as Frame, Limits, Message, Opcode, Role};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// See the module.
pub(super) struct KernelSocket {
    target: Target,
    live: Option<Live>,
    events: VecDeque<Event>,
    /// RFC 6455 section 10.3: masking keys come from a strong source.
    random: ChaCha20Rng,
    input: Vec<u8>,
    inflater: Inflater,
    deflater: Deflater,
}

impl KernelSocket {
    pub(super) fn new(target: Target) -> Result<Self, ConnectError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|cause| ConnectError::Kernel { what: "no random bytes", cause: cause.into() })?;
        let random = ChaCha20Rng::from_seed(seed);
        let deflater = Deflater::new(&target.deflate.unwrap_or_default());
        Ok(KernelSocket {
            target,
            live: None,
            events: VecDeque::new(),
            random,
            input: vec![0; READ_BYTES],
            inflater: Inflater::default(),
            deflater,
        })
    }

    /// TCP, TLS and the opening handshake, in that order and with their time limit. The server may have ended it already.
    fn connect(&mut self) -> Result<(Live, Option<Ended>), Ended> {
        let deadline = Instant::now() + self.target.timeout;
        let none = || Ended::NoConnection("the name has no address".into());
        let mut tcp = Err(none());
        for (remote, untried) in self.target.remotes.iter().zip((1..=self.target.remotes.len() as u32).rev())
        {
            // Those that come after it have their share of the time left.
            let left = deadline.saturating_duration_since(Instant::now());
            match TcpStream::connect_timeout(remote, (left / untried).max(Duration::from_millis(1))) {
                Ok(stream) => {
                    tcp = Ok(stream);
                    break;
                }
                Err(error) => tcp = Err(Ended::NoConnection(format!("{remote}: {error}"))),
            }
        }
        let mut tcp = tcp?;
        let broke = |error: std::io::Error| Ended::NoConnection(error.to_string());
        tcp.set_nodelay(true).map_err(broke)?;
        let mut tls = None;
        if let Some(config) = &self.target.tls {
            let stream = config.connect(self.target.url.host()).map_err(tls_failed)?;
            tls = Some(Box::new(secure(&mut tcp, stream, deadline)?));
        }
        let decoder = Decoder::new(Role::Client, Limits::default());
        let heard_at = Instant::now();
        let mut live = Live {
            tcp,
            tls,
            decoder,
            history: None,
            outgoing: None,
            unsent: Vec::new(),
            pong: None,
            congested: false,
            close_sent: false,
            closed_as: None,
            heard_at,
            pinged: false,
        };
        let before = self.events.len();
        let (protocol, ended) = self.upgrade(&mut live, deadline)?;
        live.tcp.set_read_timeout(None).and_then(|()| live.tcp.set_nonblocking(true)).map_err(broke)?;
        let peer = live.tcp.peer_addr().map_err(broke)?;
        let agreed = live.tls.as_ref().and_then(|tls| tls.agreed());
        let tls = agreed.map(|agreed| format!("{} {}", agreed.version, agreed.cipher_suite));
        let compressed = live.outgoing.is_some();
        self.events.insert(before, Event::Opened { peer, protocol, tls, compressed });
        Ok((live, ended))
    }

    /// The opening handshake; returns the subprotocol that was chosen, and how it ended, if it did at once.
    fn upgrade(
        &mut self,
        live: &mut Live,
        deadline: Instant,
    ) -> Result<(Option<String>, Option<Ended>), Ended> {
        let mut nonce = [0; 16];
        self.random.fill_bytes(&mut nonce);
        let target = self.target.clone();
        let request = target.request(nonce);
        let mut bytes = Vec::new();
        request.write(&mut bytes).map_err(|error| Ended::NoConnection(error.to_string()))?;
        live.seal(&bytes).map_err(tls_failed)?;
        let broke = |error: std::io::Error| Ended::NoConnection(error.to_string());
        live.tcp.write_all(&live.unsent).map_err(broke)?;
        live.unsent.clear();
        let mut response = Vec::new();
        loop {
            let length = read_until(&mut live.tcp, &mut self.input, deadline)?;
            let plain = &mut response;
            live.open(&mut self.input[..length], |bytes| plain.extend_from_slice(bytes))
                .map_err(tls_failed)?;
            match request.check_response(&response) {
                Ok(None) if response.len() > RESPONSE_HEAD_BYTES_MAX => {
                    return Err(Ended::Refused("its answer is too long".into()));
                }
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let protocol = accepted.protocol.map(str::to_owned);
                    if let Some(agreed) = accepted.deflate {
                        live.decoder = Decoder::new(Role::Client, Limits::default()).with_compression();
                        live.history = agreed.receive.history();
                        live.outgoing = Some(Outgoing::new(agreed.send));
                    }
                    let consumed = accepted.consumed;
                    let ended = self.decode(live, &mut response[consumed..]);
                    return Ok((protocol, ended));
                }
                Err(error) => return Err(Ended::refused(&error)),
            }
        }
    }

    /// Reads what there is; returns how it ended, if it did.
    fn read(&mut self, live: &mut Live) -> Option<Ended> {
        let length = match live.tcp.read(&mut self.input) {
            Ok(0) => return Some(Ended::Broke("the server ended it without a close frame".into())),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return None;
            }
            Err(error) => return Some(Ended::Broke(error.to_string())),
        };
        live.heard_at = Instant::now();
        live.pinged = false;
        if live.tls.is_none() {
            let mut input = std::mem::take(&mut self.input);
            let ended = self.decode(live, &mut input[..length]);
            self.input = input;
            return ended;
        }
        let mut plain = Vec::new();
        let opened = live.open(&mut self.input[..length], |bytes| plain.extend_from_slice(bytes));
        let ended = self.decode(live, &mut plain);
        ended.or_else(|| opened.err().map(tls_failed))
    }

    /// Takes frames apart; returns how it ended, if it did.
    fn decode(&mut self, live: &mut Live, mut bytes: &mut [u8]) -> Option<Ended> {
        while !bytes.is_empty() {
            let decoded = match live.decoder.decode(bytes) {
                Ok(decoded) => decoded,
                Err(error) => return Some(live.violated(error, &mut self.random)),
            };
            let consumed = decoded.consumed;
            let mut violation = None;
            match decoded.event {
                None => {}
                // What comes after our close frame is discarded.
                Some(Frame::Message(_) | Frame::Compressed(_) | Frame::Ping(_) | Frame::Pong(_))
                    if live.close_sent => {}
                Some(Frame::Compressed(compressed)) => {
                    let limit = Limits::default().message_bytes_max;
                    match self.inflater.inflate(compressed, live.history.as_mut(), limit) {
                        Ok(message) => self.events.push_back(received(message)),
                        Err(error) => violation = Some(error),
                    }
                }
                Some(Frame::Message(message)) => self.events.push_back(received(message)),
                Some(Frame::Ping(payload)) => live.pong = Some(payload.to_vec()),
                Some(Frame::Pong(payload)) => self.events.push_back(Event::Pong(payload.to_vec())),
                Some(Frame::Close(close)) => {
                    let theirs = Ended::closed(close.code, close.reason);
                    let answer = close.code;
                    live.push_close(Close { code: answer, reason: "" }, &mut self.random);
                    return Some(live.closed_as.take().unwrap_or(theirs));
                }
            }
            if let Some(error) = violation {
                return Some(live.violated(error, &mut self.random));
            }
            bytes = bytes.get_mut(consumed..).unwrap_or_default();
        }
        None
    }

    /// Pings a server that was silent for so long; returns how it ended, if it was for longer.
    fn check_silence(&mut self, live: &mut Live) -> Option<Ended> {
        let ping = self.target.ping?;
        let silent = live.heard_at.elapsed();
        if live.pinged && silent >= 2 * ping {
            return Some(Ended::Broke("no answer to a ping".into()));
        }
        if !live.pinged && silent >= ping && !live.close_sent {
            live.pinged = true;
            live.push(Opcode::Ping, b"", &mut self.random);
        }
        None
    }
}

impl Transport for KernelSocket {
    fn open(&mut self) {
        match self.connect() {
            Ok((live, None)) => self.live = Some(live),
            Ok((live, Some(ended))) => {
                live.end();
                self.events.push_back(Event::Closed(ended));
            }
            Err(ended) => self.events.push_back(Event::Failed(ended)),
        }
    }

    fn turn(&mut self, also: Option<BorrowedFd<'_>>, at_most: Duration) -> bool {
        let wait = if self.events.is_empty() { at_most } else { Duration::ZERO };
        let timeout = Timespec::try_from(wait).unwrap_or_default();
        let mut fds: Vec<PollFd<'_>> =
            also.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        if let Some(live) = &self.live {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, live.reads());
            flags.set(PollFlags::OUT, live.has_to_write());
            fds.push(PollFd::from_borrowed_fd(live.tcp.as_fd(), flags));
        }
        let ready = poll(&mut fds, Some(&timeout)).is_ok();
        let typed = ready && also.is_some() && fds.first().is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if let Some(mut live) = self.live.take() {
            let came = if live.reads() { self.read(&mut live) } else { None };
            let ended = came
                .or_else(|| self.check_silence(&mut live))
                .or_else(|| live.flush())
                .or_else(|| live.answer_ping(&mut self.random));
            if live.congested && !live.has_to_write() {
                live.congested = false;
                self.events.push_back(Event::Drained);
            }
            match ended {
                None => self.live = Some(live),
                Some(ended) => {
                    live.end();
                    self.events.push_back(Event::Closed(ended));
                }
            }
        }
        typed
    }

    fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn send(&mut self, message: Message<'_>) -> SendOutcome {
        let Some(live) = self.live.as_mut().filter(|live| !live.close_sent) else {
            return SendOutcome::Closed;
        };
        if live.is_full() {
            live.congested = true;
            return SendOutcome::Dropped;
        }
        live.push_message(message, &mut self.deflater, self.target.deflate, &mut self.random);
        // How it ended, if it did, is found out by the next turn.
        let _ = live.flush();
        live.congested = !live.unsent.is_empty();
        if live.congested { SendOutcome::Queued } else { SendOutcome::Sent }
    }

    fn ping(&mut self, payload: &[u8]) {
        if let Some(live) = self.live.as_mut().filter(|live| !live.close_sent) {
            live.push(Opcode::Ping, &payload[..payload.len().min(CONTROL_BYTES_MAX)], &mut self.random);
        }
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        if let Some(live) = self.live.as_mut().filter(|live| !live.close_sent) {
            live.closed_as = Some(Ended::closed(code, reason));
            live.push_close(Close { code, reason }, &mut self.random);
        }
    }

    fn finish(&mut self) {
        if let Some(live) = self.live.take() {
            // From here on it is the kernel's.
            live.end();
        }
    }
}

/// The TLS handshake.
fn secure(tcp: &mut TcpStream, mut tls: Tls, deadline: Instant) -> Result<Tls, Ended> {
    let mut input = vec![0; READ_BYTES];
    loop {
        let sent = tcp.write_all(tls.control());
        tls.control().clear();
        sent.map_err(|error| Ended::NoConnection(error.to_string()))?;
        if !tls.is_handshaking() {
            return Ok(tls);
        }
        let length = read_until(tcp, &mut input, deadline)?;
        let mut rest = &mut input[..length];
        while !rest.is_empty() {
            match tls.receive(rest) {
                Ok(step) if step.data == Data::Nothing => rest = &mut rest[step.taken..],
                Ok(_) => return Err(Ended::Refused("the server spoke before it was asked".into())),
                Err(error) => {
                    // Why, for the server's log; it may not want to know.
                    let _ = tcp.write_all(tls.control());
                    return Err(tls_failed(error));
                }
            }
        }
    }
}

/// Reads something before the deadline.
fn read_until(tcp: &mut TcpStream, input: &mut [u8], deadline: Instant) -> Result<usize, Ended> {
    let late = || Ended::NoConnection("no answer in time (--timeout)".into());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        tcp.set_read_timeout(Some(left)).map_err(|error| Ended::NoConnection(error.to_string()))?;
        match tcp.read(input) {
            Ok(0) => return Err(Ended::NoConnection("the server ended it before it answered".into())),
            Ok(length) => return Ok(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(late());
            }
            Err(error) => return Err(Ended::NoConnection(error.to_string())),
        }
    }
}

fn received(message: Message<'_>) -> Event {
    match message {
        Message::Text(text) => Event::Text(text.to_owned()),
        Message::Binary(bytes) => Event::Binary(bytes.to_vec()),
    }
}

fn tls_failed(error: TlsError) -> Ended {
    Ended::Tls(error.to_string())
}
