//! One TLS connection: what was received goes in, plaintext comes out where the ciphertext lay; plaintext to send
//! becomes records in the place they are sent from. No socket, no ring, no clock.

use super::error::{TlsError, Violation};
use super::handshake::{Agreed, End, Handshake};
use super::record::{FRAGMENT_BYTES_MAX, HEADER_BYTES, record_bytes};
use super::traffic::{Opened, Traffic};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use std::ops::Range;

/// A TLS connection.
///
/// The caller has a receive buffer, shows its front to [`Stream::receive`] and takes off what [`Step::taken`] says, as long
/// as there is any; and a send buffer, into which [`Stream::control`] goes first, then what [`Stream::seal`]
/// makes.
pub struct Stream {
    state: State,
    /// Sealed already, to be sent before anything else: handshake messages, alerts, key updates.
    control: Vec<u8>,
    /// Received, and not whole: the handshake, or a record that was cut.
    held: Vec<u8>,
    agreed: Option<Box<Agreed>>,
    peer_closed: bool,
    close_sent: bool,
}

enum State {
    Handshake(Box<Handshake>),
    Traffic(Box<Traffic>),
    Failed,
}

/// What one call of [`Stream::receive`] came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes to take off the front of what was shown; when there is data in them, once that is used.
    pub taken: usize,
    /// Plaintext.
    pub data: Data,
    /// Whether a step of the handshake was done: these are expensive, keys are exchanged and signatures made.
    pub handshake: bool,
}

/// Where plaintext lies. Nothing more is opened before it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// There is none.
    Nothing,
    /// In what was shown.
    Shown(Range<usize>),
    /// In what [`Stream::take_held`] gives.
    Held(Range<usize>),
}

impl Stream {
    pub(super) fn server(server: UnbufferedServerConnection) -> Self {
        Stream::new(Handshake::new(End::Server(Box::new(server))))
    }

    pub(super) fn client(client: UnbufferedClientConnection) -> Result<Self, TlsError> {
        let mut stream = Stream::new(Handshake::new(End::Client(Box::new(client))));
        if let State::Handshake(handshake) = &mut stream.state {
            handshake.start(&mut stream.control)?;
        }
        Ok(stream)
    }

    fn new(handshake: Handshake) -> Self {
        Stream {
            state: State::Handshake(Box::new(handshake)),
            control: Vec::new(),
            held: Vec::new(),
            agreed: None,
            peer_closed: false,
            close_sent: false,
        }
    }

    /// Whether the handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.state, State::Handshake(_))
    }

    /// Whether data can be sealed.
    pub fn can_send(&self) -> bool {
        matches!(self.state, State::Traffic(_)) && !self.close_sent
    }

    /// Whether the peer said that it sends nothing more (its close_notify). A connection that ends without was cut.
    pub fn is_closed_by_peer(&self) -> bool {
        self.peer_closed
    }

    /// What was agreed on; `None` during the handshake.
    pub fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_deref()
    }

    /// Works on what was received: at most one record. Of bytes that are shown at least one is taken, unless this fails.
    /// What [`Data`] names must be used before the next call.
    ///
    /// # Errors
    /// The connection is over; an alert for the peer may be in [`Stream::control`].
    pub fn receive(&mut self, shown: &mut [u8]) -> Result<Step, TlsError> {
        let result = match &mut self.state {
            _ if self.peer_closed => Ok(Step::nothing(shown.len())),
            State::Handshake(_) => self.receive_handshake(shown),
            State::Traffic(_) => self.receive_record(shown).map_err(TlsError::from),
            State::Failed => Ok(Step::nothing(shown.len())),
        };
        if let Err(error) = &result {
            self.fail(error);
        }
        result
    }

    /// The record that came in pieces, with the data in it. To be given back with [`Stream::put_held`].
    pub fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Gives back the memory that [`Stream::take_held`] gave: the data in it is used.
    pub fn put_held(&mut self, mut held: Vec<u8>) {
        held.clear();
        self.held = held;
    }

    /// Bytes that must be sent before anything else; what was sent is to be drained.
    pub fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    /// Bytes of a record, or of a handshake message, that is not whole.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Bytes in [`Stream::control`].
    pub fn control_bytes(&self) -> usize {
        self.control.len()
    }

    /// How much plaintext can be sealed into `free` bytes of a send buffer; 0 while [`Stream::control`] waits.
    pub fn room(&self, free: usize) -> usize {
        let State::Traffic(traffic) = &self.state else { return 0 };
        if self.close_sent || !self.control.is_empty() {
            return 0;
        }
        let overhead = traffic.overhead();
        let whole = free / (FRAGMENT_BYTES_MAX + overhead);
        let rest = (free % (FRAGMENT_BYTES_MAX + overhead)).saturating_sub(overhead);
        whole * FRAGMENT_BYTES_MAX + rest
    }

    /// Splits `plain_bytes` of plaintext into records: how much goes into the next one, and how long that becomes.
    /// `None` when nothing can be sealed (now): [`Stream::control`] has to be sent first, or the keys are used up.
    pub fn next_record(&mut self, plain_bytes: usize) -> Option<(usize, usize)> {
        let State::Traffic(traffic) = &mut self.state else { return None };
        if self.close_sent {
            return None;
        }
        if let Err(violation) = traffic.refresh(&mut self.control) {
            self.fail(&violation.into());
            return None;
        }
        let plain = plain_bytes.min(FRAGMENT_BYTES_MAX);
        self.control.is_empty().then(|| (plain, plain + traffic.overhead()))
    }

    /// Seals a record into `place`, which is as long as [`Stream::next_record`] said; `fill` writes the plaintext.
    pub fn seal(&mut self, place: &mut [u8], fill: impl FnOnce(&mut [u8])) {
        if let State::Traffic(traffic) = &mut self.state {
            traffic.seal(place, fill);
        }
    }

    /// Says to the peer that nothing more will be sent, once (RFC 8446 section 6.1): into [`Stream::control`].
    pub fn close(&mut self) {
        if let State::Traffic(traffic) = &mut self.state
            && !std::mem::replace(&mut self.close_sent, true)
        {
            traffic.close(&mut self.control);
        }
    }

    /// Heap held, bytes; as far as it can be known, with an estimate of what rustls and the ciphers hold.
    pub fn heap_bytes(&self) -> usize {
        let state = match &self.state {
            State::Handshake(_) => HANDSHAKE_HEAP_BYTES,
            State::Traffic(traffic) => TRAFFIC_HEAP_BYTES + traffic.heap_bytes(),
            State::Failed => 0,
        };
        size_of::<Self>() + state + self.control.capacity() + self.held.capacity()
    }

    /// Frees what is not needed while nothing comes.
    pub fn reclaim(&mut self) {
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        if self.control.is_empty() {
            self.control = Vec::new();
        }
    }

    fn receive_handshake(&mut self, shown: &[u8]) -> Result<Step, TlsError> {
        let State::Handshake(handshake) = &mut self.state else { return Ok(Step::nothing(0)) };
        if self.held.is_empty() && shown.first().is_some_and(u8::is_ascii_uppercase) {
            return Err(TlsError::PlainHttp);
        }
        let taken = gather(&mut self.held, handshake.shown(), shown)?;
        let worked = handshake.take_record(&mut self.held, &mut self.control)?;
        if worked && handshake.is_done() {
            self.establish()?;
        }
        Ok(Step { taken, data: Data::Nothing, handshake: worked })
    }

    fn establish(&mut self) -> Result<(), TlsError> {
        if let State::Handshake(handshake) = std::mem::replace(&mut self.state, State::Failed) {
            let (traffic, agreed) = handshake.into_traffic()?;
            self.state = State::Traffic(Box::new(traffic));
            self.agreed = Some(Box::new(agreed));
        }
        Ok(())
    }

    /// One record: where it lies whole in `shown` there, else from pieces.
    fn receive_record(&mut self, shown: &mut [u8]) -> Result<Step, Violation> {
        let State::Traffic(traffic) = &mut self.state else { return Ok(Step::nothing(0)) };
        if self.held.is_empty()
            && let Some(bytes) = record_bytes(shown)?
            && let Some(record) = shown.get_mut(..bytes)
        {
            let opened = traffic.open(record, &mut self.control)?;
            self.peer_closed |= opened == Opened::End;
            let data = if let Opened::Data(range) = opened { Data::Shown(range) } else { Data::Nothing };
            return Ok(Step { taken: bytes, data, handshake: false });
        }
        let taken = gather(&mut self.held, 0, shown)?;
        let mut step = Step::nothing(taken);
        if record_bytes(&self.held)? == Some(self.held.len()) {
            match traffic.open(&mut self.held, &mut self.control)? {
                Opened::Data(range) => step.data = Data::Held(range),
                opened => {
                    self.peer_closed |= opened == Opened::End;
                    self.held.clear();
                }
            }
        }
        Ok(step)
    }

    fn fail(&mut self, error: &TlsError) {
        let state = std::mem::replace(&mut self.state, State::Failed);
        self.held = Vec::new();
        match (state, error) {
            (State::Traffic(mut traffic), TlsError::Violation(violation)) if !self.close_sent => {
                if let Some(alert) = violation.alert() {
                    traffic.fail(alert, &mut self.control);
                }
            }
            // During the handshake rustls has put its alert there already; what never was TLS gets an unprotected one.
            (State::Handshake(_), TlsError::Violation(violation)) if self.control.is_empty() => {
                if let Some(alert) = violation.alert() {
                    self.control.extend_from_slice(&[21, 3, 3, 0, 2, 2, alert]);
                }
            }
            _ => {}
        }
    }
}

impl Step {
    fn nothing(taken: usize) -> Self {
        Step { taken, data: Data::Nothing, handshake: false }
    }
}

/// Moves as much of `shown` as belongs to the record that begins at `start` of `held`; returns how much.
fn gather(held: &mut Vec<u8>, start: usize, shown: &[u8]) -> Result<usize, Violation> {
    let mut taken = 0;
    loop {
        let begun = held.get(start..).unwrap_or_default();
        let whole = record_bytes(begun)?.unwrap_or(HEADER_BYTES);
        let missing = whole.saturating_sub(begun.len()).min(shown.len() - taken);
        if missing == 0 {
            return Ok(taken);
        }
        held.extend_from_slice(&shown[taken..taken + missing]);
        taken += missing;
    }
}

/// What one connection holds beside [`Stream`] itself, rounded up: `cargo bench --bench tls` measures it.
const TRAFFIC_HEAP_BYTES: usize = 3 << 10;
/// As [`TRAFFIC_HEAP_BYTES`], during the handshake.
const HANDSHAKE_HEAP_BYTES: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::super::record::ContentType;
    use super::*;

    const REQUEST_KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

    /// A server and a client after their handshake; the server's ticket still waits to be sent.
    fn established() -> (Stream, Stream) {
        let (server, client) = super::super::pair("a.example").unwrap();
        let (mut server, mut client) = (server.accept().unwrap(), client.connect("a.example").unwrap());
        while server.is_handshaking() {
            let said = std::mem::take(client.control());
            hear(&mut server, said).unwrap();
            if server.is_handshaking() {
                let said = std::mem::take(server.control());
                hear(&mut client, said).unwrap();
            }
        }
        (server, client)
    }

    /// Shows all of it, and returns the data that was in it.
    fn hear(stream: &mut Stream, mut bytes: Vec<u8>) -> Result<Vec<u8>, TlsError> {
        let mut heard = Vec::new();
        while !bytes.is_empty() {
            let step = stream.receive(&mut bytes)?;
            match step.data {
                Data::Nothing => {}
                Data::Shown(data) => heard.extend_from_slice(&bytes[data]),
                Data::Held(data) => {
                    let held = stream.take_held();
                    heard.extend_from_slice(&held[data]);
                    stream.put_held(held);
                }
            }
            bytes.drain(..step.taken);
        }
        Ok(heard)
    }

    /// A record of a kind that applications cannot send.
    fn say(stream: &mut Stream, kind: u8, content: &[u8]) -> Vec<u8> {
        let State::Traffic(traffic) = &mut stream.state else { panic!("no keys") };
        let mut said = Vec::new();
        traffic.push(ContentType(kind), content, &mut said);
        said
    }

    fn send(stream: &mut Stream, data: &[u8]) -> Vec<u8> {
        let (plain, record) = stream.next_record(data.len()).unwrap();
        let mut sealed = vec![0; record];
        stream.seal(&mut sealed, |place| place.copy_from_slice(&data[..plain]));
        sealed
    }

    fn violation(heard: Result<Vec<u8>, TlsError>) -> Violation {
        let Err(TlsError::Violation(violation)) = heard else { panic!("no violation: {heard:?}") };
        violation
    }

    #[test]
    fn a_key_update_is_answered_although_a_ticket_waits_to_be_sent() {
        let (mut server, mut client) = established();
        let ticket_bytes = server.control_bytes();
        assert!(ticket_bytes > 0);
        let request = say(&mut client, 22, &REQUEST_KEY_UPDATE);
        assert_eq!(hear(&mut server, request), Ok(Vec::new()));
        assert!(server.control_bytes() > ticket_bytes, "an answer");
        let said = std::mem::take(server.control());
        assert_eq!(hear(&mut client, said), Ok(Vec::new()));
        let said = send(&mut server, b"with new keys");
        assert_eq!(hear(&mut client, said).unwrap(), b"with new keys");
    }

    #[test]
    fn however_many_key_updates_are_asked_for_while_nothing_can_be_sent_one_answer_waits() {
        let (mut server, mut client) = established();
        hear(&mut client, std::mem::take(server.control())).unwrap();
        for round in 0..100 {
            let request = say(&mut server, 22, &REQUEST_KEY_UPDATE);
            let State::Traffic(traffic) = &mut server.state else { panic!("no keys") };
            traffic.take_next_sealer().unwrap();
            hear(&mut client, request).unwrap();
            let said = send(&mut server, b"x");
            hear(&mut client, said).unwrap();
            assert!(client.control_bytes() < 64, "{round}");
        }
    }

    #[test]
    fn nothing_is_said_after_our_close_notify() {
        let (mut server, mut client) = established();
        server.close();
        let said = std::mem::take(server.control());
        assert_eq!(hear(&mut client, said), Ok(Vec::new()));
        assert!(client.is_closed_by_peer());
        let request = say(&mut client, 22, &REQUEST_KEY_UPDATE);
        assert_eq!(hear(&mut server, request), Ok(Vec::new()));
        assert_eq!((server.control_bytes(), server.room(1000)), (0, 0));
        // What the peer still sends is heard: closing is for each direction alone (RFC 8446 section 6.1).
        assert!(client.can_send());
        hear(&mut server, vec![23, 3, 3, 0, 20]).unwrap();
        assert_eq!(violation(hear(&mut server, vec![0; 20])), Violation::BadRecord);
        assert_eq!(server.control_bytes(), 0, "no alert either");
    }

    #[test]
    fn a_record_longer_than_tls_1_3_allows_is_refused() {
        for (len, expected) in [
            (FRAGMENT_BYTES_MAX + 256, Violation::BadRecord),
            (FRAGMENT_BYTES_MAX + 257, Violation::RecordOverflow),
        ] {
            let (mut server, _) = established();
            let mut record = vec![0; HEADER_BYTES + len];
            record[..3].copy_from_slice(&[23, 3, 3]);
            record[3..HEADER_BYTES].copy_from_slice(&(len as u16).to_be_bytes());
            assert_eq!(violation(hear(&mut server, record)), expected, "{len}");
        }
    }

    #[test]
    fn the_records_of_a_message_follow_each_other() {
        for (kind, content) in [(23, &b""[..]), (23, b"data"), (21, &[1, 90])] {
            let (mut server, mut client) = established();
            let begun = say(&mut client, 22, &REQUEST_KEY_UPDATE[..2]);
            assert_eq!(hear(&mut server, begun), Ok(Vec::new()));
            let other = say(&mut client, kind, content);
            assert_eq!(violation(hear(&mut server, other)), Violation::UnexpectedMessage, "{kind}");
        }
    }

    #[test]
    fn padding_of_any_length_is_taken_off() {
        let (mut server, mut client) = established();
        for padding in [0, 1, 255, FRAGMENT_BYTES_MAX - 5] {
            // A type of 0 cannot be told from padding: the type is the last byte that is not 0.
            let content = [&b"data\x17"[..], &vec![0; padding]].concat();
            let padded = say(&mut client, 0, &content);
            assert_eq!(hear(&mut server, padded).unwrap(), b"data", "{padding}");
        }
        let nothing = say(&mut client, 0, &[0; 100]);
        assert_eq!(violation(hear(&mut server, nothing)), Violation::UnexpectedMessage);
    }
}
