//! Compression, RFC 7692 section 7.2.1.

use super::{DeflateConfig, Direction, History, WINDOW_BITS_MAX, WINDOW_BITS_MIN};
use zlib_rs::{Deflate, DeflateFlush};

/// What a sync flush ends with, and a message leaves out (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Room for a compressed message at first, bytes.
const OUTPUT_BYTES_MIN: usize = 16 << 10;

/// Room that is kept from one message to the next, bytes.
const OUTPUT_BYTES_KEPT: usize = 256 << 10;

/// Window sizes that zlib compresses with.
const WINDOWS: usize = (WINDOW_BITS_MAX - WINDOW_BITS_MIN + 1) as usize;

/// What one connection keeps for compression.
#[derive(Debug)]
pub struct Outgoing {
    window_bits: u8,
    history: Option<History>,
}

impl Outgoing {
    /// As agreed for what we send.
    pub fn new(direction: Direction) -> Self {
        Outgoing { window_bits: direction.window_bits, history: direction.history() }
    }

    /// Whether the peer understands messages that were compressed with a window of so many bits.
    pub fn understands(&self, window_bits: u8) -> bool {
        window_bits <= self.window_bits
    }

    /// Remembers a message that was sent compressed. One that was sent as it is leaves no trace (RFC 7692
    /// section 7.2.1), nor does one that was compressed but not sent.
    pub fn sent(&mut self, message: &[u8]) {
        if let Some(history) = &mut self.history {
            history.push(message);
        }
    }

    /// Heap held, bytes.
    pub fn heap_bytes(&self) -> usize {
        self.history.as_ref().map_or(0, History::heap_bytes)
    }
}

/// Compresses messages for all connections of a worker, one after the other.
pub struct Deflater {
    level: u8,
    window_bits: u8,
    /// By window size, each made with the first message for a peer that wants it.
    streams: [Option<Deflate>; WINDOWS],
    output: Vec<u8>,
}

impl Deflater {
    /// A compressor that holds nothing until it is used.
    pub fn new(config: &DeflateConfig) -> Self {
        let window_bits = config.send_window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX);
        Deflater { level: config.level, window_bits, streams: [const { None }; WINDOWS], output: Vec::new() }
    }

    /// The window that [`Deflater::compress_for_all`] compresses with, bits.
    pub fn window_bits(&self) -> u8 {
        self.window_bits
    }

    /// `message` compressed for one connection, which may have its own window and context. `None` when that is
    /// no shorter, or the agreed window is one that zlib cannot compress with: it is then sent as it is.
    pub fn compress(&mut self, message: &[u8], outgoing: &Outgoing) -> Option<&[u8]> {
        let history = outgoing.history.as_ref().map_or(&[][..], History::bytes);
        self.run(message, history, outgoing.window_bits)
    }

    /// `message` compressed for every connection that [understands](Outgoing::understands) our window: it refers to
    /// nothing that came before it, which is right whether context takeover was agreed or not. `None` when it is no
    /// shorter.
    pub fn compress_for_all(&mut self, message: &[u8]) -> Option<&[u8]> {
        self.run(message, &[], self.window_bits)
    }

    fn run(&mut self, message: &[u8], history: &[u8], window_bits: u8) -> Option<&[u8]> {
        let Deflater { level, streams, output, .. } = self;
        let slot = streams.get_mut(usize::from(window_bits.checked_sub(WINDOW_BITS_MIN)?))?;
        let stream = match slot {
            Some(stream) => {
                stream.reset();
                stream
            }
            None => slot.insert(Deflate::new((*level).into(), false, window_bits)),
        };
        if !history.is_empty() {
            stream.set_dictionary(history).ok()?;
        }
        if output.len() > OUTPUT_BYTES_KEPT {
            *output = Vec::new();
        }
        // Past this it is no shorter, and not sent.
        let bytes_max = message.len() + TAIL.len();
        loop {
            let written = stream.total_out() as usize;
            if written == output.len() {
                output.resize(output.len().saturating_mul(2).max(OUTPUT_BYTES_MIN), 0);
            }
            let room = output.len().min(bytes_max);
            let rest = message.get(stream.total_in() as usize..)?;
            stream.compress(rest, output.get_mut(written..room)?, DeflateFlush::SyncFlush).ok()?;
            let written = stream.total_out() as usize;
            if written < room {
                return output[..written].strip_suffix(&TAIL);
            }
            if room == bytes_max {
                return None;
            }
        }
    }
}
