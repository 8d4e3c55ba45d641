//! Throughput and latency as they went over the measured time.

use crate::time::{Duration, Instant};
use hdrhistogram::Histogram;

/// How long a part is at first.
const PART: Duration = Duration::from_millis(10);
/// Most parts; then each two become one.
const PARTS_MAX: usize = 256;
/// Longest latency that is told apart, nanoseconds.
const LATENCY_MAX: u64 = 100_000_000_000;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 2;

/// The measured time in equal parts, and what each came to.
#[derive(Clone, Debug)]
pub struct Series {
    part: Duration,
    parts: Vec<Histogram<u32>>,
}

impl Default for Series {
    fn default() -> Self {
        Series { part: PART, parts: Vec::new() }
    }
}

impl Series {
    /// How long each part is.
    pub fn part(&self) -> Duration {
        self.part
    }

    /// The latencies of each part's messages, nanoseconds.
    pub fn parts(&self) -> &[Histogram<u32>] {
        &self.parts
    }

    /// Records a message that was complete at `now`, with measuring since `from`.
    pub fn record(&mut self, from: Instant, now: Instant, latency: Duration) {
        let since = (now - from).as_nanos();
        while since / self.part.as_nanos() >= PARTS_MAX as u128 {
            self.coarsen();
        }
        let index = (since / self.part.as_nanos()) as usize;
        if index >= self.parts.len() {
            self.parts.resize(index + 1, empty());
        }
        self.parts[index].saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds what another thread recorded.
    pub fn merge(&mut self, mut other: Series) {
        while self.part < other.part {
            self.coarsen();
        }
        while other.part < self.part {
            other.coarsen();
        }
        if self.parts.len() < other.parts.len() {
            self.parts.resize(other.parts.len(), empty());
        }
        for (mine, theirs) in self.parts.iter_mut().zip(&other.parts) {
            mine.add(theirs).expect("all parts have the same bounds");
        }
    }

    /// Makes one part of each two.
    fn coarsen(&mut self) {
        let pairs = self.parts.chunks(2).map(|pair| {
            let mut sum = pair[0].clone();
            if let Some(second) = pair.get(1) {
                sum.add(second).expect("all parts have the same bounds");
            }
            sum
        });
        self.parts = pairs.collect();
        self.part *= 2;
    }
}

fn empty() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS).expect("constant bounds that hdrhistogram accepts")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(series: &Series) -> Vec<u64> {
        series.parts.iter().map(Histogram::len).collect()
    }

    fn recorded(millis: impl IntoIterator<Item = u64>) -> Series {
        let mut series = Series::default();
        let from = Instant::from_millis(1_000);
        for milli in millis {
            series.record(from, from + Duration::from_millis(milli), Duration::from_micros(milli + 1));
        }
        series
    }

    #[test]
    fn each_message_is_in_the_part_in_which_it_was_complete() {
        let series = recorded([0, 9, 10, 35]);
        assert_eq!((series.part(), counts(&series)), (PART, vec![2, 1, 0, 1]));
    }

    #[test]
    fn a_long_time_has_longer_parts_and_loses_nothing() {
        let series = recorded((0..60_000).step_by(10));
        assert!(series.parts().len() <= PARTS_MAX);
        assert_eq!(series.part(), PART * 32);
        assert_eq!(counts(&series).iter().sum::<u64>(), 6_000);
    }

    #[test]
    fn threads_add_up_whatever_their_parts_are() {
        let mut short = recorded([0, 20]);
        short.merge(recorded([0, 2_570]));
        assert_eq!(short.part(), PART * 2);
        assert_eq!((counts(&short)[0], counts(&short)[1], counts(&short)[128]), (2, 1, 1));
    }
}
