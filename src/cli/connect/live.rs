//! An open WebSocket over a kernel socket: frames, what waits for the kernel, and TLS between.

use super::transport::Ended;
use crate::tls::{Data, Stream as Tls, TlsError};
use crate::ws::deflate::{DeflateConfig, Deflater, History, Outgoing};
use crate::ws::frame::CONTROL_BYTES_MAX;
use crate::ws::{Close, Decoder, Message, Opcode, ProtocolError, append_frame};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

/// Bytes that may wait for the kernel before a message is not accepted.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of TLS's answers that may wait for the kernel before nothing more is read.
const TLS_CONTROL_BYTES_MAX: usize = 64 << 10;

/// An open WebSocket.
pub(super) struct Live {
    pub(super) tcp: TcpStream,
    pub(super) tls: Option<Box<Tls>>,
    pub(super) decoder: Decoder,
    /// What compressed messages refer to: theirs, and ours where compression was agreed on.
    pub(super) history: Option<History>,
    pub(super) outgoing: Option<Outgoing>,
    /// What the kernel has not taken yet. What TLS has to say of its own waits in `tls` meanwhile, where answers to key
    /// updates become one.
    pub(super) unsent: Vec<u8>,
    /// Payload of the latest ping, while it is not answered (RFC 6455 section 5.5.3 asks for no other).
    pub(super) pong: Option<Vec<u8>>,
    /// A message is not wholly on its way.
    pub(super) congested: bool,
    /// Our close frame is out.
    pub(super) close_sent: bool,
    /// What it said, when we closed first: that is how the connection ended, whatever the answer says.
    pub(super) closed_as: Option<Ended>,
    pub(super) heard_at: Instant,
    pub(super) pinged: bool,
}

impl Live {
    /// Whether the server is read from: not while it takes nothing of what reading it makes us say. Our own messages do
    /// not count: it may have to be heard before it reads on.
    pub(super) fn reads(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.control_bytes() <= TLS_CONTROL_BYTES_MAX)
    }

    /// Whether too much waits for another message.
    pub(super) fn is_full(&self) -> bool {
        self.unsent.len() > UNSENT_BYTES_MAX
    }

    /// Whether anything waits for the kernel.
    pub(super) fn has_to_write(&self) -> bool {
        let has_control = self.tls.as_ref().is_some_and(|tls| tls.control_bytes() > 0);
        !self.unsent.is_empty() || self.pong.is_some() || has_control
    }

    /// Answers the latest ping, once all before the answer is on its way; returns how the connection ended, if it did.
    pub(super) fn answer_ping(&mut self, random: &mut ChaCha20Rng) -> Option<Ended> {
        if !self.unsent.is_empty() {
            return None;
        }
        let payload = self.pong.take()?;
        if !self.close_sent {
            self.push(Opcode::Pong, &payload, random);
        }
        self.flush()
    }

    /// Appends a frame to what is to be sent.
    pub(super) fn push(&mut self, opcode: Opcode, payload: &[u8], random: &mut ChaCha20Rng) {
        let mut frame = Vec::new();
        append_frame(&mut frame, opcode, true, Some(random.next_u32().to_ne_bytes()), payload);
        // TLS that cannot seal any more has failed, which reading finds out.
        let _ = self.seal(&frame);
    }

    /// Appends a message, compressed where that was agreed on and makes it shorter.
    pub(super) fn push_message(
        &mut self,
        message: Message<'_>,
        deflater: &mut Deflater,
        config: Option<DeflateConfig>,
        random: &mut ChaCha20Rng,
    ) {
        let payload = message.as_bytes();
        let worth = config.is_some_and(|config| payload.len() >= config.threshold_bytes);
        let Some(outgoing) = self.outgoing.as_mut().filter(|_| worth) else {
            return self.push(message.opcode(), payload, random);
        };
        let Some(compressed) = deflater.compress(payload, outgoing) else {
            return self.push(message.opcode(), payload, random);
        };
        outgoing.sent(payload);
        let mut frame = Vec::new();
        append_frame(&mut frame, message.opcode(), true, Some(random.next_u32().to_ne_bytes()), compressed);
        // RFC 7692 section 6: RSV1 says that it is compressed.
        frame[0] |= 0x40;
        // As in `push`.
        let _ = self.seal(&frame);
    }

    /// The server broke the protocol: says so, and how it ended.
    pub(super) fn violated(&mut self, error: ProtocolError, random: &mut ChaCha20Rng) -> Ended {
        self.push_close(Close { code: error.close_code(), reason: "" }, random);
        Ended::Broke(format!("the server breaks the protocol: {error}"))
    }

    /// Appends our close frame, once.
    pub(super) fn push_close(&mut self, close: Close<'_>, random: &mut ChaCha20Rng) {
        if !std::mem::replace(&mut self.close_sent, true) {
            let mut payload = [0; CONTROL_BYTES_MAX];
            let length = close.encode(&mut payload);
            self.push(Opcode::Close, &payload[..length], random);
        }
    }

    /// Appends bytes to what is to be sent, with TLS in records.
    pub(super) fn seal(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        let Some(tls) = &mut self.tls else {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        };
        self.unsent.append(tls.control());
        let mut at = 0;
        while at < bytes.len() {
            let Some((plain_bytes, record_bytes)) = tls.next_record(bytes.len() - at) else {
                if tls.control_bytes() == 0 {
                    return Err(TlsError::Handshake("nothing can be sent any more".into()));
                }
                self.unsent.append(tls.control());
                continue;
            };
            let start = self.unsent.len();
            self.unsent.resize(start + record_bytes, 0);
            tls.seal(&mut self.unsent[start..], |place| place.copy_from_slice(&bytes[at..at + plain_bytes]));
            at += plain_bytes;
        }
        Ok(())
    }

    /// Gives what came to `each`, with TLS out of its records.
    pub(super) fn open(&mut self, bytes: &mut [u8], mut each: impl FnMut(&[u8])) -> Result<(), TlsError> {
        let Some(tls) = &mut self.tls else {
            each(bytes);
            return Ok(());
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let step = tls.receive(rest)?;
            match step.data {
                Data::Nothing => {}
                Data::Shown(data) => each(&rest[data]),
                Data::Held(data) => {
                    let held = tls.take_held();
                    each(&held[data]);
                    tls.put_held(held);
                }
            }
            rest = rest.get_mut(step.taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Hands to the kernel what it takes; returns how it ended, if it did.
    pub(super) fn flush(&mut self) -> Option<Ended> {
        if self.unsent.is_empty()
            && let Some(tls) = &mut self.tls
        {
            self.unsent.append(tls.control());
        }
        let mut sent = 0;
        let mut ended = None;
        while sent < self.unsent.len() {
            match self.tcp.write(&self.unsent[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    ended = Some(Ended::Broke(error.to_string()));
                    break;
                }
            }
        }
        self.unsent.drain(..sent);
        ended
    }

    /// The last that is said: what is unsent, TLS's close_notify, FIN. Nobody waits for it.
    pub(super) fn end(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
            self.unsent.append(tls.control());
        }
        let _ = self.flush();
        let _ = self.tcp.shutdown(Shutdown::Write);
    }
}
