//! The frame header, RFC 6455 section 5.2: encode and decode.

use super::{ProtocolError, Role, mask};

/// Longest frame header in bytes: 2 + 8 (length) + 4 (mask).
pub const HEADER_BYTES_MAX: usize = 14;
/// The same in whole words.
pub(crate) const ENCODED_BYTES: usize = 16;

/// Longest payload of a control frame in bytes (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

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

impl Opcode {
    /// The opcode in the low four bits of a frame's first byte.
    ///
    /// # Errors
    /// [`ProtocolError::ReservedOpcode`] for 3-7 and 11-15.
    pub const fn from_bits(bits: u8) -> Result<Self, ProtocolError> {
        match bits & 0x0f {
            0 => Ok(Opcode::Continuation),
            1 => Ok(Opcode::Text),
            2 => Ok(Opcode::Binary),
            8 => Ok(Opcode::Close),
            9 => Ok(Opcode::Ping),
            10 => Ok(Opcode::Pong),
            opcode => Err(ProtocolError::ReservedOpcode { opcode }),
        }
    }

    /// Whether it is close, ping or pong (RFC 6455 section 5.5).
    pub const fn is_control(self) -> bool {
        self as u8 & 0x08 != 0
    }
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
    /// bytes are needed. `role` is ours; `compression` is whether it was negotiated, and with it RSV1.
    ///
    /// # Errors
    /// What RFC 6455 section 5.2 forbids, as early as the bytes show it.
    #[inline]
    pub fn decode(
        bytes: &[u8],
        role: Role,
        compression: bool,
    ) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & 0x70 != 0 && !(compression && is_compressed(first)) {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = Opcode::from_bits(first)?;
        let fin = first & 0x80 != 0;
        if opcode.is_control() && !fin {
            return Err(ProtocolError::ControlFragmented);
        }

        let Some(&second) = bytes.get(1) else { return Ok(None) };
        match (role, second & 0x80 != 0) {
            (Role::Server, false) => return Err(ProtocolError::NotMasked),
            (Role::Client, true) => return Err(ProtocolError::Masked),
            (Role::Server, true) | (Role::Client, false) => {}
        }
        let short_length = second & 0x7f;
        if opcode.is_control() && usize::from(short_length) > CONTROL_BYTES_MAX {
            return Err(ProtocolError::ControlTooLong);
        }

        let Some((payload_bytes, length_end)) = decode_length(short_length, bytes)? else { return Ok(None) };
        let (mask, header_bytes) = match role {
            Role::Client => (None, length_end),
            Role::Server => match bytes.get(length_end..).and_then(<[u8]>::first_chunk) {
                Some(key) => (Some(*key), length_end + 4),
                None => return Ok(None),
            },
        };
        let rsv1 = first & 0x40 != 0;
        Ok(Some((FrameHeader { fin, rsv1, opcode, mask, payload_bytes }, header_bytes)))
    }

    /// Reads the header of the commonest frame, with few branches: a whole unfragmented message of less than 126 bytes,
    /// all of it in `bytes`. `None` for any other frame, which [`FrameHeader::decode`] reads.
    #[inline]
    pub(super) fn decode_small(bytes: &[u8], role: Role) -> Option<(FrameHeader, usize)> {
        let &[first, second] = bytes.first_chunk()?;
        // FIN without a reserved bit; text or binary.
        let opcode = match first {
            0x81 => Opcode::Text,
            0x82 => Opcode::Binary,
            _ => return None,
        };
        let payload_bytes = second & 0x7f;
        let is_masked = second & 0x80 != 0;
        let mask = if is_masked { Some(*bytes.get(2..)?.first_chunk()?) } else { None };
        let header_bytes = if is_masked { 6 } else { 2 };
        let fits = payload_bytes < 126
            && is_masked == (role == Role::Server)
            && bytes.len() >= header_bytes + usize::from(payload_bytes);
        let header =
            FrameHeader { fin: true, rsv1: false, opcode, mask, payload_bytes: payload_bytes.into() };
        fits.then_some((header, header_bytes))
    }

    /// Writes the header into `out` with the shortest length form; returns its length in bytes.
    #[inline]
    pub fn encode(&self, out: &mut [u8; HEADER_BYTES_MAX]) -> usize {
        let ([header @ .., _, _], header_bytes) = self.encoded();
        *out = header;
        header_bytes
    }

    /// The header with the shortest length form, zeros behind it, and its length in bytes.
    ///
    /// It is put together in a register: bytes that are written one by one and then copied together keep the processor waiting
    /// until they have reached the cache.
    #[inline]
    pub(crate) fn encoded(&self) -> ([u8; ENCODED_BYTES], usize) {
        let first = u8::from(self.fin) << 7 | u8::from(self.rsv1) << 6 | self.opcode as u8;
        let masked = u8::from(self.mask.is_some()) << 7;
        let (short_length, long_length, length_end) = match self.payload_bytes {
            length @ 0..=125 => (length as u8, 0, 2),
            length @ 126..=0xffff => (126, u64::from((length as u16).swap_bytes()), 4),
            length => (127, length.swap_bytes(), 10),
        };
        let lengths = u128::from(masked | short_length) << 8 | u128::from(long_length) << 16;
        let mask = self.mask.map_or(0, u32::from_le_bytes);
        let header = u128::from(first) | lengths | u128::from(mask) << (8 * length_end);
        let header_bytes = if self.mask.is_some() { length_end + 4 } else { length_end };
        (header.to_le_bytes(), header_bytes)
    }
}

/// Appends a whole frame to `out`: header, then `payload`, masked with `mask` when there is a key (the client's
/// role; it must come from a cryptographic random number generator, RFC 6455 section 10.3).
///
/// A control frame is whole (`fin`) and carries at most [`CONTROL_BYTES_MAX`] bytes.
pub fn append_frame(out: &mut Vec<u8>, opcode: Opcode, fin: bool, mask: Option<[u8; 4]>, payload: &[u8]) {
    debug_assert!(!opcode.is_control() || fin && payload.len() <= CONTROL_BYTES_MAX);
    let header = FrameHeader { fin, rsv1: false, opcode, mask, payload_bytes: payload.len() as u64 };
    let mut head = [0; HEADER_BYTES_MAX];
    let head_bytes = header.encode(&mut head);
    out.reserve(head_bytes + payload.len());
    out.extend_from_slice(&head[..head_bytes]);
    let payload_start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        mask::apply(&mut out[payload_start..], key, 0);
    }
}

/// Whether a frame's first byte, of which a reserved bit is set, begins a compressed message: RSV1 alone, and only on
/// the first frame of a message (RFC 7692 section 6).
#[cold]
fn is_compressed(first: u8) -> bool {
    first & 0x70 == 0x40 && matches!(Opcode::from_bits(first), Ok(Opcode::Text | Opcode::Binary))
}

/// The payload length and where in `bytes` its encoding ends; `None` when more bytes are needed.
#[inline]
fn decode_length(short_length: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, ProtocolError> {
    if short_length < 126 {
        Ok(Some((u64::from(short_length), 2)))
    } else {
        decode_long_length(short_length, bytes)
    }
}

/// As [`decode_length`], for the 16-bit form (126) and the 64-bit form (127).
fn decode_long_length(form: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, ProtocolError> {
    let encoded = bytes.get(2..).unwrap_or_default();
    if form == 126 {
        let Some(length) = encoded.first_chunk().map(|length| u16::from_be_bytes(*length)) else {
            return Ok(None);
        };
        if length < 126 {
            return Err(ProtocolError::LengthNotMinimal);
        }
        return Ok(Some((u64::from(length), 4)));
    }
    if encoded.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(ProtocolError::LengthTopBit);
    }
    if encoded.starts_with(&[0; 6]) {
        return Err(ProtocolError::LengthNotMinimal);
    }
    Ok(encoded.first_chunk().map(|length| (u64::from_be_bytes(*length), 10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn header(payload_bytes: u64, mask: Option<[u8; 4]>) -> FrameHeader {
        FrameHeader { fin: true, rsv1: false, opcode: Opcode::Binary, mask, payload_bytes }
    }

    fn encoded(header: &FrameHeader) -> Vec<u8> {
        let mut out = [0; HEADER_BYTES_MAX];
        let n = header.encode(&mut out);
        out[..n].to_vec()
    }

    #[test]
    fn the_examples_of_section_5_7() {
        let mut hello = Vec::new();
        append_frame(&mut hello, Opcode::Text, true, None, b"Hello");
        assert_eq!(hello, b"\x81\x05Hello");

        let mut masked = Vec::new();
        append_frame(&mut masked, Opcode::Text, true, Some(KEY), b"Hello");
        assert_eq!(masked, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);

        let mut fragments = Vec::new();
        append_frame(&mut fragments, Opcode::Text, false, None, b"Hel");
        append_frame(&mut fragments, Opcode::Continuation, true, None, b"lo");
        assert_eq!(fragments, b"\x01\x03Hel\x80\x02lo");

        assert_eq!(encoded(&header(256, None)), [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(encoded(&header(65536, None)), [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn every_length_form_decodes_to_what_was_encoded_and_no_byte_sooner() {
        for payload_bytes in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, u64::MAX >> 1] {
            for (mask, role) in [(Some(KEY), Role::Server), (None, Role::Client)] {
                for (fin, opcode) in
                    [(true, Opcode::Text), (false, Opcode::Binary), (false, Opcode::Continuation)]
                {
                    let header = FrameHeader { fin, opcode, ..header(payload_bytes, mask) };
                    let bytes = encoded(&header);
                    for cut in 0..bytes.len() {
                        assert_eq!(FrameHeader::decode(&bytes[..cut], role, false), Ok(None));
                    }
                    assert_eq!(FrameHeader::decode(&bytes, role, false), Ok(Some((header, bytes.len()))));
                }
            }
        }
    }

    #[test]
    fn the_first_byte_alone_shows_its_faults() {
        for first in 0..=u8::MAX {
            let opcode = first & 0x0f;
            let expected = if first & 0x70 != 0 {
                Err(ProtocolError::ReservedBits)
            } else if matches!(opcode, 3..=7 | 11..) {
                Err(ProtocolError::ReservedOpcode { opcode })
            } else if opcode >= 8 && first & 0x80 == 0 {
                Err(ProtocolError::ControlFragmented)
            } else {
                Ok(None)
            };
            assert_eq!(FrameHeader::decode(&[first], Role::Server, false), expected, "{first:#x}");
            assert_eq!(FrameHeader::decode(&[first], Role::Client, false), expected, "{first:#x}");
        }
    }

    #[test]
    fn rsv1_is_for_the_first_frame_of_a_compressed_message() {
        for first in 0..=u8::MAX {
            let compressed = first & 0x40 != 0;
            let verdict = FrameHeader::decode(&[first], Role::Server, true);
            if first & 0x70 == 0 {
                assert_eq!(verdict, FrameHeader::decode(&[first], Role::Server, false), "{first:#x}");
            } else if first & 0x30 == 0 && matches!(first & 0x0f, 1 | 2) {
                assert_eq!(verdict, Ok(None), "{first:#x}");
                let header = FrameHeader::decode(&[first, 0], Role::Client, true);
                assert!(matches!(header, Ok(Some((header, 2))) if header.rsv1 == compressed));
            } else {
                assert_eq!(verdict, Err(ProtocolError::ReservedBits), "{first:#x}");
            }
        }
    }

    #[test]
    fn a_server_insists_on_masking_and_a_client_on_none() {
        for opcode in [0x81, 0x82, 0x88, 0x89, 0x8a] {
            assert_eq!(
                FrameHeader::decode(&[opcode, 0x05], Role::Server, false),
                Err(ProtocolError::NotMasked)
            );
            assert_eq!(FrameHeader::decode(&[opcode, 0x85], Role::Client, false), Err(ProtocolError::Masked));
        }
    }

    #[test]
    fn control_frames_are_short() {
        for opcode in [0x88, 0x89, 0x8a] {
            for length in [126, 127] {
                let bytes = [opcode, 0x80 | length];
                assert_eq!(
                    FrameHeader::decode(&bytes, Role::Server, false),
                    Err(ProtocolError::ControlTooLong)
                );
            }
            assert_eq!(FrameHeader::decode(&[opcode, 0x80 | 125], Role::Server, false), Ok(None));
        }
    }

    #[test]
    fn lengths_are_minimal_and_below_2_to_the_63() {
        let decode = |bytes: &[u8]| FrameHeader::decode(bytes, Role::Client, false);
        assert_eq!(decode(&[0x82, 126, 0]), Ok(None));
        assert_eq!(decode(&[0x82, 126, 0, 125]), Err(ProtocolError::LengthNotMinimal));
        assert!(matches!(decode(&[0x82, 126, 0, 126]), Ok(Some(_))));
        assert_eq!(decode(&[0x82, 127, 0, 0, 0, 0, 0]), Ok(None));
        assert_eq!(decode(&[0x82, 127, 0, 0, 0, 0, 0, 0]), Err(ProtocolError::LengthNotMinimal));
        assert_eq!(decode(&[0x82, 127, 0x80]), Err(ProtocolError::LengthTopBit));
        assert_eq!(decode(&[0x82, 127, 0x7f]), Ok(None));
    }
}
