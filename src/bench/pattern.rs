//! What the messages of a load look like: every payload follows from its connection and its sequence number,
//! so a reply is verified in full without keeping what was sent.
//!
//! A payload is a 12-byte tag (sequence number, connection) and then a slice of a random pool that begins at an
//! offset hashed from both. A shorter payload is the front of the tag. Making a payload is one copy, verifying
//! it one comparison; the pool of a small message stays in the first-level cache.

use super::plan::Plan;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::borrow::Cow;
use std::fmt::Write;

/// Bytes of a payload that name its connection and sequence number.
const TAG_BYTES: usize = 12;
/// Number of different offsets into the pool, a power of two.
const OFFSETS: usize = 4096;
/// Where the bits of a message's hash begin that its size follows from: beside those of its offset.
const SIZE_SHIFT: u32 = 36;
/// The 64 characters of text payloads: six bits each.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Names in payloads that are to be compressed.
const NAMES: [&str; 8] = ["ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO", "FOXTROT", "GOLF", "HOTEL"];

/// How a reply can differ from the message it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It has another length.
    Length {
        /// Length of the message that was sent, bytes.
        sent: usize,
        /// Length of the reply, bytes.
        got: usize,
    },
    /// It is another message of this connection: one was lost, repeated or overtaken.
    OutOfOrder {
        /// Sequence number that was due.
        due: u64,
        /// Sequence number of the reply.
        got: u64,
    },
    /// It is a message of another connection.
    Misdelivered {
        /// The connection it belongs to.
        connection: u32,
    },
    /// It is no message of this load.
    Corrupt {
        /// The first byte that differs, from 0.
        at: usize,
    },
}

/// The payloads of one load.
#[derive(Debug)]
pub struct Pattern {
    /// A power of two of them, each as likely.
    sizes: Vec<usize>,
    most: usize,
    text: bool,
    pool: Vec<u8>,
}

impl Pattern {
    /// The payloads of `plan`: random bytes, printable ASCII for text, records as in JSON where they are to be compressed.
    pub fn new(plan: &Plan) -> Self {
        let Plan { text, deflate, seed, .. } = *plan;
        let most = plan.size.most();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let pool_bytes = OFFSETS + most.saturating_sub(TAG_BYTES);
        let pool = match (deflate, text) {
            (true, _) => records(pool_bytes, &mut random),
            (false, true) => {
                noise(pool_bytes, &mut random).into_iter().map(|byte| digit(byte.into())).collect()
            }
            (false, false) => noise(pool_bytes, &mut random),
        };
        Pattern { sizes: plan.size.samples(seed), most, text, pool }
    }

    /// Length of the longest payload in bytes.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Length of the payload of message `sequence` of `connection` in bytes.
    pub fn size(&self, connection: u32, sequence: u64) -> usize {
        self.size_of(mixed(connection, sequence))
    }

    /// Whether the payloads are text.
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// Appends the payload of message `sequence` of `connection`.
    #[inline]
    pub fn write(&self, connection: u32, sequence: u64, out: &mut Vec<u8>) {
        let tag = self.tag(connection, sequence);
        let hash = mixed(connection, sequence);
        let size = self.size_of(hash);
        if size < TAG_BYTES {
            out.extend_from_slice(&tag[..size]);
        } else {
            out.extend_from_slice(&tag);
            out.extend_from_slice(self.body(hash, size));
        }
    }

    /// Compares `reply` byte for byte with the payload of message `sequence` of `connection`.
    ///
    /// # Errors
    /// How they differ.
    #[inline]
    pub fn verify(&self, connection: u32, sequence: u64, reply: &[u8]) -> Result<(), Mismatch> {
        let due = self.tag(connection, sequence);
        let hash = mixed(connection, sequence);
        let size = self.size_of(hash);
        let is_right = match reply.split_first_chunk::<TAG_BYTES>() {
            Some((tag, body)) => *tag == due && body == self.body(hash, size),
            None => *reply == due[..reply.len()],
        };
        if is_right && reply.len() == size {
            return Ok(());
        }
        Err(self.classify(connection, sequence, reply))
    }

    /// Finds out what a reply is instead of the one that was due.
    #[cold]
    fn classify(&self, connection: u32, sequence: u64, reply: &[u8]) -> Mismatch {
        if let Some((its_connection, its_sequence)) = self.read_tag(reply)
            && reply.get(TAG_BYTES..) == Some(self.due_body(its_connection, its_sequence))
            && (its_connection, its_sequence) != (connection, sequence)
        {
            return if its_connection == connection {
                Mismatch::OutOfOrder { due: sequence, got: its_sequence }
            } else {
                Mismatch::Misdelivered { connection: its_connection }
            };
        }
        let size = self.size(connection, sequence);
        if reply.len() != size {
            return Mismatch::Length { sent: size, got: reply.len() };
        }
        let mut due = Vec::with_capacity(size);
        self.write(connection, sequence, &mut due);
        let at = due.iter().zip(reply).position(|(due, got)| due != got);
        Mismatch::Corrupt { at: at.unwrap_or_default() }
    }

    /// The tag: little-endian bytes, or six-bit digits in text (then 48 bits of sequence, 24 of connection).
    #[inline]
    fn tag(&self, connection: u32, sequence: u64) -> [u8; TAG_BYTES] {
        let (front, back) = if self.text {
            (digits(sequence), digits(connection.into()))
        } else {
            (sequence.to_le_bytes(), connection.to_le_bytes())
        };
        let mut tag = [0; TAG_BYTES];
        tag[..8].copy_from_slice(&front);
        tag[8..].copy_from_slice(&back);
        tag
    }

    /// The connection and sequence number that a tag names; `None` when there is no whole tag.
    fn read_tag(&self, reply: &[u8]) -> Option<(u32, u64)> {
        let (front, rest) = reply.split_first_chunk::<8>()?;
        let back = rest.first_chunk::<4>()?;
        if self.text {
            Some((u32::try_from(read_digits(back)?).ok()?, read_digits(front)?))
        } else {
            Some((u32::from_le_bytes(*back), u64::from_le_bytes(*front)))
        }
    }

    /// What follows the tag of message `sequence` of `connection`.
    fn due_body(&self, connection: u32, sequence: u64) -> &[u8] {
        let hash = mixed(connection, sequence);
        self.body(hash, self.size_of(hash))
    }

    /// The length of the message with this hash.
    #[inline]
    fn size_of(&self, hash: u64) -> usize {
        self.sizes[(hash >> SIZE_SHIFT) as usize & (self.sizes.len() - 1)]
    }

    /// What follows the tag of the message with this hash, which has `size` bytes.
    #[inline]
    fn body(&self, hash: u64, size: usize) -> &[u8] {
        let offset = (hash >> (u64::BITS - OFFSETS.ilog2())) as usize;
        &self.pool[offset..offset + size.saturating_sub(TAG_BYTES)]
    }
}

/// A hash of which message it is. Fibonacci hashing: the top bits of a product with 2^64 / golden ratio are well mixed.
fn mixed(connection: u32, sequence: u64) -> u64 {
    (sequence ^ (u64::from(connection) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// What no compressor shortens.
fn noise(bytes: usize, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut pool = vec![0; bytes];
    random.fill_bytes(&mut pool);
    pool
}

/// Records of a market's feed in JSON: what compresses as messages of services do.
fn records(bytes: usize, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut pool = String::with_capacity(bytes + 128);
    while pool.len() < bytes {
        let [price, size, name] = [(); 3].map(|()| random.next_u32());
        let (name, side) = (NAMES[name as usize % NAMES.len()], if price & 1 == 0 { "buy" } else { "sell" });
        let (whole, part, size) = (price >> 4 & 1023, price >> 20 & 63, size % 10_000);
        // Writing to a String cannot fail.
        let _ =
            write!(pool, r#"{{"symbol":"{name}","side":"{side}","price":{whole}.{part:02},"size":{size}}},"#);
    }
    pool.truncate(bytes);
    pool.into_bytes()
}

/// The character of the low six bits of `value`.
fn digit(value: u64) -> u8 {
    ALPHABET[(value & 63) as usize]
}

/// `value` as characters of six bits, the lowest first.
fn digits<const N: usize>(value: u64) -> [u8; N] {
    std::array::from_fn(|place| digit(value >> (6 * place)))
}

/// Reads what [`digits`] wrote; `None` when a character is not one of its own.
fn read_digits(digits: &[u8]) -> Option<u64> {
    digits.iter().rev().try_fold(0, |value: u64, byte| {
        let digit = ALPHABET.iter().position(|character| character == byte)?;
        Some(value << 6 | digit as u64)
    })
}

impl Mismatch {
    /// What to tell the operator.
    pub fn describe(self) -> Cow<'static, str> {
        match self {
            Mismatch::Length { sent, got } => format!("sent {sent} bytes, the reply has {got}").into(),
            Mismatch::OutOfOrder { due, got } => format!("message {due} was due, message {got} came").into(),
            Mismatch::Misdelivered { connection } => {
                format!("the reply belongs to connection {connection}").into()
            }
            Mismatch::Corrupt { at } => format!("the reply differs from byte {at} on").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(plan: Plan) -> Pattern {
        Pattern::new(&plan)
    }

    fn payload(pattern: &Pattern, connection: u32, sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        pattern.write(connection, sequence, &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_payload_verifies_and_any_changed_byte_does_not(
            size in 0usize..300, text: bool, deflate: bool, connection in 0u32..1 << 24, sequence in 0u64..1 << 48, at: usize,
        ) {
            let pattern = pattern(Plan { size: size.into(), text, deflate, ..Plan::default() });
            let mut reply = payload(&pattern, connection, sequence);
            prop_assert_eq!(reply.len(), size);
            prop_assert!(!text || reply.is_ascii());
            prop_assert_eq!(pattern.verify(connection, sequence, &reply), Ok(()));
            if size > 0 {
                let at = at % size;
                reply[at] ^= 0x80;
                prop_assert!(pattern.verify(connection, sequence, &reply).is_err());
            }
        }

        #[test]
        fn another_message_is_named(text: bool, connection in 0u32..1 << 24, sequence in 0u64..1 << 47) {
            let pattern = pattern(Plan { text, ..Plan::default() });
            let later = payload(&pattern, connection, sequence + 1);
            prop_assert_eq!(
                pattern.verify(connection, sequence, &later),
                Err(Mismatch::OutOfOrder { due: sequence, got: sequence + 1 })
            );
            let other = (connection + 1) & 0xff_ffff;
            let foreign = payload(&pattern, other, sequence);
            prop_assert_eq!(
                pattern.verify(connection, sequence, &foreign),
                Err(Mismatch::Misdelivered { connection: other })
            );
        }
    }

    #[test]
    fn a_changed_byte_is_located_and_a_wrong_length_told() {
        let pattern = pattern(Plan { size: 64.into(), ..Plan::default() });
        let mut reply = payload(&pattern, 3, 9);
        reply[40] ^= 1;
        assert_eq!(pattern.verify(3, 9, &reply), Err(Mismatch::Corrupt { at: 40 }));
        assert_eq!(pattern.verify(3, 9, &reply[..63]), Err(Mismatch::Length { sent: 64, got: 63 }));
    }

    #[test]
    fn what_is_to_be_compressed_shrinks_and_nothing_else_does() {
        use crate::ws::deflate::{DeflateConfig, Deflater};
        let mut deflater = Deflater::new(&DeflateConfig::default());
        let mut shrinks = |deflate| {
            let message = payload(&pattern(Plan { size: 1024.into(), deflate, ..Plan::default() }), 3, 9);
            deflater.compress_for_all(&message).is_some_and(|compressed| compressed.len() < 500)
        };
        assert!(shrinks(true) && !shrinks(false));
    }

    #[test]
    fn payloads_of_many_sizes_verify_and_others_of_the_connection_are_named() {
        let pattern = pattern(Plan { size: "exp:200".parse().unwrap(), ..Plan::default() });
        for sequence in 0..200 {
            let reply = payload(&pattern, 5, sequence);
            assert_eq!(pattern.verify(5, sequence, &reply), Ok(()));
            if reply.len() >= TAG_BYTES {
                let due = sequence + 1;
                assert_eq!(pattern.verify(5, due, &reply), Err(Mismatch::OutOfOrder { due, got: sequence }));
            }
        }
    }

    #[test]
    fn payloads_of_one_byte_differ_from_message_to_message() {
        let pattern = pattern(Plan { size: 1.into(), ..Plan::default() });
        assert_ne!(payload(&pattern, 0, 1), payload(&pattern, 0, 2));
    }
}
