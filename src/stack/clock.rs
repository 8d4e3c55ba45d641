//! The stack clock: smoltcp's time runs faster than ours, so that its 1 s floor of the retransmission timeout
//! becomes `tcp.min_rto`.
//!
//! smoltcp's floor (`RTTE_MIN_RTO`, RFC 6298 section 2.4) is a constant of 1,000 ms; all its timers are driven by
//! the instant we pass. One real millisecond is `1000 / min_rto_ms` stack milliseconds. Every duration that goes
//! into smoltcp is converted here and nowhere else.

use crate::time::{Duration, Instant};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};

/// smoltcp's floor of the retransmission timeout, milliseconds.
const SMOLTCP_MIN_RTO_MS: u64 = 1_000;

/// Converts between real and stack time.
#[derive(Clone, Copy, Debug)]
pub(super) struct StackClock {
    /// The wanted floor, whole milliseconds: also the real nanoseconds in one stack microsecond, as the floor of
    /// 1,000 ms = 10^6 stack microseconds lasts `min_rto_ms` * 10^6 real nanoseconds.
    min_rto_ms: u64,
}

impl StackClock {
    /// A clock whose retransmission floor is `min_rto`, which is clamped to 4..=1000 ms and rounded down to whole
    /// milliseconds. (Below 4 ms the delayed acknowledgements and timer ticks of ordinary peers would set it off.)
    pub(super) fn new(min_rto: Duration) -> Self {
        let millis = u64::try_from(min_rto.as_millis()).unwrap_or(u64::MAX);
        StackClock { min_rto_ms: millis.clamp(4, SMOLTCP_MIN_RTO_MS) }
    }

    /// The floor in force, real time.
    pub(super) fn min_rto(self) -> Duration {
        Duration::from_millis(self.min_rto_ms)
    }

    /// Stack time at a real instant, rounded down: never ahead of it.
    pub(super) fn to_stack(self, at: Instant) -> StackInstant {
        StackInstant::from_micros(i64::try_from(at.as_nanos() / self.min_rto_ms).unwrap_or(i64::MAX))
    }

    /// The first real instant at which [`StackClock::to_stack`] gives `at` or later.
    pub(super) fn to_real(self, at: StackInstant) -> Instant {
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        Instant::from_nanos(micros.saturating_mul(self.min_rto_ms))
    }

    /// How much stack time passes in a real duration.
    pub(super) fn stretch(self, duration: Duration) -> StackDuration {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        StackDuration::from_micros(nanos / self.min_rto_ms)
    }

    /// How much real time passes in a duration of smoltcp's.
    pub(super) fn shrink(self, duration: StackDuration) -> Duration {
        Duration::from_nanos(duration.total_micros().saturating_mul(self.min_rto_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_lasts_min_rto() {
        for ms in [4, 20, 200, 1000] {
            let clock = StackClock::new(Duration::from_millis(ms));
            assert_eq!(
                clock.shrink(StackDuration::from_millis(SMOLTCP_MIN_RTO_MS)),
                Duration::from_millis(ms)
            );
            assert_eq!(
                clock.stretch(Duration::from_millis(ms)),
                StackDuration::from_millis(SMOLTCP_MIN_RTO_MS)
            );
        }
    }

    #[test]
    fn a_deadline_is_reached_at_its_real_instant_and_not_before() {
        let clock = StackClock::new(Duration::from_millis(200));
        for micros in [0, 1, 999, 123_456_789] {
            let stack = StackInstant::from_micros(micros);
            let real = clock.to_real(stack);
            assert!(clock.to_stack(real) >= stack);
            if real > Instant::ZERO {
                assert!(clock.to_stack(Instant::from_nanos(real.as_nanos() - 1)) < stack);
            }
        }
    }

    #[test]
    fn out_of_range_floors_are_clamped() {
        assert_eq!(StackClock::new(Duration::ZERO).min_rto_ms, 4);
        assert_eq!(StackClock::new(Duration::from_secs(5)).min_rto_ms, 1_000);
    }
}
