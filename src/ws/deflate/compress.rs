//! Compression, RFC 7692 section 7.2.1.

use super::{DeflateConfig, Direction, History, WINDOW_BITS_MAX, WINDOW_BITS_MIN};
use zlib_rs::{Deflate, DeflateError, DeflateFlush};

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
        let stream = slot.get_or_insert_with(|| Deflate::new((*level).into(), false, window_bits));
        if output.len() > OUTPUT_BYTES_KEPT {
            *output = Vec::new();
        }
        let run = run(stream, message, history, output).and_then(|bytes| match bytes {
            Some(bytes) => Ok(Some(bytes)),
            None => drain(stream, output).map(|()| None),
        });
        match run {
            Ok(bytes) => {
                stream.reset();
                output[..bytes?].strip_suffix(&TAIL)
            }
            // It never refuses right arguments; if it does, the message goes as it is.
            Err(_) => {
                *slot = None;
                None
            }
        }
    }
}

/// Writes `message`, compressed, to the front of `output`; how many bytes that takes, or `None` when it is no shorter,
/// and the stream has not written all.
fn run(
    stream: &mut Deflate,
    message: &[u8],
    history: &[u8],
    output: &mut Vec<u8>,
) -> Result<Option<usize>, DeflateError> {
    if !history.is_empty() {
        stream.set_dictionary(history)?;
    }
    // Past this it is no shorter, and not sent.
    let bytes_max = message.len() + TAIL.len();
    let (mut read, mut written) = (0, 0);
    loop {
        if written == output.len() {
            output.resize(output.len().saturating_mul(2).max(OUTPUT_BYTES_MIN), 0);
        }
        let room = output.len().min(bytes_max);
        stream.compress(&message[read..], &mut output[written..room], DeflateFlush::SyncFlush)?;
        (read, written) = (stream.total_in() as usize, stream.total_out() as usize);
        if written < room {
            return Ok(Some(written));
        }
        if room == bytes_max {
            return Ok(None);
        }
    }
}

/// Has the stream write what it still holds to nowhere: a reset would not forget it (zlib-rs 0.6.8 keeps the place
/// in its buffer, and in the end there is no room left).
fn drain(stream: &mut Deflate, output: &mut [u8]) -> Result<(), DeflateError> {
    loop {
        let before = stream.total_out();
        stream.compress(&[], output, DeflateFlush::SyncFlush)?;
        if stream.total_out() - before < output.len() as u64 {
            return Ok(());
        }
    }
}
