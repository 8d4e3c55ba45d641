//! TLS between a connection's rings and its session: `wss://`.
//!
//! What was received is opened where it lies in the receive ring and read from there, one record at a time; what is sent
//! is sealed in the send ring. A plain connection passes by all of this with one look at [`Outbound::secure`].
//!
//! [`Outbound::secure`]: super::outbound::Outbound

use super::handler::{Cause, Closed, ConnectFailure, Handler};
use super::local::Local;
use super::opening;
use super::serve::{conclude, lend};
use super::session::{Inbound, Phase};
use super::worker::Worker;
use crate::port::Port;
use crate::stack::{ConnId, SendHalf, Stack, Status};
use crate::tls::{Agreed, Data, Stream, TlsError, Violation};
use crate::ws::CloseCode;
use std::ops::Range;

/// Records without data that one turn opens.
const EMPTY_RECORDS_MAX: usize = 16;
/// Most plaintext in one record (RFC 8446 section 5.1).
const FRAGMENT_BYTES_MAX: usize = 16 << 10;
/// The largest record that we seal: a full one and what any cipher adds.
const SEALED_BYTES_MAX: usize = FRAGMENT_BYTES_MAX + 64;

/// The TLS of one connection, what of its input was opened and not read, and what of its output is not sealed.
///
/// During its turn a connection gathers what is sent on it and seals it at the turn's end: sixteen answers become one
/// record, as they become one segment. What is gathered has its place in the send ring: it never waits.
pub(super) struct Secure {
    stream: Stream,
    input: Input,
    /// Plaintext to be sealed.
    gathered: Vec<u8>,
    /// It is this connection's turn.
    gathers: bool,
}

/// What a connection has to read.
#[derive(Debug, Default)]
pub(super) enum Input {
    /// What lies in the receive ring, as it came.
    #[default]
    Plain,
    /// Nothing: the next record is to be opened first.
    Empty,
    /// Plaintext in the receive ring: this range of the record of `record_bytes` in front.
    Ring {
        /// Where it is.
        data: Range<usize>,
        /// How long the record is.
        record_bytes: usize,
    },
    /// Plaintext that came in pieces: this range of a buffer.
    Held {
        /// Where it is.
        data: Range<usize>,
        /// The buffer.
        buffer: Vec<u8>,
    },
}

impl Input {
    /// Lends what there is to read, and the sending half, to `f`, which returns how much it used; as
    /// [`Stack::with_received`].
    #[inline]
    pub(super) fn lend<R>(
        &mut self,
        stack: &mut Stack,
        id: ConnId,
        f: impl FnOnce(&mut [u8], &mut SendHalf<'_>) -> (usize, R),
    ) -> Option<R> {
        match self {
            Input::Plain => stack.with_received(id, f),
            Input::Empty => None,
            Input::Ring { data, record_bytes } => stack.with_received(id, |bytes, half| {
                let (used, result) = f(bytes.get_mut(data.clone()).unwrap_or_default(), half);
                data.start = data.start.saturating_add(used).min(data.end);
                (if data.start == data.end { *record_bytes } else { 0 }, result)
            }),
            Input::Held { data, buffer } => {
                let mut half = stack.sender(id)?;
                let (used, result) = f(buffer.get_mut(data.clone()).unwrap_or_default(), &mut half);
                data.start = data.start.saturating_add(used).min(data.end);
                Some(result)
            }
        }
    }

    /// Plaintext that was not read, bytes.
    fn unread_bytes(&self) -> usize {
        match self {
            Input::Plain | Input::Empty => 0,
            Input::Ring { data, .. } | Input::Held { data, .. } => data.len(),
        }
    }
}

impl Secure {
    pub(super) fn new(stream: Stream) -> Box<Self> {
        Box::new(Secure { stream, input: Input::Empty, gathered: Vec::new(), gathers: false })
    }

    /// What was agreed on; `None` during the handshake.
    pub(super) fn agreed(&self) -> Option<&Agreed> {
        self.stream.agreed()
    }

    /// Bytes that wait for room in the send ring.
    pub(super) fn waiting_bytes(&self) -> usize {
        // What is gathered outlives a turn only when new keys took the place that it had.
        self.stream.control_bytes() + if self.gathers { 0 } else { self.gathered.len() }
    }

    /// How much plaintext the send ring has room for.
    pub(super) fn room(&self, half: &SendHalf<'_>) -> usize {
        self.stream.room(half.free_bytes()).saturating_sub(self.gathered.len())
    }

    /// Takes as much of `len` bytes as there is room for; returns how much. `fill` writes the bytes from an offset on.
    pub(super) fn write(
        &mut self,
        half: &mut SendHalf<'_>,
        len: usize,
        fill: impl Fn(usize, &mut [u8]),
    ) -> usize {
        let wanted = len.min(self.room(half));
        let mut done = 0;
        while done < wanted {
            let left = wanted - done;
            let piece = left.min(FRAGMENT_BYTES_MAX - self.gathered.len());
            let whole_record = self.gathered.is_empty() && (piece == FRAGMENT_BYTES_MAX || !self.gathers);
            if whole_record && self.seal(half, piece, |place| fill(done, place)) {
                done += piece;
                continue;
            }
            let start = self.gathered.len();
            self.gathered.resize(start + piece, 0);
            fill(done, &mut self.gathered[start..]);
            done += piece;
            if !self.gathers || self.gathered.len() == FRAGMENT_BYTES_MAX {
                self.seal_gathered(half);
                if !self.gathered.is_empty() {
                    break;
                }
            }
        }
        if done < len {
            half.want_room();
        }
        done
    }

    /// Seals what was gathered. It fits, unless new keys took the place: then it waits.
    fn seal_gathered(&mut self, half: &mut SendHalf<'_>) {
        if self.gathered.is_empty() {
            return;
        }
        let plain = std::mem::take(&mut self.gathered);
        let sealed = self.stream.room(half.free_bytes()) >= plain.len()
            && self.seal(half, plain.len(), |place| place.copy_from_slice(&plain));
        self.gathered = plain;
        if sealed {
            self.gathered.clear();
        } else if !self.stream.can_send() {
            // Nothing can be sent any more, and reading will find out why.
            self.gathered = Vec::new();
        } else {
            half.want_room();
        }
    }

    /// Seals one record of so many bytes, for which there is room, into the ring; `false` when new keys have to be told
    /// first.
    fn seal(&mut self, half: &mut SendHalf<'_>, plain_bytes: usize, fill: impl Fn(&mut [u8])) -> bool {
        let Some((_, record_bytes)) = self.stream.next_record(plain_bytes) else {
            self.flush_control(half);
            return false;
        };
        let whole = half.write_in_place(record_bytes, |place| self.stream.seal(place, &fill));
        if !whole {
            self.seal_in_pieces(half, record_bytes, fill);
        }
        true
    }

    /// For a record that meets the ring's end.
    #[cold]
    fn seal_in_pieces(&mut self, half: &mut SendHalf<'_>, record_bytes: usize, fill: impl FnOnce(&mut [u8])) {
        let mut buffer = [0; SEALED_BYTES_MAX];
        let record = &mut buffer[..record_bytes.min(SEALED_BYTES_MAX)];
        self.stream.seal(record, fill);
        // `room` has seen to it that all of it fits.
        half.write(record);
    }

    /// Its turn has begun: `spare` is memory to gather in.
    pub(super) fn begin_turn(&mut self, spare: Vec<u8>) {
        if self.gathered.capacity() == 0 {
            self.gathered = spare;
        }
        self.gathers = true;
    }

    /// Its turn is over; gives the memory back.
    fn end_turn(&mut self, half: Option<SendHalf<'_>>) -> Vec<u8> {
        self.gathers = false;
        if let Some(mut half) = half {
            self.seal_gathered(&mut half);
        }
        if self.gathered.is_empty() { std::mem::take(&mut self.gathered) } else { Vec::new() }
    }

    /// Moves what waits into the ring as far as it fits.
    pub(super) fn flush(&mut self, half: &mut SendHalf<'_>) {
        self.flush_control(half);
        if !self.gathers {
            self.seal_gathered(half);
        }
    }

    fn flush_control(&mut self, half: &mut SendHalf<'_>) {
        let control = self.stream.control();
        if !control.is_empty() {
            let written = half.write(control);
            control.drain(..written);
        }
    }

    /// Says that nothing more will be sent (RFC 8446 section 6.1); returns whether that is in the ring.
    pub(super) fn close(&mut self, half: &mut SendHalf<'_>) -> bool {
        self.seal_gathered(half);
        if self.gathered.is_empty() {
            self.stream.close();
        }
        self.flush_control(half);
        self.stream.control_bytes() + self.gathered.len() == 0
    }

    /// Puts back what [`Local::take_input`] took.
    pub(super) fn put_input(&mut self, input: Input) {
        let used_up = input.unread_bytes() == 0;
        match input {
            Input::Held { buffer, .. } if used_up => self.stream.put_held(buffer),
            Input::Ring { .. } if used_up => {}
            input => self.input = input,
        }
    }

    /// Whether the peer said that it sends nothing more, and everything was read.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        self.stream.is_closed_by_peer() && self.unread_bytes() == 0
    }

    /// Plaintext that was not read, bytes.
    pub(super) fn unread_bytes(&self) -> usize {
        self.input.unread_bytes()
    }

    /// Memory that what the peer sent takes.
    fn held_bytes(&self) -> usize {
        let buffer = if let Input::Held { buffer, .. } = &self.input { buffer.capacity() } else { 0 };
        self.stream.held_bytes() + buffer
    }

    fn heap_bytes(&self) -> usize {
        let buffer = if let Input::Held { buffer, .. } = &self.input { buffer.capacity() } else { 0 };
        size_of::<Self>() + self.stream.heap_bytes() + buffer
    }
}

impl<S> Local<S> {
    /// The TLS of the session in a slot, if it has one.
    #[inline]
    pub(super) fn secure(&mut self, index: u32) -> Option<&mut Secure> {
        self.at(index)?.outbound.secure.as_deref_mut()
    }

    /// Takes what a session has to read out of it, so that it can be lent while the session is used.
    #[inline]
    pub(super) fn take_input(&mut self, index: u32) -> Input {
        match self.secure(index) {
            None => Input::Plain,
            Some(secure) => std::mem::replace(&mut secure.input, Input::Empty),
        }
    }

    /// Puts back what [`Local::take_input`] took.
    #[inline]
    pub(super) fn put_input(&mut self, index: u32, input: Input) {
        if !matches!(input, Input::Plain)
            && let Some(secure) = self.secure(index)
        {
            secure.put_input(input);
        }
    }

    /// Heap that the TLS of a session holds, and how much of it what the peer sent, bytes.
    pub(super) fn secure_heap(&mut self, index: u32) -> (usize, usize) {
        self.secure(index).map_or((0, 0), |secure| {
            if secure.unread_bytes() == 0 {
                secure.stream.reclaim();
            }
            (secure.heap_bytes(), secure.held_bytes())
        })
    }
}

impl<P: Port, H: Handler> Worker<P, H> {
    /// The turn of a connection with TLS is over: what was gathered is sealed.
    pub(super) fn end_secure_turn(&mut self, id: ConnId) {
        let Worker { stack, local, gather_spare, .. } = self;
        if let Some(secure) = local.session(id).and_then(|session| session.outbound.secure.as_deref_mut()) {
            *gather_spare = secure.end_turn(stack.sender(id));
        }
    }

    /// The TLS of a connection that was accepted where TLS is spoken.
    pub(super) fn accept_secure(&self, id: ConnId) -> Option<Result<Box<Secure>, TlsError>> {
        let port = self.stack.local(id)?.port();
        let tls = self.tls.as_ref().filter(|_| self.tls_ports.contains(&port))?;
        Some(tls.accept().map(Secure::new))
    }

    /// Whether there is something to read. With TLS that means: opens records until there is.
    #[inline]
    pub(super) fn has_input(&mut self, id: ConnId, has_tls: bool) -> bool {
        if has_tls { self.has_secure_input(id) } else { self.stack.received_bytes(id) > 0 }
    }

    /// Apart, so that the question costs a plain connection no call.
    #[inline(never)]
    fn has_secure_input(&mut self, id: ConnId) -> bool {
        match self.inbound.get(id.index as usize) {
            Some(Inbound::Idle | Inbound::Proxy(_)) | None => self.stack.received_bytes(id) > 0,
            Some(_) => self.open_records(id),
        }
    }

    /// Bytes that came and were not read: in the ring or opened already.
    pub(super) fn has_unread(&mut self, id: ConnId) -> bool {
        let idle = matches!(self.inbound.get(id.index as usize), Some(Inbound::Idle) | None);
        let mut opened = || self.local.secure(id.index).is_some_and(|secure| secure.unread_bytes() > 0);
        self.stack.received_bytes(id) > 0 || !idle && opened()
    }

    fn open_records(&mut self, id: ConnId) -> bool {
        let mut empty_left = EMPTY_RECORDS_MAX;
        let mut worked = false;
        let mut result = Ok(());
        let found = loop {
            let Worker { stack, local, .. } = self;
            let Some(secure) = local.secure(id.index) else { break false };
            if secure.unread_bytes() > 0 {
                break true;
            }
            if stack.received_bytes(id) == 0 {
                break false;
            }
            let handshaking = secure.stream.is_handshaking();
            if empty_left == 0 || handshaking && self.handshakes_left == 0 {
                // Others first.
                self.unfinished.push(id);
                break false;
            }
            worked = true;
            let stream = &mut secure.stream;
            let step = stack.with_received(id, |bytes, _| match stream.receive(bytes) {
                Ok(step) => {
                    let stays = matches!(step.data, Data::Shown(_));
                    (if stays { 0 } else { step.taken }, Ok(step))
                }
                Err(error) => (bytes.len(), Err(error)),
            });
            match step {
                None => break false,
                Some(Ok(step)) => {
                    self.handshakes_left -= usize::from(step.handshake);
                    empty_left -= usize::from(!step.handshake && step.data == Data::Nothing);
                    secure.take(step.data, step.taken);
                    if handshaking && !secure.stream.is_handshaking() {
                        local.note_handshake(id);
                    }
                }
                Some(Err(error)) => {
                    result = Err(error);
                    break false;
                }
            }
        };
        if worked {
            self.hear(id);
            self.flush_secure(id);
        }
        if let Err(error) = result {
            self.secure_failed(id, &error);
        }
        found
    }

    /// Sends what TLS itself has to say.
    fn flush_secure(&mut self, id: ConnId) {
        let Worker { stack, local, .. } = self;
        let Some(secure) = local.secure(id.index).filter(|secure| secure.waiting_bytes() > 0) else { return };
        if let Some(mut half) = stack.sender(id) {
            secure.flush(&mut half);
        }
    }

    /// Says close_notify on a connection that is about to be given up, if it still can be said.
    pub(super) fn end_secure(&mut self, id: ConnId) {
        let Worker { stack, local, .. } = self;
        let Some(secure) = local.secure(id.index) else { return };
        if matches!(stack.status(id), Some(Status::Open | Status::PeerFinished))
            && let Some(mut half) = stack.sender(id)
        {
            secure.close(&mut half);
        }
    }

    /// TLS has failed: nothing can be sent any more but an alert, and nothing read.
    fn secure_failed(&mut self, id: ConnId, error: &TlsError) {
        tracing::debug!(peer = ?self.stack.peer(id), %error, "TLS failed");
        let Some(session) = self.local.session(id) else { return };
        session.outbound.drop_waiting();
        match session.phase {
            Phase::Connecting | Phase::Response => self.fail_connect(id, ConnectFailure::Tls(error.clone())),
            Phase::Head => {
                self.local.stats.tls_failed += 1;
                if *error == TlsError::PlainHttp {
                    self.scratch.clear();
                    opening::answer_plain_http(&mut self.scratch);
                    if let Some(mut half) = self.stack.sender(id) {
                        half.write(&self.scratch);
                    }
                }
                self.linger(id);
            }
            Phase::Open | Phase::CloseSent => {
                self.local.stats.tls_failed += 1;
                let violation = match error {
                    TlsError::Violation(violation) => *violation,
                    _ => Violation::Malformed,
                };
                self.end_open(id, Cause::Tls(violation));
            }
            Phase::Lingering => {}
        }
    }

    /// An open WebSocket whose bytes cannot be trusted (any more) is over.
    fn end_open(&mut self, id: ConnId, cause: Cause) {
        if let Some(mut conn) = lend(&mut self.stack, &mut self.local, id) {
            let closed = Closed { code: CloseCode::ABNORMAL, reason: "", clean: false, cause };
            conclude(&mut self.handler, &mut conn, &closed, true);
        }
        self.inbound[id.index as usize] = Inbound::Idle;
    }
}

impl Secure {
    fn take(&mut self, data: Data, record_bytes: usize) {
        match data {
            Data::Nothing => {}
            Data::Shown(data) => self.input = Input::Ring { data, record_bytes },
            Data::Held(data) => self.input = Input::Held { data, buffer: self.stream.take_held() },
        }
    }
}

impl<S> Local<S> {
    /// A handshake is over: what waited for it goes out.
    fn note_handshake(&mut self, id: ConnId) {
        let Some(session) = self.session(id) else { return };
        let resumed = session.outbound.secure.as_ref().and_then(|secure| secure.agreed().map(|a| a.resumed));
        let waits = session.outbound.waiting_bytes() > 0;
        self.stats.tls_handshakes += 1;
        self.stats.tls_resumed += u64::from(resumed == Some(true));
        if waits {
            self.attention.push(id);
        }
    }
}
