//! A connection over a kernel socket: the same codec and TLS as the engine's, without the engine.

use super::ConnectError;
use super::transport::{Ended, Event, Target, Transport};
use crate::engine::SendOutcome;
use crate::time::Duration;
use crate::tls::{Data, Stream as Tls, TlsError};
use crate::ws::deflate::{DeflateConfig, Deflater, History, Inflater, Outgoing};
use crate::ws::frame::CONTROL_BYTES_MAX;
use crate::ws::handshake::RESPONSE_HEAD_BYTES_MAX;
use crate::ws::{
    Close, CloseCode, Decoder, Event as Frame, Limits, Message, Opcode, ProtocolError, Role, append_frame,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes that may wait for the kernel before a message is not accepted.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of TLS's answers that may wait for the kernel before nothing more is read.
const TLS_CONTROL_BYTES_MAX: usize = 64 << 10;

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

/// An open WebSocket.
struct Live {
    tcp: TcpStream,
    tls: Option<Box<Tls>>,
    decoder: Decoder,
    /// What compressed messages refer to: theirs, and ours where compression was agreed on.
    history: Option<History>,
    outgoing: Option<Outgoing>,
    /// What the kernel has not taken yet. What TLS has to say of its own waits in `tls` meanwhile, where answers to key
    /// updates become one.
    unsent: Vec<u8>,
    /// Payload of the latest ping, while it is not answered (RFC 6455 section 5.5.3 asks for no other).
    pong: Option<Vec<u8>>,
    /// A message is not wholly on its way.
    congested: bool,
    /// Our close frame is out.
    close_sent: bool,
    /// What it said, when we closed first: that is how the connection ended, whatever the answer says.
    closed_as: Option<Ended>,
    heard_at: Instant,
    pinged: bool,
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
        if live.unsent.len() > UNSENT_BYTES_MAX {
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

impl Live {
    /// Whether the server is read from: not while it takes nothing of what reading it makes us say. Our own messages do
    /// not count: it may have to be heard before it reads on.
    fn reads(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.control_bytes() <= TLS_CONTROL_BYTES_MAX)
    }

    /// Whether anything waits for the kernel.
    fn has_to_write(&self) -> bool {
        let has_control = self.tls.as_ref().is_some_and(|tls| tls.control_bytes() > 0);
        !self.unsent.is_empty() || self.pong.is_some() || has_control
    }

    /// Answers the latest ping, once all before the answer is on its way; returns how the connection ended, if it did.
    fn answer_ping(&mut self, random: &mut ChaCha20Rng) -> Option<Ended> {
        if !self.unsent.is_empty() {
            return None;
        }
        let payload = self.pong.take()?;
        if !self.close_sent {
            self.push(Opcode::Pong, &payload, random);
        }
        self.flush()
    }

    /// Appends a frame to what is to be sent.
    fn push(&mut self, opcode: Opcode, payload: &[u8], random: &mut ChaCha20Rng) {
        let mut frame = Vec::new();
        append_frame(&mut frame, opcode, true, Some(random.next_u32().to_ne_bytes()), payload);
        // TLS that cannot seal any more has failed, which reading finds out.
        let _ = self.seal(&frame);
    }

    /// Appends a message, compressed where that was agreed on and makes it shorter.
    fn push_message(
        &mut self,
        message: Message<'_>,
        deflater: &mut Deflater,
        config: Option<DeflateConfig>,
        random: &mut ChaCha20Rng,
    ) {
        let payload = message.as_bytes();
        let worth = config.is_some_and(|config| payload.len() >= config.threshold_bytes);
        let Some(outgoing) = self.outgoing.as_mut().filter(|_| worth) else {
            return self.push(message.opcode(), payload, random);
        };
        let Some(compressed) = deflater.compress(payload, outgoing) else {
            return self.push(message.opcode(), payload, random);
        };
        outgoing.sent(payload);
        let mut frame = Vec::new();
        append_frame(&mut frame, message.opcode(), true, Some(random.next_u32().to_ne_bytes()), compressed);
        // RFC 7692 section 6: RSV1 says that it is compressed.
        frame[0] |= 0x40;
        // As in `push`.
        let _ = self.seal(&frame);
    }

    /// The server broke the protocol: says so, and how it ended.
    fn violated(&mut self, error: ProtocolError, random: &mut ChaCha20Rng) -> Ended {
        self.push_close(Close { code: error.close_code(), reason: "" }, random);
        Ended::Broke(format!("the server breaks the protocol: {error}"))
    }

    /// Appends our close frame, once.
    fn push_close(&mut self, close: Close<'_>, random: &mut ChaCha20Rng) {
        if !std::mem::replace(&mut self.close_sent, true) {
            let mut payload = [0; CONTROL_BYTES_MAX];
            let length = close.encode(&mut payload);
            self.push(Opcode::Close, &payload[..length], random);
        }
    }

    /// Appends bytes to what is to be sent, with TLS in records.
    fn seal(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        let Some(tls) = &mut self.tls else {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        };
        self.unsent.append(tls.control());
        let mut at = 0;
        while at < bytes.len() {
            let Some((plain_bytes, record_bytes)) = tls.next_record(bytes.len() - at) else {
                if tls.control_bytes() == 0 {
                    return Err(TlsError::Handshake("nothing can be sent any more".into()));
                }
                self.unsent.append(tls.control());
                continue;
            };
            let start = self.unsent.len();
            self.unsent.resize(start + record_bytes, 0);
            tls.seal(&mut self.unsent[start..], |place| place.copy_from_slice(&bytes[at..at + plain_bytes]));
            at += plain_bytes;
        }
        Ok(())
    }

    /// Gives what came to `each`, with TLS out of its records.
    fn open(&mut self, bytes: &mut [u8], mut each: impl FnMut(&[u8])) -> Result<(), TlsError> {
        let Some(tls) = &mut self.tls else {
            each(bytes);
            return Ok(());
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let step = tls.receive(rest)?;
            match step.data {
                Data::Nothing => {}
                Data::Shown(data) => each(&rest[data]),
                Data::Held(data) => {
                    let held = tls.take_held();
                    each(&held[data]);
                    tls.put_held(held);
                }
            }
            rest = rest.get_mut(step.taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Hands to the kernel what it takes; returns how it ended, if it did.
    fn flush(&mut self) -> Option<Ended> {
        if self.unsent.is_empty()
            && let Some(tls) = &mut self.tls
        {
            self.unsent.append(tls.control());
        }
        let mut sent = 0;
        let mut ended = None;
        while sent < self.unsent.len() {
            match self.tcp.write(&self.unsent[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    ended = Some(Ended::Broke(error.to_string()));
                    break;
                }
            }
        }
        self.unsent.drain(..sent);
        ended
    }

    /// The last that is said: what is unsent, TLS's close_notify, FIN. Nobody waits for it.
    fn end(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
            self.unsent.append(tls.control());
        }
        let _ = self.flush();
        let _ = self.tcp.shutdown(Shutdown::Write);
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
