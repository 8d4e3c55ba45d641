//! The checks that the fuzz targets run, on generated inputs: quick enough for every test run.

#[path = "../fuzz/checks.rs"]
mod checks;

use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes that look like frames: headers with every field likely to be right, now and then not.
fn framelike() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81u8, 0xc1, 0x42, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a, 0x88]),
        1 => any::<u8>(),
    ];
    let frame =
        (first, any::<[u8; 4]>(), vec(any::<u8>(), 0..20), prop::sample::select(vec![0usize, 0, 0, 0, 1]));
    let frame = frame.prop_map(|(first, key, payload, too_short)| {
        let declared = 0x80 | (payload.len() - too_short.min(payload.len())) as u8;
        [&[first, declared][..], &key, &payload].concat()
    });
    vec(frame, 0..8).prop_map(|frames| frames.concat())
}

/// Offers and answers that look like permessage-deflate's.
fn extensionlike() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "permessage-deflate",
        "permessage-deflate",
        "permessage-deflate",
        "client_no_context_takeover",
        "server_no_context_takeover",
        "client_max_window_bits",
        "client_max_window_bits=9",
        "server_max_window_bits=8",
        "server_max_window_bits=15",
        "server_max_window_bits=\"1\\2\"",
        "server_max_window_bits",
        "x",
        "\"",
        "=",
    ]);
    let separator = prop::sample::select(vec!["; ", ";", "; ", ", ", ","]);
    vec((word, separator), 0..8).prop_map(|words| {
        let text: String = words.iter().flat_map(|(word, separator)| [*word, *separator]).collect();
        text.trim_end_matches([';', ',', ' ']).to_owned()
    })
}

/// Lines that look like those of a handshake.
fn headerlike() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET / HTTP/1.1",
        "HTTP/1.1 101 x",
        "HTTP/1.1 200",
        "Host: a",
        "Upgrade: websocket",
        "Upgrade: h2c,websocket",
        "Connection: Upgrade",
        "Connection:keep-alive , upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Version: 8",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Protocol: a b",
        "Sec-WebSocket-Extensions: x",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ": x",
        "",
        "",
    ]);
    (any::<u8>(), vec(line, 0..8), vec(any::<u8>(), 0..4))
        .prop_map(|(options, lines, end)| [&[options], lines.join("\r\n").as_bytes(), b"\r\n", &end].concat())
}

proptest! {
    #[test]
    fn any_bytes_decode_the_same_in_pieces(data in vec(any::<u8>(), 0..200)) {
        checks::decoder(&data);
    }

    #[test]
    fn frames_with_faults_decode_the_same_in_pieces(options in 0..8u8, piece in 2..40u8, stream in framelike()) {
        checks::decoder(&[&[options, piece], &stream[..]].concat());
    }

    #[test]
    fn any_offer_of_compression_gets_a_verdict(wants in any::<[u8; 2]>(), value in extensionlike()) {
        checks::deflate_negotiation(&[&wants[..], value.as_bytes()].concat());
    }

    #[test]
    fn any_bytes_inflate_within_the_limit(data in vec(any::<u8>(), 0..200)) {
        checks::deflate_messages(&data);
    }

    #[test]
    fn messages_come_back_as_they_were(
        options in any::<u8>(),
        words in vec(prop::sample::select(vec!["price", "0123456789", "\0", "{\"a\":1}", "z", "ééé"]), 0..2000),
    ) {
        checks::deflate_messages(&[&[options], words.concat().as_bytes()].concat());
    }

    #[test]
    fn any_request_head_gets_a_verdict(data in headerlike()) {
        checks::handshake_request(&data);
    }

    #[test]
    fn any_answer_gets_a_verdict_that_lasts(data in headerlike()) {
        checks::handshake_response(&data);
    }
}
