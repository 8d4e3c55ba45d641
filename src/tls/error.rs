//! What can go wrong on a TLS connection.

/// Why a TLS connection failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer's certificate is not accepted.
    #[error("the peer's certificate is not accepted: {0}")]
    Certificate(String),
    /// The two ends do not agree: versions, ciphers, protocols, or what a message must look like.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    /// The handshake's messages are larger than any honest peer's.
    #[error("the TLS handshake is larger than {limit} bytes")]
    HandshakeTooLarge {
        /// The bound, bytes.
        limit: usize,
    },
    /// The peer speaks plain HTTP.
    #[error("the peer speaks plain HTTP where TLS is spoken")]
    PlainHttp,
    /// The peer broke the protocol after the handshake, or ended it with an alert.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// How a peer broke the record protocol, or that it gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A record is not authentic: damaged, replayed or forged.
    #[error("a TLS record is not authentic")]
    BadRecord,
    /// A record is longer than any may be.
    #[error("a TLS record is too long")]
    RecordOverflow,
    /// A record or message that may not come here.
    #[error("an unexpected TLS message")]
    UnexpectedMessage,
    /// A message that cannot be read.
    #[error("a malformed TLS message")]
    Malformed,
    /// Too many messages that carry nothing.
    #[error("too many TLS messages without data")]
    TooMany,
    /// The peer ended the connection with a fatal alert of this description (RFC 8446 section 6).
    #[error("the peer ended TLS with alert {0}")]
    Alert(u8),
    /// The keys must not be used any longer, and TLS 1.2 cannot replace them.
    #[error("the TLS keys are used up")]
    KeysExhausted,
}

impl Violation {
    /// The alert that answers it (RFC 8446 section 6.2).
    pub(super) fn alert(self) -> Option<u8> {
        match self {
            Violation::BadRecord => Some(20),
            Violation::RecordOverflow => Some(22),
            Violation::UnexpectedMessage | Violation::TooMany => Some(10),
            Violation::Malformed => Some(50),
            Violation::KeysExhausted => Some(80),
            // Whoever sent a fatal alert hears nothing more.
            Violation::Alert(_) => None,
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                TlsError::Certificate(error.to_string())
            }
            rustls::Error::AlertReceived(alert) => Violation::Alert(alert.into()).into(),
            error => TlsError::Handshake(error.to_string()),
        }
    }
}
