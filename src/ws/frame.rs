//! The frame header, RFC 6455 section 5.2: encode and decode.

use super::{ProtocolError, Role};

/// Longest frame header in bytes: 2 + 8 (length) + 4 (mask).
pub const HEADER_BYTES_MAX: usize = 14;

/// The opcodes that RFC 6455 defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next part of a fragmented message.
    Continuation = 0,
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The closing handshake.
    Close = 8,
    /// Are you there?
    Ping = 9,
    /// I am here.
    Pong = 10,
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Last frame of its message.
    pub fin: bool,
    /// Reserved bit 1 (compression, where negotiated).
    pub rsv1: bool,
    /// What the payload is.
    pub opcode: Opcode,
    /// The masking key, when masked.
    pub mask: Option<[u8; 4]>,
    /// Payload length in bytes; below 2^63.
    pub payload_bytes: u64,
}

impl FrameHeader {
    /// Reads a header from the front of `bytes`: `Ok(Some((header, header_bytes)))`, or `Ok(None)` when more
    /// bytes are needed. `role` is ours.
    ///
    /// # Errors
    /// What RFC 6455 section 5.2 forbids, as early as the bytes show it.
    pub fn decode(bytes: &[u8], role: Role) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        let _ = (bytes, role);
        todo!()
    }

    /// Writes the header into `out` with the shortest length form; returns its length in bytes.
    pub fn encode(&self, out: &mut [u8; HEADER_BYTES_MAX]) -> usize {
        let _ = out;
        todo!()
    }
}
