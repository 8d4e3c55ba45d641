//! Bytes to events. Accepts input cut at any byte; lends a frame that is whole in the input without copying it.

use super::{Close, Limits, ProtocolError, Role};

/// A whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text, valid UTF-8.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

/// What the peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, unmasked, assembled and (text) validated.
    Message(Message<'a>),
    /// A ping; the same payload is due back in a pong (RFC 6455 section 5.5.3).
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// A close frame, validated. Nothing that follows it is decoded.
    Close(Close<'a>),
}

/// One step of the decoder.
#[derive(Debug)]
pub struct Decoded<'a> {
    /// How many bytes of the input were used up. Without an event, always all of them.
    pub consumed: usize,
    /// At most one event.
    pub event: Option<Event<'a>>,
}

/// The receiving half of one connection.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    limits: Limits,
}

impl Decoder {
    /// A decoder for a connection whose handshake is done. `role` is ours.
    pub fn new(role: Role, limits: Limits) -> Self {
        Decoder { role, limits }
    }

    /// Decodes up to one event from the front of `input`, which it unmasks in place.
    ///
    /// # Errors
    /// The peer's first violation; the decoder is then spent and repeats it.
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8]) -> Result<Decoded<'a>, ProtocolError> {
        let _ = (self.role, self.limits, input);
        todo!()
    }

    /// Bytes of heap this decoder holds just now (a message being assembled).
    pub fn heap_bytes(&self) -> usize {
        0
    }

    /// Whether a message has begun and not ended.
    pub fn mid_message(&self) -> bool {
        false
    }
}
