//! The client's side, RFC 6455 section 4.1.

use super::super::deflate::{self, Agreement, AnswerError, DeflateConfig};
use super::{
    HeadFieldError, Occurrence, accept_key, check_extra, check_protocol, lists_token, only_value,
    write_header,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::{Header, Status};

/// Longest head of a server's answer in bytes.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most headers in a server's answer.
const RESPONSE_HEADERS_MAX: usize = 64;

/// Length of `Sec-WebSocket-Key`: 16 bytes in base64.
const KEY_BYTES: usize = 24;

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
    /// Compression to offer.
    pub deflate: Option<&'a DeflateConfig>,
}

/// A server's acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// Length of the response head in bytes; frames follow.
    pub consumed: usize,
    /// The subprotocol it chose.
    pub protocol: Option<&'a str>,
    /// How messages may be compressed, if it agreed to that.
    pub deflate: Option<Agreement>,
}

/// Why a server's answer is not an acceptance (RFC 6455 section 4.1): the connection is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The head did not end in time.
    #[error("the head of the answer is over {limit} bytes")]
    TooLarge {
        /// The limit in force, bytes.
        limit: usize,
    },
    /// More headers than are looked at.
    #[error("the answer has more than {limit} headers")]
    TooManyHeaders {
        /// The limit in force, headers.
        limit: usize,
    },
    /// Not the head of an HTTP response.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(httparse::Error),
    /// HTTP, but not HTTP/1.1.
    #[error("the answer is not HTTP/1.1")]
    HttpVersion,
    /// The server did not switch protocols: it refuses, redirects or asks for credentials.
    #[error("the server answered {status} where 101 was expected")]
    Status {
        /// Its status.
        status: u16,
    },
    /// `Upgrade` is not `websocket`.
    #[error("Upgrade in the answer is not websocket")]
    Upgrade,
    /// `Connection` does not list `Upgrade`.
    #[error("Connection in the answer does not list Upgrade")]
    Connection,
    /// `Sec-WebSocket-Accept` does not belong to our key: whoever answered did not understand the request.
    #[error("Sec-WebSocket-Accept in the answer does not match the key sent")]
    Accept,
    /// `Sec-WebSocket-Extensions` is not an answer to what was offered (RFC 7692 section 5.1).
    #[error(transparent)]
    Extension(#[from] AnswerError),
    /// `Sec-WebSocket-Protocol` is not one of those offered.
    #[error("the server chose a subprotocol that was not offered")]
    Protocol,
}

impl ClientRequest<'_> {
    /// Appends the request.
    ///
    /// # Errors
    /// A field that cannot be written; `out` is then as it was.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), HeadFieldError> {
        self.check()?;
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        write_header(out, "Host", self.host.as_bytes());
        out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\n");
        write_header(out, "Sec-WebSocket-Key", &self.key());
        write_header(out, "Sec-WebSocket-Version", b"13");
        if !self.protocols.is_empty() {
            write_header(out, "Sec-WebSocket-Protocol", self.protocols.join(", ").as_bytes());
        }
        if let Some(config) = self.deflate {
            write_header(out, "Sec-WebSocket-Extensions", deflate::offers(config).as_bytes());
        }
        for (name, value) in self.headers {
            write_header(out, name, value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Checks the server's answer at the front of `bytes` (RFC 6455 section 4.1): `Ok(None)` when more bytes are
    /// needed; else how long it is and the subprotocol chosen.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_response<'b>(&self, bytes: &'b [u8]) -> Result<Option<Accepted<'b>>, ResponseError> {
        let bounded = &bytes[..bytes.len().min(RESPONSE_HEAD_BYTES_MAX)];
        let mut headers = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let consumed = match response.parse(bounded) {
            Ok(Status::Complete(consumed)) => consumed,
            Ok(Status::Partial) if bytes.len() < RESPONSE_HEAD_BYTES_MAX => return Ok(None),
            Ok(Status::Partial) => return Err(ResponseError::TooLarge { limit: RESPONSE_HEAD_BYTES_MAX }),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(ResponseError::TooManyHeaders { limit: RESPONSE_HEADERS_MAX });
            }
            Err(error) => return Err(ResponseError::NotHttp(error)),
        };
        if response.version != Some(1) {
            return Err(ResponseError::HttpVersion);
        }
        match response.code {
            Some(101) => {}
            status => return Err(ResponseError::Status { status: status.unwrap_or_default() }),
        }
        let protocol = self.check_headers(response.headers)?;
        let deflate = deflate::read_answer(response.headers, self.deflate)?;
        Ok(Some(Accepted { consumed, protocol, deflate }))
    }

    /// Checks the headers of a 101 answer; the subprotocol chosen.
    fn check_headers<'b>(&self, headers: &[Header<'b>]) -> Result<Option<&'b str>, ResponseError> {
        match only_value(headers, "Upgrade") {
            Occurrence::Once(value) if value.eq_ignore_ascii_case(b"websocket") => {}
            _ => return Err(ResponseError::Upgrade),
        }
        if !lists_token(headers, "Connection", "Upgrade") {
            return Err(ResponseError::Connection);
        }
        match only_value(headers, "Sec-WebSocket-Accept") {
            Occurrence::Once(value) if value == accept_key(&self.key()) => {}
            _ => return Err(ResponseError::Accept),
        }
        match only_value(headers, "Sec-WebSocket-Protocol") {
            Occurrence::Never => Ok(None),
            Occurrence::Once(value) => core::str::from_utf8(value)
                .ok()
                .filter(|chosen| self.protocols.iter().any(|offered| offered == chosen))
                .map(Some)
                .ok_or(ResponseError::Protocol),
            Occurrence::Often => Err(ResponseError::Protocol),
        }
    }

    /// `Sec-WebSocket-Key`.
    fn key(&self) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        let written = STANDARD.encode_slice(self.nonce, &mut key);
        debug_assert_eq!(written, Ok(KEY_BYTES));
        key
    }

    /// Checks what the application gave: nothing of it may end its line or its element.
    fn check(&self) -> Result<(), HeadFieldError> {
        let is_visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible(self.host) || self.host.contains(['/', '?', '#', '@', ',']) {
            return Err(HeadFieldError::Host { host: self.host.to_owned() });
        }
        if !is_visible(self.target) || !self.target.starts_with('/') || self.target.contains('#') {
            return Err(HeadFieldError::Target { target: self.target.to_owned() });
        }
        for (i, protocol) in self.protocols.iter().enumerate() {
            check_protocol(protocol)?;
            if self.protocols[..i].contains(protocol) {
                return Err(HeadFieldError::ProtocolTwice { protocol: protocol.clone() });
            }
        }
        check_extra(self.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    const RIGHT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    /// The request of RFC 6455 section 1.3.
    fn request<'a>(protocols: &'a [String], headers: &'a [(String, String)]) -> ClientRequest<'a> {
        let nonce = *b"the sample nonce";
        ClientRequest {
            host: "server.example.com",
            target: "/chat",
            nonce,
            protocols,
            headers,
            deflate: None,
        }
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// What a client that offered `chat` and `superchat` says to `answer`.
    fn check(answer: &str) -> Result<Option<(usize, Option<String>)>, ResponseError> {
        let protocols = strings(&["chat", "superchat"]);
        let accepted = request(&protocols, &[]).check_response(answer.as_bytes())?;
        Ok(accepted.map(|accepted| (accepted.consumed, accepted.protocol.map(str::to_owned))))
    }

    /// What it says to the right answer after one replacement.
    fn check_with(right: &str, instead: &str) -> Result<Option<(usize, Option<String>)>, ResponseError> {
        assert!(RIGHT.contains(right));
        check(&RIGHT.replacen(right, instead, 1))
    }

    #[test]
    fn the_request_is_as_in_section_1_3() {
        let protocols = strings(&["chat", "superchat"]);
        let headers = [("Origin".to_owned(), "http://example.com".to_owned())];
        let mut out = Vec::new();
        assert_eq!(request(&protocols, &headers).write(&mut out), Ok(()));
        let expected = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, superchat\r\n\
             Origin: http://example.com\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn fields_that_would_break_the_request_are_refused() {
        let fails = |request: ClientRequest<'_>| {
            let mut out = Vec::new();
            let error = request.write(&mut out).unwrap_err();
            assert!(out.is_empty());
            error
        };
        for host in ["", "a b", "a\r\nX: y", "user@a", "a/b", "é"] {
            let error = fails(ClientRequest { host, ..request(&[], &[]) });
            assert_eq!(error, HeadFieldError::Host { host: host.to_owned() });
        }
        for target in ["", "chat", "http://a/", "/a b", "/a HTTP/1.1\r\nX: y", "/#top", "/é"] {
            let error = fails(ClientRequest { target, ..request(&[], &[]) });
            assert_eq!(error, HeadFieldError::Target { target: target.to_owned() });
        }
        for protocol in ["", "a b", "a,b", "a\r\n"] {
            let error = fails(request(&strings(&[protocol]), &[]));
            assert_eq!(error, HeadFieldError::Protocol { protocol: protocol.to_owned() });
        }
        let error = fails(request(&strings(&["a", "b", "a"]), &[]));
        assert_eq!(error, HeadFieldError::ProtocolTwice { protocol: "a".to_owned() });
        let error = fails(request(&[], &[("X".to_owned(), "\r\n\r\n".to_owned())]));
        assert!(matches!(error, HeadFieldError::Value { .. }));
    }

    #[test]
    fn hosts_and_targets_of_every_form_are_written() {
        for host in ["localhost", "127.0.0.1:8080", "[fd73::2]:9001", "a_b.example"] {
            for target in ["/", "/chat?room=1&x=%20", "/a//b", "/?"] {
                let mut out = Vec::new();
                let request = ClientRequest { host, target, ..request(&[], &[]) };
                assert_eq!(request.write(&mut out), Ok(()), "{host} {target}");
            }
        }
    }

    #[test]
    fn an_answer_cut_anywhere_needs_more() {
        for cut in 0..RIGHT.len() {
            assert_eq!(check(&RIGHT[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(check(RIGHT), Ok(Some((RIGHT.len(), None))));
        let followed = format!("{RIGHT}\u{1}");
        assert_eq!(check(&followed), Ok(Some((RIGHT.len(), None))));
    }

    #[test]
    fn header_names_and_tokens_are_case_insensitive() {
        assert!(check_with("Upgrade: websocket", "UPGRADE: WebSocket").is_ok());
        assert!(check_with("Connection: Upgrade", "connection: keep-alive, upgrade").is_ok());
    }

    #[test]
    fn any_status_but_101_is_told() {
        for status in [100, 200, 301, 401, 426, 503] {
            let answer = format!("HTTP/1.1 {status} Whatever\r\n\r\n");
            assert_eq!(check(&answer), Err(ResponseError::Status { status }));
        }
        assert_eq!(check_with("HTTP/1.1", "HTTP/1.0"), Err(ResponseError::HttpVersion));
        assert!(matches!(check("SSH-2.0-OpenSSH\r\n"), Err(ResponseError::NotHttp(_))));
    }

    #[test]
    fn upgrade_connection_and_accept_must_be_right() {
        for instead in ["X: y", "Upgrade: h2c", "Upgrade: websocket\r\nUpgrade: websocket"] {
            assert_eq!(check_with("Upgrade: websocket", instead), Err(ResponseError::Upgrade));
        }
        for instead in ["X: y", "Connection: close", "Connection: Upgraded"] {
            assert_eq!(check_with("Connection: Upgrade", instead), Err(ResponseError::Connection));
        }
        let other = ACCEPT.replace("s3p", "S3p");
        for instead in ["", &other, &ACCEPT.repeat(2), "Sec-WebSocket-Accept: \r\n"] {
            assert_eq!(check_with(ACCEPT, instead), Err(ResponseError::Accept), "{instead}");
        }
    }

    #[test]
    fn the_subprotocol_must_be_one_of_those_offered() {
        let choosing =
            |value: &str| check_with(ACCEPT, &format!("{ACCEPT}Sec-WebSocket-Protocol: {value}\r\n"));
        let chosen = choosing("superchat").unwrap().and_then(|(_, protocol)| protocol);
        assert_eq!(chosen.as_deref(), Some("superchat"));
        for wrong in ["other", "", "Chat", "chat, superchat", "chat\r\nSec-WebSocket-Protocol: chat"] {
            assert_eq!(choosing(wrong), Err(ResponseError::Protocol), "{wrong}");
        }
    }

    #[test]
    fn an_extension_that_was_not_offered_fails() {
        let with =
            |value: &str| check_with(ACCEPT, &format!("{ACCEPT}Sec-WebSocket-Extensions: {value}\r\n"));
        assert_eq!(with("permessage-deflate"), Err(ResponseError::Extension(AnswerError::NotOffered)));
        assert!(with("").is_ok());
    }

    #[test]
    fn an_endless_answer_fails() {
        let limit = RESPONSE_HEAD_BYTES_MAX;
        let endless = format!("HTTP/1.1 101 x\r\nX: {}", "y".repeat(limit));
        assert_eq!(check(&endless[..limit - 1]), Ok(None));
        assert_eq!(check(&endless[..limit]), Err(ResponseError::TooLarge { limit }));
        assert_eq!(check(&endless), Err(ResponseError::TooLarge { limit }));
        let many = format!("HTTP/1.1 101 x\r\n{}", "X: y\r\n".repeat(RESPONSE_HEADERS_MAX + 1));
        let limit = RESPONSE_HEADERS_MAX;
        assert_eq!(check(&many), Err(ResponseError::TooManyHeaders { limit }));
    }
}
