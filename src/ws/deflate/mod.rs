//! permessage-deflate, RFC 7692, sans-IO, both roles.
//!
//! | part | what it does |
//! |---|---|
//! | `parameters` | `Sec-WebSocket-Extensions`: its grammar and the four parameters |
//! | `negotiate` | the server's choice among offers, the client's offer and its check of the answer |
//! | `inflate`, `compress` | messages, through streams that all connections of a worker share |
//! | `history` | what one connection keeps between messages when context takeover was agreed |
//!
//! # Memory
//!
//! A stream of zlib's holds 50 to 400 KB whatever its window is: too much for each of many connections. So a worker
//! has one [`Inflater`] and one [`Deflater`], and a connection with context takeover keeps no stream but a
//! [`History`]: the last 2^bits bytes that went one way. They are the stream's preset dictionary for the next
//! message, which comes to the same: a context is nothing else than what a distance may refer to.

mod compress;
mod history;
mod inflate;
mod negotiate;
mod parameters;

pub use compress::{Deflater, Outgoing};
pub use history::History;
pub use inflate::Inflater;
pub use negotiate::{Agreement, AnswerError, Direction, choose, offers, read_answer};
pub use parameters::{Malformed, check_grammar};

/// What an endpoint wants of compression. What is agreed on depends on the peer, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateConfig {
    /// 1 (fast) to 9 (small).
    pub level: u8,
    /// Shorter messages are sent as they are, bytes.
    pub threshold_bytes: usize,
    /// Whether messages that we send may refer to earlier ones. Costs 2^`send_window_bits` bytes a connection.
    pub send_takeover: bool,
    /// Whether messages that we receive may refer to earlier ones. Costs 2^`receive_window_bits` bytes a connection.
    pub receive_takeover: bool,
    /// How far back what we send may refer: 2^9..=2^15 bytes.
    pub send_window_bits: u8,
    /// How far back what we receive may refer to earlier messages: 2^9..=2^15 bytes.
    pub receive_window_bits: u8,
}

/// Least window that zlib compresses with: with 8 bits it silently takes 9.
pub const WINDOW_BITS_MIN: u8 = 9;

/// Largest window of DEFLATE.
pub const WINDOW_BITS_MAX: u8 = 15;

impl Default for DeflateConfig {
    /// Fast, from 256 bytes on, and no memory of a connection's own.
    fn default() -> Self {
        DeflateConfig {
            level: 1,
            threshold_bytes: 256,
            send_takeover: false,
            receive_takeover: false,
            send_window_bits: 12,
            receive_window_bits: 12,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::{Compressed, Message, ProtocolError};
    use proptest::prelude::*;
    use zlib_rs::{Inflate, InflateFlush};

    const LIMIT: usize = 1 << 20;

    fn with_takeover(window_bits: u8) -> Direction {
        Direction { takeover: true, window_bits }
    }

    /// What `payload` is, inflated; with `history` when there is one.
    fn inflate(
        payload: &[u8],
        history: Option<&mut History>,
        limit: usize,
    ) -> Result<Vec<u8>, ProtocolError> {
        let mut inflater = Inflater::default();
        let message = inflater.inflate(Compressed { is_text: false, payload }, history, limit)?;
        Ok(message.as_bytes().to_vec())
    }

    fn hex(text: &str) -> Vec<u8> {
        text.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    #[test]
    fn the_examples_of_section_7_2_3() {
        let hello = Ok(b"Hello".to_vec());
        // A message compressed with one block.
        assert_eq!(inflate(&hex("f2 48 cd c9 c9 07 00"), None, LIMIT), hello);
        // A block with no compression.
        assert_eq!(inflate(&hex("00 05 00 fa ff 48 65 6c 6c 6f 00"), None, LIMIT), hello);
        // A final block.
        assert_eq!(inflate(&hex("f3 48 cd c9 c9 07 00 00"), None, LIMIT), hello);
        // Two blocks.
        assert_eq!(inflate(&hex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00"), None, LIMIT), hello);
        // An empty message.
        assert_eq!(inflate(&hex("00"), None, LIMIT), Ok(vec![]));
        // The second message refers to the first.
        let mut history = with_takeover(15).history();
        assert_eq!(inflate(&hex("f2 48 cd c9 c9 07 00"), history.as_mut(), LIMIT), hello);
        assert_eq!(inflate(&hex("f2 00 11 00 00"), history.as_mut(), LIMIT), hello);
        // Which is an error where that was not agreed on.
        assert_eq!(inflate(&hex("f2 00 11 00 00"), None, LIMIT), Err(ProtocolError::NotDeflate));
    }

    #[test]
    fn a_message_that_a_final_block_ends_goes_on_with_its_context() {
        let mut history = with_takeover(15).history();
        assert_eq!(inflate(&hex("f3 48 cd c9 c9 07 00 00"), history.as_mut(), LIMIT), Ok(b"Hello".to_vec()));
        // A final block, then one that refers to what it said.
        let twice = hex("f3 48 cd c9 c9 07 00 f2 00 11 00 00");
        assert_eq!(inflate(&twice, history.as_mut(), LIMIT), Ok(b"HelloHello".to_vec()));
        assert_eq!(inflate(&hex("f2 00 11 00 00"), history.as_mut(), LIMIT), Ok(b"Hello".to_vec()));
    }

    #[test]
    fn final_blocks_are_bounded() {
        // An empty final block each.
        assert_eq!(inflate(&[3, 0].repeat(8), None, LIMIT), Ok(vec![]));
        assert_eq!(inflate(&[3, 0].repeat(10_000), None, LIMIT), Err(ProtocolError::NotDeflate));
    }

    #[test]
    fn text_is_utf8_once_inflated() {
        let mut deflater = Deflater::new(&DeflateConfig::default());
        let mut verdict = |message: &[u8]| {
            let payload = deflater.compress_for_all(message).unwrap().to_vec();
            let mut inflater = Inflater::default();
            let compressed = Compressed { is_text: true, payload: &payload };
            inflater.inflate(compressed, None, LIMIT).map(|message| matches!(message, Message::Text(_)))
        };
        assert_eq!(verdict("é".repeat(100).as_bytes()), Ok(true));
        assert_eq!(verdict(&"é".repeat(100).as_bytes()[1..]), Err(ProtocolError::TextNotUtf8));
    }

    #[test]
    fn a_bomb_fails_at_the_first_byte_too_many() {
        let mut deflater = Deflater::new(&DeflateConfig { level: 9, ..DeflateConfig::default() });
        let bomb = deflater.compress_for_all(&vec![0; 4 << 20]).unwrap().to_vec();
        assert!(bomb.len() < 5_000, "{} bytes", bomb.len());
        let compressed = Compressed { is_text: false, payload: &bomb };
        let mut inflater = Inflater::default();
        for limit in [0, 1, 1000, 16 << 10, 100_000, (4 << 20) - 1] {
            assert_eq!(
                inflater.inflate(compressed, None, limit),
                Err(ProtocolError::MessageTooBig { limit })
            );
            assert!(inflater.held_bytes() <= limit.max(256 << 10) + 1, "{limit}");
        }
        assert_eq!(inflater.inflate(compressed, None, 4 << 20).map(|m| m.as_bytes().len()), Ok(4 << 20));
        // And what it took is given back.
        let small = Compressed { is_text: false, payload: &[0] };
        assert!(inflater.inflate(small, None, LIMIT).is_ok());
        assert!(inflater.held_bytes() <= 256 << 10);
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        let mut deflater = Deflater::new(&DeflateConfig::default());
        for length in [0, 1, 2, 3] {
            assert_eq!(deflater.compress_for_all(&noise(length)), None, "{length}");
        }
        // zlib has no window of 8 bits.
        let outgoing = Outgoing::new(with_takeover(8));
        assert_eq!(deflater.compress(&[0; 1000], &outgoing), None);
    }

    /// What no compressor shortens.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..bytes).map(step).collect()
    }

    #[test]
    fn what_does_not_shrink_leaves_nothing_behind() {
        for level in 1..=9 {
            let mut deflater = Deflater::new(&DeflateConfig { level, ..DeflateConfig::default() });
            for length in (1..200).map(|i| i * 331 % 5_000).chain([300_000, 16 << 10, 65_536]) {
                assert_eq!(
                    deflater.compress_for_all(&noise(length)),
                    None,
                    "{length} bytes at level {level}"
                );
            }
            let shrinks = b"what does shrink, and is what it was: shrinks";
            let payload = deflater.compress_for_all(shrinks).unwrap();
            assert_eq!(inflate(payload, None, LIMIT), Ok(shrinks.to_vec()));
        }
    }

    /// Messages of words that repeat, at once and after a while.
    fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let words = vec!["{\"price\":", "1234.5", "}", "aaaaaaaaaaaaaaaaaaaaaaaaaaa", "é", "\0\u{1}xyzzy"];
        let piece = prop_oneof![
            4 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..40),
        ];
        let message = proptest::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat());
        proptest::collection::vec(message, 1..8)
    }

    proptest! {
        /// Each message refers no further back than was agreed on: a decoder with just that window understands it.
        #[test]
        fn windows_are_kept(messages in messages(), window_bits in 9..=15u8, level in 1..=9u8, takeover: bool) {
            let config = DeflateConfig { level, send_window_bits: window_bits, ..DeflateConfig::default() };
            let mut deflater = Deflater::new(&config);
            let direction = Direction { takeover, window_bits };
            let mut outgoing = Outgoing::new(direction);
            let mut history = direction.history();
            let mut theirs = Inflate::new(false, window_bits);
            for message in &messages {
                let Some(payload) = deflater.compress(message, &outgoing) else { continue };
                prop_assert!(payload.len() < message.len());
                prop_assert_eq!(&inflate(payload, history.as_mut(), message.len()).unwrap(), message);
                if !takeover {
                    theirs = Inflate::new(false, window_bits);
                }
                let mut heard = vec![0; message.len() + 1];
                let before = theirs.total_out();
                for part in [payload, &[0, 0, 0xff, 0xff]] {
                    let at = (theirs.total_out() - before) as usize;
                    theirs.decompress(part, &mut heard[at..], InflateFlush::SyncFlush).unwrap();
                }
                heard.truncate((theirs.total_out() - before) as usize);
                prop_assert_eq!(&heard, message);
                outgoing.sent(message);
            }
        }
    }
}
