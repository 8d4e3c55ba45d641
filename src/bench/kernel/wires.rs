//! What the connections of one thread share, and how bytes leave.

use super::connection::Life;
use crate::bench::generator::Generator;
use crate::bench::load::{Failure, Load};
use crate::bench::tally::Cause;
use crate::tls::Stream as Tls;
use crate::ws::deflate::{DeflateConfig, Deflater, History, Inflater, Outgoing};
use crate::ws::frame::HEADER_BYTES_MAX;
use crate::ws::{FrameHeader, Limits, Opcode, WsUrl, mask};
use mio::net::TcpStream;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::io::{ErrorKind, Write};

/// Read buffer of a thread, bytes.
const INPUT_BYTES: usize = 256 << 10;
/// Frames are handed to the kernel when they come to this many bytes.
pub(super) const OUTPUT_BYTES: usize = 128 << 10;

/// What the connections of one thread share.
pub(super) struct Wires<'a> {
    /// The closed loop.
    pub(super) generator: Generator,
    pub(super) url: &'a WsUrl,
    pub(super) limits: Limits,
    /// RFC 6455 section 10.3: masking keys come from a strong source.
    pub(super) random: ChaCha20Rng,
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    /// The same in records.
    sealed: Vec<u8>,
    /// What is offered; `None` for no compression.
    pub(super) deflate: Option<DeflateConfig>,
    deflater: Deflater,
    pub(super) inflater: Inflater,
    /// A message before it is compressed.
    plain: Vec<u8>,
}

impl<'a> Wires<'a> {
    /// `seed` is random: masking keys follow from it.
    pub(super) fn new(generator: Generator, url: &'a WsUrl, seed: [u8; 32]) -> Self {
        let size = generator.message_bytes_max();
        let defaults = Limits::default();
        let deflate = generator.deflate().then(DeflateConfig::default);
        Wires {
            deflate,
            deflater: Deflater::new(&deflate.unwrap_or_default()),
            inflater: Inflater::default(),
            plain: Vec::new(),
            url,
            limits: Limits {
                message_bytes_max: defaults.message_bytes_max.max(size),
                frame_bytes_max: defaults.frame_bytes_max.max(size),
                ..defaults
            },
            random: ChaCha20Rng::from_seed(seed),
            input: vec![0; INPUT_BYTES],
            output: Vec::with_capacity(OUTPUT_BYTES),
            sealed: Vec::new(),
            generator,
        }
    }

    /// Connection `row` is open.
    pub(super) fn open(&mut self, row: u32, life: Option<Life>) -> Load {
        match life {
            None => self.generator.opened(row),
            Some(life) => {
                self.generator.born(life.birth);
                self.generator.place(row)
            }
        }
    }

    /// Appends the message that is due on `load`, which then is on its way.
    pub(super) fn write_message(&mut self, load: &mut Load, compression: Option<&mut Compression>) {
        self.write_frame_of(load, compression);
        self.generator.sent(load);
    }

    /// Appends the message that is due on `load`.
    pub(super) fn write_frame_of(&mut self, load: &Load, compression: Option<&mut Compression>) {
        let opcode = if self.generator.is_text() { Opcode::Text } else { Opcode::Binary };
        if let Some(Compression { outgoing, .. }) = compression {
            self.plain.clear();
            self.generator.write(load, &mut self.plain);
            let worth = self.deflate.is_some_and(|config| self.plain.len() >= config.threshold_bytes);
            let compressed = if worth { self.deflater.compress(&self.plain, outgoing) } else { None };
            let rsv1 = compressed.is_some();
            write_frame(&mut self.output, &mut self.random, opcode, rsv1, compressed.unwrap_or(&self.plain));
            if rsv1 {
                outgoing.sent(&self.plain);
            }
        } else {
            let bytes = self.generator.message_bytes(load);
            let key = write_header(&mut self.output, &mut self.random, opcode, false, bytes);
            let payload = self.output.len();
            self.generator.write(load, &mut self.output);
            mask::apply(&mut self.output[payload..], key, 0);
        }
    }

    pub(super) fn write_control(&mut self, opcode: Opcode, payload: &[u8]) {
        write_frame(&mut self.output, &mut self.random, opcode, false, payload);
    }
}

/// Appends a masked frame; `rsv1` says that it is compressed (RFC 7692 section 6).
fn write_frame(output: &mut Vec<u8>, random: &mut ChaCha20Rng, opcode: Opcode, rsv1: bool, payload: &[u8]) {
    let key = write_header(output, random, opcode, rsv1, payload.len());
    let from = output.len();
    output.extend_from_slice(payload);
    mask::apply(&mut output[from..], key, 0);
}

fn write_header(
    output: &mut Vec<u8>,
    random: &mut ChaCha20Rng,
    opcode: Opcode,
    rsv1: bool,
    payload_bytes: usize,
) -> [u8; 4] {
    let key = random.next_u32().to_ne_bytes();
    let header =
        FrameHeader { fin: true, rsv1, opcode, mask: Some(key), payload_bytes: payload_bytes as u64 };
    let mut bytes = [0; HEADER_BYTES_MAX];
    let length = header.encode(&mut bytes);
    output.extend_from_slice(&bytes[..length]);
    key
}

/// What a connection with compression keeps: nothing, unless the server insists on context takeover.
pub(super) struct Compression {
    /// What we sent.
    pub(super) outgoing: Outgoing,
    /// What we received.
    pub(super) history: Option<History>,
}

/// Hands what is unsent and the thread's output to the kernel, with TLS in records.
pub(super) fn transmit(
    stream: &mut TcpStream,
    tls: Option<&mut Tls>,
    unsent: &mut Vec<u8>,
    wires: &mut Wires<'_>,
) -> Result<(), Failure> {
    if let Some(tls) = tls {
        seal(tls, &mut wires.output, &mut wires.sealed);
    }
    write_out(stream, unsent, &mut wires.output)
}

/// Puts `output` into records, behind what TLS itself has to say. During the handshake there is no output.
fn seal(tls: &mut Tls, output: &mut Vec<u8>, sealed: &mut Vec<u8>) {
    sealed.clear();
    sealed.append(tls.control());
    let mut at = 0;
    while at < output.len() {
        let Some((plain_bytes, record_bytes)) = tls.next_record(output.len() - at) else {
            if tls.control_bytes() == 0 {
                break;
            }
            sealed.append(tls.control());
            continue;
        };
        let start = sealed.len();
        sealed.resize(start + record_bytes, 0);
        tls.seal(&mut sealed[start..], |place| place.copy_from_slice(&output[at..at + plain_bytes]));
        at += plain_bytes;
    }
    std::mem::swap(output, sealed);
}

/// Hands `unsent` and then `output` to the kernel; what it does not take stays in `unsent`. Leaves `output` empty.
fn write_out(stream: &mut TcpStream, unsent: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<(), Failure> {
    if !unsent.is_empty() {
        let sent = write_some(stream, unsent)?;
        unsent.drain(..sent);
    }
    if unsent.is_empty() {
        // Nothing is kept for a connection that waits for nothing.
        *unsent = Vec::new();
        let sent = write_some(stream, output)?;
        unsent.extend_from_slice(&output[sent..]);
    } else {
        unsent.extend_from_slice(output);
    }
    output.clear();
    Ok(())
}

/// Writes from the front of `bytes` until the kernel takes no more; returns how much it took.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> Result<usize, Failure> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::new(Cause::Reset, error.to_string())),
        }
    }
    Ok(sent)
}
