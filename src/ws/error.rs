//! What a peer can do wrong once the connection is open: one cause a variant, each with its close code.

use super::CloseCode;

/// A violation of RFC 6455 or of our limits by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A message over [`Limits::message_bytes_max`](super::Limits::message_bytes_max).
    #[error("message over the limit of {limit} bytes")]
    MessageTooBig {
        /// The limit in force, bytes.
        limit: usize,
    },
}

impl ProtocolError {
    /// The code to close with, RFC 6455 section 7.4.1.
    pub const fn close_code(self) -> CloseCode {
        match self {
            ProtocolError::MessageTooBig { .. } => CloseCode::TOO_BIG,
        }
    }
}
