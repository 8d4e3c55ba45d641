//! Against an implementation that is not ours: the same streams are accepted and refused, with the same contents.
//!
//! `fuzz/differential.rs` says what is known to differ; the generated streams leave it out.

#[path = "../fuzz/checks.rs"]
#[allow(dead_code)] // the rest of it runs in ws_robustness
mod checks;
#[path = "../fuzz/differential.rs"]
#[allow(dead_code)] // the rest of it is the fuzz target's
mod differential;

use checks::Heard;
use differential::{End, append, ours, theirs};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{self, Cursor, Read, Write};
use tungstenite::Message;
use tungstenite::protocol::{Role as TheirRole, WebSocket};
use unsocket::ws::handshake::{ClientRequest, check_request, offered_protocols, write_accept};
use unsocket::ws::{Limits, Role};

/// A whole frame with the length in its shortest form; everything else may be wrong.
fn frame() -> impl Strategy<Value = (u8, bool, [u8; 4], Vec<u8>)> {
    let first = prop_oneof![
        20 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x00, 0x80, 0x89, 0x8a]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => ".{0,8}".prop_map(String::into_bytes),
        2 => prop::sample::select(vec![&b"\xe2\x82"[..], b"\xac", b"\xf0\x9f", b"\x98\x80", b"\xc3", b"\xff", b"\xed\xa0\x80"])
            .prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..200),
        1 => (120..130usize).prop_map(|length| vec![b'a'; length]),
    ];
    (first, prop::bool::weighted(0.99), any::<[u8; 4]>(), payload)
}

/// A close frame whose code is one that both know, or none, or cut.
fn close_frame() -> impl Strategy<Value = (u8, bool, [u8; 4], Vec<u8>)> {
    let payload = prop_oneof![
        Just(vec![]),
        Just(vec![3]),
        (prop::sample::select(vec![1000u16, 1001, 1002, 1003, 1007, 1008, 1011, 1012, 3000, 4999]), ".{0,8}")
            .prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
        Just(b"\x03\xe8\xff".to_vec()),
    ];
    (Just(0x88u8), Just(true), any::<[u8; 4]>(), payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_same_streams_are_heard_and_refused(
        reader in prop::sample::select(vec![Role::Client, Role::Server]),
        frames in vec(frame(), 0..10),
        close in prop::option::of(close_frame()),
        piece_bytes in 1..100usize,
    ) {
        // A close among the others would carry any code.
        let frames = frames.into_iter().filter(|frame| frame.0 & 0x0f != 8).chain(close);
        let mut bytes = Vec::new();
        for (first, masked_right, key, payload) in frames {
            append(&mut bytes, reader, first, masked_right, key, payload);
        }
        let limits = Limits { message_bytes_max: 250, frame_bytes_max: 150, ..Limits::default() };
        prop_assert_eq!(ours(reader, limits, &bytes, piece_bytes), theirs(reader, limits, &bytes));
    }

    #[test]
    fn what_they_send_we_hear(
        texts in vec(".{0,200}", 0..5),
        sender in prop::sample::select(vec![Role::Client, Role::Server]),
        piece_bytes in 1..100usize,
    ) {
        let mut sent = Sent(Vec::new());
        let (role, reader) = match sender {
            Role::Client => (TheirRole::Client, Role::Server),
            Role::Server => (TheirRole::Server, Role::Client),
        };
        let mut socket = WebSocket::from_raw_socket(&mut sent, role, None);
        for text in &texts {
            socket.send(Message::text(text.clone())).unwrap();
        }
        drop(socket);
        let expected = texts.into_iter().map(Heard::Text).collect();
        prop_assert_eq!(ours(reader, Limits::default(), &sent.0, piece_bytes), (expected, End::Ok));
    }
}

/// Keeps what is sent.
struct Sent(Vec<u8>);

impl Read for Sent {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One end of a connection whose other end is played by the test: what it reads, what it wrote.
struct Half {
    read: Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Read for &mut Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.read.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for &mut Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn our_server_opens_a_connection_with_their_client() {
    use tungstenite::client::IntoClientRequest;
    use tungstenite::handshake::HandshakeError;
    use tungstenite::http::HeaderValue;

    let mut request = "ws://server.example:8080/chat?room=1".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("chat, superchat"));
    let mut half = Half { read: Cursor::new(Vec::new()), written: Vec::new() };
    let Err(HandshakeError::Interrupted(mut pending)) = tungstenite::client(request, &mut half) else {
        panic!("the answer has not come yet");
    };
    let stream = pending.get_mut().get_mut();

    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Request::new(&mut headers);
    assert!(parsed.parse(&stream.written).unwrap().is_complete());
    let upgrade = check_request(parsed.method.unwrap(), parsed.version.unwrap(), parsed.headers).unwrap();
    assert_eq!(offered_protocols(parsed.headers).collect::<Vec<_>>(), ["chat", "superchat"]);
    let mut answer = Vec::new();
    write_accept(&mut answer, upgrade.key, Some("superchat"), None, &[]).unwrap();
    stream.read = Cursor::new(answer);

    let (_, response) = pending.handshake().unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "superchat");
}

#[test]
fn our_client_opens_a_connection_with_their_server() {
    let protocols = ["chat".to_owned()];
    let headers = [("Origin".to_owned(), "http://a.example".to_owned())];
    let nonce = *b"0123456789abcdef";
    let request = ClientRequest {
        host: "a.example",
        target: "/x?y",
        nonce,
        protocols: &protocols,
        headers: &headers,
        deflate: None,
    };
    let mut bytes = Vec::new();
    request.write(&mut bytes).unwrap();
    let mut half = Half { read: Cursor::new(bytes), written: Vec::new() };
    let mut seen = None;
    #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    let callback = |request: &tungstenite::handshake::server::Request,
                    mut response: tungstenite::handshake::server::Response| {
        seen = Some((request.uri().to_string(), request.headers()["Origin"].clone()));
        response
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", request.headers()["Sec-WebSocket-Protocol"].clone());
        Ok(response)
    };
    tungstenite::accept_hdr(&mut half, callback).unwrap();
    assert_eq!(
        seen,
        Some(("/x?y".to_owned(), tungstenite::http::HeaderValue::from_static("http://a.example")))
    );

    let accepted = request.check_response(&half.written).unwrap().unwrap();
    assert_eq!(accepted.consumed, half.written.len());
    assert_eq!(accepted.protocol, Some("chat"));
}
