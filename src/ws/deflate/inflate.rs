//! Decompression, RFC 7692 section 7.2.2.

use super::{History, WINDOW_BITS_MAX};
use crate::ws::{Compressed, Message, ProtocolError};
use zlib_rs::{Inflate, InflateFlush, Status};

/// What the sender leaves out at the end of a message (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Room for a message at first, bytes.
const OUTPUT_BYTES_MIN: usize = 16 << 10;

/// Room that is kept from one message to the next, bytes.
const OUTPUT_BYTES_KEPT: usize = 256 << 10;

/// Bytes of a message for each of which one more of its blocks may be final (section 7.2.3.4 allows them): after
/// each the stream begins anew, which costs as much as 32 KiB copied.
const BYTES_PER_FINAL_BLOCK: usize = 1024;

/// Decompresses messages of all connections of a worker, one after the other.
#[derive(Default)]
pub struct Inflater {
    /// Made with the first message.
    stream: Option<Inflate>,
    output: Vec<u8>,
}

impl Inflater {
    /// The message that `compressed` is; it lies here until the next one. `history` is the connection's, where
    /// context takeover was agreed. `message_bytes_max` bounds the message while it grows: it fails at the first byte
    /// too many.
    ///
    /// # Errors
    /// What is no DEFLATE, what is too long, and text that is no UTF-8. The connection's context is then lost.
    pub fn inflate(
        &mut self,
        compressed: Compressed<'_>,
        history: Option<&mut History>,
        message_bytes_max: usize,
    ) -> Result<Message<'_>, ProtocolError> {
        if self.output.len() > OUTPUT_BYTES_KEPT {
            self.output = Vec::new();
        }
        let before = history.as_deref().map_or(&[][..], History::bytes);
        let message_bytes = self.fill(compressed.payload, before, message_bytes_max)?;
        let payload = &self.output[..message_bytes];
        let message = if compressed.is_text {
            Message::Text(simdutf8::basic::from_utf8(payload).map_err(|_| ProtocolError::TextNotUtf8)?)
        } else {
            Message::Binary(payload)
        };
        if let Some(history) = history {
            history.push(payload);
        }
        Ok(message)
    }

    /// Heap held for messages, beside the stream's own, bytes.
    pub fn held_bytes(&self) -> usize {
        self.output.capacity()
    }

    /// Writes the message to the front of the output; returns its length.
    fn fill(&mut self, payload: &[u8], history: &[u8], limit: usize) -> Result<usize, ProtocolError> {
        let Inflater { stream, output } = self;
        // The largest window understands every smaller one.
        let stream = stream.get_or_insert_with(|| Inflate::new(false, WINDOW_BITS_MAX));
        begin(stream, &[history])?;
        let mut final_blocks_left = 8 + payload.len() / BYTES_PER_FINAL_BLOCK;
        let mut filled = 0;
        for mut rest in [payload, &TAIL[..]] {
            loop {
                if filled == output.len() {
                    let room = output.len().saturating_mul(2).max(OUTPUT_BYTES_MIN);
                    // One byte more than allowed shows that it is too long.
                    output.resize(room.min(limit.saturating_add(1)), 0);
                }
                let before = (stream.total_in(), stream.total_out());
                let status = stream
                    .decompress(rest, &mut output[filled..], InflateFlush::NoFlush)
                    .map_err(|_| ProtocolError::NotDeflate)?;
                rest = &rest[(stream.total_in() - before.0) as usize..];
                filled += (stream.total_out() - before.1) as usize;
                if filled > limit {
                    return Err(ProtocolError::MessageTooBig { limit });
                }
                if status == Status::StreamEnd {
                    final_blocks_left = final_blocks_left.checked_sub(1).ok_or(ProtocolError::NotDeflate)?;
                    begin(stream, &[history, &output[..filled]])?;
                }
                // With room left, what can be known of the input so far has been written.
                if rest.is_empty() && filled < output.len() {
                    break;
                }
                if status == Status::BufError && filled < output.len() {
                    return Err(ProtocolError::NotDeflate);
                }
            }
        }
        Ok(filled)
    }
}

/// Begins a stream that may refer to `before`, the oldest part first.
fn begin(stream: &mut Inflate, before: &[&[u8]]) -> Result<(), ProtocolError> {
    stream.reset(false);
    for part in before {
        let seen = &part[part.len().saturating_sub(1 << WINDOW_BITS_MAX)..];
        if !seen.is_empty() {
            stream.set_dictionary(seen).map_err(|_| ProtocolError::NotDeflate)?;
        }
    }
    Ok(())
}
