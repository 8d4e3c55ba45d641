//! Writing responses, RFC 9112 section 4.

/// Whether, and how, a response says what becomes of the connection (RFC 9112 section 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// HTTP/1.1: it stays open, which needs no word.
    Open,
    /// HTTP/1.0: it stays open, which must be said.
    OpenSaid,
    /// It closes after this response.
    Close,
}

/// What frames the response is ours alone.
const OUR_HEADERS: [&str; 3] = ["Connection", "Content-Length", "Transfer-Encoding"];

/// Appends a plain-text response, e.g. a refused upgrade.
///
/// `extra` headers may come from an application: one whose name is no token, or that would say again how long the
/// response is or what becomes of the connection, is left out, and control bytes in a value become spaces (RFC 9110
/// section 5.5), so that nothing can be smuggled into the response. A `Content-Type` among them replaces ours.
/// A 426 gets the `Upgrade: websocket` it must have (RFC 9110 section 15.5.22); 204 and 304 get no body (section
/// 6.4.1); a status outside 200..=599 is answered as 500.
pub fn write_plain(out: &mut Vec<u8>, status: u16, extra: &[(String, String)], body: &str, keep_alive: bool) {
    let connection = if keep_alive { Connection::Open } else { Connection::Close };
    plain(out, status, extra, body, connection, true);
}

/// As [`write_plain`]; without `with_body` (an answer to HEAD) all but the body itself.
pub(super) fn plain<S: AsRef<str>>(
    out: &mut Vec<u8>,
    status: u16,
    extra: &[(S, S)],
    body: &str,
    connection: Connection,
    with_body: bool,
) {
    // An application's mistake must not break the framing: this is a final response (RFC 9110 section 15).
    let status = if (200..=599).contains(&status) { status } else { 500 };
    status_line(out, status);
    let upgrade = status == 426;
    if upgrade {
        header(out, "Upgrade", "websocket");
    }
    connection_header(out, connection, upgrade);
    let mut typed = false;
    for (name, value) in extra {
        let (name, value) = (name.as_ref(), value.as_ref());
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if !(OUR_HEADERS.iter().any(|ours| is(ours)) || upgrade && is("Upgrade")) {
            typed |= is("Content-Type");
            header(out, name, value);
        }
    }
    if matches!(status, 204 | 304) {
        out.extend_from_slice(b"\r\n");
        return;
    }
    if !typed {
        header(out, "Content-Type", "text/plain; charset=utf-8");
    }
    header(out, "X-Content-Type-Options", "nosniff");
    content_length(out, body.len());
    out.extend_from_slice(b"\r\n");
    if with_body {
        out.extend_from_slice(body.as_bytes());
    }
}

pub(super) fn status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn connection_header(out: &mut Vec<u8>, connection: Connection, upgrade: bool) {
    match (connection, upgrade) {
        (Connection::Open, false) => {}
        (Connection::OpenSaid, false) => header(out, "Connection", "keep-alive"),
        (Connection::Close, false) => header(out, "Connection", "close"),
        (Connection::Open, true) => header(out, "Connection", "Upgrade"),
        (Connection::OpenSaid, true) => header(out, "Connection", "Upgrade, keep-alive"),
        (Connection::Close, true) => header(out, "Connection", "Upgrade, close"),
    }
}

pub(super) fn content_length(out: &mut Vec<u8>, bytes: usize) {
    header(out, "Content-Length", &bytes.to_string());
}

/// Appends `name: value`, or nothing when the name is no token.
pub(super) fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return;
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// RFC 9110 section 5.6.2.
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+')
        || matches!(byte, b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// The reason phrase; empty for a status that is not ours and not in common use.
pub(super) const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(status: u16, extra: &[(&str, &str)], keep_alive: bool) -> String {
        let extra: Vec<_> = extra.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let mut out = Vec::new();
        write_plain(&mut out, status, &extra, "no\n", keep_alive);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_refusal_is_whole() {
        assert_eq!(
            written(403, &[("X-Why", "origin")], false),
            "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nX-Why: origin\r\n\
             Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: 3\r\n\r\nno\n"
        );
    }

    #[test]
    fn a_426_names_the_protocol_once() {
        let text = written(426, &[("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")], true);
        assert_eq!(text.matches("Upgrade: websocket\r\n").count(), 1);
        assert!(text.contains("Connection: Upgrade\r\n"));
        assert!(text.contains("Sec-WebSocket-Version: 13\r\n"));
    }

    #[test]
    fn an_application_cannot_split_the_response() {
        let text = written(400, &[("X-A", "1\r\nSet-Cookie: x\0"), ("B: x\r\nC", "2"), ("", "3")], true);
        assert!(text.contains("X-A: 1  Set-Cookie: x \r\n"));
        assert!(!text.contains("\nSet-Cookie") && !text.contains("\nC:") && !text.contains("\n: 3"));
    }

    #[test]
    fn an_application_sets_the_type_and_never_the_framing() {
        let extra =
            [("content-type", "application/json"), ("content-length", "9"), ("Connection", "keep-alive")];
        let text = written(400, &extra, false);
        assert_eq!(text.to_lowercase().matches("\ncontent-type:").count(), 1);
        assert_eq!(text.to_lowercase().matches("\ncontent-length:").count(), 1);
        assert!(text.contains("Content-Length: 3\r\n") && !text.contains("keep-alive"));
    }

    #[test]
    fn a_status_out_of_range_is_an_internal_error() {
        assert!(written(101, &[], true).starts_with("HTTP/1.1 500 "));
        assert!(written(1000, &[], true).starts_with("HTTP/1.1 500 "));
    }

    #[test]
    fn no_body_where_none_may_be() {
        assert_eq!(written(204, &[], true), "HTTP/1.1 204 No Content\r\n\r\n");
    }
}
