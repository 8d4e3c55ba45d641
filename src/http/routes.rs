//! What the server answers to plain HTTP requests: static pages by path.

use super::response::{self, Connection};
use super::{HeadError, RequestHead};
use sha1::{Digest, Sha1};
use std::borrow::Cow;
use std::collections::HashMap;

/// One static answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Cow<'static, [u8]>,
    /// More headers, as given.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl Answer {
    /// An answer of any type; `body` may be an embedded file (`include_bytes!`).
    pub fn new(content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        Answer { content_type, body: body.into(), headers: Vec::new() }
    }

    /// Plain text in UTF-8.
    pub fn text(body: &'static str) -> Self {
        Answer::new("text/plain; charset=utf-8", body.as_bytes())
    }

    /// An HTML page in UTF-8, under a `Content-Security-Policy`: what it may load, run and connect to.
    pub fn html(body: impl Into<String>, content_security_policy: impl Into<Cow<'static, str>>) -> Self {
        Answer::new("text/html; charset=utf-8", body.into().into_bytes())
            .with_header("Content-Security-Policy", content_security_policy)
            .with_header("Referrer-Policy", "no-referrer")
    }

    /// With one more header.
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Paths and their answers, and which paths take WebSocket upgrades.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_path: HashMap<String, Route>,
    any_upgrade_path: bool,
}

#[derive(Clone, Debug, Default)]
struct Route {
    answer: Option<Rendered>,
    upgrade: bool,
}

/// An answer with all of its head that does not depend on the request.
#[derive(Clone, Debug)]
struct Rendered {
    /// Those header lines that a 304 repeats, too (RFC 9110 section 15.4.5).
    validators: Vec<u8>,
    /// The header lines that describe the body.
    description: Vec<u8>,
    /// Quoted, as in the header.
    etag: String,
    body: Cow<'static, [u8]>,
}

impl Routes {
    /// Adds a static answer at `path`, in place of the one before it.
    pub fn insert(&mut self, path: &str, answer: Answer) {
        self.by_path.entry(path.to_owned()).or_default().answer = Some(Rendered::new(answer));
    }

    /// Adds `/healthz`, which answers `ok` while the server takes requests.
    pub fn insert_healthz(&mut self) {
        self.insert("/healthz", Answer::text("ok\n"));
    }

    /// Lets `path` take WebSocket upgrades. A plain request there gets its static answer, or 426 without one.
    pub fn insert_upgrade(&mut self, path: &str) {
        self.by_path.entry(path.to_owned()).or_default().upgrade = true;
    }

    /// Lets every path take WebSocket upgrades. Plain requests to paths without an answer still get 404.
    pub fn upgrade_any_path(&mut self) {
        self.any_upgrade_path = true;
    }

    /// Whether an upgrade at `path` goes to the handshake; else it is a plain request, for [`Routes::respond`].
    pub fn takes_upgrade(&self, path: &str) -> bool {
        self.any_upgrade_path || self.by_path.get(path).is_some_and(|route| route.upgrade)
    }

    /// Appends the whole response to a request that is not an upgrade: 200, 204, 304, 404, 405, 426 or 501.
    ///
    /// The response may be as large as the largest answer: write it out before the next request is looked at, or
    /// a peer that sends requests and reads nothing fills the memory.
    pub fn respond(&self, head: &RequestHead<'_, '_>, out: &mut Vec<u8>) {
        let connection = match (head.keep_alive, head.minor_version) {
            (false, _) => Connection::Close,
            (true, 0) => Connection::OpenSaid,
            (true, _) => Connection::Open,
        };
        let with_body = head.method != "HEAD";
        let plain = |out: &mut Vec<u8>, status: u16, extra: &[(&str, &str)], what: &str| {
            let body = format!("{status} {}: {what}\n", response::reason(status));
            response::plain(out, status, extra, &body, connection, with_body);
        };

        // RFC 9110 section 9.1: a method unknown to the server is 501, a known one that a path does not take 405.
        let known = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"];
        if !known.contains(&head.method) {
            return plain(out, 501, &[], "this server does not know the method");
        }
        let allow = match self.by_path.get(head.path) {
            Some(Route { answer: Some(_), .. }) => "GET, HEAD, OPTIONS",
            Some(Route { upgrade: true, .. }) => "GET, OPTIONS",
            _ if head.path == "*" => "GET, HEAD, OPTIONS",
            _ => return plain(out, 404, &[], "nothing is served at this path"),
        };
        match (head.method, self.by_path.get(head.path).and_then(|route| route.answer.as_ref())) {
            ("GET" | "HEAD", Some(answer)) => answer.write(head, connection, out),
            ("OPTIONS", _) => plain(out, 204, &[("Allow", allow)], ""),
            ("GET", None) => plain(
                out,
                426,
                &[("Sec-WebSocket-Version", "13")],
                "this path speaks WebSocket (RFC 6455): open it with a WebSocket client",
            ),
            _ => plain(out, 405, &[("Allow", allow)], "this path does not take the method"),
        }
    }

    /// Appends the response to a head that could not be parsed; the connection closes after it.
    pub fn respond_error(&self, error: HeadError, out: &mut Vec<u8>) {
        let status = error.status();
        let body = format!("{status} {}: {error}\n", response::reason(status));
        response::plain::<&str>(out, status, &[], &body, Connection::Close, true);
    }
}

impl Rendered {
    fn new(answer: Answer) -> Self {
        // The validator must be the same on every worker and after every restart: a digest of the contents.
        let digest = Sha1::digest(&answer.body);
        let hex: String = digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
        let etag = format!("\"{hex}\"");

        let mut validators = Vec::new();
        response::header(&mut validators, "ETag", &etag);
        // It may be kept but is asked for again each time: a new release shows at once.
        response::header(&mut validators, "Cache-Control", "no-cache");

        let mut description = Vec::new();
        response::header(&mut description, "Content-Type", answer.content_type);
        response::header(&mut description, "X-Content-Type-Options", "nosniff");
        for (name, value) in &answer.headers {
            response::header(&mut description, name, value);
        }
        response::content_length(&mut description, answer.body.len());
        Rendered { validators, description, etag, body: answer.body }
    }

    fn write(&self, head: &RequestHead<'_, '_>, connection: Connection, out: &mut Vec<u8>) {
        let fresh = head.header("If-None-Match").is_some_and(|tags| self.matches(tags));
        response::status_line(out, if fresh { 304 } else { 200 });
        response::connection_header(out, connection, false);
        out.extend_from_slice(&self.validators);
        if !fresh {
            out.extend_from_slice(&self.description);
        }
        out.extend_from_slice(b"\r\n");
        if !fresh && head.method == "GET" {
            out.extend_from_slice(&self.body);
        }
    }

    /// RFC 9110 section 13.1.2: weak comparison with each tag of the list, or `*`.
    fn matches(&self, tags: &[u8]) -> bool {
        tags.split(|&byte| byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{header_slots, parse_head};

    fn routes() -> Routes {
        let mut routes = Routes::default();
        routes.insert("/", Answer::html("<p>hi</p>", "default-src 'none'"));
        routes.insert("/logo", Answer::new("image/png", vec![0u8, 1, 2]));
        routes.insert_healthz();
        routes.insert_upgrade("/ws");
        routes
    }

    /// The head and the body of the response to `line` with these header lines.
    fn response(line: &str, lines: &str) -> (String, Vec<u8>) {
        let bytes = format!("{line}\r\nHost: h\r\n{lines}\r\n");
        let mut headers = header_slots();
        let head = parse_head(bytes.as_bytes(), &mut headers, 8192).unwrap().unwrap();
        let mut out = Vec::new();
        routes().respond(&head, &mut out);
        let end = out.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let body = out.split_off(end);
        (String::from_utf8(out).unwrap(), body)
    }

    fn status(line: &str) -> String {
        response(line, "").0.split(' ').nth(1).unwrap().to_owned()
    }

    fn field(head: &str, name: &str) -> Option<String> {
        head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(str::to_owned)
    }

    #[test]
    fn a_page_is_answered_with_its_headers() {
        let (head, body) = response("GET /?x HTTP/1.1", "");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(body, b"<p>hi</p>");
        assert_eq!(field(&head, "Content-Length").unwrap(), "9");
        assert_eq!(field(&head, "Content-Type").unwrap(), "text/html; charset=utf-8");
        assert_eq!(field(&head, "Content-Security-Policy").unwrap(), "default-src 'none'");
        assert_eq!(field(&head, "X-Content-Type-Options").unwrap(), "nosniff");
        assert_eq!(field(&head, "Connection"), None);
    }

    #[test]
    fn head_is_get_without_the_body() {
        let (get, body) = response("GET /logo HTTP/1.1", "");
        let (head, nothing) = response("HEAD /logo HTTP/1.1", "");
        assert_eq!((get, body.as_slice()), (head, &[0u8, 1, 2][..]));
        assert!(nothing.is_empty());
        let (missing, nothing) = response("HEAD /none HTTP/1.1", "");
        assert!(missing.starts_with("HTTP/1.1 404 ") && nothing.is_empty());
        assert_ne!(field(&missing, "Content-Length").unwrap(), "0");
    }

    #[test]
    fn a_client_that_has_the_page_is_not_sent_it_again() {
        let (head, _) = response("GET / HTTP/1.1", "");
        let etag = field(&head, "ETag").unwrap();
        for tags in [etag.clone(), format!("\"x\", W/{etag}"), "*".to_owned()] {
            let (head, body) = response("GET / HTTP/1.1", &format!("If-None-Match: {tags}\r\n"));
            assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{tags}");
            assert!(body.is_empty() && field(&head, "Content-Length").is_none());
            assert_eq!(field(&head, "ETag").unwrap(), etag);
        }
        assert!(response("GET / HTTP/1.1", "If-None-Match: \"x\"\r\n").0.starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn statuses_by_path_and_method() {
        assert_eq!(status("GET /healthz HTTP/1.1"), "200");
        assert_eq!(status("GET /none HTTP/1.1"), "404");
        assert_eq!(status("GET /healthz/ HTTP/1.1"), "404");
        assert_eq!(status("BREW / HTTP/1.1"), "501");
        assert_eq!(status("get / HTTP/1.1"), "501");
        assert_eq!(status("OPTIONS * HTTP/1.1"), "204");
        assert_eq!(status("OPTIONS /none HTTP/1.1"), "404");
        let (head, body) = response("POST / HTTP/1.1", "");
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert_eq!(field(&head, "Allow").unwrap(), "GET, HEAD, OPTIONS");
        assert!(body.starts_with(b"405 Method Not Allowed: "));
        let (head, _) = response("HEAD /ws HTTP/1.1", "");
        assert_eq!(field(&head, "Allow").unwrap(), "GET, OPTIONS");
    }

    #[test]
    fn a_plain_get_on_a_websocket_path_is_told_to_upgrade() {
        let (head, body) = response("GET /ws HTTP/1.1", "");
        assert!(head.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
        assert_eq!(field(&head, "Upgrade").unwrap(), "websocket");
        assert_eq!(field(&head, "Connection").unwrap(), "Upgrade");
        assert_eq!(field(&head, "Sec-WebSocket-Version").unwrap(), "13");
        assert!(!body.is_empty());
    }

    #[test]
    fn upgrade_paths() {
        let mut routes = routes();
        assert!(routes.takes_upgrade("/ws"));
        assert!(!routes.takes_upgrade("/") && !routes.takes_upgrade("/none"));
        routes.upgrade_any_path();
        assert!(routes.takes_upgrade("/none"));
    }

    #[test]
    fn the_connection_header_follows_the_version() {
        let connection = |line: &str, lines: &str| field(&response(line, lines).0, "Connection");
        assert_eq!(connection("GET / HTTP/1.1", "Connection: close\r\n").unwrap(), "close");
        assert_eq!(connection("GET / HTTP/1.0", "").unwrap(), "close");
        assert_eq!(connection("GET / HTTP/1.0", "Connection: keep-alive\r\n").unwrap(), "keep-alive");
        assert_eq!(connection("GET /none HTTP/1.1", ""), None);
    }

    #[test]
    fn a_refused_head_is_told_why_and_the_connection_closes() {
        let mut out = Vec::new();
        routes().respond_error(HeadError::HostCount, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"));
        assert!(text.contains("\r\n\r\n400 Bad Request: a request needs exactly one Host header"));
    }
}
