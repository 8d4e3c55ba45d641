//! What must hold whatever bytes a peer sends. The fuzz targets call these with libFuzzer's inputs, the integration
//! tests with generated ones.

use httparse::{EMPTY_HEADER, Header, Request, Response};
use unsocket::ws::deflate::{self, DeflateConfig, Deflater, Direction, Inflater, Outgoing};
use unsocket::ws::handshake::{
    ClientRequest, ResponseError, check_request, offered_protocols, wants_websocket, write_accept,
};
use unsocket::ws::{Compressed, Decoded, Decoder, Event, Limits, Message, ProtocolError, Role};

/// An event or the error that ended the stream, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Compressed(bool, Vec<u8>),
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
            Event::Compressed(message) => Heard::Compressed(message.is_text, message.payload.to_owned()),
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
    compression: bool,
    pieces: impl Iterator<Item = &'p [u8]>,
) -> Vec<Heard> {
    let mut decoder = Decoder::new(role, limits);
    if compression {
        decoder = decoder.with_compression();
    }
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
/// role, the limits and whether compression was negotiated, the second the size of the pieces.
pub(crate) fn decoder(data: &[u8]) {
    let [options, piece_bytes, stream @ ..] = data else { return };
    let role = if options & 1 == 0 { Role::Server } else { Role::Client };
    let small = Limits { message_bytes_max: 300, frame_bytes_max: 200, fragments_max: 3 };
    let limits = if options & 2 == 0 { Limits::default() } else { small };
    let compression = options & 4 != 0;
    let whole = decode_pieces(role, limits, compression, [stream].into_iter());
    assert_eq!(decode_pieces(role, limits, compression, stream.chunks(1)), whole);
    let pieces = stream.chunks(usize::from(*piece_bytes).max(2));
    assert_eq!(decode_pieces(role, limits, compression, pieces), whole);
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
            assert_eq!(write_accept(&mut answer, upgrade.key, protocol, None, &[]), Ok(()));
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
    let request =
        ClientRequest { host: "a", target: "/", nonce, protocols: &protocols, headers: &[], deflate: None };
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

/// Any offers are refused, declined, or answered with what our own client accepts if it offered as much; any answer
/// gets a verdict. The first two bytes of `data` choose what both ends want.
pub(crate) fn deflate_negotiation(data: &[u8]) {
    let [server, client, value @ ..] = data else { return };
    let headers = [Header { name: "Sec-WebSocket-Extensions", value }];
    let wide = DeflateConfig { send_takeover: true, receive_takeover: true, ..deflate_config(0xff) };
    let chosen = deflate::choose(&headers, &deflate_config(*server));
    assert_eq!(chosen.is_err(), deflate::check_grammar(&headers).is_err());
    if let Ok(Some((agreed, answer))) = chosen {
        assert!(
            (9..=15).contains(&agreed.send.window_bits) && (8..=15).contains(&agreed.receive.window_bits)
        );
        let headers = [Header { name: "Sec-WebSocket-Extensions", value: answer.as_bytes() }];
        let heard =
            deflate::read_answer(&headers, Some(&wide)).expect("our answer is one").expect("it accepts");
        assert_eq!(heard.receive.takeover, agreed.send.takeover);
        assert_eq!(heard.send.takeover, agreed.receive.takeover);
    }
    if let Ok(Some(agreed)) = deflate::read_answer(&headers, Some(&deflate_config(*client))) {
        assert!(
            (8..=15).contains(&agreed.send.window_bits) && (8..=15).contains(&agreed.receive.window_bits)
        );
    }
}

/// What an endpoint may want, by the bits of one byte.
fn deflate_config(bits: u8) -> DeflateConfig {
    DeflateConfig {
        level: 1 + bits % 9,
        threshold_bytes: 1,
        send_takeover: bits & 1 != 0,
        receive_takeover: bits & 2 != 0,
        send_window_bits: (9 + (bits >> 2 & 7)).min(15),
        receive_window_bits: (9 + (bits >> 5)).min(15),
    }
}

/// Any bytes inflate to a message within the limit or fail, with and without a context; and any messages come back
/// from compression as they were. The first byte of `data` chooses the limit and the window, the rest is cut into
/// messages at each byte 0.
pub(crate) fn deflate_messages(data: &[u8]) {
    let Some((options, rest)) = data.split_first() else { return };
    let limit = 1 << (options & 15);
    let config = deflate_config(*options);
    let direction = Direction { takeover: true, window_bits: config.send_window_bits };
    let mut inflater = Inflater::default();

    let mut history = direction.history();
    for payload in rest.split(|&byte| byte == 0) {
        let compressed = Compressed { is_text: options & 1 != 0, payload };
        match inflater.inflate(compressed, history.as_mut(), limit) {
            Ok(message) => assert!(message.as_bytes().len() <= limit),
            Err(_) => break,
        }
    }

    let mut deflater = Deflater::new(&config);
    let mut outgoing = Outgoing::new(direction);
    let mut history = direction.history();
    for (at, message) in rest.split(|&byte| byte == 0).enumerate() {
        let for_all = (at + usize::from(*options)) % 3 == 0;
        let deflated =
            if for_all { deflater.compress_for_all(message) } else { deflater.compress(message, &outgoing) };
        let Some(deflated) = deflated else { continue };
        assert!(deflated.len() < message.len(), "it is shorter");
        let compressed = Compressed { is_text: false, payload: deflated };
        let heard = inflater.inflate(compressed, history.as_mut(), message.len());
        assert_eq!(heard, Ok(Message::Binary(message)));
        outgoing.sent(message);
    }
}
