//! The server's side, RFC 6455 section 4.2.

use super::super::deflate;
use super::{
    HeadFieldError, Occurrence, accept_key, check_extra, check_protocol, is_token, list, lists_token,
    only_value, write_header,
};
use httparse::Header;

/// A checked upgrade request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpgradeRequest<'a> {
    /// `Sec-WebSocket-Key`: 16 bytes in base64.
    pub key: &'a str,
}

/// Why an upgrade request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// RFC 6455 section 4.2.1: the request is a GET.
    #[error("the method of an upgrade request must be GET (RFC 6455 section 4.2.1)")]
    Method,
    /// RFC 6455 section 4.2.1: the request is HTTP/1.1 or higher.
    #[error("an upgrade request must be HTTP/1.1 or higher (RFC 6455 section 4.2.1)")]
    HttpVersion,
    /// RFC 6455 section 4.2.1: there is one `Host` header.
    #[error("exactly one Host header must be there (RFC 6455 section 4.2.1)")]
    Host,
    /// RFC 6455 section 4.2.1: `Upgrade` lists `websocket`.
    #[error("Upgrade must list websocket (RFC 6455 section 4.2.1)")]
    Upgrade,
    /// RFC 6455 section 4.2.1: `Connection` lists `Upgrade`.
    #[error("Connection must list Upgrade (RFC 6455 section 4.2.1)")]
    Connection,
    /// The request's `Sec-WebSocket-Version` is not 13 (section 4.2.2): answer 426.
    #[error("Sec-WebSocket-Version must be 13 (RFC 6455 section 4.2.1)")]
    Version,
    /// RFC 6455 section 11.3.5: `Sec-WebSocket-Version` occurs once in a request.
    #[error("Sec-WebSocket-Version must not be there twice (RFC 6455 section 11.3.5)")]
    VersionTwice,
    /// RFC 6455 section 4.2.1: `Sec-WebSocket-Key` is there and decodes to 16 bytes.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64 (RFC 6455 section 4.2.1)")]
    Key,
    /// RFC 6455 section 11.3.1: `Sec-WebSocket-Key` occurs once.
    #[error("Sec-WebSocket-Key must not be there twice (RFC 6455 section 11.3.1)")]
    KeyTwice,
    /// RFC 6455 section 4.1: the elements of `Sec-WebSocket-Protocol` are tokens.
    #[error("Sec-WebSocket-Protocol must list tokens (RFC 6455 section 4.1)")]
    Protocol,
    /// RFC 6455 section 9.1: `Sec-WebSocket-Extensions` is a list of extensions.
    #[error("Sec-WebSocket-Extensions must list extensions (RFC 6455 section 9.1)")]
    Extensions,
}

impl HandshakeError {
    /// The HTTP status to answer with: 400, 405, or 426.
    pub const fn status(self) -> u16 {
        match self {
            HandshakeError::Method => 405,
            HandshakeError::Version => 426,
            _ => 400,
        }
    }

    /// The headers, as (name, value), that the answer must have besides: what would have been right (RFC 6455
    /// section 4.2.2, RFC 9110 sections 15.5.6 and 15.5.22).
    pub const fn response_headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            HandshakeError::Method => &[("Allow", "GET")],
            HandshakeError::Version => {
                &[("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
            }
            _ => &[],
        }
    }
}

/// Whether the request asks for a WebSocket at all: `Upgrade` lists `websocket`. When not, it is plain HTTP.
pub fn wants_websocket(headers: &[Header<'_>]) -> bool {
    lists_token(headers, "Upgrade", "websocket")
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
    if method != "GET" {
        return Err(HandshakeError::Method);
    }
    if minor_version < 1 {
        return Err(HandshakeError::HttpVersion);
    }
    let Occurrence::Once(_) = only_value(headers, "Host") else { return Err(HandshakeError::Host) };
    if !wants_websocket(headers) {
        return Err(HandshakeError::Upgrade);
    }
    if !lists_token(headers, "Connection", "Upgrade") {
        return Err(HandshakeError::Connection);
    }
    // The version comes before the key, which another version need not have.
    match only_value(headers, "Sec-WebSocket-Version") {
        Occurrence::Once(b"13") => {}
        Occurrence::Never | Occurrence::Once(_) => return Err(HandshakeError::Version),
        Occurrence::Often => return Err(HandshakeError::VersionTwice),
    }
    let key = match only_value(headers, "Sec-WebSocket-Key") {
        Occurrence::Once(value) => checked_key(value).ok_or(HandshakeError::Key)?,
        Occurrence::Never => return Err(HandshakeError::Key),
        Occurrence::Often => return Err(HandshakeError::KeyTwice),
    };
    if !list(headers, "Sec-WebSocket-Protocol").all(is_token) {
        return Err(HandshakeError::Protocol);
    }
    deflate::check_grammar(headers).map_err(|_| HandshakeError::Extensions)?;
    Ok(UpgradeRequest { key })
}

/// The subprotocols the client offers, in its order of preference.
pub fn offered_protocols<'h, 'a>(headers: &'h [Header<'a>]) -> impl Iterator<Item = &'a str> + use<'h, 'a> {
    list(headers, "Sec-WebSocket-Protocol")
        .filter(|protocol| is_token(protocol))
        .filter_map(|protocol| core::str::from_utf8(protocol).ok())
}

/// Appends the 101 answer: accept key, `protocol` if one was chosen (it must be one that the client offered),
/// `extensions` as [`deflate::choose`] wrote them, `extra` headers as given.
///
/// # Errors
/// A protocol or an extra header that cannot be written; `out` is then as it was.
pub fn write_accept(
    out: &mut Vec<u8>,
    key: &str,
    protocol: Option<&str>,
    extensions: Option<&str>,
    extra: &[(String, String)],
) -> Result<(), HeadFieldError> {
    if let Some(protocol) = protocol {
        check_protocol(protocol)?;
    }
    check_extra(extra)?;
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    write_header(out, "Sec-WebSocket-Accept", &accept_key(key.as_bytes()));
    if let Some(protocol) = protocol {
        write_header(out, "Sec-WebSocket-Protocol", protocol.as_bytes());
    }
    if let Some(extensions) = extensions {
        write_header(out, "Sec-WebSocket-Extensions", extensions.as_bytes());
    }
    for (name, value) in extra {
        write_header(out, name, value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// `value` when it is 16 bytes in base64. Bits of the last character that say nothing may be set: RFC 6455 asks for
/// no more than that it decodes.
fn checked_key(value: &[u8]) -> Option<&str> {
    // RFC 4648 section 4: 16 bytes are 22 characters and two of padding, and nothing else of 24 is.
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let is_nonce =
        matches!(value, [digits @ .., b'=', b'='] if digits.len() == 22 && digits.iter().all(is_digit));
    core::str::from_utf8(value).ok().filter(|_| is_nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::alphabet::STANDARD;
    use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
    use proptest::prelude::*;

    type Field = (&'static str, &'static str);

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const RIGHT: [Field; 5] = [
        ("Host", "server.example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
    ];

    fn check(fields: &[Field]) -> Result<&'static str, HandshakeError> {
        let headers: Vec<_> =
            fields.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        check_request("GET", 1, &headers).map(|request| request.key)
    }

    /// A right request, but for the header `name`, which has each of `values` (maybe none).
    fn with(name: &'static str, values: &[&'static str]) -> Result<&'static str, HandshakeError> {
        let others = RIGHT.into_iter().filter(|field| field.0 != name);
        let fields: Vec<_> = others.chain(values.iter().map(|value| (name, *value))).collect();
        check(&fields)
    }

    #[test]
    fn a_right_request_gives_its_key() {
        assert_eq!(check(&RIGHT), Ok(KEY));
    }

    #[test]
    fn header_names_and_tokens_are_case_insensitive() {
        let fields = [
            ("HOST", ""),
            ("uPGRADE", "WebSocket"),
            ("connection", "keep-alive, UPGRADE"),
            ("sec-websocket-key", KEY),
            ("SEC-WEBSOCKET-VERSION", " 13 "),
        ];
        assert_eq!(check(&fields), Ok(KEY));
    }

    #[test]
    fn only_get_and_only_from_http_1_1() {
        let headers = RIGHT.map(|(name, value)| Header { name, value: value.as_bytes() });
        for method in ["POST", "HEAD", "get", ""] {
            assert_eq!(check_request(method, 1, &headers), Err(HandshakeError::Method));
        }
        assert_eq!(check_request("GET", 0, &headers), Err(HandshakeError::HttpVersion));
    }

    #[test]
    fn host_is_there_once() {
        assert_eq!(with("Host", &[]), Err(HandshakeError::Host));
        assert_eq!(with("Host", &["a", "a"]), Err(HandshakeError::Host));
    }

    #[test]
    fn upgrade_and_connection_are_lists_of_tokens() {
        assert_eq!(with("Upgrade", &["h2c, websocket"]), Ok(KEY));
        assert_eq!(with("Upgrade", &["h2c", "websocket"]), Ok(KEY));
        for wrong in [&[][..], &["h2c"], &["websockets"], &["web socket"], &["websocket/13"]] {
            assert_eq!(with("Upgrade", wrong), Err(HandshakeError::Upgrade), "{wrong:?}");
        }
        assert_eq!(with("Connection", &["keep-alive,upgrade"]), Ok(KEY));
        assert_eq!(with("Connection", &["keep-alive", "Upgrade"]), Ok(KEY));
        for wrong in [&[][..], &["keep-alive"], &["not-upgrade"], &["Upgrade;q=1"]] {
            assert_eq!(with("Connection", wrong), Err(HandshakeError::Connection), "{wrong:?}");
        }
    }

    #[test]
    fn another_version_is_told_the_right_one() {
        for wrong in [&[][..], &["8"], &["013"], &["13, 8"], &[""], &["14"]] {
            let error = with("Sec-WebSocket-Version", wrong).unwrap_err();
            assert_eq!(error, HandshakeError::Version, "{wrong:?}");
            assert_eq!(error.status(), 426);
            assert!(error.response_headers().contains(&("Sec-WebSocket-Version", "13")));
        }
        assert_eq!(with("Sec-WebSocket-Version", &["13", "13"]), Err(HandshakeError::VersionTwice));
        assert_eq!(HandshakeError::VersionTwice.status(), 400);
    }

    #[test]
    fn the_key_is_16_bytes_in_base64_once() {
        for right in [
            "AAAAAAAAAAAAAAAAAAAAAA==",
            "//////////////////////==",
            "+/+/+/+/+/+/+/+/+/+/+w==",
            " AQIDBAUGBwgJCgsMDQ4PEA== ",
        ] {
            assert!(with("Sec-WebSocket-Key", &[right]).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",         // no padding
            "dGhlIHNhbXBsZSBub25jZQ=",        // half of it
            "dGhlIHNhbXBsZSBub25jZQ== x",     // more
            "dGhlIHNhbXBsZSBub25jZSE=",       // 17 bytes
            "dGhlIHNhbXBsZSBub25jZSEh",       // 18 bytes
            "dGhlIHNhbXBsZSBub24=",           // 14 bytes
            "dGhlIHNhbXBsZSBub25j*Q==",       // not base64
            "dGhlIHNhbXBsZSBub25j-_==",       // base64url
            "dGhlIHNhbXBsZSBub25jZQ==dGhlIA", // two
        ] {
            assert_eq!(with("Sec-WebSocket-Key", &[wrong]), Err(HandshakeError::Key), "{wrong}");
        }
        assert_eq!(with("Sec-WebSocket-Key", &[]), Err(HandshakeError::Key));
        assert_eq!(with("Sec-WebSocket-Key", &[KEY, KEY]), Err(HandshakeError::KeyTwice));
    }

    /// What a decoder says of a key.
    fn decodes_to_16_bytes(value: &[u8]) -> bool {
        const LENIENT: GeneralPurpose =
            GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
        // 24 characters decode to at most 18 bytes.
        value.len() == 24 && LENIENT.decode_slice(value, &mut [0; 18]) == Ok(16)
    }

    proptest! {
        #[test]
        fn a_key_is_what_a_decoder_takes(
            digits in "[A-Za-z0-9+/]{20,24}",
            padding in "={0,3}",
            at in 0_usize..24,
            odd in proptest::option::of(any::<u8>()),
        ) {
            let mut value = (digits + &padding).into_bytes();
            if let (Some(odd), Some(byte)) = (odd, value.get_mut(at)) {
                *byte = odd;
            }
            prop_assert_eq!(checked_key(&value).is_some(), decodes_to_16_bytes(&value), "{:?}", value);
        }
    }

    #[test]
    fn offered_protocols_are_tokens_in_their_order() {
        let header = |value: &'static [u8]| Header { name: "sec-websocket-protocol", value };
        let headers = [header(b"chat.v2, ,chat"), header(b"superchat")];
        assert_eq!(offered_protocols(&headers).collect::<Vec<_>>(), ["chat.v2", "chat", "superchat"]);
        assert_eq!(offered_protocols(&[]).count(), 0);
        assert_eq!(with("Sec-WebSocket-Protocol", &["chat, superchat"]), Ok(KEY));
        assert_eq!(with("Sec-WebSocket-Protocol", &["chat, super chat"]), Err(HandshakeError::Protocol));
        assert_eq!(with("Sec-WebSocket-Protocol", &["chat=1"]), Err(HandshakeError::Protocol));
    }

    #[test]
    fn extensions_are_a_list_whether_we_know_them_or_not() {
        assert_eq!(with("Sec-WebSocket-Extensions", &["x-foo; a=\"b\", permessage-deflate; c"]), Ok(KEY));
        for wrong in ["a b", ";", "a;b=\"c d\""] {
            assert_eq!(with("Sec-WebSocket-Extensions", &["x", wrong]), Err(HandshakeError::Extensions));
        }
    }

    #[test]
    fn the_answer_is_as_in_section_1_3() {
        let mut out = b"before".to_vec();
        let extra = [("Server".to_owned(), "unsocket".to_owned())];
        assert_eq!(write_accept(&mut out, KEY, Some("chat"), Some("permessage-deflate"), &extra), Ok(()));
        let expected = "beforeHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\nServer: unsocket\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_answer_that_cannot_be_written_leaves_nothing() {
        let mut out = b"before".to_vec();
        let bad = [("X".to_owned(), "a\r\nb".to_owned())];
        assert!(matches!(write_accept(&mut out, KEY, None, None, &bad), Err(HeadFieldError::Value { .. })));
        let error = write_accept(&mut out, KEY, Some("a\r\nb"), None, &[]);
        assert_eq!(error, Err(HeadFieldError::Protocol { protocol: "a\r\nb".to_owned() }));
        assert_eq!(out, b"before");
    }
}
