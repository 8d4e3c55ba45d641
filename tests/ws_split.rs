//! What one end encodes the other decodes, wherever the byte stream is cut.

#[path = "../fuzz/checks.rs"]
#[allow(dead_code)] // the handshake's checks run in ws_robustness
mod checks;

use checks::{Heard, decode_pieces};
use proptest::collection::vec;
use proptest::prelude::*;
use unsocket::ws::{Close, CloseCode, Limits, Opcode, Role, append_frame};

/// A data message cut into fragments, each followed by control frames.
#[derive(Clone, Debug)]
struct Sent {
    message: Heard,
    /// Where it is cut, as shares of its length in 1/256.
    cuts: Vec<u8>,
    /// One after each fragment but the last, as far as there are any.
    controls: Vec<Option<Heard>>,
}

fn control() -> impl Strategy<Value = Heard> {
    let payload = prop_oneof![4 => vec(any::<u8>(), 0..10), 1 => vec(any::<u8>(), 125)];
    (any::<bool>(), payload)
        .prop_map(|(ping, payload)| if ping { Heard::Ping(payload) } else { Heard::Pong(payload) })
}

fn message() -> impl Strategy<Value = Heard> {
    prop_oneof![
        ".{0,12}".prop_map(Heard::Text),
        vec(any::<u8>(), 0..40).prop_map(Heard::Binary),
        // The lengths around the boundaries of the length forms.
        (prop::sample::select(vec![124usize, 125, 126, 127, 200]), any::<u8>())
            .prop_map(|(length, byte)| Heard::Binary(vec![byte; length])),
        (60..70usize).prop_map(|length| Heard::Text("é".repeat(length))),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    (message(), vec(any::<u8>(), 0..4), vec(prop::option::of(control()), 0..4))
        .prop_map(|(message, cuts, controls)| Sent { message, cuts, controls })
}

fn close() -> impl Strategy<Value = Heard> {
    let code = prop_oneof![1000..=1003u16, 1007..=1014u16, 3000..=4999u16];
    prop_oneof![
        Just(Heard::Close(CloseCode::NO_STATUS.0, String::new())),
        (code, ".{0,10}").prop_map(|(code, reason)| Heard::Close(code, reason)),
    ]
}

/// The byte stream of one connection, and what its reader is to hear.
struct Stream {
    sender: Role,
    keys: Box<dyn Iterator<Item = [u8; 4]>>,
    bytes: Vec<u8>,
    heard: Vec<Heard>,
}

impl Stream {
    fn new(sender: Role, keys: Vec<[u8; 4]>) -> Self {
        Stream { sender, keys: Box::new(keys.into_iter().cycle()), bytes: Vec::new(), heard: Vec::new() }
    }

    fn frame(&mut self, opcode: Opcode, fin: bool, payload: &[u8]) {
        let mask = match self.sender {
            Role::Client => self.keys.next(),
            Role::Server => None,
        };
        append_frame(&mut self.bytes, opcode, fin, mask, payload);
    }

    fn control(&mut self, control: &Heard) {
        match control {
            Heard::Ping(payload) => self.frame(Opcode::Ping, true, payload),
            Heard::Pong(payload) => self.frame(Opcode::Pong, true, payload),
            Heard::Close(code, reason) => {
                let mut payload = [0; 125];
                let n = Close { code: CloseCode(*code), reason }.encode(&mut payload);
                self.frame(Opcode::Close, true, &payload[..n]);
            }
            other => panic!("{other:?} is no control frame"),
        }
        self.heard.push(control.clone());
    }

    fn message(&mut self, sent: &Sent) {
        let (mut opcode, payload) = match &sent.message {
            Heard::Text(text) => (Opcode::Text, text.as_bytes()),
            Heard::Binary(bytes) => (Opcode::Binary, &bytes[..]),
            other => panic!("{other:?} is no message"),
        };
        let mut cuts: Vec<_> = sent.cuts.iter().map(|cut| payload.len() * usize::from(*cut) / 256).collect();
        cuts.sort_unstable();
        let mut start = 0;
        let mut controls = sent.controls.iter();
        for cut in cuts {
            self.frame(opcode, false, &payload[start..cut]);
            opcode = Opcode::Continuation;
            start = cut;
            if let Some(Some(control)) = controls.next() {
                self.control(control);
            }
        }
        self.frame(opcode, true, &payload[start..]);
        self.heard.push(sent.message.clone());
    }

    fn reader(&self) -> Role {
        match self.sender {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }
}

/// The whole stream of one connection.
fn stream() -> impl Strategy<Value = (Role, Vec<u8>, Vec<Heard>)> {
    let sender = prop::sample::select(vec![Role::Client, Role::Server]);
    (sender, vec(any::<[u8; 4]>(), 1..4), vec(sent(), 0..4), prop::option::of(close())).prop_map(
        |(sender, keys, messages, close)| {
            let mut stream = Stream::new(sender, keys);
            for sent in &messages {
                stream.message(sent);
            }
            if let Some(close) = &close {
                stream.control(close);
            }
            (stream.reader(), stream.bytes, stream.heard)
        },
    )
}

/// `bytes` cut at the places that `cuts` names as shares of its length in 1/65536.
fn cut_at(bytes: &[u8], cuts: &[u16]) -> Vec<Vec<u8>> {
    let mut places: Vec<_> = cuts.iter().map(|cut| bytes.len() * usize::from(*cut) / 65536).collect();
    places.sort_unstable();
    places.push(bytes.len());
    let mut start = 0;
    let mut pieces = Vec::new();
    for place in places {
        pieces.push(bytes[start..place].to_vec());
        start = place;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_single_cut_gives_the_same_events((reader, bytes, heard) in stream()) {
        for cut in 0..=bytes.len() {
            let (front, back) = bytes.split_at(cut);
            let events = decode_pieces(reader, Limits::default(), false, [front, back].into_iter());
            prop_assert_eq!(&events, &heard, "cut at {}", cut);
        }
    }

    #[test]
    fn many_cuts_give_the_same_events((reader, bytes, heard) in stream(), cuts in vec(any::<u16>(), 0..60)) {
        let pieces = cut_at(&bytes, &cuts);
        let events = decode_pieces(reader, Limits::default(), false, pieces.iter().map(Vec::as_slice));
        prop_assert_eq!(&events, &heard);
        prop_assert_eq!(&decode_pieces(reader, Limits::default(), false, bytes.chunks(1)), &heard);
    }

    #[test]
    fn a_damaged_stream_gives_the_same_events_and_error_at_every_cut(
        (reader, mut bytes, _) in stream(),
        place in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        if let Some(place) = bytes.len().checked_sub(1).map(|last| place.index(last + 1)) {
            bytes[place] ^= flip;
        }
        let whole = decode_pieces(reader, Limits::default(), false, [&bytes[..]].into_iter());
        for cut in 0..=bytes.len() {
            let (front, back) = bytes.split_at(cut);
            let events = decode_pieces(reader, Limits::default(), false, [front, back].into_iter());
            prop_assert_eq!(&events, &whole, "cut at {}", cut);
        }
    }
}

#[test]
fn a_big_message_in_segments_of_every_usual_size() {
    let payload: Vec<u8> = (0..300_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let mut bytes = Vec::new();
    append_frame(&mut bytes, Opcode::Binary, true, Some([1, 2, 3, 4]), &payload);
    append_frame(&mut bytes, Opcode::Ping, true, Some([5, 6, 7, 8]), b"after");
    let expected = [Heard::Binary(payload), Heard::Ping(b"after".to_vec())];
    for piece_bytes in [536, 1220, 1448, 1460, 8948, 65_535, 300_013, 300_014, 300_015] {
        let heard = decode_pieces(Role::Server, Limits::default(), false, bytes.chunks(piece_bytes));
        assert!(heard == expected, "pieces of {piece_bytes}");
    }
}
