//! The request head, parsed with `httparse` under bounds.
//!
//! Everything that two parsers have been known to read differently is refused (RFC 9112 section 11.2, request
//! smuggling): bare LF and CR, folded lines, space before the colon, repeated or odd `Content-Length`, any
//! `Transfer-Encoding`, no or several `Host`.

use super::target;
use core::mem::MaybeUninit;
use httparse::Header;

/// Most headers in one request head.
pub const HEADERS_MAX: usize = 64;

/// Where [`parse_head`] puts the headers.
pub type HeaderSlots<'b> = [MaybeUninit<Header<'b>>; HEADERS_MAX];

/// Largest request body in bytes. Nothing here reads bodies; one up to this size is skipped so that the
/// connection can go on, a larger one is refused with 413.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// A parsed request head; borrows from the bytes it was parsed from.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    /// `GET`, `HEAD`, ...
    pub method: &'b str,
    /// Path without the query, percent-encoding left alone; `*` for `OPTIONS *`.
    pub path: &'b str,
    /// After the `?`, empty when there is none.
    pub query: &'b str,
    /// Whom the client believes it talks to, with the port if it said one: from an absolute target, else the
    /// `Host` header; empty when an HTTP/1.0 client did not say.
    pub host: &'b str,
    /// 0 or 1 of HTTP/1.x.
    pub minor_version: u8,
    /// All headers in their order.
    pub headers: &'h [Header<'b>],
    /// Length of the head in bytes, its blank line included.
    pub head_bytes: usize,
    /// Length of the body that follows, bytes; at most [`BODY_BYTES_MAX`]. To be skipped before the next request
    /// or, after an upgrade, before the first frame (RFC 9110 section 7.8).
    pub body_bytes: usize,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
}

impl<'b> RequestHead<'_, 'b> {
    /// The value of the first header of this name (any case), when there is one.
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        values(self.headers, name).next()
    }
}

/// Slots for [`parse_head`]. They are 2 KB, of which a request needs little: nothing is written to them yet.
#[inline]
pub const fn header_slots<'b>() -> HeaderSlots<'b> {
    [const { MaybeUninit::uninit() }; HEADERS_MAX]
}

/// Why a request head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// 431: more bytes than `limit` without an end.
    #[error("request head over the limit of {limit} bytes")]
    TooLarge {
        /// The limit in force, bytes.
        limit: usize,
    },
    /// 414: the request line alone has more bytes than a head may have.
    #[error("request target over the limit of {limit} bytes for a whole head")]
    TargetTooLong {
        /// The limit in force, bytes.
        limit: usize,
    },
    /// 431: more header lines than [`HEADERS_MAX`].
    #[error("more than {HEADERS_MAX} headers")]
    TooManyHeaders,
    /// A line that ends with LF alone, or a CR without its LF (RFC 9112 section 2.2).
    #[error("a line of the request head does not end with CR LF (RFC 9112 section 2.2)")]
    BareLineEnd,
    /// A control byte, NUL for one. A TLS ClientHello begins with such bytes, too.
    #[error("control byte in the request head: this port speaks plain HTTP/1.1")]
    ControlByte,
    /// Not `method SP target SP version` (RFC 9112 section 3).
    #[error("malformed request line (RFC 9112 section 3)")]
    RequestLine,
    /// None of the forms of RFC 9112 section 3.2, or a form that is not for this method.
    #[error("malformed request target (RFC 9112 section 3.2)")]
    Target,
    /// 505: an HTTP version other than 1.0 and 1.1.
    #[error("this server speaks HTTP/1.1 and HTTP/1.0")]
    Version,
    /// 501: CONNECT; what follows it would not be HTTP.
    #[error("this server is no proxy: CONNECT is not implemented")]
    Connect,
    /// A header line that is no `name: value`: folded, space before the colon, an odd byte (RFC 9112 section 5).
    #[error("malformed header line (RFC 9112 section 5)")]
    HeaderLine,
    /// HTTP/1.1 without exactly one `Host`, or several in HTTP/1.0 (RFC 9112 section 3.2).
    #[error("a request needs exactly one Host header (RFC 9112 section 3.2)")]
    HostCount,
    /// A `Host` that is not `host[:port]`.
    #[error("malformed Host header (RFC 9110 section 7.2)")]
    HostValue,
    /// More than one `Content-Length`, equal or not.
    #[error("more than one Content-Length header (RFC 9112 section 6.3)")]
    ContentLengthRepeated,
    /// A `Content-Length` that is not digits alone.
    #[error("Content-Length must be decimal digits (RFC 9110 section 8.6)")]
    ContentLengthValue,
    /// 413: a body larger than [`BODY_BYTES_MAX`].
    #[error("request body over the limit of {BODY_BYTES_MAX} bytes")]
    BodyTooLarge,
    /// 411: a chunked body. We take none, and RFC 9112 section 6.3 lets a server insist on `Content-Length`.
    #[error("chunked request bodies are not accepted: send Content-Length (RFC 9112 section 6.3)")]
    LengthRequired,
    /// `Transfer-Encoding` beside `Content-Length`, in HTTP/1.0, or one that does not end in `chunked`: where
    /// the body ends is open to dispute (RFC 9112 sections 6.1 and 6.3).
    #[error("Transfer-Encoding leaves the body's end in doubt (RFC 9112 section 6.3)")]
    TransferEncoding,
}

impl HeadError {
    /// The status to answer with before closing: 400, 411, 413, 414, 431, 501 or 505.
    pub const fn status(self) -> u16 {
        match self {
            HeadError::LengthRequired => 411,
            HeadError::BodyTooLarge => 413,
            HeadError::TargetTooLong { .. } => 414,
            HeadError::TooLarge { .. } | HeadError::TooManyHeaders => 431,
            HeadError::Connect => 501,
            HeadError::Version => 505,
            HeadError::BareLineEnd
            | HeadError::ControlByte
            | HeadError::RequestLine
            | HeadError::Target
            | HeadError::HeaderLine
            | HeadError::HostCount
            | HeadError::HostValue
            | HeadError::ContentLengthRepeated
            | HeadError::ContentLengthValue
            | HeadError::TransferEncoding => 400,
        }
    }
}

/// Parses the head at the front of `bytes`: `Ok(None)` when more bytes are needed.
///
/// The result does not depend on how the bytes were cut into calls. An unfinished head costs one pass over its
/// bytes, which `head_bytes_max` bounds; `httparse` runs once, on the whole head.
///
/// # Errors
/// What is wrong with it; the connection is to be answered with [`HeadError::status`] and closed.
pub fn parse_head<'h, 'b>(
    bytes: &'b [u8],
    headers: &'h mut HeaderSlots<'b>,
    head_bytes_max: usize,
) -> Result<Option<RequestHead<'h, 'b>>, HeadError> {
    let head = match clean_head(bytes, head_bytes_max) {
        Some(head) => head,
        None => match whole_head(bytes, head_bytes_max)? {
            Some(head) => head,
            None => return Ok(None),
        },
    };
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, headers) {
        Ok(httparse::Status::Complete(_)) => {}
        // Cannot be: the blank line is there. Refused all the same, never waited for.
        Ok(httparse::Status::Partial) => return Err(HeadError::RequestLine),
        Err(error) => return Err(cause(error, head)),
    }
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version)
    else {
        return Err(HeadError::RequestLine);
    };
    let headers: &'h [Header<'b>] = request.headers;

    if method == "CONNECT" {
        return Err(HeadError::Connect);
    }
    let target = target::parse(target, method).ok_or(HeadError::Target)?;
    let host = host(headers, minor_version)?;
    let body_bytes = body_bytes(headers, minor_version)?;
    Ok(Some(RequestHead {
        method,
        path: target.path,
        query: target.query,
        host: target.authority.unwrap_or(host),
        minor_version,
        headers,
        head_bytes: head.len(),
        body_bytes,
        keep_alive: keep_alive(headers, minor_version, body_bytes),
    }))
}

/// All of the bytes, when they are one whole head and nothing else, as they mostly are, and nothing is wrong with their lines:
/// found out with a few vectors instead of byte by byte. [`whole_head`] says what the rest is.
fn clean_head(bytes: &[u8], head_bytes_max: usize) -> Option<&[u8]> {
    if bytes.len() > head_bytes_max || !bytes.ends_with(b"\r\n\r\n") || !bytes[0].is_ascii_graphic() {
        return None;
    }
    // The last three bytes are known. What is looked at with them in view does not reach the empty line at the end.
    let unknown = &bytes[..bytes.len() - 3];
    let mut is_odd = false;
    for ((&byte, &next), &after) in unknown.iter().zip(&bytes[1..]).zip(&bytes[2..]) {
        let is_control = byte < b' ' && byte != b'\t' && byte != b'\r' && byte != b'\n' || byte == 0x7f;
        let ends_oddly = (byte == b'\r') != (next == b'\n');
        let is_before_empty_line = (byte == b'\n') & (after == b'\n');
        is_odd |= is_control | ends_oddly | is_before_empty_line;
    }
    (!is_odd).then_some(bytes)
}

/// The bytes up to and with the blank line, once they are there. Empty lines before the request line belong to it
/// (RFC 9112 section 2.2).
fn whole_head(bytes: &[u8], head_bytes_max: usize) -> Result<Option<&[u8]>, HeadError> {
    let mut lines = 0;
    let mut line_bytes = 0;
    let mut previous = 0;
    for (at, &byte) in bytes.iter().take(head_bytes_max).enumerate() {
        match byte {
            b'\n' if previous != b'\r' => return Err(HeadError::BareLineEnd),
            b'\n' if line_bytes > 0 => {
                lines += 1;
                line_bytes = 0;
            }
            b'\n' if lines > 0 => return Ok(bytes.get(..=at)),
            b'\n' => {}
            _ if previous == b'\r' => return Err(HeadError::BareLineEnd),
            b'\r' => {}
            b'\t' | b' '..=b'~' | 0x80.. => line_bytes += 1,
            _ => return Err(HeadError::ControlByte),
        }
        previous = byte;
    }
    if bytes.len() < head_bytes_max {
        return Ok(None);
    }
    // RFC 9112 section 3: a target longer than we wish to read is answered with 414.
    let limit = head_bytes_max;
    Err(if lines == 0 { HeadError::TargetTooLong { limit } } else { HeadError::TooLarge { limit } })
}

fn cause(error: httparse::Error, head: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::HeaderLine,
        httparse::Error::Version if names_a_version(head) => HeadError::Version,
        _ => HeadError::RequestLine,
    }
}

/// Whether the request line ends with `HTTP/digit.digit` (RFC 9112 section 2.3), e.g. the preface of HTTP/2.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|&byte| byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

/// The values of all headers of this name, in their order.
fn values<'b>(headers: &[Header<'b>], name: &str) -> impl Iterator<Item = &'b [u8]> {
    headers.iter().filter(move |header| is_same(header.name.as_bytes(), name)).map(|header| header.value)
}

/// Whether `bytes` is `expected` in any case. Mostly it is written in the same way, and that is seen without going through it
/// byte by byte.
#[inline]
fn is_same(bytes: &[u8], expected: &str) -> bool {
    bytes == expected.as_bytes() || bytes.eq_ignore_ascii_case(expected.as_bytes())
}

/// Whether a comma-separated list over all headers of this name has this token (any case).
pub(super) fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    values(headers, name).any(|value| is_same(value, token) || is_listed(value, token))
}

fn is_listed(list: &[u8], token: &str) -> bool {
    let mut elements = list.split(|&byte| byte == b',');
    elements.any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn host<'b>(headers: &[Header<'b>], minor_version: u8) -> Result<&'b str, HeadError> {
    let mut hosts = values(headers, "Host");
    match (hosts.next(), hosts.next()) {
        (None, _) if minor_version == 0 => Ok(""),
        (Some(host), None) if target::is_authority(host) => {
            core::str::from_utf8(host).map_err(|_| HeadError::HostValue)
        }
        (Some(_), None) => Err(HeadError::HostValue),
        _ => Err(HeadError::HostCount),
    }
}

/// RFC 9112 section 6.3, with nothing in doubt accepted.
fn body_bytes(headers: &[Header<'_>], minor_version: u8) -> Result<usize, HeadError> {
    let mut lengths = values(headers, "Content-Length");
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(HeadError::ContentLengthRepeated);
    }
    if let Some(coding) = values(headers, "Transfer-Encoding").last() {
        let last = coding.rsplit(|&byte| byte == b',').next().unwrap_or_default().trim_ascii();
        let clear = minor_version == 1 && length.is_none() && last.eq_ignore_ascii_case(b"chunked");
        return Err(if clear { HeadError::LengthRequired } else { HeadError::TransferEncoding });
    }
    let Some(length) = length else { return Ok(0) };
    if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::ContentLengthValue);
    }
    length
        .iter()
        .try_fold(0usize, |sum, digit| sum.checked_mul(10)?.checked_add(usize::from(digit - b'0')))
        .filter(|&length| length <= BODY_BYTES_MAX)
        .ok_or(HeadError::BodyTooLarge)
}

/// RFC 9112 section 9.3. A client that waits for `100 Continue` may or may not send its body after our final
/// answer (RFC 9110 section 10.1.1): where the next request begins is then unknown, so there is none.
fn keep_alive(headers: &[Header<'_>], minor_version: u8, body_bytes: usize) -> bool {
    let wanted = match minor_version {
        0 => has_token(headers, "Connection", "keep-alive"),
        _ => true,
    };
    wanted
        && !has_token(headers, "Connection", "close")
        && !(body_bytes > 0 && has_token(headers, "Expect", "100-continue"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a head says, as far as a test asks.
    #[derive(Debug, PartialEq)]
    struct Said {
        line: String,
        host: String,
        body_bytes: usize,
        keep_alive: bool,
    }

    fn parse(head: &str) -> Result<Option<Said>, HeadError> {
        let mut headers = header_slots();
        let parsed = parse_head(head.as_bytes(), &mut headers, 8192)?;
        Ok(parsed.map(|head| Said {
            line: format!("{} {} ?{} 1.{}", head.method, head.path, head.query, head.minor_version),
            host: head.host.to_owned(),
            body_bytes: head.body_bytes,
            keep_alive: head.keep_alive,
        }))
    }

    /// A GET over HTTP/1.1 with a host and these header lines besides.
    fn with(lines: &str) -> Result<Option<Said>, HeadError> {
        parse(&format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n"))
    }

    fn said(head: &str) -> Said {
        parse(head).unwrap().unwrap()
    }

    #[test]
    fn a_request_is_read() {
        let head = said("GET /a%20b?x=1 HTTP/1.1\r\nhOST: h:80\r\nX: \t y \r\n\r\nrest");
        assert_eq!(head.line, "GET /a%20b ?x=1 1.1");
        assert_eq!((head.host.as_str(), head.body_bytes, head.keep_alive), ("h:80", 0, true));
    }

    #[test]
    fn head_bytes_end_with_the_blank_line() {
        let bytes = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nGET /next";
        let mut headers = header_slots();
        let head = parse_head(bytes, &mut headers, 8192).unwrap().unwrap();
        assert_eq!(&bytes[head.head_bytes..], b"GET /next");
        assert_eq!(head.header("host"), Some(&b"h"[..]));
    }

    #[test]
    fn an_absolute_target_takes_the_place_of_host() {
        let head = said("GET http://other:81/p HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!((head.line.as_str(), head.host.as_str()), ("GET /p ? 1.1", "other:81"));
        assert_eq!(parse("GET http://h/ HTTP/1.1\r\n\r\n"), Err(HeadError::HostCount));
    }

    #[test]
    fn versions() {
        assert_eq!(said("GET / HTTP/1.0\r\n\r\n").host, "");
        assert_eq!(parse("GET / HTTP/1.2\r\n\r\n"), Err(HeadError::Version));
        assert_eq!(parse("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Err(HeadError::Version));
        assert_eq!(parse("GET / HTXP/1.1\r\n\r\n"), Err(HeadError::RequestLine));
        assert_eq!(parse("GET /\r\n\r\n"), Err(HeadError::RequestLine));
    }

    #[test]
    fn request_lines_that_are_none() {
        for line in [
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET",
            "G@T / HTTP/1.1",
            "GET\t/ HTTP/1.1",
        ] {
            assert_eq!(parse(&format!("{line}\r\nHost: h\r\n\r\n")), Err(HeadError::RequestLine), "{line}");
        }
        assert_eq!(parse("GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n"), Err(HeadError::Target));
        assert_eq!(parse("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n"), Err(HeadError::Connect));
        assert_eq!(said("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").line, "OPTIONS * ? 1.1");
    }

    #[test]
    fn keep_alive_by_version_and_connection() {
        assert!(with("").unwrap().unwrap().keep_alive);
        assert!(!with("Connection: x, Close\r\n").unwrap().unwrap().keep_alive);
        assert!(!said("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(said("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
        assert!(!said("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n").keep_alive);
    }

    #[test]
    fn exactly_one_host() {
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::HostCount));
        assert_eq!(with("Host: h\r\n"), Err(HeadError::HostCount));
        assert_eq!(parse("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), Err(HeadError::HostCount));
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n"), Err(HeadError::HostValue));
        assert_eq!(said("GET / HTTP/1.1\r\nHost:\r\n\r\n").host, "");
    }

    #[test]
    fn lines_that_smuggle() {
        for head in [
            "GET / HTTP/1.1\nHost: h\n\n",
            "GET / HTTP/1.1\r\nHost: h\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n",
        ] {
            assert_eq!(parse(head), Err(HeadError::BareLineEnd), "{head:?}");
        }
        assert_eq!(with("A: b\r\r\n"), Err(HeadError::BareLineEnd));
        assert_eq!(with("A: b\0c\r\n"), Err(HeadError::ControlByte));
        assert_eq!(parse("\x16\x03\x01"), Err(HeadError::ControlByte));
        for line in ["A: b\r\n c", "A : b", " A: b", ": b", "A", "A(: b", "A\u{e9}: b"] {
            assert_eq!(with(&format!("{line}\r\n")), Err(HeadError::HeaderLine), "{line:?}");
        }
    }

    #[test]
    fn content_length_is_digits_once_and_small() {
        assert_eq!(with("Content-Length: 0012\r\n").unwrap().unwrap().body_bytes, 12);
        for value in ["", "+1", "-1", "1 2", "1,1", "0x1", "1.0"] {
            assert_eq!(
                with(&format!("Content-Length: {value}\r\n")),
                Err(HeadError::ContentLengthValue),
                "{value}"
            );
        }
        assert_eq!(with("Content-Length: 1\r\ncontent-length: 1\r\n"), Err(HeadError::ContentLengthRepeated));
        assert_eq!(
            with(&format!("Content-Length: {BODY_BYTES_MAX}\r\n")).unwrap().unwrap().body_bytes,
            BODY_BYTES_MAX
        );
        for over in [BODY_BYTES_MAX.to_string() + "0", u64::MAX.to_string(), "9".repeat(100)] {
            assert_eq!(with(&format!("Content-Length: {over}\r\n")), Err(HeadError::BodyTooLarge), "{over}");
        }
    }

    #[test]
    fn no_transfer_coding_is_taken() {
        let refused = |lines: &str| with(lines).unwrap_err();
        assert_eq!(refused("Transfer-Encoding: Chunked\r\n"), HeadError::LengthRequired);
        assert_eq!(refused("Transfer-Encoding: gzip, chunked\r\n"), HeadError::LengthRequired);
        assert_eq!(refused("Transfer-Encoding: chunked, identity\r\n"), HeadError::TransferEncoding);
        assert_eq!(refused("Transfer-Encoding:\r\n"), HeadError::TransferEncoding);
        assert_eq!(
            refused("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            HeadError::TransferEncoding
        );
        assert_eq!(
            parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(HeadError::TransferEncoding)
        );
    }

    #[test]
    fn a_client_that_expects_100_gets_its_answer_and_a_closed_connection() {
        assert!(!with("Content-Length: 1\r\nExpect: 100-continue\r\n").unwrap().unwrap().keep_alive);
        assert!(with("Expect: 100-continue\r\n").unwrap().unwrap().keep_alive);
    }

    proptest! {
        #[test]
        fn a_head_is_clean_only_if_it_is_whole_and_its_lines_are_right(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["a", "GET / HTTP/1.1", "\r\n", "\r", "\n", "\t", "\0", "\x7f", "\u{e9}"]),
                0..24,
            ),
            is_ended in any::<bool>(),
        ) {
            let head = pieces.concat() + if is_ended { "\r\n\r\n" } else { "" };
            let bytes = head.as_bytes();
            let whole = whole_head(bytes, 64);
            if let Some(clean) = clean_head(bytes, 64) {
                prop_assert_eq!(whole, Ok(Some(clean)));
            } else if whole == Ok(Some(bytes)) {
                // What may be right and is still looked at byte by byte: empty lines before it, an odd first byte.
                prop_assert!(!bytes[0].is_ascii_graphic());
            }
        }

        #[test]
        fn names_and_tokens_are_the_same_in_any_case(written in "[A-Za-z0-9-]{0,24}", turned in any::<u32>()) {
            let turn = |(at, byte): (usize, u8)| if turned >> at & 1 == 1 { byte ^ (byte & 0x40) >> 1 } else { byte };
            let other: Vec<u8> = written.bytes().enumerate().map(turn).collect();
            prop_assert!(is_same(&other, &written));
            prop_assert!(!is_same(&[&other[..], b"x"].concat(), &written));
        }
    }

    #[test]
    fn limits() {
        let mut headers = header_slots();
        let whole = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        assert!(parse_head(whole, &mut headers, whole.len()).unwrap().is_some());
        let limit = whole.len() - 1;
        assert_eq!(parse_head(whole, &mut headers, limit).unwrap_err(), HeadError::TooLarge { limit });
        assert_eq!(parse_head(whole, &mut headers, 10).unwrap_err(), HeadError::TargetTooLong { limit: 10 });
        // The blank lines that some clients send first count as well.
        assert_eq!(parse_head(b"\r\n\r\n", &mut headers, 4).unwrap_err().status(), 414);

        assert!(with(&"A: b\r\n".repeat(HEADERS_MAX - 1)).is_ok());
        assert_eq!(with(&"A: b\r\n".repeat(HEADERS_MAX)), Err(HeadError::TooManyHeaders));
    }
}
