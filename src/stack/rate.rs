//! A token bucket: so many a second and a few at once, and no more.

use crate::time::{Duration, Instant};

/// The bucket holds what comes in within this time, so a second sees at most a twentieth more than the rate.
const BURST: Duration = Duration::from_millis(50);

/// A limit on how often something is done.
///
/// It stores no tokens but when the next regular one falls due (the generic cell rate algorithm, ITU-T I.371): a
/// token may be taken up to [`BURST`] ahead of that time.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    /// Time between two tokens at the full rate; `None` for a rate of 0.
    interval: Option<Duration>,
    next: Instant,
}

impl TokenBucket {
    /// A full bucket for at most `per_second_max` tokens a second.
    pub(crate) fn new(per_second_max: u32, now: Instant) -> Self {
        let interval = (per_second_max > 0)
            .then(|| Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(per_second_max))));
        TokenBucket { interval, next: now }
    }

    /// Takes a token; `false` when there is none now.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval else { return false };
        let next = self.next.max(now);
        let ahead = next - now;
        // Even a bucket of less than one token gives one when it is due.
        if !ahead.is_zero() && ahead + interval > BURST {
            return false;
        }
        self.next = next + interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(bucket: &mut TokenBucket, now: Instant, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(bucket.take(now))).sum()
    }

    #[test]
    fn a_burst_is_a_twentieth_of_the_rate_and_then_tokens_come_regularly() {
        let start = Instant::from_millis(10_000);
        let mut bucket = TokenBucket::new(1_000, start);
        assert_eq!(taken(&mut bucket, start, 100), 50);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(7), 100), 7);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3_600), 100), 50);
    }

    #[test]
    fn a_low_rate_gives_one_at_a_time() {
        let start = Instant::from_millis(10_000);
        let mut bucket = TokenBucket::new(2, start);
        assert_eq!(taken(&mut bucket, start, 9), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(499), 9), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(500), 9), 1);
    }

    #[test]
    fn a_rate_of_zero_gives_nothing() {
        assert!(!TokenBucket::new(0, Instant::ZERO).take(Instant::from_millis(5_000)));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_extra() {
        let start = Instant::from_millis(10_000);
        let mut bucket = TokenBucket::new(1_000, start);
        assert_eq!(taken(&mut bucket, start, 100), 50);
        assert_eq!(taken(&mut bucket, Instant::ZERO, 100), 0);
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_the_rate_and_a_burst(
            rate in 1_u32..5_000,
            steps in prop::collection::vec(0_u64..20_000, 1..300),
        ) {
            let mut bucket = TokenBucket::new(rate, Instant::ZERO);
            let mut now = Instant::ZERO;
            let mut times = Vec::new();
            for micros in steps {
                now += Duration::from_micros(micros);
                for _ in 0..taken(&mut bucket, now, 300) {
                    times.push(now);
                }
            }
            let most = (rate + rate / 20 + 1) as usize;
            // A token and the one that comes `most` after it are a second apart.
            for pair in times.windows(most + 1) {
                prop_assert!(pair[most] - pair[0] >= Duration::from_secs(1), "rate {}", rate);
            }
        }
    }
}
