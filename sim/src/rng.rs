//! Randomness from one seed: a tree with a stream for each purpose, so that leaving out one fault or one connection
//! does not change what the others do.

use std::time::Duration;

/// A SplitMix64 stream.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of one purpose. `index` tells apart what has the same purpose.
    pub(crate) fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut state = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
        for &byte in purpose.as_bytes() {
            state = mix(state ^ u64::from(byte));
        }
        Rng(mix(state ^ mix(index)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number under `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn size(&mut self, low: usize, high: usize) -> usize {
        self.range(low as u64, high as u64) as usize
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A length of time, to the microsecond.
    pub(crate) fn time(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_micros(self.range(low.as_micros() as u64, high.as_micros() as u64))
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_its_own_stream_and_keeps_it() {
        let first = |purpose, index| Rng::new(7, purpose, index).next();
        assert_eq!(first("fault", 1), first("fault", 1));
        assert_ne!(first("fault", 1), first("fault", 2));
        assert_ne!(first("fault", 1), first("client", 1));
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut rng = Rng::new(1, "test", 0);
        for _ in 0..10_000 {
            assert!((3..=9).contains(&rng.range(3, 9)));
        }
        let heads = (0..10_000).filter(|_| rng.chance(0.25)).count();
        assert!((2_200..2_800).contains(&heads), "{heads}");
    }
}
