//! What one generator thread counted: replies, round-trip times, errors by cause.

use super::series::Series;
use crate::time::{Duration, Instant};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::borrow::Cow;

/// Longest round-trip time that the histogram tells apart; longer ones are recorded as this.
const RTT_MAX: Duration = Duration::from_secs(100);
/// Significant decimal digits of a recorded round-trip time.
const RTT_DIGITS: u8 = 3;

/// Why something counts as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Cause {
    /// Nobody listens there.
    Refused,
    /// The connection could not be opened for another reason.
    Connect,
    /// TLS failed.
    Tls,
    /// The answer to the upgrade request was not the 101 that RFC 6455 section 4.1 asks for.
    Upgrade,
    /// The peer closed the connection before we did.
    Closed,
    /// The connection broke.
    Reset,
    /// The peer violated RFC 6455.
    Protocol,
    /// A reply has another length than its message.
    Length,
    /// A reply is text where its message was binary, or the reverse.
    Kind,
    /// A reply has other bytes than its message.
    Corrupt,
    /// A reply is another message of its connection: one was lost, repeated or overtaken.
    OutOfOrder,
    /// A reply is a message of another connection.
    Misdelivered,
    /// A message that answers nothing.
    Unsolicited,
    /// No reply, or no connection, within the time limit.
    Timeout,
}

impl Cause {
    /// All causes, in the order of their declaration.
    pub const ALL: [Cause; 14] = [
        Cause::Refused,
        Cause::Connect,
        Cause::Tls,
        Cause::Upgrade,
        Cause::Closed,
        Cause::Reset,
        Cause::Protocol,
        Cause::Length,
        Cause::Kind,
        Cause::Corrupt,
        Cause::OutOfOrder,
        Cause::Misdelivered,
        Cause::Unsolicited,
        Cause::Timeout,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Refused => "refused",
            Cause::Connect => "connect",
            Cause::Tls => "tls",
            Cause::Upgrade => "upgrade",
            Cause::Closed => "closed",
            Cause::Reset => "reset",
            Cause::Protocol => "protocol",
            Cause::Length => "length",
            Cause::Kind => "kind",
            Cause::Corrupt => "corrupt",
            Cause::OutOfOrder => "out_of_order",
            Cause::Misdelivered => "misdelivered",
            Cause::Unsolicited => "unsolicited",
            Cause::Timeout => "timeout",
        }
    }
}

/// What happened how often, and one example of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// How often.
    pub count: u64,
    /// The first one, in words.
    pub first: Cow<'static, str>,
}

/// The counts of one thread, and the sum of several.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Replies within the measured time, each verified.
    pub messages: u64,
    /// Messages that were published within the measured time; in a broadcast.
    pub published: u64,
    /// Payload bytes of right replies within the measured time.
    pub payload_bytes: u64,
    /// Messages of an open loop that were due within the measured time and not sent; their latency is what it was at the end
    /// of that time, at least.
    pub unsent: u64,
    /// Messages that will have no reply: their connections failed.
    pub lost: u64,
    /// Round-trip times of the measured replies, nanoseconds.
    pub rtt: Histogram<u64>,
    /// How they went over time, where that is asked for.
    pub series: Option<Series>,
    /// Errors over the whole run, indexed by [`Cause`].
    errors: [ErrorCount; Cause::ALL.len()],
    /// When the last measured reply came.
    pub last_reply_at: Instant,
    /// When the thread last looked at its connections.
    pub ended_at: Instant,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            messages: 0,
            published: 0,
            payload_bytes: 0,
            unsent: 0,
            lost: 0,
            rtt: Histogram::new_with_bounds(1, RTT_MAX.as_nanos() as u64, RTT_DIGITS)
                .expect("constant bounds that hdrhistogram accepts"),
            series: None,
            errors: Default::default(),
            last_reply_at: Instant::ZERO,
            ended_at: Instant::ZERO,
        }
    }
}

impl Tally {
    /// Nothing is counted yet; `series` is where it is recorded over time, if it is to be.
    pub fn new(series: Option<Series>) -> Self {
        Tally { series, ..Tally::default() }
    }

    /// Counts a reply that came at `now`, `rtt` after its message went.
    pub fn reply(&mut self, now: Instant, rtt: Duration) {
        self.messages += 1;
        self.rtt.saturating_record(u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX));
        self.last_reply_at = now;
    }

    /// Counts a message of an open loop that was not sent in time, `late` by then.
    pub fn unsent(&mut self, late: Duration) {
        self.unsent += 1;
        self.rtt.saturating_record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts an error; `describe` is called for the first one of its cause only.
    #[cold]
    pub fn error(&mut self, cause: Cause, describe: impl FnOnce() -> Cow<'static, str>) {
        let error = &mut self.errors[cause as usize];
        if error.count == 0 {
            error.first = describe();
        }
        error.count += 1;
    }

    /// Errors of all causes.
    pub fn errors(&self) -> u64 {
        self.errors.iter().map(|error| error.count).sum()
    }

    /// The causes that occurred.
    pub fn errors_by_cause(&self) -> impl Iterator<Item = (Cause, &ErrorCount)> {
        Cause::ALL.into_iter().zip(&self.errors).filter(|(_, error)| error.count > 0)
    }

    /// Adds the counts of another thread.
    pub fn merge(&mut self, other: &Tally) {
        self.messages += other.messages;
        self.published += other.published;
        self.payload_bytes += other.payload_bytes;
        self.unsent += other.unsent;
        self.lost += other.lost;
        match (&mut self.series, &other.series) {
            (Some(mine), Some(theirs)) => mine.merge(theirs.clone()),
            (mine @ None, theirs) => *mine = theirs.clone(),
            (Some(_), None) => {}
        }
        self.rtt.add(&other.rtt).expect("all tallies have the same bounds");
        for (mine, theirs) in self.errors.iter_mut().zip(&other.errors) {
            if mine.count == 0 {
                mine.first = theirs.first.clone();
            }
            mine.count += theirs.count;
        }
        self.last_reply_at = self.last_reply_at.max(other.last_reply_at);
        self.ended_at = self.ended_at.max(other.ended_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_stands_at_its_index() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
        }
    }

    #[test]
    fn a_merge_adds_counts_and_keeps_the_first_example() {
        let mut a = Tally::default();
        let mut b = Tally::default();
        a.reply(Instant::from_micros(5), Duration::from_micros(2));
        b.reply(Instant::from_micros(9), Duration::from_micros(4));
        b.error(Cause::Reset, || "one".into());
        b.error(Cause::Reset, || "two".into());
        a.merge(&b);
        assert_eq!((a.messages, a.errors(), a.rtt.len()), (2, 2, 2));
        assert_eq!(a.last_reply_at, Instant::from_micros(9));
        let errors: Vec<_> = a.errors_by_cause().collect();
        assert_eq!(errors, [(Cause::Reset, &ErrorCount { count: 2, first: "one".into() })]);
    }

    #[test]
    fn a_round_trip_over_the_histogram_is_kept_at_its_end() {
        let mut tally = Tally::default();
        tally.reply(Instant::ZERO, Duration::from_secs(1_000));
        assert!(tally.rtt.max() >= RTT_MAX.as_nanos() as u64);
    }
}
