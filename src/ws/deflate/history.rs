//! What a connection with context takeover keeps of one direction.

use super::{WINDOW_BITS_MAX, WINDOW_BITS_MIN};

/// The last bytes of the messages that were compressed in one direction, uncompressed: what the next one may refer to
/// (RFC 7692 section 7.2.3.2). Memory grows with what went through, up to its bound.
#[derive(Debug)]
pub struct History {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl History {
    /// An empty history of at most 2^`window_bits` bytes. 8 bits count as 9, which is what zlib makes of them.
    pub fn new(window_bits: u8) -> Self {
        let bits = window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX);
        History { bytes: Vec::new(), bytes_max: 1 << bits }
    }

    /// What is remembered, the oldest byte first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Heap held, bytes.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Remembers a message.
    pub fn push(&mut self, message: &[u8]) {
        let kept = &message[message.len().saturating_sub(self.bytes_max)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.bytes_max);
        self.bytes.drain(..excess);
        let wanted = self.bytes.len() + kept.len();
        if wanted > self.bytes.capacity() {
            // Doubled, but not past the bound, as `Vec` would.
            let capacity = wanted.next_power_of_two().min(self.bytes_max);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_end_of_all_that_was_said(lengths in proptest::collection::vec(0..1500usize, 0..20)) {
            let mut history = History::new(9);
            let mut all = Vec::new();
            for (at, length) in lengths.into_iter().enumerate() {
                let message: Vec<u8> = (0..length).map(|i| (i * 7 + at) as u8).collect();
                all.extend_from_slice(&message);
                history.push(&message);
                prop_assert_eq!(history.bytes(), &all[all.len().saturating_sub(512)..]);
                prop_assert!(history.heap_bytes() <= 512);
            }
        }
    }
}
