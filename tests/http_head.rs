//! The request head under every cut and under bytes that are no request.

use proptest::prelude::*;
use unsocket::http::{HeadError, Routes, header_slots, parse_head};

const HEAD_BYTES_MAX: usize = 512;

/// All that a head says, owned; `None` when more bytes are needed.
type Said = Result<Option<(String, Vec<(String, Vec<u8>)>, usize, usize, bool)>, HeadError>;

fn parse(bytes: &[u8]) -> Said {
    let mut headers = header_slots();
    let parsed = parse_head(bytes, &mut headers, HEAD_BYTES_MAX)?;
    Ok(parsed.map(|head| {
        let line =
            format!("{} {} {} {} {}", head.method, head.path, head.query, head.host, head.minor_version);
        let headers = head.headers.iter().map(|h| (h.name.to_owned(), h.value.to_vec())).collect();
        (line, headers, head.head_bytes, head.body_bytes, head.keep_alive)
    }))
}

/// Whatever arrives first, the verdict is the one on all of the bytes, or none yet; once given it stays.
fn assert_same_at_every_cut(bytes: &[u8]) -> Result<(), TestCaseError> {
    let whole = parse(bytes);
    let mut decided = false;
    for cut in 0..=bytes.len() {
        let verdict = parse(&bytes[..cut]);
        if verdict == Ok(None) {
            prop_assert!(!decided, "undecided again at {cut}");
        } else {
            prop_assert_eq!(&verdict, &whole, "at {}", cut);
            decided = true;
        }
    }
    Ok(())
}

/// Pieces of heads, good and bad, so that a random sequence of them often is nearly a head.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /a?b HTTP/1.1\r\n", "GET / HTTP/1.0\r\n", "OPTIONS * HTTP/1.1\r\n",
            "CONNECT h:1 HTTP/1.1\r\n", "GET http://h/x HTTP/1.1\r\n", "GET / HTTP/2.0\r\n", "Host: h\r\n",
            "Host: [::1]:80\r\n", "Content-Length: 3\r\n", "Content-Length: 99999999999999999999999\r\n",
            "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "Expect: 100-continue\r\n",
            "A: \u{e9}\r\n", " folded\r\n", "A : b\r\n", "\r\n", "\n", "\r", "abc", "\0",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn a_good_head_is_the_same_at_every_cut(
        blank_lines in 0usize..3,
        path in "/[a-z%0-9]{0,20}(\\?[a-z=&]{0,10})?",
        lines in prop::collection::vec(("[A-Za-z-]{1,10}", "[ -~]{0,20}"), 0..8),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = "\r\n".repeat(blank_lines).into_bytes();
        bytes.extend_from_slice(format!("GET {path} HTTP/1.1\r\nHost: h\r\n").as_bytes());
        for (name, value) in &lines {
            bytes.extend_from_slice(format!("X-{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        let head_bytes = bytes.len();
        bytes.extend_from_slice(&rest);

        let said = parse(&bytes).unwrap().unwrap();
        prop_assert_eq!(said.2, head_bytes);
        prop_assert_eq!(said.1.len(), lines.len() + 1);
        assert_same_at_every_cut(&bytes)?;
    }

    #[test]
    fn any_pieces_give_the_same_at_every_cut(pieces in prop::collection::vec(piece(), 0..30)) {
        assert_same_at_every_cut(&pieces.concat())?;
    }

    #[test]
    fn random_bytes_never_panic_and_never_wait_past_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let verdict = parse(&bytes);
        if bytes.len() >= HEAD_BYTES_MAX {
            prop_assert_ne!(verdict, Ok(None));
        }
    }

    #[test]
    fn every_head_and_every_error_gets_one_whole_response(pieces in prop::collection::vec(piece(), 0..12)) {
        let bytes = pieces.concat();
        let mut headers = header_slots();
        let mut routes = Routes::default();
        routes.insert_healthz();
        routes.insert_upgrade("/");
        let mut out = Vec::new();
        let (head_only, closes) = match parse_head(&bytes, &mut headers, HEAD_BYTES_MAX) {
            Ok(None) => return Ok(()),
            Ok(Some(head)) => {
                routes.respond(&head, &mut out);
                (head.method == "HEAD", !head.keep_alive)
            }
            Err(error) => {
                routes.respond_error(error, &mut out);
                (false, true)
            }
        };
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let head_bytes = response.parse(&out).unwrap().unwrap();
        let value = |name: &str| {
            let header = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        let length = value("Content-Length").map_or(0, |text| text.parse().unwrap());
        prop_assert_eq!(out.len() - head_bytes, if head_only { 0 } else { length });
        prop_assert_eq!(value("Connection").is_some_and(|text| text.ends_with("close")), closes);
    }
}
