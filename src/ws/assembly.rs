//! Where the parts of a message are put together when it does not lie whole in one input.
//!
//! Memory grows with the bytes that arrived, never with a length that a header declares.

use super::frame::CONTROL_BYTES_MAX;
use super::{Compressed, Event, Message, Opcode, ProtocolError};

/// The beginning of a message, unmasked.
#[derive(Debug, Default)]
pub(super) enum Assembly {
    /// No message has begun.
    #[default]
    Empty,
    /// A text message: what is valid so far, and the bytes of a character that is not whole yet.
    Text { text: String, tail: CharTail },
    /// A binary message.
    Binary(Vec<u8>),
    /// A compressed message, still compressed.
    Compressed { is_text: bool, bytes: Vec<u8> },
}

impl Assembly {
    /// The beginning of a message whose first frame has `opcode`, and RSV1 set when it is `compressed`.
    pub(super) fn begin(opcode: Opcode, compressed: bool) -> Self {
        match opcode {
            _ if compressed => Assembly::Compressed { is_text: opcode == Opcode::Text, bytes: Vec::new() },
            Opcode::Text => Assembly::Text { text: String::new(), tail: CharTail::default() },
            _ => Assembly::Binary(Vec::new()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Assembly::Empty)
    }

    /// Bytes of payload held.
    pub(super) fn len(&self) -> usize {
        match self {
            Assembly::Empty => 0,
            Assembly::Text { text, tail } => text.len() + usize::from(tail.len),
            Assembly::Binary(bytes) | Assembly::Compressed { bytes, .. } => bytes.len(),
        }
    }

    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Assembly::Empty => 0,
            Assembly::Text { text, .. } => text.capacity(),
            Assembly::Binary(bytes) | Assembly::Compressed { bytes, .. } => bytes.capacity(),
        }
    }

    /// Appends unmasked bytes. Text fails at the first byte that cannot be UTF-8 (RFC 6455 section 8.1).
    pub(super) fn push(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        match self {
            Assembly::Empty => Ok(()),
            Assembly::Text { text, tail } => push_text(text, tail, payload),
            Assembly::Binary(bytes) | Assembly::Compressed { bytes, .. } => {
                bytes.extend_from_slice(payload);
                Ok(())
            }
        }
    }

    /// Checks that the message may end here: text must not end inside a character.
    pub(super) fn finish(&self) -> Result<(), ProtocolError> {
        match self {
            Assembly::Text { tail, .. } if tail.len > 0 => Err(ProtocolError::TextNotUtf8),
            _ => Ok(()),
        }
    }

    /// Whether what is put together is compressed.
    pub(super) fn is_compressed(&self) -> bool {
        matches!(self, Assembly::Compressed { .. })
    }

    /// The message that was put together; `None` when none has begun.
    pub(super) fn event(&self) -> Option<Event<'_>> {
        match self {
            Assembly::Empty => None,
            Assembly::Text { text, .. } => Some(Event::Message(Message::Text(text))),
            Assembly::Binary(bytes) => Some(Event::Message(Message::Binary(bytes))),
            Assembly::Compressed { is_text, bytes } => {
                Some(Event::Compressed(Compressed { is_text: *is_text, payload: bytes }))
            }
        }
    }
}

/// The first one to three bytes of a character whose others have not arrived.
#[derive(Debug, Default)]
pub(super) struct CharTail {
    bytes: [u8; 3],
    len: u8,
}

/// Appends `payload` to `text`, keeping the bytes of an unfinished character in `tail`.
fn push_text(text: &mut String, tail: &mut CharTail, mut payload: &[u8]) -> Result<(), ProtocolError> {
    while tail.len > 0 {
        let Some((&next, rest)) = payload.split_first() else { return Ok(()) };
        payload = rest;
        let held = usize::from(tail.len);
        let mut bytes = [0; 4];
        bytes[..held].copy_from_slice(&tail.bytes[..held]);
        bytes[held] = next;
        match whole_or_begun(&bytes[..=held])? {
            Some(character) => {
                text.push_str(character);
                tail.len = 0;
            }
            None => tail.set(&bytes[..=held]),
        }
    }
    let (whole, begun) = payload.split_at(payload.len() - begun_char_bytes(payload));
    text.push_str(simdutf8::basic::from_utf8(whole).map_err(|_| ProtocolError::TextNotUtf8)?);
    whole_or_begun(begun)?;
    tail.set(begun);
    Ok(())
}

impl CharTail {
    /// `begun` is the beginning of one character: at most three bytes.
    fn set(&mut self, begun: &[u8]) {
        for (held, byte) in self.bytes.iter_mut().zip(begun) {
            *held = *byte;
        }
        self.len = begun.len() as u8;
    }
}

/// A few bytes: valid text, or (`None`) the beginning of a character, or neither.
fn whole_or_begun(bytes: &[u8]) -> Result<Option<&str>, ProtocolError> {
    match core::str::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.error_len().is_none() => Ok(None),
        Err(_) => Err(ProtocolError::TextNotUtf8),
    }
}

/// How many bytes at the end of `bytes` look like the beginning of a character that is longer: 0 to 3.
fn begun_char_bytes(bytes: &[u8]) -> usize {
    for (before, &byte) in bytes.iter().rev().take(3).enumerate() {
        let char_bytes = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            _ => 1,
        };
        return if char_bytes > before + 1 { before + 1 } else { 0 };
    }
    0
}

/// The beginning of a control frame's payload, unmasked. Control frames come between the fragments of a message, so
/// theirs is a place of its own.
#[derive(Debug)]
pub(super) struct ControlPayload {
    bytes: [u8; CONTROL_BYTES_MAX],
    len: u8,
}

impl Default for ControlPayload {
    fn default() -> Self {
        ControlPayload { bytes: [0; CONTROL_BYTES_MAX], len: 0 }
    }
}

impl ControlPayload {
    /// Appends unmasked bytes; the frame's header has promised that they fit.
    pub(super) fn push(&mut self, payload: &[u8]) {
        let free = &mut self.bytes[usize::from(self.len)..];
        for (place, byte) in free.iter_mut().zip(payload) {
            *place = *byte;
            self.len += 1;
        }
    }

    /// What has arrived.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `bytes` in pieces of `piece` bytes; after how many bytes it failed, or the message.
    fn push_in_pieces(bytes: &[u8], piece: usize) -> Result<String, usize> {
        let mut assembly = Assembly::begin(Opcode::Text, false);
        let mut pushed = 0;
        for chunk in bytes.chunks(piece) {
            pushed += chunk.len();
            assembly.push(chunk).map_err(|_| pushed)?;
            assert_eq!(assembly.len(), pushed);
        }
        assembly.finish().map_err(|_| pushed + 1)?;
        match assembly.event() {
            Some(Event::Message(Message::Text(text))) => Ok(text.to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_is_the_same_however_it_is_cut() {
        let text = "κόσμε a\u{7f}\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff} ".repeat(5);
        for piece in 1..=text.len() {
            assert_eq!(push_in_pieces(text.as_bytes(), piece).as_deref(), Ok(text.as_str()));
        }
    }

    #[test]
    fn text_fails_at_the_first_bad_byte() {
        // Each: bytes, and how many of them a validator must see to know that they are bad.
        let cases: [(&[u8], usize); 12] = [
            (b"ab\x80", 3),
            (b"ab\xff", 3),
            (b"\xc0\x80", 1),
            (b"\xc1", 1),
            (b"\xc3a", 2),
            (b"\xe0\x80", 2),
            (b"\xed\xa0", 2),
            (b"\xe2\x82a", 3),
            (b"\xf0\x80", 2),
            (b"\xf4\x90", 2),
            (b"\xf5", 1),
            (b"\xf0\x9f\x98x", 4),
        ];
        for (bytes, bad) in cases {
            assert_eq!(push_in_pieces(bytes, 1), Err(bad), "{bytes:x?}");
            let followed = [bytes, b"and more, valid"].concat();
            assert_eq!(push_in_pieces(&followed, 1), Err(bad), "{bytes:x?}");
            assert_eq!(push_in_pieces(&followed, followed.len()), Err(followed.len()));
        }
    }

    #[test]
    fn text_must_not_end_inside_a_character() {
        for bytes in [&b"\xc3"[..], b"\xe2\x82", b"abc\xf0\x9f\x98"] {
            assert_eq!(push_in_pieces(bytes, 1), Err(bytes.len() + 1));
            assert_eq!(push_in_pieces(bytes, bytes.len()), Err(bytes.len() + 1));
        }
    }

    #[test]
    fn verdicts_agree_with_the_standard_library_on_every_short_sequence() {
        // Every two bytes, alone and with continuation bytes after them, cut everywhere.
        for first in 0x7f..=0xffu8 {
            for second in 0..=0xffu8 {
                for rest in [&b""[..], b"\x80", b"\xbf\x80"] {
                    let bytes = [&[first, second], rest].concat();
                    let expected = std::str::from_utf8(&bytes).is_ok();
                    for piece in 1..=bytes.len() {
                        assert_eq!(push_in_pieces(&bytes, piece).is_ok(), expected, "{bytes:x?} by {piece}");
                    }
                }
            }
        }
    }

    #[test]
    fn memory_grows_with_what_arrives() {
        let mut assembly = Assembly::begin(Opcode::Binary, false);
        assert_eq!(assembly.heap_bytes(), 0);
        for pushed in 1..=1000 {
            assembly.push(b"x").unwrap();
            assert!(assembly.heap_bytes() <= (2 * pushed).max(8), "{pushed}");
        }
    }
}
