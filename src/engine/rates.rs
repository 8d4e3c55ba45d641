//! How fast one connection may send: bytes, messages and control frames a second, and for how long it may live.
//!
//! A token bucket of one second's worth each, kept as the generic cell rate algorithm keeps it: one instant. Time is the
//! burst's; no clock is read for a frame. A server polices its clients; a client takes what its server sends.

use super::config::{RateLimits, RatePolicy};
use super::local::Local;
use crate::time::{Duration, Instant};
use crate::ws::Role;
use std::net::SocketAddr;

/// How much may come at once: what the rate allows in this time.
const WINDOW: Duration = Duration::from_secs(1);

/// A bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// When nothing of what was taken counts any more. The bucket is overdrawn while this is over [`WINDOW`] ahead.
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Bucket { full_at: now }
    }

    /// Takes `amount` at a rate of `per_second`, be it there or not; 0 for any rate.
    fn take(&mut self, now: Instant, amount: u64, per_second: u64) {
        if per_second > 0 {
            let nanos = u128::from(amount) * 1_000_000_000 / u128::from(per_second);
            let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.full_at = self.full_at.max(now) + cost;
        }
    }

    /// Whether more was taken than was there.
    fn is_overdrawn(self, now: Instant) -> bool {
        self.full_at > now + WINDOW
    }

    /// When it will no longer be overdrawn.
    fn even_at(self) -> Instant {
        Instant::ZERO + self.full_at.saturating_since(Instant::ZERO + WINDOW)
    }
}

/// What few sessions have, kept apart so that the others stay small.
#[derive(Debug)]
pub(super) struct Terms {
    bytes: Bucket,
    messages: Bucket,
    /// The client's address, when a proxy told it.
    peer: Option<SocketAddr>,
    /// When the connection is closed whatever it does; far future for never.
    expires_at: Instant,
}

impl Terms {
    /// Terms without an end.
    pub(super) fn new(now: Instant, peer: Option<SocketAddr>) -> Self {
        Terms { bytes: Bucket::new(now), messages: Bucket::new(now), peer, expires_at: Instant::FAR_FUTURE }
    }

    fn is_overdrawn(&self, now: Instant) -> bool {
        self.bytes.is_overdrawn(now) || self.messages.is_overdrawn(now)
    }
}

/// What is to be done with what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is within the rate, or it will be waited for the next.
    Deliver,
    /// It is over the rate: dropped and counted.
    Drop,
    /// It is over the rate: the connection closes with 1008.
    Close,
}

impl RateLimits {
    /// Whether messages and bytes are counted at all.
    pub(super) fn counts_messages(&self) -> bool {
        self.bytes_per_second > 0 || self.messages_per_second > 0
    }
}

impl<S> Local<S> {
    /// The opening handshake is done: from here on a client is under the limits.
    pub(super) fn begin_terms(&mut self, index: u32) {
        let (now, counts, lifetime) =
            (self.now, self.limits.rates.counts_messages(), self.deadlines.lifetime);
        let Some(session) = self.at(index).filter(|session| session.role == Role::Server) else { return };
        session.control = Bucket::new(now);
        if counts || lifetime.is_some() {
            let terms = session.terms.get_or_insert_with(|| Box::new(Terms::new(now, None)));
            terms.expires_at = lifetime.map_or(Instant::FAR_FUTURE, |lifetime| now + lifetime);
        }
    }

    /// When a connection is closed whatever it does; far future for never.
    pub(super) fn expires_at(&self, index: u32) -> Instant {
        let session = self.sessions.get(index as usize).and_then(Option::as_ref);
        let terms = session.and_then(|session| session.terms.as_ref());
        terms.map_or(Instant::FAR_FUTURE, |terms| terms.expires_at)
    }

    /// What the rates say of a whole message of `bytes` payload bytes.
    pub(super) fn police_message(&mut self, index: u32, bytes: usize) -> Verdict {
        let (now, rates) = (self.now, self.limits.rates);
        let Some(session) = self.at(index) else { return Verdict::Drop };
        let Some(terms) = &mut session.terms else { return Verdict::Deliver };
        match rates.policy {
            RatePolicy::Drop if terms.is_overdrawn(now) => {
                self.stats.dropped_rate += 1;
                Verdict::Drop
            }
            // What is dropped takes nothing, or a peer that is always over would never be heard.
            RatePolicy::Drop => {
                terms.messages.take(now, 1, rates.messages_per_second);
                terms.bytes.take(now, bytes as u64, rates.bytes_per_second);
                Verdict::Deliver
            }
            RatePolicy::Delay => {
                terms.messages.take(now, 1, rates.messages_per_second);
                session.paused |= terms.is_overdrawn(now);
                Verdict::Deliver
            }
            RatePolicy::Close => {
                terms.messages.take(now, 1, rates.messages_per_second);
                if terms.is_overdrawn(now) { Verdict::Close } else { Verdict::Deliver }
            }
        }
    }

    /// Counts bytes that were read; whether the connection may go on.
    pub(super) fn police_bytes(&mut self, index: u32, bytes: usize) -> Verdict {
        let (now, rates) = (self.now, self.limits.rates);
        let Some(session) = self.at(index) else { return Verdict::Deliver };
        let Some(terms) = &mut session.terms else { return Verdict::Deliver };
        // Under `Drop` messages are counted when they are whole: what was begun has to be read to its end.
        if rates.policy == RatePolicy::Drop {
            return Verdict::Deliver;
        }
        terms.bytes.take(now, bytes as u64, rates.bytes_per_second);
        match (terms.bytes.is_overdrawn(now), rates.policy) {
            (true, RatePolicy::Close) => Verdict::Close,
            (overdrawn, _) => {
                session.paused |= overdrawn;
                Verdict::Deliver
            }
        }
    }

    /// Counts a ping or a pong; a flood of them closes the connection.
    pub(super) fn police_control(&mut self, index: u32) -> Verdict {
        let (now, per_second) = (self.now, self.limits.rates.control_frames_per_second);
        let Some(session) = self.at(index) else { return Verdict::Drop };
        if session.role == Role::Client {
            return Verdict::Deliver;
        }
        session.control.take(now, 1, per_second);
        if session.control.is_overdrawn(now) { Verdict::Close } else { Verdict::Deliver }
    }

    /// When a connection that is paused will be read again.
    pub(super) fn resumes_at(&self, index: u32) -> Option<Instant> {
        let session = self.sessions.get(index as usize)?.as_ref().filter(|session| session.paused)?;
        let terms = session.terms.as_ref()?;
        Some(terms.bytes.even_at().max(terms.messages.even_at()))
    }

    /// Lets a connection that was paused be read again, once it may. Not to have been read is not to have been silent.
    pub(super) fn resume(&mut self, index: u32) {
        let Some(at) = self.resumes_at(index) else { return };
        let now = self.now;
        if let Some(session) = self.at(index) {
            session.received_at = now;
            session.paused = at > now;
        }
    }

    /// The address that a proxy told of this connection's client.
    pub(super) fn told_peer(&self, index: u32) -> Option<SocketAddr> {
        self.sessions.get(index as usize)?.as_ref()?.terms.as_ref()?.peer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_second_s_worth_may_come_at_once_and_the_rest_at_the_rate() {
        let now = Instant::from_millis(5_000);
        let mut bucket = Bucket::new(now);
        for _ in 0..10 {
            bucket.take(now, 1, 10);
            assert!(!bucket.is_overdrawn(now));
        }
        bucket.take(now, 1, 10);
        assert!(bucket.is_overdrawn(now));
        assert_eq!(bucket.even_at(), now + Duration::from_millis(100));
        assert!(!bucket.is_overdrawn(now + Duration::from_millis(100)));
    }

    #[test]
    fn a_rate_of_zero_counts_nothing_and_no_amount_overflows() {
        let now = Instant::from_millis(1);
        let mut bucket = Bucket::new(now);
        bucket.take(now, u64::MAX, 0);
        assert!(!bucket.is_overdrawn(now));
        for _ in 0..3 {
            bucket.take(now, u64::MAX, 1);
        }
        assert!(bucket.is_overdrawn(now));
    }

    proptest! {
        /// Whoever keeps to the verdict never gets more than the rate and one window's worth through.
        #[test]
        fn over_any_time_no_more_passes_than_the_rate(
            per_second in 1_u64..10_000,
            steps in prop::collection::vec((0_u64..500, 1_u64..100), 1..200),
        ) {
            let start = Instant::from_millis(10_000);
            let (mut now, mut bucket, mut passed, mut largest) = (start, Bucket::new(start), 0, 0);
            for (millis, amount) in steps {
                now += Duration::from_millis(millis);
                if !bucket.is_overdrawn(now) {
                    bucket.take(now, amount, per_second);
                    passed += amount;
                    largest = largest.max(amount);
                }
                let allowed = per_second as f64 * ((now - start).as_secs_f64() + 1.0) + largest as f64 + 1.0;
                prop_assert!(passed as f64 <= allowed, "{passed} of {allowed}");
            }
        }
    }
}
