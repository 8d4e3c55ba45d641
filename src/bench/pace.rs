//! When messages are due: after a reply, or at a rate, whether replies come or not.

use super::crew::Bounds;
use super::plan::{Plan, Share};
use super::publication::Audience;
use crate::time::{Duration, Instant};

/// What decides when a message is due.
#[derive(Debug)]
pub(super) enum Pace {
    /// The reply to an earlier one.
    Closed,
    /// The time.
    Open(Schedule),
    /// That all subscribers have got an earlier one; with a schedule, the time as well.
    Broadcast(Audience, Option<Schedule>),
}

/// When each message of one generator thread is to be sent. The messages of all threads together are evenly spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Messages a second, over all threads.
    rate: f64,
    /// For so many seconds the rate rises evenly from nothing.
    ramp: f64,
    /// Connections that send, over all threads.
    senders: u64,
    /// The threads, and which of them this one is.
    workers: u64,
    worker: u64,
    /// This thread's connections that send.
    own: u64,
    /// The first of this thread's messages, from 0, that was not announced yet.
    next: u64,
}

impl Schedule {
    /// The schedule of `share`, in which `own` of all threads' `senders` connections send; `None` for a closed loop.
    pub fn new(plan: &Plan, share: Share, own: u32, senders: u32) -> Option<Schedule> {
        Some(Schedule {
            rate: plan.rate?,
            ramp: plan.ramp.as_secs_f64(),
            senders: u64::from(senders),
            workers: u64::from(plan.workers.clamp(1, plan.connections.max(1))),
            worker: u64::from(share.worker),
            own: u64::from(own),
            next: 0,
        })
    }

    /// When message `sequence` of this thread's sender `index` is due, from the beginning of the load.
    pub fn due(&self, index: u32, sequence: u64) -> Duration {
        let number = sequence * self.senders + u64::from(index) * self.workers + self.worker;
        self.time_of(number as f64)
    }

    /// The integral of the rate is the number of messages; this is its inverse.
    fn time_of(&self, number: f64) -> Duration {
        let in_ramp = self.rate * self.ramp / 2.0;
        let seconds = if number < in_ramp {
            (2.0 * number * self.ramp / self.rate).sqrt()
        } else {
            self.ramp + (number - in_ramp) / self.rate
        };
        Duration::from_secs_f64(seconds.min(1e9))
    }

    /// The sender whose message is the next one that is due, if it is at `now` in a load that began at `start`.
    pub fn take_due(&mut self, now: Instant, start: Instant) -> Option<u32> {
        if self.next_at(start) > now {
            return None;
        }
        let index = (self.next % self.own) as u32;
        self.next += 1;
        Some(index)
    }

    /// Of the messages of sender `index` from `sequence` on that were due while it was measured: how late each is at the end
    /// of that time. None without an end.
    pub fn unsent(&self, index: u32, sequence: u64, bounds: Bounds) -> impl Iterator<Item = Duration> {
        let Bounds { start, from, until } = bounds;
        (sequence..)
            .map(move |sequence| start + self.due(index, sequence))
            .take_while(move |due| *due < until && until < Instant::FAR_FUTURE)
            .filter(move |due| *due >= from)
            .map(move |due| until - due)
    }

    /// When the next message is due in a load that began at `start`.
    pub fn next_at(&self, start: Instant) -> Instant {
        if self.own == 0 || start == Instant::FAR_FUTURE {
            return Instant::FAR_FUTURE;
        }
        start + self.due((self.next % self.own) as u32, self.next / self.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Stop;

    fn schedules(connections: u32, workers: u32, ramp: Duration) -> Vec<Schedule> {
        let stop = Stop::After(Duration::from_secs(1));
        let plan = Plan { workers, ramp, rate: Some(1_000.0), ..Plan::small(connections, 1, stop) };
        let schedule = |share: Share| Schedule::new(&plan, share, share.connections, connections).unwrap();
        plan.shares().into_iter().map(schedule).collect()
    }

    fn times(schedules: &mut [Schedule], until: Instant) -> Vec<Instant> {
        let mut times = Vec::new();
        for schedule in schedules {
            loop {
                let at = schedule.next_at(Instant::ZERO);
                if schedule.take_due(until, Instant::ZERO).is_none() {
                    break;
                }
                times.push(at);
            }
        }
        times.sort();
        times
    }

    #[test]
    fn messages_of_all_threads_are_evenly_spaced() {
        let times = times(&mut schedules(6, 3, Duration::ZERO), Instant::from_millis(99));
        let even: Vec<_> = (0..100).map(Instant::from_millis).collect();
        assert_eq!(times, even);
    }

    #[test]
    fn each_sender_has_its_turn() {
        let mut schedule = schedules(3, 1, Duration::ZERO)[0];
        let turns: Vec<_> =
            std::iter::from_fn(|| schedule.take_due(Instant::from_millis(4), Instant::ZERO)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn the_rate_rises_from_nothing() {
        let times = times(&mut schedules(1, 1, Duration::from_secs(2)), Instant::from_millis(3_000));
        let before =
            |seconds: u64| times.iter().filter(|at| **at < Instant::from_millis(seconds * 1_000)).count();
        assert!(before(1).abs_diff(250) < 2 && before(2).abs_diff(1_000) < 2, "{} {}", before(1), before(2));
        assert!(before(3).abs_diff(2_000) < 2, "{}", before(3));
    }

    #[test]
    fn nothing_is_due_before_the_load_begins() {
        let mut schedule = schedules(1, 1, Duration::ZERO)[0];
        assert_eq!(schedule.take_due(Instant::from_millis(9_000), Instant::FAR_FUTURE), None);
    }
}
