//! Our decoder against one that is not ours, tungstenite's: the same streams are accepted and refused, with the same
//! contents. The fuzz target `ws_decoder_differential` and `tests/ws_tungstenite.rs` call this.
//!
//! What is known to differ, and left out where streams are made:
//!
//! * a length that is not in its shortest form (RFC 6455 section 5.2): tungstenite takes it;
//! * a close frame with a forbidden code: tungstenite reports it as one with 1002, we refuse it; and 1014, which it takes
//!   for forbidden;
//! * what shows early: we refuse a frame for its header and a text for its first wrong byte, tungstenite once the frame
//!   is whole, so only whole frames are compared;
//! * a limit on the number of fragments: tungstenite has none.

use crate::checks::{Heard, decode_pieces};
use std::io::{self, Cursor, Read, Write};
use tungstenite::Message;
use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};
use unsocket::ws::{Limits, Role};

/// Plays a stream to a reader and swallows what it answers.
struct Played(Cursor<Vec<u8>>);

impl Read for Played {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Played {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was right as far as it went.
    Ok,
    /// It was refused.
    Refused,
}

/// What tungstenite hears.
pub(crate) fn theirs(reader: Role, limits: Limits, bytes: &[u8]) -> (Vec<Heard>, End) {
    let role = match reader {
        Role::Client => TheirRole::Client,
        Role::Server => TheirRole::Server,
    };
    let config = WebSocketConfig::default()
        // What it comes with is allocated anew for each stream.
        .read_buffer_size(1 << 10)
        .max_message_size(Some(limits.message_bytes_max))
        .max_frame_size(Some(limits.frame_bytes_max));
    let mut socket = WebSocket::from_raw_socket(Played(Cursor::new(bytes.to_vec())), role, Some(config));
    let mut heard = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => heard.push(Heard::Text(text.as_str().to_owned())),
            Ok(Message::Binary(bytes)) => heard.push(Heard::Binary(bytes.to_vec())),
            Ok(Message::Ping(payload)) => heard.push(Heard::Ping(payload.to_vec())),
            Ok(Message::Pong(payload)) => heard.push(Heard::Pong(payload.to_vec())),
            Ok(Message::Close(close)) => {
                let (code, reason) = close.map_or((1005, String::new()), |close| {
                    (close.code.into(), close.reason.as_str().to_owned())
                });
                heard.push(Heard::Close(code, reason));
                return (heard, End::Ok);
            }
            Ok(Message::Frame(frame)) => panic!("a raw frame: {frame}"),
            Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => {
                return (heard, End::Ok);
            }
            Err(_) => return (heard, End::Refused),
        }
    }
}

/// What our decoder hears.
pub(crate) fn ours(reader: Role, limits: Limits, bytes: &[u8], piece_bytes: usize) -> (Vec<Heard>, End) {
    let mut heard = decode_pieces(reader, limits, false, bytes.chunks(piece_bytes));
    match heard.pop() {
        Some(Heard::Failed(_)) => (heard, End::Refused),
        Some(last) => {
            heard.push(last);
            (heard, End::Ok)
        }
        None => (heard, End::Ok),
    }
}

/// Appends a frame with the length in its shortest form. It is masked as its reader's peer has to unless `masked_right`
/// is false.
pub(crate) fn append(
    out: &mut Vec<u8>,
    reader: Role,
    first: u8,
    masked_right: bool,
    key: [u8; 4],
    mut payload: Vec<u8>,
) {
    let masked = (reader == Role::Server) == masked_right;
    out.push(first);
    let bit = u8::from(masked) << 7;
    match payload.len() {
        length @ 0..=125 => out.push(bit | length as u8),
        length => {
            out.push(bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    if masked {
        out.extend_from_slice(&key);
        for (i, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[i % 4];
        }
    }
    out.append(&mut payload);
}
