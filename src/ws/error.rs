//! What a peer can do wrong once the connection is open: one cause a variant, each with its close code.

use super::CloseCode;

/// A violation of RFC 6455 or of our limits by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// RFC 6455 section 5.2: RSV1, RSV2 and RSV3 must be 0 unless an extension gave them a meaning.
    #[error("a reserved header bit is set that no negotiated extension defines here")]
    ReservedBits,
    /// RFC 6455 section 5.2: opcodes 3-7 and 11-15 are reserved.
    #[error("opcode {opcode} is reserved")]
    ReservedOpcode {
        /// The opcode received.
        opcode: u8,
    },
    /// RFC 6455 section 5.5: control frames must not be fragmented.
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// RFC 6455 section 5.5: control frames carry at most 125 bytes.
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// RFC 6455 section 5.1: a client must mask every frame.
    #[error("a client's frame is not masked")]
    NotMasked,
    /// RFC 6455 section 5.1: a server must not mask.
    #[error("a server's frame is masked")]
    Masked,
    /// RFC 6455 section 5.2: the shortest encoding of the payload length must be used.
    #[error("the payload length is not in its shortest form")]
    LengthNotMinimal,
    /// RFC 6455 section 5.2: the most significant bit of a 64-bit payload length must be 0.
    #[error("the most significant bit of the payload length is set")]
    LengthTopBit,
    /// RFC 6455 section 5.4: a continuation frame continues a message that has begun.
    #[error("a continuation frame without a message to continue")]
    ContinuationUnexpected,
    /// RFC 6455 section 5.4: the fragments of two messages must not be interleaved.
    #[error("a new message begins before the last one ended")]
    ContinuationExpected,
    /// RFC 6455 sections 5.6 and 8.1: text is UTF-8.
    #[error("a text message is not UTF-8")]
    TextNotUtf8,
    /// RFC 7692 section 7.2.2: the payload of a compressed message is DEFLATE.
    #[error("a compressed message is not DEFLATE, or refers to what was not agreed on")]
    NotDeflate,
    /// RFC 6455 section 5.5.1: the payload of a close frame is empty or begins with a 2-byte code.
    #[error("a close frame of one byte")]
    CloseCodeCut,
    /// RFC 6455 section 7.4: codes that are reserved or undefined must not be sent.
    #[error("close code {code} may not be sent")]
    CloseCodeForbidden {
        /// The code received.
        code: u16,
    },
    /// RFC 6455 sections 5.5.1 and 8.1: the reason in a close frame is UTF-8.
    #[error("the reason in a close frame is not UTF-8")]
    CloseReasonNotUtf8,
    /// RFC 6455 section 10.4: a frame over [`Limits::frame_bytes_max`](super::Limits::frame_bytes_max).
    #[error("frame over the limit of {limit} bytes")]
    FrameTooBig {
        /// The limit in force, bytes.
        limit: usize,
    },
    /// RFC 6455 section 10.4: a message over [`Limits::message_bytes_max`](super::Limits::message_bytes_max).
    #[error("message over the limit of {limit} bytes")]
    MessageTooBig {
        /// The limit in force, bytes.
        limit: usize,
    },
    /// RFC 6455 section 10.4: a message in more frames than [`Limits::fragments_max`](super::Limits::fragments_max).
    #[error("message in more than {limit} fragments")]
    TooManyFragments {
        /// The limit in force, frames a message.
        limit: usize,
    },
}

impl ProtocolError {
    /// The code to close with, RFC 6455 section 7.4.1.
    pub const fn close_code(self) -> CloseCode {
        use ProtocolError::*;
        match self {
            ReservedBits
            | ReservedOpcode { .. }
            | ControlFragmented
            | ControlTooLong
            | NotMasked
            | Masked
            | LengthNotMinimal
            | LengthTopBit
            | ContinuationUnexpected
            | ContinuationExpected
            | CloseCodeCut
            | CloseCodeForbidden { .. } => CloseCode::PROTOCOL_ERROR,
            TextNotUtf8 | NotDeflate | CloseReasonNotUtf8 => CloseCode::INVALID_PAYLOAD,
            TooManyFragments { .. } => CloseCode::POLICY,
            FrameTooBig { .. } | MessageTooBig { .. } => CloseCode::TOO_BIG,
        }
    }
}
