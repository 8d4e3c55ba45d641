//! What a load consists of, whatever carries it.

use super::crew::Bounds;
use super::sizes::Sizes;
use crate::time::{Duration, Instant};

/// A load over `connections` connections at a time: a closed loop, or with a `rate` an open one.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is done over and over.
    pub scenario: Scenario,
    /// Connections in all, with [`Scenario::Broadcast`] the publisher's, too; at least 1, there 2.
    pub connections: u32,
    /// Messages on their way per connection; at least 1.
    pub in_flight: u32,
    /// An open loop: messages a second over all connections, sent whether replies come or not, and timed from the moment at
    /// which they were due. `None` for a closed loop, in which a reply is followed by the next message.
    pub rate: Option<f64>,
    /// How long the opening of the connections is drawn out, and then the rise of the `rate`.
    pub ramp: Duration,
    /// Payload of the messages, bytes.
    pub size: Sizes,
    /// Text messages instead of binary ones.
    pub text: bool,
    /// Offer permessage-deflate (RFC 7692), and send what compresses about as well as JSON does.
    pub deflate: bool,
    /// When to stop.
    pub stop: Stop,
    /// How long to run after the last connection has opened before anything is measured.
    pub warmup: Duration,
    /// How long a reply, or the opening of a connection, may take.
    pub timeout: Duration,
    /// Generator threads, the connections divided between them; at least 1.
    pub workers: u32,
    /// Cores to pin the generator threads to, in turn; empty for none.
    pub cores: Vec<usize>,
    /// Seed of the payloads.
    pub seed: u64,
    /// Record how throughput and latency went over time.
    pub series: bool,
}

impl Default for Plan {
    /// One connection that echoes 20 bytes for five seconds.
    fn default() -> Self {
        Plan {
            scenario: Scenario::Echo,
            connections: 1,
            in_flight: 1,
            rate: None,
            ramp: Duration::ZERO,
            size: Sizes::Fixed(20),
            text: false,
            deflate: false,
            stop: Stop::After(Duration::from_secs(5)),
            warmup: Duration::ZERO,
            timeout: Duration::from_secs(10),
            workers: 1,
            cores: Vec::new(),
            seed: 1,
            series: false,
        }
    }
}

/// What a load does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Each connection has `in_flight` messages on their way.
    Echo,
    /// The same, of messages so long that bytes are what counts.
    Stream,
    /// The first connection publishes, all others get what it published; deliveries are what counts and what is timed. Each
    /// message that is on its way is delivered to all before another takes its place.
    Broadcast,
    /// Connections are held and their memory is measured. At the end each proves with one message that it is still there.
    Idle {
        /// One of so many connections echoes meanwhile as in [`Scenario::Echo`]; 0 for none.
        active: u32,
        /// The server's process, for its memory.
        server: Option<u32>,
    },
    /// Each connection is opened, used for so many messages one after the other, closed, and opened again. Openings are what
    /// counts and what is timed; `in_flight` is 1.
    Connect {
        /// Messages of `size` bytes in the life of a connection.
        echoes: u32,
    },
}

impl Scenario {
    /// Its name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Scenario::Echo => "echo",
            Scenario::Stream => "stream",
            Scenario::Broadcast => "broadcast",
            Scenario::Idle { .. } => "idle",
            Scenario::Connect { .. } => "connect",
        }
    }
}

/// When a load ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// When it has been measured for this long.
    After(Duration),
    /// When this many measured messages, over all connections, have been sent, or this many connections opened.
    Messages(u64),
}

/// One generator thread's part of a [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The thread, from 0.
    pub worker: u32,
    /// Its first connection.
    pub first: u32,
    /// How many connections are its own.
    pub connections: u32,
    /// How many measured messages it sends; `u64::MAX` when time, or another thread, decides.
    pub messages: u64,
}

impl Plan {
    /// When measuring begins and, by time, ends, for a load that starts at `start`.
    pub fn bounds(&self, start: Instant) -> Bounds {
        // At the full rate, once it has risen.
        let rise = if self.rate.is_some() { self.ramp } else { Duration::ZERO };
        let from = start + rise + self.warmup;
        let until = match self.stop {
            // Who looks at the memory ends it, when that is done.
            Stop::After(_) if matches!(self.scenario, Scenario::Idle { .. }) => Instant::FAR_FUTURE,
            Stop::After(duration) => from + duration,
            Stop::Messages(_) => Instant::FAR_FUTURE,
        };
        Bounds { start, from, until }
    }

    /// The plan divided between its workers, as evenly as it goes. There are never more shares than connections.
    pub fn shares(&self) -> Vec<Share> {
        let workers = self.workers.clamp(1, self.connections.max(1));
        let messages = match self.stop {
            Stop::After(_) => None,
            Stop::Messages(messages) => Some(messages),
        };
        let mut first = 0;
        (0..workers)
            .map(|worker| {
                let connections = part(u64::from(self.connections), workers, worker) as u32;
                let messages = messages.map_or(u64::MAX, |messages| match (self.scenario, worker) {
                    (Scenario::Broadcast, 0) => messages,
                    (Scenario::Broadcast, _) => u64::MAX,
                    _ => part(messages, workers, worker),
                });
                let share = Share { worker, first, connections, messages };
                first += connections;
                share
            })
            .collect()
    }
}

/// Part `index` of `whole` cut into `parts`; the first ones get the remainder.
fn part(whole: u64, parts: u32, index: u32) -> u64 {
    whole / u64::from(parts) + u64::from(u64::from(index) < whole % u64::from(parts))
}

#[cfg(test)]
impl Plan {
    /// A plan for tests: one worker, messages of 20 bytes, no warm-up, a second's time limit.
    pub(crate) fn small(connections: u32, in_flight: u32, stop: Stop) -> Plan {
        Plan { connections, in_flight, stop, timeout: Duration::from_secs(1), ..Plan::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_connection_and_message_once() {
        let shares = Plan { workers: 3, ..Plan::small(10, 1, Stop::Messages(1_000)) }.shares();
        let spans: Vec<_> = shares.iter().map(|share| (share.first, share.connections)).collect();
        assert_eq!(spans, [(0, 4), (4, 3), (7, 3)]);
        assert_eq!(shares.iter().map(|share| share.messages).sum::<u64>(), 1_000);
    }

    #[test]
    fn no_worker_is_without_a_connection() {
        let shares = Plan { workers: 8, ..Plan::small(2, 1, Stop::After(Duration::from_secs(1))) }.shares();
        assert_eq!(shares.len(), 2);
        assert!(shares.iter().all(|share| share.connections == 1 && share.messages == u64::MAX));
    }
}
