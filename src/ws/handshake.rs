//! The opening handshake, RFC 6455 section 4: the server's check and answer, the client's request and check.

use httparse::Header;

/// A checked upgrade request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpgradeRequest<'a> {
    /// `Sec-WebSocket-Key`: 16 bytes in base64.
    pub key: &'a str,
}

/// Why an upgrade request or response is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The request's `Sec-WebSocket-Version` is not 13 (section 4.2.2): answer 426.
    #[error("Sec-WebSocket-Version must be 13 (RFC 6455 section 4.2.1)")]
    Version,
}

impl HandshakeError {
    /// The HTTP status to answer with: 400, 405, or 426 (with `Sec-WebSocket-Version: 13`).
    pub const fn status(self) -> u16 {
        match self {
            HandshakeError::Version => 426,
        }
    }
}

/// Whether the request asks for a WebSocket at all: `Upgrade` lists `websocket`. When not, it is plain HTTP.
pub fn wants_websocket(headers: &[Header<'_>]) -> bool {
    let _ = headers;
    todo!()
}

/// Checks an upgrade request, RFC 6455 section 4.2.1. `minor_version` is of HTTP/1.x.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_request<'a>(
    method: &str,
    minor_version: u8,
    headers: &[Header<'a>],
) -> Result<UpgradeRequest<'a>, HandshakeError> {
    let _ = (method, minor_version, headers);
    todo!()
}

/// The subprotocols the client offers, in its order of preference.
pub fn offered_protocols<'h, 'a>(headers: &'h [Header<'a>]) -> impl Iterator<Item = &'a str> + use<'h, 'a> {
    let _ = headers;
    core::iter::empty()
}

/// Appends the 101 answer: accept key, `protocol` if one was chosen, `extra` headers as given.
pub fn write_accept(out: &mut Vec<u8>, key: &str, protocol: Option<&str>, extra: &[(String, String)]) {
    let _ = (out, key, protocol, extra);
    todo!()
}

/// A client's upgrade request.
#[derive(Clone, Debug)]
pub struct ClientRequest<'a> {
    /// The `Host` header: host, with the port when it is not the scheme's default.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// 16 random bytes.
    pub nonce: [u8; 16],
    /// Subprotocols to offer, in order of preference.
    pub protocols: &'a [String],
    /// More headers, as given.
    pub headers: &'a [(String, String)],
}

impl ClientRequest<'_> {
    /// Appends the request.
    pub fn write(&self, out: &mut Vec<u8>) {
        let _ = out;
        todo!()
    }

    /// Checks the server's answer at the front of `bytes` (RFC 6455 section 4.1): `Ok(None)` when more bytes are
    /// needed; else how long it is and the subprotocol chosen.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_response<'b>(&self, bytes: &'b [u8]) -> Result<Option<Accepted<'b>>, HandshakeError> {
        let _ = bytes;
        todo!()
    }
}

/// A server's acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// Length of the response head in bytes; frames follow.
    pub consumed: usize,
    /// The subprotocol it chose.
    pub protocol: Option<&'a str>,
}
