//! RFC 6455 and RFC 7692, sans-IO, both roles: bytes in, events out; time and randomness are arguments.

mod assembly;
pub mod close;
pub mod decoder;
pub mod deflate;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod mask;
mod url;

pub use close::{Close, CloseCode, REASON_BYTES_MAX};
pub use decoder::{Compressed, Decoded, Decoder, Event, Message};
pub use error::ProtocolError;
pub use frame::{FrameHeader, Opcode, append_frame};
pub use url::{UrlError, WsUrl};

/// Which end of the connection we are: it decides who masks (RFC 6455 section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We sent the upgrade request: we mask, the peer must not.
    Client,
    /// We answered it: the peer must mask, we must not.
    Server,
}

/// Bounds on what one peer may send; each fails before anything is allocated for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes, over all its fragments.
    pub message_bytes_max: usize,
    /// Largest payload of one frame in bytes.
    pub frame_bytes_max: usize,
    /// Most frames that one message may be cut into.
    pub fragments_max: usize,
}

impl Limits {
    /// The bounds on what is still compressed: a message that does not shrink becomes longer, as it is stored in blocks
    /// whose headers are 5 bytes (RFC 1951 section 3.2.4), the smallest that zlib writes being of 500.
    fn compressed(self) -> Self {
        let longest = |bytes: usize| bytes.saturating_add(bytes / 64 + 64);
        Limits {
            message_bytes_max: longest(self.message_bytes_max),
            frame_bytes_max: longest(self.frame_bytes_max),
            ..self
        }
    }
}

impl Default for Limits {
    /// 16 MiB a message and a frame; a million fragments (Autobahn's 9.3/9.4 send megabytes in 64-byte frames).
    fn default() -> Self {
        Limits { message_bytes_max: 16 << 20, frame_bytes_max: 16 << 20, fragments_max: 1 << 20 }
    }
}
