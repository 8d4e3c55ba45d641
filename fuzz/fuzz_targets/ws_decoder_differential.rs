//! The frame decoder beside tungstenite's: whole frames, right and wrong in every way.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code)] // each target calls one of the checks
mod checks;
#[path = "../differential.rs"]
mod differential;

use differential::{append, ours, theirs};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use unsocket::ws::{CloseCode, Limits, Role};

/// Longest payload, bytes: past it lie the limits of messages and frames.
const PAYLOAD_BYTES_MAX: usize = 300;

#[derive(Arbitrary, Debug)]
struct Stream {
    to_server: bool,
    piece_bytes: u8,
    frames: Vec<Frame>,
}

#[derive(Arbitrary, Debug)]
struct Frame {
    /// FIN, reserved bits, opcode; exclusive or with that of a whole text.
    first: u8,
    masked_wrong: bool,
    key: [u8; 4],
    payload: Vec<u8>,
}

impl Frame {
    /// A close frame whose code may not be sent, or is newer than tungstenite: known to differ.
    fn has_forbidden_code(&self) -> bool {
        let is_close = (self.first ^ 0x81) & 0x0f == 8;
        let code = self.payload.first_chunk::<2>().map(|code| CloseCode(u16::from_be_bytes(*code)));
        is_close && code.is_some_and(|code| !code.may_be_sent() || code == CloseCode::BAD_GATEWAY)
    }
}

libfuzzer_sys::fuzz_target!(|stream: Stream| same(stream));

/// Both hear the same, and refuse the same.
fn same(stream: Stream) {
    let reader = if stream.to_server { Role::Server } else { Role::Client };
    let mut bytes = Vec::new();
    for mut frame in stream.frames {
        frame.payload.truncate(PAYLOAD_BYTES_MAX);
        if !frame.has_forbidden_code() {
            append(&mut bytes, reader, frame.first ^ 0x81, !frame.masked_wrong, frame.key, frame.payload);
        }
    }
    let limits = Limits { message_bytes_max: 250, frame_bytes_max: 150, ..Limits::default() };
    let ours = ours(reader, limits, &bytes, usize::from(stream.piece_bytes).max(1));
    assert_eq!(ours, theirs(reader, limits, &bytes));
}
