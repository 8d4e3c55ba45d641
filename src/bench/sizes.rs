//! How long the messages of a load are: one size, a list of sizes, or a distribution.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Longest message, bytes.
pub const SIZE_MAX: usize = 64 << 20;
/// Sizes that a distribution is sampled at, a power of two.
const SAMPLES: usize = 4096;
/// A distribution without an end is cut at so many times its mean.
const CUT: usize = 16;

/// The payload bytes of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All the same.
    Fixed(usize),
    /// Each of these as often; not empty.
    List(Vec<usize>),
    /// All from the first to the second, each as often.
    Uniform(usize, usize),
    /// Exponentially distributed: many short ones, few long ones.
    Exponential {
        /// The mean before it is cut.
        mean: usize,
        /// What would be longer is as long as this.
        most: usize,
    },
}

impl Sizes {
    /// The longest one.
    pub fn most(&self) -> usize {
        match self {
            Sizes::Fixed(size) | Sizes::Uniform(_, size) | Sizes::Exponential { most: size, .. } => *size,
            Sizes::List(sizes) => sizes.iter().copied().max().unwrap_or_default(),
        }
    }

    /// A power of two of sizes, to be chosen from evenly: they are distributed as the messages are to be.
    pub(super) fn samples(&self, seed: u64) -> Vec<usize> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut fraction = move || f64::from(random.next_u32()) / (f64::from(u32::MAX) + 1.0);
        match self {
            Sizes::Fixed(size) => vec![*size],
            Sizes::List(sizes) => sizes.iter().copied().cycle().take(SAMPLES).collect(),
            Sizes::Uniform(least, most) => {
                let span = (most - least + 1) as f64;
                (0..SAMPLES).map(|_| least + (fraction() * span) as usize).collect()
            }
            Sizes::Exponential { mean, most } => {
                // The inverse of its distribution function at evenly distributed places.
                let size = |fraction: f64| (-(1.0 - fraction).ln() * *mean as f64).round() as usize;
                (0..SAMPLES).map(|_| size(fraction()).min(*most)).collect()
            }
        }
    }
}

impl From<usize> for Sizes {
    fn from(size: usize) -> Self {
        Sizes::Fixed(size)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(size) => write!(f, "{size}"),
            Sizes::List(sizes) => {
                let sizes: Vec<_> = sizes.iter().map(usize::to_string).collect();
                f.write_str(&sizes.join(","))
            }
            Sizes::Uniform(least, most) => write!(f, "uniform:{least}-{most}"),
            Sizes::Exponential { mean, most } => write!(f, "exp:{mean}-{most}"),
        }
    }
}

impl Serialize for Sizes {
    /// A number where all are the same, else the option's text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Sizes::Fixed(size) => serializer.serialize_u64(*size as u64),
            _ => serializer.collect_str(self),
        }
    }
}

/// Why a text is no [`Sizes`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?}: {why}; give bytes (20, 16KiB), a list (20,1024,16KiB), uniform:LEAST-MOST, or exp:MEAN or exp:MEAN-MOST"
)]
pub struct SizesError {
    text: String,
    why: &'static str,
}

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        let error = |why| SizesError { text: text.to_owned(), why };
        let pair = |text: &str| {
            let (first, second) = text.split_once('-').ok_or("two sizes with `-` between them are needed")?;
            let (first, second) = (bytes(first)?, bytes(second)?);
            if first <= second { Ok((first, second)) } else { Err("the second size is less than the first") }
        };
        let sizes = match text.split_once(':') {
            Some(("uniform", range)) => pair(range).map(|(least, most)| Sizes::Uniform(least, most)),
            Some(("exp", range)) if range.contains('-') => {
                pair(range).map(|(mean, most)| Sizes::Exponential { mean, most })
            }
            Some(("exp", mean)) => {
                bytes(mean).map(|mean| Sizes::Exponential { mean, most: (CUT * mean).min(SIZE_MAX) })
            }
            Some(_) => Err("there is no such distribution"),
            None if text.contains(',') => {
                let sizes: Result<Vec<_>, _> = text.split(',').map(bytes).collect();
                sizes.and_then(|sizes| match sizes.len() <= SAMPLES {
                    true => Ok(Sizes::List(sizes)),
                    false => Err("a list may have 4096 sizes"),
                })
            }
            None => bytes(text).map(Sizes::Fixed),
        };
        sizes.map_err(error)
    }
}

/// A number of bytes, with KiB or MiB behind it or not.
fn bytes(text: &str) -> Result<usize, &'static str> {
    let (digits, unit) = match text.strip_suffix("KiB") {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix("MiB").map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let number: usize = digits.trim_end().parse().map_err(|_| "that is no number of bytes")?;
    number.checked_mul(unit).filter(|bytes| *bytes <= SIZE_MAX).ok_or("a message may have 64 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, sizes) in [
            ("20", Sizes::Fixed(20)),
            ("16KiB", Sizes::Fixed(16 << 10)),
            ("20,1024,16KiB", Sizes::List(vec![20, 1024, 16 << 10])),
            ("uniform:1-4096", Sizes::Uniform(1, 4096)),
            ("exp:512", Sizes::Exponential { mean: 512, most: 8192 }),
            ("exp:1KiB-1MiB", Sizes::Exponential { mean: 1024, most: 1 << 20 }),
        ] {
            assert_eq!(text.parse::<Sizes>().as_ref(), Ok(&sizes), "{text}");
            assert_eq!(sizes.to_string().parse(), Ok(sizes));
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_cause() {
        for (text, why) in [
            ("", "no number"),
            ("20B", "no number"),
            ("20,", "no number"),
            ("65MiB", "64 MiB"),
            ("18446744073709551615KiB", "64 MiB"),
            ("uniform:5", "two sizes"),
            ("uniform:5-4", "less than"),
            ("normal:5", "no such distribution"),
        ] {
            let error = text.parse::<Sizes>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("uniform:LEAST-MOST"), "{text}: {error}");
        }
    }

    #[test]
    fn samples_are_distributed_as_was_asked_and_repeat_with_their_seed() {
        let list = Sizes::List(vec![1, 2, 3]);
        assert_eq!(list.samples(1).iter().filter(|size| **size == 2).count(), 1365);
        let uniform = Sizes::Uniform(10, 19);
        let samples = uniform.samples(1);
        assert_eq!(samples, uniform.samples(1));
        assert_ne!(samples, uniform.samples(2));
        assert!((10..20).all(|size| samples.iter().filter(|sample| **sample == size).count() > 300));
        let samples = "exp:1000".parse::<Sizes>().unwrap().samples(1);
        let mean = samples.iter().sum::<usize>() / samples.len();
        assert!((900..1100).contains(&mean), "{mean}");
        assert!(samples.iter().all(|size| *size <= 16_000));
    }
}
