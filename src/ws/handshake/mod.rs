//! The opening handshake, RFC 6455 section 4: the server's check and answer, the client's request and check.

mod client;
mod server;

pub use client::{Accepted, ClientRequest, RESPONSE_HEAD_BYTES_MAX, ResponseError};
pub use server::{
    HandshakeError, UpgradeRequest, check_request, offered_protocols, wants_websocket, write_accept,
};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::Header;
use sha1::{Digest, Sha1};

/// Length of `Sec-WebSocket-Accept`: 20 bytes in base64.
const ACCEPT_BYTES: usize = 28;

/// Why a head that the application asked for is not written. Nothing of it reaches the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadFieldError {
    /// The host is not what a `Host` header may hold.
    #[error("host {host:?}: expected a name or address, with `:port` if needed, in visible ASCII")]
    Host {
        /// As given.
        host: String,
    },
    /// The request target is not a path.
    #[error(
        "target {target:?}: expected a path that begins with `/`, in visible ASCII without `#` \
         (percent-encode everything else)"
    )]
    Target {
        /// As given.
        target: String,
    },
    /// A subprotocol is not a token (RFC 9110 section 5.6.2).
    #[error("subprotocol {protocol:?}: expected a token: letters, digits and any of !#$%&'*+-.^_`|~")]
    Protocol {
        /// As given.
        protocol: String,
    },
    /// A subprotocol is offered twice (RFC 6455 section 4.1).
    #[error("subprotocol {protocol:?} is offered twice: expected each one once")]
    ProtocolTwice {
        /// As given.
        protocol: String,
    },
    /// A header's name is not a token (RFC 9110 section 5.6.2).
    #[error("header name {name:?}: expected a token: letters, digits and any of !#$%&'*+-.^_`|~")]
    Name {
        /// As given.
        name: String,
    },
    /// The handshake itself writes this header.
    #[error("header {name:?} belongs to the handshake: expected any other name")]
    Reserved {
        /// As given.
        name: String,
    },
    /// A header's value has a control character, such as a line break (RFC 9110 section 5.5).
    #[error("value {value:?} of header {name:?}: expected no control characters but tabs")]
    Value {
        /// The header's name.
        name: String,
        /// As given.
        value: String,
    },
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2).
fn accept_key(key: &[u8]) -> [u8; ACCEPT_BYTES] {
    let digest =
        Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let mut accept = [0; ACCEPT_BYTES];
    let written = STANDARD.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(ACCEPT_BYTES));
    accept
}

/// The values of every header called `name` (in any case), in their order.
fn values<'h, 'a>(
    headers: &'h [Header<'a>],
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> + use<'h, 'a> {
    headers.iter().filter(move |header| is_same(header.name.as_bytes(), name)).map(|header| header.value)
}

/// Whether `bytes` is `expected` in any case. Mostly it is written in the same way, and that is seen without going through it
/// byte by byte.
#[inline]
fn is_same(bytes: &[u8], expected: &str) -> bool {
    bytes == expected.as_bytes() || bytes.eq_ignore_ascii_case(expected.as_bytes())
}

/// The elements of every header called `name`, a comma-separated list (RFC 9110 section 5.6.1); empty ones are left
/// out.
fn list<'h, 'a>(
    headers: &'h [Header<'a>],
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> + use<'h, 'a> {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether the list header `name` has the element `token` in any case.
#[inline]
fn lists_token(headers: &[Header<'_>], name: &'static str, token: &str) -> bool {
    // Mostly it is alone.
    values(headers, name).any(|value| is_same(value, token))
        || list(headers, name).any(|element| is_same(element, token))
}

/// The one value of header `name`.
#[inline]
fn only_value<'a>(headers: &[Header<'a>], name: &'static str) -> Occurrence<&'a [u8]> {
    let mut all = values(headers, name);
    match (all.next(), all.next()) {
        (None, _) => Occurrence::Never,
        (Some(value), None) => Occurrence::Once(value.trim_ascii()),
        (Some(_), Some(_)) => Occurrence::Often,
    }
}

/// How often a header occurs.
enum Occurrence<T> {
    Never,
    Once(T),
    Often,
}

/// Whether `bytes` is a token, RFC 9110 section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Checks subprotocols that the application named.
fn check_protocol(protocol: &str) -> Result<(), HeadFieldError> {
    if is_token(protocol.as_bytes()) {
        Ok(())
    } else {
        Err(HeadFieldError::Protocol { protocol: protocol.to_owned() })
    }
}

/// Checks headers that the application added: none may end a line or contradict the handshake.
fn check_extra(headers: &[(String, String)]) -> Result<(), HeadFieldError> {
    /// Written by the handshake, or (the last two) would announce a body that it does not have.
    const RESERVED: [&str; 10] = [
        "Host",
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "Content-Length",
        "Transfer-Encoding",
    ];
    for (name, value) in headers {
        if !is_token(name.as_bytes()) {
            return Err(HeadFieldError::Name { name: name.clone() });
        }
        if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
            return Err(HeadFieldError::Reserved { name: name.clone() });
        }
        if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
            return Err(HeadFieldError::Value { name: name.clone(), value: value.clone() });
        }
    }
    Ok(())
}

/// Appends `name: value` and the end of the line.
fn write_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_section_1_3() {
        assert_eq!(&accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn tokens_are_those_of_rfc_9110() {
        for byte in 0..=u8::MAX {
            let separator = br#"(),/:;<=>?@[\]{}""#.contains(&byte);
            assert_eq!(is_token(&[byte]), byte.is_ascii_graphic() && !separator, "{byte:#x}");
        }
        assert!(!is_token(b""));
        assert!(!is_token(b"a b"));
    }

    #[test]
    fn lists_run_over_several_headers_and_skip_empty_elements() {
        let header = |name, value| Header { name, value };
        let headers = [
            header("connection", &b"keep-alive , ,Upgrade"[..]),
            header("Other", b"x"),
            header("CONNECTION", b"\tTE"),
            header("Connection", b""),
        ];
        let elements: Vec<_> = list(&headers, "Connection").collect();
        assert_eq!(elements, [&b"keep-alive"[..], b"Upgrade", b"TE"]);
        assert!(lists_token(&headers, "Connection", "upgrade"));
        assert!(!lists_token(&headers, "Connection", "upgrad"));
    }

    #[test]
    fn what_the_application_adds_cannot_break_out_of_its_line() {
        let check = |name: &str, value: &str| check_extra(&[(name.to_owned(), value.to_owned())]);
        assert_eq!(check("X-Trace", "a b\té\u{a0}"), Ok(()));
        assert_eq!(check("X-Empty", ""), Ok(()));
        for name in ["", "X Y", "X:", "X\r\nY", "é"] {
            assert_eq!(check(name, "v"), Err(HeadFieldError::Name { name: name.to_owned() }));
        }
        for value in ["a\r\nSet-Cookie: b", "a\n", "a\r", "\0", "\x7f"] {
            let error = HeadFieldError::Value { name: "X".to_owned(), value: value.to_owned() };
            assert_eq!(check("X", value), Err(error));
        }
        for name in ["host", "UPGRADE", "connection", "sec-websocket-extensions", "content-length"] {
            assert_eq!(check(name, "v"), Err(HeadFieldError::Reserved { name: name.to_owned() }));
        }
    }
}
