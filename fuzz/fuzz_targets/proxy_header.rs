//! The PROXY header, both versions: any bytes, at every cut.
#![no_main]

use unsocket::http::{PROXY_HEADER_BYTES_MAX, parse_proxy_header};

/// What the rest of an input follows, by its first byte.
const STARTS: [&[u8]; 4] = [b"", b"PROXY ", b"PROXY TCP4 192.0.2.1 ", b"\r\n\r\n\0\r\nQUIT\n\x21"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy_header(data));

/// Any bytes are a header, refused, or not whole; more bytes change no verdict, and no more is waited for than would be taken.
fn proxy_header(data: &[u8]) {
    let Some((start, rest)) = data.split_first() else { return };
    let mut bytes = [STARTS[usize::from(*start) % STARTS.len()], rest].concat();
    let whole = parse_proxy_header(&bytes);
    match &whole {
        Ok(Some(header)) => assert!((1..=bytes.len()).contains(&header.bytes)),
        Ok(None) => assert!(bytes.len() < PROXY_HEADER_BYTES_MAX, "waits for more than it would take"),
        Err(_) => {}
    }
    for cut in 0..bytes.len() {
        match parse_proxy_header(&bytes[..cut]) {
            Ok(None) => {}
            Ok(Some(header)) => {
                assert_eq!(Ok(Some(header)), whole, "cut at {cut}");
                assert!(header.bytes <= cut);
            }
            Err(error) => assert_eq!(Err(error), whole, "cut at {cut}"),
        }
    }
    if let Ok(Some(header)) = whole {
        // The client's own bytes follow, and are none of its business.
        bytes.truncate(header.bytes);
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        assert_eq!(parse_proxy_header(&bytes), Ok(Some(header)));
    }
}
