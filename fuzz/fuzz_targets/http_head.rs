//! The request head and what is answered to it: any bytes, at every cut.
#![no_main]

use httparse::{EMPTY_HEADER, Response};
use unsocket::http::{Answer, Routes, header_slots, parse_head};

/// Longest head that is taken here, bytes.
const HEAD_BYTES_MAX: usize = 512;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_head(data));

/// Any bytes are a request or refused with a status, and the verdict does not depend on how they arrived; either way the
/// answer is one that an HTTP client parses. When the first byte of `data` is odd, the rest follows a right request line.
fn http_head(data: &[u8]) {
    let Some((options, rest)) = data.split_first() else { return };
    let bytes =
        if options & 1 == 1 { [b"GET / HTTP/1.1\r\nHost: a\r\n", rest].concat() } else { rest.to_vec() };
    let mut routes = Routes::default();
    routes.insert("/", Answer::text("hello"));
    let mut headers = header_slots();
    let whole = parse_head(&bytes, &mut headers, HEAD_BYTES_MAX);
    let mut answer = Vec::new();
    let mut decided_at = None;
    for cut in 0..=bytes.len() {
        let mut headers = header_slots();
        let verdict = parse_head(&bytes[..cut], &mut headers, HEAD_BYTES_MAX);
        match (&verdict, decided_at) {
            (Ok(None), None) => {}
            (Ok(None), Some(at)) => panic!("decided at {at}, undecided again at {cut}"),
            (_, None) => decided_at = Some(cut),
            (_, Some(_)) => {}
        }
        if decided_at.is_some() {
            assert_eq!(verdict.as_ref().map(|_| ()), whole.as_ref().map(|_| ()), "cut at {cut}");
        }
    }
    match &whole {
        Ok(None) => return assert!(bytes.len() <= HEAD_BYTES_MAX, "waits for more than it would take"),
        Ok(Some(head)) => {
            assert!(head.head_bytes <= bytes.len() && decided_at == Some(head.head_bytes));
            routes.respond(head, &mut answer);
        }
        Err(error) => routes.respond_error(*error, &mut answer),
    }
    let mut headers = [EMPTY_HEADER; 16];
    let mut response = Response::new(&mut headers);
    assert!(response.parse(&answer).is_ok_and(|parsed| parsed.is_complete()), "no HTTP: {answer:?}");
    if let Err(error) = whole {
        assert_eq!(response.code, Some(error.status()));
    }
}
