//! What must hold whatever bytes a peer sends. The fuzz targets call these with libFuzzer's inputs, the integration
//! tests with generated ones.

use httparse::{EMPTY_HEADER, Request, Response};
use unsocket::ws::handshake::{
    ClientRequest, ResponseError, check_request, offered_protocols, wants_websocket, write_accept,
};
use unsocket::ws::{Decoded, Decoder, Event, Limits, Message, ProtocolError, Role};

/// An event or the error that ended the stream, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    Failed(ProtocolError),
}

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(Message::Text(text)) => Heard::Text(text.to_owned()),
            Event::Message(Message::Binary(bytes)) => Heard::Binary(bytes.to_owned()),
            Event::Ping(payload) => Heard::Ping(payload.to_owned()),
            Event::Pong(payload) => Heard::Pong(payload.to_owned()),
            Event::Close(close) => Heard::Close(close.code.0, close.reason.to_owned()),
        }
    }
}

/// Decodes the concatenation of `pieces`, one piece an input, and checks what holds for every input.
pub(crate) fn decode_pieces<'p>(
    role: Role,
    limits: Limits,
    pieces: impl Iterator<Item = &'p [u8]>,
) -> Vec<Heard> {
    let mut decoder = Decoder::new(role, limits);
    let mut heard = Vec::new();
    let mut arrived_bytes = 0;
    for piece in pieces {
        arrived_bytes += piece.len();
        let mut input = piece.to_vec();
        let mut at = 0;
        loop {
            let rest_bytes = input.len() - at;
            match decoder.decode(&mut input[at..]) {
                Ok(Decoded { consumed, event: Some(event) }) => {
                    assert!((1..=rest_bytes).contains(&consumed), "an event uses up input");
                    at += consumed;
                    heard.push(event.into());
                }
                Ok(Decoded { consumed, event: None }) => {
                    assert_eq!(consumed, rest_bytes, "without an event the input is used up");
                    break;
                }
                Err(error) => {
                    heard.push(Heard::Failed(error));
                    assert_eq!(decoder.decode(&mut input[at..]).unwrap_err(), error, "it repeats the error");
                    assert_eq!(decoder.heap_bytes(), 0);
                    return heard;
                }
            }
        }
        assert!(decoder.heap_bytes() <= 2 * arrived_bytes + 128, "memory follows what arrived");
    }
    heard
}

/// Any bytes give the same events and the same error, however they are cut. The first byte of `data` chooses the
/// role and the limits, the second the size of the pieces.
pub(crate) fn decoder(data: &[u8]) {
    let [options, piece_bytes, stream @ ..] = data else { return };
    let role = if options & 1 == 0 { Role::Server } else { Role::Client };
    let small = Limits { message_bytes_max: 300, frame_bytes_max: 200, fragments_max: 3 };
    let limits = if options & 2 == 0 { Limits::default() } else { small };
    let whole = decode_pieces(role, limits, [stream].into_iter());
    assert_eq!(decode_pieces(role, limits, stream.chunks(1)), whole);
    assert_eq!(decode_pieces(role, limits, stream.chunks(usize::from(*piece_bytes).max(2))), whole);
}

/// Any request head is refused with a status, or accepted with an answer that our own client would parse. When the
/// first byte of `data` is odd, the rest follows the lines of a right request.
pub(crate) fn handshake_request(data: &[u8]) {
    const RIGHT: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let Some((options, rest)) = data.split_first() else { return };
    let head = if options & 1 == 1 { [RIGHT, rest].concat() } else { rest.to_vec() };
    let mut headers = [EMPTY_HEADER; 64];
    let mut request = Request::new(&mut headers);
    let Ok(httparse::Status::Complete(_)) = request.parse(&head) else { return };
    let (Some(method), Some(minor_version)) = (request.method, request.version) else { return };
    let offered: Vec<_> = offered_protocols(request.headers).collect();
    match check_request(method, minor_version, request.headers) {
        Err(error) => assert!([400, 405, 426].contains(&error.status())),
        Ok(upgrade) => {
            assert!(method == "GET" && minor_version == 1 && wants_websocket(request.headers));
            let mut answer = Vec::new();
            let protocol = offered.first().copied();
            assert_eq!(write_accept(&mut answer, upgrade.key, protocol, &[]), Ok(()));
            let mut headers = [EMPTY_HEADER; 8];
            let mut response = Response::new(&mut headers);
            assert_eq!(response.parse(&answer), Ok(httparse::Status::Complete(answer.len())));
            assert_eq!(response.code, Some(101));
            assert_eq!(response.headers.len(), 3 + usize::from(protocol.is_some()));
        }
    }
}

/// Any answer is taken or refused, and the verdict does not change when more bytes follow. When the first byte of
/// `data` is odd, the rest follows the lines of a right answer.
pub(crate) fn handshake_response(data: &[u8]) {
    const RIGHT: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let Some((options, rest)) = data.split_first() else { return };
    let bytes = if options & 1 == 1 { [RIGHT, rest].concat() } else { rest.to_vec() };
    let protocols = ["chat".to_owned(), "superchat".to_owned()];
    let nonce = *b"the sample nonce";
    let request = ClientRequest { host: "a", target: "/", nonce, protocols: &protocols, headers: &[] };
    let whole = request.check_response(&bytes);
    if let Ok(Some(accepted)) = whole {
        assert!(bytes[..accepted.consumed].ends_with(b"\n"));
        assert!(accepted.protocol.is_none_or(|chosen| protocols.iter().any(|offered| offered == chosen)));
    }
    let cut = usize::from(*options).min(bytes.len());
    for cut in [cut, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        match request.check_response(&bytes[..cut]) {
            Ok(None) => {}
            Err(ResponseError::TooLarge { .. }) => assert!(whole.is_err()),
            verdict => assert_eq!(verdict, whole, "cut at {cut}"),
        }
    }
}
