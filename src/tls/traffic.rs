//! After the handshake: records with data, and the few messages that are none (RFC 8446 sections 4.6 and 6, RFC 5246
//! sections 7.2 and 7.4.1).

use super::error::Violation;
use super::record::{ContentType, Opener, Sealer};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};
use std::ops::Range;

/// Messages without data that may come in a row: key updates, warnings, empty records.
const IDLE_MESSAGES_MAX: u8 = 32;
/// The largest message that may come after the handshake: a ticket (RFC 8446 section 4.6.1), and its header.
const MESSAGE_BYTES_MAX: usize = 4 + 4 + 4 + 1 + 255 + 2 + 65_535 + 2 + 65_535;

const ALERT_CLOSE_NOTIFY: u8 = 0;
const ALERT_USER_CANCELED: u8 = 90;
const ALERT_NO_RENEGOTIATION: u8 = 100;
const LEVEL_WARNING: u8 = 1;
const LEVEL_FATAL: u8 = 2;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// The record layer of an established connection.
pub(super) struct Traffic {
    opener: Opener,
    sealer: Sealer,
    keys: Keys,
    tls13: bool,
    records_max: u64,
    /// The part of a message that goes on in the next record.
    message: Vec<u8>,
    idle_messages: u8,
    /// A key update of ours was appended to what waits to be sent.
    key_update_waits: bool,
    /// Our close_notify or fatal alert is sealed: it is the last.
    closed: bool,
}

/// What of rustls' connection outlives the handshake: it makes new keys, and a client's stores tickets.
pub(super) enum Keys {
    Server(Box<KernelConnection<ServerConnectionData>>),
    Client(Box<KernelConnection<ClientConnectionData>>),
}

/// What a record came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Data, in this range of the record.
    Data(Range<usize>),
    /// Nothing for the application.
    Nothing,
    /// The peer will send nothing more: its close_notify.
    End,
}

impl Keys {
    fn next_to_open(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Keys::Server(keys) => keys.update_rx_secret(),
            Keys::Client(keys) => keys.update_rx_secret(),
        }
    }

    fn next_to_seal(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Keys::Server(keys) => keys.update_tx_secret(),
            Keys::Client(keys) => keys.update_tx_secret(),
        }
    }
}

impl Traffic {
    /// `None` for a cipher that is not offered.
    pub(super) fn new(secrets: &ExtractedSecrets, keys: Keys, tls13: bool, records_max: u64) -> Option<Self> {
        Some(Traffic {
            opener: Opener::new(&secrets.rx, tls13)?,
            sealer: Sealer::new(&secrets.tx, tls13, records_max)?,
            keys,
            tls13,
            records_max,
            message: Vec::new(),
            idle_messages: 0,
            key_update_waits: false,
            closed: false,
        })
    }

    /// Opens one whole record in place. What has to be answered is appended to `control`.
    pub(super) fn open(&mut self, record: &mut [u8], control: &mut Vec<u8>) -> Result<Opened, Violation> {
        let (kind, range) = self.opener.open(record)?;
        let content = &record[range.clone()];
        if kind != ContentType::HANDSHAKE && !self.message.is_empty() {
            // RFC 8446 section 5.1: the records of one message follow each other.
            return Err(Violation::UnexpectedMessage);
        }
        if kind == ContentType::DATA && !content.is_empty() {
            self.idle_messages = 0;
            return Ok(Opened::Data(range));
        }
        self.idle_messages += 1;
        if self.idle_messages > IDLE_MESSAGES_MAX {
            return Err(Violation::TooMany);
        }
        match kind {
            ContentType::DATA => Ok(Opened::Nothing),
            ContentType::ALERT => self.alert(content),
            ContentType::HANDSHAKE => self.handshake(content, control).map(|()| Opened::Nothing),
            _ => Err(Violation::UnexpectedMessage),
        }
    }

    /// What a record adds to its plaintext, bytes.
    pub(super) fn overhead(&self) -> usize {
        self.sealer.overhead()
    }

    /// Seals a record of data in `place`, see [`Sealer::seal`].
    pub(super) fn seal(&mut self, place: &mut [u8], fill: impl FnOnce(&mut [u8])) {
        self.sealer.seal(ContentType::DATA, place, fill);
    }

    /// To be called before data is sealed: takes new keys when the old ones have done their work.
    ///
    /// # Errors
    /// TLS 1.2 cannot do so: the connection must end.
    pub(super) fn refresh(&mut self, control: &mut Vec<u8>) -> Result<(), Violation> {
        if !self.sealer.is_exhausted() {
            return Ok(());
        }
        self.update_sealer(control)
    }

    /// Heap held for a message that is not whole, bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.message.capacity()
    }

    /// Appends our close_notify.
    pub(super) fn close(&mut self, control: &mut Vec<u8>) {
        self.push(ContentType::ALERT, &[LEVEL_WARNING, ALERT_CLOSE_NOTIFY], control);
        self.closed = true;
    }

    /// Appends a fatal alert.
    pub(super) fn fail(&mut self, alert: u8, control: &mut Vec<u8>) {
        self.push(ContentType::ALERT, &[LEVEL_FATAL, alert], control);
        self.closed = true;
    }

    /// Nothing follows our last alert (RFC 8446 section 6.1).
    pub(super) fn push(&mut self, kind: ContentType, content: &[u8], control: &mut Vec<u8>) {
        if self.closed {
            return;
        }
        let start = control.len();
        control.resize(start + content.len() + self.sealer.overhead(), 0);
        self.sealer.seal(kind, &mut control[start..], |place| place.copy_from_slice(content));
    }

    fn update_sealer(&mut self, control: &mut Vec<u8>) -> Result<(), Violation> {
        if !self.tls13 {
            return Err(Violation::KeysExhausted);
        }
        // `update_not_requested`: the peer's key is its own affair.
        self.push(ContentType::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], control);
        self.key_update_waits = true;
        self.take_next_sealer()
    }

    /// What is sealed from here on is sealed with new keys.
    pub(super) fn take_next_sealer(&mut self) -> Result<(), Violation> {
        let next = self.keys.next_to_seal().map_err(|_| Violation::KeysExhausted)?;
        self.sealer = Sealer::new(&next, true, self.records_max).ok_or(Violation::KeysExhausted)?;
        Ok(())
    }

    fn alert(&mut self, content: &[u8]) -> Result<Opened, Violation> {
        let &[level, description] = content else { return Err(Violation::Malformed) };
        match (level, description) {
            (_, ALERT_CLOSE_NOTIFY) => Ok(Opened::End),
            // RFC 8446 section 6: in TLS 1.3 every alert but these two is an error, whatever its level says.
            (_, ALERT_USER_CANCELED) if self.tls13 => Ok(Opened::Nothing),
            (LEVEL_WARNING, _) if !self.tls13 => Ok(Opened::Nothing),
            _ => Err(Violation::Alert(description)),
        }
    }

    fn handshake(&mut self, content: &[u8], control: &mut Vec<u8>) -> Result<(), Violation> {
        if content.is_empty() {
            // RFC 8446 section 5.1: no empty fragments of these.
            return Err(Violation::UnexpectedMessage);
        }
        if !self.tls13 {
            return self.refuse_renegotiation(content[0], control);
        }
        self.message.extend_from_slice(content);
        let mut message = std::mem::take(&mut self.message);
        let mut at = 0;
        while let Some(&[kind, high, middle, low]) = message.get(at..at + 4) {
            let len = u32::from_be_bytes([0, high, middle, low]) as usize;
            let fits = match (kind, &self.keys) {
                (KEY_UPDATE, _) => len == 1,
                (NEW_SESSION_TICKET, Keys::Client(_)) => len <= MESSAGE_BYTES_MAX,
                _ => return Err(Violation::UnexpectedMessage),
            };
            if !fits {
                return Err(Violation::Malformed);
            }
            let Some(body) = message.get(at + 4..at + 4 + len) else { break };
            at += 4 + len;
            if kind == KEY_UPDATE {
                if at < message.len() {
                    // RFC 8446 section 5.1: a change of keys ends its record.
                    return Err(Violation::UnexpectedMessage);
                }
                self.key_update(body[0], control)?;
            } else if let Keys::Client(keys) = &mut self.keys {
                keys.handle_new_session_ticket(body).map_err(|_| Violation::Malformed)?;
            }
        }
        message.drain(..at);
        if !message.is_empty() {
            self.message = message;
        }
        Ok(())
    }

    /// RFC 8446 section 4.6.3.
    fn key_update(&mut self, request: u8, control: &mut Vec<u8>) -> Result<(), Violation> {
        let next = self.keys.next_to_open().map_err(|_| Violation::Malformed)?;
        self.opener = Opener::new(&next, true).ok_or(Violation::Malformed)?;
        match request {
            0 => Ok(()),
            // While an answer waits to be sent it answers this one, too; other messages that wait do not.
            1 if self.key_update_waits && !control.is_empty() => Ok(()),
            1 if self.closed => Ok(()),
            1 => self.update_sealer(control),
            _ => Err(Violation::Malformed),
        }
    }

    /// TLS 1.2: whoever wants a new handshake on this connection is told that there is none (RFC 5246 section 7.2.2).
    fn refuse_renegotiation(&mut self, kind: u8, control: &mut Vec<u8>) -> Result<(), Violation> {
        let wanted = match self.keys {
            Keys::Server(_) => CLIENT_HELLO,
            Keys::Client(_) => HELLO_REQUEST,
        };
        if kind != wanted {
            return Err(Violation::UnexpectedMessage);
        }
        self.push(ContentType::ALERT, &[LEVEL_WARNING, ALERT_NO_RENEGOTIATION], control);
        Ok(())
    }
}
