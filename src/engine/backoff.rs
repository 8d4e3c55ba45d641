//! How long to wait before a connection that was lost, or did not come to be, is opened again.

use crate::time::Duration;

/// Exponential back-off with jitter: each wait is up to twice as long as the one before, and random within its upper half,
/// so that many clients that lost the same server do not come back at the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait, at most.
    first: Duration,
    /// The longest wait.
    max: Duration,
    /// Attempts in a row that may fail before it is given up; `None` for no end.
    attempts_max: Option<u32>,
    failed: u32,
}

impl Default for Backoff {
    /// From half a second to half a minute, without end.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(500), Duration::from_secs(30), None)
    }
}

impl Backoff {
    /// From `first` to `max`, for so many attempts in a row.
    pub fn new(first: Duration, max: Duration, attempts_max: Option<u32>) -> Self {
        Backoff { first, max, attempts_max, failed: 0 }
    }

    /// The wait before the next attempt; `None` when it is to be given up. `random` is any number.
    pub fn next(&mut self, random: u32) -> Option<Duration> {
        if self.attempts_max.is_some_and(|max| self.failed >= max) {
            return None;
        }
        let factor = 1u32.checked_shl(self.failed).unwrap_or(u32::MAX);
        let wait = self.first.saturating_mul(factor).min(self.max);
        self.failed = self.failed.saturating_add(1);
        let half = wait / 2;
        Some(half + half.mul_f64(f64::from(random) / f64::from(u32::MAX)))
    }

    /// It worked: the next failure begins anew.
    pub fn reset(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let most: Vec<_> = (0..9).map(|_| backoff.next(u32::MAX).unwrap().as_millis()).collect();
        assert_eq!(most, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.next(0).unwrap().as_millis(), 250);
    }

    #[test]
    fn it_is_given_up_after_so_many_attempts() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1), Some(2));
        assert!(backoff.next(1).is_some() && backoff.next(1).is_some());
        assert_eq!(backoff.next(1), None);
        backoff.reset();
        assert!(backoff.next(1).is_some());
    }

    #[test]
    fn a_thousand_failures_overflow_nothing() {
        let mut backoff = Backoff::default();
        for _ in 0..1_000 {
            assert!(backoff.next(7).unwrap() <= backoff.max);
        }
    }
}
